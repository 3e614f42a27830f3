/* gemm_blas.c: products by a single-threaded library (OpenBLAS, oneDNN) called from the pool.
 *
 * C is cut into tiles, and tiles of all batches are the pool's items; how it is cut is what the
 * candidates differ in. A tile is one call of sgemm or dgemm. Operands in 16-bit formats are
 * widened by panels into the thread's scratch, K_PANEL of k at a time, accumulated in f32 and
 * rounded once.
 *
 * The bits of C follow from where it is cut, since the libraries may sum a narrower piece in
 * another order. Where it is cut follows from the shape and the candidate's name alone, never from
 * timing or the number of threads: a candidate that shares rows or columns out says into how many
 * pieces, and which of them are worth measuring depends on the threads there are (gemm_candidate).
 */
#include "runtime/gemm_private.h"
#include "runtime/half.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, K_PANEL = 1536 };

typedef struct {
    Gemm *g;
    const GemmAlgo *algo;
    const PlanGemm *s;
    const char *a, *b;
    char *c;
    int64_t tile_m, tile_n, tiles_m, tiles_n;
} Tiled;

/* ---- widening and rounding ---- */

/* rows x cols of a 16-bit matrix as f32, dense; and back. */
static void widen(Dtype d, const uint16_t *from, int64_t ld, int64_t rows, int64_t cols,
                  float *to) {
    for (int64_t i = 0; i < rows; i++) half_widen(d, from + i * ld, to + i * cols, cols);
}

static void narrow(Dtype d, const float *from, int64_t rows, int64_t cols, uint16_t *to,
                   int64_t ld) {
    for (int64_t i = 0; i < rows; i++) half_narrow(d, from + i * cols, to + i * ld, cols);
}

static bool any_half(const PlanGemm *s) {
    return dtype_is_half(s->da) || dtype_is_half(s->db) || dtype_is_half(s->dc);
}

/* ---- one tile ---- */

typedef struct {
    const char *a, *b; /* at the tile's first row, and column */
    char *c;
    int64_t m, n;
} Tile;

static void tile_f64(const Gemm *g, const PlanGemm *s, const Tile *t) {
    g->blas.cblas_dgemm(ROW_MAJOR, s->ta ? TRANS : NO_TRANS, s->tb ? TRANS : NO_TRANS, (int)t->m,
                        (int)t->n, (int)s->k, (double)s->alpha, (const double *)(const void *)t->a,
                        (int)s->lda, (const double *)(const void *)t->b, (int)s->ldb,
                        (double)s->beta, (double *)(void *)t->c, (int)s->ldc);
}

/* A matrix the BLAS can read: in place, or widened into *scratch, which moves on. */
typedef struct {
    const float *p;
    int64_t ld;
} Panel;

static Panel panel(Dtype d, const char *from, int64_t ld, int64_t rows, int64_t cols,
                   float **scratch) {
    if (!dtype_is_half(d)) return (Panel){(const float *)(const void *)from, ld};
    Panel p = {*scratch, cols};
    widen(d, (const uint16_t *)(const void *)from, ld, rows, cols, *scratch);
    *scratch += rows * cols;
    return p;
}

static void sgemm(const Gemm *g, GemmLibrary library, const PlanGemm *s, int64_t m, int64_t n,
                  int64_t k, Panel a, Panel b, float beta, float *c, int64_t ldc) {
    if (library == GEMM_DNNL) {
        g->dnnl.omp_set_num_threads(1);
        g->dnnl.dnnl_sgemm(s->ta ? 'T' : 'N', s->tb ? 'T' : 'N', m, n, k, s->alpha, a.p, a.ld, b.p,
                           b.ld, beta, c, ldc);
    } else {
        g->blas.cblas_sgemm(ROW_MAJOR, s->ta ? TRANS : NO_TRANS, s->tb ? TRANS : NO_TRANS, (int)m,
                            (int)n, (int)k, s->alpha, a.p, (int)a.ld, b.p, (int)b.ld, beta, c,
                            (int)ldc);
    }
}

static void tile_f32(const Tiled *x, const Tile *t, float *scratch) {
    const PlanGemm *s = x->s;
    bool narrow_c = dtype_is_half(s->dc);
    float *c = (float *)(void *)t->c, beta = s->beta;
    int64_t ldc = s->ldc, k_panel = dtype_is_half(s->da) || dtype_is_half(s->db) ? K_PANEL : s->k;
    if (narrow_c) {
        c = scratch, ldc = t->n;
        scratch += t->m * t->n;
        if (beta != 0) widen(s->dc, (const uint16_t *)(const void *)t->c, s->ldc, t->m, t->n, c);
    }
    for (int64_t k0 = 0; k0 < s->k; k0 += k_panel, beta = 1) {
        int64_t k = MIN(k_panel, s->k - k0);
        float *room = scratch;
        const char *a = t->a + (s->ta ? k0 * s->lda : k0) * dtype_size(s->da);
        const char *b = t->b + (s->tb ? k0 : k0 * s->ldb) * dtype_size(s->db);
        Panel pa = panel(s->da, a, s->lda, s->ta ? k : t->m, s->ta ? t->m : k, &room);
        Panel pb = panel(s->db, b, s->ldb, s->tb ? t->n : k, s->tb ? k : t->n, &room);
        sgemm(x->g, x->algo->library, s, t->m, t->n, k, pa, pb, beta, c, ldc);
    }
    if (narrow_c) narrow(s->dc, c, t->m, t->n, (uint16_t *)(void *)t->c, s->ldc);
}

