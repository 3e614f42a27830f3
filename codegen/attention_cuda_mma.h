/* attention_cuda_mma.h: attention's tiles and products with bf16 or f16 storage, after
 * attention_cuda.h. A warp has ATT_M times 16 rows. What it computes from them stays in its
 * registers: the sums of one product, rounded and paired, are the left operand of the next.
 *
 * A tile in shared memory is rows of ATT_CHUNKS chunks of 16 bytes, ATT_LD apart. ldmatrix reads a
 * column of 8 chunks at a time, which must lie in 8 different groups of banks: ATT_LD is odd, or a
 * multiple of 8 and chunks are permuted inside a row. Heads are padded by zeros to a multiple of
 * 16, tiles to whole tiles. */

/* Where chunk c of a row is, in bytes. */
INLINE int32_t ATT_NAME(at)(int32_t row, int32_t c) {
    if (ATT_LD % 8 != 0) return row * (ATT_LD * 16) + c * 16;
    return row * (ATT_LD * 16) + (c & ~7) * 16 + ((c ^ row) & 7) * 16;
}

/* Rows first .. first + rows - 1 of x into a tile; zeros for rows from `length` on. They are there
 * after cp_async_wait and SYNC. */
INLINE void ATT_NAME(load)(char *tile, const ATT_TYPE *x, int32_t first, int32_t length,
                           int32_t rows) {
#if ATT_WIDE
    enum { WHOLE = ATT_THREADS % ATT_CHUNKS == 0 }; /* a thread's chunks are all of one column */
    ATT_UNROLL
    for (int n = 0; n < (rows * ATT_CHUNKS + ATT_THREADS - 1) / ATT_THREADS; n++) {
        const int32_t i = TID + n * ATT_THREADS;
        const int32_t r =
            WHOLE ? TID / ATT_CHUNKS + n * (ATT_THREADS / ATT_CHUNKS) : i / ATT_CHUNKS;
        const int32_t c = WHOLE ? TID % ATT_CHUNKS : i % ATT_CHUNKS;
        if (r < rows)
            cp_async16(tile + ATT_NAME(at)(r, c), x + (int64_t)(first + r) * ATT_STEP + c * 8,
                       first + r < length && c * 8 < ATT_D);
    }
#else
    for (int32_t i = TID; i < rows * ATT_CHUNKS * 8; i += ATT_THREADS) {
        const int32_t r = i / (ATT_CHUNKS * 8), c = i % (ATT_CHUNKS * 8);
        const int valid = first + r < length && c < ATT_D;
        ((uint16_t *)(tile + ATT_NAME(at)(r, c / 8)))[c % 8] =
            valid ? x[(int64_t)(first + r) * ATT_STEP + c] : (uint16_t)0;
    }
#endif
}

/* ---- fragments: 16 x 16 elements of a tile, from a row and a chunk on, multiples of 16 and 2 that
 * the compiler knows: kept apart from what depends on the lane, they become constants of addresses
 * ---- */

/* Left operand: rows are rows. */
INLINE void ATT_NAME(left)(uint32_t *a, const char *tile, int32_t row, int32_t c) {
    const int32_t lane = TID & 31;
    ldmatrix_x4(a, tile + row * (ATT_LD * 16) + ATT_NAME(at)(lane & 15, c ^ lane >> 4));
}

/* Two right operands of a product with the transposed tile: its rows are columns. */
INLINE void ATT_NAME(right_of_rows)(uint32_t *b, const char *tile, int32_t row, int32_t c) {
    const int32_t lane = TID & 31;
    const int32_t at = ATT_NAME(at)((lane & 7) + (lane >> 4) * 8, c ^ (lane >> 3 & 1));
    ldmatrix_x4(b, tile + row * (ATT_LD * 16) + at);
}

/* Two right operands of a product with the tile itself. */
INLINE void ATT_NAME(right)(uint32_t *b, const char *tile, int32_t row, int32_t c) {
    const int32_t lane = TID & 31;
    ldmatrix_x4_trans(b, tile + row * (ATT_LD * 16) + ATT_NAME(at)(lane & 15, c ^ lane >> 4));
}

/* ---- products of a warp's rows ---- */

typedef uint32_t ATT_NAME(Left)[ATT_M][4];              /* 16 columns of the left operand */
typedef float ATT_NAME(Scores)[ATT_M][ATT_COLS / 8][4]; /* sums: rows x ATT_COLS .. */
typedef float ATT_NAME(Sums)[ATT_M][ATT_CHUNKS][4];     /* .. and rows x head size */

INLINE void ATT_NAME(left_rows)(uint32_t (*a)[4], const char *tile, int32_t row, int32_t c) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) ATT_NAME(left)(a[m], tile, row + m * 16, c);
}

