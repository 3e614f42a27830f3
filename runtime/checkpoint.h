/* checkpoint.h: a run's state in safetensors files, and tensors in and out of an Exec by name.
 *
 * A checkpoint holds every parameter and state of the plan under its logical name, and as metadata
 * what else the next step depends on: the step, the seed, the position in the data; and a hash of
 * it all, so that damage is noticed. One rank writes one file, beside its final name, synced and
 * renamed, so that a file named step-N.safetensors is whole. Several ranks write a folder
 * (checkpoint_files.h): of each slice the first rank that has it, then, when all are on disk, rank
 * 0 the index. Both are read on any mesh: a rank reads what it needs of whichever files have it.
 *
 * Functions that take Ranks are called by all of them, and fail on all if they fail on one
 * (ranks_agree), where nothing else is said. All ranks share the file system. */
#ifndef M6C_CHECKPOINT_H
#define M6C_CHECKPOINT_H

#include "runtime/checkpoint_files.h"
#include "runtime/exec.h"
#include "runtime/loader.h"
#include "runtime/ranks.h"

typedef struct {
    int64_t step;            /* steps done */
    uint64_t seed;           /* of parameters and of the steps' random numbers */
    LoaderPosition position; /* of the batch that comes next */
} RunState;

/* Saves to FOLDER/step-NNNNNNNN.safetensors, with several ranks to the folder
 * FOLDER/step-NNNNNNNN (FOLDER is made), and then removes all but the `keep` newest; those of later
 * steps, which an earlier run left, go too. On failure (EXIT_SYSTEM) the checkpoints that were
 * there are still there. */
Status checkpoint_save(const char *folder, const Plan *plan, Exec *e, const Ranks *ranks,
                       const RunState *state, int keep);
/* The newest checkpoint of a folder, as rank 0 sees it; *path is NULL when there is none. To be
 * freed. */
Status checkpoint_newest(const char *folder, const Ranks *ranks, char **path);
/* Every tensor of the plan must be in the file or folder with its shape; others are not looked at.
 * A missing or different tensor is EXIT_INPUT and names both sides. With `params_only`, states may
 * be absent and *state is not set. */
Status checkpoint_load(const char *path, const Plan *plan, Exec *e, const Ranks *ranks,
                       bool params_only, RunState *state);
/* What a checkpoint says of the run, of files that are open; EXIT_INPUT: it is none. */
Status run_state_read(const char *path, const TensorFiles *f, RunState *state);

/* Every parameter the file (or folder) names is set; names that are no parameter, other shapes or
 * dtypes are EXIT_INPUT. Parameters that the file lacks are errors too: nothing is left to chance.
 * A failure is of this rank alone. */
Status tensors_init(const char *path, const Plan *plan, Exec *e);

/* ---- tensors_write.c ---- */

typedef enum { SET_OUTPUTS, SET_GRADS, SET_PARAMS } TensorSet;
/* Writes what the model returned, its gradients or its parameters as whole tensors of one
 * safetensors file, of all stages of a pipeline. Several ranks write their slices into one file,
 * which gets its name when all have. */
Status tensors_write(const char *path, const Plan *plan, Exec *e, const Ranks *ranks,
                     TensorSet set);

/* ---- for both: tensors of a plan as tensors of a file ---- */

/* What the host cannot see is read while the file is written. */
typedef struct {
    VEC(StTensor) tensor;
    VEC(uint32_t) buffer; /* of each */
    Exec *exec;
} StList;

/* A buffer's name in a file: a gradient's without "grad/". */
const char *st_list_name(const PlanBuffer *b, TensorSet set);
/* The rank's part of a buffer: a slice, where it is not all. */
void st_list_add(StList *list, const Plan *plan, uint32_t buffer, TensorSet set);
Status st_list_write(const char *path, StList *list, const StMeta *meta, uint32_t nmeta);
void st_list_free(StList *list);

#endif
