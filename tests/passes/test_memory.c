/* Checks the planner of memory: plans under every budget compute the same bits as the plan without
 * one; what they promise is what is allocated; time does not fall when the budget falls; no time is
 * below the bound; and where there is little to decide, no choice is better than the one taken.
 *
 *     test_memory                     everything, in small
 *     test_memory bits FROM TO        random graphs of these seeds
 *     test_memory monotone MODELS N   N budgets of so many models, for each set of other memories
 *     test_memory exact FROM TO       random graphs of these seeds against all choices */
#include "ir/storage.h"
#include "passes/memory_private.h"
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"
#include "tests/passes/play.h"

#include <string.h>

static const char front[] =
    "simplify,raise,precision,differentiate,optimize,simplify,lower,fuse,schedule";

/* A machine on which copies and compute are about as slow as each other for small tensors. */
static const char machine_text[] = "m6c-machine 1\n"
                                   "name \"test\"\n"
                                   "target cpu\n"
                                   "launch 0.2us\n"
                                   "vector 1GOPS\n"
                                   "bandwidth 4GB/s\n"
                                   "peak f32 10GFLOPS efficiency 1\n"
                                   "peak bf16 10GFLOPS efficiency 1\n"
                                   "peak f16 10GFLOPS efficiency 1\n"
                                   "peak f64 10GFLOPS efficiency 1\n"
                                   "host-launch 0.5us\n"
                                   "host-vector 0.5GOPS\n"
                                   "host-bandwidth 4GB/s\n"
                                   "copy in 4GB/s latency 0.1us\n"
                                   "copy out 4GB/s latency 0.1us\n"
                                   "copy read 1GB/s latency 1us\n"
                                   "copy write 1GB/s latency 1us\n"
                                   "slow compute while in 0.9\n";

static Machine *machine(Session *s) {
    Machine *m = machine_parse(s, "test", machine_text, strlen(machine_text));
    CHECK(m != NULL);
    return m;
}

/* Momentum with two states: v' = 0.9 v + g, s' = s + g^2, w' = w - 0.1 v'. */
static bool momentum(void *ctx, Graph *g, const char *name, Value param, Value grad, Value *updated,
                     Value *lr) {
    (void)ctx;
    Value v = model_state(g, name, "v", param), w = model_state(g, name, "s", param);
    Value next = b_ew2(g, OP_add, b_ew2(g, OP_mul, v, b_like(g, 0.9, v)), grad);
    b_assign(g, v, next);
    b_assign(g, w, b_ew2(g, OP_add, w, b_ew2(g, OP_mul, grad, grad)));
    *updated = b_ew2(g, OP_sub, param, b_ew2(g, OP_mul, next, b_like(g, 0.1, next)));
    *lr = NO_VALUE;
    return true;
}

/* ---- one budget ---- */

typedef struct {
    int64_t device, host, disk; /* 0: none */
    const char *checkpoint, *offload;
    bool quick; /* the graph is not verified after each pass */
} Budget;

/* Runs memory and allocate on a copy of g. NULL when it does not fit. */
static Graph *plan(const Graph *g, Budget b, MemoryReport *r) {
    Graph *h = model_copy(g);
    memset(r, 0, sizeof *r);
    h->set.memory = b.device, h->set.host_memory = b.host, h->set.disk = b.disk;
    if (b.checkpoint) h->set.checkpoint = b.checkpoint;
    if (b.offload) h->set.offload = b.offload;
    PassContext cx = {.session = g->session,
                      .machine = machine(g->session),
                      .memory = r,
                      .smallest = true,
                      .opt = {.verify = !b.quick, .roundtrip = !b.quick}};
    CHECK(pipeline_run(h, "memory,allocate", &cx));
    vec_free(&r->decision);
    if (r->fits) return h;
    graph_free(h);
    return NULL;
}

static void check_plan(const Graph *g, Interp *right, Graph *h, Budget b, const MemoryReport *r) {
    const int64_t budget[] = {b.device, b.host, b.disk};
    Interp *in = model_run(h);
    interp_run(in, 7, 2); /* new parameters and states, as the first step left them */
    if (!CHECK(model_compare(right, in) == 0))
        fprintf(stderr, "budget %lld of %s\n", (long long)b.device, g->name);
    for (int m = 0; m < MEM_COUNT; m++) {
        CHECK(storage_bytes(h, (Mem)m) == r->arena[m]);
        CHECK(!budget[m] || r->arena[m] <= budget[m]);
    }
    CHECK(r->predicted_us >= r->bound_us * (1 - 1e-6));
    Price again = memory_price(h, machine(g->session));
    CHECK(again.us <= r->predicted_us * 1.002); /* it hardly ever waits more than promised */
    CHECK(play(h) == 0);
    interp_free(in);
}

