/* checkpoint_files.c: see checkpoint_files.h. */
#include "runtime/checkpoint_files.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_FILES = 1 << 20 };

typedef struct {
    char *path;
    StFile *st;
} OneFile;

struct TensorFiles {
    char *path;
    StFile *index; /* NULL: one file */
    VEC(OneFile) file;
    VEC(TensorPiece) piece; /* by name */
    VEC(WholeTensor) tensor;
};

/* ---- the index and its files ---- */

static Status add_file(TensorFiles *f, const char *path) {
    OneFile one = {0};
    TRY(st_open(path, &one.st));
    one.path = strdup(path);
    vec_push(&f->file, one);
    return NULL;
}

/* What a part says about the run must be what the index says. */
static Status same_run(const TensorFiles *f, const OneFile *part, const char *hash) {
    static const char *const keys[] = {"step", "seed", "data_seed", "epoch", "index"};
    for (size_t i = 0; i < COUNT(keys); i++) {
        const char *a = st_meta(f->index, keys[i]), *b = st_meta(part->st, keys[i]);
        if (!a || !b || strcmp(a, b) != 0)
            return status_make(EXIT_INPUT, "%s: its %s is %s, but the index of %s says %s",
                               part->path, keys[i], b ? b : "missing", f->path, a ? a : "nothing");
    }
    const char *own = st_meta(part->st, "hash");
    if (own && strcmp(own, hash) == 0) return NULL;
    return status_make(EXIT_INPUT, "%s: is not the file that the index of %s names", part->path,
                       f->path);
}

static Status add_part(TensorFiles *f, uint32_t i) {
    char key[32], name[128], hash[32];
    snprintf(key, sizeof key, "file/%u", (unsigned)i);
    const char *entry = st_meta(f->index, key);
    if (!entry || sscanf(entry, "%127s %31s", name, hash) != 2 || strchr(name, '/'))
        return status_make(EXIT_INPUT, "%s: the index has no \"%s\" = NAME HASH", f->path, key);
    Buf path = {0};
    buf_printf(&path, "%s/%s", f->path, name);
    Status s = add_file(f, path.p);
    if (!s) s = same_run(f, &f->file.p[i], hash);
    buf_free(&path);
    return s;
}

static Status open_index(TensorFiles *f) {
    Buf path = {0};
    struct stat st;
    buf_printf(&path, "%s/" CHECKPOINT_INDEX, f->path);
    Status s = stat(path.p, &st) ? status_make(EXIT_INPUT,
                                               "%s: has no " CHECKPOINT_INDEX
                                               ": it is no checkpoint, or was not finished",
                                               f->path)
                                 : st_open(path.p, &f->index);
    buf_free(&path);
    if (s) return s;
    const char *text = st_meta(f->index, "files");
    int64_t n = 0;
    if (!text || !parse_i64(text, strlen(text), &n) || n < 1 || n > MAX_FILES)
        return status_make(EXIT_INPUT, "%s: the index does not say how many files there are",
                           f->path);
    for (uint32_t i = 0; i < n; i++) TRY(add_part(f, i));
    return NULL;
}

/* ---- pieces to tensors ---- */

static int by_name(const void *pa, const void *pb) {
    const TensorPiece *a = pa, *b = pb;
    int names = strcmp(a->tensor->name, b->tensor->name);
    return names ? names : (a->file > b->file) - (a->file < b->file);
}

static Slice slice_of_tensor(const StTensor *t) {
    Slice s = slice_all(t->rank, t->dim);
    for (int i = 0; t->slice && i < t->rank; i++) {
        s.whole[i] = t->whole[i];
        s.start[i] = t->start[i];
    }
    return s;
}

static Status add_piece(TensorFiles *f, const TensorPiece *p) {
    const StTensor *t = p->tensor;
    WholeTensor *last = f->tensor.n ? &f->tensor.p[f->tensor.n - 1] : NULL;
    if (!last || strcmp(last->name, t->name) != 0) {
        WholeTensor w = {t->name, t->dtype, t->rank, {0}, p, 1};
        memcpy(w.dim, p->slice.whole, (size_t)t->rank * sizeof *w.dim);
        vec_push(&f->tensor, w);
        return NULL;
    }
    last->npieces++;
    if (last->dtype == t->dtype && last->rank == t->rank &&
        memcmp(last->dim, p->slice.whole, (size_t)t->rank * sizeof *last->dim) == 0)
        return NULL;
    return status_make(EXIT_INPUT, "%s: tensor '%s' has another shape or type than in %s",
                       f->file.p[p->file].path, t->name, f->file.p[last->piece->file].path);
}

static Status collect(TensorFiles *f) {
    for (uint32_t i = 0; i < f->file.n; i++)
        for (uint32_t j = 0; j < st_count(f->file.p[i].st); j++) {
            const StTensor *t = st_tensor(f->file.p[i].st, j);
            vec_push(&f->piece, ((TensorPiece){i, t, slice_of_tensor(t)}));
        }
    if (f->piece.n) qsort(f->piece.p, f->piece.n, sizeof *f->piece.p, by_name);
    for (uint32_t i = 0; i < f->piece.n; i++) TRY(add_piece(f, &f->piece.p[i]));
    return NULL;
}

