/* base_random.c: start values of parameters and states. Element i of a tensor is a function of the
 * tensor's key and of i alone, so that any shard, any order and any number of threads draws the
 * same numbers.
 *
 * Normal: Box and Muller 1958 from the two words of one Philox block. Truncated normal: the same,
 * drawn again under counter i + try * 2^48 until it lies within two deviations (95.4 % each). */
#include "ir/base.h"

#include <math.h>
#include <string.h>

static const char *const init_names[] = {"zeros", "constant", "normal", "truncated", "uniform"};
_Static_assert(COUNT(init_names) == INIT_COUNT, "one name for every start");

const char *init_kind_name(InitKind k) { return init_names[k]; }

bool init_kind_parse(const char *s, InitKind *k) {
    for (int i = 0; i < INIT_COUNT; i++)
        if (strcmp(s, init_names[i]) == 0) {
            *k = (InitKind)i;
            return true;
        }
    return false;
}

static double normal(uint32_t key, uint64_t counter) {
    uint32_t w2, w1 = philox(key, counter, &w2);
    double u = ((double)w1 + 0.5) * 0x1p-32, v = (double)w2 * 0x1p-32;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static double truncated_normal(uint32_t key, uint64_t i) {
    double x = normal(key, i);
    for (uint64_t try = 1; fabs(x) > 2; try++) x = normal(key, i + (try << 48));
    return x;
}

double init_value(InitKind kind, double a, double b, uint32_t key, uint64_t i) {
    switch (kind) {
    case INIT_CONSTANT: return a;
    case INIT_NORMAL: return a + b * normal(key, i);
    case INIT_TRUNCATED: return a + b * truncated_normal(key, i);
    case INIT_UNIFORM: return a + (b - a) * (double)random_unit(philox(key, i, NULL));
    case INIT_ZEROS:
    case INIT_COUNT: break;
    }
    return 0;
}
