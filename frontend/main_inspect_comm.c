/* main_inspect_comm.c: m6c inspect --comm: who talks to whom in a step of a plan, and how much.
 * Sizes are MiB, times ms. What a rank sends is counted as rings and pairwise exchanges do it
 * (comm_least_bytes), and as a run counts it (CommSent). */
#include "frontend/main_inspect_comm.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/main_price.h"
#include "passes/comm_cost.h"

enum { LARGEST = 8, SHOWN_RANKS = 16 };

typedef struct {
    uint32_t step;
    double bytes, sent; /* of the message; by one rank */
    int64_t messages;   /* that a rank sends to others */
} Message;

/* All collectives of one kind in one group. */
typedef struct {
    Collective kind;
    uint32_t group, n;
    int64_t messages;
    double bytes, sent, us;
    double phase[PLAN_PHASE_COUNT]; /* of `sent` */
} CommRow;

typedef struct {
    VEC(CommRow) row;
    VEC(Message) message; /* most sent bytes first */
} CommTable;

/* ---- what a plan says ---- */

static Message message_of(const Plan *p, uint32_t step) {
    const PlanStep *s = &p->step.p[step];
    const CommWork c = plan_work(p, s).comm;
    Message m = {.step = step, .bytes = c.bytes};
    if (c.kind == COLLECTIVE_RECV) return m;
    m.sent = comm_least_bytes(c.kind, c.ranks, c.bytes);
    m.messages = comm_messages(c.kind, c.ranks);
    return m;
}

static CommRow *row_of(CommTable *t, const PlanCollective *c) {
    for (uint32_t i = 0; i < t->row.n; i++)
        if (t->row.p[i].kind == c->kind && t->row.p[i].group == c->group) return &t->row.p[i];
    vec_push(&t->row, ((CommRow){.kind = c->kind, .group = c->group}));
    return &t->row.p[t->row.n - 1];
}

static int by_sent(const void *a, const void *b) {
    const Message *x = a, *y = b;
    if (x->sent != y->sent) return x->sent > y->sent ? -1 : 1;
    return (x->step > y->step) - (x->step < y->step);
}

static CommTable table_of(const Plan *p) {
    CommTable t = {0};
    for (uint32_t i = 0; i < p->step.n; i++) {
        const PlanStep *s = &p->step.p[i];
        if (s->kind != STEP_COLLECTIVE) continue;
        Message m = message_of(p, i);
        CommRow *r = row_of(&t, &s->collective);
        r->n++;
        r->messages += m.messages;
        r->bytes += m.bytes;
        r->sent += m.sent;
        r->us += s->predicted_us;
        r->phase[s->phase] += m.sent;
        vec_push(&t.message, m);
    }
    if (t.message.n) qsort(t.message.p, t.message.n, sizeof *t.message.p, by_sent);
    return t;
}

static void table_free(CommTable *t) {
    vec_free(&t->row);
    vec_free(&t->message);
}

/* ---- text ---- */

static void print_groups(const Plan *p, FILE *out) {
    fprintf(out, "%" PRId64 " ranks, mesh %s\n", p->ranks, *p->mesh ? p->mesh : "-");
    for (uint32_t i = 0; i < p->group.n; i++) {
        const PlanGroup *g = &p->group.p[i];
        int64_t n = plan_group_size(g);
        fprintf(out, "group %-16s %5" PRId64 " x %" PRId64 " ranks, the first:", g->name,
                p->ranks / n, n);
        for (int64_t k = 0; k < MIN(n, SHOWN_RANKS); k++)
            fprintf(out, " %" PRId64, plan_group_member(g, 0, k));
        fprintf(out, "%s\n", n > SHOWN_RANKS ? " ..." : "");
    }
}

static void print_row(const Plan *p, const CommRow *r, FILE *out) {
    fprintf(out, "%-15s %-12s %6u %9" PRId64 " %10.3f %10.3f", collective_name(r->kind),
            p->group.p[r->group].name, r->n, r->messages, mib(r->bytes), mib(r->sent));
    for (int i = 0; i < PLAN_PHASE_COUNT; i++) fprintf(out, " %9.3f", mib(r->phase[i]));
    fprintf(out, " %9.3f\n", r->us * 1e-3);
}

