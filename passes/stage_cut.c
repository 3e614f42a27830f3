/* stage_cut.c: of a graph for all stages of a pipeline, the part of one.
 *
 * Every node belongs to a stage (stage.h), or to all: what follows from inputs and constants alone
 * is computed wherever it is read; what the stages only add up (the norm of all gradients) each
 * adds up for itself, and the sums are reduced over the pipeline. A value that another stage reads
 * is sent to it, once to each.
 *
 * Transfers are numbered in the order in which one processor would make them that ran all stages'
 * parts of micro-batches one after the other, in an order that every stage's own order agrees with.
 * A stage that keeps to the numbers never waits for one that waits for it, even if every send waits
 * for its receive; `schedule` sees to that. */
#include <stdlib.h>
#include <string.h>

#include "passes/stage.h"

typedef struct {
    const Graph *from;
    Graph *to;
    Arena *a;
    uint32_t stages, stage; /* how many; the one that is made */
    Uses uses;              /* of the graph for all */
    int16_t *of;            /* by value: its stage, or EVERY_STAGE */
    bool *joint;            /* by value of every stage: follows from what stages computed */
    bool *sum;              /* by joint value: what the stages only add up */
    bool *after;            /* by value: follows from a micro-batch */
    uint32_t *number;       /* by value and stage that reads it: 1 + the transfer, 0: none */
    uint32_t *position;     /* of stage, micro-batch and direction: in the order of all */
    Value *map;             /* by old value: here, or NO_VALUE */
    Value *part;            /* of joint sums: what this stage adds; NO_VALUE: nothing */
    bool *summed;           /* part is known */
    Value token;
} Cut;

static bool every(const Cut *c, Value v) { return c->of[v] == EVERY_STAGE; }

/* ---- what belongs where ---- */

/* A view of what every stage has, or arithmetic on it: not worth a transfer. */
static bool is_cheap_everywhere(const Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    bool cheap = (op_info((Op)n->op)->flags & (OPF_VIEW | OPF_EW)) && n->op != OP_add;
    for (uint32_t i = 0; i < n->nin && cheap; i++) cheap = every(c, operand(c->from, v, i));
    return cheap && n->nin;
}

static bool is_joint(const Cut *c, Value v) { return every(c, v) && c->joint[v]; }

/* A sum of numbers that different stages have, or one that counts on some ranks only. */
static bool is_joint_sum(const Cut *c, Value v) { return is_joint(c, v) && c->sum[v]; }

/* Of a joint value, whose operands are known. What several stages have as one number is no part of
 * a sum: it would count once. */
static bool adds_up(const Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    Value x = operand(c->from, v, 0), y = n->nin > 1 ? operand(c->from, v, 1) : x;
    if (n->op == OP_select)
        return !is_joint(c, x) && is_joint_sum(c, y) &&
               is_constant(c->from, operand(c->from, v, 2), 0);
    return n->op == OP_add && is_joint(c, x) <= is_joint_sum(c, x) &&
           is_joint(c, y) <= is_joint_sum(c, y);
}

/* One stage's number is added to what several add up. */
static bool extends_sum(const Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    return n->op == OP_add &&
           (is_joint_sum(c, operand(c->from, v, 0)) || is_joint_sum(c, operand(c->from, v, 1)));
}

/* A node of every stage that follows from one stage alone belongs to it. */
static void find_joint(Cut *c) {
    for (Value v = 0; v < c->from->node.n; v++) {
        int16_t only = EVERY_STAGE;
        bool staged = false, joint = false;
        if (is_cheap_everywhere(c, v) || extends_sum(c, v)) c->of[v] = EVERY_STAGE;
        if (!every(c, v)) continue;
        for (uint32_t i = 0; i < node_of(c->from, v)->nin; i++) {
            Value w = operand(c->from, v, i);
            joint |= every(c, w) ? c->joint[w] : staged && c->of[w] != only;
            if (every(c, w)) continue;
            staged = true;
            only = c->of[w];
        }
        bool effect = is_effect(node_of(c->from, v));
        if (staged && !joint && !effect)
            c->of[v] = only;
        else
            c->joint[v] = staged || joint;
        c->sum[v] = is_joint(c, v) && adds_up(c, v);
    }
}

