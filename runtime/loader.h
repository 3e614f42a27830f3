/* loader.h: batches for a plan, by input name.
 *
 * Sources (LoaderSpec.source):
 *   DIR               a caption data set as in muge.h, with DIR/vocab.txt
 *   FILE.safetensors  the inputs by name, the same batch each step
 *   random:SEED       normal floats, integers below the input's bound; each step another batch
 *
 * What a caption data set can feed:
 *   image   f32[batch, patches, 3*P*P]   the picture resized to S x S, S = P*sqrt(patches), in
 *                                        patches row by row; inside a patch y, x, channel; as
 *                                        (v - 0.5) / 0.5
 *   text    i32[batch, length]           [CLS] caption ..., then [PAD]
 *   target  i32[batch, length]           text shifted by one, with [SEP], then -100 (ignored)
 *
 * Longer captions are cut. A picture with several captions shows one per epoch.
 *
 * Order. Training goes through a permutation of the split that is a function of (seed, epoch);
 * batches run on from one epoch into the next. A position is three integers, and what follows it
 * depends on nothing else: not on threads, not on the cache, not on what was read before.
 *
 * Parts. A rank of several gets its part of each input, and only that is decoded, read or drawn;
 * the batch as a whole is the same on every mesh. Of captions and pictures a part is some rows. */
#ifndef M6C_LOADER_H
#define M6C_LOADER_H

#include "runtime/slice.h"

enum { LOADER_MAX_RANK = 8, LOADER_IGNORE = -100 };

/* An input of the model, of the whole batch whatever part of it is wanted. */
typedef struct {
    const char *name;
    Dtype dtype;
    int rank;
    int64_t dim[LOADER_MAX_RANK];
    int64_t bound;     /* integers: legal values are below it (and LOADER_IGNORE); 0 when unknown */
    const Slice *part; /* what a batch holds of it; NULL: all */
} LoaderInput;

typedef struct {
    const char *source;
    const char *split; /* of a data set: "train" when NULL */
    const char *vocab; /* vocabulary file; DIR/vocab.txt when NULL */
    const LoaderInput *input;
    uint32_t ninputs;
    uint64_t seed;
    bool in_order;       /* validation: once through the split, unshuffled, first caption of each */
    bool blank_images;   /* all-zero pictures: what the text alone is worth */
    int threads;         /* that decode ahead; 0: one */
    int64_t cache_bytes; /* for decoded pictures; 0: 256 MiB, negative: none */
} LoaderSpec;

/* Where a batch starts: example `index` of epoch `epoch` of the stream `seed`. */
typedef struct {
    uint64_t seed;
    int64_t epoch, index;
} LoaderPosition;

typedef struct {
    const void *const *data; /* [ninputs], in the order of LoaderSpec.input, 64-byte aligned */
    LoaderPosition start;
    /* Of the whole batch: */
    int64_t examples; /* real ones; fewer than the batch only at the end of an in-order split */
    int64_t targets;  /* targets that are not ignored, when "target" is an input; where a part of
                         it is wanted, counted in order only */
} LoaderBatch;

typedef struct Loader Loader;

/* The spec and what it points to may go away afterwards. EXIT_INPUT names every input the source
 * cannot feed, or the file and line at fault. */
Status loader_open(const LoaderSpec *spec, Loader **out);
/* The next batch, valid until the next call on this loader; *out is NULL after the last batch of an
 * in-order split (never otherwise). */
Status loader_next(Loader *l, const LoaderBatch **out);
/* Of the batch that loader_next returns next. */
LoaderPosition loader_position(const Loader *l);
Status loader_seek(Loader *l, LoaderPosition p);
int64_t loader_examples(const Loader *l); /* in the split; 1 for the other sources */
int64_t loader_bytes(const Loader *l);    /* held now: ready batches and decoded pictures */
void loader_close(Loader *l);             /* NULL is fine */

#endif
