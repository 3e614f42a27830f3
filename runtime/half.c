/* half.c: integer arithmetic on vectors of eight, without branches; the compiler makes of them what
 * the processor has. The rest of a row goes through the scalar functions.
 *
 * f16 from f32: below 2^-14 a half has steps of 2^-24, and adding 0.5, whose last bit is 2^-24,
 * rounds there. f32 from f16: the exponent field moves over, and a multiplication by 2^112 rebases
 * it, which makes subnormals ordinary as well. */
#include "runtime/half.h"

#include <string.h>

enum { W = 8 };
typedef uint16_t Half __attribute__((vector_size(W * 2)));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));
typedef int32_t Mask __attribute__((vector_size(W * 4)));
typedef float Real __attribute__((vector_size(W * 4)));

/* Compiled twice, for processors with and without AVX2; the loader picks, which is too early for
 * the thread sanitizer, and clang 14 misnames the clones. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#define ALWAYS             inline __attribute__((always_inline))
#define CHOOSE(mask, a, b) (((a) & (Bits)(mask)) | ((b) & ~(Bits)(mask)))

static ALWAYS void widen_bf16(const uint16_t *from, float *to) {
    Half h;
    memcpy(&h, from, sizeof h);
    Bits u = __builtin_convertvector(h, Bits) << 16;
    memcpy(to, &u, sizeof u);
}

static ALWAYS void widen_f16(const uint16_t *from, float *to) {
    Half h;
    memcpy(&h, from, sizeof h);
    Bits u = __builtin_convertvector(h, Bits), a = u & 0x7fff;
    Real scaled = (Real)(a << 13) * 0x1p112f;
    Mask special = (Mask)a >= 0x7c00; /* infinity, NaN */
    Bits x = CHOOSE(special, (a << 13) | 0x7f800000u, (Bits)scaled) | (u & 0x8000) << 16;
    memcpy(to, &x, sizeof x);
}

static ALWAYS void narrow_bf16(const float *from, uint16_t *to) {
    Bits u;
    memcpy(&u, from, sizeof u);
    Mask nan = (Mask)(u & 0x7fffffff) > 0x7f800000;
    Bits x = CHOOSE(nan, u >> 16 | 0x40, (u + 0x7fff + (u >> 16 & 1)) >> 16);
    Half h = __builtin_convertvector(x, Half);
    memcpy(to, &h, sizeof h);
}

static ALWAYS void narrow_f16(const float *from, uint16_t *to) {
    Bits u;
    memcpy(&u, from, sizeof u);
    Bits a = u & 0x7fffffff, odd = a >> 13 & 1;
    Bits normal = (a - 0x38000000 + 0xfff + odd) >> 13;
    Bits tiny = (Bits)((Real)a + 0.5f) - 0x3f000000;
    Bits x = CHOOSE((Mask)a < 0x38800000, tiny, normal);
    x = CHOOSE((Mask)a >= 0x477ff000, (x & 0) | 0x7c00, x);
    x = CHOOSE((Mask)a > 0x7f800000, (a >> 13 & 0x3ff) | 0x7e00, x);
    Half h = __builtin_convertvector(x | (u >> 16 & 0x8000), Half);
    memcpy(to, &h, sizeof h);
}

CLONES void half_widen(Dtype d, const uint16_t *from, float *to, int64_t n) {
    int64_t i = 0;
    if (d == DT_BF16)
        for (; i + W <= n; i += W) widen_bf16(from + i, to + i);
    else
        for (; i + W <= n; i += W) widen_f16(from + i, to + i);
    for (; i < n; i++) to[i] = d == DT_BF16 ? bf16_to_f32(from[i]) : f16_to_f32(from[i]);
}

CLONES void half_narrow(Dtype d, const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;
    if (d == DT_BF16)
        for (; i + W <= n; i += W) narrow_bf16(from + i, to + i);
    else
        for (; i + W <= n; i += W) narrow_f16(from + i, to + i);
    for (; i < n; i++) to[i] = d == DT_BF16 ? f32_to_bf16(from[i]) : f32_to_f16(from[i]);
}
