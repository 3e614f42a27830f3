/* work.c: what a unit does, as far as its price depends on it.
 *
 * Operations of fused kernels are counted in additions: an op's weight is the time that the CPU's
 * generated code takes for one element of it, in the time of an addition or multiplication of which
 * half are fused with another (`m6c calibrate --weights` measures them; ops that it does not list
 * have estimates). What only moves bytes weighs little. */
#include "ir/storage.h"

#include <string.h>

static const float weights[OP_COUNT] = {
    [OP_add] = 1,
    [OP_sub] = 1,
    [OP_mul] = 1,
    [OP_div] = 7,
    [OP_maximum] = 2,
    [OP_minimum] = 2,
    [OP_pow] = 5000,
    [OP_neg] = 1,
    [OP_abs] = 1,
    [OP_exp] = 31,
    [OP_log] = 48,
    [OP_sqrt] = 15,
    [OP_rsqrt] = 25,
    [OP_sin] = 58,
    [OP_cos] = 58,
    [OP_floor] = 2,
    [OP_tanh] = 60,
    [OP_erf] = 84,
    [OP_sigmoid] = 40,
    [OP_relu] = 1,
    [OP_silu] = 42,
    [OP_gelu] = 52,
    [OP_gelu_grad] = 64,
    [OP_isfinite] = 1,
    [OP_lt] = 1,
    [OP_le] = 1,
    [OP_gt] = 1,
    [OP_ge] = 1,
    [OP_eq] = 1,
    [OP_ne] = 1,
    [OP_and] = 1,
    [OP_or] = 1,
    [OP_not] = 1,
    [OP_select] = 1,
    [OP_cast] = 2,
    [OP_random] = 120,
    [OP_pad] = 2,
    [OP_concat] = 2,
    [OP_block] = 1,
    [OP_sum] = 1,
    [OP_max] = 1,
    [OP_min] = 1,
    [OP_pick] = 4,
    [OP_unpick] = 4,
    [OP_gather] = 1,
    [OP_scatter_add] = 2,
    [OP_route] = 800,
    [OP_dispatch] = 1,
    [OP_dispatch_scaled] = 2,
    [OP_combine] = 2,
    [OP_combine_sum] = 1,
    [OP_gate_grad] = 2,
    [OP_softmax] = 40,
    [OP_norm] = 10,
    [OP_rmsnorm] = 8,
    [OP_cross_entropy] = 40,
};

double op_weight(Op op) { return (double)weights[op]; }

/* ---- operations ---- */

static double elements(const Type *t) {
    if (t->dtype != DT_TUPLE) return (double)type_elements(t);
    double n = 0;
    for (uint32_t i = 0; i < t->nelem; i++) n += (double)type_elements(t->elem[i]);
    return n;
}

/* Elements that the node's weight is counted for. */
static double counted(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    switch (n->op) {
    case OP_sum:
    case OP_max:
    case OP_min: return elements(type_of(g, operand(g, v, 0)));
    case OP_scatter_add: return elements(type_of(g, operand(g, v, 1)));
    case OP_route: return elements(type_of(g, operand(g, v, 0))) * (double)attr_int(n, "top");
    case OP_combine: /* every choice of every token: slot is [n,k] */
        return elements(n->type) * (double)type_of(g, operand(g, v, 2))->dim[1];
    case OP_combine_sum: return elements(n->type) * (double)type_of(g, operand(g, v, 1))->dim[1];
    case OP_gate_grad: return elements(n->type) * (double)type_of(g, operand(g, v, 1))->dim[1];
    default: return elements(n->type);
    }
}

static double operations(const Graph *g, const Unit *u) {
    double sum = 0;
    for (uint32_t i = 0; i < u->nnode; i++) {
        const Node *n = node_of(g, u->node[i]);
        if (op_info(n->op)->flops) return op_info(n->op)->flops(g, n);
        double weight = op_weight(n->op);
        if (weight > 0) sum += weight * counted(g, u->node[i]);
    }
    return sum;
}

/* ---- bytes ---- */

/* Of value `root`, what the nodes read: a slice or the rows of a table are less than all of it. */
static double bytes_read(const Graph *g, const Unit *u, Value root) {
    double sum = 0, all = (double)type_bytes(type_of(g, root));
    int size = dtype_size(type_of(g, root)->dtype);
    for (uint32_t i = 0; i < u->nnode && sum < all; i++) {
        const Node *n = node_of(g, u->node[i]);
        for (uint32_t j = 0; j < n->nin && !is_result(n); j++) {
            Value v = operand(g, u->node[i], j);
            if (view_base(g, v) != root) continue;
            bool rows = n->op == OP_gather && j == 0;
            sum += elements(rows ? n->type : type_of(g, v)) * size;
        }
    }
    return MIN(sum, all);
}

static double traffic(const Graph *g, const Unit *u) {
    double sum = 0;
    for (uint32_t i = 0; i < u->nread; i++) sum += bytes_read(g, u, u->read[i]);
    for (uint32_t i = 0; i < u->nwrite; i++) sum += (double)type_bytes(type_of(g, u->write[i]));
    return sum;
}

