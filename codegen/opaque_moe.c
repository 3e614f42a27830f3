/* opaque_moe.c: routing, and moving rows between tokens and experts. ops.def says what every index
 * stands for. */
#include "codegen/opaque.h"

/* An item is one prototype of one group: its experts' rows in that group are its own, so choices,
 * positions and the reverse table need nothing of other items. */
void emit_route(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const int64_t *dim = o->in[0]->dim;
    static const char *const names[] = {"choice", "slot", "source", "density"};
    opaque_in(o, b, 0, "prob");
    for (uint32_t i = 0; i < 4; i++) opaque_out(o, b, i, names[i]);
    buf_printf(b,
               "    enum { G = %lld, S = %lld, P = %lld, E = %lld, TOP = %lld, SLOTS = %lld };\n"
               "    const int64_t rows = (int64_t)G * SLOTS;\n"
               "    for (int64_t item = lo; item < hi; item++) {\n"
               "        const int64_t g = item / P, p = item %% P;\n"
               "        int32_t count[E], best[S][TOP];\n"
               "        memset(count, 0, sizeof count);\n",
               (long long)dim[0], (long long)dim[1], (long long)dim[2], (long long)dim[3],
               (long long)attr_int(o->n, "top"), (long long)attr_int(o->n, "slots"));
    if (o->want[2])
        buf_puts(b, "        for (int64_t e = 0; e < E; e++)\n"
                    "            for (int64_t j = 0; j < SLOTS; j++)\n"
                    "                source[(p * E + e) * rows + g * SLOTS + j] = -1;\n");
    if (o->want[3])
        buf_puts(b, "        for (int64_t i = 0; i < TOP * E; i++)\n"
                    "            density[(g * P + p) * TOP * E + i] = 0;\n");
    buf_puts(b, "        for (int64_t s = 0; s < S; s++) {\n"
                "            float x[E];\n"
                "            char taken[E];\n"
                "            memset(taken, 0, sizeof taken);\n"
                "            for (int64_t e = 0; e < E; e++) x[e] = ");
    put_load(b, o->in[0]->dtype, "prob", "((g * S + s) * P + p) * E + e");
    buf_puts(b, ";\n"
                "            for (int t = 0; t < TOP; t++) {\n"
                "                int32_t m = -1;\n"
                "                for (int32_t e = 0; e < E; e++)\n"
                "                    if (!taken[e] && (m < 0 || x[e] > x[m])) m = e;\n"
                "                taken[m] = 1;\n"
                "                best[s][t] = m;\n");
    if (o->want[0]) buf_puts(b, "                choice[((g * S + s) * P + p) * TOP + t] = m;\n");
    buf_puts(b, "            }\n"
                "        }\n"
                "        for (int t = 0; t < TOP; t++)\n"
                "            for (int64_t s = 0; s < S; s++) {\n"
                "                const int32_t e = best[s][t];\n"
                "                const int64_t pair = ((g * S + s) * P + p) * TOP + t;\n"
                "                int64_t row = -1;\n");
    if (o->want[3])
        buf_puts(b, "                density[((g * P + p) * TOP + t) * E + e] += 1.0f;\n");
    buf_puts(b, "                if (count[e] < SLOTS)\n"
                "                    row = (p * E + e) * rows + g * SLOTS + count[e]++;\n");
    if (o->want[1]) buf_puts(b, "                slot[pair] = (int32_t)row;\n");
    if (o->want[2]) buf_puts(b, "                if (row >= 0) source[row] = (int32_t)pair;\n");
    buf_puts(b, "                (void)pair;\n            }\n");
    if (o->want[3])
        buf_puts(b, "        for (int64_t i = 0; i < TOP * E; i++)\n"
                    "            density[(g * P + p) * TOP * E + i] /= (float)S;\n");
    buf_puts(b, "    }\n");
    opaque_items(c, dim[0] * dim[2], (double)(dim[1] * dim[3] * 4));
}

/* ---- tokens to experts: an item is one row ---- */

