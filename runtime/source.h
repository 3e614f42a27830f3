/* source.h: where a Loader's batches come from. Private to loader.c and source*.c.
 *
 * A source fills any batch, given only the position of its first example; fill() may be called from
 * several threads at once. Each constructor checks the wanted inputs and takes what it needs of the
 * spec, which may then go away. */
#ifndef M6C_SOURCE_H
#define M6C_SOURCE_H

#include "runtime/loader.h"

typedef struct Source Source;

typedef struct {
    Status (*fill)(Source *s, LoaderPosition start, void *const *data, LoaderBatch *info);
    int64_t (*bytes)(Source *s); /* held beyond the batches */
    void (*close)(Source *s);
} SourceClass;

struct Source {
    const SourceClass *is;
    uint64_t seed;
    int64_t examples; /* in an epoch */
    int64_t batch;    /* examples a batch */
    bool in_order;
};

Status source_captions(const LoaderSpec *spec, Source **out);
Status source_tensors(const LoaderSpec *spec, Source **out);
Status source_random(const LoaderSpec *spec, Source **out);

/* Appends "name" f32[2,3]. */
void input_print(const LoaderInput *in, Buf *out);
/* What a batch holds of an input, and the bytes of that; of an input whose input_bytes fit. */
Slice input_slice(const LoaderInput *in);
int64_t input_part_bytes(const LoaderInput *in);
/* Bytes of a whole input; EXIT_INPUT when that overflows. */
Status input_bytes(const LoaderInput *in, int64_t *bytes);

#endif
