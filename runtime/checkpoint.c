/* checkpoint.c: see checkpoint.h. Data go to the file straight from the arena where the host can
 * see it; otherwise (a GPU, the disk) they are read in parts, once for the hash in the file's head
 * and once for its body. */
#include "runtime/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/safetensors.h"

static const char FORMAT[] = "m6c-checkpoint-1";

/* ---- tensors of a plan as tensors of a file ---- */

/* What the host cannot see is read while the file is written. */
typedef struct {
    VEC(StTensor) tensor;
    VEC(uint32_t) buffer; /* of each */
    Exec *exec;
} StList;

static void list_add(StList *list, const Plan *plan, uint32_t b, const char *prefix) {
    const PlanBuffer *buf = &plan->buffer.p[b];
    size_t cut = strlen(prefix);
    StTensor t = {.name = strncmp(buf->name, prefix, cut) == 0 ? buf->name + cut : buf->name,
                  .dtype = buf->dtype,
                  .rank = buf->rank,
                  .bytes = buf->bytes,
                  .data = exec_pointer(list->exec, b)};
    memcpy(t.dim, buf->dim, sizeof t.dim);
    vec_push(&list->tensor, t);
    vec_push(&list->buffer, b);
}

static void list_free(StList *list) {
    vec_free(&list->tensor);
    vec_free(&list->buffer);
}

static Status read_part(void *ctx, uint32_t i, int64_t at, void *to, int64_t bytes) {
    const StList *list = ctx;
    return exec_read_part(list->exec, list->buffer.p[i], at, to, bytes);
}

static Status list_write(const char *path, StList *list, const StMeta *meta, uint32_t nmeta) {
    StReader reader = {read_part, list, EXEC_PART};
    return st_write_read(path, list->tensor.p, list->tensor.n, meta, nmeta, &reader);
}

Status tensors_write(const char *path, const Plan *plan, Exec *e, const PlanPort *port, uint32_t n,
                     const char *prefix) {
    StList list = {.exec = e};
    for (uint32_t i = 0; i < n; i++) list_add(&list, plan, port[i].buffer, prefix);
    Status s = list_write(path, &list, NULL, 0);
    list_free(&list);
    return s;
}

/* ---- out of a file into the plan's tensors ---- */

static void shape_text(Buf *out, Dtype dtype, int rank, const int64_t *dim) {
    buf_printf(out, "%s[", dtype_name(dtype));
    for (int i = 0; i < rank; i++) buf_printf(out, i ? ",%" PRId64 : "%" PRId64, dim[i]);
    buf_puts(out, "]");
}

static Status mismatch(const char *path, const StTensor *t, const PlanBuffer *b) {
    Buf file = {0}, plan = {0};
    shape_text(&file, t->dtype, t->rank, t->dim);
    shape_text(&plan, b->dtype, b->rank, b->dim);
    Status s = status_make(EXIT_INPUT, "%s: tensor '%s' is %s, but the plan has %s", path, t->name,
                           file.p, plan.p);
    buf_free(&file);
    buf_free(&plan);
    return s;
}

static Status tensor_read(const char *path, const StTensor *t, const PlanBuffer *b, Exec *e,
                          uint32_t index) {
    bool same = t->dtype == b->dtype && t->rank == b->rank && !t->slice &&
                memcmp(t->dim, b->dim, sizeof t->dim[0] * (size_t)b->rank) == 0;
    if (!same) return mismatch(path, t, b);
    return exec_write(e, index, t->data, b->bytes);
}

/* Reads every tensor of the plan, or only its parameters. */
static Status tensors_read(const char *path, const StFile *f, const Plan *plan, Exec *e,
                           bool params_only) {
    for (uint32_t i = 0; i < plan->tensor.n; i++) {
        uint32_t index = plan->tensor.p[i].buffer;
        const PlanBuffer *b = &plan->buffer.p[index];
        if (params_only && b->kind != BUF_PARAM) continue;
        const StTensor *t = st_find(f, b->name);
        if (!t) return status_make(EXIT_INPUT, "%s: has no tensor '%s'", path, b->name);
        TRY(tensor_read(path, t, b, e, index));
        st_release(f, t); /* or the file would lie in memory beside the arena */
    }
    return NULL;
}

/* ---- checkpoints ---- */

static Status meta_i64(const char *path, const StFile *f, const char *key, int64_t *out) {
    const char *text = st_meta(f, key);
    char *end = NULL;
    errno = 0;
    long long x = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || errno)
        return status_make(EXIT_INPUT, "%s: metadata '%s' is missing or not a number", path, key);
    *out = x;
    return NULL;
}

