/* schedule.c: one order of the units that keeps few bytes alive.
 *
 * List scheduling with a heap, in a few ways; the order with the smallest live sum wins, the order
 * of the graph as it came when nothing is better. The ways differ in when a ready unit runs:
 *   place  its place in the graph; "late" moves units that allocate more than they free to just
 *          before their first reader (values computed again for the backward phase);
 *   eager  units that free more than they allocate run at once, and parameter updates, whose last
 *          unit frees the gradient, as soon as their gradient is there;
 *   greedy always the unit that frees most.
 * Micro-batches stay in order: forward and backward of one before the next one begins (1F1B on one
 * device). A unit that updates a leaf waits for the other readers of the old value, so that it can
 * run in place; where these wait for each other the earliest runs first.
 *
 * Collectives run beside the compute stream. In a patient way they begin as soon as their operands
 * are there, and what reads their results waits while there is other work of its micro-batch:
 * clocks of both kinds of streams say how long. Time then counts too: ten percent of the bytes are
 * worth one of the time, and bytes above the device's budget the time of copying them.
 *
 * Stages of a pipeline have orders of their own. What they send each other is numbered in one order
 * of all, and a stage keeps to it; what all stages do together comes after what micro-batches send,
 * if that does not follow from it. So no stage waits for one that waits for it. Ranks of unequal
 * shares have orders of their own too: what they do together stays in the order of the graph, but
 * gradients travel in the order in which they are there.
 *
 * Every way is O(n log n): a unit's balance changes only when it becomes the last reader of a
 * value. Which unit that is, the xor of the waiting readers' numbers tells. */
#include "ir/storage.h"
#include "passes/machine.h"
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool late, eager, greedy, patient;
} Way;

/* What more bytes are worth in time; a machine where none was given: bytes and operations a us. */
static const double WORTH = 0.1, PLAIN_BYTES = 1e4, PLAIN_FLOPS = 1e5;

typedef struct {
    double at;       /* what it reads is there; 0 unless that lies ahead */
    uint32_t rank;   /* micro-batch and phase */
    int64_t balance; /* bytes it adds; 0 where the way does not look at it */
    uint32_t late;   /* place asked for */
    uint32_t place;  /* in the graph */
    uint32_t unit;
} Entry;

typedef struct {
    const Graph *g;
    const Units *us;
    Arena *arena;
    /* users of unit u: to[start[u]] … to[start[u + 1] - 1]; then those that wait for u only to
     * update in place */
    uint32_t *start, *to, *soft_start, *soft_to;
    uint32_t *rank, *place, *late;
    int64_t *balance; /* if nothing it reads dies */
    uint32_t *nread;  /* by value: units that read it; NO_UNIT: it never dies */
    double *price;    /* by unit, us; NULL: there are no collectives, all ways take as long */
} Plan;

/* ---- the graph of units ---- */

typedef struct {
    uint32_t from, to;
} Edge;
typedef VEC(Edge) Edges;

static void index_edges(Edges *e, uint32_t n, Arena *a, uint32_t **start, uint32_t **to) {
    *start = arena_array(a, uint32_t, n + 2);
    *to = arena_array(a, uint32_t, e->n);
    for (uint32_t i = 0; i < e->n; i++) (*start)[e->p[i].from + 2]++;
    for (uint32_t i = 2; i <= n; i++) (*start)[i] += (*start)[i - 1];
    for (uint32_t i = 0; i < e->n; i++) (*to)[(*start)[e->p[i].from + 1]++] = e->p[i].to;
    vec_free(e);
}

static const Node *first_node(const Plan *p, uint32_t u) {
    return node_of(p->g, p->us->unit[u].node[0]);
}

static bool is_transfer(const Plan *p, uint32_t u) {
    const Node *n = first_node(p, u);
    return n->op == OP_send || n->op == OP_recv;
}

/* What is in order: transfers of micro-batches by their numbers, what all stages do together, of
 * shares the gradients as they are there, and what may follow from that: the optimizer's transfers,
 * or what ranks of shares do together for it. */
