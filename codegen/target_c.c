/* target_c.c: prints a Kernel as C that gcc and clang vectorise.
 *
 * An item is a row; or, where nothing needs whole rows, a block of columns of one row; or, for
 * column reductions, a block of columns of `rows / outer` rows. Each phase is one loop over the
 * columns. A full value that a later phase needs is computed again when that is cheap, and else
 * waits in an array as long as the row. Bounds are constants; pointers are not `restrict`, because
 * an output may lie over an input (all loads of an element come before its stores). */
#include "codegen/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EW_BLOCK = 4096, COLUMN_BLOCK = 256, ARRAY_BYTES = 512 * 1024, CHEAP = 3 };

typedef struct {
    const Kernel *k;
    Buf *out;
    bool *array;   /* by instruction: kept in an array for later phases */
    double *cost;  /* to compute it again, down to loads and arrays */
    bool *need;    /* in the loop being printed */
    int64_t block; /* columns of an item */
    int indent;
} Print;

const char *ctype_storage(Dtype d) {
    static const char *const names[] = {"float",   "uint16_t", "uint16_t", "double",
                                        "int32_t", "int64_t",  "uint8_t"};
    ASSERT((size_t)d < COUNT(names));
    return names[d];
}

const char *ctype_register(Dtype d) {
    static const char *const names[] = {"float",   "float",   "float",  "double",
                                        "int32_t", "int64_t", "int32_t"};
    ASSERT((size_t)d < COUNT(names));
    return names[d];
}

static const char *suffix(Dtype d) {
    static const char *const names[] = {"f32", "f32", "f32", "f64", "i32", "i64", "i32"};
    ASSERT((size_t)d < COUNT(names));
    return names[d];
}

static void line(Print *p, const char *fmt, ...) PRINTF(2, 3);
static void line(Print *p, const char *fmt, ...) {
    va_list ap;
    buf_printf(p->out, "%*s", 4 * p->indent, "");
    va_start(ap, fmt);
    buf_vprintf(p->out, fmt, ap);
    va_end(ap);
    buf_puts(p->out, "\n");
}

static const Inst *inst(const Print *p, uint32_t r) { return &p->k->inst.p[r]; }
static int row_dims(const Kernel *k) { return k->ndim - k->ncol; }

/* ---- what later phases compute again ---- */

static double op_cost(const Inst *i) {
    if (i->kind == INST_RANDOM) return 20;
    if (i->kind != INST_EW) return 0.5;
    const char *e = op_info(i->op)->expr;
    static const char *const slow[] = {"exp(", "log(", "tanh(", "erf(",
                                       "sin(", "cos(", "pow(",  "gelu_grad("};
    for (size_t j = 0; j < COUNT(slow); j++)
        if (strstr(e, slow[j])) return 10;
    return strchr(e, '/') || strstr(e, "sqrt") ? 4 : 1;
}

static void plan_arrays(Print *p) {
    const Kernel *k = p->k;
    int64_t bytes = 0;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        p->cost[r] = op_cost(i);
        for (uint32_t j = 0; j < i->nin; j++)
            if (inst(p, i->in[j])->level == LEVEL_FULL)
                p->cost[r] += p->array[i->in[j]] ? 0.5 : p->cost[i->in[j]];
        if (i->level != LEVEL_FULL || p->cost[r] <= CHEAP) continue;
        bool later = false;
        for (uint32_t u = r + 1; u < k->inst.n; u++)
            for (uint32_t j = 0; j < inst(p, u)->nin; j++)
                later |= inst(p, u)->in[j] == r && inst(p, u)->phase > i->phase;
        int64_t size = k->cols * 8;
        if (!later || bytes + size > ARRAY_BYTES) continue;
        bytes += size;
        p->array[r] = true;
    }
}

/* ---- expressions ---- */

static void put_number(Buf *out, double x, Dtype d) {
    bool real = dtype_is_float(d);
    const char *f = d == DT_F64 ? "" : "f";
    if (real && isnan(x))
        buf_printf(out, "__builtin_nan%s(\"\")", f);
    else if (real && isinf(x))
        buf_printf(out, "%s__builtin_inf%s()", x < 0 ? "-" : "", f);
    else if (!real)
        buf_printf(out, d == DT_I64 ? "INT64_C(%lld)" : "%lld", (long long)x);
    else {
        size_t at = out->n;
        buf_double(out, d == DT_F64 ? x : (double)(float)x);
        buf_printf(out, "%s%s", strpbrk(out->p + at, ".e") ? "" : ".0", f);
    }
}

