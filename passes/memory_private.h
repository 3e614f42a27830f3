/* memory_private.h: between the files of the memory planner.
 *
 *     memory_problem.c   graph + order     -> Problem: what can be decided, what each option saves
 *     memory_program.c   choices           -> Program: runs, clones and copies, in order
 *     memory_window.c    Program + target  -> when its copies start and must be done
 *     memory_time.c      Program           -> time
 *     memory_emit.c      Program           -> graph
 *     memory_price.c     graph             -> bytes and time, exactly
 *     memory_search.c    target            -> choices (greedy); the fixed policies people use
 *     memory_moment.c    order             -> intervals that no plan can make overlap
 *     memory_bound.c     budgets           -> no plan can be faster (linear program)
 *     memory.c           candidates, compared exactly; the report */
#ifndef M6C_MEMORY_PRIVATE_H
#define M6C_MEMORY_PRIVATE_H

#include "ir/storage.h"
#include "passes/memory.h"
#include "passes/passes.h"

#define NONE UINT32_MAX
enum { LEAST_GAP = 4 }; /* units between two uses that are worth a decision */

/* The device has no need of these bytes at the times from < t < to. */
typedef struct {
    uint32_t from, to;
    int64_t bytes;
} Span;

/* Work beside the compute stream: what is fetched is there before the unit at `time` runs; what
 * leaves, or the host updates, begins after it. */
typedef struct {
    Stream stream;
    uint32_t time;
    Value v; /* what is copied */
    double us;
    int64_t bytes; /* of the device, taken meanwhile */
} Task;

/* One way to treat a subject. */
typedef struct {
    uint32_t subject;
    MemoryHow how;
    bool states_only; /* of a parameter: its own bytes stay on the device */
    uint32_t gap;     /* of a parameter: it stays on the device between uses nearer than that */
    uint32_t span, nspan;
    uint32_t task, ntask;
    double us[STREAM_COUNT]; /* work added; of a recomputation, its own unit's price */
    int64_t away[MEM_COUNT]; /* bytes taken in host memory and on disk */
} Option;

/* What is decided as one: a value between two of its uses, or a parameter with its states. */
typedef struct {
    Value v; /* a value that a unit computes; of parameters: NO_VALUE */
    uint32_t from, to;
    uint32_t leaf, nleaf; /* in Problem.leaf */
    uint32_t option, noption;
    bool hinted;     /* the model or a policy says which option; it is not searched */
    uint32_t forced; /* that option, or NONE: keep */
} Subject;

typedef struct {
    Value leaf;
    Value update; /* the value assigned to it, or NO_VALUE */
    bool state;
    uint32_t use, nuse; /* in Problem.use: times of all accesses, ascending */
    uint32_t updated;   /* time of the unit that computes `update`; 0: none */
} Leaf;

typedef struct {
    Graph *g;
    PassContext *cx;
    const Machine *machine;
    Arena *arena;
    Units us;
    Slots slots;
    uint32_t end;       /* the time after the last unit */
    uint32_t *when;     /* by unit, from 1 */
    uint32_t *at;       /* by time: the unit */
    double *price;      /* by unit, on the device */
    double *host;       /* by unit, on the host's cores */
    uint8_t *stream;    /* by unit: the Stream it runs on as the graph came */
    Value *over;        /* by value: whose bytes it takes in place, or NO_VALUE */
    Value *target;      /* by value: the leaf that is assigned this value, or NO_VALUE */
    uint32_t *last;     /* by value: time of its last use; end: an effect reads it */
    uint32_t *past;     /* by value: after that its bytes are given up, read again or not; NONE */
    bool *anchor;       /* by value: a layer's result that another layer reads */
    uint32_t *layer;    /* by unit: number of the outermost scope it belongs to */
    uint32_t *leaf_of;  /* by leaf value: index in leaf, or NONE */
    uint32_t *param_of; /* by leaf: its subject, or NONE */
    Value *behind;      /* by value: the leaf it is, or is assigned to, of those in `leaf` */
    uint32_t *updates;  /* by unit: the subject that it updates on the host if so chosen, or NONE */
    int64_t *size;      /* by value: bytes of its storage */
    uint32_t *gap_of;   /* by value: its first subject, or NONE */
    uint32_t *gap_start, *gap_next; /* by time: first subject whose gap begins there; next */
    VEC(Subject) subject;
    VEC(Option) option;
    VEC(Span) span;
    VEC(Task) task;
    VEC(Leaf) leaf;
    VEC(uint32_t) use;
    VEC(Value) store; /* parameters, states and inputs */
    VEC(Value) kept;  /* what effects read at the end */
    VEC(Value) assign;
    int64_t budget[MEM_COUNT]; /* INT64_MAX: none */
    double share;              /* copy_share of the machine */
} Problem;

void problem_build(Problem *p, Graph *g, PassContext *cx, Arena *a);
void problem_free(Problem *p);
/* "block[3].ffn.up", or "block[3].ffn gelu" for temporaries; in the session. */
const char *problem_name(const Problem *p, const Subject *s, Loc *loc);

/* choice[i] is the option of subject i, or NONE: everything stays on the device. */
typedef uint32_t *Choice;

