/* comm_watch.h: how the ranks of a run learn that one of them failed, was lost or does not move.
 *
 * Beside MPI each rank has a connection to rank 0 and a thread that listens on it. The system
 * closes the connection of a process that ends, however it ends, so that nobody needs a heartbeat;
 * rank 0 passes on what one rank tells all. Texts are cut at some kilobytes. */
#ifndef M6C_COMM_WATCH_H
#define M6C_COMM_WATCH_H

#include "runtime/comm.h"

typedef struct Watch Watch;

typedef struct {
    int rank, size;
    bool together; /* all ranks are on this machine */
    /* Rank 0's bytes go to all; every rank calls it. */
    Status (*share)(void *ctx, void *p, int64_t bytes);
    void *ctx;
} WatchConfig;

/* All ranks together. *out is set, and must be closed, even after a failure. */
Status watch_open(const WatchConfig *config, Watch **out);
/* Every other rank did, or will, close its own: not after a failure. */
void watch_close(Watch *w);

/* Has a rank failed or been lost? Cheap enough to be asked in a loop. */
bool watch_failed(const Watch *w);
/* Which and why, with status 3: what this rank's run ends with. */
Status watch_status(Watch *w);

/* Where this rank is, for the others. */
void watch_position(Watch *w, CommPosition *say, const void *ctx);
/* The place `id` among the communicators that were made: rank has begun so many collectives. */
void watch_begun(Watch *w, int id, int64_t n);
/* Why `number` of communicator `id` does not end: which of all ranks do not answer within two
 * seconds; where all do, which of the n ranks `member` have not begun it, and where they are. */
void watch_ask(Watch *w, int id, int64_t number, const int *member, int n, Buf *out);

/* The run of this rank is over, with s: NULL, then it must end within so many seconds or the
 * process is ended; or a failure, which the others learn. Frees s. After a failure it returns the
 * exit status once all others spoke or had time to. */
int watch_leave(Watch *w, Status s, double seconds, int (*tell)(Status));

#endif
