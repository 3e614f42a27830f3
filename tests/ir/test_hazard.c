/* test_hazard.c: waits between streams, against a brute-force look at every pair of steps. */
#include <stdlib.h>

#include "ir/storage.h"
#include "tests/check.h"

typedef struct {
    uint32_t n;
    TimedStep *step;
} List;

static uint32_t draw(uint64_t *seed, uint32_t below) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
}

/* `space` units of bytes in each memory, accesses of up to `most` units. */
static List random_list(uint64_t seed, uint32_t n, int streams, int64_t space, uint32_t most,
                        Arena *a) {
    List l = {n, arena_array(a, TimedStep, n)};
    for (uint32_t i = 0; i < n; i++) {
        TimedStep *t = &l.step[i];
        t->stream = (Stream)draw(&seed, (uint32_t)streams);
        t->naccess = draw(&seed, 5);
        t->access = arena_array(a, Access, 5);
        for (uint32_t x = 0; x < t->naccess; x++)
            t->access[x] = (Access){.mem = (Mem)draw(&seed, MEM_COUNT),
                                    .write = draw(&seed, 3) == 0,
                                    .at = 64 * draw(&seed, (uint32_t)space),
                                    .bytes = 64 * draw(&seed, most + 1)};
    }
    return l;
}

static bool conflict(const TimedStep *s, const TimedStep *t) {
    for (uint32_t i = 0; i < s->naccess; i++)
        for (uint32_t j = 0; j < t->naccess; j++) {
            const Access *x = &s->access[i], *y = &t->access[j];
            if ((x->write || y->write) && x->mem == y->mem &&
                MAX(x->at, y->at) < MIN(x->at + x->bytes, y->at + y->bytes))
                return true;
        }
    return false;
}

/* before[i * n + j]: step j is certainly done when step i begins. Without the wait `left_out` of
 * step `of`. */
static bool *closure(const List *l, uint32_t of, uint32_t left_out) {
    uint32_t n = l->n, last[STREAM_COUNT];
    bool *before = xcalloc((size_t)n * n, 1);
    for (int s = 0; s < STREAM_COUNT; s++) last[s] = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from[STREAM_COUNT + 1], nfrom = 0;
        const TimedStep *t = &l->step[i];
        if (last[t->stream] != UINT32_MAX) from[nfrom++] = last[t->stream];
        for (uint32_t w = 0; w < t->nwait; w++)
            if (i != of || w != left_out) from[nfrom++] = t->wait[w];
        for (uint32_t f = 0; f < nfrom; f++) {
            before[(size_t)i * n + from[f]] = true;
            for (uint32_t j = 0; j < n; j++)
                if (before[(size_t)from[f] * n + j]) before[(size_t)i * n + j] = true;
        }
        last[t->stream] = i;
    }
    return before;
}

/* Pairs that conflict and that nothing orders. */
static uint32_t unordered(const List *l, const bool *before) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < l->n; i++)
        for (uint32_t j = 0; j < i; j++)
            if (!before[(size_t)i * l->n + j] && conflict(&l->step[i], &l->step[j])) found++;
    return found;
}

static void check_shape(const List *l) {
    for (uint32_t i = 0; i < l->n; i++) {
        const TimedStep *t = &l->step[i];
        CHECK(t->nwait < STREAM_COUNT);
        for (uint32_t w = 0; w < t->nwait; w++) {
            CHECK(t->wait[w] < i && l->step[t->wait[w]].stream != t->stream);
            CHECK(w == 0 || t->wait[w] > t->wait[w - 1]);
        }
    }
}

/* Without any one wait, its step is not known to be done. */
static void check_needed(const List *l) {
    for (uint32_t i = 0; i < l->n; i++)
        for (uint32_t w = 0; w < l->step[i].nwait; w++) {
            bool *before = closure(l, i, w);
            CHECK(!before[(size_t)i * l->n + l->step[i].wait[w]]);
            free(before);
        }
}

static void test_random(void) {
    for (uint64_t seed = 1; seed <= 400; seed++) {
        Arena *a = arena_new();
        uint32_t n = 1 + (uint32_t)(seed * 7 % 48);
        int64_t space = seed % 3 == 0 ? 4 : seed % 3 == 1 ? 30 : 400;
        List l =
            random_list(seed, n, 1 + (int)(seed % STREAM_COUNT), space, seed % 5 == 0 ? 60 : 8, a);
        steps_wait(l.step, n, a);
        check_shape(&l);
        bool *before = closure(&l, UINT32_MAX, 0);
        CHECK(unordered(&l, before) == 0);
        free(before);
        check_needed(&l);
        arena_free(a);
    }
}

/* Steps of one stream, or that touch nothing in common, wait for nothing. */
static void test_none(void) {
    Arena *a = arena_new();
    List one = random_list(5, 200, 1, 10, 8, a);
    steps_wait(one.step, one.n, a);
    for (uint32_t i = 0; i < one.n; i++) CHECK(one.step[i].nwait == 0);
    TimedStep apart[6] = {0};
    Access access[6];
    for (int i = 0; i < 6; i++) {
        access[i] = (Access){.mem = (Mem)(i % 2), .write = true, .at = 64 * (i / 2), .bytes = 64};
        apart[i] = (TimedStep){.stream = (Stream)i, .naccess = 1, .access = &access[i]};
    }
    steps_wait(apart, 6, a);
    for (int i = 0; i < 6; i++) CHECK(apart[i].nwait == 0);
    steps_wait(NULL, 0, a);
    arena_free(a);
}

/* A fetch into bytes that a kernel still reads, and the kernel that reads what was fetched. */
static void test_prefetch(void) {
    Arena *a = arena_new();
    Access write_x = {MEM_DEVICE, true, 0, 128}, read_x = {MEM_DEVICE, false, 0, 128};
    Access host = {MEM_HOST, false, 0, 128}, other = {MEM_DEVICE, false, 64, 64};
    Access fetch[] = {write_x, host}, use[] = {read_x, other};
    TimedStep step[] = {
        {.stream = STREAM_IN, .naccess = 2, .access = fetch},
        {.stream = STREAM_COMPUTE, .naccess = 1, .access = &read_x},
        {.stream = STREAM_COMPUTE, .naccess = 2, .access = use},
        {.stream = STREAM_IN, .naccess = 2, .access = fetch},
        {.stream = STREAM_COMPUTE, .naccess = 1, .access = &other},
    };
    steps_wait(step, 5, a);
    const uint32_t nwait[] = {0, 1, 0, 1, 1}, wait[] = {0, 0, 0, 2, 3};
    for (int i = 0; i < 5; i++)
        CHECK(step[i].nwait == nwait[i] && (!nwait[i] || step[i].wait[0] == wait[i]));
    arena_free(a);
}

/* A plan's size: what grows faster than n log n is noticed here. */
static void test_many(void) {
    Arena *a = arena_new();
    for (uint32_t n = 5000; n <= 20000; n *= 2) {
        List l = random_list(n, n, STREAM_COUNT, 16 * (int64_t)n, 40, a);
        double begin = now_seconds();
        steps_wait(l.step, n, a);
        printf("%u steps: %.2f ms\n", n, 1e3 * (now_seconds() - begin));
        check_shape(&l);
    }
    arena_free(a);
}

int main(void) {
    test_random();
    test_none();
    test_prefetch();
    test_many();
    return check_done("hazard");
}
