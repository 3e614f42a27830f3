/* emulator.c: modules of the emulator: a .cu file compiled by the host's compiler behind emulate.h,
 * kept by content in cache_dir()/emulated. M6C_EMULATE_H, the header's path, is the build's.
 *
 * Kernels are compiled with checks that trap (alignment, indices of arrays with a known size); with
 * AddressSanitizer in this file, by the same compiler with the same sanitizers. */
#include "tests/gpu/emulator_private.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *const flags[] = {
    "-std=gnu17",
    "-O2",
    "-g1",
    "-fPIC",
    "-c",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fstack-clash-protection", /* large frames touch the guard below a stack, not what is beyond */
#ifdef EMU_ASAN
    "-fsanitize=address,undefined",
#else
    "-fsanitize=alignment,bounds",
#endif
    "-fsanitize-undefined-trap-on-error",
    "-w",
    "-Werror=implicit-function-declaration",
    "-DM6C_EMULATED",
    "-include",
    M6C_EMULATE_H,
};

static const char *compiler(void) {
#if defined(EMU_ASAN) && defined(__clang__)
    return "clang";
#elif defined(EMU_ASAN)
    return "gcc";
#else
    const char *env = getenv("CC");
    return env && *env ? env : "cc";
#endif
}

bool emu_sanitized(void) {
#ifdef EMU_ASAN
    return true;
#else
    return false;
#endif
}

/* Behind -fsanitize=thread's hooks is emulate.h, not libtsan: it is for compiling, not linking. */
static const char *const race_flags[] = {"-fsanitize=thread", "-DM6C_EMULATED_RACES"};

static Races want_races(void) {
    const char *env = getenv("M6C_EMULATED_RACES");
    if (emu_sanitized() || !env) return RACES_NONE;
    return strcmp(env, "all") == 0      ? RACES_ALL
           : strcmp(env, "shared") == 0 ? RACES_SHARED
                                        : RACES_NONE;
}

/* ---- compiling ---- */

typedef VEC(char *) Words;

static void add(Words *w, const char *const *text, size_t n) {
    for (size_t i = 0; i < n; i++) vec_push(w, (char *)(uintptr_t)text[i]);
}

static void compile_words(Words *w, Races races) {
    const char *cc = compiler();
    add(w, &cc, 1);
    add(w, flags, COUNT(flags));
    if (races) add(w, race_flags, COUNT(race_flags));
}

static Status hash_file(const char *path, uint64_t *hash) {
    char *text;
    size_t n;
    TRY(file_read(path, &text, &n));
    *hash = hash_bytes(text, n, *hash);
    free(text);
    return NULL;
}

static Status module_key(const char *cu, const Words *w, uint64_t *hash) {
    Buf api = {0};
    buf_puts(&api, M6C_EMULATE_H);
    api.n -= strlen(".h");
    buf_puts(&api, "_api.h");
    *hash = 0;
    for (size_t i = 0; i < w->n; i++) *hash = hash_bytes(w->p[i], strlen(w->p[i]), *hash);
    Status s = hash_file(M6C_EMULATE_H, hash);
    if (!s) s = hash_file(api.p, hash);
    if (!s) s = hash_file(cu, hash);
    buf_free(&api);
    return s;
}

/* Runs the words with their output going to a new file at `log`; fails with its text. */
static Status run(Words *w, const char *log, const char *cu) {
    posix_spawn_file_actions_t fa;
    char *text = NULL;
    size_t n = 0;
    pid_t pid;
    int state = 0;
    vec_push(w, NULL);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&fa, 1, 2);
    int e = posix_spawnp(&pid, w->p[0], &fa, NULL, w->p, environ);
    posix_spawn_file_actions_destroy(&fa);
    if (e) return status_make(EXIT_SYSTEM, "cannot run '%s': %s", w->p[0], strerror(e));
    while (waitpid(pid, &state, 0) < 0) {
    }
    if (state == 0) return NULL;
    free(file_read(log, &text, &n));
    Status s = status_make(EXIT_SYSTEM, "the C compiler failed on %s:\n%s", cu, text ? text : "");
    free(text);
    return s;
}

