/* machine.c: descriptions of machines, as text.
 *
 *     m6c-machine 1
 *     name "…"                             how people call it
 *     source "…"                           where its figures come from; any number of lines
 *     target cpu                           or a GPU: sm_80
 *     threads 2 / devices 8 / nodes 1
 *     memory device 80GB                   device, host, disk
 *     launch 3us                           what a kernel costs besides its work
 *     vector 9.7TOPS                       additions per second of generated kernels
 *     bandwidth 1.6TB/s [at 32KB]          of memory; at: while a step touches so many bytes
 *     host-launch, host-vector, host-bandwidth    the same of the host's cores
 *     peak f32 15.7TFLOPS efficiency 0.8   of products, and the part that large ones reach
 *     product f32 nn 64x64x256 [batch 8] 90GFLOPS  measured: dtype, transposed or not, MxNxK
 *     attention f32 30GFLOPS, attention-grad …
 *     copy in 25GB/s latency 10us          in, out, read, write
 *     slow compute while in out 0.9        the speed of one stream while others work (of in, out,
 *                                         host, read, write, comm, comm2)
 *     link nvlink 300GB/s latency 2us      a level of the network, from inner to outer; more:
 *         overhead 1us    what each message costs its sender beside others (else: the latency)
 *         joins 8         so many devices, or groups of the line before; else the first line joins
 *                         a node's devices and the last one whatever is left
 *         ports 4         links of such a group to this level, shared by its devices (else: 1)
 *         bus             the group's devices share one link of this rate, instead of ports
 *         burst 64KB      bytes that a shaped link saves up in pauses, to be sent at once
 *         header 88B      bytes that each message takes beside its own
 *         long 21MB/s from 64KB           the rate of messages of at least so many bytes; more of
 *                                         them, by size: rates between are interpolated
 *         rails           port i leads to the ports i of other groups
 *         bigraph 8       so many switches in two layers, each linked to all of the other layer
 *     step "add gelu" [host] [product …] [copy device host] [flops 5e6] bytes 2e6 12.5us
 *
 * A cluster of unequal nodes has only name, source and link lines beside its groups:
 *     group 2 "v100.m6c-machine"           two nodes of that file's kind, which describes one; its
 *                                          path is from this file's folder. Ranks fill groups in
 *                                          this order, and the groups' links join what is inside
 *                                          a node, the links of the cluster its nodes
 *
 * Lines come in any order; '#' begins a comment. Without host lines a cpu's host is itself. */
#include "passes/machine_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 20, MAX_LINES = 65536 };

typedef struct {
    Machine *m;
    uint16_t file;
    const char *p, *line, *end; /* cursor, start and end of the current line */
    uint32_t lineno;
    bool bad;           /* something was wrong in this line: say no more about it */
    bool part;          /* of a cluster: a group's file */
    uint64_t seen;      /* rows of `keys` that may stand once */
    const char *device; /* the first key that tells of a device, not of a cluster of groups */
    Loc device_at;
} Reader;

/* ---- units ---- */

static const struct {
    const char *name;
    UnitKind kind;
    double scale;
} units[] = {
    {"B", UNIT_BYTES, 1},         {"KB", UNIT_BYTES, 1e3},     {"MB", UNIT_BYTES, 1e6},
    {"GB", UNIT_BYTES, 1e9},      {"TB", UNIT_BYTES, 1e12},    {"KiB", UNIT_BYTES, 0x1p10},
    {"MiB", UNIT_BYTES, 0x1p20},  {"GiB", UNIT_BYTES, 0x1p30}, {"TiB", UNIT_BYTES, 0x1p40},
    {"B/s", UNIT_RATE, 1},        {"KB/s", UNIT_RATE, 1e3},    {"MB/s", UNIT_RATE, 1e6},
    {"GB/s", UNIT_RATE, 1e9},     {"TB/s", UNIT_RATE, 1e12},   {"ns", UNIT_TIME, 1e-3},
    {"us", UNIT_TIME, 1},         {"ms", UNIT_TIME, 1e3},      {"s", UNIT_TIME, 1e6},
    {"MFLOPS", UNIT_FLOPS, 1e6},  {"GFLOPS", UNIT_FLOPS, 1e9}, {"TFLOPS", UNIT_FLOPS, 1e12},
    {"PFLOPS", UNIT_FLOPS, 1e15}, {"MOPS", UNIT_OPS, 1e6},     {"GOPS", UNIT_OPS, 1e9},
    {"TOPS", UNIT_OPS, 1e12},
};
static const char *const unit_example[] = {
    [UNIT_BYTES] = "bytes, such as 80GB",
    [UNIT_RATE] = "a bandwidth, such as 12.5GB/s",
    [UNIT_TIME] = "a time, such as 1.2us",
    [UNIT_FLOPS] = "a rate of products, such as 112TFLOPS",
    [UNIT_OPS] = "a rate of operations, such as 9.7TOPS",
};
_Static_assert(COUNT(unit_example) == UNIT_KINDS, "an example of each kind");

