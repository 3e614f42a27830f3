/* target.h: between the files of codegen that print C. */
#ifndef M6C_CODEGEN_TARGET_H
#define M6C_CODEGEN_TARGET_H

#include "codegen/kernel.h"
#include "runtime/plan.h"

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

/* C types: of a dtype in memory, and in a register. */
const char *ctype_storage(Dtype d);
const char *ctype_register(Dtype d);

/* A kernel's code: its body, braces included, and how its work is cut. ARG(i) in it is argument i.
 */
typedef struct {
    Buf body;
    const char *library; /* C text that its file needs before it; NULL: none */
    Buf prefix;          /* CUDA: text right before the kernel */
    int64_t items, grain;
    int threads;    /* CUDA: of a block, of which there are `items` .. */
    int64_t shared; /* .. and its dynamic shared memory */
    Buf inner; /* CUDA: what does not say which blocks and pointers; empty: it cannot be joined */
    int64_t elements; /* its size, if it does not say that either; else 0 */
} Code;

/* ---- preludes: what generated files start with ---- */
/* How the expressions of ops.def become functions of one type of register. */
enum { REGISTER_KINDS = 4 };
typedef struct {
    const char *suffix, *ctype, *literal, *define;
    bool ints;
} Registers;
void prelude_common(const Registers reg[REGISTER_KINDS], Buf *out); /* prelude.c */
void prelude_c(Buf *out);
void prelude_cuda(Buf *out);

/* ---- the loop nest of a fused group; arguments in the order of k->arg ---- */
void target_c_print(const Kernel *k, Code *c);
void target_cuda_print(const Kernel *k, Code *c);

/* ---- targets: the languages that kernels are printed in ---- */
struct Opaque;
struct CodegenOptions;
struct CodegenSource;
typedef struct {
    const char *suffix; /* of source files */
    uint32_t per_file;  /* kernels in one */
    void (*prelude)(Buf *out);
    void (*fused)(const Kernel *k, Code *c);
    void (*opaque)(const struct Opaque *o, Code *c);
    void (*epilogue)(const PlanGemm *g, Code *c); /* NULL: products have none */
    /* A message's format: see plan.h. NULL: the runtime does it. */
    void (*convert)(Dtype from, Dtype to, bool pack, Code *c);
    void (*head)(const char *name, int nargs, int threads, Buf *out); /* a kernel up to its body */
    Status (*compile)(const struct CodegenOptions *o, const struct CodegenSource *source,
                      uint32_t n);
} Target;
/* Of a plan's target: "cpu" and "null" have C, GPU architectures CUDA C. */
const Target *target_find(const char *name);

#endif
