/* standin_queue.c: streams, events and graphs of the stand-in, and the order in which work runs. */
#include "tests/gpu/standin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/gpu/emulator.h"

enum {
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800
};

static VEC(CudaStream) streams;
static VEC(CudaEvent) events;
static CudaResult failure;
static double clock_us;
static uint64_t random_state;
static bool on_host;

CudaResult queue_failure(void) { return failure; }

CudaStream stream_new(void) {
    CudaStream s = xcalloc(1, sizeof *s);
    s->index = (int)streams.n;
    vec_push(&streams, s);
    return s;
}

CudaEvent event_new(void) {
    CudaEvent e = xcalloc(1, sizeof *e);
    e->index = (int)events.n;
    vec_push(&events, e);
    return e;
}

/* ---- graphs ---- */

static void nodes_copy(Nodes *to, const Nodes *from) {
    to->n = 0;
    for (uint32_t i = 0; i < from->n; i++) vec_push(to, from->p[i]);
}

static void nodes_join(Nodes *to, const Nodes *from) {
    for (uint32_t i = 0; i < from->n; i++) {
        bool known = false;
        for (uint32_t j = 0; j < to->n; j++) known = known || to->p[j] == from->p[i];
        if (!known) vec_push(to, from->p[i]);
    }
}

static void add_node(CudaStream s, Work w) {
    Node node = {.work = w};
    nodes_copy(&node.after, &s->after);
    s->after.n = 0;
    vec_push(&s->after, s->graph->node.n);
    vec_push(&s->graph->node, node);
}

void graph_release(Graph *g) {
    if (--g->users > 0) return;
    for (uint32_t i = 0; i < g->node.n; i++) {
        free(g->node.p[i].work.ctx);
        vec_free(&g->node.p[i].after);
    }
    vec_free(&g->node);
    free(g);
}

CudaResult queue_capture(CudaStream s) {
    if (s->graph) return CAPTURE_UNMATCHED;
    s->graph = xcalloc(1, sizeof *s->graph);
    s->graph->users = 1;
    s->graph->origin = s;
    s->after.n = 0;
    return 0;
}

/* Whether every node comes before the end of the stream that began. */
static bool all_joined(const Graph *g) {
    bool *reached = xcalloc((size_t)g->node.n + 1, sizeof *reached), all = true;
    for (uint32_t i = 0; i < g->origin->after.n; i++) reached[g->origin->after.p[i]] = true;
    for (uint32_t i = g->node.n; i-- > 0;) {
        all = all && reached[i];
        for (uint32_t j = 0; j < g->node.p[i].after.n; j++)
            if (reached[i]) reached[g->node.p[i].after.p[j]] = true;
    }
    free(reached);
    return all;
}

CudaResult queue_end_capture(CudaStream s, Graph **out) {
    Graph *g = s->graph;
    if (!g || g->origin != s) return CAPTURE_UNMATCHED;
    bool joined = all_joined(g);
    for (uint32_t i = 0; i < streams.n; i++)
        if (streams.p[i]->graph == g) streams.p[i]->graph = NULL;
    for (uint32_t i = 0; i < events.n; i++)
        if (events.p[i]->graph == g) events.p[i]->graph = NULL;
    *out = joined ? g : NULL;
    if (!joined) graph_release(g);
    return joined ? 0 : CAPTURE_UNJOINED;
}

/* ---- asking ---- */

CudaResult queue_push(CudaStream s, Work w) {
    if (s->graph && (w.kind == WORK_GRAPH || w.kind == WORK_EXCHANGE)) return CAPTURE_UNSUPPORTED;
    if (s->graph)
        add_node(s, w);
    else
        vec_push(&s->queue, w);
    return 0;
}

CudaResult queue_record(CudaStream s, CudaEvent e) {
    e->graph = s->graph;
    e->captured = s->graph != NULL;
    if (s->graph) {
        nodes_copy(&e->after, &s->after);
        return 0;
    }
    return queue_push(s, (Work){.kind = WORK_RECORD, .event = e, .ticket = ++e->asked});
}

CudaResult queue_wait(CudaStream s, CudaEvent e) {
    if (e->captured && !e->graph) return CAPTURED_EVENT;
    if (s->graph && s->graph != e->graph) return e->graph ? CAPTURE_MERGE : CAPTURE_ISOLATION;
    if (!e->graph) return queue_push(s, (Work){.kind = WORK_WAIT, .event = e, .ticket = e->asked});
    if (!s->graph) {
        s->graph = e->graph;
        s->after.n = 0;
    }
    nodes_join(&s->after, &e->after);
    return 0;
}

/* ---- running ---- */

static uint32_t dice(uint32_t sides) {
    if (!random_state) {
        const char *seed = getenv("M6C_STANDIN_SEED");
        random_state = hash_mix(seed ? strtoull(seed, NULL, 10) : 1, 77) | 1;
    }
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) % sides);
}

static void run_kernel(const Work *w) {
    failure = kernel_shall_fail();
    if (failure) return;
    Status s = emu_launch(w->kernel, w->blocks, w->threads, w->shared, w->ctx, dice(1u << 30) + 1);
    if (!s) return;
    fprintf(stderr, "standin: %s\n", s->text);
    free(s);
    failure = LAUNCH_FAILED;
}

static void *call_host(void *work) {
    const Work *w = work;
    w->host(w->host_ctx);
    return NULL;
}

