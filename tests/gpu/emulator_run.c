/* emulator_run.c: one launch. There is no scheduler of its own: the thread that waits or ends
 * chooses who goes on and switches to it. A warp's turn lasts until each of its lanes has come to
 * a barrier, a warp operation or the end, all to the same one: after a warp operation it mostly
 * goes on (so that warps drift far apart), after a barrier or the end another warp of the block has
 * its turn. A fiber whose thread has ended runs the next thread that was not started yet, so that
 * threads without barriers cost a call each.
 *
 * Faults leave from where they are noticed, a signal's handler included, by a switch to the
 * launching thread; the fibers of the others are then forgotten where they are. */
#include "tests/gpu/emulator_private.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

Launch emu;
EmuApi emu_api;
static pthread_mutex_t launching = PTHREAD_MUTEX_INITIALIZER;
static pthread_t launcher;

/* ---- orders ---- */

enum { ORDERS = 64 };

/* A few random orders of lanes; each turn takes one, and a random lane to XOR with it. */
static const uint8_t *lane_order(uint32_t random) {
    static uint8_t order[ORDERS][EMU_LANES];
    if (order[0][0] == order[0][1]) {
        for (uint32_t k = 0; k < ORDERS; k++)
            for (uint32_t i = 0; i < EMU_LANES; i++) {
                uint32_t j = philox(k, i, NULL) % (i + 1);
                order[k][i] = order[k][j];
                order[k][j] = (uint8_t)i;
            }
    }
    return order[random % ORDERS];
}

/* ---- faults ---- */

void emu_leave(void) {
    fiber_switch(emu.fiber, &emu.main);
    BUG("a fiber went on after a fault");
}

void emu_fail(int line, const char *fmt, ...) {
    va_list ap;
    if (line) buf_printf(&emu.fault, "line %d: ", line);
    va_start(ap, fmt);
    buf_vprintf(&emu.fault, fmt, ap);
    va_end(ap);
    emu_leave();
}

static void api_fault(int line, const char *what, const void *address) {
    emu_fail(line, "%s at %p", what, address);
}

static void put_waits(Buf *b, const Thread *t) {
    buf_printf(b, "thread %d ", (int)(t - emu.thread));
    if (op_of(t) == EMU_END)
        buf_puts(b, "has ended");
    else
        buf_printf(b, "waits at the %s of line %d", warp_op_name(op_of(t)), line_of(t));
}

noreturn static void divergent(const Thread *t, const Thread *other) {
    Buf b = {0};
    put_waits(&b, t);
    buf_puts(&b, ", but ");
    put_waits(&b, other);
    bool warp = op_of(t) > EMU_END || op_of(other) > EMU_END;
    buf_puts(&b, warp ? ": all lanes of a warp must come to the same one"
                      : ": all threads of a block must come to the same barrier");
    buf_puts(&emu.fault, b.p);
    buf_free(&b);
    emu_leave();
}

/* ---- who goes on ---- */

static void block_start(void) {
    emu_api.bid = (int32_t)((emu_api.bid + emu.stride) % emu.blocks);
    memory_new_block();
    race_new_block();
    for (int i = 0; i < emu.warps; i++) emu.ready[i] = &emu.warp[i];
    emu.nready = emu.warps;
    emu.first = NULL;
}

static void turn_start(Warp *w) {
    uint32_t random = emu_random();
    w->order = lane_order(random >> 8);
    w->flip = random % EMU_LANES;
    w->at = 0;
    w->leader = NULL;
    emu.turn = w;
}

static Warp *take_ready(void) {
    int i = (int)(emu_random() % (uint32_t)emu.nready);
    Warp *w = emu.ready[i];
    emu.ready[i] = emu.ready[--emu.nready];
    return w;
}

/* All threads have come to a barrier, or to the end. False: no block is left. */
static bool block_arrived(void) {
    if (op_of(emu.first) == EMU_SYNC) {
        for (int i = 0; i < emu.warps; i++) emu.ready[i] = &emu.warp[i];
        emu.nready = emu.warps;
        emu.first = NULL;
        race_barrier();
        return true;
    }
    if (++emu.done == emu.blocks) return false;
    block_start();
    return true;
}

/* The lanes of w have all come to the same point. False: there is nothing left to run. */
static bool turn_end(Warp *w) {
    Thread *t = w->leader;
    if (op_of(t) > EMU_END) {
        if (w->lanes < EMU_LANES)
            emu_fail(line_of(t), "%s in the last warp, which has %d lanes", warp_op_name(op_of(t)),
                     w->lanes);
        warp_perform(w, op_of(t));
        if (emu.nready == 0 || emu_random() % 16 != 0) {
            turn_start(w);
            return true;
        }
        emu.ready[emu.nready++] = w;
    } else if (!emu.first) {
        emu.first = t;
    } else if (t->point != emu.first->point) {
        divergent(t, emu.first);
    }
    if (emu.nready == 0 && !block_arrived()) return false;
    turn_start(take_ready());
    return true;
}

