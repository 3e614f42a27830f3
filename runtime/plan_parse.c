/* plan_parse.c: plan.txt read back, and checked.
 *
 * Lines refer only upwards, so one pass suffices and every complaint has its exact column. A line
 * with a mistake is reported and left; after MAX_BAD of them reading stops. What the executor
 * relies on is checked here and, for steps, in plan_check.c: indices, buffers inside arenas, names
 * used once. Sizes are multiplied with overflow checks throughout.
 */
#include "runtime/plan_read.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 20 };

static const char *name_of_mem(int i) { return mem_name((Mem)i); }
static const char *name_of_kind(int i) { return buf_kind_name((BufKind)i); }
static const char *name_of_init(int i) { return init_kind_name((InitKind)i); }
static const char *name_of_step(int i) { return step_kind_name((StepKind)i); }
static const char *name_of_phase(int i) { return plan_phase_name((PlanPhase)i); }
static const char *name_of_truth(int i) { return i ? "yes" : "no"; }

/* ---- header ---- */

static void read_model(Reader *r) { r->plan->model = read_word(r, "the model's name", false); }
static void read_target(Reader *r) { r->plan->target = read_word(r, "a target", false); }
static void read_command(Reader *r) { r->plan->command = read_word(r, "a command", false); }
static void read_train(Reader *r) {
    r->plan->train = read_choice(r, "yes or no", name_of_truth, 2) == 1;
}

static void read_hashes(Reader *r) {
    read_key(r, "model");
    r->plan->model_hash = read_hex(r, "a hash");
    read_key(r, "compiler");
    r->plan->compiler_hash = read_hex(r, "a hash");
}

static void read_memories(Reader *r, int64_t *bytes) {
    for (int m = 0; m < MEM_COUNT; m++) {
        read_key(r, mem_name((Mem)m));
        bytes[m] = read_int(r, "a number of bytes", 0, INT64_MAX / 2);
    }
}
static void read_arena(Reader *r) { read_memories(r, r->plan->arena); }
static void read_lower_bound(Reader *r) { read_memories(r, r->plan->lower_bound); }

static void read_work(Reader *r) {
    read_key(r, "tokens");
    r->plan->tokens = read_int(r, "a number of tokens", 0, INT64_MAX);
    read_key(r, "flops");
    r->plan->flops = read_number(r, "flops");
}

static double amount(Reader *r, const char *what) {
    const char *start = r->p;
    double x = read_number(r, what);
    if (!r->bad && !(x >= 0 && x <= DBL_MAX)) FAIL(r, start, "%s cannot be %g", what, x);
    return x;
}

static void read_machine(Reader *r) { r->plan->machine = read_word(r, "a machine", false); }
static void read_disk(Reader *r) { r->plan->disk = read_word(r, "a folder", false); }
static void read_budget(Reader *r) { read_memories(r, r->plan->budget); }

static void read_predicted(Reader *r) {
    read_key(r, "us");
    r->plan->predicted_us = amount(r, "a time");
    read_key(r, "bound");
    r->plan->bound_us = amount(r, "a time");
    read_key(r, "unconstrained");
    r->plan->unconstrained_us = amount(r, "a time");
    read_key(r, "bytes");
    r->plan->unconstrained = read_int(r, "a number of bytes", 0, INT64_MAX);
}

static void read_decision(Reader *r) {
    PlanDecision d = {.tensor = read_word(r, "a tensor", false)};
    d.how = read_word(r, "where it goes", false);
    read_key(r, "bytes");
    d.bytes = read_int(r, "a number of bytes", 0, INT64_MAX);
    read_key(r, "us");
    d.us = amount(r, "a time");
    read_spaces(r);
    static const char hinted[] = "hinted ";
    size_t n = sizeof hinted - 1;
    d.hinted = r->end - r->p > (ptrdiff_t)n && memcmp(r->p, hinted, n) == 0;
    if (d.hinted) r->p += n;
    d.loc = read_location(r);
    if (!r->bad) vec_push(&r->plan->decision, d);
}

static void read_source(Reader *r) {
    PlanSource s = {.path = read_word(r, "a file", false)};
    s.hash = read_hex(r, "a hash");
    if (!r->bad) vec_push(&r->plan->source, s);
}

/* ---- buffers, tensors, ports, kernels ---- */

