/* slice.h: which part of a tensor a rank has.
 *
 * A part is a box of the whole tensor. (Where a buffer's dimension 0 consists of `ranges`, the box
 * lies in the tensor that has the ranges as a dimension of its own.) Both are row-major: the part,
 * element after element, is a row of runs that are contiguous in the whole. Counts and offsets are
 * elements. */
#ifndef M6C_SLICE_H
#define M6C_SLICE_H

#include "runtime/plan.h"

enum { SLICE_MAX_RANK = PLAN_MAX_RANK + 1 };

/* Elements start[i] <= x < start[i] + dim[i] of whole[i], on each of `rank` dimensions. */
typedef struct {
    int rank;
    int64_t whole[SLICE_MAX_RANK], start[SLICE_MAX_RANK], dim[SLICE_MAX_RANK];
} Slice;

/* `count` elements from `whole` on in the whole tensor are those from `part` on in the part. */
typedef struct {
    int64_t whole, part, count;
} SliceRun;

/* All of a tensor. */
Slice slice_all(int rank, const int64_t *dim);
/* What rank `rank` (from 0) has of the buffer's whole tensor. */
Slice slice_of(const Plan *plan, const PlanBuffer *b, int64_t rank);
int64_t slice_elements(const Slice *s);
int64_t slice_whole_elements(const Slice *s);
bool slice_is_all(const Slice *s);
bool slice_equal(const Slice *a, const Slice *b); /* the same part of tensors of one shape */
bool slice_meets(const Slice *a, const Slice *b); /* have they elements in common? */

/* The run from the part's element `part` on; `part` must be below slice_elements. */
SliceRun slice_run(const Slice *s, int64_t part);
/* The run from the whole tensor's element `whole` on. Where the part does not have that one, `part`
 * is -1 and so many elements from there on are not in it either (there may be more). */
SliceRun slice_find(const Slice *s, int64_t whole);

/* The lowest rank of this rank's stage that has just its part of the buffer: what writes it to
 * files. */
int64_t slice_owner(const Plan *plan, const PlanBuffer *b, int64_t rank);

#endif
