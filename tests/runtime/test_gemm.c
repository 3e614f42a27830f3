/* Checks runtime/gemm: every candidate that takes a shape against a plain product in double, with
 * odd sizes, padding, transposes, batches, alpha and beta, all formats; nothing outside C is
 * touched; the same bits in each run; what was measured is remembered. */
#include "runtime/gemm.h"
#include "runtime/half.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    char *p;
    int64_t n;
    Dtype d;
} Matrix;

static double get(const Matrix *x, int64_t i) {
    const char *at = x->p + i * dtype_size(x->d);
    uint16_t h;
    float f;
    double v;
    if (x->d == DT_F64) return memcpy(&v, at, 8), v;
    if (x->d == DT_F32) return memcpy(&f, at, 4), (double)f;
    memcpy(&h, at, 2);
    return (double)(x->d == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h));
}

static void put(Matrix *x, int64_t i, double v) {
    char *at = x->p + i * dtype_size(x->d);
    float f = (float)v;
    uint16_t h = x->d == DT_BF16 ? f32_to_bf16(f) : f32_to_f16(f);
    if (x->d == DT_F64)
        memcpy(at, &v, 8);
    else if (x->d == DT_F32)
        memcpy(at, &f, 4);
    else
        memcpy(at, &h, 2);
}

static Matrix make(Dtype d, int64_t n, uint32_t key) {
    Matrix x = {aligned_alloc(64, (size_t)(n * dtype_size(d) + 63) / 64 * 64), n, d};
    for (int64_t i = 0; i < n; i++)
        put(&x, i, (double)random_unit(philox(key, (uint64_t)i, NULL)) - 0.5);
    return x;
}

/* C as it must become, given C as it was. */
static void reference(const PlanGemm *s, const Matrix *a, const Matrix *b, Matrix *c) {
    int64_t batches = 1;
    for (int i = 0; i < s->nbatch; i++) batches *= s->count[i];
    for (int64_t x = 0; x < batches; x++) {
        int64_t rest = x, oa = 0, ob = 0, oc = 0;
        for (int i = s->nbatch; i-- > 0; rest /= s->count[i]) {
            int64_t j = rest % s->count[i];
            oa += j * s->sa[i], ob += j * s->sb[i], oc += j * s->sc[i];
        }
        for (int64_t i = 0; i < s->m; i++)
            for (int64_t j = 0; j < s->n; j++) {
                double sum = 0;
                for (int64_t k = 0; k < s->k; k++)
                    sum += get(a, oa + (s->ta ? k * s->lda + i : i * s->lda + k)) *
                           get(b, ob + (s->tb ? j * s->ldb + k : k * s->ldb + j));
                int64_t at = oc + i * s->ldc + j;
                double old = s->beta != 0 ? (double)s->beta * get(c, at) : 0;
                put(c, at, (double)s->alpha * sum + old);
            }
    }
}

static double tolerance(const PlanGemm *s) {
    double unit = s->dc == DT_F64    ? 0x1p-52
                  : s->dc == DT_F32  ? 0x1p-23
                  : s->dc == DT_BF16 ? 0x1p-8
                                     : 0x1p-10;
    /* 16-bit results are one rounding of an f32 sum: at most one step apart. */
    return unit * (s->dc == DT_F32 || s->dc == DT_F64 ? 4 * sqrt((double)s->k) + 4 : 1.01) *
           (s->dc == DT_F32 || s->dc == DT_F64 ? 1 : sqrt((double)s->k) / 4 + 1);
}

static void test_one(Gemm *g, const PlanGemm *s) {
    Matrix a = make(s->da, plan_gemm_span(s, 0), 1), b = make(s->db, plan_gemm_span(s, 1), 2);
    Matrix c0 = make(s->dc, plan_gemm_span(s, 2) + 16, 3), want = make(s->dc, c0.n, 3);
    Matrix c = make(s->dc, c0.n, 3), again = make(s->dc, c0.n, 3);
    size_t bytes = (size_t)(c0.n * dtype_size(s->dc));
    reference(s, &a, &b, &want);
    const GemmAlgo *algo;
    for (int i = 0; (algo = gemm_candidate(g, s, i)); i++) {
        CHECK(gemm_find(g, s, algo->name) == algo);
        memcpy(c.p, c0.p, bytes);
        memcpy(again.p, c0.p, bytes);
        algo->run(algo, g, s, a.p, b.p, c.p);
        algo->run(algo, g, s, a.p, b.p, again.p);
        CHECK(memcmp(c.p, again.p, bytes) == 0);
        double worst = 0;
        for (int64_t j = 0; j < c.n; j++) worst = fmax(worst, fabs(get(&c, j) - get(&want, j)));
        if (!CHECK(worst <= tolerance(s)))
            fprintf(stderr, "%s %s: m %d n %d k %d: off by %g, allowed %g\n", algo->name,
                    dtype_name(s->dc), (int)s->m, (int)s->n, (int)s->k, worst, tolerance(s));
    }
    CHECK(gemm_candidate(g, s, 0) != NULL);
    free(a.p), free(b.p), free(c0.p), free(c.p), free(want.p), free(again.p);
}

