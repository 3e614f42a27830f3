/* Kernels of exec_plan.txt, written as the compiler writes them. */
#include <stdint.h>
#include <string.h>

static float widen(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

void subtract(void *const *arg, int64_t lo, int64_t hi) {
    float *y = arg[0];
    const float *t = arg[1];
    for (int64_t i = lo; i < hi; i++) y[i] -= t[i];
}

void half_squares(void *const *arg, int64_t lo, int64_t hi) {
    const float *y = arg[0];
    float *loss = arg[1], sum = 0;
    for (int64_t i = lo; i < hi; i++)
        for (int j = 0; j < 24; j++) sum += y[j] * y[j];
    *loss = 0.5f * sum / 8;
}

/* w -= rate * g, the rate (kept in bf16) halved at every second step */
void descend(void *const *arg, int64_t lo, int64_t hi) {
    float *w = arg[0];
    const uint16_t *rate = arg[1];
    const float *g = arg[2];
    const int32_t *step = arg[3];
    for (int64_t i = lo; i < hi; i++) w[i] -= widen(rate[i]) / (float)(1 << *step / 2) * g[i];
}
