/* comm_cost.c: the price of a collective as a piece of work: by the best algorithm on the machine's
 * network. A model's layers ask for the same ones again and again, so prices are kept. */
#include "passes/comm_cost.h"

#include <string.h>

#include "passes/machine_private.h"

typedef struct {
    CommWork work;
    double us;
} CommPrice;

struct CommPrices {
    const Topology *topology; /* for groups up to rank `ranks` - 1 */
    int64_t ranks;
    uint32_t n, cap;
    CommPrice *price;
};

struct CommPrices *comm_prices_new(Arena *a) {
    return arena_new_of(a, struct CommPrices);
}

MeshGroup comm_group(const CommWork *w) {
    MeshGroup g = {.nlevel = w->nlevel, .n = w->ranks};
    for (int i = 0; i < w->nlevel; i++) g.size[i] = w->size[i], g.stride[i] = w->stride[i];
    return g;
}

/* One more than the last rank of rank 0's group. */
static int64_t ranks_of(const CommWork *w) {
    int64_t ranks = 1;
    for (int i = 0; i < w->nlevel; i++) ranks += (w->size[i] - 1) * w->stride[i];
    return ranks;
}

static void keep(const Machine *m, struct CommPrices *p, const CommWork *w, double us) {
    if (p->n == p->cap) {
        p->cap = 2 * p->cap + 16;
        CommPrice *to = arena_array(session_arena(m->session), CommPrice, p->cap);
        if (p->n) memcpy(to, p->price, p->n * sizeof *to);
        p->price = to;
    }
    p->price[p->n++] = (CommPrice){*w, us};
}

double comm_cost_us(const Machine *m, const Work *w) {
    struct CommPrices *p = m->collectives;
    CommPlan best;
    for (uint32_t i = 0; i < p->n; i++)
        if (comm_equal(&p->price[i].work, &w->comm)) return p->price[i].us;
    MeshGroup g = comm_group(&w->comm);
    int64_t ranks = ranks_of(&w->comm);
    if (!p->topology || p->ranks != ranks)
        p->topology = topology_for_group(m, ranks), p->ranks = ranks;
    double us = comm_best(p->topology, &g, w->comm.kind, w->comm.bytes, &best);
    keep(m, p, &w->comm, us);
    return us;
}
