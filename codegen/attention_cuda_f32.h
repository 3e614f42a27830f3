/* attention_cuda_f32.h: both passes with f32 or f64 storage, after attention_cuda.h: products by
 * FMA, in f32, from tiles of f32 in shared memory, one stage. A warp has ATT_M rows, a lane one
 * column of scores and every 32nd column of results. Rows of a tile lie an odd number of 16 bytes
 * apart, so that a column of chunks meets different banks. */

/* Two numbers of each query in shared memory: log-sum-exp in base 2, and delta. */
typedef float ATT_NAME(Stat)[2];

typedef float ATT_NAME(Sums)[ATT_M][ATT_PARTS]; /* of the warp's rows; columns lane + 32 i */

/* Rows first .. first + rows - 1 of x into a tile; zeros around. */
INLINE void ATT_NAME(load)(float *tile, const ATT_TYPE *x, int32_t first, int32_t length,
                           int32_t rows) {
    for (int32_t i = TID; i < rows * ATT_PARTS * 32; i += ATT_THREADS) {
        const int32_t r = i / (ATT_PARTS * 32), c = i % (ATT_PARTS * 32);
        const int inside = first + r < length && c < ATT_D;
        tile[r * ATT_LD * 4 + c] = inside ? (float)x[(int64_t)(first + r) * ATT_STEP + c] : 0.0f;
    }
}

/* s[m] = row m of x times the lane's row of y. */
INLINE void ATT_NAME(scores)(float *s, const float *x, const float *y) {
    y += (TID & 31) * ATT_LD * 4;
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) s[m] = 0;
    for (int32_t c = 0; c < ATT_D; c += 4) {
        uint32_t a[4], b[4];
        load16(b, y + c);
        ATT_UNROLL
        for (int m = 0; m < ATT_M; m++) {
            load16(a, x + m * ATT_LD * 4 + c);
            ATT_UNROLL
            for (int i = 0; i < 4; i++) s[m] += bits_f32(a[i]) * bits_f32(b[i]);
        }
    }
}

/* o += p y, p by way of `stage`, the warp's own. */
INLINE void ATT_NAME(accumulate)(float (*o)[ATT_PARTS], const float *p, const float *y,
                                 float *stage) {
    const int32_t lane = TID & 31;
    WARP_SYNC();
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) stage[m * 32 + lane] = p[m];
    WARP_SYNC();
    for (int32_t k = 0; k < 32; k += 4) {
        uint32_t a[ATT_M][4];
        ATT_UNROLL
        for (int m = 0; m < ATT_M; m++) load16(a[m], stage + m * 32 + k);
        ATT_UNROLL
        for (int n = 0; n < 4 * ATT_PARTS; n++) {
            const float b = y[(k + n / ATT_PARTS) * ATT_LD * 4 + n % ATT_PARTS * 32 + lane];
            ATT_UNROLL
            for (int m = 0; m < ATT_M; m++)
                o[m][n % ATT_PARTS] += bits_f32(a[m][n / ATT_PARTS]) * b;
        }
    }
}

/* Sums times scale[m] become the warp's rows, those of x from t on. */
INLINE void ATT_NAME(store)(float (*o)[ATT_PARTS], const float *scale, ATT_TYPE *x, int32_t t,
                            int32_t length) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < ATT_PARTS; i++) {
            const int32_t c = i * 32 + (TID & 31);
            if (t + m < length && c < ATT_D)
                x[(int64_t)(t + m) * ATT_STEP + c] = (ATT_TYPE)(o[m][i] * scale[m]);
        }
    }
}

INLINE void ATT_NAME(clear)(float (*o)[ATT_PARTS]) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < ATT_PARTS; i++) o[m][i] = 0;
    }
}

INLINE float ATT_NAME(row_sum)(float x) {
    ATT_UNROLL
    for (int m = 1; m < 32; m *= 2) x += shfl_xor_f32(x, m);
    return x;
}

#if !ATT_BACKWARD

INLINE float ATT_NAME(row_top)(float x) {
    ATT_UNROLL
    for (int m = 1; m < 32; m *= 2) x = ATT_LARGER(x, shfl_xor_f32(x, m));
    return x;
}

/* Scores of the warp's rows, queries from t on, and the lane's key become exp(scale (x - top)), top
 * being the running one; o and the lane's share of the sum are rescaled when it grows. */
INLINE void ATT_NAME(softmax)(float *x, float (*o)[ATT_PARTS], float *top, float *sum, int32_t t,
                              int32_t s) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        const float score = s + (TID & 31) < ATT_NAME(seen)(t + m) ? x[m] : ATT_NEVER;
        const float most = ATT_LARGER(top[m], ATT_NAME(row_top)(score));
        const float old = exp2_fast((top[m] - most) * ATT_BASE2);
        x[m] = exp2_fast((score - most) * ATT_BASE2);
        sum[m] = sum[m] * old + x[m];
        top[m] = most;
        ATT_UNROLL
        for (int i = 0; i < ATT_PARTS; i++) o[m][i] *= old;
    }
}

INLINE void ATT_NAME(finish)(const ATT_NAME(Queries) * a, float (*o)[ATT_PARTS], const float *top,
                             const float *sum, int32_t t) {
    float scale[ATT_M];
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        const float total = ATT_NAME(row_sum)(sum[m]);
        scale[m] = 1 / total;
        if (a->lse && (TID & 31) == 0 && t + m < ATT_T)
            a->lse[t + m] = top[m] * ATT_SCALE + logf(total);
    }
    ATT_NAME(store)(o, scale, a->o, t, ATT_T);
}

