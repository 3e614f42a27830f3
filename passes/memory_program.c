/* memory_program.c: choices become a program: the units in their order, units run again, copies.
 *
 * The order of the graph is walked once. Each value has at most one version on the device and one
 * away from it. Where a unit reads what is not on the device, it is fetched if it lies elsewhere,
 * and else computed again: the unit that made it runs again, for which its operands are made
 * available likewise. What nobody would read any more is not kept for that purpose, except what one
 * layer hands to the next (anchors): so a layer's inside is computed again from its input. */
#include "passes/memory_private.h"

#include <stdlib.h>
#include <string.h>

/* A unit that the host's cores will run once its operands have arrived. */
typedef struct {
    uint32_t unit, time, first_move, moves;
    double when;
} Pending;

typedef struct {
    const Problem *p;
    const uint32_t *choice;
    Program *g;
    uint32_t *device, *away; /* by value: the version there, or NONE */
    double clock, lane;      /* of the compute stream; of copies to the host */
    VEC(Pending) pending;    /* first in, first out */
    uint32_t npending;       /* of these, how many have run */
} Gen;

static const Option *chosen(const Gen *gen, uint32_t subject) {
    uint32_t o = subject == NONE ? NONE : gen->choice[subject];
    return o == NONE ? NULL : &gen->p->option.p[o];
}

static uint32_t add_version(Gen *gen, Value v, Mem mem, bool again) {
    uint32_t now = gen->g->run.n;
    vec_push(&gen->g->version, ((Version){v, mem, now, now, again, false, PLACE_OWN}));
    return gen->g->version.n - 1;
}

static void use_version(Gen *gen, uint32_t version) {
    Version *x = &gen->g->version.p[version];
    x->death = MAX(x->death, gen->g->run.n);
}

/* ---- copies ---- */

static void add_move(Gen *gen, uint32_t from, uint32_t to) {
    Program *g = gen->g;
    Mem a = g->version.p[from].mem, b = g->version.p[to].mem;
    Work w = {.what = "copy_start",
              .copy = true,
              .from = a,
              .to = b,
              .bytes = (double)type_bytes(type_of(gen->p->g, g->version.p[from].v))};
    Move m = {.from = from,
              .to = to,
              .start = g->run.n,
              .done = g->run.n,
              .most = NONE,
              .us = cost_us(gen->p->machine, &w),
              .stream = stream_of_copy(a, b)};
    vec_push(&g->move, m);
    Version *source = &g->version.p[from];
    if (g->run.n) source->death = MAX(source->death, g->run.n - 1);
    if (m.stream == STREAM_OUT) gen->lane = MAX(gen->lane, gen->clock) + m.us;
}

/* The device's version of v goes to `mem`, from the next run on. */
static void send_away(Gen *gen, Value v, Mem mem) {
    uint32_t from = gen->device[v];
    gen->away[v] = add_version(gen, v, mem, true);
    add_move(gen, from, gen->away[v]);
}

static void fetch(Gen *gen, Value v) {
    gen->device[v] = add_version(gen, v, MEM_DEVICE, true);
    use_version(gen, gen->away[v]);
    add_move(gen, gen->away[v], gen->device[v]);
}

/* ---- runs ---- */

static void add_run(Gen *gen, RunKind kind, uint32_t u, uint32_t time) {
    const Unit *unit = &gen->p->us.unit[u];
    Program *g = gen->g;
    Run r = {kind, u, time, g->link.n, g->link.n + unit->nread};
    uint32_t *at = kind == RUN_HOST ? gen->away : gen->device;
    for (uint32_t i = 0; i < unit->nread; i++) {
        vec_push(&g->link, at[unit->read[i]]);
        use_version(gen, at[unit->read[i]]);
    }
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        Value w = unit->write[i];
        uint32_t x =
            add_version(gen, w, kind == RUN_HOST ? MEM_HOST : MEM_DEVICE, kind == RUN_AGAIN);
        vec_push(&g->link, x);
        if (kind == RUN_HOST)
            gen->away[w] = x, gen->device[w] = NONE;
        else if (kind == RUN_UNIT || gen->device[w] == NONE)
            gen->device[w] = x;
    }
    vec_push(&g->run, r);
    if (kind != RUN_HOST && gen->p->stream[u] == STREAM_COMPUTE) gen->clock += gen->p->price[u];
}

static void need(Gen *gen, Value x, uint32_t time);
static void run_pending(Gen *gen, bool all);

/* Does the host run unit u: is one of its results a new value of what the host updates? */
static bool on_host(const Gen *gen, uint32_t u) {
    const Option *o = chosen(gen, gen->p->updates[u]);
    return o && o->how == HOW_UPDATE_HOST;
}

