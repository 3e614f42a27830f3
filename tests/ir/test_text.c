/* Checks the IR's structure and text form: graphs print, parse and print the same; every mistake in
 * a text is an error at its line and column; the verifier marks what does not hold. */
#include "ir/ir.h"
#include "tests/check.h"
#include "tests/ir/random_graph.h"

#include <stdlib.h>

/* ---- round trips ---- */

static const char sample[] =
    "graph m6\n"
    "setting train yes\n"
    "setting precision bf16\n"
    "setting clip 1\n"
    "setting loss_scale dynamic\n"
    "setting checkpoint \"block[0],block[1]\"\n"
    "setting mesh data=4,expert=2\n"
    "note split \"block[0].moe\" n=4 ; m6.m6:20:5\n"
    "note stage \"\" name=\"a \\\"b\\\"\\n\"\n"
    "%0 = param {name=\"w\", init=\"normal\", a=0, b=0.02} : f32[8,4] @[_,expert] ; block[0] "
    "m6.m6:3:5\n"
    "%1 = input {name=\"x\", bound=0} : f32[3,8] @[data,_] ; \"\" \"my file.m6\":1:1\n"
    "%2 = einsum %1 %0 {spec=\"ab,bc->ac\"} : f32[3,4] @[data,expert]+expert+data !group=1 ; "
    "block[0]\n"
    "%3 = norm %2 {eps=1e-5} : (f32[3,4], f32[3], f32[3]) !bwd !micro=0 !group=2 !stream=1\n"
    "%4 = proj %3 {index=0} : f32[3,4] !apply !micro=12\n"
    "%5 = cast %4 {to=bf16} : bf16[3,4]\n"
    "%6 = slice %5 {start=[0,1], limit=[3,3]} : bf16[3,2] ; 内容 a:b.m6:7:65535\n"
    "%7 = constant {value=-inf} : bf16[3,2]\n"
    "%8 = concat %6 %7 %6 {axis=1} : bf16[3,6]\n"
    "%9 = output %8 {name=\"y\"} : bf16[3,6]\n";

static void test_sample(void) {
    Session *s = session_new();
    Buf out = {0}, said = {0};
    diag_capture(s, &said);
    Graph *g = graph_parse(s, "sample.ir", sample, strlen(sample));
    if (CHECK(g != NULL)) {
        graph_print(g, &out);
        CHECK_STR(out.p, sample);
        CHECK(g->set.precision == DT_BF16 && g->set.nmesh == 2 && g->note.n == 2);
        CHECK(node_of(g, 3)->phase == PHASE_BACKWARD && node_of(g, 3)->stream == 1);
    }
    if (said.n) fputs(said.p, stderr);
    graph_free(g);
    buf_free(&out);
    buf_free(&said);
    session_free(s);
}

static void test_loose_layout(void) {
    static const char loose[] =
        "# comment\n\n  graph   t \r\n;also\n%0=constant{ value = 1e0 }:f32[ 2 ,3]\t\r\n"
        "%1 =  output  %0{name=\"y\"} :f32[2,3] !micro = 3";
    Session *s = session_new();
    Buf out = {0};
    Graph *g = graph_parse(s, "t", loose, strlen(loose));
    if (CHECK(g != NULL)) {
        graph_print(g, &out);
        CHECK_STR(out.p, "graph t\n%0 = constant {value=1} : f32[2,3]\n"
                         "%1 = output %0 {name=\"y\"} : f32[2,3] !micro=3\n");
    }
    graph_free(g);
    buf_free(&out);
    session_free(s);
}

