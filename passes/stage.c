/* stage.c: what layers cost and keep, and the stages of a pipeline.
 *
 * Bytes that cross from one layer to the next are those of forward values that a later layer reads,
 * each once; their gradients come back along the same cut. Bytes kept are the forward values that
 * the backward part of a layer reads, counted for that layer: a value that two layers need is
 * counted twice, which is too much only when the two are one stage. */
#include "passes/stage.h"

#include "ir/storage.h"

#include <stdlib.h>
#include <string.h>

/* ---- prices ---- */

enum { TFLOPS_US = 1000000 }; /* operations a microsecond at 1 TFLOP/s */

typedef struct {
    const Graph *g;
    const StageLayers *layers;
    const Machine *m;
    Arena *a;
    Work *rest; /* by layer and phase: what is no product */
    double *us; /* by layer and phase */
    int64_t micros;
    bool trained; /* has a backward part */
} Costs;

static int64_t bytes_of(const Type *t) { return t->dtype == DT_TUPLE ? 0 : type_bytes(t); }

static double elements_of(const Type *t) {
    return t->dtype == DT_TUPLE ? (double)type_elements(t->elem[0]) : (double)type_elements(t);
}

static void price_node(Costs *c, Value v) {
    const Node *n = node_of(c->g, v);
    int16_t layer = c->layers->of[v];
    FlopsFn *flops = op_info((Op)n->op)->flops;
    if (layer == EVERY_STAGE || (op_info((Op)n->op)->flags & OPF_LEAF) || is_view(n)) return;
    size_t at = (size_t)layer * PHASE_COUNT + n->phase;
    if (n->op == OP_einsum && c->m) {
        Work w = einsum_work(c->g, v);
        c->us[at] += cost_us(c->m, &w);
        return;
    }
    double count = flops ? flops(c->g, n) : op_weight((Op)n->op) * elements_of(n->type);
    c->rest[at].flops += count;
    c->rest[at].bytes += (double)bytes_of(n->type);
}

static void price_layers(Costs *c, ChainLayer *cost) {
    for (Value v = 0; v < c->g->node.n; v++) price_node(c, v);
    for (uint32_t i = 0; i < c->layers->n; i++) {
        double us = 0;
        for (int p = 0; p < PHASE_COUNT; p++) {
            Work *w = &c->rest[i * PHASE_COUNT + p];
            w->what = "layer";
            us += c->us[i * PHASE_COUNT + p];
            if (w->flops > 0 || w->bytes > 0) us += c->m ? cost_us(c->m, w) : w->flops / TFLOPS_US;
        }
        /* products of the backward part are twice those of the forward part */
        if (c->g->set.train && !c->trained) us *= 3;
        cost[i].us = us / (double)c->micros;
    }
}

/* ---- bytes ---- */

/* Forward values that some stage computes and others may need. */
static bool is_activation(const Costs *c, Value v) {
    const Node *n = node_of(c->g, v);
    return n->phase == PHASE_FORWARD && !(op_info((Op)n->op)->flags & OPF_LEAF) &&
           c->layers->of[v] != EVERY_STAGE;
}

/* Values that layers after their own read, per gap between layers. */
static void count_cuts(const Costs *c, ChainLayer *cost) {
    const Graph *g = c->g;
    int16_t *reach = arena_array(c->a, int16_t, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->phase != PHASE_FORWARD || is_view(node_of(g, v))) continue;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value x = view_base(g, operand(g, v, i));
            reach[x] = MAX(reach[x], c->layers->of[v]);
        }
    }
    for (Value v = 0; v < g->node.n; v++)
        for (int16_t i = c->layers->of[v]; is_activation(c, v) && i < reach[v]; i++)
            cost[i].cut += bytes_of(type_of(g, v));
}

