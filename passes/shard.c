/* shard.c: a graph for one device becomes one rank's part of it. */
#include "passes/passes.h"

bool pass_shard(Graph *g, PassContext *cx) {
    (void)cx;
    (void)g;
    return false;
}
