/* plan.h: what one training step (or one inference step) does, as plain data.
 *
 * codegen fills a Plan, plan_print writes it as plan.txt, plan_parse reads it back to the same
 * text, the runtime executes it. Nothing here knows the IR.
 *
 * Conventions. Offsets and sizes are bytes. Buffers lie in arenas at fixed offsets; every offset is
 * a multiple of 64. Tensors are row-major and contiguous inside their buffer. A step's order in
 * `steps` is a legal sequential order. All numbers that kernels need at run time are in buffers. */
#ifndef M6C_PLAN_H
#define M6C_PLAN_H

#include "ir/base.h"

enum { PLAN_MAX_RANK = 8, PLAN_MAX_BATCH = 3, PLAN_MAX_LEVELS = 8 };

typedef enum {
    BUF_TEMP,   /* lives inside a step; shares its bytes with others */
    BUF_PARAM,  /* a trained parameter (the master copy) */
    BUF_STATE,  /* optimizer state, loss scale: kept between steps, saved in checkpoints */
    BUF_INPUT,  /* written by the runtime before each step */
    BUF_OUTPUT, /* read by the runtime after each step; not overwritten inside it */
    BUF_GRAD,   /* gradient of a parameter; readable after a step only in plans made with --grads */
    BUF_KIND_COUNT
} BufKind;

/* Groups of ranks that partition all ranks, as places on levels: the place of rank r on level i is
 * r / stride[i] % size[i], and members of one group differ in these places only. A rank's index in
 * its group counts the places, the first level slowest. */
typedef struct {
    const char *name; /* "data", "data.tensor", "data%4" */
    int nlevel;
    int64_t size[PLAN_MAX_LEVELS], stride[PLAN_MAX_LEVELS];
} PlanGroup;

typedef struct {
    const char *name; /* unique: "block[0].ffn.up", "%123" for temporaries */
    BufKind kind;
    Dtype dtype;
    int rank;
    int64_t dim[PLAN_MAX_RANK];
    Mem mem;
    int64_t offset, bytes; /* bytes = elements * size, unrounded */
    /* Of what persists, inputs and outputs, in plans for several ranks: dimension i is this rank's
     * block (by its index) of as many equal ones of the whole tensor as group split[i] - 1 has
     * members; 0: all of it. With `ranges` > 1 dimension 0 of the whole tensor is so many equal
     * ranges (one a micro-batch), and the rank has its block of each. */
    uint32_t split[PLAN_MAX_RANK];
    int64_t ranges; /* 0 as 1 */
    Loc loc;
} PlanBuffer;

/* A place inside a buffer. */
typedef struct {
    uint32_t buffer;
    int64_t offset;
} PlanArg;

/* ---- how a persistent tensor starts ---- */
/* Element i starts as init_value(kind, a, b, random_key(seed, site, 0), i). */
typedef struct {
    InitKind kind;
    double a, b;
    uint64_t site; /* hash of the logical name: the random stream of this tensor */
} Init;

/* A tensor kept between steps: a parameter or optimizer state, under its logical name. */
typedef struct {
    uint32_t buffer;
    Init init;
} PlanTensor;

/* ---- generated kernels ----
 * Of a CPU: void NAME(void *const *arg, int64_t lo, int64_t hi): work items lo <= i < hi of
 * `items`. Items are independent: any split over threads gives the same bits.
 * Of a GPU: NAME takes one parameter by value, a struct of its nargs pointers; a work item is a
 * block of `threads` threads, the grid is one-dimensional. */
typedef struct {
    const char *name;   /* C symbol */
    const char *source; /* file in the plan directory that holds it */
    int nargs;
    int threads;    /* of a block; 0: a kernel of a CPU */
    int64_t shared; /* bytes of dynamic shared memory of a block */
    uint64_t hash;  /* of the kernel's text: equal kernels are stored once */
} PlanKernel;

/* Plans for a GPU whose messages plan_comm_converts have kernels for it, of these names and no
 * step's: arguments are from, to, and as numbers in place of pointers how many elements, the bits
 * of the f32 scale, the elements of a run, and how far apart runs begin in `from` and in `to`.
 * `pack` multiplies by the scale, its counterpart divides; between equal formats both only copy. A
 * block takes PLAN_CONVERT_BLOCK elements and reads all of them before it writes one. */
