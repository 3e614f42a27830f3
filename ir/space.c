/* space.c: which nodes fit into one loop nest. The fuse pass asks while it grows groups; codegen
 * replays the same calls over a finished group to get its domain. */
#include "ir/storage.h"

#include <string.h>

/* ---- cuts ---- */

static bool add_cut(Space *s, int64_t cut) {
    int i = 0;
    if (cut <= 1 || cut >= s->n) return true;
    for (int w = 0; w < s->nwhole; w++)
        if (cut > s->whole[w].lo && cut < s->whole[w].hi) return false;
    while (i < s->ncut && s->cut[i] < cut) i++;
    if (i < s->ncut && s->cut[i] == cut) return true;
    if (s->ncut == SPACE_CUTS || s->n % cut != 0) return false;
    if (i > 0 && cut % s->cut[i - 1] != 0) return false;
    if (i < s->ncut && s->cut[i] % cut != 0) return false;
    memmove(&s->cut[i + 1], &s->cut[i], (size_t)(s->ncut - i) * sizeof s->cut[0]);
    s->cut[i] = cut;
    s->ncut++;
    return true;
}

/* The blocks of `lo` elements in one of `hi` are one dim of the domain. */
static bool add_whole(Space *s, int64_t lo, int64_t hi) {
    if (s->nwhole == SPACE_WHOLE || !add_cut(s, lo) || !add_cut(s, hi)) return false;
    for (int i = 0; i < s->ncut; i++)
        if (s->cut[i] > lo && s->cut[i] < hi) return false;
    s->whole[s->nwhole].lo = lo;
    s->whole[s->nwhole++].hi = hi;
    return true;
}

/* Strides of this layout over the domain. */
static bool add_strides(Space *s, const Layout *layout) {
    Layout l = *layout;
    int64_t elements = layout_elements(&l), block = s->n / elements;
    layout_collapse(&l);
    for (int i = l.rank - 1; i > 0; i--) {
        block *= l.dim[i];
        if (!add_cut(s, block)) return false;
    }
    return true;
}

/* A load of this layout. */
static bool add_load(Space *s, const Layout *l) {
    s->args++;
    return add_strides(s, l);
}

/* Columns of one element would make full and per-row values alike: such nodes are not fused. */
static bool set_columns(Space *s, int64_t c) {
    if (c == 1) return false;
    if (s->c == 0 && s->n % c == 0) s->c = c;
    return s->c == c && add_cut(s, c);
}

/* ---- levels ---- */

static int64_t elements_of(const Graph *g, Value v) { return type_elements(type_of(g, v)); }

Level space_level(const Space *s, const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    int64_t e = elements_of(g, v);
    if (op_info(n->op)->flags & OPF_REDUCE) {
        int64_t outer, a, c;
        if (reduce_kind(n, type_of(g, operand(g, v, 0)), &outer, &a, &c) == REDUCE_COL)
            return LEVEL_COL;
        return LEVEL_ROW;
    }
    return e == s->n ? LEVEL_FULL : LEVEL_ROW;
}

ReduceKind reduce_kind(const Node *n, const Type *t, int64_t *outer, int64_t *a, int64_t *c) {
    const Ints *axes = attr_ints(n, "axes");
    int changes = 0, state = 0; /* kept, reduced, kept */
    *outer = *a = *c = 1;
    for (int i = 0; i < t->rank; i++) {
        bool reduced = false;
        for (uint32_t j = 0; j < axes->n; j++) reduced |= axes->v[j] == i;
        if (t->dim[i] == 1) continue;
        if (reduced != (state == 1)) state++, changes++;
        if (state > 2) return REDUCE_MIXED;
        *(state == 0 ? outer : state == 1 ? a : c) *= t->dim[i];
    }
    return state == 2 ? REDUCE_COL : REDUCE_ROW;
}

/* ---- operands ---- */

static bool inside(const Graph *g, uint32_t gid, Value root) {
    return node_of(g, root)->group == gid;
}

/* Operand with layout l over a node of `elements` elements: a register of the group, aligned, or a
 * load. */
