/* target.c: the table of targets. */
#include "codegen/target.h"

#include <string.h>

#include "codegen/codegen.h"
#include "codegen/opaque.h"

static void head_c(const char *name, int nargs, int threads, Buf *out) {
    (void)nargs, (void)threads;
    buf_printf(out, "void %s(void *const *arg, int64_t lo, int64_t hi) ", name);
}

static void head_cuda(const char *name, int nargs, int threads, Buf *out) {
    buf_printf(out, "KERNEL(%s, %d, %d) ", name, nargs, threads);
}

static Status compile_cuda(const CodegenOptions *o, const CodegenSource *source, uint32_t n) {
    return nvrtc_compile(o, source, n, o->target);
}

static const Target target_c = {.suffix = ".c",
                                .per_file = 8,
                                .prelude = prelude_c,
                                .fused = target_c_print,
                                .opaque = opaque_c_print,
                                .head = head_c,
                                .compile = cc_compile};

static const Target target_cuda = {.suffix = ".cu",
                                   .per_file = 16,
                                   .prelude = prelude_cuda,
                                   .fused = target_cuda_print,
                                   .opaque = opaque_cuda_print,
                                   .epilogue = epilogue_cuda_print,
                                   .convert = convert_cuda_print,
                                   .head = head_cuda,
                                   .compile = compile_cuda};

const Target *target_find(const char *name) {
    return target_is_gpu(name) ? &target_cuda : &target_c;
}
