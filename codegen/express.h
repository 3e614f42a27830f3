/* express.h: what the printers of a Kernel share (target_c.c, target_cuda.c): the text of its
 * instructions, indices and guards, and which of them a loop over the columns needs. What differs
 * between targets is how loops are laid over threads and where values wait between loops. */
#ifndef M6C_CODEGEN_EXPRESS_H
#define M6C_CODEGEN_EXPRESS_H

#include "codegen/target.h"

typedef struct Print Print;
struct Print {
    const Kernel *k;
    Buf *out;
    bool *array;   /* by instruction: kept for later phases, in t<number> */
    double *cost;  /* to compute it again, down to loads and what is kept */
    bool *need;    /* in the loop being printed */
    int64_t block; /* columns of an item (C) */
    int indent;
    const char *index; /* C type of indices */
    const char *base;  /* number of the first argument: "" or "base + " */
    const char *at;    /* text that finds the element's place in t<number> */
    const char *col;   /* .. and in the sum of a column */
    const char *live;  /* what must hold for the row to be there, or "" */
    const char *lane;  /* the element inside a vector of columns, or NULL */
    void (*full_load)(const Print *p, Buf *out, uint32_t r);
};

/* Arrays for a kernel's instructions; freed by print_close. */
Print print_open(const Kernel *k, Buf *out);
void print_close(Print *p);

void line(Print *p, const char *fmt, ...) PRINTF(2, 3);
static inline const Inst *inst(const Print *p, uint32_t r) { return &p->k->inst.p[r]; }
static inline int row_dims(const Kernel *k) { return k->ndim - k->ncol; }
double op_cost(const Inst *i);
/* Marks what is worth keeping for later phases: `size` bytes a value, `most` in all. */
void plan_arrays(Print *p, int64_t size, int64_t most);

/* ---- text ---- */
void put_number(Buf *out, double x, Dtype d);
/* The variable of column dim `col`: c or j<col>; the last one with the lane of its vector. */
void put_loop_var(const Print *p, Buf *out, int col);
/* offset + sum over dims from..to-1 of index * stride */
void put_index(const Print *p, Buf *out, const Inst *i, int from, int to, bool offset);
/* The columns' index inside the row: c, or (j0 * 3 + j1). */
void put_column(const Print *p, Buf *out);
void put_guard(const Print *p, Buf *out, const Inst *i, int from, int to);
bool has_guard(const Print *p, const Inst *i, int from, int to);
/* Storage element text -> register. */
void put_loaded(Buf *out, Dtype d, const char *element);
/* A load by all of its indices. */
void put_direct_load(const Print *p, Buf *out, const Inst *i);
/* The neutral element of a reduction; the statement that adds v<x> to `to`. */
void put_start(Buf *out, Op op, Dtype d);
void put_step(Buf *out, Op op, const char *to, uint32_t x);

/* ---- statements ---- */
void print_args(Print *p);                   /* pointers a0, a1, .. */
void print_row_index(Print *p);              /* i0, i1, .. from `row` */
void print_row_values(Print *p, int phase);  /* row values that can be computed before this loop */
void print_starts(Print *p, int phase);      /* row reductions of the loop */
void print_loop_values(Print *p, int phase); /* what the loop computes, and its reductions' steps */
void print_store(Print *p, const Store *s, const char *index);

/* ---- what a loop computes ---- */
int store_phase(const Print *p, const Store *s);
/* Is i a reduction over the columns or rows in the loop of this phase? */
bool in_loop(const Inst *i, int phase);
/* Marks what the loop of this phase computes; false when it has nothing to do. */
bool plan_loop(Print *p, int phase);
/* How much work an item of the kernel is, in elements of one operation. */
double count_work(const Print *p, const Code *c);

#endif
