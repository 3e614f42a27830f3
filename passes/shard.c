/* shard.c: a graph for one device becomes one rank's part of it, the same for all ranks.
 *
 * One sweep in topological order decides for every node over which axes of the mesh it is split
 * (shard_choose.c), takes its operands as that needs them (shard_move.c inserts the collectives),
 * and copies it with the shapes of one rank's part. A value asked for in several ways is converted
 * once for each.
 *
 * Values that cost nothing to make are not decided but wait (`pending`): constants, broadcasts,
 * random numbers, and what follows from them alone; they are made where and as somebody asks for
 * them. So are optimizer states, which thus lie as the gradients do that update them, and
 * parameters that nobody placed, on a mesh with a tensor axis.
 *
 * Axes of one dimension are ordered: data first, tensor last, whatever their order in the mesh, so
 * that experts that use an axis of their own can leave the batch dimension by an all-to-all. */
#include "passes/shard.h"

#include <string.h>

#include "passes/stage.h"

/* ---- axes and parts ---- */

int64_t axes_parts(const Shard *s, Axes axes) {
    int64_t n = 1;
    for (int i = 0; i < s->naxes; i++)
        if (axes >> i & 1) n *= s->size[i];
    return n;
}

static Shares shares_of(const Shard *s, Axes axes) {
    return axes & s->uneven ? s->from->set.shares : (Shares){0};
}

bool axes_divide(const Shard *s, Axes axes, int64_t size) {
    return shares_divide(shares_of(s, axes), axes_parts(s, axes), size);
}

int64_t axes_part(const Shard *s, Axes axes, int64_t size) {
    Shares shares = shares_of(s, axes);
    int64_t parts = axes_parts(s, axes), each = shares.n ? parts / shares.n : parts;
    return shares_range(shares, parts, size, s->share.first * each).size;
}

const char *axes_name(const Shard *s, Axes axes) {
    Buf b = {0};
    for (int i = 0; i < s->naxes; i++)
        if (axes >> i & 1) buf_printf(&b, "%s%s", b.n ? "." : "", s->axis[i]);
    const char *name = intern(s->from->session, b.p ? b.p : "");
    buf_free(&b);
    return name;
}

bool part_equal(const Part *a, const Part *b, int rank) {
    return a->partial == b->partial && memcmp(a->dim, b->dim, (size_t)rank) == 0;
}

const Type *part_type(const Shard *s, const Type *whole, const Part *p) {
    int64_t dim[MAX_RANK];
    for (int k = 0; k < whole->rank; k++) {
        ASSERT(axes_divide(s, p->dim[k], whole->dim[k]));
        dim[k] = axes_part(s, p->dim[k], whole->dim[k]);
    }
    return type_tensor(s->from->session, whole->dtype, whole->rank, dim);
}

const Spec *part_spec(const Shard *s, int rank, const Part *p) {
    Spec spec = {.rank = rank};
    for (int k = 0; k < rank; k++) spec.axis[k] = p->dim[k] ? axes_name(s, p->dim[k]) : NULL;
    for (int i = 0; i < s->naxes; i++)
        if (p->partial >> i & 1) spec.partial[spec.npartial++] = s->axis[i];
    return spec_intern(s->from->session, &spec);
}

static Axes axis_named(const Shard *s, const char *name) {
    const char *own = mesh_axis(&s->from->set, name);
    for (int i = 0; own && i < s->naxes; i++)
        if (s->axis[i] == own) return (Axes)(1 << i);
    return 0;
}

/* "data.expert" */
static Axes axes_named(const Shard *s, const char *names) {
    Axes set = 0;
    for (const char *p = names; p && *p;) {
        size_t n = strcspn(p, ".");
        set |= axis_named(s, intern_n(s->from->session, p, n));
        p += n + (p[n] == '.');
    }
    return set;
}

static Part part_of_spec(const Shard *s, const Spec *spec) {
    Part p = {0};
    for (int k = 0; spec && k < spec->rank; k++) p.dim[k] = axes_named(s, spec->axis[k]);
    return p;
}

/* ---- nodes of the new graph ---- */

