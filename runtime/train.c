/* train.c: the training loop. What the next step depends on is in RunState and the plan's tensors
 * alone, so that a run that was killed goes on from its newest checkpoint with the same losses. */
#include "runtime/train.h"

#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime/checkpoint.h"
#include "runtime/gemm.h"
#include "runtime/loader.h"
#include "runtime/ranks.h"
#include "runtime/report.h"

enum { MAX_INPUTS = 32, MAX_SKIPPED = 32, MAX_FLIGHT = 2 };
#define NO_PORT UINT32_MAX

/* A step that was begun. */
typedef struct {
    int64_t step, targets, examples;
    double begin;
} Flight;

typedef struct {
    const RunOptions *o;
    const Plan *plan;
    Ranks ranks;
    Pool *pool;
    Exec *exec;
    Loader *loader;
    Report *report;
    Trace *trace;
    RunState state; /* after the steps that were begun */
    Flight flight[MAX_FLIGHT];
    int nflight;
    double last_end;   /* of a step */
    char *checkpoints; /* folder */
    LoaderInput input[MAX_INPUTS];
    Slice part[MAX_INPUTS];    /* of each input */
    uint32_t port[MAX_INPUTS]; /* of the plan, of each input; NO_PORT: another stage's */
    uint32_t ninputs;
    int skipped;   /* updates in a row, for gradients that overflowed */
    CommSent sent; /* in the step that was reported last */
    int signals;   /* descriptor that becomes readable when the run shall stop */
} Run;

void run_defaults(RunOptions *o) { *o = (RunOptions){.seed = 1, .save_every = 200, .keep = 2}; }

/* What is to be read on stderr, from one of the ranks. */
PRINTF(2, 3) static void say(const Run *r, const char *fmt, ...) {
    va_list ap;
    if (r->ranks.rank != 0) return;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
}

/* ---- signals: blocked, and read from a descriptor between steps ---- */

/* A library's thread that was there before `main` blocks nothing: it learns to, and passes on. */
static void pass_on(int signal, siginfo_t *info, void *context) {
    (void)info;
    sigaddset(&((ucontext_t *)context)->uc_sigmask, signal);
    kill(getpid(), signal);
}

