/* standin_nccl.c: NCCL between the processes of one machine, for the stand-in of the CUDA driver
 * (standin.h).
 *
 * A communicator is a piece of shared memory, named by the id: a ring of bytes from each rank to
 * each. What is asked for is work of its stream, which sends and takes bytes whenever it is tried
 * and ends when all are through. Each message begins with what it is for. Where two ranks do not
 * mean the same it says so, and never ends: as NCCL, which does not even say so. Ranks that are
 * gone are not noticed. Sums are made in the order of the ranks, 16-bit floats rounded each time.
 * Calls return "in progress", and the communicator stays so for a while. */
#include "runtime/nccl_api.h"
#include "tests/gpu/standin.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define NCCL(type, name, args) type name args;
#include "runtime/nccl_api.def"
#undef NCCL

enum { RING = 1 << 16, INVALID_ARGUMENT = 4, BUSY = 2 /* answers */, MOST_RANKS = 64 };

static struct {
#define X(type, name, args) type(*name) args;
    STANDIN_EXPORTS(X)
#undef X
} driver;

typedef struct {
    _Atomic uint64_t written, read;
    char data[RING];
} Ring;

typedef struct {
    _Atomic int here;
    Ring ring[]; /* from rank i to rank j: i * ranks + j */
} Shared;

struct ncclComm {
    Shared *shared;
    size_t bytes;
    char name[40];
    int rank, ranks, busy;
    uint64_t asked; /* operations */
    bool aborted, wrong;
};

/* ---- what is asked for ---- */

typedef enum { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, SEND, RECV } Kind;

/* How a message begins; the same at both its ends. */
typedef struct {
    uint64_t bytes, number; /* of the operation; 0: of a send */
    int32_t kind, dtype, reduce, none;
} Head;

/* One message, from or to one rank. */
typedef struct {
    int peer;
    bool out, begun;
    Head head;
    char *p;
    size_t done; /* of the head, then of the bytes */
} Message;

typedef struct {
    NcclComm comm;
    CudaStream stream;
    VEC(Message) message;
    /* a collective's result: made of what came, or blocks as they come */
    char *came, *out;
    size_t bytes; /* of a rank's block */
    int dtype, reduce;
    bool reduces;
} Exchange;

static int depth;                   /* of groups */
static VEC(Exchange *) group_asked; /* in the group that is open */

static size_t size_of(int dtype) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return sizes[dtype];
}

static int find_driver(void) {
    const char *path = getenv("M6C_CUDA_DRIVER");
    void *cuda = dlopen(path ? path : "", RTLD_NOW | RTLD_NOLOAD);
    const LibraryFunction functions[] = {
#define X(type, name, args) {#name, &driver.name},
        STANDIN_EXPORTS(X)
#undef X
    };
    if (driver.standin_call) return 0;
    return library_find(cuda, functions, COUNT(functions)) ? NCCL_SYSTEM_ERROR : 0;
}

static int called(const char *name) {
    int r = find_driver();
    return r ? r : driver.standin_call(name, NULL);
}

/* ---- bytes on their way ---- */

static size_t put(Ring *r, const char *from, size_t n) {
    uint64_t at = atomic_load(&r->written);
    size_t room = (size_t)(RING - (at - atomic_load(&r->read))); /* grows: it is read once */
    n = MIN(n, room);
    for (size_t i = 0; i < n; i++) r->data[(at + i) % RING] = from[i];
    atomic_store(&r->written, at + n);
    return n;
}

static size_t take(Ring *r, char *to, size_t n) {
    uint64_t at = atomic_load(&r->read);
    size_t there = (size_t)(atomic_load(&r->written) - at);
    n = MIN(n, there);
    for (size_t i = 0; i < n; i++) to[i] = r->data[(at + i) % RING];
    atomic_store(&r->read, at + n);
    return n;
}

