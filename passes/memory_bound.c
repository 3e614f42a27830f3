/* memory_bound.c: a time that no plan within the budgets can undercut, for this order of the units
 * and these prices: a linear program, solved by Clp.
 *
 * Of each subject a share 0 … 1 takes each option. What stays on the device at every time must fit;
 * each lane's work, and the compute stream's with what runs again and with what copies take from
 * it, is at most the time. Times at which memory is short are added as they turn out to be
 * violated.
 *
 * The step is cut into intervals (memory_moment.c), whose lengths add up to its time. Each is as
 * long as the longest path through it, as its compute, and as what each lane does in it. A lane may
 * fetch ahead of the interval where bytes are read, and send later than they are free to leave: but
 * then they take memory at the moments between (`stock`). What else makes a real plan slower is
 * left out: operands of what runs again, lanes that wait inside an interval. So the optimum is a
 * lower bound.
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

enum {
    MOST_CUTS = 24,
    CUTS_AT_ONCE = 6,
    MOST_MOMENTS = 24,
    LANES = STREAM_WRITE /* copies and the host: streams 1 … LANES */
};
_Static_assert(STREAM_IN == 1 && STREAM_WRITE == 5, "lanes lie together");

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

/* What a column does on a lane; `part` of it in a certain interval or in stock between. */
typedef struct {
    int column;
    Stream lane;
    double us, part;
    int64_t bytes;
    uint32_t interval; /* or NONE: at any time */
} Charge;

/* First columns of what every interval has. Stock lies at its beginning. */
typedef struct {
    int length, again, ahead, behind; /* `ahead`, `behind`: run again before, after its interval */
    int work[LANES + 1], stock[LANES + 1];
} Columns;

/* Rows that Clp has not got yet. */
typedef struct {
    VEC(int) index, end;
    VEC(double) value, least, most;
} Rows;

typedef struct {
    const Problem *p;
    Clp clp;
    Clp_Simplex *lp;
    int ncol;        /* options first */
    int time;        /* the time's column */
    uint32_t *again; /* by unit: its column, or NONE */
    Moments moments;
    Columns of;
    VEC(Charge) charge;
    double rate[LANES + 1]; /* us a byte of stock; of the host, 1 */
    Rows rows;
    VEC(int) index; /* of the row being made */
    double *sum;    /* by column: its value */
    bool *in_row;
    bool *cut;    /* by time */
    double scale; /* of bytes */
} Bound;

static void put(Bound *b, int column, double x) {
    if (x == 0) return;
    if (!b->in_row[column]) vec_push(&b->index, column);
    b->in_row[column] = true;
    b->sum[column] += x;
}

/* least <= the sum of what was put <= most. */
static void add_row(Bound *b, double least, double most) {
    Rows *r = &b->rows;
    for (uint32_t i = 0; i < b->index.n; i++) {
        int column = b->index.p[i];
        vec_push(&r->index, column);
        vec_push(&r->value, b->sum[column]);
        b->sum[column] = 0, b->in_row[column] = false;
    }
    vec_push(&r->end, (int)r->index.n);
    vec_push(&r->least, least);
    vec_push(&r->most, most);
    b->index.n = 0;
}

/* Rows that are added one by one take Clp longer than it needs to solve them. */
static void give_rows(Bound *b) {
    Rows *r = &b->rows;
    int *start = xcalloc((size_t)r->end.n + 1, sizeof *start);
    if (r->end.n) memcpy(start + 1, r->end.p, r->end.n * sizeof *start);
    b->clp.addRows(b->lp, (int)r->end.n, r->least.p, r->most.p, start, r->index.p, r->value.p);
    free(start);
    r->index.n = r->value.n = r->end.n = r->least.n = r->most.n = 0;
}

/* ---- columns ---- */

/* n columns from 0 to `most`. */
static int new_columns(Bound *b, int n, double most) {
    double *low = xcalloc((size_t)n + 1, sizeof *low), *high = xcalloc((size_t)n + 1, sizeof *high);
    for (int i = 0; i < n; i++) high[i] = most;
    b->clp.addColumns(b->lp, n, low, high, low, NULL, NULL, NULL);
    free(low);
    free(high);
    b->ncol += n;
    return b->ncol - n;
}

