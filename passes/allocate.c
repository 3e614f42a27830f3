/* allocate.c: every value that owns bytes gets its offset in its memory's arena.
 *
 * Lifetimes and in-place reuse are ir/lifetime.c's; here slots, rectangles of time and bytes, are
 * packed, each memory for itself. Leaves lie at the bottom; pack.c places the others above. */
#include "ir/storage.h"
#include "passes/pack.h"
#include "passes/passes.h"

/* Per memory, when no heuristic is near the bound; under a budget many plans are placed. Far from
 * it, that is more than one percent, there is MORE times the effort. */
enum { SEARCH_EFFORT = 40000000, SEARCH_EFFORT_OF_MANY = 0, MORE = 20 };

int64_t allocate_effort(const Graph *g) {
    return g->set.memory > 0 ? SEARCH_EFFORT_OF_MANY : SEARCH_EFFORT;
}

int64_t allocate_slots(const Slots *s, Mem mem, int64_t effort, int64_t *offset, Arena *a) {
    uint32_t n = 0, *slot = arena_array(a, uint32_t, s->n);
    PackItem *item = arena_array(a, PackItem, s->n);
    int64_t base = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->slot[i].mem != mem) continue;
        if (i < s->nfixed) {
            offset[i] = base;
            base += s->slot[i].bytes;
        } else {
            slot[n] = i;
            item[n++] =
                (PackItem){s->slot[i].first, (int64_t)s->slot[i].last + 1, s->slot[i].bytes};
        }
    }
    int64_t *at = arena_array(a, int64_t, n), bound = s->bound[mem];
    PackLimits limits = {STORAGE_ALIGN, bound + bound / 200 - base, effort, 0};
    int64_t height = n ? pack_limited(item, n, &limits, at, NULL, a) : 0;
    if (effort && base + height > bound + bound / 100) {
        limits.effort *= MORE;
        height = pack_limited(item, n, &limits, at, NULL, a);
    }
    for (uint32_t i = 0; i < n; i++) offset[slot[i]] = base + at[i];
    return base + height;
}

bool pass_allocate(Graph *g, PassContext *cx) {
    Arena *a = cx->scratch;
    Units us = units_build(g, a);
    if (!units_complete(g, &us)) return false;
    Slots s = slots_build(g, &us, units_when(g, &us, a), a);
    int64_t *offset = arena_array(a, int64_t, s.n);
    for (int m = 0; m < MEM_COUNT; m++) allocate_slots(&s, (Mem)m, allocate_effort(g), offset, a);
    for (Value v = 0; v < g->node.n; v++)
        node_of(g, v)->offset = s.of[v] == NO_SLOT ? -1 : offset[s.of[v]];
    return true;
}
