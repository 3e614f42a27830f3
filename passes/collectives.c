/* collectives.c: how what ranks say to each other is sent. */
#include "passes/passes.h"

bool pass_collectives(Graph *g, PassContext *cx) {
    (void)cx;
    (void)g;
    return false;
}
