/* Matrix products of the CUDA device, as cuBLASLt's stand-in computes them, against plain loops:
 * all transpositions, types, strides, batches that become one and those that do not, addresses of
 * every alignment. argv[1], argv[2]: the stand-ins for the driver and for cuBLASLt. */
#include "runtime/exec.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    const char *name;
    PlanGemm g;
    int64_t at[3];    /* where A, B, C begin, in elements */
    int calls, batch; /* of cublasLtMatmul for a product, and its batch */
    int algo;         /* 2 where addresses are multiples of 16 bytes */
} Case;

#define PLAIN(ta_, tb_, a, b, c, type_ab, type_c)                                                  \
    .g = {.m = 5,                                                                                  \
          .n = 7,                                                                                  \
          .k = 6,                                                                                  \
          .ta = ta_,                                                                               \
          .tb = tb_,                                                                               \
          .lda = a,                                                                                \
          .ldb = b,                                                                                \
          .ldc = c,                                                                                \
          .da = type_ab,                                                                           \
          .db = type_ab,                                                                           \
          .dc = type_c,                                                                            \
          .alpha = 1},                                                                             \
    .calls = 1, .batch = 1

/* clang-format off */
static const Case cases[] = {
    {"nn", PLAIN(false, false, 6, 7, 7, DT_F32, DT_F32), .algo = 2},
    {"nt", PLAIN(false, true, 6, 6, 7, DT_F32, DT_F32), .algo = 2},
    {"tn", PLAIN(true, false, 5, 7, 7, DT_F32, DT_F32), .algo = 2},
    {"tt", PLAIN(true, true, 5, 6, 7, DT_F32, DT_F32), .algo = 2},
    {"wide rows", PLAIN(true, true, 9, 11, 8, DT_F32, DT_F32), .algo = 2},
    {"f64", PLAIN(false, true, 6, 6, 7, DT_F64, DT_F64), .algo = 2},
    {"bf16", PLAIN(true, false, 5, 7, 7, DT_BF16, DT_BF16), .algo = 2},
    {"bf16 into f32", PLAIN(false, false, 6, 7, 7, DT_BF16, DT_F32), .algo = 2},
    {"f16", PLAIN(false, true, 6, 6, 7, DT_F16, DT_F16), .algo = 2},
    {"f16 into f32", PLAIN(true, true, 5, 6, 7, DT_F16, DT_F32), .algo = 2},
    {"odd places", PLAIN(false, false, 6, 7, 7, DT_BF16, DT_BF16), .at = {1, 2, 3}, .algo = 1},
    {"one odd place", PLAIN(false, false, 6, 7, 7, DT_F32, DT_F32), .at = {4, 0, 1}, .algo = 1},
    /* 3 x 4 matrices one after another: one batch of 12 */
    {"even batches", .g = {.m = 5, .n = 7, .k = 6, .lda = 6, .ldb = 7, .ldc = 7, .da = DT_F32,
        .db = DT_F32, .dc = DT_F32, .alpha = 1, .nbatch = 2, .count = {3, 4}, .sa = {120, 30},
        .sb = {168, 42}, .sc = {140, 35}}, .calls = 1, .batch = 12, .algo = 2},
    {"batches in the other order", .g = {.m = 5, .n = 7, .k = 6, .lda = 6, .ldb = 7, .ldc = 7,
        .da = DT_F32, .db = DT_F32, .dc = DT_F32, .alpha = 1, .nbatch = 3, .count = {3, 1, 4},
        .sa = {30, 5, 90}, .sb = {42, 5, 126}, .sc = {35, 5, 105}}, .calls = 1, .batch = 12,
        .algo = 2},
    /* heads inside rows: batch, head; row-major [batch, row, head, column] */
    {"heads", .g = {.m = 5, .n = 5, .k = 8, .tb = true, .lda = 32, .ldb = 32, .ldc = 5,
        .da = DT_BF16, .db = DT_BF16, .dc = DT_F32, .alpha = 0.5f, .nbatch = 2, .count = {3, 4},
        .sa = {160, 8}, .sb = {160, 8}, .sc = {100, 25}}, .calls = 3, .batch = 4, .algo = 2},
    {"heads of odd size", .g = {.m = 5, .n = 5, .k = 7, .tb = true, .lda = 28, .ldb = 28, .ldc = 5,
        .da = DT_BF16, .db = DT_BF16, .dc = DT_F32, .alpha = 0.5f, .nbatch = 2, .count = {5, 2},
        .sa = {7, 140}, .sb = {7, 140}, .sc = {25, 125}}, .calls = 2, .batch = 5, .algo = 1},
    {"one matrix for all", .g = {.m = 5, .n = 7, .k = 6, .lda = 6, .ldb = 7, .ldc = 7, .da = DT_F16,
        .db = DT_F16, .dc = DT_F16, .alpha = 2, .nbatch = 1, .count = {3}, .sa = {30}, .sb = {0},
        .sc = {35}}, .calls = 1, .batch = 3, .algo = 2},
    {"three that stay three", .g = {.m = 2, .n = 3, .k = 4, .lda = 4, .ldb = 3, .ldc = 3,
        .da = DT_F64, .db = DT_F64, .dc = DT_F64, .alpha = -1, .nbatch = 3, .count = {2, 5, 3},
        .sa = {200, 32, 8}, .sb = {0, 60, 12}, .sc = {90, 18, 6}}, .calls = 6, .batch = 5,
        .algo = 2},
    {"added to what is there", .g = {.m = 5, .n = 7, .k = 6, .lda = 6, .ldb = 7, .ldc = 7,
        .da = DT_F32, .db = DT_F32, .dc = DT_F32, .alpha = 0.5f, .beta = 2, .nbatch = 1,
        .count = {2}, .sa = {30}, .sb = {42}, .sc = {35}}, .calls = 1, .batch = 2, .algo = 2},
    {"one row", .g = {.m = 1, .n = 7, .k = 6, .lda = 6, .ldb = 7, .ldc = 7, .da = DT_F32,
        .db = DT_F32, .dc = DT_F32, .alpha = 1}, .calls = 1, .batch = 1, .algo = 2},
};
/* clang-format on */

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

