/* prepare.c: emoji pictures with captions, as a caption data set (runtime/muge.h).
 *
 * Captions are CLDR's short names of emoji sequences; a picture is the PNG that the font stores for
 * the one glyph the sequence shapes to. Every sequence with a Chinese and an English name and such
 * a glyph is used.
 *
 * Splits are made by base symbol: a sequence without skin tone, hair and gender, and the family or
 * couple it is one of many of. Pictures that are the same to the last byte have the same base, too
 * (some flags). `unseen` holds whole bases. Of the other bases, one sequence stays in `train` and
 * some go to `valid` and `test`: new combinations of things seen. All choices are hashes of
 * names and pictures: the same input gives the same files. */
#include <errno.h>
#include <expat.h>
#include <getopt.h>
#include <hb-ot.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/base.h"
#include "runtime/muge.h"
#include "runtime/tokenizer.h"

enum { ZH, EN, LANGS };
enum { TRAIN, VALID, TEST, UNSEEN, SPLITS };
enum { OUTPUT_VERSION = 1 }; /* raise it when the same inputs give other files */
enum { ZWJ = 0x200d, PERSON = 0x1f9d1, FEWEST_WORDS = 3 };

static const char *const LANG[LANGS] = {"zh", "en"};
static const char *const SPLIT[SPLITS] = {"train", "valid", "test", "unseen"};
static const char *const SPECIAL[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

typedef struct {
    const char *cp; /* the sequence, UTF-8 */
    const char *text[LANGS];
    const char *base;
    const char *png;
    unsigned npng;
    int split;
} Emoji;

typedef VEC(Emoji) EmojiList;

/* A token and how often it occurs. */
typedef struct {
    const char *s;
    int64_t n;
} Token;

typedef struct {
    const char *out, *font, *cldr;
    bool lang[LANGS];
    Session *session; /* owns all text */
    Arena *arena;
    EmojiList list;
    uint64_t inputs; /* hash of everything the output depends on */
} Job;

/* ---- captions: CLDR's XML ---- */

typedef struct {
    Job *job;
    int lang;
    const char *cp; /* inside <annotation type="tts">, else NULL */
    Buf text;
    EmojiList *into;
} Reader;

static void on_start(void *user, const char *element, const char **attr) {
    Reader *r = user;
    const char *cp = NULL;
    bool tts = false;
    if (strcmp(element, "annotation")) return;
    for (; *attr; attr += 2) {
        if (!strcmp(attr[0], "cp")) cp = attr[1];
        tts |= !strcmp(attr[0], "type") && !strcmp(attr[1], "tts");
    }
    r->cp = tts && cp ? intern(r->job->session, cp) : NULL;
    r->text.n = 0;
}

static void on_text(void *user, const char *s, int n) {
    Reader *r = user;
    if (r->cp) buf_put(&r->text, s, (size_t)n);
}

static void on_end(void *user, const char *element) {
    Reader *r = user;
    (void)element;
    if (!r->cp || !r->text.n) return;
    Emoji e = {.cp = r->cp};
    e.text[r->lang] = intern_n(r->job->session, r->text.p, r->text.n);
    vec_push(r->into, e);
    r->cp = NULL;
}

static Status read_names(Job *job, const char *folder, int lang, EmojiList *into) {
    char *path = arena_printf(job->arena, "%s/%s/%s.xml", job->cldr, folder, LANG[lang]), *text;
    size_t n;
    TRY(file_read(path, &text, &n));
    job->inputs = hash_bytes(text, n, job->inputs);
    Reader r = {.job = job, .lang = lang, .into = into};
    XML_Parser p = XML_ParserCreate(NULL);
    XML_SetUserData(p, &r);
    XML_SetElementHandler(p, on_start, on_end);
    XML_SetCharacterDataHandler(p, on_text);
    Status s = NULL;
    if (n > INT32_MAX || XML_Parse(p, text, (int)n, 1) != XML_STATUS_OK)
        s = status_make(EXIT_INPUT, "%s:%lu: %s", path, XML_GetCurrentLineNumber(p),
                        XML_ErrorString(XML_GetErrorCode(p)));
    XML_ParserFree(p);
    buf_free(&r.text);
    free(text);
    return s;
}

static int by_sequence(const void *a, const void *b) {
    return strcmp(((const Emoji *)a)->cp, ((const Emoji *)b)->cp);
}

/* The sequences named in both languages, in code point order, each once. */
static Status read_captions(Job *job) {
    EmojiList all = {0};
    for (int lang = 0; lang < LANGS; lang++) {
        TRY(read_names(job, "annotations", lang, &all));
        TRY(read_names(job, "annotationsDerived", lang, &all));
    }
    qsort(all.p, all.n, sizeof *all.p, by_sequence);
    for (uint32_t i = 0, j; i < all.n; i = j) {
        Emoji e = {.cp = all.p[i].cp};
        for (j = i; j < all.n && all.p[j].cp == e.cp; j++)
            for (int lang = 0; lang < LANGS; lang++)
                if (!e.text[lang]) e.text[lang] = all.p[j].text[lang];
        if (e.text[ZH] && e.text[EN]) vec_push(&job->list, e);
    }
    vec_free(&all);
    return NULL;
}

/* ---- pictures: the font ---- */

/* The PNG of the one glyph that the sequence becomes, or an empty blob. */
static hb_blob_t *picture(hb_font_t *font, hb_buffer_t *buffer, const char *cp) {
    hb_buffer_clear_contents(buffer);
    hb_buffer_add_utf8(buffer, cp, -1, 0, -1);
    hb_buffer_guess_segment_properties(buffer);
    hb_buffer_set_flags(buffer, HB_BUFFER_FLAG_REMOVE_DEFAULT_IGNORABLES);
    hb_shape(font, buffer, NULL, 0);
    unsigned n;
    const hb_glyph_info_t *glyph = hb_buffer_get_glyph_infos(buffer, &n);
    if (n != 1 || !glyph->codepoint) return hb_blob_get_empty();
    return hb_ot_color_glyph_reference_png(font, glyph->codepoint);
}

static void keep_drawn(Job *job, hb_font_t *font) {
    hb_buffer_t *buffer = hb_buffer_create();
    uint32_t kept = 0;
    for (uint32_t i = 0; i < job->list.n; i++) {
        Emoji e = job->list.p[i];
        hb_blob_t *blob = picture(font, buffer, e.cp);
        const char *png = hb_blob_get_data(blob, &e.npng);
        if (e.npng) {
            e.png = arena_strdup(job->arena, png, e.npng);
            job->list.p[kept++] = e;
        }
        hb_blob_destroy(blob);
    }
    job->list.n = kept;
    hb_buffer_destroy(buffer);
}

static Status draw(Job *job) {
    hb_blob_t *blob = hb_blob_create_from_file_or_fail(job->font);
    if (!blob) return status_make(EXIT_INPUT, "%s: cannot read the font", job->font);
    unsigned n;
    const char *bytes = hb_blob_get_data(blob, &n);
    job->inputs = hash_bytes(bytes, n, job->inputs);
    hb_face_t *face = hb_face_create(blob, 0);
    hb_font_t *font = hb_font_create(face);
    Status s = NULL;
    if (hb_ot_color_has_png(face))
        keep_drawn(job, font);
    else
        s = status_make(EXIT_INPUT, "%s: the font stores no PNG pictures", job->font);
    if (!s && !job->list.n) s = status_make(EXIT_INPUT, "%s: no sequence has a picture", job->font);
    hb_font_destroy(font);
    hb_face_destroy(face);
    hb_blob_destroy(blob);
    return s;
}

/* ---- base symbols ---- */

enum { MAX_SEQUENCE = 32 };

static int decode(const char *s, uint32_t *c) {
    int n = 0;
    for (; *s && n < MAX_SEQUENCE; n++) {
        size_t len = utf8_length(s);
        uint32_t x = (unsigned char)*s;
        if (len > 1) x &= 0x7fu >> len;
        for (size_t i = 1; i < len && s[i]; i++) x = x << 6 | ((unsigned char)s[i] & 0x3f);
        c[n] = x;
        s += strnlen(s, len);
    }
    return n;
}

static bool within(uint32_t c, uint32_t lo, uint32_t hi) { return c >= lo && c <= hi; }

static bool is_skin(uint32_t c) { return within(c, 0x1f3fb, 0x1f3ff); }
static bool is_hair(uint32_t c) { return within(c, 0x1f9b0, 0x1f9b3); }
static bool is_sex(uint32_t c) { return c == 0x2640 || c == 0x2642; }
static bool is_adult(uint32_t c) { return within(c, 0x1f468, 0x1f469) || c == PERSON; }
static bool is_child(uint32_t c) { return within(c, 0x1f466, 0x1f467) || c == 0x1f9d2; }

/* Single symbols that stand for one of the joined groups of people. */
static uint32_t couple_of(uint32_t c) {
    if (within(c, 0x1f46b, 0x1f46d)) return 0x1f91d; /* holding hands: the handshake joins them */
    if (c == 0x1f48f) return 0x1f48b;                /* a kiss */
    if (c == 0x1f491) return 0x2764;                 /* a couple with heart */
    return c == 0x1f46a ? 0x1f46a : 0;               /* a family */
}

/* What joins the people of a sequence: handshake, kiss, heart, or nothing (a family). 0 when there
 * are fewer than two. */
static uint32_t group_of(const uint32_t *c, int n) {
    uint32_t joint = 0x1f46a;
    int people = 0;
    for (int i = 0; i < n; i++) {
        people += is_adult(c[i]) || is_child(c[i]);
        if (c[i] == 0x1f91d || c[i] == 0x1f48b || (c[i] == 0x2764 && joint != 0x1f48b))
            joint = c[i];
    }
    return people > 1 ? joint : couple_of(c[0]);
}

/* Removes what only varies a symbol; every grown person is the same. */
static int strip_variants(uint32_t *c, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (is_skin(c[i]) && n > 1) continue;
        if (c[i] == ZWJ && i + 1 < n && (is_hair(c[i + 1]) || is_sex(c[i + 1]))) {
            i++;
            continue;
        }
        c[kept++] = is_adult(c[i]) ? PERSON : c[i];
    }
    return kept;
}

