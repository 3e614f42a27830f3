/* collectives_exchange.c: in which phases an all_to_all is sent: as `place { all_to_all }` says, or
 * as the model of the machine's network says is fastest.
 *
 * Over an axis of n ranks, phases of sizes a, b, … are: among a neighbours (axis%a), then among the
 * ranks of one place in each such group of ab neighbours (axis%ab/a), and so on; the last one joins
 * all of one place (axis/ab). Left alone, ranks exchange flatly where no network is described and
 * inside a node. Limits: groups over one whole axis; what else there is stays flat. */
#include "passes/collectives.h"

#include <stdlib.h>
#include <string.h>

Exchanges exchanges_begin(const Graph *g, const PassContext *cx) {
    Exchanges e = {.g = g, .m = cx->machine};
    if (!exchange_parse(g->set.all_to_all, &e.how)) {
        diag_error(g->session, (Loc){0}, "setting all_to_all: no such way as \"%s\"",
                   g->set.all_to_all);
        e.how = (Exchange){.kind = EXCHANGE_FLAT};
    }
    if (e.m) e.topology = topology_for_group(e.m, mesh_ranks(&g->set));
    return e;
}

void exchanges_end(Exchanges *e) { vec_free(&e->plan); }

/* Do all members share one node, or is there nothing that tells nodes apart? */
static bool in_one_node(const Topology *t, const MeshGroup *g) {
    bool one = true;
    for (int64_t i = 0; t->node && i < g->n; i++)
        one = one &&
              topology_device(t, mesh_member(g, 0, i)) / t->node == topology_device(t, 0) / t->node;
    return one;
}

static void choose_fastest(const Exchanges *e, const MeshGroup *g, ExchangePlan *p) {
    AllToAllPlan best;
    bool grouped = e->how.kind == EXCHANGE_GROUPED;
    all_to_all_plan(e->topology, g, p->bytes, grouped, &best);
    p->us = p->flat_us = best.flat_us;
    if (!grouped && in_one_node(e->topology, g)) return;
    p->n = best.nphase, p->us = best.us;
    memcpy(p->size, best.size, sizeof p->size);
}

/* The neighbours that were asked for; those that are all ranks of the axis say nothing. */
static bool choose_stated(Exchanges *e, Value v, const MeshGroup *g, ExchangePlan *p) {
    int64_t before = 1;
    p->n = 0;
    for (int i = 0; i < e->how.nparts && e->how.part[i] < g->n; i++) {
        int64_t part = e->how.part[i];
        if (g->n % part != 0) {
            diag_error(e->g->session, node_of(e->g, v)->loc,
                       "all_to_all \"%s\": %lld neighbours do not divide the %lld ranks of '%s'",
                       e->g->set.all_to_all, (long long)part, (long long)g->n, p->axis);
            e->how.kind = EXCHANGE_FLAT; /* said once */
            return false;
        }
        if (part > before) p->size[p->n++] = part / before;
        before = part;
    }
    p->size[p->n++] = g->n / before;
    CommPlan flat, phases;
    if (!e->topology) return true;
    comm_plan(e->topology, g, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, p->bytes, &flat);
    all_to_all_phases(e->topology, g, p->bytes, p->n, p->size, &phases);
    p->flat_us = flat.us, p->us = phases.us;
    return true;
}

static void name_phases(Session *s, const MeshGroup *g, ExchangePlan *p) {
    Buf name = {0};
    for (int64_t i = 0, in = 1; i < p->n; i++) {
        int64_t out = in * p->size[i];
        name.n = 0;
        buf_puts(&name, p->axis);
        if (out < g->n) buf_printf(&name, "%%%lld", (long long)out);
        if (in > 1) buf_printf(&name, "/%lld", (long long)in);
        p->over[i] = intern(s, name.p);
        in = out;
    }
    buf_free(&name);
}

bool exchange_plan(Exchanges *e, Value v, int64_t pieces, ExchangePlan *out) {
    const Graph *g = e->g;
    const Node *n = node_of(g, v);
    MeshGroup group;
    ExchangePlan p = {.axis = attr_str(n, "over"), .n = 1};
    p.bytes = (double)type_elements(n->type) * dtype_size((Dtype)attr_int(n, "wire"));
    p.bytes /= (double)pieces;
    for (uint32_t i = 0; i < e->plan.n; i++)
        if (e->plan.p[i].axis == p.axis && e->plan.p[i].bytes == p.bytes)
            return *out = e->plan.p[i], true;
    bool plain = mesh_axis(&g->set, p.axis) && mesh_group(&g->set, p.axis, &group);
    if (!plain) return *out = p, true;
    p.size[0] = group.n;
    if (e->how.kind == EXCHANGE_STATED && !choose_stated(e, v, &group, &p)) return false;
    if (e->how.kind != EXCHANGE_STATED && e->topology) choose_fastest(e, &group, &p);
    if (e->how.kind == EXCHANGE_FLAT) p.n = 1, p.size[0] = group.n, p.us = p.flat_us;
    name_phases(g->session, &group, &p);
    vec_push(&e->plan, p);
    return *out = p, true;
}
