/* nccl_api.h: the part of NCCL that m6c uses, declared here so that it builds without it, and
 * loaded with dlopen when a plan for GPUs has collectives. */
#ifndef M6C_NCCL_API_H
#define M6C_NCCL_API_H

#include "runtime/cuda_api.h"

typedef struct ncclComm *NcclComm;
typedef struct {
    char internal[128];
} NcclId;

/* As of NCCL 2.14; later versions take what is missing for not said. */
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking; /* 0: calls do not wait for other ranks */
} NcclConfig;

/* NCCL's numbers. */
enum {
    NCCL_SYSTEM_ERROR = 2,
    NCCL_INVALID_USAGE = 5,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7,
    NCCL_VERSION_MIN = 21400,
    NCCL_SUM = 0,
    NCCL_MAX = 2,
    NCCL_MIN = 3,
    NCCL_UINT8 = 1,
    NCCL_INT32 = 2,
    NCCL_INT64 = 4,
    NCCL_FLOAT16 = 6,
    NCCL_FLOAT32 = 7,
    NCCL_FLOAT64 = 8,
    NCCL_BFLOAT16 = 9
};
#define NCCL_CONFIG_MAGIC 0xcafebeefu

typedef struct {
#define NCCL(type, name, args) type(*name) args;
#include "runtime/nccl_api.def"
#undef NCCL
} NcclApi;

/* The library is libnccl.so.2, or what M6C_NCCL names. EXIT_SYSTEM when it is not there, lacks a
 * function or is too old. It stays loaded. */
Status nccl_api_open(NcclApi *api);
int nccl_dtype(Dtype d);
int nccl_reduce(ReduceOp op);

#endif
