/* Checks the runtime end to end without the compiler: a small plan with its own kernels trains on
 * the cpu device; the null device prints what it is asked; NaN is traced to its step.
 * argv[1]: the folder with exec_plan.txt, exec_kernels.c, exec_null.txt. */
#include "runtime/exec.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    Session *session;
    Plan *plan;
    char *text;
    char dir[64]; /* with the compiled kernels */
} Fixture;

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

static char *read_text(const char *folder, const char *name, size_t *n) {
    char path[4096], *text;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    wanted(file_read(path, &text, n));
    return text;
}

static void setup(Fixture *f, const char *folder) {
    char command[8192];
    size_t n;
    strcpy(f->dir, "/tmp/m6c-exec-XXXXXX");
    if (!mkdtemp(f->dir)) exit(1);
    setenv("M6C_CACHE", f->dir, 1);
    snprintf(command, sizeof command,
             "cc -O2 -fPIC -shared -o %s/exec_kernels.so %s/exec_kernels.c", f->dir, folder);
    if (system(command) != 0) exit(1);
    f->session = session_new();
    f->text = read_text(folder, "exec_plan.txt", &n);
    f->plan = plan_parse(f->session, "exec_plan.txt", f->text, n);
    if (!f->plan) exit(1);
}

static void teardown(Fixture *f) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->dir);
    CHECK(system(command) == 0);
    plan_free(f->plan);
    session_free(f->session);
    free(f->text);
}

static Exec *open_exec(const Fixture *f, const DeviceOps *device, Pool *pool, FILE *log) {
    Exec *e = NULL;
    ExecOptions o = {.device = device, .pool = pool, .dir = f->dir, .log = log};
    wanted(exec_open(f->plan, &o, &e));
    return e;
}

static void write_inputs(Exec *e) {
    float x[32], t[24];
    for (int i = 0; i < 32; i++) x[i] = (float)(i % 5) * 0.25f - 0.5f;
    for (int i = 0; i < 24; i++) t[i] = (float)(i % 7) * 0.1f;
    wanted(exec_write(e, 2, x, sizeof x));
    wanted(exec_write(e, 3, t, sizeof t));
}

/* The same training in plain C, in double. */
static void expected(double *loss, int steps, uint64_t seed, double *w_out) {
    double w[12], x[32], y[24];
    for (int i = 0; i < 12; i++)
        w[i] = init_value(INIT_NORMAL, 0, 0.5, random_key(seed, 0xaa, 0), (uint64_t)i);
    for (int i = 0; i < 32; i++) x[i] = (i % 5) * 0.25 - 0.5;
    for (int s = 1; s <= steps; s++) {
        loss[s - 1] = 0;
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 3; j++) {
                double sum = -(double)((float)((i * 3 + j) % 7) * 0.1f);
                for (int k = 0; k < 4; k++) sum += x[i * 4 + k] * w[k * 3 + j];
                y[i * 3 + j] = sum;
                loss[s - 1] += sum * sum / 16;
            }
        for (int k = 0; k < 4; k++)
            for (int j = 0; j < 3; j++)
                for (int i = 0; i < 8; i++)
                    w[k * 3 + j] -= 0.25 / (1 << s / 2) * 0.125 * x[i * 4 + k] * y[i * 3 + j];
    }
    memcpy(w_out, w, sizeof w);
}

/* A step the way the training loop runs it: on these devices it is done at once. */
static void submit_step(Exec *e, int64_t step) {
    const void *input[4] = {NULL};
    bool stopped = true;
    CHECK(exec_ahead(e) == 1);
    wanted(exec_submit(e, step, input));
    wanted(exec_collect(e, &stopped));
    CHECK(!stopped);
}

