/* main.h: the m6c command: one table of subcommands, one option parser, one file per group of
 * subcommands. Only these files see every folder. */
#ifndef M6C_MAIN_H
#define M6C_MAIN_H

#include "ir/base.h"
#include "runtime/plan.h"

/* ---- main_options.c: options as a table, from which parsing and --help follow ---- */

typedef enum { OPT_FLAG, OPT_TEXT, OPT_INT, OPT_LIST } OptionKind;
typedef VEC(const char *) TextList;

typedef struct {
    const char *name; /* without "--"; a single letter is "-o" */
    OptionKind kind;
    void *to;        /* bool, const char *, int64_t, TextList */
    const char *arg; /* how the value is called in --help; NULL for flags */
    const char *help;
} Option;

typedef struct {
    const char *usage; /* "compile model.m6 [-o DIR] …" */
    const Option *option;
    size_t noptions;
    int least, most; /* positional arguments; most -1: any number */
} OptionTable;

/* Options and positional arguments in any order. EXIT_USAGE names the mistake; *help is set (and
 * the help printed to stdout) for --help. */
Status options_parse(const OptionTable *t, int argc, char **argv, TextList *positional, bool *help);

/* Bytes a second: "4GB/s". EXIT_USAGE names the option. */
Status option_rate(const char *option, const char *text, double *rate);

/* ---- the subcommands: argv[0] is the subcommand's name; the result is the exit status ---- */

int main_compile(int argc, char **argv);
int main_run(int argc, char **argv);
int main_inspect(int argc, char **argv);
int main_dump(int argc, char **argv);
int main_opt(int argc, char **argv);
int main_check(int argc, char **argv);
int main_checkpoint(int argc, char **argv);
int main_fmt(int argc, char **argv);
int main_calibrate(int argc, char **argv);
int main_simulate(int argc, char **argv);
int main_compare(int argc, char **argv);
int main_fit(int argc, char **argv);
int main_search(int argc, char **argv);
int main_pack(int argc, char **argv);

/* Prints "m6c: text" to stderr, frees the status, returns its code (0 for NULL). */
int status_exit(Status s);

/* ---- main_plan.c ---- */

/* Reads DIR/NAME. NULL after diagnostics. `dir` may also be the plan file itself. */
bool is_folder(const char *path);
Plan *plan_load(Session *s, const char *dir, const char *name);
/* The plans of a mesh: one, or one for each stage of its pipeline. The first knows all (of_stage)
 * and stands for them. */

/* Makes plan i of a mesh: 0, which says how many there are, comes before the others and has no
 * `first`. NULL after diagnostics. */
typedef Plan *MakePlan(Session *s, void *with, int64_t i, const Plan *first);
/* All plans, or NULL after diagnostics. */
Plan *mesh_plans(Session *s, MakePlan *make, void *with);
/* Name of plan i in its folder: "plan" (or "forward"), "plan-1", … */
const char *mesh_plan_name(Session *s, const char *base, int64_t i);
/* Reads DIR/BASE.txt, DIR/BASE-1.txt, …, which must belong together. NULL after diagnostics. */
Plan *mesh_plans_load(Session *s, const char *dir, const char *base);
void mesh_plans_free(Plan *first);
/* Warns on stderr when a source changed since the plan was made or another m6c made it. */
void plan_warn_stale(const Plan *p);

#endif