static bool same_head(NcclComm c, const Message *m, const Head *came) {
    if (memcmp(&m->head, came, sizeof *came) == 0) return true;
    static const char *const names[] = {"all_reduce", "all_gather", "reduce_scatter", "send",
                                        "recv"};
    fprintf(stderr,
            "standin: ranks %d and %d of a communicator do not mean the same: number %llu, %s of "
            "%llu bytes, and number %llu, %s of %llu bytes: NCCL would wait for ever\n",
            c->rank, m->peer, (unsigned long long)m->head.number, names[m->head.kind],
            (unsigned long long)m->head.bytes, (unsigned long long)came->number, names[came->kind],
            (unsigned long long)came->bytes);
    c->wrong = true;
    return false;
}

static bool send_some(NcclComm c, Message *m) {
    Ring *r = &c->shared->ring[c->rank * c->ranks + m->peer];
    const char *head = (const char *)&m->head;
    if (!m->begun) {
        m->done += put(r, head + m->done, sizeof m->head - m->done);
        if (m->done < sizeof m->head) return false;
        m->begun = true;
        m->done = 0;
    }
    m->done += put(r, m->p + m->done, m->head.bytes - m->done);
    return m->done == m->head.bytes;
}

static bool take_some(NcclComm c, Message *m) {
    Ring *r = &c->shared->ring[m->peer * c->ranks + c->rank];
    Head head;
    if (!m->begun) {
        if (atomic_load(&r->written) - atomic_load(&r->read) < sizeof head) return false;
        take(r, (char *)&head, sizeof head);
        if (!same_head(c, m, &head)) return false;
        m->begun = true;
    }
    m->done += take(r, m->p + m->done, m->head.bytes - m->done);
    return m->done == m->head.bytes;
}

/* ---- sums ---- */

#define FOLD(T, op)                                                                                \
    for (size_t i = 0; i < n; i++) ((T *)a)[i] = op(((T *)a)[i], ((const T *)b)[i])
#define PLUS(x, y) ((x) + (y))
#define FOLDS(T)                                                                                   \
    if (op == NCCL_SUM)                                                                            \
        FOLD(T, PLUS);                                                                             \
    else if (op == NCCL_MAX)                                                                       \
        FOLD(T, MAX);                                                                              \
    else                                                                                           \
        FOLD(T, MIN);                                                                              \
    break

static float pick(float x, float y, int op) {
    return op == NCCL_SUM ? x + y : op == NCCL_MAX ? MAX(x, y) : MIN(x, y);
}

static void fold_half(uint16_t *a, const uint16_t *b, size_t n, bool bf16, int op) {
    for (size_t i = 0; i < n; i++)
        a[i] = bf16 ? f32_to_bf16(pick(bf16_to_f32(a[i]), bf16_to_f32(b[i]), op))
                    : f32_to_f16(pick(f16_to_f32(a[i]), f16_to_f32(b[i]), op));
}

static void fold(void *a, const void *b, size_t n, int dtype, int op) {
    switch (dtype) {
    case NCCL_FLOAT32: FOLDS(float);
    case NCCL_FLOAT64: FOLDS(double);
    case NCCL_INT32: FOLDS(int32_t);
    case NCCL_INT64: FOLDS(int64_t);
    case NCCL_UINT8: FOLDS(uint8_t);
    default: fold_half(a, b, n, dtype == NCCL_BFLOAT16, op);
    }
}

static void finish(Exchange *x) {
    if (!x->reduces) return;
    for (int r = 1; r < x->comm->ranks; r++)
        fold(x->came, x->came + (size_t)r * x->bytes, x->bytes / size_of(x->dtype), x->dtype,
             x->reduce);
    memcpy(x->out, x->came, x->bytes);
}

/* ---- an operation ---- */

static void end_exchange(Exchange *x) {
    free(x->came);
    vec_free(&x->message);
    free(x);
}

