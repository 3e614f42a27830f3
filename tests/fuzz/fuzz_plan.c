/* fuzz_plan: libFuzzer target for plan.txt. Whatever the bytes, the reader must complain or give a
 * plan that prints, and whose text parses and prints the same. */
#include <stdlib.h>
#include <string.h>
#include "runtime/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = session_new();
    Buf said = {0}, once = {0}, twice = {0};
    diag_capture(s, &said);
    Plan *p = plan_parse(s, "fuzz.txt", (const char *)data, n);
    ASSERT((p != NULL) == (diag_errors(s) == 0));
    if (p) {
        plan_print(p, &once);
        Plan *q = plan_parse(s, "again.txt", once.p, once.n);
        ASSERT(q != NULL);
        plan_print(q, &twice);
        ASSERT(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
        plan_free(q);
    }
    plan_free(p);
    buf_free(&said);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
    return 0;
}
