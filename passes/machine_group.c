/* machine_group.c: clusters of unequal nodes.
 *
 * Every group is a machine of its own, read from its own file, whose links the cluster's links
 * follow. The cluster as a whole is as slow as its slowest group at each piece of work, and has as
 * much memory as the smallest. Limit: the network is one tree (topology.h), so nodes of all groups
 * have equally many devices, joined alike; only rates and times of their links may differ. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "passes/machine_private.h"

/* ---- files ---- */

/* The path of a group's file is from the cluster file's folder. */
static const char *resolve(Session *s, const char *cluster, const char *file) {
    const char *slash = strrchr(cluster, '/');
    if (file[0] == '/' || !slash) return file;
    return arena_printf(session_arena(s), "%.*s/%s", (int)(slash - cluster), cluster, file);
}

static const char *read_text(Machine *m, const MachineGroup *g, const char *path, size_t *n) {
    struct stat st;
    char *text = NULL;
    Status failure = stat(path, &st) == 0 && !S_ISREG(st.st_mode)
                         ? status_make(EXIT_INPUT, "%s: not a file", path)
                         : file_read(path, &text, n);
    if (failure) diag_error(m->session, g->loc, "%s", failure->text);
    const char *kept = failure ? NULL : arena_strdup(session_arena(m->session), text, *n);
    free(failure);
    free(text);
    return kept;
}

static bool load_group(Machine *m, const char *cluster, MachineGroup *g) {
    size_t n = 0;
    const char *path = resolve(m->session, cluster, g->file);
    const char *text = read_text(m, g, path, &n);
    if (!text) return false;
    g->of = machine_parse_part(m->session, path, text, n);
    if (!g->of) diag_note(m->session, g->loc, "it is the file of this group");
    return g->of != NULL;
}

/* ---- what fits together ---- */

static bool is_cpu(const Machine *m) { return strcmp(m->target, "cpu") == 0; }

static bool joined_alike(const Machine *a, const Machine *b) {
    bool same = a->link.n == b->link.n;
    for (uint32_t i = 0; same && i < a->link.n; i++) {
        const Link *x = &a->link.p[i], *y = &b->link.p[i];
        same = x->joins == y->joins && x->ports == y->ports && x->bigraph == y->bigraph &&
               x->bus == y->bus && x->rails == y->rails;
    }
    return same;
}

/* A group's nodes beside those of the first. */
static void check_group(const Machine *m, const MachineGroup *g) {
    Session *s = m->session;
    const Machine *x = g->of, *first = m->group.p[0].of;
    if (x->devices == 0)
        diag_error(s, g->loc, "the file of a group needs a line like 'devices 8': of a node");
    else if (x->nodes > 1)
        diag_error(s, g->loc, "'%s' has %lld nodes: the file of a group describes one", x->name,
                   (long long)x->nodes);
    else if (x->devices != first->devices)
        diag_error(s, g->loc, "nodes of %lld devices do not stand beside nodes of %lld",
                   (long long)x->devices, (long long)first->devices);
    else if (is_cpu(x) != is_cpu(first))
        diag_error(s, g->loc, "no plan runs on %s and on %s", first->target, x->target);
    else if (!joined_alike(first, x))
        diag_error(s, g->loc, "the links inside a node of '%s' are not arranged as in '%s'",
                   x->name, first->name);
}

/* ---- the whole ---- */

static void take_smaller(Quantity *to, const Quantity *x) {
    if (x->value > 0 && (to->value == 0 || x->value < to->value)) *to = *x;
}

static void take_larger(Quantity *to, const Quantity *x) {
    if (x->value > to->value) *to = *x;
}

static double last_rate(const Machine *m) {
    return m->bandwidth.n ? m->bandwidth.p[m->bandwidth.n - 1].rate.value : 0;
}

/* What a plan for both may count on. Prices of work are not among it: groups_us. */
static void take_worse(Machine *m, const Machine *x) {
    for (int i = 0; i < MEM_COUNT; i++) take_smaller(&m->memory[i], &x->memory[i]);
    for (int i = 0; i < STREAM_COUNT; i++) take_smaller(&m->copy[i], &x->copy[i]);
    for (int i = 0; i < STREAM_COUNT; i++) take_larger(&m->latency[i], &x->latency[i]);
    take_larger(&m->launch, &x->launch);
    if (!m->bandwidth.n || last_rate(x) < last_rate(m)) m->bandwidth = x->bandwidth;
    /* GPUs run the code of older ones */
    bool older = m->target && atoi(x->target + strcspn(x->target, "0123456789")) <
                                  atoi(m->target + strcspn(m->target, "0123456789"));
    if (!m->target || older) m->target = x->target;
    for (uint32_t i = 0; i < m->inner; i++)
        if (x->link.p[i].rate.value < m->link.p[i].rate.value) m->link.p[i] = x->link.p[i];
}

