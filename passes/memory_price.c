/* memory_price.c: what a graph takes and costs, exactly as its plan will: every unit is priced, its
 * bytes are placed, the waits follow from the bytes, and the step is simulated. */
#include "passes/memory_private.h"
#include "passes/pack.h"
#include "passes/simulate.h"

static Access access_of(const Graph *g, const int64_t *at, Value v, bool write) {
    return (Access){(Mem)node_of(g, v)->mem, write, at[v], type_bytes(type_of(g, v))};
}

static void time_unit(const Graph *g, const Units *us, uint32_t u, const Machine *m,
                      const int64_t *at, TimedStep *s, Arena *a) {
    const Unit *unit = &us->unit[u];
    Work w = unit_work(g, us, u);
    *s = (TimedStep){.stream = (Stream)node_of(g, unit->node[0])->stream,
                     .us = cost_us(m, &w),
                     .bytes = w.copy ? w.bytes : 0};
    s->access = arena_array(a, Access, unit->nread + unit->nwrite + 1);
    for (uint32_t i = 0; i < unit->nread; i++)
        s->access[s->naccess++] = access_of(g, at, unit->read[i], false);
    for (uint32_t i = 0; i < unit->nwrite; i++)
        s->access[s->naccess++] = access_of(g, at, unit->write[i], true);
}

/* What is assigned and did not go into its leaf at once is copied at the end. */
static uint32_t time_assigns(const Graph *g, const Machine *m, const int64_t *at, TimedStep *s,
                             Arena *a) {
    uint32_t n = 0;
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_assign)) continue;
        Value leaf = operand(g, v, 0), x = view_base(g, operand(g, v, 1));
        Mem to = (Mem)node_of(g, leaf)->mem, from = (Mem)node_of(g, x)->mem;
        if (leaf == x || (at[leaf] == at[x] && to == from)) continue;
        Work w = {.what = "assign",
                  .copy = true,
                  .from = from,
                  .to = to,
                  .bytes = (double)type_bytes(type_of(g, leaf))};
        s[n] = (TimedStep){.stream = stream_of_copy(from, to),
                           .us = cost_us(m, &w),
                           .naccess = 2,
                           .bytes = w.bytes};
        s[n].access = arena_array(a, Access, 2);
        s[n].access[0] = access_of(g, at, leaf, true);
        s[n++].access[1] = access_of(g, at, x, false);
    }
    return n;
}

void memory_place(const Graph *g, int64_t arena[MEM_COUNT]) {
    Arena *a = arena_new();
    Units us = units_build(g, a);
    Slots s = slots_build(g, &us, units_when(g, &us, a), a);
    int64_t *slot = arena_array(a, int64_t, s.n + 1);
    for (int i = 0; i < MEM_COUNT; i++)
        arena[i] = allocate_slots(&s, (Mem)i, allocate_effort(g), slot, a);
    arena_free(a);
}

Price memory_price(const Graph *g, const Machine *m) {
    Arena *a = arena_new();
    Price price = {0};
    Units us = units_build(g, a);
    uint32_t *when = units_when(g, &us, a);
    Slots s = slots_build(g, &us, when, a);
    int64_t *slot = arena_array(a, int64_t, s.n + 1), *at = arena_array(a, int64_t, g->node.n + 1);
    for (int i = 0; i < MEM_COUNT; i++)
        price.arena[i] = allocate_slots(&s, (Mem)i, allocate_effort(g), slot, a);
    for (Value v = 0; v < g->node.n; v++) at[v] = s.of[v] == NO_SLOT ? -1 : slot[s.of[v]];
    TimedStep *step = arena_array(a, TimedStep, us.n + g->node.n / 4 + 16);
    for (uint32_t u = 0; u < us.n; u++) time_unit(g, &us, u, m, at, &step[when[u] - 1], a);
    uint32_t n = us.n + time_assigns(g, m, at, step + us.n, a);
    steps_wait(step, n, a);
    Simulation run = simulate(m, step, n, false, a);
    price.us = run.us;
    arena_free(a);
    return price;
}
