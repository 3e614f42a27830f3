/* collectives.h: what the files of the collectives pass share. Private to collectives*.c. */
#ifndef M6C_COLLECTIVES_H
#define M6C_COLLECTIVES_H

#include "passes/comm_cost.h"
#include "passes/passes.h"

/* ================================ collectives_messages.c ================================ */

/* A sum of floats, of one tensor or of several together, that only the apply phase reads. */
bool is_gradient(const Graph *g, const Uses *uses, Value v);
/* Parameters put together from their updated parts, to be assigned. */
bool is_update(const Graph *g, const Uses *uses, Value v);
/* Both kinds become few messages. */
void fuse_messages(Graph *g, Arena *a);

/* ================================ collectives_exchange.c ================================ */

/* How an all_to_all of so many bytes over an axis is sent. */
typedef struct {
    const char *axis;
    double bytes;
    int n;                               /* phases; 1: flat */
    int64_t size[ALL_TO_ALL_PHASES];     /* of a phase's groups, from the neighbours on */
    const char *over[ALL_TO_ALL_PHASES]; /* names of these */
    double us, flat_us;                  /* 0: nobody knows */
} ExchangePlan;

/* All choices of a graph: made once for each axis and size. */
typedef struct {
    const Graph *g;
    const Machine *m;         /* NULL: no prices */
    const Topology *topology; /* of all ranks; NULL without a machine */
    Exchange how;
    VEC(ExchangePlan) plan;
} Exchanges;
Exchanges exchanges_begin(const Graph *g, const PassContext *cx);
void exchanges_end(Exchanges *e);
/* For node v, an all_to_all cut into so many pieces. False after an error: the neighbours that were
 * asked for do not divide the axis. */
bool exchange_plan(Exchanges *e, Value v, int64_t pieces, ExchangePlan *out);

/* ================================ collectives_all_to_all.c ================================ */

/* Every all_to_all becomes the phases of its plan. */
void group_all_to_alls(Graph *g, Exchanges *e, Arena *a);

/* ================================ collectives_rows.c ================================ */

/* Where a value has the rows that are cut: dim `dim` is `outer` times as many rows. */
typedef struct {
    int dim; /* -1: nowhere */
    int64_t outer;
} Cut;
typedef enum { ROWS_NONE, ROWS_CUT, ROWS_MIXED } RowsKind;
/* For some of v's rows, what does it take of operand i: no rows (all of it), the same rows, which
 * lie at *in; or is that not known, or rows mixed? */
RowsKind rows_of_operand(const Graph *g, Value v, Cut cut, uint32_t i, Cut *in);

/* ================================ collectives_chunks.c ================================ */

/* From an exchange to the next one, with products of rows between. */
typedef struct {
    Value first, last; /* the all_to_alls */
    int64_t rows, pieces;
} Region;
typedef struct {
    uint32_t *region; /* by value: of what is between, the exchanges included, its region + 1 */
    Cut *cut;         /* of these */
    VEC(Region) list;
} Regions;
/* All regions that are worth being cut into pieces. */
Regions find_regions(const Graph *g, Exchanges *e, Arena *a);

/* ================================ collectives_pieces.c ================================ */

/* Regions become pieces. */
void cut_regions(Graph *g, const Regions *r, Arena *a);

#endif
