/* device_cpu.c: the processor as a device.
 *
 * The device's and the host's memory are mappings of exactly the planned bytes (rounded to pages);
 * the disk is a file (disk.h). Everything is done when a call returns; the executor calls for each
 * stream from a thread of its own (exec_streams.c), so that events need nothing here. Work of the
 * compute stream is shared by the pool, that of others is their thread's alone: the host's kernels
 * too, which stand for the cores beside a GPU. Kernels are shared objects in the plan's folder;
 * each source file's is loaded once.
 *
 * The link. Copies between the device's and the host's memory can be slowed down to a given rate,
 * each direction by itself: a copy takes the time that the link would, and its thread sleeps for
 * most of that, as if an engine beside the cores did it. */
#include "runtime/device.h"
#include "runtime/disk.h"
#include "runtime/gemm.h"
#include "runtime/host_kernel.h"
#include "runtime/host_memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    Device base;
    Pool *pool;
    Gemm *gemm;
    const Plan *plan;
    double link;           /* bytes a second; 0: as they come */
    double link_free[2];   /* when it has carried what it was given, in and out */
    const char *folder;    /* of the disk */
    Disk *disk;            /* NULL: the plan has none */
    HostKernel **kernel;   /* of each PlanKernel */
    const GemmAlgo **algo; /* of each step, NULL unless it is a product */
    HostLibraries libraries;
} Cpu;

enum {
    COPY_GRAIN = 256 << 10, /* bytes worth a thread */
    LINK_CHUNK = 1 << 20    /* bytes copied at once on a slow link */
};

static Status cpu_open(const DeviceConfig *config, Device **out) {
    Cpu *d = xcalloc(1, sizeof *d);
    d->base.ops = &device_cpu;
    d->pool = config->pool;
    d->link = config->link;
    d->folder = config->disk && config->disk[0] ? config->disk : ".";
    *out = &d->base;
    const int64_t *arena = config->plan->arena;
    return host_memory_check(arena[MEM_DEVICE] + arena[MEM_HOST]);
}

static size_t whole_pages(int64_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return ((size_t)bytes + page - 1) / page * page;
}

static Status alloc_disk(Cpu *d, int64_t bytes, void **out) {
    TRY(disk_open(d->folder, bytes, &d->disk));
    *out = disk_base(d->disk);
    return NULL;
}

static Status cpu_alloc(Device *d, Mem mem, int64_t bytes, void **out) {
    *out = NULL;
    if (bytes == 0) return NULL;
    if (mem == MEM_DISK) return alloc_disk((Cpu *)d, bytes, out);
    void *p =
        mmap(NULL, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return status_errno("cannot get %lld bytes of %s memory", (long long)bytes, mem_name(mem));
    madvise(p, whole_pages(bytes), MADV_HUGEPAGE); /* refused: small pages do too */
    *out = p;
    return NULL;
}

static void cpu_free(Device *base, Mem mem, void *p, int64_t bytes) {
    Cpu *d = (Cpu *)base;
    if (mem == MEM_DISK) {
        disk_close(d->disk);
        d->disk = NULL;
    } else if (p)
        munmap(p, whole_pages(bytes));
}

/* ---- copies ---- */

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

/* Sleeping for less than it takes to fall asleep would make small copies slower than the link. */
static void sleep_until(double at) {
    const double shortest = 20e-6;
    struct timespec t = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - floor(at)) * 1e9)};
    if (at - now_seconds() < shortest) return;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

/* A copy that was asked for while the one before was on the link follows it without a gap, though
 * the thread wakes a little late. */
static void copy_on_link(Cpu *d, int stream, char *to, const char *from, int64_t bytes) {
    const double late = 100e-6;
    double *is_free = &d->link_free[stream == STREAM_OUT];
    double at = MAX(*is_free, now_seconds() - late);
    for (int64_t done = 0, n; done < bytes; done += n) {
        n = MIN((int64_t)LINK_CHUNK, bytes - done);
        memmove(to + done, from + done, (size_t)n);
        at += (double)n / d->link;
        sleep_until(at);
    }
    *is_free = at;
}

