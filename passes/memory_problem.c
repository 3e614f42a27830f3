/* memory_problem.c: what can be decided, from a fused graph in its order.
 *
 * A value is needed when it is computed and when it is read. Between two such times that lie far
 * apart its bytes may be given up: computed again, or moved to host memory or the disk and back.
 * A parameter and its optimizer states are decided together: at home on the device, on the host or
 * on the disk, fetched for the times they are used. What is small is left alone. */
#include "passes/memory_private.h"

#include <stdlib.h>
#include <string.h>

enum {
    LEAST_BYTES = 256, /* and the least bytes, beside a share of the peak */
    SHARE = 8000,
    FEW_BYTES = 1024, /* results that do not keep an update from the host */
};

/* ---- times of use ---- */

static int64_t bytes_of(const Problem *p, Value v) { return type_bytes(type_of(p->g, v)); }

static void find_last_uses(Problem *p) {
    const Graph *g = p->g;
    for (uint32_t u = 0; u < p->us.n; u++)
        for (uint32_t i = 0; i < p->us.unit[u].nread; i++) {
            uint32_t *last = &p->last[p->us.unit[u].read[i]];
            *last = MAX(*last, p->when[u]);
        }
    for (Value v = 0; v < g->node.n; v++)
        if (is_effect(node_of(g, v)))
            p->last[view_base(g, operand(g, v, node_of(g, v)->op == OP_assign))] = p->end;
}

/* What is assigned to a leaf, all of it in order. */
static void find_targets(Problem *p) {
    const Graph *g = p->g;
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op != OP_assign) continue;
        Layout l;
        Value x = view_root(g, operand(g, v, 1), &l);
        bool whole = layout_is_identity(&l, type_elements(type_of(g, x)));
        if (p->us.of[x] != NO_UNIT && whole) p->target[x] = operand(g, v, 0);
    }
}

/* Whose bytes each value takes in place, in the order as it is. */
static void find_places(Problem *p) {
    for (uint32_t u = 0; u < p->us.n; u++) {
        const Unit *unit = &p->us.unit[u];
        for (uint32_t i = 0; i < unit->nwrite; i++) {
            Value w = unit->write[i], leaf = p->target[w];
            for (uint32_t k = 0; k < unit->nread; k++)
                if (p->slots.of[unit->read[k]] == p->slots.of[w]) p->over[w] = unit->read[k];
            if (leaf != NO_VALUE && p->slots.of[leaf] == p->slots.of[w]) p->over[w] = leaf;
        }
    }
}

/* ---- layers ---- */

/* Length of the outermost part of a scope: "block[3]" of "block[3].ffn". */
static size_t outermost(const char *scope) { return strcspn(scope, "."); }

/* What came from other ranks is not asked for again: what runs again starts from it. */
static bool is_received(const Problem *p, Value v) {
    uint32_t u = p->us.of[v];
    return u != NO_UNIT && is_collective(node_of(p->g, p->us.unit[u].node[0]));
}

static void find_layers(Problem *p) {
    const char *seen = "";
    size_t n = 0;
    uint32_t layer = 0;
    for (uint32_t t = 1; t < p->end; t++) {
        const Node *node = node_of(p->g, p->us.unit[p->at[t]].node[0]);
        size_t k = outermost(node->scope);
        if (node->phase == PHASE_FORWARD && (k != n || memcmp(node->scope, seen, k) != 0))
            seen = node->scope, n = k, layer++;
        p->layer[p->at[t]] = node->phase == PHASE_FORWARD ? layer : NONE;
    }
    for (uint32_t u = 0; u < p->us.n; u++)
        for (uint32_t i = 0; i < p->us.unit[u].nread; i++) {
            Value x = p->us.unit[u].read[i];
            uint32_t from = p->us.of[x] == NO_UNIT ? NONE : p->layer[p->us.of[x]];
            if (from != NONE && p->layer[u] != NONE && p->layer[u] != from) p->anchor[x] = true;
        }
    for (Value v = 0; v < p->g->node.n; v++)
        if (is_received(p, v)) p->anchor[v] = true;
}

/* ---- what the model and the settings ask for ---- */

