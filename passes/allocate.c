/* allocate.c: every value that owns bytes gets its offset in the device arena.
 *
 * Lifetimes and in-place reuse are ir/lifetime.c's; here slots, rectangles of time and bytes, are
 * packed. Leaves lie at the bottom. The others are dropped one after the other onto a skyline (the
 * height reached at each time, a segment tree: O(log n) a slot) in a few orders; activations nest
 * like brackets, so that "longest life first" leaves almost no holes. Gradients that wait for the
 * clipping norm do not nest; so slots are also handed out as a heap would, best fit as time runs
 * forward or backward, the short-lived ones then on top. When the best of these is not near the
 * bound, best fit into the gaps between placed slots is tried too, largest slots first (Pisarchyk &
 * Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"). */
#include "ir/storage.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

enum { GAP_SLOTS = 12000 }; /* best fit is quadratic */

typedef struct {
    const Slots *s;
    uint32_t *order; /* slots in the order of placing */
    int64_t *offset; /* by slot, being tried */
    int64_t *best;   /* by slot */
    int64_t best_bytes;
    int64_t base; /* end of the leaves */
} Pack;

/* ---- the skyline: largest height over a span of times; set a span to a height ---- */

typedef struct {
    uint32_t size; /* leaves, a power of two */
    int64_t *top;  /* by tree node: largest height below it */
    int64_t *set;  /* by tree node: height given to all below it since, or -1 */
} Skyline;

static void skyline_push(Skyline *k, uint32_t i) {
    if (k->set[i] < 0) return;
    for (uint32_t c = 2 * i; c <= 2 * i + 1; c++) k->top[c] = k->set[c] = k->set[i];
    k->set[i] = -1;
}

/* Largest height over from … to; `raise` >= 0: then sets these times to it. Tree node i covers
 * lo … hi. The depth is log2 of the number of units. */
static int64_t skyline_visit(Skyline *k, uint32_t i, uint32_t lo, uint32_t hi, uint32_t from,
                             uint32_t to, int64_t raise) {
    if (to < lo || hi < from) return 0;
    if (from <= lo && hi <= to) {
        if (raise >= 0) k->top[i] = k->set[i] = raise;
        return k->top[i];
    }
    skyline_push(k, i);
    uint32_t mid = lo + (hi - lo) / 2;
    int64_t a = skyline_visit(k, 2 * i, lo, mid, from, to, raise);
    int64_t b = skyline_visit(k, 2 * i + 1, mid + 1, hi, from, to, raise);
    k->top[i] = MAX(k->top[2 * i], k->top[2 * i + 1]);
    return MAX(a, b);
}

/* Starts with these heights by time, or flat on the leaves. */
static void skyline_start(Skyline *k, const int64_t *height, uint32_t n, int64_t base) {
    for (uint32_t i = 0; i < k->size; i++) k->top[k->size + i] = i < n && height ? height[i] : base;
    for (uint32_t i = k->size; i-- > 1;) k->top[i] = MAX(k->top[2 * i], k->top[2 * i + 1]);
    for (uint32_t i = 0; i < 2 * k->size; i++) k->set[i] = -1;
}

/* Drops the slots of p->order that live at most `life` units. */
static void pack_skyline(Pack *p, Skyline *k, uint32_t life) {
    const Slots *s = p->s;
    for (uint32_t i = 0; i < s->n - s->nfixed; i++) {
        const Slot *slot = &s->slot[p->order[i]];
        if (slot->last - slot->first > life) continue;
        int64_t at = skyline_visit(k, 1, 0, k->size - 1, slot->first, slot->last, -1);
        p->offset[p->order[i]] = at;
        skyline_visit(k, 1, 0, k->size - 1, slot->first, slot->last, at + slot->bytes);
    }
}

/* ---- a heap over time: free gaps sorted by offset, the last one without end ---- */

typedef struct {
    int64_t at, bytes;
} Gap;
typedef struct {
    Gap *gap;
    uint32_t n;
} Gaps;

