/* plan_read.c: words, numbers and references of a line of plan.txt. */
#include "runtime/plan_read.h"

#include <string.h>

enum { MAX_ITEMS = 1 << 24 };

Loc read_here(const Reader *r, const char *p) {
    return (Loc){r->file, (uint16_t)MIN(p - r->line + 1, (ptrdiff_t)UINT16_MAX), r->lineno};
}

void read_spaces(Reader *r) {
    while (r->p < r->end && *r->p == ' ') r->p++;
}

bool read_accept(Reader *r, char c) {
    if (r->p >= r->end || *r->p != c) return false;
    r->p++;
    return true;
}

void read_expect(Reader *r, char c) {
    if (!read_accept(r, c)) FAIL(r, r->p, "expected '%c'", c);
}

static bool ends_token(char c) { return c == ' ' || strchr(",:+=[];/\"", c) != NULL; }

/* The bytes up to the next separator; empty after a complaint. */
size_t read_token(Reader *r, const char **start, const char *what) {
    read_spaces(r);
    *start = r->p;
    while (r->p < r->end && *r->p && !ends_token(*r->p)) r->p++;
    if (r->p == *start) FAIL(r, r->p, "expected %s", what);
    return (size_t)(r->p - *start);
}

int64_t read_int(Reader *r, const char *what, int64_t least, int64_t most) {
    const char *start;
    int64_t v = 0;
    size_t n = read_token(r, &start, what);
    if (!r->bad && !parse_i64(start, n, &v))
        FAIL(r, start, "expected %s, an integer of 64 bits", what);
    if (!r->bad && (v < least || v > most))
        FAIL(r, start, "%s must be from %lld to %lld", what, (long long)least, (long long)most);
    return r->bad ? least : v;
}

double read_number(Reader *r, const char *what) {
    /* Not read_token(): exponents may hold a '+'. */
    read_spaces(r);
    const char *start = r->p;
    double x = 0;
    while (r->p < r->end && (*r->p == '+' || (*r->p && !ends_token(*r->p)))) r->p++;
    if (!parse_f64(start, (size_t)(r->p - start), &x))
        FAIL(r, start, "expected %s, a number", what);
    return x;
}

uint64_t read_hex(Reader *r, const char *what) {
    const char *start;
    uint64_t v = 0;
    size_t n = read_token(r, &start, what);
    for (size_t i = 0; i < n && !r->bad; i++) {
        int d = hex_digit(start[i]);
        if (d < 0 || n > 16) FAIL(r, start, "expected %s, at most 16 digits 0-9a-f", what);
        v = v << 4 | (uint64_t)MAX(d, 0);
    }
    return v;
}

static const char *quoted(Reader *r) {
    Buf b = {0};
    const char *start = r->p++;
    while (r->p < r->end && *r->p && *r->p != '"') {
        char c = *r->p++;
        if (c == '\\') {
            if (r->p < r->end && (*r->p == '"' || *r->p == '\\')) {
                c = *r->p++;
            } else {
                int hi = r->end - r->p > 2 && *r->p == 'x' ? hex_digit(r->p[1]) : -1;
                int lo = hi >= 0 ? hex_digit(r->p[2]) : -1;
                if (lo < 0 || hi * 16 + lo == 0) FAIL(r, r->p - 1, "unknown escape in a string");
                if (r->bad) break;
                c = (char)(hi * 16 + lo);
                r->p += 3;
            }
        }
        buf_put(&b, &c, 1);
    }
    if (!read_accept(r, '"')) FAIL(r, start, "string without an end");
    const char *s = intern_n(r->session, b.p ? b.p : "", b.n);
    buf_free(&b);
    return s;
}

static bool bare_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("_.[]%@/-", c));
}

/* Interned; NULL for "-" (which is a complaint unless `optional`). */
const char *read_word(Reader *r, const char *what, bool optional) {
    read_spaces(r);
    const char *start = r->p;
    if (r->p < r->end && *r->p == '"') return quoted(r);
    if (optional && read_accept(r, '-')) return NULL;
    while (r->p < r->end && bare_char(*r->p) && *start != '-') r->p++;
    if (r->p == start) FAIL(r, start, "expected %s", what);
    return intern_n(r->session, start, (size_t)(r->p - start));
}

/* The index of the next token among names, as enumerations are printed. */
int read_choice(Reader *r, const char *what, const char *(*name)(int), int n) {
    const char *start;
    size_t length = read_token(r, &start, what);
    for (int i = 0; i < n; i++)
        if (strlen(name(i)) == length && memcmp(name(i), start, length) == 0) return i;
    FAIL(r, start, "expected %s, not '%.*s'", what, (int)MIN(length, (size_t)40), start);
    return 0;
}

static const char *name_of_dtype(int i) { return dtype_name((Dtype)i); }

Dtype read_dtype(Reader *r) {
    return (Dtype)read_choice(r, "a data type", name_of_dtype, DT_TUPLE);
}

void read_key(Reader *r, const char *name) {
    const char *start;
    size_t n = read_token(r, &start, name);
    if (!r->bad && (n != strlen(name) || memcmp(start, name, n) != 0))
        FAIL(r, start, "expected %s", name);
    read_expect(r, '=');
}

Loc read_location(Reader *r) {
    read_spaces(r);
    if (read_accept(r, '-')) return (Loc){0};
    const char *file = read_word(r, "a location, FILE:LINE:COLUMN", false);
    read_expect(r, ':');
    int64_t line = read_int(r, "a line", 1, UINT32_MAX);
    read_expect(r, ':');
    int64_t col = read_int(r, "a column", 0, UINT16_MAX);
    if (r->bad) return (Loc){0};
    return (Loc){session_find_file(r->session, file), (uint16_t)col, (uint32_t)line};
}

/* "b12", "k3": an index below n. */
uint32_t read_reference(Reader *r, char letter, const char *what, uint32_t n) {
    read_spaces(r);
    const char *start = r->p;
    read_expect(r, letter);
    int64_t i = r->bad ? 0 : read_int(r, what, 0, UINT32_MAX);
    if (!r->bad && i >= n)
        FAIL(r, start, "%c%lld is not %s: there are %u so far", letter, (long long)i, what, n);
    return r->bad ? 0 : (uint32_t)i;
}

/* Items are numbered, so that a person finds them; the numbers must be in order. */
void read_order(Reader *r, uint32_t n) {
    read_spaces(r);
    const char *start = r->p;
    int64_t i = read_int(r, "an index", 0, UINT32_MAX);
    if (!r->bad && (i != n || n >= MAX_ITEMS)) FAIL(r, start, "expected the index %u", n);
}
