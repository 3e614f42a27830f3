/* collectives_messages.c: what nobody waits for, in few messages.
 *
 * Gradients: the all_reduces and reduce_scatters that nobody needs before the apply phase, in the
 * order in which the backward phase produces them, so that the first travel while the last are
 * computed. Updates: the all_gathers of what is assigned at once (zero), in the order of the
 * updates, which is that of the parameters and so of the next forward phase; the first travel while
 * the others are computed. Each kind becomes at most max_splits messages for each group of ranks
 * and dtype. Sizes as in EPL: a message is closed when it holds the sum of all bytes over
 * max_splits - 1.
 *
 * Under a budget of the device's memory, what zero scatters and gathers travels in messages of at
 * most half its largest tensor: what a message holds together is then no more than what that tensor
 * takes alone. */
#include "passes/collectives.h"

#include "ir/storage.h"

#include <stdlib.h>
#include <string.h>

/* A collective that goes with others. */
typedef struct {
    Value v, source; /* source: its operand, behind views: when it is there */
    Op op;
    const char *over;
    Dtype dtype;
    int64_t bytes;
    uint32_t message; /* from 1 */
} Member;

typedef struct {
    Graph *g;
    const Uses *uses;
    VEC(Member) member;
    uint32_t nmessage;
    uint32_t *message; /* by value: of members, their message */
    uint32_t *missing; /* by message of updates: members whose operand is not there yet */
    bool *late;        /* by value: comes behind a message of updates */
} Messages;

/* ---- what goes together ---- */

static Value behind_views(const Graph *g, Value v) {
    while (is_view(node_of(g, v))) v = operand(g, v, 0);
    return v;
}

/* Do all read v, through views and more sums over ranks, in the apply phase? */
static bool only_apply_reads(const Graph *g, const Uses *uses, Value v) {
    for (uint32_t e = uses->start[v]; e < uses->start[v + 1]; e++) {
        Value user = uses->use[e];
        const Node *n = node_of(g, user);
        if (n->phase == PHASE_APPLY) continue;
        bool passes = is_view(n) || n->op == OP_proj || is_gradient(g, uses, user);
        if (!passes || !only_apply_reads(g, uses, user)) return false;
    }
    return true;
}

bool is_gradient(const Graph *g, const Uses *uses, Value v) {
    const Node *n = node_of(g, v);
    if (n->op != OP_all_reduce && n->op != OP_reduce_scatter) return false;
    if (n->op == OP_all_reduce && strcmp(attr_str(n, "reduce"), "sum") != 0) return false;
    if (n->phase == PHASE_FORWARD || !dtype_is_float(collective_type(g, v, 0)->dtype)) return false;
    for (uint32_t i = 0; i < n->nin; i++)
        if (node_of(g, behind_views(g, operand(g, v, i)))->phase == PHASE_APPLY) return false;
    return only_apply_reads(g, uses, v);
}

/* Is v, behind views, assigned and nothing else? */
static bool only_assigned(const Graph *g, const Uses *uses, Value v) {
    for (uint32_t e = uses->start[v]; e < uses->start[v + 1]; e++) {
        const Node *n = node_of(g, uses->use[e]);
        if (n->op == OP_assign) continue;
        if (!is_view(n) && n->op != OP_proj) return false;
        if (!only_assigned(g, uses, uses->use[e])) return false;
    }
    return true;
}

bool is_update(const Graph *g, const Uses *uses, Value v) {
    const Node *n = node_of(g, v);
    return n->op == OP_all_gather && n->phase == PHASE_APPLY && only_assigned(g, uses, v);
}

/* ---- how much ---- */

/* By kind, group and dtype, then as they are produced. */
static int compare_members(const void *a, const void *b) {
    const Member *x = a, *y = b;
    int over = strcmp(x->over, y->over);
    if (x->op != y->op) return x->op < y->op ? -1 : 1;
    if (over) return over;
    if (x->dtype != y->dtype) return x->dtype < y->dtype ? -1 : 1;
    return (x->source > y->source) - (x->source < y->source);
}

static bool same_kind(const Member *x, const Member *y) {
    return x->op == y->op && x->over == y->over && x->dtype == y->dtype;
}

/* Bytes with which a message of members from .. to - 1 is closed. */
static int64_t message_size(const Messages *c, uint32_t from, uint32_t to) {
    int64_t sum = 0, largest = 0, splits = c->g->set.max_splits;
    for (uint32_t i = from; i < to; i++) {
        sum += c->member.p[i].bytes;
        largest = MAX(largest, c->member.p[i].bytes);
    }
    int64_t size = splits > 1 ? sum / (splits - 1) : INT64_MAX;
    bool sharded = c->member.p[from].op != OP_all_reduce;
    return sharded && c->g->set.memory ? MIN(size, largest / 2) : size;
}

