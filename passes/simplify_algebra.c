/* simplify_algebra.c: identities of elementwise ops, one small function each. They hold for every
 * finite value and keep NaN and infinity (so x * 0 and x - x stay). */
#include "passes/simplify.h"

#include <math.h>
#include <stdlib.h>

static Value in0(const Graph *g, Value v) { return operand(g, v, 0); }
static Value in1(const Graph *g, Value v) { return operand(g, v, 1); }

static bool is_float(const Graph *g, Value v) { return dtype_is_float(type_of(g, v)->dtype); }

/* x + 0 = 0 + x = x */
static Value add_zero(Graph *g, Value v) {
    if (is_constant(g, in1(g, v), 0)) return in0(g, v);
    return is_constant(g, in0(g, v), 0) ? in1(g, v) : NO_VALUE;
}

/* x + -y = x - y; -x + y = y - x */
static Value add_neg(Graph *g, Value v) {
    Value a = in0(g, v), b = in1(g, v);
    if (is_op(g, b, OP_neg)) return b_ew2(g, OP_sub, a, in0(g, b));
    return is_op(g, a, OP_neg) ? b_ew2(g, OP_sub, b, in0(g, a)) : NO_VALUE;
}

/* x - 0 = x; 0 - x = -x */
static Value sub_zero(Graph *g, Value v) {
    if (is_constant(g, in1(g, v), 0)) return in0(g, v);
    return is_constant(g, in0(g, v), 0) ? b_ew1(g, OP_neg, in1(g, v)) : NO_VALUE;
}

/* x - -y = x + y */
static Value sub_neg(Graph *g, Value v) {
    Value b = in1(g, v);
    return is_op(g, b, OP_neg) ? b_ew2(g, OP_add, in0(g, v), in0(g, b)) : NO_VALUE;
}

/* The factor that is not constant, and the constant. */
static bool constant_factor(const Graph *g, Value v, Value *x, double *c) {
    *x = in0(g, v);
    if (constant_value(g, in1(g, v), c)) return true;
    *x = in1(g, v);
    return constant_value(g, in0(g, v), c);
}

/* x * 1 = x; x * -1 = -x */
static Value mul_one(Graph *g, Value v) {
    Value x;
    double c;
    if (!constant_factor(g, v, &x, &c)) return NO_VALUE;
    return c == 1 ? x : c == -1 ? b_ew1(g, OP_neg, x) : NO_VALUE;
}

/* (x * c) * d = x * (c * d); (-x) * d = x * -d */
static Value mul_mul(Graph *g, Value v) {
    Value x, y;
    double c = -1, d;
    if (!is_float(g, v) || !constant_factor(g, v, &x, &d)) return NO_VALUE;
    if (is_op(g, x, OP_neg))
        y = in0(g, x);
    else if (!is_op(g, x, OP_mul) || !constant_factor(g, x, &y, &c))
        return NO_VALUE;
    double product = c * d;
    bool safe = fabs(product) > 1e-30 && fabs(product) < 1e30;
    return safe ? b_ew2(g, OP_mul, y, b_like(g, product, v)) : NO_VALUE;
}

/* (-x) * (-y) = x * y */
static Value mul_neg_neg(Graph *g, Value v) {
    Value a = in0(g, v), b = in1(g, v);
    if (!is_op(g, a, OP_neg) || !is_op(g, b, OP_neg)) return NO_VALUE;
    return b_ew2(g, OP_mul, in0(g, a), in0(g, b));
}

/* x / 1 = x; x / 2^k = x * 2^-k (exact) */
static Value div_constant(Graph *g, Value v) {
    double c;
    int exponent;
    if (!constant_value(g, in1(g, v), &c)) return NO_VALUE;
    if (c == 1) return in0(g, v);
    if (fabs(frexp(c, &exponent)) != 0.5 || abs(exponent) > 14) return NO_VALUE;
    return b_ew2(g, OP_mul, in0(g, v), b_like(g, 1 / c, v));
}

/* 1 / sqrt(x) = rsqrt(x) */
static Value div_sqrt(Graph *g, Value v) {
    Value b = in1(g, v);
    bool match = is_op(g, b, OP_sqrt) && is_constant(g, in0(g, v), 1);
    return match ? b_ew1(g, OP_rsqrt, in0(g, b)) : NO_VALUE;
}

