/* comm_mpi.c: ranks that speak MPI, through the module that mpi_module.h describes.
 *
 * Every operation is a nonblocking one that is tested until it is done: data move only while
 * somebody tests, and between two tests this rank looks whether another has failed and at the
 * clock. A thread that waits soon sleeps shortly, because there may be more ranks than cores. */
#include "runtime/comm_mpi.h"

#include <dlfcn.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/comm_watch.h"

/* What the communicators of a process share. */
typedef struct {
    const MpiModule *mpi;
    Watch *watch; /* NULL while it is being made */
    double timeout;
    int place, shared; /* among the ranks on this machine */
    int ncomms;
    bool check;         /* M6C_DEBUG=comm */
    bool slow;          /* M6C_DEBUG=pieces: all links are taken for slow ones */
    atomic_bool broken; /* this rank will not go on */
} World;

typedef enum { LINKS_UNKNOWN, LINKS_SLOW, LINKS_FAST } Links;

typedef struct {
    Comm base;
    World *world;
    MpiHandle comm;
    int rank, size, id;
    int *member; /* ranks of the world */
    Links links;
    int64_t number; /* collectives begun */
} Mpi;

static Mpi *mpi_of(Comm *c) { return (Mpi *)c; }

/* ---- waiting ---- */

/* MPI says so; when another rank has ended that is the reason, and is known a moment later. */
static Status failure(const World *w, int code, const char *what) {
    char text[512] = "";
    for (int i = 0; i < 50 && w->watch && !watch_failed(w->watch); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (w->watch && watch_failed(w->watch)) return watch_status(w->watch);
    w->mpi->error(code, text, sizeof text);
    return status_make(EXIT_SYSTEM, "MPI: %s: %s", what, text);
}

static Status late(const Mpi *c, const char *what, int64_t number, const int *peer) {
    const World *w = c->world;
    if (!w->watch) return status_make(EXIT_SYSTEM, "%s: the other ranks do not come", what);
    Buf who = {0};
    watch_ask(w->watch, c->id, peer ? INT64_MAX : number, peer ? peer : c->member,
              peer ? 1 : c->size, &who);
    Status s = watch_failed(w->watch)
                   ? watch_status(w->watch)
                   : status_make(EXIT_SYSTEM,
                                 "%s, number %lld of its group, did not end in %.3g s: %s "
                                 "(--comm-timeout says how long to wait)",
                                 what, (long long)number, w->timeout, who.p);
    buf_free(&who);
    return s;
}

/* Between two tests: at first nothing, then others may run, then sleeps; the longer it has slept
 * the longer they are, because each test takes time from what is computed meanwhile. */
static void pause_test(uint32_t turn, long *slept_ns) {
    enum { SPIN = 20, YIELD = 200, LEAST_NS = 20000, MOST_NS = 200000, PART = 16 };
    if (turn > YIELD) {
        long ns = MIN(MAX(*slept_ns / PART, (long)LEAST_NS), (long)MOST_NS);
        nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
        *slept_ns += ns;
    } else if (turn > SPIN)
        sched_yield();
}

/* Has the run ended, here or on another rank? What is just arriving still may: the collective that
 * all ranks did before they failed together ends on all of them. */
static bool is_over(const World *w, double *since) {
    const double last = 0.02;
    bool broken = atomic_load_explicit(&w->broken, memory_order_relaxed);
    if (!broken && !(w->watch && watch_failed(w->watch))) return false;
    if (*since == 0) *since = now_seconds();
    return now_seconds() - *since > last;
}

static Status why_over(const World *w) {
    if (w->watch && watch_failed(w->watch)) return watch_status(w->watch);
    return status_make(EXIT_SYSTEM, "%s", "");
}

/* Until the request is done. code: what the call that started it returned. peer: whom a send or a
 * receive waits for; NULL: all of the communicator. */
static Status await(const Mpi *c, int code, MpiHandle *request, const char *what, const int *peer) {
    const World *w = c->world;
    double end = 0, over = 0;
    long slept = 0;
    int done = 0;
    for (uint32_t turn = 1; !code; turn++) {
        code = w->mpi->test(request, &done);
        if (!code && done) return NULL;
        if (is_over(w, &over)) return why_over(w);
        pause_test(turn, &slept);
        if (turn % 64) continue;
        double now = now_seconds();
        if (end == 0) end = now + w->timeout;
        if (now > end) return late(c, what, c->number, peer);
    }
    return failure(w, code, what);
}

/* ---- M6C_DEBUG=comm: do all mean the same? ---- */

enum { SAID_NUMBER, SAID_STEP, SAID_KIND, SAID_COUNT, SAID_DTYPE, SAID_REDUCE, SAID };

static void put_said(const int64_t *x, Buf *b) {
    static const char *const kinds[] = {"all_reduce", "all_gather",   "reduce_scatter",
                                        "all_to_all", "all_to_all_v", "broadcast",
                                        "barrier"};
    buf_printf(b, "%s of %lld %s", kinds[x[SAID_KIND]], (long long)x[SAID_COUNT],
               dtype_name((Dtype)x[SAID_DTYPE]));
    if (x[SAID_KIND] == 0) buf_printf(b, ", %s", reduce_name((ReduceOp)x[SAID_REDUCE]));
    if (x[SAID_STEP] >= 0) buf_printf(b, " (step %lld)", (long long)x[SAID_STEP]);
}

static Status compare(const Mpi *c, const int64_t *all) {
    for (int r = 1; r < c->size; r++) {
        const int64_t *x = all + r * SAID;
        if (memcmp(x, all, SAID * sizeof *x) == 0) continue;
        Buf b = {0};
        buf_printf(&b, "the ranks do not do the same: as number %lld of their group rank %d does ",
                   (long long)c->number, c->member[r]);
        put_said(x, &b);
        buf_printf(&b, ", rank %d ", c->member[0]);
        put_said(all, &b);
        Status s = status_make(EXIT_SYSTEM, "%s", b.p);
        buf_free(&b);
        return s;
    }
    return NULL;
}

typedef enum { ALL_REDUCE, ALL_GATHER, SCATTER, TO_ALL, TO_ALL_V, BROADCAST, BARRIER } Kind;

static Status check(Mpi *c, Kind kind, int64_t n, Dtype d, ReduceOp op) {
    MpiHandle request;
    int64_t mine[SAID] = {c->number, c->base.step, kind, n, d, op};
    int64_t *all = xcalloc((size_t)c->size, sizeof mine);
    int code = c->world->mpi->all_gather(c->comm, mine, all, SAID, DT_I64, &request);
    Status s = await(c, code, &request, "the comparison before a collective", NULL);
    if (!s) s = compare(c, all);
    free(all);
    return s;
}

static void next_number(Mpi *c) {
    c->number++;
    if (c->world->watch) watch_begun(c->world->watch, c->id, c->number);
}

/* Before each collective: its number, and whether it is possible. */
static Status begin(Mpi *c, Kind kind, int64_t n, Dtype d, ReduceOp op) {
    next_number(c);
    if (n > INT_MAX)
        return status_make(EXIT_SYSTEM, "a collective of %lld elements: MPI counts to %d",
                           (long long)n, INT_MAX);
    return c->world->check ? check(c, kind, n, d, op) : NULL;
}

/* ---- operations ---- */

static void count(Mpi *c, int64_t messages, double elements, Dtype d) {
    c->base.sent.messages += messages;
    c->base.sent.bytes += elements * dtype_size(d);
}

/* n elements to each other rank. */
static void count_all(Mpi *c, int64_t n, Dtype d) {
    count(c, c->size - 1, (double)n * (c->size - 1), d);
}

/* What a ring sends, or each to each, of n elements as the operations below count them. */
static void count_collective(Mpi *c, Kind kind, int64_t n, Dtype d) {
    if (kind == ALL_REDUCE)
        count(c, 2 * (c->size - 1), 2.0 * (double)n * (c->size - 1) / c->size, d);
    else
        count_all(c, n, d);
}

static Status mpi_all_reduce(Comm *base, const void *in, void *out, int64_t n, Dtype d,
                             ReduceOp op) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, ALL_REDUCE, n, d, op));
    count_collective(c, ALL_REDUCE, n, d);
    return await(c, c->world->mpi->all_reduce(c->comm, in, out, (int)n, d, op, &r), &r,
                 "all_reduce", NULL);
}

