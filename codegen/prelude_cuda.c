/* prelude_cuda.c: what every generated CUDA C file starts with: the words of CUDA (cuda_device.h,
 * or the host's emulation of them), functions of f32, what all targets share (prelude.c),
 * reductions over threads, and rows of elements for kernels that move them. */
#include "codegen/cuda_device_text.h"
#include "codegen/target.h"

/* clang-format off */
static const char *const functions[] = {
    "#define NAN_f32 bits_f32(0x7fc00000u)\n#define INF_f32 bits_f32(0x7f800000u)\n",
    "#define NAN_f64 ((double)NAN_f32)\n#define INF_f64 ((double)INF_f32)\n",
    "#define RINT_f64 rint\n#define exp_ expf\n",
};

/* t threads of a row, a power of two, neighbours from a multiple of t on. Up to a warp they are
 * lanes; beyond, each warp's part goes through shared memory and all add them in the same order. */
static const char *const reductions[] = {
    "/* ---- reductions over the t threads of a row ---- */\n",
    "#define M6C_REDUCE(op, s, T, step) \\\n",
    "    INLINE T lanes_##op##_##s(T x, int t) { \\\n",
    "        for (int o = t / 2; o > 0; o /= 2) { const T y = shfl_xor_##s(x, o); step; } \\\n",
    "        return x; \\\n",
    "    } \\\n",
    "    INLINE T group_##op##_##s(T x, int t, T *part) { \\\n",
    "        const int first = TID / t * (t / 32); \\\n",
    "        x = lanes_##op##_##s(x, 32); \\\n",
    "        SYNC(); \\\n",
    "        if (TID % 32 == 0) part[TID / 32] = x; \\\n",
    "        SYNC(); \\\n",
    "        x = part[first]; \\\n",
    "        for (int i = 1; i < t / 32; i++) { const T y = part[first + i]; step; } \\\n",
    "        return x; \\\n",
    "    }\n",
    "#define M6C_REDUCES(s, T) M6C_REDUCE(sum, s, T, x += y) \\\n",
    "    M6C_REDUCE(max, s, T, x = y > x ? y : x) M6C_REDUCE(min, s, T, x = y < x ? y : x)\n",
    "M6C_REDUCES(f32, float)\nM6C_REDUCES(f64, double)\n",
    "M6C_REDUCES(i32, int32_t)\nM6C_REDUCES(i64, int64_t)\n",
    "/* ---- n elements of a tensor as f32: 4 at addresses that are multiples of 4 elements, or 1 ---- */\n",
    "INLINE void read_f32(float *x, const float *p, int n) {\n",
    "    uint32_t w[4];\n",
    "    if (n == 1) { x[0] = p[0]; return; }\n",
    "    load16(w, p);\n",
    "    for (int i = 0; i < 4; i++) x[i] = bits_f32(w[i]);\n",
    "}\n",
    "INLINE void write_f32(float *p, const float *x, int n) {\n",
    "    uint32_t w[4];\n",
    "    if (n == 1) { p[0] = x[0]; return; }\n",
    "    for (int i = 0; i < 4; i++) w[i] = f32_bits(x[i]);\n",
    "    store16(p, w);\n",
    "}\n",
    "INLINE void read_f64(float *x, const double *p, int n) { for (int i = 0; i < n; i++) x[i] = (float)p[i]; }\n",
    "INLINE void write_f64(double *p, const float *x, int n) { for (int i = 0; i < n; i++) p[i] = x[i]; }\n",
    "#define M6C_ROWS(s) \\\n",
    "    INLINE void read_##s(float *x, const uint16_t *p, int n) { \\\n",
    "        uint32_t w[2]; \\\n",
    "        if (n == 1) { x[0] = s##_f32(p[0]); return; } \\\n",
    "        load8(w, p); \\\n",
    "        for (int i = 0; i < 4; i++) x[i] = s##_f32((uint16_t)(w[i / 2] >> i % 2 * 16)); \\\n",
    "    } \\\n",
    "    INLINE void write_##s(uint16_t *p, const float *x, int n) { \\\n",
    "        uint32_t w[2]; \\\n",
    "        if (n == 1) { p[0] = f32_##s(x[0]); return; } \\\n",
    "        w[0] = pack_##s(x[0], x[1]), w[1] = pack_##s(x[2], x[3]); \\\n",
    "        store8(p, w); \\\n",
    "    }\n",
    "M6C_ROWS(bf16)\nM6C_ROWS(f16)\n",
};
/* clang-format on */

/* Functions that ops.def's expressions call. sinf and cosf of CUDA need memory for large arguments:
 * the shared ones do not. */
static const Registers registers[REGISTER_KINDS] = {
    {"f32", "float", "((float)(x))",
     "#define exp expf\n#define log logf\n#define tanh tanhf\n#define erf erff\n"
     "#define sin sin_\n#define cos cos_\n#define gelu_grad gelu_grad_\n"
     "#define isfinite isfinite_\n#define sqrt sqrtf\n#define floor floorf\n#define pow powf\n",
     false},
    {"f64", "double", "((double)(x))",
     "#define isfinite(a) ((a) - (a) == 0)\n"
     "#define gelu_grad(a) ((double)gelu_grad_((float)(a)))\n",
     false},
    {"i32", "int32_t", "((int32_t)(x))", "", true},
    {"i64", "int64_t", "((int64_t)(x))", "", true},
};

void prelude_cuda(Buf *out) {
    buf_puts(out, "#ifndef M6C_EMULATED\n");
    buf_puts(out, cuda_device_text);
    buf_puts(out, "#endif\n");
    for (size_t i = 0; i < COUNT(functions); i++) buf_puts(out, functions[i]);
    prelude_common(registers, out);
    for (size_t i = 0; i < COUNT(reductions); i++) buf_puts(out, reductions[i]);
}
