/* exec.c: the executor. Resolves the plan's arguments to addresses once, then a step of training is
 * a walk over an array. It knows no device: everything goes through the table of device.h. */
#include "runtime/exec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/slice.h"

/* ---- open and close ---- */

static char *address(const Exec *e, PlanArg a) {
    const PlanBuffer *b = &e->plan->buffer.p[a.buffer];
    return (char *)e->arena[b->mem] + b->offset + a.offset;
}

/* A plan that was read was checked; one made in this process by a mistaken compiler was not. */
static void check_places(const Plan *p) {
    for (uint32_t i = 0; i < p->buffer.n; i++) {
        const PlanBuffer *b = &p->buffer.p[i];
        ASSERT(b->offset >= 0 && b->bytes >= 0 && b->offset <= p->arena[b->mem] - b->bytes);
    }
    for (uint32_t i = 0; i < p->step.n; i++)
        for (uint32_t j = 0; j < p->step.p[i].nargs; j++) {
            PlanArg a = p->step.p[i].arg[j];
            ASSERT(a.buffer < p->buffer.n);
            ASSERT(a.offset >= 0 && a.offset <= p->buffer.p[a.buffer].bytes);
        }
}

static Status allocate(Exec *e) {
    for (int m = 0; m < MEM_COUNT; m++) {
        TRY(e->ops->alloc(e->device, (Mem)m, e->plan->arena[m], &e->arena[m]));
        e->arena_bytes[m] = e->plan->arena[m];
    }
    return NULL;
}

static void resolve(Exec *e) {
    const Plan *p = e->plan;
    size_t n = 0;
    for (uint32_t i = 0; i < p->step.n; i++) n += p->step.p[i].nargs;
    e->arg = xcalloc(n, sizeof *e->arg);
    e->first_arg = xcalloc((size_t)p->step.n + 1, sizeof *e->first_arg);
    e->awaited = xcalloc((size_t)p->step.n + 1, sizeof *e->awaited);
    n = 0;
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        e->first_arg[i] = n;
        for (uint32_t j = 0; j < s->nargs; j++) e->arg[n++] = address(e, s->arg[j]);
        for (uint32_t j = 0; j < s->nwait; j++) e->awaited[s->wait[j]] = true;
    }
}

static uint32_t find_input(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->input.n; i++)
        if (strcmp(p->buffer.p[p->input.p[i].buffer].name, name) == 0) return p->input.p[i].buffer;
    return UINT32_MAX;
}

static uint32_t find_output(const Plan *p, const char *name) {
    for (uint32_t i = 0; i < p->output.n; i++)
        if (strcmp(p->buffer.p[p->output.p[i].buffer].name, name) == 0)
            return p->output.p[i].buffer;
    return UINT32_MAX;
}

/* Where exec_step_guarded looks: nowhere in plans that scale the loss dynamically, nor on disk. */
static void find_loss(Exec *e) {
    e->loss_step = UINT32_MAX;
    e->loss = find_output(e->plan, "loss");
    if (e->loss == UINT32_MAX || find_output(e->plan, "overflow") != UINT32_MAX) return;
    if (e->plan->buffer.p[e->loss].mem == MEM_DISK) return;
    for (uint32_t i = 0; i < e->plan->step.n; i++)
        for (uint32_t j = 0; j < e->plan->step.p[i].nargs; j++)
            if (e->plan->step.p[i].arg[j].buffer == e->loss) e->loss_step = i;
}

/* Writes this rank's index in each group whose index is an input. */
static Status write_indices(Exec *e) {
    static const char prefix[] = "@index/";
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < p->input.n; i++) {
        uint32_t b = p->input.p[i].buffer, g = 0;
        const char *name = p->buffer.p[b].name;
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        while (g < p->group.n && strcmp(p->group.p[g].name, name + strlen(prefix)) != 0) g++;
        if (g == p->group.n)
            return status_make(EXIT_INPUT, "input \"%s\": the plan has no such group", name);
        int32_t index = (int32_t)plan_group_index(&p->group.p[g], e->rank);
        TRY(exec_write(e, b, &index, sizeof index));
    }
    return NULL;
}

