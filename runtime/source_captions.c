/* source_captions.c: batches of pictures and captions.
 *
 * What feeds which input is the table FEED. Decoded pictures are kept, as patches, until the budget
 * is used up and never dropped: an epoch visits each once, so nothing is gained by exchanging them.
 *
 * The order of an epoch is a Feistel network over the example numbers, with philox as its round
 * function (Luby & Rackoff, 1988) and cycle walking (Black & Rogaway, CT-RSA'02) for sizes that are
 * no power of four: position to example without a table. */
#include "runtime/source.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image.h"
#include "runtime/muge.h"
#include "runtime/tokenizer.h"

#define CACHE_BYTES ((int64_t)256 << 20)
enum { ROUNDS = 6, SITE_ORDER = 0x6f726472, SITE_CAPTION = 0x74657874 }; /* "ordr", "text" */

typedef struct Captions Captions;

/* Writes example i (its caption k) to row `row` of an input; UINT32_MAX writes an empty row. */
typedef Status (*FeedFn)(Captions *c, uint32_t i, uint32_t k, int64_t row, void *data,
                         LoaderBatch *info);

typedef struct {
    const char *name, *shape;
    Dtype dtype;
    int rank;
    FeedFn feed;
} Feed;

struct Captions {
    Source base;
    Muge *muge;
    Tokenizer *tokenizer;
    const Feed **feed; /* of each input */
    Slice *rows;       /* of each input: those a batch holds, as slice of i64[batch] */
    uint32_t ninputs;
    int64_t patches, length;
    int patch, side;
    bool blank;

    pthread_mutex_t lock;
    unsigned char **cached; /* patches of each example, or NULL */
    int64_t cache_budget, cache_bytes;
};

/* ---- pictures ---- */

static int64_t picture_size(const Captions *c) { return c->patches * c->patch * c->patch * 3; }

static Status decode(Captions *c, uint32_t i, unsigned char *out) {
    Buf bytes = {0}, where = {0};
    Image image = {0};
    muge_where_image(c->muge, i, &where);
    Status s = muge_image(c->muge, i, &bytes);
    if (!s) s = image_decode(where.p, bytes.p, bytes.n, &image);
    if (!s) s = image_patches(&image, c->side, c->patch, out);
    image_free(&image);
    buf_free(&bytes);
    buf_free(&where);
    return s;
}

/* Takes over `patches` when there is room. */
static bool keep(Captions *c, uint32_t i, unsigned char *patches) {
    int64_t bytes = picture_size(c);
    pthread_mutex_lock(&c->lock);
    bool room = !c->cached[i] && c->cache_bytes + bytes <= c->cache_budget;
    if (room) {
        c->cached[i] = patches;
        c->cache_bytes += bytes;
    }
    pthread_mutex_unlock(&c->lock);
    return room;
}

static Status feed_new_image(Captions *c, uint32_t i, float *out) {
    unsigned char *patches = malloc((size_t)picture_size(c));
    if (!patches) return status_make(EXIT_SYSTEM, "out of memory for a picture");
    Status s = decode(c, i, patches);
    if (!s) image_normalise(patches, picture_size(c), out);
    if (s || !keep(c, i, patches)) free(patches);
    return s;
}

static Status feed_image(Captions *c, uint32_t i, uint32_t k, int64_t row, void *data,
                         LoaderBatch *info) {
    float *out = (float *)data + row * picture_size(c);
    (void)k, (void)info;
    if (i == UINT32_MAX || c->blank) {
        memset(out, 0, (size_t)picture_size(c) * sizeof *out);
        return NULL;
    }
    pthread_mutex_lock(&c->lock);
    const unsigned char *have = c->cached[i];
    pthread_mutex_unlock(&c->lock);
    if (!have) return feed_new_image(c, i, out);
    image_normalise(have, picture_size(c), out);
    return NULL;
}

/* ---- captions ---- */

