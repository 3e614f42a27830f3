/* test_exchange.c: the ways in which all_to_alls are sent: what is chosen is the fastest of all
 * ways there are, on described clusters and on made-up networks; what was asked for is obeyed. */
#include "passes/collectives.h"

#include <stdlib.h>
#include <string.h>

#include "tests/check.h"

#define MACHINE                                                                                    \
    "m6c-machine 1\nname \"test\"\ntarget sm_80\nlaunch 3us\nvector 1TOPS\nbandwidth 1TB/s\n"      \
    "host-vector 1GOPS\nhost-bandwidth 10GB/s\npeak f32 10TFLOPS\n"                                \
    "copy in 12GB/s latency 10us\ncopy out 10GB/s\ncopy read 1GB/s\ncopy write 1GB/s\n"
#define NODES                                                                                      \
    "devices 8\nnodes 8\nlink nvlink 150GB/s latency 2us\nlink roce 6.25GB/s latency 10us\n"
#define ISLANDS                                                                                    \
    "link nvlink 150GB/s latency 2us joins 4\nlink leaf 12.5GB/s latency 20us joins 4 ports 4\n"   \
    "link spine 1GB/s latency 90us joins 4\n"
#define RAILS                                                                                      \
    "devices 4\nnodes 16\nlink pcie 12GB/s latency 3us bus\n"                                      \
    "link ib 12.5GB/s latency 5us ports 4 rails\n"

/* An all_to_all of so many bytes a rank, over all ranks. */
static Graph *exchange(Session *s, int64_t ranks, double bytes, const char *how) {
    long long n = (long long)(bytes / 4) / ranks;
    const char *text = arena_printf(
        session_arena(s),
        "graph t\nsetting sharded yes\nsetting all_to_all \"%s\"\nsetting mesh data=%lld\n"
        "%%0 = input {name=\"x\", bound=0} : f32[%lld,%lld]\n"
        "%%1 = all_to_all %%0 {over=\"data\", ranks=%lld, wire=f32} : f32[%lld,%lld]\n"
        "%%2 = output %%1 {name=\"y\"} : f32[%lld,%lld]\n",
        how, (long long)ranks, (long long)ranks, n, (long long)ranks, (long long)ranks, n,
        (long long)ranks, n);
    return graph_parse(s, "t.ir", text, strlen(text));
}

static ExchangePlan plan_of(Session *s, const Machine *m, int64_t ranks, double bytes,
                            const char *how) {
    ExchangePlan p = {0};
    Graph *g = exchange(s, ranks, bytes, how);
    if (!CHECK(g != NULL)) return p;
    PassContext cx = {.session = s, .machine = m};
    Exchanges e = exchanges_begin(g, &cx);
    CHECK(exchange_plan(&e, 1, 1, &p));
    exchanges_end(&e);
    graph_free(g);
    return p;
}

static double phases_us(const Machine *m, int64_t ranks, double bytes, int n, const int64_t *size) {
    MeshGroup g = {.nlevel = 1, .size = {ranks}, .stride = {1}, .n = ranks};
    CommPlan p;
    CHECK(all_to_all_phases(topology_for_group(m, ranks), &g, bytes, n, size, &p));
    return p.us;
}

/* No way in one phase, in two, or, with links of three levels, in three is faster than the choice.
 */
static void check_fastest(Session *s, const Machine *m, int64_t ranks, double bytes) {
    ExchangePlan p = plan_of(s, m, ranks, bytes, "auto");
    double flat = phases_us(m, ranks, p.bytes, 1, &ranks);
    CHECK(p.flat_us == flat && p.us <= flat);
    CHECK(p.us == phases_us(m, ranks, p.bytes, p.n, p.size));
    for (int64_t a = 2; a < ranks; a++) {
        if (ranks % a) continue;
        CHECK(p.us <= phases_us(m, ranks, p.bytes, 2, (int64_t[]){a, ranks / a}));
        for (int64_t b = 2; a * b < ranks; b++)
            if (ranks % (a * b) == 0 && topology_for_group(m, ranks)->nlevel > 2)
                CHECK(p.us <= phases_us(m, ranks, p.bytes, 3, (int64_t[]){a, b, ranks / (a * b)}));
    }
}

static const Machine *made_up(Session *s, const char *links) {
    const char *text = arena_printf(session_arena(s), "%s%s", MACHINE, links);
    return machine_parse(s, "m.txt", text, strlen(text));
}

