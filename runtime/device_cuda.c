/* device_cuda.c: an NVIDIA GPU through the driver's interface.
 *
 * One allocation an arena (the host's is pinned, the disk's is a file), one for staging, one for
 * the products' workspace, all before the first step. A plan's stream is a stream, a step that
 * others wait for has an event. Nothing is waited for but in sync() and arrive(): a kernel that
 * fails is noticed there, and which one it was is then only known with M6C_CUDA_SYNC=1, which waits
 * after every call. */
#include "runtime/device_cuda.h"
#include "runtime/host_memory.h"

#include <stdlib.h>
#include <string.h>

/* ---- open and close ---- */

/* A rank's GPU is that of its place on the machine. Where each sees a single one, whoever started
 * them has shared them out (cuda_join looks whether they are different). */
static Status choose_device(const Cuda *d, int count, int *index) {
    *index = d->place < count ? d->place : 0;
    if (d->sharing <= count || count == 1) return NULL;
    return status_make(EXIT_SYSTEM,
                       "%d ranks on this machine need a GPU each, CUDA shows %d (is "
                       "CUDA_VISIBLE_DEVICES set?)",
                       d->sharing, count);
}

static Status find_device(Cuda *d) {
    int count = 0;
    CudaResult r = d->api.cuInit(0);
    if (r == CUDA_NO_DEVICE) return status_make(EXIT_SYSTEM, "this machine has no CUDA device");
    TRY(cuda_status(&d->api, r, "cuInit"));
    CUDA_CALL(d, cuDeviceGetCount, &count);
    if (count == 0) return status_make(EXIT_SYSTEM, "this machine has no CUDA device");
    int index = 0;
    TRY(choose_device(d, count, &index));
    CUDA_CALL(d, cuDeviceGet, &d->device, index);
    CUDA_CALL(d, cuDeviceGetName, d->name, (int)sizeof d->name, d->device);
    CUDA_CALL(d, cuDeviceGetAttribute, &d->major, CUDA_DEVICE_MAJOR, d->device);
    CUDA_CALL(d, cuDeviceGetAttribute, &d->minor, CUDA_DEVICE_MINOR, d->device);
    return NULL;
}

Status device_cuda_target(char name[16]) {
    Cuda d = {.device = 0};
    TRY(cuda_api_open(&d.api));
    TRY(find_device(&d));
    snprintf(name, 16, "sm_%d%d", d.major, d.minor);
    return NULL;
}

static Status open_context(Cuda *d) {
    CUDA_CALL(d, cuDevicePrimaryCtxRetain, &d->context, d->device);
    CUDA_CALL(d, cuCtxSetCurrent, d->context);
    d->streams = plan_streams(d->plan) + 1;
    d->stream = xcalloc((size_t)d->streams, sizeof *d->stream);
    for (int i = 0; i < d->streams; i++)
        if (i == 0 || i == d->streams - 1 || plan_has_stream(d->plan, i))
            CUDA_CALL(d, cuStreamCreate, &d->stream[i], CUDA_STREAM_NON_BLOCKING);
    return NULL;
}

static void cuda_close(Device *base);

static Status cuda_open(const DeviceConfig *config, Device **out) {
    Cuda *d = xcalloc(1, sizeof *d);
    const char *synchronous = getenv("M6C_CUDA_SYNC");
    d->base.ops = &device_cuda;
    d->plan = config->plan;
    d->pool = config->pool;
    d->folder = config->disk && config->disk[0] ? config->disk : ".";
    d->place = config->place;
    d->sharing = config->sharing;
    d->synchronous = synchronous && strcmp(synchronous, "0") != 0;
    d->no_graph = config->no_graph || d->synchronous || cuda_has_collectives(d->plan);
    if (config->pool) pool_unpin_thread(config->pool); /* the driver's threads inherit our cores */
    Status s = cuda_api_open(&d->api);
    if (!s && cuda_has_collectives(d->plan)) s = nccl_api_open(&d->nccl);
    if (!s) s = find_device(d);
    if (!s) s = cuda_check_target(d);
    if (!s) s = host_memory_check(d->plan->arena[MEM_HOST]);
    if (!s) s = open_context(d);
    if (s) {
        cuda_close(&d->base);
        return s;
    }
    *out = &d->base;
    return NULL;
}

