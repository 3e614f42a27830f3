/* checkpoint_folder.h: the checkpoints of a run, in one folder. Private to checkpoint*.c and to
 * what lists them.
 *
 *     step-00000200.safetensors   of one rank
 *     step-00000400               a folder, of several ranks (checkpoint_files.h)
 *     step-00000600.tmp           one that is being written; whole as soon as it has its index
 *
 * What is not whole is not seen, and goes when the next one is saved. */
#ifndef M6C_CHECKPOINT_FOLDER_H
#define M6C_CHECKPOINT_FOLDER_H

#include "ir/base.h"

typedef enum { SAVED_FILE, SAVED_FOLDER, SAVED_NEW, SAVED_COUNT } SavedAs;

/* Of these two, path and step, any of the above is found again. */
typedef struct {
    int64_t step; /* -1: none */
    SavedAs as;
} Saved;

char *saved_path(const char *folder, Saved s); /* to be freed */
bool saved_is_whole(const char *folder, Saved s);
/* The newest whole checkpoint of a step below `below`; of one step, what was written last. */
Status saved_newest_below(const char *folder, int64_t below, Saved *out);
/* Removes what a process that was killed left behind, and gives a SAVED_NEW that is whole its name.
 * By one rank, when none is writing. */
void saved_tidy(const char *folder);
/* Removes all but the `keep` newest up to the one just saved: those of later steps, which an
 * earlier run left, and another one of the same step. */
void saved_remove_old(const char *folder, int keep, Saved just);

#endif
