/* test_ranks.c: sharded graphs on virtual ranks against direct computation: parts and wholes, every
 * collective over every kind of group, and faults planted in a sharded program, which must be found
 * and named. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ir/ir.h"
#include "passes/equal.h"
#include "tests/check.h"

static Graph *parse(Session *s, const char *text) {
    Graph *g = graph_parse(s, "ranks.ir", text, strlen(text));
    Buf report = {0};
    if (!CHECK(g != NULL) || !CHECK(graph_verify(g, &report) == 0)) {
        fprintf(stderr, "%s\n%s\n", text, report.p ? report.p : "");
        exit(1);
    }
    buf_free(&report);
    return g;
}

static void draw(uint32_t key, double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] = 4 * (double)random_unit(philox(key, (uint64_t)i, NULL)) - 2;
}

/* ---- groups, written down by hand for the mesh data=4,tensor=2: rank = 2 d + t ---- */

enum { RANKS = 8 };
#define MESH "graph g\nsetting mesh data=4,tensor=2,expert=data\nsetting sharded yes\n"

static int d_of(int r) { return r / 2; }
static int t_of(int r) { return r % 2; }
static int colour_data(int r) { return t_of(r); }
static int index_data(int r) { return d_of(r); }
static int colour_tensor(int r) { return d_of(r); }
static int index_tensor(int r) { return t_of(r); }
static int colour_all(int r) { return r < 0; }
static int index_all(int r) { return r; }
static int index_turned(int r) { return t_of(r) * 4 + d_of(r); }
static int colour_near(int r) { return d_of(r) / 2 * 2 + t_of(r); }
static int index_near(int r) { return d_of(r) % 2; }
static int colour_far(int r) { return d_of(r) % 2 * 2 + t_of(r); }
static int index_far(int r) { return d_of(r) / 2; }
static int colour_node(int r) { return d_of(r) / 2; }
static int index_node(int r) { return d_of(r) % 2 * 2 + t_of(r); }

static const struct {
    const char *over;
    int n;
    int (*colour)(int), (*index)(int);
} groups[] = {
    {"data", 4, colour_data, index_data},         {"expert", 4, colour_data, index_data},
    {"tensor", 2, colour_tensor, index_tensor},   {"data.tensor", 8, colour_all, index_all},
    {"tensor.data", 8, colour_all, index_turned}, {"data%2", 2, colour_near, index_near},
    {"data/2", 2, colour_far, index_far},         {"data%2.tensor", 4, colour_node, index_node},
};

/* The member of rank r's group with this index. */
static int member(size_t group, int r, int index) {
    for (int q = 0; q < RANKS; q++)
        if (groups[group].colour(q) == groups[group].colour(r) && groups[group].index(q) == index)
            return q;
    return -1;
}

static void test_groups(void) {
    Settings set;
    settings_default(&set);
    set.nmesh = 3;
    set.mesh[0].axis = "data", set.mesh[0].size = 4, set.mesh[0].same = NULL;
    set.mesh[1].axis = "tensor", set.mesh[1].size = 2, set.mesh[1].same = NULL;
    set.mesh[2].axis = "expert", set.mesh[2].size = 4, set.mesh[2].same = "data";
    CHECK(mesh_ranks(&set) == RANKS);
    for (size_t k = 0; k < COUNT(groups); k++) {
        MeshGroup m;
        if (!CHECK(mesh_group(&set, groups[k].over, &m)) || !CHECK(m.n == groups[k].n)) continue;
        for (int r = 0; r < RANKS; r++) {
            CHECK(mesh_index(&m, r) == groups[k].index(r));
            for (int i = 0; i < m.n; i++) CHECK(mesh_member(&m, r, i) == member(k, r, i));
        }
    }
}

/* ---- collectives ---- */

enum { ROW = 8 * 3 };

/* Runs one node over x, of which rank r has row r; read by result_of. */
static Ranks *run_over_rows(Session *s, const char *type, const char *nodes, const double *x) {
    char text[2000];
    snprintf(text, sizeof text,
             MESH "%%0 = input {name=\"x\",bound=0} : %s[1,24] @[data.tensor,_]\n%s", type, nodes);
    Ranks *r = ranks_new(parse(s, text));
    CHECK(ranks_set(r, "x", x));
    ranks_run(r, 1, 1);
    return r;
}

