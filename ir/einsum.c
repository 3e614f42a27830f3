/* einsum.c: two-operand contractions "ecd,edf->ecf", their labels sorted into roles.
 *
 * Every label stands in at least two of the three places, so a contraction is a batched matrix
 * product: batch labels are in all three, m in a and the result, n in b and the result, k in both
 * operands and summed. Diagonals and sums of a single operand are other nodes. */
#include "ir/hooks.h"

#include <string.h>

static bool is_label(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Reads labels into out; stops at the first byte that is none. */
static const char *take_labels(const char *p, char out[MAX_RANK + 1], const char *spec, Buf *err) {
    int n = 0;
    for (; is_label(*p); p++) {
        if (n == MAX_RANK)
            return buf_printf(err, "einsum \"%s\" has more than %d labels in one place", spec,
                              MAX_RANK),
                   NULL;
        if (memchr(out, *p, (size_t)n))
            return buf_printf(err, "einsum \"%s\" repeats '%c' in one place", spec, *p), NULL;
        out[n++] = *p;
    }
    out[n] = 0;
    return p;
}

static void add_label(char *list, char c) {
    size_t n = strlen(list);
    list[n] = c;
    list[n + 1] = 0;
}

static bool bad_label(const char *spec, char c, const char *where, Buf *err) {
    buf_printf(err, "einsum \"%s\": '%c' is %s", spec, c, where);
    return false;
}

static bool sort_labels(const char *spec, Einsum *e, Buf *err) {
    for (const char *p = e->c; *p; p++) {
        bool a = strchr(e->a, *p) != NULL, b = strchr(e->b, *p) != NULL;
        if (!a && !b) return bad_label(spec, *p, "in the result only", err);
        add_label(a && b ? e->batch : a ? e->m : e->n, *p);
    }
    for (const char *p = e->a; *p; p++) {
        bool b = strchr(e->b, *p) != NULL, c = strchr(e->c, *p) != NULL;
        if (!b && !c) return bad_label(spec, *p, "in operand 1 only", err);
        if (b && !c) add_label(e->k, *p);
    }
    for (const char *p = e->b; *p; p++)
        if (!strchr(e->a, *p) && !strchr(e->c, *p))
            return bad_label(spec, *p, "in operand 2 only", err);
    return true;
}

bool einsum_parse(const char *spec, Einsum *e, Buf *err) {
    memset(e, 0, sizeof *e);
    const char *p = take_labels(spec, e->a, spec, err);
    if (p && *p == ',')
        p = take_labels(p + 1, e->b, spec, err);
    else if (p)
        return buf_printf(err, "einsum \"%s\" needs two operands: \"ab,bc->ac\"", spec), false;
    if (p && p[0] == '-' && p[1] == '>')
        p = take_labels(p + 2, e->c, spec, err);
    else if (p)
        return buf_printf(err, "einsum \"%s\" needs '->' and the result's labels", spec), false;
    if (!p) return false;
    if (*p) return buf_printf(err, "einsum \"%s\" has a stray '%c'", spec, *p), false;
    return sort_labels(spec, e, err);
}

static bool check_rank(const char *labels, const Type *t, int which, Buf *err) {
    if ((size_t)t->rank == strlen(labels)) return true;
    buf_printf(err, "operand %d has %d dimensions, but einsum labels it \"%s\"", which, t->rank,
               labels);
    return false;
}

bool einsum_sizes(Einsum *e, const Type *a, const Type *b, Buf *err) {
    if (!check_rank(e->a, a, 1, err) || !check_rank(e->b, b, 2, err)) return false;
    for (int i = 0; i < a->rank; i++) e->size[(int)e->a[i]] = a->dim[i];
    for (int i = 0; i < b->rank; i++) {
        int64_t *size = &e->size[(int)e->b[i]];
        if (strchr(e->a, e->b[i]) && *size != b->dim[i]) {
            buf_printf(err, "operand 2 has %c = %lld, operand 1 has %c = %lld", e->b[i],
                       (long long)b->dim[i], e->b[i], (long long)*size);
            return false;
        }
        *size = b->dim[i];
    }
    return true;
}

Einsum einsum_read(const Graph *g, const Node *n) {
    Einsum e;
    Buf err = {0};
    const Value *in = &g->operand.p[n->in];
    if (!einsum_parse(attr_str(n, "spec"), &e, &err) ||
        !einsum_sizes(&e, type_of(g, in[0]), type_of(g, in[1]), &err))
        BUG("%s", err.p);
    return e;
}

int64_t einsum_size(const Einsum *e, const char *labels) {
    int64_t n = 1;
    for (; *labels; labels++) n *= e->size[(int)*labels];
    return n;
}

INFER(infer_einsum) {
    UNUSED;
    Einsum e;
    if (!einsum_parse(attr->v[0].s, &e, err) || !einsum_sizes(&e, in[0], in[1], err)) return NULL;
    if (in[0]->dtype != in[1]->dtype || !dtype_is_float(in[0]->dtype))
        return buf_printf(err, "operands are %s and %s; both must be the same float type",
                          dtype_name(in[0]->dtype), dtype_name(in[1]->dtype)),
               NULL;
    int64_t dim[MAX_RANK];
    int rank = (int)strlen(e.c);
    for (int i = 0; i < rank; i++) dim[i] = e.size[(int)e.c[i]];
    return type_tensor(s, in[0]->dtype, rank, dim);
}

INFER(infer_einsum_gelu) {
    if (nin < 2 || nin > 3) return infer_fail(err, "has two operands and perhaps a third");
    const Type *t = infer_einsum(s, op, 2, in, attr, given, err);
    if (!t) return NULL;
    bool row = nin == 2 || (in[2]->rank == 1 && t->rank > 0 &&
                            in[2]->dim[0] == t->dim[t->rank - 1] && in[2]->dtype == t->dtype);
    if (!row) return infer_fail(err, "the third operand is no vector along the last dim");
    return type_tuple(s, 2, (const Type *[]){t, t});
}

INFER(infer_einsum_gelu_grad) {
    UNUSED;
    const Type *t = infer_einsum(s, op, 2, in, attr, given, err);
    if (t && t != in[2]) return infer_fail(err, "the third operand is not of the product's type");
    return t;
}

INFER(infer_einsum_gelu_grad_sum) {
    const Type *t = infer_einsum_gelu_grad(s, op, nin, in, attr, given, err);
    if (!t) return NULL;
    if (t->rank == 0) return infer_fail(err, "the product has no last dim");
    return type_tuple(s, 2, (const Type *[]){t, type_tensor(s, t->dtype, 1, &t->dim[t->rank - 1])});
}
