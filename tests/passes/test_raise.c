/* test_raise.c: every natural way to write softmax, the norms, cross-entropy and attention is
 * recognised, with and without simplify before, and the numbers stay; what overflows is not. */
#include "tests/passes/model.h"

typedef Value BuildFn(Graph *g, int variant);
typedef struct {
    const char *name;
    BuildFn *build;
    int variants;
    Op op;
    int missed; /* this variant must not be raised; -1: none */
} Case;

static Value logits(Graph *g) { return model_input(g, "x", DT_F32, 3, DIMS(2, 3, MODEL_V)); }

static Value build_softmax(Graph *g, int variant) { return model_softmax(g, logits(g), variant); }
static Value build_norm(Graph *g, int variant) { return model_norm(g, logits(g), variant); }
static Value build_rmsnorm(Graph *g, int variant) {
    return model_scale_rows(g, logits(g), variant);
}

static Value build_nll(Graph *g, int variant) {
    return model_nll(g, logits(g), model_input(g, "target", DT_I32, 2, DIMS(2, 3)), variant);
}

/* Rows of rank 1: the row values are scalars. */
static Value build_vector(Graph *g, int variant) {
    return model_softmax(g, model_input(g, "x", DT_F32, 1, DIMS(5)), variant);
}

/* ---- attention: specs, layouts, places of scale and mask ---- */

typedef struct {
    const char *q, *k, *v, *first, *second; /* shapes by letters, specs */
    int scale;                              /* on 0: scores, 1: q, 2: k as a quotient, 3: nothing */
    const char *mask;
    bool swap_mask;
} Attention;

static const Attention attentions[] = {
    {"bhtk", "bhsk", "bhsk", "bhtk,bhsk->bhts", "bhts,bhsk->bhtk", 0, "prefix", false},
    {"bthk", "bshk", "bshk", "bthk,bshk->bhts", "bhts,bshk->bthk", 1, "causal", true},
    {"nlhd", "nmhd", "nmhd", "nlhd,nmhd->nhlm", "nmhd,nhlm->nlhd", 2, NULL, false},
    {"hbkt", "sbhk", "kbsh", "hbkt,sbhk->hbts", "hbts,kbsh->tkhb", 3, "causal", false},
    {"btk", "bsk", "bsk", "btk,bsk->bts", "bts,bsk->btk", 0, "causal", false},
    {"tk", "sk", "sk", "sk,tk->ts", "ts,sk->tk", 0, "prefix", true},
    {"bhtk", "bhsk", "bhsd", "bhtk,bhsk->bhts", "bhts,bhsd->bhtd", 0, NULL, false},
};

/* Sizes by letter; those of both inner labels are equal. */
static int64_t letter_size(char c) {
    return strchr("bn", c) ? 2 : c == 'h' ? 3 : strchr("tl", c) ? 4 : strchr("sm", c) ? 6 : 5;
}

static Value shaped(Graph *g, const char *name, const char *letters) {
    int64_t dim[MAX_RANK];
    int rank = 0;
    for (; letters[rank]; rank++) dim[rank] = letter_size(letters[rank]);
    return model_input(g, name, DT_F32, rank, dim);
}

static Value build_attention(Graph *g, int variant) {
    const Attention *a = &attentions[variant];
    Value q = shaped(g, "q", a->q), k = shaped(g, "k", a->k), v = shaped(g, "v", a->v);
    if (a->scale == 1) q = model_scaled(g, q, 0.4);
    if (a->scale == 2) k = b_ew2(g, OP_div, k, b_like(g, 2.5, k));
    bool k_first = a->first[0] == a->k[0] && strncmp(a->first, a->k, strlen(a->k)) == 0;
    Value s = EINSUM(g, a->first, k_first ? k : q, k_first ? q : k);
    if (a->scale == 0) s = model_scaled(g, s, 0.4);
    if (a->mask) {
        Value m = model_mask(g, a->mask, s);
        s = a->swap_mask ? b_ew2(g, OP_add, m, s) : b_ew2(g, OP_add, s, m);
    }
    Value p = model_softmax(g, s, 0);
    bool v_first = strncmp(a->second, a->v, strlen(a->v)) == 0;
    return EINSUM(g, a->second, v_first ? v : p, v_first ? p : v);
}

