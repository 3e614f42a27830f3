/* test_eval.c: what elementwise, shape, reduction, contraction and indexed ops compute, against
 * other formulas or index arithmetic, on random shapes; and the interpreter itself: storage
 * formats, leaves, assignments. Networks' ops are in test_eval_nn.c. */
#include "tests/ir/sample.h"

/* ---- elementwise ---- */

static double ref_gelu(double a) {
    return a / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (a + 0.044715 * a * a * a)));
}
static double ref_sigmoid(double a) { return 0.5 * (1 + tanh(a / 2)); }

typedef double Ref(double a, double b, double c);
#define REF(name, expr)                                                                            \
    static double r_##name(double a, double b, double c) {                                         \
        (void)a, (void)b, (void)c;                                                                 \
        return expr;                                                                               \
    }
REF(add, b + a)
REF(sub, -(b - a))
REF(mul, b *a)
REF(div, a *(1 / b))
REF(maximum, fmax(a, b))
REF(minimum, fmin(a, b))
REF(pow, exp(b *log(a)))
REF(neg, 0 - a)
REF(abs, fabs(a))
REF(exp, exp2(a / log(2)))
REF(log, log2(a) * log(2))
REF(sqrt, exp(log(a) / 2))
REF(rsqrt, exp(-log(a) / 2))
REF(sin, cos(a - acos(0)))
REF(cos, sin(a + acos(0)))
REF(floor, a - fmod(a, 1) - (fmod(a, 1) < 0))
REF(tanh, 1 - 2 / (exp(2 * a) + 1))
REF(erf, 1 - erfc(a))
REF(sigmoid, ref_sigmoid(a))
REF(relu, fmax(a, 0))
REF(silu, a *ref_sigmoid(a))
REF(gelu, ref_gelu(a))
REF(gelu_grad, (ref_gelu(a + 1e-4) - ref_gelu(a - 1e-4)) / 2e-4)
REF(isfinite, fabs(a) < INFINITY)
REF(lt, !(a >= b))
REF(le, !(a > b))
REF(gt, !(a <= b))
REF(ge, !(a < b))
REF(eq, !(a < b || a > b))
REF(ne, a<b || a> b)
REF(and, a != 0 && b != 0)
REF(or, a != 0 || b != 0)
REF(not, a != 0 ? 0 : 1)
REF(select, a != 0 ? b : c)
REF(cast, a)

/* Operands are whole numbers in -2..2 where `whole`, positive where `positive`, else [-3, 3). */
static const struct {
    Op op;
    Ref *ref;
    bool whole, positive;
    double limit;
} elementwise[] = {
    {OP_add, r_add, 0, 0, 0},
    {OP_sub, r_sub, 0, 0, 0},
    {OP_mul, r_mul, 0, 0, 0},
    {OP_div, r_div, 0, 1, 1e-15},
    {OP_maximum, r_maximum, 1, 0, 0},
    {OP_minimum, r_minimum, 1, 0, 0},
    {OP_pow, r_pow, 0, 1, 1e-13},
    {OP_neg, r_neg, 0, 0, 0},
    {OP_abs, r_abs, 0, 0, 0},
    {OP_exp, r_exp, 0, 0, 1e-14},
    {OP_log, r_log, 0, 1, 1e-14},
    {OP_sqrt, r_sqrt, 0, 1, 1e-14},
    {OP_rsqrt, r_rsqrt, 0, 1, 1e-14},
    {OP_sin, r_sin, 0, 0, 1e-14},
    {OP_cos, r_cos, 0, 0, 1e-14},
    {OP_floor, r_floor, 0, 0, 0},
    {OP_tanh, r_tanh, 0, 0, 1e-14},
    {OP_erf, r_erf, 0, 0, 1e-14},
    {OP_sigmoid, r_sigmoid, 0, 0, 1e-14},
    {OP_relu, r_relu, 1, 0, 0},
    {OP_silu, r_silu, 0, 0, 1e-14},
    {OP_gelu, r_gelu, 0, 0, 1e-14},
    {OP_gelu_grad, r_gelu_grad, 0, 0, 1e-8},
    {OP_isfinite, r_isfinite, 0, 0, 0},
    {OP_lt, r_lt, 1, 0, 0},
    {OP_le, r_le, 1, 0, 0},
    {OP_gt, r_gt, 1, 0, 0},
    {OP_ge, r_ge, 1, 0, 0},
    {OP_eq, r_eq, 1, 0, 0},
    {OP_ne, r_ne, 1, 0, 0},
    {OP_and, r_and, 1, 0, 0},
    {OP_or, r_or, 1, 0, 0},
    {OP_not, r_not, 1, 0, 0},
    {OP_select, r_select, 1, 0, 0},
    {OP_cast, r_cast, 0, 0, 0},
};

