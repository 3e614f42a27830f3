/* test_stage_devices.c: stages of pipelines over clusters of unequal nodes, by hand and against all
 * divisions; which devices a stage's ranks lie on; the order of hosts that would be better. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "passes/stage.h"
#include "tests/passes/model.h"
#include "tests/passes/model_text.h"

enum { BLOCKS = 9 };

static const char whole[] = "simplify,raise,precision,differentiate,optimize,simplify";
static const char model[] = "use \"m6\"\n"
                            "config batch = 64\n"
                            "model m(x: f32[batch, 16]) {\n"
                            "    repeat 9 as block { x = linear(x, 16) }\n"
                            "    return mean(x * x)\n"
                            "}\n"
                            "train m {\n"
                            "    optimizer = sgd(lr = 0.1)\n"
                            "    num_micro_batch = %d\n"
                            "}\n"
                            "place { mesh %s }\n";

static char folder[] = "/tmp/m6c-stages-XXXXXX";

/* A node of so many devices, so many times as fast as 1 GB/s, 1 GOPS and 1 GFLOPS. */
typedef struct {
    double moves, adds, multiplies;
    int64_t memory, devices; /* memory 0: not stated */
} Kind;

static void put_kind(const char *name, const Kind *k) {
    Buf text = {0}, path = {0};
    buf_printf(&text,
               "m6c-machine 1\nname \"%s\"\ntarget cpu\ndevices %lld\nlaunch 1ns\nvector %gGOPS\n"
               "bandwidth %gGB/s\npeak f32 %gGFLOPS\ncopy in 1GB/s\ncopy out 1GB/s\n"
               "copy read 1GB/s\ncopy write 1GB/s\nlink wire 1GB/s latency 1us\n",
               name, (long long)k->devices, k->adds, k->moves, k->multiplies);
    if (k->memory) buf_printf(&text, "memory device %lldB\n", (long long)k->memory);
    buf_printf(&path, "%s/%s", folder, name);
    FILE *f = fopen(path.p, "w");
    if (CHECK(f != NULL)) CHECK(fputs(text.p, f) >= 0 && fclose(f) == 0);
    buf_free(&text);
    buf_free(&path);
}

/* A cluster of one node of each kind, called a, b, c. */
static Machine *cluster(Session *s, const Kind *k, int n) {
    Buf text = {0}, file = {0};
    buf_puts(&text, "m6c-machine 1\nname \"mixed\"\n");
    for (int i = 0; i < n; i++) {
        char name[] = {(char)('a' + i), 0};
        put_kind(name, &k[i]);
        buf_printf(&text, "group 1 \"%s\"\n", name);
    }
    buf_puts(&text, "link net 1GB/s latency 5us\n");
    buf_printf(&file, "%s/cluster", folder);
    const char *kept = arena_strdup(session_arena(s), text.p, text.n);
    Machine *m = machine_parse(s, file.p, kept, text.n);
    buf_free(&text);
    buf_free(&file);
    if (!CHECK(m != NULL)) exit(1);
    return m;
}

static Graph *graph_of(Session *s, int micros, const char *mesh) {
    Graph *g = model_from_text(s, arena_printf(session_arena(s), model, micros, mesh));
    if (!CHECK(g != NULL)) exit(1);
    model_pipeline(g, whole);
    return g;
}

static bool plan(const Graph *g, const Machine *m, uint32_t stages, StagePlan *p, Arena *a) {
    return stage_plan(
        g,
        &(StageOptions){
            .stages = stages, .kind = PIPELINE_PREFER_BACKWARD, .machine = m, .advise = true},
        p, a);
}

