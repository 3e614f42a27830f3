/* plan_wait.c: what the steps of a plan touch, and for which steps of other streams each waits. */
#include "codegen/plan_wait.h"

/* A copy and a fill touch so many bytes from the argument's place on; of the buffers of other steps
 * any byte may be touched. */
static Access access_of(const Plan *p, const PlanStep *s, uint32_t arg) {
    const PlanBuffer *b = &p->buffer.p[s->arg[arg].buffer];
    Access a = {.mem = b->mem, .write = plan_writes(s, arg), .at = b->offset, .bytes = b->bytes};
    if (s->kind != STEP_COPY && s->kind != STEP_FILL) return a;
    a.at += s->arg[arg].offset;
    a.bytes = s->bytes;
    return a;
}

TimedStep *plan_timed(const Plan *p, Arena *a) {
    TimedStep *step = arena_array(a, TimedStep, p->step.n);
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        bool moves = s->kind == STEP_COPY &&
                     p->buffer.p[s->arg[0].buffer].mem != p->buffer.p[s->arg[1].buffer].mem;
        step[i] = (TimedStep){.stream = (Stream)s->stream,
                              .us = s->predicted_us,
                              .naccess = s->nargs,
                              .access = arena_array(a, Access, s->nargs),
                              .nwait = s->nwait,
                              .wait = s->wait,
                              .bytes = moves ? (double)s->bytes : 0};
        for (uint32_t k = 0; k < s->nargs; k++) step[i].access[k] = access_of(p, s, k);
    }
    return step;
}

void plan_waits(Plan *p) {
    Arena *a = arena_new();
    TimedStep *step = plan_timed(p, a);
    steps_wait(step, p->step.n, session_arena(p->session));
    for (uint32_t i = 0; i < p->step.n; i++) {
        p->step.p[i].nwait = step[i].nwait;
        p->step.p[i].wait = step[i].wait;
    }
    arena_free(a);
}
