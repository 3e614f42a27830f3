/* main_search_print.c: a search's best candidates, and why the others lose. */
#include "frontend/main_search.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

static const char *mesh_name(Arena *a, const SearchMesh *m) {
    Buf b = {0};
    search_mesh_print(m, &b);
    const char *text = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    return text;
}

/* The mesh, and in how many parts the batch goes through it. */
static const char *choice_name(Arena *a, const SearchResult *x) {
    const SearchMesh *m = &x->choice.mesh;
    const char *name = mesh_name(a, m);
    if (m->size[AXIS_MICRO] == 1) return name;
    return arena_printf(a, "%s in %" PRId64 " micro-batches", name, m->size[AXIS_MICRO]);
}

static const char *keep_name(SearchKeep k) {
    static const char *const names[] = {"none", "some", "all"}; /* what is computed again */
    return names[k];
}

static double tokens_a_second(const SearchReport *r, double us) {
    return us > 0 ? (double)r->tokens / us * 1e6 : 0;
}

/* "compute 71 %, tensor 15 %": parts of a tenth or more, two at most. */
static const char *bound_by(Arena *a, const SearchResult *x) {
    const char *text = "";
    bool told[PART_COUNT] = {false};
    for (int n = 0; n < 2; n++) {
        int most = -1;
        for (int p = 0; p < PART_COUNT; p++)
            if (!told[p] && (most < 0 || x->part[p] > x->part[most])) most = p;
        told[most] = true;
        double share = x->part[most] / MAX(x->us, 1e-9);
        if (n && share < 0.1) break;
        text = arena_printf(a, "%s%s%s %.0f %%", text, n ? ", " : "",
                            search_part_name((SearchPart)most), 100 * share);
    }
    return text;
}

/* ---- the best ---- */

static void print_row(Arena *a, const SearchReport *r, uint32_t i, int wide) {
    const SearchResult *x = &r->list.result.p[i];
    const SearchChoice *c = &x->choice;
    printf("%4u %12.2f %12.0f %10.2f %8.2f  %-*s %6" PRId64 " %5d %7s %7s  %s\n", i + 1,
           x->us * 1e-3, tokens_a_second(r, x->us), x->device * 1e-9, x->host * 1e-9, wide,
           mesh_name(a, &c->mesh), c->mesh.size[AXIS_MICRO], c->zero, keep_name(c->keep),
           c->offload ? "host" : "none", bound_by(a, x));
}

static void print_proof(const SearchReport *r, uint32_t i) {
    const SearchProof *p = &r->proof[i];
    const SearchResult *x = &r->list.result.p[i];
    if (!p->made) {
        printf("     compiled: %s\n", p->error);
        return;
    }
    printf("     compiled: %.2f ms (%+.1f %%), device %.2f GB (%+.1f %%), host %.2f GB%s\n",
           p->us * 1e-3, 100 * (p->us / x->us - 1), (double)p->device * 1e-9,
           100 * ((double)p->device / x->device - 1), (double)p->host * 1e-9,
           p->fits ? "" : ": does not fit");
}

static uint32_t feasible(const SearchReport *r) {
    uint32_t n = 0;
    while (n < r->list.result.n && r->list.result.p[n].lost == LOST_NOT) n++;
    return n;
}

static void print_best(Arena *a, const SearchReport *r, uint32_t n) {
    size_t wide = strlen("mesh");
    for (uint32_t i = 0; i < n; i++)
        wide = MAX(wide, strlen(mesh_name(a, &r->list.result.p[i].choice.mesh)));
    printf("\n%4s %12s %12s %10s %8s  %-*s %6s %5s %7s %7s  %s\n", "rank", "ms a step", "tokens/s",
           "device GB", "host GB", (int)wide, "mesh", "micros", "zero", "again", "offload",
           "bound by");
    for (uint32_t i = 0; i < n; i++) {
        print_row(a, r, i, (int)wide);
        if (i < r->nproof) print_proof(r, i);
    }
}

/* ---- why others lose ---- */

/* Losers of one kind: how many, and the one that was nearest. */
typedef struct {
    uint32_t n;
    const SearchResult *nearest;
} Losers;

static const char *axes_name(Arena *a, const SearchResult *x) {
    const char *text = "";
    for (int i = 0; i < AXIS_COUNT; i++)
        if (x->axes >> i & 1 && x->choice.mesh.size[i] > 1)
            text = arena_printf(a, "%s%s%s=%" PRId64, text, *text ? " x " : "",
                                search_axis_name((SearchAxis)i), x->choice.mesh.size[i]);
    return text;
}

static const char *lost_text(Arena *a, const SearchResult *x) {
    double gb = (double)x->excess * 1e-9;
    switch (x->lost) {
    case LOST_DIVIDE:
        return arena_printf(a, "%s does not divide a dimension of %" PRId64, axes_name(a, x),
                            x->excess);
    case LOST_STAGES: return arena_printf(a, "more stages than layers, %" PRId64, x->excess);
    case LOST_DEVICE: return arena_printf(a, "%.3g GB too much on the device", gb);
    case LOST_HOST: return arena_printf(a, "%.3g GB too much in the host", gb);
    default: return "";
    }
}

static const char *const lost_names[LOST_COUNT] = {"", "do not divide the model",
                                                   "have too many stages", "do not fit the device",
                                                   "do not fit the host"};

static void count_losers(const SearchReport *r, Losers lost[LOST_COUNT], Losers slow[PART_COUNT]) {
    for (uint32_t i = feasible(r) > 0; i < r->list.result.n; i++) {
        const SearchResult *x = &r->list.result.p[i], *best = &r->list.result.p[0];
        Losers *to = &lost[x->lost];
        if (x->lost == LOST_NOT) to = &slow[search_worse_in(x, best)];
        if (!to->n++) to->nearest = x;
    }
}

