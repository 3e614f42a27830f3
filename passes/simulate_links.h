/* simulate_links.h: the links of a cluster, as classes of ranks use them together. Private to
 * simulate_*.c.
 *
 * Units of a level (a device, a node, …) in which equally many ranks of each class are have equal
 * links: one stands for all of them. */
#ifndef M6C_SIMULATE_LINKS_H
#define M6C_SIMULATE_LINKS_H

#include "passes/simulate_ranks.h"

typedef struct {
    int level;
    bool in, out;         /* of a bus both */
    const int64_t *count; /* by class: its ranks in this unit */
    double full;          /* share in use at present */
    double us;            /* in which it moved bytes */
} SimLink;

/* A share of a link that communication takes when nothing slows it. */
typedef struct {
    uint32_t link;
    double share;
} LinkShare;

/* One kind of communication: the same work of the same classes. */
typedef struct {
    CommWork work;
    const bool *takes; /* by class */
    int64_t from;      /* a send's class; -1: a collective */
    double us;         /* alone */
    uint32_t nshare;
    LinkShare *share;
    CommTraffic traffic[TOPOLOGY_LEVELS]; /* of all ranks */
} CommKind;

typedef struct {
    const Topology *topology;
    const Topology **own; /* by class: the same with the rates of its machine's links */
    const RankClass *class;
    uint32_t nclass;
    uint32_t *class_of; /* by rank */
    bool *open;         /* while shares are worked out */
    Arena *arena;
    VEC(SimLink) link;
    VEC(CommKind) kind;
} Links;

void links_init(Links *l, const Topology *t, const RankClass *class, uint32_t nclass, Arena *a);
void links_free(Links *l);
/* The kind of class c's communication; a receive is its sender's. */
uint32_t links_kind(Links *l, uint32_t c, const RankComm *comm);
/* Sets speed[i], at most `most[i]` (0 … 1], of n communications of kind[i] that are under way: at
 * most COMM_STREAMS of each class. */
void links_speeds(Links *l, const uint32_t *kind, const double *most, uint32_t n, double *speed);

#endif
