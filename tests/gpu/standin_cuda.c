/* standin_cuda.c: a driver library without a GPU: see standin.h. */
#include "tests/gpu/standin.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/gpu/emulator.h"

#define CUDA(name, args) CudaResult name args;
#include "runtime/cuda_api.def"
#undef CUDA

enum {
    INVALID_VALUE = 1,
    INVALID_IMAGE = 200,
    GUARD = 1 << 16,
    PATTERN = 1 << 20,
    VERSION = 13000
};

/* ---- memory ---- */

typedef struct {
    char name[24];
    char *p;
    size_t bytes;
    bool host;
} Memory;

static VEC(Memory) memories;
static size_t device_used;

static size_t device_bytes(void) {
    const char *text = getenv("M6C_STANDIN_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t)4 << 30;
}

void standin_put_place(Buf *b, const void *p) {
    for (uint32_t i = 0; i < memories.n; i++) {
        const Memory *m = &memories.p[i];
        size_t at = (size_t)((uintptr_t)p - (uintptr_t)m->p);
        if (m->p && at < m->bytes) {
            buf_printf(b, " %s+%zu", m->name, at);
            return;
        }
    }
    buf_puts(b, " host");
}

static size_t whole_pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

/* A file of NaN, whose pages become memory where they are written to. */
static int nan_file(void) {
    static int file = -1;
    static char page[PATTERN];
    if (file >= 0) return file;
    memset(page, 0xff, sizeof page);
    file = memfd_create("nan", MFD_CLOEXEC);
    return write(file, page, sizeof page) == sizeof page ? file : -1;
}

/* Surrounded by pages nobody may touch, and full of NaN. */
static char *map(size_t bytes) {
    size_t whole = whole_pages(bytes);
    char *p = mmap(NULL, whole + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    for (size_t at = 0; at < whole; at += PATTERN)
        if (mmap(p + GUARD + at, MIN(whole - at, (size_t)PATTERN), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED, nan_file(), 0) == MAP_FAILED)
            return NULL;
    return p + GUARD;
}

static CudaResult allocate(size_t bytes, bool host, void *out) {
    if (!host && bytes > device_bytes() - device_used) return CUDA_OUT_OF_MEMORY;
    Memory m = {.p = bytes ? map(bytes) : NULL, .bytes = bytes, .host = host};
    if (!m.p) return bytes ? CUDA_OUT_OF_MEMORY : INVALID_VALUE;
    int before = 0;
    for (uint32_t i = 0; i < memories.n; i++) before += memories.p[i].host == host;
    snprintf(m.name, sizeof m.name, "%s%d", host ? "pinned" : "device", before);
    vec_push(&memories, m);
    device_memory_open(false);
    device_used += host ? 0 : bytes;
    memcpy(out, &m.p, sizeof m.p);
    return 0;
}

static CudaResult release(const void *p, bool host) {
    for (uint32_t i = 0; i < memories.n; i++) {
        Memory *m = &memories.p[i];
        if (!m->p || m->p != p || m->host != host) continue;
        munmap(m->p - GUARD, whole_pages(m->bytes) + 2 * GUARD);
        device_used -= host ? 0 : m->bytes;
        m->p = NULL;
        return 0;
    }
    return INVALID_VALUE;
}

void device_memory_open(bool open) {
    for (uint32_t i = 0; i < memories.n; i++) {
        const Memory *m = &memories.p[i];
        if (m->p && !m->host)
            mprotect(m->p, whole_pages(m->bytes), open ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

/* ---- the log, and failures on demand ---- */

static FILE *log_file(void) {
    static FILE *file;
    const char *path = getenv("M6C_STANDIN_LOG");
    if (!file && path && (file = fopen(path, "w"))) setvbuf(file, NULL, _IOLBF, 0);
    return file;
}

/* Are faults for this process? */
static bool is_chosen(void) {
    const char *chosen = getenv("M6C_STANDIN_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    return !chosen || (rank && strcmp(chosen, rank) == 0);
}

/* Whether this is the N-th call that a variable "FUNCTION:N…" means; *rest is what follows N. */
static bool is_meant(const char *variable, const char *name, int64_t *calls, char **rest) {
    const char *text = getenv(variable);
    size_t n = strlen(name);
    if (!text || strncmp(text, name, n) != 0 || text[n] != ':' || !is_chosen()) return false;
    return strtoll(text + n + 1, rest, 10) == ++*calls;
}

/* The error that the next call of this function is to fail with. */
static CudaResult demanded(const char *name) {
    static int64_t calls;
    char *rest;
    if (!is_meant("M6C_STANDIN_FAIL", name, &calls, &rest)) return 0;
    return *rest == ':' ? atoi(rest + 1) : 719;
}

bool standin_forgotten(const char *name) {
    static int64_t calls;
    char *rest;
    return is_meant("M6C_STANDIN_FORGET", name, &calls, &rest);
}

CudaResult kernel_shall_fail(void) { return demanded("kernel"); }

int standin_call(const char *name, const char *text) {
    FILE *f = log_file();
    if (f) fprintf(f, "%s%s\n", name, text ? text : "");
    CudaResult r = demanded(name);
    queue_is_on_host();
    return r ? r : queue_failure();
}

static CudaResult say(const char *name, Buf *b) {
    CudaResult r = standin_call(name, b->p);
    buf_free(b);
    return r;
}

static PRINTF(2, 3) CudaResult called(const char *name, const char *fmt, ...) {
    Buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    return say(name, &b);
}

/* Logs the call and returns from it when it is to fail. */
#define CALLED(...)                                                                                \
    do {                                                                                           \
        CudaResult r_ = called(__func__, __VA_ARGS__);                                             \
        if (r_) return r_;                                                                         \
    } while (0)

/* ---- the device ---- */

static int capability(void) {
    const char *text = getenv("M6C_STANDIN_SM");
    return text ? atoi(text) : 80;
}

CudaResult cuInit(unsigned flags) {
    CALLED(" %u", flags);
    return capability() ? 0 : CUDA_NO_DEVICE;
}

CudaResult cuDriverGetVersion(int *version) {
    CALLED("%s", "");
    *version = VERSION;
    return 0;
}

CudaResult cuGetErrorName(CudaResult error, const char **text) {
    *text = error == CUDA_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_STANDIN";
    return 0;
}

CudaResult cuGetErrorString(CudaResult error, const char **text) {
    *text = error == CUDA_OUT_OF_MEMORY ? "out of memory" : "what the stand-in was asked for";
    return 0;
}

static int devices(void) {
    const char *text = getenv("M6C_STANDIN_DEVICES");
    return text ? atoi(text) : 1;
}

CudaResult cuDeviceGetCount(int *count) {
    CALLED("%s", "");
    *count = devices();
    return 0;
}

CudaResult cuDeviceGet(CudaDevice *device, int ordinal) {
    CALLED(" %d", ordinal);
    *device = ordinal;
    return ordinal >= 0 && ordinal < devices() ? 0 : INVALID_VALUE;
}

CudaResult cuDeviceGetUuid(CudaUuid *uuid, CudaDevice device) {
    CALLED(" %d", device);
    memset(uuid, 'a' + device, sizeof *uuid);
    return 0;
}

CudaResult cuDeviceGetName(char *name, int size, CudaDevice device) {
    CALLED(" %d", device);
    snprintf(name, (size_t)size, "Stand-in GPU");
    return 0;
}

CudaResult cuDeviceGetAttribute(int *value, int attribute, CudaDevice device) {
    CALLED(" %d of %d", attribute, device);
    switch (attribute) {
    case CUDA_DEVICE_MAJOR: *value = capability() / 10; return 0;
    case CUDA_DEVICE_MINOR: *value = capability() % 10; return 0;
    case CUDA_DEVICE_SHARED: *value = 163 << 10; return 0;
    default: return INVALID_VALUE;
    }
}

CudaResult cuDevicePrimaryCtxRetain(CudaContext *context, CudaDevice device) {
    static int anything;
    CALLED(" %d", device);
    *context = (CudaContext)(void *)&anything;
    return 0;
}

CudaResult cuDevicePrimaryCtxRelease_v2(CudaDevice device) {
    CALLED(" %d", device);
    return 0;
}

CudaResult cuCtxSetCurrent(CudaContext context) {
    CALLED("%s", "");
    return context ? 0 : INVALID_VALUE;
}

CudaResult cuCtxSynchronize(void) {
    CALLED("%s", "");
    return queue_run(NULL, NULL);
}

/* ---- memory ---- */

static void *host_of(CudaAddress a) { return (void *)(uintptr_t)a; }

CudaResult cuMemGetInfo_v2(size_t *unused, size_t *total) {
    CALLED("%s", "");
    *total = device_bytes();
    *unused = *total - device_used;
    return 0;
}

CudaResult cuMemAlloc_v2(CudaAddress *address, size_t bytes) {
    CALLED(" %zu", bytes);
    return allocate(bytes, false, address);
}

CudaResult cuMemFree_v2(CudaAddress address) {
    Buf b = {0};
    standin_put_place(&b, host_of(address));
    CudaResult r = say(__func__, &b);
    if (!r) r = queue_run(NULL, NULL);
    CudaResult s = release(host_of(address), false);
    return r ? r : s;
}

CudaResult cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
    CALLED(" %zu flags=%u", bytes, flags);
    return allocate(bytes, true, host);
}

CudaResult cuMemFreeHost(void *host) {
    Buf b = {0};
    standin_put_place(&b, host);
    CudaResult r = say(__func__, &b);
    if (!r) r = queue_run(NULL, NULL);
    CudaResult s = release(host, true);
    return r ? r : s;
}

CudaResult cuMemcpyAsync(CudaAddress to, CudaAddress from, size_t bytes, CudaStream stream) {
    Buf b = {0};
    buf_printf(&b, " s%d bytes=%zu", stream->index, bytes);
    standin_put_place(&b, host_of(to));
    standin_put_place(&b, host_of(from));
    CudaResult r = say(__func__, &b);
    if (r) return r;
    return queue_push(stream, (Work){.kind = WORK_COPY,
                                     .to = host_of(to),
                                     .from = host_of(from),
                                     .bytes = bytes,
                                     .microseconds = 2});
}

CudaResult cuMemsetD8Async(CudaAddress to, unsigned char byte, size_t bytes, CudaStream stream) {
    Buf b = {0};
    buf_printf(&b, " s%d byte=%d bytes=%zu", stream->index, byte, bytes);
    standin_put_place(&b, host_of(to));
    CudaResult r = say(__func__, &b);
    if (r) return r;
    return queue_push(
        stream,
        (Work){
            .kind = WORK_FILL, .to = host_of(to), .byte = byte, .bytes = bytes, .microseconds = 2});
}

/* ---- streams and events ---- */

CudaResult cuStreamCreate(CudaStream *stream, unsigned flags) {
    CALLED(" flags=%u", flags);
    *stream = stream_new();
    return 0;
}

CudaResult cuStreamDestroy_v2(CudaStream stream) {
    CALLED(" s%d", stream->index);
    return 0;
}

CudaResult cuStreamSynchronize(CudaStream stream) {
    CALLED(" s%d", stream->index);
    return queue_run(stream, NULL);
}

CudaResult cuStreamQuery(CudaStream stream) {
    CALLED(" s%d", stream->index);
    return queue_try(stream, NULL);
}

CudaResult cuStreamWaitEvent(CudaStream stream, CudaEvent event, unsigned flags) {
    CALLED(" s%d e%d flags=%u", stream->index, event->index, flags);
    return standin_forgotten(__func__) ? 0 : queue_wait(stream, event);
}

CudaResult cuEventCreate(CudaEvent *event, unsigned flags) {
    CALLED(" flags=%u", flags);
    *event = event_new();
    return 0;
}

CudaResult cuEventDestroy_v2(CudaEvent event) {
    CALLED(" e%d", event->index);
    return 0;
}

CudaResult cuEventRecord(CudaEvent event, CudaStream stream) {
    CALLED(" e%d s%d", event->index, stream->index);
    return queue_record(stream, event);
}

CudaResult cuEventQuery(CudaEvent event) {
    CALLED(" e%d", event->index);
    return queue_try(NULL, event);
}

CudaResult cuEventSynchronize(CudaEvent event) {
    CALLED(" e%d", event->index);
    return queue_run(NULL, event);
}

CudaResult cuEventElapsedTime(float *milliseconds, CudaEvent begin, CudaEvent end) {
    CALLED(" e%d e%d", begin->index, end->index);
    *milliseconds = (float)((end->time - begin->time) * 1e-3);
    return 0;
}

/* ---- kernels ---- */

struct CUfunc_st {
    void *kernel;
    char name[128];
    int64_t shared; /* that it may have */
};
struct CUmod_st {
    EmuModule *module;
    char name[128];
    VEC(CudaFunction) function;
};

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

CudaResult cuModuleLoad(CudaModule *module, const char *path) {
    CALLED(" %s", last_part(path));
    CudaModule m = xcalloc(1, sizeof *m);
    const char *dot = strrchr(path, '.');
    Buf source = {0};
    buf_printf(&source, "%.*s.cu", (int)(dot ? dot - path : (int)strlen(path)), path);
    Status s = emu_load(source.p, &m->module);
    buf_free(&source);
    snprintf(m->name, sizeof m->name, "%s", last_part(path));
    *module = m;
    if (!s) return 0;
    bool missing = s->code == EXIT_SYSTEM && strstr(s->text, "No such file");
    if (!missing) fprintf(stderr, "standin: %s\n", s->text);
    free(s);
    return missing ? CUDA_FILE_NOT_FOUND : INVALID_IMAGE;
}

CudaResult cuModuleUnload(CudaModule module) {
    CALLED(" %s", module->name);
    emu_unload(module->module);
    for (uint32_t i = 0; i < module->function.n; i++) free(module->function.p[i]);
    vec_free(&module->function);
    free(module);
    return 0;
}

CudaResult cuModuleGetFunction(CudaFunction *function, CudaModule module, const char *name) {
    CALLED(" %s %s", module->name, name);
    void *kernel = emu_find(module->module, name);
    if (!kernel) return CUDA_NOT_FOUND;
    CudaFunction f = xcalloc(1, sizeof *f);
    *f = (struct CUfunc_st){.kernel = kernel, .shared = 48 << 10};
    snprintf(f->name, sizeof f->name, "%s", name);
    vec_push(&module->function, f);
    *function = f;
    return 0;
}

CudaResult cuFuncSetAttribute(CudaFunction function, int attribute, int value) {
    CALLED(" %s %d=%d", function->name, attribute, value);
    if (attribute == CUDA_FUNCTION_DYNAMIC_SHARED) function->shared = value;
    return 0;
}

CudaResult cuLaunchKernel(CudaFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                          unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                          CudaStream stream, void **parameter, void **extra) {
    Buf b = {0};
    int nargs = emu_args(function->kernel);
    buf_printf(&b, " s%d %s grid=%u block=%u shared=%u", stream->index, function->name, grid_x,
               block_x, shared);
    void *const *arg = parameter ? parameter[0] : NULL;
    for (int i = 0; arg && i < nargs; i++) standin_put_place(&b, arg[i]);
    CudaResult r = say(__func__, &b);
    if (r) return r;
    if (grid_x == 0 || block_x == 0 || block_x > 1024 || shared > function->shared || extra ||
        grid_y * grid_z * block_y * block_z != 1 || (nargs > 0 && !arg))
        return INVALID_VALUE;
    void **copy = xcalloc((size_t)nargs + 1, sizeof *copy);
    if (arg) memcpy(copy, arg, (size_t)nargs * sizeof *copy);
    return queue_push(stream, (Work){.kind = WORK_KERNEL,
                                     .kernel = function->kernel,
                                     .blocks = grid_x,
                                     .threads = (int)block_x,
                                     .shared = shared,
                                     .ctx = copy,
                                     .microseconds = 10});
}

CudaResult cuLaunchHostFunc(CudaStream stream, CudaHostFn *fn, void *ctx) {
    CALLED(" s%d", stream->index);
    return queue_push(stream,
                      (Work){.kind = WORK_HOST, .host = fn, .host_ctx = ctx, .microseconds = 10});
}

/* ---- graphs ---- */

struct CUgraphExec_st {
    CudaGraph graph;
};

CudaResult cuStreamBeginCapture_v2(CudaStream stream, int mode) {
    CALLED(" s%d mode=%d", stream->index, mode);
    return queue_capture(stream);
}

CudaResult cuStreamEndCapture(CudaStream stream, CudaGraph *graph) {
    CALLED(" s%d", stream->index);
    return queue_end_capture(stream, graph);
}

CudaResult cuGraphInstantiateWithFlags(CudaGraphExec *exec, CudaGraph graph, uint64_t flags) {
    CALLED(" nodes=%u flags=%" PRIu64, graph->node.n, flags);
    CudaGraphExec e = xcalloc(1, sizeof *e);
    e->graph = graph;
    graph->users++;
    *exec = e;
    return 0;
}

CudaResult cuGraphLaunch(CudaGraphExec exec, CudaStream stream) {
    CALLED(" s%d", stream->index);
    uint32_t n = exec->graph->node.n;
    exec->graph->users++;
    return queue_push(stream, (Work){.kind = WORK_GRAPH,
                                     .graph = exec->graph,
                                     .done = xcalloc((size_t)n + 1, sizeof(bool)),
                                     .left = n});
}

CudaResult cuGraphExecDestroy(CudaGraphExec exec) {
    CALLED("%s", "");
    graph_release(exec->graph);
    free(exec);
    return 0;
}

CudaResult cuGraphDestroy(CudaGraph graph) {
    CALLED("%s", "");
    graph_release(graph);
    return 0;
}

/* ---- for cuBLASLt and NCCL ---- */

int standin_stream_index(CudaStream stream) { return stream->index; }

int standin_push(CudaStream stream, void (*fn)(const void *), const void *ctx, size_t bytes,
                 double microseconds) {
    void *copy = xmalloc(bytes);
    memcpy(copy, ctx, bytes);
    return queue_push(
        stream, (Work){.kind = WORK_CALL, .fn = fn, .ctx = copy, .microseconds = microseconds});
}

int standin_push_exchange(CudaStream stream, bool (*fn)(void *), void *ctx) {
    return queue_push(stream, (Work){.kind = WORK_EXCHANGE, .exchange = fn, .exchange_ctx = ctx});
}
