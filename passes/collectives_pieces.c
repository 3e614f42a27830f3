/* collectives_pieces.c: a region (collectives_chunks.c) becomes pieces of rows.
 *
 * In the place of the first exchange stand those of all pieces, each behind what computes its rows;
 * in the place of the last one, piece after piece, the products and the exchange. What is computed
 * from few operands outside is computed in pieces too (a dispatch reads a part of the slots, the
 * gradient of an activation the pieces of the forward region); what else is read is sliced. */
#include "passes/collectives.h"

#include <string.h>

enum { DEPTH = 6 }; /* of nodes outside that are looked through */

typedef struct {
    Graph *from;
    Rewrite *r;
    const Regions *regions;
    Arena *a;
    Value **piece;     /* by old value of a region: its pieces so far */
    const Region *now; /* the one that pieces are made for */
    const Node *place; /* of what is made for it */
} Pieces;

static int64_t first_row(const Region *r, int64_t k) { return r->rows * k / r->pieces; }

static int64_t rows_of_piece(const Region *r, int64_t k) {
    return first_row(r, k + 1) - first_row(r, k);
}

/* ---- rows of tensors ---- */

/* t with a dim of its own for so many rows: as it is, or as [slower, rows, faster]. */
typedef struct {
    int rank, at;
    int64_t dim[MAX_RANK];
} RowShape;

static RowShape as_rows(const Type *t, Cut cut, int64_t rows) {
    RowShape s = {.rank = t->rank, .at = cut.dim};
    memcpy(s.dim, t->dim, sizeof s.dim);
    s.dim[cut.dim] = rows;
    if (cut.outer == 1) return s;
    s = (RowShape){.rank = 3, .at = 1, .dim = {cut.outer, rows, 1}};
    for (int k = 0; k < cut.dim; k++) s.dim[0] *= t->dim[k];
    for (int k = cut.dim + 1; k < t->rank; k++) s.dim[2] *= t->dim[k];
    return s;
}

/* Shape of piece k of a value of type t. */
static void piece_shape(const Pieces *p, const Type *t, Cut cut, int64_t k, int64_t dim[MAX_RANK]) {
    memcpy(dim, t->dim, sizeof t->dim);
    dim[cut.dim] = cut.outer * rows_of_piece(p->now, k);
}

static Value slice_rows(const Pieces *p, Value whole, Cut cut, int64_t k) {
    Graph *g = p->r->to;
    const Type *t = type_of(g, whole);
    int64_t start[MAX_RANK] = {0}, shape[MAX_RANK];
    RowShape s = as_rows(t, cut, p->now->rows);
    piece_shape(p, t, cut, k, shape);
    Value x = b_reshape(g, whole, s.rank, s.dim);
    start[s.at] = first_row(p->now, k), s.dim[s.at] = first_row(p->now, k + 1);
    return b_reshape(g, b_slice(g, x, start, s.dim), t->rank, shape);
}

/* ---- nodes of a piece ---- */

static Value piece_of(Pieces *p, Value v, Cut cut, int64_t k, int depth);

/* Node v for piece k, from its operands for that piece. */
static Value make_piece(const Pieces *p, Value v, Cut cut, int64_t k, const Value *in) {
    Graph *g = p->r->to;
    const Node *n = node_of(p->from, v);
    int64_t dim[MAX_RANK], start[MAX_RANK];
    if (n->type->dtype != DT_TUPLE) piece_shape(p, n->type, cut, k, dim);
    switch (n->op) {
    case OP_reshape: return b_reshape(g, in[0], n->type->rank, dim);
    case OP_broadcast: return b_broadcast(g, in[0], n->type->rank, dim, attr_ints(n, "dims")->v);
    case OP_slice:
        for (int i = 0; i < n->type->rank; i++) {
            start[i] = attr_ints(n, "start")->v[i];
            if (i != cut.dim) dim[i] += start[i];
        }
        return b_slice(g, in[0], start, dim);
    default: return graph_add(g, (Op)n->op, n->attr, n->nin, in);
    }
}

/* All rows of a value, put together where it is one of pieces. */
static Value whole_of(Pieces *p, Value v);

static Value rebuild(Pieces *p, Value v, Cut cut, int64_t k, int depth) {
    const Node *n = node_of(p->from, v);
    Value in[MAX_OPERANDS];
    for (uint32_t i = 0; i < n->nin; i++) {
        Cut at;
        Value x = operand(p->from, v, i);
        bool rows = rows_of_operand(p->from, v, cut, i, &at) == ROWS_CUT;
        in[i] = rows ? piece_of(p, x, at, k, depth) : whole_of(p, x);
    }
    graph_at(p->r->to, n);
    p->r->to->at.phase = p->place->phase, p->r->to->at.micro = p->place->micro;
    return make_piece(p, v, cut, k, in);
}

