/* pack.c: offsets for buffers with known lifetimes.
 *
 * Time is reduced to the sections in which different sets of buffers live. Heuristics come first;
 * where they do not reach the goal, the search asks again and again, with growing effort, whether
 * some height between the bound and the best so far is possible. Whether yes or no, one of the two
 * moves. Every offset of a tight placement is a sum of sizes, so that only multiples of their
 * greatest common divisor are asked for. */
#include <stdlib.h>
#include <string.h>

#include "passes/pack_private.h"

/* ---- sections ---- */

typedef struct {
    int64_t time;
    bool begins;
    uint32_t buffer;
} Event;

/* Ends before beginnings. */
static int by_time(const void *a, const void *b) {
    const Event *x = a, *y = b;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    if (x->begins != y->begins) return x->begins ? 1 : -1;
    return (x->buffer > y->buffer) - (x->buffer < y->buffer);
}

static int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

/* A section is closed when a buffer ends after one began. */
static Sections sections_make(const PackItem *item, uint32_t n, int64_t align, Arena *a) {
    Sections p = {n,
                  0,
                  arena_array(a, uint32_t, n),
                  arena_array(a, uint32_t, n),
                  arena_array(a, int64_t, n),
                  NULL};
    Event *event = arena_array(a, Event, 2 * (size_t)n);
    uint32_t nevent = 0;
    for (uint32_t i = 0; i < n; i++) {
        p.size[i] = round_up(item[i].size, align);
        if (item[i].upper <= item[i].lower) continue;
        event[nevent++] = (Event){item[i].lower, true, i};
        event[nevent++] = (Event){item[i].upper, false, i};
    }
    if (nevent) qsort(event, nevent, sizeof *event, by_time);
    bool began = false;
    for (uint32_t e = 0; e < nevent; e++) {
        if (!event[e].begins && began) p.nsection++;
        began = event[e].begins;
        *(began ? &p.from[event[e].buffer] : &p.to[event[e].buffer]) = p.nsection;
    }
    p.live = arena_array(a, int64_t, p.nsection + 1);
    for (uint32_t i = 0; i < n; i++) p.live[p.from[i]] += p.size[i], p.live[p.to[i]] -= p.size[i];
    for (uint32_t s = 1; s < p.nsection; s++) p.live[s] += p.live[s - 1];
    return p;
}

static int64_t largest_live(const Sections *p) {
    int64_t most = 0;
    for (uint32_t s = 0; s < p->nsection; s++) most = MAX(most, p->live[s]);
    return most;
}

static int64_t unit_of_sizes(const Sections *p) {
    int64_t g = 0;
    for (uint32_t i = 0; i < p->n; i++) g = common_divisor(g, p->size[i]);
    return MAX(g, 1);
}

/* ---- the search, height by height ---- */

typedef struct {
    const PackLimits *limits;
    int64_t unit;   /* heights are multiples of it */
    int64_t bound;  /* no lower height is possible */
    int64_t height; /* of the best placement */
    int64_t *offset;
    double until;
} Narrow;

static int64_t goal(const Narrow *w) { return MAX(w->bound, w->limits->enough); }

/* The height to ask for: the goal, and every other time one between it and what is there. */
static int64_t ask(const Narrow *w, uint32_t round) {
    static const double share[] = {0, 0.5, 0, 0.75, 0, 0.25};
    int64_t least = goal(w) / w->unit * w->unit;
    if (w->limits->enough >= w->bound) return least;
    double rise = share[round % COUNT(share)] * (double)(w->height - w->unit - least);
    return least + (int64_t)rise / w->unit * w->unit;
}

static int64_t height_of(const Sections *p, const int64_t *offset) {
    int64_t height = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->from[i] < p->to[i]) height = MAX(height, offset[i] + p->size[i]);
    return height;
}

static void narrow(Narrow *w, const Sections *p, Arena *a) {
    Search *q = search_new(p, w->unit, a);
    int64_t *offset = arena_array(a, int64_t, p->n), total = w->limits->effort;
    double effort = q ? (double)search_dive(q) : 0;
    for (uint32_t round = 0; q && w->height > goal(w); round++) {
        int64_t left = total - search_spent(q), height = ask(w, round);
        bool late = w->until > 0 && now_seconds() > w->until;
        bool hopeless = w->limits->enough && w->bound > w->limits->enough;
        if (left <= 0 || late || hopeless) break;
        PackAnswer got = search_run(q, height, w->limits->enough >= w->bound ? round : round / 2,
                                    MIN(left, (int64_t)effort), w->until, offset);
        if (got == PACK_IMPOSSIBLE) w->bound = height + w->unit;
        if (got == PACK_FITS) {
            w->height = height_of(p, offset);
            memcpy(w->offset, offset, p->n * sizeof *offset);
        }
        effort *= 1.15;
    }
}

int64_t pack_limited(const PackItem *item, uint32_t n, const PackLimits *limits, int64_t *offset,
                     int64_t *bound, Arena *a) {
    Sections p = sections_make(item, n, limits->align, a);
    double until = limits->seconds > 0 ? now_seconds() + limits->seconds : 0;
    Narrow w = {limits, unit_of_sizes(&p), largest_live(&p), 0, offset, until};
    w.height = pack_quickly(&p, goal(&w), offset, a);
    bool impossible = limits->enough && w.bound > limits->enough;
    if (w.height > goal(&w) && limits->effort > 0 && !impossible) narrow(&w, &p, a);
    if (bound) *bound = w.bound;
    return w.height;
}
