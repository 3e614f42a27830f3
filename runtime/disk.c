/* disk.c: see disk.h.
 *
 *     read   thread   piece 0 → A   piece 1 → B   piece 2 → A
 *            caller                 A → memory    B → memory    A → memory
 *
 * A piece is read with the whole blocks around it; of a piece that is written, the first and the
 * last block are read before, for what their neighbours have there. Only one thread writes at a
 * time, and a reader of a neighbour finds its own bytes as they were. */
#include "runtime/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BLOCK = 4096, PIECE = 4 << 20 };

typedef enum { IDLE, ASKED, DONE } Progress;

/* Whole blocks of the file, on their way. */
typedef struct {
    char *data;
    int64_t offset, bytes;
    Progress progress;
    Status failure;
} Piece;

typedef struct {
    Disk *disk;
    bool writes;
    Piece piece[2];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, quit;
} Lane;

struct Disk {
    int file;
    bool direct;
    char *base, *folder;
    int64_t bytes; /* whole blocks */
    Lane in, out;
};

/* ---- the file ---- */

static Status move_all(Disk *d, bool writes, char *data, int64_t bytes, int64_t offset) {
    for (int64_t done = 0; done < bytes;) {
        size_t left = (size_t)(bytes - done);
        ssize_t n = writes ? pwrite(d->file, data + done, left, offset + done)
                           : pread(d->file, data + done, left, offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO; /* the file is as long as it was made: this is the device's */
        if (n <= 0)
            return status_errno("cannot %s %lld bytes %s the plan's file in %s",
                                writes ? "write" : "read", (long long)bytes, writes ? "to" : "from",
                                d->folder);
        done += n;
    }
    return NULL;
}

/* What the cache took of a piece is given back. */
static void forget(Disk *d, const Piece *p, bool written) {
    unsigned all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (d->direct) return;
    if (written) sync_file_range(d->file, p->offset, p->bytes, all);
    posix_fadvise(d->file, p->offset, p->bytes, POSIX_FADV_DONTNEED);
}

static int open_nameless(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
    Buf path = {0};
    buf_printf(&path, "%s/.m6c-disk-XXXXXX", folder);
    fd = mkostemp(path.p, O_CLOEXEC);
    if (fd >= 0) unlink(path.p);
    buf_free(&path);
    return fd;
}

static Status too_small(const Disk *d, int error) {
    struct statvfs fs;
    double unused = 0;
    if (statvfs(d->folder, &fs) == 0) unused = (double)fs.f_bavail * (double)fs.f_frsize;
    return status_make(EXIT_SYSTEM,
                       "the plan keeps %.1f MiB (%lld bytes) on disk, and %s has %.1f MiB free: %s",
                       mib(d->bytes), (long long)d->bytes, d->folder, mib(unused), strerror(error));
}

static Status make_file(Disk *d) {
    int error;
    d->file = open_nameless(d->folder);
    if (d->file < 0) return status_errno("cannot make the plan's file in %s", d->folder);
    do error = posix_fallocate(d->file, 0, d->bytes);
    while (error == EINTR);
    return error ? too_small(d, error) : NULL;
}

/* Some file systems refuse the flag, others the first access with it. */
static void try_direct(Disk *d) {
    int flags = fcntl(d->file, F_GETFL);
    if (fcntl(d->file, F_SETFL, flags | O_DIRECT) < 0) return;
    d->direct = pread(d->file, d->in.piece[0].data, BLOCK, 0) == BLOCK;
    if (!d->direct) fcntl(d->file, F_SETFL, flags);
}

/* ---- lanes ---- */

/* The blocks of a piece that will be overwritten in part. */
static Status read_around(Disk *d, char *data, int64_t blocks, int64_t offset, int64_t lo,
                          int64_t hi) {
    if (lo > 0) TRY(move_all(d, false, data, BLOCK, offset));
    bool same = blocks == BLOCK && lo > 0;
    if (hi < blocks && !same)
        TRY(move_all(d, false, data + blocks - BLOCK, BLOCK, offset + blocks - BLOCK));
    return NULL;
}

static Status transfer(Lane *l, Piece *p) {
    TRY(move_all(l->disk, l->writes, p->data, p->bytes, p->offset));
    forget(l->disk, p, l->writes);
    return NULL;
}

static void *serve(void *arg) {
    Lane *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        Piece *p = &l->piece[l->piece[0].progress != ASKED];
        if (p->progress != ASKED) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        p->failure = transfer(l, p);
        pthread_mutex_lock(&l->lock);
        p->progress = DONE;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static void ask(Lane *l, Piece *p) {
    pthread_mutex_lock(&l->lock);
    p->progress = ASKED;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* Until the piece is the caller's; hands out what went wrong with it. */
static Status settle(Lane *l, Piece *p) {
    pthread_mutex_lock(&l->lock);
    while (p->progress == ASKED) pthread_cond_wait(&l->changed, &l->lock);
    p->progress = IDLE;
    pthread_mutex_unlock(&l->lock);
    Status s = p->failure;
    p->failure = NULL;
    return s;
}

static Status open_lane(Disk *d, Lane *l, bool writes) {
    l->disk = d;
    l->writes = writes;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    for (int i = 0; i < 2; i++) {
        l->piece[i].data = aligned_alloc(BLOCK, PIECE);
        if (!l->piece[i].data) return status_make(EXIT_SYSTEM, "no memory for the disk's buffers");
    }
    if (pthread_create(&l->thread, NULL, serve, l) != 0)
        return status_make(EXIT_SYSTEM, "cannot start the thread of a disk");
    l->started = true;
    return NULL;
}

static void close_lane(Lane *l) {
    if (l->started) {
        pthread_mutex_lock(&l->lock);
        l->quit = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    for (int i = 0; i < 2; i++) free(l->piece[i].data);
    if (!l->disk) return;
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
}

/* ---- a tensor in pieces ---- */

/* Piece k of the bytes at `offset`: whole blocks around at most PIECE of them. */
static int64_t piece_begin(int64_t offset, int64_t k) { return offset / BLOCK * BLOCK + k * PIECE; }

static int64_t round_up(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

static int64_t pieces(int64_t offset, int64_t bytes) {
    return (offset + bytes - piece_begin(offset, 0) + PIECE - 1) / PIECE;
}

/* Sets the piece's blocks; lo and hi: what of them is the tensor's. */
static void place(Piece *p, int64_t offset, int64_t bytes, int64_t k, int64_t *lo, int64_t *hi) {
    int64_t begin = piece_begin(offset, k), end = MIN(offset + bytes, begin + PIECE);
    p->offset = begin;
    p->bytes = round_up(end - begin);
    *lo = MAX(offset - begin, (int64_t)0);
    *hi = end - begin;
}

/* Waits for what is still on its way; s, or else what went wrong with that. */
static Status settle_all(Lane *l, Status s) {
    for (int i = 0; i < 2; i++) {
        Status other = settle(l, &l->piece[i]);
        if (s)
            free(other);
        else
            s = other;
    }
    return s;
}

/* What is one piece has nothing to overlap with: the caller moves it itself. */
static Status read_small(Lane *l, char *host, int64_t offset, int64_t bytes) {
    Piece *p = &l->piece[0];
    int64_t lo, hi;
    place(p, offset, bytes, 0, &lo, &hi);
    TRY(transfer(l, p));
    memcpy(host, p->data + lo, (size_t)bytes);
    return NULL;
}

Status disk_read(Disk *d, void *host, const void *from, int64_t bytes) {
    Lane *l = &d->in;
    int64_t offset = (const char *)from - d->base, n = pieces(offset, bytes), lo, hi;
    Status s = NULL;
    if (bytes == 0) return NULL;
    if (n == 1) return read_small(l, host, offset, bytes);
    for (int64_t k = 0; k <= n && !s; k++) {
        if (k < n) {
            place(&l->piece[k % 2], offset, bytes, k, &lo, &hi);
            ask(l, &l->piece[k % 2]);
        }
        if (k == 0) continue;
        Piece *p = &l->piece[(k - 1) % 2];
        s = settle(l, p);
        if (s) break;
        place(p, offset, bytes, k - 1, &lo, &hi);
        memcpy((char *)host + (p->offset + lo - offset), p->data + lo, (size_t)(hi - lo));
    }
    return settle_all(l, s);
}

static Status fill_piece(Disk *d, Piece *p, const char *host, int64_t lo, int64_t hi) {
    TRY(read_around(d, p->data, p->bytes, p->offset, lo, hi));
    if (host)
        memcpy(p->data + lo, host, (size_t)(hi - lo));
    else
        memset(p->data + lo, 0, (size_t)(hi - lo));
    return NULL;
}

Status disk_write(Disk *d, void *to, const void *host, int64_t bytes) {
    Lane *l = &d->out;
    int64_t offset = (const char *)to - d->base, n = pieces(offset, bytes), lo, hi;
    Status s = NULL;
    if (bytes == 0) return NULL;
    for (int64_t k = 0; k < n && !s; k++) {
        Piece *p = &l->piece[k % 2];
        s = settle(l, p);
        if (s) break;
        place(p, offset, bytes, k, &lo, &hi);
        const char *from = host ? (const char *)host + (p->offset + lo - offset) : NULL;
        s = fill_piece(d, p, from, lo, hi);
        if (!s && n == 1) return transfer(l, p);
        if (!s) ask(l, p);
    }
    return settle_all(l, s);
}

/* ---- open and close ---- */

Status disk_open(const char *folder, int64_t bytes, Disk **out) {
    Disk *d = xcalloc(1, sizeof *d);
    Buf name = {0};
    buf_puts(&name, folder);
    *d = (Disk){.file = -1, .folder = name.p, .bytes = round_up(bytes)};
    Status s = make_file(d);
    if (!s) s = open_lane(d, &d->in, false);
    if (!s) s = open_lane(d, &d->out, true);
    if (!s) {
        try_direct(d);
        d->base = mmap(NULL, (size_t)d->bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (d->base == MAP_FAILED) {
            d->base = NULL;
            s = status_errno("cannot reserve addresses for %lld bytes on disk", (long long)bytes);
        }
    }
    if (s)
        disk_close(d);
    else
        *out = d;
    return s;
}

void disk_close(Disk *d) {
    if (!d) return;
    close_lane(&d->in);
    close_lane(&d->out);
    if (d->base) munmap(d->base, (size_t)d->bytes);
    if (d->file >= 0) close(d->file);
    free(d->folder);
    free(d);
}

void *disk_base(const Disk *d) { return d->base; }

bool disk_holds(const Disk *d, const void *p) {
    return (uintptr_t)p - (uintptr_t)d->base < (uintptr_t)d->bytes;
}

int64_t disk_buffer_bytes(const Disk *d) { return d ? 4 * PIECE : 0; }
