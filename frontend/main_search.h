/* main_search.h: a finished search, for those that print it. */
#ifndef M6C_MAIN_SEARCH_H
#define M6C_MAIN_SEARCH_H

#include "frontend/main_edits.h"
#include "passes/search.h"

/* A candidate as its plans say it. */
typedef struct {
    bool made;         /* they compile: what follows is known */
    bool fits;         /* within the budgets */
    const char *error; /* why not */
    double us;
    int64_t device, host; /* bytes of the fullest rank */
} SearchProof;

typedef struct {
    const ModelArgs *model;
    const char *machine;
    int64_t ranks, tokens; /* of a step */
    bool zero;             /* as the model says, as */
    int64_t micros;        /* its micro-batches */
    SearchSpace space;
    SearchList list;
    double seconds; /* of a core, for all candidates */
    uint32_t nproof;
    const SearchProof *proof; /* of the first ones */
    int64_t limit;            /* rows shown */
} SearchReport;

/* The command line that makes a candidate's plans; in the arena. */
const char *search_command(Arena *a, const SearchReport *r, const SearchChoice *c);
/* The model with the settings of a candidate. */
ModelArgs search_args(Arena *a, const SearchReport *r, const SearchChoice *c);

/* main_search_prove.c */
SearchProof search_prove(Arena *a, const SearchReport *r, const SearchChoice *c);

/* main_search_print.c */
void search_print(const SearchReport *r);
void search_print_json(const SearchReport *r);

#endif
