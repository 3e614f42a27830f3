/* shard_move.c: a value that the ranks have in one way, in another.
 *
 * Collectives take and give blocks along a new first dimension; transposes and reshapes around them
 * put that dimension where it belongs, and become views or part of neighbouring kernels. The order:
 * sums are reduced or scattered, axes move from one dimension to another by all-to-alls, dimensions
 * are gathered, and last cut into blocks. Axes of a dimension are a list, slowest first: only the
 * fastest can go or come; where another must, the dimension is gathered down to it. */
#include <string.h>

#include "passes/shard.h"

/* ---- nodes ---- */

static AttrValue over(Shard *s, Axes axes) { return (AttrValue){.s = axes_name(s, axes)}; }

static AttrValue ranks(const Shard *s, Axes axes) { return (AttrValue){.i = axes_parts(s, axes)}; }

Value shard_reduce(Shard *s, Value x, Axes axes, ReduceOp reduce) {
    return b_all_reduce(s->to, 1, &x, axes_name(s, axes), axes_parts(s, axes), reduce);
}

static Value add_collective(Shard *s, Op op, Value x, Axes axes) {
    AttrValue attr[] = {over(s, axes), ranks(s, axes), {.i = type_of(s->to, x)->dtype}, {.f = 1}};
    return graph_add(s->to, op, attr_intern(s->to->session, op, attr), 1, &x);
}

/* x[.., n m, ..] -> [n, .., m, ..] */
static Value split_front(Shard *s, Value x, int dim, int64_t n) {
    const Type *t = type_of(s->to, x);
    int64_t shape[MAX_RANK + 1], perm[MAX_RANK + 1];
    ASSERT(t->rank < MAX_RANK);
    for (int k = 0, to = 0; k < t->rank; k++) {
        if (k == dim) shape[to++] = n;
        shape[to++] = k == dim ? t->dim[k] / n : t->dim[k];
    }
    x = b_reshape(s->to, x, t->rank + 1, shape);
    if (dim == 0) return x;
    perm[0] = dim;
    for (int k = 1; k <= t->rank; k++) perm[k] = k <= dim ? k - 1 : k;
    return b_transpose(s->to, x, perm);
}

Value shard_join(Shard *s, Value x, int dim) {
    const Type *t = type_of(s->to, x);
    int64_t shape[MAX_RANK], perm[MAX_RANK];
    for (int k = 0; k < t->rank; k++) perm[k] = k < dim ? k + 1 : k == dim ? 0 : k;
    for (int k = 0; k + 1 < t->rank; k++) shape[k] = t->dim[k + 1] * (k == dim ? t->dim[0] : 1);
    if (dim > 0) x = b_transpose(s->to, x, perm);
    return b_reshape(s->to, x, t->rank - 1, shape);
}

Value shard_index(Shard *s, Axes axes) {
    if (s->index[axes] != NO_VALUE) return s->index[axes];
    Session *ss = s->to->session;
    Buf name = {0};
    buf_printf(&name, MESH_INDEX "%s", axes_name(s, axes));
    AttrValue attr[] = {{.s = intern(ss, name.p)}, {.i = axes_parts(s, axes)}};
    buf_free(&name);
    return s->index[axes] = graph_leaf(s->to, OP_input, attr_intern(ss, OP_input, attr),
                                       type_scalar(ss, DT_I32));
}

Value shard_first(Shard *s, Axes axes, int64_t size, Dtype dtype) {
    Graph *g = s->to;
    int64_t start = share_start(s, axes, size);
    if (share_ranks(s, axes) == 1) return b_const(g, (double)start, type_scalar(g->session, dtype));
    Value index = b_cast(g, share_index(s, axes), dtype);
    Value first = b_ew2(g, OP_mul, index, b_like(g, (double)axes_part(s, axes, size), index));
    return start ? b_ew2(g, OP_add, first, b_like(g, (double)start, first)) : first;
}

static Value block(Shard *s, Value x, int dim, Axes axes) {
    AttrValue attr[] = {{.i = dim}, {.i = share_ranks(s, axes)}};
    x = share_range(s, x, dim, axes);
    if (share_ranks(s, axes) == 1) return x;
    Value in[] = {x, share_index(s, axes)};
    return graph_add(s->to, OP_block, attr_intern(s->to->session, OP_block, attr), 2, in);
}

