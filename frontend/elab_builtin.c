/* elab_builtin.c: the functions that the compiler itself provides. Elementwise ones come straight
 * from ir/ops.def; the rest are rows of the table below. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

enum { MAX_NAMED = 5 };

/* A call with its arguments sorted: named ones at their parameter's place. */
typedef struct {
    const char *name, *what; /* what: name in quotes, for messages */
    Loc loc;
    uint32_t n;
    Val *v;
    Loc *at;
    bool *given;
} Call;

typedef bool BuiltinFn(Elab *e, const Call *c, Val *out);

/* ---- reductions ---- */

static bool read_axis(Elab *e, const Call *c, uint32_t i, int rank, int64_t *out) {
    int64_t a;
    if (!want_int(e, &c->v[i], c->at[i], "the axis", &a)) return false;
    if (a < -rank || a >= rank)
        return fail(e, c->at[i], "axis %lld does not exist in a tensor of %d dimension%s",
                    (long long)a, rank, rank == 1 ? "" : "s");
    *out = a < 0 ? a + rank : a;
    return true;
}

/* The axes of argument i in ascending order; all of them when it is not given. */
static bool read_axes(Elab *e, const Call *c, uint32_t i, int rank, bool reduced[MAX_RANK]) {
    const Val *v = &c->v[i];
    bool all = !c->given[i] || (v->kind == V_WORD && !strcmp(v->s, "all"));
    for (int d = 0; d < rank; d++) reduced[d] = all;
    if (all) return true;
    uint32_t n = v->kind == V_LIST ? v->n : 1;
    for (uint32_t k = 0; k < n; k++) {
        int64_t a;
        Val one = v->kind == V_LIST ? v->p[k] : *v;
        Call single = {.loc = c->loc, .v = &one, .at = &c->at[i]};
        if (!read_axis(e, &single, 0, rank, &a)) return false;
        if (reduced[a]) return fail(e, c->at[i], "axis %lld is named twice", (long long)a);
        reduced[a] = true;
    }
    return true;
}

static bool reduce(Elab *e, const Call *c, Op op, bool mean, Val *out) {
    Value v;
    bool reduced[MAX_RANK], keep = false;
    if (!want_tensor(e, &c->v[0], c->at[0], "what is reduced", &v)) return false;
    const Type *t = type_of(e->g, v);
    if (!read_axes(e, c, 1, t->rank, reduced)) return false;
    if (c->given[2] && !want_bool(e, &c->v[2], c->at[2], "'keep'", &keep)) return false;
    int64_t axes[MAX_RANK], kept[MAX_RANK], count = 1;
    uint32_t n = 0;
    for (int d = 0; d < t->rank; d++) {
        kept[d] = reduced[d] ? 1 : t->dim[d];
        if (reduced[d]) axes[n++] = d, count *= t->dim[d];
    }
    int rank = t->rank;
    AttrValue attr[] = {{.v = ints_intern(e->s, n, axes)}};
    if (n && !emit(e, c->loc, c->what, op, attr, 1, &v, &v)) return false;
    place_nodes(e, c->loc);
    if (mean && !dtype_is_float(type_of(e->g, v)->dtype))
        return fail(e, c->loc, "the mean of whole numbers needs a cast first: cast(x, f32)");
    if (mean) v = b_ew2(e->g, OP_mul, v, b_like(e->g, 1.0 / (double)count, v));
    if (keep && n) v = b_reshape(e->g, v, rank, kept);
    *out = val_tensor(v);
    return true;
}

static bool f_sum(Elab *e, const Call *c, Val *out) { return reduce(e, c, OP_sum, false, out); }
static bool f_mean(Elab *e, const Call *c, Val *out) { return reduce(e, c, OP_sum, true, out); }
static bool f_max(Elab *e, const Call *c, Val *out) { return reduce(e, c, OP_max, false, out); }
static bool f_min(Elab *e, const Call *c, Val *out) { return reduce(e, c, OP_min, false, out); }

