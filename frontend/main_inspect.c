/* main_inspect.c: m6c inspect: what a plan holds and promises, as text or JSON. */
#include "frontend/main_inspect_comm.h"
#include "frontend/main_memory.h"
#include "passes/stage.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool params, steps, kernels, memory, comm, all, json, forward;
    const char *cluster;
} InspectArgs;

static void shape_text(const PlanBuffer *b, Buf *out) {
    buf_printf(out, "%s[", dtype_name(b->dtype));
    for (int i = 0; i < b->rank; i++) buf_printf(out, i ? ",%" PRId64 : "%" PRId64, b->dim[i]);
    buf_puts(out, "]");
}

/* ---- stages ---- */

/* The layer of a step of the forward part: letters of its scope; 0: none. */
static int layer_letters(const PlanStep *s) {
    return s->phase == PLAN_FORWARD && s->scope ? (int)stage_layer_part(s->scope) : 0;
}

static bool same_layer(const PlanStep *a, const PlanStep *b) {
    int n = layer_letters(a);
    return n == layer_letters(b) && memcmp(a->scope, b->scope, (size_t)n) == 0;
}

static void print_layers(const Plan *p) {
    VEC(const PlanStep *) seen = {0}; /* one of each layer, in the order in which they begin */
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        uint32_t k = 0;
        if (s->kind == STEP_COLLECTIVE || layer_letters(s) == 0) continue;
        while (k < seen.n && !same_layer(seen.p[k], s)) k++;
        if (k == seen.n) vec_push(&seen, s);
    }
    printf("%u layer%s", seen.n, seen.n == 1 ? "" : "s");
    for (uint32_t i = 0; i < seen.n; i += MAX(seen.n - 1, 1))
        printf("%s%.*s", i ? " … " : ", ", layer_letters(seen.p[i]), seen.p[i]->scope);
    vec_free(&seen);
}

/* Which layers each stage has, and the devices that it was made for. */
static void print_stages(Session *s, const char *dir, const InspectArgs *a) {
    Plan *first = mesh_plans_load(s, dir, a->forward ? "forward" : "plan");
    if (!first) return;
    printf("%5s %12s %12s  %s\n", "stage", "parameters", "device MiB", "layers, devices");
    for (uint32_t i = 0; i < plan_count(first); i++) {
        const Plan *p = plan_at(first, i);
        printf("%5u %12" PRId64 " %12.2f  ", i, plan_parameters(p), mib(p->arena[MEM_DEVICE]));
        print_layers(p);
        printf("%s%s\n", *p->machine ? ", on " : "", p->machine);
    }
    mesh_plans_free(first);
}

/* "shares 5,3 of data: this plan is for its rank 0" */
static void print_shares(const Plan *p) {
    ShareClass c = shares_class(p->shares, p->share);
    Buf shares = {0};
    shares_print(p->shares, &shares);
    printf("shares %s of " MESH_DATA ": this plan is for its rank%s %" PRId64, shares.p,
           c.n > 1 ? "s" : "", c.first);
    if (c.n > 1) printf(" to %" PRId64, c.first + c.n - 1);
    printf("\n");
    buf_free(&shares);
    if (p->balanced) printf("%s\n", p->balanced);
}

static json_t *shares_json(const Plan *p) {
    json_t *list = json_array();
    for (int64_t i = 0; i < p->shares.n; i++)
        json_array_append_new(list, json_integer(p->shares.v[i]));
    return json_pack("{s:o, s:I, s:s?}", "of_data", list, "class", (json_int_t)p->share, "chosen",
                     p->balanced);
}

static bool is_parameter(const Plan *p, uint32_t tensor) {
    return p->buffer.p[p->tensor.p[tensor].buffer].kind == BUF_PARAM;
}

/* ---- tables ---- */

static void print_params(const Plan *p) {
    for (uint32_t i = 0; i < p->tensor.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->tensor.p[i].buffer];
        const Init *init = &p->tensor.p[i].init;
        if (!is_parameter(p, i)) continue;
        Buf shape = {0};
        shape_text(b, &shape);
        printf("%-44s %-20s %12" PRId64 "  %s(%g, %g)  %s\n", b->name, shape.p, plan_elements(b),
               init_kind_name(init->kind), init->a, init->b, loc_text(p->session, b->loc));
        buf_free(&shape);
    }
    printf("%" PRId64 " parameters%s\n", plan_parameters(p), p->ranks > 1 ? " on a rank" : "");
}

static json_t *params_json(const Plan *p) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < p->tensor.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->tensor.p[i].buffer];
        if (!is_parameter(p, i)) continue;
        json_t *shape = json_array();
        for (int d = 0; d < b->rank; d++) json_array_append_new(shape, json_integer(b->dim[d]));
        json_array_append_new(list, json_pack("{s:s, s:o, s:s}", "name", b->name, "shape", shape,
                                              "dtype", dtype_name(b->dtype)));
    }
    return list;
}

static void print_steps(const Plan *p) {
    printf("%5s %-7s %10s %10s  %-32s %s\n", "step", "kind", "MFLOP", "MB", "what",
           "scope, source");
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        printf("%5u %-7s %10.2f %10.2f  %-32s %s %s\n", i, step_kind_name(s->kind), s->flops * 1e-6,
               s->traffic * 1e-6, s->what ? s->what : "", s->scope ? s->scope : "",
               loc_text(p->session, s->loc));
    }
}

