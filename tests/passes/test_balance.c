/* Checks balance: Algorithm 1 on devices worked out by hand and on random ones against all
 * divisions; virtual devices of EPL's layouts. */
#include <math.h>

#include "passes/balance.h"
#include "tests/check.h"

enum { MOST = 64 };

static int64_t total(uint32_t n, const int64_t *part) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += part[i];
    return sum;
}

static void check_parts(const BalanceWork *w, uint32_t n, const Processor *p, const int64_t *want) {
    int64_t part[MOST];
    Buf err = {0};
    if (!CHECK(balance_load(w, n, p, part, &err))) fprintf(stderr, "%s\n", err.p);
    for (uint32_t i = 0; i < n; i++)
        if (!CHECK(part[i] == want[i]))
            fprintf(stderr, "device %u: %lld, not %lld\n", i, (long long)part[i],
                    (long long)want[i]);
    CHECK(total(n, part) == w->parts);
    buf_free(&err);
}

/* V100-32GB and P100-16GB, the devices of Whale's hardware-aware tests, in FP32 FLOP/s. */
#define GB 1000000000
#define V100                                                                                       \
    { 15.7e12, (int64_t)32 * GB, 0 }
#define P100                                                                                       \
    { 9.3e12, (int64_t)16 * GB, 1 }

static void test_by_hand(void) {
    const Processor same[] = {V100, V100, V100, V100};
    check_parts(&(BalanceWork){64, 1, GB, 0}, 4, same, (int64_t[]){16, 16, 16, 16});
    check_parts(&(BalanceWork){66, 1, 1, 0}, 4, same, (int64_t[]){17, 17, 16, 16});

    /* 15.7 : 9.3 of 100 is 62.8 : 37.2 */
    const Processor mixed[] = {V100, P100};
    check_parts(&(BalanceWork){100, 1, GB / 10, 0}, 2, mixed, (int64_t[]){63, 37});
    /* the P100 holds 32 samples of half a GB: 5 go to the V100, which holds 64 */
    check_parts(&(BalanceWork){96, 1, GB / 2, 0}, 2, mixed, (int64_t[]){64, 32});
    check_parts(&(BalanceWork){90, 1, GB / 2, 0}, 2, mixed, (int64_t[]){58, 32});
    /* 4 GB of weights on each: 56 and 24 samples at most */
    check_parts(&(BalanceWork){80, 1, GB / 2, (int64_t)4 * GB}, 2, mixed, (int64_t[]){56, 24});

    /* a fast device with little memory: of two done at once the emptier takes all it can */
    const Processor odd[] = {{8, 20, 0}, {2, 35, 0}, {1, 1000, 0}};
    check_parts(&(BalanceWork){11, 1, 10, 0}, 3, odd, (int64_t[]){2, 2, 7});
    /* uneven sharding of a dimension: 1024 columns in proportion */
    check_parts(&(BalanceWork){1024, 1, 1, 0}, 2, (const Processor[]){{3, 4096, 0}, {1, 4096, 0}},
                (int64_t[]){768, 256});
}

static void test_misfit(void) {
    int64_t part[2];
    Buf err = {0};
    const Processor mixed[] = {V100, P100};
    CHECK(!balance_load(&(BalanceWork){97, 1, GB / 2, 0}, 2, mixed, part, &err));
    CHECK_STR(err.p,
              "the devices hold 96 parts of 97: device 1 would need 16500000000 bytes for 33 "
              "of them and has 16000000000");
    CHECK(total(2, part) == 97);
    buf_free(&err);
}

/* ---- random devices against all divisions ---- */

typedef struct {
    const BalanceWork *w;
    const Processor *p;
    uint32_t n;
    double sum, best; /* best: the smallest distance from the proportion, INFINITY: nothing fits */
} Search;

static double distance(const Search *s, const int64_t *part) {
    double d = 0;
    for (uint32_t i = 0; i < s->n; i++)
        d += fabs((double)part[i] - (double)s->w->parts * s->p[i].flops / s->sum);
    return d;
}

static void divide(Search *s, int64_t *part, uint32_t i, int64_t left) {
    if (i + 1 == s->n) {
        part[i] = left;
        if (balance_fill(s->w, &s->p[i], left) <= 1) s->best = fmin(s->best, distance(s, part));
        return;
    }
    for (part[i] = 0; part[i] <= left; part[i]++)
        if (balance_fill(s->w, &s->p[i], part[i]) <= 1) divide(s, part, i + 1, left - part[i]);
}