static Status mpi_all_gather(Comm *base, const void *in, void *out, int64_t n, Dtype d) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, ALL_GATHER, n, d, REDUCE_SUM));
    count_all(c, n, d);
    return await(c, c->world->mpi->all_gather(c->comm, in, out, (int)n, d, &r), &r, "all_gather",
                 NULL);
}

static Status mpi_reduce_scatter(Comm *base, const void *in, void *out, int64_t n, Dtype d,
                                 ReduceOp op) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, SCATTER, n, d, op));
    count_all(c, n, d);
    return await(c, c->world->mpi->reduce_scatter(c->comm, in, out, (int)n, d, op, &r), &r,
                 "reduce_scatter", NULL);
}

/* Over slow links, exchanges of at least PIECE bytes a pair go in pieces of so many, from partner
 * to partner. MPI sends all to all at once: over TCP such messages get in each other's way, and
 * share links so unevenly that the last has one alone. Four hosts of two ranks with 500 Mb/s each
 * took 1.1 to 1.5 times as long (tests/bench/alltoall.md). Over fast links, or in shared memory,
 * waiting for each piece takes longer than it saves. */
enum { PIECE = 32 << 10, TAG_PAIR = 0, TAG_PIECE = 1 };
static const double SLOW = 150e6; /* bytes a second of a rank */

