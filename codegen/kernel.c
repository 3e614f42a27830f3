/* kernel.c: a fused group becomes a Kernel. Views disappear into strides; pick, unpick and pad
 * become loads, comparisons and reductions. */
#include "codegen/kernel.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *g;
    const Units *us;
    uint32_t unit;
    const Space *space;
    Kernel *k;
    VEC(Value) member; /* values with a register .. */
    VEC(uint32_t) reg; /* .. and the register */
} Build;

/* ---- domain ---- */

static void set_domain(Kernel *k, const Space *s) {
    int64_t block = s->n;
    for (int i = s->ncut - 1; i >= 0; i--) {
        k->dim[k->ndim++] = block / s->cut[i];
        block = s->cut[i];
    }
    k->dim[k->ndim++] = block;
    k->flat = s->ncut == 0 && s->c == 0;
    k->cols = s->c ? s->c : block;
    k->rows = s->n / k->cols;
    k->outer = s->col_reduce ? s->outer : 0;
    for (int64_t n = 1; n < k->cols;) n *= k->dim[k->ndim - ++k->ncol];
    if (k->ncol == 0) k->ncol = 1;
    if (k->rows > 1 || k->ndim > k->ncol) return;
    memmove(&k->dim[1], &k->dim[0], (size_t)k->ndim * sizeof k->dim[0]); /* a row dim of size 1 */
    k->dim[0] = 1;
    k->ndim++;
}

/* ---- instructions ---- */

static Inst new_inst(InstKind kind, Op op, Dtype d, Level level) {
    Inst i;
    memset(&i, 0, sizeof i); /* padding too: equal instructions have equal bytes */
    i.kind = kind, i.op = op, i.dtype = d, i.level = level, i.index = NO_INST;
    return i;
}

/* The loop before or in which a value can be read. */
static int ready(const Kernel *k, uint32_t r) {
    return k->inst.p[r].phase + (k->inst.p[r].kind == INST_REDUCE);
}

static uint32_t push(Build *b, Inst i) {
    Kernel *k = b->k;
    for (uint32_t j = 0; j < i.nin; j++) i.phase = MAX(i.phase, ready(k, i.in[j]));
    if (i.index != NO_INST) i.phase = MAX(i.phase, ready(k, i.index));
    bool pure = i.kind == INST_CONST || i.kind == INST_IOTA || i.kind == INST_LOAD;
    for (uint32_t r = 0; pure && r < k->inst.n; r++)
        if (memcmp(&k->inst.p[r], &i, sizeof i) == 0) return r;
    vec_push(&k->inst, i);
    return k->inst.n - 1;
}

static Level joint_level(const Kernel *k, uint32_t n, const uint32_t *in) {
    for (uint32_t i = 0; i < n; i++)
        if (k->inst.p[in[i]].level == LEVEL_FULL) return LEVEL_FULL;
    return LEVEL_ROW;
}

static uint32_t ew(Build *b, Op op, Dtype d, uint32_t n, const uint32_t *in) {
    Inst i = new_inst(INST_EW, op, d, joint_level(b->k, n, in));
    i.nin = n;
    for (uint32_t j = 0; j < n; j++) i.in[j] = in[j];
    return push(b, i);
}

static uint32_t constant(Build *b, double x, Dtype d) {
    Inst i = new_inst(INST_CONST, OP_constant, d, LEVEL_ROW);
    i.value = x;
    return push(b, i);
}

static uint32_t add_arg(Build *b, Value v, bool written) {
    Kernel *k = b->k;
    for (uint32_t i = 0; i < k->arg.n; i++)
        if (k->arg.p[i].value == v && k->arg.p[i].written == written) return i;
    vec_push(&k->arg, ((KernelArg){v, type_of(b->g, v)->dtype, written}));
    return k->arg.n - 1;
}

static uint32_t reduce(Build *b, Op op, Dtype d, Level level, uint32_t x) {
    Inst i = new_inst(INST_REDUCE, op, d, level);
    i.nin = 1;
    i.in[0] = x;
    return push(b, i);
}

/* ---- operands ---- */

static uint32_t find_register(const Build *b, Value v) {
    for (uint32_t i = 0; i < b->member.n; i++)
        if (b->member.p[i] == v) return b->reg.p[i];
    return NO_INST;
}

/* Strides over the domain of a layout that has the full, or the rows' number of elements; any other
 * (scalars of @seed and @step) is one element. */
