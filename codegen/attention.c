/* attention.c: attention forward and backward: the sizes of one plan's kernels around the functions
 * of attention_cpu.h, which is pasted into the generated file once, before them. */
#include "codegen/attention.h"

#include <string.h>

/* As in attention_cpu.h. */
enum { ROWS = 6, KEYS = 64, FLOATS = 1 << 16, QUERIES = 1020 };

/* Work items wanted: enough for the threads of a large machine. */
enum { ITEMS = 16, HEADS = 8 };

typedef struct {
    int64_t b, t, s, h, d, prefix, queries, keys;
    bool split;
} Sizes;

int64_t attention_prefix(const Opaque *o) {
    const char *mask = attr_str(o->n, "mask");
    int64_t keys = o->in[1]->dim[1];
    if (strcmp(mask, "none") == 0) return keys;
    return strcmp(mask, "prefix") == 0 ? MIN(attr_int(o->n, "prefix"), keys) : 0;
}

/* Queries in `parts` items, as even as rows of a register tile allow; none: all in one. */
static int64_t even_queries(int64_t t, int64_t parts) {
    return parts <= 1 ? t : round_up(ceil_div(t, parts), ROWS);
}

/* Fewest parts whose queries fit into the scratch. */
static int64_t least_parts(const Sizes *z) {
    int64_t most = MIN(FLOATS / round_up(z->d, 16), QUERIES) / ROWS * ROWS;
    return z->t <= most ? 1 : ceil_div(z->t, most);
}

static Sizes sizes_of(const Opaque *o) {
    const int64_t *q = o->in[0]->dim;
    Sizes z = {.b = q[0], .t = q[1], .h = q[2], .d = q[3], .s = o->in[1]->dim[1]};
    z.prefix = attention_prefix(o);
    z.keys = round_up(ceil_div(z.s, ceil_div(z.s, KEYS)), 16);
    return z;
}

static void forward_sizes(Sizes *z) {
    int64_t parts = MAX(least_parts(z), ceil_div(ITEMS, z->b * z->h));
    z->queries = even_queries(z->t, MIN(parts, ceil_div(z->t, 48)));
    if (z->queries < z->t && least_parts(z) > ceil_div(z->t, z->queries))
        z->queries = even_queries(z->t, least_parts(z));
}

static void backward_sizes(Sizes *z) {
    z->split = least_parts(z) > 1 || z->b * z->h < HEADS;
    z->queries = z->split ? even_queries(z->t, MAX(least_parts(z), ceil_div(z->t, 96))) : z->t;
}

static void put_strides(Buf *b, const char *arg, int64_t length, const Sizes *z) {
    buf_printf(b, "[%s] = {%lld, %lld, %lld}, ", arg, (long long)(length * z->h * z->d),
               (long long)(z->h * z->d), (long long)z->d);
}

static int type_code(Dtype d) {
    switch (d) {
    case DT_F32: return 0;
    case DT_BF16: return 1;
    case DT_F16: return 2;
    case DT_F64: return 3;
    default: BUG("attention of %s", dtype_name(d));
    }
}

static void put_shape(Buf *b, const Opaque *o, const Sizes *z) {
    static const char *const of_queries[] = {"ATT_Q", "ATT_O", "ATT_G", "ATT_DQ"};
    static const char *const of_keys[] = {"ATT_K", "ATT_V", "ATT_DK", "ATT_DV"};
    buf_printf(
        b,
        "    static const Attention p = {\n        .b = %lld, .t = %lld, .s = %lld, .h = %lld, "
        ".d = %lld, .prefix = %lld,\n        .queries = %lld, .keys = %lld, .split = %d, "
        ".type = %d, .scale = %.9gf,\n        .at = {",
        (long long)z->b, (long long)z->t, (long long)z->s, (long long)z->h, (long long)z->d,
        (long long)z->prefix, (long long)z->queries, (long long)z->keys, z->split,
        type_code(o->in[0]->dtype), attr_float(o->n, "scale"));
    for (size_t i = 0; i < COUNT(of_queries); i++) put_strides(b, of_queries[i], z->t, z);
    for (size_t i = 0; i < COUNT(of_keys); i++) put_strides(b, of_keys[i], z->s, z);
    buf_puts(b, "}};\n");
}

/* The kernel's arguments under the names of attention_cpu.h; what nobody reads is NULL. */
static void put_args(Buf *b, const Opaque *o, const char *const *in, const char *const *out) {
    uint32_t next = o->nin;
    buf_puts(b, "    void *const x[ATT_ARGS] = {");
    for (uint32_t i = 0; i < o->nin; i++) buf_printf(b, "[%s] = arg[%u], ", in[i], i);
    for (uint32_t i = 0; i < o->nout; i++)
        if (o->want[i]) buf_printf(b, "[%s] = arg[%u], ", out[i], next++);
    buf_puts(b, "};\n");
}

void emit_attention(const Opaque *o, Code *c) {
    static const char *const in[] = {"ATT_Q", "ATT_K", "ATT_V"}, *const out[] = {"ATT_O",
                                                                                 "ATT_LSE"};
    Sizes z = sizes_of(o);
    forward_sizes(&z);
    put_shape(&c->body, o, &z);
    put_args(&c->body, o, in, out);
    buf_puts(&c->body, "    attention_forward(&p, x, lo, hi);\n");
    c->library = attention_text;
    opaque_items(c, z.b * z.h * ceil_div(z.t, z.queries), (double)(z.queries * z.s * z.d));
}

void emit_attention_grad(const Opaque *o, Code *c) {
    static const char *const in[] = {"ATT_Q", "ATT_K", "ATT_V", "ATT_O", "ATT_LSE", "ATT_G"};
    static const char *const out[] = {"ATT_DQ", "ATT_DK", "ATT_DV"};
    Sizes z = sizes_of(o);
    backward_sizes(&z);
    put_shape(&c->body, o, &z);
    put_args(&c->body, o, in, out);
    buf_puts(&c->body, "    attention_backward(&p, x, lo, hi);\n");
    c->library = attention_text;
    int64_t parts = z.split ? ceil_div(z.t, z.queries) + ceil_div(z.s, z.keys) : 1;
    opaque_items(c, z.b * z.h * parts, (double)(z.queries * z.s * z.d));
}
