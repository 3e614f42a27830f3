/* main_price.c: a plan's steps as pieces of work with a price. */
#include "frontend/main_price.h"

#include <string.h>

static void set_product(const PlanGemm *g, Work *w) {
    w->product = true;
    w->m = g->m, w->n = g->n, w->k = g->k;
    w->ta = g->ta, w->tb = g->tb;
    w->batch = 1;
    for (int i = 0; i < g->nbatch; i++) w->batch *= g->count[i];
    w->dtype = g->da;
}

/* A copy inside a memory is a kernel that touches its bytes twice. */
static void set_copy(const Plan *p, const PlanStep *s, Work *w) {
    w->copy = true;
    w->to = p->buffer.p[s->arg[0].buffer].mem;
    w->from = p->buffer.p[s->arg[1].buffer].mem;
    w->bytes = (double)s->bytes;
}

static void set_comm(const Plan *p, const PlanStep *s, Work *w) {
    const PlanCollective *c = &s->collective;
    const PlanGroup *g = &p->group.p[c->group];
    w->comm = (CommWork){.kind = c->kind, .ranks = plan_group_size(g), .nlevel = g->nlevel};
    memcpy(w->comm.size, g->size, sizeof g->size);
    memcpy(w->comm.stride, g->stride, sizeof g->stride);
    comm_set_bytes(&w->comm, c->count, c->n, c->wire);
}
_Static_assert((int)COMM_LEVELS == (int)PLAN_MAX_LEVELS, "levels of groups");

Work plan_work(const Plan *p, const PlanStep *s) {
    Work w = {.what = s->what ? s->what : "",
              .flops = s->flops,
              .bytes = s->traffic,
              .host = s->stream == STREAM_HOST && s->kind != STEP_COPY};
    switch (s->kind) {
    case STEP_GEMM: set_product(&s->gemm, &w); break;
    case STEP_COPY: set_copy(p, s, &w); break;
    case STEP_COLLECTIVE: set_comm(p, s, &w); break;
    case STEP_FILL: w.bytes = (double)s->bytes; break;
    default:
        if (strncmp(w.what, "attention", 9) == 0) w.dtype = p->buffer.p[s->arg[0].buffer].dtype;
    }
    return w;
}

double plan_step_us(const Plan *p, uint32_t i, const Machine *m) {
    Work w = plan_work(p, &p->step.p[i]);
    return cost_us(m, &w);
}

void plan_price(Plan *p, const Machine *m) {
    for (uint32_t i = 0; i < p->step.n; i++) p->step.p[i].predicted_us = plan_step_us(p, i, m);
}

double plan_peak(const Plan *p, const Machine *m) {
    double flops[DT_COUNT] = {0};
    Dtype most = DT_F32;
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].kind == STEP_GEMM) flops[p->step.p[i].gemm.da] += p->step.p[i].flops;
    for (int d = 0; d < DT_COUNT; d++)
        if (flops[d] > flops[most]) most = (Dtype)d;
    return machine_peak(m, most);
}
