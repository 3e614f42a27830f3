/* types.c: types, integer lists and sharding specs, interned by their bytes in the Session.
 *
 * Records are built in zeroed memory, so that equal content means equal bytes. */
#include "ir/ir.h"

#include <stdlib.h>
#include <string.h>

static const Type *type_intern(Session *s, const Type *t) { return intern_bytes(s, t, sizeof *t); }

const Type *type_tensor(Session *s, Dtype d, int rank, const int64_t *dim) {
    ASSERT(rank >= 0 && rank <= MAX_RANK && d < DT_TUPLE);
    Type t;
    memset(&t, 0, sizeof t);
    t.dtype = d;
    t.rank = rank;
    if (rank) memcpy(t.dim, dim, (size_t)rank * sizeof *dim);
    return type_intern(s, &t);
}

const Type *type_scalar(Session *s, Dtype d) { return type_tensor(s, d, 0, NULL); }

const Type *type_tuple(Session *s, uint32_t n, const Type *const *elem) {
    Type t;
    memset(&t, 0, sizeof t);
    t.dtype = DT_TUPLE;
    t.nelem = n;
    t.elem = intern_bytes(s, elem, n * sizeof(const Type *));
    return type_intern(s, &t);
}

const Type *type_with_dtype(Session *s, const Type *t, Dtype d) {
    return t->dtype == d ? t : type_tensor(s, d, t->rank, t->dim);
}

bool type_same_shape(const Type *a, const Type *b) {
    if (a == b) return true;
    if (a->dtype == DT_TUPLE || b->dtype == DT_TUPLE || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

/* Product of the dims, or -1 when it does not fit in 62 bits. */
static int64_t elements_or_overflow(const Type *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->dim[i], &n) || n < 0 || n >> 62) return -1;
    return n;
}

int64_t type_elements(const Type *t) {
    int64_t n = elements_or_overflow(t);
    ASSERT(n >= 0);
    return n;
}

int64_t type_bytes(const Type *t) {
    int64_t n = elements_or_overflow(t), bytes;
    if (n < 0 || __builtin_mul_overflow(n, (int64_t)dtype_size(t->dtype), &bytes)) return -1;
    return bytes >> 62 ? -1 : bytes;
}

void type_strides(const Type *t, int64_t stride[MAX_RANK]) {
    int64_t step = 1;
    for (int i = t->rank; i-- > 0; step *= t->dim[i]) stride[i] = step;
}

void type_print(const Type *t, Buf *out) {
    if (t->dtype == DT_TUPLE) {
        for (uint32_t i = 0; i < t->nelem; i++) {
            buf_puts(out, i ? ", " : "(");
            type_print(t->elem[i], out);
        }
        buf_puts(out, t->nelem ? ")" : "()");
        return;
    }
    buf_printf(out, "%s[", dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++) buf_printf(out, i ? ",%lld" : "%lld", (long long)t->dim[i]);
    buf_puts(out, "]");
}

const Spec *spec_intern(Session *s, const Spec *spec) {
    Spec t;
    memset(&t, 0, sizeof t);
    t.rank = spec->rank;
    t.npartial = spec->npartial;
    for (int i = 0; i < t.rank; i++) t.axis[i] = spec->axis[i];
    for (int i = 0; i < t.npartial; i++) t.partial[i] = spec->partial[i];
    return intern_bytes(s, &t, sizeof t);
}

void spec_print(const Spec *spec, Buf *out) {
    buf_puts(out, "@[");
    for (int i = 0; i < spec->rank; i++)
        buf_printf(out, i ? ",%s" : "%s", spec->axis[i] ? spec->axis[i] : "_");
    buf_puts(out, "]");
    for (int i = 0; i < spec->npartial; i++) buf_printf(out, "+%s", spec->partial[i]);
}

const Ints *ints_intern(Session *s, uint32_t n, const int64_t *v) {
    size_t bytes = sizeof(Ints) + n * sizeof *v;
    Ints *ints = xcalloc(1, bytes);
    ints->n = n;
    if (n) memcpy(ints->v, v, n * sizeof *v);
    const Ints *found = intern_bytes(s, ints, bytes);
    free(ints);
    return found;
}
