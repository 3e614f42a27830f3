/* main_measure_comm.c: what messages between ranks cost, measured with the exchanges that plans do.
 *
 * Ranks lie host after host. All hosts at once exchange among their own ranks (near), among ranks
 * of one place on all hosts (far), and all with all. From small exchanges come a latency and what
 * each further message costs, from large ones a rate: the figures with which passes/comm_phase.c
 * gives the measured times. So what ranks that share cores or links take from each other is in
 * them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/main_calibrate.h"

enum { SMALL = 64, SHORT = 32 << 10, MOST_BYTES = 4 << 20 }; /* for each pair */

static const double LONG = 0.3; /* seconds of an exchange */

typedef struct {
    Comm *all, *near, *pairs, *far;
    int64_t rank, ranks, hosts, here; /* here: ranks on each host */
    char *from, *to;
    bool quick;
} Bench;

typedef struct {
    double latency, overhead, rate; /* us, us, bytes/s */
    int nlong;                      /* rates of longer messages, where they differ */
    int64_t long_from[LINK_RATES];
    double long_rate[LINK_RATES];
} Figures;

/* ---- who is where ---- */

static Status find_hosts(Bench *b) {
    int place, here = comm_neighbours(b->all, &place);
    int64_t mine[] = {place, here}, *x = xcalloc(2 * (size_t)b->ranks, sizeof *x);
    Status s = b->all->ops->all_gather(b->all, mine, x, COUNT(mine), DT_I64);
    bool alike = b->ranks % here == 0;
    for (int64_t r = 0; r < b->ranks && alike; r++)
        alike = x[2 * r] == r % here && x[2 * r + 1] == here;
    free(x);
    if (!s && !alike)
        s = status_make(EXIT_INPUT, "calibrate needs as many ranks on each host, one host's after "
                                    "the other's: mpirun --map-by slot");
    b->here = here, b->hosts = b->ranks / here;
    return s;
}

static Status split(const Bench *b, int64_t color, Comm **out) {
    return b->all->ops->split(b->all, (int)color, (int)b->rank, out);
}

static Status make_groups(Bench *b) {
    TRY(split(b, b->rank / b->here, &b->near));
    TRY(split(b, b->rank / 2, &b->pairs));
    return split(b, b->rank % b->here, &b->far);
}

/* ---- timing ---- */

static Status exchange(Bench *b, Comm *c, int64_t bytes) {
    return c->ops->all_to_all(c, b->from, b->to, bytes / (int64_t)sizeof(float), DT_F32);
}

/* Seconds that one of `times` exchanges in a row takes, with one of `then` (or NULL) after each;
 * the slowest rank's, the same on all. */
static Status time_row(Bench *b, Comm *c, Comm *then, int64_t bytes, int times, double *seconds) {
    TRY(b->all->ops->barrier(b->all));
    double begin = now_seconds();
    for (int i = 0; i < times; i++) {
        TRY(exchange(b, c, bytes));
        if (then) TRY(exchange(b, then, bytes));
    }
    int64_t ns = (int64_t)((now_seconds() - begin) / times * 1e9);
    TRY(b->all->ops->all_reduce(b->all, &ns, &ns, 1, DT_I64, REDUCE_MAX));
    *seconds = (double)ns * 1e-9;
    return NULL;
}

/* The median of several rows, after one that does not count. */
static Status time_exchange(Bench *b, Comm *c, Comm *then, int64_t bytes, int times,
                            double *seconds) {
    enum { ROWS = 9 };
    double row[ROWS + 1];
    int rows = b->quick ? ROWS / 3 : ROWS;
    for (int i = 0; i <= rows; i++) TRY(time_row(b, c, then, bytes, times, &row[i]));
    *seconds = median(row + 1, (size_t)rows);
    return NULL;
}

static Status time_small(Bench *b, Comm *c, Comm *then, double *us) {
    double seconds;
    TRY(time_exchange(b, c, then, SMALL, 40, &seconds));
    *us = seconds * 1e6;
    return NULL;
}

/* Bytes a second when each pair exchanges `bytes` at once, `links` times that over the busiest
 * link. */
static Status rate_at(Bench *b, Comm *c, double links, int64_t bytes, double *rate) {
    double seconds;
    TRY(time_exchange(b, c, NULL, bytes, bytes < SHORT ? 10 : 2, &seconds));
    *rate = links * (double)bytes / MAX(seconds, 1e-9);
    return NULL;
}

/* The mean over sizes from `bytes` on, each four times the one before, until one takes long. */
static Status mean_rate(Bench *b, Comm *c, double links, int64_t bytes, double *rate) {
    double one, sum = 0;
    int n = 0;
    for (; bytes <= MOST_BYTES; bytes *= 4) {
        TRY(rate_at(b, c, links, bytes, &one));
        sum += log(one), n++;
        if (links * (double)bytes / one > LONG) break;
    }
    *rate = exp(sum / n);
    return NULL;
}

