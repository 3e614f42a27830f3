/* cost.c: what a piece of work costs. */
#include "passes/machine.h"
