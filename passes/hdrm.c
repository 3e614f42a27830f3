/* hdrm.c: the mapping of EFLOPS (BiGraph, halving-doubling), and what links carry under any one.
 *
 * Ranks are dealt in rounds, one rank a switch: the j-th end of switch p gets a rank of the j-th
 * run of `switches` ranks. In a run the pair (2i, 2i+1) goes to opposite layers, which of them to
 * the upper one by the parity of i's bits: so partners of every distance are in opposite layers.
 * Turning the upper layer's ranks by j gives partners of one switch different switches. */
#include "passes/hdrm.h"

#include <stdlib.h>

#include "ir/base.h"

static bool power_of_2(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }
static bool odd_bits(int64_t i) { return __builtin_parityll((unsigned long long)i); }

bool hdrm_possible(int64_t per, int64_t switches) {
    return switches >= 4 && power_of_2(switches) && power_of_2(per) && per <= switches / 2;
}

/* Rank number i of a run that goes to layer 0 or 1. */
static int64_t of_layer(int64_t i, bool layer) { return 2 * i + (odd_bits(i) != layer); }

void hdrm_map(int64_t per, int64_t switches, int64_t *map) {
    int64_t half = switches / 2;
    for (int64_t j = 0; j < per; j++) {
        bool swap = odd_bits(j);
        for (int64_t p = 0; p < half; p++) {
            int64_t turned = (p + half - j % half) % half;
            map[j * switches + of_layer(turned, swap)] = p * per + j;
            map[j * switches + of_layer(p, !swap)] = (half + p) * per + j;
        }
    }
}

int64_t bigraph_link(int64_t switches, int64_t from, int64_t to) {
    int64_t half = switches / 2, place = from % half * half + to % half;
    return from < half ? place : half * half + place;
}

int bigraph_route(int64_t switches, int64_t from, int64_t to, int64_t link[2]) {
    int64_t half = switches / 2;
    if (from == to) return 0;
    if ((from < half) != (to < half)) return link[0] = bigraph_link(switches, from, to), 1;
    int64_t by = (from + to) % half + (from < half ? half : 0);
    link[0] = bigraph_link(switches, from, by);
    link[1] = bigraph_link(switches, by, to);
    return 2;
}

BigraphLoad bigraph_load(int64_t switches, const int64_t *messages) {
    BigraphLoad load = {0};
    int64_t *on = xcalloc((size_t)(switches * switches / 2), sizeof *on);
    for (int64_t from = 0; from < switches; from++)
        for (int64_t to = 0; to < switches; to++) {
            int64_t link[2], n = messages[from * switches + to];
            int hops = bigraph_route(switches, from, to, link);
            load.indirect += hops == 2 ? n : 0;
            for (int h = 0; h < hops; h++) on[link[h]] += n;
        }
    for (int64_t i = 0; i < switches * switches / 2; i++) load.busiest = MAX(load.busiest, on[i]);
    free(on);
    return load;
}
