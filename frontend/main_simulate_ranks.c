/* main_simulate_ranks.c: the plans of all ranks, simulated together on a described cluster. */
#include <inttypes.h>
#include <stdlib.h>

#include "frontend/main_price.h"
#include "frontend/main_simulate.h"
#include "runtime/report.h"

/* ---- simulating ---- */

/* The ranks of each stage, or all. */
static void find_ranks(const Plan *first, ClusterRun *c, Arena *a) {
    c->ranks = arena_array(a, RankClass, c->n);
    int64_t **rank = arena_array(a, int64_t *, c->n);
    for (uint32_t i = 0; i < c->n; i++) rank[i] = arena_array(a, int64_t, first->ranks);
    for (int64_t r = 0; r < first->ranks; r++) {
        int64_t stage = plan_stage_of(first, r);
        rank[stage][c->ranks[stage].nrank++] = r;
    }
    for (uint32_t i = 0; i < c->n; i++) c->ranks[i].rank = rank[i];
}

static void find_steps(const Plan *p, const PlanRun *r, RankClass *to, Arena *a) {
    RankComm *comm = arena_array(a, RankComm, p->step.n);
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        if (s->kind != STEP_COLLECTIVE) continue;
        comm[i] = (RankComm){.work = plan_work(p, s).comm, .peer = s->collective.peer};
    }
    to->step = r->step, to->n = p->step.n, to->comm = comm;
}

static bool report_stuck(const Plan *first, const ClusterRun *c) {
    const Plan *p = plan_at(first, c->all.stuck_class);
    const PlanStep *s = &p->step.p[c->all.stuck_step];
    diag_error(p->session, s->loc,
               "step %u of rank %" PRId64 " (%s) waits for ranks that never come to it",
               c->all.stuck_step, c->ranks[c->all.stuck_class].rank[0],
               s->what ? s->what : step_kind_name(s->kind));
    return false;
}

bool cluster_simulate(Plan *first, const char *cluster, Arena *a, ClusterRun *out) {
    *out = (ClusterRun){.n = plan_count(first)};
    out->class = arena_array(a, PlanRun, out->n);
    if (first->ranks <= 1) return plan_simulate(first, cluster, a, &out->class[0]);
    Machine *m = machine_load(first->session, cluster, first->target);
    const Topology *t = m ? topology_of(m, first->ranks) : NULL;
    if (!t) return false;
    find_ranks(first, out, a);
    for (uint32_t i = 0; i < out->n; i++) {
        Plan *p = first->of_stage ? first->of_stage[i] : first;
        plan_time(p, m, a, &out->class[i]);
        find_steps(p, &out->class[i], &out -> ranks[i], a);
    }
    if (!simulate_ranks(m, t, out->ranks, out->n, a, &out->all)) return report_stuck(first, out);
    for (uint32_t i = 0; i < out->n; i++) {
        out->class[i].run = out->all.run[i];
        out->class[i].run.us = out->all.us;
    }
    return true;
}

/* ---- figures ---- */

static double ranks_in(const ClusterRun *c, uint32_t i) {
    return c->ranks ? (double)c->ranks[i].nrank : 1;
}

double cluster_run_flops(const ClusterRun *c) {
    double sum = 0;
    for (uint32_t i = 0; i < c->n; i++) sum += c->class[i].plan->flops * ranks_in(c, i);
    return sum;
}

double cluster_run_mfu(const ClusterRun *c) {
    double us = 0, all = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        double peak = plan_run_peak_us(&c->class[i]);
        if (peak < 0) return -1;
        us += peak * ranks_in(c, i);
        all += c->class[i].run.us * ranks_in(c, i);
    }
    return us > 0 && all > 0 ? us / all : -1;
}

/* Nothing at all is at work: the rank waits for others. */
static double idle_us(const PlanRun *r) {
    const Simulation *s = &r->run;
    return MAX(s->us - s->busy[STREAM_COMPUTE] - s->host_alone - s->exposed, 0);
}

/* ---- for people ---- */

