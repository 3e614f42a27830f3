/* equal.c: forms of one program run from the same inputs, and what leaves them compared by name. */
#include "passes/equal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    double *data;
} Filled;

/* A tensor as the first form that has it gives it. */
typedef struct {
    Sink kind;
    const char *name;
    int64_t step;
    const Type *type;
    double *data;
    uint32_t seen; /* the last form that gave it */
} Known;

struct Equal {
    Arena *arena;
    uint64_t seed;
    int64_t steps;
    VEC(Filled) input;
    VEC(Known) known;
    SinkDistance first, worst[SINK_COUNT];
    int64_t compared[SINK_COUNT];
    uint64_t hash; /* of the last form */
    uint32_t form; /* how many ran */
    Buf stuck;
};

/* ---- distances ---- */

bool distance_within(const Distance *d, double bound) {
    return d->error <= bound && !d->shape && !d->apart && !d->lost;
}

void distance_place(const Type *t, int64_t at, Buf *out) {
    int64_t stride[MAX_RANK];
    type_strides(t, stride);
    buf_puts(out, "[");
    for (int i = 0; i < t->rank; i++)
        buf_printf(out, "%s%lld", i ? ", " : "", (long long)(at / stride[i] % t->dim[i]));
    buf_puts(out, "]");
}

static double apart(double a, double b) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b) ? 0 : INFINITY;
    return a == b ? 0 : fabs(a - b);
}

static Distance distance_of(const double *got, const double *want, int64_t n, double tiny) {
    Distance d = {0};
    double size = tiny, most = -1;
    for (int64_t i = 0; i < n; i++) {
        double x = apart(got[i], want[i]);
        if (x > most) most = x, d.at = i;
        if (isfinite(want[i])) size = fmax(size, fabs(want[i]));
    }
    if (n) d.error = most / size, d.got = got[d.at], d.want = want[d.at];
    return d;
}

/* ---- data of the inputs ---- */

/* Whether v is x, or elements of it in another arrangement. */
static bool shows(const Graph *g, Value v, Value x) {
    while (v != x) {
        const Node *n = node_of(g, v);
        bool same = n->nin == 1 && (op_info((Op)n->op)->flags & OPF_VIEW);
        if (!same && n->op != OP_cast) return false;
        v = operand(g, v, 0);
    }
    return true;
}

static bool constant_of(const Graph *g, Value v, double *x) {
    while (node_of(g, v)->op == OP_broadcast || node_of(g, v)->op == OP_cast) v = operand(g, v, 0);
    if (node_of(g, v)->op != OP_constant) return false;
    *x = attr_float(node_of(g, v), "value");
    return true;
}

/* The value that input x is compared with to leave elements out; false: none. */
static bool ignored_value(const Graph *g, Value x, double *ignored) {
    for (Value v = x + 1; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_ne && shows(g, operand(g, v, 0), x) &&
            constant_of(g, operand(g, v, 1), ignored))
            return true;
    return false;
}

enum { UNBOUNDED = 8 }; /* whole numbers that index nothing are below it */

static void fill(Equal *e, const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    const char *name = attr_str(n, "name");
    int64_t count = type_elements(n->type), bound = attr_int(n, "bound");
    uint32_t key = random_key(e->seed, hash_bytes(name, strlen(name), 1), 0);
    double ignored, *x = arena_array(e->arena, double, count);
    bool is_float = dtype_is_float(n->type->dtype);
    bool ignores = !is_float && ignored_value(g, v, &ignored);
    if (n->type->dtype == DT_BOOL) bound = 2;
    if (bound <= 0) bound = UNBOUNDED;
    for (int64_t i = 0; i < count; i++) {
        uint32_t second, bits = philox(key, (uint64_t)i, &second);
        x[i] = is_float ? 4 * (double)random_unit(bits) - 2 : (double)(bits % (uint64_t)bound);
        if (ignores && second % 4 == 0) x[i] = ignored;
    }
    vec_push(&e->input, ((Filled){name, x}));
}

