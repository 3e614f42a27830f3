/* stage.h: a graph as a chain of layers, and the stages of a pipeline over it. The graph is read,
 * not changed: any graph before `lower`, best one with gradients and optimizer (after `optimize`),
 * where what layers cost and keep is known; a graph that will be trained but has no gradients yet
 * is taken to cost three times its forward part and to keep every value. */
#ifndef M6C_STAGE_H
#define M6C_STAGE_H

#include "passes/machine.h"
#include "passes/partition.h"
#include "passes/passes.h"
#include "passes/pipeline.h"

/* Instead of a layer or a stage: every stage that reads the value computes it (constants, inputs
 * and what is computed from these alone, the learning rate), or all do together (the norm of all
 * gradients, whose sum over layers goes over the stages). */
enum { EVERY_STAGE = -1 };

/* ================================ stage_layers.c ================================ */

/* A layer is a scope: the first component of a node's scope, or all up to the first that has an
 * index ("encoder.block[3]"). With `stage` annotations it is an annotated scope. */
typedef struct {
    uint32_t n;
    const char **name; /* by layer, in the order in which data goes through them */
    Loc *loc;          /* of the annotation, or of a node of the layer's */
    int16_t *of;       /* by value: its layer, or EVERY_STAGE */
} StageLayers;

/* No forward node reads from a later layer, and no backward node's gradient from an earlier one: a
 * node without a scope, or whose scope is used again later, goes to the latest layer it reads from.
 * Backward nodes belong to the layer of their forward node; a parameter to the first layer that
 * reads it, its states and its update to the layer of the parameter. A backward node may read a
 * forward value of a later layer where that is itself a gradient (of a in sum(a * b)). Everything
 * in the arena. False after diagnostics: annotated stages need each other's results. */
bool stage_layers(const Graph *g, StageLayers *out, Arena *a);
bool stage_annotated(const Graph *g);       /* has `stage` annotations */
size_t stage_layer_part(const char *scope); /* letters of the scope that name the layer */

/* ================================ stage.c ================================ */

/* Of one micro-batch. Prices are estimates of a graph that is not fused: products as cost_us has
 * them, a layer's other nodes as one kernel; without a machine all arithmetic at 1 TFLOP/s. The
 * optimizer's time is divided among the micro-batches. */
void stage_costs(const Graph *g, const StageLayers *layers, const Machine *m, ChainLayer *cost,
                 Arena *a);

typedef struct {
    uint32_t stages; /* 0: as many as are annotated */
    PipelineKind kind;
    const Machine *machine;  /* NULL: prices by arithmetic alone */
    const ChainStage *stage; /* by stage; NULL: as fast as the machine's devices that its ranks lie
                                on, with the memory of the settings and, on unequal devices, no more
                                than these have. Of both, in_flight is filled in from `kind` */
    bool advise;             /* warn where other hosts would be better for the first stages */
} StageOptions;

typedef struct {
    Value param;
    int16_t first, last; /* stages that read it: its gradient is summed over them */
} SharedParam;

typedef struct {
    uint32_t stages;
    int16_t *of;    /* by value: its stage, or EVERY_STAGE */
    bool annotated; /* or balanced */
    uint32_t micros;
    PipelineKind kind;
    StageLayers layers;
    ChainLayer *cost; /* by layer */
    ChainStage *stage;
    const Machine **machine; /* by stage, where devices are unequal; else NULL */
    uint32_t *first;         /* layers of stage s: first[s] … first[s + 1] - 1 */
    double us;               /* of the slowest stage, for one micro-batch */
    double step_us;          /* of all micro-batches, with transfers */
    double bubble;
    uint32_t nshared;
    SharedParam *shared;
} StagePlan;

/* Stages as annotated, else the partition whose slowest stage is the fastest. Everything in the
 * arena. False after diagnostics: no layers for so many stages, annotations that say otherwise, or
 * too little memory. */
bool stage_plan(const Graph *g, const StageOptions *o, StagePlan *out, Arena *a);

/* ================================ stage_devices.c ================================ */

/* What counts for a stage of the settings' mesh, or a class of shares: of the slowest and smallest
 * devices that its ranks lie on. EVERY_STAGE, or a mesh of one program: of all ranks. */
const Machine *machine_of_stage(const Machine *m, const Settings *set, int64_t stage);
/* The same of the stage, or class of shares, that a graph is; m where it is none, or none yet. */
const Machine *machine_of_graph(const Machine *m, const Settings *set);
/* Bytes that it may take there, of a budget for all (0: none); 0: no limit is known. */
int64_t stage_memory(const Machine *of, int64_t budget);
/* From now on the graph is for the devices of one stage, or of all ranks: their machine, and where
 * devices are unequal, no larger a budget than their memory. */
void stage_take_machine(Graph *g, const Machine **m, int64_t stage);
/* The stages' devices, when the groups' hosts are filled in this order (NULL: as they stand).
 * False: they are alike. */
bool stage_devices(const Graph *g, const Machine *m, const uint32_t *order, StagePlan *p, Arena *a);
/* The order of groups by memory, Whale's rule for stages that keep more the earlier they are.
 * False: it is the one that they have. */
bool stage_better_order(const Machine *m, uint32_t *order, Arena *a);

/* A table of the stages, what they hold and send, and shared parameters. */
void stage_print(const Graph *g, const StagePlan *p, Buf *out);

#endif
