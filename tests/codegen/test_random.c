/* Random graphs as compiled plans against the interpreter: fused; and with every node its
 * own kernel, or with the bytes that schedule and allocate give. argv: first seed, how many
 * (default 1 12), and where: "cuda", "gpu" (harness.h). */
#include "tests/check.h"
#include "tests/codegen/harness.h"
#include "tests/ir/random_graph.h"

#include <stdlib.h>

static int one(uint64_t seed, Dtype d, int64_t size, const char *passes) {
    char label[96];
    Session *s = session_new();
    RandomGraph how = {.seed = seed, .nodes = 30, .dtype = d, .max_size = size, .bounded = true};
    Compare c = {.passes = passes, .print = getenv("M6C_TEST_PRINT") != NULL};
    snprintf(label, sizeof label, "seed %llu %s size %lld", (unsigned long long)seed, dtype_name(d),
             (long long)size);
    int findings = compare_graph(random_graph(s, &how), &c, label);
    session_free(s);
    return findings;
}

static void check_seed(uint64_t seed) {
    Dtype d = seed % 6 == 5 ? DT_BF16 : DT_F32;
    int64_t size = seed % 4 == 3 ? 40 : 9;
    CHECK(one(seed, d, size, "lower,epilogue,fuse") == 0);
    CHECK(one(seed, d, size, seed % 2 ? "lower" : "lower,epilogue,fuse,schedule,allocate") == 0);
}

int main(int argc, char **argv) {
    static const uint64_t found[] = {39, 90}; /* pads beside values of other shapes */
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 12;
    /* Not in all memory: threads without a row read one that is not theirs, and drop it. */
    setenv("M6C_EMULATED_RACES", "all", 0);
    harness_begin(harness_on(argc > 3 ? argv[3] : NULL));
    for (size_t i = 0; i < COUNT(found); i++) check_seed(found[i]);
    for (uint64_t seed = first; seed < first + count; seed++) check_seed(seed);
    harness_end();
    return check_done("codegen_random");
}
