/* machine_find.c: the machine that is meant: a described one, or the profile of this one. */
#include <stdlib.h>
#include <string.h>

#include "passes/machine_private.h"

static char *profile_path(Session *s, const char *target) {
    Buf dir = {0};
    Status bad = cache_dir(&dir);
    bool cpu = !target || strcmp(target, "cpu") == 0 || strcmp(target, "null") == 0;
    char *path = bad ? NULL
                     : arena_printf(session_arena(s), cpu ? "%s/profile.txt" : "%s/profile-%s.txt",
                                    dir.p, target);
    free(bad);
    buf_free(&dir);
    return path;
}

static Machine *load(Session *s, const char *path, char *text, size_t n) {
    const char *kept = arena_strdup(session_arena(s), text, n); /* stays for diagnostics */
    free(text);
    return machine_parse(s, path, kept, n);
}

static Machine *load_profile(Session *s, const char *target) {
    char *text = NULL;
    size_t n = 0;
    const char *path = profile_path(s, target);
    Status none = path ? file_read(path, &text, &n) : NULL;
    if (path && !none) return load(s, path, text, n);
    free(none);
    const char *builtin = machine_builtin(target);
    return machine_parse(s, "built-in machine", builtin, strlen(builtin));
}

/* The profile with a network that another program described: its text, or NULL after an error. */
static Machine *with_network(Machine *m, Buf *lines) {
    bool good =
        m && machine_set_network(m, arena_strdup(session_arena(m->session), lines->p, lines->n));
    buf_free(lines);
    return good ? m : NULL;
}

static const char *read_kept(Session *s, const char *path, size_t *n) {
    char *text = NULL;
    if (!diag_status(s, file_read(path, &text, n))) return NULL;
    const char *kept = arena_strdup(session_arena(s), text, *n);
    free(text);
    return kept;
}

static Machine *load_nccl(Session *s, const char *path, const char *target) {
    size_t n = 0;
    Buf lines = {0};
    const char *text = read_kept(s, path, &n);
    bool good = text && nccl_network(s, path, text, n, &lines);
    return with_network(good ? load_profile(s, target) : NULL, &lines);
}

/* path: NULL: this machine. */
static Machine *load_hwloc(Session *s, const char *path, const char *target) {
    size_t n = 0;
    Buf lines = {0};
    const char *text = path ? read_kept(s, path, &n) : "";
    Machine *m = text ? load_profile(s, target) : NULL;
    bool good = m && hwloc_network(s, path ? HWLOC_XML : HWLOC_HERE, path ? path : "hwloc", text, n,
                                   m, &lines);
    return with_network(good ? m : NULL, &lines);
}

Machine *machine_load(Session *s, const char *cluster, const char *target) {
    char *text = NULL;
    size_t n = 0;
    if (!cluster || !*cluster) return load_profile(s, target);
    if (strncmp(cluster, "nccl:", 5) == 0) return load_nccl(s, cluster + 5, target);
    if (strncmp(cluster, "hwloc:", 6) == 0) return load_hwloc(s, cluster + 6, target);
    if (strcmp(cluster, "hwloc") == 0) return load_hwloc(s, NULL, target);
    if (!diag_status(s, file_read(cluster, &text, &n))) return NULL;
    return load(s, cluster, text, n);
}