/* ---- words and numbers ---- */

static Loc here(const Reader *r, const char *p) {
    return (Loc){r->file, (uint16_t)MIN(p - r->line + 1, (ptrdiff_t)UINT16_MAX), r->lineno};
}

#define FAIL(r, p, ...)                                                                            \
    do {                                                                                           \
        if (!(r)->bad) diag_error((r)->m->session, here((r), (p)), __VA_ARGS__);                   \
        (r)->bad = true;                                                                           \
    } while (0)

static void skip_spaces(Reader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t')) r->p++;
}

static bool at_end(Reader *r) {
    skip_spaces(r);
    return r->p >= r->end || *r->p == '#';
}

static size_t word_length(const Reader *r) {
    size_t n = 0, most = (size_t)(r->end - r->p);
    while (n < most && r->p[n] != ' ' && r->p[n] != '\t' && r->p[n] != '#') n++;
    return n;
}

/* The next word, interned; "" after a complaint. */
static const char *word(Reader *r, const char *what) {
    skip_spaces(r);
    size_t n = word_length(r);
    if (n == 0) FAIL(r, r->p, "expected %s", what);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)r->p[i] <= ' ' || (unsigned char)r->p[i] > '~' || r->p[i] == '"')
            FAIL(r, r->p + i, "expected %s", what);
    const char *s = intern_n(r->m->session, r->bad ? "" : r->p, r->bad ? 0 : n);
    r->p += n;
    return s;
}

static bool accept(Reader *r, const char *what) {
    skip_spaces(r);
    size_t n = word_length(r);
    if (r->bad || n != strlen(what) || memcmp(r->p, what, n) != 0) return false;
    r->p += n;
    return true;
}

static void expect(Reader *r, const char *what) {
    if (!accept(r, what)) FAIL(r, r->p, "expected '%s'", what);
}

