/* frontend.h: what the rest of the compiler may ask of the language: parse, load with its `use`d
 * files, print canonically. Elaboration into IR is in elab.h. Trees are owned by the session. */
#ifndef M6C_FRONTEND_H
#define M6C_FRONTEND_H

#include "frontend/ast.h"

/* Parses `n` bytes of text shown as `name` in diagnostics. Returns NULL after reporting errors. */
File *frontend_parse(Session *s, const char *name, const char *text, size_t n);

/* Reads and parses `path` and every file it uses, each once. Returns NULL after reporting errors;
 * `path` itself being unreadable is reported at no location. */
File *frontend_load(Session *s, const char *path);

/* Like frontend_load for a text that is already there; `use` is relative to `name`. */
File *frontend_load_text(Session *s, const char *name, const char *text, size_t n);

/* Appends the canonical text of `f`, comments included. */
void frontend_format(const File *f, Buf *out);

/* The text of the standard layers, NUL-terminated. */
extern const char m6_library[];
extern const size_t m6_library_size;

#endif