static void domain_strides(const Kernel *k, const Layout *layout, Inst *i) {
    Layout l = *layout;
    int64_t n = layout_elements(&l);
    int dims = n == k->rows * k->cols ? k->ndim : n == k->rows ? k->ndim - k->ncol : 0;
    bool ok = layout_reshape(&l, dims, k->dim);
    ASSERT(ok);
    memcpy(i->stride, l.stride, (size_t)dims * sizeof i->stride[0]);
    i->offset = l.offset;
    i->level = LEVEL_ROW;
    for (int d = k->ndim - k->ncol; d < dims; d++)
        if (l.stride[d] != 0) i->level = LEVEL_FULL;
}

/* A read through a layout over root; `more` brings guard and dynamic index. */
static uint32_t load(Build *b, Value root, const Layout *l, const Inst *more) {
    const Node *n = node_of(b->g, root);
    bool bare = n->group == 0;
    if (bare && n->op == OP_constant && !more)
        return constant(b, attr_float(n, "value"), n->type->dtype);
    Inst i = more ? *more : new_inst(INST_LOAD, OP_param, n->type->dtype, LEVEL_ROW);
    domain_strides(b->k, l, &i);
    i.dtype = n->type->dtype;
    if (bare && (n->op == OP_constant || n->op == OP_iota)) {
        ASSERT(!more);
        i.kind = INST_IOTA;
    } else {
        i.arg = add_arg(b, root, false);
    }
    return push(b, i);
}

static uint32_t use_layout(Build *b, Value root, const Layout *l) {
    uint32_t r = find_register(b, root);
    return r != NO_INST ? r : load(b, root, l, NULL);
}

static uint32_t use(Build *b, Value v) {
    Layout l;
    Value root = view_root(b->g, v, &l);
    return use_layout(b, root, &l);
}

/* ---- nodes ---- */

static uint32_t build_reduce(Build *b, Value v) {
    uint32_t x = use(b, operand(b->g, v, 0));
    Level level = space_level(b->space, b->g, v);
    return reduce(b, node_of(b->g, v)->op, type_of(b->g, v)->dtype, level, x);
}

/* The column number, as an i32 of the full domain. */
static uint32_t column(Build *b) {
    Inst i = new_inst(INST_IOTA, OP_iota, DT_I32, LEVEL_FULL);
    int64_t stride = 1;
    for (int d = b->k->ndim - 1; d >= b->k->ndim - b->k->ncol; d--) {
        i.stride[d] = stride;
        stride *= b->k->dim[d];
    }
    return push(b, i);
}

static uint32_t as_i32(Build *b, uint32_t r) {
    return b->k->inst.p[r].dtype == DT_I32 ? r : ew(b, OP_cast, DT_I32, 1, &r);
}

/* value where the column is the index, else 0 */
static uint32_t where_column(Build *b, uint32_t index, uint32_t value) {
    Dtype d = b->k->inst.p[value].dtype;
    uint32_t hit = ew(b, OP_eq, DT_BOOL, 2, (uint32_t[]){column(b), as_i32(b, index)});
    return ew(b, OP_select, d, 3, (uint32_t[]){hit, value, constant(b, 0, d)});
}

static uint32_t build_pick(Build *b, Value v) {
    Layout x, index;
    Value root = view_root(b->g, operand(b->g, v, 0), &x);
    Value which = view_root(b->g, operand(b->g, v, 1), &index);
    Dtype d = type_of(b->g, v)->dtype;
    uint32_t reg = find_register(b, root), i = use_layout(b, which, &index);
    if (reg != NO_INST) return reduce(b, OP_sum, d, LEVEL_ROW, where_column(b, i, reg));
    Inst more = new_inst(INST_LOAD, OP_param, d, LEVEL_ROW);
    more.index = i;
    more.index_size = x.dim[x.rank - 1];
    more.index_stride = x.stride[x.rank - 1];
    x.dim[x.rank - 1] = index.dim[index.rank - 1];
    x.stride[x.rank - 1] = 0;
    uint32_t r = load(b, root, &x, &more);
    Level level = b->k->inst.p[i].level;
    if (level == LEVEL_FULL) b->k->inst.p[r].level = level;
    return r;
}

