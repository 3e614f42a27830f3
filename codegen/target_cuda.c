/* target_cuda.c: prints a Kernel as CUDA C.
 *
 * A thread takes `v` neighbouring columns at a time (16 bytes of the narrowest operand), `t`
 * threads take a row, `k` vectors each, and `y` rows are under way in a block.
 *
 * Flat: no reductions; a thread is one vector of one row.
 *
 * Rows: a block is y rows; row reductions go through shuffles, and through shared memory where t is
 * more than a warp.
 *
 * Columns: a block is rows / outer rows, y at a time, of all columns or, where nothing wants whole
 * rows, of t * v of them. Sums of columns wait in registers; the y of them are added up in shared
 * memory, in their order, at the end.
 *
 * Loops over vectors are unrolled, so that what later phases need stays in registers: loads that
 * more than one phase reads, and what is dear to compute again, as long as there is room; beyond
 * that it is loaded or computed again. A row behind the last is not there for its threads, but they
 * take part in reductions. No atomics: results do not vary from run to run. */
#include "codegen/express.h"

#include <stdlib.h>
#include <string.h>

enum { THREADS = 256, ROW_THREADS = 128, MAX_THREADS = 1024, WARP = 32 };
enum { KEPT_WORDS = 64, ROW_WORDS = 32, MIXED_WORDS = 8, UNROLL = 16, REGISTERS = 65536 };

typedef enum { FLAT, ROWS, COLUMNS } Shape;

typedef struct {
    Print p; /* first: p.full_load gets it */
    Shape shape;
    int v, t, y, k;
    int64_t tiles, rows; /* columns: blocks beside each other; rows of a block */
    bool barrier;        /* rows of a thread are behind barriers */
    bool *wide;          /* by instruction: a load of v elements at once */
} Cuda;

/* The smallest power of two that is at least n, at most `most`. */
static int power_above(int64_t n, int most) {
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

/* ---- vectors ---- */

static int64_t inner(const Kernel *k) { return k->dim[k->ndim - 1]; }

static bool divides(int v, int64_t x) { return x % v == 0; }

/* Every load is of whole vectors where it is of vectors at all: guards must not cut them. */
static bool vector_fits(const Kernel *k, int v) {
    if (!divides(v, inner(k))) return false;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = &k->inst.p[r];
        if (i->guarded && !(divides(v, i->lo[k->ndim - 1]) && divides(v, i->hi[k->ndim - 1])))
            return false;
    }
    return true;
}

/* 16 bytes of the narrowest operand, fewer where many are under way. */
static int vector_size(const Kernel *k) {
    int v = 4, full = 0;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = &k->inst.p[r];
        if (i->kind != INST_LOAD || i->level != LEVEL_FULL) continue;
        full++;
        if (dtype_size(i->dtype) <= 2) v = 8;
    }
    if (full > 6) v = 4;
    while (v > 1 && !vector_fits(k, v)) v /= 2;
    return v;
}

static bool is_wide(const Cuda *c, const Inst *i) {
    const Kernel *k = c->p.k;
    int size = dtype_size(i->dtype), bytes = size * c->v, step = MIN(bytes, 16);
    if (i->kind != INST_LOAD || i->level != LEVEL_FULL || i->index != NO_INST) return false;
    if (size > 4 || c->v == 1 || bytes < 4 || i->stride[k->ndim - 1] != 1) return false;
    if (i->offset * size % step != 0) return false;
    for (int d = 0; d < k->ndim - 1; d++)
        if (k->dim[d] > 1 && i->stride[d] * size % step != 0) return false;
    return true;
}

/* ---- shape ---- */

static bool has_row_stores(const Kernel *k) {
    for (uint32_t s = 0; s < k->store.n; s++)
        if (k->store.p[s].level == LEVEL_ROW) return true;
    return false;
}

static bool has_row_reductions(const Kernel *k) {
    for (uint32_t r = 0; r < k->inst.n; r++)
        if (k->inst.p[r].kind == INST_REDUCE && k->inst.p[r].level == LEVEL_ROW) return true;
    return false;
}

