/* value.h: what the elab*.c files share; nobody else includes it.
 *
 * Elaboration is an interpreter of the syntax tree: numbers, texts, lists and dtypes are values of
 * compile time, tensors are values of the graph being built. Each call of a layer is a Frame with
 * its variables; a Scope is a stretch of the model that names parameters. Functions return false
 * after having reported an error. */
#ifndef M6C_VALUE_H
#define M6C_VALUE_H

#include "frontend/elab.h"
#include "frontend/map.h"

typedef enum {
    V_INT,
    V_FLOAT,
    V_BOOL,
    V_TEXT,
    V_WORD, /* auto, none, all */
    V_DTYPE,
    V_MASK,
    V_LIST,
    V_TUPLE, /* several results */
    V_TENSOR,
    V_BROKEN /* could not be computed; that was reported, so nothing more is said about it */
} ValKind;

typedef struct Val Val;
struct Val {
    ValKind kind;
    Unit unit; /* of numbers */
    union {
        int64_t i; /* V_INT; V_MASK: length of the prefix */
        double d;
        bool b;
        Dtype dtype;
        Value v;
        uint32_t n; /* elements of list or tuple */
    };
    union {
        const char *s; /* V_TEXT, V_WORD; V_MASK: none, causal, prefix */
        const Val *p;  /* list, tuple */
    };
};

typedef struct {
    const char *name;
    Val val;
    Loc loc;      /* where it got this value */
    bool is_dim;  /* a dimension bound by an argument's shape */
    Value state;  /* leaf that an assignment to this name updates, or NO_VALUE */
    bool updated; /* … and did */
} Binding;

/* Opened by layers, repeat iterations and annotation blocks. Nodes carry `path`; parameters are
 * named by `names`, which annotation blocks do not lengthen: taking a block away renames nothing.
 */
typedef struct Scope Scope;
struct Scope {
    const char *path, *names;
    Scope *owner;            /* keeps `taken`: itself, or what an annotation block stands in */
    VEC(const char *) taken; /* names of scopes opened below, of parameters, of blocks (with '@') */
    VEC(Loc) taken_at;       /* of parameters; no location for scopes */
};

typedef struct Frame Frame;
struct Frame {
    Frame *caller;
    const Item *item; /* NULL: configs and settings */
    File *file;
    Loc call; /* of the call in the caller */
    Scope *scope;
    VEC(Binding) vars;
    Val result;
    const Stmt *returned;
};

/* A parameter by its full name. */
typedef struct {
    const char *name;
    Value v;
    Loc loc;
} ParamRec;

/* An optimizer's parameter, while its body is evaluated. */
typedef struct {
    const char *name;
    Value value;
} Trained;

typedef struct {
    Session *s;
    Arena *a;
    Graph *g;
    File *file;
    const ElabOptions *opt;
    Frame *frame;
    bool training;
    const Trained *trained; /* NULL outside optimizers */
    Map params;             /* full name -> ParamRec* */
    Map files;              /* File* -> Map* of definitions (name -> Def*) */
    Map configs;            /* Arg* -> Val*, as far as evaluated */
    Map called;             /* scopes of layers from other files, already noted */
    Map random_sites;       /* scope path -> number of random() calls so far (as a pointer) */
    VEC(Value) aux;
    VEC(Scope *) scopes;   /* all of them, to be freed */
    const Arg **overrides; /* --set: name and value */
    uint32_t noverrides;
    const char *divided; /* config that micro-batches divide, or NULL */
    int64_t divisor;
    Map reported;            /* places of errors */
    bool muted;              /* the last error had been reported before */
    bool gave_up;            /* no further statements */
    int depth;               /* of recursion */
    uint64_t work, max_work; /* statements and expressions evaluated */
    Value step, seed;
    Loc mesh_loc[MAX_RANK]; /* of the mesh's axes */
    Loc shares_loc;
    int64_t nshares; /* as many as are stated; 0: none */
} Elab;

/* A definition that a name of a file stands for. */
typedef struct {
    const Item *item;
    const Arg *config; /* item is a config: which */
} Def;

/* ---- elab.c ---- */
/* An error at `loc`, once for each place, with a note for each layer on the way there. Always
 * returns false. */
