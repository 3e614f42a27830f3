/* comm_phase.h: building phases of collectives. Private to comm_*.c. */
#ifndef M6C_COMM_PHASE_H
#define M6C_COMM_PHASE_H

#include "passes/comm_cost.h"

/* Whom index i writes: i ^ flip, or, with flip 0, the one `shift` further on. */
typedef struct {
    int64_t flip, shift;
} Partner;

/* `rounds` rounds in each of which every rank sends `bytes` to its partner. */
void phase_partners(const Topology *t, const MeshGroup *g, Partner p, double rounds, double bytes,
                    CommPhase *out);
/* Every rank sends its n-1 others bytes/n each, all at once. */
void phase_direct(const Topology *t, const MeshGroup *g, double bytes, CommPhase *out);

#endif
