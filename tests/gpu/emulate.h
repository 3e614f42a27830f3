/* emulate.h: the names of codegen/cuda_device.h for the host's C compiler. A generated .cu file is
 * compiled behind this header as C17 with M6C_EMULATED defined, and run by emulator.c, one fiber a
 * CUDA thread. What the hardware does not forgive is a fault here: misaligned wide accesses, warp
 * operations without all lanes, reading an asynchronous copy that was not waited for.
 *
 * Macros stand where the line in the .cu file is wanted for a fault's message. */
#ifndef M6C_TESTS_EMULATE_H
#define M6C_TESTS_EMULATE_H

#include "emulate_api.h"

#include <math.h>

#define EMU_EXPORT __attribute__((visibility("default")))
EMU_EXPORT EmuApi *emu_api_;

/* ---- kernels ---- */
#define KERNEL(name, nargs, threads)                                                               \
    EMU_EXPORT const EmuKernelInfo name##_emu_ = {nargs, threads};                                 \
    EMU_EXPORT void name(void *const *arg_)
#define ARG(i) arg_[i]
#define INLINE static inline __attribute__((unused))
#define TID    (emu_api_->tid)
#define BID    (emu_api_->bid)
#define SHARED(type, name, n)                                                                      \
    type *const name = (type *)emu_api_->shared(__COUNTER__ + 1, (int64_t)sizeof(type) * (n))
#define DYNAMIC_SHARED(name) char *const name = (char *)emu_api_->shared(0, 0)
#define TABLE(type, name, n) static const type name[n]
#define SYNC()               emu_api_->wait(EMU_SYNC, __LINE__)
#define WARP_SYNC()          emu_api_->wait(EMU_WARP_SYNC, __LINE__)

/* ---- bits ---- */
INLINE uint32_t f32_bits(float x) {
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    return u;
}
INLINE float bits_f32(uint32_t u) {
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
}
INLINE uint64_t emu_f64_bits_(double x) {
    uint64_t u;
    __builtin_memcpy(&u, &x, 8);
    return u;
}
INLINE double emu_bits_f64_(uint64_t u) {
    double x;
    __builtin_memcpy(&x, &u, 8);
    return x;
}

/* ---- lanes of a warp ---- */
INLINE uint64_t emu_exchange_(int op, uint64_t x, int arg, int line) {
    EmuSlot *const s = emu_api_->slot;
    s->x = x, s->arg = arg;
    emu_api_->wait(op, line);
    return s->x;
}
#define shfl_xor_f32(x, m) bits_f32((uint32_t)emu_exchange_(EMU_SHFL_XOR, f32_bits(x), m, __LINE__))
#define shfl_xor_f64(x, m) emu_bits_f64_(emu_exchange_(EMU_SHFL_XOR, emu_f64_bits_(x), m, __LINE__))
#define shfl_xor_i32(x, m)                                                                         \
    ((int32_t)emu_exchange_(EMU_SHFL_XOR, (uint64_t)(int32_t)(x), m, __LINE__))
#define shfl_xor_i64(x, m)                                                                         \
    ((int64_t)emu_exchange_(EMU_SHFL_XOR, (uint64_t)(int64_t)(x), m, __LINE__))
#define shfl_f32(x, lane) bits_f32((uint32_t)emu_exchange_(EMU_SHFL, f32_bits(x), lane, __LINE__))
#define shfl_i32(x, lane) ((int32_t)emu_exchange_(EMU_SHFL, (uint64_t)(int32_t)(x), lane, __LINE__))
#define shfl_up_i32(x, d) ((int32_t)emu_exchange_(EMU_SHFL_UP, (uint64_t)(int32_t)(x), d, __LINE__))
#define ballot(p)         ((uint32_t)emu_exchange_(EMU_BALLOT, (p) != 0, 0, __LINE__))
INLINE int32_t popcount(uint32_t x) { return __builtin_popcount(x); }

/* ---- 16-bit floats as storage: to nearest even; NaN becomes the canonical one, as cvt says ----
 */
