/* Checks that streams side by side give what the plan's order gives: random plans over random
 * overlapping places of all memories, whose waits are found by brute force, run at random timings;
 * what must not happen after a loss that is no number, and after a failure; and the slow link.
 * argv[1]: the folder with stream_kernels.c. */
#include "runtime/exec.h"
#include "tests/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ARENA = 24 << 10, PLACES = 12, STEPS = 60, ROUNDS = 3 };

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

static char folder[64]; /* with the compiled kernels */

static void compile_kernels(const char *source) {
    char command[8192];
    strcpy(folder, "/tmp/m6c-streams-XXXXXX");
    if (!mkdtemp(folder)) exit(1);
    setenv("M6C_CACHE", folder, 1);
    snprintf(command, sizeof command,
             "cc -O2 -fPIC -shared -o %s/stream_kernels.so %s/stream_kernels.c", folder, source);
    if (system(command) != 0) exit(1);
}

/* ---- the cpu with random delays ---- */

static _Atomic uint64_t delays; /* 0: none */

static void dawdle(void) {
    uint64_t turn = atomic_load(&delays);
    if (turn == 0) return;
    uint32_t r = philox(7, atomic_fetch_add(&delays, 1), NULL);
    if (r % 4 == 0) nanosleep(&(struct timespec){.tv_nsec = (long)(r / 4 % 200) * 1000}, NULL);
}

static Status slow_copy(Device *d, int stream, void *to, const void *from, int64_t bytes) {
    dawdle();
    return device_cpu.copy(d, stream, to, from, bytes);
}

static Status slow_fill(Device *d, int stream, void *to, int64_t bytes) {
    dawdle();
    return device_cpu.fill(d, stream, to, bytes);
}

static Status slow_launch(Device *d, const PlanStep *s, void *const *arg) {
    dawdle();
    return device_cpu.launch(d, s, arg);
}

static DeviceOps slow_cpu(void) {
    DeviceOps ops = device_cpu;
    ops.copy = slow_copy;
    ops.fill = slow_fill;
    ops.launch = slow_launch;
    return ops;
}

/* ---- plans ---- */

typedef struct {
    Session *session;
    Plan *plan;
    uint32_t key;
    uint64_t draws;
} Maker;

static uint32_t draw(Maker *m, uint32_t below) { return philox(m->key, m->draws++, NULL) % below; }

static Maker make_plan(uint32_t key) {
    Maker m = {.session = session_new(), .key = key};
    m.plan = plan_new(m.session);
    for (int i = 0; i < MEM_COUNT; i++) m.plan->arena[i] = ARENA;
    static const char *const names[] = {"mix", "take"};
    for (int i = 0; i < 2; i++)
        vec_push(&m.plan->kernel, ((PlanKernel){names[i], "stream_kernels.c", 2, 0, 0, 0}));
    return m;
}

static void free_plan(Maker *m) {
    plan_free(m->plan);
    session_free(m->session);
}

static uint32_t add_buffer(Maker *m, const char *name, BufKind kind, Mem mem, int64_t offset,
                           int64_t bytes) {
    vec_push(&m->plan->buffer, ((PlanBuffer){.name = name,
                                             .kind = kind,
                                             .dtype = DT_F32,
                                             .rank = bytes == 4 ? 0 : 1,
                                             .dim = {bytes / 4},
                                             .mem = mem,
                                             .offset = offset,
                                             .bytes = bytes}));
    return m->plan->buffer.n - 1;
}

static const PlanBuffer *buffer_of(const Plan *p, const PlanStep *s, uint32_t arg) {
    return &p->buffer.p[s->arg[arg].buffer];
}

static bool conflict(const Plan *p, const PlanStep *a, const PlanStep *b) {
    for (uint32_t i = 0; i < a->nargs; i++)
        for (uint32_t j = 0; j < b->nargs; j++) {
            const PlanBuffer *x = buffer_of(p, a, i), *y = buffer_of(p, b, j);
            if (x->mem == y->mem && x->offset < y->offset + y->bytes &&
                y->offset < x->offset + x->bytes && (plan_writes(a, i) || plan_writes(b, j)))
                return true;
        }
    return false;
}

/* A step over whole buffers; it waits for all earlier ones of other streams that touch its bytes.
 */
static PlanStep *add_step(Maker *m, StepKind kind, Stream stream, uint32_t to, uint32_t from) {
    Plan *p = m->plan;
    PlanStep s = {.kind = kind, .stream = stream, .nargs = kind == STEP_FILL ? 1 : 2, .grain = 64};
    s.arg = arena_array(session_arena(m->session), PlanArg, 2);
    s.arg[0].buffer = to;
    s.arg[1].buffer = from;
    s.bytes = p->buffer.p[to].bytes;
    s.items = s.bytes / 4;
    if (kind == STEP_KERNEL) s.writes = 1;
    s.wait = arena_array(session_arena(m->session), uint32_t, p->step.n + 1);
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].stream != s.stream && conflict(p, &p->step.p[i], &s))
            s.wait[s.nwait++] = i;
    vec_push(&p->step, s);
    return &p->step.p[p->step.n - 1];
}

