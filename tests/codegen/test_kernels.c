/* Every op as a compiled kernel against the interpreter, on odd sizes, size 1 and large ones; the
 * functions of the prelude over their whole range; and the text of a few kernels.
 * argv[1]: the folder of the expected texts, which M6C_BLESS=1 rewrites; or where the kernels run
 * as CUDA C: "cuda", "gpu" (harness.h). */
#include "codegen/target.h"
#include "tests/check.h"
#include "tests/codegen/harness.h"

#include <stdlib.h>
#include <string.h>

/* clang-format off */
#define IN(n, name, type)  "%" #n " = input {name=\"" name "\", bound=0} : " type "\n"
#define IDS(n, name, bound, type) "%" #n " = input {name=\"" name "\", bound=" #bound "} : " type "\n"
#define OUT(n, of, name, type) "%" #n " = output %" #of " {name=\"" name "\"} : " type "\n"

/* clang-format on */

/* ---- elementwise ---- */

static Value input(Graph *g, const char *name, Dtype d, int rank, const int64_t *dim) {
    AttrValue a[] = {{.s = intern(g->session, name)}, {.i = 0}};
    return graph_leaf(g, OP_input, attr_intern(g->session, OP_input, a),
                      type_tensor(g->session, d, rank, dim));
}

static bool needs_positive(unsigned op) {
    return op == OP_log || op == OP_sqrt || op == OP_rsqrt || op == OP_pow;
}

/* One graph with every elementwise op that is legal on d; d's inputs are scaled by `scale`. */
static Graph *all_elementwise(Session *s, Dtype d, int rank, const int64_t *dim, double scale) {
    Graph *g = graph_new(s, "elementwise");
    Value x[3];
    const char *const names[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) x[i] = input(g, names[i], d, rank, dim);
    if (dtype_is_float(d))
        for (int i = 0; i < 3; i++) x[i] = b_ew2(g, OP_mul, x[i], b_like(g, scale, x[i]));
    Value which = b_ew2(g, OP_lt, x[0], x[1]);
    Value above =
        b_ew2(g, OP_add, b_ew1(g, OP_abs, x[0]), b_like(g, dtype_is_float(d) ? 0.01 : 1, x[0]));
    for (unsigned op = 0; op < OP_COUNT; op++) {
        const OpInfo *o = op_info((Op)op);
        if (!(o->flags & OPF_EW) || op == OP_cast) continue;
        if (!dtype_is_float(d) && !(o->flags & OPF_INT)) continue;
        Value in[3] = {needs_positive(op) ? above : x[0], x[1], x[2]};
        if (op == OP_select) in[0] = which;
        b_output(g, graph_add(g, (Op)op, NULL, (uint32_t)o->arity, in), o->name);
    }
    return g;
}

static void test_elementwise(void) {
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {7, 1, 1}, {3, 5, 1}, {37, 11, 3}, {70001, 1, 1}};
    static const Dtype types[] = {DT_F32, DT_I32, DT_BF16};
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (size_t t = 0; t < COUNT(types); t++) {
            char label[64];
            Session *s = session_new();
            Compare c = {.passes = "lower,fuse"};
            snprintf(label, sizeof label, "elementwise %s %lld", dtype_name(types[t]),
                     (long long)shapes[i][0]);
            CHECK(compare_graph(all_elementwise(s, types[t], 3, shapes[i], 1), &c, label) == 0);
            session_free(s);
        }
}

/* exp, log, tanh, .. far from 0, and on infinities and NaN. */
static void test_range(void) {
    static const Op ops[] = {OP_exp,  OP_log,     OP_tanh, OP_erf,  OP_sin,      OP_cos,
                             OP_gelu, OP_sigmoid, OP_silu, OP_sqrt, OP_isfinite, OP_floor};
    static const double scales[] = {1e-30, 1e-3, 1, 5, 25, 60, 1000};
    int64_t dim = 4099;
    for (size_t k = 0; k <= COUNT(scales); k++) {
        Session *s = session_new();
        Graph *g = graph_new(s, "range");
        Value x = input(g, "x", DT_F32, 1, &dim), zero = b_like(g, 0, x);
        bool special = k == COUNT(scales);
        Value small = b_ew2(g, OP_lt, b_ew1(g, OP_abs, x), b_like(g, 0.5, x));
        Value y = special ? b_ew2(g, OP_div, b_ew3(g, OP_select, small, zero, x), zero)
                          : b_ew2(g, OP_mul, x, b_like(g, scales[k], x));
        for (size_t i = 0; i < COUNT(ops); i++) {
            bool positive = ops[i] == OP_log || ops[i] == OP_sqrt;
            Value in = positive && !special ? b_ew1(g, OP_abs, y) : y;
            b_output(g, b_ew1(g, ops[i], in), op_info(ops[i])->name);
        }
        /* where the argument itself is rounded, sin and cos of large ones feel it */
        Compare c = {.passes = "lower,fuse", .bound = k == 6 ? 2e-4 : 1e-5};
        char label[64];
        snprintf(label, sizeof label, "range %g", special ? 0 : scales[k]);
        CHECK(compare_graph(g, &c, label) == 0);
        session_free(s);
    }
}

