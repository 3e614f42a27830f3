/* main_timing.h: how long a plan's step takes, as a whole and part by part. */
#ifndef M6C_MAIN_TIMING_H
#define M6C_MAIN_TIMING_H

#include "frontend/main.h"

typedef struct {
    int64_t steps;    /* of each kind */
    bool fastest;     /* of all times, instead of their median: for a machine that is not idle */
    int threads;      /* of the CPU device; 0: all cores */
    double link;      /* cpu: bytes a second of copies from and to the host; 0: as they come */
    const char *disk; /* folder of what the plan keeps on disk; NULL: the plan's */
} TimingOptions;

typedef struct {
    uint32_t rounds; /* steps of training that were looked at part by part */
    double us;       /* a whole step, free running: the median, or the fastest; 0: not measured */
    double best_us;  /* the fastest of them */
    double *step_us; /* by step of the plan, in the arena: alone, likewise */
} Timing;

/* Runs the plan on this machine, on random data, from the model's start values: after three steps
 * that do not count, `steps` free ones and as many with a clock on every step, by turns. */
Status timing_run(const Plan *p, const char *dir, const TimingOptions *o, Arena *a, Timing *out);
/* The same from the trace of an earlier run, whose parts ran one after another: `us` stays 0. */
Status timing_trace(const Plan *p, const char *path, bool fastest, Arena *a, Timing *out);

#endif
