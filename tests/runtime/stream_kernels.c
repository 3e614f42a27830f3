/* Kernels of test_streams.c, written as the compiler writes them. */
#include <stdint.h>

void mix(void *const *arg, int64_t lo, int64_t hi) {
    uint32_t *to = arg[0];
    const uint32_t *from = arg[1];
    for (int64_t i = lo; i < hi; i++) to[i] = to[i] * 5 + from[i] + 1;
}

/* The loss of a step: what its input says. */
void take(void *const *arg, int64_t lo, int64_t hi) {
    const float *from = arg[0];
    float *loss = arg[1];
    for (int64_t i = lo; i < hi; i++) loss[i] = from[i];
}
