/* bench_cuda.c: measures on this machine's GPU, with the project's own runtime and the driver's
 * events. Prints a JSON object a line, with all samples; nothing is judged here (run.py does).
 *
 *   bench_cuda device               what it is
 *   bench_cuda copy BYTES...        copies on the device: bytes read and written
 *   bench_cuda product M N K        a bf16 product by cuBLASLt, and the FLOP of one
 *   bench_cuda steps PLAN           whole steps, --steps of them a round
 *   bench_cuda kernels PLAN         every distinct kernel and product, in its place in a step
 *
 * Options: --rounds N, --warmup N, --steps N, --flush BYTES, --data SOURCE, --init FILE,
 * --no-graph,
 * --only WORD (kernels whose description has it), --flush-source FILE (tests/gpu/flush.cu). */
#include "tests/gpu/bench.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/device_cuda.h"
#include "runtime/exec_private.h"

enum { BLOCK = 1 << 17, LEAST_FLUSH = 1 << 26 };

/* The driver's numbers of what is told of a device. */
enum { CLOCK_KHZ = 13, PROCESSORS = 16, MEMORY_KHZ = 36, BUS_BITS = 37, L2_BYTES = 38 };

void bench_print(json_t *o) {
    json_dumpf(o, stdout, JSON_REAL_PRECISION(9));
    printf("\n");
    fflush(stdout);
    json_decref(o);
}

/* ---- time ---- */

static Status flush_caches(Bench *b, CudaStream stream) {
    void *arg[] = {(void *)(uintptr_t)b->flush_memory, (void *)(uintptr_t)b->flush_memory};
    void *parameter[] = {arg};
    GPU_TRY(&b->gpu, cuLaunchKernel, b->flush, (unsigned)(b->flush_bytes / BLOCK), 1, 1, 256, 1, 1,
            0, stream, parameter, NULL);
    return NULL;
}

static Status one_round(Bench *b, const Timed *t, double *us) {
    float ms = 0;
    if (t->prepare) TRY(t->prepare(t->ctx));
    if (t->cold) TRY(flush_caches(b, t->stream));
    GPU_TRY(&b->gpu, cuEventRecord, b->begin, t->stream);
    for (int64_t i = 0; i < t->repeat; i++) TRY(t->work(t->ctx));
    GPU_TRY(&b->gpu, cuEventRecord, b->end, t->stream);
    GPU_TRY(&b->gpu, cuEventSynchronize, b->end);
    GPU_TRY(&b->gpu, cuEventElapsedTime, &ms, b->begin, b->end);
    *us = (double)ms * 1e3 / (double)t->repeat;
    return NULL;
}

Status bench_time(Bench *b, const Timed *t, json_t **us) {
    *us = json_array();
    for (int64_t i = 0; i < b->warmup + b->rounds; i++) {
        double x;
        TRY(one_round(b, t, &x));
        if (i >= b->warmup) json_array_append_new(*us, json_real(x));
    }
    return NULL;
}

/* ---- what it is ---- */

static json_t *cublaslt_version(void) {
    CublasLt lt;
    Status s = cublaslt_open(&lt);
    json_t *version = s ? json_null() : json_integer((json_int_t)lt.cublasLtGetVersion());
    free(s);
    return version;
}

static Status bench_device(Bench *b, int n, char **argument) {
    const Gpu *g = &b->gpu;
    size_t unused = 0, total = 0;
    (void)n, (void)argument;
    GPU_TRY(g, cuMemGetInfo_v2, &unused, &total);
    bench_print(json_pack(
        "{s:s, s:s, s:i, s:i, s:b, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:I, s:o, s:s}", "name",
        g->name, "arch", g->arch, "capability", g->major * 10 + g->minor, "driver", g->driver,
        "standin", g->standin, "memory", (json_int_t)total, "free", (json_int_t)unused, "l2",
        gpu_attribute(g, L2_BYTES), "processors", gpu_attribute(g, PROCESSORS), "clock_khz",
        gpu_attribute(g, CLOCK_KHZ), "memory_khz", gpu_attribute(g, MEMORY_KHZ), "bus_bits",
        gpu_attribute(g, BUS_BITS), "flush", (json_int_t)b->flush_bytes, "cublaslt",
        cublaslt_version(), "m6c", M6C_VERSION));
    return NULL;
}

/* ---- copies ---- */

typedef struct {
    Bench *b;
    CudaAddress to, from;
    size_t bytes;
} Copy;

static Status copy(void *ctx) {
    const Copy *c = ctx;
    GPU_TRY(&c->b->gpu, cuMemcpyAsync, c->to, c->from, c->bytes, c->b->gpu.stream);
    return NULL;
}

