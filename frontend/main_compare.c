/* main_compare.c: m6c compare: a measured run beside its prediction, step by step. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/main_simulate.h"
#include "frontend/main_timing.h"

typedef struct {
    const char *cluster, *trace, *link, *disk;
    int64_t steps, top, threads;
    bool json, forward, fastest;
} CompareArgs;

typedef enum {
    PART_PRODUCT,
    PART_ATTENTION,
    PART_KERNEL,
    PART_HOST,
    PART_COPY,
    PART_COMM,
    PART_COUNT
} Part;

static const char *part_name(Part p) {
    static const char *const name[] = {"products",       "attention", "fused kernels",
                                       "host's kernels", "copies",    "collectives"};
    _Static_assert(COUNT(name) == PART_COUNT, "a name for each");
    return name[p];
}

static const char *part_key(Part p) {
    static const char *const key[] = {"product", "attention", "kernel",
                                      "host",    "copy",      "collective"};
    _Static_assert(COUNT(key) == PART_COUNT, "a key for each");
    return key[p];
}

static Part part_of(const PlanStep *s) {
    if (s->kind == STEP_COPY) return PART_COPY;
    if (s->kind == STEP_COLLECTIVE) return PART_COMM;
    if (s->stream == STREAM_HOST) return PART_HOST;
    if (s->kind == STEP_GEMM) return PART_PRODUCT;
    bool attention = s->what && strncmp(s->what, "attention", strlen("attention")) == 0;
    return attention ? PART_ATTENTION : PART_KERNEL;
}

typedef struct {
    uint32_t steps;
    double predicted, measured; /* us */
} Sum;

typedef struct {
    const PlanRun *r;
    const Timing *m;
    Sum part[PART_COUNT], all; /* all: one after another */
    double off;                /* sum of the parts' absolute errors, us */
    uint32_t *worst;           /* steps, largest absolute error first */
} Comparison;

static double error_us(const Comparison *c, uint32_t step) {
    return c->r->step[step].us - c->m->step_us[step];
}

static double percent(double predicted, double measured) {
    return measured > 0 ? 100 * (predicted - measured) / measured : 0;
}

static void add(Sum *s, double predicted, double measured) {
    s->steps++;
    s->predicted += predicted;
    s->measured += measured;
}

static int worst_first(const void *a, const void *b, void *comparison) {
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    double x = fabs(error_us(comparison, i)), y = fabs(error_us(comparison, j));
    if (x != y) return x > y ? -1 : 1;
    return i < j ? -1 : i > j;
}

static Comparison make_comparison(const PlanRun *r, const Timing *m, Arena *a) {
    uint32_t n = r->plan->step.n;
    Comparison c = {.r = r, .m = m, .worst = arena_array(a, uint32_t, n)};
    for (uint32_t i = 0; i < n; i++) {
        Part part = part_of(&r->plan->step.p[i]);
        add(&c.part[part], r->step[i].us, m->step_us[i]);
        add(&c.all, r->step[i].us, m->step_us[i]);
        c.off += fabs(error_us(&c, i));
        c.worst[i] = i;
    }
    if (n) qsort_r(c.worst, n, sizeof *c.worst, worst_first, &c);
    return c;
}

/* ---- for people ---- */

static void print_line(const char *name, uint32_t steps, double predicted, double measured) {
    char count[16] = "";
    if (steps) snprintf(count, sizeof count, "%u", steps);
    printf("%-26s %6s %12.3f %12.3f %+8.1f %%\n", name, count, predicted * 1e-3, measured * 1e-3,
           percent(predicted, measured));
}

