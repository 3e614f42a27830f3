/* cost.c: what a piece of work costs: its measured price where the machine has one, otherwise a
 * roofline: the slower of arithmetic and memory, and a launch.
 *
 * Rates of products and bandwidths are interpolated between measured points, linearly in the
 * logarithms. Points are first made such that more work never takes less time; linear pieces
 * between such points, and constant rates outside, keep that. */
#include "ir/storage.h"
#include "passes/machine_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- steps that were measured ---- */

uint64_t work_hash(const Work *w) {
    uint64_t bits[2], h = hash_bytes(w->what, strlen(w->what), 0);
    memcpy(&bits[0], &w->flops, sizeof bits[0]);
    memcpy(&bits[1], &w->bytes, sizeof bits[1]);
    h = hash_mix(hash_mix(h, bits[0]), bits[1]);
    h = hash_mix(h, (uint64_t)w->product << 2 | (uint64_t)w->copy << 1 | w->host);
    return w->comm.ranks ? hash_mix(h, (uint64_t)w->comm.ranks) : h;
}

bool comm_equal(const CommWork *a, const CommWork *b) {
    if (a->ranks != b->ranks || a->kind != b->kind || a->bytes != b->bytes) return false;
    if (a->nlevel != b->nlevel) return false;
    for (int i = 0; i < a->nlevel; i++)
        if (a->size[i] != b->size[i] || a->stride[i] != b->stride[i]) return false;
    return true;
}

bool work_equal(const Work *a, const Work *b) {
    if (strcmp(a->what, b->what) != 0 || a->flops != b->flops || a->bytes != b->bytes) return false;
    if (a->product != b->product || a->copy != b->copy || a->host != b->host) return false;
    if (a->copy && (a->from != b->from || a->to != b->to)) return false;
    if (!comm_equal(&a->comm, &b->comm)) return false;
    return !a->product || (a->m == b->m && a->n == b->n && a->k == b->k && a->batch == b->batch &&
                           a->ta == b->ta && a->tb == b->tb && a->dtype == b->dtype);
}

static int by_hash(const void *a, const void *b, void *ctx) {
    const Machine *m = ctx;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    uint64_t x = m->step.p[i].hash, y = m->step.p[j].hash;
    return x < y ? -1 : x > y ? 1 : i < j ? -1 : i > j;
}

static void index_steps(Machine *m) {
    m->by_hash = arena_array(session_arena(m->session), uint32_t, m->step.n + 1);
    for (uint32_t i = 0; i < m->step.n; i++) m->by_hash[i] = i;
    qsort_r(m->by_hash, m->step.n, sizeof *m->by_hash, by_hash, m);
}

/* The measured price, or 0. Of two lines for the same work the later counts. */
static double measured(const Machine *m, const Work *w) {
    uint64_t h = work_hash(w);
    uint32_t lo = 0, hi = m->step.n;
    double us = 0;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (m->step.p[m->by_hash[mid]].hash < h)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < m->step.n && m->step.p[m->by_hash[lo]].hash == h; lo++)
        if (work_equal(&m->step.p[m->by_hash[lo]].work, w)) us = m->step.p[m->by_hash[lo]].us.value;
    return us;
}

/* ---- bandwidth ---- */

static int by_bytes(const void *a, const void *b) {
    double x = ((const Band *)a)->bytes.value, y = ((const Band *)b)->bytes.value;
    return x < y ? -1 : x > y;
}

/* µs to touch so many bytes, all of them once. */
static double touch_us(const Band *b, uint32_t n, double bytes) {
    double most = b[n - 1].rate.value, before = 0, x0 = 0, y0 = 0;
    for (uint32_t i = 0; i < n; i++) {
        double x = b[i].bytes.value;
        if (x == 0) continue;
        double us = MAX(x / b[i].rate.value * 1e6, before);
        if (bytes <= x) {
            if (before == 0) return bytes * us / x;
            double t = log(bytes / x0) / log(x / x0);
            return exp(y0 + t * (log(us) - y0));
        }
        before = us, x0 = x, y0 = log(us);
    }
    return before > 0 ? before * bytes / x0 : bytes / most * 1e6;
}

/* ---- products ---- */

static void point_logs(const ProductPoint *p, double at[AXES]) {
    const int64_t extent[AXES] = {p->m, p->n, p->k, p->batch};
    for (int i = 0; i < AXES; i++) at[i] = log((double)extent[i]);
}

static bool of_grid(const ProductPoint *p, Dtype d, bool ta, bool tb) {
    return p->dtype == d && p->ta == ta && p->tb == tb;
}

