/* partition.h: cutting a list into consecutive parts. Pure functions of weights: no graph. A
 * partition of n things into k parts is first[0 … k]: part i is first[i] … first[i + 1] - 1. */
#ifndef M6C_PARTITION_H
#define M6C_PARTITION_H

#include "ir/base.h"

/* ---- the fastest pipeline ---- */

typedef struct {
    double us;       /* of one micro-batch, forward and backward, on a device of speed 1 */
    int64_t fixed;   /* bytes that are there all the time: parameters, gradients, their states */
    int64_t active;  /* bytes kept from forward to backward, of one micro-batch */
    int64_t working; /* bytes of what lives only while the layer is computed */
    int64_t cut;     /* bytes of one micro-batch that go to the layers after it */
} ChainLayer;

typedef struct {
    double speed;      /* above 0 */
    int64_t memory;    /* bytes; 0: no limit */
    int64_t in_flight; /* micro-batches whose activations it keeps: pipeline_in_flight */
    double link;       /* microseconds a byte to the next stage takes; 0: nothing */
    const double *us;  /* by layer: what it takes here, for `us` and `speed`; NULL: these */
} ChainStage;

/* Of one layer alone. */
static inline double chain_layer_us(const ChainLayer *layer, const ChainStage *s, uint32_t i) {
    return s->us ? s->us[i] : layer[i].us / s->speed;
}

/* What the layers from `from` to before `to` need as a stage: the slower of computing a micro-batch
 * and sending its results on (both go side by side), and bytes. */
double chain_us(const ChainLayer *layer, const ChainStage *s, uint32_t from, uint32_t to);
int64_t chain_bytes(const ChainLayer *layer, const ChainStage *s, uint32_t from, uint32_t to);

/* The partition whose slowest stage is the fastest, of those that give every stage a layer and no
 * stage more than its memory; of equal ones, one that sends the fewest bytes between stages. Its
 * slowest stage's time in *us. False with a sentence in *err when there is none. O(n^2 stages),
 * less where few layers fill a stage. */
bool partition_chain(uint32_t n, const ChainLayer *layer, uint32_t stages, const ChainStage *stage,
                     uint32_t *first, double *us, Buf *err);

/* ---- as in EPL 1.0 (epl/parallel/partitioner.py) ---- */

typedef struct {
    uint32_t start;
    int64_t weight;
} Bucket;
/* Greedy: a bucket takes things until the next would make it larger than `size`; a thing that is
 * larger has one for itself. How many of the at most `most` buckets it used, 0 when that is too
 * few. */
uint32_t partition_buckets(uint32_t n, const int64_t *weight, int64_t size, uint32_t most,
                           Bucket *bucket);

/* With the smallest size of buckets, from sum / parts on, that needs no more than `parts` of them.
 * Weights that differ by more than 100 are first scaled to 0 … 100. Returns how many parts it made;
 * 1 when no size does. */
uint32_t partition_balance(uint32_t n, const int64_t *weight, uint32_t parts, uint32_t *first);

/* Exactly `parts` parts, empty ones at the end when there are fewer things. A part is filled until
 * it has at least a size, the largest from sum / parts down with which all parts get something. For
 * group-wise apply and ZeRO. */
void partition_stages(uint32_t n, const int64_t *weight, uint32_t parts, uint32_t *first);

enum { BLOCK_DEPTH = 20, BLOCK_TYPES = 5, BLOCK_COPIES = 4, BLOCK_OPS = 20 };
#define NO_BLOCK UINT32_MAX
/* Repeated blocks: scopes ("block[3].attention", components joined by '.') of one depth below
 * BLOCK_DEPTH whose ops are the same number of the same types, of at least BLOCK_COPIES scopes with
 * more than BLOCK_TYPES types and more than BLOCK_OPS ops each; outermost scopes first, none inside
 * another. block[i] is op i's, numbered by their first ops, or NO_BLOCK. Returns how many. */
uint32_t repeated_blocks(uint32_t n, const char *const *scope, const int *type, uint32_t *block);

/* Stages of equally many repeated blocks, if there are at least BLOCK_COPIES blocks and the stages
 * divide them: what lies before a block belongs to the stage of the block before, and to the first.
 * Otherwise balanced by the number of ops. Returns the number of stages. */
uint32_t partition_blocks(uint32_t n, const char *const *scope, const int *type, uint32_t stages,
                          uint32_t *first);

#endif
