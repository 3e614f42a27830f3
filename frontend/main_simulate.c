/* main_simulate.c: m6c simulate. */
#include "frontend/main.h"

int main_simulate(int argc, char **argv) {
    (void)argc, (void)argv;
    return status_exit(status_make(EXIT_SYSTEM, "m6c simulate is not possible yet"));
}
