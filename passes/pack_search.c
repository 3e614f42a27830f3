/* pack_search.c: exact search for offsets below a capacity.
 *
 * Every section keeps a floor: nothing more is placed below it. A node of the search takes one
 * section and branches on what comes next above its floor: one of the buffers that would rest
 * there, or a gap. The branches exclude each other and leave nothing out as long as no other buffer
 * can still come below one of them (count_branches). It is a section on the lowest floor, or the
 * one with the fewest branches, weighed by how often a section made the search fail (as dom/wdeg
 * does for constraint satisfaction: Boussemart et al., ECAI 2004). Gaps are paid for from the
 * section's slack, the capacity minus floor and what is still to be placed; in tight instances
 * nearly all branches die of that.
 *
 * Only solutions in which the sum of all offsets cannot be lowered by moving one buffer down or by
 * exchanging two neighbours of equal life are looked for (compare the canonical solutions of
 * Moffitt, "MiniMalloc", ASPLOS 2023): every buffer rests on another or on the ground; no buffer
 * fits into a gap that is closed; of two buffers with equal life, one on the other, the smaller is
 * below. Ranges of time that no unplaced buffer connects are searched one after the other.
 *
 * A run ends when its effort is spent; the next begins anew with the weights learned and another
 * order of branches. */
#include "passes/pack_private.h"

#include <stdlib.h>
#include <string.h>

#define NOT_YET INT64_MAX
/* Which section a node takes. No rule is best everywhere; runs take turns. */
typedef enum { LOWEST_FLOOR, FEWEST } Policy;
static const Policy turns[] = {LOWEST_FLOOR, LOWEST_FLOOR, LOWEST_FLOOR, FEWEST};
enum {
    MAX_MEETINGS = 1 << 22, /* pairs of buffers, and of buffers and sections */
    MAX_DEPTH = 8000        /* of the recursion */
};

typedef struct {
    int64_t *at, old;
} Change;
/* Sections from <= s < to; none when from >= to. */
typedef struct {
    uint32_t from, to;
} Range;

struct Search {
    const Sections *p;
    int64_t capacity, unit; /* all sizes are multiples of the unit */
    Policy policy;
    /* Who meets whom: row i is at[i] … at[i + 1]. */
    uint32_t *meets_at, *meets; /* by buffer: buffers */
    uint32_t *alive_at, *alive; /* by section: buffers */
    uint32_t *twin;             /* by buffer: the one before it with equal life and size, or n */
    int64_t *step;              /* by buffer: size of the smallest it meets */
    double *weight;             /* by section: failures, fading */
    double gain;                /* weight of the next failure */
    /* State, restored from `change` on the way back. */
    int64_t *floor, *top, *rest; /* by section; top: end of the highest buffer */
    int64_t *highest;            /* by section: that buffer, or n */
    int64_t *left;               /* by section: buffers still to be placed */
    int64_t *cross;              /* by section: those that live in the next one too */
    int64_t *branches;           /* by section */
    int64_t *least;              /* by buffer: its lowest offset; once placed, its offset */
    int64_t *rests;              /* by buffer: would rest on something there */
    int64_t *placed;             /* by buffer */
    VEC(Change) change;
    VEC(uint32_t) choice; /* buffers of the open nodes' branches */
    uint32_t *dirty, ndirty;
    bool *is_dirty;
    double *key;    /* by buffer: smaller is tried first */
    Range touched;  /* by the branch being taken */
    Range conflict; /* of the last failure: it follows from the state in these sections alone */
    uint32_t depth;
    int64_t effort, spent;
    double until;
};

static Range hull(Range a, Range b) {
    if (a.from >= a.to) return b;
    if (b.from >= b.to) return a;
    return (Range){MIN(a.from, b.from), MAX(a.to, b.to)};
}

static bool apart(Range a, Range b) { return a.to <= b.from || b.to <= a.from; }

static Range life_of(const Sections *p, uint32_t i) { return (Range){p->from[i], p->to[i]}; }

/* ---- undoing ---- */

static void set(Search *q, int64_t *at, int64_t value) {
    if (*at == value) return;
    vec_push(&q->change, ((Change){at, *at}));
    *at = value;
}

static void undo(Search *q, uint32_t mark) {
    while (q->change.n > mark) {
        Change c = q->change.p[--q->change.n];
        *c.at = c.old;
    }
}

/* ---- bounds ---- */

static void touch(Search *q, uint32_t from, uint32_t to) {
    q->touched = hull(q->touched, (Range){from, to});
    for (uint32_t s = from; s < to; s++)
        if (!q->is_dirty[s]) q->is_dirty[s] = true, q->dirty[q->ndirty++] = s;
}

