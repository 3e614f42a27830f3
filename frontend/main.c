/* main.c: the m6c command: finds the subcommand. `m6c model.m6` compiles; `m6c model.m6 dump …` is
 * `m6c dump model.m6 …`. */
#include "frontend/main.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"compile", main_compile, "a model to a plan: kernels, buffers, steps"},
    {"run", main_run, "a plan over data: train, resume, validate"},
    {"inspect", main_inspect, "what is in a plan: parameters, steps, kernels, memory"},
    {"checkpoint", main_checkpoint, "what is in checkpoints, how two differ, whether one is whole"},
    {"calibrate", main_calibrate, "measures this machine: prices for plans"},
    {"simulate", main_simulate, "a plan's step on a described machine, without running it"},
    {"compare", main_compare, "a measured run beside its prediction, step by step"},
    {"fit", main_fit, "the largest configuration that fits, and the fastest"},
    {"search", main_search, "the fastest mesh of a cluster's ranks, and why others lose"},
    {"pack", main_pack, "offsets for buffers with known lifetimes"},
    {"check", main_check, "that a model on a mesh, and after each pass, is the model"},
    {"dump", main_dump, "the IR after any pass"},
    {"opt", main_opt, "passes over IR text"},
    {"fmt", main_fmt, "a .m6 file printed canonically"},
};

int status_exit(Status s) {
    if (!s) return EXIT_DONE;
    int code = s->code;
    fprintf(stderr, "m6c: %s\n", s->text);
    free(s);
    return code;
}

static int help(FILE *to) {
    fprintf(to, "m6c " M6C_VERSION ": compiles and runs models of the M6 family\n\n"
                "usage: m6c COMMAND …  (m6c COMMAND --help tells more)\n"
                "       m6c model.m6   same as m6c compile model.m6\n\n");
    for (size_t i = 0; i < COUNT(commands); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    return to == stdout ? EXIT_DONE : EXIT_USAGE;
}

static bool is_model(const char *word) {
    size_t n = strlen(word);
    return n > 3 && strcmp(word + n - 3, ".m6") == 0;
}

/* Runs the command named `name`, or returns -1. */
static int dispatch(const char *name, int argc, char **argv) {
    for (size_t i = 0; i < COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0) return commands[i].run(argc, argv);
    return -1;
}

/* argv is "m6c model.m6 [command] …": the command comes first for its parser. */
static int model_first(int argc, char **argv) {
    char *model = argv[1];
    char compile[] = "compile";
    argv[1] = argc > 2 ? argv[2] : compile;
    if (argc > 2) {
        argv[2] = model;
        int code = dispatch(argv[1], argc - 1, argv + 1);
        if (code >= 0) return code;
        argv[2] = argv[1]; /* no command: an option of compile */
    }
    argv[0] = compile;
    argv[1] = model;
    return main_compile(argc, argv);
}

static int unknown(const char *word) {
    const char *names[COUNT(commands)];
    for (size_t i = 0; i < COUNT(commands); i++) names[i] = commands[i].name;
    const char *near = nearest_word(word, names, COUNT(names));
    fprintf(stderr, "m6c: unknown command '%s'", word);
    fprintf(stderr, near ? "; did you mean '%s'?\n" : " (m6c --help lists them)\n", near);
    return EXIT_USAGE;
}

static int command(int argc, char **argv) {
    if (argc < 2) return help(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return help(stdout);
    if (strcmp(argv[1], "--version") == 0) return puts("m6c " M6C_VERSION) < 0;
    if (is_model(argv[1])) return model_first(argc, argv);
    int code = dispatch(argv[1], argc - 1, argv + 1);
    return code >= 0 ? code : unknown(argv[1]);
}

/* Results that did not get out are no results: a full disk behind stdout is an error. */
int main(int argc, char **argv) {
    int code = command(argc, argv);
    bool lost = fflush(stdout) != 0 || ferror(stdout);
    if (!lost || code != EXIT_DONE) return code;
    return status_exit(status_errno("cannot write standard output"));
}
