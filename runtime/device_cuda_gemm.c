/* device_cuda_gemm.c: matrix products by cuBLASLt.
 *
 * The library's matrices are column-major, so that C = op(A) op(B) of the plan is asked for as
 * C' = op(B)' op(A)', with the same numbers in the same places. One dimension of the batch is the
 * library's, after those that lie evenly were made one; others are loops.
 *
 * Which algorithm runs a shape: the library proposes some, each is timed on the plan's own buffers
 * before the run begins, and the fastest is remembered, so that a run that is resumed finds the
 * same bits. What is proposed adds in a fixed order. */
#include "runtime/device_cuda.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PROPOSED = 5, ROUNDS = 3, MAX_ALIGN = 256 };

/* ---- the workspace: streams may multiply at the same time ---- */

static bool stream_multiplies(const Plan *p, int stream) {
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].kind == STEP_GEMM && p->step.p[i].stream == stream) return true;
    return false;
}

int64_t cuda_workspace_bytes(const Plan *p) {
    int64_t bytes = 0;
    for (int i = 0; i < plan_streams(p); i++) bytes += stream_multiplies(p, i) ? CUDA_WORKSPACE : 0;
    return bytes;
}

static Status allocate_workspace(Cuda *d) {
    int64_t bytes = cuda_workspace_bytes(d->plan), used = 0;
    TRY(cuda_allocate(d, bytes, &d->workspace));
    d->stream_workspace = xcalloc((size_t)d->streams, sizeof *d->stream_workspace);
    for (int i = 0; i < d->streams; i++)
        if (stream_multiplies(d->plan, i)) {
            d->stream_workspace[i] = d->workspace + (CudaAddress)used;
            used += CUDA_WORKSPACE;
        }
    return NULL;
}

/* ---- types ---- */

static int lt_type(Dtype t) {
    switch (t) {
    case DT_F32: return LT_F32;
    case DT_F64: return LT_F64;
    case DT_BF16: return LT_BF16;
    case DT_F16: return LT_F16;
    default: return -1;
    }
}

static bool types_go(const PlanGemm *g) {
    if (lt_type(g->da) < 0 || g->da != g->db) return false;
    return g->dc == g->da || (g->dc == DT_F32 && g->da != DT_F64);
}

/* ---- batches ---- */

typedef struct {
    int64_t count, stride[3]; /* elements of A, B, C */
} Batch;

/* Dimension a steps over all of b, in every operand: they are one. */
static bool merge(Batch *a, const Batch *b) {
    for (int i = 0; i < 3; i++)
        if (a->stride[i] != b->count * b->stride[i]) return false;
    *a = (Batch){a->count * b->count, {b->stride[0], b->stride[1], b->stride[2]}};
    return true;
}

static int merged_batches(const PlanGemm *g, Batch *b) {
    int n = 0;
    for (int i = 0; i < g->nbatch; i++)
        if (g->count[i] != 1) b[n++] = (Batch){g->count[i], {g->sa[i], g->sb[i], g->sc[i]}};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            if (i == j || !merge(&b[i], &b[j])) continue;
            b[j] = b[--n];
            i = j = -1;
            break;
        }
    return n;
}

static void choose_batch(const PlanGemm *g, CudaProduct *x) {
    Batch b[PLAN_MAX_BATCH];
    const Dtype type[] = {g->da, g->db, g->dc};
    int n = merged_batches(g, b), most = 0;
    for (int i = 1; i < n; i++)
        if (b[i].count > b[most].count) most = i;
    x->batch = 1;
    for (int i = 0; i < n; i++) {
        if (i == most) {
            x->batch = b[i].count;
            memcpy(x->batch_stride, b[i].stride, sizeof x->batch_stride);
            continue;
        }
        x->count[x->loops] = b[i].count;
        for (int j = 0; j < 3; j++) x->advance[x->loops][j] = b[i].stride[j] * dtype_size(type[j]);
        x->loops++;
    }
}

/* ---- descriptions ---- */

