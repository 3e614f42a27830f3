/* Checks the memory that is a file: odd places and lengths against an array; a file system that is
 * full or refuses; that a killed process leaves nothing; that the pages of what passes through do
 * not stay in memory; and tensors of an Exec that lie on the host and on disk. */
#include "runtime/disk.h"
#include "runtime/checkpoint.h"
#include "tests/check.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = true };
#elif defined(__has_feature)
enum { SANITIZED = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) };
#else
enum { SANITIZED = false };
#endif

static char folder[64];
static const Ranks one = {.n = 1};

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

static int files_in(const char *path) {
    int n = -2; /* . and .. */
    DIR *d = opendir(path);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* ---- the file ---- */

static void test_places(void) {
    enum { BYTES = 21 << 20 };
    Disk *d = NULL;
    char *want = xcalloc(1, BYTES), *got = xmalloc(BYTES);
    uint64_t draws = 0;
    wanted(disk_open(folder, BYTES, &d));
    char *base = disk_base(d);
    CHECK(disk_holds(d, base) && disk_holds(d, base + BYTES - 1) && !disk_holds(d, want));
    for (int i = 0; i < 60; i++) {
        int64_t at = philox(1, draws++, NULL) % BYTES;
        int64_t most = i % 3 ? 20000 : BYTES, n = philox(1, draws++, NULL) % most;
        n = MIN(n, BYTES - at);
        if (i % 8 == 0) {
            memset(want + at, 0, (size_t)n);
            wanted(disk_write(d, base + at, NULL, n));
        } else {
            for (int64_t j = 0; j < n; j++) got[j] = want[at + j] = (char)(i * 7 + j % 251);
            wanted(disk_write(d, base + at, got, n));
        }
        at = philox(1, draws++, NULL) % BYTES;
        n = MIN(n, BYTES - at);
        memset(got, 99, (size_t)n + (n < BYTES));
        wanted(disk_read(d, got, base + at, n));
        CHECK(memcmp(got, want + at, (size_t)n) == 0 && (n == BYTES || got[n] == 99));
    }
    wanted(disk_read(d, got, base, BYTES));
    CHECK(memcmp(got, want, BYTES) == 0);
    CHECK(files_in(folder) == 0); /* it has no name */
    disk_close(d);
    free(want);
    free(got);
}

static void refused(const char *where, int64_t bytes, const char *text) {
    Disk *d = NULL;
    Status s = disk_open(where, bytes, &d);
    CHECK(s && s->code == EXIT_SYSTEM && strstr(s->text, text));
    if (s && !strstr(s->text, text)) fprintf(stderr, "%s\n", s->text);
    free(s);
}

/* A small file system of its own where that is allowed, and a limit on the size of files. */
static void test_full(void) {
    char small[80];
    refused("/nowhere", 64, "cannot make the plan's file in /nowhere: No such file");
    snprintf(small, sizeof small, "%s/small", folder);
    CHECK(mkdir(small, 0700) == 0);
    if (mount("tmpfs", small, "tmpfs", 0, "size=1m") == 0) {
        refused(small, 2 << 20, "the plan keeps 2.0 MiB (2097152 bytes) on disk, and ");
        refused(small, 2 << 20, "has 1.0 MiB free: No space left on device");
        CHECK(files_in(small) == 0);
        Disk *d = NULL;
        wanted(disk_open(small, 1 << 20, &d));
        disk_close(d);
        CHECK(umount(small) == 0);
    }
    struct rlimit was, limit = {.rlim_cur = 1 << 20};
    getrlimit(RLIMIT_FSIZE, &was);
    limit.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    refused(folder, 2 << 20, "File too large");
    CHECK(setrlimit(RLIMIT_FSIZE, &was) == 0);
    CHECK(rmdir(small) == 0 && files_in(folder) == 0);
}

static void test_killed(void) {
    int ready[2], status;
    char c;
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        Disk *d = NULL;
        wanted(disk_open(folder, 1 << 20, &d));
        char x[1000] = {1};
        wanted(disk_write(d, (char *)disk_base(d) + 100, x, sizeof x));
        if (write(ready[1], "x", 1) != 1) exit(1);
        pause();
    }
    CHECK(read(ready[0], &c, 1) == 1);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(files_in(folder) == 0);
    close(ready[0]);
    close(ready[1]);
}

/* ---- tensors of a plan ---- */

typedef struct {
    Session *session;
    Plan *plan;
} Made;

/* A tensor of so many floats on the device, the host and the disk, and a place on the device
 * through which the others pass. */
static Made make_plan(int64_t floats) {
    static const char *const names[MEM_COUNT] = {"w", "m", "v"};
    Made m = {.session = session_new()};
    m.plan = plan_new(m.session);
    m.plan->train = true;
    for (int i = 0; i <= MEM_COUNT; i++) {
        Mem mem = i < MEM_COUNT ? (Mem)i : MEM_DEVICE;
        int64_t bytes = i == MEM_DISK ? floats * 16 : floats * 4;
        vec_push(&m.plan->buffer, ((PlanBuffer){.name = i < MEM_COUNT ? names[i] : "here",
                                                .kind = i == 0          ? BUF_PARAM
                                                        : i < MEM_COUNT ? BUF_STATE
                                                                        : BUF_TEMP,
                                                .dtype = DT_F32,
                                                .rank = 1,
                                                .dim = {bytes / 4},
                                                .mem = mem,
                                                .offset = (m.plan->arena[mem] + 63) / 64 * 64,
                                                .bytes = bytes}));
        m.plan->arena[mem] = m.plan->buffer.p[i].offset + bytes;
        if (i < MEM_COUNT)
            vec_push(&m.plan->tensor, ((PlanTensor){(uint32_t)i, {INIT_NORMAL, 0, 1, 77}}));
    }
    for (int i = 0; i < 4; i++) { /* the disk's quarters come and go */
        PlanArg here = {.buffer = MEM_COUNT}, there = {MEM_DISK, i * floats * 4};
        for (int back = 0; back < 2; back++) {
            PlanStep s = {.kind = STEP_COPY,
                          .bytes = floats * 4,
                          .nargs = 2,
                          .stream = back ? STREAM_WRITE : STREAM_READ};
            s.arg = arena_array(session_arena(m.session), PlanArg, 2);
            s.wait = arena_new_of(session_arena(m.session), uint32_t);
            *s.wait = m.plan->step.n - 1;
            s.nwait = m.plan->step.n > 0;
            s.arg[back] = here; /* arg[0] is the destination */
            s.arg[!back] = there;
            vec_push(&m.plan->step, s);
        }
    }
    return m;
}

