/* eval.c: the meaning of leaves, shape ops, reductions, contractions and indexed ops, in double.
 * This is the oracle that kernels are compared with: slow and plain, every sum in index order.
 *
 * Shape ops are one strided copy each: both sides walk the same index space with their own strides
 * (0 repeats an element or adds into it). Rounding to the result's dtype is the interpreter's. */
#include "ir/hooks.h"
#include "ir/storage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- walking two strided arrays ---- */

typedef struct {
    int rank;
    int64_t dim[MAX_RANK];
    int64_t to[MAX_RANK], from[MAX_RANK]; /* strides in elements */
} Walk;

static Walk walk_over(const Type *t) {
    Walk w = {.rank = t->rank};
    memcpy(w.dim, t->dim, sizeof w.dim);
    return w;
}

typedef void RowFn(double *to, int64_t to_stride, const double *from, int64_t from_stride,
                   int64_t n);

static void copy_row(double *to, int64_t ts, const double *from, int64_t fs, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i * ts] = from[i * fs];
}

static void walk_level(const Walk *w, int level, RowFn *row, double *to, const double *from) {
    if (level == w->rank) {
        row(to, 0, from, 0, 1);
    } else if (level == w->rank - 1) {
        row(to, w->to[level], from, w->from[level], w->dim[level]);
    } else {
        for (int64_t i = 0; i < w->dim[level]; i++)
            walk_level(w, level + 1, row, to + i * w->to[level], from + i * w->from[level]);
    }
}

static void walk(const Walk *w, RowFn *row, double *to, const double *from) {
    walk_level(w, 0, row, to, from);
}

/* ---- leaves ---- */

void eval_constant(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)in;
    double x = attr_float(n, "value");
    int64_t count = type_elements(n->type);
    for (int64_t i = 0; i < count; i++) out->data[i] = x;
}

void eval_iota(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)in;
    int64_t stride[MAX_RANK], axis = attr_int(n, "axis"), count = type_elements(n->type);
    type_strides(n->type, stride);
    for (int64_t i = 0; i < count; i++)
        out->data[i] = (double)(i / stride[axis] % n->type->dim[axis]);
}

/* Operands @seed and @step are i32: they enter the key as they are, sign-extended. */
void eval_random(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const char *name = attr_str(n, "site");
    uint64_t site = hash_bytes(name, strlen(name), 0);
    uint32_t key =
        random_key((uint64_t)(int64_t)in[0].data[0], site, (uint64_t)(int64_t)in[1].data[0]);
    Layout whole;
    random_layout(n, &whole);
    int64_t count = type_elements(n->type), stride[MAX_RANK];
    type_strides(n->type, stride);
    uint64_t first = 0;
    for (int k = 0, i = 2; k < n->type->rank; k++)
        if (random_parts(n, k) > 1)
            first +=
                (uint64_t)(int64_t)in[i++].data[0] * (uint64_t)(n->type->dim[k] * whole.stride[k]);
    for (int64_t i = 0; i < count; i++) {
        uint64_t at = first;
        for (int k = 0; k < n->type->rank; k++)
            at += (uint64_t)(i / stride[k] % n->type->dim[k] * whole.stride[k]);
        out->data[i] = (double)random_unit(philox(key, at, NULL));
    }
}

/* ---- shape ---- */

void eval_reshape(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    memcpy(out->data, in->data, sizeof(double) * (size_t)type_elements(n->type));
}

void eval_transpose(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const Ints *perm = attr_ints(n, "perm");
    int64_t stride[MAX_RANK];
    Walk w = walk_over(n->type);
    type_strides(n->type, w.to);
    type_strides(in->type, stride);
    for (int i = 0; i < w.rank; i++) w.from[i] = stride[perm->v[i]];
    walk(&w, copy_row, out->data, in->data);
}

void eval_broadcast(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const Ints *dims = attr_ints(n, "dims");
    int64_t stride[MAX_RANK];
    Walk w = walk_over(n->type);
    type_strides(n->type, w.to);
    type_strides(in->type, stride);
    for (int i = 0; i < in->type->rank; i++)
        w.from[dims->v[i]] = in->type->dim[i] == 1 ? 0 : stride[i];
    walk(&w, copy_row, out->data, in->data);
}

/* Elements that lie before `start` of every dim, in an array of these strides. */
static int64_t offset_of(const int64_t *start, const int64_t *stride, int rank) {
    int64_t offset = 0;
    for (int i = 0; i < rank; i++) offset += start[i] * stride[i];
    return offset;
}

/* Holds nothing outside its collective. */
void eval_room(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n, (void)in;
    memset(out->data, 0, sizeof(double) * (size_t)type_elements(out->type));
}

void eval_block(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int dim = (int)attr_int(n, "dim");
    int64_t parts = attr_int(n, "parts"), inner = 1, size = out->type->dim[dim];
    for (int i = dim + 1; i < out->type->rank; i++) inner *= out->type->dim[i];
    int64_t run = size * inner, runs = run ? type_elements(out->type) / run : 0;
    int64_t index = MIN(MAX((int64_t)in[1].data[0], 0), parts - 1);
    for (int64_t i = 0; i < runs; i++)
        memcpy(out->data + i * run, in[0].data + (i * parts + index) * run,
               (size_t)run * sizeof(double));
}

