/* Checks runtime/plan: text that parses and prints the same, complaints with their place, and that
 * no bytes whatever break the reader. argv[1]: the folder with plan.txt and plan_ranks.txt. */
#include "runtime/slice.h"
#include "tests/check.h"

#include <stdlib.h>

static char *golden, *ranks; /* one rank; several */
static size_t golden_size, ranks_size;

static void test_round_trip(void) {
    Session *s = session_new();
    Plan *p = plan_parse(s, "plan.txt", golden, golden_size);
    if (!CHECK(p != NULL)) exit(1);
    Buf b = {0};
    plan_print(p, &b);
    CHECK_STR(b.p, golden);
    CHECK(p->train && p->tokens == 576 && p->flops == 1.5e9 && p->model_hash == 0x123456789abcdef);
    CHECK_STR(p->source.p[1].path, "my models/\"a\".m6");
    CHECK(p->source.p[1].hash == 0xbb && p->input.p[1].bound == 2048);
    CHECK_STR(p->command, "m6c compile m6-tiny.m6 --set hidden=64");
    CHECK(p->buffer.p[1].bytes == 1024 && p->buffer.p[1].dtype == DT_BF16);
    CHECK(p->buffer.p[8].mem == MEM_HOST && p->buffer.p[2].rank == 0 && p->buffer.p[2].bytes == 4);
    CHECK(plan_find(p, "loss") == 4 && plan_find(p, "los") == UINT32_MAX);
    CHECK(plan_elements(&p->buffer.p[9]) == 192);
    CHECK(p->tensor.p[0].init.kind == INIT_NORMAL && p->tensor.p[0].init.b == 0.02);
    CHECK_STR(p->machine, "two cores");
    CHECK(p->budget[MEM_HOST] == 8192 && p->predicted_us == 12.5 && p->bound_us == 12.25);
    CHECK(p->unconstrained_us == 10 && p->unconstrained == 20000 && p->decision.n == 2);
    CHECK_STR(p->decision.p[0].tensor, "block[0].ffn gelu");
    CHECK_STR(p->decision.p[1].how, "host");
    CHECK(p->decision.p[1].bytes == 2048 && p->decision.p[1].us == 0.5);
    CHECK(p->decision.p[1].hinted && !p->decision.p[0].hinted && p->decision.p[0].loc.line == 15);
    const PlanStep *g = &p->step.p[4];
    CHECK(g->kind == STEP_GEMM && g->gemm.ta && g->gemm.tb && g->gemm.da == DT_BF16);
    CHECK(g->gemm.nbatch == 2 && g->gemm.count[0] == 3 && g->gemm.sc[1] == 96);
    CHECK(g->gemm.alpha == 0.5f && g->gemm.beta == 1 && g->nwait == 2 && g->wait[1] == 3);
    CHECK(g->phase == PLAN_APPLY && p->step.p[3].phase == PLAN_BACKWARD && !p->step.p[0].phase);
    CHECK_STR(g->gemm.algo, "blas/m split");
    CHECK_STR(g->scope, "odd \t scope\\");
    CHECK(p->step.p[1].arg[1].offset == 64 && p->step.p[1].writes == 2 && p->step.p[2].stream == 2);
    CHECK(p->step.p[2].what == NULL && p->step.p[6].what[0] == 0 && p->step.p[5].loc.line == 7);
    buf_free(&b);
    plan_free(p);
    session_free(s);
}