static uint32_t recomputed(const Bound *b, uint32_t option) {
    const Option *o = &b->p->option.p[option];
    return o->how == HOW_RECOMPUTE ? b->p->us.of[b->p->subject.p[o->subject].v] : NO_UNIT;
}

/* Units that may run again. */
static void number_again(Bound *b) {
    int n = 0;
    for (uint32_t i = 0; i < b->p->option.n; i++) {
        uint32_t u = recomputed(b, i);
        if (u != NO_UNIT && b->again[u] == NONE) b->again[u] = (uint32_t)(b->ncol + n++);
    }
    new_columns(b, n, 1);
}

static void add_options(Bound *b) {
    const Problem *p = b->p;
    size_t n = p->option.n;
    double *low = xcalloc(n + 1, sizeof *low), *high = xcalloc(n + 1, sizeof *high),
           *cost = xcalloc(n + 1, sizeof *cost);
    for (size_t i = 0; i < n; i++) high[i] = 1;
    for (uint32_t i = 0; i < p->subject.n; i++) /* what is asked for is settled */
        for (uint32_t o = 0; p->subject.p[i].hinted && o < p->subject.p[i].noption; o++) {
            uint32_t k = p->subject.p[i].option + o;
            low[k] = high[k] = k == p->subject.p[i].forced;
        }
    b->clp.resize(b->lp, 0, 0);
    b->clp.addColumns(b->lp, (int)n, low, high, cost, NULL, NULL, NULL);
    b->ncol = (int)n;
    free(low);
    free(high);
    free(cost);
}

static void add_intervals(Bound *b) {
    int n = (int)b->moments.n;
    const double low = 0, high = DBL_MAX, cost = 1;
    b->clp.addColumns(b->lp, 1, &low, &high, &cost, NULL, NULL, NULL);
    b->time = b->ncol++;
    b->of.length = new_columns(b, n, DBL_MAX);
    b->of.again = new_columns(b, n, DBL_MAX);
    b->of.ahead = new_columns(b, n, DBL_MAX);
    b->of.behind = new_columns(b, n, DBL_MAX);
    for (int s = 1; s <= LANES; s++) {
        b->of.work[s] = new_columns(b, n, DBL_MAX);
        b->of.stock[s] = new_columns(b, n, DBL_MAX);
    }
}

/* ---- choices ---- */

/* One option of a subject; a unit runs again if any of its results asks for it. */
static void add_choices(Bound *b) {
    const Problem *p = b->p;
    for (uint32_t i = 0; i < p->subject.n; i++) {
        const Subject *s = &p->subject.p[i];
        if (s->noption < 2) continue;
        for (uint32_t o = 0; o < s->noption; o++) put(b, (int)(s->option + o), 1);
        add_row(b, -DBL_MAX, 1);
    }
    for (uint32_t i = 0; i < p->option.n; i++) {
        uint32_t u = recomputed(b, i);
        if (u == NO_UNIT) continue;
        put(b, (int)b->again[u], 1);
        put(b, (int)i, -1);
        add_row(b, 0, DBL_MAX);
    }
}

/* ---- what options do on lanes ---- */

static bool fetches(Stream s) { return s == STREAM_IN || s == STREAM_READ; }

/* x times the share of unit u that the host's cores run. */
static void put_hosted(Bound *b, uint32_t u, double x) {
    const Problem *p = b->p;
    if (p->updates[u] == NONE) return;
    const Subject *s = &p->subject.p[p->updates[u]];
    for (uint32_t o = s->option; o < s->option + s->noption; o++)
        if (p->option.p[o].how == HOW_UPDATE_HOST) put(b, (int)o, x);
}

/* Fetched for a unit that, run by the host, reads what was moved there. */
static bool may_be_spared(const Problem *p, const Option *o, const Task *t) {
    return o->how == HOW_MOVE_HOST && fetches(t->stream) && p->updates[p->at[t->time]] != NONE;
}

