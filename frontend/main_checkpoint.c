/* main_checkpoint.c: m6c checkpoint: ls, diff, verify. A PATH is a file of tensors, a folder of
 * parts, a folder of checkpoints or a plan's folder: of the last two, the newest checkpoint. */
#include "frontend/main.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/checkpoint.h"
#include "runtime/checkpoint_folder.h"

typedef struct {
    const char *path, *other;
    bool json;
} CheckpointArgs;

static int print_json(json_t *o) {
    bool bad = json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0;
    json_decref(o);
    return putchar('\n') == EOF || bad ? EXIT_SYSTEM : EXIT_DONE;
}

/* ---- paths ---- */

static bool is_there(const char *folder, const char *name) {
    Buf b = {0};
    struct stat st;
    buf_printf(&b, "%s/%s", folder, name);
    bool there = stat(b.p, &st) == 0;
    buf_free(&b);
    return there;
}

/* The folder of checkpoints that `path` means, or NULL: it is one, or no folder. To be freed. */
static char *folder_of(const char *path) {
    struct stat st;
    Buf b = {0};
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    if (!folder || is_there(path, CHECKPOINT_INDEX)) return NULL;
    buf_printf(&b, is_there(path, "checkpoints") ? "%s/checkpoints" : "%s", path);
    return b.p;
}

/* Opens what `path` means; *name is its path, to be freed. */
static Status open_path(const char *path, TensorFiles **out, char **name) {
    char *folder = folder_of(path);
    Saved newest = {.step = -1};
    *name = folder ? NULL : strdup(path);
    *out = NULL;
    Status s = folder ? saved_newest_below(folder, INT64_MAX, &newest) : NULL;
    if (!s && folder && newest.step < 0)
        s = status_make(EXIT_INPUT, "%s: no checkpoint is in it", folder);
    if (!s && folder) *name = saved_path(folder, newest);
    if (!s) s = tensor_files_open(*name, out);
    free(folder);
    return s;
}

/* ---- ls ---- */

static void put_shape(Buf *out, const WholeTensor *t) {
    buf_printf(out, "%s[", dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++) buf_printf(out, "%s%" PRId64, i ? "," : "", t->dim[i]);
    buf_puts(out, "]");
}

static int64_t elements(const WholeTensor *t) {
    Slice all = slice_all(t->rank, t->dim);
    return slice_elements(&all);
}

static int64_t total_bytes(const TensorFiles *f) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < tensor_files_tensors(f); i++) {
        const WholeTensor *t = tensor_files_tensor(f, i);
        sum += elements(t) * dtype_size(t->dtype);
    }
    return sum;
}

static json_t *tensor_json(const WholeTensor *t) {
    json_t *dims = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(dims, json_integer(t->dim[i]));
    return json_pack("{s:s, s:s, s:o, s:I, s:i}", "name", t->name, "dtype", dtype_name(t->dtype),
                     "shape", dims, "bytes", (json_int_t)(elements(t) * dtype_size(t->dtype)),
                     "pieces", (int)t->npieces);
}

/* Of a file that is no checkpoint, only its tensors. */
static json_t *files_json(const char *path, const TensorFiles *f) {
    RunState state;
    json_t *o = json_pack("{s:s, s:i, s:I}", "path", path, "files", (int)tensor_files_count(f),
                          "bytes", (json_int_t)total_bytes(f));
    Status none = run_state_read(path, f, &state);
    if (!none) {
        json_object_set_new(o, "step", json_integer(state.step));
        json_object_set_new(o, "seed", json_integer((json_int_t)state.seed));
        json_object_set_new(o, "epoch", json_integer(state.position.epoch));
        json_object_set_new(o, "example", json_integer(state.position.index));
    }
    free(none);
    json_t *tensors = json_array();
    for (uint32_t i = 0; i < tensor_files_tensors(f); i++)
        json_array_append_new(tensors, tensor_json(tensor_files_tensor(f, i)));
    json_object_set_new(o, "tensors", tensors);
    return o;
}

static void print_head(const char *path, const TensorFiles *f) {
    RunState state;
    Status none = run_state_read(path, f, &state);
    printf("%s", path);
    if (!none)
        printf(": after step %" PRId64 ", seed %" PRIu64 ", at example %" PRId64
               " of epoch %" PRId64,
               state.step, state.seed, state.position.index, state.position.epoch);
    free(none);
    printf(": %u tensors, %.1f MiB in %u file%s\n", (unsigned)tensor_files_tensors(f),
           (double)total_bytes(f) / (1 << 20), (unsigned)tensor_files_count(f),
           tensor_files_count(f) == 1 ? "" : "s");
}

