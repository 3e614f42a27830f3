/* main_edits.h: what would be if: variants of a model's settings, compiled in memory. */
#ifndef M6C_MAIN_EDITS_H
#define M6C_MAIN_EDITS_H

#include "frontend/main_config.h"
#include "frontend/main_model.h"

/* A model as it would be with other settings. */
typedef struct {
    const char *what; /* the edit: "--memory 31MiB", "batch = 16" */
    ModelArgs args;
    double work; /* of a step, beside the model as it is: 0.5 with half the batch */
    bool made;   /* it compiles: what follows is known */
    bool fits;
    const char *error;         /* why not; NULL: it was not tried */
    int64_t tokens;            /* of a step */
    int64_t budget[MEM_COUNT]; /* 0: none */
    MemoryReport report;       /* without its decisions */
} Variant;
typedef VEC(Variant) VariantList;

/* ---- main_edits.c; strings and lists of arguments go to the arena ---- */

/* `a` with "NAME=VALUE" in place of what it sets for the name. */
ModelArgs args_with(Arena *a, const ModelArgs *args, const char *name, int64_t value);
/* Compiles the variant up to its plan of memory, in a session of its own. */
void variant_make(Arena *a, Variant *v);
/* The settings worth a try beside `args`: each adds a row, not compiled yet. */
void variants_other(Arena *a, const ModelArgs *args, const MemoryReport *r, VariantList *list);
/* The largest budget that the plan of variant v exceeds, in bytes by which; 0: none. */
int64_t variant_excess(const Variant *v);

/* Says that the model does not fit its budgets: the error, the table of the smallest plan found
 * (graph `g`, after all passes, and its report), and the cheapest edits that would make it fit. */
void explain_misfit(Session *s, const ModelArgs *a, const Graph *g, const MemoryReport *r);

#endif
