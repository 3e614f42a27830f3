/* main_search_prove.c: a candidate's plans, made in memory and run in simulation on the cluster. */
#include "codegen/codegen.h"
#include "frontend/main_search.h"
#include "frontend/main_simulate.h"

/* The model and what its plans turned out to be. */
typedef struct {
    ModelArgs args;
    SearchProof proof;
} Proving;

/* The plan of one stage, or of all; what it holds goes to the proof. NULL after diagnostics. */
static Plan *make_plan(Session *s, void *with, int64_t stage, const Plan *first) {
    Proving *v = with;
    MemoryReport memory = {0};
    v->args.stage = stage;
    Graph *g = model_graph(s, &v->args, pipeline_default, &memory);
    if (!g) return NULL;
    const CodegenOptions o = {
        .target = v->args.target, .model_hash = first ? first->model_hash : 0, .plan_only = true};
    Plan *plan = codegen_plan(g, &o);
    v->proof.fits &= memory.fits;
    v->proof.device = MAX(v->proof.device, memory.arena[MEM_DEVICE]);
    v->proof.host = MAX(v->proof.host, memory.arena[MEM_HOST]);
    vec_free(&memory.decision);
    graph_free(g);
    return plan;
}

SearchProof search_prove(Arena *a, const SearchReport *r, const SearchChoice *c) {
    Proving v = {.args = search_args(a, r, c), .proof = {.fits = true}};
    SearchProof *p = &v.proof;
    Session *s = session_new();
    Arena *scratch = arena_new();
    Buf said = {0};
    ClusterRun run;
    diag_capture(s, &said);
    Graph *shared = NULL;
    v.args.shared = &shared;
    Plan *first = mesh_plans(s, make_plan, &v);
    if (shared) graph_free(shared);
    p->made = first && cluster_simulate(first, v.args.cluster, scratch, &run);
    if (p->made)
        p->us = run.class[0].run.us;
    else
        p->error = first_error(a, &said);
    if (first) mesh_plans_free(first);
    buf_free(&said);
    arena_free(scratch);
    session_free(s);
    return v.proof;
}
