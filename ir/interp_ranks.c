/* interp_ranks.c: a sharded graph on virtual ranks in one process, in lock-step: each node on every
 * rank before the next. How one rank runs a node is interp.c's; here is what ranks do together, and
 * how the parts of a tensor make the whole.
 *
 * Sums over ranks are made in the order of their indices, once per group, so that all members hold
 * the same bits. On the wire every message is multiplied by `scale` and rounded to `wire`, and so
 * is the result before it is divided. */
#include "ir/interp.h"

#include <stdlib.h>
#include <string.h>

/* ---- parts and wholes ---- */

/* How the ranks' parts of a value lie in the whole. */
typedef struct {
    const Type *part;
    int64_t whole[MAX_RANK];
    MeshGroup split[MAX_RANK]; /* by dim; n is 1 where it is whole */
    int npartial;
    MeshGroup partial[MAX_RANK];
    int64_t ranges; /* of dim 0: each is split by itself */
} Parts;

static MeshGroup group_of(const Graph *g, const char *over) {
    MeshGroup m;
    if (!mesh_group(&g->set, over, &m)) BUG("the mesh has no group \"%s\"", over);
    return m;
}

static Parts parts_of(const Ranks *r, Value v) {
    const Node *n = node_of(r->g, v);
    const Spec *spec = r->g->set.sharded ? n->spec : NULL;
    Parts l = {.part = n->type, .ranges = 1, .npartial = spec ? spec->npartial : 0};
    for (int i = 0; i < n->type->rank; i++) {
        bool split = spec && spec->axis[i];
        l.split[i] = split ? group_of(r->g, spec->axis[i]) : (MeshGroup){.n = 1};
        l.whole[i] = n->type->dim[i] * l.split[i].n;
    }
    for (int i = 0; i < l.npartial; i++) l.partial[i] = group_of(r->g, spec->partial[i]);
    if (n->op == OP_input && n->type->rank && l.split[0].n > 1)
        l.ranges = MAX(r->g->set.micro_batches, 1);
    return l;
}

static int64_t whole_elements(const Parts *l) {
    int64_t n = 1;
    for (int i = 0; i < l->part->rank; i++) n *= l->whole[i];
    return n;
}

/* Where element i of a rank's part is in the whole. */
static int64_t whole_index(const Parts *l, const int64_t *block, int64_t i) {
    int64_t at = 0, stride = 1;
    for (int d = l->part->rank; d-- > 0; stride *= l->whole[d]) {
        int64_t size = l->part->dim[d], x = i % size, ranges = d ? 1 : l->ranges;
        int64_t run = size / ranges; /* of one range in this part */
        at += stride * (x / run * run * l->split[d].n + block[d] * run + x % run);
        i /= size;
    }
    return at;
}

static void blocks_of(const Parts *l, int64_t rank, int64_t *block) {
    for (int d = 0; d < l->part->rank; d++) block[d] = mesh_index(&l->split[d], rank);
}

static void cut(const Parts *l, int64_t rank, const double *whole, double *part) {
    int64_t block[MAX_RANK], n = type_elements(l->part);
    blocks_of(l, rank, block);
    for (int64_t i = 0; i < n; i++) part[i] = whole[whole_index(l, block, i)];
}

static void add_part(const Parts *l, int64_t rank, const double *part, double *whole) {
    int64_t block[MAX_RANK], n = type_elements(l->part);
    blocks_of(l, rank, block);
    for (int64_t i = 0; i < n; i++) whole[whole_index(l, block, i)] += part[i];
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
        MeshGroup m = group_of(g, name + strlen(MESH_INDEX));
        interp_results(in, v)->data[0] = (double)mesh_index(&m, rank);
    }
}

Ranks *ranks_new(Graph *g) {
    Arena *a = arena_new();
    Ranks *r = arena_new_of(a, Ranks);
    *r = (Ranks){.g = g, .arena = a, .n = g->set.sharded ? mesh_ranks(&g->set) : 1};
    r->rank = arena_array(a, Interp *, r->n);
    for (int64_t i = 0; i < r->n; i++) {
        r->rank[i] = interp_new(g);
        set_index(r->rank[i], g, i);
    }
    return r;
}

void ranks_free(Ranks *r) {
    if (!r) return;
    for (int64_t i = 0; i < r->n; i++) interp_free(r->rank[i]);
    arena_free(r->arena);
}

const Type *ranks_type(const Ranks *r, Value v) {
    Parts l = parts_of(r, v);
    return type_tensor(r->g->session, l.part->dtype, l.part->rank, l.whole);
}

