/* netsim.c: flows on a topology's links, with max-min fair shares by progressive filling.
 *
 * Links: per group and level one up and one down with the rate of all its ports, per bus one, per
 * BiGraph one for each direction between switches of different layers. Shares are worked out anew
 * whenever flows begin or end; what happens within a billionth of the time happens at once. */
#include "passes/netsim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/hdrm.h"

enum { PATH = 2 * TOPOLOGY_LEVELS + 2 };

typedef struct {
    double start; /* when its bytes begin to flow */
    double left;  /* bytes */
    double rate;  /* bytes/µs at present */
    double limit; /* of one port on its way */
    int npath;
    uint32_t path[PATH];
    bool fixed; /* while shares are worked out */
} Flow;

typedef struct {
    double rate; /* bytes/µs */
    double left; /* while shares are worked out */
    uint32_t flows;
} NetLink;

struct Net {
    const Topology *topology;
    double now;
    VEC(Flow) flow;
    VEC(uint32_t) waiting, active, done;
    VEC(NetLink) link;
    uint32_t first[TOPOLOGY_LEVELS]; /* links of a level: up and down of each group, or buses */
    uint32_t fabric;                 /* the BiGraph's first */
};

/* ---- links ---- */

/* Ranks are on the first devices; where they are placed by a map, on all of them. */
static int64_t groups_of(const Topology *t, int level) {
    return (t->ranks - 1) / t->level[level].unit + 1;
}

static void add_links(Net *n, int64_t count, double rate) {
    for (int64_t i = 0; i < count; i++) vec_push(&n->link, ((NetLink){.rate = rate}));
}

Net *net_new(const Topology *t) {
    Net *n = xcalloc(1, sizeof *n);
    n->topology = t;
    for (int l = 0; l < t->nlevel; l++) {
        const TopologyLevel *level = &t->level[l];
        double port = level->rate / 1e6, sharers = (double)topology_sharers(t, l);
        n->first[l] = n->link.n;
        if (level->bus)
            add_links(n, groups_of(t, l) / level->fan + 1, port);
        else
            add_links(n, 2 * groups_of(t, l), port * MIN((double)level->ports, sharers));
    }
    n->fabric = n->link.n;
    if (t->nlevel && t->level[t->nlevel - 1].bigraph) {
        const TopologyLevel *level = &t->level[t->nlevel - 1];
        add_links(n, level->bigraph * level->bigraph / 2, level->rate / 1e6);
    }
    return n;
}

void net_free(Net *n) {
    vec_free(&n->flow);
    vec_free(&n->waiting);
    vec_free(&n->active);
    vec_free(&n->done);
    vec_free(&n->link);
    free(n);
}

static void add_hop(Flow *f, uint32_t link) {
    for (int i = 0; i < f->npath; i++)
        if (f->path[i] == link) return; /* one bus for both ends */
    ASSERT(f->npath < PATH);
    f->path[f->npath++] = link;
}

static void add_fabric(const Net *n, Flow *f, int64_t from, int64_t to) {
    const Topology *t = n->topology;
    const TopologyLevel *l = &t->level[t->nlevel - 1];
    int64_t link[2], per = l->fan * l->ports / l->bigraph;
    int hops =
        bigraph_route(l->bigraph, topology_end(t, from) / per, topology_end(t, to) / per, link);
    for (int i = 0; i < hops; i++) add_hop(f, n->fabric + (uint32_t)link[i]);
}

static void find_path(const Net *n, Flow *f, const NetMessage *m) {
    const Topology *t = n->topology;
    int64_t from = m->from, to = m->to;
    int top = topology_level(t, from, to);
    f->limit = INFINITY;
    for (int l = 0; l <= top; l++) {
        const TopologyLevel *level = &t->level[l];
        uint32_t a = (uint32_t)topology_unit(t, l, from), b = (uint32_t)topology_unit(t, l, to);
        if (!topology_uses(t, l, from, to)) continue;
        f->limit = MIN(f->limit, level->rate / 1e6 * (double)MIN(MAX(m->ports, 1), level->ports));
        add_hop(f, n->first[l] + (level->bus ? a / (uint32_t)level->fan : 2 * a));
        add_hop(f, n->first[l] + (level->bus ? b / (uint32_t)level->fan : 2 * b + 1));
    }
    if (top == t->nlevel - 1 && top >= 0 && t->level[top].bigraph) add_fabric(n, f, from, to);
}

