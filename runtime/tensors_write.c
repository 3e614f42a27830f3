/* tensors_write.c: whole tensors in one file. Of several ranks rank 0 makes the file with its head
 * and its length, under another name; each writes its slices where they belong; when all are on
 * disk, rank 0 gives the file its name. Every rank knows what all stages of a pipeline write. */
#include "runtime/checkpoint.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint32_t NO_BUFFER = UINT32_MAX;

/* One file that all ranks write. */
typedef struct {
    const char *path;
    char *tmp;
    const Plan *plan;
    Exec *exec;
    StList list; /* whole tensors; buffer NO_BUFFER: another stage writes it */
    int64_t *at; /* in the file, of each tensor */
    int64_t bytes;
    Buf header;
    int fd;
} Shared;

static Status put_bytes(const Shared *f, const void *p, int64_t n, int64_t at) {
    for (int64_t done = 0, k; done < n; done += k) {
        k = pwrite(f->fd, (const char *)p + done, (size_t)(n - done), at + done);
        if (k < 0) return status_errno("%s: cannot write", f->tmp);
    }
    return NULL;
}

/* Elements first … first + n of a part, from memory to their places. */
static Status put_runs(const Shared *f, const Slice *part, int64_t at, int size, int64_t first,
                       int64_t n, const char *data) {
    SliceRun r;
    for (int64_t i = 0, count; i < n; i += count) {
        r = slice_run(part, first + i);
        count = MIN(r.count, n - i);
        TRY(put_bytes(f, data + i * size, count * size, at + r.whole * size));
    }
    return NULL;
}

static Status put_tensor(const Shared *f, uint32_t i) {
    uint32_t index = f->list.buffer.p[i];
    const PlanBuffer *b = &f->plan->buffer.p[index];
    Slice part = slice_of(f->plan, b, exec_rank(f->exec));
    int64_t n = slice_elements(&part), most = EXEC_PART / dtype_size(b->dtype);
    const char *here = exec_pointer(f->exec, index);
    int size = dtype_size(b->dtype);
    if (here) return put_runs(f, &part, f->at[i], size, 0, n, here);
    char *room = malloc(EXEC_PART);
    Status s = room ? NULL : status_make(EXIT_SYSTEM, "no memory to write '%s'", b->name);
    for (int64_t first = 0, count; first < n && !s; first += count) {
        count = MIN(most, n - first);
        s = exec_read_part(f->exec, index, first * size, room, count * size);
        if (!s) s = put_runs(f, &part, f->at[i], size, first, count, room);
    }
    free(room);
    return s;
}

static Status make_file(Shared *f) {
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) return status_errno("%s: cannot create", f->tmp);
    TRY(put_bytes(f, f->header.p, (int64_t)f->header.n, 0));
    return ftruncate(f->fd, f->bytes) == 0 ? NULL : status_errno("%s: cannot write", f->tmp);
}

static Status put_slices(Shared *f) {
    int rank = exec_rank(f->exec);
    if (f->fd < 0) f->fd = open(f->tmp, O_WRONLY | O_CLOEXEC);
    if (f->fd < 0) return status_errno("%s: cannot open (do the ranks share this folder?)", f->tmp);
    for (uint32_t i = 0; i < f->list.tensor.n; i++) {
        uint32_t b = f->list.buffer.p[i];
        if (b != NO_BUFFER && slice_owner(f->plan, &f->plan->buffer.p[b], rank) == rank)
            TRY(put_tensor(f, i));
    }
    return fsync(f->fd) == 0 ? NULL : status_errno("%s: cannot sync", f->tmp);
}

static Status give_name(const Shared *f) {
    if (rename(f->tmp, f->path) != 0) return status_errno("%s: cannot rename", f->path);
    file_sync_folder(f->path);
    return NULL;
}

/* The same on all ranks: each knows where every slice goes. */
static Status plan_file(Shared *f) {
    f->at = xcalloc((size_t)f->list.tensor.n + 1, sizeof *f->at);
    return st_layout(f->path, f->list.tensor.p, f->list.tensor.n, &f->header, f->at, &f->bytes);
}

static Status write_shared(Shared *f, const Ranks *r) {
    Buf tmp = {0};
    buf_printf(&tmp, "%s.tmp", f->path);
    f->tmp = tmp.p;
    f->fd = -1;
    Status s = plan_file(f);
    if (!s && r->rank == 0) s = make_file(f);
    s = ranks_agree(r, s);
    if (!s) s = ranks_agree(r, put_slices(f));
    if (f->fd >= 0) close(f->fd);
    if (!s) s = ranks_agree(r, r->rank == 0 ? give_name(f) : NULL);
    if (s && r->rank == 0) unlink(f->tmp);
    buf_free(&f->header);
    buf_free(&tmp);
    free(f->at);
    return s;
}

/* ---- which tensors ---- */

typedef VEC(PlanPort) Ports;

static Ports ports_of(const Plan *p, TensorSet set) {
    Ports ports = {0};
    for (uint32_t i = 0; set == SET_OUTPUTS && i < p->output.n; i++)
        vec_push(&ports, p->output.p[i]);
    for (uint32_t i = 0; set == SET_GRADS && i < p->grad.n; i++) vec_push(&ports, p->grad.p[i]);
    for (uint32_t i = 0; set == SET_PARAMS && i < p->tensor.n; i++) {
        PlanPort port = {.buffer = p->tensor.p[i].buffer};
        if (p->buffer.p[port.buffer].kind == BUF_PARAM) vec_push(&ports, port);
    }
    return ports;
}

static bool is_listed(const StList *list, const char *name) {
    for (uint32_t i = 0; i < list->tensor.n; i++)
        if (strcmp(list->tensor.p[i].name, name) == 0) return true;
    return false;
}

/* The whole tensor, of which a rank of plan `of` has a part. */
static void add_whole(Shared *f, const Plan *of, uint32_t buffer, TensorSet set) {
    const PlanBuffer *b = &of->buffer.p[buffer];
    StTensor t = {.name = st_list_name(b, set), .dtype = b->dtype, .rank = b->rank};
    if (is_listed(&f->list, t.name)) return;
    t.bytes = dtype_size(b->dtype);
    for (int i = 0; i < b->rank; i++) t.bytes *= t.dim[i] = plan_whole_dim(of, b, i);
    vec_push(&f->list.tensor, t);
    bool own = of == f->plan || of->shares.n; /* each class of shares has parts of all */
    vec_push(&f->list.buffer, own ? plan_find(f->plan, b->name) : (uint32_t)NO_BUFFER);
}

Status tensors_write(const char *path, const Plan *plan, Exec *e, const Ranks *ranks,
                     TensorSet set) {
    Shared f = {.path = path, .plan = plan, .exec = e, .list = {.exec = e}};
    for (uint32_t k = 0; k < plan_count(plan); k++) {
        Ports ports = ports_of(plan_at(plan, k), set);
        for (uint32_t i = 0; i < ports.n; i++)
            if (plan->ranks > 1)
                add_whole(&f, plan_at(plan, k), ports.p[i].buffer, set);
            else
                st_list_add(&f.list, plan, ports.p[i].buffer, set);
        vec_free(&ports);
    }
    Status s = plan->ranks > 1 ? write_shared(&f, ranks) : st_list_write(path, &f.list, NULL, 0);
    st_list_free(&f.list);
    return s;
}
