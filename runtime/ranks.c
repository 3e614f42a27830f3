/* ranks.c: see ranks.h. */
#include "runtime/ranks.h"

#include <stdlib.h>
#include <string.h>

Ranks ranks_of(Comm *comm) {
    if (!comm) return (Ranks){NULL, 0, 1};
    return (Ranks){comm, comm->ops->rank(comm), comm->ops->size(comm)};
}

Status ranks_blame(const Ranks *r, Status mine) {
    if (!mine || r->n == 1) return mine;
    Status told = status_make(mine->code, "rank %d: %s", r->rank, mine->text);
    free(mine);
    return told;
}

Status ranks_gather(const Ranks *r, const int64_t *x, int n, int64_t *all) {
    if (r->comm) return r->comm->ops->all_gather(r->comm, x, all, n, DT_I64);
    for (int i = 0; i < r->n; i++) memcpy(all + i * n, x, (size_t)n * sizeof *x);
    return NULL;
}

static Status agree(const Ranks *r, Status mine, const int64_t *code) {
    int first = 0;
    while (first < r->n && !code[first]) first++;
    if (first == r->n) return NULL;
    if (first == r->rank) return ranks_blame(r, mine);
    free(mine);
    return status_make((int)code[first], "%s", "");
}

Status ranks_agree(const Ranks *r, Status mine) {
    if (!r->comm || r->n == 1) return mine;
    int64_t code = mine ? mine->code : 0, *all = xcalloc((size_t)r->n, sizeof *all);
    Status s = ranks_gather(r, &code, 1, all);
    if (s)
        free(mine);
    else
        s = agree(r, mine, all);
    free(all);
    return s;
}

Status ranks_max(const Ranks *r, int64_t *x, int n) {
    ASSERT(n <= RANKS_MAX);
    int64_t *all = xcalloc((size_t)r->n * RANKS_MAX, sizeof *all);
    Status s = ranks_gather(r, x, n, all);
    for (int i = 0; !s && i < r->n * n; i++) x[i % n] = MAX(x[i % n], all[i]);
    free(all);
    return s;
}

Status ranks_share(const Ranks *r, int64_t *x, int n) {
    ASSERT(n <= RANKS_MAX);
    int64_t *all = xcalloc((size_t)r->n * RANKS_MAX, sizeof *all);
    Status s = ranks_gather(r, x, n, all);
    if (!s) memcpy(x, all, (size_t)n * sizeof *x);
    free(all);
    return s;
}
