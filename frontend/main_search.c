/* main_search.c: m6c search: which mesh of a cluster's ranks trains a model fastest. Candidates are
 * priced by formulas (passes/search.h); the best ones are then compiled in memory, so that it shows
 * how far the formulas are from the plans. */
#include "frontend/main_search.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "passes/stage.h"

typedef struct {
    ModelArgs model;
    int64_t ranks, limit, verify, stages;
    bool json;
} SearchOptions;

/* ---- probes ---- */

static const int64_t primes[] = {2, 3, 5, 7};

/* Axes of a probe, as bits, the most first. */
static const unsigned probe_axes[] = {7, 5, 3, 6, 1, 4, 2, 0};

static const char *probe_mesh(Arena *a, unsigned axes, int64_t size, bool shared) {
    SearchMesh m = {.pipeline = 1, .shared = shared};
    Buf b = {0};
    for (int i = 0; i < AXIS_COUNT; i++) m.size[i] = axes >> i & 1 ? size : 1;
    search_mesh_print(&m, &b);
    const char *text = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    return text;
}

/* The model as one rank of a small mesh has it; NULL, without a word, when it cannot be that. */
static SearchModel *try_probe(Arena *a, ModelArgs args, bool zero, int64_t *tokens) {
    Session *s = session_new();
    SearchModel *m = NULL;
    Buf said = {0};
    args.zero = zero ? "1" : "0";
    args.micros = "1";
    diag_capture(s, &said);
    Graph *g = model_elaborate(s, &args);
    PassContext cx = {.session = s, .gpu = target_is_gpu(args.target)};
    if (g) cx.machine = machine_load(s, g->set.cluster, args.target);
    if (cx.machine && pipeline_run(g, SEARCH_PASSES, &cx)) {
        m = search_model(g, a);
        *tokens = graph_tokens(g);
    }
    if (g) graph_free(g);
    buf_free(&said);
    session_free(s);
    return m;
}

/* On the largest set of axes that the model takes, each as small as can be. */
static SearchModel *make_probe(Arena *a, const ModelArgs *args, int64_t ranks, bool shared,
                               bool zero, int64_t *tokens) {
    for (size_t i = 0; i < COUNT(probe_axes); i++)
        for (size_t k = 0; k < COUNT(primes); k++) {
            unsigned axes = probe_axes[i];
            bool possible = axes == 0 ? k == 0 : ranks % primes[k] == 0;
            if (!possible || (shared && (axes & 3) != 1)) continue;
            ModelArgs with = *args;
            with.mesh = probe_mesh(a, axes, primes[k], shared);
            SearchModel *m = try_probe(a, with, zero, tokens);
            if (m) return m;
        }
    return NULL;
}

static void make_probes(Arena *a, SearchReport *r) {
    for (int shared = 0; shared < 2; shared++)
        for (int zero = 0; zero < 2; zero++) {
            int64_t tokens = 0;
            r->space.model[shared][zero] = make_probe(a, r->model, r->ranks, shared, zero, &tokens);
            if (!shared && !zero) r->tokens = tokens;
        }
}

static void free_probes(SearchReport *r) {
    for (int i = 0; i < 4; i++)
        if (r->space.model[i / 2][i % 2])
            search_model_free((SearchModel *)(uintptr_t)r->space.model[i / 2][i % 2]);
}

/* ---- what a candidate is called ---- */

/* A size in the unit in which it is a whole number. */
static const char *whole_size(Arena *a, int64_t bytes) {
    if (bytes % 1000000000) return size_text(a, bytes);
    return arena_printf(a, "%" PRId64 "GB", bytes / 1000000000);
}

ModelArgs search_args(Arena *a, const SearchReport *r, const SearchChoice *c) {
    ModelArgs args = *r->model;
    Buf b = {0};
    search_mesh_print(&c->mesh, &b);
    args.mesh = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    if (c->zero != r->zero) args.zero = c->zero ? "1" : "0";
    if (c->mesh.size[AXIS_MICRO] != r->micros)
        args.micros = arena_printf(a, "%" PRId64, c->mesh.size[AXIS_MICRO]);
    if (r->space.place.memory) args.memory = whole_size(a, r->space.place.memory);
    args.host_memory =
        c->offload && r->space.place.host_memory ? whole_size(a, r->space.place.host_memory) : NULL;
    if (c->keep == KEEP_NONE) args.checkpoint = "all";
    return args;
}

static void put_option(Buf *b, const char *name, const char *value) {
    if (value) buf_printf(b, " --%s %s", name, value);
}

const char *search_command(Arena *a, const SearchReport *r, const SearchChoice *c) {
    ModelArgs m = search_args(a, r, c);
    Buf b = {0};
    buf_printf(&b, "m6c compile %s", m.path);
    if (strcmp(m.target, "cpu") != 0) put_option(&b, "target", m.target);
    for (uint32_t i = 0; i < m.set.n; i++) put_option(&b, "set", m.set.p[i]);
    put_option(&b, "precision", m.precision);
    put_option(&b, "cluster", m.cluster);
    put_option(&b, "mesh", m.mesh);
    put_option(&b, "micro-batches", m.micros);
    put_option(&b, "zero", m.zero);
    put_option(&b, "checkpoint", m.checkpoint);
    put_option(&b, "offload", m.offload);
    put_option(&b, "memory", m.memory);
    put_option(&b, "host-memory", m.host_memory);
    const char *text = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    return text;
}

/* ---- what its plans say ---- */

/* A pipeline's stages are compiled one by one: that takes as long as they are many. */
static void say_progress(uint32_t i, const SearchMesh *m) {
    Buf b = {0};
    search_mesh_print(m, &b);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "compiling candidate %u, %s\n", i, b.p);
    buf_free(&b);
}