/* Flags spelled by letters or tags are symbols of their own, and so are people at their jobs; of
 * any other joined sequence the first symbol counts. */
static int base_length(const uint32_t *c, int n) {
    bool flag = within(c[0], 0x1f1e6, 0x1f1ff) || (n > 1 && within(c[1], 0xe0020, 0xe007f));
    bool job = c[0] == PERSON;
    bool keycap = n == 2 && c[1] == 0x20e3;
    return flag || job || keycap ? n : 1;
}

static const char *hex_name(Job *job, const uint32_t *c, int n) {
    Buf b = {0};
    for (int i = 0; i < n; i++) buf_printf(&b, "%s%" PRIx32, i ? "-" : "", c[i]);
    const char *s = intern_n(job->session, b.p, b.n);
    buf_free(&b);
    return s;
}

static const char *image_id(Job *job, const Emoji *e) {
    uint32_t c[MAX_SEQUENCE];
    return hex_name(job, c, decode(e->cp, c));
}

static const char *base_of(Job *job, const Emoji *e) {
    uint32_t c[MAX_SEQUENCE];
    int n = decode(e->cp, c);
    uint32_t group = group_of(c, n);
    if (group) return arena_printf(job->arena, "people-%" PRIx32, group);
    n = strip_variants(c, n);
    if (n > 1 && c[0] == 0x1faf1) c[0] = 0x1f91d; /* two hands of different colour: a handshake */
    return hex_name(job, c, base_length(c, n));
}