/* A place in a's memory that a kernel may read while it writes `a`: apart from it, or it. */
static uint32_t source_in(Maker *m, const PlanBuffer *a, uint32_t to) {
    uint32_t from = a->mem * PLACES + draw(m, PLACES);
    const PlanBuffer *b = &m->plan->buffer.p[from];
    bool apart = b->offset + a->bytes <= a->offset || a->offset + a->bytes <= b->offset;
    return apart && b->bytes >= a->bytes ? from : to;
}

static void add_random_step(Maker *m) {
    static const Stream fills[MEM_COUNT][2] = {
        {STREAM_COMPUTE, STREAM_IN}, {STREAM_HOST, STREAM_OUT}, {STREAM_WRITE, STREAM_READ}};
    const PlanBuffer *all = m->plan->buffer.p;
    uint32_t to = draw(m, PLACES * MEM_COUNT), kind = draw(m, 8);
    /* A buffer as long as `to`: the k-th places of the memories are. */
    uint32_t from = draw(m, MEM_COUNT) * PLACES + to % PLACES;
    const PlanBuffer *a = &all[to], *b = &all[from];
    /* The disk is not filled by the thread that reads: one writes at a time. */
    if (kind == 0)
        add_step(m, STEP_FILL, fills[a->mem][a->mem == MEM_DISK ? 0 : draw(m, 2)], to, to);
    else if (a->mem != MEM_DISK && kind < 4)
        add_step(m, STEP_KERNEL, a->mem == MEM_HOST ? STREAM_HOST : STREAM_COMPUTE, to,
                 source_in(m, a, to));
    else if (a->mem != b->mem)
        add_step(m, STEP_COPY, stream_of_copy(b->mem, a->mem), to, from);
}

static Maker random_plan(uint32_t key) {
    Maker m = make_plan(key);
    int64_t bytes[PLACES];
    for (int i = 0; i < PLACES; i++) bytes[i] = 64 * (1 + (int64_t)draw(&m, 96));
    for (int mem = 0; mem < MEM_COUNT; mem++)
        for (int i = 0; i < PLACES; i++) {
            int64_t room = (ARENA - bytes[i]) / 64;
            add_buffer(&m, arena_printf(session_arena(m.session), "%d-%d", mem, i), BUF_TEMP,
                       (Mem)mem, 64 * (int64_t)draw(&m, (uint32_t)room), bytes[i]);
        }
    for (int mem = 0; mem < MEM_COUNT; mem++)
        add_buffer(&m, mem_name((Mem)mem), BUF_STATE, (Mem)mem, 0, ARENA);
    while (m.plan->step.n < STEPS) add_random_step(&m);
    return m;
}

/* ---- what the plan's order gives ---- */

typedef struct {
    uint32_t word[MEM_COUNT][ARENA / 4];
} Memory;

static void run_in_order(const Plan *p, Memory *m) {
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        const PlanBuffer *a = buffer_of(p, s, 0), *b = buffer_of(p, s, s->nargs - 1);
        uint32_t *to = m->word[a->mem] + a->offset / 4, *from = m->word[b->mem] + b->offset / 4;
        if (s->kind == STEP_FILL) memset(to, 0, (size_t)s->bytes);
        if (s->kind == STEP_COPY) memmove(to, from, (size_t)s->bytes);
        for (int64_t j = 0; s->kind == STEP_KERNEL && j < s->items; j++)
            to[j] = to[j] * 5 + from[j] + 1;
    }
}

static Exec *open_exec(const Plan *plan, const DeviceOps *ops, Pool *pool, double link) {
    Exec *e = NULL;
    wanted(exec_open(plan, &(ExecOptions){.device = ops, .pool = pool, .dir = folder, .link = link},
                     &e));
    return e;
}

static void ignore_time(void *ctx, uint32_t step, double begin, double end) {
    (void)ctx, (void)step, (void)begin, (void)end;
}

