/* random_graph.c: grows a graph from a pool of float values; each rule takes values from the pool,
 * appends nodes and puts the result back. A rule that does not fit the value it drew does nothing.
 * Elementwise rules are drawn from the op table itself, so that a new op is tested at once. */
#include "tests/ir/random_graph.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ELEMENTS = 4096 };

typedef struct {
    Graph *g;
    const RandomGraph *how;
    uint64_t drawn;
    VEC(Value) pool;
    int leaves;
    Op ew[OP_COUNT]; /* elementwise ops of one or two operands that may be drawn */
    int new;
} Gen;

/* ---- drawing ---- */

static int64_t draw(Gen *r, int64_t n) { /* 0 … n - 1 */
    uint32_t hi, lo = philox(random_key(r->how->seed, 0x6772, 0), r->drawn++, &hi);
    return (int64_t)(((uint64_t)hi << 31 | lo >> 1) % (uint64_t)n);
}

static int64_t draw_size(Gen *r) {
    int64_t most = r->how->max_size ? r->how->max_size : 9;
    return draw(r, 4) == 0 ? 1 : 1 + draw(r, most);
}

static Value draw_value(Gen *r) { return r->pool.p[draw(r, r->pool.n)]; }

/* One of the last twelve: graphs become deep, not only wide. */
static Value draw_recent(Gen *r) {
    int64_t back = draw(r, MIN(r->pool.n, 12u));
    return r->pool.p[r->pool.n - 1 - back];
}

static void keep(Gen *r, Value v) {
    if (type_elements(type_of(r->g, v)) <= MOST_ELEMENTS) vec_push(&r->pool, v);
}

static const Type *draw_type(Gen *r) {
    int64_t dim[MAX_RANK];
    int rank = (int)draw(r, 5);
    for (int i = 0; i < rank; i++) dim[i] = draw_size(r);
    while (rank > 0) {
        int64_t n = 1;
        for (int i = 0; i < rank; i++) n *= dim[i];
        if (n <= MOST_ELEMENTS) break;
        rank--;
    }
    return type_tensor(r->g->session, r->how->dtype, rank, dim);
}

/* A new leaf of this type. Names tell nothing but the order. */
static Value add_leaf(Gen *r, const Type *t) {
    Graph *g = r->g;
    Session *s = g->session;
    bool param = r->how->params && draw(r, 2);
    char name[32];
    snprintf(name, sizeof name, "x%d", r->leaves++);
    AttrValue p[] = {{.s = intern(s, name)}, {.s = intern(s, "normal")}, {.f = 0}, {.f = 0.5}};
    AttrValue in[] = {{.s = intern(s, name)}, {.i = 0}};
    Op op = param ? OP_param : OP_input;
    Value v = graph_leaf(g, op, attr_intern(s, op, param ? p : in), type_with_dtype(s, t, DT_F32));
    return b_cast(g, v, t->dtype);
}

/* Another value of type t: from the pool, or a constant, or a new leaf. */
static Value draw_like(Gen *r, const Type *t) {
    for (int tries = 0; tries < 8; tries++) {
        Value v = draw_value(r);
        if (type_of(r->g, v) == t) return v;
    }
    if (draw(r, 3) == 0) return b_const(r->g, (double)draw(r, 9) * 0.25 - 1, t);
    return add_leaf(r, t);
}

/* ---- rules ---- */

static void rule_ew(Gen *r, Value a) {
    Op op = r->ew[draw(r, r->new)];
    if (op_info(op)->arity == 1) {
        keep(r, b_ew1(r->g, op, a));
        return;
    }
    Value b = draw_like(r, type_of(r->g, a));
    if (r->how->bounded && op == OP_mul) b = b_ew1(r->g, OP_tanh, b);
    keep(r, b_ew2(r->g, op, a, b));
}

static void rule_select(Gen *r, Value a) {
    static const Op compare[] = {OP_lt, OP_le, OP_gt, OP_ge, OP_eq, OP_ne};
    const Type *t = type_of(r->g, a);
    Value b = draw_like(r, t), c = draw_like(r, t);
    Value test = b_ew2(r->g, compare[draw(r, COUNT(compare))], a, b);
    if (draw(r, 2)) test = b_ew1(r->g, OP_not, test);
    keep(r, b_ew3(r->g, OP_select, test, b, c));
}

static void rule_cast(Gen *r, Value a) {
    static const Dtype to[] = {DT_F32, DT_BF16, DT_F16, DT_I32};
    if (r->how->train) return; /* steps have no gradient that differences would find */
    keep(r, b_cast(r->g, b_cast(r->g, a, to[draw(r, COUNT(to))]), r->how->dtype));
}

