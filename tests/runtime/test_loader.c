/* Checks runtime/loader: what the batches hold, that order and captions depend on (seed, epoch,
 * index) alone - not on threads, the cache or seeking -, validation, the other sources, errors. */
#include "runtime/loader.h"
#include "runtime/muge.h"
#include "runtime/safetensors.h"
#include "tests/check.h"

#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <unistd.h>

enum { N = 23, BATCH = 4, PATCHES = 4, PATCH = 2, VALUES = PATCH * PATCH * 3, LENGTH = 5 };
enum { PAD, UNK, CLS, SEP, FIRST };

static char dir[] = "/tmp/m6c-loader-XXXXXX";
static char path_buffer[256];

static const char *in_dir(const char *name) {
    snprintf(path_buffer, sizeof path_buffer, "%s/%s", dir, name);
    return path_buffer;
}

static bool done(Status s) {
    if (s) fprintf(stderr, "%s\n", s->text);
    free(s);
    return !s;
}

static void put_png(Buf *out, int grey) {
    unsigned char pixels[4 * 4 * 3], bytes[4096];
    png_image m = {.version = PNG_IMAGE_VERSION, .width = 4, .height = 4, .format = PNG_FORMAT_RGB};
    png_alloc_size_t n = sizeof bytes;
    memset(pixels, grey, sizeof pixels);
    CHECK(png_image_write_to_memory(&m, bytes, &n, 0, pixels, 0, NULL));
    base64_put(out, bytes, n);
}

/* Picture i is grey 10*i; its captions are "a"+i+"x" and "a"+i alone. Picture 3's is long. */
static void make_split(const char *split, int n, int bad_png) {
    Buf jsonl = {0}, tsv = {0}, name = {0};
    for (int i = 0; i < n; i++) {
        char letter = (char)('a' + i);
        buf_printf(&jsonl, "{\"image_id\": \"p%d\", \"text\": [\"%c x%s\", \"%c\"]}\n", i, letter,
                   i == 3 ? " x x x x" : "", letter);
        buf_printf(&tsv, "p%d\t", n - 1 - i);
        if (n - 1 - i == bad_png)
            buf_puts(&tsv, "AAAA");
        else
            put_png(&tsv, 10 * (n - 1 - i));
        buf_puts(&tsv, "\n");
    }
    buf_printf(&name, "IC_%s.jsonl", split);
    CHECK(done(file_write_atomic(in_dir(name.p), jsonl.p, jsonl.n)));
    name.n = 0;
    buf_printf(&name, "IC_%s.tsv", split);
    CHECK(done(file_write_atomic(in_dir(name.p), tsv.p, tsv.n)));
    buf_free(&jsonl);
    buf_free(&tsv);
    buf_free(&name);
}

static void make_data(void) {
    Buf vocab = {0};
    buf_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
    for (int i = 0; i < 26; i++) buf_printf(&vocab, "%c\n", 'a' + i);
    CHECK(done(file_write_atomic(in_dir("vocab.txt"), vocab.p, vocab.n)));
    buf_free(&vocab);
    make_split("train", N, -1);
    make_split("valid", 6, -1);
    make_split("broken", 8, 5);
}

static LoaderInput inputs[] = {
    {"target", DT_I32, 2, {BATCH, LENGTH}, 30, NULL},
    {"image", DT_F32, 3, {BATCH, PATCHES, VALUES}, 0, NULL},
    {"text", DT_I32, 2, {BATCH, LENGTH}, 30, NULL},
};

static LoaderSpec spec(void) {
    return (LoaderSpec){.source = dir, .input = inputs, .ninputs = COUNT(inputs), .seed = 7};
}

static Loader *open_loader(LoaderSpec s) {
    Loader *l;
    return done(loader_open(&s, &l)) ? l : NULL;
}

/* Which picture a row shows, or -1; all of its pixels must agree. */
static int picture(const float *row) {
    for (int i = 1; i < PATCHES * VALUES; i++)
        if (row[i] != row[0]) return -1;
    return (int)lroundf((row[0] + 1) * 12.75f);
}

