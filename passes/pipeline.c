/* pipeline.c: orders of pipelines, EPL's control dependencies, and runs.
 *
 * All orders have one form: `warm` forward steps, then backward and forward steps in turn, then the
 * backward steps that are left. A stage s keeps at most `warm` micro-batches: M for PreferForward,
 * S - s for PreferBackward, so that the first backward step reaches it just when it is done with
 * them, one more for PreferBackwardOptimizer.
 *
 * EPL chains forward and backward steps to each other only as far as it must. Where M is no more
 * than `warm`, it leaves open whether B0 comes before the last forward steps; the lists here do all
 * of these first, as data would have it. */
#include "passes/pipeline.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const names[PIPELINE_COUNT] = {
    [PIPELINE_PREFER_FORWARD] = "PreferForward",
    [PIPELINE_PREFER_BACKWARD] = "PreferBackward",
    [PIPELINE_PREFER_BACKWARD_OPTIMIZER] = "PreferBackwardOptimizer",
};

const char *pipeline_name(PipelineKind k) { return names[k]; }

bool pipeline_parse(const char *name, PipelineKind *k) {
    for (int i = 0; i < PIPELINE_COUNT; i++)
        if (strcasecmp(name, names[i]) == 0) return *k = (PipelineKind)i, true;
    return false;
}

/* ---- orders ---- */

uint32_t pipeline_in_flight(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros) {
    ASSERT(s < stages);
    uint32_t more = k == PIPELINE_PREFER_BACKWARD_OPTIMIZER && s + 1 < stages;
    uint32_t warm = k == PIPELINE_PREFER_FORWARD ? micros : stages - s + more;
    return MIN(warm, micros);
}

void pipeline_order(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros,
                    PipelineStep *step) {
    uint32_t warm = pipeline_in_flight(k, stages, s, micros), n = 0;
    for (uint32_t m = 0; m < warm; m++) step[n++] = (PipelineStep){false, m};
    for (uint32_t m = 0; m < micros; m++) {
        step[n++] = (PipelineStep){true, m};
        if (m + warm < micros) step[n++] = (PipelineStep){false, m + warm};
    }
}

void pipeline_print(const PipelineStep *step, uint32_t n, Buf *out) {
    for (uint32_t i = 0; i < n; i++)
        buf_printf(out, "%s%c%u", i ? " " : "", step[i].backward ? 'B' : 'F', step[i].micro);
}

uint32_t pipeline_peak(const PipelineStep *step, uint32_t n) {
    uint32_t now = 0, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (step[i].backward)
            now--;
        else
            now++;
        most = MAX(most, now);
    }
    return most;
}

/* ---- EPL's dependencies ---- */

typedef struct {
    PipelineDep *dep;
    uint32_t n;
} Deps;

static PipelineStep forward(uint32_t m) { return (PipelineStep){false, m}; }
static PipelineStep backward(uint32_t m) { return (PipelineStep){true, m}; }

static void depend(Deps *d, PipelineStep after, PipelineStep before) {
    d->dep[d->n++] = (PipelineDep){before, after};
}

static void prefer_forward(Deps *d, uint32_t micros, uint32_t m) {
    depend(d, forward(m), forward(m - 1));
    depend(d, backward(m), backward(m - 1));
    if (m == micros - 1) depend(d, backward(0), forward(m));
}

/* A stage that keeps `warm` micro-batches, but for the last. */
static void prefer_backward(Deps *d, uint32_t micros, uint32_t m, uint32_t warm) {
    if (m >= warm) {
        uint32_t r = m - warm;
        if (m == micros - 1) depend(d, backward(r + 1), forward(m));
        depend(d, backward(r), forward(m - 1));
        depend(d, forward(m), backward(r));
    } else {
        depend(d, forward(m), forward(m - 1));
        depend(d, backward(micros - m), backward(micros - m - 1));
    }
}

