/* comm_phase.c: one phase of a collective: who sends how much over which level, and how long that
 * takes. Where messages lie on links is counted rank by rank, so that any group and any placement
 * of ranks has its own figures. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/comm_phase.h"
#include "passes/hdrm.h"

/* ---- where bytes go ---- */

void comm_members(const Topology *t, const MeshGroup *g, int64_t w[TOPOLOGY_LEVELS + 1]) {
    memset(w, 0, sizeof(int64_t) * (TOPOLOGY_LEVELS + 1));
    for (int64_t i = 0; i < g->n; i++) {
        int level = topology_level(t, 0, mesh_member(g, 0, i));
        for (int l = level + 1; l <= t->nlevel; l++) w[l]++;
    }
}

double all_to_all_messages(const int64_t *w, int level) {
    return (double)(w[level + 1] - w[level]);
}

double all_to_all_bytes(const int64_t *w, int nlevel, int level, double bytes) {
    return bytes * (double)(w[level + 1] - w[level]) / (double)w[nlevel];
}

/* One message from a to b, which stands for `share` of a rank's. */
static void add_message(const Topology *t, CommPhase *p, int64_t a, int64_t b, double share,
                        double bytes) {
    int top = topology_level(t, a, b);
    if (top < 0) return;
    p->level[top].messages += share;
    p->level[top].bytes += share * bytes;
    for (int l = 0; l < top; l++)
        if (topology_uses(t, l, a, b)) p->level[l].through += share * bytes;
}

static int64_t partner_of(Partner p, int64_t i, int64_t n) {
    return p.flip ? i ^ p.flip : (i + p.shift) % n;
}

/* Messages over the busiest link of the BiGraph when every rank writes its partner, or, without
 * one, everyone in its group. */
static double fabric_load(const Topology *t, const MeshGroup *g, const Partner *p) {
    const TopologyLevel *l = &t->level[t->nlevel - 1];
    int64_t switches = l->bigraph, per = l->fan * l->ports / switches;
    int64_t *messages = xcalloc((size_t)(switches * switches), sizeof *messages);
    for (int64_t r = 0; r < t->ranks; r++) {
        int64_t own = mesh_index(g, r), *row = messages + topology_end(t, r) / per * switches;
        for (int64_t i = p ? partner_of(*p, own, g->n) : 0; i < g->n; i = p ? g->n : i + 1)
            row[topology_end(t, mesh_member(g, r, i)) / per]++;
    }
    BigraphLoad load = bigraph_load(switches, messages);
    free(messages);
    return (double)load.busiest;
}

static bool has_fabric(const Topology *t) { return t->nlevel && t->level[t->nlevel - 1].bigraph; }

void phase_partners(const Topology *t, const MeshGroup *g, Partner p, double rounds, double bytes,
                    CommPhase *out) {
    *out = (CommPhase){.rounds = rounds};
    for (int64_t i = 0; i < g->n; i++)
        add_message(t, out, mesh_member(g, 0, i), mesh_member(g, 0, partner_of(p, i, g->n)),
                    1 / (double)g->n, bytes);
    if (has_fabric(t)) out->fabric = bytes * fabric_load(t, g, &p);
}

void phase_direct(const Topology *t, const MeshGroup *g, double bytes, CommPhase *out) {
    *out = (CommPhase){.rounds = 1};
    double each = bytes / (double)g->n;
    for (int64_t i = 1; i < g->n; i++) add_message(t, out, 0, mesh_member(g, 0, i), 1, each);
    if (has_fabric(t)) out->fabric = each * fabric_load(t, g, NULL);
}

/* ---- how long it takes ---- */

/* Bytes that the busiest of a level's links carries in a round. */
static double link_bytes(const Topology *t, const CommPhase *p, int level) {
    const TopologyLevel *l = &t->level[level];
    double sharers = (double)topology_sharers(t, level);
    const CommTraffic *x = &p->level[level];
    double own = x->bytes + x->messages * l->header;
    /* a bus carries what goes out of it and what comes in */
    if (l->bus) return (own + 2 * x->through) * sharers;
    return (own + x->through) * sharers / MIN((double)l->ports, sharers);
}

/* Between two sizes that have a rate, on a line over the logarithm of sizes. */
static double link_rate(const TopologyLevel *l, const CommTraffic *x) {
    double bytes = x->bytes / MAX(x->messages, 1e-9);
    int i = 0;
    while (i < l->nlong && bytes >= l->long_from[i]) i++;
    if (i == 0) return l->rate;
    if (i == l->nlong) return l->long_rate[i - 1];
    double along = log(bytes / l->long_from[i - 1]) / log(l->long_from[i] / l->long_from[i - 1]);
    return l->long_rate[i - 1] + along * (l->long_rate[i] - l->long_rate[i - 1]);
}

/* µs in which a level's busiest link carries a round's bytes, after `pause` µs with nothing to do:
 * what it saved up meanwhile is gone at once. */
static double link_us(const Topology *t, const CommPhase *p, int level, double pause) {
    const TopologyLevel *l = &t->level[level];
    double all = link_bytes(t, p, level), saved = MIN(l->burst, pause * l->rate / 1e6);
    return MAX(all - saved, 0) / link_rate(l, &p->level[level]) * 1e6;
}

double comm_link_us(const Topology *t, const CommPlan *p, int level) {
    double us = 0;
    for (int i = 0; i < p->nphase; i++) {
        const CommPhase *x = &p->phase[i];
        double fabric = x->fabric / t->level[t->nlevel - 1].rate * 1e6;
        us += x->rounds * (level < t->nlevel ? link_us(t, x, level, 0) : fabric);
    }
    return us;
}

/* A latency, the outermost level's; then messages are posted while others are on their way, and the
 * last one's bytes follow. */
static double round_us(const Topology *t, const CommPhase *p) {
    double latency = 0, messages = 0, posts = 0, busy = 0;
    for (int l = 0; l < t->nlevel; l++) {
        if (p->level[l].messages > 0) latency = MAX(latency, t->level[l].latency);
        messages += p->level[l].messages;
        posts += p->level[l].messages * t->level[l].overhead;
    }
    for (int l = 0; l < t->nlevel; l++) busy = MAX(busy, link_us(t, p, l, latency));
    if (p->fabric > 0) busy = MAX(busy, p->fabric / t->level[t->nlevel - 1].rate * 1e6);
    double last = 1 / MAX(messages, 1);
    return latency + (1 - last) * MAX(posts, busy) + last * busy;
}

double comm_phase_us(const Topology *t, const CommPhase *p) {
    return p->rounds * round_us(t, p) + p->copied / t->local * 1e6 + p->launches * t->launch;
}

double comm_convert_us(const Topology *t, double count, Dtype from, Dtype to) {
    return t->launch + count * (dtype_size(from) + dtype_size(to)) / t->local * 1e6;
}