static bool list_covers(const char *list, const char *scope) {
    for (const char *w = list; w && *w;) {
        size_t n = strcspn(w, ",");
        if (n && scope_covers(w, n, scope)) return true;
        w += n + (w[n] == ',');
    }
    return false;
}

static bool is_word(const char *list) {
    static const char *const word[] = {"none", "auto", "all", "sqrt", "optimizer", "epl"};
    for (size_t i = 0; i < COUNT(word); i++)
        if (strcmp(list, word[i]) == 0) return true;
    return false;
}

static bool asked(const Graph *g, const char *setting, const char *kind, const char *scope) {
    if (!is_word(setting) && list_covers(setting, scope)) return true;
    return graph_annotated(g, kind, scope);
}

/* ---- options ---- */

static double copy_price(const Problem *p, Mem from, Mem to, int64_t bytes) {
    Work w = {.what = "copy_start", .copy = true, .from = from, .to = to, .bytes = (double)bytes};
    return cost_us(p->machine, &w);
}

static void add_span(Problem *p, Option *o, uint32_t from, uint32_t to, int64_t bytes) {
    if (to - from < 2) return;
    vec_push(&p->span, ((Span){from, to, bytes}));
    o->nspan++;
}

static void add_task(Problem *p, Mem from, Mem to, Value v, uint32_t time) {
    int64_t bytes = bytes_of(p, v);
    double us = copy_price(p, from, to, bytes);
    vec_push(&p->task, ((Task){stream_of_copy(from, to), time, v, us, bytes}));
}

static Option new_option(const Problem *p, MemoryHow how) {
    return (Option){.how = how, .gap = LEAST_GAP, .span = p->span.n, .task = p->task.n};
}

static void add_option(Problem *p, Option o) {
    o.subject = p->subject.n;
    o.ntask = p->task.n - o.task;
    vec_push(&p->option, o);
}

static void move_work(const Problem *p, Option *o, Mem home, int64_t bytes, int fetches,
                      int returns) {
    o->us[stream_of_copy(home, MEM_DEVICE)] += fetches * copy_price(p, home, MEM_DEVICE, bytes);
    o->us[stream_of_copy(MEM_DEVICE, home)] += returns * copy_price(p, MEM_DEVICE, home, bytes);
}

/* Every unit but a collective is a function of its operands; those of the forward phase have them
 * still. */
static bool may_recompute(const Problem *p, Value v) {
    return node_of(p->g, v)->phase == PHASE_FORWARD && !is_received(p, v);
}

static void gap_options(Problem *p, Subject *s) {
    const char *scope = node_of(p->g, s->v)->scope;
    const Settings *set = &p->g->set;
    int64_t bytes = bytes_of(p, s->v);
    s->option = p->option.n;
    if (strcmp(set->checkpoint, "none") != 0 && may_recompute(p, s->v)) {
        Option o = new_option(p, HOW_RECOMPUTE);
        o.us[STREAM_COMPUTE] = p->price[p->us.of[s->v]];
        add_span(p, &o, s->from, s->to, bytes);
        add_option(p, o);
    }
    for (int m = MEM_HOST; m < MEM_COUNT && strcmp(set->offload, "none") != 0; m++) {
        if (p->budget[m] == 0) continue;
        Option o = new_option(p, m == MEM_HOST ? HOW_MOVE_HOST : HOW_MOVE_DISK);
        move_work(p, &o, (Mem)m, bytes, 1, 1);
        add_task(p, MEM_DEVICE, (Mem)m, s->v, s->from);
        add_task(p, (Mem)m, MEM_DEVICE, s->v, s->to);
        o.away[m] = bytes;
        add_span(p, &o, s->from, s->to, bytes);
        add_option(p, o);
    }
    s->noption = p->option.n - s->option;
    if (graph_annotated(p->g, "keep", scope)) s->hinted = true, s->noption = 0;
    bool again = asked(p->g, set->checkpoint, "checkpoint", scope) && !p->anchor[s->v];
    bool moved = asked(p->g, set->offload, "offload", scope);
    for (uint32_t i = 0; i < s->noption && (again || moved); i++) {
        MemoryHow how = p->option.p[s->option + i].how;
        if (how != (again ? HOW_RECOMPUTE : HOW_MOVE_HOST)) continue;
        s->hinted = true, s->forced = s->option + i;
    }
}

