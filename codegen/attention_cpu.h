/* attention_cpu.h: attention on the CPU, forward and backward, as C text that is pasted into
 * generated files after the prelude (exp_, log_, storage formats); compiled once, for every shape.
 *
 * No [t, s] matrix is ever in memory. Forward: online softmax over tiles of keys (Milakov and
 * Gimelshein 2018; FlashAttention, Dao et al. 2022). Backward: probabilities are computed again
 * from the log-sum-exp of the forward pass. Queries and tiles of keys are packed into f32 scratch,
 * where bf16 and f16 are converted, strides end and heads are padded to whole vectors; all
 * arithmetic is f32.
 *
 * Masks are one number: query i sees the keys below max(i + 1, prefix), so none is prefix = s and
 * causal is prefix = 0. What a query sees is a first part of the keys, who sees a key is a last
 * part of the queries; products stop there, in steps of ATT_ROWS rows.
 *
 * Work items write disjoint rows and never depend on each other. Limits: head size 256. */

#if defined(__AVX512F__)
#define LANES        16
#define ATT_ZIP_LOW  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ATT_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define LANES        8
#define ATT_ZIP_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define ATT_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LANES        4
#define ATT_ZIP_LOW  0, 4, 1, 5
#define ATT_ZIP_HIGH 2, 6, 3, 7
#endif

#ifdef __clang__
#define ATT_UNROLL _Pragma("unroll")
#else
#define ATT_UNROLL _Pragma("GCC unroll 16")
#endif

typedef float AttVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t AttMask __attribute__((vector_size(LANES * 4), aligned(4)));

enum {
    ATT_ROWS = 6,                   /* register tile of products: rows .. */
    ATT_VECS = LANES == 16 ? 4 : 2, /* .. and vectors */
    ATT_KEYS = 64,                  /* most keys of a tile */
    ATT_GROUP = 24,       /* rows whose softmax is computed together: whole register tiles */
    ATT_STEP = 96,        /* most queries that a tile of keys meets at once */
    ATT_HEAD = 256,       /* largest head size */
    ATT_FLOATS = 1 << 16, /* most queries times padded head size of an item .. */
    ATT_QUERIES = 1020,   /* .. and most queries */
};

/* As Dtype. */
enum { ATT_F32, ATT_BF16, ATT_F16, ATT_F64 };

/* Arguments in the order of the op's operands and results; an unwanted result is NULL. */
enum { ATT_Q, ATT_K, ATT_V, ATT_O, ATT_LSE, ATT_G, ATT_DQ, ATT_DK, ATT_DV, ATT_ARGS };

typedef struct {
    int64_t b, t, s, h, d; /* batch, queries, keys, heads, head size */
    int64_t prefix;
    int64_t queries; /* of an item: a multiple of ATT_ROWS, or t, within ATT_FLOATS */
    int64_t keys;    /* of a tile: a multiple of 16, at most ATT_KEYS */
    int split;       /* backward: items of queries (dq) and items of keys (dk, dv) */
    int type;        /* of all but lse, which is f32 unless this is f64 */
    float scale;
    struct {
        int64_t b, t, h; /* strides in elements; d is dense; lse is dense [b, h, t] */
    } at[ATT_ARGS];
} Attention;

typedef struct {
    float q[ATT_FLOATS], g[ATT_FLOATS], o[ATT_FLOATS]; /* o: result, or gradient of q */
    float k[ATT_KEYS * ATT_HEAD], kt[ATT_KEYS * ATT_HEAD];
    float v[ATT_KEYS * ATT_HEAD], vt[ATT_KEYS * ATT_HEAD];
    float dk[(ATT_KEYS + ATT_ROWS) * ATT_HEAD], dv[(ATT_KEYS + ATT_ROWS) * ATT_HEAD];
    float p[(ATT_STEP + 1) * ATT_KEYS], dp[(ATT_STEP + 1) * ATT_KEYS];
    float max[ATT_QUERIES], sum[ATT_QUERIES * LANES]; /* forward, by row; sums lane by lane */
    float lse[ATT_QUERIES], delta[ATT_QUERIES];       /* backward, by row */
} __attribute__((aligned(64))) AttScratch;

