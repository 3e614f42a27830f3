/* topology.c: networks of machines, from the link lines of a machine and the number of ranks.
 *
 * Defaults keep short descriptions short: the first link joins a node's devices, the last one joins
 * what is left, a group has one port, a further message costs its sender the link's whole latency
 * (messages one after the other). Without links, ranks exchange through the host's memory: on a CPU
 * a copy of it, on a GPU over the copy engines. Limits: a tree; groups of one level are alike. */
#include "passes/topology.h"

#include "passes/hdrm.h"
#include "passes/machine_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Topology *t;
    const Machine *m;
    const char *wrong; /* why there is none */
} Maker;

#define FAIL(k, ...) ((k)->wrong = arena_printf(session_arena((k)->m->session), __VA_ARGS__), false)

/* Where nothing is said: µs of a message between processes of one host. */
static const double host_latency = 1;

/* Devices of the whole cluster; 0: as many as there are ranks. */
static int64_t all_devices(const Machine *m) {
    return m->nodes && m->devices ? m->nodes * m->devices : 0;
}

/* How devices reach each other without a link: through the host's memory. */
static TopologyLevel host_level(const Machine *m, int64_t ranks) {
    TopologyLevel l = {.name = "host", .fan = ranks, .unit = 1, .ports = 1};
    bool cpu = strcmp(m->target, "cpu") == 0;
    l.bus = cpu; /* one memory for all; a byte is read and written */
    l.rate = cpu ? m->bandwidth.p[m->bandwidth.n - 1].rate.value / 2
                 : MIN(m->copy[STREAM_IN].value, m->copy[STREAM_OUT].value);
    l.latency = host_latency + m->latency[STREAM_IN].value + m->latency[STREAM_OUT].value;
    l.overhead = l.latency;
    return l;
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* How many groups link i joins; 0: nothing says so. */
static int64_t link_joins(const Machine *m, uint32_t i, int64_t unit, int64_t ranks) {
    const Link *l = &m->link.p[i];
    int64_t all = all_devices(m), nodes = m->nodes ? m->nodes : 1;
    bool last = i + 1 == m->link.n;
    if (l->joins) return l->joins;
    if (i == 0 && m->devices > 1 && (!last || nodes == 1)) return m->devices;
    if (i == 0 && last && m->devices > 1) return 0;
    return last ? MAX(divide_up(all ? all : ranks, unit), 1) : 0;
}

static bool add_level(Maker *k, uint32_t i, int64_t unit) {
    Topology *t = k->t;
    const Machine *m = k->m;
    const Link *l = &m->link.p[i];
    TopologyLevel *to = &t->level[t->nlevel++];
    *to = (TopologyLevel){.name = l->name, .unit = unit, .bus = l->bus, .rails = l->rails};
    to->fan = link_joins(m, i, unit, t->ranks);
    if (to->fan == 0)
        return FAIL(k,
                    "the link '%s' of '%s' needs 'joins N': so many devices, or groups of the "
                    "link before",
                    l->name, m->name);
    to->ports = l->ports ? l->ports : 1;
    if (to->ports > unit)
        return FAIL(k, "the link '%s' of '%s' has %lld ports for %lld devices", l->name, m->name,
                    (long long)to->ports, (long long)unit);
    to->rate = l->rate.value;
    to->latency = l->latency.value;
    to->overhead = l->overhead.value > 0 ? l->overhead.value : to->latency;
    to->burst = l->burst.value, to->header = l->header.value;
    to->nlong = l->nlong;
    for (int k = 0; k < l->nlong; k++)
        to->long_from[k] = l->longer[k].bytes.value, to->long_rate[k] = l->longer[k].rate.value;
    to->bigraph = l->bigraph;
    int64_t ends = to->fan * to->ports;
    if (to->bigraph && (to->bigraph % 2 || ends % to->bigraph || i + 1 < m->link.n))
        return FAIL(k,
                    "the BiGraph '%s' of '%s' must be the last link and have an even number of "
                    "switches that divides its %lld ends",
                    l->name, m->name, (long long)ends);
    return true;
}

static bool add_levels(Maker *k) {
    Topology *t = k->t;
    const Machine *m = k->m;
    int64_t unit = 1;
    if (m->link.n > TOPOLOGY_LEVELS)
        return FAIL(k, "'%s' has more than %d links", m->name, TOPOLOGY_LEVELS);
    for (uint32_t i = 0; i < m->link.n; i++) {
        if (!add_level(k, i, unit)) return false;
        unit *= t->level[i].fan;
        if (unit > INT64_C(1) << 32) return FAIL(k, "'%s' has too many devices", m->name);
    }
    if (m->link.n == 0 && m->nodes > 1 && t->ranks > (m->devices ? m->devices : 1))
        return FAIL(k, "'%s' has %lld nodes and needs a line like 'link nic 12.5GB/s latency 5us'",
                    m->name, (long long)m->nodes);
    if (m->link.n == 0 && t->ranks > 1) t->level[t->nlevel++] = host_level(m, t->ranks);
    return true;
}

static bool check_devices(Maker *k) {
    const Topology *t = k->t;
    const Machine *m = k->m;
    int64_t have = all_devices(m);
    for (int i = 0; i < t->nlevel && m->link.n; i++) have = t->level[i].unit * t->level[i].fan;
    if (have == 0 || t->ranks <= have) return true;
    return FAIL(k, "%lld ranks need as many devices; '%s' has %lld", (long long)t->ranks, m->name,
                (long long)have);
}

/* On a BiGraph whose every device has a port, halving-doubling without shared links. Ranks of
 * unequal devices stay where they are. */
static void place_ranks(Topology *t, const Machine *m) {
    if (machine_groups(m) > 1) return;
    const TopologyLevel *l = t->nlevel ? &t->level[t->nlevel - 1] : NULL;
    if (!l || !l->bigraph || l->ports != l->unit || t->ranks != l->fan * l->unit) return;
    int64_t per = t->ranks / l->bigraph;
    if (!hdrm_possible(per, l->bigraph)) return;
    int64_t *map = arena_array(session_arena(m->session), int64_t, t->ranks);
    hdrm_map(per, l->bigraph, map);
    t->device = map;
}

static Topology *make(const Machine *m, int64_t ranks, const char **wrong) {
    Topology *t = arena_new_of(session_arena(m->session), Topology);
    Maker k = {.t = t, .m = m};
    t->ranks = MAX(ranks, 1);
    t->node = m->link.n ? MAX(m->devices, 1) : 0;
    t->local = m->bandwidth.p[m->bandwidth.n - 1].rate.value;
    t->launch = m->launch.value;
    if (add_levels(&k) && check_devices(&k)) place_ranks(t, m);
    *wrong = k.wrong;
    return t;
}

Topology *topology_of(const Machine *m, int64_t ranks) {
    const char *wrong;
    Topology *t = make(m, ranks, &wrong);
    if (wrong) diag_error(m->session, (Loc){0}, "%s", wrong);
    return wrong ? NULL : t;
}

const Topology *topology_for_group(const Machine *m, int64_t ranks) {
    const char *wrong;
    Topology *t = make(m, MAX(ranks, all_devices(m)), &wrong);
    if (!wrong) return t;
    t->nlevel = 1, t->node = 0, t->device = NULL, t->ranks = MAX(ranks, 1);
    t->level[0] = host_level(m, t->ranks);
    return t;
}

/* ---- a part of the ranks ---- */

/* The most ranks in one unit of a level, or on one of its buses. */
static int64_t most_in_one(const Topology *t, int level) {
    const TopologyLevel *l = &t->level[level];
    int64_t per = l->bus ? l->unit * l->fan : l->unit, last = 0, most = 0;
    for (int64_t r = 0; r < t->ranks; r++) last = MAX(last, topology_device(t, r) / per);
    int64_t *count = xcalloc((size_t)last + 1, sizeof *count);
    for (int64_t r = 0; r < t->ranks; r++) {
        int64_t here = ++count[topology_device(t, r) / per];
        most = MAX(most, here);
    }
    free(count);
    return most;
}

Topology *topology_part(const Topology *t, const int64_t *rank, int64_t n, Arena *a) {
    Topology *out = arena_new_of(a, Topology);
    int64_t *device = arena_array(a, int64_t, n);
    *out = *t;
    for (int64_t i = 0; i < n; i++) device[i] = topology_device(t, rank[i]);
    out->ranks = n, out->device = device;
    for (int l = 0; l < t->nlevel; l++) out->sharers[l] = most_in_one(out, l);
    return out;
}

/* ---- asking ---- */

int64_t topology_device(const Topology *t, int64_t rank) {
    return t->device ? t->device[rank] : rank;
}

int64_t topology_unit(const Topology *t, int level, int64_t rank) {
    int64_t device = topology_device(t, rank);
    if (level == t->nlevel) return 0;
    return device / t->level[level].unit;
}

int topology_level(const Topology *t, int64_t a, int64_t b) {
    int level = t->nlevel;
    while (level >= 0 && topology_unit(t, level, a) == topology_unit(t, level, b)) level--;
    return level;
}

bool topology_uses(const Topology *t, int level, int64_t a, int64_t b) {
    int top = topology_level(t, a, b);
    if (level >= top) return level == top;
    const TopologyLevel *above = &t->level[level + 1];
    return !above->rails ||
           topology_device(t, a) % above->unit != topology_device(t, b) % above->unit;
}

int64_t topology_sharers(const Topology *t, int level) {
    const TopologyLevel *l = &t->level[level];
    if (t->sharers[level]) return t->sharers[level];
    return MIN(l->bus ? l->unit * l->fan : l->unit, t->ranks);
}

int64_t topology_end(const Topology *t, int64_t rank) {
    const TopologyLevel *l = &t->level[t->nlevel - 1];
    int64_t device = topology_device(t, rank);
    return device / l->unit * l->ports + device % l->unit * l->ports / l->unit;
}

static void put_level(const TopologyLevel *l, Buf *out) {
    buf_printf(out, "%s: joins %lld of %lld device%s, ", l->name, (long long)l->fan,
               (long long)l->unit, l->unit == 1 ? "" : "s");
    if (l->bus)
        buf_puts(out, "a bus of ");
    else
        buf_printf(out, "%lld port%s of ", (long long)l->ports, l->ports == 1 ? "" : "s");
    buf_printf(out, "%.4g GB/s, latency %.4g us, %.4g us a further message", l->rate / 1e9,
               l->latency, l->overhead);
    if (l->rails) buf_puts(out, ", rails");
    if (l->bigraph) buf_printf(out, ", BiGraph of %lld switches", (long long)l->bigraph);
    buf_puts(out, "\n");
}

void topology_print(const Topology *t, Buf *out) {
    for (int i = 0; i < t->nlevel; i++) put_level(&t->level[i], out);
    if (t->device) buf_puts(out, "ranks placed by HDRM\n");
}
