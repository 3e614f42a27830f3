/* simulate.h: a discrete-event run of a plan's steps on a described machine. */
#ifndef M6C_SIMULATE_H
#define M6C_SIMULATE_H

#include "passes/machine.h"

typedef struct {
    double us;                 /* until the last step ends */
    double busy[STREAM_COUNT]; /* time each stream works */
    double exposed;            /* time in which copies work and no kernel of the device does */
    double *begin, *end;       /* by step, in the arena; NULL unless asked for */
} Simulation;

/* Streams work in order, a step begins when its stream is free and all it waits for has ended;
 * while several streams work each goes on at machine_speed. Deterministic, O(n log n). */
Simulation simulate(const Machine *m, const TimedStep *step, uint32_t n, bool times, Arena *a);

#endif