static int signals_open(void) {
    struct sigaction a = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static bool stop_asked(const Run *r) {
    struct signalfd_siginfo info;
    return read(r->signals, &info, sizeof info) == sizeof info;
}

/* ---- data ---- */

static bool is_collected(const Run *r, const char *name) {
    for (uint32_t i = 0; i < r->ninputs; i++)
        if (strcmp(r->input[i].name, name) == 0) return true;
    return false;
}

/* An input of `plan`; of another stage's nothing is wanted, but that batches are the same. */
static Status input_collect(Run *r, const Plan *plan, uint32_t i) {
    const PlanBuffer *b = &plan->buffer.p[plan->input.p[i].buffer];
    uint32_t n = r->ninputs;
    bool own = plan == r->plan;
    if (n == COUNT(r->input))
        return status_make(EXIT_INPUT, "the plan has more than %zu inputs", COUNT(r->input));
    r->input[n] = (LoaderInput){.name = b->name,
                                .dtype = b->dtype,
                                .rank = b->rank,
                                .bound = plan->input.p[i].bound,
                                .part = &r->part[n]};
    for (int d = 0; d < b->rank; d++) r->input[n].dim[d] = plan_whole_dim(plan, b, d);
    r->part[n] = slice_of(plan, b, r->ranks.rank);
    if (!own && b->rank > 0) r->part[n].dim[0] = 0;
    r->port[n] = own ? i : NO_PORT;
    r->ninputs++;
    return NULL;
}

/* The inputs that the loader feeds: all but the runtime's own; of a pipeline's stages first this
 * one's. */
static Status inputs_collect(Run *r) {
    for (uint32_t k = 0; k <= plan_count(r->plan); k++) {
        const Plan *plan = k ? plan_at(r->plan, k - 1) : r->plan;
        for (uint32_t i = 0; i < plan->input.n; i++) {
            const char *name = plan->buffer.p[plan->input.p[i].buffer].name;
            if (name[0] != '@' && !is_collected(r, name)) TRY(input_collect(r, plan, i));
        }
    }
    return NULL;
}

/* Before the pool is opened, or the threads that read ahead would share the caller's one core. */
static Status data_open(Run *r, bool in_order, const char *split) {
    TRY(inputs_collect(r));
    if (r->ninputs == 0) return NULL;
    if (!r->o->data) return status_make(EXIT_USAGE, "which data? give --data");
    LoaderSpec spec = {.source = r->o->data,
                       .split = split,
                       .vocab = r->o->vocab,
                       .input = r->input,
                       .ninputs = r->ninputs,
                       .seed = r->o->seed,
                       .in_order = in_order,
                       .blank_images = r->o->blank_images};
    return loader_open(&spec, &r->loader);
}

/* *batch is NULL when the data are at their end. `again`: from the start. */
static Status next_batch(Run *r, bool again, const LoaderBatch **batch) {
    static const LoaderBatch none = {0}; /* of a model without inputs */
    *batch = &none;
    if (!r->loader) return NULL;
    TRY(loader_next(r->loader, batch));
    if (*batch || !again) return NULL;
    TRY(loader_seek(r->loader, (LoaderPosition){.seed = loader_position(r->loader).seed}));
    return loader_next(r->loader, batch);
}

/* ---- opening and closing ---- */

/* What lies on disk: where the run says, or else the plan, or else beside the plan. */
static const char *disk_folder(const Run *r) {
    if (r->o->disk) return r->o->disk;
    return *r->plan->disk ? r->plan->disk : r->o->dir;
}

/* Ranks on one machine that may use the same cores each take some of them. */
static Status share_cores(const Run *r) {
    cpu_set_t cores;
    int place, n = r->o->comm ? comm_neighbours(r->o->comm, &place) : 1;
    if (r->ranks.n == 1) return NULL;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    uint64_t mine = hash_bytes(&cores, sizeof cores, 0) >> 1;
    int64_t most[2] = {(int64_t)mine, -(int64_t)mine};
    TRY(ranks_max(&r->ranks, most, 2));
    if (most[0] == -most[1] && n > 1) pool_take_share(place, n);
    return NULL;
}

static Status open_device(Run *r) {
    const char *name = r->o->device ? r->o->device : r->plan->target;
    const DeviceOps *device = device_find(name);
    if (!device) return status_make(EXIT_INPUT, "this m6c has no device '%s'", name);
    r->pool = pool_open(r->o->threads);
    if (!r->pool) return status_make(EXIT_SYSTEM, "cannot start the threads");
    ExecOptions options = {.device = device,
                           .pool = r->pool,
                           .dir = r->o->dir,
                           .no_graph = r->o->no_graph,
                           .link = r->o->link,
                           .disk = disk_folder(r),
                           .rank = r->ranks.rank,
                           .comm = r->o->comm};
    return exec_open(r->plan, &options, &r->exec);
}

static Status open_exec(Run *r) {
    TRY(share_cores(r));
    return ranks_agree(&r->ranks, open_device(r));
}

static void run_close(Run *r) {
    report_close(r->report);
    loader_close(r->loader);
    exec_close(r->exec);
    pool_close(r->pool);
    if (r->signals >= 0) close(r->signals);
    free(r->checkpoints);
}

static Status start_fresh(Run *r, const char *earlier) {
    if (earlier && r->plan->train)
        say(r, "%s is of an earlier run and will be replaced (--resume goes on with it)\n",
            earlier);
    TRY(exec_init_params(r->exec, r->o->seed));
    if (r->o->init) return tensors_init(r->o->init, r->plan, r->exec);
    if (!r->plan->train && r->plan->tensor.n > 0)
        say(r, "the parameters are the model's start values: --init FILE gives others\n");
    return NULL;
}

/* Tensors, step and data position: from the newest checkpoint or from the start. */
static Status start(Run *r) {
    r->state = (RunState){.seed = r->o->seed, .position = {.seed = r->o->seed}};
    char *newest = NULL;
    TRY(checkpoint_newest(r->checkpoints, &r->ranks, &newest));
    bool resume = newest && r->o->resume;
    if (r->o->resume && !newest) say(r, "no checkpoint in %s: starting anew\n", r->checkpoints);
    Status s = resume ? checkpoint_load(newest, r->plan, r->exec, &r->ranks, false, &r->state)
                      : ranks_agree(&r->ranks, start_fresh(r, newest));
    if (resume && !s) say(r, "resuming from %s\n", newest);
    free(newest);
    if (!resume) return s;
    if (s) return s;
    exec_set_seed(r->exec, r->state.seed);
    s = r->loader ? loader_seek(r->loader, r->state.position) : NULL;
    return ranks_agree(&r->ranks, s);
}

static double machine_peak(Run *r) {
    Gemm *g = NULL;
    if (strcmp(r->plan->target, "cpu") != 0) return 0;
    Status s = gemm_open(r->pool, &g);
    double peak = s ? 0 : gemm_peak(g);
    free(s);
    gemm_close(g);
    return peak;
}

/* ---- one step ---- */

static double scalar(Run *r, const char *name, Status *s) {
    double x = NAN;
    bool found = false;
    if (!*s) *s = exec_read_scalar(r->exec, name, &x, &found);
    return found ? x : NAN;
}

static const CommSent *add_sent(Run *r) {
    r->sent = (CommSent){0};
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        CommSent sent = exec_sent(r->exec, i);
        r->sent.messages += sent.messages;
        r->sent.bytes += sent.bytes;
    }
    return r->ranks.n > 1 ? &r->sent : NULL;
}

