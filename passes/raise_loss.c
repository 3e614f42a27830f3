/* raise_loss.c: cross-entropy from logits x[.., n] and targets, in its two natural forms
 *     log(sum(exp(x - max))) + max - pick(x, target)
 *     -pick(x - lse, target), lse as above, or with x - max in place of x throughout
 * They differ for targets outside 0..n-1 (pick gives 0), so that the second is masked. */
#include "passes/raise.h"

/* v = log(sum(exp(x - max(x)))) along the last axis: *x */
static bool match_log_sum(const Graph *g, Value v, Value *x) {
    v = peel(g, v);
    if (!is_op(g, v, OP_log)) return false;
    Value sum = peel(g, operand(g, v, 0));
    if (!is_op(g, sum, OP_sum)) return false;
    Value e = operand(g, sum, 0);
    return is_op(g, e, OP_exp) && match_below_max(g, operand(g, e, 0), x) &&
           is_reduction(g, sum, OP_sum, e);
}

/* v = log(sum(exp(x - max))) + max: *x */
static bool match_lse(const Graph *g, Value v, Value *x) {
    v = peel(g, v);
    if (!is_op(g, v, OP_add)) return false;
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    if (match_log_sum(g, a, x)) return is_reduction(g, b, OP_max, *x);
    return match_log_sum(g, b, x) && is_reduction(g, a, OP_max, *x);
}

/* v = log(softmax(x)): x - lse, or z - log(sum(exp(z))) with z = x - max */
static bool match_log_softmax(const Graph *g, Value v, Value *x) {
    if (!is_op(g, v, OP_sub)) return false;
    Value a = operand(g, v, 0), b = operand(g, v, 1), z;
    if (match_lse(g, b, x)) return *x == a;
    return match_log_sum(g, b, x) && match_below_max(g, a, &z) && z == *x;
}

/* The target i32[..] behind index[.., 1], or NO_VALUE when it cannot be one of x. */
static Value target_of(Graph *g, Value index, Value x) {
    const Type *t = type_of(g, index), *tx = type_of(g, x);
    if (t->dtype != DT_I32 || t->rank != tx->rank || t->dim[t->rank - 1] != 1) return NO_VALUE;
    Value inner = is_op(g, index, OP_reshape) ? operand(g, index, 0) : index;
    const Type *rows = type_tensor(g->session, DT_I32, t->rank - 1, t->dim);
    return type_of(g, inner) == rows ? inner : b_reshape(g, index, rows->rank, rows->dim);
}

/* nll of logits x, reshaped to a type; masked: 0 where the target is outside. */
static Value make_nll(Graph *g, Value x, Value target, const Type *t, bool masked) {
    Value in[] = {x, target};
    Value nll = b_proj(g, graph_add(g, OP_cross_entropy, NULL, 2, in), 0);
    if (masked) {
        const Type *tx = type_of(g, x);
        Value low = b_ew2(g, OP_ge, target, b_like(g, 0, target));
        Value n = b_like(g, (double)tx->dim[tx->rank - 1], target);
        Value inside = b_ew2(g, OP_and, low, b_ew2(g, OP_lt, target, n));
        nll = b_ew3(g, OP_select, inside, nll, b_like(g, 0, nll));
    }
    return b_reshape(g, nll, t->rank, t->dim);
}

/* lse - pick(x, target), as [..] or [.., 1] */
static Value raise_difference(Graph *g, Value v) {
    Value x, pick = peel(g, operand(g, v, 1));
    if (!is_op(g, pick, OP_pick) || !match_lse(g, operand(g, v, 0), &x)) return NO_VALUE;
    if (operand(g, pick, 0) != x) return NO_VALUE;
    Value target = target_of(g, operand(g, pick, 1), x);
    const Type *t = type_of(g, v);
    if (target == NO_VALUE || type_elements(t) != type_elements(type_of(g, target)))
        return NO_VALUE;
    return make_nll(g, x, target, t, false);
}

Value raise_cross_entropy(Graph *g, Value v) {
    Value x;
    if (is_op(g, v, OP_sub)) return raise_difference(g, v);
    if (!is_op(g, v, OP_pick) || !match_log_softmax(g, operand(g, v, 0), &x)) return NO_VALUE;
    Value target = target_of(g, operand(g, v, 1), x);
    if (target == NO_VALUE) return NO_VALUE;
    return b_ew1(g, OP_neg, make_nll(g, x, target, type_of(g, v), true));
}
