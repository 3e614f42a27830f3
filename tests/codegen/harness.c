/* harness.c: see harness.h. Values are placed one after another with a gap behind each: the gap is
 * filled with a pattern before the steps and looked at afterwards. With the allocate pass in the
 * list its placement is used instead, so that reuse of bytes is what is tested. */
#include "tests/codegen/harness.h"

#include "codegen/codegen.h"
#include "ir/storage.h"
#include "runtime/exec.h"
#include "runtime/gemm.h"
#include "tests/gpu/device_emulated.h"
#include "tests/gpu/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 2, GAP = 64, SEED = 7 };

typedef struct {
    const char *name;
    const Type *type;
    double *want[STEPS];
} Output;

typedef struct {
    const char *label;
    const Compare *how;
    VEC(Output) out;
    Dtype coarsest; /* dtype of a float value in the graph */
    uint32_t gap;   /* the first of the plan's buffers; 0: the allocate pass placed them */
    int findings;
} Run;

static char folder[64];
static HarnessOn on;
static Gpu gpu;

static void must(Status s) {
    if (!s) return;
    fprintf(stderr, "%s\n", s->text);
    exit(s->code);
}

HarnessOn harness_on(const char *argument) {
    if (!argument) return ON_CPU;
    return strcmp(argument, "gpu") == 0    ? ON_GPU
           : strcmp(argument, "cuda") == 0 ? ON_EMULATOR
                                           : ON_CPU;
}

void harness_begin(HarnessOn where) {
    on = where;
    if (on == ON_GPU) must(gpu_open(&gpu));
    strcpy(folder, "/tmp/m6c-codegen-XXXXXX");
    if (!mkdtemp(folder)) exit(3);
    setenv("M6C_CACHE", folder, 0);
}

void harness_end(void) {
    char command[128 + sizeof folder];
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (system(command) != 0) exit(3);
    gpu_close(&gpu);
}

double harness_input(const char *name, int64_t bound, int64_t i, int step) {
    uint32_t key = (uint32_t)hash_bytes(name, strlen(name), (uint64_t)step);
    double u = (double)philox(key, (uint64_t)i, NULL) * 0x1p-32;
    return bound > 0 ? floor(u * (double)bound) : 3 * u - 1.5;
}

static bool is_port(const Node *n) { return n->op == OP_input && attr_str(n, "name")[0] != '@'; }

static int64_t port_bound(const Node *n) {
    int64_t bound = attr_int(n, "bound");
    return bound ? bound : n->type->dtype == DT_I32 ? 4 : n->type->dtype == DT_BOOL ? 2 : 0;
}

/* ---- the interpreter ---- */

static void interpret(Run *r, Graph *g) {
    Interp *in = interp_new(g);
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_output)
            vec_push(&r->out, ((Output){attr_str(node_of(g, v), "name"), type_of(g, v), {NULL}}));
    for (int step = 0; step < STEPS; step++) {
        for (Value v = 0; v < g->node.n; v++) {
            const Node *n = node_of(g, v);
            if (!is_port(n)) continue;
            int64_t count = type_elements(n->type);
            double *x = xcalloc((size_t)count, sizeof *x);
            for (int64_t i = 0; i < count; i++)
                x[i] = harness_input(attr_str(n, "name"), port_bound(n), i, step);
            interp_set(in, attr_str(n, "name"), x);
            free(x);
        }
        interp_run(in, SEED, step + 1);
        for (uint32_t i = 0; i < r->out.n; i++) {
            const Tensor *t = interp_output(in, r->out.p[i].name);
            size_t bytes = sizeof(double) * (size_t)type_elements(t->type);
            r->out.p[i].want[step] = memcpy(xmalloc(bytes), t->data, bytes);
        }
    }
    interp_free(in);
}

/* ---- placement ---- */

static void place_all(Graph *g) {
    Arena *a = arena_new();
    Units us = units_build(g, a);
    int64_t at = 0;
    for (Value v = 0; v < g->node.n; v++) {
        node_of(g, v)->offset = -1;
        if (!us.owns[v]) continue;
        node_of(g, v)->offset = at;
        at += (type_bytes(type_of(g, v)) + GAP + 63) / 64 * 64;
    }
    arena_free(a);
}

/* Behind each buffer one more, which no step knows: the gap. The last has none. */
static uint32_t add_gaps(Plan *p) {
    uint32_t n = p->buffer.n;
    for (uint32_t b = 0; b < n; b++) {
        const PlanBuffer *x = &p->buffer.p[b];
        int64_t at = x->offset + x->bytes;
        if (x->mem != MEM_DEVICE || at + GAP > p->arena[MEM_DEVICE]) continue;
        PlanBuffer gap = {.name = x->name, .dtype = DT_BOOL, .rank = 1, .dim = {GAP}};
        gap.offset = at, gap.bytes = GAP;
        vec_push(&p->buffer, gap);
    }
    return n;
}

