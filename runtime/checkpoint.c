/* checkpoint.c: see checkpoint.h. Data go to the file straight from the arena where the host can
 * see it; otherwise (a GPU, the disk) they are read in parts, once for the hash in the file's head
 * and once for its body. */
#include "runtime/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/checkpoint_folder.h"

static const char FORMAT[] = "m6c-checkpoint-1", PART[] = "m6c-part-1";

/* ---- tensors of a plan as tensors of a file ---- */

/* Of what persists, whose dimension 0 has no ranges, a slice is a box as files know it. */
static void put_slice(StTensor *t, const Slice *s) {
    ASSERT(s->rank == t->rank);
    t->slice = true;
    memcpy(t->whole, s->whole, (size_t)t->rank * sizeof *t->whole);
    memcpy(t->start, s->start, (size_t)t->rank * sizeof *t->start);
}

const char *st_list_name(const PlanBuffer *b, TensorSet set) {
    static const char prefix[] = "grad/";
    bool cut = set == SET_GRADS && strncmp(b->name, prefix, sizeof prefix - 1) == 0;
    return cut ? b->name + sizeof prefix - 1 : b->name;
}

void st_list_add(StList *list, const Plan *plan, uint32_t b, TensorSet set) {
    const PlanBuffer *buf = &plan->buffer.p[b];
    StTensor t = {.name = st_list_name(buf, set),
                  .dtype = buf->dtype,
                  .rank = buf->rank,
                  .bytes = buf->bytes,
                  .data = exec_pointer(list->exec, b)};
    memcpy(t.dim, buf->dim, sizeof t.dim);
    Slice s = slice_of(plan, buf, exec_rank(list->exec));
    if (!slice_is_all(&s)) put_slice(&t, &s);
    vec_push(&list->tensor, t);
    vec_push(&list->buffer, b);
}

void st_list_free(StList *list) {
    vec_free(&list->tensor);
    vec_free(&list->buffer);
}

static Status read_part(void *ctx, uint32_t i, int64_t at, void *to, int64_t bytes) {
    const StList *list = ctx;
    return exec_read_part(list->exec, list->buffer.p[i], at, to, bytes);
}

Status st_list_write(const char *path, StList *list, const StMeta *meta, uint32_t nmeta) {
    StReader reader = {read_part, list, EXEC_PART};
    return st_write_read(path, list->tensor.p, list->tensor.n, meta, nmeta, &reader);
}

/* ---- out of files into the plan's tensors ---- */

static void shape_text(Buf *out, Dtype dtype, int rank, const int64_t *dim) {
    buf_printf(out, "%s[", dtype_name(dtype));
    for (int i = 0; i < rank; i++) buf_printf(out, i ? ",%" PRId64 : "%" PRId64, dim[i]);
    buf_puts(out, "]");
}

static Status mismatch(const char *path, const WholeTensor *t, const PlanBuffer *b,
                       const int64_t *dim) {
    Buf file = {0}, plan = {0};
    shape_text(&file, t->dtype, t->rank, t->dim);
    shape_text(&plan, b->dtype, b->rank, dim);
    Status s = status_make(EXIT_INPUT, "%s: tensor '%s' is %s, but the plan has %s", path, t->name,
                           file.p, plan.p);
    buf_free(&file);
    buf_free(&plan);
    return s;
}

/* Part after part through memory, or straight to where the host sees the buffer. */
static Status gather_tensor(const TensorFiles *f, const WholeTensor *t, const Slice *part, Exec *e,
                            uint32_t index) {
    int64_t n = slice_elements(part), size = dtype_size(t->dtype), most = EXEC_PART / size;
    void *here = exec_pointer(e, index);
    if (here) return whole_tensor_read(f, t, part, 0, n, here);
    char *room = malloc((size_t)MAX(MIN(n * size, (int64_t)EXEC_PART), (int64_t)1));
    Status s = room ? NULL : status_make(EXIT_SYSTEM, "no memory to read '%s'", t->name);
    for (int64_t at = 0, count; at < n && !s; at += count) {
        count = MIN(most, n - at);
        s = whole_tensor_read(f, t, part, at, count, room);
        if (!s) s = exec_write_part(e, index, at * size, room, count * size);
    }
    free(room);
    return s;
}