/* Values kept for the backward part; all of them when there is none yet. */
static void count_kept(const Costs *c, ChainLayer *cost) {
    const Graph *g = c->g;
    int16_t *last = arena_array(c->a, int16_t, g->node.n + 1); /* layer + 1 counted last */
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        int16_t layer = c->layers->of[v];
        if (!c->trained && g->set.train && is_activation(c, v) && !is_view(n))
            cost[layer].active += bytes_of(n->type);
        if (n->phase != PHASE_BACKWARD || layer == EVERY_STAGE || is_view(n)) continue;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = view_base(g, operand(g, v, i));
            if (!is_activation(c, x) || last[x] == layer + 1) continue;
            last[x] = (int16_t)(layer + 1);
            cost[layer].active += bytes_of(type_of(g, x));
        }
    }
}

/* Parameters, their gradients and states (two, as Adam's, when they are not there yet). */
static void count_fixed(const Costs *c, ChainLayer *cost) {
    const Graph *g = c->g;
    bool states = false;
    for (Value v = 0; v < g->node.n; v++) states |= is_op(g, v, OP_state);
    int64_t copies = !g->set.train ? 1 : states ? 2 : 4;
    for (Value v = 0; v < g->node.n; v++) {
        int16_t layer = c->layers->of[v];
        if (layer == EVERY_STAGE) continue;
        int64_t bytes = bytes_of(type_of(g, v));
        if (is_op(g, v, OP_param)) cost[layer].fixed += copies * bytes;
        if (is_op(g, v, OP_state)) cost[layer].fixed += bytes;
        if (!(op_info((Op)node_of(g, v)->op)->flags & OPF_LEAF))
            cost[layer].working = MAX(cost[layer].working, bytes);
    }
}

void stage_costs(const Graph *g, const StageLayers *layers, const Machine *m, ChainLayer *cost,
                 Arena *a) {
    size_t parts = (size_t)layers->n * PHASE_COUNT;
    Costs c = {.g = g, .layers = layers, .m = m, .a = a};
    c.rest = arena_array(a, Work, parts + 1);
    c.us = arena_array(a, double, parts + 1);
    c.micros = MAX(g->set.micro_batches, 1);
    for (Value v = 0; v < g->node.n; v++) c.trained |= node_of(g, v)->phase == PHASE_BACKWARD;
    memset(cost, 0, layers->n * sizeof *cost);
    price_layers(&c, cost);
    count_cuts(&c, cost);
    count_kept(&c, cost);
    count_fixed(&c, cost);
    for (uint32_t i = 0; i < layers->n; i++) cost[i].cut /= c.micros, cost[i].active /= c.micros;
}

/* ---- stages ---- */

/* order: of a machine's groups; NULL: as it stands. */
static void set_stages(StagePlan *p, const StageOptions *o, const Graph *g, const uint32_t *order,
                       Arena *a) {
    p->stage = arena_array(a, ChainStage, p->stages);
    for (uint32_t s = 0; s < p->stages; s++)
        p->stage[s] = o->stage ? o->stage[s] : (ChainStage){.speed = 1, .memory = g->set.memory};
    if (!o->stage && o->machine) stage_devices(g, o->machine, order, p, a);
    for (uint32_t s = 0; s < p->stages; s++)
        p->stage[s].in_flight = pipeline_in_flight(p->kind, p->stages, s, p->micros);
}

/* Layers are the annotated stages; they must fit too. False with what is wrong of layer *at. */
static bool as_annotated(StagePlan *p, uint32_t *at, Buf *err) {
    for (uint32_t s = 0; s <= p->stages; s++) p->first[s] = s;
    for (uint32_t s = 0; s < p->stages; s++) {
        int64_t bytes = chain_bytes(p->cost, &p->stage[s], s, s + 1), has = p->stage[s].memory;
        p->us = MAX(p->us, chain_us(p->cost, &p->stage[s], s, s + 1));
        if (!has || bytes <= has) continue;
        buf_printf(err, "stage '%s' needs %lld bytes and has %lld", p->layers.name[s],
                   (long long)bytes, (long long)has);
        *at = s;
        return false;
    }
    return true;
}

