/* main_fit.c: m6c fit. */
#include "frontend/main.h"

int main_fit(int argc, char **argv) {
    (void)argc, (void)argv;
    return status_exit(status_make(EXIT_SYSTEM, "m6c fit is not possible yet"));
}
