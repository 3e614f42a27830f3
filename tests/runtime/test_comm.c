/* Several ranks, started by check_comm.py and check_faults.py under mpirun:
 *     test_comm check              every collective and dtype against a direct computation
 *     test_comm exec               plans made here: operands, wires, groups, two streams, the guard
 *     test_comm bench              how long collectives take
 *     test_comm loop STEPS FAULT RANK AT [TIMEOUT]     steps of a plan; at step AT rank RANK does
 *         FAULT: kill, stop, fail, bad, exit, slow, other (a mismatch), early, late or none
 *     test_comm differ             ranks with different plans
 * M6C_TEST_DEVICE=cuda: exec and loop on GPUs (tests/gpu/check_nccl.py), without the messages in
 * another format, which need kernels. */
#include "runtime/exec.h"
#include "tests/check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wanted(Status s) {
    if (!s) return;
    fprintf(stderr, "%s\n", s->text);
    exit(1);
}

static Comm *world;
static Pool *pool;
static int rank, size;

static bool on_gpu(void) { return getenv("M6C_TEST_DEVICE") != NULL; }

static int tell(Status s) {
    if (!s) return 0;
    fprintf(stderr, "m6c: %s\n", s->text);
    int code = s->code;
    free(s);
    return code;
}

/* Whoever started us says how many ranks there are. */
static Status start(double timeout, uint64_t same) {
    static const char *const what[] = {"the plan"};
    CommConfig config = {.timeout = timeout, .same = &same, .what = what, .nsame = 1};
    TRY(comm_start(&config, &world));
    pool = pool_open(1);
    rank = world->ops->rank(world);
    size = world->ops->size(world);
    return NULL;
}

/* ---- collectives against a direct computation ---- */

static const Dtype dtypes[] = {DT_F32, DT_F64, DT_BF16, DT_F16, DT_I32, DT_I64};

/* Small integers: exact in every format, whatever the order. */
static double value(int r, int64_t i) {
    return (double)(philox((uint32_t)r + 1, (uint64_t)i, NULL) % 13) - 6;
}

static void put(Dtype d, void *p, int64_t i, double x) {
    switch (d) {
    case DT_F32: ((float *)p)[i] = (float)x; break;
    case DT_F64: ((double *)p)[i] = x; break;
    case DT_BF16: ((uint16_t *)p)[i] = f32_to_bf16((float)x); break;
    case DT_F16: ((uint16_t *)p)[i] = f32_to_f16((float)x); break;
    case DT_I32: ((int32_t *)p)[i] = (int32_t)x; break;
    default: ((int64_t *)p)[i] = (int64_t)x;
    }
}

static double get(Dtype d, const void *p, int64_t i) {
    switch (d) {
    case DT_F32: return (double)((const float *)p)[i];
    case DT_F64: return ((const double *)p)[i];
    case DT_BF16: return (double)bf16_to_f32(((const uint16_t *)p)[i]);
    case DT_F16: return (double)f16_to_f32(((const uint16_t *)p)[i]);
    case DT_I32: return ((const int32_t *)p)[i];
    default: return (double)((const int64_t *)p)[i];
    }
}

/* Element i of the reduction over the n ranks `member`. */
static double reduced(const int *member, int n, ReduceOp op, int64_t i) {
    double x = value(member[0], i);
    for (int k = 1; k < n; k++) {
        double y = value(member[k], i);
        x = op == REDUCE_SUM ? x + y : op == REDUCE_MAX ? fmax(x, y) : fmin(x, y);
    }
    return x;
}

typedef struct {
    Comm *comm;
    int member[64], n, index;
} Group;

static bool holds(Dtype d, const void *p, int64_t n, const Group *g, ReduceOp op, int64_t first) {
    for (int64_t i = 0; i < n; i++)
        if (get(d, p, i) != reduced(g->member, g->n, op, first + i)) return false;
    return true;
}

static void fill(Dtype d, void *p, int64_t n) {
    for (int64_t i = 0; i < n; i++) put(d, p, i, value(rank, i));
}

