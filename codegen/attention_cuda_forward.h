/* attention_cuda_forward.h: the forward pass, after attention_cuda.h.
 *
 * K and V have one tile each in shared memory, and each is fetched while the other is worked on
 * (cp.async): V during q k', the next K during the softmax and p v. */

/* The four lanes of a row together. */
INLINE float ATT_NAME(row_top)(float x) {
    x = ATT_LARGER(x, shfl_xor_f32(x, 1));
    return ATT_LARGER(x, shfl_xor_f32(x, 2));
}
INLINE float ATT_NAME(row_sum)(float x) {
    x += shfl_xor_f32(x, 1);
    return x + shfl_xor_f32(x, 2);
}

/* Elements i and i + 1 of each part, one row of a tile: scores x become exp(scale (x - top)), top
 * being the running one; o and the lane's share of the sum are rescaled when it grows. */
INLINE void ATT_NAME(softmax_row)(float (*x)[4], float (*o)[4], int i, float *top, float *sum) {
    float most = *top, total = 0;
#pragma unroll
    for (int c = 0; c < ATT_COLS / 8; c++)
        most = ATT_LARGER(most, ATT_LARGER(x[c][i], x[c][i + 1]));
    most = ATT_NAME(row_top)(most);
    const float old = exp2_fast((*top - most) * ATT_BASE2), shift = most * ATT_BASE2;
#pragma unroll
    for (int c = 0; c < ATT_COLS / 8; c++) {
        x[c][i] = exp2_fast(x[c][i] * ATT_BASE2 - shift);
        x[c][i + 1] = exp2_fast(x[c][i + 1] * ATT_BASE2 - shift);
        total += x[c][i] + x[c][i + 1];
    }
#pragma unroll
    for (int c = 0; c < ATT_CHUNKS; c++) o[c][i] *= old, o[c][i + 1] *= old;
    *sum = *sum * old + total;
    *top = most;
}

/* What a warp has of its rows: the running results. */
typedef struct {
    ATT_NAME(Sums) o;
    float top[ATT_M][2], sum[ATT_M][2]; /* of rows m * 16 + i * 8 + lane / 4 */
    uint32_t q[ATT_HELD ? ATT_CHUNKS / 2 : 1][ATT_M][4];
} ATT_NAME(Rows);

INLINE void ATT_NAME(start)(ATT_NAME(Rows) * w) {
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            w->top[m][i] = ATT_NEVER, w->sum[m][i] = 0;
#pragma unroll
            for (int c = 0; c < ATT_CHUNKS; c++) w->o[m][c][2 * i] = w->o[m][c][2 * i + 1] = 0;
        }
}

INLINE void ATT_NAME(softmax)(ATT_NAME(Rows) * w, float (*x)[ATT_COLS / 8][4]) {
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            ATT_NAME(softmax_row)(x[m], w->o[m], 2 * i, &w->top[m][i], &w->sum[m][i]);
}

/* Results of the warp's rows, which are those from t + row on. */
INLINE void ATT_NAME(finish)(ATT_NAME(Rows) * w, char *tile, int32_t row, uint16_t *o, float *lse,
                             int32_t t) {
    const int32_t lane = TID & 31;
    float scale[ATT_M][2];
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float sum = ATT_NAME(row_sum)(w->sum[m][i]);
            const int32_t at = t + row + m * 16 + i * 8 + lane / 4;
            scale[m][i] = 1 / sum;
            if (lse && lane % 4 == 0 && at < ATT_T) lse[at] = w->top[m][i] * ATT_SCALE + logf(sum);
        }
    ATT_NAME(store)(w->o, scale, tile, row, o, t, ATT_T);
}

/* Queries from t on of one (batch, head). */
INLINE void ATT_NAME(queries)(char *shared, int32_t t, const uint16_t *q, const uint16_t *k,
                              const uint16_t *v, uint16_t *o, float *lse) {
    char *const qt = shared, *const kt = qt + ATT_ROWS * ATT_LD * 16,
                *const vt = kt + ATT_COLS * ATT_LD * 16;
    const int32_t row = TID / 32 * (ATT_M * 16), last = t + ATT_ROWS < ATT_T ? t + ATT_ROWS : ATT_T;
    const int32_t all = ATT_NAME(seen)(t),
                  end = ATT_NAME(seen)(last - 1); /* keys seen by all, any */
    ATT_NAME(Rows) w;
    ATT_NAME(start)(&w);
    ATT_NAME(load)(qt, q, t, ATT_T, ATT_ROWS);
    ATT_NAME(load)(kt, k, 0, ATT_S, ATT_COLS);
    cp_async_commit();
#if ATT_HELD
    cp_async_wait(0);
    SYNC();
#pragma unroll
    for (int c = 0; c < ATT_CHUNKS; c += 2) ATT_NAME(left_rows)(w.q[c / 2], qt, row, c);
#endif
    for (int32_t s = 0; s < end; s += ATT_COLS) {
        ATT_NAME(Scores) x;
        cp_async_wait(0);
        SYNC(); /* K is there; nobody reads V any more */
        ATT_NAME(load)(vt, v, s, ATT_S, ATT_COLS);
        cp_async_commit();
        ATT_NAME(scores)(x, ATT_HELD ? w.q : 0, qt, row, kt);
        if (s + ATT_COLS > all) ATT_NAME(hide)(x, t + row, s);
        cp_async_wait(0);
        SYNC(); /* V is there; nobody reads K any more */
        if (s + ATT_COLS < end) ATT_NAME(load)(kt, k, s + ATT_COLS, ATT_S, ATT_COLS);
        cp_async_commit();
        ATT_NAME(softmax)(&w, x);
        ATT_NAME(accumulate)(w.o, x, vt);
    }
    ATT_NAME(finish)(&w, qt, row, o, lse, t);
}

/* A block: one tile of queries. The last ones see most keys of a causal mask and go first. */
INLINE void ATT_NAME(forward)(char *shared, const void *q, const void *k, const void *v, void *o,
                              void *lse) {
    const int32_t tiles = (ATT_T + ATT_ROWS - 1) / ATT_ROWS, head = BID / tiles;
    const int64_t of_q = ATT_NAME(offset)(head, ATT_T), of_k = ATT_NAME(offset)(head, ATT_S);
    ATT_NAME(queries)
    (shared, (tiles - 1 - BID % tiles) * ATT_ROWS, (const uint16_t *)q + of_q,
     (const uint16_t *)k + of_k, (const uint16_t *)v + of_k, (uint16_t *)o + of_q,
     lse ? (float *)lse + (int64_t)head * ATT_T : (float *)0);
}
