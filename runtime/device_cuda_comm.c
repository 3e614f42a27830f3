/* device_cuda_comm.c: collectives of a GPU's plan, by NCCL.
 *
 * Each pair of a group and a stream has a communicator, on that stream. A message that is put
 * together, or travels in another format, is made and taken apart there too: by copies, or by the
 * plan's own kernels (plan_convert_name). Steps with collectives are not kept as graphs: the order
 * in which a graph's branches start is the driver's, and must be the same on all ranks.
 *
 *     stream    pack │ all_reduce │ unpack │ event     pack │ all_to_all │ unpack │ event …
 *     host      … waits for an event or a stream: who has failed? which collective is it?
 *
 * A collective whose partner is gone may never end. So while there are other ranks the host never
 * waits inside the driver: it asks again and again, sees which collectives have ended, and ends the
 * others' work (abort) when a rank is lost or nothing has moved for too long. */
#include "runtime/comm_nccl.h"
#include "runtime/device_cuda.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    uint32_t step;
    int64_t number; /* of its communicator */
    CudaEvent event;
} Flight;

/* Collectives that were asked for on a stream and have not ended, as far as the host has seen. */
typedef struct {
    VEC(Flight) flight;
    uint32_t first;
    _Atomic uint32_t at; /* the first one's step, one more; 0: none */
} Queue;

typedef struct {
    const PlanKernel *kernel[2]; /* pack, unpack; NULL: copies do it */
    CudaFunction function[2];
} Convert;

struct CudaComm {
    Comm *world;
    Nccl **group;     /* of each of the plan's groups and each stream; NULL: not used */
    Convert *convert; /* of each step */
    Queue queue[COMM_STREAMS];
    VEC(CudaEvent) spare;
    double moved; /* when a collective was last seen to end, or the wait began */
    bool aborted;
};

bool cuda_has_collectives(const Plan *p) {
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].kind == STEP_COLLECTIVE) return true;
    return false;
}

static uint32_t step_index(const Cuda *d, const PlanStep *s) {
    return (uint32_t)(s - d->plan->step.p);
}

static Nccl **slot(const Cuda *d, const PlanStep *s) {
    int k = s->stream - STREAM_COMM;
    return &d->comm->group[s->collective.group * COMM_STREAMS + (uint32_t)k];
}

/* ---- what is under way ---- */

static void show_first(Queue *q) {
    uint32_t at = q->first < q->flight.n ? q->flight.p[q->first].step + 1 : 0;
    atomic_store_explicit(&q->at, at, memory_order_relaxed);
}

/* Takes note of the collectives that have ended. */
static void see_ended(Cuda *d) {
    CudaComm *c = d->comm;
    for (int k = 0; k < COMM_STREAMS; k++) {
        Queue *q = &c->queue[k];
        uint32_t before = q->first;
        while (q->first < q->flight.n && d->api.cuEventQuery(q->flight.p[q->first].event) == 0)
            vec_push(&c->spare, q->flight.p[q->first++].event);
        if (q->first > before) c->moved = now_seconds();
        if (q->first == q->flight.n) q->first = q->flight.n = 0;
        show_first(q);
    }
}

static Status note(Cuda *d, const PlanStep *s, int64_t number) {
    CudaComm *c = d->comm;
    Queue *q = &c->queue[s->stream - STREAM_COMM];
    Flight f = {.step = step_index(d, s), .number = number};
    if (c->spare.n > 0)
        f.event = c->spare.p[--c->spare.n];
    else
        CUDA_CALL(d, cuEventCreate, &f.event, CUDA_EVENT_DISABLE_TIMING);
    CUDA_CALL(d, cuEventRecord, f.event, d->stream[s->stream]);
    vec_push(&q->flight, f);
    show_first(q);
    return NULL;
}

uint32_t cuda_collective_at(const Device *base, int stream) {
    const CudaComm *c = ((const Cuda *)base)->comm;
    return c ? atomic_load_explicit(&c->queue[stream - STREAM_COMM].at, memory_order_relaxed) : 0;
}

/* ---- waiting ---- */