static int64_t gaps_take(Gaps *f, int64_t bytes) {
    uint32_t best = f->n - 1;
    for (uint32_t i = 0; i < f->n; i++)
        if (f->gap[i].bytes >= bytes && f->gap[i].bytes < f->gap[best].bytes) best = i;
    Gap *g = &f->gap[best];
    int64_t at = g->at;
    g->at += bytes;
    g->bytes -= bytes;
    if (g->bytes == 0) memmove(g, g + 1, (--f->n - best) * sizeof *g);
    return at;
}

static void gaps_give(Gaps *f, int64_t at, int64_t bytes) {
    uint32_t lo = 0, hi = f->n - 1; /* the first gap behind `at` */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (f->gap[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    Gap *g = &f->gap[lo];
    if (lo && g[-1].at + g[-1].bytes == at) {
        g[-1].bytes += bytes;
        if (g[-1].at + g[-1].bytes != g->at) return;
        g->at = g[-1].at, g->bytes += g[-1].bytes;
        memmove(g - 1, g, (f->n-- - lo) * sizeof *g);
    } else if (at + bytes == g->at) {
        g->at = at, g->bytes += bytes;
    } else {
        memmove(g + 1, g, (f->n++ - lo) * sizeof *g);
        *g = (Gap){at, bytes};
    }
}

/* Slots that live longer than `life`, as time runs forward or backward; height[t] gets the end of
 * what they occupy. */
static void pack_over_time(Pack *p, bool backward, uint32_t life, int64_t *height, Arena *a) {
    const Slots *s = p->s;
    uint32_t *born = arena_array(a, uint32_t, s->end + 1),
             *died = arena_array(a, uint32_t, s->end + 2);
    uint32_t *next_born = arena_array(a, uint32_t, s->n),
             *next_died = arena_array(a, uint32_t, s->n);
    Gaps f = {arena_array(a, Gap, s->n + 2), 1};
    f.gap[0] = (Gap){p->base, INT64_MAX - p->base};
    for (uint32_t i = s->n; i-- > s->nfixed;) { /* lists by time of slots + 1 */
        const Slot *slot = &s->slot[i];
        if (slot->last - slot->first <= life) continue;
        uint32_t from = backward ? s->end - slot->last : slot->first;
        uint32_t to = backward ? s->end - slot->first : slot->last;
        next_born[i] = born[from], born[from] = i + 1;
        next_died[i] = died[to + 1], died[to + 1] = i + 1;
    }
    for (uint32_t t = 0; t <= s->end; t++) {
        for (uint32_t i = died[t]; i; i = next_died[i - 1])
            gaps_give(&f, p->offset[i - 1], s->slot[i - 1].bytes);
        for (uint32_t i = born[t]; i; i = next_born[i - 1])
            p->offset[i - 1] = gaps_take(&f, s->slot[i - 1].bytes);
        height[backward ? s->end - t : t] = f.gap[f.n - 1].at;
    }
}

/* ---- best fit: placed slots sorted by offset, scanned for the smallest gap that fits ---- */

static int64_t best_gap(const Pack *p, const uint32_t *placed, uint32_t n, const Slot *slot) {
    int64_t end = p->base, at = -1, room = INT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        const Slot *o = &p->s->slot[placed[i]];
        if (o->last < slot->first || slot->last < o->first) continue;
        int64_t gap = p->offset[placed[i]] - end;
        if (gap >= slot->bytes && gap < room) at = end, room = gap;
        end = MAX(end, p->offset[placed[i]] + o->bytes);
    }
    return at >= 0 ? at : end;
}

static void pack_gaps(Pack *p, Arena *a) {
    uint32_t n = 0, *placed = arena_array(a, uint32_t, p->s->n);
    for (uint32_t i = 0; i < p->s->n - p->s->nfixed; i++) {
        uint32_t slot = p->order[i], lo = 0, hi = n;
        p->offset[slot] = best_gap(p, placed, n, &p->s->slot[slot]);
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if (p->offset[placed[mid]] <= p->offset[slot])
                lo = mid + 1;
            else
                hi = mid;
        }
        memmove(placed + lo + 1, placed + lo, (n++ - lo) * sizeof *placed);
        placed[lo] = slot;
    }
}

