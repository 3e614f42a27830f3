/* device_cuda.h: what the parts of the CUDA device share: device_cuda.c (memory, streams, graphs),
 * device_cuda_load.c (kernels), device_cuda_gemm.c (products), device_cuda_host.c (kernels of the
 * host, the disk), device_cuda_comm.c (collectives). */
#ifndef M6C_DEVICE_CUDA_H
#define M6C_DEVICE_CUDA_H

#include "runtime/cublaslt.h"
#include "runtime/device.h"
#include "runtime/disk.h"
#include "runtime/host_kernel.h"
#include "runtime/nccl_api.h"
#include "runtime/wisdom.h"

enum {
    CUDA_WORKSPACE = 32 << 20, /* bytes that products may use, of each stream that has some */
    CUDA_BOUNCE = 8 << 20      /* pinned bytes between disk and device, of each direction */
};

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

typedef struct HostWork HostWork;
typedef struct CudaComm CudaComm;

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
    CudaStream *stream; /* NULL: the plan does not use it */
    CudaEvent *event;   /* of each step (NULL unless one waits for it), and DEVICE_EVENTS more */
    VEC(CudaLoaded) module;
    CudaFunction *kernel;     /* of each PlanKernel, … */
    HostKernel **host_kernel; /* … or this one of the host's */
    HostLibraries libraries;

    Pool *pool;           /* for kernels of the host; NULL: they run on one core */
    VEC(HostWork *) work; /* what host functions were asked to do */
    uint32_t next_work;   /* likely the next */
    _Atomic(Status) host_failure;
    const char *folder; /* of the disk */
    Disk *disk;         /* NULL: the plan has none */
    char *bounce;       /* from the disk, and behind it, to the disk */

    CublasLt lt; /* loaded when the plan has products */
    LtHandle lt_handle;
    CudaProduct *product; /* of each step */
    CudaAddress workspace;
    CudaAddress *stream_workspace; /* of each stream that has products, a part of it */
    Wisdom wisdom;

    int place, sharing; /* among the ranks of this machine */
    NcclApi nccl;       /* loaded when the plan has collectives */
    CudaComm *comm;     /* NULL: not connected with other ranks */

    bool no_graph;    /* asked for, M6C_CUDA_SYNC, or collectives */
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

/* ---- device_cuda_host.c ---- */
/* A kernel of the host on its stream. */
Status cuda_launch_host(Cuda *d, const PlanStep *s, void *const *arg);
Status cuda_open_disk(Cuda *d, int64_t bytes);
bool cuda_on_disk(const Cuda *d, const void *p);
/* One of the places is on the disk; the other on the device, in the host's arena, or the caller's,
 * which is done when this returns. from NULL: zeros. */
Status cuda_copy_disk(Cuda *d, int stream, void *to, const void *from, int64_t bytes);
Status cuda_host_failure(Cuda *d); /* of a host function, once all is waited for */
void cuda_close_host(Cuda *d);

/* ---- device_cuda_comm.c ---- */
bool cuda_has_collectives(const Plan *p);
Status cuda_collective(Device *base, const PlanStep *s, void *const *arg);
Status cuda_join(Device *base, Comm *world, Comm *const *group);
void cuda_leave(Device *base);
uint32_t cuda_collective_at(const Device *base, int stream);
/* Waits for an event or a stream (both NULL: for all streams), while the other ranks go on: when
 * one fails, so does this. Of a device that is connected with others. */
Status cuda_await(Cuda *d, CudaEvent event, CudaStream stream);

/* Pinned memory of the host, zeroed. */
Status cuda_allocate_host(Cuda *d, int64_t bytes, void **out);
/* Memory of the device; a failure tells what the plan needs in all. */
Status cuda_allocate(Cuda *d, int64_t bytes, CudaAddress *out);
/* After every call on a stream: waits, if the device is to. */
Status cuda_called(Cuda *d, int stream);

#endif
