/* base_diag.c: the session (interned strings, source files) and what it says to people.
 *
 * A diagnostic shows at most WINDOW bytes of its source line, around the column, with bytes that a
 * terminal could misread replaced by '?': a 10 MB line or a binary file stays readable. */
#include "ir/base.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ERRORS = 20, WINDOW = 120, MAX_WORD = 48 };

typedef struct {
    const char *name; /* interned */
    const char *text; /* NULL: only a name */
    size_t n;
} File;

typedef struct {
    const char *p; /* NULL: free */
    size_t n;
    uint64_t hash;
} Slot;

struct Session {
    Arena *arena;
    Slot *slot; /* open addressing, power of two */
    uint32_t nslot, nstring;
    VEC(File) file; /* [0] is "no file" */
    int errors;
    bool system_failed;
    bool hiding; /* the last error or warning was not shown: nor are its notes */
    Buf *capture;
};

Session *session_new(void) {
    Session *s = xcalloc(1, sizeof *s);
    s->arena = arena_new();
    s->nslot = 256;
    s->slot = xcalloc(s->nslot, sizeof *s->slot);
    vec_push(&s->file, ((File){.name = ""}));
    return s;
}

void session_free(Session *s) {
    if (!s) return;
    arena_free(s->arena);
    free(s->slot);
    vec_free(&s->file);
    free(s);
}

Arena *session_arena(Session *s) { return s->arena; }

/* ---- interned strings and records ---- */

static void intern_grow(Session *s) {
    uint32_t old = s->nslot, size = old * 2;
    Slot *slot = xcalloc(size, sizeof *slot);
    for (uint32_t i = 0; i < old; i++) {
        if (!s->slot[i].p) continue;
        uint32_t at = (uint32_t)s->slot[i].hash & (size - 1);
        while (slot[at].p) at = (at + 1) & (size - 1);
        slot[at] = s->slot[i];
    }
    free(s->slot);
    s->slot = slot;
    s->nslot = size;
}

const void *intern_bytes(Session *s, const void *p, size_t n) {
    if (s->nstring * 2 >= s->nslot) intern_grow(s);
    uint64_t h = hash_bytes(p, n, 0);
    uint32_t at = (uint32_t)h & (s->nslot - 1);
    for (; s->slot[at].p; at = (at + 1) & (s->nslot - 1)) {
        const Slot *slot = &s->slot[at];
        if (slot->hash == h && slot->n == n && (n == 0 || memcmp(slot->p, p, n) == 0))
            return slot->p;
    }
    s->slot[at] = (Slot){arena_strdup(s->arena, p, n), n, h};
    s->nstring++;
    return s->slot[at].p;
}

/* A text and a record of the same bytes may share their place: both are constant. */
const char *intern_n(Session *s, const char *text, size_t n) { return intern_bytes(s, text, n); }

const char *intern(Session *s, const char *text) { return intern_n(s, text, strlen(text)); }

/* ---- source files ---- */

uint16_t session_find_file(Session *s, const char *name) {
    if (!name[0]) return 0;
    name = intern(s, name);
    for (uint32_t i = s->file.n; i-- > 1;)
        if (s->file.p[i].name == name) return (uint16_t)i;
    if (s->file.n > UINT16_MAX) return 0;
    vec_push(&s->file, ((File){.name = name}));
    return (uint16_t)(s->file.n - 1);
}

uint16_t session_add_file(Session *s, const char *name, const char *text, size_t n) {
    uint16_t f = session_find_file(s, name);
    if (f) s->file.p[f].text = text, s->file.p[f].n = n;
    return f;
}

uint16_t session_files(const Session *s) { return (uint16_t)s->file.n; }

const char *session_file_text(const Session *s, uint16_t file, size_t *n) {
    ASSERT(file < s->file.n);
    *n = s->file.p[file].n;
    return s->file.p[file].text;
}

const char *session_file_name(Session *s, uint16_t file) {
    return file < s->file.n ? s->file.p[file].name : "";
}

