/* elab_settings.c: `train` and `place` into the graph's Settings, one table row per key, and what
 * this compiler has to refuse among them. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/value.h"

/* Axes that `split` may name without a mesh that has them; they have size 1 then. */
const char *const mesh_axes[4] = {MESH_DATA, MESH_EXPERT, MESH_TENSOR, MESH_PIPELINE};

typedef enum {
    K_WHOLE, /* from 1 */
    K_COUNT, /* from 0 */
    K_FLAG,  /* 0 or 1 */
    K_NUMBER,
    K_BYTES,
    K_DTYPE,
    K_TEXT,
    K_SCOPES, /* a word, a text or a list of texts */
    K_EXCHANGE,
    K_LOSS_SCALE,
    K_MESH,
    K_SHARES,
    K_OPTIMIZER /* read by elab_optimizer.c */
} Kind;

typedef struct {
    const char *key;
    Kind kind;
    size_t at; /* in Settings */
} Row;

#define AT(field) offsetof(Settings, field)
static const Row train_rows[] = {
    {"optimizer", K_OPTIMIZER, 0},
    {"precision", K_DTYPE, AT(precision)},
    {"clip", K_NUMBER, AT(clip)},
    {"groups", K_WHOLE, AT(groups)},
    {"num_apply_group", K_WHOLE, AT(groups)},
    {"num_micro_batch", K_WHOLE, AT(micro_batches)},
    {"loss_scale", K_LOSS_SCALE, 0},
    {"tokens", K_COUNT, AT(tokens)},
};
static const Row place_rows[] = {
    {"cluster", K_TEXT, AT(cluster)},
    {"mesh", K_MESH, 0},
    {"shares", K_SHARES, 0},
    {"memory", K_BYTES, AT(memory)},
    {"host_memory", K_BYTES, AT(host_memory)},
    {"disk", K_BYTES, AT(disk)},
    {"checkpoint", K_SCOPES, AT(checkpoint)},
    {"offload", K_SCOPES, AT(offload)},
    {"num_communicators", K_WHOLE, AT(num_communicators)},
    {"max_splits", K_COUNT, AT(max_splits)},
    {"fp16", K_FLAG, AT(fp16)},
    {"fp16_scale", K_NUMBER, AT(fp16_scale)},
    {"all_to_all", K_EXCHANGE, AT(all_to_all)},
    {"all_to_all_chunks", K_COUNT, AT(all_to_all_chunks)},
    {"zero", K_FLAG, AT(zero)},
    {"pipeline", K_TEXT, AT(pipeline)},
};

/* ---- values ---- */

static bool set_whole(Elab *e, const Row *r, const Val *v, Loc loc, int64_t *out) {
    int64_t least = r->kind == K_WHOLE, n;
    const char *what = arena_printf(e->a, "'%s'", r->key);
    if (v->unit != U_NONE && v->kind != V_BOOL)
        return fail(e, loc, "%s takes a plain number, without a unit", what);
    if (v->kind == V_BOOL)
        n = v->b;
    else if (!want_int(e, v, loc, what, &n))
        return false;
    if (r->kind == K_FLAG && (n < 0 || n > 1))
        return fail(e, loc, "%s is 0 or 1, not %lld", what, (long long)n);
    if (n < least || n > INT32_MAX)
        return fail(e, loc, "%s must be at least %lld, but is %lld", what, (long long)least,
                    (long long)n);
    *out = n;
    return true;
}

static bool set_number(Elab *e, const Row *r, const Val *v, Loc loc, double *out) {
    if (!is_number(v) || v->unit != U_NONE)
        return fail(e, loc, "'%s' takes a plain number, but got %s", r->key,
                    is_number(v) ? "one with a unit" : describe(e, v));
    if (number_of(v) < 0) return fail(e, loc, "'%s' cannot be negative", r->key);
    *out = number_of(v);
    return true;
}

static bool set_bytes(Elab *e, const Row *r, const Val *v, Loc loc, int64_t *out) {
    if (!is_number(v) || v->unit != U_BYTES)
        return fail(e, loc, "'%s' takes a size with its unit, as in 32GB or 512MiB", r->key);
    if (number_of(v) < 1) return fail(e, loc, "'%s' must be at least one byte", r->key);
    return want_int(e, v, loc, "a size", out);
}

