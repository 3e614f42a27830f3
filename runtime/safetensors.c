/* safetensors.c: reader and writer of tensor files.
 *
 * The reader trusts nothing: every number of the header is checked before it is used, and the
 * tensors must cover the data exactly. The writer streams: the caller's tensors are never copied.
 *
 * Limits: headers up to 100 MB (as the reference implementation), rank up to ST_MAX_RANK. */
#include "runtime/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 100000000, HEADER_ALIGN = 64 };

struct StFile {
    char *name;
    void *map; /* NULL when parsed from memory */
    size_t mapped;
    json_t *header;   /* owns the strings */
    StTensor *tensor; /* by data offset */
    StTensor **by_name;
    uint32_t n;
};

static const struct {
    const char *name;
    Dtype dtype;
} DTYPE[] = {
    {"F32", DT_F32}, {"BF16", DT_BF16}, {"F16", DT_F16},   {"F64", DT_F64},
    {"I32", DT_I32}, {"I64", DT_I64},   {"BOOL", DT_BOOL}, {"U8", DT_BOOL},
};

static const char *st_dtype_name(Dtype d) {
    for (size_t i = 0; i < COUNT(DTYPE); i++)
        if (DTYPE[i].dtype == d) return DTYPE[i].name;
    BUG("a tensor file cannot hold dtype %d", (int)d);
}

static Status out_of_memory(const char *name) {
    return status_make(EXIT_SYSTEM, "%s: out of memory", name);
}

/* ---- reading ---- */

/* A list of up to ST_MAX_RANK whole numbers >= 0; returns its length or -1. */
static int json_dims(const json_t *list, int64_t *dim) {
    if (!json_is_array(list) || json_array_size(list) > ST_MAX_RANK) return -1;
    int n = (int)json_array_size(list);
    for (int i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, (size_t)i);
        if (!json_is_integer(x) || json_integer_value(x) < 0) return -1;
        dim[i] = json_integer_value(x);
    }
    return n;
}

static Status tensor_bytes(const char *file, StTensor *t) {
    int64_t bytes = dtype_size(t->dtype);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(bytes, t->dim[i], &bytes))
            return status_make(EXIT_INPUT, "%s: tensor \"%s\": its size overflows", file, t->name);
    t->bytes = bytes;
    return NULL;
}

static Status read_dtype(const char *file, const json_t *entry, StTensor *t) {
    const char *s = json_string_value(json_object_get(entry, "dtype"));
    if (!s) return status_make(EXIT_INPUT, "%s: tensor \"%s\" has no dtype", file, t->name);
    for (size_t i = 0; i < COUNT(DTYPE); i++)
        if (!strcmp(s, DTYPE[i].name)) {
            t->dtype = DTYPE[i].dtype;
            return NULL;
        }
    return status_make(EXIT_INPUT, "%s: tensor \"%s\": dtype \"%s\" is not supported", file,
                       t->name, s);
}

/* One header entry; `data` and `n` are the data section. */
static Status read_tensor(const char *file, const char *name, const json_t *entry, const char *data,
                          int64_t n, StTensor *t) {
    *t = (StTensor){.name = name};
    TRY(read_dtype(file, entry, t));
    t->rank = json_dims(json_object_get(entry, "shape"), t->dim);
    if (t->rank < 0)
        return status_make(EXIT_INPUT, "%s: tensor \"%s\": shape is not a list of up to %d sizes",
                           file, name, ST_MAX_RANK);
    TRY(tensor_bytes(file, t));
    int64_t at[ST_MAX_RANK];
    if (json_dims(json_object_get(entry, "data_offsets"), at) != 2 || at[0] > at[1] || at[1] > n)
        return status_make(
            EXIT_INPUT,
            "%s: tensor \"%s\": data_offsets are not [begin, end] inside the %" PRId64
            " bytes of data",
            file, name, n);
    if (at[1] - at[0] != t->bytes)
        return status_make(EXIT_INPUT,
                           "%s: tensor \"%s\": shape and dtype need %" PRId64
                           " bytes, data_offsets give %" PRId64,
                           file, name, t->bytes, at[1] - at[0]);
    t->data = data + at[0];
    return NULL;
}

/* "4,16" up to `end`; returns the count or -1. */
static int parse_dims(const char *s, const char *end, int64_t *dim) {
    int n = 0;
    while (s < end) {
        if (n == ST_MAX_RANK || *s < '0' || *s > '9') return -1;
        char *next;
        errno = 0;
        dim[n++] = strtoll(s, &next, 10);
        if (errno || next > end) return -1;
        s = next;
        if (s < end && (*s++ != ',' || s == end)) return -1;
    }
    return n;
}

