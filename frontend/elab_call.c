/* elab_call.c: frames, scopes, and calls of layers: arguments by position and by name, and the
 * dimensions that their shapes bind. */
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

enum { MAX_FRAMES = 200 };

/* ---- variables ---- */

Binding *find_var(const Frame *f, const char *name) {
    for (uint32_t i = f->vars.n; i-- > 0;)
        if (f->vars.p[i].name == name) return &f->vars.p[i];
    return NULL;
}

Binding *set_var(Elab *e, const char *name, Val v, Loc loc) {
    Binding *b = find_var(e->frame, name);
    if (!b) {
        Binding fresh = {.name = name, .state = NO_VALUE};
        vec_push(&e->frame->vars, fresh);
        b = &e->frame->vars.p[e->frame->vars.n - 1];
    }
    b->val = v;
    b->loc = loc;
    b->is_dim = false;
    return b;
}

Frame *push_frame(Elab *e, const Item *item, File *file, Loc call, Scope *scope) {
    Frame *f = arena_new_of(e->a, Frame);
    *f = (Frame){.caller = e->frame, .item = item, .file = file, .call = call, .scope = scope};
    return e->frame = f;
}

void pop_frame(Elab *e) {
    Frame *f = e->frame;
    e->frame = f->caller;
    vec_free(&f->vars);
}

/* ---- scopes ---- */

Scope *scope_new(Elab *e, const char *path, const char *names) {
    Scope *s = arena_new_of(e->a, Scope);
    s->path = intern(e->s, path);
    s->names = intern(e->s, names);
    s->owner = s;
    vec_push(&e->scopes, s);
    return s;
}

static const char *join(Elab *e, const char *path, const char *name) {
    return *path ? arena_printf(e->a, "%s.%s", path, name) : name;
}

static const char *unique(Elab *e, Scope *s, const char *name) {
    const char *candidate = intern(e->s, name);
    for (int k = 1;; k++) {
        bool taken = false;
        for (uint32_t i = 0; i < s->taken.n; i++) taken |= s->taken.p[i] == candidate;
        if (!taken) break;
        candidate = intern(e->s, arena_printf(e->a, "%s_%d", name, k));
    }
    vec_push(&s->taken, candidate);
    vec_push(&s->taken_at, (Loc){0});
    return candidate;
}

Scope *scope_below(Elab *e, Scope *up, const char *name, bool annotation) {
    if (annotation) {
        const char *block = unique(e, up->owner, arena_printf(e->a, "@%s", name)) + 1;
        Scope *s = scope_new(e, join(e, up->path, block), up->names);
        s->owner = up->owner;
        return s;
    }
    const char *child = unique(e, up->owner, name);
    return scope_new(e, join(e, up->path, child), join(e, up->names, child));
}

/* ---- dimensions ---- */

static bool dim_conflict(Elab *e, const Param *p, Loc arg, Loc dim, const char *name, int64_t size,
                         int64_t want, const Binding *bound) {
    fail(e, arg, "argument '%s' has %lld where its shape says %s = %lld", p->name, (long long)size,
         name, (long long)want);
    note(e, dim, "the shape is written here");
    if (bound && bound->loc.line)
        note(e, bound->loc, "'%s' is %lld because of this", name, (long long)want);
    return false;
}

/* One dimension of an argument's shape: binds a new name, or compares. */
static bool match_dim(Elab *e, const Param *p, const Expr *dim, int64_t size, Loc arg) {
    const Binding *bound = dim->kind == E_NAME ? find_var(e->frame, dim->name) : NULL;
    const Def *config =
        dim->kind == E_NAME && !bound ? find_definition(e, e->frame->file, dim->name) : NULL;
    if (dim->kind == E_NAME && !bound && !(config && config->config)) {
        set_var(e, dim->name, val_int(size), arg)->is_dim = true;
        return true;
    }
    Val v;
    int64_t want;
    if (!eval(e, dim, &v) || !want_int(e, &v, dim->loc, "a dimension", &want)) return false;
    const char *name = dim->kind == E_NAME ? dim->name : "this dimension";
    return want == size || dim_conflict(e, p, arg, dim->loc, name, size, want, bound);
}

static bool match_shape(Elab *e, const Param *p, const Val *v, Loc arg) {
    if (p->dtype && v->kind != V_TENSOR)
        return fail(e, arg, "argument '%s' must be a tensor, but is %s", p->name, describe(e, v));
    if (!p->shaped && !p->dtype) return true;
    Value t;
    if (!want_tensor(e, v, arg, arena_printf(e->a, "argument '%s'", p->name), &t)) return false;
    const Type *type = type_of(e->g, t);
    Dtype d;
    if (p->dtype && !dtype_parse(p->dtype, &d))
        return fail(e, p->dtype_loc, "unknown dtype '%s'", p->dtype);
    if (p->dtype && type->dtype != d)
        return fail(e, arg, "argument '%s' must be %s, but is %s; cast(x, %s) converts", p->name,
                    p->dtype, describe(e, v), p->dtype);
    if (!p->shaped) return true;
    int n = (int)p->dims.n, skip = type->rank - n;
    if (skip < 0 || (skip > 0 && !p->leading)) {
        fail(e, arg, "argument '%s' must have %s%d dimensions, but is %s", p->name,
             p->leading ? "at least " : "", n, describe(e, v));
        note(e, p->loc, "the shape is written here");
        return false;
    }
    for (const Arg *dim = p->dims.head; dim; dim = dim->next)
        if (!match_dim(e, p, dim->value, type->dim[skip++], arg)) return false;
    return true;
}

/* ---- arguments ---- */

