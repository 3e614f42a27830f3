/* emulator_fiber.c: stacks for CUDA threads and the switch between them. On x86_64 a switch saves
 * what the ABI says a function preserves; elsewhere it is ucontext's, which is slower. The floating
 * point environment is not switched: kernels do not change it. */
#include "tests/gpu/emulator_private.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef EMU_ASAN
#include <sanitizer/common_interface_defs.h>
enum { STACK_BYTES = 256 * 1024 };
#else
enum { STACK_BYTES = 64 * 1024 };
#endif

#ifdef __x86_64__
/* Saves the caller's registers on its stack, the stack pointer in *from; goes on where `to` was
 * saved. A plain `ret` is well predicted: fibers mostly wait in the same function. */
void emu_context_switch(void **from, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl emu_context_switch\n"
        ".hidden emu_context_switch\n"
        ".type emu_context_switch, @function\n"
        "emu_context_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emu_context_switch, . - emu_context_switch\n");

static void context_make(Fiber *f, char *top, void (*entry)(void)) {
    void **sp = (void **)((uintptr_t)top & ~(uintptr_t)15);
    *--sp = NULL; /* as if called from nowhere */
    *--sp = (void *)(uintptr_t)entry;
    for (int i = 0; i < 6; i++) *--sp = NULL;
    f->context = sp;
}

static void context_swap(Fiber *from, Fiber *to) {
    emu_context_switch(&from->context, to->context);
}
#else
#include <ucontext.h>

static void context_make(Fiber *f, char *top, void (*entry)(void)) {
    if (!f->context) f->context = xcalloc(1, sizeof(ucontext_t));
    ucontext_t *c = f->context;
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = (size_t)(top - f->stack);
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}

static void context_swap(Fiber *from, Fiber *to) {
    if (!from->context) from->context = xcalloc(1, sizeof(ucontext_t));
    swapcontext(from->context, to->context);
}
#endif

/* Stacks lie one page further apart than their size is; their tops are spread over that page too,
 * or the fibers of a warp would share a few sets of the first-level cache. */
static char *stack_top(const Fiber *f) {
    uintptr_t page = (uintptr_t)f->stack / STACK_BYTES;
    return f->stack + f->size - page * 192 % 4096;
}

Fiber *fiber_new(void (*entry)(void)) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    Fiber *f = xcalloc(1, sizeof *f);
    char *p = mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) BUG("no memory for a fiber's stack");
    f->stack = p + page;
    f->size = STACK_BYTES;
    context_make(f, stack_top(f), entry);
    return f;
}

void fiber_reset(Fiber *f, void (*entry)(void)) {
    ASAN_UNPOISON_MEMORY_REGION(f->stack, f->size);
    f->fake = NULL;
    context_make(f, stack_top(f), entry);
}

bool fiber_overflowed(const Fiber *f, const void *address) {
    const char *p = address;
    return p < f->stack && p >= f->stack - sysconf(_SC_PAGESIZE);
}

/* AddressSanitizer says at each arrival where the stack is that was left: so that of the launching
 * thread, whichever it is this time, becomes known before a switch back. */
static void arrive(void *fake) {
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &bottom, &size);
    emu.left->stack = (char *)(uintptr_t)bottom;
    emu.left->size = size;
#else
    (void)fake;
#endif
}

void fiber_entered(void) { arrive(NULL); }

void fiber_switch(Fiber *from, Fiber *to) {
    emu.left = from;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->size);
#endif
    context_swap(from, to);
    arrive(from->fake);
}
