/* standin_cublaslt.c: products of the stand-in (standin.h), by OpenBLAS in f32 or f64, rounded once
 * to the type of the result. It takes what cuBLASLt takes: types, leading dimensions, alignments.
 *
 * Two algorithms: 1 runs anything; 2 is said to take half as long and wants addresses at multiples
 * of 16 bytes. */
#include "runtime/cublaslt.h"
#include "tests/gpu/standin.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LT(type, name, args) type name args;
#include "runtime/cublaslt.def"
#undef LT

enum { INVALID = 7, NOT_INITIALIZED = 1, NOT_SUPPORTED = 15, COLUMN_MAJOR = 102, N = 111, T = 112 };

static struct {
#define X(type, name, args) type(*name) args;
    STANDIN_EXPORTS(X)
#undef X
} driver;

static struct {
    void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                  float, float *, int);
    void (*dgemm)(int, int, int, int, int, int, double, const double *, int, const double *, int,
                  double, double *, int);
    void (*threads)(int);
} blas;

struct cublasLtContext {
    int none;
};
struct LtProductRec {
    int compute, scale;
    int32_t ta, tb;
    uint32_t epilogue;
    char *bias, *aux;
    int64_t aux_ld, aux_stride;
};
struct LtLayoutRec {
    int type;
    int64_t rows, columns, ld, stride;
    int32_t batch;
};
struct LtPreferenceRec {
    uint64_t workspace;
    uint32_t align[4];
};

/* ---- opening ---- */

size_t cublasLtGetVersion(void) { return 130000; }

const char *cublasLtGetStatusString(int status) {
    return status == NOT_SUPPORTED ? "the operation is not supported" : "the stand-in refuses";
}

int cublasLtCreate(LtHandle *handle) {
    const char *path = getenv("M6C_CUDA_DRIVER");
    void *cuda = dlopen(path ? path : "", RTLD_NOW | RTLD_NOLOAD);
    static const char *const openblas = "libopenblas.so.0";
    const LibraryFunction calls[] = {
#define X(type, name, args) {#name, &driver.name},
        STANDIN_EXPORTS(X)
#undef X
    };
    const LibraryFunction products[] = {{"cblas_sgemm", &blas.sgemm},
                                        {"cblas_dgemm", &blas.dgemm},
                                        {"openblas_set_num_threads", &blas.threads}};
    if (library_find(cuda, calls, COUNT(calls)) ||
        library_find(library_open(&openblas, 1), products, COUNT(products)))
        return NOT_INITIALIZED;
    blas.threads(1);
    *handle = xcalloc(1, sizeof **handle);
    return driver.standin_call("cublasLtCreate", NULL);
}

int cublasLtDestroy(LtHandle handle) {
    free(handle);
    return 0;
}

/* ---- descriptions ---- */

int cublasLtMatmulDescCreate(LtProduct *product, int compute, int scale_type) {
    *product = xcalloc(1, sizeof **product);
    **product = (struct LtProductRec){
        .compute = compute, .scale = scale_type, .epilogue = LT_EPILOGUE_DEFAULT};
    return 0;
}

int cublasLtMatmulDescSetAttribute(LtProduct product, int attribute, const void *value,
                                   size_t bytes) {
    const struct {
        int attribute;
        size_t bytes;
        void *to;
    } known[] = {{LT_TRANSPOSE_A, 4, &product->ta},
                 {LT_TRANSPOSE_B, 4, &product->tb},
                 {LT_EPILOGUE, 4, &product->epilogue},
                 {LT_BIAS, 8, &product->bias},
                 {LT_AUX, 8, &product->aux},
                 {LT_AUX_LD, 8, &product->aux_ld},
                 {LT_AUX_STRIDE, 8, &product->aux_stride}};
    for (size_t i = 0; i < COUNT(known); i++)
        if (known[i].attribute == attribute && known[i].bytes == bytes)
            return memcpy(known[i].to, value, bytes), 0;
    return INVALID;
}

int cublasLtMatmulDescDestroy(LtProduct product) {
    free(product);
    return 0;
}

int cublasLtMatrixLayoutCreate(LtLayout *layout, int type, uint64_t rows, uint64_t columns,
                               int64_t ld) {
    *layout = xcalloc(1, sizeof **layout);
    **layout = (struct LtLayoutRec){
        .type = type, .rows = (int64_t)rows, .columns = (int64_t)columns, .ld = ld, .batch = 1};
    return 0;
}