static __thread AttScratch att_scratch;

static inline int64_t att_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t att_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline AttVec att_get(const float *x) { return *(const AttVec *)x; }
static inline void att_put(float *x, AttVec v) { *(AttVec *)x = v; }
static inline AttVec att_all(float x) { return (AttVec){0} + x; }

static inline AttVec att_choose(AttMask m, AttVec a, AttVec b) {
    return (AttVec)((m & (AttMask)a) | (~m & (AttMask)b));
}

/* The first n elements of v, then `rest`. */
static inline AttVec att_first_of(AttVec v, int64_t n, float rest) {
    static const int32_t index[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    AttMask i;
    memcpy(&i, index, sizeof i);
    return att_choose(i < (int32_t)n, v, att_all(rest));
}

static inline AttVec att_larger(AttVec a, AttVec b) { return att_choose(a > b, a, b); }

static inline AttVec att_exp(AttVec v) {
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int i = 0; i < LANES; i++) x[i] = exp_(x[i]);
    memcpy(&v, x, sizeof v);
    return v;
}

/* Over all elements: each round folds the upper half of what is left onto the lower. */
static inline float att_largest(AttVec v) {
    ATT_UNROLL
    for (int n = 1; n < LANES; n *= 2)
        v = att_larger(__builtin_shufflevector(v, v, ATT_ZIP_LOW),
                       __builtin_shufflevector(v, v, ATT_ZIP_HIGH));
    return v[0];
}

static inline float att_total(AttVec v) {
    ATT_UNROLL
    for (int n = 1; n < LANES; n *= 2)
        v = __builtin_shufflevector(v, v, ATT_ZIP_LOW) +
            __builtin_shufflevector(v, v, ATT_ZIP_HIGH);
    return v[0];
}

/* ---- products: ATT_ROWS rows of C (+)= A B. A's element (i, p) is a[i * ai + p * ap], B's row p
 * starts at b + p * ldb, C's row i at c + i * ldc; n, the columns, is a multiple of LANES ---- */

/* The loops over the register tile must be unrolled for it to live in registers; clang does that
 * before it inlines, so that their bounds are constants. */
static inline __attribute__((always_inline)) void att_tile(int vecs, int64_t k, const float *a,
                                                           int64_t ai, int64_t ap, const float *b,
                                                           int64_t ldb, float *c, int64_t ldc,
                                                           int add) {
    AttVec acc[ATT_ROWS][ATT_VECS], row[ATT_VECS];
    ATT_UNROLL
    for (int i = 0; i < ATT_ROWS; i++) {
        ATT_UNROLL
        for (int j = 0; j < ATT_VECS; j++)
            if (j < vecs) acc[i][j] = add ? att_get(c + i * ldc + j * LANES) : att_all(0);
    }
    for (int64_t p = 0; p < k; p++) {
        ATT_UNROLL
        for (int j = 0; j < ATT_VECS; j++)
            if (j < vecs) row[j] = att_get(b + p * ldb + j * LANES);
        ATT_UNROLL
        for (int i = 0; i < ATT_ROWS; i++) {
            AttVec x = att_all(a[i * ai + p * ap]);
            ATT_UNROLL
            for (int j = 0; j < ATT_VECS; j++)
                if (j < vecs) acc[i][j] += x * row[j];
        }
    }
    ATT_UNROLL
    for (int i = 0; i < ATT_ROWS; i++) {
        ATT_UNROLL
        for (int j = 0; j < ATT_VECS; j++)
            if (j < vecs) att_put(c + i * ldc + j * LANES, acc[i][j]);
    }
}

