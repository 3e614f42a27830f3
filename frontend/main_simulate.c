/* main_simulate.c: m6c simulate: a plan's step, run on a described machine without running it. */
#include "frontend/main_simulate.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/plan_wait.h"
#include "frontend/main_price.h"
#include "runtime/report.h"

enum { DEFAULT_WIDTH = 100, MOST_WIDTH = 1000, SHOWN_STALLS = 5 };

static const double LEAST_STALL = 0.5; /* us: shorter ones would be printed as 0 */

typedef struct {
    const char *cluster, *trace;
    bool json, timeline, steps, forward;
} SimulateArgs;

void plan_time(Plan *p, const Machine *m, Arena *a, PlanRun *out) {
    *out = (PlanRun){.plan = p, .machine = m};
    plan_price(p, m);
    out->step = plan_timed(p, a);
    for (uint32_t i = 0; i < p->step.n; i++) {
        out->steps[out->step[i].stream]++;
        out->bytes[out->step[i].stream] += out->step[i].bytes;
    }
}

bool plan_simulate(Plan *p, const char *cluster, Arena *a, PlanRun *out) {
    Machine *m = machine_load(p->session, cluster, p->target);
    if (!m) return false;
    plan_time(p, m, a, out);
    out->run = simulate(m, out->step, p->step.n, true, a);
    return true;
}

/* ---- figures ---- */

double plan_run_copies_us(const PlanRun *r) {
    const double *busy = r->run.busy;
    return busy[STREAM_IN] + busy[STREAM_OUT] + busy[STREAM_READ] + busy[STREAM_WRITE];
}

double plan_run_comm_us(const PlanRun *r) {
    double us = 0;
    for (int s = STREAM_COMM; s < STREAM_COUNT; s++) us += r->run.busy[s];
    return us;
}

static double tokens_a_second(const PlanRun *r) {
    return r->run.us > 0 ? (double)r->plan->tokens / r->run.us * 1e6 : 0;
}

double plan_run_peak_us(const PlanRun *r) {
    double us = 0;
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        const PlanStep *s = &r->plan->step.p[i];
        Work w = plan_work(r->plan, s);
        if (!w.product && strncmp(w.what, "attention", 9) != 0) continue;
        double peak = machine_peak(r->machine, w.dtype);
        if (!(peak > 0)) return -1;
        us += w.flops / peak * 1e6;
    }
    return us;
}

/* ---- for people ---- */

static void print_streams(const PlanRun *r) {
    printf("\n%-8s %11s %7s %7s %11s %8s\n", "stream", "busy ms", "busy", "steps", "MB copied",
           "GB/s");
    for (int s = 0; s < STREAM_COUNT; s++) {
        double busy = r->run.busy[s];
        if (!r->steps[s]) continue;
        printf("%-8s %11.3f %5.1f %% %7u", stream_name((Stream)s), busy * 1e-3,
               100 * busy / MAX(r->run.us, 1e-9), r->steps[s]);
        if (r->bytes[s] > 0)
            printf(" %11.2f %8.2f", r->bytes[s] * 1e-6, r->bytes[s] / MAX(busy, 1e-9) * 1e-3);
        printf("\n");
    }
}

static void print_hidden(const PlanRun *r) {
    double copies = plan_run_copies_us(r), exposed = r->run.exposed - r->run.exposed_comm;
    if (plan_run_comm_us(r) > 0)
        printf("\ncollectives %.3f ms, %.3f ms of the step with no kernel beside them (exposed)\n",
               plan_run_comm_us(r) * 1e-3, r->run.exposed_comm * 1e-3);
    if (copies > 0)
        printf("\ncopies %.3f ms, %.3f ms of the step with copies alone (exposed)\n", copies * 1e-3,
               exposed * 1e-3);
    if (r->steps[STREAM_HOST])
        printf("the host's kernels %.3f ms, %.3f ms of the step without a kernel of the device\n",
               r->run.busy[STREAM_HOST] * 1e-3, r->run.host_alone * 1e-3);
}

/* The device's kernels stand still before step `step`, until step `until` has ended. */
typedef struct {
    uint32_t step, until;
    double us;
} Stall;
typedef VEC(Stall) StallList;