/* Threads of a row: a warp, or as many as keep its vectors below `words` a thread. */
static void share_row(Cuda *c, int64_t vectors, int words) {
    c->t = power_above(vectors, WARP);
    while (c->t < MAX_THREADS && ceil_div(vectors, c->t) * c->v > words) c->t *= 2;
    c->k = (int)ceil_div(vectors, c->t);
}

/* Rows at a time: about `threads` in a block, whole warps, and no more than there are rows. */
static void share_block(Cuda *c, int threads, int64_t rows) {
    c->y = MAX(1, threads / c->t);
    while (c->y > 1 && c->y / 2 >= rows && c->t * c->y > WARP) c->y /= 2;
}

static void choose_columns(Cuda *c, bool reduces) {
    const Kernel *k = c->p.k;
    int64_t vectors = k->cols / c->v;
    c->shape = COLUMNS;
    c->rows = k->rows / k->outer;
    bool whole = reduces || k->phases > 1 || has_row_stores(k);
    if (whole) {
        share_row(c, vectors, MIXED_WORDS);
    } else {
        c->t = power_above(vectors, WARP);
        c->k = 1;
    }
    c->tiles = whole ? 1 : ceil_div(vectors, c->t);
    share_block(c, THREADS, c->rows);
}

static void choose_shape(Cuda *c) {
    const Kernel *k = c->p.k;
    bool reduces = has_row_reductions(k);
    c->v = vector_size(k);
    c->tiles = 1;
    if (k->outer) {
        choose_columns(c, reduces);
    } else if (reduces || has_row_stores(k)) {
        c->shape = ROWS;
        share_row(c, k->cols / c->v, ROW_WORDS);
        share_block(c, ROW_THREADS, k->rows);
    } else {
        c->shape = FLAT;
        c->t = THREADS;
        c->y = c->k = 1;
    }
    c->barrier = c->t > WARP && reduces;
}

static int threads_of(const Cuda *c) { return c->t * c->y; }

static int64_t blocks_of(const Cuda *c) {
    const Kernel *k = c->p.k;
    switch (c->shape) {
    case FLAT: return ceil_div(k->rows * k->cols / c->v, c->t);
    case ROWS: return ceil_div(k->rows, c->y);
    default: return k->outer * c->tiles;
    }
}

/* Is every index below 2^31, so that cheap integers do? */
static bool is_small(const Cuda *c) {
    const Kernel *k = c->p.k;
    int64_t most = blocks_of(c) * threads_of(c) * c->v;
    most = MAX(most, k->rows * k->cols);
    for (uint32_t r = 0; r < k->inst.n; r++) {
        int64_t last = llabs(k->inst.p[r].offset);
        for (int d = 0; d < k->ndim; d++) last += k->dim[d] * llabs(k->inst.p[r].stride[d]);
        most = MAX(most, last);
    }
    return most < INT32_MAX;
}

/* ---- what stays in registers ---- */

static int words(Dtype d) { return d == DT_F64 || d == DT_I64 ? 2 : 1; }

static int loops_that_need(Cuda *c, uint32_t r) {
    int n = 0;
    for (int phase = 0; phase < c->p.k->phases; phase++)
        n += plan_loop(&c->p, phase) && c->p.need[r];
    return n;
}

/* Dear values first, then loads; nothing when the sums of columns leave no room. */
static void keep_values(Cuda *c) {
    const Kernel *k = c->p.k;
    int64_t size = c->k * c->v, room = MIN(KEPT_WORDS, REGISTERS / threads_of(c) / 2 - 8);
    for (uint32_t r = 0; r < k->inst.n; r++)
        if (k->inst.p[r].level == LEVEL_COL) room -= size;
    plan_arrays(&c->p, size, room);
    for (uint32_t r = 0; r < k->inst.n; r++) room -= c->p.array[r] ? size : 0;
    for (uint32_t r = 0; r < k->inst.n && k->phases > 1; r++) {
        const Inst *i = &k->inst.p[r];
        int64_t want = size * words(i->dtype);
        if (i->kind != INST_LOAD || i->level != LEVEL_FULL || want > room) continue;
        if (c->p.array[r] || loops_that_need(c, r) < 2) continue;
        room -= want;
        c->p.array[r] = true;
    }
}