/* Row r of a batch must be example i's picture and one of its captions; returns which. */
static int check_row(const LoaderBatch *b, int r, int *i) {
    const int32_t *target = (const int32_t *)b->data[0] + r * LENGTH;
    const int32_t *text = (const int32_t *)b->data[2] + r * LENGTH;
    *i = picture((const float *)b->data[1] + r * PATCHES * VALUES);
    int a = FIRST + *i, x = FIRST + 'x' - 'a', caption = target[1] != x;
    int32_t both[2][2][LENGTH] = {{{CLS, a, x, PAD, PAD}, {a, x, SEP, -100, -100}},
                                  {{CLS, a, PAD, PAD, PAD}, {a, SEP, -100, -100, -100}}};
    int32_t cut[2][LENGTH] = {{CLS, a, x, x, x}, {a, x, x, x, x}};
    int32_t(*expect)[LENGTH] = *i == 3 && !caption ? cut : both[caption];
    CHECK(!memcmp(text, expect[0], sizeof expect[0]));
    CHECK(!memcmp(target, expect[1], sizeof expect[1]));
    return caption;
}

/* The examples (and captions, as i + 100) of `n` batches. */
static void trace(Loader *l, int n, int *out) {
    const LoaderBatch *b;
    for (int k = 0; k < n; k++) {
        if (!CHECK(done(loader_next(l, &b)) && b)) return;
        CHECK(b->examples == BATCH && (uintptr_t)b->data[1] % 64 == 0);
        for (int r = 0; r < BATCH; r++) {
            int i, caption = check_row(b, r, &i);
            *out++ = i + 100 * caption;
        }
    }
}

enum { LONG = 40 };

static void test_order(int *order) {
    Loader *l = open_loader(spec());
    if (!CHECK(l)) return;
    CHECK(loader_examples(l) == N);
    trace(l, LONG, order);
    CHECK(loader_position(l).seed == 7 && loader_position(l).epoch == LONG * BATCH / N &&
          loader_position(l).index == LONG * BATCH % N);
    CHECK(loader_bytes(l) >= N * PATCHES * VALUES);
    loader_close(l);
    int same = 0, second = 0;
    for (int e = 0; e < LONG * BATCH / N; e++) { /* each epoch shows each picture once */
        bool seen[N] = {0};
        for (int k = 0; k < N; k++) {
            int i = order[e * N + k] % 100;
            CHECK(!seen[i]);
            seen[i] = true;
            same += i == order[k] % 100;
            second += order[e * N + k] >= 100;
        }
    }
    CHECK(same < N + 2 * LONG * BATCH / N); /* epochs differ: about one fixed point each */
    CHECK(second > LONG && second < 3 * LONG);
}

static void test_independence(const int *order) {
    int again[LONG * BATCH];
    for (int threads = 1; threads <= 4; threads++) {
        LoaderSpec s = spec();
        s.threads = threads;
        s.cache_bytes = threads == 2 ? -1 : threads == 3 ? 5 * PATCHES * VALUES : 0;
        Loader *l = open_loader(s);
        if (!CHECK(l)) return;
        trace(l, LONG, again);
        CHECK(!memcmp(order, again, sizeof again));
        LoaderPosition start = {7, 0, 0}, middle = {7, 9 * BATCH / N, 9 * BATCH % N};
        CHECK(done(loader_seek(l, middle)));
        trace(l, LONG - 9, again);
        CHECK(!memcmp(order + 9 * BATCH, again, (LONG - 9) * BATCH * sizeof *again));
        CHECK(done(loader_seek(l, start)));
        trace(l, 1, again);
        CHECK(!memcmp(order, again, BATCH * sizeof *again));
        start.seed = 8;
        CHECK(done(loader_seek(l, start)));
        trace(l, LONG, again);
        CHECK(memcmp(order, again, sizeof again));
        start.index = N;
        Status bad = loader_seek(l, start);
        CHECK(bad && bad->code == EXIT_INPUT);
        free(bad);
        loader_close(l);
    }
}

