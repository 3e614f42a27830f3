/* exec_comm.c: collectives of a plan. */
#include "runtime/exec_private.h"