/* Where the old value of a leaf would have to stay beside its new one for something that runs again
 * at `time`; MEM_DEVICE: nowhere but there. */
static Mem kept_beside(const Gen *gen, Value x, uint32_t time) {
    uint32_t leaf = gen->p->leaf_of[x];
    if (leaf == NONE || gen->g->at_home[x]) return MEM_DEVICE;
    uint32_t updated = gen->p->leaf.p[leaf].updated;
    return updated && time > updated ? gen->g->version.p[gen->g->home[x]].mem : MEM_DEVICE;
}

static void run_again(Gen *gen, uint32_t u, uint32_t time) {
    const Unit *unit = &gen->p->us.unit[u];
    for (uint32_t i = 0; i < unit->nread; i++) {
        Mem beside = kept_beside(gen, unit->read[i], time);
        gen->g->broken |= beside == MEM_DISK;
        gen->g->late |= beside == MEM_HOST;
        need(gen, unit->read[i], time);
    }
    add_run(gen, RUN_AGAIN, u, time);
}

/* Was x needed in the forward phase only? Then its bytes were given up there. */
static bool is_past(const Gen *gen, Value x, uint32_t time) {
    return time > gen->p->past[x] && !gen->g->version.p[gen->device[x]].again;
}

/* Makes x available on the device before the next run. Layers are not deep: each recursion goes to
 * an operand of a unit, and stops at what is there. */
static void need(Gen *gen, Value x, uint32_t time) {
    if (gen->device[x] != NONE && is_past(gen, x, time)) gen->device[x] = NONE;
    if (gen->device[x] != NONE) return;
    if (gen->away[x] == NONE && on_host(gen, gen->p->us.of[x])) run_pending(gen, true);
    if (gen->away[x] != NONE)
        fetch(gen, x);
    else
        run_again(gen, gen->p->us.of[x], time);
}

static void need_on_host(Gen *gen, Value x, uint32_t time) {
    if (gen->away[x] != NONE && gen->g->version.p[gen->away[x]].mem == MEM_HOST) return;
    need(gen, x, time);
    send_away(gen, x, MEM_HOST);
}

/* ---- what a choice does when a unit has run ---- */

static void end_gaps(Gen *gen, uint32_t time) {
    const Problem *p = gen->p;
    for (uint32_t i = p->gap_start[time]; i; i = p->gap_next[i - 1]) {
        const Option *o = chosen(gen, i - 1);
        Value v = p->subject.p[i - 1].v;
        if (!o || gen->device[v] == NONE) continue;
        if (o->how == HOW_MOVE_HOST && gen->away[v] == NONE) send_away(gen, v, MEM_HOST);
        if (o->how == HOW_MOVE_DISK && gen->away[v] == NONE) send_away(gen, v, MEM_DISK);
        gen->device[v] = NONE;
    }
}

static Mem home_of(const Option *o) { return o->how == HOW_LIVE_DISK ? MEM_DISK : MEM_HOST; }

/* The leaf's option, if its bytes are not at home on the device. */
static const Option *away_option(const Gen *gen, Value leaf) {
    const Option *o = chosen(gen, gen->p->param_of[leaf]);
    if (!o) return NULL;
    return o->states_only && !gen->p->leaf.p[gen->p->leaf_of[leaf]].state ? NULL : o;
}

/* A leaf that is fetched for its uses was used at `time`; x is what its bytes are now. */
static void leaf_used(Gen *gen, Value leaf, Value x, uint32_t time) {
    const Problem *p = gen->p;
    const Leaf *l = &p->leaf.p[p->leaf_of[leaf]];
    const Option *o = away_option(gen, leaf);
    if (!o || gen->device[x] == NONE) return;
    uint32_t i = 0;
    while (i < l->nuse && p->use.p[l->use + i] <= time) i++;
    bool final = i == l->nuse;
    if (final && x == l->update) send_away(gen, x, home_of(o));
    uint32_t next = final ? p->end : p->use.p[l->use + i];
    bool host_next = o->how == HOW_UPDATE_HOST && next == l->updated;
    if (host_next) next = p->end;
    bool again = !(l->updated && time >= l->updated) && next - time >= o->gap;
    if (final || again || host_next) gen->device[x] = NONE;
}

static void after_run(Gen *gen, uint32_t u, uint32_t time) {
    const Unit *unit = &gen->p->us.unit[u];
    for (uint32_t i = 0; i < unit->nread; i++) {
        Value leaf = gen->p->behind[unit->read[i]];
        if (leaf != NO_VALUE) leaf_used(gen, leaf, unit->read[i], time);
    }
    for (uint32_t i = 0; i < unit->nwrite; i++) {
        Value leaf = gen->p->behind[unit->write[i]];
        if (leaf != NO_VALUE) leaf_used(gen, leaf, unit->write[i], time);
    }
    end_gaps(gen, time);
}