static void print_tensors(const TensorFiles *f) {
    for (uint32_t i = 0; i < tensor_files_tensors(f); i++) {
        const WholeTensor *t = tensor_files_tensor(f, i);
        Buf shape = {0};
        put_shape(&shape, t);
        printf("  %-40s %-24s %12" PRId64 " bytes", t->name, shape.p,
               elements(t) * dtype_size(t->dtype));
        if (t->npieces > 1) printf(" in %u pieces", (unsigned)t->npieces);
        putchar('\n');
        buf_free(&shape);
    }
}

static Status list_one(const char *path, bool tensors, json_t *json) {
    TensorFiles *f = NULL;
    char *name;
    Status s = open_path(path, &f, &name);
    if (!s && json)
        json_array_append_new(json, files_json(name, f));
    else if (!s)
        print_head(name, f);
    if (!s && !json && tensors) print_tensors(f);
    tensor_files_close(f);
    free(name);
    return s;
}

/* All of a folder, oldest last; of a single one also the tensors. */
static Status list_folder(const char *folder, json_t *json) {
    Saved s = {INT64_MAX, SAVED_FILE};
    bool any = false;
    for (;; any = true) {
        TRY(saved_newest_below(folder, s.step, &s));
        if (s.step < 0) break;
        char *path = saved_path(folder, s);
        Status bad = list_one(path, false, json);
        free(path);
        if (bad) return bad;
    }
    return any ? NULL : status_make(EXIT_INPUT, "%s: no checkpoint is in it", folder);
}

static int list(const CheckpointArgs *a) {
    json_t *json = a->json ? json_array() : NULL;
    char *folder = folder_of(a->path);
    Status s = folder ? list_folder(folder, json) : list_one(a->path, true, json);
    free(folder);
    if (!s && json) return print_json(json);
    json_decref(json);
    return status_exit(s);
}

/* ---- diff ---- */

/* How two tensors differ: `text` where their elements cannot be compared. */
typedef struct {
    const char *name;
    Buf text;
    int64_t n, of; /* elements that differ */
    double absolute, relative;
} Difference;

typedef struct {
    TensorFiles *file[2];
    char *name[2];
    VEC(Difference) found;
} Diff;

static void compare_numbers(Dtype dtype, const char *a, const char *b, int64_t n, Difference *d) {
    size_t size = (size_t)dtype_size(dtype);
    for (int64_t i = 0; i < n; i++, a += size, b += size) {
        if (memcmp(a, b, size) == 0) continue;
        double x = exec_number(dtype, a), y = exec_number(dtype, b), by = fabs(x - y);
        double most = MAX(fabs(x), fabs(y));
        if (isnan(by)) by = INFINITY; /* one is no number, or both are infinite */
        d->n++;
        d->absolute = MAX(d->absolute, by);
        d->relative = MAX(d->relative, isfinite(by) ? (most > 0 ? by / most : 0) : INFINITY);
    }
}

static Status compare_elements(const Diff *f, const WholeTensor *const t[2], Difference *d) {
    enum { PART = 1 << 18 };
    Slice all = slice_all(t[0]->rank, t[0]->dim);
    int64_t size = dtype_size(t[0]->dtype);
    char *room = xmalloc((size_t)(2 * PART * size));
    Status s = NULL;
    d->of = slice_elements(&all);
    for (int64_t at = 0, n; at < d->of && !s; at += n) {
        n = MIN(d->of - at, (int64_t)PART);
        for (int i = 0; i < 2 && !s; i++)
            s = whole_tensor_read(f->file[i], t[i], &all, at, n, room + i * PART * size);
        if (!s) compare_numbers(t[0]->dtype, room, room + PART * size, n, d);
    }
    for (int i = 0; i < 2; i++) whole_tensor_release(f->file[i], t[i]);
    free(room);
    return s;
}

static bool same_shape(const WholeTensor *a, const WholeTensor *b) {
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim) == 0;
}

static Status compare_tensor(Diff *f, const WholeTensor *const t[2]) {
    Difference d = {.name = t[0] ? t[0]->name : t[1]->name};
    Status s = NULL;
    if (!t[0] || !t[1]) {
        buf_printf(&d.text, "only in %s", f->name[t[1] != NULL]);
    } else if (!same_shape(t[0], t[1])) {
        put_shape(&d.text, t[0]);
        buf_puts(&d.text, " and ");
        put_shape(&d.text, t[1]);
    } else {
        s = compare_elements(f, t, &d);
    }
    if (d.n || d.text.n) vec_push(&f->found, d);
    return s;
}

