/* nvrtc.c: CUDA C to machine code of GPUs by NVIDIA's compiler library, which needs neither a GPU
 * nor a driver. It is loaded when kernels are to be compiled, so that m6c runs without it.
 *
 * An object in the cache is three files; KEY.cubin is written last, so where it is, all are. */
#include "codegen/cache.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct NvrtcProgram *Program;
typedef int SizeCall(Program p, size_t *n);
typedef int TextCall(Program p, char *text);

enum { NVRTC_COMPILATION = 6 }; /* the code is wrong; its log says where */

#define NVRTC_SYMBOLS(X)                                                                           \
    X(const char *, GetErrorString, (int code))                                                    \
    X(int, Version, (int *major, int *minor))                                                      \
    X(int, GetNumSupportedArchs, (int *n))                                                         \
    X(int, GetSupportedArchs, (int *arch))                                                         \
    X(int, CreateProgram,                                                                          \
      (Program * p, const char *text, const char *name, int headers, const char *const *header,    \
       const char *const *header_name))                                                            \
    X(int, CompileProgram, (Program p, int n, const char *const *option))                          \
    X(int, DestroyProgram, (Program * p))                                                          \
    X(int, GetProgramLogSize, (Program p, size_t * n))                                             \
    X(int, GetProgramLog, (Program p, char *text))                                                 \
    X(int, GetPTXSize, (Program p, size_t * n))                                                    \
    X(int, GetPTX, (Program p, char *text))                                                        \
    X(int, GetCUBINSize, (Program p, size_t * n))                                                  \
    X(int, GetCUBIN, (Program p, char *text))

typedef struct {
#define X(type, name, args) type(*name) args;
    NVRTC_SYMBOLS(X)
#undef X
    int major, minor;
    uint64_t hash; /* of the library's version */
} Nvrtc;

/* ---- architectures ---- */

/* wgmma and other instructions of a single generation would need sm_90a and the like. */
static const char *const archs[] = {"sm_80",  "sm_86",  "sm_87",  "sm_88",  "sm_89", "sm_90",
                                    "sm_100", "sm_103", "sm_110", "sm_120", "sm_121"};

static Status unknown_arch(const char *name) {
    Buf known = {0};
    for (size_t i = 0; i < COUNT(archs); i++) buf_printf(&known, "%s%s", i ? ", " : "", archs[i]);
    Status s =
        status_make(EXIT_USAGE, "unknown GPU architecture '%s' (there are: %s)", name, known.p);
    buf_free(&known);
    return s;
}

Status nvrtc_check_arch(const char *arch) {
    int64_t number;
    for (size_t i = 0; i < COUNT(archs); i++)
        if (strcmp(arch, archs[i]) == 0) return NULL;
    if (strncmp(arch, "sm_", 3) != 0 || !parse_i64(arch + 3, strlen(arch + 3), &number))
        return unknown_arch(arch);
    if (number == 75)
        return status_make(EXIT_USAGE, "sm_75 (Turing) is not supported: it has neither bf16 "
                                       "arithmetic nor cp.async; the oldest is sm_80");
    if (number >= 10 && number < 80)
        return status_make(EXIT_USAGE,
                           "%s%s is not supported: CUDA 13's NVRTC no longer compiles for GPUs "
                           "before sm_75, and they have neither bf16 arithmetic nor cp.async; the "
                           "oldest is sm_80",
                           arch, number >= 70 ? " (Volta)" : "");
    return unknown_arch(arch);
}

/* A name that m6c knows may be too new for the library that is installed. */
static Status check_supported(const Nvrtc *lib, const char *arch) {
    int n = 0, want = atoi(arch + 3);
    bool found = false;
    if (lib->GetNumSupportedArchs(&n) != 0 || n < 1)
        return status_make(EXIT_SYSTEM, "NVRTC does not say what it compiles for");
    int *list = xcalloc((size_t)n, sizeof *list);
    lib->GetSupportedArchs(list);
    for (int i = 0; i < n; i++) found |= list[i] == want;
    free(list);
    if (found) return NULL;
    return status_make(EXIT_SYSTEM, "NVRTC %d.%d does not compile for %s: install a newer one",
                       lib->major, lib->minor, arch);
}

/* ---- the library ---- */