static uint32_t build_unpick(Build *b, Value v) {
    Layout l[2];
    Value root[2];
    for (uint32_t i = 0; i < 2; i++) root[i] = view_root(b->g, operand(b->g, v, i), &l[i]);
    int64_t m = l[0].dim[l[0].rank - 1];
    uint32_t sum = NO_INST;
    for (int64_t j = 0; j < m; j++) {
        uint32_t r[2];
        for (int i = 0; i < 2; i++) {
            Layout one = l[i];
            one.offset += j * one.stride[one.rank - 1];
            one.dim[one.rank - 1] = 1;
            r[i] = use_layout(b, root[i], &one);
        }
        uint32_t x = where_column(b, r[0], r[1]);
        Dtype d = type_of(b->g, v)->dtype;
        sum = sum == NO_INST ? x : ew(b, OP_add, d, 2, (uint32_t[]){sum, x});
    }
    return sum;
}

/* Index i of a padded dim reads element i - lo. */
static uint32_t build_pad(Build *b, Value v) {
    const Node *n = node_of(b->g, v);
    const Ints *lo = attr_ints(n, "lo");
    const Kernel *k = b->k;
    Layout l;
    Value root = view_root(b->g, operand(b->g, v, 0), &l);
    Inst more = new_inst(INST_LOAD, OP_param, n->type->dtype, LEVEL_ROW);
    more.guarded = true;
    for (int d = 0; d < k->ndim; d++) more.hi[d] = k->dim[d];
    int64_t block = k->rows * k->cols / type_elements(n->type);
    Level level = LEVEL_ROW;
    for (int i = n->type->rank - 1; i >= 0; i--) {
        int64_t size = l.dim[i], from = block;
        l.offset -= lo->v[i] * l.stride[i];
        l.dim[i] = n->type->dim[i];
        block *= n->type->dim[i];
        if (size == l.dim[i]) continue;
        int64_t at = 1; /* the domain dim that is this dim: block `from` wide, `block` in all */
        for (int d = k->ndim - 1; d >= 0; at *= k->dim[d--]) {
            if (at != from || at * k->dim[d] != block) continue;
            more.lo[d] = lo->v[i];
            more.hi[d] = lo->v[i] + size;
            if (d >= k->ndim - k->ncol) level = LEVEL_FULL;
            break;
        }
    }
    const Node *r = node_of(b->g, root);
    if (r->group == 0 && (r->op == OP_constant || r->op == OP_iota))
        BUG("%%%u: pad of a value without bytes", v);
    uint32_t reg = load(b, root, &l, &more);
    if (level == LEVEL_FULL) b->k->inst.p[reg].level = level;
    return reg;
}

/* The number of the first element of a random block in the whole tensor, or NO_INST: 0. */
static uint32_t random_first(Build *b, Value v, const Layout *l) {
    const Node *n = node_of(b->g, v);
    uint32_t sum = NO_INST;
    for (int k = 0, i = 2; k < l->rank; k++) {
        if (random_parts(n, k) == 1) continue;
        uint32_t index = use(b, operand(b->g, v, (uint32_t)i++));
        double size = (double)(l->dim[k] * l->stride[k]);
        uint32_t in[] = {ew(b, OP_cast, DT_I64, 1, &index), constant(b, size, DT_I64)};
        uint32_t first = ew(b, OP_mul, DT_I64, 2, in);
        sum = sum == NO_INST ? first : ew(b, OP_add, DT_I64, 2, (uint32_t[]){sum, first});
    }
    return sum;
}

static uint32_t build_random(Build *b, Value v) {
    const char *site = attr_str(node_of(b->g, v), "site");
    Inst key = new_inst(INST_KEY, OP_random, DT_I32, LEVEL_ROW);
    key.site = hash_bytes(site, strlen(site), 0);
    key.nin = 2;
    for (uint32_t i = 0; i < 2; i++) key.in[i] = use(b, operand(b->g, v, i));
    Layout l;
    Inst r = new_inst(INST_RANDOM, OP_random, type_of(b->g, v)->dtype, LEVEL_ROW);
    random_layout(node_of(b->g, v), &l);
    domain_strides(b->k, &l, &r);
    r.level = space_level(b->space, b->g, v);
    r.in[0] = push(b, key);
    r.in[1] = random_first(b, v, &l);
    r.nin = r.in[1] == NO_INST ? 1 : 2;
    if (r.nin == 1) r.in[1] = 0;
    return push(b, r);
}

