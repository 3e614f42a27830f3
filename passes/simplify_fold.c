/* simplify_fold.c: constants. Every constant of the IR is a splat, so that a folded node is one
 * number: f(c, d) for elementwise ops, c for views, c * count for sums. What is not finite is left
 * to run time, where it can be traced to its source line. */
#include "passes/simplify.h"

#include <math.h>

static bool constant_operands(const Graph *g, Value v, double x[3]) {
    uint32_t n = node_of(g, v)->nin;
    if (n == 0 || n > 3) return false;
    for (uint32_t i = 0; i < n; i++)
        if (!constant_value(g, operand(g, v, i), &x[i])) return false;
    return true;
}

/* Elements of the operand that one element of the result of a reduction covers. */
static double covered(const Graph *g, Value v) {
    return (double)type_elements(type_of(g, operand(g, v, 0))) /
           (double)type_elements(type_of(g, v));
}

Value fold_constants(Graph *g, Value v) {
    double x[3] = {0}, y;
    if (!constant_operands(g, v, x)) return NO_VALUE;
    Op op = (Op)node_of(g, v)->op;
    const OpInfo *info = op_info(op);
    if (info->flags & OPF_EW && info->fn)
        y = info->fn(x[0], x[1], x[2]);
    else if (info->flags & OPF_VIEW || op == OP_max || op == OP_min)
        y = x[0];
    else if (op == OP_sum)
        y = x[0] * covered(g, v);
    else
        return NO_VALUE;
    const Type *t = type_of(g, v);
    y = round_to(t->dtype, y);
    return isfinite(y) ? b_const(g, y, t) : NO_VALUE;
}
