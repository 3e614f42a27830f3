/* test_nvrtc.c: which architectures are refused and why; what NVRTC's objects are, that they come
 * from the cache the second time, and what is said when it is not there or the code is wrong.
 * argv[1]: the repository. */
#include "codegen/codegen.h"
#include "tests/check.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/m6c-nvrtc-XXXXXX";
static char *device_text; /* codegen/cuda_device.h */

static bool says(Status s, int code, const char *text) {
    bool ok = s && s->code == code && strstr(s->text, text);
    if (!ok) fprintf(stderr, "status: %s\n", s ? s->text : "success");
    free(s);
    return ok;
}

static bool passes(Status s) {
    if (s) fprintf(stderr, "status: %s\n", s->text);
    free(s);
    return !s;
}

static void check_archs(void) {
    CHECK(passes(nvrtc_check_arch("sm_80")));
    CHECK(passes(nvrtc_check_arch("sm_121")));
    CHECK(says(nvrtc_check_arch("sm_70"), EXIT_USAGE, "sm_70 (Volta) is not supported: CUDA 13"));
    CHECK(says(nvrtc_check_arch("sm_61"), EXIT_USAGE, "sm_61 is not supported: CUDA 13"));
    CHECK(says(nvrtc_check_arch("sm_75"), EXIT_USAGE, "neither bf16 arithmetic nor cp.async"));
    const char *const unknown[] = {"sm_99", "sm_080", "sm_", "sm_80x", "sm_-80", "80", ""};
    for (size_t i = 0; i < COUNT(unknown); i++)
        CHECK(says(nvrtc_check_arch(unknown[i]), EXIT_USAGE, "there are: sm_80, sm_86"));
}

/* ---- files ---- */

static char *path_of(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/plan/%s", dir, name);
    return path;
}

static bool holds(const char *name, const char *text) {
    char *data = NULL;
    size_t n = 0;
    Status s = file_read(path_of(name), &data, &n);
    bool ok = !s && n >= strlen(text) && strstr(data, text);
    free(s);
    free(data);
    return ok;
}

static ino_t inode(const char *name) {
    struct stat st;
    return stat(path_of(name), &st) == 0 ? st.st_ino : 0;
}

/* ---- sources ---- */

/* Each word of cuda_device.h once. */
static const char *const all_words =
    "KERNEL(words, 2, 32) {\n"
    "    SHARED(uint16_t, tile, 512);\n"
    "    DYNAMIC_SHARED(more);\n"
    "    uint32_t a[4], b[4], r[4];\n"
    "    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};\n"
    "    const uint16_t *x = (const uint16_t *)ARG(0);\n"
    "    char *y = (char *)ARG(1) + (int64_t)BID * 4096 + TID * 128;\n"
    "    cp_async16(tile + 8 * TID, x + 8 * TID, TID < 31);\n"
    "    cp_async16(more + 16 * TID, x + 256 + 8 * TID, 1);\n"
    "    cp_async_commit();\n"
    "    cp_async_wait(0);\n"
    "    SYNC();\n"
    "    ldmatrix_x4(a, tile + 8 * TID);\n"
    "    ldmatrix_x4_trans(b, more + 16 * TID);\n"
    "    mma_bf16(c, a, b);\n"
    "    mma_f16(c, a, b + 2);\n"
    "    c[0] = shfl_xor_f32(c[0], 1) + shfl_f32(c[1], 0) + (float)shfl_xor_f64(c[2], 2);\n"
    "    c[1] = exp2_fast(c[1]) + bf16_f32(f32_bf16(c[2])) + f16_f32(f32_f16(c[3]));\n"
    "    int32_t n = shfl_xor_i32(TID, 1) + shfl_up_i32(TID, 1) + popcount(ballot(TID > 3));\n"
    "    n += shfl_i32(n, 3) + (int32_t)shfl_xor_i64((int64_t)n << 3, 4);\n"
    "    WARP_SYNC();\n"
    "    load16(r, x + 512 + 8 * TID), load8(r, x), load4(r, x);\n"
    "    store16(y, r), store8(y + 16, a), store4(y + 24, b);\n"
    "    r[0] = pack_bf16(c[0], c[1]), r[1] = pack_f16(c[2], bits_f32(f32_bits(c[3])));\n"
    "    r[2] = (uint32_t)n, r[3] = (uint32_t)(INT32_MAX + INT32_MIN) + (uint32_t)INT64_C(1);\n"
    "    store16(y + 32, r);\n"
    "}\n";
static const char *const scale =
    "KERNEL(scale, 2, 256) { ((float *)ARG(1))[TID] = 2.0f * expf(((const float *)ARG(0))[TID]); "
    "}\n";
static const char *const wrong = "KERNEL(wrong, 1, 32) { ((float *)ARG(0))[TID] = no_such_thing; }";