static void check_reduce(const Group *g, Dtype d, ReduceOp op, int64_t n, char *a, char *b) {
    const CommOps *o = g->comm->ops;
    fill(d, a, n * g->n);
    wanted(o->all_reduce(g->comm, a, b, n, d, op));
    CHECK(holds(d, b, n, g, op, 0));
    wanted(o->reduce_scatter(g->comm, a, b, n, d, op));
    CHECK(holds(d, b, n, g, op, g->index * n));
    wanted(o->all_reduce(g->comm, a, a, n, d, op));
    CHECK(holds(d, a, n, g, op, 0));
    fill(d, a, n * g->n);
    wanted(o->reduce_scatter(g->comm, a, a, n, d, op));
    CHECK(holds(d, a, n, g, op, g->index * n));
}

static void check_gather(const Group *g, Dtype d, int64_t n, char *a, char *b) {
    const CommOps *o = g->comm->ops;
    for (int place = 0; place < 2; place++) {
        char *own = place ? b + g->index * n * dtype_size(d) : a;
        fill(d, own, n);
        wanted(o->all_gather(g->comm, own, b, n, d));
        bool good = true;
        for (int r = 0; r < g->n; r++)
            for (int64_t i = 0; i < n; i++)
                good = good && get(d, b, r * n + i) == value(g->member[r], i);
        CHECK(good);
    }
}

static void check_exchange(const Group *g, Dtype d, int64_t n, char *a, char *b) {
    const CommOps *o = g->comm->ops;
    for (int place = 0; place < 2; place++) {
        char *to = place ? a : b;
        fill(d, a, n * g->n);
        wanted(o->all_to_all(g->comm, a, to, n, d));
        bool good = true;
        for (int r = 0; r < g->n; r++)
            for (int64_t i = 0; i < n; i++)
                good = good && get(d, to, r * n + i) == value(g->member[r], g->index * n + i);
        CHECK(good);
    }
}

/* Rank i sends i + j + 1 elements to rank j. */
static void check_exchange_v(const Group *g, Dtype d, char *a, char *b) {
    int64_t ns[64], sa[64], nr[64], ra[64], at = 0;
    bool good = true;
    for (int r = 0; r < g->n; r++) {
        ns[r] = nr[r] = g->index + r + 1;
        sa[r] = ra[r] = at;
        at += ns[r];
    }
    for (int r = 0; r < g->n; r++)
        for (int64_t i = 0; i < ns[r]; i++) put(d, a, sa[r] + i, value(g->index * 64 + r, i));
    wanted(g->comm->ops->all_to_all_v(g->comm, a, ns, sa, b, nr, ra, d));
    for (int r = 0; r < g->n; r++)
        for (int64_t i = 0; i < nr[r]; i++)
            good = good && get(d, b, ra[r] + i) == value(r * 64 + g->index, i);
    CHECK(good);
}

/* Around the ring, even ones first; and from each to all. */
static void check_pairs(const Group *g, Dtype d, int64_t n, char *a, char *b) {
    const CommOps *o = g->comm->ops;
    int next = (g->index + 1) % g->n, last = (g->index + g->n - 1) % g->n;
    bool good = true;
    if (g->n < 2) return;
    fill(d, a, n);
    if (g->index % 2 == 0) wanted(o->send(g->comm, a, n, d, next));
    wanted(o->recv(g->comm, b, n, d, last));
    if (g->index % 2) wanted(o->send(g->comm, a, n, d, next));
    for (int64_t i = 0; i < n; i++) good = good && get(d, b, i) == value(g->member[last], i);
    for (int r = 0; r < g->n; r++) {
        fill(d, b, n);
        wanted(o->broadcast(g->comm, b, n, d, r));
        for (int64_t i = 0; i < n; i++) good = good && get(d, b, i) == value(g->member[r], i);
    }
    CHECK(good);
    wanted(o->barrier(g->comm));
}

