/* main_dump.c: m6c dump, opt and fmt: what the compiler sees, as text in and out. */
#include "frontend/main_model.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"

/* ---- dump: the IR of a model after a pass, or every stage as numbered files ---- */

static int dump(ModelArgs *a, const char *after, const char *all) {
    Session *s = session_new();
    a->pass.dump_after = all ? NULL : after;
    a->pass.dump_file = stdout;
    a->pass.dump_dir = all;
    Status bad = all ? make_dirs(all) : NULL;
    if (bad) return status_exit(bad);
    Graph *g = model_graph(s, a, pipeline_default, NULL);
    if (g) graph_free(g);
    int code = g ? EXIT_DONE : MAX(diag_exit(s), EXIT_INPUT);
    session_free(s);
    return code;
}

int main_dump(int argc, char **argv) {
    ModelArgs a = {.describe = true};
    const char *after = "elaborate", *all = NULL;
    const Option options[] = {
        {"after", OPT_TEXT, &after, "PASS",
         "to standard output (elaborate); PASS:2 is its second run"},
        {"all", OPT_TEXT, &all, "DIR", "every pass as a numbered file"},
        {"stage", OPT_INT, &a.stage, "N", "of a pipeline: whose part (0)"},
        MODEL_OPTIONS(a),
    };
    const OptionTable table = {"dump model.m6 [--after PASS | --all DIR]", options, COUNT(options),
                               1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && a.stage < 0) s = status_make(EXIT_USAGE, "--stage must not be negative");
    int code = EXIT_DONE;
    if (s || help) {
        code = status_exit(s);
    } else {
        a.path = positional.p[0];
        code = dump(&a, after, all);
    }
    vec_free(&positional);
    vec_free(&a.set);
    return code;
}

/* ---- opt: passes over IR text ---- */

static int opt(const char *path, const char *passes, PassOptions *options) {
    Session *s = session_new();
    char *text = NULL;
    size_t n = 0;
    Status bad = file_read(path, &text, &n);
    if (bad) return status_exit(bad);
    Graph *g = graph_parse(s, path, text, n);
    PassContext cx = {.session = s, .opt = *options};
    pass_options_env(&cx.opt);
    bool good = g && pipeline_run(g, passes, &cx);
    if (good) {
        Buf b = {0};
        graph_print(g, &b);
        fwrite(b.p, 1, b.n, stdout);
        buf_free(&b);
    }
    if (g) graph_free(g);
    free(text);
    session_free(s);
    return good ? EXIT_DONE : EXIT_INPUT;
}

int main_opt(int argc, char **argv) {
    const char *passes = "";
    PassOptions pass = {.verify = true};
    const Option options[] = {
        {"passes", OPT_TEXT, &passes, "A,B,…", "which, in this order"},
        {"time", OPT_FLAG, &pass.time, NULL, "milliseconds a pass, on standard error"},
    };
    const OptionTable table = {"opt FILE.ir --passes=A,B,…", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : opt(positional.p[0], passes, &pass);
    if (help) {
        Buf b = {0};
        passes_help(&b);
        printf("\n%s", b.p);
        buf_free(&b);
    }
    vec_free(&positional);
    return code;
}

/* ---- fmt ---- */

static int format(const char *path, bool in_place) {
    Session *s = session_new();
    char *text = NULL;
    size_t n = 0;
    Status bad = file_read(path, &text, &n);
    if (bad) return status_exit(bad);
    File *f = frontend_parse(s, path, text, n);
    Buf b = {0};
    if (f) frontend_format(f, &b);
    if (f && in_place && (b.n != n || memcmp(b.p, text, n) != 0))
        bad = file_write_atomic(path, b.p, b.n);
    if (f && !in_place) fwrite(b.p ? b.p : "", 1, b.n, stdout);
    buf_free(&b);
    free(text);
    session_free(s);
    return bad ? status_exit(bad) : f ? EXIT_DONE : EXIT_INPUT;
}

int main_fmt(int argc, char **argv) {
    bool in_place = false;
    const Option options[] = {{"i", OPT_FLAG, &in_place, NULL, "change the file itself"}};
    const OptionTable table = {"fmt FILE.m6 [-i]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = s || help ? status_exit(s) : format(positional.p[0], in_place);
    vec_free(&positional);
    return code;
}