static Status time_copy(Bench *b, Copy *c) {
    json_t *us = NULL;
    GPU_TRY(&b->gpu, cuMemAlloc_v2, &c->from, c->bytes);
    GPU_TRY(&b->gpu, cuMemAlloc_v2, &c->to, c->bytes);
    GPU_TRY(&b->gpu, cuMemsetD8Async, c->from, 1, c->bytes, b->gpu.stream);
    Timed t = {.stream = b->gpu.stream, .work = copy, .ctx = c, .repeat = 1, .cold = true};
    TRY(bench_time(b, &t, &us));
    bench_print(json_pack("{s:I, s:o}", "bytes", (json_int_t)(2 * c->bytes), "us", us));
    GPU_TRY(&b->gpu, cuMemFree_v2, c->from);
    GPU_TRY(&b->gpu, cuMemFree_v2, c->to);
    return NULL;
}

static Status bench_copy(Bench *b, int n, char **argument) {
    for (int i = 0; i < n; i++) {
        Copy c = {.b = b, .bytes = strtoull(argument[i], NULL, 10)};
        if (c.bytes == 0) return status_make(EXIT_USAGE, "copy: how many bytes?");
        TRY(time_copy(b, &c));
    }
    return NULL;
}

/* ---- products ---- */

static void put_plan(Buf *b, int64_t m, int64_t n, int64_t k) {
    const int64_t bytes[] = {2 * m * k, 2 * k * n, 2 * m * n};
    int64_t at[4] = {0};
    for (int i = 0; i < 3; i++) at[i + 1] = at[i] + (bytes[i] + 255) / 256 * 256;
    buf_printf(b, "m6c-plan 1\nmodel product\ntarget sm_80\ncommand \"\"\ntrain no\n"
                  "hashes model=0000000000000001 compiler=0000000000000001\n");
    for (int i = 0; i < 2; i++)
        buf_printf(b, "%s device=%" PRId64 " host=0 disk=0\n", i ? "lower-bound" : "arena", at[3]);
    buf_printf(b, "work tokens=1 flops=%.17g\n", 2.0 * (double)m * (double)n * (double)k);
    const int64_t dim[][2] = {{m, k}, {k, n}, {m, n}};
    for (int i = 0; i < 3; i++)
        buf_printf(b, "buffer %d temp \"%c\" bf16[%" PRId64 ",%" PRId64 "] device+%" PRId64 " -\n",
                   i, "abc"[i], dim[i][0], dim[i][1], at[i]);
    buf_printf(b,
               "step 0 gemm bf16 bf16 bf16 m=%" PRId64 " n=%" PRId64 " k=%" PRId64 " lda=%" PRId64
               " ldb=%" PRId64 " ldc=%" PRId64 " alpha=1 args=b0,b1,b2 ; \"matmul\" - -\nend\n",
               m, n, k, k, n, n);
}

/* Numbers as activations have them: what a product costs depends on their bits. */
static Status fill_operand(Exec *e, uint32_t buffer, int64_t n) {
    uint16_t *x = xcalloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = f32_to_bf16(random_unit(philox(buffer + 1, (uint64_t)i, NULL)) * 2 - 1);
    Status s = exec_write(e, buffer, x, n * (int64_t)sizeof *x);
    free(x);
    return s;
}

static Status multiply(void *ctx) {
    Exec *e = ctx;
    return e->ops->gemm(e->device, &e->plan->step.p[0], e->arg);
}

static Status time_product(Bench *b, Exec *e) {
    json_t *us = NULL;
    const PlanGemm *g = &e->plan->step.p[0].gemm;
    TRY(fill_operand(e, 0, g->m * g->k));
    TRY(fill_operand(e, 1, g->k * g->n));
    Timed t = {
        .stream = ((Cuda *)e->device)->stream[0], .work = multiply, .ctx = e, .repeat = b->steps};
    TRY(bench_time(b, &t, &us));
    bench_print(json_pack("{s:I, s:I, s:I, s:f, s:o}", "m", (json_int_t)g->m, "n", (json_int_t)g->n,
                          "k", (json_int_t)g->k, "flops", e->plan->flops, "us", us));
    return NULL;
}

static Status bench_product(Bench *b, int n, char **argument) {
    Buf text = {0};
    Exec *e = NULL;
    if (n != 3) return status_make(EXIT_USAGE, "product: M, N and K?");
    put_plan(&text, strtoll(argument[0], NULL, 10), strtoll(argument[1], NULL, 10),
             strtoll(argument[2], NULL, 10));
    Session *session = session_new();
    Plan *p = plan_parse(session, "product", text.p, text.n);
    ExecOptions o = {.device = &device_cuda, .dir = b->dir, .no_graph = true};
    Status s = p ? exec_open(p, &o, &e) : status_make(EXIT_INPUT, "these sizes make no plan");
    if (!s) s = time_product(b, e);
    exec_close(e);
    if (p) plan_free(p);
    session_free(session);
    buf_free(&text);
    return s;
}

