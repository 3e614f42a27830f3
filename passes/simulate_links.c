/* simulate_links.c: which links communication uses, and how it shares them. */
#include "passes/simulate_links.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/machine_private.h"

/* ---- units that are alike ---- */

static bool has_link(const Links *l, int level, const int64_t *count) {
    for (uint32_t i = 0; i < l->link.n; i++)
        if (l->link.p[i].level == level &&
            memcmp(l->link.p[i].count, count, l->nclass * sizeof *count) == 0)
            return true;
    return false;
}

static void add_link(Links *l, int level, const int64_t *count) {
    bool one = level == l->topology->nlevel || l->topology->level[level].bus;
    for (int out = 0; out < (one ? 1 : 2); out++)
        vec_push(&l->link,
                 ((SimLink){.level = level, .count = count, .in = one || !out, .out = one || out}));
}

/* The links of a level, one for all units with the same ranks in them. */
static void add_level(Links *l, int level) {
    const Topology *t = l->topology;
    const TopologyLevel *x = &t->level[MIN(level, t->nlevel - 1)];
    int64_t per = level == t->nlevel ? INT64_MAX : x->bus ? x->unit * x->fan : x->unit, units = 0;
    for (int64_t r = 0; r < t->ranks; r++) units = MAX(units, topology_device(t, r) / per + 1);
    int64_t *count = arena_array(l->arena, int64_t, units * l->nclass);
    for (int64_t r = 0; r < t->ranks; r++)
        count[topology_device(t, r) / per * l->nclass + l->class_of[r]]++;
    for (int64_t u = 0; u < units; u++)
        if (!has_link(l, level, count + u * l->nclass)) add_link(l, level, count + u * l->nclass);
}

void links_init(Links *l, const Topology *t, const RankClass *class, uint32_t nclass, Arena *a) {
    *l = (Links){.topology = t, .class = class, .nclass = nclass, .arena = a};
    l->own = arena_array(a, const Topology *, nclass);
    for (uint32_t c = 0; c < nclass; c++) {
        l->own[c] = t;
        for (uint32_t b = 0; b < c && class[c].machine; b++)
            if (class[b].machine == class[c].machine) l->own[c] = l->own[b];
        if (class[c].machine && l->own[c] == t) l->own[c] = topology_of(class[c].machine, t->ranks);
    }
    l->class_of = arena_array(a, uint32_t, t->ranks);
    l->open = arena_array(a, bool, nclass *COMM_STREAMS);
    for (uint32_t c = 0; c < nclass; c++)
        for (int64_t i = 0; i < class[c].nrank; i++) l->class_of[class[c].rank[i]] = c;
    for (int level = 0; level < t->nlevel; level++) add_level(l, level);
    if (t->nlevel && t->level[t->nlevel - 1].bigraph) add_level(l, t->nlevel);
}

void links_free(Links *l) {
    vec_free(&l->link);
    vec_free(&l->kind);
}

/* ---- kinds of communication ---- */

/* The ranks of the classes that take part, ascending; *place is each rank's index among them. */
static int64_t taking_part(const Links *l, const CommKind *k, int64_t **rank, int64_t **place) {
    int64_t n = 0;
    *rank = arena_array(l->arena, int64_t, l->topology->ranks);
    *place = arena_array(l->arena, int64_t, l->topology->ranks);
    for (int64_t r = 0; r < l->topology->ranks; r++)
        if (k->takes[l->class_of[r]]) (*place)[r] = n, (*rank)[n++] = r;
    return n;
}

/* Its groups among those that take part: rank `first` is one of them, at place 0 on every level. */
static MeshGroup group_among(const CommKind *k, int64_t first, int64_t peer, const int64_t *place) {
    MeshGroup g = comm_group(&k->work);
    if (k->from >= 0) {
        int64_t apart = place[peer] - place[first];
        g = (MeshGroup){.nlevel = 1, .n = 2, .size = {2}, .stride = {apart < 0 ? -apart : apart}};
    }
    for (int i = 0; i < g.nlevel && k->from < 0; i++)
        g.stride[i] = place[first + g.stride[i]] - place[first];
    return g;
}

/* Ranks of the unit behind a link that send over it, or get something over it. */
static int64_t users_of(const Links *l, const CommKind *k, const SimLink *x) {
    int64_t n = 0;
    for (uint32_t c = 0; c < l->nclass; c++) {
        if (!k->takes[c]) continue;
        bool sends = k->from < 0 || k->from == c, gets = k->from < 0 || k->from != c;
        if ((sends && x->out) || (gets && x->in)) n += x->count[c];
    }
    return n;
}

static void find_shares(Links *l, CommKind *k, const Topology *part, const CommPlan *plan) {
    k->share = arena_array(l->arena, LinkShare, l->link.n);
    for (uint32_t i = 0; i < l->link.n; i++) {
        const SimLink *x = &l->link.p[i];
        int64_t users = users_of(l, k, x);
        double us = comm_link_us(part, plan, x->level);
        if (users == 0 || us <= 0) continue;
        if (x->level < part->nlevel) us *= (double)users / (double)topology_sharers(part, x->level);
        k->share[k->nshare++] = (LinkShare){i, us < k->us ? us / k->us : 1};
    }
}

