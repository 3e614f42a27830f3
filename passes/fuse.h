/* fuse.h: between the files of the fuse pass. */
#ifndef M6C_PASSES_FUSE_H
#define M6C_PASSES_FUSE_H

#include "passes/passes.h"

/* Backward nodes get their own copies of cheap forward values where that keeps fewer bytes alive
 * from the forward to the backward phase. */
void fuse_recompute(Graph *g, PassContext *cx);

#endif
