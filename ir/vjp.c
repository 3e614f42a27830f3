/* vjp.c: gradients of elementwise, shape, reduction, contraction and indexed ops. Each hook appends
 * what the chain rule adds for one node; the gradient of an operand has the operand's type.
 *
 * Cheap forward values (exp of a, tanh of a, …) are computed again from the operands as fresh
 * nodes, so that the backward kernel reads the operands only and the forward result need not live.
 * At kinks the rules are JAX's: ties of maximum and minimum share equally (half each), the elements
 * equal to a maximum over axes share by their count, abs and relu have gradient 0 at 0. */
#include "ir/hooks.h"

#include <string.h>

static Value mul(Graph *g, Value a, Value b) { return b_ew2(g, OP_mul, a, b); }
static Value scale(Graph *g, Value a, double x) { return mul(g, a, b_like(g, x, a)); }
static bool is_float(const Graph *g, Value v) { return dtype_is_float(type_of(g, v)->dtype); }

/* ---- elementwise, one operand: d = g * f'(a) ---- */

/* a^2 */
static Value square(Graph *g, Value a) { return mul(g, a, a); }
/* 1 - a */
static Value one_minus(Graph *g, Value a) { return b_ew2(g, OP_sub, b_like(g, 1, a), a); }

/* -a: -g */
void vjp_neg(Graph *g, Value v, const Value *gout, Value *gin) {
    (void)v;
    gin[0] = b_ew1(g, OP_neg, gout[0]);
}

/* |a|: g where a > 0, -g where a < 0, 0 at 0 */
void vjp_abs(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), zero = b_like(g, 0, a);
    Value down = b_ew3(g, OP_select, b_ew2(g, OP_lt, a, zero), b_ew1(g, OP_neg, gout[0]), zero);
    gin[0] = b_ew3(g, OP_select, b_ew2(g, OP_gt, a, zero), gout[0], down);
}

/* e^a: g e^a */
void vjp_exp(Graph *g, Value v, const Value *gout, Value *gin) {
    gin[0] = mul(g, gout[0], b_ew1(g, OP_exp, operand(g, v, 0)));
}

/* log a: g / a */
void vjp_log(Graph *g, Value v, const Value *gout, Value *gin) {
    gin[0] = b_ew2(g, OP_div, gout[0], operand(g, v, 0));
}

/* sqrt a: g / 2 a^(-1/2) */
void vjp_sqrt(Graph *g, Value v, const Value *gout, Value *gin) {
    Value r = b_ew1(g, OP_rsqrt, operand(g, v, 0));
    gin[0] = mul(g, scale(g, gout[0], 0.5), r);
}

/* a^(-1/2): -g / 2 a^(-3/2) */
void vjp_rsqrt(Graph *g, Value v, const Value *gout, Value *gin) {
    Value r = b_ew1(g, OP_rsqrt, operand(g, v, 0));
    gin[0] = mul(g, scale(g, gout[0], -0.5), mul(g, square(g, r), r));
}

/* sin a: g cos a */
void vjp_sin(Graph *g, Value v, const Value *gout, Value *gin) {
    gin[0] = mul(g, gout[0], b_ew1(g, OP_cos, operand(g, v, 0)));
}

/* cos a: -g sin a */
void vjp_cos(Graph *g, Value v, const Value *gout, Value *gin) {
    gin[0] = b_ew1(g, OP_neg, mul(g, gout[0], b_ew1(g, OP_sin, operand(g, v, 0))));
}

/* tanh a: g (1 - tanh^2 a) */
void vjp_tanh(Graph *g, Value v, const Value *gout, Value *gin) {
    Value t = b_ew1(g, OP_tanh, operand(g, v, 0));
    gin[0] = mul(g, gout[0], one_minus(g, square(g, t)));
}

/* erf a: g 2/sqrt(pi) e^(-a^2) */
void vjp_erf(Graph *g, Value v, const Value *gout, Value *gin) {
    Value e = b_ew1(g, OP_exp, b_ew1(g, OP_neg, square(g, operand(g, v, 0))));
    gin[0] = mul(g, scale(g, gout[0], 1.1283791670955126), e);
}

/* s = sigmoid a: g s (1 - s) */
void vjp_sigmoid(Graph *g, Value v, const Value *gout, Value *gin) {
    Value s = b_ew1(g, OP_sigmoid, operand(g, v, 0));
    gin[0] = mul(g, gout[0], mul(g, s, one_minus(g, s)));
}

/* max(a, 0): g where a > 0 */
void vjp_relu(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), zero = b_like(g, 0, a);
    gin[0] = b_ew3(g, OP_select, b_ew2(g, OP_gt, a, zero), gout[0], zero);
}

