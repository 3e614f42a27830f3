/* print.c: the text form of a graph: a header, then one line per node. Only what is set is printed;
 * attributes always all, in schema order. parse.c reads it back to the same text. */
#include "ir/text.h"

static void print_attr_value(AttrKind kind, AttrValue v, Buf *out) {
    switch (kind) {
    case ATTR_INT: buf_printf(out, "%lld", (long long)v.i); break;
    case ATTR_FLOAT: buf_double(out, v.f); break;
    case ATTR_STR: text_print_string(v.s, out); break;
    case ATTR_DTYPE: buf_puts(out, dtype_name((Dtype)v.i)); break;
    case ATTR_INTS:
        buf_puts(out, "[");
        for (uint32_t i = 0; i < v.v->n; i++)
            buf_printf(out, i ? ",%lld" : "%lld", (long long)v.v->v[i]);
        buf_puts(out, "]");
        break;
    case ATTR_KIND_COUNT: BUG("no such kind of attribute");
    }
}

static void print_attr(const Node *n, Buf *out) {
    const AttrField *field;
    uint32_t count = op_fields(n->op, &field);
    for (uint32_t i = 0; i < count; i++) {
        buf_printf(out, "%s%s=", i ? ", " : " {", field[i].name);
        print_attr_value(field[i].kind, n->attr->v[i], out);
    }
    if (count) buf_puts(out, "}");
}

static void print_flags(const Node *n, Buf *out) {
    if (n->phase == PHASE_BACKWARD) buf_puts(out, " !bwd");
    if (n->phase == PHASE_APPLY) buf_puts(out, " !apply");
    if (n->micro >= 0) buf_printf(out, " !micro=%d", n->micro);
    if (n->group) buf_printf(out, " !group=%u", n->group);
    if (n->stream) buf_printf(out, " !stream=%u", n->stream);
    if (n->mem) buf_printf(out, " !mem=%s", mem_name((Mem)n->mem));
    if (n->store) buf_puts(out, " !store");
    if (n->offset >= 0) buf_printf(out, " !at=%lld", (long long)n->offset);
}

void text_print_node(const Graph *g, Value v, Buf *out) {
    const Node *n = node_of(g, v);
    buf_printf(out, "%%%u = %s", v, op_info(n->op)->name);
    for (uint32_t i = 0; i < n->nin; i++) buf_printf(out, " %%%u", operand(g, v, i));
    print_attr(n, out);
    buf_puts(out, " : ");
    type_print(n->type, out);
    if (n->spec) {
        buf_puts(out, " ");
        spec_print(n->spec, out);
    }
    print_flags(n, out);
    if (n->scope[0] || n->loc.line) {
        buf_puts(out, " ; ");
        text_print_word(n->scope, out);
    }
    if (n->loc.line) {
        buf_puts(out, " ");
        text_print_loc(g->session, n->loc, out);
    }
    buf_puts(out, "\n");
}

void graph_print(const Graph *g, Buf *out) {
    graph_print_header(g, out);
    for (Value v = 0; v < g->node.n; v++) text_print_node(g, v, out);
}