/* ---- the unit ---- */

void unit_what(const Graph *g, const Unit *u, Buf *out) {
    uint64_t seen[(OP_COUNT + 63) / 64] = {0};
    bool first = true;
    for (uint32_t i = 0; i < u->nnode; i++) {
        Op op = node_of(g, u->node[i])->op;
        uint64_t bit = (uint64_t)1 << op % 64;
        if (op == OP_proj || op == OP_room || seen[op / 64] & bit) continue;
        seen[op / 64] |= bit;
        if (!first) buf_puts(out, " ");
        buf_puts(out, op_info(op)->name);
        first = false;
    }
}

static void set_product(const Graph *g, Value v, Work *w) {
    Contract c;
    if (contract_fit(g, v, &c) != CONTRACT_OK) BUG("%%%u is no matrix product", v);
    w->product = true;
    w->m = c.m, w->n = c.n, w->k = c.k;
    w->ta = c.ta, w->tb = c.tb;
    w->batch = 1;
    for (int i = 0; i < c.nbatch; i++) w->batch *= c.count[i];
    w->dtype = type_of(g, c.a)->dtype;
    w->flops = 2 * (double)c.m * (double)c.n * (double)c.k * (double)w->batch;
}

Work einsum_work(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    const Type *a = type_of(g, operand(g, v, 0)), *b = type_of(g, operand(g, v, 1));
    Einsum e = einsum_read(g, n);
    Work w = {.what = "einsum", .product = true, .dtype = a->dtype};
    w.m = einsum_size(&e, e.m), w.n = einsum_size(&e, e.n), w.k = einsum_size(&e, e.k);
    w.batch = einsum_size(&e, e.batch);
    w.flops = 2 * (double)w.m * (double)w.n * (double)w.k * (double)w.batch;
    w.bytes = (double)(type_bytes(a) + type_bytes(b) + type_bytes(n->type));
    return w;
}

void comm_set_bytes(CommWork *c, const int64_t *count, uint32_t n, Dtype wire) {
    c->bytes = 0;
    for (uint32_t i = 0; i < n; i++) c->bytes += (double)count[i] * dtype_size(wire);
    if (c->kind == COLLECTIVE_ALL_GATHER) c->bytes *= (double)c->ranks;
}

const Type *collective_type(const Graph *g, Value v, uint32_t i) {
    return node_of(g, v)->op == OP_recv ? type_of(g, v) : type_of(g, operand(g, v, i));
}

Dtype collective_wire(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    if (n->op == OP_recv) return n->type->dtype;
    bool stated = n->op == OP_all_reduce || n->op == OP_reduce_scatter || n->op == OP_all_to_all;
    return stated ? (Dtype)attr_int(n, "wire") : type_of(g, operand(g, v, 0))->dtype;
}

int64_t collective_parts(const Node *n) {
    return n->op == OP_reduce_scatter ? attr_int(n, "ranks") : 1;
}

static void set_comm(const Graph *g, Value v, Work *w) {
    const Node *n = node_of(g, v);
    CommWork *c = &w->comm;
    int64_t count[MAX_OPERANDS];
    MeshGroup m;
    op_collective((Op)n->op, &c->kind);
    if (!mesh_group(&g->set, attr_str(n, "over"), &m)) BUG("%%%u: no such group of ranks", v);
    c->ranks = m.n;
    c->nlevel = m.nlevel;
    memcpy(c->size, m.size, sizeof m.size);
    memcpy(c->stride, m.stride, sizeof m.stride);
    for (uint32_t i = 0; i < n->nin; i++) count[i] = type_elements(collective_type(g, v, i));
    comm_set_bytes(c, count, n->nin, collective_wire(g, v));
}
_Static_assert((int)COMM_LEVELS == (int)MESH_LEVELS, "levels of groups");

Work unit_work(const Graph *g, const Units *us, uint32_t u) {
    const Unit *unit = &us->unit[u];
    Value v = unit->node[0];
    const Node *n = node_of(g, v);
    Buf what = {0};
    unit_what(g, unit, &what);
    Work w = {.what = intern(g->session, what.p ? what.p : ""), .host = n->stream == STREAM_HOST};
    buf_free(&what);
    if (n->op == OP_copy_start) {
        w.copy = true;
        w.from = (Mem)node_of(g, view_base(g, operand(g, v, 0)))->mem;
        w.to = (Mem)n->mem;
        w.bytes = (double)type_bytes(n->type);
        w.host = false;
        return w;
    }
    w.bytes = traffic(g, unit);
    if (is_collective(n)) return set_comm(g, v, &w), w;
    if (is_product(g, v))
        set_product(g, v, &w);
    else
        w.flops = operations(g, unit);
    if (!w.product && op_info(n->op)->flops) w.dtype = type_of(g, operand(g, v, 0))->dtype;
    return w;
}
