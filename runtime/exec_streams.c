/* exec_streams.c: on a device whose streams are threads, all streams of a step side by side.
 *
 * Each stream has a thread that walks over the plan's steps of that stream; the caller walks over
 * those of the compute stream. Nobody hands work over: whoever comes to a step waits until the
 * steps in its `wait` have happened, does it, and says so. A copy thus begins as soon as what it
 * waits for is done, however far the caller is.
 *
 *     caller    k0 ────────── k2 ──────────────── (loss?) ── k6
 *                 ╲done[0]    ▲done[1]                ╲ open
 *     in        c1 ╲──────────╯          c5 ┄┄┄┄┄┄┄┄┄┄┄╲┄┄┄┄┄
 *     out           ╲ c3 ┄┄┄┄┄┄┄┄┄ (c4 writes a tensor) ▼ c4
 *
 * done[i] is the round (one a step of training) in which step i last happened, so that nothing
 * needs to be reset. A step waits for earlier steps of the plan only and each thread keeps the
 * plan's order: the earliest step that is not done can always go on. What a step reads and writes
 * is ordered by the waits alone, so results do not depend on timing.
 *
 * The gate. Whoever computes the loss looks at it, when asked to. Later steps of other streams that
 * write parameters or states wait until it was seen to be finite, and so do collectives: all ranks
 * have the same loss, but not the same timing, and one must not wait for another that has stopped.
 *
 * Giving up. A failed step ends the round: `stop` is raised, then every event is said to have
 * happened, and whoever wakes looks at `stop` first. A loss that is no number ends it too, for the
 * steps behind the loss; those before it happen, as they do on the other ranks. */
#include "runtime/exec_private.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "runtime/futex.h"

typedef VEC(uint32_t) StepList;

typedef struct {
    Exec *exec;
    pthread_t thread;
    bool started;
    StepList step;
    Status failure;
    uint32_t failed; /* the step */
} Walker;

struct Streams {
    Walker walker[STREAM_COUNT]; /* the compute stream's is the caller */
    _Atomic uint32_t *done;      /* of each step; behind them, of the gate */
    bool *gated;                 /* steps that wait for the gate */
    uint32_t round;
    _Atomic uint32_t turn;     /* the round that the threads shall do */
    _Atomic uint32_t running;  /* threads that are not through with it */
    _Atomic uint32_t sleepers; /* on events */
    atomic_bool stop;
    bool look;              /* at the loss */
    _Atomic uint32_t until; /* steps from here on do not happen: the loss is no number */
    bool quit;
};

/* ---- events ---- */

static void happened(Streams *s, uint32_t event) {
    atomic_store(&s->done[event], s->round);
    if (atomic_load(&s->sleepers)) futex_wake(&s->done[event]);
}

static void await_event(Streams *s, uint32_t event) {
    if (atomic_load(&s->done[event]) == s->round) return;
    atomic_fetch_add(&s->sleepers, 1);
    for (uint32_t seen; (seen = atomic_load(&s->done[event])) != s->round;)
        futex_wait(&s->done[event], seen);
    atomic_fetch_sub(&s->sleepers, 1);
}

static void give_up(const Exec *e) {
    Streams *s = e->streams;
    atomic_store(&s->stop, true);
    exec_break_comm(e);
    for (uint32_t i = 0; i <= e->plan->step.n; i++) happened(s, i);
}

static void give_up_behind(const Exec *e, uint32_t step) {
    Streams *s = e->streams;
    atomic_store(&s->until, step + 1);
    for (uint32_t i = step + 1; i <= e->plan->step.n; i++) happened(s, i);
}

/* The loss has been computed: opens the gate, or ends the round when it is no finite number. */
static void look_at_loss(const Exec *e) {
    const PlanBuffer *b = &e->plan->buffer.p[e->loss];
    if (plan_elements(b) == 1 && !isfinite(exec_number(b->dtype, exec_address(e, e->loss))))
        give_up_behind(e, e->loss_step);
    else
        happened(e->streams, e->plan->step.n);
}

/* ---- walking ---- */

/* A collective that ends because another step failed is no failure of its own. */
static void fail(Walker *w, uint32_t i) {
    const Exec *e = w->exec;
    w->failed = i;
    if (e->plan->step.p[i].kind == STEP_COLLECTIVE && atomic_load(&e->streams->stop)) {
        free(w->failure);
        w->failure = NULL;
    }
    give_up(e);
}

/* One step of a stream; false when the round is at its end. */
static bool walk_step(Walker *w, uint32_t i) {
    const Exec *e = w->exec;
    Streams *s = e->streams;
    const PlanStep *step = &e->plan->step.p[i];
    for (uint32_t j = 0; j < step->nwait; j++) await_event(s, step->wait[j]);
    if (s->gated[i]) await_event(s, e->plan->step.n);
    if (atomic_load(&s->stop) || i >= atomic_load(&s->until)) return false;
    w->failure = exec_start_unnamed(w->exec, i);
    if (w->failure) {
        fail(w, i);
        return false;
    }
    if (e->awaited[i]) happened(s, i);
    if (s->look && i == e->loss_step) look_at_loss(e);
    return true;
}

