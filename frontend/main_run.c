/* main_run.c: m6c run. */
#include "frontend/main.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/ranks.h"
#include "runtime/train.h"

/* Options whose values the parser writes as int64 or text, and then RunOptions. */
typedef struct {
    RunOptions o;
    int64_t threads, keep, seed;
    const char *link, *timeout;
    double wait; /* seconds, for other ranks; 0: as long as is usual */
} RunArgs;

static Status parse(RunArgs *a, int argc, char **argv, TextList *positional, bool *help) {
    RunOptions *o = &a->o;
    const Option options[] = {
        {"data", OPT_TEXT, &o->data, "SOURCE", "a data folder, FILE.safetensors or random:SEED"},
        {"split", OPT_TEXT, &o->split, "NAME", "of the data (train; valid with --validate)"},
        {"vocab", OPT_TEXT, &o->vocab, "FILE", "vocabulary (the data folder's vocab.txt)"},
        {"steps", OPT_INT, &o->steps, "N", "train until N steps are done in all"},
        {"resume", OPT_FLAG, &o->resume, NULL, "go on from the newest checkpoint"},
        {"validate", OPT_FLAG, &o->validate, NULL, "loss and perplexity of a split"},
        {"blank-images", OPT_FLAG, &o->blank_images, NULL, "pictures all zero"},
        {"seed", OPT_INT, &a->seed, "N", "of parameters, dropout and data order (1)"},
        {"save-every", OPT_INT, &o->save_every, "N",
         "a checkpoint each N steps (200; 0: at the end)"},
        {"keep", OPT_INT, &a->keep, "N", "checkpoints kept (2)"},
        {"init", OPT_TEXT, &o->init, "FILE", "parameters from a safetensors file"},
        {"out", OPT_TEXT, &o->out, "FILE", "what the model returned last, as safetensors"},
        {"grads", OPT_TEXT, &o->grads, "FILE", "the last step's gradients (compile --grads)"},
        {"save", OPT_TEXT, &o->save, "FILE", "the parameters after the last step"},
        {"log", OPT_TEXT, &o->log, "FILE", "JSON lines, appended"},
        {"json", OPT_FLAG, &o->json, NULL, "a JSON object a step on standard output"},
        {"trace", OPT_TEXT, &o->trace, "FILE", "every step's times, for Perfetto"},
        {"check-finite", OPT_FLAG, &o->check_finite, NULL, "name the node that makes a NaN"},
        {"threads", OPT_INT, &a->threads, "N", "of the CPU device (all cores)"},
        {"device", OPT_TEXT, &o->device, "NAME", "cpu, cuda or null (the plan's target)"},
        {"link", OPT_TEXT, &a->link, "RATE", "on the CPU: of copies from and to the host (4GB/s)"},
        {"disk", OPT_TEXT, &o->disk, "DIR", "for what the plan keeps on disk (where it says)"},
        {"comm-timeout", OPT_TEXT, &a->timeout, "TIME", "how long to wait for other ranks (300s)"},
        {"no-graph", OPT_FLAG, &o->no_graph, NULL, "on a GPU: launch every step anew"},
    };
    const OptionTable table = {"run DIR --data SOURCE --steps N [options]", options, COUNT(options),
                               1, 1};
    return options_parse(&table, argc, argv, positional, help);
}

/* "60s", "500ms", "5min"; seconds without a unit. */
static Status read_time(const char *option, const char *text, double *seconds) {
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"s", 1}, {"", 1}, {"ms", 1e-3}, {"min", 60}, {"h", 3600}};
    size_t n = strspn(text, "0123456789.");
    for (size_t i = 0; i < COUNT(units); i++)
        if (strcmp(text + n, units[i].unit) == 0 && parse_f64(text, n, seconds) && *seconds > 0) {
            *seconds *= units[i].seconds;
            return NULL;
        }
    return status_make(EXIT_USAGE, "--%s takes a time, such as 60s or 5min, not '%s'", option,
                       text);
}