static void copy_in_pool(Cpu *d, void *to, const void *from, int64_t bytes) {
    uintptr_t a = (uintptr_t)to, b = (uintptr_t)from;
    bool overlap = a < b + (uintptr_t)bytes && b < a + (uintptr_t)bytes;
    if (overlap)
        memmove(to, from, (size_t)bytes);
    else
        pool_run(d->pool, move_part, &(Move){to, from}, bytes, COPY_GRAIN);
}

static bool on_disk(const Cpu *d, const void *p) { return d->disk && disk_holds(d->disk, p); }

static Status cpu_copy(Device *base, int stream, void *to, const void *from, int64_t bytes) {
    Cpu *d = (Cpu *)base;
    if (on_disk(d, from)) return disk_read(d->disk, to, from, bytes);
    if (on_disk(d, to)) return disk_write(d->disk, to, from, bytes);
    if (stream == STREAM_COMPUTE)
        copy_in_pool(d, to, from, bytes);
    else if (d->link > 0 && (stream == STREAM_IN || stream == STREAM_OUT))
        copy_on_link(d, stream, to, from, bytes);
    else
        memmove(to, from, (size_t)bytes);
    return NULL;
}

static Status cpu_fill(Device *base, int stream, void *to, int64_t bytes) {
    Cpu *d = (Cpu *)base;
    if (on_disk(d, to)) return disk_write(d->disk, to, NULL, bytes);
    if (stream == STREAM_COMPUTE)
        pool_run(d->pool, move_part, &(Move){to, NULL}, bytes, COPY_GRAIN);
    else
        memset(to, 0, (size_t)bytes);
    return NULL;
}

/* ---- kernels and products ---- */

static Status load_kernels(Cpu *d, const Plan *plan, const char *dir) {
    if (target_is_gpu(plan->target) && plan->kernel.n > 0)
        return status_make(EXIT_INPUT,
                           "the plan is for %s: compile the model again with --target cpu",
                           plan->target);
    d->kernel = xcalloc(plan->kernel.n, sizeof *d->kernel);
    for (uint32_t i = 0; i < plan->kernel.n; i++)
        TRY(host_kernel_load(&d->libraries, dir, &plan->kernel.p[i], &d->kernel[i]));
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

/* What a plan that was read can still ask for in vain. */
static Status check_steps(const Plan *plan) {
    for (uint32_t i = 0; i < plan->step.n; i++) {
        const PlanStep *s = &plan->step.p[i];
        uint32_t on_disk = 0;
        for (uint32_t j = 0; j < s->nargs; j++)
            on_disk += plan->buffer.p[s->arg[j].buffer].mem == MEM_DISK;
        if (on_disk > (s->kind == STEP_COPY || s->kind == STEP_FILL))
            return status_make(EXIT_INPUT, "step %u: works on the disk: only copies can", i);
        if (s->kind == STEP_GEMM && s->stream != STREAM_COMPUTE)
            return status_make(EXIT_INPUT, "step %u: products are of stream 0", i);
    }
    return NULL;
}

static Status cpu_load(Device *base, const Plan *plan, const char *dir) {
    Cpu *d = (Cpu *)base;
    d->plan = plan;
    TRY(check_steps(plan));
    TRY(load_kernels(d, plan, dir));
    return choose_algos(d, plan);
}

static Status cpu_launch(Device *base, const PlanStep *s, void *const *arg) {
    Cpu *d = (Cpu *)base;
    Pool *pool = s->stream == STREAM_COMPUTE ? d->pool : NULL;
    host_kernel_run(d->kernel[s->kernel], arg, s->items, s->grain, pool);
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

static int64_t cpu_beside(const Device *base) {
    return disk_buffer_bytes(((const Cpu *)base)->disk);
}

static void cpu_close(Device *base) {
    Cpu *d = (Cpu *)base;
    host_kernel_unload(&d->libraries);
    gemm_close(d->gemm);
    free(d->kernel);
    free(d->algo);
    free(d);
}

const DeviceOps device_cpu = {
    .name = "cpu",
    .doc = "this machine's processor: threads, compiled C kernels, the BLAS",
    .visible = 1u << MEM_DEVICE | 1u << MEM_HOST,
    .threads = true,
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
    .beside = cpu_beside,
};
