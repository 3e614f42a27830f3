/* comm.c: the table of communicators. */
#include "runtime/comm.h"

#include <string.h>

const CommOps *comm_find(const char *name) {
    static const CommOps *const comms[] = {&comm_self};
    for (size_t i = 0; i < COUNT(comms); i++)
        if (strcmp(comms[i]->name, name) == 0) return comms[i];
    return NULL;
}
