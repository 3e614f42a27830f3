/* exec.h: runs a plan.
 *
 *     exec_open, then exec_init_params or exec_write of every tensor, then per step
 *     exec_write of the inputs, exec_step, exec_read of the outputs; exec_close.
 *
 * The arenas are exactly as large as the plan says. Buffers are addressed by their index in
 * plan->buffer (plan_find gives it by name). Nothing here is reentrant. */
#ifndef M6C_EXEC_H
#define M6C_EXEC_H

#include "runtime/comm.h"
#include "runtime/device.h"

typedef struct Exec Exec;

typedef struct ExecOptions {
    const DeviceOps *device; /* required */
    Pool *pool;              /* required by cpu; must outlive the Exec */
    const char *dir;         /* the plan's folder, where its kernels lie */
    FILE *log;               /* for the null device; NULL: stdout */
    bool no_graph;           /* cuda: launches every step anew */
    double link;             /* cpu: bytes a second of copies from and to the host; 0: all it can */
    const char *disk;        /* folder of what the plan keeps on disk; NULL: `dir` */
    Comm *comm;              /* of all ranks, for plans with collectives; must outlive the Exec */
    int rank;                /* of the plan's ranks, from 0 */
} ExecOptions;

/* The plan must stay. Everything is zero until it is written, but for inputs "@index/GROUP": they
 * are the rank's index in the plan's group of that name. */
Status exec_open(const Plan *plan, const ExecOptions *options, Exec **out);
void exec_close(Exec *e);

/* Sets every tensor to its init: element i of a whole tensor is a function of seed, the init's site
 * and i alone, whatever the number of threads, the dtype or the mesh. Also exec_set_seed(seed). */
Status exec_init_params(Exec *e, uint64_t seed);
/* The seed that "@seed" gives to the steps, for a run that continues from a checkpoint. */
void exec_set_seed(Exec *e, uint64_t seed);

/* Whole buffers, in the buffer's dtype; `bytes` must be the buffer's. exec_read waits for what was
 * asked before. */
Status exec_write(Exec *e, uint32_t buffer, const void *host, int64_t bytes);
Status exec_read(Exec *e, uint32_t buffer, void *host, int64_t bytes);
/* `bytes` of a buffer from its byte `at` on: what is not visible is read in parts of at most
 * EXEC_PART, so that no tensor lies in memory a second time. */
enum { EXEC_PART = 16 << 20 };
Status exec_read_part(Exec *e, uint32_t buffer, int64_t at, void *host, int64_t bytes);
Status exec_write_part(Exec *e, uint32_t buffer, int64_t at, const void *host, int64_t bytes);
/* A float or integer scalar output as a double, of the last step that was collected or waited for;
 * *found is false when the plan has no such port. */
Status exec_read_scalar(Exec *e, const char *name, double *value, bool *found);

double exec_number(Dtype d, const void *p); /* one element as a double */

/* Runs all steps, having set "@step" to `step` (from 1) and "@seed" where the plan has them, and
 * waits for the end. */
Status exec_step(Exec *e, int64_t step);

/* The same, but stops right after the step that computes output "loss" when that is not a finite
 * number: *stopped is then true, and no tensor was changed if the plan updates them after that step
 * (plans with a dynamic loss scale, which deal with it themselves, are not stopped). */
Status exec_step_guarded(Exec *e, int64_t step, bool *stopped);

/* ---- exec_ahead.c: steps that are started before the one before is looked at ----
 *
 * exec_submit begins a step with these inputs (by the plan's input ports; NULL: "@step", "@seed",
 * and what shall stay as it is); they are copied before it returns. exec_collect waits for the
 * oldest step that was begun; then exec_read_scalar gives its scalars. Where all is done when a
 * call returns, exec_submit is exec_step_guarded. */

/* How many steps may be begun before the first is collected: 2 on a device that works while the
 * host goes on, 1 elsewhere and with a timer or exec_check_finite. */
int exec_ahead(const Exec *e);
Status exec_submit(Exec *e, int64_t step, const void *const *input);
/* *stopped: the loss is not finite (and the plan does not deal with that itself). Where exec_ahead
 * is 1 the step ended there, as that of exec_step_guarded; elsewhere this step, and the one begun
 * after it, have changed the tensors. */
Status exec_collect(Exec *e, bool *stopped);

/* With a timer, the steps run in the plan's order, one after another, and are reported: its index
 * in plan->step, and the seconds of a monotonic clock at which it began and ended. NULL switches it
 * off. */
typedef void ExecTimer(void *ctx, uint32_t step, double begin, double end);
void exec_set_timer(Exec *e, ExecTimer *timer, void *ctx);

/* After each step, looks for NaN and infinity in the float buffers it wrote (or, when the plan does
 * not say which it wrote, in all its arguments), and before the first in tensors and inputs. The
 * first one found ends exec_step with a status that names buffer, element, step, scope, location.
 */
void exec_check_finite(Exec *e, bool on);

int exec_rank(const Exec *e); /* as in ExecOptions */
/* What this rank sent in step i of the plan when it ran last; nothing, if it is no collective. */
CommSent exec_sent(const Exec *e, uint32_t i);
/* When it was at that, as now_seconds says. */
typedef struct {
    double begin, end;
} ExecSpan;
ExecSpan exec_comm_span(const Exec *e, uint32_t i);
/* Bytes the device gave for a memory: equal to plan->arena, by assertion. */
int64_t exec_arena_bytes(const Exec *e, Mem mem);
/* Those of them that lie in the host's memory, and what the device has allocated besides. */
int64_t exec_host_bytes(const Exec *e);
int64_t exec_beside_bytes(const Exec *e);
/* Host address of a buffer in memory that is visible to the host, otherwise NULL; for use when all
 * steps that were submitted have been collected. */
void *exec_pointer(Exec *e, uint32_t buffer);

#endif
