/* model.h: small models in primitive form, as the standard layers elaborate, and their runs. The
 * variant numbers choose between natural ways to write the same thing. */
#ifndef M6C_TESTS_MODEL_H
#define M6C_TESTS_MODEL_H

#include "passes/passes.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#define EINSUM(g, spec, a, b) b_einsum(g, spec, a, b)
#define DIMS(...)             ((const int64_t[]){__VA_ARGS__})

static inline const Type *model_type(Graph *g, Dtype d, int rank, const int64_t *dim) {
    return type_tensor(g->session, d, rank, dim);
}

static inline Value model_input(Graph *g, const char *name, Dtype d, int rank, const int64_t *dim) {
    AttrValue at[] = {{.s = intern(g->session, name)}, {.i = 0}};
    return graph_leaf(g, OP_input, attr_intern(g->session, OP_input, at),
                      model_type(g, d, rank, dim));
}

/* A parameter used again is the same node. */
static inline Value model_param(Graph *g, const char *name, int rank, const int64_t *dim) {
    Value found = find_leaf(g, OP_param, name);
    if (found != NO_VALUE) return found;
    int16_t micro = g->at.micro;
    g->at.micro = -1;
    AttrValue at[] = {{.s = intern(g->session, name)},
                      {.s = intern(g->session, "normal")},
                      {.f = 0.1},
                      {.f = 0.6}};
    Value v = graph_leaf(g, OP_param, attr_intern(g->session, OP_param, at),
                         model_type(g, DT_F32, rank, dim));
    g->at.micro = micro;
    return v;
}

/* A state of parameter `name`, of its shape. */
static inline Value model_state(Graph *g, const char *name, const char *kind, Value like) {
    Session *s = g->session;
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, kind);
    AttrValue at[] = {
        {.s = intern(s, full)}, {.s = name}, {.s = intern(s, "zeros")}, {.f = 0}, {.f = 0}};
    return graph_leaf(g, OP_state, attr_intern(s, OP_state, at), type_of(g, like));
}

/* A row value [.., 1] or [..] repeated along x's last axis. */
static inline Value model_repeat(Graph *g, Value row, Value x) {
    const Type *t = type_of(g, x);
    int64_t dims[MAX_RANK];
    for (int i = 0; i < t->rank; i++) dims[i] = i;
    return b_broadcast(g, row, t->rank, t->dim, dims);
}

/* Reduction along the last axis; keep: [.., 1]. */
static inline Value model_reduce(Graph *g, Op op, Value x, bool keep) {
    Value r = b_reduce_last(g, op, x);
    int64_t dim[MAX_RANK];
    const Type *t = type_of(g, x);
    for (int i = 0; i < t->rank; i++) dim[i] = i + 1 < t->rank ? t->dim[i] : 1;
    return keep ? b_reshape(g, r, t->rank, dim) : r;
}

/* variant 1: the mean is a quotient; odd variants above 1: without keep */
static inline Value model_mean(Graph *g, Value x, int variant) {
    const Type *t = type_of(g, x);
    double n = (double)t->dim[t->rank - 1];
    Value s = model_reduce(g, OP_sum, x, variant != 3);
    return variant == 1 ? b_ew2(g, OP_div, s, b_like(g, n, s))
                        : b_ew2(g, OP_mul, b_like(g, 1 / n, s), s);
}

/* 0: e / sum, 1: e * (1 / sum), 2: without keep, 3: no maximum subtracted */
static inline Value model_softmax(Graph *g, Value x, int variant) {
    bool keep = variant != 2;
    Value z = x;
    if (variant != 3) z = b_ew2(g, OP_sub, x, model_repeat(g, model_reduce(g, OP_max, x, keep), x));
    Value e = b_ew1(g, OP_exp, z), s = model_reduce(g, OP_sum, e, keep);
    if (variant != 1) return b_ew2(g, OP_div, e, model_repeat(g, s, x));
    return b_ew2(g, OP_mul, e, model_repeat(g, b_ew2(g, OP_div, b_like(g, 1, s), s), x));
}

/* 0: c * rsqrt(mean + eps), 1: quotients and sqrt, 2: pow, 3: without keep, 4: rsqrt of the
 * repeated
 */
