/* graph.c: the node array and what passes do with it as a whole.
 *
 * Nodes are in topological order: an operand has a smaller index than its user. Removing and
 * reordering rebuild the two arrays with a map of indices, in linear time. */
#include "ir/storage.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

Graph *graph_new(Session *s, const char *name) {
    Arena *a = arena_new();
    Graph *g = arena_new_of(a, Graph);
    g->session = s;
    g->arena = a;
    g->name = intern(s, name);
    settings_default(&g->set);
    g->at.scope = intern(s, "");
    g->at.micro = -1;
    return g;
}

void graph_free(Graph *g) {
    if (!g) return;
    vec_free(&g->node);
    vec_free(&g->operand);
    vec_free(&g->note);
    arena_free(g->arena);
}

Graph *graph_like(const Graph *g) {
    Graph *h = graph_new(g->session, g->name);
    h->set = g->set;
    h->optimizer = g->optimizer;
    h->optimizer_ctx = g->optimizer_ctx;
    for (uint32_t i = 0; i < g->note.n; i++) vec_push(&h->note, g->note.p[i]);
    return h;
}

/* ---- adding nodes ---- */

static Value add_node(Graph *g, const Node *n, const Value *in) {
    uint32_t first = g->operand.n;
    /* `in` may point into g->operand itself, which growing moves. */
    Value copy[MAX_OPERANDS];
    ASSERT(n->nin <= MAX_OPERANDS && g->node.n < NO_VALUE);
    for (uint32_t i = 0; i < n->nin; i++) copy[i] = in[i];
    for (uint32_t i = 0; i < n->nin; i++) vec_push(&g->operand, copy[i]);
    vec_push(&g->node, *n);
    g->node.p[g->node.n - 1].in = first;
    return g->node.n - 1;
}

static Value add_here(Graph *g, Op op, const Attr *attr, const Type *type, uint32_t nin,
                      const Value *in) {
    Node n = {.op = (uint16_t)op,
              .nin = (uint16_t)nin,
              .type = type,
              .attr = attr,
              .scope = g->at.scope,
              .loc = g->at.loc,
              .phase = (uint8_t)g->at.phase,
              .micro = g->at.micro,
              .offset = -1};
    return add_node(g, &n, in);
}

static const Type *infer(Graph *g, Op op, const Attr *attr, const Type *given, uint32_t nin,
                         const Value *in, Buf *err) {
    const Type *t[MAX_OPERANDS + 1] = {NULL};
    ASSERT(nin <= MAX_OPERANDS);
    for (uint32_t i = 0; i < nin; i++) {
        ASSERT(in[i] < g->node.n);
        t[i] = type_of(g, in[i]);
    }
    return op_infer(g->session, op, nin, t, attr, given, err);
}

const Type *graph_infer(Graph *g, Op op, const Attr *attr, uint32_t nin, const Value *in,
                        Buf *err) {
    return infer(g, op, attr, NULL, nin, in, err);
}

static noreturn void bug_illegal(Graph *g, Op op, Buf *err) {
    BUG("illegal %s node at '%s' %s: %s", op_info(op)->name, g->at.scope,
        loc_text(g->session, g->at.loc), err->p ? err->p : "");
}

Value graph_add(Graph *g, Op op, const Attr *attr, uint32_t nin, const Value *in) {
    Buf err = {0};
    const Type *t = infer(g, op, attr, NULL, nin, in, &err);
    if (!t) bug_illegal(g, op, &err);
    return add_here(g, op, attr, t, nin, in);
}

Value graph_leaf(Graph *g, Op op, const Attr *attr, const Type *type) {
    Buf err = {0};
    ASSERT(op_info(op)->flags & OPF_LEAF);
    const Type *t = infer(g, op, attr, type, 0, NULL, &err);
    if (!t) bug_illegal(g, op, &err);
    return add_here(g, op, attr, t, 0, NULL);
}

Value graph_copy_node(Graph *g, const Graph *from, Value v, const Value *map) {
    Node n = from->node.p[v];
    Value in[MAX_OPERANDS];
    bool same = true;
    for (uint32_t i = 0; i < n.nin; i++) {
        Value old = operand(from, v, i);
        in[i] = map[old];
        ASSERT(in[i] < g->node.n);
        same = same && type_of(g, in[i]) == type_of(from, old);
    }
    if (!same) { /* a pass changed an operand's type */
        Buf err = {0};
        n.type = infer(g, n.op, n.attr, NULL, n.nin, in, &err);
        if (!n.type) bug_illegal(g, n.op, &err);
    }
    return add_node(g, &n, in);
}

bool scope_covers(const char *outer, size_t n, const char *scope) {
    return strncmp(scope, outer, n) == 0 && (scope[n] == 0 || scope[n] == '.' || scope[n] == '[');
}

bool graph_annotated(const Graph *g, const char *kind, const char *scope) {
    for (uint32_t i = 0; i < g->note.n; i++) {
        const Annotation *a = &g->note.p[i];
        if (strcmp(a->kind, kind) == 0 && scope_covers(a->scope, strlen(a->scope), scope))
            return true;
    }
    return false;
}

void graph_at(Graph *g, const Node *n) {
    g->at.scope = n->scope;
    g->at.loc = n->loc;
    g->at.phase = (Phase)n->phase;
    g->at.micro = n->micro;
}

void graph_at_node(Graph *g, Value v) { graph_at(g, node_of(g, v)); }

/* ---- the graph as a whole ---- */

