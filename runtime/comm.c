/* comm.c: which communicator a run has, and how it starts and ends. */
#include "runtime/comm.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/comm_mpi.h"

const CommOps *comm_find(const char *name) {
    static const CommOps *const comms[] = {&comm_self, &comm_mpi};
    for (size_t i = 0; i < COUNT(comms); i++)
        if (strcmp(comms[i]->name, name) == 0) return comms[i];
    return NULL;
}

/* ---- who started us ---- */

typedef struct {
    int64_t size, rank; /* 1, 0: nobody, or as the only one */
} Launch;

static bool number(const char *name, int64_t *out) {
    const char *text = name ? getenv(name) : NULL;
    return text && parse_i64(text, strlen(text), out);
}

/* A batch script of Slurm has the job's numbers too, but no step's. */
static Launch find_launch(void) {
    static const struct {
        const char *size, *rank;
    } names[] = {
        {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
        {"PMI_SIZE", "PMI_RANK"},
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
    };
    Launch l = {1, 0};
    for (size_t i = 0; i < COUNT(names); i++)
        if (number(names[i].size, &l.size) && number(names[i].rank, &l.rank) && l.size >= 1)
            return l;
    return (Launch){1, 0};
}

/* Of a complaint that all ranks have, rank 0's is heard. The first process that ends ends the
 * others: they let it speak. */
static bool speaks(Launch l) {
    if (l.rank != 0) sleep(2);
    return l.rank == 0;
}

static Status wrong_size(const CommConfig *c, Launch l) {
    if (!speaks(l)) return status_make(EXIT_USAGE, "%s", "");
    const char *again = c->again ? c->again : "m6c run DIR …";
    const char *mpirun = c->ranks > 1 ? "mpirun -n " : "";
    char n[32] = "";
    if (c->ranks > 1) snprintf(n, sizeof n, "%lld ", (long long)c->ranks);
    return status_make(EXIT_USAGE, "the plan is for %lld rank%s, this run has %lld: %s%s%s",
                       (long long)c->ranks, c->ranks == 1 ? "" : "s", (long long)l.size, mpirun, n,
                       again);
}

/* Unless it is asked to, srun does not tell its processes how to find each other, and MPI would end
 * them with a page about how it should have been built. */
static Status check_srun(Launch l) {
    static const char *const told[] = {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"};
    bool good = !getenv("SLURM_STEP_NUM_TASKS");
    for (size_t i = 0; i < COUNT(told); i++) good = good || getenv(told[i]);
    if (good) return NULL;
    return status_make(EXIT_USAGE, "%s",
                       speaks(l) ? "srun was not asked to join the ranks: srun --mpi=pmix m6c "
                                   "run DIR …, or mpirun in the job's allocation"
                                 : "");
}

/* ---- do all run the same? ---- */

static Status differs(const CommConfig *c, const uint64_t *all, int rank, int i) {
    return status_make(EXIT_INPUT,
                       "rank %d runs something else than rank 0: %s differs (%016llx and %016llx); "
                       "every rank needs the same plan",
                       rank, c->what[i], (unsigned long long)all[rank * c->nsame + i],
                       (unsigned long long)all[i]);
}

static Status compare(const CommConfig *c, Comm *world) {
    int n = c->nsame, size = world->ops->size(world);
    uint64_t *all = xcalloc((size_t)size * (size_t)n + 1, sizeof *all);
    Status s = world->ops->all_gather(world, c->same, all, n, DT_I64);
    for (int r = 1; r < size && !s; r++)
        for (int i = 0; i < n && !s; i++)
            if (all[r * n + i] != all[i]) s = differs(c, all, r, i);
    free(all);
    if (!s || s->code != EXIT_INPUT || world->ops->rank(world) == 0) return s;
    free(s); /* rank 0 says it */
    return status_make(EXIT_INPUT, "%s", "");
}

/* ---- cores ---- */

/* The place-th of `parts` nearly equal parts of the set; with fewer cores than parts, one core. */
static void take_part(cpu_set_t *set, int place, int parts) {
    int n = CPU_COUNT(set), index = 0;
    int lo = n < parts ? place % n : n * place / parts;
    int hi = n < parts ? lo + 1 : n * (place + 1) / parts;
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, set)) continue;
        if (index < lo || index >= hi) CPU_CLR(core, set);
        index++;
    }
}

/* Where mpirun has given each rank cores of its own, their sets differ, and stay. */
static Status share_cores(Comm *world) {
    cpu_set_t mine;
    int place, size = world->ops->size(world), shared = comm_neighbours(world, &place);
    bool same = sched_getaffinity(0, sizeof mine, &mine) == 0;
    cpu_set_t *all = xcalloc((size_t)size, sizeof *all);
    Status s = world->ops->all_gather(world, &mine, all, sizeof mine, DT_BOOL);
    for (int r = 0; r < size; r++) same = same && memcmp(&all[r], &mine, sizeof mine) == 0;
    free(all);
    if (s || !same || shared == 1) return s;
    take_part(&mine, place, shared);
    sched_setaffinity(0, sizeof mine, &mine); /* refused: as it was */
    return NULL;
}

Status comm_start(const CommConfig *c, Comm **world) {
    Launch l = find_launch();
    *world = NULL;
    if (c->ranks && l.size != c->ranks) return wrong_size(c, l);
    if (l.size == 1) {
        *world = comm_self_open();
        return NULL;
    }
    TRY(check_srun(l));
    TRY(comm_mpi_open(c->timeout > 0 ? c->timeout : COMM_TIMEOUT, world));
    TRY(compare(c, *world));
    return share_cores(*world);
}

int comm_finish(Comm *world, Status s, int (*tell)(Status)) {
    if (world && world->ops == &comm_mpi) return comm_mpi_finish(world, s, tell);
    if (world) world->ops->close(world);
    if (!s || s->text[0]) return tell(s);
    int code = s->code;
    free(s);
    return code;
}

void comm_set_position(Comm *world, CommPosition *say, const void *ctx) {
    if (world && world->ops == &comm_mpi) comm_mpi_position(world, say, ctx);
}

void comm_break(Comm *world) {
    if (world && world->ops == &comm_mpi) comm_mpi_break(world);
}

int comm_neighbours(const Comm *world, int *place) {
    if (world && world->ops == &comm_mpi) return comm_mpi_neighbours(world, place);
    *place = 0;
    return 1;
}

Status comm_begin(Comm *c, Collective kind, int64_t n, Dtype dtype, ReduceOp op, int64_t *number) {
    *number = 0;
    return c->ops == &comm_mpi ? comm_mpi_begin(c, kind, n, dtype, op, number) : NULL;
}

Status comm_over(const Comm *c) { return c->ops == &comm_mpi ? comm_mpi_over(c) : NULL; }

double comm_patience(const Comm *c) {
    return c->ops == &comm_mpi ? comm_mpi_patience(c) : COMM_TIMEOUT;
}

Status comm_late(const Comm *c, const char *what, int64_t number, int peer) {
    if (c->ops == &comm_mpi) return comm_mpi_late(c, what, number, peer);
    return status_make(EXIT_SYSTEM, "%s did not end", what);
}
