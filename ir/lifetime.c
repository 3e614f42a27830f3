/* lifetime.c: from when to when each value's bytes are needed, for a given order of the units, and
 * which values may share bytes because one is computed in place over the other.
 *
 * Leaves live always; outputs and what is assigned live to the end of the step. An assigned value
 * goes straight into its leaf when nothing reads the old value afterwards. */
#include "ir/storage.h"

#include <string.h>

typedef struct {
    const Graph *g;
    const Units *us;
    const uint32_t *when;
    uint32_t *last;   /* by value: time of the last unit that reads it; end: an effect does */
    uint32_t *others; /* by value: 1 when an output or gradient reads it */
    Value *target;    /* by value: the leaf it is assigned to, or NO_VALUE */
    Slots s;
} Life;

int64_t storage_size(const Type *t) {
    return (type_bytes(t) + STORAGE_ALIGN - 1) & ~(int64_t)(STORAGE_ALIGN - 1);
}

bool units_complete(const Graph *g, const Units *us) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        bool computes = !is_view(n) && n->nin && !is_effect(n);
        if (computes && us->of[v] == NO_UNIT) return false;
    }
    return true;
}

uint32_t *units_when(const Graph *g, const Units *us, Arena *a) {
    uint32_t *when = arena_array(a, uint32_t, us->n + 1), next = 1;
    for (Value v = 0; v < g->node.n; v++)
        if (us->of[v] != NO_UNIT && !when[us->of[v]]) when[us->of[v]] = next++;
    return when;
}

/* What `assign` nodes and other effects read lives to the end. */
static void read_by_effects(Life *l) {
    const Graph *g = l->g;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (!is_effect(n)) continue;
        Layout layout;
        bool assign = n->op == OP_assign;
        Value x = view_root(g, operand(g, v, assign), &layout);
        l->last[x] = l->s.end;
        if (!assign || l->target[x] != NO_VALUE || is_store(node_of(g, x)))
            l->others[x] = 1;
        else if (layout_is_identity(&layout, type_elements(type_of(g, x))))
            l->target[x] = operand(g, v, 0);
    }
}

static void read_by_units(Life *l) {
    for (uint32_t u = 0; u < l->us->n; u++)
        for (uint32_t i = 0; i < l->us->unit[u].nread; i++) {
            Value v = l->us->unit[u].read[i];
            l->last[v] = MAX(l->last[v], l->when[u]);
        }
}

/* What a copy is made from is needed until the copy is complete: through the unit before
 * `copy_done`. */
static void read_by_copies(Life *l) {
    uint32_t now = 0;
    for (Value v = 0; v < l->g->node.n; v++) {
        if (l->us->of[v] != NO_UNIT) now = MAX(now, l->when[l->us->of[v]]);
        if (node_of(l->g, v)->op != OP_copy_done) continue;
        Value from = view_base(l->g, operand(l->g, operand(l->g, v, 0), 0));
        l->last[from] = MAX(l->last[from], now);
    }
}

/* By value: time of the first unit that reads it, else the end. */
static uint32_t *first_reads(const Life *l, Arena *a) {
    uint32_t *first = arena_array(a, uint32_t, l->g->node.n + 1);
    for (Value v = 0; v < l->g->node.n; v++) first[v] = l->s.end;
    for (uint32_t u = 0; u < l->us->n; u++)
        for (uint32_t i = 0; i < l->us->unit[u].nread; i++) {
            Value v = l->us->unit[u].read[i];
            first[v] = MIN(first[v], l->when[u]);
        }
    return first;
}

/* Until when a collective's message is left alone, so that nothing has to wait for it only to write
 * there: an all_to_all's to the first reader of what came; others' to the next one of the stream,
 * which begins only then, if that is sooner. */
static uint32_t message_end(const Life *l, uint32_t u, const uint32_t *first, uint32_t next) {
    const Unit *unit = &l->us->unit[u];
    uint32_t end = l->s.end;
    for (uint32_t i = 0; i < unit->nwrite; i++) end = MIN(end, first[unit->write[i]]);
    if (node_of(l->g, unit->node[0])->op != OP_all_to_all) end = MIN(end, next);
    return end == l->s.end ? l->when[u] : end - 1;
}

/* Collectives run beside what comes after them in the order. What they read stays, unless they
 * leave their results there, and the room for their message. */
static void read_by_collectives(Life *l, const uint32_t *unit_at, Arena *a) {
    uint32_t next[STREAM_COUNT], *first = NULL;
    for (int s = 0; s < STREAM_COUNT; s++) next[s] = l->s.end;
    for (uint32_t t = l->us->n; t >= 1; t--) {
        uint32_t u = unit_at[t];
        const Unit *unit = &l->us->unit[u];
        const Node *n = node_of(l->g, unit->node[0]);
        if (!is_collective(n)) continue;
        if (!first) first = first_reads(l, a);
        uint32_t end = message_end(l, u, first, next[n->stream]);
        next[n->stream] = t;
        for (uint32_t i = 0; n->op != OP_all_reduce && i < unit->nread; i++)
            l->last[unit->read[i]] = MAX(l->last[unit->read[i]], end);
        for (uint32_t i = 0; i < unit->nwrite; i++)
            if (node_of(l->g, unit->write[i])->op == OP_room)
                l->last[unit->write[i]] = MAX(l->last[unit->write[i]], end);
    }
}

