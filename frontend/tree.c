/* tree.c: nodes of the syntax tree, and the two checks that belong to their making: the depth of
 * expressions, and which annotation blocks take a count or a name. */
#include "frontend/tree.h"

const struct OperatorInfo operators[X_COUNT] = {
    [X_OR] = {"or", 1, NULL},  [X_AND] = {"and", 2, NULL},  [X_NOT] = {"not", 3, NULL},
    [X_LT] = {"<", 4, "lt"},   [X_LE] = {"<=", 4, "le"},    [X_GT] = {">", 4, "gt"},
    [X_GE] = {">=", 4, "ge"},  [X_EQ] = {"==", 4, "eq"},    [X_NE] = {"!=", 4, "ne"},
    [X_ADD] = {"+", 5, "add"}, [X_SUB] = {"-", 5, "sub"},   [X_MUL] = {"*", 6, "mul"},
    [X_DIV] = {"/", 6, "div"}, [X_MATMUL] = {"@", 7, NULL}, [X_NEG] = {"-", 8, "neg"},
};

const char *const block_names[BLOCK_COUNT] = {
    [BLOCK_REPLICATE] = "replicate",   [BLOCK_SPLIT] = "split", [BLOCK_STAGE] = "stage",
    [BLOCK_CHECKPOINT] = "checkpoint", [BLOCK_KEEP] = "keep",   [BLOCK_OFFLOAD] = "offload",
};

Expr *make_expr(Arena *a, ExprKind kind, Loc loc) {
    Expr *e = arena_new_of(a, Expr);
    e->kind = kind;
    e->loc = loc;
    e->depth = 1;
    return e;
}

static int deeper(int depth, const Expr *child) { return child ? MAX(depth, child->depth) : depth; }

void check_depth(Lexer *lx, Expr *e) {
    int depth = deeper(deeper(0, e->a), e->b);
    for (const Arg *a = e->args.head; a; a = a->next) depth = deeper(depth, a->value);
    for (const Slice *s = e->slices.head; s; s = s->next)
        depth = deeper(deeper(depth, s->lo), s->hi);
    if (depth >= MAX_DEPTH)
        lexer_stop(lx, e->loc,
                   "this expression has more than 1000 operations inside each other; give parts of "
                   "it names of their own");
    e->depth = (uint16_t)MIN(depth + 1, MAX_DEPTH);
}

Expr *make_unary(Lexer *lx, Operator op, Loc loc, Expr *a) {
    Expr *e = make_expr(lx->arena, E_UNARY, loc);
    e->op = op;
    e->a = a;
    check_depth(lx, e);
    return e;
}

Expr *make_binary(Lexer *lx, Operator op, Loc loc, Expr *a, Expr *b) {
    Expr *e = make_expr(lx->arena, E_BINARY, loc);
    e->op = op;
    e->a = a;
    e->b = b;
    check_depth(lx, e);
    return e;
}

Arg *make_arg(Arena *a, Loc loc, const char *name, Expr *value) {
    Arg *arg = arena_new_of(a, Arg);
    *arg = (Arg){.loc = loc, .name = name, .value = value};
    return arg;
}

Slice *make_slice(Arena *a, Loc loc, bool range, Expr *lo, Expr *hi) {
    Slice *s = arena_new_of(a, Slice);
    *s = (Slice){.loc = loc, .range = range, .lo = lo, .hi = hi};
    return s;
}

Name *make_name(Arena *a, Loc loc, const char *name) {
    Name *n = arena_new_of(a, Name);
    *n = (Name){.loc = loc, .name = name};
    return n;
}

Split *make_split(Arena *a, Loc loc, const char *dim, const char *axis) {
    Split *s = arena_new_of(a, Split);
    *s = (Split){.loc = loc, .dim = dim, .axis = axis};
    return s;
}

Param *make_shape(Arena *a, const char *dtype, Loc loc, bool shaped, bool leading, ArgList dims) {
    Param *p = arena_new_of(a, Param);
    *p = (Param){
        .dtype = dtype, .dtype_loc = loc, .shaped = shaped, .leading = leading, .dims = dims};
    return p;
}

Param *make_param(Arena *a, Loc loc, const char *name, Param *shape, Expr *value) {
    Param *p = shape ? shape : arena_new_of(a, Param);
    p->loc = loc;
    p->name = name;
    p->value = value;
    return p;
}

Stmt *make_stmt(Arena *a, StmtKind kind, Span span) {
    Stmt *s = arena_new_of(a, Stmt);
    s->kind = kind;
    s->loc = span.loc;
    s->last_line = span.last_line;
    return s;
}

Entry *make_entry(Arena *a, Span span, const char *key) {
    Entry *e = arena_new_of(a, Entry);
    *e = (Entry){.loc = span.loc, .last_line = span.last_line, .key = key};
    return e;
}

Item *make_item(Lexer *lx, ItemKind kind, Span span, const char *name, Span name_span) {
    Item *i = arena_new_of(lx->arena, Item);
    i->kind = kind;
    i->loc = span.loc;
    i->last_line = span.last_line;
    i->name = name;
    i->name_loc = name_span.loc;
    i->file = lx->file;
    return i;
}

Block close_block(Block b, Span open, Span close) {
    b.first_line = open.loc.line;
    b.last_line = close.last_line;
    return b;
}

EntryList close_entries(EntryList e, Span open, Span close) {
    e.first_line = open.loc.line;
    e.last_line = close.last_line;
    return e;
}

const char *take_name(Expr *e) {
    while (e && (e->kind == E_BINARY || e->kind == E_UNARY)) e = e->kind == E_BINARY ? e->b : e->a;
    if (!e || e->kind != E_CALL) return NULL;
    const char *name = e->as;
    e->as = NULL;
    return name;
}

void check_annotation(Lexer *lx, const Stmt *s) {
    bool counted = s->block == BLOCK_REPLICATE || s->block == BLOCK_SPLIT;
    const char *word = block_names[s->block];
    if (s->value && !counted)
        syntax_complain(lx, s->loc,
                        arena_printf(lx->arena, "'%s' takes no number in parentheses", word));
    if (s->name && s->block != BLOCK_STAGE)
        syntax_complain(lx, s->loc,
                        arena_printf(lx->arena, "'%s' takes no name; only 'stage' does", word));
}
