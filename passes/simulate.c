/* simulate.c: a discrete-event run of steps. Each stream has a queue; the steps at work share the
 * machine, and the next event is the end of the one that would end first at the present speeds. */
#include <math.h>

#include "passes/simulate_private.h"

/* ---- one rank's streams ---- */

static void make_queues(Streams *r, uint32_t n) {
    uint32_t tail[STREAM_COUNT];
    for (int s = 0; s < STREAM_COUNT; s++) r->head[s] = tail[s] = NO_STEP;
    for (uint32_t i = 0; i < n; i++) {
        Stream s = r->step[i].stream;
        *(tail[s] == NO_STEP ? &r->head[s] : &r->next[tail[s]]) = i;
        r->next[i] = NO_STEP;
        tail[s] = i;
    }
}

void streams_init(Streams *r, const Machine *m, const TimedStep *step, uint32_t n, Arena *scratch) {
    *r = (Streams){.m = m,
                   .step = step,
                   .next = arena_array(scratch, uint32_t, n),
                   .done = arena_array(scratch, bool, n)};
    make_queues(r, n);
}

bool streams_may_begin(Streams *r, int s) {
    if (r->head[s] == NO_STEP || r->active >> s & 1) return false;
    const TimedStep *t = &r->step[r->head[s]];
    while (r->waits[s] < t->nwait && r->done[t->wait[r->waits[s]]]) r->waits[s]++;
    return r->waits[s] == t->nwait;
}

void streams_begin(Streams *r, int s, double now) {
    uint32_t i = r->head[s];
    r->active |= 1u << s;
    r->left[s] = MAX(r->step[i].us, 0);
    if (r->out.begin) r->out.begin[i] = now;
}

double streams_speed(const Streams *r, int s) {
    return r->m ? machine_speed(r->m, (Stream)s, r->active) : 1;
}

void streams_account(Streams *r, double dt) {
    bool compute = r->active >> STREAM_COMPUTE & 1, host = r->active >> STREAM_HOST & 1;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (r->active >> s & 1) r->out.busy[s] += dt;
    if (compute || !r->active) return;
    *(host ? &r->out.host_alone : &r->out.exposed) += dt;
    if (!host && r->active >> STREAM_COMM) r->out.exposed_comm += dt;
}

void streams_end(Streams *r, int s, double now) {
    uint32_t i = r->head[s];
    if (r->out.end) r->out.end[i] = now;
    r->done[i] = true;
    r->head[s] = r->next[i];
    r->waits[s] = 0;
    r->active &= ~(1u << s);
    r->out.us = now;
}

/* ---- one rank alone ---- */

/* To the end of the step that is first through, and of those that end with it; returns when. */
static double advance(Streams *r, double now) {
    double speed[STREAM_COUNT], dt = INFINITY;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (!(r->active >> s & 1)) continue;
        speed[s] = streams_speed(r, s);
        ASSERT(speed[s] > 0);
        dt = MIN(dt, r->left[s] / speed[s]);
    }
    streams_account(r, dt);
    unsigned active = r->active;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (!(active >> s & 1)) continue;
        if (r->left[s] <= dt * speed[s] * (1 + TOGETHER))
            streams_end(r, s, now + dt);
        else
            r->left[s] -= dt * speed[s];
    }
    return now + dt;
}

Simulation simulate(const Machine *m, const TimedStep *step, uint32_t n, bool times, Arena *a) {
    Arena *scratch = arena_new();
    Streams r;
    double now = 0;
    streams_init(&r, m, step, n, scratch);
    if (times) {
        r.out.begin = arena_array(a, double, n);
        r.out.end = arena_array(a, double, n);
    }
    for (;;) {
        for (int s = 0; s < STREAM_COUNT; s++)
            if (streams_may_begin(&r, s)) streams_begin(&r, s, now);
        if (!r.active) break;
        now = advance(&r, now);
    }
    for (int s = 0; s < STREAM_COUNT; s++)
        if (r.head[s] != NO_STEP) BUG("step %u waits for a later one", r.head[s]);
    arena_free(scratch);
    return r.out;
}
