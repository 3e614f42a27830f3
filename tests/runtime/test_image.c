/* Checks runtime/image: PNG and JPEG of known pixels, transparency, resizing against values worked
 * out by hand, the order of patches, and damaged files. */
#include "runtime/image.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include <jpeglib.h>
#include <png.h>

typedef struct {
    void *p;
    size_t n;
} Bytes;

static Bytes make_png(const unsigned char *pixels, int w, int h, unsigned format) {
    png_image m = {.version = PNG_IMAGE_VERSION,
                   .width = (unsigned)w,
                   .height = (unsigned)h,
                   .format = format};
    png_alloc_size_t n = 1 << 20;
    Bytes b = {malloc(n), 0};
    CHECK(png_image_write_to_memory(&m, b.p, &n, 0, pixels, 0, NULL));
    b.n = n;
    return b;
}

static Bytes make_jpeg(const unsigned char *pixels, int w, int h, int components) {
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr e;
    unsigned char *out = NULL;
    unsigned long n = 0;
    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &out, &n);
    c.image_width = (unsigned)w, c.image_height = (unsigned)h;
    c.input_components = components;
    c.in_color_space = components == 4 ? JCS_CMYK : components == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 100, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        unsigned char *row = (unsigned char *)pixels + c.next_scanline * (unsigned)(w * components);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    return (Bytes){out, n};
}

static bool decodes(Bytes b, Image *m) {
    Status s = image_decode("x", b.p, b.n, m);
    if (s) fprintf(stderr, "%s\n", s->text);
    free(s);
    return !s;
}

static void test_png(void) {
    unsigned char rgba[] = {10, 20, 30, 255, 0, 0, 0, 0, 100, 0, 200, 51, 255, 255, 255, 128};
    Bytes b = make_png(rgba, 2, 2, PNG_FORMAT_RGBA);
    Image m;
    if (CHECK(decodes(b, &m))) {
        static const unsigned char expect[] = {10,  20,  30,  255, 255, 255,
                                               224, 204, 244, 255, 255, 255};
        CHECK(m.width == 2 && m.height == 2 && !memcmp(m.rgb, expect, sizeof expect));
        image_free(&m);
    }
    free(b.p);
    unsigned char grey[] = {7, 200};
    b = make_png(grey, 1, 2, PNG_FORMAT_GRAY);
    if (CHECK(decodes(b, &m))) {
        static const unsigned char expect[] = {7, 7, 7, 200, 200, 200};
        CHECK(m.width == 1 && m.height == 2 && !memcmp(m.rgb, expect, sizeof expect));
        image_free(&m);
    }
    free(b.p);
}

static void test_jpeg(void) {
    static const struct {
        int components;
        unsigned char pixel[4], rgb[3];
    } CASE[] = {{3, {200, 40, 90}, {200, 40, 90}},
                {1, {77}, {77, 77, 77}},
                {4, {255, 128, 255, 204}, {204, 102, 204}}}; /* Adobe's CMYK is inverted */
    for (size_t k = 0; k < COUNT(CASE); k++) {
        unsigned char pixels[16 * 16 * 4];
        for (int i = 0; i < 16 * 16; i++)
            memcpy(pixels + i * CASE[k].components, CASE[k].pixel, (size_t)CASE[k].components);
        Bytes b = make_jpeg(pixels, 16, 16, CASE[k].components);
        Image m;
        if (CHECK(decodes(b, &m))) {
            CHECK(m.width == 16 && m.height == 16);
            for (int c = 0; c < 3; c++) CHECK(abs(m.rgb[c + 3 * 37] - CASE[k].rgb[c]) <= 3);
            image_free(&m);
        }
        free(b.p);
    }
}

/* A picture whose red channel is the given rows. */
static Image red(int w, int h, const unsigned char *v) {
    Image m = {w, h, calloc((size_t)(w * h), 3)};
    for (int i = 0; i < w * h; i++) m.rgb[3 * i] = v[i];
    return m;
}

static void test_resize(void) {
    unsigned char out[16 * 3];
    Image m = red(3, 3, (unsigned char[]){0, 30, 60, 90, 120, 150, 180, 210, 240});
    free(image_patches(&m, 2, 2, out)); /* a pixel covers 1.5: weights 2/3, 1/3 */
    static const int shrunk[] = {40, 80, 160, 200};
    for (int i = 0; i < 4; i++) CHECK(out[3 * i] == shrunk[i]);
    CHECK(out[1] == 0 && out[2] == 0);
    image_free(&m);
    m = red(2, 1, (unsigned char[]){0, 200});
    free(image_patches(&m, 4, 4, out)); /* centres at -.25 .25 .75 1.25 of the source */
    static const int enlarged[] = {0, 50, 150, 200};
    for (int i = 0; i < 16; i++) CHECK(out[3 * i] == enlarged[i % 4]);
    image_free(&m);
}

static void test_normalise(void) {
    float out[3];
    image_normalise((unsigned char[]){0, 51, 255}, 3, out);
    CHECK(out[0] == -1 && fabsf(out[1] + 0.6f) < 1e-6f && out[2] == 1);
}

static void test_patches(void) {
    unsigned char v[16];
    unsigned char out[16 * 3];
    for (int i = 0; i < 16; i++) v[i] = (unsigned char)(i * 10);
    Image m = red(4, 4, v);
    free(image_patches(&m, 4, 2, out));
    static const int order[] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
    for (int i = 0; i < 16; i++) CHECK(out[3 * i] == order[i] * 10);
    image_free(&m);
}

static void check_damage(Bytes b) {
    Image m;
    for (size_t k = 0; k < b.n; k++) {
        char *copy = malloc(k + 1);
        memcpy(copy, b.p, k);
        Status s = image_decode("cut", copy, k, &m);
        bool tail = k + 20 > b.n; /* the end marks hold no pixels */
        CHECK(tail || (s && s->code == EXIT_INPUT && !m.rgb));
        free(s);
        image_free(&m);
        free(copy);
    }
    for (size_t k = 0; k < b.n; k++) {
        ((unsigned char *)b.p)[k] ^= 0x42;
        free(image_decode("changed", b.p, b.n, &m));
        image_free(&m);
        ((unsigned char *)b.p)[k] ^= 0x42;
    }
    free(b.p);
}

static void test_damage(void) {
    unsigned char pixels[12 * 12 * 4];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (unsigned char)(i * i * 7);
    check_damage(make_png(pixels, 12, 12, PNG_FORMAT_RGBA));
    check_damage(make_jpeg(pixels, 12, 12, 3));
    Image m;
    Status s = image_decode("text.png", "hello", 5, &m);
    CHECK(s && s->code == EXIT_INPUT && !strcmp(s->text, "text.png: neither PNG nor JPEG"));
    free(s);
}

int main(void) {
    test_png();
    test_jpeg();
    test_resize();
    test_patches();
    test_normalise();
    test_damage();
    return check_done("image");
}
