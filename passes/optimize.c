/* optimize.c: what happens to the gradients. Consumes the `gradient` sinks: reports and clips their
 * global norm, divides out the loss scale, calls the model's optimizer per parameter and assigns
 * the new values. All of it is PHASE_APPLY and f32.
 *
 * Group-wise apply (M6-10T): with set.groups > 1 parameters are cut into groups of about equal size
 * and the last group is applied first; scope "apply[g]/optimizer/NAME" and the order of the nodes
 * say so, so that a schedule that keeps the order has one group's temporaries alive.
 *
 * Loss scaling: gradients arrive multiplied by the scale. One test of the sum of squares finds any
 * value that is not finite; then every assignment keeps the old value. A dynamic scale halves on
 * such a step and doubles after 2000 good ones (Micikevicius et al. 2018). */
#include "passes/passes.h"

enum { GOOD_STEPS = 2000 };

typedef struct {
    Value param, grad;
    const char *name;
    int64_t size;
} Item;

typedef struct {
    Graph *g;
    Item *item;
    uint32_t n;
    Value scale;  /* loss scale; NO_VALUE: none */
    Value finite; /* bool: the gradients are; NO_VALUE: not asked */
    Value factor; /* what gradients are multiplied by; NO_VALUE: 1 */
} Apply;

static void at_apply(Graph *g, const char *scope, Loc loc) {
    g->at.scope = intern(g->session, scope);
    g->at.loc = loc;
    g->at.phase = PHASE_APPLY;
    g->at.micro = -1;
}

static Value scalar(Graph *g, double x) { return b_const(g, x, type_scalar(g->session, DT_F32)); }

/* x times a scalar. */
static Value scaled(Graph *g, Value x, Value s) {
    return s == NO_VALUE ? x : b_ew2(g, OP_mul, x, b_broadcast_to(g, s, type_of(g, x)));
}

/* ---- collecting ---- */

static Value param_named(const Graph *g, const Value *params, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++)
        if (attr_str(node_of(g, params[i]), "name") == name) return params[i];
    BUG("gradient of '%s', which is no parameter", name);
}

/* Sinks and parameters come in the same order, so that the first guess is right. */
static Apply collect(Graph *g, Arena *a) {
    Apply ap = {g, arena_array(a, Item, g->node.n), 0, NO_VALUE, NO_VALUE, NO_VALUE};
    Value *params = arena_array(a, Value, g->node.n);
    uint32_t nparams = 0;
    for (Value v = 0; v < g->node.n; v++)
        if (node_of(g, v)->op == OP_param) params[nparams++] = v;
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op != OP_gradient) continue;
        const char *name = attr_str(node_of(g, v), "of");
        uint32_t i = ap.n;
        bool guess = i < nparams && attr_str(node_of(g, params[i]), "name") == name;
        Value p = guess ? params[i] : param_named(g, params, nparams, name);
        ap.item[ap.n++] = (Item){p, operand(g, v, 0), name, type_elements(type_of(g, p))};
    }
    return ap;
}

/* ---- norm, clipping, loss scale ---- */

static Value square_sum(Graph *g, Value x) {
    const Type *t = type_of(g, x);
    int64_t axes[MAX_RANK];
    for (int i = 0; i < t->rank; i++) axes[i] = i;
    Value sq = b_ew2(g, OP_mul, x, x);
    return t->rank ? b_reduce(g, OP_sum, sq, (uint32_t)t->rank, axes) : sq;
}

/* Sum of n scalars as a balanced tree. */
static Value sum_tree(Graph *g, const Value *x, uint32_t n) {
    if (n == 1) return x[0];
    uint32_t half = (n + 1) / 2;
    Value a = sum_tree(g, x, half), b = sum_tree(g, x + half, n - half);
    return b_ew2(g, OP_add, a, b);
}

static Value all_squares(Apply *ap, Arena *a) {
    Value *part = arena_array(a, Value, ap->n);
    for (uint32_t i = 0; i < ap->n; i++) {
        at_apply(ap->g, "grad_norm", node_of(ap->g, ap->item[i].param)->loc);
        part[i] = square_sum(ap->g, ap->item[i].grad);
    }
    at_apply(ap->g, "grad_norm", (Loc){0});
    return sum_tree(ap->g, part, ap->n);
}

