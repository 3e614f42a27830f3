/* test_eval_nn.c: what the ops of networks compute: softmax, norms, cross entropy and attention
 * against numbers by hand and against their composition of primitives; routing and the movement of
 * rows against an example by hand and their laws. Also: raised ops equal their expansion. */
#include "tests/ir/sample.h"

/* ---- rows ---- */

static void test_rows(void) {
    Sample s = sample_new(1);
    const Type *t = sample_type(&s, DT_F32, "2,3");
    double l2 = log(2), l5 = log(5), l8 = log(8);
    Value x = sample_input(&s, t, (double[]){0, l2, l5, 1000, 1000 + l2, 1000 + l5});
    Value y = sample_input(&s, sample_type(&s, DT_F32, "1,4"), (double[]){1, 2, 3, 4});
    Value to = sample_input(&s, sample_type(&s, DT_I32, "2"), (double[]){1, -100});
    Value p = graph_add(s.g, OP_softmax, NULL, 1, &x);
    Value ce = graph_add(s.g, OP_cross_entropy, NULL, 2, (Value[]){x, to});
    Value norm = sample_node(&s, OP_norm, &(AttrValue){.f = 0.75}, 1, &y);
    Value rms = sample_node(&s, OP_rmsnorm, &(AttrValue){.f = 1.5}, 1, &y);
    CHECK(sample_is(&s, p, (double[]){.125, .25, .625, .125, .25, .625}));
    CHECK(sample_distance(sample_result(&s, ce, 0), (double[]){l8 - l2, 1000 + l8}, 2) < 1e-15);
    CHECK(sample_distance(sample_result(&s, ce, 1), (double[]){l8, 1000 + l8}, 2) < 1e-15);
    double r = 1 / sqrt(2), q = 1 / 3.0;
    CHECK(sample_is(&s, norm, (double[]){-1.5 * r, -.5 * r, .5 * r, 1.5 * r}));
    CHECK(sample_result(&s, norm, 1)[0] == 2.5 && fabs(sample_result(&s, norm, 2)[0] - r) < 1e-15);
    CHECK(sample_is(&s, rms, (double[]){q, 2 * q, 3 * q, 4 * q}));
    CHECK(fabs(sample_result(&s, rms, 1)[0] - q) < 1e-15);
    sample_free(&s);
}

/* ---- products that go on: gelu by its definition with tanh, its gradient by differences ---- */

static double gelu(double a) {
    return a / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (a + 0.044715 * a * a * a)));
}

static void test_epilogues(void) {
    Sample s = sample_new(1);
    const Type *t = sample_type(&s, DT_F32, "2,2");
    Value x = sample_input(&s, t, (double[]){1, 2, -3, 0.5});
    Value w = sample_input(&s, t, (double[]){0.5, 0.25, -1, 2});
    Value b = sample_input(&s, sample_type(&s, DT_F32, "2"), (double[]){0.125, -2});
    AttrValue spec = {.s = intern(s.session, "ak,kn->an")};
    Value with = sample_node(&s, OP_einsum_gelu, &spec, 3, (Value[]){x, w, b});
    Value bare = sample_node(&s, OP_einsum_gelu, &spec, 2, (Value[]){x, w});
    Value grad = sample_node(&s, OP_einsum_gelu_grad, &spec, 3, (Value[]){x, w, x});
    Value sums = sample_node(&s, OP_einsum_gelu_grad_sum, &spec, 3, (Value[]){x, w, x});
    const double product[] = {-1.5, 4.25, -2, 0.25}, bias[] = {0.125, -2}, at[] = {1, 2, -3, 0.5};
    const double h = 1e-6;
    for (int i = 0; i < 4; i++) {
        double sum = product[i] + bias[i % 2];
        CHECK(fabs(sample_result(&s, with, 1)[i] - sum) < 1e-15);
        CHECK(fabs(sample_result(&s, with, 0)[i] - gelu(sum)) < 1e-12);
        CHECK(fabs(sample_result(&s, bare, 1)[i] - product[i]) < 1e-15);
        CHECK(fabs(sample_result(&s, bare, 0)[i] - gelu(product[i])) < 1e-12);
        double slope = (gelu(at[i] + h) - gelu(at[i] - h)) / (2 * h);
        CHECK(fabs(sample_result(&s, grad, 0)[i] - product[i] * slope) < 1e-8);
        CHECK(sample_result(&s, sums, 0)[i] == sample_result(&s, grad, 0)[i]);
    }
    for (int i = 0; i < 2; i++) {
        const double *dx = sample_result(&s, grad, 0);
        CHECK(fabs(sample_result(&s, sums, 1)[i] - dx[i] - dx[i + 2]) < 1e-14);
    }
    sample_free(&s);
}

