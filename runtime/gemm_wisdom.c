/* gemm_wisdom.c: what was measured on this machine, as text in the cache folder.
 *
 *     m6c-wisdom 1 SIGNATURE
 *     peak THREADS GFLOPS
 *     gemm ALGORITHM GFLOPS SHAPE
 *
 * The signature names the processor, the BLAS and the candidates: a file with another one is
 * ignored and replaced. Processes that measure at the same time each merge their news into the file
 * and rename it into place, so the worst that can happen is that something is measured twice. */
#include "runtime/gemm_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char title[] = "m6c-wisdom 1 ";

void gemm_key(const Gemm *g, const PlanGemm *s, Buf *out) {
    buf_printf(out, "%d %s %s %s %c%c %" PRId64 " %" PRId64 " %" PRId64, pool_threads(g->pool),
               dtype_name(s->da), dtype_name(s->db), dtype_name(s->dc), s->ta ? 't' : 'n',
               s->tb ? 't' : 'n', s->m, s->n, s->k);
    buf_printf(out, " %" PRId64 " %" PRId64 " %" PRId64 " %d", s->lda, s->ldb, s->ldc,
               s->beta != 0);
    for (int i = 0; i < s->nbatch; i++)
        buf_printf(out, " %" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64, s->count[i], s->sa[i],
                   s->sb[i], s->sc[i]);
}

const Wisdom *gemm_recall(const Gemm *g, const char *key) {
    uint64_t h = hash_bytes(key, strlen(key), 0);
    for (uint32_t i = 0; i < g->wisdom.n; i++)
        if (g->wisdom.p[i].hash == h && strcmp(g->wisdom.p[i].shape, key) == 0)
            return &g->wisdom.p[i];
    return NULL;
}

static char *copy_text(const char *s, size_t n) {
    char *p = xmalloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void gemm_remember(Gemm *g, const char *key, const char *algo, double gflops) {
    size_t n = strlen(key);
    vec_push(&g->wisdom, ((Wisdom){copy_text(key, n), hash_bytes(key, n, 0),
                                   copy_text(algo, strlen(algo)), gflops}));
    g->news = true;
}

static bool read_peak(Gemm *g, const char *p, const char *end) {
    int64_t threads;
    double gflops;
    const char *space = memchr(p, ' ', (size_t)(end - p));
    if (!space || !parse_i64(p, (size_t)(space - p), &threads)) return false;
    if (!parse_f64(space + 1, (size_t)(end - space - 1), &gflops)) return false;
    if (threads == pool_threads(g->pool) && g->peak == 0) g->peak = gflops;
    return true;
}

static bool read_gemm(Gemm *g, const char *p, const char *end) {
    double gflops;
    const char *a = memchr(p, ' ', (size_t)(end - p));
    const char *b = a ? memchr(a + 1, ' ', (size_t)(end - a - 1)) : NULL;
    if (!b || !parse_f64(a + 1, (size_t)(b - a - 1), &gflops)) return false;
    char *key = copy_text(b + 1, (size_t)(end - b - 1)), *algo = copy_text(p, (size_t)(a - p));
    if (!gemm_recall(g, key)) gemm_remember(g, key, algo, gflops);
    free(key);
    free(algo);
    return true;
}

/* Lines that are not understood are left out: wisdom can always be gained again. */
static void read_text(Gemm *g, const char *p, size_t n) {
    const char *end = p + n;
    for (bool first = true; p < end; first = false) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        size_t length = (size_t)(stop - p), t = sizeof title - 1;
        if (first && (length != t + strlen(g->signature) || memcmp(p, title, t) != 0 ||
                      memcmp(p + t, g->signature, length - t) != 0))
            return;
        if (length > 5 && memcmp(p, "peak ", 5) == 0) read_peak(g, p + 5, stop);
        if (length > 5 && memcmp(p, "gemm ", 5) == 0) read_gemm(g, p + 5, stop);
        p = stop + 1;
    }
}

static bool wisdom_path(Buf *path) {
    Status s = cache_dir(path);
    if (!s) buf_puts(path, "/wisdom.txt");
    free(s);
    return path->n > 0;
}

void gemm_wisdom_load(Gemm *g) {
    Buf path = {0};
    char *text;
    size_t n;
    bool news = g->news;
    if (wisdom_path(&path)) {
        Status s = file_read(path.p, &text, &n);
        if (!s) {
            read_text(g, text, n);
            free(text);
        }
        free(s);
    }
    g->news = news;
    buf_free(&path);
}

/* The peaks of other thread counts stay in the file. */
static void keep_other_peaks(const Gemm *g, const char *path, Buf *out) {
    char *text;
    size_t n;
    Status s = file_read(path, &text, &n);
    free(s);
    if (s) return;
    const char *head = text + sizeof title - 1;
    bool ours = n >= sizeof title && strncmp(text, title, sizeof title - 1) == 0 &&
                strncmp(head, g->signature, strlen(g->signature)) == 0;
    for (char *p = ours ? strstr(text, "\npeak ") : NULL; p; p = strstr(p + 1, "\npeak ")) {
        char *end = strchr(p + 1, '\n');
        if (atoi(p + 6) != pool_threads(g->pool) && end) buf_put(out, p + 1, (size_t)(end - p));
    }
    free(text);
}

void gemm_wisdom_save(Gemm *g) {
    Buf path = {0}, out = {0};
    if (!g->news || !wisdom_path(&path)) return;
    gemm_wisdom_load(g);
    buf_printf(&out, "%s%s\n", title, g->signature);
    keep_other_peaks(g, path.p, &out);
    if (g->peak > 0) {
        buf_printf(&out, "peak %d ", pool_threads(g->pool));
        buf_double(&out, g->peak);
        buf_puts(&out, "\n");
    }
    for (uint32_t i = 0; i < g->wisdom.n; i++) {
        const Wisdom *w = &g->wisdom.p[i];
        buf_printf(&out, "gemm %s ", w->algo);
        buf_double(&out, w->gflops);
        buf_printf(&out, " %s\n", w->shape);
    }
    free(file_write_atomic(path.p, out.p, out.n));
    g->news = false;
    buf_free(&path);
    buf_free(&out);
}