void eval_slice(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    Walk w = walk_over(n->type);
    type_strides(n->type, w.to);
    type_strides(in->type, w.from);
    walk(&w, copy_row, out->data, in->data + offset_of(attr_ints(n, "start")->v, w.from, w.rank));
}

void eval_pad(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    Walk w = walk_over(in->type);
    type_strides(n->type, w.to);
    type_strides(in->type, w.from);
    memset(out->data, 0, sizeof(double) * (size_t)type_elements(n->type));
    walk(&w, copy_row, out->data + offset_of(attr_ints(n, "lo")->v, w.to, w.rank), in->data);
}

void eval_concat(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t axis = attr_int(n, "axis"), stride[MAX_RANK], at = 0;
    type_strides(n->type, stride);
    for (uint32_t i = 0; i < n->nin; i++) {
        Walk w = walk_over(in[i].type);
        memcpy(w.to, stride, sizeof stride);
        type_strides(in[i].type, w.from);
        walk(&w, copy_row, out->data + at * stride[axis], in[i].data);
        at += in[i].type->dim[axis];
    }
}

/* ---- reductions ---- */

static void add_row(double *to, int64_t ts, const double *from, int64_t fs, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i * ts] += from[i * fs];
}

/* NaN stays: a comparison with it is false, so it is looked for. */
static void max_row(double *to, int64_t ts, const double *from, int64_t fs, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (from[i * fs] > to[i * ts] || isnan(from[i * fs])) to[i * ts] = from[i * fs];
}

static void min_row(double *to, int64_t ts, const double *from, int64_t fs, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (from[i * fs] < to[i * ts] || isnan(from[i * fs])) to[i * ts] = from[i * fs];
}

void eval_reduce(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const Ints *axes = attr_ints(n, "axes");
    RowFn *row = n->op == OP_sum ? add_row : n->op == OP_max ? max_row : min_row;
    double start = n->op == OP_sum ? 0 : n->op == OP_max ? -INFINITY : INFINITY;
    int64_t stride[MAX_RANK], count = type_elements(n->type);
    for (int64_t i = 0; i < count; i++) out->data[i] = start;
    Walk w = walk_over(in->type);
    type_strides(in->type, w.from);
    type_strides(n->type, stride);
    uint32_t next = 0;
    for (int i = 0, kept = 0; i < w.rank; i++) {
        if (next < axes->n && axes->v[next] == i)
            next++;
        else
            w.to[i] = stride[kept++];
    }
    walk(&w, row, out->data, in->data);
}

/* ---- contraction ---- */

/* The walk over labels in this order, `strided` being the side that lies in another order. */
static Walk label_walk(const Einsum *e, const char *order) {
    Walk w = {.rank = (int)strlen(order)};
    for (int i = 0; i < w.rank; i++) w.dim[i] = e->size[(int)order[i]];
    return w;
}

static void label_strides(const Einsum *e, const char *layout, const char *order, int64_t *stride) {
    int64_t of[128] = {0}, step = 1;
    for (size_t i = strlen(layout); i-- > 0;) {
        of[(int)layout[i]] = step;
        step *= e->size[(int)layout[i]];
    }
    for (size_t i = 0; order[i]; i++) stride[i] = of[(int)order[i]];
}

/* Copies a tensor laid out by the labels `from` into one laid out by `to`. */
static void relabel(const Einsum *e, const char *to, double *dst, const char *from,
                    const double *src) {
    Walk w = label_walk(e, to);
    label_strides(e, to, to, w.to);
    label_strides(e, from, to, w.from);
    walk(&w, copy_row, dst, src);
}

/* c[m,n] = a[m,k] b[k,n], four terms of the sum at a time, in order. */
static void matmul(double *restrict c, const double *restrict a, const double *restrict b,
                   int64_t m, int64_t n, int64_t k) {
    memset(c, 0, sizeof(double) * (size_t)(m * n));
    for (int64_t i = 0; i < m; i++, a += k, c += n) {
        int64_t p = 0;
        for (; p + 4 <= k; p += 4) {
            const double *r = b + p * n, *s = r + n, *t = s + n, *u = t + n;
            double x = a[p], y = a[p + 1], z = a[p + 2], w = a[p + 3];
            for (int64_t j = 0; j < n; j++) c[j] = c[j] + x * r[j] + y * s[j] + z * t[j] + w * u[j];
        }
        for (; p < k; p++)
            for (int64_t j = 0; j < n; j++) c[j] += a[p] * b[p * n + j];
    }
}

