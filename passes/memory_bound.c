/* memory_bound.c: a time that no plan within the budgets can undercut, for this order of the units
 * and these prices: a linear program, solved by Clp.
 *
 * Of each subject a share 0 … 1 takes each option. What stays on the device at every time must fit;
 * each lane's work, and the compute stream's with what runs again and with what copies take from
 * it, is at most the time. Everything that makes a real plan slower is left out: bytes on their
 * way, operands of what runs again, lanes that wait. So the optimum is a lower bound. Times at
 * which memory is short are added as they turn out to be violated.
 *
 * Clp brings a BLAS of its own choice, with threads, into the process that loads it. So a child
 * process loads it, solves, and tells the optimum through a pipe. Without Clp there is no bound. */
#include "passes/memory_private.h"

#include <coin/Clp_C_Interface.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CUTS = 24, CUTS_AT_ONCE = 6 };

#define CLP_FUNCTIONS(F)                                                                           \
    F(newModel)                                                                                    \
    F(setLogLevel)                                                                                 \
    F(resize)                                                                                      \
    F(addColumns) F(addRows) F(initialSolve) F(dual) F(status) F(objectiveValue) F(getColSolution)

typedef struct {
#define F(name) __typeof__(Clp_##name) *name;
    CLP_FUNCTIONS(F)
#undef F
} Clp;

typedef struct {
    const Problem *p;
    Clp clp;
    Clp_Simplex *lp;
    int ncol;        /* options, then units that run again, then the time */
    uint32_t *again; /* by unit: its column, or NONE */
    int *index;
    double *value;
    bool *cut;    /* by time */
    double scale; /* of bytes */
} Bound;

static void add_row(Bound *b, int n, double least, double most) {
    const int start[2] = {0, n};
    b->clp.addRows(b->lp, 1, &least, &most, start, b->index, b->value);
}

static int put(Bound *b, int n, int column, double x) {
    if (x == 0) return n;
    b->index[n] = column, b->value[n] = x;
    return n + 1;
}

static int time_column(const Bound *b) { return b->ncol - 1; }

/* ---- columns ---- */

static void add_columns(Bound *b) {
    const Problem *p = b->p;
    uint32_t nagain = 0;
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        if (o->how != HOW_RECOMPUTE) continue;
        uint32_t u = p->us.of[p->subject.p[o->subject].v];
        if (b->again[u] == NONE) b->again[u] = p->option.n + nagain++;
    }
    b->ncol = (int)(p->option.n + nagain + 1);
    double *low = xcalloc((size_t)b->ncol, sizeof *low),
           *high = xcalloc((size_t)b->ncol, sizeof *high),
           *cost = xcalloc((size_t)b->ncol, sizeof *cost);
    for (int i = 0; i < b->ncol; i++) high[i] = 1;
    for (uint32_t i = 0; i < p->subject.n; i++) /* what is asked for is settled */
        for (uint32_t o = 0; p->subject.p[i].hinted && o < p->subject.p[i].noption; o++) {
            uint32_t k = p->subject.p[i].option + o;
            low[k] = high[k] = k == p->subject.p[i].forced;
        }
    high[b->ncol - 1] = DBL_MAX;
    cost[b->ncol - 1] = 1;
    b->clp.resize(b->lp, 0, 0);
    b->clp.addColumns(b->lp, b->ncol, low, high, cost, NULL, NULL, NULL);
    free(low);
    free(high);
    free(cost);
    b->index = xcalloc((size_t)b->ncol, sizeof *b->index);
    b->value = xcalloc((size_t)b->ncol, sizeof *b->value);
}

/* ---- rows ---- */

static void add_choices(Bound *b) {
    const Problem *p = b->p;
    for (uint32_t i = 0; i < p->subject.n; i++) {
        const Subject *s = &p->subject.p[i];
        int n = 0;
        for (uint32_t o = 0; o < s->noption; o++) n = put(b, n, (int)(s->option + o), 1);
        if (n > 1) add_row(b, n, -DBL_MAX, 1);
    }
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        if (o->how != HOW_RECOMPUTE) continue;
        uint32_t u = p->us.of[p->subject.p[o->subject].v];
        add_row(b, put(b, put(b, 0, (int)i, -1), (int)b->again[u], 1), 0, DBL_MAX);
    }
}

/* What one microsecond of copying takes from the compute stream at least: hidden copies slow it
 * down, others run beside nothing. */
double copy_share(const Machine *m) {
    double share = INFINITY;
    for (unsigned set = 2; set < 1u << STREAM_COMM; set += 2) { /* copies and the host */
        double beside = 0, alone = 0;
        for (int s = 1; s < STREAM_COMM; s++) {
            if (!(set >> s & 1)) continue;
            beside += machine_speed(m, (Stream)s, set | 1);
            alone += machine_speed(m, (Stream)s, set);
        }
        double lost = 1 - machine_speed(m, STREAM_COMPUTE, set | 1);
        share = MIN(share, MIN(lost / beside, 1 / alone));
    }
    return share;
}

