/* shares.c: on a cluster of unequal devices, the shares of the ranks along data in the batch, by
 * Whale's Algorithm 1 (balance.h) where the model states none.
 *
 * The parts to divide are samples, or as many of them as keep every rank's part whole. A part's
 * bytes are the values that the backward phase reads; parameters, their gradients and states are on
 * every device. Ranks of one place along data count as their slowest and smallest device. Limits:
 * what a budget would recompute or move counts as kept, and where no division fits the proportion
 * stays. */
#include <stdlib.h>
#include <string.h>

#include "passes/balance.h"
#include "passes/stage.h"

/* What divides each sample's part further: experts of their own, towers that a tensor axis shares.
 */
static int64_t other_ranks(const Graph *g, const Spec *spec, int64_t data) {
    MeshGroup m, tensor = {.n = 1};
    bool towers = false;
    for (uint32_t i = 0; i < g->note.n; i++) towers |= strcmp(g->note.p[i].kind, "replicate") == 0;
    if (towers) mesh_group(&g->set, MESH_TENSOR, &tensor);
    return mesh_group(&g->set, spec->axis[0], &m) ? m.n / data * tensor.n : 1;
}

/* Parts of so many that are whole groups of routed tokens too. Fewer groups than ranks are gathered
 * on all, whatever the shares. */
static int64_t parts_of_groups(int64_t parts, int64_t groups, int64_t data) {
    int64_t both = common_divisor(groups, parts);
    return both < data ? parts : both;
}

/* Into how many parts the batch can be divided, and the groups that tokens are routed in; 0: the
 * data axis divides nothing. */
static int64_t parts_of_batch(const Graph *g, int64_t data) {
    int64_t parts = 0, other = 1, micros = MAX(g->set.micro_batches, (int64_t)1);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        const char *over = n->op == OP_input && n->spec ? n->spec->axis[0] : NULL;
        if (over && mesh_group_has(over, MESH_DATA)) {
            parts = common_divisor(n->type->dim[0] / micros, parts);
            other = other_ranks(g, n->spec, data);
        }
        if (n->op == OP_route)
            parts = parts_of_groups(parts, type_of(g, operand(g, v, 0))->dim[0], data);
    }
    return parts % other ? 0 : parts / other;
}

/* Parameters, with what belongs to them, on one rank. */
static int64_t fixed_bytes(const Graph *g) {
    int64_t sum = 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op != OP_param && n->op != OP_state) continue;
        int64_t parts = 1;
        for (int k = 0; n->spec && k < n->spec->rank; k++) parts *= mesh_parts(&g->set, n->spec, k);
        int64_t copies = n->op == OP_param && g->set.train ? 2 : 1; /* the gradient */
        sum += copies * type_bytes(n->type) / parts;
    }
    return sum;
}

/* Of one micro-batch: what the backward phase reads of the forward phase. */
static int64_t kept_bytes(const Graph *g, Arena *a) {
    bool *read = arena_array(a, bool, g->node.n + 1);
    int64_t sum = 0;
    for (Value v = 0; v < g->node.n; v++)
        for (uint32_t i = 0; node_of(g, v)->phase == PHASE_BACKWARD && i < node_of(g, v)->nin; i++)
            read[operand(g, v, i)] = true;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        unsigned none = OPF_LEAF | OPF_VIEW;
        bool kept = read[v] && n->phase == PHASE_FORWARD && n->type->dtype != DT_TUPLE;
        if (kept && n->micro <= 0 && !(op_info((Op)n->op)->flags & none))
            sum += type_bytes(n->type);
    }
    return sum;
}

static BalanceWork work_of(const Graph *g, int64_t parts, Arena *a) {
    BalanceWork w = {.parts = parts, .fixed = fixed_bytes(g)};
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        bool counts = n->phase != PHASE_APPLY && op_info((Op)n->op)->flops;
        if (counts) w.flops += op_info((Op)n->op)->flops(g, n) / (double)parts;
    }
    w.bytes = kept_bytes(g, a) / parts;
    return w;
}

