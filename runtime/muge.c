/* muge.c: reading JSON lines of captions and TSV lines of base64 pictures.
 *
 * Both files are gone through once. The captions are copied into one text buffer; the pictures stay
 * in the mapped file, found through a hash table from id to line. */
#include "runtime/muge.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *p; /* NULL when there is none */
    size_t n;
    bool mapped;
} Bytes;

typedef struct {
    size_t id; /* offset in Muge.text */
    uint32_t first_text, ntexts, line;
    uint32_t picture;
} Example;

/* One line of the .tsv; offsets into it. */
typedef struct {
    size_t id, data, end;
    uint32_t line;
} Picture;

struct Muge {
    char *name; /* without .jsonl and .tsv */
    Bytes tsv;
    Buf text;
    VEC(size_t) caption; /* offsets in text */
    VEC(Example) example;
    VEC(Picture) picture;
    uint32_t *slot; /* hash table of index in picture + 1 */
    uint32_t mask;
};

/* ---- captions ---- */

static size_t keep_text(Muge *m, const char *s) {
    size_t at = m->text.n;
    buf_put(&m->text, s, strlen(s) + 1);
    return at;
}

static Status line_error(const Muge *m, const char *ext, uint32_t line, const char *text) {
    return status_make(EXIT_INPUT, "%s.%s:%u: %s", m->name, ext, line, text);
}

static Status keep_captions(Muge *m, const json_t *text, Example *e) {
    e->first_text = m->caption.n;
    if (json_is_string(text)) {
        if (*json_string_value(text)) vec_push(&m->caption, keep_text(m, json_string_value(text)));
    } else if (json_is_array(text)) {
        for (size_t i = 0; i < json_array_size(text); i++) {
            const char *s = json_string_value(json_array_get(text, i));
            if (!s) return line_error(m, "jsonl", e->line, "\"text\" holds something not a string");
            vec_push(&m->caption, keep_text(m, s));
        }
    } else {
        return line_error(m, "jsonl", e->line, "\"text\" is not a list of strings");
    }
    e->ntexts = m->caption.n - e->first_text;
    return NULL;
}

static Status keep_example(Muge *m, const json_t *object, uint32_t line) {
    if (!json_is_object(object)) return line_error(m, "jsonl", line, "not a JSON object");
    const json_t *id = json_object_get(object, "image_id");
    Example e = {.line = line, .picture = UINT32_MAX};
    char number[32];
    if (json_is_integer(id)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
        e.id = keep_text(m, number);
    } else if (json_is_string(id)) {
        e.id = keep_text(m, json_string_value(id));
    } else {
        return line_error(m, "jsonl", line, "no \"image_id\" that is a string");
    }
    TRY(keep_captions(m, json_object_get(object, "text"), &e));
    vec_push(&m->example, e);
    return NULL;
}

static bool is_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r') return false;
    return true;
}

static Status read_caption_line(Muge *m, const char *p, size_t n, uint32_t line) {
    if (is_blank(p, n)) return NULL;
    json_error_t e;
    json_t *object = json_loadb(p, n, JSON_REJECT_DUPLICATES, &e);
    if (!object)
        return status_make(EXIT_INPUT, "%s.jsonl:%u:%d: %s", m->name, line, MAX(e.position, 1),
                           e.text);
    Status s = keep_example(m, object, line);
    json_decref(object);
    return s;
}

typedef Status (*LineFn)(Muge *m, const char *p, size_t n, uint32_t line);

static Status each_line(Muge *m, const char *text, size_t n, LineFn fn) {
    uint32_t line = 1;
    for (size_t at = 0; at < n; line++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (text + at)) : n - at;
        TRY(fn(m, text + at, len, line));
        at += len + 1;
        if (line == UINT32_MAX - 1) return line_error(m, "jsonl", line, "too many lines");
    }
    return NULL;
}

/* ---- pictures ---- */