/* ---- splits ---- */

static int by_picture(const void *pa, const void *pb) {
    const Emoji *a = *(Emoji *const *)pa, *b = *(Emoji *const *)pb;
    if (a->npng != b->npng) return a->npng < b->npng ? -1 : 1;
    int order = memcmp(a->png, b->png, a->npng);
    return order ? order : strcmp(a->cp, b->cp);
}

static bool same_picture(const Emoji *a, const Emoji *b) {
    return a->npng == b->npng && !memcmp(a->png, b->png, a->npng);
}

/* Equal pictures share a base. */
static void merge_equal(Job *job) {
    uint32_t n = job->list.n;
    Emoji **order = xmalloc(n * sizeof *order);
    for (uint32_t i = 0; i < n; i++) order[i] = &job->list.p[i];
    qsort(order, n, sizeof *order, by_picture);
    for (uint32_t i = 1; i < n; i++) {
        const char *from = order[i]->base, *to = order[i - 1]->base;
        if (!same_picture(order[i - 1], order[i]) || from == to) continue;
        for (uint32_t j = 0; j < n; j++)
            if (job->list.p[j].base == from) job->list.p[j].base = to;
    }
    free(order);
}

/* A number below 100 that some bytes have by chance. */
static unsigned chance(const char *bytes, size_t n, uint64_t salt) {
    return (unsigned)(hash_bytes(bytes, n, salt) % 100);
}