/* m elements of what this rank has for `to` and gets from `from`, `skip` bytes from their begins.
 */
static Status swap_piece(const Mpi *c, const char *in, int to, char *out, int from, int64_t bytes,
                         int64_t skip, int m, Dtype d) {
    static const char what[] = "all_to_all";
    const MpiModule *mpi = c->world->mpi;
    MpiHandle sent, got;
    int code = mpi->recv(c->comm, out + from * bytes + skip, m, d, from, TAG_PIECE, &got);
    if (!code) code = mpi->send(c->comm, in + to * bytes + skip, m, d, to, TAG_PIECE, &sent);
    TRY(await(c, code, &got, what, NULL));
    return await(c, 0, &sent, what, NULL);
}

/* In round k all ranks have different partners: of a power of two, two have each other. */
static Status exchange_pieces(const Mpi *c, const char *in, char *out, int64_t n, Dtype d) {
    const int64_t bytes = n * dtype_size(d), piece = PIECE / dtype_size(d);
    const bool mutual = (c->size & (c->size - 1)) == 0;
    memcpy(out + c->rank * bytes, in + c->rank * bytes, (size_t)bytes);
    for (int64_t at = 0; at < n; at += piece)
        for (int k = 1; k < c->size; k++) {
            int to = mutual ? c->rank ^ k : (c->rank + k) % c->size;
            int from = mutual ? to : (c->rank + c->size - k) % c->size;
            TRY(swap_piece(c, in, to, out, from, bytes, at * dtype_size(d), (int)MIN(piece, n - at),
                           d));
        }
    return NULL;
}

/* The first long exchange of a communicator tells whether its links are slow. Who comes to it last
 * sees it go fastest: what that rank says holds for all. */
static Status exchange_first(Mpi *c, const void *in, void *out, int64_t n, Dtype d) {
    MpiHandle r;
    double begin = now_seconds();
    TRY(await(c, c->world->mpi->all_to_all(c->comm, in, out, (int)n, d, &r), &r, "all_to_all",
              NULL));
    double bytes = (double)n * dtype_size(d) * (c->size - 1);
    double rate = bytes / MAX(now_seconds() - begin, 1e-9);
    TRY(await(c, c->world->mpi->all_reduce(c->comm, &rate, &rate, 1, DT_F64, REDUCE_MAX, &r), &r,
              "all_to_all", NULL));
    c->links = rate < SLOW ? LINKS_SLOW : LINKS_FAST;
    return NULL;
}