/* Merges two neighbouring dims, or splits off a factor. */
static void rule_reshape(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    int64_t dim[MAX_RANK + 1];
    if (t->rank == 0) return;
    int at = (int)draw(r, t->rank), n = 0;
    bool merge = t->rank > 1 && draw(r, 2) && at + 1 < t->rank;
    int64_t factor = t->dim[at] % 2 == 0 ? 2 : t->dim[at] % 3 == 0 ? 3 : 1;
    if (!merge && t->rank == 4) return;
    for (int i = 0; i < t->rank; i++) {
        if (i == at && merge)
            dim[n++] = t->dim[i] * t->dim[i + 1], i++;
        else if (i == at)
            dim[n++] = factor, dim[n++] = t->dim[i] / factor;
        else
            dim[n++] = t->dim[i];
    }
    keep(r, b_reshape(r->g, a, n, dim));
}

static void rule_transpose(Gen *r, Value a) {
    int64_t perm[MAX_RANK];
    int rank = type_of(r->g, a)->rank;
    for (int i = 0; i < rank; i++) perm[i] = i;
    for (int i = rank; i > 1; i--) {
        int64_t k = draw(r, i), t = perm[k];
        perm[k] = perm[i - 1], perm[i - 1] = t;
    }
    keep(r, b_transpose(r->g, a, perm));
}

/* A new dimension somewhere, and ones repeated. */
static void rule_broadcast(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    int64_t dim[MAX_RANK], dims[MAX_RANK];
    if (t->rank >= 4) return;
    int at = (int)draw(r, t->rank + 1);
    dim[at] = draw_size(r);
    for (int i = 0; i < t->rank; i++) {
        dims[i] = i + (i >= at);
        dim[dims[i]] = t->dim[i] == 1 && draw(r, 2) ? draw_size(r) : t->dim[i];
    }
    const Type *to = type_tensor(r->g->session, t->dtype, t->rank + 1, dim);
    if (type_elements(to) <= MOST_ELEMENTS) keep(r, b_broadcast(r->g, a, to->rank, dim, dims));
}

static void rule_slice(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    int64_t start[MAX_RANK], limit[MAX_RANK];
    for (int i = 0; i < t->rank; i++) {
        start[i] = draw(r, t->dim[i]);
        limit[i] = start[i] + 1 + draw(r, t->dim[i] - start[i]);
    }
    keep(r, b_slice(r->g, a, start, limit));
}

static void rule_pad(Gen *r, Value a) {
    Session *s = r->g->session;
    const Type *t = type_of(r->g, a);
    int64_t lo[MAX_RANK], hi[MAX_RANK];
    for (int i = 0; i < t->rank; i++) lo[i] = draw(r, 3), hi[i] = draw(r, 2);
    uint32_t rank = (uint32_t)t->rank;
    AttrValue v[] = {{.v = ints_intern(s, rank, lo)}, {.v = ints_intern(s, rank, hi)}};
    keep(r, graph_add(r->g, OP_pad, attr_intern(s, OP_pad, v), 1, &a));
}

static void rule_concat(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    if (t->rank == 0) return;
    Value in[] = {a, draw_like(r, t), a};
    AttrValue axis = {.i = draw(r, t->rank)};
    keep(r, graph_add(r->g, OP_concat, attr_intern(r->g->session, OP_concat, &axis),
                      1 + (uint32_t)draw(r, 3), in));
}

static void rule_reduce(Gen *r, Value a) {
    static const Op ops[] = {OP_sum, OP_sum, OP_max, OP_min};
    int64_t axes[MAX_RANK];
    uint32_t n = 0;
    for (int i = 0; i < type_of(r->g, a)->rank; i++)
        if (draw(r, 2)) axes[n++] = i;
    keep(r, b_reduce(r->g, ops[draw(r, COUNT(ops))], a, n, axes));
}

/* Labels of a at random into batch, m and k; b is a new leaf with batch, k and perhaps one n. */
static void rule_einsum(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    char la[MAX_RANK + 1] = "", lb[MAX_RANK + 1] = "", lc[MAX_RANK + 1] = "", spec[40];
    int64_t dim[MAX_RANK];
    int nb = 0, nc = 0;
    for (int i = 0; i < t->rank; i++) {
        int64_t role = draw(r, 3);
        la[i] = (char)('a' + i);
        if (role != 1) lb[nb] = la[i], dim[nb++] = t->dim[i];
        if (role != 2) lc[nc++] = la[i];
    }
    if (t->rank < 4) lb[nb] = 'n', dim[nb++] = draw_size(r), lc[nc++] = 'n';
    snprintf(spec, sizeof spec, "%s,%s->%s", la, lb, lc);
    const Type *tb = type_tensor(r->g->session, t->dtype, nb, dim);
    Value b = draw_like(r, tb);
    keep(r, b_einsum(r->g, spec, a, b));
}

static Value add_iota(Gen *r, int rank, const int64_t *dim) {
    Session *s = r->g->session;
    AttrValue axis = {.i = rank - 1};
    return graph_leaf(r->g, OP_iota, attr_intern(s, OP_iota, &axis),
                      type_tensor(s, DT_I32, rank, dim));
}

