/* plan_make.c: a lowered, scheduled, allocated graph becomes a Plan: buffers for values that own
 * bytes, one step a unit, kernels stored once per text, copies for assignments that could not be
 * made in place, at the end of the step. */
#include "codegen/plan_make.h"

#include <stdlib.h>
#include <string.h>

#include "codegen/plan_wait.h"

_Static_assert((int)PLAN_FORWARD == (int)PHASE_FORWARD && (int)PLAN_APPLY == (int)PHASE_APPLY,
               "phases of plans are those of graphs");

/* ---- buffers ---- */

static uint32_t add_buffer(Make *m, Value v, const char *name, BufKind kind, const Type *shape) {
    const Node *n = node_of(m->g, v);
    if (n->offset < 0) BUG("%%%u owns bytes but was not allocated", v);
    PlanBuffer b = {.name = intern(m->p->session, name),
                    .kind = kind,
                    .dtype = n->type->dtype,
                    .rank = shape->rank,
                    .mem = (Mem)n->mem,
                    .offset = n->offset,
                    .bytes = type_bytes(n->type),
                    .loc = n->loc};
    memcpy(b.dim, shape->dim, (size_t)shape->rank * sizeof b.dim[0]);
    int64_t end = (b.offset + b.bytes + 63) / 64 * 64;
    m->p->arena[b.mem] = MAX(m->p->arena[b.mem], end);
    vec_push(&m->p->buffer, b);
    return m->buffer[v] = m->p->buffer.n - 1;
}

static void add_leaf(Make *m, Value v, BufKind kind) {
    const Node *n = node_of(m->g, v);
    const char *name = attr_str(n, "name");
    uint32_t b = add_buffer(m, v, name, kind, n->type);
    set_split(m, &m->p->buffer.p[b], n->spec);
    if (kind == BUF_INPUT) {
        if (strncmp(name, MESH_INDEX, strlen(MESH_INDEX)) == 0)
            add_group(m, name + strlen(MESH_INDEX));
        vec_push(&m->p->input, ((PlanPort){b, attr_int(n, "bound")}));
        return;
    }
    PlanTensor t = {.buffer = b,
                    .init = {.a = attr_float(n, "a"),
                             .b = attr_float(n, "b"),
                             .site = hash_bytes(name, strlen(name), 0)}};
    if (!init_kind_parse(attr_str(n, "init"), &t.init.kind))
        BUG("%s starts as '%s'", name, attr_str(n, "init"));
    vec_push(&m->p->tensor, t);
}

static void add_leaves(Make *m) {
    static const struct {
        Op op;
        BufKind kind;
    } order[] = {{OP_param, BUF_PARAM}, {OP_state, BUF_STATE}, {OP_input, BUF_INPUT}};
    for (size_t i = 0; i < COUNT(order); i++)
        for (Value v = 0; v < m->g->node.n; v++)
            if (node_of(m->g, v)->op == order[i].op) add_leaf(m, v, order[i].kind);
}

static void add_outputs(Make *m) {
    for (Value v = 0; v < m->g->node.n; v++) {
        const Node *n = node_of(m->g, v);
        if (n->op != OP_output) continue;
        const char *name = attr_str(n, "name");
        bool grad = strncmp(name, "grad/", 5) == 0;
        Value base = view_base(m->g, operand(m->g, v, 0));
        uint32_t b = add_buffer(m, base, name, grad ? BUF_GRAD : BUF_OUTPUT, n->type);
        set_split(m, &m->p->buffer.p[b], n->spec);
        if (grad)
            vec_push(&m->p->grad, ((PlanPort){.buffer = b}));
        else
            vec_push(&m->p->output, ((PlanPort){.buffer = b}));
    }
}

/* A value assigned in place has its leaf's buffer. */
static void add_in_place(Make *m) {
    for (Value v = 0; v < m->g->node.n; v++) {
        if (node_of(m->g, v)->op != OP_assign) continue;
        Value leaf = operand(m->g, v, 0), x = view_base(m->g, operand(m->g, v, 1));
        const Node *from = node_of(m->g, x), *to = node_of(m->g, leaf);
        if (from->offset == to->offset && from->mem == to->mem && m->buffer[x] == UINT32_MAX)
            m->buffer[x] = m->buffer[leaf];
    }
}

