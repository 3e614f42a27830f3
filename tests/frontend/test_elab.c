/* test_elab.c: what models mean, computed by the interpreter: values of expressions against numbers
 * worked out by hand or by loops, names of parameters, micro-batches against the whole batch, and
 * training through the passes with each optimizer of the standard library. */
#include <math.h>
#include <stdlib.h>
#include "frontend/elab.h"
#include "passes/passes.h"
#include "tests/check.h"

static Graph *build(Session *s, const char *text, bool infer, const char *set) {
    ElabOptions o = {.infer = infer, .nset = set != NULL, .set = &set};
    File *f = frontend_load_text(s, "test.m6", text, strlen(text));
    Graph *g = f ? elaborate(s, f, &o) : NULL;
    if (!CHECK(g != NULL)) exit(1);
    Buf report = {0};
    if (!CHECK(graph_verify(g, &report) == 0)) fprintf(stderr, "%s\n", report.p);
    buf_free(&report);
    return g;
}

/* Inputs of a fixed pattern; integers stay below their bound, every third target is ignored. */
static void fill(Interp *in) {
    for (Value v = 0; v < in->g->node.n; v++) {
        const Node *n = node_of(in->g, v);
        if (n->op != OP_input || attr_str(n, "name")[0] == '@') continue;
        int64_t count = type_elements(n->type), bound = attr_int(n, "bound");
        double *x = xcalloc((size_t)count, sizeof *x);
        for (int64_t i = 0; i < count; i++) {
            uint32_t r = philox(17, (uint64_t)i, NULL);
            x[i] = dtype_is_float(n->type->dtype) ? random_unit(r) - 0.5
                                                  : (double)(r % (bound ? bound : 7));
            bool target = strcmp(attr_str(n, "name"), "y") == 0;
            if (target && i % 3 == 1) x[i] = -100;
        }
        interp_set(in, attr_str(n, "name"), x);
        free(x);
    }
}

static double run_loss(Graph *g) {
    Interp *in = interp_new(g);
    fill(in);
    interp_run(in, 3, 1);
    double loss = interp_output(in, "loss")->data[0];
    interp_free(in);
    return loss;
}

/* ---- expressions ---- */

static const struct {
    const char *expr;
    double value;
} expressions[] = {
    {"2 + 3 * 4", 14},
    {"(2 + 3) * 4", 20},
    {"7 / 2", 3.5},
    {"-2 * -3", 6},
    {"10 - 4 - 3", 3},
    {"ceil(7 / 2) + floor(7 / 2) + round(2.6)", 10},
    {"maximum(3, minimum(9, 5))", 5},
    {"sqrt(16) + pow(2, 3)", 12},
    {"32KiB / 1KiB", 32},
    {"100Gb/s / 1GB/s", 12.5},
    {"dim(x, 1) + rank(x) + dim(x, -2)", 7},
    {"sum(x)", 15},
    {"sum(x[1, :])", 12},
    {"sum(x[:, -1])", 7},
    {"sum(x[0, 1:])", 3},
    {"sum(x[:, 0:2])", 8},
    {"mean(x)", 2.5},
    {"max(x) - min(x)", 5},
    {"sum(x * x[:, 0:1])", 36},
    {"sum(x + iota3())", 21},
    {"sum(max(x, axis = 0, keep = true) - x)", 9},
    {"sum(transpose(x, [1, 0])[2, :])", 7},
    {"sum(reshape(x, [-1])[4:])", 9},
    {"sum(concat(x, x, x[:, 0:1], axis = 1))", 33},
    {"sum(concat(x, x, 0))", 30},
    {"sum(select(x > 2, x, 0))", 12},
    {"sum(select(not (x > 2) or x == 5, 1, x))", 11},
    {"sum(cast(x >= 1 and x < 3, f32))", 2},
    {"sum(squeeze(unsqueeze(x, 1), 1))", 15},
    {"sum(broadcast(x[0, :], [4, 3]))", 12},
    {"sum(einsum(\"ij->j\", x)[1:])", 12},
    {"sum(einsum(\"ij,kj->ik\", x, x)[0, 1:])", 14},
    {"sum(einsum(\"ij,kj,i->k\", x, x, x[:, 0]))", 192},
    {"sum(x @ reshape(x, [3, 2]))", 91},
    {"sum(pick(x, cast(x[:, 0:1] / 3, i32)))", 4},
    {"sum(gather(x, cast(x[0, 0:2], i32)))", 15},
    {"sum(exp(x * 0)) + rank(sum(x))", 6},
    {"sum(shape(x)[1] * x[0, :])", 9},
    {"sum(without(shape(x), 0)[0] * x[0, :])", 9},
    {"f(x)", 30},
    {"sum(rounds(x))", 15 * 8},
};

