/* target_c.c: prints a Kernel as C that gcc and clang vectorise.
 *
 * An item is a row; or, where nothing needs whole rows, a block of columns of one row; or, for
 * column reductions, a block of columns of `rows / outer` rows. Each phase is one loop over the
 * columns. A full value that a later phase needs is computed again when that is cheap, and else
 * waits in an array as long as the row. Bounds are constants; pointers are not `restrict`, because
 * an output may lie over an input (all loads of an element come before its stores). */
#include "codegen/express.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EW_BLOCK = 4096, COLUMN_BLOCK = 256, ARRAY_BYTES = 512 * 1024 };

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

static void print_loop_body(Print *p, int phase) {
    const Kernel *k = p->k;
    Buf col = {0}, at = {0}, kept = {0}, sum = {0};
    put_column(p, &col);
    buf_printf(&kept, "[%s]", col.p);
    buf_printf(&sum, "[%s%s]", col.p, p->block < k->cols ? " - c0" : "");
    p->at = kept.p;
    p->col = sum.p;
    print_loop_values(p, phase);
    buf_printf(&at, "row * %lld + %s", (long long)k->cols, col.p);
    for (uint32_t s = 0; s < k->store.n; s++)
        if (k->store.p[s].level == LEVEL_FULL && store_phase(p, &k->store.p[s]) == phase)
            print_store(p, &k->store.p[s], at.p);
    buf_free(&col);
    buf_free(&at);
    buf_free(&kept);
    buf_free(&sum);
}

static void print_loop(Print *p, int phase) {
    const Kernel *k = p->k;
    if (!plan_loop(p, phase)) return;
    print_starts(p, phase);
    for (int j = 0; j < k->ncol; j++) {
        Buf v = {0};
        put_loop_var(p, &v, j);
        if (j == k->ncol - 1) print_pragma(p, phase);
        if (p->block < k->cols)
            line(p, "for (int64_t c = c0; c < c1; c++) {");
        else
            line(p, "for (int64_t %s = 0; %s < %lld; %s++) {", v.p, v.p,
                 (long long)k->dim[row_dims(k) + j], v.p);
        buf_free(&v);
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
        bool half = dtype_is_half(d);
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

void target_c_print(const Kernel *k, Code *c) {
    Print p = print_open(k, &c->body);
    p.block = column_block(k);
    p.full_load = put_full_load;
    int64_t blocks = (k->cols + p.block - 1) / p.block;
    c->items = (k->outer ? k->outer : k->rows) * blocks;
    plan_arrays(&p, k->cols * 8, ARRAY_BYTES);
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
    c->grain = MAX(1, (int64_t)(16384 / count_work(&p, c)));
    print_close(&p);
}
