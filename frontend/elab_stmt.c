/* elab_stmt.c: statements. Parameters are made once per full name, so that shared layers and
 * micro-batches meet the same one; states exist only inside optimizers. */
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

enum { MAX_REPEAT = 1000000, MAX_NODES = 20000000, MAX_SCOPES = 2000000 };

/* ---- start values ---- */

typedef struct {
    const char *kind; /* as in ops.def */
    double a, b;
} Init;

static const struct {
    const char *name, *kind;
    uint32_t nargs;
    double a, b; /* for arguments that are not given */
} inits[] = {
    {"zeros", "zeros", 0, 0, 0},
    {"ones", "constant", 0, 1, 0},
    {"constant", "constant", 1, 0, 0},
    {"normal", "normal", 1, 0, 0},
    {"truncated_normal", "truncated", 1, 0, 0},
    {"uniform", "uniform", 2, 0, 0},
};

static bool unknown_init(Elab *e, const Expr *x) {
    Words words = {0};
    for (size_t i = 0; i < COUNT(inits); i++) vec_push(&words, inits[i].name);
    const char *near = x->name ? suggestion(e, x->name, &words) : "";
    vec_free(&words);
    return fail(e, x->loc,
                "a start value is zeros, ones, constant(v), normal(std), truncated_normal(std) or "
                "uniform(a, b)%s",
                near);
}

static bool read_init(Elab *e, const Expr *x, Init *out) {
    size_t i = 0;
    bool named = x->kind == E_NAME || x->kind == E_CALL;
    while (i < COUNT(inits) && !(named && !strcmp(inits[i].name, x->name))) i++;
    if (i == COUNT(inits)) return unknown_init(e, x);
    if (x->args.n != inits[i].nargs)
        return fail(e, x->loc, "'%s' takes %u number%s, but got %u", x->name, inits[i].nargs,
                    inits[i].nargs == 1 ? "" : "s", x->args.n);
    double v[2] = {0, 0};
    int n = 0;
    for (const Arg *a = x->args.head; a; a = a->next) {
        Val val;
        if (!eval(e, a->value, &val)) return false;
        if (!is_number(&val))
            return fail(e, a->loc, "'%s' needs a number, but got %s", x->name, describe(e, &val));
        v[n++] = number_of(&val);
    }
    bool deviation = !strcmp(inits[i].kind, "normal") || !strcmp(inits[i].kind, "truncated");
    if (deviation && v[0] < 0) return fail(e, x->loc, "a standard deviation cannot be negative");
    *out = (Init){intern(e->s, inits[i].kind),
                  deviation        ? 0
                  : inits[i].nargs ? v[0]
                                   : inits[i].a,
                  deviation ? v[0] : v[1]};
    return true;
}

/* ---- parameters ---- */

static bool declared_twice(Elab *e, const Name *n) {
    Scope *scope = e->frame->scope->owner;
    for (uint32_t i = 0; i < scope->taken.n; i++)
        if (scope->taken.p[i] == n->name && scope->taken_at.p[i].line) {
            fail(e, n->loc, "parameter '%s' is declared twice", n->name);
            note(e, scope->taken_at.p[i], "the first one is here");
            return true;
        }
    vec_push(&scope->taken, n->name);
    vec_push(&scope->taken_at, n->loc);
    return false;
}

static const Type *param_type(Elab *e, const Stmt *s, const Name *n) {
    Val shape;
    int rank;
    int64_t dim[MAX_RANK];
    if (!eval(e, s->shape, &shape) ||
        !want_shape(e, &shape, s->shape->loc, "the shape", &rank, dim))
        return NULL;
    for (int i = 0; i < rank; i++)
        if (dim[i] < 1) {
            fail(e, s->shape->loc, "'%s' has a dimension of size %lld; sizes are at least 1",
                 n->name, (long long)dim[i]);
            return NULL;
        }
    const Type *t = type_tensor(e->s, DT_F32, rank, dim);
    if (type_bytes(t) < 0) {
        Buf b = {0};
        type_print(t, &b);
        fail(e, s->shape->loc, "the size of '%s', %s, does not fit in 64 bits", n->name, b.p);
        buf_free(&b);
        return NULL;
    }
    return t;
}

