/* infer_nn.c: result types of the ops of networks: normalisation, cross-entropy, attention, and
 * mixture-of-experts routing. Statistics (means, log-sums) are f32, or f64 of f64 operands. */
#include "ir/hooks.h"

#include <string.h>

static Dtype statistic(const Type *t) { return t->dtype == DT_F64 ? DT_F64 : DT_F32; }

static bool check_float_rows(const Type *t, Buf *err) {
    if (t->rank > 0 && dtype_is_float(t->dtype)) return true;
    infer_fail(err, "operand 1 needs at least one dimension of a float type");
    return false;
}

/* (y, statistics…) with `n` statistics per row. */
static const Type *rows_and_statistics(Session *s, const Type *x, uint32_t n) {
    const Type *row = type_tensor(s, statistic(x), x->rank - 1, x->dim);
    const Type *elem[] = {x, row, row};
    return type_tuple(s, 1 + n, elem);
}

INFER(infer_norm) {
    UNUSED;
    return check_float_rows(in[0], err) ? rows_and_statistics(s, in[0], 2) : NULL;
}

INFER(infer_rmsnorm) {
    UNUSED;
    return check_float_rows(in[0], err) ? rows_and_statistics(s, in[0], 1) : NULL;
}

INFER(infer_cross_entropy) {
    UNUSED;
    if (!check_float_rows(in[0], err)) return NULL;
    const Type *row = type_tensor(s, statistic(in[0]), in[0]->rank - 1, in[0]->dim);
    if (in[1]->dtype != DT_I32 || !type_same_shape(row, in[1])) {
        buf_puts(err, "the target is ");
        type_print(in[1], err);
        buf_puts(err, ", but must be ");
        type_print(type_with_dtype(s, row, DT_I32), err);
        return NULL;
    }
    const Type *elem[] = {row, row};
    return type_tuple(s, 2, elem);
}

/* ---- shapes by letters ---- */

/* Sizes of letters met so far in one node's operands: 0 is not met. */
typedef struct {
    int64_t size[128];
    int where[128]; /* operand that set it, from 1 */
    Buf *err;
} Letters;

/* Binds the dims of operand `which` (from 1) to letters. */
static bool bind(Letters *l, const Type *t, int which, const char *letters) {
    if ((size_t)t->rank != strlen(letters)) {
        infer_fail(l->err, "operand %d has %d dimensions, but must have %d", which, t->rank,
                   (int)strlen(letters));
        return false;
    }
    for (int i = 0; i < t->rank; i++) {
        int c = letters[i];
        if (l->where[c] && l->size[c] != t->dim[i]) {
            infer_fail(l->err, "operand %d has %c = %lld, operand %d has %c = %lld", which, c,
                       (long long)t->dim[i], l->where[c], c, (long long)l->size[c]);
            return false;
        }
        l->size[c] = t->dim[i];
        if (!l->where[c]) l->where[c] = which;
    }
    return true;
}

static bool need_dtype(Letters *l, const Type *t, int which, Dtype d) {
    if (t->dtype == d) return true;
    infer_fail(l->err, "operand %d is %s, but must be %s", which, dtype_name(t->dtype),
               dtype_name(d));
    return false;
}

static bool need_float(Letters *l, const Type *t, int which) {
    if (dtype_is_float(t->dtype)) return true;
    infer_fail(l->err, "operand %d is %s, but must be a float type", which, dtype_name(t->dtype));
    return false;
}

static const Type *of_letters(const Letters *l, Session *s, Dtype d, const char *letters) {
    int64_t dim[MAX_RANK];
    int rank = 0;
    for (; letters[rank]; rank++) dim[rank] = l->size[(int)letters[rank]];
    return type_tensor(s, d, rank, dim);
}

/* ---- attention ---- */

/* Operands 1 to 3 of both attention ops, and their attributes. */
static bool attention_operands(Letters *l, const Type *const *in, const Attr *attr) {
    const char *mask = attr->v[0].s;
    if (strcmp(mask, "none") != 0 && strcmp(mask, "causal") != 0 && strcmp(mask, "prefix") != 0)
        return infer_fail(l->err, "mask is \"%s\"; it is none, causal or prefix", mask), false;
    if (attr->v[1].i < 0) return infer_fail(l->err, "prefix is negative"), false;
    if (in[0]->rank == 4 && in[0]->dim[3] > ATTENTION_MAX_HEAD)
        return infer_fail(l->err, "heads are of at most %d elements", ATTENTION_MAX_HEAD), false;
    return need_float(l, in[0], 1) && bind(l, in[0], 1, "bthk") &&
           need_dtype(l, in[1], 2, in[0]->dtype) && bind(l, in[1], 2, "bshk") &&
           need_dtype(l, in[2], 3, in[0]->dtype) && bind(l, in[2], 3, "bshk");
}

