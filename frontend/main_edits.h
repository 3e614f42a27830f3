/* main_edits.h: what would change if: variants of a model, compiled in memory and compared. */
#ifndef M6C_MAIN_EDITS_H
#define M6C_MAIN_EDITS_H

#include "frontend/main_model.h"

/* Says that the model does not fit its budgets: the error, the table of the smallest plan found
 * (graph `g`, after all passes, and its report), and the cheapest edits that would make it fit. */
void explain_misfit(Session *s, const ModelArgs *a, const Graph *g, const MemoryReport *r);

#endif
