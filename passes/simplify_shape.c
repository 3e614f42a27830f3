/* simplify_shape.c: identities of views and reductions. The normal forms: a view that moves nothing
 * is a reshape, dimensions of size 1 are inserted by the broadcast that repeats them, views of
 * views are one view, and elementwise work is done before a broadcast. */
#include "passes/simplify.h"

#include <string.h>

static Value in0(const Graph *g, Value v) { return operand(g, v, 0); }
static const Ints *ints_of(const Graph *g, Value v, const char *name) {
    return attr_ints(node_of(g, v), name);
}

static Value reshape_to(Graph *g, Value x, const Type *t) {
    return b_reshape(g, x, t->rank, t->dim);
}

/* A view with the type of its operand that moves nothing is its operand. */
static Value same_shape(Graph *g, Value v) {
    return type_of(g, v) == type_of(g, in0(g, v)) ? in0(g, v) : NO_VALUE;
}

/* reshape(reshape(x)) = reshape(x) */
static Value reshape_reshape(Graph *g, Value v) {
    Value a = in0(g, v);
    return is_op(g, a, OP_reshape) ? reshape_to(g, in0(g, a), type_of(g, v)) : NO_VALUE;
}

/* transpose(transpose(x, p), q) = transpose(x, p[q]) */
static Value transpose_transpose(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_transpose)) return NO_VALUE;
    const Ints *q = ints_of(g, v, "perm"), *p = ints_of(g, a, "perm");
    int64_t perm[MAX_RANK];
    for (uint32_t i = 0; i < q->n; i++) perm[i] = p->v[q->v[i]];
    return b_transpose(g, in0(g, a), perm);
}

/* A transpose that keeps the order of all dimensions larger than 1 is a reshape (or nothing). */
static Value transpose_ones(Graph *g, Value v) {
    const Ints *perm = ints_of(g, v, "perm");
    const Type *t = type_of(g, in0(g, v));
    int64_t last = -1;
    for (uint32_t i = 0; i < perm->n; i++) {
        if (t->dim[perm->v[i]] == 1) continue;
        if (perm->v[i] < last) return NO_VALUE;
        last = perm->v[i];
    }
    if (type_of(g, v) == t) return in0(g, v);
    return reshape_to(g, in0(g, v), type_of(g, v));
}

/* A broadcast that repeats nothing is a reshape. */
static Value broadcast_none(Graph *g, Value v) {
    const Type *to = type_of(g, v), *from = type_of(g, in0(g, v));
    if (type_elements(to) != type_elements(from)) return NO_VALUE;
    return to == from ? in0(g, v) : reshape_to(g, in0(g, v), to);
}

/* broadcast(broadcast(x, p), q) = broadcast(x, q[p]) */
static Value broadcast_broadcast(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_broadcast)) return NO_VALUE;
    const Ints *q = ints_of(g, v, "dims"), *p = ints_of(g, a, "dims");
    int64_t dims[MAX_RANK];
    for (uint32_t i = 0; i < p->n; i++) dims[i] = q->v[p->v[i]];
    const Type *t = type_of(g, v);
    return b_broadcast(g, in0(g, a), t->rank, t->dim, dims);
}

/* Which dimension of `to` each of `from` is, when `to` has only ones inserted. */
static bool ones_inserted(const Type *from, const Type *to, int64_t at[MAX_RANK]) {
    int i = 0;
    for (int j = 0; j < to->rank; j++) {
        if (i < from->rank && from->dim[i] == to->dim[j])
            at[i++] = j;
        else if (to->dim[j] != 1)
            return false;
    }
    return i == from->rank;
}

/* broadcast(reshape(x) that inserts ones) = broadcast(x) */
static Value broadcast_ones(Graph *g, Value v) {
    Value a = in0(g, v);
    int64_t at[MAX_RANK], dims[MAX_RANK];
    if (!is_op(g, a, OP_reshape)) return NO_VALUE;
    const Type *x = type_of(g, in0(g, a)), *t = type_of(g, v);
    if (x->rank >= type_of(g, a)->rank || !ones_inserted(x, type_of(g, a), at)) return NO_VALUE;
    const Ints *q = ints_of(g, v, "dims");
    for (int i = 0; i < x->rank; i++) dims[i] = q->v[at[i]];
    return b_broadcast(g, in0(g, a), t->rank, t->dim, dims);
}

/* slice(slice(x)) = slice(x) */
static Value slice_slice(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_slice)) return NO_VALUE;
    const Ints *outer = ints_of(g, a, "start"), *lo = ints_of(g, v, "start");
    const Ints *hi = ints_of(g, v, "limit");
    int64_t start[MAX_RANK], limit[MAX_RANK];
    for (uint32_t i = 0; i < lo->n; i++) {
        start[i] = outer->v[i] + lo->v[i];
        limit[i] = outer->v[i] + hi->v[i];
    }
    return b_slice(g, in0(g, a), start, limit);
}

/* slice(concat(.., x, ..)) = slice(x) when it reads x alone */
static Value slice_concat(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_concat)) return NO_VALUE;
    int64_t axis = attr_int(node_of(g, a), "axis"), at = 0, start[MAX_RANK], limit[MAX_RANK];
    const Ints *lo = ints_of(g, v, "start"), *hi = ints_of(g, v, "limit");
    for (uint32_t i = 0; i < node_of(g, a)->nin; i++) {
        Value x = operand(g, a, i);
        int64_t next = at + type_of(g, x)->dim[axis];
        if (lo->v[axis] >= at && hi->v[axis] <= next) {
            memcpy(start, lo->v, lo->n * sizeof *start);
            memcpy(limit, hi->v, hi->n * sizeof *limit);
            start[axis] -= at, limit[axis] -= at;
            return b_slice(g, x, start, limit);
        }
        at = next;
    }
    return NO_VALUE;
}

