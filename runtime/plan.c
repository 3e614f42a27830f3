/* plan.c: plans as data and as text.
 *
 * One item a line, in the order of Plan's members, so that whatever a line refers to stands above
 * it. What follows from other fields (a buffer's bytes) is not printed. Fields that are zero are
 * left out unless the table of fields says otherwise. Example:
 *
 *     group data 4/1
 *     budget device=8192 host=0 disk=0
 *     decision block[0].up/m host bytes=2048 us=0.5 hinted m6.m6:14:9
 *     buffer 12 param "block[0].up" f32[4,128] device+4096 m6.m6:14:9
 *     buffer 13 input "image" f32[8,768] device+8192 - split=g0,- ranges=2
 *     step 6 collective all_reduce group=g0 reduce=sum count=1024 dtype=f32 args=b3,b4 stream=6 ; …
 *     step 7 kernel k3 items=128 grain=4 args=b1,b2+64 ; "add gelu" block[0].ffn m6.m6:20:5 */
#include "runtime/plan_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {"temp", "param", "state", "input", "output", "grad"};
static const char *const epilogue_names[] = {"none", "gelu", "bias-gelu", "gelu-grad",
                                             "gelu-grad-sum"};
static const char *const step_names[] = {"kernel", "gemm", "copy", "fill", "collective"};
static const char *const phase_names[] = {"forward", "backward", "apply"};
_Static_assert(COUNT(kind_names) == BUF_KIND_COUNT, "names");
_Static_assert(COUNT(step_names) == STEP_KIND_COUNT, "names");
_Static_assert(COUNT(epilogue_names) == EPILOGUE_COUNT, "names");
_Static_assert(COUNT(phase_names) == PLAN_PHASE_COUNT, "names");

const char *buf_kind_name(BufKind k) { return kind_names[k]; }
const char *plan_phase_name(PlanPhase p) { return phase_names[p]; }
const char *step_kind_name(StepKind k) { return step_names[k]; }
const char *epilogue_name(Epilogue e) { return epilogue_names[e]; }

bool target_is_gpu(const char *target) {
    return target && strncmp(target, "sm_", 3) == 0 && target[3];
}

int epilogue_target(Epilogue e) { return e == EPILOGUE_GELU || e == EPILOGUE_BIAS_GELU ? 3 : 2; }

bool plan_has_kernel(const PlanStep *s) {
    return s->kind == STEP_KERNEL || (s->kind == STEP_GEMM && s->gemm.epilogue);
}

bool plan_writes(const PlanStep *s, uint32_t arg) {
    switch (s->kind) {
    case STEP_KERNEL: return s->writes == 0 || arg >= 64 || s->writes >> arg & 1;
    case STEP_GEMM: {
        bool grad = s->gemm.epilogue >= EPILOGUE_GELU_GRAD;
        return arg == 2 || arg == (grad ? 4 : 3);
    }
    case STEP_COLLECTIVE: return arg >= plan_comm_operands(&s->collective);
    default: return arg == 0;
    }
}

uint32_t plan_comm_operands(const PlanCollective *c) {
    return c->kind == COLLECTIVE_RECV ? 0 : c->n;
}

uint32_t plan_comm_results(const PlanCollective *c) {
    return c->kind == COLLECTIVE_SEND ? 0 : c->n;
}

bool plan_comm_reduces(const PlanCollective *c) {
    return c->kind == COLLECTIVE_ALL_REDUCE || c->kind == COLLECTIVE_REDUCE_SCATTER;
}

bool plan_comm_pairs(const PlanCollective *c) {
    return c->kind == COLLECTIVE_SEND || c->kind == COLLECTIVE_RECV;
}

bool plan_comm_converts(const PlanCollective *c) {
    bool blocks = c->kind == COLLECTIVE_REDUCE_SCATTER || c->kind == COLLECTIVE_ALL_GATHER;
    return c->wire != c->dtype || (c->room && blocks);
}