/* Operands of op on a column of 40 elements; those that must be bool are. */
static Value elementwise_node(Sample *s, size_t row, Value *x) {
    Op op = elementwise[row].op;
    bool logic = op == OP_and || op == OP_or || op == OP_not;
    double low = elementwise[row].positive ? 0.5 : elementwise[row].whole ? -2 : -3;
    for (int i = 0; i < op_info(op)->arity; i++) {
        x[i] = sample_random(s, sample_type(s, DT_F32, "40"), low, 3);
        double *data = s->in.p[s->in.n - 1].data;
        for (int j = 0; elementwise[row].whole && j < 40; j++) data[j] = floor(data[j]);
    }
    if (op == OP_isfinite) s->in.p[0].data[3] = INFINITY, s->in.p[0].data[5] = NAN;
    if (op == OP_cast) return b_cast(s->g, x[0], DT_F64);
    Value in[3] = {x[0], x[1], x[2]};
    for (int i = 0; i < op_info(op)->arity; i++)
        if (logic || (op == OP_select && i == 0)) in[i] = b_cast(s->g, x[i], DT_BOOL);
    return graph_add(s->g, op, NULL, (uint32_t)op_info(op)->arity, in);
}

static void test_elementwise(void) {
    for (size_t row = 0; row < COUNT(elementwise); row++) {
        Sample s = sample_new((uint32_t)row + 1);
        Value x[3] = {0}, y = elementwise_node(&s, row, x);
        double expected[40];
        for (int i = 0; i < 40; i++)
            expected[i] = elementwise[row].ref(s.in.p[0].data[i], sample_get(&s, x[1])[i],
                                               sample_get(&s, x[2])[i]);
        if (!CHECK(sample_distance(sample_get(&s, y), expected, 40) <= elementwise[row].limit))
            fprintf(stderr, "  %s\n", op_info(elementwise[row].op)->name);
        sample_free(&s);
    }
    for (unsigned op = 0; op < OP_COUNT; op++) {
        bool found = !(op_info((Op)op)->flags & OPF_EW);
        for (size_t i = 0; i < COUNT(elementwise); i++) found |= elementwise[i].op == op;
        if (!CHECK(found)) fprintf(stderr, "  %s has no reference\n", op_info((Op)op)->name);
    }
}

/* ---- index arithmetic, the slow way ---- */

static int64_t flat(const Type *t, const int64_t *index) {
    int64_t at = 0;
    for (int i = 0; i < t->rank; i++) at = at * t->dim[i] + index[i];
    return at;
}

/* The next index in row-major order; false after the last. */
static bool next_index(const Type *t, int64_t *index) {
    for (int i = t->rank; i-- > 0;) {
        if (++index[i] < t->dim[i]) return true;
        index[i] = 0;
    }
    return false;
}

static const Type *random_type(Sample *s, int rank) {
    int64_t dim[MAX_RANK];
    for (int i = 0; i < rank; i++) dim[i] = sample_int(s, 1, 4);
    return type_tensor(s->session, DT_F32, rank, dim);
}

static Value random_input(Sample *s, int rank) {
    return sample_random(s, random_type(s, rank), -1, 1);
}

