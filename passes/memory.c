/* memory.c: the pass: under budgets, which plan.
 *
 * Plans come from one family that does not depend on the device's budget: the choices of the greedy
 * search at falling targets, and the fixed policies that people set by hand. They are looked at
 * best first: by a lower bound of their time (the work of the busiest stream), then by their
 * simulated time; the fastest is made into a graph and its bytes are placed; the first that fits is
 * the plan. A larger budget can only choose from more, so time never falls with the budget. Where
 * there is little to decide, the family is all choices there are.
 *
 * Limits: the order is the scheduler's; a parameter's cast copy is made on the device; a parameter
 * and its states are one decision; group-wise apply is one tensor a group under a budget, whatever
 * `groups` says about the order. */
#include "passes/memory_private.h"

#include <stdlib.h>
#include <string.h>

enum {
    EXACT_CHOICES = 4096, /* all of them are compared up to this number */
    EXACT_WINDOWS = 3,    /* targets of windows tried for each */
    MOST_LEVELS = 160,
    MOST_BEGINNINGS = 800, /* decisions up to which searches have all their beginnings and ways */
    MOST_WEIGHTS = 5000,   /* decisions up to which copies are weighed in three ways */
    SMALLEST_OF = 8        /* candidates compared when nothing fits */
};
static const double LEVEL = 0.96; /* each target beside the one above */

typedef struct {
    uint32_t *choice;
    uint32_t number;         /* in the family: ties go to the lower */
    int64_t target;          /* of its windows */
    int64_t peak[MEM_COUNT]; /* live bytes without windows: no less than these */
    double least;            /* no less time than this */
    bool timed, placed;
    double us;                /* once timed */
    int64_t arena[MEM_COUNT]; /* once placed */
} Candidate;

typedef struct {
    Problem p;
    VEC(Candidate) list;
    int64_t smallest; /* device bytes */
    Candidate *best;
    Price unconstrained;
} Planner;

const char *memory_how(MemoryHow how) {
    static const char *const name[] = {"recompute", "move-host", "move-disk",
                                       "host",      "disk",      "update-host"};
    _Static_assert(COUNT(name) == HOW_COUNT, "a name for each");
    return name[how];
}

/* ---- candidates ---- */

/* The busiest stream's work, the compute stream's with what copies take from it. */
static double least_time(const Problem *p, const Program *g) {
    double least = g->us[STREAM_COMPUTE];
    for (int s = 1; s < STREAM_COMM; s++) least += p->share * g->us[s];
    for (int s = 1; s < STREAM_COUNT; s++) least = MAX(least, g->us[s]);
    return least;
}

static void add_candidate(Planner *l, const Choice choice, const Program *g, int64_t target) {
    if (g->broken) return;
    uint32_t n = l->p.subject.n;
    Candidate c = {.choice = arena_array(l->p.arena, uint32_t, n + 1),
                   .number = l->list.n,
                   .target = target,
                   .least = least_time(&l->p, g)};
    memcpy(c.choice, choice, n * sizeof *choice);
    memcpy(c.peak, g->peak, sizeof c.peak);
    vec_push(&l->list, c);
}

static Graph *candidate_graph(Planner *l, const Candidate *c) {
    Program g;
    program_make(&l->p, c->choice, &g);
    program_windows(&l->p, &g, c->target);
    Graph *made = program_emit(&l->p, &g);
    program_free(&g);
    return made;
}

static void time_candidate(Planner *l, Candidate *c) {
    if (c->timed) return;
    Program g;
    program_make(&l->p, c->choice, &g);
    program_windows(&l->p, &g, c->target);
    c->us = program_time(&l->p, &g);
    c->timed = true;
    program_free(&g);
}

/* Does it keep the budgets of memory `from` and those after it? */
static bool keeps(const Planner *l, const Candidate *c, int from) {
    for (int m = from; m < MEM_COUNT; m++)
        if (c->arena[m] > l->p.budget[m]) return false;
    return true;
}

