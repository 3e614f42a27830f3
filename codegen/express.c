/* express.c: what the printers of a Kernel share: expressions of its instructions, indices, guards,
 * and which of them a loop over the columns needs. */
#include "codegen/express.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

Print print_open(const Kernel *k, Buf *out) {
    uint32_t n = k->inst.n + 1;
    return (Print){.k = k,
                   .out = out,
                   .array = xcalloc(n, sizeof(bool)),
                   .cost = xcalloc(n, sizeof(double)),
                   .need = xcalloc(n, sizeof(bool)),
                   .indent = 1,
                   .index = "int64_t",
                   .base = "",
                   .at = "",
                   .col = "",
                   .live = ""};
}

void print_close(Print *p) {
    free(p->array);
    free(p->cost);
    free(p->need);
}

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

void line(Print *p, const char *fmt, ...) {
    va_list ap;
    buf_printf(p->out, "%*s", 4 * p->indent, "");
    va_start(ap, fmt);
    buf_vprintf(p->out, fmt, ap);
    va_end(ap);
    buf_puts(p->out, "\n");
}

enum { CHEAP = 3 };

double op_cost(const Inst *i) {
    if (i->kind == INST_RANDOM) return 20;
    if (i->kind != INST_EW) return 0.5;
    const char *e = op_info(i->op)->expr;
    static const char *const slow[] = {"exp(", "log(", "tanh(", "erf(",
                                       "sin(", "cos(", "pow(",  "gelu_grad("};
    for (size_t j = 0; j < COUNT(slow); j++)
        if (strstr(e, slow[j])) return 10;
    return strchr(e, '/') || strstr(e, "sqrt") ? 4 : 1;
}

/* Does a loop after the first that computes r read it? */
static bool read_later(const Kernel *k, uint32_t r) {
    for (uint32_t u = r + 1; u < k->inst.n; u++)
        for (uint32_t j = 0; j < k->inst.p[u].nin; j++)
            if (k->inst.p[u].in[j] == r && k->inst.p[u].phase > k->inst.p[r].phase) return true;
    return false;
}

void plan_arrays(Print *p, int64_t size, int64_t most) {
    const Kernel *k = p->k;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        p->cost[r] = op_cost(i);
        for (uint32_t j = 0; j < i->nin; j++)
            if (inst(p, i->in[j])->level == LEVEL_FULL)
                p->cost[r] += p->array[i->in[j]] ? 0.5 : p->cost[i->in[j]];
        bool dear = i->level == LEVEL_FULL && p->cost[r] > CHEAP;
        if (!dear || !read_later(k, r) || size > most) continue;
        most -= size;
        p->array[r] = true;
    }
}

void put_number(Buf *out, double x, Dtype d) {
    bool real = dtype_is_float(d);
    const char *f = d == DT_F64 ? "" : "f";
    if (real && isnan(x))
        buf_printf(out, "NAN_%s", suffix(d));
    else if (real && isinf(x))
        buf_printf(out, "%sINF_%s", x < 0 ? "-" : "", suffix(d));
    else if (!real)
        buf_printf(out, d == DT_I64 ? "INT64_C(%lld)" : "%lld", (long long)x);
    else {
        size_t at = out->n;
        buf_double(out, d == DT_F64 ? x : (double)(float)x);
        buf_printf(out, "%s%s", strpbrk(out->p + at, ".e") ? "" : ".0", f);
    }
}

void put_loop_var(const Print *p, Buf *out, int col) {
    bool last = p->lane && col == p->k->ncol - 1;
    if (last) buf_puts(out, "(");
    if (p->k->ncol == 1)
        buf_puts(out, "c");
    else
        buf_printf(out, "j%d", col);
    if (last) buf_printf(out, " + %s)", p->lane);
}

static void put_dim(const Print *p, Buf *out, int d) {
    if (d < row_dims(p->k))
        buf_printf(out, "i%d", d);
    else
        put_loop_var(p, out, d - row_dims(p->k));
}

