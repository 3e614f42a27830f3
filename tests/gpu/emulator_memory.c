/* emulator_memory.c: memory whose ends trap. A region is pages between two pages without access;
 * what was asked for lies at its end, the margin before it (and up to 15 bytes behind it) is 0xff
 * and looked at after each launch, so that writes there are seen too. Shared arrays are such
 * regions, kept from launch to launch; asynchronous copies end in them. */
#include "tests/gpu/emulator_private.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    char *base; /* the first page that can be accessed */
    size_t room;
    char *p;
    size_t bytes;
    uint64_t block, launch; /* a shared array: when last in use */
} Region;

static struct {
    VEC(Region) buffer, shared; /* shared: by key */
    VEC(uint32_t) here;         /* keys in use in this block */
    uint64_t block, launch;     /* counts */
    char *space;                /* where all shared arrays are */
    size_t used;
    Region args;
} memory;

static pthread_mutex_t buffers = PTHREAD_MUTEX_INITIALIZER; /* memory.buffer: of all threads */

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static void region_free(Region *r) {
    size_t page = page_size();
    if (!r->base) return;
    ASAN_UNPOISON_MEMORY_REGION(r->base, r->room);
    munmap(r->base - page, r->room + 2 * page);
    *r = (Region){0};
}

static void region_map(Region *r, size_t bytes) {
    size_t page = page_size(), room = round_up(MAX(bytes, 1), page);
    char *p = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + page, room, PROT_READ | PROT_WRITE) != 0)
        BUG("no memory for %zu bytes between guards", bytes);
    r->base = p + page;
    r->room = room;
}

/* Bytes that end at the guard but for their own alignment; everything else is margin. */
static void region_place(Region *r, size_t bytes, size_t whole) {
    ASAN_UNPOISON_MEMORY_REGION(r->base, r->room);
    memset(r->base, 0xff, r->room);
    r->p = r->base + r->room - whole;
    r->bytes = bytes;
    ASAN_POISON_MEMORY_REGION(r->base, r->room);
    ASAN_UNPOISON_MEMORY_REGION(r->p, bytes);
}

/* ---- buffers ---- */

void *emu_buffer(int64_t bytes) {
    Region r = {0};
    size_t whole = round_up((size_t)bytes, 16);
    region_map(&r, whole);
    region_place(&r, (size_t)bytes, whole);
    pthread_mutex_lock(&buffers);
    vec_push(&memory.buffer, r);
    pthread_mutex_unlock(&buffers);
    return r.p;
}

void emu_buffer_free(void *p) {
    pthread_mutex_lock(&buffers);
    for (uint32_t i = 0; i < memory.buffer.n; i++) {
        if (memory.buffer.p[i].p != p) continue;
        region_free(&memory.buffer.p[i]);
        memory.buffer.p[i] = memory.buffer.p[--memory.buffer.n];
        break;
    }
    if (memory.buffer.n == 0) vec_free(&memory.buffer);
    pthread_mutex_unlock(&buffers);
}

void *const *memory_args(void *const *arg, int n) {
    size_t bytes = sizeof *arg * (size_t)n;
    if (memory.args.room < bytes) {
        region_free(&memory.args);
        region_map(&memory.args, bytes);
    }
    region_place(&memory.args, bytes, bytes);
    if (n) memcpy(memory.args.p, arg, bytes);
    return (void *const *)(void *)memory.args.p;
}

/* ---- shared arrays ---- */

void memory_new_launch(void) { memory.launch++; }

void memory_new_block(void) {
    memory.block++;
    memory.here.n = 0;
}

static Region *shared_region(uint32_t key) {
    uint32_t n = memory.shared.n;
    if (key >= n) {
        vec_reserve(&memory.shared, key + 1);
        memset(&memory.shared.p[n], 0, (key + 1 - n) * sizeof(Region));
        memory.shared.n = key + 1;
    }
    return &memory.shared.p[key];
}

/* They are in one stretch of addresses, so that one comparison tells them from other memory. What
 * grows moves to the next pages that were never used. */
enum { SHARED_SPACE = 1 << 30 };

uintptr_t memory_shared_space(size_t *bytes) {
    if (!memory.space) {
        memory.space =
            mmap(NULL, SHARED_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory.space == MAP_FAILED) BUG("no address space for shared memory");
    }
    *bytes = SHARED_SPACE;
    return (uintptr_t)memory.space;
}

static void shared_grow(Region *r, size_t bytes) {
    size_t page = page_size(), room = round_up(MAX(bytes, 1), page);
    char *base = memory.space + memory.used + page;
    memory.used += room + page;
    if (memory.used + page > SHARED_SPACE || mprotect(base, room, PROT_READ | PROT_WRITE) != 0)
        BUG("no memory for %zu shared bytes", bytes);
    if (r->base) {
        madvise(r->base, r->room, MADV_DONTNEED);
        mprotect(r->base, r->room, PROT_NONE);
    }
    r->base = base;
    r->room = room;
}

static void shared_place(Region *r, size_t bytes, size_t align) {
    size_t whole = round_up(bytes, align);
    if (!r->base || r->room < whole) shared_grow(r, whole);
    region_place(r, bytes, whole);
}

void *memory_shared(int key, int64_t bytes) {
    Region *r = shared_region((uint32_t)key);
    size_t n = (size_t)(key ? bytes : emu.dynamic), align = key ? 16 : 128;
    if (r->block == memory.block) return r->p;
    if (r->launch == memory.launch && r->bytes == n)
        memset(r->p, 0xff, n);
    else
        shared_place(r, n, align);
    r->block = memory.block;
    r->launch = memory.launch;
    vec_push(&memory.here, (uint32_t)key);
    return r->p;
}