static __attribute__((noinline)) void att_product(int64_t n, int64_t k, const float *a, int64_t ai,
                                                  int64_t ap, const float *b, int64_t ldb, float *c,
                                                  int64_t ldc, int add) {
    int64_t left = n / LANES;
    for (int64_t parts = (left + ATT_VECS - 1) / ATT_VECS; parts > 0; parts--) {
        int64_t vecs = (left + parts - 1) / parts; /* as even as they come */
        switch (vecs) {
        case 1: att_tile(1, k, a, ai, ap, b, ldb, c, ldc, add); break;
        case 2: att_tile(2, k, a, ai, ap, b, ldb, c, ldc, add); break;
#if LANES == 16
        case 3: att_tile(3, k, a, ai, ap, b, ldb, c, ldc, add); break;
        case 4: att_tile(4, k, a, ai, ap, b, ldb, c, ldc, add); break;
#endif
        }
        b += vecs * LANES, c += vecs * LANES, left -= vecs;
    }
}

/* ---- packing ---- */

static inline int64_t att_offset(const Attention *p, int arg, int64_t b, int64_t h, int64_t t) {
    return b * p->at[arg].b + h * p->at[arg].h + t * p->at[arg].t;
}

/* n elements from x[at] on as f32. */
static void att_read(int type, const void *x, int64_t at, int64_t n, float *to) {
    const float *f = (const float *)x + at;
    const uint16_t *h = (const uint16_t *)x + at;
    if (type == ATT_F32) memcpy(to, f, (size_t)n * sizeof *to);
    if (type == ATT_BF16)
        for (int64_t i = 0; i < n; i++) to[i] = bf16_f32(h[i]);
    if (type == ATT_F16)
        for (int64_t i = 0; i < n; i++) to[i] = f16_f32(h[i]);
    if (type == ATT_F64)
        for (int64_t i = 0; i < n; i++) to[i] = (float)((const double *)x)[at + i];
}

/* n values times scale to x[at] on. */
static void att_write(int type, void *x, int64_t at, int64_t n, const float *from, float scale) {
    uint16_t *h = (uint16_t *)x + at;
    if (type == ATT_F32)
        for (int64_t i = 0; i < n; i++) ((float *)x)[at + i] = from[i] * scale;
    if (type == ATT_BF16)
        for (int64_t i = 0; i < n; i++) h[i] = f32_bf16(from[i] * scale);
    if (type == ATT_F16)
        for (int64_t i = 0; i < n; i++) h[i] = f32_f16(from[i] * scale);
    if (type == ATT_F64)
        for (int64_t i = 0; i < n; i++) ((double *)x)[at + i] = from[i] * scale;
}

/* The (batch, head) an item works on, and its arguments. */
typedef struct {
    const Attention *p;
    void *const *arg;
    int64_t b, h, ld; /* ld: head size rounded up to whole vectors */
    AttScratch *w;
} AttHead;

static AttHead att_head(const Attention *p, void *const *arg, int64_t index) {
    return (AttHead){p, arg, index / p->h, index % p->h, att_up(p->d, LANES), &att_scratch};
}

static inline int att_lse_type(const Attention *p) {
    return p->type == ATT_F64 ? ATT_F64 : ATT_F32;
}

/* Where the log-sum-exp of query t is. */
static inline int64_t att_lse_place(const AttHead *x, int64_t t) {
    return (x->b * x->p->h + x->h) * x->p->t + t;
}

/* n rows of an argument into to[n up to a multiple of `step`][ld], times scale, zeros around. */
static void att_pack(const AttHead *x, int arg, int64_t t0, int64_t n, int64_t step, float scale,
                     float *to) {
    int64_t d = x->p->d, ld = x->ld;
    for (int64_t i = 0; i < n; i++) {
        float *row = to + i * ld;
        att_read(x->p->type, x->arg[arg], att_offset(x->p, arg, x->b, x->h, t0 + i), d, row);
        for (int64_t j = d; j < ld; j++) row[j] = 0;
        if (scale == 1) continue;
        for (int64_t j = 0; j < ld; j += LANES) att_put(row + j, att_get(row + j) * scale);
    }
    memset(to + n * ld, 0, (size_t)((att_up(n, step) - n) * ld) * sizeof *to);
}

static void att_unpack(const AttHead *x, int arg, int64_t t0, int64_t n, const float *from,
                       float scale) {
    for (int64_t i = 0; x->arg[arg] && i < n; i++)
        att_write(x->p->type, x->arg[arg], att_offset(x->p, arg, x->b, x->h, t0 + i), x->p->d,
                  from + i * x->ld, scale);
}

