/* lanes.cu: what the words of cuda_device.h compute, for test_lanes.c to compare. */

enum { LANES_OUT = 16 };

/* Per thread: shuffles of a value, votes, counts. */
KERNEL(lanes, 3, 64) {
    const int64_t *x = (const int64_t *)ARG(0);
    const int32_t *pick = (const int32_t *)ARG(1);
    int64_t *y = (int64_t *)ARG(2) + TID * LANES_OUT;
    int64_t v = x[TID];
    int32_t p = pick[TID];
    y[0] = shfl_xor_i64(v, 5);
    y[1] = shfl_xor_i32((int32_t)v, 16);
    y[2] = (int64_t)f32_bits(shfl_xor_f32(bits_f32((uint32_t)v), 3));
    y[3] = (int64_t)shfl_xor_f64((double)(v >> 12), 31);
    y[4] = shfl_i32((int32_t)v, p);
    y[5] = (int64_t)f32_bits(shfl_f32(bits_f32((uint32_t)v), p));
    y[6] = shfl_up_i32((int32_t)v, 1);
    y[7] = shfl_up_i32((int32_t)v, 8);
    y[8] = (int64_t)ballot(v & 1);
    y[9] = (int64_t)ballot((v & 256) != 0);
    y[10] = popcount((uint32_t)v);
    y[11] = shfl_xor_i32((int32_t)v, 32 + 1);
}

/* All 16-bit floats to f32. */
KERNEL(widen, 2, 256) {
    uint32_t *bf16 = (uint32_t *)ARG(0), *f16 = (uint32_t *)ARG(1);
    int32_t i = BID * 256 + TID;
    bf16[i] = f32_bits(bf16_f32((uint16_t)i));
    f16[i] = f32_bits(f16_f32((uint16_t)i));
}

/* Pairs of f32 to 16 bits, one by one and packed. */
KERNEL(narrow, 5, 256) {
    const float *x = (const float *)ARG(0);
    uint16_t *bf16 = (uint16_t *)ARG(1), *f16 = (uint16_t *)ARG(2);
    uint32_t *bf16x2 = (uint32_t *)ARG(3), *f16x2 = (uint32_t *)ARG(4);
    int32_t i = BID * 256 + TID;
    bf16[2 * i] = f32_bf16(x[2 * i]), bf16[2 * i + 1] = f32_bf16(x[2 * i + 1]);
    f16[2 * i] = f32_f16(x[2 * i]), f16[2 * i + 1] = f32_f16(x[2 * i + 1]);
    bf16x2[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    f16x2[i] = pack_f16(x[2 * i], x[2 * i + 1]);
}

KERNEL(powers, 2, 256) {
    const float *x = (const float *)ARG(0);
    float *y = (float *)ARG(1);
    int32_t i = BID * 256 + TID;
    y[i] = exp2_fast(x[i]);
}

/* 28 bytes a thread: by 16, by 8, by 4. */
KERNEL(wide, 2, 64) {
    const char *x = (const char *)ARG(0) + TID * 32;
    char *y = (char *)ARG(1) + TID * 32;
    uint32_t r[4];
    load16(r, x);
    store16(y + 16, r);
    load8(r, x + 16);
    store8(y + 8, r);
    load4(r, x + 28);
    store4(y + 4, r);
}

/* Four copies a thread: two groups of one, a group of one of zeros, one that is not committed.
 * y[stage][copy][thread]: the first word of each copy's place, at the start, and after waiting with
 * 2, 1 and 0 groups allowed to be outstanding. */
KERNEL(copies, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 1024);
    for (int c = 0; c < 4; c++) {
        cp_async16(s + c * 256 + TID * 4, c == 2 ? x : x + c * 256 + TID * 4, c != 2);
        if (c < 3) cp_async_commit();
    }
    for (int c = 0; c < 4; c++) y[c * 64 + TID] = s[c * 256 + TID * 4 + 3];
    cp_async_wait(2);
    for (int c = 0; c < 4; c++) y[(4 + c) * 64 + TID] = s[c * 256 + TID * 4 + 3];
    cp_async_wait(1);
    for (int c = 0; c < 4; c++) y[(8 + c) * 64 + TID] = s[c * 256 + TID * 4 + 3];
    cp_async_wait(0);
    for (int c = 0; c < 4; c++) y[(12 + c) * 64 + TID] = s[c * 256 + TID * 4 + 3];
}

/* Where blocks and threads run: each counts itself in order. One block has what the one before had
 * not left behind. */
KERNEL(places, 2, 96) {
    int32_t *at = (int32_t *)ARG(0), *order = (int32_t *)ARG(1);
    SHARED(uint32_t, s, 96);
    order[BID * 96 + TID] = s[TID] == 0xffffffffu ? at[0] : -1;
    at[0]++;
    s[TID] = 0;
}