/* Puts x among the ascending values of an axis; false: there is no room. */
static bool add_value(Grid *g, int axis, double x) {
    for (int i = 0; i < g->count[axis]; i++)
        if (g->at[axis][i] == x) return true;
    if (g->count[axis] == AXIS_MAX) return false;
    g->at[axis][g->count[axis]++] = x;
    qsort(g->at[axis], (size_t)g->count[axis], sizeof(double), compare_doubles);
    return true;
}

static int cells(const Grid *g) {
    int n = 1;
    for (int i = 0; i < AXES; i++) n *= g->count[i];
    return n;
}

/* The place of cell c on each axis. */
static void cell_place(const Grid *g, int c, int at[AXES]) {
    for (int i = AXES; i-- > 0; c /= g->count[i]) at[i] = c % g->count[i];
}

static double cell_rate(const Machine *m, const Grid *g, int c, Dtype d, bool ta, bool tb) {
    int place[AXES];
    double least = INFINITY, rate = 0;
    cell_place(g, c, place);
    for (uint32_t i = 0; i < m->product.n; i++) {
        const ProductPoint *p = &m->product.p[i];
        double at[AXES], far = 0;
        if (!of_grid(p, d, ta, tb)) continue;
        point_logs(p, at);
        for (int k = 0; k < AXES; k++) far += fabs(at[k] - g->at[k][place[k]]);
        if (far < least) least = far, rate = log(p->rate.value);
    }
    return rate;
}

/* A cell is slowed until it takes no less time than its neighbours with less work. */
static void make_monotone(Grid *g) {
    int n = cells(g);
    for (int c = 0; c < n; c++) {
        int place[AXES], step = 1;
        cell_place(g, c, place);
        for (int k = AXES; k-- > 0; step *= g->count[k]) {
            if (place[k] == 0) continue;
            double longer = g->at[k][place[k]] - g->at[k][place[k] - 1];
            g->rate[c] = MIN(g->rate[c], g->rate[c - step] + longer);
        }
    }
}

static void make_grid(Machine *m, Dtype d, bool ta, bool tb) {
    Grid *g = &m->grid[d][ta][tb];
    *g = (Grid){0};
    for (uint32_t i = 0; i < m->product.n; i++) {
        const ProductPoint *p = &m->product.p[i];
        double at[AXES];
        if (!of_grid(p, d, ta, tb)) continue;
        point_logs(p, at);
        for (int k = 0; k < AXES; k++)
            if (!add_value(g, k, at[k])) {
                diag_error(m->session, p->loc,
                           "products of one dtype and form have more than %d values of %s",
                           AXIS_MAX, (const char *const[]){"m", "n", "k", "batch"}[k]);
                return;
            }
    }
    if (g->count[0] == 0) return;
    int n = cells(g);
    if ((double)n * m->product.n > 2e7) {
        diag_error(m->session, (Loc){0}, "too many products to interpolate between");
        return;
    }
    g->rate = arena_array(session_arena(m->session), double, n);
    for (int c = 0; c < n; c++) g->rate[c] = cell_rate(m, g, c, d, ta, tb);
    make_monotone(g);
}

/* Linear along every axis between the two values around x; constant outside. */
static double grid_rate(const Grid *g, const double x[AXES]) {
    int low[AXES];
    double part[AXES], sum = 0;
    for (int k = 0; k < AXES; k++) {
        const double *at = g->at[k];
        int n = g->count[k], i = 0;
        while (i + 2 < n && x[k] > at[i + 1]) i++;
        low[k] = i;
        part[k] = n == 1 ? 0 : (x[k] - at[i]) / (at[i + 1] - at[i]);
        part[k] = MIN(MAX(part[k], 0), 1);
    }
    for (int corner = 0; corner < 1 << AXES; corner++) {
        double weight = 1;
        int c = 0;
        for (int k = 0; k < AXES; k++) {
            int up = corner >> k & 1;
            weight *= up ? part[k] : 1 - part[k];
            c = c * g->count[k] + MIN(low[k] + up, g->count[k] - 1);
        }
        if (weight > 0) sum += weight * g->rate[c];
    }
    return exp(sum);
}

static const Grid *grid_of(const Machine *m, Dtype d, bool ta, bool tb) {
    if (m->grid[d][ta][tb].rate) return &m->grid[d][ta][tb];
    for (int i = 0; i < 4; i++)
        if (m->grid[d][i / 2][i % 2].rate) return &m->grid[d][i / 2][i % 2];
    return NULL;
}