static void close_context(Cuda *d) {
    const CudaApi *api = &d->api;
    api->cuCtxSynchronize();
    cuda_unload_products(d);
    if (d->graph) api->cuGraphExecDestroy(d->graph);
    for (uint32_t i = 0; i < d->module.n; i++) api->cuModuleUnload(d->module.p[i].handle);
    for (uint32_t i = 0; d->event && i < d->plan->step.n + DEVICE_EVENTS; i++)
        if (d->event[i]) api->cuEventDestroy_v2(d->event[i]);
    for (int i = 0; i < d->streams; i++)
        if (d->stream[i]) api->cuStreamDestroy_v2(d->stream[i]);
    if (d->stage) api->cuMemFree_v2(d->stage);
    if (d->stage_host) api->cuMemFreeHost(d->stage_host);
    if (d->bounce) api->cuMemFreeHost(d->bounce);
    api->cuDevicePrimaryCtxRelease_v2(d->device);
}

/* What fails here failed before: nothing is left to be told. */
static void cuda_close(Device *base) {
    Cuda *d = (Cuda *)base;
    if (d->context) close_context(d);
    cuda_close_host(d);
    vec_free(&d->module);
    free(d->stream);
    free(d->event);
    free(d->kernel);
    free(d);
}

Status cuda_called(Cuda *d, int stream) {
    if (!d->synchronous) return NULL;
    if (d->comm) return cuda_await(d, NULL, d->stream[stream]);
    CUDA_CALL(d, cuStreamSynchronize, d->stream[stream]);
    return cuda_host_failure(d);
}

/* ---- memory ---- */

static void put_gib(Buf *b, int64_t bytes) {
    if (bytes >= INT64_C(1) << 30)
        buf_printf(b, "%.2f GiB", (double)bytes / (double)(1 << 30));
    else
        buf_printf(b, "%.2f MiB", (double)bytes / (double)(1 << 20));
}

/* What the plan needs on the device in all, beside what the device has. */
static Status too_little(const Cuda *d, int64_t staging) {
    Buf b = {0};
    size_t unused = 0, total = 0;
    int64_t workspace = cuda_workspace_bytes(d->plan);
    d->api.cuMemGetInfo_v2(&unused, &total);
    buf_puts(&b, "the plan needs ");
    put_gib(&b, d->plan->arena[MEM_DEVICE] + staging + workspace);
    buf_puts(&b, " of device memory (tensors ");
    put_gib(&b, d->plan->arena[MEM_DEVICE]);
    buf_puts(&b, ", inputs on their way ");
    put_gib(&b, staging);
    buf_puts(&b, ", workspace of products ");
    put_gib(&b, workspace);
    buf_printf(&b, "); %s has ", d->name);
    put_gib(&b, (int64_t)unused);
    buf_puts(&b, " free of ");
    put_gib(&b, (int64_t)total);
    Status s = status_make(EXIT_SYSTEM, "%s", b.p);
    buf_free(&b);
    return s;
}

Status cuda_allocate(Cuda *d, int64_t bytes, CudaAddress *out) {
    CudaResult r = d->api.cuMemAlloc_v2(out, (size_t)bytes);
    return r == CUDA_OUT_OF_MEMORY ? too_little(d, d->stage_bytes)
                                   : cuda_status(&d->api, r, "cuMemAlloc_v2");
}

Status cuda_allocate_host(Cuda *d, int64_t bytes, void **out) {
    CudaResult r = d->api.cuMemHostAlloc(out, (size_t)bytes, 0);
    if (r == CUDA_OUT_OF_MEMORY)
        return status_make(EXIT_SYSTEM, "cannot get %lld bytes of pinned host memory",
                           (long long)bytes);
    TRY(cuda_status(&d->api, r, "cuMemHostAlloc"));
    memset(*out, 0, (size_t)bytes);
    return NULL;
}