static Value loss_scale_of(Graph *g) {
    Value state = find_leaf(g, OP_state, LOSS_SCALE_STATE);
    if (state != NO_VALUE || g->set.loss_scale == LOSS_SCALE_NONE) return state;
    return scalar(g, loss_scale_start(&g->set));
}

/* Output grad_norm (before clipping, without the loss scale) and the factor of the gradients. */
static void measure(Apply *ap, Arena *a) {
    Graph *g = ap->g;
    Value squares = all_squares(ap, a), norm = b_ew1(g, OP_sqrt, squares);
    ap->scale = loss_scale_of(g);
    if (ap->scale != NO_VALUE) {
        ap->factor = b_ew2(g, OP_div, scalar(g, 1), ap->scale);
        norm = b_ew2(g, OP_mul, norm, ap->factor);
        ap->finite = b_ew1(g, OP_isfinite, squares);
    }
    b_output(g, norm, "grad_norm");
    if (g->set.keep_grads)
        for (uint32_t i = 0; i < ap->n; i++) {
            Buf name = {0};
            buf_printf(&name, "grad/%s", ap->item[i].name);
            b_output(g, scaled(g, ap->item[i].grad, ap->factor), name.p);
            buf_free(&name);
        }
    if (g->set.clip <= 0) return;
    Value limit =
        b_ew2(g, OP_minimum, scalar(g, 1), b_ew2(g, OP_div, scalar(g, g->set.clip), norm));
    ap->factor = ap->factor == NO_VALUE ? limit : b_ew2(g, OP_mul, ap->factor, limit);
}

/* ---- groups ---- */

/* Greedy: a group is closed when it holds `size` elements and is not the last. Fills group[] and
 * returns how many groups there are. */
static int64_t fill_groups(const Apply *ap, int64_t size, int64_t limit, int64_t *group) {
    int64_t k = 0, held = 0;
    for (uint32_t i = 0; i < ap->n; i++) {
        if (held >= size && k + 1 < limit) k++, held = 0;
        group[i] = k;
        held += ap->item[i].size;
    }
    return k + 1;
}

/* The largest size that gives as many groups as asked for (EPL's partition_stages; the number of
 * groups only falls as the size grows, so halving the interval finds it). */
static int64_t partition(const Apply *ap, int64_t *group) {
    int64_t want = MIN(MAX(ap->g->set.groups, 1), (int64_t)ap->n), sum = 0;
    for (uint32_t i = 0; i < ap->n; i++) sum += ap->item[i].size;
    int64_t lo = 1, hi = sum / want;
    while (lo < hi) {
        int64_t mid = hi - (hi - lo) / 2;
        if (fill_groups(ap, mid, want, group) == want)
            lo = mid;
        else
            hi = mid - 1;
    }
    return fill_groups(ap, lo, want, group);
}

/* ---- the optimizer ---- */

static bool apply_one(Apply *ap, const Item *it, int64_t group, bool grouped, Value *rate) {
    Graph *g = ap->g;
    Buf scope = {0};
    if (grouped) buf_printf(&scope, "apply[%lld]/", (long long)group);
    buf_printf(&scope, "optimizer/%s", it->name);
    at_apply(g, scope.p, node_of(g, it->param)->loc);
    buf_free(&scope);
    Value updated = NO_VALUE, lr = NO_VALUE, grad = scaled(g, it->grad, ap->factor);
    if (!g->optimizer(g->optimizer_ctx, g, it->name, it->param, grad, &updated, &lr)) return false;
    b_assign(g, it->param, updated);
    if (*rate == NO_VALUE) *rate = lr;
    return true;
}