static const Machine *described(Session *s, const char *root, const char *name) {
    const char *path =
        arena_printf(session_arena(s), "%s/examples/clusters/%s.m6c-machine", root, name);
    return machine_load(s, path, "sm_70");
}

static void check_choices(const char *root) {
    static const char *const links[] = {NODES, ISLANDS, RAILS};
    static const struct {
        const char *name;
        int64_t ranks;
    } cluster[] = {{"whale-64x8-v100", 512}, {"eflops-64-v100", 64}, {"m6-1t-480x1-v100", 480}};
    Session *s = session_new();
    for (double bytes = 1e5; bytes < 1e10; bytes *= 100) {
        for (size_t i = 0; i < COUNT(links); i++) check_fastest(s, made_up(s, links[i]), 64, bytes);
        for (size_t i = 0; i < COUNT(cluster); i++)
            check_fastest(s, described(s, root, cluster[i].name), cluster[i].ranks, bytes);
    }
    session_free(s);
}

/* Few bytes are sent by node, and by island; many flatly. Inside a node nothing is grouped. */
static void check_sizes(const char *root) {
    Session *s = session_new();
    const Machine *nodes = made_up(s, NODES), *islands = made_up(s, ISLANDS);
    const Machine *whale = described(s, root, "whale-64x8-v100");
    ExchangePlan p = plan_of(s, nodes, 64, 64e3, "auto");
    CHECK(p.n == 2 && p.size[0] == 8 && p.size[1] == 8 && p.us < p.flat_us);
    CHECK(!strcmp(p.over[0], "data%8") && !strcmp(p.over[1], "data/8"));
    p = plan_of(s, nodes, 64, 1e9, "auto");
    CHECK(p.n == 1 && p.us == p.flat_us && !strcmp(p.over[0], "data"));
    p = plan_of(s, nodes, 8, 64, "auto");
    CHECK(p.n == 1);
    p = plan_of(s, islands, 64, 4096, "auto");
    CHECK(p.n == 3 && p.size[0] == 4 && p.size[1] == 4);
    CHECK(!strcmp(p.over[1], "data%16/4") && !strcmp(p.over[2], "data/16"));
    p = plan_of(s, whale, 512, 5e5, "auto"); /* a KB for each rank */
    CHECK(p.n == 2 && 8 % p.size[0] == 0 && p.us < p.flat_us / 2);
    session_free(s);
}

static void check_asked(void) {
    Session *s = session_new();
    const Machine *nodes = made_up(s, NODES), *none = made_up(s, "");
    ExchangePlan p = plan_of(s, nodes, 64, 64e3, "flat");
    CHECK(p.n == 1 && p.us == p.flat_us);
    p = plan_of(s, nodes, 64, 1e9, "grouped");
    CHECK(p.n > 1 && p.us >= p.flat_us);
    p = plan_of(s, nodes, 64, 1e9, "4,16");
    CHECK(p.n == 3 && p.size[0] == 4 && p.size[1] == 4 && p.size[2] == 4);
    p = plan_of(s, nodes, 64, 1e9, "64");
    CHECK(p.n == 1);
    p = plan_of(s, none, 64, 1024, "auto"); /* nothing says where nodes end */
    CHECK(p.n == 1);
    p = plan_of(s, NULL, 64, 1024, "auto");
    CHECK(p.n == 1 && p.us == 0);
    p = plan_of(s, NULL, 64, 64e3, "16");
    CHECK(p.n == 2 && p.size[0] == 16);
    session_free(s);
}

/* Neighbours that do not divide an axis are an error, said once. */
static void check_wrong(void) {
    Session *s = session_new();
    Buf said = {0};
    Graph *g = exchange(s, 6, 600, "4");
    PassContext cx = {.session = s};
    Exchanges e = exchanges_begin(g, &cx);
    ExchangePlan p;
    diag_capture(s, &said);
    CHECK(!exchange_plan(&e, 1, 1, &p) && exchange_plan(&e, 1, 1, &p) && p.n == 1);
    CHECK(diag_errors(s) == 1 && said.p &&
          strstr(said.p, "\"4\": 4 neighbours do not divide the 6 ranks of 'data'"));
    exchanges_end(&e);
    graph_free(g);
    buf_free(&said);
    session_free(s);
}

int main(int argc, char **argv) {
    if (argc > 1) check_choices(argv[1]);
    if (argc > 1) check_sizes(argv[1]);
    check_asked();
    check_wrong();
    return check_done("exchange");
}
