/* elab.c: the model as a whole: definitions of the files, configs and --set, inputs, the loss.
 *
 * With micro-batches the body is written out once per slice of the batch, over the same parameters.
 * Losses are combined to what the whole batch gives: in `sum / count` the counts, which depend on
 * no parameter, are added up first. Everything else is averaged, or put back together along the
 * first dimension. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

/* ---- messages ---- */

/* A layer that is called a hundred times reports a mistake once; its notes are left out, too. */
static bool already_reported(Elab *e, Loc loc) {
    uint64_t key = (uint64_t)loc.file << 48 | (uint64_t)loc.col << 32 | loc.line;
    if (!loc.line) return false;
    if (map_get(&e->reported, (void *)(uintptr_t)key)) return true;
    map_put(&e->reported, (void *)(uintptr_t)key, e);
    return false;
}

static bool report(Elab *e, Loc loc, const char *fmt, va_list ap) {
    Buf b = {0};
    e->muted = already_reported(e, loc);
    buf_vprintf(&b, fmt, ap);
    if (!e->muted) diag_error(e->s, loc, "%s", b.p);
    buf_free(&b);
    return false;
}

void note(Elab *e, Loc loc, const char *fmt, ...) {
    Buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    if (!e->muted) diag_note(e->s, loc, "%s", b.p);
    buf_free(&b);
}

/* How the model came to `loc`; a call on the same line says nothing new. */
static void note_calls(Elab *e, Loc loc) {
    int n = 0;
    for (const Frame *f = e->frame; f && n < 5; f = f->caller)
        if (f->item && f->call.line && (f->call.line != loc.line || f->call.file != loc.file)) {
            note(e, f->call, "in '%s', called from here", f->item->name);
            n++;
        }
}

bool fail(Elab *e, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    report(e, loc, fmt, ap);
    va_end(ap);
    note_calls(e, loc);
    return false;
}

bool fail_plain(Elab *e, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    report(e, loc, fmt, ap);
    va_end(ap);
    return false;
}

bool give_up(Elab *e, Loc loc, const char *text) {
    e->gave_up = true;
    return fail(e, loc, "%s", text);
}

const char *suggestion(Elab *e, const char *word, Words *candidates) {
    const char *near = nearest_word(word, candidates->p, candidates->n);
    return near ? arena_printf(e->a, "; did you mean '%s'?", near) : "";
}

/* ---- definitions ---- */

static bool define(Elab *e, Map *names, const char *name, Def def, Loc loc) {
    const Def *old = map_get(names, name);
    if (old) {
        fail_plain(e, loc, "%s '%s' is defined twice", def.config ? "config" : "the name", name);
        note(e, old->config ? old->config->loc : old->item->name_loc, "the first one is here");
        return false;
    }
    Def *d = arena_new_of(e->a, Def);
    *d = def;
    map_put(names, name, d);
    return true;
}

bool define_files(Elab *e, File *f) {
    if (map_get(&e->files, f)) return true;
    Map *names = arena_new_of(e->a, Map);
    *names = map_new(e->a);
    map_put(&e->files, f, names);
    bool ok = true;
    for (const Item *i = f->items.head; i; i = i->next) {
        if (i->kind == I_USE) ok = define_files(e, i->used) && ok;
        if (i->kind == I_LAYER || i->kind == I_OPTIMIZER || i->kind == I_MODEL)
            ok = define(e, names, i->name, (Def){i, NULL}, i->name_loc) && ok;
        if (i->kind == I_CONFIG)
            for (const Arg *c = i->configs.head; c; c = c->next)
                ok = define(e, names, c->name, (Def){i, c}, c->loc) && ok;
    }
    return ok;
}

const Def *find_definition(Elab *e, File *f, const char *name) {
    const Def *d = map_get(map_get(&e->files, f), name);
    if (d) return d;
    for (const Item *i = f->items.head; i; i = i->next)
        if (i->kind == I_USE) {
            const Def *used = map_get(map_get(&e->files, i->used), name);
            if (used) d = used; /* later ones win */
        }
    return d;
}

