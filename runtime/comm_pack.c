/* comm_pack.c: rows go through f32 in parts that stay in the first cache; see comm_pack.h. (f64 is
 * converted only to travel as 16 bits.) */
#include "runtime/comm_pack.h"

#include <string.h>

#include "runtime/half.h"

enum { PART = 1024 };

static void to_floats(Dtype d, const void *from, float *to, int64_t n) {
    const double *wide = from;
    if (dtype_is_half(d))
        half_widen(d, from, to, n);
    else if (d == DT_F64)
        for (int64_t i = 0; i < n; i++) to[i] = (float)wide[i];
    else
        memcpy(to, from, (size_t)n * sizeof *to);
}

static void of_floats(Dtype d, const float *from, void *to, int64_t n) {
    double *wide = to;
    if (dtype_is_half(d))
        half_narrow(d, from, to, n);
    else if (d == DT_F64)
        for (int64_t i = 0; i < n; i++) wide[i] = (double)from[i];
    else
        memcpy(to, from, (size_t)n * sizeof *from);
}

static void multiply(float *x, float by, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

static void divide(float *x, float by, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] /= by;
}

static void convert(Dtype from_dtype, const char *from, Dtype to_dtype, char *to, int64_t n,
                    void (*apply)(float *, float, int64_t), float by) {
    float x[PART];
    int64_t from_size = dtype_size(from_dtype), to_size = dtype_size(to_dtype);
    for (int64_t i = 0; i < n; i += PART) {
        int64_t m = MIN(n - i, (int64_t)PART);
        to_floats(from_dtype, from + i * from_size, x, m);
        if (by != 1) apply(x, by, m);
        of_floats(to_dtype, x, to + i * to_size, m);
    }
}

void comm_pack(Dtype dtype, Dtype wire, double scale, const void *from, void *to, int64_t n) {
    if (dtype == wire && scale == 1)
        memcpy(to, from, (size_t)n * (size_t)dtype_size(dtype));
    else
        convert(dtype, from, wire, to, n, multiply, (float)scale);
}

void comm_unpack(Dtype dtype, Dtype wire, double scale, const void *from, void *to, int64_t n) {
    if (dtype == wire && scale == 1)
        memcpy(to, from, (size_t)n * (size_t)dtype_size(dtype));
    else
        convert(wire, from, dtype, to, n, divide, (float)scale);
}