/* to[cols][ATT_KEYS] = the transpose of from[rows][cols]. LANES rows at a time go through log LANES
 * perfect shuffles (Stone 1971): each interleaves vector i with vector i + LANES / 2. */
static void att_transpose(const float *from, int64_t rows, int64_t cols, float *to) {
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < cols; j += LANES) {
            AttVec x[LANES], y[LANES];
            ATT_UNROLL
            for (int r = 0; r < LANES; r++) x[r] = att_get(from + (i + r) * cols + j);
            ATT_UNROLL
            for (int n = 1; n < LANES; n *= 2) {
                ATT_UNROLL
                for (int r = 0; r < LANES / 2; r++) {
                    y[2 * r] = __builtin_shufflevector(x[r], x[r + LANES / 2], ATT_ZIP_LOW);
                    y[2 * r + 1] = __builtin_shufflevector(x[r], x[r + LANES / 2], ATT_ZIP_HIGH);
                }
                memcpy(x, y, sizeof x);
            }
            ATT_UNROLL
            for (int r = 0; r < LANES; r++) att_put(to + (j + r) * ATT_KEYS + i, x[r]);
        }
}

/* How many of the keys s0 .. s0 + n - 1 query t sees: the first so many. Rows of padding (t >=
 * p->t) count as queries; nothing of theirs is read. */
static inline int64_t att_seen(const Attention *p, int64_t t, int64_t s0, int64_t n) {
    int64_t end = (t + 1 > p->prefix ? t + 1 : p->prefix) - s0;
    return end < 0 ? 0 : att_min(end, n);
}

/* The first of the queries from t0 on that sees key s, counted from t0. */
static inline int64_t att_first(const Attention *p, int64_t s, int64_t t0) {
    return s < p->prefix || s < t0 ? 0 : s - t0;
}

/* The register tile it is in. */
static inline int64_t att_first_row(const Attention *p, int64_t s, int64_t t0) {
    return att_first(p, s, t0) / ATT_ROWS * ATT_ROWS;
}

/* Columns of scores that row t + r needs, r counted from the start of a register tile: whole
 * vectors, the same for all rows of its tile. */
static inline int64_t att_width(const Attention *p, int64_t t, int64_t r, int64_t s0, int64_t ns) {
    return att_up(att_seen(p, t + r / ATT_ROWS * ATT_ROWS + ATT_ROWS - 1, s0, ns), LANES);
}

/* ---- forward ---- */

/* row[j] = exp(row[j] - top), 0 for unseen keys; the sum, lane by lane. (Unseen scores are not put
 * far below the others instead: exp would give denormal numbers, which are slow.) */
static inline AttVec att_exp_row(float *row, int64_t width, int64_t seen, float top) {
    AttVec total = att_all(0);
    for (int64_t j = 0; j < width; j += LANES) {
        AttVec v = att_first_of(att_exp(att_get(row + j) - top), seen - j, 0);
        att_put(row + j, v);
        total += v;
    }
    return total;
}

/* Scores of n queries from t on, row i of the item on, become exp(score - running max); o is
 * rescaled when the max grows. Each query sees a key of the first tile, so that the max is a score
 * from then on. In a row each step waits for the one before, which is why many rows go together. */
static inline void att_softmax(const AttHead *x, int64_t t, int64_t i, int64_t n, int64_t s0,
                               int64_t ns) {
    AttScratch *w = x->w;
    float old[ATT_GROUP + LANES] = {0}, *max = w->max + i, *p = w->p;
    for (int64_t r = 0; r < n; r++) {
        AttVec most = att_all(max[r]);
        int64_t seen = att_seen(x->p, t + r, s0, ns);
        for (int64_t j = 0; j < seen; j += LANES)
            most = att_larger(att_first_of(att_get(p + r * ATT_KEYS + j), seen - j, -1e30f), most);
        float top = att_largest(most);
        old[r] = max[r] - top;
        max[r] = top;
    }
    for (int r = 0; r < ATT_GROUP; r += LANES) att_put(old + r, att_exp(att_get(old + r)));
    for (int64_t r = 0; r < n; r++) {
        float *o = w->o + (i + r) * x->ld, *sum = w->sum + (i + r) * LANES;
        int64_t width = att_width(x->p, t, r, s0, ns), seen = att_seen(x->p, t + r, s0, ns);
        AttVec total = att_exp_row(p + r * ATT_KEYS, width, seen, max[r]);
        att_put(sum, att_get(sum) * old[r] + total);
        for (int64_t j = 0; j < x->ld; j += LANES) att_put(o + j, att_get(o + j) * old[r]);
    }
}

