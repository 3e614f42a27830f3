/* hdrm.h: BiGraph networks (EFLOPS) and the placement of ranks on them.
 *
 * A BiGraph has an even number of switches in two layers, upper and lower; each is linked to every
 * switch of the other layer, once each way, and to `per` ends (network ports of devices). End e is
 * on switch e / per; switches 0 … switches/2-1 are the upper layer. Between ends on different
 * layers there is exactly one shortest path, over one link; ends of one layer need two links.
 *
 * Halving-Doubling with Rank Mapping places ranks such that in every step of halving-doubling
 * (partner = rank ^ 2^step) each message has a link between switches to itself.
 * Dong et al., EFLOPS, HPCA 2020. */
#ifndef M6C_HDRM_H
#define M6C_HDRM_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the mapping exists: powers of two, per <= switches / 2, at least 4 switches. */
bool hdrm_possible(int64_t per, int64_t switches);
/* map[rank] = end, for all per * switches ranks. */
void hdrm_map(int64_t per, int64_t switches, int64_t *map);

/* Load of the links between switches. */
typedef struct {
    int64_t busiest;  /* messages over the busiest directed link */
    int64_t indirect; /* messages between switches of one layer: over two links */
} BigraphLoad;
/* Of messages[from * switches + to] at once between two switches each. Those between switches of
 * one layer go through the switch (from + to) modulo its size of the other layer. */
BigraphLoad bigraph_load(int64_t switches, const int64_t *messages);
/* Directed link between two switches of different layers, numbered 0 … switches^2/2 - 1. */
int64_t bigraph_link(int64_t switches, int64_t from, int64_t to);
/* Links on the way between two switches: 0, 1 or 2 of them. */
int bigraph_route(int64_t switches, int64_t from, int64_t to, int64_t link[2]);

#endif
