/* opaque_cuda.c: the kernels of opaque_block.c, opaque_index.c and opaque_moe.c in CUDA C. What
 * moves rows has a thread per four elements, or per piece of 16 bytes where bytes are only moved;
 * what adds up rows does so in one fixed order, without atomics. */
#include "codegen/opaque.h"

enum { WARP = 32, ROUTE_THREADS = 1024, FEW_EXPERTS = 64, MOST_EXPERTS = 12000 };

/* The largest power of two up to 16 that divides `bytes` and the addresses of all operands. */
static int piece(const Opaque *o, int64_t bytes) {
    int p = 16;
    for (uint32_t i = 0; i < o->nin; i++)
        while (o->align[i] % p != 0) p /= 2;
    while (bytes % p != 0) p /= 2;
    return p;
}

/* Elements that a thread moves: 4, or 1 where rows of `width` or addresses do not allow it. */
static int vector(const Opaque *o, int64_t width, uint32_t operand) {
    int size = dtype_size(o->in[operand]->dtype);
    return width % 4 == 0 && o->align[operand] % (4 * size) == 0 ? 4 : 1;
}

/* read_NAME and write_NAME of the prelude are of these. */
static const char *real(Dtype d) {
    if (!dtype_is_float(d)) BUG("rows of %s", dtype_name(d));
    return dtype_name(d);
}

/* ---- bytes that move ---- */

/* The unsigned type of a piece, and how 16 or 8 bytes of them are copied. */
static void put_copy(Buf *b, const char *to, const char *from, int size) {
    static const char *const types[] = {"", "uint8_t", "uint16_t", "", "uint32_t"};
    if (size > 4)
        buf_printf(b, "{ uint32_t w[4]; load%d(w, %s); store%d(%s, w); }\n", size, from, size, to);
    else
        buf_printf(b, "*(%s *)(%s) = *(const %s *)(%s);\n", types[size], to, types[size], from);
}

static void put_clear(Buf *b, const char *to, int size) {
    static const char *const types[] = {"", "uint8_t", "uint16_t", "", "uint32_t"};
    if (size > 4)
        buf_printf(b, "{ const uint32_t w[4] = {0, 0, 0, 0}; store%d(%s, w); }\n", size, to);
    else
        buf_printf(b, "*(%s *)(%s) = 0;\n", types[size], to);
}

/* int64_t at: the thread's piece of `pieces` in each of `rows` rows; then row and byte in it. */
static void open_pieces(Buf *b, int64_t rows, int64_t pieces, int size) {
    buf_printf(b,
               "    const int64_t at = (int64_t)BID * 256 + TID;\n"
               "    if (at < %lldll) {\n"
               "        const int64_t row = at / %lldll, byte = at %% %lldll * %d;\n",
               (long long)(rows * pieces), (long long)pieces, (long long)pieces, size);
}

void emit_concat_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    int axis = (int)attr_int(o->n, "axis"), size = dtype_size(t->dtype), p = 16;
    int64_t outer = dims_product(t, 0, axis), whole = dims_product(t, axis, t->rank) * size,
            end = 0;
    for (uint32_t k = 0; k < o->nin; k++)
        p = MIN(p, piece(o, dims_product(o->in[k], axis, t->rank) * size));
    open_pieces(b, outer, whole / p, p);
    buf_printf(b, "        char *to = (char *)ARG(%u) + row * %lldll + byte;\n        ", o->nin,
               (long long)whole);
    for (uint32_t k = 0; k < o->nin; k++) {
        int64_t part = dims_product(o->in[k], axis, t->rank) * size;
        Buf from = {0};
        buf_printf(&from, "(const char *)ARG(%u) + row * %lldll + (byte - %lldll)", k,
                   (long long)part, (long long)end);
        end += part;
        buf_printf(b, "%sif (byte < %lldll) ", k ? "        else " : "", (long long)end);
        put_copy(b, "to", from.p, p);
        buf_free(&from);
    }
    buf_puts(b, "    }\n");
    opaque_threads(c, outer * (whole / p));
}