static void test_training(const Fixture *f, int threads) {
    enum { STEPS = 6 };
    double want[STEPS], want_w[12], got;
    float w[12], copy[12];
    bool found;
    Pool *pool = pool_open(threads);
    Exec *e = open_exec(f, &device_cpu, pool, NULL);
    CHECK(exec_arena_bytes(e, MEM_DEVICE) == 1088 && exec_arena_bytes(e, MEM_HOST) == 64);
    expected(want, STEPS, 42, want_w);
    wanted(exec_init_params(e, 42));
    write_inputs(e);
    for (int s = 1; s <= STEPS; s++) {
        if (s % 2)
            wanted(exec_step(e, s));
        else
            submit_step(e, s);
        wanted(exec_read_scalar(e, "loss", &got, &found));
        CHECK(found && fabs(got - want[s - 1]) < 1e-6);
    }
    CHECK(want[STEPS - 1] < want[0]);
    wanted(exec_read(e, 0, w, sizeof w));
    for (int i = 0; i < 12; i++) CHECK(fabs((double)w[i] - want_w[i]) < 1e-6);
    for (uint32_t b = 10; b <= 12; b += 2) { /* on the host, on disk */
        wanted(exec_read(e, b, copy, sizeof copy));
        CHECK(memcmp(copy, w, sizeof w) == 0);
    }
    int32_t seen[2];
    wanted(exec_read(e, 4, &seen[0], 4));
    wanted(exec_read(e, 5, &seen[1], 4));
    CHECK(seen[0] == STEPS && seen[1] == 42);
    wanted(exec_read_scalar(e, "grad_norm", &got, &found));
    CHECK(!found);
    CHECK(exec_pointer(e, 0) != NULL && memcmp(exec_pointer(e, 0), w, sizeof w) == 0);
    Status s = exec_write(e, 0, w, 8);
    CHECK(s && strstr(s->text, "\"w\" has 48 bytes, not 8"));
    free(s);
    exec_close(e);
    pool_close(pool);
}

typedef struct {
    int calls;
    double last;
    bool ordered;
} Times;

static void note_time(void *ctx, uint32_t step, double begin, double end) {
    Times *t = ctx;
    t->ordered = t->ordered && step == (uint32_t)t->calls % 8 && t->last <= begin && begin <= end;
    t->last = end;
    t->calls++;
}

static void test_timer(const Fixture *f, Pool *pool) {
    Times t = {.ordered = true};
    Exec *e = open_exec(f, &device_cpu, pool, NULL);
    exec_set_timer(e, note_time, &t);
    wanted(exec_step(e, 1));
    wanted(exec_step(e, 2));
    CHECK(t.calls == 16 && t.ordered);
    exec_set_timer(e, NULL, NULL);
    wanted(exec_step(e, 3));
    CHECK(t.calls == 16);
    exec_close(e);
}

static void expect_status(Status s, const char *text) {
    CHECK_STR(s ? s->text : "no status", text);
    free(s);
}

static void test_finite(const Fixture *f, Pool *pool) {
    Exec *e = open_exec(f, &device_cpu, pool, NULL);
    float w[12] = {0};
    wanted(exec_init_params(e, 1));
    write_inputs(e);
    exec_check_finite(e, true);
    wanted(exec_step(e, 1));
    w[5] = NAN;
    wanted(exec_write(e, 0, w, sizeof w));
    expect_status(exec_step(e, 2), "regression.m6:2:5: NaN in \"w\"[1,2] before the step began");
    for (int i = 0; i < 12; i++) w[i] = i % 3 == 1 ? 3e38f : 0;
    wanted(exec_write(e, 0, w, sizeof w));
    exec_check_finite(e, false);
    wanted(exec_step(e, 2));
    wanted(exec_write(e, 0, w, sizeof w));
    exec_check_finite(e, true);
    expect_status(exec_step(e, 3),
                  "regression.m6:5:5: infinity in \"loss\", made by step 2 (reduce)"
                  " in net");
    uint16_t rate[12];
    for (int i = 0; i < 12; i++) rate[i] = f32_to_bf16(i == 7 ? INFINITY : 1);
    wanted(exec_write(e, 1, rate, sizeof rate));
    for (int i = 0; i < 12; i++) w[i] = 1;
    wanted(exec_write(e, 0, w, sizeof w));
    expect_status(exec_step(e, 3),
                  "regression.m6:2:5: infinity in \"velocity/w\"[2,1] before the step began");
    exec_close(e);
}

/* What the null device wrote is what the file says. */
static void check_log(const char *folder, const char *name, const char *text, size_t n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (getenv("M6C_BLESS")) wanted(file_write_atomic(path, text, n));
    char *golden = read_text(folder, name, &n);
    CHECK_STR(text, golden);
    free(golden);
}