static void read_shape(Reader *r, PlanBuffer *b) {
    const char *start = r->p;
    b->dtype = read_dtype(r);
    b->bytes = dtype_size(b->dtype);
    read_expect(r, '[');
    for (bool more = !read_accept(r, ']'); more && !r->bad;
         more = !r->bad && !read_accept(r, ']')) {
        if (b->rank) read_expect(r, ',');
        if (b->rank == PLAN_MAX_RANK) FAIL(r, r->p, "more than %d dimensions", PLAN_MAX_RANK);
        if (r->bad) return;
        b->dim[b->rank] = read_int(r, "a size", 1, INT64_MAX);
        if (__builtin_mul_overflow(b->bytes, b->dim[b->rank], &b->bytes))
            FAIL(r, start, "more than 2^63 bytes");
        b->rank++;
    }
}

static void read_buffer(Reader *r) {
    PlanBuffer b = {0};
    Loc at = read_here(r, r->line);
    read_order(r, r->plan->buffer.n);
    b.kind = (BufKind)read_choice(r, "a kind of buffer", name_of_kind, BUF_KIND_COUNT);
    b.name = read_word(r, "a name", false);
    read_spaces(r);
    read_shape(r, &b);
    read_spaces(r);
    const char *place = r->p;
    b.mem = (Mem)read_choice(r, "a memory", name_of_mem, MEM_COUNT);
    read_expect(r, '+');
    b.offset = read_int(r, "an offset", 0, INT64_MAX);
    if (b.offset % 64) FAIL(r, place, "the offset is not a multiple of 64");
    if (!r->bad && (b.offset > r->plan->arena[b.mem] || b.bytes > r->plan->arena[b.mem] - b.offset))
        FAIL(r, place, "does not lie inside the arena of %lld bytes",
             (long long)r->plan->arena[b.mem]);
    b.loc = read_location(r);
    read_split(r, &b);
    if (r->bad) return;
    vec_push(&r->plan->buffer, b);
    vec_push(&r->at, at);
}

static void read_tensor(Reader *r) {
    PlanTensor t = {0};
    read_spaces(r);
    const char *start = r->p;
    t.buffer = read_reference(r, 'b', "a buffer", r->plan->buffer.n);
    if (r->bad) return;
    BufKind kind = r->plan->buffer.p[t.buffer].kind;
    uint32_t n = r->plan->tensor.n;
    bool after_state = n && r->plan->buffer.p[r->plan->tensor.p[n - 1].buffer].kind == BUF_STATE;
    if (kind != BUF_PARAM && kind != BUF_STATE)
        FAIL(r, start, "a tensor must be a parameter or a state");
    if (kind == BUF_PARAM && after_state) FAIL(r, start, "parameters come before states");
    t.init.kind = (InitKind)read_choice(r, "an init", name_of_init, INIT_COUNT);
    t.init.a = read_number(r, "the init's first number");
    t.init.b = read_number(r, "the init's second number");
    t.init.site = read_hex(r, "the init's site");
    if (!r->bad) vec_push(&r->plan->tensor, t);
}

static PlanPort port(Reader *r, unsigned kinds, const char *must) {
    read_spaces(r);
    const char *start = r->p;
    PlanPort port = {.buffer = read_reference(r, 'b', "a buffer", r->plan->buffer.n)};
    if (!r->bad && !(kinds >> r->plan->buffer.p[port.buffer].kind & 1))
        FAIL(r, start, "must be %s", must);
    return port;
}

static bool has_group(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->group.n; i++)
        if (strcmp(p->group.p[i].name, name) == 0) return true;
    return false;
}

static void read_input(Reader *r) {
    PlanPort p = port(r, 1u << BUF_INPUT, "an input");
    read_spaces(r);
    if (!r->bad && r->p < r->end) {
        read_key(r, "bound");
        p.bound = read_int(r, "a bound", 1, INT64_MAX);
    }
    if (r->bad) return;
    const PlanBuffer *b = &r->plan->buffer.p[p.buffer];
    if (b->name[0] == '@' && (b->dtype != DT_I32 || b->rank != 0))
        FAIL(r, r->line, "input %s must be i32[]", b->name);
    else if (strncmp(b->name, PLAN_INDEX, strlen(PLAN_INDEX)) == 0 &&
             !has_group(r->plan, b->name + strlen(PLAN_INDEX)))
        FAIL(r, r->line, "input %s is of a group that is not there", b->name);
    else
        vec_push(&r->plan->input, p);
}

