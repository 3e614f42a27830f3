/* main_measure.c: what generated kernels reach on this machine: memory bandwidth by size, additions
 * a second, attention, the cost of a launch. Each is a small graph that becomes a plan of one step,
 * run many times. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "frontend/main_calibrate.h"
#include "frontend/main_price.h"
#include "passes/passes.h"

enum {
    MOST_RUNS = 400,
    CHAIN = 32,
    TERMS = 8,
    FAR_BYTES = 96 << 20, /* more than caches hold */
    MOST_COPIES = 64
};

typedef struct {
    Calibration *c;
    Session *session;
    Graph *g;
    bool host; /* on the host's cores */
    bool many; /* of equal steps: all count */
} Bench;

static Bench bench_new(Calibration *c) {
    Session *s = session_new();
    return (Bench){.c = c, .session = s, .g = graph_new(s, "bench")};
}

static Value input(Bench *b, const char *name, Dtype d, int rank, const int64_t *dim) {
    AttrValue at[] = {{.s = intern(b->session, name)}, {.i = 0}};
    return graph_leaf(b->g, OP_input, attr_intern(b->session, OP_input, at),
                      type_tensor(b->session, d, rank, dim));
}

static Value vector(Bench *b, int64_t n) { return input(b, "x", DT_F32, 1, &n); }

/* ---- running ---- */

typedef struct {
    double *seconds;
    size_t n;
    uint32_t step; /* the one that counts; UINT32_MAX: all */
} Times;

static void on_step(void *ctx, uint32_t step, double begin, double end) {
    Times *t = ctx;
    if ((t->step == UINT32_MAX || step == t->step) && t->n < MOST_RUNS)
        t->seconds[t->n++] = end - begin;
}

static void fill_inputs(Exec *e, const Plan *p) {
    for (uint32_t i = 0; i < p->input.n; i++) {
        const PlanBuffer *x = &p->buffer.p[p->input.p[i].buffer];
        int64_t n = plan_elements(x);
        float *v = xcalloc((size_t)n, sizeof *v);
        for (int64_t k = 0; k < n; k++) v[k] = 0.25f + (float)(k % 64) / 128;
        if (x->dtype == DT_F32) free(exec_write(e, p->input.p[i].buffer, v, x->bytes));
        free(v);
    }
}

/* Seconds of the plan's last step, or of any where there are many alike, over about `budget`
 * seconds. */
static Status time_plan(Bench *b, const Plan *p, double budget, double *seconds) {
    Exec *e = NULL;
    const double shortest = 20e-6; /* that is worth asking the system for processor time */
    double all[MOST_RUNS];
    Times t = {all, 0, b->many ? UINT32_MAX : p->step.n - 1};
    ExecOptions o = {.device = &device_cpu, .pool = b->c->pool, .dir = b->c->folder};
    TRY(exec_open(p, &o, &e));
    fill_inputs(e, p);
    Status s = exec_step(e, 1);
    if (!s) s = exec_step(e, 2);
    exec_set_timer(e, on_step, &t);
    for (double end = now_seconds() + budget; !s && (t.n < 5 || now_seconds() < end);) {
        if (t.n == MOST_RUNS) break;
        stopwatch_start(b->c);
        s = exec_step(e, 3);
        double used = stopwatch_stop(b->c);
        if (!s && !b->many && all[t.n - 1] > shortest) all[t.n - 1] = MIN(all[t.n - 1], used);
    }
    exec_close(e);
    if (!s) *seconds = undisturbed(all, t.n);
    return s;
}

static void to_host(Graph *g) {
    for (Value v = 0; v < g->node.n; v++) {
        node_of(g, v)->mem = MEM_HOST;
        if (node_of(g, v)->group) node_of(g, v)->stream = STREAM_HOST;
    }
}