/* Ids 0, 1, …, some of them outside the table. */
static void rule_gather(Gen *r, Value a) {
    int64_t dim[2] = {draw_size(r), draw_size(r)};
    if (type_of(r->g, a)->rank == 0) return;
    keep(r, graph_add(r->g, OP_gather, NULL, 2, (Value[]){a, add_iota(r, 2, dim)}));
}

static void rule_pick(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    int64_t dim[MAX_RANK];
    if (t->rank == 0) return;
    memcpy(dim, t->dim, sizeof dim);
    dim[t->rank - 1] = draw_size(r);
    keep(r, graph_add(r->g, OP_pick, NULL, 2, (Value[]){a, add_iota(r, t->rank, dim)}));
}

static void rule_rows(Gen *r, Value a) {
    static const Op ops[] = {OP_softmax, OP_norm, OP_rmsnorm};
    Op op = ops[draw(r, COUNT(ops))];
    AttrValue eps = {.f = 1e-2};
    if (type_of(r->g, a)->rank == 0) return;
    Value v = graph_add(r->g, op, attr_intern(r->g->session, op, &eps), 1, &a);
    keep(r, op == OP_softmax ? v : b_proj(r->g, v, 0));
}

static void rule_cross_entropy(Gen *r, Value a) {
    const Type *t = type_of(r->g, a);
    if (t->rank < 2) return;
    Value target = add_iota(r, t->rank - 1, t->dim);
    Value v = graph_add(r->g, OP_cross_entropy, NULL, 2, (Value[]){a, target});
    keep(r, b_cast(r->g, b_proj(r->g, v, 0), r->how->dtype));
}

static void rule_leaf(Gen *r, Value a) {
    (void)a;
    keep(r, add_leaf(r, draw_type(r)));
}

static void (*const rules[])(Gen *r, Value a) = {
    rule_ew,
    rule_ew,
    rule_ew,
    rule_ew,
    rule_ew,
    rule_ew,
    rule_select,
    rule_cast,
    rule_reshape,
    rule_reduce,
    rule_einsum,
    rule_transpose,
    rule_slice,
    rule_pad,
    rule_broadcast,
    rule_concat,
    rule_gather,
    rule_pick,
    rule_rows,
    rule_reduce,
    rule_einsum,
    rule_leaf,
    rule_cross_entropy,
};

/* ---- the whole ---- */

static bool may_draw(const RandomGraph *how, Op op) {
    static const Op wild[] = {OP_exp, OP_log, OP_div, OP_pow, OP_sqrt, OP_rsqrt, OP_abs, OP_floor};
    const OpInfo *info = op_info(op);
    if (!(info->flags & OPF_EW) || info->flags & OPF_BOOL || info->arity > 2 || op == OP_cast)
        return false;
    if (how->train && !info->vjp && !(info->flags & OPF_NOGRAD)) return false;
    for (size_t i = 0; how->bounded && i < COUNT(wild); i++)
        if (op == wild[i]) return false;
    return true;
}

static Value mean_of_all(Gen *r, Value v) {
    const Type *t = type_of(r->g, v);
    int64_t axes[MAX_RANK];
    for (int i = 0; i < t->rank; i++) axes[i] = i;
    Value sum = b_cast(r->g, b_reduce(r->g, OP_sum, v, (uint32_t)t->rank, axes), DT_F32);
    return b_ew2(r->g, OP_mul, sum, b_like(r->g, 1 / (double)type_elements(t), sum));
}

/* Every pool value that nothing uses becomes an output, or part of the loss. */
static void add_outputs(Gen *r) {
    Graph *g = r->g;
    Arena *a = arena_new();
    Uses u = graph_uses(g, a);
    Value loss = NO_VALUE;
    int n = 0;
    for (uint32_t i = 0; i < r->pool.n; i++) {
        Value v = r->pool.p[i];
        bool again = false;
        for (uint32_t k = 0; k < i; k++) again = again || r->pool.p[k] == v;
        if (again || u.start[v] != u.start[v + 1]) continue;
        if (r->how->train) {
            Value part = mean_of_all(r, v);
            loss = loss == NO_VALUE ? part : b_ew2(g, OP_add, loss, part);
        } else {
            b_output(g, v, arena_printf(a, "y%d", n++));
        }
    }
    if (r->how->train) b_output(g, loss, "loss");
    arena_free(a);
}

Graph *random_graph(Session *s, const RandomGraph *how) {
    Gen r = {.g = graph_new(s, "random"), .how = how};
    for (unsigned op = 0; op < OP_COUNT; op++)
        if (may_draw(how, (Op)op)) r.ew[r.new ++] = (Op)op;
    r.g->set.train = how->train;
    for (int i = 0; i < 3; i++) rule_leaf(&r, NO_VALUE);
    while (r.g->node.n < (uint32_t)how->nodes) rules[draw(&r, COUNT(rules))](&r, draw_recent(&r));
    add_outputs(&r);
    graph_compact(r.g, NULL);
    vec_free(&r.pool);
    return r.g;
}