/* Where the buffers live that are still to be placed in section s. */
static Range reach(const Search *q, uint32_t s) {
    Range r = {s, s + 1};
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++)
        if (!q->placed[q->alive[e]]) r = hull(r, life_of(q->p, q->alive[e]));
    return r;
}

static bool blame(Search *q, uint32_t section) {
    q->conflict = reach(q, section);
    q->weight[section] += q->gain;
    q->gain *= 1.0005;
    if (q->gain > 1e100) {
        for (uint32_t s = 0; s < q->p->nsection; s++) q->weight[s] *= 1e-100;
        q->gain *= 1e-100;
    }
    return false;
}

/* A buffer's turn has not come while its twin waits, or on a larger one of equal life. */
static bool is_branch(const Search *q, uint32_t i) {
    const Sections *p = q->p;
    if (!q->rests[i] || (q->twin[i] < p->n && !q->placed[q->twin[i]])) return false;
    uint32_t k = (uint32_t)q->highest[p->from[i]];
    if (k == p->n || p->from[k] != p->from[i] || p->to[k] != p->to[i]) return true;
    bool on = q->least[k] + p->size[k] == q->least[i];
    return !on || p->size[k] < p->size[i] || (p->size[k] == p->size[i] && k < i);
}

/* Sorts the buffers of a section by their lowest offset; they nearly are from the time before. */
static void sort_alive(Search *q, uint32_t s) {
    uint32_t *row = q->alive + q->alive_at[s], n = q->alive_at[s + 1] - q->alive_at[s];
    for (uint32_t e = 1; e < n; e++) {
        uint32_t i = row[e], to = e;
        for (; to && q->least[i] < q->least[row[to - 1]]; to--) row[to] = row[to - 1];
        row[to] = i;
        q->spent += e - to;
    }
    q->spent += n;
}

/* Whether all floors below buffer i are where it would rest. */
static bool is_flat(Search *q, uint32_t i) {
    const Sections *p = q->p;
    uint32_t s = p->from[i];
    while (s < p->to[i] && q->floor[s] == q->least[i]) s++;
    q->spent += s - p->from[i];
    return s == p->to[i];
}

/* Whether buffer i would fit below the floors of its sections. */
static bool fits_below(Search *q, uint32_t i) {
    const Sections *p = q->p;
    int64_t top = 0, floor = INT64_MAX;
    for (uint32_t s = p->from[i]; s < p->to[i] && floor - top >= p->size[i]; s++) {
        top = MAX(top, q->top[s]);
        floor = MIN(floor, q->floor[s]);
    }
    q->spent += p->to[i] - p->from[i];
    return floor - top >= p->size[i];
}

/* False when a buffer that is still to be placed would fit below. */
static bool raise_floor(Search *q, uint32_t s, int64_t floor) {
    const Sections *p = q->p;
    set(q, &q->floor[s], floor);
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++) {
        uint32_t i = q->alive[e];
        if (q->placed[i]) continue;
        if (q->least[i] == floor) touch(q, p->from[i], p->to[i]);
        if (p->size[i] <= floor - q->top[s] && fits_below(q, i)) {
            q->conflict = hull(life_of(p, i), (Range){s, s + 1});
            return false;
        }
    }
    return true;
}

/* Counts the branches of a section; NOT_YET when a buffer that may come to rest there has a lower
 * floor elsewhere, on which others may come before. False when there is none. */
static bool count_branches(Search *q, uint32_t s) {
    int64_t floor = q->floor[s], next = INT64_MAX, branches = 0;
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1] && branches != NOT_YET; e++) {
        uint32_t i = q->alive[e];
        if (q->placed[i]) continue;
        bool level = q->least[i] == floor;
        next = MIN(next, level ? floor + q->step[i] : q->least[i]);
        if (level && !is_flat(q, i))
            branches = NOT_YET;
        else
            branches += level && is_branch(q, i);
    }
    if (branches != NOT_YET) branches += next + q->rest[s] <= q->capacity;
    set(q, &q->branches[s], branches);
    return branches || blame(q, s);
}

/* Raises a section's floor to the lowest offset of its buffers, and counts its branches. False when
 * the buffers, none below its lowest offset, would end above the capacity. */
