/* pipeline.c: orders of pipelines. */
#include "passes/passes.h"
