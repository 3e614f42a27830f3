/* emulator_race.c: data races, found whatever order the threads ran in. Kernels are compiled with
 * the hooks that -fsanitize=thread puts before each load and store; here they are compared with
 * what was last done to the same bytes. Two accesses of different threads, one of them a write, are
 * a race unless a barrier lies between (or, inside a warp, WARP_SYNC); between blocks nothing lies.
 * Shuffles and votes order nothing, as in CUDA. ldmatrix reads for its whole warp, and has read
 * when it returns. A copy's destination is written from its start to its wait.
 *
 * A mark is one access to two bytes. The last write and the last reads are kept: that a read is
 * forgotten for a later one of the same block behind a barrier, or a byte for its neighbour, can
 * hide a race, but nothing that is reported is none. What barriers separate is numbered: intervals
 * grow from barrier to barrier, block to block and launch to launch, so that nothing is cleared. */
#include "tests/gpu/emulator_private.h"

#include <stdlib.h>
#include <string.h>

/* Who, beyond a thread's number: several lanes of a warp, a warp as one, several of all. A copy
 * that is not waited for comes before nothing, whatever barriers there are. */
enum { LANES_OF = 0x800, MATRIX_OF = 0xc00, COPYING = 0xffd, WARPS = 0xffe, BLOCKS = 0xfff };

typedef struct {
    uint32_t interval, pc; /* pc: its low half */
    uint16_t who;
    uint16_t
        epoch; /* of the warp: how many WARP_SYNCs so far, twice shifted over the bytes' mask */
} Mark;

typedef struct {
    Mark write, read;
} Cell;

enum { PAGE = 4096, CELL_BYTES = 2, CELLS = PAGE / CELL_BYTES, SLOTS = 1 << 16, NEAR = 256 };

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

/* ---- time ---- */

void race_new_launch(void) { race.launch = race.interval + 1; }
void race_new_block(void) { race.block = ++race.interval; }
void race_barrier(void) { race.interval++; }

/* ---- marks ---- */

static int warp_of(uint16_t who) { return who < LANES_OF ? who / EMU_LANES : who % 0x400; }
static uint16_t bytes_of(const Mark *m) { return m->epoch & ((1 << CELL_BYTES) - 1); }
static uint16_t epoch_of(const Mark *m) { return m->epoch >> CELL_BYTES; }

/* Is `m`, which came first, certain to have come before `now`? `from`: older marks do not count. */
static bool ordered(const Mark *m, const Mark *now, uint32_t from) {
    if (m->interval < from) return true;
    if (m->who == COPYING || m->who == BLOCKS || m->interval < race.block) return false;
    if (m->interval < race.interval) return true;
    if (m->who == WARPS || warp_of(m->who) != warp_of(now->who)) return false;
    if (m->who >= MATRIX_OF || epoch_of(m) != epoch_of(now)) return true;
    return m->who == now->who;
}

/* One more reader of the same bytes, where others are not certain to be done. */
static uint16_t merged(const Mark *m, const Mark *now) {
    if (m->who == BLOCKS || m->interval < race.block) return BLOCKS;
    if (m->who == WARPS || warp_of(m->who) != warp_of(now->who)) return WARPS;
    return (uint16_t)(LANES_OF | warp_of(now->who));
}

static void put_who(Buf *b, const Mark *m) {
    if (m->interval < race.block || m->who == BLOCKS)
        buf_puts(b, "another block");
    else if (m->who == COPYING)
        buf_puts(b, "a copy that was not waited for");
    else if (m->who == WARPS)
        buf_puts(b, "several warps");
    else if (m->who >= LANES_OF)
        buf_printf(b, "warp %d", warp_of(m->who));
    else
        buf_printf(b, "thread %d", m->who);
}

/* The whole address of a mark's pc, which is in the kernel's object. */
static const char *whole_pc(uint32_t pc) {
    uintptr_t near = (uintptr_t)emu.kernel->run, half = (uintptr_t)1 << 31;
    uintptr_t at = (near & ~(2 * half - 1)) | pc;
    if (at > near + half) at -= 2 * half;
    if (at + half < near) at += 2 * half;
    return (const char *)at;
}

