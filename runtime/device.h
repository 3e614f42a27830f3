/* device.h: what the executor asks of a machine. One const table per device; device_null.c prints
 * every call and is the file to copy for a new one.
 *
 * Streams are small integers. Work on one stream runs in order; record() marks a point of a stream,
 * wait() makes another stream wait for it. Calls may return before the work is done; sync() waits.
 * Where `threads` is set, calls return when the work is done, and the executor makes those of
 * different streams from different threads. Addresses passed in are what alloc() returned plus an
 * offset, or host memory; of MEM_DISK they are names of places that nobody else may touch. */
#ifndef M6C_DEVICE_H
#define M6C_DEVICE_H

#include "runtime/comm.h"
#include "runtime/plan.h"
#include "runtime/pool.h"

typedef struct DeviceConfig {
    const Plan *plan;   /* what will run; it must stay while the device is open */
    Pool *pool;         /* threads for kernels and products; needed by cpu */
    FILE *log;          /* where null prints; NULL: stdout */
    bool no_graph;      /* cuda: every step is launched anew */
    double link;        /* cpu: bytes a second of copies from and to the host; 0: as they come */
    const char *disk;   /* folder of the file that MEM_DISK is; NULL: the current one */
    int place, sharing; /* cuda: this rank's place among the ranks of this machine; 0, 0: alone */
} DeviceConfig;

/* Streams and events beyond the plan's, for the executor: one stream more than the plan has (its
 * number is plan_streams), events from plan->step.n on. */
enum { DEVICE_EVENTS = 80 };

typedef struct Device Device; /* its first member is `const DeviceOps *ops` */

typedef struct DeviceOps {
    const char *name; /* the plan's target */
    const char *doc;
    unsigned visible; /* bit m: the host may read and write memory m by its addresses */
    bool threads;     /* calls of different streams may be made at once */
    Status (*open)(const DeviceConfig *config, Device **out);
    /* Exactly `bytes` (rounded up to pages), zeroed, 64-byte aligned; bytes may be 0. */
    Status (*alloc)(Device *d, Mem mem, int64_t bytes, void **out);
    void (*free)(Device *d, Mem mem, void *p, int64_t bytes);
    Status (*copy)(Device *d, int stream, void *to, const void *from, int64_t bytes);
    Status (*fill)(Device *d, int stream, void *to, int64_t bytes); /* with zero bytes */
    /* Loads the kernels of a plan from its folder and prepares its matrix products, for which it
     * may use the arenas, and leaves those zero. A kernel whose source is X.c is the symbol `name`
     * in X.so; X.cu: in X.cubin, or X.ptx for devices newer than the plan's. */
    Status (*load)(Device *d, const Plan *plan, const char *dir);
    Status (*launch)(Device *d, const PlanStep *step, void *const *arg);
    Status (*gemm)(Device *d, const PlanStep *step, void *const *arg); /* A, B, C */
    Status (*record)(Device *d, int stream, uint32_t event);           /* event: index of a step */
    Status (*wait)(Device *d, int stream, uint32_t event);
    Status (*sync)(Device *d);
    /* A step with other ranks. NULL: the executor does it in the host's memory. */
    Status (*collective)(Device *d, const PlanStep *step, void *const *arg);
    /* Of a device that does: connects it with those of the other ranks, all of them together, after
     * load(). group[g * COMM_STREAMS + k]: the plan's group g on stream STREAM_COMM + k, NULL where
     * no step is. leave() ends that, whether or not it came about. NULL: it needs nothing. */
    Status (*join)(Device *d, Comm *world, Comm *const *group);
    void (*leave)(Device *d);
    /* The step of the plan that ends next of a stream's collectives, or failed, one more; 0: none.
     * As far as the host has seen; from any thread. */
    uint32_t (*collective_at)(const Device *d, int stream);
    void (*close)(Device *d);
    /* Bytes allocated beside the arenas: staging, workspace, buffers of the disk. May be NULL. */
    int64_t (*beside)(const Device *d);

    /* ---- of a device that works while the host goes on; NULL in the others (cpu, null) ---- */

    /* Room that data pass through on their way, once, before the arenas: so many bytes of the
     * device, and of host memory that it can reach by itself. close() frees both. */
    Status (*staging)(Device *d, int64_t device_bytes, int64_t host_bytes, void **device,
                      void **host);
    /* The host waits until the device has come to what record() marked last. */
    Status (*arrive)(Device *d, uint32_t event);
    /* The calls from capture(true) to capture(false), which began on stream 0 and came together
     * there, are noted and then done as one; replay() does them again, or says in *done that there
     * is nothing to replay. */
    Status (*capture)(Device *d, bool begin);
    Status (*replay)(Device *d, bool *done);
} DeviceOps;

struct Device {
    const DeviceOps *ops;
};

extern const DeviceOps device_cpu, device_cuda, device_null;

/* The target that plans for the GPU present are compiled for: "sm_90". Status 3: there is none. */
Status device_cuda_target(char name[16]);

/* By name or by a plan's target (sm_80: cuda), or NULL; and by number from 0, NULL after the last.
 */
const DeviceOps *device_find(const char *name);
const DeviceOps *device_at(size_t i);

#endif
