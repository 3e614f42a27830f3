/* base.h: what every folder stands on. Arena, vectors, interned strings, growing text, source
 * locations, diagnostics, status values, counter-based random numbers.
 *
 * Memory: the compiler allocates from arenas and never frees single objects; running out of memory
 * there prints a line and exits with status 3. The runtime uses Status and plain malloc.
 * There are no global variables: what is shared hangs on a Session. */
#ifndef M6C_BASE_H
#define M6C_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdnoreturn.h>

#define M6C_VERSION "0.1"

#if defined(__GNUC__)
#define PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define PRINTF(fmt, first)
#endif

#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- exit status of the command (and codes of Status) ---- */
enum { EXIT_DONE = 0, EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_SYSTEM = 3 };

/* ---- arena: bump allocation, freed as a whole ---- */
typedef struct Arena Arena;
Arena *arena_new(void);
void arena_free(Arena *a);
void *arena_alloc(Arena *a, size_t bytes); /* zeroed, 16-byte aligned; never NULL */
char *arena_strdup(Arena *a, const char *s, size_t n);
char *arena_printf(Arena *a, const char *fmt, ...) PRINTF(2, 3);
#define arena_new_of(a, T)   ((T *)arena_alloc((a), sizeof(T)))
#define arena_array(a, T, n) ((T *)arena_alloc((a), sizeof(T) * (size_t)(n)))

/* malloc family that exits with status 3 when memory runs out (compiler side) */
void *xmalloc(size_t bytes);
void *xcalloc(size_t n, size_t bytes);
void *xrealloc(void *p, size_t bytes);

/* ---- vectors: VEC(int) v = {0}; vec_push(&v, 3); v.p[i]; v.n; vec_free(&v) ---- */
#define VEC(T)                                                                                     \
    struct {                                                                                       \
        T *p;                                                                                      \
        uint32_t n, cap;                                                                           \
    }
void *vec_grow_(void *p, uint32_t *cap, uint32_t need, size_t size);
#define vec_reserve(v, need)                                                                       \
    ((need) > (v)->cap ? ((v)->p = vec_grow_((v)->p, &(v)->cap, (need), sizeof *(v)->p)) : (v)->p)
#define vec_push(v, x) (vec_reserve((v), (v)->n + 1), (v)->p[(v)->n++] = (x))
#define vec_free(v)    (free((v)->p), (v)->p = NULL, (v)->n = (v)->cap = 0)

/* ---- growing text ---- */
typedef struct {
    char *p; /* always NUL-terminated once something was written; NULL before */
    size_t n, cap;
} Buf;
void buf_put(Buf *b, const char *s, size_t n);
void buf_puts(Buf *b, const char *s);
void buf_printf(Buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_vprintf(Buf *b, const char *fmt, va_list ap);
void buf_double(Buf *b, double x); /* shortest text that reads back as the same double */
void buf_free(Buf *b);

/* ---- numbers from text, whatever the locale: all n bytes must be the number ---- */
bool parse_f64(const char *s, size_t n,
               double *x); /* decimal, inf, nan; false: not one, or too large */
bool parse_i64(const char *s, size_t n, int64_t *x); /* decimal; false: not one, or does not fit */
int hex_digit(char c);                               /* its value, of 0-9a-f; -1: not one */

int compare_doubles(const void *a, const void *b); /* ascending, for qsort */
int64_t common_divisor(int64_t a, int64_t b);      /* the greatest; of 0 and x it is x */
static inline double mib(double bytes) { return bytes / 1048576; }

double now_seconds(void); /* of a monotonic clock */

/* ---- hashing ---- */
uint64_t hash_bytes(const void *p, size_t n, uint64_t seed); /* xxHash64 */
/* The same with seed 0, of bytes that come in parts. */
typedef struct HashParts HashParts;
HashParts *hash_open(void);
void hash_part(HashParts *h, const void *p, size_t n);
uint64_t hash_close(HashParts *h);
static inline uint64_t hash_mix(uint64_t a, uint64_t b) {
    a ^= b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2);
    a ^= a >> 32;
    a *= 0xd6e8feb86659fd93u;
    return a ^ (a >> 32);
}

