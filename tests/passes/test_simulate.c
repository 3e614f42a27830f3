/* test_simulate.c: simulated runs against sums done by hand, and what holds for all of them. */
#include "passes/simulate.h"

#include <math.h>
#include <stdlib.h>

#include "tests/check.h"

static bool near(double x, double y) { return fabs(x - y) <= 1e-9 * (1 + fabs(y)); }

static TimedStep step_of(Stream s, double us, uint32_t *wait, uint32_t nwait) {
    return (TimedStep){.stream = s, .us = us, .wait = wait, .nwait = nwait};
}

/* A fetch behind a kernel, a kernel that needs it, a copy out behind nothing. */
static void test_by_hand(Arena *a) {
    uint32_t fetched[] = {1}, made[] = {2};
    const TimedStep step[] = {
        step_of(STREAM_COMPUTE, 10, NULL, 0),   step_of(STREAM_IN, 16, NULL, 0),
        step_of(STREAM_COMPUTE, 5, fetched, 1), step_of(STREAM_OUT, 7, made, 1),
        step_of(STREAM_COMPUTE, 4, NULL, 0),
    };
    Simulation s = simulate(NULL, step, 5, true, a);
    const double begin[] = {0, 0, 16, 21, 21}, end[] = {10, 16, 21, 28, 25};
    for (int i = 0; i < 5; i++) CHECK(near(s.begin[i], begin[i]) && near(s.end[i], end[i]));
    CHECK(near(s.us, 28) && near(s.busy[STREAM_COMPUTE], 19));
    CHECK(near(s.busy[STREAM_IN], 16) && near(s.busy[STREAM_OUT], 7));
    CHECK(near(s.exposed, 6 + 3) && near(s.host_alone, 0));
    CHECK(!simulate(NULL, step, 5, false, a).begin);
}

/* The optimizer on the host: exposed are copies alone; the host's own time is told apart. */
static void test_host(Arena *a) {
    uint32_t out[] = {0}, moved[] = {1}, updated[] = {2};
    const TimedStep step[] = {
        step_of(STREAM_COMPUTE, 3, NULL, 0), step_of(STREAM_OUT, 2, out, 1),
        step_of(STREAM_HOST, 8, moved, 1),   step_of(STREAM_COMPUTE, 4, NULL, 0),
        step_of(STREAM_IN, 2, updated, 1),
    };
    Simulation s = simulate(NULL, step, 5, false, a);
    CHECK(near(s.us, 15) && near(s.busy[STREAM_HOST], 8));
    CHECK(near(s.host_alone, 6) && near(s.exposed, 2));
}

static void test_empty(Arena *a) {
    Simulation s = simulate(NULL, NULL, 0, true, a);
    CHECK(s.us == 0 && s.exposed == 0);
    const TimedStep none[] = {step_of(STREAM_IN, 0, NULL, 0), step_of(STREAM_IN, 0, NULL, 0)};
    CHECK(simulate(NULL, none, 2, false, a).us == 0);
}

/* ---- streams that share ---- */

static const char MACHINE[] = "m6c-machine 1\n"
                              "name \"a machine\"\n"
                              "target cpu\n"
                              "launch 1us\n"
                              "vector 1GOPS\n"
                              "bandwidth 10GB/s\n"
                              "peak f32 100GFLOPS\n"
                              "copy in 1GB/s latency 1us\n"
                              "copy out 1GB/s latency 1us\n"
                              "copy read 1GB/s latency 1us\n"
                              "copy write 1GB/s latency 1us\n"
                              "slow compute while in 0.5\n"
                              "slow in while compute 0.8\n"
                              "slow compute while in out 0.25\n";

