/* Checks stages of pipelines on models: data goes forward through the stages and gradients back,
 * layers stay whole, parameters, states and updates are together; annotations are obeyed.
 *
 *     test_stage ROOT    ROOT: the source tree, for the models of examples */
#include "passes/stage.h"
#include "tests/ir/random_graph.h"
#include "tests/passes/model.h"
#include "tests/passes/model_text.h"

#include <stdlib.h>

static const char forward[] = "simplify,raise,precision";
static const char whole[] = "simplify,raise,precision,differentiate,optimize,simplify";

static const char chain_text[] =
    "use \"m6\"\n"
    "config layers = 6, d = 16, batch = 8\n"
    "model chain(text: i32[batch, 4], y: i32[batch, 4]) {\n"
    "    x = embedding(text, 32, d)\n"
    "    repeat layers as block {\n"
    "        x = x + ffn(norm(x), 64)\n"
    "    }\n"
    "    return cross_entropy(linear(norm(x), 32) as head, y)\n"
    "}\n"
    "train chain {\n    optimizer = adamw(lr = 0.1)\n    clip = 1.0\n    num_micro_batch = %d\n}\n";

static const char annotated_text[] = "use \"m6\"\n"
                                     "model chain(x: f32[8, 16], y: f32[8, 16]) {\n"
                                     "    stage one { a = linear(x, 16) }\n"
                                     "    b = gelu(a)\n"
                                     "    stage two { b = b + linear(b, 16) }\n"
                                     "    stage three { c = linear(b, 16) - y }\n"
                                     "    return mean(c * c)\n"
                                     "}\n"
                                     "train chain { optimizer = adamw(lr = 0.1) }\n";

static const char wrong_text[] = "use \"m6\"\n"
                                 "model m(x: f32[8, 16]) {\n"
                                 "    a = linear(x, 16)\n"
                                 "    stage one { b = linear(a, 16) }\n"
                                 "    c = b\n"
                                 "    repeat 1 as block {\n"
                                 "        stage two { c = linear(c, 16) }\n"
                                 "    }\n"
                                 "    return mean(c)\n"
                                 "}\n";

/* ---- what holds of every plan ---- */

static bool is_placed(const Graph *g, const StagePlan *p, Value v, Phase phase) {
    return node_of(g, v)->phase == phase && p->of[v] != EVERY_STAGE &&
           !(op_info(node_of(g, v)->op)->flags & OPF_LEAF);
}

static int check_edges(const Graph *g, const StagePlan *p) {
    int wrong = 0;
    for (Value v = 0; v < g->node.n; v++) {
        wrong += p->of[v] < EVERY_STAGE || p->of[v] >= (int)p->stages;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value x = operand(g, v, i);
            if (is_placed(g, p, v, PHASE_FORWARD) && is_placed(g, p, x, PHASE_FORWARD))
                wrong += p->of[x] > p->of[v];
            if (is_placed(g, p, v, PHASE_BACKWARD) && is_placed(g, p, x, PHASE_BACKWARD))
                wrong += p->of[x] < p->of[v];
            if (is_op(g, x, OP_param) && is_placed(g, p, v, PHASE_FORWARD))
                wrong += p->of[x] > p->of[v];
        }
    }
    return wrong;
}

/* Forward values that the backward part of an earlier stage reads: gradients that are the value
 * itself, as of a in sum(a * b), which no layer of the models has. */
static int downward(const Graph *g, const StagePlan *p) {
    int found = 0;
    for (Value v = 0; v < g->node.n; v++)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value x = operand(g, v, i);
            if (is_placed(g, p, v, PHASE_BACKWARD) && is_placed(g, p, x, PHASE_FORWARD))
                found += p->of[x] > p->of[v];
        }
    return found;
}

/* A layer of the model and its backward part lie on one stage. */
static int check_blocks(const Graph *g, const StagePlan *p) {
    int wrong = 0, at[256];
    memset(at, -1, sizeof at);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        int block;
        if (p->of[v] == EVERY_STAGE || sscanf(n->scope, "block[%d]", &block) != 1) continue;
        if (at[block] < 0) at[block] = p->of[v];
        wrong += at[block] != p->of[v];
    }
    return wrong;
}

static int check_updates(const Graph *g, const StagePlan *p) {
    int wrong = 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op == OP_param) wrong += p->of[v] == EVERY_STAGE;
        if (n->op == OP_assign && node_of(g, operand(g, v, 0))->op != OP_input)
            wrong += p->of[v] != p->of[operand(g, v, 0)];
        if (n->op == OP_state) {
            Value of = find_leaf(g, OP_param, attr_str(n, "of"));
            if (of != NO_VALUE) wrong += p->of[v] != p->of[of];
        }
    }
    return wrong;
}

