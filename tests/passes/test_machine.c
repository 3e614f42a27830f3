/* test_machine.c: machines as text, prices of hand-computed work, and that a plan's steps cost what
 * the graph's units cost. Argument: the repository. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "frontend/main_price.h"
#include "ir/storage.h"
#include "passes/machine_private.h"
#include "passes/passes.h"
#include "passes/topology.h"
#include "tests/check.h"
#include "tests/passes/model_text.h"

#define BASE                                                                                       \
    "m6c-machine 1\nname \"test\"\ntarget cpu\nlaunch 2us\nvector 1GOPS\n"                         \
    "copy in 8GB/s latency 10us\ncopy out 4GB/s\ncopy read 1GB/s\ncopy write 0.5GB/s\n"
#define LEAST BASE "bandwidth 10GB/s\npeak f32 100GFLOPS efficiency 0.5\n"

static Machine *parse(Session *s, const char *text) {
    return machine_parse(s, "m.txt", text, strlen(text));
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * fabs(b); }

/* ---- text ---- */

static void check_round_trip(const char *text, const char *file) {
    Session *s = session_new();
    Buf once = {0}, twice = {0};
    Machine *m = machine_parse(s, file, text, strlen(text)), *again = NULL;
    if (CHECK(m != NULL)) {
        machine_print(m, &once);
        again = machine_parse(s, file, once.p, once.n); /* from the same folder */
    }
    if (CHECK(again != NULL)) {
        machine_print(again, &twice);
        CHECK_STR(twice.p, once.p);
    }
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
}

static const char everything[] =
    "m6c-machine 1\nname \"all of it\"\nsource \"one\"\nsource \"two\"\ntarget sm_80\nthreads 2\n"
    "devices 8\nnodes 2\nmemory device 80GB\nmemory host 1.5TB\nmemory disk 1TiB\nlaunch 3us\n"
    "vector 9.7TOPS\nbandwidth 4TB/s at 32KB\nbandwidth 1.6TB/s at 100MB\nhost-launch 5us\n"
    "host-vector 0.5TOPS\nhost-bandwidth 100GB/s\npeak f32 19.5TFLOPS efficiency 0.8\n"
    "peak bf16 312TFLOPS\nproduct f32 nn 64x64x256 90GFLOPS\n"
    "product f32 nt 64x64x256 batch 8 91.5GFLOPS\nattention f32 30GFLOPS\n"
    "attention-grad f32 20GFLOPS\ncopy in 25GB/s latency 10us\ncopy out 25GB/s\n"
    "copy read 3GB/s\ncopy write 1.5GB/s latency 1ms\nslow compute while in out 0.9\n"
    "link nvlink 300GB/s latency 2us\nlink roce 12.5GB/s\n"
    "link pcie 12GB/s latency 3us overhead 1us joins 2 bus\n"
    "link cloud 25MB/s burst 18KB header 88B long 20MB/s from 32KiB long 22MB/s from 1MB\n"
    "link rail 12.5GB/s joins 4 ports 8 rails\nlink fabric 12.5GB/s ports 2 bigraph 8\n"
    "step \"add gelu\" flops 5e9 bytes 2000 12.5us\nstep \"add\" host bytes 7 3us\n"
    "step \"einsum\" product bf16 tn 3x4x5 batch 2 flops 240 bytes 164 1.5us\n"
    "step \"copy_start\" copy host device bytes 1e6 90us\n";

static void check_text(void) {
    Session *s = session_new();
    Buf out = {0};
    Machine *m = parse(s, everything);
    if (CHECK(m != NULL)) machine_print(m, &out);
    CHECK_STR(out.p, everything);
    buf_free(&out);
    session_free(s);
    check_round_trip(LEAST "  # a comment\n\n\tthreads 2 # and here\n", "comments");
}