static Exec *open_exec(const Made *m, Pool *pool) {
    Exec *e = NULL;
    wanted(exec_open(
        m->plan, &(ExecOptions){.device = &device_cpu, .pool = pool, .dir = folder, .disk = folder},
        &e));
    return e;
}

static void free_plan(Made *m) {
    plan_free(m->plan);
    session_free(m->session);
}

/* Start values, checkpoints, a search for NaN: as of tensors that the host sees. */
static void test_tensors(Pool *pool) {
    enum { FLOATS = (5 << 20) + 20 }; /* parts do not end with the tensor */
    Made m = make_plan(FLOATS);
    Exec *e = open_exec(&m, pool);
    CHECK(exec_pointer(e, MEM_HOST) && !exec_pointer(e, MEM_DISK));
    CHECK(exec_beside_bytes(e) == 16 << 20);
    wanted(exec_init_params(e, 5));
    float *all = xmalloc(FLOATS * 16), *again = xmalloc(FLOATS * 16);
    wanted(exec_read(e, MEM_DISK, all, FLOATS * 16));
    CHECK(memcmp(all, exec_pointer(e, MEM_HOST), FLOATS * 4) == 0);
    bool right = true;
    for (uint64_t i = 0; i < FLOATS * 4; i += 4099)
        right = right && all[i] == (float)init_value(INIT_NORMAL, 0, 1, random_key(5, 77, 0), i);
    CHECK(right);
    char path[128], checkpoints[96];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", folder);
    wanted(checkpoint_save(checkpoints, m.plan, e, &one, &(RunState){.step = 3}, 2));
    float bad[] = {NAN};
    memcpy(again, all, FLOATS * 16);
    again[FLOATS * 4 - 2] = bad[0];
    wanted(exec_write(e, MEM_DISK, again, FLOATS * 16));
    exec_check_finite(e, true);
    Status s = exec_step(e, 4);
    char want[80];
    snprintf(want, sizeof want, "NaN in \"v\"[%d] before the step began", FLOATS * 4 - 2);
    CHECK_STR(s ? s->text : "", want);
    free(s);
    RunState state;
    snprintf(path, sizeof path, "%s/step-00000003.safetensors", checkpoints);
    wanted(checkpoint_load(path, m.plan, e, &one, false, &state)); /* and its hash is right */
    wanted(exec_step(e, 4));
    wanted(exec_read(e, MEM_DISK, again, FLOATS * 16));
    CHECK(state.step == 3 && memcmp(all, again, FLOATS * 16) == 0);
    CHECK(unlink(path) == 0 && rmdir(checkpoints) == 0);
    free(all);
    free(again);
    exec_close(e);
    free_plan(&m);
}

static int64_t resident(void) {
    int64_t kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "VmHWM: %" SCNd64, &kib);
    if (f) fclose(f);
    return kib * 1024;
}

/* The peak of a process that starts, saves and steps a plan whose disk is four times its rest:
 * what is planned to be in memory, and the same small rest for any size. */
static void test_resident(void) {
    int64_t rest[2];
    for (int i = 0; i < 2; i++) {
        int to_us[2];
        CHECK(pipe(to_us) == 0);
        pid_t child = fork();
        if (child == 0) {
            Pool *pool = pool_open(2);
            Made m = make_plan(i ? 6 << 20 : 2 << 20);
            char checkpoints[96];
            snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", folder);
            Exec *e = open_exec(&m, pool);
            wanted(exec_init_params(e, 1));
            wanted(exec_step(e, 1));
            exec_check_finite(e, true);
            wanted(exec_step(e, 2));
            wanted(checkpoint_save(checkpoints, m.plan, e, &one, &(RunState){.step = 2}, 1));
            int64_t more = resident() - exec_host_bytes(e);
            exit(write(to_us[1], &more, sizeof more) != sizeof more);
        }
        int status;
        CHECK(read(to_us[0], &rest[i], sizeof rest[i]) == sizeof rest[i]);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        close(to_us[0]);
        close(to_us[1]);
    }
    char command[128];
    snprintf(command, sizeof command, "rm -r %s/checkpoints", folder);
    CHECK(system(command) == 0);
    if (SANITIZED) return;
    CHECK(rest[0] < 64 << 20 && rest[1] < rest[0] + (2 << 20));
    printf("beside the plan: %.1f MiB with 32 MiB on disk, %.1f MiB with 96 MiB\n",
           (double)rest[0] / (1 << 20), (double)rest[1] / (1 << 20));
}

int main(void) {
    strcpy(folder, "/tmp/m6c-disk-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    test_places();
    test_full();
    test_killed();
    test_resident(); /* before the pool: it forks */
    Pool *pool = pool_open(2);
    test_tensors(pool);
    pool_close(pool);
    CHECK(rmdir(folder) == 0);
    return check_done("disk");
}
