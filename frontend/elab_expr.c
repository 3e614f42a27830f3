/* elab_expr.c: expressions. Elementwise operations broadcast as in NumPy: the IR's need equal
 * shapes, so `broadcast` nodes are put in front of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

/* ---- values ---- */

Val val_int(int64_t i) { return (Val){.kind = V_INT, .i = i}; }
Val val_float(double d) { return (Val){.kind = V_FLOAT, .d = d}; }
Val val_tensor(Value v) { return (Val){.kind = V_TENSOR, .v = v}; }
bool is_number(const Val *v) { return v->kind == V_INT || v->kind == V_FLOAT; }
double number_of(const Val *v) { return v->kind == V_INT ? (double)v->i : v->d; }

static const char *describe_tensor(Elab *e, Value v) {
    Buf b = {0};
    type_print(type_of(e->g, v), &b);
    const char *text = arena_strdup(e->a, b.p, b.n);
    buf_free(&b);
    return text;
}

const char *describe(Elab *e, const Val *v) {
    switch (v->kind) {
    case V_INT: return arena_printf(e->a, "%lld", (long long)v->i);
    case V_FLOAT: return arena_printf(e->a, "%g", v->d);
    case V_BOOL: return v->b ? "true" : "false";
    case V_TEXT: return "a text";
    case V_WORD: return arena_printf(e->a, "'%s'", v->s);
    case V_DTYPE: return arena_printf(e->a, "the dtype %s", dtype_name(v->dtype));
    case V_MASK: return "a mask";
    case V_LIST: return arena_printf(e->a, "a list of %u", v->n);
    case V_TUPLE: return arena_printf(e->a, "%u results", v->n);
    case V_TENSOR: return describe_tensor(e, v->v);
    case V_BROKEN: return "a value that could not be computed";
    }
    BUG("value of kind %d", (int)v->kind);
}

bool want_int(Elab *e, const Val *v, Loc loc, const char *what, int64_t *out) {
    if (v->kind == V_INT) return *out = v->i, true;
    if (v->kind == V_FLOAT && v->d == floor(v->d) && fabs(v->d) < 0x1p62)
        return *out = (int64_t)v->d, true;
    return fail(e, loc, "%s must be a whole number, but is %s", what, describe(e, v));
}

bool want_bool(Elab *e, const Val *v, Loc loc, const char *what, bool *out) {
    if (v->kind == V_BOOL) return *out = v->b, true;
    if (v->kind == V_TENSOR)
        return fail(e, loc,
                    "%s is decided before the model runs, but this is %s; "
                    "select(condition, a, b) chooses at run time",
                    what, describe(e, v));
    return fail(e, loc, "%s must be true or false, but is %s", what, describe(e, v));
}

bool want_tensor(Elab *e, const Val *v, Loc loc, const char *what, Value *out) {
    if (v->kind == V_TENSOR) return *out = v->v, true;
    return fail(e, loc, "%s must be a tensor, but is %s", what, describe(e, v));
}

bool want_shape(Elab *e, const Val *v, Loc loc, const char *what, int *rank, int64_t *dim) {
    if (v->kind != V_LIST) return *rank = 1, want_int(e, v, loc, what, dim);
    if (v->n > MAX_RANK)
        return fail(e, loc, "%s has %u dimensions; at most %d are possible", what, v->n, MAX_RANK);
    *rank = (int)v->n;
    for (uint32_t i = 0; i < v->n; i++)
        if (!want_int(e, &v->p[i], loc, arena_printf(e->a, "dimension %u of %s", i + 1, what),
                      &dim[i]))
            return false;
    return true;
}

/* ---- nodes ---- */

void place_nodes(Elab *e, Loc loc) {
    e->g->at.scope = e->frame->scope->path;
    e->g->at.loc = loc;
}

/* "is not defined on i32" follows the op's name directly, a whole sentence after a colon. */
static bool is_predicate(const char *text) {
    return !strncmp(text, "is ", 3) || !strncmp(text, "takes ", 6) || !strncmp(text, "needs ", 6);
}

