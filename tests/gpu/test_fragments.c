/* test_fragments.c: where the emulator's matrix instructions find and leave matrix elements,
 * against the formulas of the PTX manual ("Matrix Fragments for mma.m16n8k16 with floating point
 * type", "Warp-level matrix load instruction: ldmatrix"), written out here in the manual's words.
 * Argument: the folder of fragments.cu. */
#include "tests/check.h"
#include "tests/gpu/emulator.h"

#include <math.h>
#include <stdlib.h>

static EmuModule *module;

static void launch(const char *kernel, int threads, void *const *arg, uint64_t seed) {
    Status s = emu_launch(emu_find(module, kernel), 1, threads, 0, arg, seed);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
}

typedef struct {
    int row, col;
} Place;

/* Element ai of A, i = 0 .. 7. */
static Place place_a(int lane, int i) {
    int groupID = lane >> 2, threadID_in_group = lane % 4;
    Place p;
    p.row = (0 <= i && i < 2) || (4 <= i && i < 6) ? groupID : groupID + 8;
    p.col = i < 4 ? threadID_in_group * 2 + (i & 0x1) : threadID_in_group * 2 + (i & 0x1) + 8;
    return p;
}

/* Element bi of B, i = 0 .. 3. */
static Place place_b(int lane, int i) {
    int groupID = lane >> 2, threadID_in_group = lane % 4;
    Place p;
    p.row = i < 2 ? threadID_in_group * 2 + (i & 0x1) : threadID_in_group * 2 + (i & 0x1) + 8;
    p.col = groupID;
    return p;
}

/* Element ci of C and D, i = 0 .. 3. */
static Place place_c(int lane, int i) {
    int groupID = lane >> 2, threadID_in_group = lane % 4;
    Place p;
    p.row = i < 2 ? groupID : groupID + 8;
    p.col = threadID_in_group * 2 + (i & 0x1);
    return p;
}

typedef struct {
    uint16_t a[16][16], b[16][8];
    float c[16][8];
} Matrices;

static uint16_t half(bool bf16, float x) { return bf16 ? f32_to_bf16(x) : f32_to_f16(x); }
static float full(bool bf16, uint16_t h) { return bf16 ? bf16_to_f32(h) : f16_to_f32(h); }

static void fill(Matrices *m, bool bf16, uint32_t key) {
    uint32_t n = 0;
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            m->a[i][k] = half(bf16, (random_unit(philox(key, n++, NULL)) - 0.5f) * 4);
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++)
            m->b[k][j] = half(bf16, (random_unit(philox(key, n++, NULL)) - 0.5f) * 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) m->c[i][j] = random_unit(philox(key, n++, NULL));
}

/* Register i / 2 holds element i, the even ones in its low half. */
static void scatter(const Matrices *m, uint16_t *a, uint16_t *b, float *c) {
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 8; i++) {
            Place p = place_a(lane, i);
            a[lane * 8 + i] = m->a[p.row][p.col];
        }
        for (int i = 0; i < 4; i++) {
            Place p = place_b(lane, i), q = place_c(lane, i);
            b[lane * 4 + i] = m->b[p.row][p.col];
            c[lane * 4 + i] = m->c[q.row][q.col];
        }
    }
}

/* 17 additions in f32 of exact products: 17 half ulps of the largest partial sum. */
static bool sum_right(const Matrices *m, bool bf16, Place p, float got) {
    double sum = m->c[p.row][p.col], size = fabs(sum);
    for (int k = 0; k < 16; k++) {
        double x = (double)full(bf16, m->a[p.row][k]) * (double)full(bf16, m->b[k][p.col]);
        sum += x;
        size += fabs(x);
    }
    return fabs(got - sum) <= 17 * 0x1p-24 * size;
}

static void test_mma(bool bf16) {
    uint16_t *a = emu_buffer(32 * 16), *b = emu_buffer(32 * 8);
    float *c = emu_buffer(32 * 16);
    Matrices m;
    for (uint32_t key = 0; key < 16; key++) {
        fill(&m, bf16, key);
        scatter(&m, a, b, c);
        launch(bf16 ? "multiply_bf16" : "multiply_f16", 32, (void *[]){a, b, c}, key);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++)
                CHECK(sum_right(&m, bf16, place_c(lane, i), c[lane * 4 + i]));
    }
    emu_buffer_free(a);
    emu_buffer_free(b);
    emu_buffer_free(c);
}

/* Threads 8 m .. 8 m + 7 give the addresses of the rows of matrix m. Thread t gets of each matrix
 * the elements 2 (t % 4) and + 1 of row t / 4, of its transpose when .trans is given. */
static void test_ldmatrix(void) {
    uint16_t *x = emu_buffer(128 * 16), *y = emu_buffer(2 * 32 * 16);
    int32_t *pick = emu_buffer(32 * 4);
    for (uint32_t seed = 0; seed < 8; seed++) {
        for (uint32_t i = 0; i < 128 * 8; i++) x[i] = (uint16_t)philox(seed, i, NULL);
        for (uint32_t i = 0; i < 32; i++) pick[i] = (int32_t)(philox(seed, i + 5000, NULL) % 128);
        launch("load_matrices", 32, (void *[]){x, pick, y}, seed);
        int wrong = 0;
        for (int t = 0; t < 32; t++)
            for (int m = 0; m < 4; m++)
                for (int e = 0; e < 2; e++) {
                    int row = t / 4, col = 2 * (t % 4) + e;
                    wrong += y[t * 8 + m * 2 + e] != x[pick[m * 8 + row] * 8 + col];
                    wrong += y[256 + t * 8 + m * 2 + e] != x[pick[m * 8 + col] * 8 + row];
                }
        CHECK(wrong == 0);
    }
    emu_buffer_free(x);
    emu_buffer_free(y);
    emu_buffer_free(pick);
}

/* Copies, loads and products together, as kernels use them; small integers, so that sums are
 * exact. */
static void test_product(void) {
    enum { N = 64 };
    uint16_t *a = emu_buffer(N * N * 2), *b = emu_buffer(N * N * 2);
    float *c = emu_buffer(N * N * 4);
    for (uint32_t i = 0; i < N * N; i++) {
        a[i] = f32_to_bf16((float)(philox(1, i, NULL) % 31) - 15);
        b[i] = f32_to_bf16((float)(philox(2, i, NULL) % 31) - 15);
    }
    for (uint64_t seed = 0; seed < 6; seed++) {
        int wrong = 0;
        launch("product", 128, (void *[]){a, b, c}, seed);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                float sum = 0;
                for (int k = 0; k < N; k++)
                    sum += bf16_to_f32(a[i * N + k]) * bf16_to_f32(b[k * N + j]);
                wrong += c[i * N + j] != sum;
            }
        CHECK(wrong == 0);
    }
    emu_buffer_free(a);
    emu_buffer_free(b);
    emu_buffer_free(c);
}

int main(int argc, char **argv) {
    Buf path = {0};
    buf_printf(&path, "%s/fragments.cu", argc > 1 ? argv[1] : "tests/gpu");
    Status s = emu_load(path.p, &module);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
    buf_free(&path);
    if (!module) return check_done("emulator_fragments");
    test_mma(true);
    test_mma(false);
    test_ldmatrix();
    test_product();
    emu_unload(module);
    return check_done("emulator_fragments");
}
