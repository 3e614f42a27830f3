/* test_attention.c: the attention kernels themselves, compiled here with the test's flags (so that
 * the narrowest vectors and the sanitizers see them too), against the interpreter. Every argument
 * is a slice of a wider tensor, whose other elements must stay as they are; items run one by one
 * give the same bits as all at once. */
#include "tests/ir/sample.h"

#include <string.h>

#define exp_     expf
#define log_     logf
#define bf16_f32 bf16_to_f32
#define f32_bf16 f32_to_bf16
#define f16_f32  f16_to_f32
#define f32_f16  f32_to_f16
#include "codegen/attention_cpu.h"

enum { MARGIN = 3, MARK = 0x5a };

typedef struct {
    int64_t b, t, s, h, d;
    const char *mask;
    int64_t prefix, queries; /* queries of an item; 0: all */
    Dtype dtype;
} Case;

/* One argument inside its wider tensor of rows of `width` elements. */
typedef struct {
    int64_t rows, width, bytes;
    char *data;
} Slice;

static const Dtype dtypes[] = {DT_F32, DT_BF16, DT_F16, DT_F64}; /* by ATT_F32 .. */

static double get(Dtype d, const char *p, int64_t i) {
    switch (d) {
    case DT_BF16: return bf16_to_f32(((const uint16_t *)(const void *)p)[i]);
    case DT_F16: return f16_to_f32(((const uint16_t *)(const void *)p)[i]);
    case DT_F64: return ((const double *)(const void *)p)[i];
    default: return ((const float *)(const void *)p)[i];
    }
}

static void put(Dtype d, char *p, int64_t i, double x) {
    switch (d) {
    case DT_BF16: ((uint16_t *)(void *)p)[i] = f32_to_bf16((float)x); break;
    case DT_F16: ((uint16_t *)(void *)p)[i] = f32_to_f16((float)x); break;
    case DT_F64: ((double *)(void *)p)[i] = x; break;
    default: ((float *)(void *)p)[i] = (float)x; break;
    }
}

static bool is_key_side(int arg) {
    return arg == ATT_K || arg == ATT_V || arg == ATT_DK || arg == ATT_DV;
}

static Slice slice_new(const Case *c, int arg) {
    Slice x = {.rows = c->b * (is_key_side(arg) ? c->s : c->t), .width = c->h * c->d + 2 * MARGIN};
    x.bytes = x.rows * x.width * dtype_size(c->dtype);
    x.data = xmalloc((size_t)x.bytes);
    memset(x.data, MARK, (size_t)x.bytes);
    return x;
}

/* The elements of the slice, to or from a dense array. */
static void slice_write(const Case *c, Slice *x, const double *from) {
    int64_t n = x->width - 2 * MARGIN;
    for (int64_t i = 0; i < x->rows * n; i++)
        put(c->dtype, x->data, i / n * x->width + MARGIN + i % n, from[i]);
}

static void slice_read(const Case *c, const Slice *x, double *to) {
    int64_t n = x->width - 2 * MARGIN;
    for (int64_t i = 0; i < x->rows * n; i++)
        to[i] = get(c->dtype, x->data, i / n * x->width + MARGIN + i % n);
}

static bool margins_kept(const Case *c, const Slice *x) {
    int64_t size = dtype_size(c->dtype);
    for (int64_t i = 0; i < x->bytes; i++) {
        int64_t column = i / size % x->width;
        bool margin = column < MARGIN || column >= x->width - MARGIN;
        if (margin && x->data[i] != MARK) return false;
    }
    return true;
}

/* ---- running ---- */

typedef void Kernel(const Attention *p, void *const *arg, int64_t lo, int64_t hi);

typedef struct {
    Attention p;
    Slice slice[ATT_ARGS];
    char *lse;
    Dtype lse_dtype;
    void *arg[ATT_ARGS];
} Job;

/* Exact in f32, near 1 / sqrt(d). */
static double scale_of(const Case *c) { return ldexp(1, -(int)(log2((double)c->d) / 2)); }

static Job job_new(const Case *c) {
    bool none = strcmp(c->mask, "none") == 0;
    Job j = {.p = {.b = c->b,
                   .t = c->t,
                   .s = c->s,
                   .h = c->h,
                   .d = c->d,
                   .prefix = none ? c->s : c->prefix,
                   .queries = c->queries ? c->queries : c->t,
                   .keys = c->s > 48 ? 48 : (c->s + 15) / 16 * 16,
                   .split = c->queries > 0,
                   .scale = (float)scale_of(c)}};
    while (dtypes[j.p.type] != c->dtype) j.p.type++;
    j.lse_dtype = c->dtype == DT_F64 ? DT_F64 : DT_F32;
    j.lse = xcalloc((size_t)(c->b * c->h * c->t), (size_t)dtype_size(j.lse_dtype));
    for (int i = 0; i < ATT_ARGS; i++) {
        j.slice[i] = slice_new(c, i);
        j.p.at[i].b = j.slice[i].rows / c->b * j.slice[i].width;
        j.p.at[i].t = j.slice[i].width;
        j.p.at[i].h = c->d;
        j.arg[i] = j.slice[i].data + MARGIN * dtype_size(c->dtype);
    }
    j.arg[ATT_LSE] = j.lse;
    return j;
}