/* Every long stretch between two uses of a value that a unit computes. */
static void value_gaps(Problem *p, Value v, const Uses *readers, int64_t least) {
    uint32_t u = p->us.of[v], before = p->when[u];
    if (bytes_of(p, v) < least || p->target[v] != NO_VALUE) return;
    for (uint32_t i = readers->start[v]; i < readers->start[v + 1]; i++) {
        uint32_t now = readers->use[i];
        if (now - before >= LEAST_GAP) {
            Subject s = {.v = v, .from = before, .to = now, .forced = NONE};
            gap_options(p, &s);
            if (s.noption || s.hinted) {
                p->gap_next[p->subject.n] = p->gap_start[before];
                p->gap_start[before] = p->subject.n + 1;
                if (p->gap_of[v] == NONE) p->gap_of[v] = p->subject.n;
                vec_push(&p->subject, s);
            }
        }
        before = now;
    }
}

/* Times of the units that read each value, ascending. */
static Uses reading_times(const Problem *p) {
    Uses r = {arena_array(p->arena, uint32_t, p->g->node.n + 2), NULL};
    for (uint32_t u = 0; u < p->us.n; u++)
        for (uint32_t i = 0; i < p->us.unit[u].nread; i++) r.start[p->us.unit[u].read[i] + 2]++;
    for (Value v = 2; v <= p->g->node.n; v++) r.start[v] += r.start[v - 1];
    uint64_t total = 0;
    for (uint32_t u = 0; u < p->us.n; u++) total += p->us.unit[u].nread;
    r.use = arena_array(p->arena, Value, total + 1);
    for (uint32_t t = 1; t < p->end; t++) {
        const Unit *unit = &p->us.unit[p->at[t]];
        for (uint32_t i = 0; i < unit->nread; i++) r.use[r.start[unit->read[i] + 1]++] = t;
    }
    return r;
}

/* ---- parameters and their states ---- */

