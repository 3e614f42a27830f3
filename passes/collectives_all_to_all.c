/* collectives_all_to_all.c: all_to_alls in phases.
 *
 * The n blocks of a rank are numbered by digits, one a phase: the place among neighbours is the
 * fastest. A phase exchanges the blocks of one digit, which must lie in front: what was the
 * destination's digit becomes the source's. From the inside out
 *     [d1, d0, x] -> transpose [d0, d1, x] -> exchange -> transpose [d1, s0, x] -> exchange
 * gives [s1, s0, x], the order of the result; from the outside in the result is [s0, s1, x], and
 * the transpose comes last. So one transpose lies between two phases; the other one is put where
 * it costs nothing: into the rows that a dispatch writes, or into a transpose that stands before,
 * or behind. What travels in another dtype is cast once before and once after all phases. */
#include "passes/collectives.h"

#include <string.h>

typedef struct {
    Rewrite *r;
    Uses uses;
    ExchangePlan plan;
    Value v, x;                   /* the old all_to_all; the blocks so far */
    int digit[ALL_TO_ALL_PHASES]; /* of the leading dims of x */
} Blocks;

/* ---- dims ---- */

/* size[digits], slowest first. */
static int put_digits(const ExchangePlan *p, int64_t *dim) {
    for (int d = p->n; d-- > 0;) *dim++ = p->size[d];
    return p->n;
}

/* Have x's n blocks k more dims where its first one is split? */
static bool has_room(const Blocks *b, const Type *t) { return t->rank + b->plan.n - 1 <= MAX_RANK; }

/* x with dim `at` split into digits, which stand in the order of numbers. */
static Value split_digits(Blocks *b, Value x, int at) {
    const Type *t = type_of(b->r->to, x);
    int64_t dim[MAX_RANK];
    int rank = 0;
    for (int k = 0; k < t->rank; k++)
        if (k == at)
            rank += put_digits(&b->plan, dim + rank);
        else
            dim[rank++] = t->dim[k];
    return b_reshape(b->r->to, x, rank, dim);
}

static void set_digits(Blocks *b) {
    for (int i = 0; i < b->plan.n; i++) b->digit[i] = b->plan.n - 1 - i;
}

/* Digit d becomes the first dim of x. */
static void bring_front(Blocks *b, int d) {
    int64_t perm[MAX_RANK];
    int rank = type_of(b->r->to, b->x)->rank, at = 0;
    while (b->digit[at] != d) at++;
    for (int k = 0; k < rank; k++) perm[k] = k > at ? k : k - 1;
    perm[0] = at;
    b->x = b_transpose(b->r->to, b->x, perm);
    memmove(b->digit + 1, b->digit, sizeof *b->digit * (size_t)at);
    b->digit[0] = d;
}

/* ---- the blocks, with the digit of the neighbours in front ---- */

static bool used_once(const Blocks *b, Value v) {
    return b->uses.start[v + 1] - b->uses.start[v] == 1;
}

/* A transpose that brings the blocks to the front anyway brings them there in another order. */
static bool open_transpose(Blocks *b, Value from) {
    const Node *n = node_of(b->r->from, from);
    if (n->op != OP_transpose || !used_once(b, from) || !has_room(b, n->type)) return false;
    const Ints *perm = attr_ints(n, "perm");
    int64_t to[MAX_RANK], more = b->plan.n - 1, at = perm->v[0], rank = 0;
    to[rank++] = at + more;
    for (int64_t d = 0; d < more; d++) to[rank++] = at + d;
    for (uint32_t k = 1; k < perm->n; k++) to[rank++] = perm->v[k] + (perm->v[k] > at ? more : 0);
    Value x = split_digits(b, b->r->map[operand(b->r->from, from, 0)], (int)at);
    b->x = b_transpose(b->r->to, x, to);
    memmove(b->digit + 1, b->digit, sizeof *b->digit * (size_t)more);
    b->digit[0] = 0;
    return true;
}

/* source[E, r] with the digits of E in another order, for a dispatch that writes its rows so. */
static Value turn_source(Blocks *b, Value source) {
    Graph *g = b->r->to;
    const Type *t = type_of(g, source);
    Blocks rows = *b;
    int64_t n = type_of(b->r->from, b->v)->dim[0], dim[] = {n, type_elements(t) / n};
    rows.x = split_digits(&rows, b_reshape(g, source, 2, dim), 0);
    bring_front(&rows, 0);
    return b_reshape(g, rows.x, t->rank, t->dim);
}