static void test_ranks(void) {
    Session *s = session_new();
    Plan *p = plan_parse(s, "plan_ranks.txt", ranks, ranks_size);
    if (!CHECK(p != NULL)) exit(1);
    Buf b = {0};
    plan_print(p, &b);
    CHECK_STR(b.p, ranks);
    CHECK(p->ranks == 8 && p->group.n == 5);
    CHECK_STR(p->mesh, "data=4,tensor=2,expert=data");
    const PlanGroup *data = &p->group.p[0], *both = &p->group.p[2], *near = &p->group.p[3];
    CHECK(plan_group_size(both) == 8 && plan_group_index(both, 5) == 5);
    CHECK(plan_group_index(data, 5) == 2 && plan_group_member(data, 5, 3) == 7);
    CHECK(plan_group_index(near, 6) == 1 && plan_group_member(near, 6, 0) == 4);
    CHECK(plan_whole_dim(p, &p->buffer.p[0], 0) == 256 &&
          plan_whole_dim(p, &p->buffer.p[0], 1) == 4);
    CHECK(p->buffer.p[2].ranges == 2 && p->buffer.p[2].split[1] == 0 && p->buffer.p[3].ranges == 0);
    const PlanStep *all = &p->step.p[1];
    CHECK(all->collective.kind == COLLECTIVE_ALL_REDUCE && all->collective.n == 2);
    CHECK(all->collective.count[1] == 16 && all->collective.wire == DT_F16 && all->collective.room);
    CHECK(all->collective.scale == 128 && all->stream == STREAM_COMM);
    CHECK(!plan_writes(all, 1) && plan_writes(all, 2) && plan_writes(all, 4));
    CHECK(p->step.p[4].collective.reduce == REDUCE_MAX && p->step.p[4].collective.scale == 1);
    CHECK(p->step.p[5].collective.peer == 1 && !plan_writes(&p->step.p[5], 0));
    CHECK(plan_writes(&p->step.p[6], 0) && p->step.p[3].collective.wire == DT_BF16);
    buf_free(&b);
    plan_free(p);
    session_free(s);
}

/* All of `old` replaced. */
static void replace(Buf *b, const char *old, const char *new) {
    Buf out = {0};
    const char *from = b->p;
    for (const char *at; (at = strstr(from, old)); from = at + strlen(old))
        buf_printf(&out, "%.*s%s", (int)(at - from), from, new);
    buf_puts(&out, from);
    buf_free(b);
    *b = out;
}

/* The plan of a stage of two, the tensor axis' ranks; a word of its text is replaced. */
static Plan *stage_plan(Session *s, int stage, const char *old, const char *new) {
    Buf b = {0};
    char header[64];
    snprintf(header, sizeof header, "expert=data\nstages 2\nstage %d\n", stage);
    buf_puts(&b, ranks);
    replace(&b, "tensor", "pipeline");
    replace(&b, "pipeline b0", "tensor b0");
    replace(&b, "expert=data\n", header);
    replace(&b, old, new);
    const char *text = arena_strdup(session_arena(s), b.p, b.n);
    Plan *p = plan_parse(s, "stage.txt", text, b.n);
    buf_free(&b);
    return p;
}

/* What is wrong with two plans that shall run together. */
static void check_stages(int second, const char *old, const char *new, const char *want) {
    Session *s = session_new();
    Plan *of[] = {stage_plan(s, 0, "model m6", "model m6"), stage_plan(s, second, old, new)};
    Buf why = {0};
    if (!CHECK(of[0] && of[1])) exit(1);
    of[0]->of_stage = of[1]->of_stage = of;
    plan_check_stages(of[0], &why);
    CHECK_STR(why.p ? why.p : "", want);
    buf_free(&why);
    plan_free(of[0]);
    plan_free(of[1]);
    session_free(s);
}

static void test_stages(void) {
    Session *s = session_new();
    Plan *of[] = {stage_plan(s, 0, "model m6", "model m6"), stage_plan(s, 1, "\"w\"", "\"v\"")};
    if (!CHECK(of[0] && of[1])) exit(1);
    CHECK(of[1]->stages == 2 && of[1]->stage == 1 && plan_count(of[1]) == 1);
    CHECK(plan_stage_of(of[0], 6) == 0 && plan_stage_of(of[0], 5) == 1);
    of[0]->of_stage = of[1]->of_stage = of;
    CHECK(plan_count(of[1]) == 2 && plan_at(of[1], 0) == of[0]);
    CHECK(plan_has_tensor(of[0], "w") && !plan_has_tensor(of[1], "w"));
    CHECK(plan_tensor_before(of[1], "w") && !plan_tensor_before(of[1], "v"));
    CHECK(!plan_tensor_before(of[0], "v"));
    CHECK(slice_owner(of[1], &of[1]->buffer.p[3], 5) == 1); /* rank 0 is of the other stage */
    plan_free(of[0]);
    plan_free(of[1]);
    session_free(s);
    check_stages(1, "model m6", "model m6", "");
    check_stages(0, "model m6", "model m6", "the plan of stage 1 says that it is of stage 0");
    check_stages(1, "model m6", "model m7", "the plans of stages 0 and 1 are of different models");
    check_stages(1, "compiler=0000000000000002", "compiler=0000000000000003",
                 "the plans of stages 0 and 1 are of different versions of m6c");
    check_stages(1, "target cpu", "target null",
                 "the plans of stages 0 and 1 are of different targets");
}

