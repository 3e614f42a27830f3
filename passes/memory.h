/* memory.h: the planner of memory: what is kept, recomputed, or moved to host and disk, under the
 * budgets; what each decision costs, and how far the plan is from the best possible. */
#ifndef M6C_MEMORY_H
#define M6C_MEMORY_H

#include "passes/machine.h"

typedef enum {
    HOW_RECOMPUTE, /* a forward value, computed again before the backward phase reads it */
    HOW_MOVE_HOST, /* out after its last forward use, back before its first backward use */
    HOW_MOVE_DISK,
    HOW_LIVE_HOST, /* a tensor that lies in host memory and is fetched for its uses */
    HOW_LIVE_DISK,
    HOW_UPDATE_HOST, /* it lies in host memory and the host's cores update it */
    HOW_COUNT
} MemoryHow;
const char *memory_how(MemoryHow how); /* "recompute", "host", … */

typedef struct {
    const char *tensor; /* logical name, or "scope op" of a temporary */
    MemoryHow how;
    int64_t bytes; /* of the device, not taken while it is away */
    double us;     /* work added: of compute for `recompute`, of the link for the others */
    bool hinted;   /* the model asked for it */
    Loc loc;
} MemoryDecision;

typedef struct MemoryReport {
    bool fits; /* within all budgets */
    int64_t arena[MEM_COUNT];
    int64_t smallest;        /* the least device memory of any plan found under the other budgets */
    int64_t unconstrained;   /* device memory with everything kept */
    double predicted_us;     /* of a step */
    double unconstrained_us; /* with everything kept */
    double bound_us;         /* no plan within the budgets can be faster, for this order */
    VEC(MemoryDecision) decision; /* by scope */
} MemoryReport;

#endif
