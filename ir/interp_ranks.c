/* interp_ranks.c: a sharded graph on virtual ranks in one process. */
#include "ir/ir.h"