static Status mpi_all_to_all(Comm *base, const void *in, void *out, int64_t n, Dtype d) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, TO_ALL, n, d, REDUCE_SUM));
    count_all(c, n, d);
    bool is_long = in != out && c->size > 2 && n * dtype_size(d) >= PIECE;
    if (is_long && c->links == LINKS_SLOW) return exchange_pieces(c, in, out, n, d);
    if (is_long && c->links == LINKS_UNKNOWN) return exchange_first(c, in, out, n, d);
    return await(c, c->world->mpi->all_to_all(c->comm, in, out, (int)n, d, &r), &r, "all_to_all",
                 NULL);
}

/* Counts of 64 bits as MPI's; false when one does not fit. */
static bool narrow(const int64_t *from, int *to, int n) {
    for (int i = 0; i < n; i++) {
        if (from[i] < 0 || from[i] > INT_MAX) return false;
        to[i] = (int)from[i];
    }
    return true;
}

static Status mpi_all_to_all_v(Comm *base, const void *in, const int64_t *nsend,
                               const int64_t *send_at, void *out, const int64_t *nrecv,
                               const int64_t *recv_at, Dtype d) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, TO_ALL_V, 0, d, REDUCE_SUM));
    int n = c->size, *to = xcalloc((size_t)n * 4, sizeof *to);
    bool fits = narrow(nsend, to, n) && narrow(send_at, to + n, n) &&
                narrow(nrecv, to + 2 * n, n) && narrow(recv_at, to + 3 * n, n);
    Status s = fits ? NULL : status_make(EXIT_SYSTEM, "all_to_all_v: MPI counts to %d", INT_MAX);
    for (int r = 0; r < n && !s; r++)
        if (r != c->rank && nsend[r] > 0) count(c, 1, (double)nsend[r], d);
    if (!s)
        s = await(c,
                  c->world->mpi->all_to_all_v(c->comm, in, to, to + n, out, to + 2 * n, to + 3 * n,
                                              d, &r),
                  &r, "all_to_all_v", NULL);
    free(to);
    return s;
}

static Status mpi_send(Comm *base, const void *p, int64_t n, Dtype d, int to) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    if (n > INT_MAX) return status_make(EXIT_SYSTEM, "send: MPI counts to %d", INT_MAX);
    count(c, 1, (double)n, d);
    return await(c, c->world->mpi->send(c->comm, p, (int)n, d, to, TAG_PAIR, &r), &r, "send",
                 &c->member[to]);
}

static Status mpi_recv(Comm *base, void *p, int64_t n, Dtype d, int from) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    if (n > INT_MAX) return status_make(EXIT_SYSTEM, "recv: MPI counts to %d", INT_MAX);
    return await(c, c->world->mpi->recv(c->comm, p, (int)n, d, from, TAG_PAIR, &r), &r, "recv",
                 &c->member[from]);
}

static Status mpi_broadcast(Comm *base, void *p, int64_t n, Dtype d, int root) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, BROADCAST, n, d, REDUCE_SUM));
    if (c->rank == root) count_all(c, n, d);
    return await(c, c->world->mpi->broadcast(c->comm, p, (int)n, d, root, &r), &r, "broadcast",
                 NULL);
}

static Status mpi_barrier(Comm *base) {
    Mpi *c = mpi_of(base);
    MpiHandle r;
    TRY(begin(c, BARRIER, 0, DT_F32, REDUCE_SUM));
    return await(c, c->world->mpi->barrier(c->comm, &r), &r, "barrier", NULL);
}

/* ---- what others do by other means: comm_begin and its like ---- */

