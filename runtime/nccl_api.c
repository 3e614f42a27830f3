/* nccl_api.c: loading NCCL. */
#include "runtime/nccl_api.h"

#include <dlfcn.h>
#include <stdlib.h>

static Status check_version(const NcclApi *api) {
    int version = 0;
    api->ncclGetVersion(&version);
    if (version >= NCCL_VERSION_MIN) return NULL;
    return status_make(EXIT_SYSTEM, "this NCCL is too old (%d): m6c needs 2.14", version);
}

Status nccl_api_open(NcclApi *api) {
    const char *path = getenv("M6C_NCCL");
    const LibraryFunction functions[] = {
#define NCCL(type, name, args) {#name, &api->name},
#include "runtime/nccl_api.def"
#undef NCCL
    };
    if (!path) path = "libnccl.so.2";
    void *library = library_open(&path, 1);
    if (!library)
        return status_make(EXIT_SYSTEM,
                           "cannot load NCCL (%s), which GPUs of several ranks need: install "
                           "NVIDIA's package libnccl2 (or pip's nvidia-nccl-cu13), or say in "
                           "M6C_NCCL where libnccl.so.2 is",
                           dlerror());
    const char *missing = library_find(library, functions, COUNT(functions));
    if (!missing) return check_version(api);
    return status_make(EXIT_SYSTEM, "NCCL has no function %s: m6c needs 2.14 or newer", missing);
}

int nccl_dtype(Dtype d) {
    static const int of[DT_COUNT] = {
        [DT_F32] = NCCL_FLOAT32, [DT_F64] = NCCL_FLOAT64, [DT_BF16] = NCCL_BFLOAT16,
        [DT_F16] = NCCL_FLOAT16, [DT_I32] = NCCL_INT32,   [DT_I64] = NCCL_INT64,
        [DT_BOOL] = NCCL_UINT8};
    return of[d];
}

int nccl_reduce(ReduceOp op) {
    static const int of[REDUCE_COUNT] = {
        [REDUCE_SUM] = NCCL_SUM, [REDUCE_MAX] = NCCL_MAX, [REDUCE_MIN] = NCCL_MIN};
    return of[op];
}
