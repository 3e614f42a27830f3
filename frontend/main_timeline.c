/* main_timeline.c: a simulated step drawn in characters. A column is a slice of time; how much of
 * it a stream works is the column's shade. */
#include <stdlib.h>
#include <string.h>

#include "frontend/main_simulate.h"

enum { LEFT = 9, RIGHT = 7, LEAST_COLUMNS = 20, LABEL_ROWS = 2 };

/* The device's kernels from one time to another belong to one scope or phase. */
typedef struct {
    const char *name;
    size_t n; /* of its name, in bytes */
    double begin, end;
} Stretch;
typedef VEC(Stretch) StretchList;

typedef struct {
    const PlanRun *r;
    int columns;
    double column_us;
    FILE *out;
} Drawing;

/* ---- rows of streams ---- */

/* Adds the part of each column that lies in begin … end. */
static void shade(const Drawing *d, double *busy, double begin, double end) {
    int first = (int)(begin / d->column_us), last = (int)(end / d->column_us);
    for (int c = MAX(first, 0); c <= MIN(last, d->columns - 1); c++) {
        double from = MAX(begin, c * d->column_us), to = MIN(end, (c + 1) * d->column_us);
        if (to > from) busy[c] += (to - from) / d->column_us;
    }
}

static const char *glyph(double busy) {
    if (busy < 0.005) return " ";
    if (busy < 0.25) return "░";
    if (busy < 0.55) return "▒";
    return busy < 0.9 ? "▓" : "█";
}

static void draw_stream(const Drawing *d, Stream s) {
    const Plan *p = d->r->plan;
    double *busy = xcalloc((size_t)d->columns, sizeof *busy);
    for (uint32_t i = 0; i < p->step.n; i++)
        if (d->r->step[i].stream == s) shade(d, busy, d->r->run.begin[i], d->r->run.end[i]);
    fprintf(d->out, "%-*s│", LEFT - 1, stream_name(s));
    for (int c = 0; c < d->columns; c++) fputs(glyph(busy[c]), d->out);
    fprintf(d->out, "│%4.0f %%\n", 100 * d->r->run.busy[s] / d->r->run.us);
    free(busy);
}

/* ---- phases and scopes ---- */

static void extend(StretchList *list, const char *name, size_t n, double begin, double end) {
    Stretch *last = list->n ? &list->p[list->n - 1] : NULL;
    if (last && last->n == n && memcmp(last->name, name, n) == 0)
        last->end = end;
    else
        vec_push(list, ((Stretch){name, n, begin, end}));
}

/* The kernels of the device in order: stretches of one phase, or of one outermost scope. Updates go
 * through all parameters, in no order of scopes. */
static StretchList stretches(const PlanRun *r, bool phases) {
    StretchList list = {0};
    for (uint32_t i = 0; i < r->plan->step.n; i++) {
        const PlanStep *s = &r->plan->step.p[i];
        if (s->stream != STREAM_COMPUTE || (!phases && s->phase == PLAN_APPLY)) continue;
        const char *name = phases ? plan_phase_name(s->phase) : s->scope ? s->scope : "";
        size_t n = phases ? strlen(name) : strcspn(name, ".");
        if (n > 0) extend(&list, name, n, r->run.begin[i], r->run.end[i]);
    }
    return list;
}

static int longest_first(const void *a, const void *b) {
    const Stretch *x = a, *y = b;
    double dx = x->end - x->begin, dy = y->end - y->begin;
    if (dx != dy) return dx > dy ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static bool is_free(const char *row, int at, int n) {
    for (int c = at; c < at + n; c++)
        if (row[c] != ' ') return false;
    return true;
}

/* "'name" where its stretch begins, in the first row with room for it. */
static void put_label(const Drawing *d, char **row, int rows, const Stretch *s) {
    int at = (int)(s->begin / d->column_us), n = (int)s->n + 2; /* a tick and a space */
    for (int i = 0; i < rows && at + n <= d->columns + 1; i++) {
        int before = at > 0; /* no label ends right there */
        if (!is_free(row[i], at - before, n + before)) continue;
        row[i][at] = '\'';
        memcpy(row[i] + at + 1, s->name, s->n);
        return;
    }
}

static void draw_labels(const Drawing *d, StretchList list, int rows) {
    char *row[LABEL_ROWS];
    for (int i = 0; i < rows; i++) {
        row[i] = xmalloc((size_t)d->columns + 2);
        memset(row[i], ' ', (size_t)d->columns + 1);
        row[i][d->columns + 1] = '\0';
    }
    if (list.n) qsort(list.p, list.n, sizeof *list.p, longest_first);
    for (uint32_t i = 0; i < list.n; i++) put_label(d, row, rows, &list.p[i]);
    for (int i = 0; i < rows; i++) {
        size_t n = strlen(row[i]);
        while (n > 0 && row[i][n - 1] == ' ') n--;
        if (n) fprintf(d->out, "%*s%.*s\n", LEFT, "", (int)n, row[i]);
        free(row[i]);
    }
    vec_free(&list);
}

static void draw_axis(const Drawing *d) {
    char right[32];
    int n = snprintf(right, sizeof right, "%.2f ms", d->r->run.us * 1e-3);
    fprintf(d->out, "%*s0%*s%s\n", LEFT, "", MAX(d->columns - 1 - n, 1), "", right);
}

void timeline_print(const PlanRun *r, int width, FILE *out) {
    Drawing d = {.r = r, .columns = MAX(width - LEFT - RIGHT, LEAST_COLUMNS), .out = out};
    if (r->run.us <= 0) return;
    d.column_us = r->run.us / d.columns;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (r->steps[s]) draw_stream(&d, (Stream)s);
    draw_axis(&d);
    draw_labels(&d, stretches(r, true), 1);
    draw_labels(&d, stretches(r, false), LABEL_ROWS);
}