/* Piece k of a value of the region. */
static Value region_piece(Pieces *p, Value v, int64_t k) {
    const Region *of = &p->regions->list.p[p->regions->region[v] - 1], *now = p->now;
    const Node *place = p->place;
    if (!p->piece[v]) p->piece[v] = no_values(p->a, (uint32_t)of->pieces);
    if (p->piece[v][k] != NO_VALUE) return p->piece[v][k];
    p->now = of, p->place = node_of(p->from, v);
    Value x = rebuild(p, v, p->regions->cut[v], k, 0);
    p->now = now, p->place = place;
    return p->piece[v][k] = x;
}

/* Has v pieces of the same rows? */
static bool has_pieces(const Pieces *p, Value v, Cut cut) {
    const Regions *all = p->regions;
    if (!all->region[v]) return false;
    const Region *of = &all->list.p[all->region[v] - 1];
    return of->rows == p->now->rows && of->pieces == p->now->pieces && all->cut[v].dim == cut.dim &&
           all->cut[v].outer == cut.outer;
}

/* Is v, outside of the region, better computed in pieces than sliced? Views are, a dispatch, and
 * what elementwise nodes compute from values in pieces. */
static bool in_pieces(const Pieces *p, Value v, Cut cut, int depth) {
    const Node *n = node_of(p->from, v);
    const uint32_t flags = op_info((Op)n->op)->flags;
    Cut at;
    bool any = false;
    if (has_pieces(p, v, cut)) return true;
    if (p->regions->region[v] || depth == DEPTH) return false;
    if (n->op == OP_dispatch || n->op == OP_dispatch_scaled)
        return rows_of_operand(p->from, v, cut, 0, &at) != ROWS_MIXED;
    if (!(flags & (OPF_EW | OPF_VIEW))) return false;
    for (uint32_t i = 0; i < n->nin; i++) {
        RowsKind kind = rows_of_operand(p->from, v, cut, i, &at);
        if (kind == ROWS_MIXED) return false;
        any |= kind == ROWS_NONE || in_pieces(p, operand(p->from, v, i), at, depth + 1);
    }
    return any;
}

static Value piece_of(Pieces *p, Value v, Cut cut, int64_t k, int depth) {
    const Node *n = node_of(p->from, v);
    double x;
    int64_t dim[MAX_RANK];
    if (has_pieces(p, v, cut)) return region_piece(p, v, k);
    if (constant_value(p->from, v, &x)) {
        piece_shape(p, n->type, cut, k, dim);
        graph_at(p->r->to, p->place);
        return b_const(p->r->to, x,
                       type_tensor(p->from->session, n->type->dtype, n->type->rank, dim));
    }
    if (in_pieces(p, v, cut, depth)) return rebuild(p, v, cut, k, depth + 1);
    Value whole = whole_of(p, v);
    graph_at(p->r->to, p->place);
    return slice_rows(p, whole, cut, k);
}

static Value whole_of(Pieces *p, Value v) {
    Graph *g = p->r->to;
    const Node *n = node_of(p->from, v);
    if (p->r->map[v] != NO_VALUE || !p->regions->region[v]) return p->r->map[v];
    const Region *of = &p->regions->list.p[p->regions->region[v] - 1];
    Value in[MAX_OPERANDS];
    RowShape s = {0};
    for (int64_t k = 0; k < of->pieces; k++) {
        Value x = region_piece(p, v, k);
        graph_at(g, p->place);
        s = as_rows(n->type, p->regions->cut[v], rows_of_piece(of, k));
        in[k] = b_reshape(g, x, s.rank, s.dim);
    }
    Value all = graph_add(g, OP_concat, attr_of1(g, OP_concat, (AttrValue){.i = s.at}),
                          (uint32_t)of->pieces, in);
    return p->r->map[v] = b_reshape(g, all, n->type->rank, n->type->dim);
}

/* ---- the sweep ---- */

static void put_node(Pieces *p, Value v) {
    const Region *of = NULL;
    p->place = node_of(p->from, v);
    if (p->regions->region[v]) of = &p->regions->list.p[p->regions->region[v] - 1];
    if (of && v != of->first && v != of->last) return;
    for (int64_t k = 0; of && k < of->pieces; k++) region_piece(p, v, k);
    if (of) return;
    for (uint32_t i = 0; i < node_of(p->from, v)->nin; i++) whole_of(p, operand(p->from, v, i));
    rewrite_copy(p->r, v);
}

void cut_regions(Graph *g, const Regions *regions, Arena *a) {
    bool any = false;
    for (uint32_t i = 0; i < regions->list.n; i++) any |= regions->list.p[i].pieces > 1;
    if (!any) return;
    Rewrite r = rewrite_begin(g, a);
    Pieces p = {.from = g,
                .r = &r,
                .regions = regions,
                .a = a,
                .piece = arena_array(a, Value *, g->node.n + 1)};
    for (Value v = 0; v < g->node.n; v++) put_node(&p, v);
    rewrite_take(&r);
    compact(g);
}
