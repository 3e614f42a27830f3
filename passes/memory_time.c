/* memory_time.c: how long a program takes, before its bytes have places.
 *
 * Its runs and copies are simulated with the waits that any placement may need: a copy begins when
 * the run before its window has ended, for its bytes may have been in use until then; a run, and
 * what is fetched for it, wait for what has to have left before, for its bytes may be there. A plan
 * waits only where bytes really meet, so this is seldom less than what it takes. */
#include "passes/memory_private.h"
#include "passes/simulate.h"

typedef struct {
    const Problem *p;
    const Program *g;
    Arena *a;
    TimedStep *step;
    uint32_t n;
    uint32_t *maker; /* by version: the step that makes it, or NONE */
    Agenda agenda;
    uint32_t *fetcher; /* by version: the last step that fetches it, or NONE */
    uint32_t last_run; /* the last step of the compute stream so far */
} Timing;

static void wait_for(TimedStep *s, const TimedStep *all, uint32_t other) {
    if (other != NONE && all[other].stream != s->stream) s->wait[s->nwait++] = other;
}

static uint32_t add_step(Timing *t, Stream stream, double us, uint32_t waits) {
    t->step[t->n] =
        (TimedStep){.stream = stream, .us = us, .wait = arena_array(t->a, uint32_t, waits + 1)};
    return t->n++;
}

static bool to_device(const Timing *t, const Move *m) {
    return t->g->version.p[m->to].mem == MEM_DEVICE;
}

/* Moves that are done before a run, an upper bound of the sends among them. */
static uint32_t sends_done(const Timing *t, uint32_t run) {
    uint32_t n = 0;
    for (uint32_t k = t->agenda.first[1][run]; k; k = t->agenda.next[1][k - 1]) n++;
    return n;
}

/* What has to have left before this run. */
static void wait_for_sends(Timing *t, uint32_t s, uint32_t run) {
    for (uint32_t k = t->agenda.first[1][run]; k; k = t->agenda.next[1][k - 1]) {
        const Move *m = &t->g->move.p[k - 1];
        if (!to_device(t, m)) wait_for(&t->step[s], t->step, t->maker[m->to]);
    }
}

/* What goes into a leaf waits for those who fetch the leaf's old value. */
static void wait_for_leaf(Timing *t, uint32_t s, uint32_t version) {
    const Version *x = &t->g->version.p[version];
    Value leaf = t->p->target[x->v];
    if (x->place == PLACE_LEAF && leaf != NO_VALUE)
        wait_for(&t->step[s], t->step, t->fetcher[t->g->home[leaf]]);
}

static void time_moves(Timing *t, uint32_t run, bool fetches) {
    for (uint32_t i = t->agenda.first[0][run]; i; i = t->agenda.next[0][i - 1]) {
        const Move *m = &t->g->move.p[i - 1];
        if (to_device(t, m) != fetches) continue;
        uint32_t s = add_step(t, m->stream, m->us, 3 + (fetches ? sends_done(t, run) : 0));
        wait_for(&t->step[s], t->step, t->maker[m->from]);
        wait_for(&t->step[s], t->step, t->last_run);
        if (fetches) wait_for_sends(t, s, run), t->fetcher[m->from] = s;
        wait_for_leaf(t, s, m->to);
        t->maker[m->to] = s;
    }
}

static void time_run(Timing *t, uint32_t i) {
    const Run *r = &t->g->run.p[i];
    const Unit *unit = &t->p->us.unit[r->unit];
    bool host = r->kind == RUN_HOST;
    Stream stream = host ? STREAM_HOST : t->p->stream[r->unit];
    uint32_t s = add_step(t, stream, host ? t->p->host[r->unit] : t->p->price[r->unit],
                          2 * unit->nread + unit->nwrite + sends_done(t, i) + 1);
    if (stream >= STREAM_COMM) wait_for(&t->step[s], t->step, t->last_run);
    for (uint32_t k = 0; k < unit->nread; k++)
        wait_for(&t->step[s], t->step, t->maker[t->g->link.p[r->read + k]]);
    wait_for_sends(t, s, i);
    for (uint32_t k = 0; k < unit->nwrite; k++) {
        t->maker[t->g->link.p[r->write + k]] = s;
        if (host) wait_for_leaf(t, s, t->g->link.p[r->write + k]);
    }
    if (stream == STREAM_COMPUTE) t->last_run = s;
}

/* New values that did not go into their leaf at once are copied there at the end. */
static void time_assigns(Timing *t) {
    const Graph *g = t->p->g;
    for (uint32_t i = 0; i < t->p->assign.n; i++) {
        Value v = t->p->assign.p[i];
        Value leaf = operand(g, v, 0), x = view_base(g, operand(g, v, 1));
        bool home = t->g->at_home[leaf];
        uint32_t version = home ? t->g->device[x] : t->g->away[x];
        if (leaf == x || version == NONE || t->g->version.p[version].place == PLACE_LEAF) continue;
        Mem mem = t->g->version.p[t->g->home[leaf]].mem;
        Work w = {.what = "assign",
                  .copy = true,
                  .from = t->g->version.p[version].mem,
                  .to = mem,
                  .bytes = (double)type_bytes(type_of(g, leaf))};
        uint32_t s = add_step(t, stream_of_copy(w.from, mem), cost_us(t->p->machine, &w), 1);
        wait_for(&t->step[s], t->step, t->maker[version]);
    }
}

double program_time(const Problem *p, const Program *g) {
    Arena *a = arena_new();
    Timing t = {.p = p, .g = g, .a = a, .last_run = NONE};
    uint32_t most = g->run.n + g->move.n + p->g->node.n / 2;
    t.step = arena_array(a, TimedStep, most + 1);
    t.fetcher = no_values(a, g->version.n);
    t.maker = no_values(a, g->version.n);
    program_agenda(g, &t.agenda, a);
    for (uint32_t i = 0; i <= g->run.n; i++) {
        time_moves(&t, i, false);
        time_moves(&t, i, true);
        if (i < g->run.n) time_run(&t, i);
    }
    time_assigns(&t);
    double us = simulate(p->machine, t.step, t.n, false, a).us;
    arena_free(a);
    return us;
}
