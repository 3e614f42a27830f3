/* test_lanes.c: shuffles, votes, conversions, wide accesses, asynchronous copies and orders of the
 * emulator, against formulas and ir/base.h. Arguments: the folder of lanes.cu; "gpu": what only the
 * emulator promises is left out. */
#include "tests/check.h"
#include "tests/gpu/emulator.h"

#include <math.h>
#include <stdlib.h>

static EmuModule *module;

static void launch(const char *kernel, int64_t blocks, int threads, void *const *arg,
                   uint64_t seed) {
    Status s = emu_launch(emu_find(module, kernel), blocks, threads, 0, arg, seed);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
}

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static uint64_t random64(uint32_t key, uint64_t i) {
    uint32_t second, first = philox(key, i, &second);
    return (uint64_t)second << 32 | first;
}

static int64_t low(int64_t x) { return (int32_t)(uint32_t)x; }

/* Thread t's row of results from its warp's values x and lanes p. */
static bool lanes_right(const int64_t *x, const int32_t *p, int lane, const int64_t *y) {
    uint32_t odd = 0, ninth = 0;
    int ones = 0;
    for (int i = 0; i < 32; i++) {
        odd |= (uint32_t)(x[i] & 1) << i;
        ninth |= (uint32_t)(x[i] >> 8 & 1) << i;
        ones += (int)((uint64_t)x[lane] >> i & 1);
    }
    return y[0] == x[lane ^ 5] && y[1] == low(x[lane ^ 16]) &&
           y[2] == (int64_t)(uint32_t)x[lane ^ 3] && y[3] == x[lane ^ 31] >> 12 &&
           y[4] == low(x[p[lane] % 32]) && y[5] == (int64_t)(uint32_t)x[p[lane] % 32] &&
           y[6] == low(x[lane > 0 ? lane - 1 : lane]) &&
           y[7] == low(x[lane > 7 ? lane - 8 : lane]) && y[8] == (int64_t)odd &&
           y[9] == (int64_t)ninth && y[10] == ones && y[11] == low(x[lane ^ 1]);
}

static void test_lanes(void) {
    int64_t *x = emu_buffer(64 * sizeof *x), *y = emu_buffer(64 * 16 * sizeof *y);
    int32_t *p = emu_buffer(64 * sizeof *p);
    for (uint64_t seed = 0; seed < 8; seed++) {
        for (uint32_t i = 0; i < 64; i++) {
            x[i] = (int64_t)random64((uint32_t)seed, i);
            p[i] = (int32_t)(philox((uint32_t)seed, i + 64, NULL) % 64);
        }
        launch("lanes", 1, 64, (void *[]){x, p, y}, seed);
        for (int t = 0; t < 64; t++)
            CHECK(lanes_right(x + t / 32 * 32, p + t / 32 * 32, t % 32, y + 16 * t));
    }
    emu_buffer_free(x);
    emu_buffer_free(y);
    emu_buffer_free(p);
}

static void test_widen(void) {
    enum { N = 1 << 16 };
    uint32_t *bf16 = emu_buffer(N * 4), *f16 = emu_buffer(N * 4);
    int wrong = 0;
    launch("widen", N / 256, 256, (void *[]){bf16, f16}, 1);
    for (uint32_t i = 0; i < N; i++) {
        float want = f16_to_f32((uint16_t)i);
        wrong += bf16[i] != i << 16;
        wrong += isnan(want) ? f16[i] != 0x7fffffff : f16[i] != bits(want);
    }
    CHECK(wrong == 0);
    emu_buffer_free(bf16);
    emu_buffer_free(f16);
}

/* Every exponent with the patterns around a rounding, else random bits. */
static uint32_t float_pattern(uint32_t i) {
    static const uint32_t edge[] = {0,       1,       0xfff,    0x1000,   0x1001,   0x1fff,
                                    0x2000,  0x3000,  0x7fff,   0x8000,   0x8001,   0xffff,
                                    0x10000, 0x18000, 0x7fefff, 0x7ff000, 0x7fffff, 0x3fffff};
    if (i < 512 * COUNT(edge)) return i / (uint32_t)COUNT(edge) << 23 | edge[i % COUNT(edge)];
    return philox(7, i, NULL);
}

static bool half_right(uint16_t got, float x, uint16_t want) {
    return isnan(x) ? got == 0x7fff : got == want;
}

static void test_narrow(void) {
    enum { N = 1 << 19 };
    uint32_t *x = emu_buffer(N * 4), *bf16x2 = emu_buffer(N * 2), *f16x2 = emu_buffer(N * 2);
    uint16_t *bf16 = emu_buffer(N * 2), *f16 = emu_buffer(N * 2);
    int wrong = 0;
    for (uint32_t i = 0; i < N; i++) x[i] = float_pattern(i);
    launch("narrow", N / 512, 256, (void *[]){x, bf16, f16, bf16x2, f16x2}, 2);
    for (uint32_t i = 0; i < N; i++) {
        float v;
        memcpy(&v, &x[i], 4);
        wrong += !half_right(bf16[i], v, f32_to_bf16(v)) || !half_right(f16[i], v, f32_to_f16(v));
        wrong += (bf16x2[i / 2] >> (i % 2 * 16) & 0xffff) != bf16[i];
        wrong += (f16x2[i / 2] >> (i % 2 * 16) & 0xffff) != f16[i];
    }
    CHECK(wrong == 0);
    emu_buffer_free(x);
    emu_buffer_free(bf16);
    emu_buffer_free(f16);
    emu_buffer_free(bf16x2);
    emu_buffer_free(f16x2);
}

