/* comm_cost.h: what collectives cost on a topology, and which algorithm is best.
 *
 * An algorithm is a list of phases; in each round of a phase every rank sends some messages. A
 * round takes
 *     the latency of the outermost level in use
 *   + the longer of posting all messages but one (their overheads) and of moving their bytes
 *   + moving the last one's bytes,
 * where bytes move as fast as the busiest link: bytes of all ranks that share it / its rate.
 * All ranks of the topology are at work at once, each in its own group: so a node's network port
 * is shared by its ranks whether they are of one group or of many.
 *
 * `bytes` are of a rank's whole message as it travels: the operand; of an all_gather the result. A
 * group is ranks by places on levels (ir/ir.h); groups that do not lie alike on all nodes are seen
 * from rank 0's. */
#ifndef M6C_COMM_COST_H
#define M6C_COMM_COST_H

#include "ir/ir.h"
#include "passes/topology.h"

typedef enum {
    COMM_RING,         /* n-1 rounds, to the next rank; an all_reduce twice that */
    COMM_HALVING,      /* log n rounds, partner = index ^ 2^round; groups of 2^k ranks */
    COMM_DIRECT,       /* one round, to every other rank: of an all_to_all the flat one */
    COMM_HIERARCHICAL, /* inside a node, then between ranks of one index in their nodes */
    COMM_ALGORITHMS
} CommAlgorithm;
const char *comm_algorithm_name(CommAlgorithm a); /* "ring", … */

/* What a rank sends over one level, on average over its group. */
typedef struct {
    double messages, bytes;
    double through; /* bytes of messages to outer levels that pass this one */
} CommTraffic;

enum { COMM_PHASES = 96 };
typedef struct {
    double rounds;                      /* one after the other, each with: */
    CommTraffic level[TOPOLOGY_LEVELS]; /* what a rank sends */
    double fabric;                      /* bytes over the busiest link of a BiGraph */
    double copied;                      /* once: bytes read and written in the own memory */
    int launches;                       /* once: collectives and kernels started */
} CommPhase;

typedef struct {
    CommAlgorithm how;
    int nphase;
    CommPhase phase[COMM_PHASES];
    double us; /* of the whole */
} CommPlan;

MeshGroup comm_group(const CommWork *w); /* the group of rank 0 */
/* A collective by one algorithm. False: it does not apply. COLLECTIVE_SEND and _RECV: every rank
 * to the next one of its group, whatever the algorithm. */
bool comm_plan(const Topology *t, const MeshGroup *g, Collective c, CommAlgorithm how, double bytes,
               CommPlan *out);
/* By the fastest algorithm; returns its µs. */
double comm_best(const Topology *t, const MeshGroup *g, Collective c, double bytes, CommPlan *out);
double comm_phase_us(const Topology *t, const CommPhase *p);
/* µs in which the busiest link of a level moves bytes, over all rounds; level t->nlevel: the
 * busiest link between switches of a BiGraph. */
double comm_link_us(const Topology *t, const CommPlan *p, int level);
/* All that a rank sends, over all rounds, by level. */
void comm_traffic(const CommPlan *p, CommTraffic out[TOPOLOGY_LEVELS]);
/* µs to convert count elements to another dtype: each is read once and written once. */
double comm_convert_us(const Topology *t, double count, Dtype from, Dtype to);
/* One line a level and one a phase, for people. */
void comm_print(const Topology *t, const CommPlan *p, Buf *out);

/* ---- formulas: what one rank sends ---- */

/* Members of a rank's group that are in its unit of each level, itself included: w[0] is 1, w[l]
 * those that levels below l join, w[nlevel] all. */
void comm_members(const Topology *t, const MeshGroup *g, int64_t w[TOPOLOGY_LEVELS + 1]);
/* Flat all_to_all of n ranks: over level l, w[l+1] - w[l] messages of bytes/n each. */
double all_to_all_messages(const int64_t *w, int level);
double all_to_all_bytes(const int64_t *w, int nlevel, int level, double bytes);
/* In phases over groups of size[0], size[1], … (their product is n): messages, and bytes, of all
 * phases and levels: the sum of size[i] - 1, and of bytes (size[i] - 1) / size[i]. */
double grouped_messages(int nphase, const int64_t *size);
double grouped_bytes(int nphase, const int64_t *size, double bytes);
/* Bytes a rank sends at least: all_reduce 2 bytes (n-1)/n, the others bytes (n-1)/n. */
double comm_least_bytes(Collective c, int64_t n, double bytes);
/* Messages with which it can do so, each to another rank: n-1, of an all_reduce 2 (n-1). */
int64_t comm_messages(Collective c, int64_t n);

/* ---- all_to_all, flat or grouped ---- */

/* index % k and index / k of a group's members, as groups: of `part` neighbours, and of the ranks
 * that have the same place among them. False: part does not divide the group, or not by levels. */
bool group_parts(const MeshGroup *g, int64_t part, MeshGroup *inner, MeshGroup *outer);

enum { ALL_TO_ALL_PHASES = 5 };
typedef struct {
    int nphase;                      /* 1: flat */
    int64_t size[ALL_TO_ALL_PHASES]; /* of each phase's groups: neighbours, then those of one place
                                      * in such groups, … */
    double us, flat_us;
    CommPlan plan;
} AllToAllPlan;
/* The fastest of flat (where `grouped` does not ask for others), of two phases and, where there are
 * three levels of links, of three, with the best sizes that divide the group: with small messages
 * it is their number that costs, the sum of size - 1 instead of n-1; in exchange all bytes travel
 * in every phase and are transposed between phases in the ranks' own memory. */
void all_to_all_plan(const Topology *t, const MeshGroup *g, double bytes, bool grouped,
                     AllToAllPlan *out);
/* In these phases, from the inner one on: size[i] members each. False: they do not divide it. */
bool all_to_all_phases(const Topology *t, const MeshGroup *g, double bytes, int nphase,
                       const int64_t *size, CommPlan *out);

#endif