/* ---- all tiles ---- */

static void run_tile(const Tiled *x, int64_t item, int thread) {
    const PlanGemm *s = x->s;
    int64_t n0 = item % x->tiles_n * x->tile_n, m0 = item / x->tiles_n % x->tiles_m * x->tile_m;
    int64_t rest = item / (x->tiles_n * x->tiles_m), at[3] = {0, 0, 0};
    for (int i = s->nbatch; i-- > 0;) {
        int64_t j = rest % s->count[i];
        rest /= s->count[i];
        at[0] += j * s->sa[i], at[1] += j * s->sb[i], at[2] += j * s->sc[i];
    }
    at[0] += s->ta ? m0 : m0 * s->lda;
    at[1] += s->tb ? n0 * s->ldb : n0;
    at[2] += m0 * s->ldc + n0;
    Tile t = {x->a + at[0] * dtype_size(s->da), x->b + at[1] * dtype_size(s->db),
              x->c + at[2] * dtype_size(s->dc), MIN(x->tile_m, s->m - m0),
              MIN(x->tile_n, s->n - n0)};
    if (s->dc == DT_F64)
        tile_f64(x->g, s, &t);
    else
        tile_f32(x, &t, x->g->scratch[thread]);
}

static void run_items(void *ctx, int64_t lo, int64_t hi, int thread) {
    for (int64_t i = lo; i < hi; i++) run_tile(ctx, i, thread);
}

static int64_t batches(const PlanGemm *s) {
    int64_t n = 1;
    for (int i = 0; i < s->nbatch; i++) n *= s->count[i];
    return n;
}

static size_t scratch_bytes(const PlanGemm *s, int64_t tile_m, int64_t tile_n) {
    int64_t k = MIN(s->k, (int64_t)K_PANEL), n = 0;
    if (dtype_is_half(s->da)) n += tile_m * k;
    if (dtype_is_half(s->db)) n += tile_n * k;
    if (dtype_is_half(s->dc)) n += tile_m * tile_n;
    return (size_t)n * sizeof(float);
}

/* Tiles of tile_m x tile_n; `even` gives every thread the same number of them in advance. */
static void run_tiled(Tiled x, int64_t tile_m, int64_t tile_n, bool even) {
    const PlanGemm *s = x.s;
    x.tile_m = MIN(tile_m, s->m);
    x.tile_n = MIN(tile_n, s->n);
    x.tiles_m = (s->m + x.tile_m - 1) / x.tile_m;
    x.tiles_n = (s->n + x.tile_n - 1) / x.tile_n;
    gemm_need_scratch(x.g, scratch_bytes(s, x.tile_m, x.tile_n));
    int64_t items = batches(s) * x.tiles_m * x.tiles_n;
    if (even)
        pool_run(x.g->pool, run_items, &x, items, 1);
    else
        pool_run_chunks(x.g->pool, run_items, &x, items, 1);
}

/* An n-th of a size, in whole vectors of 16 so that no thread gets a ragged edge. */
static int64_t share(int64_t size, int n) {
    int64_t each = (size + n - 1) / n;
    return MAX((each + 15) / 16 * 16, (int64_t)1);
}

static void rows(const Tiled *x) { run_tiled(*x, share(x->s->m, x->algo->pieces), x->s->n, true); }
static void columns(const Tiled *x) {
    run_tiled(*x, x->s->m, share(x->s->n, x->algo->pieces), true);
}
static void whole(const Tiled *x) { run_tiled(*x, x->s->m, x->s->n, true); }
static void tiles(const Tiled *x) { run_tiled(*x, 192, 384, false); }
static void wide_tiles(const Tiled *x) { run_tiled(*x, 384, 1024, false); }
static void square_tiles(const Tiled *x) {
    run_tiled(*x, 1024, MIN(share(x->s->n, 2), (int64_t)1024), false);
}

/* ---- the candidates ---- */

static bool fits_blas(const PlanGemm *s) {
    const int64_t size[] = {s->m, s->n, s->k, s->lda, s->ldb, s->ldc};
    for (size_t i = 0; i < COUNT(size); i++)
        if (size[i] > INT32_MAX) return false;
    return true;
}

