/* main_simulate.h: what the simulated run of a plan tells, for simulate and compare. */
#ifndef M6C_MAIN_SIMULATE_H
#define M6C_MAIN_SIMULATE_H

#include "frontend/main.h"
#include "passes/simulate.h"

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

/* main_timeline.c: one row a stream, time from left to right; below, phases and scopes of the
 * device's kernels. `width`: of the whole drawing, in characters. */
void timeline_print(const PlanRun *r, int width, FILE *out);

#endif