static const char *quoted(Reader *r, const char *what) {
    skip_spaces(r);
    if (r->p >= r->end || *r->p != '"') {
        FAIL(r, r->p, "expected %s in quotes", what);
        return "";
    }
    const char *start = ++r->p;
    while (r->p < r->end && *r->p != '"' && (unsigned char)*r->p >= ' ') r->p++;
    if (r->p >= r->end || *r->p != '"') {
        FAIL(r, r->p, "expected %s, without line ends and ended by a quote", what);
        return "";
    }
    return intern_n(r->m->session, start, (size_t)(r->p++ - start));
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Bytes of an unsigned decimal number at the cursor. */
static size_t number_length(const Reader *r) {
    size_t n = 0, most = (size_t)(r->end - r->p);
    while (n < most && (digit(r->p[n]) || r->p[n] == '.')) n++;
    if (n > 0 && n < most && r->p[n] == 'e') {
        size_t e = n + 1;
        if (e < most && (r->p[e] == '-' || r->p[e] == '+')) e++;
        if (e < most && digit(r->p[e]))
            for (n = e; n < most && digit(r->p[n]);) n++;
    }
    return n;
}

static double number(Reader *r, const char *what) {
    double x = 0;
    skip_spaces(r);
    size_t n = number_length(r);
    if (n == 0 || !parse_f64(r->p, n, &x)) FAIL(r, r->p, "expected %s, a number", what);
    r->p += n;
    return r->bad ? 0 : x;
}

static int64_t integer(Reader *r, const char *what, int64_t most) {
    int64_t x = 0;
    skip_spaces(r);
    size_t n = 0;
    while (r->p + n < r->end && digit(r->p[n])) n++;
    if (n == 0 || !parse_i64(r->p, n, &x) || x < 1 || x > most)
        FAIL(r, r->p, "expected %s, from 1 to %lld", what, (long long)most);
    r->p += n;
    return r->bad ? 1 : x;
}

/* A number with a unit right behind it. */
static Quantity quantity(Reader *r, UnitKind kind) {
    Quantity q = {0};
    skip_spaces(r);
    const char *start = r->p, *unit;
    size_t n = number_length(r);
    if (n == 0 || !parse_f64(start, n, &q.x)) FAIL(r, start, "expected %s", unit_example[kind]);
    unit = r->p += n;
    size_t length = word_length(r);
    for (uint32_t i = 0; i < COUNT(units); i++)
        if (units[i].kind == kind && strlen(units[i].name) == length &&
            memcmp(units[i].name, unit, length) == 0)
            q.unit = i, q.value = q.x * units[i].scale;
    r->p += length;
    if (q.value == 0 && q.x > 0) FAIL(r, unit, "expected %s", unit_example[kind]);
    if (!(q.value >= 1e-9 && q.value <= 1e24))
        FAIL(r, start, "expected %s, more than nothing", unit_example[kind]);
    return q;
}

static Quantity latency(Reader *r) {
    return accept(r, "latency") ? quantity(r, UNIT_TIME) : (Quantity){0};
}

/* One of n names, as its index; 0 after a complaint. */
static size_t choice(Reader *r, const char *what, const char *const *name, size_t n) {
    skip_spaces(r);
    const char *at = r->p, *w = word(r, what);
    for (size_t i = 0; i < n && !r->bad; i++)
        if (strcmp(name[i], w) == 0) return i;
    const char *near = r->bad ? NULL : nearest_word(w, name, n);
    if (near)
        FAIL(r, at, "'%s' is no %s; did you mean '%s'?", w, what, near);
    else
        FAIL(r, at, "'%s' is no %s", w, what);
    return 0;
}

static Dtype dtype(Reader *r) {
    const char *name[DT_TUPLE];
    for (int i = 0; i < DT_TUPLE; i++) name[i] = dtype_name((Dtype)i);
    return (Dtype)choice(r, "dtype", name, DT_TUPLE);
}

static Mem memory(Reader *r) {
    const char *name[MEM_COUNT];
    for (int i = 0; i < MEM_COUNT; i++) name[i] = mem_name((Mem)i);
    return (Mem)choice(r, "memory", name, MEM_COUNT);
}

static Stream stream(Reader *r) {
    const char *name[STREAM_COUNT];
    for (int i = 0; i < STREAM_COUNT; i++) name[i] = stream_name((Stream)i);
    return (Stream)choice(r, "stream", name, STREAM_COUNT);
}

/* ---- lines ---- */

void *machine_grow(Machine *m, void *p, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap) return p;
    *cap = 2 * n + 8;
    void *to = arena_alloc(session_arena(m->session), *cap * size);
    return n ? memcpy(to, p, n * size) : to;
}

static void read_name(Reader *r) { r->m->name = quoted(r, "a name"); }
static void read_source(Reader *r) { PUSH(r->m, &r->m->source, quoted(r, "a source")); }
static void read_target(Reader *r) { r->m->target = word(r, "a target"); }
static void read_threads(Reader *r) { r->m->threads = integer(r, "threads", 1 << 16); }
static void read_devices(Reader *r) { r->m->devices = integer(r, "devices", 1 << 24); }
static void read_nodes(Reader *r) { r->m->nodes = integer(r, "nodes", 1 << 24); }
static void read_launch(Reader *r) { r->m->launch = quantity(r, UNIT_TIME); }
static void read_vector(Reader *r) { r->m->vector = quantity(r, UNIT_OPS); }
static void read_host_launch(Reader *r) { r->m->host_launch = quantity(r, UNIT_TIME); }
static void read_host_vector(Reader *r) { r->m->host_vector = quantity(r, UNIT_OPS); }

static void read_memory(Reader *r) {
    Mem mem = memory(r);
    r->m->memory[mem] = quantity(r, UNIT_BYTES);
}