static void test_span(void) {
    PlanGemm g = {.m = 3,
                  .n = 5,
                  .k = 7,
                  .lda = 7,
                  .ldb = 5,
                  .ldc = 5,
                  .nbatch = 1,
                  .count = {4},
                  .sa = {21},
                  .sb = {0},
                  .sc = {15}};
    CHECK(plan_gemm_span(&g, 0) == 84 && plan_gemm_span(&g, 1) == 35);
    CHECK(plan_gemm_span(&g, 2) == 60 && plan_gemm_disjoint(&g));
    g.sc[0] = 14;
    CHECK(!plan_gemm_disjoint(&g));
    g.ldc = 20, g.sc[0] = 5; /* heads side by side in a row */
    CHECK(plan_gemm_disjoint(&g));
    g.ta = true, g.lda = 3;
    CHECK(plan_gemm_span(&g, 0) == 3 * 21 + 21);
    g.sa[0] = INT64_MAX / 2;
    CHECK(plan_gemm_span(&g, 0) == -1);
}

/* Each line of a golden plan that is replaced, and what is said about it. */
typedef struct {
    const char *from, *to, *says;
} Broken;

static const Broken broken[] = {
    {"m6c-plan 1", "hello", "plan.txt:1:1: error: not a plan: the first line must be"},
    {"m6c-plan 1", "m6c-plan 2", "plan.txt:1:1: error: a plan of another version"},
    {"target cpu", "target ", "3:8: error: expected a target"},
    {"target cpu", "", "error: the line 'target' is missing"},
    {"\nend\n", "\n", "error: the line 'end' is missing"},
    {"\nend\n", "\nend\nend\n", "error: text after the plan's end"},
    {"train yes", "train maybe", "5:7: error: expected yes or no, not 'maybe'"},
    {"train yes", "model m6", "5:1: error: a second 'model'"},
    {"model=0123456789abcdef", "model=xyz", "6:14: error: expected a hash"},
    {"model=0123456789abcdef", "model=00123456789abcdef", "6:14: error: expected a hash"},
    {"device=16384", "device=-1", "7:14: error: a number of bytes must be from 0 to"},
    {"device=16384", "device=99999999999999999999", "7:14: error: expected a number of bytes, an"},
    {"flops=1.5e9", "flops=1.5e", "9:23: error: expected flops, a number"},
    {"input b3 bound=2048", "input b3 bound=0", "30:16: error: a bound must be from 1"},
    {"source m6-tiny.m6", "sauce m6", "15:1: error: unknown item 'sauce'"},
    {"source m6-tiny.m6", "source \"m6", "15:8: error: string without an end"},
    {"source m6-tiny.m6", "source \"\\q\"", "15:9: error: unknown escape"},
    {"source m6-tiny.m6", "source m6 aa more", "15:14: error: unexpected text"},
    {"buffer 0 param", "buffer 1 param", "17:8: error: expected the index 0"},
    {"buffer 0 param", "buffer 0 thing", "17:10: error: expected a kind of buffer, not 'thing'"},
    {"f32[4,128] device+0", "f8[4,128] device+0", "17:30: error: expected a data type, not 'f8'"},
    {"f32[4,128] device+0", "f32[4,0] device+0", "17:36: error: a size must be from 1"},
    {"f32[4,128] device+0", "f32[4,128 device+0", "error: expected ','"},
    {"f32[4,128] device+0", "f32[1,1,1,1,1,1,1,1,1] device+0", "more than 8 dimensions"},
    {"f32[4,128] device+0", "f32[4000000000,4000000000] device+0", "30: error: more than 2^63"},
    {"f32[4,128] device+0", "f32[4,128] device+8", "41: error: the offset is not a multiple of 64"},
    {"f32[4,128] device+0", "f32[4,128] device+16384", "41: error: does not lie inside the arena"},
    {"f32[4,128] device+0", "f32[4,128] disk+0", "error: does not lie inside the arena of 0"},
    {"f32[4,128] device+0", "f32[4,128] tape+0", "error: expected a memory, not 'tape'"},
    {"m6.m6:14:9\nbuffer 1", "m6.m6:14:70000\nbuffer 1", "error: a column must be from 0"},
    {"\"%13\"", "\"%12\"", "24:1: error: a second buffer named \"%12\""},
    {"bf16[4,128] device+2048", "bf16[4,128] device+1024", "shares bytes with tensor \"block[0]"},
    {"tensor b0 normal", "tensor b6 normal", "27:8: error: a tensor must be a parameter"},
    {"tensor b0 normal", "tensor b77 normal", "27:8: error: b77 is not a buffer: there are 10"},
    {"tensor b0 normal", "tensor b0 magic", "error: expected an init, not 'magic'"},
    {"input b3", "input b4", "30:7: error: must be an input"},
    {"output b4", "output b6", "31:8: error: must be kept until the step's end"},
    {"grad b5", "grad b4", "32:6: error: must be a gradient"},
    {"k_add k0.c", "0k k0.c", "33:10: error: not the name of a C function"},
    {"k_add k0.c", "k_add /k0.c", "33:16: error: the source must lie in the plan's folder"},
    {"k_add k0.c", "k_add ../k0.c", "33:16: error: the source must lie in the plan's folder"},
    {"kernel k0 items=128", "kernel k7 items=128", "36:15: error: k7 is not a kernel"},
    {"kernel k0 items=128", "kernel k0 items=-128", "error: items must be from 0"},
    {"kernel k0 items=128", "kernel k0", "36:1: error: the field 'items' is missing"},
    {"grain=4", "grain=0", "error: grain must be from 1"},
    {"grain=4", "grain=4 grain=4", "error: 'grain' stands here twice"},
    {"grain=4", "grain=4 m=3", "error: a kernel step has no field 'm'"},
    {"args=b6,b7+64", "args=b6", "error: kernel k0 has 2 arguments, here are 1"},
    {"args=b6,b7+64", "args=b6,b7+4097", "error: the buffer has only 4096 bytes"},
    {"writes=2", "writes=4", "error: writes more arguments than there are"},
    {"m=8 n=128", "m=9 n=128", "35:1: error: A takes 144 bytes, its buffer has 128"},
    {"m=8 n=128", "m=8 n=129", "error: a row stride is shorter than its row"},
    {"lda=4 ldb=128", "lda=3 ldb=128", "error: a row stride is shorter than its row"},
    {"lda=4 ldb=128", "lda=9000000000000000000 ldb=128", "error: the extent of A overflows"},
    {"gemm f32 f32 f32", "gemm i32 f32 f32", "error: products are of floats"},
    {"gemm f32 f32 f32", "gemm f64 f32 f32", "error: "},
    {"args=b3,b0,b6", "args=b3,b0", "error: a product has three arguments"},
    {"args=b3,b0,b6,b7", "args=b3,b0,b6", "error: a product with epilogue gelu has 4 arguments"},
    {"args=b3,b0,b6,b7", "args=b3,b0,b6,b4", "error: X takes 4096 bytes, its buffer has 4"},
    {"gelu:k0:4", "relu:k0:4", "error: not an epilogue: gelu, bias-gelu, gelu-grad or"},
    {"gelu:k0:4", "gelu:k1:4", "error: kernel k1 does not take C and what follows"},
    {"gelu:k0:4", "gelu:k0:0", "error: a number of blocks must be from 1"},
    {"gelu:k0:4 args=b3,b0,b6,b7", "bias-gelu:k1:4 args=b3,b0,b6,b7,b4", "the vector is shorter"},
    {"batch=3:2:0:32", "batch=3:2:0:1", "error: C overlaps itself"},
    {"batch=3:2:0:32,", "batch=1:0:0:0,1:0:0:0,1:0:0:0,", "error: more than 3 batch sizes"},
    {"copy bytes=4096", "copy bytes=4097", "error: 4097 bytes do not lie inside b8"},
    {"args=b4 ;", "args=b4,b4 ;", "error: a fill has 1 argument"},
    {"wait=1", "wait=2", "error: an earlier step must be from 0 to 1"},
    {"stream=1", "stream=8", "error: stream must be from 0 to 7"},
    {"stream=1", "stream=2", "error: a copy from host to device is on stream 1"},
    {"stream=1 phase=backward", "phase=apply", "error: a copy from host to device is on stream 1"},
    {"grain=4", "grain=4 stream=1", "error: stream 1 is for copies"},
    {"grain=4", "grain=4 stream=3", "error: a kernel on stream 3 cannot touch b6 in device"},
    {"args=b6,b7+64", "args=b6,b8", "error: a kernel on stream 0 cannot touch b8 in host memory"},
    {"wait=2,3", "wait=0,2", "error: step 0 is on the same stream"},
    {"phase=backward", "phase=night", "error: expected a phase, not 'night'"},
    {"machine \"two cores\"", "machine", "10:8: error: expected a machine"},
    {"machine \"two cores\"", "work tokens=1 flops=1", "10:1: error: a second 'work'"},
    {"budget device=16384", "machine x", "11:1: error: a second 'machine'"},
    {"budget device=16384", "budget device=-1", "11:15: error: a number of bytes must be from 0"},
    {"predicted us=12.5", "predicted us=-1", "12:14: error: a time cannot be -1"},
    {"bound=12.25", "bound=inf", "12:25: error: a time cannot be inf"},
    {"bytes=20000", "bytes=2e4", "error: expected a number of bytes"},
    {"recompute bytes=4096", "recompute us=2", "error: expected bytes"},
    {" hinted -", " hint -", "error: expected"},
    {" hinted -", " hinted", "14:53: error: expected ':'"},
    {"alpha=0.5", "alpha=1e39", "error: too large for f32"},
};