static Status read_report(Run *r, const Flight *f, double seconds, StepReport *out) {
    Status s = NULL;
    *out = (StepReport){
        .step = f->step, .seconds = seconds, .tokens = r->plan->tokens, .sent = add_sent(r)};
    out->loss = scalar(r, "loss", &s);
    out->lr = scalar(r, "lr", &s);
    out->grad_norm = scalar(r, "grad_norm", &s);
    out->loss_scale = scalar(r, "loss_scale", &s);
    out->overflow = scalar(r, "overflow", &s) == 1;
    return s;
}

/* The loss or a gradient is no number: the step is run again from the same parameters (the executor
 * stopped it before they changed), this time looking at every tensor. */
static Status explain_nan(Run *r, int64_t step) {
    exec_check_finite(r->exec, true);
    TRY(exec_step(r->exec, step));
    return status_make(EXIT_INPUT, "no finite loss or gradients, though every tensor is finite");
}

/* Frees s: "step 7: …". */
static Status at_step(int64_t step, Status s) {
    if (!s) return NULL;
    Status told = status_make(s->code, "step %" PRId64 ": %s", step, s->text);
    free(s);
    return told;
}

/* Begins the next step; *begun is false when the data are at their end, or with several ranks when
 * one of them was asked to stop, which they tell each other here. */
static Status begin_step(Run *r, bool again, bool *begun, bool *stop) {
    const LoaderBatch *batch;
    Status got = next_batch(r, again, &batch);
    *stop = r->ranks.n > 1 && stop_asked(r);
    TRY(ranks_agree_any(&r->ranks, got, stop));
    if (!(*begun = batch && !*stop)) return NULL;
    const void **data = xcalloc((size_t)r->plan->input.n + 1, sizeof *data);
    for (uint32_t i = 0; i < r->ninputs; i++)
        if (r->port[i] != NO_PORT) data[r->port[i]] = batch->data[i];
    Flight *f = &r->flight[r->nflight++];
    *f = (Flight){++r->state.step, batch->targets, batch->examples, now_seconds()};
    Status s = exec_submit(r->exec, f->step, data);
    free(data);
    if (r->loader) r->state.position = loader_position(r->loader);
    return at_step(f->step, s);
}

/* When the loss arrives and later steps have begun, the parameters are no longer those it had. */
static Status explain_late(Run *r) {
    const Ranks alone = {.n = 1};
    char *newest = NULL;
    TRY(checkpoint_newest(r->checkpoints, &alone, &newest));
    Status s = status_make(
        EXIT_INPUT,
        "the loss is no finite number, and the parameters were already updated with it; %s%s%s: "
        "--check-finite %sfinds the tensor",
        newest ? "the checkpoint " : "no checkpoint was written yet", newest ? newest : "",
        newest ? " is intact" : "", newest ? "with --resume " : "from the start ");
    free(newest);
    return s;
}

/* Waits for the oldest step that was begun. */
static Status end_step(Run *r, Flight *f, double *seconds) {
    bool stopped;
    *f = r->flight[0];
    memmove(r->flight, r->flight + 1, (size_t)--r->nflight * sizeof *r->flight);
    Status s = exec_collect(r->exec, &stopped);
    double now = now_seconds();
    *seconds = now - MAX(f->begin, r->last_end);
    r->last_end = now;
    bool late = exec_ahead(r->exec) > 1 && r->plan->train;
    if (!s && stopped) s = late ? explain_late(r) : explain_nan(r, f->step);
    return at_step(f->step, s);
}

/* How many steps may be under way while the oldest is waited for. None of a forward plan: then its
 * inputs are still there when its result must be explained. */
