/* checkpoint_files.h: tensors in one file or in a folder of parts, read as whole tensors.
 *
 * A folder is what a run of several ranks saves:
 *
 *     part-00003-of-00008.safetensors   slices of tensors, "slice/NAME" = whole shape @ start
 *     index.safetensors                 no tensors; metadata: what a checkpoint of one file has,
 *                                       "files" = "8", "file/0" = "part-… HASH", …
 *
 * The index is written last: a folder without it is no checkpoint. All ranks share the file
 * system. */
#ifndef M6C_CHECKPOINT_FILES_H
#define M6C_CHECKPOINT_FILES_H

#include "runtime/safetensors.h"
#include "runtime/slice.h"

#define CHECKPOINT_INDEX "index.safetensors"

typedef struct {
    uint32_t file; /* of tensor_files */
    const StTensor *tensor;
    Slice slice;
} TensorPiece;

/* A whole tensor, wherever its pieces are. */
typedef struct {
    const char *name;
    Dtype dtype;
    int rank;
    int64_t dim[ST_MAX_RANK];
    const TensorPiece *piece;
    uint32_t npieces;
} WholeTensor;

typedef struct TensorFiles TensorFiles;

/* A file of tensors or a folder with an index. EXIT_INPUT names what is wrong: no index, a file
 * that is missing or of another checkpoint, pieces of one name that do not fit together. */
Status tensor_files_open(const char *path, TensorFiles **out);
void tensor_files_close(TensorFiles *f);                              /* NULL is fine */
const char *tensor_files_meta(const TensorFiles *f, const char *key); /* NULL when absent */
uint32_t tensor_files_count(const TensorFiles *f);                    /* of files with tensors */
const StFile *tensor_files_file(const TensorFiles *f, uint32_t i);
const char *tensor_files_path(const TensorFiles *f, uint32_t i);

uint32_t tensor_files_tensors(const TensorFiles *f);
const WholeTensor *tensor_files_tensor(const TensorFiles *f, uint32_t i);     /* by name */
const WholeTensor *tensor_files_find(const TensorFiles *f, const char *name); /* NULL: absent */

/* Elements at … at + count of a part of the tensor. EXIT_INPUT: no file has one of them. */
Status whole_tensor_read(const TensorFiles *f, const WholeTensor *t, const Slice *part, int64_t at,
                         int64_t count, void *to);
/* The part's elements where they lie, if they are one after another in one file, or NULL. */
const void *whole_tensor_data(const WholeTensor *t, const Slice *part);
/* Gives the memory of what was read back to the system. */
void whole_tensor_release(const TensorFiles *f, const WholeTensor *t);

/* Checks the content of files first, first + step, … against the hashes in them (files without one
 * pass). EXIT_INPUT names the first that is damaged. */
Status tensor_files_check(const TensorFiles *f, uint32_t first, uint32_t step);
/* What a file's hash is the sum of, over its tensors; `data` is hash_bytes of its data. */
uint64_t tensor_hash(const char *name, uint64_t data);

#endif