static const Broken broken_ranks[] = {
    {"ranks 8", "ranks 1", "9:7: error: a number of ranks must be from 2"},
    {"ranks 8", "ranks 9", "10:6: error: the mesh has 8 ranks, the plan 9"},
    {"mesh data=4,", "mesh 4data=4,", "10:6: error: expected an axis of the mesh"},
    {"mesh data=4,", "mesh data=0,", "10:6: error: an axis has a size"},
    {"mesh data=4,", "mesh data=4,,", "10:6: error: expected an axis of the mesh"},
    {"mesh data=4,", "mesh data=9000000000000000000,data=9,", "error: too many ranks"},
    {"expert=data\n", "expert=data\nstages 9\n",
     "11:8: error: a number of stages must be from 2 to 8"},
    {"expert=data\n", "expert=data\nstages 2\nstage 2\n",
     "error: a stage, from 0 must be from 0 to 1"},
    {"expert=data\n", "expert=data\nstages 2\n",
     "error: a plan of 2 stages has a group pipeline of so many ranks"},
    {"expert=data\n", "expert=data\nshares 1,2\n",
     "error: a plan of 2 shares has a group data of so many ranks"},
    {"expert=data\n", "expert=data\nshares 1,2,1,0\n", "11:14: error: a share must be from 1"},
    {"expert=data\n", "expert=data\nshares 1,2,1\n", "12:7: error: 4 ranks do not have 3 shares"},
    {"expert=data\n", "expert=data\nshares 1,2,2,1\nshare 3\n",
     "12:7: error: a class of shares, from 0 must be from 0 to 2"},
    {"expert=data\n", "expert=data\nshares 7,1,1,1\n",
     "error: dimension 0 of 64 elements is no part of a whole one"},
    {"group data 4/2", "group data 3/2", "error: these groups do not part the 8 ranks"},
    {"group data 4/2", "group data 8/2", "error: these groups do not part the 8 ranks"},
    {"group data 4/2", "group data 0/2", "error: a number of ranks must be from 1 to 8"},
    {"group data 4/2", "group data 4", "error: expected '/'"},
    {"4/2,2/1", "4/2,2/2", "error: these groups do not part the 8 ranks"},
    {"4/2,2/1", "4/2,4/1", "error: these groups do not part the 8 ranks"},
    {"group data%2", "group data", "14:7: error: a second group \"data\""},
    {"split=g0,g1", "split=g0,g2", "error: two dimensions are split over the same ranks"},
    {"split=g0,g1", "split=g0,g7", "error: g7 is not a group: there are 5 so far"},
    {"split=g0,g1", "split=g0", "error: expected ','"},
    {"f32[64] device+704 -\nbuffer 4", "f32[64] device+704 - split=g0\nbuffer 4",
     "a temporary is no"},
    {"split=g0,- ranges=2", "split=-,g0 ranges=2", "error: dimension 0 is not in 2 ranges"},
    {"split=g0,- ranges=2", "split=g0,- ranges=3", "error: dimension 0 is not in 3 ranges"},
    {"@index/data", "@index/tent", "error: input @index/tent is of a group that is not there"},
    {"all_reduce group=g0", "all_reduce group=g9", "error: g9 is not a group"},
    {"all_reduce group=g0", "all_reduce", "error: the field 'group' is missing"},
    {"all_reduce group=g0", "all_in group=g0", "error: expected a collective, not 'all_in'"},
    {"reduce=sum", "reduce=mean", "error: expected a reduction, not 'mean'"},
    {" count=64,16", "", "error: the field 'count' is missing"},
    {"count=64,16", "count=0,16", "error: a number of elements must be from 1"},
    {"count=64,16", "count=65,16", "error: 65 elements of f32 do not lie inside b3"},
    {"count=64,16", "count=64,16,1", "error: this all_reduce has 7 arguments"},
    {"count=64 dtype", "count=65 dtype", "error: 65 elements of f32 do not lie inside b5"},
    {"count=256 dtype=f32 wire", "count=255 dtype=f32 wire", "error: 255 elements are not as many"},
    {"wire=f16", "wire=i32", "error: all_reduce of f32 cannot be sent as i32"},
    {"scale=128", "scale=0", "error: the scale cannot be 0"},
    {"count=64 dtype=f32", "count=64 dtype=f32 scale=2", "error: the scale cannot be 2"},
    {"count=64 dtype=f32", "count=64 dtype=f32 wire=f16",
     "all_gather of f32 cannot be sent as f16"},
    {" room stream=6", " stream=6", "error: this all_reduce has 4 arguments"},
    {"f16[80]", "f16[79]", "error: 80 elements of f16 do not lie inside b7"},
    {"dtype=f32 stream=7 args=b5,b8", "dtype=f32 room stream=7 args=b5,b8,b7",
     "room where it is put"},
    {"f16[80] device+4416", "f16[79] device+4416",
     "error: 80 elements of f16 do not lie inside b15"},
    {"f32[80] device+5056", "f32[79] device+5056",
     "error: 80 elements of f32 do not lie inside b20"},
    {"count=64,16 dtype=f32 wire=f16 scale=64", "count=64,14 dtype=f32 wire=f16 scale=64",
     "error: 14 elements are not as many for each of 4 ranks"},
    {"f32[4] device+4672", "f32[3] device+4672", "error: 4 elements of f32 do not lie inside b17"},
    {"f32[4,4] device+4992", "f32[4,3] device+4992", "error: 16 elements of f32 do not lie inside"},
    {"count=256 dtype=f32 wire=bf16 room", "count=128,128 dtype=f32 wire=bf16 room",
     "error: this all_to_all has 5 arguments"},
    {"peer=1", "peer=2", "error: the other rank must be one of the group's 2"},
    {"peer=1 ", "", "error: the other rank must be one of the group's 2"},
    {"count=256 dtype=f32 stream=7", "count=256 peer=1 dtype=f32 stream=7", "for send and recv"},
    {"b3,b4,b5,b6,b7", "b3,b4,b6,b5,b7", "error: 64 elements of f32 do not lie inside b6"},
    {"\"b reduced\" f32[16] device+1024", "\"b reduced\" f32[16] device+704",
     "error: writes b5 over b6"},
    {"args=b5,b8 wait", "args=b8,b8 wait", "error: writes b8 over b8"},
    {"args=b11+64,b11+64", "args=b11+64,b11+32", "error: writes b11 over b11"},
    {"args=b11+64,b11+64", "args=b11+66,b11+64", "error: b11+66 is not aligned to f32"},
    {"args=b11+64,b11+64", "args=b12,b12",
     "error: a collective on stream 6 cannot touch b12 in host"},
    {"us=3.5 phase", "us=3.5 bytes=3 phase", "error: a collective step has no field 'bytes'"},
    {"room stream=6", "room", "error: stream 0 is not for collectives"},
    {"fill bytes=256", "fill bytes=256 stream=6", "error: stream 6 is for collectives"},
};