/* ---- the command ---- */

static Status with_plan(Bench *b, int n, char **argument, Status (*fn)(Bench *, const char *)) {
    return n == 1 ? fn(b, argument[0]) : status_make(EXIT_USAGE, "which plan's folder?");
}
static Status steps(Bench *b, int n, char **a) { return with_plan(b, n, a, bench_steps); }
static Status kernels(Bench *b, int n, char **a) { return with_plan(b, n, a, bench_kernels); }

static const struct {
    const char *name;
    Status (*fn)(Bench *b, int n, char **argument);
} command[] = {{"device", bench_device},
               {"copy", bench_copy},
               {"product", bench_product},
               {"steps", steps},
               {"kernels", kernels}};

static bool parse(Bench *b, int argc, char **argv) {
    static const struct option options[] = {
        {"rounds", required_argument, NULL, 'r'}, {"warmup", required_argument, NULL, 'w'},
        {"steps", required_argument, NULL, 's'},  {"flush", required_argument, NULL, 'f'},
        {"data", required_argument, NULL, 'd'},   {"init", required_argument, NULL, 'i'},
        {"only", required_argument, NULL, 'o'},   {"flush-source", required_argument, NULL, 'c'},
        {"no-graph", no_argument, NULL, 'g'},     {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': b->rounds = strtoll(optarg, NULL, 10); break;
        case 'w': b->warmup = strtoll(optarg, NULL, 10); break;
        case 's': b->steps = strtoll(optarg, NULL, 10); break;
        case 'f': b->flush_bytes = strtoll(optarg, NULL, 10); break;
        case 'd': b->data = optarg; break;
        case 'i': b->init = optarg; break;
        case 'o': b->only = optarg; break;
        case 'c': b->flush_source = optarg; break;
        case 'g': b->no_graph = true; break;
        default: return false;
        }
    }
    return b->rounds > 0 && b->warmup >= 0 && b->steps > 0 && b->flush_bytes >= 0;
}

static Status open_bench(Bench *b) {
    TRY(gpu_open(&b->gpu));
    strcpy(b->dir, "/tmp/m6c-bench-XXXXXX");
    if (!mkdtemp(b->dir)) return status_make(EXIT_SYSTEM, "cannot make a folder in /tmp");
    if (!b->flush_bytes)
        b->flush_bytes = MAX(3 * (int64_t)gpu_attribute(&b->gpu, L2_BYTES), LEAST_FLUSH);
    b->flush_bytes = (b->flush_bytes + BLOCK - 1) / BLOCK * BLOCK;
    TRY(gpu_load(&b->gpu, b->flush_source, b->dir, &b->module));
    GPU_TRY(&b->gpu, cuModuleGetFunction, &b->flush, b->module, "flush");
    GPU_TRY(&b->gpu, cuMemAlloc_v2, &b->flush_memory, (size_t)b->flush_bytes);
    GPU_TRY(&b->gpu, cuMemsetD8Async, b->flush_memory, 0, (size_t)b->flush_bytes, b->gpu.stream);
    GPU_TRY(&b->gpu, cuEventCreate, &b->begin, 0);
    GPU_TRY(&b->gpu, cuEventCreate, &b->end, 0);
    GPU_TRY(&b->gpu, cuStreamSynchronize, b->gpu.stream);
    return NULL;
}

static void close_bench(Bench *b) {
    char line[64];
    if (b->flush_memory) b->gpu.api.cuMemFree_v2(b->flush_memory);
    if (b->module) b->gpu.api.cuModuleUnload(b->module);
    gpu_close(&b->gpu);
    snprintf(line, sizeof line, "rm -rf %s", b->dir);
    if (b->dir[0] && system(line) != 0) fprintf(stderr, "%s failed\n", line);
}

int main(int argc, char **argv) {
    Bench b = {.rounds = 20,
               .warmup = 5,
               .steps = 4,
               .data = "random:1",
               .flush_source = "tests/gpu/flush.cu"};
    Status s = parse(&b, argc, argv) && optind < argc
                   ? open_bench(&b)
                   : status_make(EXIT_USAGE, "usage: bench_cuda device|copy|product|steps|kernels "
                                             "[options] ... (see bench_cuda.c)");
    bool known = false;
    for (size_t i = 0; i < COUNT(command) && !s && !known; i++) {
        known = strcmp(argv[optind], command[i].name) == 0;
        if (known) s = command[i].fn(&b, argc - optind - 1, argv + optind + 1);
    }
    if (!s && !known) s = status_make(EXIT_USAGE, "bench_cuda measures no '%s'", argv[optind]);
    close_bench(&b);
    if (s) fprintf(stderr, "bench_cuda: %s\n", s->text);
    int code = s ? s->code : EXIT_DONE;
    free(s);
    return code;
}
