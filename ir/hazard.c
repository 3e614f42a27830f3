/* hazard.c: which steps of other streams a step must wait for.
 *
 * Each memory is cut at every address where some access begins or ends. A segment runs from one
 * live cut to the next, and all its bytes have the same history: the last step that wrote them, and
 * since then the last reader on each stream. Cuts come alive when an access needs them and die when
 * a write covers them, so that what a step touches costs, over all steps, a constant number of
 * searches. All cuts are known beforehand, and the live ones are a bit set with summaries of 64
 * bits each: the nearest one is found in a few words.
 *
 * What a stream knows is one number per stream: the last step there that is certainly done. It
 * grows by what the stream waits for, and by what that step's own stream knew then. Steps are
 * looked at latest first, so that a wait that another one implies is never asked for. */
#include "ir/storage.h"

#include <string.h>

enum { LEVELS = 5, WORD = 64 };

/* Numbers of steps count from 1 here: 0 is none. */
typedef struct {
    uint32_t writer, reader[STREAM_COUNT];
} Segment;

typedef struct {
    uint32_t done[STREAM_COUNT];
} Clock;

/* The cuts at which an access begins and ends. */
typedef struct {
    uint32_t from, to;
} Extent;

typedef struct {
    uint64_t *cut; /* distinct, ascending */
    uint32_t n;
    Segment *segment;       /* of each live cut */
    uint64_t *live[LEVELS]; /* bit i of level l + 1: word i of level l is not zero */
    Clock *after;           /* by step: what is known to be done once it is done */
    Extent *extent;         /* of the accesses of the step that is looked at */
} Hazard;

/* ---- the set of live cuts ---- */

static void set_live(Hazard *h, uint32_t i) {
    for (int l = 0; l < LEVELS; l++, i /= WORD) h->live[l][i / WORD] |= (uint64_t)1 << i % WORD;
}

static void set_dead(Hazard *h, uint32_t i) {
    for (int l = 0; l < LEVELS; l++, i /= WORD)
        if ((h->live[l][i / WORD] &= ~((uint64_t)1 << i % WORD)) != 0) return;
}

/* The last live cut at or before i; there is one: the first cut of all is always live. */
static uint32_t live_before(const Hazard *h, uint32_t i) {
    for (int l = 0;; l++, i = i / WORD - 1) {
        uint64_t w = h->live[l][i / WORD] & (UINT64_MAX >> (WORD - 1 - i % WORD));
        if (!w) continue;
        i = i / WORD * WORD + (WORD - 1 - (uint32_t)__builtin_clzll(w));
        while (l-- > 0) i = i * WORD + (WORD - 1 - (uint32_t)__builtin_clzll(h->live[l][i]));
        return i;
    }
}

/* The first live cut after i; there is one: the last cut of all is always live. */
static uint32_t live_after(const Hazard *h, uint32_t i) {
    i++;
    for (int l = 0;; l++, i = i / WORD + 1) {
        uint64_t w = h->live[l][i / WORD] & (UINT64_MAX << i % WORD);
        if (!w) continue;
        i = i / WORD * WORD + (uint32_t)__builtin_ctzll(w);
        while (l-- > 0) i = i * WORD + (uint32_t)__builtin_ctzll(h->live[l][i]);
        return i;
    }
}

/* ---- all cuts ---- */

/* Memories lie far apart, so that no access runs from one into another. */
static uint64_t key_of(Mem mem, int64_t at) { return (uint64_t)mem << 60 | (uint64_t)at; }

/* Digit by digit, least first; digits that all keys share cost nothing. */
static void sort_keys(uint64_t *key, uint64_t *spare, size_t n) {
    uint64_t any = 0, all = UINT64_MAX;
    for (size_t i = 0; i < n; i++) any |= key[i], all &= key[i];
    for (int shift = 0; shift < 64; shift += 8) {
        size_t at[257] = {0};
        if (!((any ^ all) >> shift & 255)) continue;
        for (size_t i = 0; i < n; i++) at[(key[i] >> shift & 255) + 1]++;
        for (int b = 0; b < 256; b++) at[b + 1] += at[b];
        for (size_t i = 0; i < n; i++) spare[at[key[i] >> shift & 255]++] = key[i];
        memcpy(key, spare, n * sizeof *key);
    }
}

static void find_cuts(Hazard *h, const TimedStep *step, uint32_t n, Arena *a) {
    size_t most = 2, nkey = 0;
    for (uint32_t i = 0; i < n; i++) most += 2 * (size_t)step[i].naccess;
    ASSERT(most < (size_t)1 << 30);
    uint64_t *key = arena_array(a, uint64_t, most), *spare = arena_array(a, uint64_t, most);
    key[nkey++] = 0;
    key[nkey++] = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++)
        for (const Access *x = step[i].access; x < step[i].access + step[i].naccess; x++) {
            if (x->bytes <= 0) continue;
            key[nkey++] = key_of(x->mem, x->at);
            key[nkey++] = key_of(x->mem, x->at + x->bytes);
        }
    sort_keys(key, spare, nkey);
    for (size_t i = 0; i < nkey; i++)
        if (h->n == 0 || key[i] != key[h->n - 1]) key[h->n++] = key[i];
    h->cut = key;
}

