/* infer.c: result types of elementwise, shape, reduction and indexed ops.
 *
 * A hook returns NULL and one sentence that shows both sides of a conflict; operands and dimensions
 * are counted from 1 in sentences. Number of operands, presence of attributes and the size of the
 * result are checked by op_infer. */
#include "ir/hooks.h"

#include <string.h>

/* ---- sentences ---- */

const Type *infer_fail(Buf *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(err, fmt, ap);
    va_end(ap);
    return NULL;
}

static const Type *fail_types(Buf *err, const char *what, const Type *a, const Type *b) {
    buf_puts(err, what);
    type_print(a, err);
    buf_puts(err, " and ");
    type_print(b, err);
    return NULL;
}

static bool is_index(const Type *t) { return t->dtype == DT_I32 || t->dtype == DT_I64; }

/* ---- leaves, sinks ---- */

static const Type *infer_mask(const Attr *attr, const Type *t, Buf *err) {
    const char *kind = attr->v[0].s;
    if (strcmp(kind, "causal") != 0 && strcmp(kind, "prefix") != 0)
        return infer_fail(err, "kind is \"%s\"; it is causal or prefix", kind);
    if (t->rank != 2 || !dtype_is_float(t->dtype))
        return infer_fail(err, "a mask has two dimensions of a float type");
    if (attr->v[1].i < 0) return infer_fail(err, "prefix is negative");
    return t;
}

INFER(infer_leaf) {
    UNUSED;
    if (!given) return infer_fail(err, "needs its type");
    if (given->dtype == DT_TUPLE) return infer_fail(err, "a leaf is one tensor");
    InitKind init;
    const char *kind = op == OP_param ? attr->v[1].s : op == OP_state ? attr->v[2].s : NULL;
    if (kind && !init_kind_parse(kind, &init)) return infer_fail(err, "unknown init \"%s\"", kind);
    if (op == OP_iota && (attr->v[0].i < 0 || attr->v[0].i >= given->rank))
        return infer_fail(err, "axis %lld is not one of %d", (long long)attr->v[0].i, given->rank);
    return op == OP_mask ? infer_mask(attr, given, err) : given;
}

INFER(infer_same) {
    UNUSED;
    if (op == OP_softmax && (in[0]->rank == 0 || !dtype_is_float(in[0]->dtype)))
        return infer_fail(err, "needs at least one dimension of a float type");
    return in[0];
}

INFER(infer_assign) {
    UNUSED;
    if (in[0] != in[1]) return fail_types(err, "leaf and value differ: ", in[0], in[1]);
    return in[0];
}

INFER(infer_random) {
    UNUSED;
    const Ints *shape = attr->v[1].v, *parts = attr->v[2].v;
    uint32_t indices = 0;
    int64_t whole = 1;
    if (shape->n > MAX_RANK) return infer_fail(err, "shape has more than %d dimensions", MAX_RANK);
    if (parts->n && parts->n != shape->n)
        return infer_fail(err, "parts has %u numbers for %u dimensions", parts->n, shape->n);
    for (uint32_t k = 0; k < parts->n; k++) {
        if (parts->v[k] < 1 || parts->v[k] > INT32_MAX)
            return infer_fail(err, "there are not %lld parts", (long long)parts->v[k]);
        if (__builtin_mul_overflow(whole, parts->v[k], &whole) ||
            __builtin_mul_overflow(whole, shape->v[k], &whole))
            return infer_fail(err, "the whole tensor has more than 2^63 elements");
        indices += parts->v[k] > 1;
    }
    if (nin != 2 + indices) return infer_fail(err, "has %u operands, not %u", nin, 2 + indices);
    for (uint32_t i = 0; i < nin; i++)
        if (in[i]->rank != 0 || in[i]->dtype != DT_I32)
            return infer_fail(err, "operand %u must be i32[]", i + 1);
    return type_tensor(s, DT_F32, (int)shape->n, shape->v);
}

INFER(infer_proj) {
    UNUSED;
    int64_t i = attr->v[0].i;
    if (in[0]->dtype != DT_TUPLE) return infer_fail(err, "operand has only one result");
    if (i < 0 || i >= in[0]->nelem)
        return infer_fail(err, "there is no result %lld; there are %u", (long long)i, in[0]->nelem);
    return in[0]->elem[i];
}

/* ---- elementwise ---- */

INFER(infer_ew) {
    UNUSED;
    uint32_t flags = op_info(op)->flags;
    for (uint32_t i = 1; i < nin; i++)
        if (in[i] != in[0]) {
            buf_printf(err, "operands 1 and %u differ: ", i + 1);
            return fail_types(err, "", in[0], in[i]);
        }
    Dtype d = in[0]->dtype;
    bool legal = dtype_is_float(d) || (flags & OPF_INT && (d != DT_BOOL || flags & OPF_BOOL));
    if (!legal) return infer_fail(err, "is not defined on %s", dtype_name(d));
    return flags & OPF_BOOL ? type_with_dtype(s, in[0], DT_BOOL) : in[0];
}

