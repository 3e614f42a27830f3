/* Checks ir/base: memory, text, numbers, interning, diagnostics, files, storage formats. */
#include "ir/base.h"
#include "tests/check.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_arena(void) {
    Arena *a = arena_new();
    char *last = NULL;
    for (size_t n = 1; n < 3000000; n = n * 3 + 1) {
        char *p = arena_alloc(a, n);
        CHECK(((uintptr_t)p & 15) == 0);
        CHECK(p[0] == 0 && p[n - 1] == 0);
        memset(p, 0x55, n);
        CHECK(!last || last[0] == 0x55);
        last = p;
    }
    CHECK_STR(arena_printf(a, "%d-%s", 7, "x"), "7-x");
    CHECK_STR(arena_strdup(a, "abcdef", 3), "abc");
    arena_free(a);
}

static void test_vec(void) {
    VEC(int) v = {0};
    for (int i = 0; i < 1000; i++) vec_push(&v, i * i);
    CHECK(v.n == 1000 && v.p[999] == 999 * 999);
    vec_free(&v);
    CHECK(v.p == NULL && v.n == 0);
}

static void test_double(void) {
    static const struct {
        double x;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-0.0, "-0"},
        {1, "1"},
        {-12, "-12"},
        {0.1, "0.1"},
        {1e6, "1e6"},
        {123456, "123456"},
        {1e-7, "1e-7"},
        {1.0 / 3, "0.3333333333333333"},
        {1e300, "1e300"},
        {INFINITY, "inf"},
        {3e-4, "0.0003"},
        {5e-324, "5e-324"},
        {1.7976931348623157e308, "1.7976931348623157e308"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Buf b = {0};
        buf_double(&b, cases[i].x);
        CHECK_STR(b.p, cases[i].text);
        double back = 0;
        CHECK(parse_f64(b.p, b.n, &back) && memcmp(&back, &cases[i].x, sizeof back) == 0);
        buf_free(&b);
    }
    uint32_t seed = 1;
    for (int i = 0; i < 2000; i++) {
        uint32_t hi, lo = philox(seed, (uint64_t)i, &hi);
        double x = ldexp((double)lo, (int)(hi % 2000) - 1000), back = 0;
        Buf b = {0};
        buf_double(&b, x);
        CHECK(parse_f64(b.p, b.n, &back) && back == x);
        buf_free(&b);
    }
    double x;
    static const char *bad[] = {"",   "-",  ".",     "1e", "1x",  "0x10",
                                " 1", "1 ", "1e999", "+1", "nano"};
    for (size_t i = 0; i < COUNT(bad); i++) CHECK(!parse_f64(bad[i], strlen(bad[i]), &x));
}

static void test_integer(void) {
    int64_t v;
    CHECK(parse_i64("9223372036854775807", 19, &v) && v == INT64_MAX);
    CHECK(parse_i64("-9223372036854775808", 20, &v) && v == INT64_MIN);
    CHECK(!parse_i64("9223372036854775808", 19, &v));
    CHECK(!parse_i64("-9223372036854775809", 20, &v));
    CHECK(!parse_i64("99999999999999999999", 20, &v));
    CHECK(!parse_i64("", 0, &v) && !parse_i64("-", 1, &v) && !parse_i64("1a", 2, &v));
}

static void test_intern(void) {
    Session *s = session_new();
    const char *a = intern(s, "alpha");
    for (int i = 0; i < 5000; i++) {
        char t[16];
        snprintf(t, sizeof t, "s%d", i);
        CHECK(intern(s, t) == intern_n(s, t, strlen(t)));
    }
    CHECK(intern_n(s, "alphabet", 5) == a);
    CHECK(intern(s, "alph") != a);
    CHECK_STR(intern(s, ""), "");
    session_free(s);
}