static const char *loop_var(const Kernel *k, int col, char name[8]) {
    snprintf(name, 8, k->ncol == 1 ? "c" : "j%d", col);
    return name;
}

/* offset + sum over dims from..to-1 of index * stride */
static void put_index(const Print *p, Buf *out, const Inst *i, int from, int to, bool offset) {
    bool any = offset && i->offset != 0;
    if (any) buf_printf(out, "%lld", (long long)i->offset);
    for (int d = from; d < to; d++) {
        char name[8];
        if (i->stride[d] == 0 || p->k->dim[d] == 1) continue;
        if (d < row_dims(p->k))
            snprintf(name, sizeof name, "i%d", d);
        else
            loop_var(p->k, d - row_dims(p->k), name);
        buf_printf(out, "%s%s", any ? " + " : "", name);
        if (i->stride[d] != 1) buf_printf(out, " * %lld", (long long)i->stride[d]);
        any = true;
    }
    if (!any) buf_puts(out, "0");
}

/* The columns' index inside the row: c, or (j0 * 3 + j1). */
static void put_column(const Print *p, Buf *out) {
    const Kernel *k = p->k;
    if (k->ncol == 1) {
        buf_puts(out, "c");
        return;
    }
    for (int j = 1; j < k->ncol; j++) buf_puts(out, "(");
    buf_puts(out, "j0");
    for (int j = 1; j < k->ncol; j++)
        buf_printf(out, " * %lld + j%d)", (long long)k->dim[row_dims(k) + j], j);
}

static void put_guard(const Print *p, Buf *out, const Inst *i, int from, int to) {
    bool any = false;
    for (int d = from; d < to; d++) {
        char name[8];
        if (!i->guarded || (i->lo[d] == 0 && i->hi[d] == p->k->dim[d])) continue;
        if (d < row_dims(p->k))
            snprintf(name, sizeof name, "i%d", d);
        else
            loop_var(p->k, d - row_dims(p->k), name);
        buf_printf(out, "%s(%s >= %lld) & (%s < %lld)", any ? " & " : "", name, (long long)i->lo[d],
                   name, (long long)i->hi[d]);
        any = true;
    }
    if (!any) buf_puts(out, "1");
}

static bool has_guard(const Print *p, const Inst *i, int from, int to) {
    for (int d = from; i->guarded && d < to; d++)
        if (i->lo[d] != 0 || i->hi[d] != p->k->dim[d]) return true;
    return false;
}

/* Storage element text -> register. */
static void put_loaded(Buf *out, Dtype d, const char *element) {
    if (d == DT_BF16 || d == DT_F16)
        buf_printf(out, "%s_f32(%s)", dtype_name(d), element);
    else
        buf_puts(out, element);
}

static void put_ew(const Print *p, Buf *out, const Inst *i) {
    Dtype from = inst(p, i->in[0])->dtype;
    if (i->op == OP_cast) {
        if (i->dtype == DT_BOOL)
            buf_printf(out, "(v%u != 0)", i->in[0]);
        else if (i->dtype == DT_BF16 || i->dtype == DT_F16) /* a cast rounds as a store would */
            buf_printf(out, "%s_f32(f32_%s((float)v%u))", dtype_name(i->dtype),
                       dtype_name(i->dtype), i->in[0]);
        else
            buf_printf(out, "(%s)v%u", ctype_register(i->dtype), i->in[0]);
        return;
    }
    Dtype d = op_info(i->op)->flags & OPF_BOOL ? from : i->dtype;
    buf_printf(out, "%s_%s(", op_info(i->op)->name, suffix(d));
    for (uint32_t j = 0; j < i->nin; j++) buf_printf(out, "%sv%u", j ? ", " : "", i->in[j]);
    buf_puts(out, ")");
}

