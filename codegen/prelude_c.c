/* prelude_c.c: what every generated C file starts with: storage formats, vectorisable functions of
 * f32, random numbers; then the elementwise ops of ops.def as inline functions, one per type of
 * register. No header that is slow to read, no libm where a loop should vectorise.
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
    "#define NAN_f64 __builtin_nan(\"\")\n#define INF_f64 __builtin_inf()\n",
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
    "/* Quadrant and remainder in f64: exact enough up to 2^30. */\n",
    "INLINE float sincos_(float x, int32_t shift) {\n",
    "    double k = __builtin_rint((double)x * 0.63661977236758134), d = (double)x - k * 1.5707963267948966;\n",
    "    float r = (float)(d - k * 6.123233995736766e-17), s = r * r;\n",
    "    int32_t q = (int32_t)k + shift;\n",
    "    float sn = r + r * s * (-0.166666672f + s * (0.00833332911f + s * (-0.000198393333f + s * 2.71830277e-6f)));\n",
    "    float cs = 1.0f - 0.5f * s + s * s * (0.0416666679f + s * (-0.00138888834f + s * (2.47995195e-5f + s * -2.72101516e-7f)));\n",
    "    float y = q & 1 ? cs : sn;\n",
    "    return q & 2 ? -y : y;\n",
    "}\n",
    "INLINE float sin_(float x) { return sincos_(x, 0); }\n",
    "INLINE float cos_(float x) { return sincos_(x, 1); }\n",
    "INLINE float gelu_grad_(float a) {\n",
    "    float u = 1.5957691216057308f * (a + 0.044715f * a * a * a), s = 1.0f / (1.0f + exp_(-u));\n",
    "    float d = a * s * (1.0f - s) * 1.5957691216057308f * (1.0f + 0.134145f * a * a);\n",
    "    return s + d;\n",
    "}\n",
    "INLINE int isfinite_(float x) { return (f32_bits(x) & 0x7f800000u) != 0x7f800000u; }\n",
    "/* ---- random numbers: Philox-2x32-10 ---- */\n",
    "INLINE uint64_t hash_mix(uint64_t a, uint64_t b) {\n",
    "    a ^= b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2);\n",
    "    a ^= a >> 32;\n",
    "    a *= 0xd6e8feb86659fd93u;\n",
    "    return a ^ (a >> 32);\n",
    "}\n",
    "INLINE uint32_t random_key(uint64_t seed, uint64_t site, uint64_t step) {\n",
    "    return (uint32_t)hash_mix(hash_mix(seed, site), step);\n",
    "}\n",
    "INLINE float random_at(uint32_t key, uint64_t counter) {\n",
    "    uint32_t lo = (uint32_t)counter, hi = (uint32_t)(counter >> 32);\n",
    "    for (int i = 0; i < 10; i++, key += 0x9e3779b9u) {\n",
    "        uint64_t p = (uint64_t)lo * 0xd256d193u;\n",
    "        lo = (uint32_t)(p >> 32) ^ key ^ hi;\n",
    "        hi = (uint32_t)p;\n",
    "    }\n",
    "    return (float)(int32_t)(lo >> 8) * 0x1p-24f;\n",
    "}\n",
};
/* clang-format on */

/* Functions that the expressions of ops.def call, for each type of register. */
static const struct {
    const char *suffix, *ctype, *literal, *define;
    bool ints;
} registers[] = {
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
static const char *const names[] = {"exp", "log",  "tanh",  "erf",      "sin",      "cos",
                                    "pow", "sqrt", "floor", "isfinite", "gelu_grad"};

/* INLINE float gelu_f32(float a) { return ..; } */
static void print_op(Op op, size_t r, Buf *out) {
    const OpInfo *o = op_info(op);
    const char *t = registers[r].ctype;
    bool choice = op == OP_select;
    buf_printf(out, "INLINE %s %s_%s(%s a", o->flags & OPF_BOOL ? "int32_t" : t, o->name,
               registers[r].suffix, choice ? "int32_t" : t);
    for (int i = 1; i < o->arity; i++) buf_printf(out, ", %s %c", t, 'a' + i);
    buf_printf(out, ") { return %s; }\n", o->expr);
}

void prelude_print(Buf *out) {
    for (size_t i = 0; i < COUNT(text); i++) buf_puts(out, text[i]);
    for (size_t r = 0; r < COUNT(registers); r++) {
        buf_printf(out, "/* ---- ops.def on %s ---- */\n#define K(x) %s\n%s", registers[r].suffix,
                   registers[r].literal, registers[r].define);
        for (unsigned op = 0; op < OP_COUNT; op++) {
            uint32_t flags = op_info((Op)op)->flags;
            if (!(flags & OPF_EW) || op == OP_cast) continue;
            if (!registers[r].ints || (flags & OPF_INT)) print_op((Op)op, r, out);
        }
        buf_puts(out, "#undef K\n");
        for (size_t i = 0; *registers[r].define && i < COUNT(names); i++)
            buf_printf(out, "#undef %s\n", names[i]);
    }
}