static inline Value model_scale_rows(Graph *g, Value c, int variant) {
    Value sq = variant == 2 ? b_ew2(g, OP_pow, c, b_like(g, 2, c)) : b_ew2(g, OP_mul, c, c);
    Value m = model_mean(g, sq, variant), v = b_ew2(g, OP_add, m, b_like(g, 1e-5, m));
    if (variant == 1) return b_ew2(g, OP_div, c, model_repeat(g, b_ew1(g, OP_sqrt, v), c));
    if (variant == 2)
        return b_ew2(g, OP_mul, model_repeat(g, b_ew2(g, OP_pow, v, b_like(g, -0.5, v)), c), c);
    if (variant == 4) return b_ew2(g, OP_mul, c, b_ew1(g, OP_rsqrt, model_repeat(g, v, c)));
    return b_ew2(g, OP_mul, c, model_repeat(g, b_ew1(g, OP_rsqrt, v), c));
}

static inline Value model_norm(Graph *g, Value x, int variant) {
    Value c = b_ew2(g, OP_sub, x, model_repeat(g, model_mean(g, x, variant), x));
    return model_scale_rows(g, c, variant);
}

/* nll of logits[.., v] and target i32[..], as [..]. 0: lse - pick, 1: pick of the log-softmax
 * x - lse, 2: of z - log(sum(exp(z))), 3: without keep */
static inline Value model_nll(Graph *g, Value x, Value target, int variant) {
    const Type *t = type_of(g, target);
    int64_t dim[MAX_RANK];
    for (int i = 0; i < t->rank; i++) dim[i] = t->dim[i];
    dim[t->rank] = 1;
    bool keep = variant != 3;
    Value index = b_reshape(g, target, t->rank + 1, dim);
    Value m = model_reduce(g, OP_max, x, keep), z = b_ew2(g, OP_sub, x, model_repeat(g, m, x));
    Value ls = b_ew1(g, OP_log, model_reduce(g, OP_sum, b_ew1(g, OP_exp, z), keep));
    Value lse = b_ew2(g, OP_add, ls, m), logp;
    if (variant == 0 || variant == 3) {
        Value own = graph_add(g, OP_pick, NULL, 2, (Value[]){x, index});
        if (!keep) own = b_reshape(g, own, t->rank, t->dim);
        return b_reshape(g, b_ew2(g, OP_sub, lse, own), t->rank, t->dim);
    }
    if (variant == 1)
        logp = b_ew2(g, OP_sub, x, model_repeat(g, lse, x));
    else
        logp = b_ew2(g, OP_sub, z, model_repeat(g, ls, z));
    Value own = graph_add(g, OP_pick, NULL, 2, (Value[]){logp, index});
    return b_ew1(g, OP_neg, b_reshape(g, own, t->rank, t->dim));
}

static inline Value model_mask(Graph *g, const char *kind, Value scores) {
    const Type *t = type_of(g, scores);
    AttrValue at[] = {{.s = intern(g->session, kind)}, {.i = 2}};
    Value m = graph_leaf(g, OP_mask, attr_intern(g->session, OP_mask, at),
                         model_type(g, DT_F32, 2, t->dim + t->rank - 2));
    return b_broadcast_to(g, m, t);
}

static inline Value model_scaled(Graph *g, Value x, double c) {
    return b_ew2(g, OP_mul, x, b_like(g, c, x));
}

/* Two layers on x[b, t, d]: attention and a feed-forward network or a mixture of experts; loss of
 * the targets. `shared`: both layers have one set of parameters. */
typedef struct {
    bool moe, shared;
    int micro; /* micro-batches; 0: one, not marked */
} ModelKind;

enum { MODEL_B = 2, MODEL_T = 5, MODEL_D = 6, MODEL_H = 2, MODEL_K = 3, MODEL_V = 7, MODEL_E = 4 };

static inline Value model_attention(Graph *g, Value x, const char *scope) {
    Arena *a = session_arena(g->session);
    Value w[3];
    for (int i = 0; i < 3; i++)
        w[i] = model_param(g, arena_printf(a, "%s.w%c", scope, "qkv"[i]), 3,
                           DIMS(MODEL_D, MODEL_H, MODEL_K));
    Value wo = model_param(g, arena_printf(a, "%s.wo", scope), 3, DIMS(MODEL_H, MODEL_K, MODEL_D));
    Value q = EINSUM(g, "btd,dhk->bhtk", x, w[0]), k = EINSUM(g, "bsd,dhk->bhsk", x, w[1]);
    Value v = EINSUM(g, "bsd,dhk->bhsk", x, w[2]);
    Value s = model_scaled(g, EINSUM(g, "bhtk,bhsk->bhts", q, k), 1 / sqrt(MODEL_K));
    Value p = model_softmax(g, b_ew2(g, OP_add, s, model_mask(g, "prefix", s)), 0);
    return EINSUM(g, "bhtk,hkd->btd", EINSUM(g, "bhts,bhsk->bhtk", p, v), wo);
}