static void read_output(Reader *r) {
    PlanPort p = port(r, ~(1u << BUF_TEMP), "kept until the step's end, not a temporary");
    if (!r->bad) vec_push(&r->plan->output, p);
}

static void read_grad(Reader *r) {
    PlanPort p = port(r, 1u << BUF_GRAD, "a gradient");
    if (!r->bad) vec_push(&r->plan->grad, p);
}

static bool is_identifier(const char *s) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return s[0] && !(s[0] >= '0' && s[0] <= '9') && !s[strspn(s, letters)];
}

static void read_kernel(Reader *r) {
    PlanKernel k = {0};
    read_order(r, r->plan->kernel.n);
    read_spaces(r);
    const char *start = r->p;
    k.name = read_word(r, "a kernel's name", false);
    if (!r->bad && !is_identifier(k.name)) FAIL(r, start, "not the name of a C function");
    read_spaces(r);
    start = r->p;
    k.source = read_word(r, "a file", false);
    if (!r->bad && (!k.source[0] || k.source[0] == '/' || strstr(k.source, "..")))
        FAIL(r, start, "the source must lie in the plan's folder");
    read_key(r, "nargs");
    k.nargs = (int)read_int(r, "a number of arguments", 0, PLAN_MAX_ARGS);
    read_spaces(r);
    if (r->p < r->end && *r->p == 't') {
        read_key(r, "threads");
        k.threads = (int)read_int(r, "a number of threads", 1, PLAN_MAX_THREADS);
        read_key(r, "shared");
        k.shared = read_int(r, "a number of bytes", 0, PLAN_MAX_SHARED);
    }
    read_key(r, "hash");
    k.hash = read_hex(r, "a hash");
    if (!r->bad) vec_push(&r->plan->kernel, k);
}

/* ---- steps ---- */

static void read_value(Reader *r, const PlanField *f, PlanStep *s) {
    char *at = (char *)s + f->offset;
    const char *start = r->p;
    double x;
    switch (f->type) {
    case FIELD_I64: *(int64_t *)at = read_int(r, f->key, f->least, INT64_MAX); break;
    case FIELD_STREAM: *(int *)at = (int)read_int(r, f->key, f->least, STREAM_COUNT - 1); break;
    case FIELD_F64: *(double *)at = read_number(r, f->key); break;
    case FIELD_FLAG: *(bool *)at = true; break;
    case FIELD_F32:
        x = read_number(r, f->key);
        if (isfinite(x) && fabs(x) > FLT_MAX) FAIL(r, start, "too large for f32");
        if (!r->bad) *(float *)at = (float)x;
        break;
    }
}

static void read_batch(Reader *r, PlanStep *s) {
    PlanGemm *g = &s->gemm;
    do {
        if (g->nbatch == PLAN_MAX_BATCH) FAIL(r, r->p, "more than %d batch sizes", PLAN_MAX_BATCH);
        if (r->bad) return;
        int i = g->nbatch++;
        int64_t *part[] = {&g->count[i], &g->sa[i], &g->sb[i], &g->sc[i]};
        for (int j = 0; j < 4; j++) {
            if (j) read_expect(r, ':');
            *part[j] = read_int(r, j ? "a stride" : "a count", j == 0, INT64_MAX);
        }
    } while (!r->bad && read_accept(r, ','));
}

static void read_epilogue(Reader *r, PlanStep *s) {
    const char *start = r->p;
    const char *name = read_word(r, "an epilogue", false);
    if (r->bad) return;
    while (s->gemm.epilogue < EPILOGUE_COUNT && strcmp(epilogue_name(s->gemm.epilogue), name) != 0)
        s->gemm.epilogue++;
    if (s->gemm.epilogue == EPILOGUE_COUNT || s->gemm.epilogue == EPILOGUE_NONE)
        FAIL(r, start, "not an epilogue: gelu, bias-gelu, gelu-grad or gelu-grad-sum");
    if (r->bad) return;
    read_expect(r, ':');
    s->kernel = read_reference(r, 'k', "a kernel", r->plan->kernel.n);
    read_expect(r, ':');
    s->items = read_int(r, "a number of blocks", 1, INT32_MAX);
}

static void read_algo(Reader *r, PlanStep *s) { s->gemm.algo = read_word(r, "a name", false); }

