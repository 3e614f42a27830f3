/* exec_comm.c: collectives of a plan, on devices whose memory the host sees, and what connects
 * those that do them themselves.
 *
 * Each pair of a group and a stream that the plan uses has a communicator of its own, made in the
 * plan's order of groups on all ranks, so that the two streams never wait for each other's turn. A
 * collective of one operand whose dtype travels as it is goes from its place to its place; others
 * are put together in the room that the plan gives them. */
#include "runtime/exec_private.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/comm_pack.h"

struct ExecComm {
    Comm *world;
    Comm **group;   /* of each group and stream; NULL: not used */
    CommSent *sent; /* of each step, when it ran last */
    ExecSpan *span; /* the same: from begin to end */
};

/* ---- positions, for messages ---- */

/* Not loc_text: this is called from any thread. */
static void put_place(const Exec *e, uint32_t i, Buf *out) {
    const PlanStep *s = &e->plan->step.p[i];
    exec_put_step(e, s, out);
    if (s->loc.line)
        buf_printf(out, " at %s:%u:%u", session_file_name(e->plan->session, s->loc.file),
                   (unsigned)s->loc.line, (unsigned)s->loc.col);
}

static void put_position(const void *ctx, Buf *out) {
    static const Stream streams[] = {STREAM_COMPUTE, STREAM_COMM, STREAM_COMM_2};
    const Exec *e = ctx;
    int64_t step = atomic_load(&e->training_step);
    const char *between = "";
    if (step == 0) {
        buf_puts(out, "between steps");
        return;
    }
    buf_printf(out, "in step %lld", (long long)step);
    for (size_t i = 0; i < COUNT(streams); i++) {
        uint32_t at = atomic_load(&e->at[streams[i]]);
        if (e->ops->collective_at && streams[i] != STREAM_COMPUTE)
            at = e->ops->collective_at(e->device, streams[i]);
        if (at == 0) continue;
        buf_puts(out, *between ? between : ", at plan ");
        put_place(e, at - 1, out);
        between = " and ";
    }
}

/* ---- communicators ---- */

static Comm **slot(const Exec *e, const PlanStep *s) {
    ASSERT(s->stream >= STREAM_COMM && s->stream < STREAM_COMM + COMM_STREAMS);
    return &e->comm->group[s->collective.group * COMM_STREAMS + (uint32_t)s->stream - STREAM_COMM];
}

static bool is_used(const Plan *p, uint32_t group, int stream) {
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].kind == STEP_COLLECTIVE && p->step.p[i].collective.group == group &&
            p->step.p[i].stream == stream)
            return true;
    return false;
}

static uint32_t group_of(const Plan *p, const char *name) {
    uint32_t g = 0;
    while (g < p->group.n && strcmp(p->group.p[g].name, name) != 0) g++;
    return g;
}

/* One that only other stages use is made with them, and closed. */
static Status make_group(Exec *e, const PlanGroup *group, int stream) {
    const Plan *p = e->plan;
    uint32_t mine = group_of(p, group->name);
    Comm *made = NULL;
    TRY(e->comm->world->ops->split(e->comm->world, (int)plan_group_member(group, e->rank, 0),
                                   (int)plan_group_index(group, e->rank), &made));
    if (mine < p->group.n && is_used(p, mine, stream))
        e->comm->group[mine * COMM_STREAMS + (uint32_t)(stream - STREAM_COMM)] = made;
    else
        made->ops->close(made);
    return NULL;
}

/* Has a stage before plan `before` of those that run together used this group on this stream? */
static bool used_before(const Plan *p, uint32_t before, const char *name, int stream) {
    for (uint32_t i = 0; i < before; i++) {
        const Plan *q = plan_at(p, i);
        uint32_t g = group_of(q, name);
        if (g < q->group.n && is_used(q, g, stream)) return true;
    }
    return false;
}

