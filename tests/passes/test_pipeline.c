/* test_pipeline.c: whole models in the language, trained for three steps in the interpreter:
 * leaving out any optional pass, or running simplify more often, gives the same losses and
 * parameters. */
#include "frontend/elab.h"
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"

static const char prelude[] = "use \"m6\"\n"
                              "config b = 4, t = 6, d = 8, v = 7\n";

static const struct {
    const char *name, *text;
} models[] = {
    {"dense", "model m(text: i32[b, t], target: i32[b, t]) {\n"
              "    x = embedding(text, v, d) + position(t, d)\n"
              "    repeat 2 as block {\n"
              "        x = x + attention(norm(x), 2, prefix_mask(2))\n"
              "        x = x + ffn(rmsnorm(x), 12)\n"
              "    }\n"
              "    return cross_entropy(linear(norm(x), v), target)\n"
              "}\n"
              "train m { optimizer = adamw(lr = cosine(peak = 1e-2, warmup = 2, steps = 9))\n"
              "    clip = 0.5\n    groups = 3\n}\n"},
    {"experts", "model m(text: i32[b, t], target: i32[b, t]) {\n"
                "    x = embedding(text, v, d)\n"
                "    repeat 2 share as block {\n"
                "        x = x + attention(norm(x), 4, causal_mask())\n"
                "        x = x + moe(norm(x), 4, 2, 2.0, 8, group = 6)\n"
                "    }\n"
                "    return cross_entropy(linear(x, v), target)\n"
                "}\n"
                "train m { optimizer = adafactor(lr = 1e-2)\n    num_micro_batch = 2\n}\n"},
    {"by hand", "model m(text: i32[b, t], target: i32[b, t]) {\n"
                "    param wq, wk, wv: [d, 2, 4] = normal(0.5)\n"
                "    x = embedding(text, v, d, std = 1)\n"
                "    c = x - sum(x, axis = -1, keep = true) / d\n"
                "    y = dropout(c / sqrt(mean(pow(c, 2), axis = -1, keep = true) + 1e-6), 0.25)\n"
                "    q = einsum(\"btd,dhk->thbk\", y, wq) * 0.5\n"
                "    k = einsum(\"btd,dhk->hbkt\", y, wk)\n"
                "    s = einsum(\"thbk,hbks->bhts\", q, k) + causal_mask()\n"
                "    e = exp(s - max(s, axis = -1, keep = true))\n"
                "    p = e * (1 / sum(e, axis = -1, keep = true))\n"
                "    o = einsum(\"bhts,shbk->btkh\", p, einsum(\"btd,dhk->thbk\", y, wv))\n"
                "    z = linear(reshape(o, [b, t, d]), v)\n"
                "    z = z - max(z, axis = -1, keep = true)\n"
                "    l = z - log(sum(exp(z), axis = -1, keep = true))\n"
                "    return 0 - mean(pick(l, unsqueeze(target, -1)))\n"
                "}\n"
                "train m { optimizer = sgd(lr = 0.1)\n    loss_scale = 1024\n}\n"},
};

static Graph *elaborated(Session *s, const char *text) {
    Buf b = {0};
    buf_printf(&b, "%s%s", prelude, text);
    File *f = frontend_load_text(s, "model.m6", arena_strdup(session_arena(s), b.p, b.n), b.n);
    buf_free(&b);
    ElabOptions o = {0};
    Graph *g = f ? elaborate(s, f, &o) : NULL;
    if (CHECK(g != NULL)) g->set.keep_grads = true;
    return g;
}

/* Three steps after a pipeline; the graph stays for its names. */
static Interp *train(Session *s, const char *text, const char *pipeline, const char *skip) {
    Graph *g = elaborated(s, text);
    if (!g) return NULL;
    PassContext cx = {.session = s, .opt = {.verify = true, .roundtrip = true, .skip = skip}};
    CHECK(pipeline_run(g, pipeline, &cx));
    Interp *in = interp_new(g);
    model_fill(in);
    for (int step = 1; step <= 3; step++) interp_run(in, 7, step);
    return in;
}

/* Outputs (losses, norms, gradients of the third step), and parameters after it. */
static double difference(const Interp *a, const Interp *b) {
    double worst = model_compare(a, b);
    for (Value v = 0; v < b->g->node.n; v++) {
        if (!is_op(b->g, v, OP_param)) continue;
        Value w = find_leaf(a->g, OP_param, attr_str(node_of(b->g, v), "name"));
        if (CHECK(w != NO_VALUE))
            worst = fmax(worst, model_distance(interp_get(a, w), interp_get(b, v)));
    }
    return worst;
}

