/* ranks.h: what the ranks of one run tell each other beside their work: whether all are well, and a
 * few numbers. Every rank calls the same functions in the same order, between steps. With one rank,
 * or without a communicator, nothing is sent. */
#ifndef M6C_RANKS_H
#define M6C_RANKS_H

#include "runtime/comm.h"

typedef struct {
    Comm *comm; /* of all ranks; NULL: one rank */
    int rank;   /* from 0 */
    int n;
} Ranks;

Ranks ranks_of(Comm *comm);
/* Takes each rank's `mine`. NULL if all were; otherwise every rank fails with the code of the
 * lowest rank that had failed, and only that one has a text: what all have to do is end, and one
 * says why (comm_finish says which). */
Status ranks_agree(const Ranks *r, Status mine);
/* The same, and with several ranks *any becomes whether it was true on one of them. */
Status ranks_agree_any(const Ranks *r, Status mine, bool *any);
/* all[i * n + j] = x[j] of rank i. */
Status ranks_gather(const Ranks *r, const int64_t *x, int n, int64_t *all);
/* x[j] = the largest x[j]. At most RANKS_MAX numbers. */
enum { RANKS_MAX = 8 };
Status ranks_max(const Ranks *r, int64_t *x, int n);
/* x[j] = rank 0's x[j]. */
Status ranks_share(const Ranks *r, int64_t *x, int n);

#endif