static bool keeps_any(const Cuda *c) {
    for (uint32_t r = 0; r < c->p.k->inst.n; r++)
        if (c->p.array[r] || inst(&c->p, r)->level == LEVEL_COL) return true;
    return false;
}

/* ---- loads and stores of vectors ---- */

/* load16(w3, ..), load16(w3 + 4, ..): `bytes` bytes at `at`. */
static void print_pieces(Print *p, const char *what, const char *reg, const char *at, int bytes) {
    int piece = MIN(bytes, 16);
    bool load = *what == 'l';
    for (int done = 0; done < bytes; done += piece) {
        Buf w = {0}, a = {0};
        buf_printf(&w, "%s + %d", reg, done / 4);
        buf_printf(&a, "(char *)(%s) + %d", at, done);
        line(p, "%s%d(%s, %s);", what, piece, load ? w.p : a.p, load ? a.p : w.p);
        buf_free(&w);
        buf_free(&a);
    }
}

static void print_wide_load(Cuda *c, uint32_t r) {
    Print *p = &c->p;
    const Inst *i = inst(p, r);
    int bytes = dtype_size(i->dtype) * c->v, dims = p->k->ndim;
    bool guard = has_guard(p, i, 0, dims);
    Buf at = {0}, w = {0}, g = {0};
    buf_printf(&at, "a%u + ", i->arg);
    put_index(p, &at, i, 0, dims, true);
    buf_printf(&w, "w%u", r);
    line(p, guard ? "uint32_t w%u[%d] = {0};" : "uint32_t w%u[%d];", r, bytes / 4);
    if (guard) {
        put_guard(p, &g, i, 0, dims);
        line(p, "if (%s) {", g.p);
        p->indent++;
    }
    print_pieces(p, "load", w.p, at.p, bytes);
    if (guard) p->indent--, line(p, "}");
    buf_free(&at);
    buf_free(&w);
    buf_free(&g);
}

static void put_full_load(const Print *p, Buf *out, uint32_t r) {
    const Cuda *c = (const Cuda *)(const void *)p;
    const Inst *i = inst(p, r);
    Buf e = {0};
    if (!c->wide[r]) {
        put_direct_load(p, out, i);
        return;
    }
    switch (dtype_size(i->dtype)) {
    case 4: buf_printf(&e, i->dtype == DT_F32 ? "bits_f32(w%u[u])" : "(int32_t)w%u[u]", r); break;
    case 2: buf_printf(&e, "(uint16_t)(w%u[u / 2] >> u %% 2 * 16)", r); break;
    default: buf_printf(&e, "(int32_t)(w%u[u / 4] >> u %% 4 * 8 & 255)", r); break;
    }
    put_loaded(out, i->dtype, e.p);
    buf_free(&e);
}

static bool is_wide_store(const Cuda *c, const Store *s) {
    int size = dtype_size(c->p.k->arg.p[s->arg].dtype);
    return s->level == LEVEL_FULL && c->v > 1 && size <= 4 && size * c->v >= 4;
}

/* The lane's element into its word. */
static void print_pack(Cuda *c, const Store *s) {
    Dtype d = c->p.k->arg.p[s->arg].dtype;
    uint32_t a = s->arg, v = s->inst;
    int size = dtype_size(d), per = 4 / size;
    Buf e = {0};
    if (d == DT_F32)
        buf_printf(&e, "f32_bits(v%u)", v);
    else if (size == 2)
        buf_printf(&e, "(uint32_t)f32_%s(v%u)", dtype_name(d), v);
    else
        buf_printf(&e, size == 1 ? "(uint32_t)(uint8_t)v%u" : "(uint32_t)v%u", v);
    if (per == 1)
        line(&c->p, "s%u[u] = %s;", a, e.p);
    else
        line(&c->p, "s%u[u / %d] = (u %% %d ? s%u[u / %d] : 0) | %s << u %% %d * %d;", a, per, per,
             a, per, e.p, per, 8 * size);
    buf_free(&e);
}

/* ---- loops over the vectors of a row ---- */

/* The number of the column, counted through all column dims. */
static const char *column(const Cuda *c) { return c->p.k->ncol == 1 ? "c" : "e"; }

