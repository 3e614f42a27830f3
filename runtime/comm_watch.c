/* comm_watch.c: a star of connections with rank 0 in the middle; see comm_watch.h.
 *
 *     rank 2  ── FAIL "disk full" ──▶ rank 0 ── FAIL ──▶ rank 1, rank 3, …   each ends its run,
 *     all     ── DONE ──────────────▶ rank 0 ── GO ────▶ all                 says so, and waits
 *
 * Nobody ends before everybody spoke (GO), because the first process that ends makes mpirun end the
 * others. A rank that computes for long would come too late: after GRACE its thread speaks and ends
 * the process. Files are replaced as a whole, so that it may end anywhere. */
#include "runtime/comm_watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TEXT = 3072, MAX_ADDRESSES = 16, MAX_COMMS = 256 };
/* Seconds. */
static const double GRACE = 0.6, FAREWELL = 2, ANSWER = 2, CONNECT = 20;
static const double AFTER_YOU = 0.1; /* the rank at fault ends first: its status is mpirun's */

typedef enum {
    MSG_FAIL,  /* rank failed with code and text */
    MSG_LOST,  /* rank was lost */
    MSG_ASK,   /* rank asks: has number `number` of communicator `code` begun at yours? */
    MSG_HERE,  /* rank answers `code`: `number` is whether, the text is where it is */
    MSG_DONE,  /* rank has spoken */
    MSG_GO,    /* all have */
    MSG_LEAVE, /* rank ends well */
} MessageKind;

typedef struct {
    int32_t kind, rank, code, n;
    int64_t number;
} Head;

typedef struct {
    Head head;
    char text[MAX_TEXT];
} Message;

typedef struct {
    int fd; /* -1: none */
    bool left, done;
    size_t have; /* bytes of the message that is coming in */
    Message in;
} Peer;

/* What rank 0 tells the others about how to reach it. */
typedef struct {
    uint64_t token; /* that nobody else knows */
    int32_t port, n;
    uint32_t address[MAX_ADDRESSES];
} Meeting;

struct Watch {
    int rank, size;
    Peer *peer; /* of each rank; all but rank 0 have that one's only */
    pthread_t thread;
    bool running;
    int wake; /* eventfd */
    pthread_mutex_t lock;
    pthread_cond_t news;
    atomic_bool failed;
    Head failure;
    char failure_text[MAX_TEXT];
    bool taken;              /* the failure is what this rank's run ends with */
    bool spoken, go, closed; /* this rank has; all have; the thread shall end */
    bool leaves;             /* the thread ends the process */
    double grace, farewell;  /* when they are over; 0: not begun */
    double deadline;         /* of a run that ended well; 0: none */
    CommPosition *say;
    const void *say_ctx;
    _Atomic int64_t begun[MAX_COMMS];
    Message *answer; /* to the question that is open; kind -1: none */
    bool asking;
};

/* ---- messages ---- */

static Message message(MessageKind kind, int rank, int code, const char *text) {
    Message m = {.head = {.kind = kind, .rank = rank, .code = code}};
    snprintf(m.text, sizeof m.text, "%s", text);
    m.head.n = (int32_t)strlen(m.text);
    return m;
}