static Status read_picture_line(Muge *m, const char *p, size_t n, uint32_t line) {
    if (is_blank(p, n)) return NULL;
    const char *tab = memchr(p, '\t', n);
    if (!tab) return line_error(m, "tsv", line, "no tab between image_id and picture");
    size_t id = (size_t)(p - m->tsv.p), end = id + n;
    if (p[n - 1] == '\r') end--;
    Picture picture = {id, id + (size_t)(tab - p) + 1, end, line};
    vec_push(&m->picture, picture);
    return NULL;
}

static size_t id_length(const Picture *p) { return p->data - p->id - 1; }

static uint32_t *find_slot(const Muge *m, const char *id, size_t n) {
    uint32_t i = (uint32_t)hash_bytes(id, n, 0) & m->mask;
    for (;; i = (i + 1) & m->mask) {
        if (!m->slot[i]) return &m->slot[i];
        const Picture *p = &m->picture.p[m->slot[i] - 1];
        if (id_length(p) == n && !memcmp(m->tsv.p + p->id, id, n)) return &m->slot[i];
    }
}

static Status index_pictures(Muge *m) {
    uint32_t size = 16;
    while (size / 2 < m->picture.n && size < 1u << 31) size *= 2;
    m->mask = size - 1;
    m->slot = calloc(size, sizeof *m->slot);
    if (!m->slot) return status_make(EXIT_SYSTEM, "%s.tsv: out of memory", m->name);
    for (uint32_t i = 0; i < m->picture.n; i++) {
        const Picture *p = &m->picture.p[i];
        uint32_t *slot = find_slot(m, m->tsv.p + p->id, id_length(p));
        if (*slot)
            return status_make(EXIT_INPUT, "%s.tsv:%u: the image_id of line %u again", m->name,
                               p->line, m->picture.p[*slot - 1].line);
        *slot = i + 1;
    }
    return NULL;
}

static Status find_pictures(Muge *m) {
    for (uint32_t i = 0; i < m->example.n; i++) {
        Example *e = &m->example.p[i];
        const char *id = m->text.p + e->id;
        uint32_t slot = *find_slot(m, id, strlen(id));
        if (!slot)
            return status_make(EXIT_INPUT, "%s.jsonl:%u: picture \"%s\" is not in %s.tsv", m->name,
                               e->line, id, m->name);
        e->picture = slot - 1;
    }
    return NULL;
}

/* ---- opening ---- */

static Status read_all(Muge *m, Bytes jsonl) {
    TRY(each_line(m, jsonl.p, jsonl.n, read_caption_line));
    if (!m->example.n) return status_make(EXIT_INPUT, "%s.jsonl: no captions in it", m->name);
    if (!m->tsv.p) return NULL;
    TRY(each_line(m, m->tsv.p, m->tsv.n, read_picture_line));
    TRY(index_pictures(m));
    return find_pictures(m);
}

static void release(Bytes b) {
    if (b.mapped) munmap((void *)b.p, b.n);
}

/* Takes over tsv, also when it fails. */
static Status parse(const char *name, Bytes jsonl, Bytes tsv, Muge **out) {
    *out = NULL;
    Muge *m = calloc(1, sizeof *m);
    if (!m || !(m->name = strdup(name))) {
        free(m);
        release(tsv);
        return status_make(EXIT_SYSTEM, "%s: out of memory", name);
    }
    m->tsv = tsv;
    Status s = read_all(m, jsonl);
    if (s)
        muge_close(m);
    else
        *out = m;
    return s;
}

Status muge_parse(const char *name, const char *jsonl, size_t njsonl, const char *tsv, size_t ntsv,
                  Muge **out) {
    return parse(name, (Bytes){jsonl, njsonl, false}, (Bytes){tsv, ntsv, false}, out);
}

static Status map_file(const char *name, const char *ext, Bytes *out) {
    Buf path = {0};
    buf_printf(&path, "%s.%s", name, ext);
    int fd = open(path.p, O_RDONLY | O_CLOEXEC);
    struct stat st;
    Status s = NULL;
    *out = (Bytes){"", 0, false};
    if (fd < 0 || fstat(fd, &st))
        s = status_make(EXIT_INPUT, "%s: %s", path.p, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        s = status_make(EXIT_INPUT, "%s: not a regular file", path.p);
    else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            s = status_errno("%s: cannot map", path.p);
        else
            *out = (Bytes){p, (size_t)st.st_size, true};
    }
    if (fd >= 0) close(fd);
    buf_free(&path);
    return s;
}