static void fill_gaps(Exec *e, const Plan *p, uint32_t first) {
    char pattern[GAP];
    memset(pattern, 0x5a, sizeof pattern);
    for (uint32_t b = first; b < p->buffer.n; b++) must(exec_write(e, b, pattern, GAP));
}

static void check_gaps(Run *r, Exec *e, const Plan *p, uint32_t first) {
    for (uint32_t b = first; b < p->buffer.n; b++) {
        char found[GAP];
        int i = 0;
        must(exec_read(e, b, found, GAP));
        while (i < GAP && found[i] == 0x5a) i++;
        if (i == GAP) continue;
        fprintf(stderr, "%s: byte %d behind %s was written\n", r->label, i, p->buffer.p[b].name);
        r->findings++;
    }
}

/* ---- the plan ---- */

static void put_element(void *p, Dtype d, int64_t i, double x) {
    switch (d) {
    case DT_F32: ((float *)p)[i] = (float)x; break;
    case DT_F64: ((double *)p)[i] = x; break;
    case DT_BF16: ((uint16_t *)p)[i] = f32_to_bf16((float)x); break;
    case DT_F16: ((uint16_t *)p)[i] = f32_to_f16((float)x); break;
    case DT_I32: ((int32_t *)p)[i] = (int32_t)x; break;
    case DT_I64: ((int64_t *)p)[i] = (int64_t)x; break;
    default: ((uint8_t *)p)[i] = x != 0; break;
    }
}

static double get_element(const void *p, Dtype d, int64_t i) {
    switch (d) {
    case DT_F32: return ((const float *)p)[i];
    case DT_F64: return ((const double *)p)[i];
    case DT_BF16: return bf16_to_f32(((const uint16_t *)p)[i]);
    case DT_F16: return f16_to_f32(((const uint16_t *)p)[i]);
    case DT_I32: return ((const int32_t *)p)[i];
    case DT_I64: return (double)((const int64_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
    }
}

static void write_inputs(Exec *e, const Plan *p, int step) {
    for (uint32_t i = 0; i < p->input.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->input.p[i].buffer];
        if (b->name[0] == '@') continue;
        int64_t bound = p->input.p[i].bound, n = plan_elements(b);
        if (!bound) bound = b->dtype == DT_I32 ? 4 : b->dtype == DT_BOOL ? 2 : 0;
        void *x = xcalloc((size_t)b->bytes, 1);
        for (int64_t k = 0; k < n; k++)
            put_element(x, b->dtype, k, harness_input(b->name, bound, k, step));
        must(exec_write(e, p->input.p[i].buffer, x, b->bytes));
        free(x);
    }
}

/* Kernels keep 16-bit values in f32 between ops, the interpreter rounds each. */
static double bound_of(const Run *r) {
    if (r->how->bound > 0) return r->how->bound;
    return r->coarsest == DT_BF16 ? 4e-2 : r->coarsest == DT_F16 ? 6e-3 : 2e-4;
}

static Dtype coarsest(const Graph *g) {
    bool f16 = false;
    for (Value v = 0; v < g->node.n; v++) {
        if (type_of(g, v)->dtype == DT_BF16) return DT_BF16;
        f16 |= type_of(g, v)->dtype == DT_F16;
    }
    return f16 ? DT_F16 : DT_F32;
}

static void compare_output(Run *r, const Output *o, const void *got, int step) {
    Dtype d = o->type->dtype;
    int64_t n = type_elements(o->type);
    double sum = 0, bound = bound_of(r);
    for (int64_t i = 0; i < n; i++)
        if (isfinite(o->want[step][i])) sum += o->want[step][i] * o->want[step][i];
    double scale = sqrt(sum / (double)n);
    for (int64_t i = 0; i < n; i++) {
        double a = get_element(got, d, i), b = o->want[step][i];
        bool same = isnan(b)   ? isnan(a) != 0
                    : isinf(b) ? a == b || fabs(a) > 1e38
                               : fabs(a - b) <= bound * (fabs(b) + scale + 0.05);
        if (same || (fabs(b) > 1e37 && !isfinite(a))) continue;
        fprintf(stderr, "%s: step %d: %s[%lld] is %.9g, the interpreter says %.9g (%s, scale %g)\n",
                r->label, step + 1, o->name, (long long)i, a, b, r->how->passes, scale);
        r->findings++;
        return;
    }
}

/* All outputs of all steps, one after another, into *bits; the second time otherwise. */
static void execute(Run *r, const Plan *p, int time, Buf *bits) {
    static const DeviceOps *const device[] = {&device_cpu, &device_emulated, &device_cuda};
    Pool *pool = pool_open(on == ON_CPU ? time : 1);
    Exec *e = NULL;
    ExecOptions o = {.device = device[on], .pool = pool, .dir = folder};
    setenv("M6C_EMULATED_SEED", time == 1 ? "1" : "2", 1);
    must(exec_open(p, &o, &e));
    must(exec_init_params(e, SEED));
    if (r->gap) fill_gaps(e, p, r->gap);
    for (int step = 0; step < STEPS; step++) {
        write_inputs(e, p, step);
        must(exec_step(e, step + 1));
        for (uint32_t i = 0; i < r->out.n; i++) {
            uint32_t b = plan_find(p, r->out.p[i].name);
            void *x = xcalloc((size_t)p->buffer.p[b].bytes, 1);
            must(exec_read(e, b, x, p->buffer.p[b].bytes));
            if (time == 1) compare_output(r, &r->out.p[i], x, step);
            buf_put(bits, x, (size_t)p->buffer.p[b].bytes);
            free(x);
        }
    }
    if (r->gap) check_gaps(r, e, p, r->gap);
    exec_close(e);
    pool_close(pool);
}

/* One implementation of each product for all runs: different ones may round differently. */
static void choose_products(Plan *p) {
    Pool *pool = pool_open(1);
    Gemm *g = NULL;
    must(gemm_open(pool, &g));
    for (uint32_t i = 0; i < p->step.n; i++) {
        PlanStep *s = &p->step.p[i];
        if (s->kind == STEP_GEMM) s->gemm.algo = gemm_choose(g, &s->gemm)->name;
    }
    gemm_close(g);
    pool_close(pool);
}

/* The kernels of the host of a plan that was not compiled: the emulator compiles the others. */
static void compile_host(const Plan *p) {
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        const char *source = p->kernel.p[i].source;
        Buf command = {0};
        if (p->kernel.p[i].threads) continue;
        buf_printf(&command, "cc -O2 -march=native -w -fPIC -shared -o %s/%.*s.so %s/%s -lm",
                   folder, (int)strlen(source) - 2, source, folder, source);
        if (system(command.p) != 0) exit(3);
        buf_free(&command);
    }
}

