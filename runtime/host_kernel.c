/* host_kernel.c: see host_kernel.h. */
#include "runtime/host_kernel.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* DIR/X.so for the source X.c. */
static void library_path(const char *dir, const char *source, Buf *path) {
    const char *dot = strrchr(source, '.');
    buf_printf(path, "%s/%.*s.so", dir[0] ? dir : ".",
               dot ? (int)(dot - source) : (int)strlen(source), source);
}

static Status load_library(HostLibraries *l, const char *dir, const char *source, void **handle) {
    for (uint32_t i = 0; i < l->library.n; i++)
        if (strcmp(l->library.p[i].source, source) == 0) {
            *handle = l->library.p[i].handle;
            return NULL;
        }
    Buf path = {0};
    library_path(dir, source, &path);
    *handle = dlopen(path.p, RTLD_NOW | RTLD_LOCAL);
    buf_free(&path);
    if (!*handle) return status_make(EXIT_INPUT, "cannot load the plan's kernels: %s", dlerror());
    vec_push(&l->library, ((HostLibrary){source, *handle}));
    return NULL;
}

Status host_kernel_load(HostLibraries *l, const char *dir, const PlanKernel *k, HostKernel **out) {
    void *handle;
    TRY(load_library(l, dir, k->source, &handle));
    void *symbol = dlsym(handle, k->name);
    if (!symbol)
        return status_make(EXIT_INPUT, "the compiled %s has no kernel %s: compile the model again",
                           k->source, k->name);
    memcpy(out, &symbol, sizeof symbol);
    return NULL;
}

void host_kernel_unload(HostLibraries *l) {
    for (uint32_t i = 0; i < l->library.n; i++) dlclose(l->library.p[i].handle);
    vec_free(&l->library);
}

typedef struct {
    HostKernel *fn;
    void *const *arg;
} Launch;

static void launch_part(void *ctx, int64_t lo, int64_t hi, int thread) {
    const Launch *l = ctx;
    (void)thread;
    l->fn(l->arg, lo, hi);
}

void host_kernel_run(HostKernel *fn, void *const *arg, int64_t items, int64_t grain, Pool *pool) {
    if (pool)
        pool_run(pool, launch_part, &(Launch){fn, arg}, items, grain);
    else if (items > 0)
        fn(arg, 0, items);
}