static void read_args(Reader *r, PlanStep *s) {
    VEC(PlanArg) v = {0};
    do {
        PlanArg a = {read_reference(r, 'b', "a buffer", r->plan->buffer.n), 0};
        const char *start = r->p;
        if (!r->bad && read_accept(r, '+')) a.offset = read_int(r, "an offset", 0, INT64_MAX);
        if (!r->bad && a.offset > r->plan->buffer.p[a.buffer].bytes)
            FAIL(r, start, "the buffer has only %lld bytes",
                 (long long)r->plan->buffer.p[a.buffer].bytes);
        if (v.n == PLAN_MAX_ARGS) FAIL(r, start, "more than %d arguments", PLAN_MAX_ARGS);
        if (!r->bad) vec_push(&v, a);
    } while (!r->bad && read_accept(r, ','));
    s->nargs = v.n;
    s->arg = arena_array(session_arena(r->session), PlanArg, v.n);
    if (v.n) memcpy(s->arg, v.p, v.n * sizeof *v.p);
    vec_free(&v);
}

static void read_phase(Reader *r, PlanStep *s) {
    s->phase = (PlanPhase)read_choice(r, "a phase", name_of_phase, PLAN_PHASE_COUNT);
}

static void read_writes(Reader *r, PlanStep *s) { s->writes = read_hex(r, "a mask of arguments"); }

static void read_wait(Reader *r, PlanStep *s) {
    VEC(uint32_t) v = {0};
    do {
        uint32_t last = r->plan->step.n;
        if (last == 0) FAIL(r, r->p, "the first step has nothing to wait for");
        int64_t i = r->bad ? 0 : read_int(r, "an earlier step", 0, (int64_t)last - 1);
        if (!r->bad) vec_push(&v, (uint32_t)i);
    } while (!r->bad && read_accept(r, ','));
    s->nwait = v.n;
    s->wait = arena_array(session_arena(r->session), uint32_t, v.n);
    if (v.n) memcpy(s->wait, v.p, v.n * sizeof *v.p);
    vec_free(&v);
}

/* Fields that are not one number. */
static const struct {
    const char *key;
    unsigned kinds;
    void (*read)(Reader *r, PlanStep *s);
    bool required;
} lists[] = {
    {"batch", 1 << STEP_GEMM, read_batch, false},
    {"epilogue", 1 << STEP_GEMM, read_epilogue, false},
    {"algo", 1 << STEP_GEMM, read_algo, false},
    {"group", 1 << STEP_COLLECTIVE, read_comm_group, true},
    {"reduce", 1 << STEP_COLLECTIVE, read_comm_reduce, false},
    {"count", 1 << STEP_COLLECTIVE, read_comm_count, true},
    {"dtype", 1 << STEP_COLLECTIVE, read_comm_dtype, true},
    {"wire", 1 << STEP_COLLECTIVE, read_comm_wire, false},
    {"scale", 1 << STEP_COLLECTIVE, read_comm_scale, false},
    {"peer", 1 << STEP_COLLECTIVE, read_comm_peer, false},
    {"args", ~0u, read_args, false},
    {"writes", 1 << STEP_KERNEL, read_writes, false},
    {"wait", ~0u, read_wait, false},
    {"phase", ~0u, read_phase, false},
};
_Static_assert(PLAN_FIELDS + COUNT(lists) <= 64, "one bit for each field");

static bool is_word(const char *s, size_t n, const char *name) {
    return strlen(name) == n && memcmp(s, name, n) == 0;
}

static void read_field(Reader *r, PlanStep *s, uint64_t *seen) {
    const char *start;
    size_t n = read_token(r, &start, "a field");
    if (r->bad) return;
    for (unsigned i = 0; i < PLAN_FIELDS + COUNT(lists); i++) {
        bool list = i >= PLAN_FIELDS;
        const char *name = list ? lists[i - PLAN_FIELDS].key : plan_field[i].key;
        unsigned kinds = list ? lists[i - PLAN_FIELDS].kinds : plan_field[i].kinds;
        if (!(kinds >> s->kind & 1) || !is_word(start, n, name)) continue;
        if (*seen >> i & 1) FAIL(r, start, "'%s' stands here twice", name);
        *seen |= (uint64_t)1 << i;
        if (list || plan_field[i].type != FIELD_FLAG) read_expect(r, '=');
        if (r->bad) return;
        if (list)
            lists[i - PLAN_FIELDS].read(r, s);
        else
            read_value(r, &plan_field[i], s);
        return;
    }
    FAIL(r, start, "a %s step has no field '%.*s'", step_kind_name(s->kind),
         (int)MIN(n, (size_t)40), start);
}

