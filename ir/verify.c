/* verify.c: what must hold between passes. Three layers, each run only where the one below holds:
 * the arrays (ops, operands before users), every node by itself (attributes, the inferred type),
 * the graph (unique names, assignments, kernel groups).
 *
 * A group is one kernel: no value may leave it and come back through other nodes (convex); once
 * offsets are given its nodes stand together. Convexity is a topological sort of the groups; what
 * the sort cannot reach from either end lies on a cycle. */
#include "ir/storage.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *g;
    Arena *arena;
    VEC(Finding) found;
} Check;

static void PRINTF(3, 4) find(Check *c, Value v, const char *fmt, ...) {
    Buf text = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&text, fmt, ap);
    va_end(ap);
    vec_push(&c->found, ((Finding){v, arena_strdup(c->arena, text.p, text.n)}));
    buf_free(&text);
}

/* ---- the arrays ---- */

static bool check_arrays(Check *c, Value v) {
    const Graph *g = c->g;
    const Node *n = node_of(g, v);
    uint32_t before = c->found.n;
    if (n->op >= OP_COUNT) find(c, v, "there is no op %u", n->op);
    if (!n->type) find(c, v, "has no type");
    if (!n->scope) find(c, v, "has no scope");
    if (n->nin > MAX_OPERANDS || n->in > g->operand.n || n->nin > g->operand.n - n->in) {
        find(c, v, "operands lie outside the graph");
        return false;
    }
    for (uint32_t i = 0; i < n->nin; i++)
        if (operand(g, v, i) >= v) find(c, v, "operand %u comes after its use", i + 1);
    return c->found.n == before;
}

/* ---- every node by itself ---- */

static void check_type(Check *c, Value v) {
    const Graph *g = c->g;
    const Node *n = node_of(g, v);
    const Type *in[MAX_OPERANDS + 1];
    Buf err = {0};
    for (uint32_t i = 0; i < n->nin; i++) in[i] = type_of(g, operand(g, v, i));
    const Type *t = op_infer(g->session, n->op, n->nin, in, n->attr, n->type, &err);
    if (!t) {
        find(c, v, "%s: %s", op_info(n->op)->name, err.p);
    } else if (t != n->type) {
        type_print(t, &err);
        buf_puts(&err, ", but the node says ");
        type_print(n->type, &err);
        find(c, v, "%s gives %s", op_info(n->op)->name, err.p);
    }
    buf_free(&err);
}

/* A message goes to a group of the mesh, of as many ranks as the node says. */
static void check_collective(Check *c, Value v) {
    const Graph *g = c->g;
    const Node *n = node_of(g, v);
    MeshGroup m;
    const char *over = attr_str(n, "over");
    if (!mesh_group(&g->set, over, &m))
        find(c, v, "the mesh has no group of ranks '%s'", over);
    else if (m.n != attr_int(n, "ranks"))
        find(c, v, "group '%s' has %lld ranks, not %lld", over, (long long)m.n,
             (long long)attr_int(n, "ranks"));
    if (n->stream != STREAM_COMPUTE && n->stream < STREAM_COMM)
        find(c, v, "stream %u is not for collectives", n->stream);
}

/* Of a graph of one rank: is the dimension what its shares make of a whole? */
static bool is_part(const Check *c, Value v, int dim) {
    const Settings *set = &c->g->set;
    const Node *n = node_of(c->g, v);
    const char *over = n->spec->axis[dim];
    Shares s = over ? mesh_shares(set, over) : (Shares){0};
    MeshGroup m;
    if (!s.n || n->spec->rank != n->type->rank || !mesh_group(set, over, &m)) return true;
    int64_t first = shares_class(s, set->share).first;
    return shares_whole(s, m.n, first * (m.n / s.n), n->type->dim[dim]) >= 0;
}

