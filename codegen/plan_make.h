/* plan_make.h: between the files that make a plan. */
#ifndef M6C_CODEGEN_PLAN_MAKE_H
#define M6C_CODEGEN_PLAN_MAKE_H

#include "codegen/codegen.h"
#include "codegen/opaque.h"

typedef struct {
    uint64_t hash;
    const char *body, *comment; /* comment: the kernel's IR and where it comes from */
    const char *library;        /* what its file needs before it; NULL: none */
    const char *prefix;         /* what it needs itself before it */
    const char *inner;          /* see Code */
    uint64_t inner_hash;
    int64_t elements;
} KernelText;

typedef struct {
    const Graph *g;
    const CodegenOptions *o;
    const Target *target, *host; /* of the device's kernels, and of those on the host's cores */
    Plan *p;
    Arena *arena;
    Units us;
    uint32_t *buffer;     /* by value: its buffer, or UINT32_MAX */
    bool *done;           /* by unit: its step is in the plan */
    VEC(KernelText) text; /* of each of the plan's kernels */
    VEC(CodegenSource) source;
} Make;

/* plan_make.c: the kernel with this code: an equal one, or a new one named after what the step
 * computes. */
uint32_t add_kernel(Make *m, const PlanStep *s, const Code *c, const char *comment);

/* plan_make.c: the place of a value that owns bytes, `elements` behind its first; of a node's
 * operand, which is a block of one; room for a step's n arguments. */
PlanArg place(const Make *m, Value v, int64_t elements);
PlanArg place_operand(const Make *m, Value v, uint32_t i);
PlanArg *add_args(Make *m, PlanStep *s, uint32_t n);

/* plan_comm.c: the plan's ranks and mesh; the group called `over`; which part of the whole tensor a
 * buffer is; a collective's step, all but what describe() says. */
void add_ranks(Make *m);
uint32_t add_group(Make *m, const char *over);
void set_split(Make *m, PlanBuffer *b, const Spec *spec);
void comm_step(Make *m, uint32_t u, PlanStep *s);
/* Kernels that bring messages into the format they travel in, where the device's target has them.
 */
void convert_kernels(Make *m);

/* plan_join.c: steps of equal small kernels become one step of one kernel, where the order and the
 * bytes of the others allow it. After all steps are there. */
void join_steps(Make *m);

#endif