noreturn static void report(const Page *p, const Mark *m, bool wrote, const char *address,
                            bool write, const char *pc) {
    emu.pc = pc;
    emu.other_pc = m->pc ? whole_pc(m->pc) : NULL;
    if (!pc) buf_printf(&emu.fault, "line %d: ", line_of(emu.cur));
    buf_printf(&emu.fault, "race: %s memory is %s that was %s by ", p->shared ? "shared" : "global",
               write ? "written" : "read", wrote ? "written" : "read");
    put_who(&emu.fault, m);
    memory_describe(&emu.fault, address);
    emu_leave();
}

static void touch(const Page *p, Cell *c, const Mark *now, bool write, const char *address,
                  const char *pc) {
    uint32_t from = p->shared ? race.block : race.launch;
    if ((bytes_of(&c->write) & bytes_of(now)) && !ordered(&c->write, now, from))
        report(p, &c->write, true, address, write, pc);
    bool alone = !(bytes_of(&c->read) & bytes_of(now)) || ordered(&c->read, now, from);
    if (write) {
        if (!alone) report(p, &c->read, false, address, write, pc);
        c->write = *now;
    } else {
        uint16_t who = alone ? now->who : merged(&c->read, now);
        c->read = *now;
        c->read.who = who;
    }
}

/* ---- accesses ---- */

static Cell *cell_of(const char *p, Page **page) {
    *page = page_of((uintptr_t)p / PAGE);
    return &(*page)->cell[(uintptr_t)p % PAGE / CELL_BYTES];
}

static Mark mark_of(uint16_t who, const char *pc) {
    return (Mark){.interval = race.interval,
                  .pc = (uint32_t)(uintptr_t)pc,
                  .who = who,
                  .epoch = (uint16_t)(emu.turn->epoch << CELL_BYTES)};
}

static void access_by(uint16_t who, const char *p, int n, bool write, const char *pc) {
    Mark now = mark_of(who, pc);
    uint16_t epoch = now.epoch;
    for (const char *end = p + n; p < end;) {
        int first = (int)((uintptr_t)p % CELL_BYTES), count = (int)MIN(CELL_BYTES - first, end - p);
        Page *page;
        Cell *c = cell_of(p, &page);
        now.epoch = (uint16_t)(epoch | ((1 << count) - 1) << first);
        touch(page, c, &now, write, p, pc);
        p += count;
    }
}

static uint16_t self(void) { return (uint16_t)(emu.cur - emu.thread); }

void race_access(const void *p, int n, int write, const void *pc) {
    if (emu.kernel->module->races == RACES_ALL) {
        if ((uintptr_t)p - (uintptr_t)emu.fiber->stack < emu.fiber->size) return;
        if ((uintptr_t)p - (uintptr_t)&emu < sizeof emu) return;
        if ((uintptr_t)p - (uintptr_t)&emu_api < sizeof emu_api) return;
    }
    access_by(self(), p, n, write, pc);
}

void race_matrix_row(const void *p) {
    access_by((uint16_t)(MATRIX_OF | (emu.turn - emu.warp)), p, 16, false, NULL);
}

/* The destination's last write is what `who` says, unchecked. */
static void put_write(const char *to, uint16_t who, const char *pc) {
    Mark now = mark_of(who, pc);
    now.epoch |= (1 << CELL_BYTES) - 1;
    for (int i = 0; i < 16; i += CELL_BYTES) {
        Page *page;
        cell_of(to + i, &page)->write = now;
    }
}

void race_copy_start(const void *to, const void *from, const void *pc) {
    if (from && emu.kernel->module->races == RACES_ALL) access_by(self(), from, 16, false, pc);
    access_by(self(), to, 16, true, pc);
    put_write(to, COPYING, pc);
}

void race_copy_done(const void *to, const void *pc) { put_write(to, self(), pc); }