static Status read_slice(const char *file, StTensor *t, const char *text) {
    const char *mid = strchr(text, '@'), *end = text + strlen(text);
    bool ok = mid && parse_dims(text, mid, t->whole) == t->rank &&
              parse_dims(mid + 1, end, t->start) == t->rank;
    for (int i = 0; ok && i < t->rank; i++)
        ok = t->dim[i] <= t->whole[i] && t->start[i] <= t->whole[i] - t->dim[i];
    if (!ok)
        return status_make(EXIT_INPUT, "%s: tensor \"%s\" is not the slice \"%s\"", file, t->name,
                           text);
    t->slice = true;
    return NULL;
}

static Status read_meta(StFile *f, const json_t *meta) {
    if (!meta) return NULL;
    if (!json_is_object(meta))
        return status_make(EXIT_INPUT, "%s: __metadata__ is not an object", f->name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)meta, key, value) {
        if (!json_is_string(value))
            return status_make(EXIT_INPUT, "%s: __metadata__ \"%s\" is not a string", f->name, key);
        if (strncmp(key, "slice/", 6)) continue;
        StTensor *t = (StTensor *)st_find(f, key + 6);
        if (!t) return status_make(EXIT_INPUT, "%s: \"%s\" names no tensor", f->name, key);
        TRY(read_slice(f->name, t, json_string_value(value)));
    }
    return NULL;
}

static int by_data(const void *pa, const void *pb) {
    const StTensor *a = pa, *b = pb;
    if (a->data != b->data) return (const char *)a->data < (const char *)b->data ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes); /* empty ones first */
}

static int by_name(const void *pa, const void *pb) {
    return strcmp((*(StTensor *const *)pa)->name, (*(StTensor *const *)pb)->name);
}

/* The sorted tensors must follow each other from the first byte of the data to the last. */
static Status check_cover(const StFile *f, const char *data, int64_t n) {
    const char *at = data;
    for (uint32_t i = 0; i < f->n; i++) {
        const StTensor *t = &f->tensor[i];
        if ((const char *)t->data < at)
            return status_make(EXIT_INPUT, "%s: tensors \"%s\" and \"%s\" overlap", f->name,
                               f->tensor[i - 1].name, t->name);
        if ((const char *)t->data > at)
            return status_make(EXIT_INPUT,
                               "%s: the %" PRId64 " bytes before \"%s\" belong to no tensor",
                               f->name, (int64_t)((const char *)t->data - at), t->name);
        at += t->bytes;
    }
    if (at != data + n)
        return status_make(EXIT_INPUT, "%s: the last %" PRId64 " bytes belong to no tensor",
                           f->name, (int64_t)(data + n - at));
    return NULL;
}

static Status read_header(StFile *f, const char *bytes, size_t n) {
    if (n < 8) return status_make(EXIT_INPUT, "%s: not a safetensors file: too short", f->name);
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | (unsigned char)bytes[i];
    if (len > n - 8 || len > MAX_HEADER)
        return status_make(EXIT_INPUT,
                           "%s: not a safetensors file, or a truncated one: header of %" PRIu64
                           " bytes in a file of %zu",
                           f->name, len, n);
    json_error_t e;
    f->header = json_loadb(bytes + 8, (size_t)len, JSON_REJECT_DUPLICATES, &e);
    if (!f->header) return status_make(EXIT_INPUT, "%s: header: %s", f->name, e.text);
    if (!json_is_object(f->header))
        return status_make(EXIT_INPUT, "%s: header is not a JSON object", f->name);
    f->tensor = calloc(json_object_size(f->header) + 1, sizeof *f->tensor);
    f->by_name = calloc(json_object_size(f->header) + 1, sizeof *f->by_name);
    if (!f->tensor || !f->by_name) return out_of_memory(f->name);
    const char *data = bytes + 8 + len, *name;
    int64_t size = (int64_t)(n - 8 - len);
    json_t *entry;
    json_object_foreach(f->header, name, entry) {
        if (!strcmp(name, "__metadata__")) continue;
        TRY(read_tensor(f->name, name, entry, data, size, &f->tensor[f->n]));
        f->n++;
    }
    qsort(f->tensor, f->n, sizeof *f->tensor, by_data);
    for (uint32_t i = 0; i < f->n; i++) f->by_name[i] = &f->tensor[i];
    qsort(f->by_name, f->n, sizeof *f->by_name, by_name);
    TRY(check_cover(f, data, size));
    return read_meta(f, json_object_get(f->header, "__metadata__"));
}

