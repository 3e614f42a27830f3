/* device_cuda.h: what the parts of the CUDA device share: device_cuda.c (memory, streams, graphs),
 * device_cuda_load.c (kernels), device_cuda_gemm.c (products). */
#ifndef M6C_DEVICE_CUDA_H
#define M6C_DEVICE_CUDA_H

#include "runtime/cublaslt.h"
#include "runtime/device.h"
#include "runtime/wisdom.h"

enum { CUDA_WORKSPACE = 32 << 20 }; /* bytes that products may use, of each stream that has some */

/* A product made ready. Batches the library does not take at once are loops. */
typedef struct {
    LtProduct product;
    LtLayout layout[3]; /* of A, B, C of the plan */
    LtAlgo algo;
    int64_t batch, batch_stride[3];     /* elements */
    bool epilogue;                      /* the library does it; else it stores … */
    int target;                         /* … the product alone, in this argument */
    int loops;                          /* … */
    int64_t count[PLAN_MAX_BATCH];      /* … of so many turns each, */
    int64_t advance[PLAN_MAX_BATCH][3]; /* which move A, B, C by so many bytes */
    union {                             /* the type of the arithmetic */
        float f;
        double d;
    } alpha, beta;
} CudaProduct;

typedef struct {
    const char *source;
    CudaModule handle;
} CudaLoaded;

typedef struct {
    Device base;
    CudaApi api;
    const Plan *plan;
    CudaDevice device;
    CudaContext context;
    char name[128];
    int major, minor;
    char *arena[MEM_COUNT];
    CudaAddress stage; /* on the device */
    int64_t stage_bytes;
    void *stage_host;
    int streams;
    CudaStream *stream;
    CudaEvent *event; /* of each step (NULL unless one waits for it), and DEVICE_EVENTS more */
    VEC(CudaLoaded) module;
    CudaFunction *kernel; /* of each PlanKernel */

    CublasLt lt; /* loaded when the plan has products */
    LtHandle lt_handle;
    CudaProduct *product; /* of each step */
    CudaAddress workspace;
    CudaAddress *stream_workspace; /* of each stream that has products, a part of it */
    Wisdom wisdom;

    bool no_graph;    /* asked for, or M6C_CUDA_SYNC */
    bool synchronous; /* M6C_CUDA_SYNC: the host waits after every call, to blame the right one */
    CudaGraphExec graph;
} Cuda;

#define CUDA_CALL(d, name, ...) CUDA_TRY(&(d)->api, name, __VA_ARGS__)

/* ---- device_cuda_load.c ---- */
/* Whether the plan's kernels run here: as cubin, or from PTX. EXIT_SYSTEM when neither. */
Status cuda_check_target(const Cuda *d);
Status cuda_load_kernels(Cuda *d, const char *dir);
Status cuda_launch(Device *base, const PlanStep *s, void *const *arg);

/* ---- device_cuda_gemm.c ---- */
int64_t cuda_workspace_bytes(const Plan *plan);
/* Uses the arenas to measure on; *touched when it did. */
Status cuda_load_products(Cuda *d, bool *touched);
void cuda_unload_products(Cuda *d);
Status cuda_gemm(Device *base, const PlanStep *s, void *const *arg);

/* Memory of the device; a failure tells what the plan needs in all. */
Status cuda_allocate(Cuda *d, int64_t bytes, CudaAddress *out);
/* After every call on a stream: waits, if the device is to. */
Status cuda_called(Cuda *d, int stream);

#endif
