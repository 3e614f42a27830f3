/* device_emulated.c: see device_emulated.h. All but kernels of the GPU is device_cpu's. */
#include "tests/gpu/device_emulated.h"

#include <stdlib.h>
#include <string.h>

#include "tests/gpu/emulator.h"

enum { MOST_ARGS = 512 };

typedef struct {
    Device base;
    Device *cpu;
    Plan host;       /* the plan with the host's kernels alone, for the cpu … */
    uint32_t *index; /* … and where each kernel of the plan is in it */
    const Plan *plan;
    EmuModule **module; /* of each kernel; shared by those of a source */
    void **kernel;
    uint64_t seed;
} Emulated;

static Device *cpu(Device *d) { return ((Emulated *)(void *)d)->cpu; }

static Status emulated_open(const DeviceConfig *config, Device **out) {
    Emulated *d = xcalloc(1, sizeof *d);
    const char *seed = getenv("M6C_EMULATED_SEED");
    d->base.ops = &device_emulated;
    d->seed = seed ? strtoull(seed, NULL, 10) : 1;
    *out = &d->base;
    return device_cpu.open(config, &d->cpu);
}

static Status emulated_alloc(Device *d, Mem mem, int64_t bytes, void **out) {
    return device_cpu.alloc(cpu(d), mem, bytes, out);
}

static void emulated_free(Device *d, Mem mem, void *p, int64_t bytes) {
    device_cpu.free(cpu(d), mem, p, bytes);
}

static Status emulated_copy(Device *d, int stream, void *to, const void *from, int64_t bytes) {
    return device_cpu.copy(cpu(d), stream, to, from, bytes);
}

static Status emulated_fill(Device *d, int stream, void *to, int64_t bytes) {
    return device_cpu.fill(cpu(d), stream, to, bytes);
}

static Status load_module(Emulated *d, const char *dir, uint32_t i) {
    const PlanKernel *k = d->plan->kernel.p;
    for (uint32_t j = 0; j < i && !d->module[i]; j++)
        if (strcmp(k[j].source, k[i].source) == 0) d->module[i] = d->module[j];
    if (d->module[i]) return NULL;
    Buf path = {0};
    buf_printf(&path, "%s/%s", dir, k[i].source);
    Status s = emu_load(path.p, &d->module[i]);
    buf_free(&path);
    return s;
}

static Status load_host(Emulated *d, const char *dir) {
    const Plan *p = d->plan;
    d->host = *p;
    d->host.target = "cpu";
    d->host.kernel.p = xcalloc(p->kernel.n + 1, sizeof *d->host.kernel.p);
    d->host.kernel.n = 0;
    d->index = xcalloc(p->kernel.n + 1, sizeof *d->index);
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        if (p->kernel.p[i].threads) continue;
        d->index[i] = d->host.kernel.n;
        d->host.kernel.p[d->host.kernel.n++] = p->kernel.p[i];
    }
    return device_cpu.load(d->cpu, &d->host, dir);
}

static Status emulated_load(Device *base, const Plan *plan, const char *dir) {
    Emulated *d = (Emulated *)(void *)base;
    d->plan = plan;
    d->module = xcalloc(plan->kernel.n + 1, sizeof *d->module);
    d->kernel = xcalloc(plan->kernel.n + 1, sizeof *d->kernel);
    for (uint32_t i = 0; i < plan->kernel.n; i++) {
        if (plan->kernel.p[i].threads == 0) continue;
        TRY(load_module(d, dir, i));
        d->kernel[i] = emu_find(d->module[i], plan->kernel.p[i].name);
        if (!d->kernel[i]) return status_make(EXIT_INPUT, "no kernel %s", plan->kernel.p[i].name);
    }
    return load_host(d, dir);
}

/* ---- launches ---- */

/* Bytes of the arena that one or several arguments share, and their copy. */
typedef struct {
    char *from, *end, *copy;
    bool written;
} Region;

typedef struct {
    Region region[MOST_ARGS];
    uint32_t n;
} Regions;

/* The region of these bytes, together with all that it overlaps. */
static void add_region(Regions *r, Region x) {
    for (uint32_t i = 0; i < r->n;) {
        Region *y = &r->region[i];
        if (x.from >= y->end || y->from >= x.end) {
            i++;
            continue;
        }
        x.from = MIN(x.from, y->from);
        x.end = MAX(x.end, y->end);
        x.written |= y->written;
        *y = r->region[--r->n];
        i = 0;
    }
    r->region[r->n++] = x;
}