Equal *equal_new(const Graph *g, uint64_t seed, int64_t steps) {
    Arena *a = arena_new();
    Equal *e = arena_new_of(a, Equal);
    *e = (Equal){.arena = a, .seed = seed, .steps = steps};
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_input) && attr_str(node_of(g, v), "name")[0] != '@') fill(e, g, v);
    return e;
}

void equal_free(Equal *e) {
    if (!e) return;
    vec_free(&e->input);
    vec_free(&e->known);
    buf_free(&e->stuck);
    arena_free(e->arena);
}

static Ranks *start(const Equal *e, Graph *const *stage, int64_t stages) {
    Ranks *r = ranks_new_stages(stage, stages);
    for (uint32_t i = 0; i < e->input.n; i++) ranks_set(r, e->input.p[i].name, e->input.p[i].data);
    return r;
}

/* ---- what leaves a graph ---- */

const char *sink_name(Sink kind) {
    static const char *const name[] = {"output", "gradient", "parameter", "state"};
    _Static_assert(COUNT(name) == SINK_COUNT, "a name for each");
    return name[kind];
}

#define GRADIENT "grad/"

/* Gradients are nodes of their own first, and outputs called grad/NAME later. */
static bool is_sink(const Graph *g, Value v, Sink *kind, const char **name) {
    const Node *n = node_of(g, v);
    switch (n->op) {
    case OP_output: *kind = SINK_OUTPUT, *name = attr_str(n, "name"); break;
    case OP_gradient: *kind = SINK_GRADIENT, *name = attr_str(n, "of"); break;
    case OP_param: *kind = SINK_PARAM, *name = attr_str(n, "name"); break;
    case OP_state: *kind = SINK_STATE, *name = attr_str(n, "name"); break;
    default: return false;
    }
    if (*kind == SINK_OUTPUT && strncmp(*name, GRADIENT, strlen(GRADIENT)) == 0)
        *kind = SINK_GRADIENT, *name = intern(g->session, *name + strlen(GRADIENT));
    return true;
}

static Known *find_known(const Equal *e, Sink kind, const char *name, int64_t step) {
    for (uint32_t i = 0; i < e->known.n; i++) {
        Known *k = &e->known.p[i];
        if (k->kind == kind && k->name == name && k->step == step) return k;
    }
    return NULL;
}

/* A value of one stage, or of all classes of shares, by graph: NO_VALUE where it is not. */
typedef struct {
    int64_t stage; /* the first that has it */
    Value *v;
} Place;

static Place place_of(Arena *a, const Ranks *r, int64_t stage, Value v) {
    Place p = {stage, arena_array(a, Value, r->stages)};
    for (int64_t s = 0; s < r->stages; s++) p.v[s] = NO_VALUE;
    p.v[stage] = v;
    return p;
}

/* Where the sink is in the graphs of other classes of shares. */
static Place place_of_sink(Arena *a, const Ranks *r, int64_t stage, Value v) {
    Place p = place_of(a, r, stage, v);
    Sink kind, k;
    const char *name, *n;
    is_sink(r->stage[stage], v, &kind, &name);
    for (int64_t s = 0; s < r->stages && r->shared; s++)
        for (Value w = 0; w < r->stage[s]->node.n; w++)
            if (is_sink(r->stage[s], w, &k, &n) && k == kind && n == name) p.v[s] = w;
    return p;
}

/* Put together from its ranks: false when some that must agree do not. Before `optimize` divides it
 * out, and before it has changed, gradients contain the loss scale. */
static bool whole_of(Arena *a, const Ranks *r, const Place *p, const Type **type, double **data) {
    const Graph *g = r->stage[p->stage];
    Value v = p->v[p->stage];
    int64_t n = type_elements(*type = ranks_type(r, p->stage, v));
    double *x = *data = arena_array(a, double, n);
    bool agree = ranks_get_shares(r, p->v, x);
    for (int64_t i = 0; i < n && is_op(g, v, OP_gradient); i++) x[i] /= loss_scale_start(&g->set);
    return agree;
}

