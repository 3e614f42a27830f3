/* cuda_device.h: what generated CUDA C stands on, pasted at the start of every generated .cu file:
 * types, threads, shared memory, shuffles, 16-byte accesses, asynchronous copies, matrix
 * instructions. Header-free, because headers are what costs NVRTC time. It is the only place that
 * names CUDA's own words: tests/gpu/emulate.h has the same names for the host's C compiler, so the
 * kernels behind it are the subset of C that C17 and CUDA C++ share.
 *
 * Grids and blocks are one-dimensional; warps have 32 lanes and all of them take part in every
 * warp operation. Matrix fragments are those of the PTX manual, "Matrix multiply-accumulate
 * operation using mma instruction". */

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define INT32_MIN  (-2147483647 - 1)
#define INT32_MAX  2147483647
#define INT64_MIN  (-9223372036854775807ll - 1)
#define INT64_MAX  9223372036854775807ll
#define INT64_C(x) x##ll

/* ---- kernels: KERNEL(name, pointers, threads of a block) { .. ARG(i) .. } ---- */
#define KERNEL(name, nargs, threads)                                                               \
    struct name##_args {                                                                           \
        void *p[nargs];                                                                            \
    };                                                                                             \
    extern "C" __global__ void __launch_bounds__(threads)                                          \
        name(const __grid_constant__ name##_args arg_)
#define ARG(i)                arg_.p[i]
#define INLINE                static __device__ __forceinline__
#define TID                   ((int32_t)threadIdx.x)
#define BID                   ((int32_t)blockIdx.x)
#define SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define DYNAMIC_SHARED(name)                                                                       \
    extern __shared__ __align__(128) char name[] /* chars; its size is the launch's */
/* A constant array: at the top of a kernel's body. */
#define TABLE(type, name, n) static __constant__ const type name[n]
#define SYNC()               __syncthreads()
#define WARP_SYNC()          __syncwarp()

/* ---- lanes of a warp ---- */
INLINE float shfl_xor_f32(float x, int m) { return __shfl_xor_sync(0xffffffffu, x, m); }
INLINE double shfl_xor_f64(double x, int m) { return __shfl_xor_sync(0xffffffffu, x, m); }
INLINE int32_t shfl_xor_i32(int32_t x, int m) { return __shfl_xor_sync(0xffffffffu, x, m); }
INLINE int64_t shfl_xor_i64(int64_t x, int m) { return __shfl_xor_sync(0xffffffffu, x, m); }
INLINE float shfl_f32(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
INLINE int32_t shfl_i32(int32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
/* From the lane `d` below; lanes below d keep theirs. */
INLINE int32_t shfl_up_i32(int32_t x, int d) { return __shfl_up_sync(0xffffffffu, x, d); }
/* CUDA has a ballot(bool) of its own, which a function of int would not hide. */
#define ballot(p) __ballot_sync(0xffffffffu, (p) != 0)
INLINE int32_t popcount(uint32_t x) { return __popc(x); }

/* ---- bits, and 16-bit floats as storage ---- */
INLINE uint32_t f32_bits(float x) { return __float_as_uint(x); }
INLINE float bits_f32(uint32_t u) { return __uint_as_float(u); }
INLINE float bf16_f32(uint16_t h) { return bits_f32((uint32_t)h << 16); }
INLINE uint16_t f32_bf16(float x) {
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
INLINE float f16_f32(uint16_t h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
INLINE uint16_t f32_f16(float x) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
/* Two in one register, `lo` in the low half. */
INLINE uint32_t pack_bf16(float lo, float hi) {
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
    return u;
}
INLINE uint32_t pack_f16(float lo, float hi) {
    uint32_t u;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
    return u;
}
/* 2 to the power x, to about 2 ulp; denormal results are 0. */
INLINE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- wide accesses: addresses are multiples of the size ---- */
INLINE void load16(uint32_t *r, const void *p) {
    const uint4 v = *(const uint4 *)p;
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
INLINE void load8(uint32_t *r, const void *p) {
    const uint2 v = *(const uint2 *)p;
    r[0] = v.x, r[1] = v.y;
}
INLINE void load4(uint32_t *r, const void *p) { r[0] = *(const uint32_t *)p; }
INLINE void store16(void *p, const uint32_t *r) {
    *(uint4 *)p = make_uint4(r[0], r[1], r[2], r[3]);
}
INLINE void store8(void *p, const uint32_t *r) { *(uint2 *)p = make_uint2(r[0], r[1]); }
INLINE void store4(void *p, const uint32_t *r) { *(uint32_t *)p = r[0]; }

/* ---- asynchronous copies, global to shared, 16 bytes; zeros when `valid` is 0 (then nothing is
 * read). They are there after commit, wait(groups that may be outstanding) and SYNC. ---- */
INLINE uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
INLINE void cp_async16(void *to, const void *from, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
INLINE void cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
#define cp_async_wait(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

/* ---- matrix instructions ---- */
/* Four 8 x 8 matrices of 16 bits; lane i gives the address of row i % 8 of matrix i / 8, 16-byte
 * aligned, in shared memory. Lane i gets elements 2 (i % 4), + 1 of row i / 4 of each. */
INLINE void ldmatrix_x4(uint32_t *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
INLINE void ldmatrix_x4_trans(uint32_t *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
/* c[16 x 8] += a[16 x 16] b[16 x 8], f32 sums. */
#define M6C_MMA(name, type)                                                                        \
    INLINE void name(float *c, const uint32_t *a, const uint32_t *b) {                             \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                        \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
    }
M6C_MMA(mma_bf16, "bf16")
M6C_MMA(mma_f16, "f16")
