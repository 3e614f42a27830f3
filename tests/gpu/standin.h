/* standin.h: the parts of the stand-in for the CUDA libraries to each other.
 *
 * standin_cuda.c      the driver's functions: what they say, forbid and pretend; the log
 * standin_queue.c     streams, events and graphs: what runs when
 * standin_cublaslt.c  products, in a library of its own, which calls the first by dlsym
 * standin_nccl.c      collectives of several processes, likewise
 *
 * Work is not done when it is asked for but when the host waits, in an order that only streams and
 * events restrict, drawn from M6C_STANDIN_SEED: who forgot to wait computes wrong numbers. Kernels
 * run in the emulator, X.cubin and X.ptx being X.cu. Host functions run on a thread of their own,
 * which may neither touch the device's memory nor call the driver.
 *
 * M6C_STANDIN_LOG=FILE      every call, one a line, without addresses
 * M6C_STANDIN_SEED=N        of the order
 * M6C_STANDIN_SM=80         the device's compute capability; none: there is no device
 * M6C_STANDIN_MEMORY=BYTES  of the device
 * M6C_STANDIN_DEVICES=N     of the machine (1)
 * M6C_STANDIN_RANK=R        FAIL and FORGET are for this rank alone
 * M6C_STANDIN_FAIL=F:N[:E]  the N-th call of function F fails with error E; F = kernel: the N-th
 *                           kernel fails while it runs
 * M6C_STANDIN_FORGET=F:N    the N-th of these calls does nothing; F = cuStreamWaitEvent or one of
 *                           NCCL's collectives */
#ifndef M6C_TESTS_STANDIN_H
#define M6C_TESTS_STANDIN_H

#include "runtime/cuda_api.h"

/* What the driver's stand-in lends to that of cuBLASLt. */
#define STANDIN_EXPORTS(X)                                                                         \
    X(int, standin_call, (const char *name, const char *text))                                     \
    X(void, standin_put_place, (Buf * b, const void *p))                                           \
    X(int, standin_stream_index, (CudaStream stream))                                              \
    X(int, standin_push,                                                                           \
      (CudaStream stream, void (*fn)(const void *), const void *ctx, size_t bytes,                 \
       double microseconds))                                                                       \
    X(bool, standin_forgotten, (const char *name))                                                 \
    X(int, standin_push_exchange, (CudaStream stream, bool (*fn)(void *), void *ctx))
#define X(type, name, args) type name args;
STANDIN_EXPORTS(X)
#undef X

/* ---- standin_queue.c ---- */

typedef enum {
    WORK_COPY,
    WORK_FILL,
    WORK_KERNEL,
    WORK_CALL,
    WORK_HOST,
    WORK_RECORD,
    WORK_WAIT,
    WORK_GRAPH,
    WORK_EXCHANGE /* with other processes: tried until it is done */
} WorkKind;

typedef struct CUgraph_st Graph;

typedef struct {
    WorkKind kind;
    double microseconds; /* it is said to take */
    void *to;            /* copy, fill */
    const void *from;
    size_t bytes;
    int byte;
    void *kernel; /* of the emulator */
    int64_t blocks, shared;
    int threads;
    void *ctx; /* kernel: its pointers; call: the argument; owned */
    void (*fn)(const void *);
    bool (*exchange)(void *); /* what it is given is its own */
    void *exchange_ctx;
    CudaHostFn *host; /* of a host function, and its argument, which is the caller's */
    void *host_ctx;
    CudaEvent event; /* record, wait: the record of that number */
    uint64_t ticket;
    Graph *graph;
    bool *done; /* of each node */
    uint32_t left;
} Work;

typedef VEC(uint32_t) Nodes;

struct CUstream_st {
    int index;
    VEC(Work) queue;
    uint32_t head;
    uint32_t rank; /* the highest that can run, runs */
    Graph *graph;  /* it is captured into */
    Nodes after;   /* what the next node comes after */
};

struct CUevent_st {
    int index;
    uint64_t asked, done; /* records */
    double time;
    Graph *graph; /* captured into, or was: `after` is of it */
    bool captured;
    Nodes after;
};

typedef struct {
    Work work;
    Nodes after;
} Node;

struct CUgraph_st {
    int users;
    CudaStream origin;
    VEC(Node) node;
};

/* Results are those of the driver. */
CudaResult queue_push(CudaStream s, Work w); /* takes over w.ctx */
CudaResult queue_record(CudaStream s, CudaEvent e);
CudaResult queue_wait(CudaStream s, CudaEvent e);
/* Runs until a stream is empty, an event has happened, or (both NULL) nothing is left. */
CudaResult queue_run(CudaStream s, CudaEvent e);
/* Runs what can; CUDA_NOT_READY when that is not enough. */
CudaResult queue_try(CudaStream s, CudaEvent e);
CudaResult queue_capture(CudaStream s);
CudaResult queue_end_capture(CudaStream s, Graph **out);
void graph_release(Graph *g);
CudaStream stream_new(void);
CudaEvent event_new(void);
/* The error that a kernel left, or 0; every later call returns it. */
CudaResult queue_failure(void);
/* The host may not touch the device's memory: it is there only while work runs. */
void device_memory_open(bool open);
/* A host function runs: calls of others are mistakes. */
bool queue_is_on_host(void);
/* Asked before each kernel runs: 0, or the error it shall die of. */
CudaResult kernel_shall_fail(void);

#endif
