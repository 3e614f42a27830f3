/* precision.c: bf16 or f16 compute around f32 masters (Micikevicius et al. 2018). One sweep before
 * differentiate: gradients then follow the types of their values, and `vjp_cast` brings those of
 * the parameters back to f32.
 *
 * Every f32 value of the model gets a class, from its operands:
 *   WEAK    a parameter, input or constant, and what is made of these alone: f32, cast where needed
 *           (once; all users share it)
 *   LOW     an activation, stored in the low type
 *   WIDE    computed in f32: reductions, exp, log, roots, losses, routing
 *   PINNED  explicitly cast to f32 in the model, and what is made of it
 * Contractions take and give LOW (accumulating in f32) unless an operand is PINNED. Elementwise ops
 * take the highest class of their operands, with three exceptions: a LOW value that only wide ops
 * read is computed in f32; a WIDE value that a contraction or norm reads is stored in the low type;
 * and a sum of LOW and higher values is LOW (the residual stream).
 *
 * A cast of f32 to f32 is how the model says "stay f32"; simplify keeps it until here. */
#include "passes/passes.h"

typedef enum { CLASS_WEAK, CLASS_LOW, CLASS_WIDE, CLASS_PINNED } Class;

/* What an op does with its f32 operands. */
typedef enum {
    ROLE_OTHER,    /* not about numbers: leaves, sinks */
    ROLE_EW,       /* highest class */
    ROLE_VIEW,     /* class of its data operands */
    ROLE_WIDE,     /* f32 in, f32 out */
    ROLE_CONTRACT, /* low in, low out */
    ROLE_NORM,     /* f32 inside; low in, low out */
} Role;

/* `data`: operands (bits) that carry the class; the others are indices or gates, taken as they are.
 */
typedef struct {
    Op op;
    Role role;
    uint64_t data;
} RoleRow;
static const uint64_t all_operands = UINT64_MAX;

static const RoleRow role_rows[] = {
    {OP_reshape, ROLE_VIEW, 1},      {OP_transpose, ROLE_VIEW, 1},
    {OP_broadcast, ROLE_VIEW, 1},    {OP_slice, ROLE_VIEW, 1},
    {OP_pad, ROLE_VIEW, 1},          {OP_concat, ROLE_VIEW, all_operands},
    {OP_gather, ROLE_VIEW, 1},       {OP_pick, ROLE_VIEW, 1},
    {OP_proj, ROLE_VIEW, 1},         {OP_exp, ROLE_WIDE, 1},
    {OP_log, ROLE_WIDE, 1},          {OP_pow, ROLE_WIDE, 3},
    {OP_sqrt, ROLE_WIDE, 1},         {OP_rsqrt, ROLE_WIDE, 1},
    {OP_sin, ROLE_WIDE, 1},          {OP_cos, ROLE_WIDE, 1},
    {OP_sum, ROLE_WIDE, 1},          {OP_max, ROLE_WIDE, 1},
    {OP_min, ROLE_WIDE, 1},          {OP_scatter_add, ROLE_WIDE, 2},
    {OP_unpick, ROLE_WIDE, 2},       {OP_cross_entropy, ROLE_WIDE, 1},
    {OP_route, ROLE_WIDE, 1},        {OP_softmax, ROLE_NORM, 1},
    {OP_norm, ROLE_NORM, 1},         {OP_rmsnorm, ROLE_NORM, 1},
    {OP_einsum, ROLE_CONTRACT, 3},   {OP_attention, ROLE_CONTRACT, 7},
    {OP_dispatch, ROLE_CONTRACT, 1}, {OP_combine, ROLE_CONTRACT, 1},
};

typedef struct {
    Rewrite r;
    Dtype low;
    Class *cls;
    Value *as_low, *as_wide; /* memo of casts, by old value */
    bool *wants_low;         /* a contraction or norm reads it, perhaps through views */
    bool *only_wide;         /* all that reads it computes in f32 */
} Precision;

