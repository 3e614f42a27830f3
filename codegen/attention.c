/* attention.c: attention forward and backward, one row of scores at a time: never [t, s] in memory.
 *
 * q[b,t,h,k], k and v[b,s,h,k]. Forward: an item is one row (b, h, t). Backward: an item is one
 * head of one example, so that dk and dv are summed in one order by one thread. A row sees a prefix
 * of the positions: all without a mask, max(prefix, t + 1) otherwise. */
#include "codegen/opaque.h"

#include <string.h>

static void put_sizes(const Opaque *o, Buf *b) {
    const int64_t *q = o->in[0]->dim;
    bool none = strcmp(attr_str(o->n, "mask"), "none") == 0;
    bool prefix = strcmp(attr_str(o->n, "mask"), "prefix") == 0;
    long long seen = prefix ? (long long)attr_int(o->n, "prefix") : 0,
              s = (long long)o->in[1]->dim[1];
    buf_printf(b,
               "    enum { B = %lld, T = %lld, S = %lld, H = %lld, D = %lld, W = H * D };\n"
               "    enum { SEEN = %lld };\n"
               "    const float scale = %.9gf;\n",
               (long long)q[0], (long long)q[1], s, (long long)q[2], (long long)q[3],
               none ? s : MIN(seen, s), attr_float(o->n, "scale"));
}

static const char limit[] =
    "        const int64_t n = t + 1 > SEEN ? (t + 1 < S ? t + 1 : S) : SEEN;\n";

/* Statement: to[0..D-1] = row at `index` of `name`, in f32. */
static void put_row(Buf *b, const char *to, Dtype d, const char *name, const char *index) {
    Buf at = {0};
    buf_printf(&at, "%s + j", index);
    buf_printf(b, "        for (int64_t j = 0; j < D; j++) %s[j] = ", to);
    put_load(b, d, name, at.p);
    buf_puts(b, ";\n");
    buf_free(&at);
}

static void put_dot(Buf *b, const char *sum, const char *x, Dtype d, const char *name) {
    buf_printf(b,
               "            float %s = 0;\n#pragma omp simd reduction(+ : %s)\n"
               "            for (int64_t j = 0; j < D; j++) %s += %s[j] * ",
               sum, sum, sum, x);
    put_load(b, d, name, "kv + s * W + j");
    buf_puts(b, ";\n");
}

static void put_add(Buf *b, const char *to, const char *factor, Dtype d, const char *name) {
    buf_printf(b, "#pragma omp simd\n            for (int64_t j = 0; j < D; j++) %s[j] += %s * ",
               to, factor);
    put_load(b, d, name, "kv + s * W + j");
    buf_puts(b, ";\n");
}

void emit_attention(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const int64_t *q = o->in[0]->dim;
    Dtype d = o->in[0]->dtype;
    opaque_in(o, b, 0, "q");
    opaque_in(o, b, 1, "k");
    opaque_in(o, b, 2, "v");
    opaque_out(o, b, 0, "out");
    opaque_out(o, b, 1, "lse");
    put_sizes(o, b);
    buf_puts(b, "    for (int64_t item = lo; item < hi; item++) {\n"
                "        const int64_t t = item % T, h = item / T % H, e = item / T / H;\n"
                "        const int64_t row = (e * T + t) * W + h * D, kv = e * S * W + h * D;\n"
                "        float p[S], x[D], sum[D], most = -__builtin_inff(), total = 0;\n");
    buf_puts(b, limit);
    put_row(b, "x", d, "q", "row");
    buf_puts(b, "        for (int64_t s = 0; s < n; s++) {\n");
    put_dot(b, "y", "x", d, "k");
    buf_puts(b, "            p[s] = y * scale;\n"
                "            most = p[s] > most ? p[s] : most;\n"
                "        }\n"
                "#pragma omp simd reduction(+ : total)\n"
                "        for (int64_t s = 0; s < n; s++) total += p[s] = exp_(p[s] - most);\n"
                "        for (int64_t j = 0; j < D; j++) sum[j] = 0;\n"
                "        for (int64_t s = 0; s < n; s++) {\n");
    put_add(b, "sum", "p[s]", d, "v");
    buf_puts(b, "        }\n");
    if (o->want[0]) {
        buf_puts(b, "        for (int64_t j = 0; j < D; j++) ");
        put_store(b, d, "out", "row + j", "sum[j] / total");
    }
    if (o->want[1]) buf_puts(b, "        lse[item] = most + log_(total);\n");
    buf_puts(b, "    }\n");
    opaque_items(c, q[0] * q[1] * q[2], (double)(o->in[1]->dim[1] * q[3]));
}

void emit_attention_grad(const Opaque *o, Code *c) {
    static const char *const names[] = {"q", "k", "v", "out", "lse", "go"};
    static const char *const results[] = {"dq", "dk", "dv"};
    Buf *b = &c->body;
    const int64_t *q = o->in[0]->dim;
    Dtype d = o->in[0]->dtype;
    for (uint32_t i = 0; i < 6; i++) opaque_in(o, b, i, names[i]);
    for (uint32_t i = 0; i < 3; i++) opaque_out(o, b, i, results[i]);
    put_sizes(o, b);
    buf_puts(b, "    for (int64_t item = lo; item < hi; item++) {\n"
                "        const int64_t h = item % H, e = item / H, kv = e * S * W + h * D;\n"
                "        static _Thread_local float gk[S * D], gv[S * D];\n"
                "        memset(gk, 0, sizeof gk);\n"
                "        memset(gv, 0, sizeof gv);\n"
                "        for (int64_t t = 0; t < T; t++) {\n"
                "        const int64_t row = (e * T + t) * W + h * D;\n"
                "        float x[D], g[D], gq[D], own = 0, l = lse[(e * H + h) * T + t];\n");
    buf_puts(b, limit);
    put_row(b, "x", d, "q", "row");
    put_row(b, "g", d, "go", "row");
    buf_puts(b, "        for (int64_t j = 0; j < D; j++) gq[j] = 0, own += g[j] * ");
    put_load(b, d, "out", "row + j");
    buf_puts(b, ";\n        for (int64_t s = 0; s < n; s++) {\n");
    put_dot(b, "y", "x", d, "k");
    put_dot(b, "z", "g", d, "v");
    buf_puts(b, "            const float p = exp_(y * scale - l), ds = p * (z - own) * scale;\n");
    put_add(b, "gq", "ds", d, "k");
    buf_puts(b, "#pragma omp simd\n"
                "            for (int64_t j = 0; j < D; j++) gk[s * D + j] += ds * x[j];\n"
                "#pragma omp simd\n"
                "            for (int64_t j = 0; j < D; j++) gv[s * D + j] += p * g[j];\n"
                "        }\n");
    if (o->want[0]) {
        buf_puts(b, "        for (int64_t j = 0; j < D; j++) ");
        put_store(b, d, "dq", "row + j", "gq[j]");
    }
    buf_puts(b, "        }\n        for (int64_t s = 0; s < S; s++)\n"
                "        for (int64_t j = 0; j < D; j++) {\n");
    if (o->want[1]) put_store(b, d, "            dk", "kv + s * W + j", "gk[s * D + j]");
    if (o->want[2]) put_store(b, d, "            dv", "kv + s * W + j", "gv[s * D + j]");
    buf_puts(b, "        }\n    }\n");
    opaque_items(c, q[0] * q[2], (double)(q[1] * o->in[1]->dim[1] * q[3] * 4));
}
