/* test_grad.c: the gradient of every differentiable op against central differences in double
 * precision, and of graphs composed of them. A case builds a graph of its inputs; the loss is the
 * sum of all float results times random weights; a plain reverse sweep calls the vjp hooks. */
#include "tests/ir/random_graph.h"
#include "tests/ir/sample.h"

#define LIMIT 1e-6

typedef struct Case Case;
typedef Value BuildFn(Sample *s, const Case *c, const Value *x);
/* Inputs are shapes divided by spaces. A leading '+' draws from [0.5, 2), 'iN:' whole numbers in
 * -1..N, the rest from [-2, 2). */
struct Case {
    const char *name, *in;
    BuildFn *build;
    Op op;
    const char *text;   /* einsum's spec, or a mask's kind */
    int64_t a[4], b[4]; /* attributes of shape ops; a[0]: a mask's prefix, route's top */
    int na;
    uint32_t results; /* bit i: result i enters the loss; 0: all float results */
};

/* ---- builders ---- */

static Value build_node(Sample *s, const Case *c, const Value *x) {
    int arity = op_info(c->op)->arity;
    return graph_add(s->g, c->op, NULL, arity < 0 ? s->in.n : (uint32_t)arity, x);
}

/* One operand in both places. */
static Value build_twice(Sample *s, const Case *c, const Value *x) {
    return b_ew2(s->g, c->op, x[0], x[0]);
}

/* Gradients meet: x^2 e^x + x */
static Value build_shared(Sample *s, const Case *c, const Value *x) {
    (void)c;
    Value e = b_ew2(s->g, OP_mul, b_ew2(s->g, OP_mul, x[0], x[0]), b_ew1(s->g, OP_exp, x[0]));
    return b_ew2(s->g, OP_add, e, x[0]);
}

/* The exponent a constant: c->a[0]. */
static Value build_power(Sample *s, const Case *c, const Value *x) {
    return b_ew2(s->g, OP_pow, x[0], b_like(s->g, (double)c->a[0], x[0]));
}

/* The exponent computed; it has no gradient by definition, so it is of whole numbers. */
static Value build_power_of(Sample *s, const Case *c, const Value *x) {
    (void)c;
    return b_ew2(s->g, OP_pow, x[0], b_cast(s->g, x[1], DT_F32));
}

static Value build_select(Sample *s, const Case *c, const Value *x) {
    (void)c;
    return b_ew3(s->g, OP_select, b_ew2(s->g, OP_gt, x[0], x[1]), x[1], x[2]);
}

static Value build_cast(Sample *s, const Case *c, const Value *x) {
    (void)c;
    return b_ew1(s->g, OP_exp, b_cast(s->g, x[0], DT_F64));
}

static Value build_ints(Sample *s, const Case *c, const Value *x) {
    AttrValue at[] = {sample_ints(s, (uint32_t)c->na, c->a), sample_ints(s, (uint32_t)c->na, c->b)};
    return sample_node(s, c->op, at, 1, x);
}

/* To shape a, operand dim i becoming dim b[i]. */
static Value build_broadcast(Sample *s, const Case *c, const Value *x) {
    return b_broadcast(s->g, x[0], c->na, c->a, c->b);
}

static Value build_concat(Sample *s, const Case *c, const Value *x) {
    return sample_node(s, OP_concat, &(AttrValue){.i = c->a[0]}, s->in.n, x);
}

static Value build_einsum(Sample *s, const Case *c, const Value *x) {
    return b_einsum(s->g, c->text, x[0], s->in.n > 1 ? x[1] : x[0]);
}

static Value build_eps(Sample *s, const Case *c, const Value *x) {
    return sample_node(s, c->op, &(AttrValue){.f = 1e-3}, 1, x);
}

static Value build_attention(Sample *s, const Case *c, const Value *x) {
    AttrValue at[] = {{.s = intern(s->session, c->text)}, {.i = c->a[0]}, {.f = 0.6}};
    Value one[] = {x[0], x[0], x[0]};
    return sample_node(s, OP_attention, at, 3, s->in.n > 1 ? x : one);
}

/* Tokens to experts and back: x[n,d], logits[g,s,p,e], w[E,d,f], v[E,f,d]. One slot for each expert
 * and group, so that tokens are dropped. */
