/* plan_wait.h: the steps of a plan, as the planner of waits and the simulator see them. */
#ifndef M6C_CODEGEN_PLAN_WAIT_H
#define M6C_CODEGEN_PLAN_WAIT_H

#include "ir/storage.h"
#include "runtime/plan.h"

/* The bytes each step touches, its waits (they are the plan's), predicted_us. In the arena. */
TimedStep *plan_timed(const Plan *p, Arena *a);
/* Sets each step's waits, so that streams that work in order and these waits give what the steps
 * give one after another. */
void plan_waits(Plan *p);

#endif