static Thread *next_lane(Warp *w) {
    while (w->at < EMU_LANES) {
        int lane = w->order[w->at++] ^ w->flip;
        if (lane < w->lanes) return &emu.thread[w->first + lane];
    }
    return NULL;
}

/* The current thread waits or has ended: makes another the current one, or none. */
static void choose(void) {
    Thread *t = emu.cur;
    Warp *w = emu.turn;
    if (!w->leader)
        w->leader = t;
    else if (t->point != w->leader->point)
        divergent(t, w->leader);
    Thread *next = next_lane(w);
    if (!next) next = turn_end(w) ? next_lane(emu.turn) : NULL;
    emu.cur = next;
    if (!next) return;
    emu_api.tid = (int32_t)(next - emu.thread);
    emu_api.slot = &next->slot;
}

/* ---- fibers ---- */

static void go(Fiber *to) {
    Fiber *from = emu.fiber;
    emu.fiber = to;
    fiber_switch(from, to);
}

static void run_thread(void) {
    Thread *t = emu.cur;
    t->fiber = emu.fiber;
    t->copy.n = t->groups = 0;
    emu.kernel->run(emu.arg);
    t->fiber = NULL;
    t->point = point_of(EMU_END, 0);
    choose();
}

static void fiber_main(void) {
    fiber_entered();
    for (;;) {
        do run_thread();
        while (emu.cur && !emu.cur->fiber);
        vec_push(&emu.idle, emu.fiber);
        go(emu.cur ? emu.cur->fiber : &emu.main);
    }
}

/* The fiber of the current thread; an idle one when it has not started. */
static Fiber *fiber_of_current(void) {
    if (emu.cur->fiber) return emu.cur->fiber;
    if (emu.idle.n) return emu.idle.p[--emu.idle.n];
    Fiber *f = fiber_new(fiber_main);
    vec_push(&emu.fibers, f);
    return f;
}

static void api_wait(int op, int line) {
    Thread *t = emu.cur;
    t->point = point_of(op, line);
    choose();
    if (emu.cur != t) go(fiber_of_current());
}

static void forget_fibers(void) {
    emu.idle.n = 0;
    for (uint32_t i = 0; i < emu.fibers.n; i++) {
        fiber_reset(emu.fibers.p[i], fiber_main);
        vec_push(&emu.idle, emu.fibers.p[i]);
    }
    for (int i = 0; i < EMU_MAX_THREADS; i++) emu.thread[i].fiber = NULL;
    emu.fiber = &emu.main;
}

