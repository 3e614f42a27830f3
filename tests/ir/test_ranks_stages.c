/* test_ranks_stages.c: the stages of a pipeline on virtual ranks: two layers that share a
 * parameter, their gradients and the update, by hand on 2 stages of 2 ranks. Faults planted in one
 * stage or both must be found, before anything runs or by what comes out, and named. */
#include <stdlib.h>

#include "ir/ir.h"
#include "passes/equal.h"
#include "tests/check.h"

#define ONE_HEAD "graph shared\nsetting train yes\n"
static const char one_device[] =
    ONE_HEAD "%0 = input {name=\"x\",bound=0} : f32[4,3] ; in a.m6:1:1\n"
             "%1 = param {name=\"w\",init=\"normal\",a=0,b=1} : f32[3,3]\n"
             "%2 = einsum %0 %1 {spec=\"nd,df->nf\"} : f32[4,3] ; one a.m6:2:1\n"
             "%3 = einsum %2 %1 {spec=\"nd,df->nf\"} : f32[4,3] ; two a.m6:3:1\n"
             "%4 = add %3 %0 : f32[4,3] ; two a.m6:4:1\n"
             "%5 = mul %4 %4 : f32[4,3] ; loss a.m6:5:1\n"
             "%6 = sum %5 {axes=[0,1]} : f32[] ; loss a.m6:5:1\n"
             "%7 = output %6 {name=\"loss\"} : f32[]\n"
             "%8 = add %4 %4 : f32[4,3] !bwd ; two a.m6:4:1\n"
             "%9 = einsum %2 %8 {spec=\"nd,nf->df\"} : f32[3,3] !bwd ; two a.m6:3:1\n"
             "%10 = einsum %8 %1 {spec=\"nf,df->nd\"} : f32[4,3] !bwd ; two a.m6:3:1\n"
             "%11 = einsum %0 %10 {spec=\"nd,nf->df\"} : f32[3,3] !bwd ; one a.m6:2:1\n"
             "%12 = add %9 %11 : f32[3,3] !bwd\n"
             "%13 = output %12 {name=\"grad/w\"} : f32[3,3]\n"
             "%14 = constant {value=0.01} : f32[3,3]\n"
             "%15 = mul %12 %14 : f32[3,3] !apply\n"
             "%16 = sub %1 %15 : f32[3,3] !apply\n"
             "%17 = assign %1 %16 : f32[3,3] !apply\n";

enum { STAGES = 2, LINES = 22, EDITS = 4 };

#define HEAD(stage)                                                                                \
    "graph shared\nsetting train yes\nsetting mesh pipeline=2,data=2\nsetting sharded yes\n"       \
    "setting stages 2\nsetting stage " stage "\n"
#define PEER            "over=\"pipeline\",ranks=2,peer="
#define SEND            "{" PEER "1,tag="
#define TOKEN           "{name=\"@step\",bound=0} : i32[]\n"
#define W               "{name=\"w\",init=\"normal\",a=0,b=1} : f32[3,3] @[_,_]\n"
#define SUM(g, n)       "{over=\"" g "\",ranks=" n ",reduce=\"sum\",wire=f32,scale=1} : "
#define RECV(from, tag) "{" PEER from ",tag=" tag ",dtype=f32,shape=[2,3]} : f32[2,3] @[data,_]"

