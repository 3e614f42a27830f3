/* main_measure_product.c: matrix products over a grid of shapes, with the implementation that the
 * runtime would choose. */
#include <stdlib.h>

#include "frontend/main_calibrate.h"
#include "runtime/gemm.h"

enum { MOST_RUNS = 64 };

static const double most_flops = 4.5e9; /* of one product: larger ones run like the largest */

typedef struct {
    Dtype dtype;
    int nextents;
    const int64_t *extent; /* of m, n and k */
    bool forms;            /* all of nn, nt, tn; otherwise nn */
} Family;

static PlanGemm shape(Dtype d, int form, const int64_t extent[3], int64_t batch) {
    int64_t m = extent[0], n = extent[1], k = extent[2];
    bool ta = form == 2, tb = form == 1;
    return (PlanGemm){.m = m,
                      .n = n,
                      .k = k,
                      .ta = ta,
                      .tb = tb,
                      .lda = ta ? m : k,
                      .ldb = tb ? k : n,
                      .ldc = n,
                      .nbatch = batch > 1,
                      .count = {batch},
                      .sa = {m * k},
                      .sb = {k * n},
                      .sc = {m * n},
                      .da = d,
                      .db = d,
                      .dc = d,
                      .alpha = 1};
}

/* Seconds of one run, or 0 where nothing runs this shape. */
static double time_product(Calibration *c, Gemm *g, const PlanGemm *s, void *const area[3]) {
    const GemmAlgo *algo = gemm_choose(g, s);
    double seconds[MOST_RUNS], budget = c->quick ? 0.006 : 0.015, begin = now_seconds();
    size_t n = 0;
    if (!algo) return 0;
    algo->run(algo, g, s, area[0], area[1], area[2]);
    while (n < MOST_RUNS && (n < 5 || now_seconds() - begin < budget)) {
        stopwatch_start(c);
        algo->run(algo, g, s, area[0], area[1], area[2]);
        seconds[n++] = stopwatch_stop(c);
    }
    return undisturbed(seconds, n);
}

static void put_product(Calibration *c, Gemm *g, const PlanGemm *s, const char *form,
                        void *const area[3]) {
    double seconds = time_product(c, g, s, area);
    if (seconds <= 0) return;
    buf_printf(&c->text, "product %s %s %lldx%lldx%lld ", dtype_name(s->da), form, (long long)s->m,
               (long long)s->n, (long long)s->k);
    if (s->nbatch) buf_printf(&c->text, "batch %lld ", (long long)s->count[0]);
    calibrate_put(c, plan_gemm_flops(s) / seconds, 1e9, "GFLOPS\n");
}

static void put_family(Calibration *c, Gemm *g, const Family *f, void *const area[3]) {
    static const char *const forms[] = {"nn", "nt", "tn"};
    static const int64_t batches[] = {1, 32};
    int n = f->nextents;
    for (int form = 0; form < (f->forms ? 3 : 1); form++)
        for (size_t b = 0; b < COUNT(batches); b++)
            for (int i = 0; i < n * n * n; i++) {
                const int64_t extent[] = {f->extent[i / n / n], f->extent[i / n % n],
                                          f->extent[i % n]};
                PlanGemm s = shape(f->dtype, form, extent, batches[b]);
                if (plan_gemm_flops(&s) <= most_flops) put_product(c, g, &s, forms[form], area);
            }
}

/* Operands as large as the largest of any shape: 32 matrices of 1024 by 1024. */
Status measure_products(Calibration *c) {
    static const int64_t many[] = {16, 64, 256, 1024}, few[] = {64, 512};
    const Family families[] = {{DT_F32, c->quick ? 2 : 4, c->quick ? few : many, true},
                               {DT_BF16, 2, few, true},
                               {DT_F16, 2, few, true},
                               {DT_F64, 2, few, false}};
    const size_t bytes = (size_t)32 * 1024 * 1024 * 8;
    Gemm *g = NULL;
    void *area[3];
    calibrate_progress(c, "products");
    TRY(gemm_open(c->pool, &g));
    for (int i = 0; i < 3; i++) area[i] = xcalloc(bytes, 1);
    for (size_t i = 0; i < (c->quick ? 1 : COUNT(families)); i++)
        put_family(c, g, &families[i], area);
    for (int i = 0; i < 3; i++) free(area[i]);
    gemm_close(g);
    return NULL;
}