static void add_buffers(Make *m) {
    add_leaves(m);
    add_outputs(m);
    add_in_place(m);
    for (Value v = 0; v < m->g->node.n; v++) {
        char name[16];
        if (!m->us.owns[v] || m->buffer[v] != UINT32_MAX) continue;
        snprintf(name, sizeof name, "%%%u", v);
        add_buffer(m, v, name, BUF_TEMP, type_of(m->g, v));
    }
}

/* ---- steps ---- */

PlanArg place(const Make *m, Value v, int64_t elements) {
    ASSERT(m->buffer[v] != UINT32_MAX);
    return (PlanArg){m->buffer[v], elements * dtype_size(type_of(m->g, v)->dtype)};
}

PlanArg *add_args(Make *m, PlanStep *s, uint32_t n) {
    s->nargs = n;
    return s->arg = arena_array(session_arena(m->p->session), PlanArg, n + 1);
}

/* What the step does and costs; scope and place of the last node that has them. */
static void describe(Make *m, uint32_t u, PlanStep *s) {
    const Unit *unit = &m->us.unit[u];
    Work w = unit_work(m->g, &m->us, u);
    s->what = w.what;
    s->flops = w.flops;
    s->traffic = w.bytes;
    for (uint32_t i = 0; i < unit->nnode; i++) {
        const Node *n = node_of(m->g, unit->node[i]);
        if (is_result(n)) continue;
        if (n->scope && *n->scope) s->scope = intern(m->p->session, n->scope);
        if (n->loc.line) s->loc = n->loc;
    }
}

static void write_comment(Make *m, const Unit *u, const Kernel *k, Buf *out) {
    if (k) kernel_print(k, out);
    for (uint32_t i = 0; i < u->nnode; i++) {
        const Node *n = node_of(m->g, u->node[i]);
        const char *loc = loc_text(m->g->session, n->loc);
        if (n->op == OP_proj) continue;
        buf_printf(out, "%%%u = %s", u->node[i], op_info(n->op)->name);
        for (uint32_t j = 0; j < n->nin; j++)
            buf_printf(out, " %%%u", operand(m->g, u->node[i], j));
        buf_puts(out, " : ");
        type_print(n->type, out);
        buf_printf(out, " ; %s %s\n", n->scope ? n->scope : "", loc);
    }
}

static const char *plan_name(const CodegenOptions *o) { return o->name ? o->name : "plan"; }

uint32_t add_kernel(Make *m, const PlanStep *s, const Code *c, const char *comment) {
    uint64_t hash = hash_bytes(c->body.p, c->body.n, 0);
    if (c->prefix.n) hash = hash_bytes(c->prefix.p, c->prefix.n, hash);
    for (uint32_t i = 0; i < m->text.n; i++)
        if (m->text.p[i].hash == hash) return i;
    Session *ss = m->p->session;
    Arena *a = session_arena(ss);
    Buf name = {0};
    buf_puts(&name, "k_");
    for (const char *p = s->what; *p && name.n < 32; p++)
        buf_put(&name, *p == ' ' || *p == '-' ? "_" : p, 1);
    buf_printf(&name, "_%08x", (unsigned)(hash >> 32));
    PlanKernel k = {.name = intern(ss, name.p),
                    .nargs = (int)s->nargs,
                    .threads = c->threads,
                    .shared = c->shared,
                    .hash = hash};
    vec_push(&m->p->kernel, k);
    vec_push(&m->text, ((KernelText){.hash = hash,
                                     .body = arena_strdup(a, c->body.p, c->body.n),
                                     .comment = comment,
                                     .library = c->library,
                                     .prefix = arena_strdup(a, c->prefix.p, c->prefix.n),
                                     .inner = arena_strdup(a, c->inner.p, c->inner.n),
                                     .inner_hash = hash_bytes(c->inner.p, c->inner.n, 0),
                                     .elements = c->elements}));
    buf_free(&name);
    return m->text.n - 1;
}

static const Target *target_of(const Make *m, const PlanStep *s) {
    return s->stream == STREAM_HOST ? m->host : m->target;
}

