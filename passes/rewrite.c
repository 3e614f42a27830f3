/* rewrite.c: what the passes share. A rewrite is one sweep over the old graph that builds a new
 * one: copies are cheap, and patterns look at operands that are already rewritten. */
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

Rewrite rewrite_begin(Graph *g, Arena *scratch) {
    Rewrite r = {g, graph_like(g), arena_array(scratch, Value, g->node.n + 1)};
    for (uint32_t v = 0; v < g->node.n; v++) r.map[v] = NO_VALUE;
    vec_reserve(&r.to->node, g->node.n + 1);
    vec_reserve(&r.to->operand, g->operand.n + 1);
    return r;
}

Value rewrite_copy(Rewrite *r, Value v) {
    return r->map[v] = graph_copy_node(r->to, r->from, v, r->map);
}

static bool same_nodes(const Graph *a, const Graph *b) {
    return a->node.n == b->node.n && graph_hash(a) == graph_hash(b);
}

bool rewrite_end(Rewrite *r) {
    bool changed = !same_nodes(r->from, r->to);
    rewrite_take(r);
    return changed;
}

void rewrite_take(Rewrite *r) {
    Graph old = *r->from;
    r->from->node.p = r->to->node.p, r->from->node.n = r->to->node.n;
    r->from->node.cap = r->to->node.cap;
    r->from->operand.p = r->to->operand.p, r->from->operand.n = r->to->operand.n;
    r->from->operand.cap = r->to->operand.cap;
    memset(&r->to->node, 0, sizeof r->to->node);
    memset(&r->to->operand, 0, sizeof r->to->operand);
    free(old.node.p);
    free(old.operand.p);
    graph_free(r->to);
    r->to = NULL;
}

/* Outputs of the parameters hold them during the sweep; they are the last nodes, and go again. */
void compact(Graph *g) {
    uint32_t n = g->node.n, held = 0;
    for (Value v = 0; g->set.train && v < n; v++) {
        if (!is_op(g, v, OP_param)) continue;
        b_output(g, v, "param");
        held++;
    }
    graph_compact(g, NULL);
    g->node.n -= held;
    g->operand.n -= held;
}

const Attr *attr_of1(Graph *g, Op op, AttrValue a) { return attr_intern(g->session, op, &a); }

const Attr *attr_of2(Graph *g, Op op, AttrValue a, AttrValue b) {
    return attr_intern(g->session, op, (AttrValue[]){a, b});
}

Value find_leaf(const Graph *g, Op op, const char *name) {
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == op && strcmp(attr_str(node_of(g, v), "name"), name) == 0) return v;
    return NO_VALUE;
}

double round_to(Dtype d, double x) {
    switch (d) {
    case DT_BF16: return bf16_to_f32(f32_to_bf16((float)x));
    case DT_F16: return f16_to_f32(f32_to_f16((float)x));
    case DT_I32:
    case DT_I64: return trunc(x);
    case DT_BOOL: return x != 0;
    default: return x;
    }
}

bool constant_value(const Graph *g, Value v, double *x) {
    if (!is_op(g, v, OP_constant)) return false;
    *x = attr_float(node_of(g, v), "value");
    return true;
}

bool is_constant(const Graph *g, Value v, double x) {
    double c;
    return constant_value(g, v, &c) && c == x;
}

Value *no_values(Arena *a, uint32_t n) {
    Value *v = arena_array(a, Value, n + 1);
    for (uint32_t i = 0; i < n; i++) v[i] = NO_VALUE;
    return v;
}

void split_groups(Graph *g) {
    uint32_t n = 0;
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->group) node_of(g, v)->group = ++n;
}
