/* main_plan.c: the plans of a mesh, made and read; plans that are stale. */
#include "frontend/main.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "codegen/codegen.h"

bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

Plan *plan_load(Session *s, const char *dir, const char *name) {
    char *path = is_folder(dir) ? arena_printf(session_arena(s), "%s/%s", dir, name)
                                : arena_strdup(session_arena(s), dir, strlen(dir));
    char *text = NULL;
    size_t n = 0;
    Status bad = file_read(path, &text, &n);
    if (bad) {
        diag_error(s, (Loc){0}, "%s", bad->text);
        diag_note(s, (Loc){0}, "make a plan with: m6c compile model.m6 -o %s", dir);
        free(bad);
        return NULL;
    }
    return plan_parse(s, path, text, n); /* the text stays for diagnostics */
}

const char *mesh_plan_name(Session *s, const char *base, int64_t i) {
    return i ? arena_printf(session_arena(s), "%s-%" PRId64, base, i) : base;
}

Plan *mesh_plans(Session *s, MakePlan *make, void *with) {
    Plan *first = make(s, with, 0, NULL);
    int64_t n = first ? plan_programs(first) : 1;
    if (n == 1) return first;
    Plan **of = arena_array(session_arena(s), Plan *, (size_t)n);
    of[0] = first;
    first->of_stage = of;
    for (int64_t i = 1; i < n; i++) {
        Plan *p = of[i] = make(s, with, i, first);
        if (p) p->of_stage = of;
        if (p) continue;
        mesh_plans_free(first);
        return NULL;
    }
    return first;
}

void mesh_plans_free(Plan *first) {
    Plan *const *of = first->of_stage;
    for (int64_t i = of ? plan_programs(first) : 1; i-- > 0;)
        if (!of || of[i]) plan_free(of ? of[i] : first);
}

/* Where plans are read from. */
typedef struct {
    const char *dir, *base;
} Folder;

static Plan *load_one(Session *s, void *with, int64_t i, const Plan *first) {
    const Folder *f = with;
    (void)first;
    return plan_load(s, f->dir,
                     arena_printf(session_arena(s), "%s.txt", mesh_plan_name(s, f->base, i)));
}

/* False after diagnostics. */
static bool belong_together(Session *s, const char *dir, const Plan *first) {
    Buf why = {0};
    plan_check_stages(first, &why);
    if (why.n) diag_error(s, (Loc){0}, "%s: %s: compile the model again", dir, why.p);
    bool good = !why.n;
    buf_free(&why);
    return good;
}

Plan *mesh_plans_load(Session *s, const char *dir, const char *base) {
    Folder f = {dir, base};
    Plan *first = mesh_plans(s, load_one, &f);
    if (!first || !first->of_stage || belong_together(s, dir, first)) return first;
    mesh_plans_free(first);
    return NULL;
}

/* The first source that is not what the plan was made from, or NULL. */
static const char *changed_source(const Plan *p) {
    for (uint32_t i = 0; i < p->source.n; i++) {
        char *text = NULL;
        size_t n = 0;
        Status gone = file_read(p->source.p[i].path, &text, &n);
        bool same = !gone && hash_bytes(text, n, 0) == p->source.p[i].hash;
        free(text);
        /* A source that is not here (a plan that was copied) says nothing. */
        if (!gone && !same) return p->source.p[i].path;
        free(gone);
    }
    return NULL;
}

void plan_warn_stale(const Plan *p) {
    const char *changed = changed_source(p);
    if (changed)
        diag_warning(p->session, (Loc){0}, "stale plan: %s changed since it was made", changed);
    else if (p->compiler_hash != codegen_hash())
        diag_warning(p->session, (Loc){0}, "stale plan: it was made by another version of m6c");
    else
        return;
    diag_note(p->session, (Loc){0}, "make it anew with: %s", p->command ? p->command : "");
}
