/* opaque_index.c: concat, gather and its reverse, unpick with many indices. */
#include "codegen/opaque.h"

/* An item is one combination of the dims before the axis. With none of them (one item would be
 * all), it is one operand. */
void emit_concat(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    int axis = (int)attr_int(o->n, "axis"), size = dtype_size(t->dtype);
    long long whole = (long long)dims_product(t, axis, t->rank) * size, at = 0;
    int64_t outer = dims_product(t, 0, axis);
    buf_printf(b, "    char *out = arg[%u];\n    for (int64_t i = lo; i < hi; i++) {\n", o->nin);
    for (uint32_t k = 0; k < o->nin; k++) {
        long long part = (long long)dims_product(o->in[k], axis, t->rank) * size;
        if (outer == 1)
            buf_printf(b, "        if (i == %u) memcpy(out + %lld, arg[%u], %lld);\n", k, at, k,
                       part);
        else
            buf_printf(b,
                       "        memcpy(out + i * %lld + %lld, (const char *)arg[%u] + i * %lld, "
                       "%lld);\n",
                       whole, at, k, part, part);
        at += part;
    }
    buf_puts(b, "    }\n");
    opaque_items(c, outer == 1 ? o->nin : outer, (double)whole / size / (outer == 1 ? o->nin : 1));
}

/* An item is one id. */
void emit_gather(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *table = o->in[0];
    long long width = (long long)dims_product(table, 1, table->rank) * dtype_size(table->dtype);
    opaque_in(o, b, 1, "ids");
    buf_printf(b,
               "    const char *table = arg[0];\n"
               "    char *out = arg[2];\n"
               "    for (int64_t i = lo; i < hi; i++) {\n"
               "        int64_t id = (int64_t)ids[i];\n"
               "        if (id >= 0 && id < %lld)\n"
               "            memcpy(out + i * %lld, table + id * %lld, %lld);\n"
               "        else\n"
               "            memset(out + i * %lld, 0, %lld);\n"
               "    }\n",
               (long long)table->dim[0], width, width, width, width, width);
    opaque_items(c, type_elements(o->in[1]), (double)width / 4);
}

/* An item is a range of table rows: it clears them, then looks through all ids for its own, in
 * order, so that sums have one order whatever the threads. */
void emit_scatter_add(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    Dtype d = t->dtype;
    int64_t size = t->dim[0], width = dims_product(t, 1, t->rank), ids = type_elements(o->in[0]);
    int64_t ranges = MIN(size, 64), per = (size + ranges - 1) / ranges;
    opaque_in(o, b, 0, "ids");
    opaque_in(o, b, 1, "rows");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    const int64_t W = %lld;\n"
               "    for (int64_t item = lo; item < hi; item++) {\n"
               "        int64_t from = item * %lld, to = from + %lld < %lld ? from + %lld : %lld;\n"
               "        if (from >= to) continue;\n"
               "        memset(out + from * W, 0, (uint64_t)((to - from) * W) * sizeof *out);\n"
               "        for (int64_t i = 0; i < %lld; i++) {\n"
               "            int64_t id = (int64_t)ids[i];\n"
               "            if (id < from || id >= to) continue;\n"
               "#pragma omp simd\n"
               "            for (int64_t c = 0; c < W; c++)\n                ",
               (long long)width, (long long)per, (long long)per, (long long)size, (long long)per,
               (long long)size, (long long)ids);
    Buf sum = {0};
    put_load(&sum, d, "out", "id * W + c");
    buf_puts(&sum, " + ");
    put_load(&sum, o->in[1]->dtype, "rows", "i * W + c");
    put_store(b, d, "out", "id * W + c", sum.p);
    buf_puts(b, "        }\n    }\n");
    buf_free(&sum);
    opaque_items(c, ranges, (double)(per * width) + (double)(ids * width) / (double)ranges);
}

/* An item is one row of m indices. */
void emit_unpick(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *index = o->in[0];
    Dtype d = o->out[0]->dtype;
    int64_t size = attr_int(o->n, "size"), m = index->dim[index->rank - 1];
    opaque_in(o, b, 0, "index");
    opaque_in(o, b, 1, "g");
    opaque_out(o, b, 0, "out");
    buf_printf(b,
               "    for (int64_t i = lo; i < hi; i++) {\n"
               "        memset(out + i * %lld, 0, %lld * sizeof *out);\n"
               "        for (int64_t j = 0; j < %lld; j++) {\n"
               "            int64_t at = (int64_t)index[i * %lld + j];\n"
               "            if (at < 0 || at >= %lld) continue;\n"
               "            at += i * %lld;\n            ",
               (long long)size, (long long)size, (long long)m, (long long)m, (long long)size,
               (long long)size);
    Buf sum = {0}, at = {0};
    put_load(&sum, d, "out", "at");
    buf_puts(&sum, " + ");
    buf_printf(&at, "i * %lld + j", (long long)m);
    put_load(&sum, o->in[1]->dtype, "g", at.p);
    put_store(b, d, "out", "at", sum.p);
    buf_puts(b, "        }\n    }\n");
    buf_free(&sum);
    buf_free(&at);
    opaque_items(c, type_elements(index) / m, (double)(size + m));
}