static Status state_read(const char *path, const StFile *f, RunState *state) {
    const char *format = st_meta(f, "format");
    if (!format || strcmp(format, FORMAT) != 0)
        return status_make(EXIT_INPUT, "%s: is not a checkpoint of m6c", path);
    int64_t seed, stream;
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

/* Whatever the tensors' order, a file's hash is the sum of these. */
static uint64_t tensor_hash(const char *name, uint64_t data) {
    return hash_mix(hash_bytes(name, strlen(name), 0), data);
}

static Status check_content(const char *path, const StFile *f) {
    const char *want = st_meta(f, "hash");
    uint64_t sum = 0;
    char text[24];
    for (uint32_t i = 0; want && i < st_count(f); i++) {
        const StTensor *t = st_tensor(f, i);
        sum += tensor_hash(t->name, hash_bytes(t->data, (size_t)t->bytes, 0));
        st_release(f, t);
    }
    snprintf(text, sizeof text, "%016" PRIx64, sum);
    if (!want || strcmp(want, text) == 0) return NULL;
    return status_make(EXIT_INPUT, "%s: is damaged: its tensors are not those that were written",
                       path);
}

Status checkpoint_load(const char *path, const Plan *plan, Exec *e, bool params_only,
                       RunState *state) {
    StFile *f = NULL;
    TRY(st_open(path, &f));
    Status s = params_only ? NULL : state_read(path, f, state);
    if (!s) s = tensors_read(path, f, plan, e, params_only);
    if (!s) s = check_content(path, f); /* last: other messages say more */
    st_close(f);
    return s;
}

/* The step of "step-12.safetensors", or -1 for any other name. */
static int64_t name_step(const char *name) {
    int64_t step = -1;
    int used = 0;
    if (sscanf(name, "step-%" SCNd64 ".safetensors%n", &step, &used) != 1) return -1;
    return used > 0 && name[used] == '\0' ? step : -1;
}

/* Finds the newest checkpoint whose step is below `below`; -1 when there is none. */
static int64_t newest_below(DIR *d, int64_t below) {
    int64_t best = -1;
    rewinddir(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        int64_t step = name_step(entry->d_name);
        if (step < below) best = MAX(best, step);
    }
    return best;
}

static char *step_path(const char *folder, int64_t step) {
    Buf b = {0};
    buf_printf(&b, "%s/step-%08" PRId64 ".safetensors", folder, step);
    return b.p;
}

Status checkpoint_newest(const char *folder, char **path) {
    *path = NULL;
    DIR *d = opendir(folder);
    if (!d) return errno == ENOENT ? NULL : status_errno("cannot read %s", folder);
    int64_t step = newest_below(d, INT64_MAX);
    if (step >= 0) *path = step_path(folder, step);
    closedir(d);
    return NULL;
}

/* What a process that was killed while it wrote left behind. */
static void remove_torn(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        bool torn = strncmp(entry->d_name, "step-", 5) == 0 &&
                    strstr(entry->d_name, ".safetensors.tmp") != NULL;
        if (torn) unlinkat(dirfd(d), entry->d_name, 0);
    }
    if (d) closedir(d);
}

/* All but the `keep` newest up to the step just saved; later steps are of an earlier run. */
static void remove_old(const char *folder, int keep, int64_t saved) {
    DIR *d = opendir(folder);
    int64_t step = INT64_MAX;
    while (d && (step = newest_below(d, step)) >= 0) {
        char *path = step_path(folder, step);
        if (step > saved || keep-- <= 0) unlink(path);
        free(path);
    }
    if (d) closedir(d);
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

static Status save_list(const char *path, StList *list, const RunState *state) {
    char number[5][24];
    const int64_t value[5] = {state->step, (int64_t)state->seed, (int64_t)state->position.seed,
                              state->position.epoch, state->position.index};
    for (int i = 0; i < 5; i++) snprintf(number[i], sizeof number[i], "%" PRId64, value[i]);
    char hash[24];
    uint64_t sum;
    TRY(list_hash(list, &sum));
    snprintf(hash, sizeof hash, "%016" PRIx64, sum);
    const StMeta meta[] = {
        {"format", FORMAT},   {"step", number[0]},  {"seed", number[1]}, {"data_seed", number[2]},
        {"epoch", number[3]}, {"index", number[4]}, {"hash", hash}};
    return list_write(path, list, meta, COUNT(meta));
}

Status checkpoint_save(const char *folder, const Plan *plan, Exec *e, const RunState *state,
                       int keep) {
    TRY(make_dirs(folder));
    remove_torn(folder);
    StList list = {.exec = e};
    char *path = step_path(folder, state->step);
    for (uint32_t i = 0; i < plan->tensor.n; i++)
        list_add(&list, plan, plan->tensor.p[i].buffer, "");
    Status s = save_list(path, &list, state);
    if (!s) remove_old(folder, MAX(keep, 1), state->step);
    list_free(&list);
    free(path);
    return s;
}

/* ---- parameters alone ---- */

/* Names in the file that the plan does not have: most likely the wrong file. */
static Status no_strangers(const char *path, const StFile *f, const Plan *plan) {
    for (uint32_t i = 0; i < st_count(f); i++) {
        const char *name = st_tensor(f, i)->name;
        uint32_t b = plan_find(plan, name);
        if (b == UINT32_MAX ||
            (plan->buffer.p[b].kind != BUF_PARAM && plan->buffer.p[b].kind != BUF_STATE))
            return status_make(EXIT_INPUT, "%s: '%s' is not a parameter of this model", path, name);
    }
    return NULL;
}

Status tensors_init(const char *path, const Plan *plan, Exec *e) {
    StFile *f = NULL;
    TRY(st_open(path, &f));
    Status s = st_meta(f, "format") ? NULL : no_strangers(path, f, plan);
    if (!s) s = tensors_read(path, f, plan, e, true);
    st_close(f);
    return s;
}

Status tensors_save_params(const char *path, const Plan *plan, Exec *e) {
    VEC(PlanPort) ports = {0};
    for (uint32_t i = 0; i < plan->tensor.n; i++) {
        PlanPort port = {.buffer = plan->tensor.p[i].buffer};
        if (plan->buffer.p[port.buffer].kind == BUF_PARAM) vec_push(&ports, port);
    }
    Status s = tensors_write(path, plan, e, ports.p, ports.n, "");
    vec_free(&ports);
    return s;
}