/* ---- other ops: graphs as text ---- */

/* clang-format off */
static const struct {
    const char *name, *text;
} graphs[] = {
    {"casts", "graph g\n" IN(0, "x", "f32[5,9]") "%1 = cast %0 {to=bf16} : bf16[5,9]\n"
              "%2 = cast %0 {to=f16} : f16[5,9]\n%3 = cast %0 {to=i32} : i32[5,9]\n"
              "%4 = cast %0 {to=bool} : bool[5,9]\n%5 = cast %3 {to=f32} : f32[5,9]\n"
              OUT(6, 1, "bf16", "bf16[5,9]") OUT(7, 2, "f16", "f16[5,9]")
              OUT(8, 3, "i32", "i32[5,9]") OUT(9, 4, "bool", "bool[5,9]")
              OUT(10, 5, "f32", "f32[5,9]")},
    {"gather", "graph g\n" IN(0, "table", "f32[11,6]") IDS(1, "ids", 13, "i32[5,3]")
               "%2 = gather %0 %1 : f32[5,3,6]\n" OUT(3, 2, "y", "f32[5,3,6]")},
    {"scatter_add", "graph g\n" IDS(0, "ids", 300, "i32[500]") IN(1, "rows", "f32[500,7]")
                    "%2 = scatter_add %0 %1 {size=290} : f32[290,7]\n"
                    OUT(3, 2, "y", "f32[290,7]")},
    {"pick", "graph g\n" IN(0, "x", "f32[6,9]") IDS(1, "i", 11, "i32[6,1]")
             IDS(2, "j", 11, "i32[6,3]") "%3 = exp %0 : f32[6,9]\n%4 = pick %3 %1 : f32[6,1]\n"
             "%5 = pick %0 %2 : f32[6,3]\n" OUT(6, 4, "y", "f32[6,1]") OUT(7, 5, "z", "f32[6,3]")},
    {"unpick", "graph g\n" IDS(0, "i", 11, "i32[6,1]") IN(1, "g", "f32[6,1]")
               IDS(2, "j", 11, "i32[6,3]") IN(3, "h", "f32[6,3]") IDS(4, "k", 11, "i32[6,7]")
               IN(5, "l", "f32[6,7]") "%6 = unpick %0 %1 {size=10} : f32[6,10]\n"
               "%7 = unpick %2 %3 {size=10} : f32[6,10]\n"
               "%8 = unpick %4 %5 {size=10} : f32[6,10]\n" OUT(9, 6, "a", "f32[6,10]")
               OUT(10, 7, "b", "f32[6,10]") OUT(11, 8, "c", "f32[6,10]")},
    {"concat and pad", "graph g\n" IN(0, "x", "f32[3,4,2]") IN(1, "y", "f32[3,1,2]")
                       "%2 = concat %0 %1 %0 {axis=1} : f32[3,9,2]\n"
                       "%3 = pad %0 {lo=[1,0,2], hi=[0,3,1]} : f32[4,7,5]\n"
                       "%4 = concat %0 %0 {axis=0} : f32[6,4,2]\n"
                       OUT(5, 2, "a", "f32[3,9,2]") OUT(6, 3, "b", "f32[4,7,5]")
                       OUT(7, 4, "c", "f32[6,4,2]")},
    {"views", "graph g\n" IN(0, "x", "f32[4,6,5]")
              "%1 = transpose %0 {perm=[2,0,1]} : f32[5,4,6]\n"
              "%2 = reshape %1 {shape=[5,24]} : f32[5,24]\n"
              "%3 = transpose %0 {perm=[0,2,1]} : f32[4,5,6]\n"
              "%4 = reshape %3 {shape=[20,6]} : f32[20,6]\n"
              "%5 = slice %0 {start=[1,2,0], limit=[3,6,5]} : f32[2,4,5]\n"
              "%6 = neg %2 : f32[5,24]\n%7 = neg %4 : f32[20,6]\n%8 = neg %5 : f32[2,4,5]\n"
              OUT(9, 6, "a", "f32[5,24]") OUT(10, 7, "b", "f32[20,6]")
              OUT(11, 8, "c", "f32[2,4,5]") OUT(12, 0, "d", "f32[4,6,5]")},
    {"reductions", "graph g\n" IN(0, "x", "f32[6,7,5,3]")
                   "%1 = sum %0 {axes=[3]} : f32[6,7,5]\n%2 = sum %0 {axes=[0,1]} : f32[5,3]\n"
                   "%3 = max %0 {axes=[1]} : f32[6,5,3]\n%4 = min %0 {axes=[0,2]} : f32[7,3]\n"
                   "%5 = sum %0 {axes=[0,1,2,3]} : f32[]\n%6 = max %0 {axes=[2,3]} : f32[6,7]\n"
                   OUT(7, 1, "a", "f32[6,7,5]") OUT(8, 2, "b", "f32[5,3]")
                   OUT(9, 3, "c", "f32[6,5,3]") OUT(10, 4, "d", "f32[7,3]")
                   OUT(11, 5, "e", "f32[]") OUT(12, 6, "f", "f32[6,7]")},
    {"large reductions", "graph g\n" IN(0, "x", "f32[640,300]")
                         "%1 = sum %0 {axes=[0,1]} : f32[]\n%2 = sum %0 {axes=[0]} : f32[300]\n"
                         "%3 = sum %0 {axes=[1]} : f32[640]\n%4 = max %0 {axes=[0,1]} : f32[]\n"
                         OUT(5, 1, "a", "f32[]") OUT(6, 2, "b", "f32[300]")
                         OUT(7, 3, "c", "f32[640]") OUT(8, 4, "d", "f32[]")},
    {"random", "graph g\n" IDS(0, "@seed", 0, "i32[]") IDS(1, "@step", 0, "i32[]")
               "%2 = random %0 %1 {site=\"drop\", shape=[9,13], parts=[]} : f32[9,13]\n"
               OUT(3, 2, "y", "f32[9,13]")},
    /* a rank's part of batch, of columns, of both and more, also fused with what is masked */
    {"random parts",
     "graph g\n" IDS(0, "@seed", 0, "i32[]") IDS(1, "@step", 0, "i32[]") IDS(2, "two", 2, "i32[]")
         IDS(3, "three", 3, "i32[]") IN(4, "x", "f32[4,6,10]")
     "%5 = random %0 %1 %2 {site=\"a\", shape=[4,6,10], parts=[2,1,1]} : f32[4,6,10]\n"
     "%6 = random %0 %1 %3 {site=\"b\", shape=[4,6,10], parts=[1,1,3]} : f32[4,6,10]\n"
     "%7 = random %0 %1 %2 %3 {site=\"c\", shape=[4,6,10], parts=[2,3,1]} : f32[4,6,10]\n"
     "%8 = random %0 %1 %3 %2 {site=\"d\", shape=[4,6,10], parts=[3,1,2]} : f32[4,6,10]\n"
     "%9 = random %0 %1 %3 %2 %3 {site=\"e\", shape=[5,3,7], parts=[3,2,3]} : f32[5,3,7]\n"
     "%10 = lt %7 %6 : bool[4,6,10]\n%11 = select %10 %4 %8 : f32[4,6,10]\n"
     "%12 = sum %11 {axes=[2]} : f32[4,6]\n"
     "%13 = random %0 %1 %3 {site=\"f\", shape=[4,6], parts=[1,3]} : f32[4,6]\n"
     "%14 = mul %12 %13 : f32[4,6]\n%15 = random %0 %1 {site=\"g\", shape=[], parts=[]} : f32[]\n"
     "%16 = random %0 %1 %2 {site=\"h\", shape=[1,1], parts=[1,2]} : f32[1,1]\n"
     /* element numbers beyond 2^32 */
     "%17 = random %0 %1 %2 %3 {site=\"i\", shape=[2,3], parts=[2147483647,1000]} : f32[2,3]\n"
         OUT(18, 5, "a", "f32[4,6,10]") OUT(19, 6, "b", "f32[4,6,10]")
             OUT(20, 7, "c", "f32[4,6,10]") OUT(21, 8, "d", "f32[4,6,10]")
                 OUT(22, 9, "e", "f32[5,3,7]") OUT(23, 11, "f", "f32[4,6,10]")
                     OUT(24, 14, "g", "f32[4,6]") OUT(25, 15, "h", "f32[]")
                         OUT(26, 16, "i", "f32[1,1]")
                             OUT(27, 17, "j", "f32[2,3]")},
    {"contractions", "graph g\n" IN(0, "x", "f32[3,5,4]") IN(1, "w", "f32[4,2,6]")
                     IN(2, "v", "f32[3,5,2,6]")
                     "%3 = einsum %0 %1 {spec=\"btd,dhk->bthk\"} : f32[3,5,2,6]\n"
                     "%4 = einsum %0 %1 {spec=\"btd,dhk->bhtk\"} : f32[3,2,5,6]\n"
                     "%5 = einsum %2 %1 {spec=\"bthk,dhk->btd\"} : f32[3,5,4]\n"
                     "%6 = einsum %0 %2 {spec=\"btd,bthk->dhk\"} : f32[4,2,6]\n"
                     "%7 = einsum %2 %0 {spec=\"bthk,btd->khdb\"} : f32[6,2,4,3]\n"
                     "%8 = einsum %0 %0 {spec=\"btd,btd->\"} : f32[]\n"
                     "%9 = einsum %0 %1 {spec=\"abc,def->fadbce\"} : f32[6,3,4,5,4,2]\n"
                     OUT(10, 3, "a", "f32[3,5,2,6]") OUT(11, 4, "b", "f32[3,2,5,6]")
                     OUT(12, 5, "c", "f32[3,5,4]") OUT(13, 6, "d", "f32[4,2,6]")
                     OUT(14, 7, "e", "f32[6,2,4,3]") OUT(15, 8, "f", "f32[]")
                     OUT(16, 9, "g", "f32[6,3,4,5,4,2]")},
    {"softmax and norms", "graph g\n" IN(0, "x", "f32[4,9,37]") IDS(1, "t", 40, "i32[4,9]")
                          "%2 = softmax %0 : f32[4,9,37]\n"
                          "%3 = norm %0 {eps=1e-5} : (f32[4,9,37], f32[4,9], f32[4,9])\n"
                          "%4 = proj %3 {index=0} : f32[4,9,37]\n"
                          "%5 = rmsnorm %0 {eps=1e-6} : (f32[4,9,37], f32[4,9])\n"
                          "%6 = proj %5 {index=0} : f32[4,9,37]\n"
                          "%7 = cross_entropy %0 %1 : (f32[4,9], f32[4,9])\n"
                          "%8 = proj %7 {index=0} : f32[4,9]\n"
                          OUT(9, 2, "a", "f32[4,9,37]") OUT(10, 4, "b", "f32[4,9,37]")
                          OUT(11, 6, "c", "f32[4,9,37]") OUT(12, 8, "d", "f32[4,9]")},
    {"state", "graph g\n" IN(0, "x", "f32[300]")
              "%1 = state {name=\"m\", of=\"\", init=\"constant\", a=0.5, b=0} : f32[300]\n"
              "%2 = param {name=\"p\", init=\"normal\", a=0, b=1} : f32[300]\n"
              "%3 = add %1 %0 : f32[300]\n%4 = mul %3 %2 : f32[300]\n"
              "%5 = assign %1 %3 : f32[300]\n%6 = assign %2 %4 : f32[300]\n"
              OUT(7, 4, "y", "f32[300]")},
};