static void abort_all(Cuda *d) {
    for (uint32_t i = 0; i < d->plan->group.n * COMM_STREAMS; i++)
        if (d->comm->group[i]) nccl_abort(d->comm->group[i]);
    d->comm->aborted = true;
}

/* The collective that is to end next on one of the streams; NULL: none is under way. */
static const Flight *next_flight(const CudaComm *c) {
    for (int k = 0; k < COMM_STREAMS; k++)
        if (c->queue[k].first < c->queue[k].flight.n)
            return &c->queue[k].flight.p[c->queue[k].first];
    return NULL;
}

/* What NCCL has noticed, and whether it takes too long. */
static Status look_closely(Cuda *d) {
    CudaComm *c = d->comm;
    const Flight *next = next_flight(c);
    for (uint32_t i = 0; i < d->plan->group.n * COMM_STREAMS; i++)
        if (c->group[i]) TRY(nccl_check(c->group[i]));
    if (!next || now_seconds() - c->moved < comm_patience(c->world)) return NULL;
    const PlanStep *s = &d->plan->step.p[next->step];
    return nccl_late(*slot(d, s), &s->collective, next->number);
}

/* At first nothing, then others may run, then a sleep. */
static void pause_query(uint32_t turn) {
    enum { SPIN = 20, YIELD = 200 };
    if (turn > YIELD)
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    else if (turn > SPIN)
        sched_yield();
}

static CudaResult query(const Cuda *d, CudaEvent event, CudaStream stream) {
    CudaResult r = 0;
    if (event) return d->api.cuEventQuery(event);
    if (stream) return d->api.cuStreamQuery(stream);
    for (int i = 0; i < d->streams && r == 0; i++)
        if (d->stream[i]) r = d->api.cuStreamQuery(d->stream[i]);
    return r;
}

/* An error of the GPU's own: no collective is to blame. */
static Status not_of_ranks(Cuda *d, CudaResult r) {
    for (int k = 0; k < COMM_STREAMS; k++) atomic_store(&d->comm->queue[k].at, 0);
    return cuda_status(&d->api, r, "waiting for the GPU");
}

Status cuda_await(Cuda *d, CudaEvent event, CudaStream stream) {
    enum { CLOSELY = 64 }; /* queries */
    CudaComm *c = d->comm;
    CudaResult r = CUDA_NOT_READY;
    Status s = c->aborted ? status_make(EXIT_SYSTEM, "%s", "") : NULL;
    c->moved = now_seconds();
    for (uint32_t turn = 1; !s && r == CUDA_NOT_READY; turn++) {
        r = query(d, event, stream);
        see_ended(d);
        if (r != CUDA_NOT_READY) break;
        s = turn % CLOSELY ? comm_over(c->world) : look_closely(d);
        pause_query(turn);
    }
    if (!s && r) s = not_of_ranks(d, r);
    if (s && !c->aborted) abort_all(d);
    return s ? s : cuda_host_failure(d);
}

/* ---- messages ---- */

/* Elements that lie in runs, so many apart; one run: NULL. */
typedef struct {
    int64_t run, from, to;
} Runs;

static Status launch(Cuda *d, const PlanStep *s, bool pack, const void *from, void *to, int64_t n,
                     const Runs *runs) {
    const Convert *c = &d->comm->convert[step_index(d, s)];
    Runs r = runs ? *runs : (Runs){n, n, n};
    float scale = (float)s->collective.scale;
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    void *arg[PLAN_CONVERT_ARGS] = {(void *)(uintptr_t)from,  to,
                                    (void *)(uintptr_t)n,     (void *)(uintptr_t)bits,
                                    (void *)(uintptr_t)r.run, (void *)(uintptr_t)r.from,
                                    (void *)(uintptr_t)r.to};
    void *parameter[] = {arg};
    int64_t blocks = (n + PLAN_CONVERT_BLOCK - 1) / PLAN_CONVERT_BLOCK;
    if (n == 0) return NULL;
    CUDA_CALL(d, cuLaunchKernel, c->function[!pack], (unsigned)blocks, 1, 1,
              (unsigned)c->kernel[!pack]->threads, 1, 1, 0, d->stream[s->stream], parameter, NULL);
    return NULL;
}