static void check_group(const Group *g) {
    static const int64_t counts[] = {1, 7, 1000, 65539};
    char *a = xmalloc((size_t)g->n * 65539 * 8), *b = xmalloc((size_t)g->n * 65539 * 8);
    CHECK(g->comm->ops->size(g->comm) == g->n && g->comm->ops->rank(g->comm) == g->index);
    for (size_t k = 0; k < COUNT(dtypes); k++)
        for (size_t i = 0; i < COUNT(counts); i++) {
            for (int op = 0; op < REDUCE_COUNT; op++)
                check_reduce(g, dtypes[k], (ReduceOp)op, counts[i], a, b);
            check_gather(g, dtypes[k], counts[i], a, b);
            check_exchange(g, dtypes[k], counts[i], a, b);
            check_exchange_v(g, dtypes[k], a, b);
            check_pairs(g, dtypes[k], counts[i], a, b);
        }
    free(a);
    free(b);
}

/* Ranks that are equal modulo `stride`, of all; or neighbours, `stride` at a time. */
static Group make_group(int stride, bool neighbours) {
    Group g = {0};
    int color = neighbours ? rank / stride : rank % stride;
    for (int r = 0; r < size; r++) {
        if ((neighbours ? r / stride : r % stride) != color) continue;
        if (r == rank) g.index = g.n;
        g.member[g.n++] = r;
    }
    wanted(world->ops->split(world, color, rank, &g.comm));
    return g;
}

/* The same bits on all ranks and each time, of numbers whose sum depends on the order. */
static void check_bits(void) {
    enum { N = 30001 };
    static float a[N], b[N], c[N], all[64 * N];
    for (int k = 0; k < 3; k++) {
        int64_t n = k == 0 ? 5 : k == 1 ? 1500 : N;
        for (int64_t i = 0; i < n; i++)
            a[i] =
                random_unit(philox((uint32_t)rank, (uint64_t)i, NULL)) * powf(10, (float)(i % 7));
        wanted(world->ops->all_reduce(world, a, b, n, DT_F32, REDUCE_SUM));
        for (int round = 0; round < 20; round++) {
            wanted(world->ops->all_reduce(world, a, c, n, DT_F32, REDUCE_SUM));
            CHECK(memcmp(b, c, (size_t)n * 4) == 0);
        }
        wanted(world->ops->all_gather(world, b, all, n, DT_F32));
        for (int r = 0; r < size; r++) CHECK(memcmp(b, all + r * n, (size_t)n * 4) == 0);
    }
}

static void check_all(void) {
    wanted(start(20, 0));
    Group all = make_group(1, false), twos = make_group(2, true), strided = make_group(2, false);
    check_group(&all);
    check_group(&twos);
    check_group(&strided);
    check_bits();
    all.comm->ops->close(all.comm);
    twos.comm->ops->close(twos.comm);
    strided.comm->ops->close(strided.comm);
}

/* ---- plans ---- */

enum { ARENA = 1 << 16 };

typedef struct {
    Session *session;
    Plan *plan;
} Maker;

static Maker make_plan(void) {
    Maker m = {.session = session_new()};
    Plan *p = m.plan = plan_new(m.session);
    p->arena[MEM_DEVICE] = ARENA;
    p->ranks = size;
    p->target = on_gpu() ? "sm_80" : "cpu";
    vec_push(&p->group, ((PlanGroup){.name = "all", .nlevel = 1, .size = {size}, .stride = {1}}));
    if (size % 2 == 0) {
        vec_push(&p->group,
                 ((PlanGroup){.name = "far", .nlevel = 1, .size = {size / 2}, .stride = {2}}));
        vec_push(&p->group, ((PlanGroup){.name = "near", .nlevel = 1, .size = {2}, .stride = {1}}));
    }
    return m;
}

static uint32_t add_buffer(Maker *m, const char *name, BufKind kind, Dtype d, int64_t at,
                           int64_t n) {
    vec_push(&m->plan->buffer, ((PlanBuffer){.name = name,
                                             .kind = kind,
                                             .dtype = d,
                                             .rank = n == 1 ? 0 : 1,
                                             .dim = {n},
                                             .offset = at,
                                             .bytes = n * dtype_size(d)}));
    return m->plan->buffer.n - 1;
}

