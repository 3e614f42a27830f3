/* base_library.c: libraries that a program starts without and loads when it needs them. */
#include "ir/base.h"

#include <dlfcn.h>
#include <string.h>

void *library_open(const char *const *names, size_t n) {
    void *library = NULL;
    for (size_t i = 0; i < n && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

const char *library_find(void *library, const LibraryFunction *f, size_t n) {
    const char *missing = NULL;
    for (size_t i = 0; i < n; i++) {
        void *symbol = library ? dlsym(library, f[i].name) : NULL;
        memcpy(f[i].to, &symbol, sizeof symbol);
        if (!symbol && !missing) missing = f[i].name;
    }
    return missing;
}
