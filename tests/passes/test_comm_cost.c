/* test_comm_cost.c: formulas of collectives by hand, against counts, and against flows on links. */
#include <math.h>
#include <stdlib.h>

#include "passes/comm_cost.h"
#include "passes/netsim.h"
#include "tests/check.h"

#define MACHINE                                                                                    \
    "m6c-machine 1\nname \"test\"\ntarget sm_80\nlaunch 3us\nvector 1TOPS\nbandwidth 1TB/s\n"      \
    "host-vector 1GOPS\nhost-bandwidth 10GB/s\npeak f32 10TFLOPS\n"                                \
    "copy in 12GB/s latency 10us\ncopy out 10GB/s\ncopy read 1GB/s\ncopy write 1GB/s\n"

/* Networks of the tests; all have at least 64 devices. */
typedef struct {
    const char *name, *links;
    double tolerance; /* of formulas against flows, where rounds do not wait for one another */
} Network;
static const Network network[] = {
    {"single devices, 100 Gb/s", "devices 1\nnodes 64\nlink rdma 12.5GB/s latency 5us\n", 0.01},
    {"8 devices a node, one port",
     "devices 8\nnodes 8\nlink nvlink 150GB/s latency 2us\n"
     "link roce 6.25GB/s latency 10us\n",
     0.1},
    {"8 devices a node, 4 ports",
     "devices 8\nnodes 8\nlink nvlink 150GB/s latency 2us\n"
     "link ib 12.5GB/s latency 5us overhead 0.5us ports 4\n",
     0.1},
    {"a bus a node, rails",
     "devices 4\nnodes 16\nlink pcie 12GB/s latency 3us bus\n"
     "link ib 12.5GB/s latency 5us ports 4 rails\n",
     0.4}, /* what waits for the ports is not on the bus meanwhile */
    {"islands of nodes",
     "link nvlink 150GB/s latency 2us joins 4\n"
     "link leaf 12.5GB/s latency 4us joins 4 ports 4\n"
     "link spine 12.5GB/s latency 6us joins 4 ports 8\n",
     0.15},
    {"a BiGraph", "devices 1\nnodes 32\nlink rdma 12.5GB/s latency 5us bigraph 8\n", 0.15},
};

static const Topology *build(Session *s, const char *links, int64_t ranks) {
    char *text = arena_printf(session_arena(s), "%s%s", MACHINE, links);
    Machine *m = machine_parse(s, "m.txt", text, strlen(text));
    return CHECK(m != NULL) ? topology_of(m, ranks) : NULL;
}

static MeshGroup group(int64_t size, int64_t stride) {
    return (MeshGroup){.nlevel = 1, .size = {size}, .stride = {stride}, .n = size};
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b)); }

/* ---- by hand ---- */

