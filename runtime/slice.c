/* slice.c: which part of a tensor a rank has. */
#include "runtime/plan.h"
