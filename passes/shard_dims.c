/* shard_dims.c: what the dimensions of a node's operands and results have in common. */
#include <string.h>

#include "passes/shard.h"

static int new_label(Dims *d, LabelKind kind, int64_t size) {
    ASSERT(d->n < DIMS_LABELS);
    d->kind[d->n] = kind;
    d->size[d->n] = size;
    return d->n++;
}

static const Type *in_type(const Graph *g, Value v, uint32_t i) {
    return type_of(g, operand(g, v, i));
}

/* ---- by letters: operands, results, letters of each kind ---- */

typedef struct {
    Op op;
    const char *in[6], *out[3];
    const char *map; /* letters that may be split */
    const char *tied;
    uint32_t tied_operand;
} Letters;

/* s tokens of a group and the slots of an expert go with the group, g. */
static const Letters letters[] = {
    {OP_attention, {"bthk", "bshk", "bshk"}, {"bthk", "bht"}, "bh", "", 0},
    {OP_attention_grad,
     {"bthk", "bshk", "bshk", "bthk", "bht", "bthk"},
     {"bthk", "bshk", "bshk"},
     "bh",
     "",
     0},
    {OP_dispatch, {"nd", "nk", "Er"}, {"Erd"}, "d", "nr", 1},
    {OP_dispatch_scaled, {"nd", "nk", "nk", "Er"}, {"Erd"}, "d", "nr", 2},
    {OP_combine, {"Erd", "nk", "nk", "Er"}, {"nd"}, "d", "nr", 2},
    {OP_combine_sum, {"Erd", "nk", "Er"}, {"nd"}, "d", "nr", 1},
    {OP_gate_grad, {"Erd", "nd", "nk"}, {"nk"}, "", "nr", 2},
};

/* Letters of `tied` are one label: groups of tokens, seen as tokens or as rows. */
static void label_letters(const Letters *l, const Graph *g, Value v, Dims *d) {
    int8_t label[128];
    memset(label, -1, sizeof label);
    int tied = *l->tied ? new_label(d, LABEL_TIED, INT64_MAX) : -1;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
        for (int k = 0; l->in[i][k]; k++) {
            int c = l->in[i][k];
            if (strchr(l->tied, c)) label[c] = (int8_t)tied;
            if (strchr(l->map, c) && label[c] < 0)
                label[c] = (int8_t)new_label(d, LABEL_MAP, in_type(g, v, i)->dim[k]);
            d->in[i][k] = label[c];
        }
    for (int i = 0; i < 3 && l->out[i]; i++)
        for (int k = 0; l->out[i][k]; k++) d->out[i][k] = label[(int)l->out[i][k]];
    if (tied < 0) return;
    d->tied = l->tied_operand;
    d->tied_dim = 0;
}

/* probabilities [g,s,p,e] -> choice [g,s,p,top], slot [n,k], source [E,r], density [g,p,top,e] */
static void label_route(const Graph *g, Value v, Dims *d) {
    int label = new_label(d, LABEL_MAP, in_type(g, v, 0)->dim[0]);
    d->in[0][0] = d->out[0][0] = d->out[1][0] = d->out[2][1] = d->out[3][0] = (int8_t)label;
}

static void label_einsum(const Graph *g, Value v, Dims *d) {
    Einsum e = einsum_read(g, node_of(g, v));
    int8_t label[128];
    memset(label, -1, sizeof label);
    const char *side[] = {e.a, e.b};
    for (int i = 0; i < 2; i++)
        for (int k = 0; side[i][k]; k++) {
            int c = side[i][k];
            LabelKind kind = strchr(e.k, c) ? LABEL_SUM : LABEL_MAP;
            if (label[c] < 0)
                label[c] = (int8_t)new_label(d, kind, in_type(g, v, (uint32_t)i)->dim[k]);
            d->in[i][k] = label[c];
        }
    for (int k = 0; e.c[k]; k++) d->out[0][k] = label[(int)e.c[k]];
}

/* ---- the same dimensions in all operands and the result, but for the last `whole` ---- */

static void label_same(const Graph *g, Value v, Dims *d, int whole) {
    const Node *n = node_of(g, v);
    const Type *t = in_type(g, v, 0);
    for (int k = 0; k < t->rank - whole; k++) {
        int8_t label = (int8_t)new_label(d, LABEL_MAP, t->dim[k]);
        for (uint32_t i = 0; i < n->nin; i++)
            if (k < in_type(g, v, i)->rank) d->in[i][k] = label;
        for (int i = 0; i < DIMS_RESULTS; i++) d->out[i][k] = label;
    }
}

static void label_concat(const Graph *g, Value v, Dims *d) {
    const Node *n = node_of(g, v);
    for (int k = 0; k < n->type->rank; k++) {
        if (k == attr_int(n, "axis")) continue;
        int8_t label = d->out[0][k] = (int8_t)new_label(d, LABEL_MAP, n->type->dim[k]);
        for (uint32_t i = 0; i < n->nin; i++) d->in[i][k] = label;
    }
}