void emit_gather_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *table = o->in[0];
    int64_t width = dims_product(table, 1, table->rank) * dtype_size(table->dtype);
    int64_t ids = type_elements(o->in[1]);
    int p = 16;
    while (width % p != 0 || o->align[0] % p != 0) p /= 2;
    opaque_in(o, b, 1, "ids");
    open_pieces(b, ids, width / p, p);
    buf_printf(b,
               "        const int64_t id = (int64_t)ids[row];\n"
               "        char *to = (char *)ARG(2) + row * %lldll + byte;\n"
               "        if (id >= 0 && id < %lldll) ",
               (long long)width, (long long)table->dim[0]);
    Buf from = {0};
    buf_printf(&from, "(const char *)ARG(0) + id * %lldll + byte", (long long)width);
    put_copy(b, "to", from.p, p);
    buf_puts(b, "        else ");
    put_clear(b, "to", p);
    buf_puts(b, "    }\n");
    buf_free(&from);
    opaque_threads(c, ids * (width / p));
}

void emit_block_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    int dim = (int)attr_int(o->n, "dim"), p = 16;
    int64_t parts = attr_int(o->n, "parts"), runs = dims_product(t, 0, dim);
    int64_t run = dims_product(t, dim, t->rank) * dtype_size(t->dtype);
    while (run % p != 0 || o->align[0] % p != 0) p /= 2;
    opaque_in(o, b, 1, "index");
    open_pieces(b, runs, run / p, p);
    buf_printf(b,
               "        const int64_t i = (int64_t)index[0];\n"
               "        const int64_t part = i < 0 ? 0 : i < %lldll ? i : %lldll;\n"
               "        char *to = (char *)ARG(2) + row * %lldll + byte;\n"
               "        ",
               (long long)parts, (long long)(parts - 1), (long long)run);
    Buf from = {0};
    buf_printf(&from, "(const char *)ARG(0) + (row * %lldll + part) * %lldll + byte",
               (long long)parts, (long long)run);
    put_copy(b, "to", from.p, p);
    buf_puts(b, "    }\n");
    buf_free(&from);
    opaque_threads(c, runs * (run / p));
}

/* A block has 16 rows of the table: it clears them, then looks through all ids, 256 at a time.
 * Those of its rows are listed in order (ballots count the lanes before), and added one after the
 * other, eight rows being read ahead: a padding token may have thousands. A column is one thread's.
 */
void emit_scatter_add_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    const char *to = real(t->dtype), *from = real(o->in[1]->dtype);
    int64_t width = dims_product(t, 1, t->rank);
    int v = vector(o, width, 1);
    opaque_in(o, b, 0, "ids");
    opaque_in(o, b, 1, "rows");
    opaque_out(o, b, 0, "out");
    buf_printf(
        b,
        "    SHARED(int32_t, list, 256);\n"
        "    SHARED(int32_t, found, 8);\n"
        "    const int64_t W = %lldll, N = %lldll, from = (int64_t)BID * 16;\n"
        "    const int64_t to = from + 16 < %lldll ? from + 16 : %lldll;\n"
        "    float x[8][4], sum[4] = {0, 0, 0, 0};\n"
        "    for (int64_t r = from; r < to; r++)\n"
        "        for (int64_t c = TID * %d; c < W; c += %d) write_%s(out + r * W + c, sum, %d);\n",
        (long long)width, (long long)type_elements(o->in[0]), (long long)t->dim[0],
        (long long)t->dim[0], v, 256 * v, to, v);
    buf_puts(b, "    for (int64_t first = 0; first < N; first += 256) {\n"
                "        const int64_t id = first + TID < N ? (int64_t)ids[first + TID] : -1;\n"
                "        const int mine = id >= from && id < to;\n"
                "        const uint32_t hits = ballot(mine);\n"
                "        int32_t before = 0, all = 0;\n"
                "        SYNC();\n"
                "        if (TID % 32 == 0) found[TID / 32] = popcount(hits);\n"
                "        SYNC();\n"
                "        for (int w = 0; w < 8; w++) {\n"
                "            before += w < TID / 32 ? found[w] : 0;\n"
                "            all += found[w];\n"
                "        }\n"
                "        before += popcount(hits & ((1u << TID % 32) - 1));\n"
                "        if (mine) list[before] = (int32_t)(first + TID);\n"
                "        SYNC();\n");
    buf_printf(
        b,
        "        for (int64_t c = TID * %d; c < W; c += %d)\n"
        "            for (int32_t k = 0; k < all; k += 8) {\n"
        "                for (int q = 0; q < 8; q++)\n"
        "                    if (k + q < all) read_%s(x[q], rows + list[k + q] * W + c, %d);\n"
        "                for (int q = 0; q < 8; q++) {\n"
        "                    if (k + q >= all) continue;\n"
        "                    const int64_t at = (int64_t)ids[list[k + q]] * W + c;\n"
        "                    read_%s(sum, out + at, %d);\n"
        "                    for (int u = 0; u < %d; u++) sum[u] += x[q][u];\n"
        "                    write_%s(out + at, sum, %d);\n"
        "                }\n"
        "            }\n"
        "    }\n",
        v, 256 * v, from, v, to, v, v, to, v);
    opaque_threads(c, (t->dim[0] + 15) / 16 * 256);
}

