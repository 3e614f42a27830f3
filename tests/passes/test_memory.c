/* Checks the planner of memory: plans under every budget compute the same bits as the plan without
 * one; what they promise is what is allocated; time does not fall when the budget falls; no time is
 * below the bound; and where there is little to decide, no choice is better than the one taken. */
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
static Value state(Graph *g, const char *name, const char *kind, Value like) {
    Session *s = g->session;
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, kind);
    AttrValue at[] = {
        {.s = intern(s, full)}, {.s = name}, {.s = intern(s, "zeros")}, {.f = 0}, {.f = 0}};
    return graph_leaf(g, OP_state, attr_intern(s, OP_state, at), type_of(g, like));
}

static bool momentum(void *ctx, Graph *g, const char *name, Value param, Value grad, Value *updated,
                     Value *lr) {
    (void)ctx;
    Value v = state(g, name, "v", param), w = state(g, name, "s", param);
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
                      .opt = {.verify = true, .roundtrip = true}};
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
        Budget b = {(int64_t)(top * (1 - (double)i / (steps + 1))) & ~63, host, disk, NULL, NULL};
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

int main(int argc, char **argv) {
    int from = argc > 1 ? atoi(argv[1]) : 0, to = argc > 2 ? atoi(argv[2]) : 10;
    test_models();
    test_random(from, to);
    return check_done("memory");
}
