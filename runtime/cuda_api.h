/* cuda_api.h: the part of the CUDA driver's interface that m6c uses, declared here so that it
 * builds without the toolkit, and loaded with dlopen so that it starts without a driver. */
#ifndef M6C_CUDA_API_H
#define M6C_CUDA_API_H

#include "ir/base.h"

typedef int CudaResult, CudaDevice;
typedef uint64_t CudaAddress; /* of the device or of pinned host memory: there is one space */
typedef struct CUctx_st *CudaContext;
typedef struct CUstream_st *CudaStream;
typedef struct CUevent_st *CudaEvent;
typedef struct CUmod_st *CudaModule;
typedef struct CUfunc_st *CudaFunction;
typedef struct CUgraph_st *CudaGraph;
typedef struct CUgraphExec_st *CudaGraphExec;
typedef void CudaHostFn(void *ctx);
typedef struct {
    char bytes[16];
} CudaUuid;

/* The driver's numbers. */
enum {
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NO_DEVICE = 100,
    CUDA_INVALID_IMAGE = 200,
    CUDA_NO_BINARY = 209,
    CUDA_UNSUPPORTED_PTX = 222,
    CUDA_FILE_NOT_FOUND = 301,
    CUDA_NOT_FOUND = 500,
    CUDA_NOT_READY = 600,
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_BLOCKING_SYNC = 1,
    CUDA_EVENT_DISABLE_TIMING = 2,
    CUDA_CAPTURE_RELAXED = 2,
    CUDA_FUNCTION_DYNAMIC_SHARED = 8, /* attribute of a function: most bytes of a block */
    CUDA_DEVICE_MAJOR = 75,           /* attributes of a device: its compute capability … */
    CUDA_DEVICE_MINOR = 76,
    CUDA_DEVICE_SHARED = 97 /* … and most bytes of shared memory of a block */
};

typedef struct {
#define CUDA(name, args) CudaResult(*name) args;
#include "runtime/cuda_api.def"
#undef CUDA
} CudaApi;

/* The library is libcuda.so.1, or what M6C_CUDA_DRIVER names. EXIT_SYSTEM when it is not there or
 * lacks a function. It stays loaded. */
Status cuda_api_open(CudaApi *api);
/* NULL for success; else EXIT_SYSTEM with the call's name and the driver's words. */
Status cuda_status(const CudaApi *api, CudaResult result, const char *call);

/* CALL(api, cuMemFree_v2, address): returns from the function when the call fails. */
#define CUDA_TRY(api, name, ...) TRY(cuda_status((api), (api)->name(__VA_ARGS__), #name))

#endif
