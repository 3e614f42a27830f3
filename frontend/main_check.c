/* main_check.c: m6c check: a model as it is written, and as each pass leaves it on a mesh, run in
 * double precision from the same inputs; what differs is named. How graphs are run and compared is
 * in passes/equal.h. */
#include "frontend/main_model.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/equal.h"
#include "passes/machine.h"

typedef struct {
    ModelArgs model;
    int64_t steps, seed, all;
    bool json;
} CheckArgs;

/* What came of one mesh. */
typedef struct {
    const CheckArgs *args;
    Session *s;
    Graph *g;           /* of all ranks; of the first stage or share, once there are several */
    VEC(Graph *) stage; /* g and those of the later ones */
    Graph *before;      /* as the last pass that divides it found it; NULL: none has run yet */
    Equal *equal;
    VEC(ShardMap) map; /* by stage: from `before` */
    Buf mesh;          /* "data=4,expert=data" */
    Buf said;          /* diagnostics, where one mesh of many has a line of its own */
    RanksOrder order;
    Buf stuck;        /* why ranks do not get through */
    const char *pass; /* after which they do not, or something differs; NULL: all is well */
    ValueDistance at; /* of `before`: the first value that differs */
} Verdict;

/* ---- one mesh ---- */

/* Rounding would hide what is looked for: everything is checked as f32, which is computed in
 * double. */
static void exact(Session *s, Settings *set) {
    if (set->precision != DT_F32)
        diag_warning(s, (Loc){0}, "checked as f32: %s rounds more than an error may be",
                     dtype_name(set->precision));
    if (set->fp16) diag_warning(s, (Loc){0}, "checked with messages as they are, not in f16");
    set->precision = DT_F32;
    set->fp16 = 0;
    set->keep_grads = set->train;
}

/* In the order that `schedule` settles even a send that waits for its receive must do. */
static bool check_order(Verdict *v, const char *pass) {
    bool settled = strcmp(pass, "schedule") == 0;
    if (!v->g->set.sharded) return true;
    return ranks_check_order(v->stage.p, v->stage.n, settled, &v->order, &v->stuck);
}

/* Makes one rank's part of every tensor, or one stage's of the graph. */
static bool divides(const char *pass) {
    return strcmp(pass, "shard") == 0 || strcmp(pass, "stages") == 0;
}

/* Names the first thing that differs after the pass. */
static void blame(Verdict *v, const char *pass) {
    v->pass = pass;
    if (equal_stuck(v->equal)) buf_puts(&v->stuck, equal_stuck(v->equal));
    if (v->stuck.n || !divides(pass)) return;
    v->at = equal_locate(v->equal, v->before, v->stage.p, v->map.p, v->stage.n,
                         equal_first(v->equal).step);
}

/* A graph for each stage, or class of shares, to become. */
static void part(Verdict *v) {
    while (v->stage.n < mesh_programs(&v->g->set)) {
        vec_push(&v->stage, graph_copy(v->g));
        vec_push(&v->map, (ShardMap){0});
    }
}

static bool run_pass(const Verdict *v, const char *pass, PassContext *cx) {
    for (cx->stage = 0; cx->stage < v->stage.n; cx->stage++) {
        cx->shard = &v->map.p[cx->stage];
        if (!pipeline_run(v->stage.p[cx->stage], pass, cx)) return false;
    }
    return true;
}

/* As stated or chosen. */
static void say_shares(Verdict *v) {
    if (!v->g->set.shares.n) return;
    buf_puts(&v->mesh, " shares ");
    shares_print(v->g->set.shares, &v->mesh);
}

/* Runs one pass and compares; false when there is no need to go on. */
static bool check_pass(Verdict *v, const char *pass, PassContext *cx) {
    bool shards = strcmp(pass, "shard") == 0;
    if (shards) equal_mark(v->equal);
    if (divides(pass)) {
        if (v->before) graph_free(v->before);
        v->before = graph_copy(v->g);
    }
    if (strcmp(pass, v->g->set.shares.n ? "shard" : "stages") == 0) part(v);
    if (!run_pass(v, pass, cx)) return false;
    if (strcmp(pass, "shares") == 0) say_shares(v);
    if (shards && mesh_ranks(&v->g->set) > 1 && !v->g->set.sharded) {
        diag_error(v->s, (Loc){0}, "mesh %s: the model was not divided", v->mesh.p);
        return false;
    }
    if (check_order(v, pass) && equal_stages(v->equal, v->stage.p, v->stage.n)) return true;
    blame(v, pass);
    return false;
}