uint32_t pipeline_deps(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros,
                       PipelineDep *dep) {
    Deps d = {dep, 0};
    uint32_t more = k == PIPELINE_PREFER_BACKWARD_OPTIMIZER;
    for (uint32_t m = 1; m < micros; m++) {
        if (k == PIPELINE_PREFER_FORWARD)
            prefer_forward(&d, micros, m);
        else if (s == stages - 1)
            depend(&d, forward(m), backward(m - 1));
        else
            prefer_backward(&d, micros, m, stages - s + more);
    }
    return d.n;
}

bool pipeline_obeys(const PipelineStep *step, uint32_t micros, const PipelineDep *dep,
                    uint32_t ndep) {
    /* when each is done, from 1: forward steps, then backward steps */
    uint32_t *when = xcalloc(2 * (size_t)micros + 1, sizeof *when);
    bool ok = true;
    for (uint32_t i = 0; ok && i < 2 * micros; i++) {
        uint32_t *at = &when[(step[i].backward ? micros : 0) + step[i].micro];
        ok = step[i].micro < micros && *at == 0 && (!step[i].backward || when[step[i].micro]);
        if (ok) *at = i + 1;
    }
    for (uint32_t i = 0; ok && i < ndep; i++) {
        PipelineStep b = dep[i].before, a = dep[i].after;
        ok = when[(b.backward ? micros : 0) + b.micro] < when[(a.backward ? micros : 0) + a.micro];
    }
    free(when);
    return ok;
}

/* ---- neighbours ---- */

TransferGroup pipeline_transfers(const PipelineStep *step, uint32_t n, uint32_t i, uint32_t stages,
                                 uint32_t s) {
    TransferGroup g = {0};
    /* the first stage's gradients and the last stage's activations go nowhere, and none come */
    if (i > 0 && (step[i - 1].backward ? s > 0 : s + 1 < stages))
        g.transfer[g.n++] = (Transfer){true, step[i - 1].backward, step[i - 1].micro};
    if (i < n && (step[i].backward ? s + 1 < stages : s > 0))
        g.transfer[g.n++] = (Transfer){false, step[i].backward, step[i].micro};
    return g;
}

/* Where a stage is: its group before step `at`, of which `open` transfers are not done. */
typedef struct {
    uint32_t at;
    TransferGroup open;
} Player;

/* The stage on the other side of a transfer of stage s. */
static uint32_t other_side(const Transfer *t, uint32_t s) {
    return t->send != t->backward ? s + 1 : s - 1;
}

static void close_transfer(TransferGroup *g, uint32_t i) { g->transfer[i] = g->transfer[--g->n]; }

/* The open transfer of p that goes the same way and has the other role, or its number of them. */
static uint32_t partner(const Player *p, uint32_t s, const Transfer *t, uint32_t from) {
    uint32_t i = 0;
    while (i < p->open.n) {
        const Transfer *o = &p->open.transfer[i];
        if (o->send != t->send && o->backward == t->backward && other_side(o, s) == from) break;
        i++;
    }
    return i;
}

/* Finishes what stage s and its neighbours are both ready for. False: they disagree. */
static bool exchange(Player *p, uint32_t s, bool *moved, Buf *err) {
    for (uint32_t i = 0; i < p[s].open.n;) {
        Transfer *t = &p[s].open.transfer[i];
        uint32_t other = other_side(t, s), k = partner(&p[other], other, t, s);
        if (k == p[other].open.n) {
            i++;
            continue;
        }
        if (p[other].open.transfer[k].micro != t->micro) {
            buf_printf(err, "stage %u is at micro-batch %u and stage %u at %u", s, t->micro, other,
                       p[other].open.transfer[k].micro);
            return false;
        }
        close_transfer(&p[other].open, k);
        close_transfer(&p[s].open, i);
        *moved = true;
    }
    return true;
}

static void say_stuck(const Player *p, PipelineStep *const *order, uint32_t stages, uint32_t n,
                      Buf *err) {
    buf_puts(err, "stages wait for each other:");
    for (uint32_t s = 0; s < stages; s++) {
        if (p[s].at > n) continue;
        buf_printf(err, " %u before ", s);
        if (p[s].at < n)
            pipeline_print(&order[s][p[s].at], 1, err);
        else
            buf_puts(err, "its end");
    }
}

