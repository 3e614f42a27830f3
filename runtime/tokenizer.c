/* tokenizer.c: basic tokenization and WordPiece as in BERT (Devlin et al., NAACL'19), on utf8proc.
 *
 * The vocabulary is an open-addressing table from token to number; the strings lie in one copy of
 * the file. */
#include "runtime/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Longer words are unknown, as in BERT: they are never words. */
enum { MAX_WORD = 100 * 4 };

struct Tokenizer {
    char *text; /* the file; every line ends in a NUL */
    const char **token;
    int n;
    uint32_t *slot; /* hash table of number + 1 */
    uint32_t mask;
    int special[TOK_SPECIALS];
    bool uncased;
};

static const char *const SPECIAL[TOK_SPECIALS] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

/* ---- characters ---- */

static bool is_cjk(int32_t c) {
    static const int32_t RANGE[][2] = {
        {0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},   {0x20000, 0x2a6df},
        {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b820, 0x2ceaf}, {0x2f800, 0x2fa1f},
    };
    for (size_t i = 0; i < COUNT(RANGE); i++)
        if (c >= RANGE[i][0] && c <= RANGE[i][1]) return true;
    return false;
}

static bool is_punctuation(int32_t c) {
    if (c < 128)
        return c > 32 && c < 127 && !(c >= '0' && c <= '9') &&
               !((c | 32) >= 'a' && (c | 32) <= 'z');
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_space(int32_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r') || utf8proc_category(c) == UTF8PROC_CATEGORY_ZS ||
           c == 0x2028 || c == 0x2029;
}

static bool is_dropped(int32_t c) {
    if (c == 0xfffd || c == 0) return true;
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

static bool stands_alone(int32_t c) { return is_cjk(c) || is_punctuation(c); }

size_t utf8_length(const char *s) {
    int n = utf8proc_utf8class[(unsigned char)*s];
    return n > 0 ? (size_t)n : 1;
}

/* The next character of s[0..n), or a negative number for bytes that are not UTF-8. */
static int32_t next_char(const char *s, size_t n, size_t *used) {
    int32_t c;
    utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);
    *used = k > 0 ? (size_t)k : 1;
    return k > 0 ? c : -1;
}

static bool is_utf8(const char *s, size_t n) {
    for (size_t at = 0, used; at < n; at += used)
        if (next_char(s + at, n - at, &used) < 0) return false;
    return true;
}

/* ---- words ---- */

/* Lower case without accents, as BERT's uncased models: malloc'ed. */
static Status fold_case(const char *where, const char *text, char **out) {
    utf8proc_uint8_t *folded = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, 0, &folded,
                                      UTF8PROC_NULLTERM | UTF8PROC_DECOMPOSE | UTF8PROC_STRIPMARK);
    if (n < 0) return status_make(EXIT_INPUT, "%s: %s", where, utf8proc_errmsg(n));
    *out = (char *)folded;
    return NULL;
}

typedef void (*WordFn)(void *user, const char *word, size_t n);

static void emit(Buf *word, WordFn fn, void *user) {
    if (word->n) fn(user, word->p, word->n);
    word->n = 0;
}

static Status cut_words(const char *where, const char *text, bool uncased, WordFn fn, void *user) {
    Buf word = {0};
    Status s = NULL;
    for (size_t n = strlen(text), at = 0, used; at < n && !s; at += used) {
        int32_t c = next_char(text + at, n - at, &used);
        if (c < 0) {
            s = status_make(EXIT_INPUT, "%s: byte %zu is not UTF-8", where, at + 1);
        } else if (is_space(c) || stands_alone(c)) {
            emit(&word, fn, user);
            if (!is_space(c)) fn(user, text + at, used);
        } else if (!is_dropped(c)) {
            utf8proc_uint8_t lower[4];
            utf8proc_ssize_t k = utf8proc_encode_char(uncased ? utf8proc_tolower(c) : c, lower);
            buf_put(&word, (const char *)lower, (size_t)k);
        }
    }
    if (!s) emit(&word, fn, user);
    buf_free(&word);
    return s;
}

Status tokenizer_words(const char *where, const char *text, bool uncased, WordFn fn, void *user) {
    char *folded = NULL;
    if (uncased) TRY(fold_case(where, text, &folded));
    Status s = cut_words(where, folded ? folded : text, uncased, fn, user);
    free(folded);
    return s;
}

/* ---- the vocabulary ---- */

static uint32_t *find_slot(const Tokenizer *t, const char *s, size_t n) {
    uint32_t i = (uint32_t)hash_bytes(s, n, 0) & t->mask;
    for (;; i = (i + 1) & t->mask) {
        if (!t->slot[i]) return &t->slot[i];
        const char *have = t->token[t->slot[i] - 1];
        if (!strncmp(have, s, n) && !have[n]) return &t->slot[i];
    }
}

static int find_token(const Tokenizer *t, const char *s, size_t n) {
    return (int)*find_slot(t, s, n) - 1;
}

static bool has_upper(const char *s, size_t n) {
    for (size_t at = 0, used; at < n; at += used)
        if (utf8proc_category(next_char(s + at, n - at, &used)) == UTF8PROC_CATEGORY_LU)
            return true;
    return false;
}

