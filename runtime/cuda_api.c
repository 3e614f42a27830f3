/* cuda_api.c: loading the driver. */
#include "runtime/cuda_api.h"

#include <dlfcn.h>
#include <stdlib.h>

Status cuda_api_open(CudaApi *api) {
    const char *path = getenv("M6C_CUDA_DRIVER");
    const LibraryFunction functions[] = {
#define CUDA(name, args) {#name, &api->name},
#include "runtime/cuda_api.def"
#undef CUDA
    };
    if (!path) path = "libcuda.so.1";
    void *library = library_open(&path, 1);
    if (!library)
        return status_make(EXIT_SYSTEM,
                           "cannot load the CUDA driver (%s): is there an NVIDIA GPU, and its "
                           "driver installed?",
                           dlerror());
    const char *missing = library_find(library, functions, COUNT(functions));
    if (!missing) return NULL;
    return status_make(EXIT_SYSTEM, "the CUDA driver has no function %s: it is too old", missing);
}

Status cuda_status(const CudaApi *api, CudaResult result, const char *call) {
    const char *name = NULL, *text = NULL;
    if (result == 0) return NULL;
    api->cuGetErrorName(result, &name);
    api->cuGetErrorString(result, &text);
    return status_make(EXIT_SYSTEM, "%s: %s (%s, %d)", call, text ? text : "unknown error",
                       name ? name : "?", result);
}
