/* ir.h: the intermediate representation. A graph of nodes in topological order; a value is the
 * index of the node that computes it. Types, sharding specs, attributes and strings are interned in
 * the Session: equal means same pointer. Layers are unrolled. One table, ops.def, defines every op.
 *
 * Declarations are grouped by the file that defines them. Structs are open: passes read and write
 * nodes directly, and the verifier (after every pass) says what must hold. */
#ifndef M6C_IR_H
#define M6C_IR_H

#include "ir/base.h"

enum { MAX_RANK = 8, MAX_OPERANDS = 64 };
enum { ATTENTION_MAX_HEAD = 256 }; /* larger heads stay in primitive form: kernels hold a head */

typedef uint32_t Value;
#define NO_VALUE UINT32_MAX

/* ================================ types.c ================================ */

typedef struct Type Type;
struct Type {
    Dtype dtype;
    int rank;
    int64_t dim[MAX_RANK];
    uint32_t nelem;          /* DT_TUPLE: number of results */
    const Type *const *elem; /* DT_TUPLE: their types */
};
const Type *type_tensor(Session *s, Dtype d, int rank, const int64_t *dim);
const Type *type_scalar(Session *s, Dtype d);
const Type *type_tuple(Session *s, uint32_t n, const Type *const *elem);
const Type *type_with_dtype(Session *s, const Type *t, Dtype d);
bool type_same_shape(const Type *a, const Type *b);
int64_t type_elements(const Type *t);
/* Bytes of a tensor, or -1 when they do not fit in 62 bits. */
int64_t type_bytes(const Type *t);
void type_strides(const Type *t, int64_t stride[MAX_RANK]); /* row-major, in elements */
void type_print(const Type *t, Buf *out);                   /* "f32[2,3]", "(f32[2], i32[])" */

/* Sharding of one value: per dimension the mesh axes it is split over (NULL: not split; several are
 * joined by '.', the slowest first: "data.expert"), and the axes over which it is a partial sum.
 * NULL where a Spec pointer stands means "not planned". Before `shard` types are those of the whole
 * tensors and a Spec is what the model asks of a parameter; after it (Settings.sharded) types are
 * those of one rank's part and the Spec says which part that is. */
typedef struct {
    int rank;
    const char *axis[MAX_RANK]; /* interned */
    int npartial;
    const char *partial[MAX_RANK];
} Spec;
const Spec *spec_intern(Session *s, const Spec *spec);
void spec_print(const Spec *spec, Buf *out); /* "@[data,_,_]", "@[_,expert]+tensor" */

/* Attributes of a node: a record laid out by its op's schema, interned. */
typedef enum { ATTR_INT, ATTR_FLOAT, ATTR_STR, ATTR_INTS, ATTR_DTYPE, ATTR_KIND_COUNT } AttrKind;
typedef struct {
    uint32_t n;
    int64_t v[];
} Ints; /* interned */
typedef union {
    int64_t i; /* ATTR_INT, ATTR_DTYPE */
    double f;
    const char *s; /* interned */
    const Ints *v;
} AttrValue;
typedef struct {
    uint32_t n;
    AttrValue v[];
} Attr;
const Ints *ints_intern(Session *s, uint32_t n, const int64_t *v);

/* ================================ ops.c, ops.def ================================ */

typedef enum {
#define OP(name, ...) OP_##name,
#define EW(name, ...) OP_##name,
#include "ir/ops.def"
#undef OP
#undef EW
    OP_COUNT
} Op;

enum {                    /* flags of an op */
       OPF_EW = 1,        /* elementwise: all operands and the result have one shape */
       OPF_LEAF = 2,      /* no operands, type given: parameters, inputs, constants */
       OPF_EFFECT = 4,    /* must not be removed: outputs, assignments */
       OPF_VIEW = 8,      /* only renames elements: may be a strided view of its operand */
       OPF_REDUCE = 16,   /* reduces `axes` */
       OPF_COMMUTES = 32, /* operands 0 and 1 may be swapped */
       OPF_UNIQUE = 64,   /* two equal nodes are still different (random sites) */
       OPF_BOOL = 128,    /* EW: the result is bool */
       OPF_INT = 256,     /* EW: legal on integers too */
       OPF_ACT = 1024,    /* computes nothing that is read, but must not be removed */
       OPF_NOGRAD = 512,  /* gradient is zero by definition (comparisons, integer results) */
};

