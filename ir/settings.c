/* settings.c: the header lines of the text form: `setting KEY VALUE` and `note KIND "scope" …`.
 *
 * One table gives every plain setting its key, kind and place; a setting at its default is not
 * printed. The mesh is the one that is a list: "setting mesh data=512,expert=8". */
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

void settings_default(Settings *s) {
    memset(s, 0, sizeof *s);
    s->precision = DT_F32;
    s->groups = 1;
    s->micro_batches = 1;
    s->loss_scale_value = 65536;
    s->checkpoint = "none";
    s->offload = "none";
    s->num_communicators = 1;
    s->fp16_scale = 1;
}

typedef enum { KIND_BOOL, KIND_INT, KIND_FLOAT, KIND_DTYPE, KIND_STR, KIND_LOSS_SCALE } Kind;
#define ROW(field, kind)                                                                           \
    { #field, kind, offsetof(Settings, field) }
static const struct {
    const char *key;
    Kind kind;
    size_t at;
} rows[] = {
    ROW(train, KIND_BOOL),
    ROW(precision, KIND_DTYPE),
    ROW(clip, KIND_FLOAT),
    ROW(groups, KIND_INT),
    ROW(micro_batches, KIND_INT),
    ROW(loss_scale, KIND_LOSS_SCALE),
    ROW(loss_scale_value, KIND_FLOAT),
    ROW(tokens, KIND_INT),
    ROW(keep_grads, KIND_BOOL),
    ROW(memory, KIND_INT),
    ROW(host_memory, KIND_INT),
    ROW(disk, KIND_INT),
    ROW(cluster, KIND_STR),
    ROW(checkpoint, KIND_STR),
    ROW(offload, KIND_STR),
    ROW(num_communicators, KIND_INT),
    ROW(max_splits, KIND_INT),
    ROW(fp16, KIND_INT),
    ROW(fp16_scale, KIND_FLOAT),
};
static const char *const scale_names[] = {
    [LOSS_SCALE_NONE] = "none", [LOSS_SCALE_FIXED] = "fixed", [LOSS_SCALE_DYNAMIC] = "dynamic"};

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
    for (int i = 0; i < set->nmesh; i++)
        buf_printf(out, "%s%s=%lld", i ? "," : "setting mesh ", set->mesh[i].axis,
                   (long long)set->mesh[i].size);
    if (set->nmesh) buf_puts(out, "\n");
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
    for (uint32_t i = 0; i < g->note.n; i++) print_note(g, &g->note.p[i], out);
    buf_free(&usual);
    buf_free(&value);
}
