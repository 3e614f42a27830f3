/* stage_layers.c: which layer each node is part of.
 *
 * Three sweeps over the forward part: names (layers are numbered as they first appear), then along
 * the data, so that no node lies before what it reads, then against it for nodes that no rule has
 * placed. The backward part is placed by the scope and the line that a node has from its forward
 * node, then along the gradients, which must not go up. Values that depend on no parameter are
 * cheap and belong to whoever reads them. */
#include "passes/stage.h"

#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = -2 };

typedef struct {
    const Graph *g;
    bool annotated;
    bool *free;       /* by value: depends on no parameter or state */
    bool *open;       /* by value: a forward node that only its readers can place */
    bool *mixed;      /* by value: of the optimizer, and follows from several layers */
    int16_t *of;      /* by value */
    VEC(Value) param; /* by the address of their interned names */
    VEC(const char *) name;
    uint32_t *slot; /* open addressing: layer + 1 by name */
    uint32_t nslot;
    struct Place {
        uint64_t key;
        int16_t layer;
        bool used;
    } * place; /* open addressing: the last layer of a scope and line */
    uint32_t nplace;
} Layers;

/* ---- names ---- */

/* Annotation number i of the kind, or NULL. */
static const Annotation *stage_note(const Graph *g, uint32_t i) {
    for (uint32_t k = 0; k < g->note.n; k++)
        if (strcmp(g->note.p[k].kind, "stage") == 0 && i-- == 0) return &g->note.p[k];
    return NULL;
}

bool stage_annotated(const Graph *g) { return stage_note(g, 0) != NULL; }

size_t stage_layer_part(const char *scope) {
    size_t at = 0, first = strcspn(scope, ".");
    while (scope[at]) {
        size_t n = strcspn(scope + at, ".");
        if (memchr(scope + at, '[', n)) return at + n;
        at += n + (scope[at + n] == '.');
    }
    return first;
}

/* The layer with this interned name; without one UNKNOWN, or a new one. */
static int16_t layer_named(Layers *l, const char *name, bool make) {
    uint32_t i = (uint32_t)hash_mix((uintptr_t)name, 1) & (l->nslot - 1);
    for (; l->slot[i]; i = (i + 1) & (l->nslot - 1))
        if (l->name.p[l->slot[i] - 1] == name) return (int16_t)(l->slot[i] - 1);
    if (!make) return UNKNOWN;
    if (l->name.n == INT16_MAX) BUG("more than %d layers", INT16_MAX);
    vec_push(&l->name, name);
    l->slot[i] = l->name.n;
    return (int16_t)(l->name.n - 1);
}

/* The layer that a scope names, or UNKNOWN. */
static int16_t named(Layers *l, const char *scope, bool make) {
    if (!l->annotated) {
        if (!*scope) return UNKNOWN;
        return layer_named(l, intern_n(l->g->session, scope, stage_layer_part(scope)), make);
    }
    for (uint32_t i = 0; i < l->name.n; i++)
        if (scope_covers(l->name.p[i], strlen(l->name.p[i]), scope)) return (int16_t)i;
    return UNKNOWN;
}

/* ---- what every stage has ---- */

static bool is_leaf(const Node *n) { return (op_info((Op)n->op)->flags & OPF_LEAF) != 0; }

static void find_free(Layers *l) {
    for (Value v = 0; v < l->g->node.n; v++) {
        const Node *n = node_of(l->g, v);
        bool effect = is_effect(n);
        l->free[v] = n->op != OP_param && n->op != OP_state && !effect;
        for (uint32_t i = 0; i < n->nin; i++) l->free[v] &= l->free[operand(l->g, v, i)];
    }
}

/* Is node v placed by the rules for its phase? */
static bool moves(const Layers *l, Value v, Phase phase) {
    const Node *n = node_of(l->g, v);
    return n->phase == phase && !l->free[v] && !is_leaf(n);
}

/* ---- forward ---- */

static uint64_t place_key(const Node *n) {
    uint64_t at = (uint64_t)n->loc.file << 48 | (uint64_t)n->loc.col << 32 | n->loc.line;
    return hash_mix((uintptr_t)n->scope, at);
}

