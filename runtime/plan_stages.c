/* plan_stages.c: plans that run together: of a pipeline one a stage, of unequal shares one a class.
 */
#include <string.h>

#include "runtime/plan.h"

static const PlanGroup *find_group(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->group.n; i++)
        if (strcmp(p->group.p[i].name, name) == 0) return &p->group.p[i];
    return NULL;
}

int64_t plan_stage_of(const Plan *p, int64_t rank) {
    const PlanGroup *g = p->stages ? find_group(p, MESH_PIPELINE) : NULL;
    return g ? plan_group_index(g, rank) : 0;
}

Shares plan_shares(const Plan *p, const PlanGroup *g) {
    size_t n = strlen(MESH_DATA);
    bool data = strncmp(g->name, MESH_DATA, n) == 0 && (!g->name[n] || g->name[n] == '.');
    return data ? p->shares : (Shares){0};
}

int64_t plan_programs(const Plan *p) {
    return p->shares.n ? shares_classes(p->shares) : MAX(p->stages, (int64_t)1);
}

int64_t plan_number(const Plan *p) { return p->shares.n ? p->share : p->stage; }

int64_t plan_number_of(const Plan *p, int64_t rank) {
    const PlanGroup *g = p->shares.n ? find_group(p, MESH_DATA) : NULL;
    return g ? shares_class_of(p->shares, plan_group_index(g, rank)) : plan_stage_of(p, rank);
}

uint32_t plan_count(const Plan *p) { return p->of_stage ? (uint32_t)plan_programs(p) : 1; }

const Plan *plan_at(const Plan *p, uint32_t i) { return p->of_stage ? p->of_stage[i] : p; }

void plan_check_pipeline(const Plan *p, Buf *why) {
    const PlanGroup *g = find_group(p, MESH_PIPELINE), *data = find_group(p, MESH_DATA);
    if (p->shares.n && (!data || plan_group_size(data) != p->shares.n))
        buf_printf(why, "a plan of %lld shares has a group " MESH_DATA " of so many ranks",
                   (long long)p->shares.n);
    else if (p->stages && (!g || plan_group_size(g) != p->stages))
        buf_printf(why, "a plan of %lld stages has a group " MESH_PIPELINE " of so many ranks",
                   (long long)p->stages);
}

static bool same_shares(Shares a, Shares b) {
    return a.n == b.n && (!a.n || memcmp(a.v, b.v, (size_t)a.n * sizeof *a.v) == 0);
}

/* In what two plans differ that should not. */
static const char *difference(const Plan *first, const Plan *p) {
    if (strcmp(p->model, first->model) != 0 || p->model_hash != first->model_hash) return "models";
    if (p->compiler_hash != first->compiler_hash) return "versions of m6c";
    if (p->ranks != first->ranks || p->stages != first->stages || strcmp(p->mesh, first->mesh) != 0)
        return "meshes";
    if (!same_shares(p->shares, first->shares)) return "shares";
    if (strcmp(p->target, first->target) != 0) return "targets";
    return p->train != first->train ? "parts of the model" : NULL;
}

void plan_check_stages(const Plan *first, Buf *why) {
    const char *what = first->shares.n ? "share" : "stage";
    for (uint32_t i = 0; i < plan_count(first) && !why->n; i++) {
        const Plan *p = plan_at(first, i);
        const char *other = difference(first, p);
        if (other)
            buf_printf(why, "the plans of %ss 0 and %u are of different %s", what, i, other);
        else if (first->of_stage && plan_number(p) != i)
            buf_printf(why, "the plan of %s %u says that it is of %s %lld", what, i, what,
                       (long long)plan_number(p));
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
