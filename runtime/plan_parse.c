/* plan_parse.c: plan.txt read back, and checked.
 *
 * Lines refer only upwards, so one pass suffices and every complaint has its exact column. A line
 * with a mistake is reported and left; after MAX_BAD of them reading stops. What the executor
 * relies on is checked here and, for steps, in plan_check.c: indices, buffers inside arenas, names
 * used once. Sizes are multiplied with overflow checks throughout.
 */
#include "runtime/plan_text.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 20, MAX_ITEMS = 1 << 24 };

typedef struct {
    Session *session;
    Plan *plan;
    uint16_t file;
    const char *p, *line, *end; /* cursor, start and end of the current line */
    uint32_t lineno;
    bool ended;     /* the last line was read */
    bool bad;       /* something was wrong in this line: say no more about it */
    unsigned found; /* header lines seen, a bit for each row of `items` */
    VEC(Loc) at;    /* of each buffer, for complaints about names */
} Reader;

/* ---- words and numbers ---- */

static Loc here(const Reader *r, const char *p) {
    return (Loc){r->file, (uint16_t)MIN(p - r->line + 1, (ptrdiff_t)UINT16_MAX), r->lineno};
}

#define FAIL(r, p, ...)                                                                            \
    do {                                                                                           \
        if (!(r)->bad) diag_error((r)->session, here((r), (p)), __VA_ARGS__);                      \
        (r)->bad = true;                                                                           \
    } while (0)

static void skip_spaces(Reader *r) {
    while (r->p < r->end && *r->p == ' ') r->p++;
}

static bool accept(Reader *r, char c) {
    if (r->p >= r->end || *r->p != c) return false;
    r->p++;
    return true;
}

static void expect(Reader *r, char c) {
    if (!accept(r, c)) FAIL(r, r->p, "expected '%c'", c);
}

static bool ends_token(char c) { return c == ' ' || strchr(",:+=[];\"", c) != NULL; }

/* The bytes up to the next separator; empty after a complaint. */
static size_t token(Reader *r, const char **start, const char *what) {
    skip_spaces(r);
    *start = r->p;
    while (r->p < r->end && *r->p && !ends_token(*r->p)) r->p++;
    if (r->p == *start) FAIL(r, r->p, "expected %s", what);
    return (size_t)(r->p - *start);
}

static int64_t integer(Reader *r, const char *what, int64_t least, int64_t most) {
    const char *start;
    int64_t v = 0;
    size_t n = token(r, &start, what);
    if (!r->bad && !parse_i64(start, n, &v))
        FAIL(r, start, "expected %s, an integer of 64 bits", what);
    if (!r->bad && (v < least || v > most))
        FAIL(r, start, "%s must be from %lld to %lld", what, (long long)least, (long long)most);
    return r->bad ? least : v;
}

static double number(Reader *r, const char *what) {
    /* Not token(): exponents may hold a '+'. */
    skip_spaces(r);
    const char *start = r->p;
    double x = 0;
    while (r->p < r->end && (*r->p == '+' || (*r->p && !ends_token(*r->p)))) r->p++;
    if (!parse_f64(start, (size_t)(r->p - start), &x))
        FAIL(r, start, "expected %s, a number", what);
    return x;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint64_t hex(Reader *r, const char *what) {
    const char *start;
    uint64_t v = 0;
    size_t n = token(r, &start, what);
    for (size_t i = 0; i < n && !r->bad; i++) {
        int d = hex_digit(start[i]);
        if (d < 0 || n > 16) FAIL(r, start, "expected %s, at most 16 digits 0-9a-f", what);
        v = v << 4 | (uint64_t)MAX(d, 0);
    }
    return v;
}

static const char *quoted(Reader *r) {
    Buf b = {0};
    const char *start = r->p++;
    while (r->p < r->end && *r->p && *r->p != '"') {
        char c = *r->p++;
        if (c == '\\') {
            if (r->p < r->end && (*r->p == '"' || *r->p == '\\')) {
                c = *r->p++;
            } else {
                int hi = r->end - r->p > 2 && *r->p == 'x' ? hex_digit(r->p[1]) : -1;
                int lo = hi >= 0 ? hex_digit(r->p[2]) : -1;
                if (lo < 0 || hi * 16 + lo == 0) FAIL(r, r->p - 1, "unknown escape in a string");
                if (r->bad) break;
                c = (char)(hi * 16 + lo);
                r->p += 3;
            }
        }
        buf_put(&b, &c, 1);
    }
    if (!accept(r, '"')) FAIL(r, start, "string without an end");
    const char *s = intern_n(r->session, b.p ? b.p : "", b.n);
    buf_free(&b);
    return s;
}

static bool bare_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("_.[]%@/-", c));
}