uint32_t epilogue_args(Epilogue e) {
    static const uint32_t args[] = {3, 4, 5, 4, 5};
    _Static_assert(COUNT(args) == EPILOGUE_COUNT, "a number for each");
    return args[e];
}

enum {
    KERNEL = 1 << STEP_KERNEL,
    GEMM = 1 << STEP_GEMM,
    COPY = 1 << STEP_COPY,
    FILL = 1 << STEP_FILL,
    COLLECTIVE = 1 << STEP_COLLECTIVE,
    ANY = KERNEL | GEMM | COPY | FILL | COLLECTIVE
};
#define AT(member) offsetof(PlanStep, member)
const PlanField plan_field[PLAN_FIELDS] = {
    {"items", KERNEL, FIELD_I64, AT(items), true, 0},
    {"grain", KERNEL, FIELD_I64, AT(grain), true, 1},
    {"m", GEMM, FIELD_I64, AT(gemm.m), true, 1},
    {"n", GEMM, FIELD_I64, AT(gemm.n), true, 1},
    {"k", GEMM, FIELD_I64, AT(gemm.k), true, 1},
    {"ta", GEMM, FIELD_FLAG, AT(gemm.ta), false, 0},
    {"tb", GEMM, FIELD_FLAG, AT(gemm.tb), false, 0},
    {"lda", GEMM, FIELD_I64, AT(gemm.lda), true, 1},
    {"ldb", GEMM, FIELD_I64, AT(gemm.ldb), true, 1},
    {"ldc", GEMM, FIELD_I64, AT(gemm.ldc), true, 1},
    {"alpha", GEMM, FIELD_F32, AT(gemm.alpha), true, 0},
    {"beta", GEMM, FIELD_F32, AT(gemm.beta), false, 0},
    {"room", COLLECTIVE, FIELD_FLAG, AT(collective.room), false, 0},
    {"bytes", COPY | FILL, FIELD_I64, AT(bytes), true, 0},
    {"stream", ANY, FIELD_STREAM, AT(stream), false, 0},
    {"flops", ANY, FIELD_F64, AT(flops), false, 0},
    {"traffic", ANY, FIELD_F64, AT(traffic), false, 0},
    {"us", ANY, FIELD_F64, AT(predicted_us), false, 0},
};

Plan *plan_new(Session *s) {
    Plan *p = arena_new_of(session_arena(s), Plan);
    p->session = s;
    p->model = p->target = p->machine = p->disk = p->mesh = "";
    p->ranks = 1;
    return p;
}

void plan_free(Plan *p) {
    if (!p) return;
    vec_free(&p->group);
    vec_free(&p->decision);
    vec_free(&p->buffer);
    vec_free(&p->tensor);
    vec_free(&p->input);
    vec_free(&p->output);
    vec_free(&p->grad);
    vec_free(&p->kernel);
    vec_free(&p->step);
    vec_free(&p->source);
}

uint32_t plan_find(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->buffer.n; i++)
        if (strcmp(p->buffer.p[i].name, name) == 0) return i;
    return UINT32_MAX;
}

int64_t plan_elements(const PlanBuffer *b) {
    int64_t n = 1;
    for (int i = 0; i < b->rank; i++) n *= b->dim[i];
    return n;
}

int64_t plan_group_size(const PlanGroup *g) {
    int64_t n = 1;
    for (int i = 0; i < g->nlevel; i++) n *= g->size[i];
    return n;
}

int64_t plan_group_index(const PlanGroup *g, int64_t rank) {
    return levels_index(g->nlevel, g->size, g->stride, rank);
}

int64_t plan_group_member(const PlanGroup *g, int64_t rank, int64_t index) {
    return levels_member(g->nlevel, g->size, g->stride, rank, index);
}

int64_t plan_whole_dim(const Plan *p, const PlanBuffer *b, int i) {
    if (!b->split[i]) return b->dim[i];
    const PlanGroup *g = &p->group.p[b->split[i] - 1];
    Shares s = plan_shares(p, g);
    int64_t n = plan_group_size(g), first = s.n ? shares_class(s, p->share).first * (n / s.n) : 0;
    return shares_whole(s, n, first, b->dim[i]);
}

