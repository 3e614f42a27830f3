/* test_equal.c: sharded models with one thing wrong. Of small models on a mesh every collective is
 * left out, one after the other, as are the ranks' own indices, and every value is once another:
 * what comes out must differ, and the first value that differs must be one that the fault reaches,
 * with nothing before it that does. */
#include "passes/equal.h"
#include "tests/passes/model.h"

/* ---- faults ---- */

typedef enum {
    FAULT_ALONE,  /* a collective gives what its rank alone has */
    FAULT_INDEX,  /* every rank takes block 0 */
    FAULT_SCALED, /* a float is half as large again */
    FAULT_COUNT
} Fault;

static Value scalar_index(Graph *g) { return b_const(g, 0, type_scalar(g->session, DT_I32)); }

/* What rank 0 alone would make of collective v of `from`, with operands mapped. */
static Value alone(Graph *g, const Graph *from, Value v, const Value *map) {
    const Node *n = node_of(from, v);
    Value x = map[operand(from, v, 0)];
    if (n->op == OP_all_gather) {
        int64_t dims[MAX_RANK];
        for (int i = 0; i + 1 < n->type->rank; i++) dims[i] = i + 1;
        return b_broadcast(g, x, n->type->rank, n->type->dim, dims);
    }
    if (n->op == OP_reduce_scatter) {
        AttrValue at[] = {{.i = 0}, {.i = attr_int(n, "ranks")}};
        Value in[] = {x, scalar_index(g)};
        Value block = graph_add(g, OP_block, attr_intern(g->session, OP_block, at), 2, in);
        return b_reshape(g, block, n->type->rank, n->type->dim);
    }
    return b_ew2(g, OP_mul, x, b_like(g, 1, x)); /* a node of its own, for its Spec */
}

static bool is_candidate(const Graph *g, Value v, Fault f) {
    const Node *n = node_of(g, v);
    bool meets = n->op == OP_all_reduce || n->op == OP_all_gather || n->op == OP_reduce_scatter ||
                 n->op == OP_all_to_all;
    if (f == FAULT_ALONE) return meets && n->type->dtype != DT_TUPLE;
    if (f == FAULT_INDEX) return n->op == OP_block;
    return n->type->dtype == DT_F32 && n->nin > 0 && n->op != OP_output && n->op != OP_gradient;
}

static Value broken(Graph *g, const Graph *from, Value v, const Value *map, Fault f) {
    if (f == FAULT_ALONE) return alone(g, from, v, map);
    if (f == FAULT_SCALED) {
        Value x = graph_copy_node(g, from, v, map);
        return b_ew2(g, OP_mul, x, b_like(g, 1.5, x));
    }
    Value in[] = {map[operand(from, v, 0)], scalar_index(g)};
    return graph_add(g, OP_block, node_of(from, v)->attr, 2, in);
}

/* `from` with the fault at v; map leads to it. */
static Graph *with_fault(const Graph *from, Value v, Fault f, Value *map) {
    Graph *g = graph_like(from);
    for (Value w = 0; w < from->node.n; w++) {
        if (w == v) {
            map[w] = broken(g, from, w, map, f);
            node_of(g, map[w])->spec = node_of(from, w)->spec;
        } else {
            map[w] = graph_copy_node(g, from, w, map);
        }
    }
    return g;
}

/* Whether `to` needs `from`. */
static bool reaches(const Graph *g, Value from, Value to) {
    bool *needs = xcalloc(g->node.n, sizeof *needs);
    needs[from] = true;
    for (Value v = from + 1; v <= to; v++)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) needs[v] |= needs[operand(g, v, i)];
    bool found = needs[to];
    free(needs);
    return found;
}

/* ---- one model ---- */

typedef struct {
    Equal *e;
    Graph *one, *many;
    const ShardMap *map;
    int planted, found, harmless;
} Model;