/* --x = x */
static Value neg_neg(Graph *g, Value v) {
    Value a = in0(g, v);
    return is_op(g, a, OP_neg) ? in0(g, a) : NO_VALUE;
}

/* -(x - y) = y - x */
static Value neg_sub(Graph *g, Value v) {
    Value a = in0(g, v);
    return is_op(g, a, OP_sub) ? b_ew2(g, OP_sub, in1(g, a), in0(g, a)) : NO_VALUE;
}

/* x^1 = x; x^2 = x * x */
static Value pow_small(Graph *g, Value v) {
    Value x = in0(g, v);
    if (is_constant(g, in1(g, v), 1)) return x;
    return is_constant(g, in1(g, v), 2) ? b_ew2(g, OP_mul, x, x) : NO_VALUE;
}

/* max(x, x) = min(x, x) = x and x = x or x = x */
static Value same_operands(Graph *g, Value v) {
    Value x = in0(g, v);
    return x == in1(g, v) && type_of(g, x) == type_of(g, v) ? x : NO_VALUE;
}

/* not not x = x, for a bool */
static Value not_not(Graph *g, Value v) {
    Value a = in0(g, v);
    bool match = is_op(g, a, OP_not) && type_of(g, in0(g, a))->dtype == DT_BOOL;
    return match ? in0(g, a) : NO_VALUE;
}

/* true ? x : y = x; false ? x : y = y; c ? x : x = x; not c ? x : y = c ? y : x */
static Value select_known(Graph *g, Value v) {
    Value c = in0(g, v), x = in1(g, v), y = operand(g, v, 2);
    double k;
    if (x == y) return x;
    if (constant_value(g, c, &k)) return k != 0 ? x : y;
    return is_op(g, c, OP_not) ? b_ew3(g, OP_select, in0(g, c), y, x) : NO_VALUE;
}

/* A cast of x to its own dtype is x. While a lower precision waits to be brought in, a cast of f32
 * to f32 says "stay f32": the precision pass reads and removes it. */
static Value cast_same(Graph *g, Value v) {
    Dtype d = type_of(g, v)->dtype;
    if (type_of(g, in0(g, v))->dtype != d) return NO_VALUE;
    return d == DT_F32 && g->set.precision != DT_F32 ? NO_VALUE : in0(g, v);
}

/* Every value of `a` is a value of `b`. */
static bool holds_all(Dtype a, Dtype b) {
    static const struct {
        Dtype from, to;
    } lossless[] = {{DT_BF16, DT_F32}, {DT_BF16, DT_F64}, {DT_F16, DT_F32}, {DT_F16, DT_F64},
                    {DT_F32, DT_F64},  {DT_I32, DT_I64},  {DT_I32, DT_F64}};
    if (a == DT_BOOL) return true;
    for (size_t i = 0; i < COUNT(lossless); i++)
        if (lossless[i].from == a && lossless[i].to == b) return true;
    return false;
}

/* cast(cast(x: A -> B) -> C) = cast(x -> C) where B holds all of A; x itself when C is A */
static Value cast_cast(Graph *g, Value v) {
    Value a = in0(g, v);
    if (!is_op(g, a, OP_cast)) return NO_VALUE;
    Value x = in0(g, a);
    Dtype from = type_of(g, x)->dtype, to = type_of(g, v)->dtype;
    return holds_all(from, type_of(g, a)->dtype) ? b_cast(g, x, to) : NO_VALUE;
}

const RuleRow rules_algebra[] = {
    {OP_add, add_zero},      {OP_add, add_neg},           {OP_sub, sub_zero},
    {OP_sub, sub_neg},       {OP_mul, mul_one},           {OP_mul, mul_mul},
    {OP_mul, mul_neg_neg},   {OP_div, div_constant},      {OP_div, div_sqrt},
    {OP_neg, neg_neg},       {OP_neg, neg_sub},           {OP_pow, pow_small},
    {OP_and, same_operands}, {OP_or, same_operands},      {OP_maximum, same_operands},
    {OP_not, not_not},       {OP_minimum, same_operands}, {OP_select, select_known},
    {OP_cast, cast_same},    {OP_cast, cast_cast},        {OP_COUNT, NULL},
};
