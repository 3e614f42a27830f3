/* test_attention_cuda.c: the attention kernels for GPUs, run under the emulator, against the
 * interpreter: all kernels in one file, each run in several random orders, which must give the same
 * bits. */
#include "codegen/opaque.h"
#include "tests/gpu/emulator.h"
#include "tests/ir/sample.h"

#include <string.h>
#include <unistd.h>

enum { Q, K, V, O, LSE, G, DQ, DK, DV, ARGS };
enum { FORWARD, BACKWARD, PASSES };

typedef struct {
    int64_t b, t, s, h, d;
    const char *mask;
    int64_t prefix;
    Dtype dtype;
    int unwanted; /* bits of ARGS: results that nobody reads */
    double scale; /* times 1 / sqrt(d) */
} Case;

static const Case cases[] = {
    {1, 1, 1, 1, 16, "none", 0, DT_BF16, 0, 1},
    {1, 70, 70, 1, 64, "causal", 0, DT_BF16, 0, 1},
    {1, 150, 200, 1, 64, "none", 0, DT_BF16, 0, 1},
    {2, 33, 50, 2, 24, "prefix", 5, DT_BF16, 0, 1},
    {1, 150, 150, 1, 128, "causal", 0, DT_BF16, 0, 1},
    {1, 60, 90, 1, 128, "prefix", 70, DT_F16, 0, 1},
    {1, 50, 50, 1, 17, "causal", 0, DT_F16, 0, 1},
    {1, 131, 70, 1, 60, "prefix", 20, DT_BF16, 0, 1},
    {1, 90, 40, 1, 192, "causal", 0, DT_BF16, 0, 0.5},
    {1, 20, 60, 1, 256, "prefix", 40, DT_F16, 0, 1},
    {1, 300, 300, 1, 32, "prefix", 130, DT_F16, 0, 1},
    {1, 20, 400, 1, 40, "none", 0, DT_F16, 1 << DQ | 1 << DK | 1 << DV, 8},
    {1, 130, 300, 1, 96, "causal", 0, DT_BF16, 1 << LSE | 1 << DK, -1},
    {1, 40, 70, 1, 80, "none", 0, DT_F16, 1 << DQ | 1 << DV, 0},
    {2, 7, 7, 3, 5, "causal", 0, DT_F32, 0, 1},
    {1, 70, 33, 2, 16, "none", 0, DT_F32, 0, -1},
    {1, 33, 70, 1, 100, "prefix", 40, DT_F32, 1 << LSE | 1 << DV, 1},
    {1, 13, 50, 1, 256, "causal", 0, DT_F32, 1 << DQ | 1 << DK, 1},
    {1, 9, 9, 1, 3, "none", 0, DT_F64, 0, 0},
};

static double get(Dtype d, const void *p, int64_t i) {
    switch (d) {
    case DT_BF16: return bf16_to_f32(((const uint16_t *)p)[i]);
    case DT_F16: return f16_to_f32(((const uint16_t *)p)[i]);
    case DT_F64: return ((const double *)p)[i];
    default: return ((const float *)p)[i];
    }
}

static void put(Dtype d, void *p, int64_t i, double x) {
    switch (d) {
    case DT_BF16: ((uint16_t *)p)[i] = f32_to_bf16((float)x); break;
    case DT_F16: ((uint16_t *)p)[i] = f32_to_f16((float)x); break;
    case DT_F64: ((double *)p)[i] = x; break;
    default: ((float *)p)[i] = (float)x; break;
    }
}

/* ---- one case: its graph, its arguments, its kernels ---- */

typedef struct {
    const Case *c;
    Sample s;
    Value o, grad;
    const Type *type[ARGS];
    void *arg[ARGS];
    int order[PASSES][ARGS]; /* arguments of a kernel */
    int nargs[PASSES];
    char *name[PASSES];
    Code code[PASSES];
} Job;

/* Exact in f32, near 1 / sqrt(d). */
static double scale_of(const Case *c) {
    return c->scale * ldexp(1, -(int)(log2((double)c->d) / 2));
}

