/* comm_algorithm.c: collectives as phases.
 *
 * An all_reduce is a reduce_scatter and an all_gather. Both come as a ring (each rank passes what
 * it got to the next one), by halving or doubling (Thakur et al. 2005: near partners first with
 * half of the bytes, then farther ones with half of that; the gather runs backwards), direct, and
 * hierarchical: inside the innermost group of the topology, then, of the part that each rank has
 * there, by the best algorithm between the ranks of one index. */
#include <string.h>

#include "passes/comm_phase.h"

const char *comm_algorithm_name(CommAlgorithm a) {
    static const char *const name[] = {"ring", "halving-doubling", "direct", "hierarchical"};
    _Static_assert(COUNT(name) == COMM_ALGORITHMS, "a name for each algorithm");
    return name[a];
}

/* ---- parts of groups ---- */

bool group_parts(const MeshGroup *g, int64_t part, MeshGroup *inner, MeshGroup *outer) {
    MeshGroup in = {.n = part}, out = {.n = part > 0 ? g->n / part : 0};
    int64_t left = part;
    if (part < 1 || g->n % part != 0) return false;
    for (int i = g->nlevel; i-- > 0;) {
        int64_t size = g->size[i], take = left < size ? left : size;
        if (left % take != 0 || size % take != 0) return false;
        left /= take;
        /* levels from the fastest on; turned around below */
        if (take > 1) in.size[in.nlevel] = take, in.stride[in.nlevel++] = g->stride[i];
        if (take == size) continue;
        out.size[out.nlevel] = size / take, out.stride[out.nlevel++] = g->stride[i] * take;
    }
    MeshGroup *to[] = {inner, outer}, *from[] = {&in, &out};
    for (int k = 0; k < 2; k++) {
        *to[k] = (MeshGroup){.n = from[k]->n, .nlevel = from[k]->nlevel};
        for (int i = 0; i < from[k]->nlevel; i++) {
            int last = from[k]->nlevel - 1 - i;
            to[k]->size[i] = from[k]->size[last], to[k]->stride[i] = from[k]->stride[last];
        }
    }
    return left == 1;
}

/* Neighbours of the group that its innermost proper unit joins; 1: there is no such unit, or it
 * does not hold the first members and divide them. */
static int64_t node_part(const Topology *t, const MeshGroup *g) {
    int64_t w[TOPOLOGY_LEVELS + 1];
    comm_members(t, g, w);
    for (int l = 1; l <= t->nlevel; l++) {
        if (w[l] == 1 || g->n % w[l] != 0) continue;
        int64_t first = mesh_member(g, 0, 0), last = mesh_member(g, 0, w[l] - 1);
        bool near = topology_unit(t, l, first) == topology_unit(t, l, last);
        return w[l] < g->n && near ? w[l] : 1;
    }
    return 1;
}

/* ---- algorithms ---- */

static CommPhase *add_phase(CommPlan *p) {
    if (p->nphase == COMM_PHASES) BUG("a collective of more than %d phases", COMM_PHASES);
    return &p->phase[p->nphase++];
}

static bool add_ring(const Topology *t, const MeshGroup *g, double bytes, CommPlan *p) {
    double n = (double)g->n;
    phase_partners(t, g, (Partner){.shift = 1}, n - 1, bytes / n, add_phase(p));
    return true;
}

static bool add_halving(const Topology *t, const MeshGroup *g, bool gather, double bytes,
                        CommPlan *p) {
    int rounds = 0;
    if (g->n & (g->n - 1)) return false;
    while (INT64_C(1) << rounds < g->n) rounds++;
    for (int i = 0; i < rounds; i++) {
        int s = gather ? rounds - 1 - i : i;
        double part = bytes / (double)(INT64_C(2) << s);
        phase_partners(t, g, (Partner){.flip = INT64_C(1) << s}, 1, part, add_phase(p));
    }
    return true;
}

static bool add_direct(const Topology *t, const MeshGroup *g, double bytes, CommPlan *p) {
    phase_direct(t, g, bytes, add_phase(p));
    return true;
}

