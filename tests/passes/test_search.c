/* test_search.c: what a search says of a small model, by hand: how shapes grow with the mesh, the
 * time of products, messages and stages, bytes of a rank, and why candidates are lost. */
#include <math.h>
#include <stdlib.h>

#include "passes/search.h"
#include "tests/check.h"
#include "tests/passes/model_text.h"

/* Products alone take time: 1 TFLOP/s. Ranks are joined at 1 GB/s, the host at 1 GB/s. */
#define MACHINE                                                                                    \
    "m6c-machine 1\nname \"test\"\ntarget sm_80\ndevices 1\nnodes 8\nlaunch 0.001us\n"             \
    "vector 1000000TOPS\nbandwidth 1000000GB/s\nhost-vector 1GOPS\nhost-bandwidth 10GB/s\n"        \
    "peak f32 1TFLOPS\ncopy in 1GB/s latency 1us\ncopy out 1GB/s latency 1us\n"                    \
    "copy read 1GB/s\ncopy write 1GB/s\nlink net 1GB/s latency 1us\n"

enum { MIB = 1 << 20 };

/* A batch of 4096 rows: two products of 2 x 4096 x 1024 x 1024 operations in all. */
static const char one_text[] = "config batch = 4096\n"
                               "model m(x: f32[batch, 1024]) {\n"
                               "    param w: [1024, 1024] = normal(1)\n"
                               "    y = x @ w\n"
                               "    return mean(y * y)\n"
                               "}\n"
                               "train m { optimizer = step(lr = 1) }\n"
                               "optimizer step(p, g, lr) { return p - lr * g }\n"
                               "place { mesh data = 2 }\n";

/* Four equal layers, each split by Megatron's pair. */
static const char pair_text[] = "use \"m6\"\n"
                                "config batch = 1024\n"
                                "model m(x: f32[batch, 256], y: f32[batch, 256]) {\n"
                                "    repeat 4 as block { x = x + ffn(x, 1024) }\n"
                                "    return mean((x - y) * (x - y))\n"
                                "}\n"
                                "train m { optimizer = adamw(lr = 1) }\n"
                                "place { mesh data = 2, tensor = 2 }\n";

typedef struct {
    Session *s;
    Arena *a;
    SearchModel *m;
    SearchPlace place;
    SearchSpace space;
} Fixture;

static Fixture fixture(const char *text, int64_t ranks) {
    Fixture f = {.s = session_new(), .a = arena_new()};
    Machine *machine = machine_parse(f.s, "m.txt", MACHINE, strlen(MACHINE));
    Graph *g = model_from_text(f.s, text);
    PassContext cx = {.session = f.s, .machine = machine};
    if (!machine || !g || !pipeline_run(g, SEARCH_PASSES, &cx)) abort();
    f.m = search_model(g, f.a);
    f.place = (SearchPlace){machine, search_prices(topology_of(machine, ranks), f.a), 0, 0, 5};
    f.space = (SearchSpace){.place = f.place, .ranks = ranks};
    f.space.model[0][0] = f.m;
    graph_free(g);
    return f;
}

static void end(Fixture *f) {
    search_model_free(f->m);
    arena_free(f->a);
    session_free(f->s);
}

static bool near(double got, double want, double share) {
    bool ok = fabs(got - want) <= share * fabs(want);
    if (!ok) fprintf(stderr, "got %.17g, wanted %.17g\n", got, want);
    return ok;
}

static double sum_parts(const SearchResult *r) {
    double sum = 0;
    for (int p = 0; p < PART_COUNT; p++) sum += r->part[p];
    return sum;
}

static SearchResult price(const Fixture *f, SearchMesh mesh, SearchKeep keep, bool offload) {
    SearchResult r = {.us = NAN};
    const SearchBase *b = search_base(f->m, &f->place, &mesh, &r, f->a);
    if (b) search_price(b, &(SearchChoice){mesh, false, keep, offload}, &r);
    return r;
}

/* ---- */

