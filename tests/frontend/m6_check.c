/* m6_check: the language by itself, for the tests. `m6_check fmt FILE` prints FILE canonically;
 * `m6_check elaborate FILE [--infer] [--set name=value]…` checks its model and what the compiler
 * can do with it, `m6_check graph …` also prints the graph. Exits with 1 when there were errors. */
#include <stdlib.h>
#include <string.h>
#include "frontend/elab.h"

static int usage(void) {
    fprintf(stderr, "usage: m6_check fmt FILE\n"
                    "       m6_check elaborate|graph FILE [--infer] [--set name=value]...\n");
    return EXIT_USAGE;
}

static int format(Session *s, const char *path) {
    char *text;
    size_t n;
    Status st = file_read(path, &text, &n);
    if (st) {
        fprintf(stderr, "%s\n", st->text);
        free(st);
        return EXIT_INPUT;
    }
    File *f = frontend_parse(s, path, text, n);
    free(text);
    Buf out = {0};
    if (f) frontend_format(f, &out);
    fwrite(out.p ? out.p : "", 1, out.n, stdout);
    buf_free(&out);
    return f ? EXIT_DONE : EXIT_INPUT;
}

static int check(Session *s, int argc, char **argv) {
    const char *sets[64];
    ElabOptions o = {.set = sets};
    for (int i = 3; i < argc; i++)
        if (!strcmp(argv[i], "--infer"))
            o.infer = true;
        else if (!strcmp(argv[i], "--set") && i + 1 < argc && o.nset < COUNT(sets))
            sets[o.nset++] = argv[++i];
        else
            return usage();
    File *f = frontend_load(s, argv[2]);
    Graph *g = f ? elaborate(s, f, &o) : NULL;
    bool ok = g && check_capabilities(s, f, g);
    Buf out = {0};
    if (g && graph_verify(g, &out)) fprintf(stderr, "the graph is wrong\n%s", out.p), ok = false;
    buf_free(&out);
    if (ok && !strcmp(argv[1], "graph")) graph_print(g, &out);
    fwrite(out.p ? out.p : "", 1, out.n, stdout);
    buf_free(&out);
    if (g) graph_free(g);
    return ok ? EXIT_DONE : EXIT_INPUT;
}

int main(int argc, char **argv) {
    if (argc < 3) return usage();
    Session *s = session_new();
    int rc;
    if (!strcmp(argv[1], "fmt"))
        rc = format(s, argv[2]);
    else if (!strcmp(argv[1], "elaborate") || !strcmp(argv[1], "graph"))
        rc = check(s, argc, argv);
    else
        rc = usage();
    session_free(s);
    return rc;
}
