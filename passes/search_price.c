/* search_price.c: time and memory of one candidate.
 *
 * A step is what its slowest stage does for all micro-batches, and what the others add while the
 * pipeline fills and empties:
 *     sum over stages (f + b) + (micro-batches - 1) max (f + b) + sends + max (update + gradients)
 * f and b are kernels, one after the other, with the messages that kernels wait for between them.
 * Gradients travel beside the last backward part: what does not fit beside it shows; so do updated
 * parameters beside the update. Copies to and from the host go beside all kernels.
 *
 * A rank's bytes are the largest, over the layers of its stage, of what lies there while the layer
 * runs forward, backward, or is updated: parameters, states, gradients; what this and earlier
 * layers keep, of as many micro-batches as are under way; and what only the layer needs. */
#include "passes/search.h"

#include "passes/pipeline.h"

#include <math.h>
#include <string.h>

const char *search_part_name(SearchPart p) {
    static const char *const names[] = {"compute",   "recompute", "all-to-all", "tensor", "gather",
                                        "gradients", "update",    "bubble",     "offload"};
    _Static_assert(COUNT(names) == PART_COUNT, "names");
    return names[p];
}

/* What travels in few messages (collectives_messages.c): sums of gradients, whole or in parts, and
 * parameters of which ranks updated parts. */
enum { FEW_SUMS, FEW_PARTS, FEW_UPDATES, FEW_COUNT };
static const Collective few_kind[FEW_COUNT] = {COLLECTIVE_ALL_REDUCE, COLLECTIVE_REDUCE_SCATTER,
                                               COLLECTIVE_ALL_GATHER};

/* Bytes of these and how many tensors, by the axes of their ranks. */
typedef struct {
    double bytes[1 << AXIS_COUNT];
    uint32_t n[1 << AXIS_COUNT];
} Few;

/* Of one layer of a class, one micro-batch. */
typedef struct {
    double kernels[PHASE_COUNT];
    double wait[PHASE_COUNT][PART_COUNT]; /* messages, by what they are for */
    double once[PART_COUNT];              /* what all micro-batches share */
    double param, state, largest, kept, passed, grad, held, working[PHASE_COUNT];
    Few few[FEW_COUNT];
    double forward, backward; /* µs with messages */
} LayerCost;

struct SearchBase {
    const SearchModel *m;
    const SearchPlace *place;
    SearchMesh mesh;
    LayerCost *cost; /* by class */
    uint32_t *first; /* layers of stage s: first[s] … first[s + 1] - 1 */
    double input;
    double send; /* µs of all transfers between stages, there and back */
};

/* ---- what layers cost ---- */

static int64_t scaled(int64_t x, double factor) {
    return (int64_t)MAX((double)x * factor + 0.5, 1);
}

static double unit_us(const Machine *machine, const SearchUnit *u, const double *factor) {
    Work w = u->work;
    w.flops *= factor[u->flops];
    w.bytes = amount_at(&u->traffic, factor);
    w.m = scaled(w.m, factor[u->m]), w.n = scaled(w.n, factor[u->n]);
    w.k = scaled(w.k, factor[u->k]), w.batch = scaled(w.batch, factor[u->batch]);
    return u->count * cost_us(machine, &w);
}

static SearchPart part_of(const SearchComm *c) {
    if (c->phase == PHASE_APPLY) return PART_UPDATE;
    if (c->kind == COLLECTIVE_ALL_TO_ALL) return PART_EXCHANGE;
    return c->over == 1u << AXIS_TENSOR ? PART_TENSOR : PART_GATHER;
}

/* What does not depend on the batch is done once for all micro-batches: casts of parameters, and
 * what is sent to put them together. */
static bool is_shared(const SearchBase *b, const Amount *traffic, Power p, Phase phase) {
    bool shared = phase != PHASE_APPLY && b->mesh.size[AXIS_MICRO] > 1;
    for (int i = 0; traffic && i < traffic->n; i++)
        shared &= power_of(traffic->power[i], AXIS_MICRO) == 0;
    return shared && power_of(p, AXIS_MICRO) == 0;
}

static void add_kernel(const SearchBase *b, const SearchUnit *u, const double *factor,
                       LayerCost *to) {
    double us = unit_us(b->place->machine, u, factor);
    if (is_shared(b, &u->traffic, u->flops, u->phase))
        to->once[PART_COMPUTE] += us;
    else
        to->kernels[u->phase] += us;
}

/* FEW_COUNT: it is sent alone. */
static int few_of(const SearchComm *c) {
    int k = 0;
    while (k < FEW_COUNT && few_kind[k] != c->kind) k++;
    bool together = k == FEW_UPDATES ? c->phase == PHASE_APPLY : c->gradient;
    return together ? k : FEW_COUNT;
}