static int steps_ahead(const Run *r) { return r->plan->train ? exec_ahead(r->exec) - 1 : 0; }

/* A loss scale can cure overflows of the backward phase. When none of many did, it is not that. */
static Status check_skipped(Run *r, const StepReport *report) {
    Flight f;
    double seconds;
    r->skipped = report->overflow ? r->skipped + 1 : 0;
    if (r->skipped < MAX_SKIPPED) return NULL;
    report_line(r->report, "%d updates in a row were skipped", r->skipped);
    while (r->nflight > 0) TRY(end_step(r, &f, &seconds));
    return at_step(report->step, explain_nan(r, r->state.step));
}

static Status end_and_report(Run *r) {
    Flight f;
    double seconds;
    StepReport report;
    TRY(end_step(r, &f, &seconds));
    TRY(read_report(r, &f, seconds, &report));
    TRY(report_step(r->report, &report));
    return check_skipped(r, &report);
}

/* ---- the loop ---- */

static Status save(Run *r) {
    return checkpoint_save(r->checkpoints, r->plan, r->exec, &r->ranks, &r->state, r->o->keep);
}

static bool checkpoint_due(const Run *r) {
    int64_t every = r->o->save_every;
    return r->plan->train && every > 0 && r->state.step % every == 0;
}

/* A checkpoint waits for all steps that were begun: it is of the last of them. */
static Status train_loop(Run *r) {
    bool stop = false, begun;
    int64_t saved = r->state.step;
    if (saved >= r->o->steps)
        report_line(r->report, "nothing to do: %" PRId64 " of %" PRId64 " steps are done", saved,
                    r->o->steps);
    while (r->state.step < r->o->steps && !stop) {
        TRY(begin_step(r, !r->plan->train, &begun, &stop));
        if (stop) break;
        if (!begun)
            return ranks_agree(&r->ranks, status_make(EXIT_INPUT, "the data have no examples"));
        bool due = checkpoint_due(r);
        int under_way = due || r->state.step == r->o->steps ? 0 : steps_ahead(r);
        while (r->nflight > under_way) TRY(end_and_report(r));
        stop = r->ranks.n == 1 && stop_asked(r);
        if (due && !stop && r->state.step < r->o->steps) {
            TRY(save(r));
            saved = r->state.step;
        }
    }
    while (r->nflight > 0) TRY(end_and_report(r));
    if (stop) report_line(r->report, "stopped after step %" PRId64, r->state.step);
    return saved < r->state.step && r->plan->train ? save(r) : NULL;
}

/* A line of /proc/self/status in bytes. */
static int64_t process_bytes(const char *name) {
    int64_t kib = 0;
    char line[256];
    size_t n = strlen(name);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0) sscanf(line + n, ": %" SCNd64, &kib);
    if (f) fclose(f);
    return kib * 1024;
}

/* Where the plan has more than the device's memory. */
static void report_tiers(const Run *r) {
    double bytes[MEM_COUNT];
    for (int m = 0; m < MEM_COUNT; m++) bytes[m] = (double)exec_arena_bytes(r->exec, (Mem)m);
    if (bytes[MEM_HOST] + bytes[MEM_DISK] > 0)
        report_line(r->report, "tiers: device %.1f MiB, host %.1f MiB, disk %.1f MiB in %s",
                    mib(bytes[MEM_DEVICE]), mib(bytes[MEM_HOST]), mib(bytes[MEM_DISK]),
                    disk_folder(r));
}

typedef enum { ARENAS, DATA, CODE, OTHER, PEAK, MEMORY_COUNT } MemoryLine;

/* Those of the rank that took most. */
static Status largest_memory(const Ranks *r, int64_t *x, int *rank) {
    int64_t *all = xcalloc((size_t)r->n * MEMORY_COUNT, sizeof *all);
    Status s = ranks_gather(r, x, MEMORY_COUNT, all);
    *rank = 0;
    for (int i = 1; i < r->n; i++)
        if (all[i * MEMORY_COUNT + PEAK] > all[*rank * MEMORY_COUNT + PEAK]) *rank = i;
    memcpy(x, all + *rank * MEMORY_COUNT, MEMORY_COUNT * sizeof *x);
    free(all);
    return s;
}

