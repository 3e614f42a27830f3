/* cuda_api.c: loading the driver. */
#include "runtime/cuda_api.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

bool library_symbol(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

Status cuda_api_open(CudaApi *api) {
    const char *path = getenv("M6C_CUDA_DRIVER");
    api->library = dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!api->library)
        return status_make(EXIT_SYSTEM,
                           "cannot load the CUDA driver (%s): is there an NVIDIA GPU, and its "
                           "driver installed?",
                           dlerror());
#define CUDA(name, args)                                                                           \
    if (!library_symbol(api->library, #name, &api->name))                                          \
        return status_make(EXIT_SYSTEM, "the CUDA driver has no function " #name ": it is too "    \
                                        "old");
#include "runtime/cuda_api.def"
#undef CUDA
    return NULL;
}

Status cuda_status(const CudaApi *api, CudaResult result, const char *call) {
    const char *name = NULL, *text = NULL;
    if (result == 0) return NULL;
    api->cuGetErrorName(result, &name);
    api->cuGetErrorString(result, &text);
    return status_make(EXIT_SYSTEM, "%s: %s (%s, %d)", call, text ? text : "unknown error",
                       name ? name : "?", result);
}