/* A warp is one row: its lanes clear it, then one adds the m values in their order. */
void emit_unpick_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body, sum = {0};
    const Type *index = o->in[0];
    int64_t m = index->dim[index->rank - 1], rows = type_elements(index) / m;
    opaque_in(o, b, 0, "index");
    opaque_in(o, b, 1, "g");
    opaque_out(o, b, 0, "out");
    buf_printf(
        b,
        "    const int64_t SIZE = %lldll, M = %lldll, i = (int64_t)BID * 8 + TID / 32;\n"
        "    for (int64_t c = TID %% 32; i < %lldll && c < SIZE; c += 32) out[i * SIZE + c] = 0;\n"
        "    WARP_SYNC();\n"
        "    for (int64_t j = 0; i < %lldll && TID %% 32 == 0 && j < M; j++) {\n"
        "        const int64_t k = (int64_t)index[i * M + j], at = i * SIZE + k;\n"
        "        if (k >= 0 && k < SIZE) ",
        (long long)attr_int(o->n, "size"), (long long)m, (long long)rows, (long long)rows);
    put_load(&sum, o->out[0]->dtype, "out", "at");
    buf_puts(&sum, " + ");
    put_load(&sum, o->in[1]->dtype, "g", "i * M + j");
    put_store(b, o->out[0]->dtype, "out", "at", sum.p);
    buf_puts(b, "    }\n");
    buf_free(&sum);
    opaque_threads(c, rows * WARP);
}

/* ---- rows between tokens and experts ---- */

/* row: the thread's row of `rows`; j: its first of V elements. */
static void open_rows(Buf *b, int64_t rows, int64_t width, int v) {
    buf_printf(b,
               "    const int64_t D = %lldll, at = ((int64_t)BID * 256 + TID) * %d;\n"
               "    if (at < %lldll) {\n"
               "        const int64_t row = at / D, j = at %% D;\n",
               (long long)width, v, (long long)(rows * width));
}

static void to_experts(const Opaque *o, Code *c, bool gate, uint32_t source) {
    Buf *b = &c->body;
    const char *type = real(o->in[0]->dtype);
    int64_t rows = type_elements(o->in[source]), width = o->in[0]->dim[1];
    int v = vector(o, width, 0);
    opaque_in(o, b, 0, "x");
    if (gate) opaque_in(o, b, 1, "gate");
    opaque_in(o, b, source, "source");
    opaque_out(o, b, 0, "out");
    open_rows(b, rows, width, v);
    buf_printf(b,
               "        const int64_t pair = source[row];\n"
               "        float r[4] = {0, 0, 0, 0};\n"
               "        if (pair >= 0) read_%s(r, x + pair / %lldll * D + j, %d);\n",
               type, (long long)o->in[source - 1]->dim[1], v);
    if (gate) {
        buf_puts(b, "        if (pair >= 0) {\n            const float s = ");
        put_load(b, o->in[1]->dtype, "gate", "pair");
        buf_printf(b, ";\n            for (int u = 0; u < %d; u++) r[u] *= s;\n        }\n", v);
    }
    buf_printf(b, "        write_%s(out + at, r, %d);\n    }\n", type, v);
    opaque_threads(c, rows * width / v);
}

