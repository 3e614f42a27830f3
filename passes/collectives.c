/* collectives.c: how what ranks say to each other is sent.
 *
 * Gradients, and parameters that ranks updated a part of, travel in few messages
 * (collectives_messages.c). With fp16, gradients and exchanged tokens travel as f16, gradients
 * after a multiplication by fp16_scale.
 *
 * All_to_alls are sent in pieces that overlap with products (collectives_chunks.c) and in the
 * phases that suit the network (collectives_exchange.c).
 *
 * A pool of num_communicators: messages of gradients and parameters take its communicators in turn,
 * from the last to the first; whatever the next kernel waits for takes the first, which tokens that
 * are exchanged, and what stages send each other, have to themselves. */
#include "passes/collectives.h"

#include "ir/storage.h"

#include <stdlib.h>

/* ---- half precision ---- */

/* Gradients: sums read in the apply phase; tokens: what is exchanged between ranks. */
static void send_as_half(Graph *g, const Uses *uses, Value v) {
    Node *n = node_of(g, v);
    const Type *t = n->type->elem ? n->type->elem[0] : n->type;
    bool gradient = is_gradient(g, uses, v);
    if (t->dtype != DT_F32 || (!gradient && n->op != OP_all_to_all)) return;
    Session *s = g->session;
    AttrValue over = {.s = attr_str(n, "over")}, ranks = {.i = attr_int(n, "ranks")};
    AttrValue wire = {.i = DT_F16}, scale = {.f = g->set.fp16_scale};
    if (n->op == OP_reduce_scatter)
        n->attr = attr_intern(s, OP_reduce_scatter, (AttrValue[]){over, ranks, wire, scale});
    else if (gradient)
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
        bool message = is_gradient(g, uses, v) || is_update(g, uses, v);
        node->stream = (uint8_t)(STREAM_COMM + (message ? next : 0));
        if (message) next = next > least ? next - 1 : last;
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
    fuse_messages(g, cx->scratch);
    Uses uses = graph_uses(g, cx->scratch);
    for (Value v = 0; g->set.fp16 && v < g->node.n; v++) send_as_half(g, &uses, v);
    exchange_in_parts(g, cx);
    uses = graph_uses(g, cx->scratch);
    choose_streams(g, &uses);
    return true;
}