/* The passes that write the program in another form, up to the kernels; of pipelines up to their
 * order. */
static bool check_passes(Verdict *v) {
    static const char *const passes[] = {
        "simplify", "raise",  "precision",   "differentiate", "optimize", "shares", "shard",
        "simplify", "stages", "collectives", "lower",         "epilogue", "fuse",   "schedule"};
    PassContext cx = {.session = v->s, .opt = v->args->model.pass};
    pass_options_env(&cx.opt);
    cx.machine = machine_load(v->s, v->g->set.cluster, v->args->model.target);
    if (!cx.machine) return false;
    if (!equal_form(v->equal, v->g)) BUG("a graph differs from itself");
    for (size_t i = 0; i < COUNT(passes); i++) {
        const char *p = passes[i];
        bool trains = strcmp(p, "differentiate") == 0 || strcmp(p, "optimize") == 0;
        bool skip = trains ? !v->g->set.train : strcmp(p, "schedule") == 0 && v->stage.n == 1;
        if (!skip && !check_pass(v, p, &cx)) return v->pass != NULL;
    }
    return true;
}

/* False after diagnostics: the model is wrong, or the mesh does not fit it. */
static bool check_mesh(Verdict *v) {
    v->s = session_new();
    if (v->args->all) diag_capture(v->s, &v->said);
    v->at.v = NO_VALUE;
    v->g = model_elaborate(v->s, &v->args->model);
    if (!v->g) return false;
    vec_push(&v->stage, v->g);
    vec_push(&v->map, (ShardMap){0});
    mesh_print(&v->g->set, &v->mesh);
    if (!v->mesh.n) buf_puts(&v->mesh, "one rank");
    exact(v->s, &v->g->set);
    v->equal = equal_new(v->g, (uint64_t)v->args->seed, v->args->steps);
    return check_passes(v);
}

static void verdict_free(Verdict *v) {
    equal_free(v->equal);
    for (uint32_t i = 0; i < v->stage.n; i++) graph_free(v->stage.p[i]);
    vec_free(&v->stage);
    vec_free(&v->map);
    if (v->before) graph_free(v->before);
    buf_free(&v->mesh);
    buf_free(&v->said);
    buf_free(&v->stuck);
    session_free(v->s);
}

/* ---- what is said ---- */

/* "0.25 instead of 0.5 at [0, 3]", or what else is wrong. */
static void say_distance(const Distance *d, const Type *t, Buf *out) {
    if (d->lost) {
        buf_puts(out, "is not given any more");
    } else if (d->shape) {
        buf_puts(out, "has another shape");
    } else if (d->apart && d->error <= EQUAL_BOUND) {
        buf_puts(out, "is not the same on ranks that must agree");
    } else {
        buf_printf(out, "is %.17g instead of %.17g at ", d->got, d->want);
        distance_place(t, d->at, out);
        buf_printf(out, ", off by %.1e of the largest%s", d->error,
                   d->apart ? ", and not the same on ranks that must agree" : "");
    }
}

static void say_node(const Graph *g, Value v, const Spec *spec, Buf *out) {
    const Node *n = node_of(g, v);
    buf_printf(out, "%s ", op_info((Op)n->op)->name);
    type_print(n->type, out);
    if (spec) buf_puts(out, " "), spec_print(spec, out);
    if (n->scope[0]) buf_printf(out, " of %s", n->scope);
    if (n->phase == PHASE_BACKWARD) buf_puts(out, ", backward");
    if (n->micro >= 0) buf_printf(out, ", micro-batch %d", n->micro);
}

static const Spec *spec_at(const Verdict *v) {
    int64_t s = v->at.stage;
    return node_of(v->stage.p[s], v->map.p[s].to[v->at.v])->spec;
}

