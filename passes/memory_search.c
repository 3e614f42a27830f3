/* memory_search.c: choices for a target of device memory.
 *
 * Greedy: at the moment when most bytes are alive, the options that cover it are taken by rising
 * price per byte until the excess is gone, and the next peak is looked at. A recomputation costs
 * the compute of all units that must run again for it; a copy costs little as long as its lane has
 * time left beside the compute stream, and all of its time after that. So recomputation and
 * offload are weighed against each other, and no target sees more than it needs.
 *
 * Walked from high targets to low ones, the choices of one target are the start of the next: the
 * plans of all targets are one family, whatever the budget, from which the best that fits is taken.
 * A larger budget can only choose from more: time never rises with memory. */
#include "passes/memory_private.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ROUNDS = 400, MOST_CHAIN = 256 };
static const double HIDDEN =
    0.03; /* what a hidden copy costs of its time: it may not stay hidden */

/* ---- prices ---- */

typedef struct {
    const Problem *p;
    const Program *g;
    const uint32_t *choice;
    SearchHow how;
    uint32_t *seen; /* by unit: stamp of the last chain */
    bool *again;    /* by unit: runs again already */
    uint32_t stamp, chain;
    double rate[STREAM_COUNT]; /* price of a microsecond on each stream */
} Search;

/* Is x, an operand of something that runs again at `time`, not there? */
static bool is_gone(const Search *s, Value x, uint32_t time) {
    const Problem *p = s->p;
    if (is_store(node_of(p->g, x))) return false;
    for (uint32_t i = s->p->gap_of[x]; i != NONE && p->subject.p[i].v == x; i++) {
        const Subject *gap = &p->subject.p[i];
        if (gap->from < time && time <= gap->to && s->choice[i] != NONE &&
            p->option.p[s->choice[i]].how == HOW_RECOMPUTE)
            return true;
        if (i + 1 == p->subject.n) break;
    }
    if (time <= p->last[x] || p->anchor[x]) return false;
    return p->layer[p->at[p->last[x]]] != NONE;
}

/* Compute of what must run again for x at `time`. */
static double chain_price(Search *s, Value x, uint32_t time) {
    const Problem *p = s->p;
    uint32_t u = p->us.of[x];
    if (s->seen[u] == s->stamp || s->again[u] || ++s->chain > MOST_CHAIN) return 0;
    s->seen[u] = s->stamp;
    double us = p->price[u];
    for (uint32_t i = 0; i < p->us.unit[u].nread; i++)
        if (is_gone(s, p->us.unit[u].read[i], time))
            us += chain_price(s, p->us.unit[u].read[i], time);
    return us;
}

static double option_price(Search *s, const Option *o) {
    const Subject *subject = &s->p->subject.p[o->subject];
    double price = 0;
    if (o->how == HOW_RECOMPUTE) {
        s->stamp++, s->chain = 0;
        return chain_price(s, subject->v, subject->to);
    }
    for (int k = 0; k < STREAM_COUNT; k++) price += s->rate[k] * o->us[k];
    return price;
}

/* A lane whose work the compute stream hides costs what it takes from that stream. */
static void set_rates(Search *s) {
    double compute = s->g->us[STREAM_COMPUTE];
    for (int k = 0; k < STREAM_COUNT; k++) {
        double full = compute > 0 ? s->g->us[k] / compute : 1;
        double hidden = MAX(HIDDEN + 0.1 * full * full, s->p->share);
        s->rate[k] = s->how.weight * (full < 0.9 ? hidden : 1);
    }
    s->rate[STREAM_COMPUTE] = 1;
}

/* ---- savings ---- */

static int64_t saved_at(const Problem *p, uint32_t option, uint32_t time) {
    int64_t bytes = 0;
    if (option == NONE) return 0;
    const Option *o = &p->option.p[option];
    for (uint32_t i = 0; i < o->nspan; i++) {
        const Span *span = &p->span.p[o->span + i];
        if (span->from < time && time < span->to) bytes += span->bytes;
    }
    return bytes;
}

typedef struct {
    double ratio;
    uint32_t subject, option;
    int64_t bytes;
} Offer;

static int by_ratio(const void *a, const void *b) {
    const Offer *x = a, *y = b;
    if (x->ratio != y->ratio) return x->ratio < y->ratio ? -1 : 1;
    return (x->option > y->option) - (x->option < y->option);
}

