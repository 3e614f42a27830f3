/* fuse.c: nodes of one iteration space become one kernel.
 *
 * Greedy, in topological order: a node joins the group of an operand, or else a group that reads
 * the same bytes, when it fits the group's Space and no path leaves the group and comes back.
 * Afterwards groups of its other operands are merged in. The search for such paths walks groups
 * backwards, prunes those that end before the target begins, and gives up (no fusion) after a fixed
 * number of steps: near linear in the graph. A group ends (`end`) at the last node of it and of all
 * groups it depends on: when a node joins a group that others already read, their ends move too.
 * Groups do not span phases or micro-batches. */
#include "ir/storage.h"
#include "passes/fuse.h"

enum {
    SEARCH_LIMIT = 256,
    MAX_CANDIDATES = 8,
    SMALL = 65536,
    SIDE_NODES = 32,
    SHAPES = 64,
    DOWNSTREAM = 32
};

typedef struct {
    Space space;
    Value first, last; /* members, ascending; first is NO_VALUE when empty */
    Value end;         /* last member of this group and of those it depends on */
    Value waits;       /* the last all_to_all that a member follows from, + 1; 0: none */
    Value message;     /* the last collective that sends a member, + 1; 0: none */
    uint32_t seen;     /* stamp of the last search */
} Group;

typedef struct {
    Graph *g;
    Group *group;           /* by id, from 1 */
    Value *next;            /* member after this one in its group, or NO_VALUE */
    uint32_t *reader;       /* by value: the last fusable group that reads its bytes, 0: none */
    uint32_t small[SHAPES]; /* by hash of the size: the last group of few elements */
    uint32_t *stack;
    uint32_t stamp;
    Uses uses;
    Value now;      /* nodes after this one are in no group yet */
    uint16_t *rank; /* by value: the first micro-batch and phase that needs it */
    bool *early;    /* by value: a number that no data of the step goes into */
    Value *waits;   /* by value: the last all_to_all that it follows from, + 1; 0: none */
    Value *message; /* by value: the collective that sends it, + 1; 0: none */
} Fuse;

/* ---- cycles ---- */

static uint32_t group_of(const Graph *g, Value v) {
    if (node_of(g, v)->op == OP_proj) v = operand(g, v, 0);
    return node_of(g, v)->group;
}

/* Pushes the groups that v reads. */
static uint32_t push_operands(Fuse *f, Value v, Value after, uint32_t top) {
    for (uint32_t i = 0; i < node_of(f->g, v)->nin; i++) {
        uint32_t h = group_of(f->g, view_base(f->g, operand(f->g, v, i)));
        if (h == 0 || f->group[h].seen == f->stamp || f->group[h].end < after) continue;
        f->group[h].seen = f->stamp;
        if (top < SEARCH_LIMIT) f->stack[top] = h;
        top++;
    }
    return top;
}

/* Is there a path from group `target` to the stacked groups through groups not yet seen? */
static bool reaches(Fuse *f, uint32_t target, uint32_t top) {
    Value after = f->group[target].first;
    for (uint32_t steps = 0; top > 0; steps++) {
        if (steps == SEARCH_LIMIT || top > SEARCH_LIMIT) return true;
        uint32_t h = f->stack[--top];
        if (h == target) return true;
        for (Value m = f->group[h].first; m != NO_VALUE; m = f->next[m])
            top = push_operands(f, m, after, top);
    }
    return false;
}

/* Would v in group `gid` close a cycle: does an operand outside depend on the group? */
static bool joins_cycle(Fuse *f, uint32_t gid, Value v) {
    f->stamp++;
    f->group[gid].seen = f->stamp; /* direct operands in the group are fine */
    uint32_t top = push_operands(f, v, f->group[gid].first, 0);
    f->group[gid].seen = 0;
    return reaches(f, gid, top);
}

/* A path from `from` to `to` through other groups. */
static bool path_between(Fuse *f, uint32_t from, uint32_t to) {
    uint32_t top = 0;
    f->stamp++;
    f->group[from].seen = f->group[to].seen = f->stamp;
    for (Value m = f->group[to].first; m != NO_VALUE; m = f->next[m])
        top = push_operands(f, m, f->group[from].first, top);
    f->group[from].seen = 0;
    return reaches(f, from, top);
}

/* ---- where groups end ---- */