static Status link_object(const char *object, const char *so, const char *log, const char *cu) {
    const char *const text[] = {compiler(), "-shared", object, "-o", so, "-lm"};
    Words w = {0};
    add(&w, text, COUNT(text));
    Status s = run(&w, log, cu);
    vec_free(&w);
    return s;
}

static Status compile(const char *cu, Words *w, const char *so) {
    Buf object = {0}, tmp = {0}, log = {0};
    buf_printf(&object, "%s.%d.o", so, (int)getpid());
    buf_printf(&tmp, "%s.%d.tmp", so, (int)getpid());
    buf_printf(&log, "%s.%d.log", so, (int)getpid());
    const char *const text[] = {"-x", "c", cu, "-o", object.p};
    add(w, text, COUNT(text));
    Status s = run(w, log.p, cu);
    if (!s) s = link_object(object.p, tmp.p, log.p, cu);
    if (!s && rename(tmp.p, so) != 0) s = status_errno("cannot rename %s", tmp.p);
    unlink(object.p);
    unlink(log.p);
    buf_free(&object);
    buf_free(&tmp);
    buf_free(&log);
    return s;
}

/* One process compiles, others that want the same wait for it. */
static Status compile_once(const char *cu, Words *w, const char *so) {
    Buf lock = {0};
    buf_printf(&lock, "%s.lock", so);
    int fd = open(lock.p, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    buf_free(&lock);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) return status_errno("cannot lock %s", so);
    Status s = access(so, R_OK) == 0 ? NULL : compile(cu, w, so);
    close(fd);
    return s;
}

static Status object_path(const char *cu, Races races, Buf *so) {
    uint64_t key;
    Words w = {0};
    TRY(cache_dir(so));
    buf_puts(so, "/emulated");
    TRY(make_dirs(so->p));
    compile_words(&w, races);
    Status s = module_key(cu, &w, &key);
    if (!s) {
        buf_printf(so, "/%016llx.so", (unsigned long long)key);
        if (access(so->p, R_OK) != 0) s = compile_once(cu, &w, so->p);
    }
    vec_free(&w);
    return s;
}

/* ---- modules ---- */

static Status open_object(EmuModule *m) {
    m->handle = dlopen(m->object, RTLD_NOW | RTLD_LOCAL);
    if (!m->handle) return status_make(EXIT_SYSTEM, "cannot load %s: %s", m->object, dlerror());
    m->api = dlsym(m->handle, "emu_api_");
    if (!m->api) return status_make(EXIT_SYSTEM, "%s is no emulated kernel", m->object);
    return NULL;
}

Status emu_load(const char *cu_path, EmuModule **out) {
    Buf so = {0};
    *out = NULL;
    Races races = want_races();
    Status s = object_path(cu_path, races, &so);
    if (s) {
        buf_free(&so);
        return s;
    }
    EmuModule *m = xcalloc(1, sizeof *m);
    m->object = so.p;
    m->races = races;
    s = open_object(m);
    if (s)
        emu_unload(m);
    else
        *out = m;
    return s;
}

void emu_unload(EmuModule *m) {
    if (!m) return;
    if (m->handle) dlclose(m->handle);
    for (uint32_t i = 0; i < m->kernel.n; i++) free(m->kernel.p[i]);
    vec_free(&m->kernel);
    free(m->object);
    free(m);
}

void *emu_find(EmuModule *m, const char *kernel) {
    char info[sizeof((Kernel *)0)->name + 8];
    for (uint32_t i = 0; i < m->kernel.n; i++)
        if (strcmp(m->kernel.p[i]->name, kernel) == 0) return m->kernel.p[i];
    snprintf(info, sizeof info, "%s_emu_", kernel);
    void *run = dlsym(m->handle, kernel);
    const EmuKernelInfo *found = dlsym(m->handle, info);
    if (!run || !found) return NULL;
    Kernel *k = xcalloc(1, sizeof *k);
    snprintf(k->name, sizeof k->name, "%s", kernel);
    memcpy(&k->run, &run, sizeof run);
    k->module = m;
    k->info = *found;
    vec_push(&m->kernel, k);
    return k;
}

int emu_args(const void *kernel) { return ((const Kernel *)kernel)->info.nargs; }
