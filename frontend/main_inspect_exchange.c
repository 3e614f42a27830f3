/* main_inspect_exchange.c: m6c inspect --comm: in which phases a plan's all_to_alls are sent, and
 * what that costs on a network, beside the flat way and the fastest one. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/main_inspect_comm.h"
#include "frontend/main_price.h"
#include "passes/comm_cost.h"

/* All of one size over one axis. */
typedef struct {
    const char *axis;
    double bytes;
    uint32_t number;
    int nphase;
    uint32_t group[ALL_TO_ALL_PHASES]; /* neighbours first */
    AllToAllPlan best;
    double us; /* in these phases; flat: best.flat_us */
} ExchangeRow;
typedef VEC(ExchangeRow) ExchangeRows;

/* ---- from the steps ---- */

static ExchangeRow *row_of(const Plan *p, ExchangeRows *rows, const char *group, double bytes) {
    const char *axis = intern_n(p->session, group, strcspn(group, "%/"));
    for (uint32_t i = 0; i < rows->n; i++)
        if (rows->p[i].axis == axis && rows->p[i].bytes == bytes) return &rows->p[i];
    vec_push(rows, ((ExchangeRow){.axis = axis, .bytes = bytes}));
    return &rows->p[rows->n - 1];
}

/* Neighbours are those whose ranks lie closest. */
static void add_phase(const Plan *p, ExchangeRow *r, uint32_t group) {
    int at = r->nphase;
    for (int i = 0; i < r->nphase; i++)
        if (r->group[i] == group) return;
    if (r->nphase == ALL_TO_ALL_PHASES) return;
    int64_t stride = plan_group_member(&p->group.p[group], 0, 1);
    for (; at > 0 && plan_group_member(&p->group.p[r->group[at - 1]], 0, 1) > stride; at--)
        r->group[at] = r->group[at - 1];
    r->group[at] = group;
    r->nphase++;
}

static void price_row(const Plan *p, const Topology *t, ExchangeRow *r) {
    int64_t size[ALL_TO_ALL_PHASES];
    MeshGroup all = {.nlevel = 1, .n = 1};
    CommPlan plan;
    for (int i = 0; i < r->nphase; i++) {
        size[i] = plan_group_size(&p->group.p[r->group[i]]);
        all.n *= size[i];
    }
    all.size[0] = all.n, all.stride[0] = plan_group_member(&p->group.p[r->group[0]], 0, 1);
    all_to_all_plan(t, &all, r->bytes, false, &r->best);
    if (all_to_all_phases(t, &all, r->bytes, r->nphase, size, &plan)) r->us = plan.us;
}

static ExchangeRows rows_of(const Plan *p, const Machine *m) {
    ExchangeRows rows = {0};
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        if (s->kind != STEP_COLLECTIVE || s->collective.kind != COLLECTIVE_ALL_TO_ALL) continue;
        uint32_t group = s->collective.group;
        ExchangeRow *r = row_of(p, &rows, p->group.p[group].name, plan_work(p, s).comm.bytes);
        add_phase(p, r, group);
        r->number += r->group[0] == group;
    }
    const Topology *t = rows.n ? topology_for_group(m, p->ranks) : NULL;
    for (uint32_t i = 0; i < rows.n; i++) price_row(p, t, &rows.p[i]);
    return rows;
}

/* ---- text and JSON ---- */

static const char *way_of(const Plan *p, const ExchangeRow *r) {
    Buf b = {0};
    for (int i = 0; i < r->nphase && r->nphase > 1; i++)
        buf_printf(&b, "%s%s", i ? " " : "", p->group.p[r->group[i]].name);
    const char *text = intern(p->session, b.p ? b.p : "flat");
    buf_free(&b);
    return text;
}

/* Members of each phase's groups: "8x64". */
static const char *fastest_way(const Plan *p, const AllToAllPlan *best) {
    Buf b = {0};
    for (int i = 0; i < best->nphase && best->nphase > 1; i++)
        buf_printf(&b, "%s%" PRId64, i ? "x" : "", best->size[i]);
    const char *text = intern(p->session, b.p ? b.p : "flat");
    buf_free(&b);
    return text;
}

void inspect_exchanges(const Plan *p, const Machine *m, FILE *out) {
    ExchangeRows rows = rows_of(p, m);
    if (rows.n)
        fprintf(out, "all_to_alls, ms each on %s:\n%-12s %-28s %6s %10s %9s %9s %9s\n",
                machine_name(m), "over", "phases", "number", "MiB", "ms", "flat", "fastest");
    for (uint32_t i = 0; i < rows.n; i++) {
        const ExchangeRow *r = &rows.p[i];
        fprintf(out, "%-12s %-28s %6u %10.3f %9.3f %9.3f %9.3f %s\n", r->axis, way_of(p, r),
                r->number, mib(r->bytes), r->us * 1e-3, r->best.flat_us * 1e-3, r->best.us * 1e-3,
                fastest_way(p, &r->best));
    }
    vec_free(&rows);
}

json_t *inspect_exchanges_json(const Plan *p, const Machine *m) {
    ExchangeRows rows = rows_of(p, m);
    json_t *list = json_array();
    for (uint32_t i = 0; i < rows.n; i++) {
        const ExchangeRow *r = &rows.p[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:s}", "over", r->axis, "phases",
                            way_of(p, r), "number", (json_int_t)r->number, "bytes", r->bytes, "ms",
                            r->us * 1e-3, "flat_ms", r->best.flat_us * 1e-3, "fastest_ms",
                            r->best.us * 1e-3, "fastest", fastest_way(p, &r->best)));
    }
    vec_free(&rows);
    return list;
}
