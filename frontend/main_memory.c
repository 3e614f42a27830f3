/* main_memory.c: which tensors make the peak of a memory, of what class they are, and how equal
 * layers become one line.
 *
 * A plan names parameters, states, gradients, inputs and outputs; of a temporary it says which
 * steps touch it and in which phase. What forward steps compute and backward steps read is an
 * activation; what backward steps compute and the optimizer reads is a gradient; a cast of a
 * parameter, and what is fetched from a parameter or state elsewhere, belongs to that. A tensor
 * that is moved keeps its class in every memory. */
#include "frontend/main_memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *memory_class_name(MemoryClass c) {
    static const char *const names[] = {"parameters",      "compute copies", "gradients",
                                        "optimizer state", "activations",    "temporaries",
                                        "inputs, outputs"};
    _Static_assert(COUNT(names) == CLASS_COUNT, "names");
    return names[c];
}

void memory_record(Plan *p, const Graph *g, const MemoryReport *r) {
    p->budget[MEM_DEVICE] = g->set.memory;
    p->budget[MEM_HOST] = g->set.host_memory;
    p->budget[MEM_DISK] = g->set.disk;
    p->unconstrained = r->unconstrained;
    p->unconstrained_us = r->unconstrained_us;
    p->predicted_us = r->predicted_us;
    p->bound_us = r->bound_us;
    for (uint32_t i = 0; i < r->decision.n; i++) {
        const MemoryDecision *d = &r->decision.p[i];
        PlanDecision made = {d->tensor, memory_how(d->how), d->bytes, d->us, d->hinted, d->loc};
        vec_push(&p->decision, made);
    }
}

/* ---- classes ---- */

typedef struct {
    const Plan *p;
    uint8_t *kind;    /* by buffer: MemoryClass */
    uint32_t *writer; /* by buffer: the first step that writes it, from 1; 0: none */
    uint8_t *phases;  /* by buffer: bit i: a step of phase i touches it */
} Classes;

static void find_writers(Classes *c) {
    for (uint32_t s = 0; s < c->p->step.n; s++) {
        const PlanStep *step = &c->p->step.p[s];
        for (uint32_t i = 0; i < step->nargs; i++) {
            uint32_t b = step->arg[i].buffer;
            c->phases[b] |= (uint8_t)(1 << step->phase);
            if (plan_writes(step, i) && !c->writer[b]) c->writer[b] = s + 1;
        }
    }
}

/* The parameter or state of as many elements that the step casts or fetches, or UINT32_MAX. */
static uint32_t source_tensor(const Classes *c, const PlanStep *s, uint32_t b) {
    bool cast = s->kind == STEP_KERNEL && s->what && strncmp(s->what, "cast", 4) == 0;
    if (s->kind != STEP_COPY && !cast) return UINT32_MAX;
    for (uint32_t i = 0; i < s->nargs; i++) {
        const PlanBuffer *x = &c->p->buffer.p[s->arg[i].buffer];
        bool kept =
            x->kind == BUF_PARAM || x->kind == BUF_STATE || c->kind[s->arg[i].buffer] == CLASS_COPY;
        if (s->arg[i].buffer != b && kept && plan_elements(x) == plan_elements(&c->p->buffer.p[b]))
            return s->arg[i].buffer;
    }
    return UINT32_MAX;
}

static MemoryClass class_by_phase(const Classes *c, uint32_t b) {
    PlanPhase made = c->writer[b] ? c->p->step.p[c->writer[b] - 1].phase : PLAN_FORWARD;
    unsigned later = c->phases[b] >> made & ~1u;
    if (made == PLAN_APPLY || !later) return CLASS_TEMP;
    return made == PLAN_FORWARD ? CLASS_ACTIVATION : CLASS_GRAD;
}

static MemoryClass class_of_temp(const Classes *c, uint32_t b) {
    if (!c->writer[b]) return CLASS_TEMP;
    const PlanStep *s = &c->p->step.p[c->writer[b] - 1];
    uint32_t from = source_tensor(c, s, b);
    if (from != UINT32_MAX)
        return c->p->buffer.p[from].kind == BUF_STATE ? CLASS_STATE : CLASS_COPY;
    if (s->kind == STEP_COPY && c->p->buffer.p[s->arg[1].buffer].kind == BUF_TEMP)
        return (MemoryClass)c->kind[s->arg[1].buffer];
    return class_by_phase(c, b);
}

static MemoryClass class_of_kind(BufKind kind) {
    switch (kind) {
    case BUF_PARAM: return CLASS_PARAM;
    case BUF_STATE: return CLASS_STATE;
    case BUF_GRAD: return CLASS_GRAD;
    case BUF_TEMP: return CLASS_TEMP;
    default: return CLASS_PORT;
    }
}