static void check_errors(void) {
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"", "m.txt:1:1: error: not a machine"},
        {"machine\n", "m.txt:1:1: error: not a machine"},
        {LEAST "bandwith 3GB/s\n", ":12:1: error: a machine has no 'bandwith'; did you mean 'band"},
        {LEAST "launch 3us\n", ":12:1: error: a second line 'launch'"},
        {LEAST "host-launch 3GB\n", ":12:14: error: expected a time, such as 1.2us"},
        {LEAST "host-launch 0us\n", ":12:13: error: expected a time"},
        {LEAST "memory device 80 GB\n", ":12:17: error: expected bytes, such as 80GB"},
        {LEAST "memory devize 80GB\n", "'devize' is no memory; did you mean 'device'?"},
        {LEAST "peak f33 1TFLOPS\n", ":12:6: error: 'f33' is no dtype; did you mean"},
        {LEAST "peak f32 1TFLOPS efficiency 2\n", ":12:29: error: an efficiency is from"},
        {LEAST "product f32 nn 3x4 1GFLOPS\n", ":12:19: error: expected a shape"},
        {LEAST "product f32 nn 0x4x4 1GFLOPS\n", ":12:16: error: expected rows, from 1 to"},
        {LEAST "product f32 mn 3x4x4 1GFLOPS\n", "'mn' is no transposition"},
        {LEAST "copy compute 1GB/s\n", ":12:6: error: copies are in, out, read or write"},
        {LEAST "slow in while in 0.5\n", "a stream does not slow itself"},
        {LEAST "slow in while out 1.5\n", ":12:19: error: a speed is from"},
        {LEAST "step add bytes 3 1us\n", ":12:6: error: expected ops in quotes"},
        {LEAST "step \"add\" bytes 3\n", ":12:19: error: expected a time"},
        {LEAST "link a 1GB/s long 1MB/s\n", ":12:24: error: expected 'from'"},
        {LEAST "link a 1GB/s long 1MB/s from 2KB long 1MB/s from 1KB\n", "follow those of shorter"},
        {LEAST "link a 1GB/s joins 0\n", ":12:20: error: expected groups that the link joins"},
        {LEAST "link a 1GB/s ports 2 joins 3\n", ":12:22: error: expected the end of the line"},
        {LEAST "devices 8 9\n", ":12:11: error: expected the end of the line"},
        {LEAST "source \"no end\n", "ended by a quote"},
        {BASE "peak f32 1TFLOPS\n", "a machine needs a line like 'bandwidth 1.6TB/s'"},
        {BASE "bandwidth 1GB/s\n", "a machine needs a line like 'peak f32 15.7TFLOPS'"},
    };
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

static void check_files(const char *root) {
    static const char *const names[] = {"v100-32gb",      "a100-80gb",       "h100-80gb",
                                        "h200-141gb",     "whale-64x8-v100", "m6-1t-480x1-v100",
                                        "eflops-64-v100", "p100-16gb",       "whale-8-v100-8-p100"};
    static const char *const targets[] = {"cpu", "null", "sm_80", "sm_86", "sm_90", "sm_120", NULL};
    for (size_t i = 0; i < COUNT(names); i++) {
        Session *s = session_new();
        char *path =
            arena_printf(session_arena(s), "%s/examples/clusters/%s.m6c-machine", root, names[i]);
        Machine *m = machine_load(s, path, "sm_80");
        if (CHECK(m != NULL)) {
            CHECK(machine_memory(m, MEM_DEVICE) > 0 && machine_memory(m, MEM_HOST) > 0);
            CHECK(machine_peak(m, DT_F16) > machine_peak(m, DT_F32));
            Buf text = {0};
            machine_print(m, &text);
            check_round_trip(text.p, path);
            buf_free(&text);
        }
        session_free(s);
    }
    char empty[] = "/tmp/m6c-machine-XXXXXX";
    if (!mkdtemp(empty)) return;
    setenv("M6C_CACHE", empty, 1);
    for (size_t i = 0; i < COUNT(targets); i++) {
        Session *s = session_new();
        CHECK(machine_load(s, NULL, targets[i]) != NULL);
        session_free(s);
    }
    rmdir(empty);
    Session *s = session_new();
    Buf said = {0};
    diag_capture(s, &said);
    CHECK(machine_load(s, "/nowhere/cluster", "cpu") == NULL);
    CHECK(said.p && strstr(said.p, "/nowhere/cluster"));
    buf_free(&said);
    session_free(s);
}

/* ---- networks that NCCL describes ---- */

static void check_nccl_text(const char *text, const char *lines) {
    Session *s = session_new();
    Buf out = {0}, said = {0};
    diag_capture(s, &said);
    bool ok = nccl_network(s, "topo.xml", text, strlen(text), &out);
    CHECK(ok == (said.p == NULL));
    if (!CHECK(strstr(ok ? out.p : said.p, lines) != NULL))
        fprintf(stderr, "got\n%s\nexpected\n%s\n", ok ? out.p : said.p, lines);
    buf_free(&out);
    buf_free(&said);
    session_free(s);
}

