/* cublaslt.c: loading cuBLASLt. */
#include "runtime/cublaslt.h"

#include <dlfcn.h>
#include <stdlib.h>

static void *load_library(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "/usr/local/cuda/lib64/libcublasLt.so.12"};
    const char *path = getenv("M6C_CUBLASLT");
    return path ? library_open(&path, 1) : library_open(names, COUNT(names));
}

Status cublaslt_open(CublasLt *lt) {
    const LibraryFunction functions[] = {
#define LT(type, name, args) {#name, &lt->name},
#include "runtime/cublaslt.def"
#undef LT
    };
    void *library = load_library();
    if (!library)
        return status_make(
            EXIT_SYSTEM,
            "cannot load cuBLASLt (%s): install libcublasLt.so.13 or .12 of the CUDA "
            "toolkit, or say in M6C_CUBLASLT where it is",
            dlerror());
    const char *missing = library_find(library, functions, COUNT(functions));
    return missing ? status_make(EXIT_SYSTEM, "cuBLASLt has no function %s", missing) : NULL;
}

Status cublaslt_status(const CublasLt *lt, int status, const char *call) {
    if (status == 0) return NULL;
    return status_make(EXIT_SYSTEM, "%s: %s (%d)", call, lt->cublasLtGetStatusString(status),
                       status);
}
