/* shard_tensor.c: which parameters a tensor axis splits.
 *
 * Megatron's pairs (Shoeybi et al. 2019), found in any model: a contraction with a parameter is
 * split at one of its own labels (columns), if whatever is made of the result keeps that label
 * whole operations long, up to contractions with other parameters that sum over it (rows). Between
 * the two nothing is exchanged; behind the second the sums are added up.
 *
 * And its vocabulary: the rows of a table, and the columns of the product that gives logits, if
 * whatever is made of these ends in reductions over them, such as cross-entropy. Sums of what was
 * looked up, and of the gradients of what goes into the logits, are the price; the ranks share the
 * logits, the update, and the gradients that replicas add up. The costs are those of
 * shard_choose.c. One table may be both: it is split for all its uses or for none.
 *
 * Only parameters that nobody placed take part: all of them, or those in `split` scopes where the
 * model has some, but none in a `replicate` scope. */
#include <stdlib.h>
#include <string.h>

#include "passes/shard.h"

typedef struct {
    Graph *g;
    Arena *a;
    const char *axis;
    int64_t size, replicas;
    Uses uses;
    bool only_scopes; /* the model says where to split */
} Finder;

/* A dimension of a value, or of a parameter. */
typedef struct {
    Value v;
    int dim;
} Place;
typedef VEC(Place) Places;

/* What becomes of a dimension. */
typedef struct {
    Places rows;  /* parameters of the contractions that sum over it */
    bool reduced; /* other ops reduce it: every rank has what they make of all parts */
    double cost;  /* bytes that a rank moves for that, less the work it would repeat */
} Trail;

/* `replicate` on a parameter is a Spec without an axis. */
static bool is_replicated(const Spec *spec) {
    for (int k = 0; spec && k < spec->rank; k++)
        if (spec->axis[k]) return false;
    return spec != NULL;
}

static int split_dim(const Finder *f, const Spec *spec) {
    for (int k = 0; spec && k < spec->rank; k++)
        if (spec->axis[k] == f->axis) return k;
    return -1;
}

/* The parameter that operand i is, perhaps in a lower precision, or NO_VALUE. */
static Value param_of(const Finder *f, Value v, uint32_t i) {
    const Graph *g = f->g;
    Value p = operand(g, v, i);
    if (node_of(g, p)->op == OP_cast) p = operand(g, p, 0);
    const Node *n = node_of(g, p);
    if (n->op != OP_param || is_replicated(n->spec)) return NO_VALUE;
    if (graph_annotated(g, "replicate", n->scope)) return NO_VALUE;
    return !f->only_scopes || graph_annotated(g, "split", n->scope) ? p : NO_VALUE;
}

/* May the parameter be split here: not yet, or so already? */
static bool may_split(const Finder *f, Value p, int dim) {
    const Node *n = node_of(f->g, p);
    int now = split_dim(f, n->spec);
    if (now >= 0) return now == dim;
    return n->type->dim[dim] % f->size == 0 && !(n->spec && n->spec->axis[dim]);
}

static int find_label(const int8_t *labels, int rank, int label) {
    for (int k = 0; k < rank; k++)
        if (labels[k] == label) return k;
    return -1;
}

/* ---- following a label ---- */

/* The results of u, or of its projs, that have the label. */
static void push_results(const Finder *f, Value u, const Dims *d, int label, Places *next) {
    const Graph *g = f->g;
    if (type_of(g, u)->dtype != DT_TUPLE) {
        vec_push(next, ((Place){u, find_label(d->out[0], type_of(g, u)->rank, label)}));
        return;
    }
    for (uint32_t e = f->uses.start[u]; e < f->uses.start[u + 1]; e++) {
        Value p = f->uses.use[e];
        if (node_of(g, p)->phase != PHASE_FORWARD) continue;
        int64_t i = attr_int(node_of(g, p), "index");
        vec_push(next, ((Place){p, find_label(d->out[i], type_of(g, p)->rank, label)}));
    }
}