int cublasLtMatrixLayoutSetAttribute(LtLayout layout, int attribute, const void *value,
                                     size_t bytes) {
    if (attribute == LT_BATCH_COUNT && bytes == sizeof layout->batch)
        memcpy(&layout->batch, value, bytes);
    else if (attribute == LT_BATCH_STRIDE && bytes == sizeof layout->stride)
        memcpy(&layout->stride, value, bytes);
    else
        return INVALID;
    return 0;
}

int cublasLtMatrixLayoutDestroy(LtLayout layout) {
    free(layout);
    return 0;
}

int cublasLtMatmulPreferenceCreate(LtPreference *preference) {
    *preference = xcalloc(1, sizeof **preference);
    for (int i = 0; i < 4; i++) (*preference)->align[i] = 256;
    return 0;
}

int cublasLtMatmulPreferenceSetAttribute(LtPreference preference, int attribute, const void *value,
                                         size_t bytes) {
    if (attribute == LT_MAX_WORKSPACE && bytes == sizeof preference->workspace)
        memcpy(&preference->workspace, value, bytes);
    else if (attribute >= LT_ALIGN_A && attribute <= LT_ALIGN_D && bytes == sizeof(uint32_t))
        memcpy(&preference->align[attribute - LT_ALIGN_A], value, bytes);
    else
        return INVALID;
    return 0;
}

int cublasLtMatmulPreferenceDestroy(LtPreference preference) {
    free(preference);
    return 0;
}

/* ---- what is possible ---- */

static bool types_go(const struct LtProductRec *p, int a, int b, int c) {
    if (a != b) return false;
    if (p->compute == LT_COMPUTE_F64) return p->scale == LT_F64 && a == LT_F64 && c == LT_F64;
    if (p->compute != LT_COMPUTE_F32 || p->scale != LT_F32) return false;
    return (a == LT_F32 || a == LT_F16 || a == LT_BF16) && (c == a || c == LT_F32);
}

/* M6C_STANDIN_EPILOGUES=0: a library without any. */
static bool epilogue_goes(const struct LtProductRec *p, LtLayout c) {
    const char *any = getenv("M6C_STANDIN_EPILOGUES");
    bool aux = p->epilogue & LT_EPILOGUE_AUX;
    if (p->epilogue == LT_EPILOGUE_DEFAULT) return true;
    if ((any && strcmp(any, "0") == 0) || c->type == LT_F64) return false;
    return (!aux || (p->aux && p->aux_ld >= c->rows && p->aux_ld % 8 == 0)) &&
           (!(p->epilogue & (LT_EPILOGUE_BIAS | LT_EPILOGUE_SUMS)) || p->bias) &&
           (!(p->epilogue & LT_EPILOGUE_SUMS) || c->batch == 1) &&
           (aux || !(p->epilogue & LT_EPILOGUE_GELU_GRAD));
}

static bool goes(LtProduct p, LtLayout a, LtLayout b, LtLayout c) {
    int64_t m = p->ta ? a->columns : a->rows, ka = p->ta ? a->rows : a->columns;
    int64_t n = p->tb ? b->rows : b->columns, kb = p->tb ? b->columns : b->rows;
    if (!types_go(p, a->type, b->type, c->type) || !epilogue_goes(p, c)) return false;
    if (a->ld < a->rows || b->ld < b->rows || c->ld < c->rows) return false;
    return m == c->rows && n == c->columns && ka == kb && a->batch == c->batch &&
           b->batch == c->batch;
}

int cublasLtMatmulAlgoCheck(LtHandle handle, LtProduct product, LtLayout a, LtLayout b, LtLayout c,
                            LtLayout d, const LtAlgo *algo, LtHeuristic *result) {
    (void)handle;
    if (c != d || !goes(product, a, b, c) || algo->data[0] < 1 || algo->data[0] > 2)
        return NOT_SUPPORTED;
    *result = (LtHeuristic){.algo = *algo, .workspace = 1 << 20};
    return 0;
}

