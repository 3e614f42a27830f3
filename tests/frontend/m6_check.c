/* m6_check: the language by itself, for the tests. `m6_check fmt FILE` prints FILE canonically;
 * `m6_check parse FILE` only reads it and what it uses. Exits with 1 when there were errors. */
#include <stdlib.h>
#include <string.h>
#include "frontend/frontend.h"

static int usage(void) {
    fprintf(stderr, "usage: m6_check parse|fmt FILE\n");
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

int main(int argc, char **argv) {
    if (argc != 3) return usage();
    Session *s = session_new();
    int rc = EXIT_USAGE;
    if (!strcmp(argv[1], "fmt"))
        rc = format(s, argv[2]);
    else if (!strcmp(argv[1], "parse"))
        rc = frontend_load(s, argv[2]) ? EXIT_DONE : EXIT_INPUT;
    session_free(s);
    return rc == EXIT_USAGE ? usage() : rc;
}
