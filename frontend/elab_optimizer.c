/* elab_optimizer.c: the optimizer's body, evaluated once per parameter when the `optimize` pass
 * asks. The pass cannot see the frontend: it calls through Graph.optimizer. */
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

static const Expr *optimizer_call(const Elab *e) {
    for (const Item *i = e->file->items.head; i; i = i->next)
        if (i->kind == I_TRAIN && !strcmp(i->name, e->g->name))
            for (const Entry *t = i->entries.head; t; t = t->next)
                if (!strcmp(t->key, "optimizer")) return t->args.head->value;
    return NULL;
}

static bool finish_states(Elab *e, const Frame *f) {
    for (uint32_t i = 0; i < f->vars.n; i++)
        if (f->vars.p[i].updated) b_assign(e->g, f->vars.p[i].state, f->vars.p[i].val.v);
    return true;
}

/* The learning rate is the argument called lr. */
static Value learning_rate(Elab *e, const Frame *f) {
    const Binding *b = find_var(f, intern(e->s, "lr"));
    if (!b) return NO_VALUE;
    if (is_number(&b->val)) return b_const(e->g, number_of(&b->val), type_scalar(e->s, DT_F32));
    bool scalar = b->val.kind == V_TENSOR && type_of(e->g, b->val.v) == type_scalar(e->s, DT_F32);
    return scalar ? b->val.v : NO_VALUE;
}

static bool take_update(Elab *e, const Item *item, const Expr *call, const Frame *f, Value param,
                        Value *updated) {
    if (f->result.kind != V_TENSOR || type_of(e->g, f->result.v) != type_of(e->g, param)) {
        Val p = val_tensor(param);
        return fail(e, call->loc, "'%s' must return the new parameter, %s, but returns %s",
                    item->name, describe(e, &p), describe(e, &f->result));
    }
    *updated = f->result.v;
    return finish_states(e, f);
}

static bool run_optimizer(Elab *e, const Expr *call, const Trained *t, Value grad, Value *updated,
                          Value *lr) {
    const Item *item = find_definition(e, e->file, call->name)->item;
    Frame *caller = e->frame;
    Scope *scope = scope_new(e, e->g->at.scope, "");
    caller->scope = scope;
    Frame *f = push_frame(e, item, item->file, call->loc, scope);
    Val first[] = {val_tensor(t->value), val_tensor(grad)};
    e->trained = t;
    bool ok = bind_params(e, item, &call->args, caller, 2, first);
    if (ok) place_nodes(e, call->loc);
    if (ok) *lr = learning_rate(e, f);
    Ran ran = ok ? run_block(e, &item->body) : FAILED;
    if (ran == RAN) fail(e, call->loc, "'%s' ends without a 'return'", item->name);
    ok = ran == RETURNED && take_update(e, item, call, f, t->value, updated);
    e->trained = NULL;
    pop_frame(e);
    return ok;
}

/* OptimizerFn */
static bool optimize_one(void *ctx, Graph *g, const char *name, Value param, Value grad,
                         Value *updated, Value *lr) {
    Elab *e = ctx;
    Graph *own = e->g;
    const char *scope = g->at.scope;
    Loc loc = g->at.loc;
    const Expr *call = optimizer_call(e);
    Trained t = {name, param};
    e->g = g;
    e->training = true;
    e->work = 0;
    bool ok = run_optimizer(e, call, &t, grad, updated, lr);
    free_scopes(e);
    g->at.scope = scope;
    g->at.loc = loc;
    e->g = own;
    return ok;
}

static bool check_call(Elab *e, const Expr *call) {
    bool named = call->kind == E_CALL || call->kind == E_NAME;
    if (!named)
        return fail(e, call->loc, "an optimizer is called by name, as in 'adamw(lr = 1e-3)'");
    const Def *d = find_definition(e, e->file, call->name);
    if (!d || d->item->kind != I_OPTIMIZER) {
        Words words = {0};
        add_definitions(e, e->file, true, &words);
        const char *near = suggestion(e, call->name, &words);
        vec_free(&words);
        return fail(e, call->loc, d ? "'%s' is not an optimizer%s" : "unknown optimizer '%s'%s",
                    call->name, d ? "" : near);
    }
    if (d->item->params.n >= 2) return true;
    return fail(e, d->item->name_loc, "an optimizer takes the parameter and its gradient first");
}

/* Evaluates the optimizer on a made-up matrix, so that mistakes in it are found right away. */
bool try_optimizer(Elab *e) {
    const Expr *call = e->training ? optimizer_call(e) : NULL;
    if (!call) return true;
    if (!check_call(e, call)) return false;
    const int64_t dim[] = {4, 4};
    Graph *own = e->g;
    e->g = graph_like(own);
    e->g->at.scope = intern(e->s, "");
    e->step = e->seed = NO_VALUE;
    AttrValue attr[] = {{.s = intern(e->s, "w")}, {.s = intern(e->s, "zeros")}, {.f = 0}, {.f = 0}};
    Value p = graph_leaf(e->g, OP_param, attr_intern(e->s, OP_param, attr),
                         type_tensor(e->s, DT_F32, 2, dim));
    Value updated, lr, grad = b_like(e->g, 1, p);
    Trained t = {"w", p};
    bool ok = run_optimizer(e, call, &t, grad, &updated, &lr);
    graph_free(e->g);
    e->g = own;
    e->step = e->seed = NO_VALUE;
    own->optimizer = optimize_one;
    own->optimizer_ctx = e;
    return ok;
}