bool fail(Elab *e, Loc loc, const char *fmt, ...) PRINTF(3, 4);
/* The same without the notes. */
bool fail_plain(Elab *e, Loc loc, const char *fmt, ...) PRINTF(3, 4);
/* An error after which elaboration stops at once. */
bool give_up(Elab *e, Loc loc, const char *text);
/* A note to the error just reported. */
void note(Elab *e, Loc loc, const char *fmt, ...) PRINTF(3, 4);
/* Reads "name" as the files see it: own definitions first, then those of later `use`s. */
const Def *find_definition(Elab *e, File *f, const char *name);
/* "; did you mean 'x'?" or "", among candidates gathered in `c`. */
typedef VEC(const char *) Words;
const char *suggestion(Elab *e, const char *word, Words *candidates);
void add_definitions(Elab *e, File *f, bool callable, Words *out);
bool config_value(Elab *e, const Def *d, Val *out);
bool define_files(Elab *e, File *f);
void free_scopes(Elab *e);

/* ---- elab_call.c ---- */
Frame *push_frame(Elab *e, const Item *item, File *file, Loc call, Scope *scope);
void pop_frame(Elab *e);
Scope *scope_new(Elab *e, const char *path, const char *names);
/* A scope below `up` for `name`, made unique (norm, norm_1); `names` too unless it is an
 * annotation. */
Scope *scope_below(Elab *e, Scope *up, const char *name, bool annotation);
bool bind_params(Elab *e, const Item *item, const ArgList *args, Frame *caller, uint32_t given,
                 const Val *first);
bool call_definition(Elab *e, const Item *item, const Expr *call, Val *out);
Binding *find_var(const Frame *f, const char *name);
Binding *set_var(Elab *e, const char *name, Val v, Loc loc);

/* ---- elab_stmt.c ---- */
typedef enum { RAN, RETURNED, FAILED } Ran;
Ran run_block(Elab *e, const Block *b);

/* ---- elab_expr.c ---- */
bool eval(Elab *e, const Expr *x, Val *out);
/* What a value is, for messages: "f32[2,3]", "a text", "3". Lives in the arena. */
const char *describe(Elab *e, const Val *v);
bool is_number(const Val *v);
double number_of(const Val *v);
Val val_int(int64_t i);
Val val_float(double d);
Val val_tensor(Value v);
/* Whole number, from a V_INT or a float that is whole; `what` names it in the error. */
bool want_int(Elab *e, const Val *v, Loc loc, const char *what, int64_t *out);
bool want_bool(Elab *e, const Val *v, Loc loc, const char *what, bool *out);
bool want_tensor(Elab *e, const Val *v, Loc loc, const char *what, Value *out);
/* A list of whole numbers (or one alone) of at most MAX_RANK. */
bool want_shape(Elab *e, const Val *v, Loc loc, const char *what, int *rank, int64_t *dim);
/* Appends a node after checking it; what is illegal is an error at loc, prefixed with `what`. */
bool emit(Elab *e, Loc loc, const char *what, Op op, const AttrValue *attr, uint32_t nin,
          const Value *in, Value *out);
/* Elementwise op on numbers and tensors, broadcasting; `what` names it in messages. */
bool elementwise(Elab *e, Loc loc, const char *what, Op op, uint32_t n, const Val *in,
                 const Loc *locs, Val *out);
bool binary(Elab *e, Operator op, Loc loc, const Val *in, const Loc *locs, Val *out);
/* Places new nodes at `loc` in the current scope. */
void place_nodes(Elab *e, Loc loc);

/* ---- elab_number.c ---- */
bool number_binary(Elab *e, Operator op, Loc loc, const Val *a, const Val *b, Val *out);

/* ---- elab_builtin.c ---- */
bool call_builtin(Elab *e, const Expr *call, Val *out, bool *found);
void add_builtins(Elab *e, Words *out);
Value step_input(Elab *e);

/* ---- elab_einsum.c ---- */
bool einsum(Elab *e, Loc loc, const char *spec, uint32_t n, const Value *in, const Loc *locs,
            Value *out);
bool matmul(Elab *e, Loc loc, const Val *in, const Loc *locs, Val *out);

/* ---- elab_settings.c ---- */
bool read_settings(Elab *e, const Item *model);
/* Whether the mesh has only axes that mean something to the elaborated model. */
bool check_axes(Elab *e);
extern const char *const mesh_axes[4];

/* ---- elab_optimizer.c ---- */
/* Checks the `optimizer` of the model's `train` by evaluating it once, and hands it to the graph.
 */
bool try_optimizer(Elab *e);

#endif