static Value build_moe(Sample *s, const Case *c, const Value *x) {
    Graph *g = s->g;
    const Type *t = type_of(g, x[1]);
    Value p = graph_add(g, OP_softmax, NULL, 1, &x[1]);
    AttrValue at[] = {{.i = c->a[0]}, {.i = 1}};
    Value route = sample_node(s, OP_route, at, 1, &p), choice = b_proj(g, route, 0);
    Value slot = b_proj(g, route, 1), source = b_proj(g, route, 2);
    Value gate = graph_add(g, OP_pick, NULL, 2, (Value[]){p, choice});
    gate = b_reshape(g, gate, 2, (int64_t[]){t->dim[0] * t->dim[1], t->dim[2] * c->a[0]});
    Value rows = graph_add(g, OP_dispatch, NULL, 3, (Value[]){x[0], slot, source});
    Value up = b_ew1(g, OP_gelu, b_einsum(g, "erd,edf->erf", rows, x[2]));
    Value down = b_einsum(g, "erf,efd->erd", up, x[3]);
    return graph_add(g, OP_combine, NULL, 4, (Value[]){down, gate, slot, source});
}

/* A Transformer block and its loss: x[b,t,d], wq[d,h,k], wo[h,k,d], head[d,v], target[b,t] */
static Value build_block(Sample *s, const Case *c, const Value *x) {
    (void)c;
    Graph *g = s->g;
    AttrValue eps = {.f = 1e-5};
    Value y = b_proj(g, sample_node(s, OP_norm, &eps, 1, &x[0]), 0);
    Value q = b_einsum(g, "btd,dhk->bthk", y, x[1]);
    AttrValue at[] = {{.s = intern(s->session, "causal")}, {.i = 0}, {.f = 0.5}};
    Value o = b_proj(g, sample_node(s, OP_attention, at, 3, (Value[]){q, q, q}), 0);
    Value z = b_ew2(g, OP_add, x[0], b_einsum(g, "bthk,hkd->btd", o, x[2]));
    z = b_proj(g, sample_node(s, OP_rmsnorm, &eps, 1, &z), 0);
    Value logits = b_einsum(g, "btd,dv->btv", z, x[3]);
    return graph_add(g, OP_cross_entropy, NULL, 2, (Value[]){logits, x[4]});
}

