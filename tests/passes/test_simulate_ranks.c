/* test_simulate_ranks.c: ranks simulated together, against sums by hand and against flows of
 * messages on the same network (netsim): who waits for whom, what shares links and what does not.
 */
#include "passes/simulate_ranks.h"

#include <math.h>
#include <stdlib.h>

#include "passes/netsim.h"
#include "tests/check.h"

/* Formulas of collectives and flows agree as far as tests/passes/test_comm_cost.c says. */
static const double LIKE_FLOWS = 0.15;

#define HEAD                                                                                       \
    "m6c-machine 1\nname \"a cluster\"\ntarget sm_80\nlaunch 3us\nvector 1TOPS\nbandwidth 1TB/s\n" \
    "host-vector 1GOPS\nhost-bandwidth 10GB/s\npeak f32 10TFLOPS\n"                                \
    "copy in 12GB/s latency 10us\ncopy out 10GB/s\ncopy read 1GB/s\ncopy write 1GB/s\n"
static const char NODES_OF_2[] =
    HEAD "link nvlink 100GB/s latency 2us joins 2\nlink ib 10GB/s latency 5us joins 8\n";
static const char NODES_OF_4[] =
    HEAD "link nvlink 100GB/s latency 2us joins 4\nlink ib 10GB/s latency 5us joins 4 ports 2\n";
static const char FLAT[] = HEAD "link rdma 12.5GB/s latency 5us overhead 1us joins 16\n";

enum { MOST = 16, STEPS = 4 };
static const int64_t ALL[MOST] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static bool near(double x, double y) { return fabs(x - y) <= 1e-9 * (1 + fabs(y)); }

typedef struct {
    Session *session;
    Machine *machine;
    const Topology *topology;
    Arena *arena;
} Cluster;

static Cluster cluster_of(const char *text, int64_t ranks) {
    Cluster c = {.session = session_new(), .arena = arena_new()};
    c.machine = machine_parse(c.session, "a cluster", text, strlen(text));
    c.topology = c.machine ? topology_of(c.machine, ranks) : NULL;
    CHECK(c.topology != NULL);
    return c;
}

static void cluster_end(Cluster *c) {
    arena_free(c->arena);
    session_free(c->session);
}

static RankComm comm_of(Collective kind, int64_t size, int64_t stride, double bytes, int64_t peer) {
    return (RankComm){.work = {.kind = kind,
                               .ranks = size,
                               .bytes = bytes,
                               .nlevel = 1,
                               .size = {size},
                               .stride = {stride}},
                      .peer = peer};
}

static double price_of(const Cluster *c, int64_t size, int64_t stride, Collective kind,
                       double bytes) {
    MeshGroup g = {.nlevel = 1, .n = size, .size = {size}, .stride = {stride}};
    CommPlan p;
    return comm_best(c->topology, &g, kind, bytes, &p);
}

/* ---- who waits for whom ---- */

/* Two stages, a rank each: the second begins when it has what the first computed. */
static void test_stages(void) {
    Cluster c = cluster_of(NODES_OF_2, 2);
    uint32_t made[] = {0}, got[] = {0}, back[] = {2};
    const TimedStep first[] = {{.stream = STREAM_COMPUTE, .us = 100},
                               {.stream = STREAM_COMM, .us = 1, .wait = made, .nwait = 1},
                               {.stream = STREAM_COMM, .us = 1},
                               {.stream = STREAM_COMPUTE, .us = 30, .wait = back, .nwait = 1}};
    const TimedStep second[] = {
        {.stream = STREAM_COMM, .us = 1},
        {.stream = STREAM_COMPUTE, .us = 50, .wait = got, .nwait = 1},
        {.stream = STREAM_COMM, .us = 1, .wait = (uint32_t[]){1}, .nwait = 1}};
    const RankComm to[] = {{.peer = 0},
                           comm_of(COLLECTIVE_SEND, 2, 1, 1e6, 1),
                           comm_of(COLLECTIVE_RECV, 2, 1, 1e6, 1),
                           {.peer = 0}};
    const RankComm from[] = {comm_of(COLLECTIVE_RECV, 2, 1, 1e6, 0),
                             {.peer = 0},
                             comm_of(COLLECTIVE_SEND, 2, 1, 1e6, 0)};
    RankClass class[] = {{first, to, 4, &ALL[0], 1, NULL}, {second, from, 3, &ALL[1], 1, NULL}};
    double sent = price_of(&c, 2, 1, COLLECTIVE_SEND, 1e6);
    RanksRun run;
    CHECK(simulate_ranks(c.machine, c.topology, class, 2, c.arena, &run));
    CHECK(near(run.us, 100 + sent + 50 + sent + 30));
    CHECK(near(run.run[1].begin[0], 100) && near(run.run[1].begin[1], 100 + sent));
    CHECK(near(run.run[0].busy[STREAM_COMPUTE], 130) && near(run.run[0].exposed_comm, 2 * sent));
    CHECK(near(run.link[0].bytes, 2e6) && near(run.link[0].messages, 2));
    CHECK(near(run.link[1].bytes, 0) && run.link[1].us == 0);
    class[1].n = 2; /* nothing is sent back */
    CHECK(!simulate_ranks(c.machine, c.topology, class, 2, c.arena, &run));
    CHECK(run.stuck_class == 0 && run.stuck_step == 2);
    cluster_end(&c);
}