static void set_leaf(Ranks *r, Value v, const double *whole) {
    Parts l = parts_of(r, v);
    for (int64_t i = 0; i < r->n; i++) {
        Tensor *t = interp_results(r->rank[i], v);
        cut(&l, i, whole, t->data);
        interp_round(r->rank[i], t->type->dtype, t->data, type_elements(t->type));
    }
}

bool ranks_set(Ranks *r, const char *name, const double *data) {
    bool found = false;
    for (Value v = 0; v < r->g->node.n; v++) {
        const Node *n = node_of(r->g, v);
        if (!interp_is_stored(n) || strcmp(attr_str(n, "name"), name) != 0) continue;
        set_leaf(r, v, data);
        found = true;
    }
    return found;
}

/* The part of a start value that is drawn by the place in the whole tensor. */
static void start_leaf(Ranks *r, Value v, uint64_t seed) {
    const Node *n = node_of(r->g, v);
    if (r->rank[0]->value[v]) return;
    if (n->op == OP_input) BUG("input '%s' was not set", attr_str(n, "name"));
    Parts l = parts_of(r, v);
    int64_t count = whole_elements(&l);
    double *whole = xcalloc((size_t)count, sizeof *whole);
    init_fill(attr_str(n, "init"), attr_float(n, "a"), attr_float(n, "b"), attr_str(n, "name"),
              seed, whole, count);
    set_leaf(r, v, whole);
    free(whole);
}

bool ranks_get(const Ranks *r, Value v, double *whole) {
    Parts l = parts_of(r, v);
    int64_t parts, bytes = type_elements(l.part) * (int64_t)sizeof *whole;
    bool agree = true;
    memset(whole, 0, sizeof *whole * (size_t)whole_elements(&l));
    part_number(&l, 0, &parts);
    const double **held = xcalloc((size_t)parts, sizeof *held);
    for (int64_t i = 0; i < r->n; i++) {
        const double *part = r->rank[i]->value[v]->data;
        const double **first = &held[part_number(&l, i, &parts)];
        if (*first) {
            agree &= memcmp(*first, part, (size_t)bytes) == 0;
        } else {
            *first = part;
            add_part(&l, i, part, whole);
        }
    }
    free(held);
    return agree;
}

/* ---- what ranks do together ---- */

/* One group of ranks at one node. */
typedef struct {
    Ranks *r;
    Value v;
    const Node *node;
    MeshGroup group;
    int64_t first; /* a member */
} Meeting;

static Interp *member(const Meeting *m, int64_t i) {
    return m->r->rank[mesh_member(&m->group, m->first, i)];
}

static const Tensor *sent(const Meeting *m, int64_t i, uint32_t k) {
    return member(m, i)->value[operand(m->r->g, m->v, k)];
}

static double *result(const Meeting *m, int64_t i, uint32_t k) {
    return interp_results(member(m, i), m->v)[k].data;
}

/* Operand k of member i as it goes over the wire. */
static void put_on_wire(const Meeting *m, int64_t i, uint32_t k, double scale, double *x) {
    const Tensor *t = sent(m, i, k);
    int64_t n = type_elements(t->type);
    for (int64_t e = 0; e < n; e++) x[e] = t->data[e] * scale;
    interp_round(m->r->rank[0], (Dtype)attr_int(m->node, "wire"), x, n);
}

static double reduced(ReduceOp op, double a, double b) {
    if (op == REDUCE_SUM) return a + b;
    bool takes = isnan(b) || (op == REDUCE_MAX ? b > a : b < a);
    return takes ? b : a;
}

static void all_reduce(const Meeting *m) {
    double scale = attr_float(m->node, "scale");
    ReduceOp op;
    if (!reduce_parse(attr_str(m->node, "reduce"), &op)) BUG("no such reduction");
    for (uint32_t k = 0; k < m->node->nin; k++) {
        const Type *t = sent(m, 0, k)->type;
        int64_t n = type_elements(t);
        double *sum = xcalloc((size_t)n, sizeof *sum), *x = xcalloc((size_t)n, sizeof *x);
        put_on_wire(m, 0, k, scale, sum);
        for (int64_t i = 1; i < m->group.n; i++) {
            put_on_wire(m, i, k, scale, x);
            for (int64_t e = 0; e < n; e++) sum[e] = reduced(op, sum[e], x[e]);
        }
        interp_round(m->r->rank[0], (Dtype)attr_int(m->node, "wire"), sum, n);
        for (int64_t e = 0; e < n; e++) sum[e] /= scale;
        interp_round(m->r->rank[0], t->dtype, sum, n);
        for (int64_t i = 0; i < m->group.n; i++)
            memcpy(result(m, i, k), sum, sizeof *sum * (size_t)n);
        free(sum);
        free(x);
    }
}