const char *loc_text(Session *s, Loc loc) {
    if (!loc.line) return "";
    return arena_printf(s->arena, "%s:%u:%u", session_file_name(s, loc.file), loc.line, loc.col);
}

/* ---- diagnostics ---- */

/* Bytes of the UTF-8 sequence at p, or 0 when it is none. */
static int utf8_length(const char *p, const char *end, uint32_t *code) {
    unsigned char c = (unsigned char)*p;
    int n = c < 0x80                ? 1
            : c >= 0xc2 && c < 0xe0 ? 2
            : c >= 0xe0 && c < 0xf0 ? 3
            : c >= 0xf0 && c < 0xf5 ? 4
                                    : 0;
    if (n == 0 || end - p < n) return 0;
    *code = n == 1 ? c : c & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if (((unsigned char)p[i] & 0xc0) != 0x80) return 0;
        *code = *code << 6 | ((unsigned char)p[i] & 0x3f);
    }
    return n;
}

/* Appends p..end, made safe to print; returns the columns it takes on a terminal. */
static int put_source(Buf *out, const char *p, const char *end) {
    int columns = 0;
    while (p < end) {
        uint32_t code = 0;
        int n = utf8_length(p, end, &code);
        if (n == 0 || (code < 32 && code != '\t') || (code >= 127 && code < 160))
            buf_puts(out, "?"), n = MAX(n, 1), columns++;
        else if (code == '\t')
            buf_puts(out, " "), columns++;
        else /* from U+2E80 on: Chinese and pictures, two columns wide */
            buf_put(out, p, (size_t)n), columns += code >= 0x2e80 ? 2 : 1;
        p += n;
    }
    return columns;
}

static bool line_of(const File *f, uint32_t line, const char **from, const char **end) {
    if (!f->text || line == 0) return false;
    const char *p = f->text, *stop = f->text + f->n;
    for (uint32_t i = 1; i < line; i++) {
        const char *nl = memchr(p, '\n', (size_t)(stop - p));
        if (!nl) return false;
        p = nl + 1;
    }
    const char *nl = memchr(p, '\n', (size_t)(stop - p));
    *from = p;
    *end = nl ? nl : stop;
    if (*end > p && (*end)[-1] == '\r') --*end;
    return true;
}

static bool continues_utf8(const char *p) { return ((unsigned char)*p & 0xc0) == 0x80; }

