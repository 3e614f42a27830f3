/* machine.h: what a machine can do, and what a piece of work costs on it.
 *
 * One text format for machines measured here (`m6c calibrate` writes profile.txt in the cache
 * folder) and for machines described from datasheets (examples/clusters). */
#ifndef M6C_MACHINE_H
#define M6C_MACHINE_H

#include "ir/work.h"

typedef struct Machine Machine; /* owned by the session */

enum { LINK_RATES = 4 }; /* of a link, by the size of messages */

/* Reads a profile or a cluster file. NULL after diagnostics with file:line:col. */
Machine *machine_parse(Session *s, const char *file, const char *text, size_t n);
void machine_print(const Machine *m, Buf *out); /* parses back to the same text */
/* The machine that `cluster` names (a path; NULL: the profile of this machine in the cache folder,
 * or built-in figures for the target where none was measured; "nccl:FILE": that, with the network
 * of a node as NCCL wrote it to NCCL_TOPO_DUMP_FILE; "hwloc" or "hwloc:FILE": with what hwloc sees
 * of this machine, or wrote of another). NULL after diagnostics. */
Machine *machine_load(Session *s, const char *cluster, const char *target);
const char *machine_name(const Machine *m);   /* "AMD EPYC 7B13, 2 threads" */
const char *machine_target(const Machine *m); /* "cpu", "sm_80" */
/* Bytes of its memories, 0: not stated. */
int64_t machine_memory(const Machine *m, Mem mem);
int64_t machine_devices(const Machine *m); /* of a node; 0: not stated */
int64_t machine_nodes(const Machine *m);

/* ---- machine_group.c: clusters of unequal nodes ----
 *
 * A cluster file can name groups of nodes of different kinds. Ranks fill its nodes in order, and
 * what the machine itself is asked (prices, speeds, memories) is answered by the slowest and the
 * smallest of all groups: so a plan that runs on any of the devices. */
uint32_t machine_groups(const Machine *m); /* 1: all devices are alike */
/* The devices of one group, in the network of the whole cluster: prices and memories; m itself
 * when all are alike. */
const Machine *machine_group(const Machine *m, uint32_t i);
int64_t machine_group_ranks(const Machine *m, uint32_t i); /* devices in it; 0: not stated */
uint32_t machine_group_of(const Machine *m, int64_t rank); /* where rank r is on device r */
/* What counts for work that these ranks share: a group, or the slowest and smallest of those that
 * they are in. In the session's arena. */
const Machine *machine_of_ranks(const Machine *m, const int64_t *rank, int64_t n);
/* Whether its text names other files: such a machine has no prices of its own to be changed. */
bool machine_has_groups(const Machine *m);

/* FLOP/s of products of a dtype at best: its peak, or the fastest measured; 0: not stated. */
double machine_peak(const Machine *m, Dtype d);

/* Microseconds of the work alone on the machine: measured where the profile has it, otherwise the
 * slowest of arithmetic, memory and launch. Deterministic. */
double cost_us(const Machine *m, const Work *w);

/* Of a collective (w->comm.ranks > 0), alone on the machine. comm_cost.c */
double comm_cost_us(const Machine *m, const Work *w);

/* From now on this work costs so much (to four digits), and is printed so. */
void machine_set_step(Machine *m, const Work *w, double us);
/* While the streams of the set work the stream does so much of what it does alone (to two digits,
 * from 0.001 to 1); instead of what was said of them before. */
void machine_set_slow(Machine *m, Stream s, unsigned set, double speed);
/* The lines about devices, nodes and links of `network` instead of the machine's own; what it does
 * not state stays. The text must live as long as the session. False after diagnostics. */
bool machine_set_network(Machine *m, const char *network);
/* After machine_set_step, before cost_us. */
void machine_index(Machine *m);

/* Whether two pieces of work have one price. */
bool work_equal(const Work *a, const Work *b);

/* How streams disturb each other: the speed (0 … 1] of a stream while the streams of the bit set
 * `active` (bit STREAM_x, its own included) work. */
double machine_speed(const Machine *m, Stream s, unsigned active);

#endif
