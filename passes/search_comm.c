/* search_comm.c: prices of collectives on the meshes of a search. The same group of ranks is asked
 * for by thousands of candidates with bytes of all sizes: a group has a table of prices at powers
 * of two, filled in as they are asked for. */
#include <math.h>
#include <string.h>

#include "passes/search.h"

enum { SIZES = 56, TABLES = 1 << 16 };

typedef struct {
    Collective kind;
    MeshGroup group;
    double us[SIZES]; /* by log2 of the bytes; below 0: not known yet */
} Table;

struct SearchPrices {
    const Topology *topology;
    Arena *arena;
    Table *table[TABLES]; /* open addressing */
    uint32_t used;
};

SearchPrices *search_prices(const Topology *t, Arena *a) {
    SearchPrices *p = arena_new_of(a, SearchPrices);
    p->topology = t;
    p->arena = a;
    return p;
}

static void add_level(MeshGroup *g, int64_t size, int64_t stride) {
    if (size == 1) return;
    g->size[g->nlevel] = size, g->stride[g->nlevel++] = stride;
    g->n *= size;
}

static MeshGroup group_over(const SearchMesh *m, unsigned over, Collective kind) {
    int64_t stride[AXIS_MICRO] = {m->size[AXIS_EXPERT] * m->size[AXIS_TENSOR], m->size[AXIS_TENSOR],
                                  1};
    MeshGroup g = {.n = 1};
    if (kind == COLLECTIVE_SEND) add_level(&g, m->pipeline, stride[0] * m->size[AXIS_DATA]);
    for (int a = 0; a < AXIS_MICRO && kind != COLLECTIVE_SEND; a++)
        if (over >> a & 1) add_level(&g, m->size[a], stride[a]);
    return g;
}

static bool group_equal(const MeshGroup *a, const MeshGroup *b) {
    size_t n = (size_t)a->nlevel * sizeof *a->size;
    return a->nlevel == b->nlevel && !memcmp(a->size, b->size, n) &&
           !memcmp(a->stride, b->stride, n);
}

static Table *table_new(SearchPrices *p, const MeshGroup *g, Collective kind) {
    Table *t = arena_new_of(p->arena, Table);
    *t = (Table){.kind = kind, .group = *g};
    for (int i = 0; i < SIZES; i++) t->us[i] = -1;
    return t;
}

static Table *table_of(SearchPrices *p, const MeshGroup *g, Collective kind) {
    uint64_t h = (uint64_t)kind;
    for (int i = 0; i < g->nlevel; i++)
        h = hash_mix(hash_mix(h, (uint64_t)g->size[i]), (uint64_t)g->stride[i]);
    uint32_t i = (uint32_t)h & (TABLES - 1);
    for (; p->table[i]; i = (i + 1) & (TABLES - 1))
        if (p->table[i]->kind == kind && group_equal(&p->table[i]->group, g)) return p->table[i];
    Table *t = table_new(p, g, kind);
    if (p->used < TABLES / 2) p->table[i] = t, p->used++; /* else priced again each time */
    return t;
}

static double price_at(SearchPrices *p, Table *t, int size) {
    if (t->us[size] >= 0) return t->us[size];
    double bytes = ldexp(1, size);
    CommPlan plan;
    AllToAllPlan exchange;
    if (t->kind != COLLECTIVE_ALL_TO_ALL)
        return t->us[size] = comm_best(p->topology, &t->group, t->kind, bytes, &plan);
    all_to_all_plan(p->topology, &t->group, bytes, false, &exchange);
    return t->us[size] = exchange.us;
}

double search_comm_us(SearchPrices *p, const SearchMesh *mesh, unsigned over, Collective kind,
                      double bytes) {
    MeshGroup g = group_over(mesh, over, kind);
    if (g.n == 1 || !(bytes > 0)) return 0;
    Table *t = table_of(p, &g, kind);
    int size;
    double part = 2 * frexp(MAX(bytes, 1), &size) - 1; /* 1 … 2 times 2^(size - 1) */
    size = MIN(size - 1, SIZES - 2);
    double low = price_at(p, t, size);
    return part > 0 ? low + part * (price_at(p, t, size + 1) - low) : low;
}
