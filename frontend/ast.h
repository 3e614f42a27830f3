/* ast.h: the syntax tree of one .m6 file. Everything lives in the session's arena; lists are linked
 * through `next`, so that the parser appends in constant time and nesting costs no copies.
 *
 * Invariants: every node has the location of its first token (E_BINARY: of its operator); names are
 * interned, so equal names are equal pointers; no expression is deeper than MAX_DEPTH and no
 * bracket nests deeper than MAX_BRACKETS, so that recursion over the tree is safe. */
#ifndef M6C_AST_H
#define M6C_AST_H

#include "ir/base.h"

enum { MAX_DEPTH = 1000, MAX_BRACKETS = 200, MAX_NAME = 200, MAX_FILE = 1 << 30 };

#define LIST(T)                                                                                    \
    struct {                                                                                       \
        T *head, *tail;                                                                            \
        uint32_t n;                                                                                \
    }
#define list_add(l, x)                                                                             \
    do {                                                                                           \
        __typeof__((l)->head) x_ = (x);                                                            \
        (l)->tail ? ((l)->tail->next = x_) : ((l)->head = x_);                                     \
        (l)->tail = x_;                                                                            \
        (l)->n++;                                                                                  \
    } while (0)

/* What a number measures: bytes, seconds, bytes per second, operations per second. */
typedef enum { U_NONE, U_BYTES, U_TIME, U_RATE, U_FLOPS } Unit;

/* A number as written ("32GB") and as meant (32e9 bytes). `d` is always set; `i` when whole. */
typedef struct {
    const char *text;
    bool whole;
    Unit unit;
    int64_t i;
    double d;
} Number;

typedef enum {
    E_NUMBER,
    E_STRING, /* name: the text without quotes, escapes resolved */
    E_NAME,
    E_LIST,  /* args: [a, b] */
    E_UNARY, /* op '-' or X_NOT; a */
    E_BINARY,
    E_CALL, /* name(args) as `as` */
    E_INDEX /* a[slices] */
} ExprKind;

typedef enum {
    X_OR,
    X_AND,
    X_NOT,
    X_LT,
    X_LE,
    X_GT,
    X_GE,
    X_EQ,
    X_NE,
    X_ADD,
    X_SUB,
    X_MUL,
    X_DIV,
    X_MATMUL,
    X_NEG,
    X_COUNT
} Operator;
extern const struct OperatorInfo {
    const char *text;
    int precedence; /* higher binds tighter */
    const char *ir; /* the elementwise op of ir/ops.def, NULL for `@` and the logical ones */
} operators[X_COUNT];

typedef struct Expr Expr;
typedef struct Arg Arg;
typedef struct Slice Slice;
typedef LIST(Arg) ArgList;
typedef LIST(Slice) SliceList;

struct Expr {
    ExprKind kind;
    Operator op;
    uint16_t depth;
    Loc loc;
    const char *name; /* E_NAME, E_CALL (the callee), E_STRING */
    const char *as;   /* E_CALL: "as name", or NULL */
    Number number;
    Expr *a, *b;
    ArgList args;
    SliceList slices;
};

/* An argument of a call, an element of a list, an entry of `place`: [name =] value. */
struct Arg {
    Arg *next;
    Loc loc;
    const char *name; /* NULL: by position */
    Expr *value;
};

/* One index: `lo` alone drops the dimension, with `range` it is lo:hi, either may be NULL. */
struct Slice {
    Slice *next;
    Loc loc;
    bool range;
    Expr *lo, *hi;
};

typedef struct Name Name;
struct Name {
    Name *next;
    Loc loc;
    const char *name;
};
typedef LIST(Name) NameList;

/* "dimension: axis" of a split annotation. */
typedef struct Split Split;
struct Split {
    Split *next;
    Loc loc;
    const char *dim, *axis;
};
typedef LIST(Split) SplitList;

/* An argument of a layer, optimizer or model: name [: dtype [dims]] [= default]. */
typedef struct Param Param;
struct Param {
    Param *next;
    Loc loc;
    const char *name;
    bool shaped;       /* has brackets */
    bool leading;      /* [..., d] */
    const char *dtype; /* NULL: any */
    Loc dtype_loc;
    ArgList dims;
    Expr *value; /* default, or NULL */
};
typedef LIST(Param) ParamList;

typedef enum {
    S_ASSIGN, /* names = value */
    S_PARAM,  /* param names: shape = value splits replicate */
    S_STATE,  /* state names[: shape] = value */
    S_REPEAT, /* repeat value [share] as name { body } */
    S_IF,     /* if value { body } else { other } */
    S_AUX,
    S_RETURN, /* args */
    S_BLOCK   /* annotation [value] [name] { body } */
} StmtKind;

typedef enum {
    BLOCK_REPLICATE,
    BLOCK_SPLIT,
    BLOCK_STAGE,
    BLOCK_CHECKPOINT,
    BLOCK_KEEP,
    BLOCK_OFFLOAD,
    BLOCK_COUNT
} BlockKind;
extern const char *const block_names[BLOCK_COUNT];

typedef struct Stmt Stmt;
typedef struct {
    Stmt *head, *tail;
    uint32_t n;
    uint32_t first_line, last_line; /* of the braces */
} Block;

struct Stmt {
    Stmt *next;
    StmtKind kind;
    BlockKind block;
    bool share, replicate;
    Loc loc;
    uint32_t last_line;
    const char *name;
    NameList names;
    Expr *shape, *value;
    ArgList args;
    SplitList splits;
    Block body, other;
};

typedef enum {
    I_USE, /* name: the text as written */
    I_CONFIG,
    I_LAYER,
    I_OPTIMIZER,
    I_MODEL,
    I_TRAIN,
    I_PLACE
} ItemKind;

/* key = value (train), key value, … (place) */
typedef struct Entry Entry;
struct Entry {
    Entry *next;
    Loc loc;
    uint32_t last_line;
    const char *key;
    ArgList args;
};
typedef struct {
    Entry *head, *tail;
    uint32_t n;
    uint32_t first_line, last_line;
} EntryList;

typedef struct File File;
typedef struct Item Item;
struct Item {
    Item *next;
    ItemKind kind;
    Loc loc, name_loc;
    uint32_t last_line;
    const char *name; /* the definition's name; I_USE: the text; I_TRAIN: the model */
    File *file;       /* the file it stands in; I_USE: after loading, see `used` */
    File *used;       /* I_USE: the file it brings in */
    ArgList configs;
    ParamList params;
    Block body;
    EntryList entries;
};

typedef struct Comment Comment;
struct Comment {
    Comment *next;
    uint32_t line;
    bool own_line; /* nothing but space before it */
    const char *text;
};

struct File {
    const char *path, *name;
    uint16_t index; /* in the session's file table */
    const char *text;
    size_t n;
    LIST(Item) items;
    LIST(Comment) comments;
};

#endif