static void place_candidate(Planner *l, Candidate *c) {
    if (c->placed) return;
    Graph *g = candidate_graph(l, c);
    memory_place(g, c->arena);
    c->placed = true;
    graph_free(g);
    if (keeps(l, c, MEM_HOST)) l->smallest = MIN(l->smallest, c->arena[MEM_DEVICE]);
}

/* Do its live bytes in memory `from` and those after it keep the budgets? */
static bool may_fit(const Planner *l, const Candidate *c, int from) {
    for (int m = from; m < MEM_COUNT; m++)
        if (c->peak[m] > l->p.budget[m]) return false;
    return true;
}

/* The graph as it is. */
static void price_unconstrained(Planner *l) {
    uint32_t *choice = arena_array(l->p.arena, uint32_t, l->p.subject.n + 1);
    for (uint32_t i = 0; i < l->p.subject.n; i++) choice[i] = NONE;
    Program g;
    program_make(&l->p, choice, &g);
    l->unconstrained.us = program_time(&l->p, &g);
    memory_place(l->p.g, l->unconstrained.arena);
    program_free(&g);
}

/* ---- the family ---- */

/* Targets fall from where `choice` begins. */
static void add_levels(Planner *l, SearchHow how, Choice choice) {
    Program g;
    program_make(&l->p, choice, &g);
    double target = (double)g.peak[MEM_DEVICE];
    bool reached = true;
    for (int i = 0; i < MOST_LEVELS && reached; i++) {
        target *= LEVEL;
        reached = search_greedy(&l->p, (int64_t)target, how, choice, &g);
        if (!g.late) add_candidate(l, choice, &g, (int64_t)target);
    }
    program_free(&g);
}

/* From nothing, with copies cheaper than they seem, at their price, and dearer; and from what
 * people begin with. */
static void add_walks(Planner *l, bool plain) {
    uint32_t *choice = arena_array(l->p.arena, uint32_t, l->p.subject.n + 1);
    bool many = l->p.subject.n > MOST_WEIGHTS;
    for (double weight = many ? 1 : 0.25; weight < (many ? 2 : 5); weight *= 4) {
        search_forced(&l->p, choice);
        add_levels(l, (SearchHow){weight, plain}, choice);
    }
    bool large = l->p.subject.n > MOST_BEGINNINGS;
    for (int i = 0; search_policy(&l->p, i, choice); i++)
        if (search_begins(i, large)) add_levels(l, (SearchHow){1, plain}, choice);
}

static void add_searches(Planner *l) {
    add_walks(l, false);
    if (l->p.subject.n <= MOST_BEGINNINGS) add_walks(l, true);
}

static void add_policies(Planner *l) {
    uint32_t *choice = arena_array(l->p.arena, uint32_t, l->p.subject.n + 1);
    for (int i = 0; search_policy(&l->p, i, choice); i++) {
        Program g;
        program_make(&l->p, choice, &g);
        add_candidate(l, choice, &g, INT64_MAX);
        add_candidate(l, choice, &g, 0);
        program_free(&g);
    }
}

/* Number of choices there are, or more than EXACT_CHOICES. */
static uint64_t count_choices(const Problem *p) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < p->subject.n && n <= EXACT_CHOICES; i++)
        if (!p->subject.p[i].hinted) n *= p->subject.p[i].noption + 1;
    return n;
}

static void add_all(Planner *l, uint64_t count) {
    const Problem *p = &l->p;
    uint32_t *choice = arena_array(p->arena, uint32_t, p->subject.n + 1);
    for (uint64_t k = 0; k < count; k++) {
        uint64_t rest = k;
        search_forced(p, choice);
        for (uint32_t i = 0; i < p->subject.n; i++) {
            const Subject *s = &p->subject.p[i];
            if (s->hinted) continue;
            uint32_t o = (uint32_t)(rest % (s->noption + 1));
            rest /= s->noption + 1;
            choice[i] = o ? s->option + o - 1 : NONE;
        }
        Program g;
        program_make(p, choice, &g);
        for (int w = 0; w < EXACT_WINDOWS; w++)
            add_candidate(l, choice, &g,
                          w ? p->slots.bound[MEM_DEVICE] * w / (EXACT_WINDOWS - 1) : 0);
        program_free(&g);
    }
}