static void print_totals(const Comparison *c) {
    const Plan *p = c->r->plan;
    printf("model %s, %s, target %s; predicted for %s, measured over %u step%s\n\n", p->model,
           p->train ? "training" : "forward only", p->target, machine_name(c->r->machine),
           c->m->rounds, c->m->rounds == 1 ? "" : "s");
    printf("%-26s %6s %12s %12s %10s\n", "", "steps", "predicted ms", "measured ms", "error");
    if (c->m->us > 0) {
        print_line("whole step", 0, c->r->run.us, c->m->us);
        if (c->m->best_us < c->m->us)
            print_line("  the fastest of them", 0, c->r->run.us, c->m->best_us);
    }
    print_line("parts, one after another", c->all.steps, c->all.predicted, c->all.measured);
    for (int i = 0; i < PART_COUNT; i++) {
        char name[32];
        const Sum *s = &c->part[i];
        snprintf(name, sizeof name, "  %s", part_name((Part)i));
        if (s->steps) print_line(name, s->steps, s->predicted, s->measured);
    }
    printf("the parts' errors, without their signs, add up to %.1f %% of the measured time\n",
           c->all.measured > 0 ? 100 * c->off / c->all.measured : 0);
}

static void print_worst(const Comparison *c, int64_t top) {
    const Plan *p = c->r->plan;
    if (top == 0 || p->step.n == 0) return;
    printf("\n%5s %-7s %-9s %12s %12s %10s %10s  %-32s %s\n", "step", "stream", "kind",
           "predicted us", "measured us", "error us", "error", "what", "scope, source");
    for (uint32_t k = 0; k < p->step.n && k < top; k++) {
        uint32_t i = c->worst[k];
        const PlanStep *s = &p->step.p[i];
        double predicted = c->r->step[i].us, measured = c->m->step_us[i];
        printf("%5u %-7s %-9s %12.2f %12.2f %+10.2f %+8.1f %%  %-32s %s %s\n", i,
               stream_name((Stream)s->stream), part_key(part_of(s)), predicted, measured,
               predicted - measured, percent(predicted, measured),
               s->what ? s->what : step_kind_name(s->kind), s->scope ? s->scope : "",
               loc_text(p->session, s->loc));
    }
}

/* ---- for scripts ---- */

static json_t *sum_json(double predicted, double measured) {
    json_t *o =
        json_pack("{s:f, s:f}", "predicted_ms", predicted * 1e-3, "measured_ms", measured * 1e-3);
    json_object_set_new(o, "error_percent",
                        measured > 0 ? json_real(percent(predicted, measured)) : json_null());
    return o;
}

static json_t *kinds_json(const Comparison *c) {
    json_t *o = json_object();
    for (int i = 0; i < PART_COUNT; i++) {
        const Sum *s = &c->part[i];
        if (!s->steps) continue;
        json_t *sum = sum_json(s->predicted, s->measured);
        json_object_set_new(sum, "steps", json_integer(s->steps));
        json_object_set_new(o, part_key((Part)i), sum);
    }
    return o;
}

static json_t *steps_json(const Comparison *c, int64_t top) {
    const Plan *p = c->r->plan;
    json_t *list = json_array();
    for (uint32_t k = 0; k < p->step.n && k < top; k++) {
        uint32_t i = c->worst[k];
        const PlanStep *s = &p->step.p[i];
        json_array_append_new(
            list, json_pack("{s:I, s:s, s:s, s:f, s:f, s:s, s:s, s:s}", "step", (json_int_t)i,
                            "stream", stream_name((Stream)s->stream), "kind", part_key(part_of(s)),
                            "predicted_us", c->r->step[i].us, "measured_us", c->m->step_us[i],
                            "what", s->what ? s->what : step_kind_name(s->kind), "scope",
                            s->scope ? s->scope : "", "source", loc_text(p->session, s->loc)));
    }
    return list;
}

