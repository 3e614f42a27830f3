/* vjp_raised.c: gradients of the ops with a closed form: softmax, the norms, cross entropy,
 * attention, and the mixture of experts.
 *
 * Norms compute their normalised x again from x and the row scalars, so that the backward kernel
 * reads x instead of a stored result. All of it runs in the wide type (f32; f64 of f64) and is cast
 * to the operand's dtype at the end. Gradients through every result are right, also through the
 * statistics that a model rarely uses. */
#include "ir/hooks.h"

static Value add(Graph *g, Value a, Value b) { return b_ew2(g, OP_add, a, b); }
static Value sub(Graph *g, Value a, Value b) { return b_ew2(g, OP_sub, a, b); }
static Value mul(Graph *g, Value a, Value b) { return b_ew2(g, OP_mul, a, b); }
static Value scale(Graph *g, Value a, double x) { return mul(g, a, b_like(g, x, a)); }
static Dtype wide_type(Dtype d) { return d == DT_F64 ? DT_F64 : DT_F32; }
static int64_t last_dim(const Type *t) { return t->dim[t->rank - 1]; }

/* a plus b, where NO_VALUE stands for zero. */
static Value plus(Graph *g, Value a, Value b) {
    if (a == NO_VALUE) return b;
    return b == NO_VALUE ? a : add(g, a, b);
}

/* The mean of a * b along the last axis, repeated along it. */
static Value mean_product(Graph *g, Value a, Value b) {
    int64_t n = last_dim(type_of(g, a));
    return b_repeat_last(g, scale(g, b_reduce_last(g, OP_sum, mul(g, a, b)), 1.0 / (double)n), n);
}

/* y = softmax x: y (g - sum g y) */
void vjp_softmax(Graph *g, Value v, const Value *gout, Value *gin) {
    Dtype d = type_of(g, v)->dtype, w = wide_type(d);
    Value y = b_cast(g, v, w), gy = b_cast(g, gout[0], w);
    Value dot = b_reduce_last(g, OP_sum, mul(g, gy, y));
    Value centred = sub(g, gy, b_repeat_last(g, dot, last_dim(type_of(g, y))));
    gin[0] = b_cast(g, mul(g, y, centred), d);
}

/* What the gradient of rstd adds to that of x: -grstd rstd^2 xhat / n, for both norms. */
static Value through_rstd(Graph *g, Value xhat, Value rstd, Value grstd) {
    int64_t n = last_dim(type_of(g, xhat));
    Value row = scale(g, mul(g, grstd, mul(g, rstd, rstd)), -1.0 / (double)n);
    return mul(g, xhat, b_repeat_last(g, row, n));
}

/* y = xhat = (x - mean) rstd: rstd (gy - mean(gy) - xhat mean(gy xhat)) + gmean / n + … */
void vjp_norm(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    int64_t n = last_dim(t);
    Value mean = b_proj(g, v, 1), rstd = b_proj(g, v, 2), dx = NO_VALUE;
    Dtype w = type_of(g, mean)->dtype;
    Value centred = sub(g, b_cast(g, operand(g, v, 0), w), b_repeat_last(g, mean, n));
    Value wide_rstd = b_repeat_last(g, rstd, n), xhat = mul(g, centred, wide_rstd);
    if (gout[0] != NO_VALUE) {
        Value gy = b_cast(g, gout[0], w);
        Value level = scale(g, b_reduce_last(g, OP_sum, gy), 1.0 / (double)n);
        Value rest = sub(g, gy, b_repeat_last(g, level, n));
        dx = mul(g, wide_rstd, sub(g, rest, mul(g, xhat, mean_product(g, gy, xhat))));
    }
    if (gout[1] != NO_VALUE)
        dx = plus(g, dx, b_repeat_last(g, scale(g, gout[1], 1.0 / (double)n), n));
    if (gout[2] != NO_VALUE) dx = plus(g, dx, through_rstd(g, xhat, rstd, gout[2]));
    gin[0] = b_cast(g, dx, t->dtype);
}

/* y = xhat = x rstd: rstd (gy - xhat mean(gy xhat)) + … */
void vjp_rmsnorm(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    Value rstd = b_proj(g, v, 1), dx = NO_VALUE;
    Dtype w = type_of(g, rstd)->dtype;
    Value wide_rstd = b_repeat_last(g, rstd, last_dim(t));
    Value xhat = mul(g, b_cast(g, operand(g, v, 0), w), wide_rstd);
    if (gout[0] != NO_VALUE) {
        Value gy = b_cast(g, gout[0], w);
        dx = mul(g, wide_rstd, sub(g, gy, mul(g, xhat, mean_product(g, gy, xhat))));
    }
    if (gout[1] != NO_VALUE) dx = plus(g, dx, through_rstd(g, xhat, rstd, gout[1]));
    gin[0] = b_cast(g, dx, t->dtype);
}

/* Where the class index equals the target: bool, of the logits' shape. */
static Value is_target(Graph *g, Value target, const Type *logits) {
    AttrValue axis = {.i = logits->rank - 1};
    const Type *t = type_with_dtype(g->session, logits, type_of(g, target)->dtype);
    Value index = graph_leaf(g, OP_iota, attr_intern(g->session, OP_iota, &axis), t);
    return b_ew2(g, OP_eq, index, b_repeat_last(g, target, last_dim(logits)));
}

