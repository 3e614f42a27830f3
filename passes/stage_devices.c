/* stage_devices.c: which devices the ranks of a pipeline's stages, or of classes of shares, lie on,
 * on clusters of unequal nodes. Ranks fill the nodes in the order of the cluster's groups. */
#include "passes/balance.h"
#include "passes/stage.h"

/* The rank that is on this device, when the groups are filled in another order. */
static int64_t device_in_order(const Machine *m, const uint32_t *order, int64_t device) {
    uint32_t i = 0, groups = machine_groups(m);
    int64_t first = 0;
    while (i + 1 < groups && device >= machine_group_ranks(m, order[i]))
        device -= machine_group_ranks(m, order[i++]);
    for (uint32_t k = 0; k < order[i]; k++) first += machine_group_ranks(m, k);
    return first + device;
}

/* EVERY_STAGE: of all ranks. */
static const Machine *machine_in_order(const Machine *m, const Settings *set, int64_t stage,
                                       const uint32_t *order) {
    int64_t ranks = mesh_ranks(set), n = 0;
    if (machine_groups(m) == 1) return m;
    if (mesh_programs(set) == 1) stage = EVERY_STAGE;
    Arena *a = arena_new();
    int64_t *device = arena_array(a, int64_t, ranks);
    for (int64_t r = 0; r < ranks; r++)
        if (stage == EVERY_STAGE || mesh_program(set, r) == stage)
            device[n++] = order ? device_in_order(m, order, r) : r;
    const Machine *of = machine_of_ranks(m, device, n);
    arena_free(a);
    return of;
}

const Machine *machine_of_stage(const Machine *m, const Settings *set, int64_t stage) {
    return machine_in_order(m, set, stage, NULL);
}

const Machine *machine_of_graph(const Machine *m, const Settings *set) {
    if (set->stages) return machine_of_stage(m, set, set->stage);
    return set->shares.n && set->sharded ? machine_of_stage(m, set, set->share) : m;
}

int64_t stage_memory(const Machine *of, int64_t budget) {
    int64_t has = machine_memory(of, MEM_DEVICE);
    return budget && has ? MIN(budget, has) : MAX(budget, has);
}

void stage_take_machine(Graph *g, const Machine **m, int64_t stage) {
    const Machine *of = machine_of_stage(*m, &g->set, stage);
    if (machine_groups(*m) > 1 && g->set.memory) g->set.memory = stage_memory(of, g->set.memory);
    *m = of;
}

/* What the layers cost on the devices of stage s; of an earlier stage on the same ones. */
static const double *layer_us(const Graph *g, const StagePlan *p, uint32_t s, Arena *a) {
    for (uint32_t before = 0; before < s; before++)
        if (p->machine[before] == p->machine[s]) return p->stage[before].us;
    ChainLayer *cost = arena_array(a, ChainLayer, p->layers.n);
    double *us = arena_array(a, double, p->layers.n);
    stage_costs(g, &p->layers, p->machine[s], cost, a);
    for (uint32_t i = 0; i < p->layers.n; i++) us[i] = cost[i].us;
    return us;
}

bool stage_devices(const Graph *g, const Machine *m, const uint32_t *order, StagePlan *p,
                   Arena *a) {
    if (machine_groups(m) == 1) return false;
    p->machine = arena_array(a, const Machine *, p->stages);
    for (uint32_t s = 0; s < p->stages; s++) {
        p->machine[s] = machine_in_order(m, &g->set, s, order);
        p->stage[s].memory = stage_memory(p->machine[s], g->set.memory);
        p->stage[s].us = layer_us(g, p, s, a);
    }
    return true;
}

bool stage_better_order(const Machine *m, uint32_t *order, Arena *a) {
    uint32_t groups = machine_groups(m);
    Processor *p = arena_array(a, Processor, groups);
    bool other = false;
    for (uint32_t i = 0; i < groups; i++) {
        int64_t has = machine_memory(machine_group(m, i), MEM_DEVICE);
        p[i] = (Processor){.flops = 1, .memory = MAX(has, 1), .node = (int)i};
    }
    balance_stage_order(groups, p, order);
    for (uint32_t i = 0; i < groups; i++) other |= order[i] != i;
    return other;
}