static Status report_memory(Run *r) {
    int64_t beside = exec_beside_bytes(r->exec), x[MEMORY_COUNT];
    char which[40] = "";
    int rank;
    x[ARENAS] = exec_arena_bytes(r->exec, MEM_DEVICE) + exec_arena_bytes(r->exec, MEM_HOST);
    x[DATA] = r->loader ? loader_bytes(r->loader) : 0;
    x[PEAK] = process_bytes("VmHWM");
    x[CODE] = process_bytes("RssFile");
    x[OTHER] = MAX(x[PEAK] - exec_host_bytes(r->exec) - x[DATA] - x[CODE], (int64_t)0);
    TRY(largest_memory(&r->ranks, x, &rank));
    if (r->ranks.n > 1) snprintf(which, sizeof which, " (rank %d, the largest)", rank);
    report_tiers(r);
    if (beside > 0)
        report_line(r->report, "device: %.1f MiB beside the arenas, for %s", mib(beside),
                    exec_ahead(r->exec) > 1 ? "inputs on their way and products"
                                            : "what is on its way to and from the disk");
    report_line(r->report,
                "memory: arenas %.1f MiB (as planned), data %.1f MiB, code %.1f MiB, other %.1f "
                "MiB, peak resident %.1f MiB%s",
                mib(x[ARENAS]), mib(x[DATA]), mib(x[CODE]), mib(x[OTHER]), mib(x[PEAK]), which);
    return NULL;
}

/* Hours later is too late to find out that there is no such folder. */
static Status check_place(const char *path) {
    struct stat st;
    if (!path) return NULL;
    const char *slash = strrchr(path, '/');
    Buf folder = {0};
    buf_put(&folder, slash ? path : ".", slash ? MAX((size_t)(slash - path), (size_t)1) : 1);
    bool is_folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    Status s = NULL;
    if (is_folder) s = status_make(EXIT_SYSTEM, "cannot write %s: it is a folder", path);
    if (!s && access(folder.p, W_OK | X_OK) != 0) s = status_errno("cannot write %s", path);
    buf_free(&folder);
    return s;
}

static Status check_results(const Run *r) {
    const RunOptions *o = r->o;
    if (o->grads && r->plan->grad.n == 0)
        return status_make(EXIT_USAGE, "the plan keeps no gradients: compile it with --grads");
    TRY(check_place(o->out));
    TRY(check_place(o->grads));
    return check_place(o->save);
}

/* What was asked for after the last step. */
static Status write_results(Run *r) {
    const RunOptions *o = r->o;
    if (o->out) TRY(tensors_write(o->out, r->plan, r->exec, &r->ranks, SET_OUTPUTS));
    if (o->grads) TRY(tensors_write(o->grads, r->plan, r->exec, &r->ranks, SET_GRADS));
    if (o->save) TRY(tensors_write(o->save, r->plan, r->exec, &r->ranks, SET_PARAMS));
    return NULL;
}

/* Of several ranks, each to a file beside it. */
static Status open_trace(Run *r) {
    const char *path = r->o->trace;
    char *part = r->ranks.n > 1 ? trace_part_path(path, r->ranks.rank) : NULL;
    Status s = trace_open(part ? part : path, r->plan, r->ranks.rank, &r->trace);
    free(part);
    TRY(ranks_agree(&r->ranks, s));
    if (r->ranks.n > 1) {
        trace_sent(r->trace, r->exec);
        trace_zero(r->trace, now_seconds()); /* they are here together */
    }
    exec_set_timer(r->exec, trace_step, r->trace);
    return NULL;
}

static Status end_trace(Run *r) {
    if (!r->trace) return NULL;
    Status s = ranks_agree(&r->ranks, trace_close(r->trace));
    r->trace = NULL;
    if (!s && r->ranks.n > 1)
        s = ranks_agree(&r->ranks, r->ranks.rank == 0 ? trace_join(r->o->trace, r->ranks.n) : NULL);
    return s;
}

/* Of all ranks; the plan has this one's. */
static Status add_flops(const Run *r, double *sum) {
    int64_t mine = (int64_t)r->plan->flops, *all = xcalloc((size_t)r->ranks.n, sizeof *all);
    Status s = ranks_gather(&r->ranks, &mine, 1, all);
    *sum = 0;
    for (int i = 0; i < r->ranks.n; i++) *sum += (double)all[i];
    free(all);
    return s;
}

