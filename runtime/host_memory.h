/* host_memory.h: whether this machine has the memory that a plan asks of it. */
#ifndef M6C_HOST_MEMORY_H
#define M6C_HOST_MEMORY_H

#include "ir/base.h"

/* Bytes that can be taken without swapping: of the machine, or of the control group (cgroup v2)
 * where that has less. INT64_MAX where the system does not tell. */
int64_t host_memory_available(void);
/* EXIT_SYSTEM, with both numbers, when there are no `bytes` left. Before anything is allocated: a
 * process that is killed for memory in the middle of a run tells nothing. */
Status host_memory_check(int64_t bytes);

#endif