INFER(infer_attention) {
    UNUSED;
    Letters l = {.err = err};
    if (!attention_operands(&l, in, attr)) return NULL;
    const Type *elem[] = {in[0], of_letters(&l, s, statistic(in[0]), "bht")};
    return type_tuple(s, 2, elem);
}

INFER(infer_attention_grad) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = attention_operands(&l, in, attr) && need_dtype(&l, in[3], 4, in[0]->dtype) &&
              bind(&l, in[3], 4, "bthk") && need_dtype(&l, in[4], 5, statistic(in[0])) &&
              bind(&l, in[4], 5, "bht") && need_dtype(&l, in[5], 6, in[0]->dtype) &&
              bind(&l, in[5], 6, "bthk");
    return ok ? type_tuple(s, 3, in) : NULL;
}

/* ---- mixture of experts ---- */

/* Products of sizes must be countable in i32: slots and sources are indices. */
static bool multiply(int64_t *x, int64_t y) {
    return !__builtin_mul_overflow(*x, y, x) && *x > 0 && *x <= INT32_MAX;
}

INFER(infer_route) {
    UNUSED;
    Letters l = {.err = err};
    int64_t top = attr->v[0].i, slots = attr->v[1].i;
    if (!need_float(&l, in[0], 1) || !bind(&l, in[0], 1, "gspe")) return NULL;
    if (top < 1 || top > l.size['e'])
        return infer_fail(err, "top is %lld of %lld experts", (long long)top,
                          (long long)l.size['e']);
    if (slots < 1) return infer_fail(err, "slots is %lld", (long long)slots);
    l.size['T'] = top;
    l.size['n'] = l.size['g'], l.size['k'] = l.size['p'];
    l.size['E'] = l.size['p'], l.size['r'] = l.size['g'];
    bool fits = multiply(&l.size['n'], l.size['s']) && multiply(&l.size['k'], top) &&
                multiply(&l.size['E'], l.size['e']) && multiply(&l.size['r'], slots);
    int64_t tokens = l.size['n'], rows = l.size['E'];
    if (!fits || !multiply(&tokens, l.size['k']) || !multiply(&rows, l.size['r']))
        return infer_fail(err, "tokens times choices or experts times rows exceed 2^31");
    const Type *elem[] = {of_letters(&l, s, DT_I32, "gspT"), of_letters(&l, s, DT_I32, "nk"),
                          of_letters(&l, s, DT_I32, "Er"), of_letters(&l, s, DT_F32, "gpTe")};
    return type_tuple(s, COUNT(elem), elem);
}

/* The i32 operands that say where rows go: slot[n,k], then source[E,r]. */
static bool bind_slot(Letters *l, const Type *t, int which) {
    return need_dtype(l, t, which, DT_I32) && bind(l, t, which, "nk");
}

static bool bind_source(Letters *l, const Type *t, int which) {
    return need_dtype(l, t, which, DT_I32) && bind(l, t, which, "Er");
}

INFER(infer_dispatch) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = need_float(&l, in[0], 1) && bind(&l, in[0], 1, "nd") && bind_slot(&l, in[1], 2) &&
              bind_source(&l, in[2], 3);
    return ok ? of_letters(&l, s, in[0]->dtype, "Erd") : NULL;
}

INFER(infer_dispatch_scaled) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = need_float(&l, in[0], 1) && bind(&l, in[0], 1, "nd") && need_float(&l, in[1], 2) &&
              bind(&l, in[1], 2, "nk") && bind_slot(&l, in[2], 3) && bind_source(&l, in[3], 4);
    return ok ? of_letters(&l, s, in[0]->dtype, "Erd") : NULL;
}

INFER(infer_combine) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = need_float(&l, in[0], 1) && bind(&l, in[0], 1, "Erd") && need_float(&l, in[1], 2) &&
              bind(&l, in[1], 2, "nk") && bind_slot(&l, in[2], 3) && bind_source(&l, in[3], 4);
    return ok ? of_letters(&l, s, in[0]->dtype, "nd") : NULL;
}

INFER(infer_combine_sum) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = need_float(&l, in[0], 1) && bind(&l, in[0], 1, "Erd") && bind_slot(&l, in[1], 2) &&
              bind_source(&l, in[2], 3);
    return ok ? of_letters(&l, s, in[0]->dtype, "nd") : NULL;
}

INFER(infer_gate_grad) {
    UNUSED;
    Letters l = {.err = err};
    bool ok = need_float(&l, in[0], 1) && bind(&l, in[0], 1, "Erd") &&
              need_dtype(&l, in[1], 2, in[0]->dtype) && bind(&l, in[1], 2, "nd") &&
              bind_slot(&l, in[2], 3);
    return ok ? of_letters(&l, s, DT_F32, "nk") : NULL;
}