static int64_t below(uint32_t n) {
    static uint64_t drawn;
    return philox(11, drawn++, NULL) % n;
}

static void test_random(void) {
    int fits = 0, misfits = 0;
    for (int round = 0; round < 3000; round++) {
        Processor p[4];
        int64_t part[4], other[4];
        uint32_t n = (uint32_t)(1 + below(4));
        BalanceWork w = {below(13), 1 + (double)below(5), 1 + below(4), below(8) * (round & 1)};
        Search s = {&w, p, n, 0, INFINITY};
        for (uint32_t i = 0; i < n; i++) {
            p[i] = (Processor){1 + (double)below(6), 3 + below(16), 0};
            s.sum += p[i].flops;
        }
        Buf err = {0};
        bool ok = balance_load(&w, n, p, part, &err);
        divide(&s, other, 0, w.parts);
        if (!CHECK(ok == (s.best < INFINITY))) fprintf(stderr, "round %d\n", round);
        CHECK(total(n, part) == w.parts);
        for (uint32_t i = 0; ok && i < n; i++)
            CHECK(part[i] >= 0 && balance_fill(&w, &p[i], part[i]) <= 1);
        /* as near to the proportion as whole parts allow: rounding may be a part off per device */
        if (ok) CHECK(distance(&s, part) <= s.best + (double)n);
        fits += ok, misfits += !ok;
        buf_free(&err);
    }
    CHECK(fits > 500 && misfits > 500);
}

/* ---- virtual devices ---- */

static void check_devices(const VirtualDevices *v, const uint32_t *want) {
    for (uint32_t i = 0; i < v->replicas * v->each; i++) CHECK(v->device[i] == want[i]);
}

static void test_virtual(void) {
    Arena *a = arena_new();
    Buf err = {0};
    Processor p[8];
    VirtualDevices v;
    for (int i = 0; i < 8; i++) p[i] = (Processor){1, 1, i / 4}; /* 2 nodes of 4 */
    const uint32_t one[] = {1}, pair[] = {1, 1}, uneven[] = {1, 3}, three[] = {3}, wide[] = {4, 4};

    CHECK(virtual_devices(8, p, 1, one, VIRTUAL_ROWS, false, &v, a, &err));
    CHECK(v.replicas == 8 && v.each == 1 && v.crossing == 0);
    CHECK(virtual_devices(8, p, 2, pair, VIRTUAL_ROWS, false, &v, a, &err));
    CHECK(v.replicas == 4 && v.crossing == 0 && v.first[0] == 0 && v.first[1] == 1);
    check_devices(&v, (uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7});
    /* by column: each replica has a stage on either node */
    CHECK(virtual_devices(8, p, 2, pair, VIRTUAL_COLUMNS, false, &v, a, &err));
    CHECK(v.crossing == 4);
    check_devices(&v, (uint32_t[]){0, 4, 1, 5, 2, 6, 3, 7});
    CHECK(virtual_devices(8, p, 2, uneven, VIRTUAL_ROWS, false, &v, a, &err));
    CHECK(v.replicas == 2 && v.each == 4 && v.first[1] == 1 && v.crossing == 0);
    /* split and replicate on the same devices */
    CHECK(virtual_devices(8, p, 2, wide, VIRTUAL_ROWS, true, &v, a, &err));
    CHECK(v.replicas == 2 && v.each == 4 && v.first[1] == 0);
    CHECK(virtual_devices(8, p, 2, wide, VIRTUAL_ROWS, false, &v, a, &err));
    CHECK(v.replicas == 1 && v.crossing == 1);

    CHECK(!virtual_devices(8, p, 1, three, VIRTUAL_ROWS, false, &v, a, &err));
    CHECK_STR(err.p, "8 devices are not a multiple of the 3 that one replica of the model has");
    buf_free(&err);
    arena_free(a);
}

static void test_stage_order(void) {
    const Processor p[] = {{1, 16, 0}, {1, 32, 0}, {1, 8, 0}, {1, 32, 0}};
    uint32_t order[4];
    balance_stage_order(4, p, order);
    CHECK(order[0] == 1 && order[1] == 3 && order[2] == 0 && order[3] == 2);
}

int main(void) {
    test_by_hand();
    test_misfit();
    test_random();
    test_virtual();
    test_stage_order();
    return check_done("balance");
}