/* a s with s = sigmoid a: g s (1 + a (1 - s)) */
void vjp_silu(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), s = b_ew1(g, OP_sigmoid, a);
    Value slope = b_ew2(g, OP_add, b_like(g, 1, a), mul(g, a, one_minus(g, s)));
    gin[0] = mul(g, gout[0], mul(g, s, slope));
}

/* gelu a: g gelu'(a) */
void vjp_gelu(Graph *g, Value v, const Value *gout, Value *gin) {
    gin[0] = mul(g, gout[0], b_ew1(g, OP_gelu_grad, operand(g, v, 0)));
}

/* Back to the operand's dtype; whole numbers have no gradient. */
void vjp_cast(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0);
    if (is_float(g, a)) gin[0] = b_cast(g, gout[0], type_of(g, a)->dtype);
}

/* ---- elementwise, several operands ---- */

void vjp_add(Graph *g, Value v, const Value *gout, Value *gin) {
    (void)g, (void)v;
    gin[0] = gin[1] = gout[0];
}

void vjp_sub(Graph *g, Value v, const Value *gout, Value *gin) {
    (void)v;
    gin[0] = gout[0];
    gin[1] = b_ew1(g, OP_neg, gout[0]);
}

void vjp_mul(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    gin[0] = mul(g, gout[0], b);
    gin[1] = mul(g, gout[0], a);
}

/* a/b: g/b and -g/b a/b */
void vjp_div(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    gin[0] = b_ew2(g, OP_div, gout[0], b);
    gin[1] = b_ew1(g, OP_neg, mul(g, gin[0], b_ew2(g, OP_div, a, b)));
}

/* `wins` compares a with b. a gets g where it wins and g/2 at ties, b the rest. */
static void vjp_choice(Graph *g, Op wins, Value v, Value gy, Value *gin) {
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    Value tie = b_ew3(g, OP_select, b_ew2(g, OP_eq, a, b), scale(g, gy, 0.5), b_like(g, 0, gy));
    gin[0] = b_ew3(g, OP_select, b_ew2(g, wins, a, b), gy, tie);
    gin[1] = b_ew2(g, OP_sub, gy, gin[0]);
}

void vjp_maximum(Graph *g, Value v, const Value *gout, Value *gin) {
    vjp_choice(g, OP_gt, v, gout[0], gin);
}

void vjp_minimum(Graph *g, Value v, const Value *gout, Value *gin) {
    vjp_choice(g, OP_lt, v, gout[0], gin);
}

/* a^b: g b a^(b-1), and 0 where b is 0 (a may be 0 there) */
void vjp_pow(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    bool known = node_of(g, b)->op == OP_constant;
    if (known && attr_float(node_of(g, b), "value") == 0) return;
    Value slope = mul(g, b, b_ew2(g, OP_pow, a, b_ew2(g, OP_sub, b, b_like(g, 1, b))));
    Value zero = b_like(g, 0, b);
    if (!known) slope = b_ew3(g, OP_select, b_ew2(g, OP_eq, b, zero), zero, slope);
    gin[0] = mul(g, gout[0], slope);
}

void vjp_select(Graph *g, Value v, const Value *gout, Value *gin) {
    Value c = operand(g, v, 0), zero = b_like(g, 0, gout[0]);
    gin[1] = b_ew3(g, OP_select, c, gout[0], zero);
    gin[2] = b_ew3(g, OP_select, c, zero, gout[0]);
}

/* ---- shape ---- */

void vjp_reshape(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    gin[0] = b_reshape(g, gout[0], t->rank, t->dim);
}

void vjp_transpose(Graph *g, Value v, const Value *gout, Value *gin) {
    const Ints *perm = attr_ints(node_of(g, v), "perm");
    int64_t back[MAX_RANK];
    for (uint32_t i = 0; i < perm->n; i++) back[perm->v[i]] = i;
    gin[0] = b_transpose(g, gout[0], back);
}

/* The sum over what was repeated: result dims without an operand dim, and those of size 1. */
void vjp_broadcast(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *from = type_of(g, operand(g, v, 0)), *to = type_of(g, v);
    const Ints *dims = attr_ints(node_of(g, v), "dims");
    bool keep[MAX_RANK] = {0};
    for (int i = 0; i < from->rank; i++) keep[dims->v[i]] = from->dim[i] == to->dim[dims->v[i]];
    int64_t axes[MAX_RANK];
    uint32_t n = 0;
    for (int i = 0; i < to->rank; i++)
        if (!keep[i]) axes[n++] = i;
    Value sum = n ? b_reduce(g, OP_sum, gout[0], n, axes) : gout[0];
    gin[0] = type_of(g, sum) == from ? sum : b_reshape(g, sum, from->rank, from->dim);
}