static bool any_forced(const Problem *p) {
    for (uint32_t i = 0; i < p->subject.n; i++)
        if (p->subject.p[i].forced != NONE) return true;
    return false;
}

/* Whether the graph as it is keeps the budget, and nothing could be gained but by computing again:
 * then no plan has less work. (With a host, updates there may be faster.) */
static bool everything_fits(const Planner *l) {
    const int64_t *budget = l->p.budget;
    return budget[MEM_HOST] == 0 && budget[MEM_DISK] == 0 && !any_forced(&l->p) &&
           l->unconstrained.arena[MEM_DEVICE] <= budget[MEM_DEVICE];
}

static void add_family(Planner *l) {
    uint32_t *choice = arena_array(l->p.arena, uint32_t, l->p.subject.n + 1);
    Program g;
    search_forced(&l->p, choice);
    program_make(&l->p, choice, &g);
    add_candidate(l, choice, &g, search_just_in_time(&l->p) ? 0 : INT64_MAX);
    program_free(&g);
    if (l->p.budget[MEM_DEVICE] == INT64_MAX || everything_fits(l)) return;
    uint64_t count = count_choices(&l->p);
    add_policies(l);
    if (count <= EXACT_CHOICES)
        add_all(l, count);
    else
        add_searches(l);
}

/* ---- which one ---- */

static int by_least(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->least != y->least) return x->least < y->least ? -1 : 1;
    if (x->target != y->target) return x->target > y->target ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static int by_peak(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->peak[MEM_DEVICE] != y->peak[MEM_DEVICE])
        return x->peak[MEM_DEVICE] < y->peak[MEM_DEVICE] ? -1 : 1;
    if (x->target != y->target) return x->target < y->target ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* Of the candidates that are timed and not placed: the fastest, or NULL. */
static Candidate *fastest_open(const Planner *l, uint32_t timed) {
    Candidate *best = NULL;
    for (uint32_t i = 0; i < timed; i++) {
        Candidate *c = &l->list.p[i];
        if (c->timed && !c->placed && (!best || c->us < best->us)) best = c;
    }
    return best;
}

/* The fastest that fits, best first: a candidate is timed when its lower bound is the least of what
 * is not timed, and placed when no other can be faster. */
static void choose(Planner *l) {
    qsort(l->list.p, l->list.n, sizeof *l->list.p, by_least);
    for (uint32_t i = 0;;) {
        while (i < l->list.n && !may_fit(l, &l->list.p[i], MEM_DEVICE)) i++;
        Candidate *c = fastest_open(l, i);
        if (c && (i == l->list.n || c->us <= l->list.p[i].least)) {
            place_candidate(l, c);
            if (keeps(l, c, MEM_DEVICE)) {
                l->best = c;
                return;
            }
        } else if (i < l->list.n) {
            time_candidate(l, &l->list.p[i++]);
        } else {
            return;
        }
    }
}

/* Nothing keeps even the budgets of host and disk: what was asked for stands for all plans. */
static void take_first(Planner *l) {
    for (uint32_t i = 0; i < l->list.n && !l->best; i++)
        if (l->list.p[i].number == 0) l->best = &l->list.p[i];
    if (!l->best) return;
    time_candidate(l, l->best);
    place_candidate(l, l->best);
    l->smallest = MIN(l->smallest, l->best->arena[MEM_DEVICE]);
}

/* Of plans that all do not fit: the one that takes the least of the device. Those with the lowest
 * peaks are looked at. */