/* A value that several options send to the same memory is sent once. */
static bool may_share(const Problem *p, const Task *t) {
    bool sends = t->stream == STREAM_OUT || t->stream == STREAM_WRITE;
    return sends && !is_store(node_of(p->g, t->v));
}

static uint32_t interval_of(const Bound *b, const Task *t) {
    const Moments *m = &b->moments;
    if (t->stream == STREAM_HOST) return m->after[t->time];
    bool in = fetches(t->stream);
    uint32_t surely = in ? m->before[t->time] : m->after[t->time];
    /* Its bytes are in memory from, or to, the moment that its place in the order says. */
    return surely == (in ? moment_before(m, t->time) : moment_after(m, t->time)) ? surely : NONE;
}

static void add_charge(Bound *b, int column, const Task *t) {
    vec_push(&b->charge, ((Charge){.column = column,
                                   .lane = t->stream,
                                   .us = t->us,
                                   .bytes = t->bytes,
                                   .interval = interval_of(b, t)}));
}

typedef struct {
    uint32_t *count[2], *charge[2]; /* of copies to the host, to the disk; by value */
    int column;                     /* the next that is free */
} Sharing;

static void share_send(Bound *b, Sharing *s, int option, const Task *t) {
    int to = t->stream == STREAM_WRITE;
    uint32_t *at = &s->charge[to][t->v];
    if (*at == NONE) {
        *at = b->charge.n;
        add_charge(b, s->column++, t);
    }
    Charge *c = &b->charge.p[*at];
    if (c->interval != interval_of(b, t)) c->interval = NONE;
    put(b, c->column, 1);
    put(b, option, -1);
    add_row(b, 0, DBL_MAX);
}

static void spare_fetch(Bound *b, Sharing *s, int option, const Task *t) {
    add_charge(b, s->column, t);
    put(b, s->column++, 1);
    put(b, option, -1);
    put_hosted(b, b->p->at[t->time], 1);
    add_row(b, 0, DBL_MAX);
}

static void charge_tasks(Bound *b, Sharing *s, int option) {
    const Option *o = &b->p->option.p[option];
    for (uint32_t i = o->task; i < o->task + o->ntask; i++) {
        const Task *t = &b->p->task.p[i];
        if (may_share(b->p, t) && s->count[t->stream == STREAM_WRITE][t->v] > 1)
            share_send(b, s, option, t);
        else if (may_be_spared(b->p, o, t))
            spare_fetch(b, s, option, t);
        else
            add_charge(b, option, t);
    }
}

/* Stock is bytes, work is time: one rate for each lane, of which small copies take more. What a
 * copy takes beyond that rate is part of the lane's whole work only. */
static void set_rates(Bound *b) {
    double us[LANES + 1] = {0}, bytes[LANES + 1] = {0};
    for (uint32_t i = 0; i < b->charge.n; i++) {
        const Charge *c = &b->charge.p[i];
        us[c->lane] += c->us, bytes[c->lane] += (double)c->bytes;
    }
    for (int s = 1; s <= LANES; s++) b->rate[s] = bytes[s] > 0 ? us[s] / bytes[s] : 1 / b->scale;
    for (uint32_t i = 0; i < b->charge.n; i++) {
        Charge *c = &b->charge.p[i];
        c->part = c->lane == STREAM_HOST ? c->us : MIN(c->us, b->rate[c->lane] * (double)c->bytes);
    }
}

static void add_charges(Bound *b, Arena *a) {
    const Problem *p = b->p;
    Sharing s = {{no_values(a, p->g->node.n), no_values(a, p->g->node.n)},
                 {no_values(a, p->g->node.n), no_values(a, p->g->node.n)},
                 0};
    int more = 0;
    for (int to = 0; to < 2; to++) memset(s.count[to], 0, p->g->node.n * sizeof *s.count[to]);
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        for (uint32_t k = o->task; k < o->task + o->ntask; k++) {
            const Task *t = &p->task.p[k];
            more += may_be_spared(p, o, t);
            more += may_share(p, t) && ++s.count[t->stream == STREAM_WRITE][t->v] == 2;
        }
    }
    s.column = new_columns(b, more, 1);
    for (uint32_t i = 0; i < p->option.n; i++) charge_tasks(b, &s, (int)i);
    set_rates(b);
}

