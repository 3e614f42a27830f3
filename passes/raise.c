/* raise.c: ops with their own gradient and kernel are recognised in primitive form, however they
 * were written: softmax, norm and rmsnorm here, cross-entropy and attention in their own files.
 *
 * What is matched is equal to the raised op up to rounding. A softmax or log-sum-exp that does not
 * subtract the maximum is left alone: it overflows where the raised op does not.
 *
 * Two sweeps: the first raises row ops as their last node appears, the second finds attention
 * around the softmaxes that were raised. What a raised op replaces is dead unless it has other
 * uses. */
#include "passes/raise.h"

#include <math.h>

/* ---- row values ---- */

static bool same_prefix(const Type *a, const Type *b, int n) {
    for (int i = 0; i < n; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

/* A reshape that adds or drops a last dimension of 1. */
static bool is_row_reshape(const Type *a, const Type *b) {
    if (a->rank > b->rank) return is_row_reshape(b, a);
    return a->rank + 1 == b->rank && b->dim[a->rank] == 1 && same_prefix(a, b, a->rank);
}

/* A broadcast along the last axis alone. */
static bool is_row_broadcast(const Type *from, const Type *to, const Ints *dims) {
    for (uint32_t i = 0; i < dims->n; i++)
        if (dims->v[i] != i) return false;
    return from->rank >= to->rank - 1 && same_prefix(from, to, to->rank - 1);
}

Value peel(const Graph *g, Value v) {
    for (;;) {
        Op op = (Op)node_of(g, v)->op;
        if (op != OP_reshape && op != OP_broadcast) return v;
        Value x = operand(g, v, 0);
        const Type *from = type_of(g, x), *to = type_of(g, v);
        bool row = op == OP_reshape ? is_row_reshape(from, to)
                                    : is_row_broadcast(from, to, attr_ints(node_of(g, v), "dims"));
        if (!row) return v;
        v = x;
    }
}

bool splat_value(const Graph *g, Value v, double *x) {
    while (op_info((Op)node_of(g, v)->op)->flags & OPF_VIEW) v = operand(g, v, 0);
    return constant_value(g, v, x);
}

static bool is_splat(const Graph *g, Value v, double x) {
    double c;
    return splat_value(g, v, &c) && fabs(c - x) <= 1e-6 * fabs(x);
}

Value strip_cast(const Graph *g, Value v) {
    while (is_op(g, v, OP_cast) && type_of(g, operand(g, v, 0)) == type_of(g, v))
        v = operand(g, v, 0);
    return v;
}

bool match_scaled(const Graph *g, Value v, Value *a, double *c) {
    if (!is_op(g, v, OP_mul) && !is_op(g, v, OP_div)) return false;
    Value x = operand(g, v, 0), y = operand(g, v, 1);
    *a = x;
    if (splat_value(g, y, c)) {
        if (is_op(g, v, OP_div)) *c = 1 / *c;
        return isfinite(*c);
    }
    *a = y;
    return is_op(g, v, OP_mul) && splat_value(g, x, c);
}

bool is_reduction(const Graph *g, Value v, Op op, Value x) {
    v = peel(g, v);
    if (!is_op(g, v, op) || operand(g, v, 0) != x) return false;
    const Ints *axes = attr_ints(node_of(g, v), "axes");
    return axes->n == 1 && axes->v[0] == type_of(g, x)->rank - 1;
}

/* v is the mean of x along the last axis: sum / n or sum * (1/n). */
static bool is_mean(const Graph *g, Value v, Value x) {
    Value sum;
    double c;
    const Type *t = type_of(g, x);
    if (t->rank == 0 || !match_scaled(g, peel(g, v), &sum, &c)) return false;
    return fabs(c * (double)t->dim[t->rank - 1] - 1) < 1e-6 && is_reduction(g, sum, OP_sum, x);
}

static bool is_square(const Graph *g, Value v, Value x) {
    if (is_op(g, v, OP_mul)) return operand(g, v, 0) == x && operand(g, v, 1) == x;
    return is_op(g, v, OP_pow) && operand(g, v, 0) == x && is_splat(g, operand(g, v, 1), 2);
}

/* v is the mean of x * x. */
static bool is_mean_square(const Graph *g, Value v, Value x) {
    Value sum;
    double c;
    if (!match_scaled(g, peel(g, v), &sum, &c)) return false;
    sum = peel(g, sum);
    if (!is_op(g, sum, OP_sum)) return false;
    Value square = operand(g, sum, 0);
    return is_square(g, square, x) && is_mean(g, v, square);
}

/* v = mean(x * x) + eps */
static bool match_variance(const Graph *g, Value v, Value x, double *eps) {
    v = peel(g, v);
    *eps = 0;
    if (is_mean_square(g, v, x)) return true;
    if (!is_op(g, v, OP_add)) return false;
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    if (splat_value(g, b, eps)) return is_mean_square(g, a, x);
    return splat_value(g, a, eps) && is_mean_square(g, b, x);
}

/* v = sqrt(mean(x * x) + eps) */
static bool match_deviation(const Graph *g, Value v, Value x, double *eps) {
    v = peel(g, v);
    return is_op(g, v, OP_sqrt) && match_variance(g, operand(g, v, 0), x, eps);
}

/* v = 1 / sqrt(mean(x * x) + eps), as rsqrt, a quotient or a power */
static bool match_rstd(const Graph *g, Value v, Value x, double *eps) {
    v = peel(g, v);
    if (is_op(g, v, OP_rsqrt)) return match_variance(g, operand(g, v, 0), x, eps);
    if (is_op(g, v, OP_div) && is_splat(g, operand(g, v, 0), 1))
        return match_deviation(g, operand(g, v, 1), x, eps);
    return is_op(g, v, OP_pow) && is_splat(g, operand(g, v, 1), -0.5) &&
           match_variance(g, operand(g, v, 0), x, eps);
}

/* ---- norm and rmsnorm ---- */

/* norm(x) when c is x - mean(x), else rmsnorm(c) */
static Value make_norm(Graph *g, Value c, double eps) {
    bool centred = is_op(g, c, OP_sub) && is_mean(g, operand(g, c, 1), operand(g, c, 0));
    Op op = centred ? OP_norm : OP_rmsnorm;
    Value x = centred ? operand(g, c, 0) : c;
    return b_proj(g, graph_add(g, op, attr_of1(g, op, (AttrValue){.f = eps}), 1, &x), 0);
}

/* c * rsqrt(mean(c * c) + eps) or c / sqrt(mean(c * c) + eps) */
static Value raise_norm(Graph *g, Value v) {
    double eps;
    if (!is_op(g, v, OP_mul) && !is_op(g, v, OP_div)) return NO_VALUE;
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    if (is_op(g, v, OP_div))
        return match_deviation(g, b, a, &eps) ? make_norm(g, a, eps) : NO_VALUE;
    if (match_rstd(g, b, a, &eps)) return make_norm(g, a, eps);
    return match_rstd(g, a, b, &eps) ? make_norm(g, b, eps) : NO_VALUE;
}

/* ---- softmax ---- */

bool match_below_max(const Graph *g, Value v, Value *x) {
    if (!is_op(g, v, OP_sub)) return false;
    *x = operand(g, v, 0);
    return is_reduction(g, operand(g, v, 1), OP_max, *x);
}

/* e = exp(x - max(x)) and v is e's sum along the last axis */
static bool match_softmax(const Graph *g, Value e, Value sum, Value *x) {
    return is_op(g, e, OP_exp) && match_below_max(g, operand(g, e, 0), x) &&
           is_reduction(g, sum, OP_sum, e);
}

/* v = 1 / s: *s */
static bool match_inverse(const Graph *g, Value v, Value *s) {
    v = peel(g, v);
    if (!is_op(g, v, OP_div) || !is_splat(g, operand(g, v, 0), 1)) return false;
    *s = operand(g, v, 1);
    return true;
}

/* e / sum(e) or e * (1 / sum(e)), with e = exp(x - max(x)) */
static Value raise_softmax(Graph *g, Value v) {
    Value x, sum;
    if (!is_op(g, v, OP_mul) && !is_op(g, v, OP_div)) return NO_VALUE;
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    bool found = is_op(g, v, OP_div)
                     ? match_softmax(g, a, b, &x)
                     : (match_inverse(g, b, &sum) && match_softmax(g, a, sum, &x)) ||
                           (match_inverse(g, a, &sum) && match_softmax(g, b, sum, &x));
    return found ? graph_add(g, OP_softmax, NULL, 1, &x) : NO_VALUE;
}

/* ---- the sweeps ---- */

typedef Value RaiseFn(Graph *g, Value v);
static RaiseFn *const row_ops[] = {raise_softmax, raise_norm, raise_cross_entropy};

static Value raise_node(Graph *g, Value v) {
    graph_at_node(g, v);
    for (size_t i = 0; i < COUNT(row_ops); i++) {
        Value w = row_ops[i](g, v);
        if (w != NO_VALUE) return w;
    }
    return v;
}

static bool raise_rows(Graph *g, Arena *a) {
    Rewrite r = rewrite_begin(g, a);
    for (Value v = 0; v < g->node.n; v++) r.map[v] = raise_node(r.to, rewrite_copy(&r, v));
    compact(r.to);
    return rewrite_end(&r);
}

static bool raise_attentions(Graph *g, Arena *a) {
    Uses uses = graph_uses(g, a);
    Rewrite r = rewrite_begin(g, a);
    for (Value v = 0; v < g->node.n; v++) {
        Value w = is_op(g, v, OP_einsum) ? raise_attention(&r, &uses, v) : NO_VALUE;
        if (w == NO_VALUE)
            rewrite_copy(&r, v);
        else
            r.map[v] = w;
    }
    compact(r.to);
    return rewrite_end(&r);
}

bool pass_raise(Graph *g, PassContext *cx) {
    bool changed = raise_rows(g, cx->scratch);
    changed |= raise_attentions(g, cx->scratch);
    return changed;
}
