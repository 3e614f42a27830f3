/* harness.h: runs a graph in the interpreter and as a compiled plan, and compares all outputs over
 * two steps: within the bound of the dtype, with words around every buffer unharmed, and with the
 * same bits in two runs. M6C_TEST_EVERY=N: of the graphs only each N-th. */
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

/* Where plans run, and how the two runs differ. */
typedef enum {
    ON_CPU,      /* C; one thread, two threads */
    ON_EMULATOR, /* CUDA C in the emulator; two orders of threads */
    ON_GPU       /* CUDA C on this machine's GPU; nothing need differ */
} HarnessOn;

/* What an argument of a test means: NULL, "cuda" (the emulator), "gpu". */
HarnessOn harness_on(const char *argument);
/* A folder for plans, removed by harness_end. Ends the process when there is no GPU to run on. */
void harness_begin(HarnessOn on);
void harness_end(void);

#endif