static void add_message(const SearchBase *b, const SearchComm *c, const double *factor,
                        LayerCost *to) {
    double bytes = c->bytes * factor[c->power];
    int few = few_of(c);
    if (few < FEW_COUNT) {
        to->few[few].bytes[c->over] += c->count * bytes;
        to->few[few].n[c->over] += c->count;
        return;
    }
    double us = c->count * search_comm_us(b->place->prices, &b->mesh, c->over, c->kind, bytes);
    if (is_shared(b, NULL, c->power, c->phase))
        to->once[part_of(c)] += us;
    else
        to->wait[c->phase][part_of(c)] += us;
}

static void price_class(const SearchBase *b, const SearchClass *c, const double *factor,
                        LayerCost *to) {
    const SearchModel *m = b->m;
    for (uint32_t i = c->unit; i < c->unit + c->nunit; i++)
        add_kernel(b, &m->unit.p[i], factor, to);
    for (uint32_t i = c->comm; i < c->comm + c->ncomm; i++)
        add_message(b, &m->comm.p[i], factor, to);
    to->forward = to->kernels[PHASE_FORWARD];
    to->backward = to->kernels[PHASE_BACKWARD];
    for (int p = 0; p < PART_COUNT; p++) {
        to->forward += to->wait[PHASE_FORWARD][p];
        to->backward += to->wait[PHASE_BACKWARD][p];
    }
    to->param = amount_at(&c->param, factor), to->state = amount_at(&c->state, factor);
    to->largest = amount_at(&c->largest, factor);
    to->kept = amount_at(&c->kept, factor), to->passed = amount_at(&c->passed, factor);
    to->grad = amount_at(&c->grad, factor), to->held = amount_at(&c->held, factor);
    for (int p = 0; p < PHASE_COUNT; p++) to->working[p] = amount_at(&c->working[p], factor);
}

/* ---- the mesh ---- */

static int64_t mesh_product(const SearchMesh *mesh, unsigned axes) {
    int64_t n = 1;
    for (int a = 0; a < AXIS_COUNT; a++) n *= axes >> a & 1 ? mesh->size[a] : 1;
    return n;
}

static bool must_divide(const SearchMesh *mesh, unsigned axes, int64_t of, SearchResult *why) {
    if (!of || of % mesh_product(mesh, axes) == 0) return true;
    why->lost = LOST_DIVIDE, why->axes = axes, why->excess = of;
    return false;
}

/* A mesh on which the shapes of the probe make sense. */
static bool divides(const SearchModel *m, const SearchMesh *mesh, SearchResult *why) {
    enum { REPLICAS = 1 << AXIS_DATA | 1 << AXIS_EXPERT, MICROS = 1 << AXIS_MICRO };
    if (!must_divide(mesh, REPLICAS | MICROS, m->batch, why)) return false;
    for (unsigned axes = 1; axes < MICROS; axes++)
        if (!must_divide(mesh, axes, m->divisor[axes], why)) return false;
    return true;
}

static double layer_us(const LayerCost *c) { return c->forward + c->backward; }

/* Layers to stages so that the slowest is the fastest. */
static bool cut_stages(SearchBase *b, SearchResult *why, Arena *a) {
    uint32_t n = b->m->nlayer, stages = (uint32_t)b->mesh.pipeline;
    b->first = arena_array(a, uint32_t, stages + 1);
    b->first[stages] = n;
    if (stages == 1) return true;
    ChainLayer *layer = arena_array(a, ChainLayer, n);
    ChainStage *stage = arena_array(a, ChainStage, stages);
    for (uint32_t i = 0; i < n; i++) layer[i].us = layer_us(&b->cost[b->m->class[i]]);
    for (uint32_t s = 0; s < stages; s++) stage[s].speed = 1;
    Buf err = {0};
    double us;
    bool ok = partition_chain(n, layer, stages, stage, b->first, &us, &err);
    buf_free(&err);
    if (!ok) why->lost = LOST_STAGES, why->excess = n;
    return ok;
}

static void price_sends(SearchBase *b) {
    for (int64_t s = 0; s + 1 < b->mesh.pipeline; s++) {
        double cut = b->cost[b->m->class[b->first[s + 1] - 1]].passed;
        b->send += 2 * search_comm_us(b->place->prices, &b->mesh, 0, COLLECTIVE_SEND, cut);
    }
}