static const Param *param_at(const Item *item, uint32_t i) {
    const Param *p = item->params.head;
    while (p && i--) p = p->next;
    return p;
}

static bool unknown_argument(Elab *e, const Item *item, const Arg *a) {
    Words words = {0};
    for (const Param *p = item->params.head; p; p = p->next) vec_push(&words, p->name);
    const char *near = suggestion(e, a->name, &words);
    vec_free(&words);
    fail(e, a->loc, "'%s' has no argument '%s'%s", item->name, a->name, near);
    note(e, item->loc, "'%s' is defined here", item->name);
    return false;
}

/* Finds for each parameter the argument that gives it; found[i] is NULL for defaults. */
static bool assign_args(Elab *e, const Item *item, const ArgList *args, uint32_t given,
                        const Arg **found) {
    uint32_t position = given;
    bool named = false;
    for (const Arg *a = args->head; a; a = a->next) {
        uint32_t i = position;
        if (a->name) {
            named = true;
            for (i = 0; i < item->params.n && param_at(item, i)->name != a->name;) i++;
            if (i == item->params.n) return unknown_argument(e, item, a);
        } else {
            if (named)
                return fail(e, a->loc, "an argument without a name cannot follow one with a name");
            if (i >= item->params.n)
                return fail(e, a->loc, "'%s' takes %u argument%s, but got %u", item->name,
                            item->params.n - given, item->params.n - given == 1 ? "" : "s",
                            args->n);
            position++;
        }
        if (found[i] || i < given)
            return fail(e, a->loc, "argument '%s' is given twice", param_at(item, i)->name);
        found[i] = a;
    }
    return true;
}

/* "f(x: [n, d], n)": an argument may say again what a shape has bound already. */
static bool agrees(Elab *e, const Param *p, const Val *v, Loc loc) {
    const Binding *b = find_var(e->frame, p->name);
    if (!b || !b->is_dim || (is_number(v) && number_of(v) == number_of(&b->val))) return true;
    fail(e, loc, "argument '%s' is %s, but a shape has bound '%s' to %s", p->name, describe(e, v),
         p->name, describe(e, &b->val));
    note(e, b->loc, "the shape of this argument");
    return false;
}

/* Binds the parameters of `item` in the current frame. Arguments are evaluated in the frame of the
 * caller, defaults in the new one; the first `given` have the values `first`. */
bool bind_params(Elab *e, const Item *item, const ArgList *args, Frame *caller, uint32_t given,
                 const Val *first) {
    const Arg **found = arena_array(e->a, const Arg *, item->params.n + 1);
    Frame *frame = e->frame;
    Val *value = arena_array(e->a, Val, item->params.n + 1);
    e->frame = caller;
    bool ok = assign_args(e, item, args, given, found);
    for (uint32_t i = 0; ok && i < item->params.n; i++)
        ok = !found[i] || eval(e, found[i]->value, &value[i]);
    e->frame = frame;
    uint32_t i = 0;
    for (const Param *p = item->params.head; ok && p; p = p->next, i++) {
        Loc loc = found[i] ? found[i]->loc : frame->call;
        if (i < given)
            value[i] = first[i];
        else if (!found[i] && !p->value)
            return fail(e, frame->call, "'%s' needs the argument '%s'", item->name, p->name);
        else if (!found[i] && !eval(e, p->value, &value[i]))
            return false;
        if (!match_shape(e, p, &value[i], loc) || !agrees(e, p, &value[i], loc)) return false;
        set_var(e, p->name, value[i], loc);
    }
    return ok;
}

/* ---- calls ---- */

static bool check_recursion(Elab *e, const Item *item, Loc loc) {
    int frames = 0;
    for (Frame *f = e->frame; f; f = f->caller, frames++) {
        if (f->item != item) continue;
        fail_plain(e, loc, "'%s' calls itself", item->name);
        for (Frame *c = e->frame; c != f; c = c->caller)
            note(e, c->call, "through '%s', called from here", c->item->name);
        return false;
    }
    return frames < MAX_FRAMES || fail(e, loc, "calls are nested more than 200 deep");
}

/* Nodes of a layer from another file say where they stand there; this says who called it here. */
static void note_call_site(Elab *e, const Item *item, const char *scope, Loc loc) {
    if (e->trained || item->file == e->file || loc.file != e->file->index) return;
    if (map_get(&e->called, scope)) return;
    map_put(&e->called, scope, e);
    Annotation site = {.scope = scope, .kind = intern(e->s, "call"), .loc = loc};
    vec_push(&e->g->note, site);
}

bool call_definition(Elab *e, const Item *item, const Expr *call, Val *out) {
    if (item->kind == I_MODEL)
        return fail(e, call->loc, "'%s' is a model and cannot be called", item->name);
    if (item->kind == I_OPTIMIZER)
        return fail(e, call->loc,
                    "'%s' is an optimizer; it belongs into 'train', as in "
                    "'optimizer = %s(…)'",
                    item->name, item->name);
    if (!check_recursion(e, item, call->loc)) return false;
    Frame *caller = e->frame;
    Scope *scope = scope_below(e, caller->scope, call->as ? call->as : item->name, false);
    Frame *f = push_frame(e, item, item->file, call->loc, scope);
    note_call_site(e, item, scope->path, call->loc);
    bool ok = bind_params(e, item, &call->args, caller, 0, NULL);
    Ran ran = ok ? run_block(e, &item->body) : FAILED;
    if (ran == RAN) {
        fail(e, call->loc, "'%s' ends without a 'return'", item->name);
        note(e, item->loc, "'%s' is defined here", item->name);
    }
    *out = f->result;
    pop_frame(e);
    return ran == RETURNED;
}
