/* main_fit.c: m6c fit: the largest value of a config that fits the budgets, and the fastest per
 * token; without --vary what other settings would save and cost. Every row is a plan made in
 * memory.
 *
 * A larger value is taken to need more memory: values double until one does not fit, then the gap
 * is halved. Where a value does not compile (a width that the heads do not divide), its nearest
 * neighbours are tried. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/main_edits.h"

enum { NEIGHBOURS = 32, MOST_PLANS = 64 };

typedef struct {
    ModelArgs model;
    TextList vary;
    int64_t from, to; /* 0: not given */
    bool json;
} FitArgs;

typedef struct {
    int64_t value;
    Variant v;
} Try;

typedef struct {
    const FitArgs *args;
    Arena *a;
    const char *name; /* the config */
    ModelArgs model;  /* with budgets */
    VEC(Try) tries;   /* in the order they were made */
    uint32_t plans;   /* that compiled */
} Fit;

/* ---- the budget: as given, or the machine's memory ---- */

/* What the plans are for: the budgets of the model as it is, and whose prices they have. */
typedef struct {
    Variant base;
    const char *machine;
    bool stated;    /* a budget of the device was given */
    int64_t device; /* bytes of the machine's memory; 0: not known */
} Setting;

/* EXIT_DONE, or what to exit with after diagnostics. */
static int read_machine(Arena *a, const ModelArgs *args, Setting *t) {
    Session *s = session_new();
    Graph *g = model_elaborate(s, args);
    Machine *m = g ? machine_load(s, g->set.cluster, args->target) : NULL;
    if (m) {
        const char *name = machine_name(m);
        t->machine = arena_strdup(a, name, strlen(name));
        t->device = machine_memory(m, MEM_DEVICE);
        t->stated = g->set.memory > 0;
    }
    if (g) graph_free(g);
    int code = m ? EXIT_DONE : MAX(diag_exit(s), EXIT_INPUT);
    session_free(s);
    return code;
}

static Status check_names(Arena *a, const FitArgs *f) {
    int64_t value;
    for (uint32_t i = 0; i < f->vary.n; i++)
        if (!f->from && !config_whole(f->model.path, &f->model.set, f->vary.p[i], &value))
            return status_make(EXIT_INPUT,
                               "'%s' is no config that is a whole number (there are: %s)",
                               f->vary.p[i], config_names(a, f->model.path));
    return NULL;
}

/* The model as it is; without a budget of the device the machine's memory is one. */
static Status make_base(Arena *a, FitArgs *f, Setting *t) {
    if (!t->stated && t->device) f->model.memory = arena_printf(a, "%" PRId64 "B", t->device);
    if (!t->stated && !t->device && f->vary.n)
        return status_make(EXIT_INPUT, "no budget: give --memory SIZE, or a machine that says its "
                                       "memory (m6c calibrate, --cluster FILE)");
    t->base = (Variant){.what = "as it is", .args = f->model, .work = 1};
    variant_make(a, &t->base);
    if (t->base.made || f->vary.n) return NULL;
    return status_make(EXIT_INPUT, "%s", t->base.error);
}

static void print_setting(const Setting *t) {
    const char *before = "budgets: ";
    for (int m = 0; m < MEM_COUNT; m++) {
        if (!t->base.budget[m]) continue;
        printf("%s%s %.2f MiB%s", before, mem_name((Mem)m), mib(t->base.budget[m]),
               m == MEM_DEVICE && !t->stated ? " (all the machine has)" : "");
        before = ", ";
    }
    if (*before == 'b') printf("%snone", before);
    printf("; times predicted for %s\n", t->machine);
}

/* ---- values ---- */

static Try *find_try(Fit *f, int64_t value) {
    for (uint32_t i = 0; i < f->tries.n; i++)
        if (f->tries.p[i].value == value) return &f->tries.p[i];
    return NULL;
}