static Value add_made(Shard *s, Value v, const Part *p, Value x) {
    Made *m = arena_new_of(s->a, Made), **end = &s->made[v];
    while (*end) end = &(*end)->next;
    *m = (Made){*p, x, NULL};
    *end = m;
    return x;
}

static const Ints *local_shape(const Shard *s, const Type *t) {
    return ints_intern(s->from->session, (uint32_t)t->rank, t->dim);
}

/* Limits of a slice, or of an input's range: of the part where a dimension is split. */
static const Attr *slice_attr(Shard *s, Value v, const Type *t, const Dims *d) {
    const Node *n = node_of(s->from, v);
    const Ints *start = attr_ints(n, "start"), *limit = attr_ints(n, "limit");
    int64_t lo[MAX_RANK], hi[MAX_RANK];
    for (int k = 0; k < t->rank; k++) {
        int64_t size = limit->v[k] - start->v[k];
        bool split = d->out[0][k] >= 0 && size != t->dim[k];
        lo[k] = split ? start->v[k] / size * t->dim[k] : start->v[k];
        hi[k] = lo[k] + t->dim[k];
    }
    AttrValue attr[] = {{.v = ints_intern(s->from->session, start->n, lo)},
                        {.v = ints_intern(s->from->session, start->n, hi)}};
    return attr_intern(s->from->session, OP_slice, attr);
}

/* The node's attributes for a result of type t. */
static const Attr *local_attr(Shard *s, Value v, const Type *t, const Dims *d) {
    const Node *n = node_of(s->from, v);
    Session *ss = s->from->session;
    switch (n->op) {
    case OP_slice: return slice_attr(s, v, t, d);
    case OP_reshape: return attr_intern(ss, OP_reshape, &(AttrValue){.v = local_shape(s, t)});
    case OP_broadcast:
        return attr_intern(ss, OP_broadcast,
                           (AttrValue[]){{.v = local_shape(s, t)}, {.v = attr_ints(n, "dims")}});
    case OP_scatter_add: return attr_intern(ss, OP_scatter_add, &(AttrValue){.i = t->dim[0]});
    case OP_unpick: return attr_intern(ss, OP_unpick, &(AttrValue){.i = t->dim[t->rank - 1]});
    default: return n->attr;
    }
}

/* Numbers x along a label that is split, counted from where the rank's part begins. */
static Value count_from_first(Shard *s, Value x, const Dims *d, const Choice *c) {
    const Type *t = type_of(s->to, x);
    Axes axes = c->label[d->counted];
    Value first = shard_first(s, axes, d->size[d->counted], t->dtype);
    return b_ew2(s->to, OP_sub, x, b_broadcast_to(s->to, first, t));
}

/* The label along which the ranks' parts are joined by several nodes; -1: the node is one. */
static int joined_label(const Dims *d, const Choice *c) {
    for (int l = 0; l < d->n; l++)
        if (c->label[l] && d->kind[l] == LABEL_JOINED) return l;
    return -1;
}

/* Node v as its choice says, with operands converted; NO_VALUE: several nodes, whose results are in
 * s->result. */
static Value emit(Shard *s, Value v, const Dims *d, const Choice *c) {
    const Node *n = node_of(s->from, v);
    Value in[MAX_OPERANDS];
    for (uint32_t i = 0; i < n->nin; i++) {
        Part p = choice_in(s, v, d, c, i);
        in[i] = shard_get(s, operand(s->from, v, i), &p);
    }
    graph_at(s->to, node_of(s->from, v));
    if (d->index != NO_VALUE && c->label[d->counted])
        in[d->index] = count_from_first(s, in[d->index], d, c);
    int joined = joined_label(d, c);
    if (joined >= 0) {
        s->result[v] = arena_array(s->a, Value, DIMS_RESULTS);
        shard_cross_entropy(s, in[0], in[1], c->label[joined], s->result[v]);
        return NO_VALUE;
    }
    if (n->type->dtype == DT_TUPLE) return graph_add(s->to, (Op)n->op, n->attr, n->nin, in);
    Part out = choice_out(d, c, n->type->rank, 0);
    const Type *t = part_type(s, n->type, &out);
    Value x = graph_add(s->to, (Op)n->op, local_attr(s, v, t, d), n->nin, in);
    ASSERT(type_of(s->to, x) == t);
    for (int l = 0; l < d->n; l++)
        if (c->label[l] && (d->kind[l] == LABEL_MAX || d->kind[l] == LABEL_MIN))
            x = shard_reduce(s, x, c->label[l], d->kind[l] == LABEL_MAX ? REDUCE_MAX : REDUCE_MIN);
    node_of(s->to, x)->spec = part_spec(s, n->type->rank, &out);
    return x;
}

