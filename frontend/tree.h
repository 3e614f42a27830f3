/* tree.h: how parser.y makes nodes; nobody else includes it. */
#ifndef M6C_TREE_H
#define M6C_TREE_H

#include "frontend/syntax.h"

Expr *make_expr(Arena *a, ExprKind kind, Loc loc);
Expr *make_unary(Lexer *lx, Operator op, Loc loc, Expr *a);
Expr *make_binary(Lexer *lx, Operator op, Loc loc, Expr *a, Expr *b);
/* Sets the depth of `e` from its children; too deep is an error that ends parsing. */
void check_depth(Lexer *lx, Expr *e);
Arg *make_arg(Arena *a, Loc loc, const char *name, Expr *value);
Slice *make_slice(Arena *a, Loc loc, bool range, Expr *lo, Expr *hi);
Name *make_name(Arena *a, Loc loc, const char *name);
Split *make_split(Arena *a, Loc loc, const char *dim, const char *axis);
Param *make_shape(Arena *a, const char *dtype, Loc loc, bool shaped, bool leading, ArgList dims);
/* Takes `shape` (NULL: none) over into the parameter `name`. */
Param *make_param(Arena *a, Loc loc, const char *name, Param *shape, Expr *value);
Stmt *make_stmt(Arena *a, StmtKind kind, Span span);
Entry *make_entry(Arena *a, Span span, const char *key);
Item *make_item(Lexer *lx, ItemKind kind, Span span, const char *name, Span name_span);
Block close_block(Block b, Span open, Span close);
EntryList close_entries(EntryList e, Span open, Span close);
/* "repeat f(x) as block": the name was taken for the call's; takes it back. NULL if none. */
const char *take_name(Expr *e);
/* Which annotations take a count or a name. */
void check_annotation(Lexer *lx, const Stmt *s);

#endif