#define PCI "<pci link_speed=\"8.0 GT/s PCIe\" link_width=\"16\">"
#define GPU "<pci link_speed=\"16.0 GT/s PCIe\" link_width=\"16\"><gpu dev=\"0\" sm=\"70\"/></pci>"

static void check_nccl(const char *root) {
    Session *s = session_new();
    char *name = arena_printf(session_arena(s), "nccl:%s/tests/passes/dgx_a100.xml", root);
    Machine *m = machine_load(s, name, "sm_80");
    Buf text = {0};
    if (CHECK(m != NULL)) {
        machine_print(m, &text);
        CHECK(strstr(text.p, "\ndevices 8\n"));
        CHECK(strstr(text.p, "\nlink nvlink 240GB/s latency 2us joins 8\n"
                             "link net 25GB/s latency 5us ports 8\n"));
        check_round_trip(text.p, "dgx");
        const Topology *t = topology_of(m, 32);
        CHECK(t && t->nlevel == 2 && t->level[1].fan == 4 && t->level[1].ports == 8);
    }
    CHECK(machine_load(s, "nccl:/nowhere.xml", "sm_80") == NULL);
    buf_free(&text);
    session_free(s);
    /* the slowest bridge between a GPU and its CPU counts; two ports of one device are one */
    check_nccl_text("<system><cpu>" PCI GPU GPU "</pci></cpu></system>",
                    "devices 2\nlink pcie 12GB/s latency 3us joins 2\n");
    check_nccl_text("<system><cpu>" GPU "<nic><net speed=\"100000\" latency=\"75\"/><net "
                    "speed=\"100000\" latency=\"25\"/></nic></cpu></system>",
                    "devices 1\nlink net 25GB/s latency 50us ports 1\n");
    check_nccl_text("<system>\n<cpu>\n</system>", "topo.xml:3:");
    check_nccl_text("<system></system>", "not a topology of NCCL");
    check_nccl_text("<graphs><gpu/></graphs>", "not a topology of NCCL");
    check_nccl_text("<system><gpu/><gpu/></system>", "no rate between GPUs");
    check_nccl_text("", "topo.xml:1:1: error: ");
}

/* ---- what hwloc sees of a machine ---- */

#define PROFILE                                                                                    \
    "m6c-machine 1\nname \"x\"\ntarget %s\nlaunch 1us\nvector 1TOPS\nbandwidth 120GB/s\n"          \
    "host-launch 1us\nhost-vector 1TOPS\nhost-bandwidth 80GB/s\npeak f32 1TFLOPS\n"                \
    "copy in 12GB/s\ncopy out 12GB/s\ncopy read 2GB/s\ncopy write 1GB/s\n"

static void check_hwloc_text(const char *target, HwlocKind kind, const char *text,
                             const char *lines) {
    Session *s = session_new();
    Buf out = {0}, said = {0};
    char *profile = arena_printf(session_arena(s), PROFILE, target);
    diag_capture(s, &said);
    Machine *m = machine_parse(s, "profile", profile, strlen(profile));
    bool ok = m && hwloc_network(s, kind, "topo", text, strlen(text), m, &out);
    CHECK(ok == (said.p == NULL));
    if (ok) CHECK(machine_set_network(m, out.p));
    if (!CHECK(ok ? strcmp(out.p, lines) == 0 : strstr(said.p, lines) != NULL))
        fprintf(stderr, "%.40s: got\n%s\nexpected\n%s\n", text, ok ? out.p : said.p, lines);
    buf_free(&out);
    buf_free(&said);
    session_free(s);
}