/* Products with bias, gelu and its gradient; one whose gelu nobody but the backward phase reads, one
 * whose bias and one whose sum a library cannot be given as they lie. */
static char *epilogue_graph(Arena *a, const char *d) {
    Buf b = {0};
    static const char text[] =
        "graph g\n" IN(0, "x", "f32[2,12,16]") IN(1, "w", "f32[16,32]") IN(2, "b", "f32[32]")
        IN(3, "v", "f32[3,16,24]") IN(4, "g", "f32[2,12,16]")
        "%5 = cast %0 {to=D} : D[2,12,16]\n%6 = cast %1 {to=D} : D[16,32]\n"
        "%7 = cast %3 {to=D} : D[3,16,24]\n%8 = cast %4 {to=D} : D[2,12,16]\n"
        "%9 = einsum %5 %6 {spec=\"btd,dn->btn\"} : D[2,12,32]\n"
        "%10 = broadcast %2 {shape=[2,12,32], dims=[2]} : f32[2,12,32]\n"
        "%11 = cast %10 {to=D} : D[2,12,32]\n%12 = add %11 %9 : D[2,12,32]\n"
        "%13 = gelu %12 : D[2,12,32]\n"
        "%14 = einsum %5 %7 {spec=\"btd,edf->ebtf\"} : D[3,2,12,24]\n%15 = gelu %14 : D[3,2,12,24]\n"
        "%16 = einsum %8 %6 {spec=\"btd,dn->btn\"} : D[2,12,32] !bwd\n"
        "%17 = gelu_grad %12 : D[2,12,32] !bwd\n%18 = mul %16 %17 : D[2,12,32] !bwd\n"
        "%19 = neg %13 : D[2,12,32] !bwd\n"
        OUT(20, 13, "y", "D[2,12,32]") OUT(21, 15, "z", "D[3,2,12,24]")
        OUT(22, 18, "dx", "D[2,12,32]") OUT(23, 19, "again", "D[2,12,32]")
        IN(24, "s", "f32[32,2]") "%25 = slice %24 {start=[0,1], limit=[32,2]} : f32[32,1]\n"
        "%26 = reshape %25 {shape=[32]} : f32[32]\n"
        "%27 = broadcast %26 {shape=[2,12,32], dims=[2]} : f32[2,12,32]\n"
        "%28 = cast %27 {to=D} : D[2,12,32]\n"
        "%29 = einsum %8 %6 {spec=\"btd,dn->btn\"} : D[2,12,32]\n"
        "%30 = add %29 %28 : D[2,12,32]\n%31 = gelu %30 : D[2,12,32]\n"
        "%32 = transpose %12 {perm=[1,0,2]} : D[12,2,32]\n%33 = gelu_grad %32 : D[12,2,32] !bwd\n"
        "%34 = transpose %8 {perm=[1,0,2]} : D[12,2,16]\n"
        "%35 = einsum %34 %6 {spec=\"tbd,dn->tbn\"} : D[12,2,32] !bwd\n"
        "%36 = mul %35 %33 : D[12,2,32] !bwd\n"
        OUT(37, 31, "strided", "D[2,12,32]") OUT(38, 36, "turned", "D[12,2,32]")
        "%39 = cast %18 {to=f32} : f32[2,12,32] !bwd\n%40 = sum %39 {axes=[0,1]} : f32[32] !bwd\n"
        OUT(41, 40, "db", "f32[32]")
        "%42 = einsum %8 %6 {spec=\"btd,dn->btn\"} : D[2,12,32]\n%43 = gelu %42 : D[2,12,32]\n"
        "%44 = neg %43 : D[2,12,32] !bwd\n"
        "%45 = einsum %5 %6 {spec=\"btd,dn->btn\"} : D[2,12,32] !bwd\n"
        "%46 = gelu_grad %42 : D[2,12,32] !bwd\n%47 = mul %45 %46 : D[2,12,32] !bwd\n"
        "%48 = cast %47 {to=f32} : f32[2,12,32] !bwd\n%49 = sum %48 {axes=[0,1]} : f32[32] !bwd\n"
        OUT(50, 44, "late", "D[2,12,32]") OUT(51, 49, "only sums", "f32[32]");
    for (const char *p = text; *p; p++) buf_put(&b, *p == 'D' ? d : p, *p == 'D' ? strlen(d) : 1);
    char *out = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    return out;
}

