/* raise_attention.c: einsum(softmax(scale * einsum(q, k) + mask), v), for any labels and layouts of
 * q, k, v and of the result, becomes one attention node; the transposes put around it are folded
 * into the contractions there by simplify. The scale may be on the scores, on q or on k. Up to two
 * labels are in all operands (batch and heads); with fewer, dimensions of 1 take their place.
 *
 * Attention never holds the probabilities, so that they must have no other use. */
#include "passes/raise.h"

#include <string.h>

/* What was found. Scores have positions: batch[0..nb), t, and s, which is the last. Labels of q, k
 * are those of the first einsum, labels of v and the result those of the second. */
typedef struct {
    Value q, k, v;
    char lq[MAX_RANK + 1], lk[MAX_RANK + 1], lv[MAX_RANK + 1], lo[MAX_RANK + 1];
    int nb, batch[2], t, s; /* positions in the scores */
    char scores[MAX_RANK + 1], probs[MAX_RANK + 1];
    char inner, outer; /* label contracted by q k'; last label of v */
    const char *mask;
    int64_t prefix;
    double scale;
    Value mask_leaf;
    int mask_t; /* position in the scores of the mask's first dimension, -1: no mask */
} Found;

static bool has(const char *labels, char c) { return c && strchr(labels, c); }

/* ---- scale and mask ---- */

/* x is a mask[t, s] broadcast to the scores' shape. */
static bool match_mask(const Graph *g, Value x, Found *f) {
    int rank = type_of(g, x)->rank;
    f->mask_t = rank - 2;
    if (is_op(g, x, OP_broadcast)) {
        const Ints *dims = attr_ints(node_of(g, x), "dims");
        x = operand(g, x, 0);
        if (dims->n != 2 || dims->v[1] != rank - 1) return false;
        f->mask_t = (int)dims->v[0];
    }
    if (!is_op(g, x, OP_mask) || f->mask_leaf != NO_VALUE) return false;
    f->mask_leaf = x;
    f->mask = attr_str(node_of(g, x), "kind");
    f->prefix = attr_int(node_of(g, x), "prefix");
    return true;
}

/* One layer of the scores: a constant factor or the mask. */
static bool peel_scores(const Graph *g, Value *v, Found *f) {
    double c;
    Value x = strip_cast(g, *v), a;
    if (match_scaled(g, x, &a, &c)) {
        f->scale *= c;
        return *v = a, true;
    }
    if (is_op(g, x, OP_add)) {
        a = operand(g, x, 0);
        Value b = operand(g, x, 1);
        if (match_mask(g, b, f)) return *v = a, true;
        if (match_mask(g, a, f)) return *v = b, true;
    }
    bool moved = x != *v;
    return *v = x, moved;
}

static Value peel_factor(const Graph *g, Value v, Found *f) {
    double c;
    Value a;
    while (match_scaled(g, v, &a, &c)) f->scale *= c, v = a;
    return v;
}

/* ---- the two contractions ---- */

/* scores = einsum(q, k): which operand is k (it has the last label), and what each position is. */
static bool match_first(const Graph *g, Value v, Found *f) {
    if (!is_op(g, v, OP_einsum)) return false;
    Einsum e = einsum_read(g, node_of(g, v));
    int rank = type_of(g, v)->rank;
    if (rank < 2 || rank > 4) return false;
    f->s = rank - 1;
    bool swap = has(e.a, e.c[f->s]);
    memcpy(f->lq, swap ? e.b : e.a, sizeof f->lq);
    memcpy(f->lk, swap ? e.a : e.b, sizeof f->lk);
    memcpy(f->scores, e.c, sizeof f->scores);
    f->q = operand(g, v, swap);
    f->k = operand(g, v, !swap);
    if (has(f->lq, e.c[f->s]) || strlen(e.k) != 1) return false;
    f->inner = e.k[0];
    f->t = -1;
    for (int i = 0; i < f->s; i++) {
        if (!has(f->lq, e.c[i])) return false;
        if (has(f->lk, e.c[i]) && f->nb < 2)
            f->batch[f->nb++] = i;
        else if (f->t < 0 && !has(f->lk, e.c[i]))
            f->t = i;
        else
            return false;
    }
    return f->t >= 0 && (f->mask_leaf == NO_VALUE || f->mask_t == f->t);
}

/* result = einsum(probabilities, v): the same positions play the same roles. */
static bool match_second(const Graph *g, Value v, int p, Found *f) {
    Einsum e = einsum_read(g, node_of(g, v));
    memcpy(f->probs, p ? e.b : e.a, sizeof f->probs);
    memcpy(f->lv, p ? e.a : e.b, sizeof f->lv);
    memcpy(f->lo, e.c, sizeof f->lo);
    f->v = operand(g, v, !p);
    char s = f->probs[f->s], t = f->probs[f->t];
    if (!has(f->lv, s) || has(f->lo, s) || has(f->lv, t) || !has(f->lo, t)) return false;
    for (int i = 0; i < f->nb; i++) {
        char c = f->probs[f->batch[i]];
        if (!has(f->lv, c) || !has(f->lo, c)) return false;
    }
    for (const char *c = f->lv; *c; c++) {
        if (has(f->probs, *c)) continue;
        if (f->outer || !has(f->lo, *c)) return false;
        f->outer = *c;
    }
    return f->outer && strlen(f->lo) == (size_t)f->nb + 2;
}

