/* interp_ranks.c: a sharded graph, or the graphs of stages or shares, on virtual ranks in one
 * process: each rank until it needs others (ranks_walk.c), then the next. How one rank runs a node
 * is interp.c's; here is what ranks do together, and how the parts of a tensor make the whole.
 *
 * Sums over ranks are made in the order of their indices, once per group, so that all members hold
 * the same bits. On the wire every message is multiplied by `scale` and rounded to `wire`, and so
 * is the result before it is divided. */
#include "ir/interp.h"
#include "ir/ranks_walk.h"

#include <stdlib.h>
#include <string.h>

/* ---- parts and wholes ---- */

/* How the ranks' parts of a value lie in the whole. */
typedef struct {
    const Type *part;
    int64_t whole[MAX_RANK];
    MeshGroup split[MAX_RANK]; /* by dim; n is 1 where it is whole */
    Shares shares[MAX_RANK];   /* in it */
    int npartial;
    MeshGroup partial[MAX_RANK];
    int64_t ranges; /* of dim 0: each is split by itself */
} Parts;

/* Of a dimension split among so many, as this graph's ranks have it. */
static int64_t whole_dim(const Settings *set, Shares shares, int64_t members, int64_t part) {
    int64_t first = shares_class(shares, shares.n ? set->share : 0).first;
    int64_t index = shares.n ? first * (members / shares.n) : 0;
    return shares_whole(shares, members, index, part);
}

static Parts parts_of(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    const Spec *spec = g->set.sharded ? n->spec : NULL;
    Parts l = {.part = n->type, .ranges = 1, .npartial = spec ? spec->npartial : 0};
    for (int i = 0; i < n->type->rank; i++) {
        bool split = spec && spec->axis[i];
        l.split[i] = split ? walk_group(g, spec->axis[i]) : (MeshGroup){.n = 1};
        l.shares[i] = split ? mesh_shares(&g->set, spec->axis[i]) : (Shares){0};
        l.whole[i] = whole_dim(&g->set, l.shares[i], l.split[i].n, n->type->dim[i]);
    }
    for (int i = 0; i < l.npartial; i++) l.partial[i] = walk_group(g, spec->partial[i]);
    if (n->op == OP_input && n->type->rank && l.split[0].n > 1)
        l.ranges = MAX(g->set.micro_batches, 1);
    return l;
}

static int64_t whole_elements(const Parts *l) {
    int64_t n = 1;
    for (int i = 0; i < l->part->rank; i++) n *= l->whole[i];
    return n;
}

static int64_t ranges_of(const Parts *l, int dim) { return dim ? 1 : l->ranges; }

/* Where element i of a rank's part is in the whole. */
static int64_t whole_index(const Parts *l, const int64_t *start, int64_t i) {
    int64_t at = 0, stride = 1;
    for (int d = l->part->rank; d-- > 0; stride *= l->whole[d]) {
        int64_t size = l->part->dim[d], x = i % size, ranges = ranges_of(l, d);
        int64_t run = size / ranges; /* of one range in this part */
        at += stride * (x / run * (l->whole[d] / ranges) + start[d] + x % run);
        i /= size;
    }
    return at;
}

/* Where the rank's part of each dimension, or of its first range, begins. */
static void starts_of(const Parts *l, int64_t rank, int64_t *start) {
    for (int d = 0; d < l->part->rank; d++)
        start[d] = shares_range(l->shares[d], l->split[d].n, l->whole[d] / ranges_of(l, d),
                                mesh_index(&l->split[d], rank))
                       .start;
}

static void cut(const Parts *l, int64_t rank, const double *whole, double *part) {
    int64_t start[MAX_RANK], n = type_elements(l->part);
    starts_of(l, rank, start);
    for (int64_t i = 0; i < n; i++) part[i] = whole[whole_index(l, start, i)];
}

static void add_part(const Parts *l, int64_t rank, const double *part, double *whole) {
    int64_t start[MAX_RANK], n = type_elements(l->part);
    starts_of(l, rank, start);
    for (int64_t i = 0; i < n; i++) whole[whole_index(l, start, i)] += part[i];
}

/* Number of the part that a rank holds: equal for those that must hold the same. */
static int64_t part_number(const Parts *l, int64_t rank, int64_t *parts) {
    int64_t number = 0;
    *parts = 1;
    for (int i = 0; i < l->part->rank + l->npartial; i++) {
        const MeshGroup *m = i < l->part->rank ? &l->split[i] : &l->partial[i - l->part->rank];
        number = number * m->n + mesh_index(m, rank);
        *parts *= m->n;
    }
    return number;
}