static uint32_t find_cut(const Hazard *h, uint64_t key) {
    uint32_t lo = 0, hi = h->n;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        *(h->cut[mid] <= key ? &lo : &hi) = mid;
    }
    return lo;
}

static void hazard_open(Hazard *h, const TimedStep *step, uint32_t n, Arena *a) {
    find_cuts(h, step, n, a);
    uint32_t words = h->n;
    for (int l = 0; l < LEVELS; l++) {
        words = words / WORD + 1;
        h->live[l] = arena_array(a, uint64_t, words);
    }
    h->segment = arena_array(a, Segment, h->n);
    h->after = arena_array(a, Clock, n);
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) most = MAX(most, step[i].naccess);
    h->extent = arena_array(a, Extent, most);
    set_live(h, 0);
    set_live(h, h->n - 1);
}

/* ---- history ---- */

/* Makes a cut live: its segment is the rest of the one it lies in. */
static void revive(Hazard *h, uint32_t i) {
    uint32_t before = live_before(h, i);
    if (before == i) return;
    h->segment[i] = h->segment[before];
    set_live(h, i);
}

static Extent extent_of(Hazard *h, const Access *x) {
    Extent e = {find_cut(h, key_of(x->mem, x->at)), find_cut(h, key_of(x->mem, x->at + x->bytes))};
    revive(h, e.from);
    revive(h, e.to);
    return e;
}

/* need[s]: the last step of stream s that this access must come after. */
static void need_history(const Hazard *h, Extent e, bool write, uint32_t need[STREAM_COUNT],
                         const TimedStep *step) {
    for (uint32_t i = e.from; i != e.to; i = live_after(h, i)) {
        const Segment *g = &h->segment[i];
        if (g->writer) {
            uint32_t *last = &need[step[g->writer - 1].stream];
            *last = MAX(*last, g->writer);
        }
        for (int s = 0; write && s < STREAM_COUNT; s++) need[s] = MAX(need[s], g->reader[s]);
    }
}

static void read_by(Hazard *h, Extent e, Stream s, uint32_t number) {
    for (uint32_t i = e.from; i != e.to; i = live_after(h, i)) h->segment[i].reader[s] = number;
}

/* Its bytes have one history from now on. Cuts can be dead here: a step may write bytes twice. */
static void written_by(Hazard *h, Extent e, uint32_t number) {
    revive(h, e.from);
    revive(h, e.to);
    for (uint32_t i = live_after(h, e.from); i != e.to; i = live_after(h, i)) set_dead(h, i);
    h->segment[e.from] = (Segment){.writer = number};
}

/* What step `number` must come after; then it is part of the history itself. */
static void visit(Hazard *h, const TimedStep *step, uint32_t number, uint32_t need[STREAM_COUNT]) {
    const TimedStep *t = &step[number - 1];
    for (uint32_t i = 0; i < t->naccess; i++) {
        if (t->access[i].bytes <= 0) continue;
        h->extent[i] = extent_of(h, &t->access[i]);
        need_history(h, h->extent[i], t->access[i].write, need, step);
    }
    for (uint32_t i = 0; i < t->naccess; i++)
        if (t->access[i].bytes > 0 && !t->access[i].write)
            read_by(h, h->extent[i], t->stream, number);
    for (uint32_t i = 0; i < t->naccess; i++)
        if (t->access[i].bytes > 0 && t->access[i].write) written_by(h, h->extent[i], number);
}

/* ---- waits ---- */

/* The latest step needed that is not known to be done; 0: none. */
static uint32_t latest_unknown(const uint32_t need[STREAM_COUNT], const Clock *known) {
    uint32_t latest = 0;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (need[s] > known->done[s]) latest = MAX(latest, need[s]);
    return latest;
}

static void add_waits(Hazard *h, TimedStep *t, const uint32_t need[STREAM_COUNT], Clock *known,
                      Arena *a) {
    uint32_t wait[STREAM_COUNT], n = 0;
    for (uint32_t w; (w = latest_unknown(need, known)) != 0;) {
        wait[n++] = w - 1;
        for (int s = 0; s < STREAM_COUNT; s++)
            known->done[s] = MAX(known->done[s], h->after[w - 1].done[s]);
    }
    t->nwait = n;
    if (n == 0) return;
    t->wait = arena_array(a, uint32_t, n);
    for (uint32_t i = 0; i < n; i++) t->wait[i] = wait[n - 1 - i]; /* ascending */
}

static bool one_stream(const TimedStep *step, uint32_t n) {
    for (uint32_t i = 1; i < n; i++)
        if (step[i].stream != step[0].stream) return false;
    return true;
}

void steps_wait(TimedStep *step, uint32_t n, Arena *a) {
    Arena *scratch;
    Hazard h = {0};
    Clock known[STREAM_COUNT] = {0}; /* before the stream's next step */
    for (uint32_t i = 0; i < n; i++) step[i].nwait = 0, step[i].wait = NULL;
    if (one_stream(step, n)) return;
    scratch = arena_new();
    hazard_open(&h, step, n, scratch);
    for (uint32_t i = 0; i < n; i++) {
        Clock *k = &known[step[i].stream];
        uint32_t need[STREAM_COUNT] = {0};
        visit(&h, step, i + 1, need);
        add_waits(&h, &step[i], need, k, a);
        k->done[step[i].stream] = i + 1;
        h.after[i] = *k;
    }
    arena_free(scratch);
}