void emit_dispatch_cuda(const Opaque *o, Code *c) { to_experts(o, c, false, 2); }
void emit_dispatch_scaled_cuda(const Opaque *o, Code *c) { to_experts(o, c, true, 3); }

static void from_experts(const Opaque *o, Code *c, bool gate, uint32_t slot) {
    Buf *b = &c->body;
    int64_t tokens = o->in[slot]->dim[0], k = o->in[slot]->dim[1], width = o->out[0]->dim[1];
    int v = vector(o, width, 0);
    opaque_in(o, b, 0, "y");
    if (gate) opaque_in(o, b, 1, "gate");
    opaque_in(o, b, slot, "slot");
    opaque_out(o, b, 0, "out");
    open_rows(b, tokens, width, v);
    buf_printf(b,
               "        float sum[4] = {0, 0, 0, 0}, r[4];\n"
               "        for (int i = 0; i < %lld; i++) {\n"
               "            const int64_t pair = row * %lldll + i, from = slot[pair];\n"
               "            if (from < 0) continue;\n"
               "            const float s = ",
               (long long)k, (long long)k);
    if (gate)
        put_load(b, o->in[1]->dtype, "gate", "pair");
    else
        buf_puts(b, "1.0f");
    buf_printf(b,
               ";\n            read_%s(r, y + from * D + j, %d);\n"
               "            for (int u = 0; u < %d; u++) sum[u] += s * r[u];\n"
               "        }\n"
               "        write_%s(out + at, sum, %d);\n    }\n",
               real(o->in[0]->dtype), v, v, real(o->out[0]->dtype), v);
    opaque_threads(c, tokens * width / v);
}

void emit_combine_cuda(const Opaque *o, Code *c) { from_experts(o, c, true, 2); }
void emit_combine_sum_cuda(const Opaque *o, Code *c) { from_experts(o, c, false, 1); }

/* A warp is one choice of one token. */
void emit_gate_grad_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    int64_t pairs = type_elements(o->in[2]), k = o->in[2]->dim[1], width = o->in[1]->dim[1];
    int v = MIN(vector(o, width, 0), vector(o, width, 1));
    opaque_in(o, b, 0, "y");
    opaque_in(o, b, 1, "g");
    opaque_in(o, b, 2, "slot");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    const int64_t D = %lldll, pair = (int64_t)BID * 8 + TID / 32;\n"
               "    const int64_t row = pair < %lldll ? (int64_t)slot[pair] : -1;\n"
               "    float sum = 0, x[4], z[4];\n"
               "    for (int64_t j = TID %% 32 * %d; row >= 0 && j < D; j += %d) {\n"
               "        read_%s(x, y + row * D + j, %d);\n"
               "        read_%s(z, g + pair / %lldll * D + j, %d);\n"
               "        for (int u = 0; u < %d; u++) sum += x[u] * z[u];\n"
               "    }\n"
               "    sum = lanes_sum_f32(sum, 32);\n"
               "    if (pair < %lldll && TID %% 32 == 0) ",
               (long long)width, (long long)pairs, v, 32 * v, real(o->in[0]->dtype), v,
               real(o->in[1]->dtype), (long long)k, v, v, (long long)pairs);
    put_store(b, o->out[0]->dtype, "out", "pair", "sum");
    opaque_threads(c, pairs * WARP);
}

/* ---- routing ---- */

