/* host_kernel.h: compiled C kernels of a plan, which run on the host's cores. A kernel whose source
 * is X.c is the symbol `name` in X.so, in the plan's folder; each source's object is loaded once.
 */
#ifndef M6C_HOST_KERNEL_H
#define M6C_HOST_KERNEL_H

#include "runtime/plan.h"
#include "runtime/pool.h"

typedef void HostKernel(void *const *arg, int64_t lo, int64_t hi);

typedef struct {
    const char *source;
    void *handle;
} HostLibrary;

typedef struct {
    VEC(HostLibrary) library;
} HostLibraries;

Status host_kernel_load(HostLibraries *l, const char *dir, const PlanKernel *k, HostKernel **out);
void host_kernel_unload(HostLibraries *l);
/* All items, shared by the pool, each thread at least `grain` of them; pool NULL: by the caller. */
void host_kernel_run(HostKernel *fn, void *const *arg, int64_t items, int64_t grain, Pool *pool);

#endif
