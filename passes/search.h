/* search.h: which mesh, micro-batches, checkpointing and offload make a model's step fastest on a
 * cluster: thousands of candidates a second, each priced by formulas.
 *
 * What a model costs is read once, from one rank's graph on a small mesh on which every axis is
 * used (a probe). How the shapes of that graph depend on the sizes of the axes follows from how its
 * values are split; so its units, messages and lifetimes are those of any other mesh, scaled.
 *
 * Left out: patterns that `shard` would choose differently on larger axes, messages that kernels
 * hide (but gradients), updates on the host's cores. */
#ifndef M6C_SEARCH_H
#define M6C_SEARCH_H

#include "ir/storage.h"
#include "passes/comm_cost.h"
#include "passes/partition.h"
#include "passes/passes.h"

/* The passes that make a probe of a graph on its mesh. */
#define SEARCH_PASSES                                                                              \
    "simplify,raise,precision,differentiate,optimize,shard,simplify,lower,epilogue,fuse,schedule"

/* What sizes depend on. Experts either have an axis of their own or use data's ranks; micro-batches
 * divide what depends on the batch as an axis does. */
typedef enum { AXIS_DATA, AXIS_EXPERT, AXIS_TENSOR, AXIS_MICRO, AXIS_COUNT } SearchAxis;
const char *search_axis_name(SearchAxis a);
/* The axes that a group names, as bits: "data.expert". An axis that uses another's ranks is called
 * as that one. */
unsigned search_axes(const char *over);

/* ================================ search_power.c ================================ */

/* How a number grows with the axes: as the product of size[a] ^ power[a], powers from -1 to 1, as
 * one number below POWERS. */
enum { POWERS = 81, POWER_NONE = 40 };
typedef uint8_t Power;
Power power_make(const int power[AXIS_COUNT]);
int power_of(Power p, SearchAxis a);
/* By Power: the factor for sizes now[] of what was seen with sizes then[]. */
void power_factors(const int64_t then[AXIS_COUNT], const int64_t now[AXIS_COUNT],
                   double factor[POWERS]);

/* Dimension 0 of the inputs that replicas divide: as one rank has it. 0: there are no inputs. */
int64_t search_batch(const Graph *g);

/* By value, of a sharded graph with SEARCH_PASSES behind it; of tuples POWER_NONE. *least gets the
 * greatest number of parts that every set of axes may have: the greatest common divisor of the
 * dimensions split over the set, by bit mask; 0: nothing is split over it. */
Power *power_of_values(const Graph *g, int64_t divisor[1 << AXIS_COUNT], Arena *a);

/* ================================ search_model.c ================================ */

/* Bytes, by how they grow. */
enum { AMOUNT_PARTS = 8 };
typedef struct {
    int n;
    double bytes[AMOUNT_PARTS];
    Power power[AMOUNT_PARTS];
} Amount;
void amount_add(Amount *a, double bytes, Power p);
double amount_at(const Amount *a, const double factor[POWERS]);

/* Equal units of a layer. */
typedef struct {
    Work work; /* as in the probe */
    uint32_t count;
    Phase phase;
    Power m, n, k, batch, flops;
    Amount traffic;
} SearchUnit;

/* Equal collectives of a layer. */
typedef struct {
    Collective kind;
    unsigned over; /* bit a: along axis a */
    Phase phase;
    bool gradient; /* sent beside the backward part: only the update waits for it */
    uint32_t count;
    double bytes; /* as in CommWork, in the probe */
    Power power;
} SearchComm;

/* Layers with the same units, messages and bytes. */
typedef struct {
    uint32_t unit, nunit, comm, ncomm; /* the first ones and how many */
    Amount param, state, largest;      /* largest: a parameter with its states */
    Amount kept;                       /* from forward to backward */
    Amount passed;                     /* of these, what later layers read */
    Amount grad, held;                 /* of all parameters; what is held until the update */
    Amount working[PHASE_COUNT];       /* what lives inside the layer's part of a phase, at most */
} SearchClass;

typedef struct {
    int64_t size[AXIS_COUNT]; /* the probe's mesh; micro-batches: 1 */
    bool shared;              /* experts use data's ranks */
    bool train;
    int64_t batch;        /* what replicas and micro-batches divide; 0: nothing */
    bool experts, tensor; /* something is split over the axis */
    int64_t divisor[1 << AXIS_COUNT];
    uint32_t nlayer;
    uint32_t *class; /* by layer, in the order of the data */
    VEC(SearchClass) kind;
    VEC(SearchUnit) unit;
    VEC(SearchComm) comm;
    Amount input;
} SearchModel;

