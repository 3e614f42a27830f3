/* Checks what depends on the part of a tensor that a rank has: runs against a brute-force map,
 * start values that are those of the whole tensor on every mesh, indices in groups; checkpoints and
 * whole files that ranks (threads here) write and read on every pair of meshes; that what is
 * damaged or unfinished is noticed. */
#include "runtime/slice.h"
#include "runtime/checkpoint.h"
#include "tests/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

/* ---- meshes: own axes a, b (b fastest), groups of both ---- */

enum { GROUP_A = 1, GROUP_B, GROUP_AB }; /* as PlanBuffer.split */

static Plan *make_plan(Session *session, int64_t a, int64_t b) {
    Plan *p = plan_new(session);
    p->ranks = a * b;
    p->target = "null";
    PlanGroup ga = {"a", 1, {a}, {b}}, gb = {"b", 1, {b}, {1}}, both = {"a.b", 2, {a, b}, {b, 1}};
    vec_push(&p->group, ga);
    vec_push(&p->group, gb);
    vec_push(&p->group, both);
    return p;
}

/* A buffer of a whole tensor f32[12, 8, 16], split as told; the offset follows the one before. */
static uint32_t add_buffer(Plan *p, const char *name, BufKind kind, const uint32_t *split,
                           int64_t ranges) {
    static const int64_t whole[] = {12, 8, 16};
    PlanBuffer b = {.name = name, .kind = kind, .dtype = DT_F32, .rank = 3, .ranges = ranges};
    for (int i = 0; i < 3; i++) {
        b.split[i] = split[i];
        b.dim[i] = whole[i];
        if (split[i]) b.dim[i] /= plan_group_size(&p->group.p[split[i] - 1]);
    }
    b.bytes = plan_elements(&b) * 4;
    b.offset = p->arena[MEM_DEVICE];
    p->arena[MEM_DEVICE] += (b.bytes + 63) / 64 * 64;
    vec_push(&p->buffer, b);
    return p->buffer.n - 1;
}

/* ---- runs ---- */

/* The element of the whole tensor that is the part's element (x, y, z). */
static int64_t place(const Plan *p, const PlanBuffer *b, int64_t rank, const int64_t *x) {
    int64_t at = 0;
    for (int i = 0; i < 3; i++) {
        int64_t blocks = 1, index = 0, y = x[i];
        if (b->split[i]) {
            blocks = plan_group_size(&p->group.p[b->split[i] - 1]);
            index = plan_group_index(&p->group.p[b->split[i] - 1], rank);
        }
        int64_t ranges = i == 0 && b->ranges ? b->ranges : 1, block = b->dim[i] / ranges;
        y = x[i] / block * block * blocks + index * block + x[i] % block;
        at = at * b->dim[i] * blocks + y;
    }
    return at;
}

static void check_slice(const Plan *p, const PlanBuffer *b, int64_t rank) {
    Slice s = slice_of(p, b, rank);
    int64_t n = slice_elements(&s), all = slice_whole_elements(&s), at = 0;
    int64_t *part = xmalloc((size_t)all * sizeof *part);
    for (int64_t i = 0; i < all; i++) part[i] = -1;
    CHECK(n == plan_elements(b) && all == 12 * 8 * 16 && slice_is_all(&s) == (n == all));
    for (int64_t x[3] = {0}; x[0] < b->dim[0]; x[0]++)
        for (x[1] = 0; x[1] < b->dim[1]; x[1]++)
            for (x[2] = 0; x[2] < b->dim[2]; x[2]++) part[place(p, b, rank, x)] = at++;
    bool right = true;
    for (int64_t i = 0; i < n; i++) {
        SliceRun r = slice_run(&s, i);
        right = right && r.part == i && r.count > 0 && i + r.count <= n;
        for (int64_t j = 0; right && j < r.count; j++) right = part[r.whole + j] == i + j;
    }
    CHECK(right);
    for (int64_t i = 0; i < all; i++) {
        SliceRun r = slice_find(&s, i);
        right = right && r.whole == i && r.part == part[i] && r.count > 0 && i + r.count <= all;
        for (int64_t j = 0; right && j < r.count; j++)
            right = part[i + j] == (r.part < 0 ? -1 : r.part + j);
    }
    CHECK(right);
    free(part);
}