static int longest_stall(const void *a, const void *b) {
    const Stall *x = a, *y = b;
    if (x->us != y->us) return x->us > y->us ? -1 : 1;
    return x->step < y->step ? -1 : x->step > y->step;
}

static StallList find_stalls(const PlanRun *r) {
    StallList list = {0};
    double free_at = 0;
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        const TimedStep *t = &r->step[i];
        if (t->stream != STREAM_COMPUTE) continue;
        Stall stall = {.step = i, .until = UINT32_MAX, .us = r->run.begin[i] - free_at};
        for (uint32_t w = 0; w < t->nwait; w++)
            if (stall.until == UINT32_MAX || r->run.end[t->wait[w]] > r->run.end[stall.until])
                stall.until = t->wait[w];
        if (stall.us >= LEAST_STALL && stall.until != UINT32_MAX) vec_push(&list, stall);
        free_at = r->run.end[i];
    }
    if (list.n) qsort(list.p, list.n, sizeof *list.p, longest_stall);
    return list;
}

static const char *name_of(const PlanStep *s) {
    return s->what ? s->what : step_kind_name(s->kind);
}

static void print_stalls(const PlanRun *r) {
    StallList list = find_stalls(r);
    if (list.n) printf("\nthe device's kernels wait longest for\n");
    for (uint32_t i = 0; i < list.n && i < SHOWN_STALLS; i++) {
        const PlanStep *s = &r->plan->step.p[list.p[i].step];
        const PlanStep *u = &r->plan->step.p[list.p[i].until];
        printf("%11.3f ms  step %u %s: %s %s", list.p[i].us * 1e-3, list.p[i].until,
               stream_name((Stream)u->stream), name_of(u), u->scope ? u->scope : "");
        if (r->step[list.p[i].until].bytes > 0) printf(" (%.2f MB)", (double)u->bytes * 1e-6);
        printf(", before step %u %s %s\n", list.p[i].step, name_of(s), s->scope ? s->scope : "");
    }
    vec_free(&list);
}

static void print_summary(const ClusterRun *c) {
    const PlanRun *r = &c->class[0];
    const Plan *p = r->plan;
    double flops = cluster_run_flops(c), mfu = cluster_run_mfu(c);
    printf("model %s, %s, on %s\n", p->model, p->train ? "training" : "forward only",
           c->cluster ? c->cluster : machine_name(r->machine));
    printf("%.3f ms a step", r->run.us * 1e-3);
    if (p->tokens > 0) printf(", %.0f tokens/s", tokens_a_second(r));
    if (flops > 0) printf(", %.1f GFLOP/s", flops / MAX(r->run.us, 1e-9) * 1e-3);
    if (mfu >= 0) printf(" (%.1f %% of peak)", 100 * mfu);
    printf("\n");
    if (p->ranks > 1) cluster_run_print(c);
    for (uint32_t i = 0; i < c->n; i++) {
        cluster_run_title(c, i);
        print_streams(&c->class[i]);
        print_hidden(&c->class[i]);
        print_stalls(&c->class[i]);
    }
}

static void print_steps(const PlanRun *r) {
    printf("\n%5s %-7s %12s %12s %12s  %-32s %s\n", "step", "stream", "begin us", "end us",
           "alone us", "what", "scope, source");
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        const PlanStep *s = &r->plan->step.p[i];
        printf("%5u %-7s %12.2f %12.2f %12.2f  %-32s %s %s\n", i, stream_name((Stream)s->stream),
               r->run.begin[i], r->run.end[i], r->step[i].us, name_of(s), s->scope ? s->scope : "",
               loc_text(r->plan->session, s->loc));
    }
}

static int drawing_width(void) {
    const char *text = getenv("COLUMNS");
    int64_t n;
    if (!text || !parse_i64(text, strlen(text), &n) || n <= 0) return DEFAULT_WIDTH;
    return (int)MIN(n, MOST_WIDTH);
}

/* ---- for scripts ---- */