/* x on the first rank, zero on the others: all add up to x. */
static Value as_partial(Shard *s, Value x, Axes axes) {
    Graph *g = s->to;
    const Type *t = type_of(g, x), *one = type_scalar(g->session, DT_I32);
    Value first = b_ew2(g, OP_eq, shard_index(s, axes), b_const(g, 0, one));
    Value here = b_broadcast_to(g, first, type_with_dtype(g->session, t, DT_BOOL));
    return b_ew3(g, OP_select, here, x, b_like(g, 0, x));
}

/* ---- the steps ---- */

typedef struct {
    Shard *s;
    int rank;
    Value x;
    Part have;
    const Part *want;
} Move;

static Axes lowest(Axes set) { return (Axes)(set & -set); }

/* Axis numbers grow toward the fastest. */
static Axes fastest(Axes set) {
    Axes last = 0;
    for (; set; set &= (Axes)(set - 1)) last = lowest(set);
    return last;
}

/* May the axis become the fastest of dimension k on its way to what is wanted? */
static bool may_append(const Move *m, int k, Axes axis) {
    Axes before = (Axes)(m->want->dim[k] & (axis - 1));
    return (m->want->dim[k] & axis) && m->have.dim[k] == before;
}

static void reduce_sums(Move *m) {
    Axes sums = m->have.partial & (Axes)~m->want->partial, rest = 0;
    for (; sums; sums &= (Axes)(sums - 1)) {
        Axes axis = lowest(sums);
        int to = -1;
        for (int k = 0; k < m->rank; k++)
            if (may_append(m, k, axis) && !(axis & m->s->uneven)) to = k; /* blocks are equal */
        m->have.partial &= (Axes)~axis;
        if (to < 0) {
            rest |= axis;
            continue;
        }
        Value blocks = split_front(m->s, m->x, to, axes_parts(m->s, axis));
        m->x = add_collective(m->s, OP_reduce_scatter, blocks, axis);
        m->have.dim[to] |= axis;
    }
    if (rest) m->x = shard_reduce(m->s, m->x, rest, REDUCE_SUM);
}

/* One axis from a dimension to another; false when none can. */
static bool exchange_one(Move *m) {
    for (int from = 0; from < m->rank; from++) {
        Axes axis = fastest(m->have.dim[from]);
        if (!axis || (m->want->dim[from] & axis) || (axis & m->s->uneven)) continue;
        for (int to = 0; to < m->rank; to++) {
            if (to == from || !may_append(m, to, axis)) continue;
            Value blocks = split_front(m->s, m->x, to, axes_parts(m->s, axis));
            m->x = shard_join(m->s, add_collective(m->s, OP_all_to_all, blocks, axis), from);
            m->have.dim[from] &= (Axes)~axis;
            m->have.dim[to] |= axis;
            return true;
        }
    }
    return false;
}

/* The slowest axes that both lists begin with. */
static Axes common(Axes a, Axes b) {
    Axes keep = 0;
    for (Axes x = a, y = b; x && lowest(x) == lowest(y); x &= (Axes)(x - 1), y &= (Axes)(y - 1))
        keep |= lowest(x);
    return keep;
}

static void gather_dims(Move *m) {
    for (int k = 0; k < m->rank; k++) {
        Axes keep = common(m->have.dim[k], m->want->dim[k]);
        Axes go = m->have.dim[k] & (Axes)~keep, uneven = go & m->s->uneven;
        go &= (Axes)~uneven;
        if (go) m->x = shard_join(m->s, add_collective(m->s, OP_all_gather, m->x, go), k);
        if (uneven) m->x = share_gather(m->s, m->x, k);
        m->have.dim[k] = keep;
    }
}

static void cut_dims(Move *m) {
    for (int k = 0; k < m->rank; k++) {
        Axes come = m->want->dim[k] & (Axes)~m->have.dim[k];
        if (!come) continue;
        m->x = block(m->s, m->x, k, come);
        m->have.dim[k] |= come;
    }
}

Value shard_move(Shard *s, const Type *whole, Value x, Part have, const Part *want) {
    Move m = {s, whole->rank, x, have, want};
    reduce_sums(&m);
    while (exchange_one(&m)) {
    }
    gather_dims(&m);
    cut_dims(&m);
    Axes sums = want->partial & (Axes)~m.have.partial;
    if (sums) m.x = as_partial(s, m.x, sums);
    node_of(s->to, m.x)->spec = part_spec(s, whole->rank, want);
    return m.x;
}
