/* topology.c: networks of machines. */
#include "passes/passes.h"