static RoleRow role_of(Op op) {
    for (size_t i = 0; i < COUNT(role_rows); i++)
        if (role_rows[i].op == op) return role_rows[i];
    Role role = op_info(op)->flags & OPF_EW && op != OP_cast ? ROLE_EW : ROLE_OTHER;
    return (RoleRow){op, role, all_operands};
}

static bool is_data(RoleRow row, uint32_t i) { return row.data >> i & 1; }

/* ---- who reads what ---- */

static void mark_operand(Precision *p, Value user, RoleRow row, uint32_t i, bool *used) {
    Value x = operand(p->r.from, user, i);
    bool follows = row.role == ROLE_VIEW || row.role == ROLE_EW;
    bool wide = row.role == ROLE_WIDE || (follows && p->only_wide[user]);
    p->only_wide[x] = wide && (p->only_wide[x] || !used[x]);
    p->wants_low[x] |= row.role == ROLE_CONTRACT || row.role == ROLE_NORM ||
                       (row.role == ROLE_VIEW && p->wants_low[user]);
    used[x] = true;
}

static void mark_readers(Precision *p, Arena *a) {
    const Graph *g = p->r.from;
    bool *used = arena_array(a, bool, g->node.n);
    for (Value v = g->node.n; v-- > 0;) {
        RoleRow row = role_of((Op)node_of(g, v)->op);
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            if (is_data(row, i)) mark_operand(p, v, row, i, used);
    }
}

/* ---- values in either type ---- */

static bool is_managed(const Precision *p, Value v) {
    return type_of(p->r.from, v)->dtype == DT_F32;
}

static Value convert(Precision *p, Value v, Dtype d) {
    Graph *g = p->r.to;
    Value x = p->r.map[v];
    if (type_of(g, x)->dtype == d) return x;
    graph_at_node(g, x);
    if (node_of(g, x)->op != OP_constant) return b_cast(g, x, d);
    double c = attr_float(node_of(g, x), "value");
    return b_const(g, c, type_with_dtype(g->session, type_of(g, x), d));
}

/* Old value v in the type asked for; what was not f32 in the model stays as it is. */
static Value in_type(Precision *p, Value v, Dtype d) {
    if (!is_managed(p, v)) return p->r.map[v];
    Value *memo = d == DT_F32 ? &p->as_wide[v] : &p->as_low[v];
    if (*memo == NO_VALUE) *memo = convert(p, v, d);
    return *memo;
}

/* Copies node v with its data operands in type d; the others as they are. */
static Value emit(Precision *p, Value v, RoleRow row, Dtype d) {
    const Node *n = node_of(p->r.from, v);
    Graph *g = p->r.to;
    Value in[MAX_OPERANDS];
    for (uint32_t i = 0; i < n->nin; i++) {
        Value x = operand(p->r.from, v, i);
        in[i] = is_data(row, i) ? in_type(p, x, d) : in_type(p, x, DT_F32);
    }
    graph_at(g, n);
    Value w = graph_add(g, (Op)n->op, n->attr, n->nin, in);
    node_of(g, w)->spec = n->spec;
    return w;
}

/* ---- classes ---- */

/* The highest class of the data operands; LOW wins in a sum. */
static Class operand_class(const Precision *p, Value v, RoleRow row) {
    const Node *n = node_of(p->r.from, v);
    Class top = CLASS_WEAK;
    bool low = false;
    for (uint32_t i = 0; i < n->nin; i++) {
        Value x = operand(p->r.from, v, i);
        bool tuple = type_of(p->r.from, x)->dtype == DT_TUPLE;
        if (!is_data(row, i) || (!tuple && !is_managed(p, x))) continue;
        top = MAX(top, p->cls[x]);
        low |= p->cls[x] == CLASS_LOW;
    }
    return n->op == OP_add && low ? CLASS_LOW : top;
}

static Dtype type_of_class(const Precision *p, Class c) { return c == CLASS_LOW ? p->low : DT_F32; }

