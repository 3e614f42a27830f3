/* image.h: PNG and JPEG from memory to patches. */
#ifndef M6C_IMAGE_H
#define M6C_IMAGE_H

#include "ir/base.h"

/* More than any camera makes; a small file may claim to be larger, and is refused. */
enum { IMAGE_MAX_SIDE = 32768, IMAGE_MAX_PIXELS = 1 << 26 };

typedef struct {
    int width, height;
    unsigned char *rgb; /* [height][width][3], malloc'ed */
} Image;

/* Decodes by content. Transparent pictures are laid on white; grey and CMYK become RGB. `name` is
 * used in messages (EXIT_INPUT). */
Status image_decode(const char *name, const void *bytes, size_t n, Image *out);
void image_free(Image *m);

/* Resizes to side x side (each axis: area average when shrinking, bilinear when enlarging) and cuts
 * into patches: out[(side/patch)^2][patch*patch*3], patches row by row, inside a patch y, x,
 * channel; rounded to bytes, as common pipelines do. `patch` divides `side`. */
Status image_patches(const Image *m, int side, int patch, unsigned char *out);
/* Bytes 0..255 to floats -1..1. */
void image_normalise(const unsigned char *in, int64_t n, float *out);

#endif