static const uint32_t SPLIT[][3] = {
    {0, 0, 0},
    {GROUP_A, 0, 0},
    {0, GROUP_B, 0},
    {0, 0, GROUP_AB},
    {GROUP_AB, 0, 0},
    {GROUP_B, 0, GROUP_A},
    {GROUP_A, GROUP_B, 0},
    {0, GROUP_A, GROUP_B},
    {GROUP_B, GROUP_A, 0},
};
static const int64_t MESH[][2] = {{1, 1}, {2, 1}, {1, 4}, {2, 2}, {2, 4}, {4, 2}};

static void test_runs(void) {
    Session *session = session_new();
    for (size_t m = 0; m < COUNT(MESH); m++) {
        Plan *p = make_plan(session, MESH[m][0], MESH[m][1]);
        for (size_t i = 0; i < COUNT(SPLIT); i++)
            for (int64_t ranges = 0; ranges <= 3; ranges++) {
                const uint32_t *split = SPLIT[i];
                if (split[0] && 12 % (plan_group_size(&p->group.p[split[0] - 1]) * MAX(ranges, 1)))
                    continue;
                uint32_t b = add_buffer(p, "x", BUF_PARAM, split, ranges);
                for (int64_t r = 0; r < p->ranks; r++) check_slice(p, &p->buffer.p[b], r);
            }
        plan_free(p);
    }
    session_free(session);
}

/* ---- unequal shares ---- */

/* How often each element of a whole tensor of 24 rows is in a part, of all ranks of all classes. */
static void count_rows(Plan *p, uint32_t split, int64_t ranges, int *times) {
    memset(times, 0, 24 * sizeof *times);
    for (int64_t r = 0; r < p->ranks; r++) {
        p->share = plan_number_of(p, r);
        ShareClass c = shares_class(p->shares, p->share);
        int64_t members = plan_group_size(&p->group.p[split - 1]);
        PlanBuffer b = {.dtype = DT_F32, .rank = 1, .split = {split}, .ranges = ranges};
        b.dim[0] = 24 / 6 * c.share / (members / p->shares.n);
        Slice s = slice_of(p, &b, r);
        CHECK(slice_whole_elements(&s) == 24 && slice_elements(&s) == b.dim[0]);
        for (int64_t i = 0; i < b.dim[0]; i++) times[slice_run(&s, i).whole]++;
    }
}

static void test_shares(void) {
    static const int64_t share[] = {3, 1, 1, 1}, whole_first[] = {12, 4, 4, 4};
    Session *session = session_new();
    Plan *p = make_plan(session, 4, 2);
    int times[24];
    p->group.p[0].name = "data", p->group.p[2].name = "data.b";
    p->shares = (Shares){4, share};
    CHECK(plan_programs(p) == 2 && plan_number_of(p, 1) == 0 && plan_number_of(p, 2) == 1);
    for (int64_t ranges = 0; ranges <= 2; ranges++)
        for (uint32_t split = GROUP_A; split <= GROUP_AB; split += GROUP_AB - GROUP_A) {
            count_rows(p, split, ranges, times);
            for (int i = 0; i < 24; i++) CHECK(times[i] == (split == GROUP_A ? 2 : 1));
        }
    for (int64_t i = 0; i < 4; i++) {
        ShareRange r = shares_range(p->shares, 4, 24, i);
        CHECK(r.size == whole_first[i] && shares_whole(p->shares, 4, i, r.size) == 24);
        CHECK(r.start == (i ? 8 + 4 * i : 0));
    }
    CHECK(shares_whole(p->shares, 4, 0, 4) == -1 && shares_whole(p->shares, 4, 0, INT64_MAX) == -1);
    CHECK(shares_divide(p->shares, 8, 12) && !shares_divide(p->shares, 8, 6));
    CHECK(!shares_divide(p->shares, 4, 8) && shares_divide((Shares){0}, 4, 8));
    plan_free(p);
    session_free(session);
}