static uint32_t build_node(Build *b, Value v) {
    const Node *n = node_of(b->g, v);
    Layout l;
    switch (n->op) {
    case OP_pick: return build_pick(b, v);
    case OP_unpick: return build_unpick(b, v);
    case OP_pad: return build_pad(b, v);
    case OP_random: return build_random(b, v);
    default: break;
    }
    if (op_info(n->op)->flags & OPF_REDUCE) return build_reduce(b, v);
    if (is_view(n)) {
        Value root = view_root(b->g, operand(b->g, v, 0), &l);
        if (n->op != OP_reshape && !layout_view(n, &l)) BUG("%%%u: not a view", v);
        return load(b, root, &l, NULL);
    }
    uint32_t in[3];
    for (uint32_t i = 0; i < n->nin; i++) in[i] = use(b, operand(b->g, v, i));
    return ew(b, n->op, n->type->dtype, n->nin, in);
}

void kernel_build(const Graph *g, const Units *us, uint32_t u, Kernel *k) {
    memset(k, 0, sizeof *k);
    Build b = {.g = g, .us = us, .unit = u, .space = &us->space[u], .k = k};
    const Unit *unit = &us->unit[u];
    set_domain(k, b.space);
    for (uint32_t i = 0; i < unit->nnode; i++) {
        uint32_t r = build_node(&b, unit->node[i]);
        vec_push(&b.member, unit->node[i]);
        vec_push(&b.reg, r);
    }
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        Value v = unit->write[i];
        Store s = {find_register(&b, v), add_arg(&b, v, true), space_level(b.space, g, v)};
        vec_push(&k->store, s);
    }
    for (uint32_t i = 0; i < k->inst.n; i++) k->phases = MAX(k->phases, k->inst.p[i].phase + 1);
    vec_free(&b.member);
    vec_free(&b.reg);
}

void kernel_free(Kernel *k) {
    vec_free(&k->inst);
    vec_free(&k->arg);
    vec_free(&k->store);
}

/* ---- text ---- */

static void print_dims(Buf *out, const int64_t *dim, int n) {
    buf_puts(out, "[");
    for (int i = 0; i < n; i++) buf_printf(out, "%s%lld", i ? " " : "", (long long)dim[i]);
    buf_puts(out, "]");
}

static void print_place(const Kernel *k, const Inst *i, Buf *out) {
    print_dims(out, i->stride, k->ndim);
    if (i->offset) buf_printf(out, "%+lld", (long long)i->offset);
    if (i->index != NO_INST)
        buf_printf(out, " at %%%u*%lld of %lld", i->index, (long long)i->index_stride,
                   (long long)i->index_size);
    if (!i->guarded) return;
    buf_puts(out, " from ");
    print_dims(out, i->lo, k->ndim);
    buf_puts(out, " to ");
    print_dims(out, i->hi, k->ndim);
}

static void print_inst(const Kernel *k, const Inst *i, Buf *out) {
    static const char *const names[] = {"const", "iota", "load", "key", "random", "", ""};
    const char *name = *names[i->kind] ? names[i->kind] : op_info(i->op)->name;
    buf_printf(out, "%s", name);
    if (i->kind == INST_CONST) buf_puts(out, " "), buf_double(out, i->value);
    if (i->kind == INST_LOAD) buf_printf(out, " a%u", i->arg);
    if (i->kind == INST_LOAD || i->kind == INST_IOTA || i->kind == INST_RANDOM)
        print_place(k, i, out);
    if (i->kind == INST_KEY) buf_printf(out, " 0x%016llx", (unsigned long long)i->site);
    for (uint32_t j = 0; j < i->nin; j++) buf_printf(out, " %%%u", i->in[j]);
}

void kernel_print(const Kernel *k, Buf *out) {
    static const char *const levels[] = {"full", "row", "column"};
    buf_puts(out, "domain ");
    print_dims(out, k->dim, k->ndim - k->ncol);
    buf_puts(out, " x ");
    print_dims(out, k->dim + k->ndim - k->ncol, k->ncol);
    if (k->outer) buf_printf(out, ", columns of %lld", (long long)k->outer);
    buf_puts(out, "\n");
    for (uint32_t r = 0; r < k->inst.n; r++) {
        const Inst *i = &k->inst.p[r];
        buf_printf(out, "%%%u = ", r);
        print_inst(k, i, out);
        buf_printf(out, " : %s %s %d\n", dtype_name(i->dtype), levels[i->level], i->phase);
    }
    for (uint32_t s = 0; s < k->store.n; s++)
        buf_printf(out, "store a%u %%%u : %s %s\n", k->store.p[s].arg, k->store.p[s].inst,
                   dtype_name(k->arg.p[k->store.p[s].arg].dtype), levels[k->store.p[s].level]);
}
