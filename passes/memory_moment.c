/* memory_moment.c: moments that cut a step into intervals, for the bound.
 *
 * A moment is the beginning of a unit of the compute stream that every plan runs once, in its turn.
 * The moments lie on the longest path through the graph (what units read, and the order of each
 * stream), so the path's length between two of them is the least time between them. What else has
 * to happen before or after a unit gets the interval that it surely falls in. */
#include "passes/memory_private.h"

/* Always on the compute stream? What the host's cores may update is not. */
static bool is_steady(const Problem *p, uint32_t u) {
    return p->stream[u] == STREAM_COMPUTE && p->updates[u] == NONE;
}

typedef struct {
    double *start;  /* by time: the earliest */
    uint32_t *path; /* by time: what it waits for last; 0: nothing */
} Earliest;

static Earliest earliest(const Problem *p, Arena *a) {
    Earliest e = {arena_array(a, double, p->end + 1), arena_array(a, uint32_t, p->end + 1)};
    uint32_t chain[STREAM_COUNT] = {0};
    double *done = arena_array(a, double, p->end + 1), last = -1;
    for (uint32_t t = 1; t < p->end; t++) {
        uint32_t u = p->at[t], *before = &chain[p->stream[u]];
        const Unit *unit = &p->us.unit[u];
        bool hosted = p->updates[u] != NONE;
        if (*before && !hosted) e.start[t] = done[*before], e.path[t] = *before;
        for (uint32_t i = 0; i < unit->nread; i++) {
            uint32_t from = p->us.of[unit->read[i]];
            uint32_t w = from == NO_UNIT ? 0 : p->when[from];
            if (w && done[w] > e.start[t]) e.start[t] = done[w], e.path[t] = w;
        }
        done[t] = e.start[t] + (hosted ? 0 : p->price[u]);
        if (!hosted) *before = t;
        if (done[t] > last) last = done[t], e.path[p->end] = t;
    }
    e.start[p->end] = MAX(last, 0);
    return e;
}

/* Times of the moments, evenly along the path. */
static void choose_moments(const Problem *p, const Earliest *e, uint32_t most, Moments *m) {
    uint32_t n = most;
    double total = e->start[p->end];
    m->at[n] = p->end;
    for (uint32_t t = e->path[p->end]; t && n > 1; t = e->path[t]) {
        if (!is_steady(p, p->at[t]) || e->start[t] > total * (n - 1) / most) continue;
        m->at[--n] = t;
    }
    m->at[--n] = 0;
    m->n = most - n;
    for (uint32_t k = 0; k <= m->n; k++) m->at[k] = m->at[n + k];
    for (uint32_t k = 0; k < m->n; k++) m->least[k] = e->start[m->at[k + 1]] - e->start[m->at[k]];
}

/* The interval k with at[k] <= time < at[k + 1]. */
uint32_t moment_after(const Moments *m, uint32_t time) {
    uint32_t k = 0;
    while (k + 1 < m->n && m->at[k + 1] <= time) k++;
    return k;
}

/* The interval k with at[k] < time <= at[k + 1]. */
uint32_t moment_before(const Moments *m, uint32_t time) {
    return time ? moment_after(m, time - 1) : 0;
}

/* Units beside the compute stream begin after what they read is there, and before those who read
 * what they write: nothing else is known of when they run. */
static void find_intervals(const Problem *p, Moments *m, Arena *a) {
    uint32_t *least = arena_array(a, uint32_t, p->end + 1);
    uint32_t *most = arena_array(a, uint32_t, p->end + 1);
    for (uint32_t t = 0; t <= p->end; t++) most[t] = p->end;
    for (uint32_t t = 1; t < p->end; t++) {
        const Unit *unit = &p->us.unit[p->at[t]];
        if (is_steady(p, p->at[t])) {
            least[t] = t;
            continue;
        }
        for (uint32_t i = 0; i < unit->nread; i++) {
            uint32_t from = p->us.of[unit->read[i]];
            if (from != NO_UNIT) least[t] = MAX(least[t], least[p->when[from]]);
        }
    }
    for (uint32_t t = p->end; t-- > 1;) {
        const Unit *unit = &p->us.unit[p->at[t]];
        if (is_steady(p, p->at[t])) most[t] = t;
        for (uint32_t i = 0; i < unit->nread; i++) {
            uint32_t from = p->us.of[unit->read[i]];
            if (from != NO_UNIT) most[p->when[from]] = MIN(most[p->when[from]], most[t]);
        }
    }
    for (uint32_t t = 0; t <= p->end; t++) {
        m->after[t] = moment_after(m, least[t]);
        m->before[t] = moment_before(m, most[t]);
    }
}

Moments moments_find(const Problem *p, uint32_t most, Arena *a) {
    Moments m = {.at = arena_array(a, uint32_t, most + 2),
                 .least = arena_array(a, double, most + 1),
                 .after = arena_array(a, uint32_t, p->end + 1),
                 .before = arena_array(a, uint32_t, p->end + 1)};
    Earliest e = earliest(p, a);
    choose_moments(p, &e, most, &m);
    find_intervals(p, &m, a);
    return m;
}
