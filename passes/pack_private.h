/* pack_private.h: what the files of pack.h share. */
#ifndef M6C_PACK_PRIVATE_H
#define M6C_PACK_PRIVATE_H

#include "passes/pack.h"

/* Time as far as it matters: a section is a set of buffers alive together that no other such set
 * contains. A buffer lives in the sections from <= s < to; two buffers meet if and only if they
 * share a section. */
typedef struct {
    uint32_t n, nsection;
    uint32_t *from, *to; /* by buffer; both 0 when it never lives */
    int64_t *size;       /* by buffer, rounded up to the alignment */
    int64_t *live;       /* by section: sum of sizes */
} Sections;

/* Heuristics, until one has at most the height `goal`; returns the height. */
int64_t pack_quickly(const Sections *p, int64_t goal, int64_t *offset, Arena *a);

typedef enum { PACK_FITS, PACK_IMPOSSIBLE, PACK_UNSETTLED } PackAnswer;

typedef struct Search Search;
/* All sizes are multiples of `unit`. NULL when the instance is too large to search. Everything lies
 * in the arena. */
Search *search_new(const Sections *p, int64_t unit, Arena *a);
/* Looks for offsets with which every buffer ends at `capacity` or below. `order` says in
 * which order branches are tried; what earlier calls learned about the hard sections is used. */
PackAnswer search_run(Search *q, int64_t capacity, uint32_t order, int64_t effort, double until,
                      int64_t *offset);
int64_t search_dive(const Search *q);  /* about the effort of placing all without a step back */
int64_t search_spent(const Search *q); /* effort of all runs so far */

#endif
