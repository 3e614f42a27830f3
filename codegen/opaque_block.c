/* opaque_block.c: the block of a tensor that an index names. Blocks lie apart by the whole
 * dimension: one run of bytes for each combination of the dims before it. */
#include "codegen/opaque.h"

enum { PIECE = 1 << 16 }; /* bytes of a run worth an item of their own */

/* An item is a piece of one run. */
void emit_block(const Opaque *o, Code *c) {
    Buf *b = &c->body;
    const Type *t = o->out[0];
    int dim = (int)attr_int(o->n, "dim");
    int64_t parts = attr_int(o->n, "parts"), runs = dims_product(t, 0, dim);
    int64_t run = dims_product(t, dim, t->rank) * dtype_size(t->dtype);
    int64_t pieces = (run + PIECE - 1) / PIECE;
    opaque_in(o, b, 1, "index");
    buf_printf(b,
               "    const int64_t RUN = %lld;\n"
               "    const int64_t part = index[0] < 0 ? 0 : index[0] < %lld ? index[0] : %lld;\n"
               "    const char *x = (const char *)arg[0] + part * RUN;\n"
               "    char *out = arg[2];\n"
               "    for (int64_t i = lo; i < hi; i++) {\n"
               "        int64_t run = i / %lld, at = i %% %lld * %d;\n"
               "        int64_t n = RUN - at < %d ? RUN - at : %d;\n"
               "        memcpy(out + run * RUN + at, x + run * %lld * RUN + at, (uint64_t)n);\n"
               "    }\n",
               (long long)run, (long long)parts, (long long)(parts - 1), (long long)pieces,
               (long long)pieces, PIECE, PIECE, PIECE, (long long)parts);
    opaque_items(c, runs * pieces, (double)(run / pieces) / 4);
}
