/* memory_window.c: when copies begin and end.
 *
 * A clock runs over the program's runs at the pace of its compute stream. What leaves is done as
 * soon as its lane is free; what is fetched begins as late as its lane allows, from the last one
 * back to the first, so that each is complete just before it is read. While bytes are on their way
 * they lie in both memories, so windows are as long as the target leaves room for: first come the
 * fetches, which a run waits for, then the bytes that leave. */
#include "passes/memory_private.h"

#include <stdlib.h>

typedef struct {
    const Problem *p;
    Program *g;
    double *clock; /* by run: when it begins, runs.n: the end */
    int64_t *live; /* by run, on the device */
    int64_t target;
} Windows;

static void set_clock(Windows *w) {
    double now = 0;
    for (uint32_t i = 0; i < w->g->run.n; i++) {
        const Run *r = &w->g->run.p[i];
        w->clock[i] = now;
        if (r->kind != RUN_HOST) now += w->p->price[r->unit];
    }
    w->clock[w->g->run.n] = now;
}

/* Takes `bytes` at the runs from, from + 1, … while there is room, at most to `to` (exclusive);
 * returns where it stopped. `step` is 1 or -1: the way to go. */
static uint32_t take(Windows *w, uint32_t from, uint32_t to, int step, int64_t bytes) {
    while (from != to && w->live[from] + bytes <= w->target) {
        w->live[from] += bytes;
        from = (uint32_t)((int64_t)from + step);
    }
    return from;
}

/* The last run that begins at or before `when`, at most `most`. */
static uint32_t run_at(const Windows *w, double when, uint32_t most) {
    uint32_t lo = 0, hi = most;
    while (lo < hi) {
        uint32_t mid = hi - (hi - lo) / 2;
        if (w->clock[mid] <= when)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* The run that what is fetched may not begin before: where its source is away and complete. */
static uint32_t least_start(const Windows *w, const uint32_t *sent, const Move *m) {
    uint32_t from = sent[m->from];
    const Version *x = &w->g->version.p[m->from];
    return from == NONE ? (x->fixed ? 0 : x->birth + 1) : w->g->move.p[from].done;
}

static int by_done(const void *a, const void *b, void *moves) {
    const Move *m = moves, *x = &m[*(const uint32_t *)a], *y = &m[*(const uint32_t *)b];
    if (x->done != y->done) return x->done < y->done ? -1 : 1;
    return (x > y) - (x < y);
}

/* Fetches, the last first. */
static void open_fetches(Windows *w, const uint32_t *sent) {
    Program *g = w->g;
    double free_until[STREAM_COUNT];
    for (int s = 0; s < STREAM_COUNT; s++) free_until[s] = w->clock[g->run.n];
    uint32_t n = 0, *order = xcalloc((size_t)g->move.n + 1, sizeof *order);
    for (uint32_t i = 0; i < g->move.n; i++)
        if (g->version.p[g->move.p[i].to].mem == MEM_DEVICE) order[n++] = i;
    qsort_r(order, n, sizeof *order, by_done, g->move.p);
    while (n-- > 0) {
        Move *m = &g->move.p[order[n]];
        Version *x = &g->version.p[m->to];
        double end = MIN(w->clock[m->done], free_until[m->stream]), begin = end - m->us;
        free_until[m->stream] = begin;
        uint32_t wanted = MAX(run_at(w, begin, m->done), MIN(least_start(w, sent, m), m->done));
        uint32_t got = m->done;
        if (m->done > wanted) got = take(w, m->done - 1, wanted - 1, -1, w->p->size[x->v]) + 1;
        m->start = x->birth = got;
    }
    free(order);
}

/* What leaves, in the order of leaving. A fetch of the same bytes waits for it. */
static void open_sends(Windows *w, const uint32_t *fetched) {
    Program *g = w->g;
    double free_from[STREAM_COUNT] = {0};
    for (uint32_t i = 0; i < g->move.n; i++) {
        Move *m = &g->move.p[i];
        Version *x = &g->version.p[m->from];
        if (g->version.p[m->to].mem == MEM_DEVICE) continue;
        double begin = MAX(w->clock[m->start], free_from[m->stream]), end = begin + m->us;
        free_from[m->stream] = end;
        uint32_t most = g->run.n;
        if (fetched[m->to] != NONE) most = g->move.p[fetched[m->to]].start;
        most = MIN(most, m->most);
        uint32_t wanted = run_at(w, end, g->run.n);
        wanted = MIN(w->clock[wanted] < end ? wanted + 1 : wanted, most);
        uint32_t first = MAX(m->start, x->death + 1);
        if (first < wanted) {
            uint32_t got = take(w, first, wanted, 1, x->fixed ? 0 : w->p->size[x->v]);
            m->done = got;
            x->death = MAX(x->death, got - 1);
        } else {
            m->done = MAX(m->start, MIN(wanted, g->run.n));
        }
    }
}

void program_windows(const Problem *p, Program *g, int64_t target) {
    Windows w = {.p = p, .g = g, .live = g->live[MEM_DEVICE], .target = target};
    uint32_t *sent = xcalloc((size_t)g->version.n + 1, sizeof *sent);
    uint32_t *fetched = xcalloc((size_t)g->version.n + 1, sizeof *fetched);
    w.clock = xcalloc((size_t)g->run.n + 1, sizeof *w.clock);
    for (uint32_t i = 0; i < g->version.n; i++) sent[i] = fetched[i] = NONE;
    for (uint32_t i = 0; i < g->move.n; i++) {
        sent[g->move.p[i].to] = i;
        uint32_t *f = &fetched[g->move.p[i].from];
        if (*f == NONE || g->move.p[*f].done > g->move.p[i].done) *f = i;
    }
    set_clock(&w);
    open_fetches(&w, sent);
    open_sends(&w, fetched);
    free(w.clock);
    free(sent);
    free(fetched);
    program_live(p, g);
}
