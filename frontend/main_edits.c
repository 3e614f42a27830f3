/* main_edits.c: a model that does not fit is answered with what would make it fit. Each edit is a
 * variant of the command line, compiled in memory, so that its bytes and its time are those of the
 * plan that the edit would give. */
#include "frontend/main_edits.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "frontend/main_memory.h"

static const double EDIT_SECONDS = 2; /* for all variants together */
enum { MAX_HALVINGS = 6, MAX_CHILDREN = 16 };

/* ---- variants ---- */

ModelArgs args_with(Arena *a, const ModelArgs *args, const char *name, int64_t value) {
    ModelArgs new = *args;
    size_t n = strlen(name);
    new.set.p = arena_array(a, const char *, args->set.n + 1);
    new.set.n = 0;
    new.set.cap = args->set.n + 1;
    for (uint32_t i = 0; i < args->set.n; i++)
        if (strncmp(args->set.p[i], name, n) || args->set.p[i][n] != '=')
            new.set.p[new.set.n++] = args->set.p[i];
    new.set.p[new.set.n++] = arena_printf(a, "%s=%" PRId64, name, value);
    return new;
}

int64_t variant_excess(const Variant *v) {
    int64_t most = 0;
    for (int m = 0; m < MEM_COUNT; m++)
        if (v->budget[m]) most = MAX(most, v->report.arena[m] - v->budget[m]);
    return most;
}

const char *first_error(Arena *a, const Buf *said) {
    const char *text = said->p ? said->p : "", *mark = strstr(text, "error: ");
    if (mark) text = mark + strlen("error: ");
    return arena_strdup(a, text, strcspn(text, "\n"));
}

static void take_settings(Variant *v, const Settings *set) {
    v->budget[MEM_DEVICE] = set->memory;
    v->budget[MEM_HOST] = set->host_memory;
    v->budget[MEM_DISK] = set->disk;
    v->decides = !strcmp(set->checkpoint, "auto") && !strcmp(set->offload, "auto");
}

void variant_make(Arena *a, Variant *v) {
    Session *s = session_new();
    Buf said = {0};
    diag_capture(s, &said);
    Graph *g = model_graph(s, &v->args, pipeline_default, &v->report);
    v->made = g != NULL;
    if (g) {
        v->tokens = graph_tokens(g);
        v->fits = v->report.fits;
        take_settings(v, &g->set);
        graph_free(g);
    } else {
        v->error = first_error(a, &said);
    }
    vec_free(&v->report.decision);
    buf_free(&said);
    session_free(s);
}

void variant_add(VariantList *list, const char *what, ModelArgs args, double work) {
    vec_push(list, ((Variant){.what = what, .args = args, .work = work}));
}

const char *size_text(Arena *a, int64_t bytes) {
    bool small = bytes < 64 << 20;
    int64_t unit = small ? 1 << 10 : 1 << 20;
    return arena_printf(a, "%" PRId64 "%s", (bytes + unit - 1) / unit, small ? "KiB" : "MiB");
}

/* Halves of the batch; with `more` put before the edit's name. */
static void add_batches(Arena *a, const ModelArgs *args, const char *more, VariantList *list) {
    int64_t batch;
    if (!config_whole(args->path, &args->set, "batch", &batch)) return;
    for (int i = 1; i <= MAX_HALVINGS && batch >> i >= 1 && batch % (1 << i) == 0; i++) {
        const char *what = arena_printf(a, "%s--set batch=%" PRId64, more, batch >> i);
        variant_add(list, what, args_with(a, args, "batch", batch >> i), 1.0 / (1 << i));
    }
}

/* A place outside the device that holds everything, or twice the one there is. */
static const char *place_text(Arena *a, const Variant *base, Mem mem) {
    int64_t all = base->report.unconstrained + base->report.unconstrained / 4;
    return size_text(a, MAX(MAX(2 * base->budget[mem], all), 1 << 20));
}

