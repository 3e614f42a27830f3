/* shard.h: what the files of the shard pass share. Private to shard*.c.
 *
 * Axes are the mesh's own axes with more than one rank, numbered in one fixed order (slowest first
 * where several split one dimension); sets of axes are bit masks. */
#ifndef M6C_SHARD_H
#define M6C_SHARD_H

#include "passes/passes.h"

/* ================================ shard_dims.c ================================ */

enum { DIMS_LABELS = 96, DIMS_RESULTS = 4 };

/* What splitting a label does to the result. */
typedef enum {
    LABEL_MAP, /* the result has the label too: each part computes its part */
    LABEL_SUM, /* the parts' results add up */
    LABEL_MAX, /* … the largest counts */
    LABEL_MIN,
    LABEL_JOINED, /* … what the op itself makes of all parts, on every rank (shard_loss.c) */
    LABEL_TIED    /* split exactly as the operand `tied` is: its numbers are of one part */
} LabelKind;

/* The dimensions of a node's operands and results, by what they have in common; -1: a dimension
 * that stays whole. */
typedef struct {
    int n;
    LabelKind kind[DIMS_LABELS];
    int64_t size[DIMS_LABELS]; /* the number of parts divides it */
    int8_t in[MAX_OPERANDS][MAX_RANK], out[DIMS_RESULTS][MAX_RANK];
    uint32_t tied;  /* operand whose split decides about LABEL_TIED; NO_VALUE: none */
    int tied_dim;   /* its dimension */
    uint32_t index; /* operand that counts along `counted`; a number outside it has no effect */
    int8_t counted; /* a label, where `index` is one; a rank counts from where its part begins */
} Dims;
void dims_of(const Graph *g, Value v, Dims *d);
/* Of an op: is it linear in operand i, so that parts of a sum may go through it? */
bool passes_partial(const Graph *g, Value v, uint32_t i);

/* ================================ parts ================================ */

enum { SHARD_AXES = MAX_RANK };
typedef uint8_t Axes; /* bit i: axis i */

/* Which part of a value a rank has. */
typedef struct {
    Axes dim[MAX_RANK]; /* split over these */
    Axes partial;       /* the sum over these is the value */
} Part;

typedef struct Made {
    Part part;
    Value v; /* in the new graph */
    struct Made *next;
} Made;

typedef struct {
    Graph *from, *to;
    Arena *a;
    int naxes;
    const char *axis[SHARD_AXES];
    int64_t size[SHARD_AXES];
    bool *pending;       /* by old value: made where and as it is asked for, not yet decided */
    Part *home;          /* by old value: as it was made first */
    Made **made;         /* by old value: all ways it was made */
    Value **result;      /* by old value: an op's results, where several nodes stand for it */
    Uses uses;           /* of old values */
    Axes uneven;         /* the axis over which parts have shares, or 0 */
    ShareClass share;    /* of them, this graph's ranks' */
    Axes tensor;         /* the axis that parameters nobody placed may be split over */
    bool warned;         /* of routing that is not shared */
    Axes batch;          /* axes of replicas, which share the batch */
    Axes reuse;          /* ZeRO: axes over which optimizer state is split */
    bool scoped;         /* the model has `replicate` scopes, and there is a tensor axis */
    uint8_t *batch_dims; /* by old value: bit k: dimension k is the batch; only where scoped */
    Value index[1 << SHARD_AXES]; /* this rank's index over a set of axes, or NO_VALUE */
} Shard;

int64_t axes_parts(const Shard *s, Axes axes);
/* Can so many elements be split over these axes? How many are then this rank's? */
bool axes_divide(const Shard *s, Axes axes, int64_t size);
int64_t axes_part(const Shard *s, Axes axes, int64_t size);
const char *axes_name(const Shard *s, Axes axes); /* interned: "data.expert" */
bool part_equal(const Part *a, const Part *b, int rank);
/* Type of one rank's part. */
const Type *part_type(const Shard *s, const Type *whole, const Part *p);
const Spec *part_spec(const Shard *s, int rank, const Part *p);

