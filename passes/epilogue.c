/* epilogue.c: gelu of a matrix product, with a bias before it, and the product with gelu's
 * gradient, with the bias's gradient behind it, become part of the product: libraries of GPUs do
 * that while the sums are in registers. After lower, when products are settled; only for GPUs.
 *
 * The sum before gelu is kept for the backward phase as before. What the backward phase reads of
 * gelu itself stays a node of its own, so that it is computed again there (fuse_recompute.c)
 * instead of being kept. */
#include "ir/storage.h"
#include "passes/passes.h"

enum { AUX_COLUMNS = 8 }; /* cuBLASLt wants rows of the sum before gelu to be a multiple of this */

typedef struct {
    Rewrite r;
    Uses uses;
    Value *product; /* by node: the einsum that becomes part of it, or NO_VALUE */
    Value *gelu;    /* by node that is the sum: the gelu of it */
    Value *again;   /* by gelu: the node that the backward phase reads instead */
    Value *sums;    /* by gradient: the sums of its columns, or NO_VALUE */
    Value *sum_of;  /* by such sums: their new value, once it is there */
} Epilogue;

static uint32_t count_users(const Epilogue *e, Value v) {
    return e->uses.start[v + 1] - e->uses.start[v];
}

/* An einsum whose result is one row-major matrix, or a batch of them, as wide as the last dim. */
static bool is_plain(const Graph *g, Value v) {
    Contract c;
    const Type *t = type_of(g, v);
    if (node_of(g, v)->op != OP_einsum || t->dtype == DT_F64 || t->rank == 0) return false;
    int64_t n = t->dim[t->rank - 1];
    return n % AUX_COLUMNS == 0 && contract_fit(g, v, &c) == CONTRACT_OK && c.n == n &&
           c.ldc == n && c.nbatch <= 1;
}

/* No batch: libraries sum columns of each matrix apart. */
static bool is_one_matrix(const Graph *g, Value v) {
    Contract c;
    return contract_fit(g, v, &c) == CONTRACT_OK && c.nbatch == 0;
}

/* Bytes in row-major order: what a library can be given. */
static bool is_block(const Graph *g, Value v) {
    Layout l;
    const Node *root = node_of(g, view_root(g, v, &l));
    return root->op != OP_constant && root->op != OP_iota && layout_is_block(&l);
}

/* The vector that x repeats along all dims but the last, or NO_VALUE. */
static Value row_vector(const Graph *g, Value x) {
    const Node *n = node_of(g, x);
    if (n->op == OP_cast) return row_vector(g, operand(g, x, 0));
    if (n->op != OP_broadcast) return NO_VALUE;
    const Ints *dims = attr_ints(n, "dims");
    bool row = dims->n == 1 && dims->v[0] == n->type->rank - 1 &&
               type_of(g, operand(g, x, 0))->dim[0] == n->type->dim[n->type->rank - 1] &&
               is_block(g, operand(g, x, 0));
    return row ? operand(g, x, 0) : NO_VALUE;
}

/* The einsum under v: v itself, or the operand of a sum with a bias; it goes into v alone. */
static Value product_under(const Epilogue *e, Value v) {
    const Graph *g = e->r.from;
    if (is_plain(g, v)) return v;
    if (node_of(g, v)->op != OP_add) return NO_VALUE;
    for (uint32_t i = 0; i < 2; i++) {
        Value x = operand(g, v, i);
        if (is_plain(g, x) && count_users(e, x) == 1 &&
            row_vector(g, operand(g, v, 1 - i)) != NO_VALUE)
            return x;
    }
    return NO_VALUE;
}

/* The product's first result is what the forward phase reads: without that it has no place. */
static bool read_forward(const Epilogue *e, Value v) {
    for (uint32_t u = e->uses.start[v]; u < e->uses.start[v + 1]; u++)
        if (node_of(e->r.from, e->uses.use[u])->phase == PHASE_FORWARD) return true;
    return false;
}