static PlanStep *add_step(Maker *m, StepKind kind, Stream stream, uint32_t nargs) {
    PlanStep s = {.kind = kind, .stream = stream, .nargs = nargs};
    s.arg = arena_array(session_arena(m->session), PlanArg, nargs);
    s.wait = arena_array(session_arena(m->session), uint32_t, 8);
    vec_push(&m->plan->step, s);
    return &m->plan->step.p[m->plan->step.n - 1];
}

static PlanCollective collective(Maker *m, Collective kind, uint32_t group, Dtype dtype, Dtype wire,
                                 uint32_t n, const int64_t *count) {
    PlanCollective c = {.kind = kind, .group = group, .n = n, .dtype = dtype, .wire = wire};
    c.scale = wire == dtype ? 1 : 8;
    c.room = n > 1 || wire != dtype;
    c.peer = -1;
    c.count = arena_array(session_arena(m->session), int64_t, n);
    memcpy(c.count, count, n * sizeof *count);
    return c;
}

static Exec *open_exec(const Plan *plan) {
    Exec *e = NULL;
    ExecOptions o = {.device = on_gpu() ? &device_cuda : &device_cpu,
                     .pool = pool,
                     .dir = "/tmp",
                     .comm = world,
                     .rank = rank};
    wanted(exec_open(plan, &o, &e));
    return e;
}

static void free_plan(Maker *m) {
    plan_free(m->plan);
    session_free(m->session);
}

/* all_reduce of several operands over a group, in place and not, with each wire. */
static void exec_reduce(uint32_t group, Dtype wire, bool in_place) {
    enum { A = 100, B = 3000 };
    static const int64_t count[] = {A, B};
    Maker m = make_plan();
    PlanStep *s = add_step(&m, STEP_COLLECTIVE, STREAM_COMM, 5);
    static float x[A + B], y[A + B];
    s->collective = collective(&m, COLLECTIVE_ALL_REDUCE, group, DT_F32, wire, 2, count);
    uint32_t a = add_buffer(&m, "a", BUF_STATE, DT_F32, 0, A);
    uint32_t b = add_buffer(&m, "b", BUF_STATE, DT_F32, 1024, B);
    uint32_t c = add_buffer(&m, "c", BUF_STATE, DT_F32, 16384, A);
    uint32_t d = add_buffer(&m, "d", BUF_STATE, DT_F32, 17408, B);
    uint32_t room = add_buffer(&m, "room", BUF_TEMP, wire, 32768, A + B);
    uint32_t args[] = {a, b, in_place ? a : c, in_place ? b : d, room};
    for (int i = 0; i < 5; i++) s->arg[i].buffer = args[i];
    Exec *e = open_exec(m.plan);
    for (int i = 0; i < A + B; i++) x[i] = (float)value(rank, i);
    wanted(exec_write(e, a, x, A * 4));
    wanted(exec_write(e, b, x + A, B * 4));
    wanted(exec_step(e, 1));
    wanted(exec_read(e, args[2], y, A * 4));
    wanted(exec_read(e, args[3], y + A, B * 4));
    const PlanGroup *g = &m.plan->group.p[group];
    int member[64], n = (int)plan_group_size(g);
    for (int i = 0; i < n; i++) member[i] = (int)plan_group_member(g, rank, i);
    bool good = true;
    for (int i = 0; i < A + B; i++)
        good = good && (double)y[i] == reduced(member, n, REDUCE_SUM, i);
    CHECK(good);
    exec_close(e);
    free_plan(&m);
}