/* The cluster's own links, which begin at `from`, with the `inner` ones of a group before them. */
static void take_links(Machine *m, uint32_t from, const Machine *group, uint32_t inner) {
    Machine own = *m;
    memset(&m->link, 0, sizeof m->link);
    for (uint32_t i = 0; i < inner; i++) PUSH(m, &m->link, group->link.p[i]);
    for (uint32_t i = from; i < own.link.n; i++) PUSH(m, &m->link, own.link.p[i]);
    m->inner = inner;
}

static void add_links(Machine *group, const Machine *cluster) {
    for (uint32_t i = cluster->inner; i < cluster->link.n; i++)
        PUSH(group, &group->link, cluster->link.p[i]);
    group->nodes = cluster->nodes;
}

static void take_groups(Machine *m) {
    for (uint32_t i = 0; i < m->group.n; i++)
        if (m->group.p[i].counts) take_worse(m, m->group.p[i].of);
}

void groups_join(Machine *m, const char *file) {
    int before = diag_errors(m->session);
    for (uint32_t i = 0; i < m->group.n; i++) {
        MachineGroup *g = &m->group.p[i];
        if (!load_group(m, file, g)) return;
        check_group(m, g);
        m->nodes += g->nodes;
        g->counts = true;
    }
    if (diag_errors(m->session) > before) return;
    const Machine *first = m->group.p[0].of;
    take_links(m, 0, first, first->link.n);
    m->devices = first->devices;
    for (uint32_t i = 0; i < m->group.n; i++) add_links(m->group.p[i].of, m);
    take_groups(m);
}

/* ---- asking ---- */

uint32_t machine_groups(const Machine *m) { return MAX(m->group.n, 1u); }
bool machine_has_groups(const Machine *m) { return m->group.n > 0; }

const Machine *machine_group(const Machine *m, uint32_t i) {
    ASSERT(i < machine_groups(m));
    return m->group.n ? m->group.p[i].of : m;
}

int64_t machine_group_ranks(const Machine *m, uint32_t i) {
    return m->devices * (m->group.n ? m->group.p[i].nodes : MAX(m->nodes, 1));
}

uint32_t machine_group_of(const Machine *m, int64_t rank) {
    uint32_t i = 0;
    while (i + 1 < m->group.n && rank >= machine_group_ranks(m, i))
        rank -= machine_group_ranks(m, i++);
    return i;
}

const Machine *machine_of_ranks(const Machine *m, const int64_t *rank, int64_t n) {
    Arena *a = session_arena(m->session);
    uint32_t count = 0, groups = machine_groups(m);
    bool *counts = arena_array(a, bool, groups);
    for (int64_t i = 0; i < n; i++) {
        uint32_t group = machine_group_of(m, rank[i]);
        count += !counts[group];
        counts[group] = true;
    }
    if (count == groups || count == 0) return m;
    if (count == 1) return machine_group(m, machine_group_of(m, rank[0]));
    Machine *part = arena_new_of(a, Machine);
    *part = *m;
    part->group.p = arena_array(a, MachineGroup, groups);
    memcpy(part->group.p, m->group.p, groups * sizeof *part->group.p);
    for (uint32_t i = 0; i < groups; i++) part->group.p[i].counts = counts[i];
    part->collectives = comm_prices_new(a);
    memset(part->memory, 0, sizeof part->memory);
    memset(part->copy, 0, sizeof part->copy);
    memset(part->latency, 0, sizeof part->latency);
    part->launch = (Quantity){0}, part->bandwidth.n = 0, part->target = NULL;
    take_links(part, m->inner, machine_group(m, machine_group_of(m, rank[0])), m->inner);
    take_groups(part);
    return part;
}

double groups_us(const Machine *m, const Work *w) {
    double us = 0;
    for (uint32_t i = 0; i < m->group.n; i++)
        if (m->group.p[i].counts) us = MAX(us, cost_us(m->group.p[i].of, w));
    return us;
}

double groups_speed(const Machine *m, Stream s, unsigned active) {
    double speed = 1;
    for (uint32_t i = 0; i < m->group.n; i++)
        if (m->group.p[i].counts) speed = MIN(speed, machine_speed(m->group.p[i].of, s, active));
    return speed;
}

double groups_peak(const Machine *m, Dtype d) {
    double peak = INFINITY;
    for (uint32_t i = 0; i < m->group.n; i++)
        if (m->group.p[i].counts) peak = MIN(peak, machine_peak(m->group.p[i].of, d));
    return peak;
}