/* A random shape op of x. For every element of the result, where[] is the operand's index. */
typedef struct {
    Op op;
    int64_t a[MAX_RANK], b[MAX_RANK];
} Shape;

static Value random_shape_op(Sample *s, Value x, Shape *z) {
    const Type *t = type_of(s->g, x);
    int64_t dim[MAX_RANK];
    for (int i = 0; i < t->rank; i++) z->a[i] = i;
    for (int i = 0; i < t->rank; i++) {
        if (z->op == OP_transpose) {
            int64_t j = sample_int(s, i, t->rank - 1), old = z->a[i];
            z->a[i] = z->a[j], z->a[j] = old;
        } else if (z->op == OP_slice) {
            z->a[i] = sample_int(s, 0, t->dim[i] - 1);
            z->b[i] = sample_int(s, z->a[i] + 1, t->dim[i]);
        } else if (z->op == OP_pad) {
            z->a[i] = sample_int(s, 0, 2), z->b[i] = sample_int(s, 0, 2);
        } else {
            z->a[i] = 2 * i + 1 - (i > 0 ? sample_int(s, 0, 1) : 0);
        }
    }
    if (z->op == OP_transpose) return b_transpose(s->g, x, z->a);
    if (z->op == OP_slice) return b_slice(s->g, x, z->a, z->b);
    if (z->op == OP_pad) {
        AttrValue at[] = {sample_ints(s, (uint32_t)t->rank, z->a),
                          sample_ints(s, (uint32_t)t->rank, z->b)};
        return sample_node(s, OP_pad, at, 1, &x);
    }
    for (int i = 0; i < 2 * t->rank + 1; i++) dim[i] = sample_int(s, 1, 3);
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] != 1) dim[z->a[i]] = t->dim[i];
    return b_broadcast(s->g, x, 2 * t->rank + 1, dim, z->a);
}

/* The operand's index behind a result's; false where there is none (padding). */
static bool source_index(const Shape *z, const Type *t, const int64_t *to, int64_t *from) {
    for (int i = 0; i < t->rank; i++) {
        if (z->op == OP_transpose) from[z->a[i]] = to[i];
        if (z->op == OP_slice) from[i] = to[i] + z->a[i];
        if (z->op == OP_pad) from[i] = to[i] - z->a[i];
        if (z->op == OP_broadcast) from[i] = t->dim[i] == 1 ? 0 : to[z->a[i]];
    }
    for (int i = 0; i < t->rank; i++)
        if (from[i] < 0 || from[i] >= t->dim[i]) return false;
    return true;
}

static void test_shapes(void) {
    static const Op ops[] = {OP_transpose, OP_slice, OP_pad, OP_broadcast};
    for (uint32_t key = 0; key < 100; key++) {
        Sample s = sample_new(key);
        Shape z = {.op = ops[key % COUNT(ops)]};
        Value x = random_input(&s, (int)sample_int(&s, 0, 3)), y = random_shape_op(&s, x, &z);
        const double *to = sample_get(&s, y), *from = sample_get(&s, x);
        const Type *tx = type_of(s.g, x), *ty = type_of(s.g, y);
        int64_t i[MAX_RANK] = {0}, j[MAX_RANK];
        do {
            bool inside = source_index(&z, tx, i, j);
            CHECK(to[flat(ty, i)] == (inside ? from[flat(tx, j)] : 0));
        } while (next_index(ty, i));
        sample_free(&s);
    }
}

static void test_reshape_and_concat(void) {
    Sample s = sample_new(1);
    static const double a[] = {1, 2, 3, 4}, b[] = {5, 6};
    Value x = sample_input(&s, sample_type(&s, DT_F32, "2,2"), a);
    Value y = sample_input(&s, sample_type(&s, DT_F32, "2,1"), b);
    Value z = sample_input(&s, sample_type(&s, DT_F32, "1,2"), b);
    Value wide = sample_node(&s, OP_concat, &(AttrValue){.i = 1}, 3, (Value[]){x, y, x});
    Value tall = sample_node(&s, OP_concat, &(AttrValue){.i = 0}, 2, (Value[]){z, x});
    Value line = b_reshape(s.g, x, 1, (int64_t[]){4});
    CHECK(sample_is(&s, wide, (double[]){1, 2, 5, 1, 2, 3, 4, 6, 3, 4}));
    CHECK(sample_is(&s, tall, (double[]){5, 6, 1, 2, 3, 4}));
    CHECK(sample_is(&s, line, a));
    sample_free(&s);
}