bool emit(Elab *e, Loc loc, const char *what, Op op, const AttrValue *attr, uint32_t nin,
          const Value *in, Value *out) {
    Buf err = {0};
    const Attr *a = attr ? attr_intern(e->s, op, attr) : NULL;
    place_nodes(e, loc);
    const Type *t = graph_infer(e->g, op, a, nin, in, &err);
    if (t)
        *out = graph_add(e->g, op, a, nin, in);
    else
        fail(e, loc, "%s%s %s", what, is_predicate(err.p) ? "" : ":", err.p);
    buf_free(&err);
    return t != NULL;
}

/* ---- broadcasting ---- */

/* The dtype in which the numbers among `in` become constants: that of the first tensor (for
 * `select`, not the condition's). False when there is none. */
static bool common_dtype(Elab *e, Op op, uint32_t n, const Val *in, Dtype *out) {
    for (uint32_t i = op == OP_select; i < n; i++)
        if (in[i].kind == V_TENSOR) return *out = type_of(e->g, in[i].v)->dtype, true;
    return false;
}

static bool shape_conflict(Elab *e, Loc loc, const char *what, const Type *a, const Type *b,
                           int dim, const Loc *locs, uint32_t i) {
    Buf x = {0}, y = {0};
    type_print(a, &x);
    type_print(b, &y);
    long long m = a->dim[a->rank - 1 - dim], n = b->dim[b->rank - 1 - dim];
    if (dim == 0)
        fail(e, loc, "%s cannot combine %s with %s: their last sizes, %lld and %lld, differ", what,
             x.p, y.p, m, n);
    else
        fail(e, loc,
             "%s cannot combine %s with %s: the sizes %lld and %lld at dimension -%d differ", what,
             x.p, y.p, m, n, dim + 1);
    note(e, locs[0], "%s is this", x.p);
    note(e, locs[i], "%s is this", y.p);
    buf_free(&x);
    buf_free(&y);
    return false;
}

/* Widens `shape` so that `t` fits. */
static bool join_shapes(Elab *e, Loc loc, const char *what, Type *shape, const Type *t,
                        const Loc *locs, uint32_t i) {
    int rank = MAX(shape->rank, t->rank);
    int64_t dim[MAX_RANK];
    for (int d = 0; d < rank; d++) {
        int64_t a = d < shape->rank ? shape->dim[shape->rank - 1 - d] : 1;
        int64_t b = d < t->rank ? t->dim[t->rank - 1 - d] : 1;
        if (a != b && a != 1 && b != 1) return shape_conflict(e, loc, what, shape, t, d, locs, i);
        dim[rank - 1 - d] = MAX(a, b);
    }
    shape->rank = rank;
    memcpy(shape->dim, dim, sizeof dim[0] * (size_t)rank);
    return true;
}

static bool number_to_tensor(Elab *e, Loc loc, const Val *v, const Type *t, Value *out) {
    double x = v->kind == V_BOOL ? v->b : number_of(v);
    if (v->kind == V_BOOL && t->dtype != DT_BOOL)
        return fail(e, loc, "%s cannot be combined with %s", describe(e, v), dtype_name(t->dtype));
    if (!dtype_is_float(t->dtype) && x != floor(x))
        return fail(e, loc, "%g is not whole, but the tensor it meets is %s; cast the tensor first",
                    x, dtype_name(t->dtype));
    *out = b_const(e->g, x, t);
    return true;
}

/* Brings operand i to the common shape. */
static bool prepare(Elab *e, Loc loc, Op op, uint32_t i, const Val *in, const Type *shape, Dtype d,
                    const Loc *locs, Value *out) {
    Dtype own = op == OP_select && i == 0 ? DT_BOOL : d;
    const Type *t = type_tensor(e->s, own, shape->rank, shape->dim);
    if (type_bytes(t) < 0) {
        Buf b = {0};
        type_print(t, &b);
        fail(e, loc, "the size of the result, %s, does not fit in 64 bits", b.p);
        buf_free(&b);
        return false;
    }
    if (in[i].kind != V_TENSOR) return number_to_tensor(e, locs[i], &in[i], t, out);
    const Type *have = type_of(e->g, in[i].v);
    *out = b_broadcast_to(e->g, in[i].v, type_with_dtype(e->s, t, have->dtype));
    return true;
}

