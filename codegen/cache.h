/* cache.h: what the compilers of kernels share. Objects are kept by content in
 * cache_dir()/kernels: a name there is a hash of all that the object depends on, so that nothing
 * is ever stale, and an object is complete as soon as it has its name. */
#ifndef M6C_CACHE_H
#define M6C_CACHE_H

#include "codegen/codegen.h"

Status kernel_cache(Buf *dir); /* made when missing */
/* Gives the object the name of `source` in `dir`, with another ending: a hard link, or a copy. */
Status kernel_place(const char *object, const char *dir, const char *source, const char *ending);
int compiler_jobs(const CodegenOptions *o); /* compilers at a time */

#endif