/* ---- source locations ---- */
typedef struct {
    uint16_t file; /* index into Session files; 0 is "no file" */
    uint16_t col;  /* from 1, in bytes; saturates */
    uint32_t line; /* from 1; 0 is "no location" */
} Loc;

/* ---- session: interned strings, source files, diagnostics ---- */
typedef struct Session Session;
Session *session_new(void);
void session_free(Session *s);
Arena *session_arena(Session *s);
const char *intern(Session *s, const char *text); /* equal text, equal pointer */
const char *intern_n(Session *s, const char *text, size_t n);
/* Interned records: equal bytes, equal pointer (16-byte aligned). Padding must be zero. */
const void *intern_bytes(Session *s, const void *p, size_t n);

/* Registers a source text (kept by reference) under a display name; returns its file index. */
uint16_t session_add_file(Session *s, const char *name, const char *text, size_t n);
const char *session_file_name(Session *s, uint16_t file); /* "" for 0 */
uint16_t session_files(const Session *s);                 /* files are 1 … session_files - 1 */
/* The text as registered, *n its length; NULL for a file that is only a name. */
const char *session_file_text(const Session *s, uint16_t file, size_t *n);
uint16_t session_find_file(Session *s, const char *name); /* registers a text-less name if new */
const char *loc_text(Session *s, Loc loc);                /* "model.m6:3:7", "" if none */

/* Diagnostics go to stderr as "file:line:col: error: text", the source line and a caret.
 * A note belongs to the error before it. After 20 errors the rest are only counted. */
void diag_error(Session *s, Loc loc, const char *fmt, ...) PRINTF(3, 4);
void diag_warning(Session *s, Loc loc, const char *fmt, ...) PRINTF(3, 4);
void diag_note(Session *s, Loc loc, const char *fmt, ...) PRINTF(3, 4);
int diag_errors(const Session *s); /* how many so far */
/* Collect diagnostics in *b instead of printing them to stderr (NULL: back to stderr). */
void diag_capture(Session *s, Buf *b);
/* The candidate nearest to `word` by edit distance, or NULL when none is close. */
const char *nearest_word(const char *word, const char *const *candidates, size_t n);

/* An impossible state: prints, tells how to report it, aborts. */
noreturn void bug(const char *file, int line, const char *fmt, ...) PRINTF(3, 4);
#define BUG(...)  bug(__FILE__, __LINE__, __VA_ARGS__)
#define ASSERT(c) ((c) ? (void)0 : bug(__FILE__, __LINE__, "assertion failed: %s", #c))

/* ---- status: NULL is success; otherwise owned by the receiver ---- */
typedef struct StatusRec {
    int code; /* EXIT_INPUT, EXIT_USAGE or EXIT_SYSTEM: what the command exits with */
    char text[];
} * Status;
Status status_make(int code, const char *fmt, ...) PRINTF(2, 3);
Status status_errno(const char *fmt, ...) PRINTF(1, 2); /* EXIT_SYSTEM, appends strerror(errno) */
/* A failure as an error at no location, freed; true when there was none. */
bool diag_status(Session *s, Status failure);
/* What the command exits with after these errors: EXIT_DONE without any, EXIT_SYSTEM when one was a
 * failure of the system, otherwise EXIT_INPUT. */
int diag_exit(const Session *s);
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        Status s_ = (expr);                                                                        \
        if (s_) return s_;                                                                         \
    } while (0)

/* ---- files ---- */
Status file_read(const char *path, char **data, size_t *n); /* malloc'ed, NUL-terminated */
/* Writes to a temporary file beside `path`, syncs, renames: the old file stays until the new is
 * whole. */
Status file_write_atomic(const char *path, const void *data, size_t n);
typedef struct {
    const void *p;
    size_t n;
} FilePart;
Status file_write_parts(const char *path, const FilePart *part,
                        size_t nparts); /* one after another */
