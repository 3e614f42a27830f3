/* emulator_device.c: what emulator.h promises, done by a GPU: the tests of kernels that are written
 * for the emulator, linked with this instead of it, run on the hardware. Buffers are pinned memory
 * of the host, which the GPU reaches at the same addresses; seeds mean nothing. */
#include "tests/gpu/emulator.h"
#include "tests/gpu/gpu.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MARGIN = 4096, MARGIN_BYTE = 0x5a, PLAIN_SHARED = 48 << 10 };

struct EmuModule {
    CudaModule handle;
    char dir[32];
};

typedef struct {
    char *whole; /* margins around what was asked for */
    int64_t bytes;
} Memory;

static struct {
    Gpu gpu;
    VEC(Memory) memory;
} own;

/* The first buffer or module opens the device, for good. */
static Status open_device(void) {
    if (own.gpu.context) return NULL;
    return gpu_open(&own.gpu);
}

/* ---- modules ---- */

Status emu_load(const char *cu_path, EmuModule **out) {
    TRY(open_device());
    EmuModule *m = xcalloc(1, sizeof *m);
    strcpy(m->dir, "/tmp/m6c-gpu-XXXXXX");
    Status s = mkdtemp(m->dir) ? gpu_load(&own.gpu, cu_path, m->dir, &m->handle)
                               : status_make(EXIT_SYSTEM, "cannot make a folder in /tmp");
    *out = m;
    if (!s) return NULL;
    emu_unload(m);
    *out = NULL;
    return s;
}

void emu_unload(EmuModule *m) {
    Buf command = {0};
    if (m->handle) own.gpu.api.cuModuleUnload(m->handle);
    buf_printf(&command, "rm -r %s", m->dir);
    if (system(command.p) != 0) fprintf(stderr, "%s failed\n", command.p);
    buf_free(&command);
    free(m);
}

void *emu_find(EmuModule *m, const char *kernel) {
    CudaFunction f;
    return own.gpu.api.cuModuleGetFunction(&f, m->handle, kernel) == 0 ? f : NULL;
}

/* ---- memory ---- */

static size_t whole_bytes(int64_t bytes) { return (size_t)bytes + 2 * MARGIN; }

void *emu_buffer(int64_t bytes) {
    Memory m = {.bytes = bytes};
    void *p = NULL;
    Status s = open_device();
    if (!s)
        s = cuda_status(&own.gpu.api, own.gpu.api.cuMemHostAlloc(&p, whole_bytes(bytes), 0),
                        "cuMemHostAlloc");
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(s->code);
    }
    m.whole = p;
    memset(m.whole, MARGIN_BYTE, whole_bytes(bytes));
    memset(m.whole + MARGIN, 0xff, (size_t)bytes);
    vec_push(&own.memory, m);
    return m.whole + MARGIN;
}

void emu_buffer_free(void *p) {
    for (uint32_t i = 0; p && i < own.memory.n; i++)
        if (own.memory.p[i].whole + MARGIN == p) {
            own.gpu.api.cuMemFreeHost(own.memory.p[i].whole);
            own.memory.p[i] = own.memory.p[--own.memory.n];
            return;
        }
}

static Status check_margins(void) {
    for (uint32_t i = 0; i < own.memory.n; i++) {
        const Memory *m = &own.memory.p[i];
        for (int64_t j = 0; j < MARGIN; j++)
            if (m->whole[j] != MARGIN_BYTE || m->whole[MARGIN + m->bytes + j] != MARGIN_BYTE)
                return status_make(EXIT_SYSTEM, "a kernel wrote outside a buffer of %lld bytes",
                                   (long long)m->bytes);
    }
    return NULL;
}

/* ---- launches ---- */

Status emu_launch(void *kernel, int64_t blocks, int threads, int64_t shared, void *const *arg,
                  uint64_t seed) {
    Gpu *g = &own.gpu;
    void *parameter[] = {(void *)arg};
    (void)seed;
    if (!kernel) return status_make(EXIT_INPUT, "no such kernel");
    CudaFunction f = kernel;
    if (shared > PLAIN_SHARED)
        GPU_TRY(g, cuFuncSetAttribute, f, CUDA_FUNCTION_DYNAMIC_SHARED, (int)shared);
    GPU_TRY(g, cuLaunchKernel, f, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1, (unsigned)shared,
            g->stream, parameter, NULL);
    GPU_TRY(g, cuStreamSynchronize, g->stream);
    return check_margins();
}