/* A temporary that is moved out is an activation when the forward phase made it, a gradient when
 * the backward phase did; one that is copied home is what it comes home as. */
static void class_of_moved(Classes *c, const PlanStep *s) {
    uint32_t to = s->arg[0].buffer, from = s->arg[1].buffer;
    const PlanBuffer *x = &c->p->buffer.p[from], *y = &c->p->buffer.p[to];
    if (x->kind != BUF_TEMP || x->mem == y->mem || c->kind[from] != CLASS_TEMP || !c->writer[from])
        return;
    PlanPhase made = c->p->step.p[c->writer[from] - 1].phase;
    if (y->kind == BUF_PARAM || y->kind == BUF_STATE)
        c->kind[from] = y->kind == BUF_PARAM ? CLASS_COPY : CLASS_STATE;
    else if (made != PLAN_APPLY)
        c->kind[from] = made == PLAN_FORWARD ? CLASS_ACTIVATION : CLASS_GRAD;
}

/* In the order of the steps, so that what a step reads has its class. */
static void classify_written(Classes *c, uint32_t s) {
    const PlanStep *step = &c->p->step.p[s];
    for (uint32_t i = 0; i < step->nargs; i++) {
        uint32_t b = step->arg[i].buffer;
        if (c->writer[b] == s + 1 && c->p->buffer.p[b].kind == BUF_TEMP)
            c->kind[b] = (uint8_t)class_of_temp(c, b);
    }
}

static void classify(Classes *c) {
    uint32_t n = c->p->step.n;
    find_writers(c);
    for (uint32_t b = 0; b < c->p->buffer.n; b++)
        c->kind[b] = (uint8_t)class_of_kind(c->p->buffer.p[b].kind);
    for (uint32_t s = 0; s < n; s++) classify_written(c, s);
    for (uint32_t s = 0; s < n; s++)
        if (c->p->step.p[s].kind == STEP_COPY) class_of_moved(c, &c->p->step.p[s]);
    for (uint32_t s = 0; s < n; s++)
        if (c->p->step.p[s].kind == STEP_COPY) classify_written(c, s);
}

/* ---- rows ---- */

static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* "block[3].ffn.up" -> "block[3]": up to the first numbered part, or else the first part. */
static const char *layer_of(Session *s, const char *scope) {
    const char *number = strchr(scope, '[');
    const char *end = number ? strchr(number, ']') : NULL;
    size_t n = end ? (size_t)(end - scope) + 1 : strcspn(scope, "./");
    return intern_n(s, scope, n);
}

static const char *shape_of(Session *s, const PlanBuffer *b) {
    Buf t = {0};
    buf_printf(&t, "%s[", dtype_name(b->dtype));
    for (int i = 0; i < b->rank; i++) buf_printf(&t, i ? ",%" PRId64 : "%" PRId64, b->dim[i]);
    buf_puts(&t, "]");
    const char *shape = intern(s, t.p);
    buf_free(&t);
    return shape;
}

/* What a copy is a copy of, through all memories it went through. */
static uint32_t origin_of(const Classes *c, uint32_t b) {
    for (uint32_t i = 0; i < MEM_COUNT && c->p->buffer.p[b].kind == BUF_TEMP && c->writer[b]; i++) {
        const PlanStep *w = &c->p->step.p[c->writer[b] - 1];
        if (w->kind != STEP_COPY) break;
        b = w->arg[1].buffer;
    }
    return b;
}

/* A tensor's name, or of a temporary the scope and the operations that compute it. */
static const char *name_of(const Classes *c, uint32_t b, const char **scope) {
    Session *s = c->p->session;
    const PlanBuffer *f = &c->p->buffer.p[b];
    const PlanStep *w = c->writer[b] ? &c->p->step.p[c->writer[b] - 1] : NULL;
    *scope = f->kind == BUF_GRAD ? f->name + strlen("grad/") : f->name;
    if (f->kind == BUF_INPUT || f->kind == BUF_OUTPUT) *scope = "";
    if (f->kind != BUF_TEMP) return f->name;
    *scope = w && w->scope ? w->scope : "";
    const char *what = w && w->what ? w->what : "";
    return arena_printf(session_arena(s), "%s%s%s", *scope, **scope ? ": " : "", what);
}

