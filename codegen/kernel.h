/* kernel.h: a fused group as plain data, before any target prints it.
 *
 * The domain is rows x cols: the first ndim - ncol dims are the rows, the last ncol the columns.
 * Instructions are in execution order, each value once. A LEVEL_FULL value exists per element, a
 * LEVEL_ROW value per row. Row reductions cut the work on a row into loops over the columns:
 * `phase` of a full instruction and of a reduction is the first loop that can compute it, of a row
 * instruction the loop before which it can be computed. Column reductions (`outer` > 0) sum over
 * rows / outer consecutive rows; nothing reads their results inside the kernel. */
#ifndef M6C_CODEGEN_KERNEL_H
#define M6C_CODEGEN_KERNEL_H

#include "ir/storage.h"

enum { KERNEL_DIMS = SPACE_CUTS + 2 };
#define NO_INST UINT32_MAX

typedef enum {
    INST_CONST,  /* value */
    INST_IOTA,   /* offset + sum of index * stride */
    INST_LOAD,   /* arg[offset + sum of index * stride], 0 where the guard fails */
    INST_KEY,    /* random key of `site` from operands seed, step */
    INST_RANDOM, /* [0, 1) from a key and the element's number: sum of index * stride, and of the
                    second operand if there is one */
    INST_EW,     /* op of the operands */
    INST_REDUCE, /* op (sum, max, min) over the columns, or over rows at LEVEL_COL */
} InstKind;

typedef struct {
    InstKind kind;
    Op op;
    Dtype dtype; /* of the value in storage; registers are wider */
    Level level;
    int phase;
    uint32_t nin, in[3];
    double value;
    uint64_t site;
    uint32_t arg;
    int64_t stride[KERNEL_DIMS], offset;
    bool guarded; /* lo <= index < hi must hold in every dim */
    int64_t lo[KERNEL_DIMS], hi[KERNEL_DIMS];
    uint32_t index; /* LOAD: register whose value times index_stride is added, or NO_INST */
    int64_t index_stride, index_size; /* outside 0 .. index_size - 1 the load gives 0 */
} Inst;

typedef struct {
    Value value; /* whose bytes */
    Dtype dtype;
    bool written;
} KernelArg;

/* Full: element row * cols + col; per row: element row; column: outer index * cols + col. */
typedef struct {
    uint32_t inst, arg;
    Level level;
} Store;

typedef struct {
    int ndim, ncol;
    int64_t dim[KERNEL_DIMS];
    int64_t rows, cols, outer;
    bool flat; /* one row whose columns may be cut anywhere */
    int phases;
    VEC(Inst) inst;
    VEC(KernelArg) arg; /* read ones first */
    VEC(Store) store;
} Kernel;

/* The kernel of unit u. Free with kernel_free. */
void kernel_build(const Graph *g, const Units *us, uint32_t u, Kernel *k);
void kernel_free(Kernel *k);
/* One line per instruction: "%4 = load a0[768 1] : f32 full". */
void kernel_print(const Kernel *k, Buf *out);

#endif
