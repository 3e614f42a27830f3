/* attention.h: what the emitters of attention share: sizes, and texts that the build embeds. */
#ifndef M6C_CODEGEN_ATTENTION_H
#define M6C_CODEGEN_ATTENTION_H

#include "codegen/opaque.h"

/* The mask as one number: query i sees the keys below max(i + 1, this). */
int64_t attention_prefix(const Opaque *o);

/* NUL-terminated. */
extern const char attention_text[];              /* attention_cpu.h */
extern const char attention_cuda_text[];         /* attention_cuda.h */
extern const char attention_cuda_mma_text[];     /* attention_cuda_mma.h */
extern const char attention_cuda_forward_text[]; /* attention_cuda_forward.h */
extern const char attention_cuda_grad_text[];    /* attention_cuda_grad.h */
extern const char attention_cuda_f32_text[];     /* attention_cuda_f32.h */

#endif