static void finish_kernel(Make *m, const Unit *u, const Kernel *k, Code *c, PlanStep *s) {
    s->kind = STEP_KERNEL;
    s->items = c->items;
    s->grain = MAX(c->grain, 1);
    Buf comment = {0};
    write_comment(m, u, k, &comment);
    s->kernel = add_kernel(m, s, c, arena_strdup(m->arena, comment.p, comment.n));
    buf_free(&comment);
    buf_free(&c->body);
    buf_free(&c->prefix);
    buf_free(&c->inner);
}

static void fused_step(Make *m, uint32_t u, PlanStep *s) {
    Kernel k;
    Code c = {0};
    kernel_build(m->g, &m->us, u, &k);
    target_of(m, s)->fused(&k, &c);
    PlanArg *arg = add_args(m, s, k.arg.n);
    for (uint32_t i = 0; i < k.arg.n; i++) {
        arg[i] = place(m, k.arg.p[i].value, 0);
        if (k.arg.p[i].written && i < 64) s->writes |= (uint64_t)1 << i;
    }
    finish_kernel(m, &m->us.unit[u], &k, &c, s);
    kernel_free(&k);
}

static void opaque_step(Make *m, uint32_t u, PlanStep *s) {
    const Unit *unit = &m->us.unit[u];
    Value v = unit->node[0], result[8];
    const Node *n = node_of(m->g, v);
    bool tuple = n->type->dtype == DT_TUPLE;
    Opaque o = {.g = m->g, .n = n, .nin = n->nin, .nout = tuple ? n->type->nelem : 1};
    ASSERT(o.nout <= COUNT(o.out));
    for (uint32_t i = 0; i < o.nin; i++) o.in[i] = type_of(m->g, operand(m->g, v, i));
    for (uint32_t i = 0; i < o.nout; i++) o.out[i] = tuple ? n->type->elem[i] : n->type;
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        Value w = unit->write[i];
        uint32_t r = tuple ? (uint32_t)attr_int(node_of(m->g, w), "index") : 0;
        o.want[r] = true;
        result[r] = w;
    }
    PlanArg *arg = add_args(m, s, o.nin + unit->nwrite);
    for (uint32_t i = 0; i < o.nin; i++) {
        Layout l;
        Value root = view_root(m->g, operand(m->g, v, i), &l);
        arg[i] = place(m, root, l.offset);
        for (o.align[i] = 16; arg[i].offset % o.align[i] != 0;) o.align[i] /= 2;
    }
    uint32_t next = o.nin;
    for (uint32_t i = 0; i < o.nout; i++) {
        if (!o.want[i]) continue;
        s->writes |= next < 64 ? (uint64_t)1 << next : 0;
        arg[next++] = place(m, result[i], 0);
    }
    Code c = {0};
    target_of(m, s)->opaque(&o, &c);
    finish_kernel(m, unit, NULL, &c, s);
    if (op_info(n->op)->flops) m->p->flops += s->flops;
}

/* The value that holds result `index` of a unit's tuple, or NO_VALUE when nobody reads it. */
static Value result_of(const Make *m, const Unit *unit, int64_t index) {
    for (uint32_t i = 0; i < unit->nwrite; i++)
        if (node_of(m->g, unit->write[i])->op == OP_proj &&
            attr_int(node_of(m->g, unit->write[i]), "index") == index)
            return unit->write[i];
    return NO_VALUE;
}

static Epilogue epilogue_of(const Node *n) {
    switch (n->op) {
    case OP_einsum: return EPILOGUE_NONE;
    case OP_einsum_gelu_grad: return EPILOGUE_GELU_GRAD;
    case OP_einsum_gelu_grad_sum: return EPILOGUE_GELU_GRAD_SUM;
    default: return n->nin > 2 ? EPILOGUE_BIAS_GELU : EPILOGUE_GELU;
    }
}

PlanArg place_operand(const Make *m, Value v, uint32_t i) {
    Layout l;
    Value root = view_root(m->g, operand(m->g, v, i), &l);
    return place(m, root, l.offset);
}

