/* main_simulate_ranks.c: the plans of all ranks, simulated together on a described cluster. */
#include <inttypes.h>
#include <stdlib.h>

#include "frontend/main_price.h"
#include "frontend/main_simulate.h"
#include "runtime/report.h"

/* ---- simulating ---- */

static uint32_t stage_of(const ClusterRun *c, uint32_t class) {
    const Plan *p = c->class[class].plan;
    return (uint32_t)plan_stage_of(p, c->ranks[class].rank[0]);
}

/* Their ranks, and what each class simulates. */
static void find_ranks(const Plan *first, const Machine *m, const uint32_t *class_of, ClusterRun *c,
                       Arena *a) {
    c->ranks = arena_array(a, RankClass, c->n);
    int64_t **rank = arena_array(a, int64_t *, c->n);
    for (uint32_t i = 0; i < c->n; i++) rank[i] = arena_array(a, int64_t, first->ranks);
    for (int64_t r = 0; r < first->ranks; r++) rank[class_of[r]][c->ranks[class_of[r]].nrank++] = r;
    for (uint32_t i = 0; i < c->n; i++) {
        c->ranks[i].rank = rank[i];
        c->ranks[i].machine = machine_group(m, machine_group_of(m, rank[i][0]));
        c->unequal |= c->ranks[i].machine != c->ranks[0].machine;
    }
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

static bool report_stuck(const ClusterRun *c) {
    const Plan *p = c->class[c->all.stuck_class].plan;
    const PlanStep *s = &p->step.p[c->all.stuck_step];
    diag_error(p->session, s->loc,
               "step %u of rank %" PRId64 " (%s) waits for ranks that never come to it",
               c->all.stuck_step, c->ranks[c->all.stuck_class].rank[0],
               s->what ? s->what : step_kind_name(s->kind));
    return false;
}

bool cluster_simulate(Plan *first, const char *cluster, Arena *a, ClusterRun *out) {
    *out = (ClusterRun){.n = 1};
    if (first->ranks <= 1) {
        out->class = arena_new_of(a, PlanRun);
        return plan_simulate(first, cluster, a, &out->class[0]);
    }
    Machine *m = machine_load(first->session, cluster, first->target);
    const Topology *t = m ? topology_of(m, first->ranks) : NULL;
    if (!t) return false;
    uint32_t *class_of = arena_array(a, uint32_t, first->ranks);
    out->cluster = machine_name(m);
    out->n = rank_classes(first, m, class_of);
    out->class = arena_array(a, PlanRun, out->n);
    find_ranks(first, m, class_of, out, a);
    for (uint32_t i = 0; i < out->n; i++) {
        int64_t stage = plan_number_of(first, out->ranks[i].rank[0]);
        Plan *p = first->of_stage ? first->of_stage[stage] : first;
        plan_time(p, out->ranks[i].machine, a, &out->class[i]);
        find_steps(p, &out->class[i], &out -> ranks[i], a);
    }
    if (!simulate_ranks(m, t, out->ranks, out->n, a, &out->all)) return report_stuck(out);
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

/* " on 8x V100": where devices are unequal. */
static void print_devices(const ClusterRun *c, uint32_t class) {
    if (c->unequal) printf("  on %s", machine_name(c->class[class].machine));
}

static bool has_stages(const ClusterRun *c) { return c->class[0].plan->stages > 1; }

void cluster_run_title(const ClusterRun *c, uint32_t class) {
    if (c->n == 1) return;
    printf(has_stages(c) ? "\nstage %u, " : "\nranks from %u on, ",
           has_stages(c) ? stage_of(c, class) : (uint32_t)c->ranks[class].rank[0]);
    printf("%" PRId64 " ranks", c->ranks[class].nrank);
    print_devices(c, class);
    printf("\n");
}

/* On unequal devices: those with the least to wait for are what the others wait for. */
static void print_slowest(const ClusterRun *c) {
    uint32_t least = 0;
    for (uint32_t i = 1; i < c->n; i++)
        if (idle_us(&c->class[i]) < idle_us(&c->class[least])) least = i;
    if (!c->unequal) return;
    printf("all wait for rank %" PRId64, c->ranks[least].rank[0]);
    if (c->ranks[least].nrank > 1) printf(" and %" PRId64 " like it", c->ranks[least].nrank - 1);
    print_devices(c, least);
    printf("\n");
}

static void print_classes(const ClusterRun *c) {
    printf("\n%-8s %6s %9s %9s %11s %9s\n", "ranks", "", "kernels", "comm", "exposed", "idle");
    for (uint32_t i = 0; i < c->n; i++) {
        const PlanRun *r = &c->class[i];
        double share = 100 / MAX(r->run.us, 1e-9);
        if (c->n == 1)
            printf("all     ");
        else
            printf(has_stages(c) ? "stage %-2u" : "from %-3u",
                   has_stages(c) ? stage_of(c, i) : (uint32_t)c->ranks[i].rank[0]);
        printf(" %6" PRId64 " %7.1f %% %7.1f %% %9.1f %% %7.1f %%", c->ranks[i].nrank,
               r->run.busy[STREAM_COMPUTE] * share, plan_run_comm_us(r) * share,
               r->run.exposed_comm * share, idle_us(r) * share);
        print_devices(c, i);
        printf("\n");
    }
    print_slowest(c);
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
    json_object_set_new(o, "stage", json_integer(stage_of(c, i)));
    json_object_set_new(o, "share",
                        json_integer(shares_class(r->plan->shares, r->plan->share).share));
    json_object_set_new(o, "machine", json_string(machine_name(r->machine)));
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
