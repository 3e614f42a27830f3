/* exec_finite.c: who made the first NaN.
 *
 * After each step the float buffers it wrote are searched. Where a plan does not say which
 * arguments a kernel writes, all are: what it only read was found clean before. */
#include "runtime/exec_private.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void exec_check_finite(Exec *e, bool on) {
    ASSERT(e->submitted == e->collected);
    e->check_finite = on;
    if (!on || e->first_touch) return;
    e->first_touch = xmalloc((size_t)e->plan->buffer.n * sizeof *e->first_touch);
    for (uint32_t b = 0; b < e->plan->buffer.n; b++) e->first_touch[b] = UINT32_MAX;
    for (uint32_t i = e->plan->step.n; i-- > 0;)
        for (uint32_t j = 0; j < e->plan->step.p[i].nargs; j++)
            e->first_touch[e->plan->step.p[i].arg[j].buffer] = i;
}

/* In place: two arguments of a step may be the same bytes. */
static bool overlaps_another(const Exec *e, const PlanStep *s, uint32_t arg) {
    const PlanBuffer *all = e->plan->buffer.p, *a = &all[s->arg[arg].buffer];
    for (uint32_t j = 0; j < s->nargs; j++) {
        const PlanBuffer *b = &all[s->arg[j].buffer];
        if (b != a && b->mem == a->mem && b->offset < a->offset + a->bytes &&
            a->offset < b->offset + b->bytes)
            return true;
    }
    return false;
}

Status exec_clear_fresh(Exec *e, uint32_t i) {
    const PlanStep *s = &e->plan->step.p[i];
    for (uint32_t j = 0; j < s->nargs; j++) {
        const PlanBuffer *b = &e->plan->buffer.p[s->arg[j].buffer];
        if (b->kind != BUF_TEMP || e->first_touch[s->arg[j].buffer] != i) continue;
        if (overlaps_another(e, s, j)) continue;
        TRY(e->ops->fill(e->device, s->stream, (char *)e->arena[b->mem] + b->offset, b->bytes));
    }
    return NULL;
}

/* ---- searching ---- */

typedef struct {
    const char *p;
    Dtype dtype;
    _Atomic int64_t first; /* index of the first that is not finite */
} Search;

/* NaN and infinity have all bits of the exponent set. */
static bool is_bad(Dtype d, const char *p, int64_t i) {
    uint64_t l;
    uint32_t w;
    uint16_t h;
    switch (d) {
    case DT_F64: memcpy(&l, p + i * 8, 8); return (~l & 0x7ff0000000000000u) == 0;
    case DT_F32: memcpy(&w, p + i * 4, 4); return (~w & 0x7f800000u) == 0;
    case DT_BF16: memcpy(&h, p + i * 2, 2); return (~h & 0x7f80u) == 0;
    case DT_F16: memcpy(&h, p + i * 2, 2); return (~h & 0x7c00u) == 0;
    default: return false;
    }
}

static void search_part(void *ctx, int64_t lo, int64_t hi, int thread) {
    Search *s = ctx;
    (void)thread;
    int64_t i = lo;
    while (i < hi && !is_bad(s->dtype, s->p, i)) i++;
    int64_t known = atomic_load(&s->first);
    while (i < hi && i < known && !atomic_compare_exchange_weak(&s->first, &known, i)) {
    }
}

static int64_t search_range(Exec *e, Dtype dtype, const char *p, int64_t n) {
    Search s = {.p = p, .dtype = dtype, .first = INT64_MAX};
    if (e->pool)
        pool_run(e->pool, search_part, &s, n, 1 << 14);
    else
        search_part(&s, 0, n, 0);
    return s.first;
}

