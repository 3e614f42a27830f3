/* balance.c: shares of uneven devices, and virtual devices.
 *
 * The load of Algorithm 1 is a whole number of parts, so that a batch is divided into samples and a
 * dimension into elements. It moves no more than the peak has too many: what it leaves is then as
 * near to the proportion as memory allows. Every device with too little memory is taken to what it
 * can hold, and parts find no valley only when all are full: it fails only when nothing fits. */
#include "passes/balance.h"

#include <stdlib.h>

/* ---- shares ---- */

double balance_seconds(const BalanceWork *w, const Processor *p, int64_t parts) {
    return (double)parts * w->flops / p->flops;
}

double balance_fill(const BalanceWork *w, const Processor *p, int64_t parts) {
    if (parts == 0) return 0;
    return ((double)w->fixed + (double)parts * (double)w->bytes) / (double)p->memory;
}

/* The most parts a device can hold. */
static int64_t room(const BalanceWork *w, const Processor *p) {
    if (w->fixed > p->memory) return 0;
    return w->bytes > 0 ? MIN((p->memory - w->fixed) / w->bytes, w->parts) : w->parts;
}

void balance_proportional(const BalanceWork *w, uint32_t n, const Processor *p, int64_t *part) {
    double sum = 0;
    int64_t left = w->parts;
    for (uint32_t i = 0; i < n; i++) sum += p[i].flops;
    for (uint32_t i = 0; i < n; i++) {
        part[i] = MIN((int64_t)((double)w->parts * (p[i].flops / sum)), left);
        left -= part[i];
    }
    for (; left > 0; left--) {
        uint32_t most = 0;
        double best = -1;
        for (uint32_t i = 0; i < n; i++) {
            double missing = (double)w->parts * (p[i].flops / sum) - (double)part[i];
            if (missing > best) best = missing, most = i;
        }
        part[most]++;
    }
}

/* The fullest of the devices that hold too much, or n. */
static uint32_t peak(const BalanceWork *w, uint32_t n, const Processor *p, const int64_t *part) {
    uint32_t found = n;
    double most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double fill = balance_fill(w, &p[i], part[i]);
        if (part[i] > room(w, &p[i]) && fill > most) most = fill, found = i;
    }
    return found;
}

/* Of the devices with room the one that is done first, then the emptiest, or n. */
static uint32_t valley(const BalanceWork *w, uint32_t n, const Processor *p, const int64_t *part) {
    uint32_t found = n;
    double first = 0, empty = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (part[i] >= room(w, &p[i])) continue;
        double seconds = balance_seconds(w, &p[i], part[i]);
        double fill = balance_fill(w, &p[i], part[i]);
        if (found < n && (seconds > first || (seconds == first && fill >= empty))) continue;
        first = seconds, empty = fill, found = i;
    }
    return found;
}

/* What does not fit: a device that cannot hold its parts, or what is fixed. */
static bool explain(const BalanceWork *w, uint32_t n, const Processor *p, uint32_t over,
                    const int64_t *part, Buf *err) {
    int64_t most = 0;
    for (uint32_t i = 0; i < n; i++) most += room(w, &p[i]);
    buf_printf(err,
               "the devices hold %lld parts of %lld: device %u would need %lld bytes for %lld of "
               "them and has %lld",
               (long long)most, (long long)w->parts, over,
               (long long)(w->fixed + part[over] * w->bytes), (long long)part[over],
               (long long)p[over].memory);
    return false;
}

bool balance_load(const BalanceWork *w, uint32_t n, const Processor *p, int64_t *part, Buf *err) {
    ASSERT(n > 0 && w->parts >= 0);
    balance_proportional(w, n, p, part);
    for (;;) {
        uint32_t from = peak(w, n, p, part);
        if (from == n) return true;
        uint32_t to = valley(w, n, p, part);
        if (to == n) return explain(w, n, p, from, part, err);
        int64_t excess = part[from] - room(w, &p[from]);
        int64_t shift = MIN(room(w, &p[to]) - part[to], excess);
        part[from] -= shift, part[to] += shift;
    }
}

/* ---- virtual devices ---- */

typedef struct {
    const Processor *p;
    const uint32_t *place; /* how many devices of the node come before */
    int prefer;
} Order;

static int by_place(const void *x, const void *y, void *ctx) {
    const Order *o = ctx;
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    if (o->prefer == VIRTUAL_COLUMNS && o->place[a] != o->place[b])
        return o->place[a] < o->place[b] ? -1 : 1;
    if (o->p[a].node != o->p[b].node) return o->p[a].node < o->p[b].node ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* All devices, by row or by column. */
static uint32_t *ordered(uint32_t n, const Processor *p, int prefer, Arena *a) {
    uint32_t *order = arena_array(a, uint32_t, n), *place = arena_array(a, uint32_t, n);
    int nodes = 0;
    for (uint32_t i = 0; i < n; i++) nodes = MAX(nodes, p[i].node + 1);
    uint32_t *seen = arena_array(a, uint32_t, nodes);
    for (uint32_t i = 0; i < n; i++) order[i] = i, place[i] = seen[p[i].node]++;
    qsort_r(order, n, sizeof *order, by_place, &(Order){p, place, prefer});
    return order;
}

static uint32_t crossings(const VirtualDevices *v, const Processor *p) {
    uint32_t count = 0;
    for (uint32_t r = 0; r < v->replicas; r++) {
        const uint32_t *device = v->device + (size_t)r * v->each;
        bool crosses = false;
        for (uint32_t i = 1; i < v->each; i++) crosses |= p[device[i]].node != p[device[0]].node;
        count += crosses;
    }
    return count;
}

bool virtual_devices(uint32_t n, const Processor *p, uint32_t tasks, const uint32_t *need,
                     int prefer, bool shared, VirtualDevices *out, Arena *a, Buf *err) {
    *out = (VirtualDevices){.first = arena_array(a, uint32_t, tasks)};
    for (uint32_t t = 0; t < tasks; t++) {
        ASSERT(need[t] > 0);
        out->first[t] = shared ? 0 : out->each;
        out->each = shared ? MAX(out->each, need[t]) : out->each + need[t];
    }
    if (out->each == 0 || n == 0 || n % out->each != 0) {
        buf_printf(err, "%u devices are not a multiple of the %u that one replica of the model has",
                   n, out->each);
        return false;
    }
    out->replicas = n / out->each;
    out->device = ordered(n, p, prefer, a);
    out->crossing = crossings(out, p);
    return true;
}

static int by_memory(const void *x, const void *y, void *ctx) {
    const Processor *p = ctx;
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    if (p[a].memory != p[b].memory) return p[a].memory > p[b].memory ? -1 : 1;
    return a < b ? -1 : a > b;
}

void balance_stage_order(uint32_t n, const Processor *p, uint32_t *order) {
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    qsort_r(order, n, sizeof *order, by_memory, (void *)p);
}