static Band band(Reader *r) {
    Band b = {.rate = quantity(r, UNIT_RATE)};
    if (accept(r, "at")) b.bytes = quantity(r, UNIT_BYTES);
    return b;
}

static void read_bandwidth(Reader *r) { PUSH(r->m, &r->m->bandwidth, band(r)); }
static void read_host_bandwidth(Reader *r) { PUSH(r->m, &r->m->host_bandwidth, band(r)); }

static void read_peak(Reader *r) {
    Dtype d = dtype(r);
    r->m->peak[d] = quantity(r, UNIT_FLOPS);
    r->m->efficiency[d] = 1;
    if (!accept(r, "efficiency")) return;
    const char *at = (skip_spaces(r), r->p);
    r->m->efficiency[d] = number(r, "an efficiency");
    if (!(r->m->efficiency[d] >= 1e-3 && r->m->efficiency[d] <= 1))
        FAIL(r, at, "an efficiency is from 0.001 to 1");
}

static void read_attention(Reader *r) {
    Dtype d = dtype(r);
    r->m->attention[d] = quantity(r, UNIT_FLOPS);
}

static void read_attention_grad(Reader *r) {
    Dtype d = dtype(r);
    r->m->attention_grad[d] = quantity(r, UNIT_FLOPS);
}

static void times(Reader *r) {
    if (r->p < r->end && *r->p == 'x')
        r->p++;
    else
        FAIL(r, r->p, "expected a shape, such as 64x64x256");
}

/* "f32 nn 64x64x256 [batch 8]" */
static void read_shape(Reader *r, Work *w) {
    static const char *const form[] = {"nn", "nt", "tn", "tt"};
    w->dtype = dtype(r);
    size_t f = choice(r, "transposition", form, COUNT(form));
    w->ta = f >= 2, w->tb = f % 2 == 1;
    w->m = integer(r, "rows", INT64_C(1) << 31), times(r);
    w->n = integer(r, "columns", INT64_C(1) << 31), times(r);
    w->k = integer(r, "a shared extent", INT64_C(1) << 31);
    w->batch = accept(r, "batch") ? integer(r, "a batch", INT64_C(1) << 40) : 1;
    w->product = true;
}

static void read_product(Reader *r) {
    Work w = {0};
    skip_spaces(r);
    Loc at = here(r, r->p);
    read_shape(r, &w);
    ProductPoint p = {w.dtype, w.ta, w.tb, w.m, w.n, w.k, w.batch, quantity(r, UNIT_FLOPS), at};
    PUSH(r->m, &r->m->product, p);
}

static void read_copy(Reader *r) {
    skip_spaces(r);
    const char *at = r->p;
    Stream s = stream(r);
    if (s == STREAM_COMPUTE || s == STREAM_HOST) FAIL(r, at, "copies are in, out, read or write");
    r->m->copy[s] = quantity(r, UNIT_RATE);
    r->m->latency[s] = latency(r);
}

static void read_slow(Reader *r) {
    Slow s = {.stream = stream(r)};
    expect(r, "while");
    do {
        s.set |= 1u << stream(r);
    } while (!r->bad && !at_end(r) && !digit(*r->p) && *r->p != '.');
    if (s.set >> s.stream & 1) FAIL(r, r->p, "a stream does not slow itself");
    skip_spaces(r);
    const char *at = r->p;
    s.factor = number(r, "a speed");
    if (!(s.factor >= 1e-3 && s.factor <= 1)) FAIL(r, at, "a speed is from 0.001 to 1");
    PUSH(r->m, &r->m->slow, s);
}

static void read_long(Reader *r, Link *l) {
    Band *b = &l->longer[l->nlong++];
    b->rate = quantity(r, UNIT_RATE);
    expect(r, "from");
    const char *at = (skip_spaces(r), r->p);
    b->bytes = quantity(r, UNIT_BYTES);
    if (l->nlong > 1 && b->bytes.value <= b[-1].bytes.value)
        FAIL(r, at, "rates of longer messages follow those of shorter ones");
}

