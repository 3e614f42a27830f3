/* gpu.c: see gpu.h. */
#include "tests/gpu/gpu.h"

#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "codegen/cuda_device_text.h"

enum { OLDEST = 80 };

/* ---- the device ---- */

/* Its own architecture, or the newest that m6c knows and that is not newer. */
static void find_arch(Gpu *g) {
    for (int n = g->major * 10 + g->minor; n >= OLDEST; n--) {
        snprintf(g->arch, sizeof g->arch, "sm_%d", n);
        Status s = nvrtc_check_arch(g->arch);
        free(s);
        if (!s) return;
    }
    snprintf(g->arch, sizeof g->arch, "sm_%d%d", g->major, g->minor);
}

static Status find_device(Gpu *g) {
    int count = 0;
    CudaResult r = g->api.cuInit(0);
    if (r == 0) r = g->api.cuDeviceGetCount(&count);
    if (r == CUDA_NO_DEVICE || (r == 0 && count == 0))
        return status_make(EXIT_SYSTEM, "this machine has no CUDA device");
    TRY(cuda_status(&g->api, r, "cuInit"));
    GPU_TRY(g, cuDeviceGet, &g->device, 0);
    GPU_TRY(g, cuDeviceGetName, g->name, (int)sizeof g->name, g->device);
    GPU_TRY(g, cuDeviceGetAttribute, &g->major, CUDA_DEVICE_MAJOR, g->device);
    GPU_TRY(g, cuDeviceGetAttribute, &g->minor, CUDA_DEVICE_MINOR, g->device);
    GPU_TRY(g, cuDriverGetVersion, &g->driver);
    g->standin = strcmp(g->name, "Stand-in GPU") == 0;
    find_arch(g);
    return NULL;
}

Status gpu_open(Gpu *g) {
    *g = (Gpu){.device = 0};
    TRY(cuda_api_open(&g->api));
    TRY(find_device(g));
    GPU_TRY(g, cuDevicePrimaryCtxRetain, &g->context, g->device);
    GPU_TRY(g, cuCtxSetCurrent, g->context);
    GPU_TRY(g, cuStreamCreate, &g->stream, CUDA_STREAM_NON_BLOCKING);
    return NULL;
}

/* What fails here failed before. */
void gpu_close(Gpu *g) {
    if (!g->context) return;
    g->api.cuCtxSynchronize();
    if (g->stream) g->api.cuStreamDestroy_v2(g->stream);
    g->api.cuDevicePrimaryCtxRelease_v2(g->device);
}

int gpu_attribute(const Gpu *g, int attribute) {
    int value = 0;
    return g->api.cuDeviceGetAttribute(&value, attribute, g->device) == 0 ? value : 0;
}

/* ---- kernels ---- */

/* DIR/NAME.cu and what NVRTC makes of it. */
static Status compile(const Gpu *g, const char *text, const char *dir, const char *name) {
    Buf full = {0}, path = {0};
    if (strncmp(text, "#ifndef M6C_EMULATED", 20) != 0)
        buf_printf(&full, "#ifndef M6C_EMULATED\n%s#endif\n", cuda_device_text);
    buf_puts(&full, text);
    buf_printf(&path, "%s/%s", dir, name);
    Status s = file_write_atomic(path.p, full.p, full.n);
    CodegenSource source = {name, full.p, hash_bytes(full.p, full.n, 0)};
    CodegenOptions o = {.dir = dir};
    if (!s && !g->standin) s = nvrtc_compile(&o, &source, 1, g->arch);
    buf_free(&full);
    buf_free(&path);
    return s;
}

/* The driver compiles PTX for devices that are newer than all architectures known. */
static const char *extension(const Gpu *g) {
    return atoi(g->arch + 3) / 10 == g->major ? "cubin" : "ptx";
}

Status gpu_load(Gpu *g, const char *cu_path, const char *dir, CudaModule *out) {
    const char *slash = strrchr(cu_path, '/'), *name = slash ? slash + 1 : cu_path;
    const char *dot = strrchr(name, '.');
    char *text = NULL;
    size_t n;
    TRY(file_read(cu_path, &text, &n));
    Status s = compile(g, text, dir, name);
    free(text);
    Buf object = {0};
    buf_printf(&object, "%s/%.*s.%s", dir, dot ? (int)(dot - name) : (int)strlen(name), name,
               extension(g));
    if (!s) s = cuda_status(&g->api, g->api.cuModuleLoad(out, object.p), "cuModuleLoad");
    buf_free(&object);
    return s;
}