SearchBase *search_base(const SearchModel *m, const SearchPlace *p, const SearchMesh *mesh,
                        SearchResult *why, Arena *a) {
    double factor[POWERS];
    if (!divides(m, mesh, why)) return NULL;
    SearchBase *b = arena_new_of(a, SearchBase);
    *b = (SearchBase){.m = m, .place = p, .mesh = *mesh};
    b->cost = arena_array(a, LayerCost, m->kind.n);
    power_factors(m->size, mesh->size, factor);
    for (uint32_t i = 0; i < m->kind.n; i++) price_class(b, &m->kind.p[i], factor, &b->cost[i]);
    b->input = amount_at(&m->input, factor);
    if (!cut_stages(b, why, a)) return NULL;
    price_sends(b);
    return b;
}

/* ---- memory of a stage ---- */

typedef struct {
    uint32_t from, to; /* layers */
    uint32_t again;    /* the first of them, computed again */
    double flight;     /* micro-batches under way */
} Stage;

static const LayerCost *cost_of(const SearchBase *b, uint32_t layer) {
    return &b->cost[b->m->class[layer]];
}

/* What the layer keeps of a micro-batch, and what its backward part computes again. */
static double layer_kept(const SearchBase *b, const Stage *s, uint32_t i) {
    const LayerCost *c = cost_of(b, i);
    return i < s->from + s->again ? c->passed : c->kept;
}

static double stage_bytes(const SearchBase *b, const Stage *s) {
    bool micros = b->mesh.size[AXIS_MICRO] > 1;
    double fixed = b->input, all = 0, grads = 0, most = 0;
    for (uint32_t i = s->from; i < s->to; i++) {
        const LayerCost *c = cost_of(b, i);
        fixed += c->param + c->state;
        all += layer_kept(b, s, i);
        grads += micros ? c->grad : c->held;
    }
    double kept = (s->flight - 1) * all, after = 0; /* gradients of layers behind */
    for (uint32_t i = s->from; i < s->to; i++) {
        const LayerCost *c = cost_of(b, i);
        kept += layer_kept(b, s, i);
        most = MAX(most, kept + c->working[PHASE_FORWARD] + (micros ? grads : 0));
    }
    for (uint32_t i = s->to; i-- > s->from;) {
        const LayerCost *c = cost_of(b, i);
        after += c->held;
        double again = c->kept - layer_kept(b, s, i);
        most = MAX(most, kept + again + (micros ? grads : after) + c->working[PHASE_BACKWARD]);
        most = MAX(most, grads + c->working[PHASE_APPLY]);
        kept -= layer_kept(b, s, i);
    }
    return fixed + most;
}

/* The fewest layers computed again with which the stage fits; all, if that is not enough. */
static void choose_again(const SearchBase *b, Stage *s, SearchKeep keep) {
    uint32_t n = s->to - s->from;
    s->again = keep == KEEP_NONE ? n : 0;
    while (keep == KEEP_SOME && s->again < n && stage_bytes(b, s) > (double)b->place->memory)
        s->again++;
}

/* ---- what does not fit ---- */

static double copy_us(const Machine *m, Mem from, Mem to, double bytes) {
    Work w = {.what = "copy", .copy = true, .from = from, .to = to, .bytes = bytes};
    return bytes > 0 ? cost_us(m, &w) : 0;
}

typedef struct {
    double device, host; /* bytes */
    double us;           /* of copies, beside the kernels */
} Moved;

/* States first, which one update reads and writes; then parameters, which every micro-batch
 * fetches twice; then activations, out and back. */
static Moved move_excess(const SearchBase *b, const Stage *s, double bytes) {
    double state = 0, param = 0, kept = 0, largest = 0, in = 0, out = 0;
    double micros = (double)b->mesh.size[AXIS_MICRO];
    for (uint32_t i = s->from; i < s->to; i++) {
        const LayerCost *c = cost_of(b, i);
        state += c->state, param += c->param;
        kept += s->flight * layer_kept(b, s, i);
        largest = MAX(largest, c->largest);
    }
    double excess = bytes - (double)b->place->memory;
    if (b->place->memory == 0 || excess <= 0) return (Moved){bytes, 0, 0};
    excess += largest; /* room for what is fetched */
    double x = MIN(excess, state), y = MIN(excess - x, param), z = MIN(excess - x - y, kept);
    in = x + (2 * micros + 1) * y + z * micros / s->flight;
    out = x + y + z * micros / s->flight;
    Moved m = {.device = bytes + largest - x - y - z, .host = x + y + z};
    m.us = MAX(copy_us(b->place->machine, MEM_HOST, MEM_DEVICE, in),
               copy_us(b->place->machine, MEM_DEVICE, MEM_HOST, out));
    return m;
}

/* ---- time ---- */

/* Of `n` messages, ready one after the other during `us`, what comes after it. */
static double exposed(double all, double n, double us) {
    return n > 0 ? MAX(all / n, all - us * (1 - 1 / n)) : 0;
}

