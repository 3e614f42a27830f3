/* Checks schedule and allocate: the order computes the same values, micro-batches do not overlap,
 * every value's bytes stay its own from the unit that writes them to the last that reads them (by
 * playing the steps over a map of the arena), and the arena is at most 1 % over its bound. */
#include "ir/storage.h"
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"
#include "tests/passes/play.h"

#include <string.h>

/* Forward and backward of a micro-batch end before the next one begins, but for what an earlier one
 * needs: the number of targets of all. */
static void check_micro_order(const Graph *g) {
    int now = 0, *place = xcalloc(g->node.n + 1, sizeof *place);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        place[v] = n->micro < 0 ? INT32_MAX : 2 * n->micro + (n->phase != PHASE_FORWARD);
    }
    for (Value v = g->node.n; v-- > 0;)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            place[operand(g, v, i)] = MIN(place[operand(g, v, i)], place[v]);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->micro < 0 || node_of(g, v)->group == 0) continue;
        CHECK(place[v] >= now);
        now = place[v];
    }
    free(place);
}

static void place(Graph *g, const char *what) {
    model_pipeline(g, "schedule,allocate");
    CHECK(play(g) == 0);
    check_micro_order(g);
    double over =
        (double)storage_bytes(g, MEM_DEVICE) / (double)MAX(storage_bound(g, MEM_DEVICE), 1);
    if (!CHECK(over <= 1.01)) fprintf(stderr, "%s: %.3f of the bound\n", what, over);
}

/* ---- models ---- */

/* Momentum: v' = 0.9 v + g, w' = w - 0.1 v'. */
static bool momentum(void *ctx, Graph *g, const char *name, Value param, Value grad, Value *updated,
                     Value *lr) {
    (void)ctx;
    Value v = model_state(g, name, "v", param);
    Value next = b_ew2(g, OP_add, b_ew2(g, OP_mul, v, b_like(g, 0.9, v)), grad);
    b_assign(g, v, next);
    *updated = b_ew2(g, OP_sub, param, b_ew2(g, OP_mul, next, b_like(g, 0.1, next)));
    *lr = NO_VALUE;
    return true;
}

static const char front[] = "simplify,raise,precision,differentiate,optimize,simplify,lower,fuse";

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
        Graph *h = model_copy(g);
        place(h, "model");
        Interp *a = model_run(g), *b = model_run(h);
        CHECK(model_compare(a, b) == 0);
        interp_run(a, 7, 2);
        interp_run(b, 7, 2);
        CHECK(model_compare(a, b) == 0);
        interp_free(a);
        interp_free(b);
        graph_free(g);
        graph_free(h);
        session_free(s);
    }
}

static void test_random(void) {
    for (uint64_t seed = 0; seed < 120; seed++) {
        Session *s = session_new();
        RandomGraph how = {.seed = seed,
                           .nodes = 30 + (int)(seed % 80),
                           .params = true,
                           .bounded = true,
                           .train = seed & 1};
        Graph *g = random_graph(s, &how);
        g->optimizer = momentum;
        model_pipeline(g, how.train ? front : "simplify,lower,fuse");
        Graph *h = model_copy(g);
        place(h, "random");
        Interp *a = model_run(g), *b = model_run(h);
        CHECK(model_compare(a, b) == 0);
        interp_free(a);
        interp_free(b);
        graph_free(g);
        graph_free(h);
        session_free(s);
    }
}

/* ---- peaks ---- */

/* x -> gelu(x w) over and over; weights are large, activations small. */
static Graph *chain(Session *s, int layers, int64_t rows, int64_t width) {
    Graph *g = graph_new(s, "chain");
    g->set.train = true;
    g->optimizer = momentum;
    Value x = model_input(g, "x", DT_F32, 2, DIMS(rows, width));
    for (int i = 0; i < layers; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%d", i);
        x = b_ew1(g, OP_gelu,
                  EINSUM(g, "ab,bc->ac", x, model_param(g, name, 2, DIMS(width, width))));
    }
    b_output(g, b_reduce(g, OP_sum, b_ew2(g, OP_mul, x, x), 2, DIMS(0, 1)), "loss");
    return g;
}

/* Without clipping an update follows its gradient, in place: one weight gradient at a time. With
 * it all gradients are there at once. */
static void test_updates_run_early(void) {
    Session *s = session_new();
    int64_t w = 320 * 320 * 4, x = 2 * 320 * 4, layers = 12; /* small updates share a launch */
    int64_t leaves = 2 * layers * w + x;
    Graph *g = chain(s, (int)layers, 2, 320), *h = chain(s, (int)layers, 2, 320);
    model_pipeline(g, front);
    place(g, "chain");
    CHECK(storage_bytes(g, MEM_DEVICE) <= leaves + w + 3 * layers * x);
    h->set.clip = 1;
    model_pipeline(h, front);
    place(h, "clipped chain");
    CHECK(storage_bytes(h, MEM_DEVICE) <= leaves + layers * w + 3 * layers * x);
    CHECK(storage_bytes(h, MEM_DEVICE) >= leaves + layers * w);
    graph_free(g);
    graph_free(h);
    session_free(s);
}

/* A chain of elementwise kernels needs no second buffer; without units nothing is placed. */
static void test_in_place(void) {
    static const char text[] =
        "graph t\n"
        "%0 = input {name=\"x\", bound=0} : f32[64]\n"
        "%1 = exp %0 : f32[64] !group=1\n"
        "%2 = sin %1 : f32[64] !group=2\n"
        "%3 = reshape %2 {shape=[8,8]} : f32[8,8]\n"
        "%4 = cos %3 : f32[8,8] !group=3\n"
        "%5 = output %4 {name=\"y\"} : f32[8,8]\n"
        "%6 = state {name=\"s\", of=\"\", init=\"zeros\", a=0, b=0} : f32[64]\n"
        "%7 = add %6 %0 : f32[64] !group=4\n"
        "%8 = assign %6 %7 : f32[64]\n";
    Session *s = session_new();
    Graph *g = graph_parse(s, "t", text, strlen(text));
    if (CHECK(g != NULL)) {
        place(g, "in place");
        CHECK(storage_bytes(g, MEM_DEVICE) == 3 * 256);
    }
    graph_free(g);
    g = chain(s, 2, 2, 4);
    model_pipeline(g, "schedule,allocate");
    CHECK(storage_bytes(g, MEM_DEVICE) == 0);
    graph_free(g);
    session_free(s);
}

int main(void) {
    test_in_place();
    test_updates_run_early();
    test_models();
    test_random();
    return check_done("storage");
}