/* Rebuilds g from the old nodes order[0..n); map gets old -> new, NO_VALUE where dropped. */
static void rebuild(Graph *g, const Value *order, uint32_t n, Value *map) {
    Graph old = *g;
    for (uint32_t i = 0; i < old.node.n; i++) map[i] = NO_VALUE;
    memset(&g->node, 0, sizeof g->node);
    memset(&g->operand, 0, sizeof g->operand);
    vec_reserve(&g->node, n + 1);
    vec_reserve(&g->operand, old.operand.n + 1);
    for (uint32_t i = 0; i < n; i++) {
        const Node *from = &old.node.p[order[i]];
        Value in[MAX_OPERANDS];
        for (uint32_t k = 0; k < from->nin; k++) {
            in[k] = map[old.operand.p[from->in + k]];
            ASSERT(in[k] < i);
        }
        map[order[i]] = add_node(g, from, in);
    }
    vec_free(&old.node);
    vec_free(&old.operand);
}

void graph_compact(Graph *g, Value *map) {
    uint32_t n = g->node.n, kept = 0;
    bool *live = xcalloc(n, sizeof *live);
    Value *order = xcalloc(n, sizeof *order), *own = map ? map : xcalloc(n, sizeof *own);
    for (Value v = n; v-- > 0;) {
        uint32_t flags = op_info(node_of(g, v)->op)->flags;
        bool acts = flags & (OPF_EFFECT | OPF_ACT) || joins_stages(g, v);
        if (acts || node_of(g, v)->store) live[v] = true;
        for (uint32_t i = 0; live[v] && i < node_of(g, v)->nin; i++) live[operand(g, v, i)] = true;
    }
    for (Value v = 0; v < n; v++)
        if (live[v]) order[kept++] = v;
    rebuild(g, order, kept, own);
    free(live);
    free(order);
    if (!map) free(own);
}

void graph_reorder(Graph *g, const Value *order) {
    Value *map = xcalloc(g->node.n, sizeof *map);
    rebuild(g, order, g->node.n, map);
    free(map);
}

Uses graph_uses(const Graph *g, Arena *a) {
    uint32_t n = g->node.n;
    Uses u = {arena_array(a, uint32_t, n + 2), arena_array(a, Value, g->operand.n)};
    /* Counts are kept one place ahead, so that filling leaves start[v] where it belongs. */
    for (Value v = 0; v < n; v++)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) u.start[operand(g, v, i) + 2]++;
    for (uint32_t i = 2; i <= n; i++) u.start[i] += u.start[i - 1];
    for (Value v = 0; v < n; v++)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            u.use[u.start[operand(g, v, i) + 1]++] = v;
    return u;
}

/* ---- hash of the content: the same in every process ---- */

static uint64_t hash_text(const char *s, uint64_t h) {
    return s ? hash_bytes(s, strlen(s), h) : hash_mix(h, 0);
}

static uint64_t hash_type(const Type *t, uint64_t h) {
    h = hash_mix(h, (uint64_t)t->dtype << 8 | (uint64_t)t->rank);
    h = hash_bytes(t->dim, (size_t)t->rank * sizeof *t->dim, h);
    for (uint32_t i = 0; i < t->nelem; i++) h = hash_type(t->elem[i], h);
    return h;
}

static uint64_t hash_spec(const Spec *spec, uint64_t h) {
    if (!spec) return h;
    h = hash_mix(h, (uint64_t)spec->rank << 8 | (uint64_t)spec->npartial);
    for (int i = 0; i < spec->rank; i++) h = hash_text(spec->axis[i], h);
    for (int i = 0; i < spec->npartial; i++) h = hash_text(spec->partial[i], h);
    return h;
}

static uint64_t hash_attr(const Node *n, uint64_t h) {
    const AttrField *field;
    uint32_t count = op_fields(n->op, &field);
    for (uint32_t i = 0; i < count; i++) {
        AttrValue v = n->attr->v[i];
        if (field[i].kind == ATTR_STR)
            h = hash_text(v.s, h);
        else if (field[i].kind == ATTR_INTS)
            h = hash_bytes(v.v->v, v.v->n * sizeof *v.v->v, hash_mix(h, v.v->n));
        else
            h = hash_mix(h, (uint64_t)v.i);
    }
    return h;
}

static uint64_t hash_node(const Graph *g, const Node *n, uint64_t h) {
    h = hash_mix(h, (uint64_t)n->op << 32 | n->nin);
    h = hash_bytes(&g->operand.p[n->in], n->nin * sizeof(Value), h);
    h = hash_attr(n, hash_spec(n->spec, hash_type(n->type, h)));
    h = hash_mix(h, (uint64_t)n->phase << 48 | (uint64_t)n->stream << 40 | (uint16_t)n->micro);
    h = hash_mix(hash_mix(h, n->group), (uint64_t)n->offset);
    h = hash_mix(h, (uint64_t)n->mem << 1 | n->store);
    h = hash_text(n->scope, h);
    h = hash_text(session_file_name(g->session, n->loc.file), h);
    return hash_mix(h, (uint64_t)n->loc.line << 16 | n->loc.col);
}

uint64_t graph_hash(const Graph *g) {
    Buf header = {0};
    graph_print_header(g, &header);
    uint64_t h = hash_bytes(header.p, header.n, 0);
    buf_free(&header);
    for (uint32_t i = 0; i < g->node.n; i++) h = hash_node(g, &g->node.p[i], h);
    return h;
}