static Status cuda_staging(Device *base, int64_t device_bytes, int64_t host_bytes, void **device,
                           void **host) {
    Cuda *d = (Cuda *)base;
    size_t unused, total;
    CUDA_CALL(d, cuMemGetInfo_v2, &unused, &total);
    int64_t need = d->plan->arena[MEM_DEVICE] + device_bytes + cuda_workspace_bytes(d->plan);
    if (need > (int64_t)unused) return too_little(d, device_bytes);
    if (device_bytes > 0) TRY(cuda_allocate(d, device_bytes, &d->stage));
    if (host_bytes > 0) TRY(cuda_allocate_host(d, host_bytes, &d->stage_host));
    d->stage_bytes = device_bytes;
    *device = (void *)(uintptr_t)d->stage;
    *host = d->stage_host;
    return NULL;
}

static int64_t cuda_beside(const Device *base) {
    const Cuda *d = (const Cuda *)base;
    int64_t disk = d->disk ? disk_buffer_bytes(d->disk) + 2 * CUDA_BOUNCE : 0;
    return d->stage_bytes + cuda_workspace_bytes(d->plan) + disk;
}

static Status cuda_alloc(Device *base, Mem mem, int64_t bytes, void **out) {
    Cuda *d = (Cuda *)base;
    CudaAddress address = 0;
    *out = NULL;
    if (bytes == 0) return NULL;
    switch (mem) {
    case MEM_DEVICE:
        TRY(cuda_allocate(d, bytes, &address));
        *out = (void *)(uintptr_t)address;
        CUDA_CALL(d, cuMemsetD8Async, address, 0, (size_t)bytes, d->stream[0]);
        break;
    case MEM_HOST: TRY(cuda_allocate_host(d, bytes, out)); break;
    case MEM_DISK:
        TRY(cuda_open_disk(d, bytes));
        *out = disk_base(d->disk);
        break;
    case MEM_COUNT: BUG("no such memory");
    }
    d->arena[mem] = *out;
    return NULL;
}

static void cuda_free(Device *base, Mem mem, void *p, int64_t bytes) {
    Cuda *d = (Cuda *)base;
    (void)bytes;
    if (d->work.n > 0) d->api.cuCtxSynchronize(); /* host functions that are still to come */
    if (p && mem == MEM_DEVICE) d->api.cuMemFree_v2((CudaAddress)(uintptr_t)p);
    if (p && mem == MEM_HOST) d->api.cuMemFreeHost(p);
    if (mem != MEM_DISK) return;
    disk_close(d->disk);
    d->disk = NULL;
}

static Status cuda_copy(Device *base, int stream, void *to, const void *from, int64_t bytes) {
    Cuda *d = (Cuda *)base;
    if (cuda_on_disk(d, to) || cuda_on_disk(d, from))
        return cuda_copy_disk(d, stream, to, from, bytes);
    CUDA_CALL(d, cuMemcpyAsync, (CudaAddress)(uintptr_t)to, (CudaAddress)(uintptr_t)from,
              (size_t)bytes, d->stream[stream]);
    return cuda_called(d, stream);
}

static Status cuda_fill(Device *base, int stream, void *to, int64_t bytes) {
    Cuda *d = (Cuda *)base;
    if (cuda_on_disk(d, to)) return cuda_copy_disk(d, stream, to, NULL, bytes);
    CUDA_CALL(d, cuMemsetD8Async, (CudaAddress)(uintptr_t)to, 0, (size_t)bytes, d->stream[stream]);
    return cuda_called(d, stream);
}

/* ---- streams and events ---- */

static Status make_events(Cuda *d) {
    const Plan *p = d->plan;
    bool *wanted = xcalloc((size_t)p->step.n + DEVICE_EVENTS, sizeof *wanted);
    for (uint32_t i = 0; i < p->step.n; i++)
        for (uint32_t j = 0; j < p->step.p[i].nwait; j++) wanted[p->step.p[i].wait[j]] = true;
    d->event = xcalloc((size_t)p->step.n + DEVICE_EVENTS, sizeof *d->event);
    CudaResult r = 0;
    for (uint32_t i = 0; r == 0 && i < p->step.n; i++)
        if (wanted[i]) r = d->api.cuEventCreate(&d->event[i], CUDA_EVENT_DISABLE_TIMING);
    free(wanted);
    return cuda_status(&d->api, r, "cuEventCreate");
}

