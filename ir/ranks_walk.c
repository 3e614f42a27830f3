/* ranks_walk.c: ranks that each go through a graph of their own, and the proof that they all come
 * to its end.
 *
 * A rank goes on until it stands at what needs others; then the next rank does. When none can go
 * on, those that are not through wait for each other: the error follows who waits for whom. For a
 * proof nothing is computed, and sends wait: an order of all in which even this gets through has
 * one order of collectives in every group, and transfers that match one to one. */
#include "ir/ranks_walk.h"

#include <stdlib.h>
#include <string.h>

MeshGroup walk_group(const Graph *g, const char *over) {
    MeshGroup m;
    if (!mesh_group(&g->set, over, &m)) BUG("the mesh has no group \"%s\"", over);
    return m;
}

/* The node at which a rank is, or NULL: it is through. */
static const Node *standing(const Walk *w, int64_t r) {
    return w->at[r] < w->g[r]->node.n ? node_of(w->g[r], w->at[r]) : NULL;
}

static bool is_transfer(const Node *n) { return n->op == OP_send || n->op == OP_recv; }

static MeshGroup group_at(const Walk *w, int64_t r) {
    return walk_group(w->g[r], attr_str(standing(w, r), "over"));
}

/* The rank to which a send goes, or from which a receive comes. */
static int64_t peer_of(const Walk *w, int64_t r) {
    MeshGroup m = group_at(w, r);
    return mesh_member(&m, r, attr_int(standing(w, r), "peer"));
}

/* ---- what is said ---- */

static void say_node(const Walk *w, int64_t r, Value v) {
    const Graph *g = w->g[r];
    const char *loc = loc_text(g->session, node_of(g, v)->loc);
    buf_printf(w->err, "rank %lld", (long long)r);
    if (g->set.stages) buf_printf(w->err, " (stage %lld)", (long long)g->set.stage);
    buf_printf(w->err, " at %%%u %s%s%s%s", v, op_info((Op)node_of(g, v)->op)->name,
               *loc ? " (" : "", loc, *loc ? ")" : "");
}

/* ---- transfers ---- */

static const Type *sent_type(const Walk *w, int64_t r, Value v) {
    return type_of(w->g[r], operand(w->g[r], v, 0));
}

/* What was sent is what is received. */
static bool hand(Walk *w, int64_t from, Value v, int64_t to) {
    const Type *sent = sent_type(w, from, v), *got = standing(w, to)->type;
    if (sent != got) {
        say_node(w, to, w->at[to]);
        buf_printf(w->err, " receives ");
        type_print(got, w->err);
        buf_printf(w->err, " as transfer %lld, and ", (long long)attr_int(standing(w, to), "tag"));
        say_node(w, from, v);
        buf_printf(w->err, " sends ");
        type_print(sent, w->err);
        return false;
    }
    if (w->acts) w->acts->hand(w, from, v, to);
    w->at[to]++;
    return true;
}

static Letter *find_letter(const Walk *w, int64_t from, int64_t to, int64_t tag) {
    for (uint32_t i = 0; i < w->mail.n; i++) {
        Letter *l = &w->mail.p[i];
        if (l->from == from && l->to == to && (l->tag == tag || tag < 0)) return l;
    }
    return NULL;
}

/* The sender's or the receiver's turn when both must be there. */
static bool exchange(Walk *w, int64_t r) {
    const Node *n = standing(w, r);
    int64_t peer = peer_of(w, r);
    const Node *other = standing(w, peer);
    bool match = n->op == OP_send && other && other->op == OP_recv && peer_of(w, peer) == r &&
                 attr_int(other, "tag") == attr_int(n, "tag");
    if (!match || !hand(w, r, w->at[r], peer)) return false;
    w->at[r]++;
    return true;
}

static bool leave(Walk *w, int64_t r) {
    Letter new = {r, peer_of(w, r), attr_int(standing(w, r), "tag"), w->at[r]};
    if (find_letter(w, new.from, new.to, new.tag)) {
        say_node(w, r, new.v);
        buf_printf(w->err, " sends a second transfer %lld", (long long)new.tag);
        return false;
    }
    vec_push(&w->mail, new);
    w->at[r]++;
    return true;
}