void variants_elsewhere(Arena *a, const Variant *base, const char *more, VariantList *list) {
    ModelArgs m = base->args;
    m.checkpoint = m.offload = "auto";
    if (!base->decides)
        variant_add(list, arena_printf(a, "%s--checkpoint auto --offload auto", more), m, 1);
    m.host_memory = place_text(a, base, MEM_HOST);
    variant_add(list, arena_printf(a, "%s--host-memory %s", more, m.host_memory), m, 1);
    m = base->args;
    m.disk = place_text(a, base, MEM_DISK);
    variant_add(list, arena_printf(a, "%s--disk DIR:%s", more, m.disk), m, 1);
}

void variants_smaller(Arena *a, const Variant *base, VariantList *list) {
    ModelArgs m = base->args;
    m.precision = "bf16";
    if (!base->args.precision) variant_add(list, "--precision bf16", m, 1);
    add_batches(a, &base->args, "", list);
}

/* ---- the error ---- */

static void say_misfit(Session *s, const Graph *g, const MemoryReport *r) {
    const int64_t budget[] = {g->set.memory, g->set.host_memory, g->set.disk};
    bool said = false;
    for (int m = 0; m < MEM_COUNT; m++) {
        int64_t least = m == MEM_DEVICE ? r->smallest : r->arena[m];
        if (!budget[m] || least <= budget[m]) continue;
        diag_error(s, (Loc){0},
                   "the model does not fit in %.2f MiB of %s memory: the smallest plan found takes "
                   "%.2f MiB",
                   mib(budget[m]), mem_name((Mem)m), mib(least));
        said = true;
    }
    if (!said) diag_error(s, (Loc){0}, "no plan was found that keeps all budgets");
}

/* The plan that the graph would give; nothing is written. */
static Plan *plan_in_memory(const ModelArgs *a, const Graph *g, const MemoryReport *r) {
    const CodegenOptions o = {.target = a->target, .plan_only = true};
    Plan *p = codegen_plan(g, &o);
    if (p) memory_record(p, g, r);
    return p;
}

static int by_time(const void *a, const void *b) {
    const Variant *x = a, *y = b;
    double s = x->report.predicted_us / x->work, t = y->report.predicted_us / y->work;
    return s < t ? -1 : s > t;
}

static void print_edit(const Variant *v) {
    char host[32] = "", disk[32] = "";
    const int64_t *arena = v->report.arena;
    if (arena[MEM_HOST]) snprintf(host, sizeof host, ", host %.2f MiB", mib(arena[MEM_HOST]));
    if (arena[MEM_DISK]) snprintf(disk, sizeof disk, ", disk %.2f MiB", mib(arena[MEM_DISK]));
    fprintf(stderr, "  %-36s device %.2f MiB%s%s, %.3f ms a step", v->what, mib(arena[MEM_DEVICE]),
            host, disk, v->report.predicted_us * 1e-3);
    if (v->work < 1)
        fprintf(stderr, " (%.3f ms for as many tokens as before)",
                v->report.predicted_us * 1e-3 / v->work);
    fputs("\n", stderr);
}

/* ---- many variants in little time: each in a process of its own, ended when time is up ---- */

typedef struct {
    pid_t pid;
    Variant *v;
} Child;

typedef struct {
    Child child[MAX_CHILDREN];
    struct pollfd poll[MAX_CHILDREN]; /* what the child of the same place writes */
    uint32_t n;
} Children;

static bool start_child(Arena *a, Children *c, Variant *v) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    pid_t pid = fork();
    if (pid == 0) {
        variant_make(a, v);
        _exit(write(ends[1], v, sizeof *v) == (ssize_t)sizeof *v ? 0 : 1);
    }
    close(ends[1]);
    if (pid < 0) return close(ends[0]), false;
    c->child[c->n] = (Child){pid, v};
    c->poll[c->n++] = (struct pollfd){.fd = ends[0], .events = POLLIN};
    return true;
}

