/* attention_cuda_forward.h: the forward pass, after attention_cuda_mma.h.
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

/* What a warp has of its rows: the running results. */
typedef struct {
    ATT_NAME(Sums) o;
    float top[ATT_M][2], sum[ATT_M][2]; /* of rows m * 16 + i * 8 + lane / 4 */
    uint32_t q[ATT_HELD ? ATT_CHUNKS / 2 : 1][ATT_M][4];
} ATT_NAME(Rows);

INLINE void ATT_NAME(start)(ATT_NAME(Rows) * w) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            w->top[m][i] = ATT_NEVER, w->sum[m][i] = 0;
            ATT_UNROLL
            for (int c = 0; c < ATT_CHUNKS; c++) w->o[m][c][2 * i] = w->o[m][c][2 * i + 1] = 0;
        }
    }
}

/* The largest of elements i and i + 1 of each part, one row of a tile, and of `top`. */
INLINE float ATT_NAME(row_most)(float (*x)[4], int i, float top) {
    ATT_UNROLL
    for (int c = 0; c < ATT_COLS / 8; c++) top = ATT_LARGER(top, ATT_LARGER(x[c][i], x[c][i + 1]));
    return ATT_NAME(row_top)(top);
}

/* They become exp(scale (x - top)); their sum. */
INLINE float ATT_NAME(row_exp)(float (*x)[4], int i, float top) {
    const float shift = top * ATT_BASE2;
    float sum = 0;
    ATT_UNROLL
    for (int c = 0; c < ATT_COLS / 8; c++) {
        x[c][i] = exp2_fast(x[c][i] * ATT_BASE2 - shift);
        x[c][i + 1] = exp2_fast(x[c][i + 1] * ATT_BASE2 - shift);
        sum += x[c][i] + x[c][i + 1];
    }
    return sum;
}

/* The row's results so far, relative to a new top. */
INLINE void ATT_NAME(row_rescale)(float (*o)[4], int i, float *sum, float *top, float most) {
    const float old = exp2_fast((*top - most) * ATT_BASE2);
    ATT_UNROLL
    for (int c = 0; c < ATT_CHUNKS; c++) o[c][i] *= old, o[c][i + 1] *= old;
    *sum *= old;
    *top = most;
}

/* Scores become exp(scale (x - top)) and are added to the sums. `top` need not be the largest score
 * so far: it only keeps numbers in range, so that it follows when it is 8 behind (in base 2), and
 * most tiles leave o as it is (FlashAttention-4 does so too). All lanes agree, for speed. */
INLINE void ATT_NAME(softmax)(ATT_NAME(Rows) * w, float (*x)[ATT_COLS / 8][4]) {
    float most[ATT_M][2];
    int behind = 0;
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            most[m][i] = ATT_NAME(row_most)(x[m], 2 * i, w->top[m][i]);
            behind |= (most[m][i] - w->top[m][i]) * ATT_BASE2 > 8;
        }
    }
    if (ballot(behind)) {
        ATT_UNROLL
        for (int m = 0; m < ATT_M; m++) {
            ATT_UNROLL
            for (int i = 0; i < 2; i++)
                ATT_NAME(row_rescale)(w->o[m], 2 * i, &w->sum[m][i], &w->top[m][i], most[m][i]);
        }
    }
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) w->sum[m][i] += ATT_NAME(row_exp)(x[m], 2 * i, w->top[m][i]);
    }
}

/* Results of the warp's rows, those of the block from `row` on. */
INLINE void ATT_NAME(finish)(const ATT_NAME(Queries) * a, ATT_NAME(Rows) * w, int32_t row) {
    const int32_t lane = TID & 31;
    float scale[ATT_M][2];
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            const float sum = ATT_NAME(row_sum)(w->sum[m][i]);
            const int32_t at = a->t + row + m * 16 + i * 8 + lane / 4;
            scale[m][i] = 1 / sum;
            if (a->lse && lane % 4 == 0 && at < ATT_T)
                a->lse[at] = w->top[m][i] * ATT_SCALE + logf(sum);
        }
    }
    ATT_NAME(store)(w->o, scale, a->shared, row, a->o, a->t, ATT_T);
}

INLINE void ATT_NAME(run_forward)(const ATT_NAME(Queries) * a) {
    char *const q = a->shared, *const k = q + ATT_ROWS * ATT_LD * 16,
                *const v = k + ATT_COLS * ATT_LD * 16;
    const int32_t row = TID / 32 * (ATT_M * 16);
    ATT_NAME(Rows) w;
    ATT_NAME(start)(&w);
    ATT_NAME(load)(q, a->q, a->t, ATT_T, ATT_ROWS);
    ATT_NAME(load)(k, a->k, 0, ATT_S, ATT_COLS);
    cp_async_commit();
#if ATT_HELD
    cp_async_wait(0);
    SYNC();
    ATT_UNROLL
    for (int c = 0; c < ATT_CHUNKS; c += 2) ATT_NAME(left_rows)(w.q[c / 2], q, row, c);
#endif
    for (int32_t s = 0; s < a->end; s += ATT_COLS) {
        ATT_NAME(Scores) x;
        cp_async_wait(0);
        SYNC(); /* K is there; nobody reads V any more */
        ATT_NAME(load)(v, a->v, s, ATT_S, ATT_COLS);
        cp_async_commit();
        ATT_NAME(scores)(x, ATT_HELD ? w.q : 0, q, row, k);
        if (s + ATT_COLS > a->all) ATT_NAME(hide)(x, a->t + row, s);
        cp_async_wait(0);
        SYNC(); /* V is there; nobody reads K any more */
        if (s + ATT_COLS < a->end) ATT_NAME(load)(k, a->k, s + ATT_COLS, ATT_S, ATT_COLS);
        cp_async_commit();
        ATT_NAME(softmax)(&w, x);
        ATT_NAME(accumulate)(w.o, x, v);
    }
    ATT_NAME(finish)(a, &w, row);
}
