/* balance.h: which devices do what, and how much of it. Pure functions of figures: no graph.
 *
 * Whale (Jia et al., ATC'22, section 3): a TaskGraph is a part of the model that is placed as one
 * thing; its virtual device is the list of devices it is placed on. */
#ifndef M6C_BALANCE_H
#define M6C_BALANCE_H

#include "ir/base.h"

typedef struct {
    double flops;   /* FLOP/s, above 0 */
    int64_t memory; /* bytes, above 0 */
    int node;       /* the host it is part of: 0, 1, … */
} Processor;

/* ---- how much: shares of uneven devices ---- */

/* Work that devices divide among themselves: samples of a batch (data parallel) or elements of a
 * dimension (split). `fixed` is what a device holds whatever its share, 0 in Whale's model. */
typedef struct {
    int64_t parts; /* to divide: a batch's samples, a dimension's elements */
    double flops;  /* of one part */
    int64_t bytes; /* of one part */
    int64_t fixed; /* on every device that has parts */
} BalanceWork;

/* Time of the parts on a device in seconds, and the memory they take as a share of what it has:
 * above 1 is too much. */
double balance_seconds(const BalanceWork *w, const Processor *p, int64_t parts);
double balance_fill(const BalanceWork *w, const Processor *p, int64_t parts);

/* Parts in proportion to FLOP/s, whole numbers that sum up to w->parts: where the proportion is not
 * whole, the largest remainders are rounded up (of equal ones the first). */
void balance_proportional(const BalanceWork *w, uint32_t n, const Processor *p, int64_t *part);

/* Whale's Algorithm 1, Memory-Constraint Load Balancing: from the proportional shares, parts go
 * from the device with too little memory that is fullest (the peak) to the one with room that would
 * be done first, of equal ones the emptiest (the valley): as many as the valley has room for, but
 * no more than the peak has too many. The sum stays. False when some device has too little memory
 * at the end; then no division fits, *err has a sentence, and part[] is the last one tried. */
bool balance_load(const BalanceWork *w, uint32_t n, const Processor *p, int64_t *part, Buf *err);

/* ---- which: virtual devices ---- */

/* The devices of TaskGraph t in replica r are device[r * each + first[t] …], need[t] of them. */
typedef struct {
    uint32_t replicas; /* degree of the nested data parallelism */
    uint32_t each;     /* devices of one replica of the model */
    uint32_t *first;   /* by TaskGraph */
    uint32_t *device;  /* indices into the processors */
    uint32_t crossing; /* replicas with devices on several nodes */
} VirtualDevices;

enum {
    VIRTUAL_ROWS,   /* node after node: a replica of the model inside a node */
    VIRTUAL_COLUMNS /* first devices of all nodes, then second ones, …: a TaskGraph's replicas
                       inside a node, for fast gradient reductions */
};
/* Takes need[t] devices (at least 1) for every TaskGraph, for one replica of the model after the
 * other, in the order given by `prefer`. shared: the TaskGraphs of a replica all start at its first
 * device, and a replica takes as many as the largest needs. False with a sentence in *err when the
 * devices are not a multiple of one replica's. Memory from the arena. */
bool virtual_devices(uint32_t n, const Processor *p, uint32_t tasks, const uint32_t *need,
                     int prefer, bool shared, VirtualDevices *out, Arena *a, Buf *err);

/* Stage i of N caches the activations of N - i micro-batches, so the first stage gets the device
 * with the most memory: order[i] is the i-th device by memory, of equal ones the first. */
void balance_stage_order(uint32_t n, const Processor *p, uint32_t *order);

#endif
