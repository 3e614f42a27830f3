/* main_inspect_comm.c: m6c inspect --comm. */
#include "frontend/main.h"