/* ---- values that wait ---- */

static bool all_pending(const Shard *s, Value v) {
    for (uint32_t i = 0; i < node_of(s->from, v)->nin; i++)
        if (!s->pending[operand(s->from, v, i)]) return false;
    return node_of(s->from, v)->nin > 0;
}

/* Every rank has all of it. */
static bool is_replicated(const Shard *s, Value v) {
    static const Part whole;
    return !s->pending[v] && part_equal(&s->home[v], &whole, type_of(s->from, v)->rank);
}

static bool waits(const Shard *s, Value v) {
    const Node *n = node_of(s->from, v);
    switch (n->op) {
    case OP_constant:
    case OP_iota:
    case OP_random:
    case OP_state: return true;
    case OP_param: return !n->spec && s->tensor;
    case OP_broadcast:
        return all_pending(s, v) || (is_replicated(s, operand(s->from, v, 0)) &&
                                     type_of(s->from, operand(s->from, v, 0)) != n->type);
    case OP_reshape:
    case OP_transpose: return all_pending(s, v);
    default: return (op_info((Op)n->op)->flags & OPF_EW) && all_pending(s, v);
    }
}

/* A leaf that waited lies from now on as it is first asked for. */
static void settle_leaf(Shard *s, Value v, const Part *want) {
    const Node *n = node_of(s->from, v);
    Part p = {0};
    for (int k = 0; k < n->type->rank; k++)
        p.dim[k] = n->op == OP_param ? want->dim[k] & s->tensor : want->dim[k];
    s->pending[v] = false;
    s->home[v] = p;
    graph_at(s->to, node_of(s->from, v));
    Value x = graph_leaf(s->to, (Op)n->op, n->attr, part_type(s, n->type, &p));
    node_of(s->to, x)->spec = part_spec(s, n->type->rank, &p);
    add_made(s, v, &p, x);
}

/* Counts on from where the parts before end. */
static Value make_iota(Shard *s, Value v, const Part *p) {
    const Node *n = node_of(s->from, v);
    Graph *g = s->to;
    const Type *t = part_type(s, n->type, p);
    int64_t axis = attr_int(n, "axis");
    Axes axes = p->dim[axis];
    Value x = graph_leaf(g, OP_iota, n->attr, t);
    if (!axes) return x;
    Value first = shard_first(s, axes, n->type->dim[axis], t->dtype);
    return b_ew2(g, OP_add, x, b_broadcast_to(g, first, t));
}

/* Random numbers depend on where an element lies in the whole tensor: a rank draws its part. */
static Value make_random(Shard *s, Value v, const Part *p) {
    static const Part whole;
    const Node *n = node_of(s->from, v);
    Session *ss = s->from->session;
    const Type *t = part_type(s, n->type, p);
    Value in[2 + MAX_RANK];
    uint32_t nin = 2;
    int64_t parts[MAX_RANK];
    for (uint32_t i = 0; i < 2; i++) in[i] = shard_get(s, operand(s->from, v, i), &whole);
    graph_at(s->to, node_of(s->from, v));
    for (int k = 0; k < t->rank; k++) {
        parts[k] = axes_parts(s, p->dim[k]);
        if (parts[k] > 1) in[nin++] = shard_index(s, p->dim[k]);
    }
    AttrValue attr[] = {{.s = attr_str(n, "site")},
                        {.v = local_shape(s, t)},
                        {.v = ints_intern(ss, nin > 2 ? (uint32_t)t->rank : 0, parts)}};
    Value x = graph_add(s->to, OP_random, attr_intern(ss, OP_random, attr), nin, in);
    node_of(s->to, x)->spec = part_spec(s, t->rank, p);
    return x;
}

