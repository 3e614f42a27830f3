/* plan_comm.c: collectives as steps of a plan. */
#include "codegen/plan_make.h"
