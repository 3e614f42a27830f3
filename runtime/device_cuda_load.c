/* device_cuda_load.c: kernels of a plan, from its folder onto the device.
 *
 * X.cubin, of the plan's target, runs on devices of the same major capability and at least its
 * minor one. For newer devices the driver compiles X.ptx while it loads it. */
#include "runtime/device_cuda.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_SHARED = 48 << 10,   /* dynamic shared memory that needs no asking */
    OLD_PARAMETERS = 4096,       /* bytes of a kernel's parameters … */
    NEW_PARAMETERS = 32764,      /* … of drivers from 12.1 on */
    NEW_PARAMETERS_FROM = 12010, /* as cuDriverGetVersion says it */
    MAX_GRID = INT32_MAX,
    OLDEST_MAJOR = 8 /* bf16 and asynchronous copies: sm_80 */
};

/* ---- which code ---- */

typedef enum { RUNS_NOT, RUNS_CUBIN, RUNS_PTX } Runs;

/* "sm_80" is 8, 0; "sm_90a" runs on 9.0 alone. */
static Runs how_it_runs(const char *target, int major, int minor) {
    char *end;
    long number = strncmp(target, "sm_", 3) == 0 ? strtol(target + 3, &end, 10) : 0;
    if (number < 10) return RUNS_NOT;
    long plan_major = number / 10, plan_minor = number % 10;
    if (*end) return plan_major == major && plan_minor == minor ? RUNS_CUBIN : RUNS_NOT;
    if (plan_major == major && plan_minor <= minor) return RUNS_CUBIN;
    return plan_major < major ? RUNS_PTX : RUNS_NOT;
}

Status cuda_check_target(const Cuda *d) {
    const char *target = d->plan->target;
    if (d->plan->kernel.n == 0 || how_it_runs(target, d->major, d->minor) != RUNS_NOT) return NULL;
    if (d->major < OLDEST_MAJOR)
        return status_make(EXIT_SYSTEM, "the plan is for %s and %s is sm_%d%d: m6c needs sm_%d0",
                           target, d->name, d->major, d->minor, OLDEST_MAJOR);
    return status_make(EXIT_SYSTEM,
                       "the plan is for %s and %s is sm_%d%d: compile the model again with "
                       "--target sm_%d%d",
                       target, d->name, d->major, d->minor, d->major, d->minor);
}

/* ---- modules ---- */

static const char *load_hint(CudaResult r) {
    switch (r) {
    case CUDA_FILE_NOT_FOUND: return ": the plan's kernels are not compiled";
    case CUDA_INVALID_IMAGE:
    case CUDA_NO_BINARY:
    case CUDA_UNSUPPORTED_PTX:
        return ": the driver is perhaps older than the compiler that made it";
    default: return "";
    }
}

static Status load_failed(const Cuda *d, CudaResult r, const char *path) {
    Status s = cuda_status(&d->api, r, "cuModuleLoad");
    const char *hint = load_hint(r);
    Status told = status_make(EXIT_SYSTEM, "cannot load %s%s: %s", path, hint, s->text);
    free(s);
    return told;
}

static Status load_module(Cuda *d, const char *dir, const char *source, CudaModule *out) {
    for (uint32_t i = 0; i < d->module.n; i++)
        if (strcmp(d->module.p[i].source, source) == 0) {
            *out = d->module.p[i].handle;
            return NULL;
        }
    const char *dot = strrchr(source, '.');
    bool ptx = how_it_runs(d->plan->target, d->major, d->minor) == RUNS_PTX;
    Buf path = {0};
    buf_printf(&path, "%s/%.*s.%s", dir[0] ? dir : ".",
               dot ? (int)(dot - source) : (int)strlen(source), source, ptx ? "ptx" : "cubin");
    CudaResult r = d->api.cuModuleLoad(out, path.p);
    Status s = r == 0 ? NULL : load_failed(d, r, path.p);
    buf_free(&path);
    if (!s) vec_push(&d->module, ((CudaLoaded){source, *out}));
    return s;
}

