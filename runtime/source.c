/* source.c: the two sources that need no data set: a tensor file, and random numbers. */
#include "runtime/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/safetensors.h"

static int64_t no_bytes(Source *s) {
    (void)s;
    return 0;
}

/* What both keep of the spec: the inputs, names copied. */
typedef struct {
    Source base;
    LoaderInput *input;
    Slice *part; /* of each input */
    uint32_t n;
    StFile *file; /* source_tensors */
} Plain;

static void plain_close(Source *source) {
    Plain *p = (Plain *)source;
    for (uint32_t i = 0; i < p->n; i++) free((char *)p->input[i].name);
    free(p->input);
    free(p->part);
    st_close(p->file);
    free(p);
}

static Status plain_fields(Plain *p, const LoaderSpec *spec) {
    p->input = calloc(spec->ninputs + 1, sizeof *p->input);
    p->part = calloc(spec->ninputs + 1, sizeof *p->part);
    int64_t bytes;
    for (uint32_t i = 0; p->input && p->part && i < spec->ninputs; i++) {
        p->input[i] = spec->input[i];
        p->input[i].name = strdup(spec->input[i].name);
        p->n = i + 1;
        TRY(input_bytes(&p->input[i], &bytes));
        p->part[i] = input_slice(&spec->input[i]);
    }
    if (p->n < spec->ninputs || !p->part)
        return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    return NULL;
}

static Status plain_make(const LoaderSpec *spec, const SourceClass *is, Plain **out) {
    Plain *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p) return status_make(EXIT_SYSTEM, "%s: out of memory", spec->source);
    p->base = (Source){is, spec->seed, 1, 1, spec->in_order};
    Status s = plain_fields(p, spec);
    if (s)
        plain_close(&p->base);
    else
        *out = p;
    return s;
}

/* ---- a tensor file ---- */

static void copy_part(const Slice *part, int size, const char *from, char *to) {
    SliceRun r;
    for (int64_t at = 0, n = slice_elements(part); at < n; at += r.count) {
        r = slice_run(part, at);
        memcpy(to + at * size, from + r.whole * size, (size_t)(r.count * size));
    }
}

static Status tensors_fill(Source *source, LoaderPosition start, void *const *data,
                           LoaderBatch *info) {
    const Plain *p = (const Plain *)source;
    (void)start;
    for (uint32_t i = 0; i < p->n; i++)
        copy_part(&p->part[i], dtype_size(p->input[i].dtype),
                  st_find(p->file, p->input[i].name)->data, data[i]);
    info->examples = 1;
    return NULL;
}

static bool same_shape(const LoaderInput *in, const StTensor *t) {
    bool same = in->dtype == t->dtype && in->rank == t->rank;
    for (int i = 0; same && i < in->rank; i++) same = in->dim[i] == t->dim[i];
    return same;
}

/* Element i as an integer, for the integer dtypes and bool. */
static int64_t integer_at(const StTensor *t, int64_t i) {
    const char *p = (const char *)t->data + i * dtype_size(t->dtype);
    int32_t x32;
    int64_t x64;
    if (t->dtype == DT_BOOL) return (unsigned char)*p;
    if (t->dtype == DT_I64) return memcpy(&x64, p, sizeof x64), x64;
    return memcpy(&x32, p, sizeof x32), x32;
}

/* Elements from `i` on. */
static Status check_run(const char *file, const LoaderInput *in, const StTensor *t, int64_t i,
                        int64_t count) {
    int64_t bound = t->dtype == DT_BOOL ? 2 : in->bound;
    for (int64_t end = i + count; bound > 0 && i < end; i++) {
        int64_t x = integer_at(t, i);
        if (x >= bound || (x < 0 && x != LOADER_IGNORE))
            return status_make(EXIT_INPUT,
                               "%s: \"%s\": element %" PRId64 " is %" PRId64
                               ", not between 0 and %" PRId64,
                               file, in->name, i, x, bound - 1);
    }
    return NULL;
}

/* Embeddings and losses index by these numbers: none may be outside its range. */
static Status check_integers(const char *file, const LoaderInput *in, const Slice *part,
                             const StTensor *t) {
    SliceRun r;
    if (dtype_is_float(t->dtype)) return NULL;
    for (int64_t at = 0, n = slice_elements(part); at < n; at += r.count) {
        r = slice_run(part, at);
        TRY(check_run(file, in, t, r.whole, r.count));
    }
    return NULL;
}

