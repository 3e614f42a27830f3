/* gemm.h: matrix products on the CPU.
 *
 * Several implementations can run a product; which one is fastest depends on its shape, so each
 * shape is measured once on this machine and the winner remembered (wisdom.txt in the cache folder,
 * as FFTW does). An implementation splits the work the same way in every run: the same algorithm
 * gives the same bits. */
#ifndef M6C_GEMM_H
#define M6C_GEMM_H

#include "runtime/plan.h"
#include "runtime/pool.h"

typedef struct Gemm Gemm;

/* Loads what the candidates need and the wisdom of this machine, if there is any. Fails (status 3)
 * with a BLAS that is not safe to call from several threads. The pool must outlive it. */
Status gemm_open(Pool *pool, Gemm **out);
void gemm_close(Gemm *g); /* saves too */
/* Writes the wisdom that is new (a failure to write is not an error) and frees what measuring took.
 * A run that will be resumed must find the same choices: save before it starts. */
void gemm_save(Gemm *g);

typedef enum { GEMM_BLAS, GEMM_DNNL } GemmLibrary;

/* One way to run a product. run() (its first argument is the GemmAlgo itself) gives C bit for bit
 * the same each time, on any number of threads. */
typedef struct GemmAlgo {
    const char *name;
    const char *doc;
    bool (*applicable)(const Gemm *g, const PlanGemm *s);
    void (*run)(const struct GemmAlgo *algo, Gemm *g, const PlanGemm *s, const void *a,
                const void *b, void *c);
    GemmLibrary library;
    int pieces; /* C is cut into so many pieces; 0: into tiles of a fixed size */
} GemmAlgo;

/* The fastest candidate for this shape: remembered, or measured now (about 20 ms, more on a busy
 * machine). */
const GemmAlgo *gemm_choose(Gemm *g, const PlanGemm *s);
/* By the name in a plan; NULL when there is none, or it cannot run this shape here. */
const GemmAlgo *gemm_find(const Gemm *g, const PlanGemm *s, const char *name);
/* The i-th candidate for a shape on these threads (from 0), or NULL after the last: what is worth
 * measuring. gemm_find knows more. */
const GemmAlgo *gemm_candidate(const Gemm *g, const PlanGemm *s, int i);
/* Measured GFLOP/s of the last gemm_choose of this shape, 0 when it was never measured. */
double gemm_known_speed(const Gemm *g, const PlanGemm *s);

/* The machine's f32 matrix-product peak in GFLOP/s with this pool: measured once, remembered. */
double gemm_peak(Gemm *g);

#endif