/* Of a buffer that the host cannot see: part after part. */
static Status search_parts(Exec *e, uint32_t buffer, int64_t *first) {
    const PlanBuffer *b = &e->plan->buffer.p[buffer];
    char *part = xmalloc((size_t)MIN(b->bytes, (int64_t)EXEC_PART));
    int64_t size = dtype_size(b->dtype), bytes;
    Status s = NULL;
    for (int64_t at = 0; at < b->bytes && *first == INT64_MAX && !s; at += bytes) {
        bytes = MIN(b->bytes - at, (int64_t)EXEC_PART);
        s = exec_read_part(e, buffer, at, part, bytes);
        int64_t found = s ? INT64_MAX : search_range(e, b->dtype, part, bytes / size);
        if (found != INT64_MAX) *first = at / size + found;
    }
    free(part);
    return s;
}

static Status search(Exec *e, uint32_t buffer, int64_t *first) {
    const PlanBuffer *b = &e->plan->buffer.p[buffer];
    const char *p = exec_pointer(e, buffer);
    *first = INT64_MAX;
    if (!dtype_is_float(b->dtype)) return NULL;
    if (!p) return search_parts(e, buffer, first);
    *first = search_range(e, b->dtype, p, plan_elements(b));
    return NULL;
}

/* ---- what is said ---- */

static Status is_nan(Exec *e, uint32_t buffer, int64_t i, bool *nan) {
    const PlanBuffer *b = &e->plan->buffer.p[buffer];
    static const uint64_t mantissa[DT_COUNT] = {
        [DT_F32] = 0x7fffff, [DT_F64] = 0xfffffffffffff, [DT_BF16] = 0x7f, [DT_F16] = 0x3ff};
    uint64_t u = 0;
    int size = dtype_size(b->dtype);
    /* little-endian, as every machine we run on */
    TRY(e->ops->copy(e->device, 0, &u, exec_address(e, buffer) + i * size, size));
    TRY(e->ops->sync(e->device));
    *nan = (u & mantissa[b->dtype]) != 0;
    return NULL;
}

static void put_element(const PlanBuffer *b, int64_t i, Buf *out) {
    int64_t index[PLAN_MAX_RANK];
    for (int d = b->rank; d-- > 0; i /= b->dim[d]) index[d] = i % b->dim[d];
    buf_printf(out, "\"%s\"", b->name);
    for (int d = 0; d < b->rank; d++) buf_printf(out, "%s%lld", d ? "," : "[", (long long)index[d]);
    if (b->rank) buf_puts(out, "]");
}

static Status complain(Exec *e, const PlanStep *s, uint32_t buffer, int64_t at) {
    Buf out = {0};
    bool nan;
    TRY(is_nan(e, buffer, at, &nan));
    const char *where = s ? loc_text(e->plan->session, s->loc)
                          : loc_text(e->plan->session, e->plan->buffer.p[buffer].loc);
    if (where[0]) buf_printf(&out, "%s: ", where);
    buf_puts(&out, nan ? "NaN in " : "infinity in ");
    put_element(&e->plan->buffer.p[buffer], at, &out);
    if (!s) buf_puts(&out, " before the step began");
    if (s) {
        buf_puts(&out, ", made by ");
        exec_put_step(e, s, &out);
    }
    if (s && s->what && strchr(s->what, ' '))
        buf_puts(&out, "; a plan compiled with --skip fuse tells which of these");
    Status status = status_make(EXIT_INPUT, "%s", out.p);
    buf_free(&out);
    return status;
}

static Status check(Exec *e, const PlanStep *s, uint32_t buffer) {
    int64_t at;
    TRY(search(e, buffer, &at));
    return at == INT64_MAX ? NULL : complain(e, s, buffer, at);
}

Status exec_check_written(Exec *e, uint32_t i) {
    const PlanStep *s = &e->plan->step.p[i];
    for (uint32_t j = 0; j < s->nargs; j++)
        if (plan_writes(s, j)) TRY(check(e, s, s->arg[j].buffer));
    return NULL;
}

Status exec_check_kept(Exec *e) {
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < p->tensor.n; i++) TRY(check(e, NULL, p->tensor.p[i].buffer));
    for (uint32_t i = 0; i < p->input.n; i++) TRY(check(e, NULL, p->input.p[i].buffer));
    return NULL;
}