static bool take(Walk *w, int64_t r) {
    Letter *l = find_letter(w, peer_of(w, r), r, attr_int(standing(w, r), "tag"));
    if (!l || !hand(w, l->from, l->v, r)) return false;
    *l = w->mail.p[--w->mail.n];
    return true;
}

/* ---- collectives ---- */

/* Is rank r at a collective of this group? */
static bool is_there(const Walk *w, int64_t r, const MeshGroup *m) {
    const Node *n = standing(w, r);
    if (!n || !is_collective(n) || is_transfer(n)) return false;
    MeshGroup own = group_at(w, r);
    return memcmp(&own, m, sizeof own) == 0;
}

/* What differs between the collectives of two members, or NULL. */
static const char *unlike(const Walk *w, int64_t a, int64_t b) {
    const Node *x = standing(w, a), *y = standing(w, b);
    const AttrField *field;
    if (x->op != y->op) return "operation";
    for (uint32_t i = 0, n = op_fields((Op)x->op, &field); i < n; i++)
        if (strcmp(field[i].name, "over") != 0 &&
            memcmp(&x->attr->v[i], &y->attr->v[i], sizeof x->attr->v[i]) != 0)
            return field[i].name;
    if (x->nin != y->nin) return "number of operands";
    for (uint32_t i = 0; i < x->nin; i++)
        if (type_of(w->g[a], operand(w->g[a], w->at[a], i)) !=
            type_of(w->g[b], operand(w->g[b], w->at[b], i)))
            return "type of an operand";
    return x->stream != y->stream ? "stream" : NULL;
}

/* Member 0 looks whether all are there. */
static bool meet(Walk *w, int64_t r) {
    MeshGroup m = group_at(w, r);
    if (mesh_index(&m, r) != 0) return false;
    for (int64_t i = 1; i < m.n; i++)
        if (!is_there(w, mesh_member(&m, r, i), &m)) return false;
    for (int64_t i = 1; i < m.n; i++) {
        int64_t other = mesh_member(&m, r, i);
        const char *what = unlike(w, r, other);
        if (!what) continue;
        say_node(w, other, w->at[other]);
        buf_puts(w->err, " does not go with ");
        say_node(w, r, w->at[r]);
        buf_printf(w->err, ": another %s", what);
        return false;
    }
    if (w->acts) w->acts->meet(w, &m, r);
    for (int64_t i = 0; i < m.n; i++) w->at[mesh_member(&m, r, i)]++;
    return true;
}

/* ---- all ranks ---- */

static bool together(Walk *w, int64_t r) {
    const Node *n = standing(w, r);
    if (!is_transfer(n)) return meet(w, r);
    return w->waits ? exchange(w, r) : n->op == OP_send ? leave(w, r) : take(w, r);
}

/* Rank r goes on while it can; whether it did. */
static bool go_on(Walk *w, int64_t r) {
    Value from = w->at[r];
    for (const Node *n; (n = standing(w, r));) {
        if (is_collective(n) && w->n > 1) {
            if (!together(w, r)) break;
        } else {
            if (w->acts) w->acts->node(w, r);
            w->at[r]++;
        }
    }
    return w->at[r] != from;
}

/* The rank for which r waits. */
static int64_t waits_for(const Walk *w, int64_t r) {
    if (is_transfer(standing(w, r))) return peer_of(w, r);
    MeshGroup m = group_at(w, r);
    for (int64_t i = 0; i < m.n; i++) {
        int64_t other = mesh_member(&m, r, i);
        if (!is_there(w, other, &m)) return other;
    }
    return r;
}