/* A gradient that is the sum of others of a later stage is added up there, and sent once. */
static void move_sums(Cut *c) {
    for (Value v = 0; v < c->from->node.n; v++) {
        const Node *n = node_of(c->from, v);
        if (n->op != OP_add || n->phase != PHASE_BACKWARD || every(c, v)) continue;
        int16_t there = c->of[operand(c->from, v, 0)];
        bool moves = there > c->of[v];
        for (uint32_t i = 0; i < n->nin && moves; i++) {
            Value x = operand(c->from, v, i);
            moves = c->of[x] == there;
            for (uint32_t u = c->uses.start[x]; u < c->uses.start[x + 1] && moves; u++)
                moves = c->uses.use[u] == v || c->of[c->uses.use[u]] == there;
        }
        if (moves) c->of[v] = there;
    }
}

/* ---- transfers ---- */

static uint32_t *number_of(const Cut *c, Value v, uint32_t reader) {
    return &c->number[(size_t)v * c->stages + reader];
}

static void note_reader(const Cut *c, Value w, uint32_t reader) {
    if (!every(c, w) && c->of[w] != (int16_t)reader) *number_of(c, w, reader) = 1;
}

/* Stages that read w, of another: those of its users; of joint users that are no sums, all. */
static void find_readers(Cut *c) {
    for (Value v = 0; v < c->from->node.n; v++) {
        if (is_joint_sum(c, v) || (every(c, v) && !c->joint[v])) continue;
        for (uint32_t i = 0; i < node_of(c->from, v)->nin; i++) {
            Value w = operand(c->from, v, i);
            if (!every(c, v))
                note_reader(c, w, (uint32_t)c->of[v]);
            else
                for (uint32_t s = 0; s < c->stages; s++) note_reader(c, w, s);
        }
    }
}

/* Steps of all stages in one order: a stage takes its next as soon as it may. */
static void find_positions(Cut *c, PipelineKind kind) {
    uint32_t micros = (uint32_t)c->from->set.micro_batches, S = c->stages, next = 1;
    PipelineStep *step = arena_array(c->a, PipelineStep, (size_t)S * 2 * micros);
    uint32_t *done = arena_array(c->a, uint32_t, S);
    for (uint32_t s = 0; s < S; s++)
        pipeline_order(kind, S, s, micros, step + (size_t)s * 2 * micros);
    while (next <= 2 * S * micros)
        for (uint32_t s = 0; s < S; s++) {
            if (done[s] == 2 * micros) continue;
            PipelineStep p = step[(size_t)s * 2 * micros + done[s]];
            uint32_t other = p.backward ? s + 1 : s - 1;
            bool first = p.backward ? s == S - 1 : s == 0;
            size_t at = (size_t)p.micro * 2 + p.backward;
            if (!first && !c->position[(size_t)other * 2 * micros + at]) continue;
            c->position[(size_t)s * 2 * micros + at] = next++;
            done[s]++;
        }
}

/* When a value is made: before all micro-batches, in a step of its stage, or after all. */
static uint32_t position_of(const Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    if (n->phase == PHASE_APPLY) return UINT32_MAX;
    if (n->micro < 0) return c->from->set.micro_batches > 1 && !c->after[v] ? 0 : UINT32_MAX - 1;
    size_t micros = (size_t)c->from->set.micro_batches;
    return c->position[(size_t)c->of[v] * 2 * micros + (size_t)n->micro * 2 +
                       (n->phase == PHASE_BACKWARD)];
}

static void find_after(Cut *c) {
    for (Value v = 0; v < c->from->node.n; v++)
        for (uint32_t i = 0; i < node_of(c->from, v)->nin; i++) {
            Value w = operand(c->from, v, i);
            c->after[v] |= c->after[w] || node_of(c->from, w)->micro >= 0;
        }
}

typedef struct {
    uint32_t position;
    Value v;
    uint32_t reader;
} Crossing;

static int compare_crossings(const void *a, const void *b) {
    const Crossing *x = a, *y = b;
    if (x->position != y->position) return x->position < y->position ? -1 : 1;
    if (x->v != y->v) return x->v < y->v ? -1 : 1;
    return (x->reader > y->reader) - (x->reader < y->reader);
}

static void number_transfers(Cut *c) {
    VEC(Crossing) all = {0};
    for (Value v = 0; v < c->from->node.n; v++)
        for (uint32_t s = 0; s < c->stages; s++)
            if (*number_of(c, v, s)) vec_push(&all, ((Crossing){position_of(c, v), v, s}));
    if (all.n) qsort(all.p, all.n, sizeof *all.p, compare_crossings);
    for (uint32_t i = 0; i < all.n; i++) *number_of(c, all.p[i].v, all.p[i].reader) = i + 1;
    vec_free(&all);
}