static void test_reduce(void) {
    static const Op ops[] = {OP_sum, OP_max, OP_min};
    for (uint32_t key = 0; key < 60; key++) {
        Sample s = sample_new(key);
        Op op = ops[key % COUNT(ops)];
        Value x = random_input(&s, (int)sample_int(&s, 1, 4));
        const Type *tx = type_of(s.g, x);
        int64_t axes[MAX_RANK], kept[MAX_RANK];
        uint32_t n = 0;
        int k = 0;
        for (int i = 0; i < tx->rank; i++)
            if (sample_int(&s, 0, 1) || (i == tx->rank - 1 && n == 0))
                axes[n++] = i;
            else
                kept[k++] = i;
        Value y = b_reduce(s.g, op, x, n, axes);
        const Type *ty = type_of(s.g, y);
        const double *from = sample_get(&s, x), *to = sample_get(&s, y);
        double *expected = xcalloc((size_t)type_elements(ty), sizeof *expected);
        for (int64_t i = 0; i < type_elements(ty); i++)
            expected[i] = op == OP_sum ? 0 : op == OP_max ? -9 : 9;
        int64_t i[MAX_RANK] = {0}, j[MAX_RANK];
        do {
            for (int r = 0; r < k; r++) j[r] = i[kept[r]];
            double *e = &expected[flat(ty, j)], v = from[flat(tx, i)];
            *e = op == OP_sum ? *e + v : op == OP_max ? fmax(*e, v) : fmin(*e, v);
        } while (next_index(tx, i));
        CHECK(ty->rank == k && sample_distance(to, expected, type_elements(ty)) < 1e-14);
        free(expected);
        sample_free(&s);
    }
}

static void test_reduce_nan(void) {
    Sample s = sample_new(1);
    Value x = sample_input(&s, sample_type(&s, DT_F32, "3"), (double[]){1, NAN, 0});
    CHECK(isnan(sample_get(&s, b_reduce_last(s.g, OP_max, x))[0]));
    sample_free(&s);
}

/* ---- contraction: every assignment of the labels ---- */

static int64_t label_offset(const char *labels, const int64_t *size, const int64_t *value) {
    int64_t at = 0;
    for (; *labels; labels++) at = at * size[(int)*labels] + value[(int)*labels];
    return at;
}

static const Type *label_type(Sample *s, const char *labels, const int64_t *size) {
    int64_t dim[MAX_RANK];
    int rank = 0;
    for (; labels[rank]; rank++) dim[rank] = size[(int)labels[rank]];
    return type_tensor(s->session, DT_F32, rank, dim);
}

static void check_einsum(const char *a, const char *b, const char *c, uint32_t key) {
    Sample s = sample_new(key);
    int64_t size[128] = {0}, value[128] = {0};
    const Type *all;
    char labels[3 * MAX_RANK] = "", spec[64];
    for (const char *l = a; *l; l++) strncat(labels, l, 1);
    for (const char *l = b; *l; l++)
        if (!strchr(labels, *l)) strncat(labels, l, 1);
    for (const char *l = labels; *l; l++) size[(int)*l] = sample_int(&s, 1, 5);
    Value x = sample_random(&s, label_type(&s, a, size), -1, 1);
    Value y = sample_random(&s, label_type(&s, b, size), -1, 1);
    snprintf(spec, sizeof spec, "%s,%s->%s", a, b, c);
    Value z = b_einsum(s.g, spec, x, y);
    int64_t count = type_elements(type_of(s.g, z)), i[MAX_RANK] = {0};
    double *expected = xcalloc((size_t)count, sizeof *expected);
    all = label_type(&s, labels, size);
    do {
        for (int r = 0; r < all->rank; r++) value[(int)labels[r]] = i[r];
        expected[label_offset(c, size, value)] += sample_get(&s, x)[label_offset(a, size, value)] *
                                                  sample_get(&s, y)[label_offset(b, size, value)];
    } while (next_index(all, i));
    if (!CHECK(sample_is(&s, z, expected))) fprintf(stderr, "  %s\n", spec);
    free(expected);
    sample_free(&s);
}