/* concat(x) = x */
static Value concat_one(Graph *g, Value v) {
    return node_of(g, v)->nin == 1 ? in0(g, v) : NO_VALUE;
}

/* ---- reductions of broadcasts ---- */

/* What a reduction over `axes` of a broadcast does to each dimension of the broadcast's operand x
 * and of its result: axes of x that are summed, dimensions that stay, the count of repeats. */
typedef struct {
    uint32_t naxes;
    int64_t axes[MAX_RANK];
    int64_t dims[MAX_RANK]; /* where dimensions of the reduced x go in the result */
    double repeats;
} Split;

static bool is_axis(const Ints *axes, int64_t i) {
    for (uint32_t k = 0; k < axes->n; k++)
        if (axes->v[k] == i) return true;
    return false;
}

static Split split_axes(const Type *x, const Type *wide, const Ints *dims, const Ints *axes) {
    Split s = {.repeats = 1};
    int64_t result = 0, kept = 0, source = 0;
    for (int j = 0; j < wide->rank; j++) {
        bool mapped = source < dims->n && dims->v[source] == j;
        bool repeated = !mapped || x->dim[source] != wide->dim[j];
        if (is_axis(axes, j)) {
            if (mapped) s.axes[s.naxes++] = source;
            if (repeated) s.repeats *= (double)wide->dim[j];
        } else {
            if (mapped) s.dims[kept++] = result;
            result++;
        }
        source += mapped;
    }
    return s;
}

/* sum(broadcast(x)) = broadcast(sum(x)) * repeats, when a repeated dimension is summed; max and min
 * likewise without the factor */
static Value reduce_broadcast(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_broadcast)) return NO_VALUE;
    Op op = (Op)node_of(g, v)->op;
    Value x = in0(g, a);
    const Type *t = type_of(g, v);
    Split s =
        split_axes(type_of(g, x), type_of(g, a), ints_of(g, a, "dims"), ints_of(g, v, "axes"));
    if (s.repeats == 1) return NO_VALUE;
    if (s.naxes) x = b_reduce(g, op, x, s.naxes, s.axes);
    if (op == OP_sum) x = b_ew2(g, OP_mul, x, b_like(g, s.repeats, x));
    return type_of(g, x) == t ? x : b_broadcast(g, x, t->rank, t->dim, s.dims);
}

/* A reduction over axes of size 1 is a reshape. */
static Value reduce_ones(Graph *g, Value v) {
    const Type *x = type_of(g, in0(g, v)), *t = type_of(g, v);
    return type_elements(x) == type_elements(t) ? reshape_to(g, in0(g, v), t) : NO_VALUE;
}

/* ---- elementwise ops of broadcasts ---- */

/* f(broadcast(x), broadcast(y), c) = broadcast(f(x, y, c)), all broadcast alike. A cast alone is
 * free where it is and would be a kernel of its own in front. */
Value hoist_broadcast(Graph *g, Value v) {
    uint32_t n = node_of(g, v)->nin;
    if (is_op(g, v, OP_cast)) return NO_VALUE;
    Value in[3], first = NO_VALUE;
    for (uint32_t i = 0; i < n; i++) {
        Value a = in[i] = operand(g, v, i);
        if (is_op(g, a, OP_constant)) continue;
        if (!is_op(g, a, OP_broadcast)) return NO_VALUE;
        if (first == NO_VALUE) first = a;
        if (node_of(g, a)->attr != node_of(g, first)->attr ||
            !type_same_shape(type_of(g, in0(g, a)), type_of(g, in0(g, first))))
            return NO_VALUE;
        in[i] = in0(g, a);
    }
    if (first == NO_VALUE) return NO_VALUE;
    const Type *small = type_of(g, in0(g, first)), *t = type_of(g, v);
    for (uint32_t i = 0; i < n; i++)
        if (is_op(g, in[i], OP_constant))
            in[i] = b_const(g, attr_float(node_of(g, in[i]), "value"),
                            type_with_dtype(g->session, small, type_of(g, in[i])->dtype));
    const Ints *dims = ints_of(g, first, "dims");
    Value x = graph_add(g, (Op)node_of(g, v)->op, node_of(g, v)->attr, n, in);
    return b_broadcast(g, x, t->rank, t->dim, dims->v);
}

const RuleRow rules_shape[] = {
    {OP_reshape, same_shape},
    {OP_reshape, reshape_reshape},
    {OP_transpose, transpose_ones},
    {OP_transpose, transpose_transpose},
    {OP_broadcast, broadcast_none},
    {OP_broadcast, broadcast_broadcast},
    {OP_broadcast, broadcast_ones},
    {OP_slice, same_shape},
    {OP_slice, slice_slice},
    {OP_slice, slice_concat},
    {OP_pad, same_shape},
    {OP_concat, concat_one},
    {OP_sum, reduce_ones},
    {OP_max, reduce_ones},
    {OP_min, reduce_ones},
    {OP_sum, reduce_broadcast},
    {OP_max, reduce_broadcast},
    {OP_min, reduce_broadcast},
    {OP_COUNT, NULL},
};