/* From everything kept down to the least, with what may be used besides. */
static void check_budgets(const Graph *g, int steps, int64_t host, int64_t disk) {
    MemoryReport r;
    Graph *all = plan(g, (Budget){0}, &r);
    Interp *right = model_run(all);
    interp_run(right, 7, 2);
    double before = 0, top = (double)r.arena[MEM_DEVICE];
    int fitted = 0;
    for (int i = 0; i <= steps; i++) {
        Budget b = {
            (int64_t)(top * (1 - (double)i / (steps + 1))) & ~63, host, disk, NULL, NULL, false};
        Graph *h = plan(g, b, &r);
        if (!h) {
            CHECK(r.smallest > b.device);
            break;
        }
        fitted++;
        check_plan(g, right, h, b, &r);
        if (!CHECK(r.predicted_us >= before * (1 - 1e-12)))
            fprintf(stderr, "%s: %g after %g at %lld\n", g->name, r.predicted_us, before,
                    (long long)b.device);
        before = r.predicted_us;
        graph_free(h);
    }
    CHECK(fitted > 0);
    interp_free(right);
    graph_free(all);
}

static void test_models(void) {
    for (int variant = 0; variant < 24; variant++) {
        Session *s = session_new();
        ModelKind kind = {
            .moe = variant & 1, .shared = variant >> 1 & 1, .micro = variant >> 2 & 1 ? 3 : 0};
        Graph *g = model_build(s, kind);
        g->optimizer = momentum;
        g->set.clip = variant >= 8 ? 0.5 : 0;
        g->set.precision = variant >= 16 ? DT_BF16 : DT_F32;
        model_pipeline(g, front);
        check_budgets(g, 6, variant % 3 ? (int64_t)1 << 30 : 0, variant % 5 == 4 ? 1 << 30 : 0);
        graph_free(g);
        session_free(s);
    }
}

static void test_random(int from, int to) {
    for (int seed = from; seed < to; seed++) {
        Session *s = session_new();
        RandomGraph how = {.seed = (uint64_t)seed,
                           .nodes = 30 + seed % 80,
                           .params = true,
                           .bounded = true,
                           .train = true};
        Graph *g = random_graph(s, &how);
        g->optimizer = momentum;
        model_pipeline(g, front);
        check_budgets(g, 5, seed % 2 ? 1 << 30 : 0, seed % 4 == 3 ? 1 << 30 : 0);
        graph_free(g);
        session_free(s);
    }
}

/* ---- many budgets ---- */

/* Models with few and many layers' worth of values; every second is a random graph. */
static Graph *numbered(Session *s, int i) {
    Graph *g;
    if (i % 2) {
        RandomGraph how = {.seed = (uint64_t)(3000 + i),
                           .nodes = 20 + 11 * i,
                           .params = true,
                           .bounded = true,
                           .train = true};
        g = random_graph(s, &how);
    } else {
        ModelKind kind = {.moe = i >> 1 & 1, .shared = i >> 2 & 1, .micro = i >> 3 & 1 ? 3 : 0};
        g = model_build(s, kind);
        g->set.precision = i >= 16 ? DT_BF16 : DT_F32;
        g->set.clip = i % 3 ? 0 : 0.5;
    }
    g->optimizer = momentum;
    model_pipeline(g, front);
    return g;
}

typedef struct {
    int plans, misfits, steps; /* steps: budgets at which the time changed */
    double worst;              /* the largest time over the bound */
} Tally;