static const double *result_of(const Ranks *r, int rank, Value v, uint32_t k) {
    return r->rank[rank]->value[v][k].data;
}

static void ranks_end(Ranks *r) {
    graph_free(r->stage[0]);
    ranks_free(r);
}

static bool close_to(double a, double b) { return fabs(a - b) < 1e-12; }

static double reduced(const char *op, double a, double b) {
    return strcmp(op, "sum") == 0 ? a + b : strcmp(op, "max") == 0 ? fmax(a, b) : fmin(a, b);
}

static void test_all_reduce(Session *s, const double *x) {
    static const char *const ops[] = {"sum", "max", "min"};
    for (size_t k = 0; k < COUNT(groups); k++)
        for (size_t o = 0; o < COUNT(ops); o++) {
            char nodes[800];
            snprintf(
                nodes, sizeof nodes,
                "%%1 = slice %%0 {start=[0,2],limit=[1,5]} : f32[1,3]\n"
                "%%2 = all_reduce %%0 %%1 {over=\"%s\",ranks=%d,reduce=\"%s\",wire=f32,scale=4}"
                " : (f32[1,24],f32[1,3])\n%%3 = proj %%2 {index=1} : f32[1,3]\n",
                groups[k].over, groups[k].n, ops[o]);
            Ranks *r = run_over_rows(s, "f32", nodes, x);
            for (int q = 0; q < RANKS; q++)
                for (int e = 0; e < ROW; e++) {
                    double want = x[member(k, q, 0) * ROW + e];
                    for (int i = 1; i < groups[k].n; i++)
                        want = reduced(ops[o], want, x[member(k, q, i) * ROW + e]);
                    CHECK(close_to(result_of(r, q, 2, 0)[e], want));
                    if (e >= 2 && e < 5) CHECK(close_to(result_of(r, q, 3, 0)[e - 2], want));
                }
            ranks_end(r);
        }
}

static double half(double x) { return (double)f16_to_f32(f32_to_f16((float)x)); }

/* Messages are scaled and rounded, and so is what comes back. */
static void test_wire(Session *s, const double *x) {
    static const char nodes[] =
        "%1 = all_reduce %0 {over=\"data\",ranks=4,reduce=\"sum\",wire=f16,scale=128} : f32[1,24]\n"
        "%2 = reshape %0 {shape=[4,6]} : f32[4,6]\n"
        "%3 = all_to_all %2 {over=\"data\",ranks=4,wire=f16} : f32[4,6]\n";
    Ranks *r = run_over_rows(s, "f32", nodes, x);
    bool rounds = false;
    for (int q = 0; q < RANKS; q++)
        for (int e = 0; e < ROW; e++) {
            double want = 0, exact = 0;
            for (int i = 0; i < 4; i++) {
                want += half(128 * x[member(0, q, i) * ROW + e]);
                exact += x[member(0, q, i) * ROW + e];
            }
            CHECK(result_of(r, q, 1, 0)[e] == half(want) / 128);
            rounds |= half(want) / 128 != exact;
            int from = member(0, q, e / 6);
            CHECK(result_of(r, q, 3, 0)[e] == half(x[from * ROW + d_of(q) * 6 + e % 6]));
        }
    CHECK(rounds);
    ranks_end(r);
}