/* Where the fault must show first; NO_VALUE: it changes no value that the map knows. */
static void plant(Model *m, Value v, Fault f) {
    Session *s = m->many->session;
    Value *to = xcalloc(m->many->node.n, sizeof *to);
    Graph *g = with_fault(m->many, v, f, to);
    ShardMap map = {m->map->n, arena_array(session_arena(s), Value, m->map->n)};
    for (uint32_t i = 0; i < map.n; i++)
        map.to[i] = m->map->to[i] == NO_VALUE ? NO_VALUE : to[m->map->to[i]];
    bool equal = equal_form(m->e, g);
    m->planted++;
    m->found += !equal;
    m->harmless += equal;
    if (!equal) {
        Value at = equal_locate(m->e, m->one, &g, &map, 1, 1).v;
        if (CHECK(at != NO_VALUE)) CHECK(reaches(m->many, v, m->map->to[at]));
    } else if (f == FAULT_ALONE) {
        Buf text = {0};
        graph_print(m->many, &text);
        fprintf(stderr, "not found: %%%u %s\n", v, op_info(node_of(m->many, v)->op)->name);
        buf_free(&text);
    }
    graph_free(g);
    free(to);
}

static void set_mesh(Graph *g, const char *mesh) {
    for (const char *p = mesh; *p; p += *p == ',') {
        size_t n = strcspn(p, "=");
        const char *axis = intern_n(g->session, p, n);
        g->set.mesh[g->set.nmesh].axis = axis;
        bool alias = strncmp(p + n + 1, "data", 4) == 0;
        g->set.mesh[g->set.nmesh].same = alias ? intern(g->session, "data") : NULL;
        g->set.mesh[g->set.nmesh++].size =
            alias ? g->set.mesh[0].size : strtol(p + n + 1, NULL, 10);
        p += n + 1 + strcspn(p + n + 1, ",");
    }
}

/* The batch is shared over these axes. */
static void split_inputs(Graph *g, const char *axes) {
    Spec spec = {.rank = 2, .axis = {intern(g->session, axes)}};
    for (Value v = 0; v < g->node.n && axes[0]; v++)
        if (is_op(g, v, OP_input)) node_of(g, v)->spec = spec_intern(g->session, &spec);
}

static void test_model(ModelKind kind, const char *mesh, const char *batch) {
    Session *s = session_new();
    Graph *g = model_build(s, kind);
    set_mesh(g, mesh);
    split_inputs(g, batch);
    model_pipeline(g, "simplify,raise,precision,differentiate,simplify");
    ShardMap map = {0};
    Model m = {.e = equal_new(g, 3, 1), .one = graph_copy(g), .many = g, .map = &map};
    PassContext cx = {.session = s, .opt = {.verify = true, .roundtrip = true}, .shard = &map};
    CHECK(equal_form(m.e, g));
    CHECK(pipeline_run(g, "shard", &cx) && g->set.sharded);
    CHECK(equal_form(m.e, g));
    CHECK(equal_locate(m.e, m.one, &g, &map, 1, 1).v == NO_VALUE);
    for (Fault f = 0; f < FAULT_COUNT; f++)
        for (Value v = 0; v < g->node.n; v++)
            if (is_candidate(g, v, f) && (f != FAULT_SCALED || v % 7 == 0)) plant(&m, v, f);
    printf("%s: %d faults, %d found, %d change nothing\n", mesh, m.planted, m.found, m.harmless);
    CHECK(m.found > 0);
    equal_free(m.e);
    graph_free(m.one);
    graph_free(g);
    session_free(s);
}

int main(void) {
    test_model((ModelKind){0}, "data=2", "data");
    test_model((ModelKind){0}, "tensor=2", "");
    test_model((ModelKind){.moe = true}, "data=2,expert=data", "data");
    test_model((ModelKind){.moe = true}, "data=2,tensor=2", "data");
    test_model((ModelKind){.shared = true}, "data=2,tensor=2", "data");
    test_model((ModelKind){.micro = 2}, "data=2", "data");
    return check_done("equal");
}