/* The t-th best expert of token s, in `best`: compared by one thread, or by the lanes of a warp,
 * each every 32nd and then each other. Ties go to the lower index. Earlier choices are found again
 * rather than kept. */
static void put_choice(Buf *b, const Opaque *o, bool warp) {
    buf_printf(b,
               "            int32_t taken[TOP], best = 0;\n"
               "            for (int n = 0; n <= t; n++) {\n"
               "                float most = 0;\n"
               "                best = -1;\n"
               "                for (int32_t e = %s; e < E; e += %d) {\n"
               "                    int skip = 0;\n"
               "                    for (int q = 0; q < n; q++) skip |= taken[q] == e;\n"
               "                    const float x = ",
               warp ? "TID % 32" : "0", warp ? WARP : 1);
    put_load(b, o->in[0]->dtype, "prob", "((g * S + s) * P + p) * E + e");
    buf_puts(b, ";\n"
                "                    if (!skip && (best < 0 || x > most)) most = x, best = e;\n"
                "                }\n");
    if (warp)
        buf_puts(
            b,
            "                for (int d = 16; d > 0; d /= 2) {\n"
            "                    const float x = shfl_xor_f32(most, d);\n"
            "                    const int32_t e = shfl_xor_i32(best, d);\n"
            "                    const int tie = x == most && e < best;\n"
            "                    if (e >= 0 && (best < 0 || x > most || tie)) most = x, best = e;\n"
            "                }\n");
    buf_puts(b, "                taken[n] = best;\n"
                "            }\n");
}

/* The choices of the N tokens from `first` on, in `pick`; -1 behind the last token. */
static void put_picks(Buf *b, const Opaque *o) {
    bool warp = o->in[0]->dim[3] > FEW_EXPERTS;
    if (warp)
        buf_puts(b, "        for (int i = TID / 32; i < N; i += N / 32) {\n");
    else
        buf_puts(b, "        {\n            const int i = TID;\n");
    buf_puts(b, "            const int64_t s = first + i < S ? first + i : S - 1;\n");
    put_choice(b, o, warp);
    buf_printf(b, "            %spick[i] = first + i < S ? best : -1;\n        }\n",
               warp ? "if (TID % 32 == 0) " : "");
}

/* N tokens at a time: their experts; then each thread counts the tokens before its own that chose
 * the same, and the last one of each expert carries the count on. */
static void put_chunk(Buf *b, const Opaque *o) {
    buf_puts(b, "    for (int first = 0; first < S; first += N) {\n");
    put_picks(b, o);
    buf_puts(b, "        SYNC();\n"
                "        const int32_t e = pick[TID];\n"
                "        int32_t rank = 0, after = 0, row = -1;\n"
                "        for (int i = 0; i < N; i += 4) {\n"
                "            uint32_t four[4];\n"
                "            load16(four, pick + i);\n"
                "            for (int k = 0; k < 4; k++) {\n"
                "                const int same = (int32_t)four[k] == e;\n"
                "                rank += same & (i + k < TID);\n"
                "                after |= same & (i + k > TID);\n"
                "            }\n"
                "        }\n"
                "        const int32_t arrived = e >= 0 ? seen[e] + rank : 0;\n"
                "        if (e >= 0 && base[e] + arrived < SLOTS)\n"
                "            row = (int32_t)((p * E + e) * rows + g * SLOTS) + base[e] + arrived;\n"
                "        SYNC();\n"
                "        if (e >= 0 && !after) seen[e] = arrived + 1;\n"
                "        if (e >= 0) {\n"
                "            const int64_t pair = ((g * S + first + TID) * P + p) * TOP + t;\n");
    if (o->want[0]) buf_puts(b, "            choice[pair] = e;\n");
    if (o->want[1]) buf_puts(b, "            slot[pair] = row;\n");
    if (o->want[2]) buf_puts(b, "            if (row >= 0) source[row] = (int32_t)pair;\n");
    buf_puts(b, "        }\n    }\n    SYNC();\n");
}

