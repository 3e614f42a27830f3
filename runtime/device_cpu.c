/* device_cpu.c: the processor as a device.
 *
 * Every memory is one mapping of exactly the planned bytes (rounded to pages) and is visible to the
 * host. Everything is done when a call returns, in the order of the calls, which is a legal order
 * of the plan's steps: streams and events therefore need nothing. Kernels are shared objects in the
 * plan's folder; each source file's is loaded once. */
#include "runtime/device.h"
#include "runtime/gemm.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void KernelFn(void *const *arg, int64_t lo, int64_t hi);

typedef struct {
    const char *source;
    void *handle;
} Library;

typedef struct {
    Device base;
    Pool *pool;
    Gemm *gemm;
    const Plan *plan;
    KernelFn **kernel;     /* of each PlanKernel */
    const GemmAlgo **algo; /* of each step, NULL unless it is a product */
    VEC(Library) library;
} Cpu;

enum { COPY_GRAIN = 256 << 10 }; /* bytes worth a thread */

static Status cpu_open(const DeviceConfig *config, Device **out) {
    Cpu *d = xcalloc(1, sizeof *d);
    d->base.ops = &device_cpu;
    d->pool = config->pool;
    *out = &d->base;
    return NULL;
}

static size_t whole_pages(int64_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return ((size_t)bytes + page - 1) / page * page;
}

