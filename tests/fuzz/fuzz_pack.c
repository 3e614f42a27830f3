/* fuzz_pack: libFuzzer target for the CSV of m6c pack. Whatever the bytes, the reader must complain
 * or give buffers that can be packed. */
#include "frontend/main_pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = session_new();
    Buf said = {0}, text = {0};
    PackTable t = {0};
    diag_capture(s, &said);
    buf_put(&text, (const char *)data, n);
    buf_put(&text, "", 1);
    bool ok = pack_table_parse(s, "fuzz.csv", text.p, n, &t);
    ASSERT(ok == (diag_errors(s) == 0));
    if (ok) {
        Arena *a = arena_new();
        int64_t *offset = arena_array(a, int64_t, t.item.n), bound;
        PackLimits limits = {.align = 1, .effort = 100000};
        int64_t height = pack_limited(t.item.p, t.item.n, &limits, offset, &bound, a);
        ASSERT(bound <= height);
        arena_free(a);
    }
    pack_table_free(&t);
    buf_free(&said);
    buf_free(&text);
    session_free(s);
    return 0;
}
