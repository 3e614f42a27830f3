/* plan_write.c: the plan's folder: plan.txt, the kernels' sources and what they compile to. */
#include "codegen/codegen.h"

#include <string.h>

static Status write_in(const char *dir, const char *name, const char *text, size_t n) {
    Buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    Status s = file_write_atomic(path.p, text, n);
    buf_free(&path);
    return s;
}

Status codegen_write(const Codegen *cg, const char *dir) {
    Buf text = {0};
    CcOptions cc = {cg->options.cc, cg->options.jobs};
    TRY(make_dirs(dir));
    for (uint32_t i = 0; i < cg->source.n; i++) {
        const CodegenSource *s = &cg->source.p[i];
        TRY(write_in(dir, s->name, s->text, strlen(s->text)));
    }
    if (!cg->options.no_compile) TRY(cc_compile(&cc, cg->source.p, cg->source.n, dir));
    plan_print(cg->plan, &text);
    Status s = write_in(dir, "plan.txt", text.p, text.n); /* last: a folder with a plan is whole */
    buf_free(&text);
    return s;
}
