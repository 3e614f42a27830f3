/* Kernels of device_plan.txt on the host's cores, in the words of generated ones. */
#include <stdint.h>

void descend(void *const *arg, int64_t lo, int64_t hi) {
    float *w = arg[0], *velocity = arg[1];
    const float *g = arg[2];
    const float rate = 0.25f / (float)*(const int32_t *)arg[3];
    for (int64_t i = lo; i < hi; i++) {
        velocity[i] = 0.5f * velocity[i] + g[i];
        w[i] -= rate * velocity[i];
    }
}

/* Adds to what is there: of the step before. */
void add_speed(void *const *arg, int64_t lo, int64_t hi) {
    const float *velocity = arg[0], *norm = arg[1];
    float *speed = arg[2];
    for (int64_t i = lo * 12; i < hi * 12; i++) *speed += velocity[i] * velocity[i];
    *speed += *norm;
}
