/* simulate_ranks.c: see simulate_ranks.h.
 *
 * What ranks do together is a meeting: a class's own collective, or one that several classes come
 * to. Who meets whom follows from order alone, as in MPI: the i-th send of one class to another is
 * taken by the i-th receive there, the i-th collective of a group on a stream is that of all in it.
 */
#include "passes/simulate_ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/simulate_links.h"
#include "passes/simulate_private.h"

typedef struct {
    uint32_t kind;
    uint32_t need, here; /* classes that take part; that have come */
    bool active;
    double left; /* us at speed 1 */
} Meeting;

/* Ops that follow each other: sends from one class to another, or collectives of one group. */
typedef struct {
    int64_t from, to; /* of sends; collectives: -1 */
    Stream stream;
    CommWork work;     /* of collectives: whose group */
    const bool *takes; /* by class */
    VEC(uint32_t) op;
    uint32_t *taken; /* by class: how many it has steps for */
} Channel;

typedef struct {
    const Machine *m;
    const RankClass *class;
    uint32_t nclass;
    Arena *arena;
    Links links;
    Streams *streams;                /* by class */
    uint32_t **op_of;                /* by class and step: its op, or NO_STEP */
    uint32_t (*waits)[STREAM_COUNT]; /* by class: the op a stream has come to, or NO_STEP */
    VEC(Meeting) op;
    VEC(Channel) channel;
    VEC(uint32_t) active; /* ops under way */
    VEC(double) speed, most;
    VEC(uint32_t) kind;
    double now;
} Sim;

/* ---- who meets whom ---- */

static bool same_channel(const Sim *s, const Channel *a, const Channel *b) {
    if (a->from != b->from || a->to != b->to) return false;
    if (a->from >= 0) return true;
    const CommWork *x = &a->work, *y = &b->work;
    return a->stream == b->stream && memcmp(a->takes, b->takes, s->nclass * sizeof(bool)) == 0 &&
           x->nlevel == y->nlevel && memcmp(x->size, y->size, sizeof x->size) == 0 &&
           memcmp(x->stride, y->stride, sizeof x->stride) == 0;
}

static Channel *find_channel(Sim *s, const Channel *key) {
    for (uint32_t i = 0; i < s->channel.n; i++)
        if (same_channel(s, &s->channel.p[i], key)) return &s->channel.p[i];
    vec_push(&s->channel, *key);
    Channel *c = &s->channel.p[s->channel.n - 1];
    c->taken = arena_array(s->arena, uint32_t, s->nclass);
    return c;
}

static void find_op(Sim *s, uint32_t c, uint32_t i) {
    const RankComm *comm = &s->class[c].comm[i];
    uint32_t kind = links_kind(&s->links, c, comm);
    const CommKind *k = &s->links.kind.p[kind];
    Channel key = {.from = k->from,
                   .to = -1,
                   .stream = s->class[c].step[i].stream,
                   .work = comm->work,
                   .takes = k->takes};
    for (uint32_t other = 0; k->from >= 0 && other < s->nclass; other++)
        if (k->takes[other] && other != k->from) key.to = other;
    Channel *channel = find_channel(s, &key);
    uint32_t number = channel->taken[c]++;
    if (number == channel->op.n) {
        Meeting op = {.kind = kind, .left = k->us};
        for (uint32_t other = 0; other < s->nclass; other++) op.need += k->takes[other];
        vec_push(&channel->op, s->op.n);
        vec_push(&s->op, op);
    }
    s->op_of[c][i] = channel->op.p[number];
}

static void start_class(Sim *s, uint32_t c) {
    const RankClass *x = &s->class[c];
    streams_init(&s->streams[c], x->machine ? x->machine : s->m, x->step, x->n, s->arena);
    s->op_of[c] = arena_array(s->arena, uint32_t, x->n);
    for (int k = 0; k < STREAM_COUNT; k++) s->waits[c][k] = NO_STEP;
    for (uint32_t i = 0; i < x->n; i++) {
        s->op_of[c][i] = NO_STEP;
        if (x->comm && x->comm[i].work.ranks > 1) find_op(s, c, i);
    }
}

