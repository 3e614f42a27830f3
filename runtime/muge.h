/* muge.h: caption data sets in the format of the MUGE benchmark (ECommerce-IC).
 *
 * DIR/IC_SPLIT.jsonl, one JSON object a line: {"image_id": "…", "text": ["caption", …]}
 * DIR/IC_SPLIT.tsv, one picture a line: image_id, tab, urlsafe base64 of a PNG or JPEG file
 * An image_id may also be a number, "text" a single string; lines of white space are skipped. */
#ifndef M6C_MUGE_H
#define M6C_MUGE_H

#include "ir/base.h"

typedef struct Muge Muge;

/* Reads the captions and indexes the pictures (which stay on disk, mapped). Errors (EXIT_INPUT)
 * name file and line. `with_images` false: the .tsv is not needed. The files must not be cut short
 * while in use. */
Status muge_open(const char *dir, const char *split, bool with_images, Muge **out);
/* The same from memory that outlives the result; `name` is used in messages. tsv NULL: none. */
Status muge_parse(const char *name, const char *jsonl, size_t njsonl, const char *tsv, size_t ntsv,
                  Muge **out);
void muge_close(Muge *m); /* NULL is fine */

uint32_t muge_count(const Muge *m); /* captioned pictures, in the order of the .jsonl */
const char *muge_id(const Muge *m, uint32_t i);
uint32_t muge_texts(const Muge *m, uint32_t i);
const char *muge_text(const Muge *m, uint32_t i, uint32_t k);
/* "DIR/IC_train.jsonl:17" and "DIR/IC_train.tsv:17", for messages about example i. */
void muge_where_text(const Muge *m, uint32_t i, Buf *out);
void muge_where_image(const Muge *m, uint32_t i, Buf *out);
/* The bytes of the picture's file, appended to *out. May be called from several threads. */
Status muge_image(const Muge *m, uint32_t i, Buf *out);

/* Appends urlsafe base64 with padding. */
void base64_put(Buf *out, const void *data, size_t n);

#endif