/* ---- the ranks ---- */

static void set_index(Interp *in, const Graph *g, int64_t rank) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        const char *name = n->op == OP_input ? attr_str(n, "name") : "";
        if (strncmp(name, MESH_INDEX, strlen(MESH_INDEX)) != 0) continue;
        MeshGroup m = walk_group(g, name + strlen(MESH_INDEX));
        interp_results(in, v)->data[0] = (double)mesh_index(&m, rank);
    }
}

/* The one of these graphs that a rank runs. */
static int64_t stage_of(Graph *const *stage, int64_t stages, int64_t rank) {
    if (stages == 1) return 0;
    ASSERT(mesh_programs(&stage[0]->set) == stages);
    return mesh_program(&stage[0]->set, rank);
}

Ranks *ranks_new_stages(Graph *const *stage, int64_t stages) {
    Arena *a = arena_new();
    Ranks *r = arena_new_of(a, Ranks);
    const Settings *set = &stage[0]->set;
    *r = (Ranks){.arena = a,
                 .stages = stages,
                 .shared = stages > 1 && set->shares.n,
                 .n = set->sharded ? mesh_ranks(set) : 1};
    r->stage = arena_array(a, Graph *, stages);
    memcpy(r->stage, stage, (size_t)stages * sizeof *stage);
    r->rank = arena_array(a, Interp *, r->n);
    for (int64_t i = 0; i < r->n; i++) {
        Graph *g = stage[stage_of(stage, stages, i)];
        r->rank[i] = interp_new(g);
        set_index(r->rank[i], g, i);
    }
    return r;
}

Ranks *ranks_new(Graph *g) { return ranks_new_stages(&g, 1); }

void ranks_free(Ranks *r) {
    if (!r) return;
    for (int64_t i = 0; i < r->n; i++) interp_free(r->rank[i]);
    buf_free(&r->err);
    arena_free(r->arena);
}

/* Does rank i run stage s? */
static bool runs(const Ranks *r, int64_t i, int64_t s) { return r->rank[i]->g == r->stage[s]; }

const Type *ranks_type(const Ranks *r, int64_t stage, Value v) {
    Parts l = parts_of(r->stage[stage], v);
    return type_tensor(r->stage[stage]->session, l.part->dtype, l.part->rank, l.whole);
}

static void set_leaf(Ranks *r, int64_t stage, Value v, const double *whole) {
    Parts l = parts_of(r->stage[stage], v);
    for (int64_t i = 0; i < r->n; i++) {
        if (!runs(r, i, stage)) continue;
        Tensor *t = interp_results(r->rank[i], v);
        cut(&l, i, whole, t->data);
        interp_round(r->rank[i], t->type->dtype, t->data, type_elements(t->type));
    }
}

bool ranks_set(Ranks *r, const char *name, const double *data) {
    bool found = false;
    for (int64_t s = 0; s < r->stages; s++)
        for (Value v = 0; v < r->stage[s]->node.n; v++) {
            const Node *n = node_of(r->stage[s], v);
            if (!interp_is_stored(n) || strcmp(attr_str(n, "name"), name) != 0) continue;
            set_leaf(r, s, v, data);
            found = true;
        }
    return found;
}

/* Is v of the stage set on its ranks? */
static bool is_set(const Ranks *r, int64_t stage, Value v) {
    int64_t i = 0;
    while (!runs(r, i, stage)) i++;
    return r->rank[i]->value[v] != NULL;
}

/* The part of a start value that is drawn by the place in the whole tensor. */
static void start_leaf(Ranks *r, int64_t stage, Value v, uint64_t seed) {
    const Node *n = node_of(r->stage[stage], v);
    if (!interp_is_stored(n) || is_set(r, stage, v)) return;
    if (n->op == OP_input) BUG("input '%s' was not set", attr_str(n, "name"));
    Parts l = parts_of(r->stage[stage], v);
    int64_t count = whole_elements(&l);
    double *whole = xcalloc((size_t)count, sizeof *whole);
    init_fill(attr_str(n, "init"), attr_float(n, "a"), attr_float(n, "b"), attr_str(n, "name"),
              seed, whole, count);
    set_leaf(r, stage, v, whole);
    free(whole);
}

/* Adds a rank's part to the whole, or compares it with the same part of a rank before. */
static bool take_part(const Parts *l, int64_t rank, const Tensor *part, const Tensor **first,
                      double *whole) {
    if (!*first) {
        *first = part;
        add_part(l, rank, part->data, whole);
        return true;
    }
    size_t bytes = (size_t)type_elements(part->type) * sizeof *whole;
    return (*first)->type == part->type && memcmp((*first)->data, part->data, bytes) == 0;
}

