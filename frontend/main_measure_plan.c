/* main_measure_plan.c: the prices of a plan's own steps on this machine. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/main_calibrate.h"
#include "frontend/main_price.h"

/* The first steps touch memory for the first time, and do not count. */
enum { FIRST = 2, LEAST = 2, RUNS = 15, FEW_RUNS = 6 };

typedef struct {
    const Plan *plan;
    Calibration *c;
    VEC(double) * seconds; /* by step */
    bool on;
} Timing;

/* The pool works for the device's own stream; what other streams do is their threads'. */
static void on_step(void *ctx, uint32_t step, double begin, double end) {
    Timing *t = ctx;
    double wall = end - begin, used = stopwatch_stop(t->c);
    /* of several ranks all work at once, and may have to share cores: that is their price */
    bool alone = t->plan->ranks <= 1;
    if (alone && t->plan->step.p[step].stream == STREAM_COMPUTE) wall = MIN(wall, used);
    if (t->on) vec_push(&t->seconds[step], wall);
    stopwatch_start(t->c);
}

/* Whether there is a step after `done` that count: all ranks do as many. */
static Status goes_on(Calibration *c, int done, double begin, bool *more) {
    const double most = c->quick ? 3 : 20;
    int64_t late = now_seconds() - begin > most;
    TRY(c->world->ops->all_reduce(c->world, &late, &late, 1, DT_I64, REDUCE_MAX));
    *more = done < LEAST || (done < (c->quick ? FEW_RUNS : RUNS) && !late);
    return NULL;
}

/* ---- data ---- */

static void put_element(void *p, Dtype d, int64_t i, double x) {
    switch (d) {
    case DT_F32: ((float *)p)[i] = (float)x; break;
    case DT_F64: ((double *)p)[i] = x; break;
    case DT_BF16: ((uint16_t *)p)[i] = f32_to_bf16((float)x); break;
    case DT_F16: ((uint16_t *)p)[i] = f32_to_f16((float)x); break;
    case DT_I32: ((int32_t *)p)[i] = (int32_t)x; break;
    case DT_I64: ((int64_t *)p)[i] = (int64_t)x; break;
    default: ((uint8_t *)p)[i] = x >= 1;
    }
}

static Status write_inputs(Exec *e, const Plan *p) {
    for (uint32_t i = 0; i < p->input.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->input.p[i].buffer];
        if (b->name[0] == '@') continue;
        double range = p->input.p[i].bound > 0 ? (double)p->input.p[i].bound : 2;
        void *x = xcalloc((size_t)b->bytes + 8, 1);
        for (int64_t k = 0; k < plan_elements(b); k++) {
            double u = (double)philox(i + 1, (uint64_t)k, NULL) * 0x1p-32 * range;
            put_element(x, b->dtype, k, dtype_is_float(b->dtype) ? u - 1 : u);
        }
        Status s = exec_write(e, p->input.p[i].buffer, x, b->bytes);
        free(x);
        TRY(s);
    }
    return NULL;
}

/* ---- from times to prices ---- */

/* The median over all runs of all steps that do this work; every step is used once. */
static double price(const Plan *p, const Timing *t, uint32_t first, bool *used) {
    Work w = plan_work(p, &p->step.p[first]);
    VEC(double) all = {0};
    for (uint32_t i = first; i < p->step.n; i++) {
        Work x = plan_work(p, &p->step.p[i]);
        if (used[i] || !work_equal(&w, &x)) continue;
        used[i] = true;
        for (uint32_t k = 0; k < t->seconds[i].n; k++) vec_push(&all, t->seconds[i].p[k]);
    }
    double us = all.n ? median(all.p, all.n) * 1e6 : 0;
    vec_free(&all);
    return us;
}

static uint32_t set_prices(const Plan *p, const Timing *t, Machine *m) {
    bool *used = xcalloc(p->step.n + 1, sizeof *used);
    uint32_t pieces = 0;
    for (uint32_t i = 0; i < p->step.n; i++) {
        if (used[i]) continue;
        Work w = plan_work(p, &p->step.p[i]);
        if (w.comm.ranks) continue; /* the links say what it costs */
        double us = price(p, t, i, used);
        if (us > 0) machine_set_step(m, &w, us), pieces++;
    }
    free(used);
    machine_index(m);
    return pieces;
}

/* ---- what communication takes from kernels ---- */

/* Its streams and the compute stream: what other threads do is communication. */
static bool only_communicates(const Plan *p) {
    bool any = false;
    for (uint32_t i = 0; i < p->step.n; i++) {
        Stream s = (Stream)p->step.p[i].stream;
        if (s != STREAM_COMPUTE && s < STREAM_COMM) return false;
        any |= s >= STREAM_COMM;
    }
    return any;
}

