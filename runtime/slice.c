/* slice.c: see slice.h. */
#include "runtime/slice.h"

Slice slice_all(int rank, const int64_t *dim) {
    ASSERT(rank <= SLICE_MAX_RANK);
    Slice s = {.rank = rank};
    for (int i = 0; i < rank; i++) s.whole[i] = s.dim[i] = dim[i];
    return s;
}

static void add_dim(Slice *s, int64_t whole, int64_t start, int64_t dim) {
    s->whole[s->rank] = whole;
    s->start[s->rank] = start;
    s->dim[s->rank++] = dim;
}

Slice slice_of(const Plan *plan, const PlanBuffer *b, int64_t rank) {
    Slice s = {0};
    for (int i = 0; i < b->rank; i++) {
        const PlanGroup *g = b->split[i] ? &plan->group.p[b->split[i] - 1] : NULL;
        int64_t blocks = g ? plan_group_size(g) : 1, index = g ? plan_group_index(g, rank) : 0;
        int64_t ranges = g && i == 0 ? MAX(b->ranges, (int64_t)1) : 1;
        int64_t whole = plan_whole_dim(plan, b, i) / ranges;
        ShareRange part =
            shares_range(g ? plan_shares(plan, g) : (Shares){0}, blocks, whole, index);
        if (ranges > 1) add_dim(&s, ranges, 0, ranges);
        add_dim(&s, whole, part.start, part.size);
    }
    return s;
}

static int64_t product(const int64_t *dim, int n) {
    int64_t p = 1;
    for (int i = 0; i < n; i++) p *= dim[i];
    return p;
}

int64_t slice_elements(const Slice *s) { return product(s->dim, s->rank); }

int64_t slice_whole_elements(const Slice *s) { return product(s->whole, s->rank); }

bool slice_is_all(const Slice *s) {
    for (int i = 0; i < s->rank; i++)
        if (s->dim[i] != s->whole[i]) return false;
    return true;
}

bool slice_equal(const Slice *a, const Slice *b) {
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->start[i] == b->start[i] && a->dim[i] == b->dim[i];
    return same;
}

bool slice_meets(const Slice *a, const Slice *b) {
    for (int i = 0; i < a->rank; i++)
        if (MAX(a->start[i], b->start[i]) >= MIN(a->start[i] + a->dim[i], b->start[i] + b->dim[i]))
            return false;
    return true;
}

/* Dimensions from the result on, at least the last, are all there: a run goes over them and along
 * the one before. */
static int first_all(const Slice *s) {
    int i = s->rank;
    while (i > 0 && s->dim[i - 1] == s->whole[i - 1]) i--;
    return i;
}

SliceRun slice_run(const Slice *s, int64_t part) {
    int all = first_all(s);
    int64_t inner = product(s->dim + all, s->rank - all), stride = inner;
    int64_t at = part / inner, run = all > 0 ? s->dim[all - 1] : 1;
    SliceRun r = {part % inner, part, run * inner - part % (run * inner)};
    for (int i = all; i-- > 0; stride *= s->whole[i], at /= s->dim[i])
        r.whole += (s->start[i] + at % s->dim[i]) * stride;
    return r;
}

SliceRun slice_find(const Slice *s, int64_t whole) {
    int all = first_all(s);
    int64_t inner = product(s->whole + all, s->rank - all), stride = inner, at = whole / inner;
    int64_t in_run = all > 0 ? at % s->whole[all - 1] - s->start[all - 1] : 0;
    int64_t run = all > 0 ? s->dim[all - 1] : 1;
    SliceRun r = {whole, whole % inner, run * inner - in_run * inner - whole % inner};
    bool inside = true;
    for (int i = all; i-- > 0; stride *= s->dim[i], at /= s->whole[i]) {
        int64_t x = at % s->whole[i] - s->start[i];
        inside = inside && x >= 0 && x < s->dim[i];
        r.part += x * stride;
    }
    if (inside) return r;
    /* To where a run could begin on this row, or to the row's end. */
    int64_t skip = in_run < 0 ? -in_run : s->whole[all - 1] - s->start[all - 1] - in_run;
    return (SliceRun){whole, -1, skip * inner - whole % inner};
}

int64_t slice_owner(const Plan *plan, const PlanBuffer *b, int64_t rank) {
    Slice mine = slice_of(plan, b, rank);
    int64_t stage = plan_stage_of(plan, rank);
    for (int64_t r = 0; r < rank; r++) {
        if (plan_stage_of(plan, r) != stage) continue;
        Slice other = slice_of(plan, b, r);
        if (slice_equal(&mine, &other)) return r;
    }
    return rank;
}
