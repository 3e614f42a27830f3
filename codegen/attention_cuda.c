/* attention_cuda.c: attention forward and backward on a GPU: the sizes of one kernel as macros
 * around the text of attention_cuda*.h, which is pasted before each kernel. */
#include "codegen/attention.h"

#include <math.h>
#include <string.h>

/* The block of a kernel and what it has in shared memory at once. */
typedef struct {
    int warps;
    int rows;  /* of a warp */
    int cols;  /* of a tile of the other side */
    bool held; /* left operands stay in registers */
} Tiles;

typedef struct {
    const Opaque *o;
    int64_t b, t, s, h, d, prefix;
    int64_t padded, ld; /* elements of a row; chunks of 16 bytes between rows in shared memory */
    Dtype dtype;
    double scale;
    bool wide; /* rows of heads are whole chunks of 16 bytes, at multiples of 16 bytes */
    bool backward;
    Tiles tile;
    bool split; /* dk and dv are work of two blocks */
    int64_t rows, shared;
} Sizes;

static Sizes sizes_of(const Opaque *o) {
    const int64_t *q = o->in[0]->dim;
    Sizes z = {.o = o, .b = q[0], .t = q[1], .h = q[2], .d = q[3], .s = o->in[1]->dim[1]};
    z.prefix = attention_prefix(o);
    z.dtype = o->in[0]->dtype;
    z.scale = attr_float(o->n, "scale");
    z.wide = z.d % 8 == 0;
    for (uint32_t i = 0; i < o->nin; i++) z.wide &= o->align[i] >= 16;
    return z;
}

/* ---- macros: defined before the text, undefined after it ---- */

typedef struct {
    Buf define, undef;
} Macros;

static void macro(Macros *m, const char *name, const char *fmt, ...) PRINTF(3, 4);
static void macro(Macros *m, const char *name, const char *fmt, ...) {
    va_list ap;
    size_t n = strcspn(name, "(");
    buf_printf(&m->define, "#define ATT_%s ", name);
    va_start(ap, fmt);
    buf_vprintf(&m->define, fmt, ap);
    va_end(ap);
    buf_puts(&m->define, "\n");
    buf_printf(&m->undef, "#undef ATT_%.*s\n", (int)n, name);
}

static void size_macros(Macros *m, const Sizes *z) {
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"T", z->t},
        {"S", z->s},
        {"H", z->h},
        {"D", z->d},
        {"PREFIX", z->prefix},
        {"STEP", z->h * z->d},
        {"CHUNKS", z->padded / 8},
        {"PARTS", z->padded / 32},
        {"LD", z->ld},
        {"THREADS", z->tile.warps * 32},
        {"M", dtype_is_half(z->dtype) ? z->tile.rows / 16 : z->tile.rows},
        {"ROWS", z->rows},
        {"COLS", z->tile.cols},
        {"HELD", z->tile.held},
        {"BACKWARD", z->backward},
        {"SPLIT", z->split},
        {"WIDE", z->wide},
    };
    for (size_t i = 0; i < COUNT(sizes); i++)
        macro(m, sizes[i].name, "%lld", (long long)sizes[i].value);
}

/* Softmax is in base 2, of scores that were not multiplied by the scale yet: the largest after
 * scaling is the smallest when the scale is negative, and a scale of 0 must still hide keys. */
static void scale_macros(Macros *m, const Sizes *z) {
    double base2 = z->scale / log(2);
    if (fabs(base2) < 1e-20) base2 = 1e-20;
    macro(m, "SCALE", "%.9ef", z->scale);
    macro(m, "BASE2", "%.9ef", base2);
    macro(m, "NEVER", "%s3e38f", base2 > 0 ? "-" : "");
    macro(m, "LARGER(a, b)", "%s(a, b)", base2 > 0 ? "fmaxf" : "fminf");
}

static void type_macros(Macros *m, const Sizes *z) {
    macro(m, "TYPE", "%s", ctype_storage(z->dtype));
    macro(m, "LSE", "%s", z->dtype == DT_F64 ? "double" : "float");
    if (!dtype_is_half(z->dtype)) return;
    macro(m, "MMA", "mma_%s", dtype_name(z->dtype));
    macro(m, "PACK", "pack_%s", dtype_name(z->dtype));
    macro(m, "F32", "%s_f32", dtype_name(z->dtype));
}

/* The texts that follow attention_cuda.h. */
static void put_text(const Sizes *z, Buf *b) {
    buf_puts(b, attention_cuda_text);
    if (!dtype_is_half(z->dtype)) {
        buf_puts(b, attention_cuda_f32_text);
        return;
    }
    buf_puts(b, attention_cuda_mma_text);
    buf_puts(b, z->backward ? attention_cuda_grad_text : attention_cuda_forward_text);
}

