/* plan_read.h: a cursor over a line of plan.txt, and what stands in it: words, numbers, references.
 * Private to plan_*.c. After a complaint the reader is `bad`: functions then return something legal
 * and nothing more is said about the line. */
#ifndef M6C_PLAN_READ_H
#define M6C_PLAN_READ_H

#include "runtime/plan_text.h"

typedef struct {
    Session *session;
    Plan *plan;
    uint16_t file;
    const char *p, *line, *end; /* cursor, start and end of the current line */
    uint32_t lineno;
    bool ended;     /* the last line was read */
    bool bad;       /* something was wrong in this line: say no more about it */
    unsigned found; /* header lines seen, a bit for each row of `items` */
    VEC(Loc) at;    /* of each buffer, for complaints about names */
} Reader;

Loc read_here(const Reader *r, const char *p);
#define FAIL(r, p, ...)                                                                            \
    do {                                                                                           \
        if (!(r)->bad) diag_error((r)->session, read_here((r), (p)), __VA_ARGS__);                 \
        (r)->bad = true;                                                                           \
    } while (0)

void read_spaces(Reader *r);
bool read_accept(Reader *r, char c); /* whether it stood here, and was skipped */
void read_expect(Reader *r, char c);
/* The bytes up to the next separator; empty after a complaint. `what` is what was expected. */
size_t read_token(Reader *r, const char **start, const char *what);
int64_t read_int(Reader *r, const char *what, int64_t least, int64_t most);
double read_number(Reader *r, const char *what);
uint64_t read_hex(Reader *r, const char *what);
/* Interned; NULL for "-" (which is a complaint unless `optional`). */
const char *read_word(Reader *r, const char *what, bool optional);
/* The index of the next token among names, as enumerations are printed. */
int read_choice(Reader *r, const char *what, const char *(*name)(int), int n);
Dtype read_dtype(Reader *r);
void read_key(Reader *r, const char *name); /* "name=" */
Loc read_location(Reader *r);               /* "model.m6:3:7", or "-" */
/* "b12", "k3": an index below n. */
uint32_t read_reference(Reader *r, char letter, const char *what, uint32_t n);
/* Items are numbered, so that a person finds them; the numbers must be in order. */
void read_order(Reader *r, uint32_t n);

/* plan_parse_comm.c: what plans for several ranks have in addition. */
void read_mesh(Reader *r);
void read_ranks(Reader *r);
void read_stages(Reader *r);
void read_shares(Reader *r);
void read_share(Reader *r);
void read_balanced(Reader *r);
void read_stage(Reader *r);
void read_group(Reader *r);
void read_split(Reader *r, PlanBuffer *b); /* behind a buffer's place: how it is split, if it is */
/* Which collective a step is; its fields. */
void read_collective(Reader *r, PlanStep *s);
void read_comm_group(Reader *r, PlanStep *s);
void read_comm_reduce(Reader *r, PlanStep *s);
void read_comm_count(Reader *r, PlanStep *s);
void read_comm_dtype(Reader *r, PlanStep *s);
void read_comm_wire(Reader *r, PlanStep *s);
void read_comm_scale(Reader *r, PlanStep *s);
void read_comm_peer(Reader *r, PlanStep *s);

#endif