/* Of two operands as one message: a reduce_scatter of all ranks' blocks, or an all_gather. */
static void exec_blocks(uint32_t group, Collective kind, Dtype wire) {
    enum { A = 12, B = 200, MOST = 16 * (A + B) }; /* of at most 16 ranks */
    static float x[MOST], y[MOST];
    Maker m = make_plan();
    const PlanGroup *g = &m.plan->group.p[group];
    int member[64], n = (int)plan_group_size(g), own = (int)plan_group_index(g, rank);
    bool scatters = kind == COLLECTIVE_REDUCE_SCATTER;
    int64_t count[] = {scatters ? A * n : A, scatters ? B * n : B};
    int64_t result[] = {scatters ? A : A * n, scatters ? B : B * n};
    PlanStep *s = add_step(&m, STEP_COLLECTIVE, STREAM_COMM, 5);
    s->collective = collective(&m, kind, group, DT_F32, wire, 2, count);
    s->arg[0].buffer = add_buffer(&m, "a", BUF_STATE, DT_F32, 0, count[0]);
    s->arg[1].buffer = add_buffer(&m, "b", BUF_STATE, DT_F32, 1024, count[1]);
    s->arg[2].buffer = add_buffer(&m, "c", BUF_STATE, DT_F32, 16384, result[0]);
    s->arg[3].buffer = add_buffer(&m, "d", BUF_STATE, DT_F32, 17408, result[1]);
    s->arg[4].buffer = add_buffer(&m, "room", BUF_TEMP, wire, 32768, (A + B) * n);
    Exec *e = open_exec(m.plan);
    for (int i = 0; i < count[0] + count[1]; i++) x[i] = (float)value(rank, i);
    wanted(exec_write(e, s->arg[0].buffer, x, count[0] * 4));
    wanted(exec_write(e, s->arg[1].buffer, x + count[0], count[1] * 4));
    wanted(exec_step(e, 1));
    wanted(exec_read(e, s->arg[2].buffer, y, result[0] * 4));
    wanted(exec_read(e, s->arg[3].buffer, y + result[0], result[1] * 4));
    for (int i = 0; i < n; i++) member[i] = (int)plan_group_member(g, rank, i);
    bool good = true;
    for (int i = 0; i < result[0] + result[1]; i++) {
        int k = i >= result[0], at = k ? i - (int)result[0] : i, size = k ? B : A;
        int from = k ? (int)count[0] : 0; /* of operand k among the elements of both */
        double want = scatters ? reduced(member, n, REDUCE_SUM, from + own * size + at)
                               : value(member[at / size], from + at % size);
        good = good && (double)y[i] == want;
    }
    CHECK(good);
    exec_close(e);
    free_plan(&m);
}

/* all_to_all and a ring of send and recv with a wire narrower than the tensors. */
static void exec_exchange(Dtype dtype, Dtype wire) {
    enum { N = 500 };
    const int64_t count = (int64_t)N * size, one = N;
    Maker m = make_plan();
    uint32_t a = add_buffer(&m, "a", BUF_STATE, dtype, 0, count);
    uint32_t b = add_buffer(&m, "b", BUF_STATE, dtype, 16384, count);
    uint32_t room = add_buffer(&m, "room", BUF_TEMP, wire, 32768, count);
    uint32_t c = add_buffer(&m, "c", BUF_STATE, dtype, 49152, N);
    uint32_t room2 = add_buffer(&m, "room2", BUF_TEMP, wire, 57344, N);
    bool narrow = wire != dtype;
    PlanStep *s = add_step(&m, STEP_COLLECTIVE, STREAM_COMM, 2 + narrow);
    s->collective = collective(&m, COLLECTIVE_ALL_TO_ALL, 0, dtype, wire, 1, &count);
    s->arg[0].buffer = a, s->arg[1].buffer = b;
    if (narrow) s->arg[2].buffer = room;
    for (int k = 0; k < 2; k++) {
        bool sends = (k == 0) == (rank % 2 == 0);
        s = add_step(&m, STEP_COLLECTIVE, STREAM_COMM_2, 1 + narrow);
        s->collective =
            collective(&m, sends ? COLLECTIVE_SEND : COLLECTIVE_RECV, 0, dtype, wire, 1, &one);
        s->collective.peer = sends ? (rank + 1) % size : (rank + size - 1) % size;
        s->arg[0].buffer = sends ? a : c;
        if (narrow) s->arg[1].buffer = room2;
    }
    Exec *e = open_exec(m.plan);
    char *x = xmalloc((size_t)count * 8);
    fill(dtype, x, count);
    wanted(exec_write(e, a, x, count * dtype_size(dtype)));
    if (size % 2) m.plan->step.n = 1; /* a ring of an odd number would wait for itself */
    wanted(exec_step(e, 1));
    wanted(exec_read(e, b, x, count * dtype_size(dtype)));
    bool good = true;
    for (int r = 0; r < size; r++)
        for (int64_t i = 0; i < N; i++)
            good = good && get(dtype, x, r * N + i) == value(r, (int64_t)rank * N + i);
    wanted(exec_read(e, c, x, N * dtype_size(dtype)));
    for (int64_t i = 0; i < N && size % 2 == 0; i++)
        good = good && get(dtype, x, i) == value((rank + size - 1) % size, i);
    CHECK(good);
    free(x);
    exec_close(e);
    free_plan(&m);
}