/* [CLS] caption [SEP], cut to `room`; *n numbers. */
static Status encode(Captions *c, uint32_t i, uint32_t k, int32_t *id, int room, int *n) {
    Buf where = {0};
    muge_where_text(c->muge, i, &where);
    *n = 0;
    id[0] = tokenizer_special(c->tokenizer, TOK_CLS);
    Status s =
        tokenizer_encode(c->tokenizer, where.p, muge_text(c->muge, i, k), id + 1, room - 1, n);
    buf_free(&where);
    if (s) return s;
    if (++*n < room) id[(*n)++] = tokenizer_special(c->tokenizer, TOK_SEP);
    return NULL;
}

/* Row of numbers seq[shift .. shift + length), then `pad`. Returns how many are not padding. */
static Status feed_sequence(Captions *c, uint32_t i, uint32_t k, int shift, int32_t pad,
                            int32_t *out, int64_t *used) {
    int length = (int)c->length, n = 0;
    int32_t *id = malloc(((size_t)length + 1) * sizeof *id);
    if (!id) return status_make(EXIT_SYSTEM, "out of memory for a caption");
    Status s = i == UINT32_MAX ? NULL : encode(c, i, k, id, length + 1, &n);
    /* The last number is only ever predicted: text[j] predicts target[j] = seq[j + 1]. */
    *used = MAX(n - 1, 0);
    for (int j = 0; j < length && !s; j++) out[j] = j < *used ? id[j + shift] : pad;
    free(id);
    return s;
}

static Status feed_text(Captions *c, uint32_t i, uint32_t k, int64_t row, void *data,
                        LoaderBatch *info) {
    int64_t used;
    (void)info;
    return feed_sequence(c, i, k, 0, tokenizer_special(c->tokenizer, TOK_PAD),
                         (int32_t *)data + row * c->length, &used);
}

static Status feed_target(Captions *c, uint32_t i, uint32_t k, int64_t row, void *data,
                          LoaderBatch *info) {
    int64_t used;
    TRY(feed_sequence(c, i, k, 1, LOADER_IGNORE, (int32_t *)data + row * c->length, &used));
    info->targets += used;
    return NULL;
}

static Status count_targets(Captions *c, uint32_t i, uint32_t k, LoaderBatch *info) {
    int32_t *row = malloc((size_t)c->length * sizeof *row);
    if (!row) return status_make(EXIT_SYSTEM, "out of memory for a caption");
    Status s = feed_target(c, i, k, 0, row, info);
    free(row);
    return s;
}

static const Feed FEED[] = {
    {"image", "f32[batch,patches,3*P*P]", DT_F32, 3, feed_image},
    {"text", "i32[batch,length]", DT_I32, 2, feed_text},
    {"target", "i32[batch,length]", DT_I32, 2, feed_target},
};

/* ---- order ---- */

