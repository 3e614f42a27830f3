/* collectives_chunks.c: exchanges cut into pieces that overlap with products.
 *
 * A region begins with an all_to_all and ends with the next one that follows from it: the experts,
 * forward or backward. Where every row between follows from the same rows alone, the region can be
 * done in pieces of rows: while one piece is multiplied the next one travels. What is read of a
 * region elsewhere is put together again. How many pieces: as `place { all_to_all_chunks }` says,
 * or as a model of two streams, one that exchanges and one that computes, finds fastest; under a
 * budget of the device's memory only if asked. Pieces themselves take little (M6-10T with memory
 * enough on the host can be brought to 4853 MiB of the device, whole to 4749); but the planner of
 * memory finds no plan of M6-10T in pieces within both budgets, 40 GB is the least. Limits:
 * rows are the last but one dim of the blocks (dispatched rows of a token group); a region with an
 * op that collectives_rows.c does not know stays whole. */
#include "passes/collectives.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/storage.h"

enum { MOST_PIECES = 64 };
static const double LEAST_GAIN = 0.02; /* of the time, for which more pieces are made */

typedef struct {
    const Graph *g;
    Exchanges *e;
    Value *origin; /* by value: the all_to_all of its phase that it follows from, or NO_VALUE */
    Uses uses;
    Regions *out;
} Find;

/* ---- what lies between two exchanges ---- */

static bool same_phase(const Node *a, const Node *b) {
    return a->phase == b->phase && a->micro == b->micro;
}

static Value origin_of(const Find *f, Value v) {
    const Node *n = node_of(f->g, v);
    Value from = NO_VALUE;
    if (n->op == OP_all_to_all) return v;
    for (uint32_t i = 0; i < n->nin; i++) {
        Value o = f->origin[operand(f->g, v, i)];
        if (o != NO_VALUE && same_phase(n, node_of(f->g, o)) && (from == NO_VALUE || o > from))
            from = o;
    }
    return from;
}

/* The rows of v's operands that lie in the region. False: rows are mixed. */
static bool cut_operands(const Find *f, Value v, Value first) {
    Cut *cut = f->out->cut, in;
    for (uint32_t i = 0; i < node_of(f->g, v)->nin; i++) {
        Value x = operand(f->g, v, i);
        bool inside = f->origin[x] == first;
        RowsKind kind = rows_of_operand(f->g, v, cut[v], i, &in);
        if (kind == ROWS_MIXED || (inside && kind == ROWS_NONE)) return false;
        if (!inside) continue;
        if (cut[x].dim >= 0 && (cut[x].dim != in.dim || cut[x].outer != in.outer)) return false;
        cut[x] = in;
    }
    return true;
}

static void forget(const Find *f, Value first, Value last) {
    for (Value v = first; v <= last; v++)
        if (f->origin[v] == first || v == last) f->out->cut[v].dim = -1;
}

/* From last backwards: what it follows from, up to first. */
static bool trace(const Find *f, Value first, Value last) {
    const Type *t = type_of(f->g, last);
    Cut *cut = f->out->cut, in;
    if (t->rank < 3) return false;
    cut[last] = (Cut){t->rank - 2, 1};
    Value x = operand(f->g, last, 0);
    bool ok = rows_of_operand(f->g, last, cut[last], 0, &in) == ROWS_CUT;
    cut[x] = in;
    for (Value v = x; ok && v > first; v--)
        if (f->origin[v] == first && cut[v].dim >= 0) ok = cut_operands(f, v, first);
    ok = ok && cut[first].dim > 0 && cut[first].outer == 1 && t->dim[t->rank - 2] > 1;
    if (!ok) forget(f, first, last);
    return ok;
}

/* ---- what pieces cost ---- */

static double copy_us(const Machine *m, double bytes) {
    Work w = {.what = "concat", .bytes = 2 * bytes};
    return cost_us(m, &w);
}

static double piece_us(const Find *f, Value v, double pieces) {
    const Graph *g = f->g;
    const Node *n = node_of(g, v);
    Work w = {.what = op_info((Op)n->op)->name};
    if (is_view(n) || n->op == OP_all_to_all) return 0;
    if (n->op == OP_einsum) {
        Cut in;
        w = einsum_work(g, v);
        int64_t *rows = rows_of_operand(g, v, f->out->cut[v], 0, &in) == ROWS_CUT ? &w.m : &w.n;
        *rows = MAX((int64_t)ceil((double)*rows / pieces), 1);
        w.flops /= pieces;
    } else {
        w.flops = op_weight((Op)n->op) * (double)type_elements(n->type) / pieces;
        w.bytes = 2 * (double)type_bytes(n->type) / pieces;
    }
    return cost_us(f->e->m, &w);
}

