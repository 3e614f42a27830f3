/* plan_check.c: what the executor relies on in a step: its bytes lie inside its buffers, a
 * product's C does not overlap itself, and it works on the stream and in the memory that belong
 * together. */
#include "runtime/plan_text.h"

#define FAIL(why, ...) ((why)->n ? (void)0 : buf_printf((why), __VA_ARGS__))

static void check_operand(const Plan *p, const PlanStep *s, int i, Dtype d, int64_t elements,
                          Buf *why) {
    static const char names[] = "ABCX";
    const PlanArg *a = &s->arg[i];
    int64_t room = p->buffer.p[a->buffer].bytes - a->offset, bytes;
    if (elements < 0 || __builtin_mul_overflow(elements, (int64_t)dtype_size(d), &bytes))
        FAIL(why, "the extent of %c overflows 64 bits", names[i]);
    else if (bytes > room)
        FAIL(why, "%c takes %lld bytes, its buffer has %lld", names[i], (long long)bytes,
             (long long)room);
    if (a->offset % dtype_size(d)) FAIL(why, "%c is not aligned to its type", names[i]);
}

static void check_epilogue(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanGemm *g = &s->gemm;
    check_operand(p, s, 3, g->dc, plan_gemm_span(g, 2), why);
    if (s->nargs > 4) {
        const PlanArg *a = &s->arg[4];
        int64_t room = p->buffer.p[a->buffer].bytes - a->offset;
        if (room / dtype_size(g->dc) < g->n) FAIL(why, "the vector is shorter than a row");
    }
    if (p->kernel.p[s->kernel].nargs != (int)s->nargs - 2)
        FAIL(why, "kernel k%u does not take C and what follows", s->kernel);
}

static void check_gemm(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanGemm *g = &s->gemm;
    Dtype d[] = {g->da, g->db, g->dc};
    int doubles = 0;
    if (!g->epilogue && s->nargs != 3)
        FAIL(why, "a product has three arguments");
    else if (s->nargs != epilogue_args(g->epilogue))
        FAIL(why, "a product with epilogue %s has %u arguments", epilogue_name(g->epilogue),
             epilogue_args(g->epilogue));
    else if (g->epilogue)
        check_epilogue(p, s, why);
    if (g->lda < (g->ta ? g->m : g->k) || g->ldb < (g->tb ? g->k : g->n) || g->ldc < g->n)
        FAIL(why, "a row stride is shorter than its row");
    for (int i = 0; i < 3 && !why->n; i++) {
        if (!dtype_is_float(d[i])) FAIL(why, "products are of floats");
        doubles += d[i] == DT_F64;
        check_operand(p, s, i, d[i], plan_gemm_span(g, i), why);
    }
    if (doubles % 3) FAIL(why, "either all of A, B, C are f64 or none");
    if (!why->n && !plan_gemm_disjoint(g)) FAIL(why, "C overlaps itself");
}

static void check_bytes(const Plan *p, const PlanStep *s, uint32_t nargs, Buf *why) {
    if (s->nargs != nargs)
        FAIL(why, "a %s has %u argument%s", step_kind_name(s->kind), nargs, nargs == 1 ? "" : "s");
    for (uint32_t i = 0; i < nargs && !why->n; i++)
        if (s->bytes > p->buffer.p[s->arg[i].buffer].bytes - s->arg[i].offset)
            FAIL(why, "%lld bytes do not lie inside b%u", (long long)s->bytes, s->arg[i].buffer);
}

static void check_kernel(const Plan *p, const PlanStep *s, Buf *why) {
    int nargs = p->kernel.p[s->kernel].nargs;
    if (s->nargs != (uint32_t)nargs)
        FAIL(why, "kernel k%u has %d arguments, here are %u", s->kernel, nargs, s->nargs);
    if (s->nargs < 64 && s->writes >> s->nargs) FAIL(why, "writes more arguments than there are");
}

/* A copy is on the stream of its direction; the others touch one memory, on its stream. */
static void check_stream(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanBuffer *b = p->buffer.p;
    bool host = s->stream == STREAM_HOST;
    if (s->kind == STEP_COPY) {
        Mem to = b[s->arg[0].buffer].mem, from = b[s->arg[1].buffer].mem;
        if (s->stream != (int)stream_of_copy(from, to))
            FAIL(why, "a copy from %s to %s is on stream %d", mem_name(from), mem_name(to),
                 (int)stream_of_copy(from, to));
        return;
    }
    bool comm = s->stream >= STREAM_COMM;
    if (comm != (s->kind == STEP_COLLECTIVE))
        FAIL(why, comm ? "stream %d is for collectives" : "stream %d is not for collectives",
             s->stream);
    else if (!host && !comm && s->stream != STREAM_COMPUTE)
        FAIL(why, "stream %d is for copies", s->stream);
    for (uint32_t i = 0; i < s->nargs && !why->n; i++)
        if (b[s->arg[i].buffer].mem != (host ? MEM_HOST : MEM_DEVICE))
            FAIL(why, "a %s on stream %d cannot touch b%u in %s memory", step_kind_name(s->kind),
                 s->stream, s->arg[i].buffer, mem_name(b[s->arg[i].buffer].mem));
}

static void check_waits(const Plan *p, const PlanStep *s, Buf *why) {
    for (uint32_t i = 0; i < s->nwait; i++)
        if (p->step.p[s->wait[i]].stream == s->stream)
            FAIL(why, "step %u is on the same stream: there is nothing to wait for", s->wait[i]);
}

void plan_check_step(const Plan *p, const PlanStep *s, Buf *why) {
    switch (s->kind) {
    case STEP_KERNEL: check_kernel(p, s, why); break;
    case STEP_GEMM: check_gemm(p, s, why); break;
    case STEP_COPY: check_bytes(p, s, 2, why); break;
    case STEP_FILL: check_bytes(p, s, 1, why); break;
    case STEP_COLLECTIVE: plan_check_collective(p, s, why); break;
    case STEP_KIND_COUNT: BUG("no such step");
    }
    if (!why->n) check_stream(p, s, why);
    if (!why->n) check_waits(p, s, why);
}