static void to_experts(const Opaque *o, Code *c, const char *gate, uint32_t source) {
    Buf *b = &c->body;
    Dtype d = o->in[0]->dtype;
    int64_t rows = type_elements(o->in[source]), width = o->in[0]->dim[1];
    int64_t k = o->in[source - 1]->dim[1];
    opaque_in(o, b, 0, "x");
    if (gate) opaque_in(o, b, 1, "gate");
    opaque_in(o, b, source, "source");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    const int64_t D = %lld;\n"
               "    for (int64_t r = lo; r < hi; r++) {\n"
               "        const int64_t pair = source[r], from = pair / %lld * D;\n"
               "        if (pair < 0) {\n"
               "            memset(out + r * D, 0, (uint64_t)D * sizeof *out);\n"
               "            continue;\n"
               "        }\n",
               (long long)width, (long long)k);
    if (!gate) {
        buf_puts(b, "        memcpy(out + r * D, x + from, (uint64_t)D * sizeof *out);\n    }\n");
    } else {
        Buf e = {0};
        buf_puts(b, "        const float s = ");
        put_load(b, o->in[1]->dtype, "gate", "pair");
        buf_puts(b, ";\n#pragma omp simd\n        for (int64_t j = 0; j < D; j++) ");
        buf_puts(&e, "s * ");
        put_load(&e, d, "x", "from + j");
        put_store(b, d, "out", "r * D + j", e.p);
        buf_puts(b, "    }\n");
        buf_free(&e);
    }
    opaque_items(c, rows, (double)width);
}

void emit_dispatch(const Opaque *o, Code *c) { to_experts(o, c, NULL, 2); }
void emit_dispatch_scaled(const Opaque *o, Code *c) { to_experts(o, c, "gate", 3); }

/* ---- experts to tokens: an item is one token ---- */

static void from_experts(const Opaque *o, Code *c, bool gate, uint32_t slot) {
    Buf *b = &c->body;
    Dtype d = o->in[0]->dtype;
    int64_t tokens = o->in[slot]->dim[0], k = o->in[slot]->dim[1], width = o->out[0]->dim[1];
    opaque_in(o, b, 0, "y");
    if (gate) opaque_in(o, b, 1, "gate");
    opaque_in(o, b, slot, "slot");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    enum { D = %lld, K = %lld };\n"
               "    for (int64_t n = lo; n < hi; n++) {\n"
               "        float sum[D] __attribute__((aligned(64)));\n"
               "        for (int64_t j = 0; j < D; j++) sum[j] = 0;\n"
               "        for (int64_t i = 0; i < K; i++) {\n"
               "            const int64_t row = slot[n * K + i];\n"
               "            if (row < 0) continue;\n"
               "            const float s = ",
               (long long)width, (long long)k);
    if (gate)
        put_load(b, o->in[1]->dtype, "gate", "n * K + i");
    else
        buf_puts(b, "1.0f");
    buf_puts(b, ";\n#pragma omp simd\n            for (int64_t j = 0; j < D; j++) sum[j] += s * ");
    put_load(b, d, "y", "row * D + j");
    buf_puts(b, ";\n        }\n#pragma omp simd\n        for (int64_t j = 0; j < D; j++) ");
    put_store(b, d, "out", "n * D + j", "sum[j]");
    buf_puts(b, "    }\n");
    opaque_items(c, tokens, (double)(width * k));
}

void emit_combine(const Opaque *o, Code *c) { from_experts(o, c, true, 2); }
void emit_combine_sum(const Opaque *o, Code *c) { from_experts(o, c, false, 1); }

/* An item is one token. */
void emit_gate_grad(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    int64_t tokens = o->in[2]->dim[0], k = o->in[2]->dim[1], width = o->in[1]->dim[1];
    opaque_in(o, b, 0, "y");
    opaque_in(o, b, 1, "g");
    opaque_in(o, b, 2, "slot");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    enum { D = %lld, K = %lld };\n"
               "    for (int64_t n = lo; n < hi; n++)\n"
               "        for (int64_t i = 0; i < K; i++) {\n"
               "            const int64_t row = slot[n * K + i];\n"
               "            float sum = 0;\n"
               "            if (row >= 0) {\n"
               "#pragma omp simd reduction(+ : sum)\n"
               "                for (int64_t j = 0; j < D; j++) sum += ",
               (long long)width, (long long)k);
    put_load(b, o->in[0]->dtype, "y", "row * D + j");
    buf_puts(b, " * ");
    put_load(b, o->in[1]->dtype, "g", "n * D + j");
    buf_puts(b, ";\n            }\n            out[n * K + i] = sum;\n        }\n");
    opaque_items(c, tokens, (double)(width * k));
}