static bool refresh(Search *q, uint32_t s) {
    const Sections *p = q->p;
    if (!q->left[s]) return true;
    int64_t least = -1, end = 0;
    sort_alive(q, s);
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++) {
        uint32_t i = q->alive[e];
        if (q->placed[i]) continue;
        if (least < 0) least = q->least[i];
        end = MAX(end, q->least[i]) + p->size[i];
    }
    if (end > q->capacity) return blame(q, s);
    if (least > q->floor[s] && !raise_floor(q, s, least)) return false;
    return count_branches(q, s);
}

static bool refresh_dirty(Search *q) {
    bool ok = true;
    while (q->ndirty) {
        uint32_t s = q->dirty[--q->ndirty];
        q->is_dirty[s] = false;
        ok = ok && refresh(q, s);
    }
    return ok;
}

/* ---- the two kinds of branches ---- */

/* Buffers that meet i move up. */
static void lift_others(Search *q, uint32_t i) {
    const Sections *p = q->p;
    int64_t end = q->least[i] + p->size[i];
    for (uint32_t e = q->meets_at[i]; e < q->meets_at[i + 1]; e++) {
        uint32_t k = q->meets[e];
        if (q->placed[k] || q->least[k] > end) continue;
        set(q, &q->rests[k], true);
        set(q, &q->least[k], end);
        touch(q, p->from[k], p->to[k]);
    }
    q->spent += q->meets_at[i + 1] - q->meets_at[i];
}

static bool place(Search *q, uint32_t i) {
    const Sections *p = q->p;
    int64_t end = q->least[i] + p->size[i];
    q->touched = life_of(p, i);
    set(q, &q->placed[i], true);
    for (uint32_t s = p->from[i]; s < p->to[i]; s++) {
        set(q, &q->floor[s], end);
        set(q, &q->top[s], end);
        set(q, &q->highest[s], i);
        set(q, &q->rest[s], q->rest[s] - p->size[i]);
        set(q, &q->left[s], q->left[s] - 1);
        if (s + 1 < p->to[i]) set(q, &q->cross[s], q->cross[s] - 1);
        if (end + q->rest[s] > q->capacity) return blame(q, s);
    }
    q->spent += 4 * (p->to[i] - p->from[i]);
    touch(q, p->from[i], p->to[i]);
    lift_others(q, i);
    return refresh_dirty(q);
}

/* The lowest offset of a buffer of section s that does not rest on its floor: it rests on one that
 * is not in s. */
static int64_t above_gap(Search *q, uint32_t s, uint32_t i) {
    const Sections *p = q->p;
    int64_t floor = q->floor[s], least = INT64_MAX;
    if (q->least[i] > floor) return q->least[i];
    for (uint32_t e = q->meets_at[i]; e < q->meets_at[i + 1]; e++) {
        uint32_t k = q->meets[e];
        int64_t end = q->least[k] + p->size[k];
        bool in = p->from[k] <= s && s < p->to[k];
        if (!q->placed[k] && !in && end > floor) least = MIN(least, end);
    }
    q->spent += q->meets_at[i + 1] - q->meets_at[i];
    return least;
}

static bool leave_gap(Search *q, uint32_t s) {
    const Sections *p = q->p;
    int64_t next = INT64_MAX;
    q->touched = (Range){s, s + 1};
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++)
        if (!q->placed[q->alive[e]]) next = MIN(next, above_gap(q, s, q->alive[e]));
    if (next == INT64_MAX || next + q->rest[s] > q->capacity) return blame(q, s);
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++) {
        uint32_t i = q->alive[e];
        if (q->placed[i] || q->least[i] >= next) continue;
        set(q, &q->least[i], next);
        set(q, &q->rests[i], false);
        touch(q, p->from[i], p->to[i]);
    }
    touch(q, s, s + 1);
    return refresh_dirty(q);
}

/* ---- the tree ---- */

/* How early section s is to be branched on: the least comes first. */
static double cost_of(const Search *q, uint32_t s) {
    double branches = (double)q->branches[s];
    if (q->policy == FEWEST) return branches;
    return (double)(q->floor[s] / q->unit) + 1e-3 * branches / (1 + q->weight[s] / q->gain);
}

/* The section to branch on among from … to; `to` when all is placed. One branch is no choice. */
static uint32_t choose_section(Search *q, uint32_t from, uint32_t to) {
    uint32_t best = to;
    double least = 0;
    q->spent += to - from;
    for (uint32_t s = from; s < to; s++) {
        if (!q->left[s] || q->branches[s] == NOT_YET) continue;
        if (q->branches[s] == 1) return s;
        double cost = cost_of(q, s);
        if (best == to || cost < least || (cost == least && q->floor[s] < q->floor[best]))
            best = s, least = cost;
    }
    return best;
}

