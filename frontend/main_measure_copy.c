/* main_measure_copy.c: copies between memories, alone and while others work: the device's own
 * copies, each stream from a thread of its own, as the executor calls them. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/main_calibrate.h"
#include "runtime/disk.h"
#include "runtime/gemm.h"

enum { CHUNK = 8 << 20, AREA = 64 << 20, SIDE = 512, PINGS = 200 };

/* ---- streams that copy until they are told to stop ---- */

typedef struct {
    Device *device;
    Pool *pool;
    Stream stream;
    char *to, *from;
    atomic_bool *stop;
    double rate, own; /* bytes a second; the same of the time that the thread had a processor */
    Status failure;
    pthread_t thread;
} Copier;

static double thread_seconds(void) {
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *copy_on(void *ctx) {
    Copier *c = ctx;
    pool_unpin_thread(c->pool);
    double bytes = 0, begin = now_seconds(), used = thread_seconds();
    for (int64_t at = 0; !atomic_load(c->stop) && !c->failure; at = (at + CHUNK) % AREA) {
        c->failure = c->device->ops->copy(c->device, c->stream, c->to + at, c->from + at, CHUNK);
        bytes += CHUNK;
    }
    c->rate = bytes / (now_seconds() - begin);
    c->own = bytes / MAX(thread_seconds() - used, 1e-9);
    return NULL;
}

typedef struct {
    Calibration *c;
    Device *device;
    char *device_area, *host_area; /* twice AREA each: one for each direction */
    Gemm *gemm;
    PlanGemm product;
    const GemmAlgo *algo;
    float *operand;
} Bench;

/* Bytes, or products, a second of each stream of the set while all of the set work. */
typedef struct {
    double rate[STREAM_COUNT], own[STREAM_COUNT];
} Rates;

static double run_products(Bench *b, double seconds) {
    double n = 0, begin = now_seconds(), now;
    const float *x = b->operand;
    do {
        b->algo->run(b->algo, b->gemm, &b->product, x, x + SIDE * SIDE,
                     b->operand + 2 * SIDE * SIDE);
        n++;
        now = now_seconds();
    } while (now - begin < seconds);
    return n / (now - begin);
}

static void idle(double seconds) {
    struct timespec t = {.tv_nsec = (long)(seconds * 1e9)};
    nanosleep(&t, NULL);
}

static Status run_set(Bench *b, unsigned set, Rates *r) {
    static const Stream streams[] = {STREAM_IN, STREAM_OUT, STREAM_HOST};
    Copier copier[COUNT(streams)] = {0};
    atomic_bool stop = false;
    Status failure = NULL;
    double seconds = b->c->quick ? 0.08 : 0.4;
    for (size_t i = 0; i < COUNT(streams); i++) {
        bool in = streams[i] == STREAM_IN;
        int64_t half = in ? 0 : AREA;
        if (!(set >> streams[i] & 1)) continue;
        copier[i] = (Copier){.device = b->device,
                             .pool = b->c->pool,
                             .stream = streams[i],
                             .to = (in ? b->device_area : b->host_area) + half,
                             .from = (in ? b->host_area : b->device_area) + half,
                             .stop = &stop};
        if (pthread_create(&copier[i].thread, NULL, copy_on, &copier[i]) != 0) abort();
    }
    if (set >> STREAM_COMPUTE & 1)
        r->rate[STREAM_COMPUTE] = run_products(b, seconds);
    else
        idle(seconds);
    atomic_store(&stop, true);
    for (size_t i = 0; i < COUNT(streams); i++) {
        if (!(set >> streams[i] & 1)) continue;
        pthread_join(copier[i].thread, NULL);
        r->rate[streams[i]] = copier[i].rate;
        r->own[streams[i]] = b->c->link > 0 ? copier[i].rate : copier[i].own;
        if (failure)
            free(copier[i].failure);
        else
            failure = copier[i].failure;
    }
    return failure;
}

/* ---- how fast a thread follows another ---- */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int turn;
} Ping;

static void take_turns(Ping *p, int mine) {
    for (int i = 0; i < PINGS; i++) {
        pthread_mutex_lock(&p->lock);
        while (p->turn != mine) pthread_cond_wait(&p->changed, &p->lock);
        p->turn = !mine;
        pthread_cond_signal(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
}

typedef struct {
    Ping *ping;
    Pool *pool;
} Answer;

static void *answer(void *ctx) {
    Answer *a = ctx;
    pool_unpin_thread(a->pool);
    take_turns(a->ping, 1);
    return NULL;
}

/* µs from the end of one thread's work to the start of another's that waited for it. */
static double wake_us(Pool *pool) {
    Ping p = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer, &(Answer){&p, pool}) != 0) abort();
    double begin = now_seconds();
    take_turns(&p, 0);
    pthread_join(thread, NULL);
    return (now_seconds() - begin) / (2 * PINGS) * 1e6;
}

/* ---- all sets ---- */

static void put_copy(Calibration *c, Stream s, double rate, double latency) {
    buf_printf(&c->text, "copy %s ", stream_name(s));
    calibrate_put(c, rate, 1e9, "GB/s latency ");
    calibrate_put(c, latency, 1, "us\n");
}

