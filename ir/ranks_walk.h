/* ranks_walk.h: ranks that each go through a graph of their own until they need others: for runs
 * and for the proof that no rank waits forever. Private to ir/.
 *
 * A collective is done when all members of its group stand at it, with the same kind, attributes,
 * types and stream. A transfer is matched by peer and number. A send is left for its receive, or
 * waits for it; where nothing waits longer than that, the ranks also get through when some of it
 * runs beside other work. */
#ifndef M6C_IR_RANKS_WALK_H
#define M6C_IR_RANKS_WALK_H

#include "ir/storage.h"

typedef struct Walk Walk;

/* What happens on the way. */
typedef struct {
    void (*node)(Walk *w, int64_t rank); /* rank's node: of it alone */
    /* All members of a group are at their nodes; `first` is its member 0. */
    void (*meet)(Walk *w, const MeshGroup *m, int64_t first);
    /* Rank `to` is at a receive of what node `sent` of rank `from` sends. */
    void (*hand)(Walk *w, int64_t from, Value sent, int64_t to);
} WalkActs;

/* A transfer that was sent and not received yet. */
typedef struct {
    int64_t from, to, tag;
    Value v; /* the send */
} Letter;

struct Walk {
    const Graph *const *g; /* by rank */
    int64_t n;             /* ranks; alone in a mesh, one does collectives by itself */
    bool waits;            /* a send waits for its receive */
    const WalkActs *acts;  /* NULL: nothing happens */
    void *ctx;
    Buf *err;
    /* kept by walk_ranks */
    Value *at; /* by rank: its node */
    VEC(Letter) mail;
};

/* All ranks from their first to their last node. False with a sentence in *err that names ranks,
 * nodes and lines. Groups must be those of the mesh (walk_check_groups). */
bool walk_ranks(Walk *w);
/* Every collective's group is one of the mesh, with as many members as the node says, and all its
 * members name the same ones. */
bool walk_check_groups(const Graph *g, Buf *err);

MeshGroup walk_group(const Graph *g, const char *over);

#endif