static void run_plan(Run *r, Plan *p) {
    Buf one = {0}, two = {0};
    static const char *const other[] = {"two threads", "threads in another order", "a second run"};
    if (on != ON_GPU) choose_products(p);
    execute(r, p, 1, &one);
    execute(r, p, 2, &two);
    if (one.n != two.n || memcmp(one.p, two.p, one.n) != 0) {
        fprintf(stderr, "%s: other bits from %s (%s)\n", r->label, other[on], r->how->passes);
        r->findings++;
    }
    buf_free(&one);
    buf_free(&two);
}

static void show_sources(void) {
    char command[128 + sizeof folder];
    snprintf(command, sizeof command, "sed -n '/^#undef K/,$p' %s/plan_*.c* | tail -300 >&2",
             folder);
    if (system(command) != 0) exit(3);
}

/* Of the graphs of a test only each N-th. */
static bool skip_this(void) {
    static int64_t graphs;
    const char *every = getenv("M6C_TEST_EVERY");
    int64_t n = every ? strtoll(every, NULL, 10) : 1;
    return n > 1 && graphs++ % n != 0;
}

int compare_graph(Graph *g, const Compare *how, const char *label) {
    if (skip_this()) {
        graph_free(g);
        return 0;
    }
    Run r = {.label = label, .how = how, .coarsest = coarsest(g)};
    Arena *scratch = arena_new();
    PassContext cx = {
        .session = g->session, .scratch = scratch, .gpu = on != ON_CPU, .opt = {.verify = true}};
    const char *target[] = {"cpu", "sm_80", gpu.arch};
    CodegenOptions o = {
        .dir = folder, .target = target[on], .plan_only = on == ON_EMULATOR || gpu.standin};
    pass_options_env(&cx.opt);
    interpret(&r, g);
    if (!pipeline_run(g, how->passes, &cx)) exit(3);
    bool gaps = !strstr(how->passes, "allocate");
    if (gaps) place_all(g);
    Plan *p = codegen_plan(g, &o);
    if (p && gaps) r.gap = add_gaps(p);
    if (p && o.plan_only) compile_host(p);
    if (p)
        run_plan(&r, p);
    else
        r.findings++;
    if (r.findings && how->print) {
        Buf text = {0};
        graph_print(g, &text);
        fprintf(stderr, "%s\n", text.p);
        buf_free(&text);
        show_sources();
    }
    for (uint32_t i = 0; i < r.out.n; i++)
        for (int step = 0; step < STEPS; step++) free(r.out.p[i].want[step]);
    vec_free(&r.out);
    if (p) plan_free(p);
    graph_free(g);
    arena_free(scratch);
    return r.findings;
}

int compare_text(const char *text, const Compare *how, const char *label) {
    Session *s = session_new();
    Graph *g = graph_parse(s, label, text, strlen(text));
    int findings = g ? compare_graph(g, how, label) : 1;
    session_free(s);
    return findings;
}