/* All ranks make all groups that one of the plans uses, in one order. */
static Status make_groups(Exec *e) {
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < plan_count(p); i++) {
        const Plan *q = plan_at(p, i);
        for (uint32_t k = 0; k < q->group.n * COMM_STREAMS; k++) {
            const PlanGroup *group = &q->group.p[k / COMM_STREAMS];
            int stream = STREAM_COMM + (int)(k % COMM_STREAMS);
            if (is_used(q, k / COMM_STREAMS, stream) && !used_before(p, i, group->name, stream))
                TRY(make_group(e, group, stream));
        }
    }
    return NULL;
}

/* The null device only says what it would do. */
Status exec_open_comm(Exec *e, Comm *world) {
    const Plan *p = e->plan;
    bool needed =
        plan_programs(p) > 1; /* a stage without any makes the groups of the others with them */
    for (uint32_t i = 0; i < p->step.n; i++) needed |= p->step.p[i].kind == STEP_COLLECTIVE;
    if (!needed || (e->ops->collective && !e->ops->join)) return NULL;
    if (!e->ops->collective && !(e->ops->visible >> MEM_DEVICE & 1))
        return status_make(EXIT_INPUT, "device %s runs plans of one rank only", e->ops->name);
    if (!world || world->ops->size(world) != MAX(p->ranks, (int64_t)1))
        return status_make(EXIT_INPUT, "the plan is for %lld ranks, there are %d",
                           (long long)p->ranks, world ? world->ops->size(world) : 1);
    e->comm = xcalloc(1, sizeof *e->comm);
    e->comm->world = world;
    e->comm->group = xcalloc((size_t)p->group.n * COMM_STREAMS + 1, sizeof(Comm *));
    e->comm->sent = xcalloc((size_t)p->step.n, sizeof(CommSent));
    e->comm->span = xcalloc((size_t)p->step.n, sizeof(ExecSpan));
    comm_set_position(world, put_position, e);
    TRY(make_groups(e));
    return e->ops->join ? e->ops->join(e->device, world, e->comm->group) : NULL;
}

void exec_close_comm(Exec *e) {
    if (!e->comm) return;
    comm_set_position(e->comm->world, NULL, NULL);
    if (e->ops->leave) e->ops->leave(e->device);
    for (uint32_t i = 0; i < e->plan->group.n * COMM_STREAMS; i++)
        if (e->comm->group[i]) e->comm->group[i]->ops->close(e->comm->group[i]);
    free(e->comm->group);
    free(e->comm->sent);
    free(e->comm->span);
    free(e->comm);
}

void exec_break_comm(const Exec *e) {
    if (e->comm) comm_break(e->comm->world);
}

/* A collective that failed while the host was elsewhere. */
uint32_t exec_late_collective(const Exec *e) {
    for (int i = 0; e->comm && e->ops->collective_at && i < COMM_STREAMS; i++) {
        uint32_t at = e->ops->collective_at(e->device, STREAM_COMM + i);
        if (at > 0) return at - 1;
    }
    return UINT32_MAX;
}

/* ---- one collective ---- */

static int64_t message(const PlanCollective *c) {
    int64_t n = 0;
    for (uint32_t i = 0; i < c->n; i++) n += c->count[i];
    return n;
}

static Status transfer(Comm *g, const PlanCollective *c, const void *in, void *out, int64_t n) {
    int size = g->ops->size(g);
    switch (c->kind) {
    case COLLECTIVE_ALL_REDUCE: return g->ops->all_reduce(g, in, out, n, c->wire, c->reduce);
    case COLLECTIVE_ALL_GATHER: return g->ops->all_gather(g, in, out, n, c->wire);
    case COLLECTIVE_REDUCE_SCATTER:
        return g->ops->reduce_scatter(g, in, out, n / size, c->wire, c->reduce);
    case COLLECTIVE_ALL_TO_ALL: return g->ops->all_to_all(g, in, out, n / size, c->wire);
    case COLLECTIVE_SEND: return g->ops->send(g, in, n, c->wire, (int)c->peer);
    case COLLECTIVE_RECV: return g->ops->recv(g, out, n, c->wire, (int)c->peer);
    case COLLECTIVE_COUNT: break;
    }
    BUG("no such collective");
}

