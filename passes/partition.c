/* partition.c: the fastest pipeline by dynamic programming, and EPL's partitions.
 *
 * partition_chain makes two tables over (stage, layers done). The first holds the smallest time of
 * the slowest stage; its last entry is the time T. The second holds the fewest bytes sent when no
 * stage takes longer than T, which the first alone cannot say: a part that is faster than T need
 * not be as fast as possible. A stage is extended towards the front, where its time and its bytes
 * only grow, so that the search ends with the first one that is too long or too large. */
#include "passes/partition.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the fastest pipeline ---- */

/* A stage that ends at some layer and grows towards the front. */
typedef struct {
    double us;
    int64_t fixed, active, working;
} Growing;

static void grow(Growing *g, const ChainLayer *layer, const ChainStage *s, uint32_t i) {
    g->us += chain_layer_us(layer, s, i);
    g->fixed += layer[i].fixed;
    g->active += layer[i].active;
    g->working = MAX(g->working, layer[i].working);
}

static double grown_us(const Growing *g, const ChainLayer *layer, const ChainStage *s,
                       uint32_t to) {
    return MAX(g->us, (double)layer[to - 1].cut * s->link);
}

static int64_t grown_bytes(const Growing *g, const ChainStage *s) {
    return g->fixed + g->active * s->in_flight + g->working;
}

static Growing grown(const ChainLayer *layer, const ChainStage *s, uint32_t from, uint32_t to) {
    Growing g = {0};
    for (uint32_t i = to; i-- > from;) grow(&g, layer, s, i);
    return g;
}

double chain_us(const ChainLayer *layer, const ChainStage *s, uint32_t from, uint32_t to) {
    Growing g = grown(layer, s, from, to);
    return grown_us(&g, layer, s, to);
}

int64_t chain_bytes(const ChainLayer *layer, const ChainStage *s, uint32_t from, uint32_t to) {
    Growing g = grown(layer, s, from, to);
    return grown_bytes(&g, s);
}

typedef struct {
    uint32_t n, stages;
    const ChainLayer *layer;
    const ChainStage *stage;
    bool memory;  /* whether stages have to fit */
    double limit; /* no stage may take longer; INFINITY: find the smallest */
    double *best; /* [stages + 1][n + 1]: time of the slowest stage, or bytes sent under a limit */
    uint32_t *from; /* where the last stage of that begins */
} Chain;

static double *best_of(const Chain *c, uint32_t stages, uint32_t layers) {
    return &c->best[(size_t)stages * (c->n + 1) + layers];
}

static uint32_t *from_of(const Chain *c, uint32_t stages, uint32_t layers) {
    return &c->from[(size_t)stages * (c->n + 1) + layers];
}

/* The best of stages 0 … s over the first `to` layers. */
static void end_stage(const Chain *c, uint32_t s, uint32_t to) {
    const ChainStage *stage = &c->stage[s];
    double *best = best_of(c, s + 1, to);
    bool limited = c->limit < INFINITY;
    Growing g = {0};
    *best = INFINITY;
    for (uint32_t from = to; from-- > s;) {
        grow(&g, c->layer, stage, from);
        double us = grown_us(&g, c->layer, stage, to), before = *best_of(c, s, from);
        if (c->memory && stage->memory && grown_bytes(&g, stage) > stage->memory) return;
        if (limited ? us > c->limit : us >= *best) return;
        double cut = from ? (double)c->layer[from - 1].cut : 0;
        double value = limited ? before + cut : MAX(before, us);
        if (value < *best) *best = value, *from_of(c, s + 1, to) = from;
    }
}

static double fill(const Chain *c) {
    for (uint32_t i = 0; i <= c->n; i++) *best_of(c, 0, i) = i ? INFINITY : 0;
    for (uint32_t s = 0; s < c->stages; s++) {
        for (uint32_t to = 0; to <= s; to++) *best_of(c, s + 1, to) = INFINITY;
        for (uint32_t to = s + 1; to <= c->n; to++) end_stage(c, s, to);
    }
    return *best_of(c, c->stages, c->n);
}

static void trace(const Chain *c, uint32_t *first) {
    first[c->stages] = c->n;
    for (uint32_t s = c->stages; s-- > 0;) first[s] = *from_of(c, s + 1, first[s + 1]);
}

/* Says which stage has too little memory when memory is left out of account. */
static void explain(Chain *c, uint32_t *first, Buf *err) {
    c->memory = false;
    fill(c);
    trace(c, first);
    for (uint32_t s = 0; s < c->stages; s++) {
        const ChainStage *stage = &c->stage[s];
        int64_t bytes = chain_bytes(c->layer, stage, first[s], first[s + 1]);
        if (!stage->memory || bytes <= stage->memory) continue;
        buf_printf(err,
                   "no division into %u stages fits; in the fastest, stage %u of layers %u to %u "
                   "needs %lld bytes and has %lld",
                   c->stages, s, first[s], first[s + 1] - 1, (long long)bytes,
                   (long long)stage->memory);
        return;
    }
}