/* A block is one prototype of one group, as an item is on the CPU. */
void emit_route_cuda(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const int64_t *dim = o->in[0]->dim;
    static const char *const names[] = {"choice", "slot", "source", "density"};
    int threads = 64;
    while (threads < dim[1] && threads < ROUTE_THREADS) threads *= 2;
    if (dim[3] > MOST_EXPERTS)
        diag_error(
            o->g->session, o->n->loc,
            "a prototype of %lld experts: a GPU's shared memory counts the tokens of at most "
            "%d; use more prototypes",
            (long long)dim[3], MOST_EXPERTS);
    opaque_in(o, b, 0, "prob");
    for (uint32_t i = 0; i < 4; i++) opaque_out(o, b, i, names[i]);
    buf_printf(b,
               "    enum { G = %lld, S = %lld, P = %lld, E = %lld, TOP = %lld, SLOTS = %lld };\n"
               "    enum { N = %d };\n"
               "    SHARED(int32_t, pick, N);\n"
               "    DYNAMIC_SHARED(counts);\n"
               "    int32_t *base = (int32_t *)counts, *seen = base + E;\n"
               "    const int64_t rows = (int64_t)G * SLOTS, g = BID / P, p = BID %% P;\n"
               "    for (int e = TID; e < E; e += N) base[e] = seen[e] = 0;\n",
               (long long)dim[0], (long long)dim[1], (long long)dim[2], (long long)dim[3],
               (long long)attr_int(o->n, "top"), (long long)attr_int(o->n, "slots"), threads);
    if (o->want[2])
        buf_puts(b, "    for (int64_t i = TID; i < (int64_t)E * SLOTS; i += N)\n"
                    "        source[(p * E + i / SLOTS) * rows + g * SLOTS + i % SLOTS] = -1;\n");
    buf_puts(b, "    SYNC();\n    for (int t = 0; t < TOP; t++) {\n");
    put_chunk(b, o);
    buf_puts(b, "    for (int e = TID; e < E; e += N) {\n");
    if (o->want[3])
        buf_puts(b,
                 "        density[((g * P + p) * TOP + t) * E + e] = (float)seen[e] / (float)S;\n");
    buf_puts(b, "        base[e] = base[e] + seen[e] < SLOTS ? base[e] + seen[e] : SLOTS;\n"
                "        seen[e] = 0;\n    }\n    SYNC();\n    }\n");
    c->items = dim[0] * dim[2];
    c->threads = threads;
    c->shared = 8 * dim[3];
}

/* ---- epilogues of products ---- */

/* gelu's gradient and the sums of columns: a block has 32 columns, its 8 warps every eighth row;
 * the warps' sums are added in their order. A library does this in the product: rather simple than
 * fast. */
static void print_grad_sum(const PlanGemm *g, int64_t rows, Code *c) {
    Buf *b = &c->body;
    const char *type = real(g->dc), *element = ctype_storage(g->dc);
    buf_printf(b,
               "{\n    SHARED(float, part, 256);\n"
               "    const int64_t W = %lldll, c = (int64_t)BID * 32 + TID %% 32;\n"
               "    float x[1], y[1], sum[1] = {0};\n"
               "    for (int64_t r = TID / 32; c < W && r < %lldll; r += 8) {\n"
               "        read_%s(x, (const %s *)ARG(1) + r * W + c, 1);\n"
               "        read_%s(y, (const %s *)ARG(0) + r * W + c, 1);\n"
               "        y[0] *= gelu_grad_f32(x[0]);\n"
               "        write_%s((%s *)ARG(0) + r * W + c, y, 1);\n"
               "        sum[0] += y[0];\n"
               "    }\n"
               "    part[TID] = sum[0];\n"
               "    SYNC();\n"
               "    for (int i = 1; i < 8; i++) sum[0] += part[(TID + 32 * i) %% 256];\n"
               "    if (c < W && TID < 32) write_%s((%s *)ARG(2) + c, sum, 1);\n}\n",
               (long long)g->n, (long long)rows, type, element, type, element, type, element, type,
               element);
    opaque_threads(c, (g->n + 31) / 32 * 256);
}