/* ---- fair shares ---- */

/* The rate at which some link, or some flow's port, is used up first. */
static double least_share(const Net *n) {
    double least = INFINITY;
    for (uint32_t i = 0; i < n->link.n; i++)
        if (n->link.p[i].flows) least = MIN(least, n->link.p[i].left / n->link.p[i].flows);
    for (uint32_t i = 0; i < n->active.n; i++) {
        const Flow *f = &n->flow.p[n->active.p[i]];
        if (!f->fixed) least = MIN(least, f->limit);
    }
    return least;
}

static bool is_full(const Net *n, const Flow *f, double share) {
    double most = share * (1 + 1e-9);
    for (int i = 0; i < f->npath; i++) {
        const NetLink *l = &n->link.p[f->path[i]];
        if (l->left / l->flows <= most) return true;
    }
    return f->limit <= most;
}

static void fix(Net *n, Flow *f, double share) {
    f->fixed = true, f->rate = share;
    for (int i = 0; i < f->npath; i++) {
        NetLink *l = &n->link.p[f->path[i]];
        l->left = MAX(l->left - share, 0), l->flows--;
    }
}

static void share_links(Net *n) {
    uint32_t open = n->active.n;
    for (uint32_t i = 0; i < n->link.n; i++) n->link.p[i].left = n->link.p[i].rate;
    for (uint32_t i = 0; i < n->active.n; i++) {
        Flow *f = &n->flow.p[n->active.p[i]];
        f->fixed = false;
        for (int k = 0; k < f->npath; k++) n->link.p[f->path[k]].flows++;
    }
    while (open) {
        double share = least_share(n);
        for (uint32_t i = 0; i < n->active.n; i++) {
            Flow *f = &n->flow.p[n->active.p[i]];
            if (!f->fixed && is_full(n, f, share)) fix(n, f, share), open--;
        }
    }
}

/* ---- time ---- */

double net_time(const Net *n) { return n->now; }
const uint32_t *net_done(const Net *n) { return n->done.p; }

uint32_t net_post(Net *n, double at, const NetMessage *m) {
    int level = topology_level(n->topology, m->from, m->to);
    Flow f = {.start = at, .left = m->bytes};
    if (level >= 0) f.start += n->topology->level[level].latency;
    find_path(n, &f, m);
    vec_push(&n->flow, f);
    vec_push(&n->waiting, n->flow.n - 1);
    return n->flow.n - 1;
}

/* When the next flow begins or, at present rates, ends. */
static double next_event(const Net *n) {
    double next = INFINITY;
    for (uint32_t i = 0; i < n->waiting.n; i++) next = MIN(next, n->flow.p[n->waiting.p[i]].start);
    for (uint32_t i = 0; i < n->active.n; i++) {
        const Flow *f = &n->flow.p[n->active.p[i]];
        next = MIN(next, n->now + f->left / f->rate);
    }
    return MAX(next, n->now);
}

/* Lets time pass, then takes out what has ended and lets in what begins. */
static void step_to(Net *n, double at) {
    double near = 1e-9 * MAX(at, 1);
    uint32_t keep = 0;
    for (uint32_t i = 0; i < n->active.n; i++) {
        Flow *f = &n->flow.p[n->active.p[i]];
        f->left -= f->rate * (at - n->now);
        if (f->left <= f->rate * near)
            vec_push(&n->done, n->active.p[i]);
        else
            n->active.p[keep++] = n->active.p[i];
    }
    n->active.n = keep, keep = 0;
    for (uint32_t i = 0; i < n->waiting.n; i++) {
        uint32_t w = n->waiting.p[i];
        if (n->flow.p[w].start > at + near)
            n->waiting.p[keep++] = w;
        else if (n->flow.p[w].left > 0 && n->flow.p[w].npath > 0)
            vec_push(&n->active, w);
        else
            vec_push(&n->done, w);
    }
    n->waiting.n = keep;
    n->now = at;
    share_links(n);
}