/* The axes that a part's dimensions are split over: known, and each once. */
static void check_spec(Check *c, Value v) {
    const Graph *g = c->g;
    const Spec *spec = node_of(g, v)->spec;
    unsigned seen = 0;
    for (int i = 0; i < spec->rank; i++) {
        if (!is_part(c, v, i)) find(c, v, "dimension %d is no share of a whole number", i);
        for (const char *p = spec->axis[i]; p && *p; p += *p == '.') {
            size_t n = strcspn(p, ".");
            int axis = 0;
            while (axis < g->set.nmesh &&
                   (g->set.mesh[axis].same || strlen(g->set.mesh[axis].axis) != n ||
                    memcmp(g->set.mesh[axis].axis, p, n) != 0))
                axis++;
            if (axis == g->set.nmesh)
                find(c, v, "the mesh has no axis '%.*s' of its own", (int)n, p);
            else if (seen >> axis & 1)
                find(c, v, "is split twice over axis '%.*s'", (int)n, p);
            seen |= axis < g->set.nmesh ? 1u << axis : 0;
            p += n;
        }
    }
}

static void check_node(Check *c, Value v) {
    const Graph *g = c->g;
    const Node *n = node_of(g, v);
    check_type(c, v);
    if (is_collective(n)) check_collective(c, v);
    if (n->stream >= STREAM_COMM && !is_collective(n))
        find(c, v, "stream %u is for collectives", n->stream);
    const Node *of = n->op == OP_room ? node_of(g, operand(g, v, 0)) : NULL;
    if (of && !is_collective(of))
        find(c, v, "is room for the message of what is no collective");
    else if (of && attr_int(n, "parts") != collective_parts(of))
        find(c, v, "has %lld parts, the message %lld", (long long)attr_int(n, "parts"),
             (long long)collective_parts(of));
    if (n->spec && g->set.sharded) check_spec(c, v);
    if (n->phase >= PHASE_COUNT) find(c, v, "there is no phase %u", n->phase);
    if (n->micro < -1) find(c, v, "micro-batch %d is negative", n->micro);
    if (n->offset < -1) find(c, v, "offset %lld is negative", (long long)n->offset);
    if (n->spec && n->spec->rank != n->type->rank)
        find(c, v, "the sharding names %d dimensions of %d", n->spec->rank, n->type->rank);
    if (n->mem >= MEM_COUNT) find(c, v, "there is no memory %u", n->mem);
    if (n->stream >= STREAM_COUNT) find(c, v, "there is no stream %u", n->stream);
    if (n->op == OP_copy_done && node_of(g, operand(g, v, 0))->op != OP_copy_start)
        find(c, v, "ends a copy that is none");
    if (n->op == OP_assign) {
        unsigned leaf = node_of(g, operand(g, v, 0))->op;
        if (leaf != OP_param && leaf != OP_state)
            find(c, v, "assigns to what is no param or state");
    }
}

/* ---- names ---- */

typedef struct {
    const char *name;
    Value v;
} Name;

static int by_name(const void *a, const void *b) {
    const Name *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->v > y->v) - (x->v < y->v);
}

typedef struct {
    Name *p;
    uint32_t n;
} Names;

/* Sorted values of these ops' attribute `attr`. */
static Names collect(Check *c, const Op *ops, size_t nops, const char *attr) {
    const Graph *g = c->g;
    Names names = {arena_array(c->arena, Name, g->node.n), 0};
    for (Value v = 0; v < g->node.n; v++)
        for (size_t i = 0; i < nops; i++)
            if (node_of(g, v)->op == ops[i])
                names.p[names.n++] = (Name){attr_str(node_of(g, v), attr), v};
    if (names.n) qsort(names.p, names.n, sizeof *names.p, by_name);
    return names;
}

static void check_unique(Check *c, Names names, const char *what) {
    for (uint32_t i = 0; i < names.n; i++) {
        if (!names.p[i].name[0]) find(c, names.p[i].v, "the %s has no name", what);
        if (i && strcmp(names.p[i].name, names.p[i - 1].name) == 0)
            find(c, names.p[i].v, "the %s '%s' is also %%%u", what, names.p[i].name,
                 names.p[i - 1].v);
    }
}

