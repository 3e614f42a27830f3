/* report.h: what a run tells while it works: a progress line on a terminal, plain lines elsewhere,
 * JSON lines for scripts, and traces for Perfetto. */
#ifndef M6C_REPORT_H
#define M6C_REPORT_H

#include "runtime/exec.h"

/* One step's figures. What a plan does not report is NaN. */
typedef struct {
    int64_t step; /* done so far, this one included */
    double loss, lr, grad_norm, loss_scale;
    bool overflow;  /* the update was skipped */
    double seconds; /* of the step's execution alone */
    int64_t tokens;
    const CommSent *sent; /* by this rank; NULL: it is alone */
} StepReport;

typedef struct {
    int64_t first, last; /* steps of this run: first+1 … last */
    double flops;        /* of a step, of all ranks */
    double peak;         /* GFLOP/s of all ranks' machines, 0: unknown */
    const char *log;     /* JSON lines are appended here; NULL: none */
    bool json;           /* JSON lines on stdout */
    bool silent;         /* nothing is said: of several ranks one reports */
} ReportOptions;

typedef struct Report Report;
Status report_open(const ReportOptions *options, Report **out);
Status report_step(Report *r, const StepReport *s); /* a full disk is an error */
/* A line of text that does not disturb the progress line. */
void report_line(Report *r, const char *fmt, ...) PRINTF(2, 3);
/* What this rank sends in a step, by kind of collective and group of ranks. */
void report_sent(Report *r, const Plan *plan, const Exec *e);
void report_close(Report *r); /* NULL is fine */

/* Trace: the plan's steps as complete events, one track a stream; an event's args hold the step's
 * index in the plan. Each rank of a plan is a process and writes a file of its own. */
typedef struct Trace Trace;
Status trace_open(const char *path, const Plan *plan, int rank, Trace **out);
void trace_sent(Trace *t, const Exec *e);  /* events say what this rank sent in them */
void trace_zero(Trace *t, double seconds); /* the trace's times count from here, not from now */
ExecTimer trace_step;                      /* ctx: the Trace */
Status trace_close(Trace *t);              /* NULL is fine; reports what could not be written */
/* Makes one trace of those that were written to trace_part_path, and removes them. */
Status trace_join(const char *path, int ranks);
char *trace_part_path(const char *path, int rank); /* "PATH.rank-00003"; to be freed */

#endif