/* Long all_reduces of the two streams, of groups that overlap, in orders that would stop if they
 * shared a communicator; many rounds, so that timings differ. */
static void exec_streams(void) {
    enum { N = 1000, STEPS = 12 };
    const int64_t n = N;
    Maker m = make_plan();
    uint32_t last[2] = {UINT32_MAX, UINT32_MAX};
    for (uint32_t k = 0; k < 2; k++) add_buffer(&m, k ? "b" : "a", BUF_STATE, DT_F64, k * 16384, N);
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t k = philox(5, i, NULL) % 2,
                 group = m.plan->group.n > 1 ? philox(6, i, NULL) % 3 : 0;
        PlanStep *s = add_step(&m, STEP_COLLECTIVE, k ? STREAM_COMM_2 : STREAM_COMM, 2);
        s->collective = collective(&m, COLLECTIVE_ALL_REDUCE, group, DT_F64, DT_F64, 1, &n);
        s->collective.reduce = REDUCE_MAX;
        s->arg[0].buffer = s->arg[1].buffer = k;
        last[k] = i;
    }
    CHECK(last[0] != UINT32_MAX && last[1] != UINT32_MAX);
    Exec *e = open_exec(m.plan);
    double x[N];
    for (int round = 1; round <= 30; round++) {
        for (uint32_t k = 0; k < 2; k++) {
            for (int i = 0; i < N; i++) x[i] = rank == i % size ? round : 0;
            wanted(exec_write(e, k, x, sizeof x));
        }
        wanted(exec_step(e, round));
        bool good = true;
        for (uint32_t k = 0; k < 2; k++) {
            wanted(exec_read(e, k, x, sizeof x));
            for (int i = 0; i < N && m.plan->group.n == 1; i++) good = good && (int)x[i] == round;
        }
        CHECK(good);
    }
    exec_close(e);
    free_plan(&m);
}

/* The loss is reduced on a stream; collectives before it happen on all ranks, those behind it on
 * none, when it is no number. */
static void exec_guard(void) {
    enum { N = 2000 };
    const int64_t n = N, one = 1;
    Maker m = make_plan();
    uint32_t input = add_buffer(&m, "input", BUF_INPUT, DT_F32, 0, 1);
    uint32_t loss = add_buffer(&m, "loss", BUF_OUTPUT, DT_F32, 64, 1);
    uint32_t before = add_buffer(&m, "before", BUF_STATE, DT_F32, 128, N);
    uint32_t behind = add_buffer(&m, "behind", BUF_STATE, DT_F32, 16384, N);
    vec_push(&m.plan->input, ((PlanPort){input, 0}));
    vec_push(&m.plan->output, ((PlanPort){loss, 0}));
    struct {
        uint32_t from, to;
        int64_t n;
        Stream stream;
    } steps[] = {{before, before, n, STREAM_COMM_2},
                 {input, loss, one, STREAM_COMM},
                 {behind, behind, n, STREAM_COMM_2}};
    for (size_t i = 0; i < COUNT(steps); i++) {
        PlanStep *s = add_step(&m, STEP_COLLECTIVE, steps[i].stream, 2);
        s->collective = collective(&m, COLLECTIVE_ALL_REDUCE, 0, DT_F32, DT_F32, 1, &steps[i].n);
        s->arg[0].buffer = steps[i].from, s->arg[1].buffer = steps[i].to;
    }
    Exec *e = open_exec(m.plan);
    static float ones[N], x[N];
    for (int i = 0; i < N; i++) ones[i] = 1;
    for (int64_t step = 1; step <= 30; step++) {
        bool bad = step % 3 == 0, stopped;
        float in = bad && rank == step % size ? NAN : 1;
        if (philox((uint32_t)rank, (uint64_t)step, NULL) % 4 == 0) usleep(2000);
        wanted(exec_write(e, input, &in, 4));
        wanted(exec_write(e, before, ones, sizeof ones));
        wanted(exec_write(e, behind, ones, sizeof ones));
        wanted(exec_step_guarded(e, step, &stopped));
        CHECK(stopped == bad);
        wanted(exec_read(e, before, x, sizeof x));
        CHECK(x[0] == (float)size && x[N - 1] == (float)size);
        wanted(exec_read(e, behind, x, sizeof x));
        CHECK(x[0] == (bad ? 1 : (float)size) && x[N - 1] == x[0]);
    }
    exec_close(e);
    free_plan(&m);
}