/* ---- a plan of one product: buffers A, B, C ---- */

static Dtype type_of(const PlanGemm *g, int i) { return i == 0 ? g->da : i == 1 ? g->db : g->dc; }

static int64_t elements(const Case *c, int i) { return c->at[i] + plan_gemm_span(&c->g, i); }

static Plan *make_plan(Session *s, const Case *c, int stream) {
    static const char *const names[] = {"a", "b", "c"};
    Plan *p = plan_new(s);
    PlanArg *arg = arena_array(session_arena(s), PlanArg, 3);
    p->model = "product", p->target = "sm_80", p->command = "";
    for (uint32_t i = 0; i < 3; i++) {
        int64_t n = elements(c, (int)i), size = dtype_size(type_of(&c->g, (int)i));
        PlanBuffer b = {.name = names[i],
                        .kind = BUF_STATE,
                        .dtype = type_of(&c->g, (int)i),
                        .rank = 1,
                        .dim = {n},
                        .offset = p->arena[MEM_DEVICE],
                        .bytes = n * size};
        vec_push(&p->buffer, b);
        arg[i] = (PlanArg){i, c->at[i] * size};
        p->arena[MEM_DEVICE] += (n * size + 63) / 64 * 64;
    }
    PlanStep step = {.kind = STEP_GEMM, .gemm = c->g, .stream = stream, .nargs = 3, .arg = arg};
    vec_push(&p->step, step);
    return p;
}

/* ---- numbers ---- */

static double get(Dtype d, const void *p, int64_t i) {
    float f;
    double x;
    uint16_t h;
    if (d == DT_F64) return memcpy(&x, (const char *)p + 8 * i, 8), x;
    if (d == DT_F32) return memcpy(&f, (const char *)p + 4 * i, 4), (double)f;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return (double)(d == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h));
}

/* Quarters: exact in every type, and so are their products' sums where those are not rounded. */
static void fill(Dtype d, char *p, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        float f = (float)(philox(seed, (uint64_t)i, NULL) % 9) * 0.25f - 1;
        double x = (double)f;
        uint16_t h = d == DT_BF16 ? f32_to_bf16(f) : f32_to_f16(f);
        if (d == DT_F64) memcpy(p + 8 * i, &x, 8);
        if (d == DT_F32) memcpy(p + 4 * i, &f, 4);
        if (dtype_size(d) == 2) memcpy(p + 2 * i, &h, 2);
    }
}