static void all_gather(const Meeting *m) {
    int64_t n = type_elements(sent(m, 0, 0)->type);
    for (int64_t i = 0; i < m->group.n; i++)
        for (int64_t j = 0; j < m->group.n; j++)
            memcpy(result(m, i, 0) + j * n, sent(m, j, 0)->data, sizeof(double) * (size_t)n);
}

static void reduce_scatter(const Meeting *m) {
    int64_t n = type_elements(m->node->type);
    for (int64_t i = 0; i < m->group.n; i++) {
        double *x = result(m, i, 0);
        memcpy(x, sent(m, 0, 0)->data + i * n, sizeof *x * (size_t)n);
        for (int64_t j = 1; j < m->group.n; j++)
            for (int64_t e = 0; e < n; e++) x[e] += sent(m, j, 0)->data[i * n + e];
        interp_round(m->r->rank[0], m->node->type->dtype, x, n);
    }
}

static void all_to_all(const Meeting *m) {
    int64_t n = type_elements(m->node->type), block = n / m->group.n;
    double *x = xcalloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < m->group.n; i++) {
        put_on_wire(m, i, 0, 1, x);
        for (int64_t j = 0; j < m->group.n; j++)
            memcpy(result(m, j, 0) + i * block, x + j * block, sizeof *x * (size_t)block);
    }
    free(x);
}

static void meet(Ranks *r, Value v) {
    static void (*const together[OP_COUNT])(const Meeting *) = {[OP_all_reduce] = all_reduce,
                                                                [OP_all_gather] = all_gather,
                                                                [OP_reduce_scatter] =
                                                                    reduce_scatter,
                                                                [OP_all_to_all] = all_to_all};
    const Node *n = node_of(r->g, v);
    if (!together[n->op])
        BUG("%%%u: %s is between graphs that differ", v, op_info((Op)n->op)->name);
    Meeting m = {r, v, n, group_of(r->g, attr_str(n, "over")), 0};
    if (m.group.n != attr_int(n, "ranks"))
        BUG("%%%u: group \"%s\" has %lld ranks", v, attr_str(n, "over"), (long long)m.group.n);
    for (m.first = 0; m.first < r->n; m.first++)
        if (mesh_index(&m.group, m.first) == 0) together[n->op](&m);
}

void ranks_run(Ranks *r, uint64_t seed, int64_t step) {
    for (int64_t i = 0; i < r->n; i++) interp_clock(r->rank[i], seed, step);
    for (Value v = 0; v < r->g->node.n; v++) {
        const Node *n = node_of(r->g, v);
        if (interp_is_stored(n)) {
            start_leaf(r, v, seed);
        } else if (is_collective(n) && r->n > 1) {
            meet(r, v);
        } else {
            for (int64_t i = 0; i < r->n; i++) interp_node(r->rank[i], v, seed);
        }
    }
    for (int64_t i = 0; i < r->n; i++) interp_assign(r->rank[i]);
}

/* ---- the order of collectives ---- */

/* Whether every member of every group has the same list of members. */
static bool is_partition(const MeshGroup *m, int64_t ranks) {
    for (int64_t r = 0; r < ranks; r++) {
        if (mesh_member(m, r, mesh_index(m, r)) != r) return false;
        for (int64_t i = 0; i < m->n; i++) {
            int64_t other = mesh_member(m, r, i);
            if (other < 0 || other >= ranks || mesh_index(m, other) != i) return false;
            if (mesh_member(m, other, mesh_index(m, r)) != r) return false;
        }
    }
    return true;
}

int ranks_check_order(const Graph *g, Buf *err) {
    int n = 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *node = node_of(g, v);
        MeshGroup m;
        if (!is_collective(node)) continue;
        const char *over = attr_str(node, "over"), *op = op_info((Op)node->op)->name;
        n++;
        if (!mesh_group(&g->set, over, &m))
            buf_printf(err, "%%%u %s: the mesh has no group \"%s\"", v, op, over);
        else if (m.n != attr_int(node, "ranks"))
            buf_printf(err, "%%%u %s: group \"%s\" has %lld ranks, not %lld", v, op, over,
                       (long long)m.n, (long long)attr_int(node, "ranks"));
        else if (!is_partition(&m, mesh_ranks(&g->set)))
            buf_printf(err, "%%%u %s: the ranks of \"%s\" name different members", v, op, over);
        if (err->n) return -1;
    }
    return n;
}