static void check_hwloc_cores(void) {
    static const struct {
        const char *text, *lines;
    } seen[] = {
        {"core:1 pu:2", "devices 1\n"},
        {"core:4 pu:1", "devices 4\nlink numa 60GB/s latency 1us joins 4 bus\n"},
        {"pack:2 [numa] core:4 pu:2", "devices 8\nlink numa 30GB/s latency 1us joins 4 bus\n"
                                      "link machine 30GB/s latency 2us joins 2\n"},
        {"pack:2 numa:2 core:4 pu:1", "devices 16\nlink numa 15GB/s latency 1us joins 4 bus\n"
                                      "link package 15GB/s latency 2us joins 2\n"
                                      "link machine 15GB/s latency 2us joins 2\n"},
        /* one memory for two packages, places to run without cores */
        {"pack:2 pu:3", "devices 6\nlink numa 60GB/s latency 1us joins 6 bus\n"},
    };
    for (size_t i = 0; i < COUNT(seen); i++)
        check_hwloc_text("cpu", HWLOC_SYNTHETIC, seen[i].text, seen[i].lines);
    check_hwloc_text("cpu", HWLOC_SYNTHETIC, "pack:2 what:3 pu:1", "topo:1:1: error: ");
    check_hwloc_text("sm_80", HWLOC_SYNTHETIC, "pack:2 core:4 pu:1", "no NVIDIA GPU here");
}

/* Two packages of two cores and two GPUs behind a bridge, one of these with half a link; the other
 * package is 2.1 times as far away. */
static void check_hwloc_file(const char *root) {
    Session *s = session_new();
    char *text, *path = arena_printf(session_arena(s), "%s/tests/passes/two_packages.xml", root);
    size_t n;
    if (!CHECK(file_read(path, &text, &n) == NULL)) return;
    check_hwloc_text("sm_80", HWLOC_XML, text,
                     "devices 4\nlink pcie 11.82GB/s latency 3us joins 2\n"
                     "link machine 23.63GB/s latency 3us joins 2\n");
    check_hwloc_text("cpu", HWLOC_XML, text,
                     "devices 4\nlink numa 30GB/s latency 1us joins 2 bus\n"
                     "link machine 28.57GB/s latency 2.1us joins 2\n");
    check_hwloc_text("cpu", HWLOC_XML, "<topology version=\"2.0\">\n<object>\n</topology>",
                     "topo:3:");
    check_hwloc_text("cpu", HWLOC_XML, "<system><gpu/></system>", "not a topology of hwloc");
    check_hwloc_text("cpu", HWLOC_XML, "", "topo:1:1: error: ");
    free(text);
    Machine *m = machine_load(s, arena_printf(session_arena(s), "hwloc:%s", path), "sm_80");
    const Topology *t = m ? topology_of(m, 4) : NULL;
    CHECK(t && t->nlevel == 2 && t->level[0].fan == 2 && t->level[1].fan == 2);
    CHECK(machine_load(s, "hwloc:/nowhere.xml", "cpu") == NULL);
    m = machine_load(s, "hwloc", "cpu"); /* this machine, whatever it is */
    CHECK(m && machine_devices(m) >= 1 && topology_of(m, machine_devices(m)));
    session_free(s);
}

/* ---- prices ---- */

static Work product(int64_t m, int64_t n, int64_t k, int64_t batch) {
    double flops = 2 * (double)m * (double)n * (double)k * (double)batch;
    return (Work){
        .what = "einsum", .product = true, .m = m, .n = n, .k = k, .batch = batch, .flops = flops};
}

static void check_roofline(void) {
    Session *s = session_new();
    Machine *m = parse(s, LEAST "step \"sub\" flops 1 bytes 2 77us\n");
    if (!CHECK(m != NULL)) return;
    /* 1000 operations at 1 GOPS are 1 µs, 40 KB at 10 GB/s are 4 µs, a launch is 2. */
    CHECK(near(cost_us(m, &(Work){.what = "add", .flops = 1000, .bytes = 40e3}), 6));
    CHECK(near(cost_us(m, &(Work){.what = "add", .flops = 9000, .bytes = 40e3}), 11));
    CHECK(near(cost_us(m, &(Work){.what = "sub", .flops = 1, .bytes = 2}), 77));
    CHECK(cost_us(m, &(Work){.what = "sub", .flops = 1, .bytes = 3}) < 3);
    /* 1e6 flops at half of 100 GFLOPS */
    Work p = product(50, 100, 100, 1);
    CHECK(near(cost_us(m, &p), 22));
    p.bytes = 1e6;
    CHECK(near(cost_us(m, &p), 102));
    Work copy = {.what = "copy_start", .copy = true, .from = MEM_HOST, .bytes = 80e3};
    CHECK(near(cost_us(m, &copy), 20));
    copy.from = MEM_DEVICE, copy.to = MEM_HOST;
    CHECK(near(cost_us(m, &copy), 20));
    copy.to = MEM_DISK;
    CHECK(near(cost_us(m, &copy), 160));
    copy.to = MEM_DEVICE;
    CHECK(near(cost_us(m, &copy), 18));
    machine_set_step(m, &copy, 5.43219);
    machine_index(m);
    CHECK(near(cost_us(m, &copy), 5.432));
    session_free(s);
}

