/* collectives.c: how what ranks say to each other is sent.
 *
 * Gradients are fused: the all-reduces that nobody needs before the apply phase become at most
 * max_splits messages for each group of ranks and dtype, in the order in which the backward phase
 * produces them, so that the first travel while the last are computed. Sizes as in EPL: a message
 * is closed when it holds the sum of all bytes over max_splits - 1. With fp16, gradients and
 * exchanged tokens travel as f16, gradients after a multiplication by fp16_scale.
 *
 * All_to_alls are sent in pieces that overlap with products (collectives_chunks.c) and in the
 * phases that suit the network (collectives_exchange.c).
 *
 * A pool of num_communicators: messages of gradients take its communicators in turn, from the last
 * to the first; whatever the next kernel waits for takes the first, which tokens
 * that are exchanged, and what stages send each other, have to themselves. */
#include "passes/collectives.h"

#include "ir/storage.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Value v;      /* the all_reduce */
    Value source; /* its operand: when it is there */
    const char *over;
    Dtype dtype;
    int64_t bytes;
    uint32_t message; /* from 1; 0: sent alone */
} Gradient;

typedef struct {
    Graph *g;
    VEC(Gradient) gradient;
    uint32_t nmessage;
    uint32_t *message; /* by value: of the gradients, their message */
} Collect;

/* ---- which gradients go together ---- */

/* A sum of floats that only the apply phase reads. */
static bool is_gradient(const Graph *g, const Uses *uses, Value v) {
    const Node *n = node_of(g, v);
    if (n->op != OP_all_reduce || n->nin != 1 || n->phase == PHASE_FORWARD) return false;
    if (strcmp(attr_str(n, "reduce"), "sum") != 0 || !dtype_is_float(n->type->dtype)) return false;
    if (node_of(g, operand(g, v, 0))->phase == PHASE_APPLY) return false;
    for (uint32_t e = uses->start[v]; e < uses->start[v + 1]; e++)
        if (node_of(g, uses->use[e])->phase != PHASE_APPLY) return false;
    return true;
}

/* Several gradients together. */
static bool is_message(const Node *n) {
    return n->op == OP_all_reduce && n->nin > 1 && n->phase != PHASE_FORWARD;
}

/* By group and dtype, then as they are produced. */
static int compare_gradients(const void *a, const void *b) {
    const Gradient *x = a, *y = b;
    int over = strcmp(x->over, y->over);
    if (over) return over;
    if (x->dtype != y->dtype) return x->dtype < y->dtype ? -1 : 1;
    return (x->source > y->source) - (x->source < y->source);
}

static bool same_kind(const Gradient *x, const Gradient *y) {
    return x->over == y->over && x->dtype == y->dtype;
}

/* Gradients from .. to - 1 of one kind, cut into messages. */
static void cut_messages(Collect *c, uint32_t from, uint32_t to) {
    int64_t sum = 0, held = 0, splits = c->g->set.max_splits;
    for (uint32_t i = from; i < to; i++) sum += c->gradient.p[i].bytes;
    int64_t size = splits > 1 ? sum / (splits - 1) : INT64_MAX;
    uint32_t count = 0;
    c->nmessage++;
    for (uint32_t i = from; i < to; i++) {
        Gradient *x = &c->gradient.p[i];
        if (held >= size || count == MAX_OPERANDS) {
            c->nmessage++;
            held = 0, count = 0;
        }
        c->message[x->v] = x->message = c->nmessage;
        held += x->bytes, count++;
    }
}

static void find_messages(Collect *c, Arena *a) {
    Graph *g = c->g;
    Uses uses = graph_uses(g, a);
    for (Value v = 0; v < g->node.n; v++)
        if (is_gradient(g, &uses, v)) {
            const Node *n = node_of(g, v);
            Gradient x = {
                v, operand(g, v, 0), attr_str(n, "over"), n->type->dtype, type_bytes(n->type), 0};
            vec_push(&c->gradient, x);
        }
    if (!c->gradient.n) return;
    qsort(c->gradient.p, c->gradient.n, sizeof *c->gradient.p, compare_gradients);
    for (uint32_t i = 0, j; i < c->gradient.n; i = j) {
        for (j = i; j < c->gradient.n && same_kind(&c->gradient.p[i], &c->gradient.p[j]);) j++;
        cut_messages(c, i, j);
    }
}