static void add_lanes(Bound *b) {
    const Problem *p = b->p;
    double all[STREAM_COUNT] = {0}, share = p->share;
    for (uint32_t u = 0; u < p->us.n; u++) all[p->stream[u]] += p->price[u];
    for (int k = 0; k < STREAM_COUNT; k++) {
        int n = put(b, 0, time_column(b), 1);
        for (uint32_t i = 0; i < p->option.n; i++) {
            const Option *o = &p->option.p[i];
            double us = k == STREAM_COMPUTE ? 0 : o->us[k];
            for (int s = 1; k == STREAM_COMPUTE && s < STREAM_COUNT; s++) us += share * o->us[s];
            if (k == STREAM_COMPUTE && o->how == HOW_UPDATE_HOST)
                us -= p->price[p->at[p->leaf.p[p->subject.p[o->subject].leaf].updated]];
            n = put(b, n, (int)i, -us);
        }
        for (uint32_t u = 0; k == STREAM_COMPUTE && u < p->us.n; u++)
            if (b->again[u] != NONE) n = put(b, n, (int)b->again[u], -p->price[u]);
        add_row(b, n, all[k], DBL_MAX);
    }
}

/* What lives away always: tensors. */
static void add_away(Bound *b) {
    const Problem *p = b->p;
    for (int m = MEM_HOST; m < MEM_COUNT; m++) {
        if (p->budget[m] == INT64_MAX || p->budget[m] == 0) continue;
        int n = 0;
        for (uint32_t i = 0; i < p->option.n; i++)
            if (p->subject.p[p->option.p[i].subject].v == NO_VALUE)
                n = put(b, n, (int)i, (double)p->option.p[i].away[m] / b->scale);
        if (n) add_row(b, n, -DBL_MAX, (double)p->budget[m] / b->scale);
    }
}

/* What is taken off the device at each time, from the solution. */
static void sum_saved(const Bound *b, double *saved) {
    const Problem *p = b->p;
    const double *x = b->clp.getColSolution(b->lp);
    memset(saved, 0, (p->end + 3) * sizeof *saved);
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        for (uint32_t k = 0; x[i] > 0 && k < o->nspan; k++) {
            const Span *s = &p->span.p[o->span + k];
            saved[s->from + 1] += x[i] * (double)s->bytes;
            saved[MIN(s->to, p->end + 1)] -= x[i] * (double)s->bytes;
        }
    }
    for (uint32_t t = 1; t <= p->end; t++) saved[t] += saved[t - 1];
}

static void add_time(Bound *b, uint32_t time) {
    const Problem *p = b->p;
    int n = 0;
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        int64_t bytes = 0;
        for (uint32_t k = 0; k < o->nspan; k++) {
            const Span *s = &p->span.p[o->span + k];
            if (s->from < time && time < s->to) bytes += s->bytes;
        }
        n = put(b, n, (int)i, (double)bytes / b->scale);
    }
    double least = (double)(p->slots.live[MEM_DEVICE][time] - p->budget[MEM_DEVICE]) / b->scale;
    b->cut[time] = true;
    add_row(b, n, least, DBL_MAX);
}

/* Adds the times at which most is missing, far from each other. False: everything fits. */
static bool add_cuts(Bound *b, double *saved) {
    const Problem *p = b->p;
    bool any = false;
    sum_saved(b, saved);
    for (int k = 0; k < CUTS_AT_ONCE; k++) {
        uint32_t worst = 0, reach = p->end / 40;
        double most = 1e-6 * (double)p->budget[MEM_DEVICE] + 1;
        for (uint32_t t = 1; t < p->end; t++) {
            double over =
                (double)p->slots.live[MEM_DEVICE][t] - saved[t] - (double)p->budget[MEM_DEVICE];
            if (over > most && !b->cut[t]) worst = t, most = over;
        }
        if (!worst) return any;
        any = true;
        add_time(b, worst);
        for (uint32_t t = worst > reach ? worst - reach : 1; t < MIN(worst + reach, p->end); t++)
            saved[t] += most; /* its neighbours wait for the next round */
    }
    return any;
}

/* ---- the solver, in a process of its own ---- */

static bool load_clp(Clp *clp) {
    static const char *const name = "libClp.so.1";
    const LibraryFunction functions[] = {
#define F(name) {"Clp_" #name, &clp->name},
        CLP_FUNCTIONS(F)
#undef F
    };
    return !library_find(library_open(&name, 1), functions, COUNT(functions));
}

static double solve(const Problem *p) {
    Arena *a = arena_new();
    Bound b = {.p = p, .scale = 1 + (double)p->slots.bound[MEM_DEVICE]};
    if (!load_clp(&b.clp)) return 0;
    b.lp = b.clp.newModel();
    b.again = no_values(a, p->us.n);
    b.cut = arena_array(a, bool, p->end + 2);
    double *saved = arena_array(a, double, p->end + 4), bound = 0;
    b.clp.setLogLevel(b.lp, 0);
    add_columns(&b);
    add_choices(&b);
    add_lanes(&b);
    add_away(&b);
    b.clp.initialSolve(b.lp);
    for (int i = 0; i < MOST_CUTS && b.clp.status(b.lp) == 0; i++) {
        bound = b.clp.objectiveValue(b.lp);
        if (p->budget[MEM_DEVICE] == INT64_MAX || !add_cuts(&b, saved)) break;
        b.clp.dual(b.lp, 0);
    }
    return b.clp.status(b.lp) == 1 ? 0 : bound; /* 1: not even shares fit */
}

double memory_bound(const Problem *p) {
    double bound = 0;
    int pipes[2];
    if (pipe(pipes)) return 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        bound = solve(p);
        _exit(write(pipes[1], &bound, sizeof bound) != sizeof bound);
    }
    close(pipes[1]);
    if (child < 0 || read(pipes[0], &bound, sizeof bound) != sizeof bound) bound = 0;
    close(pipes[0]);
    if (child > 0) waitpid(child, NULL, 0);
    return bound;
}