static void read_link(Reader *r) {
    Link l = {.name = word(r, "a name")};
    l.rate = quantity(r, UNIT_RATE);
    l.latency = latency(r);
    if (accept(r, "overhead")) l.overhead = quantity(r, UNIT_TIME);
    if (accept(r, "joins")) l.joins = integer(r, "groups that the link joins", 1 << 24);
    if (accept(r, "ports")) l.ports = integer(r, "ports of a group", 1 << 24);
    l.bus = accept(r, "bus");
    if (accept(r, "burst")) l.burst = quantity(r, UNIT_BYTES);
    if (accept(r, "header")) l.header = quantity(r, UNIT_BYTES);
    while (l.nlong < LINK_RATES && accept(r, "long")) read_long(r, &l);
    l.rails = accept(r, "rails");
    if (accept(r, "bigraph")) l.bigraph = integer(r, "switches", 1 << 16);
    PUSH(r->m, &r->m->link, l);
}

static void read_group(Reader *r) {
    skip_spaces(r);
    if (r->part) FAIL(r, r->p, "the file of a group has no groups of its own");
    MachineGroup x = {.nodes = integer(r, "nodes", 1 << 24)};
    skip_spaces(r);
    x.loc = here(r, r->p);
    x.file = quoted(r, "the file of their machine");
    PUSH(r->m, &r->m->group, x);
}

static void read_step(Reader *r) {
    Priced s = {.work.what = quoted(r, "ops")};
    s.work.host = accept(r, "host");
    if (accept(r, "product")) read_shape(r, &s.work);
    if (accept(r, "copy")) {
        s.work.copy = true;
        s.work.from = memory(r);
        s.work.to = memory(r);
    }
    if (accept(r, "flops")) s.work.flops = number(r, "operations");
    expect(r, "bytes");
    s.work.bytes = number(r, "bytes");
    s.us = quantity(r, UNIT_TIME);
    s.hash = work_hash(&s.work);
    PUSH(r->m, &r->m->step, s);
}

static const struct {
    const char *key;
    void (*read)(Reader *r);
    bool once;
    bool cluster; /* also of a cluster of groups */
} keys[] = {
    {"name", read_name, true, true},
    {"source", read_source, false, true},
    {"group", read_group, false, true},
    {"target", read_target, true, false},
    {"threads", read_threads, true, false},
    {"devices", read_devices, true, false},
    {"nodes", read_nodes, true, false},
    {"memory", read_memory, false, false},
    {"launch", read_launch, true, false},
    {"vector", read_vector, true, false},
    {"bandwidth", read_bandwidth, false, false},
    {"host-launch", read_host_launch, true, false},
    {"host-vector", read_host_vector, true, false},
    {"host-bandwidth", read_host_bandwidth, false, false},
    {"peak", read_peak, false, false},
    {"product", read_product, false, false},
    {"attention", read_attention, false, false},
    {"attention-grad", read_attention_grad, false, false},
    {"copy", read_copy, false, false},
    {"slow", read_slow, false, false},
    {"link", read_link, false, true},
    {"step", read_step, false, false},
};

static void read_line(Reader *r) {
    if (at_end(r)) return;
    const char *at = r->p, *key = word(r, "a key"), *names[COUNT(keys)];
    for (size_t i = 0; i < COUNT(keys) && !r->bad; i++) {
        names[i] = keys[i].key;
        if (strcmp(key, keys[i].key) != 0) continue;
        if (keys[i].once && r->seen >> i & 1) FAIL(r, at, "a second line '%s'", key);
        r->seen |= (uint64_t)1 << i;
        if (!keys[i].cluster && !r->device) r->device = key, r->device_at = here(r, at);
        keys[i].read(r);
        if (!r->bad && !at_end(r)) FAIL(r, r->p, "expected the end of the line");
        return;
    }
    const char *near = r->bad ? NULL : nearest_word(key, names, COUNT(keys));
    if (near)
        FAIL(r, at, "a machine has no '%s'; did you mean '%s'?", key, near);
    else
        FAIL(r, at, "a machine has no '%s'", key);
}

/* ---- the whole ---- */

/* A cluster of groups says what they are called and how they are linked. */
static void check_cluster(Reader *r) {
    const Machine *m = r->m;
    if (!m->name)
        diag_error(m->session, (Loc){r->file, 0, 0}, "a machine needs a line like 'name \"…\"'");
    if (r->device)
        diag_error(m->session, r->device_at,
                   "a cluster of groups has no '%s': the files of its groups say it", r->device);
}