static void test_expressions(void) {
    const double x[] = {0, 1, 2, 3, 4, 5};
    for (size_t i = 0; i < COUNT(expressions); i++) {
        Session *s = session_new();
        Buf text = {0};
        buf_printf(&text,
                   "layer iota3() {\n return cast(iota(3), f32)\n}\n"
                   "layer f(a: [n, k], scale = n) {\n return sum(a) * scale\n}\n"
                   "layer rounds(a) {\n repeat 3 as r {\n t = a\n a = a + t\n }\n return a\n}\n"
                   "model m(x: f32[2, 3]) {\n return sum(x * 0) + %s\n}\n",
                   expressions[i].expr);
        Graph *g = build(s, text.p, false, NULL);
        Interp *in = interp_new(g);
        interp_set(in, "x", x);
        interp_run(in, 1, 1);
        double got = interp_output(in, "loss")->data[0];
        if (!CHECK(fabs(got - expressions[i].value) < 1e-9))
            fprintf(stderr, "%s = %g, not %g\n", expressions[i].expr, got, expressions[i].value);
        interp_free(in);
        graph_free(g);
        session_free(s);
        buf_free(&text);
    }
}

/* ---- names ---- */

static void test_names(void) {
    static const char text[] =
        "use \"m6\"\n"
        "model m(x: f32[2, 4]) {\n"
        "    stage one {\n        x = linear(norm(x), 4, bias = false)\n    }\n"
        "    x = norm(x)\n"
        "    repeat 2 as block {\n        x = linear(x, 4, false) as wide\n    }\n"
        "    repeat 2 share as block {\n        x = linear(x, 4, false)\n    }\n"
        "    return sum(x)\n}\n";
    static const char wanted[] =
        "norm.scale one.norm\nnorm.shift one.norm\nlinear.weight one.linear\nnorm_1.scale norm_1\n"
        "norm_1.shift norm_1\nblock[0].wide.weight block[0].wide\nblock[1].wide.weight "
        "block[1].wide\nblock_1.linear.weight block_1.linear\n";
    Session *s = session_new();
    Graph *g = build(s, text, false, NULL);
    Buf names = {0};
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_param)
            buf_printf(&names, "%s %s\n", attr_str(node_of(g, v), "name"), node_of(g, v)->scope);
    CHECK_STR(names.p, wanted);
    int stages = 0, calls = 0;
    for (uint32_t i = 0; i < g->note.n; i++) {
        stages += !strcmp(g->note.p[i].kind, "stage") && !strcmp(g->note.p[i].scope, "one");
        calls += !strcmp(g->note.p[i].scope, "block[1].wide") && g->note.p[i].loc.line == 8;
    }
    CHECK(stages == 1 && calls == 1);
    buf_free(&names);
    graph_free(g);
    session_free(s);
}

/* ---- models ---- */

static const char moe_model[] =
    "use \"m6\"\n"
    "config batch = 6, length = 4, hidden = 8, vocab = 11, micro = 1\n"
    "model m(x: i32[batch, length], y: i32[batch, length]) {\n"
    "    h = embedding(x, vocab, hidden, std = 0.5) + position(length, hidden)\n"
    "    h = h + attention(rmsnorm(h), 2, causal_mask())\n"
    "    h = h + ffn(norm(h), 12)\n"
    "    h = h + moe(norm(h), 4, 2, 1.25, 12, group = 4)\n"
    "    logits = linear(dropout(h, 0), vocab)\n"
    "    return cross_entropy(logits, y), logits\n}\n"
    "train m {\n    optimizer = %s\n    clip = 1.0\n    num_micro_batch = micro\n}\n";

