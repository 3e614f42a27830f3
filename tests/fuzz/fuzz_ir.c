/* fuzz_ir.c: libFuzzer target for the IR's text form. Whatever the bytes, the parser ends with a
 * graph or with a message; what parses prints to a text that parses and prints the same again. */
#include "ir/ir.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool print_parsed(Session *s, const char *text, size_t n, Buf *out) {
    Graph *g = graph_parse(s, "fuzz.ir", text, n);
    if (g) graph_print(g, out);
    graph_free(g);
    return g != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = session_new();
    Buf messages = {0}, once = {0}, twice = {0};
    diag_capture(s, &messages);
    bool ok = print_parsed(s, (const char *)data, n, &once);
    ASSERT(ok == (diag_errors(s) == 0));
    if (ok) {
        ASSERT(print_parsed(s, once.p, once.n, &twice));
        ASSERT(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
    }
    buf_free(&messages);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
    return 0;
}