static Status add_token(Tokenizer *t, const char *name, char *s, size_t n) {
    if (n && s[n - 1] == '\r') n--;
    s[n] = 0;
    int line = t->n + 1;
    if (!n) return status_make(EXIT_INPUT, "%s:%d: an empty token", name, line);
    if (memchr(s, 0, n)) return status_make(EXIT_INPUT, "%s:%d: a zero byte", name, line);
    if (!is_utf8(s, n)) return status_make(EXIT_INPUT, "%s:%d: not UTF-8", name, line);
    uint32_t *slot = find_slot(t, s, n);
    if (*slot)
        return status_make(EXIT_INPUT, "%s:%d: token \"%s\" stands on line %u already", name, line,
                           s, *slot);
    t->token[t->n++] = s;
    *slot = (uint32_t)t->n;
    bool bracketed = s[0] == '[' && n > 1 && s[n - 1] == ']';
    if (!bracketed && has_upper(s, n)) t->uncased = false;
    return NULL;
}

static Status read_tokens(Tokenizer *t, const char *name, const char *text, size_t n) {
    size_t lines = 1, table = 16;
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    while (table < lines * 2) table *= 2;
    if (lines > INT32_MAX / 4) return status_make(EXIT_INPUT, "%s: too many lines", name);
    t->mask = (uint32_t)table - 1;
    t->slot = calloc(table, sizeof *t->slot);
    t->token = calloc(lines, sizeof *t->token);
    t->text = malloc(n + 1);
    if (!t->slot || !t->token || !t->text)
        return status_make(EXIT_SYSTEM, "%s: out of memory", name);
    memcpy(t->text, text, n);
    t->text[n] = '\n';
    t->uncased = true;
    for (size_t at = 0; at < n;) {
        size_t len = (size_t)((char *)memchr(t->text + at, '\n', n + 1 - at) - (t->text + at));
        TRY(add_token(t, name, t->text + at, len));
        at += len + 1;
    }
    for (int i = 0; i < TOK_SPECIALS; i++) {
        t->special[i] = find_token(t, SPECIAL[i], strlen(SPECIAL[i]));
        if (t->special[i] < 0 && i != TOK_MASK)
            return status_make(EXIT_INPUT, "%s: the vocabulary has no %s", name, SPECIAL[i]);
    }
    return NULL;
}

Status tokenizer_parse(const char *name, const char *text, size_t n, Tokenizer **out) {
    *out = NULL;
    Tokenizer *t = calloc(1, sizeof *t);
    if (!t) return status_make(EXIT_SYSTEM, "%s: out of memory", name);
    Status s = read_tokens(t, name, text, n);
    if (s)
        tokenizer_free(t);
    else
        *out = t;
    return s;
}

Status tokenizer_open(const char *path, Tokenizer **out) {
    char *text;
    size_t n;
    *out = NULL;
    TRY(file_read(path, &text, &n));
    Status s = tokenizer_parse(path, text, n, out);
    free(text);
    return s;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    free(t->text);
    free(t->token);
    free(t->slot);
    free(t);
}

int tokenizer_size(const Tokenizer *t) { return t->n; }

int tokenizer_special(const Tokenizer *t, SpecialToken s) { return t->special[s]; }

const char *tokenizer_token(const Tokenizer *t, int id) {
    return id >= 0 && id < t->n ? t->token[id] : NULL;
}

/* ---- encoding ---- */

typedef struct {
    const Tokenizer *t;
    int32_t *id;
    int n, capacity;
} Encoder;

static void put_id(Encoder *e, int id) {
    if (e->n < e->capacity) e->id[e->n++] = id;
}

/* The longest token that starts word[at..n) and how many bytes it takes; -1 when there is none. */
static int longest(const Tokenizer *t, const char *word, size_t at, size_t n, size_t *used) {
    char piece[MAX_WORD + 3] = "##";
    for (size_t end = n; end > at; end--) {
        if (end < n && ((unsigned char)word[end] & 0xc0) == 0x80) continue; /* inside a character */
        size_t len = end - at, skip = at ? 2 : 0;
        memcpy(piece + skip, word + at, len);
        int id = find_token(t, piece, len + skip);
        if (id >= 0) {
            *used = len;
            return id;
        }
    }
    return -1;
}

static void encode_word(void *user, const char *word, size_t n) {
    Encoder *e = user;
    int start = e->n, unknown = e->t->special[TOK_UNK];
    if (n > MAX_WORD) {
        put_id(e, unknown);
        return;
    }
    for (size_t at = 0, used = 0; at < n; at += used) {
        int id = longest(e->t, word, at, n, &used);
        if (id < 0) { /* one piece unknown: the word is */
            e->n = start;
            put_id(e, unknown);
            return;
        }
        put_id(e, id);
    }
}

Status tokenizer_encode(const Tokenizer *t, const char *where, const char *text, int32_t *id,
                        int capacity, int *n) {
    Encoder e = {t, id, 0, capacity};
    TRY(tokenizer_words(where, text, t->uncased, encode_word, &e));
    *n = e.n;
    return NULL;
}

/* ---- decoding ---- */

static bool is_special(const Tokenizer *t, int id) {
    for (int i = 0; i < TOK_SPECIALS; i++)
        if (i != TOK_UNK && id == t->special[i]) return true;
    return false;
}

static bool begins_alone(const char *s) {
    size_t used;
    return strcmp(s, SPECIAL[TOK_UNK]) && stands_alone(next_char(s, strlen(s), &used));
}

void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, Buf *out) {
    bool glued = true; /* no space before the next token */
    for (int i = 0; i < n; i++) {
        const char *s = tokenizer_token(t, id[i]);
        if (!s || is_special(t, id[i])) continue;
        bool continues = s[0] == '#' && s[1] == '#' && s[2], alone = begins_alone(s);
        if (!glued && !continues && !alone) buf_puts(out, " ");
        buf_puts(out, continues ? s + 2 : s);
        glued = !continues && alone;
    }
}
