/* main_memory.h: what a plan's memory holds when most of it is taken: rows of tensors, their
 * classes, and the table that `inspect --memory` and the error about a model that does not fit
 * print. */
#ifndef M6C_MAIN_MEMORY_H
#define M6C_MAIN_MEMORY_H

#include "frontend/main_model.h"

typedef enum {
    CLASS_PARAM,      /* parameters, the master copies */
    CLASS_COPY,       /* parameters as the products read them: cast, or fetched from elsewhere */
    CLASS_GRAD,       /* gradients of parameters */
    CLASS_STATE,      /* the optimizer's state */
    CLASS_ACTIVATION, /* forward values that the backward phase reads */
    CLASS_TEMP,       /* what lives inside one phase */
    CLASS_PORT,       /* the model's inputs and outputs */
    CLASS_COUNT
} MemoryClass;
const char *memory_class_name(MemoryClass c); /* "parameters", … */

/* A tensor alive at the peak. */
typedef struct {
    int64_t bytes; /* of the arena: rounded up to its alignment */
    MemoryClass kind;
    const char *name;  /* "block[3].ffn.up/m"; of a temporary what computes it */
    const char *scope; /* its layer: "block[3]"; "" at the top */
    const char *shape; /* "f32[128,512]" */
    Loc loc;
} MemoryRow;

/* Rows that differ only in the numbers of their layers. */
typedef struct {
    MemoryRow row;     /* the first; its name has ranges: "block[0..47].ffn.up" */
    int64_t bytes;     /* of all */
    uint32_t n, first; /* how many; the first one's place among the rows */
} MemoryGroup;

/* One memory of a plan. Strings belong to the plan's session. */
typedef struct {
    Mem mem;
    int64_t peak;  /* largest sum of live bytes */
    uint32_t step; /* when: counted from 1 */
    int64_t kind[CLASS_COUNT];
    int64_t *live; /* by step, from 0 */
    VEC(MemoryRow) row;
    VEC(MemoryGroup) tensor; /* grouped, largest first */
    VEC(MemoryGroup) layer;  /* grouped by scope alone, in order: row.name is the scope */
    VEC(int64_t) layer_kind; /* CLASS_COUNT numbers for each layer */
} MemoryPeak;

/* Decisions that differ only in the numbers of their layers. */
typedef struct {
    PlanDecision decision; /* the first; bytes and us are sums, the tensor has ranges */
    uint32_t n;
} DecisionGroup;
typedef VEC(DecisionGroup) DecisionList;

/* main_memory.c */
/* What the planner of memory decided and promises, from the graph's budgets and its report. */
void memory_record(Plan *p, const Graph *g, const MemoryReport *r);
MemoryPeak memory_peak(const Plan *p, Mem mem);
void memory_peak_free(MemoryPeak *m);
DecisionList memory_decisions(const Plan *p); /* most bytes first */

/* main_inspect_memory.c. `all`: every group, not the largest only. */
void memory_print(const Plan *p, bool all, FILE *out);
struct json_t *memory_json(const Plan *p);

#endif
