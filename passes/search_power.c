/* search_power.c: how the shapes of one rank's graph depend on the sizes of the mesh's axes.
 *
 * `shard` says of most values which dimensions are split over which axes. What later passes made
 * has no such note: there, as for micro-batches, which no value says, powers go from operands to
 * results along the labels of the dimensions (shard_dims.c). */
#include "passes/search.h"

#include <stdlib.h>
#include <string.h>

#include "passes/shard.h"

const char *search_axis_name(SearchAxis a) {
    static const char *const names[] = {MESH_DATA, MESH_EXPERT, MESH_TENSOR, "micro"};
    return names[a];
}

/* ---- powers as one number: in base 3, each plus 1 ---- */

static const int place[AXIS_COUNT] = {1, 3, 9, 27};

Power power_make(const int power[AXIS_COUNT]) {
    int p = 0;
    for (int a = 0; a < AXIS_COUNT; a++) p += (MIN(MAX(power[a], -1), 1) + 1) * place[a];
    return (Power)p;
}

int power_of(Power p, SearchAxis a) { return p / place[a] % 3 - 1; }

void power_factors(const int64_t then[AXIS_COUNT], const int64_t now[AXIS_COUNT],
                   double factor[POWERS]) {
    for (int p = 0; p < POWERS; p++) {
        factor[p] = 1;
        for (int a = 0; a < AXIS_COUNT; a++) {
            double grown = (double)now[a] / (double)then[a];
            int power = power_of((Power)p, (SearchAxis)a);
            factor[p] *= power > 0 ? grown : power < 0 ? 1 / grown : 1;
        }
    }
}

/* ---- powers of dimensions ---- */

typedef struct {
    int8_t of[MAX_RANK][AXIS_COUNT];
} Shape; /* of a value's dimensions */

typedef struct {
    const Graph *g;
    Shape *shape;  /* by value */
    int64_t batch; /* dim 0 of the inputs that micro-batches divide */
} Powers;

unsigned search_axes(const char *over) {
    unsigned axes = 0;
    while (over && *over) {
        size_t n = strcspn(over, ".%/");
        for (int a = 0; a < AXIS_MICRO; a++) {
            const char *name = search_axis_name((SearchAxis)a);
            if (strlen(name) == n && memcmp(name, over, n) == 0) axes |= 1u << a;
        }
        over += strcspn(over, ".");
        over += *over == '.';
    }
    return axes;
}

static void add_axes(int8_t of[AXIS_COUNT], unsigned axes, int power) {
    for (int a = 0; a < AXIS_COUNT; a++)
        if (axes >> a & 1) of[a] = (int8_t)(of[a] + power);
}

static void join(int8_t to[AXIS_COUNT], const int8_t from[AXIS_COUNT]) {
    for (int a = 0; a < AXIS_COUNT; a++)
        if (!to[a] || from[a] < 0) to[a] = from[a] ? from[a] : to[a];
}

/* Along equal labels of operands and result `index`. */
static void by_labels(Powers *p, Value v, uint32_t index, Shape *out) {
    int8_t label[DIMS_LABELS][AXIS_COUNT];
    Dims d;
    memset(label, 0, sizeof label);
    dims_of(p->g, v, &d);
    for (uint32_t i = 0; i < node_of(p->g, v)->nin; i++) {
        Value x = operand(p->g, v, i);
        for (int k = 0; k < type_of(p->g, x)->rank; k++)
            if (d.in[i][k] >= 0) join(label[d.in[i][k]], p->shape[x].of[k]);
    }
    for (int k = 0; k < MAX_RANK; k++)
        if (d.out[index][k] >= 0) memcpy(out->of[k], label[d.out[index][k]], AXIS_COUNT);
}

/* Dims of one group have one product; its powers go to the result's first dim that is not 1. */
static void by_reshape(const Type *a, const Type *b, const Shape *in, Shape *out) {
    for (int i = 0, j = 0; i < a->rank && j < b->rank;) {
        int64_t x = a->dim[i], y = b->dim[j];
        int first = j;
        int8_t sum[AXIS_COUNT] = {0};
        for (int k = 0; k < AXIS_COUNT; k++) sum[k] = in->of[i][k];
        while (x != y || (x == 1 && y == 1 && i + 1 < a->rank && j + 1 < b->rank)) {
            if (x <= y && i + 1 < a->rank) {
                x *= a->dim[++i];
                for (int k = 0; k < AXIS_COUNT; k++) sum[k] = (int8_t)(sum[k] + in->of[i][k]);
            } else if (j + 1 < b->rank) {
                y *= b->dim[++j];
                if (b->dim[first] == 1) first = j;
            } else {
                break;
            }
        }
        memcpy(out->of[first], sum, AXIS_COUNT);
        i++, j++;
    }
}