static inline Value model_ffn(Graph *g, Value x, const char *scope) {
    Arena *a = session_arena(g->session);
    Value up = model_param(g, arena_printf(a, "%s.up", scope), 2, DIMS(MODEL_D, 9));
    Value bias = model_param(g, arena_printf(a, "%s.bias", scope), 1, DIMS(9));
    Value down = model_param(g, arena_printf(a, "%s.down", scope), 2, DIMS(9, MODEL_D));
    Value h = EINSUM(g, "btd,df->btf", x, up);
    h = b_ew1(g, OP_gelu, b_ew2(g, OP_add, h, b_broadcast_to(g, bias, type_of(g, h))));
    return EINSUM(g, "btf,fd->btd", h, down);
}

/* Two prototypes of two experts, one group; *aux gets a balance loss. */
static inline Value model_moe(Graph *g, Value x, const char *scope, Value *aux) {
    Arena *a = session_arena(g->session);
    int64_t n = MODEL_B * MODEL_T, d = MODEL_D;
    Value gate = model_param(g, arena_printf(a, "%s.gate", scope), 2, DIMS(d, MODEL_E));
    Value up = model_param(g, arena_printf(a, "%s.up", scope), 3, DIMS(MODEL_E, d, 4));
    Value down = model_param(g, arena_printf(a, "%s.down", scope), 3, DIMS(MODEL_E, 4, d));
    Value s = b_reshape(g, x, 2, DIMS(n, d));
    AttrValue f32 = {.i = DT_F32};
    Value pinned = graph_add(g, OP_cast, attr_of1(g, OP_cast, f32), 1, &s);
    Value logits = b_reshape(g, EINSUM(g, "nd,de->ne", pinned, gate), 4, DIMS(1, n, 2, 2));
    Value p = model_softmax(g, logits, 0);
    AttrValue at[] = {{.i = 1}, {.i = 4}};
    Value route = graph_add(g, OP_route, attr_intern(g->session, OP_route, at), 1, &p);
    Value slot = b_proj(g, route, 1), source = b_proj(g, route, 2);
    Value picked = graph_add(g, OP_pick, NULL, 2, (Value[]){p, b_proj(g, route, 0)});
    Value rows = graph_add(g, OP_dispatch, NULL, 3, (Value[]){s, slot, source});
    Value h = b_ew1(g, OP_gelu, EINSUM(g, "ecd,edf->ecf", rows, up));
    Value y = EINSUM(g, "ecf,efd->ecd", h, down);
    Value out = graph_add(g, OP_combine, NULL, 4,
                          (Value[]){y, b_reshape(g, picked, 2, DIMS(n, 2)), slot, source});
    Value share = b_reshape(g, b_proj(g, route, 3), 3, DIMS(1, 2, 2));
    Value mean = model_scaled(g, b_reduce(g, OP_sum, p, 1, DIMS(1)), 1.0 / (double)n);
    *aux = b_reduce(g, OP_sum, b_ew2(g, OP_mul, mean, share), 3, DIMS(0, 1, 2));
    return b_reshape(g, out, 3, DIMS(MODEL_B, MODEL_T, d));
}

static inline Value model_scale_shift(Graph *g, Value x, const char *scope) {
    Arena *a = session_arena(g->session);
    Value scale = model_param(g, arena_printf(a, "%s.scale", scope), 1, DIMS(MODEL_D));
    Value y = model_norm(g, x, 0);
    return b_ew2(g, OP_mul, y, b_broadcast_to(g, scale, type_of(g, y)));
}

/* Inputs "text" and "target" i32[b, t], sliced per micro-batch by name. */
static inline Value model_loss(Graph *g, ModelKind kind, Value text, Value target) {
    Arena *a = session_arena(g->session);
    Value table = model_param(g, "table", 2, DIMS(MODEL_V, MODEL_D)), loss = NO_VALUE, aux;
    Value x = graph_add(g, OP_gather, NULL, 2, (Value[]){table, text});
    for (int i = 0; i < 2; i++) {
        const char *scope = arena_printf(a, "block%d", kind.shared ? 0 : i);
        g->at.scope = intern(g->session, scope);
        x = b_ew2(g, OP_add, x, model_attention(g, model_scale_shift(g, x, scope), scope));
        Value y = model_norm(g, x, 0);
        y = kind.moe ? model_moe(g, y, scope, &aux) : model_ffn(g, y, scope);
        x = b_ew2(g, OP_add, x, y);
        if (kind.moe) loss = loss == NO_VALUE ? aux : b_ew2(g, OP_add, loss, aux);
    }
    Value logits = EINSUM(g, "btd,vd->btv", model_norm(g, x, 0), table);
    Value nll = b_reduce(g, OP_sum, model_nll(g, logits, target, 0), 2, DIMS(0, 1));
    nll = model_scaled(g, nll, 1.0 / (MODEL_B * MODEL_T));
    return loss == NO_VALUE ? nll : b_ew2(g, OP_add, nll, model_scaled(g, loss, 0.01));
}

