/* search_model.c: what a model's layers do, send and hold, read from a probe. */
#include <stdlib.h>
#include <string.h>

#include "passes/search.h"
#include "passes/stage.h"

/* ---- amounts ---- */

void amount_add(Amount *a, double bytes, Power p) {
    int i = 0;
    while (i < a->n && a->power[i] != p) i++;
    if (i == AMOUNT_PARTS) i--; /* many kinds of little: as the last one */
    if (i == a->n) a->power[a->n++] = p;
    a->bytes[i] += bytes;
}

double amount_at(const Amount *a, const double factor[POWERS]) {
    double sum = 0;
    for (int i = 0; i < a->n; i++) sum += a->bytes[i] * factor[a->power[i]];
    return sum;
}

static double amount_total(const Amount *a) {
    double sum = 0;
    for (int i = 0; i < a->n; i++) sum += a->bytes[i];
    return sum;
}

static bool amount_equal(const Amount *a, const Amount *b) {
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->bytes[i] != b->bytes[i] || a->power[i] != b->power[i]) return false;
    return true;
}

/* ---- which layer a unit is part of ---- */

typedef struct {
    const Graph *g;
    Arena *a, *keep; /* of the reader; of the model */
    Units us;
    Slots slots;
    const Power *power;
    uint32_t *when, *at; /* place of a unit in the order, from 1; and the reverse */
    uint32_t *layer;     /* by unit */
    uint32_t *zone;      /* by time: the layer at whose cost bytes lie there, and */
    Phase *phase;        /* the phase */
    bool *early;         /* by value: read before the apply phase */
    VEC(const char *) name;
    SearchClass *sum; /* by layer */
    SearchModel *m;
} Reader;

static uint32_t layer_named(Reader *r, const char *scope, bool make) {
    const char *name = intern_n(r->g->session, scope, stage_layer_part(scope));
    for (uint32_t i = r->name.n; i-- > 0;)
        if (r->name.p[i] == name) return i;
    if (!make) return UINT32_MAX;
    vec_push(&r->name, name);
    return r->name.n - 1;
}

static Phase unit_phase(const Reader *r, uint32_t u) {
    return (Phase)node_of(r->g, r->us.unit[u].node[0])->phase;
}

/* The layer whose parameter or state the unit reads, or UINT32_MAX. */
static uint32_t updated_layer(Reader *r, const Unit *u) {
    for (uint32_t i = 0; i < u->nread; i++) {
        const Node *n = node_of(r->g, u->read[i]);
        if (n->op != OP_param && n->op != OP_state) continue;
        return layer_named(r, attr_str(n, "name"), false);
    }
    return UINT32_MAX;
}

/* What has no scope goes with what was before it. */
static uint32_t unit_layer(Reader *r, uint32_t u, uint32_t before) {
    const char *scope = node_of(r->g, r->us.unit[u].node[0])->scope;
    Phase phase = unit_phase(r, u);
    uint32_t layer = phase == PHASE_APPLY ? updated_layer(r, &r->us.unit[u]) : UINT32_MAX;
    if (layer == UINT32_MAX && *scope) layer = layer_named(r, scope, phase == PHASE_FORWARD);
    return layer == UINT32_MAX ? before : layer;
}

static void find_layers(Reader *r) {
    uint32_t now = 0, last = 0;
    for (uint32_t t = 1; t <= r->us.n; t++) {
        r->layer[r->at[t]] = now = unit_layer(r, r->at[t], now);
        if (unit_phase(r, r->at[t]) == PHASE_BACKWARD) last = t;
    }
    if (r->name.n == 0) vec_push(&r->name, "");
    for (uint32_t t = 1; t <= r->us.n; t++) {
        uint32_t u = r->at[t];
        bool between = unit_phase(r, u) == PHASE_APPLY && t < last;
        r->zone[t] = between ? r->zone[t - 1] : r->layer[u];
        r->phase[t] = between ? r->phase[t - 1] : unit_phase(r, u);
    }
}

/* ---- units and messages ---- */

