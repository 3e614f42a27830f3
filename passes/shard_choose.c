/* shard_choose.c: over which labels a node is split.
 *
 * Whale's rule: of the patterns that match, the one with the smaller communication cost, operator
 * after operator in topological order. A node's pattern is, for each axis of the mesh, one of: not
 * split; split at a label where an operand is already; a sum whose parts are left apart because the
 * operation is linear. Costs are bytes that a rank moves, from the operands as they are (any way in
 * which they were made already is free), plus a little for work that all ranks would repeat.
 * Replicas keep to their own examples: they add up gradients rather than gather what these are made
 * of. */
#include <math.h>
#include <string.h>

#include "passes/shard.h"

/* Weights beside one byte moved. */
static const double cost_of_block = 0.01;     /* a byte copied in memory */
static const double cost_of_repeated = 0.02;  /* a byte computed by every rank */
static const double cost_of_flop = 1.0 / 200; /* a repeated operation of a contraction */
static const double cost_of_placed = 1000;    /* a byte of a parameter that the model split */
static const double cost_of_batch = 1000;     /* a byte of another replica's examples */

static double bytes_of(const Type *t) { return (double)type_bytes(t); }

static bool has_axis(Axes set, int axis) { return set >> axis & 1; }

/* Where axis `a` is in a part: a dimension, SUM or NONE. */
enum { PLACE_NONE = -1, PLACE_SUM = -2 };
static int place_of(const Part *p, int rank, int a) {
    if (has_axis(p->partial, a)) return PLACE_SUM;
    for (int k = 0; k < rank; k++)
        if (has_axis(p->dim[k], a)) return k;
    return PLACE_NONE;
}

/* Bytes a rank moves when axis `a` goes from one place to another in a tensor of `bytes`. */
static double move_cost(double n, double bytes, int from, int to) {
    if (from == to) return 0;
    if (from == PLACE_NONE) return cost_of_block * bytes;
    if (from == PLACE_SUM) return (to == PLACE_NONE ? 2 : 1) * (n - 1) / n * bytes;
    if (to == PLACE_NONE) return (n - 1) / n * bytes;
    return to == PLACE_SUM ? INFINITY : (n - 1) / n / n * bytes;
}

static bool is_placed_param(const Shard *s, Value v) {
    const Node *n = node_of(s->from, v);
    return n->op == OP_param && n->spec;
}

static double distance(const Shard *s, const Type *t, const Part *have, const Part *want) {
    double cost = 0, bytes = bytes_of(t);
    for (int a = 0; a < s->naxes; a++)
        cost += move_cost((double)s->size[a], bytes, place_of(have, t->rank, a),
                          place_of(want, t->rank, a));
    return cost;
}

const Made *shard_nearest(const Shard *s, Value v, const Part *want) {
    const Type *t = type_of(s->from, v);
    const Made *best = NULL;
    for (const Made *m = s->made[v]; m; m = m->next)
        if (!best || distance(s, t, &m->part, want) < distance(s, t, &best->part, want)) best = m;
    return best;
}

/* Parts into which axes other than a split w where it was made so. */
static double split_parts(const Shard *s, Value w, const Part *p, int a) {
    double parts = 1;
    for (int k = 0; k < type_of(s->from, w)->rank; k++)
        parts *= (double)axes_parts(s, p->dim[k] & (Axes) ~(1 << a));
    return parts;
}

/* Cheapest of the ways in which operand w was made. */
static double operand_cost(const Shard *s, Value w, int a, int to) {
    const Type *t = type_of(s->from, w);
    if (s->pending[w]) return 0;
    double least = INFINITY, bytes = bytes_of(t);
    for (const Made *m = s->made[w]; m; m = m->next) {
        double cost = move_cost((double)s->size[a], bytes / split_parts(s, w, &m->part, a),
                                place_of(&m->part, t->rank, a), to);
        if (is_placed_param(s, w) && cost > 0) cost *= cost_of_placed;
        if (to == PLACE_NONE && has_axis(s->batch, a) && place_of(&m->part, t->rank, a) >= 0)
            cost *= cost_of_batch;
        least = MIN(least, cost);
    }
    return least;
}

static int dim_with_label(const int8_t *labels, int rank, int label) {
    for (int k = 0; k < rank; k++)
        if (labels[k] == label) return k;
    return PLACE_NONE;
}

double shard_sum_cost(double bytes, double n) { return 2 * (n - 1) / n * bytes; }

double shard_bytes(const Type *t) {
    double sum = 0;
    for (uint32_t i = 0; t->dtype == DT_TUPLE && i < t->nelem; i++) sum += bytes_of(t->elem[i]);
    return t->dtype == DT_TUPLE ? sum : bytes_of(t);
}

double shard_repeated_cost(const Graph *g, Value v, double n) {
    const Node *node = node_of(g, v);
    double flops = op_info((Op)node->op)->flops ? op_info((Op)node->op)->flops(g, node) : 0;
    return (1 - 1 / n) * (cost_of_repeated * shard_bytes(node->type) + cost_of_flop * flops);
}

