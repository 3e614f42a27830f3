/* ops.c: ops.def compiled into a const table, and what holds for every op.
 *
 * An elementwise expression becomes a function of doubles here; the same text is printed into
 * generated kernels. Results are checked for size once, in op_infer, so that hooks need not. */
#include "ir/hooks.h"

#include <stdlib.h>
#include <string.h>

#define K(x) ((double)(x))
#define OP(name, ...)
#define EW(name, arity, flags, expression, ...)                                                    \
    static double ew_##name(double a, double b, double c) {                                        \
        (void)a, (void)b, (void)c;                                                                 \
        return expression;                                                                         \
    }
#include "ir/ops.def"
#undef OP
#undef EW
#undef K

#define INT(f)                                                                                     \
    { #f, ATTR_INT }
#define FLOAT(f)                                                                                   \
    { #f, ATTR_FLOAT }
#define STR(f)                                                                                     \
    { #f, ATTR_STR }
#define INTS(f)                                                                                    \
    { #f, ATTR_INTS }
#define DTYPE(f)                                                                                   \
    { #f, ATTR_DTYPE }
#define FIELDS(...)                                                                                \
    (const AttrField[]) {                                                                          \
        __VA_ARGS__, { NULL, ATTR_INT }                                                            \
    }
#define OP(op, n, ...) [OP_##op] = {__VA_ARGS__, .name = #op, .arity = n},
#define EW(op, n, f, expression, ...)                                                              \
    [OP_##op] = {__VA_ARGS__,           .name = #op,         .arity = n,   .dims = "same",         \
                 .flags = OPF_EW | (f), .expr = #expression, .fn = ew_##op},
static const OpInfo table[] = {
#include "ir/ops.def"
};
#undef OP
#undef EW
_Static_assert(COUNT(table) == OP_COUNT, "one row per op");

const OpInfo *op_info(Op op) {
    ASSERT((unsigned)op < OP_COUNT);
    return &table[op];
}

bool op_find(const char *name, Op *op) {
    for (unsigned i = 0; i < OP_COUNT; i++)
        if (strcmp(name, table[i].name) == 0) return *op = (Op)i, true;
    return false;
}

uint32_t op_fields(Op op, const AttrField **field) {
    const AttrField *f = op_info(op)->attrs;
    uint32_t n = 0;
    while (f && f[n].name) n++;
    if (field) *field = f;
    return n;
}

/* ---- attributes ---- */

const Attr *attr_intern(Session *s, Op op, const AttrValue *v) {
    uint32_t n = op_fields(op, NULL);
    if (n == 0) return NULL;
    size_t bytes = sizeof(Attr) + n * sizeof *v;
    Attr *attr = xcalloc(1, bytes);
    attr->n = n;
    memcpy(attr->v, v, n * sizeof *v);
    const Attr *found = intern_bytes(s, attr, bytes);
    free(attr);
    return found;
}

static const AttrValue *attr_value(const Node *n, const char *name, AttrKind kind) {
    const AttrField *field;
    uint32_t count = op_fields(n->op, &field);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(field[i].name, name) != 0) continue;
        bool same = field[i].kind == kind || (kind == ATTR_INT && field[i].kind == ATTR_DTYPE);
        if (same && n->attr) return &n->attr->v[i];
    }
    BUG("%s has no attribute '%s' of kind %d", op_info(n->op)->name, name, (int)kind);
}

int64_t attr_int(const Node *n, const char *name) { return attr_value(n, name, ATTR_INT)->i; }
double attr_float(const Node *n, const char *name) { return attr_value(n, name, ATTR_FLOAT)->f; }
const char *attr_str(const Node *n, const char *name) { return attr_value(n, name, ATTR_STR)->s; }
const Ints *attr_ints(const Node *n, const char *name) { return attr_value(n, name, ATTR_INTS)->v; }

/* ---- the result's type ---- */

static bool check_attr(Op op, const Attr *attr, Buf *err) {
    const AttrField *field;
    uint32_t n = op_fields(op, &field);
    if ((attr ? attr->n : 0) != n) return buf_printf(err, "needs %u attributes", n), false;
    for (uint32_t i = 0; i < n; i++) {
        const AttrValue *v = &attr->v[i];
        bool ok = field[i].kind == ATTR_STR     ? v->s != NULL
                  : field[i].kind == ATTR_INTS  ? v->v != NULL
                  : field[i].kind == ATTR_DTYPE ? v->i >= 0 && v->i < DT_TUPLE
                                                : true;
        if (!ok) return buf_printf(err, "attribute '%s' is missing", field[i].name), false;
    }
    return true;
}

static bool check_operands(Op op, uint32_t nin, const Type *const *in, Buf *err) {
    int arity = op_info(op)->arity;
    if (arity >= 0 && nin != (uint32_t)arity)
        return buf_printf(err, "takes %d operands, not %u", arity, nin), false;
    if (nin > MAX_OPERANDS)
        return buf_printf(err, "takes at most %d operands, not %u", MAX_OPERANDS, nin), false;
    for (uint32_t i = 0; i < nin; i++)
        if (in[i]->dtype == DT_TUPLE && op != OP_proj && op != OP_room)
            return buf_printf(err, "operand %u has several results: take one with proj", i + 1),
                   false;
    return true;
}

/* Sizes are at least 1 and bytes fit in 62 bits, so that passes may multiply without checks. */
static bool check_size(const Type *t, Buf *err) {
    if (t->dtype == DT_TUPLE) {
        for (uint32_t i = 0; i < t->nelem; i++)
            if (t->elem[i]->dtype == DT_TUPLE || !check_size(t->elem[i], err)) return false;
        return true;
    }
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] < 1) {
            buf_printf(err, "dimension %d of the result has size %lld", i + 1,
                       (long long)t->dim[i]);
            return false;
        }
    if (type_bytes(t) >= 0) return true;
    buf_puts(err, "the result ");
    type_print(t, err);
    buf_puts(err, " is too large");
    return false;
}

const Type *op_infer(Session *s, Op op, uint32_t nin, const Type *const *in, const Attr *attr,
                     const Type *given, Buf *err) {
    const OpInfo *info = op_info(op);
    if (!check_operands(op, nin, in, err) || !check_attr(op, attr, err)) return NULL;
    InferFn *infer = info->infer ? info->infer : info->flags & OPF_LEAF ? infer_leaf : infer_ew;
    const Type *t = infer(s, op, nin, in, attr, given, err);
    return t && check_size(t, err) ? t : NULL;
}
