/* model_text.c: see model_text.h. */
#include "tests/passes/model_text.h"

#include <string.h>

#include "frontend/elab.h"

Graph *model_from_text(Session *s, const char *text) {
    File *f = frontend_load_text(s, "model.m6", text, strlen(text));
    return f ? elaborate(s, f, &(ElabOptions){0}) : NULL;
}

Graph *model_from_file(Session *s, const char *path) {
    File *f = frontend_load(s, path);
    return f ? elaborate(s, f, &(ElabOptions){0}) : NULL;
}