/* A norm of rows as wide as `c`, its backward shape (sums of rows and of columns in one kernel), and
 * a softmax with its loss: [r, c] of dtype d. */
static char *wide_graph(Arena *a, const char *d, int r, int c) {
    Buf b = {0};
    buf_printf(&b, "graph g\n%%0 = input {name=\"x\", bound=0} : f32[%d,%d]\n", r, c);
    buf_printf(&b, "%%1 = input {name=\"g\", bound=0} : f32[%d,%d]\n", r, c);
    buf_printf(&b, "%%2 = cast %%0 {to=%s} : %s[%d,%d]\n%%3 = cast %%2 {to=f32} : f32[%d,%d]\n", d, d,
               r, c, r, c);
    buf_printf(&b, "%%4 = norm %%3 {eps=1e-5} : (f32[%d,%d], f32[%d], f32[%d])\n", r, c, r, r);
    buf_printf(&b, "%%5 = proj %%4 {index=0} : f32[%d,%d]\n%%6 = mul %%5 %%1 : f32[%d,%d]\n", r, c, r, c);
    buf_printf(&b, "%%7 = sum %%6 {axes=[0]} : f32[%d]\n%%8 = sum %%1 {axes=[0]} : f32[%d]\n", c, c);
    buf_printf(&b, "%%9 = sum %%6 {axes=[1]} : f32[%d]\n", r);
    buf_printf(&b, "%%10 = broadcast %%9 {shape=[%d,%d], dims=[0]} : f32[%d,%d]\n", r, c, r, c);
    buf_printf(&b, "%%11 = mul %%10 %%5 : f32[%d,%d]\n%%12 = cast %%11 {to=%s} : %s[%d,%d]\n", r, c, d, d,
               r, c);
    buf_printf(&b, "%%13 = softmax %%3 : f32[%d,%d]\n", r, c);
    buf_printf(&b, "%%14 = input {name=\"t\", bound=%d} : i32[%d]\n", c, r);
    buf_printf(&b, "%%15 = cross_entropy %%3 %%14 : (f32[%d], f32[%d])\n", r, r);
    buf_printf(&b, "%%16 = proj %%15 {index=0} : f32[%d]\n%%17 = max %%3 {axes=[0]} : f32[%d]\n", r, c);
    buf_printf(&b, "%%18 = output %%5 {name=\"y\"} : f32[%d,%d]\n", r, c);
    buf_printf(&b, "%%19 = output %%7 {name=\"scale\"} : f32[%d]\n", c);
    buf_printf(&b, "%%20 = output %%8 {name=\"shift\"} : f32[%d]\n", c);
    buf_printf(&b, "%%21 = output %%12 {name=\"dx\"} : %s[%d,%d]\n", d, r, c);
    buf_printf(&b, "%%22 = output %%13 {name=\"p\"} : f32[%d,%d]\n", r, c);
    buf_printf(&b, "%%23 = output %%16 {name=\"nll\"} : f32[%d]\n", r);
    buf_printf(&b, "%%24 = output %%17 {name=\"top\"} : f32[%d]\n", c);
    char *text = arena_strdup(a, b.p, b.n);
    buf_free(&b);
    return text;
}

