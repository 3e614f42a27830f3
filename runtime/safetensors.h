/* safetensors.h: tensors in files, as the safetensors format stores them.
 *
 * Format: 8 bytes little-endian N, N bytes of JSON header, then the data. The header maps names to
 * {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]} (offsets from the start of the
 * data) and "__metadata__" to an object of strings. The tensors cover the data without gaps or
 * overlaps.
 *
 * Slices. A tensor that is a part of a larger logical one is named by the metadata entry
 * "slice/NAME" = "4,16@2,0": the whole shape, and where the part starts. Files without such entries
 * hold whole tensors. */
#ifndef M6C_SAFETENSORS_H
#define M6C_SAFETENSORS_H

#include "ir/base.h"

enum { ST_MAX_RANK = 8 };

/* One tensor, row-major. U8 reads as DT_BOOL (both are one byte). */
typedef struct {
    const char *name;
    Dtype dtype;
    int rank;
    int64_t dim[ST_MAX_RANK];
    bool slice; /* part of a tensor of shape whole[], starting at start[] */
    int64_t whole[ST_MAX_RANK], start[ST_MAX_RANK];
    int64_t bytes;    /* set by the reader; the writer derives it */
    const void *data; /* of a file: not necessarily aligned to the element; to be written: NULL
                         where a StReader gives it */
} StTensor;

typedef struct {
    const char *key, *value;
} StMeta;

typedef struct StFile StFile;

/* Maps a file and checks everything in it: whatever bytes it holds, what is returned is consistent.
 * EXIT_INPUT names the file and the reason. The file must not be cut short while it is open
 * (writing a new one in its place, as st_write does, is fine). */
Status st_open(const char *path, StFile **out);
/* The same from memory that outlives the result; `name` is used in messages. */
Status st_parse(const char *name, const void *bytes, size_t n, StFile **out);
void st_close(StFile *f); /* NULL is fine */

uint32_t st_count(const StFile *f);
const StTensor *st_tensor(const StFile *f, uint32_t i);     /* in the order of the data */
const StTensor *st_find(const StFile *f, const char *name); /* NULL when absent */
/* Gives the memory that reading a tensor's data took back to the system; the data stay readable. */
void st_release(const StFile *f, const StTensor *t);
const char *st_meta(const StFile *f, const char *key); /* NULL when absent */

/* Writes a file so that `path` is at every moment either the old or the whole new one: a temporary
 * beside it is written, synced and renamed, and the folder synced. Tensors are stored by falling
 * element size, which keeps each aligned. Errors are EXIT_SYSTEM; the temporary is then removed. */
Status st_write(const char *path, const StTensor *tensor, uint32_t ntensors, const StMeta *meta,
                uint32_t nmeta);
/* Data that are not in memory, part after part: `bytes` of tensor[i] from its byte `at` on. */
typedef struct {
    Status (*read)(void *ctx, uint32_t i, int64_t at, void *to, int64_t bytes);
    void *ctx;
    int64_t most; /* bytes of a part */
} StReader;
Status st_write_read(const char *path, const StTensor *tensor, uint32_t ntensors,
                     const StMeta *meta, uint32_t nmeta, const StReader *reader);
/* For who writes a file piece by piece: the head of what st_write would write without metadata, at
 * which byte of the file each tensor's data begin, and the file's length. */
Status st_layout(const char *path, const StTensor *tensor, uint32_t ntensors, Buf *head,
                 int64_t *at, int64_t *bytes);

#endif
