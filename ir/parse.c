/* parse.c: reads the text form. One pass over the lines, no recursion; stops at the first error.
 *
 * Limits: rank, operands and sizes as in ir.h; every type is inferred again and must equal what the
 * line says; at the end the verifier's findings become errors at their lines. */
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

/* ---- types ---- */

static const Type *parse_tensor(Text *t) {
    Dtype d;
    int64_t dim[MAX_RANK];
    int rank = 0;
    const char *at = (text_at_end(t), t->p), *name = text_identifier(t, "a type");
    if (!name) return NULL;
    if (!dtype_parse(name, &d) || d == DT_TUPLE)
        return text_fail(t, at, "unknown type '%s'", name), NULL;
    if (!text_expect(t, "[")) return NULL;
    while (!text_accept(t, "]")) {
        if (rank && !text_expect(t, ",")) return NULL;
        if (rank == MAX_RANK) return text_fail(t, t->p, "more than %d dimensions", MAX_RANK), NULL;
        if (!text_int(t, 1, INT64_MAX, &dim[rank++])) return NULL;
    }
    const Type *type = type_tensor(t->session, d, rank, dim);
    if (type_bytes(type) < 0) return text_fail(t, at, "this tensor is too large"), NULL;
    return type;
}

static const Type *parse_type(Text *t) {
    const Type *elem[MAX_OPERANDS];
    uint32_t n = 0;
    if (!text_accept(t, "(")) return parse_tensor(t);
    while (!text_accept(t, ")")) {
        if (n && !text_expect(t, ",")) return NULL;
        if (n == MAX_OPERANDS)
            return text_fail(t, t->p, "more than %d results", MAX_OPERANDS), NULL;
        if (!(elem[n++] = parse_tensor(t))) return NULL;
    }
    return type_tuple(t->session, n, elem);
}

static bool parse_spec(Text *t, Node *n) {
    Spec spec = {.rank = n->type->rank};
    const char *at = t->p, *name;
    if (!text_accept(t, "@")) return true;
    if (!text_expect(t, "[")) return false;
    for (int i = 0; i < spec.rank; i++) {
        if (i && !text_expect(t, ",")) return false;
        if (!(name = text_axes(t, "mesh axes or _"))) return false;
        spec.axis[i] = strcmp(name, "_") == 0 ? NULL : name;
    }
    if (!text_expect(t, "]")) return false;
    while (text_accept(t, "+")) {
        if (spec.npartial == MAX_RANK) return text_fail(t, at, "too many partial axes");
        if (!(name = text_identifier(t, "a mesh axis"))) return false;
        spec.partial[spec.npartial++] = name;
    }
    n->spec = spec_intern(t->session, &spec);
    return true;
}

/* ---- attributes ---- */

static bool parse_ints(Text *t, AttrValue *v) {
    VEC(int64_t) list = {0};
    bool ok = text_expect(t, "[");
    while (ok && !text_accept(t, "]")) {
        int64_t x = 0;
        ok = (list.n == 0 || text_expect(t, ",")) && text_int(t, INT64_MIN, INT64_MAX, &x);
        if (ok && list.n == MAX_OPERANDS) ok = text_fail(t, t->p, "this list is too long");
        if (ok) vec_push(&list, x);
    }
    if (ok) v->v = ints_intern(t->session, list.n, list.p);
    vec_free(&list);
    return ok;
}

static bool parse_dtype(Text *t, AttrValue *v) {
    Dtype d;
    const char *at = (text_at_end(t), t->p), *name = text_identifier(t, "a type");
    if (!name) return false;
    if (!dtype_parse(name, &d) || d == DT_TUPLE) return text_fail(t, at, "unknown type '%s'", name);
    v->i = d;
    return true;
}

static bool parse_attr_value(Text *t, AttrKind kind, AttrValue *v) {
    switch (kind) {
    case ATTR_INT: return text_int(t, INT64_MIN, INT64_MAX, &v->i);
    case ATTR_FLOAT: return text_float(t, &v->f);
    case ATTR_STR: return (v->s = text_string(t)) != NULL;
    case ATTR_INTS: return parse_ints(t, v);
    case ATTR_DTYPE: return parse_dtype(t, v);
    case ATTR_KIND_COUNT: break;
    }
    BUG("no such kind of attribute");
}

