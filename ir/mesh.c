/* mesh.c: ranks and groups of ranks. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

int64_t mesh_ranks(const Settings *set) {
    int64_t n = 1;
    for (int i = 0; i < set->nmesh; i++)
        if (!set->mesh[i].same) n *= set->mesh[i].size;
    return n;
}

/* Number of the axis with these letters that has devices of its own; -1: none. */
static int find_axis(const Settings *set, const char *name, size_t n) {
    for (int i = 0; i < set->nmesh; i++) {
        const char *axis = set->mesh[i].axis;
        if (strlen(axis) != n || memcmp(axis, name, n) != 0) continue;
        const char *same = set->mesh[i].same;
        return same ? find_axis(set, same, strlen(same)) : i;
    }
    return -1;
}

int64_t mesh_scope_ranks(const Settings *set, bool tensor) {
    int64_t n = 1;
    for (int i = 0; i < set->nmesh; i++) {
        bool in_tensor = strcmp(set->mesh[i].axis, MESH_TENSOR) == 0;
        bool in_stages = strcmp(set->mesh[i].axis, MESH_PIPELINE) == 0;
        if (!set->mesh[i].same && !in_stages && (tensor || !in_tensor)) n *= set->mesh[i].size;
    }
    return n;
}

void mesh_print(const Settings *set, Buf *out) {
    for (int i = 0; i < set->nmesh; i++) {
        buf_printf(out, "%s%s=", i ? "," : "", set->mesh[i].axis);
        if (set->mesh[i].same)
            buf_puts(out, set->mesh[i].same);
        else
            buf_printf(out, "%lld", (long long)set->mesh[i].size);
    }
}

const char *mesh_axis(const Settings *set, const char *name) {
    int i = find_axis(set, name, strlen(name));
    return i < 0 || set->mesh[i].size == 1 ? NULL : set->mesh[i].axis;
}

static int64_t axis_stride(const Settings *set, int axis) {
    int64_t stride = 1;
    for (int i = axis + 1; i < set->nmesh; i++)
        if (!set->mesh[i].same) stride *= set->mesh[i].size;
    return stride;
}

/* One axis, or a part of it, as a level of the group; *p is left behind it. */
static bool add_level(const Settings *set, const char **p, MeshGroup *m) {
    size_t n = strcspn(*p, ".%/");
    int axis = find_axis(set, *p, n);
    if (axis < 0 || m->nlevel == MESH_LEVELS) return false;
    int64_t size = set->mesh[axis].size, stride = axis_stride(set, axis);
    *p += n;
    for (char part; (part = **p) == '%' || part == '/';) {
        char *end;
        int64_t k = strtoll(*p + 1, &end, 10);
        if (k < 1 || size % k != 0) return false;
        stride *= part == '/' ? k : 1;
        size = part == '/' ? size / k : k;
        *p = end;
    }
    m->size[m->nlevel] = size, m->stride[m->nlevel++] = stride;
    m->n *= size;
    return true;
}

bool mesh_group(const Settings *set, const char *over, MeshGroup *out) {
    *out = (MeshGroup){.n = 1};
    for (const char *p = over;; p++) {
        if (!add_level(set, &p, out)) return false;
        if (*p != '.') return *p == 0;
    }
}

bool mesh_group_has(const char *over, const char *axis) {
    size_t n = strlen(axis);
    for (const char *p = over; *p; p += *p == '.') {
        size_t k = strcspn(p, ".");
        if (strcspn(p, ".%/") == n && memcmp(p, axis, n) == 0) return true;
        p += k;
    }
    return false;
}

int64_t mesh_index(const MeshGroup *m, int64_t rank) {
    return levels_index(m->nlevel, m->size, m->stride, rank);
}

int64_t mesh_member(const MeshGroup *m, int64_t rank, int64_t index) {
    return levels_member(m->nlevel, m->size, m->stride, rank, index);
}

int64_t mesh_parts(const Settings *set, const Spec *spec, int dim) {
    MeshGroup m;
    if (!spec || !spec->axis[dim] || !mesh_group(set, spec->axis[dim], &m)) return 1;
    return m.n;
}

/* ---- several graphs ---- */

Shares mesh_shares(const Settings *set, const char *over) {
    size_t n = strlen(MESH_DATA);
    bool data = strncmp(over, MESH_DATA, n) == 0 && (over[n] == 0 || over[n] == '.');
    return data ? set->shares : (Shares){0};
}

const char *mesh_shares_refused(const Settings *set) {
    for (int i = 0; i < set->nmesh; i++)
        if (set->mesh[i].same && strcmp(set->mesh[i].same, MESH_DATA) == 0)
            return "experts on the devices of data would be exchanged in parts of unequal size: "
                   "give them an axis of their own";
    if (set->zero)
        return "the optimizer's state cannot be split over ranks of unequal shares (zero)";
    if (mesh_axis(set, MESH_PIPELINE)) return "a pipeline cannot have ranks of unequal shares yet";
    return NULL;
}

/* The axis along which ranks run different graphs, or NULL. */
static const char *program_axis(const Settings *set) {
    return set->shares.n ? mesh_axis(set, MESH_DATA) : mesh_axis(set, MESH_PIPELINE);
}

int64_t mesh_programs(const Settings *set) {
    const char *axis = program_axis(set);
    MeshGroup m;
    if (set->shares.n) return shares_classes(set->shares);
    return axis && mesh_group(set, axis, &m) ? m.n : 1;
}

int64_t mesh_program(const Settings *set, int64_t rank) {
    const char *axis = program_axis(set);
    MeshGroup m;
    if (!axis || !mesh_group(set, axis, &m)) return 0;
    int64_t place = mesh_index(&m, rank);
    return set->shares.n ? shares_class_of(set->shares, place) : place;
}