static void test_blocks(Session *s, const double *x) {
    for (size_t k = 0; k < COUNT(groups); k++) {
        char nodes[2000];
        int n = groups[k].n, size = ROW / n;
        snprintf(
            nodes, sizeof nodes,
            "%%1 = reshape %%0 {shape=[%d,%d]} : f32[%d,%d]\n"
            "%%2 = all_gather %%0 {over=\"%s\",ranks=%d} : f32[%d,1,24]\n"
            "%%3 = reduce_scatter %%1 {over=\"%s\",ranks=%d,wire=f32,scale=1} : f32[%d]\n"
            "%%4 = all_to_all %%1 {over=\"%s\",ranks=%d,wire=f32} : f32[%d,%d]\n"
            "%%5 = input {name=\"@index/%s\",bound=0} : i32[]\n"
            "%%6 = block %%1 %%5 {dim=0,parts=%d} : f32[1,%d]\n"
            "%%7 = mul %%1 %%1 : f32[%d,%d]\n"
            "%%8 = reduce_scatter %%1 %%7 {over=\"%s\",ranks=%d,wire=f16,scale=64} : "
            "(f32[%d], f32[%d])\n"
            "%%9 = all_gather %%1 %%7 {over=\"%s\",ranks=%d} : (f32[%d,%d,%d], f32[%d,%d,%d])\n",
            n, size, n, size, groups[k].over, n, n, groups[k].over, n, size, groups[k].over, n, n,
            size, groups[k].over, n, size, n, size, groups[k].over, n, size, size, groups[k].over,
            n, n, n, size, n, n, size);
        Ranks *r = run_over_rows(s, "f32", nodes, x);
        for (int q = 0; q < RANKS; q++) {
            int index = groups[k].index(q);
            for (int i = 0; i < n; i++) {
                const double *other = x + member(k, q, i) * ROW;
                for (int e = 0; e < ROW; e++) CHECK(result_of(r, q, 2, 0)[i * ROW + e] == other[e]);
                for (int e = 0; e < size; e++)
                    CHECK(result_of(r, q, 4, 0)[i * size + e] == other[index * size + e]);
            }
            for (int e = 0; e < n * ROW; e++) {
                double other = x[member(k, q, e / ROW) * ROW + e % ROW];
                CHECK(result_of(r, q, 9, 0)[e] == other);
                CHECK(result_of(r, q, 9, 1)[e] == other * other);
            }
            for (int e = 0; e < size; e++) {
                double sum = 0, half_sum = 0, squares = 0;
                for (int i = 0; i < n; i++) {
                    double own = x[member(k, q, i) * ROW + index * size + e];
                    sum += own, half_sum += half(64 * own);
                    squares += half(64 * own * own);
                }
                CHECK(close_to(result_of(r, q, 3, 0)[e], sum));
                CHECK(close_to(result_of(r, q, 8, 0)[e], half(half_sum) / 64));
                CHECK(close_to(result_of(r, q, 8, 1)[e], half(squares) / 64));
                CHECK(result_of(r, q, 6, 0)[e] == x[q * ROW + index * size + e]);
            }
        }
        ranks_end(r);
    }
}

/* ---- parts and wholes ---- */

/* Which part a rank has, by the meaning of specs, without the code under test. */
static void test_parts(Session *s) {
    static const char text[] =
        MESH "setting micro_batches 3\n"
             "%0 = input {name=\"x\",bound=0} : f32[6,2] @[data,tensor]\n"
             "%1 = param {name=\"w\",init=\"normal\",a=1,b=2} : f32[3,1] @[tensor,data]\n"
             "%2 = param {name=\"v\",init=\"uniform\",a=1,b=2} : f32[2] @[tensor.data]\n"
             "%3 = state {name=\"s\",of=\"w\",init=\"normal\",a=1,b=2} : f32[2,2] @[_,_]\n";
    Ranks *r = ranks_new(parse(s, text));
    double x[24 * 4], back[24 * 4], w[24], v[16], st[4];
    draw(3, x, COUNT(x));
    CHECK(ranks_set(r, "x", x) && !ranks_set(r, "y", x));
    ranks_run(r, 5, 1);
    init_fill("normal", 1, 2, "w", 5, w, 24);
    init_fill("uniform", 1, 2, "v", 5, v, 16);
    init_fill("normal", 1, 2, "s", 5, st, 4);
    for (int q = 0; q < RANKS; q++) {
        for (int i = 0; i < 6; i++) /* a micro-batch has 8 rows, a rank 2 of them */
            for (int j = 0; j < 2; j++)
                CHECK(result_of(r, q, 0, 0)[i * 2 + j] ==
                      x[(i / 2 * 8 + d_of(q) * 2 + i % 2) * 4 + t_of(q) * 2 + j]);
        for (int i = 0; i < 3; i++)
            CHECK(result_of(r, q, 1, 0)[i] == w[(t_of(q) * 3 + i) * 4 + d_of(q)]);
        for (int i = 0; i < 2; i++)
            CHECK(result_of(r, q, 2, 0)[i] == v[(t_of(q) * 4 + d_of(q)) * 2 + i]);
        for (int i = 0; i < 4; i++) CHECK(result_of(r, q, 3, 0)[i] == st[i]);
    }
    CHECK(ranks_type(r, 0, 0)->dim[0] == 24 && ranks_type(r, 0, 0)->dim[1] == 4);
    CHECK(ranks_get(r, 0, 0, back) && memcmp(back, x, sizeof x) == 0);
    CHECK(ranks_get(r, 0, 1, back) && memcmp(back, w, sizeof w) == 0);
    CHECK(ranks_get(r, 0, 2, back) && memcmp(back, v, sizeof v) == 0);
    CHECK(ranks_get(r, 0, 3, back) && memcmp(back, st, sizeof st) == 0);
    ranks_end(r);
}