int plan_streams(const Plan *p) {
    int n = 1;
    for (uint32_t i = 0; i < p->step.n; i++) n = MAX(n, p->step.p[i].stream + 1);
    return n;
}

bool plan_has_stream(const Plan *p, int stream) {
    for (uint32_t i = 0; i < p->step.n; i++)
        if (p->step.p[i].stream == stream) return true;
    return false;
}

int64_t plan_parameters(const Plan *p) {
    int64_t n = 0;
    for (uint32_t i = 0; i < p->tensor.n; i++) {
        const PlanBuffer *b = &p->buffer.p[p->tensor.p[i].buffer];
        if (b->kind == BUF_PARAM) n += plan_elements(b);
    }
    return n;
}

/* The dimensions of an operand, stored rows first: extents and strides in elements. */
static int gemm_dims(const PlanGemm *g, int operand, int64_t *extent, int64_t *stride) {
    const int64_t *batch[] = {g->sa, g->sb, g->sc};
    int64_t rows[] = {g->ta ? g->k : g->m, g->tb ? g->n : g->k, g->m};
    int64_t cols[] = {g->ta ? g->m : g->k, g->tb ? g->k : g->n, g->n};
    int64_t ld[] = {g->lda, g->ldb, g->ldc};
    extent[0] = cols[operand], stride[0] = 1;
    extent[1] = rows[operand], stride[1] = ld[operand];
    for (int i = 0; i < g->nbatch; i++) {
        extent[2 + i] = g->count[i];
        stride[2 + i] = batch[operand][i];
    }
    return 2 + g->nbatch;
}

int64_t plan_gemm_span(const PlanGemm *g, int operand) {
    int64_t extent[2 + PLAN_MAX_BATCH], stride[2 + PLAN_MAX_BATCH], last = 0, step;
    int n = gemm_dims(g, operand, extent, stride);
    for (int i = 0; i < n; i++)
        if (__builtin_mul_overflow(extent[i] - 1, stride[i], &step) ||
            __builtin_add_overflow(last, step, &last))
            return -1;
    return last == INT64_MAX ? -1 : last + 1;
}

/* Enough, and true of every layout a transposed tensor can have: sorted by stride, each dimension
 * steps over all of the one before. */
bool plan_gemm_disjoint(const PlanGemm *g) {
    int64_t extent[2 + PLAN_MAX_BATCH], stride[2 + PLAN_MAX_BATCH];
    int n = gemm_dims(g, 2, extent, stride);
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && stride[j] < stride[j - 1]; j--) {
            int64_t s = stride[j], e = extent[j];
            stride[j] = stride[j - 1], extent[j] = extent[j - 1];
            stride[j - 1] = s, extent[j - 1] = e;
        }
    int64_t covered = 1;
    for (int i = 0; i < n; i++) {
        if (extent[i] == 1) continue;
        if (stride[i] < covered || __builtin_mul_overflow(stride[i], extent[i], &covered))
            return false;
    }
    return true;
}

double plan_gemm_flops(const PlanGemm *g) {
    double f = 2.0 * (double)g->m * (double)g->n * (double)g->k;
    for (int i = 0; i < g->nbatch; i++) f *= (double)g->count[i];
    return f;
}

/* ---- printing ---- */

static void put_quoted(Buf *b, const char *s) {
    buf_puts(b, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            buf_printf(b, "\\%c", c);
        else if (c < 32 || c == 127)
            buf_printf(b, "\\x%02x", c);
        else
            buf_put(b, s, 1);
    }
    buf_puts(b, "\"");
}

static bool is_bare(const char *s) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "_.[]%@/-";
    return s[0] && s[0] != '-' && !s[strspn(s, allowed)];
}

/* A word, quoted when it must be; "-" for none. */
static void put_word(Buf *b, const char *s) {
    if (!s)
        buf_puts(b, "-");
    else if (is_bare(s))
        buf_puts(b, s);
    else
        put_quoted(b, s);
}