static Try *try_value(Fit *f, int64_t value) {
    Try *known = find_try(f, value);
    if (known) return known;
    Try t = {.value = value};
    t.v.args = args_with(f->a, &f->model, f->name, value);
    t.v.work = 1;
    variant_make(f->a, &t.v);
    f->plans += t.v.made;
    vec_push(&f->tries, t);
    return &f->tries.p[f->tries.n - 1];
}

/* The value or the nearest one between lo and hi, both excluded, that compiles; NULL: none does. */
static Try *try_near(Fit *f, int64_t value, int64_t lo, int64_t hi) {
    if (f->plans >= MOST_PLANS) return NULL;
    for (int64_t i = 0; i <= NEIGHBOURS; i++) {
        int64_t near = value + (i % 2 ? -(i + 1) / 2 : i / 2);
        if (near <= lo || near >= hi) continue;
        Try *t = try_value(f, near);
        if (t->v.made) return t;
    }
    return NULL;
}

/* Widens from the first value until one fits (lo) and a larger one does not (hi); 0: none. */
static void bracket(Fit *f, int64_t first, int64_t *lo, int64_t *hi) {
    const FitArgs *a = f->args;
    int64_t least = MAX(a->from, 1), most = a->to ? a->to : INT32_MAX;
    *lo = *hi = 0;
    for (int64_t v = MIN(first, most); !*hi;) {
        Try *t = try_near(f, v, MAX(*lo, least - 1), most + 1);
        if (!t) break;
        if (t->v.fits)
            *lo = t->value;
        else
            *hi = t->value;
        if (t->value >= most) break;
        v = MIN(MAX(2 * t->value, v + 1), most);
    }
    for (int64_t v = *hi / 2; *hi && !*lo && v >= least; v /= 2) {
        Try *t = try_near(f, v, least - 1, *hi);
        if (!t) break;
        if (t->v.fits)
            *lo = t->value;
        else
            *hi = t->value;
    }
}

/* The largest value that fits, or 0. */
static int64_t search(Fit *f, int64_t first) {
    int64_t lo, hi;
    bracket(f, first, &lo, &hi);
    while (lo && hi - lo > 1) {
        Try *t = try_near(f, lo + (hi - lo) / 2, lo, hi);
        if (!t) break;
        if (t->v.fits)
            lo = t->value;
        else
            hi = t->value;
    }
    return lo;
}

static double us_per_token(const Variant *v) {
    return v->report.predicted_us / (double)MAX(v->tokens, 1);
}

static const Try *fastest(const Fit *f) {
    const Try *best = NULL;
    for (uint32_t i = 0; i < f->tries.n; i++) {
        const Try *t = &f->tries.p[i];
        if (t->v.made && t->v.fits && t->v.report.predicted_us > 0 &&
            (!best || us_per_token(&t->v) < us_per_token(&best->v)))
            best = t;
    }
    return best;
}

static int by_value(const void *a, const void *b) {
    int64_t x = ((const Try *)a)->value, y = ((const Try *)b)->value;
    return x < y ? -1 : x > y;
}

/* ---- tables ---- */

static void print_head(const char *first) {
    printf("%-44s %12s %12s %12s %12s %12s\n", first, "device MiB", "host MiB", "disk MiB",
           "ms a step", "tokens/s");
}

static void print_numbers(const char *name, const Variant *v) {
    if (!v->made) {
        printf("%-44s does not compile: %s\n", name, v->error);
        return;
    }
    const int64_t *arena = v->report.arena;
    double us = v->report.predicted_us;
    printf("%-44s %12.2f %12.2f %12.2f %12.3f %12.0f  ", name, mib(arena[MEM_DEVICE]),
           mib(arena[MEM_HOST]), mib(arena[MEM_DISK]), us * 1e-3,
           us > 0 ? (double)v->tokens / us * 1e6 : 0);
    if (v->fits)
        printf("fits");
    else
        printf("%.2f MiB too much", mib(variant_excess(v)));
}