bool ranks_get_shares(const Ranks *r, const Value *v, double *whole) {
    Parts *l = xcalloc((size_t)r->stages, sizeof *l);
    int64_t parts = 0;
    bool agree = true;
    for (int64_t s = 0; s < r->stages; s++) {
        if (v[s] == NO_VALUE) continue;
        l[s] = parts_of(r->stage[s], v[s]);
        part_number(&l[s], 0, &parts);
        memset(whole, 0, sizeof *whole * (size_t)whole_elements(&l[s]));
    }
    const Tensor **held = xcalloc((size_t)parts, sizeof *held);
    for (int64_t i = 0; i < r->n; i++) {
        int64_t s = 0;
        while (!runs(r, i, s)) s++;
        if (v[s] == NO_VALUE) continue;
        const Tensor **first = &held[part_number(&l[s], i, &parts)];
        agree &= take_part(&l[s], i, r->rank[i]->value[v[s]], first, whole);
    }
    free(held);
    free(l);
    return agree;
}

bool ranks_get(const Ranks *r, int64_t stage, Value v, double *whole) {
    Value *of = xcalloc((size_t)r->stages, sizeof *of);
    for (int64_t s = 0; s < r->stages; s++) of[s] = s == stage ? v : NO_VALUE;
    bool agree = ranks_get_shares(r, of, whole);
    free(of);
    return agree;
}

/* ---- what ranks do together ---- */

/* One group of ranks, each at its own node of the same collective. */
typedef struct {
    Ranks *r;
    const Value *at;  /* by rank */
    const Node *node; /* member 0's */
    MeshGroup group;
    int64_t first; /* member 0 */
} Meeting;

static const Tensor *sent(const Meeting *m, int64_t i, uint32_t k) {
    int64_t rank = mesh_member(&m->group, m->first, i);
    const Interp *in = m->r->rank[rank];
    return in->value[operand(in->g, m->at[rank], k)];
}

static double *result(const Meeting *m, int64_t i, uint32_t k) {
    int64_t rank = mesh_member(&m->group, m->first, i);
    return interp_results(m->r->rank[rank], m->at[rank])[k].data;
}

/* Elements from .. from + n - 1 of operand k of member i as they go over the wire. */
static void put_on_wire(const Meeting *m, int64_t i, uint32_t k, int64_t from, int64_t n,
                        double scale, double *x) {
    const double *data = sent(m, i, k)->data + from;
    for (int64_t e = 0; e < n; e++) x[e] = data[e] * scale;
    interp_round(m->r->rank[0], (Dtype)attr_int(m->node, "wire"), x, n);
}

static double reduced(ReduceOp op, double a, double b) {
    if (op == REDUCE_SUM) return a + b;
    bool takes = isnan(b) || (op == REDUCE_MAX ? b > a : b < a);
    return takes ? b : a;
}

/* Elements from .. from + n - 1 of operand k, reduced over the members. */
static void reduce_range(const Meeting *m, uint32_t k, ReduceOp op, int64_t from, int64_t n,
                         double *sum) {
    double scale = attr_float(m->node, "scale");
    const Type *t = sent(m, 0, k)->type;
    double *x = xcalloc((size_t)n, sizeof *x);
    put_on_wire(m, 0, k, from, n, scale, sum);
    for (int64_t i = 1; i < m->group.n; i++) {
        put_on_wire(m, i, k, from, n, scale, x);
        for (int64_t e = 0; e < n; e++) sum[e] = reduced(op, sum[e], x[e]);
    }
    interp_round(m->r->rank[0], (Dtype)attr_int(m->node, "wire"), sum, n);
    for (int64_t e = 0; e < n; e++) sum[e] /= scale;
    interp_round(m->r->rank[0], t->dtype, sum, n);
    free(x);
}

static void all_reduce(const Meeting *m) {
    ReduceOp op;
    if (!reduce_parse(attr_str(m->node, "reduce"), &op)) BUG("no such reduction");
    for (uint32_t k = 0; k < m->node->nin; k++) {
        int64_t n = type_elements(sent(m, 0, k)->type);
        reduce_range(m, k, op, 0, n, result(m, 0, k));
        for (int64_t i = 1; i < m->group.n; i++)
            memcpy(result(m, i, k), result(m, 0, k), sizeof(double) * (size_t)n);
    }
}

