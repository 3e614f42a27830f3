/* equal.h: whether graphs compute the same. Several forms of one program (the elaborated model,
 * what each pass makes of it, one rank's part of it) run in double precision from the same inputs,
 * and what leaves them is compared by name: outputs, gradients, and parameters and states after
 * each step.
 *
 * Two tensors are equal when their largest difference is within `bound` of the largest magnitude,
 * or of EQUAL_TINY where all are smaller, and ranks that hold the same part hold the same bits. */
#ifndef M6C_EQUAL_H
#define M6C_EQUAL_H

#include "passes/passes.h"

#define EQUAL_BOUND 1e-10
#define EQUAL_TINY  1e-6

/* How far a tensor is from what it should be. */
typedef struct {
    double error; /* relative, as above; INFINITY: NaN on one side only, or another shape */
    int64_t at;   /* the element that is farthest, in the whole tensor */
    double got, want;
    bool shape; /* other dimensions */
    bool lost;  /* the last form gave it, this one does not */
    bool apart; /* ranks, or stages, that must hold the same do not */
} Distance;
bool distance_within(const Distance *d, double bound);
/* "[2, 0, 5]": the coordinates of an element. */
void distance_place(const Type *t, int64_t at, Buf *out);

typedef enum { SINK_OUTPUT, SINK_GRADIENT, SINK_PARAM, SINK_STATE, SINK_COUNT } Sink;
const char *sink_name(Sink kind); /* "output", … */

/* One tensor that a step gave, and its distance. */
typedef struct {
    Sink kind;
    const char *name; /* interned; NULL: none */
    int64_t step;     /* from 1 */
    const Type *type; /* of the whole tensor */
    Loc loc;
    Distance distance;
} SinkDistance;

typedef struct Equal Equal;
/* For the forms of program g: draws data for its inputs. Floats are in [-2, 2), integers below
 * their bound; of what is compared with a value to be ignored, a quarter is that value. */
Equal *equal_new(const Graph *g, uint64_t seed, int64_t steps);
void equal_free(Equal *e);

/* Runs a form of the program, and compares it with the first form that gave a tensor of the same
 * name. A training graph that updates nothing yet runs one step. False when something differs
 * (equal_first says what) or its ranks do not get through (equal_stuck says why). A form equal to
 * the last one by its hash is not run again. */
bool equal_form(Equal *e, Graph *g);
/* The same of the stages of a pipeline, or the classes of shares, each with its graph. What several
 * stages give must be the same in all, bit by bit. */
bool equal_stages(Equal *e, Graph *const *stage, int64_t stages);
/* The first tensor that differed, by step, stage and place in the graph; name NULL: none did. */
SinkDistance equal_first(const Equal *e);
/* Why the ranks of the last form did not get through; NULL: they did. */
const char *equal_stuck(const Equal *e);
/* The farthest tensors of a kind over the forms since equal_mark, and how many were compared. */
SinkDistance equal_worst(const Equal *e, Sink kind, int64_t *compared);
void equal_mark(Equal *e);

/* A value of a graph, and how far it is from what it should be. */
typedef struct {
    Value v;          /* NO_VALUE: all are equal */
    int64_t stage;    /* which has it so */
    const Type *type; /* of the whole tensor */
    Distance distance;
} ValueDistance;
/* The first value of `before` that is something else in a stage, to whose graph map[stage] leads,
 * run up to `step`. One stage: what all ranks run. */
ValueDistance equal_locate(Equal *e, Graph *before, Graph *const *stage, const ShardMap *map,
                           int64_t stages, int64_t step);

/* g with its nodes, as it is now. */
Graph *graph_copy(const Graph *g);

#endif
