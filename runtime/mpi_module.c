/* mpi_module.c: the one file that is compiled and linked with MPI. See mpi_module.h. */
#include "runtime/mpi_module.h"

#include <assert.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/half.h"

/* ---- handles ---- */

static_assert(sizeof(MPI_Comm) <= sizeof(MpiHandle) && sizeof(MPI_Request) <= sizeof(MpiHandle),
              "an MPI handle is larger than the room for it");

static MPI_Comm comm_of(MpiHandle h) {
    MPI_Comm c;
    memcpy(&c, h.raw, sizeof c);
    return c;
}

static MpiHandle handle_of(MPI_Comm c) {
    MpiHandle h = {{0}};
    memcpy(h.raw, &c, sizeof c);
    return h;
}

/* Passes `code` on; the request that a call has made goes to *h. */
static int started(int code, MPI_Request r, MpiHandle *h) {
    memcpy(h->raw, &r, sizeof r);
    return code;
}

/* ---- types and reductions ---- */

/* What init makes; MPI itself is such a global. */
static MPI_Datatype bf16_type, f16_type;
static MPI_Op half_op[REDUCE_COUNT];

static MPI_Datatype type_of(Dtype d) {
    switch (d) {
    case DT_F32: return MPI_FLOAT;
    case DT_F64: return MPI_DOUBLE;
    case DT_BF16: return bf16_type;
    case DT_F16: return f16_type;
    case DT_I32: return MPI_INT32_T;
    case DT_I64: return MPI_INT64_T;
    default: return MPI_UINT8_T;
    }
}

static void reduce_floats(ReduceOp op, const float *a, float *b, int n) {
    if (op == REDUCE_SUM)
        for (int i = 0; i < n; i++) b[i] += a[i];
    if (op == REDUCE_MAX)
        for (int i = 0; i < n; i++) b[i] = a[i] > b[i] || a[i] != a[i] ? a[i] : b[i];
    if (op == REDUCE_MIN)
        for (int i = 0; i < n; i++) b[i] = a[i] < b[i] || a[i] != a[i] ? a[i] : b[i];
}

/* b = a op b, each of 16 bits, computed in f32. */
static void reduce_half(ReduceOp op, const uint16_t *a, uint16_t *b, int n, MPI_Datatype type) {
    enum { PART = 512 };
    float x[PART], y[PART];
    Dtype d = type == bf16_type ? DT_BF16 : DT_F16;
    for (int i = 0; i < n; i += PART) {
        int m = MIN(n - i, (int)PART);
        half_widen(d, a + i, x, m);
        half_widen(d, b + i, y, m);
        reduce_floats(op, x, y, m);
        half_narrow(d, y, b + i, m);
    }
}

static void half_sum(void *a, void *b, int *n, MPI_Datatype *t) {
    reduce_half(REDUCE_SUM, a, b, *n, *t);
}
static void half_max(void *a, void *b, int *n, MPI_Datatype *t) {
    reduce_half(REDUCE_MAX, a, b, *n, *t);
}
static void half_min(void *a, void *b, int *n, MPI_Datatype *t) {
    reduce_half(REDUCE_MIN, a, b, *n, *t);
}

static MPI_Op op_of(Dtype d, ReduceOp op) {
    if (dtype_is_half(d)) return half_op[op];
    return op == REDUCE_SUM ? MPI_SUM : op == REDUCE_MAX ? MPI_MAX : MPI_MIN;
}

static int make_types(void) {
    MPI_User_function *const function[REDUCE_COUNT] = {
        [REDUCE_SUM] = half_sum, [REDUCE_MAX] = half_max, [REDUCE_MIN] = half_min};
    int code = MPI_Type_contiguous(1, MPI_UINT16_T, &bf16_type);
    if (!code) code = MPI_Type_commit(&bf16_type);
    if (!code) code = MPI_Type_contiguous(1, MPI_UINT16_T, &f16_type);
    if (!code) code = MPI_Type_commit(&f16_type);
    for (int i = 0; i < REDUCE_COUNT && !code; i++)
        code = MPI_Op_create(function[i], 1, &half_op[i]);
    return code;
}

/* ---- start and end ---- */

static int find_neighbours(int rank, int *place, int *shared) {
    MPI_Comm here;
    int code =
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &here);
    if (code) return code;
    MPI_Comm_rank(here, place);
    MPI_Comm_size(here, shared);
    return MPI_Comm_free(&here);
}