static bool set_dtype(Elab *e, const Row *r, const Val *v, Loc loc, Dtype *out) {
    bool ok = v->kind == V_DTYPE && (v->dtype == DT_F32 || dtype_is_half(v->dtype));
    if (!ok) return fail(e, loc, "'%s' is f32, bf16 or f16, not %s", r->key, describe(e, v));
    *out = v->dtype;
    return true;
}

static bool set_text(Elab *e, const Row *r, const Val *v, Loc loc, const char **out) {
    if (v->kind != V_TEXT)
        return fail(e, loc, "'%s' takes a text in quotes, but got %s", r->key, describe(e, v));
    *out = v->s;
    return true;
}

static bool set_scopes(Elab *e, const Row *r, const Val *v, Loc loc, const char **out) {
    if (v->kind == V_WORD || v->kind == V_TEXT) return *out = v->s, true;
    Buf b = {0};
    bool ok = v->kind == V_LIST;
    for (uint32_t i = 0; ok && i < v->n; i++) {
        ok = v->p[i].kind == V_TEXT;
        if (ok) buf_printf(&b, "%s%s", i ? "," : "", v->p[i].s);
    }
    *out = intern(e->s, b.p ? b.p : "none");
    buf_free(&b);
    return ok ||
           fail(e, loc, "'%s' is none, auto, all, or a list of scopes such as [\"block[0].ffn\"]",
                r->key);
}

/* A word, or numbers of neighbours: 8, "2,8". */
static bool set_exchange(Elab *e, const Row *r, const Val *v, Loc loc, const char **out) {
    Exchange parts;
    const char *text = v->kind == V_WORD || v->kind == V_TEXT ? v->s : "";
    if (v->kind == V_INT && v->unit == U_NONE)
        text = intern(e->s, arena_printf(e->a, "%lld", (long long)v->i));
    if (exchange_parse(text, &parts)) return *out = text, true;
    return fail(e, loc,
                "'%s' is auto, \"flat\", \"grouped\", a number of neighbours, or several such as "
                "\"2,8\", each a multiple of the one before",
                r->key);
}

static bool set_loss_scale(Elab *e, const Expr *x) {
    Settings *set = &e->g->set;
    Val v;
    if (x->kind == E_NAME && !strcmp(x->name, "dynamic")) {
        set->loss_scale = LOSS_SCALE_DYNAMIC;
        return true;
    }
    if (!eval(e, x, &v)) return false;
    if (v.kind == V_WORD && !strcmp(v.s, "none")) return set->loss_scale = LOSS_SCALE_NONE, true;
    if (!is_number(&v) || number_of(&v) <= 0)
        return fail(e, x->loc, "'loss_scale' is none, dynamic or a positive number, not %s",
                    describe(e, &v));
    set->loss_scale = LOSS_SCALE_FIXED;
    set->loss_scale_value = number_of(&v);
    return true;
}

/* ---- the mesh: axis = size, or axis = another axis over the same devices ---- */

enum { MOST_RANKS = 1 << 20 };

/* Nothing has this name: most likely an axis is meant. */
static bool no_size(Elab *e, const Arg *a) {
    const Settings *set = &e->g->set;
    Words words = {0};
    for (int i = 0; i < set->nmesh; i++) vec_push(&words, set->mesh[i].axis);
    add_definitions(e, e->file, false, &words);
    const char *near = suggestion(e, a->value->name, &words);
    vec_free(&words);
    return fail(e, a->value->loc,
                "the size of mesh axis '%s' is a number, a config or an axis before it, not '%s'%s",
                a->name, a->value->name, near);
}

static bool mesh_size(Elab *e, const Arg *a, int64_t *size, const char **same) {
    const Settings *set = &e->g->set;
    *same = NULL;
    for (int i = 0; i < set->nmesh; i++)
        if (a->value->kind == E_NAME && set->mesh[i].axis == a->value->name) {
            *same = set->mesh[i].same ? set->mesh[i].same : set->mesh[i].axis;
            return *size = set->mesh[i].size, true;
        }
    if (a->value->kind == E_NAME && !find_definition(e, e->file, a->value->name))
        return no_size(e, a);
    Val v;
    if (!eval(e, a->value, &v)) return false;
    const char *what = arena_printf(e->a, "the size of mesh axis '%s'", a->name);
    if (!want_int(e, &v, a->value->loc, what, size)) return false;
    if (*size >= 1 && *size <= 65536) return true;
    return fail(e, a->value->loc, "%s must be from 1 to 65536, not %lld", what, (long long)*size);
}