json_t *plan_run_streams_json(const PlanRun *r) {
    json_t *list = json_array();
    for (int s = 0; s < STREAM_COUNT; s++) {
        double busy = r->run.busy[s];
        if (!r->steps[s]) continue;
        json_t *o = json_pack("{s:s, s:I, s:f, s:f, s:f}", "stream", stream_name((Stream)s),
                              "steps", (json_int_t)r->steps[s], "busy_ms", busy * 1e-3,
                              "busy_share", busy / MAX(r->run.us, 1e-9), "bytes", r->bytes[s]);
        if (r->bytes[s] > 0)
            json_object_set_new(o, "bytes_per_second",
                                json_real(r->bytes[s] / MAX(busy, 1e-9) * 1e6));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *steps_json(const PlanRun *r) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        const PlanStep *s = &r->plan->step.p[i];
        json_array_append_new(
            list,
            json_pack("{s:I, s:s, s:f, s:f, s:f, s:s, s:s, s:s}", "step", (json_int_t)i, "stream",
                      stream_name((Stream)s->stream), "begin_us", r->run.begin[i], "end_us",
                      r->run.end[i], "alone_us", r->step[i].us, "what", name_of(s), "scope",
                      s->scope ? s->scope : "", "source", loc_text(r->plan->session, s->loc)));
    }
    return list;
}

static void print_json(const ClusterRun *c, bool steps) {
    const PlanRun *r = &c->class[0];
    const Plan *p = r->plan;
    double mfu = cluster_run_mfu(c);
    json_t *o = json_pack(
        "{s:s, s:s, s:b, s:f, s:f, s:I, s:f, s:f, s:f, s:f}", "model", p->model, "machine",
        c->cluster ? c->cluster : machine_name(r->machine), "train", p->train, "predicted_ms",
        r->run.us * 1e-3, "tokens_per_second", tokens_a_second(r), "tokens", (json_int_t)p->tokens,
        "flops", cluster_run_flops(c), "copies_ms", plan_run_copies_us(r) * 1e-3, "exposed_ms",
        r->run.exposed * 1e-3, "host_alone_ms", r->run.host_alone * 1e-3);
    json_object_set_new(o, "mfu", mfu < 0 ? json_null() : json_real(mfu));
    json_object_set_new(o, "streams", plan_run_streams_json(r));
    if (p->ranks > 1) cluster_run_json(c, o);
    if (steps) json_object_set_new(o, "steps", steps_json(r));
    json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(o);
}

/* ---- the command ---- */

static Status tell(const SimulateArgs *a, const ClusterRun *c) {
    if (a->trace) TRY(cluster_run_trace(c, a->trace));
    if (a->json) {
        print_json(c, a->steps);
        return NULL;
    }
    print_summary(c);
    for (uint32_t i = 0; i < c->n && a->timeline; i++) {
        printf("\n");
        cluster_run_title(c, i);
        timeline_print(&c->class[i], drawing_width(), stdout);
    }
    for (uint32_t i = 0; i < c->n && a->steps; i++) {
        cluster_run_title(c, i);
        print_steps(&c->class[i]);
    }
    return NULL;
}

static int run(const SimulateArgs *a, const char *dir) {
    Session *s = session_new();
    Arena *arena = arena_new();
    ClusterRun c;
    Plan *p = mesh_plans_load(s, dir, a->forward ? "forward" : "plan");
    bool ok = p != NULL;
    if (p) {
        plan_warn_stale(p);
        ok = cluster_simulate(p, a->cluster, arena, &c);
    }
    int code = ok ? status_exit(tell(a, &c)) : EXIT_INPUT;
    if (p) mesh_plans_free(p);
    arena_free(arena);
    session_free(s);
    return code;
}

int main_simulate(int argc, char **argv) {
    SimulateArgs a = {0};
    const Option options[] = {
        {"cluster", OPT_TEXT, &a.cluster, "FILE",
         "the machine (this one, as m6c calibrate saw it)"},
        {"timeline", OPT_FLAG, &a.timeline, NULL, "the step, drawn; $COLUMNS wide (100)"},
        {"steps", OPT_FLAG, &a.steps, NULL, "when each step begins and ends"},
        {"trace", OPT_TEXT, &a.trace, "FILE", "the same times, for Perfetto"},
        {"forward", OPT_FLAG, &a.forward, NULL, "the forward plan beside a training plan"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object; with --steps, the steps too"},
    };
    const OptionTable table = {"simulate DIR [options]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && a.json && a.timeline)
        s = status_make(EXIT_USAGE, "--timeline is drawn for people, --json is for scripts: "
                                    "choose one");
    int code = s || help ? status_exit(s) : run(&a, positional.p[0]);
    vec_free(&positional);
    return code;
}