static bool unit_reads(const Unit *u, Value v) {
    for (uint32_t i = 0; i < u->nread; i++)
        if (u->read[i] == v) return true;
    return false;
}

static uint32_t add_slot(Slots *s, uint32_t first, uint32_t last, const Node *n) {
    s->slot[s->n] = (Slot){first, last, storage_size(n->type), (Mem)n->mem};
    return s->n++;
}

/* May w, computed by unit u, go straight into the leaf it is assigned to? */
static bool into_leaf(const Life *l, uint32_t u, Value w) {
    Value leaf = l->target[w];
    if (leaf == NO_VALUE || l->others[leaf] || l->last[leaf] > l->when[u]) return false;
    const Node *from = node_of(l->g, w), *to = node_of(l->g, leaf);
    if (to->type->dtype != from->type->dtype || to->mem != from->mem) return false;
    return !unit_reads(&l->us->unit[u], leaf) || unit_may_overwrite(l->g, l->us, u, w, leaf);
}

/* A value that dies in unit u and whose bytes w may take, or NO_VALUE. */
static Value takes_over(const Life *l, uint32_t u, Value w, const bool *taken) {
    const Unit *unit = &l->us->unit[u];
    for (uint32_t i = 0; i < unit->nread; i++) {
        Value in = unit->read[i];
        bool dies = !is_store(node_of(l->g, in)) && l->last[in] == l->when[u] && !taken[in];
        dies &= node_of(l->g, in)->mem == node_of(l->g, w)->mem;
        if (dies && unit_may_overwrite(l->g, l->us, u, w, in)) return in;
    }
    return NO_VALUE;
}

static void place_unit(Life *l, uint32_t u, bool *taken) {
    const Unit *unit = &l->us->unit[u];
    Slots *s = &l->s;
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        Value w = unit->write[i], in;
        if (into_leaf(l, u, w)) {
            s->of[w] = s->of[l->target[w]];
        } else if ((in = takes_over(l, u, w, taken)) != NO_VALUE) {
            taken[in] = true;
            s->of[w] = s->of[in];
            s->slot[s->of[w]].last = MAX(l->last[w], l->when[u]);
        } else {
            s->of[w] = add_slot(s, l->when[u], MAX(l->last[w], l->when[u]), node_of(l->g, w));
        }
    }
}

static void sum_live(Slots *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        int64_t *live = s->live[s->slot[i].mem];
        live[s->slot[i].first] += s->slot[i].bytes;
        live[s->slot[i].last + 1] -= s->slot[i].bytes;
    }
    for (int m = 0; m < MEM_COUNT; m++)
        for (uint32_t t = 0; t <= s->end; t++) {
            if (t) s->live[m][t] += s->live[m][t - 1];
            s->bound[m] = MAX(s->bound[m], s->live[m][t]);
        }
}

Slots slots_build(const Graph *g, const Units *us, const uint32_t *when, Arena *a) {
    uint32_t n = g->node.n, end = us->n + 1;
    Life l = {
        .g = g,
        .us = us,
        .when = when,
        .last = arena_array(a, uint32_t, n),
        .others = arena_array(a, uint32_t, n),
        .target = arena_array(a, Value, n),
        .s = {.end = end, .slot = arena_array(a, Slot, n), .of = arena_array(a, uint32_t, n)}};
    for (int m = 0; m < MEM_COUNT; m++) l.s.live[m] = arena_array(a, int64_t, end + 2);
    uint32_t *unit_at = arena_array(a, uint32_t, end + 1);
    bool *taken = arena_array(a, bool, n);
    memset(l.s.of, 0xff, n * sizeof *l.s.of);
    memset(l.target, 0xff, n * sizeof *l.target);
    for (Value v = 0; v < n; v++)
        if (is_store(node_of(g, v))) l.s.of[v] = add_slot(&l.s, 0, end, node_of(g, v));
    l.s.nfixed = l.s.n;
    read_by_effects(&l);
    read_by_units(&l);
    read_by_copies(&l);
    for (uint32_t u = 0; u < us->n; u++) unit_at[when[u]] = u;
    read_by_collectives(&l, unit_at, a);
    for (uint32_t t = 1; t < end; t++) place_unit(&l, unit_at[t], taken);
    sum_live(&l.s);
    return l.s;
}

int64_t storage_bytes(const Graph *g, Mem mem) {
    int64_t bytes = 0;
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->offset >= 0 && node_of(g, v)->mem == mem)
            bytes = MAX(bytes, node_of(g, v)->offset + storage_size(type_of(g, v)));
    return bytes;
}

int64_t storage_bound(const Graph *g, Mem mem) {
    Arena *a = arena_new();
    Units us = units_build(g, a);
    int64_t bound = slots_build(g, &us, units_when(g, &us, a), a).bound[mem];
    arena_free(a);
    return bound;
}