static void print_losers(Arena *a, const SearchReport *r) {
    Losers lost[LOST_COUNT] = {{0}}, slow[PART_COUNT] = {{0}};
    if (r->list.result.n == 0) return;
    double best = r->list.result.p[0].us;
    count_losers(r, lost, slow);
    printf("\nwhy others lose:\n");
    for (int p = 0; p < PART_COUNT; p++)
        if (slow[p].n)
            printf("%7u slower by %-12s nearest: %+.1f %%, %s, %s\n", slow[p].n,
                   search_part_name((SearchPart)p), 100 * (slow[p].nearest->us / best - 1),
                   choice_name(a, slow[p].nearest), bound_by(a, slow[p].nearest));
    for (int l = LOST_NOT + 1; l < LOST_COUNT; l++)
        if (lost[l].n)
            printf("%7u %-22s nearest: %s, %s\n", lost[l].n, lost_names[l],
                   choice_name(a, lost[l].nearest), lost_text(a, lost[l].nearest));
}

/* ---- all ---- */

static const char *with_commas(Arena *a, uint64_t n) {
    return n < 1000 ? arena_printf(a, "%" PRIu64, n)
                    : arena_printf(a, "%s,%03" PRIu64, with_commas(a, n / 1000), n % 1000);
}

void search_print(const SearchReport *r) {
    Arena *a = arena_new();
    uint32_t n = feasible(r);
    printf("%s: %" PRId64 " rank%s", r->machine, r->ranks, r->ranks == 1 ? "" : "s");
    if (r->space.place.memory) printf(", each with %.1f GB", (double)r->space.place.memory * 1e-9);
    if (r->space.place.host_memory)
        printf(" and %.1f GB of its host", (double)r->space.place.host_memory * 1e-9);
    if (machine_groups(r->space.place.machine) > 1)
        printf(
            "\nunequal devices: formulas take all for the slowest, with the smallest memory; what "
            "is compiled has the stages and times of each");
    printf("\n%s candidates in %.2f s of a core\n", with_commas(a, r->list.priced), r->seconds);
    if (r->list.result.n == 0)
        printf("\nnone: nothing in this model can be split over so many ranks\n");
    else if (n == 0)
        printf("\nnone of them can be done\n");
    if (n) print_best(a, r, (uint32_t)MIN((int64_t)n, r->limit));
    if (r->list.result.n > 1 || n == 0) print_losers(a, r);
    if (n) printf("\n%s\n", search_command(a, r, &r->list.result.p[0].choice));
    arena_free(a);
}

static json_t *result_json(Arena *a, const SearchReport *r, uint32_t i) {
    const SearchResult *x = &r->list.result.p[i];
    const SearchChoice *c = &x->choice;
    json_t *part = json_object();
    for (int p = 0; p < PART_COUNT; p++)
        json_object_set_new(part, search_part_name((SearchPart)p), json_real(x->part[p] * 1e-3));
    json_t *o = json_pack(
        "{s:s, s:I, s:b, s:s, s:s, s:f, s:f, s:f, s:f, s:o, s:s}", "mesh", mesh_name(a, &c->mesh),
        "micro_batches", (json_int_t)c->mesh.size[AXIS_MICRO], "zero", c->zero, "recompute",
        keep_name(c->keep), "offload", c->offload ? "host" : "none", "ms", x->us * 1e-3,
        "tokens_per_second", tokens_a_second(r, x->us), "device_bytes", x->device, "host_bytes",
        x->host, "parts_ms", part, "command", search_command(a, r, c));
    if (i >= r->nproof) return o;
    const SearchProof *p = &r->proof[i];
    json_object_set_new(o, "compiled",
                        p->made ? json_pack("{s:b, s:f, s:I, s:I}", "fits", p->fits, "ms",
                                            p->us * 1e-3, "device_bytes", (json_int_t)p->device,
                                            "host_bytes", (json_int_t)p->host)
                                : json_pack("{s:s}", "error", p->error));
    return o;
}

static void add_loser(Arena *a, json_t *list, const char *why, const Losers *l, const char *text) {
    json_array_append_new(list, json_pack("{s:s, s:I, s:s, s:s}", "why", why, "candidates",
                                          (json_int_t)l->n, "nearest", choice_name(a, l->nearest),
                                          "by", text));
}

static json_t *losers_json(Arena *a, const SearchReport *r) {
    Losers lost[LOST_COUNT] = {{0}}, slow[PART_COUNT] = {{0}};
    json_t *list = json_array();
    if (r->list.result.n) count_losers(r, lost, slow);
    for (int p = 0; p < PART_COUNT; p++)
        if (slow[p].n)
            add_loser(a, list, search_part_name((SearchPart)p), &slow[p],
                      arena_printf(a, "%+.1f %%",
                                   100 * (slow[p].nearest->us / r->list.result.p[0].us - 1)));
    for (int l = LOST_NOT + 1; l < LOST_COUNT; l++)
        if (lost[l].n) add_loser(a, list, lost_names[l], &lost[l], lost_text(a, lost[l].nearest));
    return list;
}

void search_print_json(const SearchReport *r) {
    Arena *a = arena_new();
    json_t *best = json_array();
    for (uint32_t i = 0; i < feasible(r) && i < r->limit; i++)
        json_array_append_new(best, result_json(a, r, i));
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:f, s:o, s:o}", "machine", r->machine, "ranks",
                          (json_int_t)r->ranks, "tokens", (json_int_t)r->tokens, "candidates",
                          (json_int_t)r->list.priced, "seconds", r->seconds, "best", best, "lost",
                          losers_json(a, r));
    json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(o);
    arena_free(a);
}
