/* interp.c: runs any graph in double precision, one node after the other. It is the oracle of every
 * other way to run a graph, so it only dispatches: what ops mean is in eval*.c and ops.def.
 *
 * Buffers are made at the first run and used again by the next ones. Leaves keep their values
 * between runs; assignments copy into them after the last node, all sources before any target.
 * bf16 and f16 are rounded from f32, as kernels do; i64 is exact up to 2^53; floats become integers
 * toward zero, saturating, NaN as 0. What ranks do together is in interp_ranks.c, which runs all
 * other nodes by interp_node. */
#include "ir/interp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- storage formats ---- */

static double to_integer(double x, double low, double high) {
    if (isnan(x)) return 0;
    return x < low ? low : x > high ? high : trunc(x);
}

static double store_f32(double x) { return (double)(float)x; }
static double store_bf16(double x) { return (double)bf16_to_f32(f32_to_bf16((float)x)); }
static double store_f16(double x) { return (double)f16_to_f32(f32_to_f16((float)x)); }
static double store_i32(double x) { return to_integer(x, INT32_MIN, INT32_MAX); }
static double store_i64(double x) { return to_integer(x, -0x1p63, 0x1p63); }
static double store_bool(double x) { return x != 0; }

/* What a dtype keeps of a number; NULL: all of it. */
static double (*const store[DT_COUNT])(double) = {
    [DT_F32] = store_f32, [DT_BF16] = store_bf16, [DT_F16] = store_f16,
    [DT_I32] = store_i32, [DT_I64] = store_i64,   [DT_BOOL] = store_bool,
};

void interp_round(const Interp *in, Dtype d, double *x, int64_t n) {
    double (*keep)(double) = store[d];
    if (!keep || (d == DT_F32 && !in->round_f32)) return;
    for (int64_t i = 0; i < n; i++) x[i] = keep(x[i]);
}

static void round_tensor(const Interp *in, Tensor *t) {
    interp_round(in, t->type->dtype, t->data, type_elements(t->type));
}

/* ---- the interpreter ---- */

Interp *interp_new(Graph *g) {
    Arena *a = arena_new();
    Interp *in = arena_new_of(a, Interp);
    *in = (Interp){.g = g, .arena = a, .value = arena_array(a, Tensor *, g->node.n + 1)};
    return in;
}

void interp_free(Interp *in) {
    if (in) arena_free(in->arena);
}

Tensor *interp_results(Interp *in, Value v) {
    if (in->value[v]) return in->value[v];
    const Type *t = type_of(in->g, v);
    uint32_t n = t->dtype == DT_TUPLE ? t->nelem : 1;
    Tensor *r = arena_array(in->arena, Tensor, n);
    for (uint32_t i = 0; i < n; i++) {
        r[i].type = t->dtype == DT_TUPLE ? t->elem[i] : t;
        r[i].data = arena_array(in->arena, double, type_elements(r[i].type));
    }
    return in->value[v] = r;
}

/* Leaves that hold what somebody put there. */
bool interp_is_stored(const Node *n) {
    return n->op == OP_input || n->op == OP_param || n->op == OP_state;
}

bool interp_set(Interp *in, const char *name, const double *data) {
    bool found = false;
    for (Value v = 0; v < in->g->node.n; v++) {
        const Node *n = node_of(in->g, v);
        if (!interp_is_stored(n) || strcmp(attr_str(n, "name"), name) != 0) continue;
        Tensor *t = interp_results(in, v);
        memcpy(t->data, data, sizeof(double) * (size_t)type_elements(t->type));
        round_tensor(in, t);
        found = true;
    }
    return found;
}

const Tensor *interp_get(const Interp *in, Value v) { return in->value[v]; }

const Tensor *interp_output(const Interp *in, const char *name) {
    for (Value v = 0; v < in->g->node.n; v++) {
        const Node *n = node_of(in->g, v);
        if (n->op == OP_output && strcmp(attr_str(n, "name"), name) == 0) return in->value[v];
    }
    return NULL;
}