static void put_loc(const Plan *p, Buf *b, Loc loc) {
    buf_puts(b, " ");
    if (!loc.line) {
        buf_puts(b, "-");
        return;
    }
    put_word(b, session_file_name(p->session, loc.file));
    buf_printf(b, ":%u:%u", loc.line, loc.col);
}

static void put_number(Buf *b, const char *before, double x) {
    buf_puts(b, before);
    buf_double(b, x);
}

static void print_memories(Buf *b, const char *title, const int64_t *bytes) {
    buf_puts(b, title);
    for (int m = 0; m < MEM_COUNT; m++) buf_printf(b, " %s=%" PRId64, mem_name((Mem)m), bytes[m]);
    buf_puts(b, "\n");
}

/* What the planner of memory promises; nothing where it had neither prices nor budgets. */
static void print_promises(const Plan *p, Buf *b) {
    if (*p->machine) {
        buf_puts(b, "machine ");
        put_word(b, p->machine);
        buf_puts(b, "\n");
    }
    if (p->budget[MEM_DEVICE] || p->budget[MEM_HOST] || p->budget[MEM_DISK])
        print_memories(b, "budget", p->budget);
    if (*p->disk) {
        buf_puts(b, "disk ");
        put_word(b, p->disk);
        buf_puts(b, "\n");
    }
    if (p->predicted_us || p->bound_us || p->unconstrained_us || p->unconstrained) {
        put_number(b, "predicted us=", p->predicted_us);
        put_number(b, " bound=", p->bound_us);
        put_number(b, " unconstrained=", p->unconstrained_us);
        buf_printf(b, " bytes=%" PRId64 "\n", p->unconstrained);
    }
}

static void print_decision(const Plan *p, Buf *b, const PlanDecision *d) {
    buf_puts(b, "decision ");
    put_word(b, d->tensor);
    buf_puts(b, " ");
    put_word(b, d->how);
    buf_printf(b, " bytes=%" PRId64, d->bytes);
    put_number(b, " us=", d->us);
    if (d->hinted) buf_puts(b, " hinted");
    put_loc(p, b, d->loc);
    buf_puts(b, "\n");
}

/* Nothing where there is one rank. */
static void print_ranks(const Plan *p, Buf *b) {
    if (p->ranks > 1) buf_printf(b, "ranks %" PRId64 "\n", p->ranks);
    if (*p->mesh) buf_printf(b, "mesh %s\n", p->mesh);
    if (p->stages) buf_printf(b, "stages %" PRId64 "\nstage %" PRId64 "\n", p->stages, p->stage);
    if (p->shares.n) {
        buf_puts(b, "shares ");
        shares_print(p->shares, b);
        buf_printf(b, "\nshare %" PRId64 "\n", p->share);
        if (p->balanced) {
            buf_puts(b, "balanced ");
            put_word(b, p->balanced);
            buf_puts(b, "\n");
        }
    }
    for (uint32_t i = 0; i < p->group.n; i++) {
        const PlanGroup *g = &p->group.p[i];
        buf_puts(b, "group ");
        put_word(b, g->name);
        for (int k = 0; k < g->nlevel; k++)
            buf_printf(b, "%s%" PRId64 "/%" PRId64, k ? "," : " ", g->size[k], g->stride[k]);
        buf_puts(b, "\n");
    }
}