static bool known_axis(Elab *e, const Split *sp, int64_t *size) {
    Words words = {0};
    bool known = false;
    *size = 1;
    for (int i = 0; i < e->g->set.nmesh; i++) {
        vec_push(&words, e->g->set.mesh[i].axis);
        if (e->g->set.mesh[i].axis == sp->axis) known = true, *size = e->g->set.mesh[i].size;
    }
    for (size_t i = 0; i < COUNT(mesh_axes); i++) {
        vec_push(&words, mesh_axes[i]);
        known = known || !strcmp(mesh_axes[i], sp->axis);
    }
    const char *near = known ? "" : suggestion(e, sp->axis, &words);
    vec_free(&words);
    return known || fail(e, sp->loc, "unknown mesh axis '%s'%s", sp->axis, near);
}

static bool split_dim(Elab *e, const Stmt *s, const Split *sp, const Type *t, Spec *spec) {
    int at = -1, i = 0;
    if (s->shape->kind == E_LIST)
        for (const Arg *a = s->shape->args.head; a; a = a->next, i++)
            if (a->value->kind == E_NAME && a->value->name == sp->dim) at = i;
    if (at < 0)
        return fail(e, sp->loc, "the shape of '%s' has no dimension '%s' to split",
                    s->names.head->name, sp->dim);
    if (spec->axis[at]) return fail(e, sp->loc, "dimension '%s' is split twice", sp->dim);
    int64_t size;
    if (!known_axis(e, sp, &size)) return false;
    if (t->dim[at] % size)
        return fail(e, sp->loc, "dimension '%s' of size %lld cannot be split over the %lld of '%s'",
                    sp->dim, (long long)t->dim[at], (long long)size, sp->axis);
    spec->axis[at] = sp->axis;
    return true;
}

static bool param_spec(Elab *e, const Stmt *s, const Type *t, const Spec **out) {
    *out = NULL;
    if (!s->splits.head && !s->replicate) return true;
    if (s->splits.head && s->replicate)
        return fail(e, s->loc, "a parameter is either split or replicated, not both");
    Spec spec = {.rank = t->rank};
    for (const Split *sp = s->splits.head; sp; sp = sp->next)
        if (!split_dim(e, s, sp, t, &spec)) return false;
    *out = spec_intern(e->s, &spec);
    return true;
}

static ParamRec *new_param(Elab *e, const char *name, const Type *t, const Init *init,
                           const Spec *spec, Loc loc) {
    AttrValue attr[] = {{.s = name}, {.s = init->kind}, {.f = init->a}, {.f = init->b}};
    ParamRec *r = arena_new_of(e->a, ParamRec);
    *r = (ParamRec){.name = name, .loc = loc};
    place_nodes(e, loc);
    e->g->at.micro = -1;
    r->v = graph_leaf(e->g, OP_param, attr_intern(e->s, OP_param, attr), t);
    node_of(e->g, r->v)->spec = spec;
    map_put(&e->params, name, r);
    return r;
}

static bool declare_param(Elab *e, const Stmt *s, const Name *n, const Init *init) {
    Scope *scope = e->frame->scope;
    const Spec *spec;
    const Type *t = declared_twice(e, n) ? NULL : param_type(e, s, n);
    if (!t || !param_spec(e, s, t, &spec)) return false;
    const char *name = *scope->names ? arena_printf(e->a, "%s.%s", scope->names, n->name) : n->name;
    name = intern(e->s, name);
    ParamRec *r = map_get(&e->params, name);
    if (!r) {
        int16_t micro = e->g->at.micro;
        r = new_param(e, name, t, init, spec, n->loc);
        e->g->at.micro = micro;
    } else if (type_of(e->g, r->v) != t) {
        Val there = val_tensor(r->v);
        Buf b = {0};
        type_print(t, &b);
        fail(e, n->loc, "the shared parameter '%s' would be %s here, but it is %s", name, b.p,
             describe(e, &there));
        buf_free(&b);
        note(e, r->loc, "it was made here");
        return false;
    }
    set_var(e, n->name, val_tensor(r->v), n->loc);
    return true;
}

static Ran run_param(Elab *e, const Stmt *s) {
    Init init;
    if (e->trained) return fail(e, s->loc, "an optimizer has states, not parameters"), FAILED;
    if (!read_init(e, s->value, &init)) return FAILED;
    for (const Name *n = s->names.head; n; n = n->next)
        if (!declare_param(e, s, n, &init)) return FAILED;
    return RAN;
}

/* ---- states ---- */