/* ---- shapes ---- */

static bool f_cast(Elab *e, const Call *c, Val *out) {
    if (c->v[1].kind != V_DTYPE)
        return fail(e, c->at[1], "'cast' needs a dtype, but got %s", describe(e, &c->v[1]));
    Dtype d = c->v[1].dtype;
    if (is_number(&c->v[0])) {
        double x = number_of(&c->v[0]);
        *out = dtype_is_float(d) ? val_float(x) : val_int((int64_t)x);
        return true;
    }
    Value v;
    if (!want_tensor(e, &c->v[0], c->at[0], "what is cast", &v)) return false;
    place_nodes(e, c->loc);
    /* A cast of f32 to f32 is a node as well: to the precision pass it says "stay f32". */
    AttrValue to = {.i = d};
    *out = val_tensor(d == DT_F32 ? graph_add(e->g, OP_cast, attr_intern(e->s, OP_cast, &to), 1, &v)
                                  : b_cast(e->g, v, d));
    return true;
}

static bool elements(const int64_t *dim, int rank, int64_t *out) {
    *out = 1;
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(*out, dim[i], out)) return false;
    return true;
}

/* Fills in the one -1 of a shape. */
static bool infer_dim(Elab *e, const Call *c, int rank, int64_t *dim, const Type *t) {
    int unknown = -1;
    int64_t known, have = type_elements(t);
    for (int i = 0; i < rank; i++) {
        if (dim[i] != -1) continue;
        if (unknown >= 0) return fail(e, c->at[1], "only one dimension may be -1");
        unknown = i;
        dim[i] = 1;
    }
    bool fits = elements(dim, rank, &known);
    for (int i = 0; i < rank; i++) fits = fits && dim[i] >= 1;
    if (unknown >= 0 && fits && have % known == 0) dim[unknown] = have / known, known = have;
    if (fits && known == have) return true;
    if (unknown >= 0) dim[unknown] = -1;
    Buf b = {0};
    for (int i = 0; i < rank; i++) buf_printf(&b, "%s%lld", i ? "," : "", (long long)dim[i]);
    fail(e, c->loc, "%s with %lld elements cannot become [%s]", describe(e, &c->v[0]),
         (long long)have, b.p ? b.p : "");
    buf_free(&b);
    return false;
}

static bool f_reshape(Elab *e, const Call *c, Val *out) {
    Value v;
    int rank;
    int64_t dim[MAX_RANK];
    if (!want_tensor(e, &c->v[0], c->at[0], "what is reshaped", &v) ||
        !want_shape(e, &c->v[1], c->at[1], "the shape", &rank, dim) ||
        !infer_dim(e, c, rank, dim, type_of(e->g, v)))
        return false;
    place_nodes(e, c->loc);
    *out = val_tensor(b_reshape(e->g, v, rank, dim));
    return true;
}

static bool f_transpose(Elab *e, const Call *c, Val *out) {
    Value v;
    int rank;
    int64_t perm[MAX_RANK];
    bool seen[MAX_RANK] = {false};
    if (!want_tensor(e, &c->v[0], c->at[0], "what is transposed", &v) ||
        !want_shape(e, &c->v[1], c->at[1], "the permutation", &rank, perm))
        return false;
    const Type *t = type_of(e->g, v);
    bool ok = rank == t->rank;
    for (int i = 0; ok && i < rank; i++) {
        if (perm[i] < 0) perm[i] += rank;
        ok = perm[i] >= 0 && perm[i] < rank && !seen[perm[i]];
        if (ok) seen[perm[i]] = true;
    }
    if (!ok)
        return fail(e, c->at[1], "the permutation of %s must name each of its %d dimensions once",
                    describe(e, &c->v[0]), t->rank);
    place_nodes(e, c->loc);
    *out = val_tensor(b_transpose(e->g, v, perm));
    return true;
}

