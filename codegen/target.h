/* target.h: between the files of codegen that print C. */
#ifndef M6C_CODEGEN_TARGET_H
#define M6C_CODEGEN_TARGET_H

#include "codegen/kernel.h"

/* What every generated file starts with. */
void prelude_print(Buf *out);

/* C types: of a dtype in memory, and in a register. */
const char *ctype_storage(Dtype d);
const char *ctype_register(Dtype d);

/* A kernel's code: the body of `void NAME(void *const *arg, int64_t lo, int64_t hi)`, braces
 * included, and how its work is cut. */
typedef struct {
    Buf body;
    const char *library; /* C text that its file needs before it; NULL: none */
    Buf prefix;          /* CUDA: text right before the kernel */
    int64_t items, grain;
    int threads;    /* CUDA: of a block, of which there are `items` .. */
    int64_t shared; /* .. and its dynamic shared memory */
    double flops, traffic;
} Code;

/* The loop nest of a fused group. Arguments in the order of k->arg. */
void target_c_print(const Kernel *k, Code *c);

#endif
