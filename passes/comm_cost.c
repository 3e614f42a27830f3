/* comm_cost.c: what collectives cost. */
#include "passes/passes.h"
