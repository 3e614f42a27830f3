/* raise.h: matching helpers of raise. Private to passes/.
 *
 * A row value has one number per row of some x[.., n]: shape [..], or [.., 1], or repeated along
 * the last axis to [.., n]. `peel` looks through the views between these shapes, so that a pattern
 * need not say where the model wrote keep = true or broadcast. */
#ifndef M6C_PASSES_RAISE_H
#define M6C_PASSES_RAISE_H

#include "passes/passes.h"

Value peel(const Graph *g, Value v);
/* A constant, or a view of one. */
bool splat_value(const Graph *g, Value v, double *x);
/* v = a * c, c * a or a / c with a constant: *a, and *c as a factor. */
bool match_scaled(const Graph *g, Value v, Value *a, double *c);
/* A cast to the same dtype ("stay f32") says nothing to ops that compute in f32 anyway. */
Value strip_cast(const Graph *g, Value v);

/* raise_attention.c: for einsum v of r->from that applies attention probabilities, its value in
 * r->to as an attention node; else NO_VALUE. */
Value raise_attention(Rewrite *r, const Uses *uses, Value v);
/* raise_loss.c: for node v of g, an equal value by cross_entropy, or NO_VALUE. */
Value raise_cross_entropy(Graph *g, Value v);
/* raise.c: v = x - max(x) along the last axis: *x. */
bool match_below_max(const Graph *g, Value v, Value *x);
bool is_reduction(const Graph *g, Value v, Op op, Value x); /* peeled v = op(x, last axis) */

#endif