/* A load outside the column loops, or inside them when its index is a register there. */
static void put_direct_load(const Print *p, Buf *out, const Inst *i) {
    Buf element = {0};
    int dims = p->k->ndim;
    buf_printf(&element, "a%u[", i->arg);
    put_index(p, &element, i, 0, i->level == LEVEL_FULL ? dims : row_dims(p->k), true);
    if (i->index != NO_INST)
        buf_printf(&element, " + (int64_t)v%u * %lld", i->index, (long long)i->index_stride);
    buf_puts(&element, "]");
    if (i->index != NO_INST)
        buf_printf(out, "(uint64_t)v%u < %lldu ? ", i->index, (long long)i->index_size);
    if (has_guard(p, i, 0, dims)) put_guard(p, out, i, 0, dims), buf_puts(out, " ? ");
    put_loaded(out, i->dtype, element.p);
    if (has_guard(p, i, 0, dims)) buf_puts(out, " : 0");
    if (i->index != NO_INST) buf_puts(out, " : 0");
    buf_free(&element);
}

static void put_full_load(const Print *p, Buf *out, uint32_t r) {
    const Inst *i = inst(p, r);
    int rows = row_dims(p->k), dims = p->k->ndim;
    if (i->index != NO_INST) {
        put_direct_load(p, out, i);
        return;
    }
    Buf element = {0};
    buf_printf(&element, "q%u[", r);
    put_index(p, &element, i, rows, dims, false);
    buf_puts(&element, "]");
    if (has_guard(p, i, 0, rows)) buf_printf(out, "%sg%u", "", r);
    if (has_guard(p, i, rows, dims)) {
        if (has_guard(p, i, 0, rows)) buf_puts(out, " & ");
        put_guard(p, out, i, rows, dims);
    }
    if (has_guard(p, i, 0, dims)) buf_puts(out, " ? ");
    put_loaded(out, i->dtype, element.p);
    if (has_guard(p, i, 0, dims)) buf_puts(out, " : 0");
    buf_free(&element);
}

static void put_value(const Print *p, Buf *out, uint32_t r) {
    const Inst *i = inst(p, r);
    bool full = i->level == LEVEL_FULL;
    switch (i->kind) {
    case INST_CONST: put_number(out, i->value, i->dtype); break;
    case INST_IOTA:
        buf_printf(out, "(%s)(", ctype_register(i->dtype));
        put_index(p, out, i, 0, full ? p->k->ndim : row_dims(p->k), true);
        buf_puts(out, ")");
        break;
    case INST_LOAD:
        if (full)
            put_full_load(p, out, r);
        else
            put_direct_load(p, out, i);
        break;
    case INST_KEY:
        buf_printf(
            out, "(int32_t)random_key((uint64_t)(int64_t)v%u, 0x%016llxu, (uint64_t)(int64_t)v%u)",
            i->in[0], (unsigned long long)i->site, i->in[1]);
        break;
    case INST_RANDOM:
        buf_printf(out, "random_at((uint32_t)v%u, (uint64_t)row", i->in[0]);
        if (full)
            buf_printf(out, " * %lld + (uint64_t)", (long long)p->k->cols), put_column(p, out);
        buf_puts(out, ")");
        break;
    case INST_EW: put_ew(p, out, i); break;
    case INST_REDUCE: BUG("a reduction has no expression");
    }
}

static void print_value(Print *p, uint32_t r) {
    Buf e = {0};
    put_value(p, &e, r);
    line(p, "%s v%u = %s;", ctype_register(inst(p, r)->dtype), r, e.p);
    buf_free(&e);
}

/* ---- rows ---- */

static void print_row_index(Print *p) {
    const Kernel *k = p->k;
    int64_t block = k->rows;
    for (int d = 0; d < row_dims(k); d++) {
        int64_t outer = block;
        block /= k->dim[d];
        if (k->dim[d] == 1) continue;
        Buf e = {0};
        buf_puts(&e, "row");
        if (block > 1) buf_printf(&e, " / %lld", (long long)block);
        if (outer != k->rows) buf_printf(&e, " %% %lld", (long long)k->dim[d]);
        line(p, "const int64_t i%d = %s;", d, e.p);
        buf_free(&e);
    }
}

/* q: where a full load's row starts. Where the guard g fails it is the first row that exists, so
 * that it can be read and the result dropped. */