static void print_column_index(Cuda *c) {
    const Kernel *k = c->p.k;
    int64_t block = k->cols;
    for (int j = 0; k->ncol > 1 && j < k->ncol; j++) {
        int64_t size = k->dim[row_dims(k) + j], outer = block;
        block /= size;
        Buf e = {0};
        buf_puts(&e, "e");
        if (block > 1) buf_printf(&e, " / %lld", (long long)block);
        if (outer != k->cols) buf_printf(&e, " %% %lld", (long long)size);
        line(&c->p, "const %s j%d = %s;", c->p.index, j, e.p);
        buf_free(&e);
    }
}

static void print_stores(Cuda *c, int phase, void (*print)(Cuda *c, const Store *s)) {
    for (uint32_t s = 0; s < c->p.k->store.n; s++) {
        const Store *st = &c->p.k->store.p[s];
        if (st->level == LEVEL_FULL && store_phase(&c->p, st) == phase) print(c, st);
    }
}

static void declare_pack(Cuda *c, const Store *s) {
    int size = dtype_size(c->p.k->arg.p[s->arg].dtype);
    if (is_wide_store(c, s)) line(&c->p, "uint32_t s%u[%d];", s->arg, size * c->v / 4);
}

static bool has_live(const Cuda *c) {
    return c->shape == ROWS ? c->p.k->rows % c->y != 0 : c->shape == COLUMNS && c->rows % c->y != 0;
}

/* The element's number: rows and columns before it. */
static void put_element(const Cuda *c, Buf *out) {
    if (c->p.k->rows > 1) buf_printf(out, "row * %lld + ", (long long)c->p.k->cols);
    buf_puts(out, column(c));
}

static void print_lane_store(Cuda *c, const Store *s) {
    Buf at = {0};
    if (is_wide_store(c, s)) {
        print_pack(c, s);
        return;
    }
    put_element(c, &at);
    if (c->v > 1) buf_puts(&at, " + u");
    print_store(&c->p, s, at.p);
    buf_free(&at);
}

static void print_wide_store(Cuda *c, const Store *s) {
    int size = dtype_size(c->p.k->arg.p[s->arg].dtype);
    Buf at = {0}, w = {0};
    if (!is_wide_store(c, s)) return;
    buf_printf(&at, "a%u + ", s->arg);
    put_element(c, &at);
    buf_printf(&w, "s%u", s->arg);
    print_pieces(&c->p, "store", w.p, at.p, size * c->v);
    buf_free(&at);
    buf_free(&w);
}

/* One vector: loads, then each lane's values, then stores. */
static void print_vector(Cuda *c, int phase) {
    Print *p = &c->p;
    for (uint32_t r = 0; r < p->k->inst.n; r++)
        if (c->wide[r] && p->need[r] && !(p->array[r] && inst(p, r)->phase < phase))
            print_wide_load(c, r);
    print_stores(c, phase, declare_pack);
    if (c->v > 1) {
        line(p, "#pragma unroll");
        line(p, "for (int u = 0; u < %d; u++) {", c->v);
        p->indent++;
        p->lane = "u";
    }
    print_loop_values(p, phase);
    print_stores(c, phase, print_lane_store);
    p->lane = NULL;
    if (c->v > 1) p->indent--, line(p, "}");
    print_stores(c, phase, print_wide_store);
}

static void print_first_column(Cuda *c) {
    const char *name = column(c), *type = c->p.index, *first = c->tiles > 1 ? "tile" : "k";
    if (c->shape == FLAT && c->p.k->rows == 1)
        line(&c->p, "const %s %s = at;", type, name);
    else if (c->shape == FLAT)
        line(&c->p, "const %s %s = at %% %lld;", type, name, (long long)c->p.k->cols);
    else
        line(&c->p, "const %s %s = (%s * %d + lane) * %d;", type, name, first, c->t, c->v);
}

/* Do threads reach beyond the last column? */
static bool is_ragged(const Cuda *c) {
    return c->shape != FLAT && c->tiles * c->t * c->k * c->v != c->p.k->cols;
}

/* `row`: inside a row, which may not be there. */
static bool has_condition(const Cuda *c, bool row) { return is_ragged(c) || (row && has_live(c)); }

