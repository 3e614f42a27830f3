/* load.c: from a path to a checked tree. Texts are checked to be UTF-8 without NUL bytes before the
 * lexer sees them; `use` loads every file once and reports cycles along their chain. */
#include <stdlib.h>
#include <string.h>
#include "frontend/frontend.h"
#include "frontend/syntax.h"
#include "parser.h"
#include "lexer.h"

/* ---- one text ---- */

/* Length of the UTF-8 character at p, 0 if it is not one (overlong, surrogate, cut off). */
static size_t utf8_length(const unsigned char *p, size_t n) {
    if (p[0] < 0x80) return 1;
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
               (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : len;
}

static bool check_text(Session *s, uint16_t file, const char *text, size_t n) {
    if (n > MAX_FILE) {
        diag_error(s, (Loc){file, 1, 1}, "this file is larger than 1 GiB");
        return false;
    }
    uint32_t line = 1;
    size_t start = 0;
    for (size_t i = 0; i < n;) {
        size_t len = text[i] ? utf8_length((const unsigned char *)text + i, n - i) : 0;
        if (!len) {
            Loc loc = {file, (uint16_t)MIN(i - start + 1, 65535u), line};
            if (text[i])
                diag_error(s, loc, "byte 0x%02x is not valid UTF-8; save the file as UTF-8",
                           (unsigned char)text[i]);
            else
                diag_error(s, loc, "a NUL byte: this is not a text file");
            return false;
        }
        if (text[i] == '\n') line++, start = i + 1;
        i += len;
    }
    return true;
}

File *frontend_parse(Session *s, const char *name, const char *text, size_t n) {
    Arena *a = session_arena(s);
    File *f = arena_new_of(a, File);
    bool marked = n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3); /* byte order mark of some editors */
    if (marked) text += 3, n -= 3;
    *f = (File){.name = intern(s, name), .path = intern(s, name), .n = n};
    f->text = arena_strdup(a, text, n);
    f->index = session_add_file(s, f->name, f->text, n);
    if (!check_text(s, f->index, f->text, n)) return NULL;
    Lexer *lx = arena_new_of(a, Lexer);
    *lx = (Lexer){
        .session = s, .arena = a, .file = f, .line = 1, .col = 1, .previous = -1, .held = -1};
    void *scanner;
    if (m6_lex_init_extra(lx, &scanner)) BUG("the scanner cannot start");
    m6__scan_bytes(f->text, (int)n, scanner);
    int rc = m6_parse(scanner, lx);
    m6_lex_destroy(scanner);
    return rc || lx->failed ? NULL : f;
}

/* ---- files and what they use ---- */

typedef struct Chain Chain;
struct Chain {
    const Chain *up;
    const char *path;
    Loc use; /* where this file is used; no location for the first */
};

typedef struct {
    Session *s;
    VEC(File *) files;
} Loader;

static const char *library_path = "<m6>";

static const char *absolute(Session *s, const char *path) {
    char *real = realpath(path, NULL);
    const char *name = intern(s, real ? real : path);
    free(real);
    return name;
}

/* "other.m6" as used in dir/model.m6 is dir/other.m6. */
static const char *beside(Session *s, const char *user, const char *name) {
    const char *slash = strrchr(user, '/');
    if (name[0] == '/' || !slash) return intern(s, name);
    return intern(s, arena_printf(session_arena(s), "%.*s/%s", (int)(slash - user), user, name));
}

static bool report_cycle(Session *s, const Chain *chain, const char *path, const Item *item) {
    for (const Chain *c = chain; c; c = c->up) {
        if (c->path != path) continue;
        diag_error(s, item->name_loc, "'%s' uses itself", item->name);
        for (const Chain *d = chain; d != c; d = d->up)
            diag_note(s, d->use, "on the way from here");
        return true;
    }
    return false;
}

static bool load_uses(Loader *l, File *f, const Chain *chain);

static File *remember(Loader *l, File *f, const char *path, const Chain *up, Loc use) {
    if (!f) return NULL;
    f->path = path;
    vec_push(&l->files, f);
    Chain chain = {up, path, use};
    return load_uses(l, f, &chain) ? f : NULL;
}

/* Reads the file shown as `name`; a failure is reported at `use`. */
static File *load_file(Loader *l, const char *name, const Chain *up, Loc use) {
    char *text;
    size_t n;
    const char *path = absolute(l->s, name);
    Status st = file_read(name, &text, &n);
    if (st) {
        diag_error(l->s, use, "%s", st->text);
        free(st);
        return NULL;
    }
    File *f = frontend_parse(l->s, name, text, n);
    free(text);
    return remember(l, f, path, up, use);
}

static File *load_use(Loader *l, const File *user, const Item *item, const Chain *chain) {
    bool library = !strcmp(item->name, "m6");
    const char *name = library ? "m6.m6" : beside(l->s, user->name, item->name);
    const char *path = library ? intern(l->s, library_path) : absolute(l->s, name);
    if (report_cycle(l->s, chain, path, item)) return NULL;
    for (uint32_t i = 0; i < l->files.n; i++)
        if (l->files.p[i]->path == path) return l->files.p[i];
    if (!library) return load_file(l, name, chain, item->name_loc);
    return remember(l, frontend_parse(l->s, name, m6_library, m6_library_size), path, chain,
                    item->name_loc);
}

static bool load_uses(Loader *l, File *f, const Chain *chain) {
    bool ok = true;
    for (Item *i = f->items.head; i; i = i->next) {
        if (i->kind != I_USE) continue;
        i->used = load_use(l, f, i, chain);
        ok = ok && i->used;
    }
    return ok;
}

File *frontend_load(Session *s, const char *path) {
    Loader l = {.s = s};
    File *f = load_file(&l, path, NULL, (Loc){0});
    vec_free(&l.files);
    return f;
}

File *frontend_load_text(Session *s, const char *name, const char *text, size_t n) {
    Loader l = {.s = s};
    File *f = remember(&l, frontend_parse(s, name, text, n), absolute(s, name), NULL, (Loc){0});
    vec_free(&l.files);
    return f;
}