static int by_base(const void *pa, const void *pb) {
    const Emoji *a = pa, *b = pb;
    int order = strcmp(a->base, b->base);
    if (order) return order;
    size_t na = strlen(a->cp), nb = strlen(b->cp);
    if (na != nb) return na < nb ? -1 : 1; /* the plainest first: it stays in train */
    return strcmp(a->cp, b->cp);
}

static void choose_splits(Job *job) {
    for (uint32_t i = 0; i < job->list.n; i++)
        job->list.p[i].base = intern(job->session, base_of(job, &job->list.p[i]));
    merge_equal(job);
    qsort(job->list.p, job->list.n, sizeof *job->list.p, by_base);
    const Emoji *first = NULL; /* of the base */
    for (uint32_t i = 0; i < job->list.n; i++) {
        Emoji *e = &job->list.p[i];
        if (!i || first->base != e->base) first = e;
        unsigned dice = chance(e->png, e->npng, 2); /* equal pictures share their split */
        if (chance(e->base, strlen(e->base), 1) < 10)
            e->split = UNSEEN;
        else if (dice >= 20 || same_picture(first, e))
            e->split = TRAIN;
        else
            e->split = dice < 10 ? VALID : TEST;
    }
    qsort(job->list.p, job->list.n, sizeof *job->list.p, by_sequence);
}

/* ---- vocabulary ---- */

typedef struct {
    Job *job;
    VEC(Token) token;
} Counter;

static void count_token(Counter *c, const char *s, size_t n, const char *prefix) {
    char *text = arena_printf(c->job->arena, "%s%.*s", prefix, (int)n, s);
    vec_push(&c->token, ((Token){intern(c->job->session, text), 1}));
}

/* A word counts with its characters, and whole. */
static void count_word(void *user, const char *word, size_t n) {
    Counter *c = user;
    for (size_t at = 0, len; at < n; at += len) {
        len = utf8_length(word + at);
        count_token(c, word + at, len, at ? "##" : "");
    }
    if (utf8_length(word) < n) count_token(c, word, n, "");
}

static int by_text(const void *a, const void *b) {
    return strcmp(((const Token *)a)->s, ((const Token *)b)->s);
}

static int by_count(const void *pa, const void *pb) {
    const Token *a = pa, *b = pb;
    if (a->n != b->n) return a->n > b->n ? -1 : 1;
    return strcmp(a->s, b->s);
}

static bool is_whole_word(const char *s) {
    if (!strncmp(s, "##", 2) && s[2]) return false;
    return s[utf8_length(s)] != 0;
}