static void check_by_hand(void) {
    Session *s = session_new();
    const Topology *one = build(s, network[0].links, 64), *node = build(s, network[1].links, 64);
    CommPlan p;
    MeshGroup all = group(64, 1), few = group(8, 8);
    if (!one || !node) return;
    /* a ring of 64: 126 rounds of 1 MB / 64 at 12.5 GB/s, 5 us each, and one launch */
    CHECK(comm_plan(one, &all, COLLECTIVE_ALL_REDUCE, COMM_RING, 64e6, &p));
    CHECK(near(p.us, 3 + 126 * (5 + 80)));
    /* the same ring on nodes of 8: one of a node's 8 messages leaves it */
    CHECK(comm_plan(node, &all, COLLECTIVE_ALL_REDUCE, COMM_RING, 64e6, &p));
    CHECK(near(p.us, 3 + 126 * (10 + 160)));
    /* halving: 32, 16, … MB to ranks 1, 2, 4 away inside the node, 4, 2, 1 MB by 8 ranks outside */
    CHECK(comm_plan(node, &all, COLLECTIVE_REDUCE_SCATTER, COMM_HALVING, 64e6, &p));
    CHECK(near(p.us, 3 + 3 * 2 + 3 * 10 + 56e6 / 150e3 + 7 * 8e6 / 6.25e3));
    /* flat: 7 messages inside, 56 outside, of 1 MB; all 8 ranks share the port */
    CHECK(comm_plan(node, &all, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 64e6, &p));
    CHECK(near(p.us, 3 + 10 + 56e6 * 8 / 6.25e3));
    /* of 1 B: what counts is that each message is posted */
    CHECK(comm_plan(node, &all, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 64, &p));
    CHECK(near(p.us, 3 + 10 + (7 * 2 + 56 * 10) * 62. / 63 + 56 * 8 / 6.25e3 / 63));
    /* groups of ranks with one index in their nodes: 8 groups share each port */
    CHECK(comm_plan(node, &few, COLLECTIVE_ALL_GATHER, COMM_RING, 8e6, &p));
    CHECK(near(p.us, 3 + 7 * (10 + 8e6 / 6.25e3)));
    CHECK(near(comm_convert_us(one, 1e6, DT_F32, DT_F16), 3 + 6));
    session_free(s);
}

/* A shaped link of 25 MB/s: headers travel too, 750 B were saved up in the latency, long messages
 * are slower. An all_to_all of one step is flat, however its messages cost. */
static void check_shaped(void) {
    Session *s = session_new();
    const Topology *t = build(s,
                              "devices 2\nnodes 2\nlink host 4GB/s latency 1us bus\n"
                              "link net 25MB/s latency 30us burst 18KB header 88B long 20MB/s from "
                              "32KB\n",
                              4);
    MeshGroup peers = group(2, 2), all = group(4, 1);
    CommPlan p, best;
    if (!t) return;
    comm_plan(t, &peers, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 2 * 1000, &p);
    CHECK(near(p.us, 3 + 30 + (2 * 1088 - 750) / 25.));
    comm_plan(t, &peers, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 2 * 40000, &p);
    CHECK(near(p.us, 3 + 30 + (2 * 40088 - 750) / 20.));
    comm_plan(t, &all, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 4, &p);
    CHECK(near(comm_best(t, &all, COLLECTIVE_ALL_TO_ALL, 4, &best), p.us));
    CHECK(best.how == COMM_DIRECT);
    session_free(s);
}

/* Two networks differ only in rails: what stays on its rail spares the bus of the node. */
static void check_rails(void) {
    Session *s = session_new();
    static const char nodes[] = "devices 4\nnodes 2\nlink pcie 4GB/s latency 1us bus\n";
    char *plain = arena_printf(session_arena(s), "%slink ib 8GB/s ports 4\n", nodes);
    char *rails = arena_printf(session_arena(s), "%slink ib 8GB/s ports 4 rails\n", nodes);
    const Topology *a = build(s, plain, 8), *b = build(s, rails, 8);
    MeshGroup peers = group(2, 4), all = group(8, 1);
    CommPlan p, q;
    comm_plan(a, &peers, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 8e6, &p);
    comm_plan(b, &peers, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 8e6, &q);
    CHECK(near(p.us, 3 + 2 * 4e6 * 4 / 4e3) && near(q.us, 3 + 4e6 / 8e3));
    comm_plan(a, &all, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 8e6, &p);
    comm_plan(b, &all, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, 8e6, &q);
    CHECK(near(p.us - q.us, 2 * 1e6 * 4 / 4e3));
    session_free(s);
}

/* ---- formulas of messages and bytes ---- */

static void check_sum(const Topology *t, const CommPlan *p, double messages, double bytes) {
    CommTraffic sum[TOPOLOGY_LEVELS];
    double m = 0, b = 0;
    comm_traffic(p, sum);
    for (int l = 0; l < t->nlevel; l++) m += sum[l].messages, b += sum[l].bytes;
    CHECK(near(m, messages) && near(b, bytes));
}