Status exec_open(const Plan *plan, const ExecOptions *o, Exec **out) {
    Exec *e = xcalloc(1, sizeof *e);
    e->plan = plan;
    e->ops = o->device;
    e->pool = o->pool;
    e->rank = o->rank;
    check_places(plan);
    int place = 0, sharing = o->comm ? comm_neighbours(o->comm, &place) : 0;
    DeviceConfig config = {.plan = plan,
                           .place = place,
                           .sharing = sharing,
                           .pool = o->pool,
                           .log = o->log,
                           .no_graph = o->no_graph,
                           .link = o->link,
                           .disk = o->disk ? o->disk : o->dir};
    Status s = e->ops->open(&config, &e->device);
    if (!s) s = exec_open_stage(e);
    if (!s) s = allocate(e);
    if (!s) s = e->ops->load(e->device, plan, o->dir ? o->dir : ".");
    if (s) {
        exec_close(e);
        return s;
    }
    resolve(e);
    e->step_input = find_input(plan, "@step");
    e->seed_input = find_input(plan, "@seed");
    find_loss(e);
    s = write_indices(e);
    if (!s) s = exec_open_comm(e, o->comm);
    if (!s) s = exec_open_streams(e);
    if (s) {
        exec_close(e);
        return s;
    }
    *out = e;
    return NULL;
}

void exec_close(Exec *e) {
    if (!e) return;
    exec_close_streams(e);
    exec_close_comm(e);
    if (e->device) {
        for (int m = MEM_COUNT; m-- > 0;)
            if (e->arena[m]) e->ops->free(e->device, (Mem)m, e->arena[m], e->arena_bytes[m]);
        e->ops->close(e->device);
    }
    exec_close_stage(e);
    free(e->arg);
    free(e->first_arg);
    free(e->awaited);
    free(e->first_touch);
    free(e);
}

char *exec_address(const Exec *e, uint32_t buffer) { return address(e, (PlanArg){buffer, 0}); }

int exec_rank(const Exec *e) { return e->rank; }

int64_t exec_arena_bytes(const Exec *e, Mem mem) { return e->arena_bytes[mem]; }

static bool is_visible(const Exec *e, Mem mem) { return e->ops->visible >> mem & 1; }

int64_t exec_host_bytes(const Exec *e) {
    return e->arena_bytes[MEM_HOST] + (is_visible(e, MEM_DEVICE) ? e->arena_bytes[MEM_DEVICE] : 0);
}

int64_t exec_beside_bytes(const Exec *e) { return e->ops->beside ? e->ops->beside(e->device) : 0; }

void *exec_pointer(Exec *e, uint32_t buffer) {
    return is_visible(e, e->plan->buffer.p[buffer].mem) ? exec_address(e, buffer) : NULL;
}

/* ---- tensors in and out ---- */

static Status check_size(const Exec *e, uint32_t buffer, int64_t bytes) {
    ASSERT(buffer < e->plan->buffer.n);
    const PlanBuffer *b = &e->plan->buffer.p[buffer];
    if (bytes == b->bytes) return NULL;
    return status_make(EXIT_INPUT, "\"%s\" has %lld bytes, not %lld", b->name, (long long)b->bytes,
                       (long long)bytes);
}

/* What a GPU has in the host's memory does not pass through the GPU. */
static Status move_bytes(Exec *e, uint32_t buffer, void *to, const void *from, int64_t bytes) {
    bool direct = e->ops->arrive && exec_pointer(e, buffer);
    if (!direct) TRY(e->ops->copy(e->device, 0, to, from, bytes));
    TRY(exec_blame_any(e, e->ops->sync(e->device)));
    if (direct) memcpy(to, from, (size_t)bytes);
    return NULL;
}