static void print_header(const Plan *p, Buf *b) {
    buf_puts(b, "m6c-plan 1\nmodel ");
    put_word(b, p->model);
    buf_puts(b, "\ntarget ");
    put_word(b, p->target);
    buf_puts(b, "\ncommand ");
    put_quoted(b, p->command ? p->command : "");
    buf_printf(b, "\ntrain %s\n", p->train ? "yes" : "no");
    buf_printf(b, "hashes model=%016" PRIx64 " compiler=%016" PRIx64 "\n", p->model_hash,
               p->compiler_hash);
    print_memories(b, "arena", p->arena);
    print_memories(b, "lower-bound", p->lower_bound);
    print_ranks(p, b);
    buf_printf(b, "work tokens=%" PRId64, p->tokens);
    put_number(b, " flops=", p->flops);
    buf_puts(b, "\n");
    print_promises(p, b);
    for (uint32_t i = 0; i < p->decision.n; i++) print_decision(p, b, &p->decision.p[i]);
    for (uint32_t i = 0; i < p->source.n; i++) {
        buf_puts(b, "source ");
        put_word(b, p->source.p[i].path);
        buf_printf(b, " %016" PRIx64 "\n", p->source.p[i].hash);
    }
}

static void print_split(Buf *b, const PlanBuffer *f) {
    bool split = false;
    for (int i = 0; i < f->rank; i++) split = split || f->split[i];
    if (!split) return;
    for (int i = 0; i < f->rank; i++) {
        buf_puts(b, i ? "," : " split=");
        if (f->split[i])
            buf_printf(b, "g%u", f->split[i] - 1);
        else
            buf_puts(b, "-");
    }
    if (f->ranges > 1) buf_printf(b, " ranges=%" PRId64, f->ranges);
}

static void print_buffer(const Plan *p, Buf *b, uint32_t i) {
    const PlanBuffer *f = &p->buffer.p[i];
    buf_printf(b, "buffer %u %s ", i, kind_names[f->kind]);
    put_quoted(b, f->name);
    buf_printf(b, " %s[", dtype_name(f->dtype));
    for (int d = 0; d < f->rank; d++) buf_printf(b, "%s%" PRId64, d ? "," : "", f->dim[d]);
    buf_printf(b, "] %s+%" PRId64, mem_name(f->mem), f->offset);
    put_loc(p, b, f->loc);
    print_split(b, f);
    buf_puts(b, "\n");
}

static void print_tensor(Buf *b, const PlanTensor *t) {
    buf_printf(b, "tensor b%u %s ", t->buffer, init_kind_name(t->init.kind));
    put_number(b, "", t->init.a);
    put_number(b, " ", t->init.b);
    buf_printf(b, " %016" PRIx64 "\n", t->init.site);
}

static void print_field(Buf *b, const PlanField *f, const PlanStep *s) {
    const char *at = (const char *)s + f->offset;
    double x = 0;
    int64_t v = 0;
    if (f->type == FIELD_I64) v = *(const int64_t *)at;
    if (f->type == FIELD_STREAM) v = *(const int *)at;
    if (f->type == FIELD_FLAG) v = *(const bool *)at;
    if (f->type == FIELD_F32) x = (double)*(const float *)at;
    if (f->type == FIELD_F64) x = *(const double *)at;
    if (!f->required && v == 0 && x == 0) return;
    buf_printf(b, " %s", f->key);
    if (f->type == FIELD_I64 || f->type == FIELD_STREAM) buf_printf(b, "=%" PRId64, v);
    if (f->type == FIELD_F32 || f->type == FIELD_F64) put_number(b, "=", x);
}

static void print_gemm(Buf *b, const PlanStep *s) {
    const PlanGemm *g = &s->gemm;
    if (g->nbatch) buf_puts(b, " batch=");
    for (int i = 0; i < g->nbatch; i++)
        buf_printf(b, "%s%" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64, i ? "," : "", g->count[i],
                   g->sa[i], g->sb[i], g->sc[i]);
    if (g->epilogue)
        buf_printf(b, " epilogue=%s:k%u:%" PRId64, epilogue_names[g->epilogue], s->kernel,
                   s->items);
    if (g->algo) {
        buf_puts(b, " algo=");
        put_word(b, g->algo);
    }
}

