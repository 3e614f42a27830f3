/* image.c: pictures decoded by libpng and libjpeg, resized separably.
 *
 * Resizing one axis is a small matrix with few entries a row: out[i] = sum of weight * in over a
 * window. Shrinking by a factor s averages the s source samples under the target sample, cut ones
 * by their share; enlarging interpolates between the two nearest centres. */
#include "runtime/image.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

static Status out_of_memory(const char *name) {
    return status_make(EXIT_SYSTEM, "%s: out of memory", name);
}

static Status check_size(const char *name, uint32_t w, uint32_t h) {
    if (w < 1 || h < 1 || w > IMAGE_MAX_SIDE || h > IMAGE_MAX_SIDE ||
        (uint64_t)w * h > IMAGE_MAX_PIXELS)
        return status_make(EXIT_INPUT, "%s: %u x %u pixels: not between 1 and %d in all", name, w,
                           h, IMAGE_MAX_PIXELS);
    return NULL;
}

void image_free(Image *m) {
    free(m->rgb);
    *m = (Image){0};
}

/* ---- PNG ---- */

/* On white, in the stored (gamma-encoded) values, as image viewers and PIL do. */
static void lay_on_white(const unsigned char *rgba, size_t pixels, unsigned char *rgb) {
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < 3; c++) {
            unsigned a = rgba[4 * i + 3];
            rgb[3 * i + (size_t)c] =
                (unsigned char)((rgba[4 * i + (size_t)c] * a + 255 * (255 - a) + 127) / 255);
        }
}

static Status png_pixels(const char *name, png_image *png, Image *out) {
    TRY(check_size(name, png->width, png->height));
    size_t pixels = (size_t)png->width * png->height;
    png->format = PNG_FORMAT_RGBA;
    png->flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
    unsigned char *rgba = malloc(4 * pixels);
    out->rgb = malloc(3 * pixels);
    Status s = NULL;
    if (!rgba || !out->rgb)
        s = out_of_memory(name);
    else if (!png_image_finish_read(png, NULL, rgba, 0, NULL))
        s = status_make(EXIT_INPUT, "%s: PNG: %s", name, png->message);
    else
        lay_on_white(rgba, pixels, out->rgb);
    free(rgba);
    out->width = (int)png->width;
    out->height = (int)png->height;
    return s;
}

static Status png_decode(const char *name, const void *bytes, size_t n, Image *out) {
    png_image png = {.version = PNG_IMAGE_VERSION};
    Status s;
    if (!png_image_begin_read_from_memory(&png, bytes, n))
        s = status_make(EXIT_INPUT, "%s: PNG: %s", name, png.message);
    else
        s = png_pixels(name, &png, out);
    png_image_free(&png);
    return s;
}

/* ---- JPEG ---- */

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf out;
    char text[JMSG_LENGTH_MAX];
} JpegError;

static void jpeg_fail(j_common_ptr jpeg) {
    JpegError *e = (JpegError *)jpeg->err;
    e->base.format_message(jpeg, e->text);
    longjmp(e->out, 1);
}

/* Of libjpeg's warnings, those about missing data are errors: it would fill in grey. */
static void jpeg_message(j_common_ptr jpeg, int level) {
    int code = jpeg->err->msg_code;
    if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) jpeg_fail(jpeg);
}

static void cmyk_row(const unsigned char *cmyk, int width, bool inverted, unsigned char *rgb) {
    for (int x = 0; x < width; x++)
        for (int c = 0; c < 3; c++) {
            unsigned ink = cmyk[4 * x + c], black = cmyk[4 * x + 3];
            if (!inverted) ink = 255 - ink, black = 255 - black;
            rgb[3 * x + c] = (unsigned char)((ink * black + 127) / 255);
        }
}

/* Everything that may longjmp; what it allocates is reachable from `out` and `*line`. */
static Status jpeg_pixels(const char *name, struct jpeg_decompress_struct *jpeg, Image *out,
                          unsigned char **line) {
    jpeg_read_header(jpeg, TRUE);
    TRY(check_size(name, jpeg->image_width, jpeg->image_height));
    bool cmyk = jpeg->num_components == 4;
    jpeg->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(jpeg);
    out->width = (int)jpeg->output_width;
    out->height = (int)jpeg->output_height;
    out->rgb = malloc((size_t)out->width * (size_t)out->height * 3);
    *line = malloc((size_t)out->width * 4);
    if (!out->rgb || !*line) return out_of_memory(name);
    while (jpeg->output_scanline < jpeg->output_height) {
        unsigned char *row = out->rgb + (size_t)jpeg->output_scanline * (size_t)out->width * 3;
        unsigned char *into = cmyk ? *line : row;
        jpeg_read_scanlines(jpeg, &into, 1);
        if (cmyk) cmyk_row(*line, out->width, jpeg->saw_Adobe_marker, row);
    }
    jpeg_finish_decompress(jpeg);
    return NULL;
}