typedef struct {
    const char *name;
    AttrKind kind;
} AttrField;

typedef struct Graph Graph;
typedef struct Node Node;
typedef struct Tensor Tensor;

/* Type of the result from operand types and attributes; NULL with a sentence in *err when illegal.
 * For leaves `given` is the type asked for. */
typedef const Type *InferFn(Session *s, Op op, uint32_t nin, const Type *const *in,
                            const Attr *attr, const Type *given, Buf *err);
/* Appends to g the gradients of operands of node v. gout[i] is the gradient of result i or
 * NO_VALUE; gin[i] stays NO_VALUE where there is none. */
typedef void VjpFn(Graph *g, Value v, const Value *gout, Value *gin);
/* Computes out (allocated; one Tensor per result) from in, in double precision. */
typedef void EvalFn(const Graph *g, const Node *n, const Tensor *in, Tensor *out);
/* Appends primitive nodes equal to node v; res[i] receives result i. */
typedef void ExpandFn(Graph *g, Value v, Value *res);
typedef double FlopsFn(const Graph *g, const Node *n);

typedef struct {
    const char *doc;
    const AttrField *attrs; /* schema, ended by a row without a name; NULL: no attributes */
    const char *dims;       /* einsum-like dimension signature; "" or NULL: none ("same" for EW) */
    uint32_t flags;
    InferFn *infer;
    VjpFn *vjp;
    EvalFn *eval;
    ExpandFn *expand;
    FlopsFn *flops;
    /* derived or filled by the macros */
    const char *name;
    int arity;                                  /* number of operands; -1: any */
    const char *expr;                           /* EW: C expression of a, b, c */
    double (*fn)(double a, double b, double c); /* EW: the same expression, compiled */
} OpInfo;
const OpInfo *op_info(Op op);
bool op_find(const char *name, Op *op);
/* Type of the result, or NULL and a sentence in *err: checks the number of operands, the
 * attributes, what the op demands, and the size of the result. */
const Type *op_infer(Session *s, Op op, uint32_t nin, const Type *const *in, const Attr *attr,
                     const Type *given, Buf *err);
/* Fields of an op's attribute schema. */
uint32_t op_fields(Op op, const AttrField **field);

/* Attribute records: values in schema order, strings interned. NULL when the op has none. */
const Attr *attr_intern(Session *s, Op op, const AttrValue *v);

/* ================================ graph.c ================================ */

typedef enum { PHASE_FORWARD, PHASE_BACKWARD, PHASE_APPLY, PHASE_COUNT } Phase;

struct Node {
    uint16_t op; /* Op */
    uint16_t nin;
    uint32_t in; /* first operand in Graph.operand */
    const Type *type;
    const Spec *spec;  /* NULL until planned or annotated */
    const Attr *attr;  /* NULL when the op has no attributes */
    const char *scope; /* interned path, "" at the top */
    Loc loc;
    uint8_t phase;  /* Phase */
    uint8_t stream; /* Stream; set by memory */
    uint8_t mem;    /* Mem: where its bytes lie; set by memory */
    bool store;     /* written to memory even if nothing reads it; set by memory */
    int16_t micro;  /* micro-batch, -1: all */
    uint32_t group; /* kernel this node is part of, 0: none; set by fuse */
    int64_t offset; /* place in the device arena, -1: none; set by allocate */
};

/* Annotations of scopes in the model (replicate, split, stage, checkpoint, keep, offload), and
 * where the model's file calls a layer of another (call). */
typedef struct {
    const char *scope; /* applies to this scope and everything below */
    const char *kind;
    int64_t n;        /* replicate(n), split(n); 0: not given */
    const char *name; /* stage name; NULL: none */
    Loc loc;
} Annotation;

typedef enum { LOSS_SCALE_NONE, LOSS_SCALE_FIXED, LOSS_SCALE_DYNAMIC } LossScale;