static bool f_squeeze(Elab *e, const Call *c, Val *out) {
    Value v;
    int64_t axis, dim[MAX_RANK];
    if (!want_tensor(e, &c->v[0], c->at[0], "what is squeezed", &v)) return false;
    const Type *t = type_of(e->g, v);
    if (!read_axis(e, c, 1, t->rank, &axis)) return false;
    if (t->dim[axis] != 1)
        return fail(e, c->loc, "axis %lld of %s has size %lld; only size 1 can be squeezed away",
                    (long long)axis, describe(e, &c->v[0]), (long long)t->dim[axis]);
    for (int i = 0, k = 0; i < t->rank; i++)
        if (i != axis) dim[k++] = t->dim[i];
    place_nodes(e, c->loc);
    *out = val_tensor(b_reshape(e->g, v, t->rank - 1, dim));
    return true;
}

static bool f_unsqueeze(Elab *e, const Call *c, Val *out) {
    Value v;
    int64_t axis, dim[MAX_RANK];
    if (!want_tensor(e, &c->v[0], c->at[0], "what is unsqueezed", &v)) return false;
    const Type *t = type_of(e->g, v);
    if (t->rank == MAX_RANK)
        return fail(e, c->loc, "%s has as many dimensions as possible", describe(e, &c->v[0]));
    if (!read_axis(e, c, 1, t->rank + 1, &axis)) return false;
    for (int i = 0, k = 0; i <= t->rank; i++) dim[i] = i == axis ? 1 : t->dim[k++];
    place_nodes(e, c->loc);
    *out = val_tensor(b_reshape(e->g, v, t->rank + 1, dim));
    return true;
}

static bool f_broadcast(Elab *e, const Call *c, Val *out) {
    Value v;
    int rank;
    int64_t dim[MAX_RANK];
    if (!want_tensor(e, &c->v[0], c->at[0], "what is broadcast", &v) ||
        !want_shape(e, &c->v[1], c->at[1], "the shape", &rank, dim))
        return false;
    const Type *t = type_of(e->g, v);
    bool ok = rank >= t->rank;
    for (int i = 0; i < rank; i++) {
        int64_t have = i < t->rank ? t->dim[t->rank - 1 - i] : 1;
        ok = ok && dim[i] >= 1 && (have == 1 || have == dim[rank - 1 - i]);
    }
    const Type *to = type_tensor(e->s, t->dtype, rank, dim);
    if (!ok || type_bytes(to) < 0) {
        Buf b = {0};
        type_print(to, &b);
        fail(e, c->loc, "%s cannot be broadcast to %s", describe(e, &c->v[0]), b.p);
        buf_free(&b);
        return false;
    }
    place_nodes(e, c->loc);
    *out = val_tensor(b_broadcast_to(e->g, v, to));
    return true;
}

/* concat(a, b, …, axis = n): operands first, the axis by name or last. */
static bool f_concat(Elab *e, const Call *c, Val *out) {
    Value v[MAX_OPERANDS] = {0};
    int64_t axis;
    uint32_t n = c->n - 1;
    if (n > MAX_OPERANDS) return fail(e, c->loc, "'concat' takes at most %d tensors", MAX_OPERANDS);
    for (uint32_t i = 0; i < n; i++)
        if (!want_tensor(e, &c->v[i], c->at[i], "what is concatenated", &v[i])) return false;
    const Type *t = type_of(e->g, v[0]);
    if (!read_axis(e, c, n, t->rank, &axis)) return false;
    for (uint32_t i = 1; i < n; i++) {
        const Type *u = type_of(e->g, v[i]);
        bool same = u->rank == t->rank && u->dtype == t->dtype;
        for (int d = 0; same && d < t->rank; d++) same = d == axis || u->dim[d] == t->dim[d];
        if (same) continue;
        fail(e, c->at[i], "%s cannot be concatenated with %s along axis %lld",
             describe(e, &c->v[i]), describe(e, &c->v[0]), (long long)axis);
        note(e, c->at[0], "%s is this", describe(e, &c->v[0]));
        return false;
    }
    AttrValue attr[] = {{.i = axis}};
    *out = val_tensor(v[0]);
    return emit(e, c->loc, c->what, OP_concat, attr, n, v, &out->v);
}

