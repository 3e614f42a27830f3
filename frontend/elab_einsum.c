/* elab_einsum.c: einsum of any number of operands, taken pairwise from the left, and `a @ b`. The
 * IR's einsum has two operands, no label twice in one, and no label in one place only; sums and
 * transposes around it make up for the rest. */
#include <string.h>
#include "frontend/value.h"

enum { LABELS = 128 };

typedef struct {
    Elab *e;
    Loc loc;
    const char *spec;
    uint32_t n;
    char (*labels)[MAX_RANK + 1]; /* of the n operands, then of the result */
    Value *v;
    const Loc *at;
} Contraction;

/* ---- reading the labels ---- */

static bool bad_spec(Contraction *c, const char *why) {
    return fail(c->e, c->loc, "\"%s\": %s", c->spec, why);
}

static bool add_label(Contraction *c, char *labels, char letter) {
    size_t n = strlen(labels);
    bool is_letter = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
    if (!is_letter) return bad_spec(c, "labels are letters, as in \"ij,jk->ik\"");
    if (strchr(labels, letter))
        return bad_spec(c, arena_printf(c->e->a, "label '%c' stands twice in \"%s%c\"", letter,
                                        labels, letter));
    if (n == MAX_RANK) return bad_spec(c, "more than 8 labels in a row");
    labels[n] = letter;
    return true;
}

static bool read_spec(Contraction *c) {
    uint32_t k = 0;
    bool result = false;
    for (const char *p = c->spec; *p; p++) {
        if (*p == ' ') continue;
        if (*p == ',' && !result) {
            if (++k == c->n) break;
        } else if (p[0] == '-' && p[1] == '>' && !result) {
            if (k + 1 != c->n) break;
            result = true;
            k = c->n;
            p++;
        } else if (!add_label(c, c->labels[k], *p)) {
            return false;
        }
    }
    if (result) return true;
    uint32_t written = 1;
    for (const char *p = c->spec; *p; p++) written += *p == ',';
    if (!strstr(c->spec, "->")) return bad_spec(c, "the result is missing, as in \"ij,jk->ik\"");
    return fail(c->e, c->loc, "\"%s\" names %u operand%s, but %u %s given", c->spec, written,
                written == 1 ? "" : "s", c->n, c->n == 1 ? "is" : "are");
}

static bool check_sizes(Contraction *c) {
    int64_t size[LABELS] = {0};
    uint32_t from[LABELS] = {0};
    Elab *e = c->e;
    for (uint32_t i = 0; i < c->n; i++) {
        const Type *t = type_of(e->g, c->v[i]);
        const char *l = c->labels[i];
        Val v = val_tensor(c->v[i]);
        if ((int)strlen(l) != t->rank)
            return fail(e, c->at[i], "operand %u is %s, but has the %zu labels \"%s\"", i + 1,
                        describe(e, &v), strlen(l), l);
        for (int d = 0; d < t->rank; d++) {
            int x = l[d];
            if (!size[x]) size[x] = t->dim[d], from[x] = i;
            if (size[x] == t->dim[d]) continue;
            fail(e, c->at[i], "label '%c' is %lld in operand %u, but %lld in operand %u", x,
                 (long long)t->dim[d], i + 1, (long long)size[x], from[x] + 1);
            note(e, c->at[from[x]], "operand %u is this", from[x] + 1);
            return false;
        }
    }
    for (const char *l = c->labels[c->n]; *l; l++)
        if (!size[(int)*l])
            return bad_spec(c, arena_printf(e->a, "label '%c' of the result is in no operand", *l));
    return true;
}

/* ---- contracting ---- */

static bool in_any(const Contraction *c, uint32_t from, uint32_t to, char label) {
    for (uint32_t i = from; i < to; i++)
        if (strchr(c->labels[i], label)) return true;
    return false;
}

/* Sums away what only operand i has. */
static void drop_lonely(Contraction *c, uint32_t i) {
    int64_t axes[MAX_RANK];
    uint32_t n = 0;
    char kept[MAX_RANK + 1] = "", *l = c->labels[i];
    for (int d = 0; l[d]; d++)
        if (in_any(c, 0, i, l[d]) || in_any(c, i + 1, c->n + 1, l[d]))
            kept[strlen(kept)] = l[d];
        else
            axes[n++] = d;
    if (n) c->v[i] = b_reduce(c->e->g, OP_sum, c->v[i], n, axes);
    memcpy(l, kept, sizeof kept);
}

