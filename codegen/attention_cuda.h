/* attention_cuda.h: attention on a GPU, as CUDA text that is pasted before a kernel, after
 * `#define`s of all ATT_ words (see attention_cuda.c) and before their `#undef`s: what blocks there
 * are and what each of them works on. How it works follows, by pass and by type: bf16 and f16 with
 * tensor cores through mma.sync (attention_cuda_mma.h, _forward.h, _grad.h), f32 and f64 without
 * (attention_cuda_f32.h).
 *
 * No [t, s] matrix is ever in memory. Forward: online softmax over tiles of keys (Milakov and
 * Gimelshein 2018; FlashAttention, Dao et al. 2022), with the loop order of FlashAttention-2 (Dao
 * 2023). Backward: one launch without atomics, in which blocks of queries compute dq and blocks of
 * keys dk and dv; both compute the probabilities again from the log-sum-exp of the forward pass.
 *
 * A block owns ATT_ROWS rows of one (batch, head), a warp some of them, and meets tiles of ATT_COLS
 * rows of the other side. Masks are one number: query i sees the keys below max(i + 1, ATT_PREFIX),
 * so none is prefix = s and causal is prefix = 0. Every query sees key 0, rows of padding too.
 * Tiles that nobody sees are never met. Limits: head size 256. */

#ifdef M6C_EMULATED /* where it only takes time */
#define ATT_UNROLL
#else
#define ATT_UNROLL _Pragma("unroll")
#endif

/* Where the rows of a (batch, head) begin, which are ATT_STEP elements apart. */
INLINE int64_t ATT_NAME(offset)(int32_t head, int64_t length) {
    return ((int64_t)(head / ATT_H) * length * ATT_H + head % ATT_H) * ATT_D;
}

/* ---- masks ---- */

/* How many keys from 0 on query t sees. */
INLINE int32_t ATT_NAME(seen)(int32_t t) {
    const int32_t end = t + 1 > ATT_PREFIX ? t + 1 : ATT_PREFIX;
    return end < ATT_S ? end : ATT_S;
}

/* The first query that sees key s. */
INLINE int32_t ATT_NAME(first)(int32_t s) { return s < ATT_PREFIX ? 0 : s; }

/* ---- blocks ---- */

/* The work of a block of the forward pass. */
typedef struct {
    char *shared;
    const ATT_TYPE *q, *k, *v;
    ATT_TYPE *o;
    ATT_LSE *lse; /* NULL: not wanted */
    int32_t t;    /* its queries are those from here on, which meet .. */
    int32_t end;  /* .. the keys before `end` */
    int32_t all;  /* .. and all of them those before `all` */
} ATT_NAME(Queries);

/* The work of a block of the backward pass. It owns rows x of two operands and meets y: queries own
 * q and g (the gradient of o) and meet k and v, keys own k and v and meet q and g. With scores
 * x0 y0' (or their transpose) as probabilities p, and ds = p (x1 y1' - delta), where delta =
 * rowsum(g o): dq or dk is d[0] = ds y0, dv is d[1] = p y1. `keys` and `want` are constants to the
 * compiler. */
typedef struct {
    char *shared;
    int keys;    /* it owns keys, not queries */
    int want[2]; /* which of d are computed */
    const ATT_TYPE *x[2], *y[2], *o;
    const ATT_LSE *lse;
    ATT_TYPE *d[2]; /* NULL: not wanted after all */
    int32_t x_first, x_length, y_length;
    int32_t begin, end; /* the part of y that these rows meet .. */
    int32_t all;        /* .. and all of them: queries from here on, or keys before */
} ATT_NAME(Side);

#if !ATT_BACKWARD

INLINE void ATT_NAME(run_forward)(const ATT_NAME(Queries) * a); /* follows */