static bool f_shape(Elab *e, const Call *c, Val *out) {
    Value v;
    if (!want_tensor(e, &c->v[0], c->at[0], "what has a shape", &v)) return false;
    const Type *t = type_of(e->g, v);
    Val *p = arena_array(e->a, Val, t->rank + 1);
    for (int i = 0; i < t->rank; i++) p[i] = val_int(t->dim[i]);
    *out = (Val){.kind = V_LIST, .n = (uint32_t)t->rank, .p = p};
    return true;
}

static bool f_dim(Elab *e, const Call *c, Val *out) {
    Value v;
    int64_t axis;
    if (!want_tensor(e, &c->v[0], c->at[0], "what has a dimension", &v)) return false;
    const Type *t = type_of(e->g, v);
    if (!read_axis(e, c, 1, t->rank, &axis)) return false;
    *out = val_int(t->dim[axis]);
    return true;
}

static bool f_rank(Elab *e, const Call *c, Val *out) {
    Value v;
    if (!want_tensor(e, &c->v[0], c->at[0], "what has a rank", &v)) return false;
    *out = val_int(type_of(e->g, v)->rank);
    return true;
}

static bool f_without(Elab *e, const Call *c, Val *out) {
    int64_t axis;
    if (c->v[0].kind != V_LIST)
        return fail(e, c->at[0], "'without' needs a list, but got %s", describe(e, &c->v[0]));
    uint32_t n = c->v[0].n;
    if (!read_axis(e, c, 1, (int)n, &axis)) return false;
    Val *p = arena_array(e->a, Val, n);
    for (uint32_t i = 0, k = 0; i < n; i++)
        if (i != (uint32_t)axis) p[k++] = c->v[0].p[i];
    *out = (Val){.kind = V_LIST, .n = n - 1, .p = p};
    return true;
}

/* ---- contractions and indices ---- */

static bool f_einsum(Elab *e, const Call *c, Val *out) {
    if (c->v[0].kind != V_TEXT)
        return fail(e, c->at[0], "'einsum' begins with its labels, as in \"ij,jk->ik\"");
    Value *v = arena_array(e->a, Value, c->n);
    for (uint32_t i = 1; i < c->n; i++)
        if (!want_tensor(e, &c->v[i], c->at[i], arena_printf(e->a, "operand %u of 'einsum'", i),
                         &v[i - 1]))
            return false;
    *out = val_tensor(NO_VALUE);
    return einsum(e, c->at[0], c->v[0].s, c->n - 1, v, c->at + 1, &out->v);
}

/* Remembers on an input of indices what they must stay below: random data needs it. */
static void bound_input(Elab *e, Value v, int64_t bound) {
    while (op_info((Op)node_of(e->g, v)->op)->flags & OPF_VIEW) v = operand(e->g, v, 0);
    Node *n = node_of(e->g, v);
    if (n->op != OP_input) return;
    int64_t old = attr_int(n, "bound");
    AttrValue attr[] = {{.s = attr_str(n, "name")}, {.i = old > 0 ? MIN(old, bound) : bound}};
    n->attr = attr_intern(e->s, OP_input, attr);
}

static bool indexed(Elab *e, const Call *c, Op op, int table_dim, Val *out) {
    Value v[2];
    if (!want_tensor(e, &c->v[0], c->at[0], "the table", &v[0]) ||
        !want_tensor(e, &c->v[1], c->at[1], "the index", &v[1]))
        return false;
    *out = val_tensor(v[0]);
    if (!emit(e, c->loc, c->what, op, NULL, 2, v, &out->v)) return false;
    const Type *t = type_of(e->g, v[0]);
    bound_input(e, v[1], t->dim[table_dim < 0 ? t->rank - 1 : table_dim]);
    return true;
}