static CodegenSource source(const char *name, const char *kernels) {
    Buf text = {0};
    buf_printf(&text, "#ifndef M6C_EMULATED\n%s#endif\n%s", device_text, kernels);
    return (CodegenSource){name, text.p, hash_bytes(text.p, text.n, 0)};
}

static Status compile(const CodegenSource *s, uint32_t n, const char *arch) {
    CodegenOptions o = {.dir = path_of("."), .jobs = 2};
    return nvrtc_compile(&o, s, n, arch);
}

/* ---- with the library ---- */

static bool have_nvrtc(void) {
    CodegenSource s = source("first.cu", scale);
    Status failure = compile(&s, 1, "sm_80");
    bool missing = failure && strstr(failure->text, "cannot find NVRTC");
    CHECK(missing ? failure->code == EXIT_SYSTEM : !failure);
    if (failure) fprintf(stderr, "%s\n", failure->text);
    free(failure);
    free((void *)(uintptr_t)s.text);
    return !missing;
}

static void check_objects(void) {
    CodegenSource s[] = {source("plan_0.cu", all_words), source("plan_1.cu", scale)};
    CHECK(passes(compile(s, 2, "sm_80")));
    CHECK(holds("plan_0.cubin", "\177ELF") && holds("plan_1.cubin", "\177ELF"));
    CHECK(holds("plan_1.ptx", ".target sm_80") && holds("plan_1.ptx", ".entry scale"));
    CHECK(holds("plan_0.log", "ptxas info") && holds("plan_0.log", "0 bytes spill stores"));
    CHECK(holds("plan_0.log", "'words'"));
    /* The code is looked up by its hash. */
    ino_t before = inode("plan_1.cubin");
    const char *text = s[1].text;
    s[1].text = wrong;
    CHECK(passes(compile(s, 2, "sm_80")));
    CHECK(before && inode("plan_1.cubin") == before);
    CHECK(says(compile(s, 2, "sm_90"), EXIT_SYSTEM, "plan_1.cu"));
    s[1].text = text;
    CHECK(passes(compile(s, 2, "sm_90")));
    CHECK(holds("plan_1.ptx", ".target sm_90") && inode("plan_1.cubin") != before);
    for (int i = 0; i < 2; i++) free((void *)(uintptr_t)s[i].text);
}

static void check_all_archs(void) {
    const char *const archs[] = {"sm_86",  "sm_87",  "sm_88",  "sm_89", "sm_100",
                                 "sm_103", "sm_110", "sm_120", "sm_121"};
    CodegenSource s = source("plan_2.cu", all_words);
    for (size_t i = 0; i < COUNT(archs); i++) {
        Status failure = compile(&s, 1, archs[i]);
        bool old = failure && strstr(failure->text, "does not compile for");
        CHECK(!failure || old);
        if (failure) fprintf(stderr, "%s\n", failure->text);
        free(failure);
    }
    free((void *)(uintptr_t)s.text);
}

static void check_wrong(void) {
    CodegenSource s[] = {source("plan_3.cu", scale), source("plan_4.cu", wrong)};
    CHECK(says(compile(s, 2, "sm_80"), EXIT_SYSTEM, "\"no_such_thing\" is undefined"));
    char where[4200];
    snprintf(where, sizeof where, "NVRTC failed on %s:\nplan_4.cu(", path_of("./plan_4.cu"));
    CHECK(says(compile(s, 2, "sm_80"), EXIT_SYSTEM, where));
    CHECK(says(compile(s, 2, "sm_75"), EXIT_USAGE, "Turing"));
    setenv("M6C_NVRTC", "/no/such/libnvrtc.so", 1);
    CHECK(says(compile(s, 1, "sm_80"), EXIT_SYSTEM, "M6C_NVRTC: /no/such/libnvrtc.so"));
    for (int i = 0; i < 2; i++) free((void *)(uintptr_t)s[i].text);
}

static void start(const char *root) {
    Buf path = {0};
    size_t n;
    buf_printf(&path, "%s/codegen/cuda_device.h", root);
    CHECK(passes(file_read(path.p, &device_text, &n)));
    CHECK(mkdtemp(dir) != NULL);
    CHECK(passes(make_dirs(path_of("."))));
    setenv("M6C_CACHE", path_of("cache"), 1);
    buf_free(&path);
}

static void stop(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    CHECK(system(command) == 0);
    free(device_text);
}

int main(int argc, char **argv) {
    check_archs();
    start(argc > 1 ? argv[1] : ".");
    bool have = have_nvrtc();
    if (have) {
        check_objects();
        check_all_archs();
        check_wrong();
    }
    stop();
    int status = check_done("nvrtc");
    return status || have ? status : 77;
}
