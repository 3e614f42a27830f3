/* comm.h: what ranks say to each other. One const table per communicator; comm_self.c is the one
 * for a single rank, where every collective is a copy, comm_mpi.c that of several processes.
 *
 * comm_start makes the communicator of all ranks (the world), split() makes those of groups. Every
 * rank of a communicator calls the same collectives in the same order, each from one thread at a
 * time; different communicators may be used at once. Counts are elements of `dtype`. Calls return
 * when the result is there. Integers, and floats of any width, are reduced; those of 16 bits travel
 * as such and are added in f32. Results are the same bits on all ranks and in every run.
 *
 * Errors are the system's (status 3): a rank was lost or failed, or did not come within the
 * timeout. After one of them nothing but comm_finish may be called. */
#ifndef M6C_COMM_H
#define M6C_COMM_H

#include "ir/base.h"

typedef struct Comm Comm; /* its first member is `const CommOps *ops` */

typedef struct CommOps {
    const char *name;
    const char *doc;
    int (*size)(const Comm *c);
    int (*rank)(const Comm *c);
    /* The ranks of c that give the same color, ordered by key; all ranks of c call it. */
    Status (*split)(Comm *c, int color, int key, Comm **out);
    /* in == out is allowed. */
    Status (*all_reduce)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype, ReduceOp op);
    /* n elements from each rank; out holds size * n, and `in` may be the rank's block of it. */
    Status (*all_gather)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype);
    /* in holds size * n; rank r gets the reduced n elements from r * n. in == out is allowed. */
    Status (*reduce_scatter)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype,
                             ReduceOp op);
    /* in holds size * n; block j of rank i becomes block i of rank j. in == out is allowed. */
    Status (*all_to_all)(Comm *c, const void *in, void *out, int64_t n, Dtype dtype);
    /* nsend[r] elements at in + send_at[r] go to rank r; nrecv[r] from it land at out + recv_at[r].
     */
    Status (*all_to_all_v)(Comm *c, const void *in, const int64_t *nsend, const int64_t *send_at,
                           void *out, const int64_t *nrecv, const int64_t *recv_at, Dtype dtype);
    /* To and from one rank; they meet in order. A send may wait for its receive. */
    Status (*send)(Comm *c, const void *p, int64_t n, Dtype dtype, int to);
    Status (*recv)(Comm *c, void *p, int64_t n, Dtype dtype, int from);
    Status (*broadcast)(Comm *c, void *p, int64_t n, Dtype dtype, int root);
    Status (*barrier)(Comm *c);
    /* Of a group; the world ends with comm_finish. Not after an error. */
    void (*close)(Comm *c);
} CommOps;

/* What a rank hands to a communicator for others: to each of them its part of the operand, as one
 * message. An all_reduce is counted as a reduce_scatter and an all_gather. These are the messages
 * that MPI sends in an all_to_all; of what it reduces or gathers it makes messages as it likes. */
typedef struct {
    int64_t messages;
    double bytes;
} CommSent;

struct Comm {
    const CommOps *ops;
    int64_t step;  /* what the next collective is for, in texts; -1: no step */
    CommSent sent; /* so far */
};

extern const CommOps comm_self, comm_mpi;

/* By name, or NULL. */
const CommOps *comm_find(const char *name);

Comm *comm_self_open(void); /* of one rank; comm_finish or close() frees it */

/* ---- the world ---- */

typedef struct {
    int64_t ranks;     /* of the plan; 0: as many as there are */
    const char *again; /* how m6c was called, for "mpirun -n 4 m6c run DIR"; NULL: not known */
    double timeout;    /* seconds that a collective may wait for the others; 0: COMM_TIMEOUT */
    /* Numbers that must be the same on all ranks, and what each is of ("the model"). */
    const uint64_t *same;
    const char *const *what;
    int nsame;
} CommConfig;
enum { COMM_TIMEOUT = 300 };

/* Starts what this process is a rank of, as whoever started it says (mpirun, srun); without them it
 * is the only one, and MPI is not loaded. Ranks that were left the same cores of a machine share
 * them out: each is then confined to its own. EXIT_USAGE: there are not as many ranks as the plan
 * has; EXIT_INPUT: `same` differs; EXIT_SYSTEM: MPI is missing or failed. In each case every rank
 * returns a failure, one of them with a text, and *world, unless it is NULL, ends with comm_finish.
 */
Status comm_start(const CommConfig *config, Comm **world);

/* Ends this rank: with s == NULL well, as soon as all others did. Otherwise the others learn s, end
 * with status 3 and say so; nobody waits for them longer than some seconds. Frees s and world, has
 * `tell` print what there is to say (it returns the exit status); returns the exit status, with
 * which the process must end at once. */
int comm_finish(Comm *world, Status s, int (*tell)(Status));

/* What a rank is doing, for messages of the others; called from any thread, until it is set to
 * NULL. "in step 7". */
typedef void CommPosition(const void *ctx, Buf *out);
void comm_set_position(Comm *world, CommPosition *say, const void *ctx);

/* This rank will not go on: its collectives under way, and all later ones, return a failure (with
 * an empty text). From any thread; then comm_finish. */
void comm_break(Comm *world);

/* Ranks on this machine, and this one's place among them. */
int comm_neighbours(const Comm *world, int *place);

/* ---- for devices that do the collectives of communicator c themselves, by other means ---- */

/* This rank is about to ask for the next one, whose number among c's is given; n as in CommOps. It
 * is counted as begun and sent, and with M6C_DEBUG=comm compared with what the others ask for. */
Status comm_begin(Comm *c, Collective kind, int64_t n, Dtype dtype, ReduceOp op, int64_t *number);
/* NULL as long as this rank and all others go on; else what the run ends with. */
Status comm_over(const Comm *c);
double comm_patience(const Comm *c); /* seconds to wait for the others */
/* That long nothing came: who has not begun number `number` (0: the last), and where they are; or
 * where the one is that it was to come from (peer >= 0). */
Status comm_late(const Comm *c, const char *what, int64_t number, int peer);

#endif