/* The class that node v is computed in, and the type of its data operands. */
static Class compute_class(const Precision *p, Value v, RoleRow row) {
    Class c = operand_class(p, v, row);
    switch (row.role) {
    case ROLE_WIDE: return MAX(c, CLASS_WIDE);
    case ROLE_CONTRACT: return c == CLASS_PINNED ? c : CLASS_LOW;
    case ROLE_EW: return c == CLASS_LOW && p->only_wide[v] ? CLASS_WIDE : c;
    case ROLE_NORM: {
        bool gate = row.op == OP_softmax && !p->wants_low[v];
        return c == CLASS_LOW && gate ? CLASS_WIDE : c;
    }
    default: return c;
    }
}

/* A factor like 1/sqrt(d) would lose bits in the low type: such a node computes in f32. */
static bool has_inexact_constant(const Precision *p, Value v) {
    const Graph *g = p->r.from;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
        Value x = operand(g, v, i);
        if (node_of(g, x)->op != OP_constant || !is_managed(p, x)) continue;
        double c = attr_float(node_of(g, x), "value");
        if (round_to(p->low, c) != c) return true;
    }
    return false;
}

static void compute(Precision *p, Value v, RoleRow row) {
    Class c = compute_class(p, v, row);
    bool exact = c != CLASS_LOW || row.role != ROLE_EW || !has_inexact_constant(p, v);
    Value w = emit(p, v, row, exact ? type_of_class(p, c) : DT_F32);
    bool stored_low = !exact || (c == CLASS_WIDE && p->wants_low[v]);
    stored_low = stored_low && is_managed(p, v);
    if (stored_low) w = b_cast(p->r.to, w, p->low);
    p->r.map[v] = w;
    p->cls[v] = stored_low ? CLASS_LOW : c;
}

/* One result of several: its type says what it is. */
static void project(Precision *p, Value v, RoleRow row) {
    Class whole = p->cls[operand(p->r.from, v, 0)];
    compute(p, v, row);
    if (!is_managed(p, v)) return;
    bool low = type_of(p->r.to, p->r.map[v])->dtype == p->low;
    p->cls[v] = low ? CLASS_LOW : whole == CLASS_PINNED ? CLASS_PINNED : CLASS_WIDE;
}

/* cast f32 -> f32 pins; casts from other types are wide; casts to other types end our care. */
static void cast_node(Precision *p, Value v) {
    Value x = operand(p->r.from, v, 0);
    Dtype to = type_of(p->r.from, v)->dtype;
    if (is_managed(p, x) && to == DT_F32)
        p->r.map[v] = in_type(p, x, DT_F32);
    else if (is_managed(p, x) && to == p->low)
        p->r.map[v] = in_type(p, x, p->low);
    else
        rewrite_copy(&p->r, v);
    p->cls[v] = is_managed(p, x) ? CLASS_PINNED : CLASS_WIDE;
}

static void visit(Precision *p, Value v) {
    Op op = (Op)node_of(p->r.from, v)->op;
    RoleRow row = role_of(op);
    if (op == OP_cast) {
        cast_node(p, v);
    } else if (op == OP_proj) {
        project(p, v, row);
    } else if (op_info(op)->flags & OPF_LEAF || op == OP_random) {
        bool wide = op == OP_iota || op == OP_mask || op == OP_random;
        rewrite_copy(&p->r, v);
        p->cls[v] = wide ? CLASS_WIDE : CLASS_WEAK;
    } else if (row.role == ROLE_OTHER) {
        p->r.map[v] = emit(p, v, row, DT_F32);
    } else {
        compute(p, v, row);
    }
}

bool pass_precision(Graph *g, PassContext *cx) {
    if (g->set.precision == DT_F32) return false;
    uint32_t n = g->node.n;
    Precision p = {.r = rewrite_begin(g, cx->scratch),
                   .low = g->set.precision,
                   .cls = arena_array(cx->scratch, Class, n),
                   .as_low = no_values(cx->scratch, n),
                   .as_wide = no_values(cx->scratch, n),
                   .wants_low = arena_array(cx->scratch, bool, n),
                   .only_wide = arena_array(cx->scratch, bool, n)};
    mark_readers(&p, cx->scratch);
    for (Value v = 0; v < n; v++) visit(&p, v);
    return rewrite_end(&p.r);
}