/* ---- the walk ---- */

static void start_leaves(Gen *gen) {
    const Problem *p = gen->p;
    for (uint32_t i = 0; i < p->store.n; i++) {
        Value v = p->store.p[i];
        const Option *o = away_option(gen, v);
        uint32_t x = add_version(gen, v, o ? home_of(o) : MEM_DEVICE, false);
        gen->g->version.p[x].fixed = true;
        gen->g->at_home[v] = !o;
        gen->g->home[v] = x;
        *(o ? &gen->away[v] : &gen->device[v]) = x;
    }
}

/* Sends the operands of unit u to the host. */
static void begin_on_host(Gen *gen, uint32_t u, uint32_t time) {
    const Unit *unit = &gen->p->us.unit[u];
    uint32_t first = gen->g->move.n;
    for (uint32_t i = 0; i < unit->nread; i++) need_on_host(gen, unit->read[i], time);
    Pending d = {u, time, first, gen->g->move.n - first, gen->lane};
    vec_push(&gen->pending, d);
}

/* Runs on the host what has arrived by now, or everything. */
static void run_pending(Gen *gen, bool all) {
    while (gen->npending < gen->pending.n) {
        const Pending *d = &gen->pending.p[gen->npending];
        if (!all && d->when > gen->clock) return;
        for (uint32_t i = 0; i < d->moves; i++)
            gen->g->move.p[d->first_move + i].most = gen->g->run.n;
        add_run(gen, RUN_HOST, d->unit, d->time);
        gen->npending++;
    }
}

static void walk(Gen *gen) {
    const Problem *p = gen->p;
    for (uint32_t t = 1; t < p->end; t++) {
        uint32_t u = p->at[t];
        const Unit *unit = &p->us.unit[u];
        if (on_host(gen, u)) {
            begin_on_host(gen, u, t);
            end_gaps(gen, t);
            continue;
        }
        run_pending(gen, false);
        for (uint32_t i = 0; i < unit->nread; i++) need(gen, unit->read[i], t);
        add_run(gen, RUN_UNIT, u, t);
        after_run(gen, u, t);
    }
    run_pending(gen, true);
    vec_free(&gen->pending);
}

/* Marks the versions that runs and effects read. */
static void find_read(const Gen *gen, bool *read) {
    const Program *g = gen->g;
    for (uint32_t i = 0; i < g->run.n; i++)
        for (uint32_t k = 0; k < gen->p->us.unit[g->run.p[i].unit].nread; k++)
            read[g->link.p[g->run.p[i].read + k]] = true;
    for (uint32_t i = 0; i < gen->p->kept.n; i++) {
        Value v = gen->p->kept.p[i];
        if (gen->device[v] != NONE) read[gen->device[v]] = true;
        if (gen->away[v] != NONE) read[gen->away[v]] = true;
    }
}

/* A value may have come back by itself, with another that was computed again: then nobody reads
 * its copy. */
static void drop_unread_moves(Gen *gen) {
    Program *g = gen->g;
    uint32_t kept = g->move.n;
    g->read = xcalloc((size_t)g->version.n + 1, sizeof *g->read);
    find_read(gen, g->read);
    for (uint32_t i = g->move.n; i-- > 0;)
        if (g->read[g->move.p[i].to]) {
            g->read[g->move.p[i].from] = true;
            g->move.p[--kept] = g->move.p[i];
        }
    g->move.n -= kept;
    if (kept) memmove(g->move.p, g->move.p + kept, g->move.n * sizeof *g->move.p);
    for (uint32_t i = 0; i < g->version.n; i++) /* no bytes either */
        if (!g->read[i] && !g->version.p[i].fixed && g->version.p[i].mem != MEM_DEVICE)
            g->version.p[i].place = PLACE_LEAF;
}

/* What lives to the end: leaves, and what effects read. */
static void finish(Gen *gen) {
    Program *g = gen->g;
    uint32_t end = g->run.n;
    for (uint32_t i = 0; i < gen->p->kept.n; i++) {
        Value v = gen->p->kept.p[i];
        uint32_t x = gen->device[v] != NONE ? gen->device[v] : gen->away[v];
        if (x != NONE) g->version.p[x].death = end;
    }
    for (uint32_t i = 0; i < g->version.n; i++)
        if (g->version.p[i].fixed) g->version.p[i].birth = 0, g->version.p[i].death = end;
    for (uint32_t i = 0; i < g->run.n; i++) {
        const Run *r = &g->run.p[i];
        if (r->kind == RUN_HOST)
            g->us[STREAM_HOST] += gen->p->host[r->unit];
        else
            g->us[gen->p->stream[r->unit]] += gen->p->price[r->unit];
    }
    for (uint32_t i = 0; i < g->move.n; i++) g->us[g->move.p[i].stream] += g->move.p[i].us;
}

