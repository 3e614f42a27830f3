/* interp.h: how one rank runs a node: interp.c's, for interp_ranks.c. Private to ir/. */
#ifndef M6C_IR_INTERP_H
#define M6C_IR_INTERP_H

#include "ir/hooks.h"
#include "ir/storage.h"

bool interp_is_stored(const Node *n); /* input, param or state */
/* The tensors of v's results, made when missing. */
Tensor *interp_results(Interp *in, Value v);
/* Rounds x as a tensor of dtype d keeps it. */
void interp_round(const Interp *in, Dtype d, double *x, int64_t n);
void interp_clock(Interp *in, uint64_t seed, int64_t step); /* sets @seed and @step */
/* Runs one node: a stored leaf nobody set takes its start value, an assignment keeps its source. */
void interp_node(Interp *in, Value v, uint64_t seed);
void interp_assign(Interp *in); /* after the last node */

#endif