/* Splits of the result that the node's labels can make; others are cut out afterwards. */
static Choice choice_for(const Shard *s, const Node *n, const Dims *d, const Part *want) {
    Choice c = {0};
    for (int k = 0; k < n->type->rank; k++) {
        int label = d->out[0][k];
        if (label >= 0 && axes_divide(s, want->dim[k], d->size[label]))
            c.label[label] = want->dim[k];
    }
    return c;
}

static Value make_waiting(Shard *s, Value v, const Part *want, Part *made) {
    const Node *n = node_of(s->from, v);
    Dims d;
    *made = *want;
    made->partial = 0;
    graph_at(s->to, node_of(s->from, v));
    if (n->op == OP_constant)
        return graph_leaf(s->to, OP_constant, n->attr, part_type(s, n->type, made));
    if (n->op == OP_iota) return make_iota(s, v, made);
    for (int k = 0; n->op == OP_random && k < n->type->rank; k++)
        if (made->dim[k] & s->uneven)
            made->dim[k] = 0; /* it draws equal parts; cut out afterwards */
    if (n->op == OP_random) return make_random(s, v, made);
    dims_of(s->from, v, &d);
    Choice c = choice_for(s, n, &d, made);
    *made = choice_out(&d, &c, n->type->rank, 0);
    return emit(s, v, &d, &c);
}

/* ---- asking for values ---- */

static Value find_made(const Shard *s, Value v, const Part *want) {
    for (const Made *m = s->made[v]; m; m = m->next)
        if (part_equal(&m->part, want, type_of(s->from, v)->rank)) return m->v;
    return NO_VALUE;
}

Value shard_get(Shard *s, Value v, const Part *want) {
    const Node *n = node_of(s->from, v);
    Value x = find_made(s, v, want);
    if (x != NO_VALUE) return x;
    Part have;
    if (s->pending[v] && n->nin == 0 && n->op != OP_constant && n->op != OP_iota)
        settle_leaf(s, v, want);
    if (s->pending[v]) {
        x = make_waiting(s, v, want, &have);
        add_made(s, v, &have, x);
    } else {
        const Made *m = shard_nearest(s, v, want);
        x = m->v, have = m->part;
    }
    if (part_equal(&have, want, n->type->rank)) return x;
    graph_at(s->to, node_of(s->from, v));
    return add_made(s, v, want, shard_move(s, n->type, x, have, want));
}

/* ---- the sweep ---- */

/* Only what has the batch has parts by share. */
static void refuse_shares(Shard *s, Value v, Part *p) {
    const Node *n = node_of(s->from, v);
    for (int k = 0; k < n->type->rank; k++) {
        if (!(p->dim[k] & s->uneven)) continue;
        if (n->op == OP_input && axes_divide(s, p->dim[k], n->type->dim[k])) continue;
        diag_error(s->from->session, n->loc, "'%s' cannot be split over ranks of unequal shares",
                   attr_str(n, "name"));
        p->dim[k] &= (Axes)~s->uneven;
    }
}

static void visit_leaf(Shard *s, Value v) {
    const Node *n = node_of(s->from, v);
    Part p = part_of_spec(s, n->spec);
    refuse_shares(s, v, &p);
    graph_at(s->to, node_of(s->from, v));
    Value x = graph_leaf(s->to, (Op)n->op, n->attr, part_type(s, n->type, &p));
    node_of(s->to, x)->spec = part_spec(s, n->type->rank, &p);
    s->home[v] = p;
    add_made(s, v, &p, x);
    scope_leaf(s, v);
}

/* The result of a tuple lies as the tuple's choice says. */
static void visit_proj(Shard *s, Value v, Choice *const *choice) {
    const Node *n = node_of(s->from, v);
    Value tuple = operand(s->from, v, 0);
    Dims d;
    dims_of(s->from, tuple, &d);
    s->home[v] = choice_out(&d, choice[tuple], n->type->rank, (uint32_t)attr_int(n, "index"));
    graph_at(s->to, node_of(s->from, v));
    Value x = s->result[tuple] ? s->result[tuple][attr_int(n, "index")]
                               : graph_add(s->to, OP_proj, n->attr, 1, &s->made[tuple]->v);
    node_of(s->to, x)->spec = part_spec(s, n->type->rank, &s->home[v]);
    add_made(s, v, &s->home[v], x);
    scope_proj(s, v, &d);
}