static bool f_gather(Elab *e, const Call *c, Val *out) { return indexed(e, c, OP_gather, 0, out); }
static bool f_pick(Elab *e, const Call *c, Val *out) { return indexed(e, c, OP_pick, -1, out); }

static bool f_iota(Elab *e, const Call *c, Val *out) {
    int64_t n;
    if (!want_int(e, &c->v[0], c->at[0], "the length", &n)) return false;
    if (n < 1 || n > INT32_MAX)
        return fail(e, c->at[0], "the length must be from 1 to 2147483647, not %lld", (long long)n);
    AttrValue attr[] = {{.i = 0}};
    place_nodes(e, c->loc);
    *out = val_tensor(graph_leaf(e->g, OP_iota, attr_intern(e->s, OP_iota, attr),
                                 type_tensor(e->s, DT_I32, 1, &n)));
    return true;
}

/* ---- what the runtime provides ---- */

static bool is_input(const Graph *g, Value v, const char *name) {
    return v < g->node.n && node_of(g, v)->op == OP_input &&
           !strcmp(attr_str(node_of(g, v), "name"), name);
}

/* There is one such input in a graph; `known` remembers where, but graphs are rebuilt between
 * passes. */
static Value runtime_input(Elab *e, const char *name, Value *known) {
    if (is_input(e->g, *known, name)) return *known;
    for (Value v = 0; v < e->g->node.n; v++)
        if (is_input(e->g, v, name)) return *known = v;
    int16_t micro = e->g->at.micro;
    e->g->at.micro = -1;
    AttrValue attr[] = {{.s = intern(e->s, name)}, {.i = 0}};
    *known =
        graph_leaf(e->g, OP_input, attr_intern(e->s, OP_input, attr), type_scalar(e->s, DT_I32));
    e->g->at.micro = micro;
    return *known;
}

Value step_input(Elab *e) { return runtime_input(e, "@step", &e->step); }

static bool f_step(Elab *e, const Call *c, Val *out) {
    place_nodes(e, c->loc);
    Value step = step_input(e);
    *out = val_tensor(b_cast(e->g, step, DT_F32));
    return true;
}

/* Every call is a site of its own, named after its scope. */
static const char *random_site(Elab *e) {
    const char *path = e->frame->scope->names;
    uintptr_t n = (uintptr_t)map_get(&e->random_sites, path);
    map_put(&e->random_sites, path, (void *)(n + 1));
    const char *site = arena_printf(e->a, "%s%srandom", path, *path ? "." : "");
    if (n) site = arena_printf(e->a, "%s_%u", site, (unsigned)n);
    if (e->g->at.micro > 0) site = arena_printf(e->a, "%s@%d", site, e->g->at.micro);
    return intern(e->s, site);
}

static bool f_random(Elab *e, const Call *c, Val *out) {
    int rank;
    int64_t dim[MAX_RANK];
    if (!want_shape(e, &c->v[0], c->at[0], "the shape", &rank, dim)) return false;
    place_nodes(e, c->loc);
    Value step = step_input(e), seed = runtime_input(e, "@seed", &e->seed);
    AttrValue attr[] = {{.s = random_site(e)},
                        {.v = ints_intern(e->s, (uint32_t)rank, dim)},
                        {.v = ints_intern(e->s, 0, NULL)}};
    *out = val_tensor(seed);
    return emit(e, c->loc, c->what, OP_random, attr, 2, (Value[]){seed, step}, &out->v);
}

static bool f_training(Elab *e, const Call *c, Val *out) {
    (void)c;
    *out = (Val){.kind = V_BOOL, .b = e->training};
    return true;
}

/* ---- masks ---- */