/* The right program, as lines; a fault writes some of them differently. */
static const char *const right[STAGES][LINES] = {
    {
        HEAD("0"),
        "%0 = input {name=\"x\",bound=0} : f32[2,3] @[data,_]\n",
        "%1 = param " W,
        "%2 = input " TOKEN,
        "%3 = einsum %0 %1 {spec=\"nd,df->nf\"} : f32[2,3] @[data,_]\n",
        "%4 = send %3 " SEND "1} : i32[] ; one a.m6:2:1\n",
        "%5 = send %0 " SEND "2} : i32[] ; in a.m6:1:1\n",
        "%6 = recv %2 " RECV("1", "3") " !bwd ; two a.m6:3:1\n",
        "%7 = einsum %0 %6 {spec=\"nd,nf->df\"} : f32[3,3] @[_,_]+data !bwd\n",
        "%8 = all_reduce %7 " SUM("data", "2") "f32[3,3] @[_,_] !bwd\n",
        "%9 = all_reduce %8 " SUM("pipeline", "2") "f32[3,3] @[_,_] !bwd ; one a.m6:2:1\n",
        "%10 = output %9 {name=\"grad/w\"} : f32[3,3] @[_,_]\n",
        "%11 = constant {value=0.01} : f32[3,3] @[_,_]\n",
        "%12 = mul %9 %11 : f32[3,3] @[_,_] !apply\n",
        "%13 = sub %1 %12 : f32[3,3] @[_,_] !apply\n",
        "%14 = assign %1 %13 : f32[3,3] @[_,_] !apply\n",
    },
    {
        HEAD("1"),
        "%0 = param " W,
        "%1 = input " TOKEN,
        "%2 = recv %1 " RECV("0", "1") " ; one a.m6:2:1\n",
        "%3 = recv %1 " RECV("0", "2") " ; in a.m6:1:1\n",
        "%4 = einsum %2 %0 {spec=\"nd,df->nf\"} : f32[2,3] @[data,_]\n",
        "%5 = add %4 %3 : f32[2,3] @[data,_]\n",
        "%6 = mul %5 %5 : f32[2,3] @[data,_]\n",
        "%7 = sum %6 {axes=[0,1]} : f32[] @[]+data\n",
        "%8 = all_reduce %7 " SUM("data", "2") "f32[] @[]\n",
        "%9 = output %8 {name=\"loss\"} : f32[] @[]\n",
        "%10 = add %5 %5 : f32[2,3] @[data,_] !bwd\n",
        "%11 = einsum %2 %10 {spec=\"nd,nf->df\"} : f32[3,3] @[_,_]+data !bwd\n",
        "%12 = einsum %10 %0 {spec=\"nf,df->nd\"} : f32[2,3] @[data,_] !bwd\n",
        "%13 = send %12 {" PEER "0,tag=3} : i32[] !bwd ; two a.m6:3:1\n",
        "%14 = all_reduce %11 " SUM("data", "2") "f32[3,3] @[_,_] !bwd\n",
        "%15 = all_reduce %14 " SUM("pipeline", "2") "f32[3,3] @[_,_] !bwd ; two a.m6:3:1\n",
        "%16 = output %15 {name=\"grad/w\"} : f32[3,3] @[_,_]\n",
        "%17 = constant {value=0.01} : f32[3,3] @[_,_]\n",
        "%18 = mul %15 %17 : f32[3,3] @[_,_] !apply\n",
        "%19 = sub %0 %18 : f32[3,3] @[_,_] !apply\n",
        "%20 = assign %0 %19 : f32[3,3] @[_,_] !apply\n",
    },
};

typedef struct {
    int stage, value; /* whose line is written differently */
    const char *text; /* what follows "%N = "; NULL: no edit */
} Edit;

typedef struct {
    const char *what;
    Edit edit[EDITS];
    const char *order;   /* what the proof says where sends are left for their receives */
    const char *settled; /* and where they wait, if it says nothing else */
    const char *name;    /* of the result that differs */
    bool apart, lost;
} Fault;