/* clang-format on */

/* Rows of one and of many vectors a thread, of a warp and of a block of threads, with and without
 * threads beyond their end; enough rows for sums of columns in two stages, and rows left over. */
static void test_wide(void) {
    static const struct {
        const char *dtype;
        int rows, cols;
    } sizes[] = {{"f32", 512, 192},   {"bf16", 512, 192}, {"f32", 67, 1024},
                 {"bf16", 256, 1032}, {"f16", 33, 5000},  {"f32", 5, 20004}};
    Arena *a = arena_new();
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char label[64];
        Compare c = {.passes = i % 2 ? "lower,fuse,schedule,allocate" : "lower,fuse"};
        snprintf(label, sizeof label, "%s rows of %d", sizes[i].dtype, sizes[i].cols);
        const char *text = wide_graph(a, sizes[i].dtype, sizes[i].rows, sizes[i].cols);
        CHECK(compare_text(text, &c, label) == 0);
    }
    arena_free(a);
}

static void test_epilogues(void) {
    static const char *const dtypes[] = {"f32", "bf16", "f16"};
    Arena *a = arena_new();
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        Compare c = {.passes = "lower,epilogue,fuse,schedule,allocate"};
        CHECK(compare_text(epilogue_graph(a, dtypes[i]), &c, dtypes[i]) == 0);
    }
    arena_free(a);
}

