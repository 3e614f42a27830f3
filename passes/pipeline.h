/* pipeline.h: in which order the stages of a pipeline work through their micro-batches. Pure
 * functions of numbers: no graph. Stage 0 is the first; S stages, M micro-batches; Fm and Bm are
 * the forward and the backward part of micro-batch m. */
#ifndef M6C_PIPELINE_H
#define M6C_PIPELINE_H

#include "ir/base.h"

/* The names are EPL's (pipeline.strategy). */
typedef enum {
    PIPELINE_PREFER_BACKWARD,           /* one forward, one backward: 1F1B; the default */
    PIPELINE_PREFER_FORWARD,            /* all forward, then all backward: GPipe */
    PIPELINE_PREFER_BACKWARD_OPTIMIZER, /* as the first, with one more micro-batch in flight, but
                                           for the last stage */
    PIPELINE_COUNT
} PipelineKind;
const char *pipeline_name(PipelineKind k);              /* "PreferForward", … */
bool pipeline_parse(const char *name, PipelineKind *k); /* in any case of letters, as EPL */

typedef struct {
    bool backward;
    uint32_t micro;
} PipelineStep;

/* ---- orders ---- */

/* Stage s's 2 M steps, in order. */
void pipeline_order(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros,
                    PipelineStep *step);
/* "F0 F1 B0 …" */
void pipeline_print(const PipelineStep *step, uint32_t n, Buf *out);

/* EPL's control dependencies between steps of one stage: `before` has to be done when `after`
 * begins. */
typedef struct {
    PipelineStep before, after;
} PipelineDep;
/* Those of stage s, at most 4 M; returns how many. */
uint32_t pipeline_deps(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros,
                       PipelineDep *dep);
/* Whether the list has each step of M micro-batches once, no backward step before its forward step,
 * and obeys the dependencies. */
bool pipeline_obeys(const PipelineStep *step, uint32_t micros, const PipelineDep *dep,
                    uint32_t ndep);

/* The most micro-batches whose forward step is done and whose backward step is not: activations of
 * so many are kept. */
uint32_t pipeline_peak(const PipelineStep *step, uint32_t n);
/* The same of pipeline_order, without the list. */
uint32_t pipeline_in_flight(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros);

/* ---- neighbours ---- */

/* One micro-batch's activations go from a stage to the next, their gradients back. */
typedef struct {
    bool send;     /* or receive */
    bool backward; /* gradients, to the stage before; or activations, to the next */
    uint32_t micro;
} Transfer;
/* Between two steps of a list a stage sends what the one made and receives what the other needs.
 * The two are one group: either may be done first, and the stage goes on when both are. */
typedef struct {
    uint32_t n;
    Transfer transfer[2];
} TransferGroup;
/* The group before step i of stage s; of i = n, the one after the last step. */
TransferGroup pipeline_transfers(const PipelineStep *step, uint32_t n, uint32_t i, uint32_t stages,
                                 uint32_t s);
/* Plays the lists, order[s] of 2 M steps, with sends that end only when the other side receives
 * (which is the hardest), and in the order in which the two sides ask. False: stages wait for each
 * other for ever, or one receives another micro-batch than was sent; *err names the stages. */
bool pipeline_runs(PipelineStep *const *order, uint32_t stages, uint32_t micros, Buf *err);

/* ---- time ---- */

typedef struct {
    double forward, backward; /* microseconds of a micro-batch */
    double send_forward;      /* of its activations to the next stage */
    double send_backward;     /* of their gradients to the stage before */
} PipelineCost;

typedef struct {
    double us;     /* until the last step ends */
    double bubble; /* the share of all stages' time in which they do nothing */
    double *busy;  /* by stage: microseconds at work */
} PipelineTime;
/* Runs the lists. Transfers go beside the work, each direction of each link one after the other,
 * and nothing waits for room to receive. cost and busy by stage; busy in the arena. The lists must
 * run. */
PipelineTime pipeline_time(PipelineStep *const *order, uint32_t stages, uint32_t micros,
                           const PipelineCost *cost, Arena *a);

/* The bubble of equal stages without transfers: (S - 1) / (M + S - 1). */
double pipeline_bubble(uint32_t stages, uint32_t micros);

#endif
