/* plan_check_comm.c: what the executor relies on where several ranks take part: groups partition
 * the ranks, parts are parts of something, messages lie inside their buffers and overlap nothing
 * but, in an all_reduce, their own results. */
#include "runtime/plan_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FAIL(why, ...) ((why)->n ? (void)0 : buf_printf((why), __VA_ARGS__))

/* ---- mesh and groups ---- */

static bool is_name(const char *s, size_t n) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return n > 0 && !(s[0] >= '0' && s[0] <= '9') && strspn(s, letters) >= n;
}

void plan_check_mesh(const Plan *p, Buf *why) {
    int64_t ranks = 1;
    for (const char *s = p->mesh; !why->n; s++) {
        size_t n = strcspn(s, "=,");
        if (!is_name(s, n) || s[n] != '=') {
            FAIL(why, "expected an axis of the mesh and '='");
            return;
        }
        s += n + 1;
        n = strcspn(s, ",");
        int64_t size = 1;
        if (!is_name(s, n) && (!parse_i64(s, n, &size) || size < 1))
            FAIL(why, "an axis has a size, or the devices of another");
        if (__builtin_mul_overflow(ranks, size, &ranks)) FAIL(why, "too many ranks");
        if (!*(s += n)) break;
    }
    if (ranks != p->ranks)
        FAIL(why, "the mesh has %lld ranks, the plan %lld", (long long)ranks, (long long)p->ranks);
}

enum { MOST_LEVELS = PLAN_MAX_LEVELS * PLAN_MAX_RANK };

typedef struct {
    int64_t size, stride;
} Level;

static int by_stride(const void *a, const void *b) {
    const Level *x = a, *y = b;
    if (x->stride != y->stride) return x->stride < y->stride ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size);
}

/* Are these places of one number below `ranks`, none of them part of another? */
static bool are_places(Level *l, int n, int64_t ranks) {
    int64_t below = 1;
    qsort(l, (size_t)n, sizeof *l, by_stride);
    for (int i = 0; i < n; i++) {
        if (l[i].size == 1) continue;
        if (l[i].stride % below != 0 || ranks % l[i].stride != 0) return false;
        if (ranks / l[i].stride % l[i].size != 0) return false;
        below = l[i].stride * l[i].size;
    }
    return true;
}

static int add_levels(const PlanGroup *g, Level *l, int n) {
    for (int i = 0; i < g->nlevel; i++) l[n++] = (Level){g->size[i], g->stride[i]};
    return n;
}

void plan_check_group(const Plan *p, const PlanGroup *g, Buf *why) {
    Level level[PLAN_MAX_LEVELS];
    if (!are_places(level, add_levels(g, level, 0), p->ranks))
        FAIL(why, "these groups do not part the %lld ranks", (long long)p->ranks);
    Shares s = plan_shares(p, g);
    if (s.n && plan_group_size(g) % s.n != 0)
        FAIL(why, "%lld ranks do not have %lld shares", (long long)plan_group_size(g),
             (long long)s.n);
    for (uint32_t i = 0; i < p->group.n; i++)
        if (strcmp(p->group.p[i].name, g->name) == 0) FAIL(why, "a second group \"%s\"", g->name);
}

/* ---- parts ---- */

void plan_check_split(const Plan *p, const PlanBuffer *b, Buf *why) {
    Level level[MOST_LEVELS];
    int n = 0;
    int64_t bytes = dtype_size(b->dtype);
    if (b->kind == BUF_TEMP) FAIL(why, "a temporary is no part of a tensor");
    for (int i = 0; i < b->rank; i++) {
        const PlanGroup *g = b->split[i] ? &p->group.p[b->split[i] - 1] : NULL;
        int64_t whole = plan_whole_dim(p, b, i), ranges = i ? 1 : MAX(b->ranges, (int64_t)1);
        if (g) n = add_levels(g, level, n);
        if (whole < 0 || (g && plan_shares(p, g).n &&
                          !shares_divide(plan_shares(p, g), plan_group_size(g), whole / ranges)))
            FAIL(why, "dimension %d of %lld elements is no part of a whole one", i,
                 (long long)b->dim[i]);
        else if (__builtin_mul_overflow(bytes, whole, &bytes))
            FAIL(why, "the whole tensor has more than 2^63 bytes");
    }
    if (!are_places(level, n, p->ranks)) FAIL(why, "two dimensions are split over the same ranks");
    if (b->ranges > 1 && (!b->split[0] || b->dim[0] % b->ranges != 0))
        FAIL(why, "dimension 0 is not in %lld ranges", (long long)b->ranges);
}

/* ---- collectives ---- */

/* Elements that an operand (or result) of count n takes: blocks of all ranks, or one. */
static int64_t elements(const Plan *p, const PlanCollective *c, int64_t n, bool result) {
    int64_t ranks = plan_group_size(&p->group.p[c->group]);
    if (!result) return n;
    if (c->kind == COLLECTIVE_REDUCE_SCATTER) return n / ranks;
    if (c->kind == COLLECTIVE_ALL_GATHER && __builtin_mul_overflow(n, ranks, &n)) return INT64_MAX;
    return n;
}