static void add_own(const File *f, bool callable, Words *out) {
    for (const Item *i = f->items.head; i; i = i->next) {
        if (callable && i->kind >= I_LAYER && i->kind <= I_MODEL) vec_push(out, i->name);
        if (!callable && i->kind == I_CONFIG)
            for (const Arg *c = i->configs.head; c; c = c->next) vec_push(out, c->name);
    }
}

void add_definitions(Elab *e, File *f, bool callable, Words *out) {
    (void)e;
    add_own(f, callable, out);
    for (const Item *i = f->items.head; i; i = i->next)
        if (i->kind == I_USE) add_own(i->used, callable, out);
}

/* ---- configs ---- */

static const Arg *find_override(const Elab *e, const char *name) {
    for (uint32_t i = e->noverrides; i-- > 0;)
        if (e->overrides[i]->name == name) return e->overrides[i];
    return NULL;
}

/* Marks of configs that are being evaluated, and of those that were found wrong. */
static const Val evaluating = {.kind = V_WORD}, wrong = {.kind = V_WORD};

bool config_value(Elab *e, const Def *d, Val *out) {
    const Arg *c = d->config, *override = find_override(e, c->name);
    const Val *known = map_get(&e->configs, c);
    if (known == &evaluating) return fail(e, c->loc, "config '%s' depends on itself", c->name);
    if (known == &wrong) return false;
    if (known) return *out = *known, true;
    map_put(&e->configs, c, (void *)&evaluating);
    push_frame(e, NULL, d->item->file, c->loc, e->frame->scope);
    bool ok = eval(e, override ? override->value : c->value, out);
    if (ok && (out->kind == V_TENSOR || out->kind == V_TUPLE))
        ok = fail(e, c->loc, "config '%s' must be a number, not %s", c->name, describe(e, out));
    if (ok && c->name == e->divided && is_number(out)) /* check_divisible has seen to it */
        *out = val_int((int64_t)number_of(out) / e->divisor);
    pop_frame(e);
    Val *kept = arena_new_of(e->a, Val);
    *kept = *out;
    map_put(&e->configs, c, ok ? (void *)kept : (void *)&wrong);
    return ok;
}

static bool check_configs(Elab *e) {
    bool ok = true;
    for (const Item *i = e->file->items.head; i; i = i->next)
        if (i->kind == I_CONFIG)
            for (const Arg *c = i->configs.head; c; c = c->next) {
                Val v;
                Def d = {i, c};
                ok = config_value(e, &d, &v) && ok;
            }
    return ok;
}

static bool is_config(const Elab *e, const char *name) {
    for (uint32_t i = 0; i < e->files.cap; i++) {
        const Def *d = e->files.entry[i].key ? map_get(e->files.entry[i].value, name) : NULL;
        if (d && d->config) return true;
    }
    return false;
}

/* "--set name=expression", read as the config it replaces. */
static bool read_override(Elab *e, const char *text) {
    const char *name = arena_printf(e->a, "--set %s", text);
    const char *config = arena_printf(e->a, "config %s", text);
    File *f = frontend_parse(e->s, name, config, strlen(config));
    if (!f) return false;
    const Arg *c = f->items.head->configs.head;
    if (f->items.n != 1 || f->items.head->configs.n != 1)
        return fail(e, f->items.head->loc, "--set takes one name=value at a time");
    if (!is_config(e, c->name)) {
        Words words = {0};
        add_definitions(e, e->file, false, &words);
        const char *near = suggestion(e, c->name, &words);
        vec_free(&words);
        return fail(e, (Loc){0}, "--set %s: unknown config '%s'%s", text, c->name, near);
    }
    e->overrides[e->noverrides++] = c;
    return true;
}

/* ---- which model ---- */

static const Item *unknown_model(Elab *e, const char *name) {
    Words words = {0};
    for (const Item *i = e->file->items.head; i; i = i->next)
        if (i->kind == I_MODEL) vec_push(&words, i->name);
    fail_plain(e, (Loc){0}, "%s has no model '%s'%s", e->file->name, name,
               suggestion(e, name, &words));
    vec_free(&words);
    return NULL;
}

static bool is_trained(const Elab *e, const Item *model) {
    for (const Item *i = e->file->items.head; i; i = i->next)
        if (i->kind == I_TRAIN && i->name == model->name) return true;
    return false;
}