/* What `train` and `place` say. Printed as `setting` lines of the text form. */
typedef struct {
    bool train;            /* false: forward only */
    Dtype precision;       /* compute and storage type of activations: f32, bf16, f16 */
    double clip;           /* global gradient norm; 0: none */
    int64_t groups;        /* group-wise apply; 1: none */
    int64_t micro_batches; /* num_micro_batch */
    LossScale loss_scale;
    double loss_scale_value; /* fixed value, or where dynamic scaling starts */
    int64_t tokens;          /* per step; 0: not stated */
    bool keep_grads;         /* gradients are outputs (--grads) */
    int nmesh;
    struct {
        const char *axis;
        int64_t size;
        const char *same; /* the earlier axis whose devices it uses; NULL: devices of its own */
    } mesh[MAX_RANK];
    Shares shares;         /* in the batch, of the ranks along the axis "data" */
    const char *balanced;  /* how they were chosen, or that they are equal; NULL: stated, or none */
    int64_t share;         /* which class of shares this graph's ranks are; 0 before `shard` */
    const char *pipeline;  /* order of micro-batches in stages (EPL's strategy); NULL: 1F1B */
    int64_t stages, stage; /* of how many stages this graph is which; 0: of no pipeline */
    bool sharded;          /* types are those of one rank's part; set by shard */
    int64_t zero;          /* 1: optimizer state is split over the ranks that share a parameter */
    int64_t memory, host_memory, disk;           /* budgets in bytes; 0: none */
    const char *cluster;                         /* file; NULL: this machine */
    const char *checkpoint, *offload;            /* "none", "auto", "all" or scopes joined by ',' */
    int64_t num_communicators, max_splits, fp16; /* communication */
    double fp16_scale;
    const char *all_to_all;    /* "auto", "flat", "grouped" or neighbours: "8", "2,8" */
    int64_t all_to_all_chunks; /* pieces that overlap with products; 0: as it pays */
} Settings;
void settings_default(Settings *s); /* settings.c */

/* How all_to_alls are sent. Stated: first among part[0] neighbours, then between those of one place
 * in each such group among part[1], …, last between all that have one place. */
typedef enum { EXCHANGE_AUTO, EXCHANGE_FLAT, EXCHANGE_GROUPED, EXCHANGE_STATED } ExchangeKind;
enum { EXCHANGE_PARTS = 4 };
typedef struct {
    ExchangeKind kind;
    int nparts;
    int64_t part[EXCHANGE_PARTS]; /* each a multiple of the one before */
} Exchange;
/* False: `text` says nothing of this kind. settings.c */
bool exchange_parse(const char *text, Exchange *out);

/* Evaluates an optimizer of the model's source for one parameter: appends its nodes (states, the
 * assignments of states) and returns the parameter's new value and the learning rate it used
 * (NO_VALUE when it has none). False after diagnostics. */
typedef bool OptimizerFn(void *ctx, Graph *g, const char *name, Value param, Value grad,
                         Value *updated, Value *lr);

struct Graph {
    Session *session;
    Arena *arena;     /* of this graph */
    const char *name; /* model */
    Settings set;
    VEC(Node) node;
    VEC(Value) operand;
    VEC(Annotation) note;
    OptimizerFn *optimizer; /* NULL after `optimize`, and in graphs read from text */
    void *optimizer_ctx;
    /* what new nodes get */
    struct {
        const char *scope;
        Loc loc;
        Phase phase;
        int16_t micro;
    } at;
};
Graph *graph_new(Session *s, const char *name);
void graph_free(Graph *g);
/* A new graph with the same header, no nodes. */
Graph *graph_like(const Graph *g);
static inline Node *node_of(const Graph *g, Value v) { return &g->node.p[v]; }
static inline Value operand(const Graph *g, Value v, uint32_t i) {
    return g->operand.p[g->node.p[v].in + i];
}
/* An output or an assignment: it is there for what it leaves behind, not for its value. */
static inline bool is_effect(const Node *n) { return op_info((Op)n->op)->flags & OPF_EFFECT; }
static inline const Type *type_of(const Graph *g, Value v) { return g->node.p[v].type; }
/* Appends a node; its type is inferred (BUG when illegal: callers check user input first). */
Value graph_add(Graph *g, Op op, const Attr *attr, uint32_t nin, const Value *in);
/* Leaves: the type is given. */
Value graph_leaf(Graph *g, Op op, const Attr *attr, const Type *type);
/* What graph_add would give, or NULL and a sentence in *err. */
const Type *graph_infer(Graph *g, Op op, const Attr *attr, uint32_t nin, const Value *in, Buf *err);
/* Copies node v of `from` into g with operands mapped by map[]; keeps scope, loc, phase,
 * annotations. */
