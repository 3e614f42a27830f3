/* cache.c: the folder of compiled kernels, and how they come from there into a plan's folder. */
#include "codegen/cache.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Status kernel_cache(Buf *dir) {
    TRY(cache_dir(dir));
    buf_puts(dir, "/kernels");
    return make_dirs(dir->p);
}

Status kernel_place(const char *object, const char *dir, const char *source, const char *ending) {
    const char *dot = strrchr(source, '.');
    ASSERT(dot);
    Buf to = {0};
    buf_printf(&to, "%s/%.*s.%s", dir, (int)(dot - source), source, ending);
    unlink(to.p);
    Status s = NULL;
    if (link(object, to.p) != 0) {
        char *data = NULL;
        size_t n = 0;
        s = file_read(object, &data, &n);
        if (!s) s = file_write_atomic(to.p, data, n);
        free(data);
    }
    buf_free(&to);
    return s;
}

int compiler_jobs(const CodegenOptions *o) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return o->jobs > 0 ? o->jobs : (int)MAX(cores, 1);
}