static void check_all_to_all(const Topology *t, const MeshGroup *g, double bytes) {
    int64_t w[TOPOLOGY_LEVELS + 1];
    CommPlan p;
    comm_members(t, g, w);
    CHECK(comm_plan(t, g, COLLECTIVE_ALL_TO_ALL, COMM_DIRECT, bytes, &p));
    check_sum(t, &p, (double)(g->n - 1), comm_least_bytes(COLLECTIVE_ALL_TO_ALL, g->n, bytes));
    for (int l = 0; l < t->nlevel; l++) {
        CHECK(near(p.phase[0].level[l].messages, all_to_all_messages(w, l)));
        CHECK(near(p.phase[0].level[l].bytes, all_to_all_bytes(w, t->nlevel, l, bytes)));
    }
    for (int64_t a = 1; a <= g->n; a++)
        for (int64_t b = 1; a * b <= g->n; b++) {
            int64_t size[] = {a, b, g->n / (a * b)};
            if (!all_to_all_phases(t, g, bytes, 3, size, &p)) continue;
            CHECK(g->n % (a * b) == 0);
            check_sum(t, &p, grouped_messages(3, size), grouped_bytes(3, size, bytes));
        }
}

static void check_formulas(void) {
    for (size_t i = 0; i < COUNT(network); i++) {
        Session *s = session_new();
        int64_t ranks = i == 5 ? 32 : 64;
        const Topology *t = build(s, network[i].links, ranks);
        if (!t) return;
        for (int64_t n = 2; n <= ranks; n *= 2) {
            MeshGroup near_ = group(n, 1), far = group(n, ranks / n);
            CommPlan p;
            check_all_to_all(t, &near_, 1e6);
            check_all_to_all(t, &far, 1e6);
            for (int how = COMM_RING; how <= COMM_HIERARCHICAL; how++)
                for (int c = COLLECTIVE_ALL_REDUCE; c <= COLLECTIVE_REDUCE_SCATTER; c++) {
                    bool ok = comm_plan(t, &near_, (Collective)c, (CommAlgorithm)how, 1e6, &p);
                    CHECK(ok || how == COMM_HIERARCHICAL);
                    double sum = 0, least = comm_least_bytes((Collective)c, n, 1e6);
                    CommTraffic by[TOPOLOGY_LEVELS];
                    comm_traffic(&p, by);
                    for (int l = 0; l < t->nlevel; l++) sum += by[l].bytes;
                    CHECK(!ok || near(sum, least));
                }
        }
        session_free(s);
    }
}

/* ---- against flows ---- */

typedef struct {
    VEC(NetMessage) m;
    int32_t round;
    bool ring;
} Schedule;

/* Each rank to index ^ by, or to index + by; rings are spread over all ports of a node. */
static void add_round(Schedule *x, const Topology *t, const MeshGroup *g, bool flip, int64_t by,
                      double bytes) {
    int ports = x->ring ? 64 : 1;
    for (int64_t r = 0; r < t->ranks; r++) {
        int64_t i = mesh_index(g, r), to = flip ? i ^ by : (i + by) % g->n;
        vec_push(&x->m, ((NetMessage){r, mesh_member(g, r, to), bytes, ports, x->round}));
    }
}

static void add_direct(Schedule *x, const Topology *t, const MeshGroup *g, double bytes) {
    for (int64_t k = 1; k < g->n; k++) add_round(x, t, g, false, k, bytes / (double)g->n);
    x->round++;
}

static void add_reduce_scatter(Schedule *x, const Topology *t, const MeshGroup *g,
                               CommAlgorithm how, double bytes) {
    x->ring = how == COMM_RING;
    if (how == COMM_DIRECT) add_direct(x, t, g, bytes);
    for (int64_t k = 1; how == COMM_RING && k < g->n; k++, x->round++)
        add_round(x, t, g, false, 1, bytes / (double)g->n);
    for (int64_t d = 1; how == COMM_HALVING && d < g->n; d *= 2, x->round++)
        add_round(x, t, g, true, d, bytes / (double)(2 * d));
}