INLINE void ATT_NAME(run_forward)(const ATT_NAME(Queries) * a) {
    float *const q = (float *)a->shared, *const k = q + ATT_ROWS * ATT_LD * 4,
                 *const v = k + ATT_COLS * ATT_LD * 4, *const stage = v + ATT_COLS * ATT_LD * 4;
    const int32_t row = TID / 32 * ATT_M;
    ATT_NAME(Sums) o;
    float top[ATT_M], sum[ATT_M], x[ATT_M];
    ATT_NAME(clear)(o);
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) top[m] = ATT_NEVER, sum[m] = 0;
    ATT_NAME(load)(q, a->q, a->t, ATT_T, ATT_ROWS);
    for (int32_t s = 0; s < a->end; s += ATT_COLS) {
        SYNC();
        ATT_NAME(load)(k, a->k, s, ATT_S, ATT_COLS);
        ATT_NAME(load)(v, a->v, s, ATT_S, ATT_COLS);
        SYNC();
        ATT_NAME(scores)(x, q + row * ATT_LD * 4, k);
        ATT_NAME(softmax)(x, o, top, sum, a->t + row, s);
        ATT_NAME(accumulate)(o, x, v, stage + row * 32);
    }
    ATT_NAME(finish)(a, o, top, sum, a->t + row);
}

#else

/* The two numbers of the queries of a tile of g, by warps in turn; there after SYNC. */
INLINE void ATT_NAME(put_stat)(const ATT_NAME(Side) * a, ATT_NAME(Stat) * stat, const float *g,
                               int32_t t, int32_t rows) {
    for (int32_t r = TID / 32; r < rows; r += ATT_THREADS / 32) {
        const int inside = t + r < ATT_T;
        float delta = 0;
        for (int32_t c = TID & 31; inside && c < ATT_D; c += 32)
            delta += g[r * ATT_LD * 4 + c] * (float)a->o[(int64_t)(t + r) * ATT_STEP + c];
        delta = ATT_NAME(row_sum)(delta);
        if ((TID & 31) == 0) {
            stat[r][0] = inside ? (float)a->lse[t + r] * 1.44269504f : 0;
            stat[r][1] = delta;
        }
    }
}

/* Scores become p, products of gradients become ds. The warp's rows are those from `row` on. */
INLINE void ATT_NAME(softmax_grad)(const ATT_NAME(Side) * a, ATT_NAME(Stat) * stat, float *p,
                                   float *ds, int32_t row, int32_t first) {
    const int32_t lane = TID & 31;
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        const int32_t own = a->x_first + row + m, other = first + lane;
        const int32_t query = a->keys ? other : own, key = a->keys ? own : other;
        const float *of_query = stat[a->keys ? lane : row + m];
        const int seen = key < ATT_NAME(seen)(query);
        p[m] = seen ? exp2_fast(p[m] * ATT_BASE2 - of_query[0]) : 0;
        ds[m] = p[m] * (ds[m] - of_query[1]);
    }
}

INLINE void ATT_NAME(run_backward)(const ATT_NAME(Side) * a) {
    enum { X = ATT_ROWS * ATT_LD * 4, Y = ATT_COLS * ATT_LD * 4 };
    float *const x = (float *)a->shared, *const y = x + 2 * X, *const stage = y + 2 * Y;
    ATT_NAME(Stat) *const stat = (ATT_NAME(Stat) *)(stage + ATT_ROWS * 32);
    const int32_t row = TID / 32 * ATT_M, at = row * ATT_LD * 4, t = a->x_first + row;
    ATT_NAME(Sums) d0, d1;
    float p[ATT_M], ds[ATT_M], scale[ATT_M], one[ATT_M];
    ATT_NAME(clear)(d0);
    ATT_NAME(clear)(d1);
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) scale[m] = ATT_SCALE, one[m] = 1;
    ATT_UNROLL
    for (int i = 0; i < 2; i++)
        ATT_NAME(load)(x + i * X, a->x[i], a->x_first, a->x_length, ATT_ROWS);
    SYNC();
    if (!a->keys) ATT_NAME(put_stat)(a, stat, x + X, a->x_first, ATT_ROWS);
    for (int32_t first = a->begin; first < a->end; first += ATT_COLS) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++)
            ATT_NAME(load)(y + i * Y, a->y[i], first, a->y_length, ATT_COLS);
        SYNC();
        if (a->keys) ATT_NAME(put_stat)(a, stat, y + Y, first, ATT_COLS);
        ATT_NAME(scores)(p, x + at, y);
        ATT_NAME(scores)(ds, x + X + at, y + Y);
        SYNC();
        ATT_NAME(softmax_grad)(a, stat, p, ds, row, first);
        if (a->want[1]) ATT_NAME(accumulate)(d1, p, y + Y, stage + row * 32);
        if (a->want[0]) ATT_NAME(accumulate)(d0, ds, y, stage + row * 32);
        SYNC();
    }
    if (a->d[0]) ATT_NAME(store)(d0, scale, a->d[0], t, a->x_length);
    if (a->d[1]) ATT_NAME(store)(d1, one, a->d[1], t, a->x_length);
}

#endif