/* Scatter and gather inside a node by one algorithm; between nodes by the best one. */
static bool add_hierarchical(const Topology *t, const MeshGroup *g, Collective c, double bytes,
                             CommPlan *p) {
    MeshGroup inner, outer;
    CommPlan in, between;
    int64_t part = node_part(t, g);
    if (part == 1 || !group_parts(g, part, &inner, &outer)) return false;
    bool reduce = c == COLLECTIVE_ALL_REDUCE;
    comm_best(t, &inner, c, bytes, &in);
    comm_best(t, &outer, c, bytes / (double)part, &between);
    if (in.nphase + between.nphase > COMM_PHASES - p->nphase) return false;
    /* an all_reduce inside is both halves: what is between comes in the middle */
    int before = reduce ? in.nphase / 2 : c == COLLECTIVE_REDUCE_SCATTER ? in.nphase : 0;
    for (int i = 0; i < before; i++) *add_phase(p) = in.phase[i];
    for (int i = 0; i < between.nphase; i++) *add_phase(p) = between.phase[i];
    for (int i = before; i < in.nphase; i++) *add_phase(p) = in.phase[i];
    /* blocks by node and index change places */
    if (!reduce) p->phase[p->nphase - 1].copied += 2 * bytes;
    return true;
}

/* One half of an all_reduce, or a collective of its own. */
static bool add_half(const Topology *t, const MeshGroup *g, Collective c, CommAlgorithm how,
                     double bytes, CommPlan *p) {
    if (how == COMM_RING) return add_ring(t, g, bytes, p);
    if (how == COMM_DIRECT) return add_direct(t, g, bytes, p);
    return add_halving(t, g, c == COLLECTIVE_ALL_GATHER, bytes, p);
}

static bool add_collective(const Topology *t, const MeshGroup *g, Collective c, CommAlgorithm how,
                           double bytes, CommPlan *p) {
    if (c == COLLECTIVE_SEND || c == COLLECTIVE_RECV) {
        phase_partners(t, g, (Partner){.shift = 1}, 1, bytes, add_phase(p));
        return true;
    }
    /* in phases it is several collectives: all_to_all_phases */
    if (c == COLLECTIVE_ALL_TO_ALL) return how == COMM_DIRECT && add_direct(t, g, bytes, p);
    if (how == COMM_HIERARCHICAL) return add_hierarchical(t, g, c, bytes, p);
    if (c != COLLECTIVE_ALL_REDUCE) return add_half(t, g, c, how, bytes, p);
    return add_half(t, g, COLLECTIVE_REDUCE_SCATTER, how, bytes, p) &&
           add_half(t, g, COLLECTIVE_ALL_GATHER, how, bytes, p);
}

static void add_up(const Topology *t, CommPlan *p) {
    p->us = 0;
    for (int i = 0; i < p->nphase; i++) p->us += comm_phase_us(t, &p->phase[i]);
}

bool comm_plan(const Topology *t, const MeshGroup *g, Collective c, CommAlgorithm how, double bytes,
               CommPlan *out) {
    out->how = how, out->nphase = 0, out->us = 0;
    if (g->n > 1 && !add_collective(t, g, c, how, bytes, out)) return false;
    add_up(t, out);
    out->us += t->launch;
    return true;
}

double comm_best(const Topology *t, const MeshGroup *g, Collective c, double bytes, CommPlan *out) {
    CommPlan one;
    bool any = false;
    for (int how = 0; how < COMM_ALGORITHMS; how++) {
        /* phases of an all_to_all are steps of their own */
        if (c == COLLECTIVE_ALL_TO_ALL && how != COMM_DIRECT) continue;
        if (!comm_plan(t, g, c, (CommAlgorithm)how, bytes, &one)) continue;
        if (!any || one.us < out->us) *out = one;
        any = true;
    }
    ASSERT(any);
    return out->us;
}

