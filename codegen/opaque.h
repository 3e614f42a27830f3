/* opaque.h: kernels that are not loop nests over one space: gathers, routing, attention. Each is a
 * C text specialised by its sizes, printed by one emitter. */
#ifndef M6C_CODEGEN_OPAQUE_H
#define M6C_CODEGEN_OPAQUE_H

#include "codegen/target.h"

/* A node with its types. Arguments of the kernel: operands in order, then the wanted results in
 * order; all contiguous. */
typedef struct Opaque {
    const Graph *g;
    const Node *n;
    uint32_t nin, nout;
    const Type *in[MAX_OPERANDS], *out[8];
    bool want[8];            /* results that something reads */
    int align[MAX_OPERANDS]; /* bytes, at most 16: what each operand's address is a multiple of */
} Opaque;

/* Prints the kernel of this node, in C or CUDA C; BUG when the op has none. */
void opaque_c_print(const Opaque *o, Code *c);
void opaque_cuda_print(const Opaque *o, Code *c);
/* What a product's epilogue says, as a kernel of C, X, bias. */
void epilogue_cuda_print(const PlanGemm *g, Code *c);
/* A message into the format it travels in (pack), or back: plan.h says what its arguments are. */
void convert_cuda_print(Dtype from, Dtype to, bool pack, Code *c);
bool opaque_has(Op op);

/* ---- what emitters use ---- */
int64_t dims_product(const Type *t, int from, int to); /* elements of dims from .. to - 1 */
/* "const float *x = (const float *)ARG(0);" for operand i, or "float *y = (float *)ARG(3);" for
 * result i; an unwanted result gives nothing. */
void opaque_in(const Opaque *o, Buf *b, uint32_t i, const char *name);
void opaque_out(const Opaque *o, Buf *b, uint32_t i, const char *name);
/* Text of element `index` of a tensor of dtype d, in a register; and the statement that stores. */
void put_load(Buf *b, Dtype d, const char *name, const char *index);
void put_store(Buf *b, Dtype d, const char *name, const char *index, const char *value);
/* items, and the fewest worth a thread when one item costs about `cost` elements' work. */
void opaque_items(Code *c, int64_t items, double cost);
/* CUDA: enough blocks for this many threads. */
void opaque_threads(Code *c, int64_t threads);

/* ---- emitters, by file ---- */
typedef void OpaqueFn(const Opaque *o, Code *c);
OpaqueFn emit_concat, emit_gather, emit_scatter_add, emit_unpick; /* opaque_index.c */
OpaqueFn emit_block;                                              /* opaque_block.c */
OpaqueFn emit_combine, emit_combine_sum, emit_dispatch, emit_dispatch_scaled, emit_gate_grad,
    emit_route; /* opaque_moe.c */
OpaqueFn emit_block_cuda, emit_concat_cuda, emit_gather_cuda, emit_scatter_add_cuda,
    emit_unpick_cuda, emit_combine_cuda, emit_combine_sum_cuda, emit_dispatch_cuda,
    emit_dispatch_scaled_cuda, emit_gate_grad_cuda, emit_route_cuda; /* opaque_cuda.c */
OpaqueFn emit_attention, emit_attention_grad;                        /* attention.c */
OpaqueFn emit_attention_cuda, emit_attention_grad_cuda;              /* attention_cuda.c */

#endif