static void test_einsum(void) {
    static const char *const spec[][3] = {
        {"ab", "bc", "ac"},      {"ab", "cb", "ca"},    {"ba", "bc", "ac"},
        {"ab", "ab", ""},        {"a", "b", "ba"},      {"", "ab", "ba"},
        {"btd", "dhk", "bhtk"},  {"abc", "acd", "adb"}, {"ecd", "edf", "ecf"},
        {"abcd", "dbae", "ceb"}, {"a", "a", "a"},
    };
    for (size_t i = 0; i < COUNT(spec); i++)
        for (uint32_t key = 0; key < 5; key++)
            check_einsum(spec[i][0], spec[i][1], spec[i][2], key);
}

/* ---- indexed: by hand ---- */

static void test_indexed(void) {
    Sample s = sample_new(1);
    Value table = sample_input(&s, sample_type(&s, DT_F32, "3,2"), (double[]){1, 2, 3, 4, 5, 6});
    Value ids = sample_input(&s, sample_type(&s, DT_I32, "2,2"), (double[]){2, 0, -1, 3});
    Value same = sample_input(&s, sample_type(&s, DT_I32, "3"), (double[]){1, 4, 1});
    Value index = sample_input(&s, sample_type(&s, DT_I32, "3,1"), (double[]){1, 0, 2});
    Value pairs = sample_input(&s, sample_type(&s, DT_I32, "3,2"), (double[]){0, 0, 3, 1, -1, 2});
    Graph *g = s.g;
    Value rows = graph_add(g, OP_gather, NULL, 2, (Value[]){table, ids});
    Value sums = sample_node(&s, OP_scatter_add, &(AttrValue){.i = 2}, 2, (Value[]){same, table});
    Value one = graph_add(g, OP_pick, NULL, 2, (Value[]){table, index});
    Value put = sample_node(&s, OP_unpick, &(AttrValue){.i = 3}, 2, (Value[]){pairs, table});
    CHECK(sample_is(&s, rows, (double[]){5, 6, 1, 2, 0, 0, 0, 0}));
    CHECK(sample_is(&s, sums, (double[]){0, 0, 6, 8}));
    CHECK(sample_is(&s, one, (double[]){2, 3, 0}));
    CHECK(sample_is(&s, put, (double[]){3, 0, 0, 0, 4, 0, 0, 0, 6}));
    sample_free(&s);
}

/* ---- leaves ---- */

static void test_leaves(void) {
    Sample s = sample_new(1);
    const Type *t = sample_type(&s, DT_I32, "2,3");
    Value rows = graph_leaf(s.g, OP_iota, attr_intern(s.session, OP_iota, &(AttrValue){.i = 0}), t);
    Value cols = graph_leaf(s.g, OP_iota, attr_intern(s.session, OP_iota, &(AttrValue){.i = 1}), t);
    AttrValue causal[] = {{.s = intern(s.session, "causal")}, {.i = 0}};
    AttrValue prefix[] = {{.s = intern(s.session, "prefix")}, {.i = 2}};
    t = sample_type(&s, DT_F32, "3,3");
    Value c = graph_leaf(s.g, OP_mask, attr_intern(s.session, OP_mask, causal), t);
    Value p = graph_leaf(s.g, OP_mask, attr_intern(s.session, OP_mask, prefix), t);
    const double no = -1e30;
    CHECK(sample_is(&s, rows, (double[]){0, 0, 0, 1, 1, 1}));
    CHECK(sample_is(&s, cols, (double[]){0, 1, 2, 0, 1, 2}));
    CHECK(sample_is(&s, c, (double[]){0, no, no, 0, 0, no, 0, 0, 0}));
    CHECK(sample_is(&s, p, (double[]){0, 0, no, 0, 0, no, 0, 0, 0}));
    sample_free(&s);
}