static void check_step(Reader *r, const PlanStep *s, uint64_t seen) {
    for (unsigned i = 0; i < PLAN_FIELDS; i++)
        if (plan_field[i].required && plan_field[i].kinds >> s->kind & 1 && !(seen >> i & 1))
            FAIL(r, r->line, "the field '%s' is missing", plan_field[i].key);
    for (unsigned i = 0; i < COUNT(lists); i++)
        if (lists[i].required && lists[i].kinds >> s->kind & 1 && !(seen >> (PLAN_FIELDS + i) & 1))
            FAIL(r, r->line, "the field '%s' is missing", lists[i].key);
    Buf why = {0};
    if (!r->bad) plan_check_step(r->plan, s, &why);
    if (why.n) FAIL(r, r->line, "%s", why.p);
    buf_free(&why);
}

static void read_step(Reader *r) {
    PlanStep s = {0};
    uint64_t seen = 0;
    read_order(r, r->plan->step.n);
    s.kind = (StepKind)read_choice(r, "a kind of step", name_of_step, STEP_KIND_COUNT);
    if (s.kind == STEP_KERNEL) s.kernel = read_reference(r, 'k', "a kernel", r->plan->kernel.n);
    if (s.kind == STEP_GEMM) {
        s.gemm.da = read_dtype(r);
        s.gemm.db = read_dtype(r);
        s.gemm.dc = read_dtype(r);
    }
    if (s.kind == STEP_COLLECTIVE) read_collective(r, &s);
    for (read_spaces(r); !r->bad && !read_accept(r, ';'); read_spaces(r)) read_field(r, &s, &seen);
    if (s.collective.wire == DT_TUPLE) s.collective.wire = s.collective.dtype;
    if (!r->bad) check_step(r, &s, seen);
    if (r->bad) return;
    s.what = read_word(r, "what the step does, or -", true);
    s.scope = read_word(r, "a scope, or -", true);
    s.loc = read_location(r);
    if (!r->bad) vec_push(&r->plan->step, s);
}

/* ---- the whole file ---- */

/* The last line: what a plan cut short lacks. */
static void read_end(Reader *r) { r->ended = true; }

typedef enum { ANY, AT_MOST_ONE, ONE } Often;

static const struct {
    const char *name;
    void (*read)(Reader *r);
    Often often;
} items[] = {
    {"model", read_model, ONE},
    {"target", read_target, ONE},
    {"command", read_command, ONE},
    {"train", read_train, ONE},
    {"hashes", read_hashes, ONE},
    {"arena", read_arena, ONE},
    {"lower-bound", read_lower_bound, ONE},
    {"ranks", read_ranks, AT_MOST_ONE},
    {"mesh", read_mesh, AT_MOST_ONE},
    {"stages", read_stages, AT_MOST_ONE},
    {"stage", read_stage, AT_MOST_ONE},
    {"shares", read_shares, AT_MOST_ONE},
    {"share", read_share, AT_MOST_ONE},
    {"balanced", read_balanced, AT_MOST_ONE},
    {"group", read_group, ANY},
    {"work", read_work, ONE},
    {"machine", read_machine, AT_MOST_ONE},
    {"budget", read_budget, AT_MOST_ONE},
    {"disk", read_disk, AT_MOST_ONE},
    {"predicted", read_predicted, AT_MOST_ONE},
    {"decision", read_decision, ANY},
    {"source", read_source, ANY},
    {"buffer", read_buffer, ANY},
    {"tensor", read_tensor, ANY},
    {"input", read_input, ANY},
    {"output", read_output, ANY},
    {"grad", read_grad, ANY},
    {"kernel", read_kernel, ANY},
    {"step", read_step, ANY},
    {"end", read_end, ONE},
};