static bool is_word(char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The source line, and under it a caret that underlines the word it points at. */
static void put_excerpt(Session *s, Buf *out, Loc loc) {
    const char *from, *end;
    if (loc.file >= s->file.n || !line_of(&s->file.p[loc.file], loc.line, &from, &end)) return;
    const char *at = from + MIN((ptrdiff_t)(loc.col ? loc.col - 1 : 0), end - from);
    const char *a = at - from > WINDOW / 2 ? at - WINDOW / 2 : from;
    const char *b = end - a > WINDOW ? a + WINDOW : end;
    while (a < at && continues_utf8(a)) a++;
    while (b > at && b < end && continues_utf8(b)) b--;
    buf_puts(out, a > from ? "    ..." : "    ");
    int pad = put_source(out, a, at) + (a > from ? 7 : 4);
    put_source(out, at, b);
    buf_puts(out, b < end ? "...\n" : "\n");
    buf_printf(out, "%*s^", pad, "");
    for (const char *p = at; p + 1 < b && is_word(*p) && is_word(p[1]); p++) buf_puts(out, "~");
    buf_puts(out, "\n");
}

static void put_message(Session *s, Buf *out, Loc loc, const char *kind, const char *fmt,
                        va_list ap) {
    if (loc.line)
        buf_printf(out, "%s:%u:%u: ", session_file_name(s, loc.file), loc.line, loc.col);
    else if (loc.file)
        buf_printf(out, "%s: ", session_file_name(s, loc.file));
    buf_printf(out, "%s: ", kind);
    buf_vprintf(out, fmt, ap);
    buf_puts(out, "\n");
    put_excerpt(s, out, loc);
}

static void show(const Session *s, const Buf *message) {
    if (s->capture)
        buf_put(s->capture, message->p, message->n);
    else
        fwrite(message->p, 1, message->n, stderr);
}

static void say(Session *s, Loc loc, const char *kind, const char *fmt, va_list ap) {
    Buf message = {0};
    put_message(s, &message, loc, kind, fmt, ap);
    show(s, &message);
    buf_free(&message);
}

/* A training plan and its forward half are made of one text: what one has said is not said of the
 * other again. Returns whether it was new. */
static bool say_once(Session *s, Loc loc, const char *kind, const char *fmt, va_list ap) {
    Buf message = {0};
    put_message(s, &message, loc, kind, fmt, ap);
    uint32_t before = s->nstring;
    intern_n(s, message.p, message.n);
    bool fresh = s->nstring > before;
    if (fresh) show(s, &message);
    buf_free(&message);
    return fresh;
}

static void say_too_many(Session *s) {
    static const char text[] = "error: more errors follow; they are counted but not shown\n";
    if (s->capture)
        buf_puts(s->capture, text);
    else
        fputs(text, stderr);
}

void diag_error(Session *s, Loc loc, const char *fmt, ...) {
    s->hiding = ++s->errors > MAX_ERRORS;
    if (s->errors == MAX_ERRORS + 1) say_too_many(s);
    if (s->hiding) return;
    va_list ap;
    va_start(ap, fmt);
    say(s, loc, "error", fmt, ap);
    va_end(ap);
}

void diag_warning(Session *s, Loc loc, const char *fmt, ...) {
    s->hiding = s->errors > MAX_ERRORS;
    if (s->hiding) return;
    va_list ap;
    va_start(ap, fmt);
    s->hiding = !say_once(s, loc, "warning", fmt, ap);
    va_end(ap);
}

void diag_note(Session *s, Loc loc, const char *fmt, ...) {
    if (s->hiding) return;
    va_list ap;
    va_start(ap, fmt);
    say(s, loc, "note", fmt, ap);
    va_end(ap);
}

int diag_errors(const Session *s) { return s->errors; }

bool diag_status(Session *s, Status failure) {
    if (!failure) return true;
    s->system_failed |= failure->code == EXIT_SYSTEM;
    diag_error(s, (Loc){0}, "%s", failure->text);
    free(failure);
    return false;
}

int diag_exit(const Session *s) {
    return s->errors == 0 ? EXIT_DONE : s->system_failed ? EXIT_SYSTEM : EXIT_INPUT;
}
void diag_capture(Session *s, Buf *b) { s->capture = b; }

/* ---- suggestions ---- */

/* Edit distance with neighbouring letters swapped as one edit; more than `limit` returns limit+1.
 */
static int edit_distance(const char *a, int na, const char *b, int nb, int limit) {
    int row[3][MAX_WORD + 1];
    if (abs(na - nb) > limit) return limit + 1;
    for (int j = 0; j <= nb; j++) row[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3], least = i;
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            int d = MIN(up[j], now[j - 1]) + 1;
            d = MIN(d, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = MIN(d, up2[j - 2] + 1);
            now[j] = d;
            least = MIN(least, d);
        }
        if (least > limit) return limit + 1;
    }
    return row[na % 3][nb];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t n) {
    size_t length = strlen(word);
    if (length > MAX_WORD || length < 2) return NULL;
    int best_distance = length <= 5 ? 1 : length <= 8 ? 2 : 3;
    const char *best = NULL;
    for (size_t i = 0; i < n; i++) {
        size_t other = strlen(candidates[i]);
        if (other > MAX_WORD) continue;
        int d = edit_distance(word, (int)length, candidates[i], (int)other, best_distance);
        if (d > best_distance || (best && d == best_distance)) continue;
        best = candidates[i];
        best_distance = d;
    }
    return best;
}

noreturn void bug(const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "m6c %s: internal error at %s:%d: ", M6C_VERSION, file, line);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("\nThis is a mistake in m6c, not in your input. "
          "Please report it with the command and the files that led here.\n",
          stderr);
    abort();
}
