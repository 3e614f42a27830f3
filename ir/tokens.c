/* tokens.c: how many tokens a step has. */
#include "ir/storage.h"

/* Is v a parameter, cast, fetched or seen through views? */
static bool is_parameter(const Graph *g, Value v) {
    for (const Node *n = node_of(g, v);
         is_view(n) || n->op == OP_cast || n->op == OP_copy_start || n->op == OP_copy_done;
         n = node_of(g, v))
        v = operand(g, v, 0);
    return node_of(g, v)->op == OP_param;
}

/* Rows that meet a parameter in contraction n; 0: none do. */
static int64_t rows_of(const Graph *g, const Node *n, Value a, Value b) {
    bool second = is_parameter(g, b);
    if (!second && !is_parameter(g, a)) return 0;
    Einsum e = einsum_read(g, n);
    return einsum_size(&e, second ? e.m : e.n);
}

int64_t graph_tokens(const Graph *g) {
    int64_t most = 0;
    if (g->set.tokens) return g->set.tokens;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op == OP_einsum && n->phase == PHASE_FORWARD)
            most = MAX(most, rows_of(g, n, operand(g, v, 0), operand(g, v, 1)));
    }
    return g->set.train ? most * g->set.micro_batches : most;
}