static void test_validation(void) {
    LoaderSpec s = spec();
    const LoaderBatch *b;
    s.split = "valid";
    s.in_order = true;
    s.threads = 3;
    Loader *l = open_loader(s);
    if (!CHECK(l)) return;
    for (int k = 0; k < 2; k++) {
        CHECK(done(loader_next(l, &b)) && b);
        CHECK(b->examples == (k ? 2 : 4));
        CHECK(b->targets == (k ? 3 + 3 : 3 + 3 + 3 + 5));
        for (int r = 0; r < b->examples; r++) {
            int i;
            CHECK(check_row(b, r, &i) == 0 && i == k * BATCH + r);
        }
    }
    for (int r = 2; r < BATCH; r++) { /* the rows that are missing count for nothing */
        for (int j = 0; j < LENGTH; j++) {
            CHECK(((const int32_t *)b->data[0])[r * LENGTH + j] == LOADER_IGNORE);
            CHECK(((const int32_t *)b->data[2])[r * LENGTH + j] == PAD);
        }
        CHECK(((const float *)b->data[1])[r * PATCHES * VALUES] == 0);
    }
    for (int k = 0; k < 3; k++) CHECK(done(loader_next(l, &b)) && !b);
    CHECK(done(loader_seek(l, (LoaderPosition){0})));
    CHECK(done(loader_next(l, &b)) && b && b->start.index == 0);
    loader_close(l);
    s.blank_images = true;
    l = open_loader(s);
    if (!CHECK(l)) return;
    CHECK(done(loader_next(l, &b)) && b);
    for (int i = 0; i < BATCH * PATCHES * VALUES; i++) CHECK(((const float *)b->data[1])[i] == 0);
    CHECK(((const int32_t *)b->data[2])[1] == FIRST);
    loader_close(l);
}

static void test_random(void) {
    LoaderInput in[] = {{"x", DT_F32, 2, {100, 100}, 0, NULL},
                        {"k", DT_I32, 1, {9000}, 9, NULL},
                        {"flip", DT_I64, 1, {1000}, 0, NULL},
                        {"mask", DT_BOOL, 1, {1000}, 0, NULL}};
    LoaderSpec s = {.source = "random:3", .input = in, .ninputs = COUNT(in), .threads = 2};
    Loader *l = open_loader(s);
    const LoaderBatch *b;
    if (!CHECK(l) || !CHECK(done(loader_next(l, &b)) && b)) return;
    const float *x = b->data[0];
    double mean = 0, square = 0;
    int count[9] = {0}, flips = 0;
    for (int i = 0; i < 10000; i++)
        mean += (double)x[i] / 1e4, square += (double)(x[i] * x[i]) / 1e4;
    CHECK(fabs(mean) < 0.04 && fabs(square - 1) < 0.06);
    for (int i = 0; i < 9000; i++) count[((const int32_t *)b->data[1])[i]]++;
    for (int i = 0; i < 9; i++) CHECK(count[i] > 850 && count[i] < 1150);
    for (int i = 0; i < 1000; i++) flips += ((const int64_t *)b->data[2])[i] == 1;
    CHECK(flips > 400 && flips < 600);
    for (int i = 0; i < 1000; i++) CHECK(((const unsigned char *)b->data[3])[i] < 2);
    float first = x[0], second;
    CHECK(done(loader_next(l, &b)) && b);
    second = *(const float *)b->data[0];
    LoaderPosition p = loader_position(l);
    CHECK(first != second && p.seed == 3);
    CHECK(done(loader_seek(l, b->start)) && done(loader_next(l, &b)));
    CHECK(*(const float *)b->data[0] == second);
    loader_close(l);
}

static void test_tensors(void) {
    static const float x[6] = {1, 2, 3, 4, 5, 6};
    static const int32_t k[3] = {0, 8, -100};
    StTensor t[] = {{.name = "k", .dtype = DT_I32, .rank = 1, .dim = {3}, .data = k},
                    {.name = "x", .dtype = DT_F32, .rank = 2, .dim = {2, 3}, .data = x}};
    LoaderInput in[] = {{"x", DT_F32, 2, {2, 3}, 0, NULL}, {"k", DT_I32, 1, {3}, 9, NULL}};
    char path[256];
    snprintf(path, sizeof path, "%s", in_dir("batch.safetensors"));
    CHECK(done(st_write(path, t, 2, NULL, 0)));
    LoaderSpec s = {.source = path, .input = in, .ninputs = 2};
    Loader *l = open_loader(s);
    const LoaderBatch *b;
    for (int i = 0; l && i < 3; i++)
        CHECK(done(loader_next(l, &b)) && b && !memcmp(b->data[0], x, sizeof x) &&
              !memcmp(b->data[1], k, sizeof k));
    loader_close(l);
}