/* C, X and bias; the kernel for devices that cannot do it in the product. */
static void add_epilogue(Make *m, uint32_t u, Value v, PlanStep *s) {
    const Unit *unit = &m->us.unit[u];
    bool tuple = type_of(m->g, v)->dtype == DT_TUPLE;
    Value y = tuple ? result_of(m, unit, 0) : v, other = tuple ? result_of(m, unit, 1) : NO_VALUE;
    ASSERT(y != NO_VALUE);
    s->arg[2] = place(m, y, 0);
    switch (s->gemm.epilogue) {
    case EPILOGUE_GELU_GRAD_SUM: s->arg[4] = place(m, other, 0); /* fall through */
    case EPILOGUE_GELU_GRAD: s->arg[3] = place_operand(m, v, 2); break;
    case EPILOGUE_BIAS_GELU: s->arg[4] = place_operand(m, v, 2); /* fall through */
    default: s->arg[3] = other != NO_VALUE ? place(m, other, 0) : s->arg[2];
    }
    Code c = {0};
    const PlanStep kernel = {.what = epilogue_name(s->gemm.epilogue), .nargs = s->nargs - 2};
    m->target->epilogue(&s->gemm, &c);
    s->items = c.items;
    s->kernel = add_kernel(m, &kernel, &c, "what a product does with its sums\n");
    buf_free(&c.body);
}

static void gemm_step(Make *m, uint32_t u, PlanStep *s) {
    Value v = m->us.unit[u].node[0];
    const Node *n = node_of(m->g, v);
    Contract c;
    if (contract_fit(m->g, v, &c) != CONTRACT_OK) BUG("%%%u is no matrix product", v);
    PlanGemm *p = &s->gemm;
    s->kind = STEP_GEMM;
    *p = (PlanGemm){.m = c.m,
                    .n = c.n,
                    .k = c.k,
                    .ta = c.ta,
                    .tb = c.tb,
                    .lda = c.lda,
                    .ldb = c.ldb,
                    .ldc = c.ldc,
                    .nbatch = c.nbatch,
                    .alpha = 1,
                    .da = type_of(m->g, c.a)->dtype,
                    .db = type_of(m->g, c.b)->dtype,
                    .dc = (n->type->elem ? n->type->elem[0] : n->type)->dtype};
    for (int i = 0; i < c.nbatch; i++) {
        p->count[i] = c.count[i];
        p->sa[i] = c.sa[i], p->sb[i] = c.sb[i], p->sc[i] = c.sc[i];
    }
    p->epilogue = epilogue_of(n);
    PlanArg *arg = add_args(m, s, epilogue_args(p->epilogue));
    arg[0] = place(m, c.a, c.a_offset);
    arg[1] = place(m, c.b, c.b_offset);
    if (p->epilogue)
        add_epilogue(m, u, v, s);
    else
        arg[2] = place(m, v, 0);
    m->p->flops += s->flops;
}

static void copy_step(Make *m, uint32_t u, PlanStep *s) {
    Value v = m->us.unit[u].node[0];
    s->kind = STEP_COPY;
    s->bytes = type_bytes(type_of(m->g, v));
    PlanArg *arg = add_args(m, s, 2);
    arg[0] = place(m, v, 0);
    arg[1] = place_operand(m, v, 0);
}

/* In the nodes' order, but never before what it reads: a scheduled graph's order is legal. */
static void unit_step(Make *m, uint32_t u) {
    const Unit *unit = &m->us.unit[u];
    if (m->done[u]) return;
    m->done[u] = true;
    for (uint32_t i = 0; i < unit->nread; i++)
        if (m->us.of[unit->read[i]] != NO_UNIT) unit_step(m, m->us.of[unit->read[i]]);
    const Node *n = node_of(m->g, unit->node[0]);
    PlanStep s = {.phase = (PlanPhase)n->phase, .stream = n->stream};
    describe(m, u, &s);
    if (n->op == OP_copy_start)
        copy_step(m, u, &s);
    else if (is_collective(n))
        comm_step(m, u, &s);
    else if (is_product(m->g, unit->node[0]))
        gemm_step(m, u, &s);
    else if (m->us.space[u].n)
        fused_step(m, u, &s);
    else
        opaque_step(m, u, &s);
    vec_push(&m->p->step, s);
}