enum { PLAN_CONVERT_ARGS = 7, PLAN_CONVERT_BLOCK = 1024, PLAN_CONVERT_NAME = 32 };
void plan_convert_name(char name[PLAN_CONVERT_NAME], Dtype from, Dtype to, bool pack);

/* ---- what a product does with its sums before it stores them; elementwise, X is of C's shape ----
 * A device whose library cannot do it stores the product alone, in X where it is written and else
 * in C, and then launches the step's kernel, whose arguments are C and those behind it. */
typedef enum {
    EPILOGUE_NONE,
    EPILOGUE_GELU, /* arg: A, B, C, X. X = product, C = gelu(X); X is C where nobody reads it */
    EPILOGUE_BIAS_GELU,     /* arg: A, B, C, X, bias. X = product + bias along rows, C = gelu(X) */
    EPILOGUE_GELU_GRAD,     /* arg: A, B, C, X. C = product * gelu_grad(X) */
    EPILOGUE_GELU_GRAD_SUM, /* arg: A, B, C, X, S. The same; S = sums of C's columns over all rows
                             */
    EPILOGUE_COUNT
} Epilogue;

/* ---- matrix products: C = alpha * op(A) op(B) + beta * C, row-major, batched ----
 * op(A) is m x k, op(B) is k x n. lda/ldb/ldc are row strides in elements of the stored matrices.
 * Batch dimension i has count[i] and element strides sa[i], sb[i], sc[i]. */
typedef struct {
    int64_t m, n, k;
    bool ta, tb; /* stored transposed */
    int64_t lda, ldb, ldc;
    int nbatch;
    int64_t count[PLAN_MAX_BATCH], sa[PLAN_MAX_BATCH], sb[PLAN_MAX_BATCH], sc[PLAN_MAX_BATCH];
    Dtype da, db, dc; /* storage; arithmetic is f32 (f64 if all three are f64) */
    float alpha, beta;
    Epilogue epilogue;
    const char *algo; /* name of the implementation that measured best; NULL: not chosen yet */
} PlanGemm;

typedef enum {
    STEP_KERNEL,     /* arg: the kernel's arguments */
    STEP_GEMM,       /* arg: A, B, C, and what its epilogue says */
    STEP_COPY,       /* arg: destination, source; bytes */
    STEP_FILL,       /* arg: destination; bytes of zero */
    STEP_COLLECTIVE, /* arg: operands, results, and the room for the message if it says so */
    STEP_KIND_COUNT
} StepKind;

/* What the ranks of a group do together. Every rank of a group takes its collectives on one stream
 * in the plan's order: the i-th of one rank meets the i-th of the others. */
typedef struct {
    Collective kind;
    uint32_t group;
    ReduceOp reduce;
    uint32_t n;        /* operands sent as one message */
    int64_t *count;    /* elements of each operand */
    Dtype dtype, wire; /* of the operands; as they travel */
    double scale;      /* multiplied before, divided after; 1 where wire == dtype */
    int64_t peer;      /* send, recv: the other's index in the group; otherwise not read */
    bool room;         /* the last argument is bytes for the message: n > 1 or wire != dtype */
} PlanCollective;

typedef enum { PLAN_FORWARD, PLAN_BACKWARD, PLAN_APPLY, PLAN_PHASE_COUNT } PlanPhase;

typedef struct {
    StepKind kind;
    PlanPhase phase; /* of the training step it belongs to */
    int stream;      /* Stream: a copy is on stream_of_copy, kernels of the host on STREAM_HOST */
    uint32_t kernel; /* STEP_KERNEL; STEP_GEMM with an epilogue: what does it otherwise */
    int64_t items;   /* of that kernel: number of work items */
    int64_t grain;   /* STEP_KERNEL: fewest items worth a thread */
    PlanGemm gemm;   /* STEP_GEMM */
    PlanCollective collective; /* STEP_COLLECTIVE */
    int64_t bytes;             /* STEP_COPY, STEP_FILL */
    uint32_t nargs;
    PlanArg *arg;
    uint64_t writes; /* STEP_KERNEL: bit i: arg[i] is written; 0: the plan does not say */
    uint32_t nwait;  /* steps on other streams that must have finished */
    uint32_t *wait;
    double flops, traffic; /* counted operations and bytes: GFLOP/s, cost model */
    double predicted_us;   /* 0: not predicted */
    const char *what;      /* ops computed, for people: "add gelu cast"; may be NULL */
    const char *scope;     /* "block[0].ffn"; may be NULL */
    Loc loc;
} PlanStep;