int cublasLtMatmulAlgoGetHeuristic(LtHandle handle, LtProduct product, LtLayout a, LtLayout b,
                                   LtLayout c, LtLayout d, LtPreference preference, int wanted,
                                   LtHeuristic *result, int *found) {
    uint32_t least = 256;
    for (int i = 0; i < 4; i++) least = MIN(least, preference->align[i]);
    *found = 0;
    for (uint64_t i = 1; i <= 2 && *found < wanted; i++) {
        LtAlgo algo = {{i}};
        if (i == 2 && least < 16) continue;
        int status = cublasLtMatmulAlgoCheck(handle, product, a, b, c, d, &algo, &result[*found]);
        if (status) return status;
        if (result[*found].workspace <= preference->workspace) ++*found;
    }
    return 0;
}

/* ---- multiplying ---- */

static float gelu(float a) { return a / (1 + expf(-1.5957691216f * (a + 0.044715f * a * a * a))); }

static float gelu_grad(float a) {
    float s = 1 / (1 + expf(-1.5957691216f * (a + 0.044715f * a * a * a)));
    return s + a * s * (1 - s) * 1.5957691216f * (1 + 0.134145f * a * a);
}

typedef struct {
    struct LtProductRec product;
    struct LtLayoutRec layout[3];
    const char *a, *b;
    char *c;
    double alpha, beta;
} Job;

static size_t size_of(int type) { return type == LT_F64 ? 8 : type == LT_F32 ? 4 : 2; }

/* A matrix as f32, dense. */
static float *widened(const struct LtLayoutRec *l, const char *p) {
    float *f = xmalloc((size_t)(l->rows * l->columns) * sizeof *f);
    for (int64_t j = 0; j < l->columns; j++)
        for (int64_t i = 0; i < l->rows; i++) {
            const char *at = p + (size_t)(j * l->ld + i) * size_of(l->type);
            uint16_t h = 0;
            if (l->type == LT_F32)
                memcpy(&f[j * l->rows + i], at, sizeof *f);
            else
                memcpy(&h, at, sizeof h);
            if (l->type == LT_BF16) f[j * l->rows + i] = bf16_to_f32(h);
            if (l->type == LT_F16) f[j * l->rows + i] = f16_to_f32(h);
        }
    return f;
}

static void put_back(const struct LtLayoutRec *l, const float *f, char *p) {
    for (int64_t j = 0; j < l->columns; j++)
        for (int64_t i = 0; i < l->rows; i++) {
            char *at = p + (size_t)(j * l->ld + i) * size_of(l->type);
            float x = f[j * l->rows + i];
            uint16_t h = l->type == LT_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
            if (l->type == LT_F32)
                memcpy(at, &x, sizeof x);
            else
                memcpy(at, &h, sizeof h);
        }
}

/* On the sums of batch i, before they are rounded; rows of a column-major matrix are our columns.
 */
static void finish(const Job *j, int64_t i, float *f) {
    const struct LtProductRec *p = &j->product;
    struct LtLayoutRec c = j->layout[2], row = c, aux = c;
    row.columns = 1;
    aux.ld = p->aux_ld;
    char *at = p->aux + i * p->aux_stride * (int64_t)size_of(c.type);
    float *bias = p->epilogue & LT_EPILOGUE_BIAS ? widened(&row, p->bias) : NULL;
    float *x = p->epilogue & LT_EPILOGUE_GELU_GRAD ? widened(&aux, at) : NULL;
    for (int64_t k = 0; bias && k < c.rows * c.columns; k++) f[k] += bias[k % c.rows];
    if (p->epilogue & LT_EPILOGUE_AUX && !x) put_back(&aux, f, at);
    for (int64_t k = 0; k < c.rows * c.columns; k++)
        f[k] = x ? f[k] * gelu_grad(x[k]) : p->epilogue & LT_EPILOGUE_GELU ? gelu(f[k]) : f[k];
    if (p->epilogue & LT_EPILOGUE_SUMS) {
        float *sum = xcalloc((size_t)c.rows, sizeof *sum);
        for (int64_t k = 0; k < c.rows * c.columns; k++) sum[k % c.rows] += f[k];
        put_back(&row, sum, p->bias);
        free(sum);
    }
    free(bias), free(x);
}