static void run_all(Graph *g, Buf *out) {
    Interp *in = interp_new(g);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op != OP_input) continue;
        int64_t n = type_elements(type_of(g, v));
        double *x = xmalloc((size_t)n * sizeof *x);
        for (int64_t i = 0; i < n; i++) x[i] = (double)((i * 7 + v) % 11) / 8 - 0.5;
        CHECK(interp_set(in, attr_str(node_of(g, v), "name"), x));
        free(x);
    }
    interp_run(in, 5, 0);
    for (Value v = 0; v < g->node.n; v++) {
        if (node_of(g, v)->op != OP_output) continue;
        const Tensor *t = interp_get(in, v);
        buf_put(out, (const char *)t->data, (size_t)type_elements(t->type) * sizeof *t->data);
    }
    interp_free(in);
}

static void test_random_graphs(void) {
    static const Dtype dtypes[] = {DT_F32, DT_BF16, DT_F64};
    for (uint64_t seed = 0; seed < 150; seed++) {
        Session *s = session_new();
        Buf once = {0}, twice = {0}, report = {0}, x = {0}, y = {0};
        RandomGraph how = {.seed = seed,
                           .nodes = 10 + (int)(seed % 60),
                           .params = seed & 1,
                           .dtype = dtypes[seed % 3],
                           .train = seed % 4 == 0};
        Graph *g = random_graph(s, &how);
        graph_print(g, &once);
        CHECK(graph_verify(g, &report) == 0);
        if (report.n) fputs(report.p, stderr);
        Graph *h = graph_parse(s, "random", once.p, once.n);
        if (CHECK(h != NULL)) {
            graph_print(h, &twice);
            CHECK_STR(twice.p, once.p);
            CHECK(graph_hash(g) == graph_hash(h));
            run_all(g, &x);
            run_all(h, &y);
            CHECK(x.n == y.n && (x.n == 0 || memcmp(x.p, y.p, x.n) == 0));
        }
        graph_free(g);
        graph_free(h);
        buf_free(&once), buf_free(&twice), buf_free(&report), buf_free(&x), buf_free(&y);
        session_free(s);
    }
}

/* ---- mistakes ---- */

