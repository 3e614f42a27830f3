/* test_equal_stages.c: the stages of a pipeline with one thing wrong. In a small model on two
 * stages of two ranks, after `schedule`: every send left out, every transfer renumbered, the
 * numbers of two transfers exchanged, every collective of the stages left out in one stage or in
 * all, every value received another. All must be found: by the proof of order before anything runs,
 * or by what comes out. */
#include <stdlib.h>

#include "passes/equal.h"
#include "tests/passes/model.h"
#include "tests/passes/model_text.h"

static const char text[] = "use \"m6\"\n"
                           "config batch = 8\n"
                           "model chain(text: i32[batch, 4], y: i32[batch, 4]) {\n"
                           "    x = embedding(text, 12, 8)\n"
                           "    repeat 2 as block {\n"
                           "        x = x + ffn(norm(x), 16)\n"
                           "    }\n"
                           "    return cross_entropy(linear(norm(x), 12) as head, y)\n"
                           "}\n"
                           "train chain {\n"
                           "    optimizer = adamw(lr = 0.1)\n"
                           "    clip = 0.1\n"
                           "    num_micro_batch = 2\n"
                           "}\n"
                           "place {\n    mesh pipeline = 2, data = 2\n}\n";

enum { STAGES = 2 };

typedef enum {
    FAULT_LOST,     /* a send is left out */
    FAULT_NUMBER,   /* a send has a number of its own */
    FAULT_SWAPPED,  /* a send has the number of the next one, and that its number */
    FAULT_ALONE,    /* a stage does not take part in a collective of all stages */
    FAULT_ALL,      /* no stage does */
    FAULT_RECEIVED, /* a value is half as large again as what was sent */
    FAULT_COUNT
} Fault;

static bool meets_stages(const Node *n) {
    return n->op == OP_all_reduce && strstr(attr_str(n, "over"), "pipeline") != NULL;
}

/* The next send to the same peer of as much, or NO_VALUE. */
static Value next_send(const Graph *g, Value v) {
    for (Value w = v + 1; w < g->node.n; w++)
        if (is_op(g, w, OP_send) &&
            attr_int(node_of(g, w), "peer") == attr_int(node_of(g, v), "peer"))
            return type_of(g, operand(g, w, 0)) == type_of(g, operand(g, v, 0)) ? w : NO_VALUE;
    return NO_VALUE;
}

static bool is_candidate(const Graph *g, Value v, Fault f) {
    const Node *n = node_of(g, v);
    switch (f) {
    case FAULT_LOST:
    case FAULT_NUMBER: return n->op == OP_send;
    case FAULT_SWAPPED: return n->op == OP_send && next_send(g, v) != NO_VALUE;
    case FAULT_ALONE:
    case FAULT_ALL: return meets_stages(n);
    default: return n->op == OP_recv;
    }
}

/* v's Attr with another number. */
static const Attr *numbered(Graph *g, Value v, int64_t tag) {
    const Node *n = node_of(g, v);
    AttrValue attr[] = {{.s = attr_str(n, "over")},
                        {.i = attr_int(n, "ranks")},
                        {.i = attr_int(n, "peer")},
                        {.i = tag}};
    return attr_intern(g->session, OP_send, attr);
}

/* Puts the copy of v at its place, or nothing. */
static void put_broken(Graph *g, const Graph *from, Value v, Value *map, Fault f) {
    if (f == FAULT_ALONE || f == FAULT_ALL) {
        map[v] = b_ew1(g, OP_neg, b_ew1(g, OP_neg, map[operand(from, v, 0)]));
        node_of(g, map[v])->spec = node_of(from, v)->spec;
    } else if (f == FAULT_RECEIVED) {
        Value x = graph_copy_node(g, from, v, map);
        map[v] = b_ew2(g, OP_mul, x, b_like(g, 1.5, x));
        node_of(g, map[v])->spec = node_of(from, v)->spec;
    } else if (f != FAULT_LOST) {
        map[v] = graph_copy_node(g, from, v, map);
    }
}

/* map leads from one to the other. */
static Graph *with_fault(const Graph *from, Value v, Fault f, Value *map) {
    Graph *g = graph_like(from);
    Value next = f == FAULT_SWAPPED ? next_send(from, v) : NO_VALUE;
    for (Value w = 0; w < from->node.n; w++)
        if (w == v)
            put_broken(g, from, w, map, f);
        else
            map[w] = graph_copy_node(g, from, w, map);
    if (f == FAULT_NUMBER) node_of(g, map[v])->attr = numbered(g, map[v], 1000);
    if (f == FAULT_SWAPPED) {
        int64_t tag = attr_int(node_of(g, map[v]), "tag");
        node_of(g, map[v])->attr = numbered(g, map[v], attr_int(node_of(g, map[next]), "tag"));
        node_of(g, map[next])->attr = numbered(g, map[next], tag);
    }
    return g;
}

typedef struct {
    Equal *e;
    Graph *stage[STAGES];
    int planted, by_order, by_value;
} Test;

