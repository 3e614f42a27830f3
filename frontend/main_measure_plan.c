/* main_measure_plan.c: the prices of a plan's own steps on this machine. */
#include <stdlib.h>
#include <string.h>

#include "frontend/main_calibrate.h"
#include "frontend/main_price.h"

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

static Status run(Exec *e, const Plan *p, Timing *t, bool quick) {
    const int most = quick ? 6 : 15;
    TRY(exec_init_params(e, 1));
    TRY(write_inputs(e, p));
    exec_set_timer(e, on_step, t);
    double end = now_seconds() + (quick ? 3 : 20);
    for (int i = 0; i < most + 2 && (i < 4 || now_seconds() < end); i++) {
        t->on = i >= 2; /* the first steps touch memory for the first time */
        stopwatch_start(t->c);
        TRY(exec_step(e, i + 1));
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
    Status s = exec_open(p, &o, &e);
    if (!s) s = run(e, p, &t, c->quick);
    if (e) exec_close(e);
    if (!s) *pieces = set_prices(p, &t, m);
    for (uint32_t i = 0; i < p->step.n; i++) vec_free(&t.seconds[i]);
    free(t.seconds);
    return s;
}
