/* attention_cuda_grad.h: the backward pass, after attention_cuda_mma.h. Tiles of y are fetched one
 * ahead, the operand o of delta while products are computed. */

/* Two numbers of each query in shared memory: log-sum-exp in base 2, and delta. */
typedef float ATT_NAME(Stat)[2];

/* A chunk of 8 elements of row t; zeros outside. */
INLINE void ATT_NAME(read)(uint32_t *chunk, const uint16_t *x, int32_t t, int32_t length,
                           int32_t c) {
    const uint16_t *from = x + (int64_t)t * ATT_STEP + c * 8;
    chunk[0] = chunk[1] = chunk[2] = chunk[3] = 0;
#if ATT_WIDE
    if (t < length && c * 8 < ATT_D) load16(chunk, from);
#else
    for (int j = 0; j < 8; j++)
        if (t < length && c * 8 + j < ATT_D) chunk[j / 2] |= (uint32_t)from[j] << j % 2 * 16;
#endif
}

INLINE float ATT_NAME(dot)(const uint32_t *a, const uint32_t *b) {
    float sum = 0;
    ATT_UNROLL
    for (int i = 0; i < 4; i++) {
        sum += ATT_F32((uint16_t)a[i]) * ATT_F32((uint16_t)b[i]);
        sum += ATT_F32((uint16_t)(a[i] >> 16)) * ATT_F32((uint16_t)(b[i] >> 16));
    }
    return sum;
}

/* What a thread reads ahead of the queries t .. t + rows - 1 of a tile: neighbouring lanes share a
 * row. */
#define ATT_LANES(rows) (ATT_THREADS / (rows))
#define ATT_SHARE(rows) ((ATT_CHUNKS + ATT_LANES(rows) - 1) / ATT_LANES(rows))
typedef struct {
    uint32_t o[ATT_SHARE(ATT_ROWS > ATT_COLS ? ATT_ROWS : ATT_COLS)][4];
    float lse;
} ATT_NAME(Ahead);

INLINE void ATT_NAME(read_ahead)(ATT_NAME(Ahead) * a, const uint16_t *o, const float *lse,
                                 int32_t t, int32_t rows) {
    const int32_t lanes = ATT_LANES(rows), at = t + TID / lanes;
    ATT_UNROLL
    for (int i = 0; i < ATT_SHARE(rows); i++)
        ATT_NAME(read)(a->o[i], o, at, ATT_T, TID % lanes + i * lanes);
    a->lse = at < ATT_T ? lse[at] * 1.44269504f : 0;
}

/* With the tile of g it becomes the rows' two numbers; there after SYNC. */
INLINE void ATT_NAME(put_stat)(const ATT_NAME(Ahead) * a, ATT_NAME(Stat) * stat, const char *tile,
                               int32_t rows) {
    const int32_t lanes = ATT_LANES(rows), row = TID / lanes;
    float delta = 0;
    ATT_UNROLL
    for (int i = 0; i < ATT_SHARE(rows); i++) {
        const int32_t c = TID % lanes + i * lanes;
        uint32_t g[4];
        load16(g, tile + ATT_NAME(at)(row, c < ATT_CHUNKS ? c : 0));
        if (c < ATT_CHUNKS) delta += ATT_NAME(dot)(a->o[i], g);
    }
    ATT_UNROLL
    for (int m = 1; m < lanes; m *= 2) delta += shfl_xor_f32(delta, m);
    if (TID % lanes == 0) stat[row][0] = a->lse, stat[row][1] = delta;
}

/* As hide, with keys from s on as rows and queries from t on as columns. */
INLINE void ATT_NAME(hide_columns)(float (*x)[ATT_COLS / 8][4], int32_t s, int32_t t) {
    const int32_t lane = TID & 31;
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            const int32_t n = ATT_NAME(first)(s + m * 16 + i * 8 + lane / 4) - t - lane % 4 * 2;
            ATT_UNROLL
            for (int c = 0; c < ATT_COLS / 8; c++) {
                if (c * 8 < n) x[m][c][2 * i] = ATT_NEVER;
                if (c * 8 + 1 < n) x[m][c][2 * i + 1] = ATT_NEVER;
            }
        }
    }
}