/* ---- shapes ---- */

/* Groups of dims with equal products; the first dim larger than 1 of each side is split alike. */
static void label_reshape(const Graph *g, Value v, Dims *d) {
    const Type *a = in_type(g, v, 0), *b = type_of(g, v);
    for (int i = 0, j = 0; i < a->rank && j < b->rank;) {
        while (i < a->rank && a->dim[i] == 1) i++;
        while (j < b->rank && b->dim[j] == 1) j++;
        if (i == a->rank || j == b->rank) return;
        int64_t x = a->dim[i], y = b->dim[j];
        int label = new_label(d, LABEL_MAP, common_divisor(x, y));
        d->in[0][i++] = d->out[0][j++] = (int8_t)label;
        while (x != y) {
            if (x < y)
                x *= a->dim[i++];
            else
                y *= b->dim[j++];
        }
    }
}

static void label_transpose(const Graph *g, Value v, Dims *d) {
    const Ints *perm = attr_ints(node_of(g, v), "perm");
    for (uint32_t k = 0; k < perm->n; k++)
        d->out[0][k] = d->in[0][perm->v[k]] =
            (int8_t)new_label(d, LABEL_MAP, type_of(g, v)->dim[k]);
}

static void label_broadcast(const Graph *g, Value v, Dims *d) {
    const Type *a = in_type(g, v, 0), *b = type_of(g, v);
    const Ints *dims = attr_ints(node_of(g, v), "dims");
    for (int k = 0; k < b->rank; k++) d->out[0][k] = (int8_t)new_label(d, LABEL_MAP, b->dim[k]);
    for (uint32_t i = 0; i < dims->n; i++)
        if (a->dim[i] == b->dim[dims->v[i]]) d->in[0][i] = d->out[0][dims->v[i]];
}

/* One of equal ranges of an input: the rank has its block of each (micro-batches). */
static bool is_range_of_input(const Graph *g, Value v, int k, int64_t start, int64_t limit) {
    const Node *from = node_of(g, operand(g, v, 0));
    int64_t n = limit - start;
    return from->op == OP_input && k == 0 && n > 0 && start % n == 0 &&
           from->type->dim[0] == n * g->set.micro_batches;
}

static void label_slice(const Graph *g, Value v, Dims *d) {
    const Node *n = node_of(g, v);
    const Ints *start = attr_ints(n, "start"), *limit = attr_ints(n, "limit");
    for (int k = 0; k < n->type->rank; k++) {
        bool all = start->v[k] == 0 && limit->v[k] == in_type(g, v, 0)->dim[k];
        if (all || is_range_of_input(g, v, k, start->v[k], limit->v[k]))
            d->in[0][k] = d->out[0][k] = (int8_t)new_label(d, LABEL_MAP, n->type->dim[k]);
    }
}

static void label_pad(const Graph *g, Value v, Dims *d) {
    const Ints *lo = attr_ints(node_of(g, v), "lo"), *hi = attr_ints(node_of(g, v), "hi");
    for (uint32_t k = 0; k < lo->n; k++)
        if (lo->v[k] == 0 && hi->v[k] == 0)
            d->in[0][k] = d->out[0][k] = (int8_t)new_label(d, LABEL_MAP, type_of(g, v)->dim[k]);
}

static void label_reduce(const Graph *g, Value v, Dims *d, LabelKind kind) {
    const Ints *axes = attr_ints(node_of(g, v), "axes");
    const Type *t = in_type(g, v, 0);
    for (int k = 0, to = 0; k < t->rank; k++) {
        bool reduced = false;
        for (uint32_t i = 0; i < axes->n; i++) reduced |= axes->v[i] == k;
        int8_t label = d->in[0][k] = (int8_t)new_label(d, reduced ? kind : LABEL_MAP, t->dim[k]);
        if (!reduced) d->out[0][to++] = label;
    }
}

/* ---- tables ---- */

/* Rows of a part give zeros for ids of other parts: results add up. table[v, ..], ids[..] ->
 * [.., ..] */
static void label_gather(const Graph *g, Value v, Dims *d) {
    const Type *table = in_type(g, v, 0), *ids = in_type(g, v, 1);
    for (int k = 0; k < ids->rank; k++)
        d->in[1][k] = d->out[0][k] = (int8_t)new_label(d, LABEL_MAP, ids->dim[k]);
    d->index = 1;
    d->counted = d->in[0][0] = (int8_t)new_label(d, LABEL_SUM, table->dim[0]);
    for (int k = 1; k < table->rank; k++)
        d->in[0][k] = d->out[0][ids->rank + k - 1] = (int8_t)new_label(d, LABEL_MAP, table->dim[k]);
}