/* Members from .. to - 1 of one kind, cut into messages. */
static void cut_messages(Messages *c, uint32_t from, uint32_t to) {
    int64_t held = 0, size = message_size(c, from, to);
    bool tight = c->g->set.memory && c->member.p[from].op != OP_all_reduce;
    uint32_t count = 0;
    c->nmessage++;
    for (uint32_t i = from; i < to; i++) {
        Member *x = &c->member.p[i];
        bool full = held >= size || (tight && count && held + x->bytes > size);
        if (full || count == MAX_OPERANDS) {
            c->nmessage++;
            held = 0, count = 0;
        }
        c->message[x->v] = x->message = c->nmessage;
        held += x->bytes, count++;
    }
}

static int64_t operand_bytes(const Graph *g, Value v) {
    return type_bytes(collective_type(g, v, 0));
}

static void find_messages(Messages *c) {
    Graph *g = c->g;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (!is_gradient(g, c->uses, v) && !is_update(g, c->uses, v)) continue;
        Value source = behind_views(g, operand(g, v, 0));
        Member x = {v, source, (Op)n->op, attr_str(n, "over"), n->type->dtype, operand_bytes(g, v),
                    0};
        vec_push(&c->member, x);
    }
    if (!c->member.n) return;
    qsort(c->member.p, c->member.n, sizeof *c->member.p, compare_members);
    for (uint32_t i = 0, j; i < c->member.n; i = j) {
        for (j = i; j < c->member.n && same_kind(&c->member.p[i], &c->member.p[j]);) j++;
        cut_messages(c, i, j);
    }
}

/* ---- sending them together ---- */

/* v and the views that lead to it; false: what they show is not there yet. */
static bool copy_views(Rewrite *r, Value v) {
    if (r->map[v] != NO_VALUE) return true;
    if (!is_view(node_of(r->from, v)) || !copy_views(r, operand(r->from, v, 0))) return false;
    rewrite_copy(r, v);
    return true;
}

/* One collective for all members of v's message that are there; what reads them comes behind. */
static void send_message(Messages *c, Rewrite *r, Value v) {
    Value in[MAX_OPERANDS], member[MAX_OPERANDS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->member.n; i++) {
        const Member *x = &c->member.p[i];
        if (x->message != c->message[v] || r->map[x->v] != NO_VALUE) continue;
        if (!copy_views(r, operand(r->from, x->v, 0))) continue;
        in[n] = r->map[operand(r->from, x->v, 0)];
        member[n++] = x->v;
    }
    graph_at(r->to, node_of(r->from, v));
    Value sent = graph_add(r->to, (Op)node_of(r->from, v)->op, node_of(r->from, v)->attr, n, in);
    for (uint32_t i = 0; i < n; i++) {
        Value x = n == 1 ? sent : b_proj(r->to, sent, i);
        node_of(r->to, x)->spec = node_of(r->from, member[i])->spec;
        r->map[member[i]] = x;
    }
}

/* What comes behind messages of updates, and how many of them each waits for. */
static void find_late(Messages *c, Arena *a) {
    c->late = arena_array(a, bool, c->g->node.n + 1);
    c->missing = arena_array(a, uint32_t, c->nmessage + 1);
    for (Value v = 0; v < c->g->node.n; v++) {
        const Node *n = node_of(c->g, v);
        bool update = c->message[v] && n->op == OP_all_gather;
        if (update) c->missing[c->message[v]]++;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = operand(c->g, v, i);
            c->late[v] |= c->late[x] || (c->message[x] && node_of(c->g, x)->op == OP_all_gather);
        }
    }
}

static void send_all(Messages *c, Arena *a) {
    Rewrite r = rewrite_begin(c->g, a);
    find_late(c, a);
    for (Value v = 0; v < c->g->node.n; v++) {
        uint32_t message = c->message[v];
        if (r.map[v] != NO_VALUE || c->late[v]) continue;
        if (!message)
            rewrite_copy(&r, v);
        else if (!c->missing[message] || --c->missing[message] == 0)
            send_message(c, &r, v);
    }
    for (Value v = 0; v < c->g->node.n; v++)
        if (c->late[v]) rewrite_copy(&r, v);
    rewrite_take(&r);
}

void fuse_messages(Graph *g, Arena *a) {
    Uses uses = graph_uses(g, a);
    Messages c = {.g = g, .uses = &uses, .message = arena_array(a, uint32_t, g->node.n + 1)};
    if (g->set.max_splits > 0) find_messages(&c);
    if (c.member.n) send_all(&c, a);
    vec_free(&c.member);
}
