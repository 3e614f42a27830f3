/* contract.c: contractions as row-major matrix products. Labels of one role that run on in every
 * operand merge into one dim; of what is left, one m, one n and one k make the matrix, further m
 * and n dims become batch dims with stride 0 in the operand that lacks them. Where that fails, the
 * fuse pass copies an operand (or transposes the result) and asks again. */
#include "ir/storage.h"

#include <string.h>

/* One merged dim: its size, and its strides in A, B and C (0 where it does not occur). */
typedef struct {
    int64_t size, s[3];
} Dim;
typedef struct {
    int n;
    Dim d[MAX_RANK + 1];
} Dims;
typedef struct {
    Dims batch, m, n, k;
} Roles;

static int64_t label_stride(const char *labels, const Layout *l, char x) {
    const char *p = strchr(labels, x);
    return p ? l->stride[p - labels] : 0;
}

static Dims merge_labels(const Einsum *e, const char *labels, const Layout l[3]) {
    Dims out = {0};
    for (const char *x = labels; *x; x++) {
        Dim d = {e->size[(int)*x],
                 {label_stride(e->a, &l[0], *x), label_stride(e->b, &l[1], *x),
                  label_stride(e->c, &l[2], *x)}};
        Dim *last = out.n ? &out.d[out.n - 1] : NULL;
        if (d.size == 1) continue;
        if (last && last->s[0] == d.size * d.s[0] && last->s[1] == d.size * d.s[1] &&
            last->s[2] == d.size * d.s[2]) {
            last->size *= d.size;
            memcpy(last->s, d.s, sizeof d.s);
        } else {
            out.d[out.n++] = d;
        }
    }
    return out;
}

/* Takes dim i out of the list; a dim of size 1 when the list is empty. */
static Dim take(Dims *dims, int i) {
    if (dims->n == 0) return (Dim){.size = 1};
    Dim d = dims->d[i];
    memmove(&dims->d[i], &dims->d[i + 1], (size_t)(dims->n - i - 1) * sizeof d);
    dims->n--;
    return d;
}

/* Rows x cols with element strides rs, cs as a stored matrix: plain, or transposed. */
static bool as_matrix(int64_t rows, int64_t cols, int64_t rs, int64_t cs, bool *trans,
                      int64_t *ld) {
    if ((cs == 1 || cols == 1) && (rows == 1 || rs >= cols)) {
        *trans = false;
        *ld = rows == 1 ? cols : rs;
        return true;
    }
    if ((rs == 1 || rows == 1) && (cols == 1 || cs >= rows)) {
        *trans = true;
        *ld = cols == 1 ? rows : cs;
        return true;
    }
    return false;
}

static void add_batch(Contract *c, const Dims *dims) {
    for (int i = 0; i < dims->n; i++) {
        if (c->nbatch < CONTRACT_BATCH) {
            c->count[c->nbatch] = dims->d[i].size;
            c->sa[c->nbatch] = dims->d[i].s[0];
            c->sb[c->nbatch] = dims->d[i].s[1];
            c->sc[c->nbatch] = dims->d[i].s[2];
        }
        c->nbatch++;
    }
}

/* With m's dim i and n's dim j as the matrix; `r` by value: taken apart here. */
static ContractFit fit_matrix(Roles r, int i, int j, Contract *c) {
    Dim m = take(&r.m, i), n = take(&r.n, j), k = take(&r.k, 0);
    bool tc;
    c->m = m.size, c->n = n.size, c->k = k.size;
    if (!as_matrix(m.size, n.size, m.s[2], n.s[2], &tc, &c->ldc) || tc) return CONTRACT_BAD_C;
    if (!as_matrix(m.size, k.size, m.s[0], k.s[0], &c->ta, &c->lda)) return CONTRACT_BAD_A;
    if (!as_matrix(k.size, n.size, k.s[1], n.s[1], &c->tb, &c->ldb)) return CONTRACT_BAD_B;
    c->nbatch = 0;
    add_batch(c, &r.batch);
    add_batch(c, &r.m);
    add_batch(c, &r.n);
    return c->nbatch <= CONTRACT_BATCH ? CONTRACT_OK : CONTRACT_BAD_C;
}

/* The choice of matrix dims with the largest product that fits. */
static ContractFit fit_roles(const Roles *r, Contract *best) {
    ContractFit worst = CONTRACT_BAD_C;
    int64_t size = 0;
    for (int i = 0; i < MAX(r->m.n, 1); i++)
        for (int j = 0; j < MAX(r->n.n, 1); j++) {
            Contract c = *best;
            ContractFit f = fit_matrix(*r, i, j, &c);
            if (f != CONTRACT_OK && size == 0 && worst == CONTRACT_BAD_C) worst = f;
            if (f == CONTRACT_OK && c.m * c.n > size) size = c.m * c.n, *best = c;
        }
    return size ? CONTRACT_OK : worst;
}

static void swap_operands(Roles *r, Contract *c) {
    Dims *all[] = {&r->batch, &r->m, &r->n, &r->k};
    for (int q = 0; q < 4; q++)
        for (int i = 0; i < all[q]->n; i++) {
            int64_t *s = all[q]->d[i].s, t = s[0];
            s[0] = s[1];
            s[1] = t;
        }
    Dims m = r->m;
    r->m = r->n;
    r->n = m;
    Value a = c->a;
    int64_t offset = c->a_offset;
    c->a = c->b, c->a_offset = c->b_offset;
    c->b = a, c->b_offset = offset;
    c->swapped = !c->swapped;
}

ContractFit contract_fit(const Graph *g, Value v, Contract *c) {
    Einsum e = einsum_read(g, node_of(g, v));
    Layout l[3];
    memset(c, 0, sizeof *c);
    c->a = view_root(g, operand(g, v, 0), &l[0]);
    c->b = view_root(g, operand(g, v, 1), &l[1]);
    c->a_offset = l[0].offset, c->b_offset = l[1].offset;
    const Type *t = type_of(g, v);
    layout_of_type(t->dtype == DT_TUPLE ? t->elem[0] : t, &l[2]);
    Roles r = {merge_labels(&e, e.batch, l), merge_labels(&e, e.m, l), merge_labels(&e, e.n, l),
               merge_labels(&e, e.k, l)};
    if (r.k.n > 1) { /* k's labels are in A's order: if A alone cannot merge them, copy A */
        Layout a[3] = {l[0], l[0], l[2]};
        Einsum same = e;
        memcpy(same.b, e.a, sizeof e.a);
        return merge_labels(&same, e.k, a).n > 1 ? CONTRACT_BAD_A : CONTRACT_BAD_B;
    }
    Contract first = *c;
    ContractFit fit = fit_roles(&r, c);
    if (fit == CONTRACT_OK) return fit;
    *c = first;
    swap_operands(&r, c);
    ContractFit other = fit_roles(&r, c);
    if (other == CONTRACT_OK || other == CONTRACT_BAD_C) return other == CONTRACT_OK ? other : fit;
    return other == CONTRACT_BAD_A ? CONTRACT_BAD_B : CONTRACT_BAD_A;
}

bool is_product(const Graph *g, Value v) {
    Op op = (Op)node_of(g, v)->op;
    return op == OP_einsum || op == OP_einsum_gelu || op == OP_einsum_gelu_grad ||
           op == OP_einsum_gelu_grad_sum;
}