/* What Open MPI 4.1 does unasked, between hosts, takes longer than it must. Who sets these
 * variables keeps what they say. Of a large message over TCP the receiver asks for the rest to be
 * "put", which leaves the directions of a link idle in turns: exchanges took 1.3 to 1.6 times as
 * long over links of 200 and 500 Mb/s as when they are sent (flags 9: send, in place). A
 * nonblocking all_reduce in place goes up and down a tree, whole at each hop: 3 to 4 times as long
 * on four hosts of two ranks as scattered and gathered by halves (3: Rabenseifner's). */
static void prefer_fast(void) {
    setenv("OMPI_MCA_btl_tcp_flags", "9", 0);
    setenv("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "3", 0);
}

static int init(MpiHandle *world, int *rank, int *size, int *place, int *shared) {
    prefer_fast();
    int given, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &given);
    if (code) return code;
    if (given < MPI_THREAD_MULTIPLE) return MPI_ERR_UNSUPPORTED_OPERATION;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    *world = handle_of(MPI_COMM_WORLD);
    code = make_types();
    return code ? code : find_neighbours(*rank, place, shared);
}

static int finish(void) { return MPI_Finalize(); }

static void error_text(int code, char *text, int room) {
    char all[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(code, all, &n);
    snprintf(text, (size_t)room, "%s", all);
}

static int split(MpiHandle comm, int color, int key, MpiHandle *out) {
    MPI_Comm c;
    int code = MPI_Comm_split(comm_of(comm), color, key, &c);
    if (code) return code;
    *out = handle_of(c);
    return MPI_Comm_set_errhandler(c, MPI_ERRORS_RETURN);
}

/* ---- operations ---- */

static int test(MpiHandle *request, int *done) {
    MPI_Request r;
    memcpy(&r, request->raw, sizeof r);
    int code = MPI_Test(&r, done, MPI_STATUS_IGNORE);
    return started(code, r, request);
}

static int all_reduce(MpiHandle comm, const void *in, void *out, int n, Dtype d, ReduceOp op,
                      MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Iallreduce(in == out ? MPI_IN_PLACE : in, out, n, type_of(d), op_of(d, op),
                              comm_of(comm), &r);
    return started(code, r, request);
}

static int all_gather(MpiHandle comm, const void *in, void *out, int n, Dtype d,
                      MpiHandle *request) {
    MPI_Request r;
    int rank;
    MPI_Comm_rank(comm_of(comm), &rank);
    const char *own = (char *)out + (int64_t)rank * n * dtype_size(d);
    int code = MPI_Iallgather(in == own ? MPI_IN_PLACE : in, n, type_of(d), out, n, type_of(d),
                              comm_of(comm), &r);
    return started(code, r, request);
}

static int reduce_scatter(MpiHandle comm, const void *in, void *out, int n, Dtype d, ReduceOp op,
                          MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Ireduce_scatter_block(in == out ? MPI_IN_PLACE : in, out, n, type_of(d),
                                         op_of(d, op), comm_of(comm), &r);
    return started(code, r, request);
}

static int all_to_all(MpiHandle comm, const void *in, void *out, int n, Dtype d,
                      MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Ialltoall(in == out ? MPI_IN_PLACE : in, n, type_of(d), out, n, type_of(d),
                             comm_of(comm), &r);
    return started(code, r, request);
}

static int all_to_all_v(MpiHandle comm, const void *in, const int *nsend, const int *send_at,
                        void *out, const int *nrecv, const int *recv_at, Dtype d,
                        MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Ialltoallv(in, nsend, send_at, type_of(d), out, nrecv, recv_at, type_of(d),
                              comm_of(comm), &r);
    return started(code, r, request);
}

static int send(MpiHandle comm, const void *p, int n, Dtype d, int to, int tag,
                MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Isend(p, n, type_of(d), to, tag, comm_of(comm), &r);
    return started(code, r, request);
}

static int recv(MpiHandle comm, void *p, int n, Dtype d, int from, int tag, MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Irecv(p, n, type_of(d), from, tag, comm_of(comm), &r);
    return started(code, r, request);
}

static int broadcast(MpiHandle comm, void *p, int n, Dtype d, int root, MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Ibcast(p, n, type_of(d), root, comm_of(comm), &r);
    return started(code, r, request);
}

static int barrier(MpiHandle comm, MpiHandle *request) {
    MPI_Request r;
    int code = MPI_Ibarrier(comm_of(comm), &r);
    return started(code, r, request);
}

const MpiModule m6c_mpi_module = {
    .version = MPI_MODULE_VERSION,
    .init = init,
    .finish = finish,
    .error = error_text,
    .split = split,
    .test = test,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .all_to_all = all_to_all,
    .all_to_all_v = all_to_all_v,
    .send = send,
    .recv = recv,
    .broadcast = broadcast,
    .barrier = barrier,
};
