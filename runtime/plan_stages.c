/* plan_stages.c: the plans of a pipeline, one a stage, that run together. */
#include <string.h>

#include "runtime/plan.h"

static const PlanGroup *pipeline_of(const Plan *p) {
    for (uint32_t i = 0; i < p->group.n && p->stages; i++)
        if (strcmp(p->group.p[i].name, MESH_PIPELINE) == 0) return &p->group.p[i];
    return NULL;
}

int64_t plan_stage_of(const Plan *p, int64_t rank) {
    const PlanGroup *g = pipeline_of(p);
    return g ? plan_group_index(g, rank) : 0;
}

uint32_t plan_count(const Plan *p) { return p->of_stage ? (uint32_t)p->stages : 1; }

const Plan *plan_at(const Plan *p, uint32_t i) { return p->of_stage ? p->of_stage[i] : p; }

void plan_check_pipeline(const Plan *p, Buf *why) {
    const PlanGroup *g = pipeline_of(p);
    if (p->stages && (!g || plan_group_size(g) != p->stages))
        buf_printf(why, "a plan of %lld stages has a group " MESH_PIPELINE " of so many ranks",
                   (long long)p->stages);
}

/* In what two plans differ that should not. */
static const char *difference(const Plan *first, const Plan *p) {
    if (strcmp(p->model, first->model) != 0 || p->model_hash != first->model_hash) return "models";
    if (p->compiler_hash != first->compiler_hash) return "versions of m6c";
    if (p->ranks != first->ranks || p->stages != first->stages || strcmp(p->mesh, first->mesh) != 0)
        return "meshes";
    if (strcmp(p->target, first->target) != 0) return "targets";
    return p->train != first->train ? "parts of the model" : NULL;
}

void plan_check_stages(const Plan *first, Buf *why) {
    for (uint32_t i = 0; i < plan_count(first) && !why->n; i++) {
        const Plan *p = plan_at(first, i);
        const char *other = difference(first, p);
        if (other)
            buf_printf(why, "the plans of stages 0 and %u are of different %s", i, other);
        else if (p->stages && p->stage != i)
            buf_printf(why, "the plan of stage %u says that it is of stage %lld", i,
                       (long long)p->stage);
    }
}

bool plan_has_tensor(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->tensor.n; i++)
        if (strcmp(p->buffer.p[p->tensor.p[i].buffer].name, name) == 0) return true;
    return false;
}

bool plan_tensor_before(const Plan *p, const char *name) {
    for (uint32_t i = 0; p->of_stage && p->of_stage[i] != p; i++)
        if (plan_has_tensor(p->of_stage[i], name)) return true;
    return false;
}

static int64_t whole_elements(const Plan *p, const PlanBuffer *b) {
    int64_t n = 1;
    for (int i = 0; i < b->rank; i++) n *= plan_whole_dim(p, b, i);
    return n;
}

int64_t plan_whole_parameters(const Plan *first) {
    int64_t n = 0;
    for (uint32_t k = 0; k < plan_count(first); k++) {
        const Plan *p = plan_at(first, k);
        for (uint32_t i = 0; i < p->tensor.n; i++) {
            const PlanBuffer *b = &p->buffer.p[p->tensor.p[i].buffer];
            if (b->kind == BUF_PARAM && !plan_tensor_before(p, b->name)) n += whole_elements(p, b);
        }
    }
    return n;
}