static Value pad(Graph *g, Value a, uint32_t rank, const int64_t *lo, const int64_t *hi) {
    Session *s = g->session;
    AttrValue at[] = {{.v = ints_intern(s, rank, lo)}, {.v = ints_intern(s, rank, hi)}};
    return graph_add(g, OP_pad, attr_intern(s, OP_pad, at), 1, &a);
}

void vjp_slice(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    const Ints *start = attr_ints(node_of(g, v), "start"),
               *limit = attr_ints(node_of(g, v), "limit");
    int64_t hi[MAX_RANK];
    for (int i = 0; i < t->rank; i++) hi[i] = t->dim[i] - limit->v[i];
    gin[0] = pad(g, gout[0], (uint32_t)t->rank, start->v, hi);
}

void vjp_pad(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    const Ints *lo = attr_ints(node_of(g, v), "lo");
    int64_t limit[MAX_RANK];
    for (int i = 0; i < t->rank; i++) limit[i] = lo->v[i] + t->dim[i];
    gin[0] = b_slice(g, gout[0], lo->v, limit);
}

void vjp_concat(Graph *g, Value v, const Value *gout, Value *gin) {
    int64_t axis = attr_int(node_of(g, v), "axis"), start[MAX_RANK] = {0}, limit[MAX_RANK];
    uint32_t n = node_of(g, v)->nin;
    memcpy(limit, type_of(g, v)->dim, sizeof limit);
    for (uint32_t i = 0; i < n; i++) {
        limit[axis] = start[axis] + type_of(g, operand(g, v, i))->dim[axis];
        gin[i] = b_slice(g, gout[0], start, limit);
        start[axis] = limit[axis];
    }
}

/* ---- reductions ---- */

/* A reduction's result or its gradient, repeated along the reduced axes. */
static Value repeat_axes(Graph *g, Value a, const Type *to, const Ints *axes) {
    int64_t dims[MAX_RANK];
    uint32_t n = 0, next = 0;
    for (int i = 0; i < to->rank; i++) {
        if (next < axes->n && axes->v[next] == i)
            next++;
        else
            dims[n++] = i;
    }
    return b_broadcast(g, a, to->rank, to->dim, dims);
}

void vjp_sum(Graph *g, Value v, const Value *gout, Value *gin) {
    const Ints *axes = attr_ints(node_of(g, v), "axes");
    gin[0] = repeat_axes(g, gout[0], type_of(g, operand(g, v, 0)), axes);
}

/* max and min: g over the number of elements equal to the result, at those elements. The count is
 * taken in f32 (f64 of f64): bf16 cannot count beyond 256. */
void vjp_max(Graph *g, Value v, const Value *gout, Value *gin) {
    Value a = operand(g, v, 0);
    const Type *t = type_of(g, a);
    const Ints *axes = attr_ints(node_of(g, v), "axes");
    Dtype wide = t->dtype == DT_F64 ? DT_F64 : DT_F32;
    Value hit = b_cast(g, b_ew2(g, OP_eq, a, repeat_axes(g, v, t, axes)), wide);
    Value count = b_reduce(g, OP_sum, hit, axes->n, axes->v);
    Value share = b_ew2(g, OP_div, b_cast(g, gout[0], wide), count);
    gin[0] = b_cast(g, mul(g, hit, repeat_axes(g, share, type_of(g, hit), axes)), t->dtype);
}

/* ---- contraction ---- */

static Value contract(Graph *g, const char *a, const char *b, const char *c, Value x, Value y) {
    return b_einsum(g, arena_printf(g->arena, "%s,%s->%s", a, b, c), x, y);
}

/* Swaps the roles of the operands and the result: c,b->a and a,c->b. Every label is in two of the
 * three at least, so both are contractions again. */
void vjp_einsum(Graph *g, Value v, const Value *gout, Value *gin) {
    Einsum e = einsum_read(g, node_of(g, v));
    gin[0] = contract(g, e.c, e.b, e.a, gout[0], operand(g, v, 1));
    gin[1] = contract(g, e.a, e.c, e.b, operand(g, v, 0), gout[0]);
}

/* ---- indexed ---- */

static Value sized(Graph *g, Op op, int64_t size, Value a, Value b) {
    AttrValue at = {.i = size};
    return graph_add(g, op, attr_intern(g->session, op, &at), 2, (Value[]){a, b});
}

void vjp_gather(Graph *g, Value v, const Value *gout, Value *gin) {
    int64_t size = type_of(g, operand(g, v, 0))->dim[0];
    gin[0] = sized(g, OP_scatter_add, size, operand(g, v, 1), gout[0]);
}

void vjp_pick(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    gin[0] = sized(g, OP_unpick, t->dim[t->rank - 1], operand(g, v, 1), gout[0]);
}