/* Whose dimension an axis splits, by how the operands and the result grow. */
static void product_powers(const Reader *r, Value v, SearchUnit *to) {
    int m[AXIS_COUNT] = {0}, n[AXIS_COUNT] = {0}, k[AXIS_COUNT] = {0}, b[AXIS_COUNT] = {0};
    int all[AXIS_COUNT];
    Contract c;
    if (contract_fit(r->g, v, &c) != CONTRACT_OK) BUG("%%%u is no matrix product", v);
    for (int i = 0; i < AXIS_COUNT; i++) {
        int x = power_of(r->power[c.a], (SearchAxis)i), y = power_of(r->power[c.b], (SearchAxis)i);
        int z = power_of(r->power[v], (SearchAxis)i);
        if (x && y && z)
            b[i] = x;
        else if (x && z)
            m[i] = x;
        else if (y && z)
            n[i] = y;
        else if (x && y)
            k[i] = x;
        all[i] = m[i] + n[i] + k[i] + b[i];
    }
    to->m = power_make(m), to->n = power_make(n), to->k = power_make(k);
    to->batch = power_make(b), to->flops = power_make(all);
}

/* Bytes read and written, as the work counts them. */
static void add_traffic(const Reader *r, const Unit *u, SearchUnit *to) {
    double sum = 0, most = 0;
    for (uint32_t i = 0; i < u->nread + u->nwrite; i++) {
        Value v = i < u->nread ? u->read[i] : u->write[i - u->nread];
        sum += (double)type_bytes(type_of(r->g, v));
    }
    for (uint32_t i = 0; i < u->nread + u->nwrite; i++) {
        Value v = i < u->nread ? u->read[i] : u->write[i - u->nread];
        double bytes = (double)type_bytes(type_of(r->g, v));
        amount_add(&to->traffic, bytes / MAX(sum, 1) * to->work.bytes, r->power[v]);
        if (bytes > most) most = bytes, to->flops = r->power[v];
    }
}

static bool unit_equal(const SearchUnit *a, const SearchUnit *b) {
    return a->phase == b->phase && a->m == b->m && a->n == b->n && a->k == b->k &&
           a->batch == b->batch && a->flops == b->flops && work_equal(&a->work, &b->work) &&
           amount_equal(&a->traffic, &b->traffic);
}

static void add_unit(Reader *r, uint32_t from, uint32_t u) {
    SearchModel *m = r->m;
    const Unit *unit = &r->us.unit[u];
    SearchUnit x = {.work = unit_work(r->g, &r->us, u), .count = 1, .phase = unit_phase(r, u)};
    x.m = x.n = x.k = x.batch = POWER_NONE;
    add_traffic(r, unit, &x);
    if (x.work.product) product_powers(r, unit->node[0], &x);
    for (uint32_t i = from; i < m->unit.n; i++)
        if (unit_equal(&m->unit.p[i], &x)) {
            m->unit.p[i].count++;
            return;
        }
    x.work.what = arena_strdup(r->keep, x.work.what, strlen(x.work.what));
    vec_push(&m->unit, x);
}

/* Only the update waits for it. */
static bool is_gradient(const Reader *r, const Unit *u, Collective kind) {
    bool sum = kind == COLLECTIVE_ALL_REDUCE || kind == COLLECTIVE_REDUCE_SCATTER;
    if (!sum || node_of(r->g, u->node[0])->phase != PHASE_BACKWARD) return false;
    for (uint32_t i = 0; i < u->nwrite; i++)
        if (r->early[u->write[i]]) return false;
    return true;
}

static bool comm_same(const SearchComm *a, const SearchComm *b) {
    return a->kind == b->kind && a->over == b->over && a->phase == b->phase &&
           a->gradient == b->gradient && a->bytes == b->bytes && a->power == b->power;
}

static void add_comm(Reader *r, uint32_t from, uint32_t u) {
    SearchModel *m = r->m;
    const Unit *unit = &r->us.unit[u];
    Value v = unit->node[0], x = operand(r->g, v, 0);
    Work w = unit_work(r->g, &r->us, u);
    SearchComm c = {.kind = w.comm.kind, .phase = unit_phase(r, u), .count = 1};
    c.over = search_axes(attr_str(node_of(r->g, v), "over"));
    c.gradient = is_gradient(r, unit, c.kind);
    c.bytes = w.comm.bytes;
    c.power = r->power[c.kind == COLLECTIVE_ALL_GATHER ? v : x];
    for (uint32_t i = from; i < m->comm.n; i++)
        if (comm_same(&m->comm.p[i], &c)) {
            m->comm.p[i].count++;
            return;
        }
    vec_push(&m->comm, c);
}