/* Slots and rows go with all tokens, however these lie in groups. */
static void by_route(const Powers *p, Value v, uint32_t index, Shape *out) {
    int8_t tokens[AXIS_COUNT] = {0};
    const Shape *in = &p->shape[operand(p->g, v, 0)];
    join(tokens, in->of[0]);
    join(tokens, in->of[1]);
    memcpy(out->of[index == 2], tokens, AXIS_COUNT);
}

static void by_block(const Powers *p, Value v, Shape *out) {
    const Node *n = node_of(p->g, v), *index = node_of(p->g, operand(p->g, v, 1));
    *out = p->shape[operand(p->g, v, 0)];
    if (index->op != OP_input) return;
    unsigned axes = search_axes(attr_str(index, "name") + strlen(MESH_INDEX));
    add_axes(out->of[attr_int(n, "dim")], axes, -1);
}

static void by_collective(const Powers *p, Value v, Shape *out) {
    const Node *n = node_of(p->g, v);
    const Shape *in = &p->shape[operand(p->g, v, 0)];
    unsigned axes = search_axes(attr_str(n, "over"));
    int rank = type_of(p->g, operand(p->g, v, 0))->rank;
    if (n->op == OP_all_gather) {
        memcpy(out->of[1], in->of[0], (size_t)rank * AXIS_COUNT);
        add_axes(out->of[0], axes, 1);
    } else if (n->op == OP_reduce_scatter) {
        memcpy(out->of[0], in->of[1], (size_t)(rank - 1) * AXIS_COUNT);
        for (int a = 0; a < AXIS_COUNT; a++) out->of[0][a] = (int8_t)(out->of[0][a] + in->of[0][a]);
        add_axes(out->of[0], axes, -1);
    } else {
        *out = *in;
    }
}

static void by_op(Powers *p, Value v, Shape *out) {
    const Node *n = node_of(p->g, v);
    Value x = n->nin ? operand(p->g, v, 0) : NO_VALUE;
    uint32_t index = n->op == OP_proj ? (uint32_t)attr_int(n, "index") : 0;
    if (n->op == OP_proj && is_collective(node_of(p->g, x))) {
        *out = p->shape[operand(p->g, x, index)];
        return;
    }
    Value from = n->op == OP_proj ? x : v;
    if (n->op == OP_input && n->type->rank && n->type->dim[0] == p->batch)
        out->of[0][AXIS_MICRO] = -1;
    else if (n->op == OP_reshape)
        by_reshape(type_of(p->g, x), n->type, &p->shape[x], out);
    else if (n->op == OP_block)
        by_block(p, v, out);
    else if (node_of(p->g, from)->op == OP_route && index < 3)
        by_route(p, from, index, out);
    else if (is_collective(n))
        by_collective(p, v, out);
    else if (n->nin)
        by_labels(p, from, index, out);
}

/* What `shard` said of the value counts; that it is a micro-batch's follows from its operands. */
static void by_spec(const Spec *spec, Shape *out) {
    for (int k = 0; k < spec->rank; k++) {
        for (int a = 0; a < AXIS_MICRO; a++) out->of[k][a] = 0;
        add_axes(out->of[k], search_axes(spec->axis[k]), -1);
    }
}

/* ---- of the whole graph ---- */

int64_t search_batch(const Graph *g) {
    int64_t any = 0;
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        if (n->op != OP_input || !n->type->rank || attr_str(n, "name")[0] == '@') continue;
        if (n->spec && n->spec->axis[0]) return n->type->dim[0];
        if (!any) any = n->type->dim[0];
    }
    return any;
}

/* A dimension of the whole tensor is this rank's part times the ranks. */
static void note_divisor(const Graph *g, const Node *n, int64_t *divisor) {
    for (int k = 0; n->spec && k < n->spec->rank; k++) {
        unsigned axes = search_axes(n->spec->axis[k]);
        int64_t whole = n->type->dim[k] * mesh_parts(&g->set, n->spec, k);
        if (axes) divisor[axes] = common_divisor(whole, divisor[axes]);
    }
}

static Power total(const Shape *s, int rank) {
    int sum[AXIS_COUNT] = {0};
    for (int k = 0; k < rank; k++)
        for (int a = 0; a < AXIS_COUNT; a++) sum[a] += s->of[k][a];
    return power_make(sum);
}

Power *power_of_values(const Graph *g, int64_t divisor[1 << AXIS_COUNT], Arena *a) {
    Powers p = {.g = g, .batch = search_batch(g)};
    p.shape = arena_array(a, Shape, g->node.n + 1);
    Power *of = arena_array(a, Power, g->node.n + 1);
    memset(divisor, 0, sizeof(int64_t) << AXIS_COUNT);
    for (Value v = 0; v < g->node.n; v++) {
        const Node *n = node_of(g, v);
        of[v] = POWER_NONE;
        if (n->type->dtype == DT_TUPLE) continue;
        by_op(&p, v, &p.shape[v]);
        if (n->spec) by_spec(n->spec, &p.shape[v]);
        note_divisor(g, n, divisor);
        of[v] = total(&p.shape[v], n->type->rank);
    }
    return of;
}
