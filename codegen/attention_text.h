/* attention_text.h: texts of attention kernels, embedded by the build: NUL-terminated. */
#ifndef M6C_CODEGEN_ATTENTION_TEXT_H
#define M6C_CODEGEN_ATTENTION_TEXT_H

extern const char attention_text[];              /* attention_cpu.h */
extern const char attention_cuda_text[];         /* attention_cuda.h */
extern const char attention_cuda_mma_text[];     /* attention_cuda_mma.h */
extern const char attention_cuda_forward_text[]; /* attention_cuda_forward.h */
extern const char attention_cuda_grad_text[];    /* attention_cuda_grad.h */
extern const char attention_cuda_f32_text[];     /* attention_cuda_f32.h */

#endif
