/* main_pack.c: m6c pack: offsets for the buffers of a CSV file.
 *
 * Every answer is checked before it is printed, by a sweep over time that shares nothing with the
 * solver but the numbers. */
#include "frontend/main_pack.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/main.h"
#include "passes/pack.h"

typedef struct {
    const char *path, *capacity_text, *out;
    int64_t seconds, capacity;
    bool json;
} PackArgs;

/* ---- sizes with units ---- */

static Status read_capacity(const char *text, int64_t *bytes) {
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    size_t digits = strspn(text, "0123456789.");
    double x;
    for (size_t i = 0; i < COUNT(units); i++) {
        if (strcmp(text + digits, units[i].name)) continue;
        bool ok = parse_f64(text, digits, &x) && x * units[i].factor >= 1;
        if (!ok || x * units[i].factor >= 0x1p62) break;
        *bytes = (int64_t)(x * units[i].factor);
        return NULL;
    }
    return status_make(EXIT_USAGE, "--capacity wants a size, as in 1048576 or 1MiB, not '%s'",
                       text);
}

/* ---- the check ---- */

typedef struct {
    int64_t time, at, end;
    bool begins;
} Edge;

static int by_time(const void *a, const void *b) {
    const Edge *x = a, *y = b;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return x->begins - y->begins;
}

/* How many of the n bytes ranges, sorted, end at or below `at`. */
static uint32_t below(const Edge *live, uint32_t n, int64_t at) {
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (live[mid].end <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Plays time forward with the bytes in use; returns where they end, or -1 for an overlap. */
static int64_t check_offsets(const PackItem *item, const int64_t *offset, uint32_t n) {
    Edge *edge = xcalloc(2 * (size_t)n + 1, sizeof *edge), *live = xcalloc(n + 1, sizeof *live);
    uint32_t nlive = 0, nedge = 0;
    int64_t height = 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t at = offset[i], end = at + item[i].size;
        if (at < 0) height = -1;
        if (!item[i].size) continue;
        edge[nedge++] = (Edge){item[i].lower, at, end, true};
        edge[nedge++] = (Edge){item[i].upper, at, end, false};
    }
    qsort(edge, nedge, sizeof *edge, by_time);
    for (uint32_t e = 0; e < nedge && height >= 0; e++) {
        uint32_t k = below(live, nlive, edge[e].at);
        if (!edge[e].begins) {
            memmove(live + k, live + k + 1, (--nlive - k) * sizeof *live);
        } else if (k < nlive && live[k].at < edge[e].end) {
            height = -1;
        } else {
            memmove(live + k + 1, live + k, (nlive++ - k) * sizeof *live);
            live[k] = edge[e];
            height = MAX(height, edge[e].end);
        }
    }
    free(edge);
    free(live);
    return height;
}

/* ---- answers ---- */

static Status write_rows(const PackArgs *a, const PackTable *t, const int64_t *offset) {
    Buf b = {0};
    buf_puts(&b, "id,lower,upper,size,offset\n");
    for (uint32_t i = 0; i < t->item.n; i++) {
        const PackItem *x = &t->item.p[i];
        buf_put(&b, t->id.p[i].text, t->id.p[i].n);
        buf_printf(&b, ",%lld,%lld,%lld,%lld\n", (long long)x->lower, (long long)x->upper,
                   (long long)x->size, (long long)offset[i]);
    }
    Status bad = NULL;
    if (a->out)
        bad = file_write_atomic(a->out, b.p, b.n);
    else if (fwrite(b.p, 1, b.n, stdout) != b.n || fflush(stdout))
        bad = status_errno("standard output");
    buf_free(&b);
    return bad;
}

static const char *answer(const PackArgs *a, int64_t height, int64_t bound) {
    if (a->capacity && bound > a->capacity) return "impossible";
    if (a->capacity && height > a->capacity) return "unsettled";
    return height == bound ? "optimal" : "fits";
}

/* One line on stderr: a sentence, or an object with --json. */
static void report(const PackArgs *a, int64_t height, int64_t bound, double seconds) {
    const char *what = answer(a, height, bound);
    long long h = height, least = bound, cap = a->capacity;
    if (a->json)
        fprintf(stderr,
                "{\"answer\": \"%s\", \"height\": %lld, \"bound\": %lld, \"capacity\": %lld, "
                "\"seconds\": %.3f}\n",
                what, h, least, cap, seconds);
    else if (what[0] == 'i')
        fprintf(stderr, "m6c: %s cannot fit into %lld bytes: it needs at least %lld\n", a->path,
                cap, least);
    else if (what[0] == 'u')
        fprintf(stderr,
                "m6c: no placement of %s within %lld bytes was found in %.1f s, and none was ruled "
                "out: it needs at least %lld, and %lld will do (--seconds searches longer)\n",
                a->path, cap, seconds, least, h);
    else
        fprintf(stderr, "height %lld, bound %lld (%s), %.3f s\n", h, least,
                h == least ? "the lowest possible" : "best found", seconds);
}

static int solve(const PackArgs *a, const PackTable *t) {
    enum { DEFAULT_SECONDS = 10 };
    Arena *arena = arena_new();
    int64_t *offset = arena_array(arena, int64_t, t->item.n), bound = 0;
    double begin = now_seconds();
    PackLimits limits = {.align = 1,
                         .enough = a->capacity,
                         .effort = INT64_MAX / 4,
                         .seconds = a->seconds ? (double)a->seconds : DEFAULT_SECONDS};
    int64_t height = pack_limited(t->item.p, t->item.n, &limits, offset, &bound, arena);
    double seconds = now_seconds() - begin;
    ASSERT(check_offsets(t->item.p, offset, t->item.n) == height && bound <= height);
    bool fits = !a->capacity || height <= a->capacity;
    Status bad = fits ? write_rows(a, t, offset) : NULL;
    if (!bad) report(a, height, bound, seconds);
    arena_free(arena);
    if (bad) return status_exit(bad);
    return fits ? EXIT_DONE : EXIT_INPUT;
}

static int read_and_solve(PackArgs *a) {
    char *text = NULL;
    size_t n = 0;
    Status bad = a->capacity_text ? read_capacity(a->capacity_text, &a->capacity) : NULL;
    if (!bad && a->seconds < 0) bad = status_make(EXIT_USAGE, "--seconds cannot be negative");
    if (!bad) bad = file_read(a->path, &text, &n);
    if (bad) return status_exit(bad);
    Session *s = session_new();
    PackTable t = {0};
    int code = pack_table_parse(s, a->path, text, n, &t) ? solve(a, &t) : diag_exit(s);
    pack_table_free(&t);
    session_free(s);
    free(text);
    return code;
}

int main_pack(int argc, char **argv) {
    PackArgs a = {0};
    const Option options[] = {
        {"capacity", OPT_TEXT, &a.capacity_text, "BYTES",
         "any placement as low as this will do (1MiB, 40GB); without it, the lowest"},
        {"seconds", OPT_INT, &a.seconds, "N", "of search at most (10)"},
        {"o", OPT_TEXT, &a.out, "FILE", "instead of standard output"},
        {"json", OPT_FLAG, &a.json, NULL, "the line on standard error as JSON"},
    };
    const OptionTable table = {"pack FILE.csv [--capacity BYTES]", options, COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    int code = EXIT_DONE;
    if (s || help) {
        code = status_exit(s);
    } else {
        a.path = positional.p[0];
        code = read_and_solve(&a);
    }
    vec_free(&positional);
    return code;
}