/* The entry of a scope and line; not `used` when it is new. */
static struct Place *place_of(Layers *l, const Node *n) {
    uint64_t key = place_key(n);
    uint32_t i = (uint32_t)key & (l->nplace - 1);
    while (l->place[i].used && l->place[i].key != key) i = (i + 1) & (l->nplace - 1);
    l->place[i].key = key;
    return &l->place[i];
}

/* Annotations whose order is not that of the data. */
static bool explain(const Layers *l, Value v, int16_t own, int16_t needs) {
    Session *s = l->g->session;
    diag_error(s, node_of(l->g, v)->loc, "stage '%s' needs a result of stage '%s'", l->name.p[own],
               l->name.p[needs]);
    diag_note(s, stage_note(l->g, (uint32_t)needs)->loc, "which comes later, here");
    return false;
}

static bool forward(Layers *l) {
    for (Value v = 0; v < l->g->node.n; v++) {
        const Node *n = node_of(l->g, v);
        l->of[v] = UNKNOWN;
        if (!moves(l, v, PHASE_FORWARD)) continue;
        int16_t own = named(l, n->scope, true);
        l->of[v] = own;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = operand(l->g, v, i);
            if (moves(l, x, PHASE_FORWARD)) l->of[v] = MAX(l->of[v], l->of[x]);
        }
        if (l->annotated && own != UNKNOWN && l->of[v] > own) return explain(l, v, own, l->of[v]);
        l->open[v] = l->of[v] == UNKNOWN;
    }
    if (l->name.n == 0) vec_push(&l->name, "");
    return true;
}

/* What only parameters lead to, outside all layers, goes to its first reader; then the places of
 * all are noted for their gradients. */
static void place_rest(Layers *l) {
    for (Value v = l->g->node.n; v-- > 0;) {
        const Node *n = node_of(l->g, v);
        if (!moves(l, v, PHASE_FORWARD)) continue;
        if (l->of[v] == UNKNOWN) l->of[v] = 0;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = operand(l->g, v, i);
            if (l->open[x]) l->of[x] = l->of[x] == UNKNOWN ? l->of[v] : MIN(l->of[x], l->of[v]);
        }
        struct Place *p = place_of(l, n);
        p->layer = p->used ? MAX(p->layer, l->of[v]) : l->of[v];
        p->used = true;
    }
}

/* ---- backward, parameters, optimizer ---- */

static void backward(Layers *l) {
    for (Value v = 0; v < l->g->node.n; v++) {
        const Node *n = node_of(l->g, v);
        if (!moves(l, v, PHASE_BACKWARD)) continue;
        struct Place *p = place_of(l, n);
        int16_t own = p->used ? p->layer : named(l, n->scope, false), least = INT16_MAX;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = operand(l->g, v, i);
            if (moves(l, x, PHASE_BACKWARD)) least = MIN(least, l->of[x]);
        }
        if (own == UNKNOWN) own = (int16_t)(l->name.n - 1);
        l->of[v] = MIN(own, least);
    }
}

static void parameters(Layers *l) {
    const Graph *g = l->g;
    for (Value v = 0; v < g->node.n; v++) {
        if (!moves(l, v, PHASE_FORWARD)) continue;
        for (uint32_t i = 0; i < node_of(g, v)->nin; i++) {
            Value x = operand(g, v, i);
            if (!is_op(g, x, OP_param)) continue;
            l->of[x] = l->of[x] == UNKNOWN ? l->of[v] : MIN(l->of[x], l->of[v]);
        }
    }
    for (Value v = 0; v < g->node.n; v++)
        if (is_op(g, v, OP_param) && l->of[v] == UNKNOWN)
            l->of[v] = MAX(named(l, node_of(g, v)->scope, false), 0);
}

/* The layer of all that v reads: EVERY_STAGE when there is none, or several, of which v is a
 * mixture then, as is what reads a mixture. */
static int16_t common(Layers *l, Value v) {
    int16_t of = EVERY_STAGE;
    for (uint32_t i = 0; i < node_of(l->g, v)->nin; i++) {
        Value x = operand(l->g, v, i);
        l->mixed[v] |= l->mixed[x];
        if (l->free[x] || l->of[x] == EVERY_STAGE) continue;
        l->mixed[v] |= of != EVERY_STAGE && of != l->of[x];
        of = l->of[x];
    }
    return l->mixed[v] ? EVERY_STAGE : of;
}

