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

/* plan_join.c: steps of equal small kernels become one step of one kernel, where the order and the
 * bytes of the others allow it. After all steps are there. */
void join_steps(Make *m);

#endif