static Status jpeg_decode(const char *name, const void *bytes, size_t n, Image *out) {
    struct jpeg_decompress_struct jpeg = {0};
    JpegError error;
    unsigned char **line = calloc(1, sizeof *line); /* on the heap: it survives longjmp */
    if (!line) return out_of_memory(name);
    jpeg.err = jpeg_std_error(&error.base);
    error.base.error_exit = jpeg_fail;
    error.base.emit_message = jpeg_message;
    Status s;
    if (setjmp(error.out)) {
        s = status_make(EXIT_INPUT, "%s: JPEG: %s", name, error.text);
    } else {
        jpeg_create_decompress(&jpeg);
        jpeg_mem_src(&jpeg, bytes, (unsigned long)n);
        s = jpeg_pixels(name, &jpeg, out, line);
    }
    jpeg_destroy_decompress(&jpeg);
    free(*line);
    free(line);
    return s;
}

Status image_decode(const char *name, const void *bytes, size_t n, Image *out) {
    static const struct {
        const char *magic;
        size_t n;
        Status (*decode)(const char *, const void *, size_t, Image *);
    } FORMAT[] = {{"\x89PNG\r\n\x1a\n", 8, png_decode}, {"\xff\xd8\xff", 3, jpeg_decode}};
    *out = (Image){0};
    for (size_t i = 0; i < COUNT(FORMAT); i++)
        if (n >= FORMAT[i].n && !memcmp(bytes, FORMAT[i].magic, FORMAT[i].n)) {
            Status s = FORMAT[i].decode(name, bytes, n, out);
            if (s) image_free(out);
            return s;
        }
    return status_make(EXIT_INPUT, "%s: neither PNG nor JPEG", name);
}

/* ---- resizing ---- */

/* Target sample i is the sum of weight[i*width + j] * source[first[i] + j], j < width. */
typedef struct {
    int width;
    int *first;
    float *weight;
} Taps;

static void taps_free(Taps *t) {
    free(t->first);
    free(t->weight);
}

static bool taps_make(Taps *t, int from, int to) {
    double scale = (double)from / to;
    t->width = MIN(from, scale > 1 ? (int)scale + 2 : 2);
    t->first = malloc((size_t)to * sizeof *t->first);
    t->weight = calloc((size_t)to * (size_t)t->width, sizeof *t->weight);
    if (!t->first || !t->weight) return false;
    for (int i = 0; i < to; i++) {
        double lo = i * scale, hi = (i + 1) * scale, centre = (lo + hi) / 2 - 0.5;
        int first = (int)(scale > 1 ? lo : MAX(centre, 0));
        t->first[i] = first = MIN(first, from - t->width);
        for (int j = 0; j < t->width; j++) {
            double cover = MIN(hi, first + j + 1) - MAX(lo, first + j), at;
            at = MIN(MAX(centre, 0), from - 1) - (first + j);
            double w = scale > 1 ? cover / scale : 1 - MAX(at, -at);
            t->weight[i * t->width + j] = (float)MAX(w, 0);
        }
    }
    return true;
}

/* Rows of `m` resized to `side` samples: out[height][side][3]. */
static void resize_rows(const Image *m, const Taps *t, int side, float *out) {
    for (int y = 0; y < m->height; y++)
        for (int x = 0; x < side; x++) {
            const unsigned char *in =
                m->rgb + ((size_t)y * (size_t)m->width + (size_t)t->first[x]) * 3;
            float sum[3] = {0};
            for (int j = 0; j < t->width; j++)
                for (int c = 0; c < 3; c++)
                    sum[c] += t->weight[x * t->width + j] * (float)in[3 * j + c];
            memcpy(out + ((size_t)y * (size_t)side + (size_t)x) * 3, sum, sizeof sum);
        }
}

/* Column x of rows[height][side][3] at target line y. */
static void resize_column(const float *rows, const Taps *t, int side, int y, int x,
                          unsigned char *out) {
    float sum[3] = {0};
    for (int j = 0; j < t->width; j++) {
        const float *in = rows + ((size_t)(t->first[y] + j) * (size_t)side + (size_t)x) * 3;
        for (int c = 0; c < 3; c++) sum[c] += t->weight[y * t->width + j] * in[c];
    }
    for (int c = 0; c < 3; c++) out[c] = (unsigned char)(MIN(sum[c], 255) + 0.5f);
}

Status image_patches(const Image *m, int side, int patch, unsigned char *out) {
    ASSERT(side > 0 && patch > 0 && side % patch == 0);
    Taps across = {0}, down = {0};
    float *rows = malloc((size_t)m->height * (size_t)side * 3 * sizeof *rows);
    Status s = NULL;
    if (!rows || !taps_make(&across, m->width, side) || !taps_make(&down, m->height, side)) {
        s = out_of_memory("picture");
    } else {
        resize_rows(m, &across, side, rows);
        for (int py = 0; py < side; py += patch)
            for (int px = 0; px < side; px += patch)
                for (int y = py; y < py + patch; y++)
                    for (int x = px; x < px + patch; x++, out += 3)
                        resize_column(rows, &down, side, y, x, out);
    }
    taps_free(&across);
    taps_free(&down);
    free(rows);
    return s;
}

void image_normalise(const unsigned char *in, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = (float)in[i] / 127.5f - 1;
}