static bool apply_all(Apply *ap, Arena *a) {
    Value rate = NO_VALUE;
    int64_t *group = arena_array(a, int64_t, ap->n), k = partition(ap, group);
    for (int64_t j = k; j-- > 0;)
        for (uint32_t i = 0; i < ap->n; i++)
            if (group[i] == j && !apply_one(ap, &ap->item[i], j, k > 1, &rate)) return false;
    at_apply(ap->g, "optimizer", (Loc){0});
    if (rate != NO_VALUE) b_output(ap->g, rate, "lr");
    return true;
}

/* ---- steps that overflowed ---- */

/* assign(leaf, x) becomes assign(leaf, finite ? x : leaf). */
static void guard_assign(Rewrite *r, Value v, Value finite) {
    Graph *g = r->to;
    Value leaf = r->map[operand(r->from, v, 0)], x = r->map[operand(r->from, v, 1)];
    const Node *old = node_of(r->from, v);
    at_apply(g, old->scope, old->loc);
    const Type *t = type_of(g, leaf);
    Value ok = b_broadcast_to(g, finite, type_with_dtype(g->session, t, DT_BOOL));
    b_assign(g, leaf, b_ew3(g, OP_select, ok, x, leaf));
}

/* Drops the sinks and guards the assignments. */
static void finish(Graph *g, Apply *ap, Arena *a) {
    Rewrite r = rewrite_begin(g, a);
    for (Value v = 0; v < g->node.n; v++) {
        Op op = (Op)node_of(g, v)->op;
        if (op == OP_gradient) continue;
        if (op == OP_assign && ap->finite != NO_VALUE)
            guard_assign(&r, v, r.map[ap->finite]);
        else
            rewrite_copy(&r, v);
    }
    if (ap->finite != NO_VALUE) ap->finite = r.map[ap->finite], ap->scale = r.map[ap->scale];
    rewrite_end(&r);
}

static Value choose(Graph *g, Value c, Value x, Value y) { return b_ew3(g, OP_select, c, x, y); }

/* The next scale and the count of good steps. */
static void update_scale(Apply *ap) {
    Graph *g = ap->g;
    AttrValue attr[] = {{.s = intern(g->session, GOOD_STEPS_STATE)},
                        {.s = intern(g->session, "")},
                        {.s = intern(g->session, "zeros")},
                        {.f = 0},
                        {.f = 0}};
    Value good = graph_leaf(g, OP_state, attr_intern(g->session, OP_state, attr),
                            type_scalar(g->session, DT_F32));
    Value next = b_ew2(g, OP_add, good, scalar(g, 1));
    Value grow = b_ew2(g, OP_ge, next, scalar(g, GOOD_STEPS));
    Value twice = b_ew2(g, OP_mul, ap->scale, scalar(g, 2));
    Value half = b_ew2(g, OP_maximum, b_ew2(g, OP_mul, ap->scale, scalar(g, 0.5)), scalar(g, 1));
    Value kept = choose(g, grow, twice, ap->scale), counted = choose(g, grow, scalar(g, 0), next);
    b_assign(g, ap->scale, choose(g, ap->finite, kept, half));
    b_assign(g, good, choose(g, ap->finite, counted, scalar(g, 0)));
}

static void report_scale(Apply *ap) {
    Graph *g = ap->g;
    at_apply(g, "loss_scale", (Loc){0});
    b_output(g, ap->scale, "loss_scale");
    b_output(g, b_cast(g, b_ew1(g, OP_not, ap->finite), DT_F32), "overflow");
    if (node_of(g, ap->scale)->op == OP_state) update_scale(ap);
}

bool pass_optimize(Graph *g, PassContext *cx) {
    Apply ap = collect(g, cx->scratch);
    if (ap.n == 0) return false;
    if (!g->optimizer) {
        diag_error(g->session, (Loc){0},
                   "this graph has gradients but no optimizer: a graph read "
                   "from text cannot run the optimize pass");
        return false;
    }
    measure(&ap, cx->scratch);
    if (!apply_all(&ap, cx->scratch)) return false;
    finish(g, &ap, cx->scratch);
    if (ap.finite != NO_VALUE) report_scale(&ap);
    g->optimizer = NULL;
    g->optimizer_ctx = NULL;
    return true;
}