static json_t *variant_json(const Variant *v) {
    const int64_t *arena = v->report.arena;
    json_t *o =
        json_pack("{s:b, s:b, s:I, s:I, s:I, s:f, s:I}", "compiles", v->made, "fits",
                  v->made && v->fits, "device_bytes", (json_int_t)arena[MEM_DEVICE], "host_bytes",
                  (json_int_t)arena[MEM_HOST], "disk_bytes", (json_int_t)arena[MEM_DISK],
                  "predicted_ms", v->report.predicted_us * 1e-3, "tokens", (json_int_t)v->tokens);
    if (v->error) json_object_set_new(o, "error", json_string(v->error));
    return o;
}

static const Try *first_bad(const Fit *f) {
    for (uint32_t i = 0; i < f->tries.n; i++)
        if (!f->tries.p[i].v.made) return &f->tries.p[i];
    return NULL;
}

static void print_fit(const Fit *f, int64_t largest, const Try *best) {
    print_head(f->name);
    for (uint32_t i = 0; i < f->tries.n; i++) {
        const Try *t = &f->tries.p[i];
        if (!t->v.made) continue;
        print_numbers(arena_printf(f->a, "%" PRId64, t->value), &t->v);
        printf("%s%s\n", t->value == largest ? ", the largest" : "",
               t == best ? ", the fastest per token" : "");
    }
    const Try *bad = first_bad(f);
    if (bad)
        printf("%u values do not compile, such as %" PRId64 ": %s\n", f->tries.n - f->plans,
               bad->value, bad->v.error);
    if (!largest) printf("no value of %s fits\n", f->name);
}

static json_t *fit_json(const Fit *f, int64_t largest, const Try *best) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < f->tries.n; i++) {
        json_t *o = variant_json(&f->tries.p[i].v);
        json_object_set_new(o, "value", json_integer(f->tries.p[i].value));
        json_array_append_new(rows, o);
    }
    return json_pack("{s:s, s:I, s:I, s:o}", "config", f->name, "largest", (json_int_t)largest,
                     "fastest", (json_int_t)(best ? best->value : 0), "tries", rows);
}

/* ---- the commands ---- */

static Status fit_config(const FitArgs *args, Arena *a, const char *name, json_t *out) {
    Fit f = {.args = args, .a = a, .name = name, .model = args->model};
    int64_t first = args->from;
    if (!first) config_whole(args->model.path, &args->model.set, name, &first);
    int64_t largest = search(&f, MAX(first, 1));
    if (f.tries.n) qsort(f.tries.p, f.tries.n, sizeof *f.tries.p, by_value);
    const Try *best = fastest(&f);
    const Try *bad = first_bad(&f);
    Status s = NULL;
    if (!f.plans)
        s = status_make(EXIT_INPUT, "%s=%" PRId64 " does not compile: %s", name, first,
                        bad ? bad->v.error : "no value lies between --from and --to");
    if (f.plans && args->json) json_array_append_new(out, fit_json(&f, largest, best));
    if (f.plans && !args->json) print_fit(&f, largest, best);
    vec_free(&f.tries);
    return s;
}

static void add_hints(Arena *a, const Variant *base, VariantList *list) {
    static const char *const checkpoint[] = {"none", "sqrt", "all"};
    static const char *const offload[] = {"none", "optimizer", "all"};
    int64_t batch;
    Variant half = *base;
    half.args.memory = size_text(a, base->report.arena[MEM_DEVICE] / 2);
    const char *less = arena_printf(a, "--memory %s ", half.args.memory);
    ModelArgs m = half.args;
    variant_add(list, arena_printf(a, "%s(half)", less), m, 1);
    variants_elsewhere(a, &half, less, list);
    for (size_t i = 0; i < COUNT(checkpoint); i++) {
        m = base->args;
        m.checkpoint = checkpoint[i];
        variant_add(list, arena_printf(a, "--checkpoint %s", checkpoint[i]), m, 1);
    }
    for (size_t i = 0; i < COUNT(offload); i++) {
        m = base->args;
        m.offload = offload[i];
        variant_add(list, arena_printf(a, "--offload %s", offload[i]), m, 1);
    }
    if (!config_whole(base->args.path, &base->args.set, "batch", &batch)) return;
    variant_add(list, arena_printf(a, "--set batch=%" PRId64, 2 * batch),
                args_with(a, &base->args, "batch", 2 * batch), 2);
}