bool partition_chain(uint32_t n, const ChainLayer *layer, uint32_t stages, const ChainStage *stage,
                     uint32_t *first, double *us, Buf *err) {
    if (stages == 0 || n < stages) {
        buf_printf(err, "%u layers cannot be %u stages", n, stages);
        return false;
    }
    size_t entries = (size_t)(stages + 1) * (n + 1);
    Chain c = {n,
               stages,
               layer,
               stage,
               true,
               INFINITY,
               xcalloc(entries, sizeof(double)),
               xcalloc(entries, sizeof(uint32_t))};
    *us = fill(&c);
    bool fits = *us < INFINITY;
    if (fits) {
        c.limit = *us;
        fill(&c);
        trace(&c, first);
    } else {
        explain(&c, first, err);
    }
    free(c.best);
    free(c.from);
    return fits;
}

/* ---- EPL's partitions ---- */

uint32_t partition_buckets(uint32_t n, const int64_t *weight, int64_t size, uint32_t most,
                           Bucket *bucket) {
    uint32_t last = 0;
    bucket[0] = (Bucket){0, 0};
    for (uint32_t i = 0; i < n; i++) {
        Bucket *b = &bucket[last];
        if (b->weight + weight[i] <= size || b->weight == 0) {
            b->weight += weight[i];
        } else {
            if (++last == most) return 0;
            bucket[last] = (Bucket){i, weight[i]};
        }
    }
    return last + 1;
}

/* Weights scaled to 0 … 100 where they differ by more, none below `least`. Their sum. */
static int64_t scaled(uint32_t n, const int64_t *weight, int64_t least, int64_t *out) {
    int64_t lo = INT64_MAX, hi = INT64_MIN, sum = 0;
    for (uint32_t i = 0; i < n; i++) lo = MIN(lo, weight[i]), hi = MAX(hi, weight[i]);
    bool scale = n && hi - lo > 100;
    for (uint32_t i = 0; i < n; i++) {
        double share = scale ? (double)(weight[i] - lo) / (double)(hi - lo) * 100 : 0;
        out[i] = MAX(scale ? (int64_t)share : weight[i], least);
        sum += out[i];
    }
    return sum;
}

uint32_t partition_balance(uint32_t n, const int64_t *weight, uint32_t parts, uint32_t *first) {
    ASSERT(parts > 0);
    int64_t *w = xcalloc(n + 1, sizeof *w), sum = scaled(n, weight, INT64_MIN, w);
    Bucket *bucket = xcalloc(parts, sizeof *bucket);
    uint32_t used = 1;
    /* larger buckets are never more: the smallest size by bisection, below the sum as in EPL */
    int64_t lo = sum / parts, hi = sum;
    while (parts > 1 && lo < hi) {
        int64_t size = lo + (hi - lo) / 2;
        if (partition_buckets(n, w, size, parts, bucket))
            hi = size;
        else
            lo = size + 1;
    }
    if (parts > 1 && hi < sum) used = partition_buckets(n, w, hi, parts, bucket);
    first[0] = 0, first[used] = n;
    for (uint32_t i = 1; i < used; i++) first[i] = bucket[i].start;
    free(bucket);
    free(w);
    return used;
}

/* Fills parts until each has `size`; false when some are left empty. */
static bool fill_parts(uint32_t n, const int64_t *w, int64_t size, uint32_t parts,
                       uint32_t *first) {
    uint32_t last = 0;
    int64_t sum = 0;
    first[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (sum >= size && last + 1 < parts) first[++last] = i, sum = 0;
        sum += w[i];
    }
    first[last + 1] = n;
    return last + 1 == parts;
}

void partition_stages(uint32_t n, const int64_t *weight, uint32_t parts, uint32_t *first) {
    ASSERT(parts > 0);
    if (n <= parts) {
        for (uint32_t i = 0; i <= parts; i++) first[i] = MIN(i, n);
        return;
    }
    int64_t *w = xcalloc(n, sizeof *w), sum = scaled(n, weight, 1, w);
    /* smaller sizes leave fewer parts empty, 1 none: the largest by bisection */
    int64_t lo = 1, hi = sum / parts;
    while (lo < hi) {
        int64_t size = hi - (hi - lo) / 2;
        if (fill_parts(n, w, size, parts, first))
            lo = size;
        else
            hi = size - 1;
    }
    fill_parts(n, w, lo, parts, first);
    free(w);
}

/* ---- repeated blocks ---- */

/* The ops of one scope at some depth: those whose scope begins with it. */
typedef struct {
    uint64_t key; /* of how many ops of which types */
    uint32_t begin, end;
} Group;

typedef struct {
    uint32_t op;
    const char *scope;
    size_t prefix; /* bytes of the scope at the depth */
    int type;
} Member;

/* Bytes of the first `depth` components, 0 when there are fewer. */
static size_t prefix_at(const char *scope, int depth) {
    size_t at = 0;
    while (scope[at] && depth > 0) {
        at += strcspn(scope + at, ".");
        if (--depth > 0) at += scope[at] == '.';
    }
    return depth ? 0 : at;
}