/* ---- start values and indices ---- */

static void check_start(const Plan *p, Exec *e, uint32_t buffer, int rank) {
    const PlanBuffer *b = &p->buffer.p[buffer];
    Slice s = slice_of(p, b, rank);
    float *got = xmalloc((size_t)b->bytes);
    bool right = true;
    wanted(exec_read(e, buffer, got, b->bytes));
    for (int64_t i = 0; i < plan_elements(b); i++)
        right = right && got[i] == (float)init_value(INIT_NORMAL, 0, 1, random_key(5, 77, 0),
                                                     (uint64_t)slice_run(&s, i).whole);
    CHECK(right);
    free(got);
}

static Plan *make_tensors(Session *session, int64_t a, int64_t b) {
    static const uint32_t none[3];
    Plan *p = make_plan(session, a, b);
    p->target = "cpu";
    for (size_t i = 0; i < COUNT(SPLIT); i++) {
        bool fits = !SPLIT[i][0] || 12 % plan_group_size(&p->group.p[SPLIT[i][0] - 1]) == 0;
        const char *name = arena_printf(session_arena(session), "w%zu", i);
        BufKind kind = i % 2 ? BUF_STATE : BUF_PARAM;
        uint32_t buffer = add_buffer(p, name, kind, fits ? SPLIT[i] : none, 0);
        vec_push(&p->tensor, ((PlanTensor){buffer, {INIT_NORMAL, 0, 1, 77}}));
    }
    PlanBuffer index = {.name = "@index/a.b", .kind = BUF_INPUT, .dtype = DT_I32, .bytes = 4};
    index.offset = p->arena[MEM_DEVICE];
    p->arena[MEM_DEVICE] += 64;
    vec_push(&p->input, ((PlanPort){p->buffer.n, 0}));
    vec_push(&p->buffer, index);
    return p;
}

/* ---- ranks as threads ---- */

/* A communicator that can gather, which is all that is asked of it. */
typedef struct {
    Comm base;
    pthread_barrier_t *barrier;
    const void **from; /* of each rank */
    int rank, n;
} Loop;

static int loop_size(const Comm *c) { return ((const Loop *)c)->n; }
static int loop_rank(const Comm *c) { return ((const Loop *)c)->rank; }

static Status loop_gather(Comm *c, const void *in, void *out, int64_t n, Dtype dtype) {
    Loop *l = (Loop *)c;
    size_t bytes = (size_t)n * (size_t)dtype_size(dtype);
    l->from[l->rank] = in;
    pthread_barrier_wait(l->barrier);
    for (int i = 0; i < l->n; i++) memcpy((char *)out + (size_t)i * bytes, l->from[i], bytes);
    pthread_barrier_wait(l->barrier);
    return NULL;
}

static const CommOps loop = {.size = loop_size, .rank = loop_rank, .all_gather = loop_gather};

typedef struct Job {
    const Plan *plan;
    const char *path;
    int64_t step;
    Loop loop;
    Status status;
    Status (*run)(const struct Job *j, Exec *e, const Ranks *r);
} Job;

static void *run_rank(void *arg) {
    Job *j = arg;
    Exec *e = NULL;
    Ranks r = ranks_of(&j->loop.base);
    Pool *pool = pool_open(1);
    ExecOptions o = {.device = &device_cpu, .pool = pool, .dir = "/tmp", .rank = r.rank};
    wanted(exec_open(j->plan, &o, &e));
    j->status = j->run(j, e, &r);
    exec_close(e);
    pool_close(pool);
    return NULL;
}