static double label_cost(const Shard *s, Value v, const Dims *d, int a, int label) {
    const Node *node = node_of(s->from, v);
    double cost = 0, n = (double)s->size[a];
    for (uint32_t i = 0; i < node->nin; i++) {
        Value w = operand(s->from, v, i);
        int to = dim_with_label(d->in[i], type_of(s->from, w)->rank, label);
        cost += operand_cost(s, w, a, to);
    }
    if (label < 0) return cost + shard_repeated_cost(s->from, v, n);
    bool all = d->kind[label] == LABEL_MAP || d->kind[label] == LABEL_TIED;
    if (!all) cost += shard_sum_cost(shard_bytes(node->type), n);
    return cost;
}

/* ---- sums that are left apart ---- */

/* Does some way of making operand w leave it a sum over axis a? */
static bool is_partial(const Shard *s, Value w, int a) {
    for (const Made *m = s->made[w]; m; m = m->next)
        if (has_axis(m->part.partial, a)) return true;
    return false;
}

/* A scalar that all ranks have is as well a sum to which only one of them adds. */
static bool can_be_partial(const Shard *s, Value w, int a) {
    return is_partial(s, w, a) || (!s->pending[w] && type_elements(type_of(s->from, w)) == 1);
}

/* Where somebody needs the sum itself, it is made at once, for all. */
static bool only_linear_uses(const Shard *s, Value w) {
    for (uint32_t e = s->uses.start[w]; e < s->uses.start[w + 1]; e++) {
        Value u = s->uses.use[e];
        for (uint32_t i = 0; i < node_of(s->from, u)->nin; i++)
            if (operand(s->from, u, i) == w && !passes_partial(s->from, u, i)) return false;
    }
    return true;
}

/* Of a product only one factor may be a sum. */
static bool may_pass(const Shard *s, Value v, int a) {
    const Node *n = node_of(s->from, v);
    uint32_t sums = 0;
    if (n->type->dtype == DT_TUPLE || !dtype_is_float(n->type->dtype)) return false;
    for (uint32_t i = 0; i < n->nin; i++) {
        bool sum = is_partial(s, operand(s->from, v, i), a);
        if (sum && !only_linear_uses(s, operand(s->from, v, i))) return false;
        sums += sum;
    }
    if (sums == 0) return false;
    if (n->op == OP_mul || n->op == OP_div) return sums == 1;
    if (n->op != OP_add && n->op != OP_sub) return true;
    return can_be_partial(s, operand(s->from, v, 0), a) &&
           can_be_partial(s, operand(s->from, v, 1), a);
}

static int through_place(const Shard *s, Value v, uint32_t i, int a) {
    Op op = (Op)node_of(s->from, v)->op;
    bool both = op == OP_add || op == OP_sub;
    return both || is_partial(s, operand(s->from, v, i), a) ? PLACE_SUM : PLACE_NONE;
}

/* Bytes of a sum that is left apart, each time that it is made up later: a gradient of several
 * micro-batches is cast to f32, added to the others', and made up once for all. */
static double bytes_later(const Shard *s, const Node *n) {
    bool once = n->op == OP_cast && n->phase == PHASE_BACKWARD && n->micro >= 0;
    return shard_bytes(n->type) / (double)(once ? MAX(s->from->set.micro_batches, 1) : 1);
}

/* Into how many parts the other axes split an operand that is a sum over axis a. */
static double sum_parts(const Shard *s, Value v, int a) {
    double parts = 1;
    for (uint32_t i = 0; i < node_of(s->from, v)->nin; i++) {
        Value w = operand(s->from, v, i);
        for (const Made *m = s->made[w]; m; m = m->next)
            if (has_axis(m->part.partial, a)) parts = MAX(parts, split_parts(s, w, &m->part, a));
    }
    return parts;
}

static double through_cost(const Shard *s, Value v, int a) {
    const Node *node = node_of(s->from, v);
    double n = (double)s->size[a];
    double cost = shard_sum_cost(bytes_later(s, node), n) / sum_parts(s, v, a);
    for (uint32_t i = 0; i < node->nin; i++)
        cost += operand_cost(s, operand(s->from, v, i), a, through_place(s, v, i, a));
    return cost;
}

/* ---- choosing ---- */

/* A label may be split over one more axis when its parts still divide it, and axes come in order,
 * so that the new one is the fastest. */
static bool divides(const Shard *s, const Dims *d, const Choice *c, int label, int a) {
    return axes_divide(s, c->label[label] | (Axes)(1 << a), d->size[label]);
}

/* Has value w this axis at dimension k, in one of its ways? */
static bool is_split_at(const Shard *s, Value w, int k, int a) {
    for (const Made *m = s->made[w]; m && k >= 0; m = m->next)
        if (has_axis(m->part.dim[k], a)) return true;
    return false;
}

