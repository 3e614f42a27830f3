/* pack.h: offsets for buffers with known lifetimes. */
#ifndef M6C_PACK_H
#define M6C_PACK_H

#include "ir/base.h"

/* Alive at the times lower <= t < upper. */
typedef struct {
    int64_t lower, upper, size;
} PackItem;

/* Offsets (multiples of `align`; sizes are rounded up) so that buffers alive at one time do not
 * overlap. Returns the height used. `bound` (may be NULL) gets a proven lower bound. Stops at once
 * when a placement as low as `enough` is found (0: go on to the bound); `effort` is the number of
 * search nodes that may be spent beyond the heuristics. Deterministic. */
int64_t pack(const PackItem *item, uint32_t n, int64_t align, int64_t enough, int64_t effort,
             int64_t *offset, int64_t *bound, Arena *a);

#endif