static bool declare_state(Elab *e, const Stmt *s, const Name *n, const Init *init) {
    const Type *t = type_of(e->g, e->trained->value);
    if (s->shape) t = param_type(e, s, n);
    if (!t) return false;
    if (declared_twice(e, n)) return false;
    const char *of = e->trained->name;
    const char *name = intern(e->s, arena_printf(e->a, "%s/%s", of, n->name));
    AttrValue attr[] = {{.s = name}, {.s = of}, {.s = init->kind}, {.f = init->a}, {.f = init->b}};
    place_nodes(e, n->loc);
    Value v = graph_leaf(e->g, OP_state, attr_intern(e->s, OP_state, attr),
                         type_with_dtype(e->s, t, DT_F32));
    set_var(e, n->name, val_tensor(v), n->loc)->state = v;
    return true;
}

static Ran run_state(Elab *e, const Stmt *s) {
    Init init;
    if (!e->trained || e->frame->item->kind != I_OPTIMIZER)
        return fail(e, s->loc, "a state belongs into an optimizer"), FAILED;
    if (!read_init(e, s->value, &init)) return FAILED;
    for (const Name *n = s->names.head; n; n = n->next)
        if (!declare_state(e, s, n, &init)) return FAILED;
    return RAN;
}

/* ---- assignments ---- */

/* A state keeps its type: numbers fill it, tensors must have its shape. */
static bool assign_state(Elab *e, Binding *b, const Name *n, Val v) {
    const Type *t = type_of(e->g, b->state);
    if (is_number(&v)) {
        place_nodes(e, n->loc);
        v = val_tensor(b_const(e->g, number_of(&v), t));
    }
    Value x;
    if (!want_tensor(e, &v, n->loc, "the state", &x)) return false;
    if (type_of(e->g, x) != t) {
        Val state = val_tensor(b->state);
        fail(e, n->loc, "the state '%s' is %s and cannot become %s", n->name, describe(e, &state),
             describe(e, &v));
        return false;
    }
    b->val = v;
    b->updated = true;
    return true;
}

static bool assign(Elab *e, const Name *n, Val v) {
    Binding *b = find_var(e->frame, n->name);
    if (b && b->state != NO_VALUE) return assign_state(e, b, n, v);
    set_var(e, n->name, v, n->loc);
    return true;
}

static Ran run_assign(Elab *e, const Stmt *s) {
    Val v;
    if (!eval(e, s->value, &v)) return FAILED;
    if (s->names.n == 1) return assign(e, s->names.head, v) ? RAN : FAILED;
    if (v.kind != V_TUPLE && v.kind != V_LIST)
        return fail(e, s->loc, "%u names need %u values, but this is %s", s->names.n, s->names.n,
                    describe(e, &v)),
               FAILED;
    if (v.n != s->names.n)
        return fail(e, s->loc, "%u names on the left, but %u values on the right", s->names.n, v.n),
               FAILED;
    uint32_t i = 0;
    for (const Name *n = s->names.head; n; n = n->next)
        if (!assign(e, n, v.p[i++])) return FAILED;
    return RAN;
}

/* ---- control ---- */

/* Names that an iteration makes end with it; assignments to outer names stay. */
static Ran run_iteration(Elab *e, const Stmt *s, Scope *scope) {
    Scope *outer = e->frame->scope;
    uint32_t vars = e->frame->vars.n;
    e->frame->scope = scope;
    Ran ran = run_block(e, &s->body);
    e->frame->scope = outer;
    if (ran == RAN) e->frame->vars.n = vars;
    return ran;
}

static Ran run_repeat(Elab *e, const Stmt *s) {
    Val v;
    int64_t n;
    if (!eval(e, s->value, &v) || !want_int(e, &v, s->value->loc, "the number of repeats", &n))
        return FAILED;
    if (n < 0 || n > MAX_REPEAT)
        return fail(e, s->value->loc, "cannot repeat %lld times", (long long)n), FAILED;
    Scope *all = scope_below(e, e->frame->scope, s->name, false);
    Ran ran = RAN;
    for (int64_t i = 0; i < n && ran == RAN; i++) {
        const char *index = s->share ? "" : arena_printf(e->a, "[%lld]", (long long)i);
        ran = run_iteration(e, s,
                            scope_new(e, arena_printf(e->a, "%s%s", all->path, index),
                                      arena_printf(e->a, "%s%s", all->names, index)));
    }
    return ran;
}