static void test_random(Pool *pool, uint32_t key, bool in_order) {
    static Memory want, got;
    Maker m = random_plan(key);
    DeviceOps ops = slow_cpu();
    Exec *e = open_exec(m.plan, &ops, pool, 0);
    atomic_store(&delays, key % 4 ? key * UINT64_C(1000) : 0);
    if (in_order) exec_set_timer(e, ignore_time, NULL);
    for (uint32_t i = 0; i < MEM_COUNT * ARENA / 4; i++)
        want.word[i / (ARENA / 4)][i % (ARENA / 4)] = philox(key, i, NULL);
    for (uint32_t i = 0; i < MEM_COUNT; i++)
        wanted(exec_write(e, PLACES * MEM_COUNT + i, want.word[i], ARENA));
    for (int round = 1; round <= ROUNDS; round++) {
        run_in_order(m.plan, &want);
        wanted(exec_step(e, round));
        for (uint32_t i = 0; i < MEM_COUNT; i++)
            wanted(exec_read(e, PLACES * MEM_COUNT + i, got.word[i], ARENA));
        if (CHECK(memcmp(&want, &got, sizeof got) == 0)) continue;
        fprintf(stderr, "plan %u, round %d\n", key, round);
        break;
    }
    exec_close(e);
    free_plan(&m);
}

/* ---- a loss that is no number ---- */

/* in: the parameter comes from the host; then the loss; then the parameter changes, on the device
 * and on the threads of all streams that write. */
static Maker guarded_plan(void) {
    Maker m = make_plan(1);
    uint32_t input = add_buffer(&m, "input", BUF_INPUT, MEM_DEVICE, 0, 4);
    uint32_t loss = add_buffer(&m, "loss", BUF_OUTPUT, MEM_DEVICE, 64, 4);
    uint32_t here = add_buffer(&m, "here", BUF_TEMP, MEM_DEVICE, 128, 4096);
    uint32_t other = add_buffer(&m, "other", BUF_TEMP, MEM_DEVICE, 8192, 4096);
    uint32_t moment = add_buffer(&m, "moment", BUF_TEMP, MEM_HOST, 8192, 4096);
    uint32_t host = add_buffer(&m, "w", BUF_PARAM, MEM_HOST, 0, 4096);
    uint32_t disk = add_buffer(&m, "v", BUF_STATE, MEM_DISK, 4160, 4096);
    uint32_t kept = add_buffer(&m, "u", BUF_STATE, MEM_HOST, 4096, 4096);
    uint32_t pad = add_buffer(&m, "pad", BUF_TEMP, MEM_DEVICE, 16384, 4);
    vec_push(&m.plan->input, ((PlanPort){input, 0}));
    vec_push(&m.plan->output, ((PlanPort){loss, 0}));
    add_step(&m, STEP_COPY, STREAM_IN, here, host);
    add_step(&m, STEP_KERNEL, STREAM_COMPUTE, other, here);
    add_step(&m, STEP_COPY, STREAM_OUT, moment, other);
    PlanStep *s = add_step(&m, STEP_KERNEL, STREAM_COMPUTE, pad, loss);
    *s = (PlanStep){.kind = STEP_KERNEL,
                    .kernel = 1,
                    .items = 1,
                    .grain = 1,
                    .nargs = 2,
                    .arg = s->arg,
                    .writes = 2};
    s->arg[0].buffer = input;
    s->arg[1].buffer = loss;
    add_step(&m, STEP_COPY, STREAM_WRITE, disk, other);
    add_step(&m, STEP_KERNEL, STREAM_HOST, kept, moment);
    add_step(&m, STEP_COPY, STREAM_OUT, host, other);
    return m;
}

static void read_tensors(Exec *e, uint32_t to[3][1024]) {
    for (uint32_t i = 0; i < 3; i++) wanted(exec_read(e, 5 + i, to[i], 4096));
}

static void test_guard(Pool *pool, uint64_t seed) {
    static uint32_t before[3][1024], after[3][1024];
    Maker m = guarded_plan();
    DeviceOps ops = slow_cpu();
    Exec *e = open_exec(m.plan, &ops, pool, 0);
    atomic_store(&delays, seed);
    for (uint32_t i = 0; i < 1024; i++) before[0][i] = i;
    for (uint32_t i = 0; i < 3; i++) wanted(exec_write(e, 5 + i, before[0], 4096));
    for (int64_t step = 1; step <= 8; step++) {
        bool stopped, bad = step % 3 == 0;
        float x = bad ? NAN : 1;
        wanted(exec_write(e, 0, &x, 4));
        read_tensors(e, before);
        wanted(exec_step_guarded(e, step, &stopped));
        read_tensors(e, after);
        CHECK(stopped == bad);
        for (int i = 0; i < 3; i++) CHECK((memcmp(before[i], after[i], 4096) == 0) == bad);
    }
    exec_close(e);
    free_plan(&m);
}

/* ---- failures ---- */

/* The descriptor of the file that is the disk: it has no name. */
static int disk_file(void) {
    char path[64], target[256];
    for (int fd = 3; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n <= 0) continue;
        target[n] = 0;
        if (strstr(target, folder) && strstr(target, "(deleted)")) return fd;
    }
    return -1;
}

