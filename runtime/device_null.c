/* device_null.c: does nothing and prints every call, one a line, without addresses: what a plan
 * asks of a machine becomes text that tests compare. The file to copy for a new device.
 *
 * Its memories are reserved addresses that nothing may touch; a pointer inside one is printed as
 * "device+4096", any other as "host". What is copied to the host is zeros. */
#include "runtime/device.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Device base;
    FILE *log;
    const Plan *plan;
    uintptr_t start[MEM_COUNT];
    int64_t bytes[MEM_COUNT];
} Null;

static Status null_open(const DeviceConfig *config, Device **out) {
    Null *d = xcalloc(1, sizeof *d);
    d->base.ops = &device_null;
    d->log = config->log ? config->log : stdout;
    fprintf(d->log, "open\n");
    *out = &d->base;
    return NULL;
}

/* Far apart, aligned, and never mapped. */
static Status null_alloc(Device *base, Mem mem, int64_t bytes, void **out) {
    Null *d = (Null *)base;
    d->start[mem] = ((uintptr_t)mem + 1) << 60;
    d->bytes[mem] = bytes;
    *out = (void *)d->start[mem];
    fprintf(d->log, "alloc %s %" PRId64 "\n", mem_name(mem), bytes);
    return NULL;
}

static void null_free(Device *base, Mem mem, void *p, int64_t bytes) {
    Null *d = (Null *)base;
    (void)p;
    fprintf(d->log, "free %s %" PRId64 "\n", mem_name(mem), bytes);
}

/* The memory an address lies in, or -1 for the host's own. */
static int memory_of(const Null *d, const void *p) {
    for (int m = 0; m < MEM_COUNT; m++) {
        uintptr_t at = (uintptr_t)p - d->start[m];
        if (d->start[m] && at <= (uintptr_t)d->bytes[m]) return m;
    }
    return -1;
}

static void put_place(const Null *d, const void *p) {
    int m = memory_of(d, p);
    if (m < 0)
        fputs(" host", d->log);
    else
        fprintf(d->log, " %s+%" PRIuPTR, mem_name((Mem)m), (uintptr_t)p - d->start[m]);
}

static void put_places(const Null *d, void *const *p, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) put_place(d, p[i]);
    fputs("\n", d->log);
}

static Status null_copy(Device *base, int stream, void *to, const void *from, int64_t bytes) {
    Null *d = (Null *)base;
    fprintf(d->log, "copy stream=%d bytes=%" PRId64, stream, bytes);
    put_place(d, to);
    put_place(d, from);
    fputs("\n", d->log);
    if (memory_of(d, to) < 0) memset(to, 0, (size_t)bytes);
    return NULL;
}

static Status null_fill(Device *base, int stream, void *to, int64_t bytes) {
    Null *d = (Null *)base;
    fprintf(d->log, "fill stream=%d bytes=%" PRId64, stream, bytes);
    put_places(d, &to, 1);
    return NULL;
}

static Status null_load(Device *base, const Plan *plan, const char *dir) {
    Null *d = (Null *)base;
    (void)dir;
    d->plan = plan;
    for (uint32_t i = 0; i < plan->kernel.n; i++)
        fprintf(d->log, "load %s %s\n", plan->kernel.p[i].source, plan->kernel.p[i].name);
    return NULL;
}

static Status null_launch(Device *base, const PlanStep *s, void *const *arg) {
    Null *d = (Null *)base;
    fprintf(d->log, "launch stream=%d %s items=%" PRId64 " grain=%" PRId64, s->stream,
            d->plan->kernel.p[s->kernel].name, s->items, s->grain);
    put_places(d, arg, s->nargs);
    return NULL;
}

static Status null_gemm(Device *base, const PlanStep *s, void *const *arg) {
    Null *d = (Null *)base;
    const PlanGemm *g = &s->gemm;
    int64_t batches = 1;
    for (int i = 0; i < g->nbatch; i++) batches *= g->count[i];
    fprintf(d->log, "gemm stream=%d %s%s m=%" PRId64 " n=%" PRId64 " k=%" PRId64, s->stream,
            g->ta ? "t" : "n", g->tb ? "t" : "n", g->m, g->n, g->k);
    fprintf(d->log, " batch=%" PRId64, batches);
    put_places(d, arg, 3);
    return NULL;
}

static Status null_record(Device *base, int stream, uint32_t event) {
    fprintf(((Null *)base)->log, "record stream=%d event=%u\n", stream, event);
    return NULL;
}

static Status null_wait(Device *base, int stream, uint32_t event) {
    fprintf(((Null *)base)->log, "wait stream=%d event=%u\n", stream, event);
    return NULL;
}

static Status null_sync(Device *base) {
    fprintf(((Null *)base)->log, "sync\n");
    return NULL;
}

static Status null_collective(Device *base, const PlanStep *s, void *const *arg) {
    Null *d = (Null *)base;
    const PlanCollective *c = &s->collective;
    fprintf(d->log, "%s stream=%d group=%s", collective_name(c->kind), s->stream,
            d->plan->group.p[c->group].name);
    if (plan_comm_reduces(c)) fprintf(d->log, " reduce=%s", reduce_name(c->reduce));
    if (plan_comm_pairs(c)) fprintf(d->log, " peer=%" PRId64, c->peer);
    for (uint32_t i = 0; i < c->n; i++)
        fprintf(d->log, "%s%" PRId64, i ? "," : " count=", c->count[i]);
    fprintf(d->log, " dtype=%s wire=%s scale=%g", dtype_name(c->dtype), dtype_name(c->wire),
            c->scale);
    put_places(d, arg, s->nargs);
    return NULL;
}

static void null_close(Device *base) {
    fprintf(((Null *)base)->log, "close\n");
    free(base);
}

const DeviceOps device_null = {
    .name = "null",
    .doc = "prints every call and does nothing",
    .open = null_open,
    .alloc = null_alloc,
    .free = null_free,
    .copy = null_copy,
    .fill = null_fill,
    .load = null_load,
    .launch = null_launch,
    .gemm = null_gemm,
    .record = null_record,
    .wait = null_wait,
    .sync = null_sync,
    .collective = null_collective,
    .close = null_close,
};