static void put_slow(Calibration *c, Stream s, unsigned set, const Rates *all) {
    unsigned others = set & ~(1u << s);
    double factor = all[set].rate[s] / all[1u << s].rate[s];
    buf_printf(&c->text, "slow %s while", stream_name(s));
    for (int i = 0; i < STREAM_COUNT; i++)
        if (others >> i & 1) buf_printf(&c->text, " %s", stream_name((Stream)i));
    buf_printf(&c->text, " %.3g\n", MIN(MAX(factor, 0.001), 1));
}

static Status measure_sets(Bench *b) {
    enum {
        COMPUTE = 1u << STREAM_COMPUTE,
        IN = 1u << STREAM_IN,
        OUT = 1u << STREAM_OUT,
        HOST = 1u << STREAM_HOST
    };
    static const unsigned sets[] = {COMPUTE,           IN,           OUT,           HOST,
                                    IN | OUT,          COMPUTE | IN, COMPUTE | OUT, COMPUTE | HOST,
                                    COMPUTE | IN | OUT};
    Rates all[1u << STREAM_COUNT] = {0};
    double wake = wake_us(b->c->pool);
    for (size_t i = 0; i < COUNT(sets); i++) TRY(run_set(b, sets[i], &all[sets[i]]));
    put_copy(b->c, STREAM_IN, all[IN].own[STREAM_IN], wake);
    put_copy(b->c, STREAM_OUT, all[OUT].own[STREAM_OUT], wake);
    for (size_t i = 4; i < COUNT(sets); i++)
        for (int s = 0; s < STREAM_COUNT; s++)
            if (sets[i] >> s & 1) put_slow(b->c, (Stream)s, sets[i], all);
    return NULL;
}

static Status bench_open(Bench *b, const Plan *p) {
    DeviceConfig config = {.plan = p, .pool = b->c->pool, .link = b->c->link};
    TRY(device_cpu.open(&config, &b->device));
    void *area[2];
    TRY(device_cpu.alloc(b->device, MEM_DEVICE, 2 * AREA, &area[0]));
    TRY(device_cpu.alloc(b->device, MEM_HOST, 2 * AREA, &area[1]));
    b->device_area = area[0], b->host_area = area[1];
    memset(b->device_area, 1, 2 * AREA);
    memset(b->host_area, 1, 2 * AREA);
    TRY(gemm_open(b->c->pool, &b->gemm));
    b->product = (PlanGemm){
        .m = SIDE, .n = SIDE, .k = SIDE, .lda = SIDE, .ldb = SIDE, .ldc = SIDE, .alpha = 1};
    b->algo = gemm_choose(b->gemm, &b->product);
    b->operand = xcalloc((size_t)3 * SIDE * SIDE, sizeof *b->operand);
    return NULL;
}

static void bench_close(Bench *b) {
    if (b->device) {
        device_cpu.free(b->device, MEM_DEVICE, b->device_area, 2 * AREA);
        device_cpu.free(b->device, MEM_HOST, b->host_area, 2 * AREA);
        device_cpu.close(b->device);
    }
    gemm_close(b->gemm);
    free(b->operand);
}

Status measure_copies(Calibration *c) {
    calibrate_progress(c, "copies");
    Bench b = {.c = c};
    Plan *p = plan_new(c->session);
    Status s = bench_open(&b, p);
    if (!s) s = measure_sets(&b);
    bench_close(&b);
    plan_free(p);
    return s;
}

/* ---- the disk ---- */

static Status move_disk(Disk *d, char *host, int64_t bytes, int64_t chunk, bool writes) {
    for (int64_t at = 0; at < bytes; at += chunk) {
        char *place = (char *)disk_base(d) + at;
        TRY(writes ? disk_write(d, place, host, chunk) : disk_read(d, host, place, chunk));
    }
    return NULL;
}

/* Seconds for `bytes` in pieces, written and then read. */
static Status time_disk(Disk *d, char *host, int64_t bytes, int64_t chunk, double seconds[2]) {
    for (int i = 0; i < 2; i++) {
        double begin = now_seconds();
        TRY(move_disk(d, host, bytes, chunk, i == 0));
        seconds[i] = now_seconds() - begin;
    }
    return NULL;
}

Status measure_disk(Calibration *c) {
    calibrate_progress(c, "disk");
    const int64_t bytes = c->quick ? 64 << 20 : 512 << 20, small = 64 << 10, pieces = 32;
    double all[2], few[2];
    Disk *d = NULL;
    char *host = xmalloc(CHUNK);
    memset(host, 0x5a, CHUNK);
    Status s = disk_open(c->disk, bytes, &d);
    if (!s) s = time_disk(d, host, bytes, CHUNK, all);
    if (!s) s = time_disk(d, host, pieces * small, small, few);
    disk_close(d);
    free(host);
    if (s) return s;
    for (int i = 1; i >= 0; i--) {
        double rate = (double)bytes / all[i];
        double latency = few[i] / (double)pieces - (double)small / rate;
        put_copy(c, i ? STREAM_READ : STREAM_WRITE, rate, MAX(latency * 1e6, 1));
    }
    return NULL;
}