static MemoryRow row_of(const Classes *c, uint32_t b) {
    Session *s = c->p->session;
    const PlanBuffer *f = &c->p->buffer.p[b];
    const PlanStep *w = c->writer[b] ? &c->p->step.p[c->writer[b] - 1] : NULL;
    uint32_t origin = origin_of(c, b);
    const char *scope, *name = name_of(c, origin, &scope);
    if (origin != b) name = arena_printf(session_arena(s), "%s (copy)", name);
    MemoryRow r = {.bytes = rounded(f->bytes),
                   .kind = (MemoryClass)c->kind[b],
                   .name = intern(s, name),
                   .scope = layer_of(s, scope),
                   .shape = shape_of(s, f),
                   .loc = f->loc};
    if (!r.loc.line && w && f->kind == BUF_TEMP) r.loc = w->loc;
    return r;
}

/* ---- equal layers: names that differ only in the numbers in brackets ---- */

enum { MAX_NUMBERS = 4 };

/* The name with each number in brackets as "*"; the numbers, *n of them. */
static const char *pattern_of(Session *s, const char *name, int64_t *number, int *n) {
    Buf b = {0};
    *n = 0;
    for (const char *p = name; *p;) {
        size_t digits = *p == '[' ? strspn(p + 1, "0123456789") : 0;
        if (digits && p[1 + digits] == ']' && *n < MAX_NUMBERS &&
            parse_i64(p + 1, digits, &number[*n])) {
            ++*n;
            buf_puts(&b, "[*]");
            p += digits + 2;
        } else {
            buf_put(&b, p++, 1);
        }
    }
    const char *pattern = intern(s, b.p ? b.p : "");
    buf_free(&b);
    return pattern;
}

/* The pattern with the numbers from a to b in place of its stars. */
static const char *ranged(Session *s, const char *pattern, const int64_t *a, const int64_t *b) {
    Buf t = {0};
    int i = 0;
    for (const char *p = pattern; *p;) {
        if (strncmp(p, "[*]", 3) == 0 && i < MAX_NUMBERS) {
            buf_printf(&t, "[%" PRId64, a[i]);
            if (b[i] != a[i]) buf_printf(&t, "..%" PRId64, b[i]);
            buf_puts(&t, "]");
            i++, p += 3;
        } else {
            buf_put(&t, p++, 1);
        }
    }
    const char *text = intern(s, t.p ? t.p : "");
    buf_free(&t);
    return text;
}

/* What has to be equal in one group, and the numbers seen. */
typedef struct {
    const char *pattern, *shape;
    int64_t bytes;
    int tag;
    Loc loc;
    int64_t least[MAX_NUMBERS], most[MAX_NUMBERS];
    int numbers;
    uint32_t first, n;
} Alike;
typedef VEC(Alike) AlikeList;

static bool is_alike(const Alike *a, const Alike *b) {
    return a->pattern == b->pattern && a->shape == b->shape && a->bytes == b->bytes &&
           a->tag == b->tag && a->loc.file == b->loc.file && a->loc.line == b->loc.line &&
           a->loc.col == b->loc.col;
}

/* The group that `x`, named so, belongs to; a new one when there is none. Groups are some dozen. */
static uint32_t group_of(AlikeList *l, Session *s, const char *name, Alike x, uint32_t at) {
    x.pattern = pattern_of(s, name, x.least, &x.numbers);
    memcpy(x.most, x.least, sizeof x.most);
    x.first = at;
    x.n = 1;
    for (uint32_t g = 0; g < l->n; g++) {
        Alike *y = &l->p[g];
        if (!is_alike(y, &x)) continue;
        for (int i = 0; i < x.numbers; i++) {
            y->least[i] = MIN(y->least[i], x.least[i]);
            y->most[i] = MAX(y->most[i], x.least[i]);
        }
        y->n++;
        return g;
    }
    vec_push(l, x);
    return l->n - 1;
}

static const char *name_of_group(Session *s, const Alike *a) {
    return ranged(s, a->pattern, a->least, a->most);
}

/* ---- the peak ---- */