/* Messages between two ranks come in their order: only the first that is not through moves. */
static bool advance(void *ctx) {
    Exchange *x = ctx;
    NcclComm c = x->comm;
    bool waits[2][MOST_RANKS] = {{false}}, all = true;
    for (uint32_t i = 0; i < x->message.n && !c->aborted && !c->wrong; i++) {
        Message *m = &x->message.p[i];
        bool *wait = &waits[m->out][m->peer];
        bool through = m->begun && m->done == m->head.bytes;
        if (!through && !*wait) through = m->out ? send_some(c, m) : take_some(c, m);
        *wait = *wait || !through;
        all = all && through;
    }
    if (!c->aborted && (c->wrong || !all)) return false;
    if (!c->aborted) finish(x);
    end_exchange(x);
    return true;
}

static Exchange *exchange(NcclComm comm, CudaStream stream) {
    for (uint32_t i = 0; i < group_asked.n; i++)
        if (group_asked.p[i]->comm == comm && group_asked.p[i]->stream == stream)
            return group_asked.p[i];
    Exchange *x = xcalloc(1, sizeof *x);
    *x = (Exchange){.comm = comm, .stream = stream};
    vec_push(&group_asked, x);
    return x;
}

static void add_message(Exchange *x, int peer, bool out, Head head, const void *p) {
    vec_push(&x->message,
             ((Message){.peer = peer, .out = out, .head = head, .p = (char *)(uintptr_t)p}));
}

static int push_group(void) {
    int r = 0;
    for (uint32_t i = 0; i < group_asked.n; i++) {
        Exchange *x = group_asked.p[i];
        x->comm->busy = BUSY;
        if (!r) r = driver.standin_push_exchange(x->stream, advance, x);
    }
    group_asked.n = 0;
    return r ? r : NCCL_IN_PROGRESS;
}

int ncclGroupStart(void) {
    depth++;
    return 0;
}

int ncclGroupEnd(void) { return --depth > 0 ? 0 : push_group(); }

static int point_to_point(const char *name, bool out, const void *p, size_t n, int dtype, int peer,
                          NcclComm comm, CudaStream stream) {
    int r = called(name);
    if (r || driver.standin_forgotten(name)) return r;
    if (peer < 0 || peer >= comm->ranks) return INVALID_ARGUMENT;
    Head head = {.bytes = n * size_of(dtype), .kind = SEND, .dtype = dtype};
    add_message(exchange(comm, stream), peer, out, head, p);
    return depth > 0 ? 0 : push_group();
}

int ncclSend(const void *p, size_t n, int dtype, int peer, NcclComm comm, CudaStream stream) {
    return point_to_point(__func__, true, p, n, dtype, peer, comm, stream);
}

int ncclRecv(void *p, size_t n, int dtype, int peer, NcclComm comm, CudaStream stream) {
    return point_to_point(__func__, false, p, n, dtype, peer, comm, stream);
}

typedef struct {
    const char *name;
    Kind kind;
    const char *in;
    char *out;
    size_t bytes; /* of a rank's part */
    int dtype, reduce;
} Collect;

/* Each rank sends its part for each, and adds up, or keeps beside each other, what comes. */
static int collect(const Collect *o, NcclComm comm, CudaStream stream) {
    int r = called(o->name);
    comm->asked += !r; /* forgotten: it is missing in the order */
    if (r || driver.standin_forgotten(o->name)) return r;
    if (depth > 0) return NCCL_INVALID_USAGE; /* of this stand-in */
    Exchange *x = exchange(comm, stream);
    Head head = {.bytes = o->bytes,
                 .number = comm->asked,
                 .kind = (int32_t)o->kind,
                 .dtype = o->dtype,
                 .reduce = o->reduce};
    x->reduces = o->kind != ALL_GATHER;
    if (x->reduces) x->came = xmalloc(o->bytes * (size_t)comm->ranks + 1);
    x->out = o->out, x->bytes = o->bytes, x->dtype = o->dtype, x->reduce = o->reduce;
    for (int k = 0; k < comm->ranks; k++) {
        size_t at = (size_t)k * o->bytes;
        add_message(x, k, true, head, o->kind == REDUCE_SCATTER ? o->in + at : o->in);
        add_message(x, k, false, head, x->reduces ? x->came + at : o->out + at);
    }
    return push_group();
}

