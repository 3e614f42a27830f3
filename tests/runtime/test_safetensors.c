/* Checks runtime/safetensors: round trip, slices, every rejection with its reason, damaged files,
 * and that a failing write leaves the old file alone. */
#include "runtime/safetensors.h"
#include "tests/check.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static char dir[] = "/tmp/m6c-safetensors-XXXXXX";

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int files_in_dir(void) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static bool done(Status s) {
    if (s) fprintf(stderr, "%s\n", s->text);
    free(s);
    return !s;
}

static const float weight[6] = {1, -2, 3.5f, 0, 5, 6};
static const uint16_t half[3] = {1, 2, 3};
static const double wide[1] = {3.25};
static const unsigned char flag[5] = {0, 1, 1, 0, 1};
static const int32_t ints[2] = {-7, 7};
static const int64_t longs[1] = {INT64_MIN};

static const StTensor sample[] = {
    {.name = "half", .dtype = DT_BF16, .rank = 1, .dim = {3}, .data = half},
    {.name = "weight",
     .dtype = DT_F32,
     .rank = 2,
     .dim = {2, 3},
     .data = weight,
     .slice = true,
     .whole = {8, 3},
     .start = {6, 0}},
    {.name = "wide", .dtype = DT_F64, .rank = 0, .data = wide},
    {.name = "flag", .dtype = DT_BOOL, .rank = 1, .dim = {5}, .data = flag},
    {.name = "块.0", .dtype = DT_I32, .rank = 1, .dim = {2}, .data = ints},
    {.name = "long", .dtype = DT_I64, .rank = 1, .dim = {1}, .data = longs},
    {.name = "none", .dtype = DT_F16, .rank = 2, .dim = {0, 4}, .data = NULL},
};

static void test_round_trip(void) {
    const char *path = in_dir("round.safetensors");
    StMeta meta[] = {{"step", "12"}, {"a \"quoted\"\n", "雪"}};
    StFile *f;
    CHECK(done(st_write(path, sample, COUNT(sample), meta, COUNT(meta))));
    if (!CHECK(done(st_open(path, &f)))) return;
    CHECK(st_count(f) == COUNT(sample));
    CHECK_STR(st_meta(f, "step"), "12");
    CHECK_STR(st_meta(f, meta[1].key), "雪");
    CHECK(!st_meta(f, "absent") && !st_find(f, "absent") && !st_find(f, "__metadata__"));
    for (size_t i = 0; i < COUNT(sample); i++) {
        const StTensor *a = &sample[i], *b = st_find(f, a->name);
        if (!CHECK(b)) continue;
        CHECK(a->dtype == b->dtype && a->rank == b->rank && a->slice == b->slice);
        CHECK(!memcmp(a->dim, b->dim, sizeof a->dim));
        CHECK(!memcmp(a->whole, b->whole, sizeof a->whole));
        CHECK(!memcmp(a->start, b->start, sizeof a->start));
        CHECK(b->bytes == 0 || !memcmp(a->data, b->data, (size_t)b->bytes));
        CHECK((uintptr_t)b->data % (uintptr_t)dtype_size(b->dtype) == 0);
    }
    st_close(f);
}

/* A file image from a header and `n` data bytes. */
static size_t build(char *out, const char *header, size_t n) {
    size_t len = strlen(header);
    memset(out, 0, 8);
    out[0] = (char)len, out[1] = (char)(len >> 8);
    memcpy(out + 8, header, len);
    memset(out + 8 + len, 0, n);
    return 8 + len + n;
}

static void test_rejections(void) {
    static const struct {
        const char *header;
        size_t data;
        const char *reason;
    } CASE[] = {
        {"{", 0, "header: "},
        {"[]", 0, "not a JSON object"},
        {"{\"a\":1}", 0, "no dtype"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"F31\" is not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape is not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape is not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
         "shape is not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
         "data_offsets are not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets are"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 4, "data_offsets are"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "need 8 bytes"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}", 0,
         "header: "},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
         6, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         "4 bytes before \"a\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "last 4 bytes"},
        {"{\"__metadata__\":3}", 0, "__metadata__ is not"},
        {"{\"__metadata__\":{\"x\":3}}", 0, "is not a string"},
        {"{\"__metadata__\":{\"slice/a\":\"3@0\"}}", 0, "names no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"__metadata__\":{\"slice/a\":\"3@3\"}}",
         4, "is not the slice"},
    };
    char bytes[512];
    for (size_t i = 0; i < COUNT(CASE); i++) {
        StFile *f;
        size_t n = build(bytes, CASE[i].header, CASE[i].data);
        Status s = st_parse("bad.st", bytes, n, &f);
        if (!CHECK(s && s->code == EXIT_INPUT && !f && strstr(s->text, "bad.st: ") == s->text &&
                   strstr(s->text, CASE[i].reason)))
            fprintf(stderr, "case %zu: %s\n", i, s ? s->text : "accepted");
        if (!s) st_close(f);
        free(s);
    }
}

/* A file cut anywhere is refused; with any one byte changed it is read or refused, never worse. */
static void test_damage(void) {
    char *bytes;
    size_t n;
    StFile *f;
    CHECK(done(file_read(in_dir("round.safetensors"), &bytes, &n)));
    for (size_t k = 0; k < n; k++) {
        char *copy = malloc(k + 1); /* exact size: a sanitizer sees reads beyond it */
        memcpy(copy, bytes, k);
        Status s = st_parse("cut", copy, k, &f);
        CHECK(s && s->code == EXIT_INPUT);
        free(s);
        free(copy);
    }
    for (size_t k = 0; k < n; k++) {
        bytes[k] ^= 0x11;
        free(st_parse("changed", bytes, n, &f));
        st_close(f);
        bytes[k] ^= 0x11;
    }
    free(bytes);
    Status s = st_open("/nonexistent/x.safetensors", &f);
    CHECK(s && s->code == EXIT_INPUT && strstr(s->text, "No such file"));
    free(s);
    s = st_open(dir, &f);
    CHECK(s && s->code == EXIT_INPUT);
    free(s);
}

/* The file size limit stands for a full disk: write() fails part way. */
static void test_failing_write(void) {
    static float big[4096];
    StTensor t = {.name = "big", .dtype = DT_F32, .rank = 1, .dim = {4096}, .data = big};
    const char *path = in_dir("round.safetensors");
    int before = files_in_dir();
    struct rlimit old, small;
    StFile *f;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){5000, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    Status s = st_write(path, &t, 1, NULL, 0);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(s && s->code == EXIT_SYSTEM && strstr(s->text, path));
    free(s);
    CHECK(files_in_dir() == before);
    CHECK(done(st_open(path, &f)) && st_find(f, "weight"));
    st_close(f);
    s = st_write("/nonexistent/x", &t, 1, NULL, 0);
    CHECK(s && s->code == EXIT_SYSTEM);
    free(s);
    StTensor twice[] = {t, t};
    s = st_write(path, twice, 2, NULL, 0);
    CHECK(s && strstr(s->text, "used twice"));
    free(s);
}

int main(void) {
    if (!mkdtemp(dir)) return 1;
    test_round_trip();
    test_rejections();
    test_damage();
    test_failing_write();
    unlink(in_dir("round.safetensors"));
    CHECK(!rmdir(dir));
    return check_done("safetensors");
}