Value graph_copy_node(Graph *g, const Graph *from, Value v, const Value *map);
/* Is `scope` the scope that n letters of `outer` name, or inside it? */
bool scope_covers(const char *outer, size_t n, const char *scope);
/* Is the scope inside one with an annotation of this kind? */
bool graph_annotated(const Graph *g, const char *kind, const char *scope);
/* Makes g->at the place of node n, of any graph, or of v (new nodes look as if they came from
 * there). */
void graph_at(Graph *g, const Node *n);
void graph_at_node(Graph *g, Value v);
/* Removes nodes not needed by effects, renumbers; map (may be NULL) gets old -> new or NO_VALUE. */
void graph_compact(Graph *g, Value *map);
/* Reorders nodes: order[i] is the old index of new node i (a permutation, topological). */
void graph_reorder(Graph *g, const Value *order);
/* Uses: users of v are use[start[v]] … use[start[v+1]-1]. Arrays live in the arena. */
typedef struct {
    uint32_t *start;
    Value *use;
} Uses;
Uses graph_uses(const Graph *g, Arena *a);
uint64_t graph_hash(const Graph *g);

/* Attributes by name (BUG when the op has no such attribute). */
int64_t attr_int(const Node *n, const char *name);
double attr_float(const Node *n, const char *name);
const char *attr_str(const Node *n, const char *name);
const Ints *attr_ints(const Node *n, const char *name);

/* ================================ build.c ================================ */
/* Short forms; elementwise ones need equal shapes. */
Value b_const(Graph *g, double x, const Type *t); /* every element x */
Value b_like(Graph *g, double x, Value v);        /* constant of v's type */
Value b_ew1(Graph *g, Op op, Value a);
Value b_ew2(Graph *g, Op op, Value a, Value b);
Value b_ew3(Graph *g, Op op, Value a, Value b, Value c);
Value b_cast(Graph *g, Value a, Dtype to); /* a itself when it has that dtype */
Value b_reshape(Graph *g, Value a, int rank, const int64_t *dim);
Value b_transpose(Graph *g, Value a, const int64_t *perm); /* result dim i is a's dim perm[i] */
/* Result dim dims[i] is a's dim i (sizes equal, or a's is 1); the other dims repeat it. */
Value b_broadcast(Graph *g, Value a, int rank, const int64_t *dim, const int64_t *dims);
/* a broadcast to the type's shape: trailing dimensions aligned, as in NumPy. */
Value b_broadcast_to(Graph *g, Value a, const Type *t);
Value b_reduce(Graph *g, Op op, Value a, uint32_t naxes, const int64_t *axes); /* drops the axes */
Value b_reduce_last(Graph *g, Op op, Value a);
/* a of shape [.., ] repeated along a new last axis of size n. */
Value b_repeat_last(Graph *g, Value a, int64_t n);
Value b_einsum(Graph *g, const char *spec, Value a, Value b);
Value b_slice(Graph *g, Value a, const int64_t *start, const int64_t *limit);
Value b_proj(Graph *g, Value a, uint32_t i);
/* Of each row of x[.., v] the element that index[..] names, or 0. */
Value b_pick_one(Graph *g, Value x, Value index);
/* The reductions of n values over the `ranks` members of a group in one message, sent as they are;
 * of several the result is a tuple. */
Value b_all_reduce(Graph *g, uint32_t n, const Value *x, const char *over, int64_t ranks,
                   ReduceOp reduce);
Value b_output(Graph *g, Value a, const char *name);
Value b_assign(Graph *g, Value leaf, Value x); /* leaf: param or state */

