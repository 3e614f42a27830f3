/* main_compare.c: m6c compare. */
#include "frontend/main.h"

int main_compare(int argc, char **argv) {
    (void)argc, (void)argv;
    return status_exit(status_make(EXIT_SYSTEM, "m6c compare is not possible yet"));
}