static Status tensor_read(const char *path, const TensorFiles *f, const WholeTensor *t,
                          const Plan *plan, Exec *e, uint32_t index) {
    const PlanBuffer *b = &plan->buffer.p[index];
    int64_t dim[PLAN_MAX_RANK];
    for (int i = 0; i < b->rank; i++) dim[i] = plan_whole_dim(plan, b, i);
    bool same = t->dtype == b->dtype && t->rank == b->rank &&
                memcmp(t->dim, dim, sizeof dim[0] * (size_t)b->rank) == 0;
    if (!same) return mismatch(path, t, b, dim);
    Slice part = slice_of(plan, b, exec_rank(e));
    const void *data = whole_tensor_data(t, &part);
    return data ? exec_write(e, index, data, b->bytes) : gather_tensor(f, t, &part, e, index);
}

/* Reads every tensor of the plan, or only its parameters. */
static Status tensors_read(const char *path, const TensorFiles *f, const Plan *plan, Exec *e,
                           bool params_only) {
    for (uint32_t i = 0; i < plan->tensor.n; i++) {
        uint32_t index = plan->tensor.p[i].buffer;
        const PlanBuffer *b = &plan->buffer.p[index];
        if (params_only && b->kind != BUF_PARAM) continue;
        const WholeTensor *t = tensor_files_find(f, b->name);
        if (!t) return status_make(EXIT_INPUT, "%s: has no tensor '%s'", path, b->name);
        TRY(tensor_read(path, f, t, plan, e, index));
        whole_tensor_release(f, t); /* or the file would lie in memory beside the arena */
    }
    return NULL;
}

/* ---- checkpoints ---- */

static Status meta_i64(const char *path, const TensorFiles *f, const char *key, int64_t *out) {
    const char *text = tensor_files_meta(f, key);
    char *end = NULL;
    errno = 0;
    long long x = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || errno)
        return status_make(EXIT_INPUT, "%s: metadata '%s' is missing or not a number", path, key);
    *out = x;
    return NULL;
}

Status run_state_read(const char *path, const TensorFiles *f, RunState *state) {
    const char *format = tensor_files_meta(f, "format");
    if (!format || strcmp(format, FORMAT) != 0)
        return status_make(EXIT_INPUT, "%s: is not a checkpoint of m6c", path);
    int64_t seed = 0, stream = 0;
    TRY(meta_i64(path, f, "step", &state->step));
    TRY(meta_i64(path, f, "seed", &seed));
    TRY(meta_i64(path, f, "data_seed", &stream));
    TRY(meta_i64(path, f, "epoch", &state->position.epoch));
    TRY(meta_i64(path, f, "index", &state->position.index));
    if (state->step < 0 || state->position.epoch < 0 || state->position.index < 0)
        return status_make(EXIT_INPUT, "%s: step or data position is negative", path);
    state->seed = (uint64_t)seed;
    state->position.seed = (uint64_t)stream;
    return NULL;
}

Status checkpoint_load(const char *path, const Plan *plan, Exec *e, const Ranks *ranks,
                       bool params_only, RunState *state) {
    TensorFiles *f = NULL;
    Status s = tensor_files_open(path, &f);
    if (!s && !params_only) s = run_state_read(path, f, state);
    if (!s) s = tensors_read(path, f, plan, e, params_only);
    /* Last: other messages say more. Each rank looks at some of the files. */
    if (!s) s = tensor_files_check(f, (uint32_t)ranks->rank, (uint32_t)ranks->n);
    tensor_files_close(f);
    return ranks_agree(ranks, s);
}

Status checkpoint_newest(const char *folder, const Ranks *ranks, char **path) {
    Saved found = {.step = -1};
    *path = NULL;
    Status s = ranks->rank == 0 ? saved_newest_below(folder, INT64_MAX, &found) : NULL;
    TRY(ranks_agree(ranks, s));
    int64_t shared[2] = {found.step, found.as};
    TRY(ranks_share(ranks, shared, 2));
    if (shared[0] >= 0) *path = saved_path(folder, (Saved){shared[0], (SavedAs)shared[1]});
    return NULL;
}