/* All ranks of a mesh; gives the failure of the one that says why. */
static Status run_ranks(int64_t a, int64_t b, const char *path, int64_t step,
                        Status (*run)(const Job *j, Exec *e, const Ranks *r)) {
    enum { MOST = 8 };
    Session *session = session_new();
    Plan *plan = make_tensors(session, a, b);
    Job job[MOST];
    pthread_t thread[MOST];
    pthread_barrier_t barrier;
    const void *from[MOST];
    int n = (int)(a * b), told = 0, failed = 0;
    Status s = NULL;
    pthread_barrier_init(&barrier, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        Loop l = {.base = {.ops = &loop}, .barrier = &barrier, .from = from, .rank = i, .n = n};
        job[i] = (Job){plan, path, step, l, NULL, run};
        pthread_create(&thread[i], NULL, run_rank, &job[i]);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        failed += job[i].status != NULL;
        bool says = job[i].status && job[i].status->text[0];
        told += says;
        if (says)
            s = job[i].status;
        else
            free(job[i].status);
    }
    CHECK((failed == 0 && told == 0) || (failed == n && told == 1));
    pthread_barrier_destroy(&barrier);
    plan_free(plan);
    session_free(session);
    return s;
}

static void check_all(const Job *j, Exec *e, const Ranks *r) {
    for (uint32_t i = 0; i < j->plan->tensor.n; i++)
        check_start(j->plan, e, j->plan->tensor.p[i].buffer, r->rank);
}

static Status start(const Job *j, Exec *e, const Ranks *r) {
    int32_t got = -1;
    TRY(exec_init_params(e, 5));
    check_all(j, e, r);
    TRY(exec_read(e, j->plan->input.p[0].buffer, &got, sizeof got));
    CHECK(got == r->rank);
    return NULL;
}

static Status save(const Job *j, Exec *e, const Ranks *r) {
    RunState state = {j->step, 5, {6, 1, j->step + 7}};
    TRY(exec_init_params(e, 5));
    return checkpoint_save(j->path, j->plan, e, r, &state, 2);
}

static Status load(const Job *j, Exec *e, const Ranks *r) {
    RunState state = {0};
    char *path;
    TRY(checkpoint_newest(j->path, r, &path));
    if (!path) return ranks_agree(r, status_make(EXIT_INPUT, "none"));
    Status s = checkpoint_load(path, j->plan, e, r, false, &state);
    free(path);
    if (s) return s;
    CHECK(state.step == j->step && state.position.index == j->step + 7);
    check_all(j, e, r);
    return NULL;
}

static Status save_params(const Job *j, Exec *e, const Ranks *r) {
    TRY(exec_init_params(e, 5));
    return tensors_write(j->path, j->plan, e, r, SET_PARAMS);
}

/* ---- on every pair of meshes ---- */

static char folder[] = "/tmp/m6c-slice-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[4][256];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void empty(const char *what) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", what);
    CHECK(system(command) == 0);
}

static void test_pairs(void) {
    const char *checkpoints = in_folder("checkpoints");
    for (size_t m = 0; m < COUNT(MESH); m++) {
        wanted(run_ranks(MESH[m][0], MESH[m][1], NULL, 0, start));
        wanted(run_ranks(MESH[m][0], MESH[m][1], checkpoints, (int64_t)m + 3, save));
        for (size_t k = 0; k < COUNT(MESH); k++)
            wanted(run_ranks(MESH[k][0], MESH[k][1], checkpoints, (int64_t)m + 3, load));
    }
    char command[300]; /* two are kept, and nothing else lies there */
    snprintf(command, sizeof command,
             "test \"$(ls %s | tr '\\n' ' ')\" = 'step-00000007 step-00000008 '", checkpoints);
    CHECK(system(command) == 0);
    empty(checkpoints);
}