void comm_traffic(const CommPlan *p, CommTraffic out[TOPOLOGY_LEVELS]) {
    memset(out, 0, sizeof(CommTraffic) * TOPOLOGY_LEVELS);
    for (int i = 0; i < p->nphase; i++)
        for (int l = 0; l < TOPOLOGY_LEVELS; l++) {
            const CommTraffic *x = &p->phase[i].level[l];
            out[l].messages += p->phase[i].rounds * x->messages;
            out[l].bytes += p->phase[i].rounds * x->bytes;
            out[l].through += p->phase[i].rounds * x->through;
        }
}

double comm_least_bytes(Collective c, int64_t n, double bytes) {
    if (c == COLLECTIVE_SEND || c == COLLECTIVE_RECV) return bytes;
    return (c == COLLECTIVE_ALL_REDUCE ? 2 : 1) * bytes * (double)(n - 1) / (double)n;
}

int64_t comm_messages(Collective c, int64_t n) {
    if (c == COLLECTIVE_SEND || c == COLLECTIVE_RECV) return 1;
    return (c == COLLECTIVE_ALL_REDUCE ? 2 : 1) * (n - 1);
}

/* ---- all_to_all in phases ---- */

double grouped_messages(int nphase, const int64_t *size) {
    double sum = 0;
    for (int i = 0; i < nphase; i++) sum += (double)(size[i] - 1);
    return sum;
}

double grouped_bytes(int nphase, const int64_t *size, double bytes) {
    double sum = 0;
    for (int i = 0; i < nphase; i++) sum += bytes * (double)(size[i] - 1) / (double)size[i];
    return sum;
}

bool all_to_all_phases(const Topology *t, const MeshGroup *g, double bytes, int nphase,
                       const int64_t *size, CommPlan *out) {
    MeshGroup rest = *g, inner;
    *out = (CommPlan){.how = nphase > 1 ? COMM_HIERARCHICAL : COMM_DIRECT};
    for (int i = 0; i < nphase; i++) {
        if (!group_parts(&rest, size[i], &inner, &rest)) return false;
        CommPhase *p = add_phase(out);
        phase_direct(t, &inner, bytes, p);
        /* each phase is a collective of its own, and between two blocks change places; before the
         * first and after the last that is part of kernels that are there anyway */
        p->launches = i ? 2 : 1;
        p->copied = i ? 2 * bytes : 0;
    }
    add_up(t, out);
    return rest.n == 1;
}

/* In these phases, if that is faster than what was found. */
static void try_phases(const Topology *t, const MeshGroup *g, double bytes, int n,
                       const int64_t *size, AllToAllPlan *best) {
    CommPlan one;
    if (!all_to_all_phases(t, g, bytes, n, size, &one)) return;
    if (best->nphase && one.us >= best->us) return;
    best->plan = one, best->us = one.us, best->nphase = n;
    memcpy(best->size, size, sizeof *size * (size_t)n);
}

void all_to_all_plan(const Topology *t, const MeshGroup *g, double bytes, bool grouped,
                     AllToAllPlan *out) {
    int64_t n = g->n;
    out->nphase = 0;
    try_phases(t, g, bytes, 1, &n, out);
    out->flat_us = out->us;
    if (grouped) out->nphase = 0;
    for (int64_t a = 2; a < n; a++) {
        if (n % a != 0) continue;
        try_phases(t, g, bytes, 2, (int64_t[]){a, n / a}, out);
        for (int64_t b = 2; t->nlevel > 2 && a * b < n; b++)
            if (n % (a * b) == 0) try_phases(t, g, bytes, 3, (int64_t[]){a, b, n / (a * b)}, out);
    }
    if (out->nphase == 0) try_phases(t, g, bytes, 1, &n, out);
}

/* ---- for people ---- */

void comm_print(const Topology *t, const CommPlan *p, Buf *out) {
    CommTraffic sum[TOPOLOGY_LEVELS];
    comm_traffic(p, sum);
    buf_printf(out, "%s, %.4g us\n", comm_algorithm_name(p->how), p->us);
    for (int l = 0; l < t->nlevel; l++)
        buf_printf(out, "  %s: %.4g messages, %.4g bytes a rank\n", t->level[l].name,
                   sum[l].messages, sum[l].bytes);
}
