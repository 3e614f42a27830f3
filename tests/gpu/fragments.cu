/* fragments.cu: matrix instructions with registers from memory, for test_fragments.c. */

/* c += a b, registers of lane i at a[4 i], b[2 i], c[4 i]. */
KERNEL(multiply_bf16, 3, 32) {
    const uint32_t *a = (const uint32_t *)ARG(0) + 4 * TID, *b = (const uint32_t *)ARG(1) + 2 * TID;
    float *c = (float *)ARG(2) + 4 * TID;
    mma_bf16(c, a, b);
}

KERNEL(multiply_f16, 3, 32) {
    const uint32_t *a = (const uint32_t *)ARG(0) + 4 * TID, *b = (const uint32_t *)ARG(1) + 2 * TID;
    float *c = (float *)ARG(2) + 4 * TID;
    mma_f16(c, a, b);
}

/* 128 rows of 8 halves; lane i loads row pick[i]. Registers of lane i at y[4 i], transposed ones
 * behind them at y[128 + 4 i]. */
KERNEL(load_matrices, 3, 32) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    const int32_t *pick = (const int32_t *)ARG(1);
    uint32_t *y = (uint32_t *)ARG(2) + 4 * TID;
    SHARED(uint32_t, s, 512);
    uint32_t r[4];
    for (int i = TID; i < 512; i += 32) s[i] = x[i];
    SYNC();
    ldmatrix_x4(r, s + 4 * pick[TID]);
    store16(y, r);
    ldmatrix_x4_trans(r, s + 4 * pick[TID]);
    store16(y + 128, r);
}

/* c[64 x 64] = a[64 x 64] b[64 x 64] of bf16 in rows: four warps, each 16 rows; a through
 * ldmatrix, b through its transposing form, both copied asynchronously in steps of 16. */
KERNEL(product, 3, 128) {
    const uint16_t *a = (const uint16_t *)ARG(0), *b = (const uint16_t *)ARG(1);
    float *c = (float *)ARG(2);
    SHARED(uint16_t, sa, 2 * 64 * 24);
    SHARED(uint16_t, sb, 2 * 16 * 72);
    const int32_t lane = TID % 32, warp = TID / 32;
    float sum[8][4];
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) sum[j][i] = 0.0f;
    for (int step = 0; step < 5; step++) {
        if (step < 4) {
            uint16_t *ta = sa + step % 2 * 64 * 24, *tb = sb + step % 2 * 16 * 72;
            cp_async16(ta + TID / 2 * 24 + TID % 2 * 8, a + TID / 2 * 64 + step * 16 + TID % 2 * 8, 1);
            cp_async16(tb + TID / 8 * 72 + TID % 8 * 8, b + (step * 16 + TID / 8) * 64 + TID % 8 * 8, 1);
        }
        cp_async_commit();
        cp_async_wait(1);
        SYNC();
        if (step > 0) {
            const uint16_t *ta = sa + (step - 1) % 2 * 64 * 24, *tb = sb + (step - 1) % 2 * 16 * 72;
            uint32_t ra[4], rb[4];
            ldmatrix_x4(ra, ta + (warp * 16 + lane % 16) * 24 + lane / 16 * 8);
            for (int j = 0; j < 4; j++) {
                ldmatrix_x4_trans(rb, tb + lane % 16 * 72 + j * 16 + lane / 16 * 8);
                mma_bf16(sum[2 * j], ra, rb);
                mma_bf16(sum[2 * j + 1], ra, rb + 2);
            }
        }
        SYNC();
    }
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++)
            c[(warp * 16 + lane / 4 + i / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + i % 2] = sum[j][i];
}
