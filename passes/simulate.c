/* simulate.c: a discrete-event run of steps. */
#include "passes/simulate.h"