/* Partial sums are added once for each rank that has one; who must agree is told when not. */
static void test_partial(Session *s) {
    static const char text[] = MESH "%0 = input {name=\"x\",bound=0} : f32[1] @[data.tensor]\n"
                                    "%1 = neg %0 : f32[1] @[tensor]+data\n"
                                    "%2 = neg %0 : f32[1] @[_]+data+tensor\n"
                                    "%3 = neg %0 : f32[1] @[_]+data\n"
                                    "%4 = neg %0 : f32[1] @[data]\n"
                                    "%5 = constant {value=3} : f32[1] @[_]\n"
                                    "%6 = constant {value=3} : f32[1]\n";
    Ranks *r = ranks_new(parse(s, text));
    double x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, got[8];
    ranks_set(r, "x", x);
    ranks_run(r, 1, 1);
    CHECK(ranks_get(r, 0, 1, got) && got[0] == -16 && got[1] == -20);
    CHECK(ranks_get(r, 0, 2, got) && got[0] == -36);
    CHECK(!ranks_get(r, 0, 3, got) && got[0] == -16);
    CHECK(!ranks_get(r, 0, 4, got) && got[2] == -5);
    CHECK(ranks_get(r, 0, 5, got) && got[0] == 3);
    CHECK(ranks_get(r, 0, 6, got) && got[0] == 3);
    ranks_end(r);
}

/* Assignments and steps are those of the interpreter. */
static void test_steps(Session *s) {
    static const char text[] =
        MESH "%0 = param {name=\"w\",init=\"constant\",a=1,b=0} : f32[2] @[data]\n"
             "%1 = input {name=\"@step\",bound=0} : i32[]\n"
             "%2 = cast %1 {to=f32} : f32[]\n"
             "%3 = broadcast %2 {shape=[2],dims=[]} : f32[2]\n"
             "%4 = add %0 %3 : f32[2] @[data]\n"
             "%5 = assign %0 %4 : f32[2]\n";
    Ranks *r = ranks_new(parse(s, text));
    double got[8];
    for (int64_t step = 1; step <= 3; step++) ranks_run(r, 1, step);
    CHECK(ranks_get(r, 0, 0, got) && got[0] == 7 && got[7] == 7);
    ranks_end(r);
}

/* ---- one rank alone, and groups that are none ---- */

static bool aborts(Graph *g) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        Interp *in = interp_new(g);
        interp_run(in, 1, 1);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_alone(Session *s) {
    static const char one[] =
        "graph g\nsetting mesh data=1\n%0 = constant {value=3} : f32[2]\n"
        "%1 = all_reduce %0 %0 {over=\"data\",ranks=1,reduce=\"sum\",wire=f32,scale=2}"
        " : (f32[2],f32[2])\n"
        "%2 = proj %1 {index=1} : f32[2]\n%3 = all_gather %2 {over=\"data\",ranks=1} : f32[1,2]\n";
    Graph *g = graph_parse(s, "one.ir", one, strlen(one));
    Interp *in = interp_new(g);
    interp_run(in, 1, 1);
    CHECK(in->value[3]->data[1] == 3);
    interp_free(in);
    graph_free(g);
    static const char two[] = MESH "%0 = constant {value=3} : f32[2]\n"
                                   "%1 = all_gather %0 {over=\"tensor\",ranks=2} : f32[2,2]\n";
    g = parse(s, two);
    CHECK(aborts(g));
    Buf err = {0};
    RanksOrder order;
    CHECK(ranks_check_order(&g, 1, true, &order, &err) && err.n == 0 && order.collectives == 1);
    g->set.mesh[1].size = 3;
    CHECK(!ranks_check_order(&g, 1, true, &order, &err));
    CHECK_STR(err.p, "%1 all_gather: group \"tensor\" has 3 ranks, not 2");
    buf_free(&err);
    g->set.mesh[1].axis = "other";
    CHECK(!ranks_check_order(&g, 1, true, &order, &err));
    CHECK_STR(err.p, "%1 all_gather: the mesh has no group \"tensor\"");
    buf_free(&err);
    graph_free(g);
}