static Status cpu_alloc(Device *d, Mem mem, int64_t bytes, void **out) {
    (void)d;
    *out = NULL;
    if (bytes == 0) return NULL;
    if (mem == MEM_DISK)
        return status_make(EXIT_INPUT, "the plan keeps %lld bytes on disk, which the cpu cannot do",
                           (long long)bytes);
    void *p =
        mmap(NULL, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return status_errno("cannot get %lld bytes of %s memory", (long long)bytes, mem_name(mem));
    madvise(p, whole_pages(bytes), MADV_HUGEPAGE); /* refused: small pages do too */
    *out = p;
    return NULL;
}

static void cpu_free(Device *d, Mem mem, void *p, int64_t bytes) {
    (void)d, (void)mem;
    if (p) munmap(p, whole_pages(bytes));
}

typedef struct {
    char *to;
    const char *from; /* NULL: zero bytes */
} Move;

static void move_part(void *ctx, int64_t lo, int64_t hi, int thread) {
    const Move *m = ctx;
    (void)thread;
    if (m->from)
        memcpy(m->to + lo, m->from + lo, (size_t)(hi - lo));
    else
        memset(m->to + lo, 0, (size_t)(hi - lo));
}

static Status cpu_copy(Device *base, int stream, void *to, const void *from, int64_t bytes) {
    Cpu *d = (Cpu *)base;
    (void)stream;
    uintptr_t a = (uintptr_t)to, b = (uintptr_t)from;
    bool overlap = a < b + (uintptr_t)bytes && b < a + (uintptr_t)bytes;
    if (overlap)
        memmove(to, from, (size_t)bytes);
    else
        pool_run(d->pool, move_part, &(Move){to, from}, bytes, COPY_GRAIN);
    return NULL;
}

static Status cpu_fill(Device *base, int stream, void *to, int64_t bytes) {
    Cpu *d = (Cpu *)base;
    (void)stream;
    pool_run(d->pool, move_part, &(Move){to, NULL}, bytes, COPY_GRAIN);
    return NULL;
}

/* ---- kernels and products ---- */

/* DIR/X.so for the source X.c. */
static void library_path(const char *dir, const char *source, Buf *path) {
    const char *dot = strrchr(source, '.');
    buf_printf(path, "%s/%.*s.so", dir[0] ? dir : ".",
               dot ? (int)(dot - source) : (int)strlen(source), source);
}

static Status load_library(Cpu *d, const char *dir, const char *source, void **handle) {
    for (uint32_t i = 0; i < d->library.n; i++)
        if (strcmp(d->library.p[i].source, source) == 0) {
            *handle = d->library.p[i].handle;
            return NULL;
        }
    Buf path = {0};
    library_path(dir, source, &path);
    *handle = dlopen(path.p, RTLD_NOW | RTLD_LOCAL);
    buf_free(&path);
    if (!*handle) return status_make(EXIT_INPUT, "cannot load the plan's kernels: %s", dlerror());
    vec_push(&d->library, ((Library){source, *handle}));
    return NULL;
}

static Status load_kernels(Cpu *d, const Plan *plan, const char *dir) {
    if (plan->kernel.n > 0 && plan->kernel.p[0].threads > 0)
        return status_make(EXIT_INPUT,
                           "the plan is for %s: compile the model again with --target cpu",
                           plan->target);
    d->kernel = xcalloc(plan->kernel.n, sizeof *d->kernel);
    for (uint32_t i = 0; i < plan->kernel.n; i++) {
        const PlanKernel *k = &plan->kernel.p[i];
        void *handle;
        TRY(load_library(d, dir, k->source, &handle));
        void *symbol = dlsym(handle, k->name);
        if (!symbol)
            return status_make(EXIT_INPUT,
                               "the compiled %s has no kernel %s: compile the model "
                               "again",
                               k->source, k->name);
        memcpy(&d->kernel[i], &symbol, sizeof symbol);
    }
    return NULL;
}

static Status choose_algos(Cpu *d, const Plan *plan) {
    d->algo = xcalloc(plan->step.n, sizeof *d->algo);
    for (uint32_t i = 0; i < plan->step.n; i++) {
        const PlanStep *s = &plan->step.p[i];
        if (s->kind != STEP_GEMM) continue;
        if (!d->gemm) TRY(gemm_open(d->pool, &d->gemm));
        if (s->gemm.algo) d->algo[i] = gemm_find(d->gemm, &s->gemm, s->gemm.algo);
        /* A plan from another machine may name what is not here. */
        if (!d->algo[i]) d->algo[i] = gemm_choose(d->gemm, &s->gemm);
        if (!d->algo[i])
            return status_make(EXIT_INPUT, "step %u: no implementation runs this product", i);
    }
    if (d->gemm) gemm_save(d->gemm);
    return NULL;
}

static Status cpu_load(Device *base, const Plan *plan, const char *dir) {
    Cpu *d = (Cpu *)base;
    d->plan = plan;
    TRY(load_kernels(d, plan, dir));
    return choose_algos(d, plan);
}

typedef struct {
    KernelFn *fn;
    void *const *arg;
} Launch;

static void launch_part(void *ctx, int64_t lo, int64_t hi, int thread) {
    const Launch *l = ctx;
    (void)thread;
    l->fn(l->arg, lo, hi);
}

static Status cpu_launch(Device *base, const PlanStep *s, void *const *arg) {
    Cpu *d = (Cpu *)base;
    pool_run(d->pool, launch_part, &(Launch){d->kernel[s->kernel], arg}, s->items, s->grain);
    return NULL;
}

static Status cpu_gemm(Device *base, const PlanStep *s, void *const *arg) {
    Cpu *d = (Cpu *)base;
    const GemmAlgo *algo = d->algo[s - d->plan->step.p];
    algo->run(algo, d->gemm, &s->gemm, arg[0], arg[1], arg[2]);
    return NULL;
}

static Status cpu_event(Device *d, int stream, uint32_t event) {
    (void)d, (void)stream, (void)event;
    return NULL;
}

static Status cpu_sync(Device *d) {
    (void)d;
    return NULL;
}

static void cpu_close(Device *base) {
    Cpu *d = (Cpu *)base;
    for (uint32_t i = 0; i < d->library.n; i++) dlclose(d->library.p[i].handle);
    vec_free(&d->library);
    gemm_close(d->gemm);
    free(d->kernel);
    free(d->algo);
    free(d);
}

const DeviceOps device_cpu = {
    .name = "cpu",
    .doc = "this machine's processor: threads, compiled C kernels, the BLAS",
    .host_visible = true,
    .open = cpu_open,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .load = cpu_load,
    .launch = cpu_launch,
    .gemm = cpu_gemm,
    .record = cpu_event,
    .wait = cpu_event,
    .sync = cpu_sync,
    .close = cpu_close,
};