static void check_points(void) {
    Session *s = session_new();
    Machine *m = parse(s, BASE "bandwidth 10GB/s at 10KB\nbandwidth 5GB/s at 100KB\n"
                               "product f32 nn 64x64x64 10GFLOPS\n"
                               "product f32 nn 256x64x64 40GFLOPS\n");
    if (!CHECK(m != NULL)) return;
    /* 10 KB take 1 µs, 100 KB 20; between them a straight line of logarithms. */
    CHECK(near(cost_us(m, &(Work){.what = "add", .bytes = 10e3}), 3));
    CHECK(near(cost_us(m, &(Work){.what = "add", .bytes = 100e3}), 22));
    CHECK(near(cost_us(m, &(Work){.what = "add", .bytes = 200e3}), 42));
    CHECK(near(cost_us(m, &(Work){.what = "add", .bytes = sqrt(10e3 * 100e3)}), 2 + sqrt(20)));
    /* Both points take as long (time never falls); halfway it is the same time. */
    Work small = product(64, 64, 64, 1), half = product(128, 64, 64, 1);
    double us = small.flops / 10e3;
    CHECK(near(cost_us(m, &small), us));
    CHECK(near(cost_us(m, &half), us));
    Work large = product(512, 64, 64, 1), flat = product(64, 32, 64, 1);
    CHECK(near(cost_us(m, &large), 2 * us));
    CHECK(near(cost_us(m, &flat), us / 2));
    session_free(s);
}

/* Points with noise: more work never takes less time. */
static void check_monotone(void) {
    static const int64_t extent[] = {16, 48, 200, 1024}, batch[] = {1, 12};
    Session *s = session_new();
    Buf text = {0};
    uint32_t key = 7;
    uint64_t drawn = 0;
    buf_puts(&text, BASE);
    for (int i = 0; i < 128; i++) {
        double rate = 5 + 100 * ((double)philox(key, drawn++, NULL) * 0x1p-32);
        if (i % 5 == 3) continue; /* holes */
        buf_printf(&text, "product f32 nt %dx%dx%d batch %d %.3fGFLOPS\n", (int)extent[i % 4],
                   (int)extent[i / 4 % 4], (int)extent[i / 16 % 4], (int)batch[i / 64], rate);
    }
    for (int i = 0; i < 8; i++)
        buf_printf(&text, "bandwidth %.3fGB/s at %dKB\n",
                   1 + 50 * ((double)philox(key, drawn++, NULL) * 0x1p-32), 4 << 2 * i);
    Machine *m = parse(s, text.p);
    if (!CHECK(m != NULL)) return;
    for (int i = 0; i < 20000; i++) {
        int64_t d[4];
        for (int k = 0; k < 4; k++)
            d[k] = (int64_t)exp(8 * ((double)philox(key, drawn++, NULL) * 0x1p-32));
        Work a = product(d[0], d[1], d[2], d[3]);
        d[i % 4] += 1 + (int64_t)(philox(key, drawn++, NULL) % 300);
        Work b = product(d[0], d[1], d[2], d[3]);
        a.tb = b.tb = true;
        if (!CHECK(cost_us(m, &a) <= cost_us(m, &b) * (1 + 1e-12))) break;
        a = (Work){.what = "add",
                   .bytes = exp(20 * ((double)philox(key, drawn++, NULL) * 0x1p-32))};
        b = a;
        b.bytes *= 1.01;
        if (!CHECK(cost_us(m, &a) <= cost_us(m, &b) * (1 + 1e-12))) break;
    }
    buf_free(&text);
    session_free(s);
}