static void visit_assign(Shard *s, Value v) {
    Value leaf = operand(s->from, v, 0), x = operand(s->from, v, 1);
    Part p = s->pending[x] ? (Part){0} : s->home[x];
    p.partial = 0;
    if (s->pending[leaf]) shard_get(s, leaf, &p);
    Value in[] = {s->made[leaf]->v, shard_get(s, x, &s->home[leaf])};
    graph_at(s->to, node_of(s->from, v));
    add_made(s, v, &s->home[leaf], graph_add(s->to, OP_assign, node_of(s->from, v)->attr, 2, in));
}

/* Tokens are routed in groups; a mesh that does not divide their number gathers all tokens. */
static void warn_of_routing(Shard *s, Value v, const Choice *c) {
    const Node *n = node_of(s->from, v);
    Axes lost = s->batch & (Axes)~c->label[0];
    if (n->op != OP_route || !lost || s->warned || s->from->set.share) return;
    s->warned = true;
    int64_t groups = type_of(s->from, operand(s->from, v, 0))->dim[0];
    diag_warning(s->from->session, n->loc,
                 "%lld group%s of tokens cannot be shared by the %lld ranks of %s: every rank "
                 "gathers and routes all tokens; a smaller 'group' of the layer avoids that",
                 (long long)groups, groups == 1 ? "" : "s", (long long)axes_parts(s, s->batch),
                 axes_name(s, s->batch));
}

/* A tensor axis that does not divide the heads leaves attention whole on all of its ranks. */
static void warn_of_heads(const Shard *s, Value v) {
    const Node *n = node_of(s->from, v);
    int64_t ranks = axes_parts(s, s->tensor);
    if (n->op != OP_attention || n->phase != PHASE_FORWARD || s->from->set.share) return;
    int64_t heads = type_of(s->from, operand(s->from, v, 0))->dim[2];
    if (heads % ranks != 0)
        diag_warning(s->from->session, n->loc,
                     "%lld heads cannot be shared by the %lld ranks of %s: each of them computes "
                     "all heads",
                     (long long)heads, (long long)ranks, axes_name(s, s->tensor));
}

static void visit_computed(Shard *s, Value v, Choice **choice) {
    const Node *n = node_of(s->from, v);
    Dims d;
    dims_of(s->from, v, &d);
    choice[v] = arena_new_of(s->a, Choice);
    shard_choose(s, v, &d, choice[v]);
    warn_of_routing(s, v, choice[v]);
    warn_of_heads(s, v);
    bool tuple = n->type->dtype == DT_TUPLE;
    if (!tuple) s->home[v] = choice_out(&d, choice[v], n->type->rank, 0);
    Value x = emit(s, v, &d, choice[v]);
    if (x != NO_VALUE) add_made(s, v, &s->home[v], x);
    scope_result(s, v, &d);
}

static void visit(Shard *s, Value v, Choice **choice) {
    const Node *n = node_of(s->from, v);
    s->pending[v] = waits(s, v);
    if (s->pending[v]) return;
    if (op_info((Op)n->op)->flags & OPF_LEAF)
        visit_leaf(s, v);
    else if (n->op == OP_proj)
        visit_proj(s, v, choice);
    else if (n->op == OP_assign)
        visit_assign(s, v);
    else
        visit_computed(s, v, choice);
}

/* Parameters that nothing reads stay: they are trained, saved and loaded. */
static void keep_params(Shard *s) {
    static const Part whole;
    for (Value v = 0; v < s->from->node.n; v++)
        if (node_of(s->from, v)->op == OP_param && s->pending[v]) settle_leaf(s, v, &whole);
}

/* An axis over which nothing is split: its ranks would all do the same. */
static void refuse_idle_axes(const Shard *s) {
    Axes used = 0;
    for (Value v = 0; v < s->from->node.n; v++)
        for (const Made *m = s->made[v]; m; m = m->next)
            for (int k = 0; k < type_of(s->from, v)->rank; k++) used |= m->part.dim[k];
    for (int i = 0; i < s->naxes; i++)
        if (!(used >> i & 1))
            diag_error(s->from->session, (Loc){0},
                       "the %lld ranks of mesh axis '%s' would all do the same work: nothing in "
                       "this model can be split over them (is one of its sizes, such as the "
                       "number of heads, a multiple of %lld?)",
                       (long long)s->size[i], s->axis[i], (long long)s->size[i]);
}