/* 2 ulp of a normal result is 2^-22 of it at most. */
static void test_powers(void) {
    enum { N = 1 << 14 };
    float *x = emu_buffer(N * 4), *y = emu_buffer(N * 4);
    const float edge[] = {INFINITY, -INFINITY, NAN,  0,   -0.0f,      1,
                          -126,     -126.5f,   -149, 128, 127.99999f, 1e-40f};
    int wrong = 0;
    for (uint32_t i = 0; i < N; i++)
        x[i] = i < COUNT(edge) ? edge[i] : (random_unit(philox(3, i, NULL)) - 0.5f) * 280;
    launch("powers", N / 256, 256, (void *[]){x, y}, 3);
    for (uint32_t i = 0; i < N; i++) {
        double want = exp2((double)x[i]);
        if (isnan(want))
            wrong += !isnan(y[i]);
        else if (want < 0x1p-126)
            wrong += y[i] != 0;
        else if (want > 0x1.ffffffp127)
            wrong += y[i] != INFINITY;
        else
            wrong += !(fabs(y[i] - want) <= want * 0x1p-22);
    }
    CHECK(wrong == 0);
    emu_buffer_free(x);
    emu_buffer_free(y);
}

static void test_wide(void) {
    char *x = emu_buffer(64 * 32), *y = emu_buffer(64 * 32);
    for (uint32_t i = 0; i < 64 * 32; i++) x[i] = (char)philox(4, i, NULL);
    launch("wide", 1, 64, (void *[]){x, y}, 4);
    for (int t = 0; t < 64; t++) {
        const char *a = x + 32 * t, *b = y + 32 * t;
        CHECK(memcmp(b + 16, a, 16) == 0 && memcmp(b + 8, a + 16, 8) == 0);
        CHECK(memcmp(b + 4, a + 28, 4) == 0 && memcmp(b, "\xff\xff\xff\xff", 4) == 0);
    }
    emu_buffer_free(x);
    emu_buffer_free(y);
}

/* What must have landed has; what need not is the old bytes, for most threads. */
static void test_copies(void) {
    uint32_t *x = emu_buffer(1024 * 4), *y = emu_buffer(16 * 64 * 4);
    for (uint32_t i = 0; i < 1024; i++) x[i] = i * 7 + 1;
    for (uint64_t seed = 0; seed < 4; seed++) {
        launch("copies", 1, 64, (void *[]){x, y}, seed);
        for (int stage = 0; stage < 4; stage++)
            for (int c = 0; c < 4; c++) {
                int landed = 0, old = 0;
                for (int t = 0; t < 64; t++) {
                    uint32_t got = y[(stage * 4 + c) * 64 + t];
                    landed += got == (c == 2 ? 0 : x[c * 256 + t * 4 + 3]);
                    old += got == 0xffffffff;
                }
                CHECK(landed + old == 64);
                CHECK(c < stage ? old == 0 : old > 20 && landed > 0);
            }
    }
    emu_buffer_free(x);
    emu_buffer_free(y);
}

/* Every thread runs once, in another order with another seed and in the same with the same, and
 * finds shared memory fresh. */
static void test_orders(void) {
    enum { BLOCKS = 50, N = BLOCKS * 96 };
    int32_t at[4], *order[4], moved = 0;
    for (int i = 0; i < 4; i++) {
        char *seen = calloc(N, 1);
        order[i] = emu_buffer(N * 4);
        at[i] = 0;
        launch("places", BLOCKS, 96, (void *[]){&at[i], order[i]}, (uint64_t)i / 2);
        for (int t = 0; t < N; t++) {
            bool once = order[i][t] >= 0 && order[i][t] < N && !seen[order[i][t]];
            CHECK(once);
            if (once) seen[order[i][t]] = 1;
        }
        free(seen);
    }
    for (int t = 0; t < N; t++) moved += order[0][t] != order[2][t];
    CHECK(memcmp(order[0], order[1], N * 4) == 0 && moved > N / 2);
    for (int i = 0; i < 4; i++) emu_buffer_free(order[i]);
}

int main(int argc, char **argv) {
    Buf path = {0};
    buf_printf(&path, "%s/lanes.cu", argc > 1 ? argv[1] : "tests/gpu");
    setenv("M6C_EMULATED_RACES", "none", 1); /* some of these kernels are there to be seen racing */
    Status s = emu_load(path.p, &module);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
    buf_free(&path);
    if (!module) return check_done("emulator_lanes");
    test_lanes();
    test_widen();
    test_narrow();
    test_powers();
    test_wide();
    if (argc < 3) {
        test_copies();
        test_orders();
    }
    emu_unload(module);
    return check_done("emulator_lanes");
}
