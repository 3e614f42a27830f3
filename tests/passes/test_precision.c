/* test_precision.c: which values are low under bf16 and f16, that masters and gradients stay f32,
 * and that the loss and the gradients stay close to those in f32, raised or not. */
#include "tests/passes/model.h"

static Graph *in_precision(Session *s, bool moe, Dtype d, const char *pipeline) {
    Graph *g = model_build(s, (ModelKind){moe, false, 0});
    g->set.precision = d;
    model_pipeline(g, pipeline);
    return g;
}

static bool is_low(const Graph *g, Value v) {
    Dtype d = type_of(g, v)->dtype;
    return d == DT_BF16 || d == DT_F16;
}

/* Contractions are low but for the pinned one of the gate and its gradients. */
static void check_types(const Graph *g, bool moe) {
    int wide = 0, casts = 0;
    for (Value v = 0; v < g->node.n; v++) {
        Op op = (Op)node_of(g, v)->op;
        if (op == OP_einsum) wide += !is_low(g, v);
        if (op == OP_attention || op == OP_dispatch) CHECK(is_low(g, operand(g, v, 0)));
        if (op == OP_param || op == OP_gradient || op == OP_sum || op == OP_exp)
            CHECK(type_of(g, v)->dtype == DT_F32);
        if (op == OP_route) CHECK(type_of(g, operand(g, v, 0))->dtype == DT_F32);
        if (op == OP_cast && is_op(g, operand(g, v, 0), OP_param)) casts++;
    }
    CHECK(wide == (moe ? 2 * 3 : 0));
    CHECK(casts > 0 && casts <= model_count(g, OP_param));
}

/* Norm of the difference of two gradients over the norm of the second. */
static double gradient_error(const Tensor *a, const Tensor *b) {
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < type_elements(b->type); i++) {
        diff += (a->data[i] - b->data[i]) * (a->data[i] - b->data[i]);
        norm += b->data[i] * b->data[i];
    }
    return sqrt(diff) / (sqrt(norm) + 1e-3);
}

static void check_close(Graph *low, Graph *exact, double loss_limit, double grad_limit) {
    Interp *a = model_run(low), *b = model_run(exact);
    double x = model_scalar(a, "loss"), y = model_scalar(b, "loss");
    if (!CHECK(fabs(x - y) < loss_limit * fabs(y))) fprintf(stderr, "loss %g, in f32 %g\n", x, y);
    for (Value v = 0; v < exact->node.n; v++) {
        if (!is_op(exact, v, OP_gradient)) continue;
        for (Value w = 0; w < low->node.n; w++) {
            if (!is_op(low, w, OP_gradient) || node_of(low, w)->attr != node_of(exact, v)->attr)
                continue;
            double e = gradient_error(interp_get(a, w), interp_get(b, v));
            if (!CHECK(e < grad_limit))
                fprintf(stderr, "%s: %g\n", attr_str(node_of(low, w), "of"), e);
        }
    }
    interp_free(a);
    interp_free(b);
}

static void check_model(bool moe, Dtype d, const char *pipeline) {
    Session *s = session_new();
    Graph *exact = in_precision(s, moe, DT_F32, pipeline);
    Graph *low = in_precision(s, moe, d, pipeline);
    check_types(low, moe);
    check_close(low, exact, d == DT_BF16 ? 2e-2 : 2e-3, d == DT_BF16 ? 0.15 : 0.04);
    graph_free(low);
    graph_free(exact);
    session_free(s);
}

int main(void) {
    static const char *const pipelines[] = {"simplify,raise,precision,differentiate,simplify",
                                            "simplify,precision,differentiate,simplify",
                                            "raise,precision,differentiate",
                                            "precision,differentiate"};
    for (size_t p = 0; p < COUNT(pipelines); p++)
        for (int moe = 0; moe < 2; moe++) {
            check_model(moe, DT_BF16, pipelines[p]);
            check_model(moe, DT_F16, pipelines[p]);
        }
    return check_done("precision");
}