static void find_gelu(Epilogue *e, Value v) {
    const Graph *g = e->r.from;
    Value sum = operand(g, v, 0);
    if (node_of(g, v)->phase != PHASE_FORWARD || e->gelu[sum] != NO_VALUE) return;
    if (!read_forward(e, v)) return;
    e->product[sum] = product_under(e, sum);
    if (e->product[sum] != NO_VALUE) e->gelu[sum] = v;
}

/* A step on the way from x to the sums of its columns: a cast to f32, a shape with the same
 * columns, a sum that keeps them. */
static bool leads_to_sums(const Graph *g, Value v, int64_t columns) {
    const Node *n = node_of(g, v);
    const Type *t = n->type, *from = n->nin ? type_of(g, operand(g, v, 0)) : t;
    if (t->rank == 0 || t->dim[t->rank - 1] != columns) return false;
    if (n->op == OP_cast) return t->dtype == DT_F32;
    if (n->op != OP_sum) return n->op == OP_reshape;
    const Ints *axes = attr_ints(n, "axes");
    return t->dtype == DT_F32 && axes->v[axes->n - 1] != from->rank - 1;
}

/* The value that is the sums of v's columns over all rows, or NO_VALUE. */
static Value column_sums(const Epilogue *e, Value v) {
    enum { STEPS = 8 };
    const Graph *g = e->r.from;
    const Type *t = type_of(g, v);
    int64_t columns = t->dim[t->rank - 1];
    bool summed = false;
    for (int i = 0; i < STEPS; i++) {
        Value next = NO_VALUE;
        if (summed && type_elements(type_of(g, v)) == columns) return v;
        for (uint32_t u = e->uses.start[v]; next == NO_VALUE && u < e->uses.start[v + 1]; u++)
            if (leads_to_sums(g, e->uses.use[u], columns)) next = e->uses.use[u];
        if (next == NO_VALUE) return NO_VALUE;
        summed |= is_op(g, next, OP_sum);
        v = next;
    }
    return NO_VALUE;
}

/* mul(einsum, gelu_grad(x)), neither of which anything else reads. */
static void find_grad(Epilogue *e, Value v) {
    const Graph *g = e->r.from;
    for (uint32_t i = 0; i < 2; i++) {
        Value x = operand(g, v, i), y = operand(g, v, 1 - i);
        bool fits = is_plain(g, x) && node_of(g, y)->op == OP_gelu_grad && count_users(e, x) == 1;
        if (fits && e->gelu[x] == NO_VALUE && is_block(g, operand(g, y, 0))) {
            e->product[v] = x;
            /* something besides the sums reads it */
            if (is_one_matrix(g, x) && count_users(e, v) > 1) e->sums[v] = column_sums(e, v);
            return;
        }
    }
}

/* ---- building ---- */

static Value add(Epilogue *e, Op op, Value like, uint32_t nin, const Value *in) {
    Value v = graph_add(e->r.to, op, node_of(e->r.from, like)->attr, nin, in);
    node_of(e->r.to, v)->group = node_of(e->r.from, like)->group;
    return v;
}

/* The bias in the product's type. */
static Value make_bias(Epilogue *e, Value sum, Value product) {
    const Graph *g = e->r.from;
    Value other = operand(g, sum, operand(g, sum, 0) == product ? 1 : 0);
    Value x = e->r.map[row_vector(g, other)];
    Value y = b_cast(e->r.to, x, type_of(g, product)->dtype);
    if (y != x) node_of(e->r.to, y)->group = node_of(g, sum)->group;
    return y;
}

