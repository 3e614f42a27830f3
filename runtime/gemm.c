/* gemm.c: finding the BLAS, and choosing an algorithm by measuring.
 *
 * The BLAS is loaded with dlopen because OpenBLAS picks its kernels while it is being loaded, and
 * the version in Debian 12 knows no processor newer than itself: on an Emerald Rapids it falls back
 * to SSE code, six times slower. Unless the user chose (OPENBLAS_CORETYPE), the instruction sets of
 * the processor choose here.
 *
 * Measuring. All candidates take turns on the same operands; the least time of each counts. Large
 * products are measured on a smaller one of like shape, so that a shape costs some 20 ms. */
#include "runtime/gemm_private.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CANDIDATES = 24, ROUNDS = 40, PEAK_SIZE = 1024 };
static const double measured_flops = 2e8;  /* largest product that is measured */
static const double shape_seconds = 0.02;  /* for one shape, all candidates */
static const double peak_seconds = 0.3;    /* for the peak */
static const double clearly_faster = 0.97; /* of the time: a later candidate must beat it */

/* ---- the BLAS ---- */

static const char *core_type(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return NULL;
}

static void *load_library(void) {
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so"};
    static const char variable[] = "OPENBLAS_CORETYPE";
    const char *core = getenv(variable) ? NULL : core_type();
    if (core) setenv(variable, core, 1);
    void *library = library_open(names, COUNT(names));
    if (core) unsetenv(variable);
    return library;
}

static Status blas_open(Blas *b, int threads) {
    const LibraryFunction functions[] = {
#define X(type, name, args) {#name, &b->name},
        BLAS_SYMBOLS(X)
#undef X
    };
    void *library = load_library();
    if (!library)
        return status_make(EXIT_SYSTEM, "cannot load OpenBLAS (%s): install libopenblas0-pthread",
                           dlerror());
    const char *missing = library_find(library, functions, COUNT(functions));
    if (missing) return status_make(EXIT_SYSTEM, "OpenBLAS has no function %s", missing);
    if (threads > 1 && b->openblas_get_parallel() == 0)
        return status_make(EXIT_SYSTEM,
                           "this OpenBLAS (%s) gives wrong results when two threads call it: "
                           "install libopenblas0-pthread, or set M6C_THREADS=1",
                           b->openblas_get_config());
    b->openblas_set_num_threads(1);
    return NULL;
}

/* Not having it is no error. */
static void dnnl_open(Dnnl *d) {
    static const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2"};
    const LibraryFunction functions[] = {
#define X(type, name, args) {#name, &d->name},
        DNNL_SYMBOLS(X)
#undef X
    };
    void *library = library_open(names, COUNT(names));
    d->here = !library_find(library, functions, COUNT(functions));
}

/* ---- open and close ---- */

static void put_processor(Buf *out) {
    char *text, *line, *end;
    size_t n;
    Status s = file_read("/proc/cpuinfo", &text, &n);
    free(s);
    if (s) return;
    static const char *const keys[] = {"\nmodel name", "\nmodel\t", "\nflags"};
    for (size_t i = 0; i < COUNT(keys); i++) {
        if (!(line = strstr(text, keys[i])) || !(end = strchr(line + 1, '\n'))) continue;
        buf_printf(out, "%016llx ", (unsigned long long)hash_bytes(line, (size_t)(end - line), 0));
    }
    free(text);
}

/* One word that differs when remembered measurements may no longer hold. */
static char *make_signature(const Gemm *g) {
    Buf b = {0};
    put_processor(&b);
    buf_printf(&b, "%s %s %s", M6C_VERSION, g->blas.openblas_get_config(),
               g->blas.openblas_get_corename());
    buf_puts(&b, g->dnnl.here ? " dnnl" : "");
    for (size_t i = 0; i < gemm_algo_count; i++)
        buf_printf(&b, " %s %s", gemm_algos[i].name, gemm_algos[i].doc);
    uint64_t h = hash_bytes(b.p, b.n, 0);
    b.n = 0;
    buf_printf(&b, "%s-%016llx", g->blas.openblas_get_corename(), (unsigned long long)h);
    return b.p;
}

static char *copy_text(const char *s) {
    char *p = xmalloc(strlen(s) + 1);
    return strcpy(p, s);
}

Status gemm_open(Pool *pool, Gemm **out) {
    Gemm *g = xcalloc(1, sizeof *g);
    Status s = blas_open(&g->blas, pool_threads(pool));
    if (s) {
        free(g);
        return s;
    }
    g->pool = pool;
    dnnl_open(&g->dnnl);
    g->scratch = xcalloc((size_t)pool_threads(pool), sizeof *g->scratch);
    g->scratch_bytes = xcalloc((size_t)pool_threads(pool), sizeof *g->scratch_bytes);
    wisdom_open(&g->wisdom, copy_text("wisdom.txt"), make_signature(g));
    *out = g;
    return NULL;
}

