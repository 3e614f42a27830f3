/* elab.h: from a checked tree to the IR graph of one step's forward part. */
#ifndef M6C_ELAB_H
#define M6C_ELAB_H

#include "frontend/frontend.h"
#include "ir/ir.h"

typedef struct {
    const char *model; /* which model of the file; NULL: the only one, or the one with a train */
    bool infer;        /* forward only: training() is false, aux is left out */
    uint32_t nset;     /* --set */
    const char *const *set; /* "name=expression" */
    uint64_t max_work;      /* evaluations before giving up; 0: 30 million */
    const char *place;      /* settings that override `place`, as "memory 32GB"; NULL: none */
    const char *train;      /* the same of `train`: "num_micro_batch = 4" */
} ElabOptions;

/* Evaluates the model of `f` into a new graph: inputs, parameters, the loss (output "loss") and
 * what else the model returns (outputs under their variables' names), settings, annotations and the
 * optimizer as a callback. The graph refers to the session and to `f`. NULL after diagnostics. */
Graph *elaborate(Session *s, File *f, const ElabOptions *options);

/* Refuses, with an error at the place in `f` that asks for it, what this compiler cannot do yet. */
bool check_capabilities(Session *s, const File *f, const Graph *g);

#endif