/* nll = lse - logit of the target: softmax (gnll + glse) - [class is the target] gnll */
void vjp_cross_entropy(Graph *g, Value v, const Value *gout, Value *gin) {
    const Type *t = type_of(g, operand(g, v, 0));
    int64_t n = last_dim(t);
    Value lse = b_proj(g, v, 1);
    Value x = b_cast(g, operand(g, v, 0), type_of(g, lse)->dtype);
    Value p = b_ew1(g, OP_exp, sub(g, x, b_repeat_last(g, lse, n)));
    Value dx = mul(g, p, b_repeat_last(g, plus(g, gout[0], gout[1]), n));
    if (gout[0] != NO_VALUE) {
        Value hit = is_target(g, operand(g, v, 1), t), gnll = b_repeat_last(g, gout[0], n);
        dx = sub(g, dx, b_ew3(g, OP_select, hit, gnll, b_like(g, 0, gnll)));
    }
    gin[0] = b_cast(g, dx, t->dtype);
}

/* ---- attention ---- */

/* scale q k' + mask as [b, h, t, s] in the type of lse. */
static Value scores(Graph *g, Value v, Dtype w) {
    const Node *n = node_of(g, v);
    const char *kind = attr_str(n, "mask");
    int64_t prefix = attr_int(n, "prefix");
    double factor = attr_float(n, "scale");
    Value q = b_cast(g, operand(g, v, 0), w), k = b_cast(g, operand(g, v, 1), w);
    Value s = scale(g, b_einsum(g, "bthk,bshk->bhts", q, k), factor);
    if (kind == intern(g->session, "none")) return s;
    const Type *t = type_of(g, s);
    AttrValue at[] = {{.s = kind}, {.i = prefix}};
    Value mask = graph_leaf(g, OP_mask, attr_intern(g->session, OP_mask, at),
                            type_tensor(g->session, w, 2, t->dim + 2));
    return add(g, s, b_broadcast_to(g, mask, t));
}

/* What the gradient of lse adds to those of q and k: its derivative by the scores is the softmax.
 * This holds [t, s] in memory; only models that use lse itself pay for it. */
static void through_lse(Graph *g, Value v, Value glse, Value *gin) {
    const Type *tq = type_of(g, operand(g, v, 0)), *tk = type_of(g, operand(g, v, 1));
    Value lse = b_proj(g, v, 1);
    Dtype w = type_of(g, lse)->dtype;
    double factor = attr_float(node_of(g, v), "scale");
    Value p = b_ew1(g, OP_exp, sub(g, scores(g, v, w), b_repeat_last(g, lse, tk->dim[1])));
    Value ds = mul(g, p, b_repeat_last(g, scale(g, glse, factor), tk->dim[1]));
    Value dq = b_einsum(g, "bhts,bshk->bthk", ds, b_cast(g, operand(g, v, 1), w));
    Value dk = b_einsum(g, "bhts,bthk->bshk", ds, b_cast(g, operand(g, v, 0), w));
    gin[0] = plus(g, gin[0], b_cast(g, dq, tq->dtype));
    gin[1] = plus(g, gin[1], b_cast(g, dk, tk->dtype));
}

void vjp_attention(Graph *g, Value v, const Value *gout, Value *gin) {
    if (gout[0] != NO_VALUE) {
        Value in[] = {operand(g, v, 0), operand(g, v, 1), operand(g, v, 2),
                      b_proj(g, v, 0),  b_proj(g, v, 1),  gout[0]};
        const Node *n = node_of(g, v);
        AttrValue at[] = {{.s = attr_str(n, "mask")},
                          {.i = attr_int(n, "prefix")},
                          {.f = attr_float(n, "scale")}};
        const Attr *attr = attr_intern(g->session, OP_attention_grad, at);
        Value grad = graph_add(g, OP_attention_grad, attr, 6, in);
        for (uint32_t i = 0; i < 3; i++) gin[i] = b_proj(g, grad, i);
    }
    if (gout[1] != NO_VALUE) through_lse(g, v, gout[1], gin);
}

/* ---- mixture of experts ---- */

/* Rows are copies of their token's: the token's gradient is the sum of its rows'. */
void vjp_dispatch(Graph *g, Value v, const Value *gout, Value *gin) {
    Value in[] = {gout[0], operand(g, v, 1), operand(g, v, 2)};
    gin[0] = graph_add(g, OP_combine_sum, NULL, 3, in);
}

void vjp_combine(Graph *g, Value v, const Value *gout, Value *gin) {
    Value y = operand(g, v, 0), gate = operand(g, v, 1), slot = operand(g, v, 2);
    Value rows[] = {gout[0], gate, slot, operand(g, v, 3)}, dots[] = {y, gout[0], slot};
    gin[0] = graph_add(g, OP_dispatch_scaled, NULL, 4, rows);
    gin[1] = b_cast(g, graph_add(g, OP_gate_grad, NULL, 3, dots), type_of(g, gate)->dtype);
}
