/* differentiate.c: reverse mode on the graph, from output "loss" to every parameter.
 *
 * Nodes are visited backwards; each node's gradient is complete when it is visited, because all its
 * users come later. Contributions to one value are added as they arrive, one partial sum per
 * micro-batch, and the partial sums in the order of the micro-batches: the order of additions is
 * fixed, and a schedule that runs micro-batch after micro-batch keeps one gradient alive.
 *
 * The gradient of a value has its dtype; those of a parameter and of its low-precision copies are
 * summed in the parameter's.
 *
 * New nodes are PHASE_BACKWARD with the scope, location and micro-batch of the node they belong to.
 * The seed is 1, or the loss scale: every gradient then carries it as a factor, and the optimize
 * pass divides it out. The sinks are `gradient` nodes in the order of the parameters. */
#include "passes/passes.h"

/* One partial sum: the contributions of one micro-batch. */
typedef struct Part Part;
struct Part {
    Value sum;
    int16_t micro;
    Part *next;
};

/* Gradient slots: one per value, one per result of a node with several. */
typedef struct {
    Graph *g;
    Arena *arena;
    bool *depends;  /* on a parameter, so that a gradient is wanted */
    uint32_t *slot; /* first slot of a node */
    Part **part;    /* by slot */
} Diff;

static uint32_t result_count(const Type *t) { return t->dtype == DT_TUPLE ? t->nelem : 1; }

static bool is_differentiable(const Graph *g, Value v) {
    const Type *t = type_of(g, v);
    bool number = t->dtype == DT_TUPLE || dtype_is_float(t->dtype);
    return number && !(op_info((Op)node_of(g, v)->op)->flags & (OPF_NOGRAD | OPF_EFFECT));
}

static Diff diff_new(Graph *g, Arena *arena) {
    uint32_t n = g->node.n, slots = 0;
    Diff d = {g, arena, arena_array(arena, bool, n), arena_array(arena, uint32_t, n), NULL};
    for (Value v = 0; v < n; v++) {
        d.slot[v] = slots;
        slots += result_count(type_of(g, v));
        if (!is_differentiable(g, v)) continue;
        d.depends[v] = node_of(g, v)->op == OP_param;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            d.depends[v] |= d.depends[operand(g, v, i)];
    }
    d.part = arena_array(arena, Part *, slots);
    return d;
}

/* New nodes look as if they came from v, in the backward phase. */
static void at_backward(Graph *g, Value v, int16_t micro) {
    graph_at_node(g, v);
    g->at.phase = PHASE_BACKWARD;
    g->at.micro = micro;
}

/* A parameter's copy in a lower precision: its contributions are summed in the master's type. */
static Value master_of(const Graph *g, Value v) {
    if (node_of(g, v)->op != OP_cast) return NO_VALUE;
    Value x = operand(g, v, 0);
    return node_of(g, x)->op == OP_param ? x : NO_VALUE;
}

static void contribute(Diff *d, Value owner, uint32_t result, Value x, int16_t micro) {
    Value master = master_of(d->g, owner);
    if (master != NO_VALUE) {
        at_backward(d->g, master, micro);
        x = b_cast(d->g, x, type_of(d->g, master)->dtype);
        owner = master;
    }
    Part **head = &d->part[d->slot[owner] + result];
    for (Part *p = *head; p; p = p->next) {
        if (p->micro != micro) continue;
        at_backward(d->g, owner, micro);
        p->sum = b_ew2(d->g, OP_add, p->sum, x);
        return;
    }
    Part *p = arena_new_of(d->arena, Part);
    *p = (Part){x, micro, *head};
    *head = p;
}

/* Micro-batches in order, after what belongs to none of them. */
static Part *sort_parts(Part *list) {
    Part *sorted = NULL;
    while (list) {
        Part *p = list, **at = &sorted;
        list = p->next;
        while (*at && (*at)->micro < p->micro) at = &(*at)->next;
        p->next = *at;
        *at = p;
    }
    return sorted;
}

/* The gradient of one result of v, or NO_VALUE. */
static Value total(Diff *d, Value v, uint32_t result) {
    Part *p = sort_parts(d->part[d->slot[v] + result]);
    if (!p) return NO_VALUE;
    Value sum = p->sum;
    for (p = p->next; p; p = p->next) {
        at_backward(d->g, v, p->micro);
        sum = b_ew2(d->g, OP_add, sum, p->sum);
    }
    return sum;
}