static void *load_library(void) {
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
    const char *home = getenv("CUDA_HOME");
    const char *const folders[] = {"", home && *home ? home : "/usr/local/cuda", "/usr/local/cuda"};
    void *library = NULL;
    for (size_t f = 0; f < COUNT(folders); f++) {
        for (size_t i = 0; i < COUNT(names) && !library; i++) {
            Buf path = {0};
            buf_printf(&path, "%s%s%s", folders[f], f ? "/lib64/" : "", names[i]);
            library = library_open((const char *const *)&path.p, 1);
            buf_free(&path);
        }
    }
    return library;
}

/* A library that M6C_NVRTC names and that does not load is an error, not a reason to look on. */
static Status find_library(void **library) {
    const char *path = getenv("M6C_NVRTC");
    *library = path && *path ? library_open(&path, 1) : load_library();
    if (*library) return NULL;
    if (path && *path) return status_make(EXIT_SYSTEM, "M6C_NVRTC: %s", dlerror());
    return status_make(EXIT_SYSTEM,
                       "cannot find NVRTC, which compiles kernels for GPUs: install the CUDA "
                       "toolkit, or `pip install nvidia-cuda-nvrtc` and set M6C_NVRTC to its "
                       "libnvrtc.so.13; --plan-only works without");
}

/* The version that NVRTC tells has no third number, so the file's size stands for it. The library
 * opens a second one by name when it compiles, and does not look for it in its own folder. */
static void identify(Nvrtc *lib, void *symbol) {
    Dl_info info;
    struct stat st;
    Buf second = {0};
    lib->Version(&lib->major, &lib->minor);
    lib->hash = hash_mix((uint64_t)lib->major, (uint64_t)lib->minor);
    char *path = dladdr(symbol, &info) ? realpath(info.dli_fname, NULL) : NULL;
    if (path && stat(path, &st) == 0) {
        lib->hash = hash_mix(lib->hash, (uint64_t)st.st_size);
        buf_printf(&second, "%.*s/libnvrtc-builtins.so.%d.%d", (int)(strrchr(path, '/') - path),
                   path, lib->major, lib->minor);
        dlopen(second.p, RTLD_NOW | RTLD_LOCAL);
    }
    free(path);
    buf_free(&second);
}

/* It stays loaded: it has threads and thread-local state of its own. */
static Status nvrtc_open(Nvrtc *lib) {
    const LibraryFunction functions[] = {
#define X(type, name, args) {"nvrtc" #name, &lib->name},
        NVRTC_SYMBOLS(X)
#undef X
    };
    void *library;
    TRY(find_library(&library));
    const char *missing = library_find(library, functions, COUNT(functions));
    if (missing) return status_make(EXIT_SYSTEM, "NVRTC has no function %s", missing);
    identify(lib, dlsym(library, functions[0].name));
    return NULL;
}

/* ---- one source ---- */

typedef struct {
    const CodegenSource *source;
    Buf path; /* in the cache, without an ending */
    Status failure;
} Job;

typedef struct {
    const Nvrtc *lib;
    const CodegenOptions *o;
    const char *const *option;
    int noptions;
    Job *job;
    uint32_t n;
    atomic_uint next;
    atomic_bool failed;
} Work;

static const char *const endings[] = {"log", "ptx", "cubin"};

static bool is_cached(const Job *j) {
    bool all = true;
    for (size_t i = 0; i < COUNT(endings); i++) {
        Buf path = {0};
        buf_printf(&path, "%s.%s", j->path.p, endings[i]);
        all = all && access(path.p, R_OK) == 0;
        buf_free(&path);
    }
    return all;
}

/* What the program has of one kind; NULL: nothing. */
static char *result(Program p, SizeCall *size, TextCall *get, size_t *n) {
    char *text = NULL;
    if (size(p, n) != 0) return NULL;
    text = xcalloc(*n + 1, 1);
    if (get(p, text) == 0) return text;
    free(text);
    return NULL;
}

static Status keep(const Job *j, size_t kind, Program p, SizeCall *size, TextCall *get) {
    size_t n = 0;
    char *text = result(p, size, get, &n);
    Buf path = {0};
    buf_printf(&path, "%s.%s", j->path.p, endings[kind]);
    bool is_text = kind < 2; /* their sizes count a NUL */
    Status s = text ? file_write_atomic(path.p, text, is_text ? strlen(text) : n)
                    : status_make(EXIT_SYSTEM, "NVRTC gives no %s", endings[kind]);
    free(text);
    buf_free(&path);
    return s;
}