/* A state that lies on the host and is updated there, next to kernels of the device. */
static void test_host(void) {
    static const char *const passes[] = {"lower", "lower,fuse,schedule,allocate"};
    static const char text[] = "graph g\n" IN(
        0, "x", "f32[37,11]") "%1 = state {name=\"m\", of=\"\", init=\"constant\", a=0.5, b=0} : "
                              "f32[37,11] !mem=host\n"
                              "%2 = mul %0 %0 : f32[37,11]\n"
                              "%3 = copy_start %2 : f32[37,11] !stream=2 !mem=host\n"
                              "%4 = copy_done %3 : f32[37,11] !mem=host\n"
                              "%5 = mul %4 %1 : f32[37,11] !stream=3 !mem=host\n"
                              "%6 = sum %5 {axes=[1]} : f32[37] !stream=3 !mem=host\n"
                              "%7 = broadcast %6 {shape=[37,11], dims=[0]} : f32[37,11] !stream=3 "
                              "!mem=host\n"
                              "%8 = sub %4 %7 : f32[37,11] !stream=3 !mem=host\n"
                              "%9 = copy_start %8 : f32[37,11] !stream=1\n"
                              "%10 = copy_done %9 : f32[37,11]\n"
                              "%11 = add %10 %0 : f32[37,11]\n" OUT(
                                  12, 11, "y", "f32[37,11]") "%13 = assign %1 %8 : f32[37,11]\n";
    for (size_t p = 0; p < COUNT(passes); p++) {
        Compare c = {.passes = passes[p]};
        CHECK(compare_text(text, &c, "on the host") == 0);
    }
}

static void test_graphs(void) {
    static const char *const passes[] = {"lower", "lower,fuse", "lower,fuse,schedule,allocate"};
    for (size_t i = 0; i < COUNT(graphs); i++)
        for (size_t p = 0; p < COUNT(passes); p++) {
            Compare c = {.passes = passes[p]};
            CHECK(compare_text(graphs[i].text, &c, graphs[i].name) == 0);
        }
}

/* ---- attention: masks, odd sizes, more keys than queries, small and large heads, enough queries
 * for several items, storage types ---- */