/* ---- shared memory: tiles of x, pairs of tiles of y, and what is known of queries ---- */

INLINE char *ATT_NAME(tile_x)(const ATT_NAME(Side) * a, int i) {
    return a->shared + i * ATT_ROWS * ATT_LD * 16;
}
INLINE char *ATT_NAME(tile_y)(const ATT_NAME(Side) * a, int i, int32_t which) {
    return ATT_NAME(tile_x)(a, 2) + (2 * i + which) * (ATT_COLS * ATT_LD * 16);
}
INLINE ATT_NAME(Stat) * ATT_NAME(stat)(const ATT_NAME(Side) * a) {
    return (ATT_NAME(Stat) *)ATT_NAME(tile_y)(a, 2, 0);
}

INLINE void ATT_NAME(load_y)(const ATT_NAME(Side) * a, int32_t first, int32_t which) {
    ATT_NAME(load)(ATT_NAME(tile_y)(a, 0, which), a->y[0], first, a->y_length, ATT_COLS);
    ATT_NAME(load)(ATT_NAME(tile_y)(a, 1, which), a->y[1], first, a->y_length, ATT_COLS);
    cp_async_commit();
}

/* ---- what a warp has of its rows ---- */

typedef struct {
    ATT_NAME(Sums) d[2];
    uint32_t x[2][ATT_CHUNKS / 2][ATT_M][4]; /* left operands, as many as `held` says */
} ATT_NAME(Rows);

/* How many operands x are held in registers: queries have but one sum there. */
INLINE int ATT_NAME(held)(const ATT_NAME(Side) * a) {
    if (!ATT_HELD) return 0;
    return a->keys ? ATT_M == 1 : 2;
}

/* The block loads x and the first tiles of y; what is known of the queries if they are the rows. */
INLINE void ATT_NAME(load_x)(const ATT_NAME(Side) * a, ATT_NAME(Rows) * w, int32_t row) {
    ATT_NAME(Ahead) ahead;
    ATT_UNROLL
    for (int i = 0; i < 2; i++)
        ATT_NAME(load)(ATT_NAME(tile_x)(a, i), a->x[i], a->x_first, a->x_length, ATT_ROWS);
    cp_async_commit();
    ATT_NAME(load_y)(a, a->begin, 0);
    if (!a->keys) ATT_NAME(read_ahead)(&ahead, a->o, a->lse, a->x_first, ATT_ROWS);
    cp_async_wait(1);
    SYNC();
    if (!a->keys) ATT_NAME(put_stat)(&ahead, ATT_NAME(stat)(a), ATT_NAME(tile_x)(a, 1), ATT_ROWS);
    ATT_UNROLL
    for (int i = 0; i < ATT_NAME(held)(a); i++) {
        ATT_UNROLL
        for (int c = 0; c < ATT_CHUNKS; c += 2)
            ATT_NAME(left_rows)(w->x[i][c / 2], ATT_NAME(tile_x)(a, i), row, c);
    }
}

INLINE void ATT_NAME(clear)(ATT_NAME(Rows) * w) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < ATT_CHUNKS * 4; i++)
            w->d[0][m][i / 4][i % 4] = w->d[1][m][i / 4][i % 4] = 0;
    }
}

/* Sums times scale become result i, by way of the tile of x. */
INLINE void ATT_NAME(finish)(const ATT_NAME(Side) * a, ATT_NAME(Rows) * w, int i, float scale,
                             int32_t row) {
    float scales[ATT_M][2];
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) scales[m][0] = scales[m][1] = scale;
    if (a->want[i] && a->d[i]) ATT_NAME(store)
    (w->d[i], scales, ATT_NAME(tile_x)(a, i), row, a->d[i], a->x_first, a->x_length);
}

/* ---- one side of one (batch, head) ---- */