static void check_inside(const Plan *p, const PlanArg *a, int64_t elements, Dtype d, Buf *why) {
    int64_t bytes, there = p->buffer.p[a->buffer].bytes - a->offset;
    if (__builtin_mul_overflow(elements, (int64_t)dtype_size(d), &bytes) || bytes > there)
        FAIL(why, "%lld elements of %s do not lie inside b%u", (long long)elements, dtype_name(d),
             a->buffer);
    if (a->offset % dtype_size(d))
        FAIL(why, "b%u+%lld is not aligned to %s", a->buffer, (long long)a->offset, dtype_name(d));
}

static void check_places(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanCollective *c = &s->collective;
    uint32_t in = plan_comm_operands(c), out = plan_comm_results(c);
    int64_t message = 0;
    for (uint32_t i = 0; i < in; i++)
        check_inside(p, &s->arg[i], elements(p, c, c->count[i], false), c->dtype, why);
    for (uint32_t i = 0; i < out; i++)
        check_inside(p, &s->arg[in + i], elements(p, c, c->count[i], true), c->dtype, why);
    for (uint32_t i = 0; i < c->n; i++)
        if (__builtin_add_overflow(message, c->count[i], &message)) FAIL(why, "too many elements");
    message = elements(p, c, message, c->kind == COLLECTIVE_ALL_GATHER);
    if (c->room) check_inside(p, &s->arg[in + out], message, c->wire, why);
    if (c->room && s->arg[in + out].offset % 64) FAIL(why, "the room is not aligned to 64 bytes");
}

/* The bytes that argument i takes of its memory, from *at on. */
static int64_t bytes_of(const Plan *p, const PlanStep *s, uint32_t i, int64_t *at) {
    const PlanCollective *c = &s->collective;
    const PlanBuffer *f = &p->buffer.p[s->arg[i].buffer];
    uint32_t in = plan_comm_operands(c);
    *at = f->offset + s->arg[i].offset;
    if (i == in + plan_comm_results(c)) return f->bytes - s->arg[i].offset;
    return elements(p, c, c->count[i < in ? i : i - in], i >= in) * dtype_size(c->dtype);
}

/* What is written overlaps nothing else; an all_reduce's operand may be where its result is. */
static void check_overlap(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanCollective *c = &s->collective;
    for (uint32_t i = plan_comm_operands(c); i < s->nargs; i++)
        for (uint32_t j = 0; j < s->nargs && !why->n; j++) {
            int64_t x, y, nx = bytes_of(p, s, i, &x), ny = bytes_of(p, s, j, &y);
            bool own = c->kind == COLLECTIVE_ALL_REDUCE && i == j + c->n && i < 2 * c->n && x == y;
            if (i != j && !own && x < y + ny && y < x + nx)
                FAIL(why, "writes b%u over b%u", s->arg[i].buffer, s->arg[j].buffer);
        }
}

static void check_message(const PlanCollective *c, int64_t ranks, Buf *why) {
    bool several = c->kind != COLLECTIVE_ALL_TO_ALL, converts = c->kind != COLLECTIVE_ALL_GATHER;
    bool blocks = c->kind == COLLECTIVE_REDUCE_SCATTER || c->kind == COLLECTIVE_ALL_TO_ALL;
    if (c->n > 1 && !several) FAIL(why, "%s has one operand", collective_name(c->kind));
    for (uint32_t i = 0; i < c->n && blocks; i++)
        if (c->count[i] % ranks != 0)
            FAIL(why, "%lld elements are not as many for each of %lld ranks",
                 (long long)c->count[i], (long long)ranks);
    bool low = dtype_is_half(c->wire);
    if (c->wire != c->dtype && !(converts && low && dtype_is_float(c->dtype)))
        FAIL(why, "%s of %s cannot be sent as %s", collective_name(c->kind), dtype_name(c->dtype),
             dtype_name(c->wire));
    if (!(isfinite(c->scale) && c->scale > 0) || (c->wire == c->dtype && c->scale != 1))
        FAIL(why, "the scale cannot be %g", c->scale);
    if (plan_comm_pairs(c) != (c->peer >= 0) || c->peer >= ranks)
        FAIL(why, "the other rank must be one of the group's %lld, for send and recv",
             (long long)ranks);
    if (c->room != (c->n > 1 || c->wire != c->dtype))
        FAIL(why, "a message has room where it is put together, and only there");
}

void plan_check_collective(const Plan *p, const PlanStep *s, Buf *why) {
    const PlanCollective *c = &s->collective;
    uint32_t nargs = plan_comm_operands(c) + plan_comm_results(c) + c->room;
    if (s->nargs != nargs) FAIL(why, "this %s has %u arguments", collective_name(c->kind), nargs);
    check_message(c, plan_group_size(&p->group.p[c->group]), why);
    if (!why->n) check_places(p, s, why);
    if (!why->n) check_overlap(p, s, why);
}