/* n elements as they travel, or back. */
static Status convert(Cuda *d, const PlanStep *s, bool pack, const void *from, void *to, int64_t n,
                      const Runs *runs) {
    if (d->comm->convert[step_index(d, s)].kernel[0]) return launch(d, s, pack, from, to, n, runs);
    return d->base.ops->copy(&d->base, s->stream, to, from, n * dtype_size(s->collective.wire));
}

static int64_t message(const PlanCollective *c) {
    int64_t n = 0;
    for (uint32_t i = 0; i < c->n; i++) n += c->count[i];
    return n;
}

/* The message of `blocks` ranks: of each, its block of every operand. */
static Status pack(Cuda *d, const PlanStep *s, void *const *arg, int64_t blocks, char *room) {
    const PlanCollective *c = &s->collective;
    for (uint32_t i = 0; i < plan_comm_operands(c); i++) {
        int64_t n = c->count[i] / blocks;
        TRY(convert(d, s, true, arg[i], room, c->count[i], &(Runs){n, n, message(c) / blocks}));
        room += n * dtype_size(c->wire);
    }
    return NULL;
}

/* A message of so many blocks, each of n / parts elements of every result's `parts`. */
static Status unpack(Cuda *d, const PlanStep *s, void *const *arg, int64_t blocks, int64_t parts,
                     const char *room) {
    const PlanCollective *c = &s->collective;
    for (uint32_t i = 0; i < plan_comm_results(c); i++) {
        int64_t n = c->count[i] / parts;
        TRY(convert(d, s, false, room, arg[plan_comm_operands(c) + i], n * blocks,
                    &(Runs){n, message(c) / parts, n}));
        room += n * dtype_size(c->wire);
    }
    return NULL;
}

/* The message lies at the end of its result, and is wider after: what is written before the place
 * where the message begins overwrites nothing, so that part is first, then the same with the rest.
 * The last part is one block, which reads before it writes. */
static Status widen(Cuda *d, const PlanStep *s, char *result, int64_t n) {
    const PlanCollective *c = &s->collective;
    int64_t wide = dtype_size(c->dtype), narrow = dtype_size(c->wire);
    while (n > 0) {
        int64_t free_of_it = n > PLAN_CONVERT_BLOCK ? n * (wide - narrow) / wide : n;
        TRY(launch(d, s, false, result + n * (wide - narrow), result, free_of_it, NULL));
        result += free_of_it * wide;
        n -= free_of_it;
    }
    return NULL;
}

/* In place: a rank's block of a message is where NCCL reads or leaves it. */
static Status enqueue(Cuda *d, const PlanStep *s, void *const *arg, int64_t *number) {
    const PlanCollective *c = &s->collective;
    uint32_t in = plan_comm_operands(c), out = plan_comm_results(c);
    int64_t n = message(c), wire = dtype_size(c->wire), ranks;
    Nccl *g = *slot(d, s);
    int64_t rank = nccl_rank(g, &ranks);
    if (!c->room) return nccl_transfer(g, c, arg[0], arg[out ? in : 0], n, number);
    char *room = arg[in + out], *from = room, *to = room;
    bool scatters = c->kind == COLLECTIVE_REDUCE_SCATTER,
         gathers = c->kind == COLLECTIVE_ALL_GATHER;
    if (c->kind == COLLECTIVE_ALL_TO_ALL) to = (char *)arg[1] + n * (dtype_size(c->dtype) - wire);
    if (gathers) from += rank * n * wire;
    if (scatters) to += rank * (n / ranks) * wire;
    TRY(pack(d, s, arg, scatters ? ranks : 1, from));
    TRY(nccl_transfer(g, c, from, to, n, number));
    if (c->kind == COLLECTIVE_ALL_TO_ALL) return widen(d, s, arg[1], n);
    return unpack(d, s, arg, gathers ? ranks : 1, scatters ? ranks : 1, to);
}

Status cuda_collective(Device *base, const PlanStep *s, void *const *arg) {
    Cuda *d = (Cuda *)base;
    int64_t number = 0;
    Status status = enqueue(d, s, arg, &number);
    if (!status) status = note(d, s, number);
    if (status && !d->comm->aborted) abort_all(d);
    return status ? status : cuda_called(d, s->stream);
}

