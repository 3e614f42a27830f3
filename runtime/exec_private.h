/* exec_private.h: what the files of the executor share. */
#ifndef M6C_EXEC_PRIVATE_H
#define M6C_EXEC_PRIVATE_H

#include <stdatomic.h>

#include "runtime/exec.h"

enum { IN_FLIGHT = 2 };

/* Where the inputs and scalars of the steps in flight are on their way; empty on devices that do
 * not run ahead. */
typedef struct {
    char *in[IN_FLIGHT], *out[IN_FLIGHT]; /* on the host */
    char *in_device[IN_FLIGHT];
    int64_t in_bytes;
    int64_t *at_in, *at_out; /* of each input and output port; -1: no scalar */
} Stage;

typedef struct Streams Streams;   /* exec_streams.c */
typedef struct ExecComm ExecComm; /* exec_comm.c */

struct Exec {
    const Plan *plan;
    int rank; /* of the plan's ranks */
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
    Stage stage;
    ExecComm *comm;               /* NULL: the plan has no collectives, or the device needs none */
    Streams *streams;             /* NULL: the plan has one, or the device keeps them itself */
    int64_t submitted, collected; /* steps, since exec_open */
    bool stopped;                 /* the submitted step, on devices that do not run ahead */
    /* For messages: the training step, 0 between them; on each stream, one more than the plan's
     * step that was begun last, 0: none. */
    _Atomic int64_t training_step;
    _Atomic uint32_t at[STREAM_COUNT];
    const char *scalars; /* of the collected step; NULL: they are still in the arena */
};

/* Starts step i of the plan; a failure names it. */
Status exec_start(Exec *e, uint32_t i);
/* The same, without naming it: from any thread. */
Status exec_start_unnamed(Exec *e, uint32_t i);
/* Frees s: which step it was. */
Status exec_blame(const Exec *e, uint32_t i, Status s);
/* Frees s: that the step is not known, on a device that works while the host goes on. */
Status exec_blame_any(const Exec *e, Status s);
/* "step 2 (reduce) in net" */
void exec_put_step(const Exec *e, const PlanStep *s, Buf *out);
char *exec_address(const Exec *e, uint32_t buffer);
int32_t exec_seed_bits(const Exec *e); /* what "@seed" is */

Status exec_open_stage(Exec *e); /* before the arenas */
void exec_close_stage(Exec *e);

/* All ranks call it; `world` must outlive e. */
Status exec_open_comm(Exec *e, Comm *world);
void exec_close_comm(Exec *e);
/* Step i, on the calling thread. */
Status exec_collective(Exec *e, uint32_t i, void *const *arg);
/* The step whose collective did not end, where a device does them; UINT32_MAX: none. */
uint32_t exec_late_collective(const Exec *e);
/* A step failed: collectives under way on other threads give up. */
void exec_break_comm(const Exec *e);

Status exec_open_streams(Exec *e); /* last: the threads begin */
void exec_close_streams(Exec *e);  /* first */
/* One step of training, as exec_step, or with `stopped` as exec_step_guarded; the inputs are there.
 */
Status exec_run_streams(Exec *e, bool *stopped);

/* Zeroes the temporaries that step i is the first to touch, so that parts nobody writes are not
 * taken for results. */
Status exec_clear_fresh(Exec *e, uint32_t i);
Status exec_check_written(Exec *e, uint32_t i); /* by step i */
Status exec_check_kept(Exec *e);                /* tensors and inputs, before the first step */

#endif