/* N budgets from a little more than everything to a little less than the least. */
static void fall(const Graph *g, int i, int budgets, int64_t host, int64_t disk, Tally *sum) {
    MemoryReport r;
    graph_free(plan(g, (Budget){0}, &r));
    double top = 1.05 * (double)r.arena[MEM_DEVICE], before = 0;
    Budget b = {64, host, disk, NULL, NULL, true};
    Graph *none = plan(g, b, &r);
    CHECK(!none && r.smallest > 64 && r.smallest < INT64_MAX);
    double least = 0.95 * (double)r.smallest;
    int64_t misfit = 0;
    for (int k = 0; k < budgets; k++) {
        b.device = (int64_t)(top - (top - least) * k / (budgets - 1));
        Graph *h = plan(g, b, &r);
        bool good = h ? !misfit && r.arena[MEM_DEVICE] <= b.device &&
                            r.arena[MEM_DEVICE] == storage_bytes(h, MEM_DEVICE) &&
                            r.arena[MEM_HOST] <= host && r.arena[MEM_DISK] <= disk &&
                            r.predicted_us >= r.bound_us * (1 - 1e-9) &&
                            r.predicted_us >= before * (1 - 1e-12)
                      : r.smallest > b.device;
        if (!CHECK(good))
            fprintf(stderr,
                    "model %d, device %lld, host %lld, disk %lld: %s, %lld bytes, %.9g us after "
                    "%.9g, bound %.9g, misfit at %lld\n",
                    i, (long long)b.device, (long long)host, (long long)disk, h ? "fits" : "no",
                    (long long)r.arena[MEM_DEVICE], r.predicted_us, before, r.bound_us,
                    (long long)misfit);
        if (!h) misfit = b.device;
        sum->plans += h != NULL, sum->misfits += !h;
        if (h) sum->steps += r.predicted_us > before;
        if (h && r.bound_us > 0) sum->worst = MAX(sum->worst, r.predicted_us / r.bound_us);
        if (h) before = r.predicted_us;
        graph_free(h);
    }
}

static void test_monotone(int models, int budgets) {
    Tally sum = {0};
    for (int i = 0; i < models; i++) {
        Session *s = session_new();
        Graph *g = numbered(s, i);
        int64_t state = 0;
        for (Value v = 0; v < g->node.n; v++)
            if (is_op(g, v, OP_param) || is_op(g, v, OP_state)) state += type_bytes(type_of(g, v));
        const int64_t large = 1 << 30, few = state / 4;
        const int64_t others[][2] = {{0, 0}, {large, 0}, {0, large}, {few, large}};
        for (size_t k = 0; k < COUNT(others); k++)
            fall(g, i, budgets, others[k][0], others[k][1], &sum);
        graph_free(g);
        session_free(s);
    }
    printf("monotone: %d models, 4 sets of host memory and disk, %d budgets each: %d plans, %d "
           "budgets do not fit, %d times differ from the one before, the worst is %.2f times its "
           "bound\n",
           models, budgets, sum.plans, sum.misfits, sum.steps, sum.worst);
}

/* ---- all choices ---- */

enum { MOST_CHOICES = 4096, MOST_DECISIONS = 12, EXACT_BUDGETS = 6 };

typedef struct {
    uint32_t *choice;
    int64_t target; /* of the windows */
    double us;
    int64_t peak, arena[MEM_COUNT];
    bool placed;
} Way;

typedef struct {
    Problem p;
    VEC(Way) way;
} Ways;

static void add_way(Ways *w, const Choice choice, int64_t target) {
    Way x = {.choice = arena_array(w->p.arena, uint32_t, w->p.subject.n + 1), .target = target};
    Program g;
    memcpy(x.choice, choice, w->p.subject.n * sizeof *choice);
    program_make(&w->p, choice, &g);
    x.peak = g.peak[MEM_DEVICE];
    if (!g.broken) {
        program_windows(&w->p, &g, target);
        x.us = program_time(&w->p, &g);
        vec_push(&w->way, x);
    }
    program_free(&g);
}

static void place_way(const Problem *p, Way *x) {
    if (x->placed) return;
    Program g;
    program_make(p, x->choice, &g);
    program_windows(p, &g, x->target);
    Graph *made = program_emit(p, &g);
    memory_place(made, x->arena);
    x->placed = true;
    graph_free(made);
    program_free(&g);
}

static int by_us(const void *a, const void *b) {
    const Way *x = a, *y = b;
    return (x->us > y->us) - (x->us < y->us);
}

/* Time of the fastest way within the budgets; infinite where there is none. */
static double best_way(Ways *w, Budget b) {
    const int64_t budget[] = {b.device, b.host, b.disk};
    for (uint32_t i = 0; i < w->way.n; i++) {
        Way *x = &w->way.p[i];
        if (x->peak > b.device) continue;
        place_way(&w->p, x);
        bool good = true;
        for (int m = 0; m < MEM_COUNT; m++) good &= x->arena[m] <= budget[m];
        if (good) return x->us;
    }
    return INFINITY;
}