static Status make_layout(Cuda *d, CudaProduct *x, int operand, Dtype type, int64_t rows,
                          int64_t columns, int64_t ld) {
    LtLayout *out = &x->layout[operand];
    int32_t count = (int32_t)x->batch;
    /* Row-major rows x columns is column-major columns x rows. */
    LT_TRY(&d->lt, cublasLtMatrixLayoutCreate, out, lt_type(type), (uint64_t)columns,
           (uint64_t)rows, ld);
    LT_TRY(&d->lt, cublasLtMatrixLayoutSetAttribute, *out, LT_BATCH_COUNT, &count, sizeof count);
    LT_TRY(&d->lt, cublasLtMatrixLayoutSetAttribute, *out, LT_BATCH_STRIDE,
           &x->batch_stride[operand], sizeof x->batch_stride[operand]);
    return NULL;
}

static Status describe(Cuda *d, const PlanGemm *g, CudaProduct *x) {
    bool wide = g->dc == DT_F64;
    int32_t ta = g->ta, tb = g->tb;
    if (wide)
        x->alpha.d = (double)g->alpha, x->beta.d = (double)g->beta;
    else
        x->alpha.f = g->alpha, x->beta.f = g->beta;
    choose_batch(g, x);
    LT_TRY(&d->lt, cublasLtMatmulDescCreate, &x->product, wide ? LT_COMPUTE_F64 : LT_COMPUTE_F32,
           wide ? LT_F64 : LT_F32);
    /* The library's first operand is B. */
    LT_TRY(&d->lt, cublasLtMatmulDescSetAttribute, x->product, LT_TRANSPOSE_A, &tb, sizeof tb);
    LT_TRY(&d->lt, cublasLtMatmulDescSetAttribute, x->product, LT_TRANSPOSE_B, &ta, sizeof ta);
    TRY(make_layout(d, x, 0, g->da, g->ta ? g->k : g->m, g->ta ? g->m : g->k, g->lda));
    TRY(make_layout(d, x, 1, g->db, g->tb ? g->n : g->k, g->tb ? g->k : g->n, g->ldb));
    return make_layout(d, x, 2, g->dc, g->m, g->n, g->ldc);
}

/* ---- epilogues ---- */

static Status set(Cuda *d, CudaProduct *x, int attribute, const void *value, size_t bytes) {
    LT_TRY(&d->lt, cublasLtMatmulDescSetAttribute, x->product, attribute, value, bytes);
    return NULL;
}

static void *argument(const Cuda *d, const PlanStep *s, int i) {
    const PlanBuffer *b = &d->plan->buffer.p[s->arg[i].buffer];
    return d->arena[b->mem] + b->offset + s->arg[i].offset;
}

/* X is C where nobody else reads it: then the library need not store it. */
static Status set_epilogue(Cuda *d, const PlanStep *s, CudaProduct *x) {
    const PlanGemm *g = &s->gemm;
    void *aux = argument(d, s, 3), *row = s->nargs > 4 ? argument(d, s, 4) : NULL;
    bool grad = g->epilogue >= EPILOGUE_GELU_GRAD, stored = grad || aux != argument(d, s, 2);
    uint32_t kind = (grad ? LT_EPILOGUE_GELU_GRAD : LT_EPILOGUE_GELU) +
                    (stored ? LT_EPILOGUE_AUX : 0) +
                    (!row   ? 0
                     : grad ? LT_EPILOGUE_SUMS
                            : LT_EPILOGUE_BIAS);
    TRY(set(d, x, LT_EPILOGUE, &kind, sizeof kind));
    if (row) TRY(set(d, x, LT_BIAS, &row, sizeof row));
    if (!stored) return NULL;
    TRY(set(d, x, LT_AUX, &aux, sizeof aux));
    TRY(set(d, x, LT_AUX_LD, &g->ldc, sizeof g->ldc));
    return set(d, x, LT_AUX_STRIDE, &x->batch_stride[2], sizeof x->batch_stride[2]);
}

