/* test_emulator.c: the emulator notices what CUDA would not forgive. faults.cu holds each mistake
 * next to what is right: with it, one of a few runs is reported or comes out wrong, or, where races
 * are looked for, every run is reported; without it, all of them are right. Argument: the folder of
 * faults.cu. */
#include "tests/check.h"
#include "tests/gpu/emulator.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCKS = 3, ROW = 64, SEEDS = 5 };

/* What a mistake looks like: words of the report, or NULL where only the result is wrong. */
typedef struct {
    const char *kernel;
    int threads;
    const char *report;
} Fault;

static const Fault faults[] = {
    {"missing_barrier", 64, NULL},
    {"missing_second_barrier", 64, NULL},
    {"missing_warp_sync", 64, NULL},
    {"uninitialised_shared", 64, NULL},
    {"global_read", 64, "0 bytes behind the end of a buffer of 768 bytes"},
    {"global_write", 64, "0 bytes behind the end of a buffer of 768 bytes"},
    {"write_before", 64, "bytes before a buffer of 768 bytes"},
    {"shared_read", 64, "0 bytes behind the end of a shared array of 256 bytes"},
    {"shared_write_before", 64, "bytes before a shared array of 256 bytes"},
    {"dynamic_shared_read", 64, "0 bytes behind the end of the dynamic shared memory of 256 bytes"},
    {"divergent_barrier", 64, "waits at the SYNC of line"},
    {"early_return", 64, "thread 40 has ended"},
    {"two_barriers", 64, "all threads of a block must come to the same barrier"},
    {"missing_lane", 64, "all lanes of a warp must come to the same one"},
    {"different_operations", 64, "waits at the shfl_xor of line"},
    {"copy_without_wait", 64, NULL},
    {"copy_waits_for_too_few", 64, NULL},
    {"copy_without_barrier", 64, NULL},
    {"copy_over_what_is_read", 64, NULL},
    {"misaligned_load", 64, "thread 17: line"},
    {"misaligned_word", 64, "a misaligned access"},
    {"misaligned_copy", 64, "cp_async16: misaligned"},
    {"matrix_from_global", 32, "is not inside a shared array"},
    {"array_index", 64, "an index outside an array"},
    {"argument_index", 64, "behind the kernel's arguments"},
    {"division_by_zero", 64, ""},
    {"stack", 64, "the thread's stack overflows"},
};

/* What is reported of every order when races are looked for. */
static const Fault races[] = {
    {"missing_barrier", 64, "race: shared memory is"},
    {"missing_second_barrier", 64, "race: shared memory is"},
    {"missing_warp_sync", 64, "race: shared memory is"},
    {"copy_without_wait", 64, "written by a copy that was not waited for"},
    {"copy_waits_for_too_few", 64, "written by a copy that was not waited for"},
    {"copy_without_barrier", 64, "race: shared memory is"},
    {"copy_over_what_is_read", 64, "race: shared memory is"},
    {"harmless_race", 64, "race: shared memory is written that was written by thread"},
    {"race_of_blocks", 64, "race: global memory is written that was written by another block"},
    {"missing_matrix_sync", 32, "race: shared memory is read that was written by thread"},
};

/* look: "none", "shared" or "all" */
static EmuModule *load(const char *folder, bool planted, const char *look) {
    Buf path = {0}, text = {0};
    char *data = NULL;
    size_t n = 0;
    EmuModule *m = NULL;
    buf_printf(&path, "%s/faults.cu", folder);
    Status s = file_read(path.p, &data, &n);
    if (!s && planted) {
        buf_printf(&text, "#define PLANTED\n#line 1\n%s", data);
        path.n = 0;
        buf_printf(&path, "/tmp/m6c-faults-%d.cu", (int)getpid());
        s = file_write_atomic(path.p, text.p, text.n);
    }
    setenv("M6C_EMULATED_RACES", look, 1);
    if (!s) s = emu_load(path.p, &m);
    if (planted) unlink(path.p);
    if (s) fprintf(stderr, "%s\n", s->text);
    CHECK(!s);
    free(s);
    free(data);
    buf_free(&text);
    buf_free(&path);
    return m;
}

/* One order: 0 right, 1 reported as the table says, 2 wrong, 3 reported otherwise (and printed). */
static int run(EmuModule *m, const Fault *f, uint64_t seed) {
    size_t bytes = BLOCKS * ROW * sizeof(uint32_t);
    uint32_t *x = emu_buffer((int64_t)bytes), *y = emu_buffer((int64_t)bytes);
    int result = 0;
    for (uint32_t j = 0; j < BLOCKS * ROW; j++) x[j] = 3 * j + 1000;
    Status s = emu_launch(emu_find(m, f->kernel), BLOCKS, f->threads, ROW * sizeof(uint32_t),
                          (void *[]){x, y}, seed);
    if (s) {
        bool named = strstr(s->text, f->kernel) != NULL;
        result = named && f->report && strstr(s->text, f->report) ? 1 : 3;
        if (result == 3) fprintf(stderr, "%s\n", s->text);
    } else {
        for (int j = 0; j < BLOCKS * ROW; j++)
            if (y[j] != x[j / ROW * ROW + ROW - 1 - j % ROW]) result = 2;
    }
    free(s);
    emu_buffer_free(x);
    emu_buffer_free(y);
    return result;
}

