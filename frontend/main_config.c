/* main_config.c: the configs of a model's text, for commands that vary them. */
#include "frontend/main_config.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"

/* The model's file, in a session of its own; what is wrong with it is said by who compiles it. */
static File *load_quietly(Session *s, Buf *said, const char *path) {
    diag_capture(s, said);
    return frontend_load(s, path);
}

static const Number *whole_number(const Arg *config) {
    const Expr *x = config->value;
    return x && x->kind == E_NUMBER && x->number.whole ? &x->number : NULL;
}

static bool value_in_file(const File *f, const char *name, int64_t *value) {
    for (const Item *i = f->items.head; i; i = i->next)
        for (const Arg *c = i->kind == I_CONFIG ? i->configs.head : NULL; c; c = c->next)
            if (c->name && !strcmp(c->name, name) && whole_number(c))
                return *value = whole_number(c)->i, true;
    return false;
}

bool config_whole(const char *path, const TextList *set, const char *name, int64_t *value) {
    size_t n = strlen(name);
    for (uint32_t i = set->n; i-- > 0;)
        if (!strncmp(set->p[i], name, n) && set->p[i][n] == '=')
            return parse_i64(set->p[i] + n + 1, strlen(set->p[i] + n + 1), value);
    Session *s = session_new();
    Buf said = {0};
    File *f = load_quietly(s, &said, path);
    bool found = f && value_in_file(f, name, value);
    session_free(s);
    buf_free(&said);
    return found;
}

const char *config_names(Arena *a, const char *path) {
    Session *s = session_new();
    Buf said = {0}, names = {0};
    File *f = load_quietly(s, &said, path);
    for (const Item *i = f ? f->items.head : NULL; i; i = i->next)
        for (const Arg *c = i->kind == I_CONFIG ? i->configs.head : NULL; c; c = c->next)
            if (c->name && whole_number(c))
                buf_printf(&names, "%s%s", names.n ? ", " : "", c->name);
    const char *text = arena_strdup(a, names.p ? names.p : "", names.n);
    session_free(s);
    buf_free(&said);
    buf_free(&names);
    return text;
}
