/* collectives_rows.c: which ops compute some rows of their result from the same rows of their
 * operands. Rows are a dimension, or the fastest part of one: after a reshape [n, rows] -> [n rows]
 * they are still found (Cut). */
#include "passes/collectives.h"

#include <stdlib.h>
#include <string.h>

static int64_t product(const int64_t *dim, int from, int to) {
    int64_t n = 1;
    for (int k = from; k < to; k++) n *= dim[k];
    return n;
}

/* The rows of `from` keep their place in memory order: the dim of `to` that ends with them. */
static bool reshaped(const Type *from, const Type *to, Cut cut, Cut *out) {
    int64_t rows = from->dim[cut.dim] / cut.outer, before = product(from->dim, 0, cut.dim);
    int64_t left = before * cut.outer, slower = 1;
    for (int k = 0; k < to->rank; slower *= to->dim[k++]) {
        if (left % slower != 0 || left / slower * rows != to->dim[k]) continue;
        *out = (Cut){k, left / slower};
        return true;
    }
    return false;
}

static RowsKind found(int dim, int64_t outer, Cut *in) {
    *in = (Cut){dim, outer};
    return dim < 0 ? ROWS_NONE : ROWS_CUT;
}

static RowsKind of_reshape(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    bool ok = reshaped(type_of(g, v), type_of(g, operand(g, v, i)), cut, in);
    return ok ? ROWS_CUT : ROWS_MIXED;
}

static RowsKind of_transpose(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    (void)i;
    return found((int)attr_ints(node_of(g, v), "perm")->v[cut.dim], cut.outer, in);
}

static RowsKind of_broadcast(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    const Ints *dims = attr_ints(node_of(g, v), "dims");
    const Type *t = type_of(g, operand(g, v, i));
    for (uint32_t k = 0; k < dims->n; k++)
        if (dims->v[k] == cut.dim && t->dim[k] == type_of(g, v)->dim[cut.dim])
            return found((int)k, cut.outer, in);
    return ROWS_NONE;
}

static RowsKind of_einsum(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    Einsum e = einsum_read(g, node_of(g, v));
    const char *own = i ? e.b : e.a, *at = strchr(own, e.c[cut.dim]);
    return found(at ? (int)(at - own) : -1, cut.outer, in);
}

static RowsKind of_slice(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    bool whole = type_of(g, v)->dim[cut.dim] == type_of(g, operand(g, v, i))->dim[cut.dim];
    return whole ? found(cut.dim, cut.outer, in) : ROWS_MIXED;
}

static RowsKind of_concat(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    (void)i;
    bool along = attr_int(node_of(g, v), "axis") == cut.dim;
    return along ? ROWS_MIXED : found(cut.dim, cut.outer, in);
}

static RowsKind of_all_reduce(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    (void)i;
    return node_of(g, v)->nin == 1 ? found(cut.dim, cut.outer, in) : ROWS_MIXED;
}

/* [n, .., rows, ..]: blocks of the rows are exchanged like blocks of all. */
static RowsKind of_all_to_all(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    (void)g, (void)v, (void)i;
    return cut.dim > 0 ? found(cut.dim, cut.outer, in) : ROWS_MIXED;
}

/* The last operand says which token a row is. */
static RowsKind of_dispatch(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    if (cut.dim != 1) return ROWS_MIXED;
    return i + 1 == node_of(g, v)->nin ? found(1, cut.outer, in) : ROWS_NONE;
}

RowsKind rows_of_operand(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in) {
    static RowsKind (*const rule[OP_COUNT])(const Graph *, Value, Cut, uint32_t, Cut *) = {
        [OP_reshape] = of_reshape,       [OP_transpose] = of_transpose,
        [OP_broadcast] = of_broadcast,   [OP_einsum] = of_einsum,
        [OP_slice] = of_slice,           [OP_concat] = of_concat,
        [OP_all_reduce] = of_all_reduce, [OP_all_to_all] = of_all_to_all,
        [OP_dispatch] = of_dispatch,     [OP_dispatch_scaled] = of_dispatch,
    };
    Op op = (Op)node_of(g, v)->op;
    *in = (Cut){-1, 1};
    if (rule[op]) return rule[op](g, v, cut, i, in);
    return op_info(op)->flags & OPF_EW ? found(cut.dim, cut.outer, in) : ROWS_MIXED;
}