static void make_gelu(Epilogue *e, Value sum) {
    const Graph *g = e->r.from;
    Graph *to = e->r.to;
    Value p = e->product[sum], v = e->gelu[sum];
    graph_at_node(to, e->r.map[operand(g, p, 0)]);
    to->at.scope = node_of(g, v)->scope, to->at.loc = node_of(g, v)->loc;
    to->at.phase = PHASE_FORWARD, to->at.micro = node_of(g, v)->micro;
    Value in[3] = {e->r.map[operand(g, p, 0)], e->r.map[operand(g, p, 1)]};
    if (p != sum) in[2] = make_bias(e, sum, p);
    Value both = add(e, OP_einsum_gelu, p, p == sum ? 2 : 3, in);
    e->r.map[v] = b_proj(to, both, 0);
    e->r.map[sum] = b_proj(to, both, 1);
    e->again[v] = b_ew1(to, OP_gelu, e->r.map[sum]);
    node_of(to, e->again[v])->group = node_of(g, v)->group;
}

static void make_grad(Epilogue *e, Value v) {
    const Graph *g = e->r.from;
    Value p = e->product[v], other = operand(g, v, operand(g, v, 0) == p ? 1 : 0);
    Value in[3] = {e->r.map[operand(g, p, 0)], e->r.map[operand(g, p, 1)],
                   e->r.map[operand(g, other, 0)]};
    const Node *n = node_of(g, v);
    graph_at(e->r.to, n);
    if (e->sums[v] == NO_VALUE) {
        e->r.map[v] = add(e, OP_einsum_gelu_grad, p, 3, in);
        return;
    }
    Value both = add(e, OP_einsum_gelu_grad_sum, p, 3, in);
    e->r.map[v] = b_proj(e->r.to, both, 0);
    e->sum_of[e->sums[v]] = b_proj(e->r.to, both, 1);
}

/* The sums that a product gives, as f32 of the shape they had. */
static void make_sums(Epilogue *e, Value v) {
    const Type *t = type_of(e->r.from, v);
    graph_at_node(e->r.to, e->sum_of[v]);
    Value x = b_cast(e->r.to, e->sum_of[v], DT_F32);
    if (x != e->sum_of[v]) node_of(e->r.to, x)->group = 1;
    e->r.map[v] = b_reshape(e->r.to, x, t->rank, t->dim);
}

/* Node v as it is; in the backward phase gelus are those of their own. */
static void copy_node(Epilogue *e, Value v) {
    const Graph *g = e->r.from;
    const Node *n = node_of(g, v);
    Value saved[MAX_OPERANDS];
    for (uint32_t i = 0; i < n->nin; i++) {
        Value x = operand(g, v, i);
        saved[i] = e->r.map[x];
        if (n->phase != PHASE_FORWARD && e->again[x] != NO_VALUE) e->r.map[x] = e->again[x];
    }
    rewrite_copy(&e->r, v);
    for (uint32_t i = n->nin; i-- > 0;) e->r.map[operand(g, v, i)] = saved[i];
}

static void visit(Epilogue *e, Value v) {
    if (e->sum_of[v] != NO_VALUE)
        make_sums(e, v);
    else if (e->gelu[v] != NO_VALUE)
        make_gelu(e, v);
    else if (e->product[v] != NO_VALUE)
        make_grad(e, v);
    else if (e->r.map[v] == NO_VALUE)
        copy_node(e, v);
}

bool pass_epilogue(Graph *g, PassContext *cx) {
    uint32_t n = g->node.n;
    if (!cx->gpu) return false;
    Epilogue e = {.uses = graph_uses(g, cx->scratch),
                  .product = no_values(cx->scratch, n),
                  .gelu = no_values(cx->scratch, n),
                  .again = no_values(cx->scratch, n),
                  .sums = no_values(cx->scratch, n),
                  .sum_of = no_values(cx->scratch, n)};
    e.r = rewrite_begin(g, cx->scratch);
    for (Value v = 0; v < n; v++)
        if (is_op(g, v, OP_gelu)) find_gelu(&e, v);
    for (Value v = 0; v < n; v++)
        if (is_op(g, v, OP_mul)) find_grad(&e, v);
    for (Value v = 0; v < n; v++) visit(&e, v);
    graph_compact(e.r.to, NULL);
    split_groups(e.r.to);
    return rewrite_end(&e.r);
}