static bool f_no_mask(Elab *e, const Call *c, Val *out) {
    (void)e, (void)c;
    *out = (Val){.kind = V_MASK, .s = "none"};
    return true;
}

static bool f_causal_mask(Elab *e, const Call *c, Val *out) {
    (void)e, (void)c;
    *out = (Val){.kind = V_MASK, .s = "causal"};
    return true;
}

static bool f_prefix_mask(Elab *e, const Call *c, Val *out) {
    int64_t n;
    if (!want_int(e, &c->v[0], c->at[0], "the length of the prefix", &n)) return false;
    if (n < 0) return fail(e, c->at[0], "the length of the prefix cannot be negative");
    *out = (Val){.kind = V_MASK, .s = "prefix", .i = n};
    return true;
}

/* ---- mixture of experts ---- */

static bool tensors(Elab *e, const Call *c, uint32_t n, Value *v) {
    for (uint32_t i = 0; i < n; i++)
        if (!want_tensor(e, &c->v[i], c->at[i],
                         arena_printf(e->a, "argument %u of %s", i + 1, c->what), &v[i]))
            return false;
    return true;
}

static bool f_moe_route(Elab *e, const Call *c, Val *out) {
    Value v, r;
    int64_t top, slots;
    if (!tensors(e, c, 1, &v) || !want_int(e, &c->v[1], c->at[1], "'top'", &top) ||
        !want_int(e, &c->v[2], c->at[2], "'slots'", &slots))
        return false;
    AttrValue attr[] = {{.i = top}, {.i = slots}};
    if (!emit(e, c->loc, c->what, OP_route, attr, 1, &v, &r)) return false;
    uint32_t n = type_of(e->g, r)->nelem;
    Val *p = arena_array(e->a, Val, n);
    for (uint32_t i = 0; i < n; i++) p[i] = val_tensor(b_proj(e->g, r, i));
    *out = (Val){.kind = V_TUPLE, .n = n, .p = p};
    return true;
}

static bool f_moe_dispatch(Elab *e, const Call *c, Val *out) {
    Value v[3];
    *out = val_tensor(NO_VALUE);
    return tensors(e, c, 3, v) && emit(e, c->loc, c->what, OP_dispatch, NULL, 3, v, &out->v);
}

static bool f_moe_combine(Elab *e, const Call *c, Val *out) {
    Value v[4];
    *out = val_tensor(NO_VALUE);
    return tensors(e, c, 4, v) && emit(e, c->loc, c->what, OP_combine, NULL, 4, v, &out->v);
}

/* ---- numbers only ---- */

static bool whole(Elab *e, const Call *c, double (*f)(double), Val *out) {
    if (!is_number(&c->v[0]))
        return fail(e, c->at[0], "%s needs a number, but got %s", c->what, describe(e, &c->v[0]));
    double x = f(number_of(&c->v[0]));
    if (fabs(x) >= 0x1p62) return fail(e, c->loc, "the result of %s is too large", c->what);
    *out = c->v[0].kind == V_INT ? c->v[0] : val_int((int64_t)x);
    return true;
}

static bool f_ceil(Elab *e, const Call *c, Val *out) { return whole(e, c, ceil, out); }
static bool f_round(Elab *e, const Call *c, Val *out) { return whole(e, c, round, out); }

/* ---- the table ---- */