static void prove_best(Arena *a, SearchReport *r, int64_t most) {
    SearchProof *proof = arena_array(a, SearchProof, MAX(most, 1));
    for (uint32_t i = 0; i < r->list.result.n && i < most; i++) {
        if (r->list.result.p[i].lost != LOST_NOT) break;
        say_progress(i + 1, &r->list.result.p[i].choice.mesh);
        proof[r->nproof++] = search_prove(a, r, &r->list.result.p[i].choice);
    }
    r->proof = proof;
}

/* ---- the machine ---- */

/* Budgets of a rank: as stated, or what the machine has; its host's memory is shared. */
static void set_place(SearchReport *r, const Settings *set, const Machine *m) {
    SearchPlace *p = &r->space.place;
    int64_t sharers = MIN(MAX(machine_devices(m), 1), r->ranks);
    p->machine = m;
    bool unequal = machine_groups(m) > 1;
    p->memory = set->memory && !unequal ? set->memory : stage_memory(m, set->memory);
    p->host_memory = set->host_memory ? set->host_memory : machine_memory(m, MEM_HOST) / sharers;
    p->splits = MAX(set->max_splits, 1);
}

static Status choose_ranks(const SearchOptions *o, const Machine *m, SearchReport *r) {
    r->ranks = o->ranks ? o->ranks : machine_devices(m) * MAX(machine_nodes(m), 1);
    if (r->ranks > 0) return NULL;
    return status_make(EXIT_INPUT,
                       "'%s' does not say how many devices it has: give --ranks N, or --cluster "
                       "FILE (examples/clusters has some)",
                       machine_name(m));
}

/* What the ranks lie on: of unequal devices the slowest and smallest of the first ones. */
static const Machine *in_use(const Machine *m, int64_t ranks, Arena *a) {
    int64_t *rank = arena_array(a, int64_t, ranks);
    for (int64_t i = 0; i < ranks; i++) rank[i] = i;
    return machine_of_ranks(m, rank, ranks);
}

/* ---- the command ---- */

static Status search(const SearchOptions *o, Arena *a, SearchReport *r, const Topology *t) {
    make_probes(a, r);
    if (!r->space.model[0][0] && !r->space.model[1][0])
        return status_make(EXIT_INPUT, "no part of this model can be placed on a mesh");
    clock_t begin = clock();
    r->space.place.prices = search_prices(t, a);
    r->space.ranks = r->ranks;
    r->space.stages = o->stages;
    search_candidates(&r->space, &r->list);
    r->seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    prove_best(a, r, o->verify);
    o->json ? search_print_json(r) : search_print(r);
    return NULL;
}

/* Reads the model and the machine; EXIT_DONE, or what to exit with after diagnostics. */
static int run(const SearchOptions *o, Arena *a) {
    SearchReport r = {.model = &o->model, .limit = o->limit};
    Session *s = session_new();
    ModelArgs one = o->model;
    one.mesh = "data=1";
    Graph *g = model_elaborate(s, &one);
    Machine *m = g ? machine_load(s, g->set.cluster, o->model.target) : NULL;
    Status bad = m ? choose_ranks(o, m, &r) : NULL;
    const Topology *t = m && !bad ? topology_of(m, r.ranks) : NULL;
    if (t) {
        r.machine = machine_name(m);
        r.zero = g->set.zero > 0;
        r.micros = g->set.micro_batches;
        set_place(&r, &g->set, in_use(m, r.ranks, a));
        bad = search(o, a, &r, t);
    }
    int code = bad ? status_exit(bad) : t ? EXIT_DONE : MAX(diag_exit(s), EXIT_INPUT);
    free_probes(&r);
    vec_free(&r.list.result);
    if (g) graph_free(g);
    session_free(s);
    return code;
}

static Status check_options(const SearchOptions *o) {
    if (o->model.mesh || o->model.zero || o->model.micros)
        return status_make(EXIT_USAGE, "--%s is what is searched for: m6c compile takes it",
                           o->model.mesh   ? "mesh"
                           : o->model.zero ? "zero"
                                           : "micro-batches");
    if (o->ranks < 0 || o->ranks > 65536)
        return status_make(EXIT_USAGE, "--ranks wants a number from 1 to 65536");
    if (o->limit < 1 || o->verify < 0 || o->stages < 0)
        return status_make(EXIT_USAGE, "--limit, --verify and --stages want whole numbers");
    return NULL;
}

int main_search(int argc, char **argv) {
    SearchOptions o = {.model.target = "cpu", .limit = 10, .verify = 1};
    const Option options[] = {
        {"ranks", OPT_INT, &o.ranks, "N", "how many (all devices of the cluster)"},
        {"stages", OPT_INT, &o.stages, "N", "of a pipeline at most; 1: no pipelines (any number)"},
        {"limit", OPT_INT, &o.limit, "N", "how many candidates are shown (10)"},
        {"verify", OPT_INT, &o.verify, "N", "how many of the best are compiled (1)"},
        {"json", OPT_FLAG, &o.json, NULL, "one JSON object"},
        MODEL_OPTIONS(o.model),
    };
    const OptionTable table = {"search model.m6 --cluster FILE [options]", options, COUNT(options),
                               1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && !help) s = check_options(&o);
    int code = s || help ? status_exit(s) : EXIT_DONE;
    if (!code && !help) {
        Arena *a = arena_new();
        o.model.path = positional.p[0];
        code = run(&o, a);
        arena_free(a);
    }
    vec_free(&positional);
    vec_free(&o.model.set);
    return code;
}
