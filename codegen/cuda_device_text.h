/* cuda_device_text.h: cuda_device.h as text, embedded by the build. */
#ifndef M6C_CODEGEN_CUDA_DEVICE_TEXT_H
#define M6C_CODEGEN_CUDA_DEVICE_TEXT_H

#include <stddef.h>

extern const char cuda_device_text[]; /* NUL-terminated */
extern const size_t cuda_device_text_size;

#endif
