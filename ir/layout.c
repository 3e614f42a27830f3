/* layout.c: strided views. A chain of reshapes, transposes, broadcasts and slices is one affine map
 * over its root as long as no reshape merges dims that do not run on; such a reshape is a copy. */
#include "ir/storage.h"

#include <string.h>

void layout_of_type(const Type *t, Layout *l) {
    l->rank = t->rank;
    l->offset = 0;
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        l->dim[i] = t->dim[i];
        l->stride[i] = stride;
        stride *= t->dim[i];
    }
}

int64_t random_parts(const Node *n, int dim) {
    const Ints *parts = attr_ints(n, "parts");
    return parts->n ? parts->v[dim] : 1;
}

void random_layout(const Node *n, Layout *l) {
    layout_of_type(n->type, l);
    int64_t stride = 1;
    for (int k = l->rank - 1; k >= 0; k--) {
        l->stride[k] = stride;
        stride *= l->dim[k] * random_parts(n, k);
    }
}

int64_t layout_elements(const Layout *l) {
    int64_t n = 1;
    for (int i = 0; i < l->rank; i++) n *= l->dim[i];
    return n;
}

void layout_collapse(Layout *l) {
    int r = 0;
    for (int i = 0; i < l->rank; i++) {
        if (l->dim[i] == 1) continue;
        if (r > 0 && l->stride[r - 1] == l->dim[i] * l->stride[i]) {
            l->dim[r - 1] *= l->dim[i];
            l->stride[r - 1] = l->stride[i];
        } else {
            l->dim[r] = l->dim[i];
            l->stride[r] = l->stride[i];
            r++;
        }
    }
    l->rank = r;
}

/* Takes the new dims from the innermost outwards out of the collapsed old ones. */
bool layout_reshape(Layout *l, int rank, const int64_t *dim) {
    ASSERT(rank <= LAYOUT_RANK);
    Layout old = *l, new = {.rank = rank, .offset = l->offset};
    layout_collapse(&old);
    int j = old.rank - 1;
    int64_t left = j >= 0 ? old.dim[j] : 1, stride = j >= 0 ? old.stride[j] : 0;
    for (int i = rank - 1; i >= 0; i--) {
        new.dim[i] = dim[i];
        if (dim[i] == 1) continue;
        if (left == 1 && --j >= 0) left = old.dim[j], stride = old.stride[j];
        if (left % dim[i] != 0) return false;
        new.stride[i] = stride;
        stride *= dim[i];
        left /= dim[i];
    }
    *l = new;
    return true;
}

bool layout_is_block(const Layout *l) {
    Layout c = *l;
    layout_collapse(&c);
    return c.rank == 0 || (c.rank == 1 && c.stride[0] == 1);
}

bool layout_is_identity(const Layout *l, int64_t n) {
    return l->offset == 0 && layout_elements(l) == n && layout_is_block(l);
}

bool layout_is_row_broadcast(const Layout *l, int64_t rows, int64_t cols) {
    Layout c = *l;
    if (c.offset != 0 || layout_elements(l) != rows * cols) return false;
    layout_collapse(&c);
    if (cols == 1) return layout_is_block(&c);
    if (rows == 1) return c.rank == 1 && c.stride[0] == 0;
    return c.rank == 2 && c.dim[0] == rows && c.stride[0] == 1 && c.stride[1] == 0;
}

static void view_transpose(const Node *view, Layout *l) {
    const Ints *perm = attr_ints(view, "perm");
    Layout old = *l;
    for (int i = 0; i < l->rank; i++) {
        l->dim[i] = old.dim[perm->v[i]];
        l->stride[i] = old.stride[perm->v[i]];
    }
}

static void view_broadcast(const Node *view, Layout *l) {
    const Ints *dims = attr_ints(view, "dims");
    Layout old = *l;
    l->rank = view->type->rank;
    for (int i = 0; i < l->rank; i++) {
        l->dim[i] = view->type->dim[i];
        l->stride[i] = 0;
    }
    for (int i = 0; i < old.rank; i++)
        if (old.dim[i] != 1) l->stride[dims->v[i]] = old.stride[i];
}

static void view_slice(const Node *view, Layout *l) {
    const Ints *start = attr_ints(view, "start");
    for (int i = 0; i < l->rank; i++) {
        l->offset += start->v[i] * l->stride[i];
        l->dim[i] = view->type->dim[i];
    }
}

bool layout_view(const Node *view, Layout *l) {
    switch (view->op) {
    case OP_reshape: return layout_reshape(l, view->type->rank, view->type->dim);
    case OP_transpose: view_transpose(view, l); return true;
    case OP_broadcast: view_broadcast(view, l); return true;
    case OP_slice: view_slice(view, l); return true;
    case OP_copy_done: return true;
    default: BUG("%s is not a view", op_info(view->op)->name);
    }
}

Value view_base(const Graph *g, Value v) {
    for (const Node *n = node_of(g, v); is_view(n) && n->group == 0; n = node_of(g, v))
        v = operand(g, v, 0);
    return v;
}

/* An iota's elements are its own affine map; a constant's do not depend on the place. */
static void layout_of_root(const Node *n, Layout *l) {
    layout_of_type(n->type, l);
    if (n->op == OP_constant) memset(l->stride, 0, sizeof l->stride);
    if (n->op != OP_iota) return;
    memset(l->stride, 0, sizeof l->stride);
    l->stride[attr_int(n, "axis")] = 1;
}

Value view_root(const Graph *g, Value v, Layout *l) {
    const Node *n = node_of(g, v);
    if (!is_view(n) || n->group != 0) return layout_of_root(n, l), v;
    Value root = view_root(g, operand(g, v, 0), l);
    if (!layout_view(n, l)) BUG("%%%u: this reshape needs a copy", v);
    return root;
}