static void print_row_pointers(Print *p) {
    const Kernel *k = p->k;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (i->kind != INST_LOAD || i->level != LEVEL_FULL || i->index != NO_INST) continue;
        Buf e = {0};
        if (has_guard(p, i, 0, row_dims(k))) {
            Buf g = {0};
            int64_t first = i->offset;
            for (int d = 0; d < row_dims(k); d++) first += i->lo[d] * i->stride[d];
            put_guard(p, &g, i, 0, row_dims(k));
            line(p, "const int32_t g%u = %s;", r, g.p);
            buf_printf(&e, "(g%u ? ", r);
            put_index(p, &e, i, 0, row_dims(k), true);
            buf_printf(&e, " : %lld)", (long long)first);
            buf_free(&g);
        } else {
            put_index(p, &e, i, 0, row_dims(k), true);
        }
        line(p, "const %s *q%u = a%u + %s;", ctype_storage(i->dtype), r, i->arg, e.p);
        buf_free(&e);
    }
}

static void print_row_values(Print *p, int phase) {
    for (uint32_t r = 0; r < p->k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (i->level == LEVEL_ROW && i->kind != INST_REDUCE && i->phase == phase) print_value(p, r);
    }
}

/* ---- loops over the columns ---- */

static void need(Print *p, uint32_t r, int phase) {
    const Inst *i = inst(p, r);
    if (i->level != LEVEL_FULL || p->need[r]) return;
    p->need[r] = true;
    if (p->array[r] && i->phase < phase) return;
    for (uint32_t j = 0; j < i->nin; j++) need(p, i->in[j], phase);
    if (i->index != NO_INST) need(p, i->index, phase);
}

static int store_phase(const Print *p, const Store *s) {
    const Inst *i = inst(p, s->inst);
    return i->phase + (i->kind == INST_REDUCE);
}

static bool in_loop(const Inst *i, int phase) {
    return i->kind == INST_REDUCE && i->phase == phase;
}

/* Marks what the loop of this phase computes; false when it has nothing to do. */
static bool plan_loop(Print *p, int phase) {
    const Kernel *k = p->k;
    bool any = false;
    memset(p->need, 0, k->inst.n);
    for (uint32_t r = 0; r < k->inst.n; r++) {
        if (p->array[r] && inst(p, r)->phase == phase) need(p, r, phase), any = true;
        if (in_loop(inst(p, r), phase)) need(p, inst(p, r)->in[0], phase), any = true;
    }
    for (uint32_t s = 0; s < k->store.n; s++) {
        const Store *st = &k->store.p[s];
        if (st->level != LEVEL_FULL || store_phase(p, st) != phase) continue;
        need(p, st->inst, phase);
        any = true;
    }
    return any;
}

static void put_start(Buf *out, Op op, Dtype d) {
    bool real = dtype_is_float(d), max = op == OP_max;
    if (op == OP_sum)
        buf_puts(out, "0");
    else if (real)
        put_number(out, max ? -INFINITY : INFINITY, d);
    else
        buf_printf(out, "INT%s_%s", d == DT_I64 ? "64" : "32", max ? "MIN" : "MAX");
}

static void put_step(Buf *out, Op op, const char *to, uint32_t x) {
    if (op == OP_sum)
        buf_printf(out, "%s += v%u;", to, x);
    else
        buf_printf(out, "%s = v%u %c %s ? v%u : %s;", to, x, op == OP_max ? '>' : '<', to, x, to);
}

static void print_pragma(Print *p, int phase) {
    static const char *const ops[] = {"+", "max", "min"};
    Buf e = {0};
    for (uint32_t r = 0; r < p->k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (in_loop(i, phase) && i->level == LEVEL_ROW)
            buf_printf(&e, " reduction(%s : v%u)", ops[i->op - OP_sum], r);
    }
    line(p, "#pragma omp simd%s", e.p ? e.p : "");
    buf_free(&e);
}

static void print_store(Print *p, const Store *s, const char *index) {
    Dtype d = p->k->arg.p[s->arg].dtype;
    if (d == DT_BF16 || d == DT_F16)
        line(p, "a%u[%s] = f32_%s(v%u);", s->arg, index, dtype_name(d), s->inst);
    else if (d == DT_BOOL)
        line(p, "a%u[%s] = (uint8_t)v%u;", s->arg, index, s->inst);
    else
        line(p, "a%u[%s] = v%u;", s->arg, index, s->inst);
}