static const Fault faults[] = {
    {.what = "none"},
    {.what = "the order of two transfers",
     .edit = {{0, 4, "send %0 " SEND "2} : i32[] ; in a.m6:1:1\n"},
              {0, 5, "send %3 " SEND "1} : i32[] ; one a.m6:2:1\n"}},
     .settled = "rank 0 (stage 0) at %4 send (a.m6:1:1) waits for rank 2 to receive transfer 2; "
                "rank 2 (stage 1) at %2 recv (a.m6:2:1) waits for transfer 1 of rank 0"},
    {.what = "a missing send",
     .edit = {{0, 4, "neg %3 : f32[2,3] @[data,_]\n"}},
     .order = "rank 0 (stage 0) at %6 recv (a.m6:3:1) waits for transfer 3 of rank 2; rank 2 "
              "(stage 1) at %2 recv (a.m6:2:1) waits for transfer 1 of rank 0, which has sent "
              "transfer 2"},
    {.what = "a missing receive",
     .edit = {{1, 3, "neg %2 : f32[2,3] @[data,_]\n"}},
     .order = "rank 0 (stage 0) at %5 send (a.m6:1:1) sends transfer 2, which rank 2 does not "
              "receive"},
    {.what = "another number",
     .edit = {{1, 13, "send %12 {" PEER "0,tag=4} : i32[] !bwd ; two a.m6:3:1\n"}},
     .order = "rank 0 (stage 0) at %6 recv (a.m6:3:1) waits for transfer 3 of rank 2, which has "
              "sent transfer 4; rank 2 (stage 1) at %15 all_reduce (a.m6:3:1) waits for rank 0"},
    {.what = "a number twice",
     .edit = {{0, 5, "send %0 " SEND "1} : i32[] ; in a.m6:1:1\n"}},
     .order = "rank 0 (stage 0) at %5 send (a.m6:1:1) sends a second transfer 1"},
    {.what = "another size",
     .edit = {{0, 4, "send %1 " SEND "1} : i32[] ; one a.m6:2:1\n"}},
     .order = "rank 2 (stage 1) at %2 recv (a.m6:2:1) receives f32[2,3] as transfer 1, and rank 0 "
              "(stage 0) at %4 send (a.m6:2:1) sends f32[3,3]"},
    {.what = "a send to itself",
     .edit = {{0, 5, "send %0 {" PEER "0,tag=2} : i32[] ; in a.m6:1:1\n"}},
     .order = "rank 0 (stage 0) at %6 recv (a.m6:3:1) waits for transfer 3 of rank 2; rank 2 "
              "(stage 1) at %3 recv (a.m6:1:1) waits for transfer 2 of rank 0"},
    {.what = "a sum over the pipeline that one stage leaves out",
     .edit = {{1, 15, "neg %14 : f32[3,3] @[_,_] !bwd\n"}},
     .order = "rank 0 (stage 0) at %9 all_reduce (a.m6:2:1) waits for rank 2; rank 2 is through"},
    {.what = "another reduction",
     .edit = {{1, 15,
               "all_reduce %14 {over=\"pipeline\",ranks=2,reduce=\"max\",wire=f32,scale=1} : "
               "f32[3,3] @[_,_] !bwd ; two a.m6:3:1\n"}},
     .order = "rank 2 (stage 1) at %15 all_reduce (a.m6:3:1) does not go with rank 0 (stage 0) at "
              "%9 all_reduce (a.m6:2:1): another reduce"},
    {.what = "another collective",
     .edit = {{1, 14, "all_gather %11 {over=\"pipeline\",ranks=2} : f32[2,3,3] !bwd\n"},
              {1, 15, "sum %14 {axes=[0]} : f32[3,3] @[_,_] !bwd\n"}},
     .order = "rank 2 (stage 1) at %14 all_gather does not go with rank 0 (stage 0) at %9 "
              "all_reduce (a.m6:2:1): another operation"},
    {.what = "another stream",
     .edit = {{1, 15,
               "all_reduce %14 " SUM("pipeline", "2") "f32[3,3] @[_,_] !bwd !stream=6 ; two "
                                                      "a.m6:3:1\n"}},
     .order = "rank 2 (stage 1) at %15 all_reduce (a.m6:3:1) does not go with rank 0 (stage 0) at "
              "%9 all_reduce (a.m6:2:1): another stream"},
    {.what = "the order of two collectives",
     .edit = {{0, 8, "all_reduce %7 " SUM("pipeline", "2") "f32[3,3] @[_,_] ; one a.m6:2:1\n"},
              {0, 9, "all_reduce %8 " SUM("pipeline.data", "4") "f32[3,3] @[_,_] ; one a.m6:2:1\n"},
              {1, 14, "all_reduce %11 " SUM("pipeline.data", "4") "f32[3,3] @[_,_]\n"},
              {1, 15, "all_reduce %14 " SUM("pipeline", "2") "f32[3,3] @[_,_]\n"}},
     .order = "rank 0 (stage 0) at %8 all_reduce (a.m6:2:1) waits for rank 2; rank 2 (stage 1) at "
              "%14 all_reduce waits for rank 0"},
    {.what = "a shared gradient that is not summed over the stages",
     .edit = {{0, 9, "neg %8 : f32[3,3] @[_,_] !bwd\n"},
              {1, 15, "neg %14 : f32[3,3] @[_,_] !bwd\n"}},
     .name = "w"},
    {.what = "a shared parameter that one stage updates by itself",
     .edit = {{1, 18, "mul %14 %17 : f32[3,3] @[_,_] !apply\n"}},
     .name = "w",
     .apart = true},
    {.what = "a shared parameter that one stage does not update",
     .edit = {{1, 20, "neg %19 : f32[3,3] @[_,_] !apply\n"}},
     .name = "w",
     .apart = true},
    {.what = "the wrong value",
     .edit = {{0, 5, "send %3 " SEND "2} : i32[] ; one a.m6:2:1\n"}},
     .name = "w"},
    {.what = "a gradient of the wrong sign that only one stage sees",
     .edit = {{1, 12, "neg %10 : f32[2,3] @[data,_] !bwd\n"}},
     .name = "w"},
    {.what = "a loss that no stage gives",
     .edit = {{1, 9, "neg %8 : f32[] @[]\n"}},
     .name = "loss",
     .lost = true},
};

