/* lower.c: the graph as codegen can emit it, node by node.
 *
 * Sweep 1 expands raised ops and masks into primitives. Sweep 2 makes every node fit a kernel
 * shape: reductions over leading or trailing axes, large ones with few results in two stages (so
 * that threads share them and the order of summation is fixed); contractions as matrix products,
 * with copies where strides do not collapse; operands of opaque kernels contiguous; outputs and
 * assigned values with bytes of their own. Then every computing node is a group; a reshape that no
 * strides can express computes (copies), all other views stay virtual. A copy is a `cast` to the
 * same dtype. */
#include "ir/storage.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

/* ---- sweep 1: expansion ---- */

static Value mask_side(Graph *g, const Type *t, int64_t axis) {
    const Type *ints = type_with_dtype(g->session, t, DT_I32);
    return graph_leaf(g, OP_iota, attr_of1(g, OP_iota, (AttrValue){.i = axis}), ints);
}

/* 0 where s <= t, or s < prefix; -1e30 elsewhere. */
static Value expand_mask(Graph *g, Value v) {
    const Node *n = node_of(g, v);
    const Type *t = n->type;
    const char *kind = attr_str(n, "kind");
    int64_t prefix = attr_int(n, "prefix");
    Value row = mask_side(g, t, 0), col = mask_side(g, t, 1);
    if (strcmp(kind, "none") == 0) return b_const(g, 0, t);
    Value sees = b_ew2(g, OP_le, col, row);
    if (strcmp(kind, "prefix") == 0)
        sees = b_ew2(g, OP_or, sees, b_ew2(g, OP_lt, col, b_like(g, (double)prefix, col)));
    return b_ew3(g, OP_select, sees, b_const(g, 0, t), b_const(g, -1e30, t));
}

/* The results of tuple `of`, none taken yet. */
static Value *new_results(const Graph *g, Value of, Arena *a) {
    uint32_t n = MAX(type_of(g, of)->nelem, 1);
    Value *result = arena_array(a, Value, n);
    for (uint32_t i = 0; i < n; i++) result[i] = NO_VALUE;
    return result;
}

/* A message of the operands whose results are read; its results go to result[]. */
static void needed_message(Rewrite *r, Value v, const Uses *uses, Value *result) {
    const Node *n = node_of(r->from, v);
    Value in[MAX_OPERANDS];
    bool read[MAX_OPERANDS] = {false};
    uint32_t count = 0;
    for (uint32_t i = uses->start[v]; i < uses->start[v + 1]; i++)
        read[attr_int(node_of(r->from, uses->use[i]), "index")] = true;
    for (uint32_t i = 0; i < n->nin; i++)
        if (read[i]) in[count++] = r->map[operand(r->from, v, i)];
    if (count == n->nin) {
        rewrite_copy(r, v);
        return;
    }
    graph_at(r->to, n);
    Value x = graph_add(r->to, (Op)n->op, n->attr, count, in);
    node_of(r->to, x)->stream = n->stream;
    for (uint32_t i = 0, k = 0; i < n->nin; i++)
        if (read[i]) result[i] = count == 1 ? x : b_proj(r->to, x, k++);
    r->map[v] = x;
}

/* Also leaves one proj of each result: a kernel writes it to one place. */
static bool expand_all(Graph *g, PassContext *cx) {
    graph_compact(g, NULL);
    Uses uses = graph_uses(g, cx->scratch);
    Rewrite r = rewrite_begin(g, cx->scratch);
    Value **result = arena_array(cx->scratch, Value *, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op == OP_room) continue; /* made anew below */
        if (n->op == OP_proj) {
            Value **of = &result[operand(g, v, 0)];
            if (!*of) *of = new_results(g, operand(g, v, 0), cx->scratch);
            Value *one = &(*of)[attr_int(n, "index")];
            r.map[v] = *one = *one == NO_VALUE ? rewrite_copy(&r, v) : *one;
            continue;
        }
        if (is_collective(n) && n->type->dtype == DT_TUPLE) {
            result[v] = new_results(g, v, cx->scratch);
            needed_message(&r, v, &uses, result[v]);
            continue;
        }
        Value x = rewrite_copy(&r, v);
        graph_at_node(r.to, x);
        if (n->op == OP_mask) r.map[v] = expand_mask(r.to, x);
        if (!op_info(n->op)->expand) continue;
        result[v] = new_results(g, v, cx->scratch);
        op_info(n->op)->expand(r.to, x, result[v]);
        if (n->type->dtype != DT_TUPLE) r.map[v] = result[v][0];
    }
    graph_compact(r.to, NULL);
    return rewrite_end(&r);
}

