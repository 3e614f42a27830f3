/* main_calibrate.c: m6c calibrate: measures this machine, or the steps of one plan on it, or, as
 * several ranks, the links between them.
 *
 * Everything is run several times. Of a kernel made for the purpose a short time counts, since
 * other programs only ever lengthen it; of a plan's step the median, since medians add up to the
 * median of the whole. The profile is parsed before it replaces the one before. */
#include "frontend/main_calibrate.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/main.h"

enum { PARTS = 6 };

typedef struct {
    const char *out, *disk, *link;
    bool quick, json, weights;
    int64_t threads;
} CalibrateArgs;

void calibrate_progress(Calibration *c, const char *what) {
    fprintf(stderr, "calibrate %d/%d: %s\n", ++c->part, c->parts, what);
}

void calibrate_put(Calibration *c, double x, double scale, const char *unit) {
    char text[32];
    snprintf(text, sizeof text, "%.3g", x / scale);
    buf_double(&c->text, strtod(text, NULL));
    buf_puts(&c->text, unit);
}

double median(double *x, size_t n) {
    qsort(x, n, sizeof *x, compare_doubles);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

double undisturbed(double *x, size_t n) {
    qsort(x, n, sizeof *x, compare_doubles);
    return x[n / 5];
}

void stopwatch_start(Calibration *c) {
    if (!c->used) c->used = xcalloc(2 * (size_t)pool_threads(c->pool), sizeof *c->used);
    pool_cpu_seconds(c->pool, c->used);
    c->started = now_seconds();
}

double stopwatch_stop(Calibration *c) {
    double wall = now_seconds() - c->started, most = 0;
    int n = pool_threads(c->pool);
    pool_cpu_seconds(c->pool, c->used + n);
    for (int i = 0; i < n; i++) most = MAX(most, c->used[n + i] - c->used[i]);
    return most > 0 ? MIN(most, wall) : wall;
}

/* ---- the head ---- */

/* The processor's name, without what a quoted string cannot hold. */
static void put_processor(Buf *out) {
    char *text = NULL, *name = NULL;
    size_t n = 0;
    Status bad = file_read("/proc/cpuinfo", &text, &n);
    free(bad);
    if (!bad) name = strstr(text, "model name");
    if (name) name = strchr(name, ':');
    if (name && name[1] == ' ')
        for (name += 2; *name >= ' ' && *name <= '~'; name++)
            if (*name != '"') buf_put(out, name, 1);
    if (!out->n || out->p[out->n - 1] == '"') buf_puts(out, "a CPU");
    free(text);
}

static void put_head(Calibration *c) {
    Buf *out = &c->text;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    Buf name = {0};
    put_processor(&name);
    buf_printf(out, "m6c-machine 1\nname \"%s, %d threads\"\n", name.p, pool_threads(c->pool));
    buf_free(&name);
    buf_printf(out, "source \"measured by m6c calibrate%s\"\n", c->quick ? " --quick" : "");
    buf_printf(out, "target cpu\nthreads %d\n", pool_threads(c->pool));
    if (pages > 0 && page > 0) {
        buf_puts(out, "memory host ");
        calibrate_put(c, (double)pages * (double)page, 0x1p30, "GiB\n");
    }
}

/* ---- results ---- */

static Status profile_path(const CalibrateArgs *a, Buf *path) {
    if (a->out) return buf_puts(path, a->out), NULL;
    TRY(cache_dir(path));
    buf_puts(path, "/profile.txt");
    return NULL;
}

static double product_us(const Machine *m, int64_t side) {
    Work w = {.what = "einsum",
              .product = true,
              .m = side,
              .n = side,
              .k = side,
              .batch = 1,
              .flops = 2 * (double)side * (double)side * (double)side};
    return cost_us(m, &w);
}

static double copy_rate(const Machine *m, Mem from, Mem to) {
    Work w = {.what = "", .copy = true, .from = from, .to = to, .bytes = 256e6};
    return w.bytes / cost_us(m, &w) * 1e-3;
}

static void report(const CalibrateArgs *a, const Machine *m, const char *path, uint32_t pieces,
                   double seconds) {
    double gflops = 2 * 1024.0 * 1024 * 1024 / product_us(m, 1024) * 1e-3;
    double stream = 64e6 / cost_us(m, &(Work){.what = "neg", .bytes = 64e6}) * 1e-3;
    double in = copy_rate(m, MEM_HOST, MEM_DEVICE), out = copy_rate(m, MEM_DEVICE, MEM_HOST);
    double rd = copy_rate(m, MEM_DISK, MEM_HOST), wr = copy_rate(m, MEM_HOST, MEM_DISK);
    if (a->json) {
        json_t *o =
            json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f}", "profile", path, "name",
                      machine_name(m), "product_gflops", gflops, "memory_gb_s", stream,
                      "copy_in_gb_s", in, "copy_out_gb_s", out, "disk_read_gb_s", rd,
                      "disk_write_gb_s", wr, "steps", (json_int_t)pieces, "seconds", seconds);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(4));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("%s: %s, %.1f s\n", path, machine_name(m), seconds);
    if (pieces) printf("prices of %u pieces of work\n", pieces);
    printf("products %.1f GFLOP/s at 1024^3, memory %.1f GB/s at 64 MB\n", gflops, stream);
    printf("copies in %.2f GB/s, out %.2f GB/s; disk read %.2f GB/s, write %.2f GB/s\n", in, out,
           rd, wr);
}

