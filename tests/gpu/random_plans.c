/* random_plans.c: random graphs, scheduled and allocated, as plans for GPUs with compiled kernels:
 * random_plans DIR FIRST COUNT TARGET…, for seeds FIRST on, in DIR/SEED-TARGET. */
#include "codegen/codegen.h"
#include "passes/passes.h"
#include "tests/ir/random_graph.h"

#include <stdlib.h>

static bool make_plan(uint64_t seed, const char *dir, const char *target) {
    static const Dtype types[] = {DT_F32, DT_BF16, DT_F16};
    Session *s = session_new();
    Arena *scratch = arena_new();
    Buf to = {0};
    buf_printf(&to, "%s/%llu-%s", dir, (unsigned long long)seed, target);
    RandomGraph how = {.seed = seed,
                       .nodes = 30,
                       .dtype = types[seed % COUNT(types)],
                       .max_size = seed % 4 == 3 ? 40 : 9};
    Graph *g = random_graph(s, &how);
    PassContext cx = {.session = s, .scratch = scratch, .opt = {.verify = true}};
    CodegenOptions o = {.dir = to.p, .target = target};
    Plan *p = NULL;
    if (pipeline_run(g, "lower,fuse,schedule,allocate", &cx)) p = codegen_plan(g, &o);
    bool ok = p && codegen_write(p, &o);
    if (!ok) fprintf(stderr, "seed %llu for %s failed\n", (unsigned long long)seed, target);
    if (p) plan_free(p);
    graph_free(g);
    arena_free(scratch);
    session_free(s);
    buf_free(&to);
    return ok;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: random_plans DIR FIRST COUNT TARGET...\n");
        return EXIT_USAGE;
    }
    uint64_t first = strtoull(argv[2], NULL, 10), count = strtoull(argv[3], NULL, 10);
    bool ok = true;
    for (int i = 4; i < argc; i++)
        for (uint64_t seed = first; seed < first + count; seed++)
            ok &= make_plan(seed, argv[1], argv[i]);
    return ok ? EXIT_DONE : EXIT_INPUT;
}