static bool in_region(const Find *f, Value v, Value first) {
    return f->origin[v] == first && f->out->cut[v].dim >= 0;
}

/* What is put together for products elsewhere, such as the weights' gradients. */
static double whole_us(const Find *f, Value v, Value first) {
    for (uint32_t e = f->uses.start[v]; e < f->uses.start[v + 1]; e++) {
        Value user = f->uses.use[e];
        if (is_op(f->g, user, OP_einsum) && !in_region(f, user, first))
            return copy_us(f->e->m, (double)type_bytes(type_of(f->g, v)));
    }
    return 0;
}

/* The region in so many pieces: exchanges one after the other, each piece's products when both it
 * and the compute stream are there. */
static double region_us(const Find *f, Value first, Value last, int64_t pieces) {
    ExchangePlan in, out;
    double compute = 0, once = 0, comm, there = 0, done = 0;
    if (!exchange_plan(f->e, first, pieces, &in) || !exchange_plan(f->e, last, pieces, &out))
        return INFINITY;
    for (Value v = first; v < last; v++) {
        if (!in_region(f, v, first)) continue;
        compute += piece_us(f, v, (double)pieces);
        if (pieces > 1) once += whole_us(f, v, first);
    }
    if (pieces > 1) once += copy_us(f->e->m, (double)type_bytes(type_of(f->g, last)));
    comm = (double)pieces * in.us;
    for (int64_t k = 0; k < pieces; k++) {
        there += in.us;
        done = MAX(done, there) + compute;
        comm = MAX(comm, done) + out.us;
    }
    return comm + once;
}

static int64_t best_pieces(const Find *f, Value first, Value last, int64_t rows) {
    static const int64_t tried[] = {2, 3, 4, 6, 8};
    int64_t best = 1;
    if (!f->e->m || !f->e->topology->node || f->g->set.memory) return 1;
    double least = region_us(f, first, last, 1);
    for (size_t i = 0; i < COUNT(tried) && tried[i] <= rows; i++) {
        double us = region_us(f, first, last, tried[i]);
        if (us < least * (1 - LEAST_GAIN)) least = us, best = tried[i];
    }
    return best;
}

/* ---- regions ---- */

/* Forward and backward alike, so that the one reads the other's pieces. */
static int64_t same_as_before(const Find *f, Value first, int64_t rows) {
    for (uint32_t i = f->out->list.n; i-- > 0;) {
        const Region *r = &f->out->list.p[i];
        if (r->rows == rows && type_of(f->g, r->first) == type_of(f->g, first)) return r->pieces;
    }
    return 0;
}

static void add_region(Find *f, Value first, Value last) {
    const Type *t = type_of(f->g, last);
    int64_t rows = t->dim[t->rank - 2], pieces = f->g->set.all_to_all_chunks;
    if (!pieces) pieces = same_as_before(f, first, rows);
    if (!pieces) pieces = best_pieces(f, first, last, rows);
    pieces = MIN(MIN(pieces, rows), MOST_PIECES);
    vec_push(&f->out->list, ((Region){first, last, rows, pieces}));
    for (Value v = first; v <= last; v++)
        if (pieces > 1 && (in_region(f, v, first) || v == last)) f->out->region[v] = f->out->list.n;
    if (pieces == 1) forget(f, first, last);
}

Regions find_regions(const Graph *g, Exchanges *e, Arena *a) {
    Regions out = {.region = arena_array(a, uint32_t, g->node.n + 1),
                   .cut = arena_array(a, Cut, g->node.n + 1)};
    Find f = {.g = g, .e = e, .origin = no_values(a, g->node.n), .out = &out};
    if (g->set.all_to_all_chunks == 1) return out;
    f.uses = graph_uses(g, a);
    for (Value v = 0; v < g->node.n; v++) out.cut[v].dim = -1;
    for (Value v = 0; v < g->node.n; v++) {
        f.origin[v] = origin_of(&f, v);
        if (!is_op(g, v, OP_all_to_all)) continue;
        Value first = f.origin[operand(g, v, 0)];
        bool fits =
            first != NO_VALUE && !out.region[first] && same_phase(node_of(g, first), node_of(g, v));
        if (fits && trace(&f, first, v)) add_region(&f, first, v);
    }
    return out;
}