INFER(infer_select) {
    UNUSED;
    if (in[0]->dtype != DT_BOOL) return infer_fail(err, "operand 1 must be bool");
    if (in[1] != in[2]) return fail_types(err, "operands 2 and 3 differ: ", in[1], in[2]);
    if (!type_same_shape(in[0], in[1]))
        return fail_types(err, "shapes of operands 1 and 2 differ: ", in[0], in[1]);
    return in[1];
}

INFER(infer_cast) {
    UNUSED;
    return type_with_dtype(s, in[0], (Dtype)attr->v[0].i);
}

/* ---- shape ---- */

static bool check_count(const char *name, const Ints *v, int rank, Buf *err) {
    if (v->n == (uint32_t)rank) return true;
    infer_fail(err, "'%s' has %u numbers, the operand %d dimensions", name, v->n, rank);
    return false;
}

INFER(infer_reshape) {
    UNUSED;
    const Ints *shape = attr->v[0].v;
    if (shape->n > MAX_RANK) return infer_fail(err, "shape has more than %d dimensions", MAX_RANK);
    int64_t have = type_elements(in[0]), n = 1;
    for (uint32_t i = 0; i < shape->n; i++)
        if (shape->v[i] < 1 || n > have || __builtin_mul_overflow(n, shape->v[i], &n)) n = 0;
    if (n == have) return type_tensor(s, in[0]->dtype, (int)shape->n, shape->v);
    const Type *asked = type_tensor(s, in[0]->dtype, (int)shape->n, shape->v);
    return fail_types(err, "numbers of elements differ: ", in[0], asked);
}

INFER(infer_transpose) {
    UNUSED;
    const Ints *perm = attr->v[0].v;
    int64_t dim[MAX_RANK];
    unsigned seen = 0;
    if (!check_count("perm", perm, in[0]->rank, err)) return NULL;
    for (uint32_t i = 0; i < perm->n; i++) {
        int64_t p = perm->v[i];
        if (p < 0 || p >= in[0]->rank || seen >> p & 1)
            return infer_fail(err, "'perm' is not a permutation of 0..%d", in[0]->rank - 1);
        seen |= 1u << p;
        dim[i] = in[0]->dim[p];
    }
    return type_tensor(s, in[0]->dtype, in[0]->rank, dim);
}

INFER(infer_broadcast) {
    UNUSED;
    const Ints *shape = attr->v[0].v, *dims = attr->v[1].v;
    if (shape->n > MAX_RANK) return infer_fail(err, "shape has more than %d dimensions", MAX_RANK);
    if (!check_count("dims", dims, in[0]->rank, err)) return NULL;
    for (uint32_t i = 0; i < dims->n; i++) {
        int64_t to = dims->v[i], size = in[0]->dim[i];
        if (to < 0 || to >= shape->n || (i && to <= dims->v[i - 1]))
            return infer_fail(err, "'dims' must ascend within 0..%d", (int)shape->n - 1);
        if (size != 1 && size != shape->v[to])
            return infer_fail(err, "dimension %u has size %lld, which cannot repeat to %lld", i + 1,
                              (long long)size, (long long)shape->v[to]);
    }
    return type_tensor(s, in[0]->dtype, (int)shape->n, shape->v);
}

INFER(infer_slice) {
    UNUSED;
    const Ints *start = attr->v[0].v, *limit = attr->v[1].v;
    int64_t dim[MAX_RANK];
    if (!check_count("start", start, in[0]->rank, err)) return NULL;
    if (!check_count("limit", limit, in[0]->rank, err)) return NULL;
    for (int i = 0; i < in[0]->rank; i++) {
        if (start->v[i] < 0 || start->v[i] >= limit->v[i] || limit->v[i] > in[0]->dim[i])
            return infer_fail(err, "slice %lld:%lld does not lie in dimension %d of size %lld",
                              (long long)start->v[i], (long long)limit->v[i], i + 1,
                              (long long)in[0]->dim[i]);
        dim[i] = limit->v[i] - start->v[i];
    }
    return type_tensor(s, in[0]->dtype, in[0]->rank, dim);
}

INFER(infer_pad) {
    UNUSED;
    const Ints *lo = attr->v[0].v, *hi = attr->v[1].v;
    int64_t dim[MAX_RANK];
    if (!check_count("lo", lo, in[0]->rank, err)) return NULL;
    if (!check_count("hi", hi, in[0]->rank, err)) return NULL;
    for (int i = 0; i < in[0]->rank; i++)
        if (lo->v[i] < 0 || hi->v[i] < 0 ||
            __builtin_add_overflow(in[0]->dim[i], lo->v[i], &dim[i]) ||
            __builtin_add_overflow(dim[i], hi->v[i], &dim[i]))
            return infer_fail(err, "padding %lld and %lld of dimension %d is negative or too large",
                              (long long)lo->v[i], (long long)hi->v[i], i + 1);
    return type_tensor(s, in[0]->dtype, in[0]->rank, dim);
}