/* Interned; NULL for "-" (which is a complaint unless `optional`). */
static const char *word(Reader *r, const char *what, bool optional) {
    skip_spaces(r);
    const char *start = r->p;
    if (r->p < r->end && *r->p == '"') return quoted(r);
    if (optional && accept(r, '-')) return NULL;
    while (r->p < r->end && bare_char(*r->p) && *start != '-') r->p++;
    if (r->p == start) FAIL(r, start, "expected %s", what);
    return intern_n(r->session, start, (size_t)(r->p - start));
}

/* The index of the next token among names, as enumerations are printed. */
static int choice(Reader *r, const char *what, const char *(*name)(int), int n) {
    const char *start;
    size_t length = token(r, &start, what);
    for (int i = 0; i < n; i++)
        if (strlen(name(i)) == length && memcmp(name(i), start, length) == 0) return i;
    FAIL(r, start, "expected %s, not '%.*s'", what, (int)MIN(length, (size_t)40), start);
    return 0;
}

static const char *name_of_mem(int i) { return mem_name((Mem)i); }
static const char *name_of_kind(int i) { return buf_kind_name((BufKind)i); }
static const char *name_of_init(int i) { return init_kind_name((InitKind)i); }
static const char *name_of_step(int i) { return step_kind_name((StepKind)i); }
static const char *name_of_dtype(int i) { return dtype_name((Dtype)i); }
static const char *name_of_phase(int i) { return plan_phase_name((PlanPhase)i); }
static const char *name_of_truth(int i) { return i ? "yes" : "no"; }

static Dtype dtype(Reader *r) { return (Dtype)choice(r, "a data type", name_of_dtype, DT_TUPLE); }

static void key(Reader *r, const char *name) {
    const char *start;
    size_t n = token(r, &start, name);
    if (!r->bad && (n != strlen(name) || memcmp(start, name, n) != 0))
        FAIL(r, start, "expected %s", name);
    expect(r, '=');
}

static Loc location(Reader *r) {
    skip_spaces(r);
    if (accept(r, '-')) return (Loc){0};
    const char *file = word(r, "a location, FILE:LINE:COLUMN", false);
    expect(r, ':');
    int64_t line = integer(r, "a line", 1, UINT32_MAX);
    expect(r, ':');
    int64_t col = integer(r, "a column", 0, UINT16_MAX);
    if (r->bad) return (Loc){0};
    return (Loc){session_find_file(r->session, file), (uint16_t)col, (uint32_t)line};
}

/* "b12", "k3": an index below n. */
static uint32_t reference(Reader *r, char letter, const char *what, uint32_t n) {
    skip_spaces(r);
    const char *start = r->p;
    expect(r, letter);
    int64_t i = r->bad ? 0 : integer(r, what, 0, UINT32_MAX);
    if (!r->bad && i >= n)
        FAIL(r, start, "%c%lld is not %s: there are %u so far", letter, (long long)i, what, n);
    return r->bad ? 0 : (uint32_t)i;
}

/* Items are numbered, so that a person finds them; the numbers must be in order. */
static void number_in_order(Reader *r, uint32_t n) {
    skip_spaces(r);
    const char *start = r->p;
    int64_t i = integer(r, "an index", 0, UINT32_MAX);
    if (!r->bad && (i != n || n >= MAX_ITEMS)) FAIL(r, start, "expected the index %u", n);
}