/* What is read before the update; a gradient that is summed over more ranks is not. */
static void find_early(Reader *r) {
    for (uint32_t t = r->us.n; t > 0; t--) {
        uint32_t u = r->at[t];
        const Unit *unit = &r->us.unit[u];
        Collective kind;
        bool sums = op_collective((Op)node_of(r->g, unit->node[0])->op, &kind);
        if (unit_phase(r, u) == PHASE_APPLY || (sums && is_gradient(r, unit, kind))) continue;
        for (uint32_t i = 0; i < unit->nread; i++) r->early[unit->read[i]] = true;
    }
}

/* ---- bytes ---- */

/* Of a slot's values the largest says how it grows. */
static Value *slot_values(const Reader *r) {
    Value *of = no_values(r->a, r->slots.n);
    for (Value v = 0; v < r->g->node.n; v++) {
        uint32_t s = r->slots.of[v];
        if (s == NO_SLOT) continue;
        if (of[s] == NO_VALUE || type_bytes(type_of(r->g, v)) > type_bytes(type_of(r->g, of[s])))
            of[s] = v;
    }
    return of;
}

/* Slots of which a unit of another layer reads something in the forward phase. */
static bool *find_passed(const Reader *r) {
    bool *passed = arena_array(r->a, bool, r->slots.n + 1);
    for (uint32_t u = 0; u < r->us.n; u++) {
        const Unit *unit = &r->us.unit[u];
        for (uint32_t i = 0; i < unit->nread && unit_phase(r, u) == PHASE_FORWARD; i++) {
            uint32_t from = r->us.of[unit->read[i]];
            if (from == NO_UNIT || r->layer[from] == r->layer[u]) continue;
            passed[r->slots.of[unit->read[i]]] = true;
        }
    }
    return passed;
}

/* The layer of a leaf's name, else the one whose units read it first. */
static uint32_t *leaf_layers(Reader *r) {
    uint32_t *layer = arena_array(r->a, uint32_t, r->g->node.n + 1);
    for (uint32_t t = r->us.n; t > 0; t--) {
        const Unit *u = &r->us.unit[r->at[t]];
        for (uint32_t i = 0; i < u->nread; i++) layer[u->read[i]] = r->layer[r->at[t]];
    }
    for (Value v = 0; v < r->g->node.n; v++) {
        const Node *n = node_of(r->g, v);
        if (n->op != OP_param && n->op != OP_state) continue;
        uint32_t named = layer_named(r, attr_str(n, "name"), false);
        if (named != UINT32_MAX) layer[v] = named;
    }
    return layer;
}

static Power without_micro(Power p) {
    int power[AXIS_COUNT];
    for (int a = 0; a < AXIS_COUNT; a++) power[a] = power_of(p, (SearchAxis)a);
    power[AXIS_MICRO] = 0;
    return power_make(power);
}

static void add_leaves(Reader *r, const Value *value) {
    const uint32_t *layer = leaf_layers(r);
    for (uint32_t i = 0; i < r->slots.nfixed; i++) {
        Value v = value[i];
        double bytes = (double)r->slots.slot[i].bytes;
        SearchClass *c = &r->sum[layer[v]];
        Power p = without_micro(r->power[v]);
        if (node_of(r->g, v)->op == OP_input)
            amount_add(&r->m->input, bytes, p);
        else
            amount_add(node_of(r->g, v)->op == OP_param ? &c->param : &c->state, bytes, p);
        if (node_of(r->g, v)->op != OP_param || bytes <= amount_total(&c->largest)) continue;
        c->largest = (Amount){0};
        amount_add(&c->largest, bytes, p);
    }
    for (uint32_t i = 0; i < r->name.n; i++) {
        SearchClass *c = &r->sum[i];
        double param = amount_total(&c->param), all = param + amount_total(&c->state);
        for (int k = 0; k < c->largest.n; k++) c->largest.bytes[k] *= all / param;
    }
}

