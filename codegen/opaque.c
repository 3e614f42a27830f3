/* opaque.c: the table of opaque kernels, and what their emitters share. */
#include "codegen/opaque.h"

static OpaqueFn *const emitter[OP_COUNT] = {
    [OP_attention] = emit_attention,
    [OP_attention_grad] = emit_attention_grad,
    [OP_combine] = emit_combine,
    [OP_combine_sum] = emit_combine_sum,
    [OP_concat] = emit_concat,
    [OP_dispatch] = emit_dispatch,
    [OP_dispatch_scaled] = emit_dispatch_scaled,
    [OP_gate_grad] = emit_gate_grad,
    [OP_gather] = emit_gather,
    [OP_route] = emit_route,
    [OP_scatter_add] = emit_scatter_add,
    [OP_unpick] = emit_unpick,
};

bool opaque_has(Op op) { return emitter[op] != NULL; }

void opaque_print(const Opaque *o, Code *c) {
    if (!emitter[o->n->op]) BUG("no kernel for %s", op_info(o->n->op)->name);
    buf_puts(&c->body, "{\n");
    emitter[o->n->op](o, c);
    buf_puts(&c->body, "}\n");
}

void opaque_in(const Opaque *o, Buf *b, uint32_t i, const char *name) {
    buf_printf(b, "    const %s *%s = arg[%u];\n", ctype_storage(o->in[i]->dtype), name, i);
}

void opaque_out(const Opaque *o, Buf *b, uint32_t i, const char *name) {
    uint32_t place = o->nin;
    if (!o->want[i]) return;
    for (uint32_t j = 0; j < i; j++) place += o->want[j];
    buf_printf(b, "    %s *%s = arg[%u];\n", ctype_storage(o->out[i]->dtype), name, place);
}

void put_load(Buf *b, Dtype d, const char *name, const char *index) {
    bool half = d == DT_BF16 || d == DT_F16;
    buf_printf(b, "%s%s%s[%s]%s", half ? dtype_name(d) : "", half ? "_f32(" : "", name, index,
               half ? ")" : "");
}

void put_store(Buf *b, Dtype d, const char *name, const char *index, const char *value) {
    bool half = d == DT_BF16 || d == DT_F16;
    buf_printf(b, "%s[%s] = %s%s(%s);\n", name, index, half ? "f32_" : "",
               half ? dtype_name(d) : "", value);
}

void opaque_items(Code *c, int64_t items, double cost) {
    c->items = items;
    c->grain = MAX(1, (int64_t)(16384 / MAX(cost, 1)));
}