/* Compiles and runs the graph; *work: what its step does. */
static Status time_graph(Bench *b, Value result, double *seconds, Work *work) {
    b_output(b->g, result, "y");
    Arena *scratch = arena_new();
    PassContext cx = {.session = b->session, .scratch = scratch};
    CodegenOptions o = {.dir = b->c->folder, .target = "cpu"};
    Plan *p = NULL;
    if (pipeline_run(b->g, "lower,fuse", &cx)) {
        if (b->many) split_groups(b->g);
        bool ok = pipeline_run(b->g, "schedule", &cx);
        if (b->host) to_host(b->g);
        if (ok && pipeline_run(b->g, "allocate", &cx)) p = codegen_plan(b->g, &o);
    }
    Status s = p ? time_plan(b, p, b->c->quick ? 0.02 : 0.15, seconds)
                 : status_make(EXIT_SYSTEM, "a kernel to be measured could not be made");
    if (p && work) *work = plan_work(p, &p->step.p[p->step.n - 1]);
    if (p) plan_free(p);
    arena_free(scratch);
    graph_free(b->g);
    session_free(b->session);
    return s;
}

/* ---- the kernels ---- */

/* y = -x over n elements, many times with other x and y: as in a plan, what a step touches was
 * last touched long ago. */
static Status time_stream(Calibration *c, int64_t n, bool host, double *seconds) {
    const int64_t copies = MIN(MAX((FAR_BYTES / 8 + n - 1) / n, 1), MOST_COPIES);
    Bench b = bench_new(c);
    char name[32];
    b.host = host, b.many = copies > 1;
    for (int64_t i = 1; i < copies; i++) {
        snprintf(name, sizeof name, "x%d", (int)i);
        Value y = b_ew1(b.g, OP_neg, input(&b, name, DT_F32, 1, &n));
        name[0] = 'y';
        b_output(b.g, y, intern(b.session, name));
    }
    return time_graph(&b, b_ew1(b.g, OP_neg, vector(&b, n)), seconds, NULL);
}

static Status put_bandwidth(Calibration *c, bool host) {
    static const struct {
        int64_t bytes;
        const char *text;
        bool quick;
    } size[] = {
        {64 << 10, "64KiB", true},   {256 << 10, "256KiB", false}, {1 << 20, "1MiB", true},
        {4 << 20, "4MiB", false},    {16 << 20, "16MiB", true},    {64 << 20, "64MiB", true},
        {256 << 20, "256MiB", true},
    };
    for (size_t i = 0; i < COUNT(size); i++) {
        double seconds = 0;
        if (c->quick && !size[i].quick) continue;
        TRY(time_stream(c, size[i].bytes / 8, host, &seconds));
        buf_puts(&c->text, host ? "host-bandwidth " : "bandwidth ");
        calibrate_put(c, (double)size[i].bytes / seconds, 1e9, "GB/s");
        buf_printf(&c->text, " at %s\n", size[i].text);
    }
    return NULL;
}

static void nothing(void *ctx, int64_t lo, int64_t hi, int thread) {
    (void)ctx, (void)lo, (void)hi, (void)thread;
}

/* Seconds that it takes to give every thread something to do. */
static double launch_time(Calibration *c) {
    double seconds[MOST_RUNS];
    for (int i = 0; i < MOST_RUNS; i++) {
        double begin = now_seconds();
        pool_run(c->pool, nothing, NULL, pool_threads(c->pool), 1);
        seconds[i] = now_seconds() - begin;
    }
    return undisturbed(seconds, MOST_RUNS);
}

/* Additions and multiplications on data of the nearest cache. */
static Status put_vector(Calibration *c, bool host) {
    const int64_t n = 1 << 18;
    double seconds = 0, launch = launch_time(c);
    Bench b = bench_new(c);
    b.host = host;
    Value x = vector(&b, n), y = x;
    for (int i = 0; i < CHAIN / 2; i++) {
        y = b_ew2(b.g, OP_mul, y, y);
        y = b_ew2(b.g, OP_add, y, x);
    }
    TRY(time_graph(&b, y, &seconds, NULL));
    if (host) TRY(time_stream(c, 64, host, &launch)); /* its stream's thread works alone */
    buf_puts(&c->text, host ? "host-launch " : "launch ");
    calibrate_put(c, MAX(launch, 1e-9) * 1e6, 1, "us");
    buf_puts(&c->text, host ? "\nhost-vector " : "\nvector ");
    calibrate_put(c, CHAIN * (double)n / MAX(seconds - launch, 1e-9), 1e9, "GOPS\n");
    return NULL;
}