static void multiply(const Case *c, const char *a, const char *b, double *out, int dim, int64_t oa,
                     int64_t ob, int64_t oc) {
    const PlanGemm *g = &c->g;
    for (int64_t i = 0; dim < g->nbatch && i < g->count[dim]; i++)
        multiply(c, a, b, out, dim + 1, oa + i * g->sa[dim], ob + i * g->sb[dim],
                 oc + i * g->sc[dim]);
    if (dim < g->nbatch) return;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, *to = &out[oc + i * g->ldc + j];
            for (int64_t k = 0; k < g->k; k++)
                sum += get(g->da, a, oa + (g->ta ? k * g->lda + i : i * g->lda + k)) *
                       get(g->db, b, ob + (g->tb ? j * g->ldb + k : k * g->ldb + j));
            *to = (double)g->alpha * sum + (double)g->beta * *to;
        }
}

/* The log of the last step: how often, how large, by which algorithm. */
static void check_log(const Case *c, const char *path) {
    char *text, want[64];
    size_t n;
    int calls = 0;
    wanted(file_read(path, &text, &n));
    char *loading = strstr(text, "cuEventElapsedTime"), *p = text;
    for (char *q = loading; q; q = strstr(q + 1, "cuEventElapsedTime")) p = q;
    CHECK(loading != NULL);
    snprintf(want, sizeof want, "batch=%d algo=%d ", c->batch, c->algo);
    while ((p = strstr(p + 1, "cublasLtMatmul "))) {
        char *end = strchr(p, '\n');
        if (end) *end = 0;
        CHECK(strstr(p, want) != NULL);
        if (end) *end = '\n';
        calls++;
    }
    CHECK(calls == c->calls);
    free(text);
}

static void run_case(const Case *c, int stream, const char *log) {
    Session *session = session_new();
    Plan *p = make_plan(session, c, stream);
    Exec *e = NULL;
    char *host[4];
    int before = check_failures;
    wanted(exec_open(p, &(ExecOptions){.device = &device_cuda}, &e));
    for (int i = 0; i < 4; i++) host[i] = xcalloc(1, (size_t)p->buffer.p[i % 3].bytes);
    for (uint32_t i = 0; i < 3; i++) {
        fill(p->buffer.p[i].dtype, host[i], elements(c, (int)i), i + 1);
        wanted(exec_write(e, i, host[i], p->buffer.p[i].bytes));
    }
    int64_t n = elements(c, 2);
    double *want = xcalloc((size_t)n, sizeof *want), bound = dtype_size(c->g.dc) == 2 ? 4e-3 : 0;
    for (int64_t i = 0; i < n; i++) want[i] = get(c->g.dc, host[2], i);
    multiply(c, host[0], host[1], want, 0, c->at[0], c->at[1], c->at[2]);
    wanted(exec_step(e, 1));
    wanted(exec_read(e, 2, host[2], p->buffer.p[2].bytes));
    for (int64_t i = 0; i < n; i++)
        if (!CHECK(fabs(get(c->g.dc, host[2], i) - want[i]) <= bound * fabs(want[i]))) break;
    check_log(c, log);
    if (check_failures > before) fprintf(stderr, "in \"%s\", stream %d\n", c->name, stream);
    for (int i = 0; i < 4; i++) free(host[i]);
    free(want);
    exec_close(e);
    plan_free(p);
    session_free(session);
}

/* Types that cuBLASLt does not multiply. */
static void test_refused(void) {
    Case c = cases[0];
    c.g.db = DT_BF16;
    Session *session = session_new();
    Plan *p = make_plan(session, &c, 0);
    Exec *e = NULL;
    Status s = exec_open(p, &(ExecOptions){.device = &device_cuda}, &e);
    CHECK(s && s->code == EXIT_INPUT);
    CHECK_STR(s ? s->text : "", "step 0 (matmul) in product: the product of f32 and bf16 into f32: "
                                "cuBLASLt does not multiply these types");
    free(s);
    plan_free(p);
    session_free(session);
}

int main(int argc, char **argv) {
    char dir[] = "/tmp/m6c-products-XXXXXX", log[64], command[64];
    if (argc < 3 || !mkdtemp(dir)) return 1;
    snprintf(log, sizeof log, "%s/log", dir);
    setenv("M6C_CUDA_DRIVER", argv[1], 1);
    setenv("M6C_CUBLASLT", argv[2], 1);
    setenv("M6C_STANDIN_LOG", log, 1);
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int stream = 0; stream < 2; stream++) {
            char cache[64];
            snprintf(cache, sizeof cache, "%s/cache-%zu-%d", dir, i, stream);
            setenv("M6C_CACHE", cache, 1);
            run_case(&cases[i], stream, log);
        }
    test_refused();
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    return check_done("cuda_products");
}
