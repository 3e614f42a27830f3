/* Checks partition: EPL's own test vectors, its definitions followed literally, and the fastest
 * pipeline against all divisions. */
#include <math.h>
#include <stdlib.h>

#include "passes/partition.h"
#include "tests/check.h"

enum { MOST = 64 };

static uint64_t drawn;
static uint32_t below(uint32_t n) { return philox(5, drawn++, NULL) % n; }

/* ---- EPL ---- */

static void check_buckets(uint32_t n, const int64_t *w, int64_t size, uint32_t most, uint32_t want,
                          const Bucket *bucket) {
    Bucket got[MOST];
    if (!CHECK(partition_buckets(n, w, size, most, got) == want)) return;
    for (uint32_t i = 0; i < want; i++)
        CHECK(got[i].start == bucket[i].start && got[i].weight == bucket[i].weight);
}

static void test_buckets(void) {
    const int64_t ones[] = {1, 1, 1, 1, 1, 1}, mixed[] = {1, 7, 4, 3, 1, 11};
    check_buckets(6, ones, 2, 3, 3, (Bucket[]){{0, 2}, {2, 2}, {4, 2}});
    check_buckets(6, ones, 3, 3, 2, (Bucket[]){{0, 3}, {3, 3}});
    check_buckets(6, mixed, 1, 3, 0, NULL);
    check_buckets(6, mixed, 5, 3, 0, NULL);
    check_buckets(6, mixed, 11, 3, 3, (Bucket[]){{0, 8}, {2, 8}, {5, 11}});
}

static void check_first(uint32_t parts, const uint32_t *got, const uint32_t *want) {
    for (uint32_t i = 0; i <= parts; i++)
        if (!CHECK(got[i] == want[i])) fprintf(stderr, "part %u begins at %u\n", i, got[i]);
}

static void test_balance(void) {
    uint32_t first[MOST];
    CHECK(partition_balance(6, (int64_t[]){1, 1, 1, 1, 1, 1}, 3, first) == 3);
    check_first(3, first, (uint32_t[]){0, 2, 4, 6});
    CHECK(partition_balance(6, (int64_t[]){1, 7, 4, 3, 1, 11}, 3, first) == 3);
    check_first(3, first, (uint32_t[]){0, 2, 5, 6});
    CHECK(partition_balance(4, (int64_t[]){1, 2, 3, 4}, 1, first) == 1);
    check_first(1, first, (uint32_t[]){0, 4});
    /* scaled: 0, 50, 100, 0 */
    CHECK(partition_balance(4, (int64_t[]){1000, 2000, 3000, 1000}, 2, first) == 2);
    check_first(2, first, (uint32_t[]){0, 2, 4});
    CHECK(partition_balance(1, (int64_t[]){5}, 3, first) == 1);
}

static void test_stages(void) {
    uint32_t first[MOST];
    partition_stages(6, (int64_t[]){1, 1, 1, 1, 1, 1}, 3, first);
    check_first(3, first, (uint32_t[]){0, 2, 4, 6});
    partition_stages(2, (int64_t[]){3, 4}, 4, first);
    check_first(4, first, (uint32_t[]){0, 1, 2, 2, 2});
    /* 27 / 3 = 9 down to 8: 1 + 7, 4 + 3 + 1, 11 */
    partition_stages(6, (int64_t[]){1, 7, 4, 3, 1, 11}, 3, first);
    check_first(3, first, (uint32_t[]){0, 2, 5, 6});
    partition_stages(4, (int64_t[]){9, 0, 0, 0}, 4, first);
    check_first(4, first, (uint32_t[]){0, 1, 2, 3, 4});
}

/* The sizes tried one by one, as EPL does. */
static uint32_t balance_slowly(uint32_t n, const int64_t *w, uint32_t parts, uint32_t *first) {
    Bucket bucket[MOST];
    int64_t sum = 0;
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) sum += w[i];
    for (int64_t size = sum / parts; parts > 1 && size < sum && !used; size++)
        used = partition_buckets(n, w, size, parts, bucket);
    for (uint32_t i = 0; i < used; i++) first[i] = bucket[i].start;
    first[0] = 0, first[MAX(used, 1)] = n;
    return MAX(used, 1);
}

static bool stages_slowly(uint32_t n, const int64_t *w, uint32_t parts, uint32_t *first) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += MAX(w[i], 1);
    for (int64_t size = sum / parts; size > 0; size--) {
        uint32_t used = 1;
        int64_t in = 0;
        first[0] = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (in >= size && used < parts) first[used++] = i, in = 0;
            in += MAX(w[i], 1);
        }
        first[used] = n;
        if (used == parts) return true;
    }
    return false;
}