static void check_speed(void) {
    enum { C = 1 << STREAM_COMPUTE, I = 1 << STREAM_IN, O = 1 << STREAM_OUT };
    Session *s = session_new();
    Machine *m = parse(s, LEAST "slow compute while in 0.9\nslow compute while in out 0.7\n"
                                "slow in while compute 0.8\nslow in while out 0.6\n");
    if (!CHECK(m != NULL)) return;
    CHECK(machine_speed(m, STREAM_COMPUTE, C) == 1);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | I) == 0.9);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | O) == 1);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | I | O) == 0.7);
    CHECK(machine_speed(m, STREAM_IN, C | I | O) == 0.6);
    CHECK(machine_speed(m, STREAM_OUT, C | I | O) == 1);
    machine_set_slow(m, STREAM_COMPUTE, I, 0.2549);
    machine_set_slow(m, STREAM_COMPUTE, O, -1);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | I) == 0.25);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | O) == 0.001);
    CHECK(machine_speed(m, STREAM_COMPUTE, C | I | O) == 0.7);
    Buf text = {0};
    machine_print(m, &text);
    const char *line = strstr(text.p, "slow compute while in 0.25\n");
    CHECK(line && !strstr(line + 1, "slow compute while in 0.2"));
    CHECK(!strstr(text.p, "slow compute while in 0.9"));
    buf_free(&text);
    session_free(s);
}

/* ---- units and steps ---- */

static const char model[] =
    "use \"m6\"\nconfig b = 4, t = 6, d = 8, v = 17\n"
    "model m(text: i32[b, t], target: i32[b, t]) {\n"
    "    x = embedding(text, v, d) + position(t, d)\n"
    "    repeat 2 as block {\n"
    "        x = x + attention(norm(x), 2, prefix_mask(2))\n"
    "        x = x + moe(norm(x), 4, 2, 2.0, 8, group = 6)\n"
    "        x = x + ffn(rmsnorm(x), 12)\n"
    "    }\n"
    "    return cross_entropy(linear(norm(x), v), target)\n"
    "}\n"
    "train m { optimizer = adamw(lr = cosine(peak = 1e-2, warmup = 2, steps = 9))\n"
    "    precision = bf16\n    clip = 0.5\n}\n";

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static uint32_t unit_costs(const Graph *g, const Machine *m, double *us) {
    Arena *a = arena_new();
    Units units = units_build(g, a);
    for (uint32_t u = 0; u < units.n; u++) {
        Work w = unit_work(g, &units, u);
        us[u] = cost_us(m, &w);
        CHECK(us[u] > 0 && isfinite(us[u]));
    }
    uint32_t n = units.n;
    arena_free(a);
    return n;
}

static uint32_t step_costs(Plan *p, const Machine *m, double *us) {
    uint32_t n = 0;
    plan_price(p, m);
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        CHECK(s->predicted_us == plan_step_us(p, i, m));
        if (strcmp(s->what, "assign") != 0) us[n++] = s->predicted_us;
    }
    return n;
}

static void check_plan(const char *folder, const char *text) {
    Session *s = session_new();
    Graph *g = model_from_text(s, text);
    Machine *m = machine_load(s, NULL, "cpu");
    Arena *scratch = arena_new();
    PassContext cx = {.session = s, .scratch = scratch};
    CodegenOptions o = {.dir = folder, .target = "cpu", .plan_only = true};
    if (CHECK(g && m && pipeline_run(g, pipeline_default, &cx))) {
        Plan *p = codegen_plan(g, &o);
        double *us = xcalloc(2 * g->node.n + 2, sizeof *us), *them = us + g->node.n + 1;
        uint32_t n = unit_costs(g, m, us), steps = p ? step_costs(p, m, them) : 0;
        qsort(us, n, sizeof *us, by_value);
        qsort(them, steps, sizeof *them, by_value);
        CHECK(n == steps && n > 50);
        for (uint32_t i = 0; i < MIN(n, steps); i++)
            if (!CHECK(us[i] == them[i])) break;
        if (p) CHECK(plan_peak(p, m) > 0);
        if (p) plan_free(p);
        free(us);
    }
    if (g) graph_free(g);
    arena_free(scratch);
    session_free(s);
}

int main(int argc, char **argv) {
    char folder[] = "/tmp/m6c-machine-XXXXXX";
    check_text();
    check_errors();
    if (argc > 1) check_files(argv[1]);
    if (argc > 1) check_nccl(argv[1]);
    check_hwloc_cores();
    if (argc > 1) check_hwloc_file(argv[1]);
    check_roofline();
    check_points();
    check_monotone();
    check_speed();
    if (mkdtemp(folder)) {
        char command[64];
        setenv("M6C_CACHE", folder, 1);
        check_plan(folder, model);
        snprintf(command, sizeof command, "rm -r %s", folder);
        if (system(command) != 0) return 3;
    }
    return check_done("machine");
}