/* Probabilities with another use, heads that share keys, a mask on reshaped scores: left alone. */
static Value build_no_attention(Graph *g, int variant) {
    bool shared_keys = variant == 1;
    Value q = shaped(g, "q", "bhtk"), k = shaped(g, "k", shared_keys ? "bsk" : "bhsk");
    Value v = shaped(g, "v", "bhsk");
    Value s = EINSUM(g, shared_keys ? "bhtk,bsk->bhts" : "bhtk,bhsk->bhts", q, k);
    if (variant == 2) {
        Value m = model_mask(g, "causal", b_reshape(g, shaped(g, "m", "bhts"), 3, DIMS(6, 4, 6)));
        s = b_ew2(g, OP_add, b_reshape(g, s, 3, DIMS(6, 4, 6)), m);
        s = b_reshape(g, s, 4, DIMS(2, 3, 4, 6));
    }
    Value p = model_softmax(g, s, 0);
    if (variant == 0) b_output(g, p, "p");
    return EINSUM(g, "bhts,bhsk->bhtk", p, v);
}

static const Case cases[] = {
    {"softmax", build_softmax, 4, OP_softmax, 3},
    {"softmax of a vector", build_vector, 4, OP_softmax, 3},
    {"norm", build_norm, 5, OP_norm, -1},
    {"rmsnorm", build_rmsnorm, 5, OP_rmsnorm, -1},
    {"cross entropy", build_nll, 4, OP_cross_entropy, -1},
    {"attention", build_attention, COUNT(attentions), OP_attention, -1},
};

static void check(const Case *c, int variant, const char *pipeline, int expected) {
    Session *s = session_new();
    Graph *plain = graph_new(s, "raise");
    b_output(plain, c->build(plain, variant), "y");
    Graph *g = model_copy(plain);
    model_pipeline(g, pipeline);
    Interp *a = model_run(g), *b = model_run(plain);
    if (!CHECK(model_count(g, c->op) == expected) || !CHECK(model_compare(a, b) < 1e-12)) {
        Buf text = {0};
        graph_print(g, &text);
        fprintf(stderr, "%s %d after %s:\n%s\n", c->name, variant, pipeline, text.p);
        buf_free(&text);
    }
    interp_free(a);
    interp_free(b);
    graph_free(g);
    graph_free(plain);
    session_free(s);
}

static void check_negative(void) {
    static const Case none = {"not attention", build_no_attention, 3, OP_attention, -1};
    for (int v = 0; v < none.variants; v++) check(&none, v, "simplify,raise,simplify", 0);
}

/* All of a model's row ops and attentions are raised; what is left of them is gone. */
static void check_model(void) {
    Session *s = session_new();
    Graph *g = model_build(s, (ModelKind){true, false, 0});
    model_pipeline(g, "simplify,raise,simplify");
    CHECK(model_count(g, OP_attention) == 2 && model_count(g, OP_norm) == 5);
    CHECK(model_count(g, OP_cross_entropy) == 1 && model_count(g, OP_softmax) == 2);
    CHECK(model_count(g, OP_exp) == 0 && model_count(g, OP_rsqrt) == 0);
    CHECK(model_count(g, OP_transpose) == 0);
    graph_free(g);
    session_free(s);
}

int main(void) {
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int v = 0; v < cases[i].variants; v++) {
            check(&cases[i], v, "raise", v != cases[i].missed);
            check(&cases[i], v, "simplify,raise,simplify", v != cases[i].missed);
        }
    check_negative();
    check_model();
    return check_done("raise");
}