#define SCALARS "%2 = constant {value=1} : i32[]\n%3 = constant {value=2} : i32[]\n"
#define HEAD    "graph t\n%0 = constant {value=1} : f32[2,3]\n%1 = constant {value=1} : i32[2]\n"
static const struct {
    const char *text, *message; /* the first line of what is said */
} mistakes[] = {
    {"", "t: error: the file has no graph"},
    {"\n# nothing\n", "t:2:1: error: the file has no graph"},
    {"grap t\n", "t:1:1: error: expected 'graph' here"},
    {"graph\n", "t:1:6: error: expected a word here"},
    {"graph t u\n", "t:1:9: error: the line should end here"},
    {"graph t\nsetting\n", "t:2:8: error: expected a setting here"},
    {"graph t\nsetting speed 1\n", "t:2:9: error: unknown setting 'speed'"},
    {"graph t\nsetting groups 0\n",
     "t:2:16: error: this number is not within 1..9223372036854775807"},
    {"graph t\nsetting groups many\n", "t:2:16: error: expected a whole number here"},
    {"graph t\nsetting precision i32\n", "t:2:19: error: unknown value 'i32'"},
    {"graph t\nsetting loss_scale some\n", "t:2:20: error: unknown value 'some'"},
    {"graph t\nsetting clip 1.2.3\n", "t:2:14: error: expected a number here"},
    {"graph t\nsetting mesh data\n", "t:2:18: error: expected '=' here"},
    {"graph t\nsetting mesh data=0\n", "t:2:19: error: this number is not within 1..2147483647"},
    {"graph t\nsetting cluster \"a\n", "t:2:17: error: this string does not end"},
    {"graph t\nnote split\n", "t:2:11: error: expected '\"' here"},
    {"graph t\nnote split \"\\q\"\n",
     "t:2:13: error: a string may have \\n \\t \\\" \\\\ and \\x01 to \\xff"},
    {"graph t\nnode\n", "t:2:1: error: expected a value, 'setting' or 'note', not 'node'"},
    {HEAD "setting groups 2\n", "t:4:1: error: 'setting' must stand before all values"},
    {"graph t\n%1 = constant {value=1} : f32[2]\n",
     "t:2:2: error: values are numbered in order: this is %0"},
    {"graph t\n%x\n", "t:2:2: error: expected a whole number here"},
    {"graph t\n%0 constant\n", "t:2:4: error: expected '=' here"},
    {"graph t\n%0 = constant {value=1} f32[2]\n", "t:2:25: error: expected ':' here"},
    {"graph t\n%0 = konstant {value=1} : f32[2]\n", "t:2:6: error: unknown op 'konstant'"},
    {"graph t\n%0 = constant : f32[2]\n", "t:2:15: error: expected '{' here"},
    {"graph t\n%0 = constant {valu=1} : f32[2]\n",
     "t:2:16: error: expected attribute 'value' of constant here, not 'valu'"},
    {"graph t\n%0 = constant {value=one} : f32[2]\n", "t:2:22: error: expected a number here"},
    {"graph t\n%0 = constant {value=1, axis=2} : f32[2]\n", "t:2:23: error: expected '}' here"},
    {"graph t\n%0 = constant {value=1} : q8[2]\n", "t:2:27: error: unknown type 'q8'"},
    {"graph t\n%0 = constant {value=1} : f32[0]\n",
     "t:2:31: error: this number is not within 1..9223372036854775807"},
    {"graph t\n%0 = constant {value=1} : f32[-4]\n",
     "t:2:31: error: this number is not within 1..9223372036854775807"},
    {"graph t\n%0 = constant {value=1} : f32[99999999999999999999]\n",
     "t:2:31: error: this number is not within 1..9223372036854775807"},
    {"graph t\n%0 = constant {value=1} : f32[4294967296,4294967296]\n",
     "t:2:27: error: this tensor is too large"},
    {"graph t\n%0 = constant {value=1} : f32[1,1,1,1,1,1,1,1,1]\n",
     "t:2:47: error: more than 8 dimensions"},
    {"graph t\n%0 = constant {value=1} : f32[2\n", "t:2:32: error: expected ',' here"},
    {"graph t\n%0 = constant {value=1} : (f32[2])\n",
     "t:2:6: error: constant: a leaf is one tensor"},
    {HEAD "%2 = neg %2 : f32[2,3]\n", "t:4:11: error: %2 is not defined before this line"},
    {HEAD "%2 = neg %0 %0 : f32[2,3]\n", "t:4:6: error: neg: takes 1 operands, not 2"},
    {HEAD "%2 = neg %0 : f32[3,2]\n", "t:4:6: error: neg: gives f32[2,3], not f32[3,2]"},
    {HEAD "%2 = add %0 %1 : f32[2,3]\n",
     "t:4:6: error: add: operands 1 and 2 differ: f32[2,3] and i32[2]"},
    {HEAD "%2 = exp %1 : i32[2]\n", "t:4:6: error: exp: is not defined on i32"},
    {HEAD "%2 = select %0 %0 %0 : f32[2,3]\n", "t:4:6: error: select: operand 1 must be bool"},
    {HEAD "%2 = reshape %0 {shape=[4]} : f32[4]\n",
     "t:4:6: error: reshape: numbers of elements differ: f32[2,3] and f32[4]"},
    {HEAD "%2 = reshape %0 {shape=[4611686018427387904,4]} : f32[4]\n",
     "t:4:6: error: reshape: numbers of elements differ: f32[2,3] and f32[4611686018427387904,4]"},
    {HEAD "%2 = transpose %0 {perm=[0,0]} : f32[2,2]\n",
     "t:4:6: error: transpose: 'perm' is not a permutation of 0..1"},
    {HEAD "%2 = transpose %0 {perm=[0]} : f32[2,2]\n",
     "t:4:6: error: transpose: 'perm' has 1 numbers, the operand 2 dimensions"},
    {HEAD "%2 = broadcast %0 {shape=[4,3], dims=[0,1]} : f32[4,3]\n",
     "t:4:6: error: broadcast: dimension 1 has size 2, which cannot repeat to 4"},
    {HEAD "%2 = broadcast %0 {shape=[2,3], dims=[1,0]} : f32[2,3]\n",
     "t:4:6: error: broadcast: dimension 1 has size 2, which cannot repeat to 3"},
    {HEAD "%2 = slice %0 {start=[0,1], limit=[2,4]} : f32[2,3]\n",
     "t:4:6: error: slice: slice 1:4 does not lie in dimension 2 of size 3"},
    {HEAD "%2 = pad %0 {lo=[0,0], hi=[0,9223372036854775807]} : f32[2,3]\n",
     "t:4:6: error: pad: padding 0 and 9223372036854775807 of dimension 2 is negative or too "
     "large"},
    {HEAD "%2 = pad %0 {lo=[0,0], hi=[0,4611686018427387904]} : f32[2,3]\n",
     "t:4:6: error: pad: the result f32[2,4611686018427387907] is too large"},
    {HEAD "%2 = concat {axis=0} : f32[2,3]\n", "t:4:6: error: concat: needs at least one operand"},
    {HEAD "%2 = concat %0 %1 {axis=0} : f32[2,3]\n",
     "t:4:6: error: concat: operands 1 and 2 differ outside axis 0: f32[2,3] and i32[2]"},
    {HEAD "%2 = sum %0 {axes=[1,0]} : f32[]\n",
     "t:4:6: error: sum: 'axes' must ascend within 0..1"},
    {HEAD "%2 = sum %0 {axes=[]} : f32[2,3]\n", "t:4:6: error: sum: 'axes' is empty"},
    {HEAD "%2 = proj %0 {index=0} : f32[2,3]\n", "t:4:6: error: proj: operand has only one result"},
    {HEAD "%2 = norm %0 {eps=1} : (f32[2,3], f32[2], f32[2])\n%3 = neg %2 : f32[2,3]\n",
     "t:5:6: error: neg: operand 1 has several results: take one with proj"},
    {HEAD "%2 = norm %0 {eps=1} : (f32[2,3], f32[2], f32[2])\n%3 = proj %2 {index=3} : f32[2]\n",
     "t:5:6: error: proj: there is no result 3; there are 3"},
    {HEAD "%2 = einsum %0 %0 {spec=\"ab,bc->ac\"} : f32[2,3]\n",
     "t:4:6: error: einsum: operand 2 has b = 2, operand 1 has b = 3"},
    {HEAD "%2 = einsum %0 %0 {spec=\"ab,cb->acd\"} : f32[2,2]\n",
     "t:4:6: error: einsum: einsum \"ab,cb->acd\": 'd' is in the result only"},
    {HEAD "%2 = einsum %0 %0 {spec=\"ab,cd->ad\"} : f32[2,2]\n",
     "t:4:6: error: einsum: einsum \"ab,cd->ad\": 'b' is in operand 1 only"},
    {HEAD "%2 = einsum %0 %0 {spec=\"aa,cd->ad\"} : f32[2,2]\n",
     "t:4:6: error: einsum: einsum \"aa,cd->ad\" repeats 'a' in one place"},
    {HEAD "%2 = einsum_gelu {spec=\"ab,cb->ac\"} : (f32[2,2], f32[2,2])\n",
     "t:4:6: error: einsum_gelu: has two operands and perhaps a third"},
    {HEAD "%2 = einsum_gelu %0 %0 %1 {spec=\"ab,cb->ac\"} : (f32[2,2], f32[2,2])\n",
     "t:4:6: error: einsum_gelu: the third operand is no vector along the last dim"},
    {HEAD "%2 = einsum_gelu_grad %0 %0 %0 {spec=\"ab,cb->ac\"} : f32[2,2]\n",
     "t:4:6: error: einsum_gelu_grad: the third operand is not of the product's type"},
    {HEAD "%2 = einsum_gelu_grad_sum %0 %0 %0 {spec=\"ab,ab->\"} : (f32[], f32[])\n",
     "t:4:6: error: einsum_gelu_grad_sum: the third operand is not of the product's type"},
    {HEAD "%2 = einsum %0 %0 {spec=\"ab\"} : f32[2,2]\n",
     "t:4:6: error: einsum: einsum \"ab\" needs two operands: \"ab,bc->ac\""},
    {HEAD "%2 = einsum %0 %0 {spec=\"ab,ab->ab!\"} : f32[2,2]\n",
     "t:4:6: error: einsum: einsum \"ab,ab->ab!\" has a stray '!'"},
    {HEAD "%2 = gather %0 %0 : f32[2,3]\n", "t:4:6: error: gather: operand 2 must be i32 or i64"},
    {HEAD "%2 = cross_entropy %0 %0 : (f32[2], f32[2])\n",
     "t:4:6: error: cross_entropy: the target is f32[2,3], but must be i32[2]"},
    {HEAD "%2 = route %0 {top=1, slots=1} : f32[2]\n",
     "t:4:6: error: route: operand 1 has 2 dimensions, but must have 4"},
    {HEAD "%2 = dispatch %0 %1 %1 : f32[2]\n",
     "t:4:6: error: dispatch: operand 2 has 1 dimensions, but must have 2"},
    {HEAD "%2 = neg %0 : f32[2,3] @[a]\n", "t:4:27: error: expected ',' here"},
    {HEAD "%2 = neg %0 : f32[2,3] !forward\n", "t:4:25: error: unknown flag '!forward'"},
    {HEAD "%2 = neg %0 : f32[2,3] !micro=40000\n",
     "t:4:31: error: this number is not within 0..32767"},
    {HEAD "%2 = neg %0 : f32[2,3] ; a b\n", "t:4:28: error: expected FILE:LINE:COL here"},
    {HEAD "%2 = neg %0 : f32[2,3] ; a b:1:70000\n",
     "t:4:32: error: this number is not within 0..65535"},
    {HEAD "%2 = neg %0 : f32[2,3] ; a b:1:2 c\n", "t:4:34: error: the line should end here"},
    {HEAD "%2 = iota {axis=2} : i32[2]\n", "t:4:6: error: iota: axis 2 is not one of 1"},
    {HEAD "%2 = mask {kind=\"random\", prefix=0} : f32[2,2]\n",
     "t:4:6: error: mask: kind is \"random\"; it is causal or prefix"},
    {HEAD "%2 = param {name=\"w\", init=\"ones\", a=0, b=0} : f32[2,2]\n",
     "t:4:6: error: param: unknown init \"ones\""},
    {HEAD SCALARS "%4 = random %2 %3 {site=\"a\", shape=[4], parts=[2,2]} : f32[4]\n",
     "t:6:6: error: random: parts has 2 numbers for 1 dimensions"},
    {HEAD SCALARS "%4 = random %2 %3 {site=\"a\", shape=[4], parts=[2]} : f32[4]\n",
     "t:6:6: error: random: has 2 operands, not 3"},
    {HEAD SCALARS "%4 = random %2 %3 {site=\"a\", shape=[4], parts=[0]} : f32[4]\n",
     "t:6:6: error: random: there are not 0 parts"},
    {HEAD SCALARS "%4 = random %2 %3 %0 {site=\"a\", shape=[4], parts=[2]} : f32[4]\n",
     "t:6:6: error: random: operand 3 must be i32[]"},
    {HEAD SCALARS
     "%4 = random %2 %3 {site=\"a\", shape=[1024,1024], parts=[2147483647,2147483647]} "
     ": f32[1024,1024]\n",
     "t:6:6: error: random: the whole tensor has more than 2^63 elements"},
    /* found by the verifier */
    {HEAD "%2 = output %0 {name=\"y\"} : f32[2,3]\n%3 = output %0 {name=\"y\"} : f32[2,3]\n",
     "t:5:1: error: the output 'y' is also %2"},
    {HEAD "%2 = input {name=\"\", bound=0} : f32[2,3]\n", "t:4:1: error: the leaf has no name"},
    {HEAD "%2 = input {name=\"x\", bound=0} : f32[2]\n%3 = param {name=\"x\", init=\"zeros\", a=0, "
          "b=0} : f32[2]\n",
     "t:5:1: error: the leaf 'x' is also %2"},
    {HEAD "%2 = gradient %0 {of=\"w\"} : f32[2,3]\n", "t:4:1: error: there is no param 'w'"},
    {HEAD "%2 = assign %0 %0 : f32[2,3]\n", "t:4:1: error: assigns to what is no param or state"},
    {HEAD "%2 = neg %0 : f32[2,3] !group=1\n%3 = neg %2 : f32[2,3]\n"
          "%4 = add %2 %3 : f32[2,3] !group=1\n",
     "t:4:1: error: group 1 needs a value that needs group 1"},
    {HEAD "%2 = neg %0 : f32[2,3] !group=1 !at=0\n%3 = neg %0 : f32[2,3]\n"
          "%4 = neg %2 : f32[2,3] !group=1\n",
     "t:6:1: error: group 1 has other nodes in between"},
};