static Status compare_all(Diff *f) {
    for (int side = 0; side < 2; side++)
        for (uint32_t i = 0; i < tensor_files_tensors(f->file[side]); i++) {
            const WholeTensor *t[2];
            t[side] = tensor_files_tensor(f->file[side], i);
            t[!side] = tensor_files_find(f->file[!side], t[side]->name);
            if (side == 0 || !t[0]) TRY(compare_tensor(f, t));
        }
    return NULL;
}

static void print_difference(const Difference *d) {
    if (d->text.n)
        printf("%s: %s\n", d->name, d->text.p);
    else
        printf("%s: %" PRId64 " of %" PRId64
               " elements differ, by %.9g at most, relatively by %.3g\n",
               d->name, d->n, d->of, d->absolute, d->relative);
}

/* JSON has no infinity: null. */
static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *difference_json(const Difference *d) {
    if (d->text.n) return json_pack("{s:s, s:s}", "name", d->name, "differs", d->text.p);
    return json_pack("{s:s, s:I, s:I, s:o, s:o}", "name", d->name, "elements", (json_int_t)d->of,
                     "different", (json_int_t)d->n, "absolute", real(d->absolute), "relative",
                     real(d->relative));
}

static int report_diff(const Diff *f, bool as_json) {
    json_t *tensors = json_array();
    for (uint32_t i = 0; i < f->found.n; i++) {
        if (as_json)
            json_array_append_new(tensors, difference_json(&f->found.p[i]));
        else
            print_difference(&f->found.p[i]);
    }
    int code = f->found.n ? EXIT_INPUT : EXIT_DONE;
    if (!as_json && !f->found.n)
        printf("no difference in %u tensors\n", (unsigned)tensor_files_tensors(f->file[0]));
    if (as_json && print_json(tensors)) return EXIT_SYSTEM;
    if (!as_json) json_decref(tensors);
    return code;
}

static int diff(const CheckpointArgs *a) {
    Diff f = {0};
    Status s = open_path(a->path, &f.file[0], &f.name[0]);
    if (!s) s = open_path(a->other, &f.file[1], &f.name[1]);
    if (!s) s = compare_all(&f);
    int code = s ? status_exit(s) : report_diff(&f, a->json);
    for (uint32_t i = 0; i < f.found.n; i++) buf_free(&f.found.p[i].text);
    vec_free(&f.found);
    for (int i = 0; i < 2; i++) {
        tensor_files_close(f.file[i]);
        free(f.name[i]);
    }
    return code;
}

/* ---- verify ---- */

typedef struct {
    const CheckpointArgs *args;
    json_t *problems; /* strings */
    int checked;
} Verify;

PRINTF(2, 3) static void problem(Verify *v, const char *fmt, ...) {
    Buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    if (!v->args->json) printf("%s\n", b.p);
    json_array_append_new(v->problems, json_string(b.p));
    buf_free(&b);
}

static void take(Verify *v, Status s) {
    if (s) problem(v, "%s", s->text);
    free(s);
}

/* Every element is in one piece, and in one only. */
static void verify_cover(Verify *v, const char *path, const WholeTensor *t) {
    int64_t have = 0;
    for (uint32_t i = 0; i < t->npieces; i++) {
        have += slice_elements(&t->piece[i].slice);
        for (uint32_t j = 0; j < i; j++)
            if (slice_meets(&t->piece[i].slice, &t->piece[j].slice)) {
                problem(v, "%s: tensor '%s': two pieces have the same elements", path, t->name);
                return;
            }
    }
    if (have != elements(t))
        problem(v, "%s: tensor '%s': %" PRId64 " of its %" PRId64 " elements are missing", path,
                t->name, elements(t) - have, elements(t));
}