static void test_shapes(Gemm *g) {
    static const int64_t size[][3] = {{1, 1, 1},    {1, 33, 7},     {5, 1, 64},
                                      {17, 19, 23}, {64, 48, 32},   {33, 130, 65},
                                      {200, 70, 9}, {193, 385, 40}, {12, 20, 1600}};
    static const Dtype types[][3] = {{DT_F32, DT_F32, DT_F32},    {DT_F64, DT_F64, DT_F64},
                                     {DT_BF16, DT_BF16, DT_BF16}, {DT_F16, DT_F16, DT_F16},
                                     {DT_BF16, DT_F32, DT_F32},   {DT_F32, DT_F16, DT_BF16}};
    for (size_t i = 0; i < COUNT(size); i++)
        for (size_t t = 0; t < COUNT(types); t++)
            for (int x = 0; x < 4; x++) {
                PlanGemm s = {.m = size[i][0], .n = size[i][1], .k = size[i][2], .alpha = 1};
                s.da = types[t][0], s.db = types[t][1], s.dc = types[t][2];
                s.ta = x & 1, s.tb = x >> 1;
                s.lda = (s.ta ? s.m : s.k) + (x == 2), s.ldb = (s.tb ? s.k : s.n) + 3 * (x == 1);
                s.ldc = s.n + (x == 3);
                if (x == 3) s.alpha = 0.5f, s.beta = 1;
                test_one(g, &s);
            }
}

static void test_batches(Gemm *g) {
    /* attention's layout: heads side by side in the rows of A, B and C */
    PlanGemm s = {.m = 9,
                  .n = 11,
                  .k = 8,
                  .lda = 24,
                  .ldb = 24,
                  .ldc = 11,
                  .tb = true,
                  .nbatch = 2,
                  .count = {2, 3},
                  .sa = {9 * 24, 8},
                  .sb = {11 * 24, 8},
                  .sc = {3 * 99, 99},
                  .alpha = 0.25f};
    CHECK(plan_gemm_disjoint(&s));
    test_one(g, &s);
    s.da = s.db = s.dc = DT_BF16;
    test_one(g, &s);
    PlanGemm u = {.m = 9,
                  .n = 8,
                  .k = 11,
                  .lda = 11,
                  .ldb = 24,
                  .ldc = 24,
                  .nbatch = 3,
                  .count = {2, 3, 1},
                  .sa = {3 * 99, 99, 5},
                  .sb = {11 * 24, 8, 0},
                  .sc = {9 * 24, 8, 7},
                  .alpha = 1,
                  .beta = -1};
    CHECK(plan_gemm_disjoint(&u));
    test_one(g, &u);
    u.sb[0] = u.sb[1] = 0; /* one B for all */
    test_one(g, &u);
}

/* Whatever is measured on two threads gives the same bits on one, and the other way round. */
static void test_threads(Gemm *g1, Gemm *g2) {
    PlanGemm s = {.m = 300, .n = 97, .k = 300, .lda = 300, .ldb = 97, .ldc = 97, .alpha = 1};
    const size_t bytes = 300 * 97 * sizeof(float);
    Matrix a = make(DT_F32, 300 * 300, 1), b = make(DT_F32, 300 * 97, 2);
    Matrix c = make(DT_F32, 300 * 97, 3), d = make(DT_F32, 300 * 97, 3);
    for (int from = 0; from < 2; from++) {
        const GemmAlgo *algo;
        for (int i = 0; (algo = gemm_candidate(from ? g1 : g2, &s, i)); i++) {
            CHECK(gemm_find(g1, &s, algo->name) == algo && gemm_find(g2, &s, algo->name) == algo);
            algo->run(algo, g1, &s, a.p, b.p, c.p);
            algo->run(algo, g2, &s, a.p, b.p, d.p);
            CHECK(memcmp(c.p, d.p, bytes) == 0);
        }
    }
    free(a.p), free(b.p), free(c.p), free(d.p);
}