/* Room in host memory and on the disk, as far as can be told without placing: a little is left for
 * what lies there longer while it is on its way, by the searches with dear copies a lot. */
static bool has_room(const Search *s, const Option *o, const Option *was, const int64_t *taken) {
    for (int m = MEM_HOST; m < MEM_COUNT; m++) {
        int64_t more = o->away[m] - (was ? was->away[m] : 0);
        int64_t room = s->p->budget[m] - s->p->budget[m] / (s->how.weight > 1 ? 2 : 16);
        if (more > 0 && s->g->peak[m] + taken[m] + more > room) return false;
    }
    return true;
}

static bool is_plain(const Option *o) { return o->gap == LEAST_GAP || o->gap == NONE; }

/* The best option of a subject at this time, against the one it has. */
static bool best_offer(Search *s, uint32_t subject, uint32_t time, const int64_t *taken,
                       Offer *out) {
    const Problem *p = s->p;
    const Subject *x = &p->subject.p[subject];
    uint32_t now = s->choice[subject];
    const Option *was = now == NONE ? NULL : &p->option.p[now];
    int64_t have = saved_at(p, now, time);
    double paid = was ? option_price(s, was) : 0;
    *out = (Offer){.subject = subject, .option = NONE};
    for (uint32_t o = x->option; !x->hinted && o < x->option + x->noption; o++) {
        int64_t more = saved_at(p, o, time) - have;
        if (s->how.plain && !is_plain(&p->option.p[o])) continue;
        if (o == now || more <= 0 || !has_room(s, &p->option.p[o], was, taken)) continue;
        double ratio = MAX(option_price(s, &p->option.p[o]) - paid, 0) / (double)more;
        if (out->option != NONE && ratio >= out->ratio) continue;
        out->ratio = ratio, out->option = o, out->bytes = more;
    }
    return out->option != NONE;
}

/* ---- rounds ---- */

static uint32_t peak_time(const Problem *p, const Program *g) {
    return g->peak_run < g->run.n ? g->run.p[g->peak_run].time : p->end;
}

static void mark_again(Search *s) {
    memset(s->again, 0, s->p->us.n * sizeof *s->again);
    for (uint32_t i = 0; i < s->g->run.n; i++)
        if (s->g->run.p[i].kind == RUN_AGAIN) s->again[s->g->run.p[i].unit] = true;
}

/* Takes options until the peak is down to the target, as far as can be told. False: there are none.
 */
static bool round_of(Search *s, Choice choice, int64_t target, Offer *offer) {
    const Problem *p = s->p;
    uint32_t n = 0, time = peak_time(p, s->g);
    int64_t excess = s->g->peak[MEM_DEVICE] - target, taken[MEM_COUNT] = {0};
    set_rates(s);
    mark_again(s);
    for (uint32_t i = 0; i < p->subject.n; i++)
        if (best_offer(s, i, time, taken, &offer[n])) n++;
    if (n == 0) return false;
    qsort(offer, n, sizeof *offer, by_ratio);
    int64_t share = MAX(excess / 2, 1); /* prices move as options are taken */
    for (uint32_t i = 0; i < n && share > 0; i++) {
        const Option *o = &p->option.p[offer[i].option];
        uint32_t now = choice[offer[i].subject];
        const Option *was = now == NONE ? NULL : &p->option.p[now];
        if (!has_room(s, o, was, taken)) continue;
        for (int m = 0; m < MEM_COUNT; m++) taken[m] += o->away[m] - (was ? was->away[m] : 0);
        choice[offer[i].subject] = offer[i].option;
        share -= offer[i].bytes;
    }
    return true;
}

bool search_greedy(const Problem *p, int64_t target, SearchHow how, Choice choice, Program *g) {
    Search s = {.p = p, .choice = choice, .how = how, .g = g};
    s.seen = xcalloc((size_t)p->us.n + 1, sizeof *s.seen);
    s.again = xcalloc((size_t)p->us.n + 1, sizeof *s.again);
    Offer *offer = xcalloc((size_t)p->subject.n + 1, sizeof *offer);
    bool reached = false;
    for (int round = 0;; round++) {
        reached = g->peak[MEM_DEVICE] <= target;
        if (reached || round == MOST_ROUNDS || !round_of(&s, choice, target, offer)) break;
        program_free(g);
        program_make(p, choice, g);
    }
    free(offer);
    free(s.seen);
    free(s.again);
    return reached;
}