Status exec_write(Exec *e, uint32_t buffer, const void *host, int64_t bytes) {
    TRY(check_size(e, buffer, bytes));
    return move_bytes(e, buffer, exec_address(e, buffer), host, bytes);
}

Status exec_read(Exec *e, uint32_t buffer, void *host, int64_t bytes) {
    TRY(check_size(e, buffer, bytes));
    return exec_read_part(e, buffer, 0, host, bytes);
}

Status exec_read_part(Exec *e, uint32_t buffer, int64_t at, void *host, int64_t bytes) {
    ASSERT(at >= 0 && bytes >= 0 && at <= e->plan->buffer.p[buffer].bytes - bytes);
    return move_bytes(e, buffer, host, exec_address(e, buffer) + at, bytes);
}

Status exec_write_part(Exec *e, uint32_t buffer, int64_t at, const void *host, int64_t bytes) {
    ASSERT(at >= 0 && bytes >= 0 && at <= e->plan->buffer.p[buffer].bytes - bytes);
    return move_bytes(e, buffer, exec_address(e, buffer) + at, host, bytes);
}

double exec_number(Dtype d, const void *p) {
    union {
        float f;
        double d;
        int32_t i;
        int64_t l;
        uint16_t h;
        uint8_t b;
    } u;
    memcpy(&u, p, (size_t)dtype_size(d));
    switch (d) {
    case DT_F32: return (double)u.f;
    case DT_F64: return u.d;
    case DT_BF16: return (double)bf16_to_f32(u.h);
    case DT_F16: return (double)f16_to_f32(u.h);
    case DT_I32: return u.i;
    case DT_I64: return (double)u.l;
    case DT_BOOL: return u.b;
    default: BUG("no such dtype");
    }
}

Status exec_read_scalar(Exec *e, const char *name, double *value, bool *found) {
    *found = false;
    for (uint32_t i = 0; i < e->plan->output.n && !*found; i++) {
        uint32_t buffer = e->plan->output.p[i].buffer;
        const PlanBuffer *b = &e->plan->buffer.p[buffer];
        if (strcmp(b->name, name) != 0 || plan_elements(b) != 1) continue;
        char raw[8];
        if (!e->scalars) TRY(exec_read(e, buffer, raw, b->bytes));
        *value = exec_number(b->dtype, e->scalars ? e->scalars + e->stage.at_out[i] : raw);
        *found = true;
    }
    return NULL;
}

/* ---- start values ---- */

typedef struct {
    const Init *init;
    Dtype dtype;
    uint32_t key;
    const Slice *slice; /* the rank's, of the tensor */
    char *to;           /* where element `first` of it goes */
    int64_t first;      /* of what is set now */
} Start;

static void put_number(Dtype d, char *at, double x) {
    float f = (float)x;
    uint16_t h = 0;
    int32_t i = 0;
    int64_t l = 0;
    switch (d) {
    case DT_F32: memcpy(at, &f, sizeof f); break;
    case DT_F64: memcpy(at, &x, sizeof x); break;
    case DT_BF16: h = f32_to_bf16(f), memcpy(at, &h, sizeof h); break;
    case DT_F16: h = f32_to_f16(f), memcpy(at, &h, sizeof h); break;
    case DT_I32: i = (int32_t)x, memcpy(at, &i, sizeof i); break;
    case DT_I64: l = (int64_t)x, memcpy(at, &l, sizeof l); break;
    case DT_BOOL: *at = x != 0; break;
    default: BUG("no such dtype");
    }
}

static void start_part(void *ctx, int64_t lo, int64_t hi, int thread) {
    const Start *s = ctx;
    int size = dtype_size(s->dtype);
    (void)thread;
    while (lo < hi) {
        SliceRun run = slice_run(s->slice, s->first + lo);
        for (int64_t end = MIN(lo + run.count, hi), i = run.whole; lo < end; lo++, i++)
            put_number(s->dtype, s->to + lo * size,
                       init_value(s->init->kind, s->init->a, s->init->b, s->key, (uint64_t)i));
    }
}