static const Item *find_model(Elab *e) {
    const Item *only = NULL, *trained = NULL;
    int models = 0, trains = 0;
    for (const Item *i = e->file->items.head; i; i = i->next) {
        if (i->kind != I_MODEL) continue;
        if (e->opt->model && !strcmp(e->opt->model, i->name)) return i;
        only = i, models++;
        if (is_trained(e, i)) trained = i, trains++;
    }
    if (e->opt->model) return unknown_model(e, e->opt->model);
    if (models == 1) return only;
    if (trains == 1) return trained;
    fail_plain(e, (Loc){e->file->index, 1, 1},
               models ? "this file has several models; say which one" : "this file has no model");
    return NULL;
}

/* ---- inputs ---- */

static const Type *input_type(Elab *e, const Param *p) {
    Dtype d;
    int rank = 0;
    int64_t dim[MAX_RANK];
    if (!p->dtype || !p->shaped || p->leading)
        return fail(e, p->loc, "input '%s' needs a dtype and a shape, as in '%s: f32[batch, 16]'",
                    p->name, p->name),
               NULL;
    if (!dtype_parse(p->dtype, &d) || d == DT_TUPLE)
        return fail(e, p->dtype_loc, "unknown dtype '%s'", p->dtype), NULL;
    if (p->dims.n > MAX_RANK)
        return fail(e, p->loc, "input '%s' has more than %d dimensions", p->name, MAX_RANK), NULL;
    for (const Arg *a = p->dims.head; a; a = a->next) {
        Val v;
        if (!eval(e, a->value, &v) || !want_int(e, &v, a->loc, "a dimension", &dim[rank]))
            return NULL;
        if (dim[rank] < 1)
            return fail(e, a->loc, "a dimension must be at least 1, but this is %lld",
                        (long long)dim[rank]),
                   NULL;
        rank++;
    }
    const Type *t = type_tensor(e->s, d, rank, dim);
    if (type_bytes(t) >= 0) return t;
    return fail(e, p->loc, "the size of input '%s' does not fit in 64 bits", p->name), NULL;
}

/* The name of an input's first dimension, or NULL. */
static const char *first_dim(const Param *p) {
    const Expr *x = p->shaped && p->dims.head ? p->dims.head->value : NULL;
    return x && x->kind == E_NAME ? x->name : NULL;
}

/* The config that names the first dimension of the inputs. */
static const char *batch_config(Elab *e, const Item *model) {
    for (const Param *p = model->params.head; p; p = p->next) {
        const char *name = first_dim(p);
        if (name && is_config(e, name)) return name;
    }
    return NULL;
}

/* In every micro-batch each rank has its share. */
static bool share_batch(Elab *e, const char *name, int64_t size, int64_t micros, int64_t ranks) {
    Shares s = e->g->set.shares;
    if (size % micros == 0 && shares_divide(s, ranks, size / micros)) return true;
    int64_t whole = shares_sum(s, s.n) * micros;
    if (size % whole)
        return fail(e, e->shares_loc,
                    "%s = %lld cannot be shared so: it is not a multiple of %lld, the sum of the "
                    "shares%s",
                    name, (long long)size, (long long)whole,
                    micros > 1 ? " in all micro-batches" : "");
    return fail(e, e->shares_loc,
                "%s = %lld cannot be shared so: the %lld ranks of an expert axis do not divide "
                "each rank's share",
                name, (long long)size, (long long)(ranks / s.n));
}

/* Of a batch that ranks cannot have equal parts of: the devices may be unequal, and the passes
 * divide it by their speed. */
static bool may_be_uneven(const Elab *e) {
    const Settings *set = &e->g->set;
    return set->cluster && !e->nshares && mesh_axis(set, MESH_DATA) && !mesh_shares_refused(set);
}

/* The mesh divides the batch: over the data axis, and over an expert axis with ranks of its own,
 * which outside the experts are further replicas. */
