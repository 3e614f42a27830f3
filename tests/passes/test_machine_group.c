/* test_machine_group.c: clusters of unequal nodes: text, what does not fit together, prices of a
 * group and of the slowest. Argument: the repository. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "passes/machine_private.h"
#include "passes/topology.h"
#include "tests/check.h"

#define HEAD "m6c-machine 1\nname \"x\"\n"
/* fast at products, slow at moving bytes, and with more memory; then the other way round */
#define DEVICE "copy in 8GB/s\ncopy out 8GB/s\ncopy read 1GB/s\ncopy write 1GB/s\nlaunch 1us\n"
#define FAST                                                                                       \
    HEAD "target cpu\ndevices 2\nvector 4GOPS\nbandwidth 5GB/s\npeak f32 200GFLOPS\n"              \
         "memory device 4GB\nlink bus 20GB/s\n" DEVICE
#define SLOW                                                                                       \
    HEAD "target cpu\ndevices 2\nvector 1GOPS\nbandwidth 10GB/s\npeak f32 100GFLOPS\n"             \
         "memory device 2GB\nlink bus 10GB/s latency 3us\nslow compute while in 0.5\n" DEVICE

static char folder[] = "/tmp/m6c-group-XXXXXX";

static void put_file(const char *name, const char *text) {
    Session *s = session_new();
    const char *path = arena_printf(session_arena(s), "%s/%s", folder, name);
    CHECK(diag_status(s, file_write_atomic(path, text, strlen(text))));
    session_free(s);
}

static Machine *parse(Session *s, const char *text) {
    const char *file = arena_printf(session_arena(s), "%s/c.txt", folder);
    return machine_parse(s, file, text, strlen(text));
}

static const char mixed[] = HEAD "source \"one\"\ngroup 1 \"fast\"\ngroup 2 \"./slow\"\n"
                                 "link ether 1GB/s latency 10us\n";

static void check_text(void) {
    Session *s = session_new();
    Buf out = {0};
    Machine *m = parse(s, mixed);
    if (CHECK(m != NULL)) machine_print(m, &out);
    CHECK_STR(out.p, mixed);
    buf_free(&out);
    session_free(s);
}

static void check_errors(void) {
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {HEAD "group 1 \"none\"\n", "c.txt:3:9: error: "},
        {HEAD "group 1 \"none\"\n", "/none: No such file"},
        {HEAD "group 1 \".\"\n", "c.txt:3:9: error: "},
        {HEAD "group 1 fast\n", "c.txt:3:9: error: expected the file of their machine in quotes"},
        {HEAD "group 0 \"fast\"\n", "c.txt:3:7: error: expected nodes, from 1 to"},
        {HEAD "group \"fast\"\n", "c.txt:3:7: error: expected nodes, from 1 to"},
        {HEAD "group 1 \"fast\" 3\n", "c.txt:3:16: error: expected the end of the line"},
        {HEAD "group 1 \"cluster\"\n", "cluster:3:7: error: the file of a group has no groups"},
        {HEAD "group 1 \"cluster\"\n", "c.txt:3:9: note: it is the file of this group"},
        {HEAD "group 1 \"broken\"\n", "broken:3:1: error: a machine has no 'lunch'"},
        {HEAD "group 1 \"fast\"\nnodes 1\n",
         "c.txt:4:1: error: a cluster of groups has no 'nodes'"},
        {HEAD "memory device 2GB\ngroup 1 \"fast\"\n", "c.txt:3:1: error: a cluster of groups"},
        {"m6c-machine 1\ngroup 1 \"fast\"\n", "a machine needs a line like 'name"},
        {HEAD "group 1 \"fast\"\ngroup 1 \"four\"\n",
         "c.txt:4:9: error: nodes of 4 devices do not stand beside nodes of 2"},
        {HEAD "group 1 \"fast\"\ngroup 1 \"gpu\"\n",
         "c.txt:4:9: error: no plan runs on cpu and on sm_70"},
        {HEAD "group 1 \"fast\"\ngroup 1 \"single\"\n",
         "c.txt:4:9: error: the file of a group needs a line like 'devices 8'"},
        {HEAD "group 1 \"many\"\n", "c.txt:3:9: error: 'x' has 3 nodes: the file of a group"},
        {HEAD "group 1 \"fast\"\ngroup 1 \"bus\"\n",
         "c.txt:4:9: error: the links inside a node of 'x' are not arranged as in 'x'"},
    };
    put_file("cluster", HEAD "group 1 \"fast\"\n");
    put_file("broken", HEAD "lunch 1us\n");
    put_file("many", FAST "nodes 3\n");
    put_file("bus", HEAD "target cpu\ndevices 2\nvector 1GOPS\nbandwidth 1GB/s\npeak f32 1GFLOPS\n"
                         "link bus 20GB/s bus\n" DEVICE);
    put_file("four", HEAD "target cpu\ndevices 4\nvector 1GOPS\nbandwidth 1GB/s\n"
                          "peak f32 1GFLOPS\nlink bus 20GB/s\n" DEVICE);
    put_file("single", HEAD "target cpu\nvector 1GOPS\nbandwidth 1GB/s\npeak f32 1GFLOPS\n" DEVICE);
    put_file("gpu",
             HEAD "target sm_70\ndevices 2\nvector 1GOPS\nbandwidth 1GB/s\npeak f32 1GFLOPS\n"
                  "host-vector 1GOPS\nhost-bandwidth 1GB/s\nlink bus 20GB/s\n" DEVICE);
    for (size_t i = 0; i < COUNT(wrong); i++) {
        Session *s = session_new();
        Buf said = {0};
        diag_capture(s, &said);
        CHECK(parse(s, wrong[i].text) == NULL);
        if (!CHECK(said.p && strstr(said.p, wrong[i].says)))
            fprintf(stderr, "case %zu: %s\nexpected: %s\n", i, said.p, wrong[i].says);
        buf_free(&said);
        session_free(s);
    }
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * fabs(b); }