typedef struct {
    uint32_t group[DOWNSTREAM];
    uint32_t n;
    Value end;
} Later;

/* Adds the groups that read v, also through views, and end before l->end. False: too many. */
static bool add_readers(Fuse *f, Later *l, Value v) {
    for (uint32_t i = f->uses.start[v]; i < f->uses.start[v + 1]; i++) {
        Value user = f->uses.use[i];
        if (user > f->now) continue;
        uint32_t h = group_of(f->g, user);
        if (h == 0 && !add_readers(f, l, user)) return false;
        bool known = h == 0 || f->group[h].first == NO_VALUE || f->group[h].seen == f->stamp;
        if (known || f->group[h].end >= l->end) continue;
        if (l->n == DOWNSTREAM) return false;
        f->group[h].seen = f->stamp;
        l->group[l->n++] = h;
    }
    return true;
}

/* Group gid is about to end at `end`: so do all that depend on it. False, and nothing is changed,
 * when these are many: then the graph between the group and the node that wants to join it is not
 * worth one launch less. */
static bool raise_end(Fuse *f, uint32_t gid, Value end) {
    Later l = {.group = {gid}, .n = 1, .end = end};
    f->stamp++;
    f->group[gid].seen = f->stamp;
    for (uint32_t i = 0; i < l.n; i++)
        for (Value m = f->group[l.group[i]].first; m != NO_VALUE; m = f->next[m])
            if (!add_readers(f, &l, m)) return false;
    for (uint32_t i = 0; i < l.n; i++)
        f->group[l.group[i]].end = MAX(f->group[l.group[i]].end, end);
    return true;
}

/* The end that v brings to its group: v's own, or a later one of a group it reads. */
static Value end_of(const Fuse *f, Value v) {
    Value end = v;
    for (uint32_t i = 0; i < node_of(f->g, v)->nin; i++) {
        uint32_t h = group_of(f->g, view_base(f->g, operand(f->g, v, i)));
        if (h && f->group[h].first != NO_VALUE) end = MAX(end, f->group[h].end);
    }
    return end;
}

/* ---- membership ---- */

static void append(Fuse *f, uint32_t gid, Value v) {
    Group *G = &f->group[gid];
    node_of(f->g, v)->group = gid;
    G->waits = G->first == NO_VALUE ? f->waits[v] : MAX(G->waits, f->waits[v]);
    G->message = G->first == NO_VALUE ? f->message[v] : MAX(G->message, f->message[v]);
    if (G->first == NO_VALUE)
        G->first = v;
    else
        f->next[G->last] = v;
    G->last = v;
    f->next[v] = NO_VALUE;
}

/* A group that v reads nothing of must keep its size. */
static bool join(Fuse *f, uint32_t gid, Value v, bool reads) {
    Space s = f->group[gid].space;
    if (!space_add(&s, f->g, gid, v) || joins_cycle(f, gid, v)) return false;
    if (!reads && s.n != f->group[gid].space.n) return false;
    if (!raise_end(f, gid, end_of(f, v))) return false;
    f->group[gid].space = s;
    append(f, gid, v);
    return true;
}

/* All members of a and b, ascending, as a linked list from the returned head. */
static Value merged_list(Fuse *f, uint32_t a, uint32_t b) {
    Value x = f->group[a].first, y = f->group[b].first, head = NO_VALUE, *tail = &head;
    while (x != NO_VALUE || y != NO_VALUE) {
        Value *least = y == NO_VALUE || (x != NO_VALUE && x < y) ? &x : &y;
        Value v = *least;
        *least = f->next[v];
        *tail = v;
        tail = &f->next[v];
    }
    *tail = NO_VALUE;
    return head;
}

static void relabel(Fuse *f, const Value *member, uint32_t n, uint32_t gid) {
    f->group[gid].first = NO_VALUE;
    for (uint32_t i = 0; i < n; i++) append(f, gid, member[i]);
}

static uint32_t list_members(const Fuse *f, uint32_t gid, Value *out) {
    uint32_t n = 0;
    for (Value m = f->group[gid].first; m != NO_VALUE; m = f->next[m]) out[n++] = m;
    return n;
}