/* The kernel's body: a call of its function, NULL for results that nobody reads. */
static void put_call(const Opaque *o, const char *function, unsigned id, Buf *b) {
    uint32_t next = o->nin;
    buf_printf(b, "    DYNAMIC_SHARED(shared);\n    att_%08x_%s(shared", id, function);
    for (uint32_t i = 0; i < o->nin; i++) buf_printf(b, ", ARG(%u)", i);
    for (uint32_t i = 0; i < o->nout; i++)
        if (o->want[i])
            buf_printf(b, ", ARG(%u)", next++);
        else
            buf_puts(b, ", 0");
    buf_puts(b, ");\n");
}

/* Functions are named after all that makes them what they are, so that kernels of one file differ
 * in these names or are the same. */
static void put_kernel(const Sizes *z, Code *c) {
    Macros m = {0};
    size_macros(&m, z);
    scale_macros(&m, z);
    type_macros(&m, z);
    uint64_t hash = hash_bytes(m.define.p, m.define.n, 0);
    for (uint32_t i = 0; i < z->o->nout; i++) hash = hash_mix(hash, z->o->want[i]);
    unsigned id = (unsigned)(hash >> 32);
    macro(&m, "NAME(x)", "att_%08x_##x", id);
    buf_put(&c->prefix, m.define.p, m.define.n);
    put_text(z, &c->prefix);
    buf_put(&c->prefix, m.undef.p, m.undef.n);
    buf_puts(&c->prefix, "#undef ATT_UNROLL\n");
    put_call(z->o, z->backward ? "backward" : "forward", id, &c->body);
    c->threads = z->tile.warps * 32;
    c->shared = z->shared;
    buf_free(&m.define);
    buf_free(&m.undef);
}

/* ---- sizes of blocks ---- */

/* The least that every GPU has for a block. */
enum { SHARED = 99 * 1024 };

/* Registers hold rows * (padded + cols) / 32 sums, shared memory two tiles next to the block's
 * rows. More rows of a warp mean less reading of tiles. */
static Tiles forward_tiles(const Sizes *z) {
    if (z->t <= 64) return (Tiles){4, 16, z->padded <= 128 ? 64 : 32, z->padded <= 128};
    if (z->padded <= 64) return (Tiles){4, 32, 64, true};
    if (z->padded <= 128) return (Tiles){4, 32, 32, false};
    return (Tiles){8, 16, z->padded <= 192 ? 64 : 32, false};
}

/* The same blocks serve queries and keys. Keys have two sums, dk and dv, of `padded` columns, and
 * where not even one warp's 16 rows of both fit into registers, two blocks. Accesses that are not
 * wide need registers too. */
static Tiles backward_tiles(const Sizes *z) {
    bool few = MAX(z->t, z->s) <= 64;
    if (z->padded <= 64 && z->wide && !few) return (Tiles){4, 32, 32, true};
    if (z->padded <= 128) return (Tiles){few ? 4 : 8, 16, 32, true};
    return (Tiles){4, 16, z->padded <= 192 ? 32 : 16, false};
}

static void half_sizes(Sizes *z) {
    z->padded = round_up(z->d, 16);
    z->ld = z->padded % 64 == 0 ? z->padded / 8 : z->padded / 8 + 1;
    z->tile = z->backward ? backward_tiles(z) : forward_tiles(z);
    z->split = z->backward && z->padded > 128;
    z->rows = z->tile.warps * z->tile.rows;
    int64_t lines = z->backward ? 2 * z->rows + 4 * z->tile.cols : z->rows + 2 * z->tile.cols;
    z->shared = lines * z->ld * 16 + (z->backward ? z->rows * 8 : 0);
}

/* Without tensor cores: as many rows as there is shared memory for. */
static void f32_sizes(Sizes *z) {
    z->padded = round_up(z->d, 32);
    z->ld = z->padded / 4 + 1;
    for (z->tile = (Tiles){4, 8, 32, false};; z->tile.rows /= 2) {
        z->rows = z->tile.warps * z->tile.rows;
        int64_t lines = (z->backward ? 2 : 1) * z->rows + 2 * z->tile.cols;
        z->shared = lines * z->ld * 16 + z->rows * 32 * 4 + MAX(z->rows, 32) * 8;
        if (z->shared <= SHARED) return;
    }
}

static Sizes sizes_with(const Opaque *o, bool backward) {
    Sizes z = sizes_of(o);
    z.backward = backward;
    if (dtype_is_half(z.dtype))
        half_sizes(&z);
    else
        f32_sizes(&z);
    return z;
}

void emit_attention_cuda(const Opaque *o, Code *c) {
    Sizes z = sizes_with(o, false);
    put_kernel(&z, c);
    c->items = z.b * z.h * ceil_div(z.t, z.rows);
}

void emit_attention_grad_cuda(const Opaque *o, Code *c) {
    Sizes z = sizes_with(o, true);
    put_kernel(&z, c);
    c->items = z.b * z.h * (ceil_div(z.t, z.rows) + ceil_div(z.s, z.rows) * (1 + z.split));
}