#define PLAN_INDEX "@index/"
/* What the runtime feeds or reads by name. Inputs the runtime itself provides: "@step" (i32[], from
 * 1), "@seed" (i32[]), "@index/GROUP" (i32[], the rank's index in a group of the plan). Reported
 * scalars are outputs "loss", "lr", "grad_norm", "loss_scale", "overflow" (1 when the step was
 * skipped) where the plan has them. "loss" is the model's first result, if that is a scalar; a
 * training plan adds the auxiliary losses to it. Further results are outputs under their variables'
 * names, or "result_1", … . */
typedef struct {
    uint32_t buffer;
    int64_t bound; /* of an integer input: legal values are below it; 0: not known */
} PlanPort;

/* Why a tensor does not simply stay in the device's memory. */
typedef struct {
    const char *tensor, *how; /* "block[3].ffn.up/m", "host" */
    int64_t bytes;            /* of the device, not taken while it is away */
    double us;                /* work added */
    bool hinted;              /* the model asked for it */
    Loc loc;
} PlanDecision;

/* A text the plan was made from, so that a stale plan can be told. */
typedef struct {
    const char *path;
    uint64_t hash; /* hash_bytes of its content, seed 0 */
} PlanSource;

typedef struct Plan {
    Session *session;    /* owns strings and arrays */
    const char *model;   /* name of the model */
    const char *target;  /* "cpu", "null", … */
    const char *command; /* that made the plan, to be repeated when it is stale */
    bool train;
    uint64_t model_hash;            /* of every source text and setting that made the plan */
    uint64_t compiler_hash;         /* of the compiler's version and code-generating parts */
    int64_t arena[MEM_COUNT];       /* bytes of each memory */
    int64_t lower_bound[MEM_COUNT]; /* largest sum of live bytes: no allocation can be smaller */
    int64_t ranks;                  /* that execute it together; 1: one */
    const char *mesh;               /* "data=4,expert=data"; "" without */
    int64_t stages, stage;        /* of a pipeline: how many there are, which this is; 0: of none */
    Shares shares;                /* in the batch, of the ranks of group "data"; n = 0: equal */
    const char *balanced;         /* how they were chosen; NULL: stated */
    int64_t share;                /* which class of shares this is; 0 of equal ones */
    struct Plan *const *of_stage; /* plans of all stages, or classes of shares, this one too; not in
                                     the text. NULL: this is all there is, or all that is known */
    VEC(PlanGroup) group;
    int64_t tokens;            /* tokens in one step of all ranks, for tokens/s */
    double flops;              /* of the matrix products and attention in one step */
    const char *machine;       /* whose prices were used; "" without */
    int64_t budget[MEM_COUNT]; /* asked for; 0: none */
    const char *disk;          /* folder of what lies on disk; "": the plan's own */
    int64_t unconstrained;     /* device bytes with everything kept; 0: not known */
    double predicted_us, bound_us, unconstrained_us; /* of a step; 0: not known */
    VEC(PlanDecision) decision;
    VEC(PlanBuffer) buffer;
    VEC(PlanTensor) tensor; /* parameters first, then states */
    VEC(PlanPort) input;
    VEC(PlanPort) output;
    VEC(PlanPort) grad; /* gradients readable by name (buffer name "grad/NAME"), or empty */
    VEC(PlanKernel) kernel;
    VEC(PlanStep) step;
    VEC(PlanSource) source;
} Plan;

Plan *plan_new(Session *s);
void plan_free(Plan *p); /* its vectors; strings belong to the session */
/* Text of the plan; plan_parse(plan_print(p)) prints the same text. */
void plan_print(const Plan *p, Buf *out);
/* Returns NULL after diagnostics. Checks everything the executor relies on: every index, every
 * argument inside its buffer, every buffer inside its arena, no name twice. */
