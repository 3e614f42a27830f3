/* attention_cuda_grad.h: the backward pass, after attention_cuda.h, in one launch without atomics:
 * blocks of queries compute dq, blocks of keys dk and dv, and both compute the probabilities again
 * from the log-sum-exp of the forward pass (Dao et al. 2022).
 *
 * Both kinds do the same. A block owns rows x of two operands and meets tiles y of the other side,
 * which are fetched one ahead: queries own q and g (the gradient of o) and meet k and v, keys own k
 * and v and meet q and g. With scores x1 y1' (or their transpose) as probabilities p, and
 * ds = p (x2 y2' - delta), where delta = rowsum(g o): dq or dk is ds y1, dv is p y2. */

/* Rows of p and ds are keys, or queries. */
enum { ATT_NAME(OF_QUERIES), ATT_NAME(OF_KEYS) };

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
#pragma unroll
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
#pragma unroll
    for (int i = 0; i < ATT_SHARE(rows); i++)
        ATT_NAME(read)(a->o[i], o, at, ATT_T, TID % lanes + i * lanes);
    a->lse = at < ATT_T ? lse[at] * 1.44269504f : 0;
}

/* With the tile of g it becomes the rows' two numbers; there after SYNC. */
INLINE void ATT_NAME(put_stat)(const ATT_NAME(Ahead) * a, ATT_NAME(Stat) * stat, const char *tile,
                               int32_t rows) {
    const int32_t lanes = ATT_LANES(rows), row = TID / lanes;
    float delta = 0;
#pragma unroll
    for (int i = 0; i < ATT_SHARE(rows); i++) {
        const int32_t c = TID % lanes + i * lanes;
        uint32_t g[4];
        load16(g, tile + ATT_NAME(at)(row, c < ATT_CHUNKS ? c : 0));
        if (c < ATT_CHUNKS) delta += ATT_NAME(dot)(a->o[i], g);
    }
#pragma unroll
    for (int m = 1; m < lanes; m *= 2) delta += shfl_xor_f32(delta, m);
    if (TID % lanes == 0) stat[row][0] = a->lse, stat[row][1] = delta;
}

/* The first query that sees key s. */
INLINE int32_t ATT_NAME(first)(int32_t s) { return s < ATT_PREFIX ? 0 : s; }

/* As hide, with keys from s on as rows and queries from t on as columns. */
INLINE void ATT_NAME(hide_columns)(float (*x)[ATT_COLS / 8][4], int32_t s, int32_t t) {
    const int32_t lane = TID & 31;
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int32_t n = ATT_NAME(first)(s + m * 16 + i * 8 + lane / 4) - t - lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < ATT_COLS / 8; c++) {
                if (c * 8 < n) x[m][c][2 * i] = ATT_NEVER;
                if (c * 8 + 1 < n) x[m][c][2 * i + 1] = ATT_NEVER;
            }
        }
}

/* ---- one side of one (batch, head) ---- */

/* The work of a block. `keys`, `want1` and `want2` are constants to the compiler. */
typedef struct {
    int keys;         /* rows of p are keys, not queries */
    int want1, want2; /* which of d1 (dq or dk) and d2 (dv) are computed */
    const uint16_t *x1, *x2, *y1, *y2, *o;
    const float *lse;
    uint16_t *d1, *d2; /* NULL: not wanted after all */
    int32_t x0, x_length, y_length;
    int32_t begin, end; /* the part of y that these rows meet .. */
    int32_t all;        /* .. and all of them: queries from here on, or keys before */
    char *x1_tile, *x2_tile, *y1_tile, *y2_tile; /* y: two tiles each */
    ATT_NAME(Stat) * stat;
} ATT_NAME(Side);

INLINE void ATT_NAME(place)(ATT_NAME(Side) * a, char *shared) {
    const int32_t x = ATT_ROWS * ATT_LD * 16, y = 2 * ATT_COLS * ATT_LD * 16;
    a->x1_tile = shared, a->x2_tile = a->x1_tile + x;
    a->y1_tile = a->x2_tile + x, a->y2_tile = a->y1_tile + y;
    a->stat = (ATT_NAME(Stat) *)(a->y2_tile + y);
}

INLINE void ATT_NAME(load_y)(const ATT_NAME(Side) * a, int32_t y0, int32_t at) {
    ATT_NAME(load)(a->y1_tile + at, a->y1, y0, a->y_length, ATT_COLS);
    ATT_NAME(load)(a->y2_tile + at, a->y2, y0, a->y_length, ATT_COLS);
    cp_async_commit();
}