/* ---- sweep 2: shapes that kernels have ---- */

/* How a machine shares a reduction: from so many results on it need not be cut; else into at most
 * `rows` or `cols` parts, of at least `row` elements or `col` rows. */
typedef struct {
    int64_t enough, rows, row, cols, col;
} Cut;
static const Cut cut_cpu = {.enough = 16, .rows = 64, .row = 1024, .cols = 32, .col = 16};
static const Cut cut_gpu = {.enough = 256, .rows = 512, .row = 2048, .cols = 256, .col = 16};

typedef struct {
    Graph *g; /* being built */
    const Cut *cut;
    uint32_t marked; /* views below are marked: group 1 when they need a copy */
    VEC(bool) taken; /* by node of g: its bytes belong to an output or an assigned leaf */
} Lower;

/* view_root works on everything built so far after this. */
static void mark_views(Lower *lo) {
    for (; lo->marked < lo->g->node.n; lo->marked++) {
        Node *n = node_of(lo->g, lo->marked);
        Layout l;
        n->group = 0;
        if (!is_view(n)) continue;
        view_root(lo->g, operand(lo->g, lo->marked, 0), &l);
        if (!layout_view(n, &l)) n->group = 1;
    }
}

static Value root_of(Lower *lo, Value v, Layout *l) {
    mark_views(lo);
    return view_root(lo->g, v, l);
}

static Value copy_of(Graph *g, Value v) {
    return graph_add(g, OP_cast, attr_of1(g, OP_cast, (AttrValue){.i = type_of(g, v)->dtype}), 1,
                     &v);
}

static bool has_bytes(const Node *n) { return n->op != OP_constant && n->op != OP_iota; }

/* v itself when its root has bytes; a copy otherwise. */
static Value with_bytes(Lower *lo, Value v) {
    Layout l;
    return has_bytes(node_of(lo->g, root_of(lo, v, &l))) ? v : copy_of(lo->g, v);
}

/* v itself when its root has bytes and v is one block of them; a copy otherwise. */
static Value as_block(Lower *lo, Value v) {
    Layout l;
    Value root = root_of(lo, v, &l);
    return has_bytes(node_of(lo->g, root)) && layout_is_block(&l) ? v : copy_of(lo->g, v);
}

static bool can_reshape(Lower *lo, Value v, int rank, const int64_t *dim) {
    Layout l;
    root_of(lo, v, &l);
    return layout_reshape(&l, rank, dim);
}

/* ---- reductions ---- */

/* The largest divisor of n that is at most `most`. */
static int64_t divisor(int64_t n, int64_t most) {
    for (int64_t d = MIN(n, most); d > 1; d--)
        if (n % d == 0) return d;
    return 1;
}

static Value two_stages(Graph *g, Op op, Value x, const int64_t dim[4], const Type *t) {
    const int64_t two = 2, one = 1;
    Value part = b_reduce(g, op, b_reshape(g, x, 4, dim), 1, &two);
    return b_reshape(g, b_reduce(g, op, part, 1, &one), t->rank, t->dim);
}

/* How many parts a reduction over [outer, a, c] is cut into; 1: one stage. */
static int64_t parts(const Cut *cut, ReduceKind kind, int64_t outer, int64_t a, int64_t c) {
    int64_t work = outer * a * c;
    if (outer >= cut->enough) return 1;
    if (kind == REDUCE_ROW) { /* rows of `a` columns */
        if (work < 32768 || (outer > 1 && a < 262144)) return 1;
        return divisor(a, MIN(cut->rows / outer, a / cut->row));
    }
    if (work < 65536) return 1;
    return divisor(a, MIN(cut->cols, a / cut->col));
}

static Value lower_reduce(Lower *lo, Value v) {
    Graph *g = lo->g;
    const Node *n = node_of(g, v);
    const Type *t = n->type, *from = type_of(g, operand(g, v, 0));
    const Ints *axes = attr_ints(n, "axes");
    Op op = n->op;
    Value x = operand(g, v, 0);
    int64_t outer, a, c, perm[MAX_RANK];
    ReduceKind kind = reduce_kind(n, from, &outer, &a, &c);
    if (kind == REDUCE_ROW && a == 1) return b_reshape(g, x, t->rank, t->dim);
    if (kind == REDUCE_MIXED) {
        int kept = 0, reduced = t->rank;
        for (int i = 0; i < from->rank; i++) {
            bool r = false;
            for (uint32_t j = 0; j < axes->n; j++) r |= axes->v[j] == i;
            perm[r ? reduced++ : kept++] = i;
        }
        x = b_transpose(g, x, perm);
        for (uint32_t i = 0; i < axes->n; i++) perm[i] = t->rank + (int64_t)i;
        return b_reduce(g, op, x, axes->n, perm);
    }
    int64_t p = parts(lo->cut, kind, outer, a, c);
    int64_t dim[4] = {outer, p, a / p, c};
    if (p == 1 || !can_reshape(lo, x, 4, dim)) return v;
    return two_stages(g, op, x, dim, t);
}