/* Rows i .. i + n - 1 of the item's queries, which start at t0, meet the packed keys. */
static void att_forward_rows(const AttHead *x, int64_t t0, int64_t i, int64_t n, int64_t s0,
                             int64_t ns) {
    AttScratch *w = x->w;
    int64_t ld = x->ld, t = t0 + i;
    for (int64_t r = 0; r < n; r += ATT_ROWS)
        att_product(att_width(x->p, t, r, s0, ns), x->p->d, w->q + (i + r) * ld, ld, 1, w->kt,
                    ATT_KEYS, w->p + r * ATT_KEYS, ATT_KEYS, 0);
    att_softmax(x, t, i, n, s0, ns);
    for (int64_t r = 0; r < n; r += ATT_ROWS)
        att_product(ld, att_seen(x->p, t + r + ATT_ROWS - 1, s0, ns), w->p + r * ATT_KEYS, ATT_KEYS,
                    1, w->v, ld, w->o + (i + r) * ld, ld, 1);
}

static void att_forward_item(const AttHead *x, int64_t t0, int64_t n) {
    const Attention *p = x->p;
    AttScratch *w = x->w;
    int64_t rows = att_up(n, ATT_ROWS), end = att_seen(p, t0 + n - 1, 0, p->s), ld = x->ld;
    att_pack(x, ATT_Q, t0, n, ATT_ROWS, p->scale, w->q);
    memset(w->o, 0, (size_t)(rows * ld) * sizeof *w->o);
    for (int64_t i = 0; i < rows; i++) w->max[i] = -1e30f;
    memset(w->sum, 0, (size_t)(rows * LANES) * sizeof *w->sum);
    for (int64_t s0 = 0; s0 < end; s0 += p->keys) {
        int64_t ns = att_min(p->keys, p->s - s0);
        att_pack(x, ATT_K, s0, ns, LANES, 1, w->k);
        att_transpose(w->k, ns, ld, w->kt);
        att_pack(x, ATT_V, s0, ns, 1, 1, w->v);
        for (int64_t i = att_first_row(p, s0, t0); i < rows; i += ATT_GROUP)
            att_forward_rows(x, t0, i, att_min(ATT_GROUP, rows - i), s0, ns);
    }
    for (int64_t i = 0; i < n; i++) {
        float sum = att_total(att_get(w->sum + i * LANES)), lse = w->max[i] + log_(sum);
        att_unpack(x, ATT_O, t0 + i, 1, w->o + i * ld, 1 / sum);
        if (x->arg[ATT_LSE])
            att_write(att_lse_type(p), x->arg[ATT_LSE], att_lse_place(x, t0 + i), 1, &lse, 1);
    }
}

/* q, k, v -> o, lse. Items: b * h * (t / queries, rounded up). */
static void attention_forward(const Attention *p, void *const *arg, int64_t lo, int64_t hi) {
    int64_t parts = (p->t + p->queries - 1) / p->queries;
    for (int64_t item = lo; item < hi; item++) {
        AttHead x = att_head(p, arg, item / parts);
        int64_t t0 = item % parts * p->queries;
        att_forward_item(&x, t0, att_min(p->queries, p->t - t0));
    }
}

/* ---- backward: p = exp(score - lse), ds = p (g v' - delta) with delta = g o, summed over a row;
 * dv = p' g, dk = scale ds' q, dq = scale ds k. Packed queries carry the scale ---- */