/* Both tiles of x, the first of y, and what is known of the queries if they are the rows. */
INLINE void ATT_NAME(load_x)(const ATT_NAME(Side) * a) {
    ATT_NAME(Ahead) ahead;
    ATT_NAME(load)(a->x1_tile, a->x1, a->x0, a->x_length, ATT_ROWS);
    ATT_NAME(load)(a->x2_tile, a->x2, a->x0, a->x_length, ATT_ROWS);
    cp_async_commit();
    ATT_NAME(load_y)(a, a->begin, 0);
    if (a->keys) return;
    ATT_NAME(read_ahead)(&ahead, a->o, a->lse, a->x0, ATT_ROWS);
    cp_async_wait(1);
    SYNC();
    ATT_NAME(put_stat)(&ahead, a->stat, a->x2_tile, ATT_ROWS);
}

/* Scores become p, products of gradients become ds. */
INLINE void ATT_NAME(softmax_grad)(const ATT_NAME(Side) * a, float (*p)[ATT_COLS / 8][4],
                                   float (*ds)[ATT_COLS / 8][4], int32_t row) {
    const int32_t lane = TID & 31;
    uint32_t of_row[ATT_M][2][2], of_column[4];
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (!a->keys) load8(of_row[m][i], a->stat[row + m * 16 + i * 8 + lane / 4]);
#pragma unroll
    for (int c = 0; c < ATT_COLS / 8; c++) {
        if (a->keys) load16(of_column, a->stat[c * 8 + lane % 4 * 2]);
#pragma unroll
        for (int m = 0; m < ATT_M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t *stat = a->keys ? of_column + e % 2 * 2 : of_row[m][e / 2];
                p[m][c][e] = exp2_fast(p[m][c][e] * ATT_BASE2 - bits_f32(stat[0]));
                if (a->want1) ds[m][c][e] = p[m][c][e] * (ds[m][c][e] - bits_f32(stat[1]));
            }
    }
}

/* The warp's rows meet the tile that lies at `at` in its pair. */
INLINE void ATT_NAME(meet)(const ATT_NAME(Side) * a, int32_t y0, int32_t at,
                           float (*d1)[ATT_CHUNKS][4], float (*d2)[ATT_CHUNKS][4]) {
    const int32_t row = TID / 32 * (ATT_M * 16);
    ATT_NAME(Scores) p, ds;
    ATT_NAME(Ahead) ahead;
    if (a->keys) ATT_NAME(read_ahead)(&ahead, a->o, a->lse, y0, ATT_COLS);
    ATT_NAME(scores)(p, 0, a->x1_tile, row, a->y1_tile + at);
    if (a->want1) ATT_NAME(scores)(ds, 0, a->x2_tile, row, a->y2_tile + at);
    if (a->keys && y0 < a->all) ATT_NAME(hide_columns)(p, a->x0 + row, y0);
    if (!a->keys && y0 + ATT_COLS > a->all) ATT_NAME(hide)(p, a->x0 + row, y0);
    if (a->keys) {
        ATT_NAME(put_stat)(&ahead, a->stat, a->y2_tile + at, ATT_COLS);
        SYNC();
    }
    ATT_NAME(softmax_grad)(a, p, ds, row);
    if (a->want2) ATT_NAME(accumulate)(d2, p, a->y2_tile + at);
    if (a->want1) ATT_NAME(accumulate)(d1, ds, a->y1_tile + at);
}

INLINE void ATT_NAME(store_gradient)(float (*d)[ATT_CHUNKS][4], float scale, char *tile,
                                     uint16_t *x, int32_t first, int32_t length) {
    float scales[ATT_M][2];
#pragma unroll
    for (int m = 0; m < ATT_M; m++) scales[m][0] = scales[m][1] = scale;
    if (x) ATT_NAME(store)(d, scales, tile, TID / 32 * (ATT_M * 16), x, first, length);
}

INLINE void ATT_NAME(clear)(float (*d)[ATT_CHUNKS][4]) {
#pragma unroll
    for (int m = 0; m < ATT_M; m++)
#pragma unroll
        for (int i = 0; i < ATT_CHUNKS * 4; i++) d[m][i / 4][i % 4] = 0;
}