/* Of 4 MFLOP as a product, of 10 MB moved: on each, and on the slower of both. */
static void check_prices(void) {
    Session *s = session_new();
    Machine *m = parse(s, mixed);
    Work product = {.what = "einsum", .product = true, .m = 100, .n = 100, .k = 200, .batch = 1};
    Work moved = {.what = "add", .flops = 1, .bytes = 10e6};
    product.flops = 4e6;
    const Machine *fast = machine_group(m, 0), *slow = machine_group(m, 1);
    CHECK(near(cost_us(fast, &product), 1 + 20) && near(cost_us(slow, &product), 1 + 40));
    CHECK(near(cost_us(fast, &moved), 1 + 2000) && near(cost_us(slow, &moved), 1 + 1000));
    CHECK(near(cost_us(m, &product), 1 + 40) && near(cost_us(m, &moved), 1 + 2000));
    CHECK(machine_memory(fast, MEM_DEVICE) == 4000000000);
    CHECK(machine_memory(m, MEM_DEVICE) == 2000000000);
    CHECK(machine_peak(fast, DT_F32) == 200e9 && machine_peak(m, DT_F32) == 100e9);
    unsigned both = 1u << STREAM_COMPUTE | 1u << STREAM_IN;
    CHECK(machine_speed(fast, STREAM_COMPUTE, both) == 1);
    CHECK(machine_speed(m, STREAM_COMPUTE, both) == 0.5);
    CHECK(near(topology_of(fast, 6)->local, 5e9) && near(topology_of(m, 6)->local, 5e9));
    session_free(s);
}