/* Never waits: what a peer does not take in is lost with it. */
static void put(const Peer *p, const Message *m) {
    if (p->fd >= 0)
        (void)!send(p->fd, m, sizeof m->head + (size_t)m->head.n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void put_all(Watch *w, const Message *m, int but) {
    for (int r = 0; r < w->size; r++)
        if (r != but) put(&w->peer[r], m);
}

static void note_failure(Watch *w, const Message *m) {
    if (atomic_load(&w->failed)) return;
    w->failure = m->head;
    memcpy(w->failure_text, m->text, sizeof w->failure_text);
    w->grace = now_seconds() + GRACE;
    atomic_store(&w->failed, true);
}

static Message position(Watch *w, const Message *question) {
    Buf b = {0};
    if (w->say) w->say(w->say_ctx, &b);
    Message m = message(MSG_HERE, w->rank, question->head.rank, b.p ? b.p : "outside of a step");
    int id = question->head.code;
    m.head.number = id < MAX_COMMS && atomic_load(&w->begun[id]) >= question->head.number;
    buf_free(&b);
    return m;
}

static void take_answer(Watch *w, const Message *m) {
    if (w->asking) w->answer[m->head.rank] = *m;
}

/* At rank 0: have all spoken that are still there? */
static void check_done(Watch *w) {
    if (w->go || !w->spoken) return;
    for (int r = 1; r < w->size; r++)
        if (w->peer[r].fd >= 0 && !w->peer[r].done) return;
    Message m = message(MSG_GO, 0, 0, "");
    put_all(w, &m, 0);
    w->go = true;
}

/* What rank 0 hears, or has to tell itself. */
static void hub_hears(Watch *w, const Message *m) {
    Peer *from = &w->peer[m->head.rank];
    Message reply;
    switch ((MessageKind)m->head.kind) {
    case MSG_FAIL:
    case MSG_LOST:
        note_failure(w, m);
        put_all(w, m, m->head.rank);
        break;
    case MSG_ASK:
        put_all(w, m, m->head.rank);
        if (m->head.rank == 0) break;
        reply = position(w, m);
        put(from, &reply);
        break;
    case MSG_HERE:
        if (m->head.code == 0)
            take_answer(w, m);
        else
            put(&w->peer[m->head.code], m);
        break;
    case MSG_DONE: from->done = true; break;
    case MSG_GO: break;
    case MSG_LEAVE: from->left = true; break;
    }
    check_done(w);
}

static void other_hears(Watch *w, const Message *m) {
    Message reply;
    switch ((MessageKind)m->head.kind) {
    case MSG_FAIL:
    case MSG_LOST: note_failure(w, m); break;
    case MSG_ASK:
        reply = position(w, m);
        put(&w->peer[0], &reply);
        break;
    case MSG_HERE: take_answer(w, m); break;
    case MSG_GO: w->go = true; break;
    case MSG_LEAVE: w->peer[0].left = true; break;
    case MSG_DONE: break;
    }
}

static void hears(Watch *w, const Message *m) {
    if (w->rank == 0)
        hub_hears(w, m);
    else
        other_hears(w, m);
    pthread_cond_broadcast(&w->news);
}

/* From this rank to all, by way of rank 0. */
static void tell_all(Watch *w, const Message *m) {
    if (w->rank == 0)
        hub_hears(w, m);
    else
        put(&w->peer[0], m);
}

/* ---- the thread ---- */

static void lost(Watch *w, int rank) {
    Peer *p = &w->peer[rank];
    close(p->fd);
    p->fd = -1;
    if (p->left || w->go) return;
    if (!p->done || !atomic_load(&w->failed)) {
        Message m = message(MSG_LOST, rank, EXIT_SYSTEM, "its process ended");
        hears(w, &m);
    }
    if (w->rank == 0) check_done(w);
    pthread_cond_broadcast(&w->news);
}

/* Is what has come a message that this program could have sent? */
static bool is_sound(const Watch *w, const Head *h) {
    return h->n >= 0 && h->n < MAX_TEXT && h->rank >= 0 && h->rank < w->size &&
           (h->kind != MSG_HERE || (h->code >= 0 && h->code < w->size)) &&
           (h->kind != MSG_ASK || h->code >= 0);
}

/* Reads what there is of one message; false when the other side has gone. */
static bool take_in(Watch *w, Peer *p) {
    size_t whole = sizeof(Head);
    if (p->have >= whole) whole += (size_t)p->in.head.n;
    ssize_t n = recv(p->fd, (char *)&p->in + p->have, whole - p->have, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    p->have += (size_t)n;
    if (p->have == sizeof(Head) && !is_sound(w, &p->in.head)) return false;
    if (p->have < sizeof(Head) || p->have < sizeof(Head) + (size_t)p->in.head.n) return true;
    p->in.text[p->in.head.n] = 0;
    p->have = 0;
    hears(w, &p->in);
    return true;
}

static Status as_status(const Watch *w) {
    bool gone = w->failure.kind == MSG_LOST;
    return status_make(EXIT_SYSTEM, "rank %d %s: %s", w->failure.rank, gone ? "was lost" : "failed",
                       w->failure_text);
}

static void speak(Watch *w) {
    Message done = message(MSG_DONE, w->rank, 0, "");
    w->spoken = true;
    w->farewell = now_seconds() + FAREWELL;
    if (w->rank == 0)
        check_done(w);
    else
        put(&w->peer[0], &done);
}

/* The run has not noticed in time: it computes, or waits for a disk. */
static void speak_for_the_run(Watch *w) {
    Buf at = {0};
    Status s = as_status(w);
    if (w->say) w->say(w->say_ctx, &at);
    fprintf(stderr, "m6c: rank %d: %s%s%s\n", w->rank, s->text, at.n ? "; this rank was " : "",
            at.n ? at.p : "");
    free(s);
    buf_free(&at);
    speak(w);
    w->leaves = true;
}

static void end_process(const Watch *w) {
    if (w->failure.rank != w->rank)
        nanosleep(&(struct timespec){.tv_nsec = (long)(AFTER_YOU * 1e9)}, NULL);
    _exit(EXIT_SYSTEM);
}

static void look_at_clock(Watch *w) {
    double now = now_seconds();
    if (w->grace > 0 && now > w->grace && !w->spoken) speak_for_the_run(w);
    if (w->leaves && (w->go || now > w->farewell)) end_process(w);
    if (w->deadline > 0 && now > w->deadline && w->grace == 0) {
        fprintf(stderr, "m6c: rank %d: its run is done, but others do not end\n", w->rank);
        _exit(EXIT_SYSTEM);
    }
}

/* How long the thread may sleep, in ms; -1: until there is news. */
static int clock_step(const Watch *w) { return w->grace > 0 ? 20 : w->deadline > 0 ? 250 : -1; }

static void *listen_to_peers(void *arg) {
    Watch *w = arg;
    struct pollfd *p = xcalloc((size_t)w->size + 1, sizeof *p);
    for (bool closed = false; !closed;) {
        for (int r = 0; r < w->size; r++)
            p[r] = (struct pollfd){.fd = w->peer[r].fd, .events = POLLIN};
        p[w->size] = (struct pollfd){.fd = w->wake, .events = POLLIN};
        poll(p, (nfds_t)w->size + 1, clock_step(w));
        pthread_mutex_lock(&w->lock);
        for (int r = 0; r < w->size; r++)
            if (p[r].revents && w->peer[r].fd >= 0 && !take_in(w, &w->peer[r])) lost(w, r);
        uint64_t woken;
        if (p[w->size].revents) (void)!read(w->wake, &woken, sizeof woken);
        look_at_clock(w);
        closed = w->closed;
        pthread_mutex_unlock(&w->lock);
    }
    free(p);
    return NULL;
}

static void wake(const Watch *w) {
    uint64_t one = 1;
    (void)!write(w->wake, &one, sizeof one);
}

/* ---- meeting ---- */

static void find_addresses(Meeting *m, bool together) {
    struct ifaddrs *all = NULL;
    m->address[m->n++] = htonl(INADDR_LOOPBACK);
    if (together || getifaddrs(&all) != 0) return;
    for (struct ifaddrs *a = all; a && m->n < MAX_ADDRESSES; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET) continue;
        uint32_t address = ((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr.s_addr;
        if (address != m->address[0]) m->address[m->n++] = address;
    }
    freeifaddrs(all);
}

static Status open_meeting(Meeting *m, bool together, int *listener) {
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof a;
    a.sin_addr.s_addr = htonl(together ? INADDR_LOOPBACK : INADDR_ANY);
    *listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0 || bind(*listener, (struct sockaddr *)&a, sizeof a) != 0 ||
        listen(*listener, 1024) != 0 || getsockname(*listener, (struct sockaddr *)&a, &n) != 0)
        return status_errno("cannot listen for the other ranks");
    m->port = ntohs(a.sin_port);
    if (getrandom(&m->token, sizeof m->token, 0) != sizeof m->token)
        return status_errno("no random number");
    find_addresses(m, together);
    return NULL;
}

static void wait_for(int fd, short events, double seconds) {
    struct pollfd p = {.fd = fd, .events = events};
    poll(&p, 1, MAX((int)(seconds * 1000), 1));
}

typedef struct {
    uint64_t token;
    int64_t rank;
} Hello;

/* A connection that says hello in time and knows the token is a rank's; others are closed. */
static void greet(Watch *w, int fd, uint64_t token, int *missing) {
    Hello h = {0};
    wait_for(fd, POLLIN, 2);
    if (recv(fd, &h, sizeof h, MSG_DONTWAIT) != sizeof h || h.token != token || h.rank < 1 ||
        h.rank >= w->size || w->peer[h.rank].fd >= 0) {
        close(fd);
        return;
    }
    w->peer[h.rank].fd = fd;
    *missing -= 1;
}

static Status meet_all(Watch *w, int listener, uint64_t token) {
    int missing = w->size - 1;
    for (double end = now_seconds() + CONNECT; missing > 0 && now_seconds() < end;) {
        wait_for(listener, POLLIN, 1);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) greet(w, fd, token, &missing);
        if (fd < 0) wait_for(listener, POLLIN, 0.01);
    }
    if (missing > 0)
        return status_make(EXIT_SYSTEM, "%d of %d ranks did not connect to rank 0", missing,
                           w->size);
    return NULL;
}

static int try_address(uint32_t address, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t n = sizeof error;
    a.sin_addr.s_addr = address;
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) wait_for(fd, POLLOUT, 5);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == 0 &&
        getpeername(fd, (struct sockaddr *)&a, &(socklen_t){sizeof a}) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Rank 0 answers the hello with its token: what listens at an address may be somebody else. */
static Status meet_hub(Watch *w, const Meeting *m) {
    Hello h = {m->token, w->rank};
    for (int i = 0; i < m->n; i++) {
        int fd = try_address(m->address[i], m->port);
        if (fd < 0) continue;
        uint64_t token = 0;
        (void)!send(fd, &h, sizeof h, MSG_NOSIGNAL);
        wait_for(fd, POLLIN, CONNECT);
        if (recv(fd, &token, sizeof token, MSG_DONTWAIT) == sizeof token && token == m->token) {
            w->peer[0].fd = fd;
            return NULL;
        }
        close(fd);
    }
    return status_make(EXIT_SYSTEM, "cannot connect to rank 0 on port %d", m->port);
}

/* Small messages leave at once, and a machine that is gone is noticed. */
static void set_options(int fd) {
    const int one = 1, idle = 10, every = 5, count = 4;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static Status meet(Watch *w, const WatchConfig *config) {
    Meeting m = {0};
    int listener = -1;
    Status s = w->rank == 0 ? open_meeting(&m, config->together, &listener) : NULL;
    if (s) m.n = 0; /* nobody shall try */
    Status t = config->share(config->ctx, &m, sizeof m);
    if (!s) s = t;
    if (!s && w->rank != 0) s = meet_hub(w, &m);
    if (!s && w->rank == 0) s = meet_all(w, listener, m.token);
    if (listener >= 0) close(listener);
    for (int r = 0; r < w->size; r++) {
        set_options(w->peer[r].fd);
        if (w->rank == 0 && w->peer[r].fd >= 0 && !s)
            (void)!send(w->peer[r].fd, &m.token, sizeof m.token, MSG_NOSIGNAL);
    }
    return s;
}

/* Signals are for the run's own thread. */
static Status start_thread(Watch *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    w->running = pthread_create(&w->thread, NULL, listen_to_peers, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (w->running) return NULL;
    return status_make(EXIT_SYSTEM, "cannot start the thread that watches the other ranks");
}

Status watch_open(const WatchConfig *config, Watch **out) {
    Watch *w = *out = xcalloc(1, sizeof *w);
    pthread_condattr_t monotonic;
    w->rank = config->rank;
    w->size = config->size;
    w->peer = xcalloc((size_t)w->size, sizeof *w->peer);
    w->answer = xcalloc((size_t)w->size, sizeof *w->answer);
    for (int r = 0; r < w->size; r++) w->peer[r].fd = -1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->news, &monotonic);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    TRY(meet(w, config));
    return start_thread(w);
}

void watch_close(Watch *w) {
    if (!w) return;
    Message m = message(MSG_LEAVE, w->rank, 0, "");
    pthread_mutex_lock(&w->lock);
    w->closed = true;
    put_all(w, &m, w->rank);
    wake(w);
    pthread_mutex_unlock(&w->lock);
    if (w->running) pthread_join(w->thread, NULL);
    for (int r = 0; r < w->size; r++)
        if (w->peer[r].fd >= 0) close(w->peer[r].fd);
    close(w->wake);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->news);
    free(w->peer);
    free(w->answer);
    free(w);
}

/* ---- what the run asks and tells ---- */

bool watch_failed(const Watch *w) { return atomic_load_explicit(&w->failed, memory_order_relaxed); }

Status watch_status(Watch *w) {
    pthread_mutex_lock(&w->lock);
    w->taken = true;
    Status s = as_status(w);
    pthread_mutex_unlock(&w->lock);
    return s;
}

void watch_position(Watch *w, CommPosition *say, const void *ctx) {
    pthread_mutex_lock(&w->lock);
    w->say = say;
    w->say_ctx = ctx;
    pthread_mutex_unlock(&w->lock);
}

void watch_begun(Watch *w, int id, int64_t n) {
    if (id < MAX_COMMS) atomic_store_explicit(&w->begun[id], n, memory_order_relaxed);
}

/* Waits for news until `end`; the lock is held. */
static bool await_news(Watch *w, double end) {
    struct timespec t = {(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    return pthread_cond_timedwait(&w->news, &w->lock, &t) == 0;
}

static bool has_answered(const Watch *w, int rank) {
    return rank == w->rank || w->answer[rank].head.kind == MSG_HERE;
}

static int unanswered(const Watch *w) {
    int left = 0;
    for (int r = 0; r < w->size; r++) left += !has_answered(w, r);
    return left;
}

#define STOPPED "does not answer (its process was stopped, or its machine is out of reach)"

enum { MOST_TOLD = 4 };

static void put_rest(int told, Buf *out) {
    if (told > MOST_TOLD) buf_printf(out, "; and %d more", told - MOST_TOLD);
}

/* Those of all ranks that stand still: whoever has not come may well be waiting for one of them. */
static int put_silent(const Watch *w, Buf *out) {
    int told = 0;
    for (int r = 0; r < w->size; r++)
        if (!has_answered(w, r) && told++ < MOST_TOLD)
            buf_printf(out, "%srank %d " STOPPED, told > 1 ? "; " : "", r);
    put_rest(told, out);
    return told;
}

static void put_answers(const Watch *w, const int *member, int n, Buf *out) {
    int told = 0;
    /* All answers come by way of rank 0, which has one itself. */
    if (!has_answered(w, 0)) {
        buf_puts(out, "rank 0 " STOPPED);
        return;
    }
    if (put_silent(w, out)) return;
    for (int i = 0; i < n; i++) {
        const Message *m = &w->answer[member[i]];
        if (member[i] != w->rank && !m->head.number && told++ < MOST_TOLD)
            buf_printf(out, "%srank %d has not come to it, it is %s", told > 1 ? "; " : "",
                       member[i], m->text);
    }
    put_rest(told, out);
    if (told == 0) buf_puts(out, "all have come to it, but the data do not arrive");
}

static void ask_all(Watch *w, const Message *question) {
    double end = now_seconds() + ANSWER;
    for (int r = 0; r < w->size; r++) w->answer[r].head.kind = -1;
    w->asking = true;
    tell_all(w, question);
    while (unanswered(w) > 0 && await_news(w, end)) {
    }
    w->asking = false;
    pthread_cond_broadcast(&w->news);
}

void watch_ask(Watch *w, int id, int64_t number, const int *member, int n, Buf *out) {
    Message m = message(MSG_ASK, w->rank, id, "");
    m.head.number = number;
    pthread_mutex_lock(&w->lock);
    bool waited = w->asking; /* another thread of this rank, about its collective */
    while (w->asking) pthread_cond_wait(&w->news, &w->lock);
    /* Who did not answer that will not answer this. */
    if (!waited || unanswered(w) == 0) ask_all(w, &m);
    put_answers(w, member, n, out);
    pthread_mutex_unlock(&w->lock);
}

/* ---- the end ---- */

/* The thread already speaks for the run, and will end the process. */
static void await_thread(Watch *w) {
    while (w->leaves) pthread_cond_wait(&w->news, &w->lock);
}

/* Tells the others of a failure that is this rank's own. One without a text is known to all. */
static void tell_failure(Watch *w, const Status s) {
    Message m = message(MSG_FAIL, w->rank, s->code, s->text);
    if (atomic_load(&w->failed) || !s->text[0]) return;
    note_failure(w, &m);
    tell_all(w, &m);
}

int watch_leave(Watch *w, Status s, double seconds, int (*tell)(Status)) {
    pthread_mutex_lock(&w->lock);
    if (!s) {
        w->deadline = now_seconds() + seconds;
        wake(w);
        pthread_mutex_unlock(&w->lock);
        return EXIT_DONE;
    }
    tell_failure(w, s);
    await_thread(w);
    w->spoken = true; /* the thread shall not */
    int code = w->taken ? EXIT_SYSTEM : s->code;
    Status told = s->text[0] ? status_make(code, "rank %d: %s", w->rank, s->text) : NULL;
    free(s);
    pthread_mutex_unlock(&w->lock);
    if (told) tell(told);
    pthread_mutex_lock(&w->lock);
    speak(w);
    while (!w->go && w->farewell > now_seconds() && (w->rank == 0 || w->peer[0].fd >= 0))
        await_news(w, MIN(w->farewell, now_seconds() + 0.1));
    bool mine = w->failure.rank == w->rank;
    pthread_mutex_unlock(&w->lock);
    if (!mine) nanosleep(&(struct timespec){.tv_nsec = (long)(AFTER_YOU * 1e9)}, NULL);
    return code;
}