INLINE void ATT_NAME(rows)(const ATT_NAME(Side) * a) {
    const int32_t tile = ATT_COLS * ATT_LD * 16;
    ATT_NAME(Sums) d1, d2;
    int32_t at = 0;
    ATT_NAME(clear)(d1);
    ATT_NAME(clear)(d2);
    ATT_NAME(load_x)(a);
    for (int32_t y0 = a->begin; y0 < a->end; y0 += ATT_COLS, at = tile - at) {
        cp_async_wait(0);
        SYNC(); /* the tile is there; nobody reads the one before any more */
        if (y0 + ATT_COLS < a->end) ATT_NAME(load_y)(a, y0 + ATT_COLS, tile - at);
        ATT_NAME(meet)(a, y0, at, d1, d2);
    }
    cp_async_wait(0);
    SYNC();
    if (a->want1) ATT_NAME(store_gradient)(d1, ATT_SCALE, a->x1_tile, a->d1, a->x0, a->x_length);
    if (a->want2) ATT_NAME(store_gradient)(d2, 1, a->x2_tile, a->d2, a->x0, a->x_length);
}

/* ---- blocks ---- */

/* Keys from s on, when x is k, v and y is q, g. */
INLINE void ATT_NAME(of_keys)(ATT_NAME(Side) a, int32_t s, int want1, int want2) {
    const int32_t last = s + ATT_ROWS < ATT_S ? s + ATT_ROWS - 1 : ATT_S - 1;
    a.keys = 1, a.want1 = want1, a.want2 = want2;
    a.x0 = s, a.x_length = ATT_S, a.y_length = ATT_T;
    a.begin = ATT_NAME(first)(s) / ATT_COLS * ATT_COLS, a.end = ATT_T;
    a.all = ATT_NAME(first)(last);
    ATT_NAME(rows)(&a);
}

/* Queries from t on. */
INLINE void ATT_NAME(of_queries)(ATT_NAME(Side) a, int32_t t) {
    const int32_t last = t + ATT_ROWS < ATT_T ? t + ATT_ROWS - 1 : ATT_T - 1;
    a.keys = 0, a.want1 = 1, a.want2 = 0;
    a.x0 = t, a.x_length = ATT_T, a.y_length = ATT_S;
    a.begin = 0, a.end = ATT_NAME(seen)(last);
    a.all = ATT_NAME(seen)(t);
    ATT_NAME(rows)(&a);
}

/* A block. With a causal mask the first keys and the last queries have most to do and go first.
 * When dk and dv do not fit into registers together, they are work of two blocks. */
INLINE void ATT_NAME(backward)(char *shared, const void *q, const void *k, const void *v,
                               const void *o, const void *lse, const void *g, void *dq, void *dk,
                               void *dv) {
    const int32_t keys = (ATT_S + ATT_ROWS - 1) / ATT_ROWS,
                  queries = (ATT_T + ATT_ROWS - 1) / ATT_ROWS;
    const int32_t parts = keys * (1 + ATT_SPLIT) + queries, head = BID / parts, i = BID % parts;
    const int64_t of_q = ATT_NAME(offset)(head, ATT_T), of_k = ATT_NAME(offset)(head, ATT_S);
    ATT_NAME(Side) x, y;
    ATT_NAME(place)(&x, shared);
    x.o = (const uint16_t *)o + of_q, x.lse = (const float *)lse + (int64_t)head * ATT_T;
    x.x1 = (const uint16_t *)k + of_k, x.x2 = (const uint16_t *)v + of_k;
    x.y1 = (const uint16_t *)q + of_q, x.y2 = (const uint16_t *)g + of_q;
    x.d1 = dk ? (uint16_t *)dk + of_k : 0, x.d2 = dv ? (uint16_t *)dv + of_k : 0;
    y = x;
    y.x1 = x.y1, y.x2 = x.y2, y.y1 = x.x1, y.y2 = x.x2;
    y.d1 = dq ? (uint16_t *)dq + of_q : 0, y.d2 = 0;
    if (i >= parts - queries) ATT_NAME(of_queries)(y, (parts - 1 - i) * ATT_ROWS);
#if ATT_SPLIT
    else if (i >= keys)
        ATT_NAME(of_keys)(x, (i - keys) * ATT_ROWS, 0, 1);
    else
        ATT_NAME(of_keys)(x, i * ATT_ROWS, 1, 0);
#else
    else
        ATT_NAME(of_keys)(x, i * ATT_ROWS, 1, 1);
#endif
}

#undef ATT_LANES
#undef ATT_SHARE
