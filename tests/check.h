/* check.h: the few lines every C unit test needs. CHECK counts failures and goes on;
 * `return check_done("name")` prints "name: ok" or how many failed, and gives main's status. */
#ifndef M6C_TESTS_CHECK_H
#define M6C_TESTS_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int check_failures;

static inline bool check_at(bool ok, const char *file, int line, const char *what) {
    if (!ok) {
        check_failures++;
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    }
    return ok;
}
#define CHECK(c)        check_at((c), __FILE__, __LINE__, #c)
#define CHECK_STR(a, b) check_str_at((a), (b), __FILE__, __LINE__)

static inline bool check_str_at(const char *a, const char *b, const char *file, int line) {
    bool ok = a && b && strcmp(a, b) == 0;
    if (!ok) {
        check_failures++;
        fprintf(stderr, "%s:%d: failed: got\n%s\nexpected\n%s\n", file, line, a ? a : "(null)",
                b ? b : "(null)");
    }
    return ok;
}

static inline int check_done(const char *name) {
    if (check_failures)
        printf("%s: %d failed\n", name, check_failures);
    else
        printf("%s: ok\n", name);
    return check_failures != 0;
}

#endif
