/* main_simulate.h: what the simulated run of a plan tells, for simulate and compare. */
#ifndef M6C_MAIN_SIMULATE_H
#define M6C_MAIN_SIMULATE_H

#include "frontend/main.h"
#include "passes/simulate_ranks.h"

#include <jansson.h>

typedef struct {
    const Plan *plan;
    const Machine *machine;
    TimedStep *step; /* of each step of the plan: its price alone */
    Simulation run;
    uint32_t steps[STREAM_COUNT]; /* on each stream */
    double bytes[STREAM_COUNT];   /* copied between memories by each stream */
} PlanRun;

/* Prices the plan's steps on the machine that `cluster` names (NULL: this one) and runs them in
 * simulation: predicted_us of the steps are then of that machine. False after diagnostics.
 * Everything lies in the arena or belongs to the session. */
bool plan_simulate(Plan *p, const char *cluster, Arena *a, PlanRun *out);

/* Prices the plan's steps on a machine; `run` is left empty. */
void plan_time(Plan *p, const Machine *m, Arena *a, PlanRun *out);

/* ---- figures of a run ---- */
double plan_run_copies_us(const PlanRun *r); /* work of the streams between memories */
double plan_run_comm_us(const PlanRun *r);   /* of those between ranks */
/* µs that products and attention would take at the machine's peaks; -1 where one is not stated. */
double plan_run_peak_us(const PlanRun *r);
json_t *plan_run_streams_json(const PlanRun *r);

/* ---- main_simulate_ranks.c: all ranks of a plan on a cluster ---- */
typedef struct {
    PlanRun *class; /* one a stage, or one that stands for all ranks; on unequal devices more;
                       `us` of the whole cluster */
    RankClass *ranks;
    uint32_t n;
    const char *cluster; /* of several ranks: its name */
    bool unequal;        /* devices of several groups are in use */
    RanksRun all;        /* of several ranks */
} ClusterRun;
/* Like plan_simulate, for the plans of all ranks: `first` knows those of the other stages. */
bool cluster_simulate(Plan *first, const char *cluster, Arena *a, ClusterRun *out);
/* main_simulate_classes.c: ranks that do the same on equal devices, and meet with others alike; by
 * rank its class, in the order of stages and then of their first ranks. Returns how many. */
uint32_t rank_classes(const Plan *first, const Machine *m, uint32_t *class_of);
double cluster_run_flops(const ClusterRun *c); /* of all ranks */
double cluster_run_mfu(const ClusterRun *c);   /* -1 where a peak is not stated */
/* Classes and links, for people and for scripts. */
void cluster_run_print(const ClusterRun *c);
void cluster_run_json(const ClusterRun *c, json_t *to);
void cluster_run_title(const ClusterRun *c, uint32_t class); /* nothing where there is only one */
/* A process for each class, under the number of its first rank. */
Status cluster_run_trace(const ClusterRun *c, const char *path);

/* main_timeline.c: one row a stream, time from left to right; below, phases and scopes of the
 * device's kernels. `width`: of the whole drawing, in characters. */
void timeline_print(const PlanRun *r, int width, FILE *out);

#endif
