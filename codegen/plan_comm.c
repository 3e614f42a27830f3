/* plan_comm.c: collectives as steps of a plan; the ranks that take part, and which part of the
 * whole each of them has. Steps stand in the graph's order, which is one for all ranks: so the
 * collectives of a stream meet those of the other ranks in that order. */
#include <string.h>

#include "codegen/plan_make.h"

_Static_assert((int)PLAN_MAX_LEVELS == (int)MESH_LEVELS && (int)PLAN_MAX_RANK == (int)MAX_RANK,
               "groups and parts of plans are those of graphs");

void add_ranks(Make *m) {
    const Settings *set = &m->g->set;
    Buf text = {0};
    if (!set->sharded) return;
    mesh_print(set, &text);
    m->p->ranks = mesh_ranks(set);
    if (text.n) m->p->mesh = intern(m->p->session, text.p);
    m->p->stages = set->stages;
    m->p->stage = set->stage;
    m->p->shares = set->shares;
    m->p->share = set->share;
    m->p->balanced = set->balanced;
    if (set->stages) add_group(m, MESH_PIPELINE);
    if (set->shares.n) add_group(m, MESH_DATA);
    buf_free(&text);
}

uint32_t add_group(Make *m, const char *over) {
    Plan *p = m->p;
    MeshGroup of;
    for (uint32_t i = 0; i < p->group.n; i++)
        if (strcmp(p->group.p[i].name, over) == 0) return i;
    if (!mesh_group(&m->g->set, over, &of)) BUG("the mesh has no group of ranks '%s'", over);
    PlanGroup g = {.name = intern(p->session, over), .nlevel = of.nlevel};
    memcpy(g.size, of.size, sizeof of.size);
    memcpy(g.stride, of.stride, sizeof of.stride);
    vec_push(&p->group, g);
    return p->group.n - 1;
}

void set_split(Make *m, PlanBuffer *b, const Spec *spec) {
    const Settings *set = &m->g->set;
    if (!set->sharded || !spec) return;
    for (int i = 0; i < b->rank; i++)
        if (mesh_parts(set, spec, i) > 1) b->split[i] = add_group(m, spec->axis[i]) + 1;
    bool ranges = b->kind == BUF_INPUT && b->rank > 0 && b->split[0];
    if (ranges && set->micro_batches > 1) b->ranges = set->micro_batches;
}

/* ---- steps ---- */

static ReduceOp reduce_of(const Node *n) {
    ReduceOp op = REDUCE_SUM;
    if (n->op == OP_all_reduce && !reduce_parse(attr_str(n, "reduce"), &op))
        BUG("there is no reduction '%s'", attr_str(n, "reduce"));
    return op;
}

/* Result i, or the room when i is the number of results. */
static PlanArg place_result(const Make *m, const Unit *unit, uint32_t i, bool room) {
    for (uint32_t k = 0; k < unit->nwrite; k++) {
        const Node *n = node_of(m->g, unit->write[k]);
        if (room != (n->op == OP_room)) continue;
        uint32_t index = n->op == OP_proj ? (uint32_t)attr_int(n, "index") : 0;
        if (room || index == i) return place(m, unit->write[k], 0);
    }
    BUG("a collective lacks its result %u", i);
}

static bool has_room(const Make *m, const Unit *unit) {
    for (uint32_t k = 0; k < unit->nwrite; k++)
        if (node_of(m->g, unit->write[k])->op == OP_room) return true;
    return false;
}

void comm_step(Make *m, uint32_t u, PlanStep *s) {
    const Unit *unit = &m->us.unit[u];
    Value v = unit->node[0];
    const Node *n = node_of(m->g, v);
    PlanCollective *c = &s->collective;
    s->kind = STEP_COLLECTIVE;
    *c = (PlanCollective){.group = add_group(m, attr_str(n, "over")),
                          .reduce = reduce_of(n),
                          .n = n->nin,
                          .count = arena_array(session_arena(m->p->session), int64_t, n->nin),
                          .dtype = collective_type(m->g, v, 0)->dtype,
                          .wire = collective_wire(m->g, v),
                          .scale = 1,
                          .peer = -1,
                          .room = has_room(m, unit)};
    op_collective((Op)n->op, &c->kind);
    if (plan_comm_reduces(c) && c->wire != c->dtype) c->scale = attr_float(n, "scale");
    if (plan_comm_pairs(c)) c->peer = attr_int(n, "peer");
    uint32_t in = plan_comm_operands(c), out = plan_comm_results(c);
    PlanArg *arg = add_args(m, s, in + out + c->room);
    for (uint32_t i = 0; i < c->n; i++) c->count[i] = type_elements(collective_type(m->g, v, i));
    for (uint32_t i = 0; i < in; i++) arg[i] = place_operand(m, v, i);
    for (uint32_t i = 0; i < out; i++) arg[in + i] = place_result(m, unit, i, false);
    if (c->room) arg[in + out] = place_result(m, unit, 0, true);
}

static void add_convert(Make *m, Dtype from, Dtype to, bool pack) {
    Code c = {0};
    const PlanStep kernel = {.what = "convert", .nargs = PLAN_CONVERT_ARGS};
    char name[PLAN_CONVERT_NAME];
    m->target->convert(from, to, pack, &c);
    uint32_t k = add_kernel(m, &kernel, &c, "messages, in the format they travel in\n");
    plan_convert_name(name, from, to, pack);
    m->p->kernel.p[k].name = intern(m->p->session, name);
    buf_free(&c.body);
}

void convert_kernels(Make *m) {
    for (uint32_t i = 0; i < m->p->step.n && m->target->convert; i++) {
        const PlanStep *s = &m->p->step.p[i];
        const PlanCollective *c = &s->collective;
        if (s->kind != STEP_COLLECTIVE || !plan_comm_converts(c)) continue;
        add_convert(m, c->dtype, c->wire, true);
        add_convert(m, c->wire, c->dtype, false);
    }
}
