/* simplify.h: the rules of simplify. Private to passes/.
 *
 * A rule looks at node v, whose operands are already simplified, and returns an equal value that is
 * cheaper (an existing one, or new nodes appended to g), or NO_VALUE. New nodes take the place of v
 * (phase, scope, location): the caller has set g->at. Rules only ever make things smaller, so that
 * applying them until none fits ends. */
#ifndef M6C_PASSES_SIMPLIFY_H
#define M6C_PASSES_SIMPLIFY_H

#include "passes/passes.h"

typedef Value Rule(Graph *g, Value v);
typedef struct {
    Op op;
    Rule *rule;
} RuleRow;

/* Rules of one file, ended by a row without rule. */
extern const RuleRow rules_algebra[], rules_shape[], rules_einsum[];
Value fold_constants(Graph *g, Value v);  /* any op */
Value hoist_broadcast(Graph *g, Value v); /* any elementwise op */

/* simplify_einsum.c: einsum v with result dim i being what was dim perm[i]. */
Value einsum_with_output(Graph *g, Value v, const int64_t *perm);

#endif
