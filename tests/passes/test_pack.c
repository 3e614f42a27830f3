/* Checks pack: placements never overlap, no height is below the proven bound; small instances get
 * the height that trying all orders finds; rectangles cut into pieces are put together again. */
#include <stdlib.h>

#include "passes/pack.h"
#include "tests/check.h"

enum { MOST = 1000, SMALL = 8, WIDE = 16 };

typedef struct {
    uint32_t seed;
    uint64_t counter;
    uint32_t n;
    PackItem item[MOST];
    int64_t offset[MOST];
} Instance;

static uint32_t below(Instance *x, uint32_t n) { return philox(x->seed, x->counter++, NULL) % n; }

static bool meet(const PackItem *a, const PackItem *b) {
    return a->lower < b->upper && b->lower < a->upper;
}

static int64_t round_up(int64_t size, int64_t align) { return (size + align - 1) / align * align; }

/* Overlaps, offsets that are not aligned, and ends above the height. */
static int mistakes(const Instance *x, int64_t align, int64_t height) {
    int wrong = 0;
    int64_t most = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        int64_t at = x->offset[i], end = at + round_up(x->item[i].size, align);
        wrong += at < 0 || at % align || end > height;
        most = MAX(most, end);
        for (uint32_t k = 0; k < i; k++) {
            int64_t other = x->offset[k], other_end = other + round_up(x->item[k].size, align);
            wrong += meet(&x->item[i], &x->item[k]) && at < other_end && other < end;
        }
    }
    return wrong + (most != height);
}

static int64_t largest_live(const Instance *x, int64_t align) {
    int64_t most = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        int64_t live = 0;
        for (uint32_t k = 0; k < x->n; k++)
            if (x->item[k].lower <= x->item[i].lower && x->item[i].lower < x->item[k].upper)
                live += round_up(x->item[k].size, align);
        most = MAX(most, live);
    }
    return most;
}

/* Packs and checks; returns the height. */
static int64_t packed(Instance *x, PackLimits limits, int64_t *bound) {
    Arena *a = arena_new();
    int64_t height = pack_limited(x->item, x->n, &limits, x->offset, bound, a);
    arena_free(a);
    CHECK(mistakes(x, limits.align, height) == 0);
    CHECK(largest_live(x, limits.align) <= *bound && (*bound <= height || !x->n));
    return height;
}

/* ---- all orders ---- */

/* Placing buffers in some order, each as low as those before allow, gives the lowest height. */
static void try_orders(const Instance *x, uint32_t used, const int64_t *floor, int64_t height,
                       int64_t *best) {
    if (height >= *best) return;
    if (used == (1u << x->n) - 1) *best = height;
    for (uint32_t i = 0; i < x->n; i++) {
        if (used >> i & 1) continue;
        int64_t next[WIDE], at = 0;
        memcpy(next, floor, sizeof next);
        for (int64_t t = x->item[i].lower; t < x->item[i].upper; t++) at = MAX(at, next[t]);
        int64_t end = at + x->item[i].size;
        for (int64_t t = x->item[i].lower; t < x->item[i].upper; t++) next[t] = end;
        try_orders(x, used | 1u << i, next, MAX(height, end), best);
    }
}

static void make_small(Instance *x, uint32_t seed) {
    x->seed = seed;
    x->counter = 0;
    x->n = 2 + below(x, SMALL - 1);
    uint32_t wide = 3 + below(x, WIDE - 4), high = 2 + below(x, 12);
    for (uint32_t i = 0; i < x->n; i++) {
        uint32_t from = below(x, wide), to = from + 1 + below(x, MIN(wide - from, 5));
        x->item[i] = (PackItem){from, to, 1 + below(x, high)};
    }
}

/* Without and with a capacity: at the lowest height it fits, below it is proven impossible. */
static void test_small(void) {
    Instance x;
    for (uint32_t seed = 0; seed < 3000; seed++) {
        make_small(&x, seed);
        int64_t floor[WIDE] = {0}, best = INT64_MAX, bound;
        try_orders(&x, 0, floor, 0, &best);
        PackLimits limits = {.align = 1, .effort = 50000000};
        CHECK(packed(&x, limits, &bound) == best && bound == best);
        limits.enough = best;
        CHECK(packed(&x, limits, &bound) == best);
        limits.enough = best - 1;
        if (limits.enough) CHECK(packed(&x, limits, &bound) >= best && bound == best);
    }
}