/* Scores become p, products of gradients become ds. */
INLINE void ATT_NAME(softmax_grad)(const ATT_NAME(Side) * a, float (*p)[ATT_COLS / 8][4],
                                   float (*ds)[ATT_COLS / 8][4], int32_t row) {
    const int32_t lane = TID & 31;
    const ATT_NAME(Stat) *const stat = ATT_NAME(stat)(a);
    uint32_t of_row[ATT_M][2][2], of_column[4];
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++)
            if (!a->keys) load8(of_row[m][i], stat[row + m * 16 + i * 8 + lane / 4]);
    }
    ATT_UNROLL
    for (int c = 0; c < ATT_COLS / 8; c++) {
        if (a->keys) load16(of_column, stat[c * 8 + lane % 4 * 2]);
        ATT_UNROLL
        for (int m = 0; m < ATT_M; m++) {
            ATT_UNROLL
            for (int e = 0; e < 4; e++) {
                const uint32_t *q = a->keys ? of_column + e % 2 * 2 : of_row[m][e / 2];
                p[m][c][e] = exp2_fast(p[m][c][e] * ATT_BASE2 - bits_f32(q[0]));
                if (a->want[0]) ds[m][c][e] = p[m][c][e] * (ds[m][c][e] - bits_f32(q[1]));
            }
        }
    }
}

/* Product i of the warp's rows with tile `which` of y. */
INLINE void ATT_NAME(product)(const ATT_NAME(Side) * a, ATT_NAME(Rows) * w, int i, int32_t which,
                              int32_t row, float (*s)[ATT_COLS / 8][4]) {
    ATT_NAME(scores)
    (s, i < ATT_NAME(held)(a) ? w->x[i] : 0, ATT_NAME(tile_x)(a, i), row,
     ATT_NAME(tile_y)(a, i, which));
}

/* The warp's rows meet the tiles of y from `first` on, `which` of their pairs. */
INLINE void ATT_NAME(meet)(const ATT_NAME(Side) * a, ATT_NAME(Rows) * w, int32_t first,
                           int32_t which, int32_t row) {
    const char *const y0 = ATT_NAME(tile_y)(a, 0, which), *const y1 = ATT_NAME(tile_y)(a, 1, which);
    ATT_NAME(Scores) p, ds;
    ATT_NAME(Ahead) ahead;
    if (a->keys) ATT_NAME(read_ahead)(&ahead, a->o, a->lse, first, ATT_COLS);
    ATT_NAME(product)(a, w, 0, which, row, p);
    if (a->want[0]) ATT_NAME(product)(a, w, 1, which, row, ds);
    if (a->keys && first < a->all) ATT_NAME(hide_columns)(p, a->x_first + row, first);
    if (!a->keys && first + ATT_COLS > a->all) ATT_NAME(hide)(p, a->x_first + row, first);
    if (a->keys) {
        ATT_NAME(put_stat)(&ahead, ATT_NAME(stat)(a), y1, ATT_COLS);
        SYNC();
    }
    ATT_NAME(softmax_grad)(a, p, ds, row);
    if (a->want[1]) ATT_NAME(accumulate)(w->d[1], p, y1);
    if (a->want[0]) ATT_NAME(accumulate)(w->d[0], ds, y0);
}

INLINE void ATT_NAME(run_backward)(const ATT_NAME(Side) * a) {
    const int32_t row = TID / 32 * (ATT_M * 16);
    ATT_NAME(Rows) w;
    int32_t which = 0;
    ATT_NAME(clear)(&w);
    if (a->begin < a->end) ATT_NAME(load_x)(a, &w, row); /* else nobody sees these keys */
    for (int32_t first = a->begin; first < a->end; first += ATT_COLS, which ^= 1) {
        cp_async_wait(0);
        SYNC(); /* the tiles are there; nobody reads those before any more */
        if (first + ATT_COLS < a->end) ATT_NAME(load_y)(a, first + ATT_COLS, which ^ 1);
        ATT_NAME(meet)(a, &w, first, which, row);
    }
    ATT_NAME(finish)(a, &w, 0, ATT_SCALE, row);
    ATT_NAME(finish)(a, &w, 1, 1, row);
}

#undef ATT_LANES
#undef ATT_SHARE
