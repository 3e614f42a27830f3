/* exec_private.h: what exec.c and exec_finite.c share. */
#ifndef M6C_EXEC_PRIVATE_H
#define M6C_EXEC_PRIVATE_H

#include "runtime/exec.h"

struct Exec {
    const Plan *plan;
    const DeviceOps *ops;
    Device *device;
    Pool *pool;
    void *arena[MEM_COUNT];
    int64_t arena_bytes[MEM_COUNT];
    void **arg;        /* addresses of all arguments of all steps */
    size_t *first_arg; /* of each step */
    bool *awaited;     /* whether a later step waits for it */
    uint32_t step_input, seed_input;
    uint32_t loss, loss_step; /* output "loss" and the last step that has it as an argument */
    uint64_t seed;
    ExecTimer *timer;
    void *timer_ctx;
    bool check_finite;
    uint32_t *first_touch; /* of each buffer: the first step that has it as an argument */
};

/* Zeroes the temporaries that step i is the first to touch, so that parts nobody writes are not
 * taken for results. */
Status exec_clear_fresh(Exec *e, uint32_t i);
Status exec_check_written(Exec *e, uint32_t i); /* by step i */
Status exec_check_kept(Exec *e);                /* tensors and inputs, before the first step */

#endif
