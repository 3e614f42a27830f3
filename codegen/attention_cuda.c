/* attention_cuda.c: attention forward and backward on a GPU: the sizes of one kernel as macros
 * around the text of attention_cuda*.h, which is pasted before each kernel. */
#include "codegen/opaque.h"

#include <math.h>
#include <string.h>

#include "codegen/attention_text.h"

/* The block of a kernel and what it has in shared memory at once. */
typedef struct {
    int warps;
    int rows; /* of a warp */
    int cols; /* of a tile of the other side */
    bool held;
} Tiles;

typedef struct {
    const Opaque *o;
    int64_t b, t, s, h, d, prefix;
    int64_t padded, ld; /* elements of a row; chunks of 16 bytes between rows in shared memory */
    Dtype dtype;
    double scale;
    bool wide; /* rows of heads are whole chunks of 16 bytes, at multiples of 16 bytes */
    Tiles tile;
    bool split; /* dk and dv are work of two blocks */
} Sizes;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

static Sizes sizes_of(const Opaque *o) {
    const int64_t *q = o->in[0]->dim;
    Sizes z = {.o = o, .b = q[0], .t = q[1], .h = q[2], .d = q[3], .s = o->in[1]->dim[1]};
    const char *mask = attr_str(o->n, "mask");
    if (strcmp(mask, "none") == 0) z.prefix = z.s;
    if (strcmp(mask, "prefix") == 0) z.prefix = MIN(attr_int(o->n, "prefix"), z.s);
    z.dtype = o->in[0]->dtype;
    z.scale = attr_float(o->n, "scale");
    z.wide = z.d % 8 == 0;
    for (uint32_t i = 0; i < o->nin; i++) z.wide &= o->align[i] >= 16;
    z.padded = round_up(z.d, 16);
    z.ld = z.padded % 64 == 0 ? z.padded / 8 : z.padded / 8 + 1;
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
        {"LD", z->ld},
        {"THREADS", z->tile.warps * 32},
        {"M", z->tile.rows / 16},
        {"ROWS", z->tile.warps * z->tile.rows},
        {"COLS", z->tile.cols},
        {"HELD", z->tile.held},
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
    macro(m, "MMA", "mma_%s", dtype_name(z->dtype));
    macro(m, "PACK", "pack_%s", dtype_name(z->dtype));
    macro(m, "F32", "%s_f32", dtype_name(z->dtype));
}

/* The text of the kernel's functions, and its body: a call of `function`. */
static void put_kernel(const Sizes *z, const char *function, const char *const *text, Code *c) {
    const Opaque *o = z->o;
    Macros m = {0};
    uint32_t next = o->nin;
    size_macros(&m, z);
    scale_macros(&m, z);
    type_macros(&m, z);
    uint64_t hash = hash_bytes(m.define.p, m.define.n, hash_bytes(function, strlen(function), 0));
    for (uint32_t i = 0; i < o->nout; i++) hash = hash_mix(hash, o->want[i]);
    macro(&m, "NAME(x)", "att_%08x_##x", (unsigned)(hash >> 32));
    buf_put(&c->prefix, m.define.p, m.define.n);
    for (; *text; text++) buf_puts(&c->prefix, *text);
    buf_put(&c->prefix, m.undef.p, m.undef.n);
    buf_printf(&c->body, "    DYNAMIC_SHARED(shared);\n    att_%08x_%s(shared",
               (unsigned)(hash >> 32), function);
    for (uint32_t i = 0; i < o->nin; i++) buf_printf(&c->body, ", ARG(%u)", i);
    for (uint32_t i = 0; i < o->nout; i++)
        if (o->want[i])
            buf_printf(&c->body, ", ARG(%u)", next++);
        else
            buf_puts(&c->body, ", 0");
    buf_puts(&c->body, ");\n");
    buf_free(&m.define);
    buf_free(&m.undef);
    c->threads = z->tile.warps * 32;
}

/* ---- forward ---- */

/* Registers hold rows * (padded + cols) / 32 sums; shared memory two tiles next to the block's
 * rows, within the 99 KB that every GPU has. More rows of a warp mean less reading of tiles. */
static Tiles forward_tiles(const Sizes *z) {
    if (z->t <= 64) return (Tiles){4, 16, z->padded <= 128 ? 64 : 32, z->padded <= 128};
    if (z->padded <= 64) return (Tiles){4, 32, 64, true};
    if (z->padded <= 128) return (Tiles){4, 32, 32, false};
    return (Tiles){8, 16, z->padded <= 192 ? 64 : 32, false};
}

void emit_attention_cuda(const Opaque *o, Code *c) {
    const char *const text[] = {attention_cuda_text, attention_cuda_forward_text, NULL};
    Sizes z = sizes_of(o);
    z.tile = forward_tiles(&z);
    int64_t rows = z.tile.warps * z.tile.rows;
    put_kernel(&z, "forward", text, c);
    c->items = z.b * z.h * ceil_div(z.t, rows);
    c->shared = (rows + 2 * z.tile.cols) * z.ld * 16;
}

/* ---- backward ---- */

/* The same blocks serve queries and keys. Keys have two sums, dk and dv, of `padded` columns, and
 * where not even one warp's 16 rows of both fit into registers, two blocks. */
static Tiles backward_tiles(const Sizes *z) {
    if (z->padded <= 64) return (Tiles){4, MAX(z->t, z->s) <= 64 ? 16 : 32, 32, false};
    if (z->padded <= 128) return (Tiles){MAX(z->t, z->s) <= 64 ? 4 : 8, 16, 32, false};
    return (Tiles){4, 16, z->padded <= 192 ? 32 : 16, false};
}

void emit_attention_grad_cuda(const Opaque *o, Code *c) {
    const char *const text[] = {attention_cuda_text, attention_cuda_grad_text, NULL};
    Sizes z = sizes_of(o);
    z.tile = backward_tiles(&z);
    z.split = z.padded > 128;
    int64_t rows = z.tile.warps * z.tile.rows;
    put_kernel(&z, "backward", text, c);
    c->items = z.b * z.h * (ceil_div(z.t, rows) + ceil_div(z.s, rows) * (1 + z.split));
    c->shared = (2 * rows + 4 * z.tile.cols) * z.ld * 16 + rows * 8;
}