static int by_bytes(const void *a, const void *b) {
    const MemoryGroup *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static void group_tensors(MemoryPeak *m, Session *s) {
    AlikeList groups = {0};
    for (uint32_t i = 0; i < m->row.n; i++) {
        const MemoryRow *r = &m->row.p[i];
        Alike x = {.shape = r->shape, .bytes = r->bytes, .tag = (int)r->kind, .loc = r->loc};
        group_of(&groups, s, r->name, x, i);
    }
    for (uint32_t g = 0; g < groups.n; g++) {
        const Alike *a = &groups.p[g];
        MemoryGroup out = {m->row.p[a->first], a->bytes * a->n, a->n, a->first};
        out.row.name = name_of_group(s, a);
        vec_push(&m->tensor, out);
    }
    if (m->tensor.n) qsort(m->tensor.p, m->tensor.n, sizeof *m->tensor.p, by_bytes);
    vec_free(&groups);
}

/* Layers with a row each; `seen` holds their exact names, so that n counts layers. */
static void group_layers(MemoryPeak *m, Session *s) {
    AlikeList groups = {0};
    VEC(const char *) seen = {0};
    for (uint32_t i = 0; i < m->row.n; i++) {
        const MemoryRow *r = &m->row.p[i];
        uint32_t g = group_of(&groups, s, r->scope, (Alike){0}, i), k = 0;
        if (g == m->layer.n) {
            vec_push(&m->layer, ((MemoryGroup){.row = *r, .first = i}));
            for (int c = 0; c < CLASS_COUNT; c++) vec_push(&m->layer_kind, 0);
        }
        m->layer.p[g].bytes += r->bytes;
        m->layer_kind.p[g * CLASS_COUNT + r->kind] += r->bytes;
        while (k < seen.n && seen.p[k] != r->scope) k++;
        if (k == seen.n) {
            vec_push(&seen, r->scope);
            m->layer.p[g].n++;
        }
    }
    for (uint32_t g = 0; g < groups.n; g++) m->layer.p[g].row.name = name_of_group(s, &groups.p[g]);
    vec_free(&seen);
    vec_free(&groups);
}

static void find_live(MemoryPeak *m, const Plan *p, const PlanLive *l) {
    int64_t now = 0;
    m->live = xcalloc((size_t)p->step.n + 3, sizeof *m->live);
    for (uint32_t b = 0; b < p->buffer.n; b++) {
        if (p->buffer.p[b].mem != m->mem || !l->first[b]) continue;
        m->live[l->first[b] - 1] += rounded(p->buffer.p[b].bytes);
        m->live[l->last[b]] -= rounded(p->buffer.p[b].bytes);
    }
    for (uint32_t s = 0; s < p->step.n; s++) m->live[s] = now += m->live[s];
}

MemoryPeak memory_peak(const Plan *p, Mem mem) {
    PlanLive l = plan_live(p, mem);
    MemoryPeak m = {.mem = mem, .peak = l.bytes, .step = l.at};
    size_t n = (size_t)p->buffer.n + 1;
    Classes c = {p, xcalloc(n, 1), xcalloc(n, sizeof *c.writer), xcalloc(n, 1)};
    classify(&c);
    for (uint32_t b = 0; b < p->buffer.n; b++) {
        bool alive = l.first[b] && l.first[b] <= l.at && l.at <= l.last[b];
        if (p->buffer.p[b].mem != mem || !alive) continue;
        vec_push(&m.row, row_of(&c, b));
        m.kind[c.kind[b]] += rounded(p->buffer.p[b].bytes);
    }
    find_live(&m, p, &l);
    group_tensors(&m, p->session);
    group_layers(&m, p->session);
    free(c.kind);
    free(c.writer);
    free(c.phases);
    plan_live_free(&l);
    return m;
}

void memory_peak_free(MemoryPeak *m) {
    free(m->live);
    vec_free(&m->row);
    vec_free(&m->tensor);
    vec_free(&m->layer);
    vec_free(&m->layer_kind);
}

/* ---- decisions ---- */

static int by_saving(const void *a, const void *b) {
    const PlanDecision *x = &((const DecisionGroup *)a)->decision;
    const PlanDecision *y = &((const DecisionGroup *)b)->decision;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    int how = strcmp(x->how, y->how);
    return how ? how : strcmp(x->tensor, y->tensor);
}

DecisionList memory_decisions(const Plan *p) {
    AlikeList groups = {0};
    DecisionList list = {0};
    for (uint32_t i = 0; i < p->decision.n; i++) {
        const PlanDecision *d = &p->decision.p[i];
        Alike x = {.shape = intern(p->session, d->how), .tag = d->hinted, .loc = d->loc};
        uint32_t g = group_of(&groups, p->session, d->tensor, x, i);
        if (g == list.n) vec_push(&list, ((DecisionGroup){*d, 0}));
        DecisionGroup *out = &list.p[g];
        out->decision.bytes += out->n ? d->bytes : 0;
        out->decision.us += out->n ? d->us : 0;
        out->n++;
    }
    for (uint32_t g = 0; g < groups.n; g++)
        list.p[g].decision.tensor = name_of_group(p->session, &groups.p[g]);
    if (list.n) qsort(list.p, list.n, sizeof *list.p, by_saving);
    vec_free(&groups);
    return list;
}
