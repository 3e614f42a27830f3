/* simulate.c: a discrete-event run of steps. Each stream has a queue; the steps at work share the
 * machine, and the next event is the end of the one that would end first at the present speeds. */
#include "passes/simulate.h"

#include <math.h>

#define NO_STEP UINT32_MAX

/* Steps that would end within this share of each other end together: otherwise rounding makes
 * events of streams that are meant to be level. */
static const double TOGETHER = 1e-12;

typedef struct {
    const Machine *m;
    const TimedStep *step;
    uint32_t *next;               /* by step: the next of its stream */
    bool *done;                   /* by step */
    uint32_t head[STREAM_COUNT];  /* first step that has not ended, or NO_STEP */
    uint32_t waits[STREAM_COUNT]; /* waits of the head that are known to be over */
    double left[STREAM_COUNT];    /* work of the head, in us at speed 1 */
    unsigned active;              /* bit s: the head of stream s is at work */
    double now;
    Simulation out;
} Run;

static void make_queues(Run *r, uint32_t n) {
    uint32_t tail[STREAM_COUNT];
    for (int s = 0; s < STREAM_COUNT; s++) r->head[s] = tail[s] = NO_STEP;
    for (uint32_t i = 0; i < n; i++) {
        Stream s = r->step[i].stream;
        *(tail[s] == NO_STEP ? &r->head[s] : &r->next[tail[s]]) = i;
        r->next[i] = NO_STEP;
        tail[s] = i;
    }
}

static bool may_begin(Run *r, int s) {
    const TimedStep *t = &r->step[r->head[s]];
    while (r->waits[s] < t->nwait && r->done[t->wait[r->waits[s]]]) r->waits[s]++;
    return r->waits[s] == t->nwait;
}

static void begin_steps(Run *r) {
    for (int s = 0; s < STREAM_COUNT; s++) {
        uint32_t i = r->head[s];
        if (i == NO_STEP || r->active >> s & 1 || !may_begin(r, s)) continue;
        r->active |= 1u << s;
        r->left[s] = MAX(r->step[i].us, 0);
        if (r->out.begin) r->out.begin[i] = r->now;
    }
}

static void account(Run *r, double dt) {
    bool compute = r->active >> STREAM_COMPUTE & 1, host = r->active >> STREAM_HOST & 1;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (r->active >> s & 1) r->out.busy[s] += dt;
    if (!compute && host) r->out.host_alone += dt;
    if (!compute && !host) r->out.exposed += dt;
}

static void end_step(Run *r, int s) {
    uint32_t i = r->head[s];
    if (r->out.end) r->out.end[i] = r->now;
    r->done[i] = true;
    r->head[s] = r->next[i];
    r->waits[s] = 0;
    r->active &= ~(1u << s);
}

/* To the end of the step that is first through, and of those that end with it. */
static void advance(Run *r) {
    double speed[STREAM_COUNT], dt = INFINITY;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (!(r->active >> s & 1)) continue;
        speed[s] = r->m ? machine_speed(r->m, (Stream)s, r->active) : 1;
        ASSERT(speed[s] > 0);
        dt = MIN(dt, r->left[s] / speed[s]);
    }
    account(r, dt);
    r->now += dt;
    unsigned active = r->active;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (!(active >> s & 1)) continue;
        if (r->left[s] <= dt * speed[s] * (1 + TOGETHER))
            end_step(r, s);
        else
            r->left[s] -= dt * speed[s];
    }
}

Simulation simulate(const Machine *m, const TimedStep *step, uint32_t n, bool times, Arena *a) {
    Arena *scratch = arena_new();
    Run r = {.m = m,
             .step = step,
             .next = arena_array(scratch, uint32_t, n),
             .done = arena_array(scratch, bool, n)};
    if (times) {
        r.out.begin = arena_array(a, double, n);
        r.out.end = arena_array(a, double, n);
    }
    make_queues(&r, n);
    for (;;) {
        begin_steps(&r);
        if (!r.active) break;
        advance(&r);
    }
    for (int s = 0; s < STREAM_COUNT; s++)
        if (r.head[s] != NO_STEP) BUG("step %u waits for a later one", r.head[s]);
    r.out.us = r.now;
    arena_free(scratch);
    return r.out;
}