/* The margins are poisoned where AddressSanitizer runs: it ends the process at once. */
static bool ends_process(const Fault *f) {
    return emu_sanitized() && strstr(f->kernel, "write_before");
}

static void test_fault(const Fault *f, EmuModule *planted, EmuModule *right, int least) {
    int count[4] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        count[run(planted, f, seed)]++;
        bool twin = run(right, f, seed) == 0;
        if (!twin) fprintf(stderr, "%s: not right where it is right\n", f->kernel);
        CHECK(twin);
    }
    bool noticed = count[f->report ? 1 : 2] >= least && count[3] == 0;
    if (!noticed) fprintf(stderr, "%s: not noticed\n", f->kernel);
    CHECK(noticed);
}

/* Small integers: every sum is exact. */
static bool product_right(EmuModule *m) {
    uint16_t *a = emu_buffer(384 * sizeof *a), *b = a + 256;
    float *y = emu_buffer(128 * sizeof *y);
    bool right = true;
    for (uint32_t i = 0; i < 384; i++) a[i] = f32_to_bf16((float)(philox(1, i, NULL) % 17) - 8);
    Status s = emu_launch(emu_find(m, "product"), 1, 32, 0, (void *[]){a, y}, 0);
    CHECK(!s);
    free(s);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum += bf16_to_f32(a[i * 16 + k]) * bf16_to_f32(b[j * 16 + k]);
            right = right && y[i * 8 + j] == sum;
        }
    emu_buffer_free(a);
    emu_buffer_free(y);
    return right;
}

static void check_refused(void *k, int64_t blocks, int threads, const char *words) {
    void *x = emu_buffer(256), *y = emu_buffer(256);
    Status s = emu_launch(k, blocks, threads, 0, (void *[]){x, y}, 0);
    CHECK(s && strstr(s->text, words));
    free(s);
    emu_buffer_free(x);
    emu_buffer_free(y);
}

/* ---- launches of several threads, faults among them ---- */

typedef struct {
    EmuModule *planted, *right;
    int wrong;
} Both;

static const Fault *fault_named(const char *kernel) {
    for (size_t i = 0; i < COUNT(faults); i++)
        if (strcmp(faults[i].kernel, kernel) == 0) return &faults[i];
    return NULL;
}

static void *launch_both(void *p) {
    Both *b = p;
    const Fault *read = fault_named("global_read"), *early = fault_named("early_return");
    for (uint64_t seed = 0; seed < 20; seed++) {
        b->wrong += run(b->right, read, seed) != 0 || run(b->planted, early, seed) != 1;
        b->wrong += run(b->planted, read, seed) != 1 || run(b->right, early, seed) != 0;
    }
    return NULL;
}

static void test_threads(EmuModule *planted, EmuModule *right) {
    Both both[2] = {{planted, right, 0}, {planted, right, 0}};
    pthread_t other;
    CHECK(pthread_create(&other, NULL, launch_both, &both[1]) == 0);
    launch_both(&both[0]);
    pthread_join(other, NULL);
    CHECK(both[0].wrong == 0 && both[1].wrong == 0);
}

static void test_orders(const char *folder) {
    EmuModule *planted = load(folder, true, "none"), *right = load(folder, false, "none");
    if (!planted || !right) return;
    for (size_t i = 0; i < COUNT(faults); i++)
        if (!ends_process(&faults[i])) test_fault(&faults[i], planted, right, 1);
    CHECK(product_right(right) && !product_right(planted));
    CHECK(!emu_find(right, "no_such_kernel") && emu_args(emu_find(right, "product")) == 2);
    check_refused(emu_find(right, "missing_lane"), 1, 128, "made for up to 64");
    check_refused(emu_find(right, "missing_lane"), 0, 64, "0 blocks");
    check_refused(emu_find(right, "missing_lane"), 1, 48, "the last warp, which has 16 lanes");
    test_threads(planted, right);
    emu_unload(planted);
    emu_unload(right);
}

static bool of_global_memory(const Fault *f) { return strstr(f->report, "global") != NULL; }

static void test_races(const char *folder, const char *look) {
    EmuModule *planted = load(folder, true, look), *right = load(folder, false, look);
    if (!planted || !right) return;
    for (size_t i = 0; i < COUNT(races); i++)
        if (strcmp(look, "all") == 0 || !of_global_memory(&races[i]))
            test_fault(&races[i], planted, right, SEEDS);
    for (size_t i = 0; i < COUNT(faults); i++)
        for (uint64_t seed = 0; seed < SEEDS; seed++) CHECK(run(right, &faults[i], seed) == 0);
    CHECK(product_right(right));
    emu_unload(planted);
    emu_unload(right);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "tests/gpu";
    test_orders(folder);
    if (!emu_sanitized()) {
        test_races(folder, "shared");
        test_races(folder, "all");
    }
    return check_done("emulator");
}