static Ran run_if(Elab *e, const Stmt *s) {
    Val v;
    bool yes;
    if (!eval(e, s->value, &v) || !want_bool(e, &v, s->value->loc, "the condition of 'if'", &yes))
        return FAILED;
    return run_block(e, yes ? &s->body : &s->other);
}

static Ran run_annotation(Elab *e, const Stmt *s) {
    const char *kind = block_names[s->block];
    if (e->trained) return fail(e, s->loc, "'%s' has no meaning in an optimizer", kind), FAILED;
    int64_t n = 0;
    Val v;
    if (s->value) {
        if (!eval(e, s->value, &v) || !want_int(e, &v, s->value->loc, "the number of devices", &n))
            return FAILED;
        if (n < 1)
            return fail(e, s->value->loc, "the number of devices must be at least 1"), FAILED;
    }
    Scope *outer = e->frame->scope;
    Scope *scope = scope_below(e, outer, s->name ? s->name : kind, true);
    Annotation note = {scope->path, intern(e->s, kind), n, s->name, s->loc};
    if (e->g->at.micro <= 0) vec_push(&e->g->note, note);
    e->frame->scope = scope;
    Ran ran = run_block(e, &s->body);
    e->frame->scope = outer;
    return ran;
}

static Ran run_aux(Elab *e, const Stmt *s) {
    Val v;
    Value t;
    if (!eval(e, s->value, &v)) return FAILED;
    if (e->trained) return fail(e, s->loc, "an optimizer has no auxiliary loss"), FAILED;
    if (is_number(&v) && e->training)
        return fail(e, s->loc, "the auxiliary loss is a number of compile time, not a tensor"),
               FAILED;
    if (!e->training) return RAN;
    if (!want_tensor(e, &v, s->loc, "the auxiliary loss", &t)) return FAILED;
    if (type_of(e->g, t) != type_scalar(e->s, DT_F32))
        return fail(e, s->loc, "the auxiliary loss must be one f32, but is %s", describe(e, &v)),
               FAILED;
    vec_push(&e->aux, t);
    return RAN;
}

static Ran run_return(Elab *e, const Stmt *s) {
    Val *v = arena_array(e->a, Val, s->args.n);
    uint32_t n = 0;
    for (const Arg *a = s->args.head; a; a = a->next)
        if (!eval(e, a->value, &v[n++])) return FAILED;
    e->frame->returned = s;
    e->frame->result = n == 1 ? v[0] : (Val){.kind = V_TUPLE, .n = n, .p = v};
    return RETURNED;
}

/* Repeats in repeats could go on for ever. */
static bool too_large(Elab *e) {
    return ++e->work > e->max_work || e->g->node.n > MAX_NODES || e->scopes.n > MAX_SCOPES;
}

static Ran run_stmt(Elab *e, const Stmt *s) {
    static Ran (*const run[])(Elab *, const Stmt *) = {
        [S_ASSIGN] = run_assign, [S_PARAM] = run_param,
        [S_STATE] = run_state,   [S_REPEAT] = run_repeat,
        [S_IF] = run_if,         [S_AUX] = run_aux,
        [S_RETURN] = run_return, [S_BLOCK] = run_annotation,
    };
    if (too_large(e)) return give_up(e, s->loc, "this model is too large to write out"), FAILED;
    return run[s->kind](e, s);
}

/* Names that a failed statement would have given a value: using them reports nothing more. */
static void break_names(Elab *e, const Stmt *s) {
    for (const Name *n = s->names.head; n; n = n->next)
        set_var(e, n->name, (Val){.kind = V_BROKEN}, n->loc);
    for (const Stmt *b = s->body.head; b; b = b->next) break_names(e, b);
    for (const Stmt *b = s->other.head; b; b = b->next) break_names(e, b);
}

/* Goes on after a mistake, so that one run reports several; the block has failed all the same. */
Ran run_block(Elab *e, const Block *b) {
    bool failed = false;
    Ran ran = RAN;
    if (++e->depth > 2 * MAX_DEPTH)
        return give_up(e, b->head ? b->head->loc : (Loc){0}, "statements are nested too deeply"),
               FAILED;
    for (const Stmt *s = b->head; s && ran == RAN && !e->gave_up; s = s->next) {
        ran = run_stmt(e, s);
        if (ran != FAILED) continue;
        failed = true;
        break_names(e, s);
        ran = s->kind == S_RETURN ? FAILED : RAN;
    }
    e->depth--;
    return failed ? FAILED : ran;
}
