/* codegen.h: a scheduled, allocated graph becomes a plan with its kernels.
 *
 *     Codegen *cg;
 *     if (!codegen_plan(g, &options, &cg)) ...       diagnostics were printed
 *     status = codegen_write(cg, dir);               plan.txt, kernel sources, compiled kernels
 *     codegen_free(cg);
 *
 * Kernels are compiled by the system's C compiler and kept by content in cache_dir()/kernels. */
#ifndef M6C_CODEGEN_H
#define M6C_CODEGEN_H

#include "ir/ir.h"
#include "runtime/plan.h"

typedef struct {
    const char *target;  /* "cpu"; "null" makes the same plan. NULL: cpu */
    const char *command; /* recorded in the plan; may be NULL */
    uint64_t model_hash; /* recorded in the plan; 0: the graph's hash */
    const char *cc;      /* C compiler; NULL: $CC, or else cc */
    int jobs;            /* compilers at a time; 0: one a core */
    bool no_compile;     /* write sources only */
} CodegenOptions;

/* One generated C file: several kernels behind one prelude. */
typedef struct {
    const char *name; /* "k0.c" */
    const char *text;
    uint64_t hash; /* of the code without comments */
} CodegenSource;

typedef struct {
    Plan *plan;
    CodegenOptions options;
    VEC(CodegenSource) source;
} Codegen;

/* The graph must have been lowered (groups), scheduled (order) and allocated (offsets). False after
 * diagnostics. */
bool codegen_plan(const Graph *g, const CodegenOptions *options, Codegen **out);
/* Writes the plan's folder. Fails with status 3 when there is no compiler or it fails: the text
 * shows its messages. */
Status codegen_write(const Codegen *cg, const char *dir);
void codegen_free(Codegen *cg);
/* Of the version, the prelude and the compiler's flags: plans of another value are stale. */
uint64_t codegen_hash(void);

/* ---- cc.c ---- */
typedef struct {
    const char *cc;
    int jobs;
} CcOptions;
/* Compiles each source to DIR/NAME.so (NAME without .c), those found in the cache excepted. */
Status cc_compile(const CcOptions *o, const CodegenSource *source, uint32_t n, const char *dir);
const char *cc_flags(void);

#endif