static void test_slowly(void) {
    for (int round = 0; round < 20000; round++) {
        int64_t w[12];
        uint32_t n = 1 + below(12), parts = 1 + below(5), most = 1 + below(30);
        uint32_t got[MOST], want[MOST];
        for (uint32_t i = 0; i < n; i++) w[i] = below(most) * (round % 3 || below(2));
        uint32_t used = balance_slowly(n, w, parts, want);
        if (CHECK(partition_balance(n, w, parts, got) == used)) check_first(used, got, want);
        if (n <= parts) continue;
        partition_stages(n, w, parts, got);
        if (CHECK(stages_slowly(n, w, parts, want))) check_first(parts, got, want);
    }
}

/* ---- repeated blocks ---- */

typedef struct {
    Arena *a;
    VEC(const char *) scope;
    VEC(int) type;
} Ops;

static void add_ops(Ops *o, const char *scope, int n, int types) {
    for (int i = 0; i < n; i++) {
        vec_push(&o->scope, arena_strdup(o->a, scope, strlen(scope)));
        vec_push(&o->type, i % types);
    }
}

static void free_ops(Ops *o) {
    vec_free(&o->scope);
    vec_free(&o->type);
}

/* An embedding, `layers` layers of an attention of 15 ops and a network of 10, and a head. */
static Ops transformer(Arena *a, int layers) {
    Ops o = {.a = a};
    add_ops(&o, "embedding", 3, 3);
    for (int i = 0; i < layers; i++) {
        char scope[64];
        snprintf(scope, sizeof scope, "encoder.block[%d].attention", i);
        add_ops(&o, scope, 15, 6);
        snprintf(scope, sizeof scope, "encoder.block[%d].ffn", i);
        add_ops(&o, scope, 10, 7);
    }
    add_ops(&o, "head", 4, 2);
    return o;
}

static void test_blocks(void) {
    Arena *a = arena_new();
    uint32_t block[1000], first[MOST];
    Ops o = transformer(a, 12); /* so that block[1] is also the beginning of block[10] */
    CHECK(repeated_blocks(o.scope.n, o.scope.p, o.type.p, block) == 12);
    for (uint32_t i = 0; i < o.scope.n; i++)
        CHECK(block[i] == (i < 3 || i >= 303 ? NO_BLOCK : (i - 3) / 25));
    CHECK(partition_blocks(o.scope.n, o.scope.p, o.type.p, 4, first) == 4);
    check_first(4, first, (uint32_t[]){0, 78, 153, 228, 307});
    /* 12 blocks are no 5 stages: 307 ops are 62 or fewer each */
    CHECK(partition_blocks(o.scope.n, o.scope.p, o.type.p, 5, first) == 5);
    check_first(5, first, (uint32_t[]){0, 62, 124, 186, 248, 307});
    free_ops(&o);
    o = transformer(a, 3); /* too few */
    CHECK(repeated_blocks(o.scope.n, o.scope.p, o.type.p, block) == 0);
    free_ops(&o);

    /* too few types, too few ops, and blocks that differ in one op */
    o = (Ops){.a = a};
    const char *scope[] = {"x[0]", "x[1]", "x[2]", "x[3]"};
    for (int i = 0; i < 4; i++) add_ops(&o, scope[i], 30, 5);
    CHECK(repeated_blocks(o.scope.n, o.scope.p, o.type.p, block) == 0);
    free_ops(&o);
    for (int i = 0; i < 4; i++) add_ops(&o, scope[i], 20, 6);
    CHECK(repeated_blocks(o.scope.n, o.scope.p, o.type.p, block) == 0);
    free_ops(&o);
    for (int i = 0; i < 4; i++) add_ops(&o, scope[i], 25 + (i == 3), 6);
    CHECK(repeated_blocks(o.scope.n, o.scope.p, o.type.p, block) == 0);
    free_ops(&o);
    arena_free(a);
}

/* ---- the fastest pipeline ---- */

typedef struct {
    uint32_t n, stages;
    ChainLayer layer[10];
    ChainStage stage[5];
    double own[5][10]; /* what layers take on each stage */
    double us, cut;    /* of the best division so far */
} Case;

/* One stage more, in all ways. */
static void divide(Case *c, uint32_t s, uint32_t from, double us, double cut) {
    if (s == c->stages) {
        if (from == c->n && (us < c->us || (us == c->us && cut < c->cut))) c->us = us, c->cut = cut;
        return;
    }
    for (uint32_t to = from + 1; to <= c->n; to++) {
        const ChainStage *stage = &c->stage[s];
        if (stage->memory && chain_bytes(c->layer, stage, from, to) > stage->memory) continue;
        double sent = to < c->n ? (double)c->layer[to - 1].cut : 0;
        divide(c, s + 1, to, fmax(us, chain_us(c->layer, stage, from, to)), cut + sent);
    }
}