/* ---- header ---- */

static void read_model(Reader *r) { r->plan->model = word(r, "the model's name", false); }
static void read_target(Reader *r) { r->plan->target = word(r, "a target", false); }
static void read_command(Reader *r) { r->plan->command = word(r, "a command", false); }
static void read_train(Reader *r) {
    r->plan->train = choice(r, "yes or no", name_of_truth, 2) == 1;
}

static void read_hashes(Reader *r) {
    key(r, "model");
    r->plan->model_hash = hex(r, "a hash");
    key(r, "compiler");
    r->plan->compiler_hash = hex(r, "a hash");
}

static void read_memories(Reader *r, int64_t *bytes) {
    for (int m = 0; m < MEM_COUNT; m++) {
        key(r, mem_name((Mem)m));
        bytes[m] = integer(r, "a number of bytes", 0, INT64_MAX / 2);
    }
}
static void read_arena(Reader *r) { read_memories(r, r->plan->arena); }
static void read_lower_bound(Reader *r) { read_memories(r, r->plan->lower_bound); }

static void read_work(Reader *r) {
    key(r, "tokens");
    r->plan->tokens = integer(r, "a number of tokens", 0, INT64_MAX);
    key(r, "flops");
    r->plan->flops = number(r, "flops");
}

static double amount(Reader *r, const char *what) {
    const char *start = r->p;
    double x = number(r, what);
    if (!r->bad && !(x >= 0 && x <= DBL_MAX)) FAIL(r, start, "%s cannot be %g", what, x);
    return x;
}

static void read_machine(Reader *r) { r->plan->machine = word(r, "a machine", false); }
static void read_disk(Reader *r) { r->plan->disk = word(r, "a folder", false); }
static void read_budget(Reader *r) { read_memories(r, r->plan->budget); }

static void read_predicted(Reader *r) {
    key(r, "us");
    r->plan->predicted_us = amount(r, "a time");
    key(r, "bound");
    r->plan->bound_us = amount(r, "a time");
    key(r, "unconstrained");
    r->plan->unconstrained_us = amount(r, "a time");
    key(r, "bytes");
    r->plan->unconstrained = integer(r, "a number of bytes", 0, INT64_MAX);
}

static void read_decision(Reader *r) {
    PlanDecision d = {.tensor = word(r, "a tensor", false)};
    d.how = word(r, "where it goes", false);
    key(r, "bytes");
    d.bytes = integer(r, "a number of bytes", 0, INT64_MAX);
    key(r, "us");
    d.us = amount(r, "a time");
    skip_spaces(r);
    static const char hinted[] = "hinted ";
    size_t n = sizeof hinted - 1;
    d.hinted = r->end - r->p > (ptrdiff_t)n && memcmp(r->p, hinted, n) == 0;
    if (d.hinted) r->p += n;
    d.loc = location(r);
    if (!r->bad) vec_push(&r->plan->decision, d);
}

static void read_source(Reader *r) {
    PlanSource s = {.path = word(r, "a file", false)};
    s.hash = hex(r, "a hash");
    if (!r->bad) vec_push(&r->plan->source, s);
}

/* ---- buffers, tensors, ports, kernels ---- */

static void read_shape(Reader *r, PlanBuffer *b) {
    const char *start = r->p;
    b->dtype = dtype(r);
    b->bytes = dtype_size(b->dtype);
    expect(r, '[');
    for (bool more = !accept(r, ']'); more && !r->bad; more = !r->bad && !accept(r, ']')) {
        if (b->rank) expect(r, ',');
        if (b->rank == PLAN_MAX_RANK) FAIL(r, r->p, "more than %d dimensions", PLAN_MAX_RANK);
        if (r->bad) return;
        b->dim[b->rank] = integer(r, "a size", 1, INT64_MAX);
        if (__builtin_mul_overflow(b->bytes, b->dim[b->rank], &b->bytes))
            FAIL(r, start, "more than 2^63 bytes");
        b->rank++;
    }
}