static void open_vectors(Cuda *c, bool row) {
    Print *p = &c->p;
    bool live = row && has_live(c), ragged = is_ragged(c);
    if (c->k > 1) {
        line(p, c->k <= UNROLL || keeps_any(c) ? "#pragma unroll" : "#pragma unroll 4");
        line(p, "for (int k = 0; k < %d; k++) {", c->k);
    } else {
        line(p, "{");
        line(p, "    const int k = 0;");
    }
    p->indent++;
    print_first_column(c);
    print_column_index(c);
    if (!has_condition(c, row)) return;
    if (ragged)
        line(p, "if (%s%s < %lld) {", live ? "live && " : "", column(c), (long long)p->k->cols);
    else
        line(p, "if (live) {");
    p->indent++;
}

static void close_vectors(Cuda *c, bool row) {
    if (has_condition(c, row)) c->p.indent--, line(&c->p, "}");
    c->p.indent--;
    line(&c->p, "}");
}

static const char *reduce_suffix(Dtype d) {
    return d == DT_F64 ? "f64" : d == DT_I64 ? "i64" : dtype_is_float(d) ? "f32" : "i32";
}

/* The threads' parts of a row reduction become one value in all of them. */
static void print_combines(Cuda *c, int phase) {
    for (uint32_t r = 0; r < c->p.k->inst.n; r++) {
        const Inst *i = inst(&c->p, r);
        if (!in_loop(i, phase) || i->level != LEVEL_ROW || c->t == 1) continue;
        const char *op = op_info(i->op)->name, *s = reduce_suffix(i->dtype);
        if (c->t > WARP)
            line(&c->p, "v%u = group_%s_%s(v%u, %d, red_%s);", r, op, s, r, c->t, s);
        else
            line(&c->p, "v%u = lanes_%s_%s(v%u, %d);", r, op, s, r, c->t);
    }
}

static void print_phase(Cuda *c, int phase) {
    Print *p = &c->p;
    print_row_values(p, phase);
    if (!plan_loop(p, phase)) return;
    print_starts(p, phase);
    open_vectors(c, true);
    print_vector(c, phase);
    close_vectors(c, true);
    print_combines(c, phase);
}

/* ---- rows ---- */

static void declare_kept(Cuda *c) {
    for (uint32_t r = 0; r < c->p.k->inst.n; r++)
        if (c->p.array[r])
            line(&c->p, "%s t%u[%d][%d];", ctype_register(inst(&c->p, r)->dtype), r, c->k, c->v);
}

/* All threads of a row have read what is stored now, perhaps over it. */
static void print_row_stores(Cuda *c) {
    Print *p = &c->p;
    if (!has_row_stores(p->k)) return;
    line(p, c->t > WARP ? "SYNC();" : "WARP_SYNC();");
    for (uint32_t s = 0; s < p->k->store.n; s++) {
        if (p->k->store.p[s].level != LEVEL_ROW) continue;
        line(p, has_live(c) ? "if (lane == 0 && live)" : "if (lane == 0)");
        p->indent++;
        print_store(p, &p->k->store.p[s], "row");
        p->indent--;
    }
}

static void print_row(Cuda *c) {
    print_row_index(&c->p);
    declare_kept(c);
    for (int phase = 0; phase < c->p.k->phases; phase++) print_phase(c, phase);
    print_row_stores(c);
}

static void print_lanes(Cuda *c) {
    line(&c->p, "const int lane = TID %% %d;", c->t);
    if (c->y > 1) line(&c->p, "const int g = TID / %d;", c->t);
}

static void print_flat(Cuda *c) {
    Print *p = &c->p;
    const char *type = p->index;
    line(p, "const %s at = ((%s)block * %d + TID) * %d;", type, type, c->t, c->v);
    line(p, "if (at < n) {");
    p->indent++;
    if (p->k->rows > 1)
        line(p, "const %s row = at / %lld;", type, (long long)p->k->cols);
    else
        line(p, "const %s row = 0;", type);
    print_row(c);
    p->indent--;
    line(p, "}");
}