static void check_ranks(void) {
    Session *s = session_new();
    Machine *m = parse(s, mixed), *alike = machine_parse(s, "alike", FAST, strlen(FAST));
    CHECK(machine_groups(m) == 2 && machine_devices(m) == 2 && machine_nodes(m) == 3);
    CHECK(machine_group_ranks(m, 0) == 2 && machine_group_ranks(m, 1) == 4);
    static const uint32_t group[] = {0, 0, 1, 1, 1, 1};
    for (int64_t r = 0; r < 6; r++) CHECK(machine_group_of(m, r) == group[r]);
    CHECK(machine_groups(alike) == 1 && machine_group(alike, 0) == alike);
    CHECK(!machine_has_groups(alike) && machine_has_groups(m));
    CHECK(machine_group_ranks(alike, 0) == 2 && machine_group_of(alike, 99) == 0);
    int64_t first[] = {0, 1}, both[] = {1, 2}, all[] = {0, 1, 2, 3, 4, 5};
    CHECK(machine_of_ranks(m, first, 2) == machine_group(m, 0));
    CHECK(machine_of_ranks(m, both, 2) == m && machine_of_ranks(m, all, 6) == m);
    CHECK(machine_of_ranks(alike, all, 6) == alike);
    session_free(s);
}

/* The network is one: a group's links inside its nodes, the cluster's after them. */
static void check_network(void) {
    Session *s = session_new();
    Machine *m = parse(s, mixed);
    const Topology *t = topology_of(m, 6), *fast = topology_of(machine_group(m, 0), 6);
    if (CHECK(t && fast && t->nlevel == 2 && fast->nlevel == 2)) {
        CHECK(t->level[0].rate == 10e9 && fast->level[0].rate == 20e9);
        CHECK(t->level[0].fan == 2 && t->level[1].fan == 3 && fast->level[1].fan == 3);
        CHECK(t->level[1].rate == 1e9 && fast->level[1].latency == 10);
    }
    Buf said = {0};
    diag_capture(s, &said);
    CHECK(!topology_of(m, 7) && strstr(said.p, "7 ranks need as many devices; 'x' has 6"));
    buf_free(&said);
    session_free(s);
}

/* Work of ranks in two groups of three: the third, the slowest of all, does not count. */
static void check_part(void) {
    Session *s = session_new();
    put_file("slowest", HEAD "target cpu\ndevices 2\nvector 1MOPS\nbandwidth 1MB/s\n"
                             "peak f32 1GFLOPS\nmemory device 1GB\nlink bus 1MB/s\n" DEVICE);
    Machine *m = parse(s, HEAD "group 1 \"slowest\"\ngroup 1 \"fast\"\ngroup 1 \"slow\"\n"
                               "link ether 1GB/s latency 10us\n");
    int64_t rank[] = {2, 5}, inside[] = {3};
    Work product = {.what = "einsum", .product = true, .m = 100, .n = 100, .k = 200, .batch = 1};
    product.flops = 4e6;
    const Machine *part = machine_of_ranks(m, rank, 2);
    CHECK(near(cost_us(m, &product), 1 + 4000) && near(cost_us(part, &product), 1 + 40));
    CHECK(machine_memory(m, MEM_DEVICE) == 1000000000);
    CHECK(machine_memory(part, MEM_DEVICE) == 2000000000);
    CHECK(topology_of(part, 6)->level[0].rate == 10e9 && topology_of(m, 6)->level[0].rate == 1e6);
    CHECK(machine_of_ranks(m, inside, 1) == machine_group(m, 1));
    session_free(s);
}

/* The example: V100s are faster than P100s at everything. */
static void check_example(const char *root) {
    Session *s = session_new();
    Machine *m =
        machine_load(s,
                     arena_printf(session_arena(s),
                                  "%s/examples/clusters/whale-8-v100-8-p100.m6c-machine", root),
                     "sm_60");
    Work w = {.what = "einsum", .product = true, .m = 1024, .n = 1024, .k = 1024, .batch = 1};
    w.flops = 2.0 * 1024 * 1024 * 1024;
    if (CHECK(m && machine_groups(m) == 2 && topology_of(m, 16))) {
        CHECK(cost_us(machine_group(m, 0), &w) < cost_us(machine_group(m, 1), &w));
        CHECK_STR(machine_target(m), "sm_60");
    }
    session_free(s);
}

int main(int argc, char **argv) {
    if (!mkdtemp(folder)) return 3;
    put_file("fast", FAST);
    put_file("slow", SLOW);
    check_text();
    check_errors();
    check_prices();
    check_ranks();
    check_network();
    check_part();
    if (argc > 1) check_example(argv[1]);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (system(command) != 0) return 3;
    return check_done("machine_group");
}
