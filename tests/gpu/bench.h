/* bench.h: what the parts of bench_cuda share: bench_cuda.c (the command, copies, products),
 * bench_plan.c (a plan's steps, its kernels one by one). */
#ifndef M6C_TESTS_BENCH_H
#define M6C_TESTS_BENCH_H

#include <jansson.h>

#include "runtime/exec.h"
#include "tests/gpu/gpu.h"

typedef struct {
    Gpu gpu;
    int64_t rounds, warmup, steps;
    int64_t flush_bytes; /* read between rounds; more than the caches hold */
    const char *data, *init, *only;
    bool no_graph;
    const char *flush_source; /* flush.cu */
    char dir[32];             /* for what is compiled */
    CudaModule module;
    CudaFunction flush;
    CudaAddress flush_memory;
    CudaEvent begin, end;
} Bench;

/* What is measured: `work` goes on the stream, `repeat` times a round; `prepare` (may be NULL) and
 * the flush (where `cold`) come before, outside of the time. */
typedef struct {
    CudaStream stream;
    Status (*prepare)(void *ctx), (*work)(void *ctx);
    void *ctx;
    int64_t repeat;
    bool cold;
} Timed;

/* Microseconds of `work` by events, of each round after the warm-up, as an array. */
Status bench_time(Bench *b, const Timed *t, json_t **us);
/* A line on standard output; takes over o. */
void bench_print(json_t *o);

Status bench_steps(Bench *b, const char *dir);
Status bench_kernels(Bench *b, const char *dir);

#endif
