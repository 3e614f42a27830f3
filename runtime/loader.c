/* loader.c: a ring of batches that threads fill ahead of the consumer.
 *
 * Batch number n lies in slot n % slots. Workers claim numbers in order and fill their slots side
 * by side; the consumer takes them in order, errors included. Since a source's fill() depends on
 * the position alone, what is delivered depends neither on the number of workers nor on their
 * timing. */
#include "runtime/loader.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/source.h"

enum { MAX_THREADS = 64, ALIGN = 64 };

typedef struct {
    void *block;
    void **data; /* into block */
    LoaderBatch batch;
    Status status;
    bool ready;
} Slot;

struct Loader {
    Source *source;
    Slot *slot;
    int64_t slots, slot_bytes;
    pthread_t thread[MAX_THREADS];
    int threads;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t claimed, released; /* batch numbers since the last seek */
    LoaderPosition claim;      /* of the next batch to claim */
    int busy;                  /* workers inside fill() */
    bool paused, stop;

    LoaderPosition next; /* of the next batch to deliver */
    bool held;           /* batch number `released` is with the consumer */
};

void input_print(const LoaderInput *in, Buf *out) {
    buf_printf(out, "\"%s\" %s[", in->name, dtype_name(in->dtype));
    for (int i = 0; i < in->rank; i++) buf_printf(out, "%s%" PRId64, i ? "," : "", in->dim[i]);
    buf_puts(out, "]");
}

Status input_bytes(const LoaderInput *in, int64_t *bytes) {
    ASSERT(in->rank >= 0 && in->rank <= LOADER_MAX_RANK);
    *bytes = dtype_size(in->dtype);
    for (int i = 0; i < in->rank; i++)
        if (in->dim[i] < 0 || __builtin_mul_overflow(*bytes, in->dim[i], bytes))
            return status_make(EXIT_INPUT, "input \"%s\": its size overflows", in->name);
    return NULL;
}

Slice input_slice(const LoaderInput *in) {
    return in->part ? *in->part : slice_all(in->rank, in->dim);
}

int64_t input_part_bytes(const LoaderInput *in) {
    Slice s = input_slice(in);
    return slice_elements(&s) * dtype_size(in->dtype);
}

/* ---- positions ---- */

static bool at_end(const Source *s, LoaderPosition p) {
    return s->in_order && (p.epoch > 0 || p.index >= s->examples);
}

static LoaderPosition after(const Source *s, LoaderPosition p) {
    p.index += s->batch;
    if (s->in_order) return p;
    p.epoch += p.index / s->examples;
    p.index %= s->examples;
    return p;
}

/* ---- workers ---- */

/* Called with the lock held; fills the next unclaimed batch without it. */
static void fill_next(Loader *l) {
    Slot *slot = &l->slot[l->claimed++ % l->slots];
    LoaderPosition at = l->claim;
    l->claim = after(l->source, at);
    l->busy++;
    pthread_mutex_unlock(&l->lock);
    slot->batch = (LoaderBatch){.data = (const void *const *)slot->data, .start = at};
    slot->status = l->source->is->fill(l->source, at, slot->data, &slot->batch);
    pthread_mutex_lock(&l->lock);
    slot->ready = true;
    l->busy--;
    pthread_cond_broadcast(&l->changed);
}

static bool may_claim(const Loader *l) {
    return !l->paused && l->claimed < l->released + l->slots && !at_end(l->source, l->claim);
}

