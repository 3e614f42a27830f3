/* plan_parse_comm.c: what plans for several ranks have in addition: the mesh, groups of ranks,
 * parts of tensors, collectives. plan_check.c says what they must be. */
#include "runtime/plan_read.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGE = 1024 }; /* operands of a collective */

static const char *name_of_collective(int i) { return collective_name((Collective)i); }
static const char *name_of_reduce(int i) { return reduce_name((ReduceOp)i); }

static void complain(Reader *r, const char *at, Buf *why) {
    if (why->n) FAIL(r, at, "%s", why->p);
    buf_free(why);
}

/* ---- header ---- */

void read_ranks(Reader *r) { r->plan->ranks = read_int(r, "a number of ranks", 2, INT32_MAX); }

/* "data=4,expert=data": axis after axis, a size or an earlier axis. */
void read_mesh(Reader *r) {
    read_spaces(r);
    const char *start = r->p;
    while (r->p < r->end && *r->p != ' ') r->p++;
    r->plan->mesh = intern_n(r->session, start, (size_t)(r->p - start));
    Buf why = {0};
    plan_check_mesh(r->plan, &why);
    complain(r, start, &why);
}

void read_stages(Reader *r) {
    r->plan->stages = read_int(r, "a number of stages", 2, r->plan->ranks);
}

void read_stage(Reader *r) {
    r->plan->stage = read_int(r, "a stage, from 0", 0, MAX(r->plan->stages, (int64_t)1) - 1);
}

/* "5,3": as many as the group "data", which comes behind, has ranks. */
void read_shares(Reader *r) {
    VEC(int64_t) v = {0};
    do vec_push(&v, read_int(r, "a share", 1, INT32_MAX));
    while (!r->bad && v.n < r->plan->ranks && read_accept(r, ','));
    int64_t *kept = arena_array(session_arena(r->session), int64_t, v.n);
    memcpy(kept, v.p, v.n * sizeof *kept);
    if (!r->bad) r->plan->shares = (Shares){v.n, kept};
    vec_free(&v);
}

void read_share(Reader *r) {
    r->plan->share =
        read_int(r, "a class of shares, from 0", 0, shares_classes(r->plan->shares) - 1);
}

void read_balanced(Reader *r) { r->plan->balanced = read_word(r, "how shares were chosen", false); }

void read_group(Reader *r) {
    PlanGroup g = {0};
    Buf why = {0};
    read_spaces(r);
    const char *start = r->p;
    g.name = read_word(r, "a group's name", false);
    do {
        if (g.nlevel == PLAN_MAX_LEVELS) FAIL(r, r->p, "more than %d levels", PLAN_MAX_LEVELS);
        if (r->bad) return;
        int i = g.nlevel++;
        g.size[i] = read_int(r, "a number of ranks", 1, r->plan->ranks);
        read_expect(r, '/');
        g.stride[i] = read_int(r, "how far apart they are", 1, r->plan->ranks);
    } while (!r->bad && read_accept(r, ','));
    if (!r->bad) plan_check_group(r->plan, &g, &why);
    complain(r, start, &why);
    if (!r->bad) vec_push(&r->plan->group, g);
}

/* ---- parts of tensors ---- */

static void read_parts(Reader *r, PlanBuffer *b) {
    for (int i = 0; i < b->rank && !r->bad; i++) {
        if (i) read_expect(r, ',');
        if (!r->bad && !read_accept(r, '-'))
            b->split[i] = read_reference(r, 'g', "a group", r->plan->group.n) + 1;
    }
}

void read_split(Reader *r, PlanBuffer *b) {
    read_spaces(r);
    const char *start = r->p;
    Buf why = {0};
    if (r->bad || r->p >= r->end) return;
    read_key(r, "split");
    if (!r->bad) read_parts(r, b);
    read_spaces(r);
    if (!r->bad && r->p < r->end) {
        read_key(r, "ranges");
        b->ranges = read_int(r, "a number of ranges", 2, INT32_MAX);
    }
    if (!r->bad) plan_check_split(r->plan, b, &why);
    complain(r, start, &why);
}

/* ---- collectives ---- */

void read_collective(Reader *r, PlanStep *s) {
    s->collective = (PlanCollective){
        .kind = (Collective)read_choice(r, "a collective", name_of_collective, COLLECTIVE_COUNT),
        .wire = DT_TUPLE, /* as the operands */
        .scale = 1,
        .peer = -1};
}

void read_comm_group(Reader *r, PlanStep *s) {
    s->collective.group = read_reference(r, 'g', "a group", r->plan->group.n);
}

void read_comm_reduce(Reader *r, PlanStep *s) {
    s->collective.reduce = (ReduceOp)read_choice(r, "a reduction", name_of_reduce, REDUCE_COUNT);
}

void read_comm_count(Reader *r, PlanStep *s) {
    VEC(int64_t) v = {0};
    do {
        if (v.n == MAX_MESSAGE) FAIL(r, r->p, "more than %d operands", MAX_MESSAGE);
        int64_t n = r->bad ? 0 : read_int(r, "a number of elements", 1, INT64_MAX / 64);
        if (!r->bad) vec_push(&v, n);
    } while (!r->bad && read_accept(r, ','));
    s->collective.n = v.n;
    s->collective.count = arena_array(session_arena(r->session), int64_t, v.n + 1);
    if (v.n) memcpy(s->collective.count, v.p, v.n * sizeof *v.p);
    vec_free(&v);
}

void read_comm_dtype(Reader *r, PlanStep *s) { s->collective.dtype = read_dtype(r); }
void read_comm_wire(Reader *r, PlanStep *s) { s->collective.wire = read_dtype(r); }
void read_comm_scale(Reader *r, PlanStep *s) { s->collective.scale = read_number(r, "a factor"); }
void read_comm_peer(Reader *r, PlanStep *s) {
    s->collective.peer = read_int(r, "an index in the group", 0, INT32_MAX);
}
