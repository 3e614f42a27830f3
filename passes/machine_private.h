/* machine_private.h: what a machine is made of. Private to machine*.c, cost.c and topology*.c. */
#ifndef M6C_MACHINE_PRIVATE_H
#define M6C_MACHINE_PRIVATE_H

#include "passes/machine.h"

/* A number as it was written, so that it is printed alike: 12.5 of unit_row[unit]. */
typedef struct {
    double x;
    uint32_t unit;
    double value; /* in bytes, bytes/s, µs, FLOP/s or operations/s; 0: not stated */
} Quantity;

typedef enum { UNIT_BYTES, UNIT_RATE, UNIT_TIME, UNIT_FLOPS, UNIT_OPS, UNIT_KINDS } UnitKind;

/* Bandwidth on a working set; bytes 0: of any size. */
typedef struct {
    Quantity bytes, rate;
} Band;

typedef struct {
    Dtype dtype;
    bool ta, tb;
    int64_t m, n, k, batch;
    Quantity rate;
    Loc loc;
} ProductPoint;

typedef struct {
    Stream stream;
    unsigned set; /* while all of these work too */
    double factor;
} Slow;

/* One level of the network, from inner to outer: topology.h says what the figures mean. */
typedef struct {
    const char *name;
    Quantity rate, latency, overhead, burst, header;
    int nlong;
    Band longer[LINK_RATES];       /* of messages from so many bytes on */
    int64_t joins, ports, bigraph; /* 0: not stated */
    bool bus, rails;
} Link;

typedef struct {
    Work work;
    Quantity us;
    uint64_t hash;
} Priced;

enum { AXES = 4, AXIS_MAX = 16 }; /* m, n, k, batch */

/* Measured products of one dtype and transposition as a grid over the logarithms of their
 * extents. Where nothing was measured the nearest point stands in; times never fall along an
 * axis. */
typedef struct {
    int count[AXES];
    double at[AXES][AXIS_MAX]; /* logarithms, ascending */
    double *rate;              /* logarithm of FLOP/s; NULL: none measured. In the arena */
} Grid;

/* Nodes of one kind. */
typedef struct {
    int64_t nodes;
    const char *file; /* as it was written */
    Loc loc;
    Machine *of; /* its devices, in the cluster's network */
    bool counts; /* in the prices of the whole */
} MachineGroup;

struct Machine {
    Session *session;
    const char *name, *target;
    VEC(const char *) source;
    int64_t threads, devices, nodes; /* 0: not stated */
    Quantity memory[MEM_COUNT];
    Quantity launch, vector, host_launch, host_vector;
    VEC(Band) bandwidth;
    VEC(Band) host_bandwidth;
    Quantity peak[DT_COUNT], attention[DT_COUNT], attention_grad[DT_COUNT];
    double efficiency[DT_COUNT];
    VEC(ProductPoint) product;
    Quantity copy[STREAM_COUNT], latency[STREAM_COUNT];
    VEC(Slow) slow;
    VEC(Link) link;
    uint32_t inner;          /* of a cluster of groups: so many links are those inside its nodes */
    VEC(MachineGroup) group; /* empty: all devices are alike */
    VEC(Priced) step;
    Grid grid[DT_COUNT][2][2];
    uint32_t *by_hash;              /* steps, by ascending hash */
    struct CommPrices *collectives; /* worked out so far; comm_cost.c */
};

/* In the session's arena. */
void *machine_grow(Machine *m, void *p, uint32_t n, uint32_t *cap, size_t size);
#define PUSH(m, v, x)                                                                              \
    ((v)->p = machine_grow((m), (v)->p, (v)->n, &(v)->cap, sizeof *(v)->p), (v)->p[(v)->n++] = (x))

/* ---- machine_group.c: clusters of unequal nodes ---- */
Machine *machine_parse_part(Session *s, const char *file, const char *text, size_t n); /* a group */
/* Reads the files of a cluster's groups. Says what is wrong. */
void groups_join(Machine *m, const char *file);
/* Of the slowest of those that count. */
double groups_us(const Machine *m, const Work *w);
double groups_speed(const Machine *m, Stream s, unsigned active);
double groups_peak(const Machine *m, Dtype d);

uint64_t work_hash(const Work *w);
bool comm_equal(const CommWork *a, const CommWork *b);
struct CommPrices *comm_prices_new(Arena *a);
/* The device and link lines of a node that NCCL described (machine_nccl.c). False after a
 * diagnostic. */
bool nccl_network(Session *s, const char *file, const char *text, size_t n, Buf *out);
/* Where an expat parser is, or stopped. */
Loc xml_loc(const void *parser, uint16_t file);
/* The same of what hwloc sees: of this machine (text is not read), an XML file, or its synthetic
 * descriptions ("pack:2 core:4"). For GPUs where the profile's target is one, else for cores
 * (machine_hwloc.c). */
typedef enum { HWLOC_HERE, HWLOC_XML, HWLOC_SYNTHETIC } HwlocKind;
bool hwloc_network(Session *s, HwlocKind kind, const char *name, const char *text, size_t n,
                   const Machine *profile, Buf *out);
/* Figures for targets whose machine was never measured. */
const char *machine_builtin(const char *target);

#endif
