/* main_calibrate.c: m6c calibrate. */
#include "frontend/main.h"

int main_calibrate(int argc, char **argv) {
    (void)argc, (void)argv;
    return status_exit(status_make(EXIT_SYSTEM, "m6c calibrate is not possible yet"));
}