/* Packs n queries from t0 on with what belongs to them. */
static void att_pack_queries(const AttHead *x, int64_t t0, int64_t n) {
    AttScratch *w = x->w;
    att_read(att_lse_type(x->p), x->arg[ATT_LSE], att_lse_place(x, t0), n, w->lse);
    att_pack(x, ATT_Q, t0, n, ATT_ROWS, x->p->scale, w->q);
    att_pack(x, ATT_G, t0, n, ATT_ROWS, 1, w->g);
    att_pack(x, ATT_O, t0, n, ATT_ROWS, 1, w->o);
    for (int64_t i = 0; i < att_up(n, ATT_ROWS); i++) {
        AttVec sum = att_all(0);
        for (int64_t j = i * x->ld; j < (i + 1) * x->ld; j += LANES)
            sum += att_get(w->g + j) * att_get(w->o + j);
        w->delta[i] = att_total(sum);
        if (i >= n) w->lse[i] = 0;
    }
    memset(w->o, 0, (size_t)(att_up(n, ATT_ROWS) * x->ld) * sizeof *w->o);
}

static void att_pack_keys(const AttHead *x, int64_t s0, int64_t ns) {
    AttScratch *w = x->w;
    att_pack(x, ATT_K, s0, ns, LANES, 1, w->k);
    att_pack(x, ATT_V, s0, ns, LANES, 1, w->v);
    att_transpose(w->k, ns, x->ld, w->kt);
    att_transpose(w->v, ns, x->ld, w->vt);
    size_t bytes = (size_t)(att_up(ns, ATT_ROWS) * x->ld) * sizeof *w->dk;
    memset(w->dk, 0, bytes);
    memset(w->dv, 0, bytes);
}

/* Scores of one row become p, the products g v' become ds; zeros where nothing is seen. */
static inline void att_softmax_grad(float *p, float *dp, int64_t width, int64_t seen, float lse,
                                    float delta) {
    for (int64_t j = 0; j < width; j += LANES) {
        AttVec e = att_first_of(att_exp(att_get(p + j) - lse), seen - j, 0);
        att_put(p + j, e);
        att_put(dp + j, e * (att_get(dp + j) - delta));
    }
    for (int64_t j = width; j < ATT_KEYS; j++) p[j] = dp[j] = 0;
}

/* Rows i .. i + n - 1 of the packed queries: p and ds into row r on of the scratch. */
static void att_grad_rows(const AttHead *x, int64_t t0, int64_t i, int64_t n, int64_t r, int64_t s0,
                          int64_t ns, int dq) {
    AttScratch *w = x->w;
    int64_t ld = x->ld, d = x->p->d, t = t0 + i;
    float *p = w->p + r * ATT_KEYS, *dp = w->dp + r * ATT_KEYS;
    for (int64_t j = 0; j < n; j += ATT_ROWS) {
        int64_t width = att_width(x->p, t, j, s0, ns), at = j * ATT_KEYS, row = (i + j) * ld;
        att_product(width, d, w->q + row, ld, 1, w->kt, ATT_KEYS, p + at, ATT_KEYS, 0);
        att_product(width, d, w->g + row, ld, 1, w->vt, ATT_KEYS, dp + at, ATT_KEYS, 0);
    }
    for (int64_t j = 0; j < n; j++)
        att_softmax_grad(p + j * ATT_KEYS, dp + j * ATT_KEYS, att_width(x->p, t, j, s0, ns),
                         att_seen(x->p, t + j, s0, ns), w->lse[i + j], w->delta[i + j]);
    for (int64_t j = 0; dq && j < n; j += ATT_ROWS)
        att_product(ld, att_seen(x->p, t + j + ATT_ROWS - 1, s0, ns), dp + j * ATT_KEYS, ATT_KEYS,
                    1, w->k, ld, w->o + (i + j) * ld, ld, 1);
}

enum { ATT_WANT_Q = 1, ATT_WANT_KV = 2 };

