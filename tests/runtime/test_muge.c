/* Checks runtime/muge: captions and pictures by example, base64 both ways, and every bad line. */
#include "runtime/muge.h"
#include "tests/check.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static Muge *parse(const char *jsonl, const char *tsv) {
    Muge *m;
    Status s = muge_parse("d", jsonl, strlen(jsonl), tsv, tsv ? strlen(tsv) : 0, &m);
    if (s) fprintf(stderr, "%s\n", s->text);
    free(s);
    return m;
}

static void check_image(const Muge *m, uint32_t i, const char *expect) {
    Buf b = {0};
    Status s = muge_image(m, i, &b);
    CHECK(!s && b.n == strlen(expect) && !memcmp(b.p, expect, b.n));
    free(s);
    buf_free(&b);
}

static void test_reading(void) {
    Muge *m = parse("{\"image_id\": \"b\", \"text\": [\"小\\u732b\", \"x\"], \"more\": 1}\n"
                    "\r\n"
                    "{\"image_id\": 17, \"text\": \"one\"}\n"
                    "{\"image_id\": \"c\", \"text\": []}",
                    "a\tAAAA\n17\tTWE\r\nb\tTWFu\nc\t-_-_\n");
    if (!CHECK(m)) return;
    CHECK(muge_count(m) == 3);
    CHECK_STR(muge_id(m, 1), "17");
    CHECK(muge_texts(m, 0) == 2 && muge_texts(m, 1) == 1 && muge_texts(m, 2) == 0);
    CHECK_STR(muge_text(m, 0, 0), "小猫");
    CHECK_STR(muge_text(m, 0, 1), "x");
    CHECK_STR(muge_text(m, 1, 0), "one");
    check_image(m, 0, "Man");
    check_image(m, 1, "Ma");
    check_image(m, 2, "\xfb\xff\xbf");
    Buf b = {0};
    muge_where_text(m, 1, &b);
    muge_where_image(m, 1, &b);
    CHECK_STR(b.p, "d.jsonl:3d.tsv:2");
    buf_free(&b);
    muge_close(m);
}

static void test_base64(void) {
    unsigned char bytes[64];
    for (size_t n = 1; n < sizeof bytes; n++) {
        Buf tsv = {0}, back = {0};
        for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)(i * 37 + n * 101);
        buf_puts(&tsv, "a\t");
        base64_put(&tsv, bytes, n);
        Muge *m = parse("{\"image_id\": \"a\", \"text\": []}", tsv.p);
        Status s = m ? muge_image(m, 0, &back) : NULL;
        CHECK(m && !s && back.n == n && !memcmp(back.p, bytes, n));
        free(s);
        buf_free(&tsv);
        buf_free(&back);
        muge_close(m);
    }
}

static void test_bad_lines(void) {
    static const char good[] = "{\"image_id\": \"a\", \"text\": [\"x\"]}\n";
    static const struct {
        const char *jsonl, *tsv, *message;
    } CASE[] = {
        {"", "a\tAAAA", "d.jsonl: no captions in it"},
        {"{\"image_id\": \"a\"\n", "", "d.jsonl:1:"},
        {"\n[1]", "", "d.jsonl:2: not a JSON object"},
        {"{\"text\": [\"x\"]}", "", "d.jsonl:1: no \"image_id\" that is a string"},
        {"{\"image_id\": \"a\", \"text\": 3}", "", "d.jsonl:1: \"text\" is not a list of strings"},
        {"{\"image_id\": \"a\", \"text\": [3]}", "", "d.jsonl:1: \"text\" holds something"},
        {"{\"image_id\": \"a\", \"text\": [\"\xff\"]}", "", "d.jsonl:1:"},
        {good, "a AAAA", "d.tsv:1: no tab"},
        {good, "b\tAAAA\nb\tAAAA\n", "d.tsv:2: the image_id of line 1 again"},
        {good, "b\tAAAA\n", "d.jsonl:1: picture \"a\" is not in d.tsv"},
    };
    for (size_t i = 0; i < COUNT(CASE); i++) {
        Muge *m;
        Status s = muge_parse("d", CASE[i].jsonl, strlen(CASE[i].jsonl), CASE[i].tsv,
                              strlen(CASE[i].tsv), &m);
        if (!CHECK(s && s->code == EXIT_INPUT && !m && strstr(s->text, CASE[i].message) == s->text))
            fprintf(stderr, "case %zu: %s\n", i, s ? s->text : "accepted");
        muge_close(m);
        free(s);
    }
    static const char *const BAD[] = {"", "A", "AA$A", "AAAAA", "A=AA", "AA==="};
    for (size_t i = 0; i < COUNT(BAD); i++) {
        Buf tsv = {0}, image = {0};
        buf_printf(&tsv, "a\t%s\n", BAD[i]);
        Muge *m = parse(good, tsv.p);
        Status s = m ? muge_image(m, 0, &image) : NULL;
        CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "d.tsv:1:"));
        free(s);
        buf_free(&tsv);
        buf_free(&image);
        muge_close(m);
    }
}

static void test_files(void) {
    char dir[] = "/tmp/m6c-muge-XXXXXX", path[128];
    Muge *m;
    if (!mkdtemp(dir)) return;
    Status s = muge_open(dir, "train", true, &m);
    CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "IC_train.jsonl: No such file"));
    free(s);
    snprintf(path, sizeof path, "%s/IC_train.jsonl", dir);
    static const char line[] = "{\"image_id\": \"a\", \"text\": [\"x\"]}\n";
    free(file_write_atomic(path, line, sizeof line - 1));
    s = muge_open(dir, "train", true, &m);
    CHECK(s && strstr(s->text, "IC_train.tsv: No such file"));
    free(s);
    s = muge_open(dir, "train", false, &m); /* captions alone need no pictures */
    CHECK(!s && muge_count(m) == 1);
    free(s);
    muge_close(m);
    unlink(path);
    rmdir(dir);
}

int main(void) {
    test_reading();
    test_base64();
    test_bad_lines();
    test_files();
    return check_done("muge");
}
