/* eval_moe.c: the meaning of routing, dispatch and combination of experts (M6-T, arXiv 2105.15082),
 * in double. ops.def says what every index stands for. */
#include "ir/hooks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void clear(Tensor *t, double x) {
    int64_t n = type_elements(t->type);
    for (int64_t i = 0; i < n; i++) t->data[i] = x;
}

/* to += x a */
static void add_scaled(double *to, double x, const double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += x * a[i];
}

/* ---- routing ---- */

typedef struct {
    int64_t g, s, p, e, top, slots;
} Route;

/* The largest of e probabilities not taken yet; ties, and rows of NaN, go to the lowest index. */
static int64_t best_expert(const double *prob, const bool *taken, int64_t e) {
    int64_t best = -1;
    for (int64_t i = 0; i < e; i++)
        if (!taken[i] && (best < 0 || prob[i] > prob[best])) best = i;
    return best;
}

/* The `top` best experts of every (group, token, prototype). */
static void choose(const Route *r, const double *prob, double *choice) {
    bool *taken = xcalloc((size_t)r->e, sizeof *taken);
    for (int64_t row = 0; row < r->g * r->s * r->p; row++) {
        memset(taken, 0, (size_t)r->e * sizeof *taken);
        for (int64_t c = 0; c < r->top; c++) {
            int64_t best = best_expert(prob + row * r->e, taken, r->e);
            taken[best] = true;
            choice[row * r->top + c] = (double)best;
        }
    }
    free(taken);
}

/* Seats choice c of one group and prototype, token by token; count[e] is how many rows each expert
 * has filled, by earlier choices too. */
static void seat(const Route *r, int64_t group, int64_t proto, int64_t c, double *count,
                 Tensor *out) {
    double *density = out[3].data + ((group * r->p + proto) * r->top + c) * r->e;
    int64_t k = r->p * r->top, rows = r->g * r->slots;
    for (int64_t t = 0; t < r->s; t++) {
        int64_t token = group * r->s + t;
        int64_t e = (int64_t)out[0].data[(token * r->p + proto) * r->top + c];
        density[e] += 1.0 / (double)r->s;
        if (count[e] >= (double)r->slots) continue;
        int64_t pair = token * k + proto * r->top + c;
        int64_t row = (proto * r->e + e) * rows + group * r->slots + (int64_t)count[e]++;
        out[1].data[pair] = (double)row;
        out[2].data[row] = (double)pair;
    }
}

void eval_route(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const int64_t *dim = in->type->dim;
    Route r = {dim[0], dim[1], dim[2], dim[3], attr_int(n, "top"), attr_int(n, "slots")};
    double *count = xcalloc((size_t)r.e, sizeof *count);
    clear(&out[1], -1), clear(&out[2], -1), clear(&out[3], 0);
    choose(&r, in->data, out[0].data);
    for (int64_t group = 0; group < r.g; group++)
        for (int64_t proto = 0; proto < r.p; proto++) {
            memset(count, 0, (size_t)r.e * sizeof *count);
            for (int64_t c = 0; c < r.top; c++) seat(&r, group, proto, c, count, out);
        }
    free(count);
}

/* ---- moving rows ---- */

/* out[row] = gate[source] x[token of source]; every gate is 1 where gate is NULL. */
static void to_experts(const Tensor *x, const double *gate, int64_t k, const Tensor *source,
                       Tensor *out) {
    int64_t d = x->type->dim[1], rows = type_elements(source->type);
    clear(out, 0);
    for (int64_t r = 0; r < rows; r++) {
        int64_t pair = (int64_t)source->data[r];
        if (pair >= 0)
            add_scaled(out->data + r * d, gate ? gate[pair] : 1, x->data + pair / k * d, d);
    }
}

/* out[token] = sum of gate y[slot] over the token's k choices. */
static void from_experts(const Tensor *y, const double *gate, const Tensor *slot, Tensor *out) {
    int64_t k = slot->type->dim[1], d = y->type->dim[2], pairs = type_elements(slot->type);
    clear(out, 0);
    for (int64_t i = 0; i < pairs; i++) {
        int64_t row = (int64_t)slot->data[i];
        if (row >= 0) add_scaled(out->data + i / k * d, gate ? gate[i] : 1, y->data + row * d, d);
    }
}

void eval_dispatch(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    to_experts(&in[0], NULL, in[1].type->dim[1], &in[2], out);
}

void eval_dispatch_scaled(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    to_experts(&in[0], in[1].data, in[1].type->dim[1], &in[3], out);
}

void eval_combine(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    from_experts(&in[0], in[1].data, &in[2], out);
}

void eval_combine_sum(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    from_experts(&in[0], NULL, &in[1], out);
}

void eval_gate_grad(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    int64_t k = in[2].type->dim[1], d = in[1].type->dim[1], pairs = type_elements(in[2].type);
    for (int64_t i = 0; i < pairs; i++) {
        int64_t row = (int64_t)in[2].data[i];
        double sum = 0;
        for (int64_t j = 0; row >= 0 && j < d; j++)
            sum += in[0].data[row * d + j] * in[1].data[i / k * d + j];
        out->data[i] = sum;
    }
}