static void *worker(void *arg) {
    Loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (may_claim(l))
            fill_next(l);
        else
            pthread_cond_wait(&l->changed, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Signals are for the thread that runs the training. */
static Status start_workers(Loader *l, int n) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    while (l->threads < MIN(n, MAX_THREADS) && !error) {
        error = pthread_create(&l->thread[l->threads], NULL, worker, l);
        if (!error) l->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error ? status_make(EXIT_SYSTEM, "cannot start a thread: %s", strerror(error)) : NULL;
}

/* ---- slots ---- */

static void slot_free(Slot *s) {
    free(s->block);
    free(s->data);
    free(s->status);
}

static Status slot_make(Slot *s, const LoaderSpec *spec, int64_t *total) {
    int64_t *offset = calloc(spec->ninputs + 1, sizeof *offset), bytes = 0;
    Status status = NULL;
    for (uint32_t i = 0; offset && i < spec->ninputs && !status; i++) {
        offset[i] = *total;
        status = input_bytes(&spec->input[i], &bytes); /* or the part's may overflow */
        if (!status) bytes = input_part_bytes(&spec->input[i]);
        if (!status && __builtin_add_overflow(*total, bytes + ALIGN - bytes % ALIGN, total))
            status = status_make(EXIT_INPUT, "the inputs' size overflows");
    }
    s->data = calloc(spec->ninputs + 1, sizeof *s->data);
    if (!status && (!offset || !s->data ||
                    posix_memalign(&s->block, ALIGN, (size_t)MAX(*total, (int64_t)ALIGN))))
        status = status_make(EXIT_SYSTEM, "out of memory for a batch of %" PRId64 " bytes", *total);
    if (!status) memset(s->block, 0, (size_t)*total);
    for (uint32_t i = 0; !status && i < spec->ninputs; i++)
        s->data[i] = (char *)s->block + offset[i];
    free(offset);
    return status;
}

/* ---- the interface ---- */

static Status open_source(const LoaderSpec *spec, Source **out) {
    static const char suffix[] = ".safetensors";
    struct stat st;
    size_t n = strlen(spec->source), k = sizeof suffix - 1;
    if (!strncmp(spec->source, "random:", 7)) return source_random(spec, out);
    if (n > k && !strcmp(spec->source + n - k, suffix)) return source_tensors(spec, out);
    if (stat(spec->source, &st))
        return status_make(EXIT_INPUT, "%s: %s", spec->source, strerror(errno));
    if (S_ISDIR(st.st_mode)) return source_captions(spec, out);
    return status_make(EXIT_INPUT, "%s: not a folder, a .safetensors file or random:SEED",
                       spec->source);
}

static Status open_ring(Loader *l, const LoaderSpec *spec) {
    int threads = MAX(spec->threads, 1);
    l->slots = threads + 2;
    l->slot = calloc((size_t)l->slots, sizeof *l->slot);
    if (!l->slot) return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    for (int64_t i = 0; i < l->slots; i++) {
        l->slot_bytes = 0;
        TRY(slot_make(&l->slot[i], spec, &l->slot_bytes));
    }
    l->claim = l->next = (LoaderPosition){.seed = l->source->seed};
    return start_workers(l, threads);
}

Status loader_open(const LoaderSpec *spec, Loader **out) {
    *out = NULL;
    Source *source = NULL;
    TRY(open_source(spec, &source));
    Loader *l = calloc(1, sizeof *l);
    if (!l) {
        source->is->close(source);
        return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    }
    l->source = source;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    Status s = open_ring(l, spec);
    if (s)
        loader_close(l);
    else
        *out = l;
    return s;
}

/* The batch handed out last is no longer in use. */
static void release_held(Loader *l) {
    if (!l->held) return;
    l->slot[l->released++ % l->slots].ready = false;
    l->held = false;
    pthread_cond_broadcast(&l->changed);
}

Status loader_next(Loader *l, const LoaderBatch **out) {
    *out = NULL;
    pthread_mutex_lock(&l->lock);
    release_held(l);
    Status s = NULL;
    if (!at_end(l->source, l->next)) {
        Slot *slot = &l->slot[l->released % l->slots];
        while (!slot->ready) pthread_cond_wait(&l->changed, &l->lock);
        l->held = true;
        l->next = after(l->source, l->next);
        s = slot->status;
        slot->status = NULL;
        if (!s) *out = &slot->batch;
    }
    pthread_mutex_unlock(&l->lock);
    return s;
}

LoaderPosition loader_position(const Loader *l) { return l->next; }

Status loader_seek(Loader *l, LoaderPosition p) {
    if (p.epoch < 0 || p.index < 0 || p.index >= l->source->examples)
        return status_make(EXIT_INPUT,
                           "epoch %" PRId64 ", example %" PRId64
                           " is not a position in a data set of %" PRId64 " examples",
                           p.epoch, p.index, l->source->examples);
    pthread_mutex_lock(&l->lock);
    l->paused = true;
    while (l->busy) pthread_cond_wait(&l->changed, &l->lock);
    for (int64_t i = 0; i < l->slots; i++) {
        l->slot[i].ready = false;
        free(l->slot[i].status);
        l->slot[i].status = NULL;
    }
    l->claimed = l->released = 0;
    l->held = l->paused = false;
    l->claim = l->next = p;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int64_t loader_examples(const Loader *l) { return l->source->examples; }

int64_t loader_bytes(const Loader *l) {
    return l->slots * l->slot_bytes + l->source->is->bytes(l->source);
}

void loader_close(Loader *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
    for (int64_t i = 0; l->slot && i < l->slots; i++) slot_free(&l->slot[i]);
    free(l->slot);
    l->source->is->close(l->source);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
