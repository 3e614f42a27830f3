/* hooks.h: the functions that ops.def names. Private to ir/.
 *
 * infer_* are in infer*.c, vjp_* in vjp*.c, eval_* in eval*.c, expand_* in expand*.c. */
#ifndef M6C_IR_HOOKS_H
#define M6C_IR_HOOKS_H

#include "ir/ir.h"

#include <math.h>

InferFn infer_all_gather, infer_all_reduce, infer_all_to_all, infer_block, infer_recv,
    infer_reduce_scatter, infer_room, infer_send, infer_assign, infer_attention,
    infer_attention_grad, infer_broadcast, infer_cast, infer_combine, infer_combine_sum,
    infer_concat, infer_cross_entropy, infer_dispatch, infer_dispatch_scaled, infer_einsum,
    infer_einsum_gelu, infer_einsum_gelu_grad, infer_einsum_gelu_grad_sum, infer_ew,
    infer_gate_grad, infer_gather, infer_leaf, infer_norm, infer_pad, infer_pick, infer_proj,
    infer_random, infer_reduce, infer_reshape, infer_rmsnorm, infer_route, infer_same,
    infer_scatter_add, infer_select, infer_slice, infer_transpose, infer_unpick;

/* Head of an infer hook, and the parameters it need not use. */
#define INFER(name)                                                                                \
    const Type *name(Session *s, Op op, uint32_t nin, const Type *const *in, const Attr *attr,     \
                     const Type *given, Buf *err)
#define UNUSED (void)s, (void)op, (void)nin, (void)in, (void)attr, (void)given, (void)err
/* Writes the sentence, returns NULL. */
const Type *infer_fail(Buf *err, const char *fmt, ...) PRINTF(2, 3);

VjpFn vjp_abs, vjp_add, vjp_attention, vjp_broadcast, vjp_cast, vjp_combine, vjp_concat, vjp_cos,
    vjp_cross_entropy, vjp_dispatch, vjp_div, vjp_einsum, vjp_erf, vjp_exp, vjp_gather, vjp_gelu,
    vjp_log, vjp_max, vjp_maximum, vjp_minimum, vjp_mul, vjp_neg, vjp_norm, vjp_pad, vjp_pick,
    vjp_pow, vjp_relu, vjp_reshape, vjp_rmsnorm, vjp_rsqrt, vjp_select, vjp_sigmoid, vjp_silu,
    vjp_sin, vjp_slice, vjp_softmax, vjp_sqrt, vjp_sub, vjp_sum, vjp_tanh, vjp_transpose;

EvalFn eval_attention, eval_block, eval_room, eval_attention_grad, eval_broadcast, eval_combine,
    eval_combine_sum, eval_concat, eval_constant, eval_cross_entropy, eval_dispatch,
    eval_dispatch_scaled, eval_einsum, eval_einsum_gelu, eval_einsum_gelu_grad,
    eval_einsum_gelu_grad_sum, eval_gate_grad, eval_gather, eval_iota, eval_mask, eval_norm,
    eval_pad, eval_pick, eval_proj, eval_random, eval_reduce, eval_reshape, eval_rmsnorm,
    eval_route, eval_scatter_add, eval_slice, eval_softmax, eval_transpose, eval_unpick;

ExpandFn expand_cross_entropy, expand_norm, expand_rmsnorm, expand_softmax;

FlopsFn flops_attention, flops_attention_grad, flops_einsum;

/* Derivative of gelu (tanh form): with u = sqrt(8/pi) (a + 0.044715 a^3) and s = sigmoid(u),
 * gelu = a s, so the derivative is s + a s (1 - s) u'. */
static inline double gelu_grad(double a) {
    double c = 1.5957691216057308, u = c * (a + 0.044715 * a * a * a);
    double s = 1 / (1 + exp(-u));
    return s + a * s * (1 - s) * c * (1 + 3 * 0.044715 * a * a);
}

#endif