/* Group b becomes part of a, if their members fit one space and no path runs between them. */
static bool merge(Fuse *f, uint32_t a, uint32_t b) {
    Space s = {0};
    Value mine[SPACE_NODES + 1], other[SPACE_NODES + 1];
    if (f->group[a].space.n != f->group[b].space.n) return false;
    if (f->group[a].space.nodes + f->group[b].space.nodes > SPACE_NODES) return false;
    if (path_between(f, a, b) || path_between(f, b, a)) return false;
    Value end = MAX(f->group[a].end, f->group[b].end);
    if (!raise_end(f, a, end) || !raise_end(f, b, end)) return false;
    uint32_t na = list_members(f, a, mine), nb = list_members(f, b, other);
    Value head = merged_list(f, a, b);
    bool ok = true;
    for (uint32_t i = 0; i < nb; i++) node_of(f->g, other[i])->group = a;
    for (Value m = head; ok && m != NO_VALUE; m = f->next[m]) ok = space_add(&s, f->g, a, m);
    if (!ok) {
        relabel(f, mine, na, a);
        relabel(f, other, nb, b);
        return false;
    }
    f->group[a].space = s;
    f->group[a].first = head;
    f->group[a].last = MAX(f->group[a].last, f->group[b].last);
    f->group[a].waits = MAX(f->group[a].waits, f->group[b].waits);
    f->group[a].message = MAX(f->group[a].message, f->group[b].message);
    f->group[b].first = NO_VALUE;
    f->group[b].last = f->group[b].end = 0;
    return true;
}

/* ---- candidates ---- */

/* What an earlier micro-batch needs must not wait for what it does not need; nor must the learning
 * rate wait for a norm of all gradients, and with it every update. */
static bool same_place(const Fuse *f, Value a, Value b) {
    const Node *x = node_of(f->g, a), *y = node_of(f->g, b);
    return x->phase == y->phase && x->micro == y->micro && f->rank[a] == f->rank[b] &&
           f->early[a] == f->early[b];
}

static bool *early_numbers(const Graph *g, Arena *scratch) {
    bool *early = arena_array(scratch, bool, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++) {
        early[v] = type_elements(type_of(g, v)) == 1;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) early[v] &= early[operand(g, v, i)];
    }
    return early;
}

/* The first micro-batch and phase that needs each value: the count of all targets, which all
 * micro-batches divide by, is wanted before the first backward phase. */
static uint16_t *first_ranks(const Graph *g, Arena *scratch) {
    uint16_t *rank = arena_array(scratch, uint16_t, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        bool forward = n->phase == PHASE_FORWARD;
        rank[v] = n->micro < 0 ? UINT16_MAX : (uint16_t)(2 * n->micro + !forward);
    }
    for (Value v = g->node.n; v-- > 0;)
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            rank[operand(g, v, i)] = MIN(rank[operand(g, v, i)], rank[v]);
    return rank;
}

static Value *last_exchanges(const Graph *g, Arena *scratch) {
    Value *waits = arena_array(scratch, Value, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op == OP_all_to_all) waits[v] = v + 1;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
            waits[v] = MAX(waits[v], waits[operand(g, v, i)]);
    }
    return waits;
}

/* Gradients that travel together (collectives_messages.c) have one. */
static Value *messages(const Graph *g, Arena *scratch) {
    Value *message = arena_array(scratch, Value, g->node.n + 1);
    for (Value v = 0; v < g->node.n; v++)
        for (uint32_t i = 0; is_collective(node_of(g, v)) && i < node_of(g, v)->nin; i++)
            message[view_base(g, operand(g, v, i))] = v + 1;
    return message;
}

static int add_candidate(const Fuse *f, uint32_t *out, int n, uint32_t gid, Value v) {
    if (gid == 0 || f->group[gid].first == NO_VALUE || n == MAX_CANDIDATES) return n;
    if (f->group[gid].space.n == 0 || !same_place(f, f->group[gid].first, v)) return n;
    for (int i = 0; i < n; i++)
        if (out[i] == gid) return n;
    out[n] = gid;
    return n + 1;
}

/* A group beside v: one that v need not join, and that should not become too large for what must.
 * Neither may have to wait for an exchange of the other's: pieces of it are to overlap. Nor may a
 * message of gradients wait for what a later one sends. */