/* All of a kind: µs, and how many messages the axes with most of them have. */
static double few_us(const SearchBase *b, const Stage *s, int kind, double *n) {
    double all = 0;
    for (unsigned over = 0; over < 1u << AXIS_MICRO; over++) {
        double bytes = 0, count = 0;
        for (uint32_t i = s->from; i < s->to; i++) {
            bytes += cost_of(b, i)->few[kind].bytes[over];
            count += cost_of(b, i)->few[kind].n[over];
        }
        count = MIN(count, (double)b->place->splits);
        if (count == 0) continue;
        all +=
            count * search_comm_us(b->place->prices, &b->mesh, over, few_kind[kind], bytes / count);
        *n = MAX(*n, count);
    }
    return all;
}

static double gradients_us(const SearchBase *b, const Stage *s, double backward) {
    double n = 0, sums = few_us(b, s, FEW_SUMS, &n), parts = few_us(b, s, FEW_PARTS, &n);
    return exposed(sums + parts, n, backward);
}

static double updates_us(const SearchBase *b, const Stage *s, double kernels) {
    double n = 0, all = few_us(b, s, FEW_UPDATES, &n);
    return exposed(all, n, kernels);
}

typedef struct {
    double micro; /* µs of a micro-batch */
    double end;   /* after the last one */
    double part[PART_COUNT];
} StageTime;

static StageTime time_stage(const SearchBase *b, const Stage *s) {
    double micros = (double)b->mesh.size[AXIS_MICRO], backward = 0, update = 0;
    StageTime t = {0};
    for (uint32_t i = s->from; i < s->to; i++) {
        const LayerCost *c = cost_of(b, i);
        double again = i < s->from + s->again ? c->kernels[PHASE_FORWARD] : 0;
        t.part[PART_COMPUTE] += micros * (c->kernels[PHASE_FORWARD] + c->kernels[PHASE_BACKWARD]);
        t.part[PART_RECOMPUTE] += micros * again;
        for (int p = PART_EXCHANGE; p <= PART_GATHER; p++)
            t.part[p] += micros * (c->wait[PHASE_FORWARD][p] + c->wait[PHASE_BACKWARD][p]);
        t.part[PART_UPDATE] += c->wait[PHASE_APPLY][PART_UPDATE];
        update += c->kernels[PHASE_APPLY];
        for (int p = 0; p < PART_COUNT; p++) t.part[p] += c->once[p], t.end += c->once[p];
        t.micro += layer_us(c) + again;
        backward += c->backward + again;
    }
    t.part[PART_UPDATE] += update + updates_us(b, s, update);
    t.part[PART_GRADIENT] = gradients_us(b, s, backward);
    t.end += t.part[PART_UPDATE] + t.part[PART_GRADIENT];
    return t;
}

/* ---- the candidate ---- */

static bool too_much(SearchResult *out, SearchLost lost, double bytes, int64_t has) {
    if (!has || bytes < (double)has + 1) return false; /* what is moved is a fraction */
    int64_t excess = (int64_t)(bytes - (double)has);
    if (out->lost == LOST_NOT || excess > out->excess) out->excess = excess;
    out->lost = lost;
    return true;
}

void search_price(const SearchBase *b, const SearchChoice *choice, SearchResult *out) {
    uint32_t stages = (uint32_t)b->mesh.pipeline, micros = (uint32_t)b->mesh.size[AXIS_MICRO];
    double sum = 0, slowest = 0, end = 0, copies = 0;
    *out = (SearchResult){.choice = *choice};
    for (uint32_t k = 0; k < stages; k++) {
        Stage s = {.from = b->first[k], .to = b->first[k + 1]};
        s.flight = pipeline_in_flight(PIPELINE_PREFER_BACKWARD, stages, k, micros);
        choose_again(b, &s, choice->keep);
        Moved m = {.device = stage_bytes(b, &s)};
        if (choice->offload) m = move_excess(b, &s, m.device);
        StageTime t = time_stage(b, &s);
        out->device = MAX(out->device, m.device), out->host = MAX(out->host, m.host);
        too_much(out, LOST_DEVICE, m.device, b->place->memory);
        too_much(out, LOST_HOST, m.host, b->place->host_memory);
        sum += t.micro, end = MAX(end, t.end), copies = MAX(copies, m.us);
        out->again += s.again;
        if (t.micro < slowest) continue;
        slowest = t.micro;
        memcpy(out->part, t.part, sizeof out->part);
    }
    out->us = sum + (micros - 1) * slowest + b->send + end;
    out->part[PART_BUBBLE] = sum - slowest + b->send;
    out->part[PART_OFFLOAD] = MAX(copies - out->us, 0);
    out->us += out->part[PART_OFFLOAD];
}
