/* Checks what depends on the part of a tensor that a rank has: runs against a brute-force map,
 * start values that are those of the whole tensor on every mesh, indices in groups. */
#include "runtime/slice.h"
#include "runtime/exec.h"
#include "tests/check.h"

#include <stdlib.h>

static void wanted(Status s) {
    if (s) {
        fprintf(stderr, "%s\n", s->text);
        exit(1);
    }
}

/* ---- meshes: own axes a, b (b fastest), groups of both ---- */

enum { GROUP_A = 1, GROUP_B, GROUP_AB }; /* as PlanBuffer.split */

static Plan *make_plan(Session *session, int64_t a, int64_t b) {
    Plan *p = plan_new(session);
    p->ranks = a * b;
    p->target = "null";
    PlanGroup ga = {"a", 1, {a}, {b}}, gb = {"b", 1, {b}, {1}}, both = {"a.b", 2, {a, b}, {b, 1}};
    vec_push(&p->group, ga);
    vec_push(&p->group, gb);
    vec_push(&p->group, both);
    return p;
}

/* A buffer of a whole tensor f32[12, 8, 16], split as told; the offset follows the one before. */
static uint32_t add_buffer(Plan *p, const char *name, BufKind kind, const uint32_t *split,
                           int64_t ranges) {
    static const int64_t whole[] = {12, 8, 16};
    PlanBuffer b = {.name = name, .kind = kind, .dtype = DT_F32, .rank = 3, .ranges = ranges};
    for (int i = 0; i < 3; i++) {
        b.split[i] = split[i];
        b.dim[i] = whole[i];
        if (split[i]) b.dim[i] /= plan_group_size(&p->group.p[split[i] - 1]);
    }
    b.bytes = plan_elements(&b) * 4;
    b.offset = p->arena[MEM_DEVICE];
    p->arena[MEM_DEVICE] += (b.bytes + 63) / 64 * 64;
    vec_push(&p->buffer, b);
    return p->buffer.n - 1;
}

/* ---- runs ---- */

/* The element of the whole tensor that is the part's element (x, y, z). */
static int64_t place(const Plan *p, const PlanBuffer *b, int64_t rank, const int64_t *x) {
    int64_t at = 0;
    for (int i = 0; i < 3; i++) {
        int64_t blocks = 1, index = 0, y = x[i];
        if (b->split[i]) {
            blocks = plan_group_size(&p->group.p[b->split[i] - 1]);
            index = plan_group_index(&p->group.p[b->split[i] - 1], rank);
        }
        int64_t ranges = i == 0 && b->ranges ? b->ranges : 1, block = b->dim[i] / ranges;
        y = x[i] / block * block * blocks + index * block + x[i] % block;
        at = at * b->dim[i] * blocks + y;
    }
    return at;
}

static void check_slice(const Plan *p, const PlanBuffer *b, int64_t rank) {
    Slice s = slice_of(p, b, rank);
    int64_t n = slice_elements(&s), all = slice_whole_elements(&s), at = 0;
    int64_t *part = xmalloc((size_t)all * sizeof *part);
    for (int64_t i = 0; i < all; i++) part[i] = -1;
    CHECK(n == plan_elements(b) && all == 12 * 8 * 16 && slice_is_all(&s) == (n == all));
    for (int64_t x[3] = {0}; x[0] < b->dim[0]; x[0]++)
        for (x[1] = 0; x[1] < b->dim[1]; x[1]++)
            for (x[2] = 0; x[2] < b->dim[2]; x[2]++) part[place(p, b, rank, x)] = at++;
    bool right = true;
    for (int64_t i = 0; i < n; i++) {
        SliceRun r = slice_run(&s, i);
        right = right && r.part == i && r.count > 0 && i + r.count <= n;
        for (int64_t j = 0; right && j < r.count; j++) right = part[r.whole + j] == i + j;
    }
    CHECK(right);
    for (int64_t i = 0; i < all; i++) {
        SliceRun r = slice_find(&s, i);
        right = right && r.whole == i && r.part == part[i] && r.count > 0 && i + r.count <= all;
        for (int64_t j = 0; right && j < r.count; j++)
            right = part[i + j] == (r.part < 0 ? -1 : r.part + j);
    }
    CHECK(right);
    free(part);
}

