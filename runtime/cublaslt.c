/* cublaslt.c: loading cuBLASLt. */
#include "runtime/cublaslt.h"

#include <dlfcn.h>
#include <stdlib.h>

static void *load_library(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "/usr/local/cuda/lib64/libcublasLt.so.12"};
    const char *path = getenv("M6C_CUBLASLT");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    for (size_t i = 0; i < COUNT(names) && !library && !path; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

Status cublaslt_open(CublasLt *lt) {
    lt->library = load_library();
    if (!lt->library)
        return status_make(
            EXIT_SYSTEM,
            "cannot load cuBLASLt (%s): install libcublasLt.so.13 or .12 of the CUDA "
            "toolkit, or say in M6C_CUBLASLT where it is",
            dlerror());
#define LT(type, name, args)                                                                       \
    if (!library_symbol(lt->library, #name, &lt->name))                                            \
        return status_make(EXIT_SYSTEM, "cuBLASLt has no function " #name);
#include "runtime/cublaslt.def"
#undef LT
    return NULL;
}

Status cublaslt_status(const CublasLt *lt, int status, const char *call) {
    if (status == 0) return NULL;
    return status_make(EXIT_SYSTEM, "%s: %s (%d)", call, lt->cublasLtGetStatusString(status),
                       status);
}
