/* partition.c: buckets and stages. */
#include "passes/passes.h"