static void *walk(void *arg) {
    Walker *w = arg;
    Streams *s = w->exec->streams;
    if (w->exec->pool) pool_unpin_thread(w->exec->pool);
    prctl(PR_SET_TIMERSLACK, 1); /* paced copies sleep often and shortly */
    for (uint32_t turn = 0;; turn++) {
        while (atomic_load(&s->turn) == turn) futex_wait(&s->turn, turn);
        if (s->quit) return NULL;
        for (uint32_t i = 0; i < w->step.n && walk_step(w, w->step.p[i]); i++) {
        }
        if (atomic_fetch_sub(&s->running, 1) == 1) futex_wake(&s->running);
    }
}

static void begin_round(Streams *s, bool look) {
    uint32_t threads = 0;
    for (int i = 0; i < STREAM_COUNT; i++) threads += s->walker[i].started;
    s->round++;
    s->look = look;
    atomic_store(&s->stop, false);
    atomic_store(&s->until, UINT32_MAX);
    atomic_store(&s->running, threads);
    atomic_fetch_add(&s->turn, 1);
    futex_wake(&s->turn);
}

/* The failure of the earliest step; others are dropped. */
static Status end_round(const Exec *e) {
    Streams *s = e->streams;
    Walker *first = NULL;
    for (uint32_t left; (left = atomic_load(&s->running)) != 0;) futex_wait(&s->running, left);
    for (Walker *w = s->walker; w < s->walker + STREAM_COUNT; w++)
        if (w->failure && (!first || w->failed < first->failed)) first = w;
    Status failure = first ? exec_blame(e, first->failed, first->failure) : NULL;
    for (Walker *w = s->walker; w < s->walker + STREAM_COUNT; w++) {
        if (w != first) free(w->failure);
        w->failure = NULL;
    }
    return failure;
}

Status exec_run_streams(Exec *e, bool *stopped) {
    Streams *s = e->streams;
    Walker *own = &s->walker[STREAM_COMPUTE];
    begin_round(s, stopped && e->loss_step != UINT32_MAX);
    if (!s->look) happened(s, e->plan->step.n);
    for (uint32_t k = 0; k < own->step.n && walk_step(own, own->step.p[k]); k++) {
    }
    Status failure = end_round(e);
    if (stopped) *stopped = atomic_load(&s->until) != UINT32_MAX;
    return failure;
}

/* ---- open and close ---- */

/* Does a step change what is kept between steps, on this rank or others? */
static bool is_gated(const Plan *p, const PlanStep *s) {
    if (s->kind == STEP_COLLECTIVE) return true;
    for (uint32_t j = 0; j < s->nargs; j++) {
        BufKind kind = p->buffer.p[s->arg[j].buffer].kind;
        if ((kind == BUF_PARAM || kind == BUF_STATE) && plan_writes(s, j)) return true;
    }
    return false;
}

static Status start_walker(Walker *w) {
    int r = pthread_create(&w->thread, NULL, walk, w);
    if (r != 0) return status_make(EXIT_SYSTEM, "cannot start the thread of a stream");
    w->started = true;
    return NULL;
}

Status exec_open_streams(Exec *e) {
    const Plan *p = e->plan;
    if (!e->ops->threads || plan_streams(p) == 1) return NULL;
    if (plan_streams(p) > STREAM_COUNT)
        return status_make(EXIT_INPUT, "the plan has %d streams, more than there are",
                           plan_streams(p));
    Streams *s = e->streams = xcalloc(1, sizeof *s);
    int loss = e->loss_step == UINT32_MAX ? -1 : p->step.p[e->loss_step].stream;
    s->done = xcalloc((size_t)p->step.n + 1, sizeof *s->done);
    s->gated = xcalloc((size_t)p->step.n + 1, sizeof *s->gated);
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *step = &p->step.p[i];
        vec_push(&s->walker[step->stream].step, i);
        /* The stream of the loss comes behind it anyway. */
        s->gated[i] = loss >= 0 && i > e->loss_step && step->stream != loss && is_gated(p, step);
    }
    for (int i = 0; i < STREAM_COUNT; i++) {
        s->walker[i].exec = e;
        if (i != STREAM_COMPUTE && s->walker[i].step.n > 0) TRY(start_walker(&s->walker[i]));
    }
    return NULL;
}

void exec_close_streams(Exec *e) {
    Streams *s = e->streams;
    if (!s) return;
    s->quit = true;
    atomic_fetch_add(&s->turn, 1);
    futex_wake(&s->turn);
    for (int i = 0; i < STREAM_COUNT; i++) {
        if (s->walker[i].started) pthread_join(s->walker[i].thread, NULL);
        vec_free(&s->walker[i].step);
    }
    free(s->done);
    free(s->gated);
    free(s);
}