/* ids[..], rows[.., ..] -> [size, ..] */
static void label_scatter(const Graph *g, Value v, Dims *d) {
    const Type *ids = in_type(g, v, 0), *rows = in_type(g, v, 1);
    for (int k = 0; k < ids->rank; k++)
        d->in[0][k] = d->in[1][k] = (int8_t)new_label(d, LABEL_SUM, ids->dim[k]);
    d->index = 0;
    d->counted = d->out[0][0] = (int8_t)new_label(d, LABEL_MAP, type_of(g, v)->dim[0]);
    for (int k = ids->rank; k < rows->rank; k++)
        d->in[1][k] = d->out[0][1 + k - ids->rank] = (int8_t)new_label(d, LABEL_MAP, rows->dim[k]);
}

/* x[.., v], index[.., m] -> [.., m], as rows of a table */
static void label_pick(const Graph *g, Value v, Dims *d) {
    const Type *x = in_type(g, v, 0);
    label_same(g, v, d, 1);
    d->index = 1;
    d->counted = d->in[0][x->rank - 1] = (int8_t)new_label(d, LABEL_SUM, x->dim[x->rank - 1]);
}

/* index[.., m], g[.., m] -> [.., size] */
static void label_unpick(const Graph *g, Value v, Dims *d) {
    const Type *t = type_of(g, v);
    label_same(g, v, d, 1);
    d->index = 0;
    d->counted = d->out[0][t->rank - 1] = (int8_t)new_label(d, LABEL_MAP, t->dim[t->rank - 1]);
}

/* logits[.., v], target[..] -> nll[..], lse[..] */
static void label_cross_entropy(const Graph *g, Value v, Dims *d) {
    const Type *x = in_type(g, v, 0);
    label_same(g, v, d, 1);
    d->index = 1;
    d->counted = d->in[0][x->rank - 1] = (int8_t)new_label(d, LABEL_JOINED, x->dim[x->rank - 1]);
}

static void label_proj(const Graph *g, Value v, Dims *d) {
    Dims all;
    dims_of(g, operand(g, v, 0), &all);
    memcpy(d->out[0], all.out[attr_int(node_of(g, v), "index")], sizeof d->out[0]);
}

void dims_of(const Graph *g, Value v, Dims *d) {
    const Node *n = node_of(g, v);
    d->n = 0;
    d->tied = d->index = NO_VALUE;
    d->counted = -1;
    memset(d->in, -1, sizeof d->in);
    memset(d->out, -1, sizeof d->out);
    for (size_t i = 0; i < COUNT(letters); i++)
        if (letters[i].op == n->op) {
            label_letters(&letters[i], g, v, d);
            return;
        }
    switch (n->op) {
    case OP_route: label_route(g, v, d); return;
    case OP_einsum: label_einsum(g, v, d); return;
    case OP_reshape: label_reshape(g, v, d); return;
    case OP_transpose: label_transpose(g, v, d); return;
    case OP_broadcast: label_broadcast(g, v, d); return;
    case OP_slice: label_slice(g, v, d); return;
    case OP_pad: label_pad(g, v, d); return;
    case OP_concat: label_concat(g, v, d); return;
    case OP_sum: label_reduce(g, v, d, LABEL_SUM); return;
    case OP_max: label_reduce(g, v, d, LABEL_MAX); return;
    case OP_min: label_reduce(g, v, d, LABEL_MIN); return;
    case OP_cross_entropy: label_cross_entropy(g, v, d); return;
    case OP_pick: label_pick(g, v, d); return;
    case OP_unpick: label_unpick(g, v, d); return;
    case OP_gather: label_gather(g, v, d); return;
    case OP_scatter_add: label_scatter(g, v, d); return;
    case OP_proj: label_proj(g, v, d); return;
    case OP_softmax:
    case OP_norm:
    case OP_rmsnorm: label_same(g, v, d, 1); return;
    case OP_assign: label_same(g, v, d, 0); return;
    default:
        if (op_info((Op)n->op)->flags & OPF_EW) label_same(g, v, d, 0);
    }
}

/* One number for all elements, as far as one can see. */
static bool is_scale(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    if (n->op == OP_broadcast) v = operand(g, v, 0);
    return n->op == OP_constant || type_elements(type_of(g, v)) == 1;
}

bool passes_partial(const Graph *g, Value v, uint32_t i) {
    switch (node_of(g, v)->op) {
    case OP_add:
    case OP_sub: return true;
    case OP_mul: return is_scale(g, operand(g, v, 1 - i));
    case OP_div: return i == 0 && is_scale(g, operand(g, v, 1));
    case OP_neg:
    case OP_cast: return dtype_size(type_of(g, v)->dtype) >= dtype_size(in_type(g, v, i)->dtype);
    case OP_reshape:
    case OP_transpose:
    case OP_slice:
    case OP_sum: return true;
    default: return false;
    }
}