/* Every way to treat the subjects from i on, each with `windows` targets. */
static void all_ways(Ways *w, uint32_t i, Choice choice, int windows) {
    int64_t most = w->p.slots.bound[MEM_DEVICE];
    if (i == w->p.subject.n) {
        for (int k = 0; k < windows; k++) add_way(w, choice, most * k / (windows - 1));
        add_way(w, choice, INT64_MAX);
        return;
    }
    const Subject *s = &w->p.subject.p[i];
    choice[i] = s->forced;
    all_ways(w, i + 1, choice, windows);
    for (uint32_t o = 0; !s->hinted && o < s->noption; o++) {
        choice[i] = s->option + o;
        all_ways(w, i + 1, choice, windows);
    }
}

/* What the planner looks at where there are too many choices to try all. */
static void greedy_ways(Ways *w) {
    uint32_t *choice = arena_array(w->p.arena, uint32_t, w->p.subject.n + 1);
    Program g;
    search_forced(&w->p, choice);
    add_way(w, choice, INT64_MAX);
    for (int i = 0; search_policy(&w->p, i, choice); i++) {
        add_way(w, choice, INT64_MAX);
        add_way(w, choice, 0);
    }
    for (double weight = 1; weight < 5; weight *= 4) {
        double target = (double)w->way.p[0].peak;
        search_forced(&w->p, choice);
        program_make(&w->p, choice, &g);
        for (bool reached = true; reached;) {
            target *= 0.96;
            reached = search_greedy(&w->p, (int64_t)target, (SearchHow){weight, false}, choice, &g);
            add_way(w, choice, (int64_t)target);
        }
        program_free(&g);
    }
}

typedef struct {
    int graphs, budgets, none; /* none: budgets that no way keeps */
    int lost, slower;          /* greedy search alone finds no plan, a slower one */
    int finer;                 /* more targets of windows give a faster one */
    uint64_t ways;
    uint32_t most;
    double gap, mean, fine;
} Exact;

static uint64_t number_of_choices(const Problem *p) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < p->subject.n && n <= MOST_CHOICES; i++)
        if (!p->subject.p[i].hinted) n *= p->subject.p[i].noption + 1;
    return n;
}

static Ways ways_of(Graph *g, PassContext *cx, bool greedy, int windows) {
    Ways w = {0};
    problem_build(&w.p, g, cx, cx->scratch);
    search_settings(&w.p);
    if (w.p.subject.n == 0 || w.p.subject.n > MOST_DECISIONS) return w;
    if (number_of_choices(&w.p) > MOST_CHOICES) return w;
    if (greedy)
        greedy_ways(&w);
    else
        all_ways(&w, 0, arena_array(cx->scratch, uint32_t, w.p.subject.n + 1), windows);
    qsort(w.way.p, w.way.n, sizeof *w.way.p, by_us);
    return w;
}

static void ways_free(Ways *w) {
    problem_free(&w->p);
    vec_free(&w->way);
}

/* The planner's time at budgets from everything to the least is that of the fastest way. */
static void compare_ways(const Graph *g, Ways *all, Ways *fine, Ways *greedy, Budget b, int seed,
                         Exact *sum) {
    MemoryReport r;
    graph_free(plan(g, (Budget){0}, &r));
    double top = (double)r.arena[MEM_DEVICE];
    b.device = 64;
    graph_free(plan(g, b, &r));
    CHECK(r.smallest > 64 && r.smallest < INT64_MAX);
    double least = (double)r.smallest;
    for (int i = 0; i < EXACT_BUDGETS; i++) {
        b.device = (int64_t)(top - (top - least) * i / (EXACT_BUDGETS - 2));
        if (i == EXACT_BUDGETS - 1) b.device = (int64_t)(0.98 * least);
        Graph *h = plan(g, b, &r);
        double best = best_way(all, b), alone = best_way(greedy, b), finer = best_way(fine, b);
        bool good = h ? fabs(r.predicted_us / best - 1) < 1e-9 : best == INFINITY;
        if (!CHECK(good))
            fprintf(stderr, "seed %d, budgets %lld %lld %lld: %.9g us, the best way takes %.9g\n",
                    seed, (long long)b.device, (long long)b.host, (long long)b.disk,
                    h ? r.predicted_us : INFINITY, best);
        graph_free(h);
        if (best == INFINITY) {
            sum->none++;
            continue;
        }
        sum->budgets++;
        sum->lost += alone == INFINITY;
        sum->slower += alone < INFINITY && alone > best * (1 + 1e-9);
        if (alone < INFINITY) sum->gap = MAX(sum->gap, alone / best - 1);
        if (alone < INFINITY) sum->mean += MAX(alone / best - 1, 0);
        sum->finer += finer < best * (1 - 1e-9);
        sum->fine = MAX(sum->fine, best / MIN(best, finer) - 1);
    }
}

