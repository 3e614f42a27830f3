/* main_model.h: what compile, dump and opt share: from a model's text to a graph after passes. */
#ifndef M6C_MAIN_MODEL_H
#define M6C_MAIN_MODEL_H

#include "frontend/main.h"
#include "passes/memory.h"
#include "passes/passes.h"

typedef struct {
    const char *path;
    TextList set;       /* "name=value" */
    bool infer;         /* forward only */
    bool grads;         /* gradients are outputs */
    int64_t stage;      /* of a pipeline, or of classes of shares: whose part the graph becomes */
    Graph **shared;     /* NULL, or where the graph that all of them are made from is kept between
                           calls that differ in `stage` alone; NULL at first, the caller frees it */
    bool describe;      /* also what cannot be compiled yet: for dumps */
    const char *name;   /* which model of the file; NULL: the only one */
    const char *target; /* NULL: cpu */
    const char *precision, *mesh, *memory, *host_memory, *disk, *cluster, *checkpoint, *offload;
    const char *all_to_all, *chunks, *zero, *micros, *shares;
    PassOptions pass;
} ModelArgs;

/* Rows of an option table. */
#define MODEL_OPTIONS(m)                                                                           \
    {"set", OPT_LIST, &(m).set, "NAME=VALUE", "a config of the model (repeatable)"},               \
        {"infer", OPT_FLAG, &(m).infer, NULL, "forward only"},                                     \
        {"target", OPT_TEXT, &(m).target, "NAME",                                                  \
         "cpu, null, cuda (the GPU present), sm_80, … (cpu)"},                                     \
        {"model", OPT_TEXT, &(m).name, "NAME", "which model of the file"},                         \
        {"grads", OPT_FLAG, &(m).grads, NULL, "keep gradients, for run --grads"},                  \
        {"precision", OPT_TEXT, &(m).precision, "TYPE", "f32, bf16 or f16"},                       \
        {"mesh", OPT_TEXT, &(m).mesh, "AXIS=N,…", "how many ranks share the work"},                \
        {"shares", OPT_TEXT, &(m).shares, "N,N,…", "of the ranks of data in the batch (equal)"},   \
        {"memory", OPT_TEXT, &(m).memory, "SIZE", "budget of the device's memory"},                \
        {"host-memory", OPT_TEXT, &(m).host_memory, "SIZE", "budget of the host's memory"},        \
        {"disk", OPT_TEXT, &(m).disk, "DIR:SIZE", "budget of a folder on a disk"},                 \
        {"checkpoint", OPT_TEXT, &(m).checkpoint, "HOW",                                           \
         "what is computed again: auto, none, all, sqrt, or scopes (auto)"},                       \
        {"offload", OPT_TEXT, &(m).offload, "HOW",                                                 \
         "what lives elsewhere: auto, none, all, epl, optimizer, or scopes (auto)"},               \
        {"all-to-all", OPT_TEXT, &(m).all_to_all, "HOW",                                           \
         "auto, flat, grouped, or first among N neighbours (auto)"},                               \
        {"chunks", OPT_TEXT, &(m).chunks, "N", "pieces of an all_to_all; 0: as it pays (0)"},      \
        {"zero", OPT_TEXT, &(m).zero, "0|1", "1: the optimizer's state is split over replicas"},   \
        {"micro-batches", OPT_TEXT, &(m).micros, "N", "the batch in so many parts (1)"},           \
        {"cluster", OPT_TEXT, &(m).cluster, "FILE", "the machine the plan is for"}, {              \
        "skip", OPT_TEXT, &(m).pass.skip, "PASS,…", "optional passes to leave out"                 \
    }

/* Loads and elaborates. NULL after diagnostics. */
Graph *model_elaborate(Session *s, const ModelArgs *a);
/* Loads, elaborates and runs the passes named. NULL after diagnostics. With `memory` a model that
 * does not fit its budgets is no error: the graph is then the smallest plan found. */
Graph *model_graph(Session *s, const ModelArgs *a, const char *passes, MemoryReport *memory);
/* What model_graph would report. */
bool model_memory(Session *s, const ModelArgs *a, MemoryReport *memory);

#endif
