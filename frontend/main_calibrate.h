/* main_calibrate.h: between the files of `m6c calibrate`. */
#ifndef M6C_MAIN_CALIBRATE_H
#define M6C_MAIN_CALIBRATE_H

#include "ir/ir.h"
#include "passes/machine.h"
#include "runtime/exec.h"

typedef struct {
    Session *session;
    Pool *pool;
    bool quick;
    const char *folder; /* for kernels that are measured; removed at the end */
    const char *disk;   /* where the disk tier would lie */
    Comm *world;        /* of all ranks */
    double link;        /* bytes a second of copies from and to the host; 0: all they can */
    Buf text;           /* the profile so far */
    int parts, part;    /* progress */
    double *used;       /* by thread of the pool: stopwatch */
    double started;
} Calibration;

/* One line on stderr. */
void calibrate_progress(Calibration *c, const char *what);
/* "%.3g", and its unit: appended to the profile. */
void calibrate_put(Calibration *c, double x, double scale, const char *unit);

double median(double *x, size_t n); /* sorts */
/* The time that a fifth of the runs stay below: sorts. */
double undisturbed(double *x, size_t n);

/* Seconds since the start that the busiest thread of the pool had a processor: what a run takes
 * when other programs share the machine, or the time on the wall where that is less. */
void stopwatch_start(Calibration *c);
double stopwatch_stop(Calibration *c);

/* ---- main_measure.c: kernels that are generated for the purpose ---- */
Status measure_kernels(Calibration *c);
/* The time of every op on an element, in additions, on stdout. */
Status measure_weights(Calibration *c);

/* ---- main_measure_product.c ---- */
Status measure_products(Calibration *c);

/* ---- main_measure_copy.c ---- */
Status measure_copies(Calibration *c);
Status measure_disk(Calibration *c);

/* ---- main_measure_plan.c ---- */

/* Runs the plan's steps one at a time on random data and gives every distinct piece of work its
 * median time in m. */
Status measure_plan(Calibration *c, const Plan *p, const char *dir, Machine *m, uint32_t *pieces);

/* ---- main_measure_comm.c ---- */

/* The device and link lines of a cluster like the one that these ranks are on. All call it. */
Status measure_links(Comm *world, bool quick, Buf *out);

#endif
