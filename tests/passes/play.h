/* play.h: the arenas as the steps run: every value's bytes stay its own from the unit that writes
 * them to the last that reads them. */
#ifndef M6C_TESTS_PLAY_H
#define M6C_TESTS_PLAY_H

#include "ir/storage.h"
#include "tests/passes/model.h"

typedef struct {
    const Graph *g;
    const Units *us;
    Value *in[MEM_COUNT]; /* by block of STORAGE_ALIGN bytes: whose they are, NO_VALUE: nobody's */
    int wrong;
} Play;

static inline int64_t blocks(const Graph *g, Value v) {
    return (type_bytes(type_of(g, v)) + STORAGE_ALIGN - 1) / STORAGE_ALIGN;
}

static inline void own(Play *p, Value v) {
    int64_t at = node_of(p->g, v)->offset / STORAGE_ALIGN;
    CHECK(node_of(p->g, v)->offset >= 0 && node_of(p->g, v)->offset % STORAGE_ALIGN == 0);
    for (int64_t i = 0; i < blocks(p->g, v); i++) p->in[node_of(p->g, v)->mem][at + i] = v;
}

static inline bool owns(const Play *p, Value v) {
    int64_t at = node_of(p->g, v)->offset / STORAGE_ALIGN;
    for (int64_t i = 0; i < blocks(p->g, v); i++)
        if (p->in[node_of(p->g, v)->mem][at + i] != v) return false;
    return true;
}

static inline bool overlap(const Graph *g, Value v, Value w) {
    int64_t a = node_of(g, v)->offset, b = node_of(g, w)->offset;
    return node_of(g, v)->mem == node_of(g, w)->mem && a < b + blocks(g, w) * STORAGE_ALIGN &&
           b < a + blocks(g, v) * STORAGE_ALIGN;
}

static inline bool same_place(const Graph *g, Value v, Value w) {
    return node_of(g, v)->offset == node_of(g, w)->offset &&
           node_of(g, v)->mem == node_of(g, w)->mem;
}

/* Two results of one unit never share bytes; a result lies on what the unit reads only where the
 * kernel may work in place. */
static inline void play_unit(Play *p, uint32_t u) {
    const Unit *unit = &p->us->unit[u];
    for (uint32_t i = 0; i < unit->nread; i++) p->wrong += !owns(p, unit->read[i]);
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        for (uint32_t k = 0; k < i; k++) p->wrong += overlap(p->g, unit->write[i], unit->write[k]);
        for (uint32_t k = 0; k < unit->nread; k++)
            if (overlap(p->g, unit->write[i], unit->read[k])) {
                bool same =
                    node_of(p->g, unit->write[i])->offset == node_of(p->g, unit->read[k])->offset;
                p->wrong +=
                    !same || !unit_may_overwrite(p->g, p->us, u, unit->write[i], unit->read[k]);
            }
        own(p, unit->write[i]);
    }
}

/* Sinks find their value at the end of the step, and leaves their old or new one. */
static inline void play_end(Play *p) {
    const Graph *g = p->g;
    Value *assigned = xcalloc(g->node.n, sizeof *assigned);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (!(op_info(n->op)->flags & OPF_EFFECT)) continue;
        Value x = view_base(g, operand(g, v, n->op == OP_assign));
        if (node_of(g, x)->offset >= 0) p->wrong += !owns(p, x);
        if (n->op == OP_assign) assigned[operand(g, v, 0)] = x;
    }
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_param) || is_op(g, v, OP_state) || is_op(g, v, OP_input))
            p->wrong += !owns(p, v) && !(assigned[v] && same_place(g, assigned[v], v));
    free(assigned);
}

static inline int play(const Graph *g) {
    Arena *a = arena_new();
    Units us = units_build(g, a);
    uint32_t *when = units_when(g, &us, a), *at = arena_array(a, uint32_t, us.n + 2);
    Play p = {.g = g, .us = &us};
    for (int m = 0; m < MEM_COUNT; m++) {
        int64_t n = storage_bytes(g, (Mem)m) / STORAGE_ALIGN;
        p.in[m] = no_values(a, (uint32_t)n);
    }
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_param) || is_op(g, v, OP_state) || is_op(g, v, OP_input)) own(&p, v);
    for (uint32_t u = 0; u < us.n; u++) at[when[u]] = u;
    for (uint32_t t = 1; t <= us.n; t++) play_unit(&p, at[t]);
    play_end(&p);
    arena_free(a);
    return p.wrong;
}

#endif