static bool add_operand(Space *s, const Graph *g, uint32_t gid, Value root, const Layout *l) {
    if (!inside(g, gid, root)) return add_load(s, l);
    Level from = space_level(s, g, root);
    int64_t n = layout_elements(l), own = elements_of(g, root);
    if (from == LEVEL_COL) return false;
    if (n == own && layout_is_identity(l, n)) return true;
    return from == LEVEL_ROW && s->c > 0 && n == s->n && own == s->n / s->c &&
           layout_is_row_broadcast(l, own, s->c);
}

/* Gives a space without columns the rows that in-group values of n elements are when a node of
 * `elements` repeats each of them: they become per-row values. Only with rows enough for threads.
 */
static bool grow(Space *s, int64_t elements) {
    if (s->c != 0 || s->n == 0 || elements % s->n != 0) return false;
    if (s->n < 32 && elements > 4096) return false;
    int64_t c = elements / s->n;
    for (int i = 0; i < s->ncut; i++) s->cut[i] *= c;
    for (int i = 0; i < s->nwhole; i++) s->whole[i].lo *= c, s->whole[i].hi *= c;
    s->n = elements;
    s->per_row = true;
    return set_columns(s, c);
}

/* A node whose result has `elements` elements takes its place: first node, full or per row. */
static bool place(Space *s, int64_t elements) {
    if (s->n == 0) return s->n = elements, true;
    if (s->n == elements) return true;
    if (s->c > 0 && s->n / s->c == elements) return s->per_row = true;
    return grow(s, elements);
}

/* Row reductions and per-row values beside column reductions: an item is then all columns of rows /
 * outer rows, so there must be items enough. */
enum { MIXED_ITEMS = 8, MIXED_COLUMNS = 16384 };
static bool may_mix(const Space *s) {
    return !s->col_reduce || !s->per_row || (s->outer >= MIXED_ITEMS && s->c <= MIXED_COLUMNS);
}

/* ---- nodes by kind ---- */

static bool add_elementwise(Space *s, const Graph *g, uint32_t gid, Value v) {
    if (!place(s, elements_of(g, v))) return false;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
        Layout l;
        Value root = view_root(g, operand(g, v, i), &l);
        if (!add_operand(s, g, gid, root, &l)) return false;
    }
    return true;
}

/* Where its elements lie in the whole tensor is affine, as a load is. */
static bool add_random(Space *s, const Graph *g, uint32_t gid, Value v) {
    Layout l;
    random_layout(node_of(g, v), &l);
    return add_elementwise(s, g, gid, v) && add_strides(s, &l);
}

static bool add_reduce(Space *s, const Graph *g, uint32_t gid, Value v) {
    Layout l;
    Value root = view_root(g, operand(g, v, 0), &l);
    int64_t outer, a, c, elements = layout_elements(&l);
    ReduceKind kind = reduce_kind(node_of(g, v), type_of(g, operand(g, v, 0)), &outer, &a, &c);
    if (kind == REDUCE_MIXED) return false;
    if (s->n == 0) s->n = elements;
    if (s->n != elements) return false;
    if (inside(g, gid, root) && space_level(s, g, root) != LEVEL_FULL) return false;
    if (kind == REDUCE_ROW) {
        if (!set_columns(s, a)) return false;
        s->row_reduce = s->per_row = true;
    } else {
        bool first = !s->col_reduce;
        if (!set_columns(s, c)) return false;
        if (!first && s->outer != outer) return false;
        s->outer = outer;
        s->col_reduce = true;
    }
    return add_operand(s, g, gid, root, &l);
}

