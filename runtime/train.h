/* train.h: `m6c run`: executes a plan over data, step after step, and can stop and go on. */
#ifndef M6C_TRAIN_H
#define M6C_TRAIN_H

#include "runtime/exec.h"

typedef struct {
    const char *dir;    /* the plan's folder; checkpoints go to DIR/checkpoints */
    const char *data;   /* see loader.h; required */
    const char *split;  /* NULL: "train", for validation "valid" */
    const char *vocab;  /* NULL: the data set's own */
    const char *device; /* NULL: the plan's target */
    int64_t steps;      /* train until this many steps are done in all; forward plans: batches */
    bool resume;        /* go on from the newest checkpoint */
    bool validate;      /* loss and perplexity of a split, with the forward plan */
    bool blank_images;  /* pictures all zero */
    bool check_finite;  /* name the first step that makes a NaN or infinity */
    bool json;          /* an object a step on stdout */
    bool no_graph;      /* on a GPU: launches every step anew */
    double link;      /* on the CPU: bytes a second each way from and to the host; 0: all it can */
    const char *disk; /* folder of what the plan keeps on disk; NULL: `dir` */
    uint64_t seed;    /* of the parameters, the steps and the data */
    int64_t save_every; /* a checkpoint each so many steps; 0: only at the end */
    int keep;           /* checkpoints kept */
    int threads;        /* 0: all cores */
    const char *init;   /* parameters from this file */
    const char *log, *trace, *out, *grads, *save; /* files; NULL: none */
    Comm *comm;                                   /* of all ranks of the plan; NULL: one rank */
} RunOptions;
void run_defaults(RunOptions *o);

/* Runs the plan `plan` (parsed from DIR). Training ends at the last step, at SIGINT or SIGTERM
 * (after the step, with a checkpoint), or at a loss that is no number (EXIT_INPUT; the tensor at
 * fault is named where the device does not run ahead; nothing is saved). A forward plan runs as
 * many batches, in the data's order and from the start again at the end, and makes no checkpoints.
 *
 * Of several ranks, which must be given the same options, the first reports, and all end after the
 * same step if one of them shall. A failure outside a step ends all; which of them says why is
 * settled (ranks_agree). One inside a step is the rank's own: comm_finish tells the others. */
Status run_plan(const RunOptions *o, const Plan *plan);

#endif