static void read_buffer(Reader *r) {
    PlanBuffer b = {0};
    Loc at = here(r, r->line);
    number_in_order(r, r->plan->buffer.n);
    b.kind = (BufKind)choice(r, "a kind of buffer", name_of_kind, BUF_KIND_COUNT);
    b.name = word(r, "a name", false);
    skip_spaces(r);
    read_shape(r, &b);
    skip_spaces(r);
    const char *place = r->p;
    b.mem = (Mem)choice(r, "a memory", name_of_mem, MEM_COUNT);
    expect(r, '+');
    b.offset = integer(r, "an offset", 0, INT64_MAX);
    if (b.offset % 64) FAIL(r, place, "the offset is not a multiple of 64");
    if (!r->bad && (b.offset > r->plan->arena[b.mem] || b.bytes > r->plan->arena[b.mem] - b.offset))
        FAIL(r, place, "does not lie inside the arena of %lld bytes",
             (long long)r->plan->arena[b.mem]);
    b.loc = location(r);
    if (r->bad) return;
    vec_push(&r->plan->buffer, b);
    vec_push(&r->at, at);
}

static void read_tensor(Reader *r) {
    PlanTensor t = {0};
    skip_spaces(r);
    const char *start = r->p;
    t.buffer = reference(r, 'b', "a buffer", r->plan->buffer.n);
    if (r->bad) return;
    BufKind kind = r->plan->buffer.p[t.buffer].kind;
    uint32_t n = r->plan->tensor.n;
    bool after_state = n && r->plan->buffer.p[r->plan->tensor.p[n - 1].buffer].kind == BUF_STATE;
    if (kind != BUF_PARAM && kind != BUF_STATE)
        FAIL(r, start, "a tensor must be a parameter or a state");
    if (kind == BUF_PARAM && after_state) FAIL(r, start, "parameters come before states");
    t.init.kind = (InitKind)choice(r, "an init", name_of_init, INIT_COUNT);
    t.init.a = number(r, "the init's first number");
    t.init.b = number(r, "the init's second number");
    t.init.site = hex(r, "the init's site");
    if (!r->bad) vec_push(&r->plan->tensor, t);
}

static PlanPort port(Reader *r, unsigned kinds, const char *must) {
    skip_spaces(r);
    const char *start = r->p;
    PlanPort port = {.buffer = reference(r, 'b', "a buffer", r->plan->buffer.n)};
    if (!r->bad && !(kinds >> r->plan->buffer.p[port.buffer].kind & 1))
        FAIL(r, start, "must be %s", must);
    return port;
}

static void read_input(Reader *r) {
    PlanPort p = port(r, 1u << BUF_INPUT, "an input");
    skip_spaces(r);
    if (!r->bad && r->p < r->end) {
        key(r, "bound");
        p.bound = integer(r, "a bound", 1, INT64_MAX);
    }
    if (r->bad) return;
    const PlanBuffer *b = &r->plan->buffer.p[p.buffer];
    if (b->name[0] == '@' && (b->dtype != DT_I32 || b->rank != 0))
        FAIL(r, r->line, "input %s must be i32[]", b->name);
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
    number_in_order(r, r->plan->kernel.n);
    skip_spaces(r);
    const char *start = r->p;
    k.name = word(r, "a kernel's name", false);
    if (!r->bad && !is_identifier(k.name)) FAIL(r, start, "not the name of a C function");
    skip_spaces(r);
    start = r->p;
    k.source = word(r, "a file", false);
    if (!r->bad && (!k.source[0] || k.source[0] == '/' || strstr(k.source, "..")))
        FAIL(r, start, "the source must lie in the plan's folder");
    key(r, "nargs");
    k.nargs = (int)integer(r, "a number of arguments", 0, PLAN_MAX_ARGS);
    skip_spaces(r);
    if (r->p < r->end && *r->p == 't') {
        key(r, "threads");
        k.threads = (int)integer(r, "a number of threads", 1, PLAN_MAX_THREADS);
        key(r, "shared");
        k.shared = integer(r, "a number of bytes", 0, PLAN_MAX_SHARED);
    }
    key(r, "hash");
    k.hash = hex(r, "a hash");
    if (!r->bad) vec_push(&r->plan->kernel, k);
}

