/* checkpoint_folder.c: see checkpoint_folder.h. */
#include "runtime/checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/checkpoint_files.h"

static const char *const SUFFIX[SAVED_COUNT] = {".safetensors", "", ".tmp"};

char *saved_path(const char *folder, Saved s) {
    Buf b = {0};
    buf_printf(&b, "%s/step-%08" PRId64 "%s", folder, s.step, SUFFIX[s.as]);
    return b.p;
}

/* "step-12.safetensors" and the like; step -1 for any other name. */
static Saved parse_name(const char *name) {
    int64_t step = -1;
    int used = 0;
    if (sscanf(name, "step-%" SCNd64 "%n", &step, &used) != 1 || used == 0)
        return (Saved){.step = -1};
    for (int i = 0; i < SAVED_COUNT; i++)
        if (strcmp(name + used, SUFFIX[i]) == 0) return (Saved){step, (SavedAs)i};
    return (Saved){.step = -1};
}

/* When it became whole; false: it is not. */
static bool whole_since(const char *folder, Saved s, struct timespec *when) {
    Buf b = {0};
    struct stat st;
    char *path = saved_path(folder, s);
    buf_printf(&b, s.as == SAVED_FILE ? "%s" : "%s/" CHECKPOINT_INDEX, path);
    bool whole = stat(b.p, &st) == 0;
    if (whole) *when = st.st_mtim;
    free(path);
    buf_free(&b);
    return whole;
}

bool saved_is_whole(const char *folder, Saved s) {
    struct timespec when;
    return whole_since(folder, s, &when);
}

static bool is_later(struct timespec a, struct timespec b) {
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

static Saved newest_below(DIR *d, const char *folder, int64_t below) {
    Saved best = {.step = -1};
    struct timespec when = {0}, best_when = {0};
    for (struct dirent *entry; (entry = readdir(d));) {
        Saved s = parse_name(entry->d_name);
        if (s.step < 0 || s.step >= below || s.step < best.step) continue;
        if (!whole_since(folder, s, &when)) continue;
        if (s.step == best.step && !is_later(when, best_when)) continue;
        best = s;
        best_when = when;
    }
    return best;
}

Status saved_newest_below(const char *folder, int64_t below, Saved *out) {
    *out = (Saved){.step = -1};
    DIR *d = opendir(folder);
    if (!d) return errno == ENOENT ? NULL : status_errno("cannot read %s", folder);
    *out = newest_below(d, folder, below);
    closedir(d);
    return NULL;
}

/* A folder's index goes first: then it is no checkpoint. */
static void remove_saved(const char *folder, Saved s) {
    char *path = saved_path(folder, s);
    DIR *d = s.as == SAVED_FILE ? NULL : opendir(path);
    if (s.as == SAVED_FILE) unlink(path);
    if (d) unlinkat(dirfd(d), CHECKPOINT_INDEX, 0);
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (entry->d_name[0] != '.') unlinkat(dirfd(d), entry->d_name, 0);
    if (d) {
        closedir(d);
        rmdir(path);
    }
    free(path);
}

static void rename_new(const char *folder, Saved s) {
    Saved to = {s.step, SAVED_FOLDER};
    remove_saved(folder, to);
    char *from = saved_path(folder, s), *name = saved_path(folder, to);
    if (rename(from, name) == 0) file_sync_folder(name);
    free(from);
    free(name);
}

/* Names of the form step-N.safetensors.tmp…: a file that was being written. */
static bool is_torn(const char *name) {
    return strncmp(name, "step-", 5) == 0 && strstr(name, ".safetensors.tmp") != NULL;
}

void saved_tidy(const char *folder) {
    VEC(Saved) found = {0};
    DIR *d = opendir(folder);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        Saved s = parse_name(entry->d_name);
        if (is_torn(entry->d_name)) unlinkat(dirfd(d), entry->d_name, 0);
        if (s.step >= 0 && s.as != SAVED_FILE) vec_push(&found, s);
    }
    if (d) closedir(d);
    for (uint32_t i = 0; i < found.n; i++) {
        if (!saved_is_whole(folder, found.p[i]))
            remove_saved(folder, found.p[i]);
        else if (found.p[i].as == SAVED_NEW)
            rename_new(folder, found.p[i]);
    }
    vec_free(&found);
}

void saved_remove_old(const char *folder, int keep, Saved just) {
    Saved s = {INT64_MAX, SAVED_FILE};
    while (!saved_newest_below(folder, s.step, &s) && s.step >= 0) {
        bool stays = s.step <= just.step && keep-- > 0;
        for (int as = 0; as < SAVED_COUNT; as++)
            if (!stays || (s.step == just.step && as != (int)just.as))
                remove_saved(folder, (Saved){s.step, (SavedAs)as});
    }
}
