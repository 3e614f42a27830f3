/* main_compile.c: m6c compile: model text to a plan folder. A training plan comes with its forward
 * half (forward.txt), which `m6c run --validate` uses. */
#include "frontend/main_model.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "frontend/main_edits.h"
#include "frontend/main_memory.h"
#include "frontend/main_price.h"
#include "passes/stage.h"
#include "runtime/device.h"
#include "runtime/gemm.h"

typedef struct {
    ModelArgs model;
    const char *dir;
    bool json, plan_only;
    const char *command; /* this command line */
} CompileArgs;

/* "m6c compile model.m6 --set batch=4": what makes the plan again; words quoted where needed. */
static char *command_line(int argc, char **argv) {
    Buf b = {0};
    buf_puts(&b, "m6c");
    for (int i = 0; i < argc; i++) {
        bool plain = argv[i][0] && !argv[i][strspn(argv[i], "abcdefghijklmnopqrstuvwxyz"
                                                            "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                            "0123456789_-+=.,/:%@")];
        buf_printf(&b, plain ? " %s" : " '%s'", argv[i]);
    }
    return b.p;
}

/* ---- products: the fastest implementation of each shape, measured once on this machine ---- */

static Status choose_products(Plan *plan) {
    Pool *pool = pool_open(0);
    if (!pool) return status_make(EXIT_SYSTEM, "cannot start the threads");
    Gemm *g = NULL;
    Status s = gemm_open(pool, &g);
    for (uint32_t i = 0; i < plan->step.n && !s; i++) {
        PlanStep *step = &plan->step.p[i];
        if (step->kind != STEP_GEMM) continue;
        const GemmAlgo *algo = gemm_choose(g, &step->gemm);
        if (!algo) s = status_make(EXIT_SYSTEM, "no implementation of a product of this shape");
        if (algo) step->gemm.algo = algo->name;
    }
    gemm_close(g);
    pool_close(pool);
    return s;
}

/* ---- one plan ---- */

/* Sources with the hashes of their texts, so that a stale plan can be told. */
static void record_sources(Session *s, Plan *plan) {
    for (uint16_t i = 1; i < session_files(s); i++) {
        size_t n = 0;
        const char *text = session_file_text(s, i, &n);
        if (!text || text == m6_library) continue; /* the compiler's hash stands for the library */
        PlanSource source = {session_file_name(s, i), hash_bytes(text, n, 0)};
        vec_push(&plan->source, source);
    }
}

static bool choose(Session *s, const CompileArgs *a, Plan *plan) {
    if (a->plan_only || strcmp(a->model.target, "cpu") != 0) return true;
    return diag_status(s, choose_products(plan));
}

/* "DIR:SIZE" names the folder of what lies on disk. */
static const char *disk_folder(Session *s, const ModelArgs *a) {
    const char *colon = a->disk ? strrchr(a->disk, ':') : NULL;
    return colon ? intern_n(s, a->disk, (size_t)(colon - a->disk)) : "";
}

/* Every step gets its price, and the plan the name of the machine whose prices these are. */
static bool record_prices(Session *s, const CompileArgs *a, const Settings *set, Plan *plan) {
    const Machine *m = machine_load(s, set->cluster, a->model.target);
    if (!m) return false;
    m = mesh_programs(set) > 1 ? machine_of_graph(m, set) : machine_of_stage(m, set, EVERY_STAGE);
    plan->machine = machine_name(m);
    plan_price(plan, m);
    return true;
}

typedef VEC(Graph *) Graphs;

/* The plan of a folder that is made now. */
typedef struct {
    const CompileArgs *args;
    bool forward;
    int64_t stage;
    Graphs *made;  /* of all stages so far */
    Graph *shared; /* what they are cut from; NULL: not yet */
} Part;

/* The model as a graph that is ready for code. A training step that does not fit is an error; of
 * the forward half the smallest plan is taken. */
static Graph *make_graph(Session *s, Part *part, MemoryReport *r) {
    ModelArgs model = part->args->model;
    model.infer |= part->forward;
    model.stage = part->stage;
    model.shared = &part->shared;
    Graph *g = model_graph(s, &model, pipeline_default, r);
    if (!g || r->fits || part->forward) return g;
    model.shared = NULL; /* edits change what stages are cut from */
    explain_misfit(s, &model, g, r);
    if (mesh_programs(&g->set) > 1)
        diag_note(s, (Loc){0}, "this is %s %" PRId64 " of the %s",
                  g->set.stages ? "stage" : "class", part->stage,
                  g->set.stages ? "pipeline" : "shares");
    graph_free(g);
    return NULL;
}

/* Compiles a part of the model to DIR/NAME.txt. NULL after diagnostics. */
static Plan *make_plan(Session *s, void *with, int64_t stage, const Plan *first) {
    Part *part = with;
    const CompileArgs *a = part->args;
    MemoryReport memory = {0};
    part->stage = stage;
    Graph *g = make_graph(s, part, &memory);
    if (!g) return NULL;
    const char *base = part->forward ? "forward" : "plan";
    CodegenOptions o = {.dir = a->dir,
                        .name = mesh_plan_name(s, base, stage),
                        .target = a->model.target,
                        .command = a->command,
                        .model_hash = first ? first->model_hash : 0,
                        .plan_only = a->plan_only};
    Plan *plan = codegen_plan(g, &o);
    if (plan) {
        memory_record(plan, g, &memory);
        plan->disk = disk_folder(s, &a->model);
    }
    vec_free(&memory.decision);
    vec_push(part->made, g);
    if (!plan) return NULL;
    record_sources(s, plan);
    bool good = record_prices(s, a, &g->set, plan);
    if (good && choose(s, a, plan) && codegen_write(plan, &o)) return plan;
    plan_free(plan);
    return NULL;
}

/* All ranks come to the end of their plans, whoever waits for whom. */
static void prove_order(const Graphs *made) {
    RanksOrder order;
    Buf err = {0};
    bool alone = !made->p[0]->set.sharded;
    if (!alone && !ranks_check_order(made->p, made->n, true, &order, &err)) BUG("%s", err.p);
    buf_free(&err);
}

/* The plans of all stages, or the one that is all; the first knows the others. NULL after
 * diagnostics. */
static Plan *make_plans(Session *s, const CompileArgs *a, bool forward) {
    Graphs made = {0};
    Part part = {.args = a, .forward = forward, .made = &made};
    Plan *first = mesh_plans(s, make_plan, &part);
    if (first) prove_order(&made);
    if (part.shared) graph_free(part.shared);
    for (uint32_t i = 0; i < made.n; i++) graph_free(made.p[i]);
    vec_free(&made);
    return first;
}

/* What the budgets cost. */
static void report_memory(const Plan *p) {
    printf("%.1f ms a step predicted, %.1f ms with everything kept (%.1f MiB)",
           1e-3 * p->predicted_us, 1e-3 * p->unconstrained_us, mib(p->unconstrained));
    for (int m = MEM_HOST; m < MEM_COUNT; m++)
        if (p->arena[m]) printf(", %.1f MiB %s", mib(p->arena[m]), mem_name((Mem)m));
    if (p->bound_us > 0)
        printf("\nplan is within %.1f %% of the best possible under this cost model",
               MAX(100 * (p->predicted_us / p->bound_us - 1), 0));
    printf("\n");
}

/* Of all stages, if there are several. */
static void report_stages(const CompileArgs *a, const Plan *first) {
    for (uint32_t i = 1; i < plan_count(first); i++) {
        const Plan *p = plan_at(first, i);
        printf("%s/plan-%u.txt: %" PRId64 " parameters on a rank, %u steps, %u kernels, %.1f MiB\n",
               a->dir, i, plan_parameters(p), p->step.n, p->kernel.n, mib(p->arena[MEM_DEVICE]));
        if (p->budget[MEM_DEVICE] || p->decision.n) report_memory(p);
    }
}

static void report(const CompileArgs *a, const Plan *p, double seconds) {
    if (!a->json) {
        char own[48] = "";
        if (p->ranks > 1) snprintf(own, sizeof own, " (%" PRId64 " on a rank)", plan_parameters(p));
        printf("%s/plan.txt: %" PRId64
               " parameters%s, %u steps, %u kernels, %.1f MiB, compiled in %.2f s\n",
               a->dir, plan_whole_parameters(p), own, p->step.n, p->kernel.n,
               mib(p->arena[MEM_DEVICE]), seconds);
        if (p->budget[MEM_DEVICE] || p->decision.n) report_memory(p);
        report_stages(a, p);
        if (p->shares.n && p->balanced) printf("%s\n", p->balanced);
        return;
    }
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "steps", (json_int_t)p->step.n,
        "kernels", (json_int_t)p->kernel.n, "parameters", (json_int_t)plan_whole_parameters(p),
        "rank_parameters", (json_int_t)plan_parameters(p), "device_bytes",
        (json_int_t)p->arena[MEM_DEVICE], "host_bytes", (json_int_t)p->arena[MEM_HOST],
        "disk_bytes", (json_int_t)p->arena[MEM_DISK], "predicted_ms", 1e-3 * p->predicted_us,
        "bound_ms", 1e-3 * p->bound_us, "unconstrained_ms", 1e-3 * p->unconstrained_us,
        "compile_seconds", seconds);
    json_dumpf(o, stdout, JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(o);
}

static int compile(const CompileArgs *a) {
    Session *s = session_new();
    double begin = now_seconds();
    Plan *plan = make_plans(s, a, false);
    Plan *forward = plan && plan->train ? make_plans(s, a, true) : NULL;
    bool good = plan && (forward || !plan->train);
    if (good) report(a, plan, now_seconds() - begin);
    if (forward) mesh_plans_free(forward);
    if (plan) mesh_plans_free(plan);
    int code = good ? EXIT_DONE : MAX(diag_exit(s), EXIT_INPUT);
    session_free(s);
    return code;
}

/* "cuda" becomes the architecture of the GPU present, kept in `found`. */
static Status check_target(const char **target, char found[16]) {
    const char *name = *target;
    Buf known = {0};
    if (strcmp(name, "cuda") == 0) {
        TRY(device_cuda_target(found));
        name = *target = found;
    }
    if (target_is_gpu(name)) return nvrtc_check_arch(name);
    for (size_t i = 0; device_at(i); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", device_at(i)->name);
    Status s =
        device_find(name)
            ? NULL
            : status_make(EXIT_USAGE, "unknown target '%s' (there are: %s, and GPUs as sm_80)",
                          name, known.p);
    buf_free(&known);
    return s;
}

/* Without -o the plan goes beside the model: model.m6 -> model.plan. */
static const char *default_dir(const char *model) {
    Buf b = {0};
    size_t n = strlen(model);
    bool m6 = n > 3 && strcmp(model + n - 3, ".m6") == 0;
    buf_put(&b, model, m6 ? n - 3 : n);
    buf_puts(&b, ".plan");
    return b.p;
}

int main_compile(int argc, char **argv) {
    char *command = command_line(argc, argv); /* before the parser reorders it */
    CompileArgs a = {.model.target = "cpu", .command = command};
    const Option options[] = {
        {"o", OPT_TEXT, &a.dir, "DIR", "the plan's folder (model.plan)"},
        {"plan-only", OPT_FLAG, &a.plan_only, NULL, "plan.txt and sources, nothing compiled"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object about the plan"},
        MODEL_OPTIONS(a.model),
    };
    const OptionTable table = {"compile model.m6 [-o DIR] [options]", options, COUNT(options), 1,
                               1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = EXIT_DONE;
    char found[16];
    if (!s && !help) s = check_target(&a.model.target, found);
    if (s || help) {
        code = status_exit(s);
    } else {
        a.model.path = positional.p[0];
        const char *made = a.dir ? NULL : default_dir(a.model.path);
        if (made) a.dir = made;
        code = compile(&a);
        free((void *)(uintptr_t)made);
    }
    vec_free(&positional);
    vec_free(&a.model.set);
    free(command);
    return code;
}