/* From inside: a row reduction over the element that the index names. From outside: a load. */
static bool add_pick(Space *s, const Graph *g, uint32_t gid, Value v) {
    Layout x, index;
    Value root = view_root(g, operand(g, v, 0), &x);
    Value which = view_root(g, operand(g, v, 1), &index);
    int64_t cols = x.dim[x.rank - 1], m = index.dim[index.rank - 1];
    if (inside(g, gid, root)) {
        if (m != 1 || space_level(s, g, root) != LEVEL_FULL) return false;
        if (s->n != layout_elements(&x) || !set_columns(s, cols)) return false;
        s->row_reduce = s->per_row = true;
        return add_operand(s, g, gid, root, &x) && add_operand(s, g, gid, which, &index);
    }
    if (!place(s, elements_of(g, v))) return false;
    x.dim[x.rank - 1] = m; /* what remains is where each row starts */
    x.stride[x.rank - 1] = 0;
    return add_load(s, &x) && add_operand(s, g, gid, which, &index);
}

static bool add_unpick(Space *s, const Graph *g, uint32_t gid, Value v) {
    int64_t size = attr_int(node_of(g, v), "size"), elements = elements_of(g, v);
    if (s->n != 0 && s->n != elements && !grow(s, elements)) return false;
    s->n = elements;
    if (!set_columns(s, size)) return false;
    s->per_row = true;
    for (uint32_t i = 0; i < 2; i++) {
        Layout l;
        Value root = view_root(g, operand(g, v, i), &l);
        if (inside(g, gid, root) && l.dim[l.rank - 1] != 1) return false;
        l.dim[l.rank - 1] = 1; /* the m entries of a row are m loads */
        l.stride[l.rank - 1] = 0;
        if (!add_operand(s, g, gid, root, &l)) return false;
    }
    return true;
}

/* Reads its operand under a guard per padded dim, so those dims must be dims of the domain. */
static bool add_pad(Space *s, const Graph *g, uint32_t gid, Value v) {
    const Node *n = node_of(g, v);
    const Ints *lo = attr_ints(n, "lo"), *hi = attr_ints(n, "hi");
    Layout l;
    Value root = view_root(g, operand(g, v, 0), &l);
    if (inside(g, gid, root) || !place(s, elements_of(g, v))) return false;
    int64_t block = s->n / elements_of(g, v);
    for (int i = n->type->rank - 1; i >= 0; i--) {
        bool padded = lo->v[i] != 0 || hi->v[i] != 0;
        if (padded && !add_whole(s, block, block * n->type->dim[i])) return false;
        block *= n->type->dim[i];
        l.dim[i] = n->type->dim[i];
    }
    return add_load(s, &l);
}

static bool add_view_copy(Space *s, const Graph *g, uint32_t gid, Value v) {
    Layout l;
    Value root = view_root(g, operand(g, v, 0), &l);
    if (inside(g, gid, root)) return false;
    if (node_of(g, v)->op != OP_reshape && !layout_view(node_of(g, v), &l)) return false;
    return place(s, layout_elements(&l)) && add_load(s, &l);
}

bool space_takes(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    uint32_t flags = op_info(n->op)->flags;
    switch (n->op) {
    case OP_pad:
    case OP_pick:
    case OP_random: return true;
    case OP_unpick: {
        const Type *index = type_of(g, operand(g, v, 0));
        return index->dim[index->rank - 1] <= 4 && attr_int(n, "size") > 1;
    }
    default: return (flags & (OPF_EW | OPF_REDUCE | OPF_VIEW)) != 0;
    }
}

bool space_add(Space *space, const Graph *g, uint32_t gid, Value v) {
    const Node *n = node_of(g, v);
    Space s = *space;
    bool ok;
    switch (n->op) {
    case OP_pick: ok = add_pick(&s, g, gid, v); break;
    case OP_unpick: ok = add_unpick(&s, g, gid, v); break;
    case OP_pad: ok = add_pad(&s, g, gid, v); break;
    case OP_random: ok = add_random(&s, g, gid, v); break;
    default:
        ok = op_info(n->op)->flags & OPF_REDUCE ? add_reduce(&s, g, gid, v)
             : is_view(n)                       ? add_view_copy(&s, g, gid, v)
                                                : add_elementwise(&s, g, gid, v);
    }
    s.nodes++;
    if (!ok || !may_mix(&s) || s.nodes > SPACE_NODES || s.args > SPACE_ARGS) return false;
    *space = s;
    return true;
}
