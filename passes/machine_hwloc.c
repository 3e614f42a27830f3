/* machine_hwloc.c: the network inside a node as hwloc sees it: cores, or a plan's GPUs, below PCI
 * bridges, NUMA nodes and packages.
 *
 *     cores    numa: a bus, the memory they share       package, machine: a link a group
 *     GPUs     pcie: each has its link, behind one bridge, host or package        the same
 *
 * A level is described where all its groups are alike and lie one after the other; others are left
 * out. hwloc knows no rates but these: of PCI links, of which three quarters count, as for NCCL; of
 * a NUMA node's memory, in some files. For the rest stands the profile: memory's bandwidth shared
 * out to the NUMA nodes, of which other nodes get as much less as they are said to be farther away
 * (half where nothing is said, as Linux assumes). Of times it knows none: 1 us between processes,
 * 3 us over PCIe. NVLinks it does not see: NCCL's file has them. */
#include <expat.h>
#include <hwloc.h>
#include <hwloc/distances.h>
#include <hwloc/memattrs.h>
#include <string.h>

#include "passes/machine_private.h"

enum { NVIDIA = 0x10de, DISPLAY = 0x03 };

/* From inner to outer. */
typedef enum { BRIDGE, NUMA, PACKAGE, WHOLE, LEVELS } Level;
static const char *const names[LEVELS] = {"pcie", "numa", "package", "machine"};

typedef struct {
    hwloc_obj_t device, group[LEVELS]; /* group: NULL where it is in none */
} Leaf;

typedef struct {
    hwloc_topology_t t;
    const Machine *profile;
    bool gpus;
    VEC(Leaf) leaf;
    double local; /* bytes/s of a NUMA node's memory */
    double pcie;  /* of a GPU's link; 0: not known */
} Node;

/* ---- reading ---- */

static bool set_source(Session *s, hwloc_topology_t t, HwlocKind kind, const char *name,
                       const char *text, size_t n) {
    Loc at = {session_add_file(s, name, text, n), 1, 1};
    if (kind == HWLOC_SYNTHETIC && hwloc_topology_set_synthetic(t, text) != 0) {
        diag_error(s, at, "hwloc knows no such synthetic topology");
        return false;
    }
    if (kind != HWLOC_XML) return true;
    XML_Parser xml = XML_ParserCreate(NULL);
    if (!xml || n > INT32_MAX - 1) BUG("no memory for reading %s", name);
    bool ok = XML_Parse(xml, text, (int)n, 1) == XML_STATUS_OK;
    if (!ok) diag_error(s, xml_loc(xml, at.file), "%s", XML_ErrorString(XML_GetErrorCode(xml)));
    XML_ParserFree(xml);
    if (!ok) return false;
    if (hwloc_topology_set_xmlbuffer(t, text, (int)n + 1) == 0) return true;
    diag_error(s, at, "not a topology of hwloc (lstopo FILE.xml writes one)");
    return false;
}

static bool load(Session *s, const Node *d, HwlocKind kind, const char *name, const char *text,
                 size_t n) {
    if (!set_source(s, d->t, kind, name, text, n)) return false;
    if (d->gpus) hwloc_topology_set_io_types_filter(d->t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(d->t) == 0) return true;
    diag_error(s, (Loc){session_find_file(s, name), 1, 1},
               "not a topology of hwloc (lstopo FILE.xml writes one)");
    return false;
}

/* ---- devices and what they are in ---- */

static hwloc_obj_t with_memory(hwloc_obj_t o) {
    while (o && o->memory_arity == 0) o = o->parent;
    return o;
}

/* The bridge below the host's that all of a device's traffic passes. */
static hwloc_obj_t outer_bridge(hwloc_obj_t o) {
    hwloc_obj_t found = NULL;
    for (o = o->parent; o && o->type == HWLOC_OBJ_BRIDGE; o = o->parent)
        if (o->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI) found = o;
    return found;
}

static void add_leaf(Node *d, hwloc_obj_t o) {
    hwloc_obj_t inside = hwloc_get_non_io_ancestor_obj(d->t, o);
    if (o->type != HWLOC_OBJ_PCI_DEVICE) inside = o;
    Leaf l = {.device = o};
    l.group[BRIDGE] = inside == o ? NULL : outer_bridge(o);
    l.group[NUMA] = with_memory(inside);
    bool package = inside->type == HWLOC_OBJ_PACKAGE;
    l.group[PACKAGE] =
        package ? inside : hwloc_get_ancestor_obj_by_type(d->t, HWLOC_OBJ_PACKAGE, inside);
    l.group[WHOLE] = hwloc_get_root_obj(d->t);
    vec_push(&d->leaf, l);
}

static double least(double a, double b) { return a == 0 || (b > 0 && b < a) ? b : a; }

/* bytes/s that data get of a PCI link; hwloc's rates are GB/s. */
static double pci_rate(double linkspeed) { return linkspeed * 0.75e9; }

static void add_gpus(Node *d) {
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_pcidev(d->t, o)) != NULL;) {
        if (o->attr->pcidev.class_id >> 8 != DISPLAY || o->attr->pcidev.vendor_id != NVIDIA)
            continue;
        add_leaf(d, o);
        d->pcie = least(d->pcie, pci_rate((double)o->attr->pcidev.linkspeed));
    }
}

static void add_cores(Node *d) {
    hwloc_obj_type_t type =
        hwloc_get_nbobjs_by_type(d->t, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(d->t, type, o)) != NULL;)
        add_leaf(d, o);
}

