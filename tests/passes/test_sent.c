/* test_sent.c: what ranks send in a collective, in messages and bytes: the formulas, the phases
 * that prices are made of, messages on the links of a network, and all ranks simulated together.
 * What runs under mpirun count is compared with the same formulas in tests/runtime/check_sent.py.
 */
#include <math.h>
#include <stdlib.h>

#include "passes/comm_cost.h"
#include "passes/netsim.h"
#include "passes/simulate_ranks.h"
#include "tests/check.h"

static const char machine[] =
    "m6c-machine 1\nname \"two nodes\"\ntarget sm_80\nlaunch 3us\nvector 1TOPS\nbandwidth 1TB/s\n"
    "host-vector 1GOPS\nhost-bandwidth 10GB/s\npeak f32 10TFLOPS\n"
    "copy in 12GB/s latency 10us\ncopy out 10GB/s\ncopy read 1GB/s\ncopy write 1GB/s\n"
    "link nvlink 150GB/s latency 2us joins 2\nlink ib 12.5GB/s latency 5us joins 4\n";

enum { RANKS = 8, PHASES = 3 };

typedef struct {
    double messages, bytes;
} Sent;

static bool same(Sent a, Sent b) {
    return fabs(a.messages - b.messages) < 1e-9 * (1 + b.messages) &&
           fabs(a.bytes - b.bytes) < 1e-9 * (1 + b.bytes);
}

static MeshGroup group(int64_t size, int64_t stride) {
    return (MeshGroup){.nlevel = 1, .size = {size}, .stride = {stride}, .n = size};
}

static Sent of_plan(const Topology *t, const CommPlan *p) {
    CommTraffic level[TOPOLOGY_LEVELS];
    Sent sum = {0};
    comm_traffic(p, level);
    for (int l = 0; l < t->nlevel; l++)
        sum.messages += level[l].messages, sum.bytes += level[l].bytes;
    return sum;
}

/* ---- messages of a rank on the links of the network, as they get through ---- */

/* To each other member of its group, as part of round `round`. */
static uint32_t add_direct(NetMessage *m, const MeshGroup *g, double bytes, int32_t round) {
    uint32_t n = 0;
    for (int64_t r = 0; r < RANKS; r++)
        for (int64_t i = 0; i < g->n; i++) {
            int64_t to = mesh_member(g, r, i);
            if (to != r) m[n++] = (NetMessage){r, to, bytes / (double)g->n, 1, round};
        }
    return n;
}

/* Rank 0's; every other one's must be the same. */
static Sent of_flows(const Topology *t, const NetMessage *m, uint32_t n) {
    Sent sum[RANKS] = {{0}};
    Net *net = net_new(t);
    for (uint32_t i = 0; i < n; i++) net_post(net, 0, &m[i]);
    for (uint32_t got; (got = net_advance(net, INFINITY)) > 0;)
        for (uint32_t i = 0; i < got; i++) {
            const NetMessage *x = &m[net_done(net)[i]];
            sum[x->from].messages++, sum[x->from].bytes += x->bytes;
        }
    net_free(net);
    for (int r = 1; r < RANKS; r++) CHECK(same(sum[r], sum[0]));
    return sum[0];
}

/* ---- all ranks simulated together: collectives one after the other ---- */

static RankComm comm_of(Collective kind, const MeshGroup *g, double bytes) {
    RankComm c = {.work = {.kind = kind, .ranks = g->n, .bytes = bytes, .nlevel = g->nlevel}};
    for (int i = 0; i < g->nlevel; i++)
        c.work.size[i] = g->size[i], c.work.stride[i] = g->stride[i];
    return c;
}