static Case random_case(int kind) {
    Case c = {.n = 1 + below(10), .stages = 1 + below(5), .us = INFINITY, .cut = INFINITY};
    for (uint32_t i = 0; i < c.n; i++)
        c.layer[i] = (ChainLayer){below(9), below(9), below(5), below(9), below(6)};
    c.layer[c.n - 1].cut = 0;
    for (uint32_t s = 0; s < c.stages; s++)
        c.stage[s] = (ChainStage){kind & 1 ? 1 + below(3) : 1, kind & 2 ? 15 + below(60) : 0,
                                  c.stages - s, kind & 4 ? below(4) : 0, NULL};
    return c;
}

/* Stages whose devices are faster at some layers and slower at others. */
static void use_own(Case *c) {
    for (uint32_t s = 0; s < c->stages; s++) {
        for (uint32_t i = 0; i < c->n; i++) c->own[s][i] = below(9);
        c->stage[s].us = c->own[s];
    }
}

static void test_chain(void) {
    int fits = 0, misfits = 0;
    for (int round = 0; round < 20000; round++) {
        Case c = random_case(round & 7);
        if (round & 8) use_own(&c);
        uint32_t first[MOST];
        double us, slowest = 0, cut = 0;
        Buf err = {0};
        divide(&c, 0, 0, 0, 0);
        bool ok = partition_chain(c.n, c.layer, c.stages, c.stage, first, &us, &err);
        CHECK(ok == (c.us < INFINITY) && ok == (err.n == 0));
        fits += ok, misfits += !ok && c.n >= c.stages;
        for (uint32_t s = 0; ok && s < c.stages; s++) {
            CHECK(first[s] < first[s + 1]);
            slowest = fmax(slowest, chain_us(c.layer, &c.stage[s], first[s], first[s + 1]));
            if (s) cut += (double)c.layer[first[s] - 1].cut;
        }
        if (ok) CHECK(us == c.us && slowest == us && cut == c.cut && first[c.stages] == c.n);
        buf_free(&err);
    }
    CHECK(fits > 5000 && misfits > 500);
}

/* By hand: without limits two layers each; with activations of 2 and 1 micro-batches the first
 * stage holds one layer. */
static void test_memory(void) {
    const ChainLayer layer[] = {{1, 0, 4, 0, 1}, {1, 0, 4, 0, 1}, {1, 0, 4, 0, 1}, {1, 0, 4, 0, 1}};
    ChainStage stage[] = {{1, 0, 2, 0, NULL}, {1, 0, 1, 0, NULL}};
    uint32_t first[3];
    double us;
    Buf err = {0};
    CHECK(partition_chain(4, layer, 2, stage, first, &us, &err) && us == 2 && first[1] == 2);
    stage[0].memory = stage[1].memory = 12;
    CHECK(partition_chain(4, layer, 2, stage, first, &us, &err) && us == 3 && first[1] == 1);
    stage[1].memory = 11;
    CHECK(!partition_chain(4, layer, 2, stage, first, &us, &err));
    CHECK_STR(err.p, "no division into 2 stages fits; in the fastest, stage 0 of layers 0 to 1 "
                     "needs 16 bytes and has 12");
    buf_free(&err);
    err = (Buf){0};
    CHECK(!partition_chain(1, layer, 2, stage, first, &us, &err));
    CHECK_STR(err.p, "1 layers cannot be 2 stages");
    buf_free(&err);
}

static void test_large(void) {
    enum { LAYERS = 5000, STAGES = 64 };
    ChainLayer *layer = xcalloc(LAYERS, sizeof *layer);
    ChainStage stage[STAGES];
    uint32_t first[STAGES + 1];
    double us, sum = 0;
    Buf err = {0};
    for (uint32_t i = 0; i < LAYERS; i++) sum += layer[i].us = 1 + below(100);
    for (int s = 0; s < STAGES; s++) stage[s] = (ChainStage){1, 0, STAGES - s, 0, NULL};
    double start = now_seconds();
    CHECK(partition_chain(LAYERS, layer, STAGES, stage, first, &us, &err));
    CHECK(us >= sum / STAGES && us <= sum / STAGES + 100);
    if (!CHECK(now_seconds() - start < 20)) fprintf(stderr, "%g s\n", now_seconds() - start);
    free(layer);
}

int main(void) {
    test_buckets();
    test_balance();
    test_stages();
    test_slowly();
    test_blocks();
    test_chain();
    test_memory();
    test_large();
    return check_done("partition");
}