/* Of ranks on equal devices theirs, else the common one: with the slowest links. */
static const Topology *topology_among(const Links *l, const CommKind *k, uint32_t c) {
    for (uint32_t other = 0; other < l->nclass; other++)
        if (k->takes[other] && l->own[other] != l->own[c]) return l->topology;
    return l->own[c];
}

static void find_price(Links *l, CommKind *k, uint32_t c, int64_t peer) {
    const Topology *t = topology_among(l, k, c);
    CommPlan plan;
    int64_t *rank, *place, n = taking_part(l, k, &rank, &place);
    const Topology *part = n == t->ranks ? t : topology_part(t, rank, n, l->arena);
    MeshGroup g = group_among(k, l->class[c].rank[0], peer, place);
    k->us = comm_best(part, &g, k->work.kind, k->work.bytes, &plan);
    find_shares(l, k, part, &plan);
    comm_traffic(&plan, k->traffic);
    double senders = (double)(k->from < 0 ? n : l->class[k->from].nrank);
    for (int i = 0; i < t->nlevel; i++)
        k->traffic[i].bytes *= senders, k->traffic[i].messages *= senders;
}

static bool same_kind(const Links *l, const CommKind *a, const CommKind *b) {
    return a->from == b->from && comm_equal(&a->work, &b->work) &&
           memcmp(a->takes, b->takes, l->nclass * sizeof *a->takes) == 0;
}

uint32_t links_kind(Links *l, uint32_t c, const RankComm *comm) {
    MeshGroup g = comm_group(&comm->work);
    int64_t own = l->class[c].rank[0], peer = own;
    bool *takes = arena_array(l->arena, bool, l->nclass);
    CommKind k = {.work = comm->work, .takes = takes, .from = -1};
    if (comm->work.kind == COLLECTIVE_SEND || comm->work.kind == COLLECTIVE_RECV) {
        bool sends = comm->work.kind == COLLECTIVE_SEND;
        peer = mesh_member(&g, own, comm->peer);
        takes[c] = takes[l->class_of[peer]] = true;
        k.from = sends ? c : l->class_of[peer];
        k.work.kind = COLLECTIVE_SEND;
    } else {
        for (int64_t i = 0; i < g.n; i++) takes[l->class_of[mesh_member(&g, own, i)]] = true;
    }
    for (uint32_t i = 0; i < l->kind.n; i++)
        if (same_kind(l, &l->kind.p[i], &k)) return i;
    find_price(l, &k, c, peer);
    vec_push(&l->kind, k);
    return l->kind.n - 1;
}

/* ---- fair shares ---- */

/* How much faster all that are open may go on until a link is full or one has its most. */
static double next_rise(Links *l, const uint32_t *kind, const double *most, uint32_t n,
                        const double *speed, const bool *open) {
    double rise = INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (open[i]) rise = MIN(rise, most[i] - speed[i]);
    for (uint32_t x = 0; x < l->link.n; x++) {
        double wanted = 0;
        for (uint32_t i = 0; i < n; i++) {
            const CommKind *k = &l->kind.p[kind[i]];
            for (uint32_t j = 0; open[i] && j < k->nshare; j++)
                if (k->share[j].link == x) wanted += k->share[j].share;
        }
        if (wanted > 0) rise = MIN(rise, (1 - l->link.p[x].full) / wanted);
    }
    return MAX(rise, 0);
}

static bool is_held(const Links *l, const CommKind *k) {
    for (uint32_t j = 0; j < k->nshare; j++)
        if (l->link.p[k->share[j].link].full >= 1 - 1e-9) return true;
    return false;
}

void links_speeds(Links *l, const uint32_t *kind, const double *most, uint32_t n, double *speed) {
    bool *open = l->open;
    uint32_t left = n;
    ASSERT(n <= l->nclass * COMM_STREAMS);
    for (uint32_t x = 0; x < l->link.n; x++) l->link.p[x].full = 0;
    for (uint32_t i = 0; i < n; i++) open[i] = true, speed[i] = 0;
    while (left) {
        double rise = next_rise(l, kind, most, n, speed, open);
        for (uint32_t i = 0; i < n; i++) {
            const CommKind *k = &l->kind.p[kind[i]];
            for (uint32_t j = 0; open[i] && j < k->nshare; j++)
                l->link.p[k->share[j].link].full += rise * k->share[j].share;
            speed[i] += open[i] ? rise : 0;
        }
        uint32_t before = left;
        for (uint32_t i = 0; i < n; i++)
            if (open[i] && (speed[i] >= most[i] * (1 - 1e-9) || is_held(l, &l->kind.p[kind[i]])))
                open[i] = false, left--;
        ASSERT(left < before);
    }
}