static void free_operands(Gemm *g) {
    for (int i = 0; i < 3; i++) {
        free(g->bench[i]);
        g->bench[i] = NULL;
        g->bench_bytes[i] = 0;
    }
}

void gemm_save(Gemm *g) {
    wisdom_save(&g->wisdom);
    free_operands(g);
}

void gemm_close(Gemm *g) {
    if (!g) return;
    gemm_save(g);
    for (int i = 0; i < pool_threads(g->pool); i++) free(g->scratch[i]);
    wisdom_close(&g->wisdom);
    free(g->scratch);
    free(g->scratch_bytes);
    free(g); /* the libraries stay loaded: their threads cannot be unloaded safely */
}

static void *aligned_room(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) return xmalloc(SIZE_MAX); /* reports and exits */
    return p;
}

void gemm_need_scratch(Gemm *g, size_t bytes) {
    for (int i = 0; i < pool_threads(g->pool); i++) {
        if (g->scratch_bytes[i] >= bytes) continue;
        free(g->scratch[i]);
        g->scratch[i] = aligned_room(bytes);
        g->scratch_bytes[i] = bytes;
    }
}

/* ---- candidates ---- */

/* Among those that cut C into pieces: the fewest that give each thread one. */
static bool worth_measuring(const Gemm *g, const GemmAlgo *algo) {
    int fewest = 0, threads = pool_threads(g->pool);
    for (size_t i = 0; i < gemm_algo_count && fewest < threads; i++)
        fewest = MAX(fewest, gemm_algos[i].pieces);
    return algo->pieces == 0 || algo->pieces == fewest;
}

const GemmAlgo *gemm_candidate(const Gemm *g, const PlanGemm *s, int i) {
    for (size_t j = 0; j < gemm_algo_count; j++)
        if (worth_measuring(g, &gemm_algos[j]) && gemm_algos[j].applicable(g, s) && i-- == 0)
            return &gemm_algos[j];
    return NULL;
}

const GemmAlgo *gemm_find(const Gemm *g, const PlanGemm *s, const char *name) {
    for (size_t j = 0; j < gemm_algo_count; j++)
        if (strcmp(gemm_algos[j].name, name) == 0)
            return gemm_algos[j].applicable(g, s) ? &gemm_algos[j] : NULL;
    return NULL;
}

/* ---- measuring ---- */

/* A like shape that takes a few milliseconds at most: the largest extent is halved, batches first.
 */
static PlanGemm smaller(const PlanGemm *s) {
    PlanGemm t = *s;
    bool tight_a = t.lda == (t.ta ? t.m : t.k), tight_b = t.ldb == (t.tb ? t.k : t.n);
    bool tight_c = t.ldc == t.n;
    while (plan_gemm_flops(&t) > measured_flops) {
        int64_t *largest = t.m >= t.n && t.m >= t.k ? &t.m : t.n >= t.k ? &t.n : &t.k;
        for (int i = 0; i < t.nbatch; i++)
            if (t.count[i] > 8) largest = &t.count[i];
        *largest = (*largest + 1) / 2;
    }
    if (tight_a) t.lda = t.ta ? t.m : t.k;
    if (tight_b) t.ldb = t.tb ? t.k : t.n;
    if (tight_c) t.ldc = t.n;
    return t;
}

/* Operands whose bits are small ordinary numbers in every format. */
static bool need_operands(Gemm *g, const PlanGemm *s) {
    const Dtype d[] = {s->da, s->db, s->dc};
    for (int i = 0; i < 3; i++) {
        int64_t span = plan_gemm_span(s, i);
        if (span < 0 || span > INT64_C(1) << 32) return false;
        size_t bytes = (size_t)span * (size_t)dtype_size(d[i]);
        if (bytes <= g->bench_bytes[i]) continue;
        free(g->bench[i]);
        uint16_t *p = g->bench[i] = aligned_room(bytes);
        g->bench_bytes[i] = bytes;
        for (size_t j = 0; j < bytes / 2; j++) p[j] = (uint16_t)(0x3c00 + j * 2654435761u % 64);
    }
    return true;
}

static double time_once(Gemm *g, const GemmAlgo *algo, const PlanGemm *s) {
    double begin = now_seconds();
    algo->run(algo, g, s, g->bench[0], g->bench[1], g->bench[2]);
    return now_seconds() - begin;
}