/* ---- kernels ---- */

static Status check_limits(const Cuda *d, const PlanKernel *k, int64_t parameters, int64_t shared) {
    if (k->nargs * (int64_t)sizeof(void *) > parameters)
        return status_make(EXIT_SYSTEM, "kernel %s has %d arguments; this driver takes %lld",
                           k->name, k->nargs, (long long)(parameters / (int64_t)sizeof(void *)));
    if (k->shared > shared)
        return status_make(EXIT_SYSTEM,
                           "kernel %s needs %lld bytes of shared memory; a block on %s can have "
                           "%lld",
                           k->name, (long long)k->shared, d->name, (long long)shared);
    return NULL;
}

static Status load_kernel(Cuda *d, const PlanKernel *k, const char *dir, CudaFunction *out) {
    CudaModule module;
    TRY(load_module(d, dir, k->source, &module));
    CudaResult r = d->api.cuModuleGetFunction(out, module, k->name);
    if (r == CUDA_NOT_FOUND)
        return status_make(EXIT_INPUT, "the compiled %s has no kernel %s: compile the model again",
                           k->source, k->name);
    TRY(cuda_status(&d->api, r, "cuModuleGetFunction"));
    if (k->shared > DEFAULT_SHARED)
        CUDA_CALL(d, cuFuncSetAttribute, *out, CUDA_FUNCTION_DYNAMIC_SHARED, (int)k->shared);
    return NULL;
}

/* Every kernel runs where its stream is, the host's or the GPU's. */
static Status check_launches(const Plan *p) {
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        if (!plan_has_kernel(s)) continue;
        const PlanKernel *k = &p->kernel.p[s->kernel];
        bool host = s->stream == STREAM_HOST;
        if (host != (k->threads == 0))
            return status_make(EXIT_INPUT, "step %u: kernel %s is no kernel of %s", i, k->name,
                               host ? "the host: it has threads of a GPU"
                                    : "a GPU: it has no threads");
        if (!host && s->items > MAX_GRID)
            return status_make(EXIT_INPUT, "step %u has more blocks than a grid can", i);
    }
    return NULL;
}

Status cuda_load_kernels(Cuda *d, const char *dir) {
    const Plan *p = d->plan;
    int version = 0, shared = 0;
    CUDA_CALL(d, cuDriverGetVersion, &version);
    CUDA_CALL(d, cuDeviceGetAttribute, &shared, CUDA_DEVICE_SHARED, d->device);
    d->kernel = xcalloc((size_t)p->kernel.n + 1, sizeof *d->kernel);
    d->host_kernel = xcalloc((size_t)p->kernel.n + 1, sizeof(HostKernel *));
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        const PlanKernel *k = &p->kernel.p[i];
        if (k->threads == 0) {
            TRY(host_kernel_load(&d->libraries, dir, k, &d->host_kernel[i]));
            continue;
        }
        TRY(check_limits(d, k, version >= NEW_PARAMETERS_FROM ? NEW_PARAMETERS : OLD_PARAMETERS,
                         shared));
        TRY(load_kernel(d, k, dir, &d->kernel[i]));
    }
    return check_launches(p);
}

/* One parameter by value: the struct of the pointers. */
Status cuda_launch(Device *base, const PlanStep *s, void *const *arg) {
    Cuda *d = (Cuda *)base;
    const PlanKernel *k = &d->plan->kernel.p[s->kernel];
    void *parameter[] = {(void *)arg};
    if (k->threads == 0) return cuda_launch_host(d, s, arg);
    if (s->items == 0) return NULL;
    CUDA_CALL(d, cuLaunchKernel, d->kernel[s->kernel], (unsigned)s->items, 1, 1,
              (unsigned)k->threads, 1, 1, (unsigned)k->shared, d->stream[s->stream],
              s->nargs > 0 ? parameter : NULL, NULL);
    return cuda_called(d, s->stream);
}