/* Four elements a thread: rows are a multiple of eight. C may be X. */
void epilogue_cuda_print(const PlanGemm *g, Code *c) {
    Buf *b = &c->body;
    const char *type = real(g->dc), *element = ctype_storage(g->dc);
    int64_t n = g->m * g->n;
    for (int i = 0; i < g->nbatch; i++) n *= g->count[i];
    ASSERT(g->n % 4 == 0 && g->ldc == g->n);
    if (g->epilogue == EPILOGUE_GELU_GRAD_SUM) {
        print_grad_sum(g, n / g->n, c);
        return;
    }
    bool bias = g->epilogue == EPILOGUE_BIAS_GELU, grad = g->epilogue == EPILOGUE_GELU_GRAD;
    buf_printf(b,
               "{\n    const int64_t at = ((int64_t)BID * 256 + TID) * 4;\n"
               "    float x[4], y[4];\n"
               "    if (at < %lldll) {\n"
               "        read_%s(x, (const %s *)ARG(1) + at, 4);\n",
               (long long)n, type, element);
    if (bias)
        buf_printf(b, "        read_%s(y, (const %s *)ARG(2) + at %% %lldll, 4);\n", type, element,
                   (long long)g->n);
    if (grad) buf_printf(b, "        read_%s(y, (const %s *)ARG(0) + at, 4);\n", type, element);
    buf_printf(b, "        for (int i = 0; i < 4; i++) %s\n",
               grad   ? "y[i] *= gelu_grad_f32(x[i]);"
               : bias ? "x[i] += y[i], y[i] = gelu_f32(x[i]);"
                      : "y[i] = gelu_f32(x[i]);");
    if (bias) buf_printf(b, "        write_%s((%s *)ARG(1) + at, x, 4);\n", type, element);
    buf_printf(b, "        write_%s((%s *)ARG(0) + at, y, 4);\n    }\n}\n", type, element);
    opaque_threads(c, n / 4);
}

/* A block reads all its elements before it writes one: a single one may convert in place. */
void convert_cuda_print(Dtype from, Dtype to, bool pack, Code *c) {
    ASSERT(PLAN_CONVERT_BLOCK == 4 * 256);
    Buf *b = &c->body;
    bool same = from == to;
    const char *in = ctype_storage(from), *out = ctype_storage(to);
    buf_printf(b,
               "{\n    const int64_t n = (int64_t)ARG(2), run = (int64_t)ARG(4);\n"
               "    %s x[4] = {0, 0, 0, 0};\n    int64_t of[4], in[4];\n",
               same ? in : "float");
    if (!same) buf_puts(b, "    const float scale = bits_f32((uint32_t)(uint64_t)ARG(3));\n");
    buf_printf(b,
               "    for (int k = 0; k < 4; k++) {\n"
               "        const int64_t at = (int64_t)BID * 1024 + TID + 256 * k;\n"
               "        of[k] = at < n ? at / run : -1, in[k] = at %% run;\n"
               "        if (of[k] < 0) continue;\n"
               "        const %s *p = (const %s *)ARG(0) + of[k] * (int64_t)ARG(5) + in[k];\n",
               in, in);
    if (same)
        buf_puts(b, "        x[k] = *p;\n");
    else
        buf_printf(b, "        read_%s(x + k, p, 1);\n", real(from));
    buf_printf(b,
               "    }\n    SYNC();\n    for (int k = 0; k < 4; k++) {\n"
               "        if (of[k] < 0) continue;\n"
               "        %s *p = (%s *)ARG(1) + of[k] * (int64_t)ARG(6) + in[k];\n",
               out, out);
    if (same)
        buf_puts(b, "        *p = x[k];\n    }\n}\n");
    else
        buf_printf(b, "        x[k] %s scale;\n        write_%s(p, x + k, 1);\n    }\n}\n",
                   pack ? "*=" : "/=", real(to));
    c->threads = 256;
}