bool memory_in_shared(const void *p, int n) {
    for (uint32_t i = 0; i < memory.here.n; i++) {
        const Region *r = &memory.shared.p[memory.here.p[i]];
        ptrdiff_t at = (const char *)p - r->p;
        if (at >= 0 && at + n <= (ptrdiff_t)r->bytes) return true;
    }
    return false;
}

/* ---- margins ---- */

/* The first of n bytes that is not 0xff, or NULL. */
static const char *first_written(const char *p, size_t n) {
    if (n == 0 || (*p == (char)0xff && memcmp(p, p + 1, n - 1) == 0)) return NULL;
    while (*p == (char)0xff) p++;
    return p;
}

/* The same of a margin, which is poisoned. */
static const char *margin_written(const char *p, const char *end) {
    ASAN_UNPOISON_MEMORY_REGION(p, (size_t)(end - p));
    const char *found = first_written(p, (size_t)(end - p));
    ASAN_POISON_MEMORY_REGION(p, (size_t)(end - p));
    return found;
}

static void put_place(Buf *b, const Region *r, const char *address, const char *what) {
    if (address < r->p)
        buf_printf(b, "%td bytes before %s of %zu bytes", r->p - address, what, r->bytes);
    else if (address >= r->p + r->bytes)
        buf_printf(b, "%td bytes behind the end of %s of %zu bytes",
                   address - r->p - (ptrdiff_t)r->bytes, what, r->bytes);
    else
        buf_printf(b, "at byte %td of %s of %zu bytes", address - r->p, what, r->bytes);
}

static const char *shared_name(uint32_t key) {
    return key ? "a shared array" : "the dynamic shared memory";
}

static bool check_margin(Buf *b, const Region *r, const char *what) {
    const char *at = margin_written(r->base, r->p);
    if (!at) at = margin_written(r->p + r->bytes, r->base + r->room);
    if (!at) return false;
    buf_puts(b, "a write ");
    put_place(b, r, at, what);
    return true;
}

static bool check_buffers(Buf *b) {
    bool found = false;
    pthread_mutex_lock(&buffers);
    for (uint32_t i = 0; i < memory.buffer.n && !found; i++)
        found = check_margin(b, &memory.buffer.p[i], "a buffer");
    pthread_mutex_unlock(&buffers);
    return found;
}

void memory_check_margins(Buf *b) {
    bool found = check_buffers(b);
    for (uint32_t i = 0; i < memory.shared.n && !found; i++)
        if (memory.shared.p[i].launch == memory.launch)
            found = check_margin(b, &memory.shared.p[i], shared_name(i));
}

static bool near(const Region *r, const char *address) {
    return r->base && address >= r->base - page_size() && address < r->base + r->room + page_size();
}

static bool describe(Buf *b, const Region *r, const char *address, const char *what) {
    if (!near(r, address)) return false;
    buf_puts(b, ", ");
    put_place(b, r, address, what);
    return true;
}

void memory_describe(Buf *b, const char *address) {
    bool found = false;
    for (uint32_t i = 0; i < memory.here.n && !found; i++) {
        uint32_t key = memory.here.p[i];
        found = describe(b, &memory.shared.p[key], address, shared_name(key));
    }
    pthread_mutex_lock(&buffers);
    for (uint32_t i = 0; i < memory.buffer.n && !found; i++)
        found = describe(b, &memory.buffer.p[i], address, "a buffer");
    pthread_mutex_unlock(&buffers);
    if (!found && near(&memory.args, address)) buf_puts(b, ", behind the kernel's arguments");
}

/* ---- asynchronous copies ---- */

static void land(Copy *c) {
    c->landed = true;
    if (c->from)
        memcpy(c->to, c->from, 16);
    else
        memset(c->to, 0, 16);
}

/* Reads the source now, so that a bad address is this call's. */
static void touch(const char *from) {
    volatile const char *p = from;
    (void)p[0];
    (void)p[15];
}

void memory_copy(void *to, const void *from, int valid, int line) {
    Thread *t = emu.cur;
    if (((uintptr_t)to | (uintptr_t)from) & 15)
        emu_fail(line, "cp_async16: misaligned, to %p from %p", to, from);
    if (!memory_in_shared(to, 16))
        emu_fail(line, "cp_async16: the destination %p is not inside a shared array", to);
    if (valid && memory_in_shared(from, 1))
        emu_fail(line, "cp_async16: the source %p is in shared memory", from);
    if (valid) touch(from);
    Copy c = {.to = to, .from = valid ? from : NULL, .group = t->groups};
    c.pc = __builtin_return_address(0);
    if (emu.kernel->module->races) race_copy_start(to, c.from, c.pc);
    if (emu_random() % 4 == 0) land(&c);
    vec_push(&t->copy, c);
}

void memory_commit(void) { emu.cur->groups++; }

/* All but the n newest committed groups land, in order. */
void memory_wait_groups(int n) {
    Thread *t = emu.cur;
    uint32_t done = 0;
    for (; done < t->copy.n; done++) {
        Copy *c = &t->copy.p[done];
        if ((int64_t)c->group >= (int64_t)t->groups - n) break;
        if (!c->landed) land(c);
        if (emu.kernel->module->races) race_copy_done(c->to, c->pc);
    }
    if (done == 0) return;
    t->copy.n -= done;
    memmove(t->copy.p, t->copy.p + done, t->copy.n * sizeof(Copy));
}
