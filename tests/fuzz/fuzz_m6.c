/* fuzz_m6: libFuzzer target for the language. Whatever the bytes, the parser must end with a tree
 * or with a message; what parses must print to a text that parses and prints the same again. */
#include <stdlib.h>
#include <string.h>
#include "frontend/frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool format_text(Session *s, const char *text, size_t n, Buf *out) {
    File *f = frontend_parse(s, "fuzz.m6", text, n);
    if (f) frontend_format(f, out);
    return f != NULL;
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
    free(text);
    buf_free(&messages);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
    return 0;
}