/* ---- expansions ---- */

static const struct {
    Op op;
    const char *shape;
    double limit; /* of the distance relative to max(1, |x|) */
    Dtype dtype;
} expansions[] = {
    {OP_softmax, "3,5", 1e-13, DT_F32},       {OP_softmax, "2,3,1", 1e-13, DT_F32},
    {OP_norm, "3,5", 1e-13, DT_F32},          {OP_norm, "2,1", 1e-13, DT_F32},
    {OP_rmsnorm, "3,5", 1e-13, DT_F32},       {OP_rmsnorm, "2,3,4", 1e-13, DT_F64},
    {OP_cross_entropy, "6,5", 1e-13, DT_F32}, {OP_cross_entropy, "2,3,4", 1e-13, DT_F64},
    {OP_softmax, "3,5", 0x1p-8, DT_BF16},     {OP_norm, "3,5", 0x1p-8, DT_BF16},
    {OP_rmsnorm, "3,5", 0x1p-11, DT_F16},     {OP_cross_entropy, "6,5", 1e-13, DT_BF16},
    {OP_cross_entropy, "5", 1e-13, DT_F32},
};

static void check_expansion(size_t row) {
    Sample s = sample_new((uint32_t)row + 1);
    Op op = expansions[row].op;
    const Type *t = sample_type(&s, expansions[row].dtype, expansions[row].shape);
    Value in[] = {sample_random(&s, t, -3, 3), NO_VALUE}, res[3];
    bool loss = op == OP_cross_entropy;
    if (loss) in[1] = sample_random(&s, type_tensor(s.session, DT_I32, t->rank - 1, t->dim), -1, 6);
    AttrValue eps = {.f = 1e-2};
    Value v =
        sample_node(&s, op, op == OP_norm || op == OP_rmsnorm ? &eps : NULL, loss ? 2 : 1, in);
    op_info(op)->expand(s.g, v, res);
    const Type *tv = type_of(s.g, v);
    uint32_t n = tv->dtype == DT_TUPLE ? tv->nelem : 1;
    for (uint32_t i = 0; i < n; i++) {
        const Type *ti = tv->dtype == DT_TUPLE ? tv->elem[i] : tv;
        CHECK(type_of(s.g, res[i]) == ti);
        double d =
            sample_distance(sample_get(&s, res[i]), sample_result(&s, v, i), type_elements(ti));
        if (!CHECK(d <= expansions[row].limit))
            fprintf(stderr, "  %s, result %u: %g\n", op_info(op)->name, (unsigned)i, d);
    }
    sample_free(&s);
}

/* ---- attention ---- */

