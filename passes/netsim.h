/* netsim.h: messages on a topology, as flows that share links: a discrete-event simulation to
 * check closed formulas against, and for plans whose ranks do different things.
 *
 * A message is posted at a time; after its level's latency its bytes flow over all links on its
 * way at once. Flows share each link fairly (max-min); a flow uses one port of a group, or several
 * where it is said to be spread over them. */
#ifndef M6C_NETSIM_H
#define M6C_NETSIM_H

#include "passes/topology.h"

typedef struct Net Net;

Net *net_new(const Topology *t); /* the topology stays as long as the net; net_free ends it */
void net_free(Net *n);
typedef struct {
    int64_t from, to;
    double bytes;
    int32_t ports; /* that it is spread over; 0: one */
    int32_t round; /* of a collective */
} NetMessage;
/* Posts a message at time `at` (µs, not before net_time). Returns its number, counted from 0. */
uint32_t net_post(Net *n, double at, const NetMessage *m);
double net_time(const Net *n);
/* Goes on to the next time, but not beyond `until`, at which messages are through. Returns their
 * count; net_done gives them, valid until the next call. 0: nothing is through by then, the time is
 * `until` (where that is infinite: of the last message). */
uint32_t net_advance(Net *n, double until);
const uint32_t *net_done(const Net *n);

/* µs until all messages of a collective are through. A rank posts those of a round, in the order
 * given, one overhead after the other, when all that it sends and gets in earlier rounds is
 * through. Rounds count from 0 on; a rank's are ascending. */
double net_collective_us(const Topology *t, const NetMessage *m, uint32_t n);

#endif
