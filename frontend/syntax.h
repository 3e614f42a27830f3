/* syntax.h: state shared by lexer.l, parser.y, tokens.c and syntax_error.c; nobody else includes
 * it.
 *
 * The lexer keeps the stack of open brackets: line ends inside ( and [ are space, and an unclosed
 * bracket is reported at the place where it was opened. */
#ifndef M6C_SYNTAX_H
#define M6C_SYNTAX_H

#include "frontend/ast.h"

/* A stretch of source: where it begins and on which line it ends. */
typedef struct {
    Loc loc;
    uint32_t last_line;
} Span;

typedef struct {
    char kind; /* '(' '[' '{' */
    Loc loc;
} Bracket;

typedef struct {
    Session *session;
    Arena *arena;
    File *file;
    uint32_t line, col, offset;
    Bracket open[MAX_BRACKETS];
    int depth;
    int braces;         /* how many of `open` are '{' */
    Bracket unclosed;   /* ( or [ that a '}' cut off; kind 0 if none */
    bool repeat_header; /* between `repeat` and its '{', where `share` is a keyword */
    bool panic;         /* an error was reported: skip to the end of the statement */
    int panic_braces;
    bool stopped; /* gave up: everything after is the end of the file */
    bool failed;
    int previous; /* last token handed to the parser */
    int before;   /* the one before it, and its text */
    const char *before_token;
    uint32_t before_n;
    int held; /* token held back behind an inserted separator, -1 if none */
    Span held_span;
    const char *token; /* text of the last token, in file->text */
    uint32_t token_n;
} Lexer;

/* The parser's source of tokens: the lexer's, with a SEP put before the end and before '}', runs of
 * SEP joined, and after an error everything up to the end of the statement left out. */
int next_token(void *value, Span *span, void *scanner);
/* Reports `text`; returns the token that makes the parser recover. */
int lexer_error(Lexer *lx, Loc loc, const char *text);
/* Reports `text` and gives up: every further token is the end. */
int lexer_stop(Lexer *lx, Loc loc, const char *text);
/* '(' '[' '{': pushes; too deep is an error. */
int lexer_open(Lexer *lx, int kind, Loc loc);
/* Pops the bracket that `kind` closes; a '}' also drops what was left open inside. */
int lexer_close(Lexer *lx, int kind, Loc loc);
/* Converts "32GB"; reports overflow and unknown units. */
Number lexer_number(Lexer *lx, const char *text, size_t n, Loc loc);
/* Resolves the escapes of a quoted text. */
const char *lexer_string(Lexer *lx, const char *text, size_t n, Loc loc);
/* Checks the length of a name and interns it. */
const char *lexer_name(Lexer *lx, const char *text, size_t n, Loc loc);
void lexer_comment(Lexer *lx, const char *text, size_t n, Loc loc);
/* Reports one sentence. */
void syntax_complain(Lexer *lx, Loc loc, const char *text);
/* Makes next_token skip to the end of the statement in which the last token stands. */
void syntax_recover(Lexer *lx);
/* Says what was expected and what was found, both as the parser's token names. */
void syntax_error(Lexer *lx, Loc loc, const char *found, const char *const *expected, int n);

#endif
