/* cc.c: compiled kernels, by content. A shared object's name in the cache is the hash of the code,
 * the flags, the compiler's version and this CPU's features, so that nothing there is ever stale.
 * Several compilers run at once; each writes a temporary file that is renamed when complete. */
#include "codegen/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Whole vectors of 512 bits are a fifth to a third faster here than gcc's preferred 256; CPUs
 * without them are not affected. */
static const char *const flags[] = {"-std=gnu17",
                                    "-O2",
                                    "-ftree-vectorize",
                                    "-fvect-cost-model",
                                    "-march=native",
#ifdef __x86_64__
                                    "-mprefer-vector-width=512",
#endif
                                    "-fopenmp-simd",
                                    "-fno-math-errno",
                                    "-fno-trapping-math",
                                    "-fno-signed-zeros",
                                    "-ffp-contract=fast",
                                    "-fPIC",
                                    "-shared",
                                    "-w"};

uint64_t cc_flags_hash(uint64_t seed) {
    for (size_t i = 0; i < COUNT(flags); i++) seed = hash_bytes(flags[i], strlen(flags[i]), seed);
    return seed;
}

static const char *compiler(const CodegenOptions *o) {
    const char *env = getenv("CC");
    return o->cc ? o->cc : env && *env ? env : "cc";
}

/* Starts argv with its output going to a new file at `log`. */
static Status start(char *const *argv, const char *log, pid_t *pid) {
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&fa, 1, 2);
    int e = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    if (e == 0) return NULL;
    return status_make(EXIT_SYSTEM, "cannot run the C compiler '%s': %s; set CC, or install gcc",
                       argv[0], strerror(e));
}

/* What the machine code depends on besides the source. */
static Status toolchain_hash(const char *cc, const char *cache, uint64_t *hash) {
    Buf log = {0};
    buf_printf(&log, "%s/version.%d", cache, (int)getpid());
    char *argv[] = {(char *)(uintptr_t)cc, "--version", NULL}, *text = NULL;
    pid_t pid;
    size_t n = 0;
    int state = 0;
    Status s = start(argv, log.p, &pid);
    if (!s) waitpid(pid, &state, 0);
    if (!s) s = file_read(log.p, &text, &n);
    uint64_t h = cc_flags_hash(hash_bytes(text, n, 1));
    free(text);
    text = NULL;
    unlink(log.p);
    buf_free(&log);
    if (s) return s;
    Status none = file_read("/proc/cpuinfo", &text, &n);
    const char *cpu = text ? strstr(text, "flags") : NULL;
    if (cpu) h = hash_bytes(cpu, strcspn(cpu, "\n"), h);
    free(none);
    free(text);
    *hash = h;
    return NULL;
}

typedef struct {
    pid_t pid;    /* 0: not running */
    Buf so;       /* in the cache */
    Buf tmp, log; /* while it runs */
    Buf c;        /* the source, in the plan's folder */
} Job;

static void job_free(Job *j) {
    buf_free(&j->so);
    buf_free(&j->tmp);
    buf_free(&j->log);
    buf_free(&j->c);
}

static Status job_start(Job *j, const char *cc) {
    char *argv[COUNT(flags) + 6];
    size_t n = 0;
    argv[n++] = (char *)(uintptr_t)cc;
    for (size_t i = 0; i < COUNT(flags); i++) argv[n++] = (char *)(uintptr_t)flags[i];
    argv[n++] = "-o";
    argv[n++] = j->tmp.p;
    argv[n++] = j->c.p;
    argv[n++] = "-lm";
    argv[n] = NULL;
    return start(argv, j->log.p, &j->pid);
}

static Status job_finish(Job *j, int state) {
    char *text = NULL;
    size_t n = 0;
    Status s = NULL;
    j->pid = 0;
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) {
        if (rename(j->tmp.p, j->so.p) != 0) s = status_errno("cannot rename %s", j->tmp.p);
    } else {
        free(file_read(j->log.p, &text, &n));
        s = status_make(EXIT_SYSTEM, "the C compiler failed on %s:\n%s", j->c.p, text ? text : "");
        free(text);
        unlink(j->tmp.p);
    }
    unlink(j->log.p);
    return s;
}

/* Waits for one of the running jobs. */
static Status wait_one(Job *job, uint32_t n) {
    int state;
    for (;;) {
        for (uint32_t i = 0; i < n; i++) {
            if (job[i].pid && waitpid(job[i].pid, &state, WNOHANG) == job[i].pid)
                return job_finish(&job[i], state);
        }
        usleep(1000);
    }
}

static uint32_t running(const Job *job, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) count += job[i].pid != 0;
    return count;
}

static Status run_jobs(Job *job, uint32_t n, const char *cc, uint32_t most) {
    Status first = NULL;
    for (uint32_t next = 0; next < n || running(job, n) > 0;) {
        Status s = NULL;
        if (next < n && !first && running(job, n) < most) {
            if (access(job[next].so.p, R_OK) != 0) s = job_start(&job[next], cc);
            next++;
        } else if (running(job, n) > 0) {
            s = wait_one(job, n);
        } else {
            break;
        }
        if (s && first)
            free(s);
        else if (s)
            first = s;
    }
    return first;
}

Status cc_compile(const CodegenOptions *o, const CodegenSource *source, uint32_t n) {
    Buf cache = {0};
    uint64_t tools = 0;
    Job *job = xcalloc(n + 1, sizeof *job);
    Status s = kernel_cache(&cache);
    if (!s && n) s = toolchain_hash(compiler(o), cache.p, &tools);
    for (uint32_t i = 0; !s && i < n; i++) {
        unsigned long long key = hash_mix(source[i].hash, tools);
        buf_printf(&job[i].so, "%s/%016llx.so", cache.p, key);
        buf_printf(&job[i].tmp, "%s/%016llx.%d.tmp", cache.p, key, (int)getpid());
        buf_printf(&job[i].log, "%s/%016llx.%d.log", cache.p, key, (int)getpid());
        buf_printf(&job[i].c, "%s/%s", o->dir, source[i].name);
    }
    if (!s) s = run_jobs(job, n, compiler(o), (uint32_t)compiler_jobs(o));
    for (uint32_t i = 0; i < n; i++) {
        if (!s) s = kernel_place(job[i].so.p, o->dir, source[i].name, "so");
        job_free(&job[i]);
    }
    free(job);
    buf_free(&cache);
    return s;
}