/* A table's gradient lies as the table that was read by the same numbers. */
static bool table_is_split(const Shard *s, Value v, const Dims *d, int a) {
    Value index = operand(s->from, v, d->index);
    Dims u;
    for (uint32_t e = s->uses.start[index]; e < s->uses.start[index + 1]; e++) {
        Value reader = s->uses.use[e];
        if (reader >= v) break;
        dims_of(s->from, reader, &u);
        if (u.index == NO_VALUE || operand(s->from, reader, u.index) != index) continue;
        Value table = operand(s->from, reader, 0);
        int k = dim_with_label(u.in[0], type_of(s->from, table)->rank, u.counted);
        if (u.size[u.counted] == d->size[d->counted] && is_split_at(s, table, k, a)) return true;
    }
    return false;
}

/* Has an operand this axis at the label? */
static bool label_is_met(const Shard *s, Value v, const Dims *d, int label, int a) {
    for (uint32_t i = 0; i < node_of(s->from, v)->nin; i++) {
        Value w = operand(s->from, v, i);
        int rank = type_of(s->from, w)->rank;
        if (is_split_at(s, w, dim_with_label(d->in[i], rank, label), a)) return true;
    }
    return d->counted == label && d->kind[label] == LABEL_MAP && table_is_split(s, v, d, a);
}

/* Is it split over a faster axis? Only by gathering that could axis a come before it. */
static bool faster_is_met(const Shard *s, Value v, const Dims *d, int label, int a) {
    for (int b = a + 1; b < s->naxes; b++)
        if (label_is_met(s, v, d, label, b)) return true;
    return false;
}

/* ZeRO: in the apply phase a gradient that is still a sum may be scattered over the ranks that
 * share it, at its first dimension that they divide. */
static int reuse_label(const Shard *s, Value v, const Dims *d, const Choice *c, int a) {
    const Node *n = node_of(s->from, v);
    bool sum = false;
    if (!has_axis(s->reuse, a) || n->phase != PHASE_APPLY) return -1;
    if (!(op_info((Op)n->op)->flags & OPF_EW) || n->type->rank == 0) return -1;
    for (uint32_t i = 0; i < n->nin; i++) sum |= is_partial(s, operand(s->from, v, i), a);
    for (int l = 0; sum && l < d->n; l++)
        if (divides(s, d, c, l, a) && !faster_is_met(s, v, d, l, a)) return l;
    return -1;
}

/* Slots and sources of routed tokens are numbers inside one rank's part. */
static bool tied_axis(const Shard *s, Value v, const Dims *d, int a) {
    Value w = operand(s->from, v, d->tied);
    return s->made[w] && has_axis(s->made[w]->part.dim[d->tied_dim], a);
}

typedef struct {
    double cost;
    int label;    /* -1: none */
    bool through; /* the sums stay apart */
} Option;

static void offer(Option *best, double cost, int label, bool through) {
    if (cost < best->cost) *best = (Option){cost, label, through};
}

static Option choose_axis(const Shard *s, Value v, const Dims *d, const Choice *c, int a) {
    Option best = {INFINITY, -1, false};
    int reuse = reuse_label(s, v, d, c, a);
    if (d->tied != NO_VALUE && tied_axis(s, v, d, a)) {
        for (int l = 0; l < d->n; l++)
            if (d->kind[l] == LABEL_TIED) return (Option){0, l, false};
    }
    for (int l = 0; l < d->n; l++) {
        if (d->kind[l] == LABEL_TIED || !divides(s, d, c, l, a)) continue;
        ScopeRule rule = scope_rule(s, v, d, l, a);
        if (rule == SCOPE_WANTED) return (Option){0, l, false};
        if (rule == SCOPE_BANNED) continue;
        if (l == reuse || label_is_met(s, v, d, l, a))
            offer(&best, label_cost(s, v, d, a, l), l, false);
    }
    if (may_pass(s, v, a)) offer(&best, through_cost(s, v, a), -1, true);
    offer(&best, label_cost(s, v, d, a, -1), -1, false);
    return best;
}

void shard_choose(const Shard *s, Value v, const Dims *d, Choice *c) {
    memset(c, 0, sizeof *c);
    for (int a = 0; a < s->naxes; a++) {
        Option o = choose_axis(s, v, d, c, a);
        if (o.label >= 0) c->label[o.label] |= (Axes)(1 << a);
        if (o.through) c->through |= (Axes)(1 << a);
    }
}

Part choice_in(const Shard *s, Value v, const Dims *d, const Choice *c, uint32_t i) {
    Value w = operand(s->from, v, i);
    Part p = {0};
    for (int k = 0; k < type_of(s->from, w)->rank; k++)
        if (d->in[i][k] >= 0) p.dim[k] = c->label[d->in[i][k]];
    for (int a = 0; a < s->naxes; a++)
        if (has_axis(c->through, a) && through_place(s, v, i, a) == PLACE_SUM)
            p.partial |= (Axes)(1 << a);
    return p;
}

Part choice_out(const Dims *d, const Choice *c, int rank, uint32_t i) {
    Part p = {.partial = c->through};
    for (int k = 0; k < rank; k++)
        if (d->out[i][k] >= 0) p.dim[k] = c->label[d->out[i][k]];
    for (int l = 0; l < d->n; l++)
        if (d->kind[l] == LABEL_SUM) p.partial |= c->label[l];
    return p;
}