static void print_collective(Buf *b, const PlanStep *s) {
    const PlanCollective *c = &s->collective;
    buf_printf(b, " %s group=g%u", collective_name(c->kind), c->group);
    if (plan_comm_reduces(c)) buf_printf(b, " reduce=%s", reduce_name(c->reduce));
    if (plan_comm_pairs(c)) buf_printf(b, " peer=%" PRId64, c->peer);
    for (uint32_t i = 0; i < c->n; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : " count=", c->count[i]);
    buf_printf(b, " dtype=%s", dtype_name(c->dtype));
    if (c->wire != c->dtype) buf_printf(b, " wire=%s", dtype_name(c->wire));
    if (c->scale != 1) put_number(b, " scale=", c->scale);
}

static void print_lists(Buf *b, const PlanStep *s) {
    for (uint32_t i = 0; i < s->nargs; i++) {
        buf_printf(b, "%sb%u", i ? "," : " args=", s->arg[i].buffer);
        if (s->arg[i].offset) buf_printf(b, "+%" PRId64, s->arg[i].offset);
    }
    if (s->writes) buf_printf(b, " writes=%" PRIx64, s->writes);
    for (uint32_t i = 0; i < s->nwait; i++) buf_printf(b, "%s%u", i ? "," : " wait=", s->wait[i]);
}

static void print_step(const Plan *p, Buf *b, uint32_t i) {
    const PlanStep *s = &p->step.p[i];
    buf_printf(b, "step %u %s", i, step_names[s->kind]);
    if (s->kind == STEP_KERNEL) buf_printf(b, " k%u", s->kernel);
    if (s->kind == STEP_GEMM)
        buf_printf(b, " %s %s %s", dtype_name(s->gemm.da), dtype_name(s->gemm.db),
                   dtype_name(s->gemm.dc));
    if (s->kind == STEP_COLLECTIVE) print_collective(b, s);
    for (size_t f = 0; f < COUNT(plan_field); f++)
        if (plan_field[f].kinds >> s->kind & 1) print_field(b, &plan_field[f], s);
    if (s->phase) buf_printf(b, " phase=%s", phase_names[s->phase]);
    if (s->kind == STEP_GEMM) print_gemm(b, s);
    print_lists(b, s);
    buf_puts(b, " ; ");
    if (s->what)
        put_quoted(b, s->what);
    else
        buf_puts(b, "-");
    buf_puts(b, " ");
    put_word(b, s->scope);
    put_loc(p, b, s->loc);
    buf_puts(b, "\n");
}

void plan_print(const Plan *p, Buf *b) {
    print_header(p, b);
    for (uint32_t i = 0; i < p->buffer.n; i++) print_buffer(p, b, i);
    for (uint32_t i = 0; i < p->tensor.n; i++) print_tensor(b, &p->tensor.p[i]);
    for (uint32_t i = 0; i < p->input.n; i++) {
        buf_printf(b, "input b%u", p->input.p[i].buffer);
        if (p->input.p[i].bound) buf_printf(b, " bound=%" PRId64, p->input.p[i].bound);
        buf_puts(b, "\n");
    }
    for (uint32_t i = 0; i < p->output.n; i++) buf_printf(b, "output b%u\n", p->output.p[i].buffer);
    for (uint32_t i = 0; i < p->grad.n; i++) buf_printf(b, "grad b%u\n", p->grad.p[i].buffer);
    for (uint32_t i = 0; i < p->kernel.n; i++) {
        const PlanKernel *k = &p->kernel.p[i];
        buf_printf(b, "kernel %u %s ", i, k->name);
        put_word(b, k->source);
        buf_printf(b, " nargs=%d", k->nargs);
        if (k->threads) buf_printf(b, " threads=%d shared=%" PRId64, k->threads, k->shared);
        buf_printf(b, " hash=%016" PRIx64 "\n", k->hash);
    }
    for (uint32_t i = 0; i < p->step.n; i++) print_step(p, b, i);
    buf_puts(b, "end\n");
}

void plan_convert_name(char name[PLAN_CONVERT_NAME], Dtype from, Dtype to, bool pack) {
    bool both = from == to; /* one kernel, which is stored once */
    snprintf(name, PLAN_CONVERT_NAME, "%s_%s_%s", pack || both ? "pack" : "unpack",
             dtype_name(from), dtype_name(to));
}