static Distance compare(const Ranks *r, const Place *p, const Type *type, const double *want,
                        double tiny) {
    Arena *a = arena_new();
    const Type *t;
    double *got;
    bool agree = whole_of(a, r, p, &t, &got);
    Distance d = {.shape = !type_same_shape(t, type)};
    if (d.shape)
        d.error = INFINITY;
    else
        d = distance_of(got, want, type_elements(t), tiny);
    d.apart = !agree;
    arena_free(a);
    return d;
}

static void note(Equal *e, const SinkDistance *s) {
    SinkDistance *worst = &e->worst[s->kind];
    e->compared[s->kind]++;
    if (!worst->name || !(s->distance.error <= worst->distance.error)) *worst = *s;
    if (!e->first.name && !distance_within(&s->distance, EQUAL_BOUND)) e->first = *s;
}

/* What has been compared in this step, as the first stage that gave it has it. */
typedef struct {
    const Ranks *r;
    int64_t step;
    bool trains;
    Arena *a;
    VEC(Known) given;
} Step;

/* Bit by bit, whatever an earlier stage gave under this name. */
static bool stages_agree(Step *p, Sink kind, const char *name, const Place *at) {
    Known own = {.kind = kind, .name = name};
    if (p->r->stages == 1 || p->r->shared) return true;
    whole_of(p->a, p->r, at, &own.type, &own.data);
    for (uint32_t i = 0; i < p->given.n; i++) {
        const Known *k = &p->given.p[i];
        if (k->kind != kind || k->name != name) continue;
        size_t bytes = (size_t)type_elements(k->type) * sizeof *k->data;
        return own.type == k->type && memcmp(own.data, k->data, bytes) == 0;
    }
    vec_push(&p->given, own);
    return true;
}

/* Of a graph that updates nothing, parameters are no results. */
static void take_sink(Equal *e, Step *p, int64_t stage, Value v) {
    Sink kind;
    const char *name;
    const Graph *g = p->r->stage[stage];
    if (!is_sink(g, v, &kind, &name)) return;
    if (!p->trains && (kind == SINK_PARAM || kind == SINK_STATE)) return;
    Known *k = find_known(e, kind, name, p->step);
    SinkDistance s = {.kind = kind, .name = name, .step = p->step, .loc = node_of(g, v)->loc};
    Place at = place_of_sink(p->a, p->r, stage, v);
    bool agree = stages_agree(p, kind, name, &at);
    if (k) {
        s.type = k->type;
        s.distance = compare(p->r, &at, k->type, k->data, EQUAL_TINY);
        s.distance.apart |= !agree;
        k->seen = e->form;
        note(e, &s);
        return;
    }
    Known new = {.kind = kind, .name = name, .step = p->step, .seen = e->form};
    s.distance.apart = !whole_of(e->arena, p->r, &at, &new.type, &new.data) || !agree;
    s.type = new.type;
    if (s.distance.apart) note(e, &s);
    vec_push(&e->known, new);
}

/* What the last form gave in this step and this one does not. */
static void find_lost(Equal *e, int64_t step) {
    for (uint32_t i = 0; i < e->known.n; i++) {
        const Known *k = &e->known.p[i];
        if (k->step != step || k->seen + 1 != e->form) continue;
        SinkDistance s = {.kind = k->kind, .name = k->name, .step = step, .type = k->type};
        s.distance.lost = true;
        note(e, &s);
    }
}

static bool updates(const Graph *g) {
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_assign)) return true;
    return false;
}

static void take_step(Equal *e, const Ranks *r, int64_t step, bool trains) {
    Step p = {.r = r, .step = step, .trains = trains, .a = arena_new()};
    for (int64_t s = 0; s < (r->shared ? 1 : r->stages); s++)
        for (Value v = 0; v < r->stage[s]->node.n; v++) take_sink(e, &p, s, v);
    find_lost(e, step);
    vec_free(&p.given);
    arena_free(p.a);
}

