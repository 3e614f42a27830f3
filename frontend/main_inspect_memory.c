/* main_inspect_memory.c: the peak of a plan: when, by kind, whose; decisions and their price. */
#include "frontend/main.h"