/* ---- the pass ---- */

static int axis_order(const char *name) {
    static const char *const order[] = {MESH_DATA, "", MESH_EXPERT, MESH_TENSOR};
    for (size_t i = 0; i < COUNT(order); i++)
        if (strcmp(name, order[i]) == 0) return (int)i;
    return 1;
}

static void find_axes(Shard *s) {
    const Settings *set = &s->from->set;
    for (int order = 0; order < 4; order++)
        for (int i = 0; i < set->nmesh; i++) {
            if (set->mesh[i].same || set->mesh[i].size == 1) continue;
            if (strcmp(set->mesh[i].axis, MESH_PIPELINE) == 0) continue; /* cut into stages */
            if (axis_order(set->mesh[i].axis) != order) continue;
            s->axis[s->naxes] = set->mesh[i].axis;
            s->size[s->naxes++] = set->mesh[i].size;
        }
    s->tensor = axis_named(s, MESH_TENSOR);
    if (set->shares.n) s->uneven = axis_named(s, MESH_DATA);
    s->batch = axis_named(s, MESH_DATA) | axis_named(s, MESH_EXPERT);
    if (set->zero) s->reuse = s->batch;
}

/* Slots and sources mean rows of the part that routed the tokens. */
static bool is_local_number(const Graph *g, const Part *p, Value v) {
    const Node *n = node_of(g, v);
    if (n->op != OP_proj || node_of(g, operand(g, v, 0))->op != OP_route) return false;
    int64_t index = attr_int(n, "index");
    return (index == 1 && p->dim[0]) || (index == 2 && p->dim[1]);
}

static void tell_map(const Shard *s, ShardMap *map) {
    map->n = s->from->node.n;
    map->to = no_values(session_arena(s->from->session), map->n);
    for (Value v = 0; v < map->n; v++)
        if (s->made[v] && !is_local_number(s->from, &s->made[v]->part, v))
            map->to[v] = s->made[v]->v;
}

/* The class of shares that is asked for. */
static bool find_class(Graph *g, const PassContext *cx) {
    const char *why = mesh_shares_refused(&g->set);
    if (!g->set.shares.n) return true;
    if (!why && cx->stage < mesh_programs(&g->set)) return g->set.share = cx->stage, true;
    diag_error(g->session, (Loc){0}, why ? "%s" : "there is no such class of shares", why);
    return false;
}

bool pass_shard(Graph *g, PassContext *cx) {
    if (g->set.sharded || mesh_ranks(&g->set) == 1) return false;
    if (!find_class(g, cx) || !share_divides(g)) return false;
    uint32_t n = g->node.n;
    Shard s = {.from = g,
               .to = graph_like(g),
               .a = cx->scratch,
               .pending = arena_array(cx->scratch, bool, n + 1),
               .home = arena_array(cx->scratch, Part, n + 1),
               .made = arena_array(cx->scratch, Made *, n + 1),
               .result = arena_array(cx->scratch, Value *, n + 1)};
    for (size_t i = 0; i < COUNT(s.index); i++) s.index[i] = NO_VALUE;
    s.uses = graph_uses(g, cx->scratch);
    find_axes(&s);
    s.share = shares_class(g->set.shares, g->set.share);
    scope_begin(&s);
    if (s.tensor)
        shard_tensor(g, cx->scratch, s.axis[s.naxes - 1], s.size[s.naxes - 1],
                     axes_parts(&s, s.batch));
    Choice **choice = arena_array(cx->scratch, Choice *, n + 1);
    for (Value v = 0; v < n; v++) visit(&s, v, choice);
    if (g->set.train) keep_params(&s);
    refuse_idle_axes(&s);
    if (cx->shard) tell_map(&s, cx->shard);
    g->set.tokens = graph_tokens(g);
    g->set.sharded = true;
    if (cx->machine && g->set.shares.n) stage_take_machine(g, &cx->machine, cx->stage);
    Rewrite r = {g, s.to, NULL};
    rewrite_take(&r);
    return true;
}
