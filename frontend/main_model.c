/* main_model.c: from a model's text to a graph after passes. */
#include "frontend/main_model.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/elab.h"
#include "passes/equal.h"
#include "passes/topology.h"

/* "DIR:SIZE" or "SIZE". */
static const char *disk_size(const ModelArgs *a) {
    const char *colon = a->disk ? strrchr(a->disk, ':') : NULL;
    return colon ? colon + 1 : a->disk;
}

/* "5,3" as the list it is in a model. */
static const char *shares_list(Session *s, const ModelArgs *a) {
    return a->shares ? arena_printf(session_arena(s), "[%s]", a->shares) : NULL;
}

/* Settings of the command line that stand in for entries of `place`, as text of that block. */
static const char *place_text(Session *s, const ModelArgs *a) {
    const struct {
        const char *key, *value;
        bool text;
    } entry[] = {{"mesh", a->mesh, false},
                 {"memory", a->memory, false},
                 {"host_memory", a->host_memory, false},
                 {"disk", disk_size(a), false},
                 {"cluster", a->cluster, true},
                 {"checkpoint", a->checkpoint, true},
                 {"offload", a->offload, true},
                 {"all_to_all", a->all_to_all, true},
                 {"all_to_all_chunks", a->chunks, false},
                 {"zero", a->zero, false},
                 {"shares", shares_list(s, a), false}};
    Buf b = {0};
    for (size_t i = 0; i < COUNT(entry); i++)
        if (entry[i].value)
            buf_printf(&b, entry[i].text ? "%s \"%s\"\n" : "%s %s\n", entry[i].key, entry[i].value);
    const char *text = b.p ? intern(s, b.p) : NULL;
    buf_free(&b);
    return text;
}

static const char *train_text(Session *s, const ModelArgs *a) {
    return a->micros ? arena_printf(session_arena(s), "num_micro_batch = %s", a->micros) : NULL;
}

static bool set_precision(Session *s, const ModelArgs *a, Graph *g) {
    Dtype d;
    if (!a->precision) return true;
    bool known = dtype_parse(a->precision, &d) && (d == DT_F32 || dtype_is_half(d));
    if (known) g->set.precision = d;
    if (known && d == DT_F16 && g->set.loss_scale == LOSS_SCALE_NONE)
        g->set.loss_scale = LOSS_SCALE_DYNAMIC;
    if (!known) diag_error(s, (Loc){0}, "unknown precision '%s': f32, bf16 or f16", a->precision);
    return known;
}

/* "--disk /mnt" is a folder without a size. */
static bool check_disk(Session *s, const ModelArgs *a) {
    bool good = !a->disk || (strchr(a->disk, ':') ? a->disk[0] != ':' : !strchr(a->disk, '/'));
    if (!good) diag_error(s, (Loc){0}, "--disk wants a folder and a size, as in /mnt/fast:200GB");
    return good;
}

Graph *model_elaborate(Session *s, const ModelArgs *a) {
    if (!check_disk(s, a)) return NULL;
    File *f = frontend_load(s, a->path);
    if (!f) return NULL;
    ElabOptions o = {.infer = a->infer,
                     .model = a->name,
                     .nset = a->set.n,
                     .set = a->set.p,
                     .place = place_text(s, a),
                     .train = train_text(s, a)};
    Graph *g = elaborate(s, f, &o);
    if (!g) return NULL;
    g->set.keep_grads |= a->grads;
    if (set_precision(s, a, g) && (a->describe || check_capabilities(s, f, g))) return g;
    graph_free(g);
    return NULL;
}

/* The pipeline as it goes for a forward graph: without what trains. */
static const char *pipeline_of(Session *s, const Graph *g, const char *passes) {
    static const char *const training[] = {"differentiate", "optimize"};
    if (g->set.train) return passes;
    Buf b = {0};
    for (const char *p = passes; *p;) {
        size_t n = strcspn(p, ",");
        bool skip = false;
        for (size_t i = 0; i < COUNT(training); i++)
            skip |= strlen(training[i]) == n && strncmp(p, training[i], n) == 0;
        if (!skip) buf_printf(&b, "%s%.*s", b.n ? "," : "", (int)n, p);
        p += n + (p[n] == ',');
    }
    const char *text = intern(s, b.p ? b.p : "");
    buf_free(&b);
    return text;
}

static bool run_until(Graph *g, const char *from, const char *to, PassContext *cx) {
    return pipeline_run(g, intern_n(g->session, from, (size_t)(to - from - 1)), cx);
}

/* Runs the passes; where ranks run several graphs it keeps what these are made from. */
static bool run_passes(const ModelArgs *a, Graph *g, const char *passes, PassContext *cx) {
    const char *shard = strstr(passes, "shard"), *stages = strstr(passes, "stages");
    if (!a->shared || !shard || !stages) return pipeline_run(g, passes, cx);
    if (!*a->shared) {
        if (!run_until(g, passes, shard, cx)) return false;
        if (!g->set.shares.n && !run_until(g, shard, stages, cx)) return false;
        if (mesh_programs(&g->set) > 1) *a->shared = graph_copy(g);
    }
    return pipeline_run(g, g->set.shares.n ? shard : stages, cx);
}

Graph *model_graph(Session *s, const ModelArgs *a, const char *passes, MemoryReport *memory) {
    Graph *g = a->shared && *a->shared ? graph_copy(*a->shared) : model_elaborate(s, a);
    if (!g) return NULL;
    PassContext cx = {.session = s,
                      .opt = a->pass,
                      .gpu =
                          target_is_gpu(a->target) || (a->target && strcmp(a->target, "cuda") == 0),
                      .stage = (uint32_t)a->stage,
                      .memory = memory,
                      .smallest = memory != NULL};
    pass_options_env(&cx.opt);
    cx.machine = machine_load(s, g->set.cluster, a->target);
    bool placed = cx.machine && topology_of(cx.machine, mesh_ranks(&g->set));
    if (placed && run_passes(a, g, pipeline_of(s, g, passes), &cx)) return g;
    graph_free(g);
    return NULL;
}

bool model_memory(Session *s, const ModelArgs *a, MemoryReport *memory) {
    Graph *g = model_graph(s, a, pipeline_default, memory);
    if (g) graph_free(g);
    return g != NULL;
}
