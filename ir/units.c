/* units.c: groups as lists: what each reads and writes, and which values own bytes. */
#include "ir/storage.h"

/* The node that decides where v is computed: a result stands for the node it is taken of. */
static Value computing(const Graph *g, Value v) {
    return is_result(node_of(g, v)) ? operand(g, v, 0) : v;
}

/* Marks what is read from outside the unit that computes it. */
static void mark_owned(const Graph *g, Units *us) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (is_store(n) || n->store) us->owns[v] = true;
        if ((is_view(n) && n->group == 0) || is_result(n)) continue;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value b = view_base(g, operand(g, v, i));
            if (us->of[b] != NO_UNIT && (us->of[b] != us->of[v] || is_effect(n)))
                us->owns[b] = true;
        }
    }
}

static void count_nodes(const Graph *g, Units *us) {
    for (Value v = 0; v < g->node.n; v++) {
        uint32_t group = node_of(g, computing(g, v))->group;
        us->of[v] = group ? group - 1 : NO_UNIT;
        us->n = MAX(us->n, group);
    }
}

static void add_read(const Units *us, Unit *u, uint32_t self, Value b, uint32_t *seen) {
    if (!us->owns[b] || us->of[b] == self || seen[b] == self + 1) return;
    seen[b] = self + 1;
    u->read[u->nread++] = b;
}

static void fill_unit(const Graph *g, Units *us, uint32_t i, uint32_t *seen) {
    Unit *u = &us->unit[i];
    for (uint32_t k = 0; k < u->nnode; k++) {
        const Node *n = node_of(g, u->node[k]);
        if (us->owns[u->node[k]]) u->write[u->nwrite++] = u->node[k];
        for (uint32_t j = 0; j < n->nin && !is_result(n); j++)
            add_read(us, u, i, view_base(g, operand(g, u->node[k], j)), seen);
        if (!is_result(n) && space_takes(g, u->node[k]) &&
            !space_add(&us->space[i], g, i + 1, u->node[k]))
            BUG("%%%u does not fit into group %u", u->node[k], i + 1);
    }
}

Units units_build(const Graph *g, Arena *a) {
    Units us = {.of = arena_array(a, uint32_t, g->node.n + 1),
                .owns = arena_array(a, bool, g->node.n + 1)};
    uint32_t *seen = arena_array(a, uint32_t, g->node.n + 1), operands = 0;
    count_nodes(g, &us);
    mark_owned(g, &us);
    us.unit = arena_array(a, Unit, us.n + 1);
    us.space = arena_array(a, Space, us.n + 1);
    for (Value v = 0; v < g->node.n; v++)
        if (us.of[v] != NO_UNIT) us.unit[us.of[v]].nnode++;
    for (uint32_t i = 0; i < us.n; i++) {
        us.unit[i].node = arena_array(a, Value, us.unit[i].nnode);
        us.unit[i].write = arena_array(a, Value, us.unit[i].nnode);
        us.unit[i].nnode = 0;
    }
    for (Value v = 0; v < g->node.n; v++) {
        if (us.of[v] == NO_UNIT) continue;
        Unit *u = &us.unit[us.of[v]];
        u->node[u->nnode++] = v;
        u->nread += node_of(g, v)->nin;
    }
    for (uint32_t i = 0; i < us.n; i++) {
        operands = us.unit[i].nread;
        us.unit[i].read = arena_array(a, Value, operands + 1);
        us.unit[i].nread = 0;
        fill_unit(g, &us, i, seen);
    }
    return us;
}

static bool reads_in_place(const Graph *g, Value v, Value in) {
    const Node *n = node_of(g, v);
    for (uint32_t i = 0; i < n->nin; i++) {
        Layout l;
        if (view_base(g, operand(g, v, i)) != in) continue;
        view_root(g, operand(g, v, i), &l);
        if (n->op == OP_pad || n->op == OP_pick || n->op == OP_unpick || is_view(n)) return false;
        if (!layout_is_identity(&l, type_elements(type_of(g, in)))) return false;
    }
    return true;
}

