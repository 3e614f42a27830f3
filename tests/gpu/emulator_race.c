/* emulator_race.c: data races, found whatever order the threads ran in. Kernels are compiled with
 * the hooks that -fsanitize=thread puts before each load and store; here they are compared with
 * what was last done to the same bytes. Two accesses of different threads, one of them a write, are
 * a race unless a barrier lies between (or, inside a warp, WARP_SYNC); between blocks nothing lies.
 * Shuffles and votes order nothing, as in CUDA. ldmatrix reads for its whole warp, and has read
 * when it returns. A copy's destination is written from its start to its wait.
 *
 * A mark is one access to (some of) four bytes. The last write and the last reads are kept: that a
 * read is forgotten for a later one of the same block behind a barrier, or a byte for its
 * neighbour, can hide a race, but nothing that is reported is none. What barriers separate is
 * numbered: intervals grow from barrier to barrier, block to block and launch to launch, so that
 * nothing is cleared. */
#include "tests/gpu/emulator_private.h"

#include <stdlib.h>
#include <string.h>

/* Who, beyond a thread's number: several lanes of a warp, a warp as one, several of all. A copy
 * that is not waited for comes before nothing, whatever barriers there are. */
enum { LANES_OF = 0x800, MATRIX_OF = 0xc00, COPYING = 0xffd, WARPS = 0xffe, BLOCKS = 0xfff };

/* what: who, then the epoch of their warp (how many WARP_SYNCs so far), then which of the bytes:
 * one word, because marks are compared soon after they were written. pc: its low half. */
typedef struct {
    uint32_t interval, what, pc;
} Mark;

typedef struct {
    Mark write, read;
} Cell;

enum { PAGE = 4096, CELL_BYTES = 4, CELLS = PAGE / CELL_BYTES, SLOTS = 1 << 16, NEAR = 256 };

typedef struct {
    uintptr_t page; /* address / PAGE */
    bool shared;
    Cell *cell;
} Page;

static struct {
    uint32_t interval, block, launch; /* the current one; the first of this block, launch */
    Page *near[NEAR];                 /* by page % NEAR */
    Page **slot;                      /* open addressing */
    uint32_t pages;
} race;

/* ---- pages ---- */

static Page *page_find(uintptr_t page) {
    if (!race.slot) race.slot = xcalloc(SLOTS, sizeof(Page *));
    uint32_t i = (uint32_t)(page * 0x9e3779b97f4a7c15u >> 48) % SLOTS;
    size_t space;
    while (race.slot[i] && race.slot[i]->page != page) i = (i + 1) % SLOTS;
    if (!race.slot[i]) {
        if (++race.pages > SLOTS / 2) BUG("a kernel touches more than %d pages", SLOTS / 2);
        Page *p = race.slot[i] = xcalloc(1, sizeof *p);
        p->page = page;
        p->shared = page * PAGE - memory_shared_space(&space) < space;
        p->cell = xcalloc(CELLS, sizeof(Cell));
    }
    return race.near[page % NEAR] = race.slot[i];
}

static Page *page_of(uintptr_t page) {
    Page *p = race.near[page % NEAR];
    return p && p->page == page ? p : page_find(page);
}

static Cell *cell_of(const Page *page, const char *p) {
    return &page->cell[(uintptr_t)p % PAGE / CELL_BYTES];
}

/* ---- time ---- */

void race_new_launch(void) { race.launch = race.interval + 1; }
void race_new_block(void) { race.block = ++race.interval; }
void race_barrier(void) { race.interval++; }

/* ---- marks ---- */

enum { BYTES = (1 << CELL_BYTES) - 1 };

static uint32_t what_of(uint32_t who, uint32_t epoch, uint32_t bytes) {
    return who << 16 | (epoch << CELL_BYTES & 0xffff) | bytes;
}
static uint32_t who_of(Mark m) { return m.what >> 16; }
static uint32_t epoch_of(Mark m) { return (m.what & 0xffff) >> CELL_BYTES; }
static bool meet(Mark m, Mark now) { return m.what & now.what & BYTES; }
static uint32_t warp_of(Mark m) {
    uint32_t who = who_of(m);
    return who < LANES_OF ? who / EMU_LANES : who % 0x400;
}

/* Is `m`, which came first, certain to have come before `now`? `from`: older marks do not count. */
static inline bool ordered(Mark m, Mark now, uint32_t from) {
    uint32_t who = who_of(m);
    if (m.interval < from) return true;
    if (who == COPYING || who == BLOCKS || m.interval < race.block) return false;
    if (m.interval < race.interval) return true;
    if (who == WARPS || warp_of(m) != warp_of(now)) return false;
    if (who >= MATRIX_OF || epoch_of(m) != epoch_of(now)) return true;
    return who == who_of(now);
}

