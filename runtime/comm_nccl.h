/* comm_nccl.h: a communicator of NCCL: the ranks of a group, each with its GPU, on one stream.
 *
 * NCCL neither notices every lost rank nor waits with a timeout. So its calls are told not to wait
 * (they return while a connection is still being made), and who waits in their place looks at the
 * ranks' other connections as comm_mpi.c does. */
#ifndef M6C_COMM_NCCL_H
#define M6C_COMM_NCCL_H

#include "runtime/comm.h"
#include "runtime/nccl_api.h"
#include "runtime/plan.h"

typedef struct Nccl Nccl;

/* All ranks of `group` call it; NCCL's name for the communicator travels over it. `group` and api
 * must stay. After a failure *out may be set: nccl_close ends it. */
Status nccl_open(const NcclApi *api, Comm *group, CudaStream stream, Nccl **out);
/* This rank's index in the group, of *ranks. */
int64_t nccl_rank(const Nccl *c, int64_t *ranks);
/* Asks for a collective of one message of n elements; *number counts those of the communicator. */
Status nccl_transfer(Nccl *c, const PlanCollective *p, const void *in, void *out, int64_t n,
                     int64_t *number);
/* What went wrong since, here or on another rank; NULL: nothing yet. */
Status nccl_check(const Nccl *c);
/* The collective `number` has not ended in the time that is usual: who has not come to it. */
Status nccl_late(const Nccl *c, const PlanCollective *p, int64_t number);
/* Ends what is under way at once, so that the stream goes on. */
void nccl_abort(Nccl *c);
void nccl_close(Nccl *c); /* nothing is under way, or it was aborted */

#endif