/* The same, of parts that are not all in memory at once. Closing with a failure drops the new file;
 * the status is that failure, or what went wrong with closing. */
typedef struct FileWriter FileWriter;
Status file_writer_open(const char *path, FileWriter **out);
Status file_writer_put(FileWriter *w, const void *p, size_t n);
Status file_writer_close(FileWriter *w, Status failure);
/* The folder that `path` is in: a rename is on disk only when its folder is. */
void file_sync_folder(const char *path);
Status make_dirs(const char *path);
/* $XDG_CACHE_HOME/m6c or ~/.cache/m6c; M6C_CACHE overrides. Created when missing. */
Status cache_dir(Buf *out);

/* ---- libraries that are found when they are needed (base_library.c) ---- */
/* The first of these names or paths that loads, with symbols of its own. NULL: dlerror says why the
 * last did not. */
void *library_open(const char *const *names, size_t n);
typedef struct {
    const char *name; /* in the library */
    void *to;         /* where the pointer to it goes */
} LibraryFunction;
/* Finds all functions, and NULL for those that are not there; the first of these, or NULL. */
const char *library_find(void *library, const LibraryFunction *f, size_t n);

/* ---- random numbers: Philox-2x32-10 (Salmon et al., SC'11), a function of (key, counter) ---- */
static inline uint32_t philox(uint32_t key, uint64_t counter, uint32_t *second) {
    uint32_t lo = (uint32_t)counter, hi = (uint32_t)(counter >> 32);
    for (int i = 0; i < 10; i++) {
        uint64_t p = (uint64_t)lo * 0xd256d193u;
        lo = (uint32_t)(p >> 32) ^ key ^ hi;
        hi = (uint32_t)p;
        key += 0x9e3779b9u;
    }
    if (second) *second = hi;
    return lo;
}
/* Key of one random site: mixes the run's seed, the site's name hash and the step. */
static inline uint32_t random_key(uint64_t seed, uint64_t site, uint64_t step) {
    return (uint32_t)hash_mix(hash_mix(seed, site), step);
}
/* 24 random bits as a float in [0, 1). */
static inline float random_unit(uint32_t bits) { return (float)(bits >> 8) * 0x1p-24f; }

/* ---- start values of parameters and states (base_random.c) ---- */
/* constant: a; normal, truncated (at two deviations): mean a, deviation b; uniform: [a, b) */
typedef enum {
    INIT_ZEROS,
    INIT_CONSTANT,
    INIT_NORMAL,
    INIT_TRUNCATED,
    INIT_UNIFORM,
    INIT_COUNT
} InitKind;
const char *init_kind_name(InitKind k); /* "zeros", "constant", "normal", "truncated", "uniform" */
bool init_kind_parse(const char *s, InitKind *k);
/* Element i, before rounding to storage. key = random_key(seed, site, 0), where a tensor's site is
 * hash_bytes(name, strlen(name), 0) of its logical name. */
double init_value(InitKind kind, double a, double b, uint32_t key, uint64_t i);

/* ---- storage formats shared by the IR, plans and files ---- */
typedef enum { DT_F32, DT_BF16, DT_F16, DT_F64, DT_I32, DT_I64, DT_BOOL, DT_TUPLE, DT_COUNT } Dtype;
const char *dtype_name(Dtype d); /* "f32" … ; bool is one byte */
bool dtype_parse(const char *s, Dtype *d);
int dtype_size(Dtype d); /* bytes; 0 for a tuple */
bool dtype_is_float(Dtype d);
bool dtype_is_half(Dtype d); /* a float of 16 bits */
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float x); /* round to nearest even */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float x);

/* ---- memories and streams ---- */

/* Where bytes lie. The disk is a file of the run, not a checkpoint. */
typedef enum { MEM_DEVICE, MEM_HOST, MEM_DISK, MEM_COUNT } Mem;
const char *mem_name(Mem m); /* base_num.c */

