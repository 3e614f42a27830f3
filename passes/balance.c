/* balance.c: shares of uneven devices. */
#include "passes/passes.h"
