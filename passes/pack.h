/* pack.h: offsets for buffers with known lifetimes. */
#ifndef M6C_PACK_H
#define M6C_PACK_H

#include "ir/storage.h"

/* Alive at the times lower <= t < upper. */
typedef struct {
    int64_t lower, upper, size;
} PackItem;

typedef struct {
    int64_t align;  /* offsets are multiples of it, sizes are rounded up to it */
    int64_t enough; /* a placement as low as this will do; 0: as low as possible */
    int64_t effort; /* of the search when the heuristics are not there: about nanoseconds */
    double seconds; /* if not 0 the search also ends after this time, and is not deterministic */
} PackLimits;

/* Offsets so that buffers alive at one time do not overlap. Returns the height used, and a proven
 * lower bound of all heights in *bound (may be NULL). When the bound is above `enough`, nothing
 * that low is possible. Deterministic. The sum of the sizes must be below 2^62. */
int64_t pack_limited(const PackItem *item, uint32_t n, const PackLimits *limits, int64_t *offset,
                     int64_t *bound, Arena *a);

int64_t allocate_effort(const Graph *g); /* that the graph's plan is placed with */
/* Offsets of the slots of one memory, by slot (those of others are left alone): fixed slots at the
 * bottom, the others packed above. Returns the height of it all. With effort 0 it is quick enough
 * to be asked for often: heuristics until one is within half a percent of the bound. */
int64_t allocate_slots(const Slots *s, Mem mem, int64_t effort, int64_t *offset, Arena *a);

#endif