static void job_free(Job *j) {
    for (int i = 0; i < ATT_ARGS; i++) free(j->slice[i].data);
    free(j->lse);
}

/* All items at once, then one by one from the last: results from `first` on must not change. */
static void run(Job *j, Kernel *k, int64_t items, int first, int last) {
    char *before[ATT_ARGS];
    k(&j->p, j->arg, 0, items);
    for (int i = first; i <= last; i++)
        before[i] =
            memcpy(xmalloc((size_t)j->slice[i].bytes), j->slice[i].data, (size_t)j->slice[i].bytes);
    for (int64_t i = items; i-- > 0;) k(&j->p, j->arg, i, i + 1);
    for (int i = first; i <= last; i++) {
        CHECK(memcmp(before[i], j->slice[i].data, (size_t)j->slice[i].bytes) == 0);
        free(before[i]);
    }
}

static void check_result(const Case *c, const Job *j, int arg, const double *want) {
    static const double limits[] = {4e-6, 2e-2, 3e-3, 4e-6};
    const Slice *x = &j->slice[arg];
    int64_t n = x->rows * c->h * c->d;
    double *got = xcalloc((size_t)n, sizeof *got);
    slice_read(c, x, got);
    double d = sample_distance(got, want, n);
    if (!CHECK(d < limits[j->p.type]))
        fprintf(stderr, "  argument %d, %lld x %lld, head %lld, %s: %g\n", arg, (long long)c->t,
                (long long)c->s, (long long)c->d, c->mask, d);
    CHECK(margins_kept(c, x));
    free(got);
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void check_case(const Case *c) {
    Sample s = sample_new((uint32_t)(c->t * 1000 + c->d));
    const int64_t q[] = {c->b, c->t, c->h, c->d}, kv[] = {c->b, c->s, c->h, c->d};
    const Type *tq = type_tensor(s.session, DT_F32, 4, q),
               *tk = type_tensor(s.session, DT_F32, 4, kv);
    Value in[6] = {sample_random(&s, tq, -2, 2), sample_random(&s, tk, -2, 2),
                   sample_random(&s, tk, -2, 2)};
    in[5] = sample_random(&s, tq, -2, 2);
    static const int inputs[] = {ATT_Q, ATT_K, ATT_V, ATT_G};
    Job j = job_new(c);
    for (int i = 0; i < 4; i++) { /* the interpreter gets what storage holds */
        slice_write(c, &j.slice[inputs[i]], s.in.p[i].data);
        slice_read(c, &j.slice[inputs[i]], s.in.p[i].data);
    }
    AttrValue at[] = {{.s = intern(s.session, c->mask)}, {.i = c->prefix}, {.f = scale_of(c)}};
    Value o = sample_node(&s, OP_attention, at, 3, in);
    in[3] = b_proj(s.g, o, 0), in[4] = b_proj(s.g, o, 1);
    Value grad = sample_node(&s, OP_attention_grad, at, 6, in);
    int64_t parts = ceil_div(c->t, j.p.queries), heads = c->b * c->h;
    run(&j, attention_forward, heads * parts, ATT_O, ATT_O);
    check_result(c, &j, ATT_O, sample_result(&s, o, 0));
    for (int64_t i = 0; i < heads * c->t; i++)
        CHECK(fabs(get(j.lse_dtype, j.lse, i) - sample_result(&s, o, 1)[i]) < 1e-4);
    int64_t tiles = ceil_div(c->s, j.p.keys);
    run(&j, attention_backward, heads * (j.p.split ? parts + tiles : 1), ATT_DQ, ATT_DV);
    for (int i = 0; i < 3; i++)
        check_result(c, &j, ATT_DQ + i, sample_result(&s, grad, (uint32_t)i));
    job_free(&j);
    sample_free(&s);
}

int main(void) {
    static const Case cases[] = {
        {1, 1, 1, 1, 1, "none", 0, 0, DT_F32},       {2, 7, 7, 3, 5, "causal", 0, 0, DT_F32},
        {1, 70, 33, 2, 16, "none", 0, 24, DT_F32},   {1, 33, 70, 2, 24, "causal", 0, 0, DT_F32},
        {2, 50, 50, 1, 64, "prefix", 9, 0, DT_F32},  {1, 100, 100, 1, 96, "prefix", 60, 48, DT_F32},
        {1, 20, 60, 1, 8, "prefix", 40, 6, DT_F32},  {1, 100, 40, 1, 8, "prefix", 99, 0, DT_F32},
        {1, 30, 30, 1, 128, "causal", 0, 0, DT_F32}, {1, 13, 50, 1, 256, "causal", 0, 12, DT_F32},
        {1, 33, 50, 2, 24, "prefix", 5, 0, DT_BF16}, {1, 50, 50, 1, 17, "causal", 0, 18, DT_F16},
        {1, 9, 9, 1, 3, "none", 0, 0, DT_F64},
    };
    for (size_t i = 0; i < COUNT(cases); i++) check_case(&cases[i]);
    return check_done("codegen_attention");
}
