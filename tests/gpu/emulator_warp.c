/* emulator_warp.c: what the operations of a warp compute, once all its lanes are there. Fragments
 * lie in the lanes' registers as the PTX manual says for mma.m16n8k16 and ldmatrix. */
#include "tests/gpu/emulator_private.h"

#include <string.h>

static const char *const names[EMU_OPS] = {
    [EMU_SYNC] = "SYNC",
    [EMU_END] = "the end",
    [EMU_WARP_SYNC] = "WARP_SYNC",
    [EMU_SHFL_XOR] = "shfl_xor",
    [EMU_SHFL] = "shfl",
    [EMU_SHFL_UP] = "shfl_up",
    [EMU_BALLOT] = "ballot",
    [EMU_LDMATRIX] = "ldmatrix_x4",
    [EMU_LDMATRIX_TRANS] = "ldmatrix_x4_trans",
    [EMU_MMA_BF16] = "mma_bf16",
    [EMU_MMA_F16] = "mma_f16",
};

const char *warp_op_name(int op) { return names[op]; }

/* Distances and lanes count modulo 32: the instructions look at five bits. */
static int source_lane(int op, int lane, int arg) {
    arg &= 31;
    if (op == EMU_SHFL_XOR) return lane ^ arg;
    if (op == EMU_SHFL) return arg;
    return lane >= arg ? lane - arg : lane;
}

static void shuffle(Thread *t, int op) {
    uint64_t x[EMU_LANES];
    for (int i = 0; i < EMU_LANES; i++) x[i] = t[i].slot.x;
    for (int i = 0; i < EMU_LANES; i++) t[i].slot.x = x[source_lane(op, i, t[i].slot.arg)];
}

static void ballot_of(Thread *t) {
    uint32_t all = 0;
    for (int i = 0; i < EMU_LANES; i++) all |= (uint32_t)(t[i].slot.x != 0) << i;
    for (int i = 0; i < EMU_LANES; i++) t[i].slot.x = all;
}

static void load_rows(Thread *t, uint16_t (*row)[8]) {
    for (int i = 0; i < EMU_LANES; i++) {
        const void *p = t[i].slot.from[0];
        emu.cur = &t[i];
        if ((uintptr_t)p & 15)
            emu_fail(line_of(&t[i]), "ldmatrix: the row's address %p is misaligned", p);
        if (!memory_in_shared(p, 16))
            emu_fail(line_of(&t[i]), "ldmatrix: the row at %p is not inside a shared array", p);
        if (emu.kernel->module->races) race_matrix_row(p);
        memcpy(row[i], p, 16);
    }
}

static void ldmatrix(Thread *t, bool trans) {
    uint16_t row[EMU_LANES][8];
    load_rows(t, row);
    for (int i = 0; i < EMU_LANES; i++) {
        uint32_t *r = t[i].slot.to;
        for (int m = 0; m < 4; m++) {
            uint16_t(*x)[8] = &row[8 * m];
            int j = i / 4, k = i % 4 * 2;
            uint16_t lo = trans ? x[k][j] : x[j][k], hi = trans ? x[k + 1][j] : x[j][k + 1];
            r[m] = lo | (uint32_t)hi << 16;
        }
    }
}

static float element(uint32_t half, bool bf16) {
    if (!bf16) return f16_to_f32((uint16_t)half);
    half <<= 16; /* not bf16_to_f32: a call each would be half the time of a product */
    float x;
    memcpy(&x, &half, 4);
    return x;
}

typedef float Four __attribute__((vector_size(16)));

/* Products of 16-bit floats are exact in f32; they are added in the order of k. Four rows at a
 * time, so that their additions need not wait for each other. */
static void multiply(float (*c)[8], float (*a)[16], float (*b)[8]) {
    for (int i = 0; i < 16; i += 4) {
        Four sum[4][2];
        memcpy(sum, c[i], sizeof sum);
        for (int k = 0; k < 16; k++) {
            Four right[2];
            memcpy(right, b[k], sizeof right);
            for (int r = 0; r < 4; r++) {
                sum[r][0] += a[i + r][k] * right[0];
                sum[r][1] += a[i + r][k] * right[1];
            }
        }
        memcpy(c[i], sum, sizeof sum);
    }
}

/* Registers of lane i to the places of their elements. */
static void gather(const EmuSlot *s, int i, bool bf16, float (*a)[16], float (*b)[8],
                   float (*c)[8]) {
    const float *rc = s->to;
    const uint32_t *ra = s->from[0], *rb = s->from[1];
    int g = i / 4, k = i % 4 * 2;
    for (int r = 0; r < 4; r++) {
        float *x = &a[g + r % 2 * 8][k + r / 2 * 8];
        x[0] = element(ra[r] & 0xffff, bf16), x[1] = element(ra[r] >> 16, bf16);
        c[g + r / 2 * 8][k + r % 2] = rc[r];
    }
    for (int r = 0; r < 2; r++) {
        b[k + r * 8][g] = element(rb[r] & 0xffff, bf16);
        b[k + r * 8 + 1][g] = element(rb[r] >> 16, bf16);
    }
}

static void mma(Thread *t, bool bf16) {
    float a[16][16], b[16][8], c[16][8];
    for (int i = 0; i < EMU_LANES; i++) {
        emu.cur = &t[i];
        gather(&t[i].slot, i, bf16, a, b, c);
    }
    multiply(c, a, b);
    for (int i = 0; i < EMU_LANES; i++) {
        float *rc = t[i].slot.to;
        for (int r = 0; r < 4; r++) rc[r] = c[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
    }
}

void warp_perform(Warp *w, int op) {
    Thread *t = &emu.thread[w->first];
    switch (op) {
    case EMU_WARP_SYNC: w->epoch++; break;
    case EMU_SHFL_XOR:
    case EMU_SHFL:
    case EMU_SHFL_UP: shuffle(t, op); break;
    case EMU_BALLOT: ballot_of(t); break;
    case EMU_LDMATRIX: ldmatrix(t, false); break;
    case EMU_LDMATRIX_TRANS: ldmatrix(t, true); break;
    case EMU_MMA_BF16: mma(t, true); break;
    case EMU_MMA_F16: mma(t, false); break;
    default: break;
    }
}