static void test_diagnostics(void) {
    Session *s = session_new();
    Buf b = {0};
    static const char text[] = "config a = 1\n\tlayer \xe6\x96\x87 foo(x)\nbad \xff\x01 byte";
    uint16_t f = session_add_file(s, "model.m6", text, sizeof text - 1);
    diag_capture(s, &b);
    diag_error(s, (Loc){f, 12, 2}, "unknown name '%s'", "foo");
    diag_note(s, (Loc){f, 8, 1}, "declared here");
    diag_error(s, (Loc){f, 9, 3}, "odd");
    diag_warning(s, (Loc){0}, "nowhere");
    CHECK_STR(b.p, "model.m6:2:12: error: unknown name 'foo'\n"
                   "     layer \xe6\x96\x87 foo(x)\n"
                   "              ^~~\n"
                   "model.m6:1:8: note: declared here\n"
                   "    config a = 1\n"
                   "           ^\n"
                   "model.m6:3:9: error: odd\n"
                   "    bad ?? byte\n"
                   "            ^~~\n"
                   "warning: nowhere\n");
    CHECK_STR(loc_text(s, (Loc){f, 12, 2}), "model.m6:2:12");
    CHECK_STR(loc_text(s, (Loc){0}), "");
    CHECK(session_find_file(s, "model.m6") == f && session_find_file(s, "other.m6") == f + 1);
    for (int i = 0; i < 50; i++) diag_error(s, (Loc){f, 1, 1}, "again");
    CHECK(diag_errors(s) == 52);
    int shown = 0;
    for (const char *p = b.p; (p = strstr(p, ": error: ")); p++) shown++;
    CHECK(shown == 20);
    CHECK(strstr(b.p, "more errors follow") != NULL);
    buf_free(&b);
    session_free(s);
}

static void test_long_line(void) {
    Session *s = session_new();
    Buf b = {0};
    char *text = xmalloc(1 << 20);
    memset(text, 'x', 1 << 20);
    uint16_t f = session_add_file(s, "long.m6", text, 1 << 20);
    diag_capture(s, &b);
    diag_error(s, (Loc){f, 40000, 1}, "far");
    CHECK(b.n < 500 && strstr(b.p, "...x"));
    buf_free(&b);
    free(text);
    session_free(s);
}

static void test_nearest(void) {
    static const char *const words[] = {"hidden", "heads", "layers", "vocab"};
    CHECK_STR(nearest_word("hiden", words, COUNT(words)), "hidden");
    CHECK_STR(nearest_word("haeds", words, COUNT(words)), "heads");
    CHECK_STR(nearest_word("layer", words, COUNT(words)), "layers");
    CHECK(nearest_word("experts", words, COUNT(words)) == NULL);
    CHECK(nearest_word("x", words, COUNT(words)) == NULL);
}

static void test_files(void) {
    char dir[] = "/tmp/m6c-base-XXXXXX";
    if (!CHECK(mkdtemp(dir) != NULL)) return;
    Buf path = {0};
    buf_printf(&path, "%s/a/b", dir);
    CHECK(make_dirs(path.p) == NULL && make_dirs(path.p) == NULL);
    buf_puts(&path, "/file");
    CHECK(file_write_atomic(path.p, "hello", 5) == NULL);
    CHECK(file_write_atomic(path.p, "again", 5) == NULL);
    char *data;
    size_t n;
    CHECK(file_read(path.p, &data, &n) == NULL && n == 5 && strcmp(data, "again") == 0);
    free(data);
    Status s = make_dirs(path.p);
    CHECK(s != NULL);
    free(s);
    unlink(path.p);
    s = file_read(path.p, &data, &n);
    CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "No such file"));
    free(s);
    s = file_read(dir, &data, &n);
    CHECK(s && s->code == EXIT_INPUT);
    free(s);
    for (int up = 0; up < 3; up++) {
        *strrchr(path.p, '/') = 0;
        rmdir(path.p);
    }
    CHECK(access(dir, F_OK) != 0); /* nothing was left behind */
    buf_free(&path);
}