bool pipeline_runs(PipelineStep *const *order, uint32_t stages, uint32_t micros, Buf *err) {
    uint32_t n = 2 * micros, left = stages;
    Player *p = xcalloc(stages + 1, sizeof *p);
    bool ok = true, moved = true;
    for (uint32_t s = 0; s < stages; s++) p[s].open = pipeline_transfers(order[s], n, 0, stages, s);
    while (ok && left > 0 && moved) {
        moved = false;
        for (uint32_t s = 0; ok && s < stages; s++) {
            ok = exchange(p, s, &moved, err);
            for (; ok && p[s].at <= n && p[s].open.n == 0; moved = true) {
                if (p[s].at++ == n)
                    left--;
                else
                    p[s].open = pipeline_transfers(order[s], n, p[s].at, stages, s);
            }
        }
    }
    if (ok && left > 0) say_stuck(p, order, stages, n, err);
    free(p);
    return ok && left == 0;
}

/* ---- time ---- */

/* When things happen: [stage][micro-batch], negative: not yet. */
typedef struct {
    uint32_t micros;
    double *arrived[2]; /* by direction: when the input of a step is there */
    double *link[2];    /* by direction and stage: until when its link to the other is taken */
    double *now;        /* by stage: end of its last step */
} Clock;

static double *arrival(const Clock *c, bool backward, uint32_t s, uint32_t m) {
    return &c->arrived[backward][(size_t)s * c->micros + m];
}

/* Sends the result of a step that ended at `end`, behind what its link is still sending. */
static void send_result(Clock *c, uint32_t stages, uint32_t s, PipelineStep step, double us,
                        double end) {
    if (step.backward ? s == 0 : s + 1 == stages) return;
    double *link = &c->link[step.backward][s];
    *link = MAX(*link, end) + us;
    *arrival(c, step.backward, step.backward ? s - 1 : s + 1, step.micro) = *link;
}

static Clock clock_new(uint32_t stages, uint32_t micros, Arena *a) {
    Clock c = {.micros = micros, .now = arena_array(a, double, stages)};
    size_t steps = (size_t)stages * micros;
    for (int d = 0; d < 2; d++) {
        c.arrived[d] = arena_array(a, double, steps);
        c.link[d] = arena_array(a, double, stages);
        for (size_t i = 0; i < steps; i++) c.arrived[d][i] = -1;
    }
    for (uint32_t m = 0; m < micros; m++) {
        *arrival(&c, false, 0, m) = 0;
        *arrival(&c, true, stages - 1, m) = 0;
    }
    return c;
}

PipelineTime pipeline_time(PipelineStep *const *order, uint32_t stages, uint32_t micros,
                           const PipelineCost *cost, Arena *a) {
    PipelineTime t = {.busy = arena_array(a, double, stages)};
    uint32_t *at = arena_array(a, uint32_t, stages), left = stages * 2 * micros;
    Clock c = clock_new(stages, micros, a);
    for (bool moved = true; left > 0 && moved;) {
        moved = false;
        for (uint32_t s = 0; s < stages; s++) {
            for (; at[s] < 2 * micros; at[s]++, left--, moved = true) {
                PipelineStep step = order[s][at[s]];
                double there = *arrival(&c, step.backward, s, step.micro);
                if (there < 0) break;
                double us = step.backward ? cost[s].backward : cost[s].forward;
                double sent = step.backward ? cost[s].send_backward : cost[s].send_forward;
                c.now[s] = MAX(c.now[s], there) + us;
                t.busy[s] += us;
                send_result(&c, stages, s, step, sent, c.now[s]);
            }
        }
    }
    ASSERT(left == 0);
    double busy = 0;
    for (uint32_t s = 0; s < stages; s++) t.us = MAX(t.us, c.now[s]), busy += t.busy[s];
    t.bubble = t.us > 0 ? 1 - busy / (t.us * stages) : 0;
    return t;
}

double pipeline_bubble(uint32_t stages, uint32_t micros) {
    return (double)(stages - 1) / (double)(micros + stages - 1);
}
