/* simulate_private.h: the streams of one rank, as simulate.c and simulate_ranks.c let them work. */
#ifndef M6C_SIMULATE_PRIVATE_H
#define M6C_SIMULATE_PRIVATE_H

#include "passes/simulate.h"

#define NO_STEP UINT32_MAX

/* Steps that would end within this share of each other end together: otherwise rounding makes
 * events of streams that are meant to be level. */
#define TOGETHER 1e-12

typedef struct {
    const Machine *m;
    const TimedStep *step;
    uint32_t *next;               /* by step: the next of its stream */
    bool *done;                   /* by step */
    uint32_t head[STREAM_COUNT];  /* first step that has not ended, or NO_STEP */
    uint32_t waits[STREAM_COUNT]; /* waits of the head that are known to be over */
    double left[STREAM_COUNT];    /* work of the head, in us at speed 1 */
    unsigned active;              /* bit s: the head of stream s is at work */
    Simulation out;
} Streams;

void streams_init(Streams *r, const Machine *m, const TimedStep *step, uint32_t n, Arena *scratch);
/* Whether the head of a stream is not at work yet, and all that it waits for has ended. */
bool streams_may_begin(Streams *r, int s);
void streams_begin(Streams *r, int s, double now);
/* The speed at which the head of an active stream goes on, beside what else is at work here. */
double streams_speed(const Streams *r, int s);
/* A time of the length dt, in which the active streams work, is over. */
void streams_account(Streams *r, double dt);
void streams_end(Streams *r, int s, double now);

#endif
