/* codegen.h: a scheduled, allocated graph becomes a plan with its kernels.
 *
 *     Plan *plan = codegen_plan(g, &options);        kernels are in the folder; NULL: diagnostics
 *     ... choose implementations of products ...
 *     bool ok = codegen_write(plan, &options);       DIR/NAME.txt
 *
 * Kernels are compiled by the system's C compiler, or for GPUs by NVRTC, and kept by content in
 * cache_dir()/kernels. */
#ifndef M6C_CODEGEN_H
#define M6C_CODEGEN_H

#include "ir/ir.h"
#include "runtime/plan.h"

typedef struct CodegenOptions {
    const char *dir;     /* the plan's folder, made when missing; NULL: nothing is written */
    const char *name;    /* of the plan in its folder: NAME.txt, NAME_0.c, ..; NULL: "plan" */
    const char *target;  /* "cpu" (NULL), "null" (the same plan) or a GPU: "sm_80" */
    const char *command; /* recorded in the plan; may be NULL */
    uint64_t model_hash; /* recorded in the plan; 0: the graph's hash */
    bool plan_only;      /* kernels' sources are written, not compiled */
    const char *cc;      /* C compiler; NULL: $CC, or else cc */
    int jobs;            /* compilers at a time; 0: one a core */
} CodegenOptions;

/* The graph must have been lowered (groups), scheduled (order) and allocated (offsets); it may be
 * freed afterwards. Writes and compiles the kernels. NULL after diagnostics. Strings belong to the
 * graph's session. */
Plan *codegen_plan(const Graph *g, const CodegenOptions *o);
bool codegen_write(const Plan *plan, const CodegenOptions *o);
/* Of the version, the prelude and the compiler's flags: plans of another value are stale. */
uint64_t codegen_hash(void);

/* ---- cc.c ---- */
/* One generated C file: several kernels behind one prelude. */
typedef struct CodegenSource {
    const char *name; /* "plan_0.c" */
    const char *text;
    uint64_t hash; /* of the code without comments */
} CodegenSource;
/* Compiles o->dir's X.c to X.so, or takes that from the cache. Fails with status 3 when there is no
 * compiler or it fails: the text shows its messages. */
Status cc_compile(const CodegenOptions *o, const CodegenSource *source, uint32_t n);
uint64_t cc_flags_hash(uint64_t seed);

/* ---- nvrtc.c ---- */
/* Is it a GPU architecture that m6c compiles for ("sm_80")? Status 2 says why not, whether or not
 * NVRTC is installed. */
Status nvrtc_check_arch(const char *arch);
/* Compiles o->dir's X.cu to X.cubin, X.ptx (the same for newer GPUs) and X.log (registers, shared
 * memory and spills of each kernel), or takes them from the cache. Status 3 when NVRTC is not
 * there, does not know the architecture, or fails: the text shows its messages. */
Status nvrtc_compile(const CodegenOptions *o, const CodegenSource *source, uint32_t n,
                     const char *arch);

#endif