/* What every price needs. */
static void check_whole(Reader *r) {
    const Machine *m = r->m;
    bool cpu = !m->target || strcmp(m->target, "cpu") == 0, products = m->product.n > 0;
    for (int i = 0; i < DT_COUNT; i++) products |= m->peak[i].value > 0;
    const struct {
        bool there;
        const char *line;
    } need[] = {
        {m->name != NULL, "name \"…\""},
        {m->target != NULL, "target cpu"},
        {m->launch.value > 0, "launch 3us"},
        {m->vector.value > 0, "vector 9.7TOPS"},
        {m->bandwidth.n > 0, "bandwidth 1.6TB/s"},
        {products, "peak f32 15.7TFLOPS"},
        {cpu || m->host_vector.value > 0, "host-vector 0.5TOPS"},
        {cpu || m->host_bandwidth.n > 0, "host-bandwidth 100GB/s"},
        {m->copy[STREAM_IN].value > 0, "copy in 12GB/s"},
        {m->copy[STREAM_OUT].value > 0, "copy out 12GB/s"},
        {m->copy[STREAM_READ].value > 0, "copy read 2GB/s"},
        {m->copy[STREAM_WRITE].value > 0, "copy write 1GB/s"},
    };
    for (size_t i = 0; i < COUNT(need); i++)
        if (!need[i].there)
            diag_error(m->session, (Loc){r->file, 0, 0}, "a machine needs a line like '%s'",
                       need[i].line);
}

static void read_lines(Reader *r, const char *text, size_t n) {
    static const char header[] = "m6c-machine 1";
    const char *end = text + n;
    int bad = 0;
    for (const char *p = text; p < end && bad < MAX_BAD; p = r->end + 1) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        r->p = r->line = p;
        r->end = stop ? stop : end;
        r->bad = false;
        if (++r->lineno > MAX_LINES) {
            FAIL(r, p, "more than %d lines", MAX_LINES);
            bad = MAX_BAD;
        } else if (r->lineno > 1) {
            read_line(r);
        } else if ((size_t)(r->end - p) != strlen(header) ||
                   memcmp(p, header, strlen(header)) != 0) {
            FAIL(r, p, "not a machine: the first line must be '%s'", header);
            return;
        }
        bad += r->bad;
    }
    if (r->lineno == 0)
        diag_error(r->m->session, (Loc){r->file, 1, 1},
                   "not a machine: the first line must be '%s'", header);
}

static Machine *parse(Session *s, const char *file, const char *text, size_t n, bool part) {
    Machine *m = arena_new_of(session_arena(s), Machine);
    Reader r = {.m = m, .file = session_add_file(s, file, text, n), .part = part};
    int before = diag_errors(s);
    m->session = s;
    m->collectives = comm_prices_new(session_arena(s));
    read_lines(&r, text, n);
    if (diag_errors(s) == before) m->group.n ? check_cluster(&r) : check_whole(&r);
    if (diag_errors(s) == before && !m->group.n) machine_index(m);
    if (diag_errors(s) == before && m->group.n) groups_join(m, file);
    return diag_errors(s) == before ? m : NULL;
}

Machine *machine_parse(Session *s, const char *file, const char *text, size_t n) {
    return parse(s, file, text, n, false);
}

Machine *machine_parse_part(Session *s, const char *file, const char *text, size_t n) {
    return parse(s, file, text, n, true);
}

/* ---- printing ---- */

static void put(Buf *out, const char *before, const Quantity *q) {
    buf_puts(out, before);
    buf_double(out, q->x);
    buf_puts(out, units[q->unit].name);
}

static void put_line(Buf *out, const char *key, const Quantity *q) {
    if (q->value == 0) return;
    buf_puts(out, key);
    put(out, " ", q);
    buf_puts(out, "\n");
}

static void put_count(Buf *out, const char *key, int64_t n) {
    if (n) buf_printf(out, "%s %lld\n", key, (long long)n);
}

static void put_bands(Buf *out, const char *key, const Band *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        buf_puts(out, key);
        put(out, " ", &b[i].rate);
        if (b[i].bytes.value > 0) put(out, " at ", &b[i].bytes);
        buf_puts(out, "\n");
    }
}