static Sent of_ranks(const Machine *m, const Topology *t, const RankComm *comm, uint32_t n) {
    static const int64_t ranks[RANKS] = {0, 1, 2, 3, 4, 5, 6, 7};
    TimedStep step[PHASES] = {{0}};
    for (uint32_t i = 0; i < n; i++) step[i].stream = STREAM_COMM, step[i].us = 1;
    RankClass class = {.step = step, .comm = comm, .n = n, .rank = ranks, .nrank = RANKS};
    RanksRun run;
    Sent sum = {0};
    Arena *a = arena_new();
    if (CHECK(simulate_ranks(m, t, &class, 1, a, &run)))
        for (int l = 0; l < run.nlink; l++)
            sum.messages += run.link[l].messages / RANKS, sum.bytes += run.link[l].bytes / RANKS;
    arena_free(a);
    return sum;
}

/* ---- comparisons ---- */

/* An all_to_all over the group in phases over size[0], size[1], … neighbours; one is flat. */
static void check_exchange(const Machine *m, const Topology *t, const MeshGroup *g, int nphase,
                           const int64_t *size, double bytes) {
    Sent want = {grouped_messages(nphase, size), grouped_bytes(nphase, size, bytes)};
    NetMessage message[PHASES * RANKS * RANKS];
    RankComm comm[PHASES];
    MeshGroup rest = *g, inner;
    CommPlan p;
    uint32_t n = 0;
    for (int i = 0; i < nphase; i++) {
        CHECK(group_parts(&rest, size[i], &inner, &rest));
        n += add_direct(message + n, &inner, bytes, i);
        comm[i] = comm_of(COLLECTIVE_ALL_TO_ALL, &inner, bytes);
    }
    CHECK(all_to_all_phases(t, g, bytes, nphase, size, &p));
    CHECK(same(of_plan(t, &p), want));
    CHECK(same(of_flows(t, message, n), want));
    /* one without partners is no collective */
    if (nphase == 1 || (size[0] > 1 && size[1] > 1))
        CHECK(same(of_ranks(m, t, comm, (uint32_t)nphase), want));
}

static void check_others(const Machine *m, const Topology *t, const MeshGroup *g, double bytes) {
    for (int c = COLLECTIVE_ALL_REDUCE; c <= COLLECTIVE_REDUCE_SCATTER; c++) {
        Collective kind = (Collective)c;
        CommPlan p;
        NetMessage message[2 * RANKS * RANKS];
        Sent want = {(double)comm_messages(kind, g->n), comm_least_bytes(kind, g->n, bytes)};
        CHECK(comm_plan(t, g, kind, COMM_RING, bytes, &p) && same(of_plan(t, &p), want));
        uint32_t n = add_direct(message, g, bytes, 0);
        if (kind == COLLECTIVE_ALL_REDUCE) n += add_direct(message + n, g, bytes, 1);
        CHECK(same(of_flows(t, message, n), want));
        /* the best algorithm may need fewer messages, but no fewer bytes */
        RankComm comm = comm_of(kind, g, bytes);
        Sent got = of_ranks(m, t, &comm, 1);
        CHECK(got.messages <= want.messages && same((Sent){want.messages, got.bytes}, want));
    }
}

static void check_group(const Machine *m, const Topology *t, const MeshGroup *g) {
    CHECK(comm_messages(COLLECTIVE_ALL_TO_ALL, g->n) == g->n - 1);
    CHECK(grouped_bytes(1, &g->n, 64) == comm_least_bytes(COLLECTIVE_ALL_TO_ALL, g->n, 64));
    for (double bytes = 64; bytes < 1e7; bytes *= 320) {
        check_exchange(m, t, g, 1, &g->n, bytes);
        for (int64_t part = 1; part <= g->n; part *= 2)
            check_exchange(m, t, g, 2, (int64_t[]){part, g->n / part}, bytes);
        check_others(m, t, g, bytes);
    }
}

int main(void) {
    Session *s = session_new();
    Machine *m = machine_parse(s, "m.txt", machine, sizeof machine - 1);
    const Topology *t = m ? topology_of(m, RANKS) : NULL;
    CHECK(t != NULL);
    for (int64_t n = 2; t && n <= RANKS; n *= 2) {
        MeshGroup near = group(n, 1), far = group(n, RANKS / n);
        check_group(m, t, &near);
        check_group(m, t, &far);
    }
    session_free(s);
    return check_done("sent");
}
