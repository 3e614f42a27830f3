/* mpi_module.h: what m6c takes from MPI, as plain C functions.
 *
 * MPI has no common binary interface, so that m6c is not linked with it: mpi_module.c is, as the
 * shared module libm6c_mpi.so, which comm_mpi.c loads when a plan has several ranks. Functions
 * return 0 or MPI's error code, for which error() has a text. Every operation is started and then
 * tested until it is done; its memory must stay as long. Counts are elements. They may be called
 * from several threads, those of one communicator from one at a time. */
#ifndef M6C_MPI_MODULE_H
#define M6C_MPI_MODULE_H

#include "ir/base.h"

enum { MPI_MODULE_VERSION = 2 };

/* MPI's own handles, whatever their size is. */
typedef struct {
    _Alignas(16) char raw[16];
} MpiHandle;

typedef struct MpiModule {
    int version; /* MPI_MODULE_VERSION */
    /* Starts MPI for many threads. *shared: how many of the ranks are on this machine, *place: this
     * one's place among them. */
    int (*init)(MpiHandle *world, int *rank, int *size, int *place, int *shared);
    int (*finish)(void); /* all ranks together */
    void (*error)(int code, char *text, int room);
    /* The ranks of `comm` that give the same color, ordered by key. All of `comm` call it. */
    int (*split)(MpiHandle comm, int color, int key, MpiHandle *out);

    int (*test)(MpiHandle *request, int *done);
    /* in == out: in place. bf16 and f16 are widened, reduced and rounded. */
    int (*all_reduce)(MpiHandle comm, const void *in, void *out, int n, Dtype d, ReduceOp op,
                      MpiHandle *request);
    /* n from each rank; in place: in is the rank's block of out. */
    int (*all_gather)(MpiHandle comm, const void *in, void *out, int n, Dtype d,
                      MpiHandle *request);
    /* n to each rank; in == out: the result is at its beginning. */
    int (*reduce_scatter)(MpiHandle comm, const void *in, void *out, int n, Dtype d, ReduceOp op,
                          MpiHandle *request);
    int (*all_to_all)(MpiHandle comm, const void *in, void *out, int n, Dtype d,
                      MpiHandle *request);
    int (*all_to_all_v)(MpiHandle comm, const void *in, const int *nsend, const int *send_at,
                        void *out, const int *nrecv, const int *recv_at, Dtype d,
                        MpiHandle *request);
    int (*send)(MpiHandle comm, const void *p, int n, Dtype d, int to, int tag, MpiHandle *request);
    int (*recv)(MpiHandle comm, void *p, int n, Dtype d, int from, int tag, MpiHandle *request);
    int (*broadcast)(MpiHandle comm, void *p, int n, Dtype d, int root, MpiHandle *request);
    int (*barrier)(MpiHandle comm, MpiHandle *request);
} MpiModule;

/* The module's one symbol. */
#define MPI_MODULE_SYMBOL "m6c_mpi_module"
extern const MpiModule m6c_mpi_module;

#endif