/* Networks may carry long messages more slowly: receivers are asked first, and many at once get in
 * each other's way. */
static Status find_rates(Bench *b, Comm *c, double links, Figures *f) {
    static const int64_t size[LINK_RATES] = {SHORT, 2 * SHORT, 8 * SHORT, 32 * SHORT};
    const double different = 0.03;
    bool alike = true;
    TRY(rate_at(b, c, links, SHORT / 2, &f->rate));
    for (double took = 0; f->nlong < LINK_RATES && took < LONG; f->nlong++) {
        double *rate = &f->long_rate[f->nlong];
        TRY(rate_at(b, c, links, size[f->nlong], rate));
        f->long_from[f->nlong] = size[f->nlong];
        took = links * (double)size[f->nlong] / *rate;
        alike &= fabs(*rate / f->rate - 1) < different;
    }
    if (alike) f->nlong = 0;
    return NULL;
}

/* ---- figures ---- */

static const double LEAST_US = 0.01;

/* Of n ranks, latency + (n - 2) overhead is what a small exchange takes; of two, the latency. */
static Status measure_near(Bench *b, Figures *f) {
    double all, pair, n = (double)b->here;
    TRY(time_small(b, b->near, NULL, &all));
    f->latency = all, f->overhead = all / n;
    if (b->here > 2 && b->here % 2 == 0) {
        TRY(time_small(b, b->pairs, NULL, &pair));
        f->latency = MIN(pair, all);
        f->overhead = MAX((all - f->latency) / (n - 2), LEAST_US);
    }
    return mean_rate(b, b->near, n * (n - 1), 2 * SHORT, &f->rate);
}

/* Two equations: messages to other hosts after others, as grouped exchanges send them, and to all.
 */
static Status measure_far(Bench *b, const Figures *near, Figures *f) {
    double few, all, hosts = (double)b->hosts, here = (double)b->here, n = hosts * here;
    TRY(time_small(b, b->near, b->far, &few));
    few = MAX(few - (near->latency + (here - 2) * near->overhead), LEAST_US);
    f->latency = few, f->overhead = few / hosts;
    if (b->here > 1) {
        double posted = (n - 2) / (n - 1), messages = posted * (hosts - 1) * here;
        TRY(time_small(b, b->all, NULL, &all));
        all -= posted * (here - 1) * near->overhead;
        f->overhead = MAX((all - few) / (messages - (hosts - 2)), LEAST_US);
        f->latency = few - (hosts - 2) * f->overhead;
        /* messages alone take more than all of it: as near to both as no latency comes */
        if (f->latency < LEAST_US)
            f->overhead = sqrt(few / (hosts - 2) * all / messages), f->latency = LEAST_US;
    }
    return find_rates(b, b->all, here * (n - here), f);
}

static void put_link(const char *name, const Figures *f, int64_t joins, bool bus, Buf *out) {
    buf_printf(out, "link %s %.3gMB/s latency %.3gus overhead %.3gus joins %lld%s", name,
               f->rate / 1e6, f->latency, f->overhead, (long long)joins, bus ? " bus" : "");
    for (int i = 0; i < f->nlong; i++)
        buf_printf(out, " long %.3gMB/s from %lldKiB", f->long_rate[i] / 1e6,
                   (long long)(f->long_from[i] >> 10));
    buf_puts(out, "\n");
}

static Status measure(Bench *b, Buf *out) {
    Figures near = {0}, far = {0};
    buf_printf(out, "devices %lld\nnodes %lld\n", (long long)b->here, (long long)b->hosts);
    if (b->here > 1) {
        TRY(measure_near(b, &near));
        put_link("host", &near, b->here, true, out);
    }
    if (b->hosts > 1) {
        TRY(measure_far(b, &near, &far));
        put_link("net", &far, b->hosts, false, out);
    }
    return NULL;
}

Status measure_links(Comm *world, bool quick, Buf *out) {
    Bench b = {.all = world, .quick = quick};
    b.rank = world->ops->rank(world), b.ranks = world->ops->size(world);
    TRY(find_hosts(&b));
    TRY(make_groups(&b));
    size_t room = (size_t)b.ranks * MOST_BYTES;
    b.from = xcalloc(room, 1), b.to = xcalloc(room, 1);
    memset(b.from, 1, room), memset(b.to, 1, room);
    Status s = measure(&b, out);
    Comm *made[] = {b.near, b.pairs, b.far};
    for (size_t i = 0; i < COUNT(made); i++) made[i]->ops->close(made[i]);
    free(b.from);
    free(b.to);
    return s;
}