/* ---- steps ---- */

static void read_value(Reader *r, const PlanField *f, PlanStep *s) {
    char *at = (char *)s + f->offset;
    const char *start = r->p;
    double x;
    switch (f->type) {
    case FIELD_I64: *(int64_t *)at = integer(r, f->key, f->least, INT64_MAX); break;
    case FIELD_STREAM: *(int *)at = (int)integer(r, f->key, f->least, STREAM_COUNT - 1); break;
    case FIELD_F64: *(double *)at = number(r, f->key); break;
    case FIELD_FLAG: *(bool *)at = true; break;
    case FIELD_F32:
        x = number(r, f->key);
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
            if (j) expect(r, ':');
            *part[j] = integer(r, j ? "a stride" : "a count", j == 0, INT64_MAX);
        }
    } while (!r->bad && accept(r, ','));
}

static void read_epilogue(Reader *r, PlanStep *s) {
    const char *start = r->p;
    const char *name = word(r, "an epilogue", false);
    if (r->bad) return;
    while (s->gemm.epilogue < EPILOGUE_COUNT && strcmp(epilogue_name(s->gemm.epilogue), name) != 0)
        s->gemm.epilogue++;
    if (s->gemm.epilogue == EPILOGUE_COUNT || s->gemm.epilogue == EPILOGUE_NONE)
        FAIL(r, start, "not an epilogue: gelu, bias-gelu, gelu-grad or gelu-grad-sum");
    if (r->bad) return;
    expect(r, ':');
    s->kernel = reference(r, 'k', "a kernel", r->plan->kernel.n);
    expect(r, ':');
    s->items = integer(r, "a number of blocks", 1, INT32_MAX);
}

static void read_algo(Reader *r, PlanStep *s) { s->gemm.algo = word(r, "a name", false); }

static void read_args(Reader *r, PlanStep *s) {
    VEC(PlanArg) v = {0};
    do {
        PlanArg a = {reference(r, 'b', "a buffer", r->plan->buffer.n), 0};
        const char *start = r->p;
        if (!r->bad && accept(r, '+')) a.offset = integer(r, "an offset", 0, INT64_MAX);
        if (!r->bad && a.offset > r->plan->buffer.p[a.buffer].bytes)
            FAIL(r, start, "the buffer has only %lld bytes",
                 (long long)r->plan->buffer.p[a.buffer].bytes);
        if (v.n == PLAN_MAX_ARGS) FAIL(r, start, "more than %d arguments", PLAN_MAX_ARGS);
        if (!r->bad) vec_push(&v, a);
    } while (!r->bad && accept(r, ','));
    s->nargs = v.n;
    s->arg = arena_array(session_arena(r->session), PlanArg, v.n);
    if (v.n) memcpy(s->arg, v.p, v.n * sizeof *v.p);
    vec_free(&v);
}

static void read_phase(Reader *r, PlanStep *s) {
    s->phase = (PlanPhase)choice(r, "a phase", name_of_phase, PLAN_PHASE_COUNT);
}

static void read_writes(Reader *r, PlanStep *s) { s->writes = hex(r, "a mask of arguments"); }