/* ---- one stage's graph ---- */

static Value here(Cut *c, Value v);

static AttrValue text_attr(Cut *c, const char *s) {
    return (AttrValue){.s = intern(c->from->session, s)};
}

/* A transfer has an operand so that it is no leaf: the step's number, which is always there. */
static Value token(Cut *c) {
    if (c->token != NO_VALUE) return c->token;
    for (Value v = 0; v < c->from->node.n; v++) {
        const Node *n = node_of(c->from, v);
        if (n->op == OP_input && strcmp(attr_str(n, "name"), "@step") == 0)
            return c->token = here(c, v);
    }
    AttrValue attr[] = {text_attr(c, "@step"), {.i = 0}};
    return c->token = graph_leaf(c->to, OP_input, attr_intern(c->from->session, OP_input, attr),
                                 type_scalar(c->from->session, DT_I32));
}

static Value receive(Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    Session *s = c->from->session;
    AttrValue attr[] = {text_attr(c, MESH_PIPELINE),
                        {.i = c->stages},
                        {.i = c->of[v]},
                        {.i = *number_of(c, v, c->stage)},
                        {.i = n->type->dtype},
                        {.v = ints_intern(s, (uint32_t)n->type->rank, n->type->dim)}};
    Value when = token(c);
    graph_at(c->to, node_of(c->from, v));
    Value x = graph_add(c->to, OP_recv, attr_intern(s, OP_recv, attr), 1, &when);
    node_of(c->to, x)->spec = n->spec;
    return x;
}

static void send(Cut *c, Value v, uint32_t reader) {
    AttrValue attr[] = {text_attr(c, MESH_PIPELINE),
                        {.i = c->stages},
                        {.i = reader},
                        {.i = *number_of(c, v, reader)}};
    graph_at(c->to, node_of(c->from, v));
    graph_add(c->to, OP_send, attr_intern(c->from->session, OP_send, attr), 1, &c->map[v]);
}

static Value part_here(Cut *c, Value v);

/* What this stage adds to a joint sum: a sum of its operands' parts, or one of them on some ranks.
 */
static Value part_of_sum(Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    Value in[3];
    for (uint32_t i = 0; i < n->nin; i++)
        in[i] = n->op == OP_select && i != 1 ? NO_VALUE : part_here(c, operand(c->from, v, i));
    if (n->op == OP_add && in[0] != NO_VALUE && in[1] != NO_VALUE) {
        graph_at(c->to, n);
        return b_ew2(c->to, OP_add, in[0], in[1]);
    }
    if (n->op == OP_add || in[1] == NO_VALUE) return in[0] == NO_VALUE ? in[1] : in[0];
    in[0] = here(c, operand(c->from, v, 0)), in[2] = here(c, operand(c->from, v, 2));
    graph_at(c->to, n);
    return b_ew3(c->to, OP_select, in[0], in[1], in[2]);
}

/* What this stage adds to a joint sum, or NO_VALUE. */
static Value part_here(Cut *c, Value v) {
    if (!is_joint_sum(c, v)) {
        bool own = !every(c, v) && c->of[v] == (int16_t)c->stage;
        bool first = every(c, v) && c->stage == 0; /* a number that all have counts once */
        return own || first ? here(c, v) : NO_VALUE;
    }
    if (!c->summed[v]) c->part[v] = part_of_sum(c, v);
    c->summed[v] = true;
    return c->part[v];
}

/* The stages' parts of a joint sum, added up. */
static Value joint_sum(Cut *c, Value v) {
    const Node *n = node_of(c->from, v);
    Value x = part_here(c, v);
    graph_at(c->to, node_of(c->from, v));
    if (x == NO_VALUE) x = b_const(c->to, 0, n->type);
    x = b_all_reduce(c->to, 1, &x, MESH_PIPELINE, c->stages, REDUCE_SUM);
    node_of(c->to, x)->spec = n->spec;
    return x;
}

