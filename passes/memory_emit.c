/* memory_emit.c: a program becomes a graph. Units are copied as they are, so that a unit that runs
 * again is the same kernel and gives the same bits; views are made anew over the version read. */
#include "passes/memory_private.h"

#include <stdlib.h>

typedef struct {
    const Problem *p;
    const Program *g;
    Graph *to;
    Value *made;           /* by version: the new value */
    Value *now;            /* by old value that owns bytes: the new value that stands for it */
    Value *inside;         /* by old value: its copy in the unit being emitted */
    Value *view, *view_of; /* by old view: its last copy, and the new root it was made over */
    uint32_t groups;
} Emit;

static Value mapped(Emit *e, Value v) {
    const Graph *g = e->p->g;
    const Node *n = node_of(g, v);
    if (e->inside[v] != NO_VALUE) return e->inside[v];
    if (!is_view(n) || n->group != 0) {
        if (e->now[v] == NO_VALUE) e->now[v] = graph_copy_node(e->to, g, v, NULL);
        return e->now[v];
    }
    Value over = mapped(e, operand(g, v, 0));
    if (e->view_of[v] != over) {
        Value *map = &e->now[operand(g, v, 0)], saved = *map;
        *map = over;
        e->view[v] = graph_copy_node(e->to, g, v, e->now);
        *map = saved;
        e->view_of[v] = over;
    }
    return e->view[v];
}

/* A node of a unit: its operands may be views, values of the unit, or versions. */
static Value emit_node(Emit *e, Value v) {
    const Graph *g = e->p->g;
    Value in[MAX_OPERANDS], saved[MAX_OPERANDS];
    uint32_t n = node_of(g, v)->nin;
    for (uint32_t i = 0; i < n; i++) in[i] = mapped(e, operand(g, v, i));
    for (uint32_t i = 0; i < n; i++) {
        saved[i] = e->now[operand(g, v, i)];
        e->now[operand(g, v, i)] = in[i];
    }
    Value x = graph_copy_node(e->to, g, v, e->now);
    for (uint32_t i = n; i-- > 0;) e->now[operand(g, v, i)] = saved[i];
    return x;
}

static void emit_run(Emit *e, const Run *r) {
    const Problem *p = e->p;
    const Unit *unit = &p->us.unit[r->unit];
    const uint32_t *link = e->g->link.p;
    e->groups++;
    for (uint32_t i = 0; i < unit->nread; i++) e->now[unit->read[i]] = e->made[link[r->read + i]];
    for (uint32_t i = 0; i < unit->nnode; i++) {
        Value x = e->inside[unit->node[i]] = emit_node(e, unit->node[i]);
        Node *n = node_of(e->to, x);
        if (n->group) n->group = e->groups;
        if (r->kind == RUN_AGAIN) n->phase = PHASE_BACKWARD;
        if (r->kind == RUN_HOST) n->stream = STREAM_HOST, n->mem = MEM_HOST;
    }
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        uint32_t x = link[r->write + i];
        e->made[x] = e->inside[unit->write[i]];
        /* Written all the same when nobody reads it: the unit's kernel stays what it was. */
        node_of(e->to, e->made[x])->store = !e->g->read[x];
    }
    for (uint32_t i = 0; i < unit->nnode; i++) e->inside[unit->node[i]] = NO_VALUE;
}

/* ---- copies ---- */

static Value emit_copy_node(Emit *e, Op op, const Move *m, Value x) {
    const Version *to = &e->g->version.p[m->to];
    const Node *old = node_of(e->p->g, to->v);
    graph_at(e->to, old);
    Value v = graph_add(e->to, op, NULL, 1, &x);
    node_of(e->to, v)->mem = (uint8_t)to->mem;
    if (op == OP_copy_done) return v;
    node_of(e->to, v)->stream = (uint8_t)m->stream;
    node_of(e->to, v)->group = ++e->groups;
    return v;
}

static bool to_device(const Emit *e, const Move *m) {
    return e->g->version.p[m->to].mem == MEM_DEVICE;
}

/* Begins or ends the moves of one way; what leaves only after it has come waits for the next turn.
 */
static void emit_way(Emit *e, const Agenda *a, uint32_t run, bool fetch) {
    for (int done = 0; done < 2; done++)
        for (uint32_t i = a->first[done][run]; i; i = a->next[done][i - 1]) {
            const Move *m = &e->g->move.p[i - 1];
            Value from = e->made[m->from], to = e->made[m->to];
            if (to_device(e, m) != fetch) continue;
            if (!done && from != NO_VALUE && to == NO_VALUE)
                e->made[m->to] = emit_copy_node(e, OP_copy_start, m, from);
            if (done && to != NO_VALUE && is_op(e->to, to, OP_copy_start))
                e->made[m->to] = emit_copy_node(e, OP_copy_done, m, to);
        }
}

/* Before a run: what leaves begins, what has left is done, what is fetched begins, and is done. */
static void emit_moves(Emit *e, const Agenda *a, uint32_t run) {
    emit_way(e, a, run, false);
    emit_way(e, a, run, true);
    emit_way(e, a, run, false);
    for (uint32_t i = a->first[1][run]; i; i = a->next[1][i - 1])
        ASSERT(e->made[e->g->move.p[i - 1].to] != NO_VALUE);
}

/* ---- leaves and effects ---- */

static void emit_leaves(Emit *e) {
    for (uint32_t i = 0; i < e->g->version.n; i++) {
        const Version *x = &e->g->version.p[i];
        if (!x->fixed) continue;
        e->made[i] = e->now[x->v] = graph_copy_node(e->to, e->p->g, x->v, NULL);
        node_of(e->to, e->made[i])->mem = (uint8_t)x->mem;
    }
}

static Value last_version(const Emit *e, Value v, bool away) {
    uint32_t x = away ? e->g->away[v] : e->g->device[v];
    if (x == NONE) x = away ? e->g->device[v] : e->g->away[v];
    return x == NONE ? NO_VALUE : e->made[x];
}

static void emit_effects(Emit *e) {
    const Graph *g = e->p->g;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (!is_effect(n)) continue;
        Value base = view_base(g, operand(g, v, n->op == OP_assign));
        bool away = false;
        if (n->op == OP_assign) {
            Value leaf = operand(g, v, 0);
            e->now[leaf] = e->made[e->g->home[leaf]];
            away = !e->g->at_home[leaf];
        }
        Value x = last_version(e, base, away);
        if (x != NO_VALUE && !is_store(node_of(g, base))) e->now[base] = x;
        emit_node(e, v);
    }
}

Graph *program_emit(const Problem *p, const Program *g) {
    Arena *a = arena_new();
    uint32_t n = p->g->node.n;
    Emit e = {.p = p,
              .g = g,
              .to = graph_like(p->g),
              .made = no_values(a, g->version.n),
              .now = no_values(a, n),
              .inside = no_values(a, n),
              .view = no_values(a, n),
              .view_of = no_values(a, n)};
    Agenda agenda;
    program_agenda(g, &agenda, a);
    vec_reserve(&e.to->node, n + 4 * g->move.n);
    vec_reserve(&e.to->operand, p->g->operand.n + 4 * g->move.n);
    emit_leaves(&e);
    for (uint32_t i = 0; i < g->run.n; i++) {
        emit_moves(&e, &agenda, i);
        emit_run(&e, &g->run.p[i]);
    }
    emit_moves(&e, &agenda, g->run.n);
    emit_effects(&e);
    arena_free(a);
    return e.to;
}
