/* main_inspect.c: m6c inspect: what a plan holds and promises, as text or JSON. */
#include "frontend/main.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool params, steps, kernels, memory, json, forward;
} InspectArgs;

static const double MIB = 1024.0 * 1024.0;

static void shape_text(const PlanBuffer *b, Buf *out) {
    buf_printf(out, "%s[", dtype_name(b->dtype));
    for (int i = 0; i < b->rank; i++) buf_printf(out, i ? ",%" PRId64 : "%" PRId64, b->dim[i]);
    buf_puts(out, "]");
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
    printf("%" PRId64 " parameters\n", plan_parameters(p));
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

/* ---- memory: when the peak is, and what makes it ---- */

static bool alive(const Plan *p, const PlanLive *l, uint32_t b) {
    return p->buffer.p[b].mem == MEM_DEVICE && l->first[b] && l->first[b] <= l->at &&
           l->at <= l->last[b];
}

static int by_bytes(const void *a, const void *b, void *plan) {
    const PlanBuffer *buffers = ((const Plan *)plan)->buffer.p;
    int64_t x = buffers[*(const uint32_t *)a].bytes, y = buffers[*(const uint32_t *)b].bytes;
    return x > y ? -1 : x < y;
}

enum { SHOWN_TENSORS = 12 };

static void print_largest(const Plan *p, const PlanLive *l) {
    VEC(uint32_t) live = {0};
    for (uint32_t i = 0; i < p->buffer.n; i++)
        if (alive(p, l, i)) vec_push(&live, i);
    qsort_r(live.p, live.n, sizeof *live.p, by_bytes, (void *)(uintptr_t)p);
    printf("largest of the %u tensors alive then:\n", live.n);
    for (uint32_t i = 0; i < live.n && i < SHOWN_TENSORS; i++) {
        const PlanBuffer *b = &p->buffer.p[live.p[i]];
        Buf shape = {0};
        shape_text(b, &shape);
        printf("  %10.2f MiB  %-7s %-36s %-18s %s\n", (double)b->bytes / MIB,
               buf_kind_name(b->kind), b->name, shape.p, loc_text(p->session, b->loc));
        buf_free(&shape);
    }
    vec_free(&live);
}

static void print_peak(const Plan *p, const PlanLive *l) {
    int64_t kind[BUF_KIND_COUNT] = {0};
    for (uint32_t i = 0; i < p->buffer.n; i++)
        if (alive(p, l, i)) kind[p->buffer.p[i].kind] += p->buffer.p[i].bytes;
    const PlanStep *s = &p->step.p[l->at - 1];
    printf("peak of live bytes %.2f MiB at step %u of %u: %s %s %s\n", (double)l->bytes / MIB,
           l->at - 1, p->step.n, s->what ? s->what : step_kind_name(s->kind),
           s->scope ? s->scope : "", loc_text(p->session, s->loc));
    for (int k = 0; k < BUF_KIND_COUNT; k++)
        if (kind[k]) printf("  %10.2f MiB  %s\n", (double)kind[k] / MIB, buf_kind_name((BufKind)k));
    print_largest(p, l);
}

static void print_memory(const Plan *p) {
    PlanLive l = plan_live(p, MEM_DEVICE);
    for (int m = 0; m < MEM_COUNT; m++)
        if (p->arena[m])
            printf("%-7s arena %10.2f MiB (live-bytes lower bound %.2f MiB)\n", mem_name((Mem)m),
                   (double)p->arena[m] / MIB, (double)p->lower_bound[m] / MIB);
    if (p->step.n && l.at) print_peak(p, &l);
    plan_live_free(&l);
}

/* ---- the command ---- */

static void print_summary(const Plan *p) {
    printf("model %s for %s, %s: %" PRId64 " parameters, %u steps, %u kernels, %.2f GFLOP, "
           "%" PRId64 " tokens a step\n",
           p->model, p->target, p->train ? "training" : "forward only", plan_parameters(p),
           p->step.n, p->kernel.n, p->flops * 1e-9, p->tokens);
    for (int m = 0; m < MEM_COUNT; m++)
        if (p->arena[m])
            printf("%s memory %.2f MiB\n", mem_name((Mem)m), (double)p->arena[m] / MIB);
    printf("made by: %s\n", p->command ? p->command : "");
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

static void print_json(const Plan *p) {
    json_t *o =
        json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:f, s:I, s:o}", "model", p->model, "target",
                  p->target, "train", p->train, "parameters", (json_int_t)plan_parameters(p),
                  "steps", (json_int_t)p->step.n, "device_bytes", (json_int_t)p->arena[MEM_DEVICE],
                  "lower_bound_bytes", (json_int_t)p->lower_bound[MEM_DEVICE], "flops", p->flops,
                  "tokens", (json_int_t)p->tokens, "params", params_json(p));
    json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    printf("\n");
    json_decref(o);
}

static int inspect(const InspectArgs *a, const char *dir) {
    Session *s = session_new();
    Plan *p = plan_load(s, dir, a->forward ? "forward.txt" : "plan.txt");
    if (p) {
        plan_warn_stale(p);
        if (a->json)
            print_json(p);
        else if (!a->params && !a->steps && !a->kernels && !a->memory)
            print_summary(p);
        if (a->params && !a->json) print_params(p);
        if (a->steps) print_steps(p);
        if (a->kernels) print_kernels(p);
        if (a->memory) print_memory(p);
        plan_free(p);
    }
    session_free(s);
    return p ? EXIT_DONE : EXIT_INPUT;
}

int main_inspect(int argc, char **argv) {
    InspectArgs a = {0};
    const Option options[] = {
        {"params", OPT_FLAG, &a.params, NULL, "names, shapes, dtypes and inits of the parameters"},
        {"steps", OPT_FLAG, &a.steps, NULL, "what a step does, in order"},
        {"kernels", OPT_FLAG, &a.kernels, NULL, "the generated kernels"},
        {"memory", OPT_FLAG, &a.memory, NULL, "the peak: when, by kind, and its largest tensors"},
        {"forward", OPT_FLAG, &a.forward, NULL, "of the forward plan beside a training plan"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object: counts and parameters"},
    };
    const OptionTable table = {"inspect DIR [options]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : inspect(&a, positional.p[0]);
    vec_free(&positional);
    return code;
}