uint32_t net_advance(Net *n, double until) {
    n->done.n = 0;
    while (n->done.n == 0) {
        double next = next_event(n);
        if (next > until || isinf(next)) {
            if (!isinf(until)) step_to(n, until);
            break;
        }
        step_to(n, next);
    }
    return n->done.n;
}

/* ---- one collective ---- */

typedef struct {
    const Topology *topology;
    Net *net;
    const NetMessage *m;
    uint32_t n;
    uint32_t *message;       /* of each posted flow */
    uint32_t *next;          /* per rank: its messages, as `order`, are posted up to here */
    uint32_t *first, *order; /* per rank: its messages in order[first[r]] … order[first[r+1]] */
    uint32_t *open;          /* per rank and round: not through yet */
    int32_t rounds;
} Run;

/* Posts what the rank may send now. */
static void post_round(Run *r, int64_t rank, double now) {
    uint32_t at = r->next[rank], end = r->first[rank + 1];
    if (at == end) return;
    int32_t round = r->m[r->order[at]].round;
    for (int32_t i = 0; i < round; i++)
        if (r->open[rank * r->rounds + i]) return;
    for (; at < end && r->m[r->order[at]].round == round; at++) {
        const NetMessage *m = &r->m[r->order[at]];
        int level = topology_level(r->topology, m->from, m->to);
        r->message[net_post(r->net, now, m)] = r->order[at];
        if (level >= 0) now += r->topology->level[level].overhead;
    }
    r->next[rank] = at;
}

static void sort_messages(Run *r) {
    int64_t ranks = r->topology->ranks;
    for (uint32_t i = 0; i < r->n; i++) r->first[r->m[i].from + 1]++;
    for (int64_t i = 0; i < ranks; i++) r->first[i + 1] += r->first[i], r->next[i] = r->first[i];
    for (uint32_t i = 0; i < r->n; i++) r->order[r->next[r->m[i].from]++] = i;
    for (int64_t i = 0; i < ranks; i++) r->next[i] = r->first[i];
    for (uint32_t i = 0; i < r->n; i++) {
        r->open[r->m[i].from * r->rounds + r->m[i].round]++;
        r->open[r->m[i].to * r->rounds + r->m[i].round]++;
    }
}

static double run(Run *r) {
    double last = 0;
    for (int64_t i = 0; i < r->topology->ranks; i++) post_round(r, i, 0);
    for (uint32_t k; (k = net_advance(r->net, INFINITY)) > 0;) {
        last = net_time(r->net);
        for (uint32_t i = 0; i < k; i++) {
            const NetMessage *m = &r->m[r->message[net_done(r->net)[i]]];
            r->open[m->from * r->rounds + m->round]--;
            r->open[m->to * r->rounds + m->round]--;
        }
        for (uint32_t i = 0; i < k; i++) {
            const NetMessage *m = &r->m[r->message[net_done(r->net)[i]]];
            post_round(r, m->from, last);
            post_round(r, m->to, last);
        }
    }
    return last;
}

double net_collective_us(const Topology *t, const NetMessage *m, uint32_t n) {
    size_t ranks = (size_t)t->ranks;
    Run r = {.topology = t, .net = net_new(t), .m = m, .n = n, .rounds = 1};
    for (uint32_t i = 0; i < n; i++) r.rounds = MAX(r.rounds, m[i].round + 1);
    r.message = xcalloc(n + 1, sizeof(uint32_t));
    r.order = xcalloc(n + 1, sizeof(uint32_t));
    r.next = xcalloc(ranks + 1, sizeof(uint32_t));
    r.first = xcalloc(ranks + 1, sizeof(uint32_t));
    r.open = xcalloc(ranks * (size_t)r.rounds, sizeof(uint32_t));
    sort_messages(&r);
    double us = run(&r);
    net_free(r.net);
    free(r.message), free(r.order), free(r.next), free(r.first), free(r.open);
    return us;
}