/* Pushes the branches of section s but the gap, in order of their keys. */
static void push_choices(Search *q, uint32_t s) {
    uint32_t begin = q->choice.n;
    for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++) {
        uint32_t i = q->alive[e];
        if (q->placed[i] || q->least[i] != q->floor[s] || !is_branch(q, i)) continue;
        vec_push(&q->choice, i);
        for (uint32_t k = q->choice.n - 1;
             k > begin && q->key[q->choice.p[k]] < q->key[q->choice.p[k - 1]]; k--) {
            uint32_t other = q->choice.p[k - 1];
            q->choice.p[k - 1] = q->choice.p[k], q->choice.p[k] = other;
        }
    }
}

static bool out_of_effort(const Search *q) {
    return q->spent > q->effort || q->depth > MAX_DEPTH ||
           (q->until > 0 && now_seconds() > q->until);
}

static PackAnswer solve(Search *q, uint32_t from, uint32_t to);

/* Solves the ranges of from … to that nothing connects; *one is set, and nothing done, when it is
 * but one. */
static PackAnswer solve_parts(Search *q, uint32_t from, uint32_t to, bool *one) {
    uint32_t begin = from;
    for (uint32_t s = from; s < to; s++) {
        if (q->cross[s] && s + 1 < to) continue;
        if (begin == from && s + 1 == to) {
            *one = true;
            return PACK_FITS;
        }
        PackAnswer got = solve(q, begin, s + 1);
        if (got != PACK_FITS) return got;
        begin = s + 1;
    }
    return PACK_FITS;
}

/* What one branch comes to: placing buffer i, or with i = n a gap in section s. *reason grows by
 * what the failure follows from; *reason alone when the branch has no part in it. */
static PackAnswer try_branch(Search *q, Range range, uint32_t s, uint32_t i, Range *reason,
                             bool *no_part) {
    uint32_t mark = q->change.n;
    bool ok = i < q->p->n ? place(q, i) : leave_gap(q, s);
    Range touched = q->touched;
    PackAnswer got = ok ? solve(q, range.from, range.to) : PACK_IMPOSSIBLE;
    if (got != PACK_IMPOSSIBLE) return got;
    undo(q, mark);
    *no_part = apart(q->conflict, touched);
    *reason = *no_part ? q->conflict : hull(*reason, hull(q->conflict, touched));
    return got;
}

/* Places what lives in the sections from … to. Undoes what it did unless all fits. When a failure
 * does not follow from a branch taken, the other branches of that node would fail alike, and it is
 * left at once (as in conflict-directed backjumping: Prosser 1993). */
static PackAnswer solve(Search *q, uint32_t from, uint32_t to) {
    uint32_t mark = q->change.n, begin = q->choice.n;
    bool one = false, no_part = false;
    if (out_of_effort(q)) return PACK_UNSETTLED;
    PackAnswer got = solve_parts(q, from, to, &one);
    if (!one) {
        if (got == PACK_IMPOSSIBLE) undo(q, mark);
        return got;
    }
    uint32_t s = choose_section(q, from, to);
    if (s == to) return PACK_FITS;
    Range reason = reach(q, s);
    push_choices(q, s);
    uint32_t end = q->choice.n;
    vec_push(&q->choice, q->p->n);
    q->depth++;
    got = PACK_IMPOSSIBLE;
    for (uint32_t c = begin; c <= end && got == PACK_IMPOSSIBLE && !no_part; c++)
        got = try_branch(q, (Range){from, to}, s, q->choice.p[c], &reason, &no_part);
    q->depth--;
    q->choice.n = begin;
    q->conflict = reason;
    return got;
}

/* ---- runs ---- */

static bool meet(const Sections *p, uint32_t i, uint32_t k) {
    return i != k && p->from[i] < p->to[k] && p->from[k] < p->to[i];
}

/* Fills in the rows of both tables; false when they would be too large. */
static bool list_meetings(Search *q, Arena *a) {
    const Sections *p = q->p;
    uint32_t pairs = 0;
    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t s = p->from[i]; s < p->to[i]; s++) {
            q->alive_at[s + 1]++;
            if (++pairs > MAX_MEETINGS) return false;
        }
    for (uint32_t s = 0; s < p->nsection; s++) q->alive_at[s + 1] += q->alive_at[s];
    uint32_t *next = arena_array(a, uint32_t, p->nsection);
    memcpy(next, q->alive_at, p->nsection * sizeof *next);
    q->alive = arena_array(a, uint32_t, pairs);
    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t s = p->from[i]; s < p->to[i]; s++) q->alive[next[s]++] = i;
    VEC(uint32_t) meets = {0};
    for (uint32_t i = 0; i < p->n && meets.n <= MAX_MEETINGS; i++) {
        for (uint32_t k = 0; k < p->n; k++)
            if (meet(p, i, k)) vec_push(&meets, k);
        q->meets_at[i + 1] = meets.n;
    }
    bool ok = meets.n <= MAX_MEETINGS;
    if (ok) {
        q->meets = arena_array(a, uint32_t, meets.n);
        if (meets.n) memcpy(q->meets, meets.p, meets.n * sizeof *meets.p);
    }
    vec_free(&meets);
    return ok;
}