/* ---- time ---- */

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

/* The compute stream's work from one time to another. The row's right side. */
static double put_compute(Bound *b, uint32_t from, uint32_t to) {
    const Problem *p = b->p;
    double us = 0;
    for (uint32_t t = MAX(from, 1); t < to; t++) {
        uint32_t u = p->at[t];
        if (p->stream[u] != STREAM_COMPUTE) continue;
        put_hosted(b, u, p->price[u]);
        us += p->price[u];
    }
    return us;
}

/* All of a stream's work is at most the time. */
static void add_lanes(Bound *b) {
    const Problem *p = b->p;
    double all[STREAM_COUNT] = {0};
    for (uint32_t u = 0; u < p->us.n; u++) all[p->stream[u]] += p->price[u];
    for (int k = 0; k < STREAM_COUNT; k++) {
        put(b, b->time, 1);
        if (k == STREAM_COMPUTE) put_compute(b, 1, p->end);
        for (uint32_t i = 0; i < b->charge.n; i++) {
            const Charge *c = &b->charge.p[i];
            if (k == STREAM_COMPUTE) put(b, c->column, -p->share * c->us);
            if (k == (int)c->lane) put(b, c->column, -c->us);
        }
        for (uint32_t u = 0; k == STREAM_COMPUTE && u < p->us.n; u++)
            if (b->again[u] != NONE) put(b, (int)b->again[u], -p->price[u]);
        add_row(b, all[k], DBL_MAX);
    }
}

/* Interval k is as long as its path, its compute, and what its lanes do. */
static void add_lengths(Bound *b) {
    const Moments *m = &b->moments;
    put(b, b->time, 1);
    for (int k = 0; k < (int)m->n; k++) put(b, b->of.length + k, -1);
    add_row(b, 0, DBL_MAX);
    for (int k = 0; k < (int)m->n; k++) {
        put(b, b->of.length + k, 1);
        add_row(b, m->least[k], DBL_MAX);
        put(b, b->of.length + k, 1);
        put(b, b->of.again + k, -1);
        for (int s = 1; s <= LANES; s++) put(b, b->of.work[s] + k, -b->p->share);
        add_row(b, put_compute(b, m->at[k], m->at[k + 1]), DBL_MAX);
        for (int s = 1; s <= LANES; s++) {
            put(b, b->of.length + k, 1);
            put(b, b->of.work[s] + k, -1);
            add_row(b, 0, DBL_MAX);
        }
    }
}

/* x times what lies in stock at the beginning of interval k, less what lies there at its end. */
static void put_fall(Bound *b, int stock, int k, double x) {
    if (k > 0) put(b, stock + k, x);
    if (k + 1 < (int)b->moments.n) put(b, stock + k + 1, -x);
}

/* What a lane does in an interval: what is charged there, but for what was fetched before or will
 * be sent later. */
static void add_work(Bound *b) {
    for (int s = 1; s <= LANES; s++)
        for (int k = 0; k < (int)b->moments.n; k++) {
            double rate = b->rate[s] * b->scale;
            put(b, b->of.work[s] + k, 1);
            put_fall(b, b->of.stock[s], k, fetches((Stream)s) ? rate : -rate);
            for (uint32_t i = 0; i < b->charge.n; i++) {
                const Charge *c = &b->charge.p[i];
                if ((int)c->lane == s && c->interval == (uint32_t)k) put(b, c->column, -c->part);
            }
            add_row(b, 0, DBL_MAX);
        }
}

