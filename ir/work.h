/* work.h: what steps do, as far as their price and their order depend on it. Plans and graphs give
 * the same numbers. */
#ifndef M6C_WORK_H
#define M6C_WORK_H

#include "ir/base.h"

enum { COMM_LEVELS = 8 };

/* What ranks do together, as far as its price depends on it. */
typedef struct {
    Collective kind;
    int64_t ranks; /* of the group; 0: the work is no collective */
    /* As they travel: of all operands; of an all_gather, of its result. So all_gather,
     * reduce_scatter and all_to_all move (ranks - 1) / ranks of it, a ring's all_reduce twice. */
    double bytes;
    /* Which ranks they are: places on levels, the slowest first, as in a plan's groups. */
    int nlevel;
    int64_t size[COMM_LEVELS], stride[COMM_LEVELS];
} CommWork;

/* What a unit does, as far as its price depends on it. Plans hold the same numbers per step. */
typedef struct {
    const char *what; /* its ops in order, each once: "add gelu cast" */
    bool product;     /* a matrix product, C[m,n] of batch */
    bool ta, tb;      /* operands stored transposed */
    int64_t m, n, k, batch;
    Dtype dtype;  /* of a product's operand A */
    double flops; /* products and attention: as counted; others: operations, weighted */
    double bytes; /* read and written, each buffer once */
    bool copy;    /* `bytes` from one memory to another */
    Mem from, to;
    bool host; /* on the host's cores */
    CommWork comm;
} Work;
/* Sets the bytes that travel, of a message of n operands of count[i] elements each. */
void comm_set_bytes(CommWork *c, const int64_t *count, uint32_t n, Dtype wire);

/* ================================ hazard.c ================================ */

/* Bytes of a memory that a step touches. */
typedef struct {
    Mem mem;
    bool write;
    int64_t at, bytes;
} Access;
/* A step of a plan as the simulator and the planner of waits see it. */
typedef struct {
    Stream stream;
    double us; /* alone on the machine */
    uint32_t naccess, nwait;
    Access *access;
    uint32_t *wait; /* steps of other streams that must have finished */
    double bytes;   /* of a copy, otherwise 0 */
} TimedStep;
/* Fills in the waits (in the arena): with them, and streams that work in order, every run gives
 * what the steps give one after the other. A step waits for the last step of another stream that
 * wrote bytes it touches, or touched bytes it writes; not for what it waits for already through
 * others. O(n log n) for steps of few accesses. */
void steps_wait(TimedStep *step, uint32_t n, Arena *a);

#endif
