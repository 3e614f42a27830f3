/* model_text.h: a model in the language as a graph, for tests that also see storage.h (whose Unit
 * is another than the language's). */
#ifndef M6C_TESTS_MODEL_TEXT_H
#define M6C_TESTS_MODEL_TEXT_H

#include "ir/ir.h"

/* NULL after diagnostics. */
Graph *model_from_text(Session *s, const char *text);
Graph *model_from_file(Session *s, const char *path);

#endif