/* Row reductions cut the work on a row into loops over its columns, and a loop may load again what
 * an earlier one loaded. The loop that first can compute unit->node[i] goes to loop[i]; the result
 * is the last of them. */
static int unit_loops(const Graph *g, const Units *us, uint32_t u, int *loop) {
    const Unit *unit = &us->unit[u];
    int last = 0;
    for (uint32_t i = 0; i < unit->nnode; i++) {
        const Node *n = node_of(g, unit->node[i]);
        loop[i] = 0;
        for (uint32_t k = 0; k < n->nin; k++) {
            Value b = view_base(g, operand(g, unit->node[i], k));
            for (uint32_t j = 0; j < i; j++) {
                if (unit->node[j] != b) continue;
                bool reduced = (op_info(node_of(g, b)->op)->flags & OPF_REDUCE) != 0;
                loop[i] = MAX(loop[i], loop[j] + reduced);
            }
        }
        last = MAX(last, loop[i]);
    }
    return last;
}

/* Are all loads of a row done when `out` is stored? */
static bool in_last_loop(const Graph *g, const Units *us, uint32_t u, Value out) {
    int loop[SPACE_NODES];
    const Unit *unit = &us->unit[u];
    if (unit->nnode > SPACE_NODES) return false;
    int last = unit_loops(g, us, u, loop);
    for (uint32_t i = 0; i < unit->nnode; i++)
        if (unit->node[i] == out) return loop[i] == last;
    return false;
}

/* Rank by rank, an all_reduce reads an element of one operand and writes it in the same place of
 * that operand's result. */
static bool reduces_in_place(const Graph *g, const Unit *unit, Value out, Value in) {
    Value v = unit->node[0];
    const Node *n = node_of(g, v), *result = node_of(g, out);
    if (n->op != OP_all_reduce || result->op == OP_room) return false;
    uint32_t own = result->op == OP_proj ? (uint32_t)attr_int(result, "index") : 0;
    for (uint32_t i = 0; i < n->nin; i++) {
        Layout l;
        bool same = view_root(g, operand(g, v, i), &l) == in;
        if (same != (i == own)) return false;
        if (same && !layout_is_identity(&l, type_elements(type_of(g, in)))) return false;
    }
    return true;
}

bool op_collective(Op op, Collective *kind) {
    switch (op) {
    case OP_all_reduce: *kind = COLLECTIVE_ALL_REDUCE; return true;
    case OP_all_gather: *kind = COLLECTIVE_ALL_GATHER; return true;
    case OP_reduce_scatter: *kind = COLLECTIVE_REDUCE_SCATTER; return true;
    case OP_all_to_all: *kind = COLLECTIVE_ALL_TO_ALL; return true;
    case OP_send: *kind = COLLECTIVE_SEND; return true;
    case OP_recv: *kind = COLLECTIVE_RECV; return true;
    default: return false;
    }
}

bool is_collective(const Node *n) {
    Collective kind;
    return op_collective((Op)n->op, &kind);
}

bool joins_stages(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    return g->set.stages && is_collective(n) && mesh_group_has(attr_str(n, "over"), MESH_PIPELINE);
}

bool unit_may_overwrite(const Graph *g, const Units *us, uint32_t u, Value out, Value in) {
    const Space *s = &us->space[u];
    const Unit *unit = &us->unit[u];
    if (s->n == 0) return reduces_in_place(g, unit, out, in);
    if (type_bytes(type_of(g, out)) != type_bytes(type_of(g, in))) return false;
    if (dtype_size(type_of(g, out)->dtype) != dtype_size(type_of(g, in)->dtype)) return false;
    Level level = space_level(s, g, out);
    if (level == LEVEL_COL) return false;
    if (level == LEVEL_FULL && s->row_reduce && !in_last_loop(g, us, u, out)) return false;
    for (uint32_t i = 0; i < unit->nnode; i++)
        if (!reads_in_place(g, unit->node[i], in)) return false;
    return true;
}