static void make_types(Job *j) {
    const Case *c = j->c;
    const int64_t q[] = {c->b, c->t, c->h, c->d}, k[] = {c->b, c->s, c->h, c->d};
    const int64_t lse[] = {c->b, c->h, c->t};
    for (int i = 0; i < ARGS; i++) {
        bool keys = i == K || i == V || i == DK || i == DV;
        j->type[i] = type_tensor(j->s.session, c->dtype, 4, keys ? k : q);
    }
    j->type[LSE] = type_tensor(j->s.session, c->dtype == DT_F64 ? DT_F64 : DT_F32, 3, lse);
}

/* The interpreter's graph, whose values nothing rounds; its inputs are what storage holds. */
static void make_graph(Job *j) {
    static const int inputs[] = {Q, K, V, G};
    Value in[6];
    for (int i = 0; i < 4; i++) {
        const Type *t = j->type[inputs[i]];
        Value v = sample_random(&j->s, type_tensor(j->s.session, DT_F32, t->rank, t->dim), -2, 2);
        SampleInput *x = &j->s.in.p[i];
        for (int64_t e = 0; e < x->n; e++) {
            put(t->dtype, j->arg[inputs[i]], e, x->data[e]);
            x->data[e] = get(t->dtype, j->arg[inputs[i]], e);
        }
        in[inputs[i]] = v;
    }
    AttrValue at[] = {
        {.s = intern(j->s.session, j->c->mask)}, {.i = j->c->prefix}, {.f = scale_of(j->c)}};
    j->o = sample_node(&j->s, OP_attention, at, 3, in);
    in[O] = b_proj(j->s.g, j->o, 0), in[LSE] = b_proj(j->s.g, j->o, 1);
    j->grad = sample_node(&j->s, OP_attention_grad, at, 6, in);
}

/* Kernel `pass`, whose operands are the arguments before `first` and results those before `end`. */
static void make_kernel(Job *j, int pass, Value node, int first, int end, Buf *file) {
    Opaque o = {.g = j->s.g, .n = &j->s.g->node.p[node]};
    int *order = j->order[pass];
    for (int i = 0; i < first; i++) {
        o.align[o.nin] = 16;
        o.in[o.nin++] = j->type[i];
        order[j->nargs[pass]++] = i;
    }
    for (int i = first; i < end; i++) {
        o.want[o.nout] = !(j->c->unwanted >> i & 1);
        if (o.want[o.nout]) order[j->nargs[pass]++] = i;
        o.out[o.nout++] = j->type[i];
    }
    Code *c = &j->code[pass];
    (pass == FORWARD ? emit_attention_cuda : emit_attention_grad_cuda)(&o, c);
    buf_printf(file, "%s\nKERNEL(%s, %d, %d) {\n%s}\n", c->prefix.p, j->name[pass], j->nargs[pass],
               c->threads, c->body.p);
}

static void job_start(Job *j, const Case *c, Buf *file) {
    *j = (Job){.c = c, .s = sample_new((uint32_t)(c->t * 1000 + c->d))};
    make_types(j);
    for (int i = 0; i < ARGS; i++)
        j->arg[i] = emu_buffer(type_elements(j->type[i]) * dtype_size(j->type[i]->dtype));
    make_graph(j);
    for (int i = 0; i < PASSES; i++)
        j->name[i] = arena_printf(session_arena(j->s.session), "%s_%d",
                                  i == FORWARD ? "forward" : "backward", (int)(c - cases));
    make_kernel(j, FORWARD, j->o, O, G, file);
    make_kernel(j, BACKWARD, j->grad, DQ, ARGS, file);
}

static void job_end(Job *j) {
    for (int i = 0; i < ARGS; i++) emu_buffer_free(j->arg[i]);
    for (int i = 0; i < PASSES; i++) {
        buf_free(&j->code[i].prefix);
        buf_free(&j->code[i].body);
    }
    sample_free(&j->s);
}

