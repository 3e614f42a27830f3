/* main_inspect_memory.c: the table of a plan's memory as text and as JSON. Sizes are MiB, times ms.
 */
#include "frontend/main_memory.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/device_cuda.h"

enum { SHOWN_ROWS = 12, PROFILE_WIDTH = 72, PROFILE_HEIGHT = 8 };

/* What products take of a GPU beside its arena. */
static int64_t workspace_bytes(const Plan *p) {
    return target_is_gpu(p->target) ? cuda_workspace_bytes(p) : 0;
}

/* ---- the profile of live bytes, columns of steps and eighths of lines ---- */

typedef struct {
    int64_t column[PROFILE_WIDTH], top;
    int width;
} Profile;

static uint32_t column_start(const Plan *p, const Profile *f, int column) {
    return (uint32_t)((uint64_t)p->step.n * (uint64_t)column / (uint64_t)f->width);
}

static Profile profile_of(const Plan *p, const MemoryPeak *m) {
    Profile f = {.top = MAX(m->peak, 1), .width = (int)MIN(p->step.n, PROFILE_WIDTH)};
    for (int c = 0; c < f.width; c++)
        for (uint32_t s = column_start(p, &f, c); s < column_start(p, &f, c + 1); s++)
            f.column[c] = MAX(f.column[c], m->live[s]);
    return f;
}