/* False with a sentence in *err, at *loc. */
static bool find_first(StagePlan *p, Loc *loc, Buf *err) {
    uint32_t at = 0;
    *loc = (Loc){0};
    if (!p->annotated)
        return partition_chain(p->layers.n, p->cost, p->stages, p->stage, p->first, &p->us, err);
    if (as_annotated(p, &at, err)) return true;
    *loc = p->layers.loc[at];
    return false;
}

static bool choose_first(const Graph *g, StagePlan *p) {
    Buf err = {0};
    Loc loc;
    bool ok = find_first(p, &loc, &err);
    if (!ok) diag_error(g->session, loc, "%s", err.p);
    buf_free(&err);
    return ok;
}

static void map_values(const Graph *g, StagePlan *p, Arena *a) {
    int16_t *of = arena_array(a, int16_t, p->layers.n);
    p->of = arena_array(a, int16_t, g->node.n + 1);
    for (uint32_t s = 0; s < p->stages; s++)
        for (uint32_t i = p->first[s]; i < p->first[s + 1]; i++) of[i] = (int16_t)s;
    for (Value v = 0; v < g->node.n; v++)
        p->of[v] = p->layers.of[v] == EVERY_STAGE ? EVERY_STAGE : of[p->layers.of[v]];
}

/* Parameters that forward nodes of several stages read. */
static void find_shared(const Graph *g, StagePlan *p, Arena *a) {
    int16_t *last = arena_array(a, int16_t, g->node.n + 1);
    uint32_t params = 0;
    for (Value v = 0; v < g->node.n; v++) {
        params += is_op(g, v, OP_param);
        if (node_of(g, v)->phase != PHASE_FORWARD) continue;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value x = operand(g, v, i);
            last[x] = MAX(last[x], p->of[v]);
        }
    }
    p->shared = arena_array(a, SharedParam, params + 1);
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_param) && last[v] > p->of[v])
            p->shared[p->nshared++] = (SharedParam){v, p->of[v], last[v]};
}

/* Forward is a third of a trained layer. Time of all micro-batches with transfers. */
static void simulate_stages(StagePlan *p, bool train, Arena *a) {
    PipelineCost *cost = arena_array(a, PipelineCost, p->stages);
    PipelineStep **order = arena_array(a, PipelineStep *, p->stages);
    for (uint32_t s = 0; s < p->stages; s++) {
        uint32_t from = p->first[s], to = p->first[s + 1];
        double us = 0, sent = (double)p->cost[to - 1].cut * p->stage[s].link;
        for (uint32_t i = from; i < to; i++) us += chain_layer_us(p->cost, &p->stage[s], i);
        cost[s].forward = train ? us / 3 : us;
        cost[s].backward = us - cost[s].forward;
        cost[s].send_forward = sent;
        if (s + 1 < p->stages) cost[s + 1].send_backward = sent;
        order[s] = arena_array(a, PipelineStep, 2 * p->micros);
        pipeline_order(p->kind, p->stages, s, p->micros, order[s]);
    }
    PipelineTime t = pipeline_time(order, p->stages, p->micros, cost, a);
    p->step_us = t.us, p->bubble = t.bubble;
}

/* ---- hosts that would be better ---- */

/* The stages when the groups' hosts are filled in the order of Whale's rule; they fit. */
static bool in_better_order(const Graph *g, const StageOptions *o, StagePlan *p, uint32_t *best,
                            Arena *a) {
    uint32_t *order = arena_array(a, uint32_t, machine_groups(o->machine));
    Buf err = {0};
    Loc loc;
    if (!stage_better_order(o->machine, order, a)) return false;
    *best = order[0];
    p->us = 0;
    p->first = arena_array(a, uint32_t, p->stages + 1);
    set_stages(p, o, g, order, a);
    bool fits = find_first(p, &loc, &err);
    buf_free(&err);
    if (fits) simulate_stages(p, g->set.train, a);
    return fits;
}

/* Some stage has unequal devices, and would not where pipeline is the slowest axis. */
static bool is_spread(const Graph *g, const StagePlan *p) {
    bool spread = false;
    for (uint32_t s = 0; s < p->stages; s++) spread |= machine_groups(p->machine[s]) > 1;
    return spread && strcmp(g->set.mesh[0].axis, MESH_PIPELINE) != 0;
}