/* The difference as an error in the model's text. */
static void say_difference(const Verdict *v) {
    SinkDistance first = equal_first(v->equal);
    Buf text = {0}, sink = {0};
    if (v->stuck.n) {
        diag_error(v->s, (Loc){0}, "mesh %s: after '%s' %s", v->mesh.p, v->pass, v->stuck.p);
        return;
    }
    buf_printf(&sink, "%s '%s' of step %lld ", sink_name(first.kind), first.name,
               (long long)first.step);
    say_distance(&first.distance, first.type, &sink);
    if (v->at.v == NO_VALUE) {
        diag_error(v->s, first.loc, "mesh %s: after '%s' %s", v->mesh.p, v->pass, sink.p);
    } else {
        say_node(v->before, v->at.v, spec_at(v), &text);
        if (v->g->set.stages) buf_printf(&text, " in stage %lld", (long long)v->at.stage);
        buf_puts(&text, " ");
        say_distance(&v->at.distance, v->at.type, &text);
        diag_error(v->s, node_of(v->before, v->at.v)->loc, "mesh %s: after '%s' %s", v->mesh.p,
                   v->pass, text.p);
        diag_note(v->s, first.loc, "the first result that differs: %s", sink.p);
    }
    buf_free(&text);
    buf_free(&sink);
}

static SinkDistance worst_of(const Verdict *v) {
    SinkDistance worst = {0};
    for (int i = 0; i < SINK_COUNT; i++) {
        int64_t n;
        SinkDistance s = equal_worst(v->equal, (Sink)i, &n);
        if (s.name && (!worst.name || s.distance.error > worst.distance.error)) worst = s;
    }
    return worst;
}

static const char *verdict(const Verdict *v) {
    return v->stuck.n ? "stuck" : v->pass ? "differs" : "equal";
}

/* "12 collectives and 8 transfers of 2 stages" */
static void say_order(const Verdict *v, Buf *out) {
    buf_printf(out, "%d collectives", v->order.collectives);
    if (v->g->set.stages)
        buf_printf(out, " and %d transfers of %u stages", v->order.transfers, v->stage.n);
}

static void print_table(const Verdict *v) {
    printf("mesh %s: %lld ranks, %lld steps\n", v->mesh.p, (long long)mesh_ranks(&v->g->set),
           (long long)v->args->steps);
    for (int i = 0; i < SINK_COUNT; i++) {
        int64_t n;
        SinkDistance s = equal_worst(v->equal, (Sink)i, &n);
        if (s.name)
            printf("  %-9s  %5lld compared, off by %7.1e at most: %s, step %lld\n",
                   sink_name((Sink)i), (long long)n, s.distance.error, s.name, (long long)s.step);
    }
    Buf order = {0};
    say_order(v, &order);
    if (v->g->set.sharded && !v->pass)
        printf("  %s, in one order on all ranks; none depends on data\n", order.p);
    buf_free(&order);
    puts(verdict(v));
}

/* The first error that was said, without its place. */
static const char *reason(const Verdict *v, int *n) {
    static const char mark[] = "error: ";
    const char *at = v->said.p ? strstr(v->said.p, mark) : NULL;
    at = at ? at + strlen(mark) : "";
    *n = (int)strcspn(at, "\n");
    return at;
}

static void print_line(const Verdict *v, bool made) {
    int n;
    const char *why = reason(v, &n);
    Buf order = {0};
    say_order(v, &order);
    if (!made)
        printf("%-32s refused  %.*s\n", v->args->model.mesh, n, why);
    else
        printf("%-32s %-8s %7.1e  %s\n", v->mesh.p, verdict(v), worst_of(v).distance.error,
               order.p);
    buf_free(&order);
}

/* ---- as JSON ---- */