/* The executor's own are made when it first uses them; the host sleeps while it waits for one. */
static Status cuda_record(Device *base, int stream, uint32_t event) {
    Cuda *d = (Cuda *)base;
    ASSERT(event < d->plan->step.n + DEVICE_EVENTS);
    if (!d->event[event])
        CUDA_CALL(d, cuEventCreate, &d->event[event],
                  CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_BLOCKING_SYNC);
    CUDA_CALL(d, cuEventRecord, d->event[event], d->stream[stream]);
    return NULL;
}

static Status cuda_wait(Device *base, int stream, uint32_t event) {
    Cuda *d = (Cuda *)base;
    CUDA_CALL(d, cuStreamWaitEvent, d->stream[stream], d->event[event], 0);
    return NULL;
}

static Status cuda_sync(Device *base) {
    Cuda *d = (Cuda *)base;
    if (d->comm) return cuda_await(d, NULL, NULL);
    TRY(cuda_status(&d->api, d->api.cuCtxSynchronize(), "cuCtxSynchronize"));
    return cuda_host_failure(d);
}

static Status cuda_arrive(Device *base, uint32_t event) {
    Cuda *d = (Cuda *)base;
    if (d->comm) return cuda_await(d, d->event[event], NULL);
    CUDA_CALL(d, cuEventSynchronize, d->event[event]);
    return cuda_host_failure(d);
}

/* ---- graphs ---- */

static Status cuda_replay(Device *base, bool *done) {
    Cuda *d = (Cuda *)base;
    *done = d->graph != NULL;
    if (d->graph) CUDA_CALL(d, cuGraphLaunch, d->graph, d->stream[0]);
    return NULL;
}

/* Relaxed: cuBLASLt may load code of its own meanwhile. */
static Status cuda_capture(Device *base, bool begin) {
    Cuda *d = (Cuda *)base;
    CudaGraph graph;
    if (d->no_graph) return NULL;
    if (begin) {
        CUDA_CALL(d, cuStreamBeginCapture_v2, d->stream[0], CUDA_CAPTURE_RELAXED);
        return NULL;
    }
    CUDA_CALL(d, cuStreamEndCapture, d->stream[0], &graph);
    CudaResult r = d->api.cuGraphInstantiateWithFlags(&d->graph, graph, 0);
    d->api.cuGraphDestroy(graph);
    TRY(cuda_status(&d->api, r, "cuGraphInstantiateWithFlags"));
    CUDA_CALL(d, cuGraphLaunch, d->graph, d->stream[0]);
    return NULL;
}

/* ---- loading ---- */

static Status clear_arenas(Cuda *d) {
    const int64_t *bytes = d->plan->arena;
    TRY(cuda_sync(&d->base));
    if (bytes[MEM_HOST] > 0) memset(d->arena[MEM_HOST], 0, (size_t)bytes[MEM_HOST]);
    if (bytes[MEM_DEVICE] > 0) TRY(cuda_fill(&d->base, 0, d->arena[MEM_DEVICE], bytes[MEM_DEVICE]));
    return cuda_sync(&d->base);
}

static Status cuda_load(Device *base, const Plan *plan, const char *dir) {
    Cuda *d = (Cuda *)base;
    bool touched = false;
    ASSERT(plan == d->plan);
    TRY(make_events(d));
    TRY(cuda_load_kernels(d, dir));
    TRY(cuda_load_products(d, &touched));
    return touched ? clear_arenas(d) : cuda_sync(base);
}

const DeviceOps device_cuda = {
    .name = "cuda",
    .doc = "an NVIDIA GPU: kernels compiled by NVRTC, products by cuBLASLt",
    .visible = 1u << MEM_HOST,
    .open = cuda_open,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .load = cuda_load,
    .launch = cuda_launch,
    .gemm = cuda_gemm,
    .record = cuda_record,
    .wait = cuda_wait,
    .sync = cuda_sync,
    .collective = cuda_collective,
    .join = cuda_join,
    .leave = cuda_leave,
    .collective_at = cuda_collective_at,
    .close = cuda_close,
    .staging = cuda_staging,
    .beside = cuda_beside,
    .arrive = cuda_arrive,
    .capture = cuda_capture,
    .replay = cuda_replay,
};