static void test_broken(const char *from, const Broken *broken, size_t n) {
    for (size_t i = 0; i < n; i++) {
        Buf text = {0}, said = {0};
        const char *at = strstr(from, broken[i].from);
        if (!CHECK(at != NULL)) continue;
        buf_put(&text, from, (size_t)(at - from));
        buf_puts(&text, broken[i].to);
        buf_puts(&text, at + strlen(broken[i].from));
        Session *s = session_new();
        diag_capture(s, &said);
        CHECK(plan_parse(s, "plan.txt", text.p, text.n) == NULL);
        if (!CHECK(said.p && strstr(said.p, broken[i].says)))
            fprintf(stderr, "%s -> %s gave:\n%s\n", broken[i].from, broken[i].to,
                    said.p ? said.p : "nothing");
        session_free(s);
        buf_free(&text);
        buf_free(&said);
    }
}

/* What parses prints text that parses to the same. */
static void check_any(const char *text, size_t n) {
    Session *s = session_new();
    Buf said = {0}, once = {0}, twice = {0};
    diag_capture(s, &said);
    Plan *p = plan_parse(s, "fuzz", text, n);
    if (p) {
        plan_print(p, &once);
        Plan *q = plan_parse(s, "again", once.p, once.n);
        if (CHECK(q != NULL)) {
            plan_print(q, &twice);
            CHECK_STR(twice.p, once.p);
        }
        plan_free(q);
    } else {
        CHECK(said.n > 0);
    }
    plan_free(p);
    buf_free(&said);
    buf_free(&once);
    buf_free(&twice);
    session_free(s);
}