static void say_waiting(const Walk *w, int64_t r) {
    const Node *n = standing(w, r);
    long long other = waits_for(w, r), tag = is_transfer(n) ? attr_int(n, "tag") : 0;
    say_node(w, r, w->at[r]);
    if (n->op == OP_send) {
        buf_printf(w->err, " waits for rank %lld to receive transfer %lld", other, tag);
    } else if (n->op == OP_recv) {
        const Letter *l = find_letter(w, other, r, -1);
        buf_printf(w->err, " waits for transfer %lld of rank %lld", tag, other);
        if (l) buf_printf(w->err, ", which has sent transfer %lld", (long long)l->tag);
    } else {
        buf_printf(w->err, " waits for rank %lld", other);
    }
}

/* Follows who waits for whom, from the first that is not through. */
static void say_stuck(const Walk *w) {
    bool *said = xcalloc((size_t)w->n, sizeof *said);
    int64_t r = 0;
    while (!standing(w, r)) r++;
    for (; !said[r] && standing(w, r); r = waits_for(w, r)) {
        if (w->err->n) buf_puts(w->err, "; ");
        say_waiting(w, r);
        said[r] = true;
    }
    if (!standing(w, r)) buf_printf(w->err, "; rank %lld is through", (long long)r);
    free(said);
}

static bool all_through(const Walk *w) {
    for (int64_t r = 0; r < w->n; r++)
        if (standing(w, r)) return say_stuck(w), false;
    if (!w->mail.n) return true;
    const Letter *l = &w->mail.p[0]; /* the first rank's first */
    for (const Letter *k = l; k < w->mail.p + w->mail.n; k++)
        if (k->from < l->from || (k->from == l->from && k->v < l->v)) l = k;
    say_node(w, l->from, l->v);
    buf_printf(w->err, " sends transfer %lld, which rank %lld does not receive", (long long)l->tag,
               (long long)l->to);
    return false;
}

bool walk_ranks(Walk *w) {
    bool moved = true;
    w->at = xcalloc((size_t)w->n, sizeof *w->at);
    while (moved && !w->err->n) {
        moved = false;
        for (int64_t r = 0; r < w->n && !w->err->n; r++) moved |= go_on(w, r);
    }
    bool ok = !w->err->n && all_through(w);
    vec_free(&w->mail);
    free(w->at);
    return ok;
}

/* ---- groups ---- */

/* Whether every member of every group has the same list of members. */
static bool is_partition(const MeshGroup *m, int64_t ranks) {
    for (int64_t r = 0; r < ranks; r++) {
        if (mesh_member(m, r, mesh_index(m, r)) != r) return false;
        for (int64_t i = 0; i < m->n; i++) {
            int64_t other = mesh_member(m, r, i);
            if (other < 0 || other >= ranks || mesh_index(m, other) != i) return false;
            if (mesh_member(m, other, mesh_index(m, r)) != r) return false;
        }
    }
    return true;
}

static bool is_known(const char *const *name, uint32_t n, const char *over) {
    for (uint32_t i = 0; i < n; i++)
        if (name[i] == over) return true;
    return false;
}

bool walk_check_groups(const Graph *g, Buf *err) {
    VEC(const char *) good = {0};
    for (Value v = 0; v < g->node.n; v++) {
        const Node *node = node_of(g, v);
        MeshGroup m;
        if (!is_collective(node)) continue;
        const char *over = attr_str(node, "over"), *op = op_info((Op)node->op)->name;
        if (!mesh_group(&g->set, over, &m))
            buf_printf(err, "%%%u %s: the mesh has no group \"%s\"", v, op, over);
        else if (m.n != attr_int(node, "ranks"))
            buf_printf(err, "%%%u %s: group \"%s\" has %lld ranks, not %lld", v, op, over,
                       (long long)m.n, (long long)attr_int(node, "ranks"));
        else if (!is_known(good.p, good.n, over) && !is_partition(&m, mesh_ranks(&g->set)))
            buf_printf(err, "%%%u %s: the ranks of \"%s\" name different members", v, op, over);
        if (err->n) break;
        if (!is_known(good.p, good.n, over)) vec_push(&good, over);
    }
    vec_free(&good);
    return err->n == 0;
}
