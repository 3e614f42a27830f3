/* harness.h: runs a graph in the interpreter and as a compiled plan, and compares all outputs over
 * two steps: within the bound of the dtype, with words around every buffer unharmed, and with the
 * same bits on one thread and on two. */
#ifndef M6C_TESTS_CODEGEN_HARNESS_H
#define M6C_TESTS_CODEGEN_HARNESS_H

#include "passes/passes.h"

typedef struct {
    const char *passes; /* "lower,fuse" */
    double bound;       /* error, relative to an element and its tensor; 0: by the outputs' dtype */
    bool print;         /* kernels' sources to stderr when something differs */
} Compare;

/* Number of findings, each printed to stderr with `label`. Frees g. */
int compare_graph(Graph *g, const Compare *how, const char *label);
/* The same for a graph in text form. */
int compare_text(const char *text, const Compare *how, const char *label);
/* What input `name` holds at element i: whole numbers below `bound` when that is given. */
double harness_input(const char *name, int64_t bound, int64_t i, int step);
/* A folder for plans, removed by harness_end. With `cuda` plans are CUDA C, run by the emulator in
 * two orders of threads instead of by one and by two threads. */
void harness_begin(bool cuda);
void harness_end(void);

#endif