static bool parse_attr(Text *t, Node *n) {
    enum { MOST = 8 };
    AttrValue v[MOST];
    const AttrField *field;
    uint32_t count = op_fields(n->op, &field);
    ASSERT(count <= MOST);
    memset(v, 0, sizeof v);
    for (uint32_t i = 0; i < count; i++) {
        if (!text_expect(t, i ? "," : "{")) return false;
        const char *at = (text_at_end(t), t->p);
        const char *name = text_identifier(t, "an attribute");
        if (!name) return false;
        if (strcmp(name, field[i].name) != 0)
            return text_fail(t, at, "expected attribute '%s' of %s here, not '%s'", field[i].name,
                             op_info(n->op)->name, name);
        if (!text_expect(t, "=") || !parse_attr_value(t, field[i].kind, &v[i])) return false;
    }
    if (count && !text_expect(t, "}")) return false;
    n->attr = attr_intern(t->session, n->op, v);
    return true;
}

/* ---- nodes ---- */

static bool parse_memory(Text *t, Node *n) {
    if (!text_expect(t, "=")) return false;
    const char *at = t->p, *name = text_identifier(t, "host or disk");
    if (!name) return false;
    for (int m = MEM_DEVICE + 1; m < MEM_COUNT; m++)
        if (strcmp(name, mem_name((Mem)m)) == 0) n->mem = (uint8_t)m;
    return n->mem || text_fail(t, at, "there is no memory '%s': host or disk", name);
}

static bool parse_flags(Text *t, Node *n) {
    int64_t x;
    while (text_accept(t, "!")) {
        const char *at = t->p, *flag = text_identifier(t, "a flag, as bwd or group");
        if (!flag) return false;
        if (strcmp(flag, "bwd") == 0) {
            n->phase = PHASE_BACKWARD;
        } else if (strcmp(flag, "apply") == 0) {
            n->phase = PHASE_APPLY;
        } else if (strcmp(flag, "micro") == 0) {
            if (!text_expect(t, "=") || !text_int(t, 0, INT16_MAX, &x)) return false;
            n->micro = (int16_t)x;
        } else if (strcmp(flag, "group") == 0) {
            if (!text_expect(t, "=") || !text_int(t, 1, UINT32_MAX, &x)) return false;
            n->group = (uint32_t)x;
        } else if (strcmp(flag, "stream") == 0) {
            if (!text_expect(t, "=") || !text_int(t, 1, STREAM_COUNT - 1, &x)) return false;
            n->stream = (uint8_t)x;
        } else if (strcmp(flag, "mem") == 0) {
            if (!parse_memory(t, n)) return false;
        } else if (strcmp(flag, "store") == 0) {
            n->store = true;
        } else if (strcmp(flag, "at") == 0) {
            if (!text_expect(t, "=") || !text_int(t, 0, INT64_MAX >> 1, &x)) return false;
            n->offset = x;
        } else {
            return text_fail(t, at, "unknown flag '!%s'", flag);
        }
    }
    return true;
}

static bool parse_operands(Text *t, const Graph *g, Node *n, Value in[MAX_OPERANDS]) {
    while (text_accept(t, "%")) {
        const char *at = t->p;
        int64_t v;
        if (!text_int(t, 0, UINT32_MAX, &v)) return false;
        if (v >= g->node.n)
            return text_fail(t, at, "%%%lld is not defined before this line", (long long)v);
        if (n->nin == MAX_OPERANDS) return text_fail(t, at, "more than %d operands", MAX_OPERANDS);
        in[n->nin++] = (Value)v;
    }
    return true;
}

