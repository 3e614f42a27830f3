/* simulate_ranks.h: a discrete-event run of the plans of all ranks on a described cluster.
 *
 * Ranks that do the same are simulated once, as a class: all of an SPMD plan, or those of one
 * stage, on devices that are alike. Collectives of a class's ranks begin when its own does; what
 * ranks of several classes do together (a send and its receive, a sum over stages) begins when all
 * have come to it, and ends for all at once. Communication alone takes what its best algorithm
 * takes (comm_cost.h) when only the ranks that take part are at work; while several are under way
 * they share links: each needs a share of every link on its way, and all go on equally fast until a
 * link is full (max-min fair).
 */
#ifndef M6C_SIMULATE_RANKS_H
#define M6C_SIMULATE_RANKS_H

#include "passes/comm_cost.h"
#include "passes/simulate.h"

/* What a step does with other ranks. work.ranks 0: nothing. */
typedef struct {
    CommWork work;
    int64_t peer; /* send, recv: the other's index in the group */
} RankComm;

/* Ranks whose plans are equal. */
typedef struct {
    const TimedStep *step;
    const RankComm *comm; /* by step */
    uint32_t n;
    const int64_t *rank; /* ascending; each rank is in one class */
    int64_t nrank;
    const Machine *machine; /* whose devices they lie on, in the same network; NULL: the run's */
} RankClass;

/* All links of a level of the topology; the last one may be those between a BiGraph's switches. */
typedef struct {
    const char *name;
    double us;              /* in which the busiest of them moves bytes */
    double bytes, messages; /* of all ranks; of links between switches not counted */
} LinkUse;

typedef struct {
    double us;       /* until all ranks are through */
    Simulation *run; /* by class, with times */
    int nlink;
    LinkUse link[TOPOLOGY_LEVELS + 1];
    uint32_t stuck_class, stuck_step; /* after false: this step waits forever for other ranks */
} RanksRun;

/* Everything in the arena. False: some ranks wait for what others never do. */
bool simulate_ranks(const Machine *m, const Topology *t, const RankClass *class, uint32_t nclass,
                    Arena *a, RanksRun *out);

#endif