#define EW1(o, shape)                                                                              \
    { #o, shape, build_node, .op = OP_##o }
static const Case cases[] = {
    EW1(neg, "2,3"),
    EW1(abs, "2,3"),
    EW1(exp, "2,3"),
    EW1(log, "+2,3"),
    EW1(sqrt, "+2,3"),
    EW1(rsqrt, "+2,3"),
    EW1(sin, "2,3"),
    EW1(cos, "2,3"),
    EW1(tanh, "2,3"),
    EW1(erf, "2,3"),
    EW1(sigmoid, "2,3"),
    EW1(relu, "2,3"),
    EW1(silu, "2,3"),
    EW1(gelu, "2,3"),
    EW1(add, "2,3 2,3"),
    EW1(sub, "2,3 2,3"),
    EW1(mul, "2,3 2,3"),
    EW1(div, "2,3 +2,3"),
    EW1(maximum, "2,3 2,3"),
    EW1(minimum, "2,3 2,3"),
    {"add twice", "3", build_twice, .op = OP_add},
    {"sub twice", "3", build_twice, .op = OP_sub},
    {"mul twice", "", build_twice, .op = OP_mul},
    {"div twice", "+3", build_twice, .op = OP_div},
    {"shared", "2,3", build_shared, .op = OP_mul},
    {"power 3", "2,3", build_power, .op = OP_pow, .a = {3}},
    {"power -2", "+2,3", build_power, .op = OP_pow, .a = {-2}},
    {"power 0", "2,3", build_power, .op = OP_pow, .a = {0}},
    {"power of", "+2,3 i4:2,3", build_power_of, .op = OP_pow},
    {"select", "2,3 2,3 2,3", build_select, .op = OP_select},
    {"cast", "2,3", build_cast, .op = OP_cast},
    {"reshape", "2,1,6", build_ints, .op = OP_reshape, .a = {3, 4}, .na = 2},
    {"to scalar", "1,1", build_ints, .op = OP_reshape, .na = 0},
    {"transpose", "2,3,4", build_ints, .op = OP_transpose, .a = {2, 0, 1}, .na = 3},
    {"swap", "1,3", build_ints, .op = OP_transpose, .a = {1, 0}, .na = 2},
    {"broadcast a scalar", "", build_broadcast, .op = OP_broadcast, .a = {2, 3}, .na = 2},
    {"broadcast rows", "3", build_broadcast, .op = OP_broadcast, .a = {2, 3, 4}, .b = {1}, .na = 3},
    {"broadcast ones", "1,3,1", build_broadcast, .op = OP_broadcast, .a = {2, 3, 4}, .b = {0, 1, 2},
     .na = 3},
    {"broadcast both", "3,1", build_broadcast, .op = OP_broadcast, .a = {2, 3, 4}, .b = {1, 2},
     .na = 3},
    {"broadcast one to one", "1,3", build_broadcast, .op = OP_broadcast, .a = {2, 1, 3},
     .b = {1, 2}, .na = 3},
    {"slice", "4,5", build_ints, .op = OP_slice, .a = {1, 0}, .b = {3, 5}, .na = 2},
    {"pad", "2,3", build_ints, .op = OP_pad, .a = {1, 0}, .b = {0, 2}, .na = 2},
    {"concat", "2,1 2,3 2,2", build_concat, .op = OP_concat, .a = {1}},
    {"sum", "2,3,4", build_ints, .op = OP_sum, .a = {0, 2}, .na = 2},
    {"sum all", "2,1", build_ints, .op = OP_sum, .a = {0, 1}, .na = 2},
    {"max", "2,3,4", build_ints, .op = OP_max, .a = {1}, .na = 1},
    {"max all", "5", build_ints, .op = OP_max, .a = {0}, .na = 1},
    {"min", "2,3,4", build_ints, .op = OP_min, .a = {0, 2}, .na = 2},
    {"matmul", "2,3 3,4", build_einsum, .op = OP_einsum, .text = "ab,bc->ac"},
    {"matmul of one", "3,3", build_einsum, .op = OP_einsum, .text = "ab,bc->ca"},
    {"batched", "2,3,1 2,4,3", build_einsum, .op = OP_einsum, .text = "abc,adb->adc"},
    {"outer", "2 3", build_einsum, .op = OP_einsum, .text = "a,b->ba"},
    {"inner", "2,3 3,2", build_einsum, .op = OP_einsum, .text = "ab,ba->"},
    {"heads", "2,3,4 4,2,3", build_einsum, .op = OP_einsum, .text = "btd,dhk->bhtk"},
    {"diagonal", "2,3 2,3", build_einsum, .op = OP_einsum, .text = "ab,ab->a"},
    {"gather", "4,2,3 i4:5", build_node, .op = OP_gather},
    {"gather scalars", "4 i4:2,3", build_node, .op = OP_gather},
    {"pick", "2,3,4 i4:2,3,2", build_node, .op = OP_pick},
    {"softmax", "2,3,5", build_node, .op = OP_softmax},
    {"softmax of one", "3,1", build_node, .op = OP_softmax},
    {"norm", "2,3,5", build_eps, .op = OP_norm},
    {"norm of one", "3,1", build_eps, .op = OP_norm},
    {"norm: y", "2,5", build_eps, .op = OP_norm, .results = 1},
    {"norm: mean", "2,5", build_eps, .op = OP_norm, .results = 2},
    {"norm: rstd", "2,5", build_eps, .op = OP_norm, .results = 4},
    {"rmsnorm", "2,3,5", build_eps, .op = OP_rmsnorm},
    {"rmsnorm: y", "2,5", build_eps, .op = OP_rmsnorm, .results = 1},
    {"rmsnorm: rstd", "2,5", build_eps, .op = OP_rmsnorm, .results = 2},
    {"cross entropy", "3,2,5 i5:3,2", build_node, .op = OP_cross_entropy},
    {"cross entropy: nll", "4,5 i5:4", build_node, .op = OP_cross_entropy, .results = 1},
    {"cross entropy: lse", "4,5 i5:4", build_node, .op = OP_cross_entropy, .results = 2},
    {"attention", "2,3,2,4 2,5,2,4 2,5,2,4", build_attention, .op = OP_attention, .text = "none"},
    {"attention: o", "1,3,2,4 1,3,2,4 1,3,2,4", build_attention, .op = OP_attention, .text = "none",
     .results = 1},
    {"attention: lse", "1,3,2,1 1,3,2,1 1,3,2,1", build_attention, .op = OP_attention,
     .text = "causal", .results = 2},
    {"causal attention", "2,4,2,3 2,4,2,3 2,4,2,3", build_attention, .op = OP_attention,
     .text = "causal"},
    {"prefix attention", "1,5,2,3 1,5,2,3 1,5,2,3", build_attention, .op = OP_attention,
     .text = "prefix", .a = {2}},
    {"attention of one", "2,4,1,3", build_attention, .op = OP_attention, .text = "causal"},
    {"experts, 2 top-1", "12,3 2,6,2,2 4,3,2 4,2,3", build_moe, .op = OP_dispatch, .a = {1}},
    {"experts, top-2", "6,3 1,6,1,3 3,3,2 3,2,3", build_moe, .op = OP_combine, .a = {2}},
    {"block", "2,3,4 4,2,3 2,3,4 4,5 i5:2,3", build_block, .op = OP_add},
};

/* ---- the reverse sweep ---- */

enum { MAX_RESULTS = 4 };
typedef Value Grads[MAX_RESULTS]; /* gradients of a node's results */

static void accumulate(Graph *g, Value *grad, Value x) {
    if (x != NO_VALUE) *grad = *grad == NO_VALUE ? x : b_ew2(g, OP_add, *grad, x);
}

static bool any_grad(const Value *grad) {
    for (int i = 0; i < MAX_RESULTS; i++)
        if (grad[i] != NO_VALUE) return true;
    return false;
}

static void sweep_node(Graph *g, Value v, Grads *grad) {
    const OpInfo *info = op_info((Op)node_of(g, v)->op);
    Value gin[MAX_OPERANDS];
    uint32_t n = node_of(g, v)->nin;
    for (uint32_t i = 0; i < n; i++) gin[i] = NO_VALUE;
    if (node_of(g, v)->op == OP_proj) {
        int64_t i = attr_int(node_of(g, v), "index");
        accumulate(g, &grad[operand(g, v, 0)][i], grad[v][0]);
    } else if (info->vjp) {
        info->vjp(g, v, grad[v], gin);
    }
    for (uint32_t i = 0; i < n; i++) {
        CHECK(gin[i] == NO_VALUE || type_of(g, gin[i]) == type_of(g, operand(g, v, i)));
        accumulate(g, &grad[operand(g, v, i)][0], gin[i]);
    }
}

/* The gradients of all nodes before the loss, malloc'ed. */
static Grads *sweep(Graph *g, Value loss) {
    Grads *grad = xmalloc((loss + 1) * sizeof *grad);
    for (Value v = 0; v <= loss; v++)
        for (int i = 0; i < MAX_RESULTS; i++) grad[v][i] = NO_VALUE;
    g->at.phase = PHASE_BACKWARD;
    grad[loss][0] = b_like(g, 1, loss);
    for (Value v = loss + 1; v-- > 0;)
        if (any_grad(grad[v])) sweep_node(g, v, grad);
    return grad;
}

/* ---- one case ---- */

static void add_inputs(Sample *s, const char *in) {
    char shape[64];
    const char *at = in;
    do {
        bool positive = *at == '+';
        char *rest = (char *)at + positive;
        double size = *at == 'i' ? (double)strtol(at + 1, &rest, 10) : 0;
        if (*at == 'i') rest++;
        size_t n = strcspn(rest, " ");
        snprintf(shape, sizeof shape, "%.*s", (int)n, rest);
        if (*at == 'i')
            sample_random(s, sample_type(s, DT_I32, shape), -1, size + 1);
        else
            sample_random(s, sample_type(s, DT_F32, shape), positive ? 0.5 : -2, 2);
        at = rest[n] ? rest + n + 1 : rest + n;
    } while (*at);
}

/* The sum of result i of v times random weights, added to the loss. */
static Value weigh(Sample *s, Value loss, Value r) {
    Graph *g = s->g;
    Value x = b_ew2(g, OP_mul, r, sample_random(s, type_of(g, r), 0.5, 2));
    int64_t axes[MAX_RANK];
    uint32_t rank = (uint32_t)type_of(g, r)->rank;
    for (uint32_t i = 0; i < rank; i++) axes[i] = i;
    x = b_cast(g, rank ? b_reduce(g, OP_sum, x, rank, axes) : x, DT_F32);
    return loss == NO_VALUE ? x : b_ew2(g, OP_add, loss, x);
}

static Value build_loss(Sample *s, const Case *c) {
    Value x[MAX_OPERANDS], loss = NO_VALUE;
    add_inputs(s, c->in);
    for (uint32_t i = 0; i < s->in.n; i++) x[i] = s->in.p[i].leaf;
    Value v = c->build(s, c, x);
    const Type *t = type_of(s->g, v);
    if (t->dtype != DT_TUPLE) return weigh(s, NO_VALUE, v);
    for (uint32_t i = 0; i < t->nelem; i++)
        if (c->results == 0 || c->results >> i & 1) loss = weigh(s, loss, b_proj(s->g, v, i));
    return loss;
}

static double loss_at(Sample *s, Value loss, double *x, double value) {
    double old = *x;
    *x = value;
    sample_run(s);
    *x = old;
    return sample_get(s, loss)[0];
}

/* The largest error of an input's gradient (NULL: claimed to be zero) against (f(x+h) - f(x-h)) /
 * 2h, relative to the largest component of the difference quotients, at least 1. */
static double input_error(Sample *s, Value loss, const SampleInput *in, const double *grad) {
    const double h = 1e-5;
    double worst = 0, size = 1;
    for (int64_t i = 0; i < in->n; i++) {
        double x = in->data[i], *at = &in->data[i];
        double slope = (loss_at(s, loss, at, x + h) - loss_at(s, loss, at, x - h)) / (2 * h);
        double error = fabs((grad ? grad[i] : 0) - slope);
        size = fmax(size, fabs(slope));
        if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
    }
    return worst / size;
}

/* Two samples of one key hold the same graph and data; only one gets gradients. */
static double case_error(const Case *c, uint32_t key) {
    Sample plain = sample_new(key), full = sample_new(key);
    Value loss = build_loss(&plain, c);
    CHECK(build_loss(&full, c) == loss);
    Grads *grad = sweep(full.g, loss);
    double worst = 0;
    for (uint32_t i = 0; i < plain.in.n; i++) {
        SampleInput *in = &plain.in.p[i];
        if (!dtype_is_float(type_of(plain.g, in->leaf)->dtype)) continue;
        Value gx = grad[in->leaf][0];
        const double *data = gx == NO_VALUE ? NULL : sample_get(&full, gx);
        worst = fmax(worst, input_error(&plain, loss, in, data));
    }
    free(grad);
    sample_free(&plain), sample_free(&full);
    return worst;
}

static void test_cases(void) {
    double worst = 0;
    for (size_t i = 0; i < COUNT(cases); i++)
        for (uint32_t key = 1; key <= 3; key++) {
            double error = case_error(&cases[i], key);
            if (!CHECK(error < LIMIT))
                fprintf(stderr, "  %s, sample %u: error %g\n", cases[i].name, (unsigned)key, error);
            worst = fmax(worst, error);
        }
    fprintf(stderr, "%zu cases, largest relative error %.2g\n", COUNT(cases), worst);
}

/* A new differentiable op without a case here is a failure. */
static void test_every_op_has_a_case(void) {
    for (unsigned op = 0; op < OP_COUNT; op++) {
        bool found = op_info((Op)op)->vjp == NULL;
        for (size_t i = 0; i < COUNT(cases); i++) found |= cases[i].op == op;
        if (!CHECK(found)) fprintf(stderr, "  %s has no case\n", op_info((Op)op)->name);
    }
}

/* ---- random graphs ---- */

static Sample random_sample(uint32_t seed) {
    Sample s = sample_new(seed);
    RandomGraph how = {
        .seed = seed, .nodes = 25, .dtype = DT_F32, .train = true, .max_size = 4, .bounded = true};
    graph_free(s.g);
    s.g = random_graph(s.session, &how);
    for (Value v = 0; v < s.g->node.n; v++) {
        if (node_of(s.g, v)->op != OP_input) continue;
        SampleInput in = {.leaf = v, .name = attr_str(node_of(s.g, v), "name")};
        in.n = type_elements(type_of(s.g, v));
        in.data = arena_array(session_arena(s.session), double, in.n);
        for (int64_t i = 0; i < in.n; i++) in.data[i] = 2 * sample_unit(&s) - 1;
        vec_push(&s.in, in);
    }
    return s;
}

static Value find_loss(const Graph *g) {
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_output) return operand(g, v, 0);
    BUG("a random graph without a loss");
}