/* ---- orders ---- */

typedef struct {
    double key; /* descending */
    uint32_t slot;
} Key;

static int by_key(const void *a, const void *b) {
    const Key *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static double slot_life(const Slot *s) { return (double)(s->last - s->first) + 1; }
static double slot_bytes(const Slot *s) { return (double)s->bytes; }
static double slot_area(const Slot *s) { return slot_life(s) * slot_bytes(s); }
static double slot_early(const Slot *s) { return -(double)s->first; }

static void sort_slots(Pack *p, double (*key)(const Slot *s), Arena *a) {
    const Slots *s = p->s;
    uint32_t n = s->n - s->nfixed;
    Key *k = arena_array(a, Key, n);
    for (uint32_t i = 0; i < n; i++) k[i] = (Key){key(&s->slot[s->nfixed + i]), s->nfixed + i};
    if (n) qsort(k, n, sizeof *k, by_key);
    for (uint32_t i = 0; i < n; i++) p->order[i] = k[i].slot;
}

static void keep_better(Pack *p) {
    const Slots *s = p->s;
    int64_t bytes = p->base;
    for (uint32_t i = s->nfixed; i < s->n; i++) bytes = MAX(bytes, p->offset[i] + s->slot[i].bytes);
    if (bytes >= p->best_bytes) return;
    p->best_bytes = bytes;
    memcpy(p->best, p->offset, s->n * sizeof *p->best);
}

static bool is_tight(const Pack *p) {
    return p->best_bytes - p->s->bound[MEM_DEVICE] <=
           p->s->bound[MEM_DEVICE] / 200; /* half a percent */
}

static void pack(Pack *p, Arena *a) {
    static double (*const orders[])(const Slot *) = {slot_life, slot_area, slot_bytes, slot_early};
    static const uint32_t lives[] = {8, 64, 0};
    Skyline k = {.size = 1};
    while (k.size < p->s->end + 1) k.size *= 2;
    k.top = arena_array(a, int64_t, 2 * k.size);
    k.set = arena_array(a, int64_t, 2 * k.size);
    int64_t *height = arena_array(a, int64_t, p->s->end + 1);
    for (size_t i = 0; i < COUNT(orders) && !is_tight(p); i++) {
        sort_slots(p, orders[i], a);
        skyline_start(&k, NULL, 0, p->base);
        pack_skyline(p, &k, UINT32_MAX);
        keep_better(p);
    }
    for (size_t i = 0; i < 2 * COUNT(lives) && !is_tight(p); i++) {
        sort_slots(p, slot_area, a);
        pack_over_time(p, i & 1, lives[i / 2], height, a);
        skyline_start(&k, height, p->s->end + 1, p->base);
        pack_skyline(p, &k, lives[i / 2]);
        keep_better(p);
    }
    for (size_t i = 0; i < COUNT(orders) && p->s->n <= GAP_SLOTS && !is_tight(p); i++) {
        sort_slots(p, orders[i], a);
        pack_gaps(p, a);
        keep_better(p);
    }
}

bool pass_allocate(Graph *g, PassContext *cx) {
    Arena *a = cx->scratch;
    Units us = units_build(g, a);
    if (!units_complete(g, &us)) return false;
    Slots s = slots_build(g, &us, units_when(g, &us, a), a);
    Pack p = {.s = &s,
              .order = arena_array(a, uint32_t, s.n),
              .offset = arena_array(a, int64_t, s.n),
              .best = arena_array(a, int64_t, s.n),
              .best_bytes = INT64_MAX};
    for (uint32_t i = 0; i < s.nfixed; p.base += s.slot[i++].bytes) p.offset[i] = p.base;
    pack(&p, a);
    for (Value v = 0; v < g->node.n; v++)
        node_of(g, v)->offset = s.of[v] == NO_SLOT ? -1 : p.best[s.of[v]];
    return true;
}