/* What works side by side. Work on one stream runs in order. */
typedef enum {
    STREAM_COMPUTE, /* kernels and products of the device */
    STREAM_IN,      /* copies from the host to the device */
    STREAM_OUT,     /* copies from the device to the host */
    STREAM_HOST,    /* kernels on the host's cores, over host memory */
    STREAM_READ,    /* copies from the disk */
    STREAM_WRITE,   /* copies to the disk */
    STREAM_COMM,    /* collectives of the first communicator */
    STREAM_COMM_2,  /* and of the second */
    STREAM_COUNT
} Stream;
enum { COMM_STREAMS = STREAM_COUNT - STREAM_COMM };
const char *stream_name(Stream s);
/* The stream of a copy between two memories. */
Stream stream_of_copy(Mem from, Mem to);

/* ---- what several ranks do together: IR, plans and communicators name the same ---- */

/* The axes of a mesh that mean something to the compiler. Models may name others. */
#define MESH_DATA     "data"
#define MESH_EXPERT   "expert"
#define MESH_TENSOR   "tensor"
#define MESH_PIPELINE "pipeline"

typedef enum {
    COLLECTIVE_ALL_REDUCE,     /* every rank gets the reduction of all */
    COLLECTIVE_ALL_GATHER,     /* x -> [n, x]: block i is rank i's */
    COLLECTIVE_REDUCE_SCATTER, /* [n, x] -> x: rank i gets the reduction of all blocks i */
    COLLECTIVE_ALL_TO_ALL,     /* [n, x] -> [n, x]: block j of rank i becomes block i of rank j */
    COLLECTIVE_SEND,           /* to one rank of the group */
    COLLECTIVE_RECV,           /* from one rank of the group */
    COLLECTIVE_COUNT
} Collective;
const char *collective_name(Collective c); /* "all_reduce", … */
/* Groups of ranks as places on n levels, the slowest first: rank r's place on level i is
 * r / stride[i] % size[i]. A rank's index in its group, and the rank of an index in rank's group.
 */
int64_t levels_index(int n, const int64_t *size, const int64_t *stride, int64_t rank);
int64_t levels_member(int n, const int64_t *size, const int64_t *stride, int64_t rank,
                      int64_t index);
/* base_share.c: shares of the ranks along one axis, the slowest of a group, in whatever dimension
 * is split over it: numbers from 1 in whose proportion the parts are, no all-equal ones. n = 0: the
 * parts are equal. */
typedef struct {
    int64_t n;
    const int64_t *v;
} Shares;
int64_t shares_sum(Shares s, int64_t n); /* of the first n */
void shares_print(Shares s, Buf *out);   /* "5,3" */
/* These without what all have in common, which v loses; none where all are equal. */
Shares shares_reduced(int64_t n, int64_t *v);
/* Neighbours of one share are a class: they can do the same, each on its part. */
typedef struct {
    int64_t first, n, share; /* places along the axis; what each of them has */
    int64_t before;          /* shares of the places before */
} ShareClass;
int64_t shares_classes(Shares s); /* 1 where the parts are equal */
ShareClass shares_class(Shares s, int64_t c);
int64_t shares_class_of(Shares s, int64_t place);
/* Of a dimension of `whole` elements split over a group of `members`: can it be, in whole elements?
 * Which part has the member of this index? How many are there where it has `part` of them (-1: it
 * cannot)? */
typedef struct {
    int64_t start, size;
} ShareRange;
bool shares_divide(Shares s, int64_t members, int64_t whole);
ShareRange shares_range(Shares s, int64_t members, int64_t whole, int64_t index);
int64_t shares_whole(Shares s, int64_t members, int64_t index, int64_t part);

typedef enum { REDUCE_SUM, REDUCE_MAX, REDUCE_MIN, REDUCE_COUNT } ReduceOp;
const char *reduce_name(ReduceOp op); /* "sum", … */
bool reduce_parse(const char *name, ReduceOp *op);

#endif