Plan *plan_parse(Session *s, const char *file, const char *text, size_t n);
/* Members of a group, a rank's index in its group, the rank of an index in rank's group. */
int64_t plan_group_size(const PlanGroup *g);
int64_t plan_group_index(const PlanGroup *g, int64_t rank);
int64_t plan_group_member(const PlanGroup *g, int64_t rank, int64_t index);
/* How many operands and results a collective's arguments begin with: a send has no results, a
 * receive no operands. */
uint32_t plan_comm_operands(const PlanCollective *c);
uint32_t plan_comm_results(const PlanCollective *c);
/* Does it reduce? Does it go to one rank, or come from one? */
bool plan_comm_reduces(const PlanCollective *c);
bool plan_comm_pairs(const PlanCollective *c);
/* Is its message more than its operands one after the other, as they are? */
bool plan_comm_converts(const PlanCollective *c);
/* Which stage of the pipeline a rank is of; 0 without one. */
int64_t plan_stage_of(const Plan *p, int64_t rank);
/* The shares in what is split over a group; n = 0: equal parts. */
Shares plan_shares(const Plan *p, const PlanGroup *g);
/* How many plans run together: one for each stage, or each class of shares. Which of them is this,
 * and which is a rank's? */
int64_t plan_programs(const Plan *p);
int64_t plan_number(const Plan *p);
int64_t plan_number_of(const Plan *p, int64_t rank);
/* Plan i of those that are known to run together, of plan_count: all, or p alone. */
uint32_t plan_count(const Plan *p);
const Plan *plan_at(const Plan *p, uint32_t i);
/* Have the plans, of_stage of the first, one model, mesh and compiler, and are they its stages, or
 * classes of shares, in order? Otherwise a sentence in *why. */
void plan_check_stages(const Plan *first, Buf *why);
/* Is it the name of a parameter or state of the plan? */
bool plan_has_tensor(const Plan *p, const char *name);
/* Does an earlier stage have a tensor of this name? (That one answers for it in files.) */
bool plan_tensor_before(const Plan *p, const char *name);
/* Elements of the whole model's parameters, of all stages. */
int64_t plan_whole_parameters(const Plan *p);
/* Dimension `i` of the whole tensor that the buffer is a rank's part of. */
int64_t plan_whole_dim(const Plan *p, const PlanBuffer *b, int i);
/* Index of a buffer by name, or UINT32_MAX. */
uint32_t plan_find(const Plan *p, const char *name);
int64_t plan_elements(const PlanBuffer *b);
int64_t
plan_parameters(const Plan *p);  /* elements of all trained parameters: of this rank's parts */
int plan_streams(const Plan *p); /* all in use are below; at least one */
bool plan_has_stream(const Plan *p, int stream); /* is a step on it? */
/* Elements that operand 0 (A), 1 (B) or 2 (C) spans, batch included: what must lie in its buffer.
 * -1 when that overflows. */
int64_t plan_gemm_span(const PlanGemm *g, int operand);
/* Whether no element of C is written twice: then rows and batches may run in any order. */
bool plan_gemm_disjoint(const PlanGemm *g);
double plan_gemm_flops(const PlanGemm *g); /* of all its products; an addition counts */

/* ---- plan_live.c ---- */
/* When each buffer is alive: in steps first … last, counted from 1; 0: in none. What persists is
 * alive in all, outputs and gradients from their step to the end; a temporary that is overwritten
 * in place ends before its successor begins. `bytes` is the largest sum of bytes alive in a memory,
 * at step `at`. */
typedef struct {
    uint32_t *first, *last;
    int64_t bytes;
    uint32_t at;
} PlanLive;
PlanLive plan_live(const Plan *p, Mem mem);
void plan_live_free(PlanLive *l);

const char *buf_kind_name(BufKind k);
const char *plan_phase_name(PlanPhase p);
const char *step_kind_name(StepKind k);
const char *epilogue_name(Epilogue e);
/* Is it the target of a GPU's plans: "sm_80"? NULL is none. */
bool target_is_gpu(const char *target);
/* The argument that takes the product alone, where the library does not do the epilogue. */
int epilogue_target(Epilogue e);
/* Is `kernel` one that this step may launch? */
bool plan_has_kernel(const PlanStep *s);
/* Does this step write its argument? (Where a kernel's step does not say: yes.) */
bool plan_writes(const PlanStep *s, uint32_t arg);
/* Arguments of a product with this epilogue. */
uint32_t epilogue_args(Epilogue e);

#endif