static void test_mistakes(void) {
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        Session *s = session_new();
        Buf said = {0};
        diag_capture(s, &said);
        Graph *g = graph_parse(s, "t", mistakes[i].text, strlen(mistakes[i].text));
        CHECK(g == NULL);
        if (said.p) said.p[strcspn(said.p, "\n")] = 0;
        CHECK_STR(said.p ? said.p : "(nothing)", mistakes[i].message);
        graph_free(g);
        buf_free(&said);
        session_free(s);
    }
}

/* Every prefix of a good text, and every byte of it replaced, ends in a graph or an error. */
static void test_damage(void) {
    size_t n = strlen(sample);
    char *text = malloc(n + 1);
    for (size_t i = 0; i < 2 * n; i++) {
        Session *s = session_new();
        Buf said = {0};
        diag_capture(s, &said);
        memcpy(text, sample, n + 1);
        text[i % n] = (char)(i * 37 + 1);
        Graph *g = graph_parse(s, "t", i < n ? sample : text, i < n ? i : n);
        CHECK((g == NULL) == (diag_errors(s) > 0));
        graph_free(g);
        buf_free(&said);
        session_free(s);
    }
    free(text);
}

/* ---- graphs ---- */

static Graph *small_graph(Session *s) {
    Graph *g = graph_new(s, "small");
    Value x = b_const(g, 2, type_tensor(s, DT_F32, 2, (int64_t[]){2, 3}));
    Value dead = b_ew1(g, OP_exp, x), sum = b_reduce_last(g, OP_sum, x);
    Value y = b_ew2(g, OP_mul, b_repeat_last(g, sum, 3), x);
    (void)dead;
    b_output(g, y, "y");
    return g;
}

