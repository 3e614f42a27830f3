/* main_pack_csv.c: the CSV reader of m6c pack.
 *
 * Fields are separated by commas; a field in double quotes may contain commas, and quotes doubled,
 * but no line break. Blanks around fields do not count; empty lines are read over. */
#include <stdlib.h>
#include <string.h>

#include "frontend/main_pack.h"

enum { COLUMNS = 4, MAX_FIELDS = 256 };
static const char *const columns[COLUMNS] = {"id", "lower", "upper", "size"};

typedef struct {
    Session *s;
    uint16_t file;
    uint32_t line; /* of the text between p and end */
    const char *begin, *p, *end;
    int column[COLUMNS]; /* place of each in a row */
    int nfield;          /* of a row */
    double total;        /* of all sizes */
} Reader;

static Loc loc_at(const Reader *r, const char *p) {
    return (Loc){r->file, (uint16_t)MIN(p - r->begin + 1, UINT16_MAX), r->line};
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* Sets begin, p and end to the next line that is not empty. */
static bool next_line(Reader *r, const char *text_end) {
    while (r->end < text_end) {
        r->begin = r->p = r->line++ ? r->end + 1 : r->end;
        const char *end = memchr(r->begin, '\n', (size_t)(text_end - r->begin));
        r->end = end ? end : text_end;
        for (const char *c = r->begin; c < r->end; c++)
            if (!is_blank(*c)) return true;
    }
    return false;
}

static const char *past_quotes(Reader *r) {
    const char *p = r->p + 1;
    for (; p < r->end; p++) {
        if (*p != '"') continue;
        if (p + 1 == r->end || p[1] != '"') return p + 1;
        p++;
    }
    diag_error(r->s, loc_at(r, r->p), "this quote is not closed on its line");
    return NULL;
}

/* The next field, without blanks around it; p comes to stand behind its comma, or behind `end`
 * after the last. */
static bool next_field(Reader *r, PackId *f) {
    while (r->p < r->end && is_blank(*r->p)) r->p++;
    const char *from = r->p, *to = from;
    if (from < r->end && *from == '"' && !(to = past_quotes(r))) return false;
    const char *quoted = to;
    while (to < r->end && *to != ',') to++;
    r->p = to + 1;
    while (to > from && is_blank(to[-1])) to--;
    *f = (PackId){from, (size_t)(to - from)};
    if (quoted == from || to <= quoted) return true;
    diag_error(r->s, loc_at(r, quoted), "expected a comma after the quote");
    return false;
}

/* Fields of a line; more than MAX_FIELDS are an error. -1 after diagnostics. */
static int split(Reader *r, PackId *field) {
    int n = 0;
    do {
        if (n == MAX_FIELDS)
            diag_error(r->s, loc_at(r, r->p), "more than %d columns", (int)MAX_FIELDS);
        if (n == MAX_FIELDS || !next_field(r, &field[n++])) return -1;
    } while (r->p <= r->end);
    return n;
}

static int column_of(const PackId *f) {
    const char *name = f->text;
    size_t n = f->n;
    if (n >= 2 && *name == '"') name++, n -= 2;
    for (int c = 0; c < COLUMNS; c++)
        if (strlen(columns[c]) == n && !memcmp(columns[c], name, n)) return c;
    return -1;
}

static bool read_header(Reader *r) {
    PackId field[MAX_FIELDS];
    bool ok = true;
    memset(r->column, 0xff, sizeof r->column);
    r->nfield = split(r, field);
    for (int i = 0; i < r->nfield; i++) {
        int c = column_of(&field[i]);
        if (c < 0) continue;
        if (r->column[c] >= 0) {
            diag_error(r->s, loc_at(r, field[i].text), "column '%s' is here twice", columns[c]);
            ok = false;
        }
        r->column[c] = i;
    }
    for (int c = 0; c < COLUMNS && ok && r->nfield > 0; c++) {
        if (r->column[c] >= 0) continue;
        diag_error(r->s, loc_at(r, r->begin),
                   "expected a header line with the columns id, lower, upper and size; there is no "
                   "'%s'",
                   columns[c]);
        ok = false;
    }
    return ok && r->nfield > 0;
}

static bool number(Reader *r, const PackId *f, int column, int64_t *x) {
    if (parse_i64(f->text, f->n, x)) return true;
    diag_error(r->s, loc_at(r, f->text), "%s must be a whole number of 64 bits, not '%.*s'",
               columns[column], (int)MIN(f->n, 40), f->text);
    return false;
}

static bool read_row(Reader *r, PackTable *t) {
    PackId field[MAX_FIELDS], *f[COLUMNS];
    int n = split(r, field);
    if (n < 0) return false;
    if (n != r->nfield) {
        diag_error(r->s, loc_at(r, r->begin), "this row has %d columns, the header line %d", n,
                   r->nfield);
        return false;
    }
    for (int c = 0; c < COLUMNS; c++) f[c] = &field[r->column[c]];
    PackItem x;
    bool ok = number(r, f[1], 1, &x.lower);
    ok = number(r, f[2], 2, &x.upper) && ok;
    ok = number(r, f[3], 3, &x.size) && ok;
    if (!ok) return false;
    if (x.upper <= x.lower) {
        diag_error(r->s, loc_at(r, f[2]->text),
                   "upper must be above lower: times lower <= t < upper");
        return false;
    }
    if (x.size < 0 || (r->total += (double)x.size) >= 0x1p62) {
        diag_error(r->s, loc_at(r, f[3]->text),
                   x.size < 0 ? "a size cannot be negative" : "the sizes add up to 2^62 or more");
        return false;
    }
    vec_push(&t->id, *f[0]);
    vec_push(&t->item, x);
    return true;
}

bool pack_table_parse(Session *s, const char *name, const char *text, size_t n, PackTable *t) {
    Reader r = {.s = s, .file = session_add_file(s, name, text, n), .end = text};
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.end += 3; /* a byte order mark */
    if (!next_line(&r, text + n)) {
        diag_error(s, (Loc){r.file, 1, 1}, "the file is empty; expected id,lower,upper,size");
        return false;
    }
    bool ok = read_header(&r);
    while (ok && next_line(&r, text + n))
        if (!read_row(&r, t) && diag_errors(s) >= 20) break;
    return ok && diag_errors(s) == 0;
}

void pack_table_free(PackTable *t) {
    vec_free(&t->id);
    vec_free(&t->item);
}
