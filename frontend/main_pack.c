/* main_pack.c: m6c pack. */
#include "frontend/main.h"

int main_pack(int argc, char **argv) {
    (void)argc, (void)argv;
    return status_exit(status_make(EXIT_SYSTEM, "m6c pack is not possible yet"));
}