/* ---- random ones ---- */

/* Lifetimes as a compiler's: most buffers live shortly, some long, sizes of a few magnitudes. */
static void make_random(Instance *x, uint32_t seed) {
    x->seed = seed;
    x->counter = 0;
    x->n = 1 + below(x, 300);
    for (uint32_t i = 0; i < x->n; i++) {
        uint32_t from = below(x, 400), life = below(x, 8) ? 1 + below(x, 20) : 1 + below(x, 300);
        int64_t size = below(x, 40) ? (int64_t)(1 + below(x, 64)) << below(x, 10) : 0;
        x->item[i] = (PackItem){(int64_t)from - 200, (int64_t)from - 200 + life, size};
    }
}

static void test_random(void) {
    Instance x;
    for (uint32_t seed = 0; seed < 60; seed++) {
        make_random(&x, seed);
        int64_t bound, quick, searched;
        int64_t align = seed & 1 ? 64 : 1;
        quick = packed(&x, (PackLimits){.align = align}, &bound);
        searched = packed(&x, (PackLimits){.align = align, .effort = 3000000}, &bound);
        CHECK(searched <= quick);
        int64_t first[MOST];
        memcpy(first, x.offset, x.n * sizeof *first);
        packed(&x, (PackLimits){.align = align, .effort = 3000000}, &bound);
        CHECK(memcmp(first, x.offset, x.n * sizeof *first) == 0); /* deterministic */
    }
}

/* ---- rectangles cut from edge to edge ---- */

static void cut(Instance *x, int64_t from, int64_t to, int64_t low, int64_t high, uint32_t pieces) {
    bool wide = to - from > 1, tall = high - low > 1;
    if (pieces == 1 || (!wide && !tall)) {
        x->item[x->n++] = (PackItem){from, to, high - low};
        return;
    }
    uint32_t half = 1 + below(x, pieces - 1);
    if (wide && (!tall || below(x, 2))) {
        int64_t at = from + 1 + below(x, (uint32_t)(to - from - 1));
        cut(x, from, at, low, high, half);
        cut(x, at, to, low, high, pieces - half);
    } else {
        int64_t at = low + 1 + below(x, (uint32_t)(high - low - 1));
        cut(x, from, to, low, at, half);
        cut(x, from, to, at, high, pieces - half);
    }
}

/* No byte is free at any time. */
static void test_perfect(void) {
    enum { HIGH = 1 << 20 };
    static const struct {
        uint32_t pieces, wide;
    } sizes[] = {{20, 12}, {50, 40}, {100, 100}, {200, 1000}, {400, 4000}};
    Instance x;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (uint32_t seed = 0; seed < 4; seed++) {
            x.seed = seed;
            x.n = 0, x.counter = 0;
            cut(&x, 0, sizes[i].wide, 0, HIGH, sizes[i].pieces);
            int64_t bound;
            PackLimits limits = {.align = 1, .enough = HIGH, .effort = INT64_C(4000000000)};
            int64_t height = packed(&x, limits, &bound);
            if (!CHECK(height == HIGH))
                fprintf(stderr, "%u pieces, seed %u: height %lld\n", x.n, seed, (long long)height);
        }
}

/* ---- odd ones ---- */

static void test_odd(void) {
    Instance x = {.n = 0};
    int64_t bound = -1;
    CHECK(packed(&x, (PackLimits){.align = 64}, &bound) == 0 && bound == 0);
    x.n = 1;
    x.item[0] = (PackItem){INT64_MIN, INT64_MAX, 5};
    CHECK(packed(&x, (PackLimits){.align = 64}, &bound) == 64 && bound == 64);
    x.item[0].size = 0;
    CHECK(packed(&x, (PackLimits){.align = 1, .effort = 100}, &bound) == 0);
    for (x.n = 0; x.n < 300; x.n++) x.item[x.n] = (PackItem){0, 1, 7};
    CHECK(packed(&x, (PackLimits){.align = 1, .enough = 2099, .effort = 100}, &bound) == 2100);
    CHECK(bound == 2100);
}

int main(void) {
    test_odd();
    test_small();
    test_random();
    test_perfect();
    return check_done("pack");
}