static void start_values(Exec *e, Start s, int64_t n) {
    if (e->pool)
        pool_run(e->pool, start_part, &s, n, 1024);
    else
        start_part(&s, 0, n, 0);
}

/* Of a tensor that the host cannot see: part after part. */
static Status send_values(Exec *e, const PlanTensor *t, Start s) {
    const PlanBuffer *b = &e->plan->buffer.p[t->buffer];
    int64_t n = plan_elements(b), size = dtype_size(b->dtype), most = EXEC_PART / size;
    Status status = NULL;
    s.to = xmalloc((size_t)MIN(b->bytes, (int64_t)EXEC_PART));
    for (; s.first < n && !status; s.first += most) {
        int64_t count = MIN(most, n - s.first);
        start_values(e, s, count);
        status = e->ops->copy(e->device, 0, exec_address(e, t->buffer) + s.first * size, s.to,
                              count * size);
        if (!status) status = e->ops->sync(e->device); /* before the room is used again */
    }
    free(s.to);
    return status;
}

static Status start_tensor(Exec *e, const PlanTensor *t, uint64_t seed) {
    const PlanBuffer *b = &e->plan->buffer.p[t->buffer];
    if (t->init.kind == INIT_ZEROS)
        return e->ops->fill(e->device, 0, exec_address(e, t->buffer), b->bytes);
    Slice slice = slice_of(e->plan, b, e->rank);
    Start s = {
        &t->init, b->dtype, random_key(seed, t->init.site, 0), &slice, exec_pointer(e, t->buffer),
        0};
    if (!s.to) return send_values(e, t, s);
    start_values(e, s, plan_elements(b));
    return NULL;
}

Status exec_init_params(Exec *e, uint64_t seed) {
    exec_set_seed(e, seed);
    for (uint32_t i = 0; i < e->plan->tensor.n; i++)
        TRY(start_tensor(e, &e->plan->tensor.p[i], seed));
    return e->ops->sync(e->device);
}

void exec_set_seed(Exec *e, uint64_t seed) { e->seed = seed; }

/* ---- steps ---- */

void exec_set_timer(Exec *e, ExecTimer *timer, void *ctx) {
    ASSERT(e->submitted == e->collected);
    e->timer = timer;
    e->timer_ctx = ctx;
}

Status exec_start_unnamed(Exec *e, uint32_t i) {
    const PlanStep *s = &e->plan->step.p[i];
    void *const *arg = e->arg + e->first_arg[i];
    atomic_store_explicit(&e->at[s->stream], i + 1, memory_order_relaxed);
    for (uint32_t j = 0; j < s->nwait; j++) TRY(e->ops->wait(e->device, s->stream, s->wait[j]));
    switch (s->kind) {
    case STEP_KERNEL: TRY(e->ops->launch(e->device, s, arg)); break;
    case STEP_GEMM: TRY(e->ops->gemm(e->device, s, arg)); break;
    case STEP_COPY: TRY(e->ops->copy(e->device, s->stream, arg[0], arg[1], s->bytes)); break;
    case STEP_FILL: TRY(e->ops->fill(e->device, s->stream, arg[0], s->bytes)); break;
    case STEP_COLLECTIVE: TRY(exec_collective(e, i, arg)); break;
    case STEP_KIND_COUNT: BUG("no such step");
    }
    return e->awaited[i] ? e->ops->record(e->device, s->stream, i) : NULL;
}

void exec_put_step(const Exec *e, const PlanStep *s, Buf *out) {
    buf_printf(out, "step %u", (unsigned)(s - e->plan->step.p));
    if (s->what) buf_printf(out, " (%s)", s->what);
    if (s->scope && s->scope[0]) buf_printf(out, " in %s", s->scope);
}