bool equal_stages(Equal *e, Graph *const *stage, int64_t stages) {
    uint64_t hash = 0;
    bool trains = false, through = true;
    for (int64_t s = 0; s < stages; s++) {
        hash = hash_mix(hash, graph_hash(stage[s]));
        trains |= updates(stage[s]);
    }
    if (e->form && hash == e->hash) return !e->first.name && !e->stuck.n;
    e->form++, e->hash = hash;
    e->first = (SinkDistance){0};
    e->stuck.n = 0;
    Ranks *r = start(e, stage, stages);
    for (int64_t step = 1; step <= (trains ? e->steps : 1) && !e->first.name && through; step++) {
        through = ranks_run(r, e->seed, step);
        if (through) take_step(e, r, step, trains);
    }
    if (!through) buf_puts(&e->stuck, r->err.p);
    ranks_free(r);
    return through && !e->first.name;
}

bool equal_form(Equal *e, Graph *g) { return equal_stages(e, &g, 1); }

const char *equal_stuck(const Equal *e) { return e->stuck.n ? e->stuck.p : NULL; }

SinkDistance equal_first(const Equal *e) { return e->first; }

SinkDistance equal_worst(const Equal *e, Sink kind, int64_t *compared) {
    *compared = e->compared[kind];
    return e->worst[kind];
}

void equal_mark(Equal *e) {
    memset(e->worst, 0, sizeof e->worst);
    memset(e->compared, 0, sizeof e->compared);
}

/* ---- the first value that differs ---- */

/* Between them rounding adds up to more than in what leaves a graph: sums that cancel. */
#define LOCATE_TINY 1e-3

/* Leaves hold what the step's end put there; the assignment tells what that is. A value without a
 * Spec, as constants are, is not known to be a part of anything. */
static bool is_compared(const Graph *g, Value v) {
    const Node *n = node_of(g, v);
    return n->type->dtype != DT_TUPLE && n->op != OP_input && n->op != OP_param &&
           n->op != OP_state;
}

/* Where the maps lead from v: to stage s, or for s = 0 to all classes of shares. False: nowhere. */
static bool follow(Arena *a, const Ranks *many, const ShardMap *map, int64_t s, Value v, Place *p) {
    for (int64_t i = s; i <= (many->shared ? many->stages - 1 : s); i++) {
        Value to = v < map[i].n ? map[i].to[v] : NO_VALUE;
        if (to == NO_VALUE || !node_of(many->stage[i], to)->spec) return false;
        if (i == s) *p = place_of(a, many, s, to);
        p->v[i] = to;
    }
    return true;
}

/* Value v of `one`, where a stage has it differently. */
static ValueDistance locate(const Ranks *one, Value v, const Ranks *many, const ShardMap *map) {
    ValueDistance found = {.v = NO_VALUE};
    Arena *a = arena_new();
    double *want;
    const Graph *before = one->stage[0];
    Place at = place_of(a, one, 0, v);
    bool known = is_compared(before, v) && (!before->set.sharded || node_of(before, v)->spec);
    if (known) whole_of(a, one, &at, &found.type, &want);
    int64_t stages = many->shared ? 1 : many->stages;
    for (int64_t s = 0; s < stages && known && found.v == NO_VALUE; s++) {
        if (!follow(a, many, map, s, v, &at)) continue;
        found.distance = compare(many, &at, found.type, want, LOCATE_TINY);
        if (!distance_within(&found.distance, EQUAL_BOUND)) found.v = v, found.stage = s;
    }
    arena_free(a);
    return found;
}

ValueDistance equal_locate(Equal *e, Graph *before, Graph *const *stage, const ShardMap *map,
                           int64_t stages, int64_t step) {
    Ranks *one = start(e, &before, 1), *many = start(e, stage, stages);
    ValueDistance found = {.v = NO_VALUE};
    bool ok = true;
    for (int64_t i = 1; i <= step && ok; i++)
        ok = ranks_run(one, e->seed, i) && ranks_run(many, e->seed, i);
    for (Value v = 0; v < before->node.n && ok && found.v == NO_VALUE; v++)
        found = locate(one, v, many, map);
    ranks_free(one);
    ranks_free(many);
    return found;
}

Graph *graph_copy(const Graph *g) {
    Graph *h = graph_like(g);
    Value *map = xcalloc(g->node.n + 1, sizeof *map);
    for (Value v = 0; v < g->node.n; v++) map[v] = graph_copy_node(h, g, v, map);
    free(map);
    return h;
}
