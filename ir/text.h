/* text.h: pieces of the text form that print.c, parse.c, settings.c and verify.c share. Private to
 * ir/. The grammar is in ir/README.md. */
#ifndef M6C_IR_TEXT_H
#define M6C_IR_TEXT_H

#include "ir/ir.h"

/* ---- text.c: printing ---- */
void text_print_string(const char *s, Buf *out); /* "…" with \" \\ \n \t \xHH */
void text_print_word(const char *s, Buf *out);   /* bare where it can be, else as a string */
void text_print_loc(Session *s, Loc loc, Buf *out);

/* ---- text.c: scanning one line after the other; blanks separate tokens ---- */
typedef struct {
    Session *session;
    uint16_t file;
    uint32_t line;         /* from 1 */
    const char *from;      /* start of the line */
    const char *p;         /* next byte */
    const char *end;       /* of the line */
    const char *stop;      /* of the text */
    const char *last_name; /* of the location seen last, and its index */
    uint16_t last_file;
} Text;
/* To the first or next line that is not blank and not a comment ('#' or ';'); false at the end. */
bool text_next_line(Text *t);
/* Reports an error at byte `at` of the current line; returns false. */
bool text_fail(Text *t, const char *at, const char *fmt, ...) PRINTF(3, 4);
bool text_at_end(Text *t); /* of the line, skipping blanks */
bool text_expect_end(Text *t);
bool text_accept(Text *t, const char *literal); /* blanks before it are skipped */
bool text_expect(Text *t, const char *literal);
/* The next token, interned, or NULL after an error that says what was wanted. */
/* Names joined by '.', interned. */
const char *text_axes(Text *t, const char *what);
const char *text_identifier(Text *t, const char *what); /* letters, digits, '_' */
const char *text_string(Text *t);                       /* "…" */
const char *text_word(Text *t);                         /* bare word or string */
bool text_int(Text *t, int64_t min, int64_t max, int64_t *x);
bool text_float(Text *t, double *x);
bool text_loc(Text *t, Loc *loc);

/* ---- print.c ---- */
void text_print_node(const Graph *g, Value v, Buf *out); /* one line */

/* ---- settings.c ---- */
void graph_print_header(const Graph *g, Buf *out);
/* What follows the words `setting` and `note`. */
bool text_parse_setting(Text *t, Graph *g);
bool text_parse_note(Text *t, Graph *g);

/* ---- verify.c ---- */
typedef struct {
    Value v;          /* NO_VALUE: the graph */
    const char *text; /* a sentence */
} Finding;
/* Findings in the order of values, allocated from a. */
uint32_t graph_findings(const Graph *g, Arena *a, Finding **found);

#endif
