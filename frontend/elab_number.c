/* elab_number.c: arithmetic of compile time. Whole numbers stay whole and never wrap around; `a /
 * b` is whole when it divides. Units go along: sizes add to sizes, and may be scaled. */
#include <math.h>
#include "frontend/value.h"

static const char *const unit_names[] = {"a plain number", "bytes", "seconds", "bytes per second",
                                         "operations per second"};

static bool compare(Operator op, double a, double b) {
    switch (op) {
    case X_LT: return a < b;
    case X_LE: return a <= b;
    case X_GT: return a > b;
    case X_GE: return a >= b;
    case X_EQ: return a == b;
    default: return a != b;
    }
}

static bool compare_whole(Operator op, int64_t a, int64_t b) {
    switch (op) {
    case X_LT: return a < b;
    case X_LE: return a <= b;
    case X_GT: return a > b;
    case X_GE: return a >= b;
    case X_EQ: return a == b;
    default: return a != b;
    }
}

/* Unit of the result. Sums and comparisons need equal units; products at most one. */
static bool unit_of(Elab *e, Operator op, Loc loc, const Val *a, const Val *b, Unit *out) {
    *out = a->unit;
    if (op == X_MUL && (a->unit == U_NONE || b->unit == U_NONE)) {
        *out = a->unit == U_NONE ? b->unit : a->unit;
        return true;
    }
    if (op == X_DIV && (b->unit == U_NONE || a->unit == b->unit)) {
        *out = b->unit == U_NONE ? a->unit : U_NONE;
        return true;
    }
    if (a->unit == b->unit && op != X_MUL) return true;
    return fail(e, loc, "'%s' of %s and %s makes no sense", operators[op].text, unit_names[a->unit],
                unit_names[b->unit]);
}

static bool whole_binary(Elab *e, Operator op, Loc loc, int64_t a, int64_t b, Val *out) {
    int64_t r = 0;
    bool overflow = op == X_ADD   ? __builtin_add_overflow(a, b, &r)
                    : op == X_SUB ? __builtin_sub_overflow(a, b, &r)
                                  : __builtin_mul_overflow(a, b, &r);
    if (overflow)
        return fail(e, loc, "%lld %s %lld does not fit in 64 bits", (long long)a,
                    operators[op].text, (long long)b);
    *out = val_int(r);
    return true;
}

static bool divide(Elab *e, Loc loc, const Val *a, const Val *b, Val *out) {
    if (number_of(b) == 0) return fail(e, loc, "division by zero");
    bool whole = a->kind == V_INT && b->kind == V_INT && b->i != -1 && a->i % b->i == 0;
    *out = whole ? val_int(a->i / b->i) : val_float(number_of(a) / number_of(b));
    return true;
}

bool number_binary(Elab *e, Operator op, Loc loc, const Val *a, const Val *b, Val *out) {
    Unit unit;
    if (!unit_of(e, op, loc, a, b, &unit)) return false;
    bool whole = a->kind == V_INT && b->kind == V_INT;
    double x = number_of(a), y = number_of(b);
    if (op >= X_LT && op <= X_NE) {
        bool r = whole ? compare_whole(op, a->i, b->i) : compare(op, x, y);
        *out = (Val){.kind = V_BOOL, .b = r};
        return true;
    }
    if (op == X_DIV) {
        if (!divide(e, loc, a, b, out)) return false;
    } else if (whole) {
        if (!whole_binary(e, op, loc, a->i, b->i, out)) return false;
    } else {
        *out = val_float(op == X_ADD ? x + y : op == X_SUB ? x - y : x * y);
    }
    out->unit = unit;
    if (out->kind == V_FLOAT && !isfinite(out->d))
        return fail(e, loc, "the result of '%s' is not a finite number", operators[op].text);
    return true;
}