/* ---- contractions ---- */

/* The operand's dims in the order of these labels. */
static Value by_labels(Graph *g, Value x, const char *from, const char *to) {
    int64_t perm[MAX_RANK];
    bool same = true;
    for (int i = 0; to[i]; i++) {
        perm[i] = strchr(from, to[i]) - from;
        same &= perm[i] == i;
    }
    return same ? x : b_transpose(g, x, perm);
}

static Value einsum_of(Graph *g, const char *a, const char *b, const char *c, Value x, Value y) {
    Buf spec = {0};
    buf_printf(&spec, "%s,%s->%s", a, b, c);
    Value v = b_einsum(g, spec.p, x, y);
    buf_free(&spec);
    return v;
}

/* x repeated over all labels of `all` it lacks. */
static Value over_labels(Graph *g, const Einsum *e, Value x, const char *labels, const char *all) {
    char own[MAX_RANK + 1];
    int64_t dim[MAX_RANK], dims[MAX_RANK];
    int n = 0;
    for (int i = 0; all[i]; i++) {
        dim[i] = e->size[(int)all[i]];
        if (strchr(labels, all[i])) dims[n] = i, own[n++] = all[i];
    }
    own[n] = 0;
    return b_broadcast(g, by_labels(g, x, labels, own), (int)strlen(all), dim, dims);
}

/* A contraction without a sum, or of vectors only, is elementwise work and a row reduction. */
static Value as_product(Lower *lo, const Einsum *e, Value x, Value y, const Type *t) {
    Graph *g = lo->g;
    char all[2 * MAX_RANK + 1];
    snprintf(all, sizeof all, "%s%s", e->c, e->k);
    Dtype wide = t->dtype == DT_F64 ? DT_F64 : DT_F32;
    Value p = b_ew2(g, OP_mul, b_cast(g, over_labels(g, e, x, e->a, all), wide),
                    b_cast(g, over_labels(g, e, y, e->b, all), wide));
    int64_t axes[MAX_RANK];
    uint32_t n = (uint32_t)strlen(e->k);
    for (uint32_t i = 0; i < n; i++) axes[i] = (int64_t)strlen(e->c) + i;
    return b_cast(g, n ? lower_reduce(lo, b_reduce(g, OP_sum, p, n, axes)) : p, t->dtype);
}

/* At most MAX_RANK labels: they are those of one operand or of the result. */
static void join3(char out[MAX_RANK + 1], const char *a, const char *b, const char *c) {
    size_t na = strlen(a), nb = strlen(b), nc = strlen(c);
    ASSERT(na + nb + nc <= MAX_RANK);
    memcpy(out, a, na);
    memcpy(out + na, b, nb);
    memcpy(out + na + nb, c, nc + 1);
}

static Value lower_einsum(Lower *lo, Value v) {
    Graph *g = lo->g;
    Einsum e = einsum_read(g, node_of(g, v));
    Value x = operand(g, v, 0), y = operand(g, v, 1);
    const Type *t = type_of(g, v);
    int64_t k = einsum_size(&e, e.k), mn = einsum_size(&e, e.m) * einsum_size(&e, e.n);
    if ((k == 1 || mn == 1) && strlen(e.c) + strlen(e.k) <= MAX_RANK)
        return as_product(lo, &e, x, y, t);
    char la[MAX_RANK + 1], lb[MAX_RANK + 1], lc[MAX_RANK + 1];
    memcpy(la, e.a, sizeof la), memcpy(lb, e.b, sizeof lb), memcpy(lc, e.c, sizeof lc);
    x = with_bytes(lo, x);
    y = with_bytes(lo, y);
    for (int tries = 0; tries < 4; tries++) {
        Contract fit;
        if (x != operand(g, v, 0) || y != operand(g, v, 1) || strcmp(lc, e.c) != 0)
            v = einsum_of(g, la, lb, lc, x, y);
        mark_views(lo);
        switch (contract_fit(g, v, &fit)) {
        case CONTRACT_OK: return by_labels(g, v, lc, e.c);
        case CONTRACT_BAD_A:
            join3(la, e.batch, e.m, e.k);
            x = copy_of(g, by_labels(g, x, e.a, la));
            break;
        case CONTRACT_BAD_B:
            join3(lb, e.batch, e.k, e.n);
            y = copy_of(g, by_labels(g, y, e.b, lb));
            break;
        case CONTRACT_BAD_C: join3(lc, e.batch, e.m, e.n); break;
        }
    }
    BUG("no matrix product for einsum %s", attr_str(node_of(g, v), "spec"));
}