static void test_wisdom(Pool *pool, const char *dir) {
    PlanGemm s = {.m = 64, .n = 64, .k = 64, .lda = 64, .ldb = 64, .ldc = 64, .alpha = 1};
    Buf path = {0};
    buf_printf(&path, "%s/wisdom.txt", dir);
    Gemm *g;
    if (!CHECK(gemm_open(pool, &g) == NULL)) return;
    CHECK(gemm_known_speed(g, &s) == 0);
    const GemmAlgo *algo = gemm_choose(g, &s);
    double speed = gemm_known_speed(g, &s);
    CHECK(algo && speed > 0 && gemm_choose(g, &s) == algo);
    CHECK(gemm_find(g, &s, "nonsense") == NULL);
    PlanGemm large = {
        .m = 4000, .n = 4000, .k = 3000, .lda = 3000, .ldb = 4000, .ldc = 4000, .alpha = 1};
    CHECK(gemm_choose(g, &large) != NULL);
    double peak = gemm_peak(g);
    CHECK(peak >= speed && gemm_peak(g) == peak);
    gemm_close(g);
    CHECK(access(path.p, F_OK) == 0);
    CHECK(gemm_open(pool, &g) == NULL && gemm_known_speed(g, &s) == speed && gemm_peak(g) == peak);
    gemm_close(g);
    CHECK(file_write_atomic(path.p, "m6c-wisdom 1 another\npeak 1 5\n", 30) == NULL);
    CHECK(gemm_open(pool, &g) == NULL && gemm_known_speed(g, &s) == 0);
    gemm_close(g);
    unlink(path.p);
    buf_free(&path);
}

/* Rows of halves have the bits of the scalar functions: all of them one way; on the way back every
 * half, its neighbours, and the points halfway between. */
static void test_halves(Dtype d) {
    uint16_t h[8 + 3], back[8 + 3];
    float f[8 + 3];
    bool bf = d == DT_BF16;
    for (uint32_t i = 0; i < 65536; i += 8) {
        for (uint32_t j = 0; j < 11; j++) h[j] = (uint16_t)(i + j);
        half_widen(d, h, f, 11);
        for (int j = 0; j < 11; j++) {
            float want = bf ? bf16_to_f32(h[j]) : f16_to_f32(h[j]);
            CHECK(memcmp(&f[j], &want, 4) == 0);
        }
        for (int32_t nudge = -1; nudge <= 1; nudge++) {
            for (int half = 0; half < 2; half++) {
                for (int j = 0; j < 11; j++) {
                    uint32_t u;
                    memcpy(&u, &f[j], 4);
                    u += (uint32_t)nudge + (half ? bf ? 0x8000u : 0x1000u : 0u);
                    memcpy(&f[j], &u, 4);
                }
                half_narrow(d, f, back, 11);
                for (int j = 0; j < 11; j++)
                    CHECK(back[j] == (bf ? f32_to_bf16(f[j]) : f32_to_f16(f[j])));
            }
        }
    }
    float small[11];
    for (uint32_t i = 0; i < 3000; i++) { /* f16's subnormals, where rounding is done by adding */
        for (int j = 0; j < 11; j++)
            small[j] =
                ldexpf(random_unit(philox(5, i * 16 + (uint32_t)j, NULL)) - 0.5f, -(int)(i % 40));
        half_narrow(d, small, back, 11);
        for (int j = 0; j < 11; j++)
            CHECK(back[j] == (bf ? f32_to_bf16(small[j]) : f32_to_f16(small[j])));
    }
}

int main(void) {
    test_halves(DT_BF16);
    test_halves(DT_F16);
    char dir[] = "/tmp/m6c-gemm-XXXXXX";
    if (!mkdtemp(dir)) return 1;
    setenv("M6C_CACHE", dir, 1);
    Pool *one = pool_open(1), *two = pool_open(2);
    Gemm *g1 = NULL, *g2 = NULL;
    Status s = gemm_open(one, &g1);
    if (!s) s = gemm_open(two, &g2);
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        return 1;
    }
    test_shapes(g1);
    test_shapes(g2);
    test_batches(g2);
    test_threads(g1, g2);
    gemm_close(g1);
    gemm_close(g2);
    test_wisdom(two, dir);
    pool_close(one);
    pool_close(two);
    rmdir(dir);
    return check_done("gemm");
}