static int add_beside(const Fuse *f, uint32_t *out, int n, uint32_t gid, Value v) {
    const Group *G = &f->group[gid];
    bool sent = G->message && f->message[v] && G->message != f->message[v];
    bool apart = G->space.nodes >= SIDE_NODES || G->waits != f->waits[v] || sent;
    return apart ? n : add_candidate(f, out, n, gid, v);
}

/* Elements that v goes over. */
static int64_t work_size(const Graph *g, Value v) {
    int64_t n = type_elements(type_of(g, v));
    if (op_info(node_of(g, v)->op)->flags & OPF_REDUCE)
        n = MAX(n, type_elements(type_of(g, operand(g, v, 0))));
    return n;
}

/* Groups that compute an operand of v first (*nproducers of them); then groups that read one; then
 * one of the same few elements, to have fewer kernels. */
static int candidates(const Fuse *f, Value v, uint32_t *out, int *nproducers) {
    const Graph *g = f->g;
    int n = 0;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++)
        n = add_candidate(f, out, n, group_of(g, view_base(g, operand(g, v, i))), v);
    *nproducers = n;
    for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
        Value b = view_base(g, operand(g, v, i));
        bool bytes = node_of(g, b)->op != OP_constant && node_of(g, b)->op != OP_iota;
        if (bytes && type_elements(type_of(g, b)) >= type_elements(type_of(g, v)))
            n = add_beside(f, out, n, f->reader[b], v);
    }
    uint32_t small = f->small[work_size(g, v) % SHAPES];
    if (f->group[small].space.n == work_size(g, v) && work_size(g, v) <= SMALL)
        n = add_beside(f, out, n, small, v);
    return n;
}

static void note_reads(Fuse *f, Value v) {
    for (uint32_t i = 0; i < node_of(f->g, v)->nin; i++)
        f->reader[view_base(f->g, operand(f->g, v, i))] = node_of(f->g, v)->group;
    if (work_size(f->g, v) <= SMALL)
        f->small[work_size(f->g, v) % SHAPES] = node_of(f->g, v)->group;
}

static void fuse_node(Fuse *f, Value v) {
    uint32_t own = node_of(f->g, v)->group, list[MAX_CANDIDATES];
    int nproducers, n = candidates(f, v, list, &nproducers), joined = -1;
    f->group[own].first = NO_VALUE;
    f->now = v;
    for (int i = 0; i < n && joined < 0; i++)
        if (join(f, list[i], v, i < nproducers)) joined = i;
    if (joined < 0) {
        append(f, own, v);
        f->group[own].end = end_of(f, v);
        if (!space_add(&f->group[own].space, f->g, own, v)) BUG("%%%u fits no kernel", v);
    } else {
        for (int i = 0; i < nproducers; i++)
            if (i != joined) merge(f, list[joined], list[i]);
    }
    note_reads(f, v);
}

static void renumber(Graph *g, Arena *scratch) {
    uint32_t *id = arena_array(scratch, uint32_t, g->node.n + 1), n = 0;
    for (Value v = 0; v < g->node.n; v++) {
        Node *node = node_of(g, v);
        if (node->group == 0) continue;
        if (id[node->group] == 0) id[node->group] = ++n;
        node->group = id[node->group];
    }
}

bool pass_fuse(Graph *g, PassContext *cx) {
    fuse_recompute(g, cx);
    split_groups(g);
    Fuse f = {.g = g,
              .group = arena_array(cx->scratch, Group, g->node.n + 2),
              .next = arena_array(cx->scratch, Value, g->node.n + 1),
              .reader = arena_array(cx->scratch, uint32_t, g->node.n + 1),
              .stack = arena_array(cx->scratch, uint32_t, SEARCH_LIMIT + 1),
              .uses = graph_uses(g, cx->scratch),
              .rank = first_ranks(g, cx->scratch),
              .early = early_numbers(g, cx->scratch),
              .waits = last_exchanges(g, cx->scratch),
              .message = messages(g, cx->scratch)};
    for (Value v = 0; v < g->node.n; v++) {
        uint32_t gid = node_of(g, v)->group;
        f.next[v] = NO_VALUE;
        if (gid == 0) continue;
        if (space_takes(g, v)) {
            fuse_node(&f, v);
        } else {
            f.group[gid].first = f.group[gid].last = v;
            f.group[gid].end = end_of(&f, v);
        }
    }
    renumber(g, cx->scratch);
    return true;
}