typedef enum { ORDER_TRANSFER, ORDER_ALL, ORDER_GRADIENT, ORDER_APPLY } OrderKind;
typedef struct {
    OrderKind kind;
    int64_t number;
    uint32_t unit;
} Ordered;

static int by_number(const void *a, const void *b) {
    const Ordered *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static OrderKind order_of(const Plan *p, uint32_t u) {
    if (!is_transfer(p, u)) return ORDER_ALL;
    return first_node(p, u)->phase == PHASE_APPLY ? ORDER_APPLY : ORDER_TRANSFER;
}

/* Marks the units that a micro-batch's transfer follows from: reads go to earlier nodes only. */
static void mark_before(const Plan *p, bool *before) {
    for (Value v = p->g->node.n; v-- > 0;) {
        uint32_t u = p->us->of[v];
        if (u == NO_UNIT || !(before[u] || order_of(p, u) == ORDER_TRANSFER)) continue;
        for (uint32_t i = 0; i < p->us->unit[u].nread; i++)
            if (p->us->of[p->us->unit[u].read[i]] != NO_UNIT)
                before[p->us->of[p->us->unit[u].read[i]]] = true;
    }
}

/* The axis along which ranks have orders of their own, or NULL: that of the first transfer's group,
 * or of shares. */
static const char *axis_of_orders(const Plan *p) {
    for (uint32_t u = 0; u < p->us->n; u++)
        if (is_transfer(p, u)) return attr_str(first_node(p, u), "over");
    return p->g->set.shares.n ? MESH_DATA : NULL;
}

/* Gradients: sums over ranks that only updates wait for. */
static bool *find_gradients(const Plan *p) {
    bool *gradient = arena_array(p->arena, bool, p->us->n + 1);
    for (uint32_t u = 0; u < p->us->n; u++) gradient[u] = first_node(p, u)->op == OP_all_reduce;
    for (uint32_t u = 0; u < p->us->n; u++) {
        const Unit *unit = &p->us->unit[u];
        if (first_node(p, u)->phase == PHASE_APPLY) gradient[u] = false;
        for (uint32_t i = 0; first_node(p, u)->phase != PHASE_APPLY && i < unit->nread; i++)
            if (p->us->of[unit->read[i]] != NO_UNIT) gradient[p->us->of[unit->read[i]]] = false;
    }
    return gradient;
}

/* Where the last of what a unit reads stands in the graph. */
static int64_t last_read(const Plan *p, uint32_t u) {
    Value last = 0;
    for (uint32_t i = 0; i < p->us->unit[u].nread; i++) last = MAX(last, p->us->unit[u].read[i]);
    return last;
}

/* Of shares, whose graphs differ in a few nodes only, the same in all. */
static Ordered ordered(const Plan *p, const bool *gradient, Value v) {
    uint32_t u = p->us->of[v];
    const Node *n = node_of(p->g, v);
    if (is_transfer(p, u)) return (Ordered){order_of(p, u), attr_int(n, "tag"), u};
    if (!p->g->set.shares.n) return (Ordered){ORDER_ALL, v, u};
    if (gradient[u])
        return (Ordered){ORDER_GRADIENT, last_read(p, u) * (int64_t)p->g->node.n + v, u};
    return (Ordered){n->phase == PHASE_APPLY ? ORDER_APPLY : ORDER_ALL, v, u};
}

static void chain_transfers(const Plan *p, Edges *hard) {
    VEC(Ordered) t = {0};
    const char *axis = axis_of_orders(p);
    if (!axis) return;
    bool *before = arena_array(p->arena, bool, p->us->n + 1);
    const bool *gradient = find_gradients(p);
    mark_before(p, before);
    for (Value v = 0; v < p->g->node.n; v++) {
        const Node *n = node_of(p->g, v);
        uint32_t u = p->us->of[v];
        if (!is_collective(n) || !mesh_group_has(attr_str(n, "over"), axis)) continue;
        if (before[u] && !is_transfer(p, u)) continue;
        vec_push(&t, ordered(p, gradient, v));
    }
    qsort(t.p, t.n, sizeof *t.p, by_number);
    for (uint32_t i = 1; i < t.n; i++) vec_push(hard, ((Edge){t.p[i - 1].unit, t.p[i].unit}));
    vec_free(&t);
}

static void find_edges(Plan *p) {
    const Graph *g = p->g;
    const Units *us = p->us;
    Edges hard = {0}, soft = {0};
    uint32_t *updates = arena_array(p->arena, uint32_t, g->node.n); /* by leaf: unit + 1 */
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_assign) {
            uint32_t u = us->of[view_base(g, operand(g, v, 1))];
            if (u != NO_UNIT) updates[operand(g, v, 0)] = u + 1;
        }
    for (uint32_t u = 0; u < us->n; u++)
        for (uint32_t i = 0; i < us->unit[u].nread; i++) {
            Value v = us->unit[u].read[i];
            uint32_t from = us->of[v];
            if (from != NO_UNIT) vec_push(&hard, ((Edge){from, u}));
            if (from == NO_UNIT && updates[v] && updates[v] != u + 1)
                vec_push(&soft, ((Edge){u, updates[v] - 1}));
        }
    chain_transfers(p, &hard);
    index_edges(&hard, us->n, p->arena, &p->start, &p->to);
    index_edges(&soft, us->n, p->arena, &p->soft_start, &p->soft_to);
}

