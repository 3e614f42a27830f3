/* test_optimize.c: what the optimize pass computes, against the same formulas by hand: clipping by
 * the global norm, groups applied last first, loss scaling that skips a step that overflows. */
#include "tests/passes/model.h"

/* Momentum: m' = 0.5 m + g, p' = p - 0.1 m'. */
static bool momentum(void *ctx, Graph *g, const char *name, Value param, Value grad, Value *updated,
                     Value *lr) {
    const Type *t = type_of(g, param);
    Arena *a = session_arena(g->session);
    AttrValue at[] = {{.s = intern(g->session, arena_printf(a, "%s/m", name))},
                      {.s = intern(g->session, name)},
                      {.s = intern(g->session, "zeros")},
                      {.f = 0},
                      {.f = 0}};
    CHECK(ctx == NULL && g->at.phase == PHASE_APPLY);
    Value m = graph_leaf(g, OP_state, attr_intern(g->session, OP_state, at), t);
    Value next = b_ew2(g, OP_add, model_scaled(g, m, 0.5), grad);
    b_assign(g, m, next);
    *lr = b_const(g, 0.1, type_scalar(g->session, DT_F32));
    *updated = b_ew2(g, OP_sub, param, b_ew2(g, OP_mul, b_broadcast_to(g, *lr, t), next));
    return true;
}

static Graph *trained(Session *s, const Settings *set) {
    Graph *g = model_build(s, (ModelKind){false, false, 0});
    g->set.clip = set->clip;
    g->set.groups = set->groups;
    g->set.loss_scale = set->loss_scale;
    g->set.loss_scale_value = set->loss_scale_value;
    g->set.keep_grads = true;
    g->optimizer = momentum;
    return g;
}

static const double *leaf_data(const Interp *in, Op op, const char *name) {
    return interp_get(in, find_leaf(in->g, op, name))->data;
}

/* After one step: p' = p - 0.1 f g and m' = f g, where f is the clipping factor. */
static void check_step(Graph *g, Graph *plain, double clip) {
    Interp *run = model_run(g), *start = model_run(plain);
    double squares = 0, norm = model_scalar(run, "grad_norm");
    for (Value v = 0; v < plain->node.n; v++) {
        if (!is_op(plain, v, OP_param)) continue;
        Arena *a = session_arena(g->session);
        const char *name = attr_str(node_of(plain, v), "name");
        const Tensor *grad = interp_output(run, arena_printf(a, "grad/%s", name));
        if (!CHECK(grad != NULL)) continue;
        const double *p = interp_get(start, v)->data, *next = leaf_data(run, OP_param, name);
        const double *m = leaf_data(run, OP_state, arena_printf(a, "%s/m", name));
        double f = clip > 0 ? fmin(1, clip / norm) : 1, worst = 0;
        for (int64_t i = 0; i < type_elements(grad->type); i++) {
            squares += grad->data[i] * grad->data[i];
            worst = fmax(worst, fabs(m[i] - f * grad->data[i]));
            worst = fmax(worst, fabs(next[i] - (p[i] - 0.1 * f * grad->data[i])));
        }
        CHECK(worst < 1e-12);
    }

    CHECK(norm > 0 && fabs(norm - sqrt(squares)) < 1e-12 * norm);
    CHECK(fabs(model_scalar(run, "lr") - 0.1) < 1e-7);
    CHECK(fabs(model_scalar(run, "loss") - model_scalar(start, "loss")) < 1e-12);
    interp_free(run);
    interp_free(start);
}

static void check_settings(Settings set) {
    Session *s = session_new();
    Graph *g = trained(s, &set), *plain = model_copy(g);
    model_pipeline(g, "simplify,raise,differentiate,optimize,simplify");
    CHECK(model_count(g, OP_gradient) == 0 && g->optimizer == NULL);
    check_step(g, plain, set.clip);
    graph_free(g);
    graph_free(plain);
    session_free(s);
}