/* ---- sending them together ---- */

/* One all_reduce for all gradients of v's message; what reads them comes behind. */
static void send_message(Collect *c, Rewrite *r, Value v) {
    Value in[MAX_OPERANDS], member[MAX_OPERANDS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->gradient.n; i++) {
        const Gradient *x = &c->gradient.p[i];
        if (x->message != c->message[v] || r->map[x->source] == NO_VALUE) continue;
        in[n] = r->map[x->source];
        member[n++] = x->v;
    }
    graph_at(r->to, node_of(r->from, v));
    Value sum = graph_add(r->to, OP_all_reduce, node_of(r->from, v)->attr, n, in);
    for (uint32_t i = 0; i < n; i++) {
        Value x = n == 1 ? sum : b_proj(r->to, sum, i);
        node_of(r->to, x)->spec = node_of(r->from, member[i])->spec;
        r->map[member[i]] = x;
    }
}

static void fuse_gradients(Graph *g, Arena *a) {
    Collect c = {.g = g, .message = arena_array(a, uint32_t, g->node.n + 1)};
    if (g->set.max_splits > 0) find_messages(&c, a);
    if (c.gradient.n) {
        Rewrite r = rewrite_begin(g, a);
        for (Value v = 0; v < g->node.n; v++) {
            if (r.map[v] != NO_VALUE) continue;
            if (c.message[v])
                send_message(&c, &r, v);
            else
                rewrite_copy(&r, v);
        }
        rewrite_take(&r);
    }
    vec_free(&c.gradient);
}

/* ---- half precision ---- */

/* Gradients: sums read in the apply phase; tokens: what is exchanged between ranks. */
static void send_as_half(Graph *g, const Uses *uses, Value v) {
    Node *n = node_of(g, v);
    const Type *t = n->type->elem ? n->type->elem[0] : n->type;
    bool gradient = is_message(n) || is_gradient(g, uses, v);
    if (t->dtype != DT_F32 || (!gradient && n->op != OP_all_to_all)) return;
    Session *s = g->session;
    AttrValue over = {.s = attr_str(n, "over")}, ranks = {.i = attr_int(n, "ranks")};
    AttrValue wire = {.i = DT_F16}, scale = {.f = g->set.fp16_scale};
    if (gradient)
        n->attr =
            attr_intern(s, OP_all_reduce,
                        (AttrValue[]){over, ranks, {.s = attr_str(n, "reduce")}, wire, scale});
    else
        n->attr = attr_intern(s, OP_all_to_all, (AttrValue[]){over, ranks, wire});
}

/* ---- communicators ---- */

static bool has_exchanges(const Graph *g) {
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_all_to_all) return true;
    return false;
}

static void choose_streams(Graph *g, const Uses *uses) {
    int64_t n = MIN(g->set.num_communicators, (int64_t)COMM_STREAMS), last = n - 1, next = last;
    int64_t least = n > 1 && (g->set.stages || has_exchanges(g));
    for (Value v = 0; v < g->node.n; v++) {
        Node *node = node_of(g, v);
        if (!is_collective(node)) continue;
        bool gradient = is_message(node) || is_gradient(g, uses, v);
        node->stream = (uint8_t)(STREAM_COMM + (gradient ? next : 0));
        if (gradient) next = next > least ? next - 1 : last;
    }
}

/* In pieces first, each of which is then sent as suits its size. */
static void exchange_in_parts(Graph *g, PassContext *cx) {
    Exchanges e = exchanges_begin(g, cx);
    Regions regions = find_regions(g, &e, cx->scratch);
    cut_regions(g, &regions, cx->scratch);
    vec_free(&regions.list);
    group_all_to_alls(g, &e, cx->scratch);
    exchanges_end(&e);
}

bool pass_collectives(Graph *g, PassContext *cx) {
    if (!g->set.sharded) return false;
    fuse_gradients(g, cx->scratch);
    Uses uses = graph_uses(g, cx->scratch);
    for (Value v = 0; g->set.fp16 && v < g->node.n; v++) send_as_half(g, &uses, v);
    exchange_in_parts(g, cx);
    uses = graph_uses(g, cx->scratch);
    choose_streams(g, &uses);
    return true;
}