static void multiply_f32(const Job *j, int64_t i, int64_t k, const char *pa, const char *pb,
                         char *pc) {
    const struct LtLayoutRec *a = &j->layout[0], *b = &j->layout[1], *c = &j->layout[2];
    float *fa = widened(a, pa), *fb = widened(b, pb), *fc = widened(c, pc);
    blas.sgemm(COLUMN_MAJOR, j->product.ta ? T : N, j->product.tb ? T : N, (int)c->rows,
               (int)c->columns, (int)k, (float)j->alpha, fa, (int)a->rows, fb, (int)b->rows,
               (float)j->beta, fc, (int)c->rows);
    if (j->product.epilogue != LT_EPILOGUE_DEFAULT) finish(j, i, fc);
    put_back(c, fc, pc);
    free(fa), free(fb), free(fc);
}

static void multiply(const void *ctx) {
    const Job *j = ctx;
    const struct LtLayoutRec *a = &j->layout[0], *b = &j->layout[1], *c = &j->layout[2];
    int64_t k = j->product.ta ? a->rows : a->columns;
    for (int64_t i = 0; i < c->batch; i++) {
        const char *pa = j->a + i * a->stride * (int64_t)size_of(a->type);
        const char *pb = j->b + i * b->stride * (int64_t)size_of(b->type);
        char *pc = j->c + i * c->stride * (int64_t)size_of(c->type);
        if (c->type != LT_F64)
            multiply_f32(j, i, k, pa, pb, pc);
        else
            blas.dgemm(COLUMN_MAJOR, j->product.ta ? T : N, j->product.tb ? T : N, (int)c->rows,
                       (int)c->columns, (int)k, j->alpha, (const double *)(const void *)pa,
                       (int)a->ld, (const double *)(const void *)pb, (int)b->ld, j->beta,
                       (double *)(void *)pc, (int)c->ld);
    }
}

static int log_product(const Job *j, const LtAlgo *algo, const void *workspace, size_t bytes,
                       CudaStream stream) {
    const struct LtLayoutRec *a = &j->layout[0], *c = &j->layout[2];
    Buf b = {0};
    buf_printf(&b, " s%d %s%s m=%lld n=%lld k=%lld batch=%d algo=%d",
               driver.standin_stream_index(stream), j->product.ta ? "t" : "n",
               j->product.tb ? "t" : "n", (long long)c->rows, (long long)c->columns,
               (long long)(j->product.ta ? a->rows : a->columns), c->batch, (int)algo->data[0]);
    driver.standin_put_place(&b, j->a);
    driver.standin_put_place(&b, j->b);
    driver.standin_put_place(&b, j->c);
    if (j->product.epilogue != LT_EPILOGUE_DEFAULT)
        buf_printf(&b, " epilogue=%u", j->product.epilogue);
    buf_printf(&b, " workspace=%zu", bytes);
    driver.standin_put_place(&b, workspace);
    int r = driver.standin_call("cublasLtMatmul", b.p);
    buf_free(&b);
    return r;
}

static double scale(int type, const void *p) {
    float f;
    double d;
    memcpy(&f, p, sizeof f);
    if (type != LT_F64) return (double)f;
    memcpy(&d, p, sizeof d);
    return d;
}

int cublasLtMatmul(LtHandle handle, LtProduct product, const void *alpha, const void *a,
                   LtLayout layout_a, const void *b, LtLayout layout_b, const void *beta,
                   const void *c, LtLayout layout_c, void *d, LtLayout layout_d, const LtAlgo *algo,
                   void *workspace, size_t workspace_bytes, CudaStream stream) {
    LtHeuristic result;
    Job j = {*product,
             {*layout_a, *layout_b, *layout_c},
             a,
             b,
             d,
             scale(product->scale, alpha),
             scale(product->scale, beta)};
    int r = log_product(&j, algo, workspace, workspace_bytes, stream);
    if (r) return r;
    bool aligned = (((uintptr_t)a | (uintptr_t)b | (uintptr_t)d) & 15) == 0;
    if (c != d || (algo->data[0] == 2 && !aligned)) return INVALID;
    r = cublasLtMatmulAlgoCheck(handle, product, layout_a, layout_b, layout_c, layout_d, algo,
                                &result);
    if (r) return r;
    if (result.workspace > workspace_bytes) return INVALID;
    return driver.standin_push(stream, multiply, &j, sizeof j, algo->data[0] == 1 ? 40 : 20);
}
