/* checkpoint.h: a run's state in a safetensors file, and tensors in and out of an Exec by name.
 *
 * A checkpoint holds every parameter and state of the plan under its logical name, and as metadata
 * what else the next step depends on: the step, the seed, the position in the data; and a hash of
 * it all, so that damage is noticed. It is written beside its final name, synced and renamed, so
 * that a file named step-N.safetensors is whole. */
#ifndef M6C_CHECKPOINT_H
#define M6C_CHECKPOINT_H

#include "runtime/exec.h"
#include "runtime/loader.h"

typedef struct {
    int64_t step;            /* steps done */
    uint64_t seed;           /* of parameters and of the steps' random numbers */
    LoaderPosition position; /* of the batch that comes next */
} RunState;

/* Saves to FOLDER/step-NNNNNNNN.safetensors (the folder is made) and then removes all but the
 * `keep` newest; those of later steps, which an earlier run left, go too. On failure (EXIT_SYSTEM)
 * the checkpoints that were there are still there. */
Status checkpoint_save(const char *folder, const Plan *plan, Exec *e, const RunState *state,
                       int keep);
/* The newest checkpoint of a folder; *path is NULL when there is none. To be freed. */
Status checkpoint_newest(const char *folder, char **path);
/* Every tensor of the plan must be in the file with its shape; others are not looked at. A missing
 * or different tensor is EXIT_INPUT and names both sides. With `params_only`, states may be absent
 * and *state is not set. */
Status checkpoint_load(const char *path, const Plan *plan, Exec *e, bool params_only,
                       RunState *state);

/* Writes the buffers of `ports` as tensors of a safetensors file, under the buffers' names with
 * `prefix` cut off where it stands. */
Status tensors_write(const char *path, const Plan *plan, Exec *e, const PlanPort *port, uint32_t n,
                     const char *prefix);
/* Every parameter the file names is set; names that are no parameter, other shapes or dtypes are
 * EXIT_INPUT. Parameters that the file lacks are errors too: nothing is left to chance. */
Status tensors_init(const char *path, const Plan *plan, Exec *e);
/* The parameters alone, as --save writes them. */
Status tensors_save_params(const char *path, const Plan *plan, Exec *e);

#endif