/* A unit ranks with its micro-batch and phase, or earlier when something of an earlier rank needs
 * it (the number of targets of all micro-batches); one of no micro-batch with the first that needs
 * it, or else with the last it waits for. So no unit ranks before one it waits for. */
static void find_ranks(Plan *p, const uint32_t *at) {
    for (uint32_t i = p->us->n; i-- > 0;) {
        uint32_t u = at[i];
        const Node *n = node_of(p->g, p->us->unit[u].node[0]);
        p->rank[u] = NO_UNIT;
        if (n->micro >= 0) p->rank[u] = 2 * (uint32_t)n->micro + (n->phase != PHASE_FORWARD);
        for (uint32_t e = p->start[u]; e < p->start[u + 1]; e++)
            p->rank[u] = MIN(p->rank[u], p->rank[p->to[e]]);
    }
    uint32_t *last = arena_array(p->arena, uint32_t, p->us->n + 1);
    for (uint32_t i = 0; i < p->us->n; i++) {
        uint32_t u = at[i];
        if (p->rank[u] == NO_UNIT) p->rank[u] = last[u];
        for (uint32_t e = p->start[u]; e < p->start[u + 1]; e++)
            last[p->to[e]] = MAX(last[p->to[e]], p->rank[u]);
    }
}

static bool is_leaf_or_kept(const Plan *p, Value v) { return p->nread[v] == NO_UNIT; }

static int64_t bytes_of(const Plan *p, Value v) { return type_bytes(type_of(p->g, v)); }

/* Readers of each value; what each unit allocates. What is assigned goes into its leaf. */
static void find_balances(Plan *p) {
    const Graph *g = p->g;
    const Units *us = p->us;
    for (uint32_t u = 0; u < us->n; u++)
        for (uint32_t i = 0; i < us->unit[u].nread; i++) p->nread[us->unit[u].read[i]]++;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->nin == 0) p->nread[v] = NO_UNIT;
        if (is_effect(n)) p->nread[view_base(g, operand(g, v, n->op == OP_assign))] = NO_UNIT;
    }
    for (uint32_t u = 0; u < us->n; u++)
        for (uint32_t i = 0; i < us->unit[u].nwrite; i++) {
            Value w = us->unit[u].write[i];
            if (!is_leaf_or_kept(p, w)) p->balance[u] += bytes_of(p, w);
        }
}

/* A unit whose readers are the only ones that gain from it runs just before the first of them,
 * unless it frees something itself. */
