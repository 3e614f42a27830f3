/* comm_self.c: one rank that talks to itself. Every collective is a copy; a receive gets what the
 * sends before it left, in order. The file to copy for a new communicator. */
#include "runtime/comm.h"

#include <stdlib.h>
#include <string.h>

typedef struct Message {
    struct Message *next;
    size_t bytes;
    char data[];
} Message;

typedef struct {
    Comm base;
    Message *first, **last; /* sent and not yet received */
} Self;

Comm *comm_self_open(void) {
    Self *c = xcalloc(1, sizeof *c);
    c->base = (Comm){.ops = &comm_self, .step = -1};
    c->last = &c->first;
    return &c->base;
}

static Status self_split(Comm *c, int color, int key, Comm **out) {
    (void)c, (void)color, (void)key;
    *out = comm_self_open();
    return NULL;
}

static int self_size(const Comm *c) {
    (void)c;
    return 1;
}

static int self_rank(const Comm *c) {
    (void)c;
    return 0;
}

static size_t bytes_of(int64_t n, Dtype d) { return (size_t)n * (size_t)dtype_size(d); }

static Status self_gather(Comm *c, const void *in, void *out, int64_t n, Dtype dtype) {
    (void)c;
    if (in != out) memmove(out, in, bytes_of(n, dtype));
    return NULL;
}

static Status self_reduce(Comm *c, const void *in, void *out, int64_t n, Dtype dtype, ReduceOp op) {
    (void)op; /* of one value: itself */
    return self_gather(c, in, out, n, dtype);
}

static Status self_broadcast(Comm *c, void *p, int64_t n, Dtype dtype, int root) {
    (void)c, (void)p, (void)n, (void)dtype;
    return root == 0 ? NULL : status_make(EXIT_SYSTEM, "broadcast from rank %d of 1", root);
}

static Status self_all_to_all_v(Comm *c, const void *in, const int64_t *nsend,
                                const int64_t *send_at, void *out, const int64_t *nrecv,
                                const int64_t *recv_at, Dtype dtype) {
    (void)c;
    if (nsend[0] != nrecv[0])
        return status_make(EXIT_SYSTEM, "all_to_all: sends %lld elements, expects %lld",
                           (long long)nsend[0], (long long)nrecv[0]);
    memmove((char *)out + bytes_of(recv_at[0], dtype),
            (const char *)in + bytes_of(send_at[0], dtype), bytes_of(nsend[0], dtype));
    return NULL;
}

static Status self_send(Comm *base, const void *p, int64_t n, Dtype dtype, int to) {
    Self *c = (Self *)base;
    if (to != 0) return status_make(EXIT_SYSTEM, "send to rank %d of 1", to);
    Message *m = xmalloc(sizeof *m + bytes_of(n, dtype));
    *m = (Message){.bytes = bytes_of(n, dtype)};
    memcpy(m->data, p, m->bytes);
    *c->last = m;
    c->last = &m->next;
    return NULL;
}

static Status self_recv(Comm *base, void *p, int64_t n, Dtype dtype, int from) {
    Self *c = (Self *)base;
    Message *m = c->first;
    if (from != 0) return status_make(EXIT_SYSTEM, "receive from rank %d of 1", from);
    if (!m || m->bytes != bytes_of(n, dtype))
        return status_make(EXIT_SYSTEM, "receive: %s", m ? "sizes differ" : "nothing was sent");
    memcpy(p, m->data, m->bytes);
    c->first = m->next;
    if (!c->first) c->last = &c->first;
    free(m);
    return NULL;
}

static Status self_barrier(Comm *c) {
    (void)c;
    return NULL;
}

static void self_close(Comm *base) {
    Self *c = (Self *)base;
    for (Message *m = c->first, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    free(c);
}

const CommOps comm_self = {
    .name = "self",
    .doc = "a single rank",
    .size = self_size,
    .rank = self_rank,
    .split = self_split,
    .all_reduce = self_reduce,
    .all_gather = self_gather,
    .reduce_scatter = self_reduce,
    .all_to_all = self_gather,
    .all_to_all_v = self_all_to_all_v,
    .send = self_send,
    .recv = self_recv,
    .broadcast = self_broadcast,
    .barrier = self_barrier,
    .close = self_close,
};
