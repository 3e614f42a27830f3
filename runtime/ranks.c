/* ranks.c: see ranks.h. */
#include "runtime/ranks.h"

#include <stdlib.h>
#include <string.h>

Ranks ranks_of(Comm *comm) {
    if (!comm) return (Ranks){NULL, 0, 1};
    return (Ranks){comm, comm->ops->rank(comm), comm->ops->size(comm)};
}

Status ranks_gather(const Ranks *r, const int64_t *x, int n, int64_t *all) {
    if (r->comm) return r->comm->ops->all_gather(r->comm, x, all, n, DT_I64);
    for (int i = 0; i < r->n; i++) memcpy(all + i * n, x, (size_t)n * sizeof *x);
    return NULL;
}

/* What a rank tells: its failure's code, and a flag. */
enum { CODE, FLAG, TOLD };

static Status agree(const Ranks *r, Status mine, const int64_t (*told)[TOLD]) {
    int first = 0;
    while (first < r->n && !told[first][CODE]) first++;
    if (first == r->n) return NULL;
    if (first == r->rank) return mine;
    free(mine);
    return status_make((int)told[first][CODE], "%s", "");
}

Status ranks_agree_any(const Ranks *r, Status mine, bool *any) {
    if (!r->comm || r->n == 1) return mine;
    int64_t own[TOLD] = {mine ? mine->code : 0, *any};
    int64_t(*told)[TOLD] = xcalloc((size_t)r->n, sizeof *told);
    Status s = ranks_gather(r, own, TOLD, *told);
    for (int i = 0; i < r->n && !s; i++) *any = *any || told[i][FLAG];
    if (s)
        free(mine);
    else
        s = agree(r, mine, (const int64_t(*)[TOLD])told);
    free(told);
    return s;
}

Status ranks_agree(const Ranks *r, Status mine) {
    bool any = false;
    return ranks_agree_any(r, mine, &any);
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
