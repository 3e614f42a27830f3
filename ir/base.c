/* base.c: memory (arenas, vectors), growing text, hashing.
 *
 * An arena is a list of chunks; a request larger than a chunk gets one of its own. Chunks come from
 * calloc, so what an arena hands out is zero without being touched twice. */
#include "ir/base.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

enum { FIRST_CHUNK = 16 << 10, LARGEST_CHUNK = 4 << 20, ALIGN = 16 };

typedef struct Chunk {
    struct Chunk *next;
    size_t used, size;
    _Alignas(ALIGN) char data[];
} Chunk;

struct Arena {
    Chunk *head;
    size_t next_size;
};

static noreturn void out_of_memory(size_t bytes) {
    fprintf(stderr, "m6c: out of memory (%zu bytes asked)\n", bytes);
    exit(EXIT_SYSTEM);
}

void *xmalloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *xcalloc(size_t n, size_t bytes) {
    void *p = calloc(n ? n : 1, bytes ? bytes : 1);
    if (!p) out_of_memory(n * bytes);
    return p;
}

void *xrealloc(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) out_of_memory(bytes);
    return q;
}

Arena *arena_new(void) {
    Arena *a = xcalloc(1, sizeof *a);
    a->next_size = FIRST_CHUNK;
    return a;
}

void arena_free(Arena *a) {
    if (!a) return;
    for (Chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(a);
}

static Chunk *arena_chunk(Arena *a, size_t bytes) {
    size_t size = MAX(bytes, a->next_size);
    if (size > SIZE_MAX - sizeof(Chunk)) out_of_memory(bytes);
    Chunk *c = xcalloc(1, sizeof(Chunk) + size);
    c->size = size;
    a->next_size = MIN(a->next_size * 2, (size_t)LARGEST_CHUNK);
    /* A large object must not hide the room that is left in the current chunk. */
    if (a->head && bytes > a->head->size - a->head->used && bytes == size) {
        c->next = a->head->next;
        a->head->next = c;
    } else {
        c->next = a->head;
        a->head = c;
    }
    return c;
}

void *arena_alloc(Arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - ALIGN) out_of_memory(bytes);
    bytes = (MAX(bytes, (size_t)1) + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    Chunk *c = a->head;
    if (!c || c->size - c->used < bytes) c = arena_chunk(a, bytes);
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

char *arena_strdup(Arena *a, const char *s, size_t n) {
    char *p = arena_alloc(a, n + 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *arena_printf(Arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void *vec_grow_(void *p, uint32_t *cap, uint32_t need, size_t size) {
    if (need == 0 || need > UINT32_MAX / 2) out_of_memory((size_t)UINT32_MAX * size);
    *cap = MAX(MAX(need, *cap * 2), 8u);
    return xrealloc(p, *cap * size);
}

/* ---- growing text ---- */

static void buf_reserve(Buf *b, size_t more) {
    if (more > SIZE_MAX / 2 - b->n) out_of_memory(more);
    if (b->n + more + 1 <= b->cap) return;
    b->cap = MAX(b->n + more + 1, MAX(b->cap * 2, (size_t)64));
    b->p = xrealloc(b->p, b->cap);
}

void buf_put(Buf *b, const char *s, size_t n) {
    buf_reserve(b, n);
    if (n) memcpy(b->p + b->n, s, n);
    b->n += n;
    b->p[b->n] = 0;
}

void buf_puts(Buf *b, const char *s) { buf_put(b, s, strlen(s)); }

void buf_vprintf(Buf *b, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    buf_reserve(b, 80);
    int n = vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
    ASSERT(n >= 0);
    if ((size_t)n >= b->cap - b->n) {
        buf_reserve(b, (size_t)n);
        vsnprintf(b->p + b->n, b->cap - b->n, fmt, again);
    }
    va_end(again);
    b->n += (size_t)n;
}

void buf_printf(Buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_free(Buf *b) {
    free(b->p);
    *b = (Buf){0};
}

uint64_t hash_bytes(const void *p, size_t n, uint64_t seed) { return XXH64(p, n, seed); }

struct HashParts {
    XXH64_state_t *state;
};

HashParts *hash_open(void) {
    HashParts *h = xmalloc(sizeof *h);
    h->state = XXH64_createState();
    ASSERT(h->state);
    XXH64_reset(h->state, 0);
    return h;
}

void hash_part(HashParts *h, const void *p, size_t n) { XXH64_update(h->state, p, n); }

uint64_t hash_close(HashParts *h) {
    uint64_t x = XXH64_digest(h->state);
    XXH64_freeState(h->state);
    free(h);
    return x;
}

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