/* Processor time of this process, without the pool's. */
static double other_seconds(Calibration *c) {
    struct timespec t = {0};
    int n = pool_threads(c->pool);
    double *used = xcalloc((size_t)n, sizeof *used), sum = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    pool_cpu_seconds(c->pool, used);
    for (int i = 0; i < n; i++) sum += used[i];
    free(used);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9 - sum;
}

/* Seconds of a step, or of several. */
typedef struct {
    double threads; /* that the threads of communication have a processor */
    double busy;    /* in which collectives are under way, on any stream */
} Taken;

static int by_begin(const void *a, const void *b) {
    const ExecSpan *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* In the step that ran last. */
static double busy_seconds(const Exec *e, const Plan *p) {
    VEC(ExecSpan) all = {0};
    double busy = 0, end = 0;
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].stream >= STREAM_COMM) vec_push(&all, exec_comm_span(e, i));
    qsort(all.p, all.n, sizeof *all.p, by_begin);
    for (uint32_t i = 0; i < all.n; i++) {
        busy += MAX(all.p[i].end - MAX(all.p[i].begin, end), 0);
        end = MAX(end, all.p[i].end);
    }
    vec_free(&all);
    return busy;
}

/* Of some steps of training, all streams side by side, on all ranks. */
static Status time_threads(Calibration *c, Exec *e, const Plan *p, int64_t from, Taken *out) {
    double start = now_seconds(), begin = 0;
    bool more = true;
    exec_set_timer(e, NULL, NULL);
    for (int i = 0; more; i++) {
        if (i == FIRST) begin = other_seconds(c);
        TRY(exec_step(e, from + i));
        if (i >= FIRST) out->busy += busy_seconds(e, p);
        TRY(goes_on(c, i + 1 - FIRST, start, &more));
    }
    out->threads = other_seconds(c) - begin;
    double sum[] = {out->threads, out->busy};
    TRY(c->world->ops->all_reduce(c->world, sum, sum, COUNT(sum), DT_F64, REDUCE_SUM));
    *out = (Taken){sum[0], sum[1]};
    return NULL;
}

/* Messages go on only while a thread asks for them. While collectives are under way they take so
 * much of a core, and a kernel is as fast as its slowest thread. */
static void set_speed(const Plan *p, const Taken *taken, Machine *m) {
    unsigned streams = 0;
    for (uint32_t i = 0; i < p->step.n; i++) streams |= 1u << p->step.p[i].stream;
    for (int s = STREAM_COMM; s < STREAM_COUNT; s++)
        if (streams >> s & 1)
            machine_set_slow(m, STREAM_COMPUTE, 1u << s, 1 - taken->threads / taken->busy);
}

/* Begins with step 1; *steps: how many it did. */
static Status run(Exec *e, const Plan *p, Timing *t, int64_t *steps) {
    double begin = now_seconds();
    bool more = true;
    TRY(exec_init_params(e, 1));
    TRY(write_inputs(e, p));
    exec_set_timer(e, on_step, t);
    for (int i = 0; more; i++) {
        t->on = i >= FIRST;
        stopwatch_start(t->c);
        TRY(exec_step(e, ++*steps));
        TRY(goes_on(t->c, i + 1 - FIRST, begin, &more));
    }
    return NULL;
}

Status measure_plan(Calibration *c, const Plan *p, const char *dir, Machine *m, uint32_t *pieces) {
    Exec *e = NULL;
    const DeviceOps *device = device_find(p->target);
    if (!device) return status_make(EXIT_INPUT, "no device runs plans for '%s'", p->target);
    ExecOptions o = {.device = device,
                     .pool = c->pool,
                     .dir = dir,
                     .disk = c->disk,
                     .link = c->link,
                     .comm = c->world};
    Timing t = {.plan = p, .c = c, .seconds = xcalloc(p->step.n + 1, sizeof *t.seconds)};
    int64_t steps = 0;
    Taken taken = {0};
    Status s = exec_open(p, &o, &e);
    if (!s) s = run(e, p, &t, &steps);
    if (!s && only_communicates(p)) s = time_threads(c, e, p, steps + 1, &taken);
    if (e) exec_close(e);
    if (!s) *pieces = set_prices(p, &t, m);
    if (!s && taken.busy > 0) set_speed(p, &taken, m);
    for (uint32_t i = 0; i < p->step.n; i++) vec_free(&t.seconds[i]);
    free(t.seconds);
    return s;
}