/* ---- events ---- */

static void begin_op(Sim *s, uint32_t op) {
    s->op.p[op].active = true;
    vec_push(&s->active, op);
    for (uint32_t c = 0; c < s->nclass; c++)
        for (int k = 0; k < STREAM_COUNT; k++)
            if (s->waits[c][k] == op) streams_begin(&s->streams[c], k, s->now);
}

static void begin_steps(Sim *s, uint32_t c) {
    Streams *r = &s->streams[c];
    for (int k = 0; k < STREAM_COUNT; k++) {
        if (s->waits[c][k] != NO_STEP || !streams_may_begin(r, k)) continue;
        uint32_t op = s->op_of[c][r->head[k]];
        if (op == NO_STEP) {
            streams_begin(r, k, s->now);
            continue;
        }
        s->waits[c][k] = op;
        if (++s->op.p[op].here == s->op.p[op].need) begin_op(s, op);
    }
}

/* Every op under way goes on as fast as its links, and the streams of all that take part, allow. */
static void find_speeds(Sim *s) {
    s->kind.n = s->most.n = s->speed.n = 0;
    for (uint32_t i = 0; i < s->active.n; i++) {
        double most = 1;
        for (uint32_t c = 0; c < s->nclass; c++)
            for (int k = STREAM_COMM; k < STREAM_COUNT; k++)
                if (s->waits[c][k] == s->active.p[i])
                    most = MIN(most, streams_speed(&s->streams[c], k));
        vec_push(&s->kind, s->op.p[s->active.p[i]].kind);
        vec_push(&s->most, most);
        vec_push(&s->speed, 0);
    }
    links_speeds(&s->links, s->kind.p, s->most.p, s->active.n, s->speed.p);
}

/* Whether stream k of class c works on a step of its own. */
static bool works_alone(const Sim *s, uint32_t c, int k) {
    return (s->streams[c].active >> k & 1) && s->waits[c][k] == NO_STEP;
}

/* The time until something is through. */
static double next_event(const Sim *s) {
    double dt = INFINITY;
    for (uint32_t c = 0; c < s->nclass; c++)
        for (int k = 0; k < STREAM_COUNT; k++)
            if (works_alone(s, c, k))
                dt = MIN(dt, s->streams[c].left[k] / streams_speed(&s->streams[c], k));
    for (uint32_t i = 0; i < s->active.n; i++)
        dt = MIN(dt, s->op.p[s->active.p[i]].left / s->speed.p[i]);
    return dt;
}

static void account_links(Sim *s, double dt) {
    for (uint32_t x = 0; x < s->links.link.n; x++)
        s->links.link.p[x].us += s->links.link.p[x].full * dt;
}

static void end_op(Sim *s, uint32_t op, double now) {
    for (uint32_t c = 0; c < s->nclass; c++)
        for (int k = 0; k < STREAM_COUNT; k++) {
            if (s->waits[c][k] != op) continue;
            streams_end(&s->streams[c], k, now);
            s->waits[c][k] = NO_STEP;
        }
}

/* Streams of a class that work on steps of their own, at the speeds they have now. */
static void advance_class(Sim *s, uint32_t c, double dt) {
    Streams *r = &s->streams[c];
    double speed[STREAM_COUNT];
    bool works[STREAM_COUNT];
    streams_account(r, dt);
    for (int k = 0; k < STREAM_COUNT; k++)
        if ((works[k] = works_alone(s, c, k))) speed[k] = streams_speed(r, k);
    for (int k = 0; k < STREAM_COUNT; k++) {
        if (!works[k]) continue;
        if (r->left[k] <= dt * speed[k] * (1 + TOGETHER))
            streams_end(r, k, s->now + dt);
        else
            r->left[k] -= dt * speed[k];
    }
}