static double random_error(uint32_t seed) {
    Sample plain = random_sample(seed), full = random_sample(seed);
    Value loss = find_loss(plain.g);
    Grads *grad = sweep(full.g, loss);
    double worst = 0;
    for (uint32_t i = 0; i < plain.in.n; i++) {
        SampleInput *in = &plain.in.p[i];
        Value gx = in->leaf < loss ? grad[in->leaf][0] : NO_VALUE;
        const double *data = gx == NO_VALUE ? NULL : sample_get(&full, gx);
        worst = fmax(worst, input_error(&plain, loss, in, data));
    }
    free(grad);
    sample_free(&plain), sample_free(&full);
    return worst;
}

static void test_random_graphs(void) {
    for (uint32_t seed = 1; seed <= 200; seed++) {
        double error = random_error(seed);
        if (!CHECK(error < LIMIT))
            fprintf(stderr, "  random graph %u: error %g\n", (unsigned)seed, error);
    }
}

/* ---- kinks: the rules that vjp.c states ---- */

static void check_kink(Op op, uint32_t n, const double *a, const double *b, const double *ga,
                       const double *gb) {
    Sample s = sample_new(1);
    const Type *t = type_tensor(s.session, DT_F32, 1, (int64_t[]){n});
    Value x[] = {sample_input(&s, t, a), b ? sample_input(&s, t, b) : 0};
    Value y = b ? b_ew2(s.g, op, x[0], x[1]) : NO_VALUE;
    if (op == OP_max || op == OP_min) y = b_reduce_last(s.g, op, x[0]);
    if (y == NO_VALUE) y = b_ew1(s.g, op, x[0]);
    Value loss = y;
    if (type_of(s.g, y)->rank) loss = b_reduce_last(s.g, OP_sum, y);
    Grads *grad = sweep(s.g, loss);
    CHECK(sample_is(&s, grad[x[0]][0], ga));
    if (gb) CHECK(sample_is(&s, grad[x[1]][0], gb));
    free(grad);
    sample_free(&s);
}

static void test_kinks(void) {
    static const double a[] = {1, 2, 0}, b[] = {1, 1, 1};
    check_kink(OP_maximum, 3, a, b, (double[]){0.5, 1, 0}, (double[]){0.5, 0, 1});
    check_kink(OP_minimum, 3, a, b, (double[]){0.5, 0, 1}, (double[]){0.5, 1, 0});
    check_kink(OP_max, 4, (double[]){3, 1, 3, 3}, NULL, (double[]){1.0 / 3, 0, 1.0 / 3, 1.0 / 3},
               NULL);
    check_kink(OP_min, 3, (double[]){1, 2, 1}, NULL, (double[]){0.5, 0, 0.5}, NULL);
    check_kink(OP_abs, 3, (double[]){-2, 0, 2}, NULL, (double[]){-1, 0, 1}, NULL);
    check_kink(OP_relu, 3, (double[]){-2, 0, 2}, NULL, (double[]){0, 0, 1}, NULL);
    check_kink(OP_pow, 3, (double[]){0, 0, 3}, (double[]){0, 2, 2}, (double[]){0, 0, 6}, NULL);
}

int main(void) {
    test_every_op_has_a_case();
    test_cases();
    test_random_graphs();
    test_kinks();
    return check_done("grad");
}
