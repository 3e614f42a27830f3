/* exec_ahead.c: steps in flight, on a device that works while the host goes on.
 *
 * A step's inputs lie together in pinned host memory, in one of two places that take turns. A
 * stream of their own carries them to the device while the step before runs; the compute stream
 * waits for them, takes them to their buffers, runs the plan's steps (noted once, then replayed as
 * one), and carries the scalars to pinned memory. So the host can look at step i after it began
 * step i + 1.
 *
 *     copy stream   in 1 .  in 2 .  in 3
 *     stream 0           \ step 1 out \ step 2 out \ …
 *     host          submit 1, submit 2, collect 1, submit 3, collect 2, …
 *
 * The plan's other streams begin after stream 0 has the inputs and end before the scalars leave, so
 * that steps do not overlap. */
#include "runtime/exec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Events after those of the plan's steps. */
enum { EVENT_IN, EVENT_OUT = EVENT_IN + IN_FLIGHT, EVENT_FORK = EVENT_OUT + IN_FLIGHT, EVENT_JOIN };

static uint32_t event(const Exec *e, int which) { return e->plan->step.n + (uint32_t)which; }

static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* ---- the places of inputs and scalars ---- */

static int64_t place_inputs(Exec *e) {
    const Plan *p = e->plan;
    int64_t bytes = 0;
    e->stage.at_in = xcalloc((size_t)p->input.n + 1, sizeof *e->stage.at_in);
    for (uint32_t i = 0; i < p->input.n; i++) {
        e->stage.at_in[i] = bytes;
        bytes += rounded(p->buffer.p[p->input.p[i].buffer].bytes);
    }
    return bytes;
}

static int64_t place_scalars(Exec *e) {
    const Plan *p = e->plan;
    int64_t bytes = 0;
    e->stage.at_out = xcalloc((size_t)p->output.n + 1, sizeof *e->stage.at_out);
    for (uint32_t i = 0; i < p->output.n; i++) {
        bool scalar = plan_elements(&p->buffer.p[p->output.p[i].buffer]) == 1;
        e->stage.at_out[i] = scalar ? bytes : -1;
        bytes += scalar ? 64 : 0;
    }
    return bytes;
}

Status exec_open_stage(Exec *e) {
    Stage *g = &e->stage;
    void *device, *host;
    if (!e->ops->staging) return NULL;
    int64_t out = place_scalars(e);
    g->in_bytes = place_inputs(e);
    TRY(e->ops->staging(e->device, IN_FLIGHT * g->in_bytes, IN_FLIGHT * (g->in_bytes + out),
                        &device, &host));
    for (int i = 0; host && i < IN_FLIGHT; i++) {
        g->in[i] = (char *)host + i * g->in_bytes;
        if (device) g->in_device[i] = (char *)device + i * g->in_bytes;
        g->out[i] = (char *)host + IN_FLIGHT * g->in_bytes + i * out;
    }
    return NULL;
}

void exec_close_stage(Exec *e) {
    free(e->stage.at_in);
    free(e->stage.at_out);
}

int exec_ahead(const Exec *e) {
    return e->ops->staging && !e->timer && !e->check_finite ? IN_FLIGHT : 1;
}

/* ---- a step ---- */

/* From the caller's memory to the buffers, of those inputs that are given. */
static Status bring_inputs(Exec *e, int slot, int64_t step, const void *const *input) {
    const Stage *g = &e->stage;
    const Plan *p = e->plan;
    const DeviceOps *ops = e->ops;
    const int32_t step_bits = (int32_t)step, seed_bits = exec_seed_bits(e);
    int stream = plan_streams(p);
    if (g->in_bytes == 0) return NULL;
    const void **from = xcalloc(p->input.n, sizeof *from);
    for (uint32_t i = 0; i < p->input.n; i++) {
        uint32_t b = p->input.p[i].buffer;
        from[i] = b == e->step_input ? &step_bits : b == e->seed_input ? &seed_bits : input[i];
        if (from[i]) memcpy(g->in[slot] + g->at_in[i], from[i], (size_t)p->buffer.p[b].bytes);
    }
    Status s = ops->copy(e->device, stream, g->in_device[slot], g->in[slot], g->in_bytes);
    if (!s) s = ops->record(e->device, stream, event(e, EVENT_IN + slot));
    if (!s) s = ops->wait(e->device, 0, event(e, EVENT_IN + slot));
    for (uint32_t i = 0; i < p->input.n && !s; i++) {
        uint32_t b = p->input.p[i].buffer;
        if (from[i])
            s = ops->copy(e->device, 0, exec_address(e, b), g->in_device[slot] + g->at_in[i],
                          p->buffer.p[b].bytes);
    }
    free(from);
    return s;
}

