/* test_simplify.c: random graphs keep their results, in few nodes, and a second run finds nothing
 * left to do. Single identities are in the text tests beside this file. */
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"

/* Nodes that compute something. */
static int computing(const Graph *g) {
    int n = 0;
    for (Value v = 0; v < g->node.n; v++)
        n += !(op_info((Op)node_of(g, v)->op)->flags & (OPF_VIEW | OPF_LEAF | OPF_EFFECT));
    return n;
}

/* Results stay, a second run changes nothing, and no work is added. */
static void check_random(uint64_t seed, Dtype d) {
    Session *s = session_new();
    Graph *g =
        random_graph(s, &(RandomGraph){.seed = seed, .nodes = 40, .dtype = d, .bounded = true});
    Graph *plain = model_copy(g);
    model_pipeline(g, "simplify");
    CHECK(computing(g) <= computing(plain));
    Interp *a = model_run(g), *b = model_run(plain);
    if (!CHECK(model_compare(a, b) < (d == DT_F32 ? 1e-9 : 0.1)))
        fprintf(stderr, "seed %llu, %s\n", (unsigned long long)seed, dtype_name(d));
    uint64_t hash = graph_hash(g);
    model_pipeline(g, "simplify");
    CHECK(graph_hash(g) == hash);
    interp_free(a);
    interp_free(b);
    graph_free(g);
    graph_free(plain);
    session_free(s);
}

/* Cheap nodes of two phases stay two; reductions become one. */
static void check_phases(void) {
    Session *s = session_new();
    Graph *g = graph_new(s, "phases");
    Value x = model_input(g, "x", DT_F32, 2, DIMS(2, 3));
    for (int phase = 0; phase < 2; phase++) {
        g->at.phase = (Phase)phase;
        b_output(g, b_ew1(g, OP_exp, x), phase ? "e1" : "e0");
        b_output(g, b_reduce_last(g, OP_sum, x), phase ? "s1" : "s0");
    }
    model_pipeline(g, "simplify");
    CHECK(model_count(g, OP_exp) == 2);
    CHECK(model_count(g, OP_sum) == 1);
    graph_free(g);
    session_free(s);
}

int main(void) {
    check_phases();
    for (uint64_t seed = 1; seed <= 200; seed++) check_random(seed, DT_F32);
    for (uint64_t seed = 1; seed <= 50; seed++) check_random(seed, DT_BF16);
    return check_done("simplify");
}