static Status check(RunArgs *a) {
    if (a->link) TRY(option_rate("link", a->link, &a->o.link));
    if (a->timeout) TRY(read_time("comm-timeout", a->timeout, &a->wait));
    if (a->o.steps < 0) return status_make(EXIT_USAGE, "--steps must not be negative");
    if (a->keep < 1) return status_make(EXIT_USAGE, "--keep must be at least 1");
    if (a->threads < 0 || a->threads > 4096)
        return status_make(EXIT_USAGE, "--threads must be from 0 to 4096");
    if (a->o.resume && a->o.init)
        return status_make(EXIT_USAGE, "--resume and --init both say how to start: choose one");
    const RunOptions *o = &a->o;
    if (o->validate && (o->out || o->grads || o->save || o->log || o->trace || o->resume))
        return status_make(EXIT_USAGE, "--validate prints its result: --out, --grads, --save, "
                                       "--log, --trace and --resume are for runs without it");
    if (!o->validate && o->steps == 0) return status_make(EXIT_USAGE, "how long? give --steps");
    return NULL;
}

/* What all ranks must have alike: the plans of all stages, as text. */
static uint64_t plans_hash(const Plan *plan) {
    uint64_t hash = 0;
    for (uint32_t i = 0; i < plan_count(plan); i++) {
        Buf text = {0};
        plan_print(plan_at(plan, i), &text);
        hash = hash_bytes(text.p, text.n, hash);
        buf_free(&text);
    }
    return hash;
}

/* Connects the ranks, if there are several, once it is known that all run these plans. A rank that
 * cannot read them (plan == NULL) tells the others. */
static Status start_ranks(RunArgs *a, const Plan *plan) {
    enum { SAME = 3 };
    static const char *const what[SAME] = {"the model", "the compiler", "the plan"};
    Buf again = {0};
    uint64_t same[SAME] = {0};
    if (plan && plan->ranks > 1) {
        same[0] = plan->model_hash;
        same[1] = plan->compiler_hash;
        same[2] = plans_hash(plan);
    }
    buf_printf(&again, "m6c run %s …", a->o.dir);
    CommConfig config = {.ranks = plan ? MAX(plan->ranks, (int64_t)1) : 0,
                         .again = again.p,
                         .timeout = a->wait,
                         .same = same,
                         .what = what,
                         .nsame = SAME};
    Status s = comm_start(&config, &a->o.comm);
    buf_free(&again);
    return s;
}

/* A training plan has its forward half beside it. */
static Plan *load(Session *s, const RunArgs *a, const char *dir) {
    Plan *plan = mesh_plans_load(s, dir, "plan");
    if (!plan || !a->o.validate || !plan->train) return plan;
    mesh_plans_free(plan);
    return mesh_plans_load(s, dir, "forward");
}

/* The plan of this rank's stage. */
static Status run_stage(RunArgs *a, const Plan *plan) {
    if (!plan) return status_make(EXIT_INPUT, "%s", "");
    int rank = ranks_of(a->o.comm).rank;
    if (rank == 0) plan_warn_stale(plan);
    return run_plan(&a->o, plan_at(plan, (uint32_t)plan_number_of(plan, rank)));
}

static int run(RunArgs *a, const char *dir) {
    Session *s = session_new();
    a->o.dir = dir;
    a->o.threads = (int)a->threads;
    a->o.keep = (int)a->keep;
    a->o.seed = (uint64_t)a->seed;
    Plan *plan = load(s, a, dir);
    Status status = start_ranks(a, plan);
    if (!status) status = run_stage(a, plan);
    int code = comm_finish(a->o.comm, status, status_exit);
    if (plan) mesh_plans_free(plan);
    session_free(s);
    return code;
}

int main_run(int argc, char **argv) {
    RunArgs a = {.seed = 1, .keep = 2};
    run_defaults(&a.o);
    TextList positional = {0};
    bool help;
    Status s = parse(&a, argc, argv, &positional, &help);
    if (!s && !help) s = check(&a);
    int code = s || help ? status_exit(s) : run(&a, positional.p[0]);
    vec_free(&positional);
    return code;
}
