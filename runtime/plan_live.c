/* plan_live.c: when each buffer of a plan is alive, and when most bytes are. */
#include "runtime/plan.h"

#include <stdlib.h>

/* Steps are counted from 1 here, 0: not used. */
static void find_spans(const Plan *p, PlanLive *l) {
    for (uint32_t s = 0; s < p->step.n; s++)
        for (uint32_t i = 0; i < p->step.p[s].nargs; i++) {
            uint32_t b = p->step.p[s].arg[i].buffer;
            if (!l->first[b]) l->first[b] = s + 1;
            l->last[b] = s + 1;
        }
}

/* A temporary that its last reader overwrites in place is not alive beside its successor. */
static bool overwritten(const Plan *p, const PlanLive *l, uint32_t x) {
    const PlanStep *s = &p->step.p[l->last[x] - 1];
    for (uint32_t i = 0; i < s->nargs; i++) {
        uint32_t y = s->arg[i].buffer;
        if (y != x && l->first[y] == l->last[x] && p->buffer.p[y].mem == p->buffer.p[x].mem &&
            p->buffer.p[y].offset == p->buffer.p[x].offset)
            return true;
    }
    return false;
}

static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static void find_peak(const Plan *p, Mem mem, PlanLive *l) {
    int64_t *change = xcalloc((size_t)p->step.n + 3, sizeof *change), live = 0;
    for (uint32_t b = 0; b < p->buffer.n; b++) {
        if (p->buffer.p[b].mem != mem || !l->first[b]) continue;
        change[l->first[b]] += rounded(p->buffer.p[b].bytes);
        change[l->last[b] + 1] -= rounded(p->buffer.p[b].bytes);
    }
    for (uint32_t s = 1; s <= MAX(p->step.n, 1); s++)
        if ((live += change[s]) > l->bytes) l->bytes = live, l->at = s;
    free(change);
}

PlanLive plan_live(const Plan *p, Mem mem) {
    size_t n = (size_t)p->buffer.n + 1;
    PlanLive l = {.first = xcalloc(n, sizeof *l.first), .last = xcalloc(n, sizeof *l.last)};
    find_spans(p, &l);
    bool *shorter = xcalloc(n, sizeof *shorter);
    for (uint32_t b = 0; b < p->buffer.n; b++)
        shorter[b] = p->buffer.p[b].kind == BUF_TEMP && l.last[b] && overwritten(p, &l, b);
    for (uint32_t b = 0; b < p->buffer.n; b++) {
        if (shorter[b]) l.last[b]--;
        BufKind kind = p->buffer.p[b].kind;
        bool result = kind == BUF_OUTPUT || kind == BUF_GRAD; /* from its step to the end */
        if (kind != BUF_TEMP) l.last[b] = MAX(p->step.n, 1);
        if (kind != BUF_TEMP && !(result && l.first[b])) l.first[b] = 1;
    }
    free(shorter);
    find_peak(p, mem, &l);
    return l;
}

void plan_live_free(PlanLive *l) {
    free(l->first);
    free(l->last);
}
