/* syntax_error.c: the parser's complaint in the user's terms: one sentence that says what was
 * expected and what stood there. */
#include <string.h>
#include "frontend/syntax.h"
#include "parser.h"

/* Tokens that begin one thing are named together by what they begin. The group applies when its
 * `sign` is among the expected tokens. */
static const struct {
    const char *sign, *text;
    const char *members[16];
} groups[] = {
    {"'use'",
     "'use', 'config', 'layer', 'optimizer', 'model', 'train' or 'place'",
     {"'use'", "'config'", "'layer'", "'optimizer'", "'model'", "'train'", "'place'",
      "the end of the file", "the end of the line"}},
    {"'return'",
     "a statement",
     {"'return'", "'param'", "'state'", "'repeat'", "'if'", "'aux'", "'replicate'", "'split'",
      "'stage'", "'checkpoint'", "'keep'", "'offload'", "a name", "the end of the line"}},
    {"a number",
     "an expression",
     {"a number", "a text in quotes", "a name", "'('", "'['", "'-'", "'not'", "'checkpoint'",
      "'keep'", "'offload'", "'optimizer'", "'replicate'", "'split'", "'stage'", "'state'"}},
};
/* What may always follow an expression is only worth naming when nothing else is. */
static const char *const operator_names[] = {
    "'and'", "'or'", "'<'", "'<='", "'>'", "'>='", "'=='", "'!='", "'+'",
    "'-'",   "'*'",  "'/'", "'@'",  "'['", "'as'", "'('",  NULL,
};

static bool among(const char *const *names, size_t n, const char *name) {
    for (size_t i = 0; i < n && names[i]; i++)
        if (!strcmp(names[i], name)) return true;
    return false;
}

/* Replaces the members of each group by its text. Returns how many alternatives are left. */
static int simplify(const char *const *expected, int n, const char **out) {
    const char *left[64];
    int m = 0, k = 0;
    for (int i = 0; i < n && m < 64; i++) left[m++] = expected[i];
    for (size_t g = 0; g < COUNT(groups); g++) {
        if (!among(left, (size_t)m, groups[g].sign)) continue;
        out[k++] = groups[g].text;
        int rest = 0;
        for (int i = 0; i < m; i++)
            if (!among(groups[g].members, COUNT(groups[g].members), left[i]))
                left[rest++] = left[i];
        m = rest;
    }
    int first = k;
    for (int i = 0; i < m; i++)
        if (!among(operator_names, COUNT(operator_names), left[i])) out[k++] = left[i];
    if (k == first && !k)
        for (int i = 0; i < m; i++) out[k++] = left[i];
    return k;
}

/* Brackets come last, because their text is long. */
static void closers_last(const char **names, int n) {
    const char *closers[3];
    int k = 0, m = 0;
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], "')'") && strcmp(names[i], "']'") && strcmp(names[i], "'}'"))
            names[k++] = names[i];
        else
            closers[m++] = names[i];
    for (int i = 0; i < m; i++) names[k++] = closers[i];
}

/* The bracket that the expected `closer` would close, or NULL. */
static const Bracket *opener(const Lexer *lx, const char *closer) {
    char open = !strcmp(closer, "')'") ? '(' : !strcmp(closer, "']'") ? '[' : '{';
    if (strcmp(closer, "')'") && strcmp(closer, "']'") && strcmp(closer, "'}'")) return NULL;
    if (lx->unclosed.kind == open) return &lx->unclosed;
    for (int i = lx->depth; i-- > 0;)
        if (lx->open[i].kind == open) return &lx->open[i];
    return NULL;
}

static void put_expected(const Lexer *lx, Buf *b, const char *name, const char *found) {
    const Bracket *o = opener(lx, name);
    bool here = o && strcmp(found, "the end of the line") != 0;
    if (here)
        buf_printf(b, "a %s to close the '%c' opened at %u:%u", name, o->kind, o->loc.line,
                   o->loc.col);
    else
        buf_puts(b, name);
}

static void put_found(const Lexer *lx, Buf *b, const char *found) {
    bool end = lx->previous == END || (lx->previous == SEP && lx->held == END);
    if (end)
        buf_puts(b, "the file ends");
    else if (lx->previous == SEP)
        buf_puts(b, lx->held == '}' ? "found '}'" : "found the end of the line");
    else if (lx->token_n <= 40)
        buf_printf(b, "found %s'%.*s'", lx->previous == STRING ? "the text " : "", (int)lx->token_n,
                   lx->token);
    else
        buf_printf(b, "found %s", found);
}

static bool is_keyword(int token) { return token >= AND && token <= USE; }

/* "state = 3", "else" on a line of its own: mistakes that deserve a sentence of their own. */
static bool special_case(Lexer *lx, Loc loc, const char *const *expected, int n) {
    if (lx->previous == ELSE && among(expected, (size_t)n, "'return'")) {
        syntax_complain(lx, loc, "'else' must stand on the same line as the '}' before it");
        return true;
    }
    if (lx->previous != '=' || !is_keyword(lx->before)) return false;
    syntax_complain(lx, loc,
                    arena_printf(lx->arena, "'%.*s' is a word of the language and cannot be a name",
                                 (int)lx->before_n, lx->before_token));
    return true;
}

/* The same for a word of the language where a name was wanted. */
static bool keyword_as_name(Lexer *lx, Loc loc, const char *const *expected, int n) {
    if (!is_keyword(lx->previous) || !among(expected, (size_t)n, "a name") ||
        among(expected, (size_t)n, "'return'"))
        return false;
    syntax_complain(lx, loc,
                    arena_printf(lx->arena, "'%.*s' is a word of the language and cannot be a name",
                                 (int)lx->token_n, lx->token));
    return true;
}

void syntax_error(Lexer *lx, Loc loc, const char *found, const char *const *expected, int n) {
    if (!special_case(lx, loc, expected, n) && !keyword_as_name(lx, loc, expected, n)) {
        const char *names[64];
        int k = simplify(expected, n, names);
        closers_last(names, k);
        Buf b = {0};
        buf_puts(&b, "expected ");
        for (int i = 0; i < k; i++) {
            buf_puts(&b, i == 0 ? "" : i + 1 < k ? ", " : " or ");
            put_expected(lx, &b, names[i], found);
        }
        buf_puts(&b, ", but ");
        put_found(lx, &b, found);
        syntax_complain(lx, loc, b.p);
        buf_free(&b);
    }
    syntax_recover(lx);
}