/* What runs again does so after the first of its gaps begins and before the last ends. */
static void add_again(Bound *b, Arena *a) {
    const Problem *p = b->p;
    uint32_t *from = no_values(a, p->us.n), *to = arena_array(a, uint32_t, p->us.n + 1);
    for (uint32_t i = 0; i < p->option.n; i++) {
        uint32_t u = recomputed(b, i);
        const Subject *s = &p->subject.p[p->option.p[i].subject];
        if (u == NO_UNIT) continue;
        from[u] = MIN(from[u], b->moments.after[s->from]);
        to[u] = MAX(to[u], b->moments.before[s->to]);
    }
    for (int side = 0; side < 2; side++)
        for (int k = 0; k < (int)b->moments.n; k++) {
            put(b, b->of.again + k, 1);
            put_fall(b, side ? b->of.ahead : b->of.behind, k, side ? 1 : -1);
            for (uint32_t u = 0; u < p->us.n; u++)
                if (b->again[u] != NONE && (side ? to : from)[u] == (uint32_t)k)
                    put(b, (int)b->again[u], -p->price[u]);
            add_row(b, 0, DBL_MAX);
        }
}

/* ---- memory ---- */

/* What lives away always: tensors. */
static void add_away(Bound *b) {
    const Problem *p = b->p;
    for (int m = MEM_HOST; m < MEM_COUNT; m++) {
        if (p->budget[m] == INT64_MAX || p->budget[m] == 0) continue;
        for (uint32_t i = 0; i < p->option.n; i++)
            if (p->subject.p[p->option.p[i].subject].v == NO_VALUE)
                put(b, (int)i, (double)p->option.p[i].away[m] / b->scale);
        if (b->index.n) add_row(b, -DBL_MAX, (double)p->budget[m] / b->scale);
    }
}

static void put_saved(Bound *b, uint32_t time) {
    const Problem *p = b->p;
    for (uint32_t i = 0; i < p->option.n; i++) {
        const Option *o = &p->option.p[i];
        int64_t bytes = 0;
        for (uint32_t k = 0; k < o->nspan; k++) {
            const Span *s = &p->span.p[o->span + k];
            if (s->from < time && time < s->to) bytes += s->bytes;
        }
        put(b, (int)i, (double)bytes / b->scale);
    }
}

static void add_time(Bound *b, uint32_t time) {
    const Problem *p = b->p;
    b->cut[time] = true;
    put_saved(b, time);
    add_row(b, (double)(p->slots.live[MEM_DEVICE][time] - p->budget[MEM_DEVICE]) / b->scale,
            DBL_MAX);
}

/* At a moment there is room for what is in stock; only what is away can have been fetched ahead. */
static void add_moment(Bound *b, int k) {
    for (int s = 1; s <= LANES; s++)
        if (s != STREAM_HOST) put(b, b->of.stock[s] + k, -1);
    add_time(b, b->moments.at[k]);
    put_saved(b, b->moments.at[k]);
    put(b, b->of.stock[STREAM_IN] + k, -1);
    put(b, b->of.stock[STREAM_READ] + k, -1);
    add_row(b, 0, DBL_MAX);
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
    b.moments = moments_find(p, MOST_MOMENTS, a);
    size_t most = (size_t)p->option.n + p->us.n + p->task.n + 32 * MOST_MOMENTS;
    b.sum = arena_array(a, double, most);
    b.in_row = arena_array(a, bool, most);
    b.lp = b.clp.newModel();
    b.again = no_values(a, p->us.n);
    b.cut = arena_array(a, bool, p->end + 2);
    double *saved = arena_array(a, double, p->end + 4), bound = 0;
    b.clp.setLogLevel(b.lp, 0);
    add_options(&b);
    number_again(&b);
    add_intervals(&b);
    add_choices(&b);
    add_charges(&b, a);
    add_lanes(&b);
    add_lengths(&b);
    add_work(&b);
    add_again(&b, a);
    add_away(&b);
    for (int k = 1; k < (int)b.moments.n && p->budget[MEM_DEVICE] != INT64_MAX; k++)
        add_moment(&b, k);
    give_rows(&b);
    b.clp.initialSolve(b.lp);
    for (int i = 0; i < MOST_CUTS && b.clp.status(b.lp) == 0; i++) {
        bound = b.clp.objectiveValue(b.lp);
        if (p->budget[MEM_DEVICE] == INT64_MAX || !add_cuts(&b, saved)) break;
        give_rows(&b);
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