static void copy_steps(Make *m) {
    for (Value v = 0; v < m->g->node.n; v++) {
        const Node *n = node_of(m->g, v);
        if (n->op != OP_assign) continue;
        Value leaf = operand(m->g, v, 0), x = view_base(m->g, operand(m->g, v, 1));
        if (m->buffer[leaf] == m->buffer[x]) continue;
        Mem from = (Mem)node_of(m->g, x)->mem, to = (Mem)node_of(m->g, leaf)->mem;
        PlanStep s = {.kind = STEP_COPY,
                      .phase = (PlanPhase)n->phase,
                      .stream = stream_of_copy(from, to),
                      .bytes = type_bytes(type_of(m->g, leaf)),
                      .loc = n->loc};
        if (n->scope && *n->scope) s.scope = intern(m->p->session, n->scope);
        s.what = intern(m->p->session, "assign");
        s.traffic = 2 * (double)s.bytes;
        PlanArg *arg = add_args(m, &s, 2);
        arg[0] = place(m, leaf, 0);
        arg[1] = place(m, x, 0);
        vec_push(&m->p->step, s);
    }
}

static int64_t live_bytes(const Plan *p, Mem mem) {
    PlanLive l = plan_live(p, mem);
    plan_live_free(&l);
    return l.bytes;
}

/* ---- sources ---- */

/* In a GPU's plan, kernels of the host are those without threads. */
static const Target *target_of_kernel(const Make *m, const PlanKernel *k) {
    return k->threads ? m->target : m->host;
}