static void tensor_print(const StTensor *t, Buf *out) {
    LoaderInput in = {.name = t->name, .dtype = t->dtype, .rank = t->rank};
    memcpy(in.dim, t->dim, sizeof in.dim);
    input_print(&in, out);
}

static Status check_tensors(const Plain *p, const char *file) {
    Buf missing = {0}, other = {0};
    Status s = NULL;
    for (uint32_t i = 0; i < p->n && !s; i++) {
        const LoaderInput *in = &p->input[i];
        const StTensor *t = st_find(p->file, in->name);
        if (!t) {
            buf_puts(&missing, missing.n ? ", " : "");
            input_print(in, &missing);
        } else if (!same_shape(in, t)) {
            buf_puts(&other, other.n ? "; " : "");
            tensor_print(t, &other);
            buf_puts(&other, " where the model takes ");
            input_print(in, &other);
        } else {
            s = check_integers(file, in, &p->part[i], t);
        }
    }
    if (!s && missing.n)
        s = status_make(EXIT_INPUT, "%s lacks inputs of the model: %s", file, missing.p);
    if (!s && other.n) s = status_make(EXIT_INPUT, "%s has %s", file, other.p);
    buf_free(&missing);
    buf_free(&other);
    return s;
}

Status source_tensors(const LoaderSpec *spec, Source **out) {
    static const SourceClass is = {tensors_fill, no_bytes, plain_close};
    Plain *p;
    TRY(plain_make(spec, &is, &p));
    Status s = st_open(spec->source, &p->file);
    if (!s) s = check_tensors(p, spec->source);
    if (s)
        plain_close(&p->base);
    else
        *out = &p->base;
    return s;
}

/* ---- random numbers ---- */

/* Element i of the whole input to element `to` of the data. */
static void random_element(const LoaderInput *in, uint32_t key, int64_t i, void *data, int64_t to) {
    uint32_t high, low = philox(key, (uint64_t)i, &high);
    uint64_t bound = in->dtype == DT_BOOL || in->bound <= 0 ? 2 : (uint64_t)in->bound;
    int64_t k = (int64_t)(((uint64_t)high << 32 | low) % bound);
    float x = (float)init_value(INIT_NORMAL, 0, 1, key, (uint64_t)i);
    switch (in->dtype) {
    case DT_F32: ((float *)data)[to] = x; break;
    case DT_F64: ((double *)data)[to] = (double)x; break;
    case DT_BF16: ((uint16_t *)data)[to] = f32_to_bf16(x); break;
    case DT_F16: ((uint16_t *)data)[to] = f32_to_f16(x); break;
    case DT_I32: ((int32_t *)data)[to] = (int32_t)k; break;
    case DT_I64: ((int64_t *)data)[to] = k; break;
    case DT_BOOL: ((unsigned char *)data)[to] = (unsigned char)k; break;
    default: BUG("an input cannot be of dtype %d", (int)in->dtype);
    }
}

static Status random_fill(Source *source, LoaderPosition start, void *const *data,
                          LoaderBatch *info) {
    const Plain *p = (const Plain *)source;
    for (uint32_t k = 0; k < p->n; k++) {
        const LoaderInput *in = &p->input[k];
        uint64_t site = hash_bytes(in->name, strlen(in->name), 0);
        uint32_t key = random_key(start.seed, site, (uint64_t)start.epoch);
        SliceRun r;
        for (int64_t at = 0, n = slice_elements(&p->part[k]); at < n; at += r.count) {
            r = slice_run(&p->part[k], at);
            for (int64_t i = 0; i < r.count; i++)
                random_element(in, key, r.whole + i, data[k], at + i);
        }
    }
    info->examples = 1;
    return NULL;
}

Status source_random(const LoaderSpec *spec, Source **out) {
    static const SourceClass is = {random_fill, no_bytes, plain_close};
    const char *digits = spec->source + strlen("random:");
    char *end;
    errno = 0;
    uint64_t seed = strtoull(digits, &end, 10);
    if (*digits < '0' || *digits > '9' || *end || errno)
        return status_make(EXIT_INPUT, "%s: not random: and a number", spec->source);
    Plain *p;
    TRY(plain_make(spec, &is, &p));
    p->base.seed = seed;
    *out = &p->base;
    return NULL;
}