/* Sends and receives are not the group's: their partners may be at different ones. */
Status comm_mpi_begin(Comm *base, Collective kind, int64_t n, Dtype d, ReduceOp op,
                      int64_t *number) {
    static const Kind kinds[COLLECTIVE_COUNT] = {[COLLECTIVE_ALL_REDUCE] = ALL_REDUCE,
                                                 [COLLECTIVE_ALL_GATHER] = ALL_GATHER,
                                                 [COLLECTIVE_REDUCE_SCATTER] = SCATTER,
                                                 [COLLECTIVE_ALL_TO_ALL] = TO_ALL};
    Mpi *c = mpi_of(base);
    bool pairs = kind == COLLECTIVE_SEND || kind == COLLECTIVE_RECV;
    next_number(c);
    *number = c->number;
    if (!pairs) count_collective(c, kinds[kind], n, d);
    if (kind == COLLECTIVE_SEND) count(c, 1, (double)n, d);
    return c->world->check && !pairs ? check(c, kinds[kind], n, d, op) : NULL;
}

Status comm_mpi_over(const Comm *c) {
    const World *w = ((const Mpi *)c)->world;
    bool over = atomic_load(&w->broken) || (w->watch && watch_failed(w->watch));
    return over ? why_over(w) : NULL;
}

double comm_mpi_patience(const Comm *c) { return ((const Mpi *)c)->world->timeout; }

Status comm_mpi_late(const Comm *base, const char *what, int64_t number, int peer) {
    const Mpi *c = (const Mpi *)base;
    return late(c, what, number ? number : c->number, peer < 0 ? NULL : &c->member[peer]);
}

static int mpi_size(const Comm *c) { return ((const Mpi *)c)->size; }
static int mpi_rank(const Comm *c) { return ((const Mpi *)c)->rank; }

/* ---- communicators ---- */

static Mpi *new_comm(World *w, int size) {
    Mpi *c = xcalloc(1, sizeof *c);
    *c = (Mpi){.base = {.ops = &comm_mpi, .step = -1}, .world = w, .size = size, .id = w->ncomms++};
    c->links = w->slow ? LINKS_SLOW : LINKS_UNKNOWN;
    c->member = xcalloc((size_t)size, sizeof *c->member);
    return c;
}

typedef struct {
    int64_t color, key, rank;
} Wish;

static int by_key(const void *a, const void *b) {
    const Wish *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->rank < y->rank ? -1 : 1;
}

/* MPI's call waits without a timeout: it comes after a collective that has one. */
static Status mpi_split(Comm *base, int color, int key, Comm **out) {
    Mpi *c = mpi_of(base);
    Wish mine = {color, key, c->rank}, *all = xcalloc((size_t)c->size, sizeof *all);
    Status s = mpi_all_gather(base, &mine, all, sizeof mine / sizeof(int64_t), DT_I64);
    int n = 0;
    for (int r = 0; r < c->size; r++)
        if (all[r].color == color) all[n++] = all[r];
    qsort(all, (size_t)n, sizeof *all, by_key);
    MpiHandle handle;
    int code = s ? 0 : c->world->mpi->split(c->comm, color, key, &handle);
    if (code) s = failure(c->world, code, "split");
    if (!s) {
        Mpi *made = new_comm(c->world, n);
        made->comm = handle;
        for (int i = 0; i < n; i++) {
            made->member[i] = c->member[all[i].rank];
            if (all[i].rank == c->rank) made->rank = i;
        }
        *out = &made->base;
    }
    free(all);
    return s;
}

/* MPI keeps its own part until the end: to free it, all ranks must be well. */
static void mpi_close(Comm *base) {
    free(mpi_of(base)->member);
    free(base);
}

/* ---- the module ---- */

static bool folder_of_program(char *path, size_t room) {
    ssize_t n = readlink("/proc/self/exe", path, room - 1);
    if (n <= 0) return false;
    path[n] = 0;
    *strrchr(path, '/') = 0;
    return true;
}