/* One rank of several, by itself: collectives are printed. */
static void test_null_ranks(const char *folder) {
    char *text = NULL, *log_text = NULL;
    size_t n, log_n = 0;
    Session *s = session_new();
    text = read_text(folder, "plan_ranks.txt", &n);
    Plan *p = plan_parse(s, "plan_ranks.txt", text, n);
    if (!CHECK(p != NULL)) exit(1);
    FILE *log = open_memstream(&log_text, &log_n);
    Exec *e = NULL;
    ExecOptions o = {.device = &device_null, .log = log, .dir = folder};
    wanted(exec_open(p, &o, &e));
    wanted(exec_step(e, 1));
    exec_close(e);
    fclose(log);
    check_log(folder, "plan_ranks_null.txt", log_text, log_n);
    free(log_text);
    plan_free(p);
    session_free(s);
    free(text);
}

static void test_null(const Fixture *f, const char *folder) {
    char *text = NULL;
    size_t n = 0;
    FILE *log = open_memstream(&text, &n);
    Exec *e = open_exec(f, &device_null, NULL, log);
    wanted(exec_init_params(e, 1));
    write_inputs(e);
    wanted(exec_step(e, 1));
    double loss = 1;
    bool found;
    wanted(exec_read_scalar(e, "loss", &loss, &found));
    CHECK(found && loss == 0 && exec_pointer(e, 0) == NULL);
    exec_close(e);
    fclose(log);
    check_log(folder, "exec_null.txt", text, n);
    free(text);
}

static void test_missing(Fixture *f, Pool *pool) {
    Exec *e = NULL;
    ExecOptions o = {.device = &device_cpu, .pool = pool, .dir = "/nowhere", .disk = f->dir};
    Status s = exec_open(f->plan, &o, &e);
    CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "/nowhere/exec_kernels.so"));
    free(s);
    o.dir = f->dir;
    f->plan->kernel.p[1].name = "vanished";
    s = exec_open(f->plan, &o, &e);
    CHECK(s && strstr(s->text, "exec_kernels.c has no kernel vanished"));
    free(s);
    f->plan->kernel.p[1].name = "half_squares";
    CHECK(device_find("cpu") == &device_cpu && device_find("gpu") == NULL);
    CHECK(device_find("sm_80") == &device_cuda && device_find("cuda") == &device_cuda);
    CHECK(device_find("sm_") == NULL);
}

static void test_comm(void) {
    const CommOps *ops = comm_find("self");
    Comm *c = comm_self_open();
    if (!CHECK(ops && ops == c->ops && comm_find("mpi2") == NULL)) return;
    float a[4] = {1, 2, 3, 4}, b[4] = {0};
    int64_t n = 2, from = 2, to = 1;
    CHECK(ops->size(c) == 1 && ops->rank(c) == 0);
    wanted(ops->all_reduce(c, a, b, 4, DT_F32, REDUCE_MAX));
    CHECK(memcmp(a, b, sizeof a) == 0);
    memset(b, 0, sizeof b);
    wanted(ops->all_to_all_v(c, a, &n, &from, b, &n, &to, DT_F32));
    CHECK(b[0] == 0 && b[1] == 3 && b[2] == 4 && b[3] == 0);
    wanted(ops->send(c, a, 1, DT_F32, 0));
    wanted(ops->send(c, a + 1, 2, DT_F32, 0));
    wanted(ops->recv(c, b, 1, DT_F32, 0));
    wanted(ops->recv(c, b + 1, 2, DT_F32, 0));
    CHECK(b[0] == 1 && b[1] == 2 && b[2] == 3);
    expect_status(ops->recv(c, b, 1, DT_F32, 0), "receive: nothing was sent");
    wanted(ops->send(c, a, 1, DT_F32, 0));
    ops->close(c);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "tests/runtime";
    Fixture f;
    setup(&f, folder);
    test_training(&f, 1);
    test_training(&f, 2);
    Pool *pool = pool_open(2);
    test_timer(&f, pool);
    test_finite(&f, pool);
    test_missing(&f, pool);
    pool_close(pool);
    test_null(&f, folder);
    test_null_ranks(folder);
    test_comm();
    teardown(&f);
    return check_done("exec");
}
