/* wisdom.c: see wisdom.h. */
#include "runtime/wisdom.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char title[] = "m6c-wisdom 2 ";

void wisdom_put_product(const PlanGemm *s, Buf *out) {
    buf_printf(out, "%s %s %s %c%c %" PRId64 " %" PRId64 " %" PRId64, dtype_name(s->da),
               dtype_name(s->db), dtype_name(s->dc), s->ta ? 't' : 'n', s->tb ? 't' : 'n', s->m,
               s->n, s->k);
    buf_printf(out, " %" PRId64 " %" PRId64 " %" PRId64 " %d", s->lda, s->ldb, s->ldc,
               s->beta != 0);
    for (int i = 0; i < s->nbatch; i++)
        buf_printf(out, " %" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64, s->count[i], s->sa[i],
                   s->sb[i], s->sc[i]);
}

const WisdomEntry *wisdom_recall(const Wisdom *w, const char *key) {
    uint64_t h = hash_bytes(key, strlen(key), 0);
    for (uint32_t i = 0; i < w->entry.n; i++)
        if (w->entry.p[i].hash == h && strcmp(w->entry.p[i].key, key) == 0) return &w->entry.p[i];
    return NULL;
}

static char *copy_text(const char *s, size_t n) {
    char *p = xmalloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void wisdom_remember(Wisdom *w, const char *key, const char *choice, double speed) {
    WisdomEntry *known = (WisdomEntry *)wisdom_recall(w, key);
    size_t n = strlen(key);
    if (!known) {
        vec_push(&w->entry, ((WisdomEntry){copy_text(key, n), hash_bytes(key, n, 0), NULL, 0}));
        known = &w->entry.p[w->entry.n - 1];
    }
    free(known->choice);
    known->choice = copy_text(choice, strlen(choice));
    known->speed = speed;
    w->news = true;
}

/* A line that is not understood is left out, and what is known already is newer. */
static void read_line(Wisdom *w, const char *p, const char *end) {
    double speed;
    const char *a = memchr(p, ' ', (size_t)(end - p));
    const char *b = a ? memchr(a + 1, ' ', (size_t)(end - a - 1)) : NULL;
    if (!b || !parse_f64(a + 1, (size_t)(b - a - 1), &speed)) return;
    char *key = copy_text(b + 1, (size_t)(end - b - 1)), *choice = copy_text(p, (size_t)(a - p));
    if (!wisdom_recall(w, key)) wisdom_remember(w, key, choice, speed);
    free(key);
    free(choice);
}

static void read_text(Wisdom *w, const char *p, size_t n) {
    const char *end = p + n;
    for (bool first = true; p < end; first = false) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        size_t length = (size_t)(stop - p), t = sizeof title - 1;
        if (!first)
            read_line(w, p, stop);
        else if (length != t + strlen(w->signature) || memcmp(p, title, t) != 0 ||
                 memcmp(p + t, w->signature, length - t) != 0)
            return;
        p = stop + 1;
    }
}

static bool wisdom_path(const Wisdom *w, Buf *path) {
    Status s = cache_dir(path);
    if (!s) buf_printf(path, "/%s", w->file);
    free(s);
    return path->n > 0;
}

static void load(Wisdom *w) {
    Buf path = {0};
    char *text;
    size_t n;
    bool news = w->news;
    if (wisdom_path(w, &path)) {
        Status s = file_read(path.p, &text, &n);
        if (!s) {
            read_text(w, text, n);
            free(text);
        }
        free(s);
    }
    w->news = news;
    buf_free(&path);
}

void wisdom_open(Wisdom *w, char *file, char *signature) {
    *w = (Wisdom){.file = file, .signature = signature};
    load(w);
}

void wisdom_save(Wisdom *w) {
    Buf path = {0}, out = {0};
    if (!w->news || !wisdom_path(w, &path)) return;
    load(w); /* what others wrote meanwhile */
    buf_printf(&out, "%s%s\n", title, w->signature);
    for (uint32_t i = 0; i < w->entry.n; i++) {
        buf_printf(&out, "%s ", w->entry.p[i].choice);
        buf_double(&out, w->entry.p[i].speed);
        buf_printf(&out, " %s\n", w->entry.p[i].key);
    }
    free(file_write_atomic(path.p, out.p, out.n));
    w->news = false;
    buf_free(&path);
    buf_free(&out);
}

void wisdom_close(Wisdom *w) {
    for (uint32_t i = 0; i < w->entry.n; i++) {
        free(w->entry.p[i].key);
        free(w->entry.p[i].choice);
    }
    vec_free(&w->entry);
    free(w->file);
    free(w->signature);
}