/* softmax(scale q k' + mask) v by primitives. */
static void check_attention(const char *mask, int64_t prefix, const char *q, const char *kv,
                            uint32_t key) {
    Sample s = sample_new(key);
    Graph *g = s.g;
    Value in[3];
    for (int i = 0; i < 3; i++)
        in[i] = sample_random(&s, sample_type(&s, DT_F32, i ? kv : q), -2, 2);
    AttrValue at[] = {{.s = intern(s.session, mask)}, {.i = prefix}, {.f = 0.7}};
    Value o = sample_node(&s, OP_attention, at, 3, in);
    Value score = b_einsum(g, "bthk,bshk->bhts", in[0], in[1]);
    score = b_ew2(g, OP_mul, score, b_like(g, 0.7, score));
    const Type *t = type_of(g, score);
    if (strcmp(mask, "none") != 0) {
        const Type *plane = type_tensor(s.session, DT_F32, 2, t->dim + 2);
        Value m = graph_leaf(g, OP_mask, attr_intern(s.session, OP_mask, at), plane);
        score = b_ew2(g, OP_add, score, b_broadcast_to(g, m, t));
    }
    Value p = graph_add(g, OP_softmax, NULL, 1, &score);
    Value expected = b_einsum(g, "bhts,bshk->bthk", p, in[2]);
    Value lse = b_ew1(g, OP_log, b_reduce_last(g, OP_sum, b_ew1(g, OP_exp, score)));
    CHECK(sample_is(&s, o, sample_get(&s, expected)));
    int64_t rows = type_elements(type_of(g, lse));
    CHECK(sample_distance(sample_result(&s, o, 1), sample_get(&s, lse), rows) < 1e-12);
    sample_free(&s);
}

static void test_attention(void) {
    for (uint32_t key = 1; key <= 3; key++) {
        check_attention("none", 0, "2,3,2,4", "2,5,2,4", key);
        check_attention("causal", 0, "2,4,3,2", "2,4,3,2", key);
        check_attention("prefix", 3, "1,5,2,3", "1,5,2,3", key);
        check_attention("prefix", 9, "1,5,1,1", "1,5,1,1", key);
    }
}

static double flops(Sample *s, Value v) {
    const Node *n = node_of(s->g, v);
    return op_info((Op)n->op)->flops(s->g, n);
}

/* 2 per multiply-add; 3 heads of width 4, batch 2: 24 per pair that sees each other and product. */
static void test_flops(void) {
    Sample s = sample_new(1);
    Value a = sample_random(&s, sample_type(&s, DT_F32, "2,3,4"), -1, 1);
    Value b = sample_random(&s, sample_type(&s, DT_F32, "2,4,5"), -1, 1);
    CHECK(flops(&s, b_einsum(s.g, "bmk,bkn->bmn", a, b)) == 2.0 * 2 * 3 * 4 * 5);
    static const struct {
        const char *mask;
        int64_t prefix;
        double pairs;
    } row[] = {{"none", 0, 25}, {"causal", 0, 15}, {"prefix", 3, 18}, {"prefix", 9, 25}};
    Value x = sample_random(&s, sample_type(&s, DT_F32, "2,5,3,4"), -1, 1);
    for (size_t i = 0; i < COUNT(row); i++) {
        AttrValue at[] = {{.s = intern(s.session, row[i].mask)}, {.i = row[i].prefix}, {.f = 1}};
        Value o = sample_node(&s, OP_attention, at, 3, (Value[]){x, x, x});
        Value in[] = {x, x, x, b_proj(s.g, o, 0), b_proj(s.g, o, 1), x};
        Value grad = sample_node(&s, OP_attention_grad, at, 6, in);
        CHECK(flops(&s, o) == 2 * 2 * 24 * row[i].pairs);
        CHECK(flops(&s, grad) == 2 * 5 * 24 * row[i].pairs);
    }
    sample_free(&s);
}

/* ---- mixture of experts ---- */

/* One group of four tokens, one prototype of three experts, top 2, two slots each. Choices:
 * token 0: 0 1, token 1: 0 2 (tie of 0 and 2 goes to 0), token 2: 0 1, token 3: 2 1.
 * First choices: expert 0 takes tokens 0 and 1, drops 2; expert 2 takes 3. Second choices: expert 1
 * takes 0 and 2, drops 3; expert 2 takes 1 after token 3. */