/* The last group comes first in node order, and every parameter is in one group. */
static void check_groups(void) {
    Session *s = session_new();
    Graph *g = trained(s, &(Settings){.groups = 3});
    model_pipeline(g, "differentiate,optimize");
    int last = 99, seen = 0;
    for (Value v = 0; v < g->node.n; v++) {
        int k;
        if (!is_op(g, v, OP_assign)) continue;
        if (!CHECK(sscanf(node_of(g, v)->scope, "apply[%d]/optimizer/", &k) == 1)) continue;
        CHECK(k <= last && k >= 0 && k < 3);
        seen |= 1 << k;
        last = k;
    }
    CHECK(seen == 7);
    graph_free(g);
    session_free(s);
}

/* A scale beyond f32 overflows: nothing changes but the scale, which halves; a good step counts. */
static void check_overflow(void) {
    Session *s = session_new();
    Graph *g = trained(
        s, &(Settings){.groups = 1, .loss_scale = LOSS_SCALE_DYNAMIC, .loss_scale_value = 4});
    model_pipeline(g, "simplify,raise,differentiate,optimize,simplify");
    Interp *in = interp_new(g);
    double before, huge = INFINITY, nearly = 1999;
    model_fill(in);
    interp_run(in, 7, 1);
    CHECK(model_scalar(in, "overflow") == 0 && model_scalar(in, "loss_scale") == 4);
    CHECK(leaf_data(in, OP_state, GOOD_STEPS_STATE)[0] == 1);
    interp_set(in, LOSS_SCALE_STATE, &huge);
    before = leaf_data(in, OP_param, "table")[0];
    interp_run(in, 7, 2);
    CHECK(model_scalar(in, "overflow") == 1 && leaf_data(in, OP_state, GOOD_STEPS_STATE)[0] == 0);
    CHECK(leaf_data(in, OP_param, "table")[0] == before);
    CHECK(isinf(leaf_data(in, OP_state, LOSS_SCALE_STATE)[0]));
    interp_set(in, LOSS_SCALE_STATE, &(double){1e300});
    interp_run(in, 7, 3);
    CHECK(model_scalar(in, "overflow") == 1 &&
          leaf_data(in, OP_state, LOSS_SCALE_STATE)[0] == 5e299);
    interp_set(in, LOSS_SCALE_STATE, &(double){8});
    interp_set(in, GOOD_STEPS_STATE, &nearly);
    interp_run(in, 7, 4);
    CHECK(leaf_data(in, OP_state, LOSS_SCALE_STATE)[0] == 16);
    CHECK(leaf_data(in, OP_param, "table")[0] != before);
    interp_free(in);
    graph_free(g);
    session_free(s);
}

static void check_no_optimizer(void) {
    Session *s = session_new();
    Buf text = {0};
    diag_capture(s, &text);
    Graph *g = model_build(s, (ModelKind){false, false, 0});
    PassContext cx = {.session = s};
    CHECK(!pipeline_run(g, "differentiate,optimize", &cx));
    CHECK(text.p && strstr(text.p, "no optimizer"));
    CHECK(!pipeline_run(g, "simplfy", &cx));
    CHECK(strstr(text.p, "unknown pass 'simplfy'; did you mean 'simplify'?"));
    cx.opt.skip = "simplify,optimize";
    CHECK(!pipeline_run(g, "simplify", &cx) && strstr(text.p, "'optimize' cannot be left out"));
    graph_free(g);
    session_free(s);
    buf_free(&text);
}

int main(void) {
    check_settings((Settings){.groups = 1});
    check_settings((Settings){.groups = 1, .clip = 0.01});
    check_settings((Settings){.groups = 4, .clip = 1e6});
    check_settings((Settings){
        .groups = 99, .clip = 0.5, .loss_scale = LOSS_SCALE_FIXED, .loss_scale_value = 1024});
    check_settings(
        (Settings){.groups = 2, .loss_scale = LOSS_SCALE_DYNAMIC, .loss_scale_value = 32});
    check_groups();
    check_overflow();
    check_no_optimizer();
    return check_done("optimize");
}