/* The last queries see most keys of a causal mask and go first. */
INLINE void ATT_NAME(forward)(char *shared, const void *q, const void *k, const void *v, void *o,
                              void *lse) {
    const int32_t blocks = (ATT_T + ATT_ROWS - 1) / ATT_ROWS, head = BID / blocks;
    const int64_t of_q = ATT_NAME(offset)(head, ATT_T), of_k = ATT_NAME(offset)(head, ATT_S);
    ATT_NAME(Queries) a;
    a.shared = shared;
    a.q = (const ATT_TYPE *)q + of_q, a.o = (ATT_TYPE *)o + of_q;
    a.k = (const ATT_TYPE *)k + of_k, a.v = (const ATT_TYPE *)v + of_k;
    a.lse = lse ? (ATT_LSE *)lse + (int64_t)head * ATT_T : (ATT_LSE *)0;
    a.t = (blocks - 1 - BID % blocks) * ATT_ROWS;
    a.all = ATT_NAME(seen)(a.t);
    a.end = ATT_NAME(seen)(a.t + ATT_ROWS < ATT_T ? a.t + ATT_ROWS - 1 : ATT_T - 1);
    ATT_NAME(run_forward)(&a);
}

#else

INLINE void ATT_NAME(run_backward)(const ATT_NAME(Side) * a); /* follows */

/* Keys from s on; x is k, v and y is q, g. */
INLINE void ATT_NAME(keys)(ATT_NAME(Side) a, int32_t s, int want0, int want1) {
    const int32_t last = s + ATT_ROWS < ATT_S ? s + ATT_ROWS - 1 : ATT_S - 1;
    a.keys = 1, a.want[0] = want0, a.want[1] = want1;
    a.x_first = s, a.x_length = ATT_S, a.y_length = ATT_T;
    a.begin = ATT_NAME(first)(s) / ATT_COLS * ATT_COLS, a.end = ATT_T;
    a.all = ATT_NAME(first)(last);
    ATT_NAME(run_backward)(&a);
}

/* Queries from t on; x is q, g and y is k, v. */
INLINE void ATT_NAME(queries)(ATT_NAME(Side) a, int32_t t) {
    const int32_t last = t + ATT_ROWS < ATT_T ? t + ATT_ROWS - 1 : ATT_T - 1;
    a.keys = 0, a.want[0] = 1, a.want[1] = 0;
    a.x_first = t, a.x_length = ATT_T, a.y_length = ATT_S;
    a.begin = 0, a.end = ATT_NAME(seen)(last);
    a.all = ATT_NAME(seen)(t);
    ATT_NAME(run_backward)(&a);
}

/* With a causal mask the first keys and the last queries have most to do and go first. Where dk and
 * dv do not fit into registers together, they are work of two blocks. */
INLINE void ATT_NAME(backward)(char *shared, const void *q, const void *k, const void *v,
                               const void *o, const void *lse, const void *g, void *dq, void *dk,
                               void *dv) {
    const int32_t of_s = (ATT_S + ATT_ROWS - 1) / ATT_ROWS,
                  of_t = (ATT_T + ATT_ROWS - 1) / ATT_ROWS;
    const int32_t blocks = of_s * (1 + ATT_SPLIT) + of_t, head = BID / blocks, i = BID % blocks;
    const int64_t of_q = ATT_NAME(offset)(head, ATT_T), of_k = ATT_NAME(offset)(head, ATT_S);
    ATT_NAME(Side) a, b;
    a.shared = shared;
    a.o = (const ATT_TYPE *)o + of_q, a.lse = (const ATT_LSE *)lse + (int64_t)head * ATT_T;
    a.x[0] = (const ATT_TYPE *)k + of_k, a.x[1] = (const ATT_TYPE *)v + of_k;
    a.y[0] = (const ATT_TYPE *)q + of_q, a.y[1] = (const ATT_TYPE *)g + of_q;
    a.d[0] = dk ? (ATT_TYPE *)dk + of_k : 0, a.d[1] = dv ? (ATT_TYPE *)dv + of_k : 0;
    b = a;
    b.x[0] = a.y[0], b.x[1] = a.y[1], b.y[0] = a.x[0], b.y[1] = a.x[1];
    b.d[0] = dq ? (ATT_TYPE *)dq + of_q : 0, b.d[1] = 0;
    if (i >= blocks - of_t) ATT_NAME(queries)(b, (blocks - 1 - i) * ATT_ROWS);
#if ATT_SPLIT
    else if (i >= of_s)
        ATT_NAME(keys)(a, (i - of_s) * ATT_ROWS, 0, 1);
    else
        ATT_NAME(keys)(a, i * ATT_ROWS, 1, 0);
#else
    else
        ATT_NAME(keys)(a, i * ATT_ROWS, 1, 1);
#endif
}

#endif