static bool all_numbers(uint32_t n, const Val *in) {
    for (uint32_t i = 0; i < n; i++)
        if (!is_number(&in[i])) return false;
    return true;
}

static bool dtype_conflict(Elab *e, Loc loc, const char *what, uint32_t i, uint32_t j,
                           const Val *in, const Loc *locs) {
    fail(e, loc, "%s cannot combine %s with %s; cast(x, dtype) converts", what, describe(e, &in[i]),
         describe(e, &in[j]));
    note(e, locs[i], "%s is this", describe(e, &in[i]));
    note(e, locs[j], "%s is this", describe(e, &in[j]));
    return false;
}

static bool check_dtypes(Elab *e, Loc loc, const char *what, Op op, uint32_t n, const Val *in,
                         Dtype d, const Loc *locs) {
    uint32_t first = op == OP_select;
    for (uint32_t i = first, j = n; i < n; i++) {
        if (in[i].kind != V_TENSOR) continue;
        if (j == n) j = i;
        if (type_of(e->g, in[i].v)->dtype != d) return dtype_conflict(e, loc, what, j, i, in, locs);
    }
    if (first && in[0].kind == V_TENSOR && type_of(e->g, in[0].v)->dtype != DT_BOOL)
        return fail(e, locs[0], "the condition of 'select' must be bool, but is %s",
                    describe(e, &in[0]));
    return true;
}

bool elementwise(Elab *e, Loc loc, const char *what, Op op, uint32_t n, const Val *in,
                 const Loc *locs, Val *out) {
    if (all_numbers(n, in) && op != OP_select) {
        double x[3] = {0};
        for (uint32_t i = 0; i < n; i++) x[i] = number_of(&in[i]);
        *out = val_float(op_info(op)->fn(x[0], x[1], x[2]));
        return isfinite(out->d) || fail(e, loc, "%s: the result is not a finite number", what);
    }
    Dtype d = DT_F32;
    Type shape = {0};
    for (uint32_t i = 0; i < n; i++) {
        if (is_number(&in[i]) || in[i].kind == V_BOOL) continue;
        Value v = NO_VALUE;
        if (!want_tensor(e, &in[i], locs[i], arena_printf(e->a, "operand %u of %s", i + 1, what),
                         &v))
            return false;
        const Type *t = type_of(e->g, v);
        shape.dtype = t->dtype;
        if (!join_shapes(e, loc, what, &shape, t, locs, i)) return false;
    }
    common_dtype(e, op, n, in, &d);
    if (!check_dtypes(e, loc, what, op, n, in, d, locs)) return false;
    place_nodes(e, loc);
    Value v[3], r;
    for (uint32_t i = 0; i < n; i++)
        if (!prepare(e, loc, op, i, in, &shape, d, locs, &v[i])) return false;
    if (!emit(e, loc, what, op, NULL, n, v, &r)) return false;
    *out = val_tensor(r);
    return true;
}

/* ---- operators ---- */

/* A mask takes its shape from the last two dimensions of what it is added to. */
static bool add_mask(Elab *e, Loc loc, const Val *x, const Val *mask, const Loc *locs, Val *out) {
    if (x->kind != V_TENSOR || type_of(e->g, x->v)->rank < 2)
        return fail(e, loc,
                    "a mask can only be added to a tensor of at least 2 dimensions, not to %s",
                    describe(e, x));
    *out = *x;
    if (!strcmp(mask->s, "none")) return true;
    const Type *t = type_of(e->g, x->v);
    if (!dtype_is_float(t->dtype))
        return fail(e, loc, "a mask can only be added to floats, not to %s", describe(e, x));
    if (mask->i > t->dim[t->rank - 1])
        return fail(e, loc, "the prefix of %lld is longer than the %lld positions of %s",
                    (long long)mask->i, (long long)t->dim[t->rank - 1], describe(e, x));
    place_nodes(e, loc);
    AttrValue attr[] = {{.s = intern(e->s, mask->s)}, {.i = mask->i}};
    Value m = graph_leaf(e->g, OP_mask, attr_intern(e->s, OP_mask, attr),
                         type_tensor(e->s, t->dtype, 2, t->dim + t->rank - 2));
    Val in[] = {*x, val_tensor(m)};
    return elementwise(e, loc, "'+'", OP_add, 2, in, locs, out);
}

