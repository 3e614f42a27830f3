/* interp.c: a model in the interpreter, in double precision, for the oracle's tests:
 *
 *     m6-interp model.m6 params.safetensors batch.safetensors STEPS grads.safetensors
 *
 * One JSON line a step (step, loss, grad_norm); the first step's gradients go to the last file. */
#include <stdlib.h>
#include <string.h>

#include "frontend/elab.h"
#include "passes/passes.h"
#include "runtime/safetensors.h"

static const char passes[] = "simplify,raise,precision,differentiate,optimize,simplify";

static void stop(Status s) {
    if (!s) return;
    fprintf(stderr, "m6-interp: %s\n", s->text);
    exit(s->code);
}

static double element(const StTensor *t, int64_t i) {
    float f;
    int32_t n;
    if (t->dtype == DT_I32) return memcpy(&n, (const char *)t->data + 4 * i, 4), (double)n;
    if (t->dtype != DT_F32) stop(status_make(EXIT_INPUT, "%s is neither f32 nor i32", t->name));
    memcpy(&f, (const char *)t->data + 4 * i, 4);
    return (double)f;
}

/* Every tensor of the file becomes the start value of the leaf of its name. */
static void set_leaves(Interp *in, const char *path) {
    StFile *f;
    stop(st_open(path, &f));
    for (uint32_t k = 0; k < st_count(f); k++) {
        const StTensor *t = st_tensor(f, k);
        int64_t n = t->bytes / 4;
        double *x = xmalloc((size_t)n * sizeof *x);
        for (int64_t i = 0; i < n; i++) x[i] = element(t, i);
        if (!interp_set(in, t->name, x))
            stop(status_make(EXIT_INPUT, "the model has no '%s'", t->name));
        free(x);
    }
    st_close(f);
}

static void write_grads(const Interp *in, const char *path) {
    VEC(StTensor) list = {0};
    for (Value v = 0; v < in->g->node.n; v++) {
        const Node *n = node_of(in->g, v);
        const char *name = n->op == OP_output ? attr_str(n, "name") : "";
        if (strncmp(name, "grad/", 5) != 0) continue;
        const Tensor *x = interp_output(in, name);
        int64_t count = type_elements(n->type);
        float *data = xmalloc((size_t)count * sizeof *data);
        for (int64_t i = 0; i < count; i++) data[i] = (float)x->data[i];
        StTensor t = {.name = name + 5, .dtype = DT_F32, .rank = n->type->rank, .data = data};
        memcpy(t.dim, n->type->dim, sizeof t.dim);
        vec_push(&list, t);
    }
    stop(st_write(path, list.p, list.n, NULL, 0));
    for (uint32_t i = 0; i < list.n; i++) free((void *)(uintptr_t)list.p[i].data);
    vec_free(&list);
}

int main(int argc, char **argv) {
    if (argc != 6) return EXIT_USAGE;
    Session *s = session_new();
    File *f = frontend_load(s, argv[1]);
    ElabOptions options = {0};
    Graph *g = f ? elaborate(s, f, &options) : NULL;
    if (!g) return EXIT_INPUT;
    g->set.keep_grads = true;
    PassContext cx = {.session = s, .opt = {.verify = true}};
    if (!pipeline_run(g, passes, &cx)) return EXIT_INPUT;
    Interp *in = interp_new(g);
    set_leaves(in, argv[2]);
    set_leaves(in, argv[3]);
    for (int step = 1; step <= atoi(argv[4]); step++) {
        interp_run(in, 1, step);
        printf("{\"step\": %d, \"loss\": %.17g, \"grad_norm\": %.17g}\n", step,
               interp_output(in, "loss")->data[0], interp_output(in, "grad_norm")->data[0]);
        if (step == 1) write_grads(in, argv[5]);
    }
    interp_free(in);
    graph_free(g);
    session_free(s);
    return EXIT_DONE;
}