/* A dispatch of which nobody else reads anything, perhaps behind a reshape. */
static bool open_dispatch(Blocks *b, Value from) {
    const Graph *f = b->r->from;
    Graph *g = b->r->to;
    while (is_op(f, from, OP_reshape) && used_once(b, from)) from = operand(f, from, 0);
    const Node *n = node_of(f, from);
    bool rows = n->op == OP_dispatch || n->op == OP_dispatch_scaled;
    if (!rows || !used_once(b, from) || n->type->dim[0] % type_of(f, b->v)->dim[0] != 0)
        return false;
    Value in[MAX_OPERANDS];
    for (uint32_t i = 0; i < n->nin; i++) in[i] = b->r->map[operand(f, from, i)];
    in[n->nin - 1] = turn_source(b, in[n->nin - 1]);
    graph_at(g, n);
    Value x = graph_add(g, (Op)n->op, n->attr, n->nin, in);
    graph_at(g, node_of(f, b->v));
    const Type *t = type_of(f, b->v);
    int64_t dim[MAX_RANK] = {b->plan.size[0]};
    int rank = 1;
    for (int d = b->plan.n; d-- > 1;) dim[rank++] = b->plan.size[d];
    dim[rank++] = type_elements(t) / t->dim[0];
    b->x = b_reshape(g, x, rank, dim);
    memmove(b->digit + 1, b->digit, sizeof *b->digit * (size_t)(b->plan.n - 1));
    b->digit[0] = 0;
    return true;
}

/* As they are. */
static void open_plain(Blocks *b) {
    Value x = b->r->map[operand(b->r->from, b->v, 0)];
    const Type *t = type_of(b->r->to, x);
    int64_t dim[] = {t->dim[0], type_elements(t) / t->dim[0]};
    b->x = split_digits(b, has_room(b, t) ? x : b_reshape(b->r->to, x, 2, dim), 0);
}

/* ---- phases ---- */

static void send_phase(Blocks *b, int d) {
    Graph *g = b->r->to;
    bring_front(b, d);
    AttrValue attr[] = {
        {.s = b->plan.over[d]}, {.i = b->plan.size[d]}, {.i = type_of(g, b->x)->dtype}};
    b->x = graph_add(g, OP_all_to_all, attr_intern(g->session, OP_all_to_all, attr), 1, &b->x);
}

static void cast_to(Blocks *b, const char *which) {
    const Node *n = node_of(b->r->from, b->v);
    b->x = b_cast(b->r->to, b->x, which ? (Dtype)attr_int(n, which) : n->type->dtype);
}

static void send_outward(Blocks *b) {
    bring_front(b, 0);
    cast_to(b, "wire");
    for (int d = 0; d < b->plan.n; d++) send_phase(b, d);
    cast_to(b, NULL);
    const Type *t = type_of(b->r->from, b->v);
    b->r->map[b->v] = b_reshape(b->r->to, b->x, t->rank, t->dim);
}

/* The only reader w is a transpose: it takes the digits as they come. */
static void send_inward(Blocks *b, Value w) {
    Graph *g = b->r->to;
    const Node *n = node_of(b->r->from, w);
    const Ints *perm = attr_ints(n, "perm");
    int64_t to[MAX_RANK], rank = 0, more = b->plan.n - 1;
    cast_to(b, "wire");
    for (int d = b->plan.n; d-- > 0;) send_phase(b, d);
    for (uint32_t k = 0; k < perm->n; k++) {
        if (perm->v[k] > 0) to[rank++] = perm->v[k] + more;
        for (int64_t d = more; perm->v[k] == 0 && d >= 0; d--) to[rank++] = d;
    }
    graph_at(g, n);
    b->x = b_transpose(g, b->x, to);
    cast_to(b, NULL);
    b->r->map[w] = b_reshape(g, b->x, n->type->rank, n->type->dim);
}

static Value only_transpose(const Blocks *b) {
    Value w = used_once(b, b->v) ? b->uses.use[b->uses.start[b->v]] : NO_VALUE;
    bool fits = w != NO_VALUE && is_op(b->r->from, w, OP_transpose) &&
                has_room(b, type_of(b->r->from, b->v));
    return fits ? w : NO_VALUE;
}

static void send_grouped(Blocks *b) {
    Value from = operand(b->r->from, b->v, 0), w = only_transpose(b);
    set_digits(b);
    graph_at(b->r->to, node_of(b->r->from, b->v));
    if (open_dispatch(b, from) || open_transpose(b, from)) {
        send_outward(b);
        return;
    }
    open_plain(b);
    if (w == NO_VALUE)
        send_outward(b);
    else
        send_inward(b, w);
}

void group_all_to_alls(Graph *g, Exchanges *e, Arena *a) {
    Rewrite r = rewrite_begin(g, a);
    Blocks b = {.r = &r, .uses = graph_uses(g, a)};
    for (Value v = 0; v < g->node.n; v++) {
        if (r.map[v] != NO_VALUE) continue;
        b.plan.n = 1, b.v = v;
        if (is_op(g, v, OP_all_to_all)) exchange_plan(e, v, 1, &b.plan);
        if (b.plan.n > 1)
            send_grouped(&b);
        else
            rewrite_copy(&r, v);
    }
    if (rewrite_end(&r)) compact(g);
}