/* A contraction with a parameter that sums over the label: rows. */
static bool close(const Finder *f, Value u, uint32_t i, const Dims *d, int label, Places *rows) {
    if (node_of(f->g, u)->op != OP_einsum) return false;
    Value p = param_of(f, u, 1 - i);
    if (p == NO_VALUE) return false;
    int dim = find_label(d->in[1 - i], type_of(f->g, p)->rank, label);
    if (dim < 0 || !may_split(f, p, dim)) return false;
    vec_push(rows, ((Place){p, dim}));
    return true;
}

/* Once forward, twice backward. */
static double shared_work(const Finder *f, Value u) {
    return shard_repeated_cost(f->g, u, (double)f->size) * (f->g->set.train ? 3 : 1) /
           (double)f->replicas;
}

static double sum_cost(const Finder *f, Value x) {
    return shard_sum_cost(shard_bytes(type_of(f->g, x)), (double)f->size) / (double)f->replicas;
}

/* An op that leaves nothing of the label. */
static bool reduce(const Finder *f, Value u, Trail *t) {
    Op op = (Op)node_of(f->g, u)->op;
    if (!(op_info(op)->flags & OPF_REDUCE) && op != OP_pick && op != OP_cross_entropy) return false;
    t->reduced = true;
    t->cost += sum_cost(f, u);
    return true;
}

/* What u makes of a dimension of its operand i; false: it needs all of it. */
static bool follow_use(const Finder *f, Value u, uint32_t i, int dim, Places *next, Trail *t) {
    Dims d;
    dims_of(f->g, u, &d);
    int label = d.in[i][dim];
    if (label < 0 || d.size[label] % f->size) return false;
    if (d.kind[label] == LABEL_MAP) {
        push_results(f, u, &d, label, next);
        t->cost -= shared_work(f, u);
        return true;
    }
    return (d.kind[label] == LABEL_SUM && close(f, u, i, &d, label, &t->rows)) || reduce(f, u, t);
}

/* Follows dimension `dim` of v through the forward phase to what sums over it; false: something
 * needs all of it. */
static bool follow(const Finder *f, Value v, int dim, Trail *t) {
    Places next = {0};
    bool good = true;
    vec_push(&next, ((Place){v, dim}));
    for (uint32_t k = 0; k < next.n && good; k++) {
        Place p = next.p[k];
        good = p.dim >= 0 && next.n < 256;
        for (uint32_t e = f->uses.start[p.v]; good && e < f->uses.start[p.v + 1]; e++) {
            Value u = f->uses.use[e];
            if (node_of(f->g, u)->phase != PHASE_FORWARD) continue;
            for (uint32_t i = 0; good && i < node_of(f->g, u)->nin; i++)
                if (operand(f->g, u, i) == p.v) good = follow_use(f, u, i, p.dim, &next, t);
        }
    }
    vec_free(&next);
    return good;
}

/* ---- splitting ---- */

static void split(const Finder *f, Value p, int dim) {
    Node *n = node_of(f->g, p);
    Spec spec = n->spec ? *n->spec : (Spec){.rank = n->type->rank};
    spec.axis[dim] = f->axis;
    n->spec = spec_intern(f->g->session, &spec);
}

/* Where the dimension of the parameter, operand i of einsum v, lies in the result, if no other
 * operand has it; or -1. */
static int column_of(const Finder *f, Value v, uint32_t i, int dim) {
    const Graph *g = f->g;
    Dims d;
    dims_of(g, v, &d);
    int label = d.in[i][dim], other = type_of(g, operand(g, v, 1 - i))->rank;
    if (d.kind[label] != LABEL_MAP || find_label(d.in[1 - i], other, label) >= 0) return -1;
    return find_label(d.out[0], type_of(g, v)->rank, label);
}

/* ---- a vocabulary ---- */