static void compare_attention(const int64_t z[5], const char *mask, Dtype d) {
    const int64_t q[] = {z[0], z[1], z[3], z[4]}, kv[] = {z[0], z[2], z[3], z[4]};
    Session *s = session_new();
    Graph *g = graph_new(s, "attention");
    Value in[6] = {input(g, "q", d, 4, q), input(g, "k", d, 4, kv), input(g, "v", d, 4, kv)};
    AttrValue a[] = {{.s = intern(s, mask)}, {.i = z[1] / 2}, {.f = 0.3}};
    Value o = graph_add(g, OP_attention, attr_intern(s, OP_attention, a), 3, in);
    in[3] = b_proj(g, o, 0), in[4] = b_proj(g, o, 1), in[5] = input(g, "go", d, 4, q);
    Value grad = graph_add(g, OP_attention_grad, attr_intern(s, OP_attention_grad, a), 6, in);
    b_output(g, in[3], "o"), b_output(g, in[4], "lse");
    b_output(g, b_proj(g, grad, 0), "dq");
    b_output(g, b_proj(g, grad, 1), "dk");
    b_output(g, b_proj(g, grad, 2), "dv");
    Compare c = {.passes = "lower,fuse"};
    CHECK(compare_graph(g, &c, mask) == 0);
    session_free(s);
}

static void test_attention(void) {
    static const char *const masks[] = {"none", "causal", "prefix"};
    static const int64_t sizes[][5] = {
        {1, 1, 1, 1, 1},     {2, 7, 7, 3, 5},      {1, 70, 70, 2, 16}, {3, 40, 40, 4, 48},
        {2, 33, 50, 2, 24},  {1, 130, 130, 1, 64}, {1, 97, 97, 9, 96}, {1, 150, 90, 1, 128},
        {1, 20, 20, 8, 256}, {1, 1030, 1030, 1, 8}};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t k = 0; k < COUNT(masks); k++) compare_attention(sizes[i], masks[k], DT_F32);
    for (Dtype d = DT_BF16; d <= DT_F16; d++)
        for (size_t k = 0; k < COUNT(masks); k++) compare_attention(sizes[4], masks[k], d);
}

/* ---- blocks ---- */

/* Of the input, and of its rows from the second on: such bytes are aligned to one element. */
static void test_blocks(void) {
    static const struct {
        int64_t dim[3];
        int along, parts;
        Dtype dtype;
    } t[] = {{{2, 8, 6}, 0, 2, DT_F32},      {{4, 10, 3}, 1, 5, DT_F16},
             {{2, 6, 8}, 2, 2, DT_BF16},     {{3, 5, 4}, 2, 4, DT_BOOL},
             {{4, 3, 70000}, 0, 4, DT_BOOL}, {{2, 2, 60000}, 1, 1, DT_I32},
             {{3, 1, 66000}, 2, 3, DT_F64}};
    for (size_t i = 0; i < COUNT(t); i++) {
        Session *s = session_new();
        Graph *g = graph_new(s, "block");
        const int64_t *d = t[i].dim, more[] = {d[0] + 1, d[1], d[2]}, start[] = {1, 0, 0};
        Value x[2] = {input(g, "x", t[i].dtype, 3, d), input(g, "more", t[i].dtype, 3, more)};
        AttrValue name[] = {{.s = intern(s, "index")}, {.i = t[i].parts}};
        AttrValue a[] = {{.i = t[i].along}, {.i = t[i].parts}};
        Value index =
            graph_leaf(g, OP_input, attr_intern(s, OP_input, name), type_scalar(s, DT_I32));
        x[1] = b_slice(g, x[1], start, more);
        b_output(g, graph_add(g, OP_block, attr_intern(s, OP_block, a), 2, (Value[]){x[0], index}),
                 "a");
        b_output(g, graph_add(g, OP_block, attr_intern(s, OP_block, a), 2, (Value[]){x[1], index}),
                 "b");
        Compare c = {.passes = "lower,fuse"};
        CHECK(compare_graph(g, &c, "block") == 0);
        session_free(s);
    }
}

/* ---- experts ---- */