/* The same by the processor time of the busiest thread: other programs do not lengthen it. */
static double busy_once(Gemm *g, const GemmAlgo *algo, const PlanGemm *s) {
    int n = pool_threads(g->pool);
    double *before = xcalloc((size_t)n * 2, sizeof *before), *after = before + n, most = 0;
    pool_cpu_seconds(g->pool, before);
    double wall = time_once(g, algo, s);
    pool_cpu_seconds(g->pool, after);
    for (int i = 0; i < n; i++) most = MAX(most, after[i] - before[i]);
    free(before);
    return most > 0 ? MIN(most, wall) : wall;
}

/* The best of the candidates and its time; they take turns until the budget is spent. */
static const GemmAlgo *fastest(Gemm *g, const GemmAlgo *const *algo, int n, const PlanGemm *s,
                               double budget, double *least) {
    double time[MAX_CANDIDATES] = {0}, end = now_seconds() + budget;
    for (int i = 0; i < n; i++) time[i] = time_once(g, algo[i], s); /* also warms up */
    for (int round = 0; round < ROUNDS && (round < 1 || now_seconds() < end); round++) {
        double best = time[0];
        for (int i = 1; i < n; i++) best = MIN(best, time[i]);
        for (int i = 0; i < n; i++)
            if (round == 0 || time[i] < 1.5 * best)
                time[i] = MIN(time[i], time_once(g, algo[i], s));
    }
    int winner = 0;
    for (int i = 1; i < n; i++)
        if (time[i] < time[winner] * clearly_faster) winner = i;
    *least = time[winner];
    return algo[winner];
}

static int candidates(const Gemm *g, const PlanGemm *s, const GemmAlgo **algo) {
    int n = 0;
    while (n < MAX_CANDIDATES && (algo[n] = gemm_candidate(g, s, n))) n++;
    return n;
}

/* What decides which algorithm is fastest. */
static void put_key(const Gemm *g, const PlanGemm *s, Buf *out) {
    buf_printf(out, "%d ", pool_threads(g->pool));
    wisdom_put_product(s, out);
}

const GemmAlgo *gemm_choose(Gemm *g, const PlanGemm *s) {
    const GemmAlgo *algo[MAX_CANDIDATES], *known = NULL;
    int n = candidates(g, s, algo);
    Buf key = {0};
    put_key(g, s, &key);
    const WisdomEntry *w = wisdom_recall(&g->wisdom, key.p);
    if (w) known = gemm_find(g, s, w->choice);
    if (!known && n > 0) {
        PlanGemm t = smaller(s);
        double least = 0;
        known = need_operands(g, &t) ? fastest(g, algo, n, &t, shape_seconds, &least) : algo[0];
        if (!w && least > 0)
            wisdom_remember(&g->wisdom, key.p, known->name, plan_gemm_flops(&t) / least / 1e9);
    }
    buf_free(&key);
    return known;
}

double gemm_known_speed(const Gemm *g, const PlanGemm *s) {
    Buf key = {0};
    put_key(g, s, &key);
    const WisdomEntry *w = wisdom_recall(&g->wisdom, key.p);
    buf_free(&key);
    return w ? w->speed : 0;
}

static double measure_peak(Gemm *g) {
    enum { N = PEAK_SIZE };
    const PlanGemm s = {.m = N, .n = N, .k = N, .lda = N, .ldb = N, .ldc = N, .alpha = 1};
    const GemmAlgo *algo[MAX_CANDIDATES];
    int n = candidates(g, &s, algo);
    double least = 0, end = now_seconds() + peak_seconds;
    if (n == 0 || !need_operands(g, &s)) return 0;
    for (int i = 0; i < n || now_seconds() < end; i++) {
        double t = busy_once(g, algo[i % n], &s);
        least = least == 0 ? t : MIN(least, t);
    }
    return plan_gemm_flops(&s) / least / 1e9;
}

double gemm_peak(Gemm *g) {
    char key[32];
    snprintf(key, sizeof key, "%d peak", pool_threads(g->pool));
    const WisdomEntry *known = wisdom_recall(&g->wisdom, key);
    double peak = known ? known->speed : measure_peak(g), before = known ? peak : 0;
    /* A product that did better while the machine was quieter raises what is known. */
    for (uint32_t i = 0; i < g->wisdom.entry.n; i++) {
        const WisdomEntry *w = &g->wisdom.entry.p[i];
        if (atoi(w->key) == pool_threads(g->pool) && !strstr(w->key, "f64"))
            peak = MAX(peak, w->speed);
    }
    if (peak > before) wisdom_remember(&g->wisdom, key, "-", peak);
    return peak;
}