static int by_time(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void add_leaf(Problem *p, Value v, const Value *update, const Uses *readers) {
    Leaf l = {.leaf = v, .update = update[v], .state = node_of(p->g, v)->op == OP_state};
    l.use = p->use.n;
    for (uint32_t i = readers->start[v]; i < readers->start[v + 1]; i++)
        vec_push(&p->use, readers->use[i]);
    if (l.update != NO_VALUE) {
        l.updated = p->when[p->us.of[l.update]];
        vec_push(&p->use, l.updated);
        for (uint32_t i = readers->start[l.update]; i < readers->start[l.update + 1]; i++)
            vec_push(&p->use, readers->use[i]);
    }
    l.nuse = p->use.n - l.use;
    if (l.nuse) qsort(p->use.p + l.use, l.nuse, sizeof *p->use.p, by_time);
    p->leaf_of[v] = p->leaf.n;
    vec_push(&p->leaf, l);
}

/* Away before the first and after the last use, and between uses that lie far apart; uses at
 * `except` do not count. Returns how often it must be fetched. */
static int leaf_spans(Problem *p, Option *o, const Leaf *l, Mem home, uint32_t except) {
    int64_t bytes = bytes_of(p, l->leaf);
    uint32_t before = 0;
    int fetches = 0;
    for (uint32_t i = 0; i < l->nuse; i++) {
        uint32_t now = p->use.p[l->use + i];
        if (now == except) continue;
        bool away =
            before == 0 || (now - before >= o->gap && !(l->updated && before >= l->updated));
        if (away) {
            add_span(p, o, before, now, bytes), fetches++;
            add_task(p, home, MEM_DEVICE, l->leaf, now);
        }
        before = now;
    }
    add_span(p, o, before, p->end + 1, bytes);
    if (l->updated && except == NONE) add_task(p, MEM_DEVICE, home, l->leaf, before);
    return fetches;
}

static void home_option(Problem *p, const Subject *s, Mem home, bool states_only, uint32_t gap) {
    Option o = new_option(p, home == MEM_HOST ? HOW_LIVE_HOST : HOW_LIVE_DISK);
    o.states_only = states_only, o.gap = gap;
    for (uint32_t i = 0; i < s->nleaf; i++) {
        const Leaf *l = &p->leaf.p[s->leaf + i];
        if (states_only && !l->state) continue;
        int fetches = leaf_spans(p, &o, l, home, NONE);
        move_work(p, &o, home, bytes_of(p, l->leaf), fetches, l->updated != 0);
        o.away[home] += bytes_of(p, l->leaf);
    }
    if (o.nspan) add_option(p, o);
}

/* All leaves are updated by one unit, which computes nothing else but a few numbers. */
static uint32_t only_updater(const Problem *p, const Subject *s) {
    uint32_t u = NO_UNIT;
    for (uint32_t i = 0; i < s->nleaf; i++) {
        const Leaf *l = &p->leaf.p[s->leaf + i];
        if (!l->updated || (u != NO_UNIT && p->at[l->updated] != u)) return NO_UNIT;
        u = p->at[l->updated];
    }
    for (uint32_t i = 0; u != NO_UNIT && i < p->us.unit[u].nwrite; i++) {
        Value w = p->us.unit[u].write[i];
        if (p->target[w] == NO_VALUE && bytes_of(p, w) <= FEW_BYTES) continue;
        if (p->target[w] == NO_VALUE || p->param_of[p->target[w]] != p->subject.n) return NO_UNIT;
    }
    return u;
}

/* The host's cores update what lies in host memory: gradients go there, nothing comes back but the
 * parameter, when it is used next. */
static void host_option(Problem *p, const Subject *s, uint32_t gap) {
    uint32_t u = only_updater(p, s);
    if (u == NO_UNIT || !p->us.space[u].n) return;
    Option o = new_option(p, HOW_UPDATE_HOST);
    o.gap = gap;
    for (uint32_t i = 0; i < s->nleaf; i++) {
        const Leaf *l = &p->leaf.p[s->leaf + i];
        int fetches = leaf_spans(p, &o, l, MEM_HOST, p->when[u]);
        move_work(p, &o, MEM_HOST, bytes_of(p, l->leaf), fetches, 0);
        o.away[MEM_HOST] += bytes_of(p, l->leaf);
    }
    for (uint32_t i = 0; i < p->us.unit[u].nread; i++) {
        Value x = p->us.unit[u].read[i];
        if (is_store(node_of(p->g, x))) continue;
        move_work(p, &o, MEM_HOST, bytes_of(p, x), 0, 1);
        add_task(p, MEM_DEVICE, MEM_HOST, x, p->when[u]);
        o.away[MEM_HOST] += bytes_of(p, x);
    }
    o.us[STREAM_HOST] += p->host[u];
    vec_push(&p->task, ((Task){STREAM_HOST, p->when[u], NO_VALUE, p->host[u], 0}));
    p->updates[u] = p->subject.n;
    add_option(p, o);
}

/* The widest gap between two uses, mostly that of the phases; 0 where it is the only wide one. */
static uint32_t widest_gap(const Problem *p, const Subject *s) {
    uint32_t widest = 0, narrower = 0;
    for (uint32_t i = 0; i < s->nleaf; i++) {
        const Leaf *l = &p->leaf.p[s->leaf + i];
        for (uint32_t k = 1; k < l->nuse; k++) {
            const uint32_t *use = &p->use.p[l->use + k];
            uint32_t gap = use[0] - use[-1];
            narrower = MAX(narrower, MIN(gap, widest));
            widest = MAX(widest, gap);
        }
    }
    return narrower >= LEAST_GAP && narrower < widest ? widest : 0;
}

static void param_options(Problem *p, Subject *s, const char *name) {
    const Settings *set = &p->g->set;
    bool params = false, states = false;
    uint32_t widest = widest_gap(p, s);
    for (uint32_t i = 0; i < s->nleaf; i++)
        (p->leaf.p[s->leaf + i].state ? (states = true) : (params = true));
    s->option = p->option.n;
    for (int m = MEM_HOST; m < MEM_COUNT && strcmp(set->offload, "none") != 0; m++) {
        if (p->budget[m] == 0) continue;
        bool hosts = params && states && m == MEM_HOST;
        if (states) home_option(p, s, (Mem)m, true, LEAST_GAP);
        if (params) home_option(p, s, (Mem)m, false, NONE);
        if (params && widest) home_option(p, s, (Mem)m, false, widest);
        if (params) home_option(p, s, (Mem)m, false, LEAST_GAP);
        if (hosts && widest) host_option(p, s, widest);
        if (hosts) host_option(p, s, LEAST_GAP);
    }
    s->noption = p->option.n - s->option;
    if (graph_annotated(p->g, "keep", name)) s->hinted = true, s->noption = 0;
    if (!asked(p->g, set->offload, "offload", name)) return;
    for (uint32_t i = 0; i < s->noption; i++) {
        const Option *o = &p->option.p[s->option + i];
        if (o->how == HOW_LIVE_HOST && !o->states_only && o->gap == LEAST_GAP)
            s->hinted = true, s->forced = s->option + i;
    }
}

static void param_subject(Problem *p, const Value *member, uint32_t n, const Value *update,
                          const Uses *readers, int64_t least) {
    Subject s = {.v = NO_VALUE, .leaf = p->leaf.n, .nleaf = n, .forced = NONE};
    int64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) bytes += bytes_of(p, member[i]);
    if (bytes < least) return;
    for (uint32_t i = 0; i < n; i++) {
        add_leaf(p, member[i], update, readers);
        p->param_of[member[i]] = p->subject.n;
    }
    param_options(p, &s, attr_str(node_of(p->g, member[0]), "name"));
    if (s.noption || s.hinted)
        vec_push(&p->subject, s);
    else
        for (uint32_t i = 0; i < n; i++) p->param_of[member[i]] = NONE;
}