static void test_route_by_hand(void) {
    Sample s = sample_new(1);
    static const double prob[] = {.6, .3, .1, .4, .2, .4, .5, .3, .2, .1, .4, .5};
    Value p = sample_input(&s, sample_type(&s, DT_F32, "1,4,1,3"), prob);
    AttrValue at[] = {{.i = 2}, {.i = 2}};
    Value r = sample_node(&s, OP_route, at, 1, &p);
    static const double choice[] = {0, 1, 0, 2, 0, 1, 2, 1}, slot[] = {0, 2, 1, 5, -1, 3, 4, -1};
    static const double source[] = {0, 2, 1, 5, 6, 3};
    static const double density[] = {.75, 0, .25, 0, .75, .25};
    CHECK(sample_distance(sample_result(&s, r, 0), choice, 8) == 0);
    CHECK(sample_distance(sample_result(&s, r, 1), slot, 8) == 0);
    CHECK(sample_distance(sample_result(&s, r, 2), source, 6) == 0);
    CHECK(sample_distance(sample_result(&s, r, 3), density, 6) == 0);
    sample_free(&s);
}

/* How many pairs before this one (earlier choice, or the same choice of an earlier token of the
 * group) chose the same expert of the same prototype. */
static int64_t pairs_before(const double *choice, const int64_t *dim, int64_t top, int64_t token,
                            int64_t proto, int64_t c) {
    int64_t group = token / dim[1], n = 0, p = dim[2];
    double e = choice[(token * p + proto) * top + c];
    for (int64_t t = group * dim[1]; t < (group + 1) * dim[1]; t++)
        for (int64_t i = 0; i < top; i++)
            if ((i < c || (i == c && t < token)) && choice[(t * p + proto) * top + i] == e) n++;
    return n;
}

/* A pair is kept when fewer than `slots` chose its expert before it, and then has that row. */
static void check_route(const char *shape, int64_t top, int64_t slots, uint32_t key) {
    Sample s = sample_new(key);
    Value p = sample_random(&s, sample_type(&s, DT_F32, shape), 0, 1);
    const int64_t *dim = type_of(s.g, p)->dim;
    AttrValue at[] = {{.i = top}, {.i = slots}};
    Value r = sample_node(&s, OP_route, at, 1, &p);
    const double *choice = sample_result(&s, r, 0), *slot = sample_result(&s, r, 1);
    const double *source = sample_result(&s, r, 2), *prob = sample_get(&s, p);
    int64_t k = dim[2] * top, rows = dim[0] * slots, kept = 0, filled = 0;
    for (int64_t i = 0; i < dim[0] * dim[1] * k; i++) {
        int64_t token = i / k, proto = i % k / top, c = i % top, e = (int64_t)choice[i];
        const double *row = prob + (token * dim[2] + proto) * dim[3];
        int64_t better = 0, position = pairs_before(choice, dim, top, token, proto, c);
        for (int64_t j = 0; j < dim[3]; j++) better += row[j] > row[e];
        CHECK(better == c);
        double want = (double)((proto * dim[3] + e) * rows + token / dim[1] * slots + position);
        CHECK(slot[i] == (position < slots ? want : -1));
        if (slot[i] >= 0) CHECK(source[(int64_t)slot[i]] == (double)i);
        kept += slot[i] >= 0;
    }
    for (int64_t i = 0; i < dim[2] * dim[3] * rows; i++) filled += source[i] >= 0;
    CHECK(kept == filled && kept > 0);
    sample_free(&s);
}

static void test_route(void) {
    for (uint32_t key = 1; key <= 3; key++) {
        check_route("1,7,1,3", 1, 2, key);
        check_route("2,6,2,3", 1, 2, key);
        check_route("3,5,2,4", 2, 2, key);
        check_route("1,4,1,1", 1, 3, key);
    }
}