static Graph *build_moe(Session *s, const char *optimizer, bool infer, const char *set) {
    Buf text = {0};
    buf_printf(&text, moe_model, optimizer);
    Graph *g = build(s, text.p, infer, set);
    buf_free(&text);
    return g;
}

/* Tokens are routed in groups that no micro-batch cuts, so that the balance loss is a mean, too. */
static void test_micro_batches(void) {
    static const char *const sets[] = {"micro=1", "micro=2", "micro=3", "micro=6"};
    double whole = 0;
    for (size_t i = 0; i < COUNT(sets); i++) {
        Session *s = session_new();
        Graph *g = build_moe(s, "sgd(lr = 0.1)", true, sets[i]);
        graph_free(g);
        g = build_moe(s, "sgd(lr = 0.1)", false, sets[i]);
        double loss = run_loss(g);
        if (i == 0) whole = loss;
        if (!CHECK(fabs(loss - whole) < 1e-9))
            fprintf(stderr, "%s: %.12f, not %.12f\n", sets[i], loss, whole);
        graph_free(g);
        session_free(s);
    }
}

/* Ignored targets make the counts uneven; a micro-batch of 2 may have almost none. */
static void test_micro_batches_exact(void) {
    static const char text[] =
        "use \"m6\"\nconfig batch = 6, micro = 1\n"
        "model m(x: f32[batch, 5], y: i32[batch]) {\n"
        "    return cross_entropy(linear(x, 7, std = 1), y)\n}\n"
        "train m {\n    optimizer = sgd(lr = 0.1)\n    num_micro_batch = micro\n}\n";
    double loss[2];
    for (int i = 0; i < 2; i++) {
        Session *s = session_new();
        Graph *g = build(s, text, false, i ? "micro=3" : NULL);
        loss[i] = run_loss(g);
        graph_free(g);
        session_free(s);
    }
    CHECK(fabs(loss[0] - loss[1]) < 1e-12 && loss[0] > 0.1);
}

/* The auxiliary loss counts in training only. */
static void test_infer(void) {
    Session *s = session_new();
    Graph *train = build_moe(s, "sgd(lr = 0.1)", false, NULL);
    Graph *infer = build_moe(s, "sgd(lr = 0.1)", true, NULL);
    CHECK(train->set.train && !infer->set.train && train->optimizer && !infer->optimizer);
    CHECK(run_loss(train) > run_loss(infer));
    graph_free(train);
    graph_free(infer);
    session_free(s);
}

static void train(const char *optimizer) {
    Session *s = session_new();
    Graph *g = build_moe(s, optimizer, false, NULL);
    PassContext cx = {.session = s, .opt = {.verify = true, .roundtrip = true}};
    CHECK(pipeline_run(g, "differentiate,optimize", &cx));
    Interp *in = interp_new(g);
    fill(in);
    double first = 0, loss = 0;
    for (int step = 1; step <= 30; step++) {
        interp_run(in, 3, step);
        loss = interp_output(in, "loss")->data[0];
        if (step == 1) first = loss;
    }
    if (!CHECK(loss < 0.7 * first && isfinite(loss)))
        fprintf(stderr, "%s: from %g to %g\n", optimizer, first, loss);
    interp_free(in);
    graph_free(g);
    session_free(s);
}

static void test_optimizers(void) {
    train("sgd(lr = constant(0.3, warmup = 3), momentum = 0.9)");
    train("adamw(lr = cosine(peak = 3e-2, warmup = 5, steps = 60), decay = 0.01)");
    train("adafactor(lr = polynomial(peak = 5e-2, warmup = 5, steps = 60))");
    train("adafactor(lr = 0.1, relative = true)");
}

int main(void) {
    test_expressions();
    test_names();
    test_micro_batches();
    test_micro_batches_exact();
    test_infer();
    test_optimizers();
    return check_done("elab");
}