/* The devices of the ranks at a place along data, as one. */
static Processor processor_at(const Settings *set, const Machine *m, const MeshGroup *data,
                              int64_t place, Arena *a) {
    int64_t ranks = mesh_ranks(set), n = 0, *rank = arena_array(a, int64_t, ranks);
    for (int64_t r = 0; r < ranks; r++)
        if (mesh_index(data, r) == place) rank[n++] = r;
    const Machine *of = machine_of_ranks(m, rank, n);
    double flops = machine_peak(of, set->precision);
    int64_t has = machine_memory(of, MEM_DEVICE);
    return (Processor){.flops = flops > 0 ? flops : machine_peak(of, DT_F32),
                       .memory = has ? has : INT64_MAX};
}

/* Every rank has a part: those without one take it from the one with most. */
static void leave_none_out(int64_t n, int64_t *part) {
    for (int64_t i = 0; i < n; i++) {
        int64_t most = 0;
        for (int64_t k = 1; k < n; k++)
            if (part[k] > part[most]) most = k;
        if (part[i] == 0) part[i]++, part[most]--;
    }
}

/* "samples 5,3 of 8 by the devices' speed; memory moved 1" */
static const char *said_of(const Graph *g, const int64_t *part, const int64_t *even, int64_t n,
                           bool fits) {
    Buf b = {0};
    int64_t moved = 0, parts = shares_sum((Shares){n, part}, n);
    for (int64_t i = 0; i < n; i++) moved += part[i] > even[i] ? part[i] - even[i] : 0;
    buf_puts(&b, "samples ");
    shares_print((Shares){n, part}, &b);
    buf_printf(&b, " of %lld by the devices' speed; ", (long long)parts);
    buf_printf(&b, fits ? "memory moved %lld" : "their memories do not suffice", (long long)moved);
    const char *text = intern(g->session, b.p);
    buf_free(&b);
    return text;
}

static bool choose(Graph *g, const PassContext *cx, const MeshGroup *data, int64_t parts) {
    Arena *a = cx->scratch;
    BalanceWork w = work_of(g, parts, a);
    Processor *p = arena_array(a, Processor, data->n);
    int64_t *part = arena_array(session_arena(g->session), int64_t, data->n);
    int64_t *even = arena_array(a, int64_t, data->n);
    Buf why = {0};
    for (int64_t i = 0; i < data->n; i++) {
        p[i] = processor_at(&g->set, cx->machine, data, i, a);
        if (!(p[i].flops > 0)) return false;
    }
    balance_proportional(&w, (uint32_t)data->n, p, even);
    bool fits = balance_load(&w, (uint32_t)data->n, p, part, &why);
    for (int64_t i = 0; i < data->n; i++) fits &= part[i] > 0 || even[i] == 0;
    if (!fits) memcpy(part, even, (size_t)data->n * sizeof *part);
    buf_free(&why);
    leave_none_out(data->n, part);
    const char *said = said_of(g, part, even, data->n, fits);
    g->set.shares = shares_reduced(data->n, part);
    if (g->set.shares.n) g->set.balanced = said;
    return g->set.shares.n > 0;
}

bool pass_shares(Graph *g, PassContext *cx) {
    MeshGroup data;
    int64_t memory = g->set.memory;
    if (!cx->machine || g->set.sharded) return false;
    bool open = machine_groups(cx->machine) > 1 && !g->set.shares.n && !g->set.balanced &&
                !mesh_shares_refused(&g->set) && mesh_axis(&g->set, MESH_DATA) &&
                mesh_group(&g->set, MESH_DATA, &data);
    int64_t parts = open ? parts_of_batch(g, data.n) : 0;
    bool chosen = open && parts >= data.n && choose(g, cx, &data, parts);
    if (mesh_programs(&g->set) == 1) stage_take_machine(g, &cx->machine, EVERY_STAGE);
    return chosen || g->set.memory != memory;
}