static bool set_mesh(Elab *e, const Entry *t) {
    Settings *set = &e->g->set;
    set->nmesh = 0;
    for (const Arg *a = t->args.head; a; a = a->next) {
        if (!a->name) return fail(e, a->loc, "a mesh is written 'mesh data = 4, expert = data'");
        for (int i = 0; i < set->nmesh; i++)
            if (set->mesh[i].axis == a->name)
                return fail(e, a->loc, "mesh axis '%s' is given twice", a->name);
        if (set->nmesh == MAX_RANK) return fail(e, a->loc, "a mesh has at most %d axes", MAX_RANK);
        int64_t size;
        const char *same;
        if (!mesh_size(e, a, &size, &same)) return false;
        e->mesh_loc[set->nmesh] = a->loc;
        set->mesh[set->nmesh].axis = a->name;
        set->mesh[set->nmesh].same = same;
        set->mesh[set->nmesh++].size = size;
        if (mesh_ranks(set) > MOST_RANKS)
            return fail(e, a->loc, "a mesh of %lld ranks: at most %d are possible",
                        (long long)mesh_ranks(set), MOST_RANKS);
    }
    return true;
}

static bool is_known_axis(Elab *e, const char *axis) {
    for (size_t i = 0; i < COUNT(mesh_axes); i++)
        if (!strcmp(mesh_axes[i], axis)) return true;
    for (Value v = 0; v < e->g->node.n; v++) {
        const Spec *spec = node_of(e->g, v)->spec;
        for (int k = 0; spec && k < spec->rank; k++)
            if (spec->axis[k] == axis) return true;
    }
    return false;
}

bool check_axes(Elab *e) {
    const Settings *set = &e->g->set;
    bool ok = true;
    Words words = {0};
    for (size_t i = 0; i < COUNT(mesh_axes); i++) vec_push(&words, mesh_axes[i]);
    for (int i = 0; i < set->nmesh; i++) {
        const char *axis = set->mesh[i].axis, *near = suggestion(e, axis, &words);
        if (is_known_axis(e, axis)) continue;
        ok = fail(e, e->mesh_loc[i],
                  "unknown mesh axis '%s': there are data, tensor, expert and pipeline, and those "
                  "that a 'split' of the model names%s",
                  axis, near);
    }
    vec_free(&words);
    return ok;
}

/* ---- shares of the data axis ---- */

static bool set_shares(Elab *e, const Val *list, Loc loc) {
    if (list->kind != V_LIST)
        return fail(e, loc, "'shares' is a list, as in [5, 3], not %s", describe(e, list));
    int64_t *v = arena_array(e->a, int64_t, list->n);
    for (uint32_t i = 0; i < list->n; i++) {
        if (list->p[i].unit != U_NONE) return fail(e, loc, "shares are numbers without a unit");
        if (!want_int(e, &list->p[i], loc, "a share", &v[i])) return false;
        if (v[i] < 1 || v[i] > MOST_RANKS)
            return fail(e, loc, "a share must be from 1 to %d, not %lld", MOST_RANKS,
                        (long long)v[i]);
    }
    e->shares_loc = loc;
    e->nshares = list->n;
    e->g->set.shares = shares_reduced(list->n, v);
    e->g->set.balanced = e->g->set.shares.n ? NULL : intern(e->s, "stated equal");
    return true;
}

/* Once the mesh is known. */
static bool check_shares(Elab *e) {
    const Settings *set = &e->g->set;
    MeshGroup m = {.n = 1};
    const char *why = set->shares.n ? mesh_shares_refused(set) : NULL;
    mesh_group(set, MESH_DATA, &m);
    if (e->nshares && e->nshares != m.n)
        return fail(e, e->shares_loc, "%lld shares for the %lld rank%s of mesh axis 'data'",
                    (long long)e->nshares, (long long)m.n, m.n == 1 ? "" : "s");
    return !why || fail(e, e->shares_loc, "%s", why);
}

/* ---- entries ---- */

