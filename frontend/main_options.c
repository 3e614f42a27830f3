/* main_options.c: option tables: parsing and help, over getopt_long. */
#include "frontend/main.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 64, FIRST_LONG = 1000 };

static void print_help(const OptionTable *t) {
    printf("usage: m6c %s\n", t->usage);
    if (t->noptions) printf("\n");
    for (size_t i = 0; i < t->noptions; i++) {
        const Option *o = &t->option[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s", o->name[1] ? "--" : "-", o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        int wide = 0; /* characters, not bytes */
        for (const char *p = left; *p; p++) wide += ((unsigned char)*p & 0xc0) != 0x80;
        printf("  %s%*s %s\n", left, MAX(24 - wide, 0), "", o->help);
    }
}

static Status read_int(const Option *o, const char *text) {
    char *end;
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        return status_make(EXIT_USAGE, "--%s wants a whole number, not '%s'", o->name, text);
    *(int64_t *)o->to = x;
    return NULL;
}

static Status store(const Option *o, const char *value) {
    switch (o->kind) {
    case OPT_FLAG: *(bool *)o->to = true; return NULL;
    case OPT_TEXT: *(const char **)o->to = value; return NULL;
    case OPT_LIST: vec_push((TextList *)o->to, value); return NULL;
    case OPT_INT: return read_int(o, value);
    }
    BUG("kind of option %d", (int)o->kind);
}

static Status unknown(const OptionTable *t, const char *word) {
    const char *names[MAX_OPTIONS];
    for (size_t i = 0; i < t->noptions; i++) names[i] = t->option[i].name;
    const char *near = nearest_word(word + strspn(word, "-"), names, t->noptions);
    if (near)
        return status_make(EXIT_USAGE, "unknown option '%s'; did you mean '--%s'?", word, near);
    return status_make(EXIT_USAGE, "unknown option '%s' (m6c %.*s --help lists them)", word,
                       (int)strcspn(t->usage, " "), t->usage);
}

/* getopt's tables from ours; the letter options also go to `letters`. */
static void make_tables(const OptionTable *t, struct option *lng, char *letters) {
    *letters++ = ':'; /* a missing value is told from an unknown option */
    for (size_t i = 0; i < t->noptions; i++) {
        const Option *o = &t->option[i];
        bool value = o->kind != OPT_FLAG;
        lng[i] = (struct option){o->name, value ? required_argument : no_argument, NULL,
                                 FIRST_LONG + (int)i};
        if (o->name[1]) continue;
        *letters++ = o->name[0];
        if (value) *letters++ = ':';
    }
    *letters = '\0';
    lng[t->noptions] = (struct option){"help", no_argument, NULL, 'h'};
}

static const Option *option_of(const OptionTable *t, int c) {
    if (c >= FIRST_LONG) return &t->option[c - FIRST_LONG];
    for (size_t i = 0; i < t->noptions; i++)
        if (t->option[i].name[0] == c && !t->option[i].name[1]) return &t->option[i];
    return NULL;
}

static Status check_count(const OptionTable *t, int n) {
    if (n >= t->least && (t->most < 0 || n <= t->most)) return NULL;
    return status_make(EXIT_USAGE, "too %s arguments\nusage: m6c %s", n < t->least ? "few" : "many",
                       t->usage);
}

Status options_parse(const OptionTable *t, int argc, char **argv, TextList *positional,
                     bool *help) {
    struct option lng[MAX_OPTIONS + 2] = {0};
    char letters[2 * MAX_OPTIONS + 2];
    ASSERT(t->noptions <= MAX_OPTIONS);
    make_tables(t, lng, letters);
    *help = false;
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, letters, lng, NULL)) != -1;) {
        if (c == 'h') {
            *help = true;
            print_help(t);
            return NULL;
        }
        if (c == ':') return status_make(EXIT_USAGE, "'%s' wants a value", argv[optind - 1]);
        const Option *o = option_of(t, c);
        if (!o) return unknown(t, argv[optind - 1]);
        TRY(store(o, optarg));
    }
    for (int i = optind; i < argc; i++) vec_push(positional, argv[i]);
    return check_count(t, argc - optind);
}

Status option_rate(const char *option, const char *text, double *rate) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"B/s", 1},     {"KB/s", 1e3}, {"MB/s", 1e6},   {"GB/s", 1e9},
                 {"TB/s", 1e12}, {"Kb/s", 125}, {"Mb/s", 125e3}, {"Gb/s", 125e6}};
    size_t n = strspn(text, "0123456789.");
    for (size_t i = 0; i < COUNT(units); i++)
        if (strcmp(text + n, units[i].unit) == 0 && parse_f64(text, n, rate) && *rate > 0) {
            *rate *= units[i].bytes;
            return NULL;
        }
    return status_make(EXIT_USAGE, "--%s takes a rate, such as 4GB/s or 500MB/s, not '%s'", option,
                       text);
}