INLINE float bf16_f32(uint16_t h) { return bits_f32((uint32_t)h << 16); }
INLINE uint16_t f32_bf16(float x) {
    const uint32_t u = f32_bits(x);
    if (x != x) return 0x7fff;
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE float f16_f32(uint16_t h) {
    const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    if (magnitude > 0x0f800000) return bits_f32(0x7fffffff);
    if (magnitude == 0x0f800000) return bits_f32(sign | 0x7f800000);
    return bits_f32(sign | f32_bits(bits_f32(magnitude) * 0x1p112f));
}
INLINE uint16_t f32_f16(float x) {
    const uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and beyond */
    if (magnitude < 0x38800000) /* below 2^-14: the sum's last bit is worth 2^-24 */
        return (uint16_t)(sign | (f32_bits(bits_f32(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
INLINE uint32_t pack_bf16(float lo, float hi) {
    return f32_bf16(lo) | (uint32_t)f32_bf16(hi) << 16;
}
INLINE uint32_t pack_f16(float lo, float hi) { return f32_f16(lo) | (uint32_t)f32_f16(hi) << 16; }
INLINE float exp2_fast(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}

/* ---- wide accesses ---- */
INLINE void emu_aligned_(const void *p, uintptr_t size, const char *what, int line) {
    if ((uintptr_t)p & (size - 1)) emu_api_->fault(line, what, p);
}
typedef uint32_t __attribute__((may_alias)) emu_word_;
INLINE void emu_move_(void *to, const void *from, const void *wide, int size, const char *what,
                      int line) {
    emu_aligned_(wide, (uintptr_t)size, what, line);
    for (int i = 0; i < size / 4; i++) ((emu_word_ *)to)[i] = ((const emu_word_ *)from)[i];
}
#define EMU_LOAD(r, p, n)                                                                          \
    do {                                                                                           \
        uint32_t *const to_ = (r);                                                                 \
        const void *const from_ = (p);                                                             \
        emu_move_(to_, from_, from_, n, "misaligned load of " #n " bytes", __LINE__);              \
    } while (0)
#define EMU_STORE(p, r, n)                                                                         \
    do {                                                                                           \
        void *const to_ = (p);                                                                     \
        const uint32_t *const from_ = (r);                                                         \
        emu_move_(to_, from_, to_, n, "misaligned store of " #n " bytes", __LINE__);               \
    } while (0)
#define load16(r, p)  EMU_LOAD(r, p, 16)
#define load8(r, p)   EMU_LOAD(r, p, 8)
#define load4(r, p)   EMU_LOAD(r, p, 4)
#define store16(p, r) EMU_STORE(p, r, 16)
#define store8(p, r)  EMU_STORE(p, r, 8)
#define store4(p, r)  EMU_STORE(p, r, 4)

/* ---- asynchronous copies ---- */
#define cp_async16(to, from, valid) emu_api_->copy(to, from, valid, __LINE__)
#define cp_async_commit()           emu_api_->commit()
#define cp_async_wait(n)            emu_api_->wait_groups(n)

/* ---- matrix instructions ---- */
INLINE void emu_matrix_(int op, void *to, const void *a, const void *b, int line) {
    EmuSlot *const s = emu_api_->slot;
    s->to = to, s->from[0] = a, s->from[1] = b;
    emu_api_->wait(op, line);
}
INLINE void emu_ldmatrix_(int op, uint32_t *r, const void *row, int line) {
    emu_matrix_(op, r, row, row, line);
}
INLINE void emu_mma_(int op, float *c, const uint32_t *a, const uint32_t *b, int line) {
    emu_matrix_(op, c, a, b, line);
}
#define ldmatrix_x4(r, row)       emu_ldmatrix_(EMU_LDMATRIX, r, row, __LINE__)
#define ldmatrix_x4_trans(r, row) emu_ldmatrix_(EMU_LDMATRIX_TRANS, r, row, __LINE__)
#define mma_bf16(c, a, b)         emu_mma_(EMU_MMA_BF16, c, a, b, __LINE__)
#define mma_f16(c, a, b)          emu_mma_(EMU_MMA_F16, c, a, b, __LINE__)

/* ---- what -fsanitize=thread has called before each load and store ---- */
#ifdef M6C_EMULATED_RACES
__attribute__((no_sanitize("thread"))) INLINE void emu_access_(const void *p, int bytes, int write,
                                                               const void *pc) {
    const EmuApi *const api = emu_api_;
    if ((uintptr_t)p - api->watch >= api->watch_bytes || p == (const void *)&emu_api_) return;
    api->access(p, bytes, write, pc);
}
#define EMU_HOOK(name, bytes, write)                                                               \
    void __tsan_##name(const void *p);                                                             \
    __attribute__((no_sanitize("thread"))) void __tsan_##name(const void *p) {                     \
        emu_access_(p, bytes, write, __builtin_return_address(0));                                 \
    }
#define EMU_HOOKS(n)                                                                               \
    EMU_HOOK(read##n, n, 0)                                                                        \
    EMU_HOOK(write##n, n, 1)                                                                       \
    EMU_HOOK(unaligned_read##n, n, 0)                                                              \
    EMU_HOOK(unaligned_write##n, n, 1)
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
#define EMU_RANGE_HOOK(name, write)                                                                \
    void __tsan_##name(const void *p, unsigned long n);                                            \
    __attribute__((no_sanitize("thread"))) void __tsan_##name(const void *p, unsigned long n) {    \
        emu_access_(p, (int)n, write, __builtin_return_address(0));                                \
    }
EMU_RANGE_HOOK(read_range, 0)
EMU_RANGE_HOOK(write_range, 1)
#define EMU_NO_HOOK(name)                                                                          \
    void __tsan_##name(const void *p);                                                             \
    __attribute__((no_sanitize("thread"))) void __tsan_##name(const void *p) { (void)p; }
EMU_NO_HOOK(func_entry)
EMU_NO_HOOK(func_exit)
EMU_NO_HOOK(init)
#endif

#endif
