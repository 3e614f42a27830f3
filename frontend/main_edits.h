/* main_edits.h: what would be if: variants of a model's settings, compiled in memory. */
#ifndef M6C_MAIN_EDITS_H
#define M6C_MAIN_EDITS_H

#include "frontend/main_config.h"
#include "frontend/main_model.h"

/* A model as it would be with other settings. */
typedef struct {
    const char *what; /* the edit: "--memory 31MiB", "--set batch=16" */
    ModelArgs args;
    double work; /* of a step, beside the model as it is: 0.5 with half the batch */
    bool made;   /* it compiles: what follows is known */
    bool fits;
    const char *error;         /* why not; NULL: it was not tried */
    int64_t tokens;            /* of a step */
    int64_t budget[MEM_COUNT]; /* 0: none */
    bool decides;              /* checkpoint and offload are auto */
    MemoryReport report;       /* without its decisions */
} Variant;
typedef VEC(Variant) VariantList;

/* ---- main_edits.c; strings and lists of arguments go to the arena ---- */

/* `args` with "NAME=VALUE" in place of what it sets for the name. */
ModelArgs args_with(Arena *a, const ModelArgs *args, const char *name, int64_t value);
/* The first line of the diagnostics, without the word "error". */
const char *first_error(Arena *a, const Buf *said);
/* A size as options take it, rounded up to KiB or MiB. */
const char *size_text(Arena *a, int64_t bytes);
/* Adds a variant that is not compiled yet. */
void variant_add(VariantList *list, const char *what, ModelArgs args, double work);
/* Compiles the variant up to its plan of memory, in a session of its own. */
void variant_make(Arena *a, Variant *v);
/* Variants of `base`, which is made, that may keep tensors elsewhere, their names behind `more`. */
void variants_elsewhere(Arena *a, const Variant *base, const char *more, VariantList *list);
/* Variants that are less work, or in a smaller type. */
void variants_smaller(Arena *a, const Variant *base, VariantList *list);
/* By how many bytes a budget is exceeded, the most of all memories; 0: all are kept. */
int64_t variant_excess(const Variant *v);

/* Says that the model does not fit its budgets: the error, the table of the smallest plan found
 * (graph `g`, after all passes, and its report), and the cheapest edits that would make it fit. */
void explain_misfit(Session *s, const ModelArgs *a, const Graph *g, const MemoryReport *r);

#endif