/* ================================ shard_choose.c ================================ */

/* What node v shall be split over: the axes of each label, and those over which its results stay
 * partial sums although no label is split (the operands are). */
typedef struct {
    Axes label[DIMS_LABELS];
    Axes through;
} Choice;
void shard_choose(const Shard *s, Value v, const Dims *d, Choice *c);
double shard_bytes(const Type *t); /* of a tuple: of all results */
/* What every one of n ranks does that computes all of v, and what a sum over them takes. */
double shard_repeated_cost(const Graph *g, Value v, double n);
double shard_sum_cost(double bytes, double n);
/* Of the ways in which v was made, the one from which `want` takes least. */
const Made *shard_nearest(const Shard *s, Value v, const Part *want);
/* The part of operand i, or of result i, under a choice. */
Part choice_in(const Shard *s, Value v, const Dims *d, const Choice *c, uint32_t i);
Part choice_out(const Dims *d, const Choice *c, int rank, uint32_t i);

/* ================================ shard_move.c ================================ */

/* x of type `whole` as `have`, as `want`: collectives and blocks. */
Value shard_move(Shard *s, const Type *whole, Value x, Part have, const Part *want);
Value shard_index(Shard *s, Axes axes); /* i32[]: this rank's */
/* Where this rank's part of `size` elements begins. */
Value shard_first(Shard *s, Axes axes, int64_t size, Dtype dtype);
/* [n, .., m, ..] -> x[.., n m, ..] */
Value shard_join(Shard *s, Value x, int dim);
/* All ranks' reduction of x. */
Value shard_reduce(Shard *s, Value x, Axes axes, ReduceOp reduce);

/* ================================ shard_share.c ================================ */

/* Can the batch be divided so? False after a diagnostic. */
bool share_divides(const Graph *g);
/* Of a group over these axes: the ranks of this rank's class of shares, its place among them. Where
 * axes have no shares, all ranks. */
int64_t share_ranks(const Shard *s, Axes axes);
Value share_index(Shard *s, Axes axes);
/* Where the class's part of `size` elements begins; that part of a whole x. */
int64_t share_start(const Shard *s, Axes axes, int64_t size);
Value share_range(Shard *s, Value x, int dim, Axes axes);
/* All of x, of which every rank has its share along dim. */
Value share_gather(Shard *s, Value x, int dim);

/* ================================ shard_loss.c ================================ */

/* Both results of a cross_entropy whose logits are the rank's part of the classes; the target
 * counts from the part's first class. */
void shard_cross_entropy(Shard *s, Value logits, Value target, Axes axes, Value res[2]);

/* ================================ shard_scope.c ================================ */

void scope_begin(Shard *s);
/* Which dimensions of a leaf, a result or a result of a tuple (d: the tuple's) are the batch. */
void scope_leaf(Shard *s, Value v);
void scope_result(Shard *s, Value v, const Dims *d);
void scope_proj(Shard *s, Value v, const Dims *d);
/* May, must or must not node v be split at the label over the tensor axis a? */
typedef enum { SCOPE_FREE, SCOPE_WANTED, SCOPE_BANNED } ScopeRule;
ScopeRule scope_rule(const Shard *s, Value v, const Dims *d, int label, int a);

/* ================================ shard.c ================================ */

/* Old value v as part `want`. */
Value shard_get(Shard *s, Value v, const Part *want);

/* ================================ shard_tensor.c ================================ */

/* Gives parameters that nobody placed a Spec over the axis of `size` ranks: where a contraction
 * with them and a later one can be split at one label, with no exchange between (Megatron's
 * columns, then rows), and tables of a vocabulary and the products that give its logits, where that
 * pays. `replicas` share the batch. */
void shard_tensor(Graph *g, Arena *a, const char *axis, int64_t size, int64_t replicas);

#endif
