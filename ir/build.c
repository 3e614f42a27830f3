/* build.c: short forms of graph_add for the nodes that passes and gradients build most. */
#include "ir/ir.h"

#include <string.h>

static AttrValue ints(Graph *g, uint32_t n, const int64_t *v) {
    return (AttrValue){.v = ints_intern(g->session, n, v)};
}

static Value add1(Graph *g, Op op, Value a, const AttrValue *attr) {
    return graph_add(g, op, attr_intern(g->session, op, attr), 1, &a);
}

Value b_const(Graph *g, double x, const Type *t) {
    AttrValue v = {.f = x};
    return graph_leaf(g, OP_constant, attr_intern(g->session, OP_constant, &v), t);
}

Value b_like(Graph *g, double x, Value v) { return b_const(g, x, type_of(g, v)); }

Value b_ew1(Graph *g, Op op, Value a) { return graph_add(g, op, NULL, 1, &a); }

Value b_ew2(Graph *g, Op op, Value a, Value b) {
    return graph_add(g, op, NULL, 2, (Value[]){a, b});
}

Value b_ew3(Graph *g, Op op, Value a, Value b, Value c) {
    return graph_add(g, op, NULL, 3, (Value[]){a, b, c});
}

Value b_cast(Graph *g, Value a, Dtype to) {
    if (type_of(g, a)->dtype == to) return a;
    AttrValue v = {.i = to};
    return add1(g, OP_cast, a, &v);
}

Value b_reshape(Graph *g, Value a, int rank, const int64_t *dim) {
    const Type *t = type_of(g, a);
    if (t == type_tensor(g->session, t->dtype, rank, dim)) return a;
    AttrValue v = ints(g, (uint32_t)rank, dim);
    return add1(g, OP_reshape, a, &v);
}

Value b_transpose(Graph *g, Value a, const int64_t *perm) {
    int rank = type_of(g, a)->rank, fixed = 0;
    while (fixed < rank && perm[fixed] == fixed) fixed++;
    if (fixed == rank) return a;
    AttrValue v = ints(g, (uint32_t)rank, perm);
    return add1(g, OP_transpose, a, &v);
}

Value b_broadcast(Graph *g, Value a, int rank, const int64_t *dim, const int64_t *dims) {
    const Type *t = type_of(g, a);
    if (t == type_tensor(g->session, t->dtype, rank, dim)) return a;
    AttrValue v[] = {ints(g, (uint32_t)rank, dim), ints(g, (uint32_t)t->rank, dims)};
    return add1(g, OP_broadcast, a, v);
}

Value b_broadcast_to(Graph *g, Value a, const Type *t) {
    int64_t dims[MAX_RANK];
    int rank = type_of(g, a)->rank;
    ASSERT(rank <= t->rank);
    for (int i = 0; i < rank; i++) dims[i] = t->rank - rank + i;
    return b_broadcast(g, a, t->rank, t->dim, dims);
}

Value b_repeat_last(Graph *g, Value a, int64_t n) {
    const Type *t = type_of(g, a);
    int64_t dim[MAX_RANK], dims[MAX_RANK];
    ASSERT(t->rank < MAX_RANK);
    for (int i = 0; i < t->rank; i++) dim[i] = t->dim[i], dims[i] = i;
    dim[t->rank] = n;
    return b_broadcast(g, a, t->rank + 1, dim, dims);
}

Value b_reduce(Graph *g, Op op, Value a, uint32_t naxes, const int64_t *axes) {
    if (naxes == 0) return a;
    AttrValue v = ints(g, naxes, axes);
    return add1(g, op, a, &v);
}

Value b_reduce_last(Graph *g, Op op, Value a) {
    int64_t axis = type_of(g, a)->rank - 1;
    return b_reduce(g, op, a, 1, &axis);
}

Value b_einsum(Graph *g, const char *spec, Value a, Value b) {
    AttrValue v = {.s = intern(g->session, spec)};
    return graph_add(g, OP_einsum, attr_intern(g->session, OP_einsum, &v), 2, (Value[]){a, b});
}

Value b_slice(Graph *g, Value a, const int64_t *start, const int64_t *limit) {
    const Type *t = type_of(g, a);
    bool whole = true;
    for (int i = 0; i < t->rank; i++) whole = whole && start[i] == 0 && limit[i] == t->dim[i];
    if (whole) return a;
    uint32_t rank = (uint32_t)t->rank;
    AttrValue v[] = {ints(g, rank, start), ints(g, rank, limit)};
    return add1(g, OP_slice, a, v);
}

Value b_proj(Graph *g, Value a, uint32_t i) {
    AttrValue v = {.i = i};
    return add1(g, OP_proj, a, &v);
}

Value b_pick_one(Graph *g, Value x, Value index) {
    const Type *t = type_of(g, index);
    int64_t dim[MAX_RANK];
    ASSERT(t->rank < MAX_RANK);
    for (int i = 0; i < t->rank; i++) dim[i] = t->dim[i];
    dim[t->rank] = 1;
    Value in[] = {x, b_reshape(g, index, t->rank + 1, dim)};
    return b_reshape(g, graph_add(g, OP_pick, NULL, 2, in), t->rank, t->dim);
}

Value b_all_reduce(Graph *g, uint32_t n, const Value *x, const char *over, int64_t ranks,
                   ReduceOp reduce) {
    AttrValue attr[] = {{.s = intern(g->session, over)},
                        {.i = ranks},
                        {.s = intern(g->session, reduce_name(reduce))},
                        {.i = type_of(g, x[0])->dtype},
                        {.f = 1}};
    return graph_add(g, OP_all_reduce, attr_intern(g->session, OP_all_reduce, attr), n, x);
}

Value b_output(Graph *g, Value a, const char *name) {
    AttrValue v = {.s = intern(g->session, name)};
    return add1(g, OP_output, a, &v);
}

Value b_assign(Graph *g, Value leaf, Value x) {
    return graph_add(g, OP_assign, NULL, 2, (Value[]){leaf, x});
}