/* Everything in the arena, but for the vectors: search_model_free. */
SearchModel *search_model(const Graph *g, Arena *a);
void search_model_free(SearchModel *m);

/* ================================ search_comm.c ================================ */

/* Ranks are numbered over pipeline, data, expert, tensor, the last one fastest. */
typedef struct {
    int64_t size[AXIS_COUNT]; /* of AXIS_MICRO: micro-batches */
    int64_t pipeline;
    bool shared; /* experts use data's ranks; size[AXIS_EXPERT] is 1 */
} SearchMesh;

/* Prices of collectives, kept at powers of two of bytes and linear between them. */
typedef struct SearchPrices SearchPrices;
SearchPrices *search_prices(const Topology *t, Arena *a);
/* µs of a collective over axes of the mesh; of a send, to the next stage. */
double search_comm_us(SearchPrices *p, const SearchMesh *mesh, unsigned over, Collective kind,
                      double bytes);

/* ================================ search_price.c ================================ */

/* Where a step's time goes, as seen from its slowest stage. */
typedef enum {
    PART_COMPUTE,
    PART_RECOMPUTE,
    PART_EXCHANGE, /* all-to-alls */
    PART_TENSOR,   /* what the ranks of the tensor axis tell each other */
    PART_GATHER,   /* other messages that kernels wait for */
    PART_GRADIENT, /* sums of gradients, as far as no kernel hides them */
    PART_UPDATE,   /* the optimizer, with its messages */
    PART_BUBBLE,   /* stages that wait for each other */
    PART_OFFLOAD,  /* copies that kernels wait for */
    PART_COUNT
} SearchPart;
const char *search_part_name(SearchPart p);

typedef enum { KEEP_ALL, KEEP_SOME, KEEP_NONE } SearchKeep; /* of activations; the rest again */

typedef struct {
    SearchMesh mesh;
    bool zero;
    SearchKeep keep;
    bool offload; /* what does not fit goes to the host */
} SearchChoice;

typedef enum {
    LOST_NOT,    /* it can be done */
    LOST_DIVIDE, /* a mesh does not divide a dimension */
    LOST_STAGES, /* more stages than layers */
    LOST_DEVICE, /* not enough memory of the device */
    LOST_HOST,
    LOST_COUNT
} SearchLost;

typedef struct {
    SearchChoice choice;
    SearchLost lost;
    unsigned axes;  /* LOST_DIVIDE: over these, as bits, whose product does not divide */
    int64_t excess; /* that dimension; bytes too many; layers */
    double us;      /* of a step */
    double part[PART_COUNT];
    double device, host; /* bytes of the fullest rank */
    uint32_t again;      /* layers computed again */
} SearchResult;

typedef struct {
    const Machine *machine;
    SearchPrices *prices;
    int64_t memory, host_memory; /* bytes of a rank; 0: no limit */
    int64_t splits;              /* messages of gradients */
} SearchPlace;

/* A mesh with its micro-batches: what its layers cost, whatever is kept. */
typedef struct SearchBase SearchBase;
/* NULL when the mesh does not go with the model; *why says which. In the arena. */
SearchBase *search_base(const SearchModel *m, const SearchPlace *p, const SearchMesh *mesh,
                        SearchResult *why, Arena *a);
void search_price(const SearchBase *b, const SearchChoice *choice, SearchResult *out);

/* ================================ search.c ================================ */

typedef struct {
    /* Probes, by whether experts use data's ranks and by zero; NULL: no candidates of that kind. */
    const SearchModel *model[2][2];
    SearchPlace place;
    int64_t ranks;
    int64_t stages; /* at most; 0: as many as there are layers */
} SearchSpace;

typedef struct {
    uint64_t priced;          /* candidates */
    VEC(SearchResult) result; /* best first; then those that cannot be, by how far */
} SearchList;

/* All meshes of `ranks` ranks, with all choices. A choice that changes nothing is listed once. */
void search_candidates(const SearchSpace *s, SearchList *out);

/* In what the one loses most against the other. */
SearchPart search_worse_in(const SearchResult *r, const SearchResult *best);
/* "data=8,expert=data,tensor=2": as --mesh takes it; "data=1" for one rank. */
void search_mesh_print(const SearchMesh *m, Buf *out);

#endif
