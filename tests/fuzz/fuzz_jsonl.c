/* fuzz_jsonl: libFuzzer target for caption data sets: a .jsonl, a zero byte, a .tsv. What is
 * accepted is then used as the loader does: captions are encoded, pictures' bytes fetched. */
#include <stdlib.h>
#include <string.h>
#include "runtime/muge.h"
#include "runtime/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void expect_input(Status s) {
    ASSERT(!s || s->code == EXIT_INPUT);
    free(s);
}

static void use(const Muge *m, const Tokenizer *t) {
    int32_t id[16];
    for (uint32_t i = 0; i < muge_count(m); i++) {
        Buf b = {0};
        muge_where_image(m, i, &b);
        expect_input(muge_image(m, i, &b));
        b.n = 0;
        for (uint32_t k = 0; k < muge_texts(m, i); k++) {
            int used = 0;
            expect_input(tokenizer_encode(t, "fuzz", muge_text(m, i, k), id, 16, &used));
            ASSERT(used >= 0 && used <= 16);
            tokenizer_decode(t, id, used, &b);
        }
        buf_free(&b);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nab\n##a\n##ab\n小\n";
    const uint8_t *zero = memchr(data, 0, n);
    size_t njsonl = zero ? (size_t)(zero - data) : n, ntsv = zero ? n - njsonl - 1 : 0;
    Muge *m;
    Tokenizer *t;
    expect_input(tokenizer_parse("v", vocab, sizeof vocab - 1, &t));
    Status s = muge_parse("fuzz", (const char *)data, njsonl, zero ? (const char *)zero + 1 : "",
                          ntsv, &m);
    ASSERT((s != NULL) == (m == NULL));
    expect_input(s);
    if (m) use(m, t);
    muge_close(m);
    tokenizer_free(t);
    /* The same bytes as a vocabulary. */
    expect_input(tokenizer_parse("fuzz", (const char *)data, n, &t));
    tokenizer_free(t);
    return 0;
}
