/* flops.c: arithmetic of the contractions, a multiplication and an addition counting as two. What a
 * mask hides is not counted: kernels skip it. */
#include "ir/hooks.h"

#include <string.h>

double flops_einsum(const Graph *g, const Node *n) {
    Einsum e = einsum_read(g, n);
    const Type *t = n->type->dtype == DT_TUPLE ? n->type->elem[0] : n->type;
    return 2 * (double)type_elements(t) * (double)einsum_size(&e, e.k);
}

/* Multiply-adds of one of attention's products, q k' or p v: pairs of positions that see each
 * other, times heads and their width. */
static double attention_product(const Graph *g, const Node *n) {
    const int64_t *q = type_of(g, g->operand.p[n->in])->dim;
    int64_t s = type_of(g, g->operand.p[n->in + 1])->dim[1];
    const char *mask = attr_str(n, "mask");
    int64_t prefix = strcmp(mask, "prefix") == 0 ? attr_int(n, "prefix") : 0;
    double pairs = 0;
    for (int64_t t = 0; t < q[1]; t++)
        pairs += (double)(strcmp(mask, "none") == 0 ? s : MIN(s, MAX(t + 1, prefix)));
    return pairs * (double)(q[0] * q[2] * q[3]);
}

double flops_attention(const Graph *g, const Node *n) { return 2 * 2 * attention_product(g, n); }

/* Five products: the scores again, do v', dq, dk and dv. */
double flops_attention_grad(const Graph *g, const Node *n) {
    return 2 * 5 * attention_product(g, n);
}
