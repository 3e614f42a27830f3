/* hdrm.c: halving-doubling with rank mapping on BiGraph. */
#include "passes/passes.h"
