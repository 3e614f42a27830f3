/* run.c: the harness. Runs passes by name and is the only place that dumps, times, skips and checks
 * them: after a pass the graph verifies, its text parses back to the same text, and "unchanged"
 * means an equal hash. */
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

#include "passes/stage.h"

const char pipeline_default[] = "simplify,raise,precision,differentiate,optimize,shares,shard,"
                                "simplify,stages,collectives,lower,epilogue,fuse,"
                                "schedule,memory,allocate";

typedef struct {
    const char *name;
    bool (*run)(Graph *, PassContext *);
    bool optional;
    const char *help;
} Pass;

static const Pass pass_table[] = {
#define PASS(name, optional, help) {#name, pass_##name, optional, help},
#include "passes/passes.def"
#undef PASS
};

/* ---- lists of names joined by ',' ---- */

/* The next word of *list, or NULL at its end; blanks around words are dropped. */
static const char *next_word(const char **list, size_t *n) {
    const char *p = *list ? *list : "";
    p += strspn(p, ", \t");
    *n = strcspn(p, ", \t");
    *list = p + *n;
    return *n ? p : NULL;
}

static bool word_is(const char *w, size_t n, const char *name) {
    return strlen(name) == n && memcmp(w, name, n) == 0;
}

static bool list_has(const char *list, const char *name) {
    size_t n;
    for (const char *w; (w = next_word(&list, &n));)
        if (word_is(w, n, name)) return true;
    return false;
}

static const Pass *find_pass(Session *s, const char *w, size_t n) {
    const char *names[COUNT(pass_table)];
    for (size_t i = 0; i < COUNT(pass_table); i++) {
        if (word_is(w, n, pass_table[i].name)) return &pass_table[i];
        names[i] = pass_table[i].name;
    }
    const char *word = intern_n(s, w, n), *near = nearest_word(word, names, COUNT(names));
    diag_error(s, (Loc){0}, "unknown pass '%s'%s%s%s", word, near ? "; did you mean '" : "",
               near ? near : "", near ? "'?" : "");
    return NULL;
}

/* ---- options ---- */

void pass_options_env(PassOptions *opt) {
    const char *debug = getenv("M6C_DEBUG"), *skip = getenv("M6C_SKIP");
    opt->verify |= list_has(debug, "verify");
    opt->roundtrip |= list_has(debug, "roundtrip");
    opt->time |= list_has(debug, "time");
    opt->print |= list_has(debug, "print");
    if (!opt->skip) opt->skip = skip;
}

static bool check_skip(PassContext *cx) {
    const char *list = cx->opt.skip;
    size_t n;
    for (const char *w; (w = next_word(&list, &n));) {
        const Pass *p = find_pass(cx->session, w, n);
        if (!p) return false;
        if (p->optional) continue;
        diag_error(cx->session, (Loc){0}, "pass '%s' cannot be left out", p->name);
        return false;
    }
    return true;
}

/* ---- dumps and checks ---- */

static bool dump_numbered(PassContext *cx, const Buf *text, const char *stage, int number) {
    Buf path = {0};
    buf_printf(&path, "%s/%02d-%s.ir", cx->opt.dump_dir, number, stage);
    bool ok = diag_status(cx->session, make_dirs(cx->opt.dump_dir)) &&
              diag_status(cx->session, file_write_atomic(path.p, text->p, text->n));
    buf_free(&path);
    return ok;
}

static bool is_dump_point(const char *after, const char *stage, int occurrence) {
    size_t n = strcspn(after, ":");
    int wanted = after[n] ? atoi(after + n + 1) : 1;
    return word_is(after, n, stage) && wanted == occurrence;
}

static bool check_dump_name(PassContext *cx) {
    const char *after = cx->opt.dump_after;
    cx->dumped = false;
    if (!after || is_dump_point(after, "elaborate", 1)) return true;
    return find_pass(cx->session, after, strcspn(after, ":")) != NULL;
}

static bool check_dumped(PassContext *cx) {
    if (!cx->opt.dump_after || cx->dumped) return true;
    diag_error(cx->session, (Loc){0}, "nothing to show: '%s' did not run", cx->opt.dump_after);
    return false;
}