static const uint32_t SPLIT[][3] = {
    {0, 0, 0},
    {GROUP_A, 0, 0},
    {0, GROUP_B, 0},
    {0, 0, GROUP_AB},
    {GROUP_AB, 0, 0},
    {GROUP_B, 0, GROUP_A},
    {GROUP_A, GROUP_B, 0},
    {0, GROUP_A, GROUP_B},
    {GROUP_B, GROUP_A, 0},
};
static const int64_t MESH[][2] = {{1, 1}, {2, 1}, {1, 4}, {2, 2}, {2, 4}, {4, 2}};

static void test_runs(void) {
    Session *session = session_new();
    for (size_t m = 0; m < COUNT(MESH); m++) {
        Plan *p = make_plan(session, MESH[m][0], MESH[m][1]);
        for (size_t i = 0; i < COUNT(SPLIT); i++)
            for (int64_t ranges = 0; ranges <= 3; ranges++) {
                const uint32_t *split = SPLIT[i];
                if (split[0] && 12 % (plan_group_size(&p->group.p[split[0] - 1]) * MAX(ranges, 1)))
                    continue;
                uint32_t b = add_buffer(p, "x", BUF_PARAM, split, ranges);
                for (int64_t r = 0; r < p->ranks; r++) check_slice(p, &p->buffer.p[b], r);
            }
        plan_free(p);
    }
    session_free(session);
}

/* ---- start values and indices ---- */

static void check_start(const Plan *p, Exec *e, uint32_t buffer, int rank) {
    const PlanBuffer *b = &p->buffer.p[buffer];
    Slice s = slice_of(p, b, rank);
    float *got = xmalloc((size_t)b->bytes);
    bool right = true;
    wanted(exec_read(e, buffer, got, b->bytes));
    for (int64_t i = 0; i < plan_elements(b); i++)
        right = right && got[i] == (float)init_value(INIT_NORMAL, 0, 1, random_key(5, 77, 0),
                                                     (uint64_t)slice_run(&s, i).whole);
    CHECK(right);
    free(got);
}

static void test_exec(Pool *pool, int64_t a, int64_t b) {
    Session *session = session_new();
    Plan *p = make_plan(session, a, b);
    p->target = "cpu";
    for (size_t i = 0; i < COUNT(SPLIT); i++) {
        if (SPLIT[i][0] && 12 % plan_group_size(&p->group.p[SPLIT[i][0] - 1])) continue;
        const char *name = arena_printf(session_arena(session), "w%zu", i);
        PlanTensor t = {add_buffer(p, name, BUF_PARAM, SPLIT[i], 0), {INIT_NORMAL, 0, 1, 77}};
        vec_push(&p->tensor, t);
    }
    PlanBuffer index = {.name = "@index/a.b", .kind = BUF_INPUT, .dtype = DT_I32, .bytes = 4};
    index.offset = p->arena[MEM_DEVICE];
    p->arena[MEM_DEVICE] += 64;
    PlanPort port = {p->buffer.n, 0};
    vec_push(&p->buffer, index);
    vec_push(&p->input, port);
    for (int rank = 0; rank < a * b; rank++) {
        Exec *e = NULL;
        ExecOptions o = {.device = &device_cpu, .pool = pool, .dir = "/tmp", .rank = rank};
        int32_t got = -1;
        wanted(exec_open(p, &o, &e));
        wanted(exec_init_params(e, 5));
        for (uint32_t i = 0; i < p->tensor.n; i++) check_start(p, e, p->tensor.p[i].buffer, rank);
        wanted(exec_read(e, port.buffer, &got, sizeof got));
        CHECK(got == rank);
        exec_close(e);
    }
    plan_free(p);
    session_free(session);
}

int main(void) {
    Pool *pool = pool_open(2);
    test_runs();
    for (size_t m = 0; m < COUNT(MESH); m++) test_exec(pool, MESH[m][0], MESH[m][1]);
    pool_close(pool);
    return check_done("slice");
}