/* Both operands are packed to [batch, m, k] and [batch, k, n], multiplied, and unpacked. */
void eval_einsum(const Graph *g, const Node *node, const Tensor *in, Tensor *out) {
    (void)g;
    Einsum e;
    Buf err = {0};
    if (!einsum_parse(attr_str(node, "spec"), &e, &err) ||
        !einsum_sizes(&e, in[0].type, in[1].type, &err))
        BUG("%s", err.p);
    char la[3 * MAX_RANK + 1], lb[3 * MAX_RANK + 1], lc[3 * MAX_RANK + 1];
    snprintf(la, sizeof la, "%s%s%s", e.batch, e.m, e.k);
    snprintf(lb, sizeof lb, "%s%s%s", e.batch, e.k, e.n);
    snprintf(lc, sizeof lc, "%s%s%s", e.batch, e.m, e.n);
    int64_t batch = einsum_size(&e, e.batch), m = einsum_size(&e, e.m), n = einsum_size(&e, e.n),
            k = einsum_size(&e, e.k);
    double *a = xcalloc((size_t)(batch * m * k) + 1, sizeof *a);
    double *b = xcalloc((size_t)(batch * k * n) + 1, sizeof *b);
    double *c = xcalloc((size_t)(batch * m * n) + 1, sizeof *c);
    relabel(&e, la, a, e.a, in[0].data);
    relabel(&e, lb, b, e.b, in[1].data);
    for (int64_t i = 0; i < batch; i++)
        matmul(c + i * m * n, a + i * m * k, b + i * k * n, m, n, k);
    relabel(&e, e.c, out->data, lc, c);
    free(a), free(b), free(c);
}

void eval_einsum_gelu(const Graph *g, const Node *node, const Tensor *in, Tensor *out) {
    int64_t n = type_elements(out[1].type), width = node->nin > 2 ? type_elements(in[2].type) : 1;
    eval_einsum(g, node, in, &out[1]);
    for (int64_t i = 0; i < n; i++) {
        double *x = &out[1].data[i];
        if (node->nin > 2) *x += in[2].data[i % width];
        out[0].data[i] = op_info(OP_gelu)->fn(*x, 0, 0);
    }
}

void eval_einsum_gelu_grad(const Graph *g, const Node *node, const Tensor *in, Tensor *out) {
    eval_einsum(g, node, in, out);
    for (int64_t i = 0; i < type_elements(out->type); i++) out->data[i] *= gelu_grad(in[2].data[i]);
}

void eval_einsum_gelu_grad_sum(const Graph *g, const Node *node, const Tensor *in, Tensor *out) {
    int64_t n = type_elements(out[0].type), width = type_elements(out[1].type);
    eval_einsum_gelu_grad(g, node, in, out);
    for (int64_t i = 0; i < width; i++) out[1].data[i] = 0;
    for (int64_t i = 0; i < n; i++) out[1].data[i % width] += out[0].data[i];
}

/* ---- indexed ---- */

/* Elements of one row of a tensor whose first `lead` dims are indices. */
static int64_t row_size(const Type *t, int lead) {
    int64_t n = 1;
    for (int i = lead; i < t->rank; i++) n *= t->dim[i];
    return n;
}

void eval_gather(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    int64_t size = in[0].type->dim[0], width = row_size(in[0].type, 1);
    int64_t rows = type_elements(in[1].type);
    for (int64_t r = 0; r < rows; r++) {
        double id = in[1].data[r];
        bool inside = id >= 0 && id < (double)size;
        for (int64_t i = 0; i < width; i++)
            out->data[r * width + i] = inside ? in[0].data[(int64_t)id * width + i] : 0;
    }
}

void eval_scatter_add(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t size = attr_int(n, "size"), width = row_size(n->type, 1);
    int64_t rows = type_elements(in[0].type);
    memset(out->data, 0, sizeof(double) * (size_t)(size * width));
    for (int64_t r = 0; r < rows; r++) {
        double id = in[0].data[r];
        if (id < 0 || id >= (double)size) continue;
        for (int64_t i = 0; i < width; i++)
            out->data[(int64_t)id * width + i] += in[1].data[r * width + i];
    }
}

void eval_pick(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g, (void)n;
    int64_t size = row_size(in[0].type, in[0].type->rank - 1);
    int64_t m = row_size(in[1].type, in[1].type->rank - 1), count = type_elements(in[1].type);
    for (int64_t i = 0; i < count; i++) {
        double j = in[1].data[i];
        out->data[i] = j >= 0 && j < (double)size ? in[0].data[i / m * size + (int64_t)j] : 0;
    }
}

void eval_unpick(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    int64_t size = attr_int(n, "size"), count = type_elements(in[0].type);
    int64_t m = row_size(in[0].type, in[0].type->rank - 1);
    memset(out->data, 0, sizeof(double) * (size_t)type_elements(n->type));
    for (int64_t i = 0; i < count; i++) {
        double j = in[0].data[i];
        if (j >= 0 && j < (double)size) out->data[i / m * size + (int64_t)j] += in[1].data[i];
    }
}

void eval_proj(const Graph *g, const Node *n, const Tensor *in, Tensor *out) {
    (void)g;
    const Tensor *from = &in[attr_int(n, "index")];
    memcpy(out->data, from->data, sizeof(double) * (size_t)type_elements(n->type));
}
