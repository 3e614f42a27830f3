/* report.c: see report.h. Figures go to stderr for people; scripts read --json and --log. */
#include "runtime/report.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 20, PLAIN_LINES = 50 };

struct Report {
    ReportOptions o;
    FILE *log;
    bool terminal;
    bool bar_shown;
    double started;    /* of the run */
    double last_plain; /* when the last plain line was printed */
    double seconds;    /* smoothed time of a step */
};

Status report_open(const ReportOptions *options, Report **out) {
    Report *r = calloc(1, sizeof *r);
    if (!r) return status_make(EXIT_SYSTEM, "out of memory");
    r->o = *options;
    r->terminal = !options->silent && isatty(STDERR_FILENO);
    r->started = now_seconds();
    r->last_plain = -1;
    *out = r;
    if (!options->log) return NULL;
    r->log = fopen(options->log, "a");
    return r->log ? NULL : status_errno("cannot write %s", options->log);
}

void report_close(Report *r) {
    if (!r) return;
    if (r->bar_shown) fputc('\n', stderr);
    if (r->log) fclose(r->log);
    free(r);
}

static void clear_bar(Report *r) {
    if (r->bar_shown) fputs("\r\033[K", stderr);
    r->bar_shown = false;
}

void report_line(Report *r, const char *fmt, ...) {
    if (r->o.silent) return;
    clear_bar(r);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

/* ---- JSON ---- */

static void put_real(json_t *o, const char *key, double x) {
    /* JSON has no NaN or infinity: a number that is none is null. */
    json_object_set_new(o, key, isfinite(x) ? json_real(x) : json_null());
}

static json_t *step_json(const StepReport *s) {
    json_t *o = json_object();
    json_object_set_new(o, "step", json_integer(s->step));
    put_real(o, "loss", s->loss);
    put_real(o, "lr", s->lr);
    put_real(o, "grad_norm", s->grad_norm);
    put_real(o, "seconds", s->seconds);
    json_object_set_new(o, "tokens", json_integer(s->tokens));
    if (s->sent) {
        json_object_set_new(o, "messages", json_integer(s->sent->messages));
        put_real(o, "sent_bytes", s->sent->bytes);
    }
    if (!isnan(s->loss_scale)) {
        put_real(o, "loss_scale", s->loss_scale);
        json_object_set_new(o, "overflow", json_boolean(s->overflow));
    }
    return o;
}

static Status write_json(FILE *f, const StepReport *s, const char *where) {
    json_t *o = step_json(s);
    bool bad = json_dumpf(o, f, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0 || fputc('\n', f) < 0;
    json_decref(o);
    bad = fflush(f) != 0 || bad;
    return bad ? status_errno("cannot write %s", where) : NULL;
}

/* ---- for people ---- */

static void put_eta(Buf *b, double seconds) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600)
        buf_printf(b, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
    else
        buf_printf(b, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
}

static void put_figures(Buf *b, const Report *r, const StepReport *s) {
    double gflops = r->o.flops / r->seconds * 1e-9;
    buf_printf(b, "step %" PRId64 "/%" PRId64, s->step, r->o.last);
    if (!isnan(s->loss)) buf_printf(b, "  loss %.4f", s->loss);
    if (!isnan(s->lr)) buf_printf(b, "  lr %.3g", s->lr);
    if (!isnan(s->grad_norm)) buf_printf(b, "  norm %.3g", s->grad_norm);
    if (!isnan(s->loss_scale)) buf_printf(b, "  scale %g", s->loss_scale);
    if (s->overflow) buf_puts(b, "  overflow, step skipped");
    if (s->tokens > 0) buf_printf(b, "  %.0f tokens/s", (double)s->tokens / r->seconds);
    if (r->o.flops > 0) buf_printf(b, "  %.1f GFLOP/s", gflops);
    if (r->o.flops > 0 && r->o.peak > 0)
        buf_printf(b, " (%.0f%% of peak)", 100 * gflops / r->o.peak);
    buf_puts(b, "  left ");
    put_eta(b, (double)(r->o.last - s->step) * r->seconds);
}

static void draw_bar(Report *r, const StepReport *s) {
    Buf b = {0};
    double done = (double)s->step / (double)MAX(r->o.last, 1);
    int full = (int)(done * BAR_WIDTH);
    buf_puts(&b, "\r\033[K[");
    for (int i = 0; i < BAR_WIDTH; i++) buf_puts(&b, i < full ? "#" : ".");
    buf_puts(&b, "] ");
    put_figures(&b, r, s);
    fputs(b.p, stderr);
    fflush(stderr);
    buf_free(&b);
    r->bar_shown = true;
}

/* Plain lines: the first and last step, overflows, about PLAIN_LINES in all, or one in 10 s. */
static bool plain_due(const Report *r, const StepReport *s) {
    int64_t every = MAX((r->o.last - r->o.first) / PLAIN_LINES, 1);
    bool regular = (s->step - r->o.first) % every == 0;
    return s->step == r->o.first + 1 || s->step == r->o.last || s->overflow || regular ||
           now_seconds() - r->last_plain > 10;
}

static void plain_line(Report *r, const StepReport *s) {
    Buf b = {0};
    put_figures(&b, r, s);
    fprintf(stderr, "%s\n", b.p);
    buf_free(&b);
    r->last_plain = now_seconds();
}

Status report_step(Report *r, const StepReport *s) {
    if (r->o.silent) return NULL;
    /* The first step touches all memory for the first time: it does not count for long. */
    bool first = s->step <= r->o.first + 2;
    r->seconds = first ? s->seconds : 0.9 * r->seconds + 0.1 * s->seconds;
    if (r->terminal)
        draw_bar(r, s);
    else if (plain_due(r, s))
        plain_line(r, s);
    if (r->log) TRY(write_json(r->log, s, r->o.log));
    return r->o.json ? write_json(stdout, s, "standard output") : NULL;
}

/* ---- what ranks send ---- */

static bool is_alike(const PlanStep *a, const PlanStep *b) {
    return b->kind == STEP_COLLECTIVE && a->collective.kind == b->collective.kind &&
           a->collective.group == b->collective.group;
}

/* The collectives that are like the first one, in a line. */
static void sent_line(Report *r, const Plan *p, const Exec *e, uint32_t first) {
    const PlanStep *like = &p->step.p[first];
    CommSent sum = {0};
    uint32_t n = 0;
    for (uint32_t i = first; i < p->step.n; i++) {
        if (!is_alike(like, &p->step.p[i])) continue;
        CommSent sent = exec_sent(e, i);
        sum.messages += sent.messages;
        sum.bytes += sent.bytes;
        n++;
    }
    report_line(r, "sent in a step: %u %s over %s, %" PRId64 " messages, %.3f MiB", n,
                collective_name(like->collective.kind), p->group.p[like->collective.group].name,
                sum.messages, mib(sum.bytes));
}

void report_sent(Report *r, const Plan *p, const Exec *e) {
    for (uint32_t i = 0; i < p->step.n; i++) {
        bool first = p->step.p[i].kind == STEP_COLLECTIVE;
        for (uint32_t k = 0; k < i && first; k++) first = !is_alike(&p->step.p[i], &p->step.p[k]);
        if (first) sent_line(r, p, e, i);
    }
}

/* ---- trace: Chrome's JSON array format, which Perfetto reads ---- */

/* Written many at a time: text would take longer than a small step. */
typedef struct {
    uint32_t step;
    double begin, end;
} TraceEvent;

enum { TRACE_EVENTS = 1 << 16 };

struct Trace {
    FILE *file;
    char *path;
    const Plan *plan;
    const Exec *exec; /* NULL: nothing is known of what was sent */
    int rank;
    double started;
    bool any;
    VEC(TraceEvent) event; /* not written yet */
};

static void put_event(Trace *t, json_t *event) {
    fputs(t->any ? ",\n" : "\n", t->file);
    json_dumpf(event, t->file, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(event);
    t->any = true;
}

static void name_tracks(Trace *t) {
    unsigned used = 0;
    for (uint32_t i = 0; i < t->plan->step.n; i++) used |= 1u << t->plan->step.p[i].stream;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (used >> s & 1)
            put_event(t,
                      json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name", "ph", "M",
                                "pid", t->rank, "tid", s, "args", "name", stream_name((Stream)s)));
}

static void name_process(Trace *t) {
    char name[32];
    snprintf(name, sizeof name, "rank %d", t->rank);
    put_event(t, json_pack("{s:s, s:s, s:i, s:{s:s}}", "name", "process_name", "ph", "M", "pid",
                           t->rank, "args", "name", name));
    put_event(t, json_pack("{s:s, s:s, s:i, s:{s:i}}", "name", "process_sort_index", "ph", "M",
                           "pid", t->rank, "args", "sort_index", t->rank));
}

Status trace_open(const char *path, const Plan *plan, int rank, Trace **out) {
    Trace *t = calloc(1, sizeof *t);
    if (!t) return status_make(EXIT_SYSTEM, "out of memory");
    *t = (Trace){.file = fopen(path, "w"), .plan = plan, .rank = rank, .started = now_seconds()};
    t->path = strdup(path);
    *out = t;
    if (!t->file) return status_errno("cannot write %s", path);
    fputs("[", t->file);
    if (plan->ranks > 1) name_process(t);
    if (plan_streams(plan) > 1) name_tracks(t);
    return NULL;
}

void trace_zero(Trace *t, double seconds) { t->started = seconds; }

void trace_sent(Trace *t, const Exec *e) { t->exec = e; }

static void put_sent(const Trace *t, const PlanStep *p, json_t *args) {
    CommSent sent = exec_sent(t->exec, (uint32_t)(p - t->plan->step.p));
    json_object_set_new(args, "kind", json_string(collective_name(p->collective.kind)));
    json_object_set_new(args, "group", json_string(t->plan->group.p[p->collective.group].name));
    json_object_set_new(args, "messages", json_integer(sent.messages));
    json_object_set_new(args, "sent_bytes", json_real(sent.bytes));
}

static json_t *event_args(const Trace *t, const PlanStep *p) {
    json_t *args = json_object();
    if (t->exec && p->kind == STEP_COLLECTIVE) put_sent(t, p, args);
    json_object_set_new(args, "step", json_integer(p - t->plan->step.p));
    json_object_set_new(args, "scope", json_string(p->scope ? p->scope : ""));
    json_object_set_new(args, "source", json_string(loc_text(t->plan->session, p->loc)));
    json_object_set_new(args, "flops", json_real(p->flops));
    json_object_set_new(args, "bytes", json_real(p->traffic));
    return args;
}

static void put_step(Trace *t, const TraceEvent *e) {
    const PlanStep *p = &t->plan->step.p[e->step];
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(p->what ? p->what : step_kind_name(p->kind)));
    json_object_set_new(o, "cat", json_string(step_kind_name(p->kind)));
    json_object_set_new(o, "ph", json_string("X"));
    json_object_set_new(o, "ts", json_real((e->begin - t->started) * 1e6));
    json_object_set_new(o, "dur", json_real((e->end - e->begin) * 1e6));
    json_object_set_new(o, "pid", json_integer(t->rank));
    json_object_set_new(o, "tid", json_integer(p->stream));
    json_object_set_new(o, "args", event_args(t, p));
    put_event(t, o);
}

static void put_steps(Trace *t) {
    for (uint32_t i = 0; i < t->event.n; i++) put_step(t, &t->event.p[i]);
    t->event.n = 0;
}

void trace_step(void *ctx, uint32_t step, double begin, double end) {
    Trace *t = ctx;
    vec_push(&t->event, ((TraceEvent){step, begin, end}));
    if (t->event.n == TRACE_EVENTS) put_steps(t);
}

Status trace_close(Trace *t) {
    if (!t) return NULL;
    Status s = NULL;
    if (t->file) {
        put_steps(t);
        fputs("\n]\n", t->file);
        bool bad = ferror(t->file) != 0;
        if (fclose(t->file) != 0 || bad) s = status_errno("cannot write %s", t->path);
    }
    vec_free(&t->event);
    free(t->path);
    free(t);
    return s;
}

char *trace_part_path(const char *path, int rank) {
    Buf b = {0};
    buf_printf(&b, "%s.rank-%05d", path, rank);
    return b.p;
}

/* The events of one file, "[ … ]". */
static Status join_part(FileWriter *w, const char *path, bool first) {
    static const char end[] = "\n]\n";
    char *text;
    size_t n;
    TRY(file_read(path, &text, &n));
    Status s = n < 1 + strlen(end) ? status_make(EXIT_SYSTEM, "%s: is no trace", path) : NULL;
    if (!s) s = file_writer_put(w, first ? "[" : ",", 1);
    if (!s) s = file_writer_put(w, text + 1, n - 1 - strlen(end));
    free(text);
    return s;
}

Status trace_join(const char *path, int ranks) {
    FileWriter *w;
    TRY(file_writer_open(path, &w));
    Status s = NULL;
    for (int i = 0; i < ranks && !s; i++) {
        char *part = trace_part_path(path, i);
        s = join_part(w, part, i == 0);
        free(part);
    }
    if (!s) s = file_writer_put(w, "\n]\n", 3);
    TRY(file_writer_close(w, s));
    for (int i = 0; i < ranks; i++) {
        char *part = trace_part_path(path, i);
        unlink(part);
        free(part);
    }
    return NULL;
}