static void test_formats(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        float a = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        CHECK(isnan(a) || f32_to_f16(a) == h);
        CHECK(isnan(b) || f32_to_bf16(b) == h);
        if (h < 0x7bff) { /* halfway to the next half rounds to the even one */
            float half = (a + f16_to_f32((uint16_t)(h + 1))) / 2;
            CHECK(f32_to_f16(half) == h + (h & 1));
        }
    }
    CHECK(isnan(f16_to_f32(f32_to_f16(NAN))) && isnan(bf16_to_f32(f32_to_bf16(NAN))));
    CHECK(f32_to_f16(65519.0f) == 0x7bff && f32_to_f16(65520.0f) == 0x7c00);
    CHECK(f32_to_bf16(1.00390625f) == 0x3f80 && f32_to_bf16(1.01171875f) == 0x3f82);
    Dtype d;
    for (int i = 0; i < DT_COUNT; i++)
        CHECK(dtype_parse(dtype_name((Dtype)i), &d) && d == (Dtype)i);
    CHECK(!dtype_parse("f8", &d) && dtype_size(DT_BF16) == 2 && dtype_is_float(DT_F64));
}

static void test_random(void) {
    /* Known answers of Philox-2x32-10 (Random123's kat_vectors). */
    uint32_t second;
    CHECK(philox(0, 0, &second) == 0xff1dae59 && second == 0x6cd10df2);
    CHECK(philox(0xffffffff, 0xffffffffffffffff, &second) == 0x2c3f628b && second == 0xab4fd7ad);
    CHECK(philox(0x13198a2e, 0x85a308d3243f6a88, &second) == 0xdd7ce038 && second == 0xf62a4c12);
    CHECK(random_key(1, 2, 3) != random_key(1, 3, 2));
    CHECK(random_unit(UINT32_MAX) < 1.0f);
}

/* Moments of 100k draws within 5 standard errors; bounds; the same element in any order. */
static void test_init(void) {
    enum { N = 100000 };
    static const struct {
        InitKind kind;
        double a, b, mean, variance, low, high;
    } row[] = {
        {INIT_ZEROS, 3, 4, 0, 0, 0, 0},
        {INIT_CONSTANT, 3, 4, 3, 0, 3, 3},
        {INIT_NORMAL, 1, 2, 1, 4, -INFINITY, INFINITY},
        {INIT_TRUNCATED, 1, 2, 1, 4 * 0.7737413, -3, 5},
        {INIT_UNIFORM, -1, 3, 1, 16.0 / 12, -1, 3},
    };
    for (size_t r = 0; r < COUNT(row); r++) {
        uint32_t key = random_key(7, hash_bytes("w", 1, 0), 0);
        double sum = 0, square = 0;
        for (uint64_t i = 0; i < N; i++) {
            double x = init_value(row[r].kind, row[r].a, row[r].b, key, i);
            CHECK(x >= row[r].low && x <= row[r].high);
            sum += x, square += (x - row[r].mean) * (x - row[r].mean);
        }
        CHECK(fabs(sum / N - row[r].mean) <= 5 * sqrt(row[r].variance / N));
        CHECK(fabs(square / N - row[r].variance) <= 5 * row[r].variance * sqrt(2.0 / N));
        InitKind k;
        CHECK(init_kind_parse(init_kind_name(row[r].kind), &k) && k == row[r].kind);
    }
    InitKind k;
    CHECK(!init_kind_parse("gauss", &k));
    CHECK(init_value(INIT_NORMAL, 0, 1, 1, 5) != init_value(INIT_NORMAL, 0, 1, 2, 5));
}

int main(void) {
    test_arena();
    test_init();
    test_vec();
    test_double();
    test_integer();
    test_intern();
    test_diagnostics();
    test_long_line();
    test_nearest();
    test_files();
    test_formats();
    test_random();
    if (setlocale(LC_ALL, "de_DE.UTF-8")) test_double();
    return check_done("base");
}