static bool same_text(const Val *a, const Val *b) {
    switch (a->kind) {
    case V_BOOL: return a->b == b->b;
    case V_DTYPE: return a->dtype == b->dtype;
    default: return !strcmp(a->s, b->s);
    }
}

/* == and != of texts, words, dtypes and truth values. */
static bool compare_words(Operator op, const Val *a, const Val *b, Val *out) {
    bool comparable = a->kind == b->kind && a->kind >= V_BOOL && a->kind <= V_DTYPE;
    if (!comparable || (op != X_EQ && op != X_NE)) return false;
    *out = (Val){.kind = V_BOOL, .b = same_text(a, b) == (op == X_EQ)};
    return true;
}

bool binary(Elab *e, Operator op, Loc loc, const Val *in, const Loc *locs, Val *out) {
    const char *what = arena_printf(e->a, "'%s'", operators[op].text);
    if (op == X_MATMUL) return matmul(e, loc, in, locs, out);
    if (all_numbers(2, in)) return number_binary(e, op, loc, &in[0], &in[1], out);
    if (compare_words(op, &in[0], &in[1], out)) return true;
    for (int i = 0; i < 2; i++)
        if (op == X_ADD && in[i].kind == V_MASK) {
            Loc swapped[] = {locs[1 - i], locs[i]};
            return add_mask(e, loc, &in[1 - i], &in[i], swapped, out);
        }
    Op ew;
    if (in[0].kind != V_TENSOR && in[1].kind != V_TENSOR)
        return fail(e, loc, "%s cannot combine %s with %s", what, describe(e, &in[0]),
                    describe(e, &in[1]));
    if (!op_find(operators[op].ir, &ew)) BUG("no op '%s'", operators[op].ir);
    return elementwise(e, loc, what, ew, 2, in, locs, out);
}

static bool logical_tensor(Elab *e, const Expr *x, const Val *in, Val *out) {
    Loc locs[] = {x->a->loc, x->b ? x->b->loc : x->loc};
    Op op = x->op == X_NOT ? OP_not : x->op == X_AND ? OP_and : OP_or;
    return elementwise(e, x->loc, arena_printf(e->a, "'%s'", operators[x->op].text), op,
                       x->op == X_NOT ? 1 : 2, in, locs, out);
}

/* `and` and `or` do not look at the right side when the left decides. */
static bool eval_logical(Elab *e, const Expr *x, Val *out) {
    const char *what = arena_printf(e->a, "an operand of '%s'", operators[x->op].text);
    Val v[2];
    bool a, b;
    if (!eval(e, x->a, &v[0])) return false;
    if (x->op == X_NOT && v[0].kind == V_TENSOR) return logical_tensor(e, x, v, out);
    if (v[0].kind != V_TENSOR) {
        if (!want_bool(e, &v[0], x->a->loc, what, &a)) return false;
        *out = (Val){.kind = V_BOOL, .b = x->op == X_NOT ? !a : a};
        if (x->op == X_NOT || a == (x->op == X_OR)) return true;
    }
    if (!eval(e, x->b, &v[1])) return false;
    if (v[0].kind == V_TENSOR || v[1].kind == V_TENSOR) return logical_tensor(e, x, v, out);
    if (!want_bool(e, &v[1], x->b->loc, what, &b)) return false;
    *out = (Val){.kind = V_BOOL, .b = b};
    return true;
}

