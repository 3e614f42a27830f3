/* main_checkpoint.c: m6c checkpoint: ls, diff, verify. */
#include "frontend/main.h"