static void verify_plan(Verify *v, const char *path, const TensorFiles *f, const Plan *p) {
    for (uint32_t i = 0; i < p->tensor.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->tensor.p[i].buffer];
        const WholeTensor *t = tensor_files_find(f, b->name);
        WholeTensor want = {.name = b->name, .dtype = b->dtype, .rank = b->rank};
        for (int d = 0; d < b->rank; d++) want.dim[d] = plan_whole_dim(p, b, d);
        if (!t) {
            problem(v, "%s: has no tensor '%s'", path, b->name);
        } else if (!same_shape(t, &want)) {
            Buf have = {0}, shape = {0};
            put_shape(&have, t);
            put_shape(&shape, &want);
            problem(v, "%s: tensor '%s' is %s, but the plan has %s", path, b->name, have.p,
                    shape.p);
            buf_free(&have);
            buf_free(&shape);
        }
    }
}

static void verify_one(Verify *v, const char *path, const Plan *plan) {
    TensorFiles *f = NULL;
    RunState state;
    v->checked++;
    Status s = tensor_files_open(path, &f);
    if (s) {
        take(v, s);
        return;
    }
    if (tensor_files_meta(f, "format")) take(v, run_state_read(path, f, &state));
    for (uint32_t i = 0; i < tensor_files_count(f); i++)
        take(v, tensor_files_check(f, i, tensor_files_count(f)));
    for (uint32_t i = 0; i < tensor_files_tensors(f); i++)
        verify_cover(v, path, tensor_files_tensor(f, i));
    for (uint32_t i = 0; plan && i < plan_count(plan); i++)
        verify_plan(v, path, f, plan_at(plan, i));
    tensor_files_close(f);
}

/* All checkpoints of a folder; with the plan they are of, where it lies there. */
static void verify_folder(Verify *v, const char *folder, const Plan *plan) {
    Saved s = {INT64_MAX, SAVED_FILE};
    for (;;) {
        Status bad = saved_newest_below(folder, s.step, &s);
        take(v, bad);
        if (bad || s.step < 0) break;
        char *path = saved_path(folder, s);
        verify_one(v, path, plan);
        free(path);
    }
    if (!v->checked) problem(v, "%s: no checkpoint is in it", folder);
}

static int report_verify(Verify *v) {
    int wrong = (int)json_array_size(v->problems);
    if (v->args->json)
        return print_json(json_pack("{s:i, s:o}", "checked", v->checked, "problems",
                                    json_incref(v->problems)))
                   ? EXIT_SYSTEM
               : wrong ? EXIT_INPUT
                       : EXIT_DONE;
    if (!wrong) printf("%s: whole\n", v->args->path);
    return wrong ? EXIT_INPUT : EXIT_DONE;
}

static int verify(const CheckpointArgs *a) {
    Verify v = {.args = a, .problems = json_array()};
    Session *session = session_new();
    char *folder = folder_of(a->path);
    bool planned = folder && is_there(a->path, "plan.txt");
    Plan *plan = planned ? mesh_plans_load(session, a->path, "plan") : NULL;
    if (planned && !plan)
        problem(&v, "%s: its plan cannot be read", a->path);
    else if (folder)
        verify_folder(&v, folder, plan);
    else
        verify_one(&v, a->path, NULL);
    int code = report_verify(&v);
    if (plan) mesh_plans_free(plan);
    session_free(session);
    json_decref(v.problems);
    free(folder);
    return code;
}

/* ---- the command ---- */

static const struct {
    const char *name;
    uint32_t paths;
    int (*run)(const CheckpointArgs *a);
} verbs[] = {{"ls", 1, list}, {"diff", 2, diff}, {"verify", 1, verify}};

static int run_verb(CheckpointArgs *a, const TextList *words) {
    for (size_t i = 0; i < COUNT(verbs); i++) {
        if (strcmp(words->p[0], verbs[i].name) != 0) continue;
        if (words->n != verbs[i].paths + 1)
            return status_exit(status_make(EXIT_USAGE, "checkpoint %s takes %u path%s",
                                           verbs[i].name, (unsigned)verbs[i].paths,
                                           verbs[i].paths == 1 ? "" : "s"));
        a->path = words->p[1];
        a->other = words->n > 2 ? words->p[2] : NULL;
        return verbs[i].run(a);
    }
    return status_exit(
        status_make(EXIT_USAGE, "checkpoint does ls, diff or verify, not '%s'", words->p[0]));
}

int main_checkpoint(int argc, char **argv) {
    CheckpointArgs a = {0};
    const Option options[] = {
        {"json", OPT_FLAG, &a.json, NULL, "for scripts"},
    };
    const OptionTable table = {"checkpoint ls PATH | diff PATH PATH | verify PATH", options,
                               COUNT(options), 2, 3};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : run_verb(&a, &positional);
    vec_free(&positional);
    return code;
}