static void find_late_places(Plan *p, const uint32_t *at) {
    for (uint32_t i = p->us->n; i-- > 0;) {
        uint32_t u = at[i], first = NO_UNIT;
        const Unit *unit = &p->us->unit[u];
        int64_t frees = 0;
        for (uint32_t k = 0; k < unit->nread; k++)
            if (p->nread[unit->read[k]] == 1) frees += bytes_of(p, unit->read[k]);
        for (uint32_t e = p->start[u]; e < p->start[u + 1]; e++)
            first = MIN(first, p->late[p->to[e]]);
        p->late[u] = first != NO_UNIT && frees < p->balance[u] ? first : p->place[u];
    }
}

/* ---- the heap ---- */

static bool before(const Entry *a, const Entry *b) {
    if (a->at != b->at) return a->at < b->at;
    if (a->rank != b->rank) return a->rank < b->rank;
    if (a->balance != b->balance) return a->balance < b->balance;
    if (a->late != b->late) return a->late < b->late;
    return a->place < b->place;
}

typedef VEC(Entry) Heap;

static void heap_push(Heap *h, Entry e) {
    vec_push(h, e);
    uint32_t i = h->n - 1;
    for (; i && before(&e, &h->p[(i - 1) / 2]); i = (i - 1) / 2) h->p[i] = h->p[(i - 1) / 2];
    h->p[i] = e;
}

static Entry heap_pop(Heap *h) {
    Entry top = h->p[0], e = h->p[--h->n];
    uint32_t i = 0;
    for (uint32_t c; (c = 2 * i + 1) < h->n; i = c) {
        if (c + 1 < h->n && before(&h->p[c + 1], &h->p[c])) c++;
        if (!before(&h->p[c], &e)) break;
        h->p[i] = h->p[c];
    }
    if (h->n) h->p[i] = e;
    return top;
}

/* ---- one way of scheduling ---- */

typedef struct {
    const Plan *p;
    Way way;
    Heap ready, blocked;   /* blocked: waits only to update in place */
    Heap ahead;            /* waits for a collective */
    uint32_t *hard, *soft; /* by unit: what it still waits for */
    int64_t *balance;
    uint32_t *readers, *last; /* by value: waiting readers, and the xor of their numbers */
    bool *done;
    double clock, lane[COMM_STREAMS]; /* when each stream is through with what it has */
    double *there;                    /* by unit: when its results are */
} Run;

static int lane_of(const Plan *p, uint32_t u) {
    return node_of(p->g, p->us->unit[u].node[0])->stream - STREAM_COMM;
}

/* When all that u reads is there. */
static double readable(const Run *r, uint32_t u) {
    const Units *us = r->p->us;
    double at = 0;
    for (uint32_t i = 0; i < us->unit[u].nread; i++) {
        uint32_t from = us->of[us->unit[u].read[i]];
        if (from != NO_UNIT) at = MAX(at, r->there[from]);
    }
    return at;
}

static void take_time(Run *r, uint32_t u) {
    int lane = lane_of(r->p, u);
    double *end = lane < 0 ? &r->clock : &r->lane[lane];
    r->there[u] = *end = MAX(MAX(*end, readable(r, u)), lane < 0 ? 0 : r->clock) + r->p->price[u];
}

/* A collective of what was computed here begins at once. */
static bool begins_at_once(const Run *r, uint32_t u) {
    const Units *us = r->p->us;
    if (!r->way.patient || lane_of(r->p, u) < 0) return false;
    for (uint32_t i = 0; i < us->unit[u].nread; i++)
        if (us->of[us->unit[u].read[i]] != NO_UNIT) return true;
    return false;
}

/* Of an update, or what only updates read of a gradient: its cast to f32. */
static bool is_update(const Plan *p, uint32_t u) {
    const Node *n = first_node(p, u);
    if (n->phase == PHASE_APPLY) return true;
    bool all = p->start[u] < p->start[u + 1] && (op_info(n->op)->flags & OPF_EW);
    for (uint32_t e = p->start[u]; all && e < p->start[u + 1]; e++)
        all = first_node(p, p->to[e])->phase == PHASE_APPLY;
    return all;
}

static int64_t worth_of(const Run *r, uint32_t u) {
    int64_t b = r->balance[u];
    if (r->way.greedy) return b;
    return r->way.eager ? MIN(b, is_update(r->p, u) ? -1 : 0) : 0;
}