static Status data_hash(StList *list, uint32_t i, char *part, uint64_t *hash) {
    const StTensor *t = &list->tensor.p[i];
    HashParts *h = hash_open();
    Status s = NULL;
    for (int64_t at = 0, n; at < t->bytes && !s; at += n) {
        n = MIN(t->bytes - at, (int64_t)EXEC_PART);
        if (!t->data) s = read_part(list, i, at, part, n);
        if (!s) hash_part(h, t->data ? (const char *)t->data + at : part, (size_t)n);
    }
    *hash = hash_close(h);
    return s;
}

static Status list_hash(StList *list, uint64_t *sum) {
    char *part = malloc(EXEC_PART); /* untouched where the host sees all */
    Status s = part ? NULL : status_make(EXIT_SYSTEM, "no memory to save a checkpoint");
    uint64_t data;
    *sum = 0;
    for (uint32_t i = 0; i < list->tensor.n && !s; i++) {
        s = data_hash(list, i, part, &data);
        if (!s) *sum += tensor_hash(list->tensor.p[i].name, data);
    }
    free(part);
    return s;
}

/* The numbers of a RunState as metadata, behind which more may follow. */
typedef struct {
    char number[5][24], files[24], hash[24];
    VEC(StMeta) meta;
} StateMeta;

static void put_meta(StateMeta *m, const char *key, const char *value) {
    vec_push(&m->meta, ((StMeta){key, value}));
}

static void put_state(StateMeta *m, const char *format, const RunState *state) {
    static const char *const key[5] = {"step", "seed", "data_seed", "epoch", "index"};
    const int64_t value[5] = {state->step, (int64_t)state->seed, (int64_t)state->position.seed,
                              state->position.epoch, state->position.index};
    put_meta(m, "format", format);
    for (int i = 0; i < 5; i++) {
        snprintf(m->number[i], sizeof m->number[i], "%" PRId64, value[i]);
        put_meta(m, key[i], m->number[i]);
    }
}

/* Its tensors and the hash of them. */
static Status save_list(const char *path, const char *format, StList *list, const RunState *state,
                        uint64_t *sum) {
    StateMeta m = {0};
    TRY(list_hash(list, sum));
    put_state(&m, format, state);
    snprintf(m.hash, sizeof m.hash, "%016" PRIx64, *sum);
    put_meta(&m, "hash", m.hash);
    Status s = st_list_write(path, list, m.meta.p, m.meta.n);
    vec_free(&m.meta);
    return s;
}

/* ---- of one rank ---- */

static Status save_file(const char *folder, const Plan *plan, Exec *e, const RunState *state,
                        int keep) {
    TRY(make_dirs(folder));
    saved_tidy(folder);
    StList list = {.exec = e};
    Saved saved = {state->step, SAVED_FILE};
    char *path = saved_path(folder, saved);
    uint64_t sum;
    for (uint32_t i = 0; i < plan->tensor.n; i++)
        st_list_add(&list, plan, plan->tensor.p[i].buffer, SET_PARAMS);
    Status s = save_list(path, FORMAT, &list, state, &sum);
    if (!s) saved_remove_old(folder, keep, saved);
    st_list_free(&list);
    free(path);
    return s;
}

/* ---- of several ---- */

/* What a rank has written: the hash of its file, and of how many slices. */
typedef struct {
    int64_t hash, slices;
} Written;

static char *part_path(const char *folder, int64_t rank, int64_t ranks) {
    Buf b = {0};
    buf_printf(&b, "%s/part-%05" PRId64 "-of-%05" PRId64 ".safetensors", folder, rank, ranks);
    return b.p;
}

static Status make_new(const char *folder, const char *path) {
    TRY(make_dirs(folder));
    saved_tidy(folder);
    return mkdir(path, 0777) == 0 ? NULL : status_errno("cannot make %s", path);
}