/* Parameters with the states that are named after them. */
static void param_subjects(Problem *p, const Uses *readers, int64_t least) {
    const Graph *g = p->g;
    Value *update = no_values(p->arena, g->node.n);
    Value *next = no_values(p->arena, g->node.n), *owner = no_values(p->arena, g->node.n);
    VEC(Value) member = {0};
    for (Value v = 0; v < g->node.n; v++)
        if (p->target[v] != NO_VALUE) update[p->target[v]] = v;
    uint32_t mask = 1;
    while (mask < 2 * g->node.n) mask *= 2;
    Value *table = no_values(p->arena, mask--);
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_param)) continue;
        uintptr_t h = (uintptr_t)attr_str(node_of(g, v), "name") >> 4;
        while (table[h & mask] != NO_VALUE) h++;
        table[h & mask] = v;
    }
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_state)) continue;
        const char *of = attr_str(node_of(g, v), "of");
        uintptr_t h = (uintptr_t)of >> 4;
        for (; table[h & mask] != NO_VALUE; h++)
            if (attr_str(node_of(g, table[h & mask]), "name") == of) {
                owner[v] = table[h & mask];
                next[v] = next[owner[v]];
                next[owner[v]] = v;
                break;
            }
    }
    for (Value v = 0; v < g->node.n; v++) {
        if (!is_op(g, v, OP_param)) continue;
        member.n = 0;
        for (Value m = v; m != NO_VALUE; m = next[m]) vec_push(&member, m);
        param_subject(p, member.p, member.n, update, readers, least);
    }
    vec_free(&member);
}

/* ---- the problem ---- */

static void find_prices(Problem *p) {
    for (uint32_t u = 0; u < p->us.n; u++) {
        Work w = unit_work(p->g, &p->us, u);
        p->stream[u] = node_of(p->g, p->us.unit[u].node[0])->stream;
        p->price[u] = cost_us(p->machine, &w);
        w.host = true;
        p->host[u] = cost_us(p->machine, &w);
    }
}

static void find_budgets(Problem *p) {
    const Settings *set = &p->g->set;
    bool moves = strcmp(set->offload, "auto") != 0 && strcmp(set->offload, "none") != 0;
    for (uint32_t i = 0; i < p->g->note.n; i++)
        moves |= strcmp(p->g->note.p[i].kind, "offload") == 0;
    p->budget[MEM_DEVICE] = set->memory > 0 ? set->memory : INT64_MAX;
    p->budget[MEM_HOST] = set->host_memory > 0 ? set->host_memory : moves ? INT64_MAX : 0;
    p->budget[MEM_DISK] = set->disk;
}