static void check_model(const char *name, const char *text) {
    static const struct {
        const char *pipeline, *skip;
    } ways[] = {
        {"simplify,raise,precision,differentiate,optimize,simplify", NULL},
        {"simplify,raise,precision,differentiate,optimize,simplify", "simplify"},
        {"simplify,raise,precision,differentiate,optimize,simplify", "raise"},
        {"raise,simplify,differentiate,simplify,optimize", NULL},
    };
    Session *s = session_new();
    Interp *plain = train(s, text, "differentiate,optimize", NULL);
    for (size_t i = 0; plain && i < COUNT(ways); i++) {
        Interp *in = train(s, text, ways[i].pipeline, ways[i].skip);
        double worst = difference(in, plain);
        if (!CHECK(worst < 1e-8)) fprintf(stderr, "%s, way %d: %g\n", name, (int)i, worst);
        if (i == 0)
            CHECK(model_count(in->g, OP_attention) > 0 && model_count(in->g, OP_cross_entropy) > 0);
        graph_free(in->g);
        interp_free(in);
    }
    if (plain) graph_free(plain->g);
    interp_free(plain);
    session_free(s);
}

/* Under bf16 and f16 the losses and the gradients' norm stay close to those in f32; a loss scale
 * that f16 cannot hold skips the steps and halves until it can. */
static void check_low(Dtype d, double scale) {
    Session *s = session_new();
    Interp *run[2] = {NULL, NULL};
    for (int low = 0; low < 2; low++) {
        Graph *g = elaborated(s, models[0].text);
        PassContext cx = {.session = s, .opt = {.verify = true, .roundtrip = true}};
        if (!g) return;
        if (low) g->set.precision = d;
        if (low && scale > 0) g->set.loss_scale = LOSS_SCALE_DYNAMIC;
        g->set.loss_scale_value = scale;
        CHECK(pipeline_run(g, "simplify,raise,precision,differentiate,optimize,simplify", &cx));
        run[low] = interp_new(g);
        model_fill(run[low]);
    }
    interp_run(run[0], 7, 1);
    interp_run(run[1], 7, 1);
    int skipped = 0;
    while (scale > 0 && model_scalar(run[1], "overflow") == 1 && skipped++ < 60)
        interp_run(run[1], 7, 1);
    CHECK(scale > 1e6 ? skipped > 0 && skipped < 60 : skipped == 0);
    double loss = model_scalar(run[0], "loss"), norm = model_scalar(run[0], "grad_norm");
    CHECK(fabs(model_scalar(run[1], "loss") - loss) < 1e-2 * loss);
    CHECK(fabs(model_scalar(run[1], "grad_norm") - norm) < 5e-2 * norm);
    interp_run(run[1], 7, 2);
    CHECK(model_scalar(run[1], "loss") < loss);
    for (int i = 0; i < 2; i++) {
        graph_free(run[i]->g);
        interp_free(run[i]);
    }
    session_free(s);
}

/* Gradients of random graphs, plainly and through the whole pipeline; in low precision all stages
 * are checked, but the numbers may differ. */
static void check_random(uint64_t seed, Dtype precision) {
    Session *s = session_new();
    Buf warnings = {0};
    diag_capture(s, &warnings);
    RandomGraph how = {.seed = seed, .nodes = 30, .params = true, .train = true, .bounded = true};
    Graph *g = random_graph(s, &how);
    g->set.train = true;
    Graph *plain = model_copy(g);
    g->set.precision = precision;
    model_pipeline(plain, "differentiate");
    model_pipeline(g, "simplify,raise,precision,differentiate,simplify");
    Interp *a = model_run(g), *b = model_run(plain);
    double worst = precision == DT_F32 ? model_compare(a, b) : 0;
    if (!CHECK(worst < 1e-8)) fprintf(stderr, "seed %llu: %g\n", (unsigned long long)seed, worst);
    interp_free(a);
    interp_free(b);
    graph_free(g);
    graph_free(plain);
    session_free(s);
    buf_free(&warnings);
}

int main(void) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        check_random(seed, DT_F32);
        check_random(seed, seed % 2 ? DT_BF16 : DT_F16);
    }
    check_low(DT_BF16, 0);
    check_low(DT_F16, 256);
    check_low(DT_F16, 1e12);
    for (size_t i = 0; i < COUNT(models); i++) check_model(models[i].name, models[i].text);
    return check_done("pipeline");
}