/* ---- planted faults: one layer, its gradient and an update, on one device and on two ranks ----
 */

#define LAYER_HEAD "graph layer\nsetting train yes\n"
static const char layer[] =
    LAYER_HEAD "%0 = input {name=\"x\",bound=0} : f32[4,3] ; in a.m6:1:1\n"
               "%1 = param {name=\"w\",init=\"normal\",a=0,b=1} : f32[3,2]\n"
               "%2 = einsum %0 %1 {spec=\"nd,df->nf\"} : f32[4,2] ; layer a.m6:2:1\n"
               "%3 = mul %2 %2 : f32[4,2] ; layer a.m6:3:1\n"
               "%4 = sum %3 {axes=[0,1]} : f32[] ; loss a.m6:4:1\n"
               "%5 = output %4 {name=\"loss\"} : f32[]\n"
               "%6 = add %2 %2 : f32[4,2] !bwd ; layer a.m6:3:1\n"
               "%7 = einsum %0 %6 {spec=\"nd,nf->df\"} : f32[3,2] !bwd ; layer a.m6:2:1\n"
               "%8 = output %7 {name=\"grad/w\"} : f32[3,2]\n"
               "%9 = constant {value=0.01} : f32[3,2]\n"
               "%10 = mul %7 %9 : f32[3,2] !apply\n"
               "%11 = sub %1 %10 : f32[3,2] !apply\n"
               "%12 = assign %1 %11 : f32[3,2] !apply\n";

/* The right program; faults change one line of it. */
static const char *const lines[] = {
    LAYER_HEAD "setting mesh data=2\nsetting sharded yes\n",
    "%0 = input {name=\"x\",bound=0} : f32[2,3] @[data,_]\n",
    "%1 = param {name=\"w\",init=\"normal\",a=0,b=1} : f32[3,2] @[_,_]\n",
    "%2 = einsum %0 %1 {spec=\"nd,df->nf\"} : f32[2,2] @[data,_]\n",
    "%3 = mul %2 %2 : f32[2,2] @[data,_]\n",
    "%4 = sum %3 {axes=[0,1]} : f32[] @[]+data\n",
    "%5 = all_reduce %4 {over=\"data\",ranks=2,reduce=\"sum\",wire=f32,scale=1} : f32[] @[]\n",
    "%6 = output %5 {name=\"loss\"} : f32[] @[]\n",
    "%7 = add %2 %2 : f32[2,2] @[data,_]\n",
    "%8 = einsum %0 %7 {spec=\"nd,nf->df\"} : f32[3,2] @[_,_]+data\n",
    ("%9 = all_reduce %8 {over=\"data\",ranks=2,reduce=\"sum\",wire=f32,scale=1} : f32[3,2] "
     "@[_,_]\n"),
    "%10 = output %9 {name=\"grad/w\"} : f32[3,2] @[_,_]\n",
    "%11 = constant {value=0.01} : f32[3,2] @[_,_]\n",
    "%12 = mul %9 %11 : f32[3,2] @[_,_]\n",
    "%13 = sub %1 %12 : f32[3,2] @[_,_]\n",
    "%14 = assign %1 %13 : f32[3,2] @[_,_]\n",
};
static Value layer_map[] = {0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14};

typedef struct {
    const char *what;
    int line; /* of `lines` that stands differently; 0: none */
    const char *text;
    const char *name; /* of the result that differs; NULL: nothing does */
    int64_t step;
    Value at; /* the first value that does */
    bool apart;
} Fault;

static const Fault faults[] = {
    {"none", 0, NULL, NULL, 0, NO_VALUE, false},
    {"a loss that is not summed", 6, "%5 = neg %4 : f32[] @[]\n", "loss", 1, 4, true},
    {"a gradient that is not summed", 10, "%9 = reshape %8 {shape=[3,2]} : f32[3,2] @[_,_]\n", "w",
     1, 7, true},
    {"a gradient scaled by the ranks", 8, "%7 = mul %2 %2 : f32[2,2] @[data,_]\n", "w", 1, 6,
     false},
    {"an update with another rate", 12, "%11 = constant {value=0.02} : f32[3,2] @[_,_]\n", "w", 1,
     9, false},
    {"the largest instead of the sum", 10,
     "%9 = all_reduce %8 {over=\"data\",ranks=2,reduce=\"max\",wire=f32,scale=1} : f32[3,2] "
     "@[_,_]\n",
     "w", 1, 7, false},
    {"a message in half precision", 10,
     "%9 = all_reduce %8 {over=\"data\",ranks=2,reduce=\"sum\",wire=f16,scale=1} : f32[3,2] "
     "@[_,_]\n",
     "w", 1, 7, false},
    {"a parameter that ranks do not share", 14, "%13 = mul %8 %8 : f32[3,2] @[_,_]\n", "w", 1, 11,
     true},
};