static void check_roundtrip(Graph *g, const Buf *text, const char *stage) {
    Graph *back = graph_parse(g->session, "roundtrip.ir", text->p, text->n);
    if (!back) BUG("after %s the printed graph does not parse", stage);
    Buf again = {0};
    graph_print(back, &again);
    if (again.n != text->n || memcmp(again.p, text->p, text->n) != 0)
        BUG("after %s the printed graph parses to another text", stage);
    buf_free(&again);
    graph_free(back);
}

static void check_verify(const Graph *g, const char *stage) {
    Buf report = {0};
    if (graph_verify(g, &report)) {
        fprintf(stderr, "%s\n", report.p ? report.p : "");
        BUG("the graph does not verify after %s", stage);
    }
    buf_free(&report);
}

/* Everything that happens between two passes. */
static bool stage_done(Graph *g, PassContext *cx, const char *stage, int number, int occurrence,
                       bool changed) {
    const PassOptions *o = &cx->opt;
    if (o->verify) check_verify(g, stage);
    bool here = o->dump_after && is_dump_point(o->dump_after, stage, occurrence);
    if (!here && !o->dump_dir && !o->roundtrip && !(o->print && changed)) return true;
    Buf text = {0};
    graph_print(g, &text);
    if (o->roundtrip) check_roundtrip(g, &text, stage);
    if (o->print && changed) fprintf(stderr, "# after %s\n%s", stage, text.p);
    bool ok = true;
    if (here) ok = fwrite(text.p, 1, text.n, o->dump_file) == text.n;
    cx->dumped |= here;
    if (!ok) diag_status(cx->session, status_errno("cannot write the dump after %s", stage));
    if (o->dump_dir) ok &= dump_numbered(cx, &text, stage, number);
    buf_free(&text);
    return ok;
}

/* ---- running ---- */

static bool run_pass(const Pass *p, Graph *g, PassContext *cx, bool *changed) {
    bool check_hash = cx->opt.verify;
    int errors = diag_errors(cx->session);
    uint64_t before = check_hash ? graph_hash(g) : 0;
    uint32_t nodes = g->node.n;
    double start = 1e3 * now_seconds();
    cx->scratch = arena_new();
    *changed = p->run(g, cx);
    arena_free(cx->scratch);
    cx->scratch = NULL;
    if (cx->opt.time)
        fprintf(stderr, "%-14s %8.2f ms  %7u -> %u nodes\n", p->name, 1e3 * now_seconds() - start,
                nodes, g->node.n);
    if (check_hash && !*changed && graph_hash(g) != before)
        BUG("pass %s changed the graph and said it did not", p->name);
    return diag_errors(cx->session) == errors;
}

static bool run_names(Graph *g, const char *names, PassContext *cx) {
    int count[COUNT(pass_table)] = {0};
    if (!check_skip(cx) || !check_dump_name(cx)) return false;
    if (!stage_done(g, cx, "elaborate", 0, 1, true)) return false;
    size_t n;
    int number = 0;
    for (const char *w; (w = next_word(&names, &n));) {
        const Pass *p = find_pass(cx->session, w, n);
        if (!p) return false;
        number++;
        int occurrence = ++count[p - pass_table];
        if (list_has(cx->opt.skip, p->name)) continue;
        bool changed;
        if (!run_pass(p, g, cx, &changed)) return false;
        if (!stage_done(g, cx, p->name, number, occurrence, changed)) return false;
    }
    return check_dumped(cx);
}

bool pipeline_run(Graph *g, const char *names, PassContext *cx) {
    const Machine *whole = cx->machine;
    if (whole) cx->machine = machine_of_graph(whole, &g->set);
    bool good = run_names(g, names, cx);
    cx->machine = whole;
    return good;
}

void passes_help(Buf *out) {
    for (size_t i = 0; i < COUNT(pass_table); i++)
        buf_printf(out, "%-14s %s%s\n", pass_table[i].name, pass_table[i].help,
                   pass_table[i].optional ? " (optional)" : "");
}