Status exec_blame(const Exec *e, uint32_t i, Status s) {
    const PlanStep *step = &e->plan->step.p[i];
    Buf b = {0};
    if (!s) return NULL;
    const char *where = loc_text(e->plan->session, step->loc);
    if (where[0]) buf_printf(&b, "%s: ", where);
    exec_put_step(e, step, &b);
    if (step->kind == STEP_KERNEL)
        buf_printf(&b, ", kernel %s", e->plan->kernel.p[step->kernel].name);
    Status told = status_make(s->code, "%s: %s", b.p, s->text);
    buf_free(&b);
    free(s);
    return told;
}

Status exec_blame_any(const Exec *e, Status s) {
    if (!s || !e->ops->arrive) return s;
    uint32_t collective = exec_late_collective(e);
    if (collective != UINT32_MAX) return exec_blame(e, collective, s);
    Status told = status_make(s->code,
                              "%s; it was a step before this point, and none can run again in "
                              "this process: M6C_CUDA_SYNC=1 or --check-finite will name it",
                              s->text);
    free(s);
    return told;
}

Status exec_start(Exec *e, uint32_t i) { return exec_blame(e, i, exec_start_unnamed(e, i)); }

static Status run_watched(Exec *e, uint32_t i) {
    if (e->check_finite) TRY(exec_clear_fresh(e, i));
    double begin = e->timer ? now_seconds() : 0;
    TRY(exec_start(e, i));
    TRY(exec_blame(e, i, e->ops->sync(e->device)));
    if (e->timer) e->timer(e->timer_ctx, i, begin, now_seconds());
    return e->check_finite ? exec_check_written(e, i) : NULL;
}

int32_t exec_seed_bits(const Exec *e) { return (int32_t)(uint32_t)(e->seed ^ e->seed >> 32); }

static Status write_i32(Exec *e, uint32_t buffer, int32_t v) {
    return buffer == UINT32_MAX ? NULL : exec_write(e, buffer, &v, sizeof v);
}

static Status loss_is_finite(Exec *e, bool *finite) {
    double x = 0;
    bool found;
    TRY(exec_read_scalar(e, "loss", &x, &found));
    *finite = isfinite(x);
    return NULL;
}

/* Runs the steps; with `stopped`, looks at the loss as soon as it is there. */
static Status run_plan_steps(Exec *e, int64_t step, bool *stopped) {
    e->scalars = NULL;
    TRY(write_i32(e, e->step_input, (int32_t)step));
    TRY(write_i32(e, e->seed_input, exec_seed_bits(e)));
    if (e->check_finite) TRY(exec_check_kept(e));
    bool watched = e->timer || e->check_finite;
    if (e->streams && !watched) return exec_run_streams(e, stopped);
    for (uint32_t i = 0; i < e->plan->step.n; i++) {
        TRY(watched ? run_watched(e, i) : exec_start(e, i));
        if (!stopped || i != e->loss_step) continue;
        bool finite;
        if (e->ops->arrive) TRY(exec_blame_any(e, e->ops->sync(e->device)));
        TRY(loss_is_finite(e, &finite));
        if ((*stopped = !finite)) return NULL;
    }
    return exec_blame_any(e, e->ops->sync(e->device));
}

static Status run_steps(Exec *e, int64_t step, bool *stopped) {
    atomic_store(&e->training_step, step);
    Status s = run_plan_steps(e, step, stopped);
    for (int i = 0; i < STREAM_COUNT && !s; i++) atomic_store(&e->at[i], 0);
    if (!s) atomic_store(&e->training_step, 0);
    return s;
}

Status exec_step(Exec *e, int64_t step) { return run_steps(e, step, NULL); }

Status exec_step_guarded(Exec *e, int64_t step, bool *stopped) {
    *stopped = false;
    return run_steps(e, step, stopped);
}
