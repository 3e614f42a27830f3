/* gemm_private.h: what the parts of gemm share: gemm.c (loading, choosing), gemm_blas.c (running).
 */
#ifndef M6C_GEMM_PRIVATE_H
#define M6C_GEMM_PRIVATE_H

#include "runtime/gemm.h"
#include "runtime/wisdom.h"

/* The functions of the BLAS. Transposition and order are CBLAS's numbers. */
#define BLAS_SYMBOLS(X)                                                                            \
    X(void, cblas_sgemm,                                                                           \
      (int, int, int, int, int, int, float, const float *, int, const float *, int, float,         \
       float *, int))                                                                              \
    X(void, cblas_dgemm,                                                                           \
      (int, int, int, int, int, int, double, const double *, int, const double *, int, double,     \
       double *, int))                                                                             \
    X(char *, openblas_get_config, (void))                                                         \
    X(char *, openblas_get_corename, (void))                                                       \
    X(int, openblas_get_parallel, (void))                                                          \
    X(void, openblas_set_num_threads, (int))

typedef struct {
#define X(type, name, args) type(*name) args;
    BLAS_SYMBOLS(X)
#undef X
} Blas;

/* oneDNN, where it is installed: faster on large products of some processors. */
#define DNNL_SYMBOLS(X)                                                                            \
    X(int, dnnl_sgemm,                                                                             \
      (char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *,        \
       int64_t, float, float *, int64_t))                                                          \
    X(void, omp_set_num_threads, (int)) /* of the calling thread */

typedef struct {
    bool here;
#define X(type, name, args) type(*name) args;
    DNNL_SYMBOLS(X)
#undef X
} Dnnl;

struct Gemm {
    Pool *pool;
    Blas blas;
    Dnnl dnnl;
    void **scratch; /* of each thread */
    size_t *scratch_bytes;
    void *bench[3]; /* operands to measure on */
    size_t bench_bytes[3];
    Wisdom wisdom;
};

extern const GemmAlgo gemm_algos[];
extern const size_t gemm_algo_count;

/* Every thread gets at least `bytes` of its own, 64-byte aligned. Not from inside pool_run. */
void gemm_need_scratch(Gemm *g, size_t bytes);

#endif