/* What all stages do together begins when the last has come to it. */
static void test_all_stages(void) {
    Cluster c = cluster_of(NODES_OF_2, 4);
    uint32_t wait[] = {0};
    double late[] = {10, 70};
    TimedStep step[2][2];
    RankComm comm[] = {{.peer = 0}, comm_of(COLLECTIVE_ALL_REDUCE, 4, 1, 4e6, 0)};
    const int64_t rank[2][2] = {{0, 2}, {1, 3}};
    RankClass class[2];
    for (int i = 0; i < 2; i++) {
        step[i][0] = (TimedStep){.stream = STREAM_COMPUTE, .us = late[i]};
        step[i][1] = (TimedStep){.stream = STREAM_COMM, .us = 1, .wait = wait, .nwait = 1};
        class[i] = (RankClass){step[i], comm, 2, rank[i], 2, NULL};
    }
    RanksRun run;
    CHECK(simulate_ranks(c.machine, c.topology, class, 2, c.arena, &run));
    CHECK(near(run.us, 70 + price_of(&c, 4, 1, COLLECTIVE_ALL_REDUCE, 4e6)));
    CHECK(near(run.run[0].begin[1], 70));
    cluster_end(&c);
}

/* Classes on unequal devices: each with the links inside its own node, and the speeds at which its
 * own streams disturb each other; what both do goes over the slower links. */
static void test_unequal(void) {
    static const char slower[] = HEAD "link nvlink 50GB/s latency 4us joins 2\n"
                                      "link ib 10GB/s latency 5us joins 8\n"
                                      "slow compute while comm 0.5\n";
    Cluster c = cluster_of(slower, 4), fast = cluster_of(NODES_OF_2, 4);
    const TimedStep step[] = {{.stream = STREAM_COMM, .us = 1},
                              {.stream = STREAM_COMM, .us = 1},
                              {.stream = STREAM_COMPUTE, .us = 1000}};
    const RankComm comm[] = {comm_of(COLLECTIVE_ALL_REDUCE, 2, 1, 1e6, 0),
                             comm_of(COLLECTIVE_ALL_REDUCE, 4, 1, 1e6, 0),
                             {.peer = 0}};
    RankClass class[] = {{step, comm, 3, &ALL[0], 2, fast.machine},
                         {step, comm, 3, &ALL[2], 2, c.machine}};
    double quick = price_of(&fast, 2, 1, COLLECTIVE_ALL_REDUCE, 1e6);
    double slow = price_of(&c, 2, 1, COLLECTIVE_ALL_REDUCE, 1e6);
    double both = price_of(&c, 4, 1, COLLECTIVE_ALL_REDUCE, 1e6);
    RanksRun run;
    CHECK(quick < 0.7 * slow);
    CHECK(simulate_ranks(c.machine, c.topology, class, 2, c.arena, &run));
    CHECK(near(run.run[0].end[0], quick) && near(run.run[1].end[0], slow));
    CHECK(near(run.run[0].begin[1], slow) && near(run.run[0].end[1], slow + both));
    CHECK(near(run.run[0].end[2], 1000) && near(run.run[1].end[2], 1000 + (slow + both) / 2));
    cluster_end(&fast);
    cluster_end(&c);
}

/* ---- what shares links ---- */

/* n steps at once, on one communication stream each, of all ranks. */
static double at_once(const Cluster *c, int64_t ranks, const RankComm *comm, uint32_t n) {
    TimedStep step[STEPS];
    RanksRun run = {0};
    for (uint32_t i = 0; i < n; i++)
        step[i] = (TimedStep){.stream = (Stream)(STREAM_COMM + (int)i), .us = 1};
    RankClass class = {step, comm, n, ALL, ranks, NULL};
    CHECK(simulate_ranks(c->machine, c->topology, &class, 1, c->arena, &run));
    return run.us;
}

static uint32_t add_direct(NetMessage *m, int64_t ranks, double bytes) {
    uint32_t n = 0;
    for (int64_t r = 0; r < ranks; r++)
        for (int64_t to = 0; to < ranks; to++)
            if (to != r) m[n++] = (NetMessage){r, to, bytes / (double)ranks, MOST, 0};
    return n;
}

/* One exchange among all, and two at once, take what their messages take as flows; a small one
 * beside a large one is slowed only while it lasts. */
