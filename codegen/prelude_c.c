/* prelude_c.c: what every generated C file starts with: storage formats, vectorisable functions of
 * f32, then what all targets share (prelude.c). No header that is slow to read, no libm where a
 * loop should vectorise.
 *
 * The code relies on IEEE evaluation in the order written (argument reduction), so it is compiled
 * without -fassociative-math; loops are vectorised by `omp simd`. */
#include "codegen/target.h"

#include <string.h>

/* clang-format off */
static const char *const text[] = {
    "#include <stdint.h>\n",
    "#include <string.h>\n",
    "#define NAN_f32 __builtin_nanf(\"\")\n#define INF_f32 __builtin_inff()\n"
    "#define NAN_f64 __builtin_nan(\"\")\n#define INF_f64 __builtin_inf()\n"
    "#define RINT_f64 __builtin_rint\n#define ARG(i) arg[i]\n",
    "#define INLINE static inline __attribute__((always_inline, unused))\n",
    "INLINE uint32_t f32_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }\n",
    "INLINE float bits_f32(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }\n",
    "/* ---- storage formats: registers hold f32 ---- */\n",
    "INLINE float bf16_f32(uint16_t h) { return bits_f32((uint32_t)h << 16); }\n",
    "INLINE uint16_t f32_bf16(float x) {\n",
    "    uint32_t u = f32_bits(x), r = (u + 0x7fffu + (u >> 16 & 1)) >> 16;\n",
    "    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40u) : r);\n",
    "}\n",
    "/* In integers, signed ones: gcc 12 does not vectorise _Float16, nor float from and to uint32_t. */\n",
    "INLINE float f16_f32(uint16_t h) {\n",
    "    uint32_t s = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;\n",
    "    float tiny = (float)(int32_t)m * 0x1p-24f;\n",
    "    uint32_t u = e == 31 ? 0x7f800000u | m << 13 : (e + 112) << 23 | m << 13;\n",
    "    return bits_f32(s | (e == 0 ? f32_bits(tiny) : u));\n",
    "}\n",
    "INLINE uint16_t f32_f16(float x) {\n",
    "    uint32_t u = f32_bits(x), s = u >> 16 & 0x8000, a = u & 0x7fffffffu;\n",
    "    uint32_t n = (a - 0x38000000u + 0xfff + (a >> 13 & 1)) >> 13;\n",
    "    uint32_t d = f32_bits(bits_f32(a < 0x38800000u ? a : 0) + 0.5f) - 0x3f000000u;\n",
    "    uint32_t r = a < 0x38800000u ? d : a >= 0x47800000u ? 0x7c00u : n;\n",
    "    return (uint16_t)(s | (a > 0x7f800000u ? 0x7e00u : r));\n",
    "}\n",
    "/* ---- functions of f32: polynomials fitted for this file, about 1 to 2 ulp; NaN stays NaN ---- */\n",
    "INLINE float exp_(float x) {\n",
    "    float a = x > 89.0f ? 89.0f : x, b = a < -104.0f ? -104.0f : a;\n",
    "    float n = __builtin_rintf(b * 1.44269504f);\n",
    "    float r = b - n * 0.693359375f + n * 2.12194440e-4f;\n",
    "    float p = 0.5f + r * (0.166665182f + r * (0.0416662060f + r * (0.00836890843f + r * 0.00139505242f)));\n",
    "    int32_t i = (int32_t)n, h = i >> 1;\n",
    "    float s = bits_f32((uint32_t)(h + 127) << 23), t = bits_f32((uint32_t)(i - h + 127) << 23);\n",
    "    return (1.0f + (r + r * r * p)) * s * t;\n",
    "}\n",
    "INLINE float log_(float x) {\n",
    "    int tiny = x < 1.17549435e-38f;\n",
    "    uint32_t u = f32_bits(tiny ? x * 0x1p23f : x) - 0x3f3504f3u;\n",
    "    int32_t e = (int32_t)u >> 23;\n",
    "    float f = bits_f32((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f, n = (float)(tiny ? e - 23 : e);\n",
    "    float p = 0.333333105f + f * (-0.249999866f + f * (0.200022265f + f * (-0.166692510f + f * (0.142186582f +\n",
    "        f * (-0.123843431f + f * (0.118729658f + f * (-0.117898352f + f * 0.0691542476f)))))));\n",
    "    float r = f - 0.5f * f * f + f * f * f * p;\n",
    "    float y = n * 0.693359375f + (r - n * 2.12194440e-4f);\n",
    "    y = x == __builtin_inff() ? x : y;\n",
    "    return x > 0.0f ? y : x == 0.0f ? -__builtin_inff() : __builtin_nanf(\"\");\n",
    "}\n",
    "INLINE float tanh_(float x) {\n",
    "    float a = x < 0.0f ? -x : x, s = x * x;\n",
    "    float p = -0.333332837f + s * (0.133314908f + s * (-0.0537435003f + s * (0.0206505917f + s * -0.00571704889f)));\n",
    "    float big = 1.0f - 2.0f / (exp_(2.0f * a) + 1.0f);\n",
    "    return a < 0.625f ? x + x * s * p : x < 0.0f ? -big : big;\n",
    "}\n",
    "INLINE float erf_(float x) {\n",
    "    float a = x < 0.0f ? -x : x, s = x * x, b = a > 4.0f ? 4.0f : a;\n",
    "    float p = 0.128379166f + s * (-0.376126260f + s * (0.112836003f + s * (-0.0268544443f + s * (0.00518953567f +\n",
    "        s * (-0.000802084222f + s * 7.88912294e-5f)))));\n",
    "    float q = 0.000204358104f + b * (-1.12966120f + b * (-0.633039653f + b * (-0.108638972f + b * (0.0253735352f +\n",
    "        b * (-0.00428237254f + b * (0.000463785080f + b * (-2.53143189e-5f + b * 2.51291738e-7f)))))));\n",
    "    float big = 1.0f - exp_(q);\n",
    "    return a < 1.0f ? x + x * p : x < 0.0f ? -big : big;\n",
    "}\n",
};
/* clang-format on */

static const Registers registers[REGISTER_KINDS] = {
    {"f32", "float", "((float)(x))",
     "#define exp exp_\n#define log log_\n#define tanh tanh_\n#define erf erf_\n"
     "#define sin sin_\n#define cos cos_\n#define gelu_grad gelu_grad_\n"
     "#define isfinite isfinite_\n#define sqrt __builtin_sqrtf\n#define floor __builtin_floorf\n"
     "#define pow __builtin_powf\n",
     false},
    {"f64", "double", "((double)(x))",
     "#define exp __builtin_exp\n#define log __builtin_log\n#define tanh __builtin_tanh\n"
     "#define erf __builtin_erf\n#define sin __builtin_sin\n#define cos __builtin_cos\n"
     "#define isfinite __builtin_isfinite\n#define sqrt __builtin_sqrt\n"
     "#define floor __builtin_floor\n#define pow __builtin_pow\n"
     "#define gelu_grad(a) ((double)gelu_grad_((float)(a)))\n",
     false},
    {"i32", "int32_t", "((int32_t)(x))", "", true},
    {"i64", "int64_t", "((int64_t)(x))", "", true},
};

void prelude_c(Buf *out) {
    for (size_t i = 0; i < COUNT(text); i++) buf_puts(out, text[i]);
    prelude_common(registers, out);
}