static bool set_value(Elab *e, const Row *r, const Expr *x) {
    void *to = (char *)&e->g->set + r->at;
    Val v;
    if (r->kind == K_LOSS_SCALE) return set_loss_scale(e, x);
    if (r->kind == K_OPTIMIZER) return true;
    if (!eval(e, x, &v)) return false;
    switch (r->kind) {
    case K_WHOLE:
    case K_COUNT:
    case K_FLAG: return set_whole(e, r, &v, x->loc, to);
    case K_NUMBER: return set_number(e, r, &v, x->loc, to);
    case K_BYTES: return set_bytes(e, r, &v, x->loc, to);
    case K_DTYPE: return set_dtype(e, r, &v, x->loc, to);
    case K_TEXT: return set_text(e, r, &v, x->loc, to);
    case K_EXCHANGE: return set_exchange(e, r, &v, x->loc, to);
    case K_SHARES: return set_shares(e, &v, x->loc);
    default: return set_scopes(e, r, &v, x->loc, to);
    }
}

static bool unknown_key(Elab *e, const Entry *t, const char *where, const Row *rows, size_t n) {
    Words words = {0};
    for (size_t i = 0; i < n; i++) vec_push(&words, rows[i].key);
    const char *near = suggestion(e, t->key, &words);
    vec_free(&words);
    return fail(e, t->loc, "'%s' has no setting '%s'%s", where, t->key, near);
}

static bool read_entry(Elab *e, const Entry *t, const char *where, const Row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(rows[i].key, t->key)) continue;
        if (rows[i].kind == K_MESH) return set_mesh(e, t);
        const Arg *a = t->args.head;
        if (a->name || a->next)
            return fail(e, a->name ? a->loc : a->next->loc, "'%s' takes one value", t->key);
        return set_value(e, &rows[i], a->value);
    }
    return unknown_key(e, t, where, rows, n);
}

/* `key` may stand once; the other spelling of groups counts as the same. */
static bool check_twice(Elab *e, const EntryList *l) {
    bool ok = true;
    for (const Entry *t = l->head; t; t = t->next)
        for (const Entry *u = l->head; u != t; u = u->next)
            if (u->key == t->key) {
                fail(e, t->loc, "'%s' is set twice", t->key);
                note(e, u->loc, "the first one is here");
                ok = false;
                break;
            }
    return ok;
}

static bool read_entries(Elab *e, const Item *item) {
    bool train = item->kind == I_TRAIN, ok = check_twice(e, &item->entries);
    const char *where = train ? "train" : "place";
    const Row *rows = train ? train_rows : place_rows;
    size_t n = train ? COUNT(train_rows) : COUNT(place_rows);
    for (const Entry *t = item->entries.head; t; t = t->next)
        ok = read_entry(e, t, where, rows, n) && ok;
    return ok;
}

/* ---- blocks ---- */

static bool second_block(Elab *e, const Item *i, const Item *first, const char *what) {
    fail(e, i->loc, "there is already a '%s'%s", what, i->kind == I_TRAIN ? " for this model" : "");
    note(e, first->loc, "the first one is here");
    return false;
}

static bool check_train_name(Elab *e, const Item *train) {
    const Def *d = find_definition(e, e->file, train->name);
    if (d && d->item->kind == I_MODEL) return true;
    Words words = {0};
    for (const Item *i = e->file->items.head; i; i = i->next)
        if (i->kind == I_MODEL) vec_push(&words, i->name);
    const char *near = suggestion(e, train->name, &words);
    vec_free(&words);
    return fail(e, train->name_loc, "there is no model '%s' to train%s", train->name, near);
}

/* Settings of the command line, as text of a block. */
static bool read_options(Elab *e, const char *block, const char *model, const char *entries) {
    if (!entries) return true;
    const char *text = arena_printf(e->a, "%s %s {\n%s\n}", block, model, entries);
    File *f = frontend_parse(e->s, arena_printf(e->a, "%s options", block), text, strlen(text));
    return f && f->items.n == 1 && read_entries(e, f->items.head);
}

static bool has_entry(const Item *item, const char *key) {
    for (const Entry *t = item->entries.head; t; t = t->next)
        if (!strcmp(t->key, key)) return true;
    return false;
}

static bool check_optimizer(Elab *e, const Item *train) {
    if (has_entry(train, "optimizer")) return true;
    return fail(e, train->loc, "'train' needs an optimizer, as in 'optimizer = adamw(lr = 1e-3)'");
}

