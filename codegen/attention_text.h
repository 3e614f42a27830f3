/* attention_text.h: attention_cpu.h as text, embedded by the build. */
#ifndef M6C_CODEGEN_ATTENTION_TEXT_H
#define M6C_CODEGEN_ATTENTION_TEXT_H

#include <stddef.h>

extern const char attention_text[]; /* NUL-terminated */
extern const size_t attention_text_size;

#endif