static void print_kernels(const Plan *p) {
    uint32_t *uses = xcalloc(p->kernel.n + 1, sizeof *uses);
    for (uint32_t i = 0; i < p->step.n; i++)
        if (plan_has_kernel(&p->step.p[i])) uses[p->step.p[i].kernel]++;
    bool gpu = p->kernel.n && p->kernel.p[0].threads;
    printf("%-44s %-20s %5s %6s%s\n", "kernel", "source", "args", "steps",
           gpu ? "  threads   shared" : "");
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        const PlanKernel *k = &p->kernel.p[i];
        printf("%-44s %-20s %5d %6u", k->name, k->source, k->nargs, uses[i]);
        if (gpu) printf(" %8d %8" PRId64, k->threads, k->shared);
        printf("\n");
    }
    free(uses);
}

/* ---- the command ---- */

static void print_summary(const Plan *p) {
    printf("model %s for %s, %s: %" PRId64 " parameters%s, %u steps, %u kernels, %.2f GFLOP, "
           "%" PRId64 " tokens a step\n",
           p->model, p->target, p->train ? "training" : "forward only", plan_parameters(p),
           p->ranks > 1 ? " on a rank" : "", p->step.n, p->kernel.n, p->flops * 1e-9, p->tokens);
    for (int m = 0; m < MEM_COUNT; m++)
        if (p->arena[m]) printf("%s memory %.2f MiB\n", mem_name((Mem)m), mib(p->arena[m]));
    printf("made by: %s\n", p->command ? p->command : "");
    if (*p->machine) printf("made for: %s\n", p->machine);
    if (p->shares.n) print_shares(p);
    for (uint32_t i = 0; i < p->input.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->input.p[i].buffer];
        Buf shape = {0};
        shape_text(b, &shape);
        if (b->name[0] != '@') printf("input  %s: %s\n", b->name, shape.p);
        buf_free(&shape);
    }
    for (uint32_t i = 0; i < p->output.n; i++)
        printf("output %s\n", p->buffer.p[p->output.p[i].buffer].name);
}

/* m: the machine of --comm's prices; NULL without. */
static void print_json(const Plan *p, const InspectArgs *a, const Machine *m) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:o}",
                          "model", p->model, "target", p->target, "machine", p->machine, "stage",
                          (json_int_t)p->stage, "train", p->train, "parameters",
                          (json_int_t)plan_whole_parameters(p), "rank_parameters",
                          (json_int_t)plan_parameters(p), "steps", (json_int_t)p->step.n,
                          "device_bytes", (json_int_t)p->arena[MEM_DEVICE], "lower_bound_bytes",
                          (json_int_t)p->lower_bound[MEM_DEVICE], "flops", p->flops, "tokens",
                          (json_int_t)p->tokens, "params", params_json(p));
    if (p->shares.n) json_object_set_new(o, "shares", shares_json(p));
    if (a->memory) json_object_set_new(o, "memory", memory_json(p));
    if (a->comm) json_object_set_new(o, "comm", inspect_comm_json(p));
    if (m) json_object_set_new(o, "all_to_all", inspect_exchanges_json(p, m));
    json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    printf("\n");
    json_decref(o);
}

static bool is_summary(const InspectArgs *a) {
    return !a->json && !a->params && !a->steps && !a->kernels && !a->memory && !a->comm;
}

static int inspect(const InspectArgs *a, const char *dir) {
    Session *s = session_new();
    Plan *p = plan_load(s, dir, a->forward ? "forward.txt" : "plan.txt");
    const Machine *m = p && a->comm ? machine_load(s, a->cluster, p->target) : NULL;
    bool ok = p && (m || !a->comm);
    if (ok) {
        plan_warn_stale(p);
        if (a->json)
            print_json(p, a, m);
        else if (is_summary(a))
            print_summary(p);
        if (p->stages > 1 && is_summary(a) && is_folder(dir)) print_stages(s, dir, a);
        if (a->params && !a->json) print_params(p);
        if (a->steps) print_steps(p);
        if (a->kernels) print_kernels(p);
        if (a->memory && !a->json) memory_print(p, a->all, stdout);
        if (a->comm && !a->json) inspect_comm(p, a->all, stdout);
        if (a->comm && !a->json) inspect_exchanges(p, m, stdout);
    }
    if (p) plan_free(p);
    session_free(s);
    return ok ? EXIT_DONE : EXIT_INPUT;
}

int main_inspect(int argc, char **argv) {
    InspectArgs a = {0};
    const Option options[] = {
        {"params", OPT_FLAG, &a.params, NULL, "names, shapes, dtypes and inits of the parameters"},
        {"steps", OPT_FLAG, &a.steps, NULL, "what a step does, in order"},
        {"kernels", OPT_FLAG, &a.kernels, NULL, "the generated kernels"},
        {"memory", OPT_FLAG, &a.memory, NULL,
         "each memory's peak: when, by kind, layer and tensor; decisions and their price"},
        {"comm", OPT_FLAG, &a.comm, NULL,
         "what ranks send: groups, collectives by kind, phase and size"},
        {"cluster", OPT_TEXT, &a.cluster, "FILE",
         "with --comm: the machine that all_to_alls are priced on (this one)"},
        {"all", OPT_FLAG, &a.all, NULL, "with --memory, --comm: all tensors, decisions, messages"},
        {"forward", OPT_FLAG, &a.forward, NULL, "of the forward plan beside a training plan"},
        {"json", OPT_FLAG, &a.json, NULL,
         "one JSON object: counts and parameters; with --memory, --comm also that"},
    };
    const OptionTable table = {"inspect DIR [options]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : inspect(&a, positional.p[0]);
    vec_free(&positional);
    return code;
}