static void read_line(Reader *r) {
    const char *start;
    if (r->p == r->end) return;
    size_t n = read_token(r, &start, "an item");
    if (r->ended) FAIL(r, start, "text after the plan's end");
    for (unsigned i = 0; i < COUNT(items) && !r->bad; i++) {
        if (!is_word(start, n, items[i].name)) continue;
        if (items[i].often != ANY && r->found >> i & 1)
            FAIL(r, start, "a second '%s'", items[i].name);
        r->found |= 1u << i;
        if (!r->bad) items[i].read(r);
        read_spaces(r);
        if (!r->bad && r->p < r->end) FAIL(r, r->p, "unexpected text at the end of the line");
        return;
    }
    FAIL(r, start, "unknown item '%.*s'", (int)MIN(n, (size_t)40), start);
}

typedef struct {
    const char *name; /* interned: equal text, equal pointer */
    uint32_t buffer;
} Named;

static int by_name(const void *a, const void *b) {
    const Named *x = a, *y = b;
    if (x->name != y->name) return (uintptr_t)x->name < (uintptr_t)y->name ? -1 : 1;
    return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

static void check_names(Reader *r) {
    uint32_t n = r->plan->buffer.n;
    Named *v = xmalloc(n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = (Named){r->plan->buffer.p[i].name, i};
    qsort(v, n, sizeof *v, by_name);
    for (uint32_t i = 1; i < n; i++) {
        if (v[i].name != v[i - 1].name) continue;
        diag_error(r->session, r->at.p[v[i].buffer], "a second buffer named \"%s\"", v[i].name);
        diag_note(r->session, r->at.p[v[i - 1].buffer], "the first one");
    }
    free(v);
}

static int by_place(const void *a, const void *b) {
    const PlanBuffer *x = *(const PlanBuffer *const *)a, *y = *(const PlanBuffer *const *)b;
    if (x->mem != y->mem) return x->mem < y->mem ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* What is kept between steps shares its bytes with nothing else that is kept. */
static void check_tensors(Reader *r) {
    uint32_t n = r->plan->tensor.n;
    const PlanBuffer **v = xmalloc(n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = &r->plan->buffer.p[r->plan->tensor.p[i].buffer];
    qsort(v, n, sizeof *v, by_place);
    for (uint32_t i = 1; i < n; i++)
        if (v[i]->mem == v[i - 1]->mem && v[i]->offset < v[i - 1]->offset + v[i - 1]->bytes)
            diag_error(r->session, r->at.p[v[i] - r->plan->buffer.p],
                       "tensor \"%s\" shares bytes with tensor \"%s\"", v[i]->name, v[i - 1]->name);
    free(v);
}

static bool read_title(Reader *r) {
    static const char title[] = "m6c-plan 1";
    size_t n = (size_t)(r->end - r->line);
    if (is_word(r->line, n, title)) return true;
    bool plan = n >= 9 && memcmp(r->line, title, 9) == 0;
    diag_error(r->session, read_here(r, r->line), "%s",
               plan ? "a plan of another version of m6c: compile the model again"
                    : "not a plan: the first line must be 'm6c-plan 1'");
    return false;
}

static void check_whole(Reader *r) {
    for (unsigned i = 0; i < COUNT(items); i++)
        if (items[i].often == ONE && !(r->found >> i & 1))
            diag_error(r->session, read_here(r, r->line), "the line '%s' is missing",
                       items[i].name);
    check_names(r);
    check_tensors(r);
    Buf why = {0};
    plan_check_pipeline(r->plan, &why);
    if (why.n) diag_error(r->session, read_here(r, r->line), "%s", why.p);
    buf_free(&why);
}

Plan *plan_parse(Session *s, const char *file, const char *text, size_t n) {
    Reader r = {.session = s, .plan = plan_new(s), .file = session_add_file(s, file, text, n)};
    const char *end = text + n;
    int before = diag_errors(s), bad = 0;
    r.p = text;
    while (bad < MAX_BAD) {
        const char *nl = r.p < end ? memchr(r.p, '\n', (size_t)(end - r.p)) : NULL;
        r.line = r.p;
        r.end = nl ? nl : end;
        r.lineno++;
        r.bad = false;
        if (r.lineno == 1 && !read_title(&r)) break;
        if (r.lineno > 1) read_line(&r);
        bad += r.bad;
        if (!nl) break;
        r.p = nl + 1;
    }
    if (diag_errors(s) == before) check_whole(&r);
    vec_free(&r.at);
    if (diag_errors(s) == before) return r.plan;
    plan_free(r.plan);
    return NULL;
}