static void choose_smallest(Planner *l) {
    qsort(l->list.p, l->list.n, sizeof *l->list.p, by_peak);
    for (uint32_t i = 0, n = 0; i < l->list.n && n < SMALLEST_OF; i++) {
        if (!may_fit(l, &l->list.p[i], MEM_HOST)) continue;
        n++;
        time_candidate(l, &l->list.p[i]);
        place_candidate(l, &l->list.p[i]);
    }
    for (uint32_t i = 0; i < l->list.n; i++) {
        Candidate *c = &l->list.p[i];
        if (c->placed && keeps(l, c, MEM_HOST) && c->arena[MEM_DEVICE] == l->smallest) l->best = c;
    }
    if (!l->best) take_first(l);
}

/* ---- the report ---- */

static void report_decisions(const Planner *l, MemoryReport *r) {
    const Problem *p = &l->p;
    for (uint32_t i = 0; i < p->subject.n; i++) {
        uint32_t choice = l->best->choice[i];
        const Subject *s = &p->subject.p[i];
        if (choice == NONE) continue;
        const Option *o = &p->option.p[choice];
        MemoryDecision d = {.how = o->how, .hinted = s->hinted};
        d.tensor = problem_name(p, s, &d.loc);
        if (o->states_only)
            d.tensor = intern(p->g->session, arena_printf(p->arena, "%s/*", d.tensor));
        for (uint32_t k = 0; k < s->nleaf; k++)
            if (!o->states_only || p->leaf.p[s->leaf + k].state)
                d.bytes += type_bytes(type_of(p->g, p->leaf.p[s->leaf + k].leaf));
        if (s->v != NO_VALUE) d.bytes = type_bytes(type_of(p->g, s->v));
        for (int k = 0; k < STREAM_COUNT; k++) d.us += o->us[k];
        vec_push(&r->decision, d);
    }
}

static void report(const Planner *l, MemoryReport *r) {
    r->fits = keeps(l, l->best, MEM_DEVICE);
    memcpy(r->arena, l->best->arena, sizeof r->arena);
    r->smallest = l->smallest;
    r->unconstrained = l->unconstrained.arena[MEM_DEVICE];
    r->unconstrained_us = l->unconstrained.us;
    r->predicted_us = l->best->us;
    r->bound_us = memory_bound(&l->p);
    report_decisions(l, r);
}

/* ---- the pass ---- */

static void misfit(const Planner *l) {
    const Problem *p = &l->p;
    diag_error(p->g->session, (Loc){0},
               "the model does not fit: the smallest plan found takes %.2f MiB of the device, the "
               "budget is %.2f MiB",
               mib(l->smallest), mib(p->budget[MEM_DEVICE]));
}

static void take_graph(Graph *g, Graph *from) {
    Graph old = *g;
    g->node = from->node;
    g->operand = from->operand;
    from->node = old.node;
    from->operand = old.operand;
    graph_free(from);
}

bool pass_memory(Graph *g, PassContext *cx) {
    Planner l = {.smallest = INT64_MAX};
    Arena *a = cx->scratch;
    if (!cx->machine) return false;
    problem_build(&l.p, g, cx, a);
    search_settings(&l.p);
    bool complete = units_complete(g, &l.p.us), changed = false;
    bool asked = l.p.budget[MEM_DEVICE] != INT64_MAX || any_forced(&l.p);
    if (complete && (asked || cx->memory)) {
        price_unconstrained(&l);
        add_family(&l);
        choose(&l);
        bool found = l.best != NULL;
        if (!found) choose_smallest(&l);
        if (cx->memory && l.best) report(&l, cx->memory);
        if (!found && !cx->smallest) misfit(&l);
        changed = asked && l.best && (found || cx->smallest);
        if (changed) take_graph(g, candidate_graph(&l, l.best));
    }
    problem_free(&l.p);
    vec_free(&l.list);
    return changed;
}
