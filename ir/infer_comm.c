/* infer_comm.c: result types of what ranks do together, and the block of a tensor that an index
 * names. Attributes `over` and `ranks` come first; the verifier compares them with the mesh. */
#include <string.h>

#include "ir/hooks.h"

static bool check_wire(Dtype wire, Dtype own, Buf *err) {
    if (wire == own || (dtype_is_float(own) && dtype_is_half(wire))) return true;
    infer_fail(err, "%s cannot be sent as %s", dtype_name(own), dtype_name(wire));
    return false;
}

static bool check_ranks(int64_t ranks, Buf *err) {
    if (ranks >= 1 && ranks <= INT32_MAX) return true;
    infer_fail(err, "there are not %lld ranks", (long long)ranks);
    return false;
}

/* Operands that travel as one message. */
static bool check_message(const Type *const *in, uint32_t nin, const Attr *attr, Buf *err) {
    if (nin == 0) infer_fail(err, "needs an operand");
    if (nin == 0 || !check_ranks(attr->v[1].i, err)) return false;
    for (uint32_t i = 1; i < nin; i++)
        if (in[i]->dtype != in[0]->dtype) return infer_fail(err, "operands differ in dtype"), false;
    return true;
}

INFER(infer_all_reduce) {
    UNUSED;
    ReduceOp reduce;
    if (!check_message(in, nin, attr, err)) return NULL;
    if (!reduce_parse(attr->v[2].s, &reduce))
        return infer_fail(err, "reduce is \"%s\"; it is sum, max or min", attr->v[2].s);
    if (!check_wire((Dtype)attr->v[3].i, in[0]->dtype, err)) return NULL;
    return nin == 1 ? in[0] : type_tuple(s, nin, in);
}

INFER(infer_all_gather) {
    UNUSED;
    const Type *out[MAX_OPERANDS];
    if (!check_message(in, nin, attr, err)) return NULL;
    for (uint32_t i = 0; i < nin; i++) {
        int64_t dim[MAX_RANK] = {attr->v[1].i};
        if (in[i]->rank == MAX_RANK) return infer_fail(err, "has %d dimensions already", MAX_RANK);
        memcpy(dim + 1, in[i]->dim, (size_t)in[i]->rank * sizeof *dim);
        out[i] = type_tensor(s, in[i]->dtype, in[i]->rank + 1, dim);
    }
    return nin == 1 ? out[0] : type_tuple(s, nin, out);
}

static bool has_blocks(const Type *t, int64_t ranks, Buf *err) {
    if (t->rank > 0 && t->dim[0] == ranks) return true;
    infer_fail(err, "the first dimension is not the number of ranks, %lld", (long long)ranks);
    return false;
}

INFER(infer_reduce_scatter) {
    UNUSED;
    const Type *out[MAX_OPERANDS];
    if (!check_message(in, nin, attr, err)) return NULL;
    if (!check_wire((Dtype)attr->v[2].i, in[0]->dtype, err)) return NULL;
    for (uint32_t i = 0; i < nin; i++) {
        if (!has_blocks(in[i], attr->v[1].i, err)) return NULL;
        out[i] = type_tensor(s, in[i]->dtype, in[i]->rank - 1, in[i]->dim + 1);
    }
    return nin == 1 ? out[0] : type_tuple(s, nin, out);
}

INFER(infer_all_to_all) {
    UNUSED;
    if (!check_ranks(attr->v[1].i, err) || !has_blocks(in[0], attr->v[1].i, err)) return NULL;
    return check_wire((Dtype)attr->v[2].i, in[0]->dtype, err) ? in[0] : NULL;
}

static bool check_peer(const Attr *attr, Buf *err) {
    if (!check_ranks(attr->v[1].i, err)) return false;
    if (attr->v[2].i < 0 || attr->v[2].i >= attr->v[1].i || attr->v[3].i < 1)
        return infer_fail(err, "there is no member %lld of %lld, or no transfer %lld",
                          (long long)attr->v[2].i, (long long)attr->v[1].i,
                          (long long)attr->v[3].i),
               false;
    return true;
}

INFER(infer_send) {
    UNUSED;
    return check_peer(attr, err) ? type_scalar(s, DT_I32) : NULL;
}

INFER(infer_recv) {
    UNUSED;
    const Ints *shape = attr->v[5].v;
    if (!check_peer(attr, err)) return NULL;
    if (in[0]->rank != 0 || in[0]->dtype != DT_I32)
        return infer_fail(err, "the operand must be i32[]");
    if (shape->n > MAX_RANK) return infer_fail(err, "shape has more than %d dimensions", MAX_RANK);
    return type_tensor(s, (Dtype)attr->v[4].i, (int)shape->n, shape->v);
}

INFER(infer_block) {
    UNUSED;
    int64_t d = attr->v[0].i, parts = attr->v[1].i, dim[MAX_RANK];
    if (in[1]->rank != 0 || in[1]->dtype != DT_I32)
        return infer_fail(err, "operand 2, the number of the block, must be i32[]");
    if (d < 0 || d >= in[0]->rank)
        return infer_fail(err, "dim %lld is not one of %d", (long long)d, in[0]->rank);
    if (parts < 1 || in[0]->dim[d] % parts != 0)
        return infer_fail(err, "%lld parts do not divide %lld", (long long)parts,
                          (long long)in[0]->dim[d]);
    memcpy(dim, in[0]->dim, sizeof dim);
    dim[d] /= parts;
    return type_tensor(s, in[0]->dtype, in[0]->rank, dim);
}

INFER(infer_room) {
    UNUSED;
    const Type *one = in[0], *const *t = one->dtype == DT_TUPLE ? one->elem : &one;
    int64_t n = 0;
    for (uint32_t i = 0; i < (one->dtype == DT_TUPLE ? one->nelem : 1); i++)
        if (__builtin_add_overflow(n, type_elements(t[i]), &n))
            return infer_fail(err, "the message is too large");
    if (attr->v[1].i < 1 || __builtin_mul_overflow(n, attr->v[1].i, &n))
        return infer_fail(err, "a message has %lld parts", (long long)attr->v[1].i);
    return type_tensor(s, (Dtype)attr->v[0].i, 1, &n);
}