static void put_shape(Buf *out, const Work *w) {
    buf_printf(out, " %s %c%c %lldx%lldx%lld", dtype_name(w->dtype), w->ta ? 't' : 'n',
               w->tb ? 't' : 'n', (long long)w->m, (long long)w->n, (long long)w->k);
    if (w->batch != 1) buf_printf(out, " batch %lld", (long long)w->batch);
}

static void put_rates(const Machine *m, Buf *out) {
    for (int d = 0; d < DT_COUNT; d++) {
        if (m->peak[d].value == 0) continue;
        buf_printf(out, "peak %s", dtype_name((Dtype)d));
        put(out, " ", &m->peak[d]);
        if (m->efficiency[d] != 1) {
            buf_puts(out, " efficiency ");
            buf_double(out, m->efficiency[d]);
        }
        buf_puts(out, "\n");
    }
    for (uint32_t i = 0; i < m->product.n; i++) {
        const ProductPoint *p = &m->product.p[i];
        buf_puts(out, "product");
        put_shape(out, &(Work){.dtype = p->dtype,
                               .ta = p->ta,
                               .tb = p->tb,
                               .m = p->m,
                               .n = p->n,
                               .k = p->k,
                               .batch = p->batch});
        put(out, " ", &p->rate);
        buf_puts(out, "\n");
    }
    for (int d = 0; d < DT_COUNT; d++) {
        char key[64];
        snprintf(key, sizeof key, "attention %s", dtype_name((Dtype)d));
        put_line(out, key, &m->attention[d]);
        snprintf(key, sizeof key, "attention-grad %s", dtype_name((Dtype)d));
        put_line(out, key, &m->attention_grad[d]);
    }
}

static void put_copies(const Machine *m, Buf *out) {
    for (int i = 0; i < STREAM_COUNT; i++) {
        if (m->copy[i].value == 0) continue;
        buf_printf(out, "copy %s", stream_name((Stream)i));
        put(out, " ", &m->copy[i]);
        if (m->latency[i].value > 0) put(out, " latency ", &m->latency[i]);
        buf_puts(out, "\n");
    }
    for (uint32_t i = 0; i < m->slow.n; i++) {
        const Slow *s = &m->slow.p[i];
        buf_printf(out, "slow %s while", stream_name(s->stream));
        for (int j = 0; j < STREAM_COUNT; j++)
            if (s->set >> j & 1) buf_printf(out, " %s", stream_name((Stream)j));
        buf_puts(out, " ");
        buf_double(out, s->factor);
        buf_puts(out, "\n");
    }
}

static void put_link(const Link *l, Buf *out) {
    buf_printf(out, "link %s", l->name);
    put(out, " ", &l->rate);
    if (l->latency.value > 0) put(out, " latency ", &l->latency);
    if (l->overhead.value > 0) put(out, " overhead ", &l->overhead);
    if (l->joins) buf_printf(out, " joins %lld", (long long)l->joins);
    if (l->ports) buf_printf(out, " ports %lld", (long long)l->ports);
    if (l->bus) buf_puts(out, " bus");
    if (l->burst.value > 0) put(out, " burst ", &l->burst);
    if (l->header.value > 0) put(out, " header ", &l->header);
    for (int i = 0; i < l->nlong; i++)
        put(out, " long ", &l->longer[i].rate), put(out, " from ", &l->longer[i].bytes);
    if (l->rails) buf_puts(out, " rails");
    if (l->bigraph) buf_printf(out, " bigraph %lld", (long long)l->bigraph);
    buf_puts(out, "\n");
}

static void put_steps(const Machine *m, Buf *out) {
    for (uint32_t i = 0; i < m->step.n; i++) {
        const Work *w = &m->step.p[i].work;
        buf_printf(out, "step \"%s\"%s", w->what, w->host ? " host" : "");
        if (w->product) buf_puts(out, " product"), put_shape(out, w);
        if (w->copy) buf_printf(out, " copy %s %s", mem_name(w->from), mem_name(w->to));
        if (w->flops > 0) buf_puts(out, " flops "), buf_double(out, w->flops);
        buf_puts(out, " bytes ");
        buf_double(out, w->bytes);
        put(out, " ", &m->step.p[i].us);
        buf_puts(out, "\n");
    }
}

