/* shard_scope.c: `replicate` scopes on a mesh with a tensor axis, as Whale means them: replicas
 * that share the batch. In such a scope the ranks of a tensor axis are replicas too, each with its
 * part of the examples; elsewhere they all have the same examples and share the contractions. So
 * the towers of a model may be placed differently on the same ranks. Between the two lies Whale's
 * bridge, a gather along the batch or a sum that is scattered over it; it falls out of the moves
 * between parts, and vanishes where the next split is the one before.
 *
 * Which dimensions are the batch follows from the inputs' first dimensions, along the labels. */
#include <string.h>

#include "passes/shard.h"

/* The batch is the first dimension of the first input, and of every input of that size. */
static bool is_batch_input(const Graph *g, Value v) {
    for (Value w = 0; w < g->node.n; w++) {
        const Node *n = node_of(g, w);
        if (n->op != OP_input || n->type->rank == 0 || attr_str(n, "name")[0] == '@') continue;
        const Type *t = type_of(g, v);
        return t->rank > 0 && t->dim[0] == n->type->dim[0] &&
               attr_str(node_of(g, v), "name")[0] != '@';
    }
    return false;
}

/* replicate(n) of no more ranks than there are replicas anyway asks for nothing else. */
static bool all_share(const Settings *set, const Annotation *note) {
    return note->n == 0 || note->n == mesh_scope_ranks(set, true);
}

void scope_begin(Shard *s) {
    const Graph *g = s->from;
    for (uint32_t i = 0; i < g->note.n && s->tensor; i++)
        if (strcmp(g->note.p[i].kind, "replicate") == 0 && all_share(&g->set, &g->note.p[i]))
            s->scoped = true;
    if (s->scoped) s->batch_dims = arena_array(s->a, uint8_t, g->node.n + 1);
}

void scope_leaf(Shard *s, Value v) {
    if (s->scoped && node_of(s->from, v)->op == OP_input)
        s->batch_dims[v] = is_batch_input(s->from, v);
}

static bool label_is_batch(const Shard *s, Value v, const Dims *d, int label) {
    for (uint32_t i = 0; i < node_of(s->from, v)->nin; i++) {
        Value w = operand(s->from, v, i);
        for (int k = 0; k < type_of(s->from, w)->rank; k++)
            if (d->in[i][k] == label && s->batch_dims[w] >> k & 1) return true;
    }
    return false;
}

void scope_result(Shard *s, Value v, const Dims *d) {
    const Type *t = type_of(s->from, v);
    for (int k = 0; s->scoped && t->dtype != DT_TUPLE && k < t->rank; k++)
        if (d->out[0][k] >= 0 && label_is_batch(s, v, d, d->out[0][k]))
            s->batch_dims[v] |= (uint8_t)(1 << k);
}

void scope_proj(Shard *s, Value v, const Dims *d) {
    int i = (int)attr_int(node_of(s->from, v), "index");
    for (int k = 0; s->scoped && k < type_of(s->from, v)->rank; k++)
        if (d->out[i][k] >= 0 && label_is_batch(s, operand(s->from, v, 0), d, d->out[i][k]))
            s->batch_dims[v] |= (uint8_t)(1 << k);
}

static bool in_replicate(const Shard *s, const char *scope) {
    for (uint32_t i = 0; i < s->from->note.n; i++) {
        const Annotation *note = &s->from->note.p[i];
        if (strcmp(note->kind, "replicate") == 0 && all_share(&s->from->set, note) &&
            scope_covers(note->scope, strlen(note->scope), scope))
            return true;
    }
    return false;
}

ScopeRule scope_rule(const Shard *s, Value v, const Dims *d, int label, int a) {
    if (!s->scoped || !(s->tensor >> a & 1) || !label_is_batch(s, v, d, label)) return SCOPE_FREE;
    return in_replicate(s, node_of(s->from, v)->scope) ? SCOPE_WANTED : SCOPE_BANNED;
}