static void sum_up(Counter *c) {
    uint32_t kept = 0;
    qsort(c->token.p, c->token.n, sizeof *c->token.p, by_text);
    for (uint32_t i = 0, j; i < c->token.n; i = j) {
        Token t = {c->token.p[i].s, 0};
        for (j = i; j < c->token.n && c->token.p[j].s == t.s; j++) t.n++;
        if (!is_whole_word(t.s) || t.n >= FEWEST_WORDS) c->token.p[kept++] = t;
    }
    c->token.n = kept;
    qsort(c->token.p, c->token.n, sizeof *c->token.p, by_count);
}

static Status make_vocabulary(Job *job, Buf *out) {
    Counter c = {.job = job};
    Status s = NULL;
    for (uint32_t i = 0; i < job->list.n && !s; i++)
        for (int lang = 0; lang < LANGS && !s; lang++)
            if (job->lang[lang] && job->list.p[i].split == TRAIN)
                s = tokenizer_words(job->cldr, job->list.p[i].text[lang], false, count_word, &c);
    sum_up(&c);
    for (size_t i = 0; i < COUNT(SPECIAL); i++) buf_printf(out, "%s\n", SPECIAL[i]);
    for (uint32_t i = 0; i < c.token.n; i++) buf_printf(out, "%s\n", c.token.p[i].s);
    vec_free(&c.token);
    return s;
}

/* ---- what is in it ---- */

typedef struct {
    int pictures, bases;
    int64_t captions, tokens, longest; /* tokens: targets, the [SEP] included */
    double nll;                        /* of a target under the unigram model of train */
} Facts;

typedef struct {
    int vocabulary;
    Facts split[SPLITS];
} Stats;

enum { MAX_TOKENS = 1024 };

/* The targets of one caption: its tokens and [SEP]. */
static Status targets(const Tokenizer *t, const char *text, int32_t *id, int *n) {
    TRY(tokenizer_encode(t, text, text, id, MAX_TOKENS - 1, n));
    id[(*n)++] = tokenizer_special(t, TOK_SEP);
    return NULL;
}

/* Adds to count[] (pass 0) or to the facts, given the counts of train (pass 1). */
static Status go_through(const Job *job, const Tokenizer *t, int64_t *count, int64_t total,
                         int pass, Stats *stats) {
    int32_t id[MAX_TOKENS];
    int n;
    for (uint32_t i = 0; i < job->list.n; i++)
        for (int lang = 0; lang < LANGS; lang++) {
            const Emoji *e = &job->list.p[i];
            Facts *f = &stats->split[e->split];
            if (!job->lang[lang] || (!pass && e->split != TRAIN)) continue;
            TRY(targets(t, e->text[lang], id, &n));
            for (int k = 0; k < n && !pass; k++) count[id[k]]++;
            if (!pass) continue;
            double seen = (double)(total + stats->vocabulary);
            for (int k = 0; k < n; k++) f->nll -= log((double)(count[id[k]] + 1) / seen);
            f->captions++;
            f->tokens += n;
            f->longest = MAX(f->longest, n);
        }
    return NULL;
}

static void count_bases(const Job *job, Stats *stats) {
    const char *last[SPLITS] = {0};
    uint32_t n = job->list.n;
    Emoji *order = xmalloc(n * sizeof *order);
    memcpy(order, job->list.p, n * sizeof *order);
    qsort(order, n, sizeof *order, by_base);
    for (uint32_t i = 0; i < n; i++) {
        Facts *f = &stats->split[order[i].split];
        f->pictures++;
        f->bases += last[order[i].split] != order[i].base;
        last[order[i].split] = order[i].base;
    }
    free(order);
}

static Status measure(const Job *job, const Buf *vocabulary, Stats *stats) {
    Tokenizer *t;
    TRY(tokenizer_parse("vocab.txt", vocabulary->p, vocabulary->n, &t));
    *stats = (Stats){.vocabulary = tokenizer_size(t)};
    int64_t *count = xcalloc((size_t)stats->vocabulary, sizeof *count), total = 0;
    Status s = go_through(job, t, count, 0, 0, stats);
    for (int i = 0; i < stats->vocabulary; i++) total += count[i];
    if (!s) s = go_through(job, t, count, total, 1, stats);
    count_bases(job, stats);
    for (int i = 0; i < SPLITS; i++)
        if (stats->split[i].tokens) stats->split[i].nll /= (double)stats->split[i].tokens;
    free(count);
    tokenizer_free(t);
    return s;
}