static const struct Builtin {
    const char *name;
    BuiltinFn *fn;
    uint32_t required;             /* parameters without a default */
    const char *params[MAX_NAMED]; /* "…" first: any number before the others */
} table[] = {
    {"sum", f_sum, 1, {"x", "axis", "keep"}},
    {"mean", f_mean, 1, {"x", "axis", "keep"}},
    {"max", f_max, 1, {"x", "axis", "keep"}},
    {"min", f_min, 1, {"x", "axis", "keep"}},
    {"cast", f_cast, 2, {"x", "dtype"}},
    {"reshape", f_reshape, 2, {"x", "shape"}},
    {"transpose", f_transpose, 2, {"x", "perm"}},
    {"squeeze", f_squeeze, 2, {"x", "axis"}},
    {"unsqueeze", f_unsqueeze, 2, {"x", "axis"}},
    {"broadcast", f_broadcast, 2, {"x", "shape"}},
    {"concat", f_concat, 2, {"…", "axis"}},
    {"shape", f_shape, 1, {"x"}},
    {"dim", f_dim, 2, {"x", "i"}},
    {"rank", f_rank, 1, {"x"}},
    {"without", f_without, 2, {"list", "axis"}},
    {"einsum", f_einsum, 2, {"…"}},
    {"gather", f_gather, 2, {"table", "ids"}},
    {"pick", f_pick, 2, {"x", "index"}},
    {"iota", f_iota, 1, {"n"}},
    {"random", f_random, 1, {"shape"}},
    {"step", f_step, 0, {NULL}},
    {"training", f_training, 0, {NULL}},
    {"no_mask", f_no_mask, 0, {NULL}},
    {"causal_mask", f_causal_mask, 0, {NULL}},
    {"prefix_mask", f_prefix_mask, 1, {"n"}},
    {"moe_route", f_moe_route, 3, {"p", "top", "slots"}},
    {"moe_dispatch", f_moe_dispatch, 3, {"x", "slot", "source"}},
    {"moe_combine", f_moe_combine, 4, {"y", "gate", "slot", "source"}},
    {"ceil", f_ceil, 1, {"x"}},
    {"round", f_round, 1, {"x"}},
};

/* Elementwise ops that have a sign of their own, or are not for users. */
static bool hidden(const char *name) {
    static const char *const names[] = {"add", "sub", "mul",  "div",      "neg", "lt",
                                        "le",  "gt",  "ge",   "eq",       "ne",  "and",
                                        "or",  "not", "cast", "gelu_grad"};
    for (size_t i = 0; i < COUNT(names); i++)
        if (!strcmp(names[i], name)) return true;
    return false;
}

void add_builtins(Elab *e, Words *out) {
    (void)e;
    for (size_t i = 0; i < COUNT(table); i++) vec_push(out, table[i].name);
    for (Op op = 0; op < OP_COUNT; op++)
        if (op_info(op)->flags & OPF_EW && !hidden(op_info(op)->name))
            vec_push(out, op_info(op)->name);
}

/* Numbers keep being whole where the result is. */
static bool number_function(const Call *c, Op op, Val *out) {
    const Val *a = &c->v[0], *b = &c->v[c->n - 1];
    if (op == OP_floor && a->kind == V_INT) return *out = *a, true;
    if (op == OP_floor && a->kind == V_FLOAT && fabs(a->d) < 0x1p62)
        return *out = val_int((int64_t)floor(a->d)), true;
    if (a->kind != V_INT || b->kind != V_INT) return false;
    if (op == OP_maximum) return *out = a->i > b->i ? *a : *b, true;
    if (op == OP_minimum) return *out = a->i < b->i ? *a : *b, true;
    if (op == OP_abs && a->i != INT64_MIN) return *out = val_int(a->i < 0 ? -a->i : a->i), true;
    return false;
}

static bool call_elementwise(Elab *e, const Expr *x, Op op, Val *out) {
    uint32_t arity = (uint32_t)op_info(op)->arity, n = 0;
    Val v[3];
    Loc at[3];
    if (x->args.n != arity)
        return fail(e, x->loc, "'%s' takes %u argument%s, but got %u", x->name, arity,
                    arity == 1 ? "" : "s", x->args.n);
    for (const Arg *a = x->args.head; a; a = a->next) {
        if (a->name) return fail(e, a->loc, "'%s' has no argument '%s'", x->name, a->name);
        at[n] = a->loc;
        if (!eval(e, a->value, &v[n++])) return false;
    }
    Call c = {.name = x->name, .loc = x->loc, .n = n, .v = v, .at = at};
    if (number_function(&c, op, out)) return true;
    return elementwise(e, x->loc, arena_printf(e->a, "'%s'", x->name), op, n, v, at, out);
}

