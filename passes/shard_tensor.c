/* shard_tensor.c: which parameters a tensor axis splits.
 *
 * Megatron's pairs (Shoeybi et al. 2019), found in any model: a contraction with a parameter is
 * split at one of its own labels (columns), if whatever is made of the result keeps that label
 * whole operations long, up to contractions with other parameters that sum over it (rows). Between
 * the two nothing is exchanged; behind the second the sums are added up. Only parameters that
 * nobody placed take part: all of them, or those in `split` scopes where the model has some, but
 * none in a `replicate` scope. */
#include <stdlib.h>
#include <string.h>

#include "passes/shard.h"

typedef struct {
    Graph *g;
    Arena *a;
    const char *axis;
    int64_t size;
    Uses uses;
    bool only_scopes; /* the model says where to split */
} Finder;

/* A dimension of a value, or of a parameter. */
typedef struct {
    Value v;
    int dim;
} Place;
typedef VEC(Place) Places;

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

/* What u makes of a dimension of its operand i; false: it needs all of it. */
static bool follow_use(const Finder *f, Value u, uint32_t i, int dim, Places *next, Places *rows) {
    Dims d;
    dims_of(f->g, u, &d);
    int label = d.in[i][dim];
    if (label < 0 || d.size[label] % f->size) return false;
    if (d.kind[label] == LABEL_MAP) {
        push_results(f, u, &d, label, next);
        return true;
    }
    return d.kind[label] == LABEL_SUM && close(f, u, i, &d, label, rows);
}

/* Follows dimension `dim` of v through the forward phase to contractions that sum over it. */
static bool follow(const Finder *f, Value v, int dim, Places *rows) {
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
                if (operand(f->g, u, i) == p.v) good = follow_use(f, u, i, p.dim, &next, rows);
        }
    }
    vec_free(&next);
    return good && rows->n > 0;
}

/* ---- splitting ---- */

static void split(const Finder *f, Value p, int dim) {
    Node *n = node_of(f->g, p);
    Spec spec = n->spec ? *n->spec : (Spec){.rank = n->type->rank};
    spec.axis[dim] = f->axis;
    n->spec = spec_intern(f->g->session, &spec);
}

/* Tries the labels that only the parameter gives to the contraction. */
static void try_columns(const Finder *f, Value v, uint32_t i) {
    Value p = param_of(f, v, i);
    Dims d;
    if (p == NO_VALUE || split_dim(f, node_of(f->g, p)->spec) >= 0) return;
    dims_of(f->g, v, &d);
    for (int k = 0; k < type_of(f->g, p)->rank; k++) {
        int label = d.in[i][k], other = type_of(f->g, operand(f->g, v, 1 - i))->rank;
        int dim = find_label(d.out[0], type_of(f->g, v)->rank, label);
        if (d.kind[label] != LABEL_MAP || dim < 0 || !may_split(f, p, k)) continue;
        if (find_label(d.in[1 - i], other, label) >= 0) continue;
        Places rows = {0};
        bool good = follow(f, v, dim, &rows);
        for (uint32_t r = 0; good && r < rows.n; r++) split(f, rows.p[r].v, rows.p[r].dim);
        if (good) split(f, p, k);
        vec_free(&rows);
        if (good) return;
    }
}

void shard_tensor(Graph *g, Arena *a, const char *axis, int64_t size) {
    Finder f = {.g = g, .a = a, .axis = axis, .size = size, .uses = graph_uses(g, a)};
    for (uint32_t i = 0; i < g->note.n; i++)
        f.only_scopes |= strcmp(g->note.p[i].kind, "split") == 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op != OP_einsum || n->phase != PHASE_FORWARD) continue;
        for (uint32_t i = 0; i < 2; i++) try_columns(&f, v, i);
    }
}