static Graph *parse(Session *s, const char *text) {
    Graph *g = graph_parse(s, "stages.ir", text, strlen(text));
    Buf report = {0};
    if (!CHECK(g != NULL) || !CHECK(graph_verify(g, &report) == 0)) {
        fprintf(stderr, "%s\n%s\n", text, report.p ? report.p : "");
        exit(1);
    }
    buf_free(&report);
    return g;
}

static const char *line_of(const Fault *f, int stage, int line) {
    for (int i = 0; i < EDITS; i++)
        if (f->edit[i].text && f->edit[i].stage == stage && f->edit[i].value == line - 1)
            return f->edit[i].text;
    return NULL;
}

static void parse_stages(Session *s, const Fault *f, Graph **g) {
    for (int i = 0; i < STAGES; i++) {
        Buf text = {0};
        for (int k = 0; k < LINES && right[i][k]; k++) {
            const char *other = line_of(f, i, k);
            if (other)
                buf_printf(&text, "%%%d = %s", k - 1, other);
            else
                buf_puts(&text, right[i][k]);
        }
        g[i] = parse(s, text.p);
        buf_free(&text);
    }
}

/* What the proof says, with sends that wait or do not; NULL: all get through. */
static void check_order(Graph *const *g, bool settled, const char *want) {
    Buf err = {0};
    RanksOrder order;
    bool ok = ranks_check_order(g, STAGES, settled, &order, &err);
    CHECK(ok == (want == NULL) && (err.n == 0) == ok);
    if (want) CHECK_STR(err.p, want);
    buf_free(&err);
}

/* What is wrong with the order stops a run too, which says the same. */
static void check_run(const Fault *f, Graph *one, Graph *const *g) {
    Equal *e = equal_new(one, 3, 3);
    CHECK(equal_form(e, one));
    CHECK(equal_stages(e, g, STAGES) == (!f->order && !f->name));
    SinkDistance first = equal_first(e);
    if (f->order) CHECK_STR(equal_stuck(e), f->order);
    CHECK(f->order || !equal_stuck(e));
    if (f->name && CHECK(first.name != NULL)) {
        CHECK_STR(first.name, f->name);
        CHECK(first.step == 1 && first.distance.apart == f->apart &&
              first.distance.lost == f->lost);
    }
    equal_free(e);
}