static bool has_dnnl(const Gemm *g, const PlanGemm *s) { return g->dnnl.here && s->dc != DT_F64; }

/* Shares grow with the matrix, and with them the scratch for widened operands: only f32 and f64. */
static bool can_rows(const Gemm *g, const PlanGemm *s) {
    (void)g;
    return fits_blas(s) && !any_half(s) && s->m >= 32;
}
static bool can_columns(const Gemm *g, const PlanGemm *s) {
    (void)g;
    return fits_blas(s) && !any_half(s) && s->n >= 32;
}
static bool can_whole(const Gemm *g, const PlanGemm *s) {
    (void)g;
    return fits_blas(s) && s->m <= 4096 && s->n <= 4096 && s->m * s->n <= 1 << 18;
}
static bool can_tiles(const Gemm *g, const PlanGemm *s) {
    (void)g;
    return fits_blas(s) && (s->m > 192 || s->n > 384);
}
/* What is widened is used often: at f32 the same as sharing columns. */
static bool can_squares(const Gemm *g, const PlanGemm *s) {
    (void)g;
    return fits_blas(s) && any_half(s) && (s->m > 384 || s->n > 384);
}
static bool can_dnnl_rows(const Gemm *g, const PlanGemm *s) {
    return has_dnnl(g, s) && can_rows(g, s);
}
static bool can_dnnl_columns(const Gemm *g, const PlanGemm *s) {
    return has_dnnl(g, s) && can_columns(g, s);
}
static bool can_dnnl_whole(const Gemm *g, const PlanGemm *s) {
    return has_dnnl(g, s) && can_whole(g, s);
}
static bool can_dnnl_squares(const Gemm *g, const PlanGemm *s) {
    return has_dnnl(g, s) && can_squares(g, s);
}
static bool can_dnnl_tiles(const Gemm *g, const PlanGemm *s) {
    return has_dnnl(g, s) && can_tiles(g, s);
}

#define RUN(name, cut)                                                                             \
    static void name(const GemmAlgo *algo, Gemm *g, const PlanGemm *s, const void *a,              \
                     const void *b, void *c) {                                                     \
        cut(&(Tiled){.g = g, .algo = algo, .s = s, .a = a, .b = b, .c = c});                       \
    }
RUN(run_rows, rows)
RUN(run_columns, columns)
RUN(run_whole, whole)
RUN(run_tiles, tiles)
RUN(run_wide_tiles, wide_tiles)
RUN(run_square_tiles, square_tiles)
#undef RUN

#define BLAS(name, doc, can, run)                                                                  \
    { "blas-" name, "OpenBLAS, " doc, can, run, GEMM_BLAS, 0 }
#define DNNL(name, doc, can, run)                                                                  \
    { "dnnl-" name, "oneDNN, " doc, can_dnnl_##can, run, GEMM_DNNL, 0 }
/* Rows or columns of C in n pieces. */
#define PIECES(n)                                                                                    \
    {"blas-rows-" #n, "OpenBLAS, rows of C in pieces", can_rows, run_rows, GEMM_BLAS, n},            \
        {"blas-columns-" #n, "OpenBLAS, columns in pieces", can_columns, run_columns, GEMM_BLAS, n}, \
        {"dnnl-rows-" #n, "oneDNN, rows of C in pieces", can_dnnl_rows, run_rows, GEMM_DNNL, n}, {   \
        "dnnl-columns-" #n, "oneDNN, columns in pieces", can_dnnl_columns, run_columns, GEMM_DNNL,   \
            n                                                                                        \
    }

/* In order of preference: a later one must be measurably faster. */
const GemmAlgo gemm_algos[] = {
    PIECES(1),
    PIECES(2),
    PIECES(3),
    PIECES(4),
    PIECES(6),
    PIECES(8),
    PIECES(12),
    PIECES(16),
    PIECES(24),
    PIECES(32),
    PIECES(48),
    PIECES(64),
    BLAS("whole", "whole matrices, batches shared", can_whole, run_whole),
    BLAS("tiles", "tiles of 192 x 384 in turn", can_tiles, run_tiles),
    BLAS("wide-tiles", "tiles of 384 x 1024 in turn", can_tiles, run_wide_tiles),
    BLAS("square-tiles", "tiles of up to 1024 x 1024", can_squares, run_square_tiles),
    DNNL("whole", "whole matrices, batches shared", whole, run_whole),
    DNNL("tiles", "tiles of 192 x 384 in turn", tiles, run_tiles),
    DNNL("wide-tiles", "tiles of 384 x 1024 in turn", tiles, run_wide_tiles),
    DNNL("square-tiles", "tiles of up to 1024 x 1024", squares, run_square_tiles),
};
const size_t gemm_algo_count = COUNT(gemm_algos);