static void test_graph(void) {
    Session *s = session_new();
    Graph *g = small_graph(s), *same = small_graph(s);
    CHECK(graph_hash(g) == graph_hash(same));
    node_of(same, 1)->micro = 3;
    CHECK(graph_hash(g) != graph_hash(same));
    CHECK(b_cast(g, 0, DT_F32) == 0);

    Arena *a = arena_new();
    Uses u = graph_uses(g, a);
    CHECK(u.start[1] - u.start[0] == 3 && u.use[0] == 1 && u.use[1] == 2 && u.use[2] == 4);
    arena_free(a);

    Value map[8];
    graph_compact(g, map);
    CHECK(g->node.n == 5 && map[1] == NO_VALUE && map[5] == 4 && operand(g, 3, 1) == 0);
    Graph *h = graph_like(g);
    Value copy[8];
    for (Value v = 0; v < g->node.n; v++) copy[v] = graph_copy_node(h, g, v, copy);
    CHECK(graph_hash(g) == graph_hash(h));
    node_of(h, 0)->phase = PHASE_BACKWARD;
    CHECK(graph_hash(g) != graph_hash(h));
    graph_free(g);
    graph_free(h);
    graph_free(same);
    session_free(s);
}

static void test_reorder(void) {
    static const char before[] = "graph t\n%0 = constant {value=1} : f32[2]\n%1 = neg %0 : f32[2]\n"
                                 "%2 = exp %0 : f32[2]\n%3 = sub %1 %2 : f32[2]\n";
    static const char after[] = "graph t\n%0 = constant {value=1} : f32[2]\n%1 = exp %0 : f32[2]\n"
                                "%2 = neg %0 : f32[2]\n%3 = sub %2 %1 : f32[2]\n";
    Session *s = session_new();
    Buf out = {0};
    Graph *g = graph_parse(s, "t", before, strlen(before));
    graph_reorder(g, (Value[]){0, 2, 1, 3});
    graph_print(g, &out);
    CHECK_STR(out.p, after);
    buf_free(&out);
    graph_free(g);
    session_free(s);
}