/* The message of `blocks` ranks: of each, its block of every operand. */
static void pack(const PlanCollective *c, void *const *arg, int64_t blocks, char *room) {
    int64_t all = message(c) / blocks * dtype_size(c->wire);
    for (uint32_t i = 0; i < plan_comm_operands(c); i++) {
        int64_t n = c->count[i] / blocks;
        for (int64_t b = 0; b < blocks; b++)
            comm_pack(c->dtype, c->wire, c->scale, (char *)arg[i] + b * n * dtype_size(c->dtype),
                      room + b * all, n);
        room += n * dtype_size(c->wire);
    }
}

/* A message of so many blocks, each of n / parts elements of every result's `parts`. */
static void unpack(const PlanCollective *c, void *const *arg, int64_t blocks, int64_t parts,
                   const char *room) {
    int64_t all = message(c) / parts * dtype_size(c->wire);
    for (uint32_t i = 0; i < plan_comm_results(c); i++) {
        char *to = arg[plan_comm_operands(c) + i];
        int64_t n = c->count[i] / parts;
        for (int64_t b = 0; b < blocks; b++)
            comm_unpack(c->dtype, c->wire, c->scale, room + b * all,
                        to + b * n * dtype_size(c->dtype), n);
        room += n * dtype_size(c->wire);
    }
}

/* The operand is in the room, the message that comes lies at the end of the result, which takes at
 * least as many bytes, and is widened from there. */
static Status exchange(Comm *g, const PlanCollective *c, void *const *arg, char *room) {
    int64_t n = message(c);
    char *landing = (char *)arg[1] + n * (dtype_size(c->dtype) - dtype_size(c->wire));
    TRY(transfer(g, c, room, landing, n));
    unpack(c, arg, 1, 1, landing);
    return NULL;
}

static Status run_collective(Comm *g, const PlanCollective *c, void *const *arg) {
    uint32_t in = plan_comm_operands(c), out = plan_comm_results(c);
    if (!c->room) return transfer(g, c, arg[0], arg[out ? in : 0], message(c));
    int64_t ranks = g->ops->size(g), n = message(c);
    bool scatters = c->kind == COLLECTIVE_REDUCE_SCATTER,
         gathers = c->kind == COLLECTIVE_ALL_GATHER;
    char *room = arg[in + out], *own = room;
    if (gathers) own += g->ops->rank(g) * n * dtype_size(c->wire);
    pack(c, arg, scatters ? ranks : 1, own);
    if (c->kind == COLLECTIVE_ALL_TO_ALL) return exchange(g, c, arg, room);
    TRY(transfer(g, c, own, room, n));
    unpack(c, arg, gathers ? ranks : 1, scatters ? ranks : 1, room);
    return NULL;
}

Status exec_collective(Exec *e, uint32_t i, void *const *arg) {
    const PlanStep *s = &e->plan->step.p[i];
    if (!e->comm) return e->ops->collective(e->device, s, arg);
    Comm *g = *slot(e, s);
    CommSent before = g->sent;
    g->step = i;
    e->comm->span[i].begin = now_seconds();
    Status status = e->ops->collective ? e->ops->collective(e->device, s, arg)
                                       : run_collective(g, &s->collective, arg);
    e->comm->span[i].end = now_seconds();
    e->comm->sent[i].messages = g->sent.messages - before.messages;
    e->comm->sent[i].bytes = g->sent.bytes - before.bytes;
    /* Where it is stays there after a failure: others may ask. */
    if (!status) atomic_store_explicit(&e->at[s->stream], 0, memory_order_relaxed);
    return status;
}

ExecSpan exec_comm_span(const Exec *e, uint32_t i) {
    return e->comm ? e->comm->span[i] : (ExecSpan){0};
}

CommSent exec_sent(const Exec *e, uint32_t i) { return e->comm ? e->comm->sent[i] : (CommSent){0}; }