/* Ranks fill the cluster's nodes in order, so the mesh and the order of its groups decide which
 * stage has which devices: both are the user's, who gets to know what would be better. */
static void advise(const Graph *g, const StageOptions *o, const StagePlan *p, bool fits, Arena *a) {
    void (*say)(Session *, Loc, const char *, ...) PRINTF(3, 4) = fits ? diag_warning : diag_note;
    StagePlan other = *p;
    uint32_t first;
    if (!p->machine) return;
    if (is_spread(g, p))
        say(g->session, (Loc){0},
            "ranks of one stage lie on unequal devices, and the slowest and smallest count: a mesh "
            "that begins with " MESH_PIPELINE " keeps them together");
    if (!in_better_order(g, o, &other, &first, a)) return;
    const char *name = machine_name(machine_group(o->machine, first));
    if (!fits)
        say(g->session, (Loc){0},
            "with the hosts of '%s' before all others it fits: the first stages keep the most",
            name);
    else if (other.step_us < 0.99 * p->step_us)
        say(g->session, (Loc){0},
            "a step would take %.3g of its time with the hosts of '%s' before all others, in the "
            "cluster file and where ranks are started: the first stages keep the most",
            other.step_us / p->step_us, name);
}

bool stage_plan(const Graph *g, const StageOptions *o, StagePlan *out, Arena *a) {
    *out = (StagePlan){.kind = o->kind, .annotated = stage_annotated(g)};
    if (!stage_layers(g, &out->layers, a)) return false;
    out->micros = (uint32_t)MAX(g->set.micro_batches, 1);
    out->stages = o->stages || !out->annotated ? MAX(o->stages, 1) : out->layers.n;
    if (out->annotated && out->stages != out->layers.n) {
        diag_error(g->session, (Loc){0}, "the model is annotated with %u stages, not %u",
                   out->layers.n, out->stages);
        return false;
    }
    out->cost = arena_array(a, ChainLayer, out->layers.n);
    out->first = arena_array(a, uint32_t, out->stages + 1);
    stage_costs(g, &out->layers, o->machine, out->cost, a);
    set_stages(out, o, g, NULL, a);
    if (!choose_first(g, out)) {
        advise(g, o, out, false, a);
        return false;
    }
    map_values(g, out, a);
    find_shared(g, out, a);
    simulate_stages(out, g->set.train, a);
    if (o->advise) advise(g, o, out, true, a);
    return true;
}

/* ---- report ---- */

void stage_print(const Graph *g, const StagePlan *p, Buf *out) {
    buf_printf(out, "%u %s stages, %s, %u micro-batch%s\n", p->stages,
               p->annotated ? "annotated" : "balanced", pipeline_name(p->kind), p->micros,
               p->micros == 1 ? "" : "es");
    buf_puts(out, "stage  us/micro-batch        bytes  in flight  bytes sent  layers\n");
    for (uint32_t s = 0; s < p->stages; s++) {
        uint32_t from = p->first[s], to = p->first[s + 1];
        buf_printf(out, "%5u  %14.1f  %11lld  %9lld  %10lld  %s", s,
                   chain_us(p->cost, &p->stage[s], from, to),
                   (long long)chain_bytes(p->cost, &p->stage[s], from, to),
                   (long long)p->stage[s].in_flight,
                   (long long)(to < p->layers.n ? p->cost[to - 1].cut : 0), p->layers.name[from]);
        if (to > from + 1) buf_printf(out, " … %s", p->layers.name[to - 1]);
        if (p->machine) buf_printf(out, ", on %s", machine_name(p->machine[s]));
        buf_puts(out, "\n");
    }
    buf_printf(out, "step %.1f us, bubble %.1f %%\n", p->step_us, 100 * p->bubble);
    for (uint32_t i = 0; i < p->nshared; i++)
        buf_printf(out, "'%s' is shared by stages %d to %d\n",
                   attr_str(node_of(g, p->shared[i].param), "name"), p->shared[i].first,
                   p->shared[i].last);
}