static void test_fault(Session *s, const Fault *f) {
    Graph *one = parse(s, one_device), *g[STAGES];
    int before = check_failures;
    parse_stages(s, f, g);
    check_order(g, false, f->order);
    if (!f->order) check_order(g, true, f->settled);
    check_run(f, one, g);
    if (check_failures > before) fprintf(stderr, "in '%s'\n", f->what);
    graph_free(one);
    for (int i = 0; i < STAGES; i++) graph_free(g[i]);
}

/* ---- values ---- */

/* Leaves that one stage has or both, and a value of the second stage. */
static void test_values(Session *s) {
    Graph *g[STAGES];
    double x[12], w[9], got[12], y[12] = {0};
    parse_stages(s, &faults[0], g);
    Ranks *r = ranks_new_stages(g, STAGES);
    for (int i = 0; i < 12; i++) x[i] = i + 1;
    for (int i = 0; i < 9; i++) w[i] = i % 3 - 1;
    CHECK(r->n == 4 && ranks_set(r, "x", x) && ranks_set(r, "w", w) && !ranks_set(r, "y", x));
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++) {
            for (int k = 0; k < 3; k++)
                for (int l = 0; l < 3; l++)
                    y[i * 3 + j] += x[i * 3 + k] * w[k * 3 + l] * w[l * 3 + j];
            y[i * 3 + j] += x[i * 3 + j];
        }
    CHECK(ranks_run(r, 1, 1));
    CHECK(ranks_type(r, 0, 0)->dim[0] == 4 && ranks_get(r, 0, 0, got));
    CHECK(memcmp(got, x, sizeof x) == 0);
    CHECK(ranks_type(r, 1, 5)->dim[0] == 4 && ranks_get(r, 1, 5, got));
    for (int i = 0; i < 12; i++) CHECK(got[i] == y[i]);
    double first[9], second[9];
    CHECK(ranks_get(r, 0, 1, first) && ranks_get(r, 1, 0, second));
    CHECK(memcmp(first, second, sizeof first) == 0 && memcmp(first, w, sizeof w) != 0);
    ranks_free(r);
    for (int i = 0; i < STAGES; i++) graph_free(g[i]);
}

/* Two that send first: through where sends are left, stuck where they wait. */
static void test_exchange(Session *s) {
    static const char text[] = "graph g\nsetting mesh pipeline=2\nsetting sharded yes\n"
                               "setting stages 2\nsetting stage %d\n%%0 = input " TOKEN
                               "%%1 = constant {value=%d} : f32[2,3]\n"
                               "%%2 = send %%1 {" PEER "%d,tag=%d} : i32[]\n"
                               "%%3 = recv %%0 {" PEER "%d,tag=%d,dtype=f32,shape=[2,3]} : "
                               "f32[2,3]\n";
    Graph *g[STAGES];
    for (int i = 0; i < STAGES; i++) {
        char stage[800];
        snprintf(stage, sizeof stage, text, i, 5 + i, 1 - i, 1 + i, 1 - i, 2 - i);
        g[i] = parse(s, stage);
    }
    check_order(g, false, NULL);
    check_order(g, true,
                "rank 0 (stage 0) at %2 send waits for rank 1 to receive transfer 1; rank 1 (stage "
                "1) at %2 send waits for rank 0 to receive transfer 2");
    Ranks *r = ranks_new_stages(g, STAGES);
    double got[6];
    CHECK(ranks_run(r, 1, 1) && ranks_get(r, 0, 3, got) && got[5] == 6);
    CHECK(ranks_get(r, 1, 3, got) && got[5] == 5);
    ranks_free(r);
    for (int i = 0; i < STAGES; i++) graph_free(g[i]);
}

int main(void) {
    Session *s = session_new();
    for (size_t i = 0; i < COUNT(faults); i++) test_fault(s, &faults[i]);
    test_values(s);
    test_exchange(s);
    session_free(s);
    return check_done("ranks_stages");
}