/* JSON has no infinity. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static void put_distance(json_t *o, const Distance *d) {
    json_object_set_new(o, "error", number(d->error));
    json_object_set_new(o, "element", json_integer(d->at));
    json_object_set_new(o, "got", number(d->got));
    json_object_set_new(o, "want", number(d->want));
    json_object_set_new(o, "other_shape", json_boolean(d->shape));
    json_object_set_new(o, "ranks_disagree", json_boolean(d->apart));
    if (d->lost) json_object_set_new(o, "lost", json_true());
}

static json_t *sink_json(const SinkDistance *s) {
    json_t *o = json_pack("{s:s, s:s, s:I}", "kind", sink_name(s->kind), "name", s->name, "step",
                          (json_int_t)s->step);
    put_distance(o, &s->distance);
    return o;
}

static json_t *value_json(const Verdict *v) {
    const Node *n = node_of(v->before, v->at.v);
    Buf spec = {0};
    if (spec_at(v)) spec_print(spec_at(v), &spec);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:b}", "op", op_info((Op)n->op)->name, "scope",
                          n->scope, "source", loc_text(v->s, n->loc), "spec", spec.p ? spec.p : "",
                          "backward", n->phase == PHASE_BACKWARD);
    if (v->g->set.stages) json_object_set_new(o, "stage", json_integer(v->at.stage));
    put_distance(o, &v->at.distance);
    buf_free(&spec);
    return o;
}

static void print_json(const Verdict *v, bool made) {
    json_t *o = json_pack("{s:s, s:b}", "mesh",
                          made                  ? v->mesh.p
                          : v->args->model.mesh ? v->args->model.mesh
                                                : "",
                          "equal", made && !v->pass);
    int n;
    const char *why = reason(v, &n);
    json_object_set_new(o, "refused", json_boolean(!made));
    if (n && !made) json_object_set_new(o, "reason", json_stringn(why, (size_t)n));
    if (made) {
        SinkDistance worst = worst_of(v), first = equal_first(v->equal);
        json_object_set_new(o, "ranks", json_integer(mesh_ranks(&v->g->set)));
        json_object_set_new(o, "steps", json_integer(v->args->steps));
        json_object_set_new(o, "stages", json_integer(MAX(v->g->set.stages, 1)));
        json_object_set_new(o, "classes", json_integer(shares_classes(v->g->set.shares)));
        json_object_set_new(o, "collectives", json_integer(v->order.collectives));
        json_object_set_new(o, "transfers", json_integer(v->order.transfers));
        if (v->stuck.n) json_object_set_new(o, "stuck", json_string(v->stuck.p));
        if (worst.name) json_object_set_new(o, "worst", sink_json(&worst));
        if (v->pass) json_object_set_new(o, "pass", json_string(v->pass));
        if (first.name) json_object_set_new(o, "result", sink_json(&first));
        if (v->at.v != NO_VALUE) json_object_set_new(o, "first", value_json(v));
    }
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17));
    putchar('\n');
    json_decref(o);
}

/* ---- the command ---- */

static int check_one(const CheckArgs *args) {
    Verdict v = {.args = args};
    bool made = check_mesh(&v);
    if (made && v.pass) say_difference(&v);
    if (args->json)
        print_json(&v, made);
    else if (made)
        print_table(&v);
    int code = made ? v.pass ? EXIT_INPUT : EXIT_DONE : MAX(diag_exit(v.s), EXIT_INPUT);
    verdict_free(&v);
    return code;
}

/* One mesh of many: a line of its own. What it is refused for is no mistake. */
static bool check_line(const CheckArgs *args, bool *differs) {
    Verdict v = {.args = args};
    bool made = check_mesh(&v);
    if (made && v.pass) say_difference(&v);
    if (args->json)
        print_json(&v, made);
    else
        print_line(&v, made);
    fflush(stdout);
    if (v.pass) fputs(v.said.p, stderr);
    *differs |= v.pass != NULL;
    verdict_free(&v);
    return made;
}

/* A mesh by its axes' sizes; `alias`: experts use the devices of data. */
typedef struct {
    int64_t pipeline, data, tensor, expert;
    bool alias;
} MeshSizes;
typedef VEC(MeshSizes) MeshList;

/* "data=2,expert=data": axes of one rank are left out. */
static const char *mesh_of(const MeshSizes *m, Buf *out) {
    const struct {
        const char *axis;
        int64_t size;
    } axis[] = {{MESH_PIPELINE, m->pipeline},
                {MESH_DATA, m->data},
                {MESH_TENSOR, m->tensor},
                {MESH_EXPERT, m->expert}};
    for (size_t i = 0; i < COUNT(axis); i++)
        if (axis[i].size > 1)
            buf_printf(out, "%s%s=%lld", out->n ? "," : "", axis[i].axis, (long long)axis[i].size);
    if (m->alias) buf_puts(out, ",expert=data");
    return out->n ? out->p : "data=1";
}

