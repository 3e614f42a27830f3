/* plan_text.h: what the printer and the parser of plan.txt share: the table of a step's fields, and
 * the checks of a step. Private to plan*.c. */
#ifndef M6C_PLAN_TEXT_H
#define M6C_PLAN_TEXT_H

#include "runtime/plan.h"

enum { PLAN_MAX_ARGS = 4096, PLAN_MAX_THREADS = 1024, PLAN_MAX_SHARED = 1 << 20 };

typedef enum { FIELD_I64, FIELD_STREAM, FIELD_F64, FIELD_F32, FIELD_FLAG } FieldType;

typedef struct {
    const char *key;
    unsigned kinds; /* bit k: steps of kind k have it */
    FieldType type;
    size_t offset; /* in PlanStep */
    bool required; /* printed even when zero, and must be there */
    int64_t least; /* of integers */
} PlanField;

enum { PLAN_FIELDS = 18 };
extern const PlanField plan_field[PLAN_FIELDS];

/* plan_check.c: appends a sentence about the first mistake; indices must be valid. */
void plan_check_step(const Plan *p, const PlanStep *s, Buf *why);
/* plan_check_comm.c: the same. The mesh has as many ranks as the plan, a group's levels partition
 * them, no two dimensions of a buffer are split over the same ranks, and whole sizes fit in 62
 * bits; a collective's messages lie inside their buffers. */
void plan_check_mesh(const Plan *p, Buf *why);
void plan_check_group(const Plan *p, const PlanGroup *g, Buf *why);
void plan_check_split(const Plan *p, const PlanBuffer *b, Buf *why);
void plan_check_collective(const Plan *p, const PlanStep *s, Buf *why);
/* plan_stages.c: the same, of the header. */
void plan_check_pipeline(const Plan *p, Buf *why);

#endif
