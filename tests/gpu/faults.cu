/* faults.cu: one mistake each behind #ifdef PLANTED, next to what is right. All but `product` write
 * y[64 b + t] = x[64 b + 63 - t]. */

KERNEL(missing_barrier, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifndef PLANTED
    SYNC();
#endif
    y[BID * 64 + TID] = s[63 - TID];
}

/* Who comes late reads what the second round overwrote. */
KERNEL(missing_second_barrier, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    for (int i = 0; i < 2; i++) {
        s[TID] = i ? 0 : x[BID * 64 + TID];
        SYNC();
        if (i == 0) y[BID * 64 + TID] = s[63 - TID];
#ifndef PLANTED
        SYNC();
#endif
    }
}

KERNEL(missing_warp_sync, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + (TID ^ 32)];
#ifndef PLANTED
    WARP_SYNC();
#endif
    y[BID * 64 + TID] = s[TID ^ 31];
}

/* Comes out right in every order: only who looks at each access sees that `s` may not be there
 * yet, or that a block counts on another. */
KERNEL(harmless_race, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifdef PLANTED
    s[0] = x[BID * 64];
#endif
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(race_of_blocks, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
#ifdef PLANTED
    if (BID == 2 && TID == 0) y[0] = x[63];
#endif
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
}

KERNEL(uninitialised_shared, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
#ifdef PLANTED
    if (TID > 0)
#endif
        s[TID] = x[BID * 64 + TID];
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

/* The neighbour of the last element is read, and makes no difference. */
KERNEL(global_read, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    int32_t at = BID * 64 + 63 - TID;
    uint32_t v = x[at];
#ifdef PLANTED
    y[BID * 64 + TID] = x[at + 1] == v ? 0 : v;
#else
    y[BID * 64 + TID] = v;
#endif
}

KERNEL(global_write, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
#ifdef PLANTED
    if (BID == 2 && TID == 63) y[BID * 64 + TID + 1] = 0;
#endif
}

KERNEL(write_before, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
#ifdef PLANTED
    if (BID == 0 && TID == 0) y[BID * 64 + TID - 1] = 0;
#endif
}

KERNEL(shared_read, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
    SYNC();
    uint32_t v = s[63 - TID];
#ifdef PLANTED
    if (s[64 - TID] == v) v = 0;
#endif
    y[BID * 64 + TID] = v;
}

KERNEL(shared_write_before, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifdef PLANTED
    if (TID == 0) s[TID - 1] = 0;
#endif
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(dynamic_shared_read, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    DYNAMIC_SHARED(bytes);
    uint32_t *s = (uint32_t *)bytes;
    s[TID] = x[BID * 64 + TID];
    SYNC();
    uint32_t v = s[63 - TID];
#ifdef PLANTED
    if (s[64 - TID] == v) v = 0;
#endif
    y[BID * 64 + TID] = v;
}

KERNEL(divergent_barrier, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifdef PLANTED
    if (TID < 32) SYNC();
#else
    SYNC();
#endif
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(early_return, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifdef PLANTED
    if (TID == 40) {
        y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
        return;
    }
#endif
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(two_barriers, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    s[TID] = x[BID * 64 + TID];
#ifdef PLANTED
    if (TID < 32) {
        SYNC();
    } else {
        SYNC();
    }
#else
    SYNC();
#endif
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(missing_lane, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    int32_t v = (int32_t)x[BID * 64 + (TID ^ 32)];
#ifdef PLANTED
    if (TID % 32 == 31) {
        y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
        return;
    }
#endif
    v = shfl_i32(v, 31 - TID % 32);
    y[BID * 64 + TID] = (uint32_t)v;
}

KERNEL(different_operations, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    int32_t v = (int32_t)x[BID * 64 + (TID ^ 32)];
#ifdef PLANTED
    if (TID & 1)
        v = shfl_i32(v, 31 - TID % 32);
    else
#endif
        v = shfl_xor_i32(v, 31);
    y[BID * 64 + TID] = (uint32_t)v;
}

KERNEL(copy_without_wait, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    if (TID < 16) cp_async16(s + 4 * TID, x + BID * 64 + 4 * TID, 1);
    cp_async_commit();
#ifndef PLANTED
    cp_async_wait(0);
#endif
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(copy_waits_for_too_few, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    for (int i = 0; i < 2; i++) {
        if (TID < 8) cp_async16(s + 32 * i + 4 * TID, x + BID * 64 + 32 * i + 4 * TID, 1);
        cp_async_commit();
    }
#ifdef PLANTED
    cp_async_wait(1);
#else
    cp_async_wait(0);
#endif
    SYNC();
    y[BID * 64 + TID] = s[63 - TID];
}

KERNEL(copy_without_barrier, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    if (TID < 16) cp_async16(s + 4 * TID, x + BID * 64 + 4 * TID, 1);
    cp_async_commit();
    cp_async_wait(0);
#ifndef PLANTED
    SYNC();
#endif
    y[BID * 64 + TID] = s[63 - TID];
}

/* The second copy may land while others still read the first. */
KERNEL(copy_over_what_is_read, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 64);
    if (TID < 16) cp_async16(s + 4 * TID, x + BID * 64 + 4 * TID, 1);
    cp_async_commit();
    cp_async_wait(0);
    SYNC();
#ifdef PLANTED
    if (TID < 16) cp_async16(s + 4 * TID, x + BID * 64 + 4 * TID, 0);
    cp_async_commit();
#endif
    y[BID * 64 + TID] = s[63 - TID];
    SYNC();
    cp_async_wait(0);
}

KERNEL(misaligned_load, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    uint32_t r[4];
#ifdef PLANTED
    if (TID == 17) {
        load16(r, x + BID * 64 + 63 - TID - 1);
        y[BID * 64 + TID] = r[1];
        return;
    }
#endif
    load16(r, x + BID * 64 + (63 - TID) / 4 * 4);
    y[BID * 64 + TID] = r[(63 - TID) % 4];
}

KERNEL(misaligned_word, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
#ifdef PLANTED
    uint32_t lo = *(const uint32_t *)((const char *)(x + BID * 64 + 63 - TID) - (TID == 9 ? 2 : 0));
    y[BID * 64 + TID] = TID == 9 ? x[BID * 64 + 63 - TID] | (lo & 0) : lo;
#else
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
#endif
}

KERNEL(misaligned_copy, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 72);
#ifdef PLANTED
    const int shift = 2;
#else
    const int shift = 4;
#endif
    if (TID < 16) cp_async16(s + shift + 4 * TID, x + BID * 64 + 4 * TID, 1);
    cp_async_commit();
    cp_async_wait(0);
    SYNC();
    y[BID * 64 + TID] = s[shift + 63 - TID];
}

/* Rows of 16 bytes, through ldmatrix: row i / 4 of matrix m is row 8 m + i / 4 of s. */
KERNEL(matrix_from_global, 2, 32) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 128);
    uint32_t r[4];
    for (int i = 0; i < 2; i++) s[2 * TID + i] = x[BID * 64 + 2 * TID + i];
    for (int i = 0; i < 2; i++) s[64 + 2 * TID + i] = 0;
    SYNC();
#ifdef PLANTED
    ldmatrix_x4(r, x + 4 * (TID % 16));
#else
    ldmatrix_x4(r, s + 4 * TID);
#endif
    for (int m = 0; m < 2; m++) y[BID * 64 + 63 - (32 * m + TID)] = r[m];
}

KERNEL(missing_matrix_sync, 2, 32) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    SHARED(uint32_t, s, 128);
    uint32_t r[4];
    load16(r, x + BID * 64 + TID % 16 * 4);
    store16(s + 4 * TID, r);
#ifndef PLANTED
    WARP_SYNC();
#endif
    ldmatrix_x4(r, s + 4 * TID);
    for (int m = 0; m < 2; m++) y[BID * 64 + 63 - (32 * m + TID)] = r[m];
}

KERNEL(array_index, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
    uint32_t part[4];
#ifdef PLANTED
    const int most = 4;
#else
    const int most = 3;
#endif
    for (int i = 0; i < 4; i++) part[i] = x[BID * 64 + (63 - TID) / 4 * 4 + i];
    int at = (63 - TID) % 4;
    if (TID == 60 && BID >= 0) at = most;
    y[BID * 64 + TID] = part[at];
}

KERNEL(argument_index, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
#ifdef PLANTED
    uint32_t *y = (uint32_t *)ARG(2);
#else
    uint32_t *y = (uint32_t *)ARG(1);
#endif
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID];
}

KERNEL(division_by_zero, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
#ifdef PLANTED
    uint32_t one = x[BID * 64 + TID] / (uint32_t)TID;
#else
    uint32_t one = x[BID * 64 + TID] / (uint32_t)(TID + 1);
#endif
    y[BID * 64 + TID] = x[BID * 64 + 63 - TID] + (one == 0xffffffffu);
}

KERNEL(stack, 2, 64) {
    const uint32_t *x = (const uint32_t *)ARG(0);
    uint32_t *y = (uint32_t *)ARG(1);
#ifdef PLANTED
    volatile uint32_t local[1 << 20];
#else
    volatile uint32_t local[64];
#endif
    for (int i = 0; i < 64; i++) local[i] = x[BID * 64 + i];
    y[BID * 64 + TID] = local[63 - TID];
}

/* y[16 x 8] = a b: a of 16 x 16 bf16 in rows, b of 8 x 16 in rows (the columns of the product). */
KERNEL(product, 2, 32) {
    const uint16_t *a = (const uint16_t *)ARG(0), *b = a + 256;
    float *y = (float *)ARG(1);
    int32_t g = TID / 4, k = TID % 4 * 2;
    uint32_t ra[4], rb[2];
    float c[4] = {0, 0, 0, 0};
    load4(&ra[0], a + g * 16 + k);
#ifdef PLANTED
    load4(&ra[2], a + (g + 8) * 16 + k);
    load4(&ra[1], a + g * 16 + k + 8);
#else
    load4(&ra[1], a + (g + 8) * 16 + k);
    load4(&ra[2], a + g * 16 + k + 8);
#endif
    load4(&ra[3], a + (g + 8) * 16 + k + 8);
    load4(&rb[0], b + g * 16 + k);
    load4(&rb[1], b + g * 16 + k + 8);
    mma_bf16(c, ra, rb);
    y[g * 8 + k] = c[0], y[g * 8 + k + 1] = c[1];
    y[(g + 8) * 8 + k] = c[2], y[(g + 8) * 8 + k + 1] = c[3];
}
