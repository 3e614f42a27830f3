/* test_differentiate.c: gradients of whole graphs against central differences in double precision:
 * random graphs, and small models dense and with experts, shared, over micro-batches, with and
 * without raising. */
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"

static double loss_with(Graph *g, const char *name, const double *x) {
    Interp *in = interp_new(g);
    model_fill(in);
    CHECK(interp_set(in, name, x));
    interp_run(in, 7, 1);
    double loss = model_scalar(in, "loss");
    interp_free(in);
    return loss;
}

/* Central difference of element i of a parameter whose values are x. */
static double difference(Graph *g, const char *name, double *x, int64_t i) {
    double h = 1e-5, keep = x[i];
    x[i] = keep + h;
    double up = loss_with(g, name, x);
    x[i] = keep - h;
    double down = loss_with(g, name, x);
    x[i] = keep;
    return (up - down) / (2 * h);
}

static Value param_node(const Graph *g, const char *name) { return find_leaf(g, OP_param, name); }

/* Up to `samples` elements of one gradient. `plain` computes the same loss. */
static void check_gradient(Graph *plain, const Interp *run, Value sink, int samples) {
    const char *name = attr_str(node_of(run->g, sink), "of");
    const Tensor *grad = interp_get(run, operand(run->g, sink, 0));
    const Tensor *start = interp_get(run, param_node(run->g, name));
    int64_t n = type_elements(grad->type);
    double *x = xcalloc((size_t)n, sizeof *x);
    memcpy(x, start->data, (size_t)n * sizeof *x);
    for (int k = 0; k < samples && k < n; k++) {
        int64_t i = n <= samples ? k : philox(5, (uint64_t)k, NULL) % n;
        double want = difference(plain, name, x, i), got = grad->data[i];
        if (!CHECK(fabs(got - want) <= 2e-6 * fmax(1, fabs(want))))
            fprintf(stderr, "%s[%lld]: %.12g, by differences %.12g\n", name, (long long)i, got,
                    want);
    }
    free(x);
}

static void check_model(Graph *g, const char *pipeline, int samples) {
    Graph *plain = model_copy(g);
    model_pipeline(g, pipeline);
    Interp *run = model_run(g);
    int sinks = 0;
    double size = 0;
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_gradient)) continue;
        check_gradient(plain, run, v, samples);
        size += fabs(interp_get(run, operand(g, v, 0))->data[0]);
        sinks++;
    }
    CHECK(sinks == 0 || size > 0);
    CHECK(sinks == model_count(g, OP_param));
    interp_free(run);
    graph_free(plain);
}

static void check_models(void) {
    static const ModelKind kinds[] = {
        {false, false, 0}, {true, false, 0}, {false, true, 0}, {true, true, 2}};
    static const char *const pipelines[] = {"differentiate",
                                            "simplify,raise,differentiate,simplify"};
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t p = 0; p < COUNT(pipelines); p++) {
            Session *s = session_new();
            Graph *g = model_build(s, kinds[k]);
            check_model(g, pipelines[p], 3);
            graph_free(g);
            session_free(s);
        }
}

static void check_random(uint64_t seed) {
    Session *s = session_new();
    Buf ignored = {0};
    diag_capture(s, &ignored);
    Graph *g = random_graph(
        s,
        &(RandomGraph){.seed = seed, .nodes = 25, .params = true, .train = true, .bounded = true});
    g->set.train = true;
    check_model(g, "differentiate", 4);
    graph_free(g);
    session_free(s);
    buf_free(&ignored);
}

/* Backward nodes belong to the micro-batch of their forward node, and the sums over micro-batches
 * are made in order. */
static void check_micro(void) {
    Session *s = session_new();
    Graph *g = model_build(s, (ModelKind){false, false, 3});
    model_pipeline(g, "simplify,differentiate");
    int count[3] = {0};
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->phase != PHASE_BACKWARD || n->micro < 0) continue;
        count[n->micro]++;
        for (uint32_t i = 0; i < n->nin; i++)
            CHECK(node_of(g, operand(g, v, i))->micro <= n->micro);
    }
    CHECK(count[0] > 0 && count[0] <= count[1] && count[1] <= count[2]);
    graph_free(g);
    session_free(s);
}

static void check_unused(void) {
    Session *s = session_new();
    Buf text = {0};
    diag_capture(s, &text);
    Graph *g = graph_new(s, "unused");
    g->set.train = true;
    Value p = model_param(g, "p", 1, DIMS(3)), x = model_param(g, "idle", 1, DIMS(2));
    (void)x;
    b_output(g, b_reduce_last(g, OP_sum, b_ew2(g, OP_mul, p, p)), "loss");
    model_pipeline(g, "differentiate");
    CHECK(model_count(g, OP_gradient) == 2);
    CHECK(text.p && strstr(text.p, "does not depend on parameter 'idle'"));
    graph_free(g);
    session_free(s);
    buf_free(&text);
}

int main(void) {
    check_models();
    check_micro();
    check_unused();
    for (uint64_t seed = 1; seed <= 40; seed++) check_random(seed);
    return check_done("differentiate");
}