/* ================================ verify.c, print.c, parse.c ================================ */
/* Checks the graph; every finding is printed (marked in the dump) and counted. */
int graph_verify(const Graph *g, Buf *report);
/* One line per node; parses back to the same text. */
void graph_print(const Graph *g, Buf *out);
/* NULL after diagnostics. Never crashes on any bytes. */
Graph *graph_parse(Session *s, const char *file, const char *text, size_t n);

/* ================================ interp.c ================================ */
/* A value in the interpreter: elements as doubles, row-major. Each op's result is rounded to its
 * dtype's storage (bf16, f16, i32, …); f32 is rounded only when Interp.round_f32 is set. */
struct Tensor {
    const Type *type;
    double *data;
};
typedef struct {
    Graph *g;
    Arena *arena;   /* owns all tensors */
    bool round_f32; /* otherwise f32 is computed in double throughout */
    Tensor **value; /* value[v]: one Tensor per result; NULL: not computed */
} Interp;
Interp *interp_new(Graph *g);
void interp_free(Interp *in);
/* Sets a leaf (input, param, state) by name; data is copied; false when there is none. */
bool interp_set(Interp *in, const char *name, const double *data);
const Tensor *interp_get(const Interp *in, Value v);             /* result 0 */
const Tensor *interp_output(const Interp *in, const char *name); /* of an `output` node */
/* Runs all nodes in order. Leaves that were not set start as their init says, with this seed. After
 * the run assignments have been made, so that the next run sees new parameters and states. */
void interp_run(Interp *in, uint64_t seed, int64_t step);
/* Fills a leaf's start value: used by interp_run and tests; same numbers as the runtime's. */
void init_fill(const char *kind, double a, double b, const char *name, uint64_t seed, double *x,
               int64_t n);

/* ================================ interp_ranks.c ================================ */
/* A sharded graph on all ranks of its mesh, or the graph of every stage of a pipeline, or of every
 * class of shares, on its ranks, in one process. What is said here of stages holds for both. A
 * graph that is not sharded runs on one rank. Values are given and read as whole tensors; those of
 * a stage by the number of their node in its graph. */
typedef struct {
    Graph **stage;
    int64_t stages; /* 1: all ranks run one graph */
    bool shared;    /* they are classes of shares: each has parts of the same values */
    Arena *arena;
    int64_t n; /* ranks */
    Interp **rank;
    uint64_t seed; /* of the last run */
    Buf err;       /* why it failed */
} Ranks;
Ranks *ranks_new(Graph *g);
/* Of each stage the graph, as `stages` or `shard` leaves it or later; rank r runs the one that is
 * its mesh_program. */
Ranks *ranks_new_stages(Graph *const *stage, int64_t stages);
void ranks_free(Ranks *r);
/* Type of the whole tensor that v of a stage is a part of. */
const Type *ranks_type(const Ranks *r, int64_t stage, Value v);
/* Sets a leaf (input, param, state) by name, in every stage that has it: every rank takes its part
 * of the whole tensor `data`, which is copied. Of an input's dim 0 each micro-batch's range is
 * split by itself. False when there is none. */
bool ranks_set(Ranks *r, const char *name, const double *data);
/* As interp_run. Leaves that were not set start as their part of the whole start value. False when
 * ranks wait for each other forever, or what they do together does not fit together: r->err names
 * ranks, nodes and lines. What was sent lies there until it is received. */
bool ranks_run(Ranks *r, uint64_t seed, int64_t step);
/* Puts v of a stage, no tuple, together from the stage's ranks: `whole` has elements of ranks_type;
 * partial sums are added. False when ranks that must hold the same part do not, bit by bit. */
bool ranks_get(const Ranks *r, int64_t stage, Value v, double *whole);
/* The same of all classes of shares: v[s] is the value in graph s; NO_VALUE: not there. */
bool ranks_get_shares(const Ranks *r, const Value *v, double *whole);
/* Proves, without computing anything, that all ranks come to the end of their graphs: groups are
 * those of the mesh and all their ranks name the same members; every group's collectives are of one
 * kind and in one order on all its ranks; transfers match one to one. `settled`: in the order of
 * the nodes as it is, even if each send waits for its receive. No node is left out, whatever the
 * data. False with a sentence in *err. */