/* Twice as fast: twice the layers. With memory for one layer less: one less. */
static void by_hand(void) {
    Session *s = session_new();
    Arena *a = arena_new();
    Graph *g = graph_of(s, 1, "pipeline = 2");
    Kind k[] = {{2, 2, 2, 0, 1}, {1, 1, 1, 0, 1}};
    StagePlan p;
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a) && p.layers.n == BLOCKS && p.first[1] == 6);
    CHECK(p.stage[0].us[3] * 1.99 < p.stage[1].us[3] && p.stage[0].us[3] * 2.01 > p.stage[1].us[3]);
    k[0].memory = chain_bytes(p.cost, &p.stage[0], 0, 6);
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a) && p.first[1] == 6);
    k[0].memory--;
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a) && p.first[1] == 5);
    Buf said = {0};
    diag_capture(s, &said);
    g->set.memory = chain_bytes(p.cost, &p.stage[0], 0, 4); /* a limit for all, here smaller */
    k[0].memory = 0;
    CHECK(!plan(g, cluster(s, k, 2), 2, &p, a) && strstr(said.p, "no division into 2 stages fits"));
    diag_capture(s, NULL);
    buf_free(&said);
    g->set.memory = chain_bytes(p.cost, &p.stage[1], 5, BLOCKS);
    CHECK(g->set.memory < chain_bytes(p.cost, &p.stage[0], 0, 6));
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a) && p.first[1] == 5);
    Kind other[] = {{1, 1, 1, 0, 1}, {2, 2, 2, 0, 1}}, equal[] = {{1, 1, 1, 0, 1}, {1, 1, 1, 0, 1}};
    g->set.memory = 0;
    CHECK(plan(g, cluster(s, other, 2), 2, &p, a) && p.first[1] == 3);
    CHECK(plan(g, cluster(s, equal, 2), 2, &p, a) && (p.first[1] == 4 || p.first[1] == 5));
    CHECK(plan(g, cluster(s, other, 1), 2, &p, a) && !p.machine);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* ---- against all divisions ---- */

static uint32_t seed = 1;
static uint32_t below(uint32_t n) { return (seed = seed * 1664525 + 1013904223) / 65536 % n; }

/* The slowest stage when layers from f[i] on are stage i's; INFINITY: some stage has no room. */
static double slowest(const Machine *m, ChainLayer *const *cost, const uint32_t *f,
                      const int64_t *in_flight) {
    double us = 0;
    for (uint32_t s = 0; s < 3; s++) {
        int64_t bytes = 0, working = 0;
        double sum = 0;
        for (uint32_t i = f[s]; i < f[s + 1]; i++) {
            sum += cost[s][i].us;
            bytes += cost[s][i].fixed + in_flight[s] * cost[s][i].active;
            working = MAX(working, cost[s][i].working);
        }
        if (bytes + working > machine_memory(machine_group(m, s), MEM_DEVICE)) return INFINITY;
        us = MAX(us, sum);
    }
    return us;
}

static bool one_case(Session *s, const Graph *g, Arena *a) {
    Kind k[3];
    StagePlan p;
    for (int i = 0; i < 3; i++)
        k[i] = (Kind){1 + below(4), 1 + below(4), 1 + below(4), 8000 + below(30000), 1};
    Machine *m = cluster(s, k, 3);
    StageLayers layers;
    ChainLayer *cost[3];
    stage_layers(g, &layers, a);
    for (uint32_t i = 0; i < 3; i++) {
        cost[i] = arena_array(a, ChainLayer, layers.n);
        stage_costs(g, &layers, machine_group(m, i), cost[i], a);
    }
    int64_t in_flight[3];
    for (uint32_t i = 0; i < 3; i++)
        in_flight[i] = pipeline_in_flight(PIPELINE_PREFER_BACKWARD, 3, i, 4);
    double best = INFINITY;
    for (uint32_t x = 1; x < layers.n; x++)
        for (uint32_t y = x + 1; y < layers.n; y++)
            best = MIN(best, slowest(m, cost, (uint32_t[]){0, x, y, layers.n}, in_flight));
    bool fits = plan(g, m, 3, &p, a);
    CHECK(fits == (best < INFINITY));
    if (fits) CHECK(fabs(p.us - best) <= 1e-9 * best);
    if (fits) CHECK(fabs(slowest(m, cost, p.first, in_flight) - best) <= 1e-9 * best);
    return fits;
}

static void against_all(void) {
    int fits = 0, all = 150;
    for (int i = 0; i < all; i++) {
        Session *s = session_new();
        Arena *a = arena_new();
        Buf said = {0};
        diag_capture(s, &said);
        Graph *g = graph_of(s, 4, "pipeline = 3");
        fits += one_case(s, g, a);
        graph_free(g);
        buf_free(&said);
        arena_free(a);
        session_free(s);
    }
    CHECK(fits > all / 5 && fits < all * 4 / 5);
}