static bool eval_negation(Elab *e, const Expr *x, Val *out) {
    Val v;
    if (!eval(e, x->a, &v)) return false;
    if (v.kind == V_TENSOR) return elementwise(e, x->loc, "'-'", OP_neg, 1, &v, &x->a->loc, out);
    if (!is_number(&v))
        return fail(e, x->loc, "'-' needs a number or a tensor, not %s", describe(e, &v));
    *out = v;
    if (v.kind == V_INT && v.i != INT64_MIN) out->i = -v.i;
    if (v.kind == V_FLOAT) out->d = -v.d;
    return true;
}

static bool eval_binary(Elab *e, const Expr *x, Val *out) {
    Val in[2];
    Loc locs[] = {x->a->loc, x->b->loc};
    return eval(e, x->a, &in[0]) && eval(e, x->b, &in[1]) &&
           binary(e, x->op, x->loc, in, locs, out);
}

/* ---- names ---- */

static bool constant_word(Elab *e, const char *name, Val *out) {
    Dtype d;
    bool truth = !strcmp(name, "true");
    if (truth || !strcmp(name, "false")) return *out = (Val){.kind = V_BOOL, .b = truth}, true;
    if (dtype_parse(name, &d) && d != DT_TUPLE)
        return *out = (Val){.kind = V_DTYPE, .dtype = d}, true;
    if (strcmp(name, "auto") && strcmp(name, "none") && strcmp(name, "all")) return false;
    *out = (Val){.kind = V_WORD, .s = intern(e->s, name)};
    return true;
}

static bool unknown_name(Elab *e, const Expr *x) {
    const Def *d = find_definition(e, e->frame->file, x->name);
    if (d)
        return fail(e, x->loc, "'%s' is a %s: call it with '%s(…)'", x->name,
                    d->item->kind == I_LAYER ? "layer" : "definition", x->name);
    Words words = {0};
    for (uint32_t i = 0; i < e->frame->vars.n; i++) vec_push(&words, e->frame->vars.p[i].name);
    add_definitions(e, e->frame->file, false, &words);
    const char *near = suggestion(e, x->name, &words);
    vec_free(&words);
    return fail(e, x->loc, "unknown name '%s'%s", x->name, near);
}

static bool eval_name(Elab *e, const Expr *x, Val *out) {
    const Binding *b = find_var(e->frame, x->name);
    if (b) return *out = b->val, b->val.kind != V_BROKEN;
    const Def *d = find_definition(e, e->frame->file, x->name);
    if (d && d->config) return config_value(e, d, out);
    return constant_word(e, x->name, out) || unknown_name(e, x);
}

/* ---- indices ---- */

/* Bounds of one slice of a dimension of size n; negative ones count from the end. */
static bool slice_bounds(Elab *e, const Slice *s, int64_t n, int64_t *lo, int64_t *hi) {
    Val v;
    *lo = 0;
    *hi = n;
    if (s->lo && (!eval(e, s->lo, &v) || !want_int(e, &v, s->lo->loc, "an index", lo)))
        return false;
    if (s->hi && (!eval(e, s->hi, &v) || !want_int(e, &v, s->hi->loc, "an index", hi)))
        return false;
    int64_t a = *lo < 0 ? *lo + n : *lo, b = *hi < 0 ? *hi + n : *hi;
    if (!s->range) b = a + 1;
    if (a < 0 || b > n || (!s->range && a >= n))
        return fail(e, s->loc, "index %lld is outside the size %lld",
                    (long long)(a < 0 || !s->range ? *lo : *hi), (long long)n);
    if (a >= b)
        return fail(e, s->loc, "the slice %lld:%lld of the size %lld is empty", (long long)*lo,
                    (long long)*hi, (long long)n);
    *lo = a;
    *hi = b;
    return true;
}

static bool index_list(Elab *e, const Expr *x, const Val *list, Val *out) {
    int64_t lo, hi;
    if (x->slices.n != 1)
        return fail(e, x->loc, "%s takes one index, not %u", describe(e, list), x->slices.n);
    if (!slice_bounds(e, x->slices.head, list->n, &lo, &hi)) return false;
    *out = list->p[lo];
    if (x->slices.head->range)
        *out = (Val){.kind = V_LIST, .n = (uint32_t)(hi - lo), .p = list->p + lo};
    return true;
}

