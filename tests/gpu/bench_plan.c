/* bench_plan.c: a plan's whole steps, and its kernels and products one by one.
 *
 * One by one: the steps of the plan run in order, so that what a kernel reads is there (indices
 * above all); at the first of its kind the order stops, and it runs as often as rounds say. What it
 * writes is put back before each round: all rounds compute the same, with caches that hold nothing
 * of it. */
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint.h"
#include "runtime/device_cuda.h"
#include "runtime/exec_private.h"
#include "runtime/loader.h"
#include "tests/gpu/bench.h"

enum { MAX_INPUTS = 32 };

typedef struct {
    Bench *b;
    Session *session;
    Plan *plan;
    Pool *pool;
    Exec *e;
    Loader *loader;
    LoaderInput input[MAX_INPUTS];
    uint32_t port[MAX_INPUTS], ninputs;
    const void *given[MAX_INPUTS + 8]; /* by the plan's ports */
    int64_t step;
} Runner;

/* ---- a plan that can run ---- */

static Status read_plan(Runner *r, const char *dir) {
    char *path = arena_printf(session_arena(r->session), "%s/plan.txt", dir), *text = NULL;
    size_t n = 0;
    TRY(file_read(path, &text, &n));
    r->plan = plan_parse(r->session, path, text, n); /* the text stays for diagnostics */
    return r->plan ? NULL : status_make(EXIT_INPUT, "%s is no plan", path);
}

static Status open_data(Runner *r) {
    for (uint32_t i = 0; i < r->plan->input.n; i++) {
        const PlanPort *port = &r->plan->input.p[i];
        const PlanBuffer *b = &r->plan->buffer.p[port->buffer];
        if (b->name[0] == '@') continue;
        if (r->ninputs == MAX_INPUTS) return status_make(EXIT_INPUT, "too many inputs");
        LoaderInput *in = &r->input[r->ninputs];
        *in = (LoaderInput){b->name, b->dtype, b->rank, {0}, port->bound, NULL};
        memcpy(in->dim, b->dim, sizeof in->dim);
        r->port[r->ninputs++] = i;
    }
    if (r->ninputs == 0) return NULL;
    LoaderSpec spec = {.source = r->b->data, .input = r->input, .ninputs = r->ninputs, .seed = 1};
    return loader_open(&spec, &r->loader);
}

static Status open_runner(Runner *r, const char *dir) {
    r->session = session_new();
    TRY(read_plan(r, dir));
    TRY(open_data(r));
    r->pool = pool_open(0);
    ExecOptions o = {
        .device = &device_cuda, .pool = r->pool, .dir = dir, .no_graph = r->b->no_graph};
    TRY(exec_open(r->plan, &o, &r->e));
    TRY(exec_init_params(r->e, 1));
    return r->b->init ? tensors_init(r->b->init, r->plan, r->e) : NULL;
}

static void close_runner(Runner *r) {
    exec_close(r->e);
    loader_close(r->loader);
    pool_close(r->pool);
    if (r->plan) plan_free(r->plan);
    session_free(r->session);
}

static CudaStream stream_of(const Runner *r, int stream) {
    return ((Cuda *)r->e->device)->stream[stream];
}

static Status next_inputs(Runner *r) {
    const LoaderBatch *batch = NULL;
    if (!r->loader) return NULL;
    TRY(loader_next(r->loader, &batch));
    if (!batch) return status_make(EXIT_INPUT, "the data are at their end");
    for (uint32_t i = 0; i < r->ninputs; i++) r->given[r->port[i]] = batch->data[i];
    return NULL;
}

/* ---- whole steps ---- */

/* Begins a step, and lets the one before it end. */
static Status submit(void *ctx) {
    Runner *r = ctx;
    bool stopped;
    TRY(next_inputs(r));
    TRY(exec_submit(r->e, ++r->step, r->given));
    return r->e->submitted - r->e->collected < exec_ahead(r->e) ? NULL
                                                                : exec_collect(r->e, &stopped);
}

static json_t *scalar(Runner *r, const char *name) {
    double x;
    bool found;
    Status s = exec_read_scalar(r->e, name, &x, &found);
    bool good = !s && found;
    free(s);
    return good ? json_real(x) : json_null();
}

static int64_t launches(const Plan *p) {
    int64_t n = 0;
    for (uint32_t i = 0; i < p->step.n; i++) n += p->step.p[i].kind != STEP_KIND_COUNT;
    return n;
}

