/* simplify.c: constant folding, identities, equal nodes, dead nodes, to a fixed point.
 *
 * One sweep rebuilds the graph in order. A node is copied, the rules of its op are tried on the
 * copy until none fits, and the result is looked up among the nodes built so far (value numbering).
 * Dead nodes go with graph_compact. Sweeps repeat while something changes; two or three are usual.
 *
 * Equal nodes of different phases stay apart when they are cheap (elementwise or views): the
 * backward phase computes such values again rather than keep them alive. Nodes at random sites and
 * nodes with effects are never merged. */
#include "ir/storage.h"
#include "passes/simplify.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SWEEPS = 6, MAX_STEPS = 16 };

/* ---- value numbering ---- */

typedef struct {
    Value *slot;
    uint32_t mask;
} Table;

static Table table_new(Arena *a, uint32_t nodes) {
    uint32_t size = 64;
    while (size < nodes * 2) size *= 2;
    Table t = {arena_array(a, Value, size), size - 1};
    memset(t.slot, 0xff, size * sizeof *t.slot);
    return t;
}

static bool is_cheap(Op op) { return op_info(op)->flags & (OPF_EW | OPF_VIEW); }

/* Operand i as compared: those that commute in ascending order. */
static Value key_operand(const Graph *g, Value v, uint32_t i) {
    if (i > 1 || !(op_info((Op)node_of(g, v)->op)->flags & OPF_COMMUTES)) return operand(g, v, i);
    Value a = operand(g, v, 0), b = operand(g, v, 1);
    return i == 0 ? MIN(a, b) : MAX(a, b);
}

static uint64_t key_hash(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    uint64_t h = hash_mix(n->op, (uint64_t)(uintptr_t)n->attr);
    h = hash_mix(h, (uint64_t)(uintptr_t)n->type);
    for (uint32_t i = 0; i < n->nin; i++) h = hash_mix(h, key_operand(g, v, i));
    return is_cheap((Op)n->op) ? hash_mix(h, n->phase) : h;
}

static bool same_key(const Graph *g, Value v, Value w) {
    const Node *a = node_of(g, v), *b = node_of(g, w);
    if (a->op != b->op || a->attr != b->attr || a->type != b->type || a->spec != b->spec ||
        a->nin != b->nin || (is_cheap((Op)a->op) && a->phase != b->phase))
        return false;
    for (uint32_t i = 0; i < a->nin; i++)
        if (key_operand(g, v, i) != key_operand(g, w, i)) return false;
    return true;
}

/* The first node equal to v: v itself when there is none. A node that several micro-batches turn
 * out to share belongs to none of them. */
static Value number_value(Table *t, const Graph *g, Value v) {
    if (op_info((Op)node_of(g, v)->op)->flags & (OPF_UNIQUE | OPF_EFFECT)) return v;
    if (joins_stages(g, v)) return v;
    uint32_t i = (uint32_t)key_hash(g, v) & t->mask;
    for (; t->slot[i] != NO_VALUE; i = (i + 1) & t->mask)
        if (same_key(g, v, t->slot[i])) {
            Node *first = node_of(g, t->slot[i]);
            if (first->micro != node_of(g, v)->micro) first->micro = -1;
            return t->slot[i];
        }
    return t->slot[i] = v;
}

/* ---- rules ---- */

/* Rules by op: rule[start[op]] … rule[start[op + 1] - 1]. */
typedef struct {
    uint16_t start[OP_COUNT + 1];
    Rule **rule;
} RuleIndex;

static const RuleRow *const rule_tables[] = {rules_algebra, rules_shape, rules_einsum};

static RuleIndex index_rules(Arena *a) {
    RuleIndex x = {{0}, NULL};
    for (size_t t = 0; t < COUNT(rule_tables); t++)
        for (const RuleRow *r = rule_tables[t]; r->rule; r++) x.start[r->op + 1]++;
    for (int op = 0; op < OP_COUNT; op++) x.start[op + 1] += x.start[op];
    x.rule = arena_array(a, Rule *, x.start[OP_COUNT] + 1);
    uint16_t *at = arena_array(a, uint16_t, OP_COUNT);
    for (size_t t = 0; t < COUNT(rule_tables); t++)
        for (const RuleRow *r = rule_tables[t]; r->rule; r++)
            x.rule[x.start[r->op] + at[r->op]++] = r->rule;
    return x;
}

static Value try_rules(const RuleIndex *x, Graph *g, Value v) {
    Op op = (Op)node_of(g, v)->op;
    Value w = fold_constants(g, v);
    if (w == NO_VALUE && op_info(op)->flags & OPF_EW) w = hoist_broadcast(g, v);
    for (uint32_t i = x->start[op]; w == NO_VALUE && i < x->start[op + 1]; i++)
        w = x->rule[i](g, v);
    return w;
}

static Value simplify_node(const RuleIndex *x, Graph *g, Value v) {
    if (op_info((Op)node_of(g, v)->op)->flags & (OPF_LEAF | OPF_EFFECT)) return v;
    graph_at_node(g, v);
    for (int step = 0; step < MAX_STEPS; step++) {
        Value w = try_rules(x, g, v);
        if (w == NO_VALUE) break;
        if (type_of(g, w) != type_of(g, v))
            BUG("a rule for %s gave another type", op_info((Op)node_of(g, v)->op)->name);
        v = w;
    }
    return v;
}

/* ---- transposes of a contraction's result ---- */

/* When every user of einsum v transposes it alike, the einsum gives that layout itself. Returns the
 * permutation, or NULL. */
static const Ints *common_transpose(const Graph *g, const Uses *uses, Value v) {
    const Ints *perm = NULL;
    if (!is_op(g, v, OP_einsum)) return NULL;
    for (uint32_t i = uses->start[v]; i < uses->start[v + 1]; i++) {
        const Node *user = node_of(g, uses->use[i]);
        if (user->op != OP_transpose) return NULL;
        const Ints *p = attr_ints(user, "perm");
        if (perm && p != perm) return NULL;
        perm = p;
    }
    return perm;
}

/* transpose(einsum, perm) = einsum with permuted output labels; users' transposes then cancel
 * against the inverse that is put in front of them here. */
static Value permute_einsum(Graph *g, Value v, const Ints *perm) {
    int64_t inverse[MAX_RANK];
    for (uint32_t i = 0; i < perm->n; i++) inverse[perm->v[i]] = i;
    graph_at_node(g, v);
    return b_transpose(g, einsum_with_output(g, v, perm->v), inverse);
}

/* ---- sweeps ---- */

/* Nothing changed when no node was replaced and none went. */
static bool sweep(Graph *g, Arena *a) {
    uint32_t before = g->node.n, replaced = 0;
    Rewrite r = rewrite_begin(g, a);
    RuleIndex index = index_rules(a);
    Table table = table_new(a, g->node.n * 2);
    Uses uses = graph_uses(g, a);
    for (Value v = 0; v < g->node.n; v++) {
        Value w = rewrite_copy(&r, v);
        const Ints *perm = common_transpose(g, &uses, v);
        Value s = perm ? permute_einsum(r.to, w, perm) : simplify_node(&index, r.to, w);
        replaced += s != w;
        r.map[v] = number_value(&table, r.to, s);
    }
    compact(r.to);
    rewrite_take(&r);
    return replaced > 0 || g->node.n != before;
}

bool pass_simplify(Graph *g, PassContext *cx) {
    bool changed = false;
    for (int i = 0; i < MAX_SWEEPS && sweep(g, cx->scratch); i++) changed = true;
    return changed;
}
