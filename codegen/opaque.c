/* opaque.c: the table of opaque kernels, and what their emitters share. */
#include "codegen/opaque.h"

enum { CUDA_THREADS = 256 };

static const struct {
    OpaqueFn *c, *cuda;
} emitter[OP_COUNT] = {
    [OP_attention] = {emit_attention, emit_attention_cuda},
    [OP_attention_grad] = {emit_attention_grad, emit_attention_grad_cuda},
    [OP_block] = {emit_block, emit_block_cuda},
    [OP_combine] = {emit_combine, emit_combine_cuda},
    [OP_combine_sum] = {emit_combine_sum, emit_combine_sum_cuda},
    [OP_concat] = {emit_concat, emit_concat_cuda},
    [OP_dispatch] = {emit_dispatch, emit_dispatch_cuda},
    [OP_dispatch_scaled] = {emit_dispatch_scaled, emit_dispatch_scaled_cuda},
    [OP_gate_grad] = {emit_gate_grad, emit_gate_grad_cuda},
    [OP_gather] = {emit_gather, emit_gather_cuda},
    [OP_route] = {emit_route, emit_route_cuda},
    [OP_scatter_add] = {emit_scatter_add, emit_scatter_add_cuda},
    [OP_unpick] = {emit_unpick, emit_unpick_cuda},
};

bool opaque_has(Op op) { return emitter[op].c != NULL; }

static void print_with(OpaqueFn *emit, const Opaque *o, Code *c) {
    if (!emit) BUG("no kernel for %s", op_info(o->n->op)->name);
    buf_puts(&c->body, "{\n");
    emit(o, c);
    buf_puts(&c->body, "}\n");
}

void opaque_c_print(const Opaque *o, Code *c) { print_with(emitter[o->n->op].c, o, c); }
void opaque_cuda_print(const Opaque *o, Code *c) { print_with(emitter[o->n->op].cuda, o, c); }

int64_t dims_product(const Type *t, int from, int to) {
    int64_t n = 1;
    for (int i = from; i < to; i++) n *= t->dim[i];
    return n;
}

void opaque_in(const Opaque *o, Buf *b, uint32_t i, const char *name) {
    const char *type = ctype_storage(o->in[i]->dtype);
    buf_printf(b, "    const %s *%s = (const %s *)ARG(%u);\n", type, name, type, i);
}

void opaque_out(const Opaque *o, Buf *b, uint32_t i, const char *name) {
    uint32_t place = o->nin;
    if (!o->want[i]) return;
    for (uint32_t j = 0; j < i; j++) place += o->want[j];
    const char *type = ctype_storage(o->out[i]->dtype);
    buf_printf(b, "    %s *%s = (%s *)ARG(%u);\n", type, name, type, place);
}

void put_load(Buf *b, Dtype d, const char *name, const char *index) {
    bool half = dtype_is_half(d);
    buf_printf(b, "%s%s%s[%s]%s", half ? dtype_name(d) : "", half ? "_f32(" : "", name, index,
               half ? ")" : "");
}

void put_store(Buf *b, Dtype d, const char *name, const char *index, const char *value) {
    bool half = dtype_is_half(d);
    buf_printf(b, "%s[%s] = %s%s(%s);\n", name, index, half ? "f32_" : "",
               half ? dtype_name(d) : "", value);
}

void opaque_items(Code *c, int64_t items, double cost) {
    c->items = items;
    c->grain = MAX(1, (int64_t)(16384 / MAX(cost, 1)));
}

void opaque_threads(Code *c, int64_t threads) {
    c->threads = CUDA_THREADS;
    c->items = (threads + CUDA_THREADS - 1) / CUDA_THREADS;
}
