/* storage.h: where values live, between fuse and the plan. Shared by the passes (fuse, schedule,
 * allocate) and codegen.
 *
 * After fuse every node that computes has a group: one kernel, matrix product or opaque kernel (a
 * Unit). Views with group 0 own no bytes: they are a Layout over their root. A value owns bytes
 * when it is a leaf, a result of a unit that something outside the unit reads, or an output.
 * Constants and iotas with group 0 live in the kernels that use them. */
#ifndef M6C_STORAGE_H
#define M6C_STORAGE_H

#include "ir/ir.h"
#include "ir/work.h"

/* ================================ layout.c ================================ */

enum { LAYOUT_RANK = 12 };

/* Element (i0, i1, ..) of a view is element offset + sum i*stride of its root's row-major order. */
typedef struct {
    int rank;
    int64_t dim[LAYOUT_RANK], stride[LAYOUT_RANK], offset;
} Layout;
void layout_of_type(const Type *t, Layout *l); /* row-major */
/* The same elements under other dims; false when strides cannot say that (l unchanged then). */
bool layout_reshape(Layout *l, int rank, const int64_t *dim);
void layout_collapse(Layout *l); /* drops dims of size 1, merges neighbours that run on */
int64_t layout_elements(const Layout *l);
/* Of an OP_random: into how many parts the whole tensor's dim is split, of which it draws one; and
 * where the part's elements lie in the whole tensor, counted from its first. */
int64_t random_parts(const Node *n, int dim);
void random_layout(const Node *n, Layout *l);
/* All n elements of the root in their order. */
bool layout_is_identity(const Layout *l, int64_t n);
/* One row-major block of the root (from any offset). */
bool layout_is_block(const Layout *l);
/* [rows, cols] where element (r, c) is element r of a root of `rows` elements. */
bool layout_is_row_broadcast(const Layout *l, int64_t rows, int64_t cols);
/* l is the layout of view's operand; makes it that of `view` (an OPF_VIEW node). False: not
 * possible. */
bool layout_view(const Node *view, Layout *l);
/* The root of v through virtual views (views of group 0), and v's layout over it. */
Value view_root(const Graph *g, Value v, Layout *l);
/* The same without the layout. */
Value view_base(const Graph *g, Value v);
/* Leaves that own bytes. */
static inline bool is_store(const Node *n) {
    return n->op == OP_param || n->op == OP_state || n->op == OP_input;
}
/* What is taken of another node and computed with it: a result of several, or a message's bytes. */
static inline bool is_result(const Node *n) { return n->op == OP_proj || n->op == OP_room; }
static inline bool is_view(const Node *n) { return (op_info(n->op)->flags & OPF_VIEW) != 0; }

/* ================================ contract.c ================================ */

enum { CONTRACT_BATCH = 3 };

/* A contraction as C = op(A) op(B), row-major and batched, over the operands' roots. When swapped,
 * A is the einsum's second operand. Strides in elements. */
typedef struct {
    bool swapped;
    Value a, b; /* roots */
    int64_t a_offset, b_offset;
    int64_t m, n, k, lda, ldb, ldc;
    bool ta, tb;
    int nbatch;
    int64_t count[CONTRACT_BATCH], sa[CONTRACT_BATCH], sb[CONTRACT_BATCH], sc[CONTRACT_BATCH];
} Contract;
/* What stands in the way: an operand whose dims do not collapse, or the order of the result. */
typedef enum { CONTRACT_OK, CONTRACT_BAD_A, CONTRACT_BAD_B, CONTRACT_BAD_C } ContractFit;
ContractFit contract_fit(const Graph *g, Value einsum, Contract *c);
/* Is v a matrix product: an einsum, or one that continues with gelu or its gradient? */
bool is_product(const Graph *g, Value v);

/* ================================ space.c ================================ */

enum { SPACE_CUTS = 7, SPACE_WHOLE = 8, SPACE_NODES = 96, SPACE_ARGS = 64 };

/* The iteration space of a fused group: n elements, as rows of c columns once something asks for
 * rows (c = 0 until then). Values are full (n elements), per row (n / c), or, as the result of a
 * column reduction over [outer, rows / outer, c], per column: those are never read inside.
 * `cut` are the sizes of trailing blocks at which some operand's strides change: each divides the
 * next, so that the dims between them are a domain in which every operand is affine. */
typedef struct {
    int64_t n, c, outer;
    bool row_reduce, col_reduce, per_row;
    int ncut;
    int64_t cut[SPACE_CUTS];
    int nwhole; /* blocks between lo and hi that no cut may divide: dims that a pad tests */
    struct {
        int64_t lo, hi;
    } whole[SPACE_WHOLE];
    uint32_t nodes, args;
} Space;
typedef enum { LEVEL_FULL, LEVEL_ROW, LEVEL_COL } Level;
/* Node v becomes part of group gid (its members have Node.group == gid already, v need not). False,
 * with the space unchanged, when it does not fit. A zeroed Space takes any computing node. */