static Status time_steps(Runner *r) {
    json_t *us = NULL;
    bool stopped;
    Timed t = {.stream = stream_of(r, 0), .work = submit, .ctx = r, .repeat = r->b->steps};
    double begin = now_seconds();
    TRY(bench_time(r->b, &t, &us));
    double wall = (now_seconds() - begin) / (double)r->step;
    while (r->e->collected < r->e->submitted) TRY(exec_collect(r->e, &stopped));
    bench_print(json_pack("{s:b, s:I, s:f, s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "graph",
                          !r->b->no_graph, "launches", (json_int_t)launches(r->plan), "flops",
                          r->plan->flops, "tokens", (json_int_t)r->plan->tokens, "parameters",
                          (json_int_t)plan_parameters(r->plan), "device_bytes",
                          (json_int_t)r->plan->arena[MEM_DEVICE], "steps", (json_int_t)r->step,
                          "wall_us", wall * 1e6, "loss", scalar(r, "loss"), "us", us));
    return NULL;
}

Status bench_steps(Bench *b, const char *dir) {
    Runner r = {.b = b};
    Status s = open_runner(&r, dir);
    if (!s) s = time_steps(&r);
    close_runner(&r);
    return s;
}

/* ---- one by one ---- */

/* Of two steps that do the same work: equal numbers; 0: nothing to measure. */
static uint64_t work_key(const PlanStep *s) {
    Buf b = {0};
    if (s->kind == STEP_KERNEL && s->items > 0)
        buf_printf(&b, "kernel %u %lld", s->kernel, (long long)s->items);
    if (s->kind == STEP_GEMM) {
        wisdom_put_product(&s->gemm, &b);
        buf_printf(&b, " %s", epilogue_name(s->gemm.epilogue));
    }
    uint64_t key = b.n ? hash_bytes(b.p, b.n, 1) : 0;
    buf_free(&b);
    return key;
}

static uint64_t *work_keys(const Plan *p) {
    uint64_t *key = xcalloc((size_t)p->step.n + 1, sizeof *key);
    for (uint32_t i = 0; i < p->step.n; i++) key[i] = work_key(&p->step.p[i]);
    return key;
}

/* How many of n steps do the work of step i; 0 when an earlier one does it, or nothing is measured.
 */
static int64_t count_same(const uint64_t *key, uint32_t n, uint32_t i) {
    int64_t same = 0;
    for (uint32_t j = 0; j < n && key[i]; j++) {
        if (key[j] == key[i] && j < i) return 0;
        same += key[j] == key[i];
    }
    return same;
}

static int64_t argument_bytes(const Plan *p, const PlanArg *a) {
    return p->buffer.p[a->buffer].bytes - a->offset;
}

/* Of distinct arguments: what is read, and what is written, each once. A plan says of a kernel's
 * first 64 arguments which are written; beyond, a buffer that is there twice is taken to be both.
 */
static double distinct_bytes(const Plan *p, const PlanStep *s) {
    double bytes = 0;
    for (uint32_t i = 0; i < s->nargs; i++) {
        uint32_t before = 0;
        for (uint32_t j = 0; j < i; j++) {
            bool same =
                s->arg[j].buffer == s->arg[i].buffer && s->arg[j].offset == s->arg[i].offset;
            bool known = i < 64 && s->writes;
            before += same && (!known || plan_writes(s, i) == plan_writes(s, j));
        }
        if (before < (i < 64 && s->writes ? 1 : 2)) bytes += (double)argument_bytes(p, &s->arg[i]);
    }
    return bytes;
}

typedef struct {
    CudaAddress at, copy;
    size_t bytes;
} Kept;

typedef struct {
    Runner *r;
    uint32_t step;
    Kept kept[64];
    uint32_t nkept;
} Single;

/* Room for what the step writes; what there is no room for stays as the last round left it. */
static Status keep_written(Single *w) {
    const Plan *p = w->r->plan;
    const PlanStep *s = &p->step.p[w->step];
    const Gpu *g = &w->r->b->gpu;
    for (uint32_t i = 0; s->kind == STEP_KERNEL && i < s->nargs && i < COUNT(w->kept); i++) {
        Kept *k = &w->kept[w->nkept];
        if (!plan_writes(s, i)) continue;
        k->bytes = (size_t)argument_bytes(p, &s->arg[i]);
        k->at = (CudaAddress)(uintptr_t)w->r->e->arg[w->r->e->first_arg[w->step] + i];
        if (k->bytes == 0 || g->api.cuMemAlloc_v2(&k->copy, k->bytes) != 0) continue;
        w->nkept++;
        GPU_TRY(g, cuMemcpyAsync, k->copy, k->at, k->bytes, stream_of(w->r, s->stream));
    }
    return NULL;
}