static void exact_graph(const Graph *g, Budget b, int seed, Exact *sum) {
    Graph *h = model_copy(g);
    h->set.memory = 1, h->set.host_memory = b.host, h->set.disk = b.disk;
    PassContext cx = {
        .session = g->session, .machine = machine(g->session), .scratch = arena_new()};
    Ways all = ways_of(h, &cx, false, 3);
    if (all.way.n) {
        Ways fine = ways_of(h, &cx, false, 9), greedy = ways_of(h, &cx, true, 0);
        sum->graphs++;
        sum->ways += all.way.n;
        sum->most = MAX(sum->most, all.p.subject.n);
        compare_ways(g, &all, &fine, &greedy, b, seed, sum);
        ways_free(&fine);
        ways_free(&greedy);
    }
    ways_free(&all);
    arena_free(cx.scratch);
    graph_free(h);
}

/* A chain of matrix products and tanh, whose layers differ in width. */
static Graph *chain(Session *s, int seed) {
    Graph *g = graph_new(s, "chain");
    int layers = 1 + seed % 4, width = 8 + 8 * (seed / 4 % 3), rows = 4 << seed / 12 % 4;
    g->set.train = true;
    Value x = model_input(g, "x", DT_F32, 2, DIMS(rows, width));
    for (int i = 0; i < layers; i++) {
        char name[32], scope[32];
        int next = (i + seed) % 3 ? width : 12;
        snprintf(name, sizeof name, "w%d", i);
        snprintf(scope, sizeof scope, "layer[%d]", i);
        g->at.scope = intern(s, scope);
        Value w = model_param(g, name, 2, DIMS(width, next));
        x = b_ew1(g, OP_tanh, EINSUM(g, "rk,kn->rn", x, w));
        width = next;
    }
    g->at.scope = "";
    Value flat = b_reshape(g, b_ew2(g, OP_mul, x, x), 1, DIMS((int64_t)rows * width));
    b_output(g, model_reduce(g, OP_sum, flat, false), "loss");
    return g;
}

static void test_exact(int from, int to) {
    Exact sum = {0};
    for (int seed = from; seed < to; seed++) {
        Session *s = session_new();
        RandomGraph how = {.seed = (uint64_t)seed,
                           .nodes = 8 + seed % 24,
                           .params = true,
                           .bounded = true,
                           .max_size = 20,
                           .train = true};
        Graph *g = seed % 2 ? random_graph(s, &how) : chain(s, seed / 2);
        g->optimizer = momentum;
        model_pipeline(g, front);
        const int64_t large = 1 << 30;
        const Budget tiers[] = {{.host = 0}, {.host = large}, {.host = 2048, .disk = large}};
        for (size_t k = 0; k < COUNT(tiers); k++) exact_graph(g, tiers[k], seed, &sum);
        graph_free(g);
        session_free(s);
    }
    CHECK(sum.graphs > 0 && sum.budgets > sum.graphs);
    printf(
        "exact: %d graphs of at most %u decisions, %llu ways, %d budgets and %d that no way keeps: "
        "the plan is the fastest way; greedy search alone finds none at %d of them and a slower "
        "one at %d, %.2f %% slower on average, at most %.1f %%; nine targets of windows instead "
        "of three give a faster one at %d, by at most %.1f %%\n",
        sum.graphs, sum.most, (unsigned long long)sum.ways, sum.budgets, sum.none, sum.lost,
        sum.slower, 100 * sum.mean / MAX(sum.budgets - sum.lost, 1), 100 * sum.gap, sum.finer,
        100 * sum.fine);
}

int main(int argc, char **argv) {
    int a = argc > 2 ? atoi(argv[2]) : 0, b = argc > 3 ? atoi(argv[3]) : 0;
    const char *only = argc > 1 ? argv[1] : "";
    if (!*only) test_models();
    if (!*only || !strcmp(only, "bits")) test_random(a, b ? b : 4);
    if (!*only || !strcmp(only, "monotone")) test_monotone(a ? a : 4, b ? b : 8);
    if (!*only || !strcmp(only, "exact")) test_exact(a, b ? b : 5);
    return check_done("memory");
}