static void print_loop_body(Print *p, int phase) {
    const Kernel *k = p->k;
    Buf col = {0}, at = {0};
    put_column(p, &col);
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!p->need[r]) continue;
        if (p->array[r] && i->phase < phase) {
            line(p, "%s v%u = t%u[%s];", ctype_register(i->dtype), r, r, col.p);
            continue;
        }
        print_value(p, r);
        if (p->array[r]) line(p, "t%u[%s] = v%u;", r, col.p, r);
    }
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!in_loop(i, phase)) continue;
        Buf e = {0}, to = {0};
        if (i->level == LEVEL_COL)
            buf_printf(&to, "v%u[%s%s]", r, col.p, p->block < k->cols ? " - c0" : "");
        else
            buf_printf(&to, "v%u", r);
        put_step(&e, i->op, to.p, i->in[0]);
        line(p, "%s", e.p);
        buf_free(&e);
        buf_free(&to);
    }
    buf_printf(&at, "row * %lld + %s", (long long)k->cols, col.p);
    for (uint32_t s = 0; s < k->store.n; s++)
        if (k->store.p[s].level == LEVEL_FULL && store_phase(p, &k->store.p[s]) == phase)
            print_store(p, &k->store.p[s], at.p);
    buf_free(&col);
    buf_free(&at);
}

static void print_loop(Print *p, int phase) {
    const Kernel *k = p->k;
    if (!plan_loop(p, phase)) return;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!in_loop(i, phase) || i->level != LEVEL_ROW) continue;
        Buf e = {0};
        put_start(&e, i->op, i->dtype);
        line(p, "%s v%u = %s;", ctype_register(i->dtype), r, e.p);
        buf_free(&e);
    }
    for (int j = 0; j < k->ncol; j++) {
        char name[8];
        loop_var(k, j, name);
        if (j == k->ncol - 1) print_pragma(p, phase);
        if (p->block < k->cols)
            line(p, "for (int64_t c = c0; c < c1; c++) {");
        else
            line(p, "for (int64_t %s = 0; %s < %lld; %s++) {", name, name,
                 (long long)k->dim[row_dims(k) + j], name);
        p->indent++;
    }
    print_loop_body(p, phase);
    for (int j = 0; j < k->ncol; j++) p->indent--, line(p, "}");
}

/* ---- items ---- */

static void print_row_stores(Print *p) {
    for (uint32_t s = 0; s < p->k->store.n; s++)
        if (p->k->store.p[s].level == LEVEL_ROW) print_store(p, &p->k->store.p[s], "row");
}

static void print_row(Print *p) {
    print_row_index(p);
    print_row_pointers(p);
    for (int phase = 0; phase < p->k->phases; phase++) {
        print_row_values(p, phase);
        print_loop(p, phase);
    }
    print_row_stores(p);
}

static void print_arrays(Print *p) {
    for (uint32_t r = 0; r < p->k->inst.n; r++)
        if (p->array[r])
            line(p, "%s t%u[%lld] __attribute__((aligned(64)));", ctype_register(inst(p, r)->dtype),
                 r, (long long)p->k->cols);
}

/* c0, c1: the item's columns; returns the text of what numbers the rows. */
static void print_block(Print *p, const char *row) {
    int64_t blocks = (p->k->cols + p->block - 1) / p->block;
    if (blocks == 1) {
        line(p, "const int64_t %s = item;", row);
        return;
    }
    line(p, "const int64_t %s = item / %lld, c0 = item %% %lld * %lld;", row, (long long)blocks,
         (long long)blocks, (long long)p->block);
    line(p, "const int64_t c1 = c0 + %lld < %lld ? c0 + %lld : %lld;", (long long)p->block,
         (long long)p->k->cols, (long long)p->block, (long long)p->k->cols);
}

