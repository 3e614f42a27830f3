/* Checks pipeline: orders for 1 to 6 stages and 1 to 12 micro-batches against EPL's control
 * dependencies, what is in flight, runs with blocking neighbours, and time. */
#include <math.h>
#include <stdlib.h>

#include "passes/pipeline.h"
#include "tests/check.h"

enum { STAGES = 6, MICROS = 12, STEPS = 2 * MICROS };

typedef struct {
    PipelineStep step[STAGES][STEPS];
    PipelineStep *list[STAGES];
} Orders;

static void order_all(Orders *o, PipelineKind k, uint32_t stages, uint32_t micros) {
    for (uint32_t s = 0; s < stages; s++) {
        o->list[s] = o->step[s];
        pipeline_order(k, stages, s, micros, o->list[s]);
    }
}

static void check_order(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros,
                        const char *want) {
    PipelineStep step[STEPS];
    Buf b = {0};
    pipeline_order(k, stages, s, micros, step);
    pipeline_print(step, 2 * micros, &b);
    CHECK_STR(b.p, want);
    buf_free(&b);
}

static void test_by_hand(void) {
    check_order(PIPELINE_PREFER_FORWARD, 2, 0, 3, "F0 F1 F2 B0 B1 B2");
    check_order(PIPELINE_PREFER_BACKWARD, 1, 0, 3, "F0 B0 F1 B1 F2 B2");
    check_order(PIPELINE_PREFER_BACKWARD, 4, 0, 5, "F0 F1 F2 F3 B0 F4 B1 B2 B3 B4");
    check_order(PIPELINE_PREFER_BACKWARD, 4, 2, 5, "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4");
    check_order(PIPELINE_PREFER_BACKWARD, 4, 3, 3, "F0 B0 F1 B1 F2 B2");
    check_order(PIPELINE_PREFER_BACKWARD, 4, 0, 2, "F0 F1 B0 B1");
    check_order(PIPELINE_PREFER_BACKWARD_OPTIMIZER, 4, 2, 5, "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4");
    check_order(PIPELINE_PREFER_BACKWARD_OPTIMIZER, 4, 3, 3, "F0 B0 F1 B1 F2 B2");
    PipelineKind k;
    CHECK(pipeline_parse("preferBackwardOptimizer", &k) && k == PIPELINE_PREFER_BACKWARD_OPTIMIZER);
    CHECK(!pipeline_parse("1f1b", &k));
}

static bool has_dep(const PipelineDep *d, uint32_t n, char a, uint32_t am, char b, uint32_t bm) {
    for (uint32_t i = 0; i < n; i++)
        if (d[i].after.backward == (a == 'B') && d[i].after.micro == am &&
            d[i].before.backward == (b == 'B') && d[i].before.micro == bm)
            return true;
    return false;
}

/* The rules as they are written down for EPL, in its own numbers. */
static uint32_t check_rules(PipelineKind k, uint32_t S, uint32_t s, uint32_t M,
                            const PipelineDep *d, uint32_t n) {
    uint32_t found = 0;
#define AFTER(a, am, b, bm) found += CHECK(has_dep(d, n, a, (uint32_t)(am), b, (uint32_t)(bm)))
    int more = k == PIPELINE_PREFER_BACKWARD_OPTIMIZER;
    for (int m = 1; m < (int)M; m++) {
        int r = m + (int)s - (int)S - more;
        if (k == PIPELINE_PREFER_FORWARD) {
            AFTER('F', m, 'F', m - 1);
            AFTER('B', m, 'B', m - 1);
            if (m == (int)M - 1) AFTER('B', 0, 'F', m);
        } else if (s == S - 1) {
            AFTER('F', m, 'B', m - 1);
        } else if (r >= 0) {
            AFTER('B', r, 'F', m - 1);
            AFTER('F', m, 'B', r);
            if (m == (int)M - 1) AFTER('B', r + 1, 'F', m);
        } else {
            AFTER('F', m, 'F', m - 1);
            AFTER('B', (int)M - m, 'B', (int)M - m - 1);
        }
    }
#undef AFTER
    return found;
}

/* Are the dependencies and the data of a stage enough to allow no other list? They are where a
 * backward step comes between forward steps. */
static bool only_list(const PipelineStep *step, uint32_t micros, const PipelineDep *d, uint32_t n) {
    for (uint32_t i = 0; i + 1 < 2 * micros; i++) {
        PipelineStep a = step[i], b = step[i + 1];
        bool own = !a.backward && b.backward && a.micro == b.micro;
        if (!own &&
            !has_dep(d, n, b.backward ? 'B' : 'F', b.micro, a.backward ? 'B' : 'F', a.micro))
            return false;
    }
    return true;
}

static void check_stage(PipelineKind k, uint32_t stages, uint32_t s, uint32_t micros) {
    PipelineStep step[STEPS];
    PipelineDep dep[4 * MICROS];
    uint32_t n = pipeline_deps(k, stages, s, micros, dep);
    CHECK(check_rules(k, stages, s, micros, dep, n) == n);
    pipeline_order(k, stages, s, micros, step);
    CHECK(pipeline_obeys(step, micros, dep, n));
    uint32_t peak = pipeline_peak(step, 2 * micros);
    CHECK(peak == pipeline_in_flight(k, stages, s, micros));
    if (k == PIPELINE_PREFER_BACKWARD) CHECK(peak <= stages - s);
    if (k == PIPELINE_PREFER_BACKWARD_OPTIMIZER) CHECK(peak <= stages - s + (s + 1 < stages));
    if (k == PIPELINE_PREFER_FORWARD) CHECK(peak == micros);
    if (peak < micros || (k == PIPELINE_PREFER_FORWARD && micros > 1))
        CHECK(only_list(step, micros, dep, n));
    /* a list with two neighbours swapped does not obey */
    for (uint32_t i = 0; peak < micros && i + 1 < 2 * micros; i++) {
        PipelineStep kept = step[i];
        step[i] = step[i + 1], step[i + 1] = kept;
        CHECK(!pipeline_obeys(step, micros, dep, n));
        step[i + 1] = step[i], step[i] = kept;
    }
}