static void put_cluster(const Machine *m, Buf *out) {
    for (uint32_t i = 0; i < m->group.n; i++)
        buf_printf(out, "group %lld \"%s\"\n", (long long)m->group.p[i].nodes, m->group.p[i].file);
    for (uint32_t i = m->inner; i < m->link.n; i++) put_link(&m->link.p[i], out);
}

void machine_print(const Machine *m, Buf *out) {
    buf_printf(out, "m6c-machine 1\nname \"%s\"\n", m->name);
    for (uint32_t i = 0; i < m->source.n; i++) buf_printf(out, "source \"%s\"\n", m->source.p[i]);
    if (m->group.n) {
        put_cluster(m, out);
        return;
    }
    buf_printf(out, "target %s\n", m->target);
    put_count(out, "threads", m->threads);
    put_count(out, "devices", m->devices);
    put_count(out, "nodes", m->nodes);
    for (int i = 0; i < MEM_COUNT; i++) {
        char key[64];
        snprintf(key, sizeof key, "memory %s", mem_name((Mem)i));
        put_line(out, key, &m->memory[i]);
    }
    put_line(out, "launch", &m->launch);
    put_line(out, "vector", &m->vector);
    put_bands(out, "bandwidth", m->bandwidth.p, m->bandwidth.n);
    put_line(out, "host-launch", &m->host_launch);
    put_line(out, "host-vector", &m->host_vector);
    put_bands(out, "host-bandwidth", m->host_bandwidth.p, m->host_bandwidth.n);
    put_rates(m, out);
    put_copies(m, out);
    for (uint32_t i = 0; i < m->link.n; i++) put_link(&m->link.p[i], out);
    put_steps(m, out);
}

/* ---- changing ---- */

bool machine_set_network(Machine *m, const char *network) {
    if (m->group.n) {
        diag_error(m->session, (Loc){0}, "the groups of '%s' have a network already", m->name);
        return false;
    }
    Reader r = {.m = m, .file = session_find_file(m->session, "network")};
    bool good = true;
    m->link.n = 0;
    for (const char *p = network; *p; p = *r.end ? r.end + 1 : r.end) {
        r.p = r.line = p;
        r.end = p + strcspn(p, "\n");
        r.lineno++, r.bad = false;
        read_line(&r);
        good &= !r.bad;
    }
    return good;
}

/* ---- asking ---- */

const char *machine_name(const Machine *m) { return m->name; }
const char *machine_target(const Machine *m) { return m->target; }
int64_t machine_memory(const Machine *m, Mem mem) {
    return (int64_t)MIN(m->memory[mem].value, 9e18);
}

int64_t machine_devices(const Machine *m) { return m->devices; }
int64_t machine_nodes(const Machine *m) { return m->nodes; }

double machine_peak(const Machine *m, Dtype d) {
    double best = m->group.n ? groups_peak(m, d) : m->peak[d].value;
    for (uint32_t i = 0; i < m->product.n; i++)
        if (m->product.p[i].dtype == d) best = MAX(best, m->product.p[i].rate.value);
    return best;
}

void machine_set_slow(Machine *m, Stream s, unsigned set, double speed) {
    char text[32];
    uint32_t kept = 0;
    snprintf(text, sizeof text, "%.2g", MIN(MAX(speed, 0.001), 1));
    for (uint32_t i = 0; i < m->slow.n; i++)
        if (m->slow.p[i].stream != s || m->slow.p[i].set != set) m->slow.p[kept++] = m->slow.p[i];
    m->slow.n = kept;
    PUSH(m, &m->slow, ((Slow){s, set, strtod(text, NULL)}));
}

void machine_set_step(Machine *m, const Work *w, double us) {
    Priced p = {.work = *w, .hash = work_hash(w)};
    char text[32];
    uint32_t i = 0;
    snprintf(text, sizeof text, "%.4g", MAX(us, 1e-3));
    p.us.x = p.us.value = strtod(text, NULL);
    while (strcmp(units[p.us.unit].name, "us") != 0) p.us.unit++;
    while (i < m->step.n && !work_equal(&m->step.p[i].work, w)) i++;
    if (i < m->step.n)
        m->step.p[i] = p;
    else
        PUSH(m, &m->step, p);
}