/* ---- who lies where ---- */

static void on_devices(void) {
    Session *s = session_new();
    Kind k[] = {{2, 2, 2, 4000, 2}, {1, 1, 1, 2000, 2}};
    Machine *m = cluster(s, k, 2);
    Graph *g = graph_of(s, 1, "pipeline = 2, data = 2"),
          *h = graph_of(s, 1, "data = 2, pipeline = 2");
    CHECK(machine_of_stage(m, &g->set, 0) == machine_group(m, 0));
    CHECK(machine_of_stage(m, &g->set, 1) == machine_group(m, 1));
    CHECK(machine_of_stage(m, &g->set, EVERY_STAGE) == m);
    CHECK(machine_of_stage(m, &h->set, 0) == m && machine_of_stage(m, &h->set, 1) == m);
    const Machine *of = m;
    stage_take_machine(g, &of, 0);
    CHECK(of == machine_group(m, 0) && g->set.memory == 0); /* no budget is asked for */
    g->set.memory = 3000, of = m;
    stage_take_machine(g, &of, 0);
    CHECK(g->set.memory == 3000);
    of = m;
    stage_take_machine(g, &of, 1);
    CHECK(of == machine_group(m, 1) && g->set.memory == 2000);
    graph_free(g);
    graph_free(h);
    session_free(s);
}

/* A replica a node: each stage has one rank on each. */
static void spread(void) {
    Session *s = session_new();
    Arena *a = arena_new();
    Buf said = {0};
    Kind k[] = {{2, 2, 2, 0, 2}, {1, 1, 1, 0, 2}};
    Machine *m = cluster(s, k, 2);
    Graph *g = graph_of(s, 1, "data = 2, pipeline = 2");
    StagePlan p;
    diag_capture(s, &said);
    CHECK(plan(g, m, 2, &p, a) && (p.first[1] == 4 || p.first[1] == 5));
    CHECK(said.n && strstr(said.p, "warning: ranks of one stage lie on unequal devices"));
    diag_capture(s, NULL);
    buf_free(&said);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* With 4 micro-batches of activations on the first stage, small memories belong at the end. */
static void better_order(void) {
    Session *s = session_new();
    Arena *a = arena_new();
    Buf said = {0};
    diag_capture(s, &said);
    Graph *g = graph_of(s, 4, "pipeline = 2");
    Kind k[] = {{1, 1, 1, 1 << 20, 1}, {1, 1, 1, 1 << 20, 1}};
    StagePlan p;
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a) && !said.n);
    int64_t first = chain_bytes(p.cost, &p.stage[0], 0, p.first[1]);
    int64_t second = chain_bytes(p.cost, &p.stage[1], p.first[1], BLOCKS);
    CHECK(second < first);
    k[0].memory = second;
    CHECK(plan(g, cluster(s, k, 2), 2, &p, a));
    CHECK(said.n && strstr(said.p, "warning: a step would take 0.") &&
          strstr(said.p, "with the hosts of 'b' before all others"));
    buf_free(&said);
    int misfits = 0;
    for (uint32_t cut = 1; cut < BLOCKS; cut++) { /* it fits in the other order */
        StagePlan now;
        said = (Buf){0};
        k[0].memory = chain_bytes(p.cost, &p.stage[1], cut, BLOCKS);
        k[1].memory = chain_bytes(p.cost, &p.stage[0], 0, cut);
        if (k[0].memory < k[1].memory && !plan(g, cluster(s, k, 2), 2, &now, a)) {
            misfits++;
            CHECK(strstr(said.p, "note: with the hosts of 'b' before all others it fits"));
        }
        buf_free(&said);
    }
    CHECK(misfits > 0);
    diag_capture(s, NULL);
    graph_free(g);
    arena_free(a);
    session_free(s);
}

int main(void) {
    if (!mkdtemp(folder)) return 3;
    by_hand();
    against_all();
    on_devices();
    spread();
    better_order();
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (system(command) != 0) return 3;
    return check_done("stage_devices");
}