/* Labels of a product of operands 0 and i: what is still needed, first a's, then b's. */
static void product_labels(const Contraction *c, uint32_t i, char *out) {
    const char *both[] = {c->labels[0], c->labels[i]};
    char kept[2 * MAX_RANK + 1] = "";
    for (int k = 0; k < 2; k++)
        for (const char *l = both[k]; *l; l++)
            if (!strchr(kept, *l) && in_any(c, i + 1, c->n + 1, *l)) kept[strlen(kept)] = *l;
    memcpy(out, kept, sizeof kept);
}

static bool contract(Contraction *c, uint32_t i) {
    char kept[2 * MAX_RANK + 1] = "";
    Elab *e = c->e;
    if (i + 1 == c->n)
        strcpy(kept, c->labels[c->n]);
    else
        product_labels(c, i, kept);
    if (strlen(kept) > MAX_RANK) return bad_spec(c, "an intermediate result has over 8 dimensions");
    const char *spec = arena_printf(e->a, "%s,%s->%s", c->labels[0], c->labels[i], kept);
    AttrValue attr[] = {{.s = intern(e->s, spec)}};
    Value in[] = {c->v[0], c->v[i]};
    if (!emit(e, c->loc, "'einsum'", OP_einsum, attr, 2, in, &c->v[0])) return false;
    memcpy(c->labels[0], kept, MAX_RANK + 1);
    return true;
}

static void order_result(Contraction *c) {
    const char *have = c->labels[0], *want = c->labels[c->n];
    int64_t perm[MAX_RANK];
    bool same = true;
    for (int d = 0; want[d]; d++) {
        perm[d] = strchr(have, want[d]) - have;
        same = same && perm[d] == d;
    }
    if (!same) c->v[0] = b_transpose(c->e->g, c->v[0], perm);
}

bool einsum(Elab *e, Loc loc, const char *spec, uint32_t n, const Value *in, const Loc *locs,
            Value *out) {
    Contraction c = {.e = e, .loc = loc, .spec = spec, .n = n, .at = locs};
    c.labels = arena_alloc(e->a, (n + 1) * sizeof *c.labels);
    c.v = arena_array(e->a, Value, n);
    memcpy(c.v, in, n * sizeof *in);
    if (!read_spec(&c) || !check_sizes(&c)) return false;
    place_nodes(e, loc);
    for (uint32_t i = 0; i < n; i++) drop_lonely(&c, i);
    for (uint32_t i = 1; i < n; i++)
        if (!contract(&c, i)) return false;
    order_result(&c);
    *out = c.v[0];
    return true;
}

/* ---- a @ b ---- */

static bool matmul_conflict(Elab *e, Loc loc, const Val *in, const Loc *locs, const char *why) {
    fail(e, loc, "'@' cannot multiply %s by %s: %s", describe(e, &in[0]), describe(e, &in[1]), why);
    note(e, locs[0], "%s is this", describe(e, &in[0]));
    note(e, locs[1], "%s is this", describe(e, &in[1]));
    return false;
}

/* The last axis of a with the first of a matrix b, or, for b of three and more dimensions, with the
 * last but one, over equal leading axes. */
bool matmul(Elab *e, Loc loc, const Val *in, const Loc *locs, Val *out) {
    Value v[2];
    for (int i = 0; i < 2; i++)
        if (!want_tensor(e, &in[i], locs[i], "an operand of '@'", &v[i])) return false;
    const Type *a = type_of(e->g, v[0]), *b = type_of(e->g, v[1]);
    int batch = b->rank - 2;
    if (a->rank < 1 || batch < 0 || (batch > 0 && a->rank < batch + 1))
        return matmul_conflict(e, loc, in, locs, "the right side must be a matrix");
    for (int i = 0; i < batch; i++)
        if (a->dim[i] != b->dim[i])
            return matmul_conflict(e, loc, in, locs, "their leading sizes differ");
    if (a->dim[a->rank - 1] != b->dim[batch])
        return matmul_conflict(e, loc, in, locs,
                               arena_printf(e->a, "the inner sizes %lld and %lld differ",
                                            (long long)a->dim[a->rank - 1],
                                            (long long)b->dim[batch]));
    if (a->dtype != b->dtype) return matmul_conflict(e, loc, in, locs, "their dtypes differ");
    const char *letters = "abcdefgh";
    int lead = a->rank - 1;
    const char *spec =
        arena_printf(e->a, "%.*sk,%.*skn->%.*sn", lead, letters, batch, letters, lead, letters);
    AttrValue attr[] = {{.s = intern(e->s, spec)}};
    *out = val_tensor(NO_VALUE);
    return emit(e, loc, "'@'", OP_einsum, attr, 2, v, &out->v);
}
