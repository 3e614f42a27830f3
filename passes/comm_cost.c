/* comm_cost.c: what collectives cost: rings over the machine's first link, or through its memory
 * where it has none. Each of a ring's steps takes the link's latency and a rank's share of the
 * bytes. */
#include "passes/machine_private.h"

double comm_cost_us(const Machine *m, const Work *w) {
    bool link = m->link.n > 0;
    double rate = link ? m->link.p[0].rate.value : m->bandwidth.p[0].rate.value;
    double latency = link ? m->link.p[0].latency.value : m->launch.value;
    double n = (double)w->comm.ranks, steps = n - 1, bytes = w->comm.bytes * steps / n;
    if (w->comm.kind == COLLECTIVE_SEND || w->comm.kind == COLLECTIVE_RECV)
        return m->launch.value + latency + w->comm.bytes / rate * 1e6;
    double ways = w->comm.kind == COLLECTIVE_ALL_REDUCE ? 2 : 1;
    return m->launch.value + ways * (steps * latency + bytes / rate * 1e6);
}