typedef struct {
    int collectives, transfers; /* of one step, of all stages' graphs */
} RanksOrder;
bool ranks_check_order(Graph *const *stage, int64_t stages, bool settled, RanksOrder *out,
                       Buf *err);

/* ================================ tokens.c ================================ */
/* Tokens of a step of all ranks: as the model says, or else the most rows that meet a parameter;
 * the shard pass keeps what the whole model has. */
int64_t graph_tokens(const Graph *g);

/* ================================ mesh.c ================================ */
/* Ranks are numbered over the mesh's own axes, the last one fastest. A group of ranks is written as
 * the axes along which its members differ, joined by '.', the slowest first: "data",
 * "data.tensor". Of an axis of n, "data%4" are groups of 4 neighbours, and "data/4" the n/4 ranks
 * that have the same place among 4 neighbours; "data%8/4" the 2 of those among 8 neighbours. */
enum { MESH_LEVELS = MAX_RANK };
typedef struct {
    int nlevel;
    int64_t size[MESH_LEVELS], stride[MESH_LEVELS]; /* slowest first; strides in ranks */
    int64_t n;                                      /* members */
} MeshGroup;
int64_t mesh_ranks(const Settings *set);
void mesh_print(const Settings *set, Buf *out); /* "data=4,expert=data"; nothing without a mesh */
/* Of one stage of a pipeline; `tensor`: those of a tensor axis too, which are no replicas. */
int64_t mesh_scope_ranks(const Settings *set, bool tensor);
/* The axis itself, or the one whose devices it uses; NULL when it has one rank or is unknown. */
const char *mesh_axis(const Settings *set, const char *name);
/* False: an axis is unknown, or a part does not divide it. */
bool mesh_group(const Settings *set, const char *over, MeshGroup *out);
int64_t mesh_index(const MeshGroup *m, int64_t rank);                 /* of a rank in its group */
int64_t mesh_member(const MeshGroup *m, int64_t rank, int64_t index); /* of rank's group */
/* Is the axis one of the group's: "data" of "data%4.tensor"? */
bool mesh_group_has(const char *over, const char *axis);
/* The shares in dimensions that are split over these axes; n = 0: equal parts. */
Shares mesh_shares(const Settings *set, const char *over);
/* Why these settings do not go with uneven shares, or NULL. */
const char *mesh_shares_refused(const Settings *set);
/* Graphs that the ranks of a mesh run: one for all, or one for each stage of a pipeline, or for
 * each class of shares; and which of them is a rank's. */
int64_t mesh_programs(const Settings *set);
int64_t mesh_program(const Settings *set, int64_t rank);
/* Parts that dimension `dim` of a value is split into: 1 where it is whole. */
int64_t mesh_parts(const Settings *set, const Spec *spec, int dim);
/* Input of one rank's index along a group: "@index/data". */
#define MESH_INDEX "@index/"

/* ================================ einsum.c ================================ */
/* A two-operand contraction's labels, sorted into roles. Labels are the letters of the spec. */
typedef struct {
    char a[MAX_RANK + 1], b[MAX_RANK + 1], c[MAX_RANK + 1]; /* labels of the operands and result */
    char batch[MAX_RANK + 1];                               /* in a, b and c, in c's order */
    char m[MAX_RANK + 1];                                   /* in a and c, in c's order */
    char n[MAX_RANK + 1];                                   /* in b and c, in c's order */
    char k[MAX_RANK + 1];                                   /* in a and b only, in a's order */
    int64_t size[128];                                      /* by letter; filled by einsum_sizes */
} Einsum;
/* False with a sentence in *err: labels repeated inside an operand, or in one place only. */
bool einsum_parse(const char *spec, Einsum *e, Buf *err);
bool einsum_sizes(Einsum *e, const Type *a, const Type *b, Buf *err);
Einsum einsum_read(const Graph *g, const Node *n);        /* of an einsum in a graph, with sizes */
int64_t einsum_size(const Einsum *e, const char *labels); /* the product of these labels' */

#endif
