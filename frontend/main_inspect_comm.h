/* main_inspect_comm.h: a plan's communication as text and as JSON, for m6c inspect. */
#ifndef M6C_MAIN_INSPECT_COMM_H
#define M6C_MAIN_INSPECT_COMM_H

#include <stdio.h>

#include "passes/machine.h"
#include "runtime/plan.h"

/* Groups of ranks, collectives by kind and group, the largest messages; `all`: every message. */
void inspect_comm(const Plan *p, bool all, FILE *out);
struct json_t *inspect_comm_json(const Plan *p); /* owned by the caller */

/* The phases of all_to_alls, and their price on a machine's network beside other ways. */
void inspect_exchanges(const Plan *p, const Machine *m, FILE *out);
struct json_t *inspect_exchanges_json(const Plan *p, const Machine *m); /* owned by the caller */

#endif