/* The meshes of n ranks over data, tensor and expert, the last also over the devices of data, in
 * each stage of a pipeline. */
static void list_meshes(int64_t n, int64_t pipeline, MeshList *out) {
    for (int64_t d = n; d >= 1; d--)
        for (int64_t t = n % d == 0 ? n / d : 0; t >= 1; t--) {
            int64_t e = n / d / t;
            if (d * t * e != n) continue;
            for (int alias = 0; alias <= (e == 1 && d > 1); alias++)
                vec_push(out, ((MeshSizes){pipeline, d, t, e, alias}));
        }
}

static int check_all(const CheckArgs *args) {
    bool differs = false, made = false;
    MeshList meshes = {0};
    for (int64_t p = 1; p <= args->all; p++)
        if (args->all % p == 0) list_meshes(args->all / p, p, &meshes);
    for (uint32_t i = 0; i < meshes.n; i++) {
        Buf mesh = {0};
        CheckArgs one = *args;
        one.model.mesh = mesh_of(&meshes.p[i], &mesh);
        made |= check_line(&one, &differs);
        buf_free(&mesh);
    }
    vec_free(&meshes);
    return differs || !made ? EXIT_INPUT : EXIT_DONE;
}

static Status check_numbers(const CheckArgs *a) {
    if (a->steps < 1) return status_make(EXIT_USAGE, "--steps must be at least 1");
    if (a->all < 0) return status_make(EXIT_USAGE, "--all-meshes wants a number of ranks");
    if (a->all && a->model.mesh)
        return status_make(EXIT_USAGE, "--mesh and --all-meshes exclude each other");
    return NULL;
}

int main_check(int argc, char **argv) {
    CheckArgs a = {.model = {.describe = true}, .steps = 2, .seed = 1};
    const Option options[] = {
        {"mesh", OPT_TEXT, &a.model.mesh, "AXIS=N,…",
         "ranks to divide the work among (the model's)"},
        {"shares", OPT_TEXT, &a.model.shares, "N,N,…", "of the ranks of data in the batch (equal)"},
        {"all-meshes", OPT_INT, &a.all, "N",
         "every mesh of N ranks over pipeline, data, tensor and expert"},
        {"steps", OPT_INT, &a.steps, "K", "training steps compared (2)"},
        {"seed", OPT_INT, &a.seed, "S", "of inputs, start values and dropout (1)"},
        {"set", OPT_LIST, &a.model.set, "NAME=VALUE", "a config of the model (repeatable)"},
        {"infer", OPT_FLAG, &a.model.infer, NULL, "forward only"},
        {"model", OPT_TEXT, &a.model.name, "NAME", "which model of the file"},
        {"all-to-all", OPT_TEXT, &a.model.all_to_all, "HOW",
         "auto, flat, grouped, or first among N neighbours (auto)"},
        {"chunks", OPT_TEXT, &a.model.chunks, "N", "pieces of an all_to_all; 0: as it pays (0)"},
        {"cluster", OPT_TEXT, &a.model.cluster, "FILE", "the machine the plan is for"},
        {"skip", OPT_TEXT, &a.model.pass.skip, "PASS,…", "optional passes to leave out"},
        {"json", OPT_FLAG, &a.json, NULL, "one JSON object a mesh"},
    };
    const OptionTable table = {"check model.m6 [--mesh AXIS=N,… | --all-meshes N]", options,
                               COUNT(options), 1, 1};
    TextList positional = {0};
    bool help;
    Status s = options_parse(&table, argc, argv, &positional, &help);
    if (!s && !help) s = check_numbers(&a);
    int code = EXIT_DONE;
    if (s || help) {
        code = status_exit(s);
    } else {
        a.model.path = positional.p[0];
        code = a.all ? check_all(&a) : check_one(&a);
    }
    vec_free(&positional);
    vec_free(&a.model.set);
    return code;
}