/* One more reader of the same bytes, where others are not certain to be done. */
static uint32_t merged(Mark m, Mark now) {
    uint32_t who = LANES_OF | warp_of(now);
    if (who_of(m) == WARPS || warp_of(m) != warp_of(now)) who = WARPS;
    if (who_of(m) == BLOCKS || m.interval < race.block) who = BLOCKS;
    return who << 16 | (now.what & 0xffff);
}

/* Would `now` change nothing among the reads? */
static inline bool seen(Mark m, Mark now) {
    if (m.interval != now.interval) return false;
    return m.what == now.what || (who_of(m) == WARPS && !(~m.what & now.what & BYTES));
}

static void put_who(Buf *b, Mark m) {
    uint32_t who = who_of(m);
    if (m.interval < race.block || who == BLOCKS)
        buf_puts(b, "another block");
    else if (who == COPYING)
        buf_puts(b, "a copy that was not waited for");
    else if (who == WARPS)
        buf_puts(b, "several warps");
    else if (who >= LANES_OF)
        buf_printf(b, "warp %u", warp_of(m));
    else
        buf_printf(b, "thread %u", who);
}

/* The whole address of a mark's pc, which is in the kernel's object. */
static const char *whole_pc(uint32_t pc) {
    uintptr_t near = (uintptr_t)emu.kernel->run, half = (uintptr_t)1 << 31;
    uintptr_t at = (near & ~(2 * half - 1)) | pc;
    if (at > near + half) at -= 2 * half;
    if (at + half < near) at += 2 * half;
    return (const char *)at;
}

noreturn static void report(const Page *p, Mark m, bool wrote, const char *address, bool write,
                            const char *pc) {
    emu.pc = pc;
    emu.other_pc = m.pc ? whole_pc(m.pc) : NULL;
    if (!pc) buf_printf(&emu.fault, "line %d: ", line_of(emu.cur));
    buf_printf(&emu.fault, "race: %s memory is %s that was %s by ", p->shared ? "shared" : "global",
               write ? "written" : "read", wrote ? "written" : "read");
    put_who(&emu.fault, m);
    memory_describe(&emu.fault, address);
    emu_leave();
}

static inline void touch(const Page *p, Cell *c, Mark now, bool write, const char *address,
                         const char *pc) {
    uint32_t from = p->shared ? race.block : race.launch;
    if (meet(c->write, now) && !ordered(c->write, now, from))
        report(p, c->write, true, address, write, pc);
    if (!write && seen(c->read, now)) return;
    bool alone = !meet(c->read, now) || ordered(c->read, now, from);
    if (write && !alone) report(p, c->read, false, address, write, pc);
    if (!alone) now.what = merged(c->read, now);
    *(write ? &c->write : &c->read) = now;
}

/* ---- accesses ---- */

static inline void access_by(uint32_t who, const char *p, int n, bool write, const char *pc) {
    Mark now = {.interval = race.interval, .pc = (uint32_t)(uintptr_t)pc};
    uint32_t epoch = emu.turn->epoch;
    for (const char *end = p + n; p < end;) {
        int first = (int)((uintptr_t)p % CELL_BYTES), count = (int)MIN(CELL_BYTES - first, end - p);
        const Page *page = page_of((uintptr_t)p / PAGE);
        now.what = what_of(who, epoch, ((1u << count) - 1) << first);
        touch(page, cell_of(page, p), now, write, p, pc);
        p += count;
    }
}

static uint32_t self(void) { return (uint32_t)(emu.cur - emu.thread); }

void race_access(const void *p, int n, int write, const void *pc) {
    if (emu_api.watch == 0) { /* everything */
        if ((uintptr_t)p - (uintptr_t)emu.fiber->stack < emu.fiber->size) return;
        if ((uintptr_t)p - (uintptr_t)&emu < sizeof emu) return;
        if ((uintptr_t)p - (uintptr_t)&emu_api < sizeof emu_api) return;
    }
    access_by((uint32_t)emu_api.tid, p, n, write, pc);
}

void race_matrix_row(const void *p) {
    access_by(MATRIX_OF | (uint32_t)(emu.turn - emu.warp), p, 16, false, NULL);
}

/* The destination's last write is what `who` says, unchecked. */
static void put_write(const char *to, uint32_t who, const char *pc) {
    Mark now = {.interval = race.interval,
                .what = what_of(who, emu.turn->epoch, BYTES),
                .pc = (uint32_t)(uintptr_t)pc};
    for (int i = 0; i < 16; i += CELL_BYTES)
        cell_of(page_of((uintptr_t)to / PAGE), to + i)->write = now;
}

void race_copy_start(const void *to, const void *from, const void *pc) {
    if (from && emu.kernel->module->races == RACES_ALL) access_by(self(), from, 16, false, pc);
    access_by(self(), to, 16, true, pc);
    put_write(to, COPYING, pc);
}

void race_copy_done(const void *to, const void *pc) { put_write(to, self(), pc); }