/* Old value v in this stage's graph. */
static Value here(Cut *c, Value v) {
    if (c->map[v] != NO_VALUE) return c->map[v];
    if (!every(c, v) && c->of[v] != (int16_t)c->stage) return c->map[v] = receive(c, v);
    if (is_joint_sum(c, v)) return c->map[v] = joint_sum(c, v);
    for (uint32_t i = 0; i < node_of(c->from, v)->nin; i++) here(c, operand(c->from, v, i));
    return c->map[v] = graph_copy_node(c->to, c->from, v, c->map);
}

/* Is the sum itself asked for, not only as part of a larger one? Then all stages add to it. */
static bool is_read_whole(const Cut *c, Value v) {
    for (uint32_t u = c->uses.start[v]; u < c->uses.start[v + 1]; u++)
        if (!is_joint_sum(c, c->uses.use[u])) return true;
    return false;
}

/* In the old order: what this stage computes, and what it sends as soon as it is there. */
static void make_stage(Cut *c) {
    for (Value v = 0; v < c->from->node.n; v++) {
        bool effect = is_effect(node_of(c->from, v));
        if (c->of[v] == (int16_t)c->stage || (every(c, v) && (c->joint[v] || effect))) {
            if (!is_joint_sum(c, v) || is_read_whole(c, v)) here(c, v);
        }
        for (uint32_t s = 0; s < c->stages && c->of[v] == (int16_t)c->stage; s++)
            if (*number_of(c, v, s)) send(c, v, s);
    }
}

/* ---- the pass ---- */

/* Every rank reports the step's numbers. */
static void share_outputs(const Graph *g, int16_t *of) {
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_output && type_elements(type_of(g, v)) == 1)
            of[v] = EVERY_STAGE;
}

static Cut begin(Graph *g, PassContext *cx, const StagePlan *p) {
    size_t n = g->node.n + 1, micros = (size_t)g->set.micro_batches;
    return (Cut){.from = g,
                 .to = graph_like(g),
                 .a = cx->scratch,
                 .stages = p->stages,
                 .stage = cx->stage,
                 .of = p->of,
                 .uses = graph_uses(g, cx->scratch),
                 .joint = arena_array(cx->scratch, bool, n),
                 .sum = arena_array(cx->scratch, bool, n),
                 .after = arena_array(cx->scratch, bool, n),
                 .number = arena_array(cx->scratch, uint32_t, n * p->stages),
                 .position = arena_array(cx->scratch, uint32_t, p->stages * 2 * micros),
                 .map = no_values(cx->scratch, (uint32_t)n),
                 .part = no_values(cx->scratch, (uint32_t)n),
                 .summed = arena_array(cx->scratch, bool, n),
                 .token = NO_VALUE};
}

bool pass_stages(Graph *g, PassContext *cx) {
    MeshGroup m;
    StagePlan plan;
    if (!mesh_group(&g->set, MESH_PIPELINE, &m) || m.n == 1 || g->set.stages) return false;
    StageOptions o = {.stages = (uint32_t)m.n,
                      .kind = PIPELINE_PREFER_BACKWARD,
                      .machine = cx->machine,
                      .advise = cx->stage == 0 && g->set.train};
    if (g->set.pipeline && !pipeline_parse(g->set.pipeline, &o.kind)) {
        diag_error(g->session, (Loc){0},
                   "no pipeline is called '%s': it is PreferForward, PreferBackward or "
                   "PreferBackwardOptimizer",
                   g->set.pipeline);
        return false;
    }
    if (cx->stage >= o.stages) {
        diag_error(g->session, (Loc){0}, "there is no stage %u: the pipeline has %u, from 0",
                   cx->stage, o.stages);
        return false;
    }
    if (!stage_plan(g, &o, &plan, cx->scratch)) return false;
    share_outputs(g, plan.of);
    Cut c = begin(g, cx, &plan);
    find_joint(&c);
    move_sums(&c);
    find_readers(&c);
    find_positions(&c, o.kind);
    find_after(&c);
    number_transfers(&c);
    make_stage(&c);
    if (cx->shard) {
        *cx->shard = (ShardMap){g->node.n, no_values(session_arena(g->session), g->node.n)};
        memcpy(cx->shard->to, c.map, g->node.n * sizeof *c.map);
    }
    g->set.stages = m.n;
    g->set.stage = cx->stage;
    if (cx->machine) stage_take_machine(g, &cx->machine, cx->stage);
    Rewrite r = {g, c.to, NULL};
    rewrite_take(&r);
    return true;
}