/* The packed queries t0 .. t0 + n - 1 meet the packed keys s0 .. s0 + ns - 1. */
static void att_grad_tile(const AttHead *x, int64_t t0, int64_t n, int64_t s0, int64_t ns,
                          int want) {
    AttScratch *w = x->w;
    int64_t ld = x->ld, steps = (n + ATT_STEP - 1) / ATT_STEP;
    int64_t step = att_up((n + steps - 1) / steps, ATT_ROWS);
    for (int64_t i = 0; i < n; i += step) {
        int64_t m = att_min(step, n - i);
        int64_t rows = att_up(m, ATT_ROWS);
        for (int64_t r = att_first_row(x->p, s0, t0 + i); r < rows; r += ATT_GROUP)
            att_grad_rows(x, t0, i + r, att_min(ATT_GROUP, rows - r), r, s0, ns, want & ATT_WANT_Q);
        for (int64_t j = 0; want & ATT_WANT_KV && j < ns; j += ATT_ROWS) {
            int64_t f = att_first(x->p, s0 + j, t0 + i);
            if (f >= m) break;
            float *g = w->g + (i + f) * ld, *q = w->q + (i + f) * ld;
            int64_t at = f * ATT_KEYS + j;
            att_product(ld, m - f, w->p + at, 1, ATT_KEYS, g, ld, w->dv + j * ld, ld, 1);
            att_product(ld, m - f, w->dp + at, 1, ATT_KEYS, q, ld, w->dk + j * ld, ld, 1);
        }
    }
}

static void att_unpack_keys(const AttHead *x, int64_t s0, int64_t ns) {
    att_unpack(x, ATT_DK, s0, ns, x->w->dk, 1);
    att_unpack(x, ATT_DV, s0, ns, x->w->dv, 1);
}

/* Some queries and all keys they see: dq; and all of dk and dv when these are all queries. */
static void att_grad_queries(const AttHead *x, int64_t t0, int64_t n, int want) {
    const Attention *p = x->p;
    int64_t end = want & ATT_WANT_KV ? p->s : att_seen(p, t0 + n - 1, 0, p->s);
    att_pack_queries(x, t0, n);
    for (int64_t s0 = 0; s0 < end; s0 += p->keys) {
        int64_t ns = att_min(p->keys, p->s - s0);
        att_pack_keys(x, s0, ns);
        att_grad_tile(x, t0, n, s0, ns, want);
        if (want & ATT_WANT_KV) att_unpack_keys(x, s0, ns);
    }
    att_unpack(x, ATT_DQ, t0, n, x->w->o, p->scale);
}

/* One tile of keys and all queries that see it: its dk and dv. */
static void att_grad_keys(const AttHead *x, int64_t s0) {
    const Attention *p = x->p;
    int64_t ns = att_min(p->keys, p->s - s0), n;
    att_pack_keys(x, s0, ns);
    for (int64_t t0 = att_first(p, s0, 0) / p->queries * p->queries; t0 < p->t; t0 += n) {
        n = att_min(p->queries, p->t - t0);
        att_pack_queries(x, t0, n);
        att_grad_tile(x, t0, n, s0, ns, ATT_WANT_KV);
    }
    att_unpack_keys(x, s0, ns);
}

/* q, k, v, o, lse, g -> dq, dk, dv. Items: b * h, where queries = t; when split, b * h * (t /
 * queries
 * + s / keys), both rounded up, at the price of computing p and ds twice. */
static void attention_backward(const Attention *p, void *const *arg, int64_t lo, int64_t hi) {
    int64_t parts = p->split ? (p->t + p->queries - 1) / p->queries : 0;
    int64_t tiles = p->split ? (p->s + p->keys - 1) / p->keys : 1;
    for (int64_t item = lo; item < hi; item++) {
        AttHead x = att_head(p, arg, item / (parts + tiles));
        int64_t i = item % (parts + tiles), t0 = i * p->queries;
        if (!p->split)
            att_grad_queries(&x, 0, p->t, ATT_WANT_Q | ATT_WANT_KV);
        else if (i < parts)
            att_grad_queries(&x, t0, att_min(p->queries, p->t - t0), ATT_WANT_Q);
        else
            att_grad_keys(&x, (i - parts) * p->keys);
    }
}
