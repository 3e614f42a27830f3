/* fuse_recompute.c: which forward values the backward phase keeps, and which it computes again.
 *
 * A forward elementwise value that the backward phase reads is computed there again, from values
 * that are kept anyway (leaves, products, reductions, other kept values), when what must be kept
 * for that has no more bytes than the value itself and few large tensors are read for it: a
 * residual stream is kept, not summed up again from all layers below. Decided in topological order,
 * so that kept values are known when those made from them are decided. Trees of more than MAX_TREE
 * nodes are not copied. */
#include "ir/storage.h"
#include "passes/fuse.h"

enum { MAX_TREE = 16, MAX_LARGE = 3 };

typedef struct {
    const Graph *g;
    bool *needed; /* by value: the backward phase reads it */
    bool *kept;   /* by value: it stays alive until then; cheap values that do not are copied */
} Keep;

/* Walking one tree of cheap values. */
typedef struct {
    int nodes, large; /* large: values of the frontier with more than a quarter of the bytes */
    int64_t bytes;
    int nfrontier;
    Value frontier[4 * MAX_TREE];
} Tree;

static bool cheap(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    return n->phase == PHASE_FORWARD &&
           ((op_info(n->op)->flags & OPF_EW) || n->op == OP_random || n->op == OP_unpick);
}

static bool is_free(const Node *n) { return (op_info(n->op)->flags & OPF_LEAF) != 0; }

static void add_frontier(const Keep *k, Tree *t, Value v, int64_t size) {
    for (int i = 0; i < t->nfrontier; i++)
        if (t->frontier[i] == v) return;
    if (t->nfrontier == (int)COUNT(t->frontier)) return;
    t->frontier[t->nfrontier++] = v;
    if (!k->kept[v]) t->bytes += type_bytes(type_of(k->g, v));
    if (type_bytes(type_of(k->g, v)) * 4 > size) t->large++;
}

static void walk_tree(const Keep *k, Tree *t, Value v, int64_t size) {
    if (++t->nodes > MAX_TREE) return;
    for (uint32_t i = 0; i < node_of(k->g, v)->nin; i++) {
        Value b = view_base(k->g, operand(k->g, v, i));
        if (is_free(node_of(k->g, b))) continue;
        if (cheap(k->g, b) && !k->kept[b]) {
            walk_tree(k, t, b, size);
            continue;
        }
        add_frontier(k, t, b, size);
    }
}

/* Equal bytes are worth it when only one large value is read: then the forward kernel need not
 * write this one at all. */
static void decide(Keep *k, Value v) {
    Tree t = {0};
    int64_t size = type_bytes(type_of(k->g, v));
    walk_tree(k, &t, v, size);
    bool less = (t.bytes < size && t.large <= MAX_LARGE) || (t.bytes == size && t.large <= 1);
    if (t.nodes > MAX_TREE || !less) {
        k->kept[v] = true;
        return;
    }
    for (int i = 0; i < t.nfrontier; i++) k->kept[t.frontier[i]] = true;
}

static void mark_needed(Keep *k) {
    const Graph *g = k->g;
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->phase != PHASE_BACKWARD || is_view(node_of(g, v))) continue;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value b = view_base(g, operand(g, v, i));
            if (node_of(g, b)->phase != PHASE_FORWARD || is_free(node_of(g, b))) continue;
            k->needed[b] = true;
            if (!cheap(g, b)) k->kept[b] = true;
        }
    }
}

/* ---- copying ---- */

typedef struct {
    Rewrite r;
    const Keep *k;
    Value *copy; /* by old value: what the backward phase reads for it */
} Copies;

static Value copy_value(Copies *c, Value v) {
    const Graph *g = c->r.from;
    const Node *n = node_of(g, v);
    bool again = cheap(g, v) && !c->k->kept[v];
    if (c->copy[v] != NO_VALUE) return c->copy[v];
    if (n->phase != PHASE_FORWARD || (!again && !(is_view(n) && n->group == 0)))
        return c->copy[v] = c->r.map[v];
    bool same = !again;
    for (uint32_t i = 0; i < n->nin; i++) {
        Value o = operand(g, v, i);
        same &= copy_value(c, o) == c->r.map[o];
    }
    if (same) return c->copy[v] = c->r.map[v];
    c->copy[v] = graph_copy_node(c->r.to, g, v, c->copy);
    node_of(c->r.to, c->copy[v])->phase = PHASE_BACKWARD;
    return c->copy[v];
}

static void copy_backward_node(Copies *c, Value v) {
    const Graph *g = c->r.from;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
        Value o = operand(g, v, i);
        if (node_of(g, o)->phase == PHASE_FORWARD)
            copy_value(c, o);
        else
            c->copy[o] = c->r.map[o];
    }
    c->r.map[v] = graph_copy_node(c->r.to, g, v, c->copy);
}

void fuse_recompute(Graph *g, PassContext *cx) {
    uint32_t n = g->node.n + 1;
    Keep k = {g, arena_array(cx->scratch, bool, n), arena_array(cx->scratch, bool, n)};
    mark_needed(&k);
    for (Value v = 0; v < g->node.n; v++)
        if (k.needed[v] && cheap(g, v)) decide(&k, v);
    Copies c = {rewrite_begin(g, cx->scratch), &k, arena_array(cx->scratch, Value, n)};
    for (Value v = 0; v < g->node.n; v++) c.copy[v] = NO_VALUE;
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->phase == PHASE_BACKWARD)
            copy_backward_node(&c, v);
        else
            rewrite_copy(&c.r, v);
    }
    graph_compact(c.r.to, NULL);
    rewrite_end(&c.r);
}