/* ---- programs ---- */

typedef enum { RUN_UNIT, RUN_AGAIN, RUN_HOST } RunKind;

/* One unit, run. Reads and writes are versions, in the order of the unit's lists. */
typedef struct {
    RunKind kind;
    uint32_t unit, time;  /* time: the place in the order it runs at or before */
    uint32_t read, write; /* first in Program.link */
} Run;

/* Bytes of its own; of what dies in the run that makes it; of the leaf it is assigned to. */
typedef enum { PLACE_OWN, PLACE_NEXT, PLACE_LEAF } Place;

/* The bytes of a value, in one memory, made once. Times are runs: alive from run `birth` to run
 * `death`, both included. */
typedef struct {
    Value v;
    Mem mem;
    uint32_t birth, death;
    bool again, fixed; /* recomputed or fetched; a leaf at home */
    Place place;
} Version;

/* A copy from one version to another: begins before run `start`, is done before run `done`. */
typedef struct {
    uint32_t from, to;
    uint32_t start, done;
    uint32_t most; /* done <= most: the run on the host that reads it; NONE: no such run */
    double us;
    Stream stream;
} Move;

typedef struct {
    VEC(Run) run;
    VEC(Version) version;
    VEC(Move) move;
    VEC(uint32_t) link;
    uint32_t *device, *away;  /* by value, at the end: its version there, or NONE */
    bool *at_home;            /* by leaf: it lies on the device always */
    uint32_t *home;           /* by leaf: its version between steps */
    bool *read;               /* by version: a run, a copy or an effect reads it */
    double us[STREAM_COUNT];  /* work of each stream */
    int64_t *live[MEM_COUNT]; /* by run */
    int64_t peak[MEM_COUNT];
    uint32_t peak_run; /* of the device */
    bool late;   /* something runs again on old values that the host keeps beside the new ones */
    bool broken; /* the same of the disk, which cannot: this is no plan */
} Program;

/* Moves by the run they start before (0) and are done before (1): 0 ends a list, else the number of
 * the move + 1. */
typedef struct {
    uint32_t *first[2], *next[2];
} Agenda;
void program_agenda(const Program *g, Agenda *agenda, Arena *a);

void program_make(const Problem *p, const Choice choice, Program *out);
void program_free(Program *g);
/* Sums live bytes again after moves changed. */
void program_live(const Problem *p, Program *g);
/* Lets copies begin earlier and end later, so that they hide behind runs, while the device's live
 * bytes stay within `target`. */
void program_windows(const Problem *p, Program *g, int64_t target);
/* Microseconds that its plan takes at most, wherever its bytes lie. */
double program_time(const Problem *p, const Program *g);
/* The graph that does this; the old one stays. */
Graph *program_emit(const Problem *p, const Program *g);

/* ---- prices ---- */

typedef struct {
    int64_t arena[MEM_COUNT];
    double us;
} Price;

/* Bytes of each arena, once the graph's values have places. */
void memory_place(const Graph *g, int64_t arena[MEM_COUNT]);
/* That, and the time of the graph's steps with the waits that their bytes ask for. */
Price memory_price(const Graph *g, const Machine *m);

/* ---- search ---- */

/* Options so that live bytes come to `target`; lanes cost `weight` times what they seem to. False:
 * it cannot be reached; choice then has the least found. `g` is the program of the choice, before
 * and after. */
typedef struct {
    double weight;
    bool plain; /* parameters stay from first to last use, or for no gap at all */
} SearchHow;
bool search_greedy(const Problem *p, int64_t target, SearchHow how, Choice choice, Program *g);
/* Marks what the settings checkpoint and offload ask for as a whole: all, sqrt, optimizer. */
void search_settings(Problem *p);
/* Choices that are made before any search: hints and settings. */
void search_forced(const Problem *p, Choice choice);
/* Policy number i of those that people set by hand; false after the last. */
bool search_policy(const Problem *p, int i, Choice choice);
bool search_begins(int i, bool large); /* a search may well begin with it; of a large graph */
/* Whether the settings ask for offload as EPL does it: everything, fetched just before its use. */
bool search_just_in_time(const Problem *p);

/* Moments cut a step into `n` intervals: the beginnings of units that every plan runs in turn. */
typedef struct {
    uint32_t n;
    uint32_t *at;     /* the times: 0, …, end; n + 1 of them */
    double *least;    /* by interval: it is no shorter */
    uint32_t *after;  /* by time: the interval before which its unit surely does not begin */
    uint32_t *before; /* by time: the interval at whose end its unit surely begins, or has begun */
} Moments;
Moments moments_find(const Problem *p, uint32_t most, Arena *a);
uint32_t moment_after(const Moments *m, uint32_t time);  /* at[k] <= time < at[k + 1] */
uint32_t moment_before(const Moments *m, uint32_t time); /* at[k] < time <= at[k + 1] */

/* A proven lower bound of a step's time under p's budgets; 0 when even the bound does not fit. */
double memory_bound(const Problem *p);
/* What a microsecond of work beside the compute stream takes from it at least. */
double copy_share(const Machine *m);

#endif
