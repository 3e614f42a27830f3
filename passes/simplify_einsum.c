/* simplify_einsum.c: transposes become orders of labels. A contraction reads and writes any layout
 * through strides, so that a transpose next to it costs nothing but its own copy. */
#include "passes/simplify.h"

#include <string.h>

static Value rebuild(Graph *g, const char *a, const char *b, const char *c, Value x, Value y) {
    char spec[3 * MAX_RANK + 4];
    snprintf(spec, sizeof spec, "%s,%s->%s", a, b, c);
    return b_einsum(g, spec, x, y);
}

Value einsum_with_output(Graph *g, Value v, const int64_t *perm) {
    Einsum e = einsum_read(g, node_of(g, v));
    char c[MAX_RANK + 1] = {0};
    for (int i = 0; e.c[i]; i++) c[i] = e.c[perm[i]];
    return rebuild(g, e.a, e.b, c, operand(g, v, 0), operand(g, v, 1));
}

/* The operand behind a transpose, with its labels put in order. */
static Value behind_transpose(const Graph *g, Value x, char labels[MAX_RANK + 1]) {
    if (!is_op(g, x, OP_transpose)) return x;
    const Ints *perm = attr_ints(node_of(g, x), "perm");
    char old[MAX_RANK + 1];
    memcpy(old, labels, sizeof old);
    for (uint32_t k = 0; k < perm->n; k++) labels[perm->v[k]] = old[k];
    return operand(g, x, 0);
}

/* einsum(transpose(x), y) = einsum(x, y) with x's labels in x's order; likewise for y */
static Value einsum_transpose(Graph *g, Value v) {
    Einsum e = einsum_read(g, node_of(g, v));
    Value x = operand(g, v, 0), y = operand(g, v, 1);
    Value a = behind_transpose(g, x, e.a), b = behind_transpose(g, y, e.b);
    return a == x && b == y ? NO_VALUE : rebuild(g, e.a, e.b, e.c, a, b);
}

const RuleRow rules_einsum[] = {{OP_einsum, einsum_transpose}, {OP_COUNT, NULL}};