static Status put_attention(Calibration *c, bool grad) {
    Bench b = bench_new(c);
    const int64_t dim[] = {8, 128, 4, 64};
    AttrValue at[] = {{.s = intern(b.session, "none")}, {.i = 0}, {.f = 0.125}};
    Value q = input(&b, "q", DT_F32, 4, dim), k = input(&b, "k", DT_F32, 4, dim);
    Value in[6] = {q, k, input(&b, "v", DT_F32, 4, dim)};
    Value y = graph_add(b.g, OP_attention, attr_intern(b.session, OP_attention, at), 3, in);
    if (grad) {
        in[3] = b_proj(b.g, y, 0), in[4] = b_proj(b.g, y, 1);
        in[5] = input(&b, "g", DT_F32, 4, dim);
        y = graph_add(b.g, OP_attention_grad, attr_intern(b.session, OP_attention_grad, at), 6, in);
        b_output(b.g, b_proj(b.g, y, 1), "dk");
        b_output(b.g, b_proj(b.g, y, 2), "dv");
    }
    Work w = {0};
    double seconds = 0;
    TRY(time_graph(&b, b_proj(b.g, y, 0), &seconds, &w));
    buf_printf(&c->text, "attention%s f32 ", grad ? "-grad" : "");
    calibrate_put(c, w.flops / seconds, 1e9, "GFLOPS\n");
    return NULL;
}

Status measure_kernels(Calibration *c) {
    calibrate_progress(c, "kernels");
    TRY(put_vector(c, false));
    TRY(put_vector(c, true));
    calibrate_progress(c, "memory");
    TRY(put_bandwidth(c, false));
    TRY(put_bandwidth(c, true));
    calibrate_progress(c, "attention");
    TRY(put_attention(c, false));
    return put_attention(c, true);
}

/* ---- weights ---- */

/* The sum of an op on x + 1/8, x + 2/8, …; OP_neg costs next to nothing. */
static Status time_op(Calibration *c, Op op, double *seconds) {
    const int64_t n = 1 << 16;
    Bench b = bench_new(c);
    Value x = vector(&b, n), sum = x;
    for (int i = 1; i <= TERMS; i++) {
        Value y = b_ew2(b.g, OP_add, x, b_like(b.g, i / 8.0, x));
        y = op_info(op)->arity == 1 ? b_ew1(b.g, op, y) : b_ew2(b.g, op, y, x);
        sum = b_ew2(b.g, OP_add, sum, y);
    }
    return time_graph(&b, sum, seconds, NULL);
}

Status measure_weights(Calibration *c) {
    static const Op ops[] = {OP_add, OP_sub,  OP_mul,  OP_div,      OP_maximum, OP_pow,
                             OP_exp, OP_log,  OP_sqrt, OP_rsqrt,    OP_sin,     OP_floor,
                             OP_cos, OP_tanh, OP_erf,  OP_sigmoid,  OP_relu,    OP_silu,
                             OP_abs, OP_gelu, OP_neg,  OP_gelu_grad};
    double none = 0, one = 0;
    TRY(time_op(c, OP_neg, &none));
    Bench b = bench_new(c);
    Value x = vector(&b, 1 << 16), y = x;
    for (int i = 0; i < CHAIN / 2; i++) {
        y = b_ew2(b.g, OP_mul, y, y);
        y = b_ew2(b.g, OP_add, y, x);
    }
    TRY(time_graph(&b, y, &one, NULL));
    one /= CHAIN;
    for (size_t i = 0; i < COUNT(ops); i++) {
        double seconds = 0;
        TRY(time_op(c, ops[i], &seconds));
        printf("%-10s %6.2f\n", op_info(ops[i])->name, (seconds - none) / TERMS / one);
    }
    return NULL;
}