static Graph *faulty(Session *s, const Fault *f) {
    Buf text = {0};
    for (size_t i = 0; i < COUNT(lines); i++)
        buf_puts(&text, f->line && (size_t)f->line == i ? f->text : lines[i]);
    Graph *g = parse(s, text.p);
    buf_free(&text);
    return g;
}

static void test_fault(Session *s, const Fault *f) {
    Graph *one = parse(s, layer), *two = faulty(s, f);
    Equal *e = equal_new(one, 3, 3);
    CHECK(equal_form(e, one));
    int before = check_failures;
    CHECK(equal_form(e, two) == (f->name == NULL));
    SinkDistance first = equal_first(e);
    CHECK((first.name == NULL) == (f->name == NULL));
    if (f->name && first.name) {
        CHECK_STR(first.name, f->name);
        CHECK(first.step == f->step);
        ShardMap map = {COUNT(layer_map), layer_map};
        ValueDistance at = equal_locate(e, one, &two, &map, 1, first.step);
        CHECK(at.v == f->at);
        CHECK(at.v == NO_VALUE || at.distance.apart == f->apart);
        if (at.v != f->at) fprintf(stderr, "found %%%u\n", at.v);
    }
    if (check_failures > before) fprintf(stderr, "in '%s'\n", f->what);
    equal_free(e);
    graph_free(one);
    graph_free(two);
}

/* Rows that come back from other ranks in another order. */
static void test_order_of_blocks(Session *s) {
    static const char one[] = "graph g\n%0 = input {name=\"x\",bound=0} : f32[4,3]\n"
                              "%1 = neg %0 : f32[4,3]\n%2 = exp %1 : f32[4,3]\n"
                              "%3 = output %2 {name=\"loss\"} : f32[4,3]\n";
    static const char two[] =
        "graph g\nsetting mesh data=2\nsetting sharded yes\n"
        "%%0 = input {name=\"x\",bound=0} : f32[2,3] @[data,_]\n"
        "%%1 = neg %%0 : f32[2,3] @[data,_]\n"
        "%%2 = all_gather %%1 {over=\"data\",ranks=2} : f32[2,2,3]\n"
        "%%3 = slice %%2 {start=[0,0,0],limit=[1,2,3]} : f32[1,2,3]\n"
        "%%4 = slice %%2 {start=[1,0,0],limit=[2,2,3]} : f32[1,2,3]\n"
        "%%5 = concat %%%d %%%d {axis=0} : f32[2,2,3]\n"
        "%%6 = reshape %%5 {shape=[4,3]} : f32[4,3] @[_,_]\n"
        "%%7 = exp %%6 : f32[4,3] @[_,_]\n%%8 = output %%7 {name=\"loss\"} : f32[4,3] @[_,_]\n";
    for (int swapped = 0; swapped < 2; swapped++) {
        char text[1000];
        snprintf(text, sizeof text, two, 3 + swapped, 4 - swapped);
        Graph *a = parse(s, one), *b = parse(s, text);
        Equal *e = equal_new(a, 3, 2);
        CHECK(equal_form(e, a) && equal_form(e, b) == !swapped);
        ShardMap map = {4, (Value[]){0, 6, 7, 8}};
        CHECK(equal_locate(e, a, &b, &map, 1, 1).v == (swapped ? 1 : NO_VALUE));
        equal_free(e);
        graph_free(a);
        graph_free(b);
    }
}

int main(void) {
    Session *s = session_new();
    double x[RANKS * ROW];
    draw(1, x, COUNT(x));
    test_groups();
    test_all_reduce(s, x);
    test_wire(s, x);
    test_blocks(s, x);
    test_parts(s);
    test_partial(s);
    test_steps(s);
    test_alone(s);
    for (size_t i = 0; i < COUNT(faults); i++) test_fault(s, &faults[i]);
    test_order_of_blocks(s);
    session_free(s);
    return check_done("ranks");
}