/* *why: what dlopen says of the first file that is there, or else of the last. */
static void *load(const char *folder, const char *place, Buf *why) {
    Buf path = {0};
    buf_printf(&path, "%s%slibm6c_mpi.so", folder, place);
    bool there = access(path.p, R_OK) == 0;
    /* What MPI loads itself looks for MPI's symbols among all. */
    void *lib = there ? dlopen(path.p, RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (there && !lib) buf_printf(why, "%s%s", why->n ? "; " : "", dlerror());
    buf_free(&path);
    return lib;
}

static Status load_module(const MpiModule **out) {
    char folder[PATH_MAX] = ".";
    Buf why = {0};
    const char *own = getenv("M6C_MPI");
    if (!own) folder_of_program(folder, sizeof folder);
    void *lib = load(own ? own : folder, "/", &why);
    if (!lib && !own) lib = load(folder, "/../lib/m6c/", &why);
    const MpiModule *m = lib ? dlsym(lib, MPI_MODULE_SYMBOL) : NULL;
    Status s = NULL;
    if (!lib)
        s = status_make(EXIT_SYSTEM, "several ranks need MPI: %s%s",
                        why.n ? why.p
                              : "there is no libm6c_mpi.so beside m6c; it is built where "
                                "Open MPI's headers are (libopenmpi-dev)",
                        why.n ? " (is Open MPI installed?)" : "");
    else if (!m || m->version != MPI_MODULE_VERSION)
        s = status_make(EXIT_SYSTEM, "libm6c_mpi.so is of another m6c");
    buf_free(&why);
    *out = m;
    return s;
}

/* ---- the world ---- */

static Status share(void *ctx, void *p, int64_t bytes) {
    return mpi_broadcast(ctx, p, bytes, DT_BOOL, 0);
}

static Status open_watch(Mpi *c) {
    World *w = c->world;
    Watch *watch;
    WatchConfig config = {.rank = c->rank,
                          .size = c->size,
                          .together = w->shared == c->size,
                          .share = share,
                          .ctx = &c->base};
    Status s = watch_open(&config, &watch);
    w->watch = watch;
    return s;
}

Status comm_mpi_open(double timeout, Comm **out) {
    World *w = xcalloc(1, sizeof *w);
    const char *debug = getenv("M6C_DEBUG");
    int rank, size;
    MpiHandle handle;
    Status s = load_module(&w->mpi);
    int code = s ? 0 : w->mpi->init(&handle, &rank, &size, &w->place, &w->shared);
    if (code) s = failure(w, code, "MPI_Init");
    if (s) {
        free(w);
        return s;
    }
    w->timeout = timeout;
    w->check = debug && strstr(debug, "comm");
    w->slow = debug && strstr(debug, "pieces");
    Mpi *c = new_comm(w, size);
    c->comm = handle;
    c->rank = rank;
    for (int i = 0; i < size; i++) c->member[i] = i;
    *out = &c->base;
    return open_watch(c);
}

int comm_mpi_finish(Comm *world, Status s, int (*tell)(Status)) {
    enum { LONGEST = 30 }; /* seconds for MPI to end */
    Mpi *c = mpi_of(world);
    World *w = c->world;
    if (!s) s = mpi_barrier(world);
    int code = watch_leave(w->watch, s, LONGEST, tell);
    if (code == EXIT_DONE) {
        w->mpi->finish();
        watch_close(w->watch);
    }
    mpi_close(world);
    free(w);
    return code;
}

void comm_mpi_position(Comm *world, CommPosition *say, const void *ctx) {
    watch_position(mpi_of(world)->world->watch, say, ctx);
}

void comm_mpi_break(Comm *world) { atomic_store(&mpi_of(world)->world->broken, true); }

int comm_mpi_neighbours(const Comm *world, int *place) {
    const World *w = ((const Mpi *)world)->world;
    *place = w->place;
    return w->shared;
}

const CommOps comm_mpi = {
    .name = "mpi",
    .doc = "processes that mpirun or srun started",
    .size = mpi_size,
    .rank = mpi_rank,
    .split = mpi_split,
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .all_to_all = mpi_all_to_all,
    .all_to_all_v = mpi_all_to_all_v,
    .send = mpi_send,
    .recv = mpi_recv,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
    .close = mpi_close,
};