static void test_verifier_marks(void) {
    Session *s = session_new();
    Graph *g = small_graph(s);
    Buf report = {0};
    CHECK(graph_verify(g, &report) == 0 && report.n == 0);
    node_of(g, 2)->type = type_scalar(s, DT_F32);
    CHECK(graph_verify(g, &report) == 2);
    CHECK(strstr(report.p, "%2 = sum %0 {axes=[1]} : f32[]\n"
                           "^^^^ sum gives f32[2], but the node says f32[]\n") != NULL);
    report.n = 0;
    node_of(g, 1)->op = OP_COUNT;
    g->operand.p[node_of(g, 3)->in] = 4;
    CHECK(graph_verify(g, &report) == 2);
    CHECK(strstr(report.p, "%1 = ?\n^^^^ there is no op") != NULL);
    CHECK(strstr(report.p, "^^^^ operand 1 comes after its use") != NULL);
    buf_free(&report);
    graph_free(g);
    session_free(s);
}

static void test_einsum(void) {
    Einsum e;
    Buf err = {0};
    CHECK(einsum_parse("ebk,ekn->ebn", &e, &err));
    CHECK_STR(e.batch, "e");
    CHECK_STR(e.m, "b");
    CHECK_STR(e.n, "n");
    CHECK_STR(e.k, "k");
    CHECK(einsum_parse(",->", &e, &err) && !e.c[0]);
    CHECK(!einsum_parse("abcdefghi,a->a", &e, &err));
    buf_free(&err);
}

static void test_ops(void) {
    Op op;
    CHECK(op_find("einsum", &op) && op == OP_einsum && !op_find("", &op));
    CHECK(op_info(OP_add)->flags & OPF_EW && op_info(OP_add)->fn(2, 3, 0) == 5);
    CHECK_STR(op_info(OP_sigmoid)->expr, "K(1) / (K(1) + exp(-a))");
    for (unsigned i = 0; i < OP_COUNT; i++) {
        CHECK(op_info((Op)i)->doc && op_info((Op)i)->name);
        CHECK(!(op_info((Op)i)->flags & OPF_EW) == !op_info((Op)i)->fn);
    }
}

int main(void) {
    test_ops();
    test_einsum();
    test_sample();
    test_loose_layout();
    test_random_graphs();
    test_mistakes();
    test_damage();
    test_graph();
    test_reorder();
    test_verifier_marks();
    return check_done("text");
}