static void test_all(void) {
    for (int k = 0; k < PIPELINE_COUNT; k++)
        for (uint32_t stages = 1; stages <= STAGES; stages++)
            for (uint32_t micros = 1; micros <= MICROS; micros++) {
                Orders o;
                Buf err = {0};
                for (uint32_t s = 0; s < stages; s++)
                    check_stage((PipelineKind)k, stages, s, micros);
                order_all(&o, (PipelineKind)k, stages, micros);
                if (!CHECK(pipeline_runs(o.list, stages, micros, &err)))
                    fprintf(stderr, "%s, %u stages, %u micro-batches: %s\n",
                            pipeline_name((PipelineKind)k), stages, micros, err.p);
                buf_free(&err);
            }
}

/* Lists that are each possible but do not go together. */
static void test_stuck(void) {
    Orders o;
    Buf err = {0};
    order_all(&o, PIPELINE_PREFER_BACKWARD, 2, 2);
    pipeline_order(PIPELINE_PREFER_BACKWARD, 1, 0, 2, o.list[0]); /* F0 B0 F1 B1 */
    CHECK(pipeline_runs(o.list, 2, 2, &err));
    pipeline_order(PIPELINE_PREFER_FORWARD, 1, 0, 2, o.list[1]); /* F0 F1 B0 B1: B0 waits for F1 */
    CHECK(!pipeline_runs(o.list, 2, 2, &err));
    CHECK_STR(err.p, "stages wait for each other: 0 before B0 1 before F1");
    buf_free(&err);
    err = (Buf){0};
    order_all(&o, PIPELINE_PREFER_FORWARD, 2, 2);
    o.list[0][0].micro = 1, o.list[0][1].micro = 0;
    CHECK(!pipeline_runs(o.list, 2, 2, &err));
    CHECK_STR(err.p, "stage 1 is at micro-batch 0 and stage 0 at 1");
    buf_free(&err);
}

/* ---- time ---- */

static double time_of(PipelineKind k, uint32_t stages, uint32_t micros, const PipelineCost *cost,
                      double *bubble) {
    Arena *a = arena_new();
    Orders o;
    order_all(&o, k, stages, micros);
    PipelineTime t = pipeline_time(o.list, stages, micros, cost, a);
    for (uint32_t s = 0; s < stages; s++)
        CHECK(fabs(t.busy[s] - micros * (cost[s].forward + cost[s].backward)) < 1e-9);
    if (bubble) *bubble = t.bubble;
    double us = t.us;
    arena_free(a);
    return us;
}

static bool near(double a, double b) { return fabs(a - b) < 1e-9; }

static void test_equal(void) {
    PipelineCost cost[STAGES];
    for (int s = 0; s < STAGES; s++) cost[s] = (PipelineCost){1, 2, 0, 0};
    for (int k = 0; k < PIPELINE_COUNT; k++)
        for (uint32_t stages = 1; stages <= STAGES; stages++)
            for (uint32_t micros = 1; micros <= MICROS; micros++) {
                double bubble, us = time_of((PipelineKind)k, stages, micros, cost, &bubble);
                CHECK(near(us, 3.0 * (micros + stages - 1)));
                CHECK(near(bubble, pipeline_bubble(stages, micros)));
            }
    CHECK(near(pipeline_bubble(4, 8), 3.0 / 11) && pipeline_bubble(1, 8) == 0);
}

static void test_unequal(void) {
    /* the second stage is the slowest: 4 micro-batches of 9 after one forward of 1, and the
     * backward of the first of 2 */
    const PipelineCost slow[] = {{1, 2, 0, 0}, {3, 6, 0, 0}};
    CHECK(near(time_of(PIPELINE_PREFER_BACKWARD, 2, 4, slow, NULL), 1 + 4 * 9 + 2));
    CHECK(near(time_of(PIPELINE_PREFER_FORWARD, 2, 4, slow, NULL), 1 + 4 * 9 + 2));
    /* one micro-batch: everything in a row, 1 there and 2 back */
    const PipelineCost sent[] = {{1, 2, 0.5, 9}, {1, 2, 9, 0.25}};
    CHECK(near(time_of(PIPELINE_PREFER_BACKWARD, 2, 1, sent, NULL), 1 + 0.5 + 3 + 0.25 + 2));
    /* a link that is slower than the stages: 3 sends of 10 in a row, F2 and B2, B2's send, B2 */
    const PipelineCost link[] = {{1, 1, 10, 0}, {1, 1, 0, 1}};
    CHECK(near(time_of(PIPELINE_PREFER_FORWARD, 2, 3, link, NULL), 1 + 30 + 1 + 3 + 1 + 1));
}

/* One micro-batch more in flight hides transfers: it is never slower with equal stages. */
static void test_hidden(void) {
    PipelineCost cost[4];
    for (int s = 0; s < 4; s++) cost[s] = (PipelineCost){1, 2, 0.4, 0.4};
    double one = time_of(PIPELINE_PREFER_BACKWARD, 4, 12, cost, NULL);
    double more = time_of(PIPELINE_PREFER_BACKWARD_OPTIMIZER, 4, 12, cost, NULL);
    CHECK(more < one && more >= 3 * 12);
}

int main(void) {
    test_by_hand();
    test_all();
    test_stuck();
    test_equal();
    test_unequal();
    test_hidden();
    return check_done("pipeline_order");
}