/* What a variant saves of the device's memory, and what that costs. */
static void print_difference(const Variant *base, const Variant *v) {
    int64_t saved = base->report.arena[MEM_DEVICE] - v->report.arena[MEM_DEVICE];
    if (v->made && v != base && base->report.predicted_us > 0)
        printf(": %s %.2f MiB, %+.1f %% time per token", saved < 0 ? "takes" : "saves",
               mib(llabs(saved)), 100 * (us_per_token(v) / us_per_token(base) - 1));
    if (v->made) printf("\n");
}

static void what_if(const FitArgs *f, Arena *a, const Variant *base, json_t *out) {
    VariantList list = {0};
    vec_push(&list, *base);
    add_hints(a, base, &list);
    variants_smaller(a, base, &list);
    if (!f->json) print_head("settings");
    for (uint32_t i = 0; i < list.n; i++) {
        Variant *v = &list.p[i];
        if (v->work < 0.5) continue; /* half the batch says enough */
        if (i) variant_make(a, v);
        if (f->json) {
            json_t *o = variant_json(v);
            json_object_set_new(o, "settings", json_string(v->what));
            json_array_append_new(out, o);
        } else {
            print_numbers(v->what, v);
            print_difference(&list.p[0], v);
        }
    }
    vec_free(&list);
}

static Status fit_all(const FitArgs *f, Arena *a, const Setting *t) {
    json_t *out = json_array();
    Status bad = NULL;
    if (!f->json) print_setting(t);
    if (!f->vary.n) what_if(f, a, &t->base, out);
    for (uint32_t i = 0; i < f->vary.n && !bad; i++) bad = fit_config(f, a, f->vary.p[i], out);
    if (f->json && !bad) {
        json_t *o =
            json_pack("{s:s, s:I, s:O}", "machine", t->machine, "budget_bytes",
                      (json_int_t)t->base.budget[MEM_DEVICE], f->vary.n ? "fit" : "what_if", out);
        json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
        printf("\n");
        json_decref(o);
    }
    json_decref(out);
    return bad;
}

static int fit(FitArgs *f, Arena *a) {
    Setting t = {0};
    Status s = check_names(a, f);
    int code = s ? status_exit(s) : read_machine(a, &f->model, &t);
    if (code) return code;
    s = make_base(a, f, &t);
    return status_exit(s ? s : fit_all(f, a, &t));
}

int main_fit(int argc, char **argv) {
    FitArgs f = {.model.target = "cpu"};
    const Option options[] = {
        {"vary", OPT_LIST, &f.vary, "CONFIG", "find its largest value that fits (repeatable)"},
        {"from", OPT_INT, &f.from, "A", "the first and least value tried (the model's)"},
        {"to", OPT_INT, &f.to, "B", "the largest value tried"},
        {"json", OPT_FLAG, &f.json, NULL, "one JSON object"},
        MODEL_OPTIONS(f.model),
    };
    const OptionTable table = {"fit model.m6 [--vary CONFIG]… [options]", options, COUNT(options),
                               1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : EXIT_DONE;
    if (!code && !help) {
        Arena *a = arena_new();
        f.model.path = positional.p[0];
        code = fit(&f, a);
        arena_free(a);
    }
    vec_free(&positional);
    vec_free(&f.vary);
    vec_free(&f.model.set);
    return code;
}
