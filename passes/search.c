/* search.c: all candidates of a search, and their order. */
#include "passes/search.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_MICROS = 64 };

typedef struct {
    const SearchSpace *space;
    SearchList *out;
    Arena *a; /* of one mesh */
} Search;

/* ---- choices on one mesh ---- */

/* Keeping some is keeping all where that fits, and nothing moves where all fits: neither is a
 * candidate of its own. */
static bool changes_nothing(const SearchResult *r) {
    return (r->choice.keep == KEEP_SOME && r->again == 0) || (r->choice.offload && r->host == 0);
}

static void price_choices(Search *s, const SearchBase *b, const SearchMesh *mesh, bool zero) {
    bool train = s->space->model[mesh->shared][zero]->train; /* or nothing is kept */
    for (int keep = KEEP_ALL; keep <= (train ? KEEP_NONE : KEEP_ALL); keep++)
        for (int offload = 0; offload < 2; offload++) {
            SearchChoice c = {*mesh, zero, (SearchKeep)keep, offload};
            SearchResult r;
            if (keep == KEEP_SOME && offload) continue; /* some are enough, or nothing is kept */
            search_price(b, &c, &r);
            s->out->priced++;
            if (!changes_nothing(&r)) vec_push(&s->out->result, r);
        }
}

/* False: the mesh does not go with the model. */
static bool price_mesh(Search *s, const SearchMesh *mesh, bool zero, bool tell) {
    const SearchModel *m = s->space->model[mesh->shared][zero];
    SearchResult why = {.choice = {*mesh, zero, KEEP_ALL, false}};
    if (!m) return true;
    const SearchBase *b = search_base(m, &s->space->place, mesh, &why, s->a);
    if (b) {
        price_choices(s, b, mesh, zero);
    } else if (tell) {
        s->out->priced++;
        vec_push(&s->out->result, why);
    }
    return b != NULL;
}

/* ---- meshes ---- */

/* With all numbers of micro-batches that divide the batch. */
static void all_micros(Search *s, SearchMesh mesh) {
    bool train = s->space->model[mesh.shared][0]->train;
    for (int64_t n = 1; n <= (train ? MOST_MICROS : 1); n++) {
        mesh.size[AXIS_MICRO] = n;
        arena_free(s->a);
        s->a = arena_new();
        if (!price_mesh(s, &mesh, false, n == 1) && n == 1) return;
        bool replicas = mesh.size[AXIS_DATA] * mesh.size[AXIS_EXPERT] > 1;
        if (replicas && train) price_mesh(s, &mesh, true, false);
    }
}

/* An axis that the probe does not have cannot be larger than 1. */
static bool axis_possible(const SearchModel *m, SearchAxis a, int64_t size) {
    if (size == 1) return true;
    if (a == AXIS_EXPERT && !m->experts) return false;
    if (a == AXIS_TENSOR && !m->tensor) return false;
    return m->size[a] > 1;
}

static void try_mesh(Search *s, SearchMesh mesh) {
    const SearchModel *m = s->space->model[mesh.shared][0];
    if (!m || (mesh.shared && (mesh.size[AXIS_DATA] == 1 || !m->experts))) return;
    for (int a = 0; a < AXIS_MICRO; a++)
        if (!axis_possible(m, (SearchAxis)a, mesh.size[a])) return;
    all_micros(s, mesh);
}

static void all_meshes(Search *s, int64_t stages) {
    int64_t ranks = s->space->ranks / stages;
    for (int64_t t = 1; t <= ranks; t++)
        for (int64_t e = 1; ranks % t == 0 && e <= ranks / t; e++) {
            if (ranks / t % e) continue;
            SearchMesh m = {.size = {ranks / t / e, e, t, 1}, .pipeline = stages};
            try_mesh(s, m);
            m.shared = true;
            if (e == 1) try_mesh(s, m);
        }
}

/* ---- order ---- */

/* Of equals the simplest first; no two choices have one number. */
static uint64_t order_of(const SearchChoice *c) {
    uint64_t order = (uint64_t)c->offload * 6 + (uint64_t)c->keep * 2 + c->zero;
    order = order << 7 | (uint64_t)c->mesh.size[AXIS_MICRO];
    order = order << 17 | (uint64_t)c->mesh.pipeline;
    order = order << 17 | (uint64_t)c->mesh.size[AXIS_TENSOR];
    return order << 18 | (uint64_t)c->mesh.size[AXIS_EXPERT] << 1 | c->mesh.shared;
}

static int by_time(const void *a, const void *b) {
    const SearchResult *x = a, *y = b;
    if (x->lost != y->lost) return x->lost < y->lost ? -1 : 1;
    if (x->lost != LOST_NOT && x->excess != y->excess) return x->excess < y->excess ? -1 : 1;
    if (x->us != y->us) return x->us < y->us ? -1 : 1;
    return order_of(&x->choice) < order_of(&y->choice) ? -1 : 1;
}

void search_candidates(const SearchSpace *space, SearchList *out) {
    Search s = {.space = space, .out = out, .a = arena_new()};
    for (int64_t stages = 1; stages <= space->ranks; stages++) {
        if (space->ranks % stages || (space->stages && stages > space->stages)) continue;
        all_meshes(&s, stages);
    }
    arena_free(s.a);
    if (out->result.n) qsort(out->result.p, out->result.n, sizeof *out->result.p, by_time);
}

/* ---- telling ---- */

SearchPart search_worse_in(const SearchResult *r, const SearchResult *best) {
    int worst = 0;
    for (int p = 1; p < PART_COUNT; p++)
        if (r->part[p] - best->part[p] > r->part[worst] - best->part[worst]) worst = p;
    return (SearchPart)worst;
}

void search_mesh_print(const SearchMesh *m, Buf *out) {
    const char *comma = "";
    if (m->pipeline * m->size[AXIS_DATA] * m->size[AXIS_EXPERT] * m->size[AXIS_TENSOR] == 1)
        buf_puts(out, "data=1");
    if (m->pipeline > 1) buf_printf(out, "pipeline=%" PRId64, m->pipeline), comma = ",";
    for (int a = 0; a < AXIS_MICRO; a++) {
        if (m->size[a] > 1)
            buf_printf(out, "%s%s=%" PRId64, comma, search_axis_name((SearchAxis)a), m->size[a]),
                comma = ",";
        if (a == AXIS_DATA && m->shared) buf_puts(out, ",expert=data");
    }
}
