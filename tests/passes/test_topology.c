/* test_topology.c: levels from link lines, which level joins two ranks, BiGraph and HDRM. */
#include <stdlib.h>

#include "passes/hdrm.h"
#include "passes/topology.h"
#include "tests/check.h"

#define MACHINE                                                                                    \
    "m6c-machine 1\nname \"test\"\ntarget sm_80\nlaunch 2us\nvector 1TOPS\nbandwidth 1TB/s\n"      \
    "host-vector 1GOPS\nhost-bandwidth 10GB/s\npeak f32 10TFLOPS\n"                                \
    "copy in 12GB/s latency 10us\ncopy out 10GB/s\ncopy read 1GB/s\ncopy write 1GB/s\n"
#define EIGHT MACHINE "devices 8\nnodes 4\nlink nvlink 150GB/s latency 2us\n"

static const Topology *build(Session *s, const char *text, int64_t ranks) {
    Machine *m = machine_parse(s, "m.txt", text, strlen(text));
    return CHECK(m != NULL) ? topology_of(m, ranks) : NULL;
}

static void check_lines(const char *text, int64_t ranks, const char *says) {
    Session *s = session_new();
    Buf out = {0};
    const Topology *t = build(s, text, ranks);
    if (CHECK(t != NULL)) topology_print(t, &out);
    CHECK_STR(out.p ? out.p : "", says);
    buf_free(&out);
    session_free(s);
}

static void check_defaults(void) {
    check_lines(MACHINE, 1, "");
    check_lines(MACHINE, 4,
                "host: joins 4 of 1 device, 1 port of 10 GB/s, latency 11 us, 11 us a further "
                "message\n");
    check_lines(EIGHT "link roce 12.5GB/s latency 5us overhead 1us\n", 32,
                "nvlink: joins 8 of 1 device, 1 port of 150 GB/s, latency 2 us, 2 us a further "
                "message\n"
                "roce: joins 4 of 8 devices, 1 port of 12.5 GB/s, latency 5 us, 1 us a further "
                "message\n");
    check_lines(MACHINE "devices 1\nnodes 480\nlink rdma 12.5GB/s latency 5us\n", 480,
                "rdma: joins 480 of 1 device, 1 port of 12.5 GB/s, latency 5 us, 5 us a further "
                "message\n");
    check_lines(MACHINE "link pcie 12GB/s latency 3us joins 2 bus\nlink nic 6GB/s ports 2 rails\n",
                6,
                "pcie: joins 2 of 1 device, a bus of 12 GB/s, latency 3 us, 3 us a further "
                "message\n"
                "nic: joins 3 of 2 devices, 2 ports of 6 GB/s, latency 0 us, 0 us a further "
                "message, rails\n");
    check_lines(MACHINE "devices 2\nlink nv 90GB/s latency 1us\n"
                        "link fabric 12.5GB/s latency 4us joins 8 ports 2 bigraph 8\n",
                16,
                "nv: joins 2 of 1 device, 1 port of 90 GB/s, latency 1 us, 1 us a further message\n"
                "fabric: joins 8 of 2 devices, 2 ports of 12.5 GB/s, latency 4 us, 4 us a further "
                "message, BiGraph of 8 switches\nranks placed by HDRM\n");
}

static void check_errors(void) {
    static const struct {
        const char *text;
        int64_t ranks;
        const char *says;
    } wrong[] = {
        {EIGHT "link roce 12.5GB/s\n", 33, "33 ranks need as many devices; 'test' has 32"},
        {EIGHT, 8, "the link 'nvlink' of 'test' needs 'joins N'"},
        {EIGHT "link a 1GB/s\nlink b 1GB/s\n", 8, "the link 'a' of 'test' needs 'joins N'"},
        {EIGHT "link a 1GB/s ports 16\n", 8, "the link 'a' of 'test' has 16 ports for 8 devices"},
        {EIGHT "link a 1GB/s bigraph 3\n", 8, "even number of switches that divides its 4 ends"},
        {MACHINE "devices 8\nnodes 4\n", 16, "has 4 nodes and needs a line like 'link nic"},
        {MACHINE "devices 2\n", 1, NULL},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        Session *s = session_new();
        Buf said = {0};
        diag_capture(s, &said);
        const Topology *t = build(s, wrong[i].text, wrong[i].ranks);
        CHECK((t == NULL) == (wrong[i].says != NULL));
        if (wrong[i].says && !CHECK(said.p && strstr(said.p, wrong[i].says)))
            fprintf(stderr, "case %zu: %s\n", i, said.p ? said.p : "(nothing)");
        buf_free(&said);
        session_free(s);
    }
}