static void test_powers(void) {
    double factor[POWERS];
    const int power[AXIS_COUNT] = {-1, 0, 1, -1};
    Power p = power_make(power);
    for (int a = 0; a < AXIS_COUNT; a++) CHECK(power_of(p, (SearchAxis)a) == power[a]);
    power_factors((int64_t[]){2, 2, 2, 1}, (int64_t[]){8, 4, 6, 5}, factor);
    CHECK(near(factor[p], 3.0 / 4 / 5, 1e-12));
    CHECK(factor[POWER_NONE] == 1);
    CHECK(search_axes("data.tensor") == (1u << AXIS_DATA | 1u << AXIS_TENSOR));
    CHECK(search_axes("expert%4") == 1u << AXIS_EXPERT && search_axes("pipeline") == 0);
}

/* On 4 ranks: 1024 rows each. */
static void test_one_product(void) {
    Fixture f = fixture(one_text, 4);
    SearchMesh mesh = {{4, 1, 1, 1}, 1, false};
    SearchResult r = price(&f, mesh, KEEP_ALL, false);
    CHECK(f.m->nlayer == 1 && f.m->divisor[1u << AXIS_DATA] == 4096 && !f.m->experts);
    CHECK(near(r.part[PART_COMPUTE], 2 * 2.0 * 1024 * 1024 * 1024 / 1e6, 0.001));
    /* 4 MiB of gradients: each rank sends 3/4 of them twice; nothing is left to hide them */
    CHECK(near(r.part[PART_GRADIENT], 1.5 * 4 * MIB / 1e3, 0.01));
    CHECK(r.part[PART_TENSOR] == 0 && r.part[PART_BUBBLE] == 0 && r.part[PART_OFFLOAD] == 0);
    CHECK(near(sum_parts(&r), r.us, 1e-9));
    /* parameter, rows and results of 4 MiB each are there when the gradient, two of 4 MiB until it
     * is summed, is made */
    CHECK(r.device >= 16 * MIB && r.device <= 20.1 * MIB);
    mesh.size[AXIS_MICRO] = 4;
    SearchResult m = price(&f, mesh, KEEP_ALL, false);
    CHECK(near(m.part[PART_COMPUTE], r.part[PART_COMPUTE], 0.001));
    /* two gradients of 4 MiB: the sum so far and a micro-batch's, beside 1 MiB of its results */
    CHECK(near(m.device, 17 * MIB, 0.01));
    end(&f);
}

static void test_does_not_divide(void) {
    Fixture f = fixture(one_text, 4);
    SearchResult r = price(&f, (SearchMesh){{3, 1, 1, 1}, 1, false}, KEEP_ALL, false);
    CHECK(r.lost == LOST_DIVIDE && r.axes >> AXIS_DATA & 1 && r.excess == 4096);
    r = price(&f, (SearchMesh){{4, 1, 1, 3}, 1, false}, KEEP_ALL, false);
    CHECK(r.lost == LOST_DIVIDE && r.axes >> AXIS_MICRO & 1 && r.excess == 4096);
    r = price(&f, (SearchMesh){{4, 1, 1, 1}, 2, false}, KEEP_ALL, false);
    CHECK(r.lost == LOST_STAGES && r.excess == 1);
    end(&f);
}

/* A pair split over n ranks: 1/n of the products; of each layer one sum of its results forward and
 * one of their gradients backward, 1024/data x 256 numbers each. */
static void test_tensor(void) {
    Fixture f = fixture(pair_text, 8);
    SearchResult one = price(&f, (SearchMesh){{1, 1, 1, 1}, 1, false}, KEEP_ALL, false);
    SearchResult r = price(&f, (SearchMesh){{2, 1, 4, 1}, 1, false}, KEEP_ALL, false);
    double flops = 2.0 * 1024 * 256 * 1024 * (4 * 6 - 1); /* x of the first layer has no gradient */
    CHECK(f.m->tensor && f.m->nlayer == 4);
    CHECK(near(one.part[PART_COMPUTE], flops / 1e6, 0.01));
    CHECK(near(r.part[PART_COMPUTE], flops / 8 / 1e6, 0.01));
    CHECK(one.part[PART_TENSOR] == 0 && one.part[PART_GRADIENT] == 0);
    double sum = 1.5 * 512 * 256 * 4 / 1e3;
    CHECK(near(r.part[PART_TENSOR], (4 + 3) * sum, 0.05)); /* and their latencies */
    /* parameters and states of 12 bytes, of which biases of results are whole */
    double split = 4 * 12 * (2 * 256 * 1024 + 1024), whole = 4 * 12 * 256;
    CHECK(one.device > split + whole && r.device > split / 4 + whole);
    CHECK(r.device < one.device / 2.5);
    end(&f);
}