static void exec_all(void) {
    static const Dtype wires[] = {DT_F32, DT_F16, DT_BF16};
    wanted(start(20, 0));
    for (uint32_t group = 0; group < (size % 2 ? 1u : 3u); group++)
        for (size_t i = 0; i < (on_gpu() ? 1 : COUNT(wires)); i++)
            for (int place = 0; place < 2; place++) exec_reduce(group, wires[i], place);
    for (uint32_t group = 0; group < (size % 2 ? 1u : 3u) && !on_gpu(); group++) {
        for (size_t i = 0; i < COUNT(wires); i++)
            exec_blocks(group, COLLECTIVE_REDUCE_SCATTER, wires[i]);
        exec_blocks(group, COLLECTIVE_ALL_GATHER, DT_F32);
    }
    for (size_t i = 0; i < (on_gpu() ? 1 : COUNT(wires)); i++) exec_exchange(DT_F32, wires[i]);
    exec_exchange(DT_F64, on_gpu() ? DT_F64 : DT_F16);
    exec_exchange(DT_BF16, on_gpu() ? DT_BF16 : DT_F16);
    exec_streams();
    exec_guard();
}

/* ---- how fast ---- */

static double seconds_of(int kind, char *a, char *b, int64_t n, int times) {
    const CommOps *o = world->ops;
    wanted(o->barrier(world));
    double begin = now_seconds();
    for (int i = 0; i < times; i++) {
        if (kind == 0) wanted(o->all_reduce(world, a, b, n, DT_F32, REDUCE_SUM));
        if (kind == 1) wanted(o->all_gather(world, a, b, n / size, DT_F32));
        if (kind == 2) wanted(o->reduce_scatter(world, a, b, n / size, DT_F32, REDUCE_SUM));
        if (kind == 3) wanted(o->all_to_all(world, a, b, n / size, DT_F32));
        if (kind == 4) wanted(o->all_reduce(world, a, b, n, DT_BF16, REDUCE_SUM));
        if (kind == 5) wanted(o->barrier(world));
    }
    return (now_seconds() - begin) / times;
}

static void bench(void) {
    static const char *const names[] = {"all_reduce", "all_gather",      "reduce_scatter",
                                        "all_to_all", "all_reduce bf16", "barrier"};
    enum { MOST = 4 << 20 };
    wanted(start(60, 0));
    char *a = xcalloc(MOST, 4), *b = xcalloc(MOST, 4);
    for (size_t k = 0; k < COUNT(names); k++)
        for (int64_t n = 16; n <= MOST; n *= 16) {
            int times = n < 5000 ? 300 : n < 100000 ? 50 : 8;
            seconds_of((int)k, a, b, n, 2);
            double s = seconds_of((int)k, a, b, n, times);
            if (rank == 0)
                printf("%-16s %10lld elements %10.1f us %8.2f GB/s\n", names[k], (long long)n,
                       s * 1e6, (double)n * (k == 4 ? 2 : 4) / s * 1e-9);
            if (k == 5) break;
        }
    free(a);
    free(b);
}