static json_t *facts_json(const Facts *f) {
    return json_pack("{s:i, s:i, s:f, s:I, s:f, s:f}", "pictures", f->pictures, "base_symbols",
                     f->bases, "mean_caption_tokens",
                     (double)(f->tokens - f->captions) / (double)MAX(f->captions, 1),
                     "longest_caption_tokens", (json_int_t)(f->longest - 1), "unigram_loss", f->nll,
                     "unigram_perplexity", exp(f->nll));
}

static json_t *stats_json(const Job *job, const Stats *stats) {
    char inputs[32];
    snprintf(inputs, sizeof inputs, "%016" PRIx64, job->inputs);
    int longest = 0;
    json_t *splits = json_object();
    for (int i = 0; i < SPLITS; i++) {
        json_object_set_new(splits, SPLIT[i], facts_json(&stats->split[i]));
        longest = MAX(longest, (int)stats->split[i].longest);
    }
    return json_pack("{s:s, s:i, s:i, s:i, s:o}", "inputs", inputs, "pictures", (int)job->list.n,
                     "vocabulary", stats->vocabulary, "longest_target", longest, "splits", splits);
}

static void report(const json_t *stats) {
    const char *split;
    json_t *f;
    printf("%" JSON_INTEGER_FORMAT " pictures, %" JSON_INTEGER_FORMAT
           " tokens in the vocabulary, captions of at most %" JSON_INTEGER_FORMAT " targets\n",
           json_integer_value(json_object_get(stats, "pictures")),
           json_integer_value(json_object_get(stats, "vocabulary")),
           json_integer_value(json_object_get(stats, "longest_target")));
    printf("%-8s %9s %13s %13s %13s\n", "split", "pictures", "base symbols", "mean caption",
           "unigram loss");
    json_object_foreach(json_object_get(stats, "splits"), split, f)
        printf("%-8s %9" JSON_INTEGER_FORMAT " %13" JSON_INTEGER_FORMAT " %13.2f %13.4f\n", split,
               json_integer_value(json_object_get(f, "pictures")),
               json_integer_value(json_object_get(f, "base_symbols")),
               json_real_value(json_object_get(f, "mean_caption_tokens")),
               json_real_value(json_object_get(f, "unigram_loss")));
}

/* ---- writing ---- */

static Status write_text(const Job *job, const char *name, const Buf *b) {
    return file_write_atomic(arena_printf(job->arena, "%s/%s", job->out, name), b->p ? b->p : "",
                             b->n);
}

static void put_example(Job *job, const Emoji *e, Buf *jsonl, Buf *tsv) {
    const char *id = image_id(job, e);
    json_t *texts = json_array();
    for (int lang = 0; lang < LANGS; lang++)
        if (job->lang[lang]) json_array_append_new(texts, json_string(e->text[lang]));
    json_t *object = json_pack("{s:s, s:o}", "image_id", id, "text", texts);
    char *line = json_dumps(object, 0);
    buf_printf(jsonl, "%s\n", line);
    buf_printf(tsv, "%s\t", id);
    base64_put(tsv, e->png, e->npng);
    buf_puts(tsv, "\n");
    free(line);
    json_decref(object);
}

static Status write_split(Job *job, int split) {
    Buf jsonl = {0}, tsv = {0};
    for (uint32_t i = 0; i < job->list.n; i++)
        if (job->list.p[i].split == split) put_example(job, &job->list.p[i], &jsonl, &tsv);
    Status s = write_text(job, arena_printf(job->arena, "IC_%s.jsonl", SPLIT[split]), &jsonl);
    if (!s) s = write_text(job, arena_printf(job->arena, "IC_%s.tsv", SPLIT[split]), &tsv);
    buf_free(&jsonl);
    buf_free(&tsv);
    return s;
}