/* Where `index` of n goes in the order that `key` names. */
static int64_t permute(uint32_t key, int64_t index, int64_t n) {
    int half = 1;
    while (half < 31 && (int64_t)1 << 2 * half < n) half++;
    uint32_t mask = (1u << half) - 1;
    uint64_t x = (uint64_t)index;
    do {
        uint32_t left = (uint32_t)(x >> half), right = (uint32_t)x & mask;
        for (uint64_t r = 0; r < ROUNDS; r++) {
            uint32_t next = left ^ (philox(key, r << 32 | right, NULL) & mask);
            left = right;
            right = next;
        }
        x = (uint64_t)left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

/* The example at a position, and which of its captions. */
static uint32_t choose(const Captions *c, LoaderPosition p, uint32_t *caption) {
    *caption = 0;
    if (c->base.in_order) return p.index < c->base.examples ? (uint32_t)p.index : UINT32_MAX;
    uint64_t epoch = (uint64_t)p.epoch;
    uint32_t order = random_key(p.seed, SITE_ORDER, epoch);
    uint32_t i = (uint32_t)permute(order, p.index, c->base.examples);
    if (c->length)
        *caption =
            philox(random_key(p.seed, SITE_CAPTION, epoch), i, NULL) % muge_texts(c->muge, i);
    return i;
}

/* Of a row that is another rank's only the targets count, and only where they are asked for. */
static Status feed_row(Captions *c, uint32_t f, uint32_t i, uint32_t k, int64_t row, void *data,
                       LoaderBatch *info) {
    int64_t here = slice_find(&c->rows[f], row).part;
    if (here >= 0) return c->feed[f]->feed(c, i, k, here, data, info);
    return c->base.in_order && c->feed[f]->feed == feed_target ? count_targets(c, i, k, info)
                                                               : NULL;
}

static Status captions_fill(Source *source, LoaderPosition at, void *const *data,
                            LoaderBatch *info) {
    Captions *c = (Captions *)source;
    for (int64_t row = 0; row < source->batch; row++, at.index++) {
        if (!source->in_order && at.index == source->examples) at.index = 0, at.epoch++;
        uint32_t k, i = choose(c, at, &k);
        info->examples += i != UINT32_MAX;
        for (uint32_t f = 0; f < c->ninputs; f++) TRY(feed_row(c, f, i, k, row, data[f], info));
    }
    return NULL;
}

/* ---- opening ---- */

static void captions_close(Source *source) {
    Captions *c = (Captions *)source;
    for (int64_t i = 0; c->cached && i < source->examples; i++) free(c->cached[i]);
    free(c->cached);
    free(c->feed);
    free(c->rows);
    muge_close(c->muge);
    tokenizer_free(c->tokenizer);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int64_t captions_bytes(Source *source) {
    Captions *c = (Captions *)source;
    pthread_mutex_lock(&c->lock);
    int64_t n = c->cache_bytes;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static const Feed *find_feed(const LoaderInput *in) {
    for (size_t i = 0; i < COUNT(FEED); i++)
        if (!strcmp(FEED[i].name, in->name) && FEED[i].dtype == in->dtype &&
            FEED[i].rank == in->rank)
            return &FEED[i];
    return NULL;
}

static Status choose_feeds(Captions *c, const LoaderSpec *spec) {
    Buf lacking = {0};
    for (uint32_t i = 0; i < spec->ninputs; i++) {
        c->feed[i] = find_feed(&spec->input[i]);
        if (c->feed[i]) continue;
        buf_puts(&lacking, lacking.n ? ", " : "");
        input_print(&spec->input[i], &lacking);
    }
    c->ninputs = spec->ninputs;
    if (!lacking.n) return NULL;
    Buf offers = {0};
    for (size_t i = 0; i < COUNT(FEED); i++)
        buf_printf(&offers, "%s\"%s\" %s", i ? ", " : "", FEED[i].name, FEED[i].shape);
    Status s = status_make(EXIT_INPUT, "%s cannot feed %s; captioned pictures feed %s",
                           spec->source, lacking.p, offers.p);
    buf_free(&offers);
    buf_free(&lacking);
    return s;
}

/* The root of n if it is a square of at most `max`, or 0. */
static int square_root(int64_t n, int max) {
    int r = 0;
    while (r < max && (int64_t)r * r < n) r++;
    return (int64_t)r * r == n ? r : 0;
}

static Status check_image(Captions *c, const LoaderInput *in) {
    int across = square_root(in->dim[1], 1024);
    c->patches = in->dim[1];
    c->patch = in->dim[2] % 3 ? 0 : square_root(in->dim[2] / 3, 1024);
    c->side = across * c->patch;
    if (c->side) return NULL;
    Buf b = {0};
    input_print(in, &b);
    Status s = status_make(
        EXIT_INPUT, "input %s: a picture is N*N patches of P*P*3 values, N and P from 1 to 1024",
        b.p);
    buf_free(&b);
    return s;
}

static Status check_text(Captions *c, const LoaderInput *in) {
    Buf b = {0};
    Status s = NULL;
    input_print(in, &b);
    if (c->length && c->length != in->dim[1])
        s = status_make(EXIT_INPUT, "input %s: the other text input has length %" PRId64, b.p,
                        c->length);
    else if (in->dim[1] < 1 || in->dim[1] > 1 << 20)
        s = status_make(EXIT_INPUT, "input %s: length is not between 1 and %d", b.p, 1 << 20);
    c->length = in->dim[1];
    buf_free(&b);
    return s;
}

/* The part's rows, as if each were one element. */
static Status choose_rows(const LoaderSpec *spec, const LoaderInput *in, Slice *rows) {
    Slice part = input_slice(in);
    int dims = part.rank - in->rank + 1; /* that dimension 0 consists of */
    for (int i = dims; i < part.rank; i++)
        if (part.dim[i] != part.whole[i])
            return status_make(
                EXIT_INPUT,
                "%s: input \"%s\" is split inside an example: captioned pictures are "
                "split by examples alone",
                spec->source, in->name);
    part.rank = dims;
    *rows = part;
    return NULL;
}

static Status check_shapes(Captions *c, const LoaderSpec *spec) {
    for (uint32_t i = 0; i < spec->ninputs; i++) {
        const LoaderInput *in = &spec->input[i];
        if (in->dim[0] < 1)
            return status_make(EXIT_INPUT, "input \"%s\": an empty batch", in->name);
        if (c->base.batch && c->base.batch != in->dim[0])
            return status_make(EXIT_INPUT,
                               "input \"%s\" has batch %" PRId64 ", input \"%s\" has %" PRId64,
                               spec->input[0].name, c->base.batch, in->name, in->dim[0]);
        c->base.batch = in->dim[0];
        TRY(choose_rows(spec, in, &c->rows[i]));
        TRY(c->feed[i]->feed == feed_image ? check_image(c, in) : check_text(c, in));
    }
    if (!c->base.batch)
        return status_make(EXIT_INPUT, "%s: the model has no inputs to feed", spec->source);
    return NULL;
}

static Status open_vocabulary(Captions *c, const LoaderSpec *spec) {
    Buf path = {0};
    if (spec->vocab)
        buf_puts(&path, spec->vocab);
    else
        buf_printf(&path, "%s/vocab.txt", spec->source);
    Status s = tokenizer_open(path.p, &c->tokenizer);
    for (uint32_t i = 0; i < spec->ninputs && !s; i++) {
        const LoaderInput *in = &spec->input[i];
        if (in->dtype == DT_I32 && in->bound > 0 && in->bound < tokenizer_size(c->tokenizer))
            s = status_make(EXIT_INPUT,
                            "%s has %d tokens, but input \"%s\" takes numbers below %" PRId64,
                            path.p, tokenizer_size(c->tokenizer), in->name, in->bound);
    }
    buf_free(&path);
    return s;
}

static Status check_captions(const Captions *c) {
    for (uint32_t i = 0; i < muge_count(c->muge); i++) {
        if (muge_texts(c->muge, i)) continue;
        Buf where = {0};
        muge_where_text(c->muge, i, &where);
        Status s = status_make(EXIT_INPUT, "%s: no caption", where.p);
        buf_free(&where);
        return s;
    }
    return NULL;
}

static Status open_data(Captions *c, const LoaderSpec *spec) {
    c->feed = calloc(spec->ninputs + 1, sizeof *c->feed);
    c->rows = calloc(spec->ninputs + 1, sizeof *c->rows);
    if (!c->feed || !c->rows) return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    TRY(choose_feeds(c, spec));
    TRY(check_shapes(c, spec));
    if (c->length) TRY(open_vocabulary(c, spec));
    const char *split = spec->split ? spec->split : "train";
    TRY(muge_open(spec->source, split, c->side && !c->blank, &c->muge));
    c->base.examples = muge_count(c->muge);
    c->cached = calloc(muge_count(c->muge), sizeof *c->cached);
    if (!c->cached) return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    return c->length ? check_captions(c) : NULL;
}

Status source_captions(const LoaderSpec *spec, Source **out) {
    static const SourceClass is = {captions_fill, captions_bytes, captions_close};
    Captions *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    c->base = (Source){.is = &is, .seed = spec->seed, .in_order = spec->in_order};
    c->blank = spec->blank_images;
    c->cache_budget = spec->cache_bytes ? spec->cache_bytes : CACHE_BYTES;
    pthread_mutex_init(&c->lock, NULL);
    Status s = open_data(c, spec);
    if (s)
        captions_close(&c->base);
    else
        *out = &c->base;
    return s;
}