static bool split_batch(Elab *e, const Param *p, Value v) {
    const Settings *set = &e->g->set;
    const char *names = NULL;
    int64_t n = e->training ? set->micro_batches : 1, ranks = 1;
    for (int i = 0; i < set->nmesh; i++) {
        const char *axis = set->mesh[i].axis;
        bool data = !strcmp(axis, MESH_DATA), expert = !strcmp(axis, MESH_EXPERT);
        if ((!data && !expert) || set->mesh[i].same || set->mesh[i].size == 1) continue;
        ranks *= set->mesh[i].size;
        names = names ? MESH_DATA "." MESH_EXPERT : axis;
    }
    if (!names) return true;
    Spec spec = {.rank = type_of(e->g, v)->rank, .axis = {intern(e->s, names)}};
    node_of(e->g, v)->spec = spec_intern(e->s, &spec);
    int64_t size = type_of(e->g, v)->dim[0];
    if (set->shares.n) return share_batch(e, first_dim(p), size, n, ranks);
    if (size % (n * ranks) == 0 || (size % n == 0 && may_be_uneven(e))) return true;
    if (n == 1)
        return fail(e, p->loc, "%s = %lld cannot be shared by the %lld ranks of %s", first_dim(p),
                    (long long)size, (long long)ranks, names);
    return fail(e, p->loc,
                "%s = %lld in %lld micro-batches cannot be shared by the %lld ranks of %s",
                first_dim(p), (long long)size, (long long)n, (long long)ranks, names);
}

static bool make_inputs(Elab *e, const Item *model, Val *out) {
    bool ok = true;
    const char *batch = batch_config(e, model);
    for (const Param *p = model->params.head; p; p = p->next, out++) {
        if (p->value && !p->dtype && !p->shaped) {
            ok = eval(e, p->value, out) && ok;
            continue;
        }
        const Type *t = input_type(e, p);
        ok = ok && t;
        if (!t) continue;
        place_nodes(e, p->loc);
        AttrValue attr[] = {{.s = p->name}, {.i = 0}};
        Value v = graph_leaf(e->g, OP_input, attr_intern(e->s, OP_input, attr), t);
        if (batch && first_dim(p) == batch) ok = split_batch(e, p, v) && ok;
        *out = val_tensor(v);
    }
    return ok;
}

/* ---- micro-batches ---- */

static bool is_sliced(const Elab *e, const Param *p) {
    return e->divided && first_dim(p) == e->divided;
}

static bool check_divisible(Elab *e, const Item *model, const Val *inputs) {
    for (const Param *p = model->params.head; p; p = p->next, inputs++) {
        if (!is_sliced(e, p) || inputs->kind != V_TENSOR) continue;
        int64_t n = type_of(e->g, inputs->v)->dim[0];
        if (n % e->divisor)
            return fail(e, p->loc, "num_micro_batch = %lld does not divide '%s' = %lld",
                        (long long)e->divisor, e->divided, (long long)n);
    }
    return true;
}

static Val slice_input(Elab *e, const Param *p, Val v, int64_t i) {
    if (v.kind != V_TENSOR || !is_sliced(e, p)) return v;
    const Type *t = type_of(e->g, v.v);
    int64_t start[MAX_RANK] = {0}, limit[MAX_RANK], n = t->dim[0] / e->divisor;
    memcpy(limit, t->dim, sizeof limit);
    start[0] = i * n;
    limit[0] = (i + 1) * n;
    place_nodes(e, p->loc);
    return val_tensor(b_slice(e->g, v.v, start, limit));
}

/* ---- the body ---- */

typedef struct {
    Val *result; /* what the model returns */
    uint32_t n;
    const Stmt *returned;
    Value aux; /* sum of what `aux` adds, or NO_VALUE */
} Body;

static Value sum_of(Elab *e, uint32_t n, const Value *v) {
    Value sum = n ? v[0] : NO_VALUE;
    for (uint32_t i = 1; i < n; i++) sum = b_ew2(e->g, OP_add, sum, v[i]);
    return sum;
}

static bool take_results(Elab *e, const Item *model, const Frame *f, Body *out) {
    const Val *r = &f->result;
    out->n = r->kind == V_TUPLE ? r->n : 1;
    out->result = arena_array(e->a, Val, out->n);
    out->returned = f->returned;
    memcpy(out->result, r->kind == V_TUPLE ? r->p : r, out->n * sizeof *r);
    for (uint32_t i = 0; i < out->n; i++)
        if (out->result[i].kind != V_TENSOR)
            return fail(e, f->returned->loc, "a model returns tensors, but result %u is %s", i + 1,
                        describe(e, &out->result[i]));
    const Type *t = type_of(e->g, out->result[0].v);
    if (e->training && t != type_scalar(e->s, DT_F32))
        return fail(e, f->returned->loc, "'%s' must return its loss first, one f32, but this is %s",
                    model->name, describe(e, &out->result[0]));
    return true;
}

