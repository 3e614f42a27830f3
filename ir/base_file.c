/* base_file.c: status values and files.
 *
 * A file the user named that is missing or unreadable is wrong input (status 1); a disk that is
 * full or breaks is the system's failure (status 3). */
#include "ir/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static Status status_new(int code, const char *text, size_t n) {
    Status s = xmalloc(sizeof *s + n + 1);
    s->code = code;
    memcpy(s->text, text, n);
    s->text[n] = 0;
    return s;
}

Status status_make(int code, const char *fmt, ...) {
    Buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    Status s = status_new(code, b.p, b.n);
    buf_free(&b);
    return s;
}

Status status_errno(const char *fmt, ...) {
    int e = errno;
    Buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    buf_printf(&b, ": %s", strerror(e));
    Status s = status_new(EXIT_SYSTEM, b.p, b.n);
    buf_free(&b);
    return s;
}

static Status open_failed(const char *path) {
    bool users = errno == ENOENT || errno == ENOTDIR || errno == EISDIR || errno == EACCES ||
                 errno == ENAMETOOLONG || errno == ELOOP;
    Status s = status_errno("%s", path);
    if (users) s->code = EXIT_INPUT;
    return s;
}

Status file_read(const char *path, char **data, size_t *n) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return open_failed(path);
    struct stat st;
    Status status = NULL;
    size_t cap = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size + 1 : 4096, have = 0;
    char *p = malloc(cap);
    for (;;) {
        if (p && have + 1 >= cap) {
            char *larger = realloc(p, cap *= 2);
            if (!larger) free(p);
            p = larger;
        }
        if (!p) {
            status = status_make(EXIT_SYSTEM, "%s: out of memory (%zu bytes)", path, cap);
            break;
        }
        ssize_t got = read(fd, p + have, cap - have - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = open_failed(path);
        if (got <= 0) break;
        have += (size_t)got;
    }
    close(fd);
    if (status) return free(p), status;
    p[have] = 0;
    *data = p;
    *n = have;
    return NULL;
}

static Status write_whole(int fd, const char *path, FilePart part) {
    const char *p = part.p;
    for (size_t n = part.n; n > 0;) {
        ssize_t put = write(fd, p, MIN(n, (size_t)1 << 30));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return status_errno("%s: cannot write", path);
        p += put;
        n -= (size_t)put;
    }
    return NULL;
}

void file_sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    Buf dir = {0};
    buf_put(&dir, slash ? path : ".", slash ? MAX((size_t)(slash - path), (size_t)1) : 1);
    int fd = open(dir.p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    buf_free(&dir);
}

Status file_write_atomic(const char *path, const void *data, size_t n) {
    return file_write_parts(path, &(FilePart){data, n}, 1);
}

Status file_write_parts(const char *path, const FilePart *part, size_t nparts) {
    FileWriter *w;
    Status s = NULL;
    TRY(file_writer_open(path, &w));
    for (size_t i = 0; i < nparts && !s; i++) s = file_writer_put(w, part[i].p, part[i].n);
    return file_writer_close(w, s);
}

struct FileWriter {
    int fd;
    Buf path, tmp;
};

Status file_writer_open(const char *path, FileWriter **out) {
    FileWriter *w = xcalloc(1, sizeof *w);
    w->fd = -1;
    buf_puts(&w->path, path);
    for (int i = 0; w->fd < 0 && i < 100; i++) {
        w->tmp.n = 0;
        buf_printf(&w->tmp, "%s.tmp-%d-%d", path, (int)getpid(), i);
        w->fd = open(w->tmp.p, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd < 0 && errno != EEXIST) break;
    }
    if (w->fd < 0) return file_writer_close(w, status_errno("%s: cannot create", w->tmp.p));
    *out = w;
    return NULL;
}

Status file_writer_put(FileWriter *w, const void *p, size_t n) {
    return write_whole(w->fd, w->path.p, (FilePart){p, n});
}

Status file_writer_close(FileWriter *w, Status s) {
    const char *path = w->path.p;
    bool made = w->fd >= 0;
    if (!s && fsync(w->fd) < 0) s = status_errno("%s: cannot sync", path);
    if (made && close(w->fd) < 0 && !s) s = status_errno("%s: cannot write", path);
    if (!s && rename(w->tmp.p, path) < 0) s = status_errno("%s: cannot rename", path);
    if (s && made) unlink(w->tmp.p);
    if (!s) file_sync_folder(path);
    buf_free(&w->path);
    buf_free(&w->tmp);
    free(w);
    return s;
}

Status make_dirs(const char *path) {
    Buf b = {0};
    Status status = NULL;
    buf_puts(&b, path);
    for (char *p = b.p + 1; b.n && !status; p++) {
        if (*p != '/' && *p) continue;
        char c = *p;
        *p = 0;
        if (mkdir(b.p, 0777) < 0 && errno != EEXIST)
            status = status_errno("%s: cannot create", b.p);
        *p = c;
        if (!c) break;
    }
    struct stat st;
    if (!status && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
        status = status_make(EXIT_SYSTEM, "%s: not a folder", path);
    buf_free(&b);
    return status;
}

Status cache_dir(Buf *out) {
    const char *own = getenv("M6C_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    Buf b = {0};
    if (own && own[0])
        buf_puts(&b, own);
    else if (xdg && xdg[0] == '/')
        buf_printf(&b, "%s/m6c", xdg);
    else if (home && home[0] == '/')
        buf_printf(&b, "%s/.cache/m6c", home);
    else
        return status_make(EXIT_SYSTEM, "no folder for the cache: set HOME or M6C_CACHE");
    Status status = make_dirs(b.p);
    if (!status) buf_put(out, b.p, b.n);
    buf_free(&b);
    return status;
}