bool space_add(Space *s, const Graph *g, uint32_t gid, Value v);
Level space_level(const Space *s, const Graph *g, Value v);
/* Can v be part of a fused kernel at all (elementwise, reduction, pad, pick, copy of a view, ..)?
 */
bool space_takes(const Graph *g, Value v);
/* How a reduction's axes lie: rows of c columns, or [outer, a, c] with `a` reduced. */
typedef enum { REDUCE_ROW, REDUCE_COL, REDUCE_MIXED } ReduceKind;
ReduceKind reduce_kind(const Node *n, const Type *operand, int64_t *outer, int64_t *a, int64_t *c);

/* ================================ units.c ================================ */

#define NO_UNIT UINT32_MAX

/* What runs as one step. unit[i] has the nodes of group i + 1. */
typedef struct {
    uint32_t nnode, nread, nwrite;
    Value *node;  /* ascending */
    Value *read;  /* values that own bytes, read from outside the unit, each once */
    Value *write; /* values that own bytes, computed here; of a tuple: its projs; rooms */
} Unit;
typedef struct {
    uint32_t n;
    Unit *unit;
    uint32_t *of; /* by value: the unit that computes it (projs: their tuple's), or NO_UNIT */
    bool *owns;   /* by value: has bytes of its own in an arena */
    Space *space; /* by unit; zero for products and opaque kernels */
} Units;
/* After fuse. Everything lies in the arena. */
Units units_build(const Graph *g, Arena *a);
/* May value `out`, written by unit u, take the bytes of `in`, which u reads and nobody reads later?
 * True when every element is read before, and only by, the work that overwrites it. */
bool unit_may_overwrite(const Graph *g, const Units *us, uint32_t u, Value out, Value in);

/* Is it something that ranks do together, and what? */
bool op_collective(Op op, Collective *kind);
bool is_collective(const Node *n);
/* Does it need all stages of a pipeline, whose graphs differ? Then none may leave it out, or make
 * one of two that are equal there. */
bool joins_stages(const Graph *g, Value v);
/* Message i of a collective: operand i, or what a recv gets. */
const Type *collective_type(const Graph *g, Value v, uint32_t i);
/* The dtype in which a collective's operands travel. */
Dtype collective_wire(const Graph *g, Value v);
/* How many times its results a collective's message is: a reduce_scatter's is all ranks' blocks. */
int64_t collective_parts(const Node *n);

/* ================================ work.c ================================ */

Work unit_work(const Graph *g, const Units *us, uint32_t u);
/* What einsum v does, before its place in a unit is known. */
Work einsum_work(const Graph *g, Value v);
/* Time of an op on one element, in additions; 0: it only renames, or is counted as flops. */
double op_weight(Op op);
/* Appends the ops of a unit in order, each once. */
void unit_what(const Graph *g, const Unit *u, Buf *out);

/* ================================ lifetime.c ================================ */

enum { STORAGE_ALIGN = 64 };
#define NO_SLOT UINT32_MAX
/* Bytes that a tensor takes in an arena: a multiple of STORAGE_ALIGN. */
int64_t storage_size(const Type *t);

/* Bytes of a memory's arena, alive from the unit at time `first` to the one at `last`, both
 * included. Several values follow each other in one slot: each is computed in place over the one
 * before, and a parameter's new value over the old one. */
typedef struct {
    uint32_t first, last;
    int64_t bytes; /* a multiple of STORAGE_ALIGN */
    Mem mem;
} Slot;
typedef struct {
    uint32_t n, nfixed; /* the first nfixed live from 0 to `end`: params, states, inputs */
    Slot *slot;
    uint32_t *of;             /* by value: its slot, or NO_SLOT */
    uint32_t end;             /* the time after the last unit */
    int64_t *live[MEM_COUNT]; /* by time 0 … end: sum of the bytes alive */
    int64_t bound[MEM_COUNT]; /* the largest of these: no placement can be smaller */
} Slots;
/* when[u] is unit u's place in the order, from 1. */
Slots slots_build(const Graph *g, const Units *us, const uint32_t *when, Arena *a);
/* Whether every node that computes has a unit (after lower); without, nothing can be placed. */
bool units_complete(const Graph *g, const Units *us);
/* The order in which units stand in the graph. */
uint32_t *units_when(const Graph *g, const Units *us, Arena *a);
/* After allocate: bytes of an arena, and what no placement of this order can undercut. */
int64_t storage_bytes(const Graph *g, Mem mem);
int64_t storage_bound(const Graph *g, Mem mem);

#endif
