/* main_simulate_classes.c: which ranks are simulated as one.
 *
 * Ranks of one plan are equal where all devices are. On unequal ones they are of one class when
 * their devices are alike and, whatever group they meet in, equally many of each class are there: a
 * fast rank that meets slow ones is another one than a fast rank that meets none. So classes are
 * split until nothing changes. */
#include <stdlib.h>

#include "frontend/main_price.h"
#include "frontend/main_simulate.h"

typedef VEC(MeshGroup) Groups;

/* The groups that a plan's ranks meet in. */
static Groups groups_of(const Plan *p) {
    Groups all = {0};
    for (uint32_t i = 0; i < p->group.n; i++) {
        const PlanGroup *from = &p->group.p[i];
        MeshGroup g = {.nlevel = from->nlevel, .n = plan_group_size(from)};
        for (int k = 0; k < g.nlevel; k++) g.size[k] = from->size[k], g.stride[k] = from->stride[k];
        vec_push(&all, g);
    }
    return all;
}

/* What a rank is, as a number: its class, and the classes that it meets in each of its groups. */
static uint64_t describe(const Groups *all, const uint32_t *class_of, int64_t rank) {
    uint64_t hash = class_of[rank];
    for (uint32_t i = 0; i < all->n; i++) {
        uint64_t sum = 0;
        for (int64_t k = 0; k < all->p[i].n; k++) {
            uint32_t other = class_of[mesh_member(&all->p[i], rank, k)];
            sum += hash_bytes(&other, sizeof other, 1);
        }
        hash = hash_bytes(&sum, sizeof sum, hash + 1);
    }
    return hash;
}

/* Numbers in the order of their first ranks. */
static uint32_t number_classes(int64_t ranks, const uint64_t *hash, uint32_t *class_of) {
    uint32_t n = 0;
    uint64_t *seen = xcalloc((size_t)ranks, sizeof *seen);
    for (int64_t r = 0; r < ranks; r++) {
        uint32_t i = 0;
        while (i < n && seen[i] != hash[r]) i++;
        if (i == n) seen[n++] = hash[r];
        class_of[r] = i;
    }
    free(seen);
    return n;
}

/* The same numbers, of earlier stages first. */
static void sort_by_stage(const Plan *first, uint32_t n, uint32_t *class_of) {
    uint32_t *to = xcalloc(n, sizeof *to), next = 0;
    bool *placed = xcalloc(n, sizeof *placed);
    for (int64_t stage = 0; stage < (int64_t)plan_count(first); stage++)
        for (int64_t r = 0; r < first->ranks; r++) {
            if (plan_number_of(first, r) != stage || placed[class_of[r]]) continue;
            placed[class_of[r]] = true;
            to[class_of[r]] = next++;
        }
    for (int64_t r = 0; r < first->ranks; r++) class_of[r] = to[class_of[r]];
    free(placed);
    free(to);
}

uint32_t rank_classes(const Plan *first, const Machine *m, uint32_t *class_of) {
    int64_t ranks = first->ranks;
    uint32_t n, before = 0, groups = machine_groups(m), stages = plan_count(first);
    uint64_t *hash = xcalloc((size_t)ranks, sizeof *hash);
    Groups *all = xcalloc(stages, sizeof *all);
    for (uint32_t s = 0; s < stages; s++) all[s] = groups_of(plan_at(first, s));
    for (int64_t r = 0; r < ranks; r++)
        hash[r] = (uint64_t)plan_number_of(first, r) * groups + machine_group_of(m, r);
    n = number_classes(ranks, hash, class_of);
    while (groups > 1 && n != before) {
        before = n;
        for (int64_t r = 0; r < ranks; r++)
            hash[r] = describe(&all[plan_number_of(first, r)], class_of, r);
        n = number_classes(ranks, hash, class_of);
    }
    sort_by_stage(first, n, class_of);
    for (uint32_t s = 0; s < stages; s++) vec_free(&all[s]);
    free(all);
    free(hash);
    return n;
}