/* offset + sum over dims from..to-1 of index * stride */
void put_index(const Print *p, Buf *out, const Inst *i, int from, int to, bool offset) {
    bool any = offset && i->offset != 0;
    if (any) buf_printf(out, "%lld", (long long)i->offset);
    for (int d = from; d < to; d++) {
        if (i->stride[d] == 0 || p->k->dim[d] == 1) continue;
        if (any) buf_puts(out, " + ");
        put_dim(p, out, d);
        if (i->stride[d] != 1) buf_printf(out, " * %lld", (long long)i->stride[d]);
        any = true;
    }
    if (!any) buf_puts(out, "0");
}

/* The columns' index inside the row: c, or (j0 * 3 + j1). */
void put_column(const Print *p, Buf *out) {
    const Kernel *k = p->k;
    for (int j = 1; j < k->ncol; j++) buf_puts(out, "(");
    put_loop_var(p, out, 0);
    for (int j = 1; j < k->ncol; j++) {
        buf_printf(out, " * %lld + ", (long long)k->dim[row_dims(k) + j]);
        put_loop_var(p, out, j);
        buf_puts(out, ")");
    }
}

void put_guard(const Print *p, Buf *out, const Inst *i, int from, int to) {
    bool any = false;
    for (int d = from; d < to; d++) {
        if (!i->guarded || (i->lo[d] == 0 && i->hi[d] == p->k->dim[d])) continue;
        buf_puts(out, any ? " & (" : "(");
        put_dim(p, out, d);
        buf_printf(out, " >= %lld) & (", (long long)i->lo[d]);
        put_dim(p, out, d);
        buf_printf(out, " < %lld)", (long long)i->hi[d]);
        any = true;
    }
    if (!any) buf_puts(out, "1");
}

bool has_guard(const Print *p, const Inst *i, int from, int to) {
    for (int d = from; i->guarded && d < to; d++)
        if (i->lo[d] != 0 || i->hi[d] != p->k->dim[d]) return true;
    return false;
}

/* Storage element text -> register. */
void put_loaded(Buf *out, Dtype d, const char *element) {
    if (dtype_is_half(d))
        buf_printf(out, "%s_f32(%s)", dtype_name(d), element);
    else
        buf_puts(out, element);
}