static void advance(Sim *s, double dt) {
    uint32_t kept = 0;
    account_links(s, dt);
    for (uint32_t c = 0; c < s->nclass; c++) advance_class(s, c, dt);
    for (uint32_t i = 0; i < s->active.n; i++) {
        Meeting *op = &s->op.p[s->active.p[i]];
        if (op->left <= dt * s->speed.p[i] * (1 + TOGETHER)) {
            end_op(s, s->active.p[i], s->now + dt);
            continue;
        }
        op->left -= dt * s->speed.p[i];
        s->active.p[kept++] = s->active.p[i];
    }
    s->active.n = kept;
    s->now += dt;
}

/* ---- the result ---- */

static void sum_links(const Sim *s, RanksRun *out) {
    const Topology *t = s->links.topology;
    out->nlink = t->nlevel + (t->nlevel && t->level[t->nlevel - 1].bigraph > 0);
    for (int l = 0; l < out->nlink; l++)
        out->link[l].name = l < t->nlevel ? t->level[l].name : "between switches";
    for (uint32_t x = 0; x < s->links.link.n; x++) {
        LinkUse *to = &out->link[s->links.link.p[x].level];
        to->us = MAX(to->us, s->links.link.p[x].us);
    }
    for (uint32_t i = 0; i < s->op.n; i++)
        for (int l = 0; l < t->nlevel; l++) {
            const CommTraffic *x = &s->links.kind.p[s->op.p[i].kind].traffic[l];
            out->link[l].bytes += x->bytes, out->link[l].messages += x->messages;
        }
}

/* Nothing is under way: are all through? */
static bool all_through(const Sim *s, RanksRun *out) {
    for (uint32_t c = 0; c < s->nclass; c++)
        for (int k = 0; k < STREAM_COUNT; k++) {
            if (s->waits[c][k] == NO_STEP) continue;
            out->stuck_class = c, out->stuck_step = s->streams[c].head[k];
            return false;
        }
    for (uint32_t c = 0; c < s->nclass; c++)
        for (int k = 0; k < STREAM_COUNT; k++)
            if (s->streams[c].head[k] != NO_STEP)
                BUG("step %u waits for a later one", s->streams[c].head[k]);
    return true;
}

static void free_sim(Sim *s) {
    for (uint32_t i = 0; i < s->channel.n; i++) vec_free(&s->channel.p[i].op);
    vec_free(&s->channel);
    vec_free(&s->op);
    vec_free(&s->active);
    vec_free(&s->speed);
    vec_free(&s->most);
    vec_free(&s->kind);
    links_free(&s->links);
}

bool simulate_ranks(const Machine *m, const Topology *t, const RankClass *class, uint32_t nclass,
                    Arena *a, RanksRun *out) {
    Sim s = {.m = m, .class = class, .nclass = nclass, .arena = a};
    *out = (RanksRun){.run = arena_array(a, Simulation, nclass)};
    s.streams = arena_array(a, Streams, nclass);
    s.op_of = arena_array(a, uint32_t *, nclass);
    s.waits = arena_alloc(a, nclass * sizeof *s.waits);
    links_init(&s.links, t, class, nclass, a);
    for (uint32_t c = 0; c < nclass; c++) {
        start_class(&s, c);
        s.streams[c].out.begin = arena_array(a, double, class[c].n);
        s.streams[c].out.end = arena_array(a, double, class[c].n);
    }
    for (;;) {
        for (uint32_t c = 0; c < nclass; c++) begin_steps(&s, c);
        find_speeds(&s);
        double dt = next_event(&s);
        if (isinf(dt)) break;
        advance(&s, dt);
    }
    bool good = all_through(&s, out);
    for (uint32_t c = 0; c < nclass; c++) out->run[c] = s.streams[c].out;
    out->us = s.now;
    sum_links(&s, out);
    free_sim(&s);
    return good;
}