static Status clear_epilogue(Cuda *d, const PlanStep *s, CudaProduct *x) {
    uint32_t none = LT_EPILOGUE_DEFAULT;
    x->epilogue = false;
    x->target = epilogue_target(s->gemm.epilogue);
    return set(d, x, LT_EPILOGUE, &none, sizeof none);
}

/* ---- running ---- */

static Status multiply(Cuda *d, const CudaProduct *x, int stream, void *const *arg) {
    int64_t turns = 1;
    for (int i = 0; i < x->loops; i++) turns *= x->count[i];
    for (int64_t turn = 0; turn < turns; turn++) {
        char *at[3] = {arg[0], arg[1], arg[2]};
        int64_t rest = turn;
        for (int i = 0; i < x->loops; rest /= x->count[i++])
            for (int j = 0; j < 3; j++) at[j] += rest % x->count[i] * x->advance[i][j];
        LT_TRY(&d->lt, cublasLtMatmul, d->lt_handle, x->product, &x->alpha, at[1], x->layout[1],
               at[0], x->layout[0], &x->beta, at[2], x->layout[2], at[2], x->layout[2], &x->algo,
               (void *)(uintptr_t)d->stream_workspace[stream], CUDA_WORKSPACE, d->stream[stream]);
    }
    return NULL;
}

Status cuda_gemm(Device *base, const PlanStep *s, void *const *arg) {
    Cuda *d = (Cuda *)base;
    const CudaProduct *x = &d->product[s - d->plan->step.p];
    void *const operands[] = {arg[0], arg[1], arg[x->target]};
    TRY(multiply(d, x, s->stream, operands));
    TRY(cuda_called(d, s->stream));
    return s->gemm.epilogue && !x->epilogue ? cuda_launch(base, s, arg + 2) : NULL;
}

/* ---- choosing ---- */

/* The largest power of two that divides every address at which operand i begins. */
static uint32_t alignment(const CudaProduct *x, int i, const void *at) {
    uint64_t bits = (uint64_t)(uintptr_t)at | MAX_ALIGN;
    for (int j = 0; j < x->loops; j++) bits |= (uint64_t)x->advance[j][i];
    return (uint32_t)(bits & -bits);
}

static Status prefer(Cuda *d, const uint32_t *align, LtPreference *out) {
    static const int attribute[] = {LT_ALIGN_B, LT_ALIGN_A, LT_ALIGN_C};
    uint64_t bytes = CUDA_WORKSPACE;
    LT_TRY(&d->lt, cublasLtMatmulPreferenceCreate, out);
    LT_TRY(&d->lt, cublasLtMatmulPreferenceSetAttribute, *out, LT_MAX_WORKSPACE, &bytes,
           sizeof bytes);
    for (int i = 0; i < 3; i++)
        LT_TRY(&d->lt, cublasLtMatmulPreferenceSetAttribute, *out, attribute[i], &align[i],
               sizeof align[i]);
    LT_TRY(&d->lt, cublasLtMatmulPreferenceSetAttribute, *out, LT_ALIGN_D, &align[2],
           sizeof align[2]);
    return NULL;
}

static Status propose(Cuda *d, const CudaProduct *x, const uint32_t *align, LtHeuristic *found,
                      int *n) {
    LtPreference preference = NULL;
    Status s = prefer(d, align, &preference);
    *n = 0;
    int status = s ? 0
                   : d->lt.cublasLtMatmulAlgoGetHeuristic(d->lt_handle, x->product, x->layout[1],
                                                          x->layout[0], x->layout[2], x->layout[2],
                                                          preference, PROPOSED, found, n);
    if (preference) d->lt.cublasLtMatmulPreferenceDestroy(preference);
    if (s) return s;
    TRY(cublaslt_status(&d->lt, status, "cublasLtMatmulAlgoGetHeuristic"));
    int good = 0;
    for (int i = 0; i < *n; i++)
        if (found[i].status == 0) found[good++] = found[i];
    *n = good;
    return good > 0 ? NULL : status_make(EXIT_SYSTEM, "cuBLASLt has no algorithm for this shape");
}