typedef enum { HELD_WORKING, HELD_KEPT, HELD_GRAD_SHORT, HELD_GRAD } Held;

static Held held_as(const Reader *r, const Slot *s) {
    uint32_t last = MIN(s->last, r->us.n);
    Phase from = unit_phase(r, r->at[s->first]), to = unit_phase(r, r->at[last]);
    if (from == PHASE_FORWARD && to == PHASE_BACKWARD) return HELD_KEPT;
    if (from != PHASE_BACKWARD || to != PHASE_APPLY) return HELD_WORKING;
    return r->zone[s->first] == r->zone[last] ? HELD_GRAD_SHORT : HELD_GRAD;
}

/* When the working bytes of each layer's part of a phase are most: time, by layer and phase. */
static uint32_t *working_peaks(const Reader *r, const Held *held) {
    int64_t *live = arena_array(r->a, int64_t, r->us.n + 2);
    int64_t *most = arena_array(r->a, int64_t, r->name.n * PHASE_COUNT);
    uint32_t *at = arena_array(r->a, uint32_t, r->name.n * PHASE_COUNT);
    for (uint32_t i = r->slots.nfixed; i < r->slots.n; i++) {
        const Slot *s = &r->slots.slot[i];
        if (held[i] == HELD_KEPT || held[i] == HELD_GRAD) continue;
        live[s->first] += s->bytes;
        live[MIN(s->last, r->us.n) + 1] -= s->bytes;
    }
    for (uint32_t t = 1; t <= r->us.n; t++) {
        live[t] += live[t - 1];
        uint32_t to = r->zone[t] * PHASE_COUNT + r->phase[t];
        if (live[t] > most[to]) most[to] = live[t], at[to] = t;
    }
    return at;
}

static void add_working(Reader *r, const Value *value, const Held *held) {
    const uint32_t *at = working_peaks(r, held);
    for (uint32_t i = r->slots.nfixed; i < r->slots.n; i++) {
        const Slot *s = &r->slots.slot[i];
        if (held[i] == HELD_KEPT || held[i] == HELD_GRAD) continue;
        for (uint32_t k = 0; k < r->name.n * PHASE_COUNT; k++)
            if (at[k] && s->first <= at[k] && at[k] <= s->last)
                amount_add(&r->sum[k / PHASE_COUNT].working[k % PHASE_COUNT], (double)s->bytes,
                           r->power[value[i]]);
    }
}

static void add_bytes(Reader *r) {
    const Value *value = slot_values(r);
    const bool *passed = find_passed(r);
    Held *held = arena_array(r->a, Held, r->slots.n + 1);
    add_leaves(r, value);
    for (uint32_t i = r->slots.nfixed; i < r->slots.n; i++) {
        const Slot *s = &r->slots.slot[i];
        SearchClass *c = &r->sum[r->zone[s->first]];
        Power p = r->power[value[i]];
        held[i] = held_as(r, s);
        if (held[i] == HELD_KEPT) {
            amount_add(&c->kept, (double)s->bytes, p);
            if (passed[i]) amount_add(&c->passed, (double)s->bytes, p);
        }
        if (held[i] >= HELD_GRAD_SHORT) amount_add(&c->grad, (double)s->bytes, p);
        if (held[i] == HELD_GRAD) amount_add(&c->held, (double)s->bytes, p);
    }
    add_working(r, value, held);
}

/* ---- classes ---- */

static bool class_equal(const SearchModel *m, const SearchClass *a, const SearchClass *b) {
    const Amount *x[] = {&a->param, &a->state, &a->kept, &a->passed, &a->grad, &a->held};
    const Amount *y[] = {&b->param, &b->state, &b->kept, &b->passed, &b->grad, &b->held};
    if (a->nunit != b->nunit || a->ncomm != b->ncomm) return false;
    for (size_t i = 0; i < COUNT(x); i++)
        if (!amount_equal(x[i], y[i])) return false;
    for (uint32_t i = 0; i < a->nunit; i++) {
        const SearchUnit *u = &m->unit.p[a->unit + i], *v = &m->unit.p[b->unit + i];
        if (u->count != v->count || !unit_equal(u, v)) return false;
    }
    for (uint32_t i = 0; i < a->ncomm; i++) {
        const SearchComm *u = &m->comm.p[a->comm + i], *v = &m->comm.p[b->comm + i];
        if (u->count != v->count || !comm_same(u, v)) return false;
    }
    return true;
}

