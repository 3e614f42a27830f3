/* main_pack.h: buffers with lifetimes from CSV. */
#ifndef M6C_MAIN_PACK_H
#define M6C_MAIN_PACK_H

#include "passes/pack.h"

typedef struct {
    const char *text; /* in the file's text, quotes included */
    size_t n;
} PackId;
typedef struct {
    VEC(PackId) id;
    VEC(PackItem) item;
} PackTable;

/* main_pack_csv.c */
/* Reads rows under a header line that names the columns id, lower, upper and size, in any order;
 * other columns are read over. The text must stay, and end with a zero byte. False after
 * diagnostics; never crashes on any bytes. */
bool pack_table_parse(Session *s, const char *name, const char *text, size_t n, PackTable *t);
void pack_table_free(PackTable *t);

#endif
