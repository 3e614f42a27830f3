/* fuzz_machine: libFuzzer target for machines. Whatever the bytes, the reader must complain or give
 * a machine that prints, whose text parses and prints the same, and whose prices are finite. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "passes/machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_prices(const Machine *m) {
    Work w = {.what = "add", .flops = 1e6, .bytes = 1e5};
    ASSERT(isfinite(cost_us(m, &w)) && cost_us(m, &w) > 0);
    w = (Work){.what = "einsum", .product = true, .m = 5, .n = 70, .k = 900, .batch = 3};
    w.flops = 2 * 5 * 70 * 900 * 3;
    ASSERT(isfinite(cost_us(m, &w)) && cost_us(m, &w) > 0);
    w = (Work){.what = "copy_start", .copy = true, .from = MEM_HOST, .bytes = 1e6};
    ASSERT(isfinite(cost_us(m, &w)) && cost_us(m, &w) > 0);
    for (unsigned set = 0; set < 1u << STREAM_COUNT; set++)
        ASSERT(machine_speed(m, STREAM_COMPUTE, set) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = session_new();
    Buf said = {0}, once = {0}, twice = {0};
    diag_capture(s, &said);
    Machine *m = machine_parse(s, "fuzz.txt", (const char *)data, n);
    ASSERT((m != NULL) == (diag_errors(s) == 0));
    if (m) {
        check_prices(m);
        machine_print(m, &once);
        Machine *again = machine_parse(s, "again.txt", once.p, once.n);
        ASSERT(again != NULL);
        machine_print(again, &twice);
        ASSERT(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
    }
    buf_free(&said);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
    return 0;
}
