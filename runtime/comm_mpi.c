/* comm_mpi.c: ranks that speak MPI. */
#include "runtime/comm.h"