static bool run_model(Elab *e, const Item *model, const Val *inputs, int64_t i, Body *out) {
    Frame *f = push_frame(e, model, model->file, (Loc){0}, scope_new(e, "", ""));
    e->random_sites = map_new(e->a);
    e->aux.n = 0;
    for (const Param *p = model->params.head; p; p = p->next, inputs++)
        set_var(e, p->name, slice_input(e, p, *inputs, i), p->loc);
    Ran ran = run_block(e, &model->body);
    if (ran == RAN) fail(e, model->name_loc, "model '%s' ends without a 'return'", model->name);
    bool ok = ran == RETURNED && take_results(e, model, f, out);
    place_nodes(e, model->loc);
    if (ok) out->aux = sum_of(e, e->aux.n, e->aux.p);
    pop_frame(e);
    return ok;
}

/* ---- combining the losses of micro-batches ---- */

/* depends[v]: v is computed from a parameter. */
static bool *parameter_dependence(Elab *e) {
    bool *depends = arena_array(e->a, bool, e->g->node.n);
    for (Value v = 0; v < e->g->node.n; v++) {
        const Node *n = node_of(e->g, v);
        depends[v] = n->op == OP_param;
        for (uint32_t i = 0; i < n->nin; i++) depends[v] |= depends[operand(e->g, v, i)];
    }
    return depends;
}

static bool is_quotient(Elab *e, const bool *depends, Value loss) {
    return node_of(e->g, loss)->op == OP_div && !depends[operand(e->g, loss, 1)];
}

/* A count is often kept above zero: maximum(count, 1) of the sum, not sum of the maxima. */
static bool guarded(Elab *e, Value count, uint32_t *inner) {
    if (node_of(e->g, count)->op != OP_maximum) return false;
    for (uint32_t i = 0; i < 2; i++)
        if (node_of(e->g, operand(e->g, count, 1 - i))->op == OP_constant) return *inner = i, true;
    return false;
}

static Value combine_quotients(Elab *e, uint32_t n, const Value *loss) {
    Value *count = arena_array(e->a, Value, n);
    uint32_t inner = 0;
    Value first = operand(e->g, loss[0], 1);
    bool guard = guarded(e, first, &inner);
    for (uint32_t i = 0; i < n; i++) {
        count[i] = operand(e->g, loss[i], 1);
        if (guard) count[i] = operand(e->g, count[i], inner);
    }
    Value total = sum_of(e, n, count);
    if (guard) total = b_ew2(e->g, OP_maximum, total, operand(e->g, first, 1 - inner));
    Value *part = arena_array(e->a, Value, n);
    for (uint32_t i = 0; i < n; i++)
        part[i] = b_ew2(e->g, OP_div, operand(e->g, loss[i], 0), total);
    return sum_of(e, n, part);
}

static Value average(Elab *e, uint32_t n, const Value *v) {
    Value sum = sum_of(e, n, v);
    return n == 1 ? sum : b_ew2(e->g, OP_mul, sum, b_like(e->g, 1.0 / n, sum));
}

static Value combine_loss(Elab *e, uint32_t n, const Value *loss) {
    const bool *depends = parameter_dependence(e);
    bool quotients = n > 1;
    for (uint32_t i = 0; i < n; i++) quotients = quotients && is_quotient(e, depends, loss[i]);
    return quotients ? combine_quotients(e, n, loss) : average(e, n, loss);
}

static Value join_results(Elab *e, uint32_t n, const Value *v) {
    const Type *t = type_of(e->g, v[0]);
    if (n == 1) return v[0];
    if (!t->rank) return dtype_is_float(t->dtype) ? average(e, n, v) : sum_of(e, n, v);
    AttrValue attr[] = {{.i = 0}};
    return graph_add(e->g, OP_concat, attr_intern(e->s, OP_concat, attr), n, v);
}

/* ---- outputs ---- */

