/* main_check.c: m6c check. */
#include "frontend/main.h"
