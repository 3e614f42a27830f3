/* simulate.h: a discrete-event run of a plan's steps on a described machine. */
#ifndef M6C_SIMULATE_H
#define M6C_SIMULATE_H

#include "passes/machine.h"

/* us = busy[STREAM_COMPUTE] + host_alone + exposed: while anything is left to do, some stream
 * works, unless all wait for other ranks. */
typedef struct {
    double us;                 /* from the first step's begin to the last one's end */
    double busy[STREAM_COUNT]; /* time each stream works */
    double host_alone;         /* time in which the host's kernels work and the device's do not */
    double exposed;            /* time in which copies work and no kernel does, on device or host */
    double exposed_comm;       /* of it, the time in which collectives work */
    double *begin, *end;       /* by step, in the arena; NULL unless asked for */
} Simulation;

/* Streams work in order; a step begins as soon as its stream is free and all it waits for has
 * ended. While several streams work each goes on at machine_speed (m NULL: at 1), so that a step
 * takes longer than its `us` where it shares. All begin at time 0 with nothing under way: one step
 * of training, which the runtime ends before it begins the next. A step waits for earlier steps
 * only. Deterministic, O(n log n): at each event at most STREAM_COUNT steps are looked at. */
Simulation simulate(const Machine *m, const TimedStep *step, uint32_t n, bool times, Arena *a);

#endif