static const char *result_name(Elab *e, const Body *b, uint32_t i) {
    const Arg *a = b->returned->args.head;
    if (i == 0 && type_of(e->g, b->result[0].v)->rank == 0) return "loss";
    if (b->returned->args.n != b->n) return arena_printf(e->a, "result_%u", i);
    for (uint32_t k = 0; k < i; k++) a = a->next;
    bool named = a->value->kind == E_NAME && strcmp(a->value->name, "loss") != 0;
    for (const Arg *c = b->returned->args.head; named && c != a; c = c->next)
        named = c->value->name != a->value->name;
    return named ? a->value->name : arena_printf(e->a, "result_%u", i);
}

static void add_outputs(Elab *e, const Item *model, uint32_t n, const Body *body) {
    Value *v = arena_array(e->a, Value, n);
    push_frame(e, model, model->file, (Loc){0}, scope_new(e, "", ""));
    place_nodes(e, body->returned->loc);
    e->g->at.micro = -1;
    for (uint32_t r = 0; r < body->n; r++) {
        for (uint32_t i = 0; i < n; i++) v[i] = body[i].result[r].v;
        bool loss = r == 0 && e->training;
        Value out = loss ? combine_loss(e, n, v) : join_results(e, n, v);
        if (loss && body[0].aux != NO_VALUE) {
            for (uint32_t i = 0; i < n; i++) v[i] = body[i].aux;
            out = b_ew2(e->g, OP_add, out, average(e, n, v));
        }
        b_output(e->g, out, intern(e->s, result_name(e, body, r)));
    }
    pop_frame(e);
}

static bool write_out(Elab *e, const Item *model) {
    int64_t n = e->training ? e->g->set.micro_batches : 1;
    Val *inputs = arena_array(e->a, Val, model->params.n + 1);
    Body *body = arena_array(e->a, Body, n);
    if (!make_inputs(e, model, inputs)) return false;
    if (n > 1) {
        e->divided = batch_config(e, model);
        e->divisor = n;
        if (!e->divided)
            return fail(e, model->name_loc,
                        "num_micro_batch divides the config that names the first "
                        "dimension of the inputs, but none does");
        e->configs = map_new(e->a);
        if (!check_divisible(e, model, inputs)) return false;
    }
    for (int64_t i = 0; i < n; i++) {
        e->g->at.micro = n > 1 ? (int16_t)i : -1;
        if (!run_model(e, model, inputs, i, &body[i])) return false;
    }
    add_outputs(e, model, (uint32_t)n, body);
    e->divided = NULL;
    e->configs = map_new(e->a);
    return true;
}

/* ---- all of it ---- */

static bool prepare(Elab *e) {
    if (!define_files(e, e->file)) return false;
    for (uint32_t i = 0; i < e->opt->nset; i++)
        if (!read_override(e, e->opt->set[i])) return false;
    return check_configs(e);
}

void free_scopes(Elab *e) {
    for (uint32_t i = 0; i < e->scopes.n; i++) {
        vec_free(&e->scopes.p[i]->taken);
        vec_free(&e->scopes.p[i]->taken_at);
    }
    vec_free(&e->scopes);
}

Graph *elaborate(Session *s, File *f, const ElabOptions *options) {
    Elab *e = arena_new_of(session_arena(s), Elab);
    *e = (Elab){.s = s,
                .a = session_arena(s),
                .file = f,
                .opt = options,
                .step = NO_VALUE,
                .seed = NO_VALUE};
    e->max_work = options->max_work ? options->max_work : 30000000;
    e->params = e->files = e->configs = e->random_sites = e->reported = e->called = map_new(e->a);
    e->overrides = arena_array(e->a, const Arg *, options->nset + 1);
    push_frame(e, NULL, f, (Loc){0}, scope_new(e, "", ""));
    e->g = graph_new(s, intern(s, ""));
    settings_default(&e->g->set);
    e->g->at.scope = intern(s, "");
    e->g->at.micro = -1;
    const Item *model = prepare(e) ? find_model(e) : NULL;
    bool ok = model != NULL;
    if (ok) {
        e->g->name = model->name;
        e->training = !options->infer && is_trained(e, model);
        ok = read_settings(e, model) && write_out(e, model) && check_axes(e) && try_optimizer(e);
    }
    vec_free(&e->aux);
    free_scopes(e);
    if (ok) return e->g;
    graph_free(e->g);
    return NULL;
}
