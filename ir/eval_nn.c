/* eval_nn.c: the meaning of the raised ops and of attention, in double, written as their
 * definitions read. Attention is the naive one: a row of probabilities at a time. */
#include "ir/hooks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* to += x a */
static void add_scaled(double *to, double x, const double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += x * a[i];
}

/* ---- rows ---- */

static int64_t last_dim(const Type *t) { return t->dim[t->rank - 1]; }

/* y = exp(x - max) (y may be NULL); returns log sum exp, and in *sum the sum of y. */
static double log_sum_exp(double *y, const double *x, int64_t n, double *sum) {
    double max = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    for (int64_t i = 0; i < n; i++) {
        double e = exp(x[i] - max);
        total += e;
        if (y) y[i] = e;
    }
    if (sum) *sum = total;
    return max + log(total);
}

static void softmax_row(double *y, const double *x, int64_t n) {
    double sum;
    log_sum_exp(y, x, n, &sum);
    for (int64_t i = 0; i < n; i++) y[i] /= sum;
}

void eval_softmax(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t d = last_dim(n->type), count = type_elements(n->type);
    for (int64_t i = 0; i < count; i += d) softmax_row(out->data + i, in->data + i, d);
}

void eval_norm(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t d = last_dim(in->type), rows = type_elements(in->type) / d;
    double eps = attr_float(n, "eps");
    for (int64_t r = 0; r < rows; r++) {
        const double *x = in->data + r * d;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < d; i++) mean += x[i] / (double)d;
        for (int64_t i = 0; i < d; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)d;
        double rstd = 1 / sqrt(variance + eps);
        for (int64_t i = 0; i < d; i++) out[0].data[r * d + i] = (x[i] - mean) * rstd;
        out[1].data[r] = mean, out[2].data[r] = rstd;
    }
}

void eval_rmsnorm(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t d = last_dim(in->type), rows = type_elements(in->type) / d;
    double eps = attr_float(n, "eps");
    for (int64_t r = 0; r < rows; r++) {
        const double *x = in->data + r * d;
        double rstd = 1 / sqrt(dot(x, x, d) / (double)d + eps);
        for (int64_t i = 0; i < d; i++) out[0].data[r * d + i] = x[i] * rstd;
        out[1].data[r] = rstd;
    }
}

void eval_cross_entropy(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    int64_t d = last_dim(in[0].type), rows = type_elements(in[1].type);
    for (int64_t r = 0; r < rows; r++) {
        const double *x = in[0].data + r * d;
        double target = in[1].data[r], lse = log_sum_exp(NULL, x, d, NULL);
        bool inside = target >= 0 && target < (double)d;
        out[0].data[r] = lse - (inside ? x[(int64_t)target] : 0);
        out[1].data[r] = lse;
    }
}

/* ---- attention ---- */

static bool mask_allows(const char *kind, int64_t prefix, int64_t t, int64_t s) {
    if (strcmp(kind, "none") == 0 || s <= t) return true;
    return strcmp(kind, "prefix") == 0 && s < prefix;
}

void eval_mask(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)in;
    const char *kind = attr_str(n, "kind");
    int64_t prefix = attr_int(n, "prefix"), rows = n->type->dim[0], cols = n->type->dim[1];
    for (int64_t t = 0; t < rows; t++)
        for (int64_t s = 0; s < cols; s++)
            out->data[t * cols + s] = mask_allows(kind, prefix, t, s) ? 0 : -1e30;
}

/* One attention op: its sizes, and where row (batch, position, head) of q or k lies. */
typedef struct {
    int64_t b, t, s, h, d, prefix;
    const char *mask;
    double scale;
} Heads;

static Heads heads_of(const Node *n, const Tensor *in) {
    const int64_t *q = in[0].type->dim;
    return (Heads){.b = q[0],
                   .t = q[1],
                   .s = in[1].type->dim[1],
                   .h = q[2],
                   .d = q[3],
                   .prefix = attr_int(n, "prefix"),
                   .mask = attr_str(n, "mask"),
                   .scale = attr_float(n, "scale")};
}

static double *at_q(const Heads *z, double *x, int64_t b, int64_t t, int64_t h) {
    return x + ((b * z->t + t) * z->h + h) * z->d;
}

static double *at_k(const Heads *z, double *x, int64_t b, int64_t s, int64_t h) {
    return x + ((b * z->s + s) * z->h + h) * z->d;
}

/* scale q k' for every position s, minus infinity where t may not see it. */
static void score_row(const Heads *z, double *row, const Tensor *in, int64_t b, int64_t t,
                      int64_t h) {
    const double *q = at_q(z, in[0].data, b, t, h);
    for (int64_t s = 0; s < z->s; s++)
        row[s] = mask_allows(z->mask, z->prefix, t, s)
                     ? z->scale * dot(q, at_k(z, in[1].data, b, s, h), z->d)
                     : -INFINITY;
}

void eval_attention(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    Heads z = heads_of(n, in);
    double *p = xcalloc((size_t)z.s, sizeof *p);
    memset(out[0].data, 0, sizeof(double) * (size_t)type_elements(out[0].type));
    for (int64_t b = 0; b < z.b; b++)
        for (int64_t t = 0; t < z.t; t++)
            for (int64_t h = 0; h < z.h; h++) {
                score_row(&z, p, in, b, t, h);
                double lse = log_sum_exp(NULL, p, z.s, NULL), *o = at_q(&z, out[0].data, b, t, h);
                for (int64_t s = 0; s < z.s; s++)
                    add_scaled(o, exp(p[s] - lse), at_k(&z, in[2].data, b, s, h), z.d);
                out[1].data[(b * z.h + h) * z.t + t] = lse;
            }
    free(p);
}

/* One row of the gradient, with p = exp(score - lse) and dp = do v':
 * ds = p (dp - do o), dq = scale ds k, dk += scale ds q, dv += p do. */
static void attention_grad_row(const Heads *z, double *p, const Tensor *in, Tensor *out, int64_t b,
                               int64_t t, int64_t h) {
    double *q = at_q(z, in[0].data, b, t, h), *go = at_q(z, in[5].data, b, t, h);
    double lse = in[4].data[(b * z->h + h) * z->t + t];
    double own = dot(go, at_q(z, in[3].data, b, t, h), z->d);
    score_row(z, p, in, b, t, h);
    for (int64_t s = 0; s < z->s; s++) {
        double ps = exp(p[s] - lse);
        double ds = ps * (dot(go, at_k(z, in[2].data, b, s, h), z->d) - own) * z->scale;
        add_scaled(at_q(z, out[0].data, b, t, h), ds, at_k(z, in[1].data, b, s, h), z->d);
        add_scaled(at_k(z, out[1].data, b, s, h), ds, q, z->d);
        add_scaled(at_k(z, out[2].data, b, s, h), ps, go, z->d);
    }
}

void eval_attention_grad(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    Heads z = heads_of(n, in);
    double *p = xcalloc((size_t)z.s, sizeof *p);
    for (int i = 0; i < 3; i++)
        memset(out[i].data, 0, sizeof(double) * (size_t)type_elements(out[i].type));
    for (int64_t b = 0; b < z.b; b++)
        for (int64_t t = 0; t < z.t; t++)
            for (int64_t h = 0; h < z.h; h++) attention_grad_row(&z, p, in, out, b, t, h);
    free(p);
}