static void offer(Run *r, uint32_t u) {
    const Plan *p = r->p;
    if (r->done[u] || r->hard[u]) return;
    double at = r->way.patient ? readable(r, u) : 0;
    if (begins_at_once(r, u)) {
        heap_push(&r->ready, (Entry){.rank = p->rank[u], .balance = INT64_MIN, .unit = u});
        return;
    }
    Entry e = {.at = at > r->clock ? at : 0,
               .rank = p->rank[u],
               .balance = worth_of(r, u),
               .late = r->way.late ? p->late[u] : p->place[u],
               .place = p->place[u],
               .unit = u};
    heap_push(e.at > 0 ? &r->ahead : r->soft[u] ? &r->blocked : &r->ready, e);
}

static void last_reader(Run *r, Value v) {
    if (is_leaf_or_kept(r->p, v) || r->readers[v] != 1) return;
    uint32_t u = r->last[v];
    r->balance[u] -= bytes_of(r->p, v);
    offer(r, u);
}

static void run_unit(Run *r, uint32_t u) {
    const Plan *p = r->p;
    const Unit *unit = &p->us->unit[u];
    r->done[u] = true;
    for (uint32_t e = p->start[u]; e < p->start[u + 1]; e++)
        if (--r->hard[p->to[e]] == 0) offer(r, p->to[e]);
    for (uint32_t e = p->soft_start[u]; e < p->soft_start[u + 1]; e++)
        if (--r->soft[p->soft_to[e]] == 0) offer(r, p->soft_to[e]);
    for (uint32_t i = 0; i < unit->nread; i++) {
        Value v = unit->read[i];
        r->readers[v]--;
        r->last[v] ^= u;
        last_reader(r, v);
    }
}

static void start_run(Run *r) {
    const Plan *p = r->p;
    uint32_t n = p->us->n;
    for (uint32_t u = 0; u < n; u++) {
        for (uint32_t e = p->start[u]; e < p->start[u + 1]; e++) r->hard[p->to[e]]++;
        for (uint32_t e = p->soft_start[u]; e < p->soft_start[u + 1]; e++) r->soft[p->soft_to[e]]++;
        r->balance[u] = p->balance[u];
        for (uint32_t i = 0; i < p->us->unit[u].nread; i++) {
            r->readers[p->us->unit[u].read[i]]++;
            r->last[p->us->unit[u].read[i]] ^= u;
        }
    }
    for (Value v = 0; v < p->g->node.n; v++) last_reader(r, v);
    for (uint32_t u = 0; u < n; u++) offer(r, u);
}

/* Time passes where nothing is ready, or only what belongs to a later micro-batch. */
static void look_ahead(Run *r) {
    while (r->ahead.n) {
        const Entry *first = &r->ahead.p[0];
        bool work = r->ready.n && r->ready.p[0].rank <= first->rank;
        if (first->at > r->clock && work) return;
        r->clock = MAX(r->clock, first->at);
        offer(r, heap_pop(&r->ahead).unit);
    }
}

static double run_time(const Run *r) {
    double us = r->clock;
    for (int i = 0; i < COMM_STREAMS; i++) us = MAX(us, r->lane[i]);
    return us;
}

static void say_unit(const Plan *p, uint32_t u, Buf *out) {
    const Node *n = first_node(p, u);
    buf_printf(out, "%%%u %s", p->us->unit[u].node[0], op_info((Op)n->op)->name);
    if (n->scope[0]) buf_printf(out, " of %s", n->scope);
}

/* Whatever did not run waits for something that did not run: from any unit the way back comes to
 * some that wait for each other. */
static noreturn void no_order(const Run *r) {
    const Plan *p = r->p;
    uint32_t *on = arena_array(p->arena, uint32_t, p->us->n + 1), u = 0;
    Buf text = {0};
    for (uint32_t w = 0; w < p->us->n; w++)
        for (uint32_t e = p->start[w]; e < p->start[w + 1] && !r->done[w]; e++) on[p->to[e]] = w;
    while (r->done[u]) u++;
    for (uint32_t i = 0; i < p->us->n; i++) u = on[u];
    say_unit(p, u, &text);
    for (uint32_t w = on[u];; w = on[w]) {
        buf_puts(&text, " waits for ");
        say_unit(p, w, &text);
        if (w == u) break;
    }
    BUG("no order of the units: %s", text.p);
}

