/* tokens.c: between lexer.l and parser.y. Brackets, separators, recovery after errors, and the
 * values of numbers, texts and names.
 *
 * Recovery: after an error, next_token leaves out everything up to the end of the statement, whole
 * blocks in braces included, so that one mistake is one message. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "frontend/syntax.h"
#include "parser.h"
#include "lexer.h"

enum { NOTHING = -1 };

/* ---- separators and recovery ---- */

/* Reads on to the end of the statement in which the error was. */
static int skip_statement(Lexer *lx, YYSTYPE *value, Span *span, void *scanner) {
    for (;;) {
        int t = m6_lex(value, span, scanner);
        if (t == END || (t == SEP && lx->braces <= lx->panic_braces) ||
            (t == '}' && lx->braces < lx->panic_braces)) {
            lx->panic = false;
            return t;
        }
    }
}

static bool begins_line(int previous) {
    return previous == SEP || previous == '{' || previous == NOTHING;
}

static int read_token(Lexer *lx, YYSTYPE *value, Span *span, void *scanner) {
    if (lx->held != NOTHING) {
        *span = lx->held_span;
        if (lx->panic) { /* the separator that ends the recovery */
            lx->panic = false;
            return SEP;
        }
        int t = lx->held;
        lx->held = NOTHING;
        return t;
    }
    if (lx->stopped) return END;
    int t = lx->panic ? skip_statement(lx, value, span, scanner) : m6_lex(value, span, scanner);
    while (t == SEP && begins_line(lx->previous) && !lx->stopped) t = m6_lex(value, span, scanner);
    bool ends = (t == '}' && !lx->unclosed.kind) || (t == END && !lx->depth);
    if (!ends || begins_line(lx->previous)) return t;
    lx->held = t;
    lx->held_span = *span;
    return SEP;
}

int next_token(void *value, Span *span, void *scanner) {
    Lexer *lx = m6_get_extra(scanner);
    lx->before = lx->previous;
    lx->before_token = lx->token;
    lx->before_n = lx->token_n;
    return lx->previous = read_token(lx, value, span, scanner);
}

/* A '}' that came too early is given to the parser again after a separator. */
void syntax_recover(Lexer *lx) {
    lx->failed = true;
    if (lx->previous == '}' && lx->unclosed.kind) {
        lx->unclosed.kind = 0;
        lx->held = '}';
        lx->panic = true;
        lx->held_span = (Span){lx->unclosed.loc, lx->line};
        return;
    }
    if (lx->previous == SEP || lx->previous == '}' || lx->previous == END) return;
    lx->panic = true;
    lx->panic_braces = lx->braces - (lx->previous == '{');
    lx->previous = ','; /* so that the separator that ends the skipping is not joined to it */
    int n = 0;
    for (int i = 0; i < lx->depth; i++)
        if (lx->open[i].kind == '{') lx->open[n++] = lx->open[i];
    lx->depth = n;
}

void syntax_complain(Lexer *lx, Loc loc, const char *text) {
    if (lx->stopped) return;
    diag_error(lx->session, loc, "%s", text);
    lx->failed = true;
}

int lexer_error(Lexer *lx, Loc loc, const char *text) {
    if (lx->panic) return ','; /* part of what is being skipped */
    syntax_complain(lx, loc, text);
    lx->previous = ',';
    syntax_recover(lx);
    return M6_error;
}

int lexer_stop(Lexer *lx, Loc loc, const char *text) {
    syntax_complain(lx, loc, text);
    lx->stopped = true;
    return END;
}

/* ---- brackets ---- */

int lexer_open(Lexer *lx, int kind, Loc loc) {
    if (lx->depth == MAX_BRACKETS)
        return lexer_stop(lx, loc, "brackets are nested more than 200 deep here");
    lx->open[lx->depth++] = (Bracket){(char)kind, loc};
    if (kind == '{') lx->braces++;
    return kind;
}

int lexer_close(Lexer *lx, int kind, Loc loc) {
    char open = kind == ')' ? '(' : kind == ']' ? '[' : '{';
    lx->unclosed.kind = 0;
    if (open != '{') {
        if (lx->depth && lx->open[lx->depth - 1].kind == open) lx->depth--;
        return kind;
    }
    if (!lx->braces) return lexer_error(lx, loc, "this '}' closes nothing");
    while (lx->open[lx->depth - 1].kind != '{') lx->unclosed = lx->open[--lx->depth];
    lx->depth--;
    lx->braces--;
    return kind;
}

/* ---- values ---- */

const char *lexer_name(Lexer *lx, const char *text, size_t n, Loc loc) {
    if (n > MAX_NAME) {
        syntax_complain(lx, loc, "this name is longer than 200 characters");
        n = MAX_NAME;
    }
    return intern_n(lx->session, text, n);
}