typedef struct {
    CudaEvent begin, end;
} Stopwatch;

/* Of ROUNDS products after one that warms up. */
static Status time_product(Cuda *d, const CudaProduct *x, const Stopwatch *w, int stream,
                           void *const *at, double *seconds) {
    float ms = 0;
    TRY(multiply(d, x, stream, at));
    CUDA_CALL(d, cuEventRecord, w->begin, d->stream[stream]);
    for (int i = 0; i < ROUNDS; i++) TRY(multiply(d, x, stream, at));
    CUDA_CALL(d, cuEventRecord, w->end, d->stream[stream]);
    CUDA_CALL(d, cuEventSynchronize, w->end);
    CUDA_CALL(d, cuEventElapsedTime, &ms, w->begin, w->end);
    *seconds = (double)ms * 1e-3 / ROUNDS;
    return NULL;
}

/* A proposal that does not run after all is no choice; when none runs, the last failure is told. */
static Status fastest(Cuda *d, CudaProduct *x, const Stopwatch *w, const PlanStep *s,
                      const uint32_t *align, void *const *at, double *seconds) {
    LtHeuristic found[PROPOSED];
    Status failure = NULL;
    int n, best = -1;
    double least = 0;
    TRY(propose(d, x, align, found, &n));
    for (int i = 0; i < n; i++) {
        x->algo = found[i].algo;
        free(failure);
        failure = time_product(d, x, w, s->stream, at, seconds);
        if (!failure && (best < 0 || *seconds < least)) best = i, least = *seconds;
    }
    if (best < 0) return failure;
    free(failure);
    x->algo = found[best].algo;
    *seconds = least;
    return NULL;
}

/* ---- remembering: an algorithm is its bytes in hexadecimal digits ---- */

static void put_algo(const LtAlgo *algo, Buf *out) {
    for (size_t i = 0; i < COUNT(algo->data); i++) buf_printf(out, "%016" PRIx64, algo->data[i]);
}

static bool read_algo(const char *text, LtAlgo *algo) {
    for (size_t i = 0; i < COUNT(algo->data); i++, text += 16)
        if (strspn(text, "0123456789abcdef") < 16 ||
            sscanf(text, "%16" SCNx64, &algo->data[i]) != 1)
            return false;
    return *text == 0;
}

/* What is remembered must still be a way to do this product in the workspace there is. */
static bool recall(Cuda *d, const char *key, CudaProduct *x) {
    const WisdomEntry *w = wisdom_recall(&d->wisdom, key);
    LtHeuristic result = {0};
    return w && read_algo(w->choice, &x->algo) &&
           d->lt.cublasLtMatmulAlgoCheck(d->lt_handle, x->product, x->layout[1], x->layout[0],
                                         x->layout[2], x->layout[2], &x->algo, &result) == 0 &&
           result.status == 0 && result.workspace <= CUDA_WORKSPACE;
}

static Status choose(Cuda *d, CudaProduct *x, const Stopwatch *w, const PlanStep *s) {
    Buf key = {0}, text = {0};
    void *at[3];
    uint32_t align[3];
    double seconds = 0;
    for (int i = 0; i < 3; i++) at[i] = argument(d, s, i < 2 ? i : x->target);
    for (int i = 0; i < 3; i++) align[i] = alignment(x, i, at[i]);
    wisdom_put_product(&s->gemm, &key);
    buf_printf(&key, " %u %u %u", align[0], align[1], align[2]);
    if (x->epilogue) buf_printf(&key, " %s", epilogue_name(s->gemm.epilogue));
    /* One run of what is remembered: the library's code is on the device before any step is. */
    Status failure = recall(d, key.p, x) ? multiply(d, x, s->stream, at)
                                         : fastest(d, x, w, s, align, at, &seconds);
    if (!failure && seconds > 0) {
        put_algo(&x->algo, &text);
        wisdom_remember(&d->wisdom, key.p, text.p, plan_gemm_flops(&s->gemm) / seconds / 1e9);
    }
    buf_free(&key);
    buf_free(&text);
    return failure;
}

