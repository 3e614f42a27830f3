/* comm_mpi.h: what comm.c alone calls of the communicator over MPI. */
#ifndef M6C_COMM_MPI_H
#define M6C_COMM_MPI_H

#include "runtime/comm.h"
#include "runtime/mpi_module.h"

/* Loads the module, starts MPI and connects the ranks. *out is NULL where there is no MPI to end.
 */
Status comm_mpi_open(double timeout, Comm **out);
int comm_mpi_finish(Comm *world, Status s, int (*tell)(Status));
void comm_mpi_position(Comm *world, CommPosition *say, const void *ctx);
void comm_mpi_break(Comm *world);
int comm_mpi_neighbours(const Comm *world, int *place);
Status comm_mpi_begin(Comm *c, Collective kind, int64_t n, Dtype dtype, ReduceOp op,
                      int64_t *number);
Status comm_mpi_over(const Comm *c);
double comm_mpi_patience(const Comm *c);
Status comm_mpi_late(const Comm *c, const char *what, int64_t number, int peer);

#endif