static bool check_plan(const Graph *g, const StageOptions *o, StagePlan *p, Arena *a) {
    if (!CHECK(stage_plan(g, o, p, a))) return false;
    CHECK(check_edges(g, p) == 0);
    CHECK(downward(g, p) == 0);
    CHECK(p->annotated || check_blocks(g, p) == 0);
    CHECK(check_updates(g, p) == 0);
    CHECK(p->first[0] == 0 && p->first[p->stages] == p->layers.n);
    CHECK(p->step_us >= p->us * p->micros * (1 - 1e-9) && p->bubble >= 0 && p->bubble < 1);
    return true;
}

/* ---- models ---- */

static Graph *graph_of(Session *s, const char *text, const char *passes) {
    Graph *g = model_from_text(s, text);
    if (!CHECK(g != NULL)) exit(1);
    model_pipeline(g, passes);
    return g;
}

static Graph *chain_of(Session *s, int micros, const char *passes) {
    return graph_of(s, arena_printf(session_arena(s), chain_text, micros), passes);
}

static void test_chain(int micros, const char *passes) {
    Session *s = session_new();
    Arena *a = arena_new();
    Graph *g = chain_of(s, micros, passes);
    StagePlan p;
    for (uint32_t stages = 1; stages <= 8; stages++) {
        if (!check_plan(g, &(StageOptions){.stages = stages}, &p, a)) continue;
        CHECK(p.stages == stages && p.nshared == 0);
        CHECK_STR(p.layers.name[0], "embedding");
        CHECK_STR(p.layers.name[1], "block[0]");
        CHECK_STR(p.layers.name[6], "block[5]");
    }
    /* what crosses between blocks is x: f32[8,4,16], a part of it for each micro-batch */
    for (int i = 0; i <= 6; i++)
        if (!CHECK(p.cost[i].cut == 8 / micros * 4 * 16 * 4))
            fprintf(stderr, "after %s: %lld\n", p.layers.name[i], (long long)p.cost[i].cut);
    /* equal blocks, up to what follows a residual sum: three each on two stages */
    CHECK(stage_plan(g, &(StageOptions){.stages = 2}, &p, a));
    CHECK_STR(p.layers.name[p.first[1]], "block[3]");
    Buf err = {0};
    diag_capture(s, &err);
    CHECK(!stage_plan(g, &(StageOptions){.stages = 99}, &p, a) && strstr(err.p, "cannot be 99"));
    g->set.memory = 1000;
    CHECK(!stage_plan(g, &(StageOptions){.stages = 2}, &p, a) && strstr(err.p, "has 1000"));
    diag_capture(s, NULL);
    buf_free(&err);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* Parameters with gradient and two states: 16 bytes an element, before and after optimize. */
static void test_fixed(void) {
    int64_t sum[2] = {0};
    for (int i = 0; i < 2; i++) {
        Session *s = session_new();
        Arena *a = arena_new();
        Graph *g = chain_of(s, 1, i ? whole : forward);
        StagePlan p;
        check_plan(g, &(StageOptions){.stages = 2}, &p, a);
        for (uint32_t k = 0; k < p.layers.n; k++) sum[i] += p.cost[k].fixed;
        graph_free(g);
        arena_free(a);
        session_free(s);
    }
    CHECK(sum[0] == sum[1] && sum[0] > 0);
}

static void test_annotated(const char *passes) {
    Session *s = session_new();
    Arena *a = arena_new();
    Graph *g = graph_of(s, annotated_text, passes);
    StagePlan p;
    if (check_plan(g, &(StageOptions){0}, &p, a)) {
        CHECK(p.stages == 3 && p.annotated);
        for (Value v = 0; v < g->node.n; v++) {
            const Node *n = node_of(g, v);
            if (n->phase == PHASE_APPLY || p.of[v] == EVERY_STAGE) continue;
            if (strncmp(n->scope, "one", 3) == 0) CHECK(p.of[v] == 0);
            if (strncmp(n->scope, "two", 3) == 0) CHECK(p.of[v] == 1);
            if (strncmp(n->scope, "three", 5) == 0) CHECK(p.of[v] == 2);
            if (n->op == OP_gelu) CHECK(p.of[v] == 0); /* with what it reads: sends no more */
            if (n->op == OP_output && n->phase == PHASE_FORWARD) CHECK(p.of[v] == 2);
        }
    }
    Buf err = {0};
    diag_capture(s, &err);
    CHECK(!stage_plan(g, &(StageOptions){.stages = 2}, &p, a));
    CHECK(err.p && strstr(err.p, "annotated with 3 stages, not 2"));
    g->set.memory = 2000; /* less than 272 parameters and what belongs to them */
    CHECK(!stage_plan(g, &(StageOptions){0}, &p, a));
    CHECK(strstr(err.p, "model.m6:3:5: error: stage 'one' needs"));
    diag_capture(s, NULL);
    buf_free(&err);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* Annotations swapped by hand: stage two comes first and needs stage one. */
static void test_wrong(void) {
    Session *s = session_new();
    Arena *a = arena_new();
    Graph *g = graph_of(s, wrong_text, "simplify");
    StagePlan p;
    uint32_t found[2], n = 0;
    for (uint32_t i = 0; i < g->note.n; i++)
        if (strcmp(g->note.p[i].kind, "stage") == 0 && n < 2) found[n++] = i;
    CHECK(n == 2 && stage_plan(g, &(StageOptions){0}, &p, a));
    Annotation kept = g->note.p[found[0]];
    g->note.p[found[0]] = g->note.p[found[1]], g->note.p[found[1]] = kept;
    Buf err = {0};
    diag_capture(s, &err);
    CHECK(!stage_plan(g, &(StageOptions){0}, &p, a));
    CHECK(err.p && strstr(err.p, "stage 'block[0].two' needs a result of stage 'one'"));
    diag_capture(s, NULL);
    buf_free(&err);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* The table of tokens is embedding and head. */
static void test_shared(void) {
    for (int variant = 0; variant < 4; variant++) {
        Session *s = session_new();
        Arena *a = arena_new();
        ModelKind kind = {variant & 1, variant >> 1 & 1, 0};
        Graph *g = model_build(s, kind);
        model_pipeline(g, "simplify,raise,differentiate,simplify");
        StagePlan p;
        check_plan(g, &(StageOptions){.stages = kind.shared ? 1 : 2}, &p, a);
        if (!kind.shared) {
            CHECK(p.nshared == 1 && p.shared[0].first == 0 && p.shared[0].last == 1);
            CHECK_STR(attr_str(node_of(g, p.shared[0].param), "name"), "table");
        }
        graph_free(g);
        arena_free(a);
        session_free(s);
    }
}

static bool momentum(void *ctx, Graph *g, const char *name, Value param, Value grad, Value *updated,
                     Value *lr) {
    (void)ctx;
    Value v = model_state(g, name, "v", param);
    Value next = b_ew2(g, OP_add, model_scaled(g, v, 0.9), grad);
    b_assign(g, v, next);
    *updated = b_ew2(g, OP_sub, param, model_scaled(g, next, 0.1));
    *lr = NO_VALUE;
    return true;
}

/* Random graphs whose nodes have random scopes, so that layers are used again and out of order. */
static void test_random(int seeds) {
    for (int seed = 0; seed < seeds; seed++) {
        Session *s = session_new();
        Arena *a = arena_new();
        RandomGraph how = {.seed = (uint64_t)seed,
                           .nodes = 20 + seed % 60,
                           .params = true,
                           .bounded = true,
                           .train = true};
        Graph *g = random_graph(s, &how);
        for (Value v = 0; v < g->node.n; v++) {
            uint32_t layer = philox((uint32_t)seed, v, NULL) % 12, at = v * 5 / g->node.n;
            const char *scope = arena_printf(a, "l%u.x", layer < 2 ? layer : at);
            node_of(g, v)->scope = intern(s, layer == 11 ? "" : scope);
        }
        Buf warnings = {0}; /* of parameters that are not used */
        g->optimizer = momentum;
        g->set.clip = seed % 2;
        diag_capture(s, &warnings);
        model_pipeline(g, whole);
        diag_capture(s, NULL);
        buf_free(&warnings);
        StageLayers layers;
        StagePlan p;
        CHECK(stage_layers(g, &layers, a));
        uint32_t stages = MIN(layers.n, 1 + (uint32_t)seed % 5);
        if (CHECK(stage_plan(g, &(StageOptions){.stages = stages}, &p, a))) {
            if (!CHECK(check_edges(g, &p) == 0)) fprintf(stderr, "seed %d\n", seed);
            CHECK(check_updates(g, &p) == 0);
        }
        graph_free(g);
        arena_free(a);
        session_free(s);
    }
}

static void test_example(const char *root, const char *name, uint32_t stages) {
    Session *s = session_new();
    Arena *a = arena_new();
    Graph *g = model_from_file(s, arena_printf(a, "%s/examples/%s", root, name));
    if (!CHECK(g != NULL)) exit(1);
    model_pipeline(g, whole);
    StagePlan p;
    Machine *m = machine_load(s, NULL, "cpu");
    if (check_plan(g, &(StageOptions){.stages = stages, .machine = m}, &p, a)) {
        double sum = 0;
        for (uint32_t i = 0; i < p.layers.n; i++) sum += p.cost[i].us;
        CHECK(p.us >= sum / stages * (1 - 1e-9) && p.us < sum);
        Buf out = {0};
        stage_print(g, &p, &out);
        CHECK(strstr(out.p, "balanced stages") != NULL);
        if (getenv("M6C_SHOW")) fputs(out.p, stdout);
        buf_free(&out);
    }
    graph_free(g);
    arena_free(a);
    session_free(s);
}

int main(int argc, char **argv) {
    for (int micros = 1; micros <= 4; micros *= 2) {
        test_chain(micros, forward);
        test_chain(micros, whole);
    }
    test_fixed();
    test_annotated(forward);
    test_annotated(whole);
    test_wrong();
    test_shared();
    test_random(300);
    if (argc > 1) {
        test_example(argv[1], "m6-tiny.m6", 2);
        test_example(argv[1], "m6-100b.m6", 8);
    }
    return check_done("stage");
}