static int by_name(const void *x, const void *y, void *ctx) {
    const Graph *g = ctx;
    uintptr_t a = (uintptr_t)attr_str(node_of(g, *(const Value *)x), "name");
    uintptr_t b = (uintptr_t)attr_str(node_of(g, *(const Value *)y), "name");
    return a < b ? -1 : a > b;
}

static void sort_parameters(Layers *l) {
    for (Value v = 0; v < l->g->node.n; v++)
        if (is_op(l->g, v, OP_param)) vec_push(&l->param, v);
    if (l->param.n) qsort_r(l->param.p, l->param.n, sizeof(Value), by_name, (void *)l->g);
}

/* The parameter with an interned name, or NO_VALUE. */
static Value parameter(const Layers *l, const char *name) {
    uint32_t lo = 0, hi = l->param.n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const char *at = attr_str(node_of(l->g, l->param.p[mid]), "name");
        if (at == name) return l->param.p[mid];
        if ((uintptr_t)at < (uintptr_t)name)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NO_VALUE;
}

/* The scope ends with the parameter: "apply[2]/optimizer/block[0].norm.scale". */
static void optimizer(Layers *l) {
    const Graph *g = l->g;
    sort_parameters(l);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        const char *slash = strrchr(n->scope, '/');
        Value p = NO_VALUE;
        if (n->op == OP_state)
            p = parameter(l, attr_str(n, "of"));
        else if (!moves(l, v, PHASE_APPLY))
            continue;
        else if (slash)
            p = parameter(l, intern(g->session, slash + 1));
        l->of[v] = p != NO_VALUE ? l->of[p] : common(l, v);
    }
    vec_free(&l->param);
}

/* Cheap values go where they are read. */
static void cheap(Layers *l) {
    for (Value v = l->g->node.n; v-- > 0;) {
        const Node *n = node_of(l->g, v);
        if (l->of[v] == UNKNOWN) l->of[v] = EVERY_STAGE;
        for (uint32_t i = 0; i < n->nin; i++) {
            Value x = operand(l->g, v, i);
            if (!l->free[x]) continue;
            l->of[x] = l->of[x] == UNKNOWN || l->of[x] == l->of[v] ? l->of[v] : EVERY_STAGE;
        }
    }
}

static void name_layers(const Layers *l, StageLayers *out, Arena *a) {
    uint32_t n = l->name.n;
    *out = (StageLayers){n, arena_array(a, const char *, n), arena_array(a, Loc, n), l->of};
    for (uint32_t i = 0; i < n; i++) {
        out->name[i] = l->name.p[i];
        if (l->annotated) out->loc[i] = stage_note(l->g, i)->loc;
    }
    for (Value v = 0; v < l->g->node.n; v++) {
        const Node *node = node_of(l->g, v);
        if (node->phase != PHASE_FORWARD || l->of[v] == EVERY_STAGE) continue;
        if (out->loc[l->of[v]].line == 0) out->loc[l->of[v]] = node->loc;
    }
}

static uint32_t power_of_two(uint32_t least) {
    uint32_t n = 16;
    while (n < least) n *= 2;
    return n;
}

bool stage_layers(const Graph *g, StageLayers *out, Arena *a) {
    Layers l = {.g = g, .annotated = stage_annotated(g)};
    l.free = arena_array(a, bool, g->node.n + 1);
    l.open = arena_array(a, bool, g->node.n + 1);
    l.mixed = arena_array(a, bool, g->node.n + 1);
    l.of = arena_array(a, int16_t, g->node.n + 1);
    l.nslot = l.nplace = power_of_two(2 * g->node.n);
    l.slot = arena_array(a, uint32_t, l.nslot);
    l.place = arena_array(a, struct Place, l.nplace);
    for (const Annotation *n; (n = stage_note(g, l.name.n));) vec_push(&l.name, n->scope);
    find_free(&l);
    bool ok = forward(&l);
    if (ok) {
        place_rest(&l);
        backward(&l);
        parameters(&l);
        optimizer(&l);
        cheap(&l);
    }
    if (ok) name_layers(&l, out, a);
    vec_free(&l.name);
    return ok;
}