static void put_ew(const Print *p, Buf *out, const Inst *i) {
    Dtype from = inst(p, i->in[0])->dtype;
    if (i->op == OP_cast) {
        if (i->dtype == DT_BOOL)
            buf_printf(out, "(v%u != 0)", i->in[0]);
        else if (dtype_is_half(i->dtype)) /* a cast rounds as a store would */
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
void put_direct_load(const Print *p, Buf *out, const Inst *i) {
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

static void put_row_load(const Print *p, Buf *out, const Inst *i) {
    if (*p->live) buf_printf(out, "%s ? ", p->live);
    put_direct_load(p, out, i);
    if (*p->live) buf_puts(out, " : 0");
}

/* In 64 bits: whole tensors have more elements than a rank's part. */
static void put_random(const Print *p, Buf *out, const Inst *i) {
    int dims = i->level == LEVEL_FULL ? p->k->ndim : row_dims(p->k);
    buf_printf(out, "random_at((uint32_t)v%u, ", i->in[0]);
    bool any = i->nin > 1;
    if (any) buf_printf(out, "(uint64_t)v%u", i->in[1]);
    for (int d = 0; d < dims; d++) {
        if (i->stride[d] == 0 || p->k->dim[d] == 1) continue;
        buf_puts(out, any ? " + (uint64_t)" : "(uint64_t)");
        put_dim(p, out, d);
        if (i->stride[d] != 1) buf_printf(out, " * %lldu", (long long)i->stride[d]);
        any = true;
    }
    buf_puts(out, any ? ")" : "0)");
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
            p->full_load(p, out, r);
        else
            put_row_load(p, out, i);
        break;
    case INST_KEY:
        buf_printf(
            out, "(int32_t)random_key((uint64_t)(int64_t)v%u, 0x%016llxu, (uint64_t)(int64_t)v%u)",
            i->in[0], (unsigned long long)i->site, i->in[1]);
        break;
    case INST_RANDOM: put_random(p, out, i); break;
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

void print_args(Print *p) {
    for (uint32_t i = 0; i < p->k->arg.n; i++) {
        const char *type = ctype_storage(p->k->arg.p[i].dtype);
        const char *read = p->k->arg.p[i].written ? "" : "const ";
        line(p, "%s%s *a%u = (%s%s *)ARG(%s%u);", read, type, i, read, type, p->base, i);
    }
}

void print_row_index(Print *p) {
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
        line(p, "const %s i%d = %s;", p->index, d, e.p);
        buf_free(&e);
    }
}

void print_row_values(Print *p, int phase) {
    for (uint32_t r = 0; r < p->k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (i->level == LEVEL_ROW && i->kind != INST_REDUCE && i->phase == phase) print_value(p, r);
    }
}

static void need(Print *p, uint32_t r, int phase) {
    const Inst *i = inst(p, r);
    if (i->level != LEVEL_FULL || p->need[r]) return;
    p->need[r] = true;
    if (p->array[r] && i->phase < phase) return;
    for (uint32_t j = 0; j < i->nin; j++) need(p, i->in[j], phase);
    if (i->index != NO_INST) need(p, i->index, phase);
}

int store_phase(const Print *p, const Store *s) {
    const Inst *i = inst(p, s->inst);
    return i->phase + (i->kind == INST_REDUCE);
}

bool in_loop(const Inst *i, int phase) { return i->kind == INST_REDUCE && i->phase == phase; }

/* Marks what the loop of this phase computes; false when it has nothing to do. */
bool plan_loop(Print *p, int phase) {
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

void print_starts(Print *p, int phase) {
    for (uint32_t r = 0; r < p->k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!in_loop(i, phase) || i->level != LEVEL_ROW) continue;
        Buf e = {0};
        put_start(&e, i->op, i->dtype);
        line(p, "%s v%u = %s;", ctype_register(i->dtype), r, e.p);
        buf_free(&e);
    }
}

void print_loop_values(Print *p, int phase) {
    const Kernel *k = p->k;
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!p->need[r]) continue;
        if (p->array[r] && i->phase < phase) {
            line(p, "%s v%u = t%u%s;", ctype_register(i->dtype), r, r, p->at);
            continue;
        }
        print_value(p, r);
        if (p->array[r]) line(p, "t%u%s = v%u;", r, p->at, r);
    }
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = inst(p, r);
        if (!in_loop(i, phase)) continue;
        Buf e = {0}, to = {0};
        buf_printf(&to, "v%u%s", r, i->level == LEVEL_COL ? p->col : "");
        put_step(&e, i->op, to.p, i->in[0]);
        line(p, "%s", e.p);
        buf_free(&e);
        buf_free(&to);
    }
}

void put_start(Buf *out, Op op, Dtype d) {
    bool real = dtype_is_float(d), max = op == OP_max;
    if (op == OP_sum)
        buf_puts(out, "0");
    else if (real)
        put_number(out, max ? -INFINITY : INFINITY, d);
    else
        buf_printf(out, "INT%s_%s", d == DT_I64 ? "64" : "32", max ? "MIN" : "MAX");
}

void put_step(Buf *out, Op op, const char *to, uint32_t x) {
    if (op == OP_sum)
        buf_printf(out, "%s += v%u;", to, x);
    else
        buf_printf(out, "%s = v%u %c %s ? v%u : %s;", to, x, op == OP_max ? '>' : '<', to, x, to);
}

void print_store(Print *p, const Store *s, const char *index) {
    Dtype d = p->k->arg.p[s->arg].dtype;
    if (dtype_is_half(d))
        line(p, "a%u[%s] = f32_%s(v%u);", s->arg, index, dtype_name(d), s->inst);
    else if (d == DT_BOOL)
        line(p, "a%u[%s] = (uint8_t)v%u;", s->arg, index, s->inst);
    else
        line(p, "a%u[%s] = v%u;", s->arg, index, s->inst);
}

/* How much work an item of the kernel is, in elements of one operation. */
double count_work(const Print *p, const Code *c) {
    const Kernel *k = p->k;
    double cost = 1, full = (double)k->rows * (double)k->cols;
    for (uint32_t r = 0; r < k->inst.n; r++)
        if (inst(p, r)->level == LEVEL_FULL) cost += op_cost(inst(p, r)) / 8;
    return cost * full / (double)c->items;
}
