/* random_graph.h: legal random graphs from the op table, for tests of passes and kernels.
 * The same seed gives the same graph. Sizes are small and often odd or 1. */
#ifndef M6C_TESTS_RANDOM_GRAPH_H
#define M6C_TESTS_RANDOM_GRAPH_H

#include "ir/ir.h"

typedef struct {
    uint64_t seed;
    int nodes;        /* about how many inner nodes */
    Dtype dtype;      /* of the float values: f32, bf16, f16 or f64 */
    bool params;      /* leaves are params and inputs; false: inputs only */
    bool train;       /* one scalar output "loss" of everything, so that it can be differentiated */
    int64_t max_size; /* largest dimension; 0: 9 */
    bool bounded;     /* no op whose values or gradients blow up (exp, log, div, pow, …) */
} RandomGraph;
/* Leaves "x0", "x1", … (f32, cast to dtype where that differs); outputs "y0", "y1", … or "loss". */
Graph *random_graph(Session *s, const RandomGraph *how);

#endif