static void check_levels(void) {
    Session *s = session_new();
    const Topology *t = build(s, EIGHT "link nic 12GB/s joins 2 ports 4\nlink spine 12GB/s\n", 32);
    if (!CHECK(t != NULL)) return;
    CHECK(topology_level(t, 3, 3) == -1);
    CHECK(topology_level(t, 0, 7) == 0 && topology_level(t, 7, 8) == 1);
    CHECK(topology_level(t, 0, 15) == 1 && topology_level(t, 15, 16) == 2);
    CHECK(topology_level(t, 16, 31) == 1 && topology_level(t, 0, 31) == 2);
    CHECK(topology_unit(t, 0, 17) == 17 && topology_unit(t, 1, 17) == 2);
    CHECK(topology_unit(t, 2, 17) == 1 && topology_unit(t, 3, 17) == 0);
    CHECK(topology_sharers(t, 0) == 1 && topology_sharers(t, 1) == 8);
    CHECK(topology_sharers(t, 2) == 16);
    session_free(s);
}

/* ---- BiGraph ---- */

/* Load of the step in which ranks exchange with rank ^ distance; NULL map: the identity. */
static BigraphLoad step_load(int64_t per, int64_t switches, const int64_t *map, int64_t distance) {
    int64_t *messages = xcalloc((size_t)(switches * switches), sizeof *messages);
    for (int64_t r = 0; r < per * switches; r++) {
        int64_t from = map ? map[r] : r, to = map ? map[r ^ distance] : r ^ distance;
        messages[from / per * switches + to / per]++;
    }
    BigraphLoad load = bigraph_load(switches, messages);
    free(messages);
    return load;
}

static void check_hdrm_of(int64_t per, int64_t switches) {
    int64_t n = per * switches, *map = xcalloc((size_t)n, sizeof *map), worst = 0;
    bool *taken = xcalloc((size_t)n, 1);
    if (!CHECK(hdrm_possible(per, switches))) return;
    hdrm_map(per, switches, map);
    for (int64_t r = 0; r < n; r++) {
        CHECK(map[r] >= 0 && map[r] < n && !taken[map[r]]);
        taken[map[r]] = true;
    }
    for (int64_t d = 1; d < n; d *= 2) {
        BigraphLoad load = step_load(per, switches, map, d);
        CHECK(load.busiest == 1 && load.indirect == 0);
        worst = MAX(worst, step_load(per, switches, NULL, d).busiest);
    }
    CHECK(worst >= per);
    free(map);
    free(taken);
}

static void check_hdrm(void) {
    check_hdrm_of(2, 4);
    check_hdrm_of(4, 8);
    check_hdrm_of(4, 16);
    check_hdrm_of(8, 16);
    CHECK(step_load(4, 8, NULL, 16).busiest == 4);     /* the layers exchange: four on each link */
    CHECK(step_load(4, 8, NULL, 4).indirect == 4 * 8); /* neighbours of one layer: all indirect */
    CHECK(!hdrm_possible(4, 4) && !hdrm_possible(2, 6) && !hdrm_possible(3, 8));
}

static void check_placement(void) {
    Session *s = session_new();
    static const char text[] = MACHINE "nodes 32\ndevices 1\nlink f 1GB/s bigraph 8\n";
    const Topology *t = build(s, text, 32), *part = build(s, text, 16);
    int64_t map[32];
    hdrm_map(4, 8, map);
    for (int64_t r = 0; t && r < 32; r++) CHECK(topology_device(t, r) == map[r]);
    CHECK(part && !part->device); /* the mapping is for all ends */
    session_free(s);
}

int main(void) {
    check_defaults();
    check_errors();
    check_levels();
    check_hdrm();
    check_placement();
    return check_done("topology");
}