/* What every program asks of every value, so that none need walk the graph. */
static void find_shortcuts(Problem *p) {
    const Graph *g = p->g;
    for (Value v = 0; v < g->node.n; v++) {
        bool store = is_store(node_of(g, v));
        Value leaf = store ? v : p->target[v];
        p->size[v] = storage_size(type_of(g, v));
        if (leaf != NO_VALUE && p->leaf_of[leaf] != NONE) p->behind[v] = leaf;
        if (!store && !p->anchor[v] && p->last[v] && p->last[v] < p->end &&
            p->layer[p->at[p->last[v]]] != NONE)
            p->past[v] = p->last[v];
        if (store) vec_push(&p->store, v);
        if (p->last[v] == p->end) vec_push(&p->kept, v);
        if (is_op(g, v, OP_assign)) vec_push(&p->assign, v);
    }
}

void problem_build(Problem *p, Graph *g, PassContext *cx, Arena *a) {
    uint32_t n = g->node.n + 1;
    *p = (Problem){.g = g, .cx = cx, .machine = cx->machine, .arena = a};
    p->us = units_build(g, a);
    p->when = units_when(g, &p->us, a);
    p->slots = slots_build(g, &p->us, p->when, a);
    p->end = p->us.n + 1;
    p->at = arena_array(a, uint32_t, p->end + 1);
    for (uint32_t u = 0; u < p->us.n; u++) p->at[p->when[u]] = u;
    p->price = arena_array(a, double, p->us.n + 1);
    p->host = arena_array(a, double, p->us.n + 1);
    p->stream = arena_array(a, uint8_t, p->us.n + 1);
    p->over = no_values(a, n);
    p->target = no_values(a, n);
    p->last = arena_array(a, uint32_t, n);
    p->anchor = arena_array(a, bool, n);
    p->layer = arena_array(a, uint32_t, p->us.n + 1);
    p->past = no_values(a, n);
    p->behind = no_values(a, n);
    p->updates = no_values(a, p->us.n);
    p->size = arena_array(a, int64_t, n);
    p->leaf_of = no_values(a, n);
    p->gap_of = no_values(a, n);
    p->param_of = no_values(a, n);
    p->gap_start = arena_array(a, uint32_t, p->end + 1);
    p->share = copy_share(p->machine);
    find_budgets(p);
    find_prices(p);
    find_last_uses(p);
    find_targets(p);
    find_places(p);
    find_layers(p);
    Uses readers = reading_times(p);
    uint32_t gaps = 0;
    for (uint32_t u = 0; u < p->us.n; u++) gaps += p->us.unit[u].nread;
    p->gap_next = arena_array(a, uint32_t, gaps + n);
    int64_t least = MAX(LEAST_BYTES, p->slots.bound[MEM_DEVICE] / SHARE);
    param_subjects(p, &readers, least);
    for (Value v = 0; v < g->node.n; v++)
        if (p->us.of[v] != NO_UNIT && p->us.owns[v]) value_gaps(p, v, &readers, least);
    find_shortcuts(p);
}

void problem_free(Problem *p) {
    vec_free(&p->task);
    vec_free(&p->store);
    vec_free(&p->kept);
    vec_free(&p->assign);
    vec_free(&p->subject);
    vec_free(&p->option);
    vec_free(&p->span);
    vec_free(&p->leaf);
    vec_free(&p->use);
}

const char *problem_name(const Problem *p, const Subject *s, Loc *loc) {
    const Graph *g = p->g;
    Value v = s->v != NO_VALUE ? s->v : p->leaf.p[s->leaf].leaf;
    const Node *n = node_of(g, v);
    *loc = n->loc;
    if (s->v == NO_VALUE) return attr_str(n, "name");
    const char *op = op_info(n->op == OP_proj ? node_of(g, operand(g, v, 0))->op : n->op)->name;
    return intern(g->session,
                  arena_printf(p->arena, "%s%s%s", n->scope, n->scope[0] ? " " : "", op));
}