/* Two tokens, one choice each, two experts with two rows; token 1 is dropped. */
static void test_moving_by_hand(void) {
    Sample s = sample_new(1);
    Graph *g = s.g;
    Value x = sample_input(&s, sample_type(&s, DT_F32, "2,2"), (double[]){1, 2, 3, 4});
    Value gate = sample_input(&s, sample_type(&s, DT_F32, "2,1"), (double[]){.5, .25});
    Value slot = sample_input(&s, sample_type(&s, DT_I32, "2,1"), (double[]){2, -1});
    Value from = sample_input(&s, sample_type(&s, DT_I32, "2,2"), (double[]){-1, -1, 0, -1});
    Value y =
        sample_input(&s, sample_type(&s, DT_F32, "2,2,2"), (double[]){9, 9, 9, 9, 6, 8, 9, 9});
    Value sent = graph_add(g, OP_dispatch, NULL, 3, (Value[]){x, slot, from});
    Value scaled = graph_add(g, OP_dispatch_scaled, NULL, 4, (Value[]){x, gate, slot, from});
    Value back = graph_add(g, OP_combine, NULL, 4, (Value[]){y, gate, slot, from});
    Value sum = graph_add(g, OP_combine_sum, NULL, 3, (Value[]){y, slot, from});
    Value dots = graph_add(g, OP_gate_grad, NULL, 3, (Value[]){y, x, slot});
    CHECK(sample_is(&s, sent, (double[]){0, 0, 0, 0, 1, 2, 0, 0}));
    CHECK(sample_is(&s, scaled, (double[]){0, 0, 0, 0, .5, 1, 0, 0}));
    CHECK(sample_is(&s, back, (double[]){3, 4, 0, 0}));
    CHECK(sample_is(&s, sum, (double[]){6, 8, 0, 0}));
    CHECK(sample_is(&s, dots, (double[]){22, 0}));
    sample_free(&s);
}

/* The sum of a * b. */
static double inner(Sample *s, Value a, Value b) {
    double sum = 0;
    for (int64_t i = 0; i < type_elements(type_of(s->g, a)); i++)
        sum += sample_get(s, a)[i] * sample_get(s, b)[i];
    return sum;
}

/* On random routes: <dispatch_scaled x, y> = <x, combine y> = <gates, gate_grad>. */
static void test_moving(void) {
    Sample s = sample_new(3);
    Graph *g = s.g;
    Value p = sample_random(&s, sample_type(&s, DT_F32, "2,5,2,3"), 0, 1);
    Value x = sample_random(&s, sample_type(&s, DT_F32, "10,4"), -1, 1);
    Value y = sample_random(&s, sample_type(&s, DT_F32, "6,4,4"), -1, 1);
    Value gate = sample_random(&s, sample_type(&s, DT_F32, "10,4"), -1, 1);
    AttrValue at[] = {{.i = 2}, {.i = 2}};
    Value r = sample_node(&s, OP_route, at, 1, &p);
    Value slot = b_proj(g, r, 1), from = b_proj(g, r, 2);
    Value sent = graph_add(g, OP_dispatch, NULL, 3, (Value[]){x, slot, from});
    Value sum = graph_add(g, OP_combine_sum, NULL, 3, (Value[]){y, slot, from});
    Value scaled = graph_add(g, OP_dispatch_scaled, NULL, 4, (Value[]){x, gate, slot, from});
    Value back = graph_add(g, OP_combine, NULL, 4, (Value[]){y, gate, slot, from});
    Value dots = graph_add(g, OP_gate_grad, NULL, 3, (Value[]){y, x, slot});
    CHECK(fabs(inner(&s, sent, y) - inner(&s, x, sum)) < 1e-12);
    CHECK(fabs(inner(&s, scaled, y) - inner(&s, x, back)) < 1e-12);
    CHECK(fabs(inner(&s, gate, dots) - inner(&s, x, back)) < 1e-12);
    CHECK(inner(&s, x, back) != inner(&s, x, sum));
    sample_free(&s);
}

int main(void) {
    test_rows();
    test_epilogues();
    for (size_t i = 0; i < COUNT(expansions); i++) check_expansion(i);
    test_attention();
    test_flops();
    test_route_by_hand();
    test_route();
    test_moving_by_hand();
    test_moving();
    return check_done("eval_nn");
}