static Value stored(Sample *s, Op op, const char *name, const char *init, double a, double b,
                    const Type *t) {
    AttrValue param[] = {
        {.s = intern(s->session, name)}, {.s = intern(s->session, init)}, {.f = a}, {.f = b}};
    AttrValue state[] = {param[0], {.s = intern(s->session, "")}, param[1], param[2], param[3]};
    return graph_leaf(s->g, op, attr_intern(s->session, op, op == OP_param ? param : state), t);
}

static Value own_input(Sample *s, const char *name) {
    AttrValue at[] = {{.s = intern(s->session, name)}, {.i = 0}};
    return graph_leaf(s->g, OP_input, attr_intern(s->session, OP_input, at),
                      type_scalar(s->session, DT_I32));
}

/* Random numbers depend on seed, site, step and element; the stream is the documented one. */
static void test_random(void) {
    Sample s = sample_new(1);
    AttrValue at[] = {{.s = intern(s.session, "drop")},
                      sample_ints(&s, 2, (int64_t[]){2, 3}),
                      sample_ints(&s, 0, NULL)};
    Value in[] = {own_input(&s, "@seed"), own_input(&s, "@step")};
    Value v = sample_node(&s, OP_random, at, 2, in);
    Interp *run = interp_new(s.g);
    double first[6];
    interp_run(run, 5, 1);
    memcpy(first, interp_get(run, v)->data, sizeof first);
    interp_run(run, 5, 2);
    uint32_t key = random_key(5, hash_bytes("drop", 4, 0), 2);
    for (uint64_t i = 0; i < 6; i++) {
        double x = interp_get(run, v)->data[i];
        CHECK(x != first[i] && x == (double)random_unit(philox(key, i, NULL)));
    }
    interp_free(run);
    sample_free(&s);
}

/* A part is drawn as the block of the whole that it is. */
static void test_random_parts(void) {
    Sample s = sample_new(1);
    const char *site = intern(s.session, "drop");
    AttrValue all[] = {
        {.s = site}, sample_ints(&s, 3, (int64_t[]){6, 4, 8}), sample_ints(&s, 0, NULL)};
    AttrValue part[] = {{.s = site},
                        sample_ints(&s, 3, (int64_t[]){2, 4, 4}),
                        sample_ints(&s, 3, (int64_t[]){3, 1, 2})};
    Value in[] = {own_input(&s, "@seed"), own_input(&s, "@step"), own_input(&s, "i"),
                  own_input(&s, "j")};
    Value whole = sample_node(&s, OP_random, all, 2, in),
          v = sample_node(&s, OP_random, part, 4, in);
    AttrValue first[] = {{.i = 0}, {.i = 3}}, last[] = {{.i = 2}, {.i = 2}};
    Value rows = sample_node(&s, OP_block, first, 2, (Value[]){whole, in[2]});
    Value block = sample_node(&s, OP_block, last, 2, (Value[]){rows, in[3]});
    Interp *run = interp_new(s.g);
    for (int i = 0; i < 6; i++) {
        interp_set(run, "i", &(double){i / 2});
        interp_set(run, "j", &(double){i % 2});
        interp_run(run, 5, 1);
        CHECK(memcmp(interp_get(run, v)->data, interp_get(run, block)->data, 32 * sizeof(double)) ==
              0);
    }
    interp_free(run);
    sample_free(&s);
}

