/* main_timing.c: see main_timing.h. */
#include "frontend/main_timing.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/exec.h"
#include "runtime/loader.h"

enum { WARM_UP = 3 };

/* ---- samples: one of each step, round after round ---- */

typedef struct {
    const Plan *plan;
    bool fastest;
    VEC(double) us; /* of step i in round r: us[r * plan->step.n + i] */
} Samples;

static void note_step(void *ctx, uint32_t step, double begin, double end) {
    Samples *s = ctx;
    (void)step; /* steps come in their order */
    vec_push(&s->us, 1e6 * (end - begin));
}

/* The median or the least; sorts. */
static double pick(double *x, uint32_t n, bool fastest) {
    if (n == 0) return 0;
    qsort(x, n, sizeof *x, compare_doubles);
    if (fastest) return x[0];
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void summarize(const Samples *s, Arena *a, Timing *out) {
    uint32_t n = s->plan->step.n;
    out->rounds = n ? s->us.n / n : 0;
    out->step_us = arena_array(a, double, n);
    double *x = xcalloc((size_t)out->rounds + 1, sizeof *x);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t r = 0; r < out->rounds; r++) x[r] = s->us.p[(size_t)r * n + i];
        out->step_us[i] = pick(x, out->rounds, s->fastest);
    }
    free(x);
}

/* ---- a run ---- */

/* One batch of random data, for all steps. */
static Status write_inputs(const Plan *p, Exec *e) {
    VEC(LoaderInput) input = {0};
    VEC(uint32_t) buffer = {0};
    for (uint32_t i = 0; i < p->input.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->input.p[i].buffer];
        if (b->name[0] == '@') continue;
        LoaderInput in = {
            .name = b->name, .dtype = b->dtype, .rank = b->rank, .bound = p->input.p[i].bound};
        memcpy(in.dim, b->dim, sizeof in.dim);
        vec_push(&input, in);
        vec_push(&buffer, p->input.p[i].buffer);
    }
    Loader *loader = NULL;
    const LoaderBatch *batch = NULL;
    LoaderSpec spec = {.source = "random:1", .input = input.p, .ninputs = input.n, .seed = 1};
    Status s = input.n ? loader_open(&spec, &loader) : NULL;
    if (!s && loader) s = loader_next(loader, &batch);
    for (uint32_t i = 0; i < buffer.n && !s; i++)
        s = exec_write(e, buffer.p[i], batch->data[i], p->buffer.p[buffer.p[i]].bytes);
    loader_close(loader);
    vec_free(&input);
    vec_free(&buffer);
    return s;
}

/* A step as m6c run does it, over the inputs that are there. */
static Status free_step(const Plan *p, Exec *e, int64_t step, double *us) {
    bool stopped;
    const void **same = xcalloc((size_t)p->input.n + 1, sizeof *same);
    double begin = now_seconds();
    Status s = exec_submit(e, step, same);
    if (!s) s = exec_collect(e, &stopped);
    *us = 1e6 * (now_seconds() - begin);
    free(same);
    if (s || !stopped) return s;
    return status_make(EXIT_INPUT, "step %" PRId64 ": the loss on random data is no finite number",
                       step);
}

/* Whole steps and steps in parts take turns: a machine that grows slower slows both. */
static Status run_steps(const Plan *p, Exec *e, int64_t steps, Samples *s, double *us) {
    int64_t step = 0;
    double ignored;
    for (int i = 0; i < WARM_UP; i++) TRY(free_step(p, e, ++step, &ignored));
    for (int64_t i = 0; i < steps; i++) {
        TRY(free_step(p, e, ++step, &us[i]));
        exec_set_timer(e, note_step, s);
        TRY(exec_step(e, ++step));
        exec_set_timer(e, NULL, NULL);
    }
    return NULL;
}

static Status run_timed(const Plan *p, Exec *e, int64_t steps, bool fastest, Arena *a,
                        Timing *out) {
    Samples samples = {.plan = p, .fastest = fastest};
    double *us = xcalloc((size_t)steps, sizeof *us);
    Status s = exec_init_params(e, 1);
    if (!s) s = write_inputs(p, e);
    if (!s) s = run_steps(p, e, steps, &samples, us);
    if (!s) {
        summarize(&samples, a, out);
        out->us = pick(us, (uint32_t)steps, fastest);
        out->best_us = us[0]; /* they are sorted now */
    }
    vec_free(&samples.us);
    free(us);
    return s;
}