static inline Value model_slice_rows(Graph *g, Value x, int64_t from, int64_t rows) {
    return b_slice(g, x, DIMS(from, 0), DIMS(from + rows, MODEL_T));
}

static inline Graph *model_build(Session *s, ModelKind kind) {
    Graph *g = graph_new(s, "small");
    int64_t n = kind.micro ? kind.micro : 1;
    g->set.train = true;
    g->set.micro_batches = n;
    Value text = model_input(g, "text", DT_I32, 2, DIMS(n * MODEL_B, MODEL_T));
    Value target = model_input(g, "target", DT_I32, 2, DIMS(n * MODEL_B, MODEL_T)), sum = NO_VALUE;
    for (int64_t i = 0; i < n; i++) {
        g->at.micro = kind.micro ? (int16_t)i : -1;
        Value loss = model_loss(g, kind, model_slice_rows(g, text, i * MODEL_B, MODEL_B),
                                model_slice_rows(g, target, i * MODEL_B, MODEL_B));
        g->at.micro = -1;
        sum = sum == NO_VALUE ? loss : b_ew2(g, OP_add, sum, loss);
    }
    b_output(g, model_scaled(g, sum, 1.0 / (double)n), "loss");
    return g;
}

/* ---- running ---- */

static inline int model_count(const Graph *g, Op op) {
    int n = 0;
    for (Value v = 0; v < g->node.n; v++) n += is_op(g, v, op);
    return n;
}

static inline void model_pipeline(Graph *g, const char *names) {
    PassContext cx = {.session = g->session, .opt = {.verify = true, .roundtrip = true}};
    CHECK(pipeline_run(g, names, &cx));
}

/* The same model run twice, through two pipelines. */
static inline Graph *model_copy(const Graph *g) {
    Graph *h = graph_like(g);
    Value *map = xcalloc(g->node.n, sizeof *map);
    for (Value v = 0; v < g->node.n; v++) map[v] = graph_copy_node(h, g, v, map);
    free(map);
    return h;
}

/* Inputs that are whole numbers count up, others are random. */
static inline void model_fill(Interp *in) {
    const Graph *g = in->g;
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_input)) continue;
        const Type *t = type_of(g, v);
        int64_t n = type_elements(t);
        double *x = xcalloc((size_t)n, sizeof *x);
        const char *name = attr_str(node_of(g, v), "name");
        uint32_t key = (uint32_t)hash_bytes(name, strlen(name), 1);
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = philox(key, (uint64_t)i, NULL);
            x[i] = dtype_is_float(t->dtype) ? random_unit(bits) * 4 - 2 : bits % MODEL_V;
        }
        interp_set(in, name, x);
        free(x);
    }
}

static inline Interp *model_run(Graph *g) {
    Interp *in = interp_new(g);
    model_fill(in);
    interp_run(in, 7, 1);
    return in;
}

static inline double model_scalar(const Interp *in, const char *name) {
    const Tensor *t = interp_output(in, name);
    return CHECK(t != NULL) ? t->data[0] : NAN;
}

/* Largest distance of two results, relative to the largest magnitude (at least 1e-3). */
static inline double model_distance(const Tensor *a, const Tensor *b) {
    double worst = 0, size = 1e-3;
    if (!a || !b || !type_same_shape(a->type, b->type)) return INFINITY;
    for (int64_t i = 0; i < type_elements(a->type); i++) {
        double d = fabs(a->data[i] - b->data[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
        size = fmax(size, fabs(b->data[i]));
    }
    return worst / size;
}

/* The sinks of two graphs: outputs and gradients by name; the largest distance. */
static inline double model_compare(const Interp *a, const Interp *b) {
    double worst = 0;
    int found = 0;
    for (Value v = 0; v < b->g->node.n; v++) {
        const Node *n = node_of(b->g, v);
        if (n->op != OP_output && n->op != OP_gradient) continue;
        const char *key = n->op == OP_output ? "name" : "of";
        for (Value w = 0; w < a->g->node.n; w++)
            if (node_of(a->g, w)->op == n->op &&
                attr_str(node_of(a->g, w), key) == attr_str(n, key)) {
                worst = fmax(worst, model_distance(interp_get(a, w), interp_get(b, v)));
                found++;
            }
    }
    CHECK(found > 0);
    return worst;
}

#endif