/* Parses the text as a check, and writes it in the usual order of lines. */
static Status finish(Session *s, const Buf *path, const Buf *text, Machine **m) {
    const char *kept = arena_strdup(session_arena(s), text->p, text->n);
    Buf out = {0};
    *m = machine_parse(s, path->p, kept, text->n);
    if (!*m) return status_make(EXIT_SYSTEM, "the measured profile is not valid");
    machine_print(*m, &out);
    Status failure = file_write_atomic(path->p, out.p, out.n);
    buf_free(&out);
    return failure;
}

/* ---- the two commands ---- */

static Status make_folder(Calibration *c, Buf *folder) {
    const char *tmp = getenv("TMPDIR");
    buf_printf(folder, "%s/m6c-calibrate-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder->p)) return status_errno("%s", folder->p);
    c->folder = folder->p;
    return NULL;
}

static void remove_folder(const char *folder) {
    if (!folder) return;
    static const char *const names[] = {"plan_0.c", "plan_0.so", "plan_attention.c",
                                        "plan_attention.so"};
    Buf path = {0};
    for (size_t i = 0; i < COUNT(names); i++) {
        path.n = 0;
        buf_printf(&path, "%s/%s", folder, names[i]);
        unlink(path.p);
    }
    rmdir(folder);
    buf_free(&path);
}

static Status measure_all(Calibration *c) {
    put_head(c);
    TRY(measure_kernels(c));
    TRY(measure_products(c));
    TRY(measure_copies(c));
    return measure_disk(c);
}

static Status measure_machine(Calibration *c, const CalibrateArgs *a) {
    double begin = now_seconds();
    Buf folder = {0}, path = {0};
    Machine *m = NULL;
    Status s = make_folder(c, &folder);
    if (!s) s = a->weights ? measure_weights(c) : measure_all(c);
    remove_folder(c->folder);
    if (!s && !a->weights) s = profile_path(a, &path);
    if (!s && !a->weights) s = finish(c->session, &path, &c->text, &m);
    if (m && !s) report(a, m, path.p, 0, now_seconds() - begin);
    buf_free(&folder);
    buf_free(&path);
    buf_free(&c->text);
    return s;
}

/* The profile that gets what is measured: the one to be written where it exists already. */
static Machine *base_machine(Session *s, const char *target, const char *path) {
    Machine *m = machine_load(s, access(path, R_OK) == 0 ? path : NULL, target);
    bool part = m && !machine_has_groups(m);
    if (m && !part)
        diag_error(s, (Loc){0}, "%s is a cluster of groups: measure the machine of each", path);
    return part ? m : NULL;
}

static Status measure_steps(Calibration *c, const CalibrateArgs *a, Plan *p, const char *dir) {
    double begin = now_seconds();
    bool first = c->world->ops->rank(c->world) == 0;
    Buf path = {0}, text = {0};
    uint32_t pieces = 0;
    Status s = p ? profile_path(a, &path) : NULL;
    Machine *m = p && !s ? base_machine(c->session, p->target, path.p) : NULL;
    if (!m && !s) s = status_make(EXIT_INPUT, "%s", "");
    if (!s) {
        if (first) calibrate_progress(c, "the plan's steps");
        if (!a->disk) c->disk = dir;
        s = measure_plan(c, p, dir, m, &pieces);
        machine_print(m, &text);
    }
    if (!s && first) s = finish(c->session, &path, &text, &m);
    if (!s && first) report(a, m, path.p, pieces, now_seconds() - begin);
    buf_free(&path);
    buf_free(&text);
    return s;
}

/* By several ranks: a profile, of this machine as it was measured before, with their network. */
static Status write_network(Calibration *c, const CalibrateArgs *a, const Buf *lines) {
    Buf path = {0}, text = {0};
    Session *s = c->session;
    Status failure = profile_path(a, &path);
    const char *kept = arena_strdup(session_arena(s), lines->p, lines->n);
    Machine *m = failure ? NULL : base_machine(s, "cpu", path.p);
    if (m && machine_set_network(m, kept)) {
        machine_print(m, &text);
        failure = finish(s, &path, &text, &m);
        if (!failure) printf("%s: %s\n%s", path.p, machine_name(m), kept);
    } else if (!failure)
        failure = status_make(EXIT_INPUT, "%s", "");
    buf_free(&path);
    buf_free(&text);
    return failure;
}

static Status measure_network(Calibration *c, const CalibrateArgs *a) {
    Buf lines = {0};
    bool first = c->world->ops->rank(c->world) == 0;
    if (a->weights || a->link || a->json)
        return status_make(EXIT_USAGE, "several ranks measure what is between them: only -o and "
                                       "--quick go with that");
    c->parts = 1;
    if (first) calibrate_progress(c, "links between ranks");
    Status s = measure_links(c->world, c->quick, &lines);
    if (!s && first) s = write_network(c, a, &lines);
    buf_free(&lines);
    return s;
}

/* "4GB/s": bytes a second. */
static Status parse_link(const char *text, double *rate) {
    static const struct {
        const char *unit;
        double scale;
    } units[] = {{"MB/s", 1e6}, {"GB/s", 1e9}};
    for (size_t i = 0; i < COUNT(units); i++) {
        size_t n = strlen(text), u = strlen(units[i].unit);
        double x = 0;
        if (n <= u || strcmp(text + n - u, units[i].unit) != 0) continue;
        if (!parse_f64(text, n - u, &x) || !(x > 0 && x < 1e9)) continue;
        *rate = x * units[i].scale;
        return NULL;
    }
    return status_make(EXIT_USAGE, "--link takes a rate, such as 4GB/s, not '%s'", text);
}

static Status measure(Calibration *c, const CalibrateArgs *a, Plan *p, const char *dir) {
    if (!dir && c->world->ops->size(c->world) > 1) return measure_network(c, a);
    if (!(c->pool = pool_open((int)a->threads)))
        return status_make(EXIT_SYSTEM, "cannot start threads");
    Status s = dir ? measure_steps(c, a, p, dir) : measure_machine(c, a);
    free(c->used);
    pool_close(c->pool);
    return s;
}

static int calibrate(const CalibrateArgs *a, const char *dir) {
    Calibration c = {.quick = a->quick, .disk = a->disk ? a->disk : ".", .parts = dir ? 1 : PARTS};
    Status s = a->link ? parse_link(a->link, &c.link) : NULL;
    if (s) return status_exit(s);
    c.session = session_new();
    Plan *p = dir ? plan_load(c.session, dir, "plan.txt") : NULL;
    s = comm_start(
        &(CommConfig){.ranks = p ? MAX(p->ranks, (int64_t)1) : 0, .again = "m6c calibrate DIR"},
        &c.world);
    if (!s) s = measure(&c, a, p, dir);
    int code = comm_finish(c.world, s, status_exit);
    if (p) plan_free(p);
    session_free(c.session);
    return code;
}

int main_calibrate(int argc, char **argv) {
    CalibrateArgs a = {0};
    const Option options[] = {
        {"o", OPT_TEXT, &a.out, "FILE", "the profile (profile.txt in the cache folder)"},
        {"quick", OPT_FLAG, &a.quick, NULL, "few shapes and sizes: some seconds"},
        {"disk", OPT_TEXT, &a.disk, "DIR", "measure the disk there (here)"},
        {"link", OPT_TEXT, &a.link, "RATE", "of copies from and to the host, as in m6c run"},
        {"threads", OPT_INT, &a.threads, "N", "threads (all cores)"},
        {"weights", OPT_FLAG, &a.weights, NULL, "print the time of each op, in additions"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object about the profile"},
    };
    const OptionTable table = {"calibrate [DIR] [-o FILE] [options]\n\nMeasures this machine; with "
                               "the folder of a plan, the plan's steps; as several ranks "
                               "(mpirun), the links between them.",
                               options, COUNT(options), 0, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && !help && (a.threads < 0 || a.threads > 4096))
        s = status_make(EXIT_USAGE, "--threads must be from 0 to 4096");
    int code = s || help ? status_exit(s) : calibrate(&a, positional.n ? positional.p[0] : NULL);
    vec_free(&positional);
    return code;
}
