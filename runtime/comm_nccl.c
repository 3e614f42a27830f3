/* comm_nccl.c: see comm_nccl.h. */
#include "runtime/comm_nccl.h"

#include <stdlib.h>
#include <time.h>

struct Nccl {
    const NcclApi *api;
    Comm *group;
    CudaStream stream;
    NcclComm comm; /* NULL: none, or aborted */
    int ranks;
};

/* ---- errors and waiting ---- */

static bool is_bad(int code) { return code && code != NCCL_IN_PROGRESS; }

static void pause_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

/* NCCL says so; when another rank has ended that is the reason, and is known a moment later. */
static Status failure(const Nccl *c, int code, const char *what) {
    Status over = NULL;
    for (int i = 0; i < 50 && !over; i++) {
        over = comm_over(c->group);
        if (!over) pause_ms(10);
    }
    if (over) return over;
    const char *more = c->comm ? c->api->ncclGetLastError(c->comm) : "";
    return status_make(EXIT_SYSTEM, "NCCL: %s: %s%s%s", what, c->api->ncclGetErrorString(code),
                       more && *more ? ": " : "", more ? more : "");
}

/* Until NCCL has begun what it was asked for. code: what the call returned. */
static Status settle(const Nccl *c, int code, const char *what, int64_t number, int peer) {
    double end = now_seconds() + comm_patience(c->group);
    if (code == 0 || code == NCCL_IN_PROGRESS) {
        int asked = c->api->ncclCommGetAsyncError(c->comm, &code);
        for (; !asked && code == NCCL_IN_PROGRESS; pause_ms(1)) {
            TRY(comm_over(c->group));
            if (now_seconds() > end) return comm_late(c->group, what, number, peer);
            asked = c->api->ncclCommGetAsyncError(c->comm, &code);
        }
        if (asked) code = asked;
    }
    return code ? failure(c, code, what) : NULL;
}

Status nccl_check(const Nccl *c) {
    int code = 0;
    TRY(comm_over(c->group));
    int asked = c->api->ncclCommGetAsyncError(c->comm, &code);
    if (asked) code = asked;
    return is_bad(code) ? failure(c, code, "a collective under way") : NULL;
}

static int peer_of(const PlanCollective *p) { return plan_comm_pairs(p) ? (int)p->peer : -1; }

Status nccl_late(const Nccl *c, const PlanCollective *p, int64_t number) {
    return comm_late(c->group, collective_name(p->kind), number, peer_of(p));
}

/* ---- communicators ---- */

/* The first rank of the group makes the name; an empty one says that it could not. */
static Status share_id(const NcclApi *api, Comm *group, NcclId *id) {
    int code = 0;
    if (group->ops->rank(group) == 0) code = api->ncclGetUniqueId(id);
    struct {
        NcclId id;
        int64_t code;
    } told = {*id, code};
    TRY(group->ops->broadcast(group, &told, sizeof told, DT_BOOL, 0));
    *id = told.id;
    if (!told.code) return NULL;
    return status_make(EXIT_SYSTEM, "NCCL: ncclGetUniqueId: %s",
                       api->ncclGetErrorString((int)told.code));
}

Status nccl_open(const NcclApi *api, Comm *group, CudaStream stream, Nccl **out) {
    NcclId id = {{0}};
    NcclConfig config = {.size = sizeof config,
                         .magic = NCCL_CONFIG_MAGIC,
                         .version = NCCL_VERSION_MIN,
                         .blocking = 0};
    Nccl *c = *out = xcalloc(1, sizeof *c);
    *c = (Nccl){.api = api, .group = group, .stream = stream, .ranks = group->ops->size(group)};
    TRY(share_id(api, group, &id));
    int code =
        api->ncclCommInitRankConfig(&c->comm, c->ranks, id, group->ops->rank(group), &config);
    return settle(c, code, "connecting the GPUs", 0, -1);
}

void nccl_abort(Nccl *c) {
    if (c->comm) c->api->ncclCommAbort(c->comm);
    c->comm = NULL;
}

void nccl_close(Nccl *c) {
    if (c->comm) c->api->ncclCommDestroy(c->comm);
    free(c);
}

int64_t nccl_rank(const Nccl *c, int64_t *ranks) {
    *ranks = c->ranks;
    return c->group->ops->rank(c->group);
}

/* ---- collectives ---- */

/* Every rank's block to and from every other, as one operation. */
static int all_to_all(const Nccl *c, const char *in, char *out, size_t n, Dtype d) {
    size_t bytes = n * (size_t)dtype_size(d);
    int code = c->api->ncclGroupStart();
    for (int r = 0; r < c->ranks && !is_bad(code); r++) {
        size_t at = (size_t)r * bytes;
        code = c->api->ncclSend(in + at, n, nccl_dtype(d), r, c->comm, c->stream);
        if (!is_bad(code))
            code = c->api->ncclRecv(out + at, n, nccl_dtype(d), r, c->comm, c->stream);
    }
    int end = c->api->ncclGroupEnd();
    return is_bad(code) ? code : end;
}

static int ask(const Nccl *c, const PlanCollective *p, const void *in, void *out, size_t n) {
    const NcclApi *api = c->api;
    int dtype = nccl_dtype(p->wire), op = nccl_reduce(p->reduce), peer = (int)p->peer;
    size_t part = n / (size_t)c->ranks;
    switch (p->kind) {
    case COLLECTIVE_ALL_REDUCE:
        return api->ncclAllReduce(in, out, n, dtype, op, c->comm, c->stream);
    case COLLECTIVE_ALL_GATHER: return api->ncclAllGather(in, out, n, dtype, c->comm, c->stream);
    case COLLECTIVE_REDUCE_SCATTER:
        return api->ncclReduceScatter(in, out, part, dtype, op, c->comm, c->stream);
    case COLLECTIVE_ALL_TO_ALL: return all_to_all(c, in, out, part, p->wire);
    case COLLECTIVE_SEND: return api->ncclSend(in, n, dtype, peer, c->comm, c->stream);
    case COLLECTIVE_RECV: return api->ncclRecv(out, n, dtype, peer, c->comm, c->stream);
    case COLLECTIVE_COUNT: break;
    }
    BUG("no such collective");
}

Status nccl_transfer(Nccl *c, const PlanCollective *p, const void *in, void *out, int64_t n,
                     int64_t *number) {
    bool blocks = p->kind == COLLECTIVE_REDUCE_SCATTER || p->kind == COLLECTIVE_ALL_TO_ALL;
    TRY(comm_begin(c->group, p->kind, blocks ? n / c->ranks : n, p->wire, p->reduce, number));
    return settle(c, ask(c, p, in, out, (size_t)n), collective_name(p->kind), *number, peer_of(p));
}
