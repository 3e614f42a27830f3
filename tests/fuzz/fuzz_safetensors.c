/* fuzz_safetensors: libFuzzer target for tensor files. Whatever the bytes, the reader must refuse
 * them with EXIT_INPUT or give tensors that lie inside them, one after another, none missing. */
#include <stdlib.h>
#include <string.h>
#include "runtime/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_tensor(const StFile *f, const StTensor *t, const uint8_t *at,
                         const uint8_t *end) {
    int64_t elements = 1;
    for (int i = 0; i < t->rank; i++) {
        elements *= t->dim[i];
        ASSERT(!t->slice || (t->start[i] >= 0 && t->start[i] + t->dim[i] <= t->whole[i]));
    }
    ASSERT(t->bytes == elements * dtype_size(t->dtype));
    ASSERT((const uint8_t *)t->data == at && t->bytes <= end - at);
    ASSERT(st_find(f, t->name) == t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    StFile *f;
    Status s = st_parse("fuzz.safetensors", data, n, &f);
    ASSERT((s != NULL) == (f == NULL));
    if (s) {
        ASSERT(s->code == EXIT_INPUT && strstr(s->text, "fuzz.safetensors: ") == s->text);
        free(s);
        return 0;
    }
    const uint8_t *at = data + n;
    for (uint32_t i = 0; i < st_count(f); i++) at -= st_tensor(f, i)->bytes;
    ASSERT(at >= data + 8);
    for (uint32_t i = 0; i < st_count(f); at += st_tensor(f, i++)->bytes)
        check_tensor(f, st_tensor(f, i), at, data + n);
    st_meta(f, "step");
    st_close(f);
    return 0;
}
