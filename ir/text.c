/* text.c: tokens of the text form, printed and scanned.
 *
 * A line is one node or one header. Strings may hold any byte but NUL; everything that a terminal
 * or an editor could misread is escaped, bytes from 0x80 on (UTF-8) are not. A bare word is a run
 * of printable bytes without '"'. The scanner stops at the first error. */
#include "ir/text.h"

#include <string.h>

/* ---- printing ---- */

static bool is_word_byte(unsigned char c) { return c > ' ' && c != '"' && c != 127; }

void text_print_string(const char *s, Buf *out) {
    buf_puts(out, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c == '\n')
            buf_puts(out, "\\n");
        else if (c == '\t')
            buf_puts(out, "\\t");
        else if (c < ' ' || c == 127)
            buf_printf(out, "\\x%02x", c);
        else
            buf_put(out, s, 1);
    }
    buf_puts(out, "\"");
}

void text_print_word(const char *s, Buf *out) {
    bool bare = *s != 0;
    for (const char *p = s; *p; p++) bare = bare && is_word_byte((unsigned char)*p);
    if (bare)
        buf_puts(out, s);
    else
        text_print_string(s, out);
}

void text_print_loc(Session *s, Loc loc, Buf *out) {
    text_print_word(session_file_name(s, loc.file), out);
    buf_printf(out, ":%u:%u", loc.line, loc.col);
}

/* ---- lines ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static void skip_blanks(Text *t) {
    while (t->p < t->end && is_blank(*t->p)) t->p++;
}

bool text_next_line(Text *t) {
    for (;;) {
        const char *from = t->line == 0 ? t->from : t->end < t->stop ? t->end + 1 : NULL;
        if (!from || from >= t->stop) return false;
        const char *nl = memchr(from, '\n', (size_t)(t->stop - from));
        t->from = t->p = from;
        t->end = nl ? nl : t->stop;
        t->line++;
        skip_blanks(t);
        if (t->p < t->end && *t->p != '#' && *t->p != ';') return true;
    }
}

bool text_fail(Text *t, const char *at, const char *fmt, ...) {
    Buf text = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&text, fmt, ap);
    va_end(ap);
    ptrdiff_t col = MIN(at - t->from + 1, (ptrdiff_t)UINT16_MAX);
    diag_error(t->session, (Loc){t->file, (uint16_t)col, t->line}, "%s", text.p);
    buf_free(&text);
    return false;
}

bool text_at_end(Text *t) {
    skip_blanks(t);
    return t->p == t->end;
}

bool text_expect_end(Text *t) {
    return text_at_end(t) || text_fail(t, t->p, "the line should end here");
}

bool text_accept(Text *t, const char *literal) {
    size_t n = strlen(literal);
    skip_blanks(t);
    if ((size_t)(t->end - t->p) < n || memcmp(t->p, literal, n) != 0) return false;
    t->p += n;
    return true;
}

bool text_expect(Text *t, const char *literal) {
    return text_accept(t, literal) || text_fail(t, t->p, "expected '%s' here", literal);
}

/* ---- tokens ---- */

static bool is_identifier_byte(char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

const char *text_identifier(Text *t, const char *what) {
    skip_blanks(t);
    const char *from = t->p;
    while (t->p < t->end && is_identifier_byte(*t->p)) t->p++;
    if (t->p == from) return text_fail(t, from, "expected %s here", what), NULL;
    return intern_n(t->session, from, (size_t)(t->p - from));
}

const char *text_axes(Text *t, const char *what) {
    skip_blanks(t);
    const char *from = t->p;
    do {
        if (!text_identifier(t, what)) return NULL;
    } while (t->p < t->end && *t->p == '.' && t->p++);
    return intern_n(t->session, from, (size_t)(t->p - from));
}

/* One byte of a string after its backslash; 0 when it is no escape. */
static char unescape(Text *t) {
    char c = t->p < t->end ? *t->p++ : 0;
    if (c == 'n') return '\n';
    if (c == 't') return '\t';
    if (c == '"' || c == '\\') return c;
    if (c != 'x' || t->end - t->p < 2) return 0;
    int hi = hex_digit(t->p[0]), lo = hex_digit(t->p[1]);
    t->p += 2;
    return hi < 0 || lo < 0 ? 0 : (char)(hi << 4 | lo);
}

const char *text_string(Text *t) {
    Buf b = {0};
    skip_blanks(t);
    const char *from = t->p, *result = NULL;
    if (!text_expect(t, "\"")) return NULL;
    buf_puts(&b, "");
    while (t->p < t->end && *t->p != '"') {
        const char *at = t->p;
        char c = *t->p++;
        if (c == '\\') c = unescape(t);
        if (!c) {
            text_fail(t, at, "a string may have \\n \\t \\\" \\\\ and \\x01 to \\xff");
            goto out;
        }
        buf_put(&b, &c, 1);
    }
    if (t->p == t->end) {
        text_fail(t, from, "this string does not end");
        goto out;
    }
    t->p++;
    result = intern_n(t->session, b.p, b.n);
out:
    buf_free(&b);
    return result;
}

const char *text_word(Text *t) {
    skip_blanks(t);
    if (t->p < t->end && *t->p == '"') return text_string(t);
    const char *from = t->p;
    while (t->p < t->end && is_word_byte((unsigned char)*t->p)) t->p++;
    if (t->p == from) return text_fail(t, from, "expected a word here"), NULL;
    return intern_n(t->session, from, (size_t)(t->p - from));
}

bool text_int(Text *t, int64_t min, int64_t max, int64_t *x) {
    skip_blanks(t);
    const char *from = t->p;
    if (t->p < t->end && *t->p == '-') t->p++;
    while (t->p < t->end && *t->p >= '0' && *t->p <= '9') t->p++;
    if (t->p == from) return text_fail(t, from, "expected a whole number here");
    if (parse_i64(from, (size_t)(t->p - from), x) && *x >= min && *x <= max) return true;
    return text_fail(t, from, "this number is not within %lld..%lld", (long long)min,
                     (long long)max);
}

bool text_float(Text *t, double *x) {
    skip_blanks(t);
    const char *from = t->p;
    while (t->p < t->end && (is_identifier_byte(*t->p) || memchr("+-.", *t->p, 3))) t->p++;
    if (parse_f64(from, (size_t)(t->p - from), x)) return true;
    return text_fail(t, from, "expected a number here");
}

/* The name in FILE:LINE:COL, where a bare FILE may itself have colons; leaves t at ":LINE". */
static const char *loc_name(Text *t) {
    if (t->p < t->end && *t->p == '"') return text_string(t);
    const char *from = t->p, *e = from;
    while (e < t->end && is_word_byte((unsigned char)*e)) e++;
    for (int seen = 0; e > from && seen < 2;)
        if (*--e == ':') seen++;
    t->p = e;
    return intern_n(t->session, from, (size_t)(e - from));
}

bool text_loc(Text *t, Loc *loc) {
    int64_t line, col;
    skip_blanks(t);
    const char *from = t->p, *name = loc_name(t);
    if (!name) return false;
    if (t->p == from || !text_accept(t, ":"))
        return text_fail(t, from, "expected FILE:LINE:COL here");
    if (!text_int(t, 1, UINT32_MAX, &line) || !text_expect(t, ":")) return false;
    if (!text_int(t, 0, UINT16_MAX, &col)) return false;
    if (name != t->last_name) t->last_file = session_find_file(t->session, name);
    t->last_name = name;
    if (name[0] && !t->last_file) return text_fail(t, from, "too many different files");
    *loc = (Loc){t->last_file, (uint16_t)col, (uint32_t)line};
    return true;
}
