/* shard_share.c: parts of unequal sizes along the data axis. Neighbours of one share are a class
 * and have one graph: where a class begins is known in it, a rank's place in the class is computed.
 * Collectives take and give equal blocks only; so unequal parts are gathered as a sum, to which
 * every rank adds its own between zeros, and a sum is reduced whole before it is cut. */
#include <string.h>

#include "passes/shard.h"

bool share_divides(const Graph *g) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        MeshGroup m;
        const char *over = n->op == OP_input && n->spec ? n->spec->axis[0] : NULL;
        int64_t micros = g->set.train ? MAX(g->set.micro_batches, (int64_t)1) : 1;
        if (!over || !mesh_group(&g->set, over, &m)) continue;
        if (n->type->dim[0] % micros == 0 &&
            shares_divide(mesh_shares(&g->set, over), m.n, n->type->dim[0] / micros))
            continue;
        return diag_error(g->session, n->loc,
                          "a batch of %lld cannot be shared by the %lld ranks of %s",
                          (long long)n->type->dim[0], (long long)m.n, over),
               false;
    }
    return true;
}

int64_t share_ranks(const Shard *s, Axes axes) {
    int64_t rest = axes_parts(s, axes & (Axes)~s->uneven);
    return axes & s->uneven ? s->share.n * rest : rest;
}

Value share_index(Shard *s, Axes axes) {
    Value index = shard_index(s, axes);
    int64_t first = s->share.first * axes_parts(s, axes & (Axes)~s->uneven);
    if (!(axes & s->uneven) || !first) return index;
    return b_ew2(s->to, OP_sub, index, b_like(s->to, (double)first, index));
}

int64_t share_start(const Shard *s, Axes axes, int64_t size) {
    Shares shares = s->from->set.shares;
    return axes & s->uneven ? size / shares_sum(shares, shares.n) * s->share.before : 0;
}

Value share_range(Shard *s, Value x, int dim, Axes axes) {
    const Type *t = type_of(s->to, x);
    int64_t lo[MAX_RANK] = {0}, hi[MAX_RANK], size = t->dim[dim];
    if (!(axes & s->uneven)) return x;
    memcpy(hi, t->dim, (size_t)t->rank * sizeof *hi);
    lo[dim] = share_start(s, axes, size);
    hi[dim] = lo[dim] + share_ranks(s, axes) * axes_part(s, axes, size);
    return b_slice(s->to, x, lo, hi);
}

/* x at this rank's place along a new first dimension of the class's ranks, elsewhere zero. */
static Value at_own_place(Shard *s, Value x) {
    Graph *g = s->to;
    const Type *t = type_of(g, x);
    int64_t shape[MAX_RANK + 1] = {s->share.n}, first = 0, rest[MAX_RANK];
    ASSERT(t->rank < MAX_RANK);
    for (int k = 0; k < t->rank; k++) shape[k + 1] = t->dim[k], rest[k] = k + 1;
    const Attr *attr = attr_of1(g, OP_iota, (AttrValue){.i = 0});
    Value place = graph_leaf(g, OP_iota, attr, type_tensor(g->session, DT_I32, 1, shape));
    Value own = b_broadcast_to(g, share_index(s, s->uneven), type_of(g, place));
    Value here = b_broadcast(g, b_ew2(g, OP_eq, place, own), t->rank + 1, shape, &first);
    Value all = b_broadcast(g, x, t->rank + 1, shape, rest);
    return b_ew3(g, OP_select, here, all, b_like(g, 0, all));
}

Value share_gather(Shard *s, Value x, int dim) {
    int64_t lo[MAX_RANK] = {0}, hi[MAX_RANK] = {0};
    const Type *t = type_of(s->to, x);
    Shares shares = s->from->set.shares;
    int64_t unit = t->dim[dim] / s->share.share, before = s->share.before;
    lo[dim] = unit * before;
    hi[dim] = unit * (shares_sum(shares, shares.n) - before - s->share.share * s->share.n);
    if (s->share.n > 1) x = shard_join(s, at_own_place(s, x), dim);
    const Ints *zeros[] = {ints_intern(s->to->session, (uint32_t)t->rank, lo),
                           ints_intern(s->to->session, (uint32_t)t->rank, hi)};
    const Attr *attr =
        attr_of2(s->to, OP_pad, (AttrValue){.v = zeros[0]}, (AttrValue){.v = zeros[1]});
    x = graph_add(s->to, OP_pad, attr, 1, &x);
    return shard_reduce(s, x, s->uneven, REDUCE_SUM);
}