/* ---- effects and opaque kernels ---- */

/* A value whose root is computed here, whole, and taken by nobody else; else a copy. */
static Value own_bytes(Lower *lo, Value v) {
    Graph *g = lo->g;
    Layout l;
    Value root = root_of(lo, v, &l);
    const Node *n = node_of(g, root);
    bool computed = !(op_info(n->op)->flags & OPF_LEAF);
    bool taken = root < lo->taken.n && lo->taken.p[root];
    if (!computed || taken || !layout_is_identity(&l, type_elements(n->type)))
        root = v = copy_of(g, v);
    while (lo->taken.n <= root) vec_push(&lo->taken, false);
    lo->taken.p[root] = true;
    return v;
}

static bool is_opaque(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    uint32_t flags = op_info(n->op)->flags;
    return !(flags & (OPF_LEAF | OPF_EFFECT)) && !is_result(n) && n->op != OP_einsum &&
           !space_takes(g, v);
}

/* A collective is on a stream of its own. A message that is not one operand as it is has to be put
 * together somewhere: it gets bytes in the collective's step. */
static void lower_collective(Graph *g, Value v) {
    Node *n = node_of(g, v);
    Dtype own = collective_type(g, v, 0)->dtype, wire = collective_wire(g, v);
    if (n->stream < STREAM_COMM) n->stream = STREAM_COMM;
    if (n->nin == 1 && wire == own) return;
    const Attr *attr =
        attr_of2(g, OP_room, (AttrValue){.i = wire}, (AttrValue){.i = collective_parts(n)});
    Value room = graph_add(g, OP_room, attr, 1, &v);
    node_of(g, room)->store = true;
}

/* Operands of node v of r->from as v needs them; then v itself. */
static Value lower_node(Lower *lo, Rewrite *r, Value v) {
    const Node *n = node_of(r->from, v);
    bool opaque = is_opaque(r->from, v);
    Value saved[MAX_OPERANDS];
    graph_at(lo->g, n);
    for (uint32_t i = 0; i < n->nin; i++) {
        Value *x = &r->map[operand(r->from, v, i)];
        saved[i] = *x;
        if (opaque) *x = as_block(lo, *x);
        if (n->op == OP_pad || n->op == OP_pick) *x = with_bytes(lo, *x);
        if (n->op == OP_output || (n->op == OP_assign && i == 1)) *x = own_bytes(lo, *x);
    }
    Value x = rewrite_copy(r, v);
    for (uint32_t i = n->nin; i-- > 0;) r->map[operand(r->from, v, i)] = saved[i];
    if (op_info(n->op)->flags & OPF_REDUCE) x = lower_reduce(lo, x);
    if (n->op == OP_einsum) x = lower_einsum(lo, x);
    if (is_collective(node_of(lo->g, x))) lower_collective(lo->g, x);
    return r->map[v] = x;
}

/* Groups 1, 2, .. for what computes. */
static void number_groups(Graph *g) {
    uint32_t groups = 0;
    for (Value v = 0; v < g->node.n; v++) {
        Node *n = node_of(g, v);
        bool none = (op_info(n->op)->flags & (OPF_LEAF | OPF_EFFECT)) || is_result(n) ||
                    (is_view(n) && n->group == 0);
        n->group = none ? 0 : ++groups;
    }
}

bool pass_lower(Graph *g, PassContext *cx) {
    expand_all(g, cx);
    Rewrite r = rewrite_begin(g, cx->scratch);
    Lower lo = {.g = r.to, .cut = cx->gpu ? &cut_gpu : &cut_cpu};
    for (Value v = 0; v < g->node.n; v++) lower_node(&lo, &r, v);
    mark_views(&lo);
    graph_compact(r.to, NULL);
    vec_free(&lo.taken);
    rewrite_end(&r);
    number_groups(g);
    return true;
}