static void visit(Diff *d, Value v) {
    Graph *g = d->g;
    Value gout[MAX_OPERANDS], gin[MAX_OPERANDS];
    uint32_t n = result_count(type_of(g, v)), nin = node_of(g, v)->nin;
    bool any = false;
    ASSERT(n <= MAX_OPERANDS);
    for (uint32_t i = 0; i < n; i++) any |= (gout[i] = total(d, v, i)) != NO_VALUE;
    if (!any) return;
    int16_t micro = node_of(g, v)->micro;
    if (node_of(g, v)->op == OP_proj) {
        uint32_t index = (uint32_t)attr_int(node_of(g, v), "index");
        contribute(d, operand(g, v, 0), index, gout[0], micro);
        return;
    }
    const OpInfo *info = op_info((Op)node_of(g, v)->op);
    if (!info->vjp) {
        diag_error(g->session, node_of(g, v)->loc, "%s has no gradient", info->name);
        return;
    }
    for (uint32_t i = 0; i < nin; i++) gin[i] = NO_VALUE;
    at_backward(g, v, micro);
    info->vjp(g, v, gout, gin);
    for (uint32_t i = 0; i < nin; i++) {
        Value x = operand(g, v, i);
        if (gin[i] == NO_VALUE || !d->depends[x]) continue;
        if (type_of(g, gin[i]) != type_of(g, x)) BUG("%s: gradient of another type", info->name);
        contribute(d, x, 0, gin[i], micro);
    }
}

double loss_scale_start(const Settings *set) {
    if (set->loss_scale == LOSS_SCALE_NONE) return 1;
    return set->loss_scale_value > 0 ? set->loss_scale_value : 0x1p15;
}

/* The gradient of the loss itself: 1, or the loss scale (a state when it is dynamic). */
static Value seed(Graph *g, const Type *t) {
    double start = loss_scale_start(&g->set);
    if (g->set.loss_scale != LOSS_SCALE_DYNAMIC) return b_const(g, start, t);
    AttrValue attr[] = {{.s = intern(g->session, LOSS_SCALE_STATE)},
                        {.s = intern(g->session, "")},
                        {.s = intern(g->session, "constant")},
                        {.f = start},
                        {.f = 0}};
    return graph_leaf(g, OP_state, attr_intern(g->session, OP_state, attr), t);
}

/* The sink of one parameter; zero with a warning when the loss does not depend on it. */
static void add_sink(Diff *d, Value param) {
    Graph *g = d->g;
    const char *name = attr_str(node_of(g, param), "name");
    Value x = total(d, param, 0);
    at_backward(g, param, -1);
    if (x == NO_VALUE) {
        diag_warning(g->session, node_of(g, param)->loc,
                     "the loss does not depend on parameter '%s'", name);
        x = b_like(g, 0, param);
    }
    graph_add(g, OP_gradient, attr_of1(g, OP_gradient, (AttrValue){.s = name}), 1, &x);
}

static bool is_ready(const Graph *g) {
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_gradient || node_of(g, v)->op == OP_assign) return false;
    return g->set.train;
}

bool pass_differentiate(Graph *g, PassContext *cx) {
    if (!is_ready(g)) return false;
    Value sink = find_leaf(g, OP_output, "loss");
    if (sink == NO_VALUE) {
        diag_error(g->session, (Loc){0}, "nothing to train: no output named \"loss\"");
        return false;
    }
    Value loss = operand(g, sink, 0);
    if (type_of(g, loss)->rank != 0 || !dtype_is_float(type_of(g, loss)->dtype)) {
        diag_error(g->session, node_of(g, loss)->loc, "the loss must be one floating-point number");
        return false;
    }
    uint32_t n = g->node.n;
    Diff d = diff_new(g, cx->scratch);
    at_backward(g, loss, node_of(g, loss)->micro);
    contribute(&d, loss, 0, seed(g, type_of(g, loss)), node_of(g, loss)->micro);
    for (Value v = n; v-- > 0;)
        if (d.depends[v] && node_of(g, v)->op != OP_param) visit(&d, v);
    for (Value v = 0; v < n; v++)
        if (node_of(g, v)->op == OP_param) add_sink(&d, v);
    compact(g);
    return true;
}