static Regions regions_of(const Emulated *d, const PlanStep *s, void *const *arg) {
    Regions r = {.n = 0};
    ASSERT(s->nargs <= MOST_ARGS);
    for (uint32_t i = 0; i < s->nargs; i++) {
        const PlanBuffer *b = &d->plan->buffer.p[s->arg[i].buffer];
        char *from = (char *)arg[i] - s->arg[i].offset;
        add_region(&r, (Region){from, from + b->bytes, NULL,
                                i >= 64 || s->writes == 0 || s->writes >> i & 1});
    }
    for (uint32_t i = 0; i < r.n; i++) {
        Region *x = &r.region[i];
        x->copy = emu_buffer(x->end - x->from);
        memcpy(x->copy, x->from, (size_t)(x->end - x->from));
    }
    return r;
}

static void *in_copy(const Regions *r, char *p) {
    for (uint32_t i = 0; i < r->n; i++)
        if (p >= r->region[i].from && p < r->region[i].end)
            return r->region[i].copy + (p - r->region[i].from);
    BUG("an argument of no region");
}

static Status take_back(const Regions *r, const PlanKernel *k) {
    Status s = NULL;
    for (uint32_t i = 0; i < r->n; i++) {
        const Region *x = &r->region[i];
        size_t n = (size_t)(x->end - x->from);
        if (!x->written && !s && memcmp(x->from, x->copy, n) != 0)
            s = status_make(EXIT_SYSTEM, "%s writes to an argument that is only read", k->name);
        memcpy(x->from, x->copy, n);
        emu_buffer_free(x->copy);
    }
    return s;
}

static Status emulated_launch(Device *base, const PlanStep *s, void *const *arg) {
    Emulated *d = (Emulated *)(void *)base;
    const PlanKernel *k = &d->plan->kernel.p[s->kernel];
    if (k->threads == 0) {
        PlanStep host = *s;
        host.kernel = d->index[s->kernel];
        return device_cpu.launch(d->cpu, &host, arg);
    }
    Regions r = regions_of(d, s, arg);
    void *copy[MOST_ARGS];
    for (uint32_t i = 0; i < s->nargs; i++) copy[i] = in_copy(&r, arg[i]);
    Status bad = emu_launch(d->kernel[s->kernel], s->items, k->threads, k->shared, copy, d->seed);
    Status wrong = take_back(&r, k);
    if (!bad) return wrong;
    free(wrong);
    return bad;
}

/* The product alone, then the kernel that finishes it. */
static Status emulated_gemm(Device *d, const PlanStep *s, void *const *arg) {
    int target = epilogue_target(s->gemm.epilogue);
    void *const operands[] = {arg[0], arg[1], arg[target]};
    TRY(device_cpu.gemm(cpu(d), s, operands));
    if (s->gemm.epilogue == EPILOGUE_NONE) return NULL;
    PlanStep finish = *s;
    finish.nargs -= 2, finish.arg += 2;
    return emulated_launch(d, &finish, arg + 2);
}

static Status emulated_event(Device *d, int stream, uint32_t event) {
    (void)d, (void)stream, (void)event;
    return NULL;
}

static Status emulated_sync(Device *d) { return device_cpu.sync(cpu(d)); }

static void emulated_close(Device *base) {
    Emulated *d = (Emulated *)(void *)base;
    for (uint32_t i = 0; d->module && i < d->plan->kernel.n; i++) {
        bool first = true;
        for (uint32_t j = 0; j < i; j++) first &= d->module[j] != d->module[i];
        if (first && d->module[i]) emu_unload(d->module[i]);
    }
    free(d->module);
    free(d->kernel);
    free(d->host.kernel.p);
    free(d->index);
    if (d->cpu) device_cpu.close(d->cpu);
    free(d);
}

const DeviceOps device_emulated = {
    .name = "emulated",
    .doc = "CUDA C in the emulator",
    .visible = 1u << MEM_DEVICE | 1u << MEM_HOST,
    .open = emulated_open,
    .alloc = emulated_alloc,
    .free = emulated_free,
    .copy = emulated_copy,
    .fill = emulated_fill,
    .load = emulated_load,
    .launch = emulated_launch,
    .gemm = emulated_gemm,
    .record = emulated_event,
    .wait = emulated_event,
    .sync = emulated_sync,
    .close = emulated_close,
};