static uint32_t param_count(const struct Builtin *b) {
    uint32_t n = 0;
    while (n < MAX_NAMED && b->params[n]) n++;
    return n;
}

static bool unknown_named(Elab *e, const struct Builtin *b, const Arg *a) {
    Words words = {0};
    for (uint32_t i = 0; i < param_count(b); i++) vec_push(&words, b->params[i]);
    const char *near = suggestion(e, a->name, &words);
    vec_free(&words);
    return fail(e, a->loc, "'%s' has no argument '%s'%s", b->name, a->name, near);
}

/* Sorts the arguments; the variable part of "…" comes first. Returns the number of places, or -1.
 */
static int sort_args(Elab *e, const struct Builtin *b, const Expr *x, const Arg **found) {
    uint32_t fixed = param_count(b), named = 0, at = 0;
    for (const Arg *a = x->args.head; a; a = a->next) named += a->name != NULL;
    bool any = fixed && !strcmp(b->params[0], "…");
    uint32_t many = any ? x->args.n - named : 0;
    if (any && named < fixed - 1 && many) many -= fixed - 1 - named; /* last ones by position */
    if (any && many == 0) return fail(e, x->loc, "'%s' needs tensors", b->name), -1;
    uint32_t total = any ? many + fixed - 1 : fixed;
    for (const Arg *a = x->args.head; a; a = a->next) {
        uint32_t i = at;
        if (a->name) {
            uint32_t k = 0;
            while (k < fixed && strcmp(b->params[k], a->name)) k++;
            if (k == fixed) return unknown_named(e, b, a), -1;
            i = any ? many + k - 1 : k;
        } else {
            at++;
        }
        if (i >= total)
            return fail(e, a->loc, "'%s' takes %u argument%s, but got %u", b->name, total,
                        total == 1 ? "" : "s", x->args.n),
                   -1;
        if (found[i]) return fail(e, a->loc, "argument '%s' is given twice", b->params[i]), -1;
        found[i] = a;
    }
    for (uint32_t i = 0; i < total; i++)
        if (!found[i] && (any || i < b->required))
            return fail(e, x->loc, "'%s' needs the argument '%s'", b->name,
                        b->params[any ? i - many + 1 : i]),
                   -1;
    return (int)total;
}

static bool call_table(Elab *e, const struct Builtin *b, const Expr *x, Val *out) {
    uint32_t room = x->args.n + MAX_NAMED;
    const Arg **found = arena_array(e->a, const Arg *, room);
    int n = sort_args(e, b, x, found);
    if (n < 0) return false;
    Call c = {.name = b->name, .loc = x->loc, .n = (uint32_t)n};
    c.what = arena_printf(e->a, "'%s'", b->name);
    c.v = arena_array(e->a, Val, room);
    c.at = arena_array(e->a, Loc, room);
    c.given = arena_array(e->a, bool, room);
    for (int i = 0; i < n; i++) {
        c.given[i] = found[i] != NULL;
        c.at[i] = found[i] ? found[i]->value->loc : x->loc;
        if (found[i] && !eval(e, found[i]->value, &c.v[i])) return false;
    }
    return b->fn(e, &c, out);
}

bool call_builtin(Elab *e, const Expr *x, Val *out, bool *found) {
    Op op;
    *found = true;
    for (size_t i = 0; i < COUNT(table); i++)
        if (!strcmp(table[i].name, x->name)) return call_table(e, &table[i], x, out);
    if (!hidden(x->name) && op_find(x->name, &op) && op_info(op)->flags & OPF_EW)
        return call_elementwise(e, x, op, out);
    *found = false;
    return false;
}