static void test_experts(void) {
    static const int64_t sizes[][6] = {{1, 6, 1, 3, 1, 4},
                                       {2, 9, 2, 4, 1, 3},
                                       {3, 5, 1, 4, 2, 2},
                                       {1, 1100, 1, 4, 2, 300},
                                       {1, 130, 2, 70, 2, 3}};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const int64_t *z = sizes[i], n = z[0] * z[1], k = z[2] * z[4], d = i % 2 ? 8 : 7;
        Session *s = session_new();
        Graph *g = graph_new(s, "experts");
        Value prob = input(g, "prob", DT_F32, 4, z),
              x = input(g, "x", DT_F32, 2, (int64_t[]){n, d});
        Value gate = input(g, "gate", DT_F32, 2, (int64_t[]){n, k});
        AttrValue a[] = {{.i = z[4]}, {.i = z[5]}};
        Value r = graph_add(g, OP_route, attr_intern(s, OP_route, a), 1, &prob);
        Value slot = b_proj(g, r, 1), source = b_proj(g, r, 2);
        Value y = graph_add(g, OP_dispatch, NULL, 3, (Value[]){x, slot, source});
        b_output(g, y, "dispatch");
        b_output(g, b_proj(g, r, 0), "choice"), b_output(g, b_proj(g, r, 3), "density");
        b_output(g, slot, "slot"), b_output(g, source, "source");
        b_output(g, graph_add(g, OP_dispatch_scaled, NULL, 4, (Value[]){x, gate, slot, source}),
                 "scaled");
        b_output(g, graph_add(g, OP_combine, NULL, 4, (Value[]){y, gate, slot, source}), "combine");
        b_output(g, graph_add(g, OP_combine_sum, NULL, 3, (Value[]){y, slot, source}), "sum");
        b_output(g, graph_add(g, OP_gate_grad, NULL, 3, (Value[]){y, x, slot}), "gates");
        Compare c = {.passes = "lower,fuse"};
        CHECK(compare_graph(g, &c, "experts") == 0);
        session_free(s);
    }
}

/* ---- the text of kernels ---- */

static void print_kernels(const char *text, Buf *out) {
    Session *s = session_new();
    Graph *g = graph_parse(s, "golden", text, strlen(text));
    Arena *a = arena_new();
    PassContext cx = {.session = s, .scratch = a};
    if (!g || !pipeline_run(g, "lower,fuse", &cx)) exit(3);
    Units us = units_build(g, a);
    for (uint32_t u = 0; u < us.n; u++) {
        Kernel k;
        Code c = {0};
        if (us.space[u].n == 0) continue;
        kernel_build(g, &us, u, &k);
        target_c_print(&k, &c);
        kernel_print(&k, out);
        buf_printf(out, "items %lld\n%s\n", (long long)c.items, c.body.p);
        buf_free(&c.body);
        c = (Code){.grain = 1};
        target_cuda_print(&k, &c);
        buf_printf(out, "CUDA: blocks %lld, threads %d\n%s\n", (long long)c.items, c.threads,
                   c.body.p);
        buf_free(&c.body);
        buf_free(&c.inner);
        kernel_free(&k);
    }
    graph_free(g);
    arena_free(a);
    session_free(s);
}

/* clang-format off */
static const struct {
    const char *name, *text;
} golden[] = {
    {"add_gelu", "graph g\n" IN(0, "x", "f32[64,48]") IN(1, "b", "f32[48]")
                 "%2 = broadcast %1 {shape=[64,48], dims=[1]} : f32[64,48]\n"
                 "%3 = add %0 %2 : f32[64,48]\n%4 = gelu %3 : f32[64,48]\n"
                 OUT(5, 4, "y", "f32[64,48]")},
    {"norm", "graph g\n" IN(0, "x", "f32[64,48]")
             "%1 = norm %0 {eps=1e-5} : (f32[64,48], f32[64], f32[64])\n"
             "%2 = proj %1 {index=0} : f32[64,48]\n" OUT(3, 2, "y", "f32[64,48]")},
    {"column_sum", "graph g\n" IN(0, "x", "f32[64,600]") "%1 = sum %0 {axes=[0]} : f32[600]\n"
                   OUT(2, 1, "y", "f32[600]")},
    {"pad", "graph g\n" IN(0, "x", "f32[8,5,48]")
            "%1 = pad %0 {lo=[0,2,0], hi=[0,1,0]} : f32[8,8,48]\n" OUT(2, 1, "y", "f32[8,8,48]")},
};

/* clang-format on */

static void test_golden(const char *folder) {
    for (size_t i = 0; i < COUNT(golden); i++) {
        Buf got = {0};
        char path[4096], *want = NULL;
        size_t n;
        snprintf(path, sizeof path, "%s/golden/%s.txt", folder, golden[i].name);
        print_kernels(golden[i].text, &got);
        if (getenv("M6C_BLESS")) free(file_write_atomic(path, got.p, got.n));
        free(file_read(path, &want, &n));
        CHECK_STR(got.p, want);
        free(want);
        buf_free(&got);
    }
}

int main(int argc, char **argv) {
    HarnessOn on = harness_on(argc > 1 ? argv[1] : NULL);
    harness_begin(on);
    if (on == ON_CPU) test_golden(argc > 1 ? argv[1] : ".");
    test_elementwise();
    test_range();
    test_graphs();
    test_host();
    test_wide();
    test_epilogues();
    test_attention();
    test_blocks();
    test_experts();
    harness_end();
    return check_done("codegen_kernels");
}