static void run_host(const Work *w) {
    pthread_t thread;
    device_memory_open(false);
    on_host = true;
    if (pthread_create(&thread, NULL, call_host, (void *)(uintptr_t)w) != 0) BUG("no thread");
    pthread_join(thread, NULL);
    on_host = false;
    device_memory_open(true);
}

bool queue_is_on_host(void) {
    if (on_host) failure = NOT_PERMITTED;
    return on_host;
}

static void perform(const Work *w) {
    clock_us += w->microseconds;
    switch (w->kind) {
    case WORK_COPY: memmove(w->to, w->from, w->bytes); break;
    case WORK_FILL: memset(w->to, w->byte, w->bytes); break;
    case WORK_KERNEL: run_kernel(w); break;
    case WORK_CALL: w->fn(w->ctx); break;
    case WORK_HOST: run_host(w); break;
    case WORK_RECORD:
        w->event->done = w->ticket;
        w->event->time = clock_us;
        break;
    default: break;
    }
}

typedef struct {
    CudaStream stream;
    int64_t node; /* of the graph at its head; -1: the work itself */
} Choice;
typedef VEC(Choice) Choices;

static void add_ready_nodes(Choices *c, CudaStream s, const Work *w) {
    for (uint32_t i = 0; i < w->graph->node.n; i++) {
        const Nodes *after = &w->graph->node.p[i].after;
        bool ready = !w->done[i];
        for (uint32_t j = 0; j < after->n && ready; j++) ready = w->done[after->p[j]];
        if (ready) vec_push(c, ((Choice){s, i}));
    }
}

static void list_choices(Choices *c) {
    c->n = 0;
    for (uint32_t i = 0; i < streams.n; i++) {
        CudaStream s = streams.p[i];
        if (s->head == s->queue.n) continue;
        const Work *w = &s->queue.p[s->head];
        if (w->kind == WORK_GRAPH && w->left > 0)
            add_ready_nodes(c, s, w);
        else if (w->kind != WORK_EXCHANGE && (w->kind != WORK_WAIT || w->event->done >= w->ticket))
            vec_push(c, ((Choice){s, -1}));
    }
}

static void pop(CudaStream s) {
    Work *w = &s->queue.p[s->head++];
    free(w->ctx);
    free(w->done);
    if (w->graph) graph_release(w->graph);
    if (s->head == s->queue.n) s->head = s->queue.n = 0;
}

static void take(Choice c) {
    Work *w = &c.stream->queue.p[c.stream->head];
    if (c.node >= 0) {
        w->done[c.node] = true;
        w->left--;
        perform(&w->graph->node.p[c.node].work);
    } else {
        perform(w);
        pop(c.stream);
    }
}

static bool reached(CudaStream s, CudaEvent e) {
    if (s) return s->head == s->queue.n;
    if (e) return e->done >= e->asked;
    for (uint32_t i = 0; i < streams.n; i++)
        if (streams.p[i]->head < streams.p[i]->queue.n) return false;
    return true;
}

/* Streams have ranks, drawn anew now and then: what comes last waits until nothing else can run. */
static Choice choose(const Choices *c) {
    bool anew = dice(32) == 0;
    for (uint32_t i = 0; i < streams.n; i++)
        if (anew || streams.p[i]->rank == 0) streams.p[i]->rank = 1 + dice(1u << 20);
    uint32_t best = dice(c->n); /* among the nodes of a graph: any */
    for (uint32_t i = 0; i < c->n; i++)
        if (c->p[i].stream->rank > c->p[best].stream->rank) best = i;
    return c->p[best];
}

typedef struct {
    bool waiting, moved; /* is there one; did one end? */
} Exchanges;

/* Every stream's, if its turn has come: none waits for another in this process. */
static Exchanges try_exchanges(void) {
    Exchanges x = {false, false};
    for (uint32_t i = 0; i < streams.n; i++) {
        CudaStream s = streams.p[i];
        Work *w = s->head < s->queue.n ? &s->queue.p[s->head] : NULL;
        if (!w || w->kind != WORK_EXCHANGE) continue;
        x.waiting = true;
        if (!w->exchange(w->exchange_ctx)) continue;
        x.moved = true;
        pop(s);
    }
    return x;
}

/* With `once`, as far as other processes let it. */
static CudaResult run(CudaStream s, CudaEvent e, bool once) {
    Choices c = {0};
    bool stuck = false;
    uint32_t turn = 0;
    for (uint32_t i = 0; i < streams.n; i++)
        if (streams.p[i]->graph && (!s || s == streams.p[i])) return CAPTURE_UNSUPPORTED;
    device_memory_open(true);
    while (!failure && !stuck && !reached(s, e)) {
        list_choices(&c);
        Exchanges x = c.n == 0 || turn++ % 8 == 0 ? try_exchanges() : (Exchanges){true, true};
        if (c.n > 0) take(choose(&c));
        if (c.n > 0 || x.moved) continue;
        if (!x.waiting) BUG("the streams wait for each other");
        stuck = once;
        if (!once) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    device_memory_open(false);
    vec_free(&c);
    return stuck ? CUDA_NOT_READY : failure;
}

CudaResult queue_run(CudaStream s, CudaEvent e) { return run(s, e, false); }

CudaResult queue_try(CudaStream s, CudaEvent e) { return run(s, e, true); }