static void print_line(const Profile *f, int line, FILE *out) {
    static const char *const block[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    if (line == PROFILE_HEIGHT - 1)
        fprintf(out, "  %10.2f MiB ┤", mib(f->top));
    else
        fprintf(out, "  %14s ┤", "");
    for (int c = 0; c < f->width; c++) {
        double filled = (double)f->column[c] / (double)f->top * PROFILE_HEIGHT - line;
        fputs(block[(int)(MIN(MAX(filled, 0), 1) * 8 + 0.5)], out);
    }
    fputs("\n", out);
}

/* Where the phases begin, and the peak. */
static void print_axis(const Plan *p, const MemoryPeak *m, const Profile *f, FILE *out) {
    char text[PROFILE_WIDTH + 1];
    memset(text, ' ', sizeof text);
    int free_from = 0;
    for (int c = 0, last = -1; c < f->width; c++) {
        int phase = (int)p->step.p[column_start(p, f, c)].phase;
        const char *name = plan_phase_name((PlanPhase)phase);
        int n = (int)strlen(name);
        if (phase > last && c >= free_from && c + n <= f->width) {
            memcpy(text + c, name, (size_t)n);
            free_from = c + n + 1;
        }
        last = MAX(last, phase);
    }
    fprintf(out, "  %14s └", "");
    for (int c = 0; c < f->width; c++) {
        uint32_t from = column_start(p, f, c), to = column_start(p, f, c + 1);
        fputs(from < m->step && m->step <= to ? "▲" : "─", out);
    }
    fprintf(out, "\n  %14s  %.*s\n", "", f->width, text);
}

static void print_profile(const Plan *p, const MemoryPeak *m, FILE *out) {
    Profile f = profile_of(p, m);
    fprintf(out, "live bytes over the %u steps:\n", p->step.n);
    for (int line = PROFILE_HEIGHT; line-- > 0;) print_line(&f, line, out);
    print_axis(p, m, &f, out);
}

/* ---- tables ---- */

static void print_kinds(const Plan *p, const MemoryPeak *m, FILE *out) {
    for (int c = 0; c < CLASS_COUNT; c++)
        if (m->kind[c])
            fprintf(out, "  %10.2f MiB %5.1f %%  %s\n", mib(m->kind[c]),
                    100.0 * (double)m->kind[c] / (double)m->peak,
                    memory_class_name((MemoryClass)c));
    if (m->mem == MEM_DEVICE)
        fprintf(out, "  %10.2f MiB          library workspace, beside the arena\n",
                mib(workspace_bytes(p)));
}

static void print_layers(const MemoryPeak *m, bool all, FILE *out) {
    static const char *const heads[] = {"params", "copies", "grads",  "state",
                                        "activ.", "temps",  "in, out"};
    _Static_assert(COUNT(heads) == CLASS_COUNT, "heads");
    fprintf(out, "by layer, MiB:\n  %-28s %4s %10s", "", "", "sum");
    for (int c = 0; c < CLASS_COUNT; c++)
        if (m->kind[c]) fprintf(out, " %9s", heads[c]);
    fputs("\n", out);
    for (uint32_t g = 0; g < m->layer.n && (all || g < 2 * SHOWN_ROWS); g++) {
        const MemoryGroup *l = &m->layer.p[g];
        char times[16] = "";
        if (l->n > 1) snprintf(times, sizeof times, "%ux", l->n);
        fprintf(out, "  %-28s %4s %10.2f", *l->row.name ? l->row.name : "(no layer)", times,
                mib(l->bytes));
        for (int c = 0; c < CLASS_COUNT; c++)
            if (m->kind[c])
                fprintf(out, " %9.2f", mib(m->layer_kind.p[g * CLASS_COUNT + (uint32_t)c]));
        fputs("\n", out);
    }
}

static void print_tensors(const Plan *p, const MemoryPeak *m, bool all, FILE *out) {
    uint32_t shown = all ? m->tensor.n : MIN(m->tensor.n, (uint32_t)SHOWN_ROWS);
    fprintf(out, "tensors alive then: %u, in %u groups of equal ones%s:\n", m->row.n, m->tensor.n,
            shown < m->tensor.n ? "; the largest (--all: every group)" : "");
    for (uint32_t g = 0; g < shown; g++) {
        const MemoryGroup *t = &m->tensor.p[g];
        char times[16] = "";
        if (t->n > 1) snprintf(times, sizeof times, "%ux", t->n);
        fprintf(out, "  %10.2f MiB %5s %-15s %-40s %-18s %s\n", mib(t->bytes), times,
                memory_class_name(t->row.kind), t->row.name, t->row.shape,
                loc_text(p->session, t->row.loc));
    }
}

static void print_when(const Plan *p, const MemoryPeak *m, FILE *out) {
    const PlanStep *s = &p->step.p[m->step - 1];
    fprintf(out, "peak of live bytes %.2f MiB at step %u of %u (%s): %s %s %s\n", mib(m->peak),
            m->step - 1, p->step.n, plan_phase_name(s->phase),
            s->what ? s->what : step_kind_name(s->kind), s->scope ? s->scope : "",
            loc_text(p->session, s->loc));
}

static void print_mem(const Plan *p, Mem mem, bool all, FILE *out) {
    fprintf(out, "%-7s arena %10.2f MiB (live-bytes lower bound %.2f MiB)", mem_name(mem),
            mib(p->arena[mem]), mib(p->lower_bound[mem]));
    if (p->budget[mem]) fprintf(out, ", budget %.2f MiB", mib(p->budget[mem]));
    fputs("\n", out);
    if (!p->step.n) return;
    MemoryPeak m = memory_peak(p, mem);
    if (m.step) {
        print_when(p, &m, out);
        print_kinds(p, &m, out);
        print_layers(&m, all, out);
        print_tensors(p, &m, all, out);
        print_profile(p, &m, out);
    }
    memory_peak_free(&m);
}

/* ---- decisions, and what they come to ---- */

static void print_decisions(const Plan *p, bool all, FILE *out) {
    DecisionList list = memory_decisions(p);
    uint32_t shown = all ? list.n : MIN(list.n, (uint32_t)(2 * SHOWN_ROWS));
    if (!list.n)
        fprintf(out, "decisions: every tensor stays in the device's memory\n");
    else
        fprintf(out,
                "decisions: %u tensors do not simply stay in the device's memory%s\n"
                "  %14s %13s %5s %-11s\n",
                p->decision.n, shown < list.n ? "; the largest (--all: every group)" : "", "saves",
                "work added", "", "how");
    for (uint32_t i = 0; i < shown; i++) {
        const PlanDecision *d = &list.p[i].decision;
        char times[16] = "";
        if (list.p[i].n > 1) snprintf(times, sizeof times, "%ux", list.p[i].n);
        fprintf(out, "  %10.2f MiB %10.3f ms %5s %-11s %-40s %s%s\n", mib(d->bytes), d->us * 1e-3,
                times, d->how, d->tensor, loc_text(p->session, d->loc),
                d->hinted ? " (asked for)" : "");
    }
    vec_free(&list);
}

static void print_total(const Plan *p, FILE *out) {
    if (p->predicted_us > 0) {
        fprintf(out, "predicted %.3f ms a step", p->predicted_us * 1e-3);
        if (*p->machine) fprintf(out, " on %s", p->machine);
        if (p->tokens) fprintf(out, ", %.0f tokens/s", (double)p->tokens / p->predicted_us * 1e6);
        fputs("\n", out);
    }
    if (p->predicted_us > 0 && p->bound_us > 0)
        fprintf(out,
                "no plan within the budgets is faster than %.3f ms: "
                "this one is within %.1f %% of the best possible under this cost model\n",
                p->bound_us * 1e-3, 100 * MAX(p->predicted_us / p->bound_us - 1, 0));
    if (!p->unconstrained) return;
    fprintf(out, "everything kept: %.2f MiB", mib(p->unconstrained));
    if (p->unconstrained_us > 0) fprintf(out, ", %.3f ms a step", p->unconstrained_us * 1e-3);
    fprintf(out, "; this plan: %.1f %% of the memory",
            100.0 * (double)p->arena[MEM_DEVICE] / (double)p->unconstrained);
    if (p->unconstrained_us > 0 && p->predicted_us > 0)
        fprintf(out, ", %+.1f %% time", 100 * (p->predicted_us / p->unconstrained_us - 1));
    fputs("\n", out);
}

void memory_print(const Plan *p, bool all, FILE *out) {
    for (int m = 0; m < MEM_COUNT; m++)
        if (p->arena[m] || m == MEM_DEVICE) print_mem(p, (Mem)m, all, out);
    print_decisions(p, all, out);
    print_total(p, out);
}

/* ---- JSON ---- */

static json_t *row_json(const Plan *p, const MemoryRow *r) {
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s}", "name", r->name, "kind",
                     memory_class_name(r->kind), "layer", r->scope, "shape", r->shape, "bytes",
                     (json_int_t)r->bytes, "source", loc_text(p->session, r->loc));
}