Status st_parse(const char *name, const void *bytes, size_t n, StFile **out) {
    *out = NULL;
    StFile *f = calloc(1, sizeof *f);
    if (!f || !(f->name = strdup(name))) {
        free(f);
        return out_of_memory(name);
    }
    Status s = read_header(f, bytes, n);
    if (s)
        st_close(f);
    else
        *out = f;
    return s;
}

Status st_open(const char *path, StFile **out) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_make(EXIT_INPUT, "%s: %s", path, strerror(errno));
    struct stat st;
    void *map = MAP_FAILED;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0)
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return status_make(EXIT_INPUT, "%s: not a safetensors file: empty or not a regular file",
                           path);
    Status s = st_parse(path, map, (size_t)st.st_size, out);
    if (s) {
        munmap(map, (size_t)st.st_size);
        return s;
    }
    (*out)->map = map;
    (*out)->mapped = (size_t)st.st_size;
    return NULL;
}

void st_close(StFile *f) {
    if (!f) return;
    if (f->map) munmap(f->map, f->mapped);
    json_decref(f->header);
    free(f->tensor);
    free(f->by_name);
    free(f->name);
    free(f);
}

/* Whole pages of a private mapping that was only read: the file gives them again when asked. */
void st_release(const StFile *f, const StTensor *t) {
    if (!f->map) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)t->data;
    uintptr_t from = at / page * page, to = at + (uintptr_t)t->bytes;
    madvise((void *)from, to - from, MADV_DONTNEED);
}

uint32_t st_count(const StFile *f) { return f->n; }

const StTensor *st_tensor(const StFile *f, uint32_t i) { return &f->tensor[i]; }

const StTensor *st_find(const StFile *f, const char *name) {
    StTensor key = {.name = name};
    const StTensor *k = &key;
    StTensor **hit = f->n ? bsearch(&k, f->by_name, f->n, sizeof *f->by_name, by_name) : NULL;
    return hit ? *hit : NULL;
}

const char *st_meta(const StFile *f, const char *key) {
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

/* ---- writing ---- */

typedef struct {
    uint32_t index;
    int size; /* of an element */
    int64_t begin, bytes;
} Slot;

static int by_size(const void *pa, const void *pb) {
    const Slot *a = pa, *b = pb;
    if (a->size != b->size) return b->size - a->size;
    return (a->index > b->index) - (a->index < b->index);
}

static Slot *lay_out(const char *path, const StTensor *tensor, uint32_t n, Status *s) {
    Slot *slot = calloc(n + 1, sizeof *slot);
    if (!slot) {
        *s = out_of_memory(path);
        return NULL;
    }
    for (uint32_t i = 0; i < n && !*s; i++) {
        StTensor t = tensor[i];
        ASSERT(t.rank >= 0 && t.rank <= ST_MAX_RANK);
        *s = tensor_bytes(path, &t);
        slot[i] = (Slot){.index = i, .size = dtype_size(t.dtype), .bytes = t.bytes};
    }
    qsort(slot, n, sizeof *slot, by_size);
    for (uint32_t i = 1; i < n; i++) slot[i].begin = slot[i - 1].begin + slot[i - 1].bytes;
    return slot;
}

static json_t *json_list(const int64_t *x, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_integer(x[i]));
    return list;
}

static void put_dims(Buf *b, const int64_t *dim, int rank) {
    for (int i = 0; i < rank; i++) buf_printf(b, "%s%" PRId64, i ? "," : "", dim[i]);
}

static json_t *meta_object(const StTensor *tensor, uint32_t ntensors, const StMeta *meta,
                           uint32_t nmeta) {
    json_t *object = json_object();
    for (uint32_t i = 0; i < nmeta; i++)
        json_object_set_new(object, meta[i].key, json_string(meta[i].value));
    for (uint32_t i = 0; i < ntensors; i++) {
        const StTensor *t = &tensor[i];
        if (!t->slice) continue;
        Buf key = {0}, value = {0};
        buf_printf(&key, "slice/%s", t->name);
        put_dims(&value, t->whole, t->rank);
        buf_puts(&value, "@");
        put_dims(&value, t->start, t->rank);
        json_object_set_new(object, key.p, json_string(value.p));
        buf_free(&key);
        buf_free(&value);
    }
    return object;
}