static int64_t size_of(const Graph *g, Value v, const char *labels, char c) {
    return type_of(g, v)->dim[strchr(labels, c) - labels];
}

/* The batch label that comes first in q is the batch, the other the heads. */
static void order_batch(Found *f) {
    if (f->nb < 2) return;
    char a = f->scores[f->batch[0]], b = f->scores[f->batch[1]];
    if (strchr(f->lq, a) < strchr(f->lq, b)) return;
    int first = f->batch[0];
    f->batch[0] = f->batch[1];
    f->batch[1] = first;
}

static uint32_t use_count(const Uses *uses, Value v) { return uses->start[v + 1] - uses->start[v]; }

static bool match_attention(const Graph *g, const Uses *uses, Value v, int side, Found *f) {
    Value last = operand(g, v, (uint32_t)side), p = strip_cast(g, last);
    bool alone = use_count(uses, p) == 1 && use_count(uses, last) == 1;
    if (!is_op(g, p, OP_softmax) || !alone) return false;
    if (operand(g, v, 0) == operand(g, v, 1)) return false;
    Value scores = operand(g, p, 0);
    while (peel_scores(g, &scores, f)) continue;
    if (!match_first(g, scores, f) || !match_second(g, v, side, f)) return false;
    if (size_of(g, f->q, f->lq, f->inner) != size_of(g, f->v, f->lv, f->outer)) return false;
    if (size_of(g, f->q, f->lq, f->inner) > ATTENTION_MAX_HEAD) return false;
    order_batch(f);
    f->q = peel_factor(g, f->q, f);
    f->k = peel_factor(g, f->k, f);
    return type_of(g, f->q)->dtype == type_of(g, f->v)->dtype;
}

/* ---- building ---- */

/* x with labels lx as [b, row, h, k]: `names` are its labels in that order, 0 where there is none.
 */
static Value to_bthk(Graph *g, Value x, const char *lx, const char names[4]) {
    int64_t perm[MAX_RANK], dim[4];
    int n = 0;
    for (int i = 0; i < 4; i++) {
        dim[i] = names[i] ? size_of(g, x, lx, names[i]) : 1;
        if (names[i]) perm[n++] = strchr(lx, names[i]) - lx;
    }
    return b_reshape(g, b_transpose(g, x, perm), 4, dim);
}

/* o[b, t, h, k] in the order of the result's labels. */
static Value from_bthk(Graph *g, Value o, const char *lo, const char names[4]) {
    int64_t perm[MAX_RANK], dim[4];
    char left[5] = {0};
    int n = 0;
    for (int i = 0; i < 4; i++) {
        if (!names[i]) continue;
        dim[n] = type_of(g, o)->dim[i];
        left[n++] = names[i];
    }
    for (int i = 0; i < n; i++) perm[i] = strchr(left, lo[i]) - left;
    return b_transpose(g, b_reshape(g, o, n, dim), perm);
}

static Value build(Rewrite *r, Value v, const Found *f) {
    Graph *g = r->to;
    const Node *n = node_of(r->from, v);
    graph_at(g, n);
    const char *l1 = f->scores, *l2 = f->probs;
    char b1 = f->nb > 0 ? l1[f->batch[0]] : 0, h1 = f->nb > 1 ? l1[f->batch[1]] : 0;
    char b2 = f->nb > 0 ? l2[f->batch[0]] : 0, h2 = f->nb > 1 ? l2[f->batch[1]] : 0;
    Value in[] = {
        to_bthk(g, r->map[f->q], f->lq, (char[]){b1, l1[f->t], h1, f->inner}),
        to_bthk(g, r->map[f->k], f->lk, (char[]){b1, l1[f->s], h1, f->inner}),
        to_bthk(g, r->map[f->v], f->lv, (char[]){b2, l2[f->s], h2, f->outer}),
    };
    AttrValue attr[] = {{.s = f->mask}, {.i = f->prefix}, {.f = f->scale}};
    Value a = graph_add(g, OP_attention, attr_intern(g->session, OP_attention, attr), 3, in);
    return from_bthk(g, b_proj(g, a, 0), f->lo, (char[]){b2, l2[f->t], h2, f->outer});
}

Value raise_attention(Rewrite *r, const Uses *uses, Value v) {
    for (int side = 0; side < 2; side++) {
        Found f = {.scale = 1,
                   .mask_t = -1,
                   .mask_leaf = NO_VALUE,
                   .mask = intern(r->from->session, "none")};
        if (match_attention(r->from, uses, v, side, &f)) return build(r, v, &f);
    }
    return NO_VALUE;
}