static void print_rows(Cuda *c) {
    Print *p = &c->p;
    long long last = (long long)p->k->rows - 1;
    print_lanes(c);
    if (c->y == 1) {
        line(p, "const %s row = block;", p->index);
    } else {
        line(p, "const %s r = (%s)block * %d + g;", p->index, p->index, c->y);
        if (has_live(c)) line(p, "const int live = r <= %lld;", last);
        if (has_live(c))
            line(p, "const %s row = live ? r : %lld;", p->index, last);
        else
            line(p, "const %s row = r;", p->index);
    }
    print_row(c);
}

/* ---- columns ---- */

static void for_columns(Cuda *c, void (*print)(Cuda *c, uint32_t r)) {
    for (uint32_t r = 0; r < c->p.k->inst.n; r++)
        if (inst(&c->p, r)->level == LEVEL_COL) print(c, r);
}

static void open_sums(Cuda *c) {
    line(&c->p, "#pragma unroll");
    line(&c->p, "for (int k = 0; k < %d; k++)", c->k);
    line(&c->p, "    #pragma unroll");
    line(&c->p, "    for (int u = 0; u < %d; u++) {", c->v);
    c->p.indent += 2;
}

static void close_sums(Cuda *c) {
    c->p.indent--;
    line(&c->p, "}");
    c->p.indent--;
}

static void start_sums(Cuda *c, uint32_t r) {
    const Inst *i = inst(&c->p, r);
    Buf e = {0};
    put_start(&e, i->op, i->dtype);
    line(&c->p, "%s v%u[%d][%d];", ctype_register(i->dtype), r, c->k, c->v);
    open_sums(c);
    line(&c->p, "v%u[k][u] = %s;", r, e.p);
    close_sums(c);
    buf_free(&e);
}

/* v[k][u] of group 1, 2, .. is added to that of group 0. */
static void add_groups(Cuda *c, uint32_t r) {
    Print *p = &c->p;
    const Inst *i = inst(p, r);
    const char *type = ctype_register(i->dtype), *s = reduce_suffix(i->dtype);
    Buf e = {0};
    line(p, "for (int y = 1; y < %d; y++) {", c->y);
    p->indent++;
    line(p, "SYNC();");
    line(p, "if (g == y)");
    p->indent++;
    open_sums(c);
    line(p, "col_%s[(k * %d + u) * %d + lane] = v%u[k][u];", s, c->v, c->t, r);
    close_sums(c);
    p->indent--;
    line(p, "SYNC();");
    line(p, "if (g == 0)");
    p->indent++;
    open_sums(c);
    line(p, "const %s x = col_%s[(k * %d + u) * %d + lane];", type, s, c->v, c->t);
    buf_printf(&e,
               i->op == OP_sum   ? "v%u[k][u] += x;"
               : i->op == OP_max ? "if (x > v%u[k][u]) v%u[k][u] = x;"
                                 : "if (x < v%u[k][u]) v%u[k][u] = x;",
               r, r);
    line(p, "%s", e.p);
    close_sums(c);
    p->indent -= 2;
    line(p, "}");
    buf_free(&e);
}

static void print_column_stores(Cuda *c) {
    Print *p = &c->p;
    if (c->y > 1) line(p, "if (g == 0) {"), p->indent++;
    open_vectors(c, false);
    line(p, "#pragma unroll");
    line(p, "for (int u = 0; u < %d; u++) {", c->v);
    p->indent++;
    for (uint32_t s = 0; s < p->k->store.n; s++) {
        const Store *st = &p->k->store.p[s];
        Dtype d = p->k->arg.p[st->arg].dtype;
        bool half = dtype_is_half(d);
        if (st->level != LEVEL_COL) continue;
        line(p, "a%u[outer * %lld + %s + u] = %s%s(v%u[k][u]);", st->arg, (long long)p->k->cols,
             column(c), half ? "f32_" : "", half ? dtype_name(d) : "", st->inst);
    }
    p->indent--;
    line(p, "}");
    close_vectors(c, false);
    if (c->y > 1) p->indent--, line(p, "}");
}