static Status open_reports(Run *r) {
    const RunOptions *o = r->o;
    bool first = r->ranks.rank == 0;
    double flops;
    TRY(add_flops(r, &flops));
    ReportOptions report = {.first = r->state.step,
                            .last = o->steps,
                            .flops = flops,
                            .peak = first ? r->ranks.n * machine_peak(r) : 0,
                            .log = first ? o->log : NULL,
                            .json = first && o->json,
                            .silent = !first};
    TRY(ranks_agree(&r->ranks, report_open(&report, &r->report)));
    if (o->trace) TRY(open_trace(r));
    exec_check_finite(r->exec, o->check_finite);
    return NULL;
}

static Status run_steps(Run *r) {
    TRY(ranks_agree(&r->ranks, check_results(r)));
    TRY(ranks_agree(&r->ranks, data_open(r, !r->plan->train, r->o->split)));
    TRY(open_exec(r));
    TRY(start(r));
    TRY(open_reports(r));
    TRY(train_loop(r));
    TRY(write_results(r));
    report_sent(r->report, r->plan, r->exec);
    return report_memory(r);
}

/* ---- validation ---- */

typedef struct {
    double nll;
    int64_t targets, examples;
} Score;

/* Parameters of the newest checkpoint, or of --init. */
static Status load_trained(Run *r) {
    if (r->o->init) return ranks_agree(&r->ranks, tensors_init(r->o->init, r->plan, r->exec));
    char *newest = NULL;
    TRY(checkpoint_newest(r->checkpoints, &r->ranks, &newest));
    if (!newest)
        return ranks_agree(
            &r->ranks, status_make(EXIT_INPUT, "no checkpoint in %s: train first, or give --init",
                                   r->checkpoints));
    Status s = checkpoint_load(newest, r->plan, r->exec, &r->ranks, true, NULL);
    free(newest);
    return s;
}

static Status score_batch(Run *r, Score *score) {
    Flight f;
    double seconds;
    Status s = NULL;
    TRY(end_step(r, &f, &seconds));
    double loss = scalar(r, "loss", &s);
    if (s) return s;
    if (isnan(loss))
        return ranks_agree(
            &r->ranks,
            status_make(EXIT_INPUT,
                        "the model's first result is no scalar: it cannot be validated"));
    score->nll += loss * (double)f.targets;
    score->targets += f.targets;
    score->examples += f.examples;
    return NULL;
}

static Status score_batches(Run *r, Score *score) {
    bool begun = true, stop; /* what begins is soon done */
    for (int64_t i = 0; begun && (r->o->steps <= 0 || i < r->o->steps); i++) {
        TRY(begin_step(r, false, &begun, &stop));
        while (r->nflight > (begun ? steps_ahead(r) : 0)) TRY(score_batch(r, score));
    }
    while (r->nflight > 0) TRY(score_batch(r, score));
    return NULL;
}

static void print_score(const Run *r, const char *split, const Score *s) {
    if (r->ranks.rank != 0) return;
    double loss = s->nll / (double)MAX(s->targets, 1);
    if (r->o->json)
        printf("{\"split\":\"%s\",\"loss\":%.9g,\"perplexity\":%.9g,\"targets\":%" PRId64
               ",\"examples\":%" PRId64 "}\n",
               split, loss, exp(loss), s->targets, s->examples);
    else
        printf("%s: loss %.4f, perplexity %.2f over %" PRId64 " targets of %" PRId64 " examples\n",
               split, loss, exp(loss), s->targets, s->examples);
}

static Status run_validate(Run *r) {
    const char *split = r->o->split ? r->o->split : "valid";
    Score score = {0};
    TRY(ranks_agree(&r->ranks, data_open(r, true, split)));
    TRY(open_exec(r));
    /* States of the model, if it has any. */
    TRY(ranks_agree(&r->ranks, exec_init_params(r->exec, r->o->seed)));
    TRY(load_trained(r));
    TRY(score_batches(r, &score));
    print_score(r, split, &score);
    return NULL;
}

Status run_plan(const RunOptions *o, const Plan *plan) {
    if (plan->ranks > 1 && !o->comm)
        return status_make(EXIT_USAGE, "the plan is for %" PRId64 " ranks", plan->ranks);
    Run r = {.o = o, .plan = plan, .ranks = ranks_of(o->comm), .signals = signals_open()};
    Buf folder = {0};
    buf_printf(&folder, "%s/checkpoints", o->dir);
    r.checkpoints = folder.p;
    Status s = o->validate ? run_validate(&r) : run_steps(&r);
    if (!s) s = end_trace(&r);
    Status t = trace_close(r.trace);
    run_close(&r);
    if (!s) return t;
    free(t);
    return s;
}