bool read_settings(Elab *e, const Item *model) {
    const Item *train = NULL, *place = NULL;
    bool ok = true;
    e->g->set.train = e->training;
    for (const Item *i = e->file->items.head; i; i = i->next) {
        if (i->kind == I_PLACE) {
            ok = (place ? second_block(e, i, place, "place") : read_entries(e, i)) && ok;
            place = i;
        }
        if (i->kind != I_TRAIN) continue;
        ok = check_train_name(e, i) && ok;
        if (i->name != model->name) continue;
        ok = (train ? second_block(e, i, train, "train")
                    : check_optimizer(e, i) && read_entries(e, i)) &&
             ok;
        train = i;
    }
    Settings *set = &e->g->set;
    if (train && set->precision == DT_F16 && set->loss_scale == LOSS_SCALE_NONE &&
        !has_entry(train, "loss_scale"))
        set->loss_scale = LOSS_SCALE_DYNAMIC;
    if (e->training) ok = read_options(e, "train", model->name, e->opt->train) && ok;
    return read_options(e, "place", "", e->opt->place) && ok && check_shares(e);
}

/* ---- what is refused ---- */

static Loc entry_loc(const File *f, const char *key) {
    for (const Item *i = f->items.head; i; i = i->next)
        if (i->kind == I_PLACE)
            for (const Entry *t = i->entries.head; t; t = t->next)
                if (!strcmp(t->key, key)) return t->loc;
    return (Loc){0};
}

/* replicate(n) and split(n) say of how many ranks; the mesh says the same. On one rank they say
 * nothing. */
static bool check_annotations(Session *s, const Graph *g) {
    int64_t all = mesh_scope_ranks(&g->set, true), replicas = mesh_scope_ranks(&g->set, false);
    bool ok = true;
    for (uint32_t i = 0; i < g->note.n; i++) {
        const Annotation *n = &g->note.p[i];
        bool split = strcmp(n->kind, "split") == 0;
        if (n->n == 0 || all == 1 || !(split || strcmp(n->kind, "replicate") == 0)) continue;
        if (split ? n->n == all / replicas : n->n == all || n->n == replicas) continue;
        ok = false;
        if (split)
            diag_error(s, n->loc, "split(%lld): the mesh has a tensor axis of %lld",
                       (long long)n->n, (long long)(all / replicas));
        else
            diag_error(s, n->loc,
                       "replicate(%lld): a stage of the mesh has %lld ranks, %lld without its "
                       "tensor axis",
                       (long long)n->n, (long long)all, (long long)replicas);
    }
    return ok;
}

static bool is_scope(const Graph *g, const char *w, size_t n) {
    for (Value v = 0; v < g->node.n; v++) {
        const Node *node = node_of(g, v);
        if (scope_covers(w, n, node->scope)) return true;
        if (node->op == OP_param && scope_covers(w, n, attr_str(node, "name"))) return true;
    }
    return false;
}

/* A list of scopes names layers or parameters of the model. */
static bool check_scopes(Session *s, const File *f, const Graph *g, const char *key,
                         const char *list) {
    static const char *const words[] = {"none", "auto", "all", "sqrt", "optimizer", "epl"};
    bool ok = true;
    for (size_t i = 0; i < COUNT(words); i++)
        if (!strcmp(list, words[i])) return true;
    for (const char *w = list; *w;) {
        size_t n = strcspn(w, ",");
        if (n && !is_scope(g, w, n)) {
            diag_error(s, entry_loc(f, key), "'%s': the model has no scope '%.*s'", key, (int)n, w);
            ok = false;
        }
        w += n + (w[n] == ',');
    }
    return ok;
}

bool check_capabilities(Session *s, const File *f, const Graph *g) {
    const Settings *set = &g->set;
    bool ok = check_annotations(s, g);
    ok = check_scopes(s, f, g, "checkpoint", set->checkpoint) && ok;
    ok = check_scopes(s, f, g, "offload", set->offload) && ok;
    if (set->num_communicators > COMM_STREAMS) {
        diag_error(s, entry_loc(f, "num_communicators"), "at most %d communicators are possible",
                   COMM_STREAMS);
        ok = false;
    }
    return ok;
}
