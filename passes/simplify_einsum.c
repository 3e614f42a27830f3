/* simplify_einsum.c: transposes become orders of labels. A contraction reads and writes any layout
 * through strides, so that a transpose next to it costs nothing but its own copy. */
#include "passes/simplify.h"

#include <string.h>

/* Labels of the operands and of the result of einsum v, from its spec "ab,bc->ac". */
typedef struct {
    char part[3][MAX_RANK + 1];
} Labels;

static Labels labels_of(const Graph *g, Value v) {
    Labels l = {0};
    const char *p = attr_str(node_of(g, v), "spec");
    for (int i = 0, n = 0; *p; p++) {
        if (*p == ',' || *p == '>') {
            i++, n = 0;
        } else if (*p != '-' && *p != ' ') {
            ASSERT(n < MAX_RANK && i < 3);
            l.part[i][n++] = *p;
        }
    }
    return l;
}

static Value rebuild(Graph *g, const Labels *l, Value a, Value b) {
    char spec[3 * MAX_RANK + 4];
    snprintf(spec, sizeof spec, "%s,%s->%s", l->part[0], l->part[1], l->part[2]);
    return b_einsum(g, spec, a, b);
}

Value einsum_with_output(Graph *g, Value v, const int64_t *perm) {
    Labels l = labels_of(g, v), old = l;
    for (int i = 0; old.part[2][i]; i++) l.part[2][i] = old.part[2][perm[i]];
    return rebuild(g, &l, operand(g, v, 0), operand(g, v, 1));
}

/* einsum(transpose(x), y) = einsum(x, y) with x's labels in x's order; likewise for y */
static Value einsum_transpose(Graph *g, Value v) {
    Labels l = labels_of(g, v);
    Value in[2] = {operand(g, v, 0), operand(g, v, 1)};
    bool found = false;
    for (int i = 0; i < 2; i++) {
        if (!is_op(g, in[i], OP_transpose)) continue;
        const Ints *perm = attr_ints(node_of(g, in[i]), "perm");
        char old[MAX_RANK + 1];
        memcpy(old, l.part[i], sizeof old);
        for (uint32_t k = 0; k < perm->n; k++) l.part[i][perm->v[k]] = old[k];
        in[i] = operand(g, in[i], 0);
        found = true;
    }
    return found ? rebuild(g, &l, in[0], in[1]) : NO_VALUE;
}

const RuleRow rules_einsum[] = {{OP_einsum, einsum_transpose}, {OP_COUNT, NULL}};