/* Equal but for the size of one axis. */
static bool same_but_axis(const Type *a, const Type *b, int64_t axis) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (i != axis && a->dim[i] != b->dim[i]) return false;
    return true;
}

INFER(infer_concat) {
    UNUSED;
    int64_t axis = attr->v[0].i, dim[MAX_RANK];
    if (nin == 0) return infer_fail(err, "needs at least one operand");
    if (axis < 0 || axis >= in[0]->rank)
        return infer_fail(err, "axis %lld is not one of %d", (long long)axis, in[0]->rank);
    memcpy(dim, in[0]->dim, sizeof dim);
    for (uint32_t i = 1; i < nin; i++) {
        if (!same_but_axis(in[0], in[i], axis)) {
            buf_printf(err, "operands 1 and %u differ outside axis %lld: ", i + 1, (long long)axis);
            return fail_types(err, "", in[0], in[i]);
        }
        if (__builtin_add_overflow(dim[axis], in[i]->dim[axis], &dim[axis]))
            return infer_fail(err, "the result is too large");
    }
    return type_tensor(s, in[0]->dtype, in[0]->rank, dim);
}

INFER(infer_reduce) {
    UNUSED;
    const Ints *axes = attr->v[0].v;
    int64_t dim[MAX_RANK];
    int rank = 0;
    uint32_t next = 0;
    if (in[0]->dtype == DT_BOOL) return infer_fail(err, "is not defined on bool");
    if (axes->n == 0) return infer_fail(err, "'axes' is empty");
    for (int i = 0; i < in[0]->rank; i++) {
        if (next < axes->n && axes->v[next] == i)
            next++;
        else
            dim[rank++] = in[0]->dim[i];
    }
    if (next < axes->n) return infer_fail(err, "'axes' must ascend within 0..%d", in[0]->rank - 1);
    return type_tensor(s, in[0]->dtype, rank, dim);
}

/* ---- indexed ---- */

/* The dims of `lead`, then those of `rest` from `from` on. */
static const Type *joined(Session *s, Dtype d, const Type *lead, const Type *rest, int from,
                          Buf *err) {
    int64_t dim[2 * MAX_RANK];
    int rank = 0;
    for (int i = 0; i < lead->rank; i++) dim[rank++] = lead->dim[i];
    for (int i = from; i < rest->rank; i++) dim[rank++] = rest->dim[i];
    if (rank > MAX_RANK) return infer_fail(err, "the result has more than %d dimensions", MAX_RANK);
    return type_tensor(s, d, rank, dim);
}

INFER(infer_gather) {
    UNUSED;
    if (in[0]->rank == 0) return infer_fail(err, "the table has no rows");
    if (!is_index(in[1])) return infer_fail(err, "operand 2 must be i32 or i64");
    return joined(s, in[0]->dtype, in[1], in[0], 1, err);
}

INFER(infer_scatter_add) {
    UNUSED;
    const Type *ids = in[0], *rows = in[1];
    if (!is_index(ids)) return infer_fail(err, "operand 1 must be i32 or i64");
    bool fits = ids->rank <= rows->rank;
    for (int i = 0; fits && i < ids->rank; i++) fits = ids->dim[i] == rows->dim[i];
    if (!fits) return fail_types(err, "rows do not start with the ids' dimensions: ", ids, rows);
    int64_t size = attr->v[0].i;
    if (size < 1) return infer_fail(err, "size is %lld", (long long)size);
    return joined(s, rows->dtype, type_tensor(s, DT_I32, 1, &size), rows, ids->rank, err);
}

static bool same_lead(const Type *a, const Type *b) {
    if (a->rank == 0 || a->rank != b->rank) return false;
    for (int i = 0; i + 1 < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

INFER(infer_pick) {
    UNUSED;
    if (!is_index(in[1])) return infer_fail(err, "operand 2 must be i32 or i64");
    if (!same_lead(in[0], in[1]))
        return fail_types(err, "operands differ before the last dimension: ", in[0], in[1]);
    return type_with_dtype(s, in[1], in[0]->dtype);
}

INFER(infer_unpick) {
    UNUSED;
    int64_t dim[MAX_RANK];
    if (!is_index(in[0])) return infer_fail(err, "operand 1 must be i32 or i64");
    if (in[0]->rank == 0 || !type_same_shape(in[0], in[1]))
        return fail_types(err, "operands need one shape: ", in[0], in[1]);
    memcpy(dim, in[1]->dim, sizeof dim);
    dim[in[1]->rank - 1] = attr->v[0].i;
    return type_tensor(s, in[1]->dtype, in[1]->rank, dim);
}