static Status run_plan_steps(Exec *e) {
    const DeviceOps *ops = e->ops;
    int streams = plan_streams(e->plan);
    if (streams > 1) TRY(ops->record(e->device, 0, event(e, EVENT_FORK)));
    for (int i = 1; i < streams; i++)
        if (plan_has_stream(e->plan, i)) TRY(ops->wait(e->device, i, event(e, EVENT_FORK)));
    for (uint32_t i = 0; i < e->plan->step.n; i++) TRY(exec_start(e, i));
    for (int i = 1; i < streams; i++) {
        if (!plan_has_stream(e->plan, i)) continue;
        TRY(ops->record(e->device, i, event(e, EVENT_JOIN + i)));
        TRY(ops->wait(e->device, 0, event(e, EVENT_JOIN + i)));
    }
    return NULL;
}

static Status take_scalars(Exec *e, int slot) {
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < p->output.n; i++) {
        uint32_t b = p->output.p[i].buffer;
        if (e->stage.at_out[i] >= 0)
            TRY(e->ops->copy(e->device, 0, e->stage.out[slot] + e->stage.at_out[i],
                             exec_address(e, b), p->buffer.p[b].bytes));
    }
    return e->ops->record(e->device, 0, event(e, EVENT_OUT + slot));
}

static Status begin_step(Exec *e, int slot, int64_t step, const void *const *input) {
    bool done;
    TRY(bring_inputs(e, slot, step, input));
    TRY(e->ops->replay(e->device, &done));
    if (!done) {
        TRY(e->ops->capture(e->device, true));
        TRY(run_plan_steps(e));
        TRY(e->ops->capture(e->device, false));
    }
    return take_scalars(e, slot);
}

static Status do_step(Exec *e, int64_t step, const void *const *input) {
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < p->input.n; i++) {
        uint32_t b = p->input.p[i].buffer;
        if (input[i]) TRY(exec_write(e, b, input[i], p->buffer.p[b].bytes));
    }
    return exec_step_guarded(e, step, &e->stopped);
}

/* A slot is free again when its step was collected: nothing is waited for here. */
Status exec_submit(Exec *e, int64_t step, const void *const *input) {
    ASSERT(e->submitted - e->collected < exec_ahead(e));
    int slot = (int)(e->submitted++ % IN_FLIGHT);
    e->scalars = NULL;
    if (exec_ahead(e) == 1) return do_step(e, step, input);
    atomic_store(&e->training_step, step - (e->submitted - e->collected) + 1); /* the oldest */
    return begin_step(e, slot, step, input);
}

/* ---- its end ---- */

static bool loss_is_finite(const Exec *e) {
    const Plan *p = e->plan;
    for (uint32_t i = 0; i < p->output.n; i++)
        if (p->output.p[i].buffer == e->loss && e->stage.at_out[i] >= 0)
            return isfinite(
                exec_number(p->buffer.p[e->loss].dtype, e->scalars + e->stage.at_out[i]));
    return true;
}

Status exec_collect(Exec *e, bool *stopped) {
    ASSERT(e->collected < e->submitted);
    int slot = (int)(e->collected++ % IN_FLIGHT);
    *stopped = e->stopped;
    if (exec_ahead(e) == 1) return NULL;
    TRY(exec_blame_any(e, e->ops->arrive(e->device, event(e, EVENT_OUT + slot))));
    bool more = e->collected < e->submitted;
    atomic_store(&e->training_step, more ? atomic_load(&e->training_step) + 1 : 0);
    e->scalars = e->stage.out[slot];
    *stopped = e->loss_step != UINT32_MAX && !loss_is_finite(e);
    return NULL;
}