/* The length and the header, padded with spaces so that the data starts aligned. */
static Status make_header(const char *path, const StTensor *tensor, uint32_t n, const Slot *slot,
                          const StMeta *meta, uint32_t nmeta, Buf *out) {
    json_t *header = json_object(), *m = meta_object(tensor, n, meta, nmeta);
    if (json_object_size(m))
        json_object_set_new(header, "__metadata__", m);
    else
        json_decref(m);
    for (uint32_t i = 0; i < n; i++) {
        const StTensor *t = &tensor[slot[i].index];
        int64_t at[2] = {slot[i].begin, slot[i].begin + slot[i].bytes};
        json_t *entry = json_object();
        json_object_set_new(entry, "dtype", json_string(st_dtype_name(t->dtype)));
        json_object_set_new(entry, "shape", json_list(t->dim, t->rank));
        json_object_set_new(entry, "data_offsets", json_list(at, 2));
        json_object_set_new(header, t->name, entry);
    }
    bool unique = json_object_size(header) == n + (json_object_get(header, "__metadata__") != NULL);
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (!text || !unique) {
        free(text);
        return status_make(EXIT_SYSTEM, "%s: a tensor name is used twice or is not UTF-8", path);
    }
    uint64_t len = strlen(text), pad = (HEADER_ALIGN - (8 + len) % HEADER_ALIGN) % HEADER_ALIGN;
    for (int i = 0; i < 8; i++) buf_put(out, &(char){(char)((len + pad) >> 8 * i)}, 1);
    buf_put(out, text, len);
    for (uint64_t i = 0; i < pad; i++) buf_put(out, " ", 1);
    free(text);
    return NULL;
}

/* A tensor that is read while it is written. */
static Status put_read(FileWriter *w, const StReader *r, const Slot *slot) {
    Status s = NULL;
    char *part = malloc((size_t)MAX(MIN(r->most, slot->bytes), (int64_t)1));
    if (!part) return status_make(EXIT_SYSTEM, "no memory for %lld bytes", (long long)r->most);
    for (int64_t at = 0, n; at < slot->bytes && !s; at += n) {
        n = MIN(r->most, slot->bytes - at);
        s = r->read(r->ctx, slot->index, at, part, n);
        if (!s) s = file_writer_put(w, part, (size_t)n);
    }
    free(part);
    return s;
}

static Status write_file(const char *path, const Buf *header, const StTensor *tensor,
                         const Slot *slot, uint32_t n, const StReader *reader) {
    FileWriter *w;
    TRY(file_writer_open(path, &w));
    Status s = file_writer_put(w, header->p, header->n);
    for (uint32_t i = 0; i < n && !s; i++) {
        const void *data = tensor[slot[i].index].data;
        ASSERT(data || reader || slot[i].bytes == 0);
        s = data || !reader ? file_writer_put(w, data, (size_t)slot[i].bytes)
                            : put_read(w, reader, &slot[i]);
    }
    return file_writer_close(w, s);
}

Status st_write(const char *path, const StTensor *tensor, uint32_t ntensors, const StMeta *meta,
                uint32_t nmeta) {
    return st_write_read(path, tensor, ntensors, meta, nmeta, NULL);
}

Status st_write_read(const char *path, const StTensor *tensor, uint32_t ntensors,
                     const StMeta *meta, uint32_t nmeta, const StReader *reader) {
    Status s = NULL;
    Buf header = {0};
    Slot *slot = lay_out(path, tensor, ntensors, &s);
    if (!s) s = make_header(path, tensor, ntensors, slot, meta, nmeta, &header);
    if (!s) s = write_file(path, &header, tensor, slot, ntensors, reader);
    buf_free(&header);
    free(slot);
    return s;
}

Status st_layout(const char *path, const StTensor *tensor, uint32_t ntensors, Buf *head,
                 int64_t *at, int64_t *bytes) {
    Status s = NULL;
    Slot *slot = lay_out(path, tensor, ntensors, &s);
    if (!s) s = make_header(path, tensor, ntensors, slot, NULL, 0, head);
    *bytes = (int64_t)head->n;
    for (uint32_t i = 0; i < ntensors && !s; i++) {
        at[slot[i].index] = (int64_t)head->n + slot[i].begin;
        *bytes += slot[i].bytes;
    }
    free(slot);
    return s;
}