/* ---- signals ---- */

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static void on_signal(int number, siginfo_t *info, void *context) {
    if (!pthread_equal(pthread_self(), launcher) || !emu.fiber || emu.fiber == &emu.main) {
        signal(number, SIG_DFL); /* not a kernel's: happens again, and ends the process */
        return;
    }
    emu.signal = number;
    emu.address = info->si_addr;
#if defined(__x86_64__) && defined(__linux__)
    emu.pc = (const char *)(uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#else
    (void)context;
#endif
    emu_leave();
}

typedef struct {
    struct sigaction old[COUNT(signals)];
    stack_t old_stack;
    char *stack;
} Signals;

static void signals_take(Signals *s) {
    enum { BYTES = 128 * 1024 };
    struct sigaction a = {.sa_sigaction = on_signal,
                          .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static char *stack;
    if (!stack) stack = xmalloc(BYTES);
    stack_t st = {.ss_sp = stack, .ss_size = BYTES};
    sigemptyset(&a.sa_mask);
    sigaltstack(&st, &s->old_stack);
    for (size_t i = 0; i < COUNT(signals); i++) sigaction(signals[i], &a, &s->old[i]);
}

static void signals_give(Signals *s) {
    for (size_t i = 0; i < COUNT(signals); i++) sigaction(signals[i], &s->old[i], NULL);
    sigaltstack(&s->old_stack, NULL);
}

/* The line in the .cu, if addr2line is there to say it. */
static void put_line_of(Buf *b, const char *before, const char *pc, const char *after) {
    Dl_info where;
    char text[512] = "", command[1024];
    if (!pc || !dladdr(pc, &where) || !where.dli_fname) return;
    snprintf(command, sizeof command, "addr2line -e '%s' 0x%tx 2>/dev/null", where.dli_fname,
             pc - (const char *)where.dli_fbase);
    FILE *f = popen(command, "r");
    if (!f) return;
    if (fgets(text, sizeof text, f) && strstr(text, ".cu:"))
        buf_printf(b, "%s%d%s", before, atoi(strstr(text, ".cu:") + 4), after);
    pclose(f);
}

static void describe_signal(Buf *b) {
    put_line_of(b, "line ", emu.pc, ": ");
    switch (emu.signal) {
    case SIGFPE: buf_puts(b, "integer division by zero"); return;
    case SIGILL:
        buf_puts(b, "undefined behaviour: a misaligned access, or an index outside an array");
        return;
    default: break;
    }
    if (emu.fiber != &emu.main && fiber_overflowed(emu.fiber, emu.address)) {
        buf_puts(b, "the thread's stack overflows");
        return;
    }
    buf_printf(b, "access to %p", (const void *)emu.address);
    memory_describe(b, emu.address);
}

static void describe_fault(Buf *b) {
    if (emu.pc) put_line_of(b, "line ", emu.pc - 1, ": ");
    buf_puts(b, emu.fault.p);
    if (emu.other_pc) put_line_of(b, "; there in line ", emu.other_pc - 1, "");
}

/* ---- launch ---- */

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

static Status check_launch(const Kernel *k, int64_t blocks, int threads, int64_t shared) {
    if (blocks < 1 || blocks > INT32_MAX)
        return status_make(EXIT_INPUT, "kernel %s: %lld blocks", k->name, (long long)blocks);
    if (threads < 1 || threads > EMU_MAX_THREADS || threads > k->info.threads)
        return status_make(EXIT_INPUT, "kernel %s: %d threads, but it is made for up to %d",
                           k->name, threads, k->info.threads);
    if (shared < 0)
        return status_make(EXIT_INPUT, "kernel %s: %lld bytes of shared memory", k->name,
                           (long long)shared);
    return NULL;
}

static void launch_start(const Kernel *k, int64_t blocks, int threads, uint64_t seed) {
    emu.kernel = k;
    emu.random = hash_mix(seed, 0x6d3663) | 1;
    emu.threads = threads;
    emu.warps = (threads + EMU_LANES - 1) / EMU_LANES;
    emu.blocks = blocks;
    emu.done = 0;
    emu.signal = 0;
    emu.pc = emu.other_pc = NULL;
    emu.fault.n = 0;
    emu.stride = emu_random() % blocks + 1;
    while (gcd(emu.stride, blocks) != 1) emu.stride++;
    emu_api.bid = (int32_t)(emu_random() % blocks);
    for (int i = 0; i < emu.warps; i++) {
        int first = i * EMU_LANES;
        emu.warp[i] = (Warp){.first = first, .lanes = MIN(EMU_LANES, threads - first)};
    }
    memory_new_launch();
    race_new_launch();
    block_start();
    turn_start(take_ready());
    emu.cur = next_lane(emu.turn);
    emu_api.tid = (int32_t)(emu.cur - emu.thread);
    emu_api.slot = &emu.cur->slot;
}

static void run_all(void) {
    Signals before;
    emu.fiber = &emu.main;
    launcher = pthread_self();
    signals_take(&before);
    go(fiber_of_current());
    signals_give(&before);
}

static Status result(const Kernel *k) {
    Buf b = {0};
    buf_printf(&b, "kernel %s", k->name);
    bool fault = emu.signal || emu.fault.n;
    if (fault) buf_printf(&b, ", block %d, thread %d", emu_api.bid, (int)(emu.cur - emu.thread));
    buf_puts(&b, ": ");
    size_t before = b.n;
    if (emu.signal)
        describe_signal(&b);
    else if (emu.fault.n)
        describe_fault(&b);
    else
        memory_check_margins(&b);
    if (fault) forget_fibers();
    Status s = b.n > before ? status_make(EXIT_INPUT, "%s", b.p) : NULL;
    buf_free(&b);
    return s;
}

Status emu_launch(void *kernel, int64_t blocks, int threads, int64_t shared, void *const *arg,
                  uint64_t seed) {
    const Kernel *k = kernel;
    TRY(check_launch(k, blocks, threads, shared));
    pthread_mutex_lock(&launching);
    emu_api.wait = api_wait;
    emu_api.shared = memory_shared;
    emu_api.copy = memory_copy;
    emu_api.commit = memory_commit;
    emu_api.wait_groups = memory_wait_groups;
    emu_api.fault = api_fault;
    emu_api.access = race_access;
    emu_api.watch = memory_shared_space(&emu_api.watch_bytes);
    if (k->module->races == RACES_ALL) emu_api.watch = 0, emu_api.watch_bytes = SIZE_MAX;
    *k->module->api = &emu_api;
    emu.dynamic = shared;
    emu.arg = memory_args(arg, k->info.nargs);
    launch_start(k, blocks, threads, seed);
    run_all();
    Status s = result(k);
    pthread_mutex_unlock(&launching);
    return s;
}