void cluster_run_title(const ClusterRun *c, uint32_t class) {
    if (c->n > 1) printf("\nstage %u, %" PRId64 " ranks\n", class, c->ranks[class].nrank);
}

static void print_classes(const ClusterRun *c) {
    printf("\n%-8s %6s %9s %9s %11s %9s\n", "ranks", "", "kernels", "comm", "exposed", "idle");
    for (uint32_t i = 0; i < c->n; i++) {
        const PlanRun *r = &c->class[i];
        double share = 100 / MAX(r->run.us, 1e-9);
        if (c->n > 1)
            printf("stage %-2u", i);
        else
            printf("all     ");
        printf(" %6" PRId64 " %7.1f %% %7.1f %% %9.1f %% %7.1f %%\n", c->ranks[i].nrank,
               r->run.busy[STREAM_COMPUTE] * share, plan_run_comm_us(r) * share,
               r->run.exposed_comm * share, idle_us(r) * share);
    }
}

void cluster_run_print(const ClusterRun *c) {
    print_classes(c);
    if (c->all.nlink) printf("\n%-16s %7s %14s %14s\n", "links", "busy", "MB sent", "messages");
    for (int i = 0; i < c->all.nlink; i++) {
        const LinkUse *l = &c->all.link[i];
        printf("%-16s %5.1f %% %14.2f %14.0f\n", l->name, 100 * l->us / MAX(c->all.us, 1e-9),
               l->bytes * 1e-6, l->messages);
    }
}

/* ---- for scripts ---- */

static json_t *class_json(const ClusterRun *c, uint32_t i) {
    const PlanRun *r = &c->class[i];
    json_t *o =
        json_pack("{s:I, s:I, s:f, s:f, s:f, s:f}", "ranks", (json_int_t)c->ranks[i].nrank,
                  "first_rank", (json_int_t)c->ranks[i].rank[0], "comm_ms",
                  plan_run_comm_us(r) * 1e-3, "exposed_ms", r->run.exposed * 1e-3,
                  "exposed_comm_ms", r->run.exposed_comm * 1e-3, "idle_ms", idle_us(r) * 1e-3);
    json_object_set_new(o, "streams", plan_run_streams_json(r));
    return o;
}

void cluster_run_json(const ClusterRun *c, json_t *to) {
    json_t *classes = json_array(), *links = json_array();
    for (uint32_t i = 0; i < c->n; i++) json_array_append_new(classes, class_json(c, i));
    for (int i = 0; i < c->all.nlink; i++) {
        const LinkUse *l = &c->all.link[i];
        json_array_append_new(links, json_pack("{s:s, s:f, s:f, s:f}", "link", l->name,
                                               "busy_share", l->us / MAX(c->all.us, 1e-9), "bytes",
                                               l->bytes, "messages", l->messages));
    }
    json_object_set_new(to, "ranks", json_integer(c->class[0].plan->ranks));
    json_object_set_new(to, "classes", classes);
    json_object_set_new(to, "links", links);
}

/* ---- a trace ---- */

/* The format of runs' traces; times count from the step's begin. */
static Status write_trace(const PlanRun *r, const char *path, int rank) {
    Trace *t = NULL;
    Status s = trace_open(path, r->plan, rank, &t);
    if (t) trace_zero(t, 0);
    for (uint32_t i = 0; i < r->plan->step.n && !s; i++)
        trace_step(t, i, r->run.begin[i] * 1e-6, r->run.end[i] * 1e-6);
    Status closed = trace_close(t);
    if (!s) return closed;
    free(closed);
    return s;
}

Status cluster_run_trace(const ClusterRun *c, const char *path) {
    Status s = NULL;
    if (c->n == 1) return write_trace(&c->class[0], path, 0);
    for (uint32_t i = 0; i < c->n && !s; i++) {
        char *part = trace_part_path(path, (int)i);
        s = write_trace(&c->class[i], part, (int)c -> ranks[i].rank[0]);
        free(part);
    }
    return s ? s : trace_join(path, (int)c->n);
}