static void check_refused(LoaderSpec s, const char *expect) {
    Loader *l;
    Status status = loader_open(&s, &l);
    CHECK(status && status->code == EXIT_INPUT && !l);
    if (!CHECK(status && strstr(status->text, expect)))
        fprintf(stderr, "got: %s\n", status ? status->text : "accepted");
    loader_close(l);
    free(status);
}

/* ---- parts: of two ranks, or of two in each of two ranges ---- */

static Slice half(const LoaderInput *in, int ranges, int64_t index) {
    Slice s = {.rank = 0};
    int64_t rows = in->dim[0] / ranges;
    if (ranges > 1) s.whole[0] = s.dim[0] = ranges, s.rank = 1;
    s.whole[s.rank] = rows, s.dim[s.rank] = rows / 2, s.start[s.rank++] = index * (rows / 2);
    for (int i = 1; i < in->rank; i++) s.whole[s.rank] = s.dim[s.rank] = in->dim[i], s.rank++;
    return s;
}

/* Each part of each batch is that of the whole batch, and the counts are the whole's. */
static void check_parts(LoaderSpec s, int ranges) {
    LoaderInput in[4];
    Slice part[4];
    const LoaderBatch *all, *b;
    for (int64_t rank = 0; rank < 2; rank++) {
        memcpy(in, s.input, s.ninputs * sizeof *in);
        for (uint32_t i = 0; i < s.ninputs; i++) {
            part[i] = half(&in[i], ranges, rank);
            if (i != 1) in[i].part = &part[i]; /* the second stays whole */
        }
        LoaderSpec mine = s;
        mine.input = in;
        Loader *whole = open_loader(s), *l = open_loader(mine);
        if (!CHECK(whole && l)) return;
        while (done(loader_next(whole, &all)) && done(loader_next(l, &b)) && all && b) {
            CHECK(b->examples == all->examples && (!s.in_order || b->targets == all->targets));
            for (uint32_t i = 0; i < s.ninputs; i++) {
                int size = dtype_size(in[i].dtype);
                Slice have = in[i].part ? part[i] : slice_all(in[i].rank, in[i].dim);
                for (int64_t at = 0; at < slice_elements(&have); at++)
                    CHECK(!memcmp((const char *)b->data[i] + at * size,
                                  (const char *)all->data[i] + slice_run(&have, at).whole * size,
                                  (size_t)size));
            }
            if (all->start.index > 4 * BATCH || (s.ninputs == 2 && !s.in_order)) break;
        }
        CHECK(!all == !b);
        loader_close(whole);
        loader_close(l);
    }
}

static void test_parts(void) {
    static float x[48];
    static int32_t k[8] = {0, 8, -100, 3, 4, 5, 6, 7};
    for (int i = 0; i < 48; i++) x[i] = (float)i;
    StTensor t[] = {{.name = "k", .dtype = DT_I32, .rank = 1, .dim = {8}, .data = k},
                    {.name = "x", .dtype = DT_F32, .rank = 2, .dim = {8, 6}, .data = x}};
    LoaderInput plain[] = {{"k", DT_I32, 1, {8}, 9, NULL}, {"x", DT_F32, 2, {8, 6}, 0, NULL}};
    char path[256];
    snprintf(path, sizeof path, "%s", in_dir("batch.safetensors"));
    CHECK(done(st_write(path, t, 2, NULL, 0)));
    for (int ranges = 1; ranges <= 2; ranges++) {
        LoaderSpec s = spec();
        check_parts(s, ranges);
        s.in_order = true, s.split = "valid";
        check_parts(s, ranges);
        check_parts((LoaderSpec){.source = path, .input = plain, .ninputs = 2}, ranges);
        check_parts((LoaderSpec){.source = "random:5", .input = plain, .ninputs = 2}, ranges);
    }
    LoaderSpec s = spec();
    LoaderInput in[COUNT(inputs)];
    memcpy(in, inputs, sizeof in);
    Slice inside = {2, {BATCH, LENGTH}, {0, 1}, {BATCH, 2}};
    in[2].part = &inside;
    s.input = in;
    check_refused(s, "input \"text\" is split inside an example");
}