/* when[u] from 1; *us is the time it takes, where the plan knows. */
static uint32_t *schedule(const Plan *p, Way way, double *us) {
    uint32_t n = p->us->n, *when = arena_array(p->arena, uint32_t, n + 1), time = 1;
    Run r = {.p = p,
             .way = way,
             .hard = arena_array(p->arena, uint32_t, n + 1),
             .soft = arena_array(p->arena, uint32_t, n + 1),
             .balance = arena_array(p->arena, int64_t, n + 1),
             .readers = arena_array(p->arena, uint32_t, p->g->node.n + 1),
             .last = arena_array(p->arena, uint32_t, p->g->node.n + 1),
             .done = arena_array(p->arena, bool, n + 1),
             .there = arena_array(p->arena, double, n + 1)};
    start_run(&r);
    for (;;) {
        look_ahead(&r);
        if (!r.ready.n && !r.blocked.n) break;
        uint32_t u = heap_pop(r.ready.n ? &r.ready : &r.blocked).unit;
        if (r.done[u]) continue; /* offered again since */
        when[u] = time++;
        if (p->price) take_time(&r, u);
        run_unit(&r, u);
    }
    if (time <= n) no_order(&r);
    *us = run_time(&r);
    vec_free(&r.ahead);
    vec_free(&r.ready);
    vec_free(&r.blocked);
    return when;
}

/* ---- the order of nodes ---- */

typedef struct {
    const Graph *g;
    const Units *us;
    Value *order;
    uint32_t n;
    bool *put;
    VEC(Value) chain;
} Emit;

/* v and the views and leaves without a unit that it needs. A view has one operand, so the way up is
 * a chain. */
static void emit_loose(Emit *e, Value v) {
    for (; !e->put[v] && e->us->of[v] == NO_UNIT; v = operand(e->g, v, 0)) {
        vec_push(&e->chain, v);
        if (node_of(e->g, v)->nin == 0) break;
    }
    while (e->chain.n) {
        Value w = e->chain.p[--e->chain.n];
        if (!e->put[w]) e->order[e->n++] = w;
        e->put[w] = true;
    }
}

/* A view of a value of the unit itself stands between its nodes. */
static void emit_unit(Emit *e, const Unit *unit) {
    for (uint32_t k = 0; k < unit->nnode; k++) {
        Value v = unit->node[k];
        for (uint32_t i = 0; i < node_of(e->g, v)->nin; i++) emit_loose(e, operand(e->g, v, i));
        e->order[e->n++] = v;
        e->put[v] = true;
    }
}

/* Units as scheduled; what belongs to none just before its first user, effects last. */
static Value *node_order(const Plan *p, const uint32_t *when) {
    const Graph *g = p->g;
    const Units *us = p->us;
    Emit e = {.g = g,
              .us = us,
              .order = arena_array(p->arena, Value, g->node.n),
              .put = arena_array(p->arena, bool, g->node.n)};
    uint32_t *at = arena_array(p->arena, uint32_t, us->n + 2);
    for (uint32_t u = 0; u < us->n; u++) at[when[u]] = u;
    for (uint32_t t = 1; t <= us->n; t++) emit_unit(&e, &us->unit[at[t]]);
    for (Value v = 0; v < g->node.n; v++) {
        if (e.put[v]) continue;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) emit_loose(&e, operand(g, v, i));
        e.order[e.n++] = v;
        e.put[v] = true;
    }
    vec_free(&e.chain);
    ASSERT(e.n == g->node.n);
    return e.order;
}

/* The units so that each stands behind those it reads. Their first nodes do not tell: a unit may
 * have nodes on both sides of another one. */
