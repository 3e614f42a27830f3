/* main_search_prove.c: a candidate's plans, made in memory and run in simulation on the cluster. */
#include "codegen/codegen.h"
#include "frontend/main_search.h"
#include "frontend/main_simulate.h"

/* The plan of one stage, or of all; what it holds goes to the proof. NULL after diagnostics. */
static Plan *make_stage(Session *s, const ModelArgs *args, uint64_t hash, SearchProof *p) {
    MemoryReport memory = {0};
    Graph *g = model_graph(s, args, pipeline_default, &memory);
    if (!g) return NULL;
    const CodegenOptions o = {.target = args->target, .model_hash = hash, .plan_only = true};
    Plan *plan = codegen_plan(g, &o);
    p->fits &= memory.fits;
    p->device = MAX(p->device, memory.arena[MEM_DEVICE]);
    p->host = MAX(p->host, memory.arena[MEM_HOST]);
    vec_free(&memory.decision);
    graph_free(g);
    return plan;
}

/* All stages; the first knows the others. */
static Plan *make_stages(Session *s, ModelArgs *args, int64_t stages, SearchProof *p) {
    Plan *first = make_stage(s, args, 0, p);
    if (!first || !first->stages) return first;
    Plan **of = arena_array(session_arena(s), Plan *, (size_t)stages);
    of[0] = first;
    first->of_stage = of;
    for (args->stage = 1; args->stage < stages; args->stage++) {
        Plan *next = of[args->stage] = make_stage(s, args, first->model_hash, p);
        if (next) next->of_stage = of;
        if (next) continue;
        plan_free_stages(first);
        return NULL;
    }
    return first;
}

SearchProof search_prove(Arena *a, const SearchReport *r, const SearchChoice *c) {
    SearchProof p = {.fits = true};
    ModelArgs args = search_args(a, r, c);
    Session *s = session_new();
    Arena *scratch = arena_new();
    Buf said = {0};
    ClusterRun run;
    diag_capture(s, &said);
    Graph *shared = NULL;
    args.shared = &shared;
    Plan *first = make_stages(s, &args, c->mesh.pipeline, &p);
    if (shared) graph_free(shared);
    p.made = first && cluster_simulate(first, args.cluster, scratch, &run);
    if (p.made)
        p.us = run.class[0].run.us;
    else
        p.error = first_error(a, &said);
    if (first) plan_free_stages(first);
    buf_free(&said);
    arena_free(scratch);
    session_free(s);
    return p;
}
