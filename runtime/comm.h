/* comm.h: what ranks say to each other. One const table per communicator; comm_self.c is the one
 * for a single rank, where every collective is a copy.
 *
 * Counts are elements of `dtype`. Every rank calls the same collectives in the same order. A send
 * and its receive may be the same buffer only where said. Errors are the system's (status 3). */
#ifndef M6C_COMM_H
#define M6C_COMM_H

#include "ir/base.h"

typedef struct Comm Comm; /* its first member is `const CommOps *ops` */

typedef struct CommOps {
    const char *name;
    const char *doc;
    Status (*open)(Comm **out);
    int (*size)(const Comm *c);
    int (*rank)(const Comm *c);
    /* in == out is allowed. */
    Status (*all_reduce)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype, ReduceOp op);
    /* n elements from each rank; out holds size * n. */
    Status (*all_gather)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype);
    /* in holds size * n; rank r gets the reduced n elements from r * n. */
    Status (*reduce_scatter)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype,
                             ReduceOp op);
    /* nsend[r] elements at in + send_at[r] go to rank r; nrecv[r] from it land at out + recv_at[r].
     */
    Status (*all_to_all_v)(Comm *c, const void *in, const int64_t *nsend, const int64_t *send_at,
                           void *out, const int64_t *nrecv, const int64_t *recv_at, Dtype dtype);
    Status (*send)(Comm *c, const void *p, int64_t n, Dtype dtype, int to);
    Status (*recv)(Comm *c, void *p, int64_t n, Dtype dtype, int from);
    Status (*barrier)(Comm *c);
    void (*close)(Comm *c);
} CommOps;

struct Comm {
    const CommOps *ops;
};

extern const CommOps comm_self;

/* By name, or NULL. */
const CommOps *comm_find(const char *name);

#endif
