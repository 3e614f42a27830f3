/* sample.h: a small graph with data, for tests of what ops compute. Build nodes on `s.g`, fill
 * inputs by the functions here, then read any value by sample_get: the first call runs the graph.
 * Data is f32 computed in double (Interp.round_f32 is off), random but the same every time. */
#ifndef M6C_TESTS_SAMPLE_H
#define M6C_TESTS_SAMPLE_H

#include "ir/ir.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    Value leaf;
    const char *name;
    double *data;
    int64_t n;
} SampleInput;

typedef struct {
    Session *session;
    Graph *g;
    uint32_t key;
    uint64_t drawn;
    VEC(SampleInput) in;
    Interp *run;
} Sample;

static inline Sample sample_new(uint32_t key) {
    Session *s = session_new();
    return (Sample){.session = s, .g = graph_new(s, "sample"), .key = key};
}

static inline void sample_free(Sample *s) {
    interp_free(s->run);
    vec_free(&s->in);
    graph_free(s->g);
    session_free(s->session);
}

static inline double sample_unit(Sample *s) {
    return (double)philox(s->key, s->drawn++, NULL) * 0x1p-32;
}

/* A whole number in low..high, both included. */
static inline int64_t sample_int(Sample *s, int64_t low, int64_t high) {
    return low + (int64_t)(sample_unit(s) * (double)(high - low + 1));
}

/* "2,3" as f32[2,3]; "" is a scalar. */
static inline const Type *sample_type(Sample *s, Dtype d, const char *shape) {
    int64_t dim[MAX_RANK];
    int rank = 0;
    char *end;
    while (*shape) {
        dim[rank++] = strtol(shape, &end, 10);
        shape = *end ? end + 1 : end;
    }
    return type_tensor(s->session, d, rank, dim);
}

/* An input with this data; data NULL: to be filled by the caller. */
static inline Value sample_input(Sample *s, const Type *t, const double *data) {
    const char *name =
        intern(s->session, arena_printf(session_arena(s->session), "x%u", (unsigned)s->in.n));
    AttrValue at[] = {{.s = name}, {.i = 0}};
    SampleInput in = {.name = name, .n = type_elements(t)};
    in.leaf = graph_leaf(s->g, OP_input, attr_intern(s->session, OP_input, at), t);
    in.data = arena_array(session_arena(s->session), double, in.n);
    for (int64_t i = 0; data && i < in.n; i++) in.data[i] = data[i];
    vec_push(&s->in, in);
    return in.leaf;
}

/* Random elements in [low, high); whole numbers of integer types. */
static inline Value sample_random(Sample *s, const Type *t, double low, double high) {
    Value v = sample_input(s, t, NULL);
    SampleInput *in = &s->in.p[s->in.n - 1];
    for (int64_t i = 0; i < in->n; i++) {
        double x = low + (high - low) * sample_unit(s);
        in->data[i] = dtype_is_float(t->dtype) ? x : floor(x);
    }
    return v;
}

/* A node whose attributes are given in schema order. */
static inline Value sample_node(Sample *s, Op op, const AttrValue *at, uint32_t n,
                                const Value *in) {
    return graph_add(s->g, op, at ? attr_intern(s->session, op, at) : NULL, n, in);
}

static inline AttrValue sample_ints(Sample *s, uint32_t n, const int64_t *x) {
    return (AttrValue){.v = ints_intern(s->session, n, x)};
}

/* Runs the graph once more, with the inputs' present data. */
static inline void sample_run(Sample *s) {
    if (!s->run) s->run = interp_new(s->g);
    for (uint32_t i = 0; i < s->in.n; i++) interp_set(s->run, s->in.p[i].name, s->in.p[i].data);
    interp_run(s->run, 0, 1);
}

/* Result i of node v. */
static inline const double *sample_result(Sample *s, Value v, uint32_t i) {
    if (!s->run) sample_run(s);
    return s->run->value[v][i].data;
}

static inline const double *sample_get(Sample *s, Value v) { return sample_result(s, v, 0); }

/* Largest distance of two arrays, each relative to max(1, |b|); infinite when one has a NaN. */
static inline double sample_distance(const double *a, const double *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(a[i] - b[i]) / fmax(1, fabs(b[i]));
        if (a[i] == b[i]) d = 0;
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* Whether result 0 of v is these numbers, within 1e-12. */
static inline bool sample_is(Sample *s, Value v, const double *expected) {
    const double *x = sample_get(s, v);
    return sample_distance(x, expected, type_elements(s->run->value[v]->type)) < 1e-12;
}

#endif