static void test_exchanges(const char *text, int64_t ranks) {
    static NetMessage m[2 * MOST * MOST];
    Cluster c = cluster_of(text, ranks);
    const double bytes = 64e6;
    RankComm comm[] = {comm_of(COLLECTIVE_ALL_TO_ALL, ranks, 1, bytes, 0),
                       comm_of(COLLECTIVE_ALL_TO_ALL, ranks, 1, bytes, 0)};
    double one = at_once(&c, ranks, comm, 1), two = at_once(&c, ranks, comm, 2);
    uint32_t n = add_direct(m, ranks, bytes), both = n + add_direct(m + n, ranks, bytes);
    double flow = net_collective_us(c.topology, m, n);
    double flows = net_collective_us(c.topology, m, both);
    CHECK(near(one, price_of(&c, ranks, 1, COLLECTIVE_ALL_TO_ALL, bytes)));
    if (!CHECK(fabs(one - flow) <= LIKE_FLOWS * flow && fabs(two - flows) <= LIKE_FLOWS * flows))
        printf("%lld ranks: one %g, as flows %g; two %g, as flows %g\n", (long long)ranks, one,
               flow, two, flows);
    comm[1].work.bytes = bytes / 16;
    double less = at_once(&c, ranks, comm, 2);
    CHECK(less > one && less < one + (two - one) / 8);
    cluster_end(&c);
}

/* Sends between ranks 0, 1 of one node and 2, 3 of another, each rank a class of its own. */
typedef struct {
    int from, to;
} Send;

static double sends_at_once(const Send *send, uint32_t n) {
    Cluster c = cluster_of(NODES_OF_2, 4);
    TimedStep step[4][STEPS];
    RankComm comm[4][STEPS];
    RankClass class[4];
    for (int r = 0; r < 4; r++) {
        class[r] = (RankClass){step[r], comm[r], 0, &ALL[r], 1, NULL};
        for (uint32_t i = 0; i < n; i++) {
            bool sends = send[i].from == r;
            if (!sends && send[i].to != r) continue;
            Collective kind = sends ? COLLECTIVE_SEND : COLLECTIVE_RECV;
            comm[r][class[r].n] = comm_of(kind, 4, 1, 10e6, sends ? send[i].to : send[i].from);
            step[r][class[r].n++] = (TimedStep){.stream = (Stream)(STREAM_COMM + (int)i), .us = 1};
        }
    }
    RanksRun run = {0};
    CHECK(simulate_ranks(c.machine, c.topology, class, 4, c.arena, &run));
    cluster_end(&c);
    return run.us;
}

static void test_sends(void) {
    const Send one[] = {{0, 2}}, back[] = {{0, 2}, {2, 0}}, beside[] = {{0, 2}, {1, 3}},
               inside[] = {{0, 2}, {0, 1}};
    double alone = sends_at_once(one, 1);
    double port = 10e6 / 10e9 * 1e6;
    CHECK(alone > port && alone < 1.1 * port);
    CHECK(near(sends_at_once(back, 2), alone)); /* links go both ways */
    double two = sends_at_once(beside, 2);      /* of two ranks, over one port of the node */
    CHECK(fabs(two - 2 * port) < 0.02 * port);
    CHECK(sends_at_once(inside, 2) < 1.15 * alone); /* the node's own links are fast */
}

/* ---- what takes cores ---- */

/* Kernels of 1 ms beside a collective do half until it ends, and it does not wait for them; beside
 * two at once, on either stream, no less. */
static void test_slow(void) {
    Cluster c = cluster_of(HEAD "slow compute while comm 0.5\nslow compute while comm2 0.5\n"
                                "link rdma 12.5GB/s latency 5us overhead 1us joins 4\n",
                           4);
    const TimedStep step[] = {{.stream = STREAM_COMPUTE, .us = 1000},
                              {.stream = STREAM_COMM, .us = 1},
                              {.stream = STREAM_COMM_2, .us = 1}};
    const RankComm sum = comm_of(COLLECTIVE_ALL_REDUCE, 4, 1, 4e6, 0);
    const RankComm comm[] = {{.peer = 0}, sum, sum};
    const double us = price_of(&c, 4, 1, COLLECTIVE_ALL_REDUCE, 4e6);
    RanksRun run;
    for (uint32_t n = 1; n <= 2; n++) {
        RankClass class = {step, comm, 1 + n, ALL, 4, NULL};
        CHECK(simulate_ranks(c.machine, c.topology, &class, 1, c.arena, &run));
        const double end = run.run[0].end[n];
        CHECK(n == 1 ? near(end, us) : end > 1.5 * us && end < 2.01 * us); /* they share links */
        CHECK(end < 2000 && near(run.us, 1000 + 0.5 * end));
        CHECK(near(run.run[0].busy[STREAM_COMPUTE], run.us) && run.run[0].exposed_comm == 0);
    }
    cluster_end(&c);
}

int main(void) {
    test_stages();
    test_slow();
    test_all_stages();
    test_unequal();
    test_sends();
    for (int64_t ranks = 4; ranks <= MOST; ranks *= 2) {
        test_exchanges(FLAT, ranks);
        test_exchanges(NODES_OF_2, ranks);
        test_exchanges(NODES_OF_4, ranks);
    }
    return check_done("simulate_ranks");
}