static void print_column_starts(Print *p) {
    for (uint32_t r = 0; r < p->k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (i->level != LEVEL_COL) continue;
        Buf e = {0};
        put_start(&e, i->op, i->dtype);
        line(p, "%s v%u[%lld] __attribute__((aligned(64)));", ctype_register(i->dtype), r,
             (long long)p->block);
        line(p, "for (int64_t c = 0; c < %lld; c++) v%u[c] = %s;", (long long)p->block, r, e.p);
        buf_free(&e);
    }
}

static void print_column_stores(Print *p) {
    const Kernel *k = p->k;
    bool cut = p->block < k->cols;
    for (uint32_t s = 0; s < k->store.n; s++) {
        const Store *st = &k->store.p[s];
        Dtype d = k->arg.p[st->arg].dtype;
        if (st->level != LEVEL_COL) continue;
        bool half = d == DT_BF16 || d == DT_F16;
        line(p, "for (int64_t c = %s; c < %s%.0lld; c++)", cut ? "c0" : "0", cut ? "c1" : "",
             cut ? 0LL : (long long)k->cols);
        line(p, "    a%u[outer * %lld + c] = %s%s(v%u[c%s]);", st->arg, (long long)k->cols,
             half ? "f32_" : "", half ? dtype_name(d) : "", st->inst, cut ? " - c0" : "");
    }
}

static void print_column_item(Print *p) {
    const Kernel *k = p->k;
    print_block(p, "outer");
    print_column_starts(p);
    long long n = (long long)(k->rows / k->outer);
    line(p, "for (int64_t row = outer * %lld; row < (outer + 1) * %lld; row++) {", n, n);
    p->indent++;
    print_row(p);
    p->indent--;
    line(p, "}");
    print_column_stores(p);
}

static void print_args(Print *p) {
    for (uint32_t i = 0; i < p->k->arg.n; i++) {
        const KernelArg *a = &p->k->arg.p[i];
        line(p, "%s%s *a%u = arg[%u];", a->written ? "" : "const ", ctype_storage(a->dtype), i, i);
    }
}

/* Columns that one item takes. */
static int64_t column_block(const Kernel *k) {
    bool whole = k->phases > 1 || k->ncol > 1;
    for (uint32_t s = 0; s < k->store.n; s++) whole |= k->store.p[s].level == LEVEL_ROW;
    for (uint32_t r = 0; r < k->inst.n; r++)
        whole |= k->inst.p[r].kind == INST_REDUCE && k->inst.p[r].level == LEVEL_ROW;
    if (whole) return k->cols;
    if (k->outer) return MIN(k->cols, k->outer < 16 ? COLUMN_BLOCK : EW_BLOCK);
    return MIN(k->cols, EW_BLOCK);
}

static void count_work(const Print *p, Code *c) {
    const Kernel *k = p->k;
    double cost = 1, full = (double)k->rows * (double)k->cols;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        bool work = inst(p, r)->kind == INST_EW || inst(p, r)->kind == INST_REDUCE;
        double n =
            inst(p, r)->level == LEVEL_ROW && inst(p, r)->kind == INST_EW ? (double)k->rows : full;
        if (work) c->flops += n;
        if (inst(p, r)->level == LEVEL_FULL) cost += op_cost(inst(p, r)) / 8;
    }
    double item = cost * full / (double)c->items;
    c->grain = MAX(1, (int64_t)(16384 / item));
}

void target_c_print(const Kernel *k, Code *c) {
    uint32_t n = k->inst.n + 1;
    Print p = {k,
               &c->body,
               xcalloc(n, sizeof(bool)),
               xcalloc(n, sizeof(double)),
               xcalloc(n, sizeof(bool)),
               column_block(k),
               1};
    int64_t blocks = (k->cols + p.block - 1) / p.block;
    c->items = (k->outer ? k->outer : k->rows) * blocks;
    plan_arrays(&p);
    buf_puts(p.out, "{\n");
    print_args(&p);
    print_arrays(&p);
    line(&p, "for (int64_t item = lo; item < hi; item++) {");
    p.indent++;
    if (k->outer) {
        print_column_item(&p);
    } else {
        print_block(&p, "row");
        print_row(&p);
    }
    p.indent--;
    line(&p, "}");
    buf_puts(p.out, "}\n");
    count_work(&p, c);
    free(p.array);
    free(p.cost);
    free(p.need);
}