/* ---- running ---- */

static void launch(Job *j, EmuModule *m, int pass, uint64_t seed) {
    void *arg[ARGS] = {0}, *kernel = emu_find(m, j->name[pass]);
    const Code *c = &j->code[pass];
    if (!CHECK(kernel)) return;
    for (int i = 0; i < j->nargs[pass]; i++) arg[i] = j->arg[j->order[pass][i]];
    Status s = emu_launch(kernel, c->items, c->threads, c->shared, arg, seed);
    if (!CHECK(!s)) fprintf(stderr, "  %s\n", s->text);
    free(s);
}

/* The results of one run and of another order are the same. */
static void run(Job *j, EmuModule *m, int pass) {
    void *before[ARGS] = {0};
    launch(j, m, pass, 1);
    for (int i = 0; i < j->nargs[pass]; i++) {
        int at = j->order[pass][i];
        size_t bytes = (size_t)(type_elements(j->type[at]) * dtype_size(j->type[at]->dtype));
        before[i] = memcpy(xmalloc(bytes), j->arg[at], bytes);
    }
    launch(j, m, pass, 2);
    for (int i = 0; i < j->nargs[pass]; i++) {
        int at = j->order[pass][i];
        size_t bytes = (size_t)(type_elements(j->type[at]) * dtype_size(j->type[at]->dtype));
        CHECK(memcmp(before[i], j->arg[at], bytes) == 0);
        free(before[i]);
    }
}

static double limit_of(Dtype d) { return d == DT_BF16 ? 2e-2 : d == DT_F16 ? 3e-3 : 4e-6; }

static void check_result(const Job *j, int arg, const double *want, double limit) {
    int64_t n = type_elements(j->type[arg]);
    const Case *c = j->c;
    if (c->unwanted >> arg & 1) return;
    double *got = xcalloc((size_t)n, sizeof *got);
    for (int64_t i = 0; i < n; i++) got[i] = get(j->type[arg]->dtype, j->arg[arg], i);
    double d = sample_distance(got, want, n);
    if (!CHECK(d < limit))
        fprintf(stderr, "  argument %d, %lld x %lld, head %lld, %s %s: %g\n", arg, (long long)c->t,
                (long long)c->s, (long long)c->d, c->mask, dtype_name(c->dtype), d);
    free(got);
}

static void check_job(Job *j, EmuModule *m) {
    double limit = limit_of(j->c->dtype);
    run(j, m, FORWARD);
    check_result(j, O, sample_result(&j->s, j->o, 0), limit);
    check_result(j, LSE, sample_result(&j->s, j->o, 1), 1e-4);
    if (j->c->unwanted >> LSE & 1)
        for (int64_t i = 0; i < type_elements(j->type[LSE]); i++)
            put(j->type[LSE]->dtype, j->arg[LSE], i, sample_result(&j->s, j->o, 1)[i]);
    run(j, m, BACKWARD);
    for (int i = 0; i < 3; i++)
        check_result(j, DQ + i, sample_result(&j->s, j->grad, (uint32_t)i), limit);
}

int main(void) {
    static Job job[COUNT(cases)];
    char path[64];
    Buf file = {0};
    EmuModule *m = NULL;
    prelude_cuda(&file);
    for (size_t i = 0; i < COUNT(cases); i++) job_start(&job[i], &cases[i], &file);
    setenv("M6C_EMULATED_RACES", "all", 0);
    snprintf(path, sizeof path, "/tmp/m6c-attention-%d.cu", (int)getpid());
    Status s = file_write_atomic(path, file.p, strlen(file.p));
    if (!s) s = emu_load(path, &m);
    if (!CHECK(!s)) fprintf(stderr, "%s\n", s->text);
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (m) check_job(&job[i], m);
        job_end(&job[i]);
    }
    if (m) emu_unload(m);
    unlink(path);
    free(s);
    buf_free(&file);
    return check_done("attention_cuda");
}