/* The type that the line states must be the one that the op gives. */
static bool check_type(Text *t, const Graph *g, const Node *n, const Value *in, const char *at) {
    const Type *have[MAX_OPERANDS + 1];
    const OpInfo *info = op_info(n->op);
    Buf err = {0};
    for (uint32_t i = 0; i < n->nin; i++) have[i] = type_of(g, in[i]);
    const Type *type = op_infer(g->session, n->op, n->nin, have, n->attr, n->type, &err);
    if (type && type != n->type) {
        buf_puts(&err, "gives ");
        type_print(type, &err);
        buf_puts(&err, ", not ");
        type_print(n->type, &err);
    }
    bool ok = type == n->type;
    if (!ok) text_fail(t, at, "%s: %s", info->name, err.p);
    buf_free(&err);
    return ok;
}

static bool parse_place(Text *t, Node *n) {
    if (!text_accept(t, ";")) return text_expect_end(t);
    if (!(n->scope = text_word(t))) return false;
    if (!text_at_end(t) && !text_loc(t, &n->loc)) return false;
    return text_expect_end(t);
}

static bool parse_node(Text *t, Graph *g) {
    Node n = {.micro = -1, .offset = -1, .scope = intern(t->session, "")};
    Value in[MAX_OPERANDS];
    Op op;
    int64_t number;
    const char *at = t->p;
    if (!text_int(t, 0, UINT32_MAX, &number)) return false;
    if (number != g->node.n)
        return text_fail(t, at, "values are numbered in order: this is %%%u", g->node.n);
    if (!text_expect(t, "=")) return false;
    const char *op_at = (text_at_end(t), t->p), *name = text_identifier(t, "an op");
    if (!name) return false;
    if (!op_find(name, &op)) return text_fail(t, op_at, "unknown op '%s'", name);
    n.op = (uint16_t)op;
    if (!parse_operands(t, g, &n, in) || !parse_attr(t, &n) || !text_expect(t, ":")) return false;
    if (!(n.type = parse_type(t)) || !check_type(t, g, &n, in, op_at)) return false;
    text_at_end(t);
    if (!parse_spec(t, &n) || !parse_flags(t, &n) || !parse_place(t, &n)) return false;
    n.in = g->operand.n;
    for (uint32_t i = 0; i < n.nin; i++) vec_push(&g->operand, in[i]);
    vec_push(&g->node, n);
    return true;
}

/* ---- the whole text ---- */

static bool parse_line(Text *t, Graph *g) {
    if (text_accept(t, "%")) return parse_node(t, g);
    const char *at = t->p, *word = text_identifier(t, "'%', 'setting' or 'note'");
    if (!word) return false;
    if (strcmp(word, "setting") != 0 && strcmp(word, "note") != 0)
        return text_fail(t, at, "expected a value, 'setting' or 'note', not '%s'", word);
    if (g->node.n) return text_fail(t, at, "'%s' must stand before all values", word);
    return word[0] == 's' ? text_parse_setting(t, g) : text_parse_note(t, g);
}

static bool report_findings(Text *t, const Graph *g, const uint32_t *line) {
    Arena *a = arena_new();
    Finding *found;
    uint32_t n = graph_findings(g, a, &found);
    for (uint32_t i = 0; i < n; i++) {
        Loc loc = {t->file, 1, found[i].v == NO_VALUE ? 0 : line[found[i].v]};
        diag_error(t->session, loc, "%s", found[i].text);
    }
    arena_free(a);
    return n == 0;
}

Graph *graph_parse(Session *s, const char *file, const char *text, size_t n) {
    static const char empty[] = "";
    if (!text) text = empty;
    Text t = {.session = s, .file = session_add_file(s, file, text, n)};
    t.from = t.p = t.end = text;
    t.stop = text + n;
    VEC(uint32_t) line = {0};
    Graph *g = graph_new(s, "");
    bool ok = text_next_line(&t) || text_fail(&t, t.p, "the file has no graph");
    ok = ok && text_expect(&t, "graph") && (g->name = text_word(&t)) && text_expect_end(&t);
    while (ok && text_next_line(&t)) {
        ok = parse_line(&t, g);
        if (ok && line.n < g->node.n) vec_push(&line, t.line);
    }
    ok = ok && report_findings(&t, g, line.p);
    vec_free(&line);
    if (ok) return g;
    graph_free(g);
    return NULL;
}