static void test_whole_files(void) {
    char *want, *got;
    size_t nwant, n;
    wanted(run_ranks(1, 1, in_folder("one.safetensors"), 0, save_params));
    wanted(file_read(in_folder("one.safetensors"), &want, &nwant));
    for (size_t m = 1; m < COUNT(MESH); m++) {
        wanted(run_ranks(MESH[m][0], MESH[m][1], in_folder("all.safetensors"), 0, save_params));
        wanted(file_read(in_folder("all.safetensors"), &got, &n));
        CHECK(n == nwant && memcmp(want, got, n) == 0);
        free(got);
    }
    Status s = run_ranks(2, 2, in_folder("nowhere/all.safetensors"), 0, save_params);
    CHECK(s && s->code == EXIT_SYSTEM && strstr(s->text, "cannot create"));
    free(s);
    free(want);
}

/* ---- what is damaged or unfinished ---- */

static void flip(const char *path, size_t from_end) {
    char *text;
    size_t n;
    wanted(file_read(path, &text, &n));
    text[n - from_end] ^= 4;
    FILE *f = fopen(path, "w");
    CHECK(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
    free(text);
}

static void refused(const char *checkpoints, const char *text) {
    Status s = run_ranks(2, 2, checkpoints, 0, load);
    if (!CHECK(s && s->code == EXIT_INPUT && strstr(s->text, text)) && s)
        fprintf(stderr, "%s\n", s->text);
    free(s);
}

static void test_damage(void) {
    char c[128], part[256], index[256];
    snprintf(c, sizeof c, "%s/damage", folder);
    snprintf(part, sizeof part, "%s/step-00000004/part-00002-of-00008.safetensors", c);
    snprintf(index, sizeof index, "%s/step-00000004/" CHECKPOINT_INDEX, c);
    wanted(run_ranks(1, 1, c, 2, save));
    wanted(run_ranks(2, 4, c, 4, save));
    flip(part, 5);
    refused(c, "part-00002-of-00008.safetensors: is damaged");
    CHECK(truncate(part, 3000) == 0);
    refused(c, "part-00002-of-00008.safetensors: ");
    unlink(part);
    refused(c, "part-00002-of-00008.safetensors: No such file");
    wanted(run_ranks(2, 4, c, 4, save)); /* in its place */
    wanted(run_ranks(4, 2, c, 4, load));
    flip(index, 40);
    refused(c, "/step-00000004");
    unlink(index); /* as if the run had been killed before: the other one counts */
    wanted(run_ranks(4, 2, c, 2, load));
    wanted(run_ranks(1, 1, c, 2, load));
    empty(c);
}

/* Whole but without its name, as a kill may leave it: it counts. */
static void test_unfinished(void) {
    char c[128], was[256], now[256];
    snprintf(c, sizeof c, "%s/unfinished", folder);
    snprintf(was, sizeof was, "%s/step-00000007", c);
    snprintf(now, sizeof now, "%s/step-00000007.tmp", c);
    wanted(run_ranks(2, 4, c, 7, save));
    CHECK(rename(was, now) == 0);
    wanted(run_ranks(2, 2, c, 7, load));
    wanted(run_ranks(1, 1, c, 9, save)); /* tidies */
    CHECK(access(now, F_OK) != 0 && access(was, F_OK) == 0);
    wanted(run_ranks(2, 2, c, 9, load));
    wanted(run_ranks(2, 1, c, 9, save)); /* of the same step: that of the other kind goes */
    wanted(run_ranks(2, 2, c, 9, load));
    snprintf(was, sizeof was, "%s/step-00000009.safetensors", c);
    CHECK(access(was, F_OK) != 0);
    wanted(run_ranks(1, 1, c, 1, save)); /* an earlier step: later ones are of an old run */
    wanted(run_ranks(2, 2, c, 1, load));
    empty(c);
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    test_runs();
    test_shares();
    test_pairs();
    test_whole_files();
    test_damage();
    test_unfinished();
    empty(folder);
    return check_done("slice");
}
