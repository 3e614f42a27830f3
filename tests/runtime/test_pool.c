/* Checks runtime/pool: every item runs exactly once, whatever the split; sleeping workers wake. */
#include "runtime/pool.h"
#include "tests/check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { ITEMS = 10007 };

typedef struct {
    _Atomic int hits[ITEMS];
    _Atomic int calls, bad_thread;
    int threads;
} Seen;

static void mark(void *ctx, int64_t lo, int64_t hi, int thread) {
    Seen *s = ctx;
    s->calls++;
    if (thread < 0 || thread >= s->threads) s->bad_thread++;
    for (int64_t i = lo; i < hi; i++) s->hits[i]++;
}

static bool each_once(const Seen *s, int64_t n) {
    for (int64_t i = 0; i < ITEMS; i++)
        if (s->hits[i] != (i < n)) return false;
    return s->bad_thread == 0;
}

static void test_cover(int threads) {
    Pool *p = pool_open(threads);
    if (!CHECK(p && pool_threads(p) == threads)) return;
    Seen *s = malloc(sizeof *s);
    for (int64_t n = 0; n <= ITEMS; n = n * 3 + 1)
        for (int64_t grain = 0; grain < 200; grain = grain * 5 + 1) {
            *s = (Seen){.threads = threads};
            pool_run(p, mark, s, n, grain);
            CHECK(each_once(s, n) && s->calls <= threads);
            CHECK(n == 0 || s->calls >= (n / MAX(grain, 1) >= threads ? threads : 1));
            *s = (Seen){.threads = threads};
            pool_run_chunks(p, mark, s, n, grain);
            CHECK(each_once(s, n));
        }
    free(s);
    pool_close(p);
}

static void add(void *ctx, int64_t lo, int64_t hi, int thread) {
    (void)thread;
    atomic_fetch_add((_Atomic int64_t *)ctx, hi - lo);
}

static void test_many_and_sleeps(void) {
    Pool *p = pool_open(2);
    _Atomic int64_t sum = 0;
    for (int i = 0; i < 20000; i++) pool_run(p, add, &sum, 10, 1);
    CHECK(sum == 200000);
    for (int i = 0; i < 20; i++) { /* long enough for the workers to fall asleep */
        usleep(1000);
        pool_run(p, add, &sum, 10, 1);
    }
    CHECK(sum == 200200);
    pool_close(p);
}

static void test_environment(void) {
    setenv("M6C_THREADS", "3", 1);
    Pool *p = pool_open(0);
    CHECK(p && pool_threads(p) == 3);
    pool_close(p);
    unsetenv("M6C_THREADS");
    p = pool_open(0);
    CHECK(p && pool_threads(p) >= 1);
    pool_close(p);
    for (int n = 0; n < 40; n++)
        for (int parts = 1; parts < 9; parts++)
            CHECK(pool_split(n, parts, 0) == 0 && pool_split(n, parts, parts) == n);
}

/* Not a check: prints what an empty launch costs when asked to. */
static void measure(void) {
    Pool *p = pool_open(0);
    _Atomic int64_t sum = 0;
    struct timespec a, b;
    enum { RUNS = 20000 };
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < RUNS; i++) pool_run(p, add, &sum, 10, 1);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double us =
        ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / 1e3 / RUNS;
    printf("empty launch on %d threads: %.2f us\n", pool_threads(p), us);
    pool_close(p);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--measure") == 0) {
        measure();
        return 0;
    }
    test_cover(1);
    test_cover(2);
    test_cover(5);
    test_many_and_sleeps();
    test_environment();
    return check_done("pool");
}