const char *lexer_string(Lexer *lx, const char *text, size_t n, Loc loc) {
    char *out = arena_alloc(lx->arena, n);
    size_t m = 0;
    for (size_t i = 1; i + 1 < n; i++) {
        if (text[i] != '\\') {
            out[m++] = text[i];
            continue;
        }
        char c = text[++i];
        if (c != 'n' && c != 't' && c != '"' && c != '\\')
            syntax_complain(lx, loc, "after '\\' a text may only have 'n', 't', '\"' or '\\'");
        out[m++] = c == 'n' ? '\n' : c == 't' ? '\t' : c;
    }
    return intern_n(lx->session, out, m);
}

static const struct {
    const char *name;
    Unit unit;
    double factor; /* bits per second count as an eighth of a byte per second */
} units[] = {
    {"B", U_BYTES, 1},         {"KB", U_BYTES, 1e3},     {"MB", U_BYTES, 1e6},
    {"GB", U_BYTES, 1e9},      {"TB", U_BYTES, 1e12},    {"KiB", U_BYTES, 0x1p10},
    {"MiB", U_BYTES, 0x1p20},  {"GiB", U_BYTES, 0x1p30}, {"TiB", U_BYTES, 0x1p40},
    {"ns", U_TIME, 1e-9},      {"us", U_TIME, 1e-6},     {"ms", U_TIME, 1e-3},
    {"s", U_TIME, 1},          {"b/s", U_RATE, 0.125},   {"Kb/s", U_RATE, 125},
    {"Mb/s", U_RATE, 125e3},   {"Gb/s", U_RATE, 125e6},  {"Tb/s", U_RATE, 125e9},
    {"B/s", U_RATE, 1},        {"KB/s", U_RATE, 1e3},    {"MB/s", U_RATE, 1e6},
    {"GB/s", U_RATE, 1e9},     {"TB/s", U_RATE, 1e12},   {"FLOPS", U_FLOPS, 1},
    {"MFLOPS", U_FLOPS, 1e6},  {"GFLOPS", U_FLOPS, 1e9}, {"TFLOPS", U_FLOPS, 1e12},
    {"PFLOPS", U_FLOPS, 1e15},
};

static void unknown_unit(Lexer *lx, Loc loc, const char *unit) {
    const char *names[COUNT(units)];
    for (size_t i = 0; i < COUNT(units); i++) names[i] = units[i].name;
    const char *near = nearest_word(unit, names, COUNT(units));
    for (size_t i = 0; i < COUNT(units); i++)
        if (!strcasecmp(unit, units[i].name)) near = units[i].name;
    syntax_complain(
        lx, loc,
        near ? arena_printf(lx->arena, "unknown unit '%.40s'; did you mean '%s'?", unit, near)
             : arena_printf(lx->arena, "unknown unit '%.40s'", unit));
}

static void apply_unit(Lexer *lx, Number *v, const char *unit, Loc loc) {
    for (size_t i = 0; i < COUNT(units); i++) {
        if (strcmp(units[i].name, unit)) continue;
        v->d *= units[i].factor;
        v->unit = units[i].unit;
        v->whole = v->d == floor(v->d) && v->d < 0x1p63 && v->unit != U_TIME;
        v->i = v->whole ? (int64_t)v->d : 0;
        if (v->unit == U_BYTES && v->d >= 0x1p63)
            syntax_complain(lx, loc, "this size does not fit in 64 bits");
        return;
    }
    unknown_unit(lx, loc, unit);
}

static size_t digits(const char *s) { return strspn(s, "0123456789"); }

/* How much of `s` is the number itself, before the unit. */
static size_t mantissa(const char *s) {
    size_t n = digits(s);
    if (s[n] == '.' && digits(s + n + 1)) n += 1 + digits(s + n + 1);
    if (s[n] != 'e' && s[n] != 'E') return n;
    size_t sign = s[n + 1] == '+' || s[n + 1] == '-';
    size_t e = digits(s + n + 1 + sign);
    return e ? n + 1 + sign + e : n;
}

Number lexer_number(Lexer *lx, const char *text, size_t n, Loc loc) {
    Number v = {.text = intern_n(lx->session, text, n)};
    size_t m = mantissa(v.text);
    v.d = strtod(v.text, NULL);
    if (digits(v.text) == m) {
        errno = 0;
        v.i = strtoll(v.text, NULL, 10);
        v.whole = errno == 0;
        if (!v.whole && m == n)
            syntax_complain(lx, loc, "this whole number does not fit in 64 bits");
    }
    if (isinf(v.d)) syntax_complain(lx, loc, "this number is too large");
    if (m < n && !isinf(v.d)) apply_unit(lx, &v, v.text + m, loc);
    return v;
}

void lexer_comment(Lexer *lx, const char *text, size_t n, Loc loc) {
    while (n > 1 && (text[n - 1] == ' ' || text[n - 1] == '\t' || text[n - 1] == '\r')) n--;
    Comment *c = arena_new_of(lx->arena, Comment);
    *c = (Comment){.line = loc.line, .text = arena_strdup(lx->arena, text, n)};
    const char *p = lx->token;
    while (p > lx->file->text && (p[-1] == ' ' || p[-1] == '\t')) p--;
    c->own_line = p == lx->file->text || p[-1] == '\n';
    list_add(&lx->file->comments, c);
}