Status muge_open(const char *dir, const char *split, bool with_images, Muge **out) {
    Buf name = {0};
    Bytes jsonl = {0}, tsv = {0};
    *out = NULL;
    buf_printf(&name, "%s/IC_%s", dir, split);
    Status s = map_file(name.p, "jsonl", &jsonl);
    if (!s && with_images) s = map_file(name.p, "tsv", &tsv);
    if (!s) s = parse(name.p, jsonl, tsv, out);
    release(jsonl);
    buf_free(&name);
    return s;
}

void muge_close(Muge *m) {
    if (!m) return;
    release(m->tsv);
    buf_free(&m->text);
    vec_free(&m->caption);
    vec_free(&m->example);
    vec_free(&m->picture);
    free(m->slot);
    free(m->name);
    free(m);
}

uint32_t muge_count(const Muge *m) { return m->example.n; }

const char *muge_id(const Muge *m, uint32_t i) { return m->text.p + m->example.p[i].id; }

uint32_t muge_texts(const Muge *m, uint32_t i) { return m->example.p[i].ntexts; }

const char *muge_text(const Muge *m, uint32_t i, uint32_t k) {
    ASSERT(k < m->example.p[i].ntexts);
    return m->text.p + m->caption.p[m->example.p[i].first_text + k];
}

void muge_where_text(const Muge *m, uint32_t i, Buf *out) {
    buf_printf(out, "%s.jsonl:%u", m->name, m->example.p[i].line);
}

void muge_where_image(const Muge *m, uint32_t i, Buf *out) {
    buf_printf(out, "%s.tsv:%u", m->name, m->picture.p[m->example.p[i].picture].line);
}

/* ---- base64 ---- */

static const char DIGIT[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void base64_put(Buf *out, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i += 3) {
        size_t k = MIN(n - i, (size_t)3);
        uint32_t v = (uint32_t)p[i] << 16 | (k > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
                     (k > 2 ? (uint32_t)p[i + 2] : 0);
        char four[4] = {DIGIT[v >> 18], DIGIT[v >> 12 & 63], DIGIT[v >> 6 & 63], DIGIT[v & 63]};
        for (size_t j = k + 1; j < 4; j++) four[j] = '=';
        buf_put(out, four, 4);
    }
}

/* Both alphabets: -_ and +/. Returns -1 for any other character. */
static int base64_value(unsigned char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '-' || c == '+') return 62;
    return c == '_' || c == '/' ? 63 : -1;
}

/* Returns the index of the first bad character, or n. A length of 4k+1 is bad at the end. */
static size_t base64_get(const char *s, size_t n, Buf *out) {
    size_t len = n;
    while (len && n - len < 2 && s[len - 1] == '=') len--;
    uint32_t v = 0;
    for (size_t i = 0; i < len; i++) {
        int d = base64_value((unsigned char)s[i]);
        if (d < 0) return i;
        v = v << 6 | (uint32_t)d;
        if (i % 4 == 3) buf_put(out, (char[]){(char)(v >> 16), (char)(v >> 8), (char)v}, 3);
    }
    if (len % 4 == 1) return len - 1;
    if (len % 4 == 2) buf_put(out, (char[]){(char)(v >> 4)}, 1);
    if (len % 4 == 3) buf_put(out, (char[]){(char)(v >> 10), (char)(v >> 2)}, 2);
    return n;
}

Status muge_image(const Muge *m, uint32_t i, Buf *out) {
    const Picture *p = &m->picture.p[m->example.p[i].picture];
    size_t n = p->end - p->data, bad = base64_get(m->tsv.p + p->data, n, out);
    if (bad == n && n) return NULL;
    return status_make(EXIT_INPUT, "%s.tsv:%u:%zu: not base64", m->name, p->line,
                       p->data - p->id + bad + 1);
}