static void test_errors(void) {
    LoaderInput in[3];
    LoaderSpec s = spec();
    memcpy(in, inputs, sizeof in);
    s.input = in;
    in[0].name = "label", in[2].dtype = DT_F32;
    check_refused(s, "cannot feed \"label\" i32[4,5], \"text\" f32[4,5]; captioned pictures feed "
                     "\"image\" f32[batch,patches,3*P*P], \"text\"");
    memcpy(in, inputs, sizeof in);
    in[1].dim[1] = 5;
    check_refused(s, "input \"image\" f32[4,5,12]: a picture is N*N patches");
    in[1].dim[1] = 4, in[1].dim[2] = 13;
    check_refused(s, "a picture is N*N patches");
    memcpy(in, inputs, sizeof in);
    in[2].dim[0] = 3;
    check_refused(s, "input \"target\" has batch 4, input \"text\" has 3");
    in[2].dim[0] = 4, in[2].dim[1] = 6;
    check_refused(s, "input \"text\" i32[4,6]: the other text input has length 5");
    memcpy(in, inputs, sizeof in);
    in[2].bound = 29;
    check_refused(s, "vocab.txt has 30 tokens, but input \"text\" takes numbers below 29");
    s = spec();
    s.split = "absent";
    check_refused(s, "IC_absent.jsonl: No such file");
    s.source = "/nonexistent";
    check_refused(s, "/nonexistent: No such file");
    s.source = "/dev/null";
    check_refused(s, "/dev/null: not a folder");
    s.source = "random:x";
    check_refused(s, "random:x: not random:");
    LoaderInput other[] = {{"x", DT_F32, 2, {3, 2}, 0, NULL}, {"k", DT_I64, 1, {3}, 9, NULL}};
    LoaderInput absent[] = {{"y", DT_F32, 1, {3}, 0, NULL}, {"z", DT_F32, 0, {0}, 0, NULL}};
    LoaderInput narrow[] = {{"k", DT_I32, 1, {3}, 8, NULL}};
    s.source = in_dir("batch.safetensors");
    s.input = other, s.ninputs = 2;
    check_refused(s, "has \"x\" f32[2,3] where the model takes \"x\" f32[3,2]; \"k\" i32[3] where");
    s.input = absent;
    check_refused(s, "lacks inputs of the model: \"y\" f32[3], \"z\" f32[]");
    s.input = narrow, s.ninputs = 1;
    check_refused(s, "\"k\": element 1 is 8, not between 0 and 7");
}

/* A bad picture stops the batch it is in, naming its line, and not the batches before it. */
static void test_bad_picture(void) {
    LoaderSpec s = spec();
    const LoaderBatch *b;
    s.split = "broken";
    s.in_order = true;
    s.threads = 2;
    Loader *l = open_loader(s);
    if (!CHECK(l)) return;
    CHECK(done(loader_next(l, &b)) && b);
    Status bad = loader_next(l, &b);
    CHECK(bad && bad->code == EXIT_INPUT && strstr(bad->text, "IC_broken.tsv:3: neither PNG"));
    free(bad);
    loader_close(l);
}

int main(void) {
    static int order[LONG * BATCH];
    if (!mkdtemp(dir)) return 1;
    make_data();
    test_order(order);
    test_independence(order);
    test_validation();
    test_random();
    test_tensors();
    test_errors();
    test_parts();
    test_bad_picture();
    static const char *const FILES[] = {"vocab.txt",      "IC_train.jsonl",   "IC_train.tsv",
                                        "IC_valid.jsonl", "IC_valid.tsv",     "IC_broken.jsonl",
                                        "IC_broken.tsv",  "batch.safetensors"};
    for (size_t i = 0; i < COUNT(FILES); i++) unlink(in_dir(FILES[i]));
    CHECK(!rmdir(dir));
    return check_done("loader");
}