/* Devices of each group of a level; 0: they are not alike, or not in one place. */
static uint32_t group_size(const Node *d, Level l) {
    uint32_t size = 0;
    for (uint32_t i = 0, n; i < d->leaf.n; i += n) {
        hwloc_obj_t o = d->leaf.p[i].group[l];
        for (n = 0; i + n < d->leaf.n && d->leaf.p[i + n].group[l] == o;) n++;
        if (!o || (size && n != size)) return 0;
        size = n;
        for (uint32_t k = i + n; k < d->leaf.n; k++)
            if (d->leaf.p[k].group[l] == o) return 0;
    }
    return size;
}

/* ---- rates ---- */

static double last_rate(const Machine *m, bool host) {
    if (host && m->host_bandwidth.n) return m->host_bandwidth.p[m->host_bandwidth.n - 1].rate.value;
    return m->bandwidth.p[m->bandwidth.n - 1].rate.value;
}

/* What the file says of the first NUMA node's memory, or the profile of all. */
static double local_rate(const Node *d) {
    hwloc_obj_t node = hwloc_get_obj_by_type(d->t, HWLOC_OBJ_NUMANODE, 0);
    struct hwloc_location from = {.type = HWLOC_LOCATION_TYPE_CPUSET};
    hwloc_uint64_t mib = 0;
    from.location.cpuset = node->cpuset;
    if (hwloc_memattr_get_value(d->t, HWLOC_MEMATTR_ID_BANDWIDTH, node, &from, 0, &mib) == 0)
        return (double)mib * 0x1p20;
    return last_rate(d->profile, d->gpus) / hwloc_get_nbobjs_by_type(d->t, HWLOC_OBJ_NUMANODE);
}

/* Are these NUMA nodes in one group of the level? */
static bool are_together(const Node *d, Level l, hwloc_obj_t a, hwloc_obj_t b) {
    if (l != PACKAGE) return true;
    hwloc_obj_t p = hwloc_get_ancestor_obj_by_type(d->t, HWLOC_OBJ_PACKAGE, a);
    return p && p == hwloc_get_ancestor_obj_by_type(d->t, HWLOC_OBJ_PACKAGE, b);
}

/* How much farther away the memory of another NUMA node of the group is, at most. */
static double distance(const Node *d, Level l) {
    struct hwloc_distances_s *x;
    unsigned n = 1;
    double most = 1;
    int none = hwloc_distances_get_by_type(d->t, HWLOC_OBJ_NUMANODE, &n, &x,
                                           HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0);
    if (none || n == 0) return 2;
    for (unsigned i = 0; i < x->nbobjs * x->nbobjs; i++) {
        unsigned a = i / x->nbobjs, b = i % x->nbobjs;
        double self = (double)x->values[a * x->nbobjs + a];
        if (self > 0 && are_together(d, l, x->objs[a], x->objs[b]))
            most = MAX(most, (double)x->values[i] / self);
    }
    hwloc_distances_release(d->t, x);
    return most;
}

/* The slowest of the bridges' links to the host. */
static double bridge_rate(const Node *d) {
    double rate = 0;
    for (uint32_t i = 0; i < d->leaf.n; i++) {
        hwloc_obj_t o = d->leaf.p[i].group[BRIDGE];
        if (o) rate = least(rate, pci_rate((double)o->attr->bridge.upstream.pci.linkspeed));
    }
    return rate;
}

static void put_link(Buf *out, Level l, double rate, double us, int64_t joins, bool bus) {
    buf_printf(out, "link %s %.4gGB/s latency %.4gus joins %lld%s\n", names[l], rate / 1e9, us,
               (long long)joins, bus ? " bus" : "");
}

/* Of groups of `unit` devices, whose own level was `inner`. */
static void put_level(const Node *d, Level l, Level inner, uint32_t unit, int64_t joins, Buf *out) {
    double far = distance(d, l), remote = d->local / far;
    if (!d->gpus && l == NUMA) /* one memory: a byte is read and written */
        put_link(out, l, d->local / 2, 1, joins, true);
    else if (!d->gpus)
        put_link(out, l, remote, far, joins, false);
    else if (unit == 1)
        put_link(out, l, l > NUMA ? least(d->pcie, remote) : d->pcie, 3, joins, false);
    else
        put_link(out, l, inner == BRIDGE ? least(bridge_rate(d), d->local) : remote, 3, joins,
                 false);
}

static void put_lines(Node *d, Buf *out) {
    uint32_t unit = 1;
    Level inner = WHOLE;
    if (d->pcie == 0) d->pcie = MIN(d->profile->copy[STREAM_IN].value, d->local);
    buf_printf(out, "devices %u\n", d->leaf.n);
    for (Level l = BRIDGE; l < LEVELS; l++) {
        uint32_t size = group_size(d, l);
        if (size <= unit || size % unit) continue;
        put_level(d, l, inner, unit, size / unit, out);
        unit = size;
        inner = l;
    }
}

bool hwloc_network(Session *s, HwlocKind kind, const char *name, const char *text, size_t n,
                   const Machine *profile, Buf *out) {
    Node d = {.profile = profile, .gpus = strncmp(machine_target(profile), "sm_", 3) == 0};
    if (hwloc_topology_init(&d.t) != 0) BUG("no memory for hwloc");
    bool ok = load(s, &d, kind, name, text, n);
    if (ok) {
        d.local = local_rate(&d);
        d.gpus ? add_gpus(&d) : add_cores(&d);
        ok = d.leaf.n > 0;
        if (!ok)
            diag_error(s, (Loc){session_find_file(s, name), 1, 1},
                       "hwloc shows no NVIDIA GPU here, and the target is %s",
                       machine_target(profile));
    }
    if (ok) put_lines(&d, out);
    vec_free(&d.leaf);
    hwloc_topology_destroy(d.t);
    return ok;
}