static void print_rows(const Plan *p, const CommTable *t, FILE *out) {
    fprintf(out, "a rank and step, MiB, ms:\n%-15s %-12s %6s %9s %10s %10s", "collective", "group",
            "number", "messages", "operands", "sent");
    for (int i = 0; i < PLAN_PHASE_COUNT; i++) fprintf(out, " %9s", plan_phase_name((PlanPhase)i));
    fprintf(out, " %9s\n", "alone");
    double sent = 0, us = 0;
    for (uint32_t i = 0; i < t->row.n; i++) {
        print_row(p, &t->row.p[i], out);
        sent += t->row.p[i].sent;
        us += t->row.p[i].us;
    }
    fprintf(out, "together: %u collectives, %.3f MiB sent, %.3f ms\n", t->message.n, mib(sent),
            us * 1e-3);
}

static void print_largest(const Plan *p, const CommTable *t, bool all, FILE *out) {
    uint32_t shown = all ? t->message.n : MIN(t->message.n, (uint32_t)LARGEST);
    fprintf(out, "%s\n",
            shown < t->message.n ? "the largest (--all: every one):" : "largest first:");
    for (uint32_t i = 0; i < shown; i++) {
        const Message *m = &t->message.p[i];
        const PlanStep *s = &p->step.p[m->step];
        fprintf(out, "  %10.3f MiB  step %-5u %-15s %-8s %-9s %s %s\n", mib(m->sent), m->step,
                collective_name(s->collective.kind), p->group.p[s->collective.group].name,
                plan_phase_name(s->phase), s->scope ? s->scope : "-", loc_text(p->session, s->loc));
    }
}

void inspect_comm(const Plan *p, bool all, FILE *out) {
    CommTable t = table_of(p);
    if (p->ranks == 1) fprintf(out, "one rank: nothing is sent\n");
    if (p->ranks > 1) print_groups(p, out);
    if (t.message.n) {
        print_rows(p, &t, out);
        print_largest(p, &t, all, out);
    }
    table_free(&t);
}

/* ---- JSON ---- */

static json_t *groups_json(const Plan *p) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < p->group.n; i++) {
        const PlanGroup *g = &p->group.p[i];
        json_t *members = json_array();
        for (int64_t k = 0; k < plan_group_size(g); k++)
            json_array_append_new(members, json_integer(plan_group_member(g, 0, k)));
        json_array_append_new(list, json_pack("{s:s, s:o}", "name", g->name, "first", members));
    }
    return list;
}

static json_t *rows_json(const Plan *p, const CommTable *t) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < t->row.n; i++) {
        const CommRow *r = &t->row.p[i];
        json_t *phases = json_object();
        for (int k = 0; k < PLAN_PHASE_COUNT; k++)
            json_object_set_new(phases, plan_phase_name((PlanPhase)k), json_real(r->phase[k]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:o}", "kind",
                                              collective_name(r->kind), "group",
                                              p->group.p[r->group].name, "number", (json_int_t)r->n,
                                              "messages", (json_int_t)r->messages, "bytes",
                                              r->bytes, "sent_bytes", r->sent, "ms", r->us * 1e-3,
                                              "sent_bytes_by_phase", phases));
    }
    return list;
}

static json_t *messages_json(const Plan *p, const CommTable *t) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < t->message.n; i++) {
        const Message *m = &t->message.p[i];
        const PlanStep *s = &p->step.p[m->step];
        json_array_append_new(list,
                              json_pack("{s:I, s:I, s:s, s:s, s:s, s:f, s:f, s:s, s:s}", "step",
                                        (json_int_t)m->step, "messages", (json_int_t)m->messages,
                                        "kind", collective_name(s->collective.kind), "group",
                                        p->group.p[s->collective.group].name, "phase",
                                        plan_phase_name(s->phase), "bytes", m->bytes, "sent_bytes",
                                        m->sent, "scope", s->scope ? s->scope : "", "source",
                                        loc_text(p->session, s->loc)));
    }
    return list;
}

json_t *inspect_comm_json(const Plan *p) {
    CommTable t = table_of(p);
    json_t *o = json_pack("{s:I, s:s, s:o, s:o, s:o}", "ranks", (json_int_t)p->ranks, "mesh",
                          p->mesh, "groups", groups_json(p), "collectives", rows_json(p, &t),
                          "messages", messages_json(p, &t));
    table_free(&t);
    return o;
}
