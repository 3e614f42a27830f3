/* expand.c: the raised ops as primitives, for the row-kernel generator. Equal to their evaluation
 * up to rounding: bf16 and f16 operands are cast to f32 first, results cast to their type at the
 * end. */
#include "ir/hooks.h"

static Value row_max(Graph *g, Value a) { return b_reduce_last(g, OP_max, a); }
static Value row_sum(Graph *g, Value a) { return b_reduce_last(g, OP_sum, a); }
static int64_t last_dim(const Graph *g, Value a) {
    return type_of(g, a)->dim[type_of(g, a)->rank - 1];
}

/* a combined with the row scalars r, repeated along a's last axis. */
static Value with_row(Graph *g, Op op, Value a, Value r) {
    return b_ew2(g, op, a, b_repeat_last(g, r, last_dim(g, a)));
}

static Value row_mean(Graph *g, Value a) {
    Value sum = row_sum(g, a);
    return b_ew2(g, OP_mul, sum, b_like(g, 1.0 / (double)last_dim(g, a), sum));
}

/* rsqrt(mean(a^2) + eps) */
static Value row_rstd(Graph *g, Value a, double eps) {
    Value m = row_mean(g, b_ew2(g, OP_mul, a, a));
    return b_ew1(g, OP_rsqrt, b_ew2(g, OP_add, m, b_like(g, eps, m)));
}

static Value in_wide_type(Graph *g, Value a) {
    return b_cast(g, a, type_of(g, a)->dtype == DT_F64 ? DT_F64 : DT_F32);
}

/* Casts each result to the type that node v gives it. */
static void cast_results(Graph *g, Value v, uint32_t n, Value *res) {
    const Type *t = type_of(g, v);
    for (uint32_t i = 0; i < n; i++) res[i] = b_cast(g, res[i], t->elem[i]->dtype);
}

/* exp(x - max) / sum */
void expand_softmax(Graph *g, Value v, Value *res) {
    Value x = in_wide_type(g, operand(g, v, 0));
    Value e = b_ew1(g, OP_exp, with_row(g, OP_sub, x, row_max(g, x)));
    Value sum = row_sum(g, e), inverse = b_ew2(g, OP_div, b_like(g, 1, sum), sum);
    res[0] = b_cast(g, with_row(g, OP_mul, e, inverse), type_of(g, v)->dtype);
}

void expand_norm(Graph *g, Value v, Value *res) {
    double eps = attr_float(node_of(g, v), "eps");
    Value x = in_wide_type(g, operand(g, v, 0));
    res[1] = row_mean(g, x);
    Value centred = with_row(g, OP_sub, x, res[1]);
    res[2] = row_rstd(g, centred, eps);
    res[0] = with_row(g, OP_mul, centred, res[2]);
    cast_results(g, v, 3, res);
}

void expand_rmsnorm(Graph *g, Value v, Value *res) {
    double eps = attr_float(node_of(g, v), "eps");
    Value x = in_wide_type(g, operand(g, v, 0));
    res[1] = row_rstd(g, x, eps);
    res[0] = with_row(g, OP_mul, x, res[1]);
    cast_results(g, v, 2, res);
}

/* lse = log(sum exp(x - max)) + max; nll = lse - x[target], and pick gives 0 for a target outside.
 */
void expand_cross_entropy(Graph *g, Value v, Value *res) {
    Value logits = operand(g, v, 0), x = in_wide_type(g, logits);
    Value own = in_wide_type(g, b_pick_one(g, logits, operand(g, v, 1)));
    Value max = row_max(g, x);
    Value sum = row_sum(g, b_ew1(g, OP_exp, with_row(g, OP_sub, x, max)));
    res[1] = b_ew2(g, OP_add, b_ew1(g, OP_log, sum), max);
    res[0] = b_ew2(g, OP_sub, res[1], own);
    cast_results(g, v, 2, res);
}