static Status explain(const Work *w, const Job *j, Program p, int code) {
    size_t n;
    const char *file = j->source->name, *dir = w->o->dir;
    if (code != NVRTC_COMPILATION)
        return status_make(EXIT_SYSTEM, "NVRTC on %s/%s: %s", dir, file,
                           w->lib->GetErrorString(code));
    char *log = result(p, w->lib->GetProgramLogSize, w->lib->GetProgramLog, &n);
    Status s = status_make(EXIT_SYSTEM, "NVRTC failed on %s/%s:\n%s", dir, file, log ? log : "");
    free(log);
    return s;
}

static Status compile(const Work *w, const Job *j) {
    const Nvrtc *lib = w->lib;
    Program p = NULL;
    int code = lib->CreateProgram(&p, j->source->text, j->source->name, 0, NULL, NULL);
    if (code == 0) code = lib->CompileProgram(p, w->noptions, w->option);
    Status s = code ? explain(w, j, p, code) : NULL;
    if (!s) s = keep(j, 0, p, lib->GetProgramLogSize, lib->GetProgramLog);
    if (!s) s = keep(j, 1, p, lib->GetPTXSize, lib->GetPTX);
    if (!s) s = keep(j, 2, p, lib->GetCUBINSize, lib->GetCUBIN);
    if (p) lib->DestroyProgram(&p);
    return s;
}

/* ---- several at a time ---- */

static void *work(void *p) {
    Work *w = p;
    for (uint32_t i; !w->failed && (i = atomic_fetch_add(&w->next, 1)) < w->n;) {
        if (!is_cached(&w->job[i])) w->job[i].failure = compile(w, &w->job[i]);
        if (w->job[i].failure) w->failed = true;
    }
    return NULL;
}

/* The failure of the first source that has one. */
static Status first_failure(Work *w) {
    Status first = NULL;
    for (uint32_t i = 0; i < w->n; i++) {
        if (first)
            free(w->job[i].failure);
        else
            first = w->job[i].failure;
    }
    return first;
}

/* The caller works too; a thread that cannot be started leaves its share to the others. */
static Status run_work(Work *w, int jobs) {
    uint32_t most = MIN((uint32_t)jobs, w->n), n = 0;
    pthread_t *thread = xcalloc(most + 1, sizeof *thread);
    while (n + 1 < most && pthread_create(&thread[n], NULL, work, w) == 0) n++;
    work(w);
    for (uint32_t i = 0; i < n; i++) pthread_join(thread[i], NULL);
    free(thread);
    return first_failure(w);
}

static Status place_all(const Work *w) {
    for (uint32_t i = 0; i < w->n; i++) {
        for (size_t k = 0; k < COUNT(endings); k++) {
            Buf from = {0};
            buf_printf(&from, "%s.%s", w->job[i].path.p, endings[k]);
            Status s = kernel_place(from.p, w->o->dir, w->job[i].source->name, endings[k]);
            buf_free(&from);
            if (s) return s;
        }
    }
    return NULL;
}

static void name_objects(Work *w, const CodegenSource *source, const char *cache) {
    uint64_t tools = w->lib->hash;
    for (int i = 0; i < w->noptions; i++)
        tools = hash_bytes(w->option[i], strlen(w->option[i]), tools);
    for (uint32_t i = 0; i < w->n; i++) {
        unsigned long long key = hash_mix(source[i].hash, tools);
        w->job[i].source = &source[i];
        buf_printf(&w->job[i].path, "%s/%016llx", cache, key);
    }
}

Status nvrtc_compile(const CodegenOptions *o, const CodegenSource *source, uint32_t n,
                     const char *arch) {
    TRY(nvrtc_check_arch(arch));
    if (n == 0) return NULL;
    Nvrtc lib = {0};
    Buf cache = {0}, target = {0};
    buf_printf(&target, "--gpu-architecture=%s", arch);
    /* 177: a function of the prelude that no kernel calls. */
    const char *const option[] = {target.p, "--std=c++17", "--diag-suppress=177", "-Xptxas=-v"};
    Work w = {.lib = &lib, .o = o, .option = option, .noptions = COUNT(option), .n = n};
    w.job = xcalloc(n, sizeof *w.job);
    Status s = nvrtc_open(&lib);
    if (!s) s = check_supported(&lib, arch);
    if (!s) s = kernel_cache(&cache);
    if (!s) {
        name_objects(&w, source, cache.p);
        s = run_work(&w, compiler_jobs(o));
    }
    if (!s) s = place_all(&w);
    for (uint32_t i = 0; i < n; i++) buf_free(&w.job[i].path);
    free(w.job);
    buf_free(&cache);
    buf_free(&target);
    return s;
}