/* ---- connecting ---- */

static Status find_kernel(const Cuda *d, const PlanStep *s, bool pack, Convert *out) {
    const PlanCollective *c = &s->collective;
    const Plan *p = d->plan;
    char name[PLAN_CONVERT_NAME];
    plan_convert_name(name, pack ? c->dtype : c->wire, pack ? c->wire : c->dtype, pack);
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        const PlanKernel *k = &p->kernel.p[i];
        if (strcmp(k->name, name) != 0 || k->nargs != PLAN_CONVERT_ARGS || !k->threads) continue;
        out->kernel[!pack] = k;
        out->function[!pack] = d->kernel[i];
        return NULL;
    }
    return status_make(EXIT_INPUT,
                       "the plan lacks the kernel %s for its messages: compile it again", name);
}

static Status find_kernels(Cuda *d) {
    const Plan *p = d->plan;
    d->comm->convert = xcalloc((size_t)p->step.n + 1, sizeof *d->comm->convert);
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        if (s->kind != STEP_COLLECTIVE || !plan_comm_converts(&s->collective)) continue;
        TRY(find_kernel(d, s, true, &d->comm->convert[i]));
        TRY(find_kernel(d, s, false, &d->comm->convert[i]));
    }
    return NULL;
}

/* NCCL would say only that something is wrong. */
static Status check_devices(const Cuda *d, Comm *world) {
    int n = world->ops->size(world);
    CudaUuid mine, *all = xcalloc((size_t)n, sizeof *all);
    CudaResult r = d->api.cuDeviceGetUuid(&mine, d->device);
    Status s = cuda_status(&d->api, r, "cuDeviceGetUuid");
    if (!s) s = world->ops->all_gather(world, &mine, all, sizeof mine, DT_BOOL);
    for (int i = 0; i < n && !s; i++)
        for (int j = i + 1; j < n && !s; j++)
            if (memcmp(&all[i], &all[j], sizeof *all) == 0)
                s = status_make(EXIT_SYSTEM,
                                "ranks %d and %d have the same GPU (%s): each needs its own", i, j,
                                d->name);
    free(all);
    return s;
}

Status cuda_join(Device *base, Comm *world, Comm *const *group) {
    Cuda *d = (Cuda *)base;
    uint32_t n = d->plan->group.n * COMM_STREAMS;
    CudaComm *c = d->comm = xcalloc(1, sizeof *c);
    c->world = world;
    c->group = xcalloc((size_t)n + 1, sizeof(Nccl *));
    TRY(find_kernels(d));
    TRY(check_devices(d, world));
    for (uint32_t i = 0; i < n; i++)
        if (group[i])
            TRY(nccl_open(&d->nccl, group[i], d->stream[STREAM_COMM + (int)(i % COMM_STREAMS)],
                          &c->group[i]));
    return NULL;
}

/* What is under way ends soon, unless a rank has failed: this one, too, may have. */
static void end_flights(Cuda *d) {
    const double longest = 2;
    CudaComm *c = d->comm;
    double end = now_seconds() + longest;
    Status over = NULL;
    for (see_ended(d); !over && next_flight(c) && now_seconds() < end; see_ended(d)) {
        pause_query(UINT32_MAX);
        over = comm_over(c->world);
    }
    free(over);
    if (next_flight(c)) abort_all(d);
}

void cuda_leave(Device *base) {
    Cuda *d = (Cuda *)base;
    CudaComm *c = d->comm;
    if (!c) return;
    if (!c->aborted) end_flights(d);
    for (uint32_t i = 0; i < d->plan->group.n * COMM_STREAMS; i++)
        if (c->group[i]) nccl_close(c->group[i]);
    for (int k = 0; k < COMM_STREAMS; k++) {
        Queue *q = &c->queue[k];
        for (; q->first < q->flight.n; q->first++) vec_push(&c->spare, q->flight.p[q->first].event);
        vec_free(&q->flight);
    }
    for (uint32_t i = 0; i < c->spare.n; i++) d->api.cuEventDestroy_v2(c->spare.p[i]);
    vec_free(&c->spare);
    free(c->group);
    free(c->convert);
    free(c);
    d->comm = NULL;
}