static void print_json(const Comparison *c, int64_t top) {
    const Plan *p = c->r->plan;
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:I}", "model", p->model, "target", p->target,
                          "machine", machine_name(c->r->machine), "train", p->train,
                          "measured_steps", (json_int_t)c->m->rounds);
    json_object_set_new(o, "step", c->m->us > 0 ? sum_json(c->r->run.us, c->m->us) : json_null());
    json_object_set_new(o, "fastest_ms",
                        c->m->us > 0 ? json_real(c->m->best_us * 1e-3) : json_null());
    json_object_set_new(o, "parts", sum_json(c->all.predicted, c->all.measured));
    json_object_set_new(o, "absolute_error_percent",
                        json_real(c->all.measured > 0 ? 100 * c->off / c->all.measured : 0));
    json_object_set_new(o, "kinds", kinds_json(c));
    json_object_set_new(o, "steps", steps_json(c, top));
    json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(o);
}

/* ---- the command ---- */

static Status measure(const CompareArgs *a, const Plan *p, const char *dir, Arena *arena,
                      Timing *m) {
    TimingOptions o = {
        .steps = a->steps, .fastest = a->fastest, .threads = (int)a->threads, .disk = a->disk};
    if (a->trace) return timing_trace(p, a->trace, a->fastest, arena, m);
    if (a->link) TRY(option_rate("link", a->link, &o.link));
    return timing_run(p, dir, &o, arena, m);
}

static int compare_plan(const CompareArgs *a, Plan *p, const char *dir, Arena *arena) {
    PlanRun r;
    Timing m;
    if (!plan_simulate(p, a->cluster, arena, &r)) return diag_exit(p->session);
    Status s = measure(a, p, dir, arena, &m);
    if (s) return status_exit(s);
    Comparison c = make_comparison(&r, &m, arena);
    if (a->json) {
        print_json(&c, a->top < 0 ? p->step.n : a->top);
    } else {
        print_totals(&c);
        print_worst(&c, a->top < 0 ? 15 : a->top);
    }
    return EXIT_DONE;
}

static int compare(const CompareArgs *a, const char *dir) {
    Session *s = session_new();
    Arena *arena = arena_new();
    Plan *p = plan_load(s, dir, a->forward ? "forward.txt" : "plan.txt");
    int code = EXIT_INPUT;
    if (p) {
        plan_warn_stale(p);
        code = compare_plan(a, p, dir, arena);
        plan_free(p);
    }
    arena_free(arena);
    session_free(s);
    return code;
}

static Status check(const CompareArgs *a) {
    if (a->steps < 1) return status_make(EXIT_USAGE, "--steps must be at least 1");
    if (a->threads < 0 || a->threads > 4096)
        return status_make(EXIT_USAGE, "--threads must be from 0 to 4096");
    if (a->trace && (a->link || a->disk || a->threads))
        return status_make(EXIT_USAGE, "--link, --disk and --threads are for a run, --trace is of "
                                       "an earlier one: choose");
    return NULL;
}

int main_compare(int argc, char **argv) {
    CompareArgs a = {.steps = 10, .top = -1};
    const Option options[] = {
        {"steps", OPT_INT, &a.steps, "N", "run so many free, and as many step by step (10)"},
        {"trace", OPT_TEXT, &a.trace, "FILE",
         "measured by an earlier m6c run --trace: runs nothing"},
        {"cluster", OPT_TEXT, &a.cluster, "FILE", "the machine predicted for (this one)"},
        {"top", OPT_INT, &a.top, "K", "steps listed, worst first (15; with --json all)"},
        {"fastest", OPT_FLAG, &a.fastest, NULL, "of all times, not their median: a busy machine"},
        {"forward", OPT_FLAG, &a.forward, NULL, "the forward plan beside a training plan"},
        {"threads", OPT_INT, &a.threads, "N", "of the CPU device (all cores)"},
        {"link", OPT_TEXT, &a.link, "RATE", "on the CPU: of copies from and to the host (4GB/s)"},
        {"disk", OPT_TEXT, &a.disk, "DIR", "where what the plan keeps on disk lies"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object"},
    };
    const OptionTable table = {"compare DIR [options]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && !help) s = check(&a);
    int code = s || help ? status_exit(s) : compare(&a, positional.p[0]);
    vec_free(&positional);
    return code;
}