Status timing_run(const Plan *p, const char *dir, const TimingOptions *o, Arena *a, Timing *out) {
    *out = (Timing){0};
    const DeviceOps *device = device_find(p->target);
    if (p->ranks > 1)
        return status_make(EXIT_INPUT,
                           "the plan is for %lld ranks and m6c compare starts one: compare it with "
                           "a trace, made by mpirun -n %lld m6c run %s ... --trace FILE",
                           (long long)p->ranks, (long long)p->ranks, dir);
    if (!device) return status_make(EXIT_INPUT, "this m6c has no device '%s'", p->target);
    if (device == &device_null)
        return status_make(EXIT_INPUT, "a plan for the null device takes no time: compile it with "
                                       "--target cpu");
    Pool *pool = pool_open(o->threads);
    if (!pool) return status_make(EXIT_SYSTEM, "cannot start the threads");
    Exec *e = NULL;
    ExecOptions options = {
        .device = device, .pool = pool, .dir = dir, .link = o->link, .disk = o->disk};
    Status s = exec_open(p, &options, &e);
    if (!s) s = run_timed(p, e, o->steps, o->fastest, a, out);
    exec_close(e);
    pool_close(pool);
    return s;
}

/* ---- a trace ---- */

static Status not_of_plan(const char *path, size_t event, const char *why) {
    return status_make(EXIT_INPUT, "%s: event %zu %s: it is not a trace of this plan's run", path,
                       event, why);
}

/* Ranks of other stages, or other shares, have other plans. */
static bool is_other_stage(const Plan *p, json_t *event) {
    json_int_t rank = json_integer_value(json_object_get(event, "pid"));
    return rank >= 0 && rank < p->ranks && plan_number_of(p, rank) != plan_number(p);
}

/* Each event is the next step of the plan, and after the last the first. A round that is cut off at
 * the end does not count. */
static Status read_events(json_t *events, const char *path, Samples *s) {
    size_t i;
    json_t *o;
    json_array_foreach(events, i, o) {
        const char *ph = json_string_value(json_object_get(o, "ph"));
        if (!ph || strcmp(ph, "X") != 0) continue; /* names of tracks */
        if (is_other_stage(s->plan, o)) continue;
        json_t *dur = json_object_get(o, "dur");
        json_t *step = json_object_get(json_object_get(o, "args"), "step");
        const char *name = json_string_value(json_object_get(o, "name"));
        if (!json_is_number(dur) || !json_is_integer(step) || !name)
            return not_of_plan(path, i, "has no duration, name and step");
        uint32_t at = s->us.n % MAX(s->plan->step.n, 1u);
        if (json_integer_value(step) != at || at >= s->plan->step.n)
            return not_of_plan(path, i, "is out of order");
        const PlanStep *p = &s->plan->step.p[at];
        if (strcmp(name, p->what ? p->what : step_kind_name(p->kind)) != 0)
            return not_of_plan(path, i, "is another step");
        vec_push(&s->us, json_number_value(dur));
    }
    return NULL;
}

Status timing_trace(const Plan *p, const char *path, bool fastest, Arena *a, Timing *out) {
    json_error_t error = {0};
    char *text = NULL;
    size_t n;
    *out = (Timing){0};
    TRY(file_read(path, &text, &n));
    json_t *events = json_loadb(text, n, 0, &error);
    free(text);
    Samples samples = {.plan = p, .fastest = fastest};
    Status s = NULL;
    if (!json_is_array(events))
        s = status_make(EXIT_INPUT, "%s: no trace of m6c run: %s", path,
                        events ? "not a list of events" : error.text);
    if (!s) s = read_events(events, path, &samples);
    if (!s && samples.us.n < MAX(p->step.n, 1u))
        s = status_make(EXIT_INPUT, "%s: it does not hold a whole step of the plan", path);
    if (!s) summarize(&samples, a, out);
    json_decref(events);
    vec_free(&samples.us);
    return s;
}