/* FLOP/s of what was measured, or of the datasheet; *alone: launching is part of it. */
static double product_rate(const Machine *m, const Work *w, bool *alone) {
    double x[AXES] = {log((double)w->m), log((double)w->n), log((double)w->k),
                      log((double)w->batch)};
    const Dtype other[] = {w->dtype, DT_F32, DT_BF16, DT_F16, DT_F64};
    *alone = false;
    for (size_t i = 0; i < COUNT(other); i++) {
        const Grid *g = grid_of(m, other[i], w->ta, w->tb);
        if (g) return *alone = true, grid_rate(g, x);
        if (m->peak[other[i]].value > 0) return m->peak[other[i]].value * m->efficiency[other[i]];
    }
    for (int d = 0; d < DT_COUNT; d++)
        if (m->peak[d].value > 0) return m->peak[d].value * m->efficiency[d];
    for (int d = 0; d < DT_COUNT; d++)
        if (grid_of(m, (Dtype)d, w->ta, w->tb))
            return *alone = true, grid_rate(grid_of(m, (Dtype)d, w->ta, w->tb), x);
    BUG("a machine without products");
}

void machine_index(Machine *m) {
    index_steps(m);
    if (m->bandwidth.n) qsort(m->bandwidth.p, m->bandwidth.n, sizeof(Band), by_bytes);
    if (m->host_bandwidth.n)
        qsort(m->host_bandwidth.p, m->host_bandwidth.n, sizeof(Band), by_bytes);
    for (int d = 0; d < DT_COUNT; d++)
        for (int i = 0; i < 4; i++) make_grid(m, (Dtype)d, i / 2, i % 2);
}

/* ---- the price ---- */

static double memory_us(const Machine *m, bool host, double bytes) {
    if (!(bytes > 0)) return 0;
    if (host && m->host_bandwidth.n)
        return touch_us(m->host_bandwidth.p, m->host_bandwidth.n, bytes);
    return touch_us(m->bandwidth.p, m->bandwidth.n, bytes);
}

static double launch_us(const Machine *m, bool host) {
    return host && m->host_launch.value > 0 ? m->host_launch.value : m->launch.value;
}

static double vector_rate(const Machine *m, bool host) {
    return host && m->host_vector.value > 0 ? m->host_vector.value : m->vector.value;
}

/* Operations on each element of a product's result. */
static double epilogue_weight(const char *what) {
    if (strcmp(what, "einsum_gelu") == 0) return op_weight(OP_gelu) + 1;
    if (strncmp(what, "einsum_gelu_grad", 16) == 0) return op_weight(OP_gelu_grad) + 1;
    return 0;
}

static double product_us(const Machine *m, const Work *w) {
    bool alone;
    double us = w->flops / product_rate(m, w, &alone) * 1e6;
    double after = epilogue_weight(w->what) * (double)w->m * (double)w->n * (double)w->batch;
    us += after / vector_rate(m, w->host) * 1e6;
    if (w->host && m->host_vector.value > 0) us = w->flops / m->host_vector.value * 1e6;
    return MAX(us, memory_us(m, w->host, w->bytes)) + (alone ? 0 : launch_us(m, w->host));
}

static double copy_us(const Machine *m, const Work *w) {
    if (w->from == w->to)
        return launch_us(m, w->from != MEM_DEVICE) +
               memory_us(m, w->from != MEM_DEVICE, 2 * w->bytes);
    Stream s = stream_of_copy(w->from, w->to);
    return m->latency[s].value + w->bytes / m->copy[s].value * 1e6;
}

/* FLOP/s of an attention kernel; 0: it is none. */
static double attention_rate(const Machine *m, const Work *w) {
    bool grad = strcmp(w->what, "attention_grad") == 0, alone;
    if (!grad && strcmp(w->what, "attention") != 0) return 0;
    const Quantity *q = grad ? m->attention_grad : m->attention;
    if (q[w->dtype].value > 0) return q[w->dtype].value;
    if (q[DT_F32].value > 0) return q[DT_F32].value;
    const Work like = {.m = 256, .n = 256, .k = 64, .batch = 64, .tb = true, .dtype = w->dtype};
    return product_rate(m, &like, &alone);
}

double cost_us(const Machine *m, const Work *w) {
    double known = m->step.n ? measured(m, w) : 0;
    if (known > 0) return known;
    if (w->comm.ranks) return comm_cost_us(m, w);
    if (m->group.n) return groups_us(m, w);
    if (w->copy) return copy_us(m, w);
    if (w->product) return product_us(m, w);
    double rate = attention_rate(m, w);
    if (rate == 0) rate = vector_rate(m, w->host);
    return MAX(w->flops / rate * 1e6, memory_us(m, w->host, w->bytes)) + launch_us(m, w->host);
}

double machine_speed(const Machine *m, Stream s, unsigned active) {
    double speed = 1;
    int most = 0;
    if (m->group.n) return groups_speed(m, s, active);
    for (uint32_t i = 0; i < m->slow.n; i++) {
        const Slow *x = &m->slow.p[i];
        int streams = __builtin_popcount(x->set);
        if (x->stream != s || (x->set & active) != x->set || streams < most) continue;
        speed = streams > most ? x->factor : MIN(speed, x->factor);
        most = streams;
    }
    return speed;
}