static void test_read_error(Pool *pool) {
    Maker m = make_plan(1);
    uint32_t disk = add_buffer(&m, "v", BUF_STATE, MEM_DISK, 0, 4096);
    uint32_t here = add_buffer(&m, "here", BUF_TEMP, MEM_DEVICE, 0, 4096);
    uint32_t kept = add_buffer(&m, "w", BUF_STATE, MEM_DEVICE, 4096, 4096);
    add_step(&m, STEP_COPY, STREAM_READ, here, disk)->what = "fetch v";
    add_step(&m, STEP_KERNEL, STREAM_COMPUTE, kept, here);
    add_step(&m, STEP_COPY, STREAM_WRITE, disk, kept);
    Exec *e = open_exec(m.plan, &device_cpu, pool, 0);
    uint32_t w[1024] = {0};
    wanted(exec_step(e, 1));
    int fd = disk_file();
    CHECK(fd >= 0 && ftruncate(fd, 0) == 0);
    Status s = exec_step(e, 2);
    CHECK(s && s->code == EXIT_SYSTEM);
    CHECK(s && strstr(s->text, "step 0 (fetch v): cannot read 4096 bytes from the plan's file"));
    free(s);
    wanted(exec_read(e, kept, w, sizeof w));
    CHECK(w[0] == 1 && w[1023] == 1);
    exec_close(e);
    free_plan(&m);
}

static void test_refused(Pool *pool) {
    Exec *e = NULL;
    Maker m = make_plan(1);
    uint32_t disk = add_buffer(&m, "v", BUF_STATE, MEM_DISK, 0, 4096);
    uint32_t here = add_buffer(&m, "here", BUF_TEMP, MEM_DEVICE, 0, 4096);
    add_step(&m, STEP_KERNEL, STREAM_COMPUTE, here, disk);
    ExecOptions o = {.device = &device_cpu, .pool = pool, .dir = folder};
    Status s = exec_open(m.plan, &o, &e);
    CHECK_STR(s ? s->text : "", "step 0: works on the disk: only copies can");
    free(s);
    m.plan->step.n = 0;
    m.plan->arena[MEM_HOST] = INT64_C(1) << 50;
    s = exec_open(m.plan, &o, &e);
    CHECK(s && s->code == EXIT_SYSTEM);
    CHECK(s && strstr(s->text, "the plan needs 1073741824.0 MiB of this machine's memory, and "));
    free(s);
    free_plan(&m);
}

/* ---- the slow link ---- */

/* Both directions at once, 16 MiB each at 400 MB/s: 42 ms, not 84. */
static void test_link(Pool *pool) {
    enum { BYTES = 16 << 20, PARTS = 4 };
    const double link = 4e8, least = BYTES / link;
    Maker m = make_plan(1);
    m.plan->arena[MEM_DEVICE] = m.plan->arena[MEM_HOST] = 2 * BYTES;
    for (int i = 0; i < PARTS; i++) {
        int64_t at = i * (BYTES / PARTS), n = BYTES / PARTS;
        uint32_t a = add_buffer(&m, "a", BUF_TEMP, MEM_DEVICE, at, n);
        uint32_t b = add_buffer(&m, "b", BUF_TEMP, MEM_HOST, at, n);
        uint32_t c = add_buffer(&m, "c", BUF_TEMP, MEM_DEVICE, BYTES + at, n);
        uint32_t d = add_buffer(&m, "d", BUF_TEMP, MEM_HOST, BYTES + at, n);
        add_step(&m, STEP_COPY, STREAM_IN, a, b);
        add_step(&m, STEP_COPY, STREAM_OUT, d, c);
    }
    Exec *e = open_exec(m.plan, &device_cpu, pool, link);
    wanted(exec_step(e, 1));
    double best = 1;
    for (int i = 0; i < 5; i++) {
        double begin = now_seconds();
        wanted(exec_step(e, 2));
        double took = now_seconds() - begin;
        CHECK(took > least * 0.99);
        best = MIN(best, took);
    }
    CHECK(best < least * 1.5); /* of a machine that does other things too */
    exec_close(e);
    free_plan(&m);
}

int main(int argc, char **argv) {
    compile_kernels(argc > 1 ? argv[1] : "tests/runtime");
    Pool *pool = pool_open(2);
    uint32_t plans = argc > 2 ? (uint32_t)atoi(argv[2]) : 60;
    for (uint32_t key = 1; key <= plans; key++) test_random(pool, key, false);
    for (uint32_t key = 1; key <= plans; key += 10) test_random(pool, key, true);
    for (uint64_t seed = 0; seed < 10; seed++) test_guard(pool, seed * 1000);
    atomic_store(&delays, 0);
    test_read_error(pool);
    test_refused(pool);
    test_link(pool);
    pool_close(pool);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
    return check_done("streams");
}