/* The bytes that the value computed in run i takes over: a leaf's, or those of what dies there. */
static Place place_of(const Problem *p, const Program *g, uint32_t i, const Version *x) {
    const Run *r = &g->run.p[i];
    const Unit *unit = &p->us.unit[r->unit];
    Value over = p->over[x->v], leaf = p->target[x->v];
    if (over == NO_VALUE) return PLACE_OWN;
    if (r->kind == RUN_HOST) return leaf != NO_VALUE ? PLACE_LEAF : PLACE_OWN;
    if (over == leaf && g->at_home[leaf]) return PLACE_LEAF;
    for (uint32_t j = 0; j < unit->nread; j++) {
        const Version *y = &g->version.p[g->link.p[r->read + j]];
        if (unit->read[j] == over && !y->fixed && y->death == i) return PLACE_NEXT;
    }
    return PLACE_OWN;
}

static void find_versions_places(const Problem *p, Program *g) {
    for (uint32_t i = 0; i < g->run.n; i++) {
        const Run *r = &g->run.p[i];
        for (uint32_t k = 0; k < p->us.unit[r->unit].nwrite; k++) {
            Version *x = &g->version.p[g->link.p[r->write + k]];
            x->place = place_of(p, g, i, x);
        }
    }
    for (uint32_t i = 0; i < g->move.n; i++) { /* a new value goes back into its leaf */
        Version *x = &g->version.p[g->move.p[i].to];
        Value leaf = p->target[x->v];
        bool away = x->mem != MEM_DEVICE && leaf != NO_VALUE && !g->at_home[leaf];
        if (away) x->place = PLACE_LEAF;
    }
}

void program_live(const Problem *p, Program *g) {
    uint32_t n = g->run.n + 2;
    for (int m = 0; m < MEM_COUNT; m++) {
        memset(g->live[m], 0, n * sizeof *g->live[m]);
        g->peak[m] = 0;
    }
    for (uint32_t i = 0; i < g->version.n; i++) {
        const Version *x = &g->version.p[i];
        uint32_t birth = x->birth + (x->place == PLACE_NEXT);
        int64_t bytes = p->size[x->v];
        if (x->place == PLACE_LEAF) continue;
        if (birth > x->death) continue;
        g->live[x->mem][birth] += bytes;
        g->live[x->mem][x->death + 1] -= bytes;
    }
    for (int m = 0; m < MEM_COUNT; m++)
        for (uint32_t i = 0; i < g->run.n + 1; i++) {
            if (i) g->live[m][i] += g->live[m][i - 1];
            if (g->live[m][i] <= g->peak[m]) continue;
            g->peak[m] = g->live[m][i];
            if (m == MEM_DEVICE) g->peak_run = i;
        }
}

void program_make(const Problem *p, const Choice choice, Program *out) {
    uint32_t n = p->g->node.n;
    memset(out, 0, sizeof *out);
    Gen gen = {.p = p, .choice = choice, .g = out};
    gen.device = out->device = xcalloc(n + 1, sizeof *out->device);
    gen.away = out->away = xcalloc(n + 1, sizeof *out->away);
    out->at_home = xcalloc(n + 1, sizeof *out->at_home);
    out->home = xcalloc(n + 1, sizeof *out->home);
    memset(gen.device, 0xff, n * sizeof *gen.device);
    memset(gen.away, 0xff, n * sizeof *gen.away);
    start_leaves(&gen);
    walk(&gen);
    drop_unread_moves(&gen);
    finish(&gen);
    find_versions_places(p, out);
    for (int m = 0; m < MEM_COUNT; m++)
        out->live[m] = xcalloc((size_t)out->run.n + 3, sizeof *out->live[m]);
    program_live(p, out);
}

void program_free(Program *g) {
    vec_free(&g->run);
    vec_free(&g->version);
    vec_free(&g->move);
    vec_free(&g->link);
    free(g->device);
    free(g->away);
    free(g->at_home);
    free(g->home);
    free(g->read);
    for (int m = 0; m < MEM_COUNT; m++) free(g->live[m]);
}

void program_agenda(const Program *g, Agenda *agenda, Arena *a) {
    for (int k = 0; k < 2; k++) {
        agenda->first[k] = arena_array(a, uint32_t, g->run.n + 2);
        agenda->next[k] = arena_array(a, uint32_t, g->move.n + 1);
        for (uint32_t i = g->move.n; i-- > 0;) {
            uint32_t at = k ? g->move.p[i].done : g->move.p[i].start;
            agenda->next[k][i] = agenda->first[k][at];
            agenda->first[k][at] = i + 1;
        }
    }
}