static void read_wait(Reader *r, PlanStep *s) {
    VEC(uint32_t) v = {0};
    do {
        uint32_t last = r->plan->step.n;
        if (last == 0) FAIL(r, r->p, "the first step has nothing to wait for");
        int64_t i = r->bad ? 0 : integer(r, "an earlier step", 0, (int64_t)last - 1);
        if (!r->bad) vec_push(&v, (uint32_t)i);
    } while (!r->bad && accept(r, ','));
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
} lists[] = {
    {"batch", 1 << STEP_GEMM, read_batch},
    {"epilogue", 1 << STEP_GEMM, read_epilogue},
    {"algo", 1 << STEP_GEMM, read_algo},
    {"args", ~0u, read_args},
    {"writes", 1 << STEP_KERNEL, read_writes},
    {"wait", ~0u, read_wait},
    {"phase", ~0u, read_phase},
};
_Static_assert(PLAN_FIELDS + COUNT(lists) <= 32, "one bit for each field");

static bool is_word(const char *s, size_t n, const char *name) {
    return strlen(name) == n && memcmp(s, name, n) == 0;
}

static void read_field(Reader *r, PlanStep *s, unsigned *seen) {
    const char *start;
    size_t n = token(r, &start, "a field");
    if (r->bad) return;
    for (unsigned i = 0; i < PLAN_FIELDS + COUNT(lists); i++) {
        bool list = i >= PLAN_FIELDS;
        const char *name = list ? lists[i - PLAN_FIELDS].key : plan_field[i].key;
        unsigned kinds = list ? lists[i - PLAN_FIELDS].kinds : plan_field[i].kinds;
        if (!(kinds >> s->kind & 1) || !is_word(start, n, name)) continue;
        if (*seen >> i & 1) FAIL(r, start, "'%s' stands here twice", name);
        *seen |= 1u << i;
        if (list || plan_field[i].type != FIELD_FLAG) expect(r, '=');
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

static void check_step(Reader *r, const PlanStep *s, unsigned seen) {
    for (unsigned i = 0; i < PLAN_FIELDS; i++)
        if (plan_field[i].required && plan_field[i].kinds >> s->kind & 1 && !(seen >> i & 1))
            FAIL(r, r->line, "the field '%s' is missing", plan_field[i].key);
    Buf why = {0};
    if (!r->bad) plan_check_step(r->plan, s, &why);
    if (why.n) FAIL(r, r->line, "%s", why.p);
    buf_free(&why);
}

static void read_step(Reader *r) {
    PlanStep s = {0};
    unsigned seen = 0;
    number_in_order(r, r->plan->step.n);
    s.kind = (StepKind)choice(r, "a kind of step", name_of_step, STEP_KIND_COUNT);
    if (s.kind == STEP_KERNEL) s.kernel = reference(r, 'k', "a kernel", r->plan->kernel.n);
    if (s.kind == STEP_GEMM) {
        s.gemm.da = dtype(r);
        s.gemm.db = dtype(r);
        s.gemm.dc = dtype(r);
    }
    for (skip_spaces(r); !r->bad && !accept(r, ';'); skip_spaces(r)) read_field(r, &s, &seen);
    if (!r->bad) check_step(r, &s, seen);
    if (r->bad) return;
    s.what = word(r, "what the step does, or -", true);
    s.scope = word(r, "a scope, or -", true);
    s.loc = location(r);
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
    size_t n = token(r, &start, "an item");
    if (r->ended) FAIL(r, start, "text after the plan's end");
    for (unsigned i = 0; i < COUNT(items) && !r->bad; i++) {
        if (!is_word(start, n, items[i].name)) continue;
        if (items[i].often != ANY && r->found >> i & 1)
            FAIL(r, start, "a second '%s'", items[i].name);
        r->found |= 1u << i;
        if (!r->bad) items[i].read(r);
        skip_spaces(r);
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
    diag_error(r->session, here(r, r->line), "%s",
               plan ? "a plan of another version of m6c: compile the model again"
                    : "not a plan: the first line must be 'm6c-plan 1'");
    return false;
}

static void check_whole(Reader *r) {
    for (unsigned i = 0; i < COUNT(items); i++)
        if (items[i].often == ONE && !(r->found >> i & 1))
            diag_error(r->session, here(r, r->line), "the line '%s' is missing", items[i].name);
    check_names(r);
    check_tensors(r);
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
