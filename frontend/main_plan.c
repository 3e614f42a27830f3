/* main_plan.c: reading plans for run and inspect. */
#include "frontend/main.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "codegen/codegen.h"

static bool is_folder(const char *path) {
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

const char *plan_stage_name(Session *s, const char *base, int64_t stage) {
    return stage ? arena_printf(session_arena(s), "%s-%" PRId64, base, stage) : base;
}

void plan_free_stages(Plan *first) {
    Plan *const *of = first->of_stage;
    for (int64_t i = of ? first->stages : 1; i-- > 0;)
        if (!of || of[i]) plan_free(of ? of[i] : first);
}

static Plan *load_stage(Session *s, const char *dir, const char *base, int64_t stage) {
    return plan_load(s, dir,
                     arena_printf(session_arena(s), "%s.txt", plan_stage_name(s, base, stage)));
}

/* False after diagnostics. */
static bool load_others(Session *s, const char *dir, const char *base, Plan *first) {
    Plan **of = arena_array(session_arena(s), Plan *, (size_t)first->stages);
    Buf why = {0};
    bool good = true;
    first->of_stage = of;
    of[0] = first;
    for (int64_t i = 1; i < first->stages && good; i++) {
        good = (of[i] = load_stage(s, dir, base, i)) != NULL;
        if (good) of[i]->of_stage = of;
    }
    if (good) plan_check_stages(first, &why);
    if (why.n) diag_error(s, (Loc){0}, "%s: %s: compile the model again", dir, why.p);
    good = good && !why.n;
    buf_free(&why);
    return good;
}

Plan *plan_load_stages(Session *s, const char *dir, const char *base) {
    Plan *first = load_stage(s, dir, base, 0);
    if (!first || !first->stages || load_others(s, dir, base, first)) return first;
    plan_free_stages(first);
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
