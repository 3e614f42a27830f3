/* prelude.c: what the preludes of all targets share: functions written once in the C that C17 and
 * CUDA C++ have in common, random numbers, and the elementwise ops of ops.def as inline functions,
 * one per type of register. */
#include "codegen/target.h"

/* clang-format off */
static const char *const text[] = {
    "/* Quadrant and remainder in f64: exact enough up to 2^30. */\n",
    "INLINE float sincos_(float x, int32_t shift) {\n",
    "    double k = RINT_f64((double)x * 0.63661977236758134), d = (double)x - k * 1.5707963267948966;\n",
    "    float r = (float)(d - k * 6.123233995736766e-17), s = r * r;\n",
    "    int32_t q = (int32_t)(k < 1e9 && k > -1e9 ? k : 0.0) + shift;\n",
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

static const char *const names[] = {"exp", "log",  "tanh",  "erf",      "sin",      "cos",
                                    "pow", "sqrt", "floor", "isfinite", "gelu_grad"};

/* INLINE float gelu_f32(float a) { return ..; } */
static void print_op(Op op, const Registers *r, Buf *out) {
    const OpInfo *o = op_info(op);
    const char *t = r->ctype;
    bool choice = op == OP_select;
    buf_printf(out, "INLINE %s %s_%s(%s a", o->flags & OPF_BOOL ? "int32_t" : t, o->name, r->suffix,
               choice ? "int32_t" : t);
    for (int i = 1; i < o->arity; i++) buf_printf(out, ", %s %c", t, 'a' + i);
    buf_printf(out, ") { return %s; }\n", o->expr);
}

void prelude_common(const Registers r[REGISTER_KINDS], Buf *out) {
    for (size_t i = 0; i < COUNT(text); i++) buf_puts(out, text[i]);
    for (const Registers *end = r + REGISTER_KINDS; r < end; r++) {
        buf_printf(out, "/* ---- ops.def on %s ---- */\n#define K(x) %s\n%s", r->suffix, r->literal,
                   r->define);
        for (unsigned op = 0; op < OP_COUNT; op++) {
            uint32_t flags = op_info((Op)op)->flags;
            if (!(flags & OPF_EW) || op == OP_cast) continue;
            if (!r->ints || (flags & OPF_INT)) print_op((Op)op, r, out);
        }
        buf_puts(out, "#undef K\n");
        for (size_t i = 0; *r->define && i < COUNT(names); i++)
            buf_printf(out, "#undef %s\n", names[i]);
    }
}