/* Its result, if it wrote one; of its own memory nothing is left. */
static void end_child(Children *c, uint32_t i) {
    Variant made, *v = c->child[i].v;
    if (c->poll[i].revents && read(c->poll[i].fd, &made, sizeof made) == (ssize_t)sizeof made) {
        made.what = v->what;
        made.args = v->args;
        made.error = made.made ? NULL : "";
        *v = made;
    } else {
        kill(c->child[i].pid, SIGKILL);
    }
    close(c->poll[i].fd);
    waitpid(c->child[i].pid, NULL, 0);
    c->n--;
    c->child[i] = c->child[c->n];
    c->poll[i] = c->poll[c->n];
}

static void try_edits(Arena *a, VariantList *list) {
    double end = now_seconds() + EDIT_SECONDS;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    Children c = {.n = 0};
    fflush(NULL);
    for (uint32_t next = 0; next < list->n || c.n;) {
        Variant *v = next < list->n ? &list->p[next] : NULL;
        if (v && (long)c.n < MIN(MAX(cores, 1), MAX_CHILDREN)) {
            next++;
            if (!v->made && !start_child(a, &c, v)) break;
            continue;
        }
        double left = end - now_seconds();
        if (left <= 0 || poll(c.poll, c.n, (int)(left * 1e3) + 1) <= 0) break;
        for (uint32_t i = c.n; i-- > 0;)
            if (c.poll[i].revents) end_child(&c, i);
    }
    while (c.n) end_child(&c, c.n - 1);
}

/* Of smaller batches the largest that fits is enough. */
static bool is_worse_batch(const VariantList *fit, const Variant *v) {
    for (uint32_t i = 0; v->work < 1 && i < fit->n; i++)
        if (fit->p[i].work < 1 && fit->p[i].args.host_memory == v->args.host_memory) return true;
    return false;
}

static void print_edits(const VariantList *list) {
    VariantList fit = {0};
    uint32_t tried = 0;
    for (uint32_t i = 0; i < list->n; i++) {
        const Variant *v = &list->p[i];
        tried += v->made || v->error;
        if (v->made && v->fits && !is_worse_batch(&fit, v)) vec_push(&fit, *v);
    }
    if (fit.n) qsort(fit.p, fit.n, sizeof *fit.p, by_time);
    fprintf(stderr, fit.n ? "what would make it fit, the fastest first:\n"
                          : "no edit that was tried makes it fit\n");
    for (uint32_t i = 0; i < fit.n; i++) print_edit(&fit.p[i]);
    fprintf(stderr,
            "%u of %u edits could be tried in %.0f s; m6c fit tells of these and others what "
            "they save and cost\n",
            tried, list->n, EDIT_SECONDS);
    vec_free(&fit);
}

/* The budget that the plan at hand would need; where it has its price nothing is compiled. */
static void add_smallest(Arena *a, const Variant *base, VariantList *list) {
    Variant v = *base;
    v.args.memory = size_text(a, v.report.smallest);
    v.what = arena_printf(a, "--memory %s", v.args.memory);
    v.work = 1;
    v.made = v.fits = v.report.predicted_us > 0;
    vec_push(list, v);
}

void explain_misfit(Session *s, const ModelArgs *args, const Graph *g, const MemoryReport *r) {
    Arena *a = arena_new();
    VariantList list = {0};
    Variant base = {.args = *args, .made = true, .report = *r};
    take_settings(&base, &g->set);
    Plan *p = plan_in_memory(args, g, r);
    say_misfit(s, g, r);
    if (p) fprintf(stderr, "the smallest plan found:\n");
    if (p) memory_print(p, false, stderr);
    if (p) plan_free(p);
    if (g->set.memory && r->smallest > g->set.memory) add_smallest(a, &base, &list);
    variants_elsewhere(a, &base, "", &list);
    variants_smaller(a, &base, &list);
    ModelArgs both = *args;
    both.host_memory = place_text(a, &base, MEM_HOST);
    add_batches(a, &both, arena_printf(a, "--host-memory %s ", both.host_memory), &list);
    try_edits(a, &list);
    print_edits(&list);
    vec_free(&list);
    arena_free(a);
}