static void judge(Test *t, Graph *const *g, Fault f, Value v) {
    Buf err = {0};
    RanksOrder order;
    bool runs = ranks_check_order(g, STAGES, true, &order, &err);
    bool equal = equal_stages(t->e, g, STAGES);
    t->planted++;
    t->by_order += !runs;
    t->by_value += runs && !equal;
    CHECK(runs || strstr(err.p, "stage"));
    CHECK(f == FAULT_ALL || f == FAULT_RECEIVED || !runs);
    /* what was exchanged but arrives comes out wrong, too */
    if (!CHECK(!runs || !equal) || (f == FAULT_SWAPPED && !CHECK(!equal)))
        fprintf(stderr, "fault %d at %%%u is not found\n", (int)f, v);
    buf_free(&err);
}

/* One fault at v of one stage; the n-th collective of all stages in each of them. */
static void plant(Test *t, int stage, Value v, Fault f) {
    Graph *g[STAGES];
    int n = 0;
    for (Value w = 0; w < v; w++) n += meets_stages(node_of(t->stage[stage], w));
    for (int s = 0; s < STAGES; s++) {
        Value at = v;
        if (f == FAULT_ALL && s != stage) {
            int skip = n;
            for (at = 0; !meets_stages(node_of(t->stage[s], at)) || skip--;) at++;
        }
        bool here = s == stage || f == FAULT_ALL;
        Value *map = xcalloc(t->stage[s]->node.n, sizeof *map);
        g[s] = here ? with_fault(t->stage[s], at, f, map) : graph_copy(t->stage[s]);
        free(map);
    }
    judge(t, g, f, v);
    for (int s = 0; s < STAGES; s++) graph_free(g[s]);
}

/* The value that one stage has otherwise than the whole program is the one that it received. */
static void locate(Test *t, Graph *before, const ShardMap *map, int stage, Value v) {
    Session *s = before->session;
    Value *to = xcalloc(t->stage[stage]->node.n, sizeof *to);
    Graph *g[STAGES];
    ShardMap broken[STAGES];
    for (int i = 0; i < STAGES; i++) g[i] = t->stage[i], broken[i] = map[i];
    g[stage] = with_fault(t->stage[stage], v, FAULT_RECEIVED, to);
    broken[stage].to = arena_array(session_arena(s), Value, map[stage].n);
    for (Value w = 0; w < map[stage].n; w++) {
        Value x = map[stage].to[w];
        broken[stage].to[w] = x == NO_VALUE ? x : to[x];
    }
    ValueDistance at = equal_locate(t->e, before, g, broken, STAGES, 1);
    CHECK(at.v != NO_VALUE && map[stage].to[at.v] == v && at.stage == stage);
    graph_free(g[stage]);
    free(to);
}

/* Of all that is received right after `stages`. */
static void test_locate(Test *t, Graph *g) {
    Graph *before = graph_copy(g);
    ShardMap map[STAGES];
    for (uint32_t i = 0; i < STAGES; i++) {
        PassContext cx = {.session = g->session, .stage = i, .shard = &map[i]};
        t->stage[i] = graph_copy(g);
        CHECK(pipeline_run(t->stage[i], "stages", &cx));
    }
    CHECK(equal_locate(t->e, before, t->stage, map, STAGES, 2).v == NO_VALUE);
    for (int i = 0; i < STAGES; i++)
        for (Value v = 0; v < t->stage[i]->node.n; v++)
            if (is_op(t->stage[i], v, OP_recv)) locate(t, before, map, i, v);
    for (int i = 0; i < STAGES; i++) graph_free(t->stage[i]);
    graph_free(before);
}

int main(void) {
    Session *s = session_new();
    Test t = {0};
    Buf warnings = {0};
    diag_capture(s, &warnings);
    Graph *g = model_from_text(s, text);
    if (!CHECK(g != NULL)) return fputs(warnings.p, stderr), check_done("equal_stages");
    g->set.keep_grads = true;
    t.e = equal_new(g, 3, 2);
    CHECK(equal_form(t.e, g));
    model_pipeline(g, "simplify,raise,precision,differentiate,optimize,shard,simplify");
    CHECK(equal_form(t.e, g));
    test_locate(&t, g);
    for (uint32_t i = 0; i < STAGES; i++) {
        PassContext cx = {.session = s, .stage = i, .opt = {.verify = true, .roundtrip = true}};
        t.stage[i] = graph_copy(g);
        CHECK(pipeline_run(t.stage[i], "stages,collectives,lower,epilogue,fuse,schedule", &cx));
    }
    CHECK(equal_stages(t.e, t.stage, STAGES));
    for (Fault f = 0; f < FAULT_COUNT; f++) {
        int before = t.planted;
        for (int i = 0; i < STAGES; i++)
            for (Value v = 0; v < t.stage[i]->node.n; v++)
                if (is_candidate(t.stage[i], v, f)) plant(&t, i, v, f);
        CHECK(t.planted > before);
    }
    printf("%d faults, %d found by order, %d by value\n", t.planted, t.by_order, t.by_value);
    equal_free(t.e);
    graph_free(g);
    for (int i = 0; i < STAGES; i++) graph_free(t.stage[i]);
    buf_free(&warnings);
    session_free(s);
    return check_done("equal_stages");
}
