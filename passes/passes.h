/* passes.h: the passes and the harness that runs them. A pass is `bool pass(Graph *, PassContext
 * *)`: it rewrites the graph in place and says whether it changed. Only the harness dumps, times,
 * skips and verifies. The table of passes is passes.def; the order is pipeline_default.
 *
 * A pass reports a mistake of the user with diag_error and returns; the harness then stops. */
#ifndef M6C_PASSES_H
#define M6C_PASSES_H

#include "ir/ir.h"

/* ================================ run.c ================================ */

typedef struct {
    /* Text to `dump_file` after this pass: "elaborate" is the graph as it came, "simplify" the
     * first run of a pass, "simplify:2" the second. NULL: none. */
    const char *dump_after;
    FILE *dump_file;
    const char *dump_dir; /* every stage as DIR/00-elaborate.ir, 01-simplify.ir, …; NULL: none */
    const char *skip;     /* optional passes to leave out, joined by ','; NULL: none */
    bool verify;          /* graph_verify before the first and after every pass */
    bool roundtrip;       /* the text of every stage must parse back to the same text */
    bool time;            /* milliseconds and nodes per pass on stderr */
    bool print;           /* the text after every pass that changed something on stderr */
} PassOptions;

/* Of every value before `shard`, the value after it that holds one rank's part: its Spec says
 * which. NO_VALUE: it has none, or one whose numbers mean something else (slots of routed tokens).
 * Of every value before `stages`, the same value in this stage; NO_VALUE: only others have it. */
typedef struct {
    uint32_t n;
    Value *to; /* in the session's arena */
} ShardMap;

typedef struct {
    Session *session;
    Arena *scratch; /* of the running pass; the harness frees it after the pass */
    PassOptions opt;
    bool gpu;                      /* the plan is for a GPU */
    bool dumped;                   /* opt.dump_after was reached */
    const struct Machine *machine; /* prices; NULL: no step is priced, no budget can be kept. For
                                      the passes of a stage that of its devices */
    uint32_t stage;                /* which of mesh_programs the graph becomes */
    ShardMap *shard;               /* filled by `shard` and `stages`; NULL: nobody asks */
    struct MemoryReport *memory;   /* filled by `memory`; NULL: nobody asks */
    /* Plans that do not fit the budgets: an error (false), or the smallest plan found. */
    bool smallest;
} PassContext;

/* Adds what M6C_DEBUG=verify,roundtrip,time,print and M6C_SKIP=pass,… ask for. */
void pass_options_env(PassOptions *opt);

/* What `m6c compile` runs, in order. */
extern const char pipeline_default[];

/* Runs the passes named (joined by ',') on g. False after diagnostics: an unknown name, a dump that
 * cannot be written, a mistake in the model. A graph that breaks a check is a BUG. */
bool pipeline_run(Graph *g, const char *names, PassContext *cx);

/* One line of help per pass: "simplify   constants, …". */
void passes_help(Buf *out);

/* ================================ rewrite.c ================================ */

/* A sweep that builds `to` from `from` in order: map[v] is the new value of old node v. */
typedef struct {
    Graph *from, *to;
    Value *map;
} Rewrite;
Rewrite rewrite_begin(Graph *g, Arena *scratch);
/* Copies node v, operands through map, and sets map[v]. */
Value rewrite_copy(Rewrite *r, Value v);
/* Gives `from` the nodes of `to` and frees the rest; true when that changed anything. */
bool rewrite_end(Rewrite *r);
/* The same for a pass that knows by itself whether it changed anything. */
void rewrite_take(Rewrite *r);

/* graph_compact, but a graph to be trained keeps its parameters, used or not. */
void compact(Graph *g);

/* n times NO_VALUE. */
Value *no_values(Arena *a, uint32_t n);
/* Every node that has a group gets one of its own, in the order of the nodes. */
void split_groups(Graph *g);

/* Attribute records from fields in schema order. */
const Attr *attr_of1(Graph *g, Op op, AttrValue a);
const Attr *attr_of2(Graph *g, Op op, AttrValue a, AttrValue b);
static inline bool is_op(const Graph *g, Value v, Op op) { return node_of(g, v)->op == op; }
/* v is a constant: every element is *x. */
bool constant_value(const Graph *g, Value v, double *x);
bool is_constant(const Graph *g, Value v, double x);
/* x as an element of dtype d holds it; f32 stays a double, as in the interpreter. */
double round_to(Dtype d, double x);
/* The leaf of an op (param, state, input) with this name, or NO_VALUE. */
Value find_leaf(const Graph *g, Op op, const char *name);

/* The state that holds a dynamic loss scale: made by differentiate, updated by optimize. Outputs
 * tell its value as "loss_scale"; names with '@' are the compiler's own. */
#define LOSS_SCALE_STATE "@loss_scale"
double loss_scale_start(const Settings *set); /* and a fixed scale's value; 1: the loss as it is */
#define GOOD_STEPS_STATE "@good_steps"

/* ================================ the passes ================================ */

#define PASS(name, ...) bool pass_##name(Graph *g, PassContext *cx);
#include "passes/passes.def"
#undef PASS

#endif