/* Of the gradient that replicas add up, and of the update, what ranks would repeat. */
static double update_cost(const Finder *f, Value p) {
    const Type *t = type_of(f->g, p);
    double n = (double)f->size, sum = 0, like = 0;
    if (!f->g->set.train) return 0;
    for (Value v = 0; v < f->g->node.n; v++) {
        const Node *node = node_of(f->g, v);
        if (node->type != t) continue;
        like += node->op == OP_param;
        if (node->phase != PHASE_APPLY || op_info((Op)node->op)->flags & (OPF_LEAF | OPF_VIEW))
            continue;
        sum += shard_repeated_cost(f->g, v, n);
    }
    return sum / like + (1 - 1 / n) * shard_sum_cost(shard_bytes(t), (double)f->replicas);
}

/* Logits: a product of which nothing but reductions follows. */
static bool follow_logits(const Finder *f, Value v, uint32_t i, int dim, Trail *t) {
    int column = column_of(f, v, i, dim);
    if (column < 0 || !follow(f, v, column, t)) return false;
    t->cost -= shared_work(f, v);
    if (f->g->set.train) t->cost += sum_cost(f, operand(f->g, v, 1 - i));
    return t->reduced && t->rows.n == 0;
}

/* All that reads the parameter, or its cast v. */
static bool follow_table(const Finder *f, Value v, int dim, Trail *t) {
    const Graph *g = f->g;
    bool good = true;
    for (uint32_t e = f->uses.start[v]; good && e < f->uses.start[v + 1]; e++) {
        Value u = f->uses.use[e];
        if (node_of(g, u)->phase != PHASE_FORWARD) continue;
        uint32_t i = operand(g, u, 0) != v;
        switch (node_of(g, u)->op) {
        case OP_cast: good = follow_table(f, u, dim, t); break;
        case OP_einsum: good = follow_logits(f, u, i, dim, t); break;
        case OP_gather:
            good = i == 0 && dim == 0;
            t->cost += sum_cost(f, u);
            break;
        default: good = false;
        }
    }
    return good;
}

static bool try_vocabulary(const Finder *f, Value p, int dim) {
    Trail t = {0};
    bool good = may_split(f, p, dim) && follow_table(f, p, dim, &t) && t.cost < update_cost(f, p);
    if (good) split(f, p, dim);
    vec_free(&t.rows);
    return good;
}

/* ---- columns, then rows ---- */

static bool try_pair(const Finder *f, Value v, Value p, int dim, int column) {
    Trail t = {0};
    bool good = follow(f, v, column, &t), pair = good && t.rows.n > 0 && !t.reduced;
    for (uint32_t r = 0; pair && r < t.rows.n; r++) split(f, t.rows.p[r].v, t.rows.p[r].dim);
    if (pair) split(f, p, dim);
    good = pair || (good && t.reduced && try_vocabulary(f, p, dim));
    vec_free(&t.rows);
    return good;
}

/* Tries the labels that only the parameter gives to the contraction. */
static void try_columns(const Finder *f, Value v, uint32_t i) {
    Value p = param_of(f, v, i);
    if (p == NO_VALUE || split_dim(f, node_of(f->g, p)->spec) >= 0) return;
    for (int k = 0; k < type_of(f->g, p)->rank; k++) {
        int column = column_of(f, v, i, k);
        if (column >= 0 && may_split(f, p, k) && try_pair(f, v, p, k, column)) return;
    }
}

static void try_rows(const Finder *f, Value gather) {
    Value p = param_of(f, gather, 0);
    if (p != NO_VALUE && split_dim(f, node_of(f->g, p)->spec) < 0) try_vocabulary(f, p, 0);
}

void shard_tensor(Graph *g, Arena *a, const char *axis, int64_t size, int64_t replicas) {
    Finder f = {.g = g, .a = a, .axis = axis, .size = size, .replicas = replicas};
    f.uses = graph_uses(g, a);
    for (uint32_t i = 0; i < g->note.n; i++)
        f.only_scopes |= strcmp(g->note.p[i].kind, "split") == 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->phase != PHASE_FORWARD) continue;
        for (uint32_t i = 0; n->op == OP_einsum && i < 2; i++) try_columns(&f, v, i);
        if (n->op == OP_gather) try_rows(&f, v);
    }
}