/* Every `of` that is not empty must be a param's name. */
static void check_of(Check *c, Names of, Names params) {
    for (uint32_t i = 0, k = 0; i < of.n; i++) {
        while (k < params.n && strcmp(params.p[k].name, of.p[i].name) < 0) k++;
        bool known = k < params.n && strcmp(params.p[k].name, of.p[i].name) == 0;
        bool none = !of.p[i].name[0] && node_of(c->g, of.p[i].v)->op == OP_state;
        if (!known && !none) find(c, of.p[i].v, "there is no param '%s'", of.p[i].name);
    }
}

static void check_names(Check *c) {
    static const Op leaves[] = {OP_input, OP_param, OP_state};
    static const Op param = OP_param, state = OP_state, gradient = OP_gradient, output = OP_output;
    Names params = collect(c, &param, 1, "name"), gradients = collect(c, &gradient, 1, "of");
    check_unique(c, collect(c, leaves, COUNT(leaves), "name"), "leaf");
    check_unique(c, collect(c, &output, 1, "name"), "output");
    check_unique(c, gradients, "gradient of");
    check_of(c, gradients, params);
    check_of(c, collect(c, &state, 1, "of"), params);
}

static void check_assigned_once(Check *c) {
    const Graph *g = c->g;
    Value *by = arena_array(c->arena, Value, g->node.n);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op != OP_assign) continue;
        Value leaf = operand(g, v, 0);
        if (by[leaf]) find(c, v, "%%%u is also assigned by %%%u", leaf, by[leaf]);
        by[leaf] = v;
    }
}

/* ---- groups ---- */

typedef struct {
    uint32_t n;      /* kernels; a node of group 0 is one by itself */
    uint32_t *of;    /* kernel of a node */
    uint32_t *start; /* members of kernel k: member[start[k]] … member[start[k + 1] - 1] */
    Value *member;
    bool *done;
} Kernels;

typedef struct {
    uint32_t group;
    Value v;
} Member;

static int by_group(const void *a, const void *b) {
    const Member *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return (x->v > y->v) - (x->v < y->v);
}

static Kernels kernels_of(Check *c) {
    const Graph *g = c->g;
    uint32_t n = g->node.n;
    Member *m = arena_array(c->arena, Member, n);
    Kernels k = {.of = arena_array(c->arena, uint32_t, n),
                 .start = arena_array(c->arena, uint32_t, n + 1),
                 .member = arena_array(c->arena, Value, n),
                 .done = arena_array(c->arena, bool, n)};
    /* a view of group 0 computes nothing: it is part of what it shows */
    for (Value v = 0; v < n; v++) m[v] = (Member){node_of(g, view_base(g, v))->group, v};
    qsort(m, n, sizeof *m, by_group);
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || m[i].group == 0 || m[i].group != m[i - 1].group) k.start[k.n++] = i;
        k.of[m[i].v] = k.n - 1;
        k.member[i] = m[i].v;
    }
    k.start[k.n] = n;
    return k;
}

/* Calls f for every neighbour of kernel i: what uses it (forward) or what it uses. */
static void visit(const Graph *g, const Uses *u, const Kernels *k, uint32_t i, bool forward,
                  void (*f)(void *ctx, uint32_t kernel), void *ctx) {
    for (uint32_t m = k->start[i]; m < k->start[i + 1]; m++) {
        Value v = k->member[m];
        uint32_t n = forward ? u->start[v + 1] - u->start[v] : node_of(g, v)->nin;
        for (uint32_t e = 0; e < n; e++) {
            uint32_t to = k->of[forward ? u->use[u->start[v] + e] : operand(g, v, e)];
            if (to != i) f(ctx, to);
        }
    }
}

typedef struct {
    const Kernels *k;
    uint32_t *waits; /* edges into a kernel from kernels not done */
    uint32_t *ready, nready;
} Sort;

static void count_edge(void *ctx, uint32_t to) { ((Sort *)ctx)->waits[to]++; }

static void finish_edge(void *ctx, uint32_t to) {
    Sort *s = ctx;
    if (--s->waits[to] == 0 && !s->k->done[to]) s->ready[s->nready++] = to;
}

