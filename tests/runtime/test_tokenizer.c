/* Checks runtime/tokenizer: specials, CJK and punctuation, WordPiece, case and accents, cutting,
 * decoding, and every bad vocabulary with its line. */
#include "runtime/tokenizer.h"
#include "tests/check.h"

#include <stdlib.h>

#define SPECIALS "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"

static Tokenizer *make(const char *text) {
    Tokenizer *t;
    Status s = tokenizer_parse("v.txt", text, strlen(text), &t);
    if (s) fprintf(stderr, "%s\n", s->text);
    free(s);
    return t;
}

/* Encodes and shows the tokens, separated by spaces. */
static void check_tokens(const Tokenizer *t, const char *text, int capacity, const char *expect) {
    int32_t id[64];
    int n = -1;
    Buf shown = {0};
    buf_puts(&shown, "");
    Status s = tokenizer_encode(t, "x", text, id, capacity, &n);
    CHECK(!s && n >= 0 && n <= capacity);
    for (int i = 0; i < n; i++) buf_printf(&shown, "%s%s", i ? " " : "", tokenizer_token(t, id[i]));
    CHECK_STR(shown.p ? shown.p : "", expect);
    buf_free(&shown);
    free(s);
}

static void check_decoded(const Tokenizer *t, const char *text, const char *expect) {
    int32_t id[64];
    int n;
    Buf b = {0};
    free(tokenizer_encode(t, "x", text, id + 1, 60, &n));
    id[0] = tokenizer_special(t, TOK_CLS);
    id[n + 1] = tokenizer_special(t, TOK_SEP);
    tokenizer_decode(t, id, n + 2, &b);
    CHECK_STR(b.p, expect);
    buf_free(&b);
}

static void test_words(void) {
    Tokenizer *t = make(SPECIALS "小\n猫\nun\n##aff\n##able\n##a\n:\n,\nA\n##B\n，\nCôté\r\n");
    CHECK(tokenizer_size(t) == 17);
    CHECK(tokenizer_special(t, TOK_PAD) == 0 && tokenizer_special(t, TOK_MASK) == 4);
    CHECK(!tokenizer_token(t, 17) && !tokenizer_token(t, -1));
    check_tokens(t, "小猫:unaffable,A", 64, "小 猫 : un ##aff ##able , A");
    check_tokens(t, " \t小\u3000猫\n", 64, "小 猫");
    check_tokens(t, "una unx 狗 AB BA", 64, "un ##a [UNK] [UNK] A ##B [UNK]");
    check_tokens(t, "un\u200baffable", 64, "un ##aff ##able");
    check_tokens(t, "[CLS]", 64, "[UNK] [UNK] [UNK]"); /* text cannot name specials */
    check_tokens(t, "小猫小猫小", 3, "小 猫 小");
    check_tokens(t, "unaffable", 2, "un ##aff");
    check_tokens(t, "，Côté", 64, "， Côté");
    check_tokens(t, "", 64, "");
    check_decoded(t, "小猫: unaffable AB， 小un A", "小猫:unaffable AB，小un A");
    tokenizer_free(t);
}

static void test_case(void) {
    Tokenizer *t = make(SPECIALS "cote\nstraße\n");
    check_tokens(t, "Côté COTE cote", 64, "cote cote cote");
    tokenizer_free(t);
    t = make(SPECIALS "cote\nX\n");
    check_tokens(t, "COTE cote X", 64, "[UNK] cote X");
    tokenizer_free(t);
}

static void test_long_word(void) {
    char text[2000];
    Tokenizer *t = make(SPECIALS "a\n##a\n");
    memset(text, 'a', sizeof text);
    text[1999] = 0;
    check_tokens(t, text, 64, "[UNK]");
    text[3] = 0;
    check_tokens(t, text, 64, "a ##a ##a");
    tokenizer_free(t);
}

static void test_bad(void) {
    static const struct {
        const char *text;
        size_t n;
        const char *message;
    } CASE[] = {
        {SPECIALS "a\n\xff\n", 0, "v.txt:7: not UTF-8"},
        {SPECIALS "a\nb\na\n", 0, "v.txt:8: token \"a\" stands on line 6 already"},
        {SPECIALS "a\n\nb\n", 0, "v.txt:7: an empty token"},
        {"a\0b\n", 4, "v.txt:1: a zero byte"},
        {"[PAD]\n[UNK]\n[SEP]\n", 0, "v.txt: the vocabulary has no [CLS]"},
        {"", 0, "v.txt: the vocabulary has no [PAD]"},
    };
    for (size_t i = 0; i < COUNT(CASE); i++) {
        Tokenizer *t;
        size_t n = CASE[i].n ? CASE[i].n : strlen(CASE[i].text);
        Status s = tokenizer_parse("v.txt", CASE[i].text, n, &t);
        CHECK(s && s->code == EXIT_INPUT && !t);
        CHECK_STR(s ? s->text : "", CASE[i].message);
        free(s);
    }
    Tokenizer *t = make(SPECIALS);
    int32_t id[8];
    int n;
    CHECK(tokenizer_special(t, TOK_SEP) == 3);
    Status s = tokenizer_encode(t, "f:3", "ab\xc3(", id, 8, &n);
    CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "f:3: ") == s->text);
    free(s);
    tokenizer_free(t);
    s = tokenizer_open("/nonexistent/vocab.txt", &t);
    CHECK(s && s->code == EXIT_INPUT && !t);
    free(s);
}

int main(void) {
    test_words();
    test_case();
    test_long_word();
    test_bad();
    return check_done("tokenizer");
}