static bool index_tensor(Elab *e, const Expr *x, Value v, Val *out) {
    const Type *t = type_of(e->g, v);
    if (x->slices.n > (uint32_t)t->rank)
        return fail(e, x->loc, "%u indices into %s, which has %d dimension%s", x->slices.n,
                    describe_tensor(e, v), t->rank, t->rank == 1 ? "" : "s");
    int64_t lo[MAX_RANK], hi[MAX_RANK], keep[MAX_RANK];
    int rank = 0, i = 0;
    bool whole = true;
    for (const Slice *s = x->slices.head; s; s = s->next, i++) {
        if (!slice_bounds(e, s, t->dim[i], &lo[i], &hi[i])) return false;
        whole = whole && hi[i] - lo[i] == t->dim[i];
        if (s->range) keep[rank++] = hi[i] - lo[i];
    }
    for (; i < t->rank; i++) lo[i] = 0, hi[i] = keep[rank++] = t->dim[i];
    place_nodes(e, x->loc);
    if (!whole) v = b_slice(e->g, v, lo, hi);
    if (rank < t->rank) v = b_reshape(e->g, v, rank, keep);
    *out = val_tensor(v);
    return true;
}

static bool eval_index(Elab *e, const Expr *x, Val *out) {
    Val v;
    if (!eval(e, x->a, &v)) return false;
    if (v.kind == V_LIST || v.kind == V_TUPLE) return index_list(e, x, &v, out);
    if (v.kind == V_TENSOR) return index_tensor(e, x, v.v, out);
    return fail(e, x->loc, "only tensors and lists have indices, not %s", describe(e, &v));
}

/* ---- calls and lists ---- */

static bool eval_list(Elab *e, const Expr *x, Val *out) {
    Val *v = arena_array(e->a, Val, x->args.n);
    uint32_t n = 0;
    for (const Arg *a = x->args.head; a; a = a->next)
        if (!eval(e, a->value, &v[n++])) return false;
    *out = (Val){.kind = V_LIST, .n = n, .p = v};
    return true;
}

static bool eval_call(Elab *e, const Expr *x, Val *out) {
    const Def *d = find_definition(e, e->frame->file, x->name);
    bool found;
    if (d && !d->config) return call_definition(e, d->item, x, out);
    if (call_builtin(e, x, out, &found)) return true;
    if (found) return false;
    if (d || find_var(e->frame, x->name))
        return fail(e, x->loc, "'%s' is a value and cannot be called", x->name);
    Words words = {0};
    add_definitions(e, e->frame->file, true, &words);
    add_builtins(e, &words);
    const char *near = suggestion(e, x->name, &words);
    vec_free(&words);
    return fail(e, x->loc, "unknown layer or function '%s'%s", x->name, near);
}

static bool eval_here(Elab *e, const Expr *x, Val *out) {
    switch (x->kind) {
    case E_NUMBER:
        *out = x->number.whole ? val_int(x->number.i) : val_float(x->number.d);
        out->unit = x->number.unit;
        return true;
    case E_STRING: *out = (Val){.kind = V_TEXT, .s = x->name}; return true;
    case E_NAME: return eval_name(e, x, out);
    case E_LIST: return eval_list(e, x, out);
    case E_UNARY: return x->op == X_NOT ? eval_logical(e, x, out) : eval_negation(e, x, out);
    case E_BINARY: return x->op <= X_AND ? eval_logical(e, x, out) : eval_binary(e, x, out);
    case E_CALL: return eval_call(e, x, out);
    case E_INDEX: return eval_index(e, x, out);
    }
    BUG("expression of kind %d", (int)x->kind);
}

bool eval(Elab *e, const Expr *x, Val *out) {
    if (++e->work > e->max_work) return give_up(e, x->loc, "this model is too large to write out");
    if (++e->depth > 2 * MAX_DEPTH)
        return give_up(e, x->loc, "expressions and calls are nested too deeply");
    bool ok = eval_here(e, x, out);
    e->depth--;
    return ok;
}