/* s = rows of x times y'. The left operands are held in registers or read from x. */
INLINE void ATT_NAME(scores)(float (*s)[ATT_COLS / 8][4], uint32_t (*held)[ATT_M][4], const char *x,
                             int32_t row, const char *y) {
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < ATT_COLS / 2; i++) s[m][i / 4][i % 4] = 0;
    }
    ATT_UNROLL
    for (int c = 0; c < ATT_CHUNKS; c += 2) {
        ATT_NAME(Left) read;
        uint32_t(*a)[4] = held ? held[c / 2] : read;
        if (!held) ATT_NAME(left_rows)(read, x, row, c);
        ATT_UNROLL
        for (int n = 0; n < ATT_COLS / 16; n++) {
            uint32_t b[4];
            ATT_NAME(right_of_rows)(b, y, n * 16, c);
            ATT_UNROLL
            for (int m = 0; m < ATT_M; m++) {
                ATT_MMA(s[m][2 * n], a[m], b);
                ATT_MMA(s[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* o += p y. A lane has of p what it needs of a left operand. */
INLINE void ATT_NAME(accumulate)(float (*o)[ATT_CHUNKS][4], float (*p)[ATT_COLS / 8][4],
                                 const char *y) {
    ATT_UNROLL
    for (int k = 0; k < ATT_COLS / 16; k++) {
        ATT_NAME(Left) a;
        ATT_UNROLL
        for (int m = 0; m < ATT_M; m++) {
            ATT_UNROLL
            for (int i = 0; i < 4; i++) {
                const float *from = p[m][2 * k + i / 2] + i % 2 * 2;
                a[m][i] = ATT_PACK(from[0], from[1]);
            }
        }
        ATT_UNROLL
        for (int c = 0; c < ATT_CHUNKS; c += 2) {
            uint32_t b[4];
            ATT_NAME(right)(b, y, k * 16, c);
            ATT_UNROLL
            for (int m = 0; m < ATT_M; m++) {
                ATT_MMA(o[m][c], a[m], b);
                ATT_MMA(o[m][c + 1], a[m], b + 2);
            }
        }
    }
}

/* Sums times the row's `scale` become the warp's rows of x, by way of its own rows of a
 * tile, so that accesses to memory are wide. scale[m][i]: of rows m * 16 + i * 8 + lane / 4. */
INLINE void ATT_NAME(store)(float (*o)[ATT_CHUNKS][4], float (*scale)[2], char *tile, int32_t row,
                            ATT_TYPE *x, int32_t first, int32_t length) {
    const int32_t lane = TID & 31;
    WARP_SYNC(); /* after other lanes' reads of these rows */
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            ATT_UNROLL
            for (int c = 0; c < ATT_CHUNKS; c++) {
                const uint32_t two =
                    ATT_PACK(o[m][c][2 * i] * scale[m][i], o[m][c][2 * i + 1] * scale[m][i]);
                char *to = tile + ATT_NAME(at)(row + m * 16 + i * 8 + lane / 4, c);
                store4(to + lane % 4 * 4, &two);
            }
        }
    }
    WARP_SYNC();
    for (int32_t i = lane; i < ATT_M * 16 * ATT_CHUNKS; i += 32) {
        const int32_t r = row + i / ATT_CHUNKS, c = i % ATT_CHUNKS;
        const char *from = tile + ATT_NAME(at)(r, c);
        uint16_t *to = x + (int64_t)(first + r) * ATT_STEP + c * 8;
        if (first + r >= length) continue;
#if ATT_WIDE
        uint32_t chunk[4];
        load16(chunk, from);
        if (c * 8 < ATT_D) store16(to, chunk);
#else
        for (int j = 0; j < 8 && c * 8 + j < ATT_D; j++) to[j] = ((const uint16_t *)from)[j];
#endif
    }
}

/* ---- masks ---- */

/* Scores of keys that a query must not see become so low that exp gives 0. The warp's queries are
 * those from t on, the tile's keys those from s on. */
INLINE void ATT_NAME(hide)(float (*x)[ATT_COLS / 8][4], int32_t t, int32_t s) {
    const int32_t lane = TID & 31;
    ATT_UNROLL
    for (int m = 0; m < ATT_M; m++) {
        ATT_UNROLL
        for (int i = 0; i < 2; i++) {
            const int32_t n = ATT_NAME(seen)(t + m * 16 + i * 8 + lane / 4) - s - lane % 4 * 2;
            ATT_UNROLL
            for (int c = 0; c < ATT_COLS / 8; c++) {
                if (c * 8 >= n) x[m][c][2 * i] = ATT_NEVER;
                if (c * 8 + 1 >= n) x[m][c][2 * i + 1] = ATT_NEVER;
            }
        }
    }
}