static Status put_back(void *ctx) {
    const Single *w = ctx;
    int stream = w->r->plan->step.p[w->step].stream;
    for (uint32_t i = 0; i < w->nkept; i++)
        GPU_TRY(&w->r->b->gpu, cuMemcpyAsync, w->kept[i].at, w->kept[i].copy, w->kept[i].bytes,
                stream_of(w->r, stream));
    return NULL;
}

static Status run_single(void *ctx) {
    const Single *w = ctx;
    const Exec *e = w->r->e;
    const PlanStep *s = &e->plan->step.p[w->step];
    void *const *arg = e->arg + e->first_arg[w->step];
    return s->kind == STEP_GEMM ? e->ops->gemm(e->device, s, arg)
                                : e->ops->launch(e->device, s, arg);
}

static void print_single(const Runner *r, uint32_t i, int64_t count, json_t *us) {
    const PlanStep *s = &r->plan->step.p[i];
    const PlanGemm *g = &s->gemm;
    bool product = s->kind == STEP_GEMM;
    const PlanKernel *k = product ? NULL : &r->plan->kernel.p[s->kernel];
    char shape[128];
    snprintf(shape, sizeof shape, "%s%s %s -> %s %lld x %lld x %lld%s%s", g->ta ? "t" : "n",
             g->tb ? "t" : "n", dtype_name(g->da), dtype_name(g->dc), (long long)g->m,
             (long long)g->n, (long long)g->k, g->epilogue ? " " : "",
             g->epilogue ? epilogue_name(g->epilogue) : "");
    bench_print(json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:i, s:o}", "step",
                          (json_int_t)i, "kind", step_kind_name(s->kind), "name",
                          product ? shape : k->name, "what", s->what ? s->what : "", "scope",
                          s->scope ? s->scope : "", "place", loc_text(r->session, s->loc), "count",
                          (json_int_t)count, "bytes", distinct_bytes(r->plan, s), "flops", s->flops,
                          "blocks", (json_int_t)s->items, "threads", product ? 0 : k->threads, "us",
                          us));
}

static Status time_single(Runner *r, uint32_t i, int64_t count) {
    Single w = {.r = r, .step = i};
    json_t *us = NULL;
    CudaStream stream = stream_of(r, r->plan->step.p[i].stream);
    TRY(keep_written(&w));
    Timed t = {stream, put_back, run_single, &w, 1, true};
    TRY(bench_time(r->b, &t, &us));
    print_single(r, i, count, us);
    TRY(put_back(&w));
    GPU_TRY(&r->b->gpu, cuStreamSynchronize, stream);
    for (uint32_t j = 0; j < w.nkept; j++) GPU_TRY(&r->b->gpu, cuMemFree_v2, w.kept[j].copy);
    return NULL;
}

static bool is_wanted(const Bench *b, const PlanStep *s) {
    return !b->only || (s->what && strstr(s->what, b->only));
}

static Status walk(Runner *r, const uint64_t *key) {
    const Plan *p = r->plan;
    for (uint32_t i = 0; i < p->step.n; i++) {
        int64_t count = is_wanted(r->b, &p->step.p[i]) ? count_same(key, p->step.n, i) : 0;
        if (count > 0) TRY(exec_blame(r->e, i, time_single(r, i, count)));
        TRY(exec_start(r->e, i));
        TRY(exec_blame(r->e, i, r->e->ops->sync(r->e->device)));
    }
    return NULL;
}

static Status write_inputs(Runner *r) {
    const Plan *p = r->plan;
    TRY(next_inputs(r));
    for (uint32_t i = 0; i < p->input.n; i++)
        if (r->given[i])
            TRY(exec_write(r->e, p->input.p[i].buffer, r->given[i],
                           p->buffer.p[p->input.p[i].buffer].bytes));
    return NULL;
}

/* A whole step first, so that states and products' algorithms are what they are in a run. */
static Status time_singles(Runner *r) {
    TRY(write_inputs(r));
    TRY(exec_step(r->e, 1));
    TRY(write_inputs(r));
    uint64_t *key = work_keys(r->plan);
    Status s = walk(r, key);
    free(key);
    return s;
}

Status bench_kernels(Bench *b, const char *dir) {
    Runner r = {.b = b};
    b->no_graph = true;
    Status s = open_runner(&r, dir);
    if (!s) s = time_singles(&r);
    close_runner(&r);
    return s;
}