/* Two stages of two layers each: the second begins when the first has done a micro-batch. */
static void test_stages(void) {
    Fixture f = fixture(pair_text, 2);
    SearchResult flat = price(&f, (SearchMesh){{1, 1, 1, 4}, 1, false}, KEEP_ALL, false);
    SearchResult r = price(&f, (SearchMesh){{1, 1, 1, 4}, 2, false}, KEEP_ALL, false);
    double layers = flat.part[PART_COMPUTE], micro = layers / 2 / 4;
    double send = 256 * 256 * 4 / 1e3;
    CHECK(near(r.part[PART_COMPUTE], layers / 2, 0.1)); /* the first layer has a product less */
    CHECK(near(r.part[PART_BUBBLE], micro + 2 * send, 0.1));
    CHECK(near(sum_parts(&r), r.us, 0.02));
    CHECK(r.device < flat.device);
    end(&f);
}

static void test_memory(void) {
    Fixture f = fixture(pair_text, 1);
    SearchMesh mesh = {{1, 1, 1, 1}, 1, false};
    SearchResult all = price(&f, mesh, KEEP_ALL, false), none = price(&f, mesh, KEEP_NONE, false);
    CHECK(none.device < all.device && none.us > all.us && none.again == 4);
    CHECK(near(none.us - all.us, none.part[PART_RECOMPUTE], 1e-6));
    f.place.memory = (int64_t)all.device - 1000;
    SearchResult some = price(&f, mesh, KEEP_SOME, false);
    CHECK(some.lost == LOST_NOT && some.again > 0 && some.again < 4);
    CHECK(some.us > all.us && some.us < none.us && some.device <= (double)f.place.memory);
    all = price(&f, mesh, KEEP_ALL, false);
    CHECK(all.lost == LOST_DEVICE && all.excess == 1000);
    /* less than the states, so that only these move: once there and back, 1 GB/s */
    f.place.memory = (int64_t)none.device - 6 * MIB;
    SearchResult moved = price(&f, mesh, KEEP_NONE, true);
    CHECK(moved.lost == LOST_NOT && moved.host >= 6 * MIB);
    CHECK(near(moved.device, (double)f.place.memory, 0.01));
    CHECK(near(moved.us, MAX(moved.host / 1e3, none.us), 0.01));
    f.place.host_memory = 1 * MIB;
    CHECK(price(&f, mesh, KEEP_NONE, true).lost == LOST_HOST);
    end(&f);
}

static void test_search(void) {
    Fixture f = fixture(pair_text, 8);
    SearchList list = {0};
    search_candidates(&f.space, &list);
    CHECK(list.priced >= list.result.n && list.result.n > 50);
    bool ordered = true, pipelines = false;
    for (uint32_t i = 1; i < list.result.n; i++) {
        const SearchResult *x = &list.result.p[i - 1], *y = &list.result.p[i];
        const SearchMesh *m = &y->choice.mesh;
        ordered &= x->lost < y->lost || (x->lost == y->lost && (x->lost || x->us <= y->us));
        pipelines |= m->pipeline > 1;
        CHECK(m->pipeline * m->size[0] * m->size[1] * m->size[2] == 8);
    }
    CHECK(ordered && pipelines && list.result.p[0].lost == LOST_NOT);
    SearchResult worse = list.result.p[0];
    worse.part[PART_TENSOR] += 10, worse.part[PART_COMPUTE] += 9;
    CHECK(search_worse_in(&worse, &list.result.p[0]) == PART_TENSOR);
    vec_free(&list.result);
    end(&f);
}

static void test_names(void) {
    Buf b = {0};
    search_mesh_print(&(SearchMesh){{4, 1, 2, 1}, 2, true}, &b);
    CHECK_STR(b.p, "pipeline=2,data=4,expert=data,tensor=2");
    b.n = 0;
    search_mesh_print(&(SearchMesh){{1, 8, 1, 1}, 1, false}, &b);
    CHECK_STR(b.p, "expert=8");
    buf_free(&b);
}

int main(void) {
    test_powers();
    test_one_product();
    test_does_not_divide();
    test_tensor();
    test_stages();
    test_memory();
    test_search();
    test_names();
    return check_done("search");
}