/* Marks as done what a topological sort reaches, over uses or over operands. */
static void trim(Check *c, const Uses *u, Kernels *k, bool forward) {
    Sort s = {k, arena_array(c->arena, uint32_t, k->n), arena_array(c->arena, uint32_t, k->n), 0};
    for (uint32_t i = 0; i < k->n; i++)
        if (!k->done[i]) visit(c->g, u, k, i, forward, count_edge, &s);
    for (uint32_t i = 0; i < k->n; i++)
        if (!k->done[i] && s.waits[i] == 0) s.ready[s.nready++] = i;
    while (s.nready) {
        uint32_t i = s.ready[--s.nready];
        k->done[i] = true;
        visit(c->g, u, k, i, forward, finish_edge, &s);
    }
}

static void check_contiguous(Check *c, const Kernels *k) {
    const Graph *g = c->g;
    bool placed = false;
    for (Value v = 0; v < g->node.n; v++) placed = placed || node_of(g, v)->offset >= 0;
    uint32_t group = 0, *ended = arena_array(c->arena, uint32_t, k->n + 1);
    for (Value v = 0; placed && v < g->node.n; v++) {
        uint32_t own = node_of(g, v)->group, i = k->of[v];
        bool idle = is_view(node_of(g, v)) || is_result(node_of(g, v)) ||
                    op_info(node_of(g, v)->op)->flags & (OPF_LEAF | OPF_EFFECT);
        if (own == group || (own == 0 && idle)) continue;
        if (own && ended[i]) find(c, v, "group %u has other nodes in between", own);
        group = own;
        ended[i] = 1;
    }
}

static void check_groups(Check *c) {
    const Graph *g = c->g;
    bool any = false;
    for (Value v = 0; v < g->node.n; v++) any = any || node_of(g, v)->group;
    if (!any) return;
    Kernels k = kernels_of(c);
    Uses u = graph_uses(g, c->arena);
    trim(c, &u, &k, true);
    trim(c, &u, &k, false);
    for (uint32_t i = 0; i < k.n; i++) {
        Value first = k.member[k.start[i]];
        if (!k.done[i] && node_of(g, first)->group)
            find(c, first, "group %u needs a value that needs group %u", node_of(g, first)->group,
                 node_of(g, first)->group);
    }
    check_contiguous(c, &k);
}

/* ---- together ---- */

static int by_value(const void *a, const void *b) {
    const Finding *x = a, *y = b;
    if (x->v != y->v) return x->v < y->v ? -1 : 1;
    return strcmp(x->text, y->text);
}

uint32_t graph_findings(const Graph *g, Arena *a, Finding **found) {
    Check c = {.g = g, .arena = a};
    int64_t classes = shares_classes(g->set.shares);
    if (g->set.share >= classes)
        find(&c, NO_VALUE, "there is no class %lld of shares: there are %lld, from 0",
             (long long)g->set.share, (long long)classes);
    for (Value v = 0; v < g->node.n; v++) check_arrays(&c, v);
    bool sound = c.found.n == 0;
    for (Value v = 0; sound && v < g->node.n; v++) check_node(&c, v);
    if (c.found.n == 0) {
        check_names(&c);
        check_assigned_once(&c);
        check_groups(&c);
    }
    uint32_t n = c.found.n;
    *found = arena_array(a, Finding, n);
    if (n) memcpy(*found, c.found.p, n * sizeof **found);
    if (n) qsort(*found, n, sizeof **found, by_value);
    vec_free(&c.found);
    return n;
}

static bool can_print(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    return n->op < OP_COUNT && n->type && n->scope && n->in <= g->operand.n &&
           n->nin <= g->operand.n - n->in && (n->attr ? n->attr->n : 0) == op_fields(n->op, NULL);
}

int graph_verify(const Graph *g, Buf *report) {
    Arena *a = arena_new();
    Finding *found;
    uint32_t n = graph_findings(g, a, &found), next = 0;
    if (n) graph_print_header(g, report);
    for (Value v = 0; n && v < g->node.n; v++) {
        if (can_print(g, v))
            text_print_node(g, v, report);
        else
            buf_printf(report, "%%%u = ?\n", v);
        for (; next < n && found[next].v == v; next++)
            buf_printf(report, "^^^^ %s\n", found[next].text);
    }
    arena_free(a);
    return (int)n;
}
