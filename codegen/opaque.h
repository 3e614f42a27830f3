/* opaque.h: kernels that are not loop nests over one space: gathers, routing, attention. Each is a
 * C text specialised by its sizes, printed by one emitter. */
#ifndef M6C_CODEGEN_OPAQUE_H
#define M6C_CODEGEN_OPAQUE_H

#include "codegen/target.h"

/* A node with its types. Arguments of the kernel: operands in order, then the wanted results in
 * order; all contiguous. */
typedef struct {
    const Graph *g;
    const Node *n;
    uint32_t nin, nout;
    const Type *in[MAX_OPERANDS], *out[8];
    bool want[8]; /* results that something reads */
} Opaque;

/* Prints the kernel of this node; BUG when the op has none. */
void opaque_print(const Opaque *o, Code *c);
bool opaque_has(Op op);

/* ---- what emitters use ---- */
/* "const float *x = arg[0];" for operand i, or "float *y = arg[3];" for result i; an unwanted
 * result gives nothing. */
void opaque_in(const Opaque *o, Buf *b, uint32_t i, const char *name);
void opaque_out(const Opaque *o, Buf *b, uint32_t i, const char *name);
/* Text of element `index` of a tensor of dtype d, in a register; and the statement that stores. */
void put_load(Buf *b, Dtype d, const char *name, const char *index);
void put_store(Buf *b, Dtype d, const char *name, const char *index, const char *value);
/* items, and the fewest worth a thread when one item costs about `cost` elements' work. */
void opaque_items(Code *c, int64_t items, double cost);

/* ---- emitters, by file ---- */
typedef void OpaqueFn(const Opaque *o, Code *c);
OpaqueFn emit_concat, emit_gather, emit_scatter_add, emit_unpick; /* opaque_index.c */
OpaqueFn emit_combine, emit_combine_sum, emit_dispatch, emit_dispatch_scaled, emit_gate_grad,
    emit_route;                                         /* opaque_moe.c */
OpaqueFn emit_attention, emit_attention_grad;           /* attention.c */
OpaqueFn emit_attention_cuda, emit_attention_grad_cuda; /* attention_cuda.c */

#endif