/* Until 10 the kernel does half its work; the copies out of the way, it goes on at full speed. */
static void test_shared(Arena *a) {
    Session *ss = session_new();
    Machine *m = machine_parse(ss, "machine", MACHINE, strlen(MACHINE));
    if (!CHECK(m)) return;
    const TimedStep two[] = {step_of(STREAM_COMPUTE, 20, NULL, 0), step_of(STREAM_IN, 8, NULL, 0)};
    Simulation s = simulate(m, two, 2, true, a);
    CHECK(near(s.end[1], 10) && near(s.end[0], 25) && near(s.us, 25));
    CHECK(near(s.busy[STREAM_COMPUTE], 25) && near(s.busy[STREAM_IN], 10));
    /* in and out until 4: a quarter of 4 done; in alone until 9: half of 5; then 16.5 are left */
    const TimedStep three[] = {step_of(STREAM_COMPUTE, 20, NULL, 0),
                               step_of(STREAM_IN, 0.8 * 9, NULL, 0),
                               step_of(STREAM_OUT, 4, NULL, 0)};
    s = simulate(m, three, 3, true, a);
    CHECK(near(s.end[2], 4) && near(s.end[1], 9) && near(s.end[0], 25.5));
    /* Alone, nothing is slower. */
    CHECK(near(simulate(m, two + 1, 1, false, a).us, 8));
    session_free(ss);
}

/* ---- what holds for all ---- */

static uint32_t draw(uint64_t *seed, uint32_t below) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
}

static TimedStep *random_steps(uint64_t seed, uint32_t n, Arena *a) {
    TimedStep *step = arena_array(a, TimedStep, n);
    for (uint32_t i = 0; i < n; i++) {
        Access *x = arena_array(a, Access, 3);
        step[i] = step_of((Stream)draw(&seed, STREAM_COUNT), draw(&seed, 1000) / 8.0, NULL, 0);
        step[i].naccess = draw(&seed, 4);
        step[i].access = x;
        for (uint32_t k = 0; k < step[i].naccess; k++)
            x[k] = (Access){.mem = (Mem)draw(&seed, 2),
                            .write = draw(&seed, 3) == 0,
                            .at = 64 * draw(&seed, 100),
                            .bytes = 64};
    }
    steps_wait(step, n, a);
    return step;
}

/* End of each step when all begin as early as possible; what speeds of 1 must give. */
static double critical_path(const TimedStep *step, uint32_t n, double *end) {
    double last[STREAM_COUNT] = {0}, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double begin = last[step[i].stream];
        for (uint32_t w = 0; w < step[i].nwait; w++) begin = MAX(begin, end[step[i].wait[w]]);
        last[step[i].stream] = end[i] = begin + step[i].us;
        most = MAX(most, end[i]);
    }
    return most;
}

static void check_run(const Simulation *s, const TimedStep *step, uint32_t n, double *end) {
    double path = critical_path(step, n, end), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += step[i].us;
        CHECK(near(s->end[i], end[i]) && near(s->end[i] - s->begin[i], step[i].us));
    }
    CHECK(near(s->us, path) && s->us <= sum * (1 + 1e-12));
    for (int k = 0; k < STREAM_COUNT; k++) CHECK(s->busy[k] <= s->us * (1 + 1e-12));
    CHECK(near(s->busy[STREAM_COMPUTE] + s->host_alone + s->exposed, s->us));
}

static void test_random(void) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        Arena *a = arena_new();
        uint32_t n = 1 + (uint32_t)(seed * 13 % 300), longer = (uint32_t)(seed % n);
        TimedStep *step = random_steps(seed, n, a);
        double *end = arena_array(a, double, n);
        Simulation s = simulate(NULL, step, n, true, a);
        check_run(&s, step, n, end);
        step[longer].us += 50;
        Simulation later = simulate(NULL, step, n, true, a);
        CHECK(later.us >= s.us && later.us <= s.us + 50 + 1e-9);
        arena_free(a);
    }
}

static void test_many(void) {
    Arena *a = arena_new();
    TimedStep *step = random_steps(3, 20000, a);
    double begin = now_seconds();
    Simulation s = simulate(NULL, step, 20000, false, a);
    printf("20000 steps: %.2f ms\n", 1e3 * (now_seconds() - begin));
    CHECK(s.us > 0);
    arena_free(a);
}

int main(void) {
    Arena *a = arena_new();
    test_by_hand(a);
    test_host(a);
    test_empty(a);
    test_shared(a);
    arena_free(a);
    test_random();
    test_many();
    return check_done("simulate");
}
