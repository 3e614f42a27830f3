/* device_cuda_host.c: what the host does in the order of the GPU's streams: kernels over host
 * memory, and the disk.
 *
 * Both are functions that the driver calls when their turn in a stream comes, from a thread of its
 * own; in a graph they are nodes like others. They must not call the driver, so between disk and
 * device data take turns in a pinned buffer, one for each direction:
 *
 *     disk to device    read 0 │ copy 0 │ read 1 │ copy 1 …    on the one stream
 *
 * What a function is to do must last as long as the graph that calls it: each distinct piece of
 * work is kept once. A failure is remembered and told to whoever waits next. */
#include "runtime/device_cuda.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct HostWork {
    Cuda *d;
    HostKernel *kernel; /* NULL: bytes from or to the disk */
    int64_t items, grain;
    uint32_t nargs;
    void **arg;
    void *to;
    const void *from; /* NULL: zeros */
    int64_t bytes;
};

/* ---- in the driver's thread ---- */

static Status move_bytes(const HostWork *w) {
    Disk *disk = w->d->disk;
    if (w->from && disk_holds(disk, w->from)) return disk_read(disk, w->to, w->from, w->bytes);
    return disk_write(disk, w->to, w->from, w->bytes);
}

static void do_work(void *ctx) {
    const HostWork *w = ctx;
    Status none = NULL, s = NULL;
    if (w->kernel)
        host_kernel_run(w->kernel, w->arg, w->items, w->grain, w->d->pool);
    else
        s = move_bytes(w);
    if (s && !atomic_compare_exchange_strong(&w->d->host_failure, &none, s)) free(s);
}

Status cuda_host_failure(Cuda *d) { return atomic_exchange(&d->host_failure, (Status)NULL); }

/* ---- asking for it ---- */

static bool is_same(const HostWork *a, const HostWork *b) {
    return a->kernel == b->kernel && a->items == b->items && a->to == b->to && a->from == b->from &&
           a->bytes == b->bytes && a->nargs == b->nargs &&
           (a->nargs == 0 || memcmp(a->arg, b->arg, a->nargs * sizeof *a->arg) == 0);
}

/* Steps come in the same order each time, so the search mostly ends where it begins. */
static HostWork *keep(Cuda *d, const HostWork *w) {
    for (uint32_t i = 0; i < d->work.n; i++) {
        HostWork *known = d->work.p[(d->next_work + i) % d->work.n];
        if (!is_same(known, w)) continue;
        d->next_work = (d->next_work + i + 1) % d->work.n;
        return known;
    }
    HostWork *kept = xcalloc(1, sizeof *kept);
    *kept = *w;
    kept->arg = xcalloc((size_t)w->nargs + 1, sizeof *kept->arg);
    if (w->nargs) memcpy(kept->arg, w->arg, w->nargs * sizeof *kept->arg);
    vec_push(&d->work, kept);
    d->next_work = 0;
    return kept;
}

static Status ask(Cuda *d, int stream, HostWork w) {
    w.d = d;
    CUDA_CALL(d, cuLaunchHostFunc, d->stream[stream], do_work, keep(d, &w));
    return cuda_called(d, stream);
}

Status cuda_launch_host(Cuda *d, const PlanStep *s, void *const *arg) {
    if (s->items == 0) return NULL;
    return ask(d, s->stream,
               (HostWork){.kernel = d->host_kernel[s->kernel],
                          .items = s->items,
                          .grain = s->grain,
                          .nargs = s->nargs,
                          .arg = (void **)(uintptr_t)arg});
}

/* ---- the disk ---- */

Status cuda_open_disk(Cuda *d, int64_t bytes) {
    void *bounce;
    TRY(disk_open(d->folder, bytes, &d->disk));
    TRY(cuda_allocate_host(d, 2 * CUDA_BOUNCE, &bounce));
    d->bounce = bounce;
    return NULL;
}

bool cuda_on_disk(const Cuda *d, const void *p) { return d->disk && disk_holds(d->disk, p); }

static bool in_arena(const Cuda *d, Mem mem, const void *p) {
    return (uintptr_t)p - (uintptr_t)d->arena[mem] < (uint64_t)d->plan->arena[mem];
}

static Status copy_address(Cuda *d, int stream, void *to, const void *from, int64_t bytes) {
    CUDA_CALL(d, cuMemcpyAsync, (CudaAddress)(uintptr_t)to, (CudaAddress)(uintptr_t)from,
              (size_t)bytes, d->stream[stream]);
    return cuda_called(d, stream);
}

static Status read_to_device(Cuda *d, int stream, char *to, const char *from, int64_t bytes) {
    for (int64_t done = 0; done < bytes; done += CUDA_BOUNCE) {
        int64_t n = MIN((int64_t)CUDA_BOUNCE, bytes - done);
        TRY(ask(d, stream, (HostWork){.to = d->bounce, .from = from + done, .bytes = n}));
        TRY(copy_address(d, stream, to + done, d->bounce, n));
    }
    return NULL;
}

static Status write_from_device(Cuda *d, int stream, char *to, const char *from, int64_t bytes) {
    char *bounce = d->bounce + CUDA_BOUNCE;
    for (int64_t done = 0; done < bytes; done += CUDA_BOUNCE) {
        int64_t n = MIN((int64_t)CUDA_BOUNCE, bytes - done);
        TRY(copy_address(d, stream, bounce, from + done, n));
        TRY(ask(d, stream, (HostWork){.to = to + done, .from = bounce, .bytes = n}));
    }
    return NULL;
}

Status cuda_copy_disk(Cuda *d, int stream, void *to, const void *from, int64_t bytes) {
    bool reads = from && cuda_on_disk(d, from);
    const void *other = reads ? to : from;
    if (other && in_arena(d, MEM_DEVICE, other))
        return reads ? read_to_device(d, stream, to, from, bytes)
                     : write_from_device(d, stream, to, from, bytes);
    HostWork w = {.d = d, .to = to, .from = from, .bytes = bytes};
    if (other && in_arena(d, MEM_HOST, other)) return ask(d, stream, w);
    TRY(d->base.ops->sync(&d->base));
    return move_bytes(&w);
}

void cuda_close_host(Cuda *d) {
    for (uint32_t i = 0; i < d->work.n; i++) {
        free(d->work.p[i]->arg);
        free(d->work.p[i]);
    }
    vec_free(&d->work);
    free(cuda_host_failure(d));
    free(d->host_kernel);
    host_kernel_unload(&d->libraries);
}