static void print_row_loop(Cuda *c) {
    Print *p = &c->p;
    long long n = (long long)c->rows;
    if (!c->barrier) line(p, "#pragma unroll %d", c->k * c->v <= 8 ? 4 : 1);
    line(p, "for (%s r = 0; r < %lld; r += %d) {", p->index, n, c->y);
    p->indent++;
    if (has_live(c)) line(p, "const int live = r + g < %lld;", n);
    if (has_live(c))
        line(p, "const %s row = outer * %lld + (live ? r + g : %lld);", p->index, n, n - 1);
    else
        line(p, "const %s row = outer * %lld + r%s;", p->index, n, c->y > 1 ? " + g" : "");
    print_row(c);
    p->indent--;
    line(p, "}");
}

static void print_columns(Cuda *c) {
    Print *p = &c->p;
    print_lanes(c);
    if (c->tiles > 1) {
        line(p, "const %s outer = block / %lld;", p->index, (long long)c->tiles);
        line(p, "const %s tile = block %% %lld;", p->index, (long long)c->tiles);
    } else {
        line(p, "const %s outer = block;", p->index);
    }
    for_columns(c, start_sums);
    print_row_loop(c);
    if (c->y > 1) for_columns(c, add_groups);
    print_column_stores(c);
}

/* ---- the kernel ---- */

/* Shared arrays, one per type: parts of row reductions, sums of columns. */
static void declare_shared(Cuda *c) {
    static const Dtype types[] = {DT_F32, DT_F64, DT_I32, DT_I64};
    for (size_t i = 0; i < COUNT(types); i++) {
        const char *s = reduce_suffix(types[i]);
        bool row = false, col = false;
        for (uint32_t r = 0; r < c->p.k->inst.n; r++) {
            const Inst *x = inst(&c->p, r);
            if (x->kind != INST_REDUCE || strcmp(reduce_suffix(x->dtype), s) != 0) continue;
            row |= x->level == LEVEL_ROW && c->t > WARP;
            col |= x->level == LEVEL_COL && c->y > 1;
        }
        if (row) line(&c->p, "SHARED(%s, red_%s, %d);", ctype_register(types[i]), s, WARP);
        if (col)
            line(&c->p, "SHARED(%s, col_%s, %d);", ctype_register(types[i]), s, c->t * c->k * c->v);
    }
}

static void print_size(Cuda *c) {
    line(&c->p, "const %s n = %lld;", c->p.index, (long long)(c->p.k->rows * c->p.k->cols));
}

/* All but where the kernel's blocks and pointers begin: plan_join.c may put several into one, each
 * with blocks of its own and pointers from ARG(base) on. Flat kernels of one row do not say their
 * size either, which is n. */
static void print_inner(Cuda *c) {
    c->p.base = "base + ";
    if (c->shape == FLAT && !c->p.k->flat) print_size(c);
    declare_shared(c);
    print_args(&c->p);
    switch (c->shape) {
    case FLAT: print_flat(c); break;
    case ROWS: print_rows(c); break;
    case COLUMNS: print_columns(c); break;
    }
}

static void print_body(Cuda *c, Code *code) {
    c->p.out = &code->inner;
    print_inner(c);
    c->p.out = &code->body;
    buf_puts(&code->body, "{\n");
    line(&c->p, "const int32_t base = 0, block = BID;");
    if (c->shape == FLAT && c->p.k->flat) {
        print_size(c);
        code->elements = c->p.k->rows * c->p.k->cols;
    }
    buf_puts(&code->body, code->inner.p);
    buf_puts(&code->body, "}\n");
}

void target_cuda_print(const Kernel *k, Code *code) {
    Cuda c = {.p = print_open(k, &code->body)};
    c.p.full_load = put_full_load;
    choose_shape(&c);
    c.p.index = is_small(&c) ? "int32_t" : "int64_t";
    c.wide = xcalloc(k->inst.n + 1, sizeof *c.wide);
    for (uint32_t r = 0; r < k->inst.n; r++) c.wide[r] = is_wide(&c, &k->inst.p[r]);
    keep_values(&c);
    c.p.at = c.p.col = c.v > 1 ? "[k][u]" : "[k][0]";
    c.p.live = has_live(&c) ? "live" : "";
    print_body(&c, code);
    code->items = blocks_of(&c);
    code->threads = threads_of(&c);
    free(c.wide);
    print_close(&c.p);
}