static json_t *kinds_json(const int64_t *kind) {
    json_t *o = json_object();
    for (int c = 0; c < CLASS_COUNT; c++)
        json_object_set_new(o, memory_class_name((MemoryClass)c), json_integer(kind[c]));
    return o;
}

static json_t *layers_json(const MemoryPeak *m) {
    json_t *list = json_array();
    for (uint32_t g = 0; g < m->layer.n; g++)
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:o}", "layer", m->layer.p[g].row.name, "count",
                            (json_int_t)m->layer.p[g].n, "bytes", (json_int_t)m->layer.p[g].bytes,
                            "kinds", kinds_json(&m->layer_kind.p[g * CLASS_COUNT])));
    return list;
}

static json_t *peak_json(const Plan *p, Mem mem) {
    MemoryPeak m = memory_peak(p, mem);
    json_t *tensors = json_array(), *live = json_array();
    for (uint32_t i = 0; i < m.row.n; i++) json_array_append_new(tensors, row_json(p, &m.row.p[i]));
    for (uint32_t s = 0; s < p->step.n; s++) json_array_append_new(live, json_integer(m.live[s]));
    const PlanStep *s = m.step && p->step.n ? &p->step.p[m.step - 1] : NULL;
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "arena_bytes",
                  (json_int_t)p->arena[mem], "lower_bound_bytes", (json_int_t)p->lower_bound[mem],
                  "budget_bytes", (json_int_t)p->budget[mem], "peak_bytes", (json_int_t)m.peak,
                  "peak_step", (json_int_t)m.step - 1, "peak_phase",
                  s ? plan_phase_name(s->phase) : "", "peak_scope", s && s->scope ? s->scope : "",
                  "peak_source", s ? loc_text(p->session, s->loc) : "", "kinds", kinds_json(m.kind),
                  "layers", layers_json(&m), "tensors", tensors, "live_bytes", live);
    memory_peak_free(&m);
    return o;
}

static json_t *decisions_json(const Plan *p) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < p->decision.n; i++) {
        const PlanDecision *d = &p->decision.p[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f, s:b, s:s}", "tensor", d->tensor,
                                              "how", d->how, "bytes", (json_int_t)d->bytes, "ms",
                                              d->us * 1e-3, "hinted", d->hinted, "source",
                                              loc_text(p->session, d->loc)));
    }
    return list;
}

json_t *memory_json(const Plan *p) {
    json_t *o = json_object();
    for (int m = 0; m < MEM_COUNT; m++)
        if (p->arena[m] || m == MEM_DEVICE)
            json_object_set_new(o, mem_name((Mem)m), peak_json(p, (Mem)m));
    json_object_set_new(o, "workspace_bytes", json_integer(workspace_bytes(p)));
    json_object_set_new(o, "decisions", decisions_json(p));
    json_object_set_new(o, "predicted_ms", json_real(p->predicted_us * 1e-3));
    json_object_set_new(o, "bound_ms", json_real(p->bound_us * 1e-3));
    json_object_set_new(o, "unconstrained_ms", json_real(p->unconstrained_us * 1e-3));
    json_object_set_new(o, "unconstrained_bytes", json_integer(p->unconstrained));
    json_object_set_new(o, "machine", json_string(p->machine));
    return o;
}