/* ---- loading ---- */

/* Which step it was, before the executor runs any. Frees s. */
static Status about_step(const Cuda *d, uint32_t i, Status s) {
    const PlanStep *step = &d->plan->step.p[i];
    const PlanGemm *g = &step->gemm;
    if (!s) return NULL;
    const char *where = loc_text(d->plan->session, step->loc);
    Status told =
        status_make(s->code, "%s%sstep %u (%s) in %s: the product of %s and %s into %s: %s", where,
                    where[0] ? ": " : "", i, step->what ? step->what : "matmul",
                    step->scope && step->scope[0] ? step->scope : d->plan->model, dtype_name(g->da),
                    dtype_name(g->db), dtype_name(g->dc), s->text);
    free(s);
    return told;
}

static Status load_product(Cuda *d, const Stopwatch *w, uint32_t i) {
    const PlanStep *s = &d->plan->step.p[i];
    if (!types_go(&s->gemm))
        return status_make(EXIT_INPUT, "cuBLASLt does not multiply these types");
    CudaProduct *x = &d->product[i];
    TRY(describe(d, &s->gemm, x));
    x->target = 2;
    x->epilogue = s->gemm.epilogue && x->loops == 0;
    if (x->epilogue) {
        TRY(set_epilogue(d, s, x));
        Status refused = choose(d, x, w, s);
        if (!refused) return NULL;
        free(refused); /* the product alone, then the plan's own kernel */
    }
    if (s->gemm.epilogue) TRY(clear_epilogue(d, s, x));
    return choose(d, x, w, s);
}

static void open_wisdom(Cuda *d) {
    Buf file = {0}, signature = {0};
    buf_printf(&file, "wisdom-%s.txt", d->name);
    for (char *c = file.p; *c; c++)
        if (*c == ' ' || *c == '/') *c = '-';
    buf_printf(&signature, "%s cuBLASLt %zu %s sm_%d%d workspace %d", M6C_VERSION,
               d->lt.cublasLtGetVersion(), d->name, d->major, d->minor, CUDA_WORKSPACE);
    wisdom_open(&d->wisdom, file.p, signature.p);
}

static Status load_all(Cuda *d, const Stopwatch *w) {
    const Plan *p = d->plan;
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].kind == STEP_GEMM) TRY(about_step(d, i, load_product(d, w, i)));
    wisdom_save(&d->wisdom);
    return NULL;
}

Status cuda_load_products(Cuda *d, bool *touched) {
    Stopwatch w = {0};
    if (cuda_workspace_bytes(d->plan) == 0) return NULL;
    TRY(cublaslt_open(&d->lt));
    LT_TRY(&d->lt, cublasLtCreate, &d->lt_handle);
    TRY(allocate_workspace(d));
    open_wisdom(d);
    d->product = xcalloc(d->plan->step.n, sizeof *d->product);
    *touched = true;
    CUDA_CALL(d, cuEventCreate, &w.begin, 0);
    Status s = cuda_status(&d->api, d->api.cuEventCreate(&w.end, 0), "cuEventCreate");
    if (!s) s = load_all(d, &w);
    d->api.cuEventDestroy_v2(w.begin);
    if (w.end) d->api.cuEventDestroy_v2(w.end);
    return s;
}

void cuda_unload_products(Cuda *d) {
    for (uint32_t i = 0; d->product && i < d->plan->step.n; i++) {
        CudaProduct *x = &d->product[i];
        for (int j = 0; j < 3; j++)
            if (x->layout[j]) d->lt.cublasLtMatrixLayoutDestroy(x->layout[j]);
        if (x->product) d->lt.cublasLtMatmulDescDestroy(x->product);
    }
    if (d->lt_handle) d->lt.cublasLtDestroy(d->lt_handle);
    if (d->workspace) d->api.cuMemFree_v2(d->workspace);
    wisdom_close(&d->wisdom);
    free(d->product);
    free(d->stream_workspace);
}
