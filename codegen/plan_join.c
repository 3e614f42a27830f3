/* plan_join.c: one kernel over many tensors. An optimizer updates each parameter with a kernel that
 * differs from the others only in size and place, and equal layers have equal kernels: launched one
 * by one, small ones cost more time than they compute. Steps whose kernels have the same inner text
 * become one step of one kernel, whose blocks find their tensor in a table.
 *
 * A step may move up to a batch, or a batch down to a step, when no step on the way, and none of
 * those it joins, reads or writes bytes that it writes, or writes bytes that it reads: bytes are
 * compared, not names, since temporaries share them. Arguments of a kernel are at most MOST_ARGS,
 * what fits the 4 KiB of parameters that every driver takes. */
#include "codegen/plan_make.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ARGS = 480, WINDOW = 256, MOST_BATCHES = 64 };

typedef struct {
    uint32_t at, args; /* its place in the order: that of one of its steps; arguments of all */
    VEC(uint32_t) step;
} Batch;

typedef struct {
    Make *m;
    uint32_t *at;    /* by step: its place in the new order */
    uint32_t *batch; /* by step: the batch it is part of, or UINT32_MAX */
    VEC(Batch) batches;
} Join;

/* ---- conflicts ---- */

static bool overlap(const PlanBuffer *x, const PlanBuffer *y) {
    return x->mem == y->mem && x->offset < y->offset + y->bytes && y->offset < x->offset + x->bytes;
}

static bool conflict(const Plan *p, const PlanStep *a, const PlanStep *b) {
    for (uint32_t i = 0; i < a->nargs; i++)
        for (uint32_t j = 0; j < b->nargs; j++)
            if ((plan_writes(a, i) || plan_writes(b, j)) &&
                overlap(&p->buffer.p[a->arg[i].buffer], &p->buffer.p[b->arg[j].buffer]))
                return true;
    return false;
}

/* ---- which steps go together ---- */

static bool is_alike(const Make *m, const PlanStep *a, const PlanStep *b) {
    const KernelText *x = &m->text.p[a->kernel], *y = &m->text.p[b->kernel];
    return x->inner_hash == y->inner_hash && a->stream == b->stream && a->nargs == b->nargs &&
           strcmp(x->inner, y->inner) == 0;
}

/* Steps that may stand at or behind the place of a batch that step i may join: those from here on,
 * since a batch is at most WINDOW before i and a step at most 2 WINDOW behind where it was. */
static uint32_t first_near(uint32_t i) { return i > 3 * WINDOW ? i - 3 * WINDOW : 0; }

/* Step i to the batch's place. */
static bool may_rise(const Join *j, const Batch *b, uint32_t i) {
    const Plan *p = j->m->p;
    for (uint32_t k = first_near(i); k < i; k++)
        if (j->at[k] >= b->at && conflict(p, &p->step.p[k], &p->step.p[i])) return false;
    return true;
}

/* The batch to the place of step i. */
static bool may_sink(const Join *j, const Batch *b, uint32_t i) {
    const Plan *p = j->m->p;
    for (uint32_t s = 0; s < b->step.n; s++)
        for (uint32_t k = first_near(i); k <= i; k++)
            if (j->at[k] > b->at && conflict(p, &p->step.p[k], &p->step.p[b->step.p[s]]))
                return false;
    return true;
}

static void join_batch(Join *j, uint32_t b, uint32_t i, uint32_t at) {
    Batch *x = &j->batches.p[b];
    vec_push(&x->step, i);
    x->at = at;
    x->args += j->m->p->step.p[i].nargs;
    j->batch[i] = b;
    for (uint32_t s = 0; s < x->step.n; s++) j->at[x->step.p[s]] = at;
}

static bool joins(Join *j, uint32_t b, uint32_t i) {
    const Batch *x = &j->batches.p[b];
    const PlanStep *s = &j->m->p->step.p[i];
    if (i - x->at > WINDOW || i - x->step.p[0] > 2 * WINDOW) return false;
    if (x->args + s->nargs > MOST_ARGS) return false;
    if (!is_alike(j->m, &j->m->p->step.p[x->step.p[0]], s)) return false;
    bool rise = may_rise(j, x, i);
    if (!rise && !may_sink(j, x, i)) return false;
    join_batch(j, b, i, rise ? x->at : i);
    return true;
}

static void place_step(Join *j, uint32_t i) {
    const PlanStep *s = &j->m->p->step.p[i];
    j->at[i] = i;
    j->batch[i] = UINT32_MAX;
    ASSERT(s->nwait == 0);
    if (s->kind != STEP_KERNEL || !*j->m->text.p[s->kernel].inner) return;
    for (uint32_t n = 0; n < j->batches.n && n < MOST_BATCHES; n++)
        if (joins(j, j->batches.n - 1 - n, i)) return;
    vec_push(&j->batches, ((Batch){.at = i}));
    join_batch(j, j->batches.n - 1, i, i);
}

/* ---- the kernel of a batch ---- */