Status tensor_files_open(const char *path, TensorFiles **out) {
    struct stat st;
    TensorFiles *f = xcalloc(1, sizeof *f);
    *out = NULL;
    f->path = strdup(path);
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    Status s = folder ? open_index(f) : add_file(f, path);
    if (!s) s = collect(f);
    if (s)
        tensor_files_close(f);
    else
        *out = f;
    return s;
}

void tensor_files_close(TensorFiles *f) {
    if (!f) return;
    for (uint32_t i = 0; i < f->file.n; i++) {
        st_close(f->file.p[i].st);
        free(f->file.p[i].path);
    }
    st_close(f->index);
    vec_free(&f->file);
    vec_free(&f->piece);
    vec_free(&f->tensor);
    free(f->path);
    free(f);
}

const char *tensor_files_meta(const TensorFiles *f, const char *key) {
    return st_meta(f->index ? f->index : f->file.p[0].st, key);
}

uint32_t tensor_files_count(const TensorFiles *f) { return f->file.n; }

const StFile *tensor_files_file(const TensorFiles *f, uint32_t i) { return f->file.p[i].st; }

const char *tensor_files_path(const TensorFiles *f, uint32_t i) { return f->file.p[i].path; }

uint32_t tensor_files_tensors(const TensorFiles *f) { return f->tensor.n; }

const WholeTensor *tensor_files_tensor(const TensorFiles *f, uint32_t i) { return &f->tensor.p[i]; }

static int find_name(const void *name, const void *tensor) {
    return strcmp(name, ((const WholeTensor *)tensor)->name);
}

const WholeTensor *tensor_files_find(const TensorFiles *f, const char *name) {
    if (!f->tensor.n) return NULL;
    return bsearch(name, f->tensor.p, f->tensor.n, sizeof *f->tensor.p, find_name);
}

/* ---- elements ---- */

/* The piece that has an element of the whole tensor, looked for from *piece on. */
static bool find_piece(const WholeTensor *t, int64_t whole, uint32_t *piece, SliceRun *run) {
    for (uint32_t i = 0; i < t->npieces; i++) {
        *run = slice_find(&t->piece[*piece].slice, whole);
        if (run->part >= 0) return true;
        *piece = (*piece + 1) % t->npieces;
    }
    return false;
}

Status whole_tensor_read(const TensorFiles *f, const WholeTensor *t, const Slice *part, int64_t at,
                         int64_t count, void *to) {
    uint32_t piece = 0;
    int64_t size = dtype_size(t->dtype), n;
    for (char *out = to; count > 0; at += n, count -= n, out += n * size) {
        SliceRun want = slice_run(part, at), have;
        if (!find_piece(t, want.whole, &piece, &have))
            return status_make(EXIT_INPUT, "%s: no file has element %" PRId64 " of tensor '%s'",
                               f->path, want.whole, t->name);
        n = MIN(MIN(want.count, have.count), count);
        memcpy(out, (const char *)t->piece[piece].tensor->data + have.part * size,
               (size_t)(n * size));
    }
    return NULL;
}

const void *whole_tensor_data(const WholeTensor *t, const Slice *part) {
    uint32_t piece = 0;
    int64_t n = slice_elements(part);
    SliceRun want = {0}, have;
    if (n > 0) want = slice_run(part, 0);
    if (n == 0 || want.count < n || !find_piece(t, want.whole, &piece, &have) || have.count < n)
        return NULL;
    return (const char *)t->piece[piece].tensor->data + have.part * dtype_size(t->dtype);
}

void whole_tensor_release(const TensorFiles *f, const WholeTensor *t) {
    for (uint32_t i = 0; i < t->npieces; i++)
        st_release(f->file.p[t->piece[i].file].st, t->piece[i].tensor);
}

/* ---- damage ---- */

uint64_t tensor_hash(const char *name, uint64_t data) {
    return hash_mix(hash_bytes(name, strlen(name), 0), data);
}

static Status check_content(const OneFile *f) {
    const char *want = st_meta(f->st, "hash");
    uint64_t sum = 0;
    char text[24];
    for (uint32_t i = 0; want && i < st_count(f->st); i++) {
        const StTensor *t = st_tensor(f->st, i);
        sum += tensor_hash(t->name, hash_bytes(t->data, (size_t)t->bytes, 0));
        st_release(f->st, t);
    }
    snprintf(text, sizeof text, "%016" PRIx64, sum);
    if (!want || strcmp(want, text) == 0) return NULL;
    return status_make(EXIT_INPUT, "%s: is damaged: its tensors are not those that were written",
                       f->path);
}

Status tensor_files_check(const TensorFiles *f, uint32_t first, uint32_t step) {
    for (uint32_t i = first; i < f->file.n; i += step) TRY(check_content(&f->file.p[i]));
    return NULL;
}