static void compare(const Topology *t, const Network *net, const char *what, Schedule *x, double us,
                    double tolerance) {
    double flows = net_collective_us(t, x->m.p, x->m.n);
    if (!CHECK(fabs(flows - us) <= tolerance * flows))
        fprintf(stderr, "%s, %s: %g us by formula, %g us as flows\n", net->name, what, us, flows);
    vec_free(&x->m);
    x->round = 0, x->ring = false;
}

static void check_flows_of(const Network *net, const Topology *t, const MeshGroup *g,
                           double bytes) {
    CommPlan p;
    Schedule x = {0};
    for (int how = COMM_RING; how <= COMM_DIRECT; how++) {
        if (!comm_plan(t, g, COLLECTIVE_REDUCE_SCATTER, (CommAlgorithm)how, bytes, &p)) continue;
        add_reduce_scatter(&x, t, g, (CommAlgorithm)how, bytes);
        compare(t, net, comm_algorithm_name((CommAlgorithm)how), &x, p.us - 3, net->tolerance);
    }
    for (int64_t part = 2; part < g->n; part *= 2) {
        int64_t size[] = {part, g->n / part};
        MeshGroup inner, outer;
        if (!CHECK(group_parts(g, part, &inner, &outer))) continue;
        all_to_all_phases(t, g, bytes, 2, size, &p);
        add_direct(&x, t, &inner, bytes);
        add_direct(&x, t, &outer, bytes);
        compare(t, net, "grouped", &x, p.us - 9 - 2 * bytes / 1e6, net->tolerance);
    }
}

static void check_flows(void) {
    for (size_t i = 0; i < COUNT(network); i++) {
        Session *s = session_new();
        int64_t ranks = i == 5 ? 32 : 64;
        const Topology *t = build(s, network[i].links, ranks);
        MeshGroup all = group(ranks, 1), near_ = group(8, 1), far = group(8, ranks / 8);
        for (double bytes = 6400; t && bytes < 1e8; bytes *= 100) {
            check_flows_of(&network[i], t, &all, bytes);
            check_flows_of(&network[i], t, &near_, bytes);
            check_flows_of(&network[i], t, &far, bytes);
        }
        session_free(s);
    }
}

/* ---- choices ---- */

static int64_t part_of(const Topology *t, const MeshGroup *g, double bytes) {
    AllToAllPlan p;
    all_to_all_plan(t, g, bytes, false, &p);
    CHECK(p.us <= p.flat_us && (p.nphase == 1) == (p.us == p.flat_us));
    return p.nphase == 1 ? 1 : p.size[0];
}

static void check_choices(void) {
    Session *s = session_new();
    const Topology *one = build(s, "devices 64\nlink nvlink 150GB/s latency 2us\n", 64);
    const Topology *nodes = build(s, network[1].links, 64);
    MeshGroup all = group(64, 1), node = group(8, 1), pair = group(2, 1);
    MeshGroup three = {.nlevel = 2, .size = {3, 8}, .stride = {16, 1}, .n = 24};
    if (!one || !nodes) return;
    CHECK(part_of(one, &all, 1e9) == 1 && part_of(nodes, &pair, 64) == 1);
    CHECK(part_of(nodes, &node, 1e8) == 1);
    /* slow links between nodes, small messages: aggregated by node */
    CHECK(part_of(nodes, &all, 64e3) == 8);
    CHECK(part_of(nodes, &three, 24) == 8 && part_of(nodes, &three, 64e3) > 1);
    /* large ones: bytes count, and grouping moves the same over the port but more beside it */
    CHECK(part_of(nodes, &all, 1e9) == 1);
    CommPlan p;
    CHECK(comm_best(nodes, &all, COLLECTIVE_ALL_REDUCE, 1e8, &p) > 0);
    CHECK(p.how == COMM_HIERARCHICAL || p.how == COMM_RING || p.how == COMM_HALVING);
    double ring = 0;
    CHECK(comm_plan(nodes, &all, COLLECTIVE_ALL_REDUCE, COMM_RING, 1e3, &p) && (ring = p.us) > 0);
    comm_best(nodes, &all, COLLECTIVE_ALL_REDUCE, 1e3, &p);
    CHECK(p.us < ring / 4 && p.how != COMM_RING); /* logarithmic, not linear in ranks */
    session_free(s);
}