static uint32_t *legal_order(const Plan *p) {
    uint32_t *at = arena_array(p->arena, uint32_t, p->us->n + 1);
    double time;
    const uint32_t *when = schedule(p, (Way){false, false, false, false}, &time);
    for (uint32_t u = 0; u < p->us->n; u++) at[when[u] - 1] = u;
    return at;
}

static double unit_us(const Graph *g, const Units *us, uint32_t u, const Machine *m) {
    Work w = unit_work(g, us, u);
    if (m) return cost_us(m, &w);
    return w.comm.ranks ? w.comm.bytes / PLAIN_BYTES
                        : MAX(w.bytes / PLAIN_BYTES, w.flops / PLAIN_FLOPS);
}

/* Prices, if there are collectives: only then does time depend on the order. */
static void find_prices(Plan *p, const Machine *m) {
    bool any = false;
    for (uint32_t u = 0; u < p->us->n && !any; u++) any = lane_of(p, u) >= 0;
    if (!any) return;
    p->price = arena_array(p->arena, double, p->us->n + 1);
    for (uint32_t u = 0; u < p->us->n; u++) p->price[u] = unit_us(p->g, p->us, u, m);
}

typedef struct {
    uint32_t *when;
    int64_t bytes;
    double us;
} Order;

/* What a byte above the device's budget costs: it leaves and comes back. */
static double us_a_byte_over(const Graph *g, const Machine *m) {
    Work out = {.what = "copy_start", .copy = true, .from = MEM_DEVICE, .to = MEM_HOST};
    out.bytes = 1e9;
    Work in = out;
    in.from = MEM_HOST, in.to = MEM_DEVICE;
    return g->set.memory && m ? (cost_us(m, &out) + cost_us(m, &in)) / out.bytes : 0;
}

/* Of equal ones the first. */
static const Order *best_order(const Order *o, size_t n) {
    Order least = {.bytes = INT64_MAX, .us = INFINITY};
    const Order *best = NULL;
    double price, lowest = INFINITY;
    for (size_t i = 0; i < n; i++) {
        least.bytes = MIN(least.bytes, o[i].bytes);
        least.us = MIN(least.us, o[i].us);
    }
    for (size_t i = 0; i < n; i++) {
        price = WORTH * (double)o[i].bytes / (double)MAX(least.bytes, 1);
        if (least.us > 0) price += o[i].us / least.us;
        if (!best || price < lowest) best = &o[i], lowest = price;
    }
    return best;
}

bool pass_schedule(Graph *g, PassContext *cx) {
    static const Way ways[] = {{false, false, false, false}, {false, true, false, false},
                               {true, true, false, false},   {true, false, false, false},
                               {false, false, true, false},  {false, false, false, true},
                               {false, true, false, true},   {true, true, false, true},
                               {true, false, false, true},   {false, false, true, true}};
    Order order[COUNT(ways)];
    Arena *a = cx->scratch;
    Units us = units_build(g, a);
    Plan p = {.g = g,
              .us = &us,
              .arena = a,
              .rank = arena_array(a, uint32_t, us.n + 1),
              .late = arena_array(a, uint32_t, us.n + 1),
              .balance = arena_array(a, int64_t, us.n + 1),
              .nread = arena_array(a, uint32_t, g->node.n + 1)};
    if (!units_complete(g, &us)) return false;
    p.place = units_when(g, &us, a);
    find_edges(&p);
    find_balances(&p);
    const uint32_t *at = legal_order(&p);
    find_ranks(&p, at);
    find_late_places(&p, at);
    find_prices(&p, cx->machine);
    size_t tried = p.price ? COUNT(ways) : COUNT(ways) / 2;
    double over = us_a_byte_over(g, cx->machine);
    for (size_t i = 0; i < tried; i++) {
        order[i].when = schedule(&p, ways[i], &order[i].us);
        order[i].bytes = slots_build(g, &us, order[i].when, a).bound[MEM_DEVICE];
        order[i].us += over * (double)MAX(order[i].bytes - g->set.memory, 0);
    }
    graph_reorder(g, node_order(&p, best_order(order, tried)->when));
    return true;
}