void init_fill(const char *kind, double a, double b, const char *name, uint64_t seed, double *x,
               int64_t n) {
    InitKind k;
    if (!init_kind_parse(kind, &k)) BUG("%s: no init is called %s", name, kind);
    uint32_t key = random_key(seed, hash_bytes(name, strlen(name), 0), 0);
    for (int64_t i = 0; i < n; i++) x[i] = init_value(k, a, b, key, (uint64_t)i);
}

/* Start values of the leaves nobody set. */
static void start_leaf(Interp *in, Value v, uint64_t seed) {
    const Node *n = node_of(in->g, v);
    if (in->value[v]) return;
    const char *name = attr_str(n, "name");
    if (n->op == OP_input) BUG("input '%s' was not set", name);
    Tensor *t = interp_results(in, v);
    init_fill(attr_str(n, "init"), attr_float(n, "a"), attr_float(n, "b"), name, seed, t->data,
              type_elements(t->type));
    round_tensor(in, t);
}

static void run_elementwise(const OpInfo *info, const Node *n, const Tensor *in, Tensor *out) {
    const double *a = in[0].data, *b = n->nin > 1 ? in[1].data : a,
                 *c = n->nin > 2 ? in[2].data : a;
    int64_t count = type_elements(out->type);
    for (int64_t i = 0; i < count; i++) out->data[i] = info->fn(a[i], b[i], c[i]);
}

/* Outputs and gradients pass their operand on. */
static void copy_operand(const Tensor *in, Tensor *out) {
    memcpy(out->data, in->data, sizeof(double) * (size_t)type_elements(out->type));
}

/* What ranks do together, in a group of one. */
static void run_alone(const Node *n, const Tensor *in, Tensor *out) {
    if (attr_int(n, "ranks") != 1)
        BUG("%s over \"%s\" needs the other ranks", op_info((Op)n->op)->name, attr_str(n, "over"));
    for (uint32_t i = 0; i < n->nin; i++) copy_operand(&in[i], &out[i]);
}

static void run_node(Interp *in, Value v) {
    const Graph *g = in->g;
    const Node *n = node_of(g, v);
    const OpInfo *info = op_info((Op)n->op);
    Tensor operands[MAX_OPERANDS], *out = interp_results(in, v);
    for (uint32_t i = 0; i < n->nin; i++) operands[i] = in->value[operand(g, v, i)][0];
    if (n->op == OP_proj)
        info->eval(g, n, in->value[operand(g, v, 0)], out);
    else if (info->eval)
        info->eval(g, n, operands, out);
    else if (info->fn)
        run_elementwise(info, n, operands, out);
    else if (is_collective(n))
        run_alone(n, operands, out);
    else
        copy_operand(operands, out);
    uint32_t results = n->type->dtype == DT_TUPLE ? n->type->nelem : 1;
    for (uint32_t i = 0; i < results; i++) round_tensor(in, &out[i]);
}

void interp_node(Interp *in, Value v, uint64_t seed) {
    const Node *n = node_of(in->g, v);
    if (interp_is_stored(n))
        start_leaf(in, v, seed);
    else if (n->op == OP_assign)
        copy_operand(in->value[operand(in->g, v, 1)], interp_results(in, v));
    else
        run_node(in, v);
}

/* Node `assign` itself holds the copy of its source that its leaf takes now. */
void interp_assign(Interp *in) {
    for (Value v = 0; v < in->g->node.n; v++)
        if (node_of(in->g, v)->op == OP_assign)
            copy_operand(in->value[v], in->value[operand(in->g, v, 0)]);
}

void interp_clock(Interp *in, uint64_t seed, int64_t step) {
    interp_set(in, "@seed", &(double){(double)(int32_t)(uint32_t)seed});
    interp_set(in, "@step", &(double){(double)step});
}

void interp_run(Interp *in, uint64_t seed, int64_t step) {
    interp_clock(in, seed, step);
    for (Value v = 0; v < in->g->node.n; v++) interp_node(in, v, seed);
    interp_assign(in);
}