/* Start values; two parameters that swap, so both sources are read before either is written. */
static void test_steps(void) {
    Sample s = sample_new(1);
    const Type *t = sample_type(&s, DT_F32, "2");
    Value a = stored(&s, OP_param, "a", "constant", 3, 0, t);
    Value b = stored(&s, OP_param, "b", "normal", 1, 2, t);
    Value n = stored(&s, OP_state, "n", "zeros", 0, 0, t);
    b_assign(s.g, a, b);
    b_assign(s.g, b, a);
    b_assign(s.g, n, b_ew2(s.g, OP_add, n, a));
    Value out = b_output(s.g, n, "count");
    Interp *run = interp_new(s.g);
    double start[2];
    init_fill("normal", 1, 2, "b", 9, start, 2);
    uint32_t key = random_key(9, hash_bytes("b", 1, 0), 0);
    CHECK(start[0] != start[1] && start[1] == init_value(INIT_NORMAL, 1, 2, key, 1));
    interp_run(run, 9, 1);
    CHECK(interp_get(run, a)->data[1] == start[1] && interp_get(run, b)->data[1] == 3);
    CHECK(interp_get(run, n)->data[0] == 3 && interp_get(run, out)->data[0] == 0);
    interp_run(run, 9, 2);
    CHECK(interp_get(run, a)->data[1] == 3 && interp_get(run, b)->data[1] == start[1]);
    CHECK(interp_output(run, "count")->data[0] == 3);
    CHECK(interp_set(run, "n", (double[]){7, 8}) && !interp_set(run, "m", start));
    interp_run(run, 9, 3);
    CHECK(interp_output(run, "count")->data[1] == 8 && !interp_output(run, "loss"));
    interp_free(run);
    sample_free(&s);
}

/* ---- storage formats ---- */

static void test_storage(void) {
    static const double x[] = {1.0 + 0x1p-8, -1.0 - 3 * 0x1p-8, 2.9, -2.9, 3e9, NAN, 0, 70000};
    static const struct {
        Dtype to;
        double is[8];
    } row[] = {
        {DT_BF16, {1, -1.015625, 2.90625, -2.90625, 3003121664, NAN, 0, 70144}},
        {DT_F16, {1.00390625, -1.01171875, 2.900390625, -2.900390625, INFINITY, NAN, 0, INFINITY}},
        {DT_I32, {1, -1, 2, -2, INT32_MAX, 0, 0, 70000}},
        {DT_I64, {1, -1, 2, -2, 3e9, 0, 0, 70000}},
        {DT_BOOL, {1, 1, 1, 1, 1, 1, 0, 1}},
        {DT_F64, {1.0 + 0x1p-8, -1.0 - 3 * 0x1p-8, 2.9, -2.9, 3e9, NAN, 0, 70000}},
    };
    for (size_t r = 0; r < COUNT(row); r++) {
        Sample s = sample_new(1);
        Value v = b_cast(s.g, sample_input(&s, sample_type(&s, DT_F32, "8"), x), row[r].to);
        for (int i = 0; i < 8; i++) {
            double got = sample_get(&s, v)[i], want = row[r].is[i];
            if (!CHECK(got == want || (isnan(got) && isnan(want))))
                fprintf(stderr, "  %s of %g is %.17g\n", dtype_name(row[r].to), x[i], got);
        }
        sample_free(&s);
    }
}

static void test_round_f32(void) {
    Sample s = sample_new(1);
    Value x = sample_input(&s, sample_type(&s, DT_F32, "1"), (double[]){0.1});
    Value y = b_ew2(s.g, OP_mul, x, x);
    CHECK(sample_get(&s, y)[0] == 0.1 * 0.1);
    s.run->round_f32 = true;
    sample_run(&s);
    CHECK(sample_get(&s, x)[0] == (double)0.1f);
    CHECK(sample_get(&s, y)[0] == (double)(float)((double)0.1f * (double)0.1f));
    sample_free(&s);
}

int main(void) {
    test_elementwise();
    test_shapes();
    test_reshape_and_concat();
    test_reduce();
    test_reduce_nan();
    test_einsum();
    test_indexed();
    test_leaves();
    test_random();
    test_random_parts();
    test_steps();
    test_storage();
    test_round_f32();
    return check_done("eval");
}