int ncclAllReduce(const void *in, void *out, size_t n, int dtype, int reduce, NcclComm comm,
                  CudaStream stream) {
    return collect(&(Collect){__func__, ALL_REDUCE, in, out, n * size_of(dtype), dtype, reduce},
                   comm, stream);
}

int ncclAllGather(const void *in, void *out, size_t n, int dtype, NcclComm comm,
                  CudaStream stream) {
    return collect(&(Collect){__func__, ALL_GATHER, in, out, n * size_of(dtype), dtype, 0}, comm,
                   stream);
}

int ncclReduceScatter(const void *in, void *out, size_t n, int dtype, int reduce, NcclComm comm,
                      CudaStream stream) {
    return collect(&(Collect){__func__, REDUCE_SCATTER, in, out, n * size_of(dtype), dtype, reduce},
                   comm, stream);
}

/* ---- communicators ---- */

int ncclGetVersion(int *version) {
    const char *text = getenv("M6C_STANDIN_NCCL_VERSION");
    *version = text ? atoi(text) : 22304;
    return 0;
}

const char *ncclGetErrorString(int error) {
    return error == NCCL_REMOTE_ERROR ? "remote process exited or there was a network error"
                                      : "what the stand-in was asked for";
}

const char *ncclGetLastError(NcclComm comm) {
    (void)comm;
    return "";
}

int ncclGetUniqueId(NcclId *id) {
    int r = called(__func__);
    if (r) return r;
    return getrandom(id, sizeof *id, 0) == sizeof *id ? 0 : NCCL_SYSTEM_ERROR;
}

static bool attach(NcclComm c) {
    int file = shm_open(c->name, O_CREAT | O_RDWR, 0600);
    c->bytes = sizeof(Shared) + (size_t)(c->ranks * c->ranks) * sizeof(Ring);
    bool good = file >= 0 && ftruncate(file, (off_t)c->bytes) == 0;
    void *p = good ? mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    if (file >= 0) close(file);
    if (p == MAP_FAILED) return false;
    c->shared = p;
    /* all are there: nobody else needs the name */
    if (atomic_fetch_add(&c->shared->here, 1) + 1 == c->ranks) shm_unlink(c->name);
    return true;
}

int ncclCommInitRankConfig(NcclComm *comm, int ranks, NcclId id, int rank, NcclConfig *config) {
    int r = called(__func__);
    if (r) return r;
    if (config->magic != NCCL_CONFIG_MAGIC || config->size != sizeof *config ||
        config->blocking != 0 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
        return INVALID_ARGUMENT;
    NcclComm c = *comm = xcalloc(1, sizeof *c);
    *c = (struct ncclComm){.rank = rank, .ranks = ranks, .busy = BUSY};
    uint64_t name;
    memcpy(&name, &id, sizeof name);
    snprintf(c->name, sizeof c->name, "/m6c-nccl-%016llx", (unsigned long long)name);
    return attach(c) ? NCCL_IN_PROGRESS : NCCL_SYSTEM_ERROR;
}

int ncclCommGetAsyncError(NcclComm comm, int *error) {
    int r = called(__func__);
    bool waits = atomic_load(&comm->shared->here) < comm->ranks || comm->busy > 0;
    if (comm->busy > 0) comm->busy--;
    *error = r ? r : waits ? NCCL_IN_PROGRESS : 0;
    return 0;
}

/* What is in streams still looks at it: it is kept. */
int ncclCommAbort(NcclComm comm) {
    comm->aborted = true;
    shm_unlink(comm->name);
    return called(__func__);
}

int ncclCommDestroy(NcclComm comm) {
    munmap(comm->shared, comm->bytes);
    free(comm);
    return called(__func__);
}
