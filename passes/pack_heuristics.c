/* pack_heuristics.c: quick placements.
 *
 * Buffers are dropped one after the other onto a skyline (the height reached in each section, a
 * segment tree: O(log n) a buffer) in a few orders; activations nest like brackets, so that
 * "longest life first" leaves almost no holes. Gradients that wait for the clipping norm do not
 * nest; so buffers are also handed out as a heap would, best fit as time runs forward or backward,
 * the short-lived ones then on top. When the best of these is not good enough, best fit into the
 * gaps between placed buffers is tried too, largest buffers first (Pisarchyk & Lee 2020, "Efficient
 * Memory Management for Deep Neural Net Inference"). */
#include <stdlib.h>
#include <string.h>

#include "passes/pack_private.h"

enum {
    GAP_BUFFERS = 12000, /* best fit is quadratic */
    BLAME_COST = 1000000 /* pairs of buffers that one order of try_blame looks at */
};

typedef struct {
    const Sections *p;
    uint32_t *order; /* buffers in the order of placing */
    int64_t *offset; /* by buffer, being tried */
    int64_t *best;   /* by buffer */
    int64_t height;  /* of the best */
    int64_t goal;
} Tries;

/* ---- the skyline: largest height over a span of sections; set a span to a height ---- */

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

/* Largest height over from <= s < to; `raise` >= 0: then sets these sections to it. Tree node i
 * covers lo <= s < hi. The depth is log2 of the number of sections. */
static int64_t skyline_visit(Skyline *k, uint32_t i, uint32_t lo, uint32_t hi, uint32_t from,
                             uint32_t to, int64_t raise) {
    if (to <= lo || hi <= from) return 0;
    if (from <= lo && hi <= to) {
        if (raise >= 0) k->top[i] = k->set[i] = raise;
        return k->top[i];
    }
    skyline_push(k, i);
    uint32_t mid = lo + (hi - lo) / 2;
    int64_t a = skyline_visit(k, 2 * i, lo, mid, from, to, raise);
    int64_t b = skyline_visit(k, 2 * i + 1, mid, hi, from, to, raise);
    k->top[i] = MAX(k->top[2 * i], k->top[2 * i + 1]);
    return MAX(a, b);
}

/* Starts with these heights by section, or flat on the ground. */
static void skyline_start(Skyline *k, const int64_t *height, uint32_t n) {
    for (uint32_t i = 0; i < k->size; i++) k->top[k->size + i] = i < n && height ? height[i] : 0;
    for (uint32_t i = k->size; i-- > 1;) k->top[i] = MAX(k->top[2 * i], k->top[2 * i + 1]);
    for (uint32_t i = 0; i < 2 * k->size; i++) k->set[i] = -1;
}

static uint32_t life(const Sections *p, uint32_t i) { return p->to[i] - p->from[i]; }

/* Drops the buffers of t->order that live in at most `most` sections. */
static void try_skyline(Tries *t, Skyline *k, uint32_t most) {
    const Sections *p = t->p;
    for (uint32_t o = 0; o < p->n; o++) {
        uint32_t i = t->order[o], from = p->from[i], to = p->to[i];
        if (life(p, i) > most) continue;
        int64_t at = t->offset[i] = skyline_visit(k, 1, 0, k->size, from, to, -1);
        skyline_visit(k, 1, 0, k->size, from, to, at + p->size[i]);
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

/* Buffers that live in more than `least` sections, as time runs forward or backward; height[s] gets
 * the end of what they occupy. */
static void try_over_time(Tries *t, bool backward, uint32_t least, int64_t *height, Arena *a) {
    const Sections *p = t->p;
    uint32_t m = p->nsection, *born = arena_array(a, uint32_t, m + 1),
             *died = arena_array(a, uint32_t, m + 1);
    uint32_t *next_born = arena_array(a, uint32_t, p->n),
             *next_died = arena_array(a, uint32_t, p->n);
    Gaps f = {arena_array(a, Gap, p->n + 2), 1};
    f.gap[0] = (Gap){0, INT64_MAX};
    for (uint32_t i = p->n; i-- > 0;) { /* lists by section of buffers + 1 */
        if (life(p, i) <= least) continue;
        uint32_t from = backward ? m - p->to[i] : p->from[i], to = from + life(p, i);
        next_born[i] = born[from], born[from] = i + 1;
        next_died[i] = died[to], died[to] = i + 1;
    }
    for (uint32_t s = 0; s < m; s++) {
        for (uint32_t i = died[s]; i; i = next_died[i - 1])
            gaps_give(&f, t->offset[i - 1], p->size[i - 1]);
        for (uint32_t i = born[s]; i; i = next_born[i - 1])
            t->offset[i - 1] = gaps_take(&f, p->size[i - 1]);
        height[backward ? m - 1 - s : s] = f.gap[f.n - 1].at;
    }
}

/* ---- best fit: placed buffers sorted by offset, scanned for the smallest gap that fits ---- */

static int64_t best_gap(const Tries *t, const uint32_t *placed, uint32_t n, uint32_t i) {
    const Sections *p = t->p;
    int64_t end = 0, at = -1, room = INT64_MAX;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t o = placed[k];
        if (p->to[o] <= p->from[i] || p->to[i] <= p->from[o]) continue;
        int64_t gap = t->offset[o] - end;
        if (gap >= p->size[i] && gap < room) at = end, room = gap;
        end = MAX(end, t->offset[o] + p->size[o]);
    }
    return at >= 0 ? at : end;
}

static void try_gaps(Tries *t, Arena *a) {
    uint32_t n = 0, *placed = arena_array(a, uint32_t, t->p->n);
    for (uint32_t o = 0; o < t->p->n; o++) {
        uint32_t i = t->order[o], lo = 0, hi = n;
        t->offset[i] = best_gap(t, placed, n, i);
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if (t->offset[placed[mid]] <= t->offset[i])
                lo = mid + 1;
            else
                hi = mid;
        }
        memmove(placed + lo + 1, placed + lo, (n++ - lo) * sizeof *placed);
        placed[lo] = i;
    }
}