static void list_twins(Search *q) {
    const Sections *p = q->p;
    for (uint32_t i = 0; i < p->n; i++) {
        q->twin[i] = p->n;
        q->step[i] = INT64_MAX / 4;
        for (uint32_t e = q->meets_at[i]; e < q->meets_at[i + 1]; e++) {
            uint32_t k = q->meets[e];
            q->step[i] = MIN(q->step[i], p->size[k]);
            bool equal =
                p->from[k] == p->from[i] && p->to[k] == p->to[i] && p->size[k] == p->size[i];
            if (equal && k < i) q->twin[i] = k;
        }
    }
}

Search *search_new(const Sections *p, int64_t unit, Arena *a) {
    Search *q = arena_new_of(a, Search);
    uint32_t n = p->n, m = p->nsection;
    q->p = p;
    q->meets_at = arena_array(a, uint32_t, n + 1);
    q->alive_at = arena_array(a, uint32_t, m + 1);
    if (!list_meetings(q, a)) return NULL;
    q->twin = arena_array(a, uint32_t, n);
    q->step = arena_array(a, int64_t, n);
    list_twins(q);
    int64_t **by_section[] = {&q->floor, &q->top,   &q->rest,    &q->highest,
                              &q->left,  &q->cross, &q->branches};
    int64_t **by_buffer[] = {&q->least, &q->rests, &q->placed};
    for (size_t i = 0; i < COUNT(by_section); i++) *by_section[i] = arena_array(a, int64_t, m);
    for (size_t i = 0; i < COUNT(by_buffer); i++) *by_buffer[i] = arena_array(a, int64_t, n);
    q->weight = arena_array(a, double, m);
    q->key = arena_array(a, double, n);
    q->dirty = arena_array(a, uint32_t, m);
    q->is_dirty = arena_array(a, bool, m);
    q->gain = 1;
    q->unit = unit;
    return q;
}

static double key_of(const Sections *p, uint32_t i, uint32_t order) {
    double size = (double)p->size[i], life = p->to[i] - p->from[i];
    double key[] = {-size, -size * life, -life, size};
    double vary = order < COUNT(key) ? 1 : 0.5 + random_unit(philox(order, i, NULL));
    return key[order % COUNT(key)] * vary;
}

static bool start(Search *q, int64_t capacity, uint32_t order) {
    const Sections *p = q->p;
    q->capacity = capacity;
    q->policy = turns[order % COUNT(turns)];
    q->change.n = q->choice.n = q->depth = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        q->least[i] = 0;
        q->rests[i] = true;
        q->placed[i] = p->from[i] == p->to[i];
        q->key[i] = key_of(p, i, order / COUNT(turns));
    }
    for (uint32_t s = 0; s < p->nsection; s++) {
        q->floor[s] = q->top[s] = q->rest[s] = q->cross[s] = 0;
        q->highest[s] = p->n;
        q->left[s] = q->alive_at[s + 1] - q->alive_at[s];
        for (uint32_t e = q->alive_at[s]; e < q->alive_at[s + 1]; e++) {
            q->rest[s] += p->size[q->alive[e]];
            q->cross[s] += s + 1 < p->to[q->alive[e]];
        }
    }
    touch(q, 0, p->nsection);
    return refresh_dirty(q);
}

PackAnswer search_run(Search *q, int64_t capacity, uint32_t order, int64_t effort, double until,
                      int64_t *offset) {
    q->effort = q->spent + effort;
    q->until = until;
    PackAnswer got = PACK_IMPOSSIBLE;
    if (start(q, capacity, order)) got = solve(q, 0, q->p->nsection);
    for (uint32_t i = 0; i < q->p->n && got == PACK_FITS; i++) offset[i] = q->least[i];
    vec_free(&q->change);
    vec_free(&q->choice);
    return got;
}

int64_t search_spent(const Search *q) { return q->spent; }

int64_t search_dive(const Search *q) {
    return 1000 + (int64_t)q->alive_at[q->p->nsection] * q->p->n;
}