static void all_gather(const Meeting *m) {
    for (uint32_t k = 0; k < m->node->nin; k++) {
        int64_t n = type_elements(sent(m, 0, k)->type);
        for (int64_t i = 0; i < m->group.n; i++)
            for (int64_t j = 0; j < m->group.n; j++)
                memcpy(result(m, i, k) + j * n, sent(m, j, k)->data, sizeof(double) * (size_t)n);
    }
}

static void reduce_scatter(const Meeting *m) {
    for (uint32_t k = 0; k < m->node->nin; k++) {
        int64_t n = type_elements(sent(m, 0, k)->type) / m->group.n;
        for (int64_t i = 0; i < m->group.n; i++)
            reduce_range(m, k, REDUCE_SUM, i * n, n, result(m, i, k));
    }
}

static void all_to_all(const Meeting *m) {
    int64_t n = type_elements(m->node->type), block = n / m->group.n;
    double *x = xcalloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < m->group.n; i++) {
        put_on_wire(m, i, 0, 0, n, 1, x);
        for (int64_t j = 0; j < m->group.n; j++)
            memcpy(result(m, j, 0) + i * block, x + j * block, sizeof *x * (size_t)block);
    }
    free(x);
}

static void (*const collective[OP_COUNT])(const Meeting *) = {
    [OP_all_reduce] = all_reduce,
    [OP_all_gather] = all_gather,
    [OP_reduce_scatter] = reduce_scatter,
    [OP_all_to_all] = all_to_all,
};

static void act_meet(Walk *w, const MeshGroup *group, int64_t first) {
    const Node *n = node_of(w->g[first], w->at[first]);
    Meeting m = {w->ctx, w->at, n, *group, first};
    if (!collective[n->op]) BUG("%s is no collective of a group", op_info((Op)n->op)->name);
    collective[n->op](&m);
}

/* What a rank sent stays as it is until the step ends. */
static void act_hand(Walk *w, int64_t from, Value sent, int64_t to) {
    Ranks *r = w->ctx;
    const Tensor *x = r->rank[from]->value[operand(r->rank[from]->g, sent, 0)];
    double *data = interp_results(r->rank[to], w->at[to])->data;
    memcpy(data, x->data, sizeof *data * (size_t)type_elements(x->type));
}

static void act_node(Walk *w, int64_t rank) {
    Ranks *r = w->ctx;
    const Node *n = node_of(w->g[rank], w->at[rank]);
    if (!interp_is_stored(n)) interp_node(r->rank[rank], w->at[rank], r->seed);
}

/* Groups are checked before: an error, not a BUG. */
static bool check_groups(Graph *const *stage, int64_t stages, Buf *err) {
    for (int64_t s = 0; s < stages; s++)
        if (stage[s]->set.sharded && !walk_check_groups(stage[s], err)) return false;
    return true;
}

bool ranks_run(Ranks *r, uint64_t seed, int64_t step) {
    static const WalkActs acts = {act_node, act_meet, act_hand};
    const Graph **g = xcalloc((size_t)r->n, sizeof *g);
    r->seed = seed;
    r->err.n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        g[i] = r->rank[i]->g;
        interp_clock(r->rank[i], seed, step);
    }
    for (int64_t s = 0; s < r->stages; s++)
        for (Value v = 0; v < r->stage[s]->node.n; v++) start_leaf(r, s, v, seed);
    Walk w = {.g = g, .n = r->n, .acts = &acts, .ctx = r, .err = &r->err};
    bool ok = check_groups(r->stage, r->stages, &r->err) && walk_ranks(&w);
    for (int64_t i = 0; i < r->n && ok; i++) interp_assign(r->rank[i]);
    free(g);
    return ok;
}

/* ---- the order of collectives ---- */

static void count(const Graph *g, RanksOrder *out) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        out->transfers += n->op == OP_send;
        out->collectives += is_collective(n) && n->op != OP_send && n->op != OP_recv;
    }
}

bool ranks_check_order(Graph *const *stage, int64_t stages, bool settled, RanksOrder *out,
                       Buf *err) {
    int64_t n = mesh_ranks(&stage[0]->set);
    *out = (RanksOrder){0};
    for (int64_t s = 0; s < (stage[0]->set.shares.n ? 1 : stages); s++) count(stage[s], out);
    if (!check_groups(stage, stages, err)) return false;
    if (stages == 1 && !out->transfers) return true; /* all ranks are always at the same node */
    const Graph **g = xcalloc((size_t)n, sizeof *g);
    for (int64_t i = 0; i < n; i++) g[i] = stage[stage_of(stage, stages, i)];
    bool ok = walk_ranks(&(Walk){.g = g, .n = n, .waits = settled, .err = err});
    free(g);
    return ok;
}