/* ---- orders ---- */

typedef struct {
    double key; /* descending */
    uint32_t buffer;
} Key;

static int by_key(const void *a, const void *b) {
    const Key *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->buffer > y->buffer) - (x->buffer < y->buffer);
}

typedef double KeyFn(const Sections *p, uint32_t i);
static double key_life(const Sections *p, uint32_t i) { return life(p, i); }
static double key_size(const Sections *p, uint32_t i) { return (double)p->size[i]; }
static double key_area(const Sections *p, uint32_t i) { return (double)p->size[i] * life(p, i); }
static double key_early(const Sections *p, uint32_t i) { return -(double)p->from[i]; }
static KeyFn *const orders[] = {key_life, key_area, key_size, key_early};

static void sort_buffers(Tries *t, KeyFn *key, Arena *a) {
    uint32_t n = t->p->n;
    Key *k = arena_array(a, Key, n);
    for (uint32_t i = 0; i < n; i++) k[i] = (Key){key(t->p, i), i};
    if (n) qsort(k, n, sizeof *k, by_key);
    for (uint32_t i = 0; i < n; i++) t->order[i] = k[i].buffer;
}

/* Keeps what was tried when it is the lowest so far; true when it is low enough. */
static bool low_enough(Tries *t) {
    const Sections *p = t->p;
    int64_t height = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (life(p, i)) height = MAX(height, t->offset[i] + p->size[i]);
    if (height < t->height) {
        t->height = height;
        memcpy(t->best, t->offset, p->n * sizeof *t->best);
    }
    return t->height <= t->goal;
}

/* Places in gaps again and again; each time what ended above the goal comes earlier (squeaky wheel
 * optimization: Joslin & Clements 1999). */
static void try_blame(Tries *t, KeyFn *first, Arena *a) {
    uint32_t n = t->p->n;
    Key *key = arena_array(a, Key, n);
    for (uint32_t i = 0; i < n; i++) key[i] = (Key){first(t->p, i), i};
    qsort(key, n, sizeof *key, by_key);
    for (uint32_t i = 0; i < n; i++) key[i].key = -(double)i;
    for (uint32_t round = 0; round < BLAME_COST / n / n && t->height > t->goal; round++) {
        for (uint32_t i = 0; i < n; i++) t->order[i] = key[i].buffer;
        try_gaps(t, a);
        low_enough(t);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t b = key[i].buffer;
            if (t->offset[b] + t->p->size[b] > t->goal) key[i].key += 0.2 * n;
        }
        qsort(key, n, sizeof *key, by_key);
    }
}

int64_t pack_quickly(const Sections *p, int64_t goal, int64_t *offset, Arena *a) {
    static const uint32_t lives[] = {8, 64, 0};
    Tries t = {
        p, arena_array(a, uint32_t, p->n), arena_array(a, int64_t, p->n), offset, INT64_MAX, goal};
    Skyline k = {.size = 1};
    while (k.size < p->nsection) k.size *= 2;
    k.top = arena_array(a, int64_t, 2 * k.size);
    k.set = arena_array(a, int64_t, 2 * k.size);
    int64_t *height = arena_array(a, int64_t, p->nsection);
    for (size_t i = 0; i < COUNT(orders); i++) {
        sort_buffers(&t, orders[i], a);
        skyline_start(&k, NULL, 0);
        try_skyline(&t, &k, UINT32_MAX);
        if (low_enough(&t)) return t.height;
    }
    for (size_t i = 0; i < 2 * COUNT(lives); i++) {
        sort_buffers(&t, key_area, a);
        try_over_time(&t, i & 1, lives[i / 2], height, a);
        skyline_start(&k, height, p->nsection);
        try_skyline(&t, &k, lives[i / 2]);
        if (low_enough(&t)) return t.height;
    }
    for (size_t i = 0; i < COUNT(orders) && p->n <= GAP_BUFFERS; i++) {
        sort_buffers(&t, orders[i], a);
        try_gaps(&t, a);
        if (low_enough(&t)) return t.height;
    }
    for (size_t i = 0; i < COUNT(orders); i++) try_blame(&t, orders[i], a);
    return t.height;
}
