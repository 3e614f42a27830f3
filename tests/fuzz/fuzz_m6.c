/* fuzz_m6: libFuzzer target for the language. Whatever the bytes, the parser must end with a tree
 * or with a message; what parses must print to a text that parses and prints the same again, and,
 * when it uses no other file than the standard layers, elaborates to a graph that verifies, or not.
 */
#include <stdlib.h>
#include <string.h>
#include "frontend/elab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool format_text(Session *s, const char *text, size_t n, Buf *out) {
    File *f = frontend_parse(s, "fuzz.m6", text, n);
    if (f) frontend_format(f, out);
    return f != NULL;
}

static bool reads_files(const File *f) {
    for (const Item *i = f->items.head; i; i = i->next)
        if (i->kind == I_USE && strcmp(i->name, "m6") != 0) return true;
    return false;
}

static void elaborate_text(Session *s, const char *text, size_t n) {
    File *f = frontend_parse(s, "fuzz.m6", text, n);
    ElabOptions o = {.max_work = 20000};
    f = f && !reads_files(f) ? frontend_load_text(s, "fuzz.m6", text, n) : NULL;
    Graph *g = f ? elaborate(s, f, &o) : NULL;
    if (!g) return;
    Buf report = {0};
    ASSERT(graph_verify(g, &report) == 0);
    check_capabilities(s, f, g);
    buf_free(&report);
    graph_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = session_new();
    Buf messages = {0}, once = {0}, twice = {0};
    diag_capture(s, &messages);
    char *text = xmalloc(n + 1);
    memcpy(text, data, n);
    text[n] = 0;
    if (format_text(s, text, n, &once)) {
        ASSERT(format_text(s, once.p ? once.p : "", once.n, &twice));
        ASSERT(once.n == twice.n && (!once.n || !memcmp(once.p, twice.p, once.n)));
    }
    elaborate_text(s, text, n);
    free(text);
    buf_free(&messages);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
    return 0;
}