/* More bytes never take less time, whatever the collective, group and network. */
static void check_monotone(void) {
    for (size_t i = 0; i < COUNT(network); i++) {
        Session *s = session_new();
        int64_t ranks = i == 5 ? 32 : 64;
        const Topology *t = build(s, network[i].links, ranks);
        for (int64_t n = 2; t && n <= ranks; n *= 2)
            for (int c = 0; c < COLLECTIVE_COUNT; c++) {
                MeshGroup near_ = group(n, 1), far = group(n, ranks / n);
                double before = 0, before_far = 0;
                for (double bytes = 1; bytes < 1e10; bytes *= 7) {
                    CommPlan p;
                    double us = comm_best(t, &near_, (Collective)c, bytes, &p);
                    double us_far = comm_best(t, &far, (Collective)c, bytes, &p);
                    CHECK(us >= before && us_far >= before_far && us > 0 && isfinite(us));
                    before = us, before_far = us_far;
                }
            }
        session_free(s);
    }
}

/* On a BiGraph, halving-doubling has every link to itself as HDRM places ranks: it takes what it
 * takes on a full crossbar; with ranks in order it takes longer. */
static void check_bigraph(void) {
    Session *s = session_new();
    const Topology *placed = build(s, network[5].links, 32);
    const Topology *crossbar = build(s, network[0].links, 32);
    if (!placed || !crossbar) return;
    Topology in_order = *placed;
    MeshGroup all = group(32, 1);
    CommPlan a, b, c;
    in_order.device = NULL;
    comm_plan(placed, &all, COLLECTIVE_ALL_REDUCE, COMM_HALVING, 1e8, &a);
    comm_plan(crossbar, &all, COLLECTIVE_ALL_REDUCE, COMM_HALVING, 1e8, &b);
    comm_plan(&in_order, &all, COLLECTIVE_ALL_REDUCE, COMM_HALVING, 1e8, &c);
    CHECK(placed->device && near(a.us, b.us) && c.us > 1.1 * a.us);
    session_free(s);
}

/* ---- prices of work ---- */

static void check_work(void) {
    Session *s = session_new();
    char *text = arena_printf(session_arena(s), "%s%s", MACHINE, network[1].links);
    Machine *m = machine_parse(s, "m.txt", text, strlen(text));
    const Topology *t = CHECK(m != NULL) ? topology_of(m, 64) : NULL;
    MeshGroup g = group(16, 4);
    CommPlan p;
    Work w = {.what = "all_reduce"};
    w.comm = (CommWork){COLLECTIVE_ALL_REDUCE, 16, 1e6, 1, {16}, {4}};
    if (!t) return;
    double us = comm_best(t, &g, COLLECTIVE_ALL_REDUCE, 1e6, &p);
    for (int i = 0; i < 2; i++) CHECK(near(comm_cost_us(m, &w), us)); /* worked out, then known */
    w.comm.size[0] = w.comm.ranks = 1000; /* more than there are devices: still a price */
    CHECK(comm_cost_us(m, &w) > us);
    session_free(s);
}

int main(void) {
    check_choices();
    check_monotone();
    check_bigraph();
    check_work();
    check_by_hand();
    check_shaped();
    check_rails();
    check_formulas();
    check_flows();
    return check_done("comm_cost");
}
