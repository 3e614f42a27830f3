/* pool.c: a fork-join pool for work that takes microseconds.
 *
 * The caller publishes a job by raising `turn`; workers spin on it for SPIN_NS and then sleep in a
 * futex, so that a training step never pays for a wake-up while an idle process uses no core. The
 * last worker to finish lowers `running` to 0, for which the caller waits in the same way.
 * Each thread is pinned to one of the cores the process may use (unpinned, two threads can share a
 * core for a whole run), unless there are more threads than cores. */
#include "runtime/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/futex.h"

enum { MAX_THREADS = 256, SPIN_NS = 50000, LINE = 64 };

typedef struct {
    Pool *pool;
    pthread_t thread;
    int index;
} Worker;

typedef struct {
    PoolFn *fn;
    void *ctx;
    int64_t items, chunk; /* chunk 0: one range a thread */
    int parts;
} Job;

struct Pool {
    _Alignas(LINE) _Atomic uint32_t turn; /* raised for each job */
    _Atomic uint32_t sleepers;            /* workers in the futex of `turn` */
    _Alignas(LINE) _Atomic uint32_t running;
    _Atomic uint32_t caller_sleeps;
    _Alignas(LINE) _Atomic int64_t next; /* first item no thread has taken */
    _Alignas(LINE) Job job;
    bool stop;
    int threads, started;
    cpu_set_t allowed; /* before anything was pinned */
    bool know_allowed;
    pthread_t caller;
    Worker worker[MAX_THREADS];
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether *at changed from `value` (or came to it, when `until`) while we spun. */
static bool spin(_Atomic uint32_t *at, uint32_t value, bool until) {
    int64_t end = 0;
    for (uint32_t i = 1;; i++) {
        if ((atomic_load_explicit(at, memory_order_acquire) == value) == until) return true;
        relax();
        if (i % 32) continue;
        int64_t now = now_ns();
        if (end == 0) end = now + SPIN_NS;
        if (now > end) return false;
    }
}

static void run_part(Pool *p, int thread) {
    const Job *j = &p->job;
    if (j->chunk) {
        int64_t lo;
        while ((lo = atomic_fetch_add_explicit(&p->next, j->chunk, memory_order_relaxed)) <
               j->items)
            j->fn(j->ctx, lo, MIN(lo + j->chunk, j->items), thread);
    } else if (thread < j->parts) {
        int64_t lo = pool_split(j->items, j->parts, thread);
        int64_t hi = pool_split(j->items, j->parts, thread + 1);
        if (lo < hi) j->fn(j->ctx, lo, hi, thread);
    }
}

static void await_turn(Pool *p, uint32_t turn) {
    if (spin(&p->turn, turn, false)) return;
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->turn) == turn) futex_wait(&p->turn, turn);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *work(void *arg) {
    Worker *w = arg;
    Pool *p = w->pool;
    for (uint32_t turn = 0;; turn++) {
        await_turn(p, turn);
        if (p->stop) return NULL;
        run_part(p, w->index);
        if (atomic_fetch_sub(&p->running, 1) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->running);
    }
}

static void await_workers(Pool *p) {
    if (spin(&p->running, 0, true)) return;
    atomic_store(&p->caller_sleeps, 1);
    for (uint32_t left; (left = atomic_load(&p->running)) != 0;) futex_wait(&p->running, left);
    atomic_store(&p->caller_sleeps, 0);
}

static void publish(Pool *p) {
    atomic_store_explicit(&p->running, (uint32_t)p->started, memory_order_relaxed);
    atomic_fetch_add(&p->turn, 1);
    if (atomic_load(&p->sleepers)) futex_wake(&p->turn);
}

static void run_job(Pool *p, Job job) {
    p->job = job;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    publish(p);
    run_part(p, 0);
    await_workers(p);
}

void pool_run(Pool *p, PoolFn *fn, void *ctx, int64_t items, int64_t grain) {
    if (items <= 0) return;
    int64_t parts = MIN((int64_t)p->started + 1, items / MAX(grain, (int64_t)1));
    if (parts <= 1)
        fn(ctx, 0, items, 0);
    else
        run_job(p, (Job){fn, ctx, items, 0, (int)parts});
}

void pool_run_chunks(Pool *p, PoolFn *fn, void *ctx, int64_t items, int64_t chunk) {
    if (items <= 0) return;
    chunk = MAX(chunk, (int64_t)1);
    if (p->started == 0 || items <= chunk)
        fn(ctx, 0, items, 0);
    else
        run_job(p, (Job){fn, ctx, items, chunk, 0});
}

int pool_threads(const Pool *p) { return p->started + 1; }

void pool_cpu_seconds(const Pool *p, double *seconds) {
    for (int i = 0; i <= p->started; i++) {
        clockid_t clock;
        struct timespec t = {0};
        if (pthread_getcpuclockid(i ? p->worker[i].thread : p->caller, &clock) == 0)
            clock_gettime(clock, &t);
        seconds[i] = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    }
}

/* ---- start and stop ---- */

static void pin(const Pool *p, pthread_t thread, int index) {
    int core = -1;
    for (int left = index; left >= 0;)
        if (++core == CPU_SETSIZE)
            return;
        else
            left -= CPU_ISSET(core, &p->allowed) != 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(thread, sizeof one, &one); /* refused: the thread floats */
}

void pool_take_share(int place, int n) {
    cpu_set_t all, mine;
    CPU_ZERO(&mine);
    if (pthread_getaffinity_np(pthread_self(), sizeof all, &all) != 0) return;
    int cores = CPU_COUNT(&all), core = 0;
    int lo = place * cores / n, hi = MAX((place + 1) * cores / n, lo + 1);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &all)) continue;
        if (core >= lo && core < hi) CPU_SET(i, &mine);
        core++;
    }
    pthread_setaffinity_np(pthread_self(), sizeof mine, &mine);
}

void pool_unpin_thread(const Pool *p) {
    if (p->know_allowed) pthread_setaffinity_np(pthread_self(), sizeof p->allowed, &p->allowed);
}

static int default_threads(const Pool *p) {
    const char *wish = getenv("M6C_THREADS");
    int n = wish ? atoi(wish) : 0;
    if (n > 0) return n;
    return p->know_allowed ? CPU_COUNT(&p->allowed) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

Pool *pool_open(int threads) {
    Pool *p = aligned_alloc(LINE, (sizeof *p + LINE - 1) / LINE * LINE);
    if (!p) return NULL;
    *p = (Pool){.caller = pthread_self()};
    p->know_allowed = pthread_getaffinity_np(p->caller, sizeof p->allowed, &p->allowed) == 0;
    if (threads <= 0) threads = default_threads(p);
    p->threads = MAX(1, MIN(threads, MAX_THREADS));
    bool pins = p->know_allowed && p->threads <= CPU_COUNT(&p->allowed);
    for (int i = 1; i < p->threads; i++) {
        Worker *w = &p->worker[i];
        *w = (Worker){.pool = p, .index = i};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            pool_close(p);
            return NULL;
        }
        p->started++;
        if (pins) pin(p, w->thread, i);
    }
    if (pins) pin(p, p->caller, 0);
    return p;
}

void pool_close(Pool *p) {
    if (!p) return;
    p->stop = true;
    publish(p);
    for (int i = 1; i <= p->started; i++) pthread_join(p->worker[i].thread, NULL);
    if (p->know_allowed) pthread_setaffinity_np(p->caller, sizeof p->allowed, &p->allowed);
    free(p);
}