static void print_table(Buf *out, const char *name, const int64_t *x, uint32_t n) {
    buf_printf(out, "    TABLE(int64_t, %s, %u) = {", name, n);
    for (uint32_t i = 0; i < n; i++)
        buf_printf(out, i % 12 == 11 ? "%lld,\n        " : "%lld, ", (long long)x[i]);
    buf_puts(out, "};\n");
}

/* The block's tensor is the last whose first block is not after it. */
static void print_many(Buf *out, const char *inner, uint32_t n, uint32_t nargs,
                       const int64_t *first, const int64_t *size) {
    uint32_t step = 1;
    while (step * 2 < n) step *= 2;
    buf_puts(out, "{\n");
    print_table(out, "first", first, n);
    if (size[0]) print_table(out, "size", size, n);
    buf_printf(out,
               "    int32_t tensor = 0;\n"
               "    for (int32_t step = %u; step > 0; step /= 2)\n"
               "        if (tensor + step < %u && BID >= first[tensor + step]) tensor += step;\n"
               "    const int32_t base = tensor * %u, block = BID - (int32_t)first[tensor];\n"
               "%s%s}\n",
               step, n, nargs, size[0] ? "    const int64_t n = size[tensor];\n" : "", inner);
}

static Code batch_code(const Make *m, const Batch *b) {
    uint32_t n = b->step.n;
    int64_t *first = xcalloc(n, sizeof *first), *size = xcalloc(n, sizeof *size);
    const PlanStep *one = &m->p->step.p[b->step.p[0]];
    Code c = {.threads = m->p->kernel.p[one->kernel].threads};
    for (uint32_t i = 0; i < n; i++) {
        const PlanStep *s = &m->p->step.p[b->step.p[i]];
        first[i] = c.items;
        size[i] = m->text.p[s->kernel].elements;
        c.items += s->items;
    }
    print_many(&c.body, m->text.p[one->kernel].inner, n, one->nargs, first, size);
    free(first);
    free(size);
    return c;
}

/* The step of all: arguments one tensor after the other. */
static PlanStep batch_step(Make *m, const Batch *b) {
    Plan *p = m->p;
    Arena *a = session_arena(p->session);
    PlanStep all = p->step.p[b->step.p[0]];
    Code c = batch_code(m, b);
    uint32_t nargs = 0;
    all.what = intern(p->session, arena_printf(m->arena, "%s of %u", all.what, b->step.n));
    all.arg = arena_array(a, PlanArg, b->args);
    all.nargs = b->args;
    all.items = c.items;
    all.flops = all.traffic = 0;
    uint64_t mask = all.writes;
    all.writes = 0;
    for (uint32_t i = 0; i < b->step.n; i++) {
        const PlanStep *s = &p->step.p[b->step.p[i]];
        if (b->args <= 64) all.writes |= mask << nargs;
        for (uint32_t k = 0; k < s->nargs; k++) all.arg[nargs++] = s->arg[k];
        all.flops += s->flops;
        all.traffic += s->traffic;
    }
    all.kernel = add_kernel(m, &all, &c, m->text.p[p->step.p[b->step.p[0]].kernel].comment);
    buf_free(&c.body);
    return all;
}

/* ---- the new plan ---- */

static void rebuild_steps(Join *j) {
    Plan *p = j->m->p;
    uint32_t n = 0, old = p->step.n;
    PlanStep *step = xcalloc(old + 1, sizeof *step);
    for (uint32_t i = 0; i < old; i++) {
        const Batch *b = j->batch[i] == UINT32_MAX ? NULL : &j->batches.p[j->batch[i]];
        if (b && i != b->at) continue;
        step[n++] = b && b->step.n > 1 ? batch_step(j->m, b) : p->step.p[i];
    }
    memcpy(p->step.p, step, n * sizeof *step);
    p->step.n = n;
    free(step);
}

/* Kernels that no step has any more go. */
static void drop_kernels(Make *m) {
    Plan *p = m->p;
    uint32_t *to = arena_array(m->arena, uint32_t, p->kernel.n + 1), n = 0;
    for (uint32_t i = 0; i < p->step.n; i++)
        if (plan_has_kernel(&p->step.p[i])) to[p->step.p[i].kernel] = 1;
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        if (!to[i]) continue;
        p->kernel.p[n] = p->kernel.p[i];
        m->text.p[n] = m->text.p[i];
        to[i] = n++;
    }
    p->kernel.n = m->text.n = n;
    for (uint32_t i = 0; i < p->step.n; i++)
        if (plan_has_kernel(&p->step.p[i])) p->step.p[i].kernel = to[p->step.p[i].kernel];
}

void join_steps(Make *m) {
    uint32_t n = m->p->step.n;
    Join j = {.m = m,
              .at = arena_array(m->arena, uint32_t, n + 1),
              .batch = arena_array(m->arena, uint32_t, n + 1)};
    for (uint32_t i = 0; i < n; i++) place_step(&j, i);
    rebuild_steps(&j);
    drop_kernels(m);
    for (uint32_t i = 0; i < j.batches.n; i++) vec_free(&j.batches.p[i].step);
    vec_free(&j.batches);
}