/* ---- faults ---- */

typedef struct {
    const char *what;
    int rank;
    int64_t at;
} Fault;

static Maker loop_plan(void) {
    enum { N = 5000 };
    const int64_t n = N;
    Maker m = make_plan();
    Plan *p = m.plan;
    uint16_t file = session_find_file(m.session, "net.m6");
    for (uint32_t k = 0; k < 2; k++) add_buffer(&m, k ? "b" : "a", BUF_STATE, DT_F32, k * 20480, N);
    for (uint32_t i = 0; i < 4; i++) {
        PlanStep *s = add_step(&m, STEP_COLLECTIVE, i % 2 ? STREAM_COMM_2 : STREAM_COMM, 2);
        s->collective = collective(&m, COLLECTIVE_ALL_REDUCE, 0, DT_F32, DT_F32, 1, &n);
        s->collective.reduce = REDUCE_MAX;
        s->arg[0].buffer = s->arg[1].buffer = i % 2;
        s->what = "all_reduce";
        s->scope = "block[0]";
        s->loc = (Loc){.file = file, .line = i + 10, .col = 3};
    }
    (void)p;
    return m;
}

static Status misbehave(const Fault *f, Exec *e, Plan *plan) {
    if (strcmp(f->what, "kill") == 0) kill(getpid(), SIGKILL);
    if (strcmp(f->what, "stop") == 0) kill(getpid(), SIGSTOP);
    if (strcmp(f->what, "exit") == 0) _exit(5);
    if (strcmp(f->what, "fail") == 0) return status_make(EXIT_SYSTEM, "the disk is full");
    if (strcmp(f->what, "bad") == 0) return status_make(EXIT_INPUT, "data.jsonl:7: bad row");
    if (strcmp(f->what, "slow") == 0) sleep(30);
    if (strcmp(f->what, "other") == 0) plan->step.p[2].collective.count[0] = 100;
    (void)e;
    return NULL;
}

static Status loop(Exec *e, Plan *plan, int64_t steps, const Fault *f) {
    for (int64_t step = 1; step <= steps; step++) {
        Status s = step == f->at && rank == f->rank ? misbehave(f, e, plan) : NULL;
        if (!s) s = exec_step(e, step);
        if (!s) continue;
        Status told = status_make(s->code, "step %lld: %s", (long long)step, s->text);
        free(s);
        return told;
    }
    return NULL;
}

static int run_loop(int argc, char **argv) {
    if (argc < 6) return 2;
    Fault f = {argv[3], atoi(argv[4]), atoi(argv[5])};
    double timeout = argc > 6 ? atof(argv[6]) : 20;
    int start_rank = getenv("OMPI_COMM_WORLD_RANK") ? atoi(getenv("OMPI_COMM_WORLD_RANK")) : 0;
    if (strcmp(f.what, "early") == 0 && start_rank == f.rank) kill(getpid(), SIGKILL);
    Status s = start(timeout, strcmp(f.what, "differ") == 0 && start_rank == f.rank);
    if (s) return comm_finish(world, s, tell);
    Maker m = loop_plan();
    Exec *e = open_exec(m.plan);
    s = loop(e, m.plan, atoi(argv[2]), &f);
    exec_close(e);
    if (!s && strcmp(f.what, "late") == 0 && rank == f.rank) kill(getpid(), SIGKILL);
    if (!s && strcmp(f.what, "lazy") == 0 && rank == f.rank) kill(getpid(), SIGSTOP);
    if (!s && rank == 0) printf("done\n");
    free_plan(&m);
    pool_close(pool);
    return comm_finish(world, s, tell);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(what, "loop") == 0) return run_loop(argc, argv);
    if (strcmp(what, "check") == 0)
        check_all();
    else if (strcmp(what, "exec") == 0)
        exec_all();
    else if (strcmp(what, "bench") == 0)
        bench();
    else
        return 2;
    int bad = check_done("comm");
    int code = comm_finish(world, NULL, tell);
    pool_close(pool);
    return bad ? bad : code;
}