/* stats.json comes last: where it is and names the same inputs, the rest is whole. */
static Status write_all(Job *job) {
    Buf vocabulary = {0}, text = {0};
    Stats stats;
    TRY(make_dirs(job->out));
    TRY(make_vocabulary(job, &vocabulary));
    TRY(measure(job, &vocabulary, &stats));
    TRY(write_text(job, "vocab.txt", &vocabulary));
    for (int i = 0; i < SPLITS; i++) TRY(write_split(job, i));
    json_t *json = stats_json(job, &stats);
    char *dump = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    buf_printf(&text, "%s\n", dump);
    TRY(write_text(job, "stats.json", &text));
    report(json);
    json_decref(json);
    free(dump);
    buf_free(&text);
    buf_free(&vocabulary);
    return NULL;
}

/* ---- the command ---- */

/* The stats of an earlier run on the same inputs whose files are all there, or NULL. */
static json_t *up_to_date(const Job *job) {
    json_t *stats = json_load_file(arena_printf(job->arena, "%s/stats.json", job->out), 0, NULL);
    const char *inputs = json_string_value(json_object_get(stats, "inputs"));
    bool same = inputs && strtoull(inputs, NULL, 16) == job->inputs;
    static const char *const EXT[] = {"jsonl", "tsv"};
    for (int i = 0; same && i < SPLITS * 2; i++)
        same = !access(arena_printf(job->arena, "%s/IC_%s.%s", job->out, SPLIT[i / 2], EXT[i % 2]),
                       R_OK);
    same = same && !access(arena_printf(job->arena, "%s/vocab.txt", job->out), R_OK);
    if (!same) json_decref(stats);
    return same ? stats : NULL;
}

static Status run(Job *job) {
    job->inputs = hash_mix(OUTPUT_VERSION, (uint64_t)job->lang[ZH] * 2 + job->lang[EN]);
    TRY(read_captions(job));
    TRY(draw(job));
    json_t *stats = up_to_date(job);
    if (stats) {
        fprintf(stderr, "%s is up to date\n", job->out);
        report(stats);
        json_decref(stats);
        return NULL;
    }
    choose_splits(job);
    return write_all(job);
}

static const char USAGE[] =
    "usage: emoji-prepare OUT [--lang zh|en|both] [--font FILE] [--cldr DIR]\n"
    "Writes emoji pictures with captions to OUT as IC_{train,valid,test,unseen}.{jsonl,tsv},\n"
    "vocab.txt and stats.json.\n";

static bool set_lang(Job *job, const char *s) {
    bool both = !strcmp(s, "both");
    job->lang[ZH] = both || !strcmp(s, "zh");
    job->lang[EN] = both || !strcmp(s, "en");
    return job->lang[ZH] || job->lang[EN];
}

static bool read_options(Job *job, int argc, char **argv) {
    static const struct option LONG[] = {{"lang", required_argument, NULL, 'l'},
                                         {"font", required_argument, NULL, 'f'},
                                         {"cldr", required_argument, NULL, 'c'},
                                         {0}};
    for (int c; (c = getopt_long(argc, argv, "", LONG, NULL)) != -1;) {
        if (c == 'f') job->font = optarg;
        if (c == 'c') job->cldr = optarg;
        if (c == '?' || (c == 'l' && !set_lang(job, optarg))) return false;
    }
    job->out = argv[optind];
    return optind + 1 == argc;
}

int main(int argc, char **argv) {
    Job job = {.font = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
               .cldr = "/usr/share/unicode/cldr/common",
               .lang = {[ZH] = true}};
    if (!read_options(&job, argc, argv)) {
        fputs(USAGE, stderr);
        return EXIT_USAGE;
    }
    job.session = session_new();
    job.arena = session_arena(job.session);
    Status s = run(&job);
    int code = s ? s->code : EXIT_DONE;
    if (s) fprintf(stderr, "emoji-prepare: %s\n", s->text);
    free(s);
    vec_free(&job.list);
    session_free(job.session);
    return code;
}
