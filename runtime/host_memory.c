/* host_memory.c: see host_memory.h. */
#include "runtime/host_memory.h"

#include <inttypes.h>
#include <string.h>

/* The number behind `name` in a file of lines "name number"; -1: none. */
static int64_t number_in(const char *path, const char *name) {
    char line[512];
    int64_t x = -1;
    size_t n = strlen(name);
    FILE *f = fopen(path, "r");
    while (f && x < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0 && sscanf(line + n, " %" SCNd64, &x) != 1) x = -1;
    if (f) fclose(f);
    return x;
}

/* What the group at /sys/fs/cgroup`group` has left; its file cache can be dropped. */
static int64_t left_in_group(const char *group) {
    char path[4096 + 64];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
    int64_t most = number_in(path, ""), used, cache;
    if (most < 0) return INT64_MAX; /* "max", or no such file */
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group);
    used = MAX(number_in(path, ""), (int64_t)0);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", group);
    cache = MAX(number_in(path, "inactive_file "), (int64_t)0) +
            MAX(number_in(path, "active_file "), (int64_t)0);
    return MAX(most - MAX(used - cache, (int64_t)0), (int64_t)0);
}

/* Of this process's group and all above it. */
static int64_t left_in_groups(void) {
    char group[4096] = "", line[4096];
    int64_t left = INT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "0::/", 4) == 0) sscanf(line + 3, "%4095[^\n]", group);
    if (f) fclose(f);
    for (char *end = group; end; *end = 0) {
        left = MIN(left, left_in_group(group));
        if (!(end = strrchr(group, '/'))) break;
    }
    return left;
}

int64_t host_memory_available(void) {
    int64_t kib = number_in("/proc/meminfo", "MemAvailable:");
    return MIN(kib < 0 ? INT64_MAX : kib * 1024, left_in_groups());
}

Status host_memory_check(int64_t bytes) {
    int64_t left = host_memory_available();
    if (bytes <= left) return NULL;
    return status_make(EXIT_SYSTEM,
                       "the plan needs %.1f MiB of this machine's memory, and %.1f MiB are "
                       "available (%" PRId64 " and %" PRId64 " bytes): compile it for a smaller "
                       "--memory or --host-memory",
                       mib(bytes), mib(left), bytes, left);
}
