/* pool.h: the pinned threads that run every kernel and matrix product on the CPU.
 *
 * One pool a process. Work is `items` independent items; whoever runs an item must get the same
 * bits, so results never depend on the number of threads or on timing. */
#ifndef M6C_POOL_H
#define M6C_POOL_H

#include "ir/base.h"

typedef struct Pool Pool;

/* threads <= 0: $M6C_THREADS, or else the cores this process may run on. The caller is one of them
 * and is pinned too; where pinning is not allowed the threads float. NULL only when out of memory
 * or threads. */
Pool *pool_open(int threads);
/* Before that, where several processes run on the same cores: of those this process may run on,
 * takes the share of the `place`-th of n processes. With fewer cores than processes they share. */
void pool_take_share(int place, int n);
void pool_close(Pool *p);
int pool_threads(const Pool *p);
/* Threads started by the pool's caller inherit its one core: gives the calling thread the cores
 * the process began with. Decoding and checkpoint threads call it first. */
void pool_unpin_thread(const Pool *p);

/* Processor time each thread has used so far, seconds[pool_threads]: what a measurement takes when
 * other programs share the machine. 0 where the system does not tell. */
void pool_cpu_seconds(const Pool *p, double *seconds);

/* Runs items lo <= i < hi on thread `thread` (0 is the caller). */
typedef void PoolFn(void *ctx, int64_t lo, int64_t hi, int thread);

/* Splits [0, items) into one range a thread, none shorter than `grain` items (unless there are
 * fewer); returns when all are done. Runs on the caller alone when there is too little work. Not
 * reentrant: fn must not call it, and one thread at a time may. */
void pool_run(Pool *p, PoolFn *fn, void *ctx, int64_t items, int64_t grain);

/* The same, but threads take `chunk` items at a time until none is left: for items of uneven cost.
 */
void pool_run_chunks(Pool *p, PoolFn *fn, void *ctx, int64_t items, int64_t chunk);

/* Range of thread t when n items are split over `parts`: lo and hi of pool_run. */
static inline int64_t pool_split(int64_t n, int parts, int t) {
    return n / parts * t + MIN(n % parts, (int64_t)t);
}

#endif
