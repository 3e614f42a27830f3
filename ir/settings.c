/* settings.c: the header lines of the text form: `setting KEY VALUE` and `note KIND "scope" …`.
 *
 * One table gives every plain setting its key, kind and place; a setting at its default is not
 * printed. Lists are the mesh, "setting mesh data=512,tensor=8,expert=data", and behind it the
 * shares. */
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

void settings_default(Settings *s) {
    memset(s, 0, sizeof *s);
    s->precision = DT_F32;
    s->groups = 1;
    s->micro_batches = 1;
    s->loss_scale_value = 65536;
    s->checkpoint = "auto";
    s->offload = "auto";
    s->num_communicators = COMM_STREAMS;
    s->max_splits = 5;
    s->fp16_scale = 1;
    s->all_to_all = "auto";
}

typedef enum { KIND_BOOL, KIND_INT, KIND_FLOAT, KIND_DTYPE, KIND_STR, KIND_LOSS_SCALE } Kind;
#define ROW(field, kind, min)                                                                      \
    { #field, kind, offsetof(Settings, field), min }
static const struct {
    const char *key;
    Kind kind;
    size_t at;
    int64_t min; /* KIND_INT */
} rows[] = {
    ROW(train, KIND_BOOL, 0),
    ROW(precision, KIND_DTYPE, 0),
    ROW(clip, KIND_FLOAT, 0),
    ROW(groups, KIND_INT, 1),
    ROW(micro_batches, KIND_INT, 1),
    ROW(loss_scale, KIND_LOSS_SCALE, 0),
    ROW(loss_scale_value, KIND_FLOAT, 0),
    ROW(tokens, KIND_INT, 0),
    ROW(keep_grads, KIND_BOOL, 0),
    ROW(sharded, KIND_BOOL, 0),
    ROW(share, KIND_INT, 0),
    ROW(balanced, KIND_STR, 0),
    ROW(pipeline, KIND_STR, 0),
    ROW(stages, KIND_INT, 0),
    ROW(stage, KIND_INT, 0),
    ROW(zero, KIND_INT, 0),
    ROW(memory, KIND_INT, 0),
    ROW(host_memory, KIND_INT, 0),
    ROW(disk, KIND_INT, 0),
    ROW(cluster, KIND_STR, 0),
    ROW(checkpoint, KIND_STR, 0),
    ROW(offload, KIND_STR, 0),
    ROW(num_communicators, KIND_INT, 1),
    ROW(max_splits, KIND_INT, 0),
    ROW(fp16, KIND_INT, 0),
    ROW(fp16_scale, KIND_FLOAT, 0),
    ROW(all_to_all, KIND_STR, 0),
    ROW(all_to_all_chunks, KIND_INT, 0),
};
static const char *const scale_names[] = {
    [LOSS_SCALE_NONE] = "none", [LOSS_SCALE_FIXED] = "fixed", [LOSS_SCALE_DYNAMIC] = "dynamic"};

/* ---- values that are lists ---- */

bool exchange_parse(const char *text, Exchange *out) {
    static const char *const word[] = {
        [EXCHANGE_AUTO] = "auto", [EXCHANGE_FLAT] = "flat", [EXCHANGE_GROUPED] = "grouped"};
    *out = (Exchange){.kind = EXCHANGE_STATED};
    for (size_t i = 0; i < COUNT(word); i++)
        if (strcmp(text, word[i]) == 0) return out->kind = (ExchangeKind)i, true;
    for (int64_t before = 1;; text++) {
        char *end;
        long long part = *text >= '0' && *text <= '9' ? strtoll(text, &end, 10) : 0;
        if (part < 1 || part > INT32_MAX || part % before || out->nparts == EXCHANGE_PARTS)
            return false;
        out->part[out->nparts++] = before = part;
        text = end;
        if (*text != ',') return *text == 0;
    }
}

/* ---- printing ---- */

static void print_value(Kind kind, const void *p, Buf *out) {
    const char *text;
    switch (kind) {
    case KIND_BOOL: buf_puts(out, *(const bool *)p ? "yes" : "no"); break;
    case KIND_INT: buf_printf(out, "%lld", (long long)*(const int64_t *)p); break;
    case KIND_FLOAT: buf_double(out, *(const double *)p); break;
    case KIND_DTYPE: buf_puts(out, dtype_name(*(const Dtype *)p)); break;
    case KIND_LOSS_SCALE: buf_puts(out, scale_names[*(const LossScale *)p]); break;
    case KIND_STR:
        text = *(const char *const *)p;
        if (text) text_print_string(text, out);
        break;
    }
}

static void print_note(const Graph *g, const Annotation *a, Buf *out) {
    buf_printf(out, "note %s ", a->kind);
    text_print_string(a->scope, out);
    if (a->n) buf_printf(out, " n=%lld", (long long)a->n);
    if (a->name) {
        buf_puts(out, " name=");
        text_print_string(a->name, out);
    }
    if (a->loc.line) {
        buf_puts(out, " ; ");
        text_print_loc(g->session, a->loc, out);
    }
    buf_puts(out, "\n");
}

static void print_mesh(const Settings *set, Buf *out) {
    if (!set->nmesh) return;
    buf_puts(out, "setting mesh ");
    mesh_print(set, out);
    buf_puts(out, "\n");
}

static void print_shares(const Settings *set, Buf *out) {
    if (!set->shares.n) return;
    buf_puts(out, "setting shares ");
    shares_print(set->shares, out);
    buf_puts(out, "\n");
}

void graph_print_header(const Graph *g, Buf *out) {
    Settings plain;
    Buf usual = {0}, value = {0};
    settings_default(&plain);
    buf_puts(out, "graph ");
    text_print_word(g->name, out);
    buf_puts(out, "\n");
    for (size_t i = 0; i < COUNT(rows); i++) {
        usual.n = value.n = 0;
        buf_puts(&usual, ""), buf_puts(&value, "");
        print_value(rows[i].kind, (const char *)&plain + rows[i].at, &usual);
        print_value(rows[i].kind, (const char *)&g->set + rows[i].at, &value);
        if (strcmp(usual.p, value.p) != 0) buf_printf(out, "setting %s %s\n", rows[i].key, value.p);
    }
    print_mesh(&g->set, out);
    print_shares(&g->set, out);
    for (uint32_t i = 0; i < g->note.n; i++) print_note(g, &g->note.p[i], out);
    buf_free(&usual);
    buf_free(&value);
}

/* ---- parsing ---- */

/* One of `n` names, as its index. */
static bool parse_choice(Text *t, const char *const *names, size_t n, int *x) {
    const char *at = (text_at_end(t), t->p), *name = text_identifier(t, "a name");
    if (!name) return false;
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return *x = (int)i, true;
    return text_fail(t, at, "unknown value '%s'", name);
}

static bool parse_value(Text *t, Kind kind, int64_t min, void *p) {
    static const char *const no_yes[] = {"no", "yes"};
    static const char *const precisions[] = {
        [DT_F32] = "f32", [DT_BF16] = "bf16", [DT_F16] = "f16"};
    int choice = 0;
    switch (kind) {
    case KIND_INT: return text_int(t, min, INT64_MAX, p);
    case KIND_FLOAT: return text_float(t, p);
    case KIND_STR: return (*(const char **)p = text_string(t)) != NULL;
    case KIND_BOOL:
        if (!parse_choice(t, no_yes, COUNT(no_yes), &choice)) return false;
        *(bool *)p = choice;
        return true;
    case KIND_DTYPE:
        if (!parse_choice(t, precisions, COUNT(precisions), &choice)) return false;
        *(Dtype *)p = (Dtype)choice;
        return true;
    case KIND_LOSS_SCALE:
        if (!parse_choice(t, scale_names, COUNT(scale_names), &choice)) return false;
        *(LossScale *)p = (LossScale)choice;
        return true;
    }
    BUG("no such kind of setting");
}

/* A size, or an earlier axis that has devices of its own. */
static bool parse_axis(Text *t, Settings *set) {
    const char *same, *axis = text_identifier(t, "a mesh axis");
    int64_t size = 0;
    if (!axis || !text_expect(t, "=")) return false;
    text_at_end(t); /* skips blanks */
    const char *at = t->p;
    bool number = at < t->end && *at >= '0' && *at <= '9';
    if (number ? !text_int(t, 1, INT32_MAX, &size) : !(same = text_identifier(t, "an axis")))
        return false;
    int n = set->nmesh++;
    set->mesh[n].axis = axis, set->mesh[n].size = size, set->mesh[n].same = NULL;
    for (int i = 0; !number && i < n; i++)
        if (set->mesh[i].axis == same && !set->mesh[i].same)
            set->mesh[n].same = same, set->mesh[n].size = set->mesh[i].size;
    return number || set->mesh[n].same || text_fail(t, at, "no earlier axis is called '%s'", same);
}

static bool parse_mesh(Text *t, Settings *set) {
    if (set->nmesh) return text_fail(t, t->p, "the mesh was given before");
    do {
        if (set->nmesh == MAX_RANK) return text_fail(t, t->p, "more than %d mesh axes", MAX_RANK);
        if (!parse_axis(t, set)) return false;
    } while (text_accept(t, ","));
    return true;
}

/* Behind the mesh: as many as its axis "data" has ranks. */
static bool parse_shares(Text *t, Settings *set) {
    MeshGroup m;
    const char *at = (text_at_end(t), t->p);
    if (set->shares.n) return text_fail(t, at, "the shares were given before");
    if (!mesh_axis(set, MESH_DATA) || !mesh_group(set, MESH_DATA, &m))
        return text_fail(t, at, "the mesh has no axis 'data' of several ranks");
    int64_t *v = arena_array(session_arena(t->session), int64_t, m.n);
    for (int64_t i = 0; i < m.n; i++)
        if ((i && !text_expect(t, ",")) || !text_int(t, 1, INT32_MAX, &v[i])) return false;
    set->shares = (Shares){m.n, v};
    return true;
}

bool text_parse_setting(Text *t, Graph *g) {
    const char *at = (text_at_end(t), t->p), *key = text_identifier(t, "a setting");
    if (!key) return false;
    if (strcmp(key, "mesh") == 0) return parse_mesh(t, &g->set) && text_expect_end(t);
    if (strcmp(key, "shares") == 0) return parse_shares(t, &g->set) && text_expect_end(t);
    for (size_t i = 0; i < COUNT(rows); i++)
        if (strcmp(key, rows[i].key) == 0)
            return parse_value(t, rows[i].kind, rows[i].min, (char *)&g->set + rows[i].at) &&
                   text_expect_end(t);
    return text_fail(t, at, "unknown setting '%s'", key);
}

bool text_parse_note(Text *t, Graph *g) {
    Annotation a = {0};
    if (!(a.kind = text_identifier(t, "a kind of note")) || !(a.scope = text_string(t)))
        return false;
    if (text_accept(t, "n=") && !text_int(t, 1, INT64_MAX, &a.n)) return false;
    if (text_accept(t, "name=") && !(a.name = text_string(t))) return false;
    if (text_accept(t, ";") && !text_loc(t, &a.loc)) return false;
    if (!text_expect_end(t)) return false;
    vec_push(&g->note, a);
    return true;
}
