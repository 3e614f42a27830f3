/* emulator_private.h: the emulator's parts to each other.
 *
 * emulator.c        modules: compile, load, find
 * emulator_run.c    a launch: threads, warps, blocks, barriers; faults
 * emulator_warp.c   what warp operations compute
 * emulator_memory.c guarded memory: buffers, shared arrays; asynchronous copies
 * emulator_race.c   who else accessed what a thread accesses
 * emulator_fiber.c  stacks and the switch between them */
#ifndef M6C_TESTS_EMULATOR_PRIVATE_H
#define M6C_TESTS_EMULATOR_PRIVATE_H

#include "tests/gpu/emulate_api.h"
#include "tests/gpu/emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { EMU_LANES = 32, EMU_MAX_THREADS = 1024 };

/* ---- emulator_fiber.c ---- */
typedef struct Fiber Fiber;
struct Fiber {
    void *context; /* the stack pointer, or a ucontext_t */
    char *stack;   /* its lowest byte; NULL: the launching thread's own */
    size_t size;
    void *fake; /* AddressSanitizer's */
};
Fiber *fiber_new(void (*entry)(void));           /* stays for ever */
void fiber_reset(Fiber *f, void (*entry)(void)); /* forgets what it was doing */
void fiber_switch(Fiber *from, Fiber *to);
void fiber_entered(void); /* the first act of an entry */
bool fiber_overflowed(const Fiber *f, const void *address);

/* ---- a launch ---- */
typedef struct {
    char *to;
    const char *from; /* NULL: zeros */
    const void *pc;
    bool landed;
    uint32_t group;
} Copy;

typedef struct {
    Fiber *fiber; /* NULL before its start and after its end */
    EmuSlot slot;
    uint32_t point; /* what it waits in: point_of(op, line) */
    VEC(Copy) copy;
    uint32_t groups; /* of copies, committed */
} Thread;

typedef struct {
    int first, lanes;     /* threads */
    const uint8_t *order; /* of the lanes in this turn, each ^ flip */
    uint8_t flip, at;
    uint16_t epoch; /* how many WARP_SYNCs it came to */
    Thread *leader; /* the first to arrive in this turn */
} Warp;

typedef struct {
    char name[128];
    void (*run)(void *const *arg);
    EmuModule *module;
    EmuKernelInfo info;
} Kernel;

typedef enum { RACES_NONE, RACES_SHARED, RACES_ALL } Races; /* accesses that are looked at */

struct EmuModule {
    void *handle;
    EmuApi **api;
    char *object; /* path of the .so */
    Races races;
    VEC(Kernel *) kernel;
};

typedef struct {
    const Kernel *kernel;
    void *const *arg;
    int threads, warps;
    int64_t blocks, done, stride; /* the order of the blocks */
    int64_t dynamic;              /* bytes of dynamic shared memory */
    uint64_t random;
    Thread thread[EMU_MAX_THREADS];
    Warp warp[EMU_MAX_THREADS / EMU_LANES];
    Warp *ready[EMU_MAX_THREADS / EMU_LANES];
    int nready;
    Thread *cur;               /* running; NULL: none is left */
    Warp *turn;                /* its warp */
    Thread *first;             /* of the block, to arrive at a barrier or the end */
    Fiber main, *fiber, *left; /* running; the one that was switched from */
    VEC(Fiber *) idle, fibers;
    Buf fault; /* empty: none */
    /* What a signal's handler leaves for the launching thread to describe. */
    int signal;
    const char *address, *pc;
    const char *other_pc; /* of a race */
} Launch;
extern Launch emu;     /* of the one launch that runs */
extern EmuApi emu_api; /* what kernels see of it */

/* One word, because the two are written, and soon after compared, for every switch. */
static inline uint32_t point_of(int op, int line) { return (uint32_t)line << 8 | (uint32_t)op; }
static inline int op_of(const Thread *t) { return t->point & 255; }
static inline int line_of(const Thread *t) { return (int)(t->point >> 8); }

static inline uint32_t emu_random(void) { /* xorshift64* */
    emu.random ^= emu.random >> 12;
    emu.random ^= emu.random << 25;
    emu.random ^= emu.random >> 27;
    return (uint32_t)(emu.random * 0x2545f4914f6cdd1du >> 32);
}
/* Ends the launch. The fault is the current thread's. line 0: unknown. */
noreturn void emu_fail(int line, const char *fmt, ...) PRINTF(2, 3);

noreturn void emu_leave(void); /* the same, when emu.fault is written */

/* ---- emulator_warp.c ---- */
const char *warp_op_name(int op);
void warp_perform(Warp *w, int op); /* all lanes wait in op */

/* ---- emulator_memory.c ---- */
void *memory_shared(int key, int64_t bytes);
void memory_new_launch(void);
void memory_new_block(void);                  /* shared arrays of the block before are gone */
uintptr_t memory_shared_space(size_t *bytes); /* where the shared arrays of all launches are */
bool memory_in_shared(const void *p, int n);  /* all of it inside one of the block's arrays */
/* Says of an address that trapped what it is near to; adds nothing when it is near to nothing. */
void memory_describe(Buf *b, const char *address);
/* Adds a line when a margin around a buffer or a shared array was written to. */
void memory_check_margins(Buf *b);
void memory_copy(void *to, const void *from, int valid, int line);
void memory_commit(void);
void memory_wait_groups(int n);
void *const *memory_args(void *const *arg, int n); /* a copy that ends at a guard */

/* ---- emulator_race.c: for modules with `races` ---- */
void race_new_launch(void);
void race_new_block(void);
void race_barrier(void);
void race_access(const void *p, int n, int write, const void *pc);
void race_matrix_row(const void *p); /* by the current warp */
void race_copy_start(const void *to, const void *from, const void *pc);
void race_copy_done(const void *to, const void *pc);

#endif