static bool same_scope(const Member *a, const Member *b) {
    return a->prefix == b->prefix && memcmp(a->scope, b->scope, a->prefix) == 0;
}

static int by_scope(const void *x, const void *y) {
    const Member *a = x, *b = y;
    int order = memcmp(a->scope, b->scope, MIN(a->prefix, b->prefix));
    if (order) return order;
    if (a->prefix != b->prefix) return a->prefix < b->prefix ? -1 : 1;
    if (a->type != b->type) return a->type < b->type ? -1 : 1;
    return a->op < b->op ? -1 : a->op > b->op;
}

static int by_key(const void *x, const void *y) {
    const Group *a = x, *b = y;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->begin < b->begin ? -1 : a->begin > b->begin;
}

/* The group that begins at `begin`; key 0: too few types or ops. Members are sorted by type. */
static Group group_at(const Member *m, uint32_t n, uint32_t begin) {
    Group g = {1, begin, begin};
    uint32_t types = 0;
    for (; g.end < n && same_scope(&m[begin], &m[g.end]); g.end++) {
        types += g.end == begin || m[g.end].type != m[g.end - 1].type;
        g.key = hash_mix(g.key, (uint64_t)m[g.end].type + 1);
    }
    if (types <= BLOCK_TYPES || g.end - begin <= BLOCK_OPS) g.key = 0;
    return g;
}

/* Gives the groups with a common key numbers from *blocks on. */
static void take_groups(const Member *m, const Group *g, uint32_t ngroup, uint32_t *block,
                        uint32_t *blocks) {
    for (uint32_t i = 0, end; i < ngroup; i = end) {
        for (end = i; end < ngroup && g[end].key == g[i].key; end++) continue;
        if (g[i].key == 0 || end - i < BLOCK_COPIES) continue;
        for (uint32_t k = i; k < end; k++, (*blocks)++)
            for (uint32_t j = g[k].begin; j < g[k].end; j++) block[m[j].op] = *blocks;
    }
}

/* Blocks at one depth among the ops that have none; false: no scope is as deep. */
static bool blocks_at(uint32_t n, const char *const *scope, const int *type, int depth, Member *m,
                      Group *g, uint32_t *block, uint32_t *blocks) {
    uint32_t members = 0, ngroup = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t prefix = prefix_at(scope[i], depth);
        if (block[i] == NO_BLOCK && prefix) m[members++] = (Member){i, scope[i], prefix, type[i]};
    }
    qsort(m, members, sizeof *m, by_scope);
    for (uint32_t i = 0; i < members; i = g[ngroup++].end) g[ngroup] = group_at(m, members, i);
    qsort(g, ngroup, sizeof *g, by_key);
    take_groups(m, g, ngroup, block, blocks);
    return members > 0;
}

/* Numbers the blocks anew by their first ops. */
static void number_blocks(uint32_t n, uint32_t blocks, uint32_t *block) {
    uint32_t *number = xcalloc(blocks + 1, sizeof *number), next = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (block[i] == NO_BLOCK) continue;
        if (number[block[i]] == 0) number[block[i]] = ++next;
        block[i] = number[block[i]] - 1;
    }
    free(number);
}

uint32_t repeated_blocks(uint32_t n, const char *const *scope, const int *type, uint32_t *block) {
    Member *m = xcalloc(n + 1, sizeof *m);
    Group *g = xcalloc(n + 1, sizeof *g);
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < n; i++) block[i] = NO_BLOCK;
    for (int depth = 1; depth < BLOCK_DEPTH; depth++)
        if (!blocks_at(n, scope, type, depth, m, g, block, &blocks)) break;
    number_blocks(n, blocks, block);
    free(g);
    free(m);
    return blocks;
}

/* The first op of every blocks / stages-th block begins a stage, but for the first. */
static void stages_of_blocks(uint32_t n, const uint32_t *block, uint32_t per_stage, uint32_t stages,
                             uint32_t *first) {
    first[0] = 0, first[stages] = n;
    uint32_t next = 1;
    for (uint32_t i = 0; i < n && next < stages; i++)
        if (block[i] == next * per_stage) first[next++] = i;
}

uint32_t partition_blocks(uint32_t n, const char *const *scope, const int *type, uint32_t stages,
                          uint32_t *first) {
    ASSERT(stages > 0);
    uint32_t *block = xcalloc(n + 1, sizeof *block), used = stages;
    uint32_t blocks = repeated_blocks(n, scope, type, block);
    if (blocks >= BLOCK_COPIES && blocks % stages == 0) {
        stages_of_blocks(n, block, blocks / stages, stages, first);
    } else {
        int64_t *one = xcalloc(n + 1, sizeof *one);
        for (uint32_t i = 0; i < n; i++) one[i] = 1;
        used = partition_balance(n, one, stages, first);
        free(one);
    }
    free(block);
    return used;
}