/* The layer's class: an equal one, of which the larger working bytes count, or a new one. */
static uint32_t find_class(SearchModel *m, const SearchClass *c) {
    for (uint32_t i = 0; i < m->kind.n; i++) {
        SearchClass *x = &m->kind.p[i];
        if (!class_equal(m, x, c)) continue;
        for (int p = 0; p < PHASE_COUNT; p++)
            if (amount_total(&c->working[p]) > amount_total(&x->working[p]))
                x->working[p] = c->working[p];
        m->unit.n = c->unit, m->comm.n = c->comm;
        return i;
    }
    vec_push(&m->kind, *c);
    return m->kind.n - 1;
}

static void add_layer(Reader *r, uint32_t layer) {
    SearchModel *m = r->m;
    SearchClass *c = &r->sum[layer];
    c->unit = m->unit.n, c->comm = m->comm.n;
    for (uint32_t t = 1; t <= r->us.n; t++) {
        uint32_t u = r->at[t];
        if (r->layer[u] != layer) continue;
        if (is_collective(node_of(r->g, r->us.unit[u].node[0])))
            add_comm(r, c->comm, u);
        else
            add_unit(r, c->unit, u);
    }
    c->nunit = m->unit.n - c->unit, c->ncomm = m->comm.n - c->comm;
    m->class[layer] = find_class(m, c);
}

/* ---- the model ---- */

static void read_mesh(const Graph *g, SearchModel *m) {
    for (int a = 0; a < AXIS_COUNT; a++) m->size[a] = 1;
    for (int i = 0; i < g->set.nmesh; i++)
        for (int a = 0; a < AXIS_MICRO; a++) {
            if (strcmp(g->set.mesh[i].axis, search_axis_name((SearchAxis)a)) != 0) continue;
            if (g->set.mesh[i].same)
                m->shared = true;
            else
                m->size[a] = g->set.mesh[i].size;
        }
    m->train = g->set.train;
    m->batch = search_batch(g) * m->size[AXIS_DATA] * m->size[AXIS_EXPERT];
    m->tensor = m->divisor[1u << AXIS_TENSOR] > 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        unsigned batch = 1u << (m->shared ? AXIS_DATA : AXIS_EXPERT);
        for (int k = 0; n->op == OP_param && n->spec && k < n->spec->rank; k++)
            m->experts |= search_axes(n->spec->axis[k]) == batch;
    }
}

static Reader reader_new(const Graph *g, SearchModel *m, Arena *a) {
    Reader r = {.g = g, .a = a, .m = m, .us = units_build(g, a)};
    r.when = units_when(g, &r.us, a);
    r.slots = slots_build(g, &r.us, r.when, a);
    r.power = power_of_values(g, m->divisor, a);
    r.at = arena_array(a, uint32_t, r.us.n + 2);
    for (uint32_t u = 0; u < r.us.n; u++) r.at[r.when[u]] = u;
    r.layer = arena_array(a, uint32_t, r.us.n + 1);
    r.zone = arena_array(a, uint32_t, r.us.n + 2);
    r.phase = arena_array(a, Phase, r.us.n + 2);
    r.early = arena_array(a, bool, g->node.n + 1);
    return r;
}

SearchModel *search_model(const Graph *g, Arena *a) {
    SearchModel *m = arena_new_of(a, SearchModel);
    Arena *scratch = arena_new();
    Reader r = reader_new(g, m, scratch);
    r.keep = a;
    read_mesh(g, m);
    find_layers(&r);
    find_early(&r);
    r.sum = arena_array(scratch, SearchClass, r.name.n);
    m->nlayer = r.name.n;
    m->class = arena_array(a, uint32_t, m->nlayer);
    add_bytes(&r);
    for (uint32_t i = 0; i < m->nlayer; i++) add_layer(&r, i);
    vec_free(&r.name);
    arena_free(scratch);
    return m;
}

void search_model_free(SearchModel *m) {
    vec_free(&m->kind);
    vec_free(&m->unit);
    vec_free(&m->comm);
}