static void test_mutations(const char *from, size_t size) {
    char *text = xmalloc(size * 2);
    for (uint64_t i = 0; i < 4000; i++) {
        size_t n = size;
        memcpy(text, from, n);
        for (uint64_t j = 0; j <= i % 4; j++) {
            uint32_t where, what = philox(7, i * 8 + j, &where);
            size_t at = where % n;
            static const char likely[] = "0123456789-+=,:;[]\"\\ \nb";
            if (what % 3 == 0) text[at] = likely[what / 4 % (sizeof likely - 1)];
            if (what % 3 == 1) text[at] = (char)(what >> 8);
            if (what % 3 == 2) memmove(text + at, text + at + 1, --n - at);
        }
        check_any(text, n);
    }
    free(text);
    check_any("", 0);
    check_any("\0\0", 2);
}

static void load(const char *folder, const char *name, char **text, size_t *n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    Status st = file_read(path, text, n);
    if (!st) return;
    fprintf(stderr, "%s\n", st->text);
    exit(1);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "tests/runtime";
    load(folder, "plan.txt", &golden, &golden_size);
    load(folder, "plan_ranks.txt", &ranks, &ranks_size);
    test_round_trip();
    test_ranks();
    test_stages();
    test_span();
    test_broken(golden, broken, COUNT(broken));
    test_broken(ranks, broken_ranks, COUNT(broken_ranks));
    test_mutations(golden, golden_size);
    test_mutations(ranks, ranks_size);
    free(golden);
    free(ranks);
    return check_done("plan");
}