static void print_kernel(const Make *m, const PlanKernel *k, const KernelText *t, Buf *out) {
    buf_printf(out, "\n%s/*\n", t->prefix);
    for (const char *p = t->comment; *p;) {
        size_t n = strcspn(p, "\n");
        buf_printf(out, " * %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    buf_puts(out, " */\n");
    target_of_kernel(m, k)->head(k->name, k->nargs, k->threads, out);
    buf_puts(out, t->body);
}

/* The file of kernel `first`: it and all later ones of that file. */
static CodegenSource make_source(const Make *m, uint32_t first) {
    const Plan *p = m->p;
    Buf text = {0};
    const char *name = p->kernel.p[first].source, *library = m->text.p[first].library;
    uint64_t hash = codegen_hash();
    buf_printf(&text, "/* Generated by m6c %s: kernels of model %s. */\n", M6C_VERSION, p->model);
    target_of_kernel(m, &p->kernel.p[first])->prelude(&text);
    if (library) buf_puts(&text, library);
    for (uint32_t i = first; i < p->kernel.n; i++) {
        if (p->kernel.p[i].source != name) continue;
        hash = hash_bytes(p->kernel.p[i].name, strlen(p->kernel.p[i].name), hash);
        hash = hash_mix(hash, p->kernel.p[i].hash);
        print_kernel(m, &p->kernel.p[i], &m->text.p[i], &text);
    }
    if (library) hash = hash_bytes(library, strlen(library), hash);
    const char *kept = arena_strdup(session_arena(p->session), text.p, text.n);
    buf_free(&text);
    return (CodegenSource){name, kept, hash};
}

/* Kernels that need a library share one file, so that it is compiled once. */
static void name_sources(Make *m) {
    for (uint32_t i = 0; i < m->p->kernel.n; i++) {
        PlanKernel *k = &m->p->kernel.p[i];
        const Target *t = target_of_kernel(m, k);
        const char *host = t != m->target ? "_host" : "";
        char *file = m->text.p[i].library ? arena_printf(m->arena, "%s%s_attention%s",
                                                         plan_name(m->o), host, t->suffix)
                                          : arena_printf(m->arena, "%s%s_%u%s", plan_name(m->o),
                                                         host, i / t->per_file, t->suffix);
        k->source = intern(m->p->session, file);
    }
}

static bool has_source(const Make *m, const char *name) {
    for (uint32_t i = 0; i < m->source.n; i++)
        if (m->source.p[i].name == name) return true;
    return false;
}

static void make_sources(Make *m) {
    name_sources(m);
    for (uint32_t i = 0; i < m->p->kernel.n; i++)
        if (!has_source(m, m->p->kernel.p[i].source)) vec_push(&m->source, make_source(m, i));
}

uint64_t codegen_hash(void) {
    Buf b = {0};
    buf_printf(&b, "%s\n", M6C_VERSION);
    prelude_c(&b);
    prelude_cuda(&b);
    uint64_t h = cc_flags_hash(hash_bytes(b.p, b.n, 0));
    buf_free(&b);
    return h;
}

static Plan *start_plan(const Graph *g, const CodegenOptions *o) {
    Plan *p = plan_new(g->session);
    p->model = intern(g->session, g->name);
    p->target = intern(g->session, o->target ? o->target : "cpu");
    p->command = o->command ? intern(g->session, o->command) : NULL;
    p->train = g->set.train;
    p->model_hash = o->model_hash ? o->model_hash : graph_hash(g);
    p->compiler_hash = codegen_hash();
    p->tokens = graph_tokens(g);
    return p;
}

/* Sources are not synced to disk: without the plan, which is, nobody looks for them. */
static Status write_source(const char *dir, const CodegenSource *source) {
    Buf path = {0};
    buf_printf(&path, "%s/%s", dir, source->name);
    FILE *f = fopen(path.p, "w");
    size_t n = strlen(source->text);
    bool ok = f && fwrite(source->text, 1, n, f) == n;
    if (f && fclose(f) != 0) ok = false;
    Status s = ok ? NULL : status_errno("%s", path.p);
    buf_free(&path);
    return s;
}

/* The sources of a target, by what their names end with. */
static Status compile_for(const Make *m, const Target *t) {
    VEC(CodegenSource) some = {0};
    for (uint32_t i = 0; i < m->source.n; i++)
        if (strcmp(strrchr(m->source.p[i].name, '.'), t->suffix) == 0)
            vec_push(&some, m->source.p[i]);
    Status s = t->compile(m->o, some.p, some.n);
    vec_free(&some);
    return s;
}

static Status write_sources(const Make *m) {
    if (!m->o->dir) return NULL;
    TRY(make_dirs(m->o->dir));
    for (uint32_t i = 0; i < m->source.n; i++) TRY(write_source(m->o->dir, &m->source.p[i]));
    if (m->o->plan_only) return NULL;
    TRY(compile_for(m, m->target));
    return m->host == m->target ? NULL : compile_for(m, m->host);
}

Plan *codegen_plan(const Graph *g, const CodegenOptions *o) {
    Arena *a = arena_new();
    Make m = {.g = g,
              .o = o,
              .target = target_find(o->target),
              .host = target_find("cpu"),
              .p = start_plan(g, o),
              .arena = a,
              .us = units_build(g, a)};
    m.buffer = arena_array(a, uint32_t, g->node.n + 1);
    m.done = arena_array(a, bool, m.us.n + 1);
    memset(m.buffer, 0xff, g->node.n * sizeof *m.buffer);
    add_ranks(&m);
    add_buffers(&m);
    for (Value v = 0; v < g->node.n; v++)
        if (m.us.of[v] != NO_UNIT) unit_step(&m, m.us.of[v]);
    copy_steps(&m);
    join_steps(&m);
    convert_kernels(&m);
    plan_waits(m.p);
    for (int i = 0; i < MEM_COUNT; i++) m.p->lower_bound[i] = live_bytes(m.p, (Mem)i);
    make_sources(&m);
    bool ok = diag_errors(g->session) == 0 && diag_status(g->session, write_sources(&m));
    if (!ok) plan_free(m.p);
    vec_free(&m.text);
    vec_free(&m.source);
    arena_free(a);
    return ok ? m.p : NULL;
}

bool codegen_write(const Plan *plan, const CodegenOptions *o) {
    Buf text = {0}, name = {0};
    plan_print(plan, &text);
    buf_printf(&name, "%s/%s.txt", o->dir, plan_name(o));
    bool ok = diag_status(plan->session, file_write_atomic(name.p, text.p, text.n));
    buf_free(&text);
    buf_free(&name);
    return ok;
}