/* A rank that is first in nothing writes no file. */
static Status write_part(const char *folder, const Plan *plan, Exec *e, const Ranks *r,
                         const RunState *state, Written *w) {
    StList list = {.exec = e};
    for (uint32_t i = 0; i < plan->tensor.n; i++) {
        uint32_t b = plan->tensor.p[i].buffer;
        if (plan_tensor_before(plan, plan->buffer.p[b].name)) continue;
        if (slice_owner(plan, &plan->buffer.p[b], r->rank) == r->rank)
            st_list_add(&list, plan, b, SET_PARAMS);
    }
    char *path = part_path(folder, r->rank, r->n);
    uint64_t sum = 0;
    Status s = list.tensor.n ? save_list(path, PART, &list, state, &sum) : NULL;
    *w = (Written){(int64_t)sum, list.tensor.n};
    st_list_free(&list);
    free(path);
    return s;
}

static Status write_index(const char *folder, const Ranks *r, const RunState *state,
                          const Written *w) {
    StateMeta m = {0};
    Arena *a = arena_new();
    int64_t files = 0;
    put_state(&m, FORMAT, state);
    for (int i = 0; i < r->n; i++) {
        if (!w[i].slices) continue;
        char *part = part_path(folder, i, r->n);
        put_meta(&m, arena_printf(a, "file/%" PRId64, files++),
                 arena_printf(a, "%s %016" PRIx64, strrchr(part, '/') + 1, (uint64_t)w[i].hash));
        free(part);
    }
    snprintf(m.files, sizeof m.files, "%" PRId64, files);
    put_meta(&m, "files", m.files);
    Status s =
        st_write(arena_printf(a, "%s/" CHECKPOINT_INDEX, folder), NULL, 0, m.meta.p, m.meta.n);
    vec_free(&m.meta);
    arena_free(a);
    return s;
}

/* The whole one gets its name; then others may go. */
static Status finish(const char *folder, const char *path, const Ranks *r, const RunState *state,
                     const Written *w, int keep) {
    TRY(write_index(path, r, state, w));
    saved_tidy(folder);
    saved_remove_old(folder, keep, (Saved){state->step, SAVED_FOLDER});
    return NULL;
}

static Status save_folder(const char *folder, const Plan *plan, Exec *e, const Ranks *r,
                          const RunState *state, int keep) {
    char *path = saved_path(folder, (Saved){state->step, SAVED_NEW});
    Written mine, *all = xcalloc((size_t)r->n, sizeof *all);
    Status s = ranks_agree(r, r->rank == 0 ? make_new(folder, path) : NULL);
    if (!s) s = ranks_agree(r, write_part(path, plan, e, r, state, &mine));
    if (!s) s = ranks_gather(r, &mine.hash, 2, &all->hash);
    if (!s) s = ranks_agree(r, r->rank == 0 ? finish(folder, path, r, state, all, keep) : NULL);
    if (s && r->rank == 0) saved_tidy(folder); /* nobody writes any more */
    free(all);
    free(path);
    return s;
}

Status checkpoint_save(const char *folder, const Plan *plan, Exec *e, const Ranks *ranks,
                       const RunState *state, int keep) {
    keep = MAX(keep, 1);
    return plan->ranks > 1 ? save_folder(folder, plan, e, ranks, state, keep)
                           : save_file(folder, plan, e, state, keep);
}

/* ---- parameters alone ---- */

/* Names in the file that no stage's plan has: most likely the wrong file. */
static Status no_strangers(const char *path, const TensorFiles *f, const Plan *plan) {
    for (uint32_t i = 0; i < tensor_files_tensors(f); i++) {
        const char *name = tensor_files_tensor(f, i)->name;
        bool known = false;
        for (uint32_t s = 0; s < plan_count(plan); s++)
            known |= plan_has_tensor(plan_at(plan, s), name);
        if (!known)
            return status_make(EXIT_INPUT, "%s: '%s' is not a parameter of this model", path, name);
    }
    return NULL;
}

Status tensors_init(const char *path, const Plan *plan, Exec *e) {
    TensorFiles *f = NULL;
    TRY(tensor_files_open(path, &f));
    Status s = tensor_files_meta(f, "format") ? NULL : no_strangers(path, f, plan);
    if (!s) s = tensors_read(path, f, plan, e, true);
    tensor_files_close(f);
    return s;
}
