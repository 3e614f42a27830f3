/* topology.h: what lies between ranks: a tree of links, from inner to outer levels.
 *
 * Level 0 joins devices to groups, level 1 joins such groups, and so on; all devices of the
 * cluster are one group of the last level. A message between two devices uses, in each group that
 * it leaves or enters, the group's ports of every level up to the lowest one that joins both.
 * What the ports of a level lead to is wide enough for all of them, except a BiGraph
 * (passes/hdrm.h), whose links between switches are counted. */
#ifndef M6C_TOPOLOGY_H
#define M6C_TOPOLOGY_H

#include "passes/machine.h"

enum { TOPOLOGY_LEVELS = 6 };

typedef struct {
    const char *name;
    int64_t fan;     /* groups of the level below (level 0: devices) that one group here has */
    int64_t unit;    /* devices of one such group of the level below: the product of lower fans */
    int64_t ports;   /* links of one such group to this level, shared by its devices */
    double rate;     /* bytes/s of one port, each way; of a bus: of all it joins together */
    double latency;  /* µs until the first byte of a message is there */
    double overhead; /* µs that each further message costs who sends it */
    double burst;    /* bytes that a port saves up in pauses and sends at once */
    double header;   /* bytes that each message takes beside its own */
    int nlong;       /* rates of messages from so many bytes on, by size */
    double long_from[LINK_RATES], long_rate[LINK_RATES];
    bool bus;        /* all that it joins share one link instead of having ports */
    bool rails;      /* port i leads to the ports i of other groups: devices of one index in their
                      * group reach each other without the levels below */
    int64_t bigraph; /* switches of a BiGraph; 0: none */
} TopologyLevel;

typedef struct {
    int nlevel; /* 0: one device */
    TopologyLevel level[TOPOLOGY_LEVELS];
    int64_t node;          /* devices of a node; 0: no network is described */
    int64_t ranks;         /* ranks placed; all of them are at work at once */
    const int64_t *device; /* of each rank; NULL: rank r is on device r */
    double local;          /* bytes/s read or written in a device's own memory */
    double launch;         /* µs of starting a collective or a kernel */
    /* of a part of the ranks: those that share a group's ports, at most; 0: all of the group */
    int64_t sharers[TOPOLOGY_LEVELS];
} Topology;

/* The topology of a machine with so many ranks, one a device. In the arena of the machine's
 * session. NULL after an error: more ranks than devices, or levels that do not fit together.
 * A machine without links: its devices reach each other through the host's memory; nodes need a
 * link. On a BiGraph with a port for every device, ranks are placed by HDRM. */
Topology *topology_of(const Machine *m, int64_t ranks);

/* For a group of ranks, the last of which is ranks - 1, where the number of all is not known: all
 * devices of the cluster are at work. Never NULL: where the machine does not fit, ranks exchange
 * through the host's memory. */
const Topology *topology_for_group(const Machine *m, int64_t ranks);

/* The same network when only these n ranks, ascending, are at work: numbered anew from 0 on. */
Topology *topology_part(const Topology *t, const int64_t *rank, int64_t n, Arena *a);

int64_t topology_device(const Topology *t, int64_t rank);
/* The lowest level that joins the devices of two ranks; -1: one device. */
int topology_level(const Topology *t, int64_t a, int64_t b);
/* The number, among all of the cluster, of the group of level `level`-1 that a rank is in (level 0:
 * its device). Two ranks are joined by levels below `level` exactly when these are equal. */
int64_t topology_unit(const Topology *t, int level, int64_t rank);
/* Whether a message between two ranks uses the ports (bus) of a level: of the one that joins them
 * and those below; rails spare devices of one index the levels below. */
bool topology_uses(const Topology *t, int level, int64_t a, int64_t b);
/* Ranks that share the ports of one group to a level (of a bus: the bus). */
int64_t topology_sharers(const Topology *t, int level);
/* The end of a BiGraph (the last level) that a rank's messages leave from. */
int64_t topology_end(const Topology *t, int64_t rank);
/* One line a level, for people. */
void topology_print(const Topology *t, Buf *out);

#endif