/* ---- what is asked for, and what people set by hand ---- */

void search_forced(const Problem *p, Choice choice) {
    for (uint32_t i = 0; i < p->subject.n; i++) choice[i] = p->subject.p[i].forced;
}

typedef struct {
    bool begins, large; /* searches begin with it too; of large graphs too */
    bool layers, root;  /* every layer computed again; only every root-N-th input kept */
    bool states, params, activations; /* offloaded */
    bool host;                        /* the host updates */
} Policy;

static const Policy policies[] = {
    {0},
    {.begins = true, .large = true, .layers = true},
    {.layers = true, .root = true},
    {.states = true},
    {.states = true, .layers = true},
    {.begins = true, .params = true},
    {.params = true, .layers = true},
    {.begins = true, .params = true, .host = true},
    {.params = true, .host = true, .layers = true},
    {.params = true, .host = true, .activations = true},
    {.params = true, .activations = true},
    {.states = true, .activations = true},
};

static uint32_t option_of(const Problem *p, const Subject *s, MemoryHow how, bool states_only) {
    for (uint32_t o = s->option; o < s->option + s->noption; o++)
        if (p->option.p[o].how == how && p->option.p[o].states_only == states_only &&
            p->option.p[o].gap == LEAST_GAP)
            return o;
    return NONE;
}

static uint32_t policy_gap(const Problem *p, const Subject *s, const Policy *y, uint32_t every) {
    bool forward = node_of(p->g, s->v)->phase == PHASE_FORWARD;
    uint32_t layer = p->layer[p->us.of[s->v]];
    bool inner = !p->anchor[s->v] || (y->root && layer % every != 0);
    if (y->layers && forward && inner) return option_of(p, s, HOW_RECOMPUTE, false);
    if (y->activations && forward) return option_of(p, s, HOW_MOVE_HOST, false);
    return NONE;
}

static uint32_t policy_param(const Problem *p, const Subject *s, const Policy *y) {
    uint32_t o = NONE;
    if (y->params && y->host) o = option_of(p, s, HOW_UPDATE_HOST, false);
    if (y->params && o == NONE) o = option_of(p, s, HOW_LIVE_HOST, false);
    if (y->states && o == NONE) o = option_of(p, s, HOW_LIVE_HOST, true);
    return o;
}

/* Every how many layers a layer's result is kept when only their root is. */
static uint32_t root_of_layers(const Problem *p) {
    uint32_t layers = 1, every = 1;
    for (uint32_t u = 0; u < p->us.n; u++)
        if (p->layer[u] != NONE) layers = MAX(layers, p->layer[u]);
    while (every * every < layers) every++;
    return every;
}

static uint32_t policy_option(const Problem *p, const Subject *s, const Policy *y, uint32_t every) {
    return s->v == NO_VALUE ? policy_param(p, s, y) : policy_gap(p, s, y, every);
}

bool search_policy(const Problem *p, int i, Choice choice) {
    if (i >= (int)COUNT(policies)) return false;
    uint32_t every = root_of_layers(p);
    search_forced(p, choice);
    for (uint32_t k = 0; k < p->subject.n; k++)
        if (!p->subject.p[k].hinted)
            choice[k] = policy_option(p, &p->subject.p[k], &policies[i], every);
    return true;
}

bool search_begins(int i, bool large) {
    return policies[i].begins && (policies[i].large || !large);
}

bool search_just_in_time(const Problem *p) { return strcmp(p->g->set.offload, "epl") == 0; }

void search_settings(Problem *p) {
    const char *again = p->g->set.checkpoint, *away = p->g->set.offload;
    bool root = strcmp(again, "sqrt") == 0,
         all = strcmp(away, "all") == 0 || search_just_in_time(p);
    const Policy y = {.layers = root || strcmp(again, "all") == 0,
                      .root = root,
                      .params = all,
                      .host = all,
                      .states = strcmp(away, "optimizer") == 0};
    uint32_t every = root_of_layers(p);
    for (uint32_t k = 0; k < p->subject.n; k++) {
        Subject *s = &p->subject.p[k];
        uint32_t o = s->hinted ? NONE : policy_option(p, s, &y, every);
        if (o != NONE) s->hinted = true, s->forced = o;
    }
}
